/* kv: how keys and values lie in a page of the cache on a card: as bfloat16 where attention is on tensor cores, else as float32.
 *
 *   cache   (layers, pages, page)
 *   page    (kv heads, block)
 *   block   keys (page_size, D), then values (page_size, D): a key's elements side by side, as in a row of qkv */
#ifndef RLF_KERNELS_CUDA_KV_H
#define RLF_KERNELS_CUDA_KV_H

#include "kernels/cuda/dialect.h"

/* Whether attention with such factors goes by tiles (attention_tiles.h). The same for packed rows, pages and gradients, or decoding and
 * training would differ. */
KERN_BOTH bool attention_by_tiles(kern_dtype factors, int head_dim) { return factors == KERN_BF16 && (head_dim == 64 || head_dim == 128); }

KERN_BOTH kern_dtype kv_dtype(kern_kv_shape s) { return attention_by_tiles(s.factors, s.head_dim) ? KERN_BF16 : KERN_F32; }

/* Elements. */
KERN_BOTH size_t kv_half(kern_kv_shape s) { return (size_t)s.page_size * (size_t)s.head_dim; }
KERN_BOTH size_t kv_page(kern_kv_shape s) { return 2 * kv_half(s) * (size_t)s.kv_heads; }
KERN_BOTH size_t kv_layer(kern_kv_shape s) { return (size_t)s.pages * kv_page(s); }

/* The key of `head` at a place of a page of a layer, or at a slot; its value is kv_half() further. */
KERN_BOTH size_t kv_in_page(kern_kv_shape s, int page, int place, int head) {
    return (size_t)page * kv_page(s) + (size_t)head * 2 * kv_half(s) + (size_t)place * (size_t)s.head_dim;
}
KERN_BOTH size_t kv_place(kern_kv_shape s, int slot, int head) { return kv_in_page(s, slot / s.page_size, slot % s.page_size, head); }

#endif
