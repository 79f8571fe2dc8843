/* rlf bench: what this machine does with a model of a named shape and random weights.
 *
 *   sgemm    a large square product in float32, one of the factors' dtype, and a copy: the rates all others are given a share of,
 *            measured in the same run, or before (--rates)
 *   kernels  each operation by itself (bench_kernels.c)
 *   train    8 sequences of 256 tokens: forward, loss, backward, global norm, AdamW (bench_train.c)
 *   decode   1, 16 and 32 sequences, 128 tokens of context each, 128 tokens drawn for each (bench_decode.c)
 *   prefill  a prompt of 512 tokens (bench_decode.c)
 *   handover weights from one rank to another (bench_handover.c)
 *   reduce   gradients added and weights gathered among learners (bench_reduce.c)
 *   rollout  episodes that wait for tools (bench_rollout.c)
 *   tokenize loading a tokenizer, encoding a text (bench_tokenize.c)
 *
 * Each measurement is repeated and its best run reported: other work on a machine only ever makes a run slower. Floating-point
 * operations are counted as 2 per parameter of a matrix and token forward (embedding look-up: none; head: rows whose logits are
 * computed) and 4 heads * D per attended key, layer and token; training three times that (recomputation is not counted). A copy's
 * bytes count twice, read and written.
 *
 * Times are the host's, on a card too. Single operations are queued in batches and waited for once, which takes the wait out;
 * steps of training, and decoding as a whole, end in a wait that is theirs (the norm; the last tokens), so that an event on the card would
 * see less than what they cost. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

enum { MOST_BATCHES = 16, MOST_SEQUENCES = 4096, MOST_TOKENS = 1 << 20, COPY_BYTES = 256 << 20, BATCHES = 5 };

static const char USAGE[] =
    "rlf bench sgemm|kernels|train|decode|prefill|all [--shape bench-42m] [--dtype float32|bfloat16] [--threads N]\n"
    "                 [--device auto|cpu|cuda] [--isa avx512|avx2|portable|hopper|ampere|free] [--recompute [--keep-attention]]\n"
    "                 [--seconds 4] [--cpu-time] [--json] [--sequences 8] [--length N] [--micro-tokens N] [--batch 1,16,32]\n"
    "                 [--context 128] [--compute-dtype float32|bfloat16] [--rates FILE]\n"
    "mpirun -np 2 rlf bench handover [options]: see rlf bench handover --help\n"
    "mpirun -np 2 rlf bench reduce [options]: see rlf bench reduce --help\n"
    "rlf bench rollout [options]: see rlf bench rollout --help\n"
    "rlf bench tokenize MODEL TEXT [options]: see rlf bench tokenize --help\n"
    "  --dtype    how weights are stored (float32)\n"
    "  --compute-dtype  what is multiplied (as weights are stored)\n"
    "  --device   what computes: auto (a CUDA card where there is one, unless an option is the CPU's), cpu or cuda\n"
    "  --threads  0 (default): one per core\n"
    "  --isa      one the machine has, in place of the best; free: a card's products by cuBLASLt, in no fixed order: not for training\n"
    "  --sequences  packed sequences of train and of the packed operations of kernels\n"
    "  --length   tokens of each of them (256), or of the prompt of prefill (512)\n"
    "  --batch    sequences that decode together, a measurement each\n"
    "  --context  tokens that each of them has before the first drawn one\n"
    "  --micro-tokens  train takes no more at a time (all), in whole sequences, and adds gradients up (train.micro_tokens)\n"
    "  --recompute  train keeps each layer's input alone (train.recompute)\n"
    "  --keep-attention  beside that, train keeps what attention gives (train.keep_attention)\n"
    "  --seconds  how long each measurement is repeated (an eighth of it for each of kernels)\n"
    "  --rates    what sgemm gave with --json on this device, for the same dtypes: not measured again\n"
    "  --cpu-time count the process's CPU seconds divided by --threads, not the clock's: for a machine busy with other work";

typedef struct options {
    const char *what, *shape_name, *device_name, *isa, *rates;
    int sequences, length, micro_tokens; /* length 0: each measurement's own */
    int batches[MOST_BATCHES], n_batches, context;
    bool json;
    kern_trainer_options kept; /* by train: recompute, keep_attention */
} options;

/* ---- shared by the parts ---------------------------------------------------------------------------------------------------------- */

double rlf_bench_clock(bool cpu_time) {
    struct timespec t;
    if (!cpu_time) return rlf_now_s();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now(const rlf_bench *b) { return rlf_bench_clock(b->cpu_time) / (b->cpu_time ? b->threads : 1); }

rlf_status rlf_bench_best(const rlf_bench *b, int least, rlf_bench_step *step, void *ctx, double *seconds) {
    *seconds = INFINITY;
    for (double end = rlf_now_s() + b->seconds; least > 0 || rlf_now_s() < end; least--) {
        double start = now(b);
        rlf_status status = step(ctx);
        if (status != RLF_OK) return status;
        *seconds = fmin(*seconds, now(b) - start);
    }
    return RLF_OK;
}

rlf_status rlf_bench_queued(const rlf_bench *b, double seconds, rlf_bench_call *call, void *ctx, double *each) {
    rlf_status status = RLF_OK;
    int calls = 1;
    double spent = 0, batch;
    *each = INFINITY;
    call(ctx);
    RLF_TRY(kern_sync(b->queue));
    do {
        double start = now(b);
        for (int i = 0; i < calls; i++) call(ctx);
        RLF_TRY(kern_sync(b->queue));
        batch = now(b) - start;
        *each = fmin(*each, batch / calls);
        spent += batch;
        if (batch * BATCHES < seconds && calls < 1 << 20) calls *= 2;
    } while (spent < seconds);
out:
    return status;
}

rlf_status rlf_bench_fill(kern_queue *queue, kern_tensor t, size_t n, float low, float high, uint32_t stream) {
    enum { PIECE = 65521 }; /* a prime: rows of a matrix differ */
    rlf_status status = RLF_OK;
    kern_buf *buf = NULL;
    size_t piece = n < PIECE ? n : PIECE;
    float *host = rlf_calloc(piece, sizeof *host);
    for (size_t i = 0; i < piece; i++) host[i] = low + (high - low) * rlf_rng_uniform(1, RLF_RNG_TEST, i, stream, 0);
    RLF_TRY(kern_buf_new(&buf, kern_queue_device(queue), piece * sizeof *host));
    kern_upload(queue, kern_view(buf, KERN_F32), host, piece);
    for (size_t at = 0; at < n; at += piece)
        kern_convert(queue, kern_at(t, at), kern_view(buf, KERN_F32), n - at < piece ? n - at : piece);
    RLF_TRY(kern_sync(queue));
out:
    kern_buf_destroy(buf);
    free(host);
    return status;
}

double rlf_bench_body_flops(const rlf_model_shape *s, int first, int last) {
    double inner = (double)s->heads * s->head_dim, width = inner + 2.0 * s->kv_heads * s->head_dim;
    double matrices = s->layers * (width * s->hidden + inner * s->hidden + 3.0 * s->ffn * s->hidden);
    double keys = 0.5 * ((double)last * (last + 1) - (double)first * (first + 1));
    return 2 * matrices * (last - first) + 4 * inner * s->layers * keys;
}

double rlf_bench_head_flops(const rlf_model_shape *s) { return 2.0 * s->hidden * s->vocab; }

json_t *rlf_bench_result(const rlf_bench *b, const char *label, double tokens, double seconds, double flops, double bytes) {
    double rate = flops / seconds;
    json_t *result = json_pack("{s:f, s:f, s:f, s:f, s:f}", "tokens_per_s", tokens / seconds, "seconds", seconds, "gflops",
                               rate * 1e-9, "share_of_sgemm", rate / b->sgemm_flops, "share_of_matrix", rate / b->matrix_flops);
    if (bytes > 0) {
        json_object_set_new(result, "bytes", json_real(bytes));
        json_object_set_new(result, "share_of_copy", json_real(bytes / seconds / b->copy_bytes));
    }
    if (b->print) {
        printf("%-24s %9.1f tokens/s  %9.2f ms  %7.1f GFLOP/s  %5.1f %% of matrix", label, tokens / seconds, seconds * 1e3,
               rate * 1e-9, rate / b->matrix_flops * 100);
        if (bytes > 0) printf("  %6.1f GB/s  %5.1f %% of copy", bytes / seconds * 1e-9, bytes / seconds / b->copy_bytes * 100);
        printf("\n");
    }
    return result;
}

void rlf_bench_dump(const json_t *report) {
    json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    printf("\n");
}

/* ---- what the device could do ----------------------------------------------------------------------------------------------------- */

typedef struct product {
    kern_queue *queue;
    kern_tensor x, w, y; /* (n, n) */
    kern_dtype factors;
    int n;
} product;

static void multiply(void *ctx) {
    const product *p = ctx;
    kern_linear(p->queue, p->y, p->x, p->w, kern_none(), p->factors, p->n, p->n, p->n, false);
}

static rlf_status time_product(const rlf_bench *b, kern_dtype factors, int n, double seconds, double *each) {
    rlf_status status = RLF_OK;
    kern_buf *activations = NULL, *weights = NULL;
    const size_t square = (size_t)n * (size_t)n;
    RLF_TRY(kern_buf_new(&activations, b->device, 2 * square * sizeof(float)));
    RLF_TRY(kern_buf_new(&weights, b->device, square * kern_dtype_size(factors)));
    product p = {
        .queue = b->queue, .x = kern_view(activations, kern_activations(b->device, factors)), .w = kern_view(weights, factors), .factors = factors, .n = n};
    p.y = kern_at(p.x, square);
    RLF_TRY(rlf_bench_fill(b->queue, p.x, square, -0.5f, 0.5f, 1));
    RLF_TRY(rlf_bench_fill(b->queue, p.w, square, -0.5f, 0.5f, 2));
    RLF_TRY(rlf_bench_queued(b, seconds, multiply, &p, each));
out:
    kern_buf_destroy(activations);
    kern_buf_destroy(weights);
    return status;
}

/* The rate of an n x n x n product that takes the device a while, or is as large as the largest of a model. */
static rlf_status measure_product(const rlf_bench *b, json_t *report, const char *name, kern_dtype factors, double *flops) {
    enum { SMALLEST = 256, LARGEST = 8192 };
    const double a_while = 0.02;
    rlf_status status = RLF_OK;
    double each = 0;
    int n = SMALLEST;
    char key[32];
    RLF_TRY(time_product(b, factors, n, 0, &each));
    while (each < a_while && n < LARGEST) RLF_TRY(time_product(b, factors, n *= 2, 0, &each));
    if (b->seconds > 0) RLF_TRY(time_product(b, factors, n, b->seconds, &each));
    *flops = 2.0 * n * n * n / each;
    snprintf(key, sizeof key, "%s_gflops", name);
    json_object_set_new(report, key, json_real(*flops * 1e-9));
    snprintf(key, sizeof key, "%s_n", name);
    json_object_set_new(report, key, json_integer(n));
    if (b->print) printf("%-6s %-17d %7.1f GFLOP/s\n", name, n, *flops * 1e-9);
out:
    return status;
}

typedef struct copying {
    kern_queue *queue;
    kern_tensor to, from;
} copying;

static void copy(void *ctx) {
    const copying *c = ctx;
    kern_copy(c->queue, c->to, c->from, COPY_BYTES);
}

static rlf_status measure_copy(rlf_bench *b, json_t *report) {
    rlf_status status = RLF_OK;
    kern_buf *to = NULL, *from = NULL;
    double each;
    RLF_TRY(kern_buf_new(&to, b->device, COPY_BYTES));
    RLF_TRY(kern_buf_new(&from, b->device, COPY_BYTES));
    copying c = {b->queue, kern_view(to, KERN_U8), kern_view(from, KERN_U8)};
    RLF_TRY(rlf_bench_queued(b, b->seconds, copy, &c, &each));
    b->copy_bytes = 2.0 * COPY_BYTES / each;
    json_object_set_new(report, "copy_gb_per_s", json_real(b->copy_bytes * 1e-9));
    if (b->print) printf("%-24s %7.1f GB/s\n", "copy", b->copy_bytes * 1e-9);
out:
    kern_buf_destroy(to);
    kern_buf_destroy(from);
    return status;
}

/* ---- the command ------------------------------------------------------------------------------------------------------------------ */

static bool asked(const options *o, const char *name) { return !strcmp(o->what, name) || !strcmp(o->what, "all"); }
static int train_length(const options *o) { return o->length ? o->length : 256; }
static int prefill_length(const options *o) { return o->length ? o->length : 512; }

static int positions(const options *o) {
    int drawn = asked(o, "decode") ? o->context + RLF_BENCH_DRAWN : 1, prompt = asked(o, "prefill") ? prefill_length(o) : 1;
    int trained = asked(o, "train") ? train_length(o) : 1, longest = drawn > prompt ? drawn : prompt;
    return longest > trained ? longest : trained;
}

/* Random weights on the device, in pieces that repeat: to draw billions would take minutes. Norms 1, biases 0. */
static rlf_status fill_model(const rlf_bench *b) {
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < b->layout.n_tensors; i++) {
        const rlf_tensor_info *t = &b->layout.tensors[i];
        bool bias = t->role == RLF_T_Q_BIAS || t->role == RLF_T_K_BIAS || t->role == RLF_T_V_BIAS;
        float high = bias ? 0.0f : t->vector ? 1.0f : 0.035f; /* of a matrix: a standard deviation of 0.02 */
        RLF_TRY(rlf_bench_fill(b->queue, kern_at(kern_model_params(b->model), t->offset), (size_t)t->rows * (size_t)t->cols,
                               t->vector ? high : -high, high, (uint32_t)i));
    }
out:
    return status;
}

static rlf_status open_model(rlf_bench *b, const options *o, json_t *report) {
    rlf_status status = RLF_OK;
    const kern_device_options device = {.name = o->device_name, .threads = b->threads, .isa = o->isa};
    rlf_model_shape shape;
    RLF_TRY(rlf_model_shape_named(&shape, o->shape_name));
    if (positions(o) > shape.max_positions)
        RLF_FAIL(LIMIT, "%d tokens: %s has %d positions", positions(o), o->shape_name, shape.max_positions);
    RLF_TRY(rlf_cli_device_open(&b->device, &device));
    RLF_TRY(kern_queue_new(&b->queue, b->device));
    rlf_model_layout_init(&b->layout, &shape);
    json_object_set_new(report, "shape", json_string(o->shape_name));
    json_object_set_new(report, "dtype", json_string(rlf_dtype_torch_name(b->precision.stored)));
    json_object_set_new(report, "compute_dtype", json_string(rlf_dtype_torch_name(b->precision.factors)));
    json_object_set_new(report, "device", json_string(kern_device_name(b->device)));
    json_object_set_new(report, "clock", json_string(b->cpu_time ? "cpu" : "wall"));
    if (b->print)
        printf("%s, weights %s, factors %s, on %s\n", o->shape_name, rlf_dtype_torch_name(b->precision.stored),
               rlf_dtype_torch_name(b->precision.factors), kern_device_name(b->device));
    RLF_TRY(kern_model_new(&b->model, b->queue, &b->layout, b->precision, positions(o)));
    RLF_TRY(fill_model(b));
out:
    return status;
}

static void close_model(rlf_bench *b) {
    kern_model_destroy(b->model);
    rlf_model_layout_clean_up(&b->layout);
    kern_queue_destroy(b->queue);
    kern_device_close(b->device);
}

/* What it could do by an earlier report. */
static rlf_status read_rates(rlf_bench *b, const char *path, json_t *report) {
    const struct { const char *key; double *rate; } rates[] = {
        {"sgemm_gflops", &b->sgemm_flops}, {"matrix_gflops", &b->matrix_flops}, {"copy_gb_per_s", &b->copy_bytes}};
    rlf_status status = RLF_OK;
    json_t *earlier = NULL;
    RLF_TRY(rlf_json_read_file(path, 1 << 20, 0, &earlier));
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        json_t *rate = json_object_get(earlier, rates[i].key);
        *rates[i].rate = json_number_value(rate) * 1e9;
        if (!(*rates[i].rate > 0)) RLF_FAIL(INVALID, "--rates: %s has no %s: expected what rlf bench sgemm --json printed", path, rates[i].key);
        json_object_set(report, rates[i].key, rate);
    }
out:
    json_decref(earlier);
    return status;
}

static rlf_status measure_device(rlf_bench *b, const options *o, json_t *report) {
    rlf_status status = RLF_OK;
    RLF_TRY(measure_product(b, report, "sgemm", KERN_F32, &b->sgemm_flops));
    b->matrix_flops = b->sgemm_flops;
    if (b->precision.factors == RLF_DTYPE_BF16) RLF_TRY(measure_product(b, report, "matrix", KERN_BF16, &b->matrix_flops));
    else json_object_set_new(report, "matrix_gflops", json_real(b->matrix_flops * 1e-9));
    if (!strcmp(o->what, "sgemm") || !strcmp(o->what, "kernels") || asked(o, "decode")) RLF_TRY(measure_copy(b, report));
out:
    return status;
}

/* What fails, a card that is full for one, ends the measurements; those before it are in the report. */
static rlf_status run(rlf_bench *b, const options *o, json_t *report) {
    rlf_status status = RLF_OK;
    json_t *part;
    if (o->rates) RLF_TRY(read_rates(b, o->rates, report));
    RLF_TRY(open_model(b, o, report));
    if (!o->rates) RLF_TRY(measure_device(b, o, report));
    if (!strcmp(o->what, "kernels")) {
        RLF_TRY(rlf_bench_kernels(b, o->sequences, train_length(o), &part));
        json_object_set_new(report, "kernels", part);
    }
    if (asked(o, "train")) {
        RLF_TRY(rlf_bench_train(b, o->sequences, train_length(o), o->micro_tokens, o->kept, &part));
        json_object_set_new(report, "train", part);
    }
    if (asked(o, "prefill")) {
        RLF_TRY(rlf_bench_prefill(b, prefill_length(o), &part));
        json_object_set_new(report, "prefill", part);
    }
    if (asked(o, "decode")) json_object_set_new(report, "decode", json_array());
    for (int i = 0; asked(o, "decode") && i < o->n_batches; i++) {
        RLF_TRY(rlf_bench_decode(b, o->batches[i], o->context, &part));
        json_array_append_new(json_object_get(report, "decode"), part);
    }
out:
    if (o->json && b->queue) rlf_bench_dump(report);
    return status;
}

static bool parse_int(const char *text, int low, int high, int *out) {
    double number;
    bool good = rlf_cli_number(text, low, high, &number);
    if (good) *out = (int)number;
    return good;
}

static bool parse_batches(const char *text, options *o) {
    char one[16];
    for (o->n_batches = 0; o->n_batches < MOST_BATCHES; text++) {
        size_t n = strcspn(text, ",");
        if (n >= sizeof one) return false;
        memcpy(one, text, n);
        one[n] = 0;
        if (!parse_int(one, 1, MOST_SEQUENCES, &o->batches[o->n_batches++])) return false;
        text += n;
        if (!*text) return true;
    }
    return false;
}

static bool parse(rlf_bench *b, options *o, int argc, char **argv, bool *help) {
    static const struct option known[] = {{"shape", required_argument, NULL, 's'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"isa", required_argument, NULL, 'i'},
                                          {"seconds", required_argument, NULL, 'S'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {"cpu-time", no_argument, NULL, 'c'},
                                          {"dtype", required_argument, NULL, 'd'},
                                          {"recompute", no_argument, NULL, 'r'},
                                          {"keep-attention", no_argument, NULL, 'k'},
                                          {"device", required_argument, NULL, 'D'},
                                          {"compute-dtype", required_argument, NULL, 'C'},
                                          {"sequences", required_argument, NULL, 'q'},
                                          {"length", required_argument, NULL, 'l'},
                                          {"micro-tokens", required_argument, NULL, 'm'},
                                          {"batch", required_argument, NULL, 'b'},
                                          {"context", required_argument, NULL, 'x'},
                                          {"rates", required_argument, NULL, 'R'},
                                          {NULL, 0, NULL, 0}};
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        if (c == 's') o->shape_name = optarg;
        else if (c == 't' && parse_int(optarg, 0, 256, &b->threads)) continue;
        else if (c == 'i') o->isa = optarg;
        else if (c == 'R') o->rates = optarg;
        else if (c == 'd' && rlf_dtype_parse(optarg, &b->precision.stored)) continue;
        else if (c == 'C' && rlf_dtype_parse(optarg, &b->precision.factors)) continue;
        else if (c == 'D' && rlf_cli_device_parse(optarg, &o->device_name)) continue;
        else if (c == 'S' && rlf_cli_number(optarg, 0, 600, &b->seconds)) continue;
        else if (c == 'q' && parse_int(optarg, 1, MOST_SEQUENCES, &o->sequences)) continue;
        else if (c == 'l' && parse_int(optarg, 2, MOST_TOKENS, &o->length)) continue;
        else if (c == 'm' && parse_int(optarg, 0, MOST_TOKENS, &o->micro_tokens)) continue;
        else if (c == 'b' && parse_batches(optarg, o)) continue;
        else if (c == 'x' && parse_int(optarg, 1, MOST_TOKENS, &o->context)) continue;
        else if (c == 'r') o->kept.recompute = true;
        else if (c == 'k') o->kept.keep_attention = true;
        else if (c == 'j') o->json = true;
        else if (c == 'c') b->cpu_time = true;
        else if (c == 'h') *help = true;
        else return false;
    }
    if (b->precision.factors == RLF_DTYPE_OTHER) b->precision.factors = b->precision.stored;
    if (*help) return true;
    if (o->kept.keep_attention && !o->kept.recompute) return false;
    o->what = optind < argc ? argv[optind] : "";
    static const char *const names[] = {"sgemm", "kernels", "train", "decode", "prefill", "all"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(o->what, names[i])) return optind + 1 == argc && (int64_t)o->sequences * train_length(o) <= MOST_TOKENS;
    return false;
}

int rlf_bench_among_ranks(int argc, char **argv, rlf_transport **transport, rlf_bench_step *body, void (*tear_down)(void *ctx),
                          void *ctx) {
    enum { GOODBYE_MS = 10000 };
    if (rlf_transport_new(transport, &argc, &argv) != RLF_OK) return rlf_cli_fail("bench");
    rlf_status status = body(ctx);
    if (status != RLF_OK) rlf_cli_fail("bench");
    if (status != RLF_OK && rlf_transport_size(*transport) > 1) rlf_transport_abort(*transport, EXIT_FAILURE);
    tear_down(ctx);
    if (rlf_transport_destroy(*transport, GOODBYE_MS) != RLF_OK) {
        rlf_cli_fail("bench");
        rlf_transport_abort(*transport, EXIT_FAILURE);
    }
    return status == RLF_OK ? 0 : 1;
}

int rlf_cmd_bench(int argc, char **argv) {
    rlf_bench b = {.precision = {RLF_DTYPE_F32, RLF_DTYPE_OTHER}, .seconds = 4};
    options o = {
        .shape_name = "bench-42m", .device_name = "auto", .sequences = 8, .batches = {1, 16, 32}, .n_batches = 3, .context = 128};
    bool help = false;
    if (argc > 1 && !strcmp(argv[1], "handover")) return rlf_bench_handover(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "reduce")) return rlf_bench_reduce(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "rollout")) return rlf_bench_rollout(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "tokenize")) return rlf_bench_tokenize(argc - 1, argv + 1);
    if (!parse(&b, &o, argc, argv, &help))
        return rlf_cli_misuse("bench",
                              "expected one of sgemm, kernels, train, decode, prefill, all, handover, reduce, rollout, tokenize, then options "
                              "within their ranges");
    if (help) return rlf_cli_help(USAGE);
    if (b.cpu_time && !strcmp(o.device_name, "cuda")) return rlf_cli_misuse("bench", "--cpu-time is for --device cpu");
    if (b.cpu_time || (o.isa && strcmp(o.device_name, "cuda") != 0)) o.device_name = "cpu";
    if (b.cpu_time && !b.threads) return rlf_cli_misuse("bench", "--cpu-time needs --threads");
    b.print = !o.json;
    json_t *report = json_object();
    rlf_status status = run(&b, &o, report);
    json_decref(report);
    close_model(&b);
    return status == RLF_OK ? 0 : rlf_cli_fail("bench");
}
