/* What the tests of this folder share: golden JSON files, and the tiny tokenizer. */
#ifndef RLF_TESTS_UNIT_TEXT_GOLDEN_H
#define RLF_TESTS_UNIT_TEXT_GOLDEN_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer.h"

#define assert_ok(expr)                                                        \
    do {                                                                       \
        if ((expr) != RLF_OK) fail_msg("%s: %s", #expr, rlf_error_message());  \
    } while (0)

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
