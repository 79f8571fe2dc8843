/* Causal attention, forward, on tensor cores (FlashAttention-2, Dao 2023): packed sequences and the paged cache, decode and prefill, with
 * the same bits.
 *
 * Definition. q, k, v are rounded to bfloat16; sums are float32. For a row, keys come in blocks of 64 at absolute positions, ascending:
 *
 *   score    s[j] = chain of kern_mma_bf16 over d, 16 at a time, from 0
 *   top      the largest s so far; where a block raises it, sum and values are multiplied by 2^((old - new) c), c = log2(e)/sqrt(D)
 *   p[j]     bfloat16 of 2^(s[j] c - top c); 0 beyond the row's position
 *   values   chain of kern_mma_bf16 over j, 16 at a time: values += p v; sum: the same with a v of ones, so it adds what the values get
 *
 * At multiples of SPLIT keys all this starts afresh, and the results of the splits are merged in ascending order (join). In the end
 * out = values / sum, lse = top/sqrt(D) + log(sum). So the bits of a row depend on q, its keys and its position. That a tile has rows of
 * other positions does not show: in a block that is all beyond the row, top stays, 2^0 is 1 and p is 0, and in the end -0 becomes 0.
 * (Values that are no numbers would show: 0 times infinity. Keys and values beyond all rows of a tile are not read.)
 *
 * Tiles. The rows of a tile are rows and heads: all rows of one sequence that come together, times the heads of a kv head, in this order
 * (`first` and `count` of an item). A block of threads has one tile of one kv head and loops over its keys; while it works on a block of
 * keys, the next one comes by asynchronous copies. Four kinds of kernels:
 *
 *   wide     128 rows and heads: packed sequences, and prefill. A warp has 32 of them, scores and values in registers, q in shared memory
 *   narrow   16: decode. All warps have the same 16: each the scores of 16 keys of the block and a quarter of the values' channels; tops
 *            and p go through shared memory, by three barriers a block of keys
 *   few      the same tiles of paged rows, the same arithmetic, one barrier: where blocks of threads are so few that each has a processor
 *            to itself
 *   scores and values    the same again in two launches, for tiles so few that each can have several blocks of threads
 *
 * Packed keys and values are read where they are if they are bfloat16; float32 ones are rounded by a pass of their own, as many kv heads
 * at a time as the work space holds. Those of the cache are bfloat16 already. Packed items, which the host lists, go through all splits of
 * their keys, and keep what came before in `out` at each boundary, or in work space where `out` is bfloat16. Paged items have one split
 * each, as long as the work space holds their results, and the block that is the last of its tile's to end merges the rows that have
 * several, in the order above whichever it is: so one long context keeps many processors busy. Where rows of a sequence come together is
 * found on the card, as the rows are there: the host queues blocks of threads for every row (narrow) or group of rows (wide) and every
 * split there may be, and those that find nothing to do end. Of activations of bfloat16 a Hopper card has packed and wide tiles in
 * attention_hopper.cu.
 *
 * Operations: 4 D a row, head and visible key, on tensor cores, and about 15 others. Bytes, wide: keys and values once a tile, 4 D a key
 * for 128 rows and heads; narrow: 4 D a key for all heads of a kv head, which is what limits decode. Shared memory is the limit of
 * `wide`: for 32 products of fragments it loads 10 times 512 bytes (scores: 2 of q and 4 of keys for 16). */
#include "kernels/cuda/attention_forward.h"

#include <assert.h>

enum {
    EACH = WIDE_ROWS / WARPS / 16,       /* tiles of 16 rows of a warp, wide */
    OWN_KEYS = KEYS / WARPS,             /* of a warp, narrow */
    P_STRIDE = KEYS + 8,
    ITEMS = 128                          /* packed: that are queued together */
};

typedef attend_tiles_args attend_wide_64_args, attend_wide_128_args, attend_narrow_64_args, attend_narrow_128_args;
typedef attend_tiles_args attend_few_64_args, attend_few_128_args, round_keys_args;

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

/* ---- wide ------------------------------------------------------------------------------------------------------------------------- */

KERN_BOTH size_t wide_bytes(int d) { return sizeof(uint16_t) * (size_t)(tile_size(WIDE_ROWS, d) + 2 * 2 * tile_size(KEYS, d)); }

/* A block of keys for the warp's rows, from row0 of the tile on. */
KERN_DEVICE void attend_block(running r[EACH], const uint16_t *queries, const uint16_t *stage, int row0, int key0, int pos[EACH][2],
                              int d) {
    const int stride = tile_stride(d);
    const uint16_t *keys = stage, *values = stage + tile_size(KEYS, d);
    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
    float s[EACH][KEYS / 8][4];
    KERN_UNROLL for (int e = 0; e < EACH; e++)
        KERN_UNROLL for (int n = 0; n < KEYS / 8; n++)
            KERN_UNROLL for (int i = 0; i < 4; i++) s[e][n][i] = 0;
    KERN_UNROLL for (int k = 0; k < d / 16; k++) {
        uint32_t q[EACH][4];
        KERN_UNROLL for (int e = 0; e < EACH; e++) load_a(q[e], queries, stride, row0 + 16 * e, 16 * k);
        KERN_UNROLL for (int n = 0; n < KEYS / 16; n++) {
            uint32_t b[4];
            load_b(b, keys, stride, 16 * n, 16 * k);
            KERN_UNROLL for (int e = 0; e < EACH; e++) {
                kern_mma_bf16(s[e][2 * n], q[e], b);
                kern_mma_bf16(s[e][2 * n + 1], q[e], b + 2);
            }
        }
    }
    KERN_UNROLL for (int e = 0; e < EACH; e++) {
        float top[2];
        beyond(s[e], KEYS / 8, key0, pos[e], -INFINITY);
        row_tops(top, s[e], KEYS / 8);
        raise_tops(&r[e], top, log2_scale(d), d / 8);
        powers(s[e], KEYS / 8, r[e].top, log2_scale(d));
        beyond(s[e], KEYS / 8, key0, pos[e], 0.0f);
    }
    KERN_UNROLL for (int k = 0; k < KEYS / 16; k++) {
        uint32_t p[EACH][4];
        KERN_UNROLL for (int e = 0; e < EACH; e++) {
            a_of_c(p[e], s[e][2 * k], s[e][2 * k + 1]);
            kern_mma_bf16(r[e].sum, p[e], ones);
        }
        KERN_UNROLL for (int n = 0; n < d / 16; n++) {
            uint32_t b[4];
            load_b_trans(b, values, stride, 16 * k, 16 * n);
            KERN_UNROLL for (int e = 0; e < EACH; e++) {
                kern_mma_bf16(r[e].values[2 * n], p[e], b);
                kern_mma_bf16(r[e].values[2 * n + 1], p[e], b + 2);
            }
        }
    }
}

KERN_DEVICE void wide_tile(const attend_task *t, uint16_t *queries, int d) {
    const int row0 = kern_thread() / 32 * EACH * 16;
    uint16_t *const stages = queries + tile_size(WIDE_ROWS, d);
    running r[EACH];
    waiting w[EACH];
    int pos[EACH][2];
    float last = -1; /* the last key that the warp sees */
    load_queries(queries, t, WIDE_ROWS, d);
    fetch_keys(stages, t, t->item.begin, d);
    kern_copy_commit();
    KERN_UNROLL for (int e = 0; e < EACH; e++) {
        start(&r[e], d / 8);
        KERN_UNROLL for (int half = 0; half < 2; half++) {
            pos[e][half] = place_of(t, row0 + 16 * e + lane_row() + 8 * half).pos;
            last = kern_larger((float)pos[e][half], last);
        }
    }
    last = kern_max32(last);
    for (int key0 = t->item.begin; key0 < t->item.end; key0 += KEYS) {
        const int stage = key0 / KEYS % 2 * 2 * tile_size(KEYS, d), other = 2 * tile_size(KEYS, d) - stage, next = key0 + KEYS;
        kern_copy_wait(0);
        kern_barrier();
        if (next < t->item.end) fetch_keys(stages + other, t, next, d);
        kern_copy_commit();
        if ((float)key0 <= last) attend_block(r, queries, stages + stage, row0, key0, pos, d);
        if (split_ends(t, next)) {
            KERN_UNROLL for (int e = 0; e < EACH; e++) {
                const share own = share_of(row0 + 16 * e, 0, d / 8);
                place at[2];
                places_of(at, t, own);
                put_aside(&r[e], &w[e], next, t, own, at, d);
            }
        }
    }
    KERN_UNROLL for (int e = 0; e < EACH; e++) {
        const share own = share_of(row0 + 16 * e, 0, d / 8);
        place at[2];
        places_of(at, t, own);
        finish(&r[e], &w[e], t, own, at, d);
    }
}

/* The item of the list, or the next one of a group of paged rows; false: there is none. */
KERN_DEVICE bool next_wide(attend_task *t) {
    const bool begun = t->item.count > 0;
    if (t->a->pos) return next_paged(t);
    t->kv_head = assigned(t->a).kv_head;
    t->item = t->a->items[assigned(t->a).unit];
    t->splits = 1;
    return !begun;
}

KERN_DEVICE void attend_wide(const attend_tiles_args *a, uint16_t *queries, int d) {
    attend_task t;
    t.a = a;
    t.item.count = 0;
    while (next_wide(&t)) {
        wide_tile(&t, queries, d);
        merge_if_last(&t, 1, (int *)queries, d);
        kern_barrier();
    }
}

KERN_KERNEL(attend_wide_64) {
    KERN_SHARED_BYTES(uint16_t, memory);
    attend_wide(&a, memory, 64);
}
KERN_KERNEL(attend_wide_128) {
    KERN_SHARED_BYTES(uint16_t, memory);
    attend_wide(&a, memory, 128);
}

/* ---- narrow ----------------------------------------------------------------------------------------------------------------------- */

/* The first of the warp's own keys of a block, and of its channels. */
KERN_DEVICE int own_keys(void) { return kern_thread() / 32 * OWN_KEYS; }
KERN_DEVICE int own_channels(int d) { return kern_thread() / 32 * (d / WARPS); }

typedef struct narrow_memory {
    uint16_t p[NARROW_ROWS * P_STRIDE];
    float tops[WARPS][NARROW_ROWS];
} __attribute__((aligned(16))) narrow_memory;

/* Blocks of keys that shared memory has room for. Where there are few blocks of threads, keys come from further ahead: a single one would
 * wait for memory at every block of keys. MOST is for attend_few. */
enum { FEWEST = 2, SOME = 3, MOST = 6 };

KERN_BOTH size_t narrow_bytes(int d, int stages) {
    return sizeof(narrow_memory) + sizeof(uint16_t) * (size_t)(tile_size(NARROW_ROWS, d) + stages * 2 * tile_size(KEYS, d));
}

/* The scores of the warp's own keys of a block. */
KERN_DEVICE void narrow_scores(float s[OWN_KEYS / 8][4], uint32_t q[][4], const uint16_t *keys, int d) {
    KERN_UNROLL for (int n = 0; n < OWN_KEYS / 8; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) s[n][i] = 0;
    KERN_UNROLL for (int k = 0; k < d / 16; k++) {
        uint32_t b[4];
        load_b(b, keys, tile_stride(d), own_keys(), 16 * k);
        kern_mma_bf16(s[0], q[k], b);
        kern_mma_bf16(s[1], q[k], b + 2);
    }
}

/* Their tops, to shared memory. */
KERN_DEVICE void narrow_tops(narrow_memory *memory, float s[OWN_KEYS / 8][4]) {
    float top[2];
    row_tops(top, s, OWN_KEYS / 8);
    KERN_UNROLL for (int half = 0; half < 2; half++)
        if (lane_column() == 0) memory->tops[kern_thread() / 32][lane_row() + 8 * half] = top[half];
}

/* Scores to probabilities, but for those that are beyond, under the tops of all warps. */
KERN_DEVICE void narrow_powers(running *r, const narrow_memory *memory, float s[OWN_KEYS / 8][4], int d) {
    float top[2];
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        top[half] = memory->tops[0][lane_row() + 8 * half];
        KERN_UNROLL for (int i = 1; i < WARPS; i++) top[half] = larger(memory->tops[i][lane_row() + 8 * half], top[half]);
    }
    raise_tops(r, top, log2_scale(d), d / 8 / WARPS);
    powers(s, OWN_KEYS / 8, r->top, log2_scale(d));
}

/* Probabilities, to shared memory. */
KERN_DEVICE void narrow_store(narrow_memory *memory, float s[OWN_KEYS / 8][4]) {
    KERN_UNROLL for (int n = 0; n < OWN_KEYS / 8; n++)
        KERN_UNROLL for (int half = 0; half < 2; half++)
            *(uint32_t *)(memory->p + (lane_row() + 8 * half) * P_STRIDE + own_keys() + 8 * n + lane_column()) =
                kern_bf16_pair(s[n][2 * half], s[n][2 * half + 1]);
}

/* Products of all warps' with the warp's channels, from c0 on. */
KERN_DEVICE void narrow_values(running *r, const narrow_memory *memory, const uint16_t *values, int c0, int d) {
    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
    KERN_UNROLL for (int k = 0; k < KEYS / 16; k++) {
        uint32_t p[4];
        load_a(p, memory->p, P_STRIDE, 0, 16 * k);
        kern_mma_bf16(r->sum, p, ones);
        KERN_UNROLL for (int n = 0; n < d / 16 / WARPS; n++) {
            uint32_t b[4];
            load_b_trans(b, values, tile_stride(d), 16 * k, c0 + 16 * n);
            kern_mma_bf16(r->values[2 * n], p, b);
            kern_mma_bf16(r->values[2 * n + 1], p, b + 2);
        }
    }
}

/* An item of the list, or the tile that begins at a paged row; false where none does. */
KERN_DEVICE bool find_narrow(attend_task *t, assignment n) {
    const attend_tiles_args *a = t->a;
    t->kv_head = n.kv_head;
    if (!a->pos) {
        t->item = a->items[n.unit];
        t->splits = 1;
        return true;
    }
    const int unit = a->first_row + n.unit, row = unit < a->long_begin ? unit : unit + a->long_end - a->long_begin;
    const int in_group = (row - a->first_row) % a->tile_rows, next = row + a->tile_rows - in_group, before = in_group ? a->seq[row - 1] : -1;
    take_paged(t, row, next < a->end_row ? next : a->end_row, n.split);
    return before != t->item.source && is_narrow(t) && t->item.begin < t->item.end;
}

KERN_DEVICE void attend_narrow(const attend_tiles_args *a, narrow_memory *memory, int d) {
    attend_task t;
    t.a = a;
    if (!find_narrow(&t, assigned(a))) return;
    const share own = share_of(0, own_channels(d), d / 8 / WARPS);
    uint16_t *const queries = (uint16_t *)(memory + 1), *const stages = queries + tile_size(NARROW_ROWS, d);
    running r;
    waiting w;
    uint32_t q[TILE_DIM / 16][4];
    float s[OWN_KEYS / 8][4];
    place at[2];
    load_queries(queries, &t, NARROW_ROWS, d);
    for (int i = 0; i + 1 < a->stages; i++) {
        const int key0 = t.item.begin + i * KEYS;
        if (key0 < t.item.end) fetch_keys(stages + i * 2 * tile_size(KEYS, d), &t, key0, d);
        kern_copy_commit();
    }
    start(&r, own.tiles);
    places_of(at, &t, own);
    const int pos[2] = {at[0].pos, at[1].pos};
    kern_barrier();
    KERN_UNROLL for (int k = 0; k < d / 16; k++) load_a(q[k], queries, tile_stride(d), 0, 16 * k);
    for (int key0 = t.item.begin, n = 0; key0 < t.item.end; key0 += KEYS, n++) {
        const int ahead = a->stages - 1, fetched = key0 + ahead * KEYS;
        uint16_t *const stage = stages + n % a->stages * 2 * tile_size(KEYS, d);
        if (a->stages == SOME)
            kern_copy_wait(SOME - 2);
        else
            kern_copy_wait(FEWEST - 2);
        kern_barrier();
        if (fetched < t.item.end) fetch_keys(stages + (n + ahead) % a->stages * 2 * tile_size(KEYS, d), &t, fetched, d);
        kern_copy_commit();
        narrow_scores(s, q, stage, d);
        beyond(s, OWN_KEYS / 8, key0 + own_keys(), pos, -INFINITY);
        narrow_tops(memory, s);
        kern_barrier();
        narrow_powers(&r, memory, s, d);
        beyond(s, OWN_KEYS / 8, key0 + own_keys(), pos, 0.0f);
        narrow_store(memory, s);
        kern_barrier();
        narrow_values(&r, memory, stage + tile_size(KEYS, d), own.c0, d);
        if (split_ends(&t, key0 + KEYS)) put_aside(&r, &w, key0 + KEYS, &t, own, at, d);
    }
    kern_copy_wait(0);
    finish(&r, &w, &t, own, at, d);
    merge_if_last(&t, 1, (int *)memory, d);
}

KERN_KERNEL_EARLY(attend_narrow_64) {
    KERN_SHARED_BYTES(narrow_memory, memory);
    attend_narrow(&a, memory, 64);
}
KERN_KERNEL_EARLY(attend_narrow_128) {
    KERN_SHARED_BYTES(narrow_memory, memory);
    attend_narrow(&a, memory, 128);
}

/* ---- few: narrow tiles whose blocks of threads have a processor each --------------------------------------------------------------- */

/* The time is that of one block of threads on its way through its keys. So between two barriers stand the scores of block n+1, the values
 * of block n-1 and the powers of block n, which do not need each other; no branch is between them, and nvcc makes one sequence of the
 * three. What one leaves for another, p and tops, is in one of two places, for even blocks and for odd ones. Loads from shared memory come
 * before stores and copies: nvcc moves none over those.
 *
 * Copies need few instructions: a warp has 16 keys of a block to copy, in one page. Where the pages are, of 32 blocks at a time, a lane
 * each has looked up before. All that is known before the operation in front has ended is worked out by then: which tile, which pages, where
 * queries come from and results go (loads that wait for each other: a row's sequence and position, then pages).
 *
 * The order is that of attend_narrow: the values of a block are added under its own tops, and shrink then. Those of the last block of a
 * split are added, by a barrier more, before the next split begins.
 *
 * Keys and values of a block are read last at step n, when its values are added, as block n-1. So once all threads have come to step n,
 * block n+AHEAD takes the place of block n-2. */
enum { AHEAD = MOST - 2 };

/* Where the keys of a warp are, of block n in n % BLOCKS: elements of the cache. */
enum { BLOCKS = 32 };
typedef struct few_pages {
    size_t at[WARPS][BLOCKS];
} few_pages;

KERN_BOTH size_t few_bytes(int d) { return narrow_bytes(d, MOST) + sizeof(narrow_memory) + sizeof(few_pages); }

enum { QUERIES = NARROW_ROWS * TILE_DIM / 4 / THREADS }; /* fours of a thread, at most */

typedef struct few_work {
    const attend_task *t;
    narrow_memory *memory;     /* two */
    uint16_t *stages;          /* MOST: block n in n % MOST */
    const uint16_t *from;      /* where the lane's copies begin: in page 0, */
    uint16_t *to;              /* and in stage 0 */
    size_t *pages;             /* of the warp's own keys */
    query_place queries[QUERIES];
    place at[2];
    int pos[2];
    uint32_t q[TILE_DIM / 16][4];
    float s[OWN_KEYS / 8][4];  /* scores of the block that has its tops in shared memory */
    running r;
} few_work;

/* Where in the warp's own keys a lane's copies begin: a key, and elements of it. */
KERN_DEVICE int copy_row(int d) { return kern_thread() % 32 / (d / COPY); }
KERN_DEVICE int copy_part(int d) { return kern_thread() % 32 % (d / COPY) * COPY; }

KERN_DEVICE int few_key0(const few_work *f, int n) { return f->t->item.begin + n * KEYS; }
KERN_DEVICE narrow_memory *few_memory(const few_work *f, int n) { return f->memory + (unsigned)n % 2; }
KERN_DEVICE int few_stage(int n, int d) { return (int)((unsigned)n % MOST) * 2 * tile_size(KEYS, d); }

/* Looks up where the warp's keys of blocks n .. n + BLOCKS - 1 are; beyond the item's end: where its last ones are. */
KERN_DEVICE void few_find(few_work *f, int n) {
    const int block = n + kern_thread() % 32, key = few_key0(f, block) + own_keys(), last = (f->t->item.end - 1) / 16 * 16, j = key < last ? key : last;
    const size_t at = kv_in_page(f->t->a->kv, page_of(f->t, j), place_in_page(f->t, j), 0);
    kern_warp_barrier();
    f->pages[(unsigned)block % BLOCKS] = at;
    kern_warp_barrier();
}

/* Begins to copy them, and their values. Keys from the item's end on: zeros. */
KERN_DEVICE void few_fetch(few_work *f, int n, int d) {
    const int valid = f->t->item.end - few_key0(f, n) - own_keys() - copy_row(d);
    const uint16_t *keys = f->from + f->pages[(unsigned)n % BLOCKS], *values = keys + f->t->a->value;
    uint16_t *to = f->to + few_stage(n, d);
    KERN_UNROLL for (int j = 0; j < OWN_KEYS; j += 32 * COPY / d) {
        const int bytes = j < valid ? 16 : 0;
        kern_copy_async16(to + j * tile_stride(d), keys + j * d, bytes);
        kern_copy_async16(to + j * tile_stride(d) + tile_size(KEYS, d), values + j * d, bytes);
    }
    kern_copy_commit();
}

/* The scores of block n are s; their tops, to shared memory. */
KERN_DEVICE void few_tops(few_work *f, int n, float s[OWN_KEYS / 8][4]) {
    KERN_UNROLL for (int i = 0; i < OWN_KEYS / 8; i++)
        KERN_UNROLL for (int e = 0; e < 4; e++) f->s[i][e] = s[i][e];
    hide(f->s, OWN_KEYS / 8, few_key0(f, n) + own_keys(), f->pos, -INFINITY);
    narrow_tops(few_memory(f, n), f->s);
}

KERN_DEVICE void few_values(few_work *f, int n, int d) {
    narrow_values(&f->r, few_memory(f, n), f->stages + few_stage(n, d) + tile_size(KEYS, d), own_channels(d), d);
}

/* Step n; the first of a split has no values of the block before. After the last block there is one of zeros, whose scores nobody takes. */
KERN_DEVICE void few_step(few_work *f, int n, bool first, int d) {
    float next[OWN_KEYS / 8][4];
    kern_copy_wait(AHEAD - 2);
    kern_barrier();
    narrow_scores(next, f->q, f->stages + few_stage(n + 1, d), d);
    if (!first) few_values(f, n - 1, d);
    narrow_powers(&f->r, few_memory(f, n), f->s, d);
    few_fetch(f, n + AHEAD, d);
    hide(f->s, OWN_KEYS / 8, few_key0(f, n) + own_keys(), f->pos, 0.0f);
    narrow_store(few_memory(f, n), f->s);
    few_tops(f, n + 1, next);
}

KERN_DEVICE uint16_t *few_queries(const few_work *f) { return (uint16_t *)((few_pages *)(f->memory + 2) + 1); }

/* What is known before the operation in front has ended. */
KERN_DEVICE void few_prepare(few_work *f, const attend_task *t, narrow_memory *memory, share own, int d) {
    const attend_tiles_args *a = t->a;
    f->t = t;
    f->memory = memory;
    f->pages = ((few_pages *)(memory + 2))->at[kern_thread() / 32];
    f->stages = few_queries(f) + tile_size(NARROW_ROWS, d);
    f->from = a->keys + kv_in_page(a->kv, 0, copy_row(d), t->kv_head) + copy_part(d);
    f->to = f->stages + (own_keys() + copy_row(d)) * tile_stride(d) + copy_part(d);
    few_find(f, 0);
    KERN_UNROLL for (int i = 0; i < NARROW_ROWS * d / 4 / THREADS; i++) f->queries[i] = query_at(t, i * THREADS + kern_thread(), d);
    places_of(f->at, t, own);
    KERN_UNROLL for (int half = 0; half < 2; half++) f->pos[half] = f->at[half].pos;
    start(&f->r, d / 8 / WARPS);
}

/* All that comes then, before the first step. */
KERN_DEVICE void few_begin(few_work *f, int d) {
    uint16_t *const queries = few_queries(f);
    kern_half4 x[QUERIES];
    for (int n = 0; n < AHEAD; n++) few_fetch(f, n, d);
    KERN_UNROLL for (int i = 0; i < NARROW_ROWS * d / 4 / THREADS; i++) x[i] = load_query(f->t->a, f->queries[i]);
    KERN_UNROLL for (int i = 0; i < NARROW_ROWS * d / 4 / THREADS; i++) store_query(queries, i * THREADS + kern_thread(), x[i], d);
    kern_copy_wait(AHEAD - 1);
    kern_barrier();
    KERN_UNROLL for (int k = 0; k < d / 16; k++) load_a(f->q[k], queries, tile_stride(d), 0, 16 * k);
    narrow_scores(f->s, f->q, f->stages, d);
    few_tops(f, 0, f->s);
}

KERN_DEVICE void attend_few(const attend_tiles_args *a, narrow_memory *memory, int d) {
    attend_task t;
    few_work f;
    waiting w;
    t.a = a;
    const bool found = find_narrow(&t, assigned(a));
    const share own = share_of(0, own_channels(d), d / 8 / WARPS);
    if (found) few_prepare(&f, &t, memory, own, d);
    kern_wait_for_previous();
    if (!found) return;
    const int blocks = (t.item.end - t.item.begin + KEYS - 1) / KEYS;
    few_begin(&f, d);
    for (int n = 0; n < blocks;) {
        if (n > 0) few_find(&f, n);
        few_step(&f, n, true, d);
        for (n++; n < blocks && n % (SPLIT / KEYS); n++) few_step(&f, n, false, d);
        kern_barrier();
        few_values(&f, n - 1, d);
        if (n < blocks) put_aside(&f.r, &w, few_key0(&f, n), &t, own, f.at, d);
    }
    kern_copy_wait(0);
    finish(&f.r, &w, &t, own, f.at, d);
    merge_if_last(&t, 1, (int *)memory, d);
}

KERN_KERNEL_WAITS_FOR(attend_few_64, THREADS, 1) {
    KERN_SHARED_BYTES(narrow_memory, memory);
    attend_few(&a, memory, 64);
}
KERN_KERNEL_WAITS_FOR(attend_few_128, THREADS, 1) {
    KERN_SHARED_BYTES(narrow_memory, memory);
    attend_few(&a, memory, 128);
}

/* ---- scores and values: narrow tiles that are fewer still -------------------------------------------------------------------------- */

/* A single row has so few tiles that what a block of threads takes for a split's blocks of keys, one after the other, is what a layer waits
 * for. Most of that need not be in order: scores of all keys are made at once (a block of threads for 64), and then, with all tops known, p
 * of all keys. What is a chain, values and sum over the keys, has a warp for 8 channels, and no barrier. The arithmetic is that of
 * attend_narrow, element for element. Scores go through device memory: 64 KiB a tile, which stay in the cache.
 *
 *   attend_scores   a block of threads for 64 keys of a split: scores, and the largest of each warp's 16 keys
 *   attend_values   one for 32 channels of a split: all its values are under way at once, while tops, powers and p are worked out */
enum {
    PARTS = SPLIT / KEYS,       /* of a split's scores */
    PART_CHANNELS = 8 * WARPS,  /* of its values */
    SIXTEENS = SPLIT / 16,
    ALL_P_STRIDE = SPLIT + 8,
    VALUE_STRIDE = PART_CHANNELS + 8
};

typedef attend_tiles_args attend_scores_64_args, attend_scores_128_args, attend_values_64_args, attend_values_128_args;

/* Where 16 keys of the item are, from key j on, a multiple of 16: elements of the cache. Beyond the item's end: where its last ones are. */
KERN_DEVICE size_t sixteen_at(const attend_task *t, int j) {
    const int last = (t->item.end - 1) / 16 * 16, key = j < last ? j : last;
    return kv_in_page(t->a->kv, page_of(t, key), place_in_page(t, key), t->kv_head);
}

typedef struct scores_memory {
    uint16_t queries[NARROW_ROWS * (TILE_DIM + 8)], keys[KEYS * (TILE_DIM + 8)];
} __attribute__((aligned(16))) scores_memory;

KERN_DEVICE float *scores_of(const attend_tiles_args *a, int tile, int row) { return a->scores + ((size_t)tile * NARROW_ROWS + row) * SPLIT; }
KERN_DEVICE float *score_tops_of(const attend_tiles_args *a, int tile, int row) {
    return a->score_tops + ((size_t)tile * NARROW_ROWS + row) * SIXTEENS;
}

/* Of the warp's own keys. */
KERN_DEVICE void store_scores(const attend_task *t, float s[OWN_KEYS / 8][4], int tile, int part) {
    float top[2];
    row_tops(top, s, OWN_KEYS / 8);
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const int row = lane_row() + 8 * half;
        if (row >= t->item.count) continue;
        float *to = scores_of(t->a, tile, row) + part * KEYS + own_keys() + lane_column();
        KERN_UNROLL for (int n = 0; n < OWN_KEYS / 8; n++) *(float_pair *)(to + 8 * n) = (float_pair){s[n][2 * half], s[n][2 * half + 1]};
        if (lane_column() == 0) score_tops_of(t->a, tile, row)[part * WARPS + kern_thread() / 32] = top[half];
    }
}

KERN_DEVICE void attend_scores(const attend_tiles_args *a, scores_memory *memory, int d) {
    const int tile = kern_block() / PARTS, part = kern_block() % PARTS;
    attend_task t;
    query_place queries[QUERIES];
    uint32_t q[TILE_DIM / 16][4];
    float s[OWN_KEYS / 8][4];
    int pos[2];
    t.a = a;
    bool found = find_narrow(&t, assignment_of(a, tile));
    const int key0 = t.item.begin + part * KEYS, valid = t.item.end - key0 - own_keys() - copy_row(d);
    found = found && key0 < t.item.end;
    const uint16_t *keys = a->keys;
    if (found) {
        keys += sixteen_at(&t, key0 + own_keys()) + copy_row(d) * d + copy_part(d);
        KERN_UNROLL for (int i = 0; i < NARROW_ROWS * d / 4 / THREADS; i++) queries[i] = query_at(&t, i * THREADS + kern_thread(), d);
        KERN_UNROLL for (int half = 0; half < 2; half++) pos[half] = place_of(&t, lane_row() + 8 * half).pos;
    }
    kern_wait_for_previous();
    if (!found) return;
    KERN_UNROLL for (int j = 0; j < OWN_KEYS; j += 32 * COPY / d)
        kern_copy_async16(memory->keys + (own_keys() + copy_row(d) + j) * tile_stride(d) + copy_part(d), keys + j * d, j < valid ? 16 : 0);
    kern_copy_commit();
    KERN_UNROLL for (int i = 0; i < NARROW_ROWS * d / 4 / THREADS; i++)
        store_query(memory->queries, i * THREADS + kern_thread(), load_query(a, queries[i]), d);
    kern_copy_wait(0);
    kern_barrier();
    KERN_UNROLL for (int k = 0; k < d / 16; k++) load_a(q[k], memory->queries, tile_stride(d), 0, 16 * k);
    narrow_scores(s, q, memory->keys, d);
    hide(s, OWN_KEYS / 8, key0 + own_keys(), pos, -INFINITY);
    store_scores(&t, s, tile, part);
}

typedef struct values_memory {
    uint16_t p[NARROW_ROWS * ALL_P_STRIDE], values[SPLIT * VALUE_STRIDE];
    size_t at[SIXTEENS];                                          /* where values are */
    float largest[NARROW_ROWS][PARTS], tops[NARROW_ROWS][PARTS];  /* of a block of keys; and up to it */
    float shrink[PARTS][NARROW_ROWS];
    int pos[NARROW_ROWS];
} __attribute__((aligned(16))) values_memory;

/* What is known before the operation in front has ended. */
KERN_DEVICE void values_prepare(values_memory *memory, const attend_task *t) {
    const kern_float4 zero = {{0, 0, 0, 0}};
    if (kern_thread() < SIXTEENS) memory->at[kern_thread()] = sixteen_at(t, t->item.begin + 16 * kern_thread());
    if (kern_thread() < NARROW_ROWS) memory->pos[kern_thread()] = place_of(t, kern_thread()).pos;
    for (int i = t->item.count * ALL_P_STRIDE / 8 + kern_thread(); i < NARROW_ROWS * ALL_P_STRIDE / 8; i += THREADS)
        *(kern_float4 *)(memory->p + 8 * i) = zero; /* rows that are not there */
    kern_barrier();
}

/* Begins to copy the values of `blocks` blocks of keys, or up to 3 more. Keys from the item's end on: zeros. */
KERN_DEVICE void values_fetch(values_memory *memory, const attend_task *t, int first_channel, int blocks, int d) {
    enum { CHUNKS = PART_CHANNELS / COPY, AT_ONCE = THREADS / CHUNKS, AHEAD_OF = 8 }; /* keys: two sixteens; copies, whose places are loaded before */
    const int own = kern_thread() / CHUNKS, part = kern_thread() % CHUNKS * COPY, valid = t->item.end - t->item.begin - own;
    const uint16_t *from = t->a->keys + t->a->value + first_channel + own % 16 * d + part;
    const size_t *at = memory->at + own / 16;
    uint16_t *to = memory->values + own * VALUE_STRIDE + part;
    for (int first = 0; first < blocks * (KEYS / AT_ONCE); first += AHEAD_OF) {
        size_t source[AHEAD_OF];
        KERN_UNROLL for (int i = 0; i < AHEAD_OF; i++) source[i] = at[(first + i) * (AT_ONCE / 16)];
        KERN_UNROLL for (int i = 0; i < AHEAD_OF; i++)
            kern_copy_async16(to + (first + i) * AT_ONCE * VALUE_STRIDE, from + source[i], (first + i) * AT_ONCE < valid ? 16 : 0);
    }
    kern_copy_commit();
}

/* Tops up to each block of keys, and what the sums before it shrink by. */
KERN_DEVICE void values_tops(values_memory *memory, const attend_task *t, int tile, int blocks, int d) {
    for (int i = kern_thread(); i < t->item.count * PARTS; i += THREADS)
        if (i % PARTS < blocks) {
            const kern_float4 x = *(const kern_float4 *)(score_tops_of(t->a, tile, i / PARTS) + i % PARTS * WARPS);
            memory->largest[i / PARTS][i % PARTS] = larger(larger(x.v[0], x.v[1]), larger(x.v[2], x.v[3]));
        }
    kern_barrier();
    for (int i = kern_thread(); i < t->item.count * PARTS; i += THREADS)
        if (i % PARTS < blocks) {
            float before = -INFINITY, top;
            for (int b = 0; b < i % PARTS; b++) before = larger(memory->largest[i / PARTS][b], before);
            top = larger(memory->largest[i / PARTS][i % PARTS], before);
            memory->tops[i / PARTS][i % PARTS] = top;
            memory->shrink[i % PARTS][i / PARTS] = kern_exp2((before - top) * log2_scale(d));
        }
    for (int i = t->item.count + kern_thread() / PARTS; i < NARROW_ROWS; i += THREADS / PARTS) memory->shrink[kern_thread() % PARTS][i] = 0;
    kern_barrier();
}

/* Scores of some rows, from row0 on: a thread's pairs of keys. */
enum { SOME_ROWS = 4, PAIRS = SPLIT / 2 / THREADS };
typedef struct some_scores {
    float_pair s[SOME_ROWS][PAIRS];
} some_scores;

KERN_DEVICE int key_of_pair(int i) { return 2 * (i * THREADS + kern_thread()); }

KERN_DEVICE void values_load(some_scores *x, const attend_task *t, int tile, int row0, int blocks) {
    KERN_UNROLL for (int r = 0; r < SOME_ROWS; r++)
        KERN_UNROLL for (int i = 0; i < PAIRS; i++)
            if (row0 + r < t->item.count && key_of_pair(i) < blocks * KEYS)
                x->s[r][i] = *(const float_pair *)(scores_of(t->a, tile, row0 + r) + key_of_pair(i));
}

/* Scores to p. */
KERN_DEVICE void values_powers(values_memory *memory, const some_scores *x, const attend_task *t, int row0, int blocks, int d) {
    KERN_UNROLL for (int r = 0; r < SOME_ROWS; r++) {
        const int row = row0 + r;
        if (row >= t->item.count) break;
        const int pos = memory->pos[row] - t->item.begin;
        KERN_UNROLL for (int i = 0; i < PAIRS; i++) {
            const int key = key_of_pair(i);
            if (key >= blocks * KEYS) break;
            const float low = memory->tops[row][key / KEYS] * log2_scale(d);
            const float first = kern_exp2(fmaf(x->s[r][i].x, log2_scale(d), -low)), second = kern_exp2(fmaf(x->s[r][i].y, log2_scale(d), -low));
            *(uint32_t *)(memory->p + row * ALL_P_STRIDE + key) = kern_bf16_pair(key > pos ? 0.0f : first, key + 1 > pos ? 0.0f : second);
        }
    }
}

/* The chains over all keys of the warp's 8 channels: 32 keys at a time. */
KERN_DEVICE void values_sums(running *r, const values_memory *memory, int blocks) {
    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
    const int lane = kern_thread() % 32, c0 = kern_thread() / 32 * 8;
    for (int b = 0; b < blocks; b++) {
        float shrink[2];
        uint32_t p[KEYS / 16][4], v[KEYS / 32][4];
        KERN_UNROLL for (int k = 0; k < KEYS / 16; k++) load_a(p[k], memory->p, ALL_P_STRIDE, 0, b * KEYS + 16 * k);
        KERN_UNROLL for (int k = 0; k < KEYS / 32; k++) kern_ldmatrix_x4_trans(v[k], memory->values + (b * KEYS + 32 * k + lane) * VALUE_STRIDE + c0);
        KERN_UNROLL for (int half = 0; half < 2; half++) shrink[half] = memory->shrink[b][lane_row() + 8 * half];
        KERN_UNROLL for (int i = 0; i < 4; i++) {
            r->values[0][i] *= shrink[i / 2];
            r->sum[i] *= shrink[i / 2];
        }
        KERN_UNROLL for (int k = 0; k < KEYS / 16; k++) {
            kern_mma_bf16(r->sum, p[k], ones);
            kern_mma_bf16(r->values[0], p[k], &v[k / 2][k % 2 * 2]);
        }
    }
}

KERN_DEVICE void attend_values(const attend_tiles_args *a, values_memory *memory, int d) {
    const int parts = d / PART_CHANNELS, tile = kern_block() / parts, first_channel = kern_block() % parts * PART_CHANNELS;
    attend_task t;
    some_scores scores;
    running r;
    place at[2];
    t.a = a;
    const bool found = find_narrow(&t, assignment_of(a, tile));
    const share own = share_of(0, first_channel + kern_thread() / 32 * 8, 1);
    const int blocks = (t.item.end - t.item.begin + KEYS - 1) / KEYS;
    if (found) {
        places_of(at, &t, own);
        values_prepare(memory, &t);
    }
    kern_wait_for_previous();
    if (!found) return;
    values_load(&scores, &t, tile, 0, blocks);
    values_fetch(memory, &t, first_channel, blocks, d);
    values_tops(memory, &t, tile, blocks, d);
    for (int row0 = 0; row0 < t.item.count; row0 += SOME_ROWS) {
        if (row0 > 0) values_load(&scores, &t, tile, row0, blocks);
        values_powers(memory, &scores, &t, row0, blocks, d);
    }
    start(&r, 1);
    kern_copy_wait(0);
    kern_barrier();
    values_sums(&r, memory, blocks);
    KERN_UNROLL for (int half = 0; half < 2; half++)
        r.top[half] = lane_row() + 8 * half < t.item.count ? memory->tops[lane_row() + 8 * half][blocks - 1] : -INFINITY;
    store_result(&r, &t, own, at, d);
    merge_if_last(&t, parts, &memory->pos[0], d);
}

KERN_KERNEL_WAITS(attend_scores_64) {
    KERN_SHARED_BYTES(scores_memory, memory);
    attend_scores(&a, memory, 64);
}
KERN_KERNEL_WAITS(attend_scores_128) {
    KERN_SHARED_BYTES(scores_memory, memory);
    attend_scores(&a, memory, 128);
}
KERN_KERNEL_WAITS_FOR(attend_values_64, THREADS, 1) {
    KERN_SHARED_BYTES(values_memory, memory);
    attend_values(&a, memory, 64);
}
KERN_KERNEL_WAITS_FOR(attend_values_128, THREADS, 1) {
    KERN_SHARED_BYTES(values_memory, memory);
    attend_values(&a, memory, 128);
}

/* ---- queueing --------------------------------------------------------------------------------------------------------------------- */

static void queue_wide(kern_ctx *ctx, attend_tiles_args args, int units) {
    const int blocks = units * args.kv_heads;
    if (args.shape.head_dim == 64)
        KERN_LAUNCH_SHARED(ctx, attend_wide_64, blocks, THREADS, wide_bytes(64), args);
    else
        KERN_LAUNCH_SHARED(ctx, attend_wide_128, blocks, THREADS, wide_bytes(128), args);
}

static void queue_few(kern_ctx *ctx, attend_tiles_args args, int blocks) {
    if (args.shape.head_dim == 64)
        KERN_LAUNCH_SHARED(ctx, attend_few_64, blocks, THREADS, few_bytes(64), args);
    else
        KERN_LAUNCH_SHARED(ctx, attend_few_128, blocks, THREADS, few_bytes(128), args);
}

static void queue_scores_and_values(kern_ctx *ctx, attend_tiles_args args, int tiles) {
    if (args.shape.head_dim == 64) {
        KERN_LAUNCH_SHARED(ctx, attend_scores_64, tiles * PARTS, THREADS, sizeof(scores_memory), args);
        KERN_LAUNCH_SHARED(ctx, attend_values_64, tiles * (64 / PART_CHANNELS), THREADS, sizeof(values_memory), args);
    } else {
        KERN_LAUNCH_SHARED(ctx, attend_scores_128, tiles * PARTS, THREADS, sizeof(scores_memory), args);
        KERN_LAUNCH_SHARED(ctx, attend_values_128, tiles * (128 / PART_CHANNELS), THREADS, sizeof(values_memory), args);
    }
}

static void queue_narrow(kern_ctx *ctx, attend_tiles_args args, int units) {
    const int blocks = units * args.kv_heads, processors = kern_card_processors(ctx->card);
    if (ctx->hopper && args.scores && blocks * (args.shape.head_dim / PART_CHANNELS) <= processors) {
        queue_scores_and_values(ctx, args, blocks);
        return;
    }
    if (ctx->hopper && args.pos && blocks <= processors) {
        queue_few(ctx, args, blocks);
        return;
    }
    args.stages = !ctx->hopper || blocks > 2 * processors ? FEWEST : SOME;
    if (args.shape.head_dim == 64)
        KERN_LAUNCH_SHARED(ctx, attend_narrow_64, blocks, THREADS, narrow_bytes(64, args.stages), args);
    else
        KERN_LAUNCH_SHARED(ctx, attend_narrow_128, blocks, THREADS, narrow_bytes(128, args.stages), args);
}

static attend_tiles_args args_of(void *out, float *lse, const void *qkv, kern_dtype dtype, kern_attn_shape shape, int m) {
    attend_tiles_args args;
    memset(&args, 0, sizeof args);
    args.out = out;
    args.lse = lse;
    args.qkv = qkv;
    args.dtype = dtype;
    args.shape = shape;
    args.kv_heads = shape.kv_heads;
    args.m = m;
    args.splits = 1;
    return args;
}

/* ---- packed ----------------------------------------------------------------------------------------------------------------------- */

/* A block a row, a thread two elements. */
KERN_KERNEL(round_keys) {
    const int row = kern_block(), d = a.shape.head_dim;
    const float *keys = (const float *)a.qkv + (size_t)row * kern_qkv_width(a.shape) + (a.shape.heads + a.first_kv) * d;
    const float *values = keys + a.shape.kv_heads * d;
    for (int i = 2 * kern_thread(); i < a.kv_heads * d; i += 2 * THREADS) {
        uint32_t *to = (uint32_t *)a.keys + (((size_t)(i / d) * a.m + row) * d + i % d) / 2;
        to[0] = kern_bf16_pair(keys[i], keys[i + 1]);
        to[a.value / 2] = kern_bf16_pair(values[i], values[i + 1]);
    }
}

/* Items that wait to be queued. */
typedef struct agenda {
    kern_ctx *ctx;
    attend_tiles_args args;
    attend_item wide[ITEMS], narrow[ITEMS];
    int n_wide, n_narrow;
} agenda;

static attend_tiles_args args_for(const agenda *g, const attend_item *items, int n) {
    attend_tiles_args args = g->args;
    args.items = (const attend_item *)kern_cuda_stage(g->ctx, items, (size_t)n * sizeof *items);
    return args;
}

static void run_agenda(agenda *g) {
    queue_wide(g->ctx, args_for(g, g->wide, g->n_wide), g->n_wide);
    queue_narrow(g->ctx, args_for(g, g->narrow, g->n_narrow), g->n_narrow);
    g->n_wide = g->n_narrow = 0;
}

static void add_item(agenda *g, attend_item item) {
    if (g->n_wide == ITEMS || g->n_narrow == ITEMS) run_agenda(g);
    if (item.count > NARROW_ROWS)
        g->wide[g->n_wide++] = item;
    else
        g->narrow[g->n_narrow++] = item;
}

/* Tiles of one sequence, those with most keys first. */
static void add_sequence(agenda *g, int begin, int rows) {
    const int group = g->args.shape.heads / g->args.shape.kv_heads, n = rows * group;
    for (int first = (n - 1) / WIDE_ROWS * WIDE_ROWS; first >= 0; first -= WIDE_ROWS) {
        const int count = n - first < WIDE_ROWS ? n - first : WIDE_ROWS;
        const attend_item item = {begin, first, count, begin, 0, (first + count - 1) / group + 1};
        add_item(g, item);
    }
}

/* Where keys and values of kv_heads kv heads from first_kv on are: rounded copies, or themselves; then the work space is for what waits. */
static void find_keys(kern_ctx *ctx, attend_tiles_args *a) {
    const size_t d = (size_t)a->shape.head_dim;
    if (a->dtype == KERN_BF16) {
        a->keys = (const uint16_t *)a->qkv + (size_t)(a->shape.heads + a->first_kv) * d;
        a->next_head = d;
        a->next_key = (size_t)kern_qkv_width(a->shape);
        a->value = (size_t)a->shape.kv_heads * d;
        a->waiting = ctx->scratch;
    } else {
        a->keys = (const uint16_t *)ctx->scratch;
        a->next_head = (size_t)a->m * d;
        a->next_key = d;
        a->value = (size_t)a->kv_heads * a->next_head;
        KERN_LAUNCH(ctx, round_keys, a->m, THREADS, *a);
    }
}

/* Floats of the work space that a kv head takes. */
static size_t space_of_head(const int32_t *seq_begin, int seqs, kern_dtype dtype, int d) {
    bool waits = false;
    for (int s = 0; s < seqs; s++) waits = waits || seq_begin[s + 1] - seq_begin[s] > SPLIT;
    return (dtype == KERN_F32 ? (size_t)seq_begin[seqs] : waits ? (size_t)(ITEMS * WIDE_ROWS) : 0) * (size_t)d;
}

void kern_cuda_attention_tiles(kern_ctx *ctx, void *out, float *lse, const void *qkv, kern_dtype dtype, const int32_t *seq_begin, int seqs,
                               kern_attn_shape shape) {
    const int m = seq_begin[seqs];
    const size_t head = space_of_head(seq_begin, seqs, dtype, shape.head_dim);
    const int at_once = head ? (int)(ctx->scratch_floats / head) : shape.kv_heads;
    agenda g = {0};
    g.ctx = ctx;
    g.args = args_of(out, lse, qkv, dtype, shape, m);
    if (kern_cuda_attention_hopper(ctx, &g.args, seq_begin, seqs)) return;
    assert(at_once > 0);
    for (int first = 0; first < shape.kv_heads; first += at_once) {
        g.args.first_kv = first;
        g.args.kv_heads = shape.kv_heads - first < at_once ? shape.kv_heads - first : at_once;
        find_keys(ctx, &g.args);
        for (int s = 0; s < seqs; s++) add_sequence(&g, seq_begin[s], seq_begin[s + 1] - seq_begin[s]);
        run_agenda(&g);
    }
}

/* ---- paged ------------------------------------------------------------------------------------------------------------------------ */

/* Room for the scores of so many tiles, behind the first `used` floats of the work space. */
static void set_scores(kern_ctx *ctx, attend_tiles_args *args, int tiles, size_t used) {
    const size_t scores = (size_t)tiles * NARROW_ROWS * SPLIT, tops = (size_t)tiles * NARROW_ROWS * SIXTEENS, at = (used + 3) / 4 * 4;
    const bool fits = used < ctx->scratch_floats && at + scores + tops <= ctx->scratch_floats;
    args->scores = fits ? ctx->scratch + at : NULL;
    args->score_tops = fits ? args->scores + scores : NULL;
}

static int within(int x, int low, int high) { return x < low ? low : x > high ? high : x; }
static int splits_of(int end) { return (end + SPLIT - 1) / SPLIT; }

/* Rows outside long runs may have fewer splits than those of a long one beside them. */
static void queue_lone(kern_ctx *ctx, attend_tiles_args args, int rows, int end) {
    assert(rows == 0 || end > 0);
    if (args.splits > 1) args.splits = splits_of(end);
    queue_narrow(ctx, args, rows * args.splits);
}

/* As many rows at a time as the work space holds the results of, if they have several splits; where it holds those of none, items go
 * through all splits as packed ones do, and wait in out, which is float32 then (16 million positions do not fit a real card's). Where few
 * neighbours are of one sequence, and a row's heads fit, all tiles are narrow. */
void kern_cuda_attention_paged_tiles(kern_ctx *ctx, void *out, const void *qkv, kern_dtype dtype, const void *kv, kern_kv_shape kv_shape,
                                     int layer, const int32_t *seq, const int32_t *pos, int m, const int32_t *page_table, int max_pages,
                                     kern_rows_hint hint, kern_attn_shape shape) {
    const int group = shape.heads / shape.kv_heads, most = splits_of(hint.end);
    const bool all_narrow = hint.decoding && group <= NARROW_ROWS;
    const size_t result = (size_t)shape.heads * (size_t)(shape.head_dim + 2); /* floats, of a row and split */
    const int splits = result * (size_t)most <= ctx->scratch_floats ? most : 1;
    const int at_once = splits > 1 ? kern_cuda_rows_at_a_time(ctx, 1, result * (size_t)splits * sizeof(float)) : m;
    attend_tiles_args args = args_of(out, NULL, qkv, dtype, shape, m);
    assert(group <= WIDE_ROWS && (splits >= most || dtype == KERN_F32));
    assert(splits == 1 || (size_t)at_once * (size_t)shape.kv_heads <= KERN_CUDA_COUNTERS); /* two results of 64 + 2 floats for each */
    args.keys = (const uint16_t *)kv + (size_t)layer * kv_layer(kv_shape);
    args.next_key = (size_t)shape.head_dim;
    args.value = kv_half(kv_shape);
    args.kv = kv_shape;
    args.seq = seq;
    args.pos = pos;
    args.page_table = page_table;
    args.max_pages = max_pages;
    args.all_narrow = all_narrow;
    args.tile_rows = (all_narrow ? NARROW_ROWS : WIDE_ROWS) / group;
    args.splits = splits;
    args.values = ctx->scratch;
    args.ended = ctx->counters;
    for (int first = 0; first < m; first += at_once) {
        const int n = m - first < at_once ? m - first : at_once, units = kern_blocks_for((size_t)n, (size_t)args.tile_rows);
        args.first_row = first;
        args.end_row = first + n;
        args.long_begin = all_narrow ? first : within(hint.long_begin, first, first + n);
        args.long_end = all_narrow ? first : within(hint.long_end, first, first + n);
        args.tops = (float_pair *)(ctx->scratch + (size_t)n * (size_t)(shape.heads * splits) * (size_t)shape.head_dim);
        set_scores(ctx, &args, n * splits * shape.kv_heads, splits == most ? result * (size_t)splits * (size_t)n : SIZE_MAX);
        if (!all_narrow && !kern_cuda_attention_paged_hopper(ctx, &args, units)) queue_wide(ctx, args, units * splits);
        if (group <= NARROW_ROWS) queue_lone(ctx, args, n - (args.long_end - args.long_begin), all_narrow ? hint.end : hint.lone_end);
    }
}
