/* Conversion of weights: against a plain definition, at every length around a run, unaligned, and with what is not finite. */
#include "tests/test.h"

#include <math.h>
#include <string.h>

#include "common/model/values.h"

/* The nearest BF16 of a finite float, ties to even, by trying both neighbours in double. */
static uint16_t nearest_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t below = bits & 0xFFFF0000, above = below + 0x10000;
    float low, high;
    memcpy(&low, &below, 4);
    memcpy(&high, &above, 4);
    double to_low = fabs((double)value - (double)low), to_high = isinf(high) ? INFINITY : fabs((double)high - (double)value);
    bool up = to_high < to_low || (to_high == to_low && (below >> 16 & 1));
    return (uint16_t)((up ? above : below) >> 16);
}

static void floats_are_rounded_to_the_nearest_bfloat16_and_ties_to_even(void **state) {
    (void)state;
    size_t bad;
    for (uint32_t high = 0; high < 0x10000; high++) {
        if ((high & 0x7F80) == 0x7F80 || (high & 0x7FFF) == 0x7F7F) continue; /* not finite, and what may round to it */
        static const uint16_t lows[] = {0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF};
        for (size_t i = 0; i < 6; i++) {
            uint32_t bits = high << 16 | lows[i];
            float value;
            uint16_t got;
            memcpy(&value, &bits, 4);
            assert_true(rlf_values_convert(&got, RLF_DTYPE_BF16, &value, RLF_DTYPE_F32, 1, &bad));
            assert_int_equal(got, nearest_bf16(value));
        }
    }
}

static void every_length_and_alignment_is_converted(void **state) {
    (void)state;
    static unsigned char from[4 * 200 + 8], to[4 * 200 + 8];
    size_t bad;
    for (size_t n = 0; n < 200; n++) {
        for (size_t shift = 0; shift < 3; shift++) {
            for (size_t i = 0; i < n; i++) memcpy(from + shift + 2 * i, &(uint16_t){(uint16_t)(0x3F80 + i)}, 2);
            memset(to, 0xEE, sizeof to);
            assert_true(rlf_values_convert(to + shift, RLF_DTYPE_F32, from + shift, RLF_DTYPE_BF16, n, &bad));
            for (size_t i = 0; i < n; i++) {
                uint32_t bits;
                memcpy(&bits, to + shift + 4 * i, 4);
                assert_int_equal(bits, (0x3F80 + i) << 16);
            }
            assert_int_equal(to[shift + 4 * n], 0xEE); /* nothing behind the last is touched */
            assert_true(rlf_values_convert(to + shift, RLF_DTYPE_BF16, from + shift, RLF_DTYPE_BF16, n, &bad));
            assert_memory_equal(to + shift, from + shift, 2 * n);
        }
    }
}

/* Puts one bad element at each place of 150 and expects it to be found. */
static void bad_is_found(rlf_dtype from, rlf_dtype to, uint32_t pattern) {
    uint32_t in[150], out[150];
    size_t size = rlf_dtype_size(from), bad;
    for (size_t at = 0; at < 150; at++) {
        memset(in, 0, sizeof in);
        memcpy((char *)in + at * size, &pattern, size);
        assert_false(rlf_values_convert(out, to, in, from, 150, &bad));
        assert_int_equal(bad, at);
    }
}

static void what_is_not_finite_is_found(void **state) {
    (void)state;
    static const rlf_dtype targets[] = {RLF_DTYPE_F32, RLF_DTYPE_BF16};
    for (int i = 0; i < 2; i++) {
        bad_is_found(RLF_DTYPE_F32, targets[i], 0x7F800000); /* infinity */
        bad_is_found(RLF_DTYPE_F32, targets[i], 0xFF800000);
        bad_is_found(RLF_DTYPE_F32, targets[i], 0x7F800001); /* NaN whose upper half is an infinity's */
        bad_is_found(RLF_DTYPE_F32, targets[i], 0xFFFFFFFF); /* NaN that rounding would carry out of the exponent */
        bad_is_found(RLF_DTYPE_BF16, targets[i], 0x7F80);
        bad_is_found(RLF_DTYPE_BF16, targets[i], 0xFFC0);
        bad_is_found(RLF_DTYPE_F16, targets[i], 0x7C00);
        bad_is_found(RLF_DTYPE_F16, targets[i], 0xFE01);
    }
    bad_is_found(RLF_DTYPE_F32, RLF_DTYPE_BF16, 0x7F7FFFFF); /* the largest float rounds to infinity */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_are_rounded_to_the_nearest_bfloat16_and_ties_to_even),
        cmocka_unit_test(every_length_and_alignment_is_converted),
        cmocka_unit_test(what_is_not_finite_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
