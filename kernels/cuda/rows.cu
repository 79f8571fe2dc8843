/* Rows by index, and sums over rows.
 *
 *   rows_gather, rows_scatter   bytes: each element read once and written once; no arithmetic. A block a row, neighbouring threads
 *                               neighbouring elements
 *   embed_grad, bias_grad       y[index[i]] += x[i], i ascending (the order of kern.h): a thread a column, through all rows. Bytes: x once,
 *                               and for embed_grad y twice a row; M dependent additions a thread. Columns are coalesced; with few columns
 *                               most of the card sleeps: the first thing to change once a card has shown what it costs */
#include "kernels/cuda/dialect.h"

enum { THREADS = 128 };

KERN_DEVICE float element(const void *x, kern_dtype dtype, size_t i) {
    return dtype == KERN_BF16 ? kern_float_of_bf16(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

/* Row x_index[i] of x goes to row y_index[i] of y; without an index: row i. */
typedef struct copy_rows_args {
    float *y;
    const void *x;
    kern_dtype x_dtype;
    const int32_t *y_index, *x_index;
    int k;
} copy_rows_args;

KERN_KERNEL(copy_rows) {
    const int i = kern_block();
    const size_t to = (size_t)(a.y_index ? a.y_index[i] : i) * a.k, from = (size_t)(a.x_index ? a.x_index[i] : i) * a.k;
    for (int j = kern_thread(); j < a.k; j += kern_threads()) a.y[to + j] = element(a.x, a.x_dtype, from + j);
}

void kern_cuda_rows_gather(kern_ctx *ctx, float *y, const void *x, kern_dtype x_dtype, const int32_t *index, int m, int k) {
    const copy_rows_args args = {y, x, x_dtype, NULL, index, k};
    KERN_LAUNCH(ctx, copy_rows, m, THREADS, args);
}

void kern_cuda_rows_scatter(kern_ctx *ctx, float *y, const float *x, const int32_t *index, int m, int k) {
    const copy_rows_args args = {y, x, KERN_F32, index, NULL, k};
    KERN_LAUNCH(ctx, copy_rows, m, THREADS, args);
}

typedef struct sum_rows_args {
    float *y;
    const float *x;
    const int32_t *index; /* NULL: all rows go to row 0 */
    int m, k;
} sum_rows_args;

KERN_KERNEL(sum_rows) {
    const int j = kern_block() * kern_threads() + kern_thread();
    if (j >= a.k) return;
    for (int i = 0; i < a.m; i++) a.y[(a.index ? (size_t)a.index[i] * a.k : 0) + j] += a.x[(size_t)i * a.k + j];
}

void kern_cuda_embed_grad(kern_ctx *ctx, float *dtable, const float *dy, const int32_t *ids, int m, int k) {
    const sum_rows_args args = {dtable, dy, ids, m, k};
    KERN_LAUNCH(ctx, sum_rows, kern_blocks_for((size_t)k, THREADS), THREADS, args);
}

void kern_cuda_bias_grad(kern_ctx *ctx, float *dbias, const float *dy, int m, int n) {
    const sum_rows_args args = {dbias, dy, NULL, m, n};
    KERN_LAUNCH(ctx, sum_rows, kern_blocks_for((size_t)n, THREADS), THREADS, args);
}
