/* Conversion between the dtypes of weights, with the check that all are finite (values.h).
 *
 * Work is cut into runs of RUN elements in float32 bits: small enough to stay in the nearest cache, of a fixed length so that the
 * compiler vectorises every loop without intrinsics. The largest magnitude of a run tells whether all are finite. */
#include "common/model/values.h"

#include <stdint.h>
#include <string.h>

enum { RUN = 64 };
enum { INFINITE_F32 = 0x7F800000, INFINITE_BF16 = 0x7F80 };

static void widen_bf16(uint32_t *restrict out, const uint16_t *restrict in) {
    for (int i = 0; i < RUN; i++) out[i] = (uint32_t)in[i] << 16;
}

/* Exponent and fraction move to their places in a float32 that is 2^112 too small; the product is exact, subnormals included. */
static void widen_f16(uint32_t *restrict out, const uint16_t *restrict in) {
    float scaled[RUN];
    uint32_t bits[RUN];
    for (int i = 0; i < RUN; i++) bits[i] = ((uint32_t)in[i] & 0x7FFF) << 13;
    memcpy(scaled, bits, sizeof bits);
    for (int i = 0; i < RUN; i++) scaled[i] *= 0x1p112f;
    memcpy(bits, scaled, sizeof bits);
    for (int i = 0; i < RUN; i++) bits[i] = ((uint32_t)in[i] & 0x7C00) == 0x7C00 ? INFINITE_F32 : bits[i];
    for (int i = 0; i < RUN; i++) out[i] = bits[i] | ((uint32_t)in[i] & 0x8000) << 16;
}

/* To the nearest, ties to even; a NaN or infinity, which the carry could turn into a number, becomes an infinity. */
static void narrow_bf16(uint16_t *restrict out, const uint32_t *restrict in) {
    for (int i = 0; i < RUN; i++) {
        uint32_t rounded = (in[i] + 0x7FFF + (in[i] >> 16 & 1)) >> 16;
        out[i] = (uint16_t)((in[i] & INFINITE_F32) == INFINITE_F32 ? INFINITE_BF16 : rounded);
    }
}

static uint32_t largest_f32(const uint32_t *in) {
    int32_t largest = 0;
    for (int i = 0; i < RUN; i++) {
        int32_t magnitude = (int32_t)(in[i] & 0x7FFFFFFF);
        largest = magnitude > largest ? magnitude : largest;
    }
    return (uint32_t)largest;
}

static uint32_t largest_bf16(const uint16_t *in) {
    int16_t largest = 0;
    for (int i = 0; i < RUN; i++) {
        int16_t magnitude = (int16_t)(in[i] & 0x7FFF);
        largest = magnitude > largest ? magnitude : largest;
    }
    return (uint32_t)largest;
}

/* One run; false if it holds a number that is not finite. */
static bool convert_run(void *out, rlf_dtype to, const void *in, rlf_dtype from) {
    uint16_t half[RUN];
    uint32_t bits[RUN];
    if (from == RLF_DTYPE_BF16 && to == RLF_DTYPE_BF16) {
        memcpy(half, in, sizeof half);
        memcpy(out, half, sizeof half);
        return largest_bf16(half) < INFINITE_BF16;
    }
    memcpy(from == RLF_DTYPE_F32 ? (void *)bits : half, in, from == RLF_DTYPE_F32 ? sizeof bits : sizeof half);
    if (from == RLF_DTYPE_BF16) widen_bf16(bits, half);
    if (from == RLF_DTYPE_F16) widen_f16(bits, half);
    if (to == RLF_DTYPE_F32) {
        memcpy(out, bits, sizeof bits);
        return largest_f32(bits) < INFINITE_F32;
    }
    narrow_bf16(half, bits);
    memcpy(out, half, sizeof half);
    return largest_bf16(half) < INFINITE_BF16; /* the largest floats round to infinity */
}

/* A run shorter than RUN, by way of a whole one. */
static bool convert_rest(void *out, rlf_dtype to, const void *in, rlf_dtype from, size_t n) {
    unsigned char source[4 * RUN] = {0}, target[4 * RUN];
    memcpy(source, in, n * rlf_dtype_size(from));
    bool finite = convert_run(target, to, source, from);
    memcpy(out, target, n * rlf_dtype_size(to));
    return finite;
}

static bool is_finite_at(const void *values, rlf_dtype dtype, size_t i) {
    uint32_t bits;
    uint16_t half;
    if (dtype == RLF_DTYPE_F32) {
        memcpy(&bits, (const char *)values + 4 * i, 4);
        return (bits & INFINITE_F32) != INFINITE_F32;
    }
    memcpy(&half, (const char *)values + 2 * i, 2);
    return (half & INFINITE_BF16) != INFINITE_BF16;
}

bool rlf_values_convert(void *out, rlf_dtype to, const void *in, rlf_dtype from, size_t n, size_t *bad) {
    size_t to_size = rlf_dtype_size(to), from_size = rlf_dtype_size(from), done = 0;
    bool finite = true;
    for (; done + RUN <= n; done += RUN)
        finite &= convert_run((char *)out + done * to_size, to, (const char *)in + done * from_size, from);
    finite &= convert_rest((char *)out + done * to_size, to, (const char *)in + done * from_size, from, n - done);
    if (finite) return true;
    for (*bad = 0; is_finite_at(out, to, *bad); ++*bad) {}
    return false;
}
