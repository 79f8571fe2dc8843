/* Messages by what members they have (jsonrpc.h). */
#include "toolsvc/mcp/jsonrpc.h"

#include <string.h>

#include "common/text/json_text.h"
#include "toolsvc/text.h"

enum { BATCH_MAX = 4096 };

/* ---- reading ----------------------------------------------------------------------------------------------------------------------- */

static bool is_id(const json_t *id) { return json_is_string(id) || json_is_integer(id); }

static bool read_call(const json_t *object, toolsvc_rpc *out) {
    const json_t *id = json_object_get(object, "id"), *params = json_object_get(object, "params");
    if (id && !is_id(id)) return false;
    if (params && !json_is_object(params) && !json_is_array(params)) return false;
    *out = (toolsvc_rpc){.type = id ? TOOLSVC_RPC_REQUEST : TOOLSVC_RPC_NOTIFICATION, .id = id, .number = -1, .params = params,
                         .message = "", .method = json_string_value(json_object_get(object, "method"))};
    return true;
}

/* The id of a failure may be null: its request could not be read. */
static bool read_answer(const json_t *object, toolsvc_rpc *out) {
    const json_t *id = json_object_get(object, "id"), *result = json_object_get(object, "result");
    const json_t *error = json_object_get(object, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    if ((result != NULL) == json_is_object(error) || (id && !is_id(id) && !json_is_null(id))) return false;
    *out = (toolsvc_rpc){.type = result ? TOOLSVC_RPC_RESULT : TOOLSVC_RPC_FAILURE,
                         .number = json_is_integer(id) ? json_integer_value(id) : -1,
                         .result = result, .code = json_integer_value(json_object_get(error, "code")), .message = message ? message : ""};
    return true;
}

static bool read_one(const json_t *object, toolsvc_rpc *out) {
    const char *version = json_string_value(json_object_get(object, "jsonrpc"));
    if (!version || strcmp(version, "2.0") != 0) return false;
    return json_is_string(json_object_get(object, "method")) ? read_call(object, out) : read_answer(object, out);
}

static json_t *parse(const char *text, size_t n) {
    json_t *root = toolsvc_json_parse(text, n, 0, NULL);
    if (root) return root;
    rlf_str clean = {0};
    toolsvc_append_utf8(&clean, text, n);
    if (clean.len != n) root = toolsvc_json_parse(clean.ptr, clean.len, 0, NULL);
    rlf_str_clean_up(&clean);
    return root;
}

bool toolsvc_rpc_read(const char *text, size_t n, toolsvc_rpc_fn *each, void *user) {
    json_t *root = parse(text, n);
    toolsvc_rpc message;
    size_t count = json_is_array(root) ? json_array_size(root) : 1;
    bool good = root && count > 0 && count <= BATCH_MAX, go_on = good;
    for (size_t i = 0; go_on && i < count; i++) {
        if (read_one(json_is_array(root) ? json_array_get(root, i) : root, &message)) go_on = each(user, &message);
        else good = false;
    }
    json_decref(root);
    return good;
}

/* ---- writing ----------------------------------------------------------------------------------------------------------------------- */

/* message is taken over. */
static void put(rlf_str *out, json_t *message, const char *key, json_t *value) {
    if (value) json_object_set_new(message, key, value);
    rlf_json_write(message, RLF_JSON_TIGHT, out);
    json_decref(message);
}

void toolsvc_rpc_put_request(rlf_str *out, int64_t id, const char *method, json_t *params) {
    put(out, json_pack("{s:s, s:I, s:s}", "jsonrpc", "2.0", "id", (json_int_t)id, "method", method), "params", params);
}

void toolsvc_rpc_put_notification(rlf_str *out, const char *method, json_t *params) {
    put(out, json_pack("{s:s, s:s}", "jsonrpc", "2.0", "method", method), "params", params);
}

void toolsvc_rpc_put_result(rlf_str *out, const json_t *id, json_t *result) {
    put(out, json_pack("{s:s, s:o}", "jsonrpc", "2.0", "id", json_deep_copy(id)), "result", result);
}

void toolsvc_rpc_put_failure(rlf_str *out, const json_t *id, int code, const char *message) {
    put(out, json_pack("{s:s, s:o}", "jsonrpc", "2.0", "id", json_deep_copy(id)), "error",
        json_pack("{s:i, s:s}", "code", code, "message", message));
}
