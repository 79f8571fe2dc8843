/* Opening tools, checking calls, and the schemas shown in the prompt. */
#include "toolsvc/tools.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "toolsvc/toolsvc.h"

static const toolsvc_kind *const built_in[] = {&toolsvc_kind_index, &toolsvc_kind_calculator, NULL};

static const toolsvc_kind *find_kind(const toolsvc_kind *const *kinds, const char *name) {
    for (; *kinds; kinds++)
        if (strcmp((*kinds)->name, name) == 0) return *kinds;
    return NULL;
}

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

static rlf_status open_tool(toolsvc_tool *tool, const rlf_config *config, size_t i, const toolsvc_kind *const *kinds) {
    rlf_status status = RLF_OK;
    tool->config = &config->tools[i];
    RLF_TRY(check_config(config, i));
    const char *kind = tool->config->kind ? tool->config->kind : "";
    tool->kind = find_kind(kinds, kind);
    if (!tool->kind) RLF_FAIL(INVALID, "key \"kind\": unknown kind \"%s\"; index or calculator was expected", kind);
    if (tool->kind->open) RLF_TRY(tool->kind->open(tool->config, &tool->state));
out:
    if (status != RLF_OK) rlf_error_context("tools[%zu] (%s)", i, tool->config->name ? tool->config->name : "");
    return status;
}

rlf_status toolsvc_tools_init(toolsvc_tools *tools, const rlf_config *config, const toolsvc_kind *const *kinds) {
    rlf_status status = RLF_OK;
    *tools = (toolsvc_tools){.v = rlf_calloc(config->n_tools + 1, sizeof(toolsvc_tool))};
    for (size_t i = 0; i < config->n_tools; i++) {
        RLF_TRY(open_tool(&tools->v[i], config, i, kinds ? kinds : built_in));
        tools->n++;
    }
out:
    if (status != RLF_OK) toolsvc_tools_clean_up(tools);
    return status;
}

void toolsvc_tools_clean_up(toolsvc_tools *tools) {
    for (size_t i = 0; i < tools->n; i++)
        if (tools->v[i].kind->close) tools->v[i].kind->close(tools->v[i].state);
    free(tools->v);
    *tools = (toolsvc_tools){0};
}

rlf_status toolsvc_check(const rlf_config *config) {
    toolsvc_tools tools;
    rlf_status status = toolsvc_tools_init(&tools, config, NULL);
    if (status == RLF_OK) toolsvc_tools_clean_up(&tools);
    return status;
}

/* ---- text ---------------------------------------------------------------------------------------------------------------------------- */

void toolsvc_append_utf8(rlf_str *out, const char *bytes, size_t n) {
    size_t good = 0; /* begin of the run not yet copied */
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)bytes + i, (utf8proc_ssize_t)(n - i), &c);
        if (len > 0 && c != 0) {
            i += (size_t)len;
            continue;
        }
        rlf_str_append(out, bytes + good, i - good);
        rlf_str_puts(out, "\xef\xbf\xbd");
        good = ++i;
    }
    rlf_str_append(out, bytes + good, n - good);
}

/* ---- calls --------------------------------------------------------------------------------------------------------------------------- */

static void list_tools(const toolsvc_tools *tools, rlf_str *out) {
    for (size_t i = 0; i < tools->n; i++) rlf_str_printf(out, "%s%s", i ? ", " : "", tools->v[i].config->name);
    if (tools->n == 0) rlf_str_puts(out, "none");
}

static bool find_tool(const toolsvc_tools *tools, rlf_slice name, size_t *tool) {
    for (*tool = 0; *tool < tools->n; ++*tool)
        if (rlf_slice_eq(name, tools->v[*tool].config->name)) return true;
    return false;
}

static const char *json_type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

/* The one parameter's value out of the parsed arguments. */
static rlf_call_status take_argument(const toolsvc_tool *tool, const json_t *arguments, rlf_str *argument, rlf_str *error) {
    const char *name = tool->kind->parameter.name;
    if (!json_is_object(arguments)) {
        rlf_str_printf(error, "error: the arguments of %s must be a JSON object, not %s", tool->config->name, json_type_name(arguments));
        return RLF_CALL_BAD_CALL;
    }
    const json_t *value = json_object_get(arguments, name);
    if (!value) {
        rlf_str_printf(error, "error: %s needs the argument \"%s\" (a string)", tool->config->name, name);
        return RLF_CALL_BAD_CALL;
    }
    if (!json_is_string(value)) {
        rlf_str_printf(error, "error: the argument \"%s\" of %s must be a string, not %s", name, tool->config->name, json_type_name(value));
        return RLF_CALL_BAD_CALL;
    }
    rlf_str_append(argument, json_string_value(value), json_string_length(value));
    return RLF_CALL_OK;
}

rlf_call_status toolsvc_tools_check(const toolsvc_tools *tools, rlf_slice name, rlf_slice arguments, size_t *tool,
                                    rlf_str *argument, rlf_str *error) {
    if (!find_tool(tools, name, tool)) {
        enum { SHOWN = 64 };
        rlf_str_puts(error, "error: there is no tool \"");
        toolsvc_append_utf8(error, name.ptr, name.len > SHOWN ? SHOWN : name.len);
        rlf_str_puts(error, "\"; the tools are: ");
        list_tools(tools, error);
        return RLF_CALL_BAD_CALL;
    }
    json_error_t parse_error;
    json_t *parsed = json_loadb(arguments.ptr ? arguments.ptr : "", arguments.len, JSON_DECODE_ANY, &parse_error);
    if (!parsed) {
        rlf_str_printf(error, "error: the arguments of %s are not valid JSON: ", tools->v[*tool].config->name);
        toolsvc_append_utf8(error, parse_error.text, strlen(parse_error.text));
        return RLF_CALL_BAD_CALL;
    }
    rlf_call_status status = take_argument(&tools->v[*tool], parsed, argument, error);
    json_decref(parsed);
    return status;
}

rlf_call_status toolsvc_tool_run(const toolsvc_tool *tool, const rlf_str *argument, const atomic_bool *cancel, rlf_str *out) {
    rlf_str raw = {0};
    const char *text = argument->ptr ? argument->ptr : "";
    rlf_call_status status = tool->kind->run(tool->config, tool->state, text, argument->len, cancel, &raw);
    if (status != RLF_CALL_OK) rlf_str_puts(out, "error: ");
    if (raw.len) toolsvc_append_utf8(out, raw.ptr, raw.len);
    rlf_str_clean_up(&raw);
    return status;
}

/* ---- schemas ------------------------------------------------------------------------------------------------------------------------- */

static json_t *schema_of(const rlf_tool_config *config, const toolsvc_kind *kind) {
    const char *description = config->description && config->description[0] ? config->description : kind->description;
    const toolsvc_parameter *p = &kind->parameter;
    return json_pack("{s:s, s:{s:s, s:s, s:{s:s, s:{s:{s:s, s:s}}, s:[s]}}}", "type", "function", "function", "name",
                     config->name, "description", description,
                     "parameters", "type", "object", "properties", p->name, "type", "string", "description", p->description,
                     "required", p->name);
}

void toolsvc_schemas(const rlf_config *config, rlf_str *out) {
    json_t *list = json_array();
    for (size_t i = 0; i < config->n_tools; i++) {
        const toolsvc_kind *kind = find_kind(built_in, config->tools[i].kind ? config->tools[i].kind : "");
        if (kind) json_array_append_new(list, schema_of(&config->tools[i], kind));
    }
    char *text = json_dumps(list, JSON_COMPACT | JSON_PRESERVE_ORDER);
    if (text) rlf_str_puts(out, text);
    free(text);
    json_decref(list);
}
