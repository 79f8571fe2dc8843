/* attention: what the plain forward and gradient share, and the doors to those by tiles on tensor cores. */
#ifndef RLF_KERNELS_CUDA_ATTENTION_H
#define RLF_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/kv.h"

enum { MAX_DIM = 256 };

/* attention_tiles.cu, attention_tiles_grad.cu: the operations of kern.h where attention_by_tiles (kv.h). */
#ifdef __cplusplus
extern "C" {
#endif
void kern_cuda_attention_tiles(kern_ctx *ctx, void *out, float *lse, const void *qkv, kern_dtype dtype, const int32_t *seq_begin, int seqs,
                               kern_attn_shape shape);
void kern_cuda_attention_paged_tiles(kern_ctx *ctx, void *out, const void *qkv, kern_dtype dtype, const void *kv, kern_kv_shape kv_shape,
                                     int layer, const int32_t *seq, const int32_t *pos, int m, const int32_t *page_table, int max_pages,
                                     kern_rows_hint hint, kern_attn_shape shape);
void kern_cuda_attention_grad_tiles(kern_ctx *ctx, void *dqkv, const void *dout, const void *out, const float *lse, const void *qkv,
                                    kern_dtype dtype, const int32_t *seq_begin, int seqs, kern_attn_shape shape);
/* attention_hopper_grad.cu: the same bits on a Hopper card, of tensors of bfloat16; false where it is none, or they do not begin at 16
 * bytes. stats (kv_heads * heads of each, m): lse log2(e), delta; of kv heads from first_kv on. */
bool kern_cuda_attention_grad_hopper(kern_ctx *ctx, uint16_t *dqkv, const uint16_t *dout, const uint16_t *qkv, const float_pair *stats,
                                     int first_kv, int kv_heads, const int32_t *seq_begin, int seqs, kern_attn_shape shape);
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

/* Elements of one dtype. */
typedef struct elements {
    const void *ptr;
    kern_dtype dtype;
} elements;

KERN_DEVICE float element_of(elements x, size_t i) { return kern_element(x.ptr, x.dtype, i); }

/* Of q from element q_at on and k from k_at on. */
KERN_DEVICE float dot(elements q, size_t q_at, elements k, size_t k_at, int d) {
    float sum = 0;
    for (int i = 0; i < d; i++) sum = fmaf(element_of(q, q_at + (size_t)i), element_of(k, k_at + (size_t)i), sum);
    return sum;
}

#endif
