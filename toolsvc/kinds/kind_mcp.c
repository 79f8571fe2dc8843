/* The tool kind "mcp": the functions of a Model Context Protocol server (mcp.h), which is a program or a service (mcp_server.h).
 *
 * state shared: one session for all calls of this rank. state episode: a session for each episode, from its first call on; when it is lost,
 * so is the episode's state, and its calls are infra errors. Some sessions are kept ready (key workers) once the first is taken.
 *
 * What is offered is fixed when the tool is opened, and sorted by name, so that the prompt does not depend on the order in which the server
 * lists it. */
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "toolsvc/kind.h"
#include "toolsvc/mcp/mcp.h"
#include "toolsvc/mcp/mcp_content.h"

enum { SHOWN_MAX = 400 };

typedef struct mcp_tool {
    const rlf_tool_config *config;
    toolsvc_mcp_server *server;
    toolsvc_mcp *shared;   /* NULL with state per episode */
    toolsvc_mcp **spares;  /* (workers + 1), sessions that no episode has yet */
    size_t n_spares;
    json_t *functions;     /* as kind.h wants them */
} mcp_tool;

static bool keeps_state(const rlf_tool_config *config) { return config->state && strcmp(config->state, "episode") == 0; }

/* ---- what is offered --------------------------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    const json_t *x = *(const json_t *const *)a, *y = *(const json_t *const *)b;
    return strcmp(json_string_value(json_object_get(x, "name")), json_string_value(json_object_get(y, "name")));
}

static const json_t *find_function(const json_t *list, const char *name) {
    for (size_t i = 0; name && i < json_array_size(list); i++) {
        const char *known = json_string_value(json_object_get(json_array_get(list, i), "name"));
        if (known && strcmp(known, name) == 0) return json_array_get(list, i);
    }
    return NULL;
}

static json_t *offer_of(const json_t *function, const char *prefix) {
    const char *name = json_string_value(json_object_get(function, "name"));
    const char *description = json_string_value(json_object_get(function, "description"));
    const json_t *schema = json_object_get(function, "inputSchema");
    rlf_str full = {0};
    rlf_str_printf(&full, "%s%s", prefix, name);
    json_t *parameters = json_object_size(schema) ? json_deep_copy(schema) : json_pack("{s:s, s:{}}", "type", "object", "properties");
    json_t *offer = json_pack("{s:s, s:s, s:o}", "name", full.ptr, "description", description ? description : "", "parameters", parameters);
    rlf_str_clean_up(&full);
    return offer;
}

static rlf_status refuse_unknown(const json_t *list, const char *name) {
    rlf_str has = {0};
    for (size_t i = 0; i < json_array_size(list) && has.len < SHOWN_MAX; i++) {
        const char *known = json_string_value(json_object_get(json_array_get(list, i), "name"));
        rlf_str_printf(&has, "%s%.64s", i ? ", " : "", known ? known : "(no name)");
    }
    rlf_status status = RLF_RAISE(NOT_FOUND, "key \"functions\": the server has no \"%.64s\"; it has: %s", name,
                                  has.ptr ? has.ptr : "none");
    rlf_str_clean_up(&has);
    return status;
}

/* Borrowed entries of the server's list, sorted: those of key functions, or all. */
static rlf_status choose_functions(const json_t *list, const json_t *wanted, const json_t **chosen, size_t *n) {
    if (wanted && !json_is_array(wanted)) return RLF_RAISE(INVALID, "key \"functions\": a list of names was expected");
    for (size_t i = 0; i < json_array_size(wanted ? wanted : list); i++) {
        const json_t *entry = json_array_get(wanted ? wanted : list, i);
        const char *name = json_string_value(wanted ? entry : json_object_get(entry, "name"));
        const json_t *function = wanted ? find_function(list, name) : entry;
        if (!function) return refuse_unknown(list, name ? name : "(not a text)");
        if (!name || !*name) return RLF_RAISE(INVALID, "the server's function %zu has no name", i);
        chosen[(*n)++] = function;
    }
    qsort(chosen, *n, sizeof *chosen, by_name);
    return RLF_OK;
}

static rlf_status make_offers(mcp_tool *tool, const json_t *list) {
    json_t *wanted = rlf_config_json(tool->config->functions);
    size_t n = 0, most = json_array_size(wanted ? wanted : list);
    const json_t **chosen = rlf_calloc(most + 1, sizeof *chosen);
    rlf_status status = choose_functions(list, wanted, chosen, &n);
    tool->functions = json_array();
    if (status == RLF_OK && n == 0) RLF_WARN("%s: the MCP server offers no function", tool->config->name);
    for (size_t i = 0; status == RLF_OK && i < n; i++)
        json_array_append_new(tool->functions, offer_of(chosen[i], tool->config->prefix ? tool->config->prefix : ""));
    free(chosen);
    json_decref(wanted);
    return status;
}

static json_t *functions(void *state) { return json_incref(((mcp_tool *)state)->functions); }

/* ---- life -------------------------------------------------------------------------------------------------------------------------- */

static void close_mcp(void *state) {
    mcp_tool *tool = state;
    if (tool->shared) toolsvc_mcp_destroy(tool->shared);
    for (size_t i = 0; i < tool->n_spares; i++) toolsvc_mcp_destroy(tool->spares[i]);
    toolsvc_mcp_server_close(tool->server);
    json_decref(tool->functions);
    free(tool->spares);
    free(tool);
}

/* why may be the server's own words. */
static rlf_status refuse_server(const mcp_tool *tool, const char *why) {
    rlf_str clean = {0};
    toolsvc_secrets_blot(toolsvc_mcp_server_secrets(tool->server), why, strlen(why), &clean);
    rlf_status status = RLF_RAISE(IO, "the MCP server cannot be used: %s", clean.ptr ? clean.ptr : "");
    rlf_str_clean_up(&clean);
    return status;
}

static rlf_status open_mcp(const rlf_tool_config *config, uv_loop_t *loop, void **state) {
    rlf_status status = RLF_OK;
    bool episodes = keeps_state(config);
    mcp_tool *tool = rlf_calloc(1, sizeof *tool);
    tool->config = config;
    RLF_TRY(toolsvc_mcp_server_new(&tool->server, config, loop));
    toolsvc_mcp *first = toolsvc_mcp_new(tool->server, true, episodes);
    tool->spares = rlf_calloc((size_t)config->workers + 1, sizeof(toolsvc_mcp *));
    if (episodes) tool->spares[tool->n_spares++] = first;
    else tool->shared = first;
    while (toolsvc_mcp_state_of(first) == TOOLSVC_MCP_STARTING) uv_run(loop, UV_RUN_ONCE); /* start_ms bounds it */
    if (toolsvc_mcp_state_of(first) == TOOLSVC_MCP_LOST) RLF_TRY(refuse_server(tool, toolsvc_mcp_why(first)));
    RLF_TRY(make_offers(tool, toolsvc_mcp_functions(first)));
    *state = tool;
out:
    if (status != RLF_OK) close_mcp(tool);
    return status;
}

/* ---- episodes ---------------------------------------------------------------------------------------------------------------------- */

static toolsvc_mcp *take_spare(mcp_tool *tool) {
    while (tool->n_spares > 0) {
        toolsvc_mcp *mcp = tool->spares[--tool->n_spares];
        if (toolsvc_mcp_state_of(mcp) != TOOLSVC_MCP_LOST) return mcp;
        toolsvc_mcp_destroy(mcp);
    }
    return toolsvc_mcp_new(tool->server, false, true);
}

static rlf_status open_episode(void *state, const toolsvc_origin *origin, void **episode) {
    mcp_tool *tool = state;
    (void)origin;
    *episode = take_spare(tool);
    while ((int64_t)tool->n_spares < tool->config->workers) tool->spares[tool->n_spares++] = toolsvc_mcp_new(tool->server, false, true);
    return RLF_OK;
}

static void close_episode(void *state, void *episode) {
    (void)state;
    toolsvc_mcp_destroy(episode);
}

/* ---- calls ------------------------------------------------------------------------------------------------------------------------- */

static toolsvc_mcp *session_of(const toolsvc_call *call) { return call->episode ? call->episode : ((mcp_tool *)call->state)->shared; }

static void tell_news(toolsvc_call *call) {
    toolsvc_mcp_news *news = toolsvc_mcp_news_of(session_of(call));
#define TELL_(name) for (; news->name > 0; news->name--) toolsvc_call_count(call, #name);
    TOOLSVC_MCP_NEWS(TELL_)
#undef TELL_
}

static void on_answer(void *user, const toolsvc_mcp_answer *answer) {
    toolsvc_call *call = user;
    const mcp_tool *tool = call->state;
    rlf_str text = {0}, clean = {0};
    rlf_call_status status = answer->result ? toolsvc_mcp_content(answer->result, &text)
        : answer->infra ? RLF_CALL_INFRA : RLF_CALL_TOOL_ERROR;
    if (!answer->result) rlf_str_puts(&text, answer->why);
    else if (status == RLF_CALL_INFRA) rlf_str_puts(&text, "the server's answer is no result of a call");
    if (status == RLF_CALL_INFRA) toolsvc_call_count(call, answer->result ? "invalid_answer" : answer->count);
    tell_news(call);
    toolsvc_secrets_blot(toolsvc_mcp_server_secrets(tool->server), text.ptr ? text.ptr : "", text.len, &clean);
    toolsvc_call_finish(call, status, clean.ptr ? clean.ptr : "", clean.len);
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&clean);
}

static void start_mcp(toolsvc_call *const *calls, size_t n) {
    toolsvc_call *call = calls[0];
    const char *prefix = call->config->prefix ? call->config->prefix : "";
    (void)n; /* 1: this kind takes no batches */
    call->data = (void *)(intptr_t)toolsvc_mcp_call(session_of(call), call->function + strlen(prefix), call->arguments, on_answer, call);
}

static void cancel_mcp(toolsvc_call *call) {
    toolsvc_mcp_cancel(session_of(call), (intptr_t)call->data);
    tell_news(call);
    toolsvc_call_finish(call, RLF_CALL_INFRA, "", 0);
}

const toolsvc_kind toolsvc_kind_mcp = {.name = "mcp",
                                       .description = "",
                                       .open = open_mcp,
                                       .close = close_mcp,
                                       .functions = functions,
                                       .keeps_state = keeps_state,
                                       .episode_open = open_episode,
                                       .episode_close = close_episode,
                                       .start = start_mcp,
                                       .cancel = cancel_mcp};
