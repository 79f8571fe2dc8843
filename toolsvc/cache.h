/* Answers of one tool kept for calls to come, in memory and on disk: what is asked again is not asked of the tool (keys cache.*).
 *
 * An answer is kept under the function's name, cache.version and the canonical arguments; only answers with status ok are kept, never
 * errors. In memory: the cache.entries used last. On disk: a SQLite file that ranks and runs of one machine may share (SQLite's WAL is
 * not for network file systems); the newest cache.disk_entries. Neither gives an answer older than cache.ttl_s. A disk that fails is a
 * warning and a miss, never an error of a call.
 *
 * Threads: one, the loop's. */
#ifndef RLF_TOOLSVC_CACHE_H
#define RLF_TOOLSVC_CACHE_H

#include <stdbool.h>

#include "common/config/config.h"

typedef struct toolsvc_cache toolsvc_cache;

/* *out is NULL where the configuration asks for none. Errors name the key. */
rlf_status toolsvc_cache_open(toolsvc_cache **out, const rlf_tool_config *config) RLF_MUST_USE;
/* NULL is allowed, here and below. */
void toolsvc_cache_close(toolsvc_cache *cache);

/* True: the answer is appended to `out`. now_s: seconds of the wall clock. */
bool toolsvc_cache_get(toolsvc_cache *cache, const char *function, rlf_slice arguments, int64_t now_s, rlf_str *out);
void toolsvc_cache_put(toolsvc_cache *cache, const char *function, rlf_slice arguments, int64_t now_s, const rlf_str *answer);

#endif
