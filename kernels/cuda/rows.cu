/* Rows by index, and sums over rows.
 *
 *   rows_gather, rows_scatter   bytes: each element read once and written once; no arithmetic. A block a row, neighbouring threads
 *                               neighbouring fours of elements, all loads of a row of up to 4096 under way at once
 *   embed_grad                  y[ids[i]] += x[i], i ascending: a block for each id that occurs, which looks through all ids (from the cache)
 *                               for its rows, and adds four elements a thread. Bytes: x once, y twice a row
 *   bias_grad                   a thread a column of a part of KERN_PART_ROWS rows, then a thread a column through the parts; loads go
 *                               ahead of the additions. Bytes: x once, and 1/16 of it
 *   rows_add                    the second of these */
#include "kernels/cuda/dialect.h"

enum { THREADS = 128, QUADS = 8 /* of four elements, that a thread loads at once */ };

/* Row x_index[i] of x goes to row y_index[i] of y; without an index: row i. */
typedef struct copy_rows_args {
    float *y;
    const void *x;
    kern_dtype x_dtype;
    const int32_t *y_index, *x_index;
    const int32_t *drawn; /* for KERN_DRAWN in x_index */
    int k;
    bool wide;
} copy_rows_args;

KERN_DEVICE void copy_row(const copy_rows_args *a, size_t to, size_t from, const kern_dtype dtype, const bool wide) {
    for (int begin = 4 * kern_thread(); begin < a->k; begin += 4 * THREADS * QUADS) {
        kern_float4 x[QUADS];
        KERN_UNROLL
        for (int n = 0; n < QUADS; n++) x[n] = kern_load4(a->x, dtype, from + begin + 4 * THREADS * n, a->k - begin - 4 * THREADS * n, wide);
        KERN_UNROLL
        for (int n = 0; n < QUADS; n++) kern_store4(a->y, KERN_F32, to + begin + 4 * THREADS * n, a->k - begin - 4 * THREADS * n, wide, x[n]);
    }
}

KERN_KERNEL_EARLY(copy_rows) {
    const int i = kern_block();
    const size_t to = (size_t)(a.y_index ? a.y_index[i] : i) * a.k;
    const size_t from = (size_t)(a.x_index ? kern_known_id(a.x_index[i], a.drawn) : i) * a.k;
    if (a.wide && a.x_dtype == KERN_BF16)
        copy_row(&a, to, from, KERN_BF16, true);
    else if (a.wide)
        copy_row(&a, to, from, KERN_F32, true);
    else
        copy_row(&a, to, from, a.x_dtype, false);
}

void kern_cuda_rows_gather(kern_ctx *ctx, float *y, const void *x, kern_dtype x_dtype, const int32_t *index, const int32_t *drawn, int m,
                           int k) {
    const copy_rows_args args = {y, x, x_dtype, NULL, index, drawn, k, kern_wide(x, x_dtype, k) && kern_wide(y, KERN_F32, k)};
    KERN_LAUNCH(ctx, copy_rows, m, THREADS, args);
}

void kern_cuda_rows_scatter(kern_ctx *ctx, float *y, const float *x, const int32_t *index, int m, int k) {
    const copy_rows_args args = {y, x, KERN_F32, index, NULL, NULL, k, kern_wide(x, KERN_F32, k) && kern_wide(y, KERN_F32, k)};
    KERN_LAUNCH(ctx, copy_rows, m, THREADS, args);
}

/* ---- rows that are added together ------------------------------------------------------------------------------------------------- */

typedef struct embed_grad_args {
    float *y;
    const float *x;
    const int32_t *ids;
    int m, k;
    bool wide;
} embed_grad_args;

typedef struct embed_memory {
    uint32_t rows[THREADS / 32]; /* a bit each */
} embed_memory;

/* A bit for each thread of the block, in memory once all have come; all have read what was there before. */
KERN_DEVICE void gather_bits(embed_memory *memory, bool bit) {
    const uint32_t bits = kern_ballot(bit);
    kern_barrier();
    if (kern_thread() % 32 == 0) memory->rows[kern_thread() / 32] = bits;
    kern_barrier();
}

KERN_DEVICE void add4(float *y, const float *x, int j, int n, bool wide) {
    kern_float4 sum = kern_load4(y, KERN_F32, (size_t)j, n, wide);
    const kern_float4 more = kern_load4(x, KERN_F32, (size_t)j, n, wide);
    KERN_UNROLL
    for (int e = 0; e < 4; e++) sum.v[e] += more.v[e];
    kern_store4(y, KERN_F32, (size_t)j, n, wide, sum);
}

/* The block of a row whose id comes for the first time adds all rows of that id, ascending; the others have nothing to do. */
KERN_KERNEL(embed_grad) {
    KERN_SHARED(embed_memory, memory);
    const int id = a.ids[kern_block()];
    float *y = a.y + (size_t)id * a.k;
    bool before = false;
    for (int i = kern_thread(); i < kern_block() && !before; i += THREADS) before = a.ids[i] == id;
    gather_bits(memory, before);
    for (int w = 0; w < THREADS / 32; w++)
        if (memory->rows[w]) return;
    for (int first = kern_block(); first < a.m; first += THREADS) {
        const int mine = first + kern_thread();
        gather_bits(memory, mine < a.m && a.ids[mine] == id);
        for (int w = 0; w < THREADS / 32; w++)
            for (int i = 0; i < 32 && memory->rows[w]; i++) {
                const float *x = a.x + (size_t)(first + 32 * w + i) * a.k;
                if (!(memory->rows[w] >> i & 1)) continue;
                KERN_UNROLL_BY(4)
                for (int j = 4 * kern_thread(); j < a.k; j += 4 * THREADS) add4(y, x, j, a.k - j, a.wide);
            }
    }
}

void kern_cuda_embed_grad(kern_ctx *ctx, float *dtable, const float *dy, const int32_t *ids, int m, int k) {
    const embed_grad_args args = {dtable, dy, ids, m, k, kern_wide(dtable, KERN_F32, k) && kern_wide(dy, KERN_F32, k)};
    KERN_LAUNCH(ctx, embed_grad, m, THREADS, args);
}

typedef struct add_rows_args {
    float *y;
    const void *x;
    kern_dtype dtype;
    int m, k;
} add_rows_args;

enum { ADD_THREADS = 32, ADD_AHEAD = 16 };

/* Adds m elements to sum, k apart, the first of which is x's element `first`. */
KERN_DEVICE float add_column(float sum, const void *x, const kern_dtype dtype, size_t first, int m, int k) {
    for (int i = 0; i < m; i += ADD_AHEAD) {
        float row[ADD_AHEAD];
        const int n = m - i < ADD_AHEAD ? m - i : ADD_AHEAD;
        KERN_UNROLL
        for (int l = 0; l < ADD_AHEAD; l++) row[l] = l < n ? kern_element(x, dtype, first + (size_t)(i + l) * k) : 0.0f;
        KERN_UNROLL
        for (int l = 0; l < ADD_AHEAD; l++)
            if (l < n) sum += row[l];
    }
    return sum;
}

KERN_KERNEL(add_rows) {
    const int j = kern_block() * ADD_THREADS + kern_thread();
    if (j >= a.k) return;
    a.y[j] = a.dtype == KERN_F32 ? add_column(a.y[j], a.x, KERN_F32, (size_t)j, a.m, a.k)
                                 : add_column(a.y[j], a.x, KERN_BF16, (size_t)j, a.m, a.k);
}

void kern_cuda_rows_add(kern_ctx *ctx, float *y, const void *x, kern_dtype x_dtype, int m, int k) {
    const add_rows_args args = {y, x, x_dtype, m, k};
    KERN_LAUNCH(ctx, add_rows, kern_blocks_for((size_t)k, ADD_THREADS), ADD_THREADS, args);
}

typedef struct sum_part_args {
    float *parts; /* (parts, k) */
    const void *x;
    kern_dtype dtype;
    int m, k;
} sum_part_args;

KERN_KERNEL(sum_part) {
    const int across = (a.k + THREADS - 1) / THREADS, part = kern_block() / across, begin = part * KERN_PART_ROWS;
    const int j = kern_block() % across * THREADS + kern_thread();
    const int rows = a.m - begin < KERN_PART_ROWS ? a.m - begin : KERN_PART_ROWS;
    if (j >= a.k) return;
    const size_t first = (size_t)begin * a.k + j;
    a.parts[(size_t)part * a.k + j] = a.dtype == KERN_F32 ? add_column(0, a.x, KERN_F32, first, rows, a.k)
                                                          : add_column(0, a.x, KERN_BF16, first, rows, a.k);
}

void kern_cuda_bias_grad(kern_ctx *ctx, float *dbias, const void *dy, kern_dtype dy_dtype, int m, int n) {
    const int chunk = kern_cuda_rows_at_a_time(ctx, KERN_PART_ROWS, (size_t)n * sizeof(float));
    for (int begin = 0; begin < m; begin += chunk) {
        const int rows = m - begin < chunk ? m - begin : chunk, parts = kern_blocks_for((size_t)rows, KERN_PART_ROWS);
        const sum_part_args args = {ctx->scratch, (const char *)dy + (size_t)begin * n * kern_dtype_size(dy_dtype), dy_dtype, rows, n};
        KERN_LAUNCH(ctx, sum_part, parts * kern_blocks_for((size_t)n, THREADS), THREADS, args);
        kern_cuda_rows_add(ctx, dbias, ctx->scratch, KERN_F32, parts, n);
    }
}
