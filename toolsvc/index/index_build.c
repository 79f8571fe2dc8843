/* Building an index: one pass over the corpus.
 *
 * Postings are gathered in memory, stem by stem, in the blocks that postings.h describes, and written in order of their keys when they
 * come to PENDING_BYTES and at the end. Memory: that, and about 150 bytes a distinct stem. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/json.h"
#include "toolsvc/index/index.h"
#include "toolsvc/map.h"
#include "toolsvc/index/postings.h"
#include "toolsvc/index/stemmer.h"
#include "toolsvc/text.h"

enum { MAX_LINE = 16 << 20, PENDING_BYTES = 256 << 20 };

/* ---- a line of the corpus ------------------------------------------------------------------------------------------------------------ */

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

/* ---- stems and their postings -------------------------------------------------------------------------------------------------- */

/* Before each pending block, in `pending`. */
typedef struct block_head {
    uint32_t first, bytes; /* passage; length of the block behind this head */
} block_head;

typedef struct term {
    uint32_t number, passages, last; /* last: passage that holds it */
    uint32_t in_block;               /* postings of the block that is open, 0: none is */
    uint32_t weight;                 /* in the passage being read */
    rlf_str pending;
    size_t head; /* of the open block, in `pending` */
    size_t n;
    char stem[];
} term;

typedef struct builder {
    sqlite3 *db;
    const char *path; /* for messages */
    sqlite3_stmt *add_passage, *add_posting, *add_term;
    toolsvc_stemmer stemmer;
    toolsvc_map by_stem;
    term **terms; /* (n_terms) by number, owned */
    size_t n_terms, cap_terms;
    term **here; /* (n_here) of the passage being read */
    size_t n_here, cap_here;
    uint32_t weight; /* of the words being read */
    size_t words_here, words, passages, pending;
} builder;

static term *find_term(builder *b, rlf_slice stem) {
    term *t = toolsvc_map_get(&b->by_stem, stem);
    if (t) return t;
    t = rlf_calloc(1, sizeof *t + stem.len + 1);
    t->number = (uint32_t)b->n_terms;
    t->n = stem.len;
    memcpy(t->stem, stem.ptr, stem.len);
    b->terms = rlf_grow(b->terms, b->n_terms, &b->cap_terms, sizeof(term *));
    b->terms[b->n_terms++] = t;
    toolsvc_map_put(&b->by_stem, stem, t);
    return t;
}

static bool count_stem(void *user, rlf_slice stem) {
    builder *b = user;
    term *t = find_term(b, stem);
    if (t->weight == 0) {
        b->here = rlf_grow(b->here, b->n_here, &b->cap_here, sizeof(term *));
        b->here[b->n_here++] = t;
    }
    t->weight += b->weight;
    b->words_here++;
    return true;
}

static void close_block(term *t) {
    block_head head;
    memcpy(&head, t->pending.ptr + t->head, sizeof head);
    head.bytes = (uint32_t)(t->pending.len - t->head - sizeof head);
    memcpy(t->pending.ptr + t->head, &head, sizeof head);
    t->in_block = 0;
}

static void add_posting(builder *b, term *t) {
    uint32_t number = (uint32_t)b->passages;
    size_t before = t->pending.len;
    if (t->in_block == 0) {
        block_head head = {.first = number};
        t->head = before;
        t->last = number;
        rlf_str_append(&t->pending, &head, sizeof head);
    }
    toolsvc_number_append(&t->pending, number - t->last);
    toolsvc_number_append(&t->pending, t->weight);
    toolsvc_number_append(&t->pending, (uint32_t)b->words_here);
    t->last = number;
    t->passages++;
    t->weight = 0;
    if (++t->in_block == TOOLSVC_BLOCK) close_block(t);
    b->pending += t->pending.len - before;
}

static rlf_status step_done(const builder *b, sqlite3_stmt *stmt) {
    int rc = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    return rc == SQLITE_DONE ? RLF_OK : RLF_RAISE(IO, "%s: cannot store: %s", b->path, sqlite3_errmsg(b->db));
}

static rlf_status write_blocks(builder *b, term *t) {
    rlf_status status = RLF_OK;
    block_head head;
    if (t->in_block > 0) close_block(t);
    for (size_t at = 0; at < t->pending.len; at += sizeof head + head.bytes) {
        memcpy(&head, t->pending.ptr + at, sizeof head);
        sqlite3_bind_int64(b->add_posting, 1, (int64_t)((uint64_t)t->number << 32 | head.first));
        sqlite3_bind_blob(b->add_posting, 2, t->pending.ptr + at + sizeof head, (int)head.bytes, SQLITE_STATIC);
        RLF_TRY(step_done(b, b->add_posting));
    }
    rlf_str_clean_up(&t->pending);
    t->pending = (rlf_str){0};
out:
    return status;
}

static rlf_status write_pending(builder *b) {
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < b->n_terms; i++) RLF_TRY(write_blocks(b, b->terms[i]));
    b->pending = 0;
out:
    return status;
}

static int by_stem(const void *a, const void *b) { return strcmp((*(term *const *)a)->stem, (*(term *const *)b)->stem); }

/* Leaves b->terms in order of the stems. */
static rlf_status write_terms(builder *b) {
    rlf_status status = RLF_OK;
    qsort(b->terms, b->n_terms, sizeof(term *), by_stem);
    for (size_t i = 0; i < b->n_terms; i++) {
        const term *t = b->terms[i];
        sqlite3_bind_text(b->add_term, 1, t->stem, (int)t->n, SQLITE_STATIC);
        sqlite3_bind_int64(b->add_term, 2, t->number);
        sqlite3_bind_int64(b->add_term, 3, t->passages);
        RLF_TRY(step_done(b, b->add_term));
    }
out:
    return status;
}

/* ---- the whole ----------------------------------------------------------------------------------------------------------------- */

static rlf_status store_passage(const builder *b, const passage *p) {
    sqlite3_bind_text(b->add_passage, 1, p->id.ptr, (int)p->id.len, SQLITE_STATIC);
    sqlite3_bind_text(b->add_passage, 2, p->title.ptr, (int)p->title.len, SQLITE_STATIC);
    sqlite3_bind_int(b->add_passage, 3, p->quoted);
    sqlite3_bind_text(b->add_passage, 4, p->text.ptr, (int)p->text.len, SQLITE_STATIC);
    return step_done(b, b->add_passage);
}

/* The passage's number is its row: from 1 on. */
static rlf_status index_passage(builder *b, const passage *p) {
    rlf_status status = RLF_OK;
    if (b->passages == UINT32_MAX) RLF_FAIL(LIMIT, "more than %u passages", UINT32_MAX);
    b->n_here = b->words_here = 0;
    b->weight = TOOLSVC_TITLE_WEIGHT;
    RLF_TRY(toolsvc_stemmer_run(&b->stemmer, p->title, count_stem, b));
    b->weight = TOOLSVC_TEXT_WEIGHT;
    RLF_TRY(toolsvc_stemmer_run(&b->stemmer, p->text, count_stem, b));
    b->words += b->words_here;
    b->passages++;
    for (size_t i = 0; i < b->n_here; i++) add_posting(b, b->here[i]);
    if (b->pending > PENDING_BYTES) RLF_TRY(write_pending(b));
out:
    return status;
}

static rlf_status add_line(builder *b, const char *file, size_t line, const char *bytes, size_t n) {
    rlf_status status = RLF_OK;
    json_error_t error;
    size_t mark = line == 1 ? rlf_json_mark(bytes, n) : 0;
    json_t *row = toolsvc_json_parse(bytes + mark, n - mark, 0, &error);
    if (!row)
        return RLF_RAISE(INVALID, "%s:%zu: byte %d: %s: %s", file, line, error.position, rlf_json_problem(&error), error.text);
    passage p;
    RLF_TRY(read_passage(row, file, line, &p));
    RLF_TRY(store_passage(b, &p));
    RLF_TRY(index_passage(b, &p));
out:
    json_decref(row);
    return status;
}

static rlf_status add_corpus(builder *b, const char *file) {
    rlf_status status = RLF_OK;
    char *line = NULL;
    size_t cap = 0, number = 0;
    FILE *in = fopen(file, "r");
    if (!in) return RLF_RAISE(IO, "%s: cannot open: %s", file, strerror(errno));
    for (ssize_t n; (n = getline(&line, &cap, in)) >= 0;) {
        number++;
        if (n > MAX_LINE) RLF_FAIL(LIMIT, "%s:%zu: a line of %zd bytes; at most %d are allowed", file, number, n, (int)MAX_LINE);
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        RLF_TRY(add_line(b, file, number, line, (size_t)n));
    }
    if (ferror(in)) RLF_FAIL(IO, "%s: cannot read: %s", file, strerror(errno));
    if (b->passages == 0) RLF_FAIL(INVALID, "%s: no passages: expected one JSON object a line", file);
out:
    free(line);
    fclose(in);
    return status;
}

static rlf_status run_sql(const builder *b, const char *sql) {
    if (sqlite3_exec(b->db, sql, NULL, NULL, NULL) == SQLITE_OK) return RLF_OK;
    return RLF_RAISE(IO, "%s: cannot write: %s", b->path, sqlite3_errmsg(b->db));
}

static rlf_status prepare(const builder *b, const char *sql, sqlite3_stmt **stmt) {
    if (sqlite3_prepare_v2(b->db, sql, -1, stmt, NULL) == SQLITE_OK) return RLF_OK;
    return RLF_RAISE(IO, "%s: cannot prepare: %s", b->path, sqlite3_errmsg(b->db));
}

static rlf_status make_tables(builder *b) {
    rlf_status status = RLF_OK;
    RLF_TRY(run_sql(b, "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-65536; BEGIN;"
                       "CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;"
                       "CREATE TABLE passage(rowid INTEGER PRIMARY KEY, id TEXT NOT NULL, title TEXT NOT NULL, quoted INTEGER NOT "
                       "NULL, text TEXT NOT NULL);"
                       "CREATE TABLE term(stem TEXT PRIMARY KEY, number INTEGER, passages INTEGER) WITHOUT ROWID;"
                       "CREATE TABLE posting(key INTEGER PRIMARY KEY, bytes BLOB NOT NULL);"));
    RLF_TRY(prepare(b, "INSERT INTO passage(id, title, quoted, text) VALUES(?, ?, ?, ?)", &b->add_passage));
    RLF_TRY(prepare(b, "INSERT INTO posting VALUES(?, ?)", &b->add_posting));
    RLF_TRY(prepare(b, "INSERT INTO term VALUES(?, ?, ?)", &b->add_term));
out:
    return status;
}

/* Inside an open, empty database. */
static rlf_status fill(builder *b, const char *corpus) {
    rlf_status status = RLF_OK;
    char sql[256];
    RLF_TRY(make_tables(b));
    RLF_TRY(toolsvc_stemmer_init(&b->stemmer, b->db));
    RLF_TRY(add_corpus(b, corpus));
    RLF_TRY(write_pending(b));
    RLF_TRY(write_terms(b));
    snprintf(sql, sizeof sql, "PRAGMA application_id=%d; PRAGMA user_version=%d;"
                              "INSERT INTO meta VALUES('passages', %zu), ('words', %zu); COMMIT;",
             (int)TOOLSVC_INDEX_ID, (int)TOOLSVC_INDEX_FORMAT, b->passages, b->words);
    RLF_TRY(run_sql(b, sql));
out:
    return status;
}

static void builder_clean_up(builder *b) {
    toolsvc_stemmer_clean_up(&b->stemmer);
    sqlite3_finalize(b->add_passage);
    sqlite3_finalize(b->add_posting);
    sqlite3_finalize(b->add_term);
    sqlite3_close(b->db);
    for (size_t i = 0; i < b->n_terms; i++) {
        rlf_str_clean_up(&b->terms[i]->pending);
        free(b->terms[i]);
    }
    toolsvc_map_clean_up(&b->by_stem, NULL);
    free(b->terms);
    free(b->here);
}

static rlf_status sync_file(const char *path) {
    int fd = open(path, O_RDONLY);
    int failed = fd < 0 || fsync(fd) != 0;
    int error = errno;
    if (fd >= 0) close(fd);
    return failed ? RLF_RAISE(IO, "%s: cannot sync: %s", path, strerror(error)) : RLF_OK;
}

/* Builds into the new file `beside`; errors speak of `path`. */
static rlf_status build_file(const char *corpus, const char *beside, const char *path, size_t *passages) {
    rlf_status status = RLF_OK;
    builder b = {.path = path};
    if (sqlite3_open_v2(beside, &b.db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        RLF_FAIL(IO, "%s: cannot create: %s", beside, b.db ? sqlite3_errmsg(b.db) : "out of memory");
    RLF_TRY(fill(&b, corpus));
    *passages = b.passages;
out:
    builder_clean_up(&b);
    return status;
}

static bool is_index(const char *path) {
    sqlite3 *db = NULL;
    sqlite3_stmt *id = NULL;
    bool ours = sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK &&
                sqlite3_prepare_v2(db, "PRAGMA application_id", -1, &id, NULL) == SQLITE_OK && sqlite3_step(id) == SQLITE_ROW &&
                sqlite3_column_int(id, 0) == TOOLSVC_INDEX_ID;
    sqlite3_finalize(id);
    sqlite3_close(db);
    return ours;
}

/* What somebody else wrote, the corpus above all, is not written over. */
static rlf_status check_place(const char *path) {
    struct stat there;
    if (stat(path, &there) != 0 || (S_ISREG(there.st_mode) && (there.st_size == 0 || is_index(path)))) return RLF_OK;
    return RLF_RAISE(INVALID, "%s: there is something that is not an index made by rlf index; it is left as it is", path);
}

rlf_status toolsvc_index_build(const char *corpus, const char *path, size_t *passages) {
    rlf_status status = check_place(path);
    rlf_str beside = {0};
    *passages = 0;
    if (status != RLF_OK) return status;
    rlf_str_printf(&beside, "%s.%ld.part", path, (long)getpid());
    unlink(beside.ptr);
    RLF_TRY(build_file(corpus, beside.ptr, path, passages));
    RLF_TRY(sync_file(beside.ptr));
    if (rename(beside.ptr, path) != 0) RLF_FAIL(IO, "%s: cannot rename the finished index into place: %s", path, strerror(errno));
out:
    if (status != RLF_OK) unlink(beside.ptr);
    rlf_str_clean_up(&beside);
    return status;
}
