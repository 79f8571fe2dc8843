/* RMSNorm and its gradient. Rows come to shared memory first, all loads at once, since their sums are chains of single elements in 16 lanes,
 * and are needed before anything else.
 *
 *   rmsnorm        a block of threads a row: reads x, writes y: 8 bytes an element of device memory, 6 where y is bfloat16. The sum is the
 *                  first warp's, while other blocks keep memory busy; of few rows, as in decoding, it is what takes the time
 *   rmsnorm_grad   a block a part of KERN_PART_ROWS rows, as many of them at a time as a share of shared memory holds, a warp for the sums
 *                  of each; then all threads write dx and add the part's dweight, a thread a column. Reads dy, x and dx, writes dx: 16
 *                  bytes, or 14. In the end a thread a column goes through the parts, 1/16 byte. Rows beyond what scratch has room for
 *                  follow in further launches, which go on adding */
#include "kernels/cuda/mma.h"
#include "kernels/cuda/norm.h"

enum {
    THREADS = 128,
    QUADS = 8,                  /* of four elements, that a thread loads at once */
    STAGED = 12288              /* of a row, in shared memory; longer rows are read twice */
};

typedef struct rmsnorm_args {
    void *y;
    kern_dtype y_dtype;
    const float *x;
    const void *weight;
    kern_dtype weight_dtype;
    float eps;
    int k;
    bool wide, wide_weight;
} rmsnorm_args;

KERN_KERNEL_EARLY(rmsnorm) {
    KERN_SHARED_BYTES(float, memory);
    const size_t at = (size_t)kern_block() * a.k;
    float *const rstd = memory, *const staged = memory + 4;
    const float *row = a.k <= STAGED ? staged : a.x + at;
    const int step = 4 * THREADS * QUADS;
    for (int begin = 4 * kern_thread(); begin < a.k && a.k <= STAGED; begin += step) {
        kern_float4 x[QUADS];
        KERN_UNROLL
        for (int n = 0; n < QUADS; n++) {
            const int i = begin + 4 * THREADS * n;
            x[n] = kern_load4(a.x, KERN_F32, at + i, a.k - i, a.wide);
        }
        KERN_UNROLL
        for (int n = 0; n < QUADS; n++) {
            const int i = begin + 4 * THREADS * n;
            kern_store4(staged, KERN_F32, i, a.k - i, true, x[n]); /* its room is a multiple of 4 */
        }
    }
    kern_barrier();
    if (kern_thread() < 32) {
        const float sum = row_squares(row, a.k);
        if (kern_thread() == 0) *rstd = rstd_of(sum, a.k, a.eps);
    }
    kern_barrier();
    const float r = *rstd;
    KERN_UNROLL_BY(4)
    for (int i = 4 * kern_thread(); i < a.k; i += 4 * THREADS) {
        const kern_float4 w = kern_load4(a.weight, a.weight_dtype, i, a.k - i, a.wide_weight);
        kern_float4 y = kern_load4(row, KERN_F32, i, a.k - i, a.k <= STAGED || a.wide);
        KERN_UNROLL
        for (int e = 0; e < 4; e++) y.v[e] = y.v[e] * r * w.v[e];
        kern_store4(a.y, a.y_dtype, at + i, a.k - i, a.wide, y);
    }
}

void kern_cuda_rmsnorm(kern_ctx *ctx, void *y, kern_dtype y_dtype, const float *x, const void *weight, kern_dtype weight_dtype, float eps, int m,
                       int k) {
    const bool wide = kern_wide(x, KERN_F32, k) && kern_wide(y, y_dtype, k);
    const rmsnorm_args args = {y, y_dtype, x, weight, weight_dtype, eps, k, wide, kern_wide(weight, weight_dtype, k)};
    const size_t staged = k <= STAGED ? (size_t)(k + 3) / 4 * 4 : 0;
    KERN_LAUNCH_SHARED(ctx, rmsnorm, m, THREADS, (4 + staged) * sizeof(float), args);
}

/* ---- gradient --------------------------------------------------------------------------------------------------------------------- */

enum {
    GRAD_THREADS = 512,
    GRAD_FLOATS = 4 * GRAD_THREADS * QUADS, /* elements of the rows that are at work together */
    MOST_ROWS = 8,
    GRAD_BYTES = 100 << 10                  /* of shared memory a block, where rows are not longer than that: two blocks a processor */
};

typedef struct norm_grad_args {
    float *dx, *parts; /* parts (parts, k) */
    const void *dy;
    kern_dtype dy_dtype;
    const float *x;
    const void *weight;
    kern_dtype weight_dtype;
    float eps;
    int m, k;
    int at_once; /* rows */
    bool wide;
} norm_grad_args;

typedef struct row_sums {
    float rstd, mean;
} row_sums;

KERN_BOTH size_t grad_floats(int rows, int k) { return (size_t)MOST_ROWS * 2 + (size_t)k + 2 * (((size_t)rows * (size_t)k + 3) / 4 * 4); }

/* mean(g * xhat), with g = dy * weight and xhat = x * rstd. */
KERN_DEVICE float row_norm_mean(const float *dy, const float *x, const norm_grad_args *a, float rstd) {
    float sum = 0;
    KERN_UNROLL_BY(4)
    for (int i = kern_lane(); i < a->k; i += KERN_LANES) sum = fmaf(dy[i] * kern_element(a->weight, a->weight_dtype, i), x[i] * rstd, sum);
    return kern_sum16(sum) / (float)a->k;
}

/* Four elements of dx, from i on among those of the rows at work. */
KERN_DEVICE kern_float4 norm_grad4(kern_float4 dx, const norm_grad_args *a, const float *dy, const float *x, const row_sums *sums, int i, int n) {
    int row = i / a->k, col = i % a->k;
    KERN_UNROLL
    for (int e = 0; e < 4 && e < n; e++, col++) {
        if (col >= a->k) {
            col = 0;
            row++;
        }
        dx.v[e] += norm_grad_of(dy[i + e], x[i + e], kern_element(a->weight, a->weight_dtype, col), sums[row].rstd, sums[row].mean);
    }
    return dx;
}

/* The first `all` elements of x and dy from `at` on, to shared memory; x goes by itself, and dy through registers, where it is widened. */
KERN_DEVICE void fetch_rows(const norm_grad_args *a, float *x, float *dy, size_t at, int all) {
    kern_float4 v[QUADS];
    KERN_UNROLL
    for (int q = 0; q < QUADS; q++) {
        const int i = 4 * (kern_thread() + GRAD_THREADS * q);
        if (i >= all) continue;
        if (a->wide)
            kern_copy_async16(x + i, a->x + at + i, 16);
        else
            kern_store4(x, KERN_F32, i, all - i, true, kern_load4(a->x, KERN_F32, at + i, all - i, false));
    }
    kern_copy_commit();
    KERN_UNROLL
    for (int q = 0; q < QUADS; q++) {
        const int i = 4 * (kern_thread() + GRAD_THREADS * q);
        v[q] = kern_load4(a->dy, a->dy_dtype, at + i, all - i, a->wide);
    }
    KERN_UNROLL
    for (int q = 0; q < QUADS; q++) {
        const int i = 4 * (kern_thread() + GRAD_THREADS * q);
        kern_store4(dy, KERN_F32, i, all - i, true, v[q]);
    }
}

/* dx of n rows from row0 on, and their part of the columns' sums. What dx was comes while the rows' sums are at work. */
KERN_DEVICE void norm_grad_rows(const norm_grad_args *a, row_sums *sums, float *columns, float *x, float *dy, int row0, int n) {
    const size_t at = (size_t)row0 * a->k;
    const int all = n * a->k, warp = kern_thread() / 32;
    kern_float4 dx[QUADS];
    fetch_rows(a, x, dy, at, all);
    KERN_UNROLL
    for (int q = 0; q < QUADS; q++) {
        const int i = 4 * (kern_thread() + GRAD_THREADS * q);
        dx[q] = kern_load4(a->dx, KERN_F32, at + i, all - i, a->wide);
    }
    kern_copy_wait(0);
    kern_barrier();
    if (warp < n) {
        const float rstd = rstd_of(row_squares(x + warp * a->k, a->k), a->k, a->eps);
        const float mean = row_norm_mean(dy + warp * a->k, x + warp * a->k, a, rstd);
        if (kern_thread() % 32 == 0) sums[warp] = (row_sums){rstd, mean};
    }
    kern_barrier();
    KERN_UNROLL
    for (int q = 0; q < QUADS; q++) {
        const int i = 4 * (kern_thread() + GRAD_THREADS * q);
        if (i < all) kern_store4(a->dx, KERN_F32, at + i, all - i, a->wide, norm_grad4(dx[q], a, dy, x, sums, i, all - i));
    }
    for (int c = kern_thread(); c < a->k; c += GRAD_THREADS) {
        float sum = columns[c];
        for (int r = 0; r < n; r++) sum = fmaf(dy[r * a->k + c], x[r * a->k + c] * sums[r].rstd, sum);
        columns[c] = sum;
    }
    kern_barrier();
}

KERN_KERNEL_FOR(norm_grad, GRAD_THREADS, 2) {
    KERN_SHARED_BYTES(float, memory);
    const int begin = kern_block() * KERN_PART_ROWS, end = begin + KERN_PART_ROWS < a.m ? begin + KERN_PART_ROWS : a.m;
    row_sums *const sums = (row_sums *)memory;
    float *const x = memory + 2 * MOST_ROWS, *const dy = x + (a.at_once * a.k + 3) / 4 * 4, *const columns = dy + (a.at_once * a.k + 3) / 4 * 4;
    for (int c = kern_thread(); c < a.k; c += GRAD_THREADS) columns[c] = 0;
    for (int row = begin; row < end; row += a.at_once)
        norm_grad_rows(&a, sums, columns, x, dy, row, end - row < a.at_once ? end - row : a.at_once);
    for (int c = kern_thread(); c < a.k; c += GRAD_THREADS) a.parts[(size_t)kern_block() * a.k + c] = columns[c];
}

static int grad_rows_at_once(int k) {
    int rows = MOST_ROWS;
    while (rows > 1 && (rows * k > GRAD_FLOATS || grad_floats(rows, k) * sizeof(float) > GRAD_BYTES)) rows /= 2;
    return rows;
}

void kern_cuda_rmsnorm_grad(kern_ctx *ctx, float *dx, float *dweight, const void *dy, kern_dtype dy_dtype, const float *x, const void *weight,
                            kern_dtype weight_dtype, float eps, int m, int k) {
    const int chunk = kern_cuda_rows_at_a_time(ctx, KERN_PART_ROWS, (size_t)k * sizeof(float)), at_once = grad_rows_at_once(k);
    const bool wide = kern_wide(x, KERN_F32, k) && kern_wide(dx, KERN_F32, k) && kern_wide(dy, dy_dtype, k);
    assert(k <= KERN_CARD_HIDDEN);
    for (int begin = 0; begin < m; begin += chunk) {
        const size_t at = (size_t)begin * k;
        const int rows = m - begin < chunk ? m - begin : chunk, parts = kern_blocks_for((size_t)rows, KERN_PART_ROWS);
        const norm_grad_args args = {dx + at, ctx->scratch, (const char *)dy + at * kern_dtype_size(dy_dtype), dy_dtype, x + at, weight,
                                     weight_dtype, eps, rows, k, at_once, wide};
        KERN_LAUNCH_SHARED(ctx, norm_grad, parts, GRAD_THREADS, grad_floats(at_once, k) * sizeof(float), args);
        kern_cuda_rows_add(ctx, dweight, ctx->scratch, KERN_F32, parts, k);
    }
}
