/* SwiGLU and its gradient: a thread four neighbouring outputs, EACH times.
 *
 *   swiglu        reads gate and up, writes y: 12 bytes an output, 6 as bfloat16
 *   swiglu_grad   reads gate, up and dy, writes both gradients: 20 bytes, or 10. silu'(g) = s (1 + g (1 - s)), s = sigmoid(g) */
#include "kernels/cuda/swiglu.h"

enum { THREADS = 256, EACH = 2, BLOCK = 4 * THREADS * EACH };

typedef struct swiglu_args {
    void *out;      /* y, or dgate_up */
    const void *dy; /* of the gradient */
    const void *gate_up;
    int f;
    bool wide;
} swiglu_args;

KERN_DEVICE void swiglu(const swiglu_args *a, const kern_dtype dtype) {
    const int across = (a->f + BLOCK - 1) / BLOCK, begin = kern_block() % across * BLOCK + 4 * kern_thread();
    const size_t row = (size_t)(kern_block() / across), gate = 2 * row * (size_t)a->f, y = row * (size_t)a->f;
    kern_float4 g[EACH], u[EACH];
    KERN_UNROLL
    for (int n = 0; n < EACH; n++) {
        const int i = begin + 4 * THREADS * n;
        g[n] = kern_load4(a->gate_up, dtype, gate + i, a->f - i, a->wide);
        u[n] = kern_load4(a->gate_up, dtype, gate + a->f + i, a->f - i, a->wide);
    }
    KERN_UNROLL
    for (int n = 0; n < EACH; n++) {
        const int i = begin + 4 * THREADS * n;
        KERN_UNROLL
        for (int e = 0; e < 4; e++) g[n].v[e] = swiglu_of(g[n].v[e], u[n].v[e]);
        kern_store4(a->out, dtype, y + i, a->f - i, a->wide, g[n]);
    }
}

KERN_DEVICE void swiglu_grad(const swiglu_args *a, const kern_dtype dtype) {
    const int across = (a->f + BLOCK - 1) / BLOCK, begin = kern_block() % across * BLOCK + 4 * kern_thread();
    const size_t row = (size_t)(kern_block() / across), gate = 2 * row * (size_t)a->f, y = row * (size_t)a->f;
    kern_float4 g[EACH], u[EACH], d[EACH];
    KERN_UNROLL
    for (int n = 0; n < EACH; n++) {
        const int i = begin + 4 * THREADS * n;
        g[n] = kern_load4(a->gate_up, dtype, gate + i, a->f - i, a->wide);
        u[n] = kern_load4(a->gate_up, dtype, gate + a->f + i, a->f - i, a->wide);
        d[n] = kern_load4(a->dy, dtype, y + i, a->f - i, a->wide);
    }
    KERN_UNROLL
    for (int n = 0; n < EACH; n++) {
        const int i = begin + 4 * THREADS * n;
        kern_float4 dg, du;
        KERN_UNROLL
        for (int e = 0; e < 4; e++) {
            const float s = sigmoid(g[n].v[e]);
            dg.v[e] = d[n].v[e] * u[n].v[e] * (s * fmaf(g[n].v[e], 1.0f - s, 1.0f));
            du.v[e] = d[n].v[e] * (g[n].v[e] * s);
        }
        kern_store4(a->out, dtype, gate + i, a->f - i, a->wide, dg);
        kern_store4(a->out, dtype, gate + a->f + i, a->f - i, a->wide, du);
    }
}

#define SWIGLU_KERNEL(name, body, dtype) \
    typedef swiglu_args name##_args;     \
    KERN_KERNEL_EARLY(name) {            \
        body(&a, dtype);                 \
    }
SWIGLU_KERNEL(swiglu_f32, swiglu, KERN_F32)
SWIGLU_KERNEL(swiglu_bf16, swiglu, KERN_BF16)
SWIGLU_KERNEL(swiglu_grad_f32, swiglu_grad, KERN_F32)
SWIGLU_KERNEL(swiglu_grad_bf16, swiglu_grad, KERN_BF16)

static int blocks_for(int m, int f) { return m * kern_blocks_for((size_t)f, BLOCK); }

void kern_cuda_swiglu(kern_ctx *ctx, void *y, const void *gate_up, kern_dtype dtype, int m, int f) {
    const swiglu_args args = {y, NULL, gate_up, f, kern_wide(y, dtype, f) && kern_wide(gate_up, dtype, f)};
    if (dtype == KERN_F32)
        KERN_LAUNCH(ctx, swiglu_f32, blocks_for(m, f), THREADS, args);
    else
        KERN_LAUNCH(ctx, swiglu_bf16, blocks_for(m, f), THREADS, args);
}

void kern_cuda_swiglu_grad(kern_ctx *ctx, void *dgate_up, const void *dy, const void *gate_up, kern_dtype dtype, int m, int f) {
    const swiglu_args args = {dgate_up, dy, gate_up, f, kern_wide(dgate_up, dtype, f) && kern_wide(gate_up, dtype, f) && kern_wide(dy, dtype, f)};
    if (dtype == KERN_F32)
        KERN_LAUNCH(ctx, swiglu_grad_f32, blocks_for(m, f), THREADS, args);
    else
        KERN_LAUNCH(ctx, swiglu_grad_bf16, blocks_for(m, f), THREADS, args);
}
