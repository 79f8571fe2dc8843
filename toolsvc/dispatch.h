/* When a call runs: for every tool, whatever its kind, the policy its keys ask for.
 *
 *   submitted -> waiting (its tool's queue) -> running -> done
 *                     ^------ backing off <------'  (infra_error and retries left)
 *
 *   concurrency  places on this rank; a call holds one until it is back, even if nobody waits for it any more; a batch holds one
 *   queue        calls that may wait; one more is answered infra_error at once
 *   per_second   starts per second, evenly: a token bucket that holds one second's worth, at least one
 *   retries      of an infra_error, after backoff_ms * 2^i with jitter in [1/2, 1), drawn from the seed and the call's text; such a call
 *                goes alone, so that one bad call does not take a batch with it twice
 *   breaker      after `failures` infra errors in a row the tool is out of service for reset_ms: calls fail at once (and may back
 *                off); then one call is let through, and decides
 *   merge        calls of the same function and arguments in flight run once, and all get the answer: for tools without side effects
 *   cache        answers of earlier calls (cache.h), before all of this
 *   batch        up to so many waiting calls go out as one, no later than batch_ms after the first of them came
 *
 * Calls of one session (episode and tool, for kinds with state per episode) run one at a time, in the order of submission.
 *
 * A waiter is the caller's side of a call: several may wait for one call (merge). Threads: the loop's. */
#ifndef RLF_TOOLSVC_DISPATCH_H
#define RLF_TOOLSVC_DISPATCH_H

#include "toolsvc/tools.h"

/* Counted per tool, in this order in the metrics. */
#define TOOLSVC_COUNTS(X)                                                                                                      \
    X(calls)          /* submitted */                                                                                          \
    X(runs)           /* executions, retries included */                                                                       \
    X(retries)                                                                                                                 \
    X(merged)         /* calls that joined one in flight */                                                                    \
    X(cache_hits)                                                                                                              \
    X(batches)        /* executions of more than one call */                                                                   \
    X(infra_errors)   /* executions that ended so */                                                                           \
    X(cancelled)      /* calls given up because nobody waited any longer: deadline or end of the episode */                    \
    X(queue_full)                                                                                                              \
    X(breaker_opened)                                                                                                          \
    X(breaker_refused)
#define TOOLSVC_COUNT_FIELD_(name) int64_t name;
typedef struct toolsvc_tool_counts {
    TOOLSVC_COUNTS(TOOLSVC_COUNT_FIELD_)
} toolsvc_tool_counts;
#undef TOOLSVC_COUNT_FIELD_

typedef struct toolsvc_dispatch toolsvc_dispatch;
typedef struct toolsvc_session toolsvc_session;

/* Embedded by the caller. `done` is called once, unless toolsvc_dispatch_leave came first; the waiter is then no longer known here. text:
 * valid UTF-8 that fits a message (RLF_MSG_MAX_TEXT), "error: …" unless the status is OK; borrowed. */
typedef struct toolsvc_waiter {
    void (*done)(struct toolsvc_waiter *waiter, rlf_call_status status, const rlf_str *text);
    struct toolsvc_job *job; /* private, as all below; NULL: not waiting */
    struct toolsvc_waiter *prev, *next;
} toolsvc_waiter;

/* tools is borrowed. seed: of the jitter. */
toolsvc_dispatch *toolsvc_dispatch_new(uv_loop_t *loop, const toolsvc_tools *tools, int64_t seed);
/* Nobody may wait. Frees what is idle; false while calls or handles are not back: run the loop and try again. */
bool toolsvc_dispatch_destroy(toolsvc_dispatch *dispatch);

/* Starts nothing any more; what runs is left to end. */
void toolsvc_dispatch_stop(toolsvc_dispatch *dispatch);

/* Takes over a reference to `arguments`. sessions: the list of the episode the call belongs to (NULL at first); origin: that episode,
 * copied. waiter->done may be called before this returns. */
void toolsvc_dispatch_submit(toolsvc_dispatch *dispatch, size_t function, json_t *arguments, toolsvc_session **sessions,
                             const toolsvc_origin *origin, toolsvc_waiter *waiter);
/* Waits no longer (late: because its deadline has passed, which speaks against the tool). A call that nobody waits for is taken off its
 * queue, or told to give up. */
void toolsvc_dispatch_leave(toolsvc_waiter *waiter, bool late);
/* The episode is over and nobody waits for its calls: its state is closed as soon as none of them runs. */
void toolsvc_sessions_close(toolsvc_session *sessions);

/* One call as a model writes it, start to end, in an episode of its own, running the loop of `tools`: for the command line and tests.
 * Appends the answer. */
rlf_call_status toolsvc_call_once(const toolsvc_tools *tools, const char *name, const char *arguments, rlf_str *out);

const toolsvc_tool_counts *toolsvc_dispatch_counts(const toolsvc_dispatch *dispatch, size_t tool);
/* Calls `each` with every count of a tool that is not 0, those of toolsvc_call_count behind the others. */
void toolsvc_dispatch_each_count(const toolsvc_dispatch *dispatch, size_t tool,
                                 void (*each)(void *user, const char *name, int64_t n), void *user);

#endif
