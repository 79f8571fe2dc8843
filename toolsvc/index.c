/* The FTS5 index behind index.h.
 *
 * Tables:  passage(rowid, id, title, quoted, text); passage_fts, an FTS5 table over title and text whose content is `passage`;
 *          common_term(term, passages): every common stem (common_min); meta(key, value).
 *
 * Cost of a query: FTS5's bm25 walks the posting list of every query word twice (once to count, once to match), so a query is as
 * dear as its most common words, which tell least. common_term says how long those lists are; words are taken from the rarest up
 * until a budget of postings is used up. */
#include "toolsvc/index.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    FORMAT_VERSION = 1,
    APPLICATION_ID = 0x726C6669, /* "rlfi", in the header of the file */
    MAX_LINE = 16 << 20,
    MAX_WORDS = 64,       /* distinct words of one query */
    MAX_QUERY = 64 << 10, /* bytes of a query that are looked at */
    COMMON_MAX = 1000,    /* passages that make a stem common, at most */
    MIN_BUDGET = 60000,    /* postings walked for one query: this many, */
    BUDGET_SHARE = 50,     /* or one in 50 of the corpus, whichever is more */
    MAX_RESULTS = 1000,
    BUSY_MS = 5000
};
#define TITLE_WEIGHT "1.5"

static rlf_status sql_error(sqlite3 *db, const char *path, const char *doing) {
    return RLF_RAISE(IO, "%s: %s: %s", path, doing, db ? sqlite3_errmsg(db) : "out of memory");
}

static rlf_status run_sql(sqlite3 *db, const char *path, const char *sql) {
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) return sql_error(db, path, "cannot write");
    return RLF_OK;
}

/* ---- building ---------------------------------------------------------------------------------------------------------------------- */

typedef struct passage {
    rlf_slice id, title, text;
    bool quoted;
    char number[24]; /* holds an id that was a number */
} passage;

/* First line: the title, perhaps in quotes; the rest: the text. Without a line break all is text. */
static void split_contents(const char *contents, size_t n, passage *p) {
    const char *eol = memchr(contents, '\n', n);
    if (!eol) {
        p->title = (rlf_slice){"", 0};
        p->text = (rlf_slice){contents, n};
        return;
    }
    size_t len = (size_t)(eol - contents);
    p->quoted = len >= 2 && contents[0] == '"' && eol[-1] == '"';
    p->title = p->quoted ? (rlf_slice){contents + 1, len - 2} : (rlf_slice){contents, len};
    p->text = (rlf_slice){eol + 1, n - len - 1};
}

static bool take_id(const json_t *value, passage *p) {
    if (json_is_string(value)) {
        p->id = (rlf_slice){json_string_value(value), json_string_length(value)};
        return true;
    }
    if (!json_is_integer(value)) return false;
    int len = snprintf(p->number, sizeof p->number, "%lld", (long long)json_integer_value(value));
    p->id = (rlf_slice){p->number, (size_t)len};
    return true;
}

/* Slices point into `row`, or into *p. */
static rlf_status read_passage(const json_t *row, const char *file, size_t line, passage *p) {
    memset(p, 0, sizeof *p);
    if (!json_is_object(row)) return RLF_RAISE(INVALID, "%s:%zu: expected a JSON object", file, line);
    if (!take_id(json_object_get(row, "id"), p))
        return RLF_RAISE(INVALID, "%s:%zu: key \"id\": expected a string or an integer", file, line);
    const json_t *contents = json_object_get(row, "contents"), *title = json_object_get(row, "title"), *text = json_object_get(row, "text");
    if (json_is_string(contents)) {
        split_contents(json_string_value(contents), json_string_length(contents), p);
        return RLF_OK;
    }
    if (contents) return RLF_RAISE(INVALID, "%s:%zu: key \"contents\": expected a string", file, line);
    if (!json_is_string(text))
        return RLF_RAISE(INVALID, "%s:%zu: expected a string under \"contents\", or under \"title\" and \"text\"", file, line);
    if (title && !json_is_string(title)) return RLF_RAISE(INVALID, "%s:%zu: key \"title\": expected a string", file, line);
    p->title = title ? (rlf_slice){json_string_value(title), json_string_length(title)} : (rlf_slice){"", 0};
    p->text = (rlf_slice){json_string_value(text), json_string_length(text)};
    return RLF_OK;
}

static rlf_status insert_passage(sqlite3_stmt *insert, const passage *p) {
    sqlite3_reset(insert);
    sqlite3_bind_text(insert, 1, p->id.ptr, (int)p->id.len, SQLITE_STATIC);
    sqlite3_bind_text(insert, 2, p->title.ptr, (int)p->title.len, SQLITE_STATIC);
    sqlite3_bind_int(insert, 3, p->quoted);
    sqlite3_bind_text(insert, 4, p->text.ptr, (int)p->text.len, SQLITE_STATIC);
    if (sqlite3_step(insert) != SQLITE_DONE) return RLF_RAISE(IO, "cannot store: %s", sqlite3_errmsg(sqlite3_db_handle(insert)));
    return RLF_OK;
}

static rlf_status add_line(sqlite3_stmt *insert, const char *file, size_t line, const char *bytes, size_t n) {
    json_error_t error;
    json_t *row = json_loadb(bytes, n, 0, &error);
    if (!row) return RLF_RAISE(INVALID, "%s:%zu: byte %d: not JSON: %s", file, line, error.position, error.text);
    passage p;
    rlf_status status = read_passage(row, file, line, &p);
    if (status == RLF_OK) status = insert_passage(insert, &p);
    json_decref(row);
    return status;
}

static rlf_status add_corpus(sqlite3_stmt *insert, const char *file, size_t *passages) {
    rlf_status status = RLF_OK;
    char *line = NULL;
    size_t cap = 0, number = 0;
    FILE *in = fopen(file, "r");
    if (!in) return RLF_RAISE(IO, "%s: cannot open: %s", file, strerror(errno));
    for (ssize_t n; (n = getline(&line, &cap, in)) >= 0;) {
        number++;
        if (n > MAX_LINE) RLF_FAIL(LIMIT, "%s:%zu: a line of %zd bytes; at most %d are allowed", file, number, n, (int)MAX_LINE);
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        RLF_TRY(add_line(insert, file, number, line, (size_t)n));
        (*passages)++;
    }
    if (ferror(in)) RLF_FAIL(IO, "%s: cannot read: %s", file, strerror(errno));
    if (*passages == 0) RLF_FAIL(INVALID, "%s: no passages: expected one JSON object a line", file);
out:
    free(line);
    fclose(in);
    return status;
}

/* The whole build inside an open, empty database. */
/* A stem is common from one passage in a hundred on, but in a large corpus earlier. */
static size_t common_min(size_t passages) { return passages / 100 < COMMON_MAX ? passages / 100 : COMMON_MAX; }

static rlf_status fill(sqlite3 *db, const char *path, const char *corpus, size_t *passages) {
    rlf_status status = RLF_OK;
    sqlite3_stmt *insert = NULL;
    char sql[256];
    RLF_TRY(run_sql(db, path,
                    "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; BEGIN;"
                    "CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;"
                    "CREATE TABLE passage(rowid INTEGER PRIMARY KEY, id TEXT NOT NULL, title TEXT NOT NULL, quoted INTEGER NOT "
                    "NULL, text TEXT NOT NULL);"
                    "CREATE VIRTUAL TABLE passage_fts USING fts5(title, text, content='passage', content_rowid='rowid', "
                    "tokenize='porter unicode61');"
                    "CREATE TABLE common_term(term TEXT PRIMARY KEY, passages INTEGER) WITHOUT ROWID;"));
    if (sqlite3_prepare_v2(db, "INSERT INTO passage(id, title, quoted, text) VALUES(?, ?, ?, ?)", -1, &insert, NULL) != SQLITE_OK)
        RLF_TRY(sql_error(db, path, "cannot prepare"));
    RLF_TRY(add_corpus(insert, corpus, passages));
    snprintf(sql, sizeof sql, "PRAGMA application_id=%d; PRAGMA user_version=%d; INSERT INTO meta VALUES('passages', %zu);",
             (int)APPLICATION_ID, (int)FORMAT_VERSION, *passages);
    RLF_TRY(run_sql(db, path, sql));
    RLF_TRY(run_sql(db, path, "INSERT INTO passage_fts(passage_fts) VALUES('rebuild'); INSERT INTO passage_fts(passage_fts) "
                              "VALUES('optimize');"
                              "CREATE VIRTUAL TABLE temp.stems USING fts5vocab('main', 'passage_fts', 'row');"));
    snprintf(sql, sizeof sql, "INSERT INTO common_term SELECT term, doc FROM temp.stems WHERE doc >= %zu;", common_min(*passages));
    RLF_TRY(run_sql(db, path, sql));
    RLF_TRY(run_sql(db, path, "DROP TABLE temp.stems; COMMIT;"));
out:
    sqlite3_finalize(insert);
    return status;
}

static rlf_status sync_file(const char *path) {
    int fd = open(path, O_RDONLY);
    int failed = fd < 0 || fsync(fd) != 0;
    int error = errno;
    if (fd >= 0) close(fd);
    return failed ? RLF_RAISE(IO, "%s: cannot sync: %s", path, strerror(error)) : RLF_OK;
}

rlf_status toolsvc_index_build(const char *corpus, const char *path, size_t *passages) {
    rlf_status status = RLF_OK;
    sqlite3 *db = NULL;
    rlf_str beside = {0};
    *passages = 0;
    rlf_str_printf(&beside, "%s.%ld.part", path, (long)getpid());
    unlink(beside.ptr);
    if (sqlite3_open_v2(beside.ptr, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        RLF_TRY(sql_error(db, beside.ptr, "cannot create"));
    RLF_TRY(fill(db, path, corpus, passages));
    if (sqlite3_close(db) != SQLITE_OK) RLF_TRY(sql_error(db, path, "cannot close"));
    db = NULL;
    RLF_TRY(sync_file(beside.ptr));
    if (rename(beside.ptr, path) != 0) RLF_FAIL(IO, "%s: cannot rename the finished index into place: %s", path, strerror(errno));
out:
    sqlite3_close(db);
    if (status != RLF_OK) unlink(beside.ptr);
    rlf_str_clean_up(&beside);
    return status;
}

/* ---- opening ----------------------------------------------------------------------------------------------------------------------- */

/* One SQLite connection with its statements and tokenizer: used by one thread at a time. */
typedef struct connection {
    sqlite3 *db;
    sqlite3_stmt *search, *common;
    fts5_tokenizer tokenizer;
    Fts5Tokenizer *words;
    struct connection *next;
} connection;

struct toolsvc_index {
    char *path;
    size_t passages;
    pthread_mutex_t lock; /* guards `idle` */
    connection *idle;
};

static void connection_destroy(connection *c) {
    if (!c) return;
    if (c->words) c->tokenizer.xDelete(c->words);
    sqlite3_finalize(c->search);
    sqlite3_finalize(c->common);
    sqlite3_close(c->db);
    free(c);
}

/* The tokenizer the index was built with, so that a query is cut into words and stems exactly as the passages were. */
static rlf_status find_tokenizer(connection *c, const char *path) {
    rlf_status status = RLF_OK;
    sqlite3_stmt *stmt = NULL;
    fts5_api *api = NULL;
    void *user = NULL;
    const char *arguments[] = {"unicode61"};
    if (sqlite3_prepare_v2(c->db, "SELECT fts5(?1)", -1, &stmt, NULL) != SQLITE_OK)
        RLF_TRY(sql_error(c->db, path, "this SQLite has no FTS5"));
    sqlite3_bind_pointer(stmt, 1, &api, "fts5_api_ptr", NULL);
    sqlite3_step(stmt);
    if (!api || api->xFindTokenizer(api, "porter", &user, &c->tokenizer) != SQLITE_OK ||
        c->tokenizer.xCreate(user, arguments, 1, &c->words) != SQLITE_OK)
        RLF_FAIL(UNSUPPORTED, "%s: this SQLite has no porter tokenizer", path);
out:
    sqlite3_finalize(stmt);
    return status;
}

static int64_t read_number(sqlite3 *db, const char *sql) {
    sqlite3_stmt *stmt = NULL;
    int64_t value = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW)
        value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return value;
}

static rlf_status connection_new(connection **out, const char *path) {
    rlf_status status = RLF_OK;
    connection *c = rlf_calloc(1, sizeof *c);
    if (sqlite3_open_v2(path, &c->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        RLF_TRY(sql_error(c->db, path, "cannot open the index"));
    sqlite3_busy_timeout(c->db, BUSY_MS);
    if (read_number(c->db, "PRAGMA application_id") != APPLICATION_ID) RLF_FAIL(INVALID, "%s: not an index made by rlf index", path);
    int64_t version = read_number(c->db, "PRAGMA user_version");
    if (version != FORMAT_VERSION)
        RLF_FAIL(UNSUPPORTED, "%s: index format %lld; this program reads %d", path, (long long)version, (int)FORMAT_VERSION);
    /* Exclusive here means: the shared lock of the first read is kept, instead of being taken, with a look at the folder, by every statement. */
    if (sqlite3_exec(c->db, "PRAGMA query_only=1; PRAGMA mmap_size=1099511627776; PRAGMA locking_mode=EXCLUSIVE", NULL, NULL, NULL) !=
        SQLITE_OK)
        RLF_TRY(sql_error(c->db, path, "cannot set up"));
    static const char search[] =
        "SELECT p.id, p.title, p.quoted, p.text, hit.score FROM "
        "(SELECT rowid AS at, bm25(passage_fts, " TITLE_WEIGHT ", 1.0) AS score FROM passage_fts WHERE passage_fts MATCH ?1 "
                                                               "ORDER BY score, at LIMIT ?2) AS hit "
        "JOIN passage AS p ON p.rowid = hit.at ORDER BY hit.score, hit.at";
    if (sqlite3_prepare_v3(c->db, search, -1, SQLITE_PREPARE_PERSISTENT, &c->search, NULL) != SQLITE_OK ||
        sqlite3_prepare_v3(c->db, "SELECT passages FROM common_term WHERE term = ?1", -1, SQLITE_PREPARE_PERSISTENT, &c->common,
                           NULL) != SQLITE_OK)
        RLF_TRY(sql_error(c->db, path, "damaged index"));
    RLF_TRY(find_tokenizer(c, path));
    *out = c;
out:
    if (status != RLF_OK) connection_destroy(c);
    return status;
}

rlf_status toolsvc_index_open(toolsvc_index **out, const char *path) {
    rlf_status status = RLF_OK;
    connection *first = NULL;
    *out = NULL;
    RLF_TRY(connection_new(&first, path));
    int64_t passages = read_number(first->db, "SELECT value FROM meta WHERE key = 'passages'");
    if (passages <= 0) RLF_FAIL(INVALID, "%s: damaged index: it holds no passage count", path);
    toolsvc_index *index = rlf_calloc(1, sizeof *index);
    index->path = rlf_strdup(path);
    index->passages = (size_t)passages;
    index->idle = first;
    pthread_mutex_init(&index->lock, NULL);
    *out = index;
out:
    if (status != RLF_OK) connection_destroy(first);
    return status;
}

void toolsvc_index_destroy(toolsvc_index *index) {
    if (!index) return;
    for (connection *c = index->idle, *next; c; c = next) {
        next = c->next;
        connection_destroy(c);
    }
    pthread_mutex_destroy(&index->lock);
    free(index->path);
    free(index);
}

size_t toolsvc_index_passages(const toolsvc_index *index) { return index->passages; }

static rlf_status borrow(toolsvc_index *index, connection **out) {
    pthread_mutex_lock(&index->lock);
    connection *c = index->idle;
    if (c) index->idle = c->next;
    pthread_mutex_unlock(&index->lock);
    *out = c;
    return c ? RLF_OK : connection_new(out, index->path);
}

static void give_back(toolsvc_index *index, connection *c) {
    pthread_mutex_lock(&index->lock);
    c->next = index->idle;
    index->idle = c;
    pthread_mutex_unlock(&index->lock);
}

/* ---- from a query to an FTS5 expression ---------------------------------------------------------------------------------------------- */

/* Stems (as Porter leaves them) that say nothing about what is looked for. */
static const char *const stop_stems[] = {
    "a", "about", "after", "all", "also", "am", "an", "and", "ani", "ar", "as", "at", "be", "becaus", "been", "befor", "by",
    "can", "could", "did", "do", "doe",
    "for", "from", "had", "ha", "have", "he", "her", "hi", "how", "i", "if", "in", "into", "is", "it", "me", "mani", "mai",
    "more", "most", "much", "my", "no",
    "not", "of", "on", "or", "our", "she", "should", "so", "some", "than", "that", "the", "their", "them", "then", "there",
    "these", "thei", "thi",
    "those", "to", "wa", "we", "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "will", "with", "would",
    "you", "your"};

typedef struct word {
    rlf_slice text; /* as written in the query */
    char *stem;
    size_t stem_len;
    bool stop;
    int64_t passages; /* 0: not a common stem */
    size_t position;
} word;

typedef struct word_list {
    const char *query;
    rlf_arena *arena;
    word v[MAX_WORDS];
    size_t n;
} word_list;

static bool is_stop_stem(const char *stem, size_t n) {
    for (size_t i = 0; i < sizeof stop_stems / sizeof *stop_stems; i++)
        if (strlen(stop_stems[i]) == n && memcmp(stop_stems[i], stem, n) == 0) return true;
    return false;
}

static int take_word(void *context, int flags, const char *stem, int n, int begin, int end) {
    word_list *list = context;
    (void)flags;
    for (size_t i = 0; i < list->n; i++)
        if (list->v[i].stem_len == (size_t)n && memcmp(list->v[i].stem, stem, (size_t)n) == 0) return SQLITE_OK;
    if (list->n == MAX_WORDS) return SQLITE_DONE;
    word *w = &list->v[list->n];
    *w = (word){.text = {list->query + begin, (size_t)(end - begin)}, .stem = rlf_arena_dup(list->arena, stem, (size_t)n),
                .stem_len = (size_t)n};
    w->stop = is_stop_stem(stem, (size_t)n);
    w->position = list->n++;
    return SQLITE_OK;
}

static void count_passages(connection *c, word *w) {
    sqlite3_reset(c->common);
    sqlite3_bind_text(c->common, 1, w->stem, (int)w->stem_len, SQLITE_STATIC);
    if (sqlite3_step(c->common) == SQLITE_ROW) w->passages = sqlite3_column_int64(c->common, 0);
    else w->stop = false; /* rare here, whatever it is elsewhere: "IT", "AR" may be codes */
    sqlite3_reset(c->common);
}

/* Words that tell most first: no stop words before others, then the rarest, then as written. */
static int by_weight(const void *a, const void *b) {
    const word *x = a, *y = b;
    if (x->stop != y->stop) return x->stop - y->stop;
    if (x->passages != y->passages) return x->passages < y->passages ? -1 : 1;
    return x->position < y->position ? -1 : 1;
}

static void quote(rlf_str *out, rlf_slice text) {
    rlf_str_putc(out, '"');
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '"') rlf_str_putc(out, '"');
        rlf_str_putc(out, text.ptr[i]);
    }
    rlf_str_putc(out, '"');
}

/* The words worth looking up, quoted and joined by OR; empty if the query has no word. */
static void write_expression(word_list *list, int64_t budget, rlf_str *out) {
    qsort(list->v, list->n, sizeof *list->v, by_weight);
    int64_t postings = 0;
    for (size_t i = 0; i < list->n; i++) {
        const word *w = &list->v[i];
        if (i > 0 && (w->stop || postings + w->passages > budget)) break;
        postings += w->passages;
        if (i > 0) rlf_str_puts(out, " OR ");
        quote(out, w->text);
    }
}

static rlf_status make_expression(connection *c, size_t passages, const char *query, size_t n, rlf_arena *arena, rlf_str *out) {
    word_list list = {.query = query, .arena = arena};
    if (n > MAX_QUERY) n = MAX_QUERY;
    int rc = c->tokenizer.xTokenize(c->words, &list, FTS5_TOKENIZE_QUERY, query, (int)n, take_word);
    if (rc != SQLITE_OK && rc != SQLITE_DONE) return RLF_RAISE(INTERNAL, "the tokenizer failed (%d)", rc);
    for (size_t i = 0; i < list.n; i++) count_passages(c, &list.v[i]);
    write_expression(&list, passages / BUDGET_SHARE > MIN_BUDGET ? (int64_t)(passages / BUDGET_SHARE) : MIN_BUDGET, out);
    return RLF_OK;
}

/* ---- searching --------------------------------------------------------------------------------------------------------------------- */

static int is_cancelled(void *flag) { return atomic_load_explicit((const atomic_bool *)flag, memory_order_relaxed); }

static const char *column(sqlite3_stmt *stmt, int i, rlf_arena *arena) {
    const void *text = sqlite3_column_text(stmt, i);
    return rlf_arena_dup(arena, text ? text : "", (size_t)sqlite3_column_bytes(stmt, i));
}

static rlf_status read_hits(connection *c, const char *path, size_t k, rlf_arena *arena, toolsvc_hit *hits, size_t *count) {
    int rc;
    while ((rc = sqlite3_step(c->search)) == SQLITE_ROW && *count < k) {
        hits[(*count)++] = (toolsvc_hit){.id = column(c->search, 0, arena), .title = column(c->search, 1, arena),
                                         .title_quoted = sqlite3_column_int(c->search, 2),
                                         .text = column(c->search, 3, arena), .score = -sqlite3_column_double(c->search, 4)};
    }
    if (rc == SQLITE_INTERRUPT) return RLF_RAISE(STOPPED, "%s: the search was cancelled", path);
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? RLF_OK : sql_error(c->db, path, "cannot search");
}

rlf_status toolsvc_index_search(toolsvc_index *index, const char *query, size_t n, size_t k, const atomic_bool *cancel,
                                rlf_arena *arena, toolsvc_hit **hits, size_t *count) {
    rlf_status status = RLF_OK;
    connection *c = NULL;
    rlf_str expression = {0};
    *count = 0;
    if (k > MAX_RESULTS) k = MAX_RESULTS;
    *hits = rlf_arena_alloc(arena, k, sizeof **hits);
    RLF_TRY(borrow(index, &c));
    if (cancel) sqlite3_progress_handler(c->db, 1000, is_cancelled, (void *)cancel);
    RLF_TRY(make_expression(c, index->passages, query, n, arena, &expression));
    if (expression.len == 0 || k == 0) goto out;
    sqlite3_bind_text(c->search, 1, expression.ptr, (int)expression.len, SQLITE_STATIC);
    sqlite3_bind_int64(c->search, 2, (sqlite3_int64)k);
    RLF_TRY(read_hits(c, index->path, k, arena, *hits, count));
out:
    if (c) {
        sqlite3_reset(c->search);
        sqlite3_clear_bindings(c->search);
        sqlite3_progress_handler(c->db, 0, NULL, NULL);
        give_back(index, c);
    }
    rlf_str_clean_up(&expression);
    return status;
}
