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
 * keys, the next one comes by asynchronous copies (attention_blocks.h). Two sizes:
 *
 *   wide     128 rows and heads: packed sequences, and prefill. A warp has 32 of them, scores and values in registers, q in shared memory
 *   narrow   16: decode, attention_decode.cu
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
#include "kernels/cuda/attention_blocks.h"

#include <assert.h>

enum {
    EACH = WIDE_ROWS / WARPS / 16, /* tiles of 16 rows of a warp */
    ITEMS = 128                    /* packed: that are queued together */
};

typedef attend_tiles_args attend_wide_64_args, attend_wide_128_args, round_keys_args;

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

/* ---- queueing --------------------------------------------------------------------------------------------------------------------- */

static void queue_wide(kern_ctx *ctx, attend_tiles_args args, int units) {
    const int blocks = units * args.kv_heads;
    if (args.shape.head_dim == 64)
        KERN_LAUNCH_SHARED(ctx, attend_wide_64, blocks, THREADS, wide_bytes(64), args);
    else
        KERN_LAUNCH_SHARED(ctx, attend_wide_128, blocks, THREADS, wide_bytes(128), args);
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
    kern_cuda_attention_narrow(g->ctx, args_for(g, g->narrow, g->n_narrow), g->n_narrow);
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

static int within(int x, int low, int high) { return x < low ? low : x > high ? high : x; }
static int splits_of(int end) { return (end + SPLIT - 1) / SPLIT; }

/* Rows outside long runs may have fewer splits than those of a long one beside them. */
static void queue_lone(kern_ctx *ctx, attend_tiles_args args, int rows, int end) {
    assert(rows == 0 || end > 0);
    if (args.splits > 1) args.splits = splits_of(end);
    kern_cuda_attention_narrow(ctx, args, rows * args.splits);
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
        kern_cuda_attention_room_for_scores(ctx, &args, n * splits * shape.kv_heads, splits == most ? result * (size_t)splits * (size_t)n : SIZE_MAX);
        if (!all_narrow && !kern_cuda_attention_paged_hopper(ctx, &args, units)) queue_wide(ctx, args, units * splits);
        if (group <= NARROW_ROWS) queue_lone(ctx, args, n - (args.long_end - args.long_begin), all_narrow ? hint.end : hint.lone_end);
    }
}
