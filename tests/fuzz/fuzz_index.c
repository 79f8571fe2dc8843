/* An index in which a block of postings is any bytes, and its stem's count of passages any number: a search ends with passages of the index, in
 * order, or with an error that names the file. */
#include <assert.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "toolsvc/index/index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { PASSAGES = 1500 };

static char g_folder[] = "/tmp/rlf-fuzz-index-XXXXXX", g_path[64];
static sqlite3_stmt *g_count, *g_bytes;
static sqlite3 *g_db;

static void remove_folder(void) {
    sqlite3_finalize(g_count);
    sqlite3_finalize(g_bytes);
    sqlite3_close(g_db);
    unlink(g_path);
    rmdir(g_folder);
}

/* "often" is in more than two blocks of passages, but not in most, so that it is worth something; "rare" in a few: where 3 are wanted it is
 * they that are looked up among the postings of "often". */
static void build(void) {
    char corpus[64];
    size_t passages;
    snprintf(corpus, sizeof corpus, "%s/corpus", g_folder);
    snprintf(g_path, sizeof g_path, "%s/index", g_folder);
    FILE *f = fopen(corpus, "w");
    for (int i = 0; f && i < PASSAGES; i++)
        fprintf(f, "{\"id\": %d, \"text\": \"filler %s %s\"}\n", i, i % 5 < 2 ? "often" : "", i % 400 == 7 ? "rare rare" : "");
    if (!f || fclose(f) != 0 || toolsvc_index_build(corpus, g_path, &passages) != RLF_OK) abort();
    unlink(corpus);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    if (!mkdtemp(g_folder)) abort();
    build();
    if (sqlite3_open(g_path, &g_db) != SQLITE_OK ||
        sqlite3_prepare_v2(g_db, "UPDATE term SET passages = ?1 WHERE stem = 'often'", -1, &g_count, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(g_db, "UPDATE posting SET bytes = ?1 WHERE key = (SELECT max(p.key) FROM posting AS p JOIN term ON "
                                 "p.key >> 32 = number WHERE stem = 'often' AND p.key & 4294967295 < 700)", -1, &g_bytes, NULL) != SQLITE_OK ||
        sqlite3_exec(g_db, "PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY", NULL, NULL, NULL) != SQLITE_OK)
        abort();
    return atexit(remove_folder);
}

static void run(sqlite3_stmt *stmt) {
    if (sqlite3_step(stmt) != SQLITE_DONE) abort();
    sqlite3_reset(stmt);
}

static void check_search(size_t k) {
    static const char query[] = "often rare filler";
    toolsvc_index *index;
    rlf_arena arena = {0};
    toolsvc_hit *hits;
    size_t count;
    if (toolsvc_index_open(&index, g_path) != RLF_OK) abort();
    if (toolsvc_index_search(index, query, sizeof query - 1, k, NULL, &arena, &hits, &count) != RLF_OK)
        assert(strstr(rlf_error_message(), g_path));
    assert(count <= k);
    for (size_t i = 0; i < count; i++) assert(atol(hits[i].id) < PASSAGES && (i == 0 || hits[i - 1].score >= hits[i].score));
    rlf_arena_clean_up(&arena);
    toolsvc_index_destroy(index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 3) return 0;
    sqlite3_bind_int(g_count, 1, data[1] * 8);
    sqlite3_bind_blob(g_bytes, 1, data + 2, (int)(n - 2), SQLITE_STATIC);
    run(g_count);
    run(g_bytes);
    check_search(data[0] % 3 ? 3 : 1000);
    return 0;
}
