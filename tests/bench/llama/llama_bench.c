/* What `rlf bench decode` and `rlf bench prefill` measure, done by llama.cpp over its public header; run.sh builds and compares.
 *
 *   llama_bench MODEL.gguf [options] MEASURE[:SETTING]...
 *   llama_bench MODEL.gguf [options] --compare < lines printed by `rlf score`
 *
 * MEASURE is `prefill` (a prompt of 512 tokens, logits of its last row) or a number of sequences: each has a context of 128 tokens, and
 * --steps more are fed one at a time, the logits of every row computed. SETTING names flash attention or not, the type of the KV cache,
 * and one cache for each sequence or one for all (`flash-f16-split`); without it all eight are measured. One line each: measure, setting,
 * tokens per second of the best run, separated by tabs. Nothing is sampled unless --sample asks for it, which favours llama.cpp: rlf
 * draws a token and takes its log-prob in the time it counts.
 *
 * --compare computes the log-probs of the same token ids (no flash attention, F32 cache) and prints the largest difference. */
#include <getopt.h>
#include <llama.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CONTEXT = 128, PREFILL = 512, SETTINGS = 8, SEQS_MAX = 64 };

typedef struct setting {
    bool flash, f16, unified;
} setting;

typedef struct bench {
    struct llama_model *model;
    struct llama_context *context;
    struct llama_sampler *sampler; /* NULL: nothing is drawn */
    struct llama_batch batch;
    int threads, steps, vocab;
    double seconds;
    bool cpu_time;
} bench;

static void die(const char *what) {
    fprintf(stderr, "llama_bench: %s\n", what);
    exit(1);
}

static void say_nothing(enum ggml_log_level level, const char *text, void *ctx) {
    (void)ctx;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

/* A number from low to high, up to the end of the text or to a colon. */
static double number(const char *text, double low, double high, const char *what) {
    char *end;
    double x = strtod(text, &end);
    if (end == text || (*end && *end != ':') || !(x >= low && x <= high)) die(what);
    return x;
}

/* As rlf bench: of the clock, or CPU seconds of the process divided by its threads. */
static double now(const bench *b) {
    struct timespec t;
    clock_gettime(b->cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return ((double)t.tv_sec + (double)t.tv_nsec * 1e-9) / (b->cpu_time ? b->threads : 1);
}

static setting setting_at(int i) { return (setting){.flash = i & 1, .f16 = i & 2, .unified = i & 4}; }

static const char *setting_name(setting s, char *out, size_t size) {
    snprintf(out, size, "%s-%s-%s", s.flash ? "flash" : "plain", s.f16 ? "f16" : "f32", s.unified ? "unified" : "split");
    return out;
}

/* ---- a context and its batches ---------------------------------------------------------------------------------------------------- */

/* Room for `seqs` sequences of `length` tokens, `rows` of them in one step. */
static void open_context(bench *b, setting s, int seqs, int length, int rows) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)(seqs * length);
    params.n_batch = params.n_ubatch = (uint32_t)rows;
    params.n_seq_max = (uint32_t)seqs;
    params.n_threads = params.n_threads_batch = b->threads;
    params.flash_attn_type = s.flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = s.f16 ? GGML_TYPE_F16 : GGML_TYPE_F32;
    params.kv_unified = s.unified;
    params.no_perf = true;
    if (!(b->context = llama_init_from_model(b->model, params))) die("no context could be made");
    b->batch = llama_batch_init(rows, 0, 1);
}

static void close_context(bench *b) {
    llama_batch_free(b->batch);
    llama_free(b->context);
}

static void add_row(bench *b, llama_token token, int seq, int pos, bool output) {
    int i = b->batch.n_tokens++;
    b->batch.token[i] = token;
    b->batch.pos[i] = pos;
    b->batch.n_seq_id[i] = 1;
    b->batch.seq_id[i][0] = seq;
    b->batch.logits[i] = output;
}

static void step(bench *b) {
    if (llama_decode(b->context, b->batch)) die("llama_decode failed");
    llama_synchronize(b->context);
    b->batch.n_tokens = 0;
}

static llama_token random_token(const bench *b) { return (llama_token)(rand() % b->vocab); }

static void prompt(bench *b, int seq, int length) {
    for (int i = 0; i < length; i++) add_row(b, random_token(b), seq, i, i + 1 == length);
    step(b);
}

/* ---- measures: seconds of one run ------------------------------------------------------------------------------------------------- */

static double run_prefill(bench *b) {
    llama_memory_clear(llama_get_memory(b->context), false);
    double start = now(b);
    prompt(b, 0, PREFILL);
    return now(b) - start;
}

static double run_decode(bench *b, int seqs) {
    llama_token next[SEQS_MAX];
    for (int i = 0; i < seqs; i++) {
        llama_memory_seq_rm(llama_get_memory(b->context), i, CONTEXT, -1);
        next[i] = random_token(b);
    }
    double start = now(b);
    for (int pos = CONTEXT; pos < CONTEXT + b->steps; pos++) {
        for (int i = 0; i < seqs; i++) add_row(b, next[i], i, pos, true);
        step(b);
        for (int i = 0; i < seqs && b->sampler; i++) next[i] = llama_sampler_sample(b->sampler, b->context, i);
    }
    return now(b) - start;
}

static void measure(bench *b, int seqs, setting s) {
    char name[32];
    int length = seqs ? CONTEXT + b->steps : PREFILL, rows = seqs ? CONTEXT : PREFILL;
    double best = INFINITY, end;
    struct timespec t;
    open_context(b, s, seqs ? seqs : 1, length, rows);
    for (int i = 0; i < seqs; i++) prompt(b, i, CONTEXT);
    clock_gettime(CLOCK_MONOTONIC, &t);
    end = (double)t.tv_sec + b->seconds;
    do {
        best = fmin(best, seqs ? run_decode(b, seqs) : run_prefill(b));
        clock_gettime(CLOCK_MONOTONIC, &t);
    } while ((double)t.tv_sec < end);
    if (seqs) printf("%d", seqs);
    else printf("prefill");
    printf("\t%s\t%.2f\n", setting_name(s, name, sizeof name), (seqs ? seqs * b->steps : PREFILL) / best);
    fflush(stdout);
    close_context(b);
}

/* "16" or "prefill", alone or with ":flash-f16-split". */
static void measure_named(bench *b, const char *text) {
    char name[32];
    const char *colon = strchr(text, ':');
    int done = 0, seqs = 0;
    if (strncmp(text, "prefill", 7)) seqs = (int)number(text, 1, SEQS_MAX, "a measure is prefill or 1 to 64 sequences");
    for (int i = 0; i < SETTINGS; i++) {
        if (colon && strcmp(colon + 1, setting_name(setting_at(i), name, sizeof name))) continue;
        measure(b, seqs, setting_at(i));
        done++;
    }
    if (!done) die("a setting is like flash-f16-split");
}

/* ---- the same log-probs? ---------------------------------------------------------------------------------------------------------- */

/* The numbers of the list that follows `key` in a line of rlf score. */
static int read_list(const char *line, const char *key, double *out, int max) {
    int n = 0;
    const char *p = strstr(line, key);
    if (!p) die("--compare: expected lines of rlf score");
    for (p += strlen(key); *p && *p != ']' && n < max; n++) {
        char *end;
        out[n] = strtod(p, &end);
        p = *end == ',' ? end + 1 : end;
    }
    return n;
}

static double log_prob(const float *logits, int vocab, int token) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < vocab; i++) max = fmax(max, logits[i]);
    for (int i = 0; i < vocab; i++) sum += exp(logits[i] - max);
    return logits[token] - max - log(sum);
}

static double compare_line(bench *b, const char *line) {
    static double ids[PREFILL], expected[PREFILL];
    double worst = 0;
    int n = read_list(line, "\"ids\":[", ids, PREFILL);
    if (!n) return 0;
    read_list(line, "\"logprobs\":[", expected, PREFILL);
    llama_memory_clear(llama_get_memory(b->context), false);
    for (int i = 0; i < n; i++) add_row(b, (llama_token)ids[i], 0, i, true);
    step(b);
    for (int i = 1; i < n; i++)
        worst = fmax(worst, fabs(log_prob(llama_get_logits_ith(b->context, i - 1), b->vocab, (int)ids[i]) - expected[i]));
    return worst;
}

static void compare(bench *b) {
    char *line = NULL;
    size_t size = 0;
    double worst = 0;
    open_context(b, (setting){0}, 1, PREFILL, PREFILL);
    while (getline(&line, &size, stdin) > 0) worst = fmax(worst, compare_line(b, line));
    printf("compare\tplain-f32-split\t%.3g\n", worst);
    free(line);
    close_context(b);
}

/* ---- the program ------------------------------------------------------------------------------------------------------------------ */

int main(int argc, char **argv) {
    static const struct option options[] = {{"threads", required_argument, NULL, 't'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"steps", required_argument, NULL, 'n'},
                                            {"cpu-time", no_argument, NULL, 'c'},
                                            {"sample", no_argument, NULL, 'd'},
                                            {"compare", no_argument, NULL, 'x'},
                                            {NULL, 0, NULL, 0}};
    bench b = {.threads = 2, .steps = 128, .seconds = 4};
    bool comparing = false, sampling = false;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 't') b.threads = (int)number(optarg, 1, 256, "--threads: expected 1 to 256");
        else if (c == 's') b.seconds = number(optarg, 0, 600, "--seconds: expected 0 to 600");
        else if (c == 'n') b.steps = (int)number(optarg, 1, 4096, "--steps: expected 1 to 4096");
        else if (c == 'c') b.cpu_time = true;
        else if (c == 'd') sampling = true;
        else if (c == 'x') comparing = true;
        else die("unknown option");
    }
    if (optind >= argc) die("expected MODEL.gguf [options] MEASURE[:SETTING]...");
    llama_log_set(say_nothing, NULL);
    llama_backend_init();
    if (!(b.model = llama_model_load_from_file(argv[optind], llama_model_default_params()))) die("the model could not be loaded");
    b.vocab = llama_vocab_n_tokens(llama_model_get_vocab(b.model));
    if (sampling) b.sampler = llama_sampler_init_dist(1);
    if (comparing) compare(&b);
    for (int i = optind + 1; i < argc; i++) measure_named(&b, argv[i]);
    if (b.sampler) llama_sampler_free(b.sampler);
    llama_model_free(b.model);
    llama_backend_free();
    return 0;
}
