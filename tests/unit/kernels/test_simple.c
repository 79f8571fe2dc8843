/* The one-pass operations against plain loops: bits where the definition fixes them, a tolerance in double for AdamW; and
 * buffers and devices. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/kernels/devices.h"

/* Element counts below, at and above what one task, one vector and one part of a sum hold. */
static const size_t counts[] = {0, 1, 15, 16, 17, 100, 4095, 4097, 65536, 65537, 200001};
enum { COUNTS = sizeof counts / sizeof *counts };

static double sumsq_by_definition(const float *x, size_t n) {
    double sum = 0;
    for (size_t begin = 0; begin < n; begin += 4096) {
        double lane[16] = {0};
        for (size_t i = begin; i < n && i < begin + 4096; i++) lane[i % 16] += (double)x[i] * (double)x[i];
        for (int half = 8; half; half /= 2)
            for (int j = 0; j < half; j++) lane[j] += lane[j + half];
        sum += lane[0];
    }
    return sum;
}

static void sumsq_is_the_same_on_every_device_and_close_to_exact(void **state) {
    (void)state;
    for (int c = 0; c < COUNTS; c++) {
        size_t n = counts[c];
        float *x = random_floats(n, 1);
        double expected = sumsq_by_definition(x, n);
        long double exact = 0;
        for (size_t i = 0; i < n; i++) exact += (long double)x[i] * x[i];
        assert_true(fabsl(expected - exact) <= 1e-13L * exact);
        for (int d = 0; d < device_count; d++) {
            kern_tensor t = tensor_of(queues[d], KERN_F32, x, n);
            double got = kern_sumsq(queues[d], t, n);
            assert_memory_equal(&got, &expected, sizeof got);
            drop(t);
        }
        free(x);
    }
}

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static uint64_t checksum_by_definition(const void *x, size_t bytes) {
    uint64_t sum = 0;
    for (size_t i = 0; 8 * i < bytes; i++) {
        uint64_t word = 0;
        memcpy(&word, (const char *)x + 8 * i, bytes - 8 * i < 8 ? bytes - 8 * i : 8);
        sum += mix(word + (i + 1) * 0x9E3779B97F4A7C15u);
    }
    return sum;
}

static void checksum_is_a_sum_of_mixed_words_and_places(void **state) {
    (void)state;
    for (int c = 0; c < COUNTS; c++) {
        size_t n = counts[c];
        float *x = random_floats(n, 1);
        for (int d = 0; d < device_count; d++) {
            kern_tensor t = tensor_of(queues[d], KERN_F32, x, n);
            assert_int_equal(kern_checksum(queues[d], t, n), checksum_by_definition(x, 4 * n));
            assert_int_equal(kern_checksum(queues[d], kern_view(t.buf, KERN_BF16), n), checksum_by_definition(x, 2 * n));
            assert_int_equal(kern_checksum(queues[d], kern_view(t.buf, KERN_U8), n), checksum_by_definition(x, n));
            if (n) /* words that no address is a multiple of */
                assert_int_equal(kern_checksum(queues[d], kern_at(kern_view(t.buf, KERN_U8), 1), 4 * n - 1),
                                 checksum_by_definition((const char *)x + 1, 4 * n - 1));
            drop(t);
        }
        free(x);
    }
}

static void checksum_sees_a_flipped_bit_and_a_swap(void **state) {
    float x[4] = {1, 2, 3, 4}, flipped[4] = {1, 2, 3, 4}, swapped[4] = {1, 3, 2, 4};
    (void)state;
    flipped[3] = nextafterf(4, 5);
    kern_tensor a = tensor_of(queues[0], KERN_F32, x, 4), b = tensor_of(queues[0], KERN_F32, flipped, 4);
    kern_tensor c = tensor_of(queues[0], KERN_F32, swapped, 4);
    assert_int_not_equal(kern_checksum(queues[0], a, 4), kern_checksum(queues[0], b, 4));
    assert_int_not_equal(kern_checksum(queues[0], a, 4), kern_checksum(queues[0], c, 4));
    drop(a), drop(b), drop(c);
}

enum { VOCABULARY = 37, ROWS = 300, WIDTH = 131 };

static void random_ids(int32_t ids[ROWS]) {
    for (uint32_t i = 0; i < ROWS; i++) ids[i] = (int32_t)rlf_rng_below(3, RLF_RNG_TEST, i, 0, 0, VOCABULARY);
}

static void embed_copies_rows_and_its_gradient_adds_them_in_order(void **state) {
    int32_t ids[ROWS], unknown[ROWS];
    (void)state;
    random_ids(ids);
    for (int i = 0; i < ROWS; i++) unknown[i] = i % 3 ? KERN_DRAWN(i) : ids[i];
    float *table = random_weights(VOCABULARY * WIDTH, 1), *dy = random_floats(ROWS * WIDTH, 2),
        *dtable = random_floats(VOCABULARY * WIDTH, 3);
    float *y = malloc(ROWS * WIDTH * sizeof *y), *sum = malloc(VOCABULARY * WIDTH * sizeof *sum);
    memcpy(sum, dtable, VOCABULARY * WIDTH * sizeof *sum);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDTH; j++) {
            y[i * WIDTH + j] = table[ids[i] * WIDTH + j];
            sum[ids[i] * WIDTH + j] += dy[i * WIDTH + j];
        }
    for (int d = 0; d < 2 * device_count; d++) {
        kern_queue *q = queues[d / 2];
        kern_tensor t = weights_of(q, WEIGHT_DTYPES[d % 2], table, VOCABULARY * WIDTH), ti = tensor_of(q, KERN_I32, ids, ROWS);
        kern_tensor ty = tensor_of(q, KERN_F32, NULL, ROWS * WIDTH), tdy = tensor_of(q, KERN_F32, dy, ROWS * WIDTH);
        kern_tensor td = tensor_of(q, KERN_F32, dtable, VOCABULARY * WIDTH);
        kern_embed(q, ty, t, ti, kern_none(), ROWS, WIDTH);
        assert_holds(q, ty, y, ROWS * WIDTH);
        kern_tensor later = tensor_of(q, KERN_I32, unknown, ROWS), again = tensor_of(q, KERN_F32, NULL, ROWS * WIDTH);
        kern_embed(q, again, t, later, ti, ROWS, WIDTH);
        assert_holds(q, again, y, ROWS * WIDTH);
        drop(later), drop(again);
        kern_embed_grad(q, td, tdy, ti, ROWS, WIDTH);
        assert_holds(q, td, sum, VOCABULARY * WIDTH);
        drop(t), drop(ti), drop(ty), drop(tdy), drop(td);
    }
    free(table), free(dy), free(dtable), free(y), free(sum);
}

static void scatter_undoes_gather(void **state) {
    int32_t index[ROWS];
    (void)state;
    for (int i = 0; i < ROWS; i++) index[i] = (i * 7 + 3) % ROWS; /* a permutation: 7 and 300 have no common divisor */
    float *x = random_floats(ROWS * WIDTH, 1), *gathered = malloc(ROWS * WIDTH * sizeof *gathered);
    for (int i = 0; i < ROWS; i++) memcpy(gathered + i * WIDTH, x + index[i] * WIDTH, WIDTH * sizeof *x);
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        kern_tensor tx = tensor_of(q, KERN_F32, x, ROWS * WIDTH), ti = tensor_of(q, KERN_I32, index, ROWS);
        kern_tensor ty = tensor_of(q, KERN_F32, NULL, ROWS * WIDTH), back = tensor_of(q, KERN_F32, NULL, ROWS * WIDTH);
        kern_rows_gather(q, ty, tx, ti, ROWS, WIDTH);
        assert_holds(q, ty, gathered, ROWS * WIDTH);
        kern_rows_scatter(q, back, ty, ti, ROWS, WIDTH);
        assert_holds(q, back, x, ROWS * WIDTH);
        drop(tx), drop(ti), drop(ty), drop(back);
    }
    free(x), free(gathered);
}

static void bias_grad_adds_parts_of_rows_in_order(void **state) {
    (void)state;
    float *dy = random_floats(ROWS * WIDTH, 1), *old = random_floats(WIDTH, 2), expected[WIDTH];
    memcpy(expected, old, sizeof expected);
    for (int part = 0; part < ROWS; part += KERN_PART_ROWS)
        for (int j = 0; j < WIDTH; j++) {
            float sum = 0;
            for (int i = part; i < ROWS && i < part + KERN_PART_ROWS; i++) sum += dy[i * WIDTH + j];
            expected[j] += sum;
        }
    for (int d = 0; d < device_count; d++) {
        kern_tensor t = tensor_of(queues[d], KERN_F32, dy, ROWS * WIDTH), tb = tensor_of(queues[d], KERN_F32, old, WIDTH);
        kern_bias_grad(queues[d], tb, t, ROWS, WIDTH);
        assert_holds(queues[d], tb, expected, WIDTH);
        drop(t), drop(tb);
    }
    free(dy), free(old);
}

static void bias_grad_of_bfloat16_is_that_of_its_values(void **state) {
    (void)state;
    if (!on_cards()) skip();
    float *dy = random_weights(ROWS * WIDTH, 1), sums[2][WIDTH];
    for (int half = 0; half < 2; half++) {
        kern_queue *q = queues[device_count - 1];
        kern_tensor t = weights_of(q, WEIGHT_DTYPES[half], dy, ROWS * WIDTH), tb = tensor_of(q, KERN_F32, NULL, WIDTH);
        kern_bias_grad(q, tb, t, ROWS, WIDTH);
        kern_download(q, sums[half], tb, WIDTH);
        assert_int_equal(kern_sync(q), RLF_OK);
        drop(t), drop(tb);
    }
    assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
    free(dy);
}

static void rows_are_added_one_after_the_other(void **state) {
    (void)state;
    float *x = random_floats(ROWS * WIDTH, 1), *old = random_floats(WIDTH, 2), expected[WIDTH];
    old[0] = -0.0f;
    for (int i = 0; i < ROWS; i++) x[i * WIDTH] = -0.0f;
    memcpy(expected, old, sizeof expected);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDTH; j++) expected[j] += x[i * WIDTH + j];
    for (int d = 0; d < device_count; d++) {
        kern_tensor tx = tensor_of(queues[d], KERN_F32, x, ROWS * WIDTH), ty = tensor_of(queues[d], KERN_F32, old, WIDTH);
        kern_rows_add(queues[d], ty, tx, ROWS, WIDTH);
        assert_holds(queues[d], ty, expected, WIDTH);
        drop(tx), drop(ty);
    }
    free(x), free(old);
}

static void rows_of_bfloat16_are_widened_and_added(void **state) {
    (void)state;
    float *x = random_weights(ROWS * WIDTH, 1), *old = random_floats(WIDTH, 2), expected[WIDTH]; /* x is bfloat16 as it is */
    memcpy(expected, old, sizeof expected);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDTH; j++) expected[j] += x[i * WIDTH + j];
    for (int d = 0; d < device_count; d++) {
        kern_tensor tx = weights_of(queues[d], KERN_BF16, x, ROWS * WIDTH), ty = tensor_of(queues[d], KERN_F32, old, WIDTH);
        kern_rows_add(queues[d], ty, tx, ROWS, WIDTH);
        assert_holds(queues[d], ty, expected, WIDTH);
        drop(tx), drop(ty);
    }
    free(x), free(old);
}

/* ---- conversions ------------------------------------------------------------------------------------------------------------------ */

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void converted(const kern_queue *queue, uint32_t from, uint16_t got, uint16_t expected) {
    if (got != expected)
        fail_msg("%s: %08x became %04x, expected %04x", kern_device_name(kern_queue_device(queue)), (unsigned)from, got, expected);
}

static void bfloat16_is_the_nearest_and_of_two_the_even_one(void **state) {
    static const struct { uint32_t from; uint16_t to; } cases[] = {
        {0x00000000, 0x0000}, {0x80000000, 0x8000}, {0x3f800000, 0x3f80}, {0xbf808000, 0xbf80}, {0x3f808001, 0x3f81}, {0x3f817fff, 0x3f81},
        {0x3f818000, 0x3f82}, {0x3fffffff, 0x4000}, {0x7f7f7fff, 0x7f7f}, {0x7f7f8000, 0x7f80}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
        {0x00000001, 0x0000}, {0x00008001, 0x0001}, {0x7f800001, 0x7fc0}, {0xffc12345, 0xffc1}};
    enum { CASES = sizeof cases / sizeof *cases };
    float from[CASES];
    uint16_t got[CASES];
    (void)state;
    for (int i = 0; i < CASES; i++) from[i] = float_of(cases[i].from);
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        kern_tensor wide = tensor_of(q, KERN_F32, from, CASES), half = tensor_of(q, KERN_BF16, NULL, CASES);
        kern_convert(q, half, wide, CASES);
        kern_download(q, got, half, CASES);
        for (int i = 0; i < CASES; i++) converted(q, cases[i].from, got[i], cases[i].to);
        drop(wide), drop(half);
    }
}

static void every_bfloat16_survives_being_widened(void **state) {
    enum { ALL = 1 << 16 };
    uint16_t *all = malloc(ALL * sizeof *all), *got = malloc(ALL * sizeof *got);
    uint32_t *words = malloc(ALL * sizeof *words);
    (void)state;
    for (int i = 0; i < ALL; i++) all[i] = (uint16_t)((i & 0x7f80) != 0x7f80 ? i : i & 0xff80); /* no NaN */
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        kern_tensor half = tensor_of(q, KERN_BF16, all, ALL), wide = tensor_of(q, KERN_F32, NULL, ALL), back = tensor_of(q, KERN_BF16, NULL, ALL);
        kern_convert(q, wide, half, ALL);
        kern_download(q, words, wide, ALL);
        for (int i = 0; i < ALL; i++) assert_int_equal(words[i], (uint32_t)all[i] << 16);
        kern_convert(q, back, wide, ALL);
        kern_download(q, got, back, ALL);
        assert_memory_equal(got, all, ALL * sizeof *all);
        drop(half), drop(wide), drop(back);
    }
    free(all), free(got), free(words);
}

/* ---- AdamW ------------------------------------------------------------------------------------------------------------------------ */

enum { ADAM_N = 70001, ADAM_STEPS = 5 };
static const kern_adamw_args adam_args = {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f,
                                          .grad_scale = 0.5f};

/* torch.optim.AdamW, in double, on one element with gradient g at every step; the parameter after ADAM_STEPS. */
static double adamw_in_double(double p, double g) {
    double m = 0, v = 0, beta1 = (double)adam_args.beta1, beta2 = (double)adam_args.beta2, lr = (double)adam_args.lr;
    for (int step = 1; step <= ADAM_STEPS; step++) {
        double scaled = g * (double)adam_args.grad_scale;
        p *= 1 - lr * (double)adam_args.weight_decay;
        m = beta1 * m + (1 - beta1) * scaled;
        v = beta2 * v + (1 - beta2) * scaled * scaled;
        p -= lr / (1 - pow(beta1, step)) * m / (sqrt(v) / sqrt(1 - pow(beta2, step)) + (double)adam_args.eps);
    }
    return p;
}

static void adamw_follows_the_formula_and_is_the_same_on_every_device(void **state) {
    (void)state;
    float *param = random_floats(ADAM_N, 1), *grad = random_floats(ADAM_N, 2), *first = NULL;
    for (int d = 0; d < device_count; d++) {
        kern_queue *q = queues[d];
        kern_tensor p = tensor_of(q, KERN_F32, param, ADAM_N), g = tensor_of(q, KERN_F32, grad, ADAM_N);
        kern_tensor m = tensor_of(q, KERN_F32, NULL, ADAM_N), v = tensor_of(q, KERN_F32, NULL, ADAM_N);
        kern_adamw_args args = adam_args;
        for (args.step = 1; args.step <= ADAM_STEPS; args.step++) kern_adamw(q, p, g, m, v, ADAM_N, args);
        if (!first) {
            first = malloc(ADAM_N * sizeof *first);
            kern_download(q, first, p, ADAM_N);
        }
        assert_holds(q, p, first, ADAM_N);
        drop(p), drop(g), drop(m), drop(v);
    }
    for (int i = 0; i < ADAM_N; i++) assert_true(fabs((double)first[i] - adamw_in_double((double)param[i], (double)grad[i])) < 1e-6);
    free(param), free(grad), free(first);
}

/* ---- devices and buffers ---------------------------------------------------------------------------------------------------------- */

static void a_new_buffer_is_zero_and_copies_move_elements(void **state) {
    static const size_t sizes[] = {1, 1000, 1 << 19};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s];
        float *x = random_floats(n, 1), *zeros = calloc(n + 1, sizeof *zeros), *back = malloc(n * sizeof *back);
        kern_tensor a = tensor_of(queues[0], KERN_F32, NULL, n + 1), b = tensor_of(queues[0], KERN_F32, x, n);
        assert_holds(queues[0], a, zeros, n + 1);
        kern_copy(queues[0], kern_at(a, 1), b, n);
        kern_download(queues[0], back, kern_at(a, 1), n);
        assert_memory_equal(back, x, n * sizeof *x);
        kern_zero(queues[0], a, n + 1);
        assert_holds(queues[0], a, zeros, n + 1);
        drop(a), drop(b);
        free(x), free(zeros), free(back);
    }
}

static rlf_status open_and_close(const char *name, int threads, const char *isa) {
    kern_device_options options = {.name = name, .threads = threads, .isa = isa};
    kern_device *device = NULL;
    rlf_status status = kern_device_open(&device, &options);
    kern_device_close(device);
    return status;
}

static void a_device_that_cannot_be_had_is_refused_by_name(void **state) {
    (void)state;
    assert_int_equal(open_and_close("tpu", 1, NULL), RLF_UNSUPPORTED);
    assert_non_null(strstr(rlf_error_message(), "tpu"));
    assert_int_equal(open_and_close("cpu", 1, "avx9000"), RLF_UNSUPPORTED);
    assert_non_null(strstr(rlf_error_message(), "avx9000"));
    assert_int_equal(open_and_close("cpu", -1, NULL), RLF_INVALID);
    assert_int_equal(open_and_close("cpu", 100000, NULL), RLF_INVALID);
    assert_int_equal(open_and_close("cpu", 0, NULL), RLF_OK);
}

static void a_device_tells_its_instruction_set_and_threads(void **state) {
    (void)state;
    if (on_cards()) skip();
    assert_string_equal(kern_device_name(kern_queue_device(queues[0])), "cpu portable, 1 thread");
    assert_string_equal(kern_device_name(kern_queue_device(queues[1])), "cpu portable, 2 threads");
}

static void a_buffer_too_large_for_memory_is_an_error(void **state) {
    (void)state;
    kern_buf *buf;
    assert_int_equal(kern_buf_new(&buf, kern_queue_device(queues[0]), SIZE_MAX / 4), RLF_NO_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sumsq_is_the_same_on_every_device_and_close_to_exact),
        cmocka_unit_test(checksum_is_a_sum_of_mixed_words_and_places),
        cmocka_unit_test(checksum_sees_a_flipped_bit_and_a_swap),
        cmocka_unit_test(embed_copies_rows_and_its_gradient_adds_them_in_order),
        cmocka_unit_test(scatter_undoes_gather),
        cmocka_unit_test(bias_grad_adds_parts_of_rows_in_order),
        cmocka_unit_test(bias_grad_of_bfloat16_is_that_of_its_values),
        cmocka_unit_test(rows_are_added_one_after_the_other),
        cmocka_unit_test(rows_of_bfloat16_are_widened_and_added),
        cmocka_unit_test(bfloat16_is_the_nearest_and_of_two_the_even_one),
        cmocka_unit_test(every_bfloat16_survives_being_widened),
        cmocka_unit_test(adamw_follows_the_formula_and_is_the_same_on_every_device),
        cmocka_unit_test(a_new_buffer_is_zero_and_copies_move_elements),
        cmocka_unit_test(a_device_that_cannot_be_had_is_refused_by_name),
        cmocka_unit_test(a_device_tells_its_instruction_set_and_threads),
        cmocka_unit_test(a_buffer_too_large_for_memory_is_an_error),
    };
    return cmocka_run_group_tests_name("simple", tests, open_devices, close_devices);
}
