/* quickstart-data: writes the quickstart's corpus, questions and worked examples.
 *
 *   corpus.jsonl  one passage per fact of countries.tsv, every country             {"id", "title": "Capital of Peru", "text": "The capital of Peru is Lima."}
 *   train.jsonl   questions about the training countries (RL)
 *   test.jsonl    questions about the other countries: none of them occurs in train.jsonl
 *   sft.jsonl     worked examples (supervised cold start) from made-up worlds: each example has its own country, names and facts, so that there is
 *                 nothing to memorise and the only way to be right is to search and to copy
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

enum { CAPITAL, CURRENCY, CONTINENT, LANGUAGE, ISO, NEIGHBOUR, ATTRIBUTES, MAX_COUNTRIES = 256, TEST_COUNTRIES = 42 };

static const char *const g_attribute[ATTRIBUTES] = {"capital", "currency", "continent", "language", "ISO code", "neighbour"};
static const int g_keys[] = {CAPITAL, ISO}; /* what tells a country apart in a two-search question */

typedef struct country {
    char name[96];
    char fact[ATTRIBUTES][96]; /* "" unknown */
} country;

/* ---- draws ------------------------------------------------------------------------------------------------------------------------ */

/* easy: of 100, how much easier names shall be than they can get (made-up worlds begin with short ones). */
typedef struct draws { uint64_t seed, stream; uint32_t n, easy; } draws;

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

static const char *const g_onsets[] = {"b", "br", "c", "ch", "d", "dr", "f", "g", "gr", "gh", "h", "j", "k", "kh", "kr", "l", "m", "mb", "n", "ng", "ny",
                                       "p", "pr", "ph", "qu", "r", "s", "sh", "st", "str", "sk", "t", "tr", "th", "ts", "v", "w", "y", "z", "zh", ""};
static const char *const g_vowels[] = {"a", "e", "i", "o", "u", "a", "e", "i", "o", "ia", "ai", "ou", "ei", "ue", "ya", "aa", "oo", "ie", "y"};
static const char *const g_codas[] = {"", "", "", "", "n", "r", "l", "s", "m", "k", "t", "ng", "st", "rd", "th", "b", "x", "v", "d", "gh", "sh", "rg", "lt"};
static const char *const g_before[] = {"New", "South", "North", "East", "Saint", "San", "Port", "Santa", "Upper", "El", "Papua", "Costa", "Sri", "Central"};
static const char *const g_after[] = {"City", "Islands", "Republic", "Town", "Coast", "Bay"};
static const char *const g_money[] = {"dollar", "franc", "dinar", "peso", "pound", "rupee", "shilling", "krone", "real", "rial", "won", "kwacha", "dirham"};
static const char *const g_continents[] = {"Africa", "Asia", "Europe", "Oceania", "North America", "South America"};
static const char *const g_tongues[] = {"ish", "an", "ese", "i", "ic", "", "", "a"};

/* Half of the words are letters without any grammar: nothing about them can be guessed, only copied. */
static void word(draws *d, rlf_str *out, bool capital) {
    size_t start = out->len;
    bool is_easy = below(d, 100) < d->easy;
    uint32_t letters = below(d, 2) ? 2 + below(d, is_easy ? 3 : 8) : 0;
    for (uint32_t i = 0; i < letters; i++) rlf_str_putc(out, "abcdefghijklmnopqrstuvwxyzaeiouaeiouaeinrstlnr"[below(d, 46)]);
    uint32_t syllables = letters ? 0 : 1 + (is_easy ? 0 : below(d, 3) + (below(d, 3) == 0));
    for (uint32_t i = 0; i < syllables; i++) {
        rlf_str_puts(out, PICK(d, g_onsets));
        rlf_str_puts(out, PICK(d, g_vowels));
        if (i + 1 == syllables || below(d, 3) == 0) rlf_str_puts(out, PICK(d, g_codas));
    }
    if (capital && out->ptr[start] >= 'a') out->ptr[start] = (char)(out->ptr[start] - 'a' + 'A');
}

/* "Zhuka", "New Zhuka", "Zhuka City", "Zhuka Bro", "Zhuka-Bro", "Zhu'bro", "Zhuka and Bro", "Zhuka of the Bro". */
static void place(draws *d, char *out, size_t n) {
    rlf_str s = {0};
    uint32_t form = below(d, 100) < d->easy ? 15 : below(d, 16);
    if (form < 3) rlf_str_printf(&s, "%s ", PICK(d, g_before));
    word(d, &s, true);
    if (form == 3) rlf_str_printf(&s, " %s", PICK(d, g_after));
    if (form >= 4 && form < 9) {
        static const char *const links[] = {" ", "-", "'", " and ", " of the "};
        rlf_str_puts(&s, links[form - 4]);
        word(d, &s, form != 6);
    }
    snprintf(out, n, "%s", s.ptr);
    rlf_str_clean_up(&s);
}

static void currency(draws *d, char *out, size_t n) {
    rlf_str s = {0};
    if (below(d, 2) || below(d, 100) < d->easy) {
        word(d, &s, below(d, 6) == 0);
    } else {
        char whose[96];
        place(d, whose, sizeof whose);
        rlf_str_puts(&s, whose);
        if (below(d, 2)) rlf_str_puts(&s, below(d, 2) ? "ian" : "i");
        rlf_str_printf(&s, below(d, 6) ? " %s" : " CFA %s", PICK(d, g_money)); /* "West African CFA franc" */
    }
    snprintf(out, n, "%s", below(d, 12) ? s.ptr : "euro");
    rlf_str_clean_up(&s);
}

static void language(draws *d, char *out, size_t n) {
    rlf_str s = {0};
    word(d, &s, true);
    rlf_str_puts(&s, PICK(d, g_tongues));
    snprintf(out, n, "%s", s.ptr);
    rlf_str_clean_up(&s);
}

static void make_country(draws *d, country *c) {
    place(d, c->name, sizeof c->name);
    place(d, c->fact[CAPITAL], sizeof c->fact[CAPITAL]);
    currency(d, c->fact[CURRENCY], sizeof c->fact[CURRENCY]);
    snprintf(c->fact[CONTINENT], sizeof c->fact[CONTINENT], "%s", PICK(d, g_continents));
    language(d, c->fact[LANGUAGE], sizeof c->fact[LANGUAGE]);
    snprintf(c->fact[ISO], sizeof c->fact[ISO], "%c%c", 'A' + (int)below(d, 26), 'A' + (int)below(d, 26));
    place(d, c->fact[NEIGHBOUR], sizeof c->fact[NEIGHBOUR]);
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
    snprintf(query, sizeof query, "%s of %s", g_attribute[attribute], c.name);
    add_search(messages, query, &c, attribute);
    snprintf(text, sizeof text, "<answer> %s </answer>", c.fact[attribute]);
    add_message(messages, "assistant", text);
    return write_line(f, json_pack("{s:s,s:o}", "data_source", key < 0 ? "one" : "two", "messages", messages));
}

/* Names are short in the first examples and as long as they get from the middle on: copying is learnt sooner so. */
static uint32_t easiness(long i, long n) { return 2 * i < n ? (uint32_t)(100 - 200 * i / n) : 0; }

static rlf_status write_examples(FILE *f, uint64_t seed, long n) {
    rlf_status status = RLF_OK;
    for (long i = 0; i < n; i++) RLF_TRY(write_example(f, &(draws){seed, (uint64_t)i + 1, 0, easiness(i, n)}));
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
    draws d = {20, 0, 0, 0};
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
