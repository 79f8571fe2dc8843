/* RMSNorm and its gradient: half a warp a row.
 *
 *   rmsnorm        reads x twice (the second time from the cache) and writes y: 8 bytes an element of device memory
 *   rmsnorm_grad   dx: reads dy and x twice, dx once, writes dx: 16 bytes. dweight: a thread a column of a part of KERN_PART_ROWS rows, which
 *                  reads dy and x again: 8 bytes; then a thread a column through the parts, 1/16 byte. Rows beyond what scratch has room
 *                  for follow in further launches, which go on adding */
#include "kernels/cuda/norm.h"

enum { THREADS = 256, TEAMS = THREADS / KERN_LANES, COLUMN_THREADS = 128 };

typedef struct rmsnorm_args {
    float *y;
    const float *x, *weight;
    float eps;
    int m, k;
} rmsnorm_args;

/* Half warps beyond the last row do its work again, and write nothing. */
KERN_KERNEL(rmsnorm) {
    const int row = kern_block() * TEAMS + kern_team();
    const size_t at = (size_t)(row < a.m ? row : a.m - 1) * a.k;
    const float rstd = row_rstd(a.x + at, a.k, a.eps);
    if (row >= a.m) return;
    for (int i = kern_lane(); i < a.k; i += KERN_LANES) a.y[at + i] = a.x[at + i] * rstd * a.weight[i];
}

void kern_cuda_rmsnorm(kern_ctx *ctx, float *y, const float *x, const float *weight, float eps, int m, int k) {
    const rmsnorm_args args = {y, x, weight, eps, m, k};
    KERN_LAUNCH(ctx, rmsnorm, kern_blocks_for((size_t)m, TEAMS), THREADS, args);
}

typedef struct norm_grad_args {
    float *dx, *rstd, *parts; /* rstd (m), parts (parts, k) */
    const float *dy, *x, *weight;
    float eps;
    int m, k;
} norm_grad_args;
typedef norm_grad_args norm_grad_rows_args, norm_grad_columns_args;

KERN_KERNEL(norm_grad_rows) {
    const int row = kern_block() * TEAMS + kern_team();
    const size_t at = (size_t)(row < a.m ? row : a.m - 1) * a.k;
    const float rstd = row_rstd(a.x + at, a.k, a.eps);
    const float mean = row_norm_mean(a.dy + at, a.x + at, a.weight, rstd, a.k);
    if (row >= a.m) return;
    if (kern_lane() == 0) a.rstd[row] = rstd;
    for (int i = kern_lane(); i < a.k; i += KERN_LANES) a.dx[at + i] += norm_grad_of(a.dy[at + i], a.x[at + i], a.weight[i], rstd, mean);
}

KERN_KERNEL(norm_grad_columns) {
    const int across = (a.k + COLUMN_THREADS - 1) / COLUMN_THREADS, part = kern_block() / across;
    const int i = kern_block() % across * COLUMN_THREADS + kern_thread(), begin = part * KERN_PART_ROWS;
    if (i >= a.k) return;
    float sum = 0;
    for (int row = begin; row < a.m && row < begin + KERN_PART_ROWS; row++) {
        const size_t at = (size_t)row * a.k + i;
        sum = fmaf(a.dy[at], a.x[at] * a.rstd[row], sum);
    }
    a.parts[(size_t)part * a.k + i] = sum;
}

void kern_cuda_rmsnorm_grad(kern_ctx *ctx, float *dx, float *dweight, const float *dy, const float *x, const float *weight, float eps,
                            int m, int k) {
    const int chunk = kern_cuda_rows_at_a_time(ctx, KERN_PART_ROWS, (KERN_PART_ROWS + (size_t)k) * sizeof(float));
    for (int begin = 0; begin < m; begin += chunk) {
        const size_t at = (size_t)begin * k;
        const int rows = m - begin < chunk ? m - begin : chunk, parts = kern_blocks_for((size_t)rows, KERN_PART_ROWS);
        const norm_grad_args args = {dx + at, ctx->scratch, ctx->scratch + rows, dy + at, x + at, weight, eps, rows, k};
        KERN_LAUNCH(ctx, norm_grad_rows, kern_blocks_for((size_t)rows, TEAMS), THREADS, args);
        KERN_LAUNCH(ctx, norm_grad_columns, parts * kern_blocks_for((size_t)k, COLUMN_THREADS), COLUMN_THREADS, args);
        kern_cuda_rows_add(ctx, dweight, args.parts, parts, k);
    }
}
