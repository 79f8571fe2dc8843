/* attention_hopper: what the forward and the gradient of attention on Hopper's tensor cores (hopper.h) share.
 *
 * A block of threads is two warp groups that compute and a third, of which one warp brings tiles by the copy engine, through a ring of stages.
 * Each of the two has a piece: 64 rows and heads (forward), 64 rows of one head, or 64 keys of a kv head. A product's second factor is in
 * shared memory, the same for both, its first one in registers where there is room: two factors from there are all that shared memory can
 * give at the rate of the tensor cores. Sums are in registers. */
#ifndef RLF_KERNELS_CUDA_ATTENTION_HOPPER_H
#define RLF_KERNELS_CUDA_ATTENTION_HOPPER_H

#include "kernels/cuda/attention_softmax.h"
#include "kernels/cuda/ring.h"

enum {
    ROWS = 64,                                      /* of a piece, of a tile, and KEYS */
    GROUPS = 2, GROUP_THREADS = 128,                /* that compute */
    BLOCK_THREADS = (GROUPS + 1) * GROUP_THREADS,
    READERS = GROUPS * GROUP_THREADS / 32,          /* warps: each says when it has done with a stage */
    TILE = ROWS * KERN_TILE_WIDE,                   /* elements of a tile of hopper.h; D / 64 of them have 64 rows of D */
    TILE_BYTES = TILE * 2,
    CLEARED = 1, TURN = CLEARED + GROUPS,           /* barriers of some: the first of as many as there are warp groups */
    MERGE = TURN + GROUPS                           /* one for both */
};

/* Packed: the pieces of two warp groups, numbers 2 `unit` and 2 `unit` + 1 of a sequence and kv head. */
typedef struct hopper_item {
    int32_t begin, rows; /* of the sequence */
    int32_t unit;
} hopper_item;

/* x, the same in all lanes of a warp, in a way that the compiler knows it to be: paths with products must not look as if lanes could part. */
#ifdef __CUDACC__
KERN_DEVICE int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }
#else
KERN_DEVICE int uniform(int x) { return x; }
#endif

KERN_DEVICE int group_of_thread(void) { return uniform(kern_thread() / GROUP_THREADS); }
KERN_DEVICE int first_row_of_warp(void) { return kern_thread() % GROUP_THREADS / 32 * 16; } /* in a piece */

/* Pairs of pieces of so many rows, with `each` pieces for 64 of them. */
KERN_BOTH int units_of(int rows, int each) { return ((rows + ROWS - 1) / ROWS * each + GROUPS - 1) / GROUPS; }

/* Runs the items of all sequences, whose rows count `times` over, those of the highest numbers, which have most to do, first. */
typedef void hopper_run(kern_ctx *ctx, const void *args, const hopper_item *items, int n);

static inline void run_in_order(kern_ctx *ctx, hopper_run *run, const void *args, const int32_t *seq_begin, int seqs, int times,
                                int each) {
    enum { ITEMS = 1024 }; /* that are queued together */
    hopper_item items[ITEMS];
    int n = 0, most = 0;
    for (int s = 0; s < seqs; s++) {
        const int units = units_of((seq_begin[s + 1] - seq_begin[s]) * times, each);
        most = units > most ? units : most;
    }
    for (int unit = most - 1; unit >= 0; unit--)
        for (int s = 0; s < seqs; s++) {
            const hopper_item item = {seq_begin[s], seq_begin[s + 1] - seq_begin[s], unit};
            if (unit >= units_of(item.rows * times, each)) continue;
            items[n++] = item;
            if (n < ITEMS) continue;
            run(ctx, args, (const hopper_item *)kern_cuda_stage(ctx, items, (size_t)n * sizeof *items), n);
            n = 0;
        }
    if (n) run(ctx, args, (const hopper_item *)kern_cuda_stage(ctx, items, (size_t)n * sizeof *items), n);
}

/* ---- tiles ------------------------------------------------------------------------------------------------------------------------ */

/* 64 rows of D elements of a matrix, to D / 64 tiles. */
KERN_DEVICE void copy_rows(uint16_t *tiles, const kern_map *map, int row, int col, kern_gate *gate, int d) {
    for (int c = 0; c < d / KERN_TILE_WIDE; c++) kern_copy_box(tiles + c * TILE, map, row, col + c * KERN_TILE_WIDE, gate);
}

/* Rows from `first` on become zeros: those after the end of a sequence. Both warp groups do it, each before it reads; both write the same. */
KERN_DEVICE void clear_rows(uint16_t *tiles, int group, int first, int d) {
    const float_quad zeros = {0, 0, 0, 0};
    for (int i = kern_thread() % GROUP_THREADS; i < (ROWS - first) * 8 * (d / KERN_TILE_WIDE); i += GROUP_THREADS) {
        const int tile = i / ((ROWS - first) * 8), chunk = i % ((ROWS - first) * 8);
        *(float_quad *)(tiles + tile * TILE + first * KERN_TILE_WIDE + chunk * 8) = zeros;
    }
    kern_tile_written();
    kern_barrier_some(CLEARED + group, GROUP_THREADS);
}

/* As long as both warp groups have a block after the next they begin their products in turn, the first one first: so that one multiplies
 * while the other takes powers. The second one passes a turn at the start. `left`: turns that this one has after this. */
KERN_DEVICE int turns_of(int blocks, int others) { return (blocks < others ? blocks : others) - 1; }
KERN_DEVICE void await_turn(int group) { kern_barrier_some(TURN + group, GROUPS * GROUP_THREADS); }
KERN_DEVICE void pass_turn(int group, int left) {
    if (group == 0 || left) kern_barrier_pass(TURN + 1 - group, GROUPS * GROUP_THREADS);
}

/* ---- fragments -------------------------------------------------------------------------------------------------------------------- */

/* A piece's rows as factors A of depth D; NULL instead of row g or g+8: zeros. */
KERN_DEVICE void load_rows(uint32_t a[][4], const uint16_t *const row[2], int d) {
    KERN_UNROLL for (int k = 0; k < d / 16; k++)
        KERN_UNROLL for (int i = 0; i < 4; i++)
            a[k][i] = row[i % 2] ? *(const uint32_t *)(row[i % 2] + 16 * k + i / 2 * 8 + lane_column()) : 0;
}

/* The compiler may not move what is written to these registers, or read from them, across this: a product under way has them. */
#ifdef __CUDACC__
KERN_DEVICE void hold(float c[][4], int tiles) {
    KERN_UNROLL for (int n = 0; n < tiles; n++)
        asm volatile("" : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])::"memory");
}
KERN_DEVICE void hold_factor(uint32_t a[][4], int n) {
    KERN_UNROLL for (int k = 0; k < n; k++) asm volatile("" : "+r"(a[k][0]), "+r"(a[k][1]), "+r"(a[k][2]), "+r"(a[k][3])::"memory");
}
#else
#define hold(c, tiles) ((void)(c), (void)(tiles))
#define hold_factor(a, n) ((void)(a))
#endif

KERN_DEVICE void clear_sum(float c[][4], int tiles) {
    KERN_UNROLL for (int n = 0; n < tiles; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) c[n][i] = 0;
}

/* Depth 16 k of D / 64 tiles side by side, from the first one's element 0 on. */
KERN_DEVICE int depth_of_rows(int k) { return k / 4 * TILE + k % 4 * 16; }

/* Begins s (64 x 64) = rows · tiles^T over D, from 0. */
KERN_DEVICE void begin_scores(float s[ROWS / 8][4], uint32_t a[][4], const uint16_t *tiles, int d) {
    const kern_wgmma_factor b = kern_wgmma_along(tiles);
    kern_wgmma_fence();
    kern_wgmma_rows_new_64(s, a[0], b);
    KERN_UNROLL for (int k = 1; k < d / 16; k++) kern_wgmma_rows_64(s, a[k], kern_wgmma_next(b, depth_of_rows(k)), false);
    kern_wgmma_commit();
}

/* The same with rows of tiles. */
KERN_DEVICE void begin_scores_of(float s[ROWS / 8][4], const uint16_t *rows, const uint16_t *tiles, int d) {
    const kern_wgmma_factor a = kern_wgmma_along(rows), b = kern_wgmma_along(tiles);
    kern_wgmma_fence();
    kern_wgmma_new_64(s, a, b);
    KERN_UNROLL for (int k = 1; k < d / 16; k++)
        kern_wgmma_64(s, kern_wgmma_next(a, depth_of_rows(k)), false, kern_wgmma_next(b, depth_of_rows(k)), false);
    kern_wgmma_commit();
}

/* Begins sum (64 x D) += a (64 x 64) · tiles. */
KERN_DEVICE void begin_sum(float sum[TILE_DIM / 8][4], uint32_t a[KEYS / 16][4], const uint16_t *tiles, int d) {
    const kern_wgmma_factor first = kern_wgmma_across(tiles, TILE_BYTES);
    hold(sum, d / 8);
    hold_factor(a, KEYS / 16);
    kern_wgmma_fence();
    KERN_UNROLL for (int k = 0; k < KEYS / 16; k++) {
        const kern_wgmma_factor b = kern_wgmma_next(first, 16 * k * KERN_TILE_WIDE);
        if (d == 64)
            kern_wgmma_rows_64(sum, a[k], b, true);
        else
            kern_wgmma_rows_128(sum, a[k], b, true);
    }
    kern_wgmma_commit();
}

/* Scores as a factor. */
KERN_DEVICE void factor_of(uint32_t a[KEYS / 16][4], float s[KEYS / 8][4]) {
    KERN_UNROLL for (int k = 0; k < KEYS / 16; k++) a_of_c(a[k], s[2 * k], s[2 * k + 1]);
}

#endif
