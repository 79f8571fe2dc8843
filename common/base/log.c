/* The log writer behind log.h. */
#include "common/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct {
    int rank;
    char role[16];
    rlf_log_level lowest;
} g_log = {-1, "", RLF_LOG_INFO};

void rlf_log_init(int rank, const char *role, rlf_log_level lowest) {
    g_log.rank = rank;
    snprintf(g_log.role, sizeof g_log.role, "%s", role);
    g_log.lowest = lowest;
}

void rlf_log(rlf_log_level level, const char *fmt, ...) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    if (level < g_log.lowest) return;
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);

    char line[2048];
    int n = snprintf(line, sizeof line, "%02d:%02d:%02d.%03ld ", tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000);
    if (g_log.rank >= 0) n += snprintf(line + n, sizeof line - (size_t)n, "rank %d %-11s ", g_log.rank, g_log.role);
    n += snprintf(line + n, sizeof line - (size_t)n, "%-5s ", names[level]);
    va_list ap;
    va_start(ap, fmt);
    int text = vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    size_t len = strlen(line);
    if (text < 0) return;
    if (len > sizeof line - 2) len = sizeof line - 2;
    line[len++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, len);
    (void)ignored;
}
