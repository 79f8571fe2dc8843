/* kv: how keys and values lie in a page of the cache, and, with pages of 64, in the scratch of packed attention.
 *
 *   cache   (layers, pages, page)
 *   page    (kv heads, block)
 *   block   keys (D, page_size), transposed: scores are computed for 16 keys at a time; then values (page_size, D) */
#ifndef RLF_KERNELS_CPU_ISA_KV_H
#define RLF_KERNELS_CPU_ISA_KV_H

#include "kernels/cpu/isa/isa.h"

/* Floats of one head's keys (or values) in a page, of its block, and of a page. */
static inline size_t kv_half(int page_size, int head_dim) { return (size_t)page_size * (size_t)head_dim; }
static inline size_t kv_block(int page_size, int head_dim) { return 2 * kv_half(page_size, head_dim); }
static inline size_t kv_page(const kern_kv_shape *s) { return kv_block(s->page_size, s->head_dim) * (size_t)s->kv_heads; }

/* Stores one key and value at `place` of a block. */
static inline void kv_store(float *block, int page_size, int head_dim, int place, const float *key, const float *value) {
    for (int d = 0; d < head_dim; d++) block[(size_t)d * page_size + place] = key[d];
    memcpy(block + kv_half(page_size, head_dim) + (size_t)place * head_dim, value, (size_t)head_dim * sizeof(float));
}

#endif
