/* Attention with factors of bfloat16: against references in double, within what rounding factors may change, and bit for bit against
 * itself: packed, alone, paged, decoded row by row, across the boundaries of blocks (64 keys) and splits (1024). The CPU takes these
 * factors for float32, so it passes with room to spare; on cards these are the kernels on tensor cores. */
#include "tests/unit/kernels/attention_fixture.h"

#include "kernels/cuda/cuda.h"

/* Groups of 1, 2, 4, 8 heads, of an odd number, of more than a tile of 16 rows. */
static const kern_attn_shape SHAPES[] = {{2, 2, 64, KERN_BF16}, {2, 1, 64, KERN_BF16},  {4, 1, 128, KERN_BF16}, {16, 2, 64, KERN_BF16},
                                         {7, 1, 64, KERN_BF16}, {3, 1, 128, KERN_BF16}, {18, 1, 64, KERN_BF16}};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static const double ROUNDING = 0x1p-9; /* of a bfloat16 */

/* A problem whose factors bfloat16 holds. */
static problem rounded_problem(kern_attn_shape shape, const int *lengths, int seqs) {
    problem p = problem_new(shape, lengths, seqs);
    round_all(p.qkv, qkv_size(&p));
    round_all(p.dout, out_size(&p));
    return p;
}

static void within(const char *what, double got, double expected, double bound) {
    if (!(fabs(got - expected) <= bound)) fail_msg("%s: %.9g, expected %.9g within %.3g", what, got, expected, bound);
}

/* ---- the gradient in double -------------------------------------------------------------------------------------------------------- */

/* Adds to dqkv what row `pos` of a sequence and one head give, from the equations of FlashAttention-2, section 3.1.2. */
static void reference_gradient_of_row(const problem *p, const double *qkv, int row0, int pos, int head, double *prob, double *dqkv) {
    const kern_attn_shape s = p->shape;
    const int width = kern_qkv_width(s), d = s.head_dim, kv = head / (s.heads / s.kv_heads), v = s.kv_heads * d;
    const size_t q = (size_t)(row0 + pos) * width + head * d, k = (size_t)row0 * width + (s.heads + kv) * d;
    const float *dout = p->dout + ((size_t)(row0 + pos) * s.heads + head) * d;
    double delta = 0;
    reference_softmax(p, qkv, row0, pos, head, prob);
    for (int j = 0; j <= pos; j++)
        for (int i = 0; i < d; i++) delta += prob[j] * dout[i] * qkv[k + (size_t)j * width + v + i];
    for (int j = 0; j <= pos; j++) {
        const size_t key = k + (size_t)j * width;
        double dp = 0;
        for (int i = 0; i < d; i++) dp += dout[i] * qkv[key + v + i];
        const double ds = prob[j] * (dp - delta) / sqrt(d);
        for (int i = 0; i < d; i++) {
            dqkv[q + i] += ds * qkv[key + i];
            dqkv[key + i] += ds * qkv[q + i];
            dqkv[key + v + i] += prob[j] * dout[i];
        }
    }
}

static double *reference_gradient(const problem *p, const double *qkv) {
    double *dqkv = rlf_calloc(qkv_size(p), sizeof *dqkv), *prob = rlf_calloc((size_t)p->rows, sizeof *prob);
    for (int s = 0; s < p->seqs; s++)
        for (int pos = 0; pos < p->begin[s + 1] - p->begin[s]; pos++)
            for (int h = 0; h < p->shape.heads; h++) reference_gradient_of_row(p, qkv, p->begin[s], pos, h, prob, dqkv);
    free(prob);
    return dqkv;
}

/* Columns begin..end-1 of all rows: error and its root mean square, as shares of the root mean square of what is expected. */
static void check_columns(const char *what, const problem *p, const float *got, const double *expected, int begin, int end) {
    const size_t width = (size_t)kern_qkv_width(p->shape);
    double error2 = 0, size2 = 0, worst = 0;
    for (int row = 0; row < p->rows; row++)
        for (int c = begin; c < end; c++) {
            const size_t at = (size_t)row * width + (size_t)c;
            const double error = got[at] - expected[at];
            error2 += error * error;
            size2 += expected[at] * expected[at];
            worst = fmax(worst, fabs(error));
        }
    const double size = sqrt(size2 / (p->rows * (end - begin)));
    within(what, sqrt(error2 / size2), 0, 2 * ROUNDING);
    within(what, worst / size, 0, 24 * ROUNDING);
}

/* ---- cases ------------------------------------------------------------------------------------------------------------------------- */

/* The probabilities are rounded, and divided by the sum of what they were rounded to; values are at most 2. */
static void attention_matches_a_double_reference_but_for_rounded_probabilities(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 1));
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = rounded_problem(SHAPES[i], (const int[]){1, 17, 64, 65, 2}, 5);
        result r = run_forward(&fx, &p);
        double *qkv = widened(p.qkv, qkv_size(&p)), *out = rlf_calloc(out_size(&p), sizeof *out),
            *lse = rlf_calloc(lse_size(&p), sizeof *lse);
        reference_forward(&p, qkv, out, lse);
        for (size_t k = 0; k < out_size(&p); k++) within("out", r.out[k], out[k], 2 * 2 * ROUNDING + 1e-5);
        for (size_t k = 0; k < lse_size(&p); k++) within("lse", r.lse[k], lse[k], ROUNDING + 1e-5);
        free(qkv);
        free(out);
        free(lse);
        result_free(&r);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void the_gradient_matches_that_of_the_double_reference(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = rounded_problem(SHAPES[i], (const int[]){3, 70, 18}, 3);
        const int d = p.shape.head_dim, keys = p.shape.heads * d, values = keys + p.shape.kv_heads * d;
        result r = run_packed(&fx, &p);
        double *qkv = widened(p.qkv, qkv_size(&p)), *expected = reference_gradient(&p, qkv);
        for (uint32_t n = 0; n < 3; n++) {
            const size_t at = (size_t)rlf_rng_below(9, RLF_RNG_TEST, n, 0, 0, qkv_size(&p));
            within("reference", expected[at], slope(reference_loss, &p, qkv, at), 1e-6);
        }
        check_columns("dq", &p, r.dqkv, expected, 0, keys);
        check_columns("dk", &p, r.dqkv, expected, keys, values);
        check_columns("dv", &p, r.dqkv, expected, values, kern_qkv_width(p.shape));
        free(qkv);
        free(expected);
        result_free(&r);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void factors_are_rounded_to_the_nearest_bfloat16(void **state) {
    (void)state;
    if (!on_cards()) skip();
    fixture fx;
    assert_true(fx_open(&fx, NULL, 1));
    problem p = problem_new(SHAPES[2], (const int[]){70, 3}, 2);
    result given = run_forward(&fx, &p);
    round_all(p.qkv, qkv_size(&p));
    result rounded = run_forward(&fx, &p);
    same_bits("out", given.out, rounded.out, out_size(&p));
    same_bits("lse", given.lse, rounded.lse, lse_size(&p));
    result_free(&given);
    result_free(&rounded);
    problem_free(&p);
    fx_close(&fx);
}

static void attention_is_the_same_in_every_order_of_threads(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i += 4) {
        problem p = problem_new(SHAPES[i], (const int[]){1, 40, 129}, 3);
        result first = {0};
        float *out = zero_floats(out_size(&p));
        for (int v = 0, n = 0; v < N_VARIANTS; v++) {
            fixture fx;
            if (on_cards() && v == 0) continue; /* the CPU */
            if (!fx_open(&fx, VARIANTS[v].isa, VARIANTS[v].threads)) continue;
            result r = run_packed(&fx, &p);
            if (n++ == 0) {
                first = r;
            } else {
                same_results(&p, &r, &first);
                result_free(&r);
            }
            run_paged(&fx, &p, 16, 50, out);
            same_bits("paged", out, first.out, out_size(&p));
            fx_close(&fx);
        }
        free(out);
        result_free(&first);
        problem_free(&p);
    }
}

static void a_packed_sequence_gives_the_bits_it_gives_alone(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 3));
    for (int i = 0; i < N_SHAPES; i += 3) check_alone(&fx, SHAPES[i], (const int[]){5, 130, 1, 64}, 4);
    fx_close(&fx);
}

static void paged_attention_gives_the_bits_of_packed_attention(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){1, 66, 130}, 3);
        float *out = zero_floats(out_size(&p));
        fixture fx;
        assert_true(fx_open(&fx, NULL, 1 + i % 3));
        result packed = run_forward(&fx, &p);
        const int page_sizes[] = {16, 48, 64}, chunks[] = {1, 7, 130};
        for (int k = 0; k < 3; k++) {
            run_paged(&fx, &p, page_sizes[(k + i) % 3], chunks[k], out);
            same_bits("paged", out, packed.out, out_size(&p));
        }
        fx_close(&fx);
        free(out);
        result_free(&packed);
        problem_free(&p);
    }
}

static void rows_of_a_step_may_come_in_any_order(void **state) {
    (void)state;
    check_any_order(SHAPES[2], (const int[]){20, 77}, 2);
}

static void a_copied_page_serves_like_the_original(void **state) {
    (void)state;
    check_copied_page(SHAPES[1]);
}

static void a_head_without_tiles_gives_the_bits_of_float32(void **state) {
    (void)state;
    problem p = problem_new((kern_attn_shape){4, 2, 40, KERN_BF16}, (const int[]){1, 20}, 2);
    float *out = zero_floats(out_size(&p));
    fixture fx;
    assert_true(fx_open(&fx, NULL, 1));
    result rounded = run_packed(&fx, &p);
    run_paged(&fx, &p, 16, 3, out);
    p.shape.factors = KERN_F32;
    result exact = run_packed(&fx, &p);
    same_results(&p, &rounded, &exact);
    same_bits("paged", out, exact.out, out_size(&p));
    free(out);
    result_free(&rounded);
    result_free(&exact);
    problem_free(&p);
    fx_close(&fx);
}

/* Rows come `many` at a time, but `few` around the boundaries of splits and at the end. */
static void check_long(fixture *fx, const problem *p, const result *packed, int many, int few) {
    float *out = zero_floats(out_size(p));
    int *order = rlf_calloc((size_t)p->rows, sizeof *order);
    cache c = cache_new(fx, p, 64);
    for (int i = 0; i < p->rows; i++) order[i] = i;
    for (int at = 0, m; at < p->rows; at += m) {
        const int to_boundary = 1024 - (at + 3) % 1024, to_end = p->rows - at, next = to_boundary < to_end - 5 ? to_boundary : to_end - 5;
        m = to_boundary > 1024 - 5 || to_end <= 5 ? few : next < many ? next : many;
        m = m < to_end ? m : to_end;
        paged_step(fx, p, &c, order + at, m, out);
    }
    same_bits("paged", out, packed->out, out_size(p));
    free(c.table);
    free(order);
    free(out);
}

/* Decoded row by row; with tiles of 16, and of 128, that have rows on both sides of a boundary. */
static void long_contexts_give_the_same_bits_split_or_not(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 3));
    const kern_attn_shape shape = {3, 1, 64, KERN_BF16};
    problem p = problem_new(shape, (const int[]){1100}, 1), longer = problem_new(shape, (const int[]){2100}, 1);
    problem prefix = longer;
    prefix.rows = prefix.begin[1] = 1030;
    result short_one = run_forward(&fx, &p), long_one = run_forward(&fx, &longer), r = run_forward(&fx, &prefix);
    same_bits("out", r.out, long_one.out, out_size(&prefix));
    same_bits("lse", r.lse, long_one.lse, lse_size(&prefix));
    check_long(&fx, &p, &short_one, 200, 5);
    check_long(&fx, &p, &short_one, 200, 90);
    check_long(&fx, &longer, &long_one, 300, 1);
    for (int threads = 1; threads < 3; threads++) { /* the block that ends last, and merges, is another */
        fixture other;
        assert_true(fx_open(&other, NULL, threads));
        check_long(&other, &p, &short_one, 200, 9);
        fx_close(&other);
    }
    result_free(&r);
    result_free(&short_one);
    result_free(&long_one);
    problem_free(&p);
    problem_free(&longer);
    fx_close(&fx);
}

/* Room for two kv heads of four, for one head of two with the gradient; for no result of a split,
 * and for those of some rows. */
static void work_space_for_a_part_at_a_time_gives_the_same_bits(void **state) {
    (void)state;
    if (!on_cards()) skip();
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    problem p = problem_new((kern_attn_shape){8, 4, 64, KERN_BF16}, (const int[]){1, 90}, 2);
    problem longer = problem_new((kern_attn_shape){1, 1, 64, KERN_BF16}, (const int[]){1100}, 1);
    result whole = run_packed(&fx, &p), long_one = run_forward(&fx, &longer);
    fx.device->ctx->scratch_floats = 13000;
    result parts = run_packed(&fx, &p);
    same_results(&p, &parts, &whole);
    fx.device->ctx->scratch_floats = 100;
    check_long(&fx, &longer, &long_one, 300, 2);
    fx.device->ctx->scratch_floats = 20000;
    check_long(&fx, &longer, &long_one, 300, 2);
    result_free(&whole);
    result_free(&parts);
    result_free(&long_one);
    problem_free(&p);
    problem_free(&longer);
    fx_close(&fx);
}

/* The gradient from an output and lse that are given. */
static float *gradient_of(fixture *fx, const problem *p, const float *out, const float *lse) {
    float *dqkv = zero_floats(qkv_size(p));
    const int mark = fx->n;
    kern_tensor t = fx_as(fx, p->acts, p->qkv, qkv_size(p));
    kern_attention_grad(fx->queue, t, fx_as(fx, p->acts, p->dout, out_size(p)), fx_as(fx, p->acts, out, out_size(p)),
                        fx_f32(fx, lse, lse_size(p)), fx_as(fx, p->acts, p->qkv, qkv_size(p)), p->begin, p->seqs, p->shape);
    fx_get_wide(fx, dqkv, t, qkv_size(p));
    fx_release(fx, mark);
    return dqkv;
}

static void check_activations(fixture *fx, problem p, bool gradient) {
    result wide = run_forward(fx, &p);
    float *paged = zero_floats(out_size(&p));
    round_all(wide.out, out_size(&p));
    float *dqkv = gradient ? gradient_of(fx, &p, wide.out, wide.lse) : wide.dqkv;
    round_all(dqkv, qkv_size(&p));
    p.acts = KERN_BF16;
    result narrow = run_operations(fx, &p, gradient);
    same_bits("out", narrow.out, wide.out, out_size(&p));
    same_bits("lse", narrow.lse, wide.lse, lse_size(&p));
    same_bits("dqkv", narrow.dqkv, dqkv, qkv_size(&p));
    run_paged(fx, &p, 16, gradient ? 9 : 300, paged);
    same_bits("paged", paged, wide.out, out_size(&p));
    if (gradient) free(dqkv);
    free(paged);
    result_free(&wide);
    result_free(&narrow);
    problem_free(&p);
}

/* What float32 ones of the same values give, rounded: with tiles, without, and where results of splits wait for others. */
static void activations_of_bfloat16_give_rounded_results(void **state) {
    (void)state;
    if (!on_cards()) skip();
    fixture fx;
    assert_true(fx_open(&fx, NULL, 3));
    for (int i = 0; i < N_SHAPES; i++) check_activations(&fx, rounded_problem(SHAPES[i], (const int[]){1, 70, 17}, 3), true);
    check_activations(&fx, rounded_problem((kern_attn_shape){4, 2, 24, KERN_BF16}, (const int[]){1, 70, 17}, 3), true);
    check_activations(&fx, rounded_problem((kern_attn_shape){2, 1, 64, KERN_BF16}, (const int[]){1030, 1, 1100}, 3), false);
    fx_close(&fx);
}

/* ---- Hopper's kernels against the others, on one card ------------------------------------------------------------------------------- */

/* Of activations of bfloat16, as a card's are. */
static void check_hopper(fixture *fx, problem p, bool gradient) {
    p.acts = KERN_BF16;
    fx->device->ctx->hopper = true;
    result new = run_operations(fx, &p, gradient);
    fx->device->ctx->hopper = false;
    result old = run_operations(fx, &p, gradient);
    fx->device->ctx->hopper = true;
    same_results(&p, &new, &old);
    result_free(&new);
    result_free(&old);
}

static bool open_hopper(fixture *fx, int threads) {
    if (!on_cards()) return false;
    assert_true(fx_open(fx, NULL, threads));
    if (fx->device->ctx->hopper) return true;
    if (strstr(kern_device_name(fx->device), "other bits")) fail_msg("%s", kern_device_name(fx->device));
    fx_close(fx);
    return false;
}

/* Groups of 1, 2, 3, 4, 7, 8 heads, two kv heads; sequences on both sides of a tile's 64 rows. */
static void hopper_gives_the_bits_of_other_cards(void **state) {
    static const kern_attn_shape shapes[] = {{1, 1, 64, KERN_BF16},  {4, 2, 128, KERN_BF16}, {3, 1, 64, KERN_BF16},
                                             {4, 1, 128, KERN_BF16}, {7, 1, 64, KERN_BF16},  {8, 1, 64, KERN_BF16}};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        fixture fx;
        if (!open_hopper(&fx, 1 + (int)i % 2)) skip();
        problem p = problem_new(shapes[i], (const int[]){1, 129, 63, 64, 65, 20}, 6);
        check_hopper(&fx, p, true);
        problem_free(&p);
        fx_close(&fx);
    }
}

/* One split and two, three of a long one. */
static void hopper_gives_the_bits_of_other_cards_in_long_contexts(void **state) {
    (void)state;
    fixture fx;
    if (!open_hopper(&fx, 2)) skip();
    problem p = problem_new((kern_attn_shape){1, 1, 64, KERN_BF16}, (const int[]){1023, 1025, 1024}, 3);
    problem wide = problem_new((kern_attn_shape){2, 1, 128, KERN_BF16}, (const int[]){1090}, 1);
    problem longer = problem_new((kern_attn_shape){1, 1, 64, KERN_BF16}, (const int[]){2500}, 1);
    check_hopper(&fx, p, false);
    check_hopper(&fx, wide, true);
    check_hopper(&fx, longer, false);
    problem_free(&p);
    problem_free(&wide);
    problem_free(&longer);
    fx_close(&fx);
}

/* Chunks of prefill and rows that decode in the same steps, pages and what is not written yet being no numbers. */
static void run_mixed(fixture *fx, const problem *p, int page_size, float *out) {
    static const int rows[] = {61, 1, 37, 1, 129};
    const int mark = fx->n;
    cache c = cache_new(fx, p, page_size);
    int *order = rlf_calloc((size_t)p->rows, sizeof *order), done[16] = {0}, m, step = 0;
    do {
        m = 0;
        for (int s = 0; s < p->seqs; s++)
            for (int i = 0; i < rows[(s + step) % 5] && p->begin[s] + done[s] < p->begin[s + 1]; i++) order[m++] = p->begin[s] + done[s]++;
        if (m) paged_step(fx, p, &c, order, m, out);
        step++;
    } while (m);
    free(order);
    free(c.table);
    fx_release(fx, mark);
}

/* All rows in one step, the last first. */
static void run_backwards(fixture *fx, const problem *p, int page_size, float *out) {
    const int mark = fx->n;
    cache c = cache_new(fx, p, page_size);
    int *order = rlf_calloc((size_t)p->rows, sizeof *order);
    for (int i = 0; i < p->rows; i++) order[i] = p->rows - 1 - i;
    paged_step(fx, p, &c, order, p->rows, out);
    free(order);
    free(c.table);
    fx_release(fx, mark);
}

/* On Hopper and not, against packed rows without it. */
static void check_prefill(fixture *fx, problem p, int page_size) {
    float *out = zero_floats(out_size(&p));
    p.acts = KERN_BF16;
    fx->device->ctx->hopper = false;
    result packed = run_forward(fx, &p);
    for (int hopper = 0; hopper < 2; hopper++) {
        fx->device->ctx->hopper = hopper;
        run_mixed(fx, &p, page_size, out);
        same_bits("mixed", out, packed.out, out_size(&p));
        run_backwards(fx, &p, page_size, out);
        same_bits("backwards", out, packed.out, out_size(&p));
    }
    free(out);
    result_free(&packed);
}

/* Groups of 1, 2, 3, 4, 8, 18 heads, one kv head and two; every size of a box of keys. */
static void prefill_on_hopper_gives_the_bits_of_other_cards_and_of_packed_rows(void **state) {
    static const kern_attn_shape shapes[] = {{2, 2, 64, KERN_BF16}, {2, 1, 128, KERN_BF16}, {6, 2, 64, KERN_BF16},
                                             {4, 1, 64, KERN_BF16}, {8, 1, 128, KERN_BF16}, {18, 1, 64, KERN_BF16}};
    static const int page_sizes[] = {16, 32, 48, 64, 128};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        fixture fx;
        if (!open_hopper(&fx, 1 + (int)i % 2)) skip();
        problem p = problem_new(shapes[i], (const int[]){130, 3, 200, 64, 65, 40}, 6);
        check_prefill(&fx, p, page_sizes[i % 5]);
        if (i < 2) check_prefill(&fx, p, page_sizes[4 - i]);
        problem_free(&p);
        fx_close(&fx);
    }
}

/* Tiles on both sides of one boundary of splits and of two, and across; whose splits have a block of threads each, or one for all: that is
 * for large steps, which are smaller on the shim's second card, for it has few processors. */
static void prefill_of_long_contexts_on_hopper_gives_the_same_bits(void **state) {
    static const kern_attn_shape shapes[] = {{4, 2, 64, KERN_BF16}, {4, 2, 128, KERN_BF16}};
    (void)state;
    for (int i = 0; i < 4; i++) {
        fixture fx;
        if (!open_hopper(&fx, 1 + i / 2)) skip();
        problem p = problem_new(shapes[i % 2], (const int[]){i % 2 ? 1100 : 2100}, 1);
        p.acts = KERN_BF16;
        fx.device->ctx->hopper = false;
        result packed = run_forward(&fx, &p);
        fx.device->ctx->hopper = true;
        check_long(&fx, &p, &packed, 399, i / 2 ? 131 : 33);
        result_free(&packed);
        problem_free(&p);
        fx_close(&fx);
    }
}

/* ---- rows that decode: few have a kernel of their own on Hopper --------------------------------------------------------------------- */

/* Keys of all rows, without attention. */
static cache filled_cache(fixture *fx, const problem *p, int page_size) {
    cache c = cache_new(fx, p, page_size);
    const int mark = fx->n;
    int32_t *slots = rlf_calloc((size_t)p->rows, sizeof *slots);
    for (int s = 0; s < p->seqs; s++)
        for (int row = p->begin[s]; row < p->begin[s + 1]; row++) {
            const int pos = row - p->begin[s];
            slots[row] = c.table[s * c.max_pages + pos / page_size] * page_size + pos % page_size;
        }
    keep_rows(fx, p, &c, fx_as(fx, p->acts, p->qkv, qkv_size(p)), slots, p->rows);
    fx_release(fx, mark);
    free(slots);
    return c;
}

/* The last row of each sequence, alone and all in one step; the last three of each in one step, which are a tile. On Hopper and not. */
static void check_decoding(fixture *fx, const problem *p, int page_size) {
    const int mark = fx->n;
    float *expected = zero_floats(out_size(p)), *out = zero_floats(out_size(p));
    int last[16], run[48], runs = 0;
    cache c = filled_cache(fx, p, page_size);
    for (int s = 0; s < p->seqs; s++) {
        last[s] = p->begin[s + 1] - 1;
        for (int row = last[s] - 2; row <= last[s]; row++)
            if (row >= p->begin[s]) run[runs++] = row;
    }
    fx->device->ctx->hopper = false;
    paged_step(fx, p, &c, run, runs, expected);
    fx->device->ctx->hopper = true;
    paged_step(fx, p, &c, run, runs, out);
    same_bits("runs", out, expected, out_size(p));
    paged_step(fx, p, &c, last, p->seqs, out);
    same_bits("rows", out, expected, out_size(p));
    for (int s = 0; s < p->seqs; s++) {
        const size_t row = (size_t)(p->shape.heads * p->shape.head_dim), at = (size_t)last[s] * row;
        memset(out + at, 0, row * sizeof *out);
        paged_step(fx, p, &c, last + s, 1, out);
        same_bits("one row", out + at, expected + at, row);
    }
    free(c.table);
    free(expected);
    free(out);
    fx_release(fx, mark);
}

/* Contexts of 1, 2, 3, 4, 16, 17, 18 and 33 blocks of keys, on both sides of the boundaries of blocks and of splits. With a block of threads a
 * split; and, where the work space has no room for their results, with one for all. Groups of 1, 4, 7, 16 heads, every size of a page. On the
 * second card many rows have the kernel for many. */
static void rows_that_decode_give_the_bits_of_other_cards_be_they_few_or_many(void **state) {
    static const kern_attn_shape shapes[] = {{2, 2, 64, KERN_BF16}, {4, 1, 128, KERN_BF16}, {7, 1, 64, KERN_BF16}, {16, 1, 128, KERN_BF16}};
    static const int page_sizes[] = {16, 48, 64, 128}, lengths[] = {1, 64, 66, 191, 1024, 1026, 1090, 2051};
    (void)state;
    for (int i = 0; i < 6; i++) {
        fixture fx;
        if (!open_hopper(&fx, 1)) skip();
        fx_close(&fx);
        assert_true(fx_open(&fx, NULL, 1 + i % 3)); /* the third takes Hopper's kernels where it is told to */
        problem p = problem_new(shapes[i % 4], lengths, 8);
        p.acts = i < 4 ? KERN_BF16 : KERN_F32;
        if (i == 3) fx.device->ctx->scratch_floats = 50000; /* a few rows at a time */
        if (i > 3) fx.device->ctx->scratch_floats = 100;
        check_decoding(&fx, &p, page_sizes[i % 4]);
        problem_free(&p);
        fx_close(&fx);
    }
}

/* Rows after a sequence's last are another's, and may be no numbers. */
static void what_is_no_number_stays_in_its_sequence(void **state) {
    (void)state;
    fixture fx;
    if (!open_hopper(&fx, 1)) skip();
    problem p = problem_new((kern_attn_shape){2, 1, 64, KERN_BF16}, (const int[]){70, 10}, 2), alone;
    const size_t first = (size_t)p.begin[1] * (size_t)kern_qkv_width(p.shape);
    for (size_t i = first; i < qkv_size(&p); i++) p.qkv[i] = i % 2 ? INFINITY : NAN;
    for (size_t i = (size_t)p.begin[1] * 128; i < out_size(&p); i++) p.dout[i] = NAN;
    p.acts = KERN_BF16;
    alone = p;
    alone.rows = p.begin[1];
    alone.seqs = 1;
    result both = run_packed(&fx, &p), one = run_packed(&fx, &alone);
    same_results(&alone, &both, &one);
    result_free(&both);
    result_free(&one);
    problem_free(&p);
    fx_close(&fx);
}

static void powers_of_two_are_within_two_ulps_and_exact_where_they_can_be(void **state) {
    (void)state;
    for (int n = -126; n <= 127; n++) assert_true(kern_exp2((float)n) == ldexpf(1.0f, n));
    assert_true(kern_exp2(-INFINITY) == 0x1p-126f && kern_exp2(NAN) == 0x1p-126f && kern_exp2(-1e30f) == 0x1p-126f);
    for (uint32_t i = 0; i < 200000; i++) {
        const float x = 252.0f * rlf_rng_uniform(7, RLF_RNG_TEST, i, 3, 0) - 126.0f;
        const double expected = exp2(x), ulp = ldexp(1.0, (int)floor(x) - 23);
        if (!(fabs(kern_exp2(x) - expected) <= 2 * ulp)) fail_msg("2^%.9g is %.9g", (double)x, (double)kern_exp2(x));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_a_double_reference_but_for_rounded_probabilities),
        cmocka_unit_test(the_gradient_matches_that_of_the_double_reference),
        cmocka_unit_test(factors_are_rounded_to_the_nearest_bfloat16),
        cmocka_unit_test(attention_is_the_same_in_every_order_of_threads),
        cmocka_unit_test(a_packed_sequence_gives_the_bits_it_gives_alone),
        cmocka_unit_test(paged_attention_gives_the_bits_of_packed_attention),
        cmocka_unit_test(rows_of_a_step_may_come_in_any_order),
        cmocka_unit_test(a_copied_page_serves_like_the_original),
        cmocka_unit_test(a_head_without_tiles_gives_the_bits_of_float32),
        cmocka_unit_test(long_contexts_give_the_same_bits_split_or_not),
        cmocka_unit_test(work_space_for_a_part_at_a_time_gives_the_same_bits),
        cmocka_unit_test(activations_of_bfloat16_give_rounded_results),
        cmocka_unit_test(hopper_gives_the_bits_of_other_cards),
        cmocka_unit_test(hopper_gives_the_bits_of_other_cards_in_long_contexts),
        cmocka_unit_test(prefill_on_hopper_gives_the_bits_of_other_cards_and_of_packed_rows),
        cmocka_unit_test(prefill_of_long_contexts_on_hopper_gives_the_same_bits),
        cmocka_unit_test(rows_that_decode_give_the_bits_of_other_cards_be_they_few_or_many),
        cmocka_unit_test(what_is_no_number_stays_in_its_sequence),
        cmocka_unit_test(powers_of_two_are_within_two_ulps_and_exact_where_they_can_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
