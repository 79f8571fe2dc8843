/* The paged key/value cache: size, writing rows, copying a page. A block of threads a row, or a layer of the page; bytes: what is moved,
 * read once and written once. */
#include "kernels/cuda/kv.h"
#include "kernels/cuda/mma.h"

enum { THREADS = 128 };

static bool rounded(kern_kv_shape s) { return attention_by_tiles(s.factors, s.head_dim); }
static size_t element_bytes(kern_kv_shape s) { return rounded(s) ? sizeof(uint16_t) : sizeof(float); }

size_t kern_cuda_kv_bytes(kern_kv_shape shape) { return (size_t)shape.layers * kv_layer(shape) * element_bytes(shape); }

typedef struct kv_write_args {
    void *layer;
    kern_kv_shape kv;
    const void *qkv;
    kern_dtype dtype;
    const int32_t *slots;
    kern_attn_shape shape;
} kv_write_args;
typedef kv_write_args kv_write_rounded_args;

KERN_KERNEL(kv_write) {
    kern_next_may_start();
    const int row = kern_block(), d = a.shape.head_dim, n = a.shape.kv_heads * d;
    const size_t keys = (size_t)row * kern_qkv_width(a.shape) + a.shape.heads * d;
    for (int i = kern_thread(); i < n; i += THREADS) {
        float *to = (float *)a.layer + kv_place(a.kv, a.slots[row], i / d) + i % d;
        to[0] = kern_element(a.qkv, a.dtype, keys + i);
        to[kv_half(a.kv)] = kern_element(a.qkv, a.dtype, keys + n + i);
    }
}

/* Elements i and i + 1, i even. */
KERN_DEVICE uint32_t rounded_pair(const void *x, kern_dtype dtype, size_t i) {
    if (dtype == KERN_BF16) return *(const uint32_t *)((const uint16_t *)x + i);
    return kern_bf16_pair(((const float *)x)[i], ((const float *)x)[i + 1]);
}

/* A thread a pair of elements. */
KERN_KERNEL(kv_write_rounded) {
    kern_next_may_start();
    const int row = kern_block(), d = a.shape.head_dim, n = a.shape.kv_heads * d;
    const size_t keys = (size_t)row * kern_qkv_width(a.shape) + a.shape.heads * d;
    for (int i = 2 * kern_thread(); i < n; i += 2 * THREADS) {
        uint32_t *to = (uint32_t *)a.layer + (kv_place(a.kv, a.slots[row], i / d) + i % d) / 2;
        const uint32_t key = rounded_pair(a.qkv, a.dtype, keys + i), value = rounded_pair(a.qkv, a.dtype, keys + n + i);
        to[0] = key;
        to[kv_half(a.kv) / 2] = value;
    }
}

void kern_cuda_kv_write(kern_ctx *ctx, void *kv, kern_kv_shape kv_shape, int layer, const void *qkv, kern_dtype dtype, const int32_t *slots,
                        int m, kern_attn_shape shape) {
    const kv_write_args args = {(char *)kv + (size_t)layer * kv_layer(kv_shape) * element_bytes(kv_shape), kv_shape, qkv, dtype, slots, shape};
    if (rounded(kv_shape))
        KERN_LAUNCH(ctx, kv_write_rounded, m, THREADS, args);
    else
        KERN_LAUNCH(ctx, kv_write, m, THREADS, args);
}

typedef struct kv_copy_args {
    uint32_t *dst;
    const uint32_t *src;
    size_t layer, page; /* words */
} kv_copy_args;

KERN_KERNEL(kv_copy) {
    const size_t at = (size_t)kern_block() * a.layer;
    for (size_t i = (size_t)kern_thread(); i < a.page; i += THREADS) a.dst[at + i] = a.src[at + i];
}

void kern_cuda_kv_copy_page(kern_ctx *ctx, void *kv, kern_kv_shape kv_shape, int dst_page, int src_page) {
    const size_t page = kv_page(kv_shape) * element_bytes(kv_shape) / sizeof(uint32_t);
    uint32_t *pages = (uint32_t *)kv;
    const kv_copy_args args = {pages + (size_t)dst_page * page, pages + (size_t)src_page * page, page * (size_t)kv_shape.pages, page};
    KERN_LAUNCH(ctx, kv_copy, kv_shape.layers, THREADS, args);
}
