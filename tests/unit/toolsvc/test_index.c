/* The full-text index: corpus forms, errors with their line, hostile queries, order, cancelling, threads, and recall on real questions. */
#include "tests/test.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/rng.h"
#include "toolsvc/index/index.h"

typedef struct fixture {
    char folder[64], corpus[96], path[96];
    toolsvc_index *index;
    rlf_arena arena;
    toolsvc_hit *hits;
    size_t count;
} fixture;

static const char countries[] =
    "{\"id\": \"a\", \"contents\": \"\\\"Peru\\\"\\nThe capital of Peru is Lima. Its currency is the sol.\"}\n"
    "\n"
    "{\"id\": 17, \"title\": \"Chile\", \"text\": \"The capital of Chile is Santiago; running rivers, caf\\u00e9 and S\\u00e3o.\"}\n"
    "{\"id\": \"c\", \"contents\": \"Norway\\nThe capital of Norway is Oslo.\"}\n"
    "{\"id\": \"d\", \"contents\": \"no title: near and not\"}\n"
    "{\"id\": \"e\", \"text\": \"twin\"}\n"
    "{\"id\": \"f\", \"text\": \"twin\"}\n";

static void write_corpus(fixture *f, const char *text) {
    FILE *out = fopen(f->corpus, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    snprintf(f->folder, sizeof f->folder, "/tmp/rlf-index-XXXXXX");
    if (!mkdtemp(f->folder)) return -1;
    snprintf(f->corpus, sizeof f->corpus, "%s/corpus.jsonl", f->folder);
    snprintf(f->path, sizeof f->path, "%s/index", f->folder);
    write_corpus(f, countries);
    size_t n;
    if (toolsvc_index_build(f->corpus, f->path, &n) != RLF_OK || n != 6) return -1;
    if (toolsvc_index_open(&f->index, f->path) != RLF_OK) return -1;
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    toolsvc_index_destroy(f->index);
    rlf_arena_clean_up(&f->arena);
    unlink(f->corpus);
    unlink(f->path);
    int left = rmdir(f->folder); /* fails if a build left a file behind */
    free(f);
    return left;
}

static void search_bytes(fixture *f, const char *query, size_t n, size_t k) {
    assert_ok(toolsvc_index_search(f->index, query, n, k, NULL, &f->arena, &f->hits, &f->count));
}
static void search(fixture *f, const char *query) { search_bytes(f, query, strlen(query), 3); }

static void both_corpus_forms_give_id_title_and_text(void **state) {
    fixture *f = *state;
    search(f, "Lima");
    assert_int_equal(f->count, 1);
    assert_string_equal(f->hits[0].id, "a");
    assert_string_equal(f->hits[0].title, "Peru");
    assert_true(f->hits[0].title_quoted);
    assert_string_equal(f->hits[0].text, "The capital of Peru is Lima. Its currency is the sol.");
    assert_true(f->hits[0].score > 0);
    search(f, "Santiago");
    assert_string_equal(f->hits[0].id, "17");
    assert_string_equal(f->hits[0].title, "Chile");
    assert_false(f->hits[0].title_quoted);
    search(f, "Oslo");
    assert_string_equal(f->hits[0].title, "Norway");
    assert_false(f->hits[0].title_quoted);
    search(f, "near");
    assert_string_equal(f->hits[0].title, "");
    assert_string_equal(f->hits[0].text, "no title: near and not");
}

static void values_that_are_rare_in_json_are_indexed(void **state) {
    fixture *f = *state;
    size_t n;
    write_corpus(f, "\xef\xbb\xbf{\"id\": \"a\", \"text\": \"one\\u0000two \\ud83d\", \"hash\": 18446744073709551615}\n");
    toolsvc_index_destroy(f->index);
    f->index = NULL;
    assert_ok(toolsvc_index_build(f->corpus, f->path, &n));
    assert_ok(toolsvc_index_open(&f->index, f->path));
    search(f, "two");
    assert_int_equal(f->count, 1);
    assert_string_equal(f->hits[0].text, "one two \xef\xbf\xbd");
}

static void words_match_by_stem_case_and_accent(void **state) {
    fixture *f = *state;
    static const char *const queries[] = {"RUN", "river", "cafe", "CAF\xc3\x89", "sao"};
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        search(f, queries[i]);
        assert_int_equal(f->count, 1);
        assert_string_equal(f->hits[0].id, "17");
    }
}

static void equal_scores_keep_the_order_of_the_corpus(void **state) {
    fixture *f = *state;
    search(f, "twin");
    assert_int_equal(f->count, 2);
    assert_string_equal(f->hits[0].id, "e");
    assert_string_equal(f->hits[1].id, "f");
    assert_true(f->hits[0].score == f->hits[1].score);
    search_bytes(f, "twin", 4, 1);
    assert_int_equal(f->count, 1);
    assert_string_equal(f->hits[0].id, "e");
}

static void query_syntax_is_plain_text(void **state) {
    fixture *f = *state;
    static const char *const queries[] = {"\"Lima", "Lima\"", "Lima AND zebra", "NEAR(Lima, 2)", "Lima*", "^Lima", "text:Lima",
                                          "-Lima NOT Lima", "{text} : Lima",
                                          "(Lima", "Lima)", "a\"b\" Lima '; DROP TABLE passage; --", "Lima + \\ %",
                                          "\xff\xfe Lima \xc3", "\xe2\x80\x9cLima\xe2\x80\x9d?"};
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        search(f, queries[i]);
        assert_true(f->count >= 1);
        if (!strstr(queries[i], "NEAR") && !strstr(queries[i], "NOT")) assert_string_equal(f->hits[0].id, "a");
    }
}

static void query_without_words_finds_nothing(void **state) {
    fixture *f = *state;
    static const char *const queries[] = {"", "   ", "\"\"", "*:()^", "?!", "zebra quagga"};
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        search(f, queries[i]);
        assert_int_equal(f->count, 0);
    }
    search_bytes(f, "Li\0ma Lima", 10, 3); /* NUL parts words */
    assert_int_equal(f->count, 1);
}

static void rare_words_count_more_than_common_ones(void **state) {
    fixture *f = *state;
    search(f, "the");
    assert_int_equal(f->count, 3);
    search(f, "what is the currency");
    assert_int_equal(f->count, 3);
    assert_string_equal(f->hits[0].id, "a");
}

/* "IT" says little elsewhere, but in a corpus that hardly holds it, it is what is looked for. */
static void function_word_that_is_rare_here_is_looked_up(void **state) {
    fixture *f = *state;
    rlf_str corpus = {0};
    size_t n;
    for (int i = 0; i < 300; i++)
        rlf_str_printf(&corpus, "{\"id\":\"%d\",\"text\":\"The code of place%d is %s.\"}\n", i, i, i == 7 ? "IT" : "XX");
    write_corpus(f, corpus.ptr);
    toolsvc_index_destroy(f->index);
    unlink(f->path);
    assert_ok(toolsvc_index_build(f->corpus, f->path, &n));
    assert_ok(toolsvc_index_open(&f->index, f->path));
    search(f, "the code IT");
    assert_string_equal(f->hits[0].id, "7");
    rlf_str_clean_up(&corpus);
}

static void very_long_query_is_answered(void **state) {
    fixture *f = *state;
    rlf_str query = {0};
    rlf_str_puts(&query, "Lima ");
    for (int i = 0; query.len < 10000; i++) rlf_str_printf(&query, "w%d \"OR\" ", i);
    search_bytes(f, query.ptr, query.len, 3);
    assert_string_equal(f->hits[0].id, "a");
    rlf_str_puts(&query, "Oslo");
    search_bytes(f, query.ptr, query.len, 3);
    assert_int_equal(f->count, 2); /* the words between, which nothing holds, take no place */
    rlf_str_reset(&query);
    while (query.len < 200000) rlf_str_puts(&query, "x");
    search_bytes(f, query.ptr, query.len, 3);
    assert_int_equal(f->count, 0);
    rlf_str_clean_up(&query);
}

static void *search_many(void *argument) {
    toolsvc_index *index = argument;
    rlf_arena arena = {0};
    size_t good = 0;
    for (int i = 0; i < 50; i++) {
        toolsvc_hit *hits;
        size_t count;
        rlf_arena_reset(&arena);
        if (toolsvc_index_search(index, "capital Lima", 12, 3, NULL, &arena, &hits, &count) == RLF_OK && count == 3 &&
            !strcmp(hits[0].id, "a"))
            good++;
    }
    rlf_arena_clean_up(&arena);
    return (void *)good;
}

static void threads_search_one_index_at_once(void **state) {
    fixture *f = *state;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, search_many, f->index), 0);
    for (int i = 0; i < 4; i++) {
        void *good;
        pthread_join(threads[i], &good);
        assert_int_equal((size_t)good, 50);
    }
}

static void bad_corpus_names_its_line_and_leaves_the_old_index(void **state) {
    fixture *f = *state;
    static const struct {
        const char *corpus, *wanted;
    } cases[] = {{"{\"id\": \"a\", \"text\": \"x\"}\n{\"id\": \"b\", \"text\"\n", "corpus.jsonl:2: byte"},
                 {"[]\n", "corpus.jsonl:1: expected a JSON object"},
                 {"{\"text\": \"x\"}\n", "corpus.jsonl:1: key \"id\""},
                 {"{\"id\": 1.5, \"text\": \"x\"}\n", "corpus.jsonl:1: key \"id\""},
                 {"{\"id\": \"a\", \"contents\": 3}\n", "corpus.jsonl:1: key \"contents\""},
                 {"{\"id\": \"a\", \"title\": \"x\"}\n", "corpus.jsonl:1: expected a string under"},
                 {"{\"id\": \"a\", \"title\": 1, \"text\": \"x\"}\n", "corpus.jsonl:1: key \"title\""},
                 {"{\"id\": \"a\", \"text\": \"\xff\"}\n", "corpus.jsonl:1: byte"},
                 {"", "no passages"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n;
        write_corpus(f, cases[i].corpus);
        assert_error(toolsvc_index_build(f->corpus, f->path, &n), RLF_INVALID, cases[i].wanted);
    }
    toolsvc_index *again;
    assert_ok(toolsvc_index_open(&again, f->path));
    assert_int_equal(toolsvc_index_passages(again), 6);
    toolsvc_index_destroy(again);
    size_t n;
    assert_int_equal(toolsvc_index_build("/nonexistent/x.jsonl", f->path, &n), RLF_IO);
    assert_int_equal(toolsvc_index_build(f->corpus, "/nonexistent/index", &n), RLF_IO);
}

static void only_an_index_is_replaced(void **state) {
    fixture *f = *state;
    rlf_str before = {0}, after = {0};
    size_t n;
    assert_ok(rlf_str_read_file(&before, f->corpus, 1 << 20));
    assert_error(toolsvc_index_build(f->corpus, f->corpus, &n), RLF_INVALID,
                 "corpus.jsonl: there is something that is not an index");
    assert_ok(rlf_str_read_file(&after, f->corpus, 1 << 20));
    assert_string_equal(before.ptr, after.ptr);
    assert_int_equal(toolsvc_index_build(f->corpus, f->folder, &n), RLF_INVALID);
    toolsvc_index_destroy(f->index);
    f->index = NULL;
    assert_ok(toolsvc_index_build(f->corpus, f->path, &n));
    fclose(fopen(f->path, "w")); /* empty, as mktemp leaves it */
    assert_ok(toolsvc_index_build(f->corpus, f->path, &n));
    assert_int_equal(n, 6);
    rlf_str_clean_up(&before);
    rlf_str_clean_up(&after);
}

static void file_that_is_no_index_is_refused(void **state) {
    fixture *f = *state;
    toolsvc_index *index;
    assert_error(toolsvc_index_open(&index, f->corpus), RLF_INVALID, "not an index made by rlf index");
    assert_error(toolsvc_index_open(&index, "/nonexistent/index"), RLF_IO, "/nonexistent/index");
    assert_null(index);
}

static void truncated_index_is_an_error_not_a_crash(void **state) {
    fixture *f = *state;
    toolsvc_index *index;
    char copy[128];
    rlf_str bytes = {0};
    assert_ok(rlf_str_read_file(&bytes, f->path, 1 << 20));
    snprintf(copy, sizeof copy, "%s/copy", f->folder);
    for (size_t n = 0; n < bytes.len; n += bytes.len / 7) {
        FILE *out = fopen(copy, "w");
        fwrite(bytes.ptr, 1, n, out);
        fclose(out);
        if (toolsvc_index_open(&index, copy) != RLF_OK) continue;
        rlf_status status = toolsvc_index_search(index, "Lima", 4, 3, NULL, &f->arena, &f->hits, &f->count);
        assert_true(status != RLF_OK || f->count <= 3);
        toolsvc_index_destroy(index);
    }
    unlink(copy);
    rlf_str_clean_up(&bytes);
}

static void damaged_index_is_an_error_not_a_crash(void **state) {
    fixture *f = *state;
    toolsvc_index *index;
    char copy[128];
    rlf_str bytes = {0};
    assert_ok(rlf_str_read_file(&bytes, f->path, 1 << 20));
    snprintf(copy, sizeof copy, "%s/copy", f->folder);
    for (uint32_t i = 0; i < 400; i++) {
        size_t at = rlf_rng_below(3, RLF_RNG_TEST, i, 0, 0, bytes.len);
        char was = bytes.ptr[at];
        bytes.ptr[at] = (char)rlf_rng_below(3, RLF_RNG_TEST, i, 1, 0, 256);
        FILE *out = fopen(copy, "w");
        fwrite(bytes.ptr, 1, bytes.len, out);
        fclose(out);
        bytes.ptr[at] = was;
        if (toolsvc_index_open(&index, copy) != RLF_OK) continue;
        rlf_status status = toolsvc_index_search(index, "the capital Lima", 16, 3, NULL, &f->arena, &f->hits, &f->count);
        assert_true(status != RLF_OK || f->count <= 3);
        toolsvc_index_destroy(index);
    }
    unlink(copy);
    rlf_str_clean_up(&bytes);
}

/* Changes the index's file, which is closed for good. */
static void change_file(fixture *f, const char *sql) {
    sqlite3 *db;
    toolsvc_index_destroy(f->index);
    f->index = NULL;
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void index_of_another_format_says_what_to_do(void **state) {
    fixture *f = *state;
    toolsvc_index *index;
    change_file(f, "PRAGMA user_version=1");
    assert_error(toolsvc_index_open(&index, f->path), RLF_UNSUPPORTED,
                 "index format 1; this program reads 2: make it again with rlf index");
}

static void block_that_lies_about_its_postings_is_refused(void **state) {
    fixture *f = *state;
    toolsvc_index *index;
    static const char *const lies[] = {"x''", "x'01'", "x'0002'", "x'FFFFFFFFFF'", "x'000206010206010206010206'", "x'7F0206'"};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char sql[128];
        snprintf(sql, sizeof sql, "UPDATE posting SET bytes = %s WHERE key >> 32 = (SELECT number FROM term WHERE stem = 'lima')",
                 lies[i]);
        change_file(f, sql);
        assert_ok(toolsvc_index_open(&index, f->path));
        rlf_status status = toolsvc_index_search(index, "Lima", 4, 3, NULL, &f->arena, &f->hits, &f->count);
        if (i == 0) assert_true(status == RLF_OK && f->count == 0);
        else assert_true(status == RLF_INVALID && strstr(rlf_error_message(), "damaged index"));
        toolsvc_index_destroy(index);
    }
}

/* Words by Zipf's law, so that lists of every length and passages of every score come up. */
enum { WORLD = 30000, VOCABULARY = 5000 };

static unsigned zipf_word(uint64_t draw) {
    return (unsigned)exp(rlf_rng_uniform(7, RLF_RNG_TEST, draw, 0, 0) * log(VOCABULARY));
}

static void write_world(fixture *f) {
    uint64_t draw = 0;
    FILE *out = fopen(f->corpus, "w");
    assert_non_null(out);
    for (int i = 0; i < WORLD; i++) {
        fprintf(out, "{\"id\": %d, \"title\": \"w%u\", \"text\": \"", i, zipf_word(draw++));
        for (uint64_t n = 10 + rlf_rng_below(7, RLF_RNG_TEST, draw++, 1, 0, 30); n > 0; n--) fprintf(out, "w%u ", zipf_word(draw++));
        fprintf(out, "%s\"}\n", i % 3 ? "the filler" : "filler");
    }
    fclose(out);
}

static void open_world(fixture *f) {
    size_t n;
    write_world(f);
    toolsvc_index_destroy(f->index);
    f->index = NULL;
    assert_ok(toolsvc_index_build(f->corpus, f->path, &n));
    assert_int_equal(n, WORLD);
    assert_ok(toolsvc_index_open(&f->index, f->path));
}

/* The same passages under SQLite's own full-text index. */
static sqlite3 *open_reference(const fixture *f, sqlite3_stmt **ranked) {
    sqlite3 *db;
    char attach[160];
    snprintf(attach, sizeof attach, "ATTACH '%s' AS made", f->path);
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, attach, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE VIRTUAL TABLE fts USING fts5(title, text, tokenize='porter unicode61');"
                                      "INSERT INTO fts(rowid, title, text) SELECT rowid, title, text FROM made.passage", NULL, NULL, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT rowid, bm25(fts, 1.5, 1.0) FROM fts WHERE fts MATCH ?1 ORDER BY 2, 1 LIMIT 1000", -1,
                                        ranked, NULL), SQLITE_OK);
    return db;
}

/* Passages may change places where their scores are equal but for rounding. */
static void compare_with_reference(fixture *f, sqlite3_stmt *ranked, const char *words, const char *expression, size_t k) {
    search_bytes(f, words, strlen(words), k);
    sqlite3_bind_text(ranked, 1, expression, -1, SQLITE_STATIC);
    for (size_t i = 0; i < k; i++) {
        if (sqlite3_step(ranked) != SQLITE_ROW) {
            assert_int_equal(f->count, i);
            break;
        }
        double score = -sqlite3_column_double(ranked, 1);
        assert_true(i < f->count);
        assert_true(fabs(f->hits[i].score - score) <= 1e-12 * (1 + score));
        bool alone = i + 1 < f->count && f->hits[i].score - f->hits[i + 1].score > 1e-9 && (i == 0 || f->hits[i - 1].score - score > 1e-9);
        if (alone) assert_int_equal(atoll(f->hits[i].id) + 1, sqlite3_column_int64(ranked, 0));
        if (i > 0) assert_true(f->hits[i - 1].score > f->hits[i].score || atoll(f->hits[i - 1].id) < atoll(f->hits[i].id));
    }
    sqlite3_reset(ranked);
}

static void scores_are_those_of_full_bm25(void **state) {
    fixture *f = *state;
    sqlite3_stmt *ranked;
    open_world(f);
    sqlite3 *db = open_reference(f, &ranked);
    static const size_t ks[] = {1, 3, 10, 1000};
    for (uint64_t i = 0; i < 60; i++) {
        rlf_str words = {0}, expression = {0};
        for (uint64_t n = 1 + i % 9, j = 0; j < n; j++) {
            unsigned word = zipf_word(1u << 30 | i << 8 | j);
            rlf_str_printf(&words, "w%u ", word);
            rlf_str_printf(&expression, "%sw%u", j ? " OR " : "", word);
        }
        if (i % 2) rlf_str_puts(&words, "the filler, the"), rlf_str_puts(&expression, " OR the OR filler OR the");
        compare_with_reference(f, ranked, words.ptr, expression.ptr, ks[i % 4]);
        rlf_str_clean_up(&words);
        rlf_str_clean_up(&expression);
    }
    sqlite3_finalize(ranked);
    sqlite3_close(db);
}

static void search_is_cancelled_and_the_next_one_is_not(void **state) {
    fixture *f = *state;
    atomic_bool cancel = true;
    assert_int_equal(toolsvc_index_search(f->index, "capital", 7, 10, &cancel, &f->arena, &f->hits, &f->count), RLF_STOPPED);
    cancel = false;
    assert_ok(toolsvc_index_search(f->index, "capital", 7, 10, &cancel, &f->arena, &f->hits, &f->count));
    assert_int_equal(f->count, 3);
}

/* Of the questions in `file`, how many find their paragraph in the top 3. */
static void count_recall(fixture *f, const char *file, size_t *found, size_t *total) {
    char *line = NULL;
    size_t cap = 0;
    FILE *in = fopen(file, "r");
    assert_non_null(in);
    *found = *total = 0;
    while (getline(&line, &cap, in) > 0) {
        json_t *row = json_loads(line, 0, NULL);
        const char *question = json_string_value(json_object_get(json_array_get(json_object_get(row, "prompt"), 0), "content"));
        const char *passage = json_string_value(json_object_get(json_object_get(row, "extra_info"), "passage"));
        search(f, question);
        bool hit = false;
        for (size_t i = 0; i < f->count; i++) hit = hit || strcmp(f->hits[i].id, passage) == 0;
        *found += hit;
        ++*total;
        json_decref(row);
    }
    free(line);
    fclose(in);
}

static void real_questions_find_their_paragraph(void **state) {
    fixture *f = *state;
    size_t n, found, total;
    if (access(RLF_SHARED "/data/xquad_passages.jsonl", R_OK) != 0) {
        print_message("%s is not here: skipped\n", RLF_SHARED "/data/xquad_passages.jsonl");
        skip();
    }
    toolsvc_index_destroy(f->index);
    f->index = NULL;
    assert_ok(toolsvc_index_build(RLF_SHARED "/data/xquad_passages.jsonl", f->path, &n));
    assert_int_equal(n, 180);
    assert_ok(toolsvc_index_open(&f->index, f->path));
    count_recall(f, RLF_SHARED "/data/xquad_train.jsonl", &found, &total);
    print_message("recall@3 on xquad_train: %zu of %zu = %.4f\n", found, total, (double)found / (double)total);
    count_recall(f, RLF_SHARED "/data/xquad_test.jsonl", &found, &total);
    print_message("recall@3 on xquad_test: %zu of %zu = %.4f\n", found, total, (double)found / (double)total);
    assert_int_equal(total, 179);
    assert_true((double)found / (double)total >= 0.97);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(both_corpus_forms_give_id_title_and_text),
        CASE(values_that_are_rare_in_json_are_indexed),
        CASE(words_match_by_stem_case_and_accent),
        CASE(equal_scores_keep_the_order_of_the_corpus),
        CASE(query_syntax_is_plain_text),
        CASE(query_without_words_finds_nothing),
        CASE(rare_words_count_more_than_common_ones),
        CASE(function_word_that_is_rare_here_is_looked_up),
        CASE(very_long_query_is_answered),
        CASE(threads_search_one_index_at_once),
        CASE(bad_corpus_names_its_line_and_leaves_the_old_index),
        CASE(only_an_index_is_replaced),
        CASE(file_that_is_no_index_is_refused),
        CASE(truncated_index_is_an_error_not_a_crash),
        CASE(damaged_index_is_an_error_not_a_crash),
        CASE(index_of_another_format_says_what_to_do),
        CASE(block_that_lies_about_its_postings_is_refused),
        CASE(scores_are_those_of_full_bm25),
        CASE(search_is_cancelled_and_the_next_one_is_not),
        CASE(real_questions_find_their_paragraph),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
