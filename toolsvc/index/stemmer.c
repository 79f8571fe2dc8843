/* SQLite hands its tokenizers out through a pointer bound to SELECT fts5(?1). */
#include "toolsvc/index/stemmer.h"

enum { MAX_TEXT = 1 << 30 };

rlf_status toolsvc_stemmer_init(toolsvc_stemmer *stemmer, sqlite3 *db) {
    rlf_status status = RLF_OK;
    sqlite3_stmt *stmt = NULL;
    fts5_api *api = NULL;
    void *user = NULL;
    const char *arguments[] = {"unicode61"};
    *stemmer = (toolsvc_stemmer){0};
    if (sqlite3_prepare_v2(db, "SELECT fts5(?1)", -1, &stmt, NULL) != SQLITE_OK) RLF_FAIL(UNSUPPORTED, "this SQLite has no FTS5");
    sqlite3_bind_pointer(stmt, 1, &api, "fts5_api_ptr", NULL);
    sqlite3_step(stmt);
    if (!api || api->xFindTokenizer(api, "porter", &user, &stemmer->tokenizer) != SQLITE_OK ||
        stemmer->tokenizer.xCreate(user, arguments, 1, &stemmer->words) != SQLITE_OK)
        RLF_FAIL(UNSUPPORTED, "this SQLite has no porter tokenizer");
out:
    sqlite3_finalize(stmt);
    return status;
}

void toolsvc_stemmer_clean_up(toolsvc_stemmer *stemmer) {
    if (stemmer->words) stemmer->tokenizer.xDelete(stemmer->words);
    *stemmer = (toolsvc_stemmer){0};
}

typedef struct receiver {
    bool (*take)(void *user, rlf_slice stem);
    void *user;
} receiver;

static int on_stem(void *context, int flags, const char *stem, int n, int begin, int end) {
    const receiver *to = context;
    (void)flags, (void)begin, (void)end;
    return to->take(to->user, (rlf_slice){stem, n < TOOLSVC_STEM_MAX ? (size_t)n : TOOLSVC_STEM_MAX}) ? SQLITE_OK : SQLITE_DONE;
}

rlf_status toolsvc_stemmer_run(const toolsvc_stemmer *stemmer, rlf_slice text, bool (*take)(void *user, rlf_slice stem), void *user) {
    receiver to = {take, user};
    int n = text.len < MAX_TEXT ? (int)text.len : MAX_TEXT;
    int rc = stemmer->tokenizer.xTokenize(stemmer->words, &to, FTS5_TOKENIZE_DOCUMENT, text.ptr, n, on_stem);
    return rc == SQLITE_OK || rc == SQLITE_DONE ? RLF_OK : RLF_RAISE(INTERNAL, "the tokenizer failed (%d)", rc);
}
