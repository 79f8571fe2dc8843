/* Matrix products against their definition: one chain per element. Every comparison is of bits, for every instruction set and 1 to 4
 * threads; weights are stored as float32 and as bfloat16, and factors are either (but for cards those of bfloat16: test_tensor.c). */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/kernels/devices.h"

typedef struct shape {
    int m, n, k;
} shape;

static size_t area(int a, int b) { return (size_t)a * (size_t)b; }

static float *copy_of(const float *x, size_t n) { return memcpy(malloc((n ? n : 1) * sizeof *x), x, n * sizeof *x); }

/* ---- the definition --------------------------------------------------------------------------------------------------------------- */

static float same(float x) { return x; }

static float chain_of(const float *x, const float *w, int k) {
    float chain = 0;
    for (int l = 0; l < k; l++) chain = fmaf(x[l], w[l], chain);
    return chain;
}

/* x rounded to `bits` bits as if exponents had no bounds, then a float, or zero where it is below the normal ones. */
static float float_of(double x, int bits) {
    int exponent;
    const double fraction = frexp(x, &exponent), y = ldexp(rint(ldexp(fraction, bits)), exponent - bits);
    return fabs(y) < FLT_MIN ? copysignf(0.0f, (float)x) : (float)y;
}

static float flushed(float x) { return isfinite(x) ? float_of(x, 24) : x; }
static float rounded(float x) { return isfinite(x) ? float_of(flushed(x), 8) : x; }

/* a*b + c in one rounding, of floats that are not denormal, a*b exact in double. The sum in double, and what it lost; where it lost something its
 * last bit is made 1 (rounding to odd), so that rounding it again to 24 bits is right. */
static float flushed_fma(float a, float b, float c) {
    const double product = (double)a * (double)b, sum = product + (double)c;
    if (!isfinite(sum)) return (float)sum;
    const double back = sum - product, lost = (product - (sum - back)) + ((double)c - back);
    uint64_t word;
    memcpy(&word, &sum, sizeof word);
    if (lost != 0 && word % 2 == 0) word += (lost > 0) == (sum > 0) ? 1u : (uint64_t)-1;
    double odd;
    memcpy(&odd, &word, sizeof odd);
    return fabs(odd) > 0x1p-120 ? (float)odd : float_of(odd, 24);
}

static float chain_of_pairs(const float *x, const float *w, int k) {
    float chain = 0;
    for (int l = 0; l < k; l += 2) {
        chain = l + 1 < k ? flushed_fma(x[l + 1], w[l + 1], chain) : flushed_fma(0, 0, chain);
        chain = flushed_fma(x[l], w[l], chain);
    }
    return chain;
}

static float *each(float of(float), const float *x, size_t n) {
    float *y = malloc((n ? n : 1) * sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = of(x[i]);
    return y;
}

/* How weights are stored, bfloat16 holding their values exactly, and what is multiplied. */
typedef struct product_mode {
    kern_dtype stored, factors;
} product_mode;
static const product_mode MODES[] = {{KERN_F32, KERN_F32}, {KERN_BF16, KERN_F32}, {KERN_BF16, KERN_BF16}};
enum { N_MODES = sizeof MODES / sizeof *MODES };

static void reference_linear(kern_dtype factors, float *y, const float *x, const float *w, const float *bias, shape s, bool accumulate) {
    const bool pairs = factors == KERN_BF16;
    float (*const kept)(float) = pairs ? flushed : same;
    float *a = each(pairs ? rounded : same, x, area(s.m, s.k)), *b = each(kept, w, area(s.n, s.k));
    for (int i = 0; i < s.m; i++)
        for (int j = 0; j < s.n; j++) {
            float chain = (pairs ? chain_of_pairs : chain_of)(a + area(i, s.k), b + area(j, s.k), s.k), *to = &y[area(i, s.n) + (size_t)j];
            if (bias) chain = kept(chain + kept(bias[j]));
            *to = accumulate ? kept(kept(*to) + chain) : chain;
        }
    free(a), free(b);
}

static void reference_grad_input(float *dx, const float *dy, const float *w, shape s, bool accumulate) {
    for (int i = 0; i < s.m; i++)
        for (int l = 0; l < s.k; l++) {
            float chain = 0;
            for (int j = 0; j < s.n; j++) chain = fmaf(dy[area(i, s.n) + (size_t)j], w[area(j, s.k) + (size_t)l], chain);
            float *to = &dx[area(i, s.k) + (size_t)l];
            *to = accumulate ? *to + chain : chain;
        }
}

static void reference_grad_weight(float *dw, const float *dy, const float *x, shape s) {
    for (int j = 0; j < s.n; j++)
        for (int l = 0; l < s.k; l++)
            for (int i = 0; i < s.m; i++) {
                float *to = &dw[area(j, s.k) + (size_t)l];
                *to = fmaf(dy[area(i, s.n) + (size_t)j], x[area(i, s.k) + (size_t)l], *to);
            }
}

/* ---- comparisons ------------------------------------------------------------------------------------------------------------------ */

/* In every mode, everywhere. */
static void compare_linear(const float *x, const float *w, const float *bias, const float *old, shape s, bool accumulate) {
    for (int i = 0; i < N_MODES; i++) {
        const product_mode mode = MODES[i];
        float *expected = copy_of(old, area(s.m, s.n));
        reference_linear(mode.factors, expected, x, w, bias, s, accumulate);
        for (int d = 0; d < device_count; d++) {
            kern_queue *q = queues[d];
            if (on_tensor_cores(q, mode.factors)) continue;
            kern_tensor tx = tensor_of(q, KERN_F32, x, area(s.m, s.k)), tw = weights_of(q, mode.stored, w, area(s.n, s.k));
            kern_tensor tb = bias ? weights_of(q, mode.stored, bias, (size_t)s.n) : kern_none();
            kern_tensor ty = tensor_of(q, KERN_F32, old, area(s.m, s.n));
            kern_linear(q, ty, tx, tw, tb, mode.factors, s.m, s.n, s.k, accumulate);
            assert_ok(kern_sync(q));
            assert_holds(q, ty, expected, area(s.m, s.n));
            drop(tx), drop(tw), drop(tb), drop(ty);
        }
        free(expected);
    }
}

static void check_linear(shape s, bool with_bias, bool accumulate) {
    float *x = random_floats(area(s.m, s.k), 1), *w = random_weights(area(s.n, s.k), 2), *bias = random_weights((size_t)s.n, 3);
    float *old = random_floats(area(s.m, s.n), 4);
    compare_linear(x, w, with_bias ? bias : NULL, old, s, accumulate);
    free(x), free(w), free(bias), free(old);
}

static void check_grad_input(shape s, bool accumulate) {
    float *dy = random_floats(area(s.m, s.n), 1), *w = random_weights(area(s.n, s.k), 2);
    float *old = random_floats(area(s.m, s.k), 4), *expected = copy_of(old, area(s.m, s.k));
    reference_grad_input(expected, dy, w, s, accumulate);
    for (int d = 0; d < N_MODES * device_count; d++) {
        kern_queue *q = queues[d / N_MODES];
        const product_mode mode = MODES[d % N_MODES];
        if (on_tensor_cores(q, mode.factors)) continue;
        kern_tensor tdy = tensor_of(q, KERN_F32, dy, area(s.m, s.n)), tw = weights_of(q, mode.stored, w, area(s.n, s.k));
        kern_tensor tdx = tensor_of(q, KERN_F32, old, area(s.m, s.k));
        kern_linear_grad_input(q, tdx, tdy, tw, mode.factors, s.m, s.n, s.k, accumulate);
        assert_holds(q, tdx, expected, area(s.m, s.k));
        drop(tdy), drop(tw), drop(tdx);
    }
    free(dy), free(w), free(old), free(expected);
}

static void check_grad_weight(shape s) {
    float *dy = random_floats(area(s.m, s.n), 1), *x = random_floats(area(s.m, s.k), 2);
    float *old = random_floats(area(s.n, s.k), 4), *expected = copy_of(old, area(s.n, s.k));
    reference_grad_weight(expected, dy, x, s);
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        kern_tensor tdy = tensor_of(q, KERN_F32, dy, area(s.m, s.n)), tx = tensor_of(q, KERN_F32, x, area(s.m, s.k));
        kern_tensor tdw = tensor_of(q, KERN_F32, old, area(s.n, s.k));
        kern_linear_grad_weight(q, tdw, tdy, tx, KERN_F32, s.m, s.n, s.k);
        assert_holds(q, tdw, expected, area(s.n, s.k));
        drop(tdy), drop(tx), drop(tdw);
    }
    free(dy), free(x), free(old), free(expected);
}

/* ---- cases ------------------------------------------------------------------------------------------------------------------------ */

/* The i-th of a fixed random set, each side 1..70. */
static shape odd_shape(uint64_t i) {
    uint64_t side[3];
    for (uint32_t j = 0; j < 3; j++) side[j] = 1 + rlf_rng_below(1, RLF_RNG_TEST, i, j, 7, 70);
    return (shape){(int)side[0], (int)side[1], (int)side[2]};
}

/* Beyond one panel, step over depth, and task. */
static const shape large_shapes[] = {{1, 1100, 300}, {2, 700, 515}, {3, 260, 1025}, {4, 513, 257}, {5, 530, 256}, {70, 70, 770},
                                     {530, 40, 261}, {33, 1030, 31}};
enum { ODD_SHAPES = 60, LARGE_SHAPES = sizeof large_shapes / sizeof *large_shapes };

static void linear_is_one_chain_per_element(void **state) {
    (void)state;
    for (int m = 1; m <= 36; m++) check_linear((shape){m, 35, 19}, false, false);
    for (uint64_t i = 0; i < ODD_SHAPES; i++) check_linear(odd_shape(i), false, false);
    for (int i = 0; i < LARGE_SHAPES; i++) check_linear(large_shapes[i], false, false);
}

static void linear_adds_bias_then_old_value(void **state) {
    (void)state;
    for (uint64_t i = 0; i < ODD_SHAPES; i++) check_linear(odd_shape(100 + i), i % 2 == 0, i % 3 != 0);
    for (int i = 0; i < LARGE_SHAPES; i++) {
        check_linear(large_shapes[i], true, true);
        check_linear(large_shapes[i], true, false);
    }
}

/* Whole panels of weights read straight through: column counts that do and do not deal out evenly to tasks. */
static void few_rows_add_to_each_column_once(void **state) {
    static const int columns[] = {32, 64, 96, 160, 224, 608, 1056};
    (void)state;
    for (int m = 1; m <= 5; m++)
        for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
            check_linear((shape){m, columns[i], 37}, true, true);
            check_linear((shape){m, columns[i], 512}, false, i % 2 == 0);
        }
}

/* Depths of whole blocks, rows that fill their vectors and rows that leave lanes empty, columns that end tasks in tiles of every width. */
static void batched_rows_fill_lanes_or_leave_some(void **state) {
    static const int rows[] = {5, 10, 15, 16, 20, 26, 31, 32, 33, 42, 48, 64, 90, 112, 128};
    static const int columns[] = {2, 8, 16, 24, 40, 64, 72, 200, 512};
    (void)state;
    for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
        for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
            check_linear((shape){rows[m], columns[i], i % 2 ? 64 : 128}, (m + i) % 2 == 0, i % 3 == 0);
    check_linear((shape){16, 64, 1536}, false, false);
    check_linear((shape){32, 1032, 320}, true, true);
}

static void grad_input_is_one_chain_per_element(void **state) {
    (void)state;
    for (uint64_t i = 0; i < ODD_SHAPES; i++) check_grad_input(odd_shape(200 + i), i % 2 == 0);
    for (int i = 0; i < LARGE_SHAPES; i++) check_grad_input(large_shapes[i], i % 2 == 1);
}

static void grad_weight_continues_the_chain_of_the_old_value(void **state) {
    (void)state;
    for (uint64_t i = 0; i < ODD_SHAPES; i++) check_grad_weight(odd_shape(300 + i));
    for (int i = 0; i < LARGE_SHAPES; i++) check_grad_weight(large_shapes[i]);
}

static void grad_weight_of_row_blocks_equals_that_of_all_rows(void **state) {
    const shape s = {67, 29, 41};
    (void)state;
    float *dy = random_floats(area(s.m, s.n), 1), *x = random_floats(area(s.m, s.k), 2), *expected = calloc(area(s.n, s.k), sizeof(float));
    reference_grad_weight(expected, dy, x, s);
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        kern_tensor tdy = tensor_of(q, KERN_F32, dy, area(s.m, s.n)), tx = tensor_of(q, KERN_F32, x, area(s.m, s.k));
        kern_tensor tdw = tensor_of(q, KERN_F32, NULL, area(s.n, s.k));
        for (int begin = 0, rows = 1; begin < s.m; begin += rows, rows = rows * 2 < s.m - begin ? rows * 2 : s.m - begin)
            kern_linear_grad_weight(q, tdw, kern_at(tdy, area(begin, s.n)), kern_at(tx, area(begin, s.k)), KERN_F32, rows, s.n,
                                    s.k);
        assert_holds(q, tdw, expected, area(s.n, s.k));
        drop(tdy), drop(tx), drop(tdw);
    }
    free(dy), free(x), free(expected);
}

/* All rows at once, and in batches of every kind: each row's bits are those of the definition. */
static void check_batches(product_mode mode, shape s, const int *batch, size_t batches) {
    float *x = random_floats(area(s.m, s.k), 1), *w = random_weights(area(s.n, s.k), 2), *expected = malloc(area(s.m, s.n) * sizeof(float));
    reference_linear(mode.factors, expected, x, w, NULL, s, false);
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        if (on_tensor_cores(q, mode.factors)) continue;
        kern_tensor tx = tensor_of(q, KERN_F32, x, area(s.m, s.k)), tw = weights_of(q, mode.stored, w, area(s.n, s.k));
        kern_tensor ty = tensor_of(q, KERN_F32, NULL, area(s.m, s.n));
        const size_t step = batches > 100 && strstr(kern_device_name(kern_queue_device(q)), "portable") ? 13 : 1; /* it takes its time */
        for (size_t b = 0; b < batches; b += step) {
            kern_zero(q, ty, area(s.m, s.n));
            for (int row = 0; row < s.m; row += batch[b]) {
                int rows = batch[b] < s.m - row ? batch[b] : s.m - row;
                kern_linear(q, kern_at(ty, area(row, s.n)), kern_at(tx, area(row, s.k)), tw, kern_none(), mode.factors, rows, s.n, s.k,
                            false);
            }
            assert_holds(q, ty, expected, area(s.m, s.n));
        }
        drop(tx), drop(tw), drop(ty);
    }
    free(x), free(w), free(expected);
}

static void a_row_is_the_same_alone_and_among_others(void **state) {
    static const int batch[] = {1, 2, 3, 4, 5, 7, 13, 14, 15, 16, 32, 61, 64};
    (void)state;
    for (int i = 0; i < N_MODES; i++) {
        check_batches(MODES[i], (shape){64, 97, 530}, batch, sizeof batch / sizeof *batch);
        check_batches(MODES[i], (shape){64, 97, 531}, batch, sizeof batch / sizeof *batch);
        check_batches(MODES[i], (shape){64, 96, 512}, batch, sizeof batch / sizeof *batch);
    }
}

static void a_row_is_the_same_in_every_number_of_rows_up_to_200(void **state) {
    int batch[200];
    (void)state;
    for (int i = 0; i < 200; i++) batch[i] = i + 1;
    for (int i = 0; i < N_MODES; i++) check_batches(MODES[i], (shape){200, 32, 128}, batch, on_cards() ? 5 : 200);
}

/* Floats of every kind, `spread` exponents up from `lowest`: 0 is that of denormals and zero, 255 that of infinities. NaNs are none of them: a NaN comes
 * out where one went in, but not with the same bits everywhere. */
static float *floats_between(size_t n, uint32_t stream, int lowest, int spread) {
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        uint32_t word[4];
        rlf_rng_block(9, RLF_RNG_TEST, i, stream, 1, word);
        uint32_t bits = (word[0] & 0x807fffffu) | ((uint32_t)lowest + word[1] % (uint32_t)spread) << 23;
        memcpy(&x[i], &bits, sizeof bits);
    }
    return x;
}

static void cut_to_bfloat16(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0xffff0000u;
        memcpy(&x[i], &bits, sizeof bits);
    }
}

static void bfloat16_factors_take_denormals_for_zeros(void **state) {
    static const shape shapes[] = {{3, 64, 65}, {20, 48, 128}, {40, 33, 7}}; /* by streams, by lanes, by panels */
    static const struct { int x, w, spread; } exponents[] = {{0, 127, 3}, {127, 0, 3}, {60, 60, 12}, {63, 63, 2}, {1, 120, 16}, {180, 190, 3}};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t e = 0; e < sizeof exponents / sizeof *exponents; e++) {
            const shape s = shapes[i];
            const int spread = exponents[e].spread;
            float *x = floats_between(area(s.m, s.k), 1, exponents[e].x, spread), *w = floats_between(area(s.n, s.k), 2, exponents[e].w, spread);
            float *bias = floats_between((size_t)s.n, 3, 0, 3), *old = floats_between(area(s.m, s.n), 4, 0, 4);
            cut_to_bfloat16(w, area(s.n, s.k));
            cut_to_bfloat16(bias, (size_t)s.n);
            compare_linear(x, w, bias, old, s, true);
            compare_linear(x, w, NULL, old, s, false);
            free(x), free(w), free(bias), free(old);
        }
}

/* Sums just below the least normal float: 2^-126 - 2^-b rounds to 24 bits as a denormal, and so is zero, for b up to 150, and up to
 * 2^-126 from 151 on, though 150 too would round up to it among denormals. */
static void what_is_a_denormal_is_judged_after_rounding(void **state) {
    static const shape shapes[] = {{3, 32, 128}, {16, 48, 128}, {40, 33, 4}}; /* by streams, by lanes, by panels */
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape s = shapes[i];
        float *x = calloc(area(s.m, s.k), sizeof *x), *w = calloc(area(s.n, s.k), sizeof *w), *old = calloc(area(s.m, s.n), sizeof *old);
        for (int r = 0; r < s.m; r++) {
            x[area(r, s.k)] = 0x1p-63f;
            x[area(r, s.k) + 3] = 0x1p-75f;
        }
        for (int c = 0; c < s.n; c++) {
            w[area(c, s.k)] = c % 2 ? 0x1p-63f : -0x1p-63f;
            w[area(c, s.k) + 3] = -ldexpf(c % 2 ? 1 : -1, -(73 + c % 8 / 2)); /* b = 148 ... 151 */
        }
        compare_linear(x, w, NULL, old, s, false);
        free(x), free(w), free(old);
    }
}

static void rows_outside_the_product_are_untouched(void **state) {
    const shape s = {5, 37, 21};
    (void)state;
    float *x = random_floats(area(s.m, s.k), 1), *w = random_floats(area(s.n, s.k), 2);
    size_t n = area(s.m + 2, s.n);
    float *expected = random_floats(n, 3), *old = copy_of(expected, n);
    reference_linear(KERN_F32, expected + s.n, x, w, NULL, s, false);
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        kern_tensor tx = tensor_of(q, KERN_F32, x, area(s.m, s.k)), tw = tensor_of(q, KERN_F32, w, area(s.n, s.k));
        kern_tensor ty = tensor_of(q, KERN_F32, old, n);
        kern_linear(q, kern_at(ty, (size_t)s.n), tx, tw, kern_none(), KERN_F32, s.m, s.n, s.k, false);
        assert_holds(q, ty, expected, n);
        drop(tx), drop(tw), drop(ty);
    }
    free(x), free(w), free(old), free(expected);
}

static void empty_sides_are_allowed(void **state) {
    const float ones[4] = {1, 1, 1, 1}, bias[2] = {3, 4}, with_bias[4] = {4, 5, 4, 5};
    (void)state;
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        kern_tensor y = tensor_of(q, KERN_F32, ones, 4), empty = tensor_of(q, KERN_F32, NULL, 0), b = tensor_of(q, KERN_F32, bias, 2);
        kern_linear(q, y, empty, y, kern_none(), KERN_F32, 0, 2, 2, false);
        kern_linear_grad_weight(q, y, empty, empty, KERN_F32, 0, 2, 2);
        assert_holds(q, y, ones, 4);
        kern_linear(q, y, empty, empty, b, KERN_F32, 2, 2, 0, true);
        assert_holds(q, y, with_bias, 4);
        drop(y), drop(empty), drop(b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_one_chain_per_element),
        cmocka_unit_test(linear_adds_bias_then_old_value),
        cmocka_unit_test(few_rows_add_to_each_column_once),
        cmocka_unit_test(batched_rows_fill_lanes_or_leave_some),
        cmocka_unit_test(grad_input_is_one_chain_per_element),
        cmocka_unit_test(grad_weight_continues_the_chain_of_the_old_value),
        cmocka_unit_test(grad_weight_of_row_blocks_equals_that_of_all_rows),
        cmocka_unit_test(a_row_is_the_same_alone_and_among_others),
        cmocka_unit_test(a_row_is_the_same_in_every_number_of_rows_up_to_200),
        cmocka_unit_test(bfloat16_factors_take_denormals_for_zeros),
        cmocka_unit_test(what_is_a_denormal_is_judged_after_rounding),
        cmocka_unit_test(rows_outside_the_product_are_untouched),
        cmocka_unit_test(empty_sides_are_allowed),
    };
    return cmocka_run_group_tests_name("linear", tests, open_devices, close_devices);
}
