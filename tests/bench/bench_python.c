/* What the sandboxed interpreter costs: bench_python [none].
 *
 * Prints, in ms (median, 99th percentile): a new episode's first call on an interpreter that is ready; further calls of an episode; the same
 * calls on a busy loop of 64 episodes; the start of an interpreter from nothing; and what a start costs the event loop itself. The code
 * that runs is "1", so that all of it is overhead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "toolsvc/sandbox/sandbox_python.h"

enum { FIRST = 200, FURTHER = 2000, EPISODES = 64, ROUNDS = 50, WORKERS = 4 };

static size_t g_done;
static double g_ms[EPISODES * ROUNDS + FURTHER];

static void die(const char *what) {
    fprintf(stderr, "bench_python: %s: %s\n", what, rlf_error_message());
    exit(1);
}

static void on_done(void *user, toolsvc_python_outcome outcome, const char *text, size_t n) {
    int64_t *begun = user;
    if (outcome != TOOLSVC_PYTHON_DONE || n != 2 || memcmp(text, "1\n", 2) != 0) die("a wrong answer");
    g_ms[g_done++] = (double)(rlf_now_ns() - *begun) * 1e-6;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what) {
    qsort(g_ms, g_done, sizeof *g_ms, by_size);
    printf("%-58s %8.3f %8.3f  (%zu)\n", what, g_ms[g_done / 2], g_ms[g_done * 99 / 100], g_done);
    g_done = 0;
}

static void ask(toolsvc_python_session *s, int64_t *begun) {
    *begun = rlf_now_ns();
    toolsvc_python_run(s, "1", 1, 0, on_done, begun);
}

static void await(uv_loop_t *loop, size_t n) {
    while (g_done < n) uv_run(loop, UV_RUN_ONCE);
}

static void await_ready(uv_loop_t *loop, const toolsvc_python *python) {
    while (toolsvc_python_ready(python) < WORKERS || toolsvc_python_alive(python) > WORKERS) uv_run(loop, UV_RUN_ONCE);
}

static void first_calls(uv_loop_t *loop, toolsvc_python *python) {
    int64_t begun;
    for (size_t i = 0; i < FIRST; i++) {
        toolsvc_python_session *s = toolsvc_python_open(python, (int64_t)i);
        await_ready(loop, python);
        ask(s, &begun);
        await(loop, i + 1);
        toolsvc_python_close(s);
    }
    print_times("first call of an episode, an interpreter ready");
}

static void further_calls(uv_loop_t *loop, toolsvc_python *python) {
    int64_t begun;
    toolsvc_python_session *s = toolsvc_python_open(python, 0);
    ask(s, &begun);
    await(loop, 1);
    g_done = 0;
    for (size_t i = 0; i < FURTHER; i++) {
        ask(s, &begun);
        await(loop, i + 1);
    }
    toolsvc_python_close(s);
    print_times("further calls, one episode");
}

static void many_episodes(uv_loop_t *loop, toolsvc_python *python) {
    static toolsvc_python_session *s[EPISODES];
    static int64_t begun[EPISODES];
    for (size_t i = 0; i < EPISODES; i++) ask(s[i] = toolsvc_python_open(python, 0), &begun[i]);
    await(loop, EPISODES);
    print_times("first calls of 64 episodes at once, 4 ready");
    double start = rlf_now_s();
    for (size_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < EPISODES; i++) ask(s[i], &begun[i]);
        await(loop, (round + 1) * EPISODES);
    }
    double seconds = rlf_now_s() - start;
    print_times("further calls, 64 episodes at once");
    printf("%-58s %8.0f\n", "calls per second, 64 episodes", EPISODES * ROUNDS / seconds);
    for (size_t i = 0; i < EPISODES; i++) toolsvc_python_close(s[i]);
}

/* A start on the loop's thread: clone and the user map. */
static void starts(const toolsvc_sandbox_limits *limits) {
    static const char *const argv[] = {"/bin/true", NULL};
    toolsvc_sandbox *sandbox;
    if (toolsvc_sandbox_new(&sandbox, limits, argv) != RLF_OK) die("sandbox");
    for (size_t i = 0; i < FIRST; i++) {
        toolsvc_sandbox_child child;
        int64_t begun = rlf_now_ns();
        if (toolsvc_sandbox_start(sandbox, &child) != RLF_OK) die("start");
        g_ms[g_done++] = (double)(rlf_now_ns() - begun) * 1e-6;
        close(child.control);
        close(child.output);
        toolsvc_sandbox_reap(&child);
    }
    print_times("a start, on the event loop's thread");
    toolsvc_sandbox_destroy(sandbox);
}

int main(int argc, char **argv) {
    bool none = argc > 1 && strcmp(argv[1], "none") == 0;
    toolsvc_python_options options = {.interpreter = "", .output_bytes = 4096, .workers = WORKERS,
                                      .limits = {.namespaces = !none, .groups = true, .memory_mb = 512, .processes = 16, .cpu_s = 60, .scratch_mb = 64}};
    uv_loop_t loop;
    toolsvc_python *python;
    int64_t begun = rlf_now_ns();
    if (uv_loop_init(&loop) != 0 || toolsvc_python_new(&python, &loop, &options) != RLF_OK) die("the pool");
    printf("%-58s %8s %8s\n%-58s %8.3f\n", none ? "sandbox: none" : "sandbox: namespaces", "p50 ms", "p99 ms", "the first interpreter, from nothing",
           (double)(rlf_now_ns() - begun) * 1e-6);
    first_calls(&loop, python);
    further_calls(&loop, python);
    many_episodes(&loop, python);
    toolsvc_python_destroy(python);
    uv_run(&loop, UV_RUN_DEFAULT);
    starts(&options.limits);
    return uv_loop_close(&loop) != 0;
}
