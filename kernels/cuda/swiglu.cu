/* SwiGLU and its gradient: a thread an output element.
 *
 *   swiglu        reads gate and up, writes y: 12 bytes
 *   swiglu_grad   reads gate, up and dy, writes both gradients: 20 bytes. silu'(g) = s (1 + g (1 - s)), s = sigmoid(g) */
#include "kernels/cuda/dialect.h"

enum { THREADS = 256 };

typedef struct swiglu_args {
    float *y;
    const float *gate_up;
    size_t n; /* m * f */
    int f;
} swiglu_args;

KERN_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + kern_exp1(0.0f - x)); }

/* Where the gate of element i is; up is f further. */
KERN_DEVICE size_t gate_at(size_t i, int f) { return i / (size_t)f * 2 * (size_t)f + i % (size_t)f; }

KERN_KERNEL(swiglu) {
    const size_t i = (size_t)kern_block() * THREADS + (size_t)kern_thread();
    if (i >= a.n) return;
    const float *gate = a.gate_up + gate_at(i, a.f), g = *gate;
    a.y[i] = g * sigmoid(g) * gate[a.f];
}

void kern_cuda_swiglu(kern_ctx *ctx, float *y, const float *gate_up, int m, int f) {
    const swiglu_args args = {y, gate_up, (size_t)m * (size_t)f, f};
    KERN_LAUNCH(ctx, swiglu, kern_blocks_for(args.n, THREADS), THREADS, args);
}

typedef struct swiglu_grad_args {
    float *dgate_up;
    const float *dy, *gate_up;
    size_t n;
    int f;
} swiglu_grad_args;

KERN_KERNEL(swiglu_grad) {
    const size_t i = (size_t)kern_block() * THREADS + (size_t)kern_thread();
    if (i >= a.n) return;
    const size_t at = gate_at(i, a.f);
    const float g = a.gate_up[at], u = a.gate_up[at + a.f], d = a.dy[i], s = sigmoid(g);
    a.dgate_up[at] = d * u * (s * fmaf(g, 1.0f - s, 1.0f));
    a.dgate_up[at + a.f] = d * (g * s);
}

void kern_cuda_swiglu_grad(kern_ctx *ctx, float *dgate_up, const float *dy, const float *gate_up, int m, int f) {
    const swiglu_grad_args args = {dgate_up, dy, gate_up, (size_t)m * (size_t)f, f};
    KERN_LAUNCH(ctx, swiglu_grad, kern_blocks_for(args.n, THREADS), THREADS, args);
}
