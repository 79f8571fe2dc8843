/* The tool kind "plugin": a shared library with the functions of plugin.h, on worker threads.
 *
 * An episode's state is opened by the worker that runs its first call, and closed by a worker too, so that nothing of a plugin but open,
 * describe and close runs on the loop's thread. It is closed when no such worker is under way. */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "toolsvc/kind.h"
#include "toolsvc/plugin.h"
#include "toolsvc/secrets.h"
#include "toolsvc/text.h"

typedef struct plugin_tool {
    const rlf_tool_config *config;
    uv_loop_t *loop;
    void *library;
    const rlf_plugin *plugin;
    void *state;
    bool opened, closing;
    size_t closing_episodes; /* under way on workers */
    json_t *functions;
    toolsvc_secrets secrets;
} plugin_tool;

typedef struct episode {
    plugin_tool *tool;
    void *episode;
    bool opened;
    uint64_t seed;
    rlf_str extra;
    uv_work_t work; /* of its closing */
} episode;

/* ---- what the plugin gets ------------------------------------------------------------------------------------------------------------ */

typedef struct sink {
    rlf_plugin_out out; /* first: append casts back */
    rlf_str text;
    size_t most;
    bool full;
} sink;

static void append(rlf_plugin_out *out, const char *bytes, size_t n) {
    sink *s = (sink *)out;
    s->full |= n > s->most - s->text.len;
    if (!s->full) rlf_str_append(&s->text, bytes, n);
}

static sink sink_for(const rlf_tool_config *config) { return (sink){.out = {append}, .most = (size_t)config->max_bytes}; }

typedef struct request {
    rlf_plugin_call call; /* first: cancelled casts back */
    const toolsvc_call *of;
} request;

static int is_cancelled(const rlf_plugin_call *call) { return atomic_load(&((const request *)call)->of->cancelled); }

/* ---- calls --------------------------------------------------------------------------------------------------------------------------- */

static rlf_plugin_status open_state(episode *e, sink *s) {
    const plugin_tool *t = e->tool;
    if (e->opened) return RLF_PLUGIN_OK;
    rlf_plugin_origin origin = {e->seed, e->extra.len ? e->extra.ptr : "{}"};
    rlf_plugin_status status = t->plugin->episode_open(t->state, &origin, &e->episode, &s->out);
    e->opened = status == RLF_PLUGIN_OK;
    return e->opened ? RLF_PLUGIN_OK : RLF_PLUGIN_INFRA_ERROR;
}

static rlf_call_status answer_with(const plugin_tool *t, rlf_plugin_status status, const sink *s, rlf_str *out) {
    if (s->full) {
        rlf_str_printf(out, "the answer has more than %zu bytes", s->most);
        return RLF_CALL_INFRA;
    }
    toolsvc_secrets_blot(&t->secrets, s->text.ptr ? s->text.ptr : "", s->text.len, out);
    return status == RLF_PLUGIN_OK ? RLF_CALL_OK : status == RLF_PLUGIN_TOOL_ERROR ? RLF_CALL_TOOL_ERROR : RLF_CALL_INFRA;
}

static rlf_call_status run_plugin(const toolsvc_call *call, rlf_str *out) {
    const plugin_tool *t = call->state;
    episode *e = call->episode;
    sink s = sink_for(t->config);
    request r = {.call = {call->function, call->text.ptr, call->text.len, is_cancelled}, .of = call};
    rlf_plugin_status status = e ? open_state(e, &s) : RLF_PLUGIN_OK;
    if (status == RLF_PLUGIN_OK) status = t->plugin->run(t->state, e ? e->episode : NULL, &r.call, &s.out);
    rlf_call_status ended = answer_with(t, status, &s, out);
    rlf_str_clean_up(&s.text);
    return ended;
}

/* ---- opening and closing ------------------------------------------------------------------------------------------------------------- */

static rlf_status load(plugin_tool *t) {
    char path[PATH_MAX];
    if (!realpath(t->config->path, path)) return RLF_RAISE(NOT_FOUND, "%s: %s", t->config->path, strerror(errno));
    t->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!t->library) return RLF_RAISE(INVALID, "it cannot be loaded: %s", dlerror());
    const rlf_plugin *(*entry)(void) = NULL;
    *(void **)&entry = dlsym(t->library, "rlf_plugin_entry");
    t->plugin = entry ? entry() : NULL;
    if (!t->plugin) return RLF_RAISE(INVALID, "%s has no function rlf_plugin_entry that gives a plugin (toolsvc/plugin.h)", path);
    if (t->plugin->abi != RLF_PLUGIN_ABI)
        return RLF_RAISE(UNSUPPORTED, "%s is built for version %u of toolsvc/plugin.h, and this program has version %u", path,
                         (unsigned)t->plugin->abi, (unsigned)RLF_PLUGIN_ABI);
    return RLF_OK;
}

static bool keeps_state(const rlf_tool_config *config) { return config->state && strcmp(config->state, "episode") == 0; }

static rlf_status check(const plugin_tool *t) {
    const rlf_plugin *p = t->plugin;
    bool episodes = p->episode_open && p->episode_close;
    if (!p->describe || !p->run || !p->episode_open != !p->episode_close)
        return RLF_RAISE(INVALID, "key \"path\": the plugin lacks describe, run, or one of episode_open and episode_close");
    if (episodes && !keeps_state(t->config))
        return RLF_RAISE(INVALID, "key \"state\": the plugin keeps state per episode; episode was expected");
    if (!episodes && keeps_state(t->config)) return RLF_RAISE(INVALID, "key \"state\": the plugin keeps no state per episode");
    return RLF_OK;
}

static rlf_status open_plugin_itself(plugin_tool *t) {
    const char *options = t->config->options && *t->config->options ? t->config->options : "{}";
    sink s = sink_for(t->config);
    rlf_status status = RLF_OK;
    if (t->plugin->open && t->plugin->open(options, &t->state, &s.out) != RLF_PLUGIN_OK)
        status = RLF_RAISE(INVALID, "the plugin refuses to open: %s", s.text.len ? s.text.ptr : "it does not say why");
    rlf_str_clean_up(&s.text);
    t->opened = status == RLF_OK;
    return status;
}

static rlf_status ask_functions(plugin_tool *t) {
    json_error_t error = {.text = "nothing"};
    const char *text = t->plugin->describe(t->state);
    t->functions = text ? toolsvc_json_parse(text, strlen(text), JSON_REJECT_DUPLICATES, &error) : NULL;
    if (json_array_size(t->functions) > 0) return RLF_OK;
    return RLF_RAISE(INVALID, "key \"path\": the plugin describes no list of functions: %s",
                     t->functions ? "it is empty, or no list" : error.text);
}

static void free_tool(plugin_tool *t) {
    if (t->opened && t->plugin->close) t->plugin->close(t->state);
    json_decref(t->functions);
    toolsvc_secrets_clean_up(&t->secrets);
    if (t->library) dlclose(t->library);
    free(t);
}

static rlf_status open_plugin(const rlf_tool_config *config, uv_loop_t *loop, void **state) {
    plugin_tool *t = rlf_calloc(1, sizeof *t);
    *t = (plugin_tool){.config = config, .loop = loop};
    rlf_status status = toolsvc_secrets_init(&t->secrets, config->secrets);
    if (status == RLF_OK) {
        status = load(t);
        if (status != RLF_OK) rlf_error_context("key \"path\"");
    }
    if (status == RLF_OK) status = check(t);
    if (status == RLF_OK) status = open_plugin_itself(t);
    if (status == RLF_OK) status = ask_functions(t);
    if (status == RLF_OK) *state = t;
    else free_tool(t);
    return status;
}

static void close_plugin(void *state) {
    plugin_tool *t = state;
    t->closing = true;
    if (t->closing_episodes == 0) free_tool(t);
}

static json_t *functions_of(void *state) { return json_incref(((plugin_tool *)state)->functions); }

/* ---- episodes ------------------------------------------------------------------------------------------------------------------------ */

static rlf_status open_episode(void *state, const toolsvc_origin *origin, void **out) {
    episode *e = rlf_calloc(1, sizeof *e);
    *e = (episode){.tool = state, .seed = origin->seed};
    rlf_str_append(&e->extra, origin->extra.ptr, origin->extra.len);
    *out = e;
    return RLF_OK;
}

static void free_episode(episode *e) {
    rlf_str_clean_up(&e->extra);
    free(e);
}

static void close_on_worker(uv_work_t *work) {
    episode *e = work->data;
    e->tool->plugin->episode_close(e->tool->state, e->episode);
}

static void after_closing(uv_work_t *work, int status) {
    episode *e = work->data;
    plugin_tool *t = e->tool;
    (void)status; /* never cancelled */
    free_episode(e);
    if (--t->closing_episodes == 0 && t->closing) free_tool(t);
}

static void close_episode(void *state, void *opened) {
    plugin_tool *t = state;
    episode *e = opened;
    if (!e->opened) {
        free_episode(e);
        return;
    }
    e->work.data = e;
    t->closing_episodes++;
    uv_queue_work(t->loop, &e->work, close_on_worker, after_closing);
}

const toolsvc_kind toolsvc_kind_plugin = {.name = "plugin",
                                          .open = open_plugin,
                                          .close = close_plugin,
                                          .functions = functions_of,
                                          .keeps_state = keeps_state,
                                          .episode_open = open_episode,
                                          .episode_close = close_episode,
                                          .run = run_plugin};
