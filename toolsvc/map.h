/* Hash table from a byte string to a pointer. Keys are copied, values are the caller's. Zeroed: empty. */
#ifndef RLF_TOOLSVC_MAP_H
#define RLF_TOOLSVC_MAP_H

#include "common/base/mem.h"

typedef struct toolsvc_map {
    struct toolsvc_map_entry **buckets;
    size_t n, n_buckets;
} toolsvc_map;

/* free_value gets every value; NULL: values are left alone. */
void toolsvc_map_clean_up(toolsvc_map *map, void (*free_value)(void *value));
/* NULL if it is not there. */
void *toolsvc_map_get(const toolsvc_map *map, rlf_slice key);
/* Replaces what was there. value is not NULL. */
void toolsvc_map_put(toolsvc_map *map, rlf_slice key, void *value);
/* The value that was there, or NULL. */
void *toolsvc_map_remove(toolsvc_map *map, rlf_slice key);

#endif
