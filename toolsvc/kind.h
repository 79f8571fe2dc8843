/* What a kind of tool is: the one header its author reads, and toolsvc/kinds/kind_calculator.c the shortest example.
 *
 * A *tool* is one entry of `tools` in the job file, an instance of a kind. It offers the model one or more *functions*, each with a name
 * and a JSON schema of its arguments. A *call* is one execution of a function; before it reaches the kind its arguments have been
 * parsed and checked against the schema, and its deadline, retries, rate, places and queue are the service's affair (dispatch.h): a
 * kind does the work and nothing else.
 *
 * A kind answers calls in one of two ways:
 *   run     on a worker thread of libuv, and returns when it is done: for what computes (index, calculator)
 *   start   on the event loop, and returns at once; toolsvc_call_finish comes later: for what waits (HTTP, processes)
 *
 * State per episode: a kind that has episode_open gets the calls of one episode one at a time, in the order in which the model
 * made them, so that what a call sees never depends on who was faster. Its calls are not retried, merged or batched, nor answered
 * from a cache. Where a kind keeps state only if the configuration says so, keeps_state tells.
 *
 * Threads: all functions on the loop's thread but `run`, which may be called from many threads at once. */
#ifndef RLF_TOOLSVC_KIND_H
#define RLF_TOOLSVC_KIND_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <uv.h>

#include "common/config/config.h"
#include "common/msg/messages.h"

/* One execution. All fields but `data` are the service's and constant. Alive from start until finish, or during run. */
typedef struct toolsvc_call {
    const rlf_tool_config *config;
    const char *function;    /* the name that the model called */
    void *state;             /* of the tool: what open made */
    void *episode;           /* what episode_open made for the call's episode; NULL where the kind has no such */
    const json_t *arguments; /* an object that keeps the function's schema */
    rlf_slice text;          /* the same, canonical: compact, keys sorted; NUL terminated */
    atomic_bool cancelled;   /* nobody waits any longer: give up soon */
    void *data;              /* the kind's own, between start and finish; NULL at first */
} toolsvc_call;

/* The episode that state is made for. */
typedef struct toolsvc_origin {
    uint64_t seed;   /* of what the tool draws: a function of the job's seed, uid and sample, the same in every attempt */
    rlf_slice extra; /* extra_info of its row, JSON or empty */
} toolsvc_origin;

typedef struct toolsvc_kind {
    const char *name;        /* "index": `kind` in the configuration */
    const char *description; /* in the prompt, unless the configuration has its own */
    const char *parameters;  /* JSON schema of the arguments; NULL where `functions` tells, or else the configuration (key schema) */

    /* Checks the configuration and makes what the tool needs. `loop` may be kept for handles, and may be run until the tool is ready
     * (no service runs on it yet); nothing of it may outlive close. NULL: no state. Errors name the key; the caller names the tool. */
    rlf_status (*open)(const rlf_tool_config *config, uv_loop_t *loop, void **state);
    /* No call is under way. Handles on the loop may still be closing when this returns (memory is then freed in their close
     * callbacks): the caller runs the loop until none is left. */
    void (*close)(void *state);
    /* What an open tool offers, for kinds that ask their service: a new array of {"name", "description", "parameters"}. NULL: one
     * function, named as the tool. */
    json_t *(*functions)(void *state);

    /* Whether a tool of this configuration has state per episode; else the two functions below are not called.
     * NULL: every tool of a kind that has episode_open. */
    bool (*keeps_state)(const rlf_tool_config *config);
    /* Before the first call of an episode. An error is answered as infra_error, and tried again with the next call. */
    rlf_status (*episode_open)(void *state, const toolsvc_origin *origin, void **episode);
    /* The episode is over and none of its calls is under way. As close, it may leave handles closing. */
    void (*episode_close)(void *state, void *episode);

    /* Appends the answer, or the reason why there is none without "error: ". Any bytes: the service makes valid UTF-8 of them. */
    rlf_call_status (*run)(const toolsvc_call *call, rlf_str *out);
    /* Begins n calls (1 unless `batches`); each is finished separately, exactly once, perhaps before this returns. */
    void (*start)(toolsvc_call *const *calls, size_t n);
    /* A started call that nobody waits for any more (call->cancelled is already set): finish it soon, perhaps before this returns;
     * its result is not looked at. NULL: calls cannot be stopped. */
    void (*cancel)(toolsvc_call *call);
    bool batches; /* start takes several calls at once, of the same function (keys batch, batch_ms) */
} toolsvc_kind;

/* Ends a started call; it is gone when this returns. status: OK, TOOL_ERROR (the tool's answer is that it went wrong), or INFRA (the
 * service is to blame, not the model: tried again `retries` times, then the episode leaves the loss). text: n bytes, borrowed, as
 * run would have appended. */
void toolsvc_call_finish(toolsvc_call *call, rlf_call_status status, const char *text, size_t n);

/* Counts something by name ("http_500", "restarts") for the call's tool; shown in the metrics. what: a constant, at most 31 bytes. */
void toolsvc_call_count(toolsvc_call *call, const char *what);

extern const toolsvc_kind toolsvc_kind_index;      /* kind_index.c */
extern const toolsvc_kind toolsvc_kind_calculator; /* kind_calculator.c */
extern const toolsvc_kind toolsvc_kind_python;     /* kind_python.c */
extern const toolsvc_kind toolsvc_kind_retriever;  /* kind_retriever.c */
extern const toolsvc_kind toolsvc_kind_http;       /* kind_http.c */
extern const toolsvc_kind toolsvc_kind_mcp;        /* kind_mcp.c */
extern const toolsvc_kind toolsvc_kind_process;    /* kind_process.c */
extern const toolsvc_kind toolsvc_kind_plugin;     /* kind_plugin.c */

#endif
