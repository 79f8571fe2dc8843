/* Content blocks by their type (mcp_content.h). */
#include "toolsvc/mcp/mcp_content.h"

#include <string.h>

#include "common/text/json_text.h"

enum { NAME_SHOWN = 64, URI_SHOWN = 500 };

static const char *text_of(const json_t *object, const char *key, const char *fallback) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : fallback;
}

/* What base64 text stands for, in bytes. */
static size_t base64_bytes(const json_t *data) {
    const char *text = json_string_value(data);
    size_t n = json_string_length(data);
    while (n > 0 && text[n - 1] == '=') n--;
    return n / 4 * 3 + n % 4 * 3 / 4;
}

static void put_data(const char *type, const json_t *block, rlf_str *out) {
    rlf_str_printf(out, "[%s: %.*s, %zu bytes]", type, NAME_SHOWN, text_of(block, "mimeType", "unknown"),
                   base64_bytes(json_object_get(block, "data")));
}

static void put_resource(const json_t *resource, rlf_str *out) {
    const json_t *text = json_object_get(resource, "text");
    if (json_is_string(text)) rlf_str_append(out, json_string_value(text), json_string_length(text));
    else rlf_str_printf(out, "[resource: %.*s, %zu bytes]", URI_SHOWN, text_of(resource, "uri", "unknown"),
                        base64_bytes(json_object_get(resource, "blob")));
}

static void put_block(const json_t *block, rlf_str *out) {
    const char *type = text_of(block, "type", "unknown");
    const json_t *text = json_object_get(block, "text");
    if (strcmp(type, "text") == 0) rlf_str_append(out, json_is_string(text) ? json_string_value(text) : "", json_string_length(text));
    else if (strcmp(type, "image") == 0 || strcmp(type, "audio") == 0) put_data(type, block, out);
    else if (strcmp(type, "resource") == 0) put_resource(json_object_get(block, "resource"), out);
    else if (strcmp(type, "resource_link") == 0) rlf_str_printf(out, "[resource: %.*s]", URI_SHOWN, text_of(block, "uri", "unknown"));
    else rlf_str_printf(out, "[%.*s]", NAME_SHOWN, type);
}

rlf_call_status toolsvc_mcp_content(const json_t *result, rlf_str *out) {
    const json_t *content = json_object_get(result, "content"), *structured = json_object_get(result, "structuredContent");
    if (!json_is_array(content) && !structured) return RLF_CALL_INFRA;
    for (size_t i = 0; i < json_array_size(content); i++) {
        if (i) rlf_str_putc(out, '\n');
        put_block(json_array_get(content, i), out);
    }
    if (json_array_size(content) == 0 && structured) rlf_json_write(structured, RLF_JSON_TIGHT, out);
    return json_is_true(json_object_get(result, "isError")) ? RLF_CALL_TOOL_ERROR : RLF_CALL_OK;
}
