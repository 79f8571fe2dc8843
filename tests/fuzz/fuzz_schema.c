/* Any JSON as a schema, and any as arguments, one after the other with a NUL between: what a service says its arguments are, and what a model
 * writes. A verdict is reached, and its words are valid UTF-8. */
#include <assert.h>
#include <jansson.h>
#include <stdint.h>
#include <string.h>
#include <utf8proc.h>

#include "toolsvc/schema.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_text(const rlf_str *text) {
    for (utf8proc_ssize_t i = 0, length; i < (utf8proc_ssize_t)text->len; i += length) {
        utf8proc_int32_t c;
        length = utf8proc_iterate((const utf8proc_uint8_t *)text->ptr + i, (utf8proc_ssize_t)text->len - i, &c);
        assert(length > 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const uint8_t *nul = memchr(data, 0, n);
    if (!nul) return 0;
    json_t *schema = json_loadb((const char *)data, (size_t)(nul - data), JSON_DECODE_ANY, NULL);
    json_t *arguments = json_loadb((const char *)nul + 1, n - (size_t)(nul + 1 - data), JSON_DECODE_ANY, NULL);
    rlf_str error = {0};
    if (schema && arguments && toolsvc_schema_valid(schema) == RLF_OK) {
        bool good = toolsvc_schema_check(schema, arguments, "tool", &error);
        assert(good == (error.len == 0));
        check_text(&error);
    }
    rlf_str_clean_up(&error);
    json_decref(schema);
    json_decref(arguments);
    return 0;
}
