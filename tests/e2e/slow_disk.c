/* A slow disk: preloaded, it makes every sync of a path that contains $SLOW_PATH take $SLOW_MS longer. What is synced is written to $SYNCED,
 * a path a line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/clock.h"

int fsync(int fd) {
    char link[64], path[4096] = "";
    const char *part = getenv("SLOW_PATH"), *ms = getenv("SLOW_MS"), *list = getenv("SYNCED");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) > 0 && part && ms && strstr(path, part)) rlf_sleep_us(strtoll(ms, NULL, 10) * 1000);
    FILE *synced = list ? fopen(list, "a") : NULL;
    if (synced) {
        fprintf(synced, "%s\n", path);
        fclose(synced);
    }
    return (int)syscall(SYS_fsync, fd);
}
