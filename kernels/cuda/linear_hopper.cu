/* Matrix products with bfloat16 factors on Hopper's cards: wgmma, fed by the copy engine (hopper.h), in the order of linear.h and so with
 * its bits.
 *
 * tiles   many rows: the forward product and both gradients. A block is 128 x cols elements of C (cols: 256 or 128), two warp groups of
 *         64 x cols each, their sums in registers for the whole depth. A third warp group has one thread that does nothing but start
 *         copies, as far ahead as there are stages; a stage is STEP of depth of A and B. Blocks stay: each takes every n-th
 *         tile, and the copies for the next tile begin while this one is stored. Tiles go down GROUP before the next columns, so that those
 *         at work together share their factors in the cache
 * few     up to 256 rows, as in decoding: C transposed, so that 64 lines of weights are the 64 rows of wgmma, and rows of x its 8 to 256
 *         columns. Weights stream through the card once; copies run ahead by up to 200 KiB a processor, also into the next tile
 *
 * Operations: 2 rows cols depth. Bytes from the second-level cache: tiles: A cols/256 times, B rows/128 times, 2 bytes each; few: weights
 * once, x once a tile of 64 lines; C once, and once more where it is added to.
 *
 * Tried, on an H100, where cuBLAS has 793, 777 and 727 TFLOP/s for 8192 x 8192 x 8192, 8192 x 19456 x 2560 and 8192 x 2560 x 9728: tiles of
 * 128 x 256 have 766, 707 and 776. The older kernels for mma.sync (linear_tiles.cu) have 208. */
#include "kernels/cuda/hopper.h"
#include "kernels/cuda/linear.h"

enum {
    GROUP_THREADS = 128,
    CONSUMERS = 2, /* warp groups that multiply, of a tile */
    TILES_THREADS = (CONSUMERS + 1) * GROUP_THREADS,
    GROUP_ROWS = 64,
    ROWS = CONSUMERS * GROUP_ROWS,
    WIDE = 256,
    NARROW = 128,
    GROUP = 8,
    STAGES_WIDE = 4,
    STAGES_NARROW = 6,
    MOST_STAGES = 24,
    PRODUCER_REGISTERS = 40,
    CONSUMER_REGISTERS = 232
};

/* Gates of a ring of stages: `full` when what was copied is there, `empty` when it was read. */
typedef struct ring_gates {
    kern_gate full[MOST_STAGES], empty[MOST_STAGES];
} ring_gates;

/* How far a thread has come in the ring. */
typedef struct ring_place {
    int stage, round;
} ring_place;

KERN_DEVICE void ring_next(ring_place *at, const int stages) {
    if (++at->stage < stages) return;
    at->stage = 0;
    at->round++;
}

KERN_DEVICE void ring_open(ring_gates *gates, const int stages, int readers) {
    if (kern_thread() == 0) {
        for (int i = 0; i < stages; i++) {
            kern_gate_open(&gates->full[i], 1);
            kern_gate_open(&gates->empty[i], readers);
        }
        kern_gate_opened();
    }
    kern_barrier();
}

/* The producer may write the stage; a reader's warp is done with it. */
KERN_DEVICE void ring_wait_empty(ring_gates *gates, ring_place at) {
    if (at.round > 0) kern_gate_wait(&gates->empty[at.stage], (at.round - 1) & 1);
}
KERN_DEVICE void ring_wait_full(ring_gates *gates, ring_place at) { kern_gate_wait(&gates->full[at.stage], at.round & 1); }
KERN_DEVICE void ring_done(ring_gates *gates, int stage) {
    kern_warp_barrier();
    if (kern_thread() % 32 == 0) kern_gate_arrive(&gates->empty[stage]);
}

/* ---- tiles ------------------------------------------------------------------------------------------------------------------------- */

typedef struct hopper_product {
    kern_map a, b;
    tensor_product p;
    bool pairs; /* elements 2i and 2i + 1 of C are in one row and can be loaded and stored together */
} hopper_product;

typedef struct tile_place {
    int row, col;
} tile_place;

/* Tiles in groups of GROUP down, each group all the way across; the last group may be lower. */
KERN_DEVICE tile_place place_of_tile(const tensor_product *p, const int cols, int tile) {
    const int down = (p->a.lines + ROWS - 1) / ROWS, across = (p->b.lines + cols - 1) / cols;
    const int group = tile / (GROUP * across), in_group = tile % (GROUP * across);
    const int height = down - group * GROUP < GROUP ? down - group * GROUP : GROUP;
    const tile_place at = {(group * GROUP + in_group % height) * ROWS, in_group / height * cols};
    return at;
}

/* A stage holds `lines` lines of a factor and STEP of its depth: one box, or a tile for every 64 lines. */
KERN_DEVICE void copy_factor(uint16_t *to, const kern_map *map, const bool along, const int lines, int line, int d, kern_gate *gate) {
    if (along) {
        kern_copy_box(to, map, line, d, gate);
        return;
    }
    KERN_UNROLL
    for (int i = 0; i < lines; i += KERN_TILE_WIDE) kern_copy_box(to + i * STEP, map, d, line + i, gate);
}

KERN_DEVICE kern_wgmma_factor factor_at(const uint16_t *stage, const bool along, int line, int d) {
    return along ? kern_wgmma_along(stage + line * STEP + d) : kern_wgmma_across(stage + line * STEP + d * KERN_TILE_WIDE, STEP * 128);
}

/* A warp group's rows of a stage by its columns, 16 of depth from d on. */
KERN_DEVICE void multiply_stage(float c[][4], const uint16_t *stage, const bool a_along, const bool b_along, const int cols, int group, int d) {
    const kern_wgmma_factor a = factor_at(stage, a_along, group * GROUP_ROWS, d), b = factor_at(stage + ROWS * STEP, b_along, 0, d);
    if (cols == WIDE)
        kern_wgmma_256(c, a, !a_along, b, !b_along);
    else
        kern_wgmma_128(c, a, !a_along, b, !b_along);
}

/* All tiles of the block, by one thread. */
KERN_DEVICE void produce_tiles(uint16_t *memory, ring_gates *gates, const hopper_product *h, const bool a_along, const bool b_along,
                               const int cols, const int stages, int tiles) {
    const int steps = (h->p.depth + STEP - 1) / STEP, size = (ROWS + cols) * STEP;
    ring_place at = {0, 0};
    for (int tile = kern_block(); tile < tiles; tile += kern_blocks()) {
        const tile_place place = place_of_tile(&h->p, cols, tile);
        for (int s = 0; s < steps; s++, ring_next(&at, stages)) {
            uint16_t *stage = memory + at.stage * size;
            kern_gate *full = &gates->full[at.stage];
            ring_wait_empty(gates, at);
            kern_gate_expect(full, size * (int)sizeof *stage);
            copy_factor(stage, &h->a, a_along, ROWS, place.row, s * STEP, full);
            copy_factor(stage + ROWS * STEP, &h->b, b_along, cols, place.col, s * STEP, full);
        }
    }
}

/* c[j][0..1] are row `row`, columns col + 8 j (even) and the next; c[j][2..3] of row + 8. */
KERN_DEVICE void begin_from_c(float c[][4], const hopper_product *h, int fragments, int row, int col) {
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++) {
            const int at_row = row + e / 2 * 8, at_col = col + 8 * j + e % 2;
            const bool inside = at_row < h->p.a.lines && at_col < h->p.b.lines;
            c[j][e] = inside ? ((const float *)h->p.to.c)[(size_t)at_row * (size_t)h->p.b.lines + (size_t)at_col] : 0.0f;
        }
}

KERN_DEVICE void begin_from_zero(float c[][4], int fragments) {
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++) c[j][e] = 0;
}

/* Two elements of a row, whose chains have ended. */
KERN_DEVICE void store_two(const hopper_product *h, int row, int col, float_pair chain) {
    const product_out *to = &h->p.to;
    const size_t i = (size_t)row * (size_t)h->p.b.lines + (size_t)col;
    if (!h->pairs) {
        store_element(to, i, chain.x, col);
        if (col + 1 < h->p.b.lines) store_element(to, i + 1, chain.y, col + 1);
        return;
    }
    if (to->bias) {
        chain.x += kern_element(to->bias, to->bias_dtype, (size_t)col);
        chain.y += kern_element(to->bias, to->bias_dtype, (size_t)col + 1);
    }
    if (to->dtype == KERN_BF16) {
        *(uint32_t *)((uint16_t *)to->c + i) = kern_bf16_pair(chain.x, chain.y);
        return;
    }
    float_pair *const at = (float_pair *)((float *)to->c + i);
    if (to->start == ADDED) {
        const float_pair old = *at;
        chain.x = old.x + chain.x;
        chain.y = old.y + chain.y;
    }
    *at = chain;
}

KERN_DEVICE void store_sums(const hopper_product *h, float c[][4], int fragments, int row, int col) {
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int half = 0; half < 2; half++) {
            const int at_row = row + 8 * half, at_col = col + 8 * j;
            const float_pair pair = {c[j][2 * half], c[j][2 * half + 1]};
            if (at_row < h->p.a.lines && at_col < h->p.b.lines) store_two(h, at_row, at_col, pair);
        }
}

KERN_DEVICE void multiply_tiles(const uint16_t *memory, ring_gates *gates, const hopper_product *h, const bool a_along, const bool b_along,
                                const int cols, const int stages, int tiles) {
    const tensor_product *p = &h->p;
    const int size = (ROWS + cols) * STEP, group = kern_thread() / GROUP_THREADS;
    const int lane = kern_thread() % 32, warp = kern_thread() / 32 % 4;
    float c[WIDE / 8][4];
    ring_place at = {0, 0};
    for (int tile = kern_block(); tile < tiles; tile += kern_blocks()) {
        const tile_place place = place_of_tile(p, cols, tile);
        const int row = place.row + group * GROUP_ROWS + warp * 16 + lane / 4, col = place.col + lane % 4 * 2;
        int before = -1;
        if (a_along)
            begin_from_zero(c, cols / 8);
        else
            begin_from_c(c, h, cols / 8, row, col);
        for (int s = 0; s < p->depth / STEP; s++, ring_next(&at, stages)) {
            ring_wait_full(gates, at);
            kern_wgmma_fence();
            KERN_UNROLL
            for (int d = 0; d < STEP; d += MMA_DEPTH) multiply_stage(c, memory + at.stage * size, a_along, b_along, cols, group, d);
            kern_wgmma_commit();
            kern_wgmma_wait(1);
            if (before >= 0) ring_done(gates, before);
            before = at.stage;
        }
        kern_wgmma_wait(0);
        if (before >= 0) ring_done(gates, before);
        if (p->depth % STEP) { /* zeros beyond the depth are not multiplied */
            ring_wait_full(gates, at);
            for (int d = 0; d < p->depth % STEP; d += MMA_DEPTH) {
                kern_wgmma_fence();
                multiply_stage(c, memory + at.stage * size, a_along, b_along, cols, group, d);
                kern_wgmma_commit();
                kern_wgmma_wait(0);
            }
            ring_done(gates, at.stage);
            ring_next(&at, stages);
        }
        store_sums(h, c, cols / 8, row, col);
    }
}

KERN_DEVICE void tiles_of_product(char *memory, const hopper_product *h, const bool a_along, const bool b_along, const int cols, const int stages) {
    uint16_t *ring = (uint16_t *)KERN_TILE_START(memory);
    ring_gates *gates = (ring_gates *)(ring + stages * (ROWS + cols) * STEP);
    const int tiles = (h->p.a.lines + ROWS - 1) / ROWS * ((h->p.b.lines + cols - 1) / cols);
    ring_open(gates, stages, CONSUMERS * GROUP_THREADS / 32);
    if (kern_thread() >= CONSUMERS * GROUP_THREADS) {
        kern_registers_less(PRODUCER_REGISTERS);
        if (kern_thread() == CONSUMERS * GROUP_THREADS) produce_tiles(ring, gates, h, a_along, b_along, cols, stages, tiles);
    } else {
        kern_registers_more(CONSUMER_REGISTERS);
        multiply_tiles(ring, gates, h, a_along, b_along, cols, stages, tiles);
    }
}

#define HOPPER_TILES(name, a_along, b_along, cols, stages)              \
    typedef hopper_product name##_args;                                 \
    KERN_KERNEL_FOR(name, TILES_THREADS, 1) {                            \
        KERN_SHARED_BYTES(char, memory);                                \
        tiles_of_product(memory, &a, a_along, b_along, cols, stages);   \
    }
HOPPER_TILES(hopper_forward_wide, true, true, WIDE, STAGES_WIDE)
HOPPER_TILES(hopper_forward_narrow, true, true, NARROW, STAGES_NARROW)
HOPPER_TILES(hopper_grad_input_wide, true, false, WIDE, STAGES_WIDE)
HOPPER_TILES(hopper_grad_input_narrow, true, false, NARROW, STAGES_NARROW)
HOPPER_TILES(hopper_grad_weight_wide, false, false, WIDE, STAGES_WIDE)
HOPPER_TILES(hopper_grad_weight_narrow, false, false, NARROW, STAGES_NARROW)

/* ---- few rows ----------------------------------------------------------------------------------------------------------------------- */

enum {
    LINES = 64,                          /* of weights, of a tile */
    FEW_THREADS = 2 * GROUP_THREADS,
    DEEP = 2 * STEP,                     /* of depth, of a stage: two tiles of each factor */
    FEW_BYTES = 200 << 10                /* of stages */
};

/* 16 of depth from d on of a stage. */
KERN_DEVICE void multiply_few_stage(float c[][4], const uint16_t *stage, const int rows, int d) {
    const kern_wgmma_factor w = kern_wgmma_along(stage + d / STEP * LINES * STEP + d % STEP);
    const kern_wgmma_factor x = kern_wgmma_along(stage + LINES * DEEP + d / STEP * rows * STEP + d % STEP);
    if (rows == 8) kern_wgmma_8(c, w, false, x, false);
    if (rows == 16) kern_wgmma_16(c, w, false, x, false);
    if (rows == 32) kern_wgmma_32(c, w, false, x, false);
    if (rows == 64) kern_wgmma_64(c, w, false, x, false);
    if (rows == 128) kern_wgmma_128(c, w, false, x, false);
    if (rows == 256) kern_wgmma_256(c, w, false, x, false);
}

KERN_BOTH int few_stage(int rows) { return (LINES + rows) * DEEP; }
KERN_BOTH int few_stages(int rows) {
    const int stages = FEW_BYTES / (few_stage(rows) * (int)sizeof(uint16_t));
    return stages < MOST_STAGES ? stages : MOST_STAGES;
}

KERN_DEVICE void produce_few(uint16_t *memory, ring_gates *gates, const hopper_product *h, const int rows, int tiles) {
    const int steps = (h->p.depth + DEEP - 1) / DEEP, down = (h->p.a.lines + rows - 1) / rows;
    ring_place at = {0, 0};
    for (int tile = kern_block(); tile < tiles; tile += kern_blocks())
        for (int s = 0; s < steps; s++, ring_next(&at, few_stages(rows))) {
            uint16_t *stage = memory + at.stage * few_stage(rows);
            kern_gate *full = &gates->full[at.stage];
            ring_wait_empty(gates, at);
            kern_gate_expect(full, few_stage(rows) * (int)sizeof *stage);
            KERN_UNROLL
            for (int i = 0; i < DEEP / STEP; i++) {
                kern_copy_box(stage + i * LINES * STEP, &h->b, tile / down * LINES, s * DEEP + i * STEP, full);
                kern_copy_box(stage + (DEEP / STEP * LINES + i * rows) * STEP, &h->a, tile % down * rows, s * DEEP + i * STEP, full);
            }
        }
}

/* c is transposed: c[j][e] is line g (e/2: + 8), row 8 j + 2 t + e % 2. */
KERN_DEVICE void store_few(const tensor_product *p, float c[][4], const int rows, int row0, int line0) {
    const int lane = kern_thread() % 32, line = line0 + kern_thread() / 32 % 4 * 16 + lane / 4;
    KERN_UNROLL
    for (int j = 0; j < rows / 8; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++) {
            const int at_row = row0 + 8 * j + lane % 4 * 2 + e % 2, at_line = line + e / 2 * 8;
            if (at_row < p->a.lines && at_line < p->b.lines) store_element(&p->to, (size_t)at_row * (size_t)p->b.lines + (size_t)at_line, c[j][e], at_line);
        }
}

KERN_DEVICE void multiply_few_rows(const uint16_t *memory, ring_gates *gates, const tensor_product *p, const int rows, int tiles) {
    const int down = (p->a.lines + rows - 1) / rows;
    float c[MOST_FEW / 8][4];
    ring_place at = {0, 0};
    for (int tile = kern_block(); tile < tiles; tile += kern_blocks()) {
        int before = -1;
        begin_from_zero(c, rows / 8);
        for (int s = 0; s < p->depth / DEEP; s++, ring_next(&at, few_stages(rows))) {
            ring_wait_full(gates, at);
            kern_wgmma_fence();
            KERN_UNROLL
            for (int d = 0; d < DEEP; d += MMA_DEPTH) multiply_few_stage(c, memory + at.stage * few_stage(rows), rows, d);
            kern_wgmma_commit();
            kern_wgmma_wait(1);
            if (before >= 0) ring_done(gates, before);
            before = at.stage;
        }
        kern_wgmma_wait(0);
        if (before >= 0) ring_done(gates, before);
        if (p->depth % DEEP) {
            ring_wait_full(gates, at);
            for (int d = 0; d < p->depth % DEEP; d += MMA_DEPTH) {
                kern_wgmma_fence();
                multiply_few_stage(c, memory + at.stage * few_stage(rows), rows, d);
                kern_wgmma_commit();
                kern_wgmma_wait(0);
            }
            ring_done(gates, at.stage);
            ring_next(&at, few_stages(rows));
        }
        store_few(p, c, rows, tile % down * rows, tile / down * LINES);
    }
}

KERN_DEVICE void few_of_product(char *memory, const hopper_product *h, const int rows) {
    uint16_t *ring = (uint16_t *)KERN_TILE_START(memory);
    ring_gates *gates = (ring_gates *)(ring + few_stages(rows) * few_stage(rows));
    const int tiles = (h->p.a.lines + rows - 1) / rows * ((h->p.b.lines + LINES - 1) / LINES);
    ring_open(gates, few_stages(rows), GROUP_THREADS / 32);
    if (kern_thread() >= GROUP_THREADS) {
        if (kern_thread() == GROUP_THREADS) produce_few(ring, gates, h, rows, tiles);
    } else
        multiply_few_rows(ring, gates, &h->p, rows, tiles);
}

#define HOPPER_FEW(name, rows)                   \
    typedef hopper_product name##_args;          \
    KERN_KERNEL_FOR(name, FEW_THREADS, 1) {       \
        KERN_SHARED_BYTES(char, memory);         \
        few_of_product(memory, &a, rows);        \
    }
HOPPER_FEW(hopper_few_8, 8)
HOPPER_FEW(hopper_few_16, 16)
HOPPER_FEW(hopper_few_32, 32)
HOPPER_FEW(hopper_few_64, 64)
HOPPER_FEW(hopper_few_128, 128)
HOPPER_FEW(hopper_few_256, 256)

/* ---- launches ----------------------------------------------------------------------------------------------------------------------- */

static void map_operand(kern_ctx *ctx, kern_map *map, const tensor_operand *x, int depth, int box_lines) {
    if (x->along_depth)
        kern_card_map(ctx->card, map, x->ptr, x->lines, depth, x->ld, box_lines);
    else
        kern_card_map(ctx->card, map, x->ptr, depth, x->lines, x->ld, STEP);
}

static int smaller(int a, int b) { return a < b ? a : b; }

#define LAUNCH_HOPPER(ctx, kernel, blocks, threads, stages, size, h)                                                       \
    KERN_LAUNCH_SHARED(ctx, kernel, smaller(blocks, kern_card_processors((ctx)->card)), threads,                           \
                       (size_t)(stages) * (size_t)(size) * sizeof(uint16_t) + sizeof(ring_gates) + KERN_TILE_ALIGN, h)
#define LAUNCH_TILES(ctx, kernel, blocks, cols, stages, h) \
    LAUNCH_HOPPER(ctx, kernel, blocks, TILES_THREADS, stages, (ROWS + cols) * STEP, h)
#define LAUNCH_FEW(ctx, rows, h) LAUNCH_HOPPER(ctx, hopper_few_##rows, blocks, FEW_THREADS, few_stages(rows), few_stage(rows), h)

static int tiles_of(const tensor_product *p, int cols) {
    return kern_blocks_for((size_t)p->a.lines, ROWS) * kern_blocks_for((size_t)p->b.lines, (size_t)cols);
}

static void run_few(kern_ctx *ctx, hopper_product *h) {
    int rows = 8;
    while (rows < MOST_FEW && rows < h->p.a.lines) rows *= 2;
    const int blocks = kern_blocks_for((size_t)h->p.a.lines, (size_t)rows) * kern_blocks_for((size_t)h->p.b.lines, LINES);
    map_operand(ctx, &h->a, &h->p.a, h->p.depth, rows);
    map_operand(ctx, &h->b, &h->p.b, h->p.depth, LINES);
    switch (rows) {
    case 8: LAUNCH_FEW(ctx, 8, *h); break;
    case 16: LAUNCH_FEW(ctx, 16, *h); break;
    case 32: LAUNCH_FEW(ctx, 32, *h); break;
    case 64: LAUNCH_FEW(ctx, 64, *h); break;
    case 128: LAUNCH_FEW(ctx, 128, *h); break;
    default: LAUNCH_FEW(ctx, 256, *h); break;
    }
}

/* Wide tiles have three quarters of the copies of narrow ones for an element; narrow ones leave fewer processors without work in the end. */
static bool is_wide(kern_ctx *ctx, const tensor_product *p) {
    const int processors = kern_card_processors(ctx->card);
    const int wide = kern_blocks_for((size_t)tiles_of(p, WIDE), (size_t)processors);
    const int narrow = kern_blocks_for((size_t)tiles_of(p, NARROW), (size_t)processors);
    return 20 * wide <= 11 * narrow;
}

static void run_hopper_tiles(kern_ctx *ctx, hopper_product *h) {
    const bool wide = is_wide(ctx, &h->p);
    const int cols = wide ? WIDE : NARROW, blocks = tiles_of(&h->p, cols);
    map_operand(ctx, &h->a, &h->p.a, h->p.depth, ROWS);
    map_operand(ctx, &h->b, &h->p.b, h->p.depth, cols);
    if (h->p.b.along_depth && wide)
        LAUNCH_TILES(ctx, hopper_forward_wide, blocks, WIDE, STAGES_WIDE, *h);
    else if (h->p.b.along_depth)
        LAUNCH_TILES(ctx, hopper_forward_narrow, blocks, NARROW, STAGES_NARROW, *h);
    else if (h->p.a.along_depth && wide)
        LAUNCH_TILES(ctx, hopper_grad_input_wide, blocks, WIDE, STAGES_WIDE, *h);
    else if (h->p.a.along_depth)
        LAUNCH_TILES(ctx, hopper_grad_input_narrow, blocks, NARROW, STAGES_NARROW, *h);
    else if (wide)
        LAUNCH_TILES(ctx, hopper_grad_weight_wide, blocks, WIDE, STAGES_WIDE, *h);
    else
        LAUNCH_TILES(ctx, hopper_grad_weight_narrow, blocks, NARROW, STAGES_NARROW, *h);
}

bool kern_cuda_hopper_product(kern_ctx *ctx, const tensor_product *p) {
    hopper_product h;
    if (!ctx->hopper || !p->a.aligned || !p->b.aligned) return false;
    assert((p->to.start == FROM_C) == !p->a.along_depth);
    if (p->a.lines == 0 || p->b.lines == 0 || p->depth == 0) return false;
    h.p = *p;
    h.pairs = p->b.lines % 2 == 0 && (uintptr_t)p->to.c % (2 * kern_dtype_size(p->to.dtype)) == 0;
    if (p->a.lines <= MOST_FEW && p->a.along_depth && p->b.along_depth)
        run_few(ctx, &h);
    else
        run_hopper_tiles(ctx, &h);
    return true;
}
