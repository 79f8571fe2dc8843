/* The index against full BM25, on a corpus of many passages: bench_index [options] [CORPUS.jsonl ROWS.jsonl].
 *
 *   --passages N   size of the corpus (200000)
 *   --questions N  the first N are asked (all)
 *   --cpu-time     CPU seconds, not the clock's: for a machine busy with other work
 *   --json         the report as JSON
 *
 * The corpus is CORPUS's passages and, up to N, generated ones: sentences whose words follow Zipf's law, the most frequent ones those of
 * CORPUS (English function words where none is given), the tail made of syllables; a passage has a topic, words that come back in it.
 * The questions are those of ROWS (rows as for training, with extra_info.passage), or made from the topics of generated passages.
 *
 * Full BM25 is SQLite's: an FTS5 table over the same passages, every word of the question, joined by OR. Printed for both: milliseconds a
 * question, and recall of the right passage in the first 3; and how many questions have the same three scores in both. */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/rng.h"
#include "toolsvc/index/index.h"
#include "toolsvc/map.h"

enum { K = 3, WORDS = 200000, TOPIC = 8, MOST_QUESTIONS = 100000, MADE_QUESTIONS = 200, MADE_EVERY = 997 };

static const char function_words[] =
    "the of and in to a is was for as on by with that from at it his an were are which this be or had first has not but their one its "
    "also after been new who they two her she when he there all more during time other into most some between about used while such "
    "would only these can many may over through where both became so later up no than then known being under part city year made "
    "what how did does do why whom whose will if my your";

typedef struct question {
    char *text, *passage;
} question;

static struct {
    char folder[64], corpus[96], index[96], fts[96];
    char **words; /* (WORDS), most frequent first */
    size_t n_words, n_function;
    double *below; /* (WORDS) cumulative share */
    uint64_t draws;
    question questions[MOST_QUESTIONS];
    size_t n_questions, n_passages;
} g;

static bool g_cpu_time;

static double now(void) {
    struct timespec t;
    if (!g_cpu_time) return rlf_now_s();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    fprintf(stderr, "bench_index: %s: %s\n", what, rlf_error_message());
    exit(1);
}

/* ---- words -------------------------------------------------------------------------------------------------------------------------- */

static uint32_t draw(uint32_t n) { return (uint32_t)rlf_rng_below(1, RLF_RNG_TEST, g.draws++, 0, 0, n); }
static double draw_share(void) { return rlf_rng_uniform(1, RLF_RNG_TEST, g.draws++, 1, 0); }

typedef struct counted {
    char *word;
    size_t n;
} counted;

static int by_count(const void *a, const void *b) {
    const counted *x = a, *y = b;
    if (x->n != y->n) return x->n > y->n ? -1 : 1;
    return strcmp(x->word, y->word);
}

typedef struct vocabulary {
    toolsvc_map seen;
    counted *v;
    size_t n, cap;
} vocabulary;

static void count_word(vocabulary *all, const char *word, size_t n) {
    rlf_slice key = {word, n};
    size_t at = (size_t)toolsvc_map_get(&all->seen, key);
    if (at == 0) {
        all->v = rlf_grow(all->v, all->n, &all->cap, sizeof *all->v);
        all->v[all->n] = (counted){.word = strndup(word, n)};
        at = ++all->n;
        toolsvc_map_put(&all->seen, key, (void *)at);
    }
    all->v[at - 1].n++;
}

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

static void count_words(vocabulary *all, const char *text) {
    for (const char *end; *text; text = end) {
        for (end = text; is_letter(*end); end++) {}
        if (end > text) count_word(all, text, (size_t)(end - text));
        else end++;
    }
}

static void add_syllables(void) {
    static const char *const begin[] = {"b", "br", "c", "d", "f", "g", "gr", "h", "k", "l",
                                        "m", "n", "p", "pr", "r", "s", "st", "t", "tr", "v"};
    static const char *const end[] = {"a", "e", "i", "o", "u", "an", "en", "ir", "or", "um", "al", "os"};
    char word[32] = "";
    for (uint32_t n = 2 + draw(3); n > 0; n--) {
        strncat(word, begin[draw(20)], sizeof word - strlen(word) - 1);
        strncat(word, end[draw(12)], sizeof word - strlen(word) - 1);
    }
    g.words[g.n_words++] = strdup(word);
}

/* Shares by Zipf and Mandelbrot: 1 / (rank + 2.7). */
static void make_words(const char *text) {
    vocabulary all = {0};
    double sum = 0;
    count_words(&all, text);
    qsort(all.v, all.n, sizeof *all.v, by_count);
    g.words = rlf_calloc(WORDS, sizeof *g.words);
    g.below = rlf_calloc(WORDS, sizeof *g.below);
    for (size_t i = 0; i < all.n && g.n_words < WORDS; i++) g.words[g.n_words++] = all.v[i].word;
    while (g.n_words < WORDS) add_syllables();
    for (size_t i = 0; i < WORDS; i++) g.below[i] = sum += 1 / ((double)i + 2.7);
    for (size_t i = 0; i < WORDS; i++) g.below[i] /= sum;
    g.n_function = 100;
    toolsvc_map_clean_up(&all.seen, NULL);
    free(all.v);
}

static const char *any_word(void) {
    double share = draw_share();
    size_t low = 0, high = WORDS - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (g.below[middle] > share) high = middle;
        else low = middle + 1;
    }
    return g.words[low];
}

/* Evenly over the logarithm of the rank, behind the function words. */
static const char *content_word(void) {
    double most = log(WORDS / (double)g.n_function);
    return g.words[(size_t)((double)g.n_function * exp(draw_share() * most)) % WORDS];
}

/* ---- corpus and questions ------------------------------------------------------------------------------------------------------------ */

static void add_question(const char *text, const char *passage) {
    if (g.n_questions < MOST_QUESTIONS) g.questions[g.n_questions++] = (question){strdup(text), strdup(passage)};
}

static void ask_about(size_t number, const char *const *topic) {
    static const char *const forms[] = {"What was the %s of the %s in %s?", "Who did %s the %s that %s?",
                                        "When and how many %s are there for %s by %s?", "Which %s is known to be a %s from %s?"};
    char text[160], id[24];
    snprintf(text, sizeof text, forms[draw(4)], topic[0], topic[1], topic[2]);
    snprintf(id, sizeof id, "g%zu", number);
    add_question(text, id);
}

static void write_generated(FILE *out, size_t number, bool ask) {
    const char *topic[TOPIC];
    bool capital = true;
    for (size_t i = 0; i < TOPIC; i++) topic[i] = content_word();
    fprintf(out, "{\"id\": \"g%zu\", \"contents\": \"\\\"%c%s %s\\\"\\n", number, topic[0][0] & ~32, topic[0] + 1, topic[1]);
    for (uint32_t left = 60 + draw(80); left > 0; left--) {
        const char *word = draw(8) == 0 ? topic[draw(TOPIC)] : any_word();
        bool stop = left == 1 || draw(16) == 0;
        fprintf(out, "%c%s%s", capital ? word[0] & ~32 : word[0], word + 1, stop ? ". " : " ");
        capital = stop;
    }
    fprintf(out, "\"}\n");
    if (ask) ask_about(number, topic);
}

static void copy_corpus(FILE *out, const rlf_str *given) {
    fwrite(given->ptr, 1, given->len, out);
    for (size_t i = 0; i < given->len; i++) g.n_passages += given->ptr[i] == '\n';
}

static void make_corpus(const char *path, size_t passages) {
    rlf_str given = {0};
    FILE *out = fopen(g.corpus, "w");
    if (!out || (path && rlf_str_read_file(&given, path, 1 << 30) != RLF_OK)) die("cannot make the corpus");
    make_words(path ? given.ptr : function_words);
    if (path) copy_corpus(out, &given);
    for (; g.n_passages < passages; g.n_passages++)
        write_generated(out, g.n_passages, !path && g.n_passages % MADE_EVERY == 0 && g.n_questions < MADE_QUESTIONS);
    if (fclose(out) != 0) die("cannot write the corpus");
    rlf_str_clean_up(&given);
}

static void read_questions(const char *path) {
    char *line = NULL;
    size_t cap = 0;
    FILE *in = fopen(path, "r");
    if (!in) die(path);
    while (getline(&line, &cap, in) > 0) {
        json_t *row = json_loads(line, 0, NULL);
        const char *text = json_string_value(json_object_get(json_array_get(json_object_get(row, "prompt"), 0), "content"));
        const char *passage = json_string_value(json_object_get(json_object_get(row, "extra_info"), "passage"));
        if (text && passage) add_question(text, passage);
        json_decref(row);
    }
    free(line);
    fclose(in);
}

/* ---- the two ways -------------------------------------------------------------------------------------------------------------------- */

typedef struct outcome {
    double ms[MOST_QUESTIONS], score[MOST_QUESTIONS][K];
    size_t found;
} outcome;
static outcome g_index, g_fts;

static void search_index(void) {
    toolsvc_index *index;
    rlf_arena arena = {0};
    toolsvc_hit *hits;
    if (toolsvc_index_open(&index, g.index) != RLF_OK) die("open");
    for (size_t i = 0; i < g.n_questions; i++) {
        const question *q = &g.questions[i];
        size_t count;
        rlf_arena_reset(&arena);
        double begun = now();
        if (toolsvc_index_search(index, q->text, strlen(q->text), K, NULL, &arena, &hits, &count) != RLF_OK) die("search");
        g_index.ms[i] = (now() - begun) * 1e3;
        for (size_t j = 0; j < count; j++) {
            g_index.score[i][j] = hits[j].score;
            g_index.found += strcmp(hits[j].id, q->passage) == 0;
        }
    }
    rlf_arena_clean_up(&arena);
    toolsvc_index_destroy(index);
}

static void run_sql(sqlite3 *db, const char *sql) {
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        fprintf(stderr, "bench_index: %s: %s\n", sql, sqlite3_errmsg(db));
        exit(1);
    }
}

/* The same passages, as toolsvc_index_build has read them, under FTS5's own index. */
static sqlite3 *open_fts(void) {
    sqlite3 *db;
    rlf_str sql = {0};
    if (sqlite3_open(g.fts, &db) != SQLITE_OK) die("sqlite");
    rlf_str_printf(&sql, "ATTACH '%s' AS made; CREATE VIRTUAL TABLE fts USING fts5(title, text, tokenize='porter unicode61');"
                         "BEGIN; INSERT INTO fts(rowid, title, text) SELECT rowid, title, text FROM made.passage; COMMIT;"
                         "INSERT INTO fts(fts) VALUES('optimize');", g.index);
    run_sql(db, sql.ptr);
    rlf_str_clean_up(&sql);
    return db;
}

/* Every word in quotes, joined by OR. */
static void write_expression(const char *text, rlf_str *out) {
    rlf_str_reset(out);
    for (const char *end; *text; text = end) {
        for (end = text; is_letter(*end) || (*end >= '0' && *end <= '9') || (*end & 0x80); end++) {}
        if (end > text) rlf_str_printf(out, "%s\"%.*s\"", out->len ? " OR " : "", (int)(end - text), text);
        else end++;
    }
}

static void search_fts(void) {
    sqlite3 *db = open_fts();
    sqlite3_stmt *stmt;
    rlf_str expression = {0};
    sqlite3_prepare_v2(db, "SELECT made.passage.id, f.score FROM (SELECT rowid AS number, bm25(fts, 1.5, 1.0) AS score FROM fts WHERE fts "
                           "MATCH ?1 ORDER BY score, number LIMIT 3) AS f JOIN made.passage ON made.passage.rowid = f.number "
                           "ORDER BY f.score, f.number", -1, &stmt, NULL);
    for (size_t i = 0; i < g.n_questions; i++) {
        write_expression(g.questions[i].text, &expression);
        double begun = now();
        sqlite3_bind_text(stmt, 1, expression.ptr, -1, SQLITE_STATIC);
        for (size_t j = 0; sqlite3_step(stmt) == SQLITE_ROW; j++) {
            g_fts.score[i][j] = -sqlite3_column_double(stmt, 1);
            g_fts.found += strcmp((const char *)sqlite3_column_text(stmt, 0), g.questions[i].passage) == 0;
        }
        g_fts.ms[i] = (now() - begun) * 1e3;
        sqlite3_reset(stmt);
    }
    rlf_str_clean_up(&expression);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
}

/* ---- report -------------------------------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static size_t count_same(void) {
    size_t same = 0;
    for (size_t i = 0; i < g.n_questions; i++) {
        bool equal = true;
        for (size_t j = 0; j < K; j++) equal = equal && fabs(g_index.score[i][j] - g_fts.score[i][j]) < 1e-6;
        same += equal;
    }
    return same;
}

static json_t *report_of(outcome *o) {
    double n = (double)g.n_questions, sum = 0;
    qsort(o->ms, g.n_questions, sizeof *o->ms, by_size);
    for (size_t i = 0; i < g.n_questions; i++) sum += o->ms[i];
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "p50_ms", o->ms[g.n_questions / 2], "p99_ms", o->ms[g.n_questions * 99 / 100], "max_ms",
                     o->ms[g.n_questions - 1], "mean_ms", sum / n, "recall_at_3", (double)o->found / n);
}

static void print_row(const char *name, const json_t *o) {
    printf("%-10s", name);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)o, key, value) printf("  %s %.3f", key, json_real_value(value));
    printf("\n");
}

static void report(double build_s, bool as_json) {
    size_t same = count_same();
    json_t *all = json_pack("{s:I, s:I, s:f, s:o, s:o, s:f}", "passages", (json_int_t)g.n_passages, "questions", (json_int_t)g.n_questions,
                            "build_s", build_s, "index", report_of(&g_index), "full_bm25", report_of(&g_fts), "same_scores",
                            (double)same / (double)g.n_questions);
    if (as_json) {
        json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        printf("\n");
    } else {
        printf("%zu passages, built in %.1f s; %zu questions\n", g.n_passages, build_s, g.n_questions);
        print_row("index", json_object_get(all, "index"));
        print_row("full BM25", json_object_get(all, "full_bm25"));
        printf("same scores of the first 3: %zu of %zu\n", same, g.n_questions);
    }
    json_decref(all);
}

static void make_folder(void) {
    snprintf(g.folder, sizeof g.folder, "/tmp/rlf-bench-XXXXXX");
    if (!mkdtemp(g.folder)) die("mkdtemp");
    snprintf(g.corpus, sizeof g.corpus, "%s/corpus.jsonl", g.folder);
    snprintf(g.index, sizeof g.index, "%s/index", g.folder);
    snprintf(g.fts, sizeof g.fts, "%s/fts", g.folder);
}

static void clean_up(void) {
    unlink(g.corpus);
    unlink(g.index);
    unlink(g.fts);
    rmdir(g.folder);
    for (size_t i = 0; i < g.n_words; i++) free(g.words[i]);
    for (size_t i = 0; i < g.n_questions; i++) {
        free(g.questions[i].text);
        free(g.questions[i].passage);
    }
    free(g.words);
    free(g.below);
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"passages", required_argument, NULL, 'p'}, {"questions", required_argument, NULL, 'q'},
                                            {"cpu-time", no_argument, NULL, 'c'}, {"json", no_argument, NULL, 'j'},
                                            {NULL, 0, NULL, 0}};
    size_t passages = 200000, questions = MOST_QUESTIONS, built;
    bool as_json = false;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'p') passages = strtoul(optarg, NULL, 10);
        else if (c == 'q') questions = strtoul(optarg, NULL, 10);
        else if (c == 'c') g_cpu_time = true;
        else if (c == 'j') as_json = true;
        else return 2;
    }
    bool given = optind + 2 == argc;
    make_folder();
    make_corpus(given ? argv[optind] : NULL, passages);
    if (given) read_questions(argv[optind + 1]);
    if (g.n_questions > questions) g.n_questions = questions;
    double begun = now();
    if (g.n_questions == 0 || toolsvc_index_build(g.corpus, g.index, &built) != RLF_OK) die("build");
    double build_s = now() - begun;
    search_index();
    search_fts();
    report(build_s, as_json);
    clean_up();
    return 0;
}
