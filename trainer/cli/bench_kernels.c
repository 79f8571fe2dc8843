/* rlf bench kernels: one line an operation, beside what the device could do.
 *
 * A row of the table below is an operation at one number of rows. `bytes` is what it cannot avoid moving: each input read once, each output
 * written once (read as well where it is added to); `flops` counts two for a multiply-add. The first are compared with the bandwidth of
 * kern_copy on a buffer beyond any cache, the second with a large matrix product.
 *
 * Tensors are cut from one buffer, each as large as any case needs, filled with small numbers; what an operation leaves there is the next
 * one's input. Only times matter here. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "trainer/cli/bench.h"

enum { CONTEXT = 1024, PAGE = 64, MAX_BATCH = 256, HEAD_ROWS = 64 };

typedef struct sizes {
    size_t hidden, inner, width, ffn, vocab; /* inner: heads * D; width: (heads + 2 kv_heads) * D */
} sizes;

typedef struct bench {
    const rlf_bench *on;
    kern_queue *q;
    int seqs, length, rows; /* packed sequences, as in training; rows = seqs * length */
    size_t most;            /* rows of any operation: rows, or CONTEXT */
    sizes n;
    kern_attn_shape attn;
    kern_kv_shape kv_shape;
    kern_buf *buf, *kv_buf;
    kern_dtype acts;           /* what activations are here */
    kern_tensor x, y, z;       /* (most, widest) activations */
    kern_tensor stream, d_stream; /* (most, hidden) float32: the residual stream and its gradient */
    kern_tensor param, rest;   /* as many as are updated, as weights are stored; none beside float32 */
    kern_tensor w;             /* (vocab, hidden) or the largest matrix of a layer, as weights are stored */
    kern_tensor norm, d_norm;  /* (widest of hidden and D): as stored; its gradient, float32 */
    kern_tensor dw, m, v;      /* as many as w, float32 */
    kern_tensor lse, rope;     /* (most, heads); (positions, D) */
    kern_tensor logits, dlogits, stats, logprob; /* (HEAD_ROWS, vocab), the same, (HEAD_ROWS, KERN_HEAD_STATS), (HEAD_ROWS) */
    kern_tensor ids, pos, slots; /* (most) int32 */
    kern_tensor kv;
    size_t matrix;             /* elements of w */
    int32_t *seq_begin; /* (seqs + 1) */
    kern_tensor seq, last, pages; /* paged decoding: (MAX_BATCH), (MAX_BATCH), (MAX_BATCH, CONTEXT / PAGE) */
    kern_tensor one, places;   /* a prompt: (CONTEXT) zeros, its sequence, and positions */
    kern_sample_key keys[HEAD_ROWS];
    json_t *results;
} bench;

typedef struct measured {
    const char *name;
    int rows;
    void (*run)(bench *b, int rows);
    double flops, bytes;
} measured;

/* ---- the operations ---------------------------------------------------------------------------------------------------------------- */

static const kern_filter PLAIN = {1.0f, 1.0f, 0}, NUCLEUS = {0.7f, 0.95f, 0};
static const float EPS = 1e-6f;

static void qkv(bench *b, int m) { kern_linear(b->q, b->y, b->x, b->w, kern_none(), b->attn.factors, m, (int)b->n.width, (int)b->n.hidden, false); }
static void gate_up(bench *b, int m) { kern_linear(b->q, b->y, b->x, b->w, kern_none(), b->attn.factors, m, 2 * (int)b->n.ffn, (int)b->n.hidden, false); }
static void gate_up_swiglu(bench *b, int m) {
    kern_linear_swiglu(b->q, b->y, b->z, b->x, b->w, b->attn.factors, m, (int)b->n.ffn, (int)b->n.hidden);
}
static void down(bench *b, int m) { kern_linear(b->q, b->d_stream, b->x, b->w, kern_none(), b->attn.factors, m, (int)b->n.hidden, (int)b->n.ffn, true); }
static void head(bench *b, int m) { kern_linear(b->q, b->logits, b->x, b->w, kern_none(), b->attn.factors, m, (int)b->n.vocab, (int)b->n.hidden, false); }
static void grad_input(bench *b, int m) {
    kern_linear_grad_input(b->q, b->y, b->x, b->w, b->attn.factors, m, 2 * (int)b->n.ffn, (int)b->n.hidden, false);
}
static void grad_weight(bench *b, int m) { kern_linear_grad_weight(b->q, b->dw, b->y, b->x, b->attn.factors, m, 2 * (int)b->n.ffn, (int)b->n.hidden); }
static void embed(bench *b, int m) { kern_embed(b->q, b->d_stream, b->w, b->ids, kern_none(), m, (int)b->n.hidden); }
static void embed_grad(bench *b, int m) { kern_embed_grad(b->q, b->dw, b->stream, b->ids, m, (int)b->n.hidden); }
static void rmsnorm(bench *b, int m) { kern_rmsnorm(b->q, b->y, b->stream, b->norm, EPS, m, (int)b->n.hidden); }
static void rmsnorm_grad(bench *b, int m) { kern_rmsnorm_grad(b->q, b->d_stream, b->d_norm, b->y, b->stream, b->norm, EPS, m, (int)b->n.hidden); }
static void swiglu(bench *b, int m) { kern_swiglu(b->q, b->y, b->x, m, (int)b->n.ffn); }
static void swiglu_grad(bench *b, int m) { kern_swiglu_grad(b->q, b->z, b->y, b->x, m, (int)b->n.ffn); }
static void qk_rope(bench *b, int m) { kern_qk_rope(b->q, b->y, b->x, b->norm, b->norm, EPS, b->rope, b->pos, m, b->attn, NULL); }
static void qk_rope_kept(bench *b, int m) {
    const kern_kv_rows kept = {b->kv, b->kv_shape, 0, b->slots};
    kern_qk_rope(b->q, b->y, b->x, b->norm, b->norm, EPS, b->rope, b->pos, m, b->attn, &kept);
}
static void qk_rope_grad(bench *b, int m) {
    kern_qk_rope_grad(b->q, b->z, b->d_norm, b->d_norm, b->y, b->x, b->norm, b->norm, EPS, b->rope, b->pos, m, b->attn);
}
static void attention(bench *b, int m) {
    (void)m;
    kern_attention(b->q, b->y, b->lse, b->x, b->seq_begin, b->seqs, b->attn);
}
static void attention_grad(bench *b, int m) {
    (void)m;
    kern_attention_grad(b->q, b->z, b->y, b->y, b->lse, b->x, b->seq_begin, b->seqs, b->attn);
}
static void attention_paged(bench *b, int m) {
    kern_attention_paged(b->q, b->y, b->x, b->kv, b->kv_shape, 0, b->seq, b->last, m, b->pages, CONTEXT / PAGE,
                         (kern_rows_hint){.end = CONTEXT, .decoding = true}, b->attn);
}
static void prefill(bench *b, int m) {
    kern_attention_paged(b->q, b->y, b->x, b->kv, b->kv_shape, 0, b->one, b->places, m, b->pages, CONTEXT / PAGE,
                         (kern_rows_hint){.end = CONTEXT, .long_end = m}, b->attn);
}
static void logprob(bench *b, int m) {
    kern_logprob(b->q, b->logprob, b->lse, b->stats, b->logits, b->ids, PLAIN, m, (int)b->n.vocab);
}
static void logprob_grad(bench *b, int m) {
    kern_logprob_grad(b->q, b->dlogits, b->logits, b->stats, b->ids, b->logprob, kern_none(), PLAIN, m, (int)b->n.vocab);
}
static void sample_top_p(bench *b, int m) { kern_sample(b->q, b->ids, b->logprob, b->logits, NUCLEUS, 1, b->keys, m, (int)b->n.vocab); }
static void sample_plain(bench *b, int m) { kern_sample(b->q, b->ids, b->logprob, b->logits, PLAIN, 1, b->keys, m, (int)b->n.vocab); }
/* Parameters that AdamW updates here: as many as there is room for. */
static size_t updated(const bench *b) {
    size_t room = (size_t)b->rows * b->n.width;
    return b->matrix < room ? b->matrix : room;
}
static void adamw(bench *b, int m) {
    (void)m;
    const kern_adamw_args args = {.lr = 1e-6f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.01f, .step = 1, .grad_scale = 1};
    kern_adamw(b->q, b->param, b->rest, b->dw, b->m, b->v, updated(b), args);
}
static void sumsq(bench *b, int m) {
    (void)m;
    (void)kern_sumsq(b->q, b->dw, b->matrix);
}
static void checksum(bench *b, int m) {
    (void)m;
    (void)kern_checksum(b->q, b->w, b->matrix);
}

/* ---- measuring --------------------------------------------------------------------------------------------------------------------- */

typedef struct call {
    bench *b;
    const measured *what;
} call;

static void run_call(void *ctx) {
    const call *c = ctx;
    c->what->run(c->b, c->what->rows);
}

static rlf_status measure(bench *b, const measured *what) {
    double seconds, of_copy, of_matrix;
    call c = {b, what};
    rlf_status status = rlf_bench_queued(b->on, b->on->seconds / 8, run_call, &c, &seconds);
    if (status != RLF_OK) return status;
    of_copy = what->bytes / seconds / b->on->copy_bytes;
    of_matrix = what->flops / seconds / b->on->matrix_flops;
    if (b->on->print)
        printf("%-18s %6d %11.1f us %8.1f GB/s %6.1f %% of copy %9.1f GFLOP/s %6.1f %% of matrix\n", what->name, what->rows, seconds * 1e6,
               what->bytes / seconds * 1e-9, of_copy * 100, what->flops / seconds * 1e-9, of_matrix * 100);
    json_array_append_new(b->results, json_pack("{s:s, s:i, s:f, s:f, s:f, s:f, s:f}", "op", what->name, "rows", what->rows, "seconds",
                                                seconds, "bytes", what->bytes, "flops", what->flops, "share_of_copy", of_copy,
                                                "share_of_matrix", of_matrix));
    return RLF_OK;
}

/* Bytes of an activation. */
static double act_bytes(const bench *b) { return (double)kern_dtype_size(b->acts); }

/* Of y (m, n) = x (m, k) · w, with so many bytes for each element of y. */
static measured product(const bench *b, const char *name, void (*run)(bench *, int), int rows, size_t n, size_t k, double out_bytes) {
    double m = rows, stored = (double)rlf_dtype_size(b->on->precision.stored);
    return (measured){name, rows, run, 2 * m * (double)n * (double)k,
                      m * (act_bytes(b) * (double)k + out_bytes * (double)n) + stored * (double)n * (double)k};
}

static rlf_status measure_products(bench *b) {
    const int rows[] = {1, 16, 64, 256, b->rows};
    const sizes *n = &b->n;
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const measured forward[] = {product(b, "qkv", qkv, rows[i], n->width, n->hidden, act_bytes(b)),
                                    product(b, "gate_up", gate_up, rows[i], 2 * n->ffn, n->hidden, act_bytes(b)),
                                    product(b, "down", down, rows[i], n->hidden, n->ffn, 8),
                                    product(b, "gate_up, swiglu", gate_up_swiglu, rows[i], 2 * n->ffn, n->hidden, act_bytes(b) / 2),
                                    product(b, "head", head, rows[i], n->vocab, n->hidden, 4)};
        for (int k = 0; k < (rows[i] > HEAD_ROWS ? 3 : 5); k++) RLF_TRY(measure(b, &forward[k]));
    }
    const measured input = product(b, "gate_up grad x", grad_input, b->rows, n->hidden, 2 * n->ffn, act_bytes(b));
    measured weight = product(b, "gate_up grad w", grad_weight, b->rows, n->hidden, 2 * n->ffn, act_bytes(b));
    weight.bytes = act_bytes(b) * (double)((size_t)b->rows * (2 * n->ffn + n->hidden)) + 8.0 * (double)(2 * n->ffn * n->hidden);
    RLF_TRY(measure(b, &input));
    RLF_TRY(measure(b, &weight));
out:
    return status;
}

static rlf_status measure_forward_rows(bench *b, int rows) {
    const sizes *n = &b->n;
    const double m = rows, h = (double)n->hidden, f = (double)n->ffn, w = (double)n->width, a = act_bytes(b);
    rlf_status status = RLF_OK;
    const measured ops[] = {{"embed", rows, embed, 0, 8 * m * h},
                            {"rmsnorm", rows, rmsnorm, 4 * m * h, (4 + a) * m * h},
                            {"swiglu", rows, swiglu, 5 * m * f, 3 * a * m * f},
                            {"qk_rope", rows, qk_rope, 10 * m * w, 2 * a * m * w}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) RLF_TRY(measure(b, &ops[i]));
out:
    return status;
}

static rlf_status measure_rows(bench *b) {
    const sizes *n = &b->n;
    const double m = b->rows, h = (double)n->hidden, f = (double)n->ffn, w = (double)n->width, a = act_bytes(b);
    rlf_status status = RLF_OK;
    const measured ops[] = {{"embed grad", b->rows, embed_grad, m * h, 12 * m * h},
                            {"rmsnorm grad", b->rows, rmsnorm_grad, 10 * m * h, (12 + a) * m * h},
                            {"swiglu grad", b->rows, swiglu_grad, 12 * m * f, 5 * a * m * f},
                            {"qk_rope grad", b->rows, qk_rope_grad, 20 * m * w, 3 * a * m * w}};
    RLF_TRY(measure_forward_rows(b, HEAD_ROWS)); /* as in decoding */
    RLF_TRY(measure_forward_rows(b, b->rows));
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) RLF_TRY(measure(b, &ops[i]));
out:
    return status;
}

/* Packed sequences, and decoding with CONTEXT keys. */
static rlf_status measure_attention(bench *b) {
    static const int batches[] = {1, 16, 64, MAX_BATCH};
    const double m = b->rows, inner = (double)b->n.inner, w = (double)b->n.width, length = b->length;
    const double pairs = b->seqs * length * (length + 1) / 2, keys = w - inner, a = act_bytes(b);
    rlf_status status = RLF_OK;
    const measured packed[] = {{"attention", b->rows, attention, 4 * inner * pairs, a * m * (w + inner)},
                               {"attention grad", b->rows, attention_grad, 10 * inner * pairs, a * m * (2 * w + 2 * inner)},
                               {"qk_rope, kept", MAX_BATCH, qk_rope_kept, 10 * MAX_BATCH * w, a * MAX_BATCH * (2 * w + keys)}};
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++) RLF_TRY(measure(b, &packed[i]));
    const double token = (double)kern_kv_bytes(kern_queue_device(b->q), b->kv_shape) / ((double)b->kv_shape.pages * PAGE);
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        const measured paged = {"attention_paged", batches[i], attention_paged, 4.0 * batches[i] * CONTEXT * inner,
                                batches[i] * (CONTEXT * token + a * (w + inner))};
        RLF_TRY(measure(b, &paged));
    }
    const measured prompt = {"attention_prefill", CONTEXT, prefill, 2 * inner * CONTEXT * (CONTEXT + 1.0),
                             CONTEXT * (token + a * (w + inner))};
    RLF_TRY(measure(b, &prompt));
out:
    return status;
}

static rlf_status measure_head_and_optimizer(bench *b) {
    const double rows = HEAD_ROWS, logits = rows * (double)b->n.vocab, matrix = (double)b->matrix,
                 updates = (double)updated(b);
    rlf_status status = RLF_OK;
    /* as a model's: few tokens have most of the probability */
    RLF_TRY(rlf_bench_fill(b->q, b->logits, HEAD_ROWS * b->n.vocab, -8.0f, 8.0f, 7));
    const measured ops[] = {{"sample top-p", HEAD_ROWS, sample_top_p, 20 * logits, 4 * logits},
                            {"sample", 1, sample_plain, 20 * logits / HEAD_ROWS, 4 * logits / HEAD_ROWS},
                            {"sample", HEAD_ROWS, sample_plain, 20 * logits, 4 * logits},
                            {"logprob", HEAD_ROWS, logprob, 20 * logits, 4 * logits},
                            {"logprob grad", HEAD_ROWS, logprob_grad, 20 * logits, (4 + act_bytes(b)) * logits},
                            {"adamw", 0, adamw, 16 * updates, 28 * updates},
                            {"sumsq", 0, sumsq, 2 * matrix, 4 * matrix},
                            {"checksum", 0, checksum, 0, (double)rlf_dtype_size(b->on->precision.stored) * matrix}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) RLF_TRY(measure(b, &ops[i]));
out:
    return status;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------------------------- */

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Called twice: with no buffer it counts, then it cuts. Returns the bytes. */
static size_t lay_out(bench *b) {
    size_t at = 0;
    kern_dtype stored = kern_dtype_of(b->on->precision.stored);
    size_t wide = b->most * larger(2 * b->n.ffn, larger(b->n.width, b->n.hidden)), d = (size_t)b->attn.head_dim;
    b->matrix = larger(b->n.vocab * b->n.hidden, 2 * b->n.ffn * b->n.hidden);
    struct { kern_tensor *t; kern_dtype dtype; size_t n; } list[] = {
        {&b->x, b->acts, wide}, {&b->y, b->acts, wide}, {&b->z, b->acts, wide}, {&b->stream, KERN_F32, b->most * b->n.hidden},
        {&b->d_stream, KERN_F32, b->most * b->n.hidden}, {&b->param, stored, updated(b)},
        {&b->rest, KERN_I16, stored == KERN_F32 ? 0 : updated(b)}, {&b->w, stored, b->matrix},
        {&b->norm, stored, larger(b->n.hidden, d)}, {&b->d_norm, KERN_F32, larger(b->n.hidden, d)}, {&b->dw, KERN_F32, b->matrix},
        {&b->m, KERN_F32, b->matrix}, {&b->v, KERN_F32, b->matrix}, {&b->lse, KERN_F32, b->most * (size_t)b->attn.heads},
        {&b->rope, KERN_F32, larger(CONTEXT, (size_t)b->length) * d}, {&b->logits, KERN_F32, HEAD_ROWS * b->n.vocab},
        {&b->dlogits, b->acts, HEAD_ROWS * b->n.vocab},
        {&b->stats, KERN_F32, HEAD_ROWS * KERN_HEAD_STATS}, {&b->logprob, KERN_F32, HEAD_ROWS}, {&b->ids, KERN_I32, b->most},
        {&b->pos, KERN_I32, b->most}, {&b->slots, KERN_I32, b->most},
        {&b->seq, KERN_I32, MAX_BATCH}, {&b->last, KERN_I32, MAX_BATCH}, {&b->pages, KERN_I32, MAX_BATCH * (CONTEXT / PAGE)},
        {&b->one, KERN_I32, CONTEXT}, {&b->places, KERN_I32, CONTEXT}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        *list[i].t = kern_at(kern_view(b->buf, list[i].dtype), at / kern_dtype_size(list[i].dtype));
        at += (list[i].n * kern_dtype_size(list[i].dtype) + 63) / 64 * 64;
    }
    if (stored == KERN_F32) b->rest = kern_none();
    return at;
}

static rlf_status fill(bench *b) {
    rlf_status status = RLF_OK;
    int32_t *rows = rlf_calloc(b->most, sizeof *rows);
    RLF_TRY(rlf_bench_fill(b->q, b->x, b->most * b->n.hidden, -0.05f, 0.05f, 1));
    RLF_TRY(rlf_bench_fill(b->q, b->y, b->most * b->n.hidden, -0.05f, 0.05f, 2));
    RLF_TRY(rlf_bench_fill(b->q, b->stream, b->most * b->n.hidden, -0.05f, 0.05f, 8));
    RLF_TRY(rlf_bench_fill(b->q, b->w, b->matrix, -0.05f, 0.05f, 3));
    RLF_TRY(rlf_bench_fill(b->q, b->norm, b->n.hidden, -0.05f, 0.05f, 4));
    RLF_TRY(rlf_bench_fill(b->q, b->rope, larger(CONTEXT, (size_t)b->length) * (size_t)b->attn.head_dim, -1.0f, 1.0f, 5));
    for (size_t i = 0; i < b->most; i++) rows[i] = (int32_t)rlf_rng_below(1, RLF_RNG_TEST, 0, 6, (uint32_t)i, b->n.vocab);
    kern_upload(b->q, b->ids, rows, b->most);
    for (size_t i = 0; i < b->most; i++) rows[i] = (int32_t)(i % (size_t)b->length);
    kern_upload(b->q, b->pos, rows, b->most);
    for (int i = 0; i < MAX_BATCH; i++) rows[i] = i * CONTEXT + CONTEXT - 1;
    kern_upload(b->q, b->slots, rows, MAX_BATCH);
    for (int i = 0; i <= b->seqs; i++) b->seq_begin[i] = i * b->length;
    for (int i = 0; i < MAX_BATCH; i++) rows[i] = i;
    kern_upload(b->q, b->seq, rows, MAX_BATCH);
    for (int i = 0; i < MAX_BATCH; i++) rows[i] = CONTEXT - 1;
    kern_upload(b->q, b->last, rows, MAX_BATCH);
    for (int i = 0; i < CONTEXT; i++) rows[i] = i;
    kern_upload(b->q, b->places, rows, CONTEXT);
    for (int i = 0; i < MAX_BATCH; i++) {
        for (int p = 0; p < CONTEXT / PAGE; p++) rows[p] = i * (CONTEXT / PAGE) + p;
        kern_upload(b->q, kern_at(b->pages, (size_t)i * (CONTEXT / PAGE)), rows, CONTEXT / PAGE);
    }
    for (uint32_t i = 0; i < HEAD_ROWS; i++) b->keys[i] = (kern_sample_key){.uid = i, .position = i};
    RLF_TRY(kern_sync(b->q));
out:
    free(rows);
    return status;
}

static rlf_status set_up(bench *b) {
    rlf_status status = RLF_OK;
    const rlf_model_shape *s = &b->on->layout.shape;
    kern_device *device = kern_queue_device(b->q);
    b->attn = (kern_attn_shape){.heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->head_dim,
                                .factors = kern_dtype_of(b->on->precision.factors)};
    b->acts = kern_activations(device, b->attn.factors);
    b->n = (sizes){(size_t)s->hidden, (size_t)(s->heads * s->head_dim), (size_t)kern_qkv_width(b->attn), (size_t)s->ffn, (size_t)s->vocab};
    b->kv_shape = (kern_kv_shape){.layers = 1, .kv_heads = s->kv_heads, .head_dim = s->head_dim, .page_size = PAGE,
                                  .pages = MAX_BATCH * (CONTEXT / PAGE), .factors = b->attn.factors};
    b->seq_begin = rlf_calloc((size_t)b->seqs + 1, sizeof *b->seq_begin);
    RLF_TRY(kern_buf_new(&b->kv_buf, device, kern_kv_bytes(device, b->kv_shape)));
    b->kv = kern_view(b->kv_buf, KERN_U8);
    RLF_TRY(kern_buf_new(&b->buf, device, lay_out(b)));
    lay_out(b);
    RLF_TRY(fill(b));
out:
    return status;
}

static void tear_down(bench *b) {
    kern_buf_destroy(b->buf);
    kern_buf_destroy(b->kv_buf);
    free(b->seq_begin);
}

rlf_status rlf_bench_kernels(const rlf_bench *on, int sequences, int length, json_t **out) {
    rlf_status status = RLF_OK;
    bench b = {.on = on, .q = on->queue, .seqs = sequences, .length = length, .rows = sequences * length,
               .most = larger((size_t)sequences * (size_t)length, CONTEXT), .results = json_array()};
    *out = NULL;
    RLF_TRY(set_up(&b));
    RLF_TRY(measure_products(&b));
    RLF_TRY(measure_rows(&b));
    RLF_TRY(measure_attention(&b));
    RLF_TRY(measure_head_and_optimizer(&b));
    *out = json_incref(b.results);
out:
    tear_down(&b);
    json_decref(b.results);
    return status;
}
