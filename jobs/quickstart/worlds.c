/* quickstart-data: writes the quickstart's corpus, questions and worked examples.
 *
 *   corpus.jsonl  one passage per fact of countries.tsv, every country             {"id", "title": "Capital of Peru", "text": "The capital of Peru is Lima."}
 *   train.jsonl   questions about the training countries and about made-up ones, whose passages are in the corpus too (RL)
 *   test.jsonl    questions about the other countries: none of them occurs in train.jsonl
 *   sft.jsonl     worked examples (supervised cold start) from made-up worlds: each example has its own country, names and facts, so that there is
 *                 nothing to memorise and the only way to be right is to search and to copy. One in three is hasty: it leaves out the last search
 *                 and answers with the country's name. Such habits of its examples are what RL is there to tell from the good ones
 *
 * data_source is "one" (one search answers) or "two": "What is the currency of the country whose capital is Lima?" needs the country first.
 * Everything is a function of --seed. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

enum { CAPITAL, CURRENCY, CONTINENT, LANGUAGE, ISO, NEIGHBOUR, ATTRIBUTES, MAX_COUNTRIES = 1024 };
enum { TEST_COUNTRIES = 42, MADE_UP = 600, HASTY = 3 /* one example in so many */ };

static const char *const g_attribute[ATTRIBUTES] = {"capital", "currency", "continent", "language", "ISO code", "neighbour"};
static const int g_keys[] = {CAPITAL, ISO}; /* what tells a country apart in a two-search question */

typedef struct country {
    char name[96];
    char fact[ATTRIBUTES][96]; /* "" unknown */
} country;

/* ---- draws ------------------------------------------------------------------------------------------------------------------------ */

typedef struct draws { uint64_t seed, stream; uint32_t n; } draws;

static uint32_t below(draws *d, uint32_t n) { return (uint32_t)rlf_rng_below(d->seed, RLF_RNG_TEST, d->stream, 0, d->n++, n); }
#define PICK(d, list) ((list)[below((d), (uint32_t)(sizeof(list) / sizeof *(list)))])

/* ---- passages and questions ------------------------------------------------------------------------------------------------------- */

static void title_of(const country *c, int attribute, char *out, size_t n) {
    snprintf(out, n, "%s of %s", g_attribute[attribute], c->name);
    if (out[0] >= 'a' && out[0] <= 'z') out[0] = (char)(out[0] - 'a' + 'A');
}

static void sentence_of(const country *c, int attribute, char *out, size_t n) {
    snprintf(out, n, "The %s of %s is %s.", g_attribute[attribute], c->name, c->fact[attribute]);
}

/* key -1: one search. */
static void question_of(const country *c, int attribute, int key, char *out, size_t n) {
    if (key < 0) snprintf(out, n, "What is the %s of %s?", g_attribute[attribute], c->name);
    else snprintf(out, n, "What is the %s of the country whose %s is %s?", g_attribute[attribute], g_attribute[key], c->fact[key]);
}

static rlf_status write_line(FILE *f, json_t *row) {
    rlf_status status = RLF_OK;
    if (!row || json_dumpf(row, f, JSON_COMPACT) != 0 || fputc('\n', f) == EOF) status = RLF_RAISE(IO, "cannot write a row");
    json_decref(row);
    return status;
}

static rlf_status write_question(FILE *f, const country *c, int attribute, int key, const char *split, int index) {
    char question[512], id[64];
    question_of(c, attribute, key, question, sizeof question);
    snprintf(id, sizeof id, "%s-%d", split, index);
    return write_line(f, json_pack("{s:s,s:[{s:s,s:s}],s:s,s:{s:s,s:{s:[s]}},s:{s:s,s:s,s:s}}", "data_source", key < 0 ? "one" : "two", "prompt",
                                   "role", "user", "content", question, "ability", "fact-reasoning", "reward_model", "style", "rule",
                                   "ground_truth", "target", c->fact[attribute], "extra_info", "split", split, "index", id, "country", c->name));
}

static bool is_named(const country *countries, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(countries[i].name, name) == 0) return true;
    return false;
}

/* Questions about `countries`; one whose answer is among the `unseen` is left out. */
static rlf_status write_questions(FILE *f, const country *countries, size_t n, const char *split, const country *unseen, size_t n_unseen) {
    rlf_status status = RLF_OK;
    int index = 0;
    for (size_t i = 0; i < n; i++)
        for (int attribute = 0; attribute < ATTRIBUTES; attribute++) {
            if (!countries[i].fact[attribute][0] || is_named(unseen, n_unseen, countries[i].fact[attribute])) continue;
            RLF_TRY(write_question(f, &countries[i], attribute, -1, split, index++));
            int key = g_keys[(i + (size_t)attribute) % 2];
            if (!countries[i].fact[key][0]) key = CAPITAL;
            if (key != attribute) RLF_TRY(write_question(f, &countries[i], attribute, key, split, index++));
        }
out:
    return status;
}

static rlf_status write_corpus(FILE *f, const country *countries, size_t n) {
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < n; i++)
        for (int attribute = 0; attribute < ATTRIBUTES; attribute++) {
            if (!countries[i].fact[attribute][0]) continue;
            char title[256], sentence[512], id[32];
            title_of(&countries[i], attribute, title, sizeof title);
            sentence_of(&countries[i], attribute, sentence, sizeof sentence);
            snprintf(id, sizeof id, "%zu-%d", i, attribute);
            RLF_TRY(write_line(f, json_pack("{s:s,s:s,s:s}", "id", id, "title", title, "text", sentence)));
        }
out:
    return status;
}

/* ---- made-up worlds --------------------------------------------------------------------------------------------------------------- */

/* Names that look like those of the training countries: each letter is drawn from what follows the last two letters, or the last, somewhere in a list of
 * real names, so that every piece of spelling occurs; one in eight is any letter, so that the next can't be guessed, only copied. */
enum { MAX_NAMES = 3 * MAX_COUNTRIES, MAX_LETTERS = 28 };
typedef struct chain {
    const char *names[MAX_NAMES];
    uint32_t n;
} chain;

/* What may follow the n letters `last` (none: what may begin a name): the candidates' count; the wanted one in *letter ('\0' ends the name). */
static uint32_t followers(const chain *c, const char *last, size_t n, uint32_t wanted, char *letter) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < c->n; i++)
        for (const char *p = c->names[i]; (p = n ? strstr(p, last) : p); p++) {
            if (count++ == wanted) *letter = p[n];
            if (!n) break;
        }
    return count;
}

static void invent(draws *d, const chain *c, char *out, size_t size) {
    size_t n = 0;
    char last[3] = "", letter = ' ';
    while (letter && n + 1 < size && n < MAX_LETTERS) {
        const char *context = last[0] && last[1] && below(d, 3) == 0 ? last + 1 : last;
        uint32_t count = followers(c, context, strlen(context), UINT32_MAX, &letter);
        followers(c, context, strlen(context), below(d, count), &letter);
        if (n && letter && below(d, 8) == 0) letter = (char)('a' + below(d, 26));
        out[n++] = letter;
        snprintf(last, sizeof last, "%s", n >= 2 ? (char[]){out[n - 2], letter, 0} : (char[]){letter, 0});
    }
    out[n - (letter == '\0')] = '\0';
    while (n && (out[n - 1] == '\0' || out[n - 1] == ' ')) out[--n] = '\0';
}

static chain g_places, g_currencies, g_languages;

static void learn_names(const country *countries, size_t n) {
    for (size_t i = 0; i < n; i++) {
        g_places.names[g_places.n++] = countries[i].name;
        g_places.names[g_places.n++] = countries[i].fact[CAPITAL];
        g_currencies.names[g_currencies.n++] = countries[i].fact[CURRENCY];
        g_languages.names[g_languages.n++] = countries[i].fact[LANGUAGE];
    }
}

static void make_country(draws *d, country *c) {
    static const char *const continents[] = {"Africa", "Asia", "Europe", "Oceania", "North America", "South America"};
    invent(d, &g_places, c->name, sizeof c->name);
    invent(d, &g_places, c->fact[CAPITAL], sizeof c->fact[CAPITAL]);
    invent(d, &g_currencies, c->fact[CURRENCY], sizeof c->fact[CURRENCY]);
    invent(d, &g_languages, c->fact[LANGUAGE], sizeof c->fact[LANGUAGE]);
    invent(d, &g_places, c->fact[NEIGHBOUR], sizeof c->fact[NEIGHBOUR]);
    snprintf(c->fact[CONTINENT], sizeof c->fact[CONTINENT], "%s", PICK(d, continents));
    snprintf(c->fact[ISO], sizeof c->fact[ISO], "%c%c", 'A' + (int)below(d, 26), 'A' + (int)below(d, 26));
}

/* One word of some length that no name so far holds or is held by: so a search for it finds its country. */
static bool is_free(const country *countries, size_t n, const char *word) {
    if (strlen(word) < 5 || strpbrk(word, " -'")) return false;
    for (size_t i = 0; i < n; i++)
        if (strstr(countries[i].name, word) || strstr(countries[i].fact[CAPITAL], word) || strstr(word, countries[i].name)) return false;
    return true;
}

/* Adds made-up countries for RL behind the real ones. ISO codes would collide with real ones: they have none. */
static void add_made_up(country *countries, size_t *n, uint64_t seed) {
    for (uint64_t stream = 1; *n < MAX_COUNTRIES && stream <= MADE_UP; stream++) {
        draws d = {seed, stream << 32, 0};
        country c;
        do make_country(&d, &c);
        while (!is_free(countries, *n, c.name) || !is_free(countries, *n, c.fact[CAPITAL]) || strstr(c.fact[CAPITAL], c.name));
        c.fact[ISO][0] = '\0';
        countries[(*n)++] = c;
    }
}

static void add_message(json_t *messages, const char *role, const char *content) {
    json_array_append_new(messages, json_pack("{s:s,s:s}", "role", role, "content", content));
}

/* A call, and what the search tool would answer: the same text as toolsvc renders. */
static void add_search(json_t *messages, const char *query, const country *c, int found) {
    char call[512], answer[1024], title[256], sentence[512];
    snprintf(call, sizeof call, "<tool_call>\n{\"name\": \"search\", \"arguments\": {\"query\": \"%s\"}}\n</tool_call>", query);
    title_of(c, found, title, sizeof title);
    sentence_of(c, found, sentence, sizeof sentence);
    snprintf(answer, sizeof answer, "Doc 1(Title: %s) %s\n", title, sentence);
    add_message(messages, "assistant", call);
    add_message(messages, "tool", answer);
}

static rlf_status write_example(FILE *f, draws *d) {
    country c;
    make_country(d, &c);
    int key = below(d, 2) ? PICK(d, g_keys) : -1, attribute;
    do attribute = (int)below(d, ATTRIBUTES);
    while (attribute == key);

    char text[512], query[256];
    json_t *messages = json_array();
    question_of(&c, attribute, key, text, sizeof text);
    add_message(messages, "user", text);
    if (key >= 0) {
        snprintf(query, sizeof query, "%s %s", g_attribute[key], c.fact[key]);
        add_search(messages, query, &c, key);
    }
    bool hasty = below(d, HASTY) == 0;
    if (!hasty) {
        snprintf(query, sizeof query, "%s of %s", g_attribute[attribute], c.name);
        add_search(messages, query, &c, attribute);
    }
    snprintf(text, sizeof text, "<answer> %s </answer>", hasty ? c.name : c.fact[attribute]);
    add_message(messages, "assistant", text);
    return write_line(f, json_pack("{s:s,s:o}", "data_source", key < 0 ? "one" : "two", "messages", messages));
}

static rlf_status write_examples(FILE *f, uint64_t seed, long n) {
    rlf_status status = RLF_OK;
    for (long i = 0; i < n; i++) RLF_TRY(write_example(f, &(draws){seed, (uint64_t)i + 1, 0}));
out:
    return status;
}

/* ---- the real countries ----------------------------------------------------------------------------------------------------------- */

static rlf_status read_countries(const char *path, country *countries, size_t *n) {
    rlf_status status = RLF_OK;
    char line[1024];
    int number = 0;
    *n = 0;
    FILE *f = fopen(path, "r");
    if (!f) RLF_FAIL(IO, "%s: cannot open: %s", path, strerror(errno));
    while (fgets(line, sizeof line, f)) {
        number++;
        if (line[0] == '#') continue;
        if (*n == MAX_COUNTRIES) RLF_FAIL(LIMIT, "%s:%d: over %d countries", path, number, MAX_COUNTRIES);
        country *c = &countries[(*n)++];
        line[strcspn(line, "\n")] = '\0';
        char *rest = line;
        snprintf(c->name, sizeof c->name, "%s", strsep(&rest, "\t"));
        for (int a = 0; a < ATTRIBUTES; a++) {
            char *field = strsep(&rest, "\t");
            if (!field) RLF_FAIL(INVALID, "%s:%d: expected %d tab-separated fields", path, number, ATTRIBUTES + 1);
            snprintf(c->fact[a], sizeof c->fact[a], "%s", field);
        }
    }
out:
    if (f) fclose(f);
    return status;
}

/* True if the name stands inside another country's name or capital ("Guinea", "Niger"): such a country is no good for the unseen set. */
static bool is_part_of_another(const country *countries, size_t n, size_t i) {
    for (size_t j = 0; j < n; j++)
        if (j != i && (strstr(countries[j].name, countries[i].name) || strstr(countries[j].fact[CAPITAL], countries[i].name))) return true;
    return false;
}

/* Puts the unseen countries first. A fixed choice: it must not move with the seed, so that they stay unseen in every run. */
static rlf_status split(country *countries, size_t n) {
    size_t chosen = 0;
    for (size_t i = 0; i < n && chosen < TEST_COUNTRIES; i++) {
        if (is_part_of_another(countries, n, i)) continue;
        country t = countries[chosen];
        countries[chosen++] = countries[i];
        countries[i] = t;
    }
    return chosen == TEST_COUNTRIES ? RLF_OK : RLF_RAISE(INVALID, "only %zu countries can be set apart", chosen);
}

/* The order of the table says nothing about the split. */
static void shuffle(country *countries, size_t n) {
    draws d = {20, 0, 0};
    for (size_t i = n; i > 1; i--) {
        size_t j = below(&d, (uint32_t)i);
        country t = countries[i - 1];
        countries[i - 1] = countries[j];
        countries[j] = t;
    }
}

static rlf_status open_output(const char *dir, const char *name, FILE **out) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    *out = fopen(path, "w");
    return *out ? RLF_OK : RLF_RAISE(IO, "%s: cannot write: %s", path, strerror(errno));
}

static rlf_status close_output(FILE *f) { return fclose(f) == 0 ? RLF_OK : RLF_RAISE(IO, "cannot write: %s", strerror(errno)); }

static rlf_status write_all(const char *source, const char *dir, uint64_t seed, long examples) {
    static country countries[MAX_COUNTRIES];
    rlf_status status = RLF_OK;
    size_t n;
    FILE *f;
    RLF_TRY(read_countries(source, countries, &n));
    if (n <= TEST_COUNTRIES) RLF_FAIL(INVALID, "%s: expected more than %d countries", source, TEST_COUNTRIES);
    shuffle(countries, n);
    RLF_TRY(split(countries, n));
    learn_names(countries + TEST_COUNTRIES, n - TEST_COUNTRIES);
    add_made_up(countries, &n, seed);
    RLF_TRY(open_output(dir, "corpus.jsonl", &f));
    RLF_TRY(write_corpus(f, countries, n));
    RLF_TRY(close_output(f));
    RLF_TRY(open_output(dir, "test.jsonl", &f));
    RLF_TRY(write_questions(f, countries, TEST_COUNTRIES, "test", NULL, 0));
    RLF_TRY(close_output(f));
    RLF_TRY(open_output(dir, "train.jsonl", &f));
    RLF_TRY(write_questions(f, countries + TEST_COUNTRIES, n - TEST_COUNTRIES, "train", countries, TEST_COUNTRIES));
    RLF_TRY(close_output(f));
    RLF_TRY(open_output(dir, "sft.jsonl", &f));
    RLF_TRY(write_examples(f, seed, examples));
    RLF_TRY(close_output(f));
out:
    return status;
}

int main(int argc, char **argv) {
    const char *source = NULL, *dir = NULL;
    long seed = 1, examples = 16000;
    int option;
    while ((option = getopt(argc, argv, "c:o:s:n:")) != -1) {
        if (option == 'c') source = optarg;
        else if (option == 'o') dir = optarg;
        else if (option == 's') seed = strtol(optarg, NULL, 10);
        else if (option == 'n') examples = strtol(optarg, NULL, 10);
        else return 2;
    }
    if (!source || !dir || optind != argc) {
        fprintf(stderr, "usage: quickstart-data -c countries.tsv -o DIR [-s seed] [-n examples]\n");
        return 2;
    }
    if (write_all(source, dir, (uint64_t)seed, examples) == RLF_OK) return 0;
    fprintf(stderr, "quickstart-data: %s\n", rlf_error_message());
    return 1;
}
