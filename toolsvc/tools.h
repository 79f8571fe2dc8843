/* The tools of a job, opened, and the functions they offer the model. */
#ifndef RLF_TOOLSVC_TOOLS_H
#define RLF_TOOLSVC_TOOLS_H

#include "toolsvc/cache.h"
#include "toolsvc/kind.h"

typedef struct toolsvc_function {
    char *name;         /* owned; unique among the functions of a job */
    char *description;  /* owned */
    json_t *parameters; /* JSON schema, owned */
    size_t tool;        /* index into tools->v */
} toolsvc_function;

typedef struct toolsvc_tool {
    const rlf_tool_config *config; /* borrowed */
    const toolsvc_kind *kind;
    void *state;
    toolsvc_cache *cache; /* NULL: none */
    bool keeps_state;     /* per episode */
    bool opened;          /* not where recorded traffic answers (traffic.h) */
} toolsvc_tool;

typedef struct toolsvc_tools {
    uv_loop_t *loop;
    toolsvc_tool *v;
    size_t n;
    toolsvc_function *functions;
    size_t n_functions, cap_functions;
    bool replayed; /* no tool is open: recorded traffic answers */
} toolsvc_tools;

/* Opens every tool of the config, which must outlive *tools as the loop must; with traffic.replay it opens none, and takes the functions
 * from the recording. kinds: the kinds known, NULL-terminated; NULL: the built-in ones. Errors name the tool. */
rlf_status toolsvc_tools_init(toolsvc_tools *tools, uv_loop_t *loop, const rlf_config *config, const toolsvc_kind *const *kinds) RLF_MUST_USE;
/* No call is under way. Runs the loop until the tools' handles are closed. */
void toolsvc_tools_clean_up(toolsvc_tools *tools);

/* Which functions an episode may use: a flag for each. NULL: all. */
typedef const unsigned char *toolsvc_allowed;

/* A call as the model wrote it. OK: *function (an index) and its parsed arguments, owned by the caller. BAD_CALL: what is wrong, and
 * the schema, is appended to `error` for the model to read. */
rlf_call_status toolsvc_tools_check(const toolsvc_tools *tools, toolsvc_allowed allowed, rlf_slice name, rlf_slice arguments,
                                    size_t *function, json_t **parsed, rlf_str *error);

/* The schemas of the functions as the prompt shows them: appends a JSON array of {"type":"function","function":{name, description,
 * parameters}}, compact, keys in this order. */
void toolsvc_tools_schemas(const toolsvc_tools *tools, rlf_str *out);

#endif
