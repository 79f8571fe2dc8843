/* A plugin for tests. `do` does what its argument `what` says: echo (`text`), options, extra (extra_info), fail, infra, long (150 kB),
 * wait (until it is cancelled), odd (returns a status that there is none of), env (the variable KEY). `search` tells its `query`, how
 * often this episode asked, and a draw from the episode's seed. Compiled in several ways:
 *   PLUGIN_STATELESS   without episodes
 *   PLUGIN_ABI         says that it is of another version
 *   PLUGIN_NO_RUN      lacks run */
#include "toolsvc/plugin.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef PLUGIN_ABI
#define PLUGIN_ABI RLF_PLUGIN_ABI
#endif

typedef struct episode {
    uint64_t random;
    unsigned asked;
    char *extra;
} episode;

static const char *describe(void *state) {
    (void)state;
    return "[{\"name\": \"do\", \"description\": \"Does it.\", \"parameters\": {\"type\": \"object\", \"properties\": {\"what\": {\"type\": "
           "\"string\"}}, \"required\": [\"what\"]}},"
           " {\"name\": \"search\", \"description\": \"Finds it.\", \"parameters\": {\"type\": \"object\", \"properties\": {\"query\": "
           "{\"type\": \"string\"}}, \"required\": [\"query\"]}}]";
}

static rlf_plugin_status open_plugin(const char *options, void **state, rlf_plugin_out *why) {
    if (strstr(options, "refuse")) {
        rlf_plugin_puts(why, "it was told to refuse");
        return RLF_PLUGIN_TOOL_ERROR;
    }
    *state = strdup(options);
    return *state ? RLF_PLUGIN_OK : RLF_PLUGIN_INFRA_ERROR;
}

static rlf_plugin_status tell(rlf_plugin_out *out, const char *text, rlf_plugin_status status) {
    rlf_plugin_puts(out, text);
    return status;
}

static rlf_plugin_status search(episode *e, const char *query, rlf_plugin_out *answer) {
    char text[256];
    e->asked++;
    e->random = e->random * 6364136223846793005u + 1442695040888963407u;
    snprintf(text, sizeof text, "Doc 1(Title: %.100s) Question %u, draw %u.", query, e->asked, (unsigned)(e->random >> 33) % 1000);
    return tell(answer, text, RLF_PLUGIN_OK);
}

static rlf_plugin_status tell_endlessly(rlf_plugin_out *out) {
    for (int i = 0; i < 2000; i++) rlf_plugin_puts(out, "0123456789012345678901234567890123456789012345678901234567890123456789012345");
    return RLF_PLUGIN_OK;
}

static rlf_plugin_status wait(const rlf_plugin_call *call) {
    while (!rlf_plugin_cancelled(call)) usleep(1000);
    return RLF_PLUGIN_INFRA_ERROR;
}

static rlf_plugin_status act(const char *state, const episode *e, const json_t *arguments, const rlf_plugin_call *call,
                             rlf_plugin_out *out) {
    const char *what = json_string_value(json_object_get(arguments, "what")), *text = json_string_value(json_object_get(arguments, "text"));
    if (!strcmp(what, "echo")) return tell(out, text ? text : "", RLF_PLUGIN_OK);
    if (!strcmp(what, "options")) return tell(out, state, RLF_PLUGIN_OK);
    if (!strcmp(what, "extra")) return tell(out, e ? e->extra : "none", RLF_PLUGIN_OK);
    if (!strcmp(what, "env")) return tell(out, getenv("KEY"), RLF_PLUGIN_OK);
    if (!strcmp(what, "fail")) return tell(out, "no such thing", RLF_PLUGIN_TOOL_ERROR);
    if (!strcmp(what, "infra")) return tell(out, "out of order", RLF_PLUGIN_INFRA_ERROR);
    if (!strcmp(what, "long")) return tell_endlessly(out);
    if (!strcmp(what, "wait")) return wait(call);
    return (rlf_plugin_status)77;
}

static rlf_plugin_status run(void *state, void *opened, const rlf_plugin_call *call, rlf_plugin_out *answer) {
    json_t *arguments = json_loadb(call->arguments, call->arguments_bytes, 0, NULL);
    rlf_plugin_status status = !strcmp(call->function, "search")
        ? search(opened, json_string_value(json_object_get(arguments, "query")), answer) : act(state, opened, arguments, call, answer);
    json_decref(arguments);
    return status;
}

static rlf_plugin_status open_episode(void *state, const rlf_plugin_origin *origin, void **opened, rlf_plugin_out *why) {
    if (strstr(state, "no episodes")) return tell(why, "there is no room", RLF_PLUGIN_TOOL_ERROR);
    episode *e = calloc(1, sizeof *e);
    e->random = origin->seed;
    e->extra = strdup(origin->extra_info);
    *opened = e;
    return RLF_PLUGIN_OK;
}

static void close_episode(void *state, void *opened) {
    episode *e = opened;
    (void)state;
    free(e->extra);
    free(e);
}

static const rlf_plugin plugin = {
    .abi = PLUGIN_ABI,
    .describe = describe,
    .open = open_plugin,
    .close = free,
#ifndef PLUGIN_STATELESS
    .episode_open = open_episode,
    .episode_close = close_episode,
#endif
#ifndef PLUGIN_NO_RUN
    .run = run,
#endif
};

RLF_PLUGIN_EXPORT const rlf_plugin *rlf_plugin_entry(void) {
    (void)open_episode, (void)close_episode, (void)run; /* in each way of compiling */
    return &plugin;
}
