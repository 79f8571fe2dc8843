/* Causal attention, forward, on Hopper's tensor cores (after FlashAttention-3, Shah et al. 2024), of packed sequences and of chunks of
 * prefill: the bits of attention_tiles.cu, and its wide tiles.
 *
 * A piece is half a tile, 64 rows and heads of a kv head, so that the two of a block of threads see mostly the same keys. Queries are in
 * registers, read once from where they are. For block j of 64 keys a warp group
 *
 *   begins the scores of block j+1        tensor cores: these, and still the values of block j-1,
 *   works on the scores of block j        while the others raise tops and take powers
 *   waits for the values of j-1, scales them, begins those of j, waits for the scores of j+1
 *
 * and at a boundary of splits, in the place of scaling, joins what it has with what came before, which waits in shared memory. Sums of
 * p are kern_mma_bf16 with ones, beside all that. Only the last blocks, often one, have keys beyond some row. What comes with the last one
 * and is beyond the tile is masked among the keys, and made zeros among the values, since 0 times a value that is no number would show.
 *
 * Keys and values come in boxes: from the rows of qkv 64 at a time, from the cache as many as lie side by side in every page, up to 64. A
 * layer of the cache is a matrix of D columns for that, its rows in the order of kv.h.
 *
 * A block of threads has one packed tile, or those of a group of paged rows, which its first warp finds as attend_wide does and leaves in
 * shared memory. It goes through all splits of their keys, as long as that makes blocks enough for the card; else each split has its own,
 * and the last of them to end merges.
 *
 * Operations, of a block of 64 keys and a warp group, D = 128: 512 cycles of tensor cores (2 x 64 x 64 x 128 multiply-adds, 2048 a cycle), and
 * about 15 instructions a score, 480 cycles of the warp schedulers: both are nearly busy when two warp groups take turns. Shared memory:
 * 64 bytes a cycle of 128. Bytes: keys and values once for 128 rows, 4 D a key, from the card's cache; a split that has its own block of
 * threads, 8 D a row and head besides. */
#include "kernels/cuda/attention_forward.h"
#include "kernels/cuda/attention_hopper.h"

enum {
    STAGES = 4,
    MOST_TILES = WIDE_ROWS / (NARROW_ROWS + 1) + 2, /* of a block of threads, two of them pieces */
    ENOUGH = 2                                  /* blocks of threads a processor */
};

typedef struct attend_hopper_args {
    kern_map map;               /* packed: of qkv; paged: of the layer of the cache */
    int box_rows;
    int value_rows, value_cols; /* from a key to its value in the map's matrix */
    const hopper_item *items;   /* packed: a block of threads an item and kv head; paged: NULL */
    attend_tiles_args with;     /* what the kernels for Ampere are given */
} attend_hopper_args;
typedef attend_hopper_args attend_hopper_64_args, attend_hopper_128_args;

/* What waits for the end of another split: of each thread, so that neighbours are side by side. */
typedef struct hopper_waiting {
    float_quad tops[GROUPS * GROUP_THREADS];                 /* tops, then sums, of rows g, g+8 */
    float_pair ended[GROUPS * GROUP_THREADS];                /* the tops of the split that has just ended */
    float_pair values[TILE_DIM / 4][GROUPS * GROUP_THREADS]; /* D / 4 of them */
} hopper_waiting;

/* A tile of the block of threads. */
typedef struct hopper_tile {
    attend_item item;
    int splits;                        /* as in attend_task */
    int round;                         /* of the ring, that its blocks of keys begin with */
    int blocks[GROUPS], whole[GROUPS]; /* of keys: that a piece sees, and that all of its rows see all of; no blocks: nothing to do */
} hopper_tile;

/* In shared memory: stages, each of keys and values, then this, of which the last part is as long as D says. */
typedef struct attend_memory {
    ring_gates ring;
    hopper_tile tiles[MOST_TILES];
    int n_tiles;
    int last; /* the block is the tile's last to end */
    hopper_waiting waiting;
} attend_memory;

KERN_BOTH size_t attend_bytes(int d) {
    return KERN_TILE_ALIGN + (size_t)(STAGES * 2 * (d / KERN_TILE_WIDE) * TILE_BYTES) + sizeof(attend_memory) -
           (size_t)((TILE_DIM - d) / 4 * GROUPS * GROUP_THREADS) * sizeof(float_pair);
}

/* ---- tiles ------------------------------------------------------------------------------------------------------------------------ */

KERN_DEVICE bool next_tile(attend_task *t, const hopper_item *items) {
    if (!items) return next_paged(t);
    const assignment n = assigned(t->a);
    const hopper_item packed = items[n.unit];
    const int group = t->a->shape.heads / t->a->shape.kv_heads, first = packed.unit * WIDE_ROWS, left = packed.rows * group - first;
    if (t->item.count > 0) return false;
    t->kv_head = n.kv_head;
    t->splits = 1;
    t->item.row = t->item.source = packed.begin;
    t->item.first = first;
    t->item.count = left < WIDE_ROWS ? left : WIDE_ROWS;
    t->item.begin = 0;
    t->item.end = (first + t->item.count - 1) / group + 1;
    return true;
}

/* Of the ring: a tile begins with stage 0, and those after its last block of keys pass empty. */
KERN_DEVICE int rounds_of(const attend_item *item) { return (item->end - item->begin + STAGES * KEYS - 1) / (STAGES * KEYS); }

/* By a warp. */
KERN_DEVICE void measure_piece(hopper_tile *tile, const attend_task *t, int which) {
    float low = -(float)t->item.end, high = -1; /* low: less than nothing */
    for (int i = kern_thread() % 32; i < ROWS; i += 32) {
        const float pos = (float)place_of(t, which * ROWS + i).pos;
        high = larger(pos, high);
        if (pos >= 0) low = larger(-pos, low);
    }
    low = -kern_max32(low);
    high = kern_max32(high);
    const int whole = (int)low + 1 - t->item.begin, end = (int)high + 1 < t->item.end ? (int)high + 1 : t->item.end;
    tile->whole[which] = whole > 0 ? whole / KEYS : 0;
    tile->blocks[which] = end > t->item.begin ? (end - t->item.begin + KEYS - 1) / KEYS : 0;
}

KERN_DEVICE void find_tiles(const attend_hopper_args *a, attend_memory *memory) {
    attend_task t;
    int n = 0, round = 0;
    t.a = &a->with;
    t.item.count = 0;
    while (next_tile(&t, a->items)) {
        hopper_tile tile;
        tile.item = t.item;
        tile.splits = t.splits;
        tile.round = round;
        for (int which = 0; which < GROUPS; which++) measure_piece(&tile, &t, which);
        if (kern_thread() == 0) memory->tiles[n] = tile;
        round += rounds_of(&t.item);
        n++;
    }
    if (kern_thread() == 0) memory->n_tiles = n;
}

KERN_DEVICE attend_task task_of(const attend_hopper_args *a, const hopper_tile *tile) {
    attend_task t;
    t.a = &a->with;
    t.item = tile->item;
    t.splits = tile->splits;
    t.kv_head = assigned(t.a).kv_head;
    return t;
}

/* ---- copying ---------------------------------------------------------------------------------------------------------------------- */

KERN_DEVICE uint16_t *stage_of(uint16_t *stages, int j, int d) { return stages + j % STAGES * 2 * (d / KERN_TILE_WIDE) * TILE; }
KERN_DEVICE ring_place place_in_ring(int round, int j) {
    ring_place at = ring_at(j, STAGES);
    at.round += round;
    return at;
}

/* The row of the map's matrix that has a key. */
KERN_DEVICE int row_of_key(const attend_hopper_args *a, const attend_task *t, int key) {
    if (a->items) return t->item.source + key;
    const int size = a->with.kv.page_size, page = a->with.page_table[(size_t)t->item.source * a->with.max_pages + key / size];
    return (page * a->with.kv.kv_heads + t->kv_head) * 2 * size + key % size;
}

/* A warp: the blocks of keys of a tile, each lane a box of keys and that of their values. Boxes that begin after the last key are left
 * out. */
KERN_DEVICE void bring_keys(const attend_hopper_args *a, const hopper_tile *tile, uint16_t *stages, ring_gates *ring, int d) {
    const attend_task t = task_of(a, tile);
    const int lane = kern_thread() % 32, column = a->items ? (a->with.shape.heads + t.kv_head) * d : 0, steps = rounds_of(&t.item) * STAGES;
    for (int j = 0; j < steps; j++) {
        const int key0 = t.item.begin + j * KEYS, left = t.item.end - key0 < KEYS ? t.item.end - key0 : KEYS;
        const int boxes = left > 0 ? (left + a->box_rows - 1) / a->box_rows : 0;
        const int row = lane < boxes ? row_of_key(a, &t, key0 + lane * a->box_rows) : 0;
        uint16_t *const to = stage_of(stages, j, d) + lane * a->box_rows * KERN_TILE_WIDE;
        kern_gate *const full = &ring->full[j % STAGES];
        ring_wait_empty(ring, place_in_ring(tile->round, j));
        if (lane == 0) kern_gate_expect(full, boxes * a->box_rows * 2 * d * 2);
        kern_warp_barrier();
        if (lane >= boxes) continue;
        for (int c = 0; c < d / KERN_TILE_WIDE; c++) {
            const int col = column + c * KERN_TILE_WIDE;
            kern_copy_box(to + c * TILE, &a->map, row, col, full);
            kern_copy_box(to + (d / KERN_TILE_WIDE + c) * TILE, &a->map, row + a->value_rows, col + a->value_cols, full);
        }
    }
}

/* ---- a warp group's work ---------------------------------------------------------------------------------------------------------- */

typedef struct attend_state {
    running r;                /* values and sums of the blocks before, tops with the block at work */
    float s[KEYS / 8][4];     /* its scores, then powers */
    uint32_t q[TILE_DIM / 16][4], p[KEYS / 16][4];
    int round, whole;         /* of the tile; of the piece */
    int pos[2];               /* of rows g, g+8, from the tile's first key on */
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
    const bool fresh = j % (SPLIT / KEYS) == 0, cut = j >= t->whole;
    float top[2];
    if (fresh && j) t->waiting->ended[kern_thread()] = (float_pair){t->r.top[0], t->r.top[1]};
    if (cut) beyond(t->s, KEYS / 8, j * KEYS, t->pos, -INFINITY);
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
    if (cut) cut_powers(p, j * KEYS, t->pos);
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

/* The products of a block's powers; and, when they have ended, the powers' sum. */
KERN_DEVICE void begin_values(attend_state *t, int j, int d) { begin_sum(t->r.values, t->p, values_of(t, j, d), d); }
KERN_DEVICE void end_values(attend_state *t, int j, int d) {
    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
    kern_wgmma_wait(0);
    hold(t->r.values, d / 8);
    hold_factor(t->p, KEYS / 16);
    ring_leave(t->ring, j % STAGES);
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

/* The piece's rows, of which the first is `row0` of the tile's. */
KERN_DEVICE void load_queries(attend_state *t, const attend_task *task, int row0, int d) {
    const uint16_t *q[2];
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const place p = place_of(task, row0 + lane_row() + 8 * half);
        t->pos[half] = p.pos - task->item.begin;
        q[half] = p.pos < 0 ? NULL : (const uint16_t *)task->a->qkv + (size_t)p.row * kern_qkv_width(task->a->shape) + p.head * d;
    }
    load_rows(t->q, q, d);
    hold_factor(t->q, d / 16);
}

/* The tile is read again where it is wanted: registers are short in between. */
KERN_DEVICE void attend_blocks(const attend_hopper_args *a, const hopper_tile *tile, int group, int blocks, int turns, uint16_t *stages,
                               attend_memory *memory, int d) {
    attend_state t;
    float shrink[2];
    uint32_t next[KEYS / 16][4]; /* p of the block after */
    attend_task task = task_of(a, tile);
    t.round = tile->round;
    t.whole = tile->whole[group];
    t.stages = stages;
    t.ring = &memory->ring;
    t.waiting = &memory->waiting;
    load_queries(&t, &task, group * ROWS + first_row_of_warp(), d);
    clear_sum(t.r.values, d / 8);
    clear_sum(&t.r.sum, 1);
    ring_wait_full(t.ring, place_in_ring(t.round, 0));
    begin_scores(t.s, t.q, stages, d);
    kern_wgmma_wait(0);
    hold(t.s, KEYS / 8);
    take_powers(&t, t.p, shrink, 0, d);
    if (turns > 0 && group == 1) pass_turn(1, 1);
    for (int j = 0; j + 1 < blocks; j++) {
        ring_wait_full(t.ring, place_in_ring(t.round, j + 1));
        if (j < turns) await_turn(group);
        begin_scores(t.s, t.q, stage_of(stages, j + 1, d), d);
        shrink_values(&t, shrink, j, d);
        begin_values(&t, j, d);
        if (j < turns) pass_turn(group, turns - 1 - j);
        kern_wgmma_wait(1); /* the scores of j+1 */
        hold(t.s, KEYS / 8);
        take_powers(&t, next, shrink, j + 1, d);
        end_values(&t, j, d);
        copy_factor(t.p, next);
    }
    const int last = blocks - 1;
    task = task_of(a, tile);
    const int left = task.item.end - task.item.begin - last * KEYS;
    shrink_values(&t, shrink, last, d);
    if (left < KEYS) clear_rows(values_of(&t, last, d), group, left, d);
    begin_values(&t, last, d);
    end_values(&t, last, d);
    if (blocks > SPLIT / KEYS) add_waiting(&t, d);
    const share own = share_of(group * ROWS + first_row_of_warp(), 0, d / 8);
    place at[2];
    places_of(at, &task, own);
    store_result(&t.r, &task, own, at, d);
}

/* Both warp groups have stored what a split of the tile gives; they merge if all other splits have ended. */
KERN_DEVICE void merge_if_last(const attend_hopper_args *a, const hopper_tile *tile, attend_memory *memory, int d) {
    if (uniform(tile->splits) == 1) return;
    const attend_task t = task_of(a, tile);
    kern_barrier_some(MERGE, GROUPS * GROUP_THREADS);
    if (kern_thread() == 0) memory->last = all_ended(&t, 1);
    kern_barrier_some(MERGE, GROUPS * GROUP_THREADS);
    if (uniform(memory->last)) merge_tile(&t, GROUPS * GROUP_THREADS, d);
}

/* A warp group's piece of a tile. */
KERN_DEVICE void attend_piece(const attend_hopper_args *a, const hopper_tile *tile, int group, uint16_t *stages, attend_memory *memory,
                              int d) {
    const int mine = uniform(tile->blocks[group]), other = uniform(tile->blocks[1 - group]);
    if (mine) attend_blocks(a, tile, group, mine, turns_of(mine, other), stages, memory, d);
    for (int j = mine; j < rounds_of(&tile->item) * STAGES; j++) { /* what only the other one sees, or nobody */
        ring_wait_full(&memory->ring, place_in_ring(tile->round, j));
        ring_leave(&memory->ring, j % STAGES);
    }
    merge_if_last(a, tile, memory, d);
}

KERN_DEVICE void attend_hopper(const attend_hopper_args *a, void *bytes, int d) {
    uint16_t *const stages = (uint16_t *)KERN_TILE_START(bytes);
    attend_memory *const memory = (attend_memory *)(stages + STAGES * 2 * (d / KERN_TILE_WIDE) * TILE);
    if (kern_thread() < 32) find_tiles(a, memory);
    ring_open(&memory->ring, STAGES, 1, READERS);
    kern_barrier();
    const int group = group_of_thread(), n = uniform(memory->n_tiles);
    if (group == GROUPS) {
        kern_registers_less(24);
        if (kern_thread() / 32 == GROUPS * GROUP_THREADS / 32)
            for (int i = 0; i < n; i++) bring_keys(a, &memory->tiles[i], stages, &memory->ring, d);
    } else {
        kern_registers_more(240);
        for (int i = 0; i < n; i++) attend_piece(a, &memory->tiles[i], group, stages, memory, d);
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

static void queue_hopper(kern_ctx *ctx, const attend_hopper_args *args, int units) {
    const int blocks = units * args->with.kv_heads;
    if (args->with.shape.head_dim == 64)
        KERN_LAUNCH_SHARED(ctx, attend_hopper_64, blocks, BLOCK_THREADS, attend_bytes(64), *args);
    else
        KERN_LAUNCH_SHARED(ctx, attend_hopper_128, blocks, BLOCK_THREADS, attend_bytes(128), *args);
}

static void run_items(kern_ctx *ctx, const void *with, const hopper_item *items, int n) {
    attend_hopper_args args = *(const attend_hopper_args *)with;
    args.items = items;
    queue_hopper(ctx, &args, n);
}

static bool begin_args(attend_hopper_args *args, const kern_ctx *ctx, const attend_tiles_args *with, const void *matrix) {
    if (!ctx->hopper || with->dtype != KERN_BF16 || (uintptr_t)matrix % 16) return false;
    memset(args, 0, sizeof *args);
    args->with = *with;
    return true;
}

bool kern_cuda_attention_hopper(kern_ctx *ctx, const attend_tiles_args *with, const int32_t *seq_begin, int seqs) {
    attend_hopper_args args;
    const int width = kern_qkv_width(with->shape);
    if (!begin_args(&args, ctx, with, with->qkv)) return false;
    if (!with->m) return true;
    kern_card_map(ctx->card, &args.map, (const uint16_t *)with->qkv, with->m, width, (size_t)width, ROWS);
    args.box_rows = ROWS;
    args.value_cols = with->shape.kv_heads * with->shape.head_dim;
    run_in_order(ctx, run_items, &args, seq_begin, seqs, with->shape.heads / with->shape.kv_heads, 1);
    return true;
}

bool kern_cuda_attention_paged_hopper(kern_ctx *ctx, const attend_tiles_args *with, int units) {
    attend_hopper_args args;
    const int d = with->shape.head_dim, page = with->kv.page_size, side = page & -page; /* the largest power of two in a page's rows */
    if (!begin_args(&args, ctx, with, with->keys)) return false;
    args.box_rows = side < KEYS ? side : KEYS;
    args.value_rows = page;
    kern_card_map(ctx->card, &args.map, with->keys, with->kv.pages * with->kv.kv_heads * 2 * page, d, (size_t)d, args.box_rows);
    if (units * with->kv_heads >= ENOUGH * kern_card_processors(ctx->card)) args.with.splits = 1;
    queue_hopper(ctx, &args, units * args.with.splits);
    return true;
}
