/* Conversions and AdamW: one thread an element, EACH apart, so that neighbouring threads touch neighbouring memory.
 *
 *   widen, narrow   6 bytes an element
 *   adamw           reads param, grad, m, v and writes param, m, v: 28 bytes an element, some 15 operations: bound by memory
 * Vectors of 16 bytes a thread come once a card has shown the gain. */
#include "kernels/cuda/dialect.h"

enum { THREADS = 256, EACH = 8 };

KERN_DEVICE size_t first_element(void) { return (size_t)kern_block() * THREADS * EACH + (size_t)kern_thread(); }

typedef struct widen_args {
    float *y;
    const uint16_t *x;
    size_t n;
} widen_args;

KERN_KERNEL(widen) {
    size_t i = first_element();
    for (int step = 0; step < EACH && i < a.n; step++, i += THREADS) a.y[i] = kern_float_of_bf16(a.x[i]);
}

void kern_cuda_widen(kern_ctx *ctx, float *y, const uint16_t *x, size_t n) {
    const widen_args args = {y, x, n};
    KERN_LAUNCH(ctx, widen, kern_blocks_for(n, THREADS * EACH), THREADS, args);
}

typedef struct narrow_args {
    uint16_t *y;
    const float *x;
    size_t n;
} narrow_args;

KERN_KERNEL(narrow) {
    size_t i = first_element();
    for (int step = 0; step < EACH && i < a.n; step++, i += THREADS) a.y[i] = kern_bf16_of_float(a.x[i]);
}

void kern_cuda_narrow(kern_ctx *ctx, uint16_t *y, const float *x, size_t n) {
    const narrow_args args = {y, x, n};
    KERN_LAUNCH(ctx, narrow, kern_blocks_for(n, THREADS * EACH), THREADS, args);
}

typedef struct adamw_args {
    float *param;
    const float *grad;
    float *m, *v;
    size_t n;
    kern_adamw_factors factors;
} adamw_args;

KERN_KERNEL(adamw) {
    size_t i = first_element();
    for (int step = 0; step < EACH && i < a.n; step++, i += THREADS)
        kern_adamw_element(&a.param[i], a.grad[i], &a.m[i], &a.v[i], &a.factors);
}

void kern_cuda_adamw(kern_ctx *ctx, float *param, const float *grad, float *m, float *v, size_t n, const kern_adamw_args *args) {
    const adamw_args job = {param, grad, m, v, n, kern_adamw_factors_of(args)};
    KERN_LAUNCH(ctx, adamw, kern_blocks_for(n, THREADS * EACH), THREADS, job);
}
