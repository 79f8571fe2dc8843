/* The random numbers: the known answers of the paper's library, and the promises of rng.h. */
#include "tests/test.h"

#include <math.h>
#include <string.h>

#include "common/base/rng.h"

/* philox4x32 with 10 rounds, from the known-answer file (kat_vectors) of Random123, the library of the paper's authors. A block is the
 * bare generator under the key seed + purpose * STEP, so a seed that is less by that gives a block of any key. */
static void philox_gives_the_known_answers(void **state) {
    const uint64_t STEP = 0x9E3779B97F4A7C15u;
    static const struct known { uint32_t counter[4], key[2], out[4]; } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        const uint32_t *key = known[i].key, *counter = known[i].counter;
        uint64_t seed = ((uint64_t)key[1] << 32 | key[0]) - RLF_RNG_TEST * STEP;
        rlf_rng_block(seed, RLF_RNG_TEST, (uint64_t)counter[1] << 32 | counter[0], counter[2], counter[3], out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void every_argument_changes_the_draw(void **state) {
    uint32_t base[4], other[4];
    (void)state;
    rlf_rng_block(1, RLF_RNG_SAMPLE, 2, 3, 4, base);
    rlf_rng_block(1, RLF_RNG_SAMPLE, 2, 3, 4, other);
    assert_memory_equal(base, other, sizeof base);
    rlf_rng_block(2, RLF_RNG_SAMPLE, 2, 3, 4, other);
    assert_memory_not_equal(base, other, sizeof base);
    rlf_rng_block(1, RLF_RNG_INIT, 2, 3, 4, other);
    assert_memory_not_equal(base, other, sizeof base);
    rlf_rng_block(1, RLF_RNG_SAMPLE, 2 + (1ull << 32), 3, 4, other);
    assert_memory_not_equal(base, other, sizeof base);
    rlf_rng_block(1, RLF_RNG_SAMPLE, 2, 4, 4, other);
    assert_memory_not_equal(base, other, sizeof base);
    rlf_rng_block(1, RLF_RNG_SAMPLE, 2, 3, 5, other);
    assert_memory_not_equal(base, other, sizeof base);
}

enum { DRAWS = 100000 };

static void uniform_is_in_range_exact_and_even(void **state) {
    double sum = 0, squares = 0;
    (void)state;
    for (uint32_t i = 0; i < DRAWS; i++) {
        float u = rlf_rng_uniform(5, RLF_RNG_TEST, 0, 0, i);
        assert_true(u >= 0.0f && u < 1.0f);
        assert_true(u * 0x1p24f == truncf(u * 0x1p24f));
        sum += (double)u;
        squares += (double)u * (double)u;
    }
    assert_true(fabs(sum / DRAWS - 0.5) < 0.005); /* 5 standard deviations */
    assert_true(fabs(squares / DRAWS - 1.0 / 3) < 0.005);
}

static void normal_has_mean_zero_and_variance_one(void **state) {
    double sum = 0, squares = 0, fourth = 0;
    (void)state;
    for (uint32_t i = 0; i < DRAWS; i++) {
        double z = rlf_rng_normal(5, RLF_RNG_TEST, i, 0, 0);
        assert_true(isfinite(z) && fabs(z) < 7);
        sum += z;
        squares += z * z;
        fourth += z * z * z * z;
    }
    assert_true(fabs(sum / DRAWS) < 0.016);
    assert_true(fabs(squares / DRAWS - 1) < 0.023);
    assert_true(fabs(fourth / DRAWS - 3) < 0.16);
}

static void below_is_in_range_and_reaches_every_value(void **state) {
    int seen[7] = {0};
    (void)state;
    for (uint32_t i = 0; i < 7000; i++) seen[rlf_rng_below(5, RLF_RNG_TEST, 0, i, 0, 7)]++;
    for (int i = 0; i < 7; i++) assert_in_range(seen[i], 850, 1150);
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(rlf_rng_below(5, RLF_RNG_TEST, 0, i, 0, 1), 0);
        assert_true(rlf_rng_below(5, RLF_RNG_TEST, 0, i, 0, UINT64_MAX) < UINT64_MAX);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_known_answers),
        cmocka_unit_test(every_argument_changes_the_draw),
        cmocka_unit_test(uniform_is_in_range_exact_and_even),
        cmocka_unit_test(normal_has_mean_zero_and_variance_one),
        cmocka_unit_test(below_is_in_range_and_reaches_every_value),
    };
    return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
