/* Conversions and AdamW: four neighbouring elements a thread and access.
 *
 *   widen, narrow    6 bytes an element
 *   adamw            reads param, grad, m, v and writes param, m, v: 28 bytes an element, some 15 operations: bound by memory
 *   adamw_masters    the same with param in two halves: 28 bytes, and 10 operations of integers more */
#include "kernels/cuda/dialect.h"

enum { THREADS = 256 };

typedef struct halves4 {
    uint16_t v[4];
} __attribute__((aligned(8))) halves4;

KERN_DEVICE halves4 load_halves4(const uint16_t *from, int n, bool wide) {
    halves4 y = {{0, 0, 0, 0}};
    if (wide && n > 0) return *(const halves4 *)from;
    for (int e = 0; e < 4 && e < n; e++) y.v[e] = from[e];
    return y;
}
KERN_DEVICE void store_halves4(uint16_t *to, int n, bool wide, halves4 y) {
    if (wide && n > 0)
        *(halves4 *)to = y;
    else
        for (int e = 0; e < 4 && e < n; e++) to[e] = y.v[e];
}

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
KERN_DEVICE halves4 narrowed(kern_float4 x) {
    halves4 y;
    KERN_UNROLL
    for (int e = 0; e < 4; e++) y.v[e] = kern_bf16_of_float(x.v[e]);
    return y;
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
            store_halves4((uint16_t *)a->y + i, n, a->wide, narrowed(x[e]));
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

/* ---- AdamW -------------------------------------------------------------------------------------------------------------------------- */

typedef struct adamw_args {
    void *param;
    int16_t *rest;
    const float *grad;
    float *m, *v;
    size_t n;
    bool wide;
    kern_adamw_factors factors;
} adamw_args;
typedef adamw_args adamw_masters_args;

KERN_DEVICE void update(const adamw_args *a, const bool masters) {
    const size_t i = 4 * ((size_t)kern_block() * THREADS + (size_t)kern_thread());
    const int n = i + 4 <= a->n ? 4 : i < a->n ? (int)(a->n - i) : 0;
    kern_float4 param = kern_load4(a->param, masters ? KERN_BF16 : KERN_F32, i, n, a->wide);
    kern_float4 m = kern_load4(a->m, KERN_F32, i, n, a->wide), v = kern_load4(a->v, KERN_F32, i, n, a->wide);
    const kern_float4 grad = kern_load4(a->grad, KERN_F32, i, n, a->wide);
    halves4 rest;
    if (masters) rest = load_halves4((const uint16_t *)a->rest + i, n, a->wide);
    KERN_UNROLL
    for (int e = 0; e < 4; e++) {
        if (masters) param.v[e] = kern_master_of(param.v[e], (int16_t)rest.v[e]);
        kern_adamw_element(&param.v[e], grad.v[e], &m.v[e], &v.v[e], &a->factors);
        rest.v[e] = (uint16_t)kern_rest_of(param.v[e]);
    }
    kern_store4(a->m, KERN_F32, i, n, a->wide, m);
    kern_store4(a->v, KERN_F32, i, n, a->wide, v);
    if (masters) {
        store_halves4((uint16_t *)a->param + i, n, a->wide, narrowed(param));
        store_halves4((uint16_t *)a->rest + i, n, a->wide, rest);
    } else {
        kern_store4(a->param, KERN_F32, i, n, a->wide, param);
    }
}

KERN_KERNEL(adamw) { update(&a, false); }
KERN_KERNEL(adamw_masters) { update(&a, true); }

void kern_cuda_adamw(kern_ctx *ctx, void *param, int16_t *rest, const float *grad, float *m, float *v, size_t n,
                     const kern_adamw_args *args) {
    const bool wide = kern_wide(param, rest ? KERN_BF16 : KERN_F32, (int)(n % 4)) && kern_wide(rest, KERN_BF16, 4) &&
                      kern_wide(grad, KERN_F32, 4) && kern_wide(m, KERN_F32, 4) && kern_wide(v, KERN_F32, 4);
    const adamw_args job = {param, rest, grad, m, v, n, wide, kern_adamw_factors_of(args)};
    if (rest)
        KERN_LAUNCH(ctx, adamw_masters, kern_blocks_for(n, 4 * THREADS), THREADS, job);
    else
        KERN_LAUNCH(ctx, adamw, kern_blocks_for(n, 4 * THREADS), THREADS, job);
    ctx->wrote_weights = true;
}
