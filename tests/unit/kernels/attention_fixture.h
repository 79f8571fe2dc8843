/* What the tests of attention share: packed problems, a naive reference in double, and what the operations give, packed and paged. */
#ifndef RLF_TESTS_UNIT_KERNELS_ATTENTION_FIXTURE_H
#define RLF_TESTS_UNIT_KERNELS_ATTENTION_FIXTURE_H

#include "tests/unit/kernels/ops_fixture.h"

/* A packed problem. qkv (rows, width). */
typedef struct problem {
    kern_attn_shape shape;
    int seqs, rows;
    int32_t begin[16];
    float *qkv, *dout;
    kern_dtype acts; /* of qkv, out and their gradients */
} problem;

static inline size_t qkv_size(const problem *p) { return (size_t)p->rows * (size_t)kern_qkv_width(p->shape); }
static inline size_t out_size(const problem *p) { return (size_t)p->rows * (size_t)(p->shape.heads * p->shape.head_dim); }
static inline size_t lse_size(const problem *p) { return (size_t)p->rows * (size_t)p->shape.heads; }

static inline problem problem_new(kern_attn_shape shape, const int *lengths, int seqs) {
    problem p = {.shape = shape, .seqs = seqs};
    for (int s = 0; s < seqs; s++) p.begin[s + 1] = p.begin[s] + lengths[s];
    p.rows = p.begin[seqs];
    p.qkv = random_floats(1, qkv_size(&p), 2.0f);
    p.dout = random_floats(2, out_size(&p), 1.0f);
    return p;
}

static inline void problem_free(problem *p) {
    free(p->qkv);
    free(p->dout);
}

/* ---- reference --------------------------------------------------------------------------------------------------------------------- */

/* One query of the reference: probabilities of keys 0..pos; returns the log of the sum of exp. */
static inline double reference_softmax(const problem *p, const double *qkv, int row0, int pos, int head, double *prob) {
    const kern_attn_shape s = p->shape;
    const int width = kern_qkv_width(s), d = s.head_dim, kv = head / (s.heads / s.kv_heads);
    double top = -INFINITY, sum = 0;
    for (int j = 0; j <= pos; j++) {
        const double *q = qkv + (size_t)(row0 + pos) * width + head * d, *k = qkv + (size_t)(row0 + j) * width + (s.heads + kv) * d;
        prob[j] = 0;
        for (int i = 0; i < d; i++) prob[j] += q[i] * k[i];
        prob[j] /= sqrt(d);
        top = fmax(top, prob[j]);
    }
    for (int j = 0; j <= pos; j++) sum += prob[j] = exp(prob[j] - top);
    for (int j = 0; j <= pos; j++) prob[j] /= sum;
    return top + log(sum);
}

static inline void reference_forward(const problem *p, const double *qkv, double *out, double *lse) {
    const kern_attn_shape s = p->shape;
    const int width = kern_qkv_width(s), d = s.head_dim;
    double *prob = rlf_calloc((size_t)p->rows, sizeof *prob);
    for (int q = 0; q < p->seqs; q++)
        for (int pos = 0; pos < p->begin[q + 1] - p->begin[q]; pos++)
            for (int h = 0; h < s.heads; h++) {
                const int row0 = p->begin[q], kv = h / (s.heads / s.kv_heads);
                double *o = out + ((size_t)(row0 + pos) * s.heads + h) * d;
                lse[(size_t)(row0 + pos) * s.heads + h] = reference_softmax(p, qkv, row0, pos, h, prob);
                memset(o, 0, (size_t)d * sizeof *o);
                for (int j = 0; j <= pos; j++)
                    for (int i = 0; i < d; i++) o[i] += prob[j] * qkv[(size_t)(row0 + j) * width + (s.heads + s.kv_heads + kv) * d + i];
            }
    free(prob);
}

static inline double *widened(const float *x, size_t n) {
    double *y = rlf_calloc(n, sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}

/* sum of out * dout. */
static inline double reference_loss(const void *arg, const double *qkv) {
    const problem *p = arg;
    double *out = rlf_calloc(out_size(p), sizeof *out), *lse = rlf_calloc(lse_size(p), sizeof *lse), loss = 0;
    reference_forward(p, qkv, out, lse);
    for (size_t i = 0; i < out_size(p); i++) loss += out[i] * p->dout[i];
    free(out);
    free(lse);
    return loss;
}

/* ---- what the kernels give --------------------------------------------------------------------------------------------------------- */

typedef struct result {
    float *out, *lse, *dqkv;
} result;

static inline result result_new(const problem *p) {
    return (result){zero_floats(out_size(p)), zero_floats(lse_size(p)), zero_floats(qkv_size(p))};
}
static inline void result_free(result *r) {
    free(r->out);
    free(r->lse);
    free(r->dqkv);
}

/* `gradient` false: out and lse only. */
static inline result run_operations(fixture *fx, const problem *p, bool gradient) {
    result r = result_new(p);
    const int mark = fx->n;
    kern_tensor qkv = fx_as(fx, p->acts, p->qkv, qkv_size(p)), dout = fx_as(fx, p->acts, p->dout, out_size(p));
    kern_tensor out = fx_as(fx, p->acts, p->dout, out_size(p)), dqkv = fx_as(fx, p->acts, p->qkv, qkv_size(p));
    kern_tensor lse = fx_f32(fx, r.lse, lse_size(p));
    kern_attention(fx->queue, out, lse, qkv, p->begin, p->seqs, p->shape);
    if (gradient) kern_attention_grad(fx->queue, dqkv, dout, out, lse, qkv, p->begin, p->seqs, p->shape);
    fx_get_wide(fx, r.out, out, out_size(p));
    fx_get(fx, r.lse, lse, lse_size(p));
    if (gradient) fx_get_wide(fx, r.dqkv, dqkv, qkv_size(p));
    fx_release(fx, mark);
    return r;
}

static inline result run_packed(fixture *fx, const problem *p) { return run_operations(fx, p, true); }
static inline result run_forward(fixture *fx, const problem *p) { return run_operations(fx, p, false); }

static inline void same_results(const problem *p, const result *got, const result *expected) {
    same_bits("out", got->out, expected->out, out_size(p));
    same_bits("lse", got->lse, expected->lse, lse_size(p));
    same_bits("dqkv", got->dqkv, expected->dqkv, qkv_size(p));
}

/* ---- paged ------------------------------------------------------------------------------------------------------------------------- */

enum { LAYERS = 2, LAYER = 1 };

/* A cache that starts as NaN everywhere, with the pages of the problem's sequences scattered over it. */
typedef struct cache {
    kern_kv_shape shape;
    kern_tensor kv;
    int max_pages;
    int32_t *table; /* (seqs, max_pages) */
} cache;

static inline cache cache_new(fixture *fx, const problem *p, int page_size) {
    cache c = {.shape = {LAYERS, p->shape.kv_heads, p->shape.head_dim, page_size, 0, p->shape.factors}};
    for (int s = 0; s < p->seqs; s++) {
        int pages = (p->begin[s + 1] - p->begin[s] + page_size - 1) / page_size;
        c.max_pages = pages > c.max_pages ? pages : c.max_pages;
    }
    c.shape.pages = c.max_pages * p->seqs + 3;
    if (c.shape.pages % 7 == 0) c.shape.pages++; /* so that steps of 7 meet every page once */
    c.table = rlf_calloc((size_t)(c.max_pages * p->seqs), sizeof *c.table);
    for (int i = 0; i < c.max_pages * p->seqs; i++) c.table[i] = (i * 7 + 3) % c.shape.pages;
    const size_t n = kern_kv_bytes(fx->device, c.shape);
    unsigned char *garbage = rlf_calloc(n, 1);
    memset(garbage, 0xff, n); /* no numbers, as float32 and as bfloat16 */
    c.kv = fx_zeros(fx, KERN_U8, n);
    kern_upload(fx->queue, c.kv, garbage, n);
    free(garbage);
    return c;
}

/* Writes k and v of m rows, turned by no angle. */
static inline void keep_rows(fixture *fx, const problem *p, const cache *c, kern_tensor qkv, const int32_t *slots, int m) {
    const int d = p->shape.head_dim;
    const kern_kv_rows kept = {c->kv, c->shape, LAYER, fx_i32(fx, slots, (size_t)m)};
    float *turn = zero_floats((size_t)d);
    for (int i = 0; i < d / 2; i++) turn[i] = 1;
    kern_tensor rope = fx_f32(fx, turn, (size_t)d), pos = fx_zeros(fx, KERN_I32, (size_t)m);
    kern_qk_rope(fx->queue, qkv, qkv, kern_none(), kern_none(), 0, rope, pos, m, p->shape, &kept);
    free(turn);
}

/* The first stretch of rows of long runs. */
static inline void say_long(kern_rows_hint *hint, const int32_t *seq, int m) {
    for (int begin = 0, end; begin < m; begin = end) {
        for (end = begin + 1; end < m && seq[end] == seq[begin];) end++;
        if (end - begin > KERN_LONG_RUN && hint->long_end == hint->long_begin) hint->long_begin = begin;
        if (end - begin > KERN_LONG_RUN) hint->long_end = end;
        else if (hint->long_end > hint->long_begin) return;
    }
}

/* Rows order[0..m) of the problem: writes their keys, attends, and puts their outputs in place. The hint shows in no bit, where the
 * backend looks at it. */
static inline void paged_step(fixture *fx, const problem *p, const cache *c, const int *order, int m, float *out) {
    const size_t width = (size_t)kern_qkv_width(p->shape), o = (size_t)(p->shape.heads * p->shape.head_dim);
    int32_t *seq = rlf_calloc((size_t)m, sizeof *seq), *pos = rlf_calloc((size_t)m, sizeof *pos),
        *slots = rlf_calloc((size_t)m, sizeof *slots);
    float *rows = zero_floats((size_t)m * width), *got = zero_floats((size_t)m * o), *again = zero_floats((size_t)m * o);
    kern_rows_hint hint = {.decoding = true}, other;
    for (int i = 0; i < m; i++) {
        while (order[i] >= p->begin[seq[i] + 1]) seq[i]++;
        pos[i] = order[i] - p->begin[seq[i]];
        slots[i] = c->table[seq[i] * c->max_pages + pos[i] / c->shape.page_size] * c->shape.page_size + pos[i] % c->shape.page_size;
        if (pos[i] >= hint.end) hint.end = hint.lone_end = pos[i] + 1;
        if (i && seq[i] == seq[i - 1]) hint.decoding = false;
        memcpy(rows + (size_t)i * width, p->qkv + (size_t)order[i] * width, width * sizeof(float));
    }
    const int mark = fx->n;
    kern_tensor qkv = fx_as(fx, p->acts, rows, (size_t)m * width), dst = fx_zeros(fx, p->acts, (size_t)m * o);
    keep_rows(fx, p, c, qkv, slots, m);
    other = (kern_rows_hint){.end = 2 * hint.end + 1024, .decoding = !hint.decoding};
    say_long(&other, seq, m);
    for (int i = 0; i < m; i++)
        if ((i < other.long_begin || i >= other.long_end) && pos[i] >= other.lone_end) other.lone_end = pos[i] + 1;
    kern_tensor seqs = fx_i32(fx, seq, (size_t)m), at = fx_i32(fx, pos, (size_t)m);
    kern_tensor table = fx_i32(fx, c->table, (size_t)(c->max_pages * p->seqs));
    kern_attention_paged(fx->queue, dst, qkv, c->kv, c->shape, LAYER, seqs, at, m, table, c->max_pages, hint, p->shape);
    fx_get_wide(fx, got, dst, (size_t)m * o);
    if (p->shape.factors == KERN_BF16) {
        kern_zero(fx->queue, dst, (size_t)m * o);
        kern_attention_paged(fx->queue, dst, qkv, c->kv, c->shape, LAYER, seqs, at, m, table, c->max_pages, other, p->shape);
        fx_get_wide(fx, again, dst, (size_t)m * o);
        same_bits("out, another hint", again, got, (size_t)m * o);
    }
    fx_release(fx, mark);
    for (int i = 0; i < m; i++) memcpy(out + (size_t)order[i] * o, got + (size_t)i * o, o * sizeof(float));
    free(seq);
    free(pos);
    free(slots);
    free(rows);
    free(got);
    free(again);
}

/* Up to `chunk` tokens of each sequence a step (the last sequence first), until all are through. */
static inline void run_paged(fixture *fx, const problem *p, int page_size, int chunk, float *out) {
    const int mark = fx->n;
    cache c = cache_new(fx, p, page_size);
    int *order = rlf_calloc((size_t)(p->rows), sizeof *order), done[16] = {0}, m;
    do {
        m = 0;
        for (int s = p->seqs - 1; s >= 0; s--)
            for (int i = 0; i < chunk && p->begin[s] + done[s] < p->begin[s + 1]; i++) order[m++] = p->begin[s] + done[s]++;
        if (m) paged_step(fx, p, &c, order, m, out);
    } while (m);
    free(order);
    free(c.table);
    fx_release(fx, mark);
}

/* ---- cases of both tests ----------------------------------------------------------------------------------------------------------- */

static inline void check_alone(fixture *fx, kern_attn_shape shape, const int *lengths, int seqs) {
    const size_t width = (size_t)kern_qkv_width(shape), heads = (size_t)shape.heads, o = heads * (size_t)shape.head_dim;
    problem p = problem_new(shape, lengths, seqs);
    result all = run_packed(fx, &p);
    for (int s = 0; s < seqs; s++) {
        const size_t row = (size_t)p.begin[s];
        problem alone = {.shape = shape, .seqs = 1, .rows = lengths[s], .begin = {0, lengths[s]}, .qkv = p.qkv + row * width, .dout = p.dout + row * o};
        result r = run_packed(fx, &alone);
        same_results(&alone, &r, &(result){all.out + row * o, all.lse + row * heads, all.dqkv + row * width});
        result_free(&r);
    }
    result_free(&all);
    problem_free(&p);
}

/* All rows in one step, in an order far from theirs: the bits of packed rows. */
static inline void check_any_order(kern_attn_shape shape, const int *lengths, int seqs) {
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    problem p = problem_new(shape, lengths, seqs);
    result packed = run_forward(&fx, &p);
    float *out = zero_floats(out_size(&p));
    int *order = malloc((size_t)p.rows * sizeof *order);
    for (int i = 0; i < p.rows; i++) order[i] = (i * 10 + 7) % p.rows; /* 10 and the number of rows have no divisor in common */
    cache c = cache_new(&fx, &p, 16);
    paged_step(&fx, &p, &c, order, p.rows, out);
    same_bits("paged", out, packed.out, out_size(&p));
    free(c.table);
    free(order);
    free(out);
    result_free(&packed);
    problem_free(&p);
    fx_close(&fx);
}

/* Of one sequence: the last row reads the second page where it was copied to. */
static inline void check_copied_page(kern_attn_shape shape) {
    enum { ROWS = 21 };
    const size_t o = (size_t)(shape.heads * shape.head_dim);
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    problem p = problem_new(shape, (const int[]){ROWS}, 1);
    result packed = run_forward(&fx, &p);
    float *out = zero_floats(out_size(&p));
    int order[ROWS];
    for (int i = 0; i < ROWS; i++) order[i] = i;
    cache c = cache_new(&fx, &p, 16);
    paged_step(&fx, &p, &c, order, ROWS - 1, out);
    const int copy = c.table[1] == 0 ? 1 : 0;
    assert_int_not_equal(copy, c.table[0]);
    kern_kv_copy_page(fx.queue, c.kv, c.shape, copy, c.table[1]);
    c.table[1] = copy;
    paged_step(&fx, &p, &c, order + ROWS - 1, 1, out);
    same_bits("row after the copy", out + (ROWS - 1) * o, packed.out + (ROWS - 1) * o, o);
    free(c.table);
    free(out);
    result_free(&packed);
    problem_free(&p);
    fx_close(&fx);
}

#endif
