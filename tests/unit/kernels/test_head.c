/* Log-prob, entropy, their gradient and sampling under temperature, top-k and top-p: against sorting and sums in double, and bit
 * for bit. */
#include "tests/unit/kernels/ops_fixture.h"

static const kern_filter FILTERS[] = {
    {1.0f, 1.0f, 0}, {0.7f, 1.0f, 0}, {1.5f, 1.0f, 5}, {1.0f, 0.9f, 0}, {0.8f, 0.5f, 20}, {1.0f, 0.99f, 3}, {2.0f, 1e-6f, 0},
    {1.0f, 1.0f, 1},
};
enum { N_FILTERS = sizeof FILTERS / sizeof *FILTERS };
static const int VOCABS[] = {1, 7, 16, 63, 300, 1003};
enum { N_VOCABS = sizeof VOCABS / sizeof *VOCABS };

/* ---- reference --------------------------------------------------------------------------------------------------------------------- */

typedef struct entry {
    float z;
    int id;
} entry;

static int before(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->z != y->z) return x->z > y->z ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Sorted by (z descending, id ascending); returns how many are kept. */
static int reference_kept(const float *logits, int v, kern_filter filter, entry *order) {
    const float inverse = 1.0f / filter.temperature;
    double total = 0, run = 0;
    int kept = v, n = 0;
    for (int i = 0; i < v; i++) order[i] = (entry){logits[i] * inverse, i};
    qsort(order, (size_t)v, sizeof *order, before);
    if (filter.top_k > 0 && filter.top_k < v) kept = filter.top_k;
    if (filter.top_p >= 1.0f) return kept;
    for (int i = 0; i < kept; i++) total += exp((double)order[i].z - order[0].z);
    do run += exp((double)order[n].z - order[0].z);
    while (++n < kept && run < (double)filter.top_p * total * (1 - 1e-9));
    return n;
}

/* log-probs of all ids (-inf: not kept); returns the entropy. z in double, `kept_ids` from reference_kept. */
static double reference_logprobs(const double *z, const entry *order, int v, int kept, double *logprob) {
    double top = -INFINITY, sum = 0, entropy = 0;
    for (int i = 0; i < v; i++) logprob[i] = -INFINITY;
    for (int i = 0; i < kept; i++) top = fmax(top, z[order[i].id]);
    for (int i = 0; i < kept; i++) sum += exp(z[order[i].id] - top);
    for (int i = 0; i < kept; i++) {
        const double lp = z[order[i].id] - top - log(sum);
        logprob[order[i].id] = lp;
        entropy -= exp(lp) * lp;
    }
    return entropy;
}

/* ---- runs -------------------------------------------------------------------------------------------------------------------------- */

typedef struct result {
    float *logprob, *entropy, *dlogits;
} result;

static result result_new(size_t m, size_t v) { return (result){zero_floats(m), zero_floats(m), zero_floats(m * v)}; }
static void result_free(result *r) {
    free(r->logprob);
    free(r->entropy);
    free(r->dlogits);
}

/* On a card the gradient may be bfloat16: it is the other, rounded. */
static void check_rounded(fixture *fx, kern_tensor rounded, const float *dlogits, size_t n) {
    uint16_t *got = rlf_calloc(n, sizeof *got);
    kern_download(fx->queue, got, rounded, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(got[i], kern_bf16_of_float(dlogits[i]));
    free(got);
}

/* dlogprob and dentropy are of length m; dentropy NULL: none. */
static result run_logprob(fixture *fx, const float *logits, const int32_t *targets, const float *dlogprob, const float *dentropy,
                          kern_filter filter, int m, int v) {
    const size_t rows = (size_t)m, n = rows * (size_t)v;
    const int mark = fx->n;
    result r = result_new(rows, (size_t)v);
    kern_tensor t = fx_f32(fx, logits, n), ids = fx_i32(fx, targets, rows), lp = fx_zeros(fx, KERN_F32, rows);
    kern_tensor h = fx_zeros(fx, KERN_F32, rows), stats = fx_zeros(fx, KERN_F32, rows * KERN_HEAD_STATS);
    kern_tensor dlp = fx_f32(fx, dlogprob, rows), dh = dentropy ? fx_f32(fx, dentropy, rows) : kern_none();
    kern_logprob(fx->queue, lp, h, stats, t, ids, filter, m, v);
    const bool card = kern_device_is_card(fx->device);
    kern_tensor rounded = card ? fx_zeros(fx, KERN_BF16, n) : kern_none();
    if (card) kern_logprob_grad(fx->queue, rounded, t, stats, ids, dlp, dh, filter, m, v);
    kern_logprob_grad(fx->queue, t, t, stats, ids, dlp, dh, filter, m, v);
    fx_get(fx, r.logprob, lp, rows);
    fx_get(fx, r.entropy, h, rows);
    fx_get(fx, r.dlogits, t, n);
    if (card) check_rounded(fx, rounded, r.dlogits, n);
    fx_release(fx, mark);
    return r;
}

/* Log-probs of every id under one row of logits, (v). */
static float *all_logprobs(fixture *fx, const float *logits, kern_filter filter, int v) {
    float *rows = zero_floats((size_t)v * (size_t)v), *zero = zero_floats((size_t)v);
    int32_t *targets = rlf_calloc((size_t)v, sizeof *targets);
    for (int i = 0; i < v; i++) {
        memcpy(rows + (size_t)i * v, logits, (size_t)v * sizeof *rows);
        targets[i] = i;
    }
    result r = run_logprob(fx, rows, targets, zero, NULL, filter, v, v);
    float *logprob = r.logprob;
    free(r.entropy);
    free(r.dlogits);
    free(rows);
    free(zero);
    free(targets);
    return logprob;
}

static void run_sample(fixture *fx, const float *logits, kern_filter filter, const kern_sample_key *keys, int m, int v, int32_t *ids,
                       float *logprob) {
    const int mark = fx->n;
    kern_tensor t = fx_f32(fx, logits, (size_t)m * (size_t)v), i = fx_zeros(fx, KERN_I32, (size_t)m),
        lp = fx_zeros(fx, KERN_F32, (size_t)m);
    kern_sample(fx->queue, i, lp, t, filter, 99, keys, m, v);
    kern_download(fx->queue, ids, i, (size_t)m);
    fx_get(fx, logprob, lp, (size_t)m);
    fx_release(fx, mark);
}

/* ---- cases: values ----------------------------------------------------------------------------------------------------------------- */

/* quantum > 0: logits are its multiples, so that many are equal. */
static float *some_logits(uint64_t stream, size_t n, float quantum) {
    float *x = random_floats(stream, n, 6.0f);
    for (size_t i = 0; quantum > 0 && i < n; i++) x[i] = quantum * rintf(x[i] / quantum);
    return x;
}

static void check_row(fixture *fx, const float *logits, int v, kern_filter filter) {
    entry *order = rlf_calloc((size_t)v, sizeof *order);
    double *z = rlf_calloc((size_t)v, sizeof *z), *expected = rlf_calloc((size_t)v, sizeof *expected);
    const int kept = reference_kept(logits, v, filter, order);
    for (int i = 0; i < v; i++) z[i] = (double)logits[i] * (1.0f / filter.temperature);
    const double entropy = reference_logprobs(z, order, v, kept, expected);
    float *logprob = all_logprobs(fx, logits, filter, v);
    for (int i = 0; i < v; i++) {
        if (isinf(expected[i]) != isinf(logprob[i]))
            fail_msg("v %d, temperature %g, top_k %d, top_p %g: id %d (%g) is %skept, of %d", v, (double)filter.temperature, filter.top_k,
                     (double)filter.top_p, i, z[i], isinf(logprob[i]) ? "not " : "", kept);
        if (!isinf(expected[i])) close_to("logprob", logprob[i], expected[i], 1e-5);
    }
    const float zero = 0;
    result r = run_logprob(fx, logits, &(int32_t){0}, &zero, NULL, filter, 1, v);
    close_to("entropy", r.entropy[0], entropy, 1e-5);
    result_free(&r);
    free(order);
    free(z);
    free(expected);
    free(logprob);
}

static void logprob_entropy_and_kept_set_match_sorting(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int i = 0; i < N_VOCABS; i++)
        for (int f = 0; f < N_FILTERS; f++) {
            float *logits = some_logits((uint64_t)(i * 10 + f), (size_t)VOCABS[i], 0);
            check_row(&fx, logits, VOCABS[i], FILTERS[f]);
            free(logits);
        }
    fx_close(&fx);
}

static void ties_are_broken_by_lower_id(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (uint64_t i = 0; i < 12; i++)
        for (int f = 0; f < N_FILTERS; f++) {
            float *logits = some_logits(100 + i, 150, i % 2 ? 1.0f : 4.0f);
            if (i % 3 == 0)
                for (int j = 0; j < 150; j++) logits[j] = j % 5 ? 0.0f : -0.0f; /* all equal, zeros of both signs */
            check_row(&fx, logits, 150, FILTERS[f]);
            free(logits);
        }
    fx_close(&fx);
}

static void a_large_vocabulary_keeps_the_set_that_sorting_gives(void **state) {
    (void)state;
    enum { V = 151936 };
    static const kern_filter filters[] = {{1.0f, 1.0f, 50}, {1.0f, 1.0f, 20000}, {1.0f, 0.95f, 0}, {0.6f, 0.95f, 20}, {1.0f, 1.0f, 0}};
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    entry *order = rlf_calloc(V, sizeof *order);
    for (size_t f = 0; f < sizeof filters / sizeof *filters; f++) {
        float *logits = some_logits(200 + f, V, f % 2 ? 0.0f : 0x1p-10f);
        const int kept = reference_kept(logits, V, filters[f], order);
        const float zero = 0;
        result in = run_logprob(&fx, logits, &order[kept - 1].id, &zero, NULL, filters[f], 1, V);
        assert_true(isfinite(in.logprob[0]));
        result_free(&in);
        if (kept < V) {
            result out = run_logprob(&fx, logits, &order[kept].id, &zero, NULL, filters[f], 1, V);
            assert_true(isinf(out.logprob[0]));
            result_free(&out);
        }
        free(logits);
    }
    free(order);
    fx_close(&fx);
}

static void greedy_is_the_lowest_id_of_the_largest_logit(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 1));
    float *logits = some_logits(1, 40, 0), dlogprob = 3;
    const kern_filter greedy = {0.0f, 0.9f, 7};
    logits[11] = logits[29] = 50.0f;
    float *logprob = all_logprobs(&fx, logits, greedy, 40), got;
    for (int i = 0; i < 40; i++) assert_true(i == 11 ? logprob[i] == 0.0f : logprob[i] == -INFINITY);
    int32_t id;
    run_sample(&fx, logits, greedy, &(kern_sample_key){1, 2, 3}, 1, 40, &id, &got);
    assert_int_equal(id, 11);
    assert_true(got == 0.0f);
    result r = run_logprob(&fx, logits, &id, &dlogprob, &dlogprob, greedy, 1, 40);
    assert_true(r.entropy[0] == 0.0f);
    for (int i = 0; i < 40; i++) assert_true(r.dlogits[i] == 0.0f);
    result_free(&r);
    free(logits);
    free(logprob);
    fx_close(&fx);
}

/* Greedy too: what cannot be drawn from must not look as if it could. */
static void logits_that_are_no_numbers_have_no_log_prob(void **state) {
    (void)state;
    fixture fx;
    float logits[40], got;
    int32_t id;
    assert_true(fx_open(&fx, NULL, 1));
    for (int way = 0; way < 3; way++) {
        for (int i = 0; i < 40; i++) logits[i] = way == 0 ? NAN : way == 1 ? -INFINITY : (float)i;
        if (way == 2) logits[7] = INFINITY;
        for (int greedy = 0; greedy < 2; greedy++) {
            run_sample(&fx, logits, (kern_filter){greedy ? 0.0f : 1.0f, 1, 0}, &(kern_sample_key){1, 2, 3}, 1, 40, &id, &got);
            assert_false(isfinite(got));
            assert_in_range(id, 0, 39);
        }
    }
    fx_close(&fx);
}

/* ---- cases: gradient --------------------------------------------------------------------------------------------------------------- */

typedef struct grad_problem {
    const entry *order;
    int v, kept, target;
    double inverse_t, dlogprob, dentropy;
} grad_problem;

static double grad_loss(const void *arg, const double *logits) {
    const grad_problem *p = arg;
    double *z = rlf_calloc((size_t)p->v, sizeof *z), *logprob = rlf_calloc((size_t)p->v, sizeof *logprob);
    for (int i = 0; i < p->v; i++) z[i] = logits[i] * p->inverse_t;
    const double entropy = reference_logprobs(z, p->order, p->v, p->kept, logprob);
    const double loss = p->dlogprob * logprob[p->target] + p->dentropy * entropy;
    free(z);
    free(logprob);
    return loss;
}

static void check_gradient(fixture *fx, const float *logits, int v, kern_filter filter, bool with_entropy) {
    const float dlogprob = -1.7f, dentropy = 0.6f;
    entry *order = rlf_calloc((size_t)v, sizeof *order);
    double *x = rlf_calloc((size_t)v, sizeof *x);
    for (int i = 0; i < v; i++) x[i] = logits[i];
    grad_problem p = {.order = order, .v = v, .kept = reference_kept(logits, v, filter, order), .inverse_t = 1.0f / filter.temperature,
                      .dlogprob = dlogprob, .dentropy = with_entropy ? dentropy : 0};
    p.target = order[p.kept / 2].id;
    result r = run_logprob(fx, logits, &p.target, &dlogprob, with_entropy ? &dentropy : NULL, filter, 1, v);
    for (int i = 0; i < v; i++) close_to("dlogits", r.dlogits[i], slope(grad_loss, &p, x, (size_t)i), 1e-5);
    for (int i = p.kept; i < v; i++) assert_true(r.dlogits[order[i].id] == 0.0f);
    result_free(&r);
    free(order);
    free(x);
}

static void gradient_matches_finite_differences(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int i = 0; i < N_VOCABS - 1; i++)
        for (int f = 0; f < N_FILTERS; f++) {
            float *logits = some_logits((uint64_t)(i * 10 + f), (size_t)VOCABS[i], 0);
            check_gradient(&fx, logits, VOCABS[i], FILTERS[f], f % 2 == 0);
            check_gradient(&fx, logits, VOCABS[i], FILTERS[f], f % 2 == 1);
            free(logits);
        }
    fx_close(&fx);
}

static void a_target_outside_the_kept_set_has_no_gradient(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 1));
    const float logits[4] = {1, 5, 2, 4}, dlogprob = 1;
    result r = run_logprob(&fx, logits, &(int32_t){0}, &dlogprob, NULL, (kern_filter){1.0f, 1.0f, 2}, 1, 4);
    assert_true(r.logprob[0] == -INFINITY);
    for (int i = 0; i < 4; i++) assert_true(r.dlogits[i] == 0.0f);
    result_free(&r);
    fx_close(&fx);
}

/* ---- cases: bits ------------------------------------------------------------------------------------------------------------------- */

enum { ROWS = 12, BITS_V = 523 };

static void bits_do_not_depend_on_instruction_set_threads_or_batch(void **state) {
    (void)state;
    float *logits = some_logits(5, ROWS * BITS_V, 0), *dlogprob = random_floats(6, ROWS, 1), *dentropy = random_floats(7, ROWS, 1);
    int32_t targets[ROWS], ids[ROWS], first_ids[ROWS] = {0};
    float logprob[ROWS], first_logprob[ROWS];
    kern_sample_key keys[ROWS];
    for (int i = 0; i < ROWS; i++) {
        targets[i] = i * 37 % BITS_V;
        keys[i] = (kern_sample_key){(uint64_t)i * 3, 1, 17};
    }
    for (int f = 0; f < N_FILTERS; f++) {
        result first = {0};
        for (int v = 0; v < N_VARIANTS; v++) {
            fixture fx;
            if (!fx_open(&fx, VARIANTS[v].isa, VARIANTS[v].threads)) continue;
            result r = run_logprob(&fx, logits, targets, dlogprob, dentropy, FILTERS[f], ROWS, BITS_V);
            if (v == 0) {
                first = r;
                run_sample(&fx, logits, FILTERS[f], keys, ROWS, BITS_V, first_ids, first_logprob);
            } else {
                same_bits("logprob", r.logprob, first.logprob, ROWS);
                same_bits("entropy", r.entropy, first.entropy, ROWS);
                same_bits("dlogits", r.dlogits, first.dlogits, ROWS * BITS_V);
                result_free(&r);
                for (int i = 0; i < ROWS; i++) run_sample(&fx, logits + i * BITS_V, FILTERS[f], keys + i, 1, BITS_V, ids + i, logprob + i);
                assert_memory_equal(ids, first_ids, sizeof ids);
                same_bits("sample", logprob, first_logprob, ROWS);
                r = run_logprob(&fx, logits + 5 * BITS_V, targets + 5, dlogprob + 5, dentropy + 5, FILTERS[f], 1, BITS_V);
                same_bits("logprob alone", r.logprob, first.logprob + 5, 1);
                same_bits("dlogits alone", r.dlogits, first.dlogits + 5 * BITS_V, BITS_V);
                result_free(&r);
            }
            fx_close(&fx);
        }
        result_free(&first);
    }
    free(logits);
    free(dlogprob);
    free(dentropy);
}

/* Logits about the boundaries of parts. */
typedef enum logits_kind { PLAIN, TIED, WITH_INFINITE, FLAT, KINDS } logits_kind;

static float *shaped_logits(logits_kind kind, int rows, int v) {
    const size_t n = (size_t)rows * (size_t)v;
    float *x = some_logits(300 + (uint64_t)((int)kind * 10000 + v), n, kind == TIED ? 2.0f : 0.0f);
    for (size_t i = 0; i < n; i++) {
        const size_t id = i % (size_t)v;
        if (kind == FLAT) x[i] = rintf(x[i]) * 0x1p-10f; /* all in one step of a selection */
        if (kind == WITH_INFINITE && id && (id % 3 || id / KERN_HEAD_PART == 1)) x[i] = -INFINITY; /* the second part: nothing else */
    }
    return x;
}

/* All that the head computes, on every device, beside the first; the last row alone too. */
static void check_same_everywhere(const float *logits, kern_filter filter, int rows, int v) {
    const size_t m = (size_t)rows, n = m * (size_t)v;
    float *dlogprob = random_floats(6, m, 1), *dentropy = random_floats(7, m, 1), *logprob = zero_floats(m), *first_logprob = zero_floats(m);
    int32_t *targets = rlf_calloc(m, sizeof *targets), *ids = rlf_calloc(m, sizeof *ids), *first_ids = rlf_calloc(m, sizeof *ids);
    kern_sample_key *keys = rlf_calloc(m, sizeof *keys);
    result first = {0};
    for (int i = 0; i < rows; i++) {
        targets[i] = (int32_t)((int64_t)i * 1021 % v);
        keys[i] = (kern_sample_key){(uint64_t)i * 3, 1, (uint32_t)v};
    }
    for (int d = 0; d < N_VARIANTS; d++) {
        fixture fx;
        if (!fx_open(&fx, VARIANTS[d].isa, VARIANTS[d].threads)) continue;
        result r = run_logprob(&fx, logits, targets, dlogprob, dentropy, filter, rows, v);
        run_sample(&fx, logits, filter, keys, rows, v, ids, logprob);
        if (d == 0) {
            first = r;
            memcpy(first_ids, ids, m * sizeof *ids);
            memcpy(first_logprob, logprob, m * sizeof *logprob);
        } else {
            same_bits("logprob", r.logprob, first.logprob, m);
            same_bits("entropy", r.entropy, first.entropy, m);
            same_bits("dlogits", r.dlogits, first.dlogits, n);
            assert_memory_equal(ids, first_ids, m * sizeof *ids);
            same_bits("log-prob of a sample", logprob, first_logprob, m);
            result_free(&r);
            run_sample(&fx, logits + n - (size_t)v, filter, keys + m - 1, 1, v, ids, logprob);
            assert_int_equal(ids[0], first_ids[m - 1]);
            same_bits("log-prob of a sample alone", logprob, first_logprob + m - 1, 1);
        }
        fx_close(&fx);
    }
    for (int i = 0; i < rows; i++) assert_true(isfinite(first_logprob[i]) && isfinite(first.entropy[i]));
    result_free(&first);
    free(dlogprob), free(dentropy), free(logprob), free(first_logprob), free(targets), free(ids), free(first_ids), free(keys);
}

static void bits_are_the_same_about_the_boundaries_of_parts(void **state) {
    (void)state;
    static const kern_filter filters[] = {{1, 1, 0}, {0, 1, 0}, {0.7f, 1, 900}, {1, 0.97f, 0}, {1.3f, 0.9f, 1100}};
    static const int sizes[][2] = {{3, 1023}, {1, 1024}, {3, 1025}, {3, 2047}, {64, 2050}, {3, 3084}};
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const int rows = kind == PLAIN || sizes[i][0] < 5 ? sizes[i][0] : 5, v = sizes[i][1]; /* many rows once: the shim takes its time */
            float *logits = shaped_logits((logits_kind)kind, rows, v);
            for (size_t f = 0; f < sizeof filters / sizeof *filters; f++) check_same_everywhere(logits, filters[f], rows, v);
            free(logits);
        }
}

/* More ids in one step of a selection than it takes at once. */
static void bits_are_the_same_where_thousands_of_logits_are_nearly_equal(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        enum { V = 9001 };
        float *logits = shaped_logits(FLAT, 1, V);
        for (int i = 0; tied && i < V; i++) logits[i] = 0.25f;
        check_same_everywhere(logits, (kern_filter){1, 0.6f, 0}, 1, V);
        check_same_everywhere(logits, (kern_filter){1, 0.5f, 5000}, 1, V);
        free(logits);
    }
}

/* ---- cases: sampling --------------------------------------------------------------------------------------------------------------- */

enum { DRAWS = 8000 };

/* DRAWS samples from one row of logits, all checked against kern_logprob's bits; counts (v). */
static void draw_many(fixture *fx, const float *logits, kern_filter filter, int v, int *counts) {
    float *rows = zero_floats((size_t)DRAWS * (size_t)v), *logprob = zero_floats(DRAWS), *all = all_logprobs(fx, logits, filter, v);
    int32_t *ids = rlf_calloc(DRAWS, sizeof *ids);
    kern_sample_key *keys = rlf_calloc(DRAWS, sizeof *keys);
    for (int i = 0; i < DRAWS; i++) {
        memcpy(rows + (size_t)i * v, logits, (size_t)v * sizeof *rows);
        keys[i] = (kern_sample_key){(uint64_t)(i % 100), (uint32_t)(i / 100 % 20), (uint32_t)(i / 2000)};
    }
    run_sample(fx, rows, filter, keys, DRAWS, v, ids, logprob);
    for (int i = 0; i < DRAWS; i++) {
        assert_in_range(ids[i], 0, v - 1);
        same_bits("log-prob of a sample", &logprob[i], &all[ids[i]], 1);
        assert_true(isfinite(logprob[i]));
        counts[ids[i]]++;
    }
    free(rows);
    free(logprob);
    free(all);
    free(ids);
    free(keys);
}

static void samples_follow_the_distribution_and_carry_its_logprob(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int f = 0; f < N_FILTERS; f += on_cards() ? 4 : 1) { /* the shim takes its time */
        enum { V = 300 };
        float *logits = some_logits(50 + (uint64_t)f, V, 0), *logprob = all_logprobs(&fx, logits, FILTERS[f], V);
        int counts[V] = {0};
        draw_many(&fx, logits, FILTERS[f], V, counts);
        for (int i = 0; i < V; i++) {
            const double p = exp(logprob[i]), sigma = sqrt(DRAWS * p * (1 - p));
            if (fabs(counts[i] - DRAWS * p) > 5 * sigma + 2) fail_msg("id %d drawn %d times, expected %g", i, counts[i], DRAWS * p);
        }
        free(logits);
        free(logprob);
    }
    fx_close(&fx);
}

static void a_sure_token_is_drawn_wherever_it_is(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 1));
    static const int at[] = {0, 15, 255, 256, 1023, 1024, 2002};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        float *logits = zero_floats(2003), logprob;
        int32_t id;
        logits[at[i]] = 200;
        for (uint32_t n = 0; n < 50; n++) {
            run_sample(&fx, logits, FILTERS[0], &(kern_sample_key){n, 0, 0}, 1, 2003, &id, &logprob);
            assert_int_equal(id, at[i]);
            assert_true(logprob == 0.0f);
        }
        free(logits);
    }
    fx_close(&fx);
}

/* u lies between the probability of all ids below the one drawn, and that with it. */
static void check_draw(const float *logits, int v, kern_filter filter, kern_sample_key key, int id) {
    const double u = (double)rlf_rng_uniform(99, RLF_RNG_SAMPLE, key.uid, key.sample, key.position);
    entry *order = rlf_calloc((size_t)v, sizeof *order);
    double *e = rlf_calloc((size_t)v, sizeof *e), total = 0, below = 0;
    const int kept = reference_kept(logits, v, filter, order);
    for (int i = 0; i < kept; i++) total += e[order[i].id] = exp((double)order[i].z - (double)order[0].z);
    for (int i = 0; i < id; i++) below += e[i];
    if (!(e[id] > 0 && below <= (u + 1e-6) * total && below + e[id] >= (u - 1e-6) * total))
        fail_msg("v %d: id %d stands for %g to %g, u is %g", v, id, below / total, (below + e[id]) / total, u);
    free(order);
    free(e);
}

static void a_draw_is_the_inverse_of_the_distribution(void **state) {
    (void)state;
    static const kern_filter filters[] = {{1, 1, 0}, {0.7f, 1, 2500}, {1, 0.9f, 0}};
    static const int vocabs[] = {40, 1024, 1029, 5000};
    enum { DRAWN = 16 };
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (size_t f = 0; f < sizeof filters / sizeof *filters; f++)
        for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++)
            for (int kind = 0; kind < KINDS; kind++) {
                const int v = vocabs[i];
                float *logits = shaped_logits((logits_kind)kind, DRAWN, v), logprob[DRAWN];
                kern_sample_key keys[DRAWN];
                int32_t ids[DRAWN];
                for (int k = 0; k < DRAWN; k++) keys[k] = (kern_sample_key){(uint64_t)k << 33, (uint32_t)f, 1u << 31};
                run_sample(&fx, logits, filters[f], keys, DRAWN, v, ids, logprob);
                for (int k = 0; k < DRAWN; k++) check_draw(logits + (size_t)k * (size_t)v, v, filters[f], keys[k], ids[k]);
                free(logits);
            }
    fx_close(&fx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logprob_entropy_and_kept_set_match_sorting),
        cmocka_unit_test(ties_are_broken_by_lower_id),
        cmocka_unit_test(a_large_vocabulary_keeps_the_set_that_sorting_gives),
        cmocka_unit_test(greedy_is_the_lowest_id_of_the_largest_logit),
        cmocka_unit_test(logits_that_are_no_numbers_have_no_log_prob),
        cmocka_unit_test(gradient_matches_finite_differences),
        cmocka_unit_test(a_target_outside_the_kept_set_has_no_gradient),
        cmocka_unit_test(bits_do_not_depend_on_instruction_set_threads_or_batch),
        cmocka_unit_test(bits_are_the_same_about_the_boundaries_of_parts),
        cmocka_unit_test(bits_are_the_same_where_thousands_of_logits_are_nearly_equal),
        cmocka_unit_test(samples_follow_the_distribution_and_carry_its_logprob),
        cmocka_unit_test(a_sure_token_is_drawn_wherever_it_is),
        cmocka_unit_test(a_draw_is_the_inverse_of_the_distribution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
