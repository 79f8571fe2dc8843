/* One tool of a built-in kind behind a dispatch on a loop of its own, for the tests of kinds: calls by number, each in one of a few
 * episodes, and what came of them. */
#ifndef RLF_TESTS_TOOLSVC_TOOL_RIG_H
#define RLF_TESTS_TOOLSVC_TOOL_RIG_H

#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "toolsvc/dispatch.h"

enum { RIG_CALLS = 512, RIG_EPISODES = 8, RIG_WAIT_MS = 30000 };

typedef struct rig_call {
    toolsvc_waiter waiter;
    bool done;
    rlf_call_status status;
    char text[4096]; /* cut */
} rig_call;

typedef struct tool_rig {
    uv_loop_t loop;
    rlf_tool_config tool;
    rlf_config config;
    toolsvc_tools tools;
    toolsvc_dispatch *dispatch;
    toolsvc_session *sessions[RIG_EPISODES];
    rig_call calls[RIG_CALLS];
} tool_rig;

static inline rlf_tool_config rig_tool(const char *name, const char *kind) {
    return (rlf_tool_config){.name = (char *)name, .kind = (char *)kind, .path = "", .description = "", .schema = "", .state = "shared",
                             .workers = 1, .batch = 1, .timeout_ms = RIG_WAIT_MS, .start_ms = RIG_WAIT_MS,
                             .concurrency = RIG_CALLS, .queue = RIG_CALLS, .backoff_ms = 1, .max_bytes = 1 << 20};
}

static inline void rig_on_done(toolsvc_waiter *waiter, rlf_call_status status, const rlf_str *text) {
    rig_call *c = (rig_call *)waiter;
    if (c->done) abort();
    c->done = true;
    c->status = status;
    snprintf(c->text, sizeof c->text, "%s", text->ptr ? text->ptr : "");
}

static inline rlf_status rig_open(tool_rig *r, const rlf_tool_config *tool) {
    memset(r, 0, sizeof *r);
    r->tool = *tool;
    r->config = (rlf_config){.tools = &r->tool, .n_tools = 1};
    for (int i = 0; i < RIG_CALLS; i++) r->calls[i].waiter.done = rig_on_done;
    if (uv_loop_init(&r->loop) != 0) return RLF_RAISE(INTERNAL, "uv_loop_init");
    rlf_status status = toolsvc_tools_init(&r->tools, &r->loop, &r->config, NULL);
    if (status == RLF_OK) r->dispatch = toolsvc_dispatch_new(&r->loop, &r->tools, 1);
    else if (uv_loop_close(&r->loop) != 0) return RLF_RAISE(INTERNAL, "something is left on the loop");
    return status;
}

/* Nonzero: something was left. */
static inline int rig_close(tool_rig *r) {
    toolsvc_dispatch_stop(r->dispatch);
    for (int i = 0; i < RIG_CALLS; i++) toolsvc_dispatch_leave(&r->calls[i].waiter, false);
    for (int i = 0; i < RIG_EPISODES; i++) toolsvc_sessions_close(r->sessions[i]);
    for (int64_t end = rlf_now_ms() + RIG_WAIT_MS; !toolsvc_dispatch_destroy(r->dispatch); rlf_sleep_us(100)) {
        if (rlf_now_ms() > end) return -1;
        uv_run(&r->loop, UV_RUN_NOWAIT);
    }
    toolsvc_tools_clean_up(&r->tools);
    return uv_loop_close(&r->loop);
}

static tool_rig *g; /* of the case that runs */

static inline void rig_start(void **state, rlf_tool_config tool) {
    g = rlf_calloc(1, sizeof *g);
    assert_ok(rig_open(g, &tool));
    *state = g;
}

/* The teardown of every case. */
static inline int rig_end(void **state) {
    int left = *state ? rig_close(*state) : 0;
    free(*state);
    *state = NULL;
    return left;
}

static inline void rig_refuses(rlf_tool_config tool, const char *message) {
    static tool_rig r; /* 2 MB */
    assert_true(rig_open(&r, &tool) != RLF_OK);
    assert_string_equal(rlf_error_message(), message);
}

/* Call i of function 0, in episode e (0 to RIG_EPISODES - 1). */
static inline void rig_submit(tool_rig *r, int i, int e, const char *arguments) {
    char extra[32];
    int n = snprintf(extra, sizeof extra, "{\"row\": %d}", e);
    r->calls[i].done = false;
    toolsvc_dispatch_submit(r->dispatch, 0, json_loads(arguments, 0, NULL), &r->sessions[e],
                            &(toolsvc_origin){.seed = (uint64_t)(e * 100) << 11, .extra = {extra, (size_t)n}}, &r->calls[i].waiter);
}

/* Turns the loop until calls [first, end) are done. */
static inline void rig_await(tool_rig *r, int first, int end) {
    int64_t deadline = rlf_now_ms() + RIG_WAIT_MS;
    for (int i = first; i < end;) {
        if (r->calls[i].done) {
            i++;
            continue;
        }
        if (rlf_now_ms() > deadline) fprintf(stderr, "call %d did not end\n", i), abort();
        uv_run(&r->loop, UV_RUN_NOWAIT);
        rlf_sleep_us(50);
    }
}

static inline void rig_turn(tool_rig *r, int64_t ms) {
    for (int64_t end = rlf_now_ms() + ms; rlf_now_ms() < end; rlf_sleep_us(100)) uv_run(&r->loop, UV_RUN_NOWAIT);
}

/* One call, waited for. */
static inline const char *rig_ask(tool_rig *r, int i, int e, const char *arguments) {
    rig_submit(r, i, e, arguments);
    rig_await(r, i, i + 1);
    return r->calls[i].text;
}

static inline void rig_assert(int i, rlf_call_status status, const char *text) {
    assert_string_equal(g->calls[i].text, text);
    assert_int_equal(g->calls[i].status, status);
}

typedef struct rig_counter {
    const char *name;
    int64_t n;
} rig_counter;

static inline void rig_pick(void *user, const char *name, int64_t n) {
    rig_counter *c = user;
    if (strcmp(c->name, name) == 0) c->n = n;
}

/* What was counted under a name. */
static inline int64_t rig_count(const tool_rig *r, const char *name) {
    rig_counter c = {name, 0};
    toolsvc_dispatch_each_count(r->dispatch, 0, rig_pick, &c);
    return c.n;
}

#endif
