/* The tool kind "http": any service that takes arguments and answers in JSON or text.
 *
 * Sent: `method` to `url`, in which {{name}} stands for an argument, percent-encoded; `body` with {{name}} in its texts (a text that is
 * nothing else becomes the argument itself, of whatever type; where the call has no such argument its member is left out) and ${NAME} for a
 * secret, or the arguments as they are. Answered: what `answer`, a JSON pointer, finds, or all of it. A status of 400 to 499 is the tool's answer that
 * something was wrong with the call, and the model reads it; what is the service's own fault is an infra_error. */
#include <stdlib.h>
#include <string.h>

#include "common/text/json_text.h"
#include "toolsvc/http/remote.h"

enum { ERROR_SHOWN = 1000, DEPTH_MAX = 32 };

typedef struct http_tool {
    toolsvc_remote *remote;
    json_t *body; /* the template; NULL: the arguments */
} http_tool;

/* Secrets take their places in the texts of the template, once; what a call fills in is not looked at for them. */
static rlf_status fill_secrets(const toolsvc_remote *remote, json_t *template, int depth) {
    rlf_status status = RLF_OK;
    rlf_str text = {0};
    const char *key;
    json_t *member;
    if (depth > DEPTH_MAX) RLF_FAIL(INVALID, "key \"body\": more than %d levels", (int)DEPTH_MAX);
    if (json_is_string(template)) {
        RLF_TRY(toolsvc_remote_fill(remote, "body", json_string_value(template), &text));
        if (text.ptr && json_string_setn(template, text.ptr, text.len) != 0) RLF_FAIL(INVALID, "key \"body\": a secret is not UTF-8");
    }
    json_object_foreach(template, key, member) RLF_TRY(fill_secrets(remote, member, depth + 1));
    for (size_t i = 0; i < json_array_size(template); i++) RLF_TRY(fill_secrets(remote, json_array_get(template, i), depth + 1));
out:
    rlf_str_clean_up(&text);
    return status;
}

/* The argument named between {{ and }} at `at`, and *end behind it; NULL with *end NULL: no template begins here. */
static const json_t *argument_at(const char *at, const json_t *arguments, const char **end) {
    const char *close = strncmp(at, "{{", 2) == 0 ? strstr(at, "}}") : NULL;
    char name[128];
    *end = NULL;
    if (!close || (size_t)(close - at - 2) >= sizeof name) return NULL;
    memcpy(name, at + 2, (size_t)(close - at - 2));
    name[close - at - 2] = '\0';
    *end = close + 2;
    return json_object_get(arguments, name);
}

/* The properties of the schema; NULL where there may be others than it lists. */
static const json_t *properties_of(const json_t *schema) {
    static const char *const elsewhere[] = {"$ref", "allOf", "anyOf", "oneOf", "patternProperties"};
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
        if (json_object_get(schema, elsewhere[i])) return NULL;
    return json_object_get(schema, "properties");
}

/* A name that no call can give would leave a hole in every request. */
static rlf_status check_names(const char *key, json_t *template, const json_t *properties) {
    rlf_status status = RLF_OK;
    const char *at = json_string_value(template), *end, *member_key;
    json_t *member;
    for (; at && *at; at = end ? end : at + 1)
        if (!argument_at(at, properties, &end) && end)
            RLF_FAIL(INVALID, "key \"%s\": %.*s is not among the properties of key \"schema\"", key, (int)(end - at), at);
    json_object_foreach(template, member_key, member) RLF_TRY(check_names(key, member, properties));
    for (size_t i = 0; i < json_array_size(template); i++) RLF_TRY(check_names(key, json_array_get(template, i), properties));
out:
    return status;
}

static rlf_status check_templates(const rlf_tool_config *config, json_t *body) {
    json_t *schema = rlf_config_json(config->schema), *url = rlf_config_json(config->url);
    const json_t *properties = properties_of(schema);
    rlf_status status = properties ? check_names("url", url, properties) : RLF_OK;
    if (properties && status == RLF_OK) status = check_names("body", body, properties);
    json_decref(schema);
    json_decref(url);
    return status;
}

static rlf_status open_http(const rlf_tool_config *config, uv_loop_t *loop, void **state) {
    http_tool *tool = rlf_calloc(1, sizeof *tool);
    tool->body = rlf_config_json(config->body);
    rlf_status status = toolsvc_remote_open(&tool->remote, config, loop, true);
    if (status == RLF_OK && config->answer && *config->answer && *config->answer != '/')
        status = RLF_RAISE(INVALID, "key \"answer\": a JSON pointer was expected, such as /result/0/text");
    if (status == RLF_OK) status = fill_secrets(tool->remote, tool->body, 0); /* which bounds its depth */
    if (status == RLF_OK) status = check_templates(config, tool->body);
    if (status != RLF_OK) {
        if (tool->remote) toolsvc_remote_close(tool->remote);
        json_decref(tool->body);
        free(tool);
        return status;
    }
    *state = tool;
    return RLF_OK;
}

static void close_http(void *state) {
    http_tool *tool = state;
    toolsvc_remote_close(tool->remote);
    json_decref(tool->body);
    free(tool);
}

/* ---- templates ---------------------------------------------------------------------------------------------------------------------- */

static void put_plain(const char *text, size_t n, rlf_str *out) { rlf_str_append(out, text, n); }

static void put_encoded(const char *text, size_t n, rlf_str *out) {
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~";
    for (size_t i = 0; i < n; i++) {
        if (text[i] && strchr(safe, text[i])) rlf_str_putc(out, text[i]);
        else rlf_str_printf(out, "%%%02X", (unsigned char)text[i]);
    }
}

/* Text arguments as they are, others as JSON. */
static void fill_in(const char *text, const json_t *arguments, void (*put)(const char *text, size_t n, rlf_str *out), rlf_str *out) {
    while (*text) {
        const char *end;
        const json_t *value = argument_at(text, arguments, &end);
        if (!end) {
            rlf_str_putc(out, *text++);
            continue;
        }
        text = end;
        if (json_is_string(value)) put(json_string_value(value), json_string_length(value), out);
        else if (value) {
            rlf_str json = {0};
            rlf_json_write(value, RLF_JSON_TIGHT, &json);
            put(json.ptr, json.len, out);
            rlf_str_clean_up(&json);
        }
    }
}

static void make_url(const void *user, const char *replica, rlf_str *out) {
    const toolsvc_call *call = user;
    fill_in(replica, call->arguments, put_encoded, out);
}

static json_t *expand_text(const char *text, const json_t *arguments) {
    const char *end;
    const json_t *value = argument_at(text, arguments, &end);
    if (end && !*end) return json_deep_copy(value); /* NULL: no such argument */
    rlf_str filled = {0};
    fill_in(text, arguments, put_plain, &filled);
    json_t *string = json_stringn(filled.ptr ? filled.ptr : "", filled.len);
    rlf_str_clean_up(&filled);
    return string;
}

static json_t *expand(json_t *template, const json_t *arguments, int depth) {
    if (depth > DEPTH_MAX) return NULL;
    if (json_is_string(template)) return expand_text(json_string_value(template), arguments);
    if (!json_is_object(template) && !json_is_array(template)) return json_deep_copy(template);
    json_t *out = json_is_object(template) ? json_object() : json_array(), *member;
    const char *key;
    json_object_foreach(template, key, member) {
        json_t *value = expand(member, arguments, depth + 1);
        if (value) json_object_set_new(out, key, value);
    }
    for (size_t i = 0; i < json_array_size(template); i++) {
        json_t *value = expand(json_array_get(template, i), arguments, depth + 1);
        if (value) json_array_append_new(out, value);
    }
    return out;
}

/* ---- answers ------------------------------------------------------------------------------------------------------------------------ */

/* RFC 6901; NULL: there is nothing. */
static const json_t *point(const json_t *value, const char *pointer) {
    while (value && *pointer == '/') {
        char token[256];
        size_t n = 0;
        for (pointer++; *pointer && *pointer != '/' && n + 1 < sizeof token; pointer++) {
            bool escape = pointer[0] == '~' && (pointer[1] == '0' || pointer[1] == '1');
            token[n++] = !escape ? *pointer : *++pointer == '0' ? '~' : '/';
        }
        token[n] = '\0';
        bool number = n > 0 && n < 9 && strspn(token, "0123456789") == n;
        if (json_is_array(value)) value = number ? json_array_get(value, (size_t)strtoul(token, NULL, 10)) : NULL;
        else value = json_object_get(value, token);
    }
    return value;
}

static void finish_text(toolsvc_call *call, const char *text, size_t n) {
    const http_tool *tool = call->state;
    rlf_str clean = {0};
    toolsvc_remote_blot(tool->remote, text, n, &clean);
    toolsvc_call_finish(call, RLF_CALL_OK, clean.ptr, clean.len);
    rlf_str_clean_up(&clean);
}

static void finish_infra(toolsvc_call *call, const char *count, const char *why) {
    toolsvc_call_count(call, count);
    toolsvc_call_finish(call, RLF_CALL_INFRA, why, strlen(why));
}

static void finish_pointed(toolsvc_call *call, rlf_slice body) {
    const char *count, *why;
    json_t *root = toolsvc_remote_json(body, &count, &why);
    const json_t *value = point(root, call->config->answer);
    if (!root) {
        finish_infra(call, count, why);
    } else if (!value) {
        finish_infra(call, "invalid_answer", "the service's answer lacks what key \"answer\" points to");
    } else if (json_is_string(value)) {
        finish_text(call, json_string_value(value), json_string_length(value));
    } else {
        rlf_str text = {0};
        rlf_json_write(value, RLF_JSON_TIGHT, &text);
        finish_text(call, text.ptr, text.len);
        rlf_str_clean_up(&text);
    }
    json_decref(root);
}

static void finish_refused(toolsvc_call *call, const toolsvc_http_answer *answer) {
    const http_tool *tool = call->state;
    rlf_str text = {0}, clean = {0};
    toolsvc_call_count(call, "http_4xx");
    toolsvc_remote_blot(tool->remote, answer->body.ptr, answer->body.len, &clean); /* before the cut, which might go through a secret */
    rlf_str_printf(&text, "the service answered with status %ld: ", answer->code);
    rlf_str_append(&text, clean.ptr ? clean.ptr : "", clean.len > ERROR_SHOWN ? ERROR_SHOWN : clean.len);
    toolsvc_call_finish(call, RLF_CALL_TOOL_ERROR, text.ptr, text.len);
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&clean);
}

static void on_answer(void *user, const toolsvc_http_answer *answer) {
    toolsvc_call *call = user;
    const char *count = NULL;
    rlf_str why = {0};
    if (toolsvc_remote_failed(answer, &count, &why)) finish_infra(call, count, why.ptr);
    else if (answer->code / 100 != 2) finish_refused(call, answer);
    else if (call->config->answer && *call->config->answer) finish_pointed(call, answer->body);
    else finish_text(call, answer->body.ptr, answer->body.len);
    rlf_str_clean_up(&why);
}

/* ---- calls -------------------------------------------------------------------------------------------------------------------------- */

static void start_http(toolsvc_call *const *calls, size_t n) {
    toolsvc_call *call = calls[0];
    const http_tool *tool = call->state;
    json_t *body = tool->body ? expand(tool->body, call->arguments, 0) : NULL;
    rlf_str text = {0};
    (void)n; /* 1: this kind takes no batches */
    if (body) rlf_json_write(body, RLF_JSON_TIGHT, &text);
    call->data = toolsvc_remote_send(tool->remote, call->config->method, body ? (rlf_slice){text.ptr, text.len} : call->text,
                                     make_url, call, on_answer, call);
    rlf_str_clean_up(&text);
    json_decref(body);
}

static void cancel_http(toolsvc_call *call) {
    toolsvc_remote_cancel(call->data);
    toolsvc_call_finish(call, RLF_CALL_INFRA, "", 0);
}

const toolsvc_kind toolsvc_kind_http = {.name = "http",
                                        .description = "A service.",
                                        .open = open_http,
                                        .close = close_http,
                                        .start = start_http,
                                        .cancel = cancel_http};
