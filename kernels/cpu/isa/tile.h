/* tile: the one inner loop of attention. A tile of up to 6 rows by up to 4 vectors of C = A · B is held in registers:
 *
 *     c[r][v*16 + lane] = (accumulate ? c : 0) + sum over k of a[r][k * a_step] * b[v][k * b_step + lane]
 *
 * one fused-multiply-add chain per element, k ascending, so neither the split of C into tiles nor splitting k over several calls changes a
 * bit. Rows of A and C and columns of B are separate addresses: rows may lie in a strided tensor, columns in different cache pages. */
#ifndef RLF_KERNELS_CPU_ISA_TILE_H
#define RLF_KERNELS_CPU_ISA_TILE_H

#include "kernels/cpu/isa/isa.h"

/* Vector accumulators that fit the registers beside the operands: 24 of 32 zmm, or 6 pairs of the 16 ymm. */
#if defined(__AVX512F__)
enum { TILE_ACCUMULATORS = 24 };
#else
enum { TILE_ACCUMULATORS = 6 };
#endif
enum { TILE_ROWS = 6, TILE_VECS = 4 };

typedef struct kern_tile {
    const float *a[TILE_ROWS], *b[TILE_VECS];
    float *c[TILE_ROWS];
    size_t a_step, b_step;
    int depth; /* of k */
    bool accumulate;
} kern_tile;

/* Loops over a tile are unrolled whole, or its sums would live in memory. */
#if defined(__clang__)
#define TILE_UNROLL _Pragma("unroll")
#else
#define TILE_UNROLL _Pragma("GCC unroll 8")
#endif

/* lanes < 16: the only vector is that short, and nothing beyond is read or written. */
static inline __attribute__((always_inline)) void tile_fixed(const kern_tile *t, const int rows, const int vecs, const int lanes) {
    vf sum[TILE_ROWS][TILE_VECS];
    const float *a[TILE_ROWS] = {NULL}, *b[TILE_VECS] = {NULL};
    const size_t a_step = t->a_step, b_step = t->b_step;
    TILE_UNROLL for (int r = 0; r < rows; r++) a[r] = t->a[r];
    TILE_UNROLL for (int v = 0; v < vecs; v++) b[v] = t->b[v];
    TILE_UNROLL for (int r = 0; r < rows; r++)
        TILE_UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = vf_zero();
    if (t->accumulate)
        TILE_UNROLL for (int r = 0; r < rows; r++)
            TILE_UNROLL for (int v = 0; v < vecs; v++)
                sum[r][v] = lanes == VF ? vf_load(t->c[r] + v * VF) : vf_load_n(t->c[r], lanes, 0.0f);
    for (int k = t->depth; k > 0; k--) {
        vf column[TILE_VECS];
        TILE_UNROLL for (int v = 0; v < vecs; v++) {
            column[v] = lanes == VF ? vf_load(b[v]) : vf_load_n(b[v], lanes, 0.0f);
            b[v] += b_step;
        }
        TILE_UNROLL for (int r = 0; r < rows; r++) {
            const vf x = vf_set1(*a[r]);
            a[r] += a_step;
            TILE_UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = vf_fma(x, column[v], sum[r][v]);
        }
    }
    TILE_UNROLL for (int r = 0; r < rows; r++)
        TILE_UNROLL for (int v = 0; v < vecs; v++) {
            if (lanes == VF)
                vf_store(t->c[r] + v * VF, sum[r][v]);
            else
                vf_store_n(t->c[r], sum[r][v], lanes);
        }
}

/* The number of vectors a tile of `rows` rows takes at once, at most `left`: 4, 2 or 1. */
static inline int tile_vecs(int rows, int left) {
    if (left >= 4 && rows * 4 <= TILE_ACCUMULATORS) return 4;
    return left >= 2 && rows * 2 <= TILE_ACCUMULATORS ? 2 : 1;
}

#define TILE_CASE_(rows, vecs)                                                                                                             \
    case (rows) * 8 + (vecs): tile_fixed(t, rows, vecs, VF); break;

static __attribute__((noinline)) void tile_run(const kern_tile *t, int rows, int vecs) {
    switch (rows * 8 + vecs) {
        TILE_CASE_(1, 1) TILE_CASE_(2, 1) TILE_CASE_(3, 1) TILE_CASE_(4, 1) TILE_CASE_(5, 1) TILE_CASE_(6, 1)
        TILE_CASE_(1, 2) TILE_CASE_(2, 2) TILE_CASE_(3, 2)
        TILE_CASE_(1, 4)
#if defined(__AVX512F__)
        TILE_CASE_(4, 2) TILE_CASE_(5, 2) TILE_CASE_(6, 2)
        TILE_CASE_(2, 4) TILE_CASE_(3, 4) TILE_CASE_(4, 4) TILE_CASE_(5, 4) TILE_CASE_(6, 4)
#endif
    }
}

static __attribute__((noinline)) void tile_edge(const kern_tile *t, int rows, int lanes) { tile_fixed(t, rows, 1, lanes); }

/* All `columns` of C for the rows in t, B being one row-major matrix at b (t->b is set here); t->c are the rows' first columns. */
static inline void tile_columns(const kern_tile *rows_of, int rows, const float *b, int columns) {
    kern_tile t = *rows_of;
    int done = 0;
    while (columns - done >= VF) {
        const int vecs = tile_vecs(rows, (columns - done) / VF);
        for (int v = 0; v < vecs; v++) t.b[v] = b + done + v * VF;
        tile_run(&t, rows, vecs);
        for (int r = 0; r < rows; r++) t.c[r] += vecs * VF;
        done += vecs * VF;
    }
    if (done < columns) {
        t.b[0] = b + done;
        tile_edge(&t, rows, columns - done);
    }
}

#endif
