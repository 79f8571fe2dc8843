/* Private to common/config: the one table of keys, from which reading, overrides, suggestions, the dump and the reference are made.
 *
 * A key is a dotted name, a type, where its value lies, and what is allowed. Keys of one group stand together in the table, in the order
 * in which the dump prints them. Keys of a tool are a second table, relative to rlf_tool_config. */
#ifndef RLF_COMMON_CONFIG_KEYS_H
#define RLF_COMMON_CONFIG_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <yaml.h>

#include "common/base/mem.h"
#include "common/config/config.h"

/* JSON: any YAML value, kept as compact JSON text, "" if not set. A quoted scalar that is the whole value and itself JSON text ({…}, […] or
 * "…") is taken as that, which is how the dump writes it; inside lists and maps a quoted scalar is a text. */
typedef enum rlf_key_type { RLF_KEY_INT, RLF_KEY_REAL, RLF_KEY_BOOL, RLF_KEY_TEXT, RLF_KEY_JSON } rlf_key_type;

typedef struct rlf_key {
    const char *name;     /* "train.steps"; of a tool: "latency.median_ms" */
    rlf_key_type type;    /* int64_t, double, bool, or char * owned by the config (text and JSON) */
    size_t offset;        /* of the value in rlf_config or rlf_tool_config */
    const char *unit;     /* "tokens"; "" if none */
    const char *fallback; /* the default as it would be written in the file */
    double min, max;      /* numbers: both ends included; unused for text */
    const char *choices;  /* text: "rl|sft|eval"; NULL: any text */
    const char *meaning;  /* one line */
} rlf_key;

extern const rlf_key rlf_config_keys[];
extern const size_t rlf_config_key_count;
extern const rlf_key rlf_tool_keys[];
extern const size_t rlf_tool_key_count;

/* Sets the value in `base` (rlf_config or rlf_tool_config) from the scalar `text`; false if it is not what rlf_key_expected says, and then
 * nothing is changed. quoted: the scalar was written in quotes, and so is text. A text value replaces, and frees, the former one. */
bool rlf_key_set(const rlf_key *key, void *base, const char *text, size_t n, bool quoted);
/* Sets a JSON key from any node of a document; false: nested too deep, a map with a key twice or one that is no scalar. */
bool rlf_key_set_node(const rlf_key *key, void *base, yaml_document_t *document, const yaml_node_t *node);
/* Appends the value as a YAML scalar on one line that reads back to the same value. */
void rlf_key_print(const rlf_key *key, const void *base, rlf_str *out);
/* Appends what may stand there: "an integer from 1 to 1024", "one of rl, sft, eval". */
void rlf_key_expected(const rlf_key *key, rlf_str *out);
/* Appends `value` in the fewest digits that read back to it. */
void rlf_real_print(double value, rlf_str *out);
/* NULL if no key has that name. */
const rlf_key *rlf_key_find(const rlf_key *keys, size_t count, const char *name);

/* Where each value came from, for the messages of rules between keys. */
typedef struct rlf_config_origin {
    const char *label;     /* of the file */
    const int *lines;      /* per key of rlf_config_keys: its line, 0: the default, -1: the command line */
    const int *tool_lines; /* per tool, likewise */
} rlf_config_origin;

/* The rules between keys: what is required in which mode, and limits that depend on each other (check.c). */
rlf_status rlf_config_check(const rlf_config *config, const rlf_config_origin *origin) RLF_MUST_USE;

#endif
