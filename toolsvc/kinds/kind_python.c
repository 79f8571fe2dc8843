/* The tool kind "python": code in a sandboxed interpreter of the episode's own (sandbox_python.h). What the model reads is what the
 * code printed, then the value of its last expression, or the traceback.
 *
 * The wall limit is the call's deadline, which the service keeps: it cancels, which kills the interpreter, and the episode's next
 * answer begins with a line that says so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "toolsvc/kind.h"
#include "toolsvc/sandbox/sandbox_python.h"

enum { MAX_CODE = 1 << 20, MEMORY_MB = 512 };

static rlf_status open_python(const rlf_tool_config *config, uv_loop_t *loop, void **state) {
    bool namespaces = strcmp(config->sandbox, "none") != 0;
    const int64_t memory_mb = config->memory_mb > 0 ? config->memory_mb : MEMORY_MB;
    toolsvc_python_options options = {
        .interpreter = config->path, .output_bytes = config->output_bytes, .workers = config->workers,
        .limits = {.namespaces = namespaces, .groups = true, .memory_mb = memory_mb, .processes = config->processes, .cpu_s = config->cpu_s,
                   .scratch_mb = config->scratch_mb}};
    toolsvc_python *python;
    rlf_status status = toolsvc_python_new(&python, loop, &options);
    if (status != RLF_OK) return status;
    RLF_INFO("%s: interpreters in %s%s", config->name, namespaces ? "namespaces, with " : "", toolsvc_python_groups(python));
    if (!namespaces) RLF_WARN("%s: sandbox: none: code of the model runs with your rights and sees your files", config->name);
    *state = python;
    return RLF_OK;
}

static void close_python(void *state) { toolsvc_python_destroy(state); }

static rlf_status open_episode(void *state, const toolsvc_origin *origin, void **episode) {
    *episode = toolsvc_python_open(state, (int64_t)origin->seed);
    return RLF_OK;
}

static void close_episode(void *state, void *episode) {
    (void)state;
    toolsvc_python_close(episode);
}

static void on_done(void *user, toolsvc_python_outcome outcome, const char *text, size_t n) {
    toolsvc_call *call = user;
    if (outcome == TOOLSVC_PYTHON_LOST) toolsvc_call_count(call, "interpreters_lost");
    toolsvc_call_finish(call, outcome == TOOLSVC_PYTHON_DONE ? RLF_CALL_OK : outcome == TOOLSVC_PYTHON_BROKEN ? RLF_CALL_INFRA : RLF_CALL_TOOL_ERROR,
                        text, n);
}

static void start_python(toolsvc_call *const *calls, size_t n) {
    toolsvc_call *call = calls[0];
    const json_t *code = json_object_get(call->arguments, "code");
    (void)n; /* one: this kind takes no batches */
    if (json_string_length(code) > MAX_CODE) {
        static const char text[] = "the code is longer than 1 MiB";
        toolsvc_call_finish(call, RLF_CALL_TOOL_ERROR, text, sizeof text - 1);
        return;
    }
    uint64_t number = toolsvc_python_run(call->episode, json_string_value(code), json_string_length(code), 0, on_done, call);
    call->data = (void *)(uintptr_t)number;
}

static void cancel_python(toolsvc_call *call) {
    toolsvc_python_cancel(call->episode, (uint64_t)(uintptr_t)call->data);
    toolsvc_call_count(call, "interpreters_lost");
    toolsvc_call_finish(call, RLF_CALL_TOOL_ERROR, "", 0);
}

const toolsvc_kind toolsvc_kind_python = {
    .name = "python",
    .description = "Run Python code. Variables are kept from call to call. Returns what was printed and the value of the last expression.",
    .parameters = "{\"type\": \"object\", \"properties\": {\"code\": {\"type\": \"string\", \"description\": \"the code to run\"}}, "
                  "\"required\": [\"code\"]}",
    .open = open_python,
    .close = close_python,
    .episode_open = open_episode,
    .episode_close = close_episode,
    .start = start_python,
    .cancel = cancel_python};
