/* A plugin with state per episode, as toolsvc/plugin.h describes it: dice whose throws follow from the episode's seed.
 *
 *     cc -shared -fPIC -I PREFIX/include jobs/tools/dice.c -o libdice.so        (in this tree: -I . and the include "toolsvc/plugin.h")
 *     tools: [{name: dice, kind: plugin, path: ./libdice.so, state: episode, options: {sides: 20}}]
 */
#if __has_include(<rlf/plugin.h>)
#include <rlf/plugin.h>
#else
#include "toolsvc/plugin.h"
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct dice {
    unsigned sides;
} dice;

typedef struct game {
    uint64_t random;
    unsigned throws;
} game;

static const char *describe(void *state) {
    (void)state;
    return "[{\"name\": \"throw_die\", \"description\": \"Throws a die.\", \"parameters\": {\"type\": \"object\", \"properties\": {}}},"
           " {\"name\": \"count_throws\", \"description\": \"How often it was thrown.\", \"parameters\": {\"type\": \"object\", "
           "\"properties\": {}}}]";
}

static rlf_plugin_status open_dice(const char *options, void **state, rlf_plugin_out *why) {
    const char *sides = strstr(options, "\"sides\":"); /* a real one would have a JSON parser */
    unsigned long n = sides ? strtoul(sides + strlen("\"sides\":"), NULL, 10) : 6;
    dice *d = n >= 2 && n <= 1000000 ? malloc(sizeof *d) : NULL;
    if (!d) {
        rlf_plugin_puts(why, "option sides: a number from 2 to 1000000 was expected");
        return RLF_PLUGIN_INFRA_ERROR;
    }
    d->sides = (unsigned)n;
    *state = d;
    return RLF_PLUGIN_OK;
}

static void close_dice(void *state) { free(state); }

static rlf_plugin_status open_game(void *state, const rlf_plugin_origin *origin, void **episode, rlf_plugin_out *why) {
    game *g = calloc(1, sizeof *g);
    (void)state, (void)why;
    if (!g) return RLF_PLUGIN_INFRA_ERROR;
    g->random = origin->seed;
    *episode = g;
    return RLF_PLUGIN_OK;
}

static void close_game(void *state, void *episode) {
    (void)state;
    free(episode);
}

static uint64_t draw(game *g) { /* splitmix64 */
    uint64_t x = g->random += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static rlf_plugin_status run(void *state, void *episode, const rlf_plugin_call *call, rlf_plugin_out *answer) {
    const dice *d = state;
    game *g = episode;
    char text[64];
    if (strcmp(call->function, "throw_die") == 0) {
        g->throws++;
        snprintf(text, sizeof text, "throw %u: %u", g->throws, (unsigned)(draw(g) % d->sides) + 1);
    } else {
        snprintf(text, sizeof text, "%u", g->throws);
    }
    rlf_plugin_puts(answer, text);
    return RLF_PLUGIN_OK;
}

static const rlf_plugin plugin = {
    .abi = RLF_PLUGIN_ABI,
    .describe = describe,
    .open = open_dice,
    .close = close_dice,
    .episode_open = open_game,
    .episode_close = close_game,
    .run = run,
};

RLF_PLUGIN_EXPORT const rlf_plugin *rlf_plugin_entry(void) { return &plugin; }
