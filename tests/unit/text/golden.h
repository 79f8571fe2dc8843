/* What the tests of this folder share: golden JSON files, and the tiny tokenizer. */
#ifndef RLF_TESTS_UNIT_TEXT_GOLDEN_H
#define RLF_TESTS_UNIT_TEXT_GOLDEN_H

#include "tests/test.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer.h"

#define KNOWN_TEMPLATES "chatml, llama3.1, llama3.2, qwen2.5, qwen2.5-base, qwen3, qwen3-instruct, qwen3-instruct-plain, qwen3-thinking"

static inline json_t *golden(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", RLF_GOLDEN, name);
    json_error_t error;
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!root) fail_msg("%s: %s", path, error.text);
    return root;
}

static inline rlf_tokenizer *tiny_tokenizer(void) {
    rlf_str json = {0};
    rlf_tokenizer *tokenizer = NULL;
    assert_ok(rlf_str_read_file(&json, RLF_GOLDEN "/text_tiny_tokenizer.json", 1 << 20));
    assert_ok(rlf_tokenizer_parse(&tokenizer, json.ptr, json.len, "tiny"));
    rlf_str_clean_up(&json);
    return tokenizer;
}

static inline const char *text_of(const json_t *object, const char *key) { return json_string_value(json_object_get(object, key)); }

#endif
