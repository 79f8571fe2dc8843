/* Chaining; at most one entry a bucket on average. */
#include "toolsvc/map.h"

#include <stdlib.h>
#include <string.h>

typedef struct toolsvc_map_entry {
    struct toolsvc_map_entry *next;
    void *value;
    uint64_t hash;
    size_t len;
    char key[];
} entry;

static uint64_t hash_of(rlf_slice key) { /* FNV-1a, with splitmix64's finaliser */
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < key.len; i++) h = (h ^ (unsigned char)key.ptr[i]) * 0x100000001b3ull;
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ull;
    return h ^ (h >> 31);
}

void toolsvc_map_clean_up(toolsvc_map *map, void (*free_value)(void *value)) {
    for (size_t i = 0; i < map->n_buckets; i++) {
        for (entry *e = map->buckets[i], *next; e; e = next) {
            next = e->next;
            if (free_value) free_value(e->value);
            free(e);
        }
    }
    free(map->buckets);
    *map = (toolsvc_map){0};
}

/* The link that points to the key's entry, or to the NULL at the end of its bucket. n_buckets > 0. */
static entry **link_of(const toolsvc_map *map, rlf_slice key, uint64_t hash) {
    entry **link = &map->buckets[hash & (map->n_buckets - 1)];
    while (*link && ((*link)->hash != hash || (*link)->len != key.len ||
                     memcmp((*link)->key, key.ptr, key.len) != 0)) link = &(*link)->next;
    return link;
}

void *toolsvc_map_get(const toolsvc_map *map, rlf_slice key) {
    entry *e = map->n ? *link_of(map, key, hash_of(key)) : NULL;
    return e ? e->value : NULL;
}

static void grow(toolsvc_map *map) {
    toolsvc_map larger = {.n = map->n, .n_buckets = map->n_buckets ? map->n_buckets * 2 : 64};
    larger.buckets = rlf_calloc(larger.n_buckets, sizeof *larger.buckets);
    for (size_t i = 0; i < map->n_buckets; i++) {
        for (entry *e = map->buckets[i], *next; e; e = next) {
            next = e->next;
            entry **bucket = &larger.buckets[e->hash & (larger.n_buckets - 1)];
            e->next = *bucket;
            *bucket = e;
        }
    }
    free(map->buckets);
    *map = larger;
}

void toolsvc_map_put(toolsvc_map *map, rlf_slice key, void *value) {
    if (map->n == map->n_buckets) grow(map);
    uint64_t hash = hash_of(key);
    entry **link = link_of(map, key, hash);
    if (!*link) {
        *link = rlf_calloc(1, sizeof(entry) + key.len + 1);
        (*link)->hash = hash;
        (*link)->len = key.len;
        if (key.len) memcpy((*link)->key, key.ptr, key.len);
        map->n++;
    }
    (*link)->value = value;
}

void *toolsvc_map_remove(toolsvc_map *map, rlf_slice key) {
    entry **link = map->n ? link_of(map, key, hash_of(key)) : NULL;
    if (!link || !*link) return NULL;
    entry *e = *link;
    void *value = e->value;
    *link = e->next;
    free(e);
    map->n--;
    return value;
}
