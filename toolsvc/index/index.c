/* Searching the index that postings.h describes: exact BM25, without looking at most postings of common words.
 *
 * Terms are taken from the rarest up. Each is worth at most its bound, so that once the k best passages so far lead by more than all
 * further terms can give, no other passage is let in (Turtle and Flood's max-score), and one that can no longer reach the k best is
 * dropped. What is left is looked up block by block where that is less work than reading a common word's whole list. None of this changes
 * a result: a passage's sum is always taken over the terms in the same order, and only a lead of more than rounding decides. */
#include "toolsvc/index/index.h"

#include <math.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "toolsvc/index/postings.h"
#include "toolsvc/index/stemmer.h"

enum {
    MAX_WORDS = 64,       /* of one query: distinct ones that passages hold */
    MAX_QUERY = 64 << 10, /* bytes of a query that are looked at */
    MAX_RESULTS = 1000,
    BUSY_MS = 5000
};

/* BM25 as SQLite's bm25(): Robertson and Sparck Jones' idf, but never below MIN_IDF. */
#define K1 1.2
#define B 0.75
#define MIN_IDF 1e-6
#define ROUNDING 1e-9 /* by which sums may be off, relative */

/* ---- opening ------------------------------------------------------------------------------------------------------------------------- */

typedef struct candidate {
    uint32_t passage;
    double score; /* over the terms seen so far */
} candidate;

/* One SQLite connection with its statements, stemmer and memory: used by one thread at a time. */
typedef struct connection {
    sqlite3 *db;
    sqlite3_stmt *term, *blocks, *block, *passage;
    toolsvc_stemmer stemmer;
    candidate *now, *merged; /* (cap) ascending by passage; a list is merged from the first into the second */
    size_t n, cap;
    double *best; /* (MAX_RESULTS) */
    struct connection *next;
} connection;

struct toolsvc_index {
    char *path;
    size_t passages;
    double mean_words;     /* of a passage */
    pthread_mutex_t lock;  /* guards `idle` */
    connection *idle;
};

static rlf_status sql_error(sqlite3 *db, const char *path, const char *doing) {
    return RLF_RAISE(IO, "%s: %s: %s", path, doing, db ? sqlite3_errmsg(db) : "out of memory");
}

static void connection_destroy(connection *c) {
    if (!c) return;
    toolsvc_stemmer_clean_up(&c->stemmer);
    sqlite3_finalize(c->term);
    sqlite3_finalize(c->blocks);
    sqlite3_finalize(c->block);
    sqlite3_finalize(c->passage);
    sqlite3_close(c->db);
    free(c->now);
    free(c->merged);
    free(c->best);
    free(c);
}

static int64_t read_number(sqlite3 *db, const char *sql) {
    sqlite3_stmt *stmt = NULL;
    int64_t value = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW)
        value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return value;
}

static rlf_status check_format(sqlite3 *db, const char *path) {
    if (read_number(db, "PRAGMA application_id") != TOOLSVC_INDEX_ID) return RLF_RAISE(INVALID, "%s: not an index made by rlf index", path);
    int64_t format = read_number(db, "PRAGMA user_version");
    if (format == TOOLSVC_INDEX_FORMAT) return RLF_OK;
    return RLF_RAISE(UNSUPPORTED, "%s: index format %lld; this program reads %d: make it again with rlf index", path, (long long)format,
                     (int)TOOLSVC_INDEX_FORMAT);
}

static rlf_status prepare(connection *c, const char *path, const char *sql, sqlite3_stmt **stmt) {
    if (sqlite3_prepare_v3(c->db, sql, -1, SQLITE_PREPARE_PERSISTENT, stmt, NULL) == SQLITE_OK) return RLF_OK;
    return sql_error(c->db, path, "damaged index");
}

static rlf_status connection_new(connection **out, const char *path) {
    rlf_status status = RLF_OK;
    connection *c = rlf_calloc(1, sizeof *c);
    c->best = rlf_calloc(MAX_RESULTS, sizeof *c->best);
    if (sqlite3_open_v2(path, &c->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        RLF_TRY(sql_error(c->db, path, "cannot open the index"));
    sqlite3_busy_timeout(c->db, BUSY_MS);
    RLF_TRY(check_format(c->db, path));
    /* Exclusive: the shared lock of the first read is kept, instead of being taken, with a look at the folder, by every statement. */
    if (sqlite3_exec(c->db, "PRAGMA query_only=1; PRAGMA mmap_size=1099511627776; PRAGMA locking_mode=EXCLUSIVE", NULL, NULL, NULL) !=
        SQLITE_OK)
        RLF_TRY(sql_error(c->db, path, "cannot set up"));
    RLF_TRY(prepare(c, path, "SELECT number, passages FROM term WHERE stem = ?1", &c->term));
    RLF_TRY(prepare(c, path, "SELECT key, bytes FROM posting WHERE key BETWEEN ?1 AND ?2 ORDER BY key", &c->blocks));
    RLF_TRY(prepare(c, path, "SELECT key, bytes FROM posting WHERE key BETWEEN ?1 AND ?2 ORDER BY key DESC LIMIT 1", &c->block));
    RLF_TRY(prepare(c, path, "SELECT id, title, quoted, text FROM passage WHERE rowid = ?1", &c->passage));
    RLF_TRY(toolsvc_stemmer_init(&c->stemmer, c->db));
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
    int64_t words = read_number(first->db, "SELECT value FROM meta WHERE key = 'words'");
    if (passages <= 0 || passages > UINT32_MAX || words < 0 || read_number(first->db, "SELECT max(rowid) FROM passage") != passages)
        RLF_FAIL(INVALID, "%s: damaged index: its counts are not those of its passages", path);
    toolsvc_index *index = rlf_calloc(1, sizeof *index);
    index->path = rlf_strdup(path);
    index->passages = (size_t)passages;
    index->mean_words = (double)words / (double)passages;
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

/* ---- the terms of a query ------------------------------------------------------------------------------------------------------ */

typedef struct term {
    rlf_slice stem;
    size_t position, times; /* in the query: first place, and how often */
    uint32_t number, passages;
    double idf; /* times `times` */
} term;

typedef struct search {
    const toolsvc_index *index;
    connection *c;
    rlf_arena *arena;
    const atomic_bool *cancel;
    size_t k;
    term v[MAX_WORDS]; /* (n) */
    size_t n;
    rlf_status looked_up;        /* whether the last word could be */
    double after[MAX_WORDS + 1]; /* [i]: what terms i and on can add to a passage, at most */
} search;

static rlf_status damaged(const search *s) {
    return RLF_RAISE(INVALID, "%s: damaged index: a posting is not as it must be", s->index->path);
}

/* Rarest first, then as written. */
static int by_weight(const void *a, const void *b) {
    const term *x = a, *y = b;
    if (x->passages != y->passages) return x->passages < y->passages ? -1 : 1;
    return x->position < y->position ? -1 : 1;
}

/* Leaves passages at 0 where no passage holds the stem. */
static rlf_status look_up(const search *s, term *t) {
    sqlite3_stmt *stmt = s->c->term;
    sqlite3_bind_text(stmt, 1, t->stem.ptr, (int)t->stem.len, SQLITE_STATIC);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        t->number = (uint32_t)sqlite3_column_int64(stmt, 0);
        t->passages = (uint32_t)sqlite3_column_int64(stmt, 1);
    }
    sqlite3_reset(stmt);
    if (t->passages > s->index->passages) return damaged(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? RLF_OK : sql_error(s->c->db, s->index->path, "cannot search");
}

/* Words that no passage holds take no place. */
static bool take_stem(void *user, rlf_slice stem) {
    search *s = user;
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i].stem.len == stem.len && memcmp(s->v[i].stem.ptr, stem.ptr, stem.len) == 0) return ++s->v[i].times > 0;
    term t = {.stem = stem, .position = s->n, .times = 1};
    s->looked_up = look_up(s, &t);
    if (s->looked_up != RLF_OK || t.passages == 0) return s->looked_up == RLF_OK;
    t.stem.ptr = rlf_arena_dup(s->arena, stem.ptr, stem.len);
    s->v[s->n] = t;
    return ++s->n < MAX_WORDS;
}

static rlf_status find_terms(search *s, rlf_slice query) {
    rlf_status status = RLF_OK;
    RLF_TRY(toolsvc_stemmer_run(&s->c->stemmer, query, take_stem, s));
    RLF_TRY(s->looked_up);
    for (size_t i = 0; i < s->n; i++) {
        term *t = &s->v[i];
        double idf = log(((double)s->index->passages - t->passages + 0.5) / (t->passages + 0.5));
        t->idf = fmax(idf, MIN_IDF) * (double)t->times;
    }
    qsort(s->v, s->n, sizeof *s->v, by_weight);
    s->after[s->n] = 0;
    for (size_t i = s->n; i-- > 0;) s->after[i] = s->after[i + 1] + s->v[i].idf * (K1 + 1); /* approached as the weight grows */
out:
    return status;
}

/* ---- candidates ---------------------------------------------------------------------------------------------------------------- */

static double score_of(const search *s, const term *t, const toolsvc_posting *p) {
    double weight = (double)p->weight / TOOLSVC_TEXT_WEIGHT;
    return t->idf * (weight * (K1 + 1) / (weight + K1 * (1 - B + B * (double)p->words / s->index->mean_words)));
}

/* The next block of postings of a term. *got: false if there is none. The bytes are SQLite's, until the statement goes on. */
static rlf_status next_block(search *s, sqlite3_stmt *stmt, toolsvc_block *block, bool *got) {
    if (s->cancel && atomic_load_explicit(s->cancel, memory_order_relaxed))
        return RLF_RAISE(STOPPED, "%s: the search was cancelled", s->index->path);
    int rc = sqlite3_step(stmt);
    *got = rc == SQLITE_ROW;
    if (rc == SQLITE_DONE) return RLF_OK;
    if (rc != SQLITE_ROW) return sql_error(s->c->db, s->index->path, "cannot search");
    const unsigned char *bytes = sqlite3_column_blob(stmt, 1);
    *block = (toolsvc_block){.at = bytes, .end = bytes ? bytes + sqlite3_column_bytes(stmt, 1) : NULL,
                             .passage = (uint32_t)sqlite3_column_int64(stmt, 0)};
    return RLF_OK;
}

static void bind_keys(sqlite3_stmt *stmt, const term *t, uint32_t last) {
    sqlite3_bind_int64(stmt, 1, (int64_t)((uint64_t)t->number << 32));
    sqlite3_bind_int64(stmt, 2, (int64_t)((uint64_t)t->number << 32 | last));
}

static void make_room(connection *c, size_t n) {
    if (n <= c->cap) return;
    c->cap = n;
    c->now = rlf_realloc(c->now, n, sizeof *c->now);
    c->merged = rlf_realloc(c->merged, n, sizeof *c->merged);
}

static void swap_merged(connection *c, size_t n) {
    candidate *before = c->now;
    c->now = c->merged;
    c->merged = before;
    c->n = n;
}

/* Reads the term's whole list into the candidates. admit: also passages that are not among them. */
static rlf_status merge(search *s, const term *t, bool admit) {
    rlf_status status = RLF_OK;
    connection *c = s->c;
    toolsvc_block block;
    toolsvc_posting p;
    size_t from = 0, to = 0, room = c->n + (admit ? t->passages : 0);
    bool got = true;
    make_room(c, room);
    bind_keys(c->blocks, t, UINT32_MAX);
    while (got) {
        RLF_TRY(next_block(s, c->blocks, &block, &got));
        while (got && toolsvc_block_next(&block, &p)) {
            while (from < c->n && c->now[from].passage < p.passage) c->merged[to++] = c->now[from++];
            bool known = from < c->n && c->now[from].passage == p.passage;
            if (!known && !admit) continue;
            if (!known && to + (c->n - from) == room) RLF_TRY(damaged(s)); /* more passages than the term is said to have */
            c->merged[to++] = (candidate){p.passage, (known ? c->now[from++].score : 0) + score_of(s, t, &p)};
        }
        if (got && block.damaged) RLF_TRY(damaged(s));
    }
    while (from < c->n) c->merged[to++] = c->now[from++];
    swap_merged(c, to);
out:
    sqlite3_reset(c->blocks);
    return status;
}

/* The first posting at or behind `wanted` within the only block that can hold it; otherwise one before it. */
static rlf_status seek(search *s, const term *t, uint32_t wanted, toolsvc_block *block, toolsvc_posting *p) {
    bool got;
    sqlite3_reset(s->c->block);
    bind_keys(s->c->block, t, wanted);
    rlf_status status = next_block(s, s->c->block, block, &got);
    if (status != RLF_OK) return status;
    if (!got) *block = (toolsvc_block){0};
    while (p->passage < wanted && toolsvc_block_next(block, p)) {}
    return block->damaged ? damaged(s) : RLF_OK;
}

/* Looks the candidates up in the term's list, one by one. */
static rlf_status probe(search *s, const term *t) {
    rlf_status status = RLF_OK;
    connection *c = s->c;
    toolsvc_block block = {0};
    toolsvc_posting p = {0};
    for (size_t i = 0; i < c->n; i++) {
        uint32_t wanted = c->now[i].passage;
        while (p.passage < wanted && toolsvc_block_next(&block, &p)) {}
        if (p.passage < wanted) RLF_TRY(seek(s, t, wanted, &block, &p));
        if (p.passage == wanted) c->now[i].score += score_of(s, t, &p);
    }
out:
    sqlite3_reset(c->block);
    return status;
}

/* Of the k best scores so far the last, 0 if there are fewer: no passage below it can be among the first k. */
static double find_threshold(const search *s) {
    double *best = s->c->best; /* (n) descending */
    size_t n = 0;
    for (size_t i = 0; i < s->c->n; i++) {
        double score = s->c->now[i].score;
        if (n == s->k && score <= best[n - 1]) continue;
        size_t at = n < s->k ? n++ : n - 1;
        for (; at > 0 && best[at - 1] < score; at--) best[at] = best[at - 1];
        best[at] = score;
    }
    return n == s->k ? best[n - 1] : 0;
}

static void drop_hopeless(connection *c, double threshold, double after) {
    size_t kept = 0;
    for (size_t i = 0; i < c->n; i++)
        if (c->now[i].score + after >= threshold) c->now[kept++] = c->now[i];
    c->n = kept;
}

static rlf_status score_passages(search *s) {
    rlf_status status = RLF_OK;
    connection *c = s->c;
    double threshold = 0;
    c->n = 0;
    for (size_t i = 0; i < s->n; i++) {
        const term *t = &s->v[i];
        bool admit = threshold <= s->after[i] * (1 + ROUNDING);
        RLF_TRY(!admit && c->n < t->passages / TOOLSVC_BLOCK ? probe(s, t) : merge(s, t, admit));
        threshold = find_threshold(s);
        drop_hopeless(c, threshold, s->after[i + 1] * (1 + ROUNDING));
    }
out:
    return status;
}

/* ---- the answer ---------------------------------------------------------------------------------------------------------------- */

/* Best first; equal ones in the order of the corpus. */
static int by_score(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->passage < y->passage ? -1 : 1;
}

/* A NUL of the corpus becomes a space. */
static const char *column(sqlite3_stmt *stmt, int i, rlf_arena *arena) {
    const void *text = sqlite3_column_text(stmt, i);
    size_t n = (size_t)sqlite3_column_bytes(stmt, i);
    char *copy = rlf_arena_dup(arena, text ? text : "", n);
    for (char *nul = copy; (nul = memchr(nul, '\0', n - (size_t)(nul - copy)));) *nul = ' ';
    return copy;
}

static rlf_status read_hit(const search *s, const candidate *from, toolsvc_hit *hit) {
    sqlite3_stmt *stmt = s->c->passage;
    sqlite3_bind_int64(stmt, 1, from->passage);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *hit = (toolsvc_hit){.id = column(stmt, 0, s->arena), .title = column(stmt, 1, s->arena),
                             .title_quoted = sqlite3_column_int(stmt, 2), .text = column(stmt, 3, s->arena), .score = from->score};
    sqlite3_reset(stmt);
    if (rc == SQLITE_DONE) return damaged(s);
    return rc == SQLITE_ROW ? RLF_OK : sql_error(s->c->db, s->index->path, "cannot search");
}

static rlf_status read_hits(const search *s, toolsvc_hit *hits, size_t *count) {
    rlf_status status = RLF_OK;
    if (s->c->n > 0) qsort(s->c->now, s->c->n, sizeof *s->c->now, by_score);
    for (size_t i = 0; i < s->c->n && i < s->k; i++) {
        RLF_TRY(read_hit(s, &s->c->now[i], &hits[i]));
        *count = i + 1;
    }
out:
    return status;
}

rlf_status toolsvc_index_search(toolsvc_index *index, const char *query, size_t n, size_t k, const atomic_bool *cancel,
                                rlf_arena *arena, toolsvc_hit **hits, size_t *count) {
    rlf_status status = RLF_OK;
    search s = {.index = index, .arena = arena, .cancel = cancel, .k = k < MAX_RESULTS ? k : MAX_RESULTS};
    *count = 0;
    *hits = rlf_arena_alloc(arena, s.k, sizeof **hits);
    if (k == 0) return RLF_OK;
    RLF_TRY(borrow(index, &s.c));
    RLF_TRY(find_terms(&s, (rlf_slice){query, n < MAX_QUERY ? n : MAX_QUERY}));
    RLF_TRY(score_passages(&s));
    RLF_TRY(read_hits(&s, *hits, count));
out:
    if (s.c) give_back(index, s.c);
    return status;
}
