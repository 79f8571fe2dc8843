/* Matrix products of float32 factors: C (rows, cols) from A (rows, depth) and B (depth, cols), for the forward product and its two
 * gradients, with the bits of the CPU: every element is one chain of fused multiply-adds over depth ascending, so a row's result cannot
 * depend on the others. Those of bfloat16 factors go on to tensor cores (linear_tiles.cu).
 *
 *   block    SIDE x SIDE elements of C, 256 threads; a thread has EACH x EACH of them in registers, for the whole depth
 *   step     DEPTH of depth: a SIDE x DEPTH piece of A and of B come to shared memory, B widened from bfloat16 where need be
 *
 * Operations: 2 rows cols depth, on the ordinary float units. Bytes: A is read cols/SIDE times, B rows/SIDE times, C once. */
#include "kernels/cuda/linear.h"

enum { THREADS = 256, SIDE = 64, EACH = 4, DEPTH = 32, PAD = 1 };

/* One of A and B. Element (line, d) is ptr[line*ld + d] if along_depth, else ptr[d*ld + line]. */
typedef struct operand {
    const void *ptr;
    kern_dtype dtype;
    size_t ld;
    int lines;
    bool along_depth;
} operand;

typedef struct product_args {
    operand a, b;
    product_out to;
    int depth;
} product_args;

typedef struct product_tiles {
    float a[DEPTH][SIDE + PAD], b[DEPTH][SIDE + PAD];
} product_tiles;

KERN_DEVICE float operand_at(const operand *x, int line, int d) {
    return kern_element(x->ptr, x->dtype, x->along_depth ? (size_t)line * x->ld + (size_t)d : (size_t)d * x->ld + (size_t)line);
}

/* Lines line0.. and depths d0.. of x; neighbouring threads take neighbours in memory. Beyond the matrix: 0, which is not used. */
KERN_DEVICE void load_tile(float tile[DEPTH][SIDE + PAD], const operand *x, int line0, int d0, int depth) {
    for (int i = kern_thread(); i < SIDE * DEPTH; i += THREADS) {
        const int line = x->along_depth ? i / DEPTH : i % SIDE, d = x->along_depth ? i % DEPTH : i / SIDE;
        const bool inside = line0 + line < x->lines && d0 + d < depth;
        tile[d][line] = inside ? operand_at(x, line0 + line, d0 + d) : 0.0f;
    }
}

/* What the chain of C's element i begins with. */
KERN_DEVICE float first_of_chain(const product_out *to, size_t i) { return to->start == FROM_C ? ((const float *)to->c)[i] : 0.0f; }

/* Thread (ty, tx) of 16 x 16 has rows ty + 16 i and columns tx + 16 j. */
KERN_KERNEL(product) {
    KERN_SHARED(product_tiles, tiles);
    const int across = (a.b.lines + SIDE - 1) / SIDE, row0 = kern_block() / across * SIDE, col0 = kern_block() % across * SIDE;
    const int ty = kern_thread() / 16, tx = kern_thread() % 16;
    const bool busy = row0 + ty < a.a.lines && col0 + tx < a.b.lines; /* else no element of this thread is inside */
    float sum[EACH][EACH];
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            const int row = row0 + ty + 16 * i, col = col0 + tx + 16 * j;
            sum[i][j] = row < a.a.lines && col < a.b.lines ? first_of_chain(&a.to, (size_t)row * a.b.lines + col) : 0.0f;
        }
    for (int d0 = 0; d0 < a.depth; d0 += DEPTH) {
        const int n = a.depth - d0 < DEPTH ? a.depth - d0 : DEPTH;
        load_tile(tiles->a, &a.a, row0, d0, a.depth);
        load_tile(tiles->b, &a.b, col0, d0, a.depth);
        kern_barrier();
        for (int d = 0; d < n && busy; d++) {
            float left[EACH], right[EACH];
            for (int i = 0; i < EACH; i++) left[i] = tiles->a[d][ty + 16 * i];
            for (int j = 0; j < EACH; j++) right[j] = tiles->b[d][tx + 16 * j];
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
        }
        kern_barrier();
    }
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            const int row = row0 + ty + 16 * i, col = col0 + tx + 16 * j;
            if (row >= a.a.lines || col >= a.b.lines) continue;
            store_element(&a.to, (size_t)row * a.b.lines + col, sum[i][j], col);
        }
}

static void run_product(kern_ctx *ctx, const product_args *p) {
    const product_args args = *p;
    const int blocks = kern_blocks_for((size_t)args.a.lines, SIDE) * kern_blocks_for((size_t)args.b.lines, SIDE);
    KERN_LAUNCH(ctx, product, blocks, THREADS, args);
}

void kern_cuda_linear(kern_ctx *ctx, void *y, kern_dtype y_dtype, const void *x, kern_dtype x_dtype, const void *w, kern_dtype w_dtype,
                      const void *bias, kern_dtype bias_dtype, kern_dtype factors, int m, int n, int k, bool accumulate) {
    const product_out to = {y, y_dtype, bias, bias_dtype, accumulate ? ADDED : FROM_ZERO};
    if (factors == KERN_BF16) {
        kern_cuda_tensor_linear(ctx, to, x, x_dtype, (const uint16_t *)w, m, n, k);
        return;
    }
    const product_args args = {{x, x_dtype, (size_t)k, m, true}, {w, w_dtype, (size_t)k, n, true}, to, k};
    run_product(ctx, &args);
}

/* Few rows of bfloat16 factors, and on Hopper's cards any number, have kernels that end with SwiGLU, and no gate_up. */
void kern_cuda_linear_swiglu(kern_ctx *ctx, void *y, void *gate_up, kern_dtype dtype, const void *x, kern_dtype x_dtype, const void *w,
                             kern_dtype w_dtype, kern_dtype factors, int m, int f, int k) {
    const product_out to = {y, dtype, NULL, KERN_F32, FROM_ZERO};
    if (factors == KERN_BF16 && kern_cuda_tensor_linear_swiglu(ctx, to, x, x_dtype, (const uint16_t *)w, m, f, k)) return;
    kern_cuda_linear(ctx, gate_up, dtype, x, x_dtype, w, w_dtype, NULL, KERN_F32, factors, m, 2 * f, k, false);
    kern_cuda_swiglu(ctx, y, gate_up, dtype, m, f);
}

void kern_cuda_linear_grad_input(kern_ctx *ctx, void *dx, kern_dtype dx_dtype, const void *dy, kern_dtype dy_dtype, const void *w,
                                 kern_dtype w_dtype, kern_dtype factors, int m, int n, int k, bool accumulate) {
    const product_out to = {dx, dx_dtype, NULL, KERN_F32, accumulate ? ADDED : FROM_ZERO};
    if (factors == KERN_BF16) {
        kern_cuda_tensor_grad_input(ctx, to, dy, dy_dtype, (const uint16_t *)w, m, n, k);
        return;
    }
    const product_args args = {{dy, dy_dtype, (size_t)n, m, true}, {w, w_dtype, (size_t)k, k, false}, to, n};
    run_product(ctx, &args);
}

void kern_cuda_linear_grad_weight(kern_ctx *ctx, float *dw, const void *dy, kern_dtype dy_dtype, const void *x, kern_dtype x_dtype,
                                  kern_dtype factors, int m, int n, int k) {
    const product_out to = {dw, KERN_F32, NULL, KERN_F32, FROM_C};
    if (factors == KERN_BF16) {
        kern_cuda_tensor_grad_weight(ctx, to, dy, dy_dtype, x, x_dtype, m, n, k);
        return;
    }
    const product_args args = {{dy, dy_dtype, (size_t)n, n, false}, {x, x_dtype, (size_t)k, k, false}, to, m};
    run_product(ctx, &args);
}
