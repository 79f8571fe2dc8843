/* The paged key/value cache: size, writing rows, copying a page. A block of threads a row, or a layer of the page; bytes: what is moved,
 * read once and written once. */
#include "kernels/cuda/kv.h"

enum { THREADS = 128 };

size_t kern_cuda_kv_bytes(kern_kv_shape shape) { return (size_t)shape.layers * kv_layer(shape) * sizeof(float); }

typedef struct kv_write_args {
    float *layer;
    kern_kv_shape kv;
    const float *qkv;
    const int32_t *slots;
    kern_attn_shape shape;
} kv_write_args;

KERN_KERNEL(kv_write) {
    const int row = kern_block(), d = a.shape.head_dim, n = a.shape.kv_heads * d;
    const float *keys = a.qkv + (size_t)row * kern_qkv_width(a.shape) + a.shape.heads * d;
    for (int i = kern_thread(); i < n; i += THREADS) {
        float *to = a.layer + kv_place(a.kv, a.slots[row], i / d) + i % d;
        to[0] = keys[i];
        to[kv_half(a.kv)] = keys[n + i];
    }
}

void kern_cuda_kv_write(kern_ctx *ctx, float *kv, kern_kv_shape kv_shape, int layer, const float *qkv, const int32_t *slots, int m,
                        kern_attn_shape shape) {
    const kv_write_args args = {kv + (size_t)layer * kv_layer(kv_shape), kv_shape, qkv, slots, shape};
    KERN_LAUNCH(ctx, kv_write, m, THREADS, args);
}

typedef struct kv_copy_args {
    float *dst;
    const float *src;
    size_t layer, page; /* floats */
} kv_copy_args;

KERN_KERNEL(kv_copy) {
    const size_t at = (size_t)kern_block() * a.layer;
    for (size_t i = (size_t)kern_thread(); i < a.page; i += THREADS) a.dst[at + i] = a.src[at + i];
}

void kern_cuda_kv_copy_page(kern_ctx *ctx, float *kv, kern_kv_shape kv_shape, int dst_page, int src_page) {
    const size_t page = kv_page(kv_shape);
    const kv_copy_args args = {kv + (size_t)dst_page * page, kv + (size_t)src_page * page, kv_layer(kv_shape), page};
    KERN_LAUNCH(ctx, kv_copy, kv_shape.layers, THREADS, args);
}
