/* Packed causal attention, forward, on Hopper's tensor cores (after FlashAttention-3, Shah et al. 2024): the bits of attention_tiles.cu.
 *
 * A piece is 64 rows of one head, from a multiple of 64 of its sequence on; they are numbered by rows, then by the heads of the kv head, so
 * the two of a block mostly see the same keys. Queries are in registers, read once from where they are. For block j of 64 keys a warp
 * group
 *
 *   begins the scores of block j+1        tensor cores: these, and still the values of block j-1,
 *   works on the scores of block j        while the others raise tops and take powers
 *   waits for the values of j-1, scales them, begins those of j, waits for the scores of j+1
 *
 * and at a boundary of splits, in the place of scaling, joins what it has with what came before, which waits in shared memory. Sums of
 * p are kern_mma_bf16 with ones, beside all that. Only the last block has keys beyond some row. Rows of the next sequence that come with it
 * are masked among the keys, and made zeros among the values, since 0 times a value that is no number would show.
 *
 * Keys and values come in boxes from the rows of qkv.
 *
 * Operations, of a block of 64 keys and a warp group, D = 128: 512 cycles of tensor cores (2 x 64 x 64 x 128 multiply-adds, 2048 a cycle), and
 * about 15 instructions a score, 480 cycles of the warp schedulers: both are nearly busy when two warp groups take turns. Shared memory:
 * 64 bytes a cycle of 128. Bytes: keys and values once for 128 rows, 4 D a key, from the card's cache. */
#include "kernels/cuda/attention_hopper.h"

enum { STAGES = 4 };

typedef struct attend_hopper_args {
    kern_map map;        /* of qkv */
    uint16_t *out;       /* (m, H D) */
    float *lse;          /* NULL: not wanted */
    const uint16_t *qkv; /* (m, width) */
    kern_attn_shape shape;
    const hopper_item *items; /* a block of threads an item and kv head */
} attend_hopper_args;
typedef attend_hopper_args attend_hopper_64_args, attend_hopper_128_args;

/* What waits for the end of another split: of each thread, so that neighbours are side by side. */
typedef struct hopper_waiting {
    float_quad tops[GROUPS * GROUP_THREADS];                 /* tops, then sums, of rows g, g+8 */
    float_pair ended[GROUPS * GROUP_THREADS];                /* the tops of the split that has just ended */
    float_pair values[TILE_DIM / 4][GROUPS * GROUP_THREADS]; /* D / 4 of them */
} hopper_waiting;

/* In shared memory: stages, each of keys and values, then this, of which the last part is as long as D says. */
typedef struct attend_memory {
    ring_gates ring;
    hopper_waiting waiting;
} attend_memory;

KERN_BOTH size_t attend_bytes(int d) {
    return KERN_TILE_ALIGN + (size_t)(STAGES * 2 * (d / KERN_TILE_WIDE) * TILE_BYTES) + sizeof(attend_memory) -
           (size_t)((TILE_DIM - d) / 4 * GROUPS * GROUP_THREADS) * sizeof(float_pair);
}

typedef struct attend_piece {
    int begin, rows; /* of the sequence */
    int head, at;    /* the first row */
    int blocks;      /* of keys that it sees; 0: there is no such piece */
} attend_piece;

/* Of a warp group of this block. */
KERN_DEVICE attend_piece piece_of(const attend_hopper_args *a, int which) {
    const hopper_item item = a->items[kern_block() / a->shape.kv_heads];
    const int group = a->shape.heads / a->shape.kv_heads, n = GROUPS * item.unit + which;
    attend_piece p;
    p.begin = item.begin;
    p.rows = item.rows;
    p.head = kern_block() % a->shape.kv_heads * group + n % group;
    p.at = n / group * ROWS;
    p.blocks = p.at < p.rows ? n / group + 1 : 0;
    return p;
}

/* ---- copying ---------------------------------------------------------------------------------------------------------------------- */

KERN_DEVICE uint16_t *stage_of(uint16_t *stages, int i, int d) { return stages + i % STAGES * 2 * (d / KERN_TILE_WIDE) * TILE; }

/* One thread. */
KERN_DEVICE void bring_keys(const attend_hopper_args *a, int blocks, uint16_t *stages, ring_gates *ring, int d) {
    const int begin = piece_of(a, 0).begin, key_column = (a->shape.heads + kern_block() % a->shape.kv_heads) * d;
    for (int j = 0; j < blocks; j++) {
        uint16_t *const stage = stage_of(stages, j, d);
        kern_gate *const full = &ring->full[j % STAGES];
        ring_wait_empty(ring, ring_at(j, STAGES));
        kern_gate_expect(full, 2 * (d / KERN_TILE_WIDE) * TILE_BYTES);
        copy_rows(stage, &a->map, begin + j * KEYS, key_column, full, d);
        copy_rows(stage + d / KERN_TILE_WIDE * TILE, &a->map, begin + j * KEYS, key_column + a->shape.kv_heads * d, full, d);
    }
}

/* ---- a warp group's work ---------------------------------------------------------------------------------------------------------- */

typedef struct attend_state {
    running r;                /* values and sums of the blocks before, tops with the block at work */
    float s[KEYS / 8][4];     /* its scores, then powers */
    uint32_t q[TILE_DIM / 16][4], p[KEYS / 16][4];
    int blocks, pos[2];
    uint16_t *stages;
    ring_gates *ring;
    hopper_waiting *waiting;
} attend_state;

/* What waits, to be added to values and sums under `top`, which is raised to that of both. */
KERN_DEVICE joint join_waiting(const attend_state *t, float *top, int half, int d) {
    const float_quad w = t->waiting->tops[kern_thread()];
    const joint j = join(half ? w.y : w.x, *top, log2_scale(d));
    *top = j.top;
    return j;
}
KERN_DEVICE float_pair joined_values(const attend_state *t, joint j, int n, int half) {
    const float_pair before = t->waiting->values[2 * n + half][kern_thread()];
    return (float_pair){joined(j, before.x, t->r.values[n][2 * half]), joined(j, before.y, t->r.values[n][2 * half + 1])};
}
KERN_DEVICE float joined_sum(const attend_state *t, joint j, int half) {
    const float_quad w = t->waiting->tops[kern_thread()];
    return joined(j, half ? w.w : w.z, t->r.sum[2 * half]);
}

/* The end of a split that has others after it: the first, or one that others came before. Leaves the registers as they are. */
KERN_DEVICE void put_aside(const attend_state *t, bool first, int d) {
    const float_pair ended = t->waiting->ended[kern_thread()];
    float top[2] = {ended.x, ended.y}, sum[2] = {t->r.sum[0], t->r.sum[2]};
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const joint j = first ? (joint){0, 0, 0} : join_waiting(t, &top[half], half, d);
        if (!first) sum[half] = joined_sum(t, j, half);
        KERN_UNROLL for (int n = 0; n < d / 8; n++)
            t->waiting->values[2 * n + half][kern_thread()] =
                first ? (float_pair){t->r.values[n][2 * half], t->r.values[n][2 * half + 1]} : joined_values(t, j, n, half);
    }
    t->waiting->tops[kern_thread()] = (float_quad){top[0], top[1], sum[0], sum[1]};
}

/* Powers that are beyond their row become 0. */
KERN_DEVICE void cut_powers(uint32_t p[KEYS / 16][4], int key0, const int pos[2]) {
    KERN_UNROLL for (int k = 0; k < KEYS / 16; k++)
        KERN_UNROLL for (int i = 0; i < 4; i++) {
            const int left = pos[i % 2] - (key0 + 16 * k + i / 2 * 8 + lane_column());
            if (left < 1) p[k][i] &= left < 0 ? 0 : 0xffff;
        }
}

/* Scores of block j to powers p, under tops that they may raise; what the values of the blocks before are to be multiplied by. */
KERN_DEVICE void take_powers(attend_state *t, uint32_t p[KEYS / 16][4], float shrink[2], int j, int d) {
    const float scale = log2_scale(d);
    const bool fresh = j % (SPLIT / KEYS) == 0, last = j + 1 == t->blocks;
    float top[2];
    if (fresh && j) t->waiting->ended[kern_thread()] = (float_pair){t->r.top[0], t->r.top[1]};
    if (last) beyond(t->s, KEYS / 8, j * KEYS, t->pos, -INFINITY);
    row_tops(top, t->s, KEYS / 8);
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        if (!fresh) top[half] = larger(top[half], t->r.top[half]);
        shrink[half] = fresh ? 0.0f : kern_exp2((t->r.top[half] - top[half]) * scale);
        t->r.top[half] = top[half];
    }
    KERN_UNROLL for (int k = 0; k < KEYS / 16; k++) {
        powers(t->s + 2 * k, 2, top, scale);
        a_of_c(p[k], t->s[2 * k], t->s[2 * k + 1]);
    }
    if (last) cut_powers(p, j * KEYS, t->pos);
}

KERN_DEVICE void copy_factor(uint32_t to[KEYS / 16][4], uint32_t from[KEYS / 16][4]) {
    KERN_UNROLL for (int k = 0; k < KEYS / 16; k++)
        KERN_UNROLL for (int i = 0; i < 4; i++) to[k][i] = from[k][i];
}

/* What block j begins with: what came before under its tops, or zeros, and what came before aside. */
KERN_DEVICE void shrink_values(attend_state *t, const float shrink[2], int j, int d) {
    if (j && j % (SPLIT / KEYS) == 0) put_aside(t, j == SPLIT / KEYS, d);
    KERN_UNROLL for (int n = 0; n < d / 8; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) t->r.values[n][i] *= shrink[i / 2];
    KERN_UNROLL for (int i = 0; i < 4; i++) t->r.sum[i] *= shrink[i / 2];
}

KERN_DEVICE uint16_t *values_of(attend_state *t, int j, int d) { return stage_of(t->stages, j, d) + d / KERN_TILE_WIDE * TILE; }

/* The products of a block's powers. */
KERN_DEVICE void begin_values(attend_state *t, int j, int d) {
    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
    begin_sum(t->r.values, t->p, values_of(t, j, d), d);
    KERN_UNROLL for (int k = 0; k < KEYS / 16; k++) kern_mma_bf16(t->r.sum, t->p[k], ones);
}

KERN_DEVICE void add_waiting(attend_state *t, int d) {
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const joint j = join_waiting(t, &t->r.top[half], half, d);
        KERN_UNROLL for (int n = 0; n < d / 8; n++) {
            const float_pair x = joined_values(t, j, n, half);
            t->r.values[n][2 * half] = x.x;
            t->r.values[n][2 * half + 1] = x.y;
        }
        t->r.sum[2 * half] = joined_sum(t, j, half);
    }
}

KERN_DEVICE void store_result(attend_state *t, const attend_hopper_args *a, const attend_piece *piece, int d) {
    uint16_t *const out = a->out; /* read once: see KERN_KERNEL_WITH_MAPS */
    float *const lse = a->lse;
    const int heads = a->shape.heads;
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        if (t->pos[half] >= piece->rows) continue;
        const size_t row = (size_t)(piece->begin + t->pos[half]) * heads + piece->head;
        const float whole = 1.0f / t->r.sum[2 * half];
        KERN_UNROLL for (int n = 0; n < d / 8; n++)
            store_pair(out, KERN_BF16, row * d + 8 * n + lane_column(), t->r.values[n][2 * half] * whole + 0.0f,
                       t->r.values[n][2 * half + 1] * whole + 0.0f);
        if (lse && lane_column() == 0) lse[row] = lse_of(t->r.top[half], t->r.sum[2 * half], d);
    }
}

KERN_DEVICE void load_queries(attend_state *t, const attend_hopper_args *a, const attend_piece *piece, int d) {
    const uint16_t *q[2];
    KERN_UNROLL for (int half = 0; half < 2; half++)
        q[half] = t->pos[half] >= piece->rows ? NULL
                                              : a->qkv + (size_t)(piece->begin + t->pos[half]) * kern_qkv_width(a->shape) + piece->head * d;
    load_rows(t->q, q, d);
    hold_factor(t->q, d / 16);
}

/* The piece is worked out again where it is wanted: registers are short in between. */
KERN_DEVICE void attend_blocks(const attend_hopper_args *a, int group, int blocks, bool turns, uint16_t *stages, attend_memory *memory,
                               int d) {
    attend_state t;
    float shrink[2];
    uint32_t next[KEYS / 16][4]; /* p of the block after */
    t.blocks = blocks;
    t.stages = stages;
    t.ring = &memory->ring;
    t.waiting = &memory->waiting;
    attend_piece piece = piece_of(a, group);
    KERN_UNROLL for (int half = 0; half < 2; half++) t.pos[half] = piece.at + first_row_of_warp() + lane_row() + 8 * half;
    load_queries(&t, a, &piece, d);
    clear_sum(t.r.values, d / 8);
    clear_sum(&t.r.sum, 1);
    ring_wait_full(t.ring, ring_at(0, STAGES));
    begin_scores(t.s, t.q, stages, d);
    kern_wgmma_wait(0);
    hold(t.s, KEYS / 8);
    take_powers(&t, t.p, shrink, 0, d);
    if (turns && blocks > 1 && group == 1) pass_turn(1, 1);
    for (int j = 0; j + 1 < blocks; j++) {
        ring_wait_full(t.ring, ring_at(j + 1, STAGES));
        if (turns) await_turn(group);
        begin_scores(t.s, t.q, stage_of(stages, j + 1, d), d);
        shrink_values(&t, shrink, j, d);
        begin_values(&t, j, d);
        if (turns) pass_turn(group, blocks - 2 - j);
        kern_wgmma_wait(1); /* the scores of j+1 */
        hold(t.s, KEYS / 8);
        take_powers(&t, next, shrink, j + 1, d);
        kern_wgmma_wait(0); /* the values of j */
        hold(t.r.values, d / 8);
        hold_factor(t.p, KEYS / 16);
        ring_leave(t.ring, j % STAGES);
        copy_factor(t.p, next);
    }
    const int last = blocks - 1;
    piece = piece_of(a, group);
    shrink_values(&t, shrink, last, d);
    if (piece.rows < blocks * KEYS) clear_rows(values_of(&t, last, d), group, piece.rows - last * KEYS, d);
    begin_values(&t, last, d);
    kern_wgmma_wait(0);
    hold(t.r.values, d / 8);
    hold_factor(t.p, KEYS / 16);
    ring_leave(t.ring, last % STAGES);
    if (blocks > SPLIT / KEYS) add_waiting(&t, d);
    store_result(&t, a, &piece, d);
}

KERN_DEVICE void attend_hopper(const attend_hopper_args *a, void *bytes, int d) {
    uint16_t *const stages = (uint16_t *)KERN_TILE_START(bytes);
    attend_memory *const memory = (attend_memory *)(stages + STAGES * 2 * (d / KERN_TILE_WIDE) * TILE);
    const int first = uniform(piece_of(a, 0).blocks), second = uniform(piece_of(a, 1).blocks), blocks = first > second ? first : second;
    ring_open(&memory->ring, STAGES, 1, READERS);
    kern_barrier();
    const int group = group_of_thread();
    if (group == GROUPS) {
        kern_registers_less(24);
        if (kern_thread() == GROUPS * GROUP_THREADS) bring_keys(a, blocks, stages, &memory->ring, d);
    } else {
        const int mine = group ? second : first;
        kern_registers_more(240);
        if (mine) attend_blocks(a, group, mine, first == second, stages, memory, d);
        for (int j = mine; j < blocks; j++) { /* what only the other one sees */
            ring_wait_full(&memory->ring, ring_at(j, STAGES));
            ring_leave(&memory->ring, j % STAGES);
        }
    }
}

KERN_KERNEL_WITH_MAPS(attend_hopper_64, BLOCK_THREADS, 1) {
    KERN_SHARED_BYTES(char, memory);
    kern_wait_for_previous();
    attend_hopper(&a, memory, 64);
}
KERN_KERNEL_WITH_MAPS(attend_hopper_128, BLOCK_THREADS, 1) {
    KERN_SHARED_BYTES(char, memory);
    kern_wait_for_previous();
    attend_hopper(&a, memory, 128);
}

/* ---- queueing --------------------------------------------------------------------------------------------------------------------- */

static void run_items(kern_ctx *ctx, const void *with, const hopper_item *items, int n) {
    attend_hopper_args args = *(const attend_hopper_args *)with;
    args.items = items;
    if (args.shape.head_dim == 64)
        KERN_LAUNCH_SHARED(ctx, attend_hopper_64, n * args.shape.kv_heads, BLOCK_THREADS, attend_bytes(64), args);
    else
        KERN_LAUNCH_SHARED(ctx, attend_hopper_128, n * args.shape.kv_heads, BLOCK_THREADS, attend_bytes(128), args);
}

bool kern_cuda_attention_hopper(kern_ctx *ctx, uint16_t *out, float *lse, const uint16_t *qkv, const int32_t *seq_begin, int seqs,
                                kern_attn_shape shape) {
    attend_hopper_args args;
    const int m = seq_begin[seqs], width = kern_qkv_width(shape);
    if (!ctx->hopper || (uintptr_t)qkv % 16) return false;
    if (!m) return true;
    memset(&args, 0, sizeof args);
    kern_card_map(ctx->card, &args.map, qkv, m, width, (size_t)width, ROWS);
    args.out = out;
    args.lse = lse;
    args.qkv = qkv;
    args.shape = shape;
    run_in_order(ctx, run_items, &args, seq_begin, seqs, shape.heads / shape.kv_heads);
    return true;
}
