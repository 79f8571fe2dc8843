/* Names to values, and values to "[secret]" (secrets.h). */
#include "toolsvc/secrets.h"

#include <stdlib.h>
#include <string.h>

#include "common/config/config.h"

enum { SHORTEST = 8 };

rlf_status toolsvc_secrets_init(toolsvc_secrets *s, const char *names) {
    *s = (toolsvc_secrets){.names = rlf_config_json(names)};
    if (s->names && !json_is_array(s->names))
        return RLF_RAISE(INVALID, "key \"secrets\": a list of names of environment variables was expected");
    for (size_t i = 0; i < json_array_size(s->names); i++) {
        const char *name = json_string_value(json_array_get(s->names, i)), *value = name ? getenv(name) : NULL;
        if (!value) return RLF_RAISE(INVALID, "key \"secrets\": the environment has no variable %.100s", name ? name : "(not a text)");
        toolsvc_secrets_add(s, value);
    }
    return RLF_OK;
}

void toolsvc_secrets_clean_up(toolsvc_secrets *s) {
    for (size_t i = 0; i < s->n; i++) free(s->v[i]);
    free(s->v);
    json_decref(s->names);
    *s = (toolsvc_secrets){0};
}

static void add_form(toolsvc_secrets *s, const char *form, size_t n) {
    for (size_t i = 0; i < s->n; i++)
        if (strlen(s->v[i]) == n && memcmp(s->v[i], form, n) == 0) return;
    s->v = rlf_grow(s->v, s->n, &s->cap, sizeof *s->v);
    s->v[s->n] = rlf_calloc(n + 1, 1);
    memcpy(s->v[s->n++], form, n);
}

/* Between the quotes of a JSON text. */
static void add_json(toolsvc_secrets *s, const char *value, size_t flags) {
    json_t *string = json_string(value);
    char *text = string ? json_dumps(string, JSON_ENCODE_ANY | flags) : NULL;
    if (text) add_form(s, text + 1, strlen(text) - 2);
    free(text);
    json_decref(string);
}

static void add_percent(toolsvc_secrets *s, const char *value, const char *format) {
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~";
    rlf_str out = {0};
    for (const char *at = value; *at; at++) {
        if (strchr(safe, *at)) rlf_str_putc(&out, *at);
        else rlf_str_printf(&out, format, (unsigned)(unsigned char)*at);
    }
    add_form(s, out.ptr, out.len);
    rlf_str_clean_up(&out);
}

void toolsvc_secrets_add(toolsvc_secrets *s, const char *value) {
    if (strlen(value) < SHORTEST) return;
    add_form(s, value, strlen(value));
    for (int i = 0; i < 4; i++) add_json(s, value, (i & 1 ? JSON_ENSURE_ASCII : 0) | (i & 2 ? JSON_ESCAPE_SLASH : 0));
    add_percent(s, value, "%%%02X");
    add_percent(s, value, "%%%02x");
}

static bool is_listed(const json_t *names, const char *name, size_t n) {
    for (size_t i = 0; i < json_array_size(names); i++) {
        const json_t *listed = json_array_get(names, i);
        if (json_string_length(listed) == n && strncmp(json_string_value(listed), name, n) == 0) return true;
    }
    return false;
}

rlf_status toolsvc_secrets_fill(const toolsvc_secrets *s, const char *key, const char *text, rlf_str *out) {
    for (const char *at = text; *at;) {
        const char *end = strncmp(at, "${", 2) == 0 ? strchr(at, '}') : NULL;
        if (!end) {
            rlf_str_putc(out, *at++);
            continue;
        }
        char name[128];
        size_t n = (size_t)(end - at - 2);
        if (n >= sizeof name || !is_listed(s->names, at + 2, n))
            return RLF_RAISE(INVALID, "key \"%s\": ${%.*s} is not in the list of key \"secrets\"", key, n > 100 ? 100 : (int)n, at + 2);
        memcpy(name, at + 2, n);
        name[n] = '\0';
        const char *value = getenv(name);
        if (!value || strpbrk(value, "\r\n")) return RLF_RAISE(INVALID, "key \"secrets\": the environment has no usable variable %s", name);
        rlf_str_puts(out, value);
        at = end + 1;
    }
    return RLF_OK;
}

void toolsvc_secrets_blot(const toolsvc_secrets *s, const char *bytes, size_t n, rlf_str *out) {
    for (size_t i = 0; i < n;) {
        size_t skip = 0;
        for (size_t k = 0; k < s->n; k++) { /* the longest of those that begin here */
            size_t len = bytes[i] == s->v[k][0] ? strlen(s->v[k]) : 0;
            if (len > skip && n - i >= len && memcmp(bytes + i, s->v[k], len) == 0) skip = len;
        }
        if (skip) rlf_str_puts(out, "[secret]");
        else rlf_str_append(out, bytes + i, 1);
        i += skip ? skip : 1;
    }
}
