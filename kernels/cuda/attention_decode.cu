/* Attention of few rows, decoding, forward: narrow tiles of 16 rows and heads. Definition and order: attention_tiles.cu. Three kinds of kernels,
 * with the same arithmetic and the same bits:
 *
 *   narrow   any number of tiles, packed or paged. All warps have the same 16: each the scores of 16 keys of the block and a quarter of the
 *            values' channels; tops and p go through shared memory, by three barriers a block of keys
 *   few      paged rows whose blocks of threads are so few that each has a processor to itself: one barrier
 *   scores and values    in two launches, for tiles so few that each can have several blocks of threads
 *
 * Bytes: 4 D a key for all heads of a kv head, which is what limits decoding; for fewer tiles than processors it is the way of one block of
 * threads through its keys. */
#include "kernels/cuda/attention_blocks.h"

enum {
    OWN_KEYS = KEYS / WARPS, /* of a warp */
    P_STRIDE = KEYS + 8
};

typedef attend_tiles_args attend_narrow_64_args, attend_narrow_128_args, attend_few_64_args, attend_few_128_args;

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
    const uint16_t *from;      /* where the lane's copies begin: of 16 keys at the cache's beginning, */
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

/* Where 16 keys of the item are, from key j on, a multiple of 16: elements of the cache. Beyond the item's end: where its last ones are. */
KERN_DEVICE size_t sixteen_at(const attend_task *t, int j) {
    const int last = (t->item.end - 1) / 16 * 16, key = j < last ? j : last;
    return kv_in_page(t->a->kv, page_of(t, key), place_in_page(t, key), t->kv_head);
}

/* Looks up where the warp's keys of blocks n .. n + BLOCKS - 1 are. */
KERN_DEVICE void few_find(few_work *f, int n) {
    const int block = n + kern_thread() % 32;
    const size_t at = sixteen_at(f->t, few_key0(f, block) + own_keys());
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
    f->t = t;
    f->memory = memory;
    f->pages = ((few_pages *)(memory + 2))->at[kern_thread() / 32];
    f->stages = few_queries(f) + tile_size(NARROW_ROWS, d);
    f->from = t->a->keys + copy_row(d) * d + copy_part(d);
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

/* Room for the scores of so many tiles, behind the first `used` floats of the work space. */
void kern_cuda_attention_room_for_scores(kern_ctx *ctx, attend_tiles_args *args, int tiles, size_t used) {
    const size_t scores = (size_t)tiles * NARROW_ROWS * SPLIT, tops = (size_t)tiles * NARROW_ROWS * SIXTEENS, at = (used + 3) / 4 * 4;
    const bool fits = used < ctx->scratch_floats && at + scores + tops <= ctx->scratch_floats;
    args->scores = fits ? ctx->scratch + at : NULL;
    args->score_tops = fits ? args->scores + scores : NULL;
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

void kern_cuda_attention_narrow(kern_ctx *ctx, attend_tiles_args args, int units) {
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
