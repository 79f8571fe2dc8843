/* The per-thread error record behind status.h. */
#include "common/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_MAX = 1024, WHERE_MAX = 128 };

static _Thread_local char t_message[MESSAGE_MAX];
static _Thread_local char t_where[WHERE_MAX];

const char *rlf_status_name(rlf_status status) {
#define NAME_(name) #name,
    static const char *const names[] = {RLF_STATUS_TABLE(NAME_)};
#undef NAME_
    return (unsigned)status < RLF_STATUS_COUNT ? names[status] : "UNKNOWN";
}

static const char *path_tail(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

rlf_status rlf_raise_at(const char *file, int line, rlf_status status, const char *fmt, ...) {
    char text[MESSAGE_MAX];  /* arguments may point into t_message */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f) *c = ' '; /* text from outside must not break the line */
    memcpy(t_message, text, sizeof text);
    snprintf(t_where, sizeof t_where, "%s:%d", path_tail(file), line);
    return status;
}

void rlf_error_context(const char *fmt, ...) {
    char text[MESSAGE_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0) return;
    size_t used = (size_t)n < sizeof text / 2 ? (size_t)n : sizeof text / 2;
    snprintf(text + used, sizeof text - used, ": %.*s", (int)(sizeof text - used - 3), t_message);
    memcpy(t_message, text, sizeof text);
}

const char *rlf_error_message(void) { return t_message; }
const char *rlf_error_where(void) { return t_where; }
