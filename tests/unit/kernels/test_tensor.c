/* Products with bfloat16 weights: close to the sums in double on every device, and on tensor cores in one order whatever the kernel, the
 * number of rows and the card. What is compared with a sum has factors that bfloat16 holds; what is compared with bits need not. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/scalar.h"
#include "tests/unit/kernels/devices.h"

typedef struct shape {
    int m, n, k;
} shape;

typedef enum product { FORWARD, GRAD_INPUT, GRAD_WEIGHT, PRODUCTS } product;

static size_t area(int a, int b) { return (size_t)a * (size_t)b; }

/* What a product is made of, on the host: left is x or dy, right is w or x. */
typedef struct factors {
    float *left, *right, *bias, *old;
} factors;

/* Rows, columns and depth of the result. */
static shape result_of(product way, shape s) {
    return way == FORWARD ? s : way == GRAD_INPUT ? (shape){s.m, s.k, s.n} : (shape){s.n, s.k, s.m};
}
static size_t left_size(product way, shape s) { return area(s.m, way == FORWARD ? s.k : s.n); }
static size_t right_size(product way, shape s) { return area(way == GRAD_WEIGHT ? s.m : s.n, s.k); }

static factors factors_of(product way, shape s) {
    const shape r = result_of(way, s);
    return (factors){random_weights(left_size(way, s), 1), random_weights(right_size(way, s), 2), random_weights((size_t)s.n, 3),
                     random_floats(area(r.m, r.n), 4)};
}

static void free_factors(factors *f) { free(f->left), free(f->right), free(f->bias), free(f->old); }

/* The result, into `to`. The weights lie `offset` elements from their buffer's beginning. */
static void compute(kern_queue *q, product way, shape s, const factors *f, bool with_bias, bool accumulate, size_t offset, float *to) {
    const shape r = result_of(way, s);
    const size_t left = left_size(way, s), right = right_size(way, s);
    float *moved = calloc(right + offset + 1, sizeof *moved);
    memcpy(moved + offset, f->right, right * sizeof *moved);
    kern_tensor a = tensor_of(q, KERN_F32, f->left, left), y = tensor_of(q, KERN_F32, f->old, area(r.m, r.n));
    kern_tensor b = way == GRAD_WEIGHT ? tensor_of(q, KERN_F32, f->right, right) : weights_of(q, KERN_BF16, moved, right + offset);
    kern_tensor bias = with_bias ? weights_of(q, KERN_BF16, f->bias, (size_t)s.n) : kern_none();
    if (way == FORWARD)
        kern_linear(q, y, a, kern_at(b, offset), bias, KERN_BF16, s.m, s.n, s.k, accumulate);
    else if (way == GRAD_INPUT)
        kern_linear_grad_input(q, y, a, kern_at(b, offset), KERN_BF16, s.m, s.n, s.k, accumulate);
    else
        kern_linear_grad_weight(q, y, a, b, KERN_BF16, s.m, s.n, s.k);
    kern_download(q, to, y, area(r.m, r.n));
    assert_ok(kern_sync(q));
    drop(a), drop(b), drop(bias), drop(y);
    free(moved);
}

static void same_bits(kern_queue *q, const char *what, const float *got, const float *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &expected[i], sizeof *got))
            fail_msg("%s, %s: element %zu of %zu is %a, expected %a", kern_device_name(kern_queue_device(q)), what, i, n, (double)got[i],
                     (double)expected[i]);
}

static float *rounded(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = kern_float_of_bf16(kern_bf16_of_float(x[i]));
    return x;
}

/* Activations of bfloat16 in (left, and right of the weight gradient) and out, where it is not added to. */
static void compute_narrow(kern_queue *q, product way, shape s, const factors *f, bool with_bias, bool narrow_out, float *to) {
    const shape r = result_of(way, s);
    const size_t n = area(r.m, r.n);
    kern_tensor a = weights_of(q, KERN_BF16, f->left, left_size(way, s)), b = weights_of(q, KERN_BF16, f->right, right_size(way, s));
    kern_tensor wide = tensor_of(q, KERN_F32, f->old, n), y = narrow_out ? tensor_of(q, KERN_BF16, NULL, n) : wide;
    kern_tensor bias = with_bias ? weights_of(q, KERN_BF16, f->bias, (size_t)s.n) : kern_none();
    if (way == FORWARD)
        kern_linear(q, y, a, b, bias, KERN_BF16, s.m, s.n, s.k, !narrow_out);
    else if (way == GRAD_INPUT)
        kern_linear_grad_input(q, y, a, b, KERN_BF16, s.m, s.n, s.k, !narrow_out);
    else
        kern_linear_grad_weight(q, y, a, b, KERN_BF16, s.m, s.n, s.k);
    if (narrow_out) kern_convert(q, wide, y, n);
    kern_download(q, to, wide, n);
    assert_ok(kern_sync(q));
    drop(a), drop(b), drop(bias), drop(wide);
    if (narrow_out) drop(y);
}

/* ---- against sums in double -------------------------------------------------------------------------------------------------------- */

/* Factors of the result's element (i, j) at depth d. */
static double left_of(product way, shape s, const factors *f, int i, int d) {
    return (double)f->left[way == FORWARD ? area(i, s.k) + (size_t)d : way == GRAD_INPUT ? area(i, s.n) + (size_t)d : area(d, s.n) + (size_t)i];
}
static double right_of(product way, shape s, const factors *f, int j, int d) {
    return (double)f->right[way == FORWARD ? area(j, s.k) + (size_t)d : area(d, s.k) + (size_t)j];
}

/* Every term is rounded once or less, each time to 2^-23 of what has been added so far or better (a card's tensor cores cut off where they
 * might round, 16 terms at a time). */
static void close_to_sums(kern_queue *q, product way, shape s, const factors *f, bool with_bias, bool accumulate, const float *got) {
    const shape r = result_of(way, s);
    for (int i = 0; i < r.m; i++)
        for (int j = 0; j < r.n; j++) {
            const size_t at = area(i, r.n) + (size_t)j;
            double sum = accumulate ? (double)f->old[at] : 0, size = fabs(sum);
            for (int d = 0; d < r.k; d++) {
                const double term = left_of(way, s, f, i, d) * right_of(way, s, f, j, d);
                sum += term;
                size += fabs(term);
            }
            if (with_bias && way == FORWARD) {
                sum += (double)f->bias[j];
                size += fabs((double)f->bias[j]);
            }
            if (!(fabs((double)got[at] - sum) <= (r.k + 2) * 0x1p-23 * size))
                fail_msg("%s: %d x %d x %d, way %d, element %d, %d is %a, expected %a", kern_device_name(kern_queue_device(q)), s.m, s.n,
                         s.k, way, i, j, (double)got[at], sum);
        }
}

/* All devices; and cards with each other's bits. */
static void check(product way, shape s, bool with_bias, bool accumulate, size_t offset) {
    const shape r = result_of(way, s);
    const size_t n = area(r.m, r.n);
    factors f = factors_of(way, s);
    float *got = malloc(n * sizeof *got), *card = malloc(n * sizeof *card);
    bool have_card = false;
    for (int d = 0; d < device_count; d++) {
        compute(queues[d], way, s, &f, with_bias, accumulate, offset, got);
        if (!on_tensor_cores(queues[d], KERN_BF16) || !have_card)
            close_to_sums(queues[d], way, s, &f, with_bias, accumulate || way == GRAD_WEIGHT, got);
        if (!on_tensor_cores(queues[d], KERN_BF16)) continue;
        if (have_card) same_bits(queues[d], "another card", got, card, n);
        memcpy(card, got, n * sizeof *got);
        have_card = true;
    }
    free(got), free(card);
    free_factors(&f);
}

/* Each side 1..max, the i-th of a fixed random set. */
static shape random_shape(uint64_t i, int max) {
    uint64_t side[3];
    for (uint32_t j = 0; j < 3; j++) side[j] = 1 + rlf_rng_below(2, RLF_RNG_TEST, i, j, 7, (uint32_t)max);
    return (shape){(int)side[0], (int)side[1], (int)side[2]};
}

static void products_are_close_to_sums_in_double(void **state) {
    (void)state;
    for (int way = 0; way < PRODUCTS; way++)
        for (uint64_t i = 0; i < 12; i++) check((product)way, random_shape(100 * (uint64_t)way + i, i < 8 ? 40 : 200), i % 2, i % 3 == 0, 0);
}

/* Sides that are multiples of 8, so that all copies are asynchronous, and depths about the ends of steps. */
static void aligned_products_are_close_to_sums_in_double(void **state) {
    static const int depths[] = {8, 16, 64, 72, 128, 136, 640, 720};
    (void)state;
    for (int way = 0; way < PRODUCTS; way++)
        for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
            const int d = depths[i];
            const shape s = way == FORWARD ? (shape){3 + 9 * (int)i, 72, d} : way == GRAD_INPUT ? (shape){65, d, 72} : (shape){d, 136, 72};
            check((product)way, s, true, i % 2, 8 * i);
        }
}

/* Several tiles a block, narrow and wide, more steps than there are stages; and every number of rows that has a kernel of its own. */
static void large_products_are_close_to_sums_in_double(void **state) {
    static const shape shapes[] = {{250, 1000, 336}, {400, 520, 264}};
    static const int rows[] = {1, 8, 9, 16, 31, 64, 65, 128, 200, 256, 257};
    (void)state;
    for (int way = 0; way < PRODUCTS; way++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check((product)way, shapes[i], true, i % 2, 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check(FORWARD, (shape){rows[i], 200, 1160}, i % 2, i % 3 == 0, 0);
}

static void weights_may_begin_anywhere(void **state) {
    (void)state;
    for (size_t offset = 1; offset < 8; offset += 2) {
        check(FORWARD, (shape){5, 24, 80}, false, false, offset);
        check(GRAD_INPUT, (shape){5, 24, 80}, false, false, offset);
    }
}

/* ---- one order --------------------------------------------------------------------------------------------------------------------- */

/* Rows of the forward product `batch` at a time against all at once. */
static void check_batch(kern_queue *q, shape s, const factors *f, int batch, const float *expected) {
    float *got = malloc(area(batch, s.n) * sizeof *got);
    for (int begin = 0; begin < s.m; begin += batch) {
        const int rows = batch < s.m - begin ? batch : s.m - begin;
        const factors part = {f->left + area(begin, s.k), f->right, f->bias, f->old + area(begin, s.n)};
        char what[64];
        snprintf(what, sizeof what, "%d rows from %d on", rows, begin);
        compute(q, FORWARD, (shape){rows, s.n, s.k}, &part, true, false, 0, got);
        same_bits(q, what, got, expected + area(begin, s.n), area(rows, s.n));
    }
    free(got);
}

static void a_row_is_the_same_in_every_number_of_rows(void **state) {
    const shape s = {130, 19, 100};
    (void)state;
    factors f = factors_of(FORWARD, s);
    float *expected = malloc(area(s.m, s.n) * sizeof *expected);
    for (int d = 0; d < device_count; d++) {
        compute(queues[d], FORWARD, s, &f, true, false, 0, expected);
        for (int batch = 1; batch < s.m; batch++) check_batch(queues[d], (shape){batch > 40 ? batch : 40, s.n, s.k}, &f, batch, expected);
    }
    free(expected);
    free_factors(&f);
}

/* As many columns as it takes for tiles to be chosen, narrow and wide ones. */
static void tiles_and_few_rows_give_the_same_bits(void **state) {
    static const shape shapes[] = {{66, 8456, 40}, {130, 4300, 33}, {130, 16904, 24}};
    static const int batches[] = {64, 33, 9};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape s = shapes[i];
        factors f = factors_of(FORWARD, s);
        float *expected = malloc(area(s.m, s.n) * sizeof *expected);
        for (int d = 0; d < device_count; d++) {
            if (!on_tensor_cores(queues[d], KERN_BF16)) continue;
            compute(queues[d], FORWARD, s, &f, true, false, 0, expected);
            check_batch(queues[d], s, &f, batches[i], expected);
        }
        free(expected);
        free_factors(&f);
    }
}

/* The three products are one: of x and w, of dy = x and the weights' transpose, of both transposes. */
static void check_gradients(shape s) {
    factors f = factors_of(FORWARD, s), by_input = f, by_weight = f;
    const size_t n = area(s.m, s.n);
    float *expected = malloc(n * sizeof *expected), *got = malloc(n * sizeof *got), *left = random_floats(area(s.m, s.k), 5);
    float *left_t = malloc(area(s.m, s.k) * sizeof *left_t), *right_t = malloc(area(s.n, s.k) * sizeof *right_t), *zeros = calloc(n, sizeof *zeros);
    for (int d = 0; d < s.k; d++) {
        for (int i = 0; i < s.m; i++) left_t[area(d, s.m) + (size_t)i] = left[area(i, s.k) + (size_t)d];
        for (int j = 0; j < s.n; j++) right_t[area(d, s.n) + (size_t)j] = f.right[area(j, s.k) + (size_t)d];
    }
    memcpy(f.left, left, area(s.m, s.k) * sizeof *left);
    by_input.right = right_t;
    by_weight = (factors){left_t, right_t, f.bias, zeros};
    for (int d = 0; d < device_count; d++) {
        if (!on_tensor_cores(queues[d], KERN_BF16)) continue;
        compute(queues[d], FORWARD, s, &f, false, false, 0, expected);
        compute(queues[d], GRAD_INPUT, (shape){s.m, s.k, s.n}, &by_input, false, false, 0, got);
        same_bits(queues[d], "gradient of the input", got, expected, n);
        compute(queues[d], GRAD_WEIGHT, (shape){s.k, s.m, s.n}, &by_weight, false, false, 0, got);
        same_bits(queues[d], "gradient of the weights", got, expected, n);
    }
    free(expected), free(got), free(left), free(left_t), free(right_t), free(zeros);
    free_factors(&f);
}

/* Narrow tiles, wide tiles; few rows with blocks of one warp, two and four. */
static void gradients_have_the_order_of_the_forward_product(void **state) {
    (void)state;
    check_gradients((shape){77, 90, 150});
    check_gradients((shape){20, 1100, 40});
    check_gradients((shape){40, 2100, 24});
    check_gradients((shape){130, 16904, 21});
}

static void activations_count_as_the_nearest_bfloat16(void **state) {
    const shape s = {70, 40, 60};
    (void)state;
    factors f = factors_of(FORWARD, s);
    float *got = malloc(area(s.m, s.n) * sizeof *got), *expected = malloc(area(s.m, s.n) * sizeof *expected);
    float *exact = random_floats(area(s.m, s.k), 6), *nearest = malloc(area(s.m, s.k) * sizeof *nearest);
    factors of_exact = f, of_nearest = f;
    of_exact.left = exact;
    of_nearest.left = nearest;
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        if (!on_tensor_cores(q, KERN_BF16)) continue;
        kern_tensor wide = tensor_of(q, KERN_F32, exact, area(s.m, s.k)), half = tensor_of(q, KERN_BF16, NULL, area(s.m, s.k));
        kern_convert(q, half, wide, area(s.m, s.k));
        kern_convert(q, wide, half, area(s.m, s.k));
        kern_download(q, nearest, wide, area(s.m, s.k));
        compute(q, FORWARD, s, &of_nearest, false, false, 0, expected);
        compute(q, FORWARD, s, &of_exact, false, false, 0, got);
        same_bits(q, "rounded before", got, expected, area(s.m, s.n));
        drop(wide), drop(half);
    }
    free(got), free(expected), free(exact), free(nearest);
    free_factors(&f);
}

/* The chain begins with what is there, and takes 16 rows at a time. */
static void a_weight_gradient_in_parts_of_16_rows_is_that_of_all_rows(void **state) {
    const shape s = {150, 30, 70};
    (void)state;
    factors f = factors_of(GRAD_WEIGHT, s);
    const size_t n = area(s.n, s.k);
    float *expected = malloc(n * sizeof *expected), *got = malloc(n * sizeof *got);
    for (int d = 0; d < device_count; d++) {
        compute(queues[d], GRAD_WEIGHT, s, &f, false, false, 0, expected);
        memcpy(got, f.old, n * sizeof *got);
        for (int begin = 0, rows = 16; begin < s.m; begin += rows, rows = rows * 2 < s.m - begin ? rows * 2 : s.m - begin) {
            const factors part = {f.left + area(begin, s.n), f.right + area(begin, s.k), f.bias, got};
            compute(queues[d], GRAD_WEIGHT, (shape){rows, s.n, s.k}, &part, false, false, 0, got);
        }
        same_bits(queues[d], "in parts", got, expected, n);
    }
    free(expected), free(got);
    free_factors(&f);
}

static void empty_sides_are_allowed(void **state) {
    const float ones[4] = {1, 1, 1, 1}, bias[2] = {3, 4}, with_bias[4] = {4, 5, 4, 5};
    (void)state;
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        kern_tensor y = tensor_of(q, KERN_F32, ones, 4), empty = tensor_of(q, KERN_F32, NULL, 0), b = tensor_of(q, KERN_F32, bias, 2);
        kern_tensor w = tensor_of(q, KERN_BF16, NULL, 4);
        kern_linear(q, y, empty, w, kern_none(), KERN_BF16, 0, 2, 2, false);
        kern_linear_grad_weight(q, y, empty, empty, KERN_BF16, 0, 2, 2);
        assert_holds(q, y, ones, 4);
        kern_linear(q, y, empty, w, b, KERN_BF16, 2, 2, 0, true);
        assert_holds(q, y, with_bias, 4);
        kern_linear_grad_input(q, y, empty, w, KERN_BF16, 2, 0, 2, true);
        assert_holds(q, y, with_bias, 4);
        drop(y), drop(empty), drop(b), drop(w);
    }
}

static void check_narrow(kern_queue *q, product way, shape s, bool with_bias) {
    const shape r = result_of(way, s);
    const size_t n = area(r.m, r.n);
    factors f = factors_of(way, s);
    float *wide = malloc(n * sizeof *wide), *narrow = malloc(n * sizeof *narrow);
    for (int out = 0; out < (way == GRAD_WEIGHT ? 1 : 2); out++) {
        compute(q, way, s, &f, with_bias, !out, 0, wide);
        compute_narrow(q, way, s, &f, with_bias, out, narrow);
        same_bits(q, out ? "bfloat16 in and out" : "bfloat16 in", narrow, out ? rounded(wide, n) : wide, n);
    }
    free(wide), free(narrow);
    free_factors(&f);
}

/* What float32 ones of the same values give, rounded: few rows and many, aligned and not. */
static void activations_of_bfloat16_give_rounded_results(void **state) {
    static const shape shapes[] = {{3, 24, 40}, {70, 33, 17}, {130, 72, 64}, {20, 7, 130}};
    (void)state;
    if (!on_cards()) skip();
    for (int d = 0; d < device_count; d++)
        for (int i = 0; i < 4 * PRODUCTS && on_tensor_cores(queues[d], KERN_BF16); i++)
            check_narrow(queues[d], (product)(i % PRODUCTS), shapes[i / PRODUCTS], i % 2);
}

/* The product that ends with SwiGLU against the two operations; s.n is F, and the weights lie `offset` elements into their buffer. */
static void check_gated(kern_queue *q, shape s, kern_dtype dtype, kern_dtype acts, size_t offset) {
    const size_t n = area(s.m, s.n), w = 2 * area(s.n, s.k) + offset, x = area(s.m, s.k);
    float *left = random_floats(x, 1), *right = random_weights(w, 2);
    float *got = malloc(n * sizeof *got), *expected = malloc(n * sizeof *expected);
    kern_tensor wide = tensor_of(q, KERN_F32, left, x), a = tensor_of(q, acts, NULL, x), b = weights_of(q, dtype, right, w);
    kern_tensor gate_up = tensor_of(q, acts, NULL, 2 * n), y = tensor_of(q, acts, NULL, n), y_wide = tensor_of(q, KERN_F32, NULL, n);
    kern_convert(q, a, wide, x);
    for (int apart = 0; apart < 2; apart++) {
        if (apart) {
            kern_linear(q, gate_up, a, kern_at(b, offset), kern_none(), dtype, s.m, 2 * s.n, s.k, false);
            kern_swiglu(q, y, gate_up, s.m, s.n);
        } else {
            kern_linear_swiglu(q, y, gate_up, a, kern_at(b, offset), dtype, s.m, s.n, s.k);
        }
        kern_convert(q, y_wide, y, n);
        kern_download(q, apart ? expected : got, y_wide, n);
        assert_ok(kern_sync(q));
    }
    same_bits(q, "a product and its SwiGLU", got, expected, n);
    free(left), free(right), free(got), free(expected);
    drop(wide), drop(a), drop(b), drop(gate_up), drop(y), drop(y_wide);
}

/* A product whose x goes through RMSNorm against the operations one by one; gated, s.n is F. */
static void check_normed(kern_queue *q, shape s, kern_dtype dtype, bool gated, bool with_bias) {
    const float eps = 1e-6f;
    const size_t n = area(s.m, s.n), w = (gated ? 2 : 1) * area(s.n, s.k), x = area(s.m, s.k);
    const kern_dtype acts = kern_activations(kern_queue_device(q), dtype);
    float *left = random_floats(x, 1), *right = random_weights(w, 2), *norm = random_weights((size_t)s.k, 3), *bias = random_weights((size_t)s.n, 4);
    float *got = malloc(n * sizeof *got), *expected = malloc(n * sizeof *expected);
    kern_tensor a = tensor_of(q, KERN_F32, left, x), b = weights_of(q, dtype, right, w), scale = weights_of(q, dtype, norm, (size_t)s.k);
    kern_tensor added = with_bias ? weights_of(q, dtype, bias, (size_t)s.n) : kern_none();
    kern_tensor normed = tensor_of(q, acts, NULL, x), gate_up = tensor_of(q, acts, NULL, 2 * n), y = tensor_of(q, acts, NULL, n);
    kern_tensor y_wide = tensor_of(q, KERN_F32, NULL, n);
    for (int apart = 0; apart < 2; apart++) {
        if (apart) kern_rmsnorm(q, normed, a, scale, eps, s.m, s.k);
        if (apart && gated) kern_linear_swiglu(q, y, gate_up, normed, b, dtype, s.m, s.n, s.k);
        else if (apart) kern_linear(q, y, normed, b, added, dtype, s.m, s.n, s.k, false);
        else if (gated) kern_norm_linear_swiglu(q, y, gate_up, normed, a, scale, eps, b, dtype, s.m, s.n, s.k);
        else kern_norm_linear(q, y, normed, a, scale, eps, b, added, dtype, s.m, s.n, s.k);
        kern_convert(q, y_wide, y, n);
        kern_download(q, apart ? expected : got, y_wide, n);
        assert_ok(kern_sync(q));
    }
    same_bits(q, "a norm and its product", got, expected, n);
    free(left), free(right), free(norm), free(bias), free(got), free(expected);
    drop(a), drop(b), drop(scale), drop(normed), drop(gate_up), drop(y), drop(y_wide);
    if (with_bias) drop(added);
}

/* Rows that have a kernel of their own, a few at a time and all together, and one more; depths about the ends of stages, and too deep. */
static void a_product_of_a_norm_gives_the_bits_of_both(void **state) {
    static const int rows[] = {1, 2, 5, 8, 9};
    static const shape shapes[] = {{0, 1, 8}, {0, 7, 130}, {0, 40, 128}, {0, 33, 136}, {0, 200, 520}, {0, 70, 2560}, {0, 24, 8192}};
    (void)state;
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows * (sizeof shapes / sizeof *shapes); i++) {
            const shape of = shapes[i % (sizeof shapes / sizeof *shapes)], s = {rows[i / (sizeof shapes / sizeof *shapes)], of.n, of.k};
            check_normed(queues[d], s, KERN_BF16, false, i % 2);
            check_normed(queues[d], s, KERN_BF16, true, false);
            if (i % 9 == 0) check_normed(queues[d], s, KERN_F32, i % 2, false);
        }
}

/* Every kernel for few rows, for some and for many; F about the ends of tiles, of one block and of many; aligned and not. */
static void a_product_with_swiglu_gives_the_bits_of_both(void **state) {
    static const int rows[] = {1, 5, 8, 9, 16, 17, 32, 33, 64, 65, 130, 300};
    static const shape shapes[] = {{0, 1, 24}, {0, 7, 130}, {0, 33, 17}, {0, 72, 64}, {0, 200, 144}, {0, 1100, 40}};
    (void)state;
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows * (sizeof shapes / sizeof *shapes); i++) {
            const shape of = shapes[i % (sizeof shapes / sizeof *shapes)], s = {rows[i / (sizeof shapes / sizeof *shapes)], of.n, of.k};
            check_gated(queues[d], s, KERN_BF16, kern_activations(kern_queue_device(queues[d]), KERN_BF16), 0);
            if (i % 3 == 0) check_gated(queues[d], s, KERN_BF16, KERN_F32, i % 2);
            if (i % 7 == 0) check_gated(queues[d], s, KERN_F32, KERN_F32, 0);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_close_to_sums_in_double),
        cmocka_unit_test(aligned_products_are_close_to_sums_in_double),
        cmocka_unit_test(large_products_are_close_to_sums_in_double),
        cmocka_unit_test(weights_may_begin_anywhere),
        cmocka_unit_test(a_row_is_the_same_in_every_number_of_rows),
        cmocka_unit_test(tiles_and_few_rows_give_the_same_bits),
        cmocka_unit_test(gradients_have_the_order_of_the_forward_product),
        cmocka_unit_test(activations_count_as_the_nearest_bfloat16),
        cmocka_unit_test(a_weight_gradient_in_parts_of_16_rows_is_that_of_all_rows),
        cmocka_unit_test(empty_sides_are_allowed),
        cmocka_unit_test(activations_of_bfloat16_give_rounded_results),
        cmocka_unit_test(a_product_with_swiglu_gives_the_bits_of_both),
        cmocka_unit_test(a_product_of_a_norm_gives_the_bits_of_both),
    };
    return cmocka_run_group_tests_name("tensor", tests, open_devices, close_devices);
}
