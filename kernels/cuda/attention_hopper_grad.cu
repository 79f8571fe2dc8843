/* Gradient of packed causal attention on Hopper's tensor cores: the bits of attention_tiles_grad.cu, from its statistics and bfloat16 rows.
 *
 * Two kernels as there, in blocks of two warp groups that compute and a warp that brings tiles:
 *
 *   keys      a warp group has 64 keys of a kv head, their dk and dv in registers. It goes through the heads and rows that see them, 64 at a
 *             time, on transposed scores: p and ds come out as the left factors of the next products. Keys and values are in shared memory
 *   queries   a warp group has 64 rows of a head and their dq, queries and dout in registers, and goes through the keys
 *
 * While one warp group takes powers the other multiplies. Rows of another sequence that come with the last tile of one become zeros.
 *
 * Operations: 14 D a row, head and visible key. Of 64 x 64 scores, D = 128, keys: 1024 cycles of tensor cores, 112 bytes a cycle of shared
 * memory's 128; queries: 768, and 85. The 16 other instructions a score take 512 cycles of the schedulers in either. */
#include "kernels/cuda/attention_hopper.h"

enum { KEY_STAGES = 4, QUERY_STAGES = 4 };

typedef struct grad_hopper_args {
    kern_map qkv_map, dout_map; /* of all of both */
    const uint16_t *qkv, *dout; /* (m, width), (m, H D) */
    uint16_t *dqkv;
    const float_pair *stats;    /* (kv_heads at work, heads of each, m): lse log2(e), delta */
    kern_attn_shape shape;
    int m, first_kv, kv_heads;  /* at work: a block of threads an item and kv head */
    const hopper_item *items;
} grad_hopper_args;
typedef grad_hopper_args hopper_keys_64_args, hopper_keys_128_args, hopper_queries_64_args, hopper_queries_128_args;

/* Tasks are the heads at work: `group` of each kv head, one after the other. Where a task or a kv head at work is in a row of qkv. */
KERN_DEVICE int group_of(const grad_hopper_args *a) { return a->shape.heads / a->shape.kv_heads; }
KERN_DEVICE int query_column(const grad_hopper_args *a, int task, int d) { return (a->first_kv * group_of(a) + task) * d; } /* of dout too */
KERN_DEVICE int key_column(const grad_hopper_args *a, int kv, int d) { return (a->shape.heads + a->first_kv + kv) * d; }
KERN_DEVICE int value_column(const grad_hopper_args *a, int kv, int d) { return key_column(a, kv, d) + a->shape.kv_heads * d; }

KERN_BOTH int rows_size(int d) { return d / KERN_TILE_WIDE * TILE; } /* elements of 64 rows */

/* Two rows of the gradient of each thread: g and g+8 of the warp's, those before `rows` of the sequence; first_row: of the warp. */
KERN_DEVICE void store_gradient(float sum[TILE_DIM / 8][4], const grad_hopper_args *a, int begin, int rows, int first_row, int column, int d) {
    uint16_t *const to = a->dqkv; /* read once: see KERN_KERNEL_WITH_MAPS */
    const int width = kern_qkv_width(a->shape);
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const int row = first_row + lane_row() + 8 * half;
        if (row >= rows) continue;
        const size_t at = (size_t)(begin + row) * width + column + lane_column();
        KERN_UNROLL for (int n = 0; n < d / 8; n++) store_pair(to, KERN_BF16, at + 8 * n, sum[n][2 * half], sum[n][2 * half + 1]);
    }
}

/* ---- dk and dv -------------------------------------------------------------------------------------------------------------------- */

/* In shared memory after the tiles: those of GROUPS pieces' keys and values, and KEY_STAGES of queries and dout. */
typedef struct keys_memory {
    float_pair stats[KEY_STAGES][ROWS]; /* two are read at once: these begin the struct, which begins after tiles */
    ring_gates ring;
    kern_gate own;
} __attribute__((aligned(16))) keys_memory;

KERN_BOTH size_t keys_bytes(int d) {
    return KERN_TILE_ALIGN + sizeof(uint16_t) * (size_t)((2 * GROUPS + 2 * KEY_STAGES) * rows_size(d)) + sizeof(keys_memory);
}

/* The keys of both warp groups, and the steps through which they go: tiles of rows, head after head. */
typedef struct keys_pieces {
    int begin, rows, at; /* at: the first key */
    int kv, tiles;       /* of rows, for the first */
} keys_pieces;

KERN_DEVICE keys_pieces keys_of(const grad_hopper_args *a) {
    const hopper_item item = a->items[kern_block() / a->kv_heads];
    keys_pieces p;
    p.begin = item.begin;
    p.rows = item.rows;
    p.at = (units_of(item.rows, 1) - 1 - item.unit) * GROUPS * ROWS;
    p.kv = kern_block() % a->kv_heads;
    p.tiles = (item.rows - p.at + ROWS - 1) / ROWS;
    return p;
}

/* A warp. */
KERN_DEVICE void bring_queries(const grad_hopper_args *a, uint16_t *own, uint16_t *stages, keys_memory *memory, int d) {
    const keys_pieces p = keys_of(a);
    const int lane = kern_thread() % 32, groups = p.at + ROWS < p.rows ? 2 : 1;
    if (lane == 0) {
        kern_gate_expect(&memory->own, groups * 2 * rows_size(d) * 2);
        for (int g = 0; g < groups; g++) {
            copy_rows(own + 2 * g * rows_size(d), &a->qkv_map, p.begin + p.at + g * ROWS, key_column(a, p.kv, d), &memory->own, d);
            copy_rows(own + (2 * g + 1) * rows_size(d), &a->qkv_map, p.begin + p.at + g * ROWS, value_column(a, p.kv, d), &memory->own, d);
        }
    }
    int i = 0;
    for (int head = 0; head < group_of(a); head++)
        for (int at = p.at; at < p.rows; at += ROWS, i++) {
            const int task = p.kv * group_of(a) + head;
            uint16_t *const stage = stages + i % KEY_STAGES * 2 * rows_size(d);
            kern_gate *const full = &memory->ring.full[i % KEY_STAGES];
            float_pair stat[2];
            for (int n = 0; n < 2; n++) {
                const int row = at + lane + 32 * n;
                stat[n] = row < p.rows ? a->stats[(size_t)task * a->m + p.begin + row] : (float_pair){0, 0};
            }
            ring_wait_empty(&memory->ring, ring_at(i, KEY_STAGES));
            for (int n = 0; n < 2; n++) memory->stats[i % KEY_STAGES][lane + 32 * n] = stat[n];
            if (lane == 0) {
                kern_gate_expect(full, 2 * rows_size(d) * 2);
                copy_rows(stage, &a->qkv_map, p.begin + at, query_column(a, task, d), full, d);
                copy_rows(stage + rows_size(d), &a->dout_map, p.begin + at, query_column(a, task, d), full, d);
            } else
                kern_gate_arrive(full);
        }
}

/* p of rows at.. and the piece's keys, whose first is at `first`, and its factor. */
KERN_DEVICE void take_p(float s[ROWS / 8][4], uint32_t p[ROWS / 16][4], const float_pair *stats, int at, int first, int d) {
    const bool all = at >= first + ROWS;
    KERN_UNROLL for (int n = 0; n < ROWS / 8; n++) {
        const float_quad two = *(const float_quad *)(stats + 8 * n + lane_column()); /* of two rows */
        KERN_UNROLL for (int i = 0; i < 4; i++) s[n][i] = kern_exp2(fmaf(s[n][i], log2_scale(d), i % 2 ? -two.z : -two.x));
    }
    if (!all)
        KERN_UNROLL for (int n = 0; n < ROWS / 8; n++)
            KERN_UNROLL for (int i = 0; i < 4; i++)
                if (at + 8 * n + lane_column() + i % 2 < first + first_row_of_warp() + lane_row() + i / 2 * 8) s[n][i] = 0;
    factor_of(p, s);
}

KERN_DEVICE void take_ds(float dp[ROWS / 8][4], float p[ROWS / 8][4], uint32_t ds[ROWS / 16][4], const float_pair *stats, int d) {
    KERN_UNROLL for (int n = 0; n < ROWS / 8; n++) {
        const float_quad two = *(const float_quad *)(stats + 8 * n + lane_column());
        KERN_UNROLL for (int i = 0; i < 4; i++) dp[n][i] = p[n][i] * (dp[n][i] - (i % 2 ? two.w : two.y)) * (1.0f / sqrtf((float)d));
    }
    factor_of(ds, dp);
}

KERN_DEVICE void grad_of_keys(const grad_hopper_args *a, const uint16_t *own, uint16_t *stages, keys_memory *memory, int group, int tiles,
                              int d) {
    const int skipped = group, steps = group_of(a) * tiles;
    float dk[TILE_DIM / 8][4], dv[TILE_DIM / 8][4], s[ROWS / 8][4], dp[ROWS / 8][4];
    uint32_t p[ROWS / 16][4], ds[ROWS / 16][4];
    clear_sum(dk, d / 8);
    clear_sum(dv, d / 8);
    kern_gate_wait(&memory->own, 0);
    for (int i = 0, tile = 0; i < steps; i++, tile = tile + 1 == tiles ? 0 : tile + 1) {
        uint16_t *const stage = stages + i % KEY_STAGES * 2 * rows_size(d);
        const float_pair *const stats = memory->stats[i % KEY_STAGES];
        ring_wait_full(&memory->ring, ring_at(i, KEY_STAGES));
        if (tile >= skipped) {
            if (tile + 1 == tiles) {
                const keys_pieces k = keys_of(a);
                const int valid = k.rows - k.at - tile * ROWS;
                if (valid < ROWS) {
                    clear_rows(stage, skipped, valid, d);
                    clear_rows(stage + rows_size(d), skipped, valid, d);
                }
            }
            begin_scores_of(s, own, stage, d);
            begin_scores_of(dp, own + rows_size(d), stage + rows_size(d), d);
            kern_wgmma_wait(1);
            hold(s, ROWS / 8);
            take_p(s, p, stats, tile * ROWS, skipped * ROWS, d);
            begin_sum(dv, p, stage + rows_size(d), d);
            kern_wgmma_wait(1);
            hold(dp, ROWS / 8);
            take_ds(dp, s, ds, stats, d);
            begin_sum(dk, ds, stage, d);
            kern_wgmma_wait(0);
            hold(dv, d / 8);
            hold(dk, d / 8);
            hold_factor(p, ROWS / 16);
            hold_factor(ds, ROWS / 16);
        }
        ring_leave(&memory->ring, i % KEY_STAGES);
    }
    const keys_pieces k = keys_of(a);
    const int row = k.at + skipped * ROWS + first_row_of_warp();
    store_gradient(dk, a, k.begin, k.rows, row, key_column(a, k.kv, d), d);
    store_gradient(dv, a, k.begin, k.rows, row, value_column(a, k.kv, d), d);
}

KERN_DEVICE void hopper_keys(const grad_hopper_args *a, void *bytes, int d) {
    uint16_t *const own = (uint16_t *)KERN_TILE_START(bytes), *const stages = own + 2 * GROUPS * rows_size(d);
    keys_memory *const memory = (keys_memory *)(stages + 2 * KEY_STAGES * rows_size(d));
    const int tiles = uniform(keys_of(a).tiles);
    if (kern_thread() == 0) kern_gate_open(&memory->own, 1);
    ring_open(&memory->ring, KEY_STAGES, 32, READERS);
    kern_barrier();
    const int group = group_of_thread();
    if (group == GROUPS) {
        kern_registers_less(24);
        if (kern_thread() / 32 == GROUPS * GROUP_THREADS / 32) bring_queries(a, own, stages, memory, d);
    } else {
        kern_registers_more(240);
        grad_of_keys(a, own + 2 * group * rows_size(d), stages, memory, group, tiles, d);
    }
}

KERN_KERNEL_WITH_MAPS(hopper_keys_64, BLOCK_THREADS, 1) {
    KERN_SHARED_BYTES(char, memory);
    kern_wait_for_previous();
    hopper_keys(&a, memory, 64);
}
KERN_KERNEL_WITH_MAPS(hopper_keys_128, BLOCK_THREADS, 1) {
    KERN_SHARED_BYTES(char, memory);
    kern_wait_for_previous();
    hopper_keys(&a, memory, 128);
}

/* ---- dq --------------------------------------------------------------------------------------------------------------------------- */

/* 64 rows of a task, the first at `at`; `blocks` of keys. */
typedef struct queries_piece {
    int begin, rows, at, task, blocks;
} queries_piece;

KERN_DEVICE queries_piece queries_of(const grad_hopper_args *a, int which) {
    const hopper_item item = a->items[kern_block() / a->kv_heads];
    const int n = GROUPS * item.unit + which, group = group_of(a);
    queries_piece p;
    p.begin = item.begin;
    p.rows = item.rows;
    p.at = n / group * ROWS;
    p.task = kern_block() % a->kv_heads * group + n % group;
    p.blocks = p.at < p.rows ? n / group + 1 : 0;
    return p;
}

KERN_BOTH size_t queries_bytes(int d) {
    return KERN_TILE_ALIGN + sizeof(uint16_t) * (size_t)(2 * QUERY_STAGES * rows_size(d)) + sizeof(ring_gates);
}

/* One thread. */
KERN_DEVICE void bring_keys(const grad_hopper_args *a, int blocks, uint16_t *stages, ring_gates *ring, int d) {
    const int begin = queries_of(a, 0).begin, kv = kern_block() % a->kv_heads;
    for (int j = 0; j < blocks; j++) {
        uint16_t *const stage = stages + j % QUERY_STAGES * 2 * rows_size(d);
        kern_gate *const full = &ring->full[j % QUERY_STAGES];
        ring_wait_empty(ring, ring_at(j, QUERY_STAGES));
        kern_gate_expect(full, 2 * rows_size(d) * 2);
        copy_rows(stage, &a->qkv_map, begin + j * KEYS, key_column(a, kv, d), full, d);
        copy_rows(stage + rows_size(d), &a->qkv_map, begin + j * KEYS, value_column(a, kv, d), full, d);
    }
}

typedef struct queries_state {
    float dq[TILE_DIM / 8][4], s[KEYS / 8][4], dp[KEYS / 8][4];
    uint32_t q[TILE_DIM / 16][4], dout[TILE_DIM / 16][4], ds[KEYS / 16][4];
    float_pair stat[2];
} queries_state;

/* s and dp of block j to ds; `last`: it has keys that some row does not see. */
KERN_DEVICE void take_ds_of_row(queries_state *t, bool last, int d) {
    const float scale = 1.0f / sqrtf((float)d);
    KERN_UNROLL for (int n = 0; n < KEYS / 8; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) t->dp[n][i] = t->s[n][i] * (t->dp[n][i] - t->stat[i / 2].y) * scale;
    if (last)
        KERN_UNROLL for (int n = 0; n < KEYS / 8; n++)
            KERN_UNROLL for (int i = 0; i < 4; i++)
                if (8 * n + lane_column() + i % 2 > first_row_of_warp() + lane_row() + i / 2 * 8) t->dp[n][i] = 0;
    factor_of(t->ds, t->dp);
}

KERN_DEVICE void take_p_of_row(queries_state *t, int d) {
    KERN_UNROLL for (int n = 0; n < KEYS / 8; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) t->s[n][i] = kern_exp2(fmaf(t->s[n][i], log2_scale(d), -t->stat[i / 2].x));
}

/* The piece's queries, dout and statistics. */
KERN_DEVICE void load_queries(queries_state *t, const grad_hopper_args *a, int group, int d) {
    const queries_piece p = queries_of(a, group);
    const uint16_t *q[2], *dout[2];
    const int column = query_column(a, p.task, d);
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const int row = p.at + first_row_of_warp() + lane_row() + 8 * half;
        q[half] = dout[half] = NULL;
        t->stat[half] = (float_pair){0, 0};
        if (row >= p.rows) continue;
        q[half] = a->qkv + (size_t)(p.begin + row) * kern_qkv_width(a->shape) + column;
        dout[half] = a->dout + (size_t)(p.begin + row) * a->shape.heads * d + column;
        t->stat[half] = a->stats[(size_t)p.task * a->m + p.begin + row];
    }
    load_rows(t->q, q, d);
    load_rows(t->dout, dout, d);
    hold_factor(t->q, d / 16);
    hold_factor(t->dout, d / 16);
}

/* The products of queries and dout with a block of keys and values, of which `tail` are the sequence's. */
KERN_DEVICE void begin_both(queries_state *t, uint16_t *stage, int group, int tail, int d) {
    if (tail < KEYS) {
        clear_rows(stage, group, tail, d);
        clear_rows(stage + rows_size(d), group, tail, d);
    }
    begin_scores(t->s, t->q, stage, d);
    begin_scores(t->dp, t->dout, stage + rows_size(d), d);
}

KERN_DEVICE void grad_of_queries(const grad_hopper_args *a, int group, int blocks, int turns, int rows, uint16_t *stages, ring_gates *ring,
                                 int d) {
    queries_state t;
    const int tail = rows - (blocks - 1) * KEYS; /* keys of the last block */
    load_queries(&t, a, group, d);
    clear_sum(t.dq, d / 8);
    ring_wait_full(ring, ring_at(0, QUERY_STAGES));
    begin_both(&t, stages, group, blocks == 1 ? tail : KEYS, d);
    kern_wgmma_wait(0);
    hold(t.s, KEYS / 8);
    hold(t.dp, KEYS / 8);
    take_p_of_row(&t, d);
    take_ds_of_row(&t, blocks == 1, d);
    if (turns > 0 && group == 1) pass_turn(1, 1);
    for (int j = 0; j + 1 < blocks; j++) {
        const bool last = j + 2 == blocks;
        ring_wait_full(ring, ring_at(j + 1, QUERY_STAGES));
        if (j < turns) await_turn(group);
        begin_sum(t.dq, t.ds, stages + j % QUERY_STAGES * 2 * rows_size(d), d);
        begin_both(&t, stages + (j + 1) % QUERY_STAGES * 2 * rows_size(d), group, last ? tail : KEYS, d);
        if (j < turns) pass_turn(group, turns - 1 - j);
        kern_wgmma_wait(1);
        hold(t.dq, d / 8);
        hold_factor(t.ds, KEYS / 16);
        hold(t.s, KEYS / 8);
        ring_leave(ring, j % QUERY_STAGES);
        take_p_of_row(&t, d);
        kern_wgmma_wait(0);
        hold(t.dp, KEYS / 8);
        take_ds_of_row(&t, last, d);
    }
    begin_sum(t.dq, t.ds, stages + (blocks - 1) % QUERY_STAGES * 2 * rows_size(d), d);
    kern_wgmma_wait(0);
    hold(t.dq, d / 8);
    ring_leave(ring, (blocks - 1) % QUERY_STAGES);
    const queries_piece p = queries_of(a, group);
    store_gradient(t.dq, a, p.begin, p.rows, p.at + first_row_of_warp(), query_column(a, p.task, d), d);
}

KERN_DEVICE void hopper_queries(const grad_hopper_args *a, void *bytes, int d) {
    uint16_t *const stages = (uint16_t *)KERN_TILE_START(bytes);
    ring_gates *const ring = (ring_gates *)(stages + 2 * QUERY_STAGES * rows_size(d));
    const int first = uniform(queries_of(a, 0).blocks), second = uniform(queries_of(a, 1).blocks), rows = uniform(queries_of(a, 0).rows);
    const int blocks = first > second ? first : second;
    ring_open(ring, QUERY_STAGES, 1, READERS);
    kern_barrier();
    const int group = group_of_thread();
    if (group == GROUPS) {
        kern_registers_less(24);
        if (kern_thread() == GROUPS * GROUP_THREADS) bring_keys(a, blocks, stages, ring, d);
    } else {
        const int mine = group ? second : first;
        kern_registers_more(240);
        if (mine) grad_of_queries(a, group, mine, turns_of(first, second), rows, stages, ring, d);
        for (int j = mine; j < blocks; j++) { /* what only the other one sees */
            ring_wait_full(ring, ring_at(j, QUERY_STAGES));
            ring_leave(ring, j % QUERY_STAGES);
        }
    }
}

KERN_KERNEL_WITH_MAPS(hopper_queries_64, BLOCK_THREADS, 1) {
    KERN_SHARED_BYTES(char, memory);
    kern_wait_for_previous();
    hopper_queries(&a, memory, 64);
}
KERN_KERNEL_WITH_MAPS(hopper_queries_128, BLOCK_THREADS, 1) {
    KERN_SHARED_BYTES(char, memory);
    kern_wait_for_previous();
    hopper_queries(&a, memory, 128);
}

/* ---- queueing --------------------------------------------------------------------------------------------------------------------- */

static void run_keys(kern_ctx *ctx, const void *with, const hopper_item *items, int n) {
    grad_hopper_args args = *(const grad_hopper_args *)with;
    args.items = items;
    if (args.shape.head_dim == 64)
        KERN_LAUNCH_SHARED(ctx, hopper_keys_64, n * args.kv_heads, BLOCK_THREADS, keys_bytes(64), args);
    else
        KERN_LAUNCH_SHARED(ctx, hopper_keys_128, n * args.kv_heads, BLOCK_THREADS, keys_bytes(128), args);
}

static void run_queries(kern_ctx *ctx, const void *with, const hopper_item *items, int n) {
    grad_hopper_args args = *(const grad_hopper_args *)with;
    args.items = items;
    if (args.shape.head_dim == 64)
        KERN_LAUNCH_SHARED(ctx, hopper_queries_64, n * args.kv_heads, BLOCK_THREADS, queries_bytes(64), args);
    else
        KERN_LAUNCH_SHARED(ctx, hopper_queries_128, n * args.kv_heads, BLOCK_THREADS, queries_bytes(128), args);
}

bool kern_cuda_attention_grad_hopper(kern_ctx *ctx, uint16_t *dqkv, const uint16_t *dout, const uint16_t *qkv, const float_pair *stats,
                                     int first_kv, int kv_heads, const int32_t *seq_begin, int seqs, kern_attn_shape shape) {
    grad_hopper_args args;
    const int m = seq_begin[seqs], width = kern_qkv_width(shape), inner = shape.heads * shape.head_dim;
    if (!ctx->hopper || ((uintptr_t)qkv | (uintptr_t)dout) % 16) return false;
    memset(&args, 0, sizeof args);
    kern_card_map(ctx->card, &args.qkv_map, qkv, m, width, (size_t)width, ROWS);
    kern_card_map(ctx->card, &args.dout_map, dout, m, inner, (size_t)inner, ROWS);
    args.qkv = qkv;
    args.dout = dout;
    args.dqkv = dqkv;
    args.stats = stats;
    args.shape = shape;
    args.m = m;
    args.first_kv = first_kv;
    args.kv_heads = kv_heads;
    run_in_order(ctx, run_keys, &args, seq_begin, seqs, 1, 1);
    run_in_order(ctx, run_queries, &args, seq_begin, seqs, 1, shape.heads / shape.kv_heads);
    return true;
}
