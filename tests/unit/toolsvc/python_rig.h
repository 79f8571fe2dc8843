/* What the tests of the interpreter share: a pool on a loop of its own, calls that are waited for, and a count of what still runs. */
#ifndef RLF_TESTS_TOOLSVC_PYTHON_RIG_H
#define RLF_TESTS_TOOLSVC_PYTHON_RIG_H

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "toolsvc/sandbox/sandbox_python.h"

typedef struct answer {
    bool here;
    toolsvc_python_outcome outcome;
    char text[8192]; /* cut */
} answer;

typedef struct rig {
    uv_loop_t loop;
    toolsvc_python *python;
} rig;

static inline toolsvc_python_options rig_options(bool namespaces) {
    return (toolsvc_python_options){.interpreter = "", .output_bytes = 4096, .workers = 2,
                                    .limits = {.namespaces = namespaces, .groups = true, .memory_mb = 256, .processes = 16, .cpu_s = 20, .scratch_mb = 8}};
}

static inline void rig_done(void *user, toolsvc_python_outcome outcome, const char *text, size_t n) {
    answer *a = user;
    a->here = true;
    a->outcome = outcome;
    if (n > sizeof a->text - 1) n = sizeof a->text - 1;
    memcpy(a->text, text, n);
    a->text[n] = '\0';
}

/* Turns the loop until *flag, 60 s at most. */
static inline void rig_await(rig *r, const bool *flag) {
    int64_t deadline = rlf_now_ms() + 60000;
    while (!*flag && rlf_now_ms() < deadline) {
        uv_run(&r->loop, UV_RUN_NOWAIT);
        if (!*flag) rlf_sleep_us(100);
    }
    if (*flag) return;
    fprintf(stderr, "an answer did not come within 60 s\n");
    abort();
}

static inline void rig_start(rig *r, const toolsvc_python_options *options) {
    if (uv_loop_init(&r->loop) != 0 || toolsvc_python_new(&r->python, &r->loop, options) != RLF_OK) {
        fprintf(stderr, "%s\n", rlf_error_message());
        abort();
    }
}

/* Nonzero: something was left on the loop. */
static inline int rig_stop(rig *r) {
    toolsvc_python_destroy(r->python);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    return uv_loop_close(&r->loop);
}

static inline void rig_run(rig *r, toolsvc_python_session *s, const char *code, int64_t wall_ms, answer *a) {
    *a = (answer){0};
    toolsvc_python_run(s, code, strlen(code), wall_ms, rig_done, a);
    rig_await(r, &a->here);
}

/* Waits until all killed interpreters are collected and the pool is full again. */
static inline void rig_settle(rig *r, size_t alive, size_t ready) {
    int64_t deadline = rlf_now_ms() + 60000;
    while ((toolsvc_python_alive(r->python) != alive || toolsvc_python_ready(r->python) != ready) && rlf_now_ms() < deadline) {
        uv_run(&r->loop, UV_RUN_NOWAIT);
        rlf_sleep_us(100);
    }
}

/* Processes that descend from us, whatever their namespace or session; zombies count. */
static inline size_t rig_descendants(void) {
    enum { MOST = 65536 };
    static struct { int pid, parent; } table[MOST];
    size_t n = 0, found = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *e; proc && (e = readdir(proc)) && n < MOST;) {
        char path[300], line[512] = "";
        if (!isdigit((unsigned char)e->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%s/stat", e->d_name);
        FILE *f = fopen(path, "r");
        if (!f) continue;
        char *end = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
        fclose(f);
        if (end) table[n].pid = (int)strtol(line, NULL, 10), table[n++].parent = (int)strtol(end + 4, NULL, 10);
    }
    if (proc) closedir(proc);
    static bool ours[MOST];
    memset(ours, 0, sizeof ours);
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < n; i++) {
            bool child = table[i].parent == getpid();
            for (size_t k = 0; !child && k < n; k++) child = ours[k] && table[k].pid == table[i].parent;
            if (child && !ours[i]) ours[i] = more = true, found++;
        }
    }
    return found;
}

/* A pool, made and unmade. */
static inline rlf_status rig_try(const toolsvc_python_options *options) {
    rig r = {0};
    if (uv_loop_init(&r.loop) != 0) return RLF_RAISE(INTERNAL, "uv_loop_init");
    rlf_status status = toolsvc_python_new(&r.python, &r.loop, options);
    return rig_stop(&r) == 0 ? status : RLF_RAISE(INTERNAL, "something is left on the loop");
}

/* NULL: the machine can do it; else why not, for the message of a skipped test. */
static inline const char *rig_missing(bool namespaces) {
    toolsvc_python_options options = rig_options(namespaces);
    return rig_try(&options) == RLF_OK ? NULL : rlf_error_message();
}

#endif
