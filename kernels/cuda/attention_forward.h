/* attention_forward: what the kernels of attention's forward on tensor cores share (attention_tiles.cu, attention_decode.cu,
 * attention_hopper.cu): what they are given, how a block of threads finds its tile of rows and heads, and where results go. */
#ifndef RLF_KERNELS_CUDA_ATTENTION_FORWARD_H
#define RLF_KERNELS_CUDA_ATTENTION_FORWARD_H

#include "kernels/cuda/attention_softmax.h"

/* Rows and heads of a tile, at most. Narrow tiles are whole runs of a sequence; what has more than they may have, or is a piece of a run that a
 * group of paged rows cut off, is a wide one. So long runs have none. */
enum { WIDE_ROWS = 128, NARROW_ROWS = KERN_LONG_RUN };

/* A tile and the keys it is to see. */
typedef struct attend_item {
    int32_t row, first, count; /* rows and heads first .. first+count-1 of the rows from `row` on */
    int32_t source;            /* packed: the row of position 0; paged: the sequence */
    int32_t begin, end;        /* keys; begin is a multiple of SPLIT */
} attend_item;

typedef struct attend_tiles_args {
    void *out;
    float *lse;                   /* NULL: not wanted */
    const void *qkv;
    kern_dtype dtype;             /* of qkv and out */
    float *waiting;               /* (blocks, WIDE_ROWS, D): for the results of splits before; NULL: in out */
    kern_attn_shape shape;
    int first_kv, kv_heads;       /* the kv heads at work: a block of threads an item and kv head */
    const attend_item *items;     /* packed */
    const uint16_t *keys;         /* packed: of the first kv head at work; paged: the layer of the cache */
    size_t next_head, next_key;   /* elements from a key to that of the next kv head (packed), and to the next key of its head (or page) */
    size_t value;                 /* elements from a key to its value */
    int m;
    kern_kv_shape kv;             /* paged */
    const int32_t *seq, *pos;     /* paged: (m); packed: NULL */
    const int32_t *page_table;    /* (sequences, max_pages) */
    int max_pages;
    int first_row, end_row;       /* the rows at work */
    int tile_rows;                /* rows first_row + i tile_rows .. are never in one tile with those before */
    bool all_narrow;              /* pieces of runs too */
    int long_begin, long_end;     /* rows at work that are none of narrow tiles */
    int splits;                   /* that a row may have, each by a block of threads of its own; 1: one goes through all there are */
    float *values;                /* (rows at work, H, splits, D): results of splits, before division, of rows that have several */
    float_pair *tops;             /* (rows at work, H, splits): top, sum */
    uint32_t *ended;              /* (rows at work, kv heads): of the tile that begins at a row, the splits that have ended; 0 in the end */
    float *scores, *score_tops;   /* (tiles and splits, NARROW_ROWS, SPLIT), and the largest of 16 keys each: for attend_values */
    int stages;                   /* narrow: blocks of keys that shared memory has room for: FEWEST or SOME */
} attend_tiles_args;

/* attention_hopper.cu: the same bits on a Hopper card, of activations of bfloat16: all of packed sequences; the wide tiles of `units`
 * groups of paged rows. False where it is none, or keys do not begin at 16 bytes. */
#ifdef __cplusplus
extern "C" {
#endif
bool kern_cuda_attention_hopper(kern_ctx *ctx, const attend_tiles_args *with, const int32_t *seq_begin, int seqs);
bool kern_cuda_attention_paged_hopper(kern_ctx *ctx, const attend_tiles_args *with, int units);
/* attention_decode.cu: narrow tiles, of `units` items, or rows and splits. Room for the scores of so many tiles, behind the first `used` floats
 * of the work space, if there is any. */
void kern_cuda_attention_narrow(kern_ctx *ctx, attend_tiles_args args, int units);
void kern_cuda_attention_room_for_scores(kern_ctx *ctx, attend_tiles_args *args, int tiles, size_t used);
#ifdef __cplusplus
}
#endif

/* What a block of threads has to do. */
typedef struct attend_task {
    const attend_tiles_args *a;
    attend_item item;
    int kv_head;
    int splits; /* of the tile, each another block's */
} attend_task;

/* What this block of threads is to look at: an item, a row or a group of rows; a split of its keys; a kv head. Of paged rows the last
 * come first: of a chunk they have most keys. */
typedef struct assignment {
    int unit, split, kv_head;
} assignment;

KERN_DEVICE assignment assignment_of(const attend_tiles_args *a, int block) {
    assignment n;
    n.kv_head = a->first_kv + block % a->kv_heads;
    n.split = block / a->kv_heads % a->splits;
    n.unit = block / a->kv_heads / a->splits;
    return n;
}
KERN_DEVICE assignment assigned(const attend_tiles_args *a) {
    return assignment_of(a, a->pos ? kern_blocks() - 1 - kern_block() : kern_block());
}

/* The tile that paged rows from `row` on make, those of its sequence before `limit`, with the keys of a split: none where begin is end. By
 * whole warps. */
KERN_DEVICE void take_paged(attend_task *t, int row, int limit, int split) {
    const attend_tiles_args *a = t->a;
    const int lane = kern_thread() % 32, source = a->seq[row];
    float last = -1;
    int n = 0, more;
    do {
        const int next = row + n + lane, pos = next < limit ? a->pos[next] : -1; /* both loads under way at once */
        const bool same = next < limit && a->seq[next] == source;
        more = 32 - (int)kern_max32(same ? 0.0f : (float)(32 - lane));
        if (lane < more) last = kern_larger((float)pos, last);
        n += more;
    } while (more == 32);
    const int end = (int)kern_max32(last) + 1;
    attend_item item;
    item.row = row;
    item.first = 0;
    item.count = n * (a->shape.heads / a->shape.kv_heads);
    item.source = source;
    item.begin = split * SPLIT;
    item.end = a->splits > 1 && end > item.begin + SPLIT ? item.begin + SPLIT : end;
    if (item.end < item.begin) item.end = item.begin;
    t->item = item;
    t->splits = a->splits > 1 ? (end + SPLIT - 1) / SPLIT : 1;
}

KERN_DEVICE bool is_narrow(const attend_task *t) {
    const attend_tiles_args *a = t->a;
    const int end = t->item.row + t->item.count / (a->shape.heads / a->shape.kv_heads);
    if (t->item.count > NARROW_ROWS || a->all_narrow) return t->item.count <= NARROW_ROWS;
    return !(t->item.row > 0 && a->seq[t->item.row - 1] == t->item.source) && !(end < a->m && a->seq[end] == t->item.source);
}

/* The first row from `row` on that is not a run of its own, as one that decodes is; by whole warps, 32 rows at a time. */
KERN_DEVICE int after_lone_rows(const attend_tiles_args *a, int row, int limit) {
    const int lane = kern_thread() % 32;
    int lone;
    do {
        const int at = row + lane;
        const bool before = at < limit && at > 0 && a->seq[at - 1] == a->seq[at], after = at + 1 < a->m && at < limit && a->seq[at + 1] == a->seq[at];
        lone = 32 - (int)kern_max32(at < limit && !before && !after ? 0.0f : (float)(32 - lane));
        row += lone;
    } while (lone == 32);
    return row;
}

/* The next tile of a group of paged rows that is not narrow; false: there is none. The item is empty at first, and all else is worked out
 * again each time: registers are short while a tile is at work. */
KERN_DEVICE bool next_paged(attend_task *t) {
    const attend_tiles_args *a = t->a;
    const assignment n = assigned(a);
    const int group = a->shape.heads / a->shape.kv_heads, first = a->first_row + n.unit * a->tile_rows;
    const int limit = first + a->tile_rows < a->end_row ? first + a->tile_rows : a->end_row;
    t->kv_head = n.kv_head;
    for (int row = t->item.count > 0 ? t->item.row + t->item.count / group : first; row < limit; row += t->item.count / group) {
        if (group <= NARROW_ROWS) row = after_lone_rows(a, row, limit);
        if (row >= limit) return false;
        take_paged(t, row, limit, n.split);
        if (!is_narrow(t) && t->item.begin < t->item.end) return true;
    }
    return false;
}

/* ---- rows of a tile --------------------------------------------------------------------------------------------------------------- */

typedef struct place {
    int row, head, pos;
} place;

/* Row and head i of the tile; pos -1: there is none. */
KERN_DEVICE place place_of(const attend_task *t, int i) {
    const int group = t->a->shape.heads / t->a->shape.kv_heads, n = t->item.first + i;
    place p;
    p.row = t->item.row + n / group;
    p.head = t->kv_head * group + n % group;
    p.pos = i >= t->item.count ? -1 : t->a->pos ? t->a->pos[p.row] : p.row - t->item.source;
    return p;
}

/* ---- results ---------------------------------------------------------------------------------------------------------------------- */

/* What of a tile's values a lane has: rows row0+g and row0+g+8; `tiles` tiles of 8 channels, from c0 on. */
typedef struct share {
    int row0, c0, tiles;
} share;

KERN_DEVICE share share_of(int row0, int c0, int tiles) {
    const share s = {row0, c0, tiles};
    return s;
}

/* Of the two rows and heads that a lane has. */
KERN_DEVICE void places_of(place p[2], const attend_task *t, share own) {
    KERN_UNROLL for (int half = 0; half < 2; half++) p[half] = place_of(t, own.row0 + lane_row() + 8 * half);
}

KERN_DEVICE size_t out_at(const attend_tiles_args *a, place p, int d) { return ((size_t)p.row * a->shape.heads + p.head) * d; }
/* Whether the results of a row's splits are merged in the end. */
KERN_DEVICE bool merged(const attend_tiles_args *a, place p) { return a->splits > 1 && p.pos >= SPLIT; }
KERN_DEVICE size_t slot_of(const attend_tiles_args *a, place p, int split) {
    return ((size_t)(p.row - a->first_row) * a->shape.heads + p.head) * a->splits + split;
}

/* Where the values of row and head i of the tile wait. */
KERN_DEVICE float *waiting_values(const attend_task *t, place p, int i, int d) {
    const attend_tiles_args *a = t->a;
    return a->waiting ? a->waiting + ((size_t)kern_block() * WIDE_ROWS + i) * d : (float *)a->out + out_at(a, p, d);
}

/* Values, times a factor for each row, to where they wait, to the row's slot for the split, or in the end to out. Rows before the split
 * have none. */
KERN_DEVICE void store_values(const running *r, const float factor[2], const attend_task *t, share own, const place at[2], bool ended, int d) {
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const place p = at[half];
        if (p.pos < t->item.begin) continue;
        const bool slot = merged(t->a, p), out = ended && !slot;
        void *to = slot ? t->a->values : out ? t->a->out : waiting_values(t, p, own.row0 + lane_row() + 8 * half, d);
        const size_t first = slot ? slot_of(t->a, p, t->item.begin / SPLIT) * d : out ? out_at(t->a, p, d) : 0;
        const kern_dtype dtype = out ? t->a->dtype : KERN_F32;
        KERN_UNROLL for (int n = 0; n < own.tiles; n++)
            store_pair(to, dtype, first + own.c0 + lane_column() + 8 * n, r->values[n][2 * half] * factor[half] + 0.0f,
                       r->values[n][2 * half + 1] * factor[half] + 0.0f);
    }
}

/* The end of an item: what its last split, or all of them, came to. */
KERN_DEVICE void store_result(const running *r, const attend_task *t, share own, const place at[2], int d) {
    const attend_tiles_args *a = t->a;
    float factor[2];
    KERN_UNROLL for (int half = 0; half < 2; half++) factor[half] = merged(a, at[half]) ? 1.0f : 1.0f / r->sum[2 * half];
    store_values(r, factor, t, own, at, true, d);
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const place p = at[half];
        if (p.pos < t->item.begin || own.c0 + lane_column() != 0) continue;
        if (merged(a, p))
            a->tops[slot_of(a, p, t->item.begin / SPLIT)] = (float_pair){r->top[half], r->sum[2 * half]};
        else if (a->lse)
            a->lse[(size_t)p.row * a->shape.heads + p.head] = lse_of(r->top[half], r->sum[2 * half], d);
    }
}

/* ---- merging the splits of a row and head: half a warp each ----------------------------------------------------------------------- */

KERN_DEVICE void merge_row(const attend_tiles_args *a, place p, int d) {
    const size_t first = slot_of(a, p, 0), end = first + p.pos / SPLIT + 1;
    float values[TILE_DIM / KERN_LANES], top = a->tops[first].x, sum = a->tops[first].y;
    KERN_UNROLL for (int n = 0; n < d / KERN_LANES; n++) values[n] = a->values[first * d + n * KERN_LANES + kern_lane()];
    KERN_UNROLL_BY(4)
    for (size_t next = first + 1; next < end; next++) {
        const joint j = join(top, a->tops[next].x, log2_scale(d));
        top = j.top;
        sum = joined(j, sum, a->tops[next].y);
        KERN_UNROLL for (int n = 0; n < d / KERN_LANES; n++)
            values[n] = joined(j, values[n], a->values[next * d + n * KERN_LANES + kern_lane()]);
    }
    const float whole = 1.0f / sum;
    KERN_UNROLL for (int n = 0; n < d / KERN_LANES; n++)
        kern_set_element(a->out, a->dtype, out_at(a, p, d) + n * KERN_LANES + kern_lane(), values[n] * whole + 0.0f);
}

/* One thread, once all that its block has of a split of the tile is stored, one of `parts` of it: whether all else of the tile has ended too. */
KERN_DEVICE bool all_ended(const attend_task *t, int parts) {
    uint32_t *const ended = t->a->ended + (size_t)(t->item.row - t->a->first_row) * t->a->shape.kv_heads + t->kv_head;
    kern_fence();
    const bool all = kern_take_u32(ended, 1) + 1 == (uint32_t)(t->splits * parts);
    kern_fence();
    if (all) *ended = 0;
    return all;
}

/* By the first so many threads of the block. */
KERN_DEVICE void merge_tile(const attend_task *t, int threads, int d) {
    for (int i = kern_team(); i < t->item.count; i += threads / KERN_LANES) {
        const place p = place_of(t, i);
        if (merged(t->a, p)) merge_row(t->a, p, d);
    }
}

#endif
