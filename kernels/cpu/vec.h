/* vf: sixteen float lanes, the unit in which every CPU kernel thinks. Three implementations, one meaning:
 *
 *   KERN_ISA avx512    one zmm register          (compiled with -mavx512f -mavx512vl -mavx512dq -mavx512bw -mfma)
 *   KERN_ISA avx2      two ymm registers         (-mavx2 -mfma)
 *   KERN_ISA portable  an array of 16            (no flags: fmaf, correctly rounded everywhere)
 *
 * Every operation is IEEE-exact per lane, and reductions use one fixed tree, so the three give the same bits. All kernel files are compiled
 * with -ffp-contract=off: a fused multiply-add is written vf_fma (or fmaf), never left to the compiler. Each file of this folder that
 * includes vec.h is compiled once per ISA, and linear_bf16.c once more (see there); KERN_CPU(name) gives its functions their own names. */
#ifndef RLF_KERNELS_CPU_VEC_H
#define RLF_KERNELS_CPU_VEC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/scalar.h"

#define KERN_PASTE2_(a, b) a##_##b
#define KERN_PASTE_(a, b) KERN_PASTE2_(a, b)
#define KERN_CPU(name) KERN_PASTE_(name, KERN_ISA)

enum { VF = 16 };

#if defined(__AVX512F__)
#include <immintrin.h>
typedef __m512 vf;
static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_set1(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static inline __mmask16 vf_mask_(int n) { return (__mmask16)((1u << n) - 1u); }
/* First n of 16 lanes (0..16); the others are `fill`, and their memory is not touched. */
static inline vf vf_load_n(const float *p, int n, float fill) { return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), vf_mask_(n), p); }
static inline void vf_store_n(float *p, vf x, int n) { _mm512_mask_storeu_ps(p, vf_mask_(n), x); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a*b + c */
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a*b */
static inline vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }              /* a > b ? a : b */
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* 2^n for lanes holding integers in [-126, 127]. */
static inline vf vf_exp2i(vf n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
/* lanes where a < b get x, others y */
static inline vf vf_select_lt(vf a, vf b, vf x, vf y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x); }
/* bfloat16 is the upper half of a float, so widening is exact. Sixteen of them from any address; */
static inline vf vf_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
/* sixteen words of 32 bits from any address: floats, or pairs of bfloat16; the first (lower) and the second of each pair. */
static inline vf vf_load_words(const void *p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
static inline vf vf_first_of_pairs(vf x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 16)); }
static inline vf vf_second_of_pairs(vf x) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xffff0000u)));
}

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
typedef struct vf { __m256 a, b; } vf;
#define VF2_(ea, eb) ((vf){(ea), (eb)})
static inline vf vf_zero(void) { return VF2_(_mm256_setzero_ps(), _mm256_setzero_ps()); }
static inline vf vf_set1(float x) { return VF2_(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
static inline vf vf_load(const float *p) { return VF2_(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
static inline void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
static inline vf vf_load_n(const float *p, int n, float fill) {
    float t[16];
    for (int i = 0; i < 16; i++) t[i] = fill;
    memcpy(t, p, (size_t)n * sizeof *t);
    return vf_load(t);
}
static inline void vf_store_n(float *p, vf x, int n) {
    float t[16];
    vf_store(t, x);
    memcpy(p, t, (size_t)n * sizeof *t);
}
static inline vf vf_add(vf x, vf y) { return VF2_(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
static inline vf vf_sub(vf x, vf y) { return VF2_(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
static inline vf vf_mul(vf x, vf y) { return VF2_(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
static inline vf vf_div(vf x, vf y) { return VF2_(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
static inline vf vf_fma(vf x, vf y, vf z) { return VF2_(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)); }
static inline vf vf_fnma(vf x, vf y, vf z) { return VF2_(_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)); }
static inline vf vf_sqrt(vf x) { return VF2_(_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)); }
static inline vf vf_max(vf x, vf y) { return VF2_(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
static inline vf vf_min(vf x, vf y) { return VF2_(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
static inline __m256 vf_round_(__m256 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf vf_round(vf x) { return VF2_(vf_round_(x.a), vf_round_(x.b)); }
static inline __m256 vf_exp2i_(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
static inline vf vf_exp2i(vf n) { return VF2_(vf_exp2i_(n.a), vf_exp2i_(n.b)); }
static inline vf vf_select_lt(vf a, vf b, vf x, vf y) {
    return VF2_(_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
                _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ)));
}
static inline __m256 vf_load_bf16_(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
static inline vf vf_load_bf16(const uint16_t *p) { return VF2_(vf_load_bf16_(p), vf_load_bf16_(p + 8)); }
static inline __m256 vf_load_words_(const char *p) { return _mm256_castsi256_ps(_mm256_loadu_si256((const void *)p)); }
static inline vf vf_load_words(const void *p) { return VF2_(vf_load_words_(p), vf_load_words_((const char *)p + 32)); }
static inline __m256 vf_first_(__m256 x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 16)); }
static inline vf vf_first_of_pairs(vf x) { return VF2_(vf_first_(x.a), vf_first_(x.b)); }
static inline __m256 vf_second_(__m256 x) {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32((int)0xffff0000u)));
}
static inline vf vf_second_of_pairs(vf x) { return VF2_(vf_second_(x.a), vf_second_(x.b)); }

#else
typedef struct vf { float v[16]; } vf;
#define VF_EACH_(expr) do { vf r_; for (int i = 0; i < 16; i++) r_.v[i] = (expr); return r_; } while (0)
static inline vf vf_zero(void) { VF_EACH_(0.0f); }
static inline vf vf_set1(float x) { VF_EACH_(x); }
static inline vf vf_load(const float *p) { VF_EACH_(p[i]); }
static inline void vf_store(float *p, vf x) { memcpy(p, x.v, sizeof x.v); }
static inline vf vf_load_n(const float *p, int n, float fill) { VF_EACH_(i < n ? p[i] : fill); }
static inline void vf_store_n(float *p, vf x, int n) { memcpy(p, x.v, (size_t)n * sizeof(float)); }
static inline vf vf_add(vf a, vf b) { VF_EACH_(a.v[i] + b.v[i]); }
static inline vf vf_sub(vf a, vf b) { VF_EACH_(a.v[i] - b.v[i]); }
static inline vf vf_mul(vf a, vf b) { VF_EACH_(a.v[i] * b.v[i]); }
static inline vf vf_div(vf a, vf b) { VF_EACH_(a.v[i] / b.v[i]); }
static inline vf vf_fma(vf a, vf b, vf c) { VF_EACH_(fmaf(a.v[i], b.v[i], c.v[i])); }
static inline vf vf_fnma(vf a, vf b, vf c) { VF_EACH_(fmaf(-a.v[i], b.v[i], c.v[i])); }
static inline vf vf_sqrt(vf a) { VF_EACH_(sqrtf(a.v[i])); }
static inline vf vf_max(vf a, vf b) { VF_EACH_(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline vf vf_min(vf a, vf b) { VF_EACH_(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
static inline vf vf_round(vf a) { VF_EACH_(rintf(a.v[i])); }
static inline vf vf_exp2i(vf n) {
    vf r;
    for (int i = 0; i < 16; i++) {
        uint32_t bits = (uint32_t)((int32_t)n.v[i] + 127) << 23;
        memcpy(&r.v[i], &bits, 4);
    }
    return r;
}
static inline vf vf_select_lt(vf a, vf b, vf x, vf y) { VF_EACH_(a.v[i] < b.v[i] ? x.v[i] : y.v[i]); }
static inline vf vf_load_bf16(const uint16_t *p) { VF_EACH_(kern_float_of_bf16(p[i])); }
static inline vf vf_load_words(const void *p) {
    vf r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
static inline vf vf_half_of_pairs_(vf x, int half) {
    uint16_t pairs[32];
    memcpy(pairs, x.v, sizeof pairs);
    VF_EACH_(kern_float_of_bf16(pairs[2 * i + half]));
}
static inline vf vf_first_of_pairs(vf x) { return vf_half_of_pairs_(x, 0); }
static inline vf vf_second_of_pairs(vf x) { return vf_half_of_pairs_(x, 1); }
#endif

/* Fixed tree: lane i with i+8, then +4, +2, +1. */
#if defined(__AVX2__) && defined(__FMA__)
#if defined(__AVX512F__)
static inline __m256 vf_low_(vf x) { return _mm512_castps512_ps256(x); }
static inline __m256 vf_high_(vf x) { return _mm512_extractf32x8_ps(x, 1); }
#else
static inline __m256 vf_low_(vf x) { return x.a; }
static inline __m256 vf_high_(vf x) { return x.b; }
#endif
#define VF_TREE_(x, op8, op4)                                                                \
    __m256 t8_ = op8(vf_low_(x), vf_high_(x));                                               \
    __m128 t4_ = op4(_mm256_castps256_ps128(t8_), _mm256_extractf128_ps(t8_, 1));            \
    t4_ = op4(t4_, _mm_movehl_ps(t4_, t4_));                                                 \
    return _mm_cvtss_f32(op4(t4_, _mm_shuffle_ps(t4_, t4_, 1)))
static inline float vf_sum(vf x) { VF_TREE_(x, _mm256_add_ps, _mm_add_ps); }
static inline float vf_hmax(vf x) { VF_TREE_(x, _mm256_max_ps, _mm_max_ps); }
#else
#define VF_TREE_(x, op)                                                                      \
    do {                                                                                     \
        for (int half = 8; half; half /= 2)                                                  \
            for (int i = 0; i < half; i++) (x).v[i] = op((x).v[i], (x).v[i + half]);         \
        return (x).v[0];                                                                     \
    } while (0)
#define VF_ADD1_(a, b) ((a) + (b))
#define VF_MAX1_(a, b) ((a) > (b) ? (a) : (b))
static inline float vf_sum(vf x) { VF_TREE_(x, VF_ADD1_); }
static inline float vf_hmax(vf x) { VF_TREE_(x, VF_MAX1_); }
#endif

/* e^x, error below 2 ulp on [-87, 88]; below -87.33 the result is exactly 0, above 88.37 it is clamped to e^88.37; exp(0) is exactly 1.
 * Cody-Waite reduction by ln 2 in two parts and a degree-6 polynomial (coefficients: minimax of e^r on |r| <= ln2/2, as in Cephes expf). */
static inline vf vf_exp(vf x) {
    const vf low = vf_set1(-87.33f), high = vf_set1(88.37f);
    vf c = vf_min(vf_max(x, low), high);
    vf n = vf_round(vf_mul(c, vf_set1(1.44269504088896341f)));
    vf r = vf_fnma(n, vf_set1(0.693359375f), c);
    r = vf_fnma(n, vf_set1(-2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set1(1.0f)));
    return vf_select_lt(x, low, vf_zero(), vf_mul(p, vf_exp2i(n)));
}

/* 32 bfloat16 as floats. */
static inline void vf_store_widened(float *to, const void *from) {
    vf_store(to, vf_load_bf16((const uint16_t *)from));
    vf_store(to + VF, vf_load_bf16((const uint16_t *)from + VF));
}

/* 0, 1, ... 15. */
static inline vf vf_iota(void) {
    static const float lanes[VF] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vf_load(lanes);
}

#endif
