/* A hash table and a list in order of use; behind them one table of a SQLite file (cache.h). */
#include "toolsvc/cache.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "toolsvc/map.h"

enum { BUSY_MS = 1000, BUSY_US = 5000, OPEN_MS = 10000, PRUNE_EVERY = 256, APPLICATION_ID = 0x726C6663 /* "rlfc", in the header of the file */ };

typedef struct kept {
    struct kept *newer, *older;
    rlf_str key, answer;
    int64_t made_s;
} kept;

struct toolsvc_cache {
    const rlf_tool_config *config;
    toolsvc_map map;
    kept *newest, *oldest;
    sqlite3 *db; /* NULL: memory only */
    sqlite3_stmt *get, *put, *prune;
    int64_t puts;
    bool warned;
};

/* ---- memory ------------------------------------------------------------------------------------------------------------------------- */

static void unlink_kept(toolsvc_cache *c, kept *k) {
    *(k->newer ? &k->newer->older : &c->newest) = k->older;
    *(k->older ? &k->older->newer : &c->oldest) = k->newer;
}

static void push_newest(toolsvc_cache *c, kept *k) {
    k->newer = NULL;
    k->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = k;
    c->newest = k;
}

static void free_kept(kept *k) {
    rlf_str_clean_up(&k->key);
    rlf_str_clean_up(&k->answer);
    free(k);
}

static void drop(toolsvc_cache *c, kept *k) {
    toolsvc_map_remove(&c->map, (rlf_slice){k->key.ptr, k->key.len});
    unlink_kept(c, k);
    free_kept(k);
}

static void keep(toolsvc_cache *c, rlf_slice key, const char *answer, size_t n, int64_t made_s) {
    if (c->config->cache_entries == 0) return;
    kept *old = toolsvc_map_get(&c->map, key);
    if (old) drop(c, old);
    else if ((int64_t)c->map.n >= c->config->cache_entries) drop(c, c->oldest);
    kept *k = rlf_calloc(1, sizeof *k);
    rlf_str_append(&k->key, key.ptr, key.len);
    rlf_str_append(&k->answer, answer, n);
    k->made_s = made_s;
    toolsvc_map_put(&c->map, key, k);
    push_newest(c, k);
}

/* ---- disk --------------------------------------------------------------------------------------------------------------------------- */

static void warn(toolsvc_cache *c) {
    if (!c->warned) RLF_WARN("cache %s: %s; it is left out", c->config->cache_path, sqlite3_errmsg(c->db));
    c->warned = true;
}

static bool disk_get(toolsvc_cache *c, rlf_slice key, int64_t oldest_s, int64_t *made_s, rlf_str *out) {
    if (!c->db) return false;
    sqlite3_bind_blob(c->get, 1, key.ptr, (int)key.len, SQLITE_STATIC);
    sqlite3_bind_int64(c->get, 2, oldest_s);
    int result = sqlite3_step(c->get);
    if (result == SQLITE_ROW) {
        rlf_str_append(out, sqlite3_column_blob(c->get, 0), (size_t)sqlite3_column_bytes(c->get, 0));
        *made_s = sqlite3_column_int64(c->get, 1);
    } else if (result != SQLITE_DONE) {
        warn(c);
    }
    sqlite3_reset(c->get);
    return result == SQLITE_ROW;
}

static void run(toolsvc_cache *c, sqlite3_stmt *statement) {
    if (sqlite3_step(statement) != SQLITE_DONE) warn(c);
    sqlite3_reset(statement);
}

static void disk_put(toolsvc_cache *c, rlf_slice key, const rlf_str *answer, int64_t now_s) {
    if (!c->db) return;
    sqlite3_bind_blob(c->put, 1, key.ptr, (int)key.len, SQLITE_STATIC);
    sqlite3_bind_blob(c->put, 2, answer->ptr ? answer->ptr : "", (int)answer->len, SQLITE_STATIC);
    sqlite3_bind_int64(c->put, 3, now_s);
    run(c, c->put);
    if (++c->puts % PRUNE_EVERY == 0) run(c, c->prune);
}

static rlf_status failed(const toolsvc_cache *c) {
    return RLF_RAISE(IO, "key \"cache.path\": %s: %s", c->config->cache_path, sqlite3_errmsg(c->db));
}

/* Of two that read the file and both want to change it SQLite sends one away at once, whatever the busy timeout: it comes again. */
static rlf_status sql(toolsvc_cache *c, const char *text) {
    int64_t deadline_ms = rlf_now_ms() + OPEN_MS;
    int result;
    while ((result = sqlite3_exec(c->db, text, NULL, NULL, NULL)) == SQLITE_BUSY && rlf_now_ms() < deadline_ms) rlf_sleep_us(BUSY_US);
    return result == SQLITE_OK ? RLF_OK : failed(c);
}

static rlf_status prepare(toolsvc_cache *c, const char *text, sqlite3_stmt **out) {
    return sqlite3_prepare_v3(c->db, text, -1, SQLITE_PREPARE_PERSISTENT, out, NULL) == SQLITE_OK ? RLF_OK : failed(c);
}

/* A file of another program is refused, not written to. */
static rlf_status check_owner(toolsvc_cache *c) {
    rlf_status status = RLF_OK;
    sqlite3_stmt *id = NULL, *tables = NULL;
    RLF_TRY(prepare(c, "PRAGMA application_id", &id));
    RLF_TRY(prepare(c, "SELECT count(*) FROM sqlite_master", &tables));
    bool readable = sqlite3_step(id) == SQLITE_ROW && sqlite3_step(tables) == SQLITE_ROW;
    if (sqlite3_errcode(c->db) == SQLITE_BUSY)
        status = failed(c);
    else if (!readable || (sqlite3_column_int(id, 0) != APPLICATION_ID && sqlite3_column_int(tables, 0) != 0))
        status = RLF_RAISE(INVALID, "key \"cache.path\": %s is not a cache of tool answers", c->config->cache_path);
out:
    sqlite3_finalize(id);
    sqlite3_finalize(tables);
    return status;
}

static rlf_status open_disk(toolsvc_cache *c) {
    rlf_status status = RLF_OK;
    if (sqlite3_open_v2(c->config->cache_path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK) return failed(c);
    sqlite3_busy_timeout(c->db, BUSY_MS);
    RLF_TRY(check_owner(c));
    RLF_TRY(sql(c, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA application_id = 1919706723;"
                   "CREATE TABLE IF NOT EXISTS answer (number INTEGER PRIMARY KEY, key BLOB UNIQUE, text BLOB, made INTEGER)"));
    RLF_TRY(prepare(c, "SELECT text, made FROM answer WHERE key = ? AND made >= ?", &c->get));
    RLF_TRY(prepare(c, "INSERT OR REPLACE INTO answer (key, text, made) VALUES (?, ?, ?)", &c->put));
    RLF_TRY(prepare(c, "DELETE FROM answer WHERE number <= (SELECT number FROM answer ORDER BY number DESC LIMIT 1 OFFSET ?)", &c->prune));
    sqlite3_bind_int64(c->prune, 1, c->config->cache_disk_entries);
out:
    return status;
}

/* ---- interface ---------------------------------------------------------------------------------------------------------------------- */

rlf_status toolsvc_cache_open(toolsvc_cache **out, const rlf_tool_config *config) {
    bool disk = config->cache_path && *config->cache_path;
    *out = NULL;
    if (config->cache_entries == 0 && !disk) return RLF_OK;
    toolsvc_cache *c = rlf_calloc(1, sizeof *c);
    c->config = config;
    rlf_status status = disk ? open_disk(c) : RLF_OK;
    if (status != RLF_OK) toolsvc_cache_close(c);
    else *out = c;
    return status;
}

void toolsvc_cache_close(toolsvc_cache *c) {
    if (!c) return;
    while (c->newest) drop(c, c->newest);
    toolsvc_map_clean_up(&c->map, NULL);
    sqlite3_finalize(c->get);
    sqlite3_finalize(c->put);
    sqlite3_finalize(c->prune);
    sqlite3_close(c->db);
    free(c);
}

static void make_key(const toolsvc_cache *c, const char *function, rlf_slice arguments, rlf_str *out) {
    rlf_str_append(out, function, strlen(function) + 1);
    const char *version = c->config->cache_version ? c->config->cache_version : "";
    rlf_str_append(out, version, strlen(version) + 1);
    rlf_str_append(out, arguments.ptr, arguments.len);
}

bool toolsvc_cache_get(toolsvc_cache *c, const char *function, rlf_slice arguments, int64_t now_s, rlf_str *out) {
    if (!c) return false;
    rlf_str text = {0};
    make_key(c, function, arguments, &text);
    rlf_slice key = {text.ptr, text.len};
    int64_t oldest_s = c->config->cache_ttl_s ? now_s - c->config->cache_ttl_s : INT64_MIN, made_s;
    kept *k = toolsvc_map_get(&c->map, key);
    bool found = k && k->made_s >= oldest_s;
    size_t before = out->len;
    if (found) {
        rlf_str_append(out, k->answer.ptr, k->answer.len);
        unlink_kept(c, k);
        push_newest(c, k);
    } else {
        if (k) drop(c, k);
        found = disk_get(c, key, oldest_s, &made_s, out);
        if (found) keep(c, key, out->ptr + before, out->len - before, made_s);
    }
    rlf_str_clean_up(&text);
    return found;
}

void toolsvc_cache_put(toolsvc_cache *c, const char *function, rlf_slice arguments, int64_t now_s, const rlf_str *answer) {
    if (!c) return;
    rlf_str key = {0};
    make_key(c, function, arguments, &key);
    keep(c, (rlf_slice){key.ptr, key.len}, answer->ptr ? answer->ptr : "", answer->len, now_s);
    disk_put(c, (rlf_slice){key.ptr, key.len}, answer, now_s);
    rlf_str_clean_up(&key);
}
