/* linear: what the kernels of matrix products share. linear.cu has the products with float32 weights, linear_tiles.cu and linear_few.cu
 * those with bfloat16 weights, on tensor cores.
 *
 * A product is C (rows, cols) from A (rows, depth) and B (depth, cols). A line is a row of C for A, a column of C for B. */
#ifndef RLF_KERNELS_CUDA_LINEAR_H
#define RLF_KERNELS_CUDA_LINEAR_H

#include "kernels/cuda/mma.h"
#include "kernels/cuda/swiglu.h"

typedef enum chain_start {
    FROM_ZERO, /* C = chain + bias */
    ADDED,     /* C = C + (chain + bias) */
    FROM_C     /* the chain begins with C */
} chain_start;

/* C, and the bias. What is added to is float32. */
typedef struct product_out {
    void *c;
    kern_dtype dtype;
    const void *bias; /* (cols) or NULL */
    kern_dtype bias_dtype;
    chain_start start;
} product_out;

/* The chain of C's element i, in column col, has ended. */
KERN_DEVICE void store_element(const product_out *to, size_t i, float chain, int col) {
    const float value = to->bias ? chain + kern_element(to->bias, to->bias_dtype, (size_t)col) : chain;
    kern_set_element(to->c, to->dtype, i, to->start == ADDED ? ((const float *)to->c)[i] + value : value);
}

/* The chains of the gate and of the up of an element of C have ended; it is what kern_swiglu makes of them as stored. */
KERN_DEVICE float gated_of(const product_out *to, float gate, float up) {
    const bool half = to->dtype == KERN_BF16;
    return swiglu_of(half ? kern_float_of_bf16(kern_bf16_of_float(gate)) : gate, half ? kern_float_of_bf16(kern_bf16_of_float(up)) : up);
}
KERN_DEVICE void store_gated(const product_out *to, size_t i, float gate, float up) {
    kern_set_element(to->c, to->dtype, i, gated_of(to, gate, up));
}

/* ---- products on tensor cores ----------------------------------------------------------------------------------------------------- */

/* THE ORDER. An element is one chain of kern_mma_bf16 over depth, ascending, 16 at a time from 0 on, as many as reach the depth; what is
 * missing of the last 16 is zeros. Rows of A are always rows of the tensor core's A, columns of B its columns. Depth is never split. So an
 * element's bits depend on its row and its column alone, and tiles and few rows (linear_few.cu) agree. */

enum {
    STEP = 64,        /* of depth, between barriers */
    CHUNK = 8,        /* elements of 16 bytes: what a thread copies */
    ROW_CHUNKS = STEP / CHUNK,
    MMA_DEPTH = 16,
    MMA_ROWS = 16,
    MMA_COLS = 8,
    FEW_ROWS = 64     /* up to which a product has few rows */
};

/* One of A and B, in bfloat16. Element (line, d) is ptr[line*ld + d] if along_depth, else ptr[d*ld + line]. */
typedef struct tensor_operand {
    const uint16_t *ptr;
    size_t ld;
    int lines;
    bool along_depth;
    bool aligned; /* each ptr + i*ld is a multiple of 16 bytes */
} tensor_operand;

typedef struct tensor_product {
    tensor_operand a, b;
    product_out to;
    int depth;
    bool gated; /* few rows, or Hopper's: B's lines are those of gate, as many of up lie behind them, and C is kern_swiglu of the two */
} tensor_product;

static inline tensor_operand tensor_operand_of(const uint16_t *ptr, int ld, int lines, bool along_depth) {
    const tensor_operand x = {ptr, (size_t)ld, lines, along_depth, ld % CHUNK == 0 && (uintptr_t)ptr % 16 == 0};
    return x;
}

/* A piece is `lines` lines (a multiple of 8, of 64 if not along depth) by STEP of depth of an operand in shared memory. As in device memory
 * it has a row a line, or a row a depth, in chunks; the chunks of a row are exchanged by the row's number mod 8, so that both the eight
 * threads that write a row and the eight rows that an ldmatrix reads fall on different banks. */
KERN_DEVICE int piece_chunk(int row, int chunk, int chunks) { return row * chunks + (chunk ^ (row & 7)); }

/* n of the chunk's elements are in the matrix (n may be negative), the others become zeros. */
KERN_DEVICE void copy_chunk(uint16_t *to, const tensor_operand *x, size_t from, int n) {
    const int inside = n < 0 ? 0 : n > CHUNK ? CHUNK : n;
    if (x->aligned)
        kern_copy_async16(to, x->ptr + (inside ? from : 0), inside * (int)sizeof *to);
    else
        for (int i = 0; i < CHUNK; i++) to[i] = i < inside ? x->ptr[from + (size_t)i] : 0;
}

/* Begins to copy lines line0.. and depths d0.. . An operand that is not aligned is copied on the spot; its memory must be free. */
KERN_DEVICE void copy_piece(uint16_t *piece, const tensor_operand *x, const bool along_depth, const int lines, int line0, int d0, int depth) {
    const int chunks = along_depth ? ROW_CHUNKS : lines / CHUNK;
    KERN_UNROLL
    for (int i = kern_thread(); i < lines * ROW_CHUNKS; i += kern_threads()) {
        const int row = i / chunks, chunk = i % chunks;
        const int line = line0 + (along_depth ? row : chunk * CHUNK), d = d0 + (along_depth ? chunk * CHUNK : row);
        const bool outside = along_depth ? line >= x->lines : d >= depth;
        const size_t from = along_depth ? (size_t)line * x->ld + (size_t)d : (size_t)d * x->ld + (size_t)line;
        copy_chunk(piece + piece_chunk(row, chunk, chunks) * CHUNK, x, from, outside ? 0 : along_depth ? depth - d : x->lines - line);
    }
}

/* 16 lines from `line` on by 16 depths from d on: the fragment a[4] of 16 rows, or of 16 columns, of which the first eight have
 * b = {r[0], r[2]} and the others {r[1], r[3]}. */
KERN_DEVICE void load_fragment(uint32_t r[4], const uint16_t *piece, const bool along_depth, const int lines, int line, int d) {
    const int lane = kern_thread() % 32, matrix = lane / 8, low_line = line + matrix % 2 * 8, low_d = d + matrix / 2 * 8;
    if (along_depth)
        kern_ldmatrix_x4(r, piece + piece_chunk(low_line + lane % 8, low_d / CHUNK, ROW_CHUNKS) * CHUNK);
    else
        kern_ldmatrix_x4_trans(r, piece + piece_chunk(low_d + lane % 8, low_line / CHUNK, lines / CHUNK) * CHUNK);
}

#ifdef __cplusplus
extern "C" {
#endif

/* Forward products of up to FEW_ROWS rows, and gated ones. */
void kern_cuda_product_of_few(kern_ctx *ctx, const tensor_product *product);

/* The same products on a Hopper card, and all others, where operands are aligned: false where it cannot. */
bool kern_cuda_hopper_product(kern_ctx *ctx, const tensor_product *product);

/* As the operations of ops.h, with factors of bfloat16: linear_tiles.cu. */
void kern_cuda_tensor_linear(kern_ctx *ctx, product_out y, const void *x, kern_dtype x_dtype, const uint16_t *w, int m, int n, int k);
/* y is not added to. False: it has to be done by two operations. */
bool kern_cuda_tensor_linear_swiglu(kern_ctx *ctx, product_out y, const void *x, kern_dtype x_dtype, const uint16_t *w, int m, int f,
                                    int k);
void kern_cuda_tensor_grad_input(kern_ctx *ctx, product_out dx, const void *dy, kern_dtype dy_dtype, const uint16_t *w, int m, int n, int k);
void kern_cuda_tensor_grad_weight(kern_ctx *ctx, product_out dw, const void *dy, kern_dtype dy_dtype, const void *x, kern_dtype x_dtype, int m,
                                  int n, int k);

#ifdef __cplusplus
}
#endif
#endif
