/* attention: what the plain forward and gradient share, and the doors to those by tiles on tensor cores. */
#ifndef RLF_KERNELS_CUDA_ATTENTION_H
#define RLF_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/kv.h"

enum { MAX_DIM = 256 };

/* attention_tiles.cu, attention_tiles_grad.cu: the operations of kern.h where attention_by_tiles (kv.h). */
#ifdef __cplusplus
extern "C" {
#endif
void kern_cuda_attention_tiles(kern_ctx *ctx, float *out, float *lse, const float *qkv, const int32_t *seq_begin, int seqs,
                               kern_attn_shape shape);
void kern_cuda_attention_paged_tiles(kern_ctx *ctx, float *out, const float *qkv, const void *kv, kern_kv_shape kv_shape, int layer,
                                     const int32_t *seq, const int32_t *pos, int m, const int32_t *page_table, int max_pages,
                                     kern_rows_hint hint, kern_attn_shape shape);
void kern_cuda_attention_grad_tiles(kern_ctx *ctx, float *dqkv, const float *dout, const float *out, const float *lse, const float *qkv,
                                    const int32_t *seq_begin, int seqs, kern_attn_shape shape);
/* attention_hopper.cu, attention_hopper_grad.cu: the same bits on a Hopper card; false where they cannot. */
bool kern_cuda_attention_hopper(kern_ctx *ctx, void *out, float *lse, const void *qkv, kern_dtype dtype, const int32_t *seq_begin, int seqs,
                                kern_attn_shape shape);
#ifdef __cplusplus
}
#endif

/* The sequence of a packed row: the last that begins at it or before. */
KERN_DEVICE int sequence_of(const int32_t *begin, int seqs, int row) {
    int low = 0, high = seqs;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (begin[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

KERN_DEVICE float dot(const float *q, const float *k, int d) {
    float sum = 0;
    for (int i = 0; i < d; i++) sum = fmaf(q[i], k[i], sum);
    return sum;
}

#endif
