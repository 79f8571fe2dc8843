/* JSON values as text, exactly as Python's json.dumps(value, ensure_ascii=False) writes them: key order kept, reals in the shortest
 * form that reads back the same. What chat templates put before a model is byte for byte this, and so is what tools are sent and what a
 * model reads of their values. */
#ifndef RLF_COMMON_TEXT_JSON_TEXT_H
#define RLF_COMMON_TEXT_JSON_TEXT_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/mem.h"

typedef enum rlf_json_style {
    RLF_JSON_SPACED,   /* ", " and ": " between, Python's default */
    RLF_JSON_TIGHT,    /* "," and ":" */
    RLF_JSON_SORTED,   /* so, and keys in order of their bytes: equal values are equal texts */
    RLF_JSON_INDENTED, /* an item a line, four spaces a level, as with indent=4 */
} rlf_json_style;

/* Appends. Recursion is as deep as the value: bound it first. */
void rlf_json_write(const json_t *value, rlf_json_style style, rlf_str *out);
/* A text of n bytes as one JSON string; bytes that are not UTF-8 stay as they are. */
void rlf_json_write_text(const char *text, size_t n, rlf_str *out);
/* Whether no more than `levels` arrays and objects are nested. */
bool rlf_json_depth_within(const json_t *value, int levels);

#endif
