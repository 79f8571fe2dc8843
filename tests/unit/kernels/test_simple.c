/* The one-pass operations against plain loops: bits where the definition fixes them, a tolerance in double for AdamW; and
 * buffers and devices. */
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
        assert_ok(kern_sync(q));
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
        for (args.step = 1; args.step <= ADAM_STEPS; args.step++) kern_adamw(q, p, kern_none(), g, m, v, ADAM_N, args);
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

/* Masters as kern.h defines them: n weights and what masters are beside them, after so many updates with moments that begin at zero. */
static void update_masters(kern_queue *q, uint16_t *weight, int16_t *rest, const float *grad, size_t n, kern_adamw_args args, int steps) {
    kern_tensor w = tensor_of(q, KERN_BF16, weight, n), r = tensor_of(q, KERN_I16, rest, n), g = tensor_of(q, KERN_F32, grad, n);
    kern_tensor m = tensor_of(q, KERN_F32, NULL, n), v = tensor_of(q, KERN_F32, NULL, n);
    for (args.step = 1; args.step <= steps; args.step++) kern_adamw(q, w, r, g, m, v, n, args);
    kern_download(q, weight, w, n);
    kern_download(q, rest, r, n);
    assert_ok(kern_sync(q));
    drop(w), drop(r), drop(g), drop(m), drop(v);
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The two parts of a master that has them: the nearest bfloat16, the even one of two, and the distance. */
static void part(float master, uint16_t *weight, int16_t *rest) {
    const uint32_t bits = bits_of(master), upper = bits >> 16, low = bits & 0xffff, up = low > 0x8000 || (low == 0x8000 && upper % 2);
    const int distance = (int)low - (int)(up << 16);
    assert_in_range(distance + 0x8000, 0, 0xffff);
    *weight = (uint16_t)(upper + up);
    *rest = (int16_t)distance;
}

static bool has_no_rest(float master) { return (bits_of(master) & 0x1ffff) == 0x8000; }

/* Floats of all sizes, both signs, the largest, infinities and zeros among them; none that has no rest, and no NaN. */
static float *any_masters(size_t n) {
    static const uint32_t first[] = {0,          0x80000000, 1,          0x80000001, 0x007fffff, 0x00007fff,
                                     0x80018000, 0x7f7f8000, 0xff7fffff, 0x7f800000, 0xff800000};
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)rlf_rng_below(5, RLF_RNG_TEST, i, 0, 0, UINT64_C(1) << 32);
        if (i % 4 == 0) bits = bits % 0x08000000 + 0x3b000000;       /* what weights are */
        if ((bits & 0x7f800000) == 0x7f800000) bits &= ~0x40000000u; /* no NaN */
        if ((bits & 0x1ffff) == 0x8000) bits--;
        x[i] = float_of(i < sizeof first / sizeof *first ? first[i] : bits);
    }
    return x;
}

/* The float32 masters are updated on the first device, and each that has no rest is set to the one next to it. */
static float *updated_masters(const float *begin, const float *grad, size_t n) {
    kern_queue *q = queues[0];
    kern_tensor p = tensor_of(q, KERN_F32, begin, n), g = tensor_of(q, KERN_F32, grad, n);
    kern_tensor m = tensor_of(q, KERN_F32, NULL, n), v = tensor_of(q, KERN_F32, NULL, n);
    float *x = malloc(n * sizeof *x);
    kern_adamw_args args = adam_args;
    for (args.step = 1; args.step <= ADAM_STEPS; args.step++) {
        kern_adamw(q, p, kern_none(), g, m, v, n, args);
        kern_download(q, x, p, n);
        assert_ok(kern_sync(q));
        for (size_t i = 0; i < n; i++)
            if (has_no_rest(x[i])) x[i] = nextafterf(x[i], 0);
        kern_upload(q, p, x, n);
    }
    drop(p), drop(g), drop(m), drop(v);
    return x;
}

static void masters_in_two_parts_are_updated_as_float32_ones(void **state) {
    (void)state;
    float *begin = any_masters(ADAM_N), *grad = random_floats(ADAM_N, 2), *end = updated_masters(begin, grad, ADAM_N);
    uint16_t *weight = malloc(2 * ADAM_N * sizeof *weight), *expected_weight = weight + ADAM_N;
    int16_t *rest = malloc(2 * ADAM_N * sizeof *rest), *expected_rest = rest + ADAM_N;
    for (int i = 0; i < ADAM_N; i++) part(end[i], &expected_weight[i], &expected_rest[i]);
    for (int d = 0; d < 2 * device_count; d++) {
        const size_t n = ADAM_N - d % 2; /* a multiple of 4, or not */
        for (size_t i = 0; i < n; i++) part(begin[i], &weight[i], &rest[i]);
        update_masters(queues[d / 2], weight, rest, grad, n, adam_args, ADAM_STEPS);
        assert_memory_equal(weight, expected_weight, n * sizeof *weight);
        assert_memory_equal(rest, expected_rest, n * sizeof *rest);
    }
    free(begin), free(grad), free(end), free(weight), free(rest);
}

typedef struct update_case {
    uint16_t weight;
    int16_t rest;
    float grad;
    uint16_t new_weight;
    int16_t new_rest;
} update_case;

static void check_updates(const update_case *cases, size_t n, kern_adamw_args args) {
    uint16_t weight[16];
    int16_t rest[16];
    float grad[16];
    assert_true(n <= 16);
    for (int d = 0; d < device_count; d++) {
        for (size_t i = 0; i < n; i++) weight[i] = cases[i].weight, rest[i] = cases[i].rest, grad[i] = cases[i].grad;
        update_masters(queues[d], weight, rest, grad, n, args, 1);
        for (size_t i = 0; i < n; i++)
            if (weight[i] != cases[i].new_weight || rest[i] != cases[i].new_rest)
                fail_msg("%s: %04x and %d became %04x and %d, expected %04x and %d", kern_device_name(kern_queue_device(queues[d])),
                         cases[i].weight, cases[i].rest, weight[i], rest[i], cases[i].new_weight, cases[i].new_rest);
    }
}

/* Steps of half a weight's last place, to one side or the other; and halves, of denormals too. */
static void a_master_that_has_no_rest_becomes_its_neighbour_nearer_to_zero(void **state) {
    const int16_t least = INT16_MIN, most = INT16_MAX;
    const update_case steps[] = {{0x3f80, 0, -1, 0x3f80, most}, {0x3f81, 0, -1, 0x3f82, least}, {0xbf80, 0, 1, 0xbf80, most},
                                 {0xbf81, 0, 1, 0xbf82, least}, {0x3f80, 0, 1, 0x3f7f, 0}, {0x3f82, least, -1, 0x3f82, 0},
                                 {0x3f82, 0, -1, 0x3f82, most}, {0x3f82, 1, -1, 0x3f83, -most}};
    const update_case halves[] = {{0x0001, 0, 0, 0x0000, most}, {0x8003, 0, 0, 0x8002, least}, {0x8005, 0, 0, 0x8002, most},
                                  {0x0000, 0, 0, 0x0000, 0}, {0x8000, 0, 0, 0x8000, 0}, {0x7f80, -1, 0, 0x7f00, -1},
                                  {0xff80, least, 0, 0xff00, least}, {0x7f80, 0, 0, 0x7f80, 0}, {0x3f81, most, 0, 0x3f01, most}};
    (void)state;
    check_updates(steps, sizeof steps / sizeof *steps, (kern_adamw_args){.lr = 0x1p-8f, .grad_scale = 1});
    check_updates(halves, sizeof halves / sizeof *halves, (kern_adamw_args){.lr = 1, .weight_decay = 0.5f, .eps = 1, .grad_scale = 1});
}

static void every_rest_survives_an_update_by_nothing(void **state) {
    static const uint16_t weights[] = {0x0002, 0x3f80, 0x3f81, 0xc180, 0x7f7f};
    enum { RESTS = 1 << 16 };
    (void)state;
    float *grad = calloc(RESTS, sizeof *grad);
    uint16_t *weight = malloc(2 * RESTS * sizeof *weight), *old_weight = weight + RESTS;
    int16_t *rest = malloc(2 * RESTS * sizeof *rest), *old_rest = rest + RESTS;
    for (size_t w = 0; w < sizeof weights / sizeof *weights; w++) {
        for (int i = 0; i < RESTS; i++) old_weight[i] = weights[w], old_rest[i] = (int16_t)(i + INT16_MIN);
        if (weights[w] % 2) old_rest[0]++; /* of an odd weight the least is no master's rest */
        for (int d = 0; d < device_count; d++) {
            memcpy(weight, old_weight, RESTS * sizeof *weight);
            memcpy(rest, old_rest, RESTS * sizeof *rest);
            update_masters(queues[d], weight, rest, grad, RESTS, (kern_adamw_args){.eps = 1, .grad_scale = 1}, 1);
            assert_memory_equal(weight, old_weight, RESTS * sizeof *weight);
            assert_memory_equal(rest, old_rest, RESTS * sizeof *rest);
        }
    }
    free(grad), free(weight), free(rest);
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
    assert_error(open_and_close("tpu", 1, NULL), RLF_UNSUPPORTED, "tpu");
    assert_error(open_and_close("cpu", 1, "avx9000"), RLF_UNSUPPORTED, "avx9000");
    assert_int_equal(open_and_close("cpu", -1, NULL), RLF_INVALID);
    assert_int_equal(open_and_close("cpu", 100000, NULL), RLF_INVALID);
    assert_ok(open_and_close("cpu", 0, NULL));
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
        cmocka_unit_test(masters_in_two_parts_are_updated_as_float32_ones),
        cmocka_unit_test(a_master_that_has_no_rest_becomes_its_neighbour_nearer_to_zero),
        cmocka_unit_test(every_rest_survives_an_update_by_nothing),
        cmocka_unit_test(a_new_buffer_is_zero_and_copies_move_elements),
        cmocka_unit_test(a_device_that_cannot_be_had_is_refused_by_name),
        cmocka_unit_test(a_device_tells_its_instruction_set_and_threads),
        cmocka_unit_test(a_buffer_too_large_for_memory_is_an_error),
    };
    return cmocka_run_group_tests_name("simple", tests, open_devices, close_devices);
}
