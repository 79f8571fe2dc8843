/* The episodes that are open on a tool rank: a hash table from (uid, sample, attempt). */
#ifndef RLF_TOOLSVC_EPISODES_H
#define RLF_TOOLSVC_EPISODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct toolsvc_episode_key {
    int64_t uid, sample, attempt;
} toolsvc_episode_key;

typedef struct toolsvc_episode {
    toolsvc_episode_key key;
    int64_t seed, version; /* as OPEN had them */
    size_t calls; /* not yet answered */
    char *extra;  /* of its OPEN; owned by the table */
    unsigned char *allowed; /* which functions it may use (tools.h); NULL: all; owned by the table */
    struct toolsvc_session *sessions; /* state of tools that keep one (dispatch.h); NULL if none; not the table's */
} toolsvc_episode;

/* Zeroed: empty. Open addressing with linear probing, at most half full. */
typedef struct toolsvc_episodes {
    struct toolsvc_episode_slot *slots;
    size_t n, cap;
} toolsvc_episodes;

void toolsvc_episodes_clean_up(toolsvc_episodes *table);
/* NULL if it is not there. Valid until the next put or remove. */
toolsvc_episode *toolsvc_episodes_find(toolsvc_episodes *table, toolsvc_episode_key key);
/* The episode of that key, made if it was not there. Valid until the next put or remove. */
toolsvc_episode *toolsvc_episodes_put(toolsvc_episodes *table, toolsvc_episode_key key);
void toolsvc_episodes_each(toolsvc_episodes *table, void (*each)(toolsvc_episode *episode));
/* False if it was not there. */
bool toolsvc_episodes_remove(toolsvc_episodes *table, toolsvc_episode_key key);

#endif
