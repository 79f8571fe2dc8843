/* Reading JSON (json.h): a text with a number out of range is read again with its large integers written as reals. */
#include "common/base/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

static size_t end_of_string(const char *text, size_t at, size_t n) {
    for (at++; at < n && text[at] != '"'; at++)
        if (text[at] == '\\') at++;
    return at < n ? at + 1 : n;
}

/* 18446744073709551615 becomes 184467440737095516e2: as long as before, so that positions stay. A double has 17 digits. */
static void widen(char *number, size_t n) {
    errno = 0;
    if (strspn(number, "-0123456789") < n || (strtoll(number, NULL, 10), errno != ERANGE)) return;
    memcpy(number + n - 2, "e2", 2);
}

static void widen_integers(char *text, size_t n) {
    for (size_t at = 0; at < n;) {
        size_t length = strspn(text + at, "+-.eE0123456789");
        if (length) widen(text + at, length);
        if (length) at += length;
        else at = text[at] == '"' ? end_of_string(text, at, n) : at + 1;
    }
}

json_t *rlf_json_parse(const char *text, size_t n, size_t flags, json_error_t *error) {
    json_error_t own, *e = error ? error : &own;
    json_t *value = json_loadb(text, n, flags | JSON_ALLOW_NUL, e);
    if (value || json_error_code(e) != json_error_numeric_overflow) return value;
    rlf_str wider = {0};
    rlf_str_append(&wider, text, n);
    widen_integers(wider.ptr, n);
    value = json_loadb(wider.ptr, n, flags | JSON_ALLOW_NUL, e);
    rlf_str_clean_up(&wider);
    return value;
}

rlf_status rlf_json_read_file(const char *path, size_t max_bytes, size_t flags, json_t **out) {
    rlf_str text = {0};
    json_error_t error;
    *out = NULL;
    rlf_status status = rlf_str_read_file(&text, path, max_bytes);
    if (status == RLF_OK) {
        *out = rlf_json_parse(text.ptr ? text.ptr : "", text.len, flags, &error);
        if (!*out) status = RLF_RAISE(INVALID, "%s:%d: %s: %s", path, error.line, rlf_json_problem(&error), error.text);
    }
    rlf_str_clean_up(&text);
    return status;
}

const char *rlf_json_problem(const json_error_t *error) {
    return json_error_code(error) == json_error_numeric_overflow ? "a number out of range" : "not JSON";
}

size_t rlf_json_mark(const char *text, size_t n) { return n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0; }

bool rlf_json_is_text(const json_t *value) {
    return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}
