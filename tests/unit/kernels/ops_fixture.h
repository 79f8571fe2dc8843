/* What the tests of single operations share: a device of a given instruction set, tensors that it frees, reproducible values,
 * comparisons. */
#ifndef RLF_TESTS_UNIT_KERNELS_OPS_FIXTURE_H
#define RLF_TESTS_UNIT_KERNELS_OPS_FIXTURE_H

#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "kernels/scalar.h"
#include "tests/unit/kernels/device.h"

enum { FX_MAX_BUFS = 64 };

typedef struct fixture {
    kern_device *device;
    kern_queue *queue;
    kern_buf *bufs[FX_MAX_BUFS];
    int n;
} fixture;

/* The ways a result is computed again to compare its bits; the first is the one the others are held against. */
typedef struct variant {
    const char *isa;
    int threads;
} variant;
static const variant VARIANTS[] = {{"portable", 1}, {"avx2", 1}, {"avx2", 3}, {"avx512", 1}, {"avx512", 2}, {"avx512", 4}};
enum { N_VARIANTS = sizeof VARIANTS / sizeof *VARIANTS };

/* False where this machine lacks the instruction set. isa NULL: the best. */
static inline bool fx_open(fixture *fx, const char *isa, int threads) {
    *fx = (fixture){0};
    rlf_status status = device_open(&fx->device, isa, threads);
    if (isa && status == RLF_UNSUPPORTED) return false;
    assert_ok(status);
    assert_ok(kern_queue_new(&fx->queue, fx->device));
    return true;
}

/* Frees tensors made since the fixture had n of them. */
static inline void fx_release(fixture *fx, int n) {
    while (fx->n > n) kern_buf_destroy(fx->bufs[--fx->n]);
}

static inline void fx_close(fixture *fx) {
    fx_release(fx, 0);
    kern_queue_destroy(fx->queue);
    kern_device_close(fx->device);
}

static inline kern_tensor fx_zeros(fixture *fx, kern_dtype dtype, size_t n) {
    assert_true(fx->n < FX_MAX_BUFS);
    assert_ok(kern_buf_new(&fx->bufs[fx->n], fx->device, n * kern_dtype_size(dtype)));
    return kern_view(fx->bufs[fx->n++], dtype);
}
static inline kern_tensor fx_f32(fixture *fx, const float *src, size_t n) {
    kern_tensor t = fx_zeros(fx, KERN_F32, n);
    kern_upload(fx->queue, t, src, n);
    return t;
}
static inline kern_tensor fx_i32(fixture *fx, const int32_t *src, size_t n) {
    kern_tensor t = fx_zeros(fx, KERN_I32, n);
    kern_upload(fx->queue, t, src, n);
    return t;
}
static inline void fx_get(fixture *fx, float *dst, kern_tensor t, size_t n) {
    kern_download(fx->queue, dst, t, n);
    assert_ok(kern_sync(fx->queue));
}

/* Activations of either type: made from floats, and read as floats. */
static inline kern_tensor fx_as(fixture *fx, kern_dtype dtype, const float *src, size_t n) {
    kern_tensor wide = fx_f32(fx, src, n), t = wide;
    if (dtype != KERN_F32) {
        t = fx_zeros(fx, dtype, n);
        kern_convert(fx->queue, t, wide, n);
    }
    return t;
}
static inline void fx_get_wide(fixture *fx, float *dst, kern_tensor t, size_t n) {
    const int mark = fx->n;
    kern_tensor wide = t;
    if (t.dtype != KERN_F32) {
        wide = fx_zeros(fx, KERN_F32, n);
        kern_convert(fx->queue, wide, t, n);
    }
    fx_get(fx, dst, wide, n);
    fx_release(fx, mark);
}

/* To values that bfloat16 holds. */
static inline void round_all(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = kern_float_of_bf16(kern_bf16_of_float(x[i]));
}

/* n floats in [-scale, scale), of stream `stream`. Free with free(). */
static inline float *random_floats(uint64_t stream, size_t n, float scale) {
    float *x = rlf_calloc(n, sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = scale * (2 * rlf_rng_uniform(7, RLF_RNG_TEST, stream, 0, (uint32_t)i) - 1);
    return x;
}
static inline float *zero_floats(size_t n) { return rlf_calloc(n, sizeof(float)); }

static inline void same_bits(const char *what, const float *got, const float *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &expected[i], sizeof *got))
            fail_msg("%s: element %zu of %zu is %.9g, expected %.9g", what, i, n, (double)got[i], (double)expected[i]);
}

/* |got - expected| <= tolerance * (1 + |expected|). */
static inline void close_to(const char *what, double got, double expected, double tolerance) {
    if (!(fabs(got - expected) <= tolerance * (1 + fabs(expected)))) fail_msg("%s: %.9g, expected %.9g", what, got, expected);
}

/* The slope of f at x[i] by central difference, x being double. */
static inline double slope(double (*f)(const void *problem, const double *x), const void *problem, double *x, size_t i) {
    const double h = 1e-5, old = x[i];
    x[i] = old + h;
    const double up = f(problem, x);
    x[i] = old - h;
    const double down = f(problem, x);
    x[i] = old;
    return (up - down) / (2 * h);
}

#endif
