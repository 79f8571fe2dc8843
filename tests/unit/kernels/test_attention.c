/* Attention, packed and paged, and its gradient: against a naive reference in double, and against itself bit for bit. */
#include "tests/unit/kernels/ops_fixture.h"

/* A packed problem. qkv (rows, width). */
typedef struct problem {
    kern_attn_shape shape;
    int seqs, rows;
    int32_t begin[16];
    float *qkv, *dout;
} problem;

static const kern_attn_shape SHAPES[] = {{4, 2, 32}, {2, 2, 16}, {3, 1, 64}, {6, 2, 18}, {2, 1, 128}, {1, 1, 8}, {4, 4, 40}, {30, 1, 16}};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static size_t qkv_size(const problem *p) { return (size_t)p->rows * (size_t)kern_qkv_width(p->shape); }
static size_t out_size(const problem *p) { return (size_t)p->rows * (size_t)(p->shape.heads * p->shape.head_dim); }
static size_t lse_size(const problem *p) { return (size_t)p->rows * (size_t)p->shape.heads; }

static problem problem_new(kern_attn_shape shape, const int *lengths, int seqs) {
    problem p = {.shape = shape, .seqs = seqs};
    for (int s = 0; s < seqs; s++) p.begin[s + 1] = p.begin[s] + lengths[s];
    p.rows = p.begin[seqs];
    p.qkv = random_floats(1, qkv_size(&p), 2.0f);
    p.dout = random_floats(2, out_size(&p), 1.0f);
    return p;
}

static void problem_free(problem *p) {
    free(p->qkv);
    free(p->dout);
}

/* ---- reference --------------------------------------------------------------------------------------------------------------------- */

/* One query of the reference: probabilities of keys 0..pos; returns the log of the sum of exp. */
static double reference_softmax(const problem *p, const double *qkv, int row0, int pos, int head, double *prob) {
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

static void reference_forward(const problem *p, const double *qkv, double *out, double *lse) {
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

static double *widened(const float *x, size_t n) {
    double *y = rlf_calloc(n, sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = x[i];
    return y;
}

/* sum of out * dout. */
static double reference_loss(const void *arg, const double *qkv) {
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

static result result_new(const problem *p) {
    return (result){zero_floats(out_size(p)), zero_floats(lse_size(p)), zero_floats(qkv_size(p))};
}
static void result_free(result *r) {
    free(r->out);
    free(r->lse);
    free(r->dqkv);
}

static result run_packed(fixture *fx, const problem *p) {
    result r = result_new(p);
    const int mark = fx->n;
    kern_tensor qkv = fx_f32(fx, p->qkv, qkv_size(p)), dout = fx_f32(fx, p->dout, out_size(p));
    kern_tensor out = fx_f32(fx, p->dout, out_size(p)), lse = fx_f32(fx, r.lse, lse_size(p)), dqkv = fx_f32(fx, p->qkv, qkv_size(p));
    kern_attention(fx->queue, out, lse, qkv, p->begin, p->seqs, p->shape);
    kern_attention_grad(fx->queue, dqkv, dout, out, lse, qkv, p->begin, p->seqs, p->shape);
    fx_get(fx, r.out, out, out_size(p));
    fx_get(fx, r.lse, lse, lse_size(p));
    fx_get(fx, r.dqkv, dqkv, qkv_size(p));
    fx_release(fx, mark);
    return r;
}

static void same_results(const problem *p, const result *got, const result *expected) {
    same_bits("out", got->out, expected->out, out_size(p));
    same_bits("lse", got->lse, expected->lse, lse_size(p));
    same_bits("dqkv", got->dqkv, expected->dqkv, qkv_size(p));
}

/* ---- cases ------------------------------------------------------------------------------------------------------------------------- */

static void attention_matches_a_double_reference(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){1, 17, 64, 65, 2}, 5);
        result r = run_packed(&fx, &p);
        double *qkv = widened(p.qkv, qkv_size(&p)), *out = rlf_calloc(out_size(&p), sizeof *out),
            *lse = rlf_calloc(lse_size(&p), sizeof *lse);
        reference_forward(&p, qkv, out, lse);
        for (size_t k = 0; k < out_size(&p); k++) close_to("out", r.out[k], out[k], 1e-5);
        for (size_t k = 0; k < lse_size(&p); k++) close_to("lse", r.lse[k], lse[k], 1e-5);
        free(qkv);
        free(out);
        free(lse);
        result_free(&r);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void attention_gradient_matches_finite_differences(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){3, 70, 18}, 3);
        result r = run_packed(&fx, &p);
        double *qkv = widened(p.qkv, qkv_size(&p));
        for (uint32_t n = 0; n < 60; n++) {
            size_t at = (size_t)rlf_rng_below(9, RLF_RNG_TEST, n, 0, 0, qkv_size(&p));
            close_to("dqkv", r.dqkv[at], slope(reference_loss, &p, qkv, at), 1e-4);
        }
        free(qkv);
        result_free(&r);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void attention_is_the_same_on_every_instruction_set_and_thread_count(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){1, 40, 129}, 3);
        result first = {0};
        for (int v = 0; v < N_VARIANTS; v++) {
            fixture fx;
            if (!fx_open(&fx, VARIANTS[v].isa, VARIANTS[v].threads)) continue;
            result r = run_packed(&fx, &p);
            if (v == 0)
                first = r;
            else {
                same_results(&p, &r, &first);
                result_free(&r);
            }
            fx_close(&fx);
        }
        result_free(&first);
        problem_free(&p);
    }
}

static void a_packed_sequence_gives_the_bits_it_gives_alone(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 3));
    for (int i = 0; i < 4; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){5, 300, 1, 64, 33}, 5);
        result all = run_packed(&fx, &p);
        for (int s = 0; s < p.seqs; s++) {
            const size_t row = (size_t)p.begin[s], width = (size_t)kern_qkv_width(p.shape), o = (size_t)(p.shape.heads * p.shape.head_dim);
            problem alone = {.shape = p.shape, .seqs = 1, .rows = p.begin[s + 1] - p.begin[s], .qkv = p.qkv + row * width,
                             .dout = p.dout + row * o};
            alone.begin[1] = alone.rows;
            result r = run_packed(&fx, &alone);
            same_results(&alone, &r, &(result){all.out + row * o, all.lse + row * (size_t)p.shape.heads, all.dqkv + row * width});
            result_free(&r);
        }
        result_free(&all);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void a_prefix_gives_the_bits_it_gives_within_a_longer_sequence(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 1));
    problem p = problem_new(SHAPES[2], (const int[]){530}, 1);
    result all = run_packed(&fx, &p);
    for (int n = 1; n < p.rows; n += 29) {
        problem prefix = p;
        prefix.rows = prefix.begin[1] = n;
        result r = run_packed(&fx, &prefix);
        same_bits("out", r.out, all.out, out_size(&prefix));
        same_bits("lse", r.lse, all.lse, lse_size(&prefix));
        result_free(&r);
    }
    result_free(&all);
    problem_free(&p);
    fx_close(&fx);
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

static cache cache_new(fixture *fx, const problem *p, int page_size) {
    cache c = {.shape = {LAYERS, p->shape.kv_heads, p->shape.head_dim, page_size, 0}};
    for (int s = 0; s < p->seqs; s++) {
        int pages = (p->begin[s + 1] - p->begin[s] + page_size - 1) / page_size;
        c.max_pages = pages > c.max_pages ? pages : c.max_pages;
    }
    c.shape.pages = c.max_pages * p->seqs + 3;
    if (c.shape.pages % 7 == 0) c.shape.pages++; /* so that steps of 7 meet every page once */
    c.table = rlf_calloc((size_t)(c.max_pages * p->seqs), sizeof *c.table);
    for (int i = 0; i < c.max_pages * p->seqs; i++) c.table[i] = (i * 7 + 3) % c.shape.pages;
    const size_t n = kern_kv_bytes(fx->device, c.shape) / sizeof(float);
    float *garbage = zero_floats(n);
    for (size_t i = 0; i < n; i++) garbage[i] = NAN;
    c.kv = fx_f32(fx, garbage, n);
    free(garbage);
    return c;
}

/* Rows order[0..m) of the problem: writes their keys, attends, and puts their outputs in place. */
static void paged_step(fixture *fx, const problem *p, const cache *c, const int *order, int m, float *out) {
    const size_t width = (size_t)kern_qkv_width(p->shape), o = (size_t)(p->shape.heads * p->shape.head_dim);
    int32_t *seq = rlf_calloc((size_t)m, sizeof *seq), *pos = rlf_calloc((size_t)m, sizeof *pos),
        *slots = rlf_calloc((size_t)m, sizeof *slots);
    float *rows = zero_floats((size_t)m * width), *got = zero_floats((size_t)m * o);
    for (int i = 0; i < m; i++) {
        while (order[i] >= p->begin[seq[i] + 1]) seq[i]++;
        pos[i] = order[i] - p->begin[seq[i]];
        slots[i] = c->table[seq[i] * c->max_pages + pos[i] / c->shape.page_size] * c->shape.page_size + pos[i] % c->shape.page_size;
        memcpy(rows + (size_t)i * width, p->qkv + (size_t)order[i] * width, width * sizeof(float));
    }
    const int mark = fx->n;
    kern_tensor qkv = fx_f32(fx, rows, (size_t)m * width), dst = fx_zeros(fx, KERN_F32, (size_t)m * o);
    kern_kv_write(fx->queue, c->kv, c->shape, LAYER, qkv, fx_i32(fx, slots, (size_t)m), m, p->shape);
    kern_attention_paged(fx->queue, dst, qkv, c->kv, c->shape, LAYER, seq, pos, m, c->table, c->max_pages, p->shape);
    fx_get(fx, got, dst, (size_t)m * o);
    fx_release(fx, mark);
    for (int i = 0; i < m; i++) memcpy(out + (size_t)order[i] * o, got + (size_t)i * o, o * sizeof(float));
    free(seq);
    free(pos);
    free(slots);
    free(rows);
    free(got);
}

/* Up to `chunk` tokens of each sequence a step (the last sequence first), until all are through. */
static void run_paged(fixture *fx, const problem *p, int page_size, int chunk, float *out) {
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

static void paged_attention_gives_the_bits_of_packed_attention(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){1, 17, 64, 65, 130, 2}, 6);
        float *out = zero_floats(out_size(&p));
        fixture fx;
        assert_true(fx_open(&fx, NULL, 1 + i % 4));
        result packed = run_packed(&fx, &p);
        for (int page = 16; page <= 64; page *= 2)
            for (int chunk = 1; chunk <= 130; chunk = chunk * 3 + 2) {
                run_paged(&fx, &p, page, chunk, out);
                same_bits("paged", out, packed.out, out_size(&p));
            }
        fx_close(&fx);
        free(out);
        result_free(&packed);
        problem_free(&p);
    }
}

static void paged_attention_is_the_same_on_every_instruction_set(void **state) {
    (void)state;
    problem p = problem_new(SHAPES[3], (const int[]){9, 40}, 2);
    float *out = zero_floats(out_size(&p)), *first = zero_floats(out_size(&p));
    for (int v = 0; v < N_VARIANTS; v++) {
        fixture fx;
        if (!fx_open(&fx, VARIANTS[v].isa, VARIANTS[v].threads)) continue;
        run_paged(&fx, &p, 16, 7, v ? out : first);
        if (v) same_bits("paged", out, first, out_size(&p));
        fx_close(&fx);
    }
    free(out);
    free(first);
    problem_free(&p);
}

static void rows_of_a_step_may_come_in_any_order(void **state) {
    (void)state;
    problem p = problem_new(SHAPES[0], (const int[]){20, 33}, 2);
    float *out = zero_floats(out_size(&p));
    int order[53];
    for (int i = 0; i < p.rows; i++) order[i] = (i * 10 + 7) % p.rows;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    result packed = run_packed(&fx, &p);
    cache c = cache_new(&fx, &p, 16);
    paged_step(&fx, &p, &c, order, p.rows, out);
    same_bits("paged", out, packed.out, out_size(&p));
    free(c.table);
    free(out);
    result_free(&packed);
    fx_close(&fx);
    problem_free(&p);
}

static void a_copied_page_serves_like_the_original(void **state) {
    (void)state;
    problem p = problem_new(SHAPES[0], (const int[]){21}, 1);
    const size_t o = (size_t)(p.shape.heads * p.shape.head_dim);
    float *out = zero_floats(out_size(&p));
    int order[21];
    for (int i = 0; i < 21; i++) order[i] = i;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    result packed = run_packed(&fx, &p);
    cache c = cache_new(&fx, &p, 16);
    paged_step(&fx, &p, &c, order, 20, out);
    const int copy = c.table[1] == 0 ? 1 : 0;
    assert_int_not_equal(copy, c.table[0]);
    kern_kv_copy_page(fx.queue, c.kv, c.shape, copy, c.table[1]);
    c.table[1] = copy;
    paged_step(&fx, &p, &c, order + 20, 1, out);
    same_bits("row after the copy", out + 20 * o, packed.out + 20 * o, o);
    free(c.table);
    free(out);
    result_free(&packed);
    fx_close(&fx);
    problem_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_a_double_reference),
        cmocka_unit_test(attention_gradient_matches_finite_differences),
        cmocka_unit_test(attention_is_the_same_on_every_instruction_set_and_thread_count),
        cmocka_unit_test(a_packed_sequence_gives_the_bits_it_gives_alone),
        cmocka_unit_test(a_prefix_gives_the_bits_it_gives_within_a_longer_sequence),
        cmocka_unit_test(paged_attention_gives_the_bits_of_packed_attention),
        cmocka_unit_test(paged_attention_is_the_same_on_every_instruction_set),
        cmocka_unit_test(rows_of_a_step_may_come_in_any_order),
        cmocka_unit_test(a_copied_page_serves_like_the_original),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
