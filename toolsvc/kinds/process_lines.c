/* JSON objects, one a line (process_lines.h). */
#include "toolsvc/kinds/process_lines.h"

#include "common/text/json_text.h"
#include "toolsvc/text.h"

/* ---- requests ------------------------------------------------------------------------------------------------------------------------ */

/* Takes the reference. */
static void put(json_t *value, rlf_str *out) {
    rlf_json_write(value, RLF_JSON_TIGHT, out);
    json_decref(value);
}

void toolsvc_process_describe(uint64_t id, rlf_str *out) {
    put(json_pack("{s:s, s:I}", "op", "describe", "id", (json_int_t)id), out);
}

void toolsvc_process_open(uint64_t episode, const toolsvc_origin *origin, rlf_str *out) {
    json_t *extra = origin->extra.len ? toolsvc_json_parse(origin->extra.ptr, origin->extra.len, JSON_DECODE_ANY, NULL) : NULL;
    if (!extra) extra = json_object();
    put(json_pack("{s:s, s:I, s:I, s:o}", "op", "open", "episode", (json_int_t)episode, "seed", (json_int_t)(origin->seed >> 11),
                  "extra_info", extra), out);
}

void toolsvc_process_close(uint64_t episode, rlf_str *out) {
    put(json_pack("{s:s, s:I}", "op", "close", "episode", (json_int_t)episode), out);
}

void toolsvc_process_cancel(uint64_t id, rlf_str *out) {
    put(json_pack("{s:s, s:I}", "op", "cancel", "id", (json_int_t)id), out);
}

/* The arguments are JSON text already. */
static void put_call(const toolsvc_call *call, uint64_t id, uint64_t episode, rlf_str *out) {
    rlf_str_printf(out, "\"id\":%llu,", (unsigned long long)id);
    if (episode) rlf_str_printf(out, "\"episode\":%llu,", (unsigned long long)episode);
    rlf_str_puts(out, "\"function\":");
    put(json_string(call->function), out);
    rlf_str_puts(out, ",\"arguments\":");
    rlf_str_append(out, call->text.ptr, call->text.len);
    rlf_str_putc(out, '}');
}

void toolsvc_process_call(toolsvc_call *const *calls, size_t n, uint64_t id, uint64_t episode, rlf_str *out) {
    if (n == 1) {
        rlf_str_puts(out, "{\"op\":\"call\",");
        put_call(calls[0], id, episode, out);
        return;
    }
    rlf_str_puts(out, "{\"op\":\"batch\",\"calls\":[");
    for (size_t i = 0; i < n; i++) {
        rlf_str_puts(out, i ? ",{" : "{");
        put_call(calls[i], id + i, episode, out);
    }
    rlf_str_puts(out, "]}");
}

/* ---- answers ------------------------------------------------------------------------------------------------------------------------- */

static bool read_answer(const json_t *value, toolsvc_process_answer *a) {
    static const struct { const char *key; rlf_call_status status; } kinds[] = {
        {"result", RLF_CALL_OK}, {"error", RLF_CALL_TOOL_ERROR}, {"infra_error", RLF_CALL_INFRA}};
    const json_t *id = json_object_get(value, "id");
    size_t found = 0;
    *a = (toolsvc_process_answer){.id = (uint64_t)json_integer_value(id), .functions = json_object_get(value, "functions")};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const json_t *what = json_object_get(value, kinds[i].key);
        if (!what) continue;
        a->value = what;
        a->status = kinds[i].status;
        found++;
    }
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > TOOLSVC_PROCESS_MOST_ID) return false;
    return a->functions ? found == 0 && json_is_array(a->functions) : found == 1;
}

bool toolsvc_process_read(const char *line, size_t n, bool (*each)(void *user, const toolsvc_process_answer *answer), void *user) {
    json_t *root = toolsvc_json_parse(line, n, JSON_REJECT_DUPLICATES, NULL);
    size_t answers = json_is_array(root) ? json_array_size(root) : 1;
    toolsvc_process_answer a;
    bool good = root && answers > 0;
    for (size_t i = 0; good && i < answers; i++) good = read_answer(json_is_array(root) ? json_array_get(root, i) : root, &a);
    for (size_t i = 0; good && i < answers; i++) {
        read_answer(json_is_array(root) ? json_array_get(root, i) : root, &a);
        if (!each(user, &a)) break;
    }
    json_decref(root);
    return good;
}

void toolsvc_process_text(const json_t *value, rlf_str *out) {
    if (json_is_string(value)) rlf_str_append(out, json_string_value(value), json_string_length(value));
    else rlf_json_write(value, RLF_JSON_TIGHT, out);
}
