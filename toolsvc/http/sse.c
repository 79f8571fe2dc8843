/* Bytes to lines to events (sse.h). */
#include "toolsvc/http/sse.h"

#include <stdlib.h>
#include <string.h>

enum { RETRY_DIGITS = 9 };

typedef enum outcome { GO_ON, TOO_LARGE, STOPPED } outcome;

void toolsvc_sse_clean_up(toolsvc_sse *s) {
    rlf_str_clean_up(&s->line);
    rlf_str_clean_up(&s->type);
    rlf_str_clean_up(&s->data);
    rlf_str_clean_up(&s->id);
    rlf_str_clean_up(&s->next_id);
    *s = (toolsvc_sse){0};
}

void toolsvc_sse_restart(toolsvc_sse *s) {
    rlf_str_reset(&s->line);
    rlf_str_reset(&s->type);
    rlf_str_reset(&s->data);
    s->has_data = s->has_id = s->started = s->after_cr = false;
}

/* The event is over. It is taken off the parser first, which may not outlive the call. */
static outcome dispatch(toolsvc_sse *s, toolsvc_sse_fn *each, void *user) {
    rlf_str type = s->type, data = s->data;
    bool has_data = s->has_data;
    s->type = s->data = (rlf_str){0};
    s->has_data = false;
    if (s->has_id) {
        rlf_str_reset(&s->id);
        rlf_str_append(&s->id, s->next_id.ptr, s->next_id.len);
        s->has_id = false;
    }
    bool go_on = !has_data || each(user, type.ptr ? type.ptr : "", (rlf_slice){data.ptr ? data.ptr : "", data.len});
    rlf_str_clean_up(&type);
    rlf_str_clean_up(&data);
    return go_on ? GO_ON : STOPPED;
}

static bool is_field(const rlf_str *line, size_t name, const char *field) {
    return name == strlen(field) && memcmp(line->ptr, field, name) == 0;
}

static outcome take_field(toolsvc_sse *s, size_t name, const char *value, size_t n) {
    if (is_field(&s->line, name, "event")) {
        rlf_str_reset(&s->type);
        rlf_str_append(&s->type, value, n);
    } else if (is_field(&s->line, name, "data")) {
        if (s->data.len + n + 1 > s->max_bytes) return TOO_LARGE;
        if (s->has_data) rlf_str_putc(&s->data, '\n');
        rlf_str_append(&s->data, value, n);
        s->has_data = true;
    } else if (is_field(&s->line, name, "id") && !memchr(value, '\0', n)) {
        rlf_str_reset(&s->next_id);
        rlf_str_append(&s->next_id, value, n);
        s->has_id = true;
    } else if (is_field(&s->line, name, "retry") && n > 0 && n <= RETRY_DIGITS && strspn(value, "0123456789") == n) {
        s->retry_ms = strtol(value, NULL, 10);
    }
    return GO_ON;
}

static outcome take_line(toolsvc_sse *s, toolsvc_sse_fn *each, void *user) {
    static const char mark[] = "\xef\xbb\xbf";
    if (!s->started && s->line.len >= 3 && memcmp(s->line.ptr, mark, 3) == 0) {
        memmove(s->line.ptr, s->line.ptr + 3, s->line.len - 2);
        s->line.len -= 3;
    }
    s->started = true;
    if (s->line.len == 0) return dispatch(s, each, user);
    const char *colon = memchr(s->line.ptr, ':', s->line.len), *end = s->line.ptr + s->line.len, *value = colon ? colon + 1 : end;
    if (value < end && *value == ' ') value++;
    outcome result = take_field(s, colon ? (size_t)(colon - s->line.ptr) : s->line.len, value, (size_t)(end - value));
    rlf_str_reset(&s->line);
    return result;
}

bool toolsvc_sse_feed(toolsvc_sse *s, const char *bytes, size_t n, toolsvc_sse_fn *each, void *user) {
    for (size_t i = 0; i < n;) {
        if (s->after_cr && bytes[i] == '\n') i++; /* of a CR LF, perhaps in two pieces */
        s->after_cr = false;
        size_t len = 0;
        while (i + len < n && bytes[i + len] != '\n' && bytes[i + len] != '\r') len++;
        if (s->line.len + len > s->max_bytes) return false;
        rlf_str_append(&s->line, bytes + i, len);
        i += len;
        if (i >= n) return true;
        s->after_cr = bytes[i++] == '\r';
        outcome result = take_line(s, each, user);
        if (result != GO_ON) return result == STOPPED;
    }
    return true;
}
