/* The forward product with bfloat16 weights for few rows, as in decoding: weights stream through the card once, in the order of
 * linear.h.
 *
 *   warp     MMA_COLS columns for the whole depth and up to 64 rows: there are as many warps as columns/8, however few the rows
 *   block    1 to 8 warps, which share the rows of x in shared memory: each block reads x from the second-level cache, rows/(8
 *            warps) times the bytes of its weights, so as many warps as leave half of the multiprocessors a block
 *   step     STEP of depth of x and of the block's columns, by asynchronous copies STAGES - 1 steps ahead: a warp has 9 KiB of
 *            weights under way, and memory's latency times its bandwidth (some 3 MiB for a Hopper card) needs 350 such warps
 *   rows     fragments of 16 are a constant, 1, 2 or 4; more than 64 rows are several blocks for the same columns, next to each
 *            other, so that the second finds the weights in the cache
 *
 * Gated (kern_linear_swiglu): a warp has 8 columns of gate and the same 8 of up, and a block half as many warps; x is loaded once for both,
 * and gate and up never leave registers.
 *
 * Bytes: 2 a weight, once; x, 2 bytes an element, once a block, from the second-level cache. Operations: 2 a weight and row, of
 * which the tensor cores do 32, 64 or 128. Up to about 32 rows memory should be what limits it, where there are enough warps.
 * With 64 rows a warp reads 2 KiB of x from shared memory for each 256 bytes of weights, which is then the limit. And a warp's
 * multiplications come one after the other: depth/16 of them, so that a deep product with few columns waits for the tensor core's
 * latency. Both are the price of one chain an element; splitting depth at fixed places would be another order.
 *
 * On an H100 a step of 64 took 870 cycles where its four products take 130: one warp a scheduler, which has the addresses to
 * work out. Hopper's cards have linear_hopper.cu instead. */
#include "kernels/cuda/linear.h"

enum {
    MOST_WARPS = 8,
    STAGES = 10,
    MOST_FRAGMENTS = FEW_ROWS / MMA_ROWS,
    PAIR_DEPTH = 2 * MMA_DEPTH
};

/* 8 columns by 32 of depth: two fragments b, r[0], r[1] and r[2], r[3]. */
KERN_DEVICE void load_columns(uint32_t r[4], const uint16_t *piece, int line, int d) {
    const int lane = kern_thread() % 32;
    kern_ldmatrix_x4(r, piece + piece_chunk(line + lane % 8, d / CHUNK + lane / 8, ROW_CHUNKS) * CHUNK);
}

/* The chains of one step, of a warp's columns of one side or both; `left` is the depth from its beginning on. */
KERN_DEVICE void multiply_few(float c[][MOST_FRAGMENTS][4], const uint16_t *rows, const uint16_t *columns, const int fragments,
                              const int sides, int left) {
    const int col = kern_thread() / 32 * MMA_COLS, cols = kern_threads() / 32 * MMA_COLS;
    KERN_UNROLL
    for (int d = 0; d < STEP; d += PAIR_DEPTH) {
        uint32_t b[2][4], x[2][MOST_FRAGMENTS][4];
        KERN_UNROLL
        for (int side = 0; side < sides; side++) load_columns(b[side], columns + side * cols * STEP, col, d);
        KERN_UNROLL
        for (int half = 0; half < 2; half++)
            KERN_UNROLL
            for (int i = 0; i < fragments; i++)
                load_fragment(x[half][i], rows, true, fragments * MMA_ROWS, i * MMA_ROWS, d + half * MMA_DEPTH);
        KERN_UNROLL
        for (int half = 0; half < 2; half++)
            KERN_UNROLL
            for (int i = 0; i < fragments; i++)
                KERN_UNROLL
                for (int side = 0; side < sides; side++)
                    if (d + half * MMA_DEPTH < left) kern_mma_bf16(c[side][i], x[half][i], b[side] + 2 * half);
    }
}

/* The lines of gate, or those of up. */
KERN_DEVICE tensor_operand side_of(const tensor_operand *b, int side) {
    tensor_operand x = *b;
    x.ptr += (size_t)(side * x.lines) * x.ld;
    return x;
}

/* The 16 x 8 elements of C that a warp's c[4] are, from (row, col) on. */
KERN_DEVICE void store_fragment(const tensor_product *p, const float c[4], int row, int col) {
    const int lane = kern_thread() % 32;
    KERN_UNROLL
    for (int i = 0; i < 4; i++) {
        const int at_row = row + lane / 4 + i / 2 * 8, at_col = col + lane % 4 * 2 + i % 2;
        if (at_row >= p->a.lines || at_col >= p->b.lines) continue;
        store_element(&p->to, (size_t)at_row * (size_t)p->b.lines + (size_t)at_col, c[i], at_col);
    }
}

/* As store_fragment, of gate and up. */
KERN_DEVICE void store_gated_fragment(const tensor_product *p, const float gate[4], const float up[4], int row, int col) {
    const int lane = kern_thread() % 32;
    KERN_UNROLL
    for (int i = 0; i < 4; i++) {
        const int at_row = row + lane / 4 + i / 2 * 8, at_col = col + lane % 4 * 2 + i % 2;
        if (at_row >= p->a.lines || at_col >= p->b.lines) continue;
        store_gated(&p->to, (size_t)at_row * (size_t)p->b.lines + (size_t)at_col, gate[i], up[i]);
    }
}

/* sides: 2 of a gated product, else 1. */
KERN_DEVICE void few(uint16_t *memory, const tensor_product *p, const int fragments, const int sides) {
    const int rows = fragments * MMA_ROWS, cols = kern_threads() / 32 * MMA_COLS, stage = (rows + sides * cols) * STEP;
    const int groups = (p->a.lines + rows - 1) / rows, row0 = kern_block() % groups * rows, col0 = kern_block() / groups * cols;
    const int steps = (p->depth + STEP - 1) / STEP, col = col0 + kern_thread() / 32 * MMA_COLS;
    float c[2][MOST_FRAGMENTS][4] = {{{0.0f}}};
    for (int s = 1 - STAGES; s < steps; s++) {
        const int ahead = s + STAGES - 1;
        uint16_t *next = memory + ahead % STAGES * stage;
        if (s >= 0) {
            kern_copy_wait(STAGES - 2);
            kern_barrier();
        }
        if (ahead < steps) {
            copy_piece(next, &p->a, true, rows, row0, ahead * STEP, p->depth);
            KERN_UNROLL
            for (int side = 0; side < sides; side++) {
                const tensor_operand b = side_of(&p->b, side);
                copy_piece(next + (rows + side * cols) * STEP, &b, true, cols, col0, ahead * STEP, p->depth);
            }
        }
        kern_copy_commit();
        if (s < 0 || col >= p->b.lines) continue;
        const uint16_t *here = memory + s % STAGES * stage;
        multiply_few(c, here, here + rows * STEP, fragments, sides, p->depth - s * STEP);
    }
    KERN_UNROLL
    for (int i = 0; i < fragments; i++)
        if (sides == 1)
            store_fragment(p, c[0][i], row0 + i * MMA_ROWS, col);
        else
            store_gated_fragment(p, c[0][i], c[1][i], row0 + i * MMA_ROWS, col);
}

#define FEW_KERNEL(name, fragments, sides)                \
    typedef tensor_product name##_args;                   \
    KERN_KERNEL(name) {                                   \
        KERN_SHARED_BYTES(uint16_t, memory);              \
        few(memory, &a, fragments, sides);                \
    }
FEW_KERNEL(few_16, 1, 1)
FEW_KERNEL(few_32, 2, 1)
FEW_KERNEL(few_64, 4, 1)
FEW_KERNEL(few_gated_16, 1, 2)
FEW_KERNEL(few_gated_32, 2, 2)
FEW_KERNEL(few_gated_64, 4, 2)

/* As many as leave half of the multiprocessors a block. Only speed depends on it. */
static int warps_for(const kern_ctx *ctx, int cols, int sides) {
    int warps = MOST_WARPS / sides;
    while (warps > 1 && 2 * (cols / (warps * MMA_COLS)) < kern_card_processors(ctx->card)) warps /= 2;
    return warps;
}

void kern_cuda_product_of_few(kern_ctx *ctx, const tensor_product *p) {
    const tensor_product product = *p;
    const int rows = p->a.lines <= 16 ? 16 : p->a.lines <= 32 ? 32 : 64, sides = p->gated ? 2 : 1;
    const int warps = warps_for(ctx, p->b.lines, sides), cols = warps * MMA_COLS;
    const int blocks = kern_blocks_for((size_t)p->a.lines, (size_t)rows) * kern_blocks_for((size_t)p->b.lines, (size_t)cols);
    const size_t bytes = (size_t)(STAGES * (rows + sides * cols) * STEP) * sizeof(uint16_t);
    if (rows == 16 && p->gated)
        KERN_LAUNCH_SHARED(ctx, few_gated_16, blocks, warps * 32, bytes, product);
    else if (rows == 16)
        KERN_LAUNCH_SHARED(ctx, few_16, blocks, warps * 32, bytes, product);
    else if (rows == 32 && p->gated)
        KERN_LAUNCH_SHARED(ctx, few_gated_32, blocks, warps * 32, bytes, product);
    else if (rows == 32)
        KERN_LAUNCH_SHARED(ctx, few_32, blocks, warps * 32, bytes, product);
    else if (p->gated)
        KERN_LAUNCH_SHARED(ctx, few_gated_64, blocks, warps * 32, bytes, product);
    else
        KERN_LAUNCH_SHARED(ctx, few_64, blocks, warps * 32, bytes, product);
}
