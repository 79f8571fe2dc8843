/* RMSNorm and its gradient: half a warp a row.
 *
 *   rmsnorm        reads x twice (the second time from the cache) and writes y: 8 bytes an element of device memory
 *   rmsnorm_grad   dx: reads dy and x twice, dx once, writes dx: 16 bytes. dweight: a thread a column through all rows, which reads dy and
 *                  x again: 8 bytes; rows beyond what scratch has room for follow in further launches, which continue the chains */
#include "kernels/cuda/norm.h"

enum { THREADS = 256, TEAMS = THREADS / KERN_LANES, COLUMN_THREADS = 64 };

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
    float *dx, *dweight, *rstd; /* rstd (m) */
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
    const int i = kern_block() * COLUMN_THREADS + kern_thread();
    if (i >= a.k) return;
    float sum = a.dweight[i];
    for (int row = 0; row < a.m; row++) {
        const size_t at = (size_t)row * a.k + i;
        sum = fmaf(a.dy[at], a.x[at] * a.rstd[row], sum);
    }
    a.dweight[i] = sum;
}

void kern_cuda_rmsnorm_grad(kern_ctx *ctx, float *dx, float *dweight, const float *dy, const float *x, const float *weight, float eps,
                            int m, int k) {
    for (int begin = 0; begin < m; begin += KERN_CUDA_SCRATCH_FLOATS) {
        const size_t at = (size_t)begin * k;
        const int rows = m - begin < KERN_CUDA_SCRATCH_FLOATS ? m - begin : KERN_CUDA_SCRATCH_FLOATS;
        const norm_grad_args args = {dx + at, dweight, ctx->scratch, dy + at, x + at, weight, eps, rows, k};
        KERN_LAUNCH(ctx, norm_grad_rows, kern_blocks_for((size_t)rows, TEAMS), THREADS, args);
        KERN_LAUNCH(ctx, norm_grad_columns, kern_blocks_for((size_t)k, COLUMN_THREADS), COLUMN_THREADS, args);
    }
}
