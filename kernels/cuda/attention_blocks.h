/* attention_blocks: what the kernels by mma.sync share of attention's forward (attention_tiles.cu, attention_decode.cu): a tile's queries, blocks of
 * keys that come by asynchronous copies, the running softmax, and results of splits. */
#ifndef RLF_KERNELS_CUDA_ATTENTION_BLOCKS_H
#define RLF_KERNELS_CUDA_ATTENTION_BLOCKS_H

#include "kernels/cuda/attention_forward.h"

/* ---- queries ---------------------------------------------------------------------------------------------------------------------- */

/* Where four elements of a tile's queries come from; there: the tile has their row. The i-th four of its rows. */
typedef struct query_place {
    size_t at;
    bool there;
} query_place;

KERN_DEVICE query_place query_at(const attend_task *t, int i, int d) {
    const place p = place_of(t, i / (d / 4));
    const query_place q = {(size_t)p.row * kern_qkv_width(t->a->shape) + p.head * d + i % (d / 4) * 4, i / (d / 4) < t->item.count};
    return q;
}

/* Four elements, rounded; zeros where there are none. */
KERN_DEVICE kern_half4 load_query(const attend_tiles_args *a, query_place q) {
    kern_half4 y = {{0, 0}};
    if (!q.there) return y;
    if (a->dtype == KERN_BF16) {
        const uint32_t *x = (const uint32_t *)((const uint16_t *)a->qkv + q.at);
        y.v[0] = x[0];
        y.v[1] = x[1];
        return y;
    }
    const float_quad x = *(const float_quad *)((const float *)a->qkv + q.at);
    y.v[0] = kern_bf16_pair(x.x, x.y);
    y.v[1] = kern_bf16_pair(x.z, x.w);
    return y;
}
KERN_DEVICE void store_query(uint16_t *tile, int i, kern_half4 x, int d) {
    uint32_t *to = (uint32_t *)(tile + i / (d / 4) * tile_stride(d) + i % (d / 4) * 4);
    to[0] = x.v[0];
    to[1] = x.v[1];
}

/* The queries of the tile, four elements a thread; rows that are not there: zeros. */
KERN_DEVICE void load_queries(uint16_t *tile, const attend_task *t, int rows, int d) {
    for (int i = kern_thread(); i < rows * d / 4; i += THREADS) store_query(tile, i, load_query(t->a, query_at(t, i, d)), d);
}

/* ---- keys ------------------------------------------------------------------------------------------------------------------------- */

/* The page of key j of a paged item, and the key's place there. */
KERN_DEVICE int page_of(const attend_task *t, int j) {
    return t->a->page_table[(size_t)t->item.source * t->a->max_pages + (unsigned)j / (unsigned)t->a->kv.page_size];
}
KERN_DEVICE int place_in_page(const attend_task *t, int j) { return (int)((unsigned)j % (unsigned)t->a->kv.page_size); }

/* Where key j of the item's sequence is: 16 keys from a multiple of 16 on lie in one page, side by side. */
KERN_DEVICE const uint16_t *key_at(const attend_task *t, int j) {
    const attend_tiles_args *a = t->a;
    if (!a->pos) return a->keys + (size_t)(t->kv_head - a->first_kv) * a->next_head + (size_t)(t->item.source + j) * a->next_key;
    return a->keys + kv_in_page(a->kv, page_of(t, j), place_in_page(t, j), t->kv_head);
}

/* Begins to copy the block of keys at key0, and its values, to a stage: two tiles. Keys from the item's end on: zeros. */
KERN_DEVICE void fetch_keys(uint16_t *stage, const attend_task *t, int key0, int d) {
    const int valid = t->item.end - key0;
    KERN_UNROLL for (int first = 0; first < KEYS; first += 16) {
        const uint16_t *keys = key_at(t, first < valid ? key0 + first : key0);
        KERN_UNROLL for (int n = 0; n < 16 * d / COPY; n += THREADS) {
            const int i = n + kern_thread(), j = i / (d / COPY), part = i % (d / COPY) * COPY, bytes = first + j < valid ? 16 : 0;
            const uint16_t *from = keys + (bytes ? (size_t)j * t->a->next_key : 0) + part;
            uint16_t *to = stage + (first + j) * tile_stride(d) + part;
            kern_copy_async16(to, from, bytes);
            kern_copy_async16(to + tile_size(KEYS, d), from + t->a->value, bytes);
        }
    }
}

/* ---- the running softmax of rows g and g+8 ---------------------------------------------------------------------------------------- */

KERN_DEVICE void start(running *r, int tiles) {
    KERN_UNROLL for (int n = 0; n < tiles; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) r->values[n][i] = 0;
    KERN_UNROLL for (int i = 0; i < 4; i++) r->sum[i] = 0;
    r->top[0] = r->top[1] = -INFINITY;
}

/* Raises the tops; what was added under the old ones shrinks. */
KERN_DEVICE void raise_tops(running *r, const float top[2], float scale, int tiles) {
    float shrink[2];
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const float raised = larger(top[half], r->top[half]);
        shrink[half] = kern_exp2((r->top[half] - raised) * scale);
        r->top[half] = raised;
    }
    KERN_UNROLL for (int n = 0; n < tiles; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) r->values[n][i] *= shrink[i / 2];
    KERN_UNROLL for (int i = 0; i < 4; i++) r->sum[i] *= shrink[i / 2];
}

/* ---- results of splits ------------------------------------------------------------------------------------------------------------ */

/* A result that waits for the next split of the same item: its values in memory (waiting_values), this beside them. */
typedef struct waiting {
    float sum[2], top[2];
} waiting;

/* Adds to a split's result that of the splits before. */
KERN_DEVICE void add_waiting(running *r, const waiting *w, const attend_task *t, share own, const place at[2], int d) {
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const place p = at[half];
        const float *from = waiting_values(t, p, own.row0 + lane_row() + 8 * half, d) + own.c0 + lane_column();
        const joint j = join(w->top[half], r->top[half], log2_scale(d));
        if (p.pos < 0) continue;
        KERN_UNROLL for (int n = 0; n < own.tiles; n++) {
            const float_pair before = *(const float_pair *)(from + 8 * n);
            r->values[n][2 * half] = joined(j, before.x, r->values[n][2 * half]);
            r->values[n][2 * half + 1] = joined(j, before.y, r->values[n][2 * half + 1]);
        }
        r->sum[2 * half] = joined(j, w->sum[half], r->sum[2 * half]);
        r->top[half] = j.top;
    }
}

/* Whether the keys before key0 are the item's first split. */
KERN_DEVICE bool in_first_split(const attend_task *t, int key0) { return key0 <= t->item.begin + SPLIT; }
/* Whether a split ends before key0, and others come. */
KERN_DEVICE bool split_ends(const attend_task *t, int key0) { return key0 % SPLIT == 0 && key0 < t->item.end; }

/* The end of a split that has others after it in this item: the keys before key0. */
KERN_DEVICE void put_aside(running *r, waiting *w, int key0, const attend_task *t, share own, const place at[2], int d) {
    const float one[2] = {1, 1};
    if (!in_first_split(t, key0)) add_waiting(r, w, t, own, at, d);
    store_values(r, one, t, own, at, false, d);
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        w->sum[half] = r->sum[2 * half];
        w->top[half] = r->top[half];
    }
    start(r, own.tiles);
}

/* The end of the item. */
KERN_DEVICE void finish(running *r, const waiting *w, const attend_task *t, share own, const place at[2], int d) {
    if (!in_first_split(t, t->item.end)) add_waiting(r, w, t, own, at, d);
    store_result(r, t, own, at, d);
}

/* The block has stored what its split of the tile gives, or its part of that; it merges if all others have. `last` is in shared memory that
 * nobody needs. */
KERN_DEVICE void merge_if_last(const attend_task *t, int parts, int *last, int d) {
    if (t->splits == 1) return;
    kern_barrier();
    if (kern_thread() == 0) *last = all_ended(t, parts);
    kern_barrier();
    if (*last) merge_tile(t, THREADS, d);
}

#endif
