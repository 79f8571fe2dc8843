/* attention_tiles: what the forward and the gradient of attention on tensor cores share: tiles of bfloat16 in shared memory, their
 * fragments (mma.h), and numbers.
 *
 * A tile is rows of D bfloat16 (keys, values, queries, gradients), each followed by 16 bytes of nothing: so the eight rows of a matrix that
 * ldmatrix loads lie in different banks, whatever D. Scores are multiplied by log2(e)/sqrt(D), so that probabilities are powers of two. */
#ifndef RLF_KERNELS_CUDA_ATTENTION_TILES_H
#define RLF_KERNELS_CUDA_ATTENTION_TILES_H

#include "kernels/cuda/attention.h"
#include "kernels/cuda/mma.h"

enum {
    KEYS = 64,                /* of a block of keys: block b is keys 64b .. 64b+63 of a sequence, whoever attends */
    WARPS = 4, THREADS = 32 * WARPS,
    TILE_DIM = 128,           /* the largest D: for arrays of registers, of which a kernel uses what its own D takes */
    COPY = 8                  /* elements of one asynchronous copy */
};

/* For log base 2 of e^x, and back. */
#define LOG2_E 1.44269504088896341f
#define LN_2 0.69314718055994531f

KERN_BOTH int tile_stride(int d) { return d + 8; }
KERN_BOTH int tile_size(int rows, int d) { return rows * tile_stride(d); } /* elements */

/* Factor of a dot product that makes it the binary logarithm of a probability, but for a constant. */
KERN_DEVICE float log2_scale(int d) { return 1.0f / sqrtf((float)d) * LOG2_E; }

KERN_DEVICE int lane_row(void) { return kern_thread() % 32 / 4; }        /* g of mma.h: the lane has rows g and g+8 of a C */
KERN_DEVICE int lane_column(void) { return kern_thread() % 4 * 2; }      /* and columns 2t and 2t+1 */

/* A (16, 16): rows row0.. of the tile, depths d0... */
KERN_DEVICE void load_a(uint32_t a[4], const uint16_t *tile, int stride, int row0, int d0) {
    const int lane = kern_thread() % 32;
    kern_ldmatrix_x4(a, tile + (row0 + lane % 16) * stride + d0 + lane / 16 * 8);
}

/* Two B (16, 8), whose columns are rows row0..+7 and row0+8..+15 of the tile, depths d0... */
KERN_DEVICE void load_b(uint32_t b[4], const uint16_t *tile, int stride, int row0, int d0) {
    const int lane = kern_thread() % 32;
    kern_ldmatrix_x4(b, tile + (row0 + lane / 16 * 8 + lane % 8) * stride + d0 + lane / 8 % 2 * 8);
}

/* Two B (16, 8), whose depths are rows row0.. of the tile: its columns c0..+7 and c0+8..+15. */
KERN_DEVICE void load_b_trans(uint32_t b[4], const uint16_t *tile, int stride, int row0, int c0) {
    const int lane = kern_thread() % 32;
    kern_ldmatrix_x4_trans(b, tile + (row0 + lane % 16) * stride + c0 + lane / 16 * 8);
}

/* Two tiles of C side by side as one A: 16 rows, 16 of depth. */
KERN_DEVICE void a_of_c(uint32_t a[4], const float left[4], const float right[4]) {
    a[0] = kern_bf16_pair(left[0], left[1]);
    a[1] = kern_bf16_pair(left[2], left[3]);
    a[2] = kern_bf16_pair(right[0], right[1]);
    a[3] = kern_bf16_pair(right[2], right[3]);
}

/* Elements i and i + 1, i even. */
KERN_DEVICE void store_pair(void *x, kern_dtype dtype, size_t i, float first, float second) {
    if (dtype == KERN_BF16)
        *(uint32_t *)((uint16_t *)x + i) = kern_bf16_pair(first, second);
    else
        *(float_pair *)((float *)x + i) = (float_pair){first, second};
}
#endif
