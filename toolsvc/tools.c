/* Opening tools, checking calls, and the schemas shown in the prompt. */
#include "toolsvc/tools.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/text/json_text.h"
#include "toolsvc/schema.h"
#include "toolsvc/text.h"
#include "toolsvc/toolsvc.h"
#include "toolsvc/traffic.h"

enum { CLOSE_MS = 3000, MAX_FUNCTIONS = 1024 };

static const toolsvc_kind *const built_in[] = {&toolsvc_kind_index, &toolsvc_kind_calculator, &toolsvc_kind_retriever, &toolsvc_kind_http,
                                               &toolsvc_kind_python, &toolsvc_kind_process, &toolsvc_kind_plugin, &toolsvc_kind_mcp, NULL};

static const toolsvc_kind *find_kind(const toolsvc_kind *const *kinds, const char *name) {
    for (; *kinds; kinds++)
        if (strcmp((*kinds)->name, name) == 0) return *kinds;
    return NULL;
}

static const char *text_or(const char *text, const char *fallback) { return text && *text ? text : fallback ? fallback : ""; }

/* ---- opening ----------------------------------------------------------------------------------------------------------------------- */

static rlf_status check_config(const rlf_config *config, size_t i) {
    const rlf_tool_config *tool = &config->tools[i];
    if (!tool->name || !tool->name[0]) return RLF_RAISE(INVALID, "key \"name\": a tool needs a name for the model to call");
    for (size_t k = 0; k < i; k++)
        if (strcmp(config->tools[k].name, tool->name) == 0) return RLF_RAISE(INVALID, "key \"name\": tools[%zu] has the same name", k);
    if (tool->timeout_ms < 1) return RLF_RAISE(INVALID, "key \"timeout_ms\": %lld; at least 1 was expected", (long long)tool->timeout_ms);
    if (tool->concurrency < 1)
        return RLF_RAISE(INVALID, "key \"concurrency\": %lld; at least 1 was expected", (long long)tool->concurrency);
    if (tool->latency_p99_ms > 0 && tool->latency_p99_ms < tool->latency_median_ms)
        return RLF_RAISE(INVALID, "key \"latency.p99_ms\": %g is below latency.median_ms, %g", tool->latency_p99_ms,
                         tool->latency_median_ms);
    return RLF_OK;
}

static rlf_status add_function(toolsvc_tools *tools, size_t tool, const char *name, const char *description, json_t *parameters) {
    rlf_status status = toolsvc_schema_valid(parameters);
    if (status == RLF_OK && tools->n_functions >= MAX_FUNCTIONS) status = RLF_RAISE(LIMIT, "more than %d functions", (int)MAX_FUNCTIONS);
    for (size_t i = 0; status == RLF_OK && i < tools->n_functions; i++)
        if (strcmp(tools->functions[i].name, name) == 0)
            status = RLF_RAISE(INVALID, "the function \"%s\" is there twice: tools[%zu] (%s) has it too (keys functions and prefix of kind mcp tell them apart)", name, tools->functions[i].tool,
                               tools->v[tools->functions[i].tool].config->name);
    if (status != RLF_OK) return status;
    tools->functions = rlf_grow(tools->functions, tools->n_functions, &tools->cap_functions, sizeof *tools->functions);
    tools->functions[tools->n_functions++] = (toolsvc_function){.name = rlf_strdup(name), .description = rlf_strdup(description),
                                                                .parameters = json_incref(parameters), .tool = tool};
    return RLF_OK;
}

/* The one function of a tool, with the schema of the kind or the configuration. */
static rlf_status add_own_function(toolsvc_tools *tools, size_t tool) {
    const rlf_tool_config *config = tools->v[tool].config;
    const toolsvc_kind *kind = tools->v[tool].kind;
    json_error_t error;
    const char *text = text_or(config->schema, kind->parameters);
    if (kind->parameters && *text_or(config->schema, ""))
        return RLF_RAISE(INVALID, "key \"schema\": tools of kind %s have a schema of their own", kind->name);
    if (!*text) return RLF_RAISE(INVALID, "key \"schema\": a tool of kind %s needs the JSON schema of its arguments", kind->name);
    json_t *parameters = toolsvc_json_parse(text, strlen(text), JSON_REJECT_DUPLICATES, &error);
    rlf_status status = parameters ? add_function(tools, tool, config->name, text_or(config->description, kind->description), parameters)
                                   : RLF_RAISE(INVALID, "not a JSON object: %s", error.text);
    if (status != RLF_OK) rlf_error_context("key \"schema\"");
    json_decref(parameters);
    return status;
}

/* What the service of a tool says that it offers. */
static rlf_status add_offered_functions(toolsvc_tools *tools, size_t tool) {
    rlf_status status = RLF_OK;
    json_t *list = tools->v[tool].kind->functions(tools->v[tool].state);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *f = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(f, "name")),
            *description = json_string_value(json_object_get(f, "description"));
        if (!name || !*name) RLF_FAIL(INVALID, "function %zu has no name", i);
        status = add_function(tools, tool, name, text_or(description, ""), json_object_get(f, "parameters"));
        if (status != RLF_OK) {
            rlf_error_context("function \"%.64s\"", name);
            break;
        }
    }
out:
    json_decref(list);
    return status;
}

static rlf_status open_tool(toolsvc_tools *tools, const rlf_config *config, size_t i, const toolsvc_kind *const *kinds) {
    rlf_status status = RLF_OK;
    toolsvc_tool *tool = &tools->v[i];
    tool->config = &config->tools[i];
    RLF_TRY(check_config(config, i));
    const char *kind = text_or(tool->config->kind, "");
    tool->kind = find_kind(kinds, kind);
    if (!tool->kind) RLF_FAIL(INVALID, "key \"kind\": unknown kind \"%s\"", kind);
    tool->keeps_state = tool->kind->episode_open && (!tool->kind->keeps_state || tool->kind->keeps_state(tool->config));
    if (strcmp(text_or(tool->config->state, ""), "episode") == 0 && !tool->keeps_state)
        RLF_FAIL(INVALID, "key \"state\": tools of kind %s keep no state per episode", kind);
    if (tool->config->batch > 1 && !tool->kind->batches) RLF_FAIL(INVALID, "key \"batch\": tools of kind %s take one call at a time", kind);
    if (tools->replayed) {
        tools->n++;
        goto out;
    }
    if (tool->kind->open) RLF_TRY(tool->kind->open(tool->config, tools->loop, &tool->state));
    tool->opened = true;
    tools->n++;
    if (!tool->keeps_state) RLF_TRY(toolsvc_cache_open(&tool->cache, tool->config));
    RLF_TRY(tool->kind->functions ? add_offered_functions(tools, i) : add_own_function(tools, i));
out:
    if (status != RLF_OK) rlf_error_context("tools[%zu] (%s)", i, text_or(tool->config->name, ""));
    return status;
}

static rlf_status add_recorded_functions(toolsvc_tools *tools, const char *folder) {
    json_t *list = NULL;
    rlf_status status = toolsvc_traffic_functions(folder, &list);
    for (size_t i = 0; status == RLF_OK && i < json_array_size(list); i++) {
        const json_t *f = json_array_get(list, i);
        const char *of = text_or(json_string_value(json_object_get(f, "tool")), "");
        size_t tool = 0;
        while (tool < tools->n && strcmp(tools->v[tool].config->name, of) != 0) tool++;
        if (tool == tools->n) continue; /* a tool that this job does not have */
        status = add_function(tools, tool, text_or(json_string_value(json_object_get(f, "name")), of),
                              text_or(json_string_value(json_object_get(f, "description")), ""), json_object_get(f, "parameters"));
    }
    json_decref(list);
    return status;
}

rlf_status toolsvc_tools_init(toolsvc_tools *tools, uv_loop_t *loop, const rlf_config *config, const toolsvc_kind *const *kinds) {
    rlf_status status = RLF_OK;
    *tools = (toolsvc_tools){.loop = loop, .v = rlf_calloc(config->n_tools + 1, sizeof(toolsvc_tool)),
                             .replayed = *text_or(config->traffic.replay, "") != '\0'};
    for (size_t i = 0; i < config->n_tools; i++) RLF_TRY(open_tool(tools, config, i, kinds ? kinds : built_in));
    if (tools->replayed) RLF_TRY(add_recorded_functions(tools, config->traffic.replay));
out:
    if (status != RLF_OK) toolsvc_tools_clean_up(tools);
    return status;
}

void toolsvc_tools_clean_up(toolsvc_tools *tools) {
    for (size_t i = 0; i < tools->n; i++)
        if (tools->v[i].opened && tools->v[i].kind->close) tools->v[i].kind->close(tools->v[i].state);
    for (size_t i = 0; i < tools->n; i++) toolsvc_cache_close(tools->v[i].cache);
    for (int64_t end = rlf_now_ms() + CLOSE_MS; tools->loop && uv_loop_alive(tools->loop) && rlf_now_ms() < end; rlf_sleep_us(100))
        uv_run(tools->loop, UV_RUN_NOWAIT);
    for (size_t i = 0; i < tools->n_functions; i++) {
        free(tools->functions[i].name);
        free(tools->functions[i].description);
        json_decref(tools->functions[i].parameters);
    }
    free(tools->functions);
    free(tools->v);
    *tools = (toolsvc_tools){0};
}

/* ---- calls --------------------------------------------------------------------------------------------------------------------------- */

static bool is_allowed(toolsvc_allowed allowed, size_t function) { return !allowed || allowed[function]; }

static bool find_function(const toolsvc_tools *tools, toolsvc_allowed allowed, rlf_slice name, size_t *function) {
    for (*function = 0; *function < tools->n_functions; ++*function)
        if (is_allowed(allowed, *function) && rlf_slice_eq(name, tools->functions[*function].name)) return true;
    return false;
}

static void put_unknown(const toolsvc_tools *tools, toolsvc_allowed allowed, rlf_slice name, rlf_str *error) {
    enum { SHOWN = 64 };
    bool any = false;
    rlf_str_puts(error, "error: there is no tool \"");
    toolsvc_append_utf8(error, name.ptr, name.len > SHOWN ? SHOWN : name.len);
    rlf_str_puts(error, "\"; the tools are: ");
    for (size_t i = 0; i < tools->n_functions; i++) {
        if (!is_allowed(allowed, i)) continue;
        rlf_str_printf(error, "%s%s", any ? ", " : "", tools->functions[i].name);
        any = true;
    }
    if (!any) rlf_str_puts(error, "none");
}

static void put_schema(const toolsvc_function *f, rlf_str *error) {
    rlf_str_puts(error, "; its parameters are ");
    rlf_json_write(f->parameters, RLF_JSON_TIGHT, error);
}

rlf_call_status toolsvc_tools_check(const toolsvc_tools *tools, toolsvc_allowed allowed, rlf_slice name, rlf_slice arguments,
                                    size_t *function, json_t **parsed, rlf_str *error) {
    *parsed = NULL;
    if (!find_function(tools, allowed, name, function)) {
        put_unknown(tools, allowed, name, error);
        return RLF_CALL_BAD_CALL;
    }
    const toolsvc_function *f = &tools->functions[*function];
    json_error_t parse_error;
    json_t *value = toolsvc_json_parse(arguments.ptr ? arguments.ptr : "", arguments.len, JSON_DECODE_ANY, &parse_error);
    rlf_str_puts(error, "error: ");
    if (!value) {
        rlf_str_printf(error, "the arguments of %s are not valid JSON: ", f->name);
        toolsvc_append_utf8(error, parse_error.text, strlen(parse_error.text));
    } else if (toolsvc_schema_check(f->parameters, value, f->name, error)) {
        rlf_str_reset(error);
        *parsed = value;
        return RLF_CALL_OK;
    }
    json_decref(value);
    put_schema(f, error);
    return RLF_CALL_BAD_CALL;
}

/* ---- schemas ------------------------------------------------------------------------------------------------------------------------- */

static json_t *schema_of(const toolsvc_function *f) {
    return json_pack("{s:s, s:{s:s, s:s, s:O}}", "type", "function", "function", "name", f->name, "description",
                     f->description, "parameters",
                     f->parameters);
}

void toolsvc_tools_schemas(const toolsvc_tools *tools, rlf_str *out) {
    json_t *list = json_array();
    for (size_t i = 0; i < tools->n_functions; i++) json_array_append_new(list, schema_of(&tools->functions[i]));
    rlf_json_write(list, RLF_JSON_TIGHT, out);
    json_decref(list);
}

rlf_status toolsvc_describe(const rlf_config *config, rlf_str *schemas) {
    toolsvc_tools tools;
    uv_loop_t loop;
    if (uv_loop_init(&loop) != 0) return RLF_RAISE(INTERNAL, "libuv: cannot make an event loop");
    rlf_status status = toolsvc_tools_init(&tools, &loop, config, NULL);
    if (status == RLF_OK) {
        toolsvc_tools_schemas(&tools, schemas);
        toolsvc_tools_clean_up(&tools);
    }
    uv_loop_close(&loop);
    return status;
}
