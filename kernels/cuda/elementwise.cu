/* Conversions, four elements a thread and access, and AdamW: one thread an element, EACH apart, so that neighbouring threads touch
 * neighbouring memory.
 *
 *   widen, narrow   6 bytes an element
 *   adamw           reads param, grad, m, v and writes param, m, v: 28 bytes an element, some 15 operations: bound by memory. An H100 does
 *                   it at 95 % of what it copies with */
#include "kernels/cuda/dialect.h"

enum { THREADS = 256, EACH = 8 };

KERN_DEVICE size_t first_element(void) { return (size_t)kern_block() * THREADS * EACH + (size_t)kern_thread(); }

typedef struct convert_args {
    void *y;
    const void *x;
    size_t n;
    bool wide;
} convert_args;
typedef convert_args widen_args, narrow_args;

/* Four neighbours a thread, CONVERT_EACH times. */
enum { CONVERT_EACH = 4, CONVERT_BLOCK = 4 * THREADS * CONVERT_EACH };

/* A NaN keeps its bits as kern_bf16_of_float says, as on the CPU. */
KERN_DEVICE void store_narrow4(uint16_t *to, int n, bool wide, kern_float4 x) {
    uint16_t y[4];
    KERN_UNROLL
    for (int e = 0; e < 4; e++) y[e] = kern_bf16_of_float(x.v[e]);
    if (wide && n > 0)
        *(kern_half4 *)to = (kern_half4){{y[0] | (uint32_t)y[1] << 16, y[2] | (uint32_t)y[3] << 16}};
    else
        for (int e = 0; e < 4 && e < n; e++) to[e] = y[e];
}

KERN_DEVICE void convert(const convert_args *a, const kern_dtype to, const kern_dtype from) {
    const size_t begin = (size_t)kern_block() * CONVERT_BLOCK + 4 * (size_t)kern_thread();
    kern_float4 x[CONVERT_EACH];
    KERN_UNROLL
    for (int e = 0; e < CONVERT_EACH; e++) {
        const size_t i = begin + (size_t)(4 * THREADS * e);
        x[e] = kern_load4(a->x, from, i, i + 4 <= a->n ? 4 : i < a->n ? (int)(a->n - i) : 0, a->wide);
    }
    KERN_UNROLL
    for (int e = 0; e < CONVERT_EACH; e++) {
        const size_t i = begin + (size_t)(4 * THREADS * e);
        const int n = i + 4 <= a->n ? 4 : i < a->n ? (int)(a->n - i) : 0;
        if (to == KERN_F32)
            kern_store4(a->y, to, i, n, a->wide, x[e]);
        else
            store_narrow4((uint16_t *)a->y + i, n, a->wide, x[e]);
    }
}

KERN_KERNEL(widen) { convert(&a, KERN_F32, KERN_BF16); }
KERN_KERNEL(narrow) { convert(&a, KERN_BF16, KERN_F32); }

void kern_cuda_widen(kern_ctx *ctx, float *y, const uint16_t *x, size_t n) {
    const widen_args args = {y, x, n, kern_wide(y, KERN_F32, (int)(n % 4)) && kern_wide(x, KERN_BF16, 4)};
    KERN_LAUNCH(ctx, widen, kern_blocks_for(n, CONVERT_BLOCK), THREADS, args);
}

void kern_cuda_narrow(kern_ctx *ctx, uint16_t *y, const float *x, size_t n) {
    const narrow_args args = {y, x, n, kern_wide(y, KERN_BF16, (int)(n % 4)) && kern_wide(x, KERN_F32, 4)};
    KERN_LAUNCH(ctx, narrow, kern_blocks_for(n, CONVERT_BLOCK), THREADS, args);
    ctx->wrote_weights = true;
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
    ctx->wrote_weights = true;
}
