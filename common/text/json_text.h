/* JSON values as text, exactly as Python's json.dumps(value, ensure_ascii=False) writes them: key order kept, ", " and ": "
 * between, reals in the shortest form that reads back the same. What chat templates put before a model is byte for byte this.
 * Inside common/text only. */
#ifndef RLF_COMMON_TEXT_JSON_TEXT_H
#define RLF_COMMON_TEXT_JSON_TEXT_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/mem.h"

/* Appends. compact: "," and ":" without spaces. Recursion is as deep as the value: bound it first. */
void rlf_json_write(const json_t *value, bool compact, rlf_str *out);
/* Whether no more than `levels` arrays and objects are nested. */
bool rlf_json_depth_within(const json_t *value, int levels);

#endif
