/* A tool in C or C++, loaded into the tool ranks: the one header that its author includes (C17 or C++17), and needs nothing else of.
 *
 *     #include <rlf/plugin.h>
 *     static const rlf_plugin plugin = {.abi = RLF_PLUGIN_ABI, .describe = …, .run = …};
 *     RLF_PLUGIN_EXPORT const rlf_plugin *rlf_plugin_entry(void) { return &plugin; }
 *
 *     cc -shared -fPIC -I PREFIX/include mine.c -o libmine.so
 *     tools: [{name: mine, kind: plugin, path: libmine.so, options: {any: thing}}]
 *
 * jobs/tools/dice.c is a whole one. All texts are UTF-8.
 *
 * Life     open → describe → { episode_open → run … → episode_close } … → close, in each tool rank.
 * Threads  open, describe and close run alone. The others run on worker threads, several at once; but what belongs to one episode runs
 *          one after another, in the order in which the model called. A plugin without episode_open may be asked several things at once.
 * Limits   An answer is at most the tool's max_bytes long; a longer one is an infrastructure error. A call has timeout_ms; nothing can
 *          stop a function that does not return, so one that may take long looks at rlf_plugin_cancelled now and then. As many calls run
 *          at once as the rank has worker threads, which are as many as the machine has cores.
 * Rights   A plugin is part of the process: what it breaks is broken for the rank. Code that is not trusted belongs in the kind "process".
 * Exact    With the same seed, the same calls in the same order must give the same answers, if runs are to be repeatable. */
#ifndef RLF_PLUGIN_H
#define RLF_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Counted up when anything below changes. */
#define RLF_PLUGIN_ABI 1

#define RLF_PLUGIN_EXPORT __attribute__((visibility("default")))

/* How a call, or the opening of something, ended. */
typedef enum rlf_plugin_status {
    RLF_PLUGIN_OK = 0,
    RLF_PLUGIN_TOOL_ERROR = 1,  /* the call was wrong: the model reads why */
    RLF_PLUGIN_INFRA_ERROR = 2, /* the tool is to blame: tried again, or the episode leaves the loss */
} rlf_plugin_status;

/* Where an answer, or the reason why there is none, is written to; of the host, valid until the function that got it returns. */
typedef struct rlf_plugin_out {
    void (*append)(struct rlf_plugin_out *out, const char *bytes, size_t n); /* copies; what is too long is noted, and dropped */
} rlf_plugin_out;

/* An episode that begins; valid until episode_open returns. */
typedef struct rlf_plugin_origin {
    uint64_t seed;          /* the same in every attempt at the same episode */
    const char *extra_info; /* of its row: a JSON object */
} rlf_plugin_origin;

/* One call; of the host, valid until run returns. */
typedef struct rlf_plugin_call {
    const char *function;
    const char *arguments; /* a JSON object that keeps the function's schema: compact, keys sorted, NUL-terminated */
    size_t arguments_bytes;
    int (*cancelled)(const struct rlf_plugin_call *call);
} rlf_plugin_call;

/* What a plugin is. The struct and its texts are its own and constant while it is loaded. */
typedef struct rlf_plugin {
    uint32_t abi; /* RLF_PLUGIN_ABI */

    /* What it offers: a JSON array of {"name", "description", "parameters": a JSON schema}. Its own, until close. */
    const char *(*describe)(void *state);

    /* options: the key `options` of the tool, JSON, or "{}". Anything but OK refuses the job, with what was written. NULL: no state. */
    rlf_plugin_status (*open)(const char *options, void **state, rlf_plugin_out *why);
    /* After an open that was OK. NULL: nothing to do. */
    void (*close)(void *state);

    /* Both or neither; used where the tool has `state: episode`, which a plugin with them needs, and one without them must not have.
     * After an open that was not OK there is no close, and the call it was for is an infrastructure error. */
    rlf_plugin_status (*episode_open)(void *state, const rlf_plugin_origin *origin, void **episode, rlf_plugin_out *why);
    void (*episode_close)(void *state, void *episode);

    /* episode: what episode_open made; NULL without it. */
    rlf_plugin_status (*run)(void *state, void *episode, const rlf_plugin_call *call, rlf_plugin_out *answer);
} rlf_plugin;

/* What the library exports. */
RLF_PLUGIN_EXPORT const rlf_plugin *rlf_plugin_entry(void);

/* ---- for convenience ----------------------------------------------------------------------------------------------------------------- */

static inline void rlf_plugin_puts(rlf_plugin_out *out, const char *text) {
    size_t n = 0;
    while (text[n]) n++;
    out->append(out, text, n);
}

/* Nobody waits for the answer any more. */
static inline int rlf_plugin_cancelled(const rlf_plugin_call *call) { return call->cancelled(call); }

#ifdef __cplusplus
}
#endif
#endif
