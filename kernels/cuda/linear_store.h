/* linear_store: how tiles of C on tensor cores begin and end (linear_tiles.cu, linear_hopper.cu).
 *
 * Of a tile a lane has c[j][0..1], which are row `row`, columns col + 8 j (even) and the next, and c[j][2..3], the same of row + 8. `fragments`,
 * the number of j, is even. Whole sectors leave where C's rows allow it, and loads of memory are not waited for one by one: a tile's end has no
 * products beside it. */
#ifndef RLF_KERNELS_CUDA_LINEAR_STORE_H
#define RLF_KERNELS_CUDA_LINEAR_STORE_H

#include "kernels/cuda/linear.h"

enum { STORED_TOGETHER = 8 };
KERN_DEVICE int stored_from(int j, int fragments) { return fragments - j < STORED_TOGETHER ? fragments - j : STORED_TOGETHER; }

/* What a thread knows of a product besides where its factors are. */
typedef struct product_work {
    int rows, cols, depth;
    product_out to;
    bool fours; /* elements 4i .. 4i + 3 of C are in one row and can be loaded and stored together */
} product_work;

static inline product_work work_of(const tensor_product *p) {
    const product_work work = {p->a.lines, p->b.lines, p->depth, p->to, kern_wide(p->to.c, p->to.dtype, p->b.lines)};
    return work;
}

KERN_DEVICE void begin_from_zero(float c[][4], int fragments) {
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++) c[j][e] = 0;
}

KERN_DEVICE bool one_at(size_t *at, const product_work *p, int j, int e, int row, int col) {
    const int at_row = row + e / 2 * 8, at_col = col + 8 * j + e % 2;
    *at = (size_t)at_row * (size_t)p->cols + (size_t)at_col;
    return at_row < p->rows && at_col < p->cols;
}

KERN_DEVICE void begin_from_c(float c[][4], const product_work *p, int fragments, int row, int col) {
    size_t at;
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++) c[j][e] = one_at(&at, p, j, e, row, col) ? ((const float *)p->to.c)[at] : 0.0f;
}

/* To chains that have ended. */
KERN_DEVICE void add_bias(float c[][4], const product_work *p, int fragments, int col) {
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++) {
            const int at_col = col + 8 * j + e % 2;
            if (at_col < p->cols) c[j][e] += kern_element(p->to.bias, p->to.bias_dtype, (size_t)at_col);
        }
}

/* What ends, up to STORED_TOGETHER fragments at a time: of what they are added to all loads are under way before the first is used. */

KERN_DEVICE void store_each(const product_work *p, float c[][4], const int fragments, int row, int col) {
    size_t at;
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++)
            if (one_at(&at, p, j, e, row, col))
                kern_set_element(p->to.c, p->to.dtype, at, p->to.start == ADDED ? ((const float *)p->to.c)[at] + c[j][e] : c[j][e]);
}

/* The rest is of fragments whose columns are all in C, and come in fours. */

KERN_DEVICE void store_floats(const product_work *p, float c[][4], const int fragments, int row, int col, const bool added) {
    float_pair old[2][STORED_TOGETHER];
    KERN_UNROLL
    for (int half = 0; half < 2 && added; half++) {
        const float *const from = (const float *)p->to.c + (size_t)(row + 8 * half) * (size_t)p->cols + col;
        KERN_UNROLL
        for (int j = 0; j < fragments && row + 8 * half < p->rows; j++) old[half][j] = *(const float_pair *)(from + 8 * j);
    }
    KERN_UNROLL
    for (int half = 0; half < 2; half++) {
        float *const to = (float *)p->to.c + (size_t)(row + 8 * half) * (size_t)p->cols + col;
        KERN_UNROLL
        for (int j = 0; j < fragments && row + 8 * half < p->rows; j++) {
            const float x = c[j][2 * half], y = c[j][2 * half + 1];
            const float_pair sum = {added ? old[half][j].x + x : x, added ? old[half][j].y + y : y};
            *(float_pair *)(to + 8 * j) = sum;
        }
    }
}

/* Of two fragments side by side a lane has two columns each, and its neighbour the next two: of both lanes, the even one takes all four of
 * the first fragment, the odd one those of the second, and so whole sectors are written. */
KERN_DEVICE void store_halves(const product_work *p, float c[][4], const int fragments, int row, int col) {
    const bool odd = kern_thread() % 2 == 1;
    uint16_t *const to = (uint16_t *)p->to.c + (size_t)row * (size_t)p->cols + (odd ? col + 6 : col);
    KERN_UNROLL
    for (int j = 0; j < fragments; j += 2) {
        uint64_t two[2]; /* of each fragment: those in row `row`, and in row + 8 */
        KERN_UNROLL
        for (int side = 0; side < 2; side++)
            two[side] = kern_bf16_pair(c[j + side][0], c[j + side][1]) | (uint64_t)kern_bf16_pair(c[j + side][2], c[j + side][3]) << 32;
        const uint64_t theirs = kern_shuffle_xor_u64(odd ? two[0] : two[1], 1);
        const uint64_t low = odd ? theirs : two[0], high = odd ? two[1] : theirs;
        KERN_UNROLL
        for (int half = 0; half < 2; half++) {
            const kern_half4 four = {{(uint32_t)(low >> 32 * half), (uint32_t)(high >> 32 * half)}};
            if (row + 8 * half < p->rows) *(kern_half4 *)(to + (size_t)(8 * half) * (size_t)p->cols + 8 * j) = four;
        }
    }
}

/* c: of columns that begin with `first`. from_c: chains began with C, so it is float32, and nothing is added. */
KERN_DEVICE void store_sums(const product_work *p, float c[][4], const int fragments, int first, int row, int col, const bool from_c) {
    if (!from_c && p->to.bias) add_bias(c, p, fragments, col);
    KERN_UNROLL
    for (int j = 0; j < fragments; j += STORED_TOGETHER) {
        const int n = stored_from(j, fragments);
        if (!p->fours || first + 8 * (j + n) > p->cols)
            store_each(p, c + j, n, row, col + 8 * j);
        else if (!from_c && p->to.dtype == KERN_BF16)
            store_halves(p, c + j, n, row, col + 8 * j);
        else if (!from_c && p->to.start == ADDED)
            store_floats(p, c + j, n, row, col + 8 * j, true);
        else
            store_floats(p, c + j, n, row, col + 8 * j, false);
    }
}

#endif
