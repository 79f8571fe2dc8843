/* scalar: what every backend computes of single numbers, so that all have the same bits: conversions, masters in two parts, exp and log,
 * AdamW's update of one element, the checksum's mixing. IEEE operations in a fixed order; a fused multiply-add is written fmaf, and nothing
 * else may be contracted.
 *
 * C17 and CUDA C++ include this header. */
#ifndef RLF_KERNELS_SCALAR_H
#define RLF_KERNELS_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kern.h"

KERN_BOTH float kern_float_of_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* The nearest bfloat16, the even one of two; a NaN stays a NaN. */
KERN_BOTH uint16_t kern_bf16_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded);
}

/* An id that may be one of those drawn before (KERN_DRAWN). */
KERN_BOTH int32_t kern_known_id(int32_t id, const int32_t *drawn) { return id < 0 ? drawn[KERN_DRAWN(id)] : id; }

/* A master of kern_adamw from its two parts, the first widened. The sum of bits never reaches the sign: a master that rounds to zero is not
 * below it, so its rest is not negative. One that rounds to infinity is below that, so none becomes a NaN; and a NaN stays a NaN. */
KERN_BOTH float kern_master_of(float weight, int16_t rest) {
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    bits += (uint32_t)(int32_t)rest;
    memcpy(&weight, &bits, sizeof bits);
    return weight;
}

/* What a master is beside its kern_bf16_of_float: the low half of its bits, as a signed number. */
KERN_BOTH int16_t kern_rest_of(float master) {
    uint32_t bits;
    memcpy(&bits, &master, sizeof bits);
    return (int16_t)(uint16_t)(bits - ((bits & 0x1ffffu) == 0x8000u));
}

/* x, a denormal being the zero of its sign. */
KERN_BOTH float kern_flushed(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= bits & 0x7f800000u ? 0xffffffffu : 0x80000000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* a*b + c as a processor gives it that takes denormals for zeros, of a, b, c that are none. What is a denormal is judged after rounding
 * to 24 bits: so a result that rounds up to the least normal float only because denormals have fewer bits is zero too. That is seen by
 * the same sum 2^32 times as large, which cannot overflow: a and b are small, or the sum would not be that exact. */
KERN_BOTH float kern_fma_flushed(float a, float b, float c) {
    const float least = 0x1p-126f, y = fmaf(a, b, c), size = fabsf(y);
    if (!(size <= least)) return y;
    if (size < least) return kern_flushed(y);
    return fabsf(fmaf(a * 0x1p32f, b, c * 0x1p32f)) < least * 0x1p32f ? copysignf(0.0f, y) : y;
}

/* ln x of one positive normal float, error below 2 ulp (infinity and NaN pass through). Our own, so that its bits do not depend on the C
 * library: x = m 2^e with m in [sqrt(1/2), sqrt(2)), polynomial in m-1 (coefficients as in Cephes logf), e ln 2 added in two parts. */
KERN_BOTH float vf_log1(float x) {
    if (!(x < INFINITY)) return x;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    float e = (float)((int32_t)(bits >> 23) - 126), m;
    bits = (bits & 0x007fffffu) | 0x3f000000u; /* m in [1/2, 1) */
    memcpy(&m, &bits, 4);
    if (m < 0.707106781186547524f) {
        e = e - 1.0f;
        m = m + m;
    }
    m = m - 1.0f;
    float z = m * m, y = 7.0376836292e-2f;
    y = fmaf(y, m, -1.1514610310e-1f);
    y = fmaf(y, m, 1.1676998740e-1f);
    y = fmaf(y, m, -1.2420140846e-1f);
    y = fmaf(y, m, 1.4249322787e-1f);
    y = fmaf(y, m, -1.6668057665e-1f);
    y = fmaf(y, m, 2.0000714765e-1f);
    y = fmaf(y, m, -2.4999993993e-1f);
    y = fmaf(y, m, 3.3333331174e-1f);
    y = y * m * z;
    y = fmaf(e, -2.12194440e-4f, y);
    y = fmaf(-0.5f, z, y);
    return fmaf(e, 0.693359375f, m + y);
}

/* e^x: vf_exp of cpu/vec.h, for one float. */
KERN_BOTH float kern_exp1(float x) {
    float c = x > -87.33f ? x : -87.33f;
    c = c < 88.37f ? c : 88.37f;
    float n = rintf(c * 1.44269504088896341f);
    float r = fmaf(-n, 0.693359375f, c);
    r = fmaf(-n, -2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r + 1.0f);
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.33f ? 0.0f : p * power;
}

/* ---- parts of a row of logits (the head): kern.h says what they are ---------------------------------------------------------------- */

/* z - maximum is bounded below where its exp is 0 anyway, so that the product of both is never 0 times infinity. */
#define KERN_HEAD_LEAST (-1000.0f)

/* What is taken off the z of a part whose maximum is m: finite where all of them are -inf. */
KERN_BOTH float kern_head_shift_from(float m) { return m > -3.402823466e38f ? m : -3.402823466e38f; }

/* The mass of a part beside the row's maximum, and what it adds to the sum of e*(z - maximum); sums are beside the part's maximum m. */
KERN_BOTH float kern_head_mass(float m, float sum, float weighted, float maximum, float *row_weighted) {
    const float below = kern_head_shift_from(m) - maximum, f = kern_exp1(below);
    *row_weighted = f * fmaf(below > KERN_HEAD_LEAST ? below : KERN_HEAD_LEAST, sum, weighted);
    return sum * f;
}

/* 2^x for x up to 127, error below 2 ulp; 2^-126 for all that is less, and for a NaN. x = n + r with n the nearest integer, which the
 * addition of 1.5 2^23 leaves in the low bits of a float, and r in [-1/2, 1/2]; the polynomial is the one of degree 5 that is 1 at 0 and has
 * the least relative error (Remez), 9.2e-8. 2^0 is 1 exactly. Twelve instructions, for every score of attention on tensor cores. */
KERN_BOTH float kern_exp2(float x) {
    const float shift = 12582912.0f, c = x > -126.0f ? x : -126.0f, shifted = c + shift, r = c - (shifted - shift);
    float p = 1.3264742539e-3f;
    p = fmaf(p, r, 9.6715127674e-3f);
    p = fmaf(p, r, 5.5507336783e-2f);
    p = fmaf(p, r, 2.4022242087e-1f);
    p = fmaf(p, r, 6.9314697767e-1f);
    p = fmaf(p, r, 1.0f);
    uint32_t bits, n;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&n, &shifted, sizeof n);
    bits += n << 23;
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* The scalars of kern_adamw, worked out in double and rounded once. bias_i = 1 - beta_i^step. */
typedef struct kern_adamw_factors {
    float grad_scale, keep, new1, beta2, new2, inv_root_bias2, step, eps;
} kern_adamw_factors;

static inline kern_adamw_factors kern_adamw_factors_of(const kern_adamw_args *args) {
    double bias1 = 1.0 - pow(args->beta1, (double)args->step), bias2 = 1.0 - pow(args->beta2, (double)args->step);
    kern_adamw_factors f;
    f.grad_scale = args->grad_scale;
    f.keep = (float)(1.0 - (double)args->lr * args->weight_decay);
    f.new1 = (float)(1.0 - (double)args->beta1);
    f.beta2 = args->beta2;
    f.new2 = (float)(1.0 - (double)args->beta2);
    f.inv_root_bias2 = (float)(1.0 / sqrt(bias2));
    f.step = (float)(args->lr / bias1);
    f.eps = args->eps;
    return f;
}

/* One element, in this order, each step one float rounding:
 *   g = grad*scale;  m += (1-beta1)*(g-m);  v = beta2*v + (1-beta2)*(g*g);
 *   p = p*(1-lr*decay) - lr/bias1 * (m / (sqrt(v)*(1/sqrt(bias2)) + eps)) */
KERN_BOTH void kern_adamw_element(float *param, float grad, float *m, float *v, const kern_adamw_factors *f) {
    const float g = grad * f->grad_scale;
    const float new_m = *m + f->new1 * (g - *m);
    const float new_v = f->beta2 * *v + f->new2 * (g * g);
    *m = new_m;
    *v = new_v;
    *param = *param * f->keep - f->step * (new_m / (sqrtf(new_v) * f->inv_root_bias2 + f->eps));
}

/* The finaliser of SplitMix64 (Steele, Lea & Flood 2014) on a word, its place added by the golden ratio step. */
KERN_BOTH uint64_t kern_mix64(uint64_t word, uint64_t i) {
    uint64_t z = word + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

#endif
