/* rlf report: what finished runs came to, from the summary.json and metrics.jsonl of their folders: a table with a column for each run,
 * or one value of a summary for scripts. Reads only; a run that is not finished has no summary.json, which is an error. */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "trainer/cli/cli.h"

static const char usage[] =
    "rlf report RUN [RUN ...]\n"
    "       rlf report RUN --get KEY\n\n"
    "Prints a table of finished runs. RUN is a run folder; a -> b: before and after the run, or at its first and last step.\n"
    "  --get KEY   prints one number or text of RUN/summary.json instead: exact_match.after, eval_end.two.exact_match, evals.0.step";

enum { MOST_RUNS = 64, SUMMARY_BYTES = 16 << 20, METRICS_BYTES = 1 << 30, DIGITS = 9 };

/* A figure at the first and at the last step that has it. */
typedef struct change {
    double first, last;
} change;

typedef struct run {
    char *folder;
    json_t *summary;
    json_t *before, *after;  /* evaluations, borrowed from `summary`; NULL: not made */
    change reward, loss;     /* NAN: no step has it */
    double tokens, seconds;  /* generated (rl) or trained on (sft), and what the steps took; evaluations left out */
} run;

/* ---- reading ---------------------------------------------------------------------------------------------------------------------- */

static rlf_status read_summary(const char *folder, json_t **summary) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    rlf_str_printf(&path, "%s/summary.json", folder);
    status = rlf_json_read_file(path.ptr, SUMMARY_BYTES, 0, summary);
    if (status == RLF_IO) rlf_error_context("no finished run");
    RLF_TRY(status);
    if (!json_is_object(*summary)) RLF_FAIL(INVALID, "%s: expected a JSON object", path.ptr);
out:
    rlf_str_clean_up(&path);
    return status;
}

static double number_of(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static void follow(change *c, double value) {
    if (isnan(value)) return;
    if (isnan(c->first)) c->first = value;
    c->last = value;
}

/* Tokens of a step: one count where it is supervised, by kind of span where they were generated. */
static double tokens_of(const json_t *line) {
    json_t *tokens = json_object_get(line, "tokens");
    return json_is_object(tokens) ? number_of(tokens, "model") : number_of(line, "tokens");
}

static void take_step(run *r, const json_t *line) {
    if (json_object_get(line, "eval")) return;
    double tokens = tokens_of(line), seconds = number_of(json_object_get(line, "seconds"), "total");
    follow(&r->reward, number_of(line, "reward_mean"));
    follow(&r->loss, number_of(line, "loss"));
    if (isnan(tokens) || isnan(seconds)) return;
    r->tokens += tokens;
    r->seconds += seconds;
}

static rlf_status read_metrics(run *r) {
    rlf_status status = RLF_OK;
    rlf_str path = {0}, text = {0};
    rlf_str_printf(&path, "%s/metrics.jsonl", r->folder);
    RLF_TRY(rlf_str_read_file(&text, path.ptr, METRICS_BYTES));
    size_t number = 1;
    for (size_t begin = 0, end; begin < text.len; begin = end + 1, number++) {
        const char *newline = memchr(text.ptr + begin, '\n', text.len - begin);
        end = newline ? (size_t)(newline - text.ptr) : text.len;
        json_error_t error;
        json_t *line = json_loadb(text.ptr + begin, end - begin, 0, &error);
        if (!json_is_object(line)) {
            json_decref(line);
            RLF_FAIL(INVALID, "%s:%zu: expected a JSON object", path.ptr, number);
        }
        take_step(r, line);
        json_decref(line);
    }
out:
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&text);
    return status;
}

/* The evaluation of the weights after `step` steps, NULL where there is none. */
static json_t *eval_of(const json_t *summary, json_int_t step) {
    size_t i;
    json_t *eval;
    json_array_foreach(json_object_get(summary, "evals"), i, eval)
        if (json_is_integer(json_object_get(eval, "step")) && json_integer_value(json_object_get(eval, "step")) == step) return eval;
    return NULL;
}

static rlf_status run_read(run *r, const char *folder) {
    rlf_status status = RLF_OK;
    *r = (run){.folder = rlf_strdup(folder), .reward = {NAN, NAN}, .loss = {NAN, NAN}};
    for (size_t n = strlen(folder); n > 1 && r->folder[n - 1] == '/'; n--) r->folder[n - 1] = '\0';
    RLF_TRY(read_summary(r->folder, &r->summary));
    RLF_TRY(read_metrics(r));
    json_int_t steps = json_integer_value(json_object_get(r->summary, "steps"));
    if (steps > 0) r->before = eval_of(r->summary, 0);
    r->after = eval_of(r->summary, steps);
out:
    return status;
}

static void run_clean_up(run *r) {
    free(r->folder);
    json_decref(r->summary);
}

/* ---- one value -------------------------------------------------------------------------------------------------------------------- */

static json_t *member(json_t *value, const char *name) {
    if (json_is_array(value) && *name && name[strspn(name, "0123456789")] == '\0')
        return json_array_get(value, (size_t)strtoul(name, NULL, 10));
    return json_object_get(value, name);
}

/* The value at a dotted path, NULL if there is none. */
static json_t *at_path(json_t *value, const char *path) {
    rlf_str name = {0};
    for (const char *end; value && path; path = *end ? end + 1 : NULL) {
        end = path + strcspn(path, ".");
        rlf_str_reset(&name);
        rlf_str_append(&name, path, (size_t)(end - path));
        value = member(value, name.ptr);
    }
    rlf_str_clean_up(&name);
    return value;
}

static rlf_status print_value(const char *folder, const char *path) {
    rlf_status status = RLF_OK;
    json_t *summary = NULL;
    char *text = NULL;
    RLF_TRY(read_summary(folder, &summary));
    json_t *value = at_path(summary, path);
    if (!value) RLF_FAIL(NOT_FOUND, "%s/summary.json has no %s", folder, path);
    if (json_is_null(value)) RLF_FAIL(NOT_FOUND, "%s/summary.json: %s is null: it was not measured", folder, path);
    if (json_is_object(value) || json_is_array(value)) RLF_FAIL(INVALID, "%s/summary.json: %s is not a single value", folder, path);
    if (json_is_string(value)) {
        puts(json_string_value(value));
    } else {
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(DIGITS));
        puts(text);
    }
out:
    free(text);
    json_decref(summary);
    return status;
}

/* ---- the table -------------------------------------------------------------------------------------------------------------------- */

/* With `decimals` digits behind the point, "-" for a figure that is not there. */
static void put_number(double value, int decimals, rlf_str *out) {
    if (isnan(value)) rlf_str_putc(out, '-');
    else rlf_str_printf(out, "%.*f", decimals, value);
}

static void put_change(double first, double last, int decimals, rlf_str *out) {
    if (isnan(first) && isnan(last)) {
        rlf_str_putc(out, '-');
        return;
    }
    put_number(first, decimals, out);
    rlf_str_puts(out, " -> ");
    put_number(last, decimals, out);
}

static const char *mode_of(const run *r) {
    const char *mode = json_string_value(json_object_get(r->summary, "mode"));
    return mode ? mode : "?";
}

/* source NULL: over all rows. An evaluation run has one figure, with nothing before it. */
static void put_exact_match(const run *r, const char *source, rlf_str *out) {
    json_t *before = r->before, *after = r->after;
    if (source) {
        before = json_object_get(json_object_get(before, "by_source"), source);
        after = json_object_get(json_object_get(after, "by_source"), source);
    }
    double last = number_of(after, "exact_match");
    if (strcmp(mode_of(r), "eval") == 0) put_number(last, 3, out);
    else put_change(number_of(before, "exact_match"), last, 3, out);
}

static void put_mode(const run *r, rlf_str *out) { rlf_str_puts(out, mode_of(r)); }
static void put_steps(const run *r, rlf_str *out) { put_number(number_of(r->summary, "steps"), 0, out); }
static void put_exact(const run *r, rlf_str *out) { put_exact_match(r, NULL, out); }
static void put_loss(const run *r, rlf_str *out) { put_change(r->loss.first, r->loss.last, 4, out); }
static void put_rate(const run *r, rlf_str *out) { put_number(r->seconds > 0 ? r->tokens / r->seconds : NAN, 0, out); }
static void put_seconds(const run *r, rlf_str *out) { put_number(number_of(r->summary, "seconds"), 0, out); }

static void put_reward(const run *r, rlf_str *out) {
    if (strcmp(mode_of(r), "eval") == 0) put_number(number_of(r->after, "reward_mean"), 3, out);
    else put_change(r->reward.first, r->reward.last, 3, out);
}

/* Only reinforcement learning compares log-probs. */
static void put_difference(const run *r, rlf_str *out) {
    if (strcmp(mode_of(r), "rl") != 0) rlf_str_putc(out, '-');
    else rlf_str_printf(out, "%.*g", DIGITS, number_of(r->summary, "logprob_diff_max"));
}

typedef struct table {
    const run *runs;
    size_t n;
    int label_width, widths[MOST_RUNS];
    bool measuring; /* the first pass finds the widths, the second prints */
} table;

static void cell(table *t, size_t column, const char *text) {
    int width = (int)strlen(text);
    if (t->measuring && width > t->widths[column]) t->widths[column] = width;
    if (!t->measuring) printf("  %*s%s", t->widths[column], text, column + 1 == t->n ? "\n" : "");
}

static void label(table *t, const char *indent, const char *text) {
    int width = (int)(strlen(indent) + strlen(text));
    if (t->measuring && width > t->label_width) t->label_width = width;
    if (!t->measuring) printf("%s%-*s", indent, t->label_width - (int)strlen(indent), text);
}

static void line_of(table *t, const char *name, void (*put)(const run *r, rlf_str *out)) {
    label(t, "", name);
    for (size_t i = 0; i < t->n; i++) {
        rlf_str text = {0};
        put(&t->runs[i], &text);
        cell(t, i, text.ptr);
        rlf_str_clean_up(&text);
    }
}

/* Whether an earlier run has the source too, so that its line stands already. */
static bool seen_before(const table *t, size_t at, const char *source) {
    for (size_t i = 0; i < at; i++)
        if (json_object_get(json_object_get(t->runs[i].after, "by_source"), source)) return true;
    return false;
}

static void source_line(table *t, const char *source) {
    label(t, "  ", source);
    for (size_t i = 0; i < t->n; i++) {
        rlf_str text = {0};
        put_exact_match(&t->runs[i], source, &text);
        cell(t, i, text.ptr);
        rlf_str_clean_up(&text);
    }
}

static void source_lines(table *t) {
    const char *source;
    json_t *value;
    for (size_t i = 0; i < t->n; i++)
        json_object_foreach(json_object_get(t->runs[i].after, "by_source"), source, value)
            if (!seen_before(t, i, source)) source_line(t, source);
}

static void put_folder(const run *r, rlf_str *out) { rlf_str_puts(out, r->folder); }

static void lines(table *t) {
    line_of(t, "run", put_folder);
    line_of(t, "mode", put_mode);
    line_of(t, "steps", put_steps);
    line_of(t, "reward", put_reward);
    line_of(t, "exact match", put_exact);
    source_lines(t);
    line_of(t, "loss", put_loss);
    line_of(t, "logprob_diff_max", put_difference);
    line_of(t, "tokens/s", put_rate);
    line_of(t, "seconds", put_seconds);
}

static rlf_status print_table(char **folders, size_t n) {
    rlf_status status = RLF_OK;
    run *runs = rlf_calloc(n, sizeof *runs);
    for (size_t i = 0; i < n; i++) RLF_TRY(run_read(&runs[i], folders[i]));
    table t = {.runs = runs, .n = n, .measuring = true};
    lines(&t);
    t.measuring = false;
    lines(&t);
out:
    for (size_t i = 0; i < n; i++) run_clean_up(&runs[i]);
    free(runs);
    return status;
}

int rlf_cmd_report(int argc, char **argv) {
    static const struct option options[] = {{"get", required_argument, NULL, 'g'}, {"help", no_argument, NULL, 'h'}, {0}};
    const char *key = NULL;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'h') return rlf_cli_help(usage);
        if (c != 'g') return rlf_cli_misuse("report", "expected run folders, or one and --get KEY");
        key = optarg;
    }
    char **folders = argv + optind;
    size_t n = (size_t)(argc - optind);
    if (n < 1 || n > MOST_RUNS) return rlf_cli_misuse("report", "expected 1 to 64 run folders");
    if (key && n > 1) return rlf_cli_misuse("report", "--get takes one run folder");
    rlf_status status = key ? print_value(folders[0], key) : print_table(folders, n);
    return status == RLF_OK ? 0 : rlf_cli_fail("report");
}
