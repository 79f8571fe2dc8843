/* Open addressing; a removal moves later entries of the run back, so that no tombstones are needed. */
#include "toolsvc/episodes.h"

#include <stdlib.h>

#include "common/base/mem.h"

typedef struct toolsvc_episode_slot {
    bool used;
    toolsvc_episode episode;
} slot;

static bool same(toolsvc_episode_key a, toolsvc_episode_key b) { return a.uid == b.uid && a.sample == b.sample && a.attempt == b.attempt; }

/* The finaliser of splitmix64 over the mixed key. */
static size_t hash(toolsvc_episode_key key) {
    uint64_t h = (uint64_t)key.uid * 0x9E3779B97F4A7C15ull + (uint64_t)key.sample * 0xC2B2AE3D27D4EB4Full +
        (uint64_t)key.attempt * 0x165667B19E3779F9ull;
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ull;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBull;
    return (size_t)(h ^ (h >> 31));
}

/* Where key is, or would go. cap > 0. */
static size_t probe(const toolsvc_episodes *table, toolsvc_episode_key key) {
    size_t i = hash(key) & (table->cap - 1);
    while (table->slots[i].used && !same(table->slots[i].episode.key, key)) i = (i + 1) & (table->cap - 1);
    return i;
}

static void free_owned(toolsvc_episode *episode) {
    free(episode->extra);
    free(episode->allowed);
}

void toolsvc_episodes_clean_up(toolsvc_episodes *table) {
    for (size_t i = 0; i < table->cap; i++)
        if (table->slots[i].used) free_owned(&table->slots[i].episode);
    free(table->slots);
    *table = (toolsvc_episodes){0};
}

void toolsvc_episodes_each(toolsvc_episodes *table, void (*each)(toolsvc_episode *episode)) {
    for (size_t i = 0; i < table->cap; i++)
        if (table->slots[i].used) each(&table->slots[i].episode);
}

toolsvc_episode *toolsvc_episodes_find(toolsvc_episodes *table, toolsvc_episode_key key) {
    if (table->n == 0) return NULL;
    slot *s = &table->slots[probe(table, key)];
    return s->used ? &s->episode : NULL;
}

static void grow(toolsvc_episodes *table) {
    toolsvc_episodes larger = {.cap = table->cap ? table->cap * 2 : 64, .n = table->n};
    larger.slots = rlf_calloc(larger.cap, sizeof(slot));
    for (size_t i = 0; i < table->cap; i++)
        if (table->slots[i].used) larger.slots[probe(&larger, table->slots[i].episode.key)] = table->slots[i];
    free(table->slots);
    *table = larger;
}

toolsvc_episode *toolsvc_episodes_put(toolsvc_episodes *table, toolsvc_episode_key key) {
    if (2 * (table->n + 1) > table->cap) grow(table);
    slot *s = &table->slots[probe(table, key)];
    if (!s->used) {
        *s = (slot){.used = true, .episode = {.key = key}};
        table->n++;
    }
    return &s->episode;
}

bool toolsvc_episodes_remove(toolsvc_episodes *table, toolsvc_episode_key key) {
    if (table->n == 0) return false;
    size_t mask = table->cap - 1, hole = probe(table, key);
    if (!table->slots[hole].used) return false;
    free_owned(&table->slots[hole].episode);
    for (size_t i = (hole + 1) & mask; table->slots[i].used; i = (i + 1) & mask) {
        size_t home = hash(table->slots[i].episode.key) & mask;
        if (((i - home) & mask) < ((i - hole) & mask)) continue; /* its run begins behind the hole */
        table->slots[hole] = table->slots[i];
        hole = i;
    }
    table->slots[hole].used = false;
    table->n--;
    return true;
}
