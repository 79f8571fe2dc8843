/* Python interpreters in sandboxes, on a libuv loop: one per episode that wants one, its variables kept from call to call.
 *
 * A pool keeps some started interpreters ready, so that an episode's first call need not wait for one to start. Each interpreter
 * runs toolsvc/sandbox/sandbox_driver.py; whatever comes from it is taken as the code's own doing: the text is cut to a limit, and an answer
 * that is not to the request under way ends the interpreter.
 *
 * A session is one episode's: it takes an interpreter at its first call, and a fresh one after the last was lost (killed at the wall
 * limit, out of processor time, crashed), which the next answer then says. Calls of a session run one after another, in order.
 *
 * The same code, in the same calls of a session with the same seed, gives the same text: `random` starts from the seed, hashes and
 * addresses are the same each time, the process is always number 1. What differs: time, os.urandom, threads against each other.
 *
 * Threads: all functions on the loop's thread. Nothing waits, but for toolsvc_python_new. */
#ifndef RLF_TOOLSVC_SANDBOX_PYTHON_H
#define RLF_TOOLSVC_SANDBOX_PYTHON_H

#include <uv.h>

#include "toolsvc/sandbox/sandbox.h"

/* limits.memory_mb bounds each process, and all of an interpreter together: that is looked at every 100 ms. So is, where interpreters have
 * control groups, the processor time of all together, which may be a second more than limits.cpu_s. */
typedef struct toolsvc_python_options {
    const char *interpreter; /* "": the first python3 in /usr/bin, /usr/local/bin, /bin */
    toolsvc_sandbox_limits limits;
    int64_t output_bytes;    /* of one answer; the rest is dropped and counted */
    int64_t workers;         /* interpreters kept ready */
} toolsvc_python_options;

typedef struct toolsvc_python toolsvc_python;                 /* the pool */
typedef struct toolsvc_python_session toolsvc_python_session; /* of one episode */

typedef enum toolsvc_python_outcome {
    TOOLSVC_PYTHON_DONE,
    TOOLSVC_PYTHON_RAISED, /* the text ends with the traceback */
    TOOLSVC_PYTHON_LOST,   /* the interpreter ended: the text ends with a line that says why */
    TOOLSVC_PYTHON_BROKEN, /* no interpreter could be started: our fault, not the code's */
} toolsvc_python_outcome;

/* text: n bytes as they came, of any content; valid during the call. It may close the session or start another call. */
typedef void toolsvc_python_done_fn(void *user, toolsvc_python_outcome outcome, const char *text, size_t n);

/* Starts the pool's interpreters, and runs the loop until one is ready, 10 s at most. NOT_FOUND: no python3. UNSUPPORTED: no namespaces
 * here. After an error too, handles may be left on the loop that close as it runs. */
rlf_status toolsvc_python_new(toolsvc_python **out, uv_loop_t *loop, const toolsvc_python_options *options) RLF_MUST_USE;
/* Kills every interpreter; no done function is called any more, and sessions are closed. The memory goes while the loop runs: with nothing
 * else on it, uv_run(UV_RUN_DEFAULT) returns once all is collected. NULL is allowed. */
void toolsvc_python_destroy(toolsvc_python *python);

/* Costs nothing until the first call. */
toolsvc_python_session *toolsvc_python_open(toolsvc_python *python, int64_t seed);
/* Kills its interpreter; outstanding calls get no answer. */
void toolsvc_python_close(toolsvc_python_session *session);

/* Runs n bytes of UTF-8 (copied), after the calls before it. `done` is called once, never from within this function, unless the call is
 * cancelled or the session closed. wall_ms counts from when the code starts to run; 0: no limit here. Returns the call's number, for cancel. */
uint64_t toolsvc_python_run(toolsvc_python_session *session, const char *code, size_t n, int64_t wall_ms, toolsvc_python_done_fn *done,
                            void *user);
/* Takes a call back: one that waits leaves the queue, one that runs loses its interpreter. Unknown numbers (answered ones) do nothing. */
void toolsvc_python_cancel(toolsvc_python_session *session, uint64_t call);

/* As toolsvc_sandbox_groups. */
const char *toolsvc_python_groups(const toolsvc_python *python);
/* Interpreters alive, and of these waiting for an episode, ready. */
size_t toolsvc_python_alive(const toolsvc_python *python);
size_t toolsvc_python_ready(const toolsvc_python *python);

#endif
