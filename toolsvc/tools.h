/* Tools: what the model may call on this rank. A tool is a configured instance of a kind; a kind is a table of functions.
 *
 * A call goes through two steps: toolsvc_tool_check, on the event loop, tells a call that makes no sense (it never runs) from
 * one that does;
 * toolsvc_tool_run, on a worker thread, answers it. Both write the text that the model reads: always valid UTF-8, "error: …" if
 * it went wrong. */
#ifndef RLF_TOOLSVC_TOOLS_H
#define RLF_TOOLSVC_TOOLS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/config/config.h"
#include "common/msg/messages.h"

/* One argument of a tool: a string, which must be there. */
typedef struct toolsvc_parameter {
    const char *name, *description;
} toolsvc_parameter;

/* A kind of tool. `open` checks the configuration and makes what the tool needs; `run` may be called from many threads at once. */
typedef struct toolsvc_kind {
    const char *name;        /* "index": `kind` in the configuration */
    const char *description; /* in the prompt, unless the configuration has its own */
    toolsvc_parameter parameter;
    rlf_status (*open)(const rlf_tool_config *config, void **state);
    void (*close)(void *state);
    /* Appends the answer, or the reason why there is none without "error: ". argument: n bytes of valid UTF-8, NUL terminated.
     * `cancel` turns true when nobody waits any longer: give up soon. */
    rlf_call_status (*run)(const rlf_tool_config *config, void *state, const char *argument, size_t n, const atomic_bool *cancel,
                           rlf_str *out);
} toolsvc_kind;

extern const toolsvc_kind toolsvc_kind_index;      /* kind_index.c */
extern const toolsvc_kind toolsvc_kind_calculator; /* kind_calculator.c */

typedef struct toolsvc_tool {
    const rlf_tool_config *config; /* borrowed */
    const toolsvc_kind *kind;
    void *state;
} toolsvc_tool;

typedef struct toolsvc_tools {
    toolsvc_tool *v;
    size_t n;
} toolsvc_tools;

/* Opens every tool of the config, which must outlive *tools. kinds: the kinds known, NULL-terminated; NULL: the built-in ones.
 * Errors name the tool. */
rlf_status toolsvc_tools_init(toolsvc_tools *tools, const rlf_config *config, const toolsvc_kind *const *kinds) RLF_MUST_USE;
void toolsvc_tools_clean_up(toolsvc_tools *tools);

/* OK: *tool (an index into tools->v) and its argument, appended to `argument`. BAD_CALL: `error` holds the text for the model. */
rlf_call_status toolsvc_tools_check(const toolsvc_tools *tools, rlf_slice name, rlf_slice arguments, size_t *tool,
                                    rlf_str *argument, rlf_str *error);
/* Runs one call in the calling thread. */
rlf_call_status toolsvc_tool_run(const toolsvc_tool *tool, const rlf_str *argument, const atomic_bool *cancel, rlf_str *out);

/* Appends n bytes as valid UTF-8: each byte that is not becomes U+FFFD, and so does NUL. */
void toolsvc_append_utf8(rlf_str *out, const char *bytes, size_t n);

#endif
