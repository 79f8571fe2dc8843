/* rlf bench: what this machine does with a model of a named shape and random weights.
 *
 *   sgemm    2048 x 2048 x 2048 product: the rate all others are given a share of, measured in the same run
 *   train    8 sequences of 256 tokens: forward, loss, backward, global norm, AdamW
 *   decode   1, 16 and 32 sequences, 128 tokens of context each, 128 tokens drawn for each
 *   prefill  a prompt of 512 tokens
 *   rollout  episodes that wait for tools (bench_rollout.c)
 *   tokenize loading a tokenizer, encoding a text (bench_tokenize.c)
 *
 * Each measurement is repeated and its best run reported: other work on a machine only ever makes a run slower. Floating-point operations
 * are counted as 2 per parameter of a matrix and token forward (embedding look-up: none; head: rows whose logits are computed)
 * and 4 heads * D per attended key, layer and token; training three times that (recomputation is not counted). */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "kernels/transformer/transformer.h"
#include "trainer/cli/bench_rollout.h"
#include "trainer/cli/bench_kernels.h"
#include "trainer/cli/bench_tokenize.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

enum { SGEMM_N = 2048, TRAIN_SEQS = 8, TRAIN_LENGTH = 256, CONTEXT = 128, DRAWN = 128, PREFILL = 512, PAGE = 64 };

static const char USAGE[] = "rlf bench sgemm|kernels|train|decode|prefill|all [--shape bench-42m] [--dtype float32|bfloat16] [--threads N] "
                            "[--device auto|cpu|cuda] [--isa avx512|avx2|portable] [--recompute] [--seconds 4] [--cpu-time] [--json]\n"
                            "rlf bench rollout [options]: see rlf bench rollout --help\n"
                            "rlf bench tokenize MODEL TEXT [options]: see rlf bench tokenize --help\n"
                            "  --dtype    how weights are stored (float32)\n"
                            "  --compute-dtype  what is multiplied (as weights are stored)\n"
                            "  --device   what computes: auto (a CUDA card where there is one, unless an option is the CPU's), cpu or cuda\n"
                            "  --threads  0 (default): one per core\n"
                            "  --recompute  train keeps each layer's input alone (train.recompute)\n"
                            "  --seconds  how long each measurement is repeated (an eighth of it for each of kernels)\n"
                            "  --cpu-time count the process's CPU seconds divided by --threads, not the clock's: for a machine "
                            "busy with other work";

typedef struct bench {
    const char *what, *shape_name, *device_name, *isa;
    kern_precision precision;
    int threads;
    double seconds;
    bool json, cpu_time, recompute;
    kern_device *device;
    kern_queue *queue;
    rlf_model_layout layout;
    kern_model *model;
    double sgemm_flops; /* per second */
    json_t *report;
} bench;

/* ---- counting and reporting ------------------------------------------------------------------------------------------------------- */

/* Seconds of the clock, or of the processors this process had: what others took is then left out, and so is its own idling. */
static double now(const bench *b) {
    struct timespec t;
    if (!b->cpu_time) return rlf_now_s();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return ((double)t.tv_sec + (double)t.tv_nsec * 1e-9) / b->threads;
}

/* Forward operations of a token at each of positions first..last-1, without the head. */
static double body_flops(const rlf_model_shape *s, int first, int last) {
    double inner = (double)s->heads * s->head_dim, width = inner + 2.0 * s->kv_heads * s->head_dim;
    double matrices = s->layers * (width * s->hidden + inner * s->hidden + 3.0 * s->ffn * s->hidden);
    double keys = 0.5 * ((double)last * (last + 1) - (double)first * (first + 1));
    return 2 * matrices * (last - first) + 4 * inner * s->layers * keys;
}

static double head_flops(const rlf_model_shape *s) { return 2.0 * s->hidden * s->vocab; }

/* One result: to the report, and as a line to read unless JSON was asked for. */
static json_t *report(const bench *b, const char *label, double tokens, double seconds, double flops) {
    double share = flops / seconds / b->sgemm_flops;
    if (!b->json)
        printf("%-24s %9.1f tokens/s  %9.2f ms  %7.1f GFLOP/s  %5.1f %% of sgemm\n", label, tokens / seconds, seconds * 1e3,
               flops / seconds * 1e-9, share * 100);
    return json_pack("{s:f, s:f, s:f, s:f}", "tokens_per_s", tokens / seconds, "seconds", seconds, "gflops", flops / seconds * 1e-9,
                     "share_of_sgemm", share);
}

/* ---- sgemm ------------------------------------------------------------------------------------------------------------------------ */

static rlf_status sgemm(bench *b) {
    rlf_status status = RLF_OK;
    kern_buf *buf = NULL;
    size_t n = (size_t)SGEMM_N * SGEMM_N;
    double best = INFINITY, end = rlf_now_s() + b->seconds;
    float *host = rlf_calloc(2 * n, sizeof *host);
    for (size_t i = 0; i < 2 * n; i++) host[i] = (float)(i % 251) / 251.0f - 0.5f;
    RLF_TRY(kern_buf_new(&buf, b->device, 3 * n * sizeof(float)));
    kern_tensor x = kern_view(buf, KERN_F32), w = kern_at(x, n), y = kern_at(w, n);
    kern_upload(b->queue, x, host, 2 * n);
    while (rlf_now_s() < end || !isfinite(best)) {
        double start = now(b);
        kern_linear(b->queue, y, x, w, kern_none(), KERN_F32, SGEMM_N, SGEMM_N, SGEMM_N, false);
        RLF_TRY(kern_sync(b->queue));
        best = fmin(best, now(b) - start);
    }
    b->sgemm_flops = 2.0 * (double)n * SGEMM_N / best;
    json_object_set_new(b->report, "sgemm_gflops", json_real(b->sgemm_flops * 1e-9));
    if (!b->json) printf("%-24s %7.1f GFLOP/s\n", "sgemm 2048", b->sgemm_flops * 1e-9);
out:
    kern_buf_destroy(buf);
    free(host);
    return status;
}

/* ---- kernels ---------------------------------------------------------------------------------------------------------------------- */

static double now_of(const void *ctx) { return now(ctx); }

static rlf_status kernels(bench *b) {
    const rlf_bench_kernels options = {.queue = b->queue, .shape = &b->layout.shape, .precision = b->precision, .matrix_flops = b->sgemm_flops,
                                       .seconds = b->seconds / 8, .now = now_of, .ctx = b, .print = !b->json};
    json_t *results;
    rlf_status status = rlf_bench_kernels_run(&options, &results);
    json_object_set_new(b->report, "kernels", results);
    return status;
}

/* ---- train ------------------------------------------------------------------------------------------------------------------------ */

typedef struct training {
    kern_trainer *trainer;
    kern_buf *state; /* gradients, both moments, master weights: (4, total) */
    int32_t tokens[TRAIN_SEQS * TRAIN_LENGTH], targets[TRAIN_SEQS * TRAIN_LENGTH], begin[TRAIN_SEQS + 1];
    double loss;
} training;

static void mean_loss(void *ctx, int n, const int32_t *row, const float *logprob, const float *entropy, float *dlogprob, float *dentropy) {
    (void)row, (void)entropy, (void)dentropy;
    training *t = ctx;
    for (int i = 0; i < n; i++) {
        t->loss -= (double)logprob[i] / (TRAIN_SEQS * (TRAIN_LENGTH - 1));
        dlogprob[i] = -1.0f / (TRAIN_SEQS * (TRAIN_LENGTH - 1));
    }
}

static void fill_batch(training *t, int vocab) {
    for (uint32_t i = 0; i < TRAIN_SEQS * TRAIN_LENGTH; i++)
        t->tokens[i] = (int32_t)rlf_rng_below(1, RLF_RNG_TEST, 0, 0, i, (uint64_t)vocab);
    for (int i = 0; i < TRAIN_SEQS * TRAIN_LENGTH; i++) t->targets[i] = (i + 1) % TRAIN_LENGTH ? t->tokens[i + 1] : -1;
    for (int s = 0; s <= TRAIN_SEQS; s++) t->begin[s] = s * TRAIN_LENGTH;
}

static rlf_status train_step(bench *b, training *t, int64_t step) {
    rlf_status status = RLF_OK;
    size_t total = b->layout.total;
    kern_batch batch = {TRAIN_SEQS * TRAIN_LENGTH, TRAIN_SEQS, t->tokens, t->begin, t->targets};
    kern_filter filter = {.temperature = 1, .top_p = 1};
    kern_tensor grads = kern_view(t->state, KERN_F32), m = kern_at(grads, total), v = kern_at(m, total), master = kern_at(v, total);
    t->loss = 0;
    kern_zero(b->queue, grads, total);
    RLF_TRY(kern_trainer_gradients(t->trainer, &batch, filter, mean_loss, t, grads));
    double norm = sqrt(kern_sumsq(b->queue, grads, total));
    kern_adamw_args args = {.lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.01f, .step = step,
                            .grad_scale = (float)fmin(1, 1 / (norm + 1e-6))};
    kern_adamw(b->queue, b->precision.stored == RLF_DTYPE_F32 ? kern_model_params(b->model) : master, grads, m, v, total, args);
    if (b->precision.stored != RLF_DTYPE_F32) kern_convert(b->queue, kern_model_params(b->model), master, total);
    RLF_TRY(kern_sync(b->queue));
out:
    return status;
}

static rlf_status train(bench *b) {
    rlf_status status = RLF_OK;
    const rlf_model_shape *s = &b->layout.shape;
    training *t = rlf_calloc(1, sizeof *t);
    kern_trainer_options options = {.max_tokens = TRAIN_SEQS * TRAIN_LENGTH, .max_seqs = TRAIN_SEQS, .gradients = true,
                                    .recompute = b->recompute};
    double best = INFINITY, end = rlf_now_s() + b->seconds, first_loss = 0;
    RLF_TRY(kern_trainer_new(&t->trainer, b->model, &options));
    RLF_TRY(kern_buf_new(&t->state, b->device, 4 * b->layout.total * sizeof(float))); /* float32 never touches the last quarter */
    if (b->precision.stored != RLF_DTYPE_F32)
        kern_convert(b->queue, kern_at(kern_view(t->state, KERN_F32), 3 * b->layout.total), kern_model_params(b->model), b->layout.total);
    fill_batch(t, s->vocab);
    for (int64_t step = 1; step <= 3 || rlf_now_s() < end; step++) {
        double start = now(b);
        RLF_TRY(train_step(b, t, step));
        best = fmin(best, now(b) - start);
        if (step == 1) first_loss = t->loss;
    }
    double flops = 3 * TRAIN_SEQS * (body_flops(s, 0, TRAIN_LENGTH) + (TRAIN_LENGTH - 1) * head_flops(s));
    json_t *result = report(b, "train 8 x 256", TRAIN_SEQS * TRAIN_LENGTH, best, flops);
    json_object_set_new(result, "loss_first", json_real(first_loss));
    json_object_set_new(result, "loss_last", json_real(t->loss));
    json_object_set_new(b->report, "train", result);
    if (!b->json) printf("%-24s %9.4f -> %.4f\n", "  loss, first -> last", first_loss, t->loss);
out:
    kern_trainer_destroy(t->trainer);
    kern_buf_destroy(t->state);
    free(t);
    return status;
}

/* ---- decode and prefill ----------------------------------------------------------------------------------------------------------- */

typedef struct decoding {
    int seqs, max_pages;
    int32_t *page_table; /* (seqs, max_pages) */
    int32_t *tokens, *pos, *seq, *slots, *rows; /* one step: (longer of seqs and a prompt) */
    float *logprobs;
    kern_sample_key *keys;
} decoding;

static decoding decoding_new(int seqs, int length, int rows) {
    size_t n = (size_t)(seqs > rows ? seqs : rows);
    decoding d = {.seqs = seqs, .max_pages = (length + PAGE - 1) / PAGE};
    int32_t **arrays[] = {&d.tokens, &d.pos, &d.seq, &d.slots, &d.rows};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) *arrays[i] = rlf_calloc(n, sizeof(int32_t));
    d.page_table = rlf_calloc((size_t)(seqs * d.max_pages), sizeof(int32_t));
    for (int i = 0; i < seqs * d.max_pages; i++) d.page_table[i] = i;
    d.logprobs = rlf_calloc(n, sizeof *d.logprobs);
    d.keys = rlf_calloc(n, sizeof *d.keys);
    return d;
}

static void decoding_free(decoding *d) {
    int32_t *arrays[] = {d->tokens, d->pos, d->seq, d->slots, d->rows, d->page_table};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) free(arrays[i]);
    free(d->logprobs);
    free(d->keys);
}

static void set_row(decoding *d, int i, int seq, int pos) {
    d->seq[i] = seq;
    d->pos[i] = pos;
    d->slots[i] = (seq * d->max_pages + pos / PAGE) * PAGE + pos % PAGE;
}

static kern_step step_of(const decoding *d, int rows, int outputs) {
    return (kern_step){.rows = rows, .tokens = d->tokens, .pos = d->pos, .seq = d->seq, .slots = d->slots, .max_pages = d->max_pages,
                       .page_table = d->page_table, .outputs = outputs, .output_rows = d->rows};
}

/* A prompt of `length` random tokens for sequence `seq`, in one step; the logits of its last row. */
static rlf_status prompt(kern_decoder *decoder, decoding *d, int seq, int length, int vocab) {
    for (int i = 0; i < length; i++) {
        d->tokens[i] = (int32_t)rlf_rng_below(2, RLF_RNG_TEST, (uint64_t)seq, 0, (uint32_t)i, (uint64_t)vocab);
        set_row(d, i, seq, i);
    }
    d->rows[0] = length - 1;
    kern_step step = step_of(d, length, 1);
    return kern_decoder_step(decoder, &step);
}

/* DRAWN steps after the prompts; each row's token is the one drawn before. */
static rlf_status draw(kern_decoder *decoder, decoding *d) {
    rlf_status status = RLF_OK;
    kern_filter filter = {.temperature = 1, .top_p = 1};
    for (int i = 0; i < d->seqs; i++) d->rows[i] = i;
    for (int pos = CONTEXT; pos < CONTEXT + DRAWN; pos++) {
        for (int i = 0; i < d->seqs; i++) {
            set_row(d, i, i, pos);
            d->keys[i] = (kern_sample_key){.uid = (uint64_t)i, .position = (uint32_t)pos + 1};
        }
        kern_step step = step_of(d, d->seqs, d->seqs);
        RLF_TRY(kern_decoder_step(decoder, &step));
        RLF_TRY(kern_decoder_sample(decoder, filter, 1, d->keys, d->tokens, d->logprobs));
    }
out:
    return status;
}

static rlf_status decode(bench *b, int seqs, json_t *results) {
    rlf_status status = RLF_OK;
    const rlf_model_shape *s = &b->layout.shape;
    kern_decoder *decoder = NULL;
    decoding d = decoding_new(seqs, CONTEXT + DRAWN, CONTEXT);
    kern_decoder_options options = {.page_size = PAGE, .pages = seqs * d.max_pages, .max_rows = seqs > CONTEXT ? seqs : CONTEXT,
                                    .max_outputs = seqs};
    double best = INFINITY, end = rlf_now_s() + b->seconds;
    char label[32];
    RLF_TRY(kern_decoder_new(&decoder, b->model, &options));
    for (int i = 0; i < seqs; i++) RLF_TRY(prompt(decoder, &d, i, CONTEXT, s->vocab));
    while (rlf_now_s() < end || !isfinite(best)) {
        double start = now(b);
        RLF_TRY(draw(decoder, &d));
        best = fmin(best, now(b) - start);
    }
    snprintf(label, sizeof label, "decode %d x 128 at 128", seqs);
    json_t *result = report(b, label, (double)seqs * DRAWN, best, seqs * (body_flops(s, CONTEXT, CONTEXT + DRAWN) + DRAWN * head_flops(s)));
    json_object_set_new(result, "sequences", json_integer(seqs));
    json_array_append_new(results, result);
out:
    kern_decoder_destroy(decoder);
    decoding_free(&d);
    return status;
}

static rlf_status decode_all(bench *b) {
    static const int sizes[] = {1, 16, 32};
    rlf_status status = RLF_OK;
    json_t *results = json_array();
    json_object_set_new(b->report, "decode", results);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) RLF_TRY(decode(b, sizes[i], results));
out:
    return status;
}

static rlf_status prefill(bench *b) {
    rlf_status status = RLF_OK;
    const rlf_model_shape *s = &b->layout.shape;
    kern_decoder *decoder = NULL;
    decoding d = decoding_new(1, PREFILL, PREFILL);
    kern_decoder_options options = {.page_size = PAGE, .pages = d.max_pages, .max_rows = PREFILL, .max_outputs = 1};
    double best = INFINITY, end = rlf_now_s() + b->seconds;
    RLF_TRY(kern_decoder_new(&decoder, b->model, &options));
    while (rlf_now_s() < end || !isfinite(best)) {
        double start = now(b);
        RLF_TRY(prompt(decoder, &d, 0, PREFILL, s->vocab));
        best = fmin(best, now(b) - start);
    }
    json_object_set_new(b->report, "prefill", report(b, "prefill 512", PREFILL, best, body_flops(s, 0, PREFILL) + head_flops(s)));
out:
    kern_decoder_destroy(decoder);
    decoding_free(&d);
    return status;
}

/* ---- the command ------------------------------------------------------------------------------------------------------------------ */

static rlf_status open_model(bench *b) {
    rlf_status status = RLF_OK;
    kern_device_options options = {.name = b->device_name, .threads = b->threads, .isa = b->isa};
    rlf_model_shape shape;
    RLF_TRY(rlf_model_shape_named(&shape, b->shape_name));
    RLF_TRY(rlf_cli_device_open(&b->device, &options));
    RLF_TRY(kern_queue_new(&b->queue, b->device));
    rlf_model_layout_init(&b->layout, &shape);
    RLF_TRY(rlf_cli_model_random(&b->model, b->queue, &b->layout, b->precision, PREFILL));
    json_object_set_new(b->report, "shape", json_string(b->shape_name));
    json_object_set_new(b->report, "dtype", json_string(rlf_dtype_torch_name(b->precision.stored)));
    json_object_set_new(b->report, "compute_dtype", json_string(rlf_dtype_torch_name(b->precision.factors)));
    json_object_set_new(b->report, "device", json_string(kern_device_name(b->device)));
    json_object_set_new(b->report, "clock", json_string(b->cpu_time ? "cpu" : "wall"));
    if (!b->json) printf("%s, weights %s, factors %s, on %s\n", b->shape_name, rlf_dtype_torch_name(b->precision.stored),
                         rlf_dtype_torch_name(b->precision.factors), kern_device_name(b->device));
out:
    return status;
}

static void close_model(bench *b) {
    kern_model_destroy(b->model);
    rlf_model_layout_clean_up(&b->layout);
    kern_queue_destroy(b->queue);
    if (b->device) kern_device_close(b->device);
    json_decref(b->report);
}

static bool asked(const bench *b, const char *name) { return !strcmp(b->what, name) || !strcmp(b->what, "all"); }

static rlf_status run(bench *b) {
    rlf_status status = RLF_OK;
    RLF_TRY(open_model(b));
    RLF_TRY(sgemm(b));
    if (!strcmp(b->what, "kernels")) RLF_TRY(kernels(b));
    if (asked(b, "train")) RLF_TRY(train(b));
    if (asked(b, "prefill")) RLF_TRY(prefill(b));
    if (asked(b, "decode")) RLF_TRY(decode_all(b));
    if (b->json) {
        json_dumpf(b->report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        printf("\n");
    }
out:
    return status;
}

static bool parse(bench *b, int argc, char **argv, bool *help) {
    static const struct option options[] = {{"shape", required_argument, NULL, 's'},   {"threads", required_argument, NULL, 't'},
                                            {"isa", required_argument, NULL, 'i'},     {"seconds", required_argument, NULL, 'S'},
                                            {"json", no_argument, NULL, 'j'},          {"help", no_argument, NULL, 'h'},
                                            {"cpu-time", no_argument, NULL, 'c'},      {"dtype", required_argument, NULL, 'd'},
                                            {"recompute", no_argument, NULL, 'r'},     {"device", required_argument, NULL, 'D'},
                                            {"compute-dtype", required_argument, NULL, 'C'}, {NULL, 0, NULL, 0}};
    double threads = 0;
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 's') b->shape_name = optarg;
        else if (c == 't' && rlf_cli_number(optarg, 0, 256, &threads)) b->threads = (int)threads;
        else if (c == 'i') b->isa = optarg;
        else if (c == 'd' && rlf_dtype_parse(optarg, &b->precision.stored)) continue;
        else if (c == 'C' && rlf_dtype_parse(optarg, &b->precision.factors)) continue;
        else if (c == 'D' && rlf_cli_device_parse(optarg, &b->device_name)) continue;
        else if (c == 'S' && rlf_cli_number(optarg, 0, 600, &b->seconds)) continue;
        else if (c == 'r') b->recompute = true;
        else if (c == 'j') b->json = true;
        else if (c == 'c') b->cpu_time = true;
        else if (c == 'h') *help = true;
        else return false;
    }
    if (b->precision.factors == RLF_DTYPE_OTHER) b->precision.factors = b->precision.stored;
    b->what = optind < argc ? argv[optind] : "";
    static const char *const names[] = {"sgemm", "kernels", "train", "decode", "prefill", "all"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(b->what, names[i])) return optind + 1 == argc;
    return *help;
}

int rlf_cmd_bench(int argc, char **argv) {
    bench b = {.shape_name = "bench-42m", .device_name = "auto", .seconds = 4};
    bool help = false;
    if (argc > 1 && !strcmp(argv[1], "rollout")) return rlf_bench_rollout(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "tokenize")) return rlf_bench_tokenize(argc - 1, argv + 1);
    if (!parse(&b, argc, argv, &help)) return rlf_cli_misuse("bench", "expected one of sgemm, kernels, train, decode, prefill, all, then options");
    if (help) return rlf_cli_help(USAGE);
    if (b.isa || b.cpu_time) {
        if (!strcmp(b.device_name, "cuda")) return rlf_cli_misuse("bench", "--isa and --cpu-time are for --device cpu");
        b.device_name = "cpu";
    }
    if (b.cpu_time && !b.threads) return rlf_cli_misuse("bench", "--cpu-time needs --threads");
    b.report = json_object();
    rlf_status status = run(&b);
    close_model(&b);
    return status == RLF_OK ? 0 : rlf_cli_fail("bench");
}
