/* The paged key/value cache: size, copying a page; rope.cu writes its rows. PARTS blocks of threads a layer of the page; bytes:
 * what is moved, read once and written once. */
#include "kernels/cuda/kv.h"

enum { THREADS = 128, PARTS = 8 };

size_t kern_cuda_kv_bytes(kern_kv_shape shape) { return (size_t)shape.layers * kv_layer(shape) * kern_dtype_size(kv_dtype(shape)); }

typedef struct kv_copy_args {
    kern_float4 *dst;
    const kern_float4 *src;
    size_t layer, page; /* of 16 bytes */
} kv_copy_args;

KERN_KERNEL(kv_copy) {
    const size_t at = (size_t)(kern_block() / PARTS) * a.layer;
    for (size_t i = (size_t)(kern_block() % PARTS * THREADS + kern_thread()); i < a.page; i += PARTS * THREADS) a.dst[at + i] = a.src[at + i];
}

void kern_cuda_kv_copy_page(kern_ctx *ctx, void *kv, kern_kv_shape kv_shape, int dst_page, int src_page) {
    const size_t page = kv_page(kv_shape) * kern_dtype_size(kv_dtype(kv_shape)) / sizeof(kern_float4);
    kern_float4 *pages = (kern_float4 *)kv;
    const kv_copy_args args = {pages + (size_t)dst_page * page, pages + (size_t)src_page * page, page * (size_t)kv_shape.pages, page};
    KERN_LAUNCH(ctx, kv_copy, kv_shape.layers * PARTS, THREADS, args);
}
