/* Matrix products with bfloat16 factors on Hopper's cards, fed by the copy engine (hopper.h), in the order of linear.h and so with its bits.
 *
 * tiles   many rows: the forward product and both gradients, by wgmma. A block is 128 x cols elements of C (cols: 256, 192 or 128), two
 *         warp groups of 64 x cols each, their sums in registers for the whole depth; gated (of kern_linear_swiglu), half as many of gate
 *         and the same of up. A third warp group has one thread that does nothing but start copies, as far ahead as there are stages; a
 *         stage is STEP of depth of A and B. Blocks stay: each takes every n-th tile, and the copies for the next tile begin while this
 *         one is stored. Tiles go down GROUP before the next columns, so that those at work together share their factors in the cache
 * some    65 to 256 rows: C transposed, so that 64 lines of weights are the 64 rows of wgmma, and 96 or 128 rows of x its columns; gated, 32
 *         lines of gate and the same of up, 8 of each in turn
 * few     up to 64 rows, as in decoding: C transposed too, by mma.sync: a warp has 16 lines of weights and all rows; gated, 8 of gate and
 *         the same 8 of up, so that a thread has both of an element. Weights stream through the card once; copies run ahead by 200 KiB a
 *         processor, also into the next tile, and those of weights begin before the operation in front has ended. Up to 8 rows that go
 *         through RMSNorm first are read and normed by every block, while its first weights come: that takes as long as the norm does, and
 *         spares its launch
 *
 * Operations: 2 rows cols depth. Bytes from the second-level cache: tiles: A cols/256 times, B rows/128 times, 2 bytes each; some and few:
 * weights once, x once for the lines of a block; C once, and once more where it is added to.
 *
 * Measured on an H100. cuBLAS has 793, 777 and 727 TFLOP/s for 8192 x 8192 x 8192, 8192 x 19456 x 2560 and 8192 x 2560 x 9728; a first form of
 * tiles of 128 x 256 had 766, 707 and 776; linear_tiles.cu, by mma.sync, has 208. A chain of wgmma takes 80 cycles a link with 8 columns, 130
 * with 64, one of mma.sync 33: with wgmma a product of few rows is as slow as its depth, 28 us for 2560 x 9728 where its bytes take 17. The
 * arguments of a kernel with maps are read from memory again after each store, if they are not copied to variables: that took a third of
 * the rate of tiles. */
#include "kernels/cuda/linear_store.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/ring.h"

enum {
    GROUP_THREADS = 128,
    CONSUMERS = 2, /* warp groups that multiply, of a tile */
    TILES_THREADS = (CONSUMERS + 1) * GROUP_THREADS,
    GROUP_ROWS = 64,
    ROWS = CONSUMERS * GROUP_ROWS,
    WIDE = 256,
    MIDDLE = 192,
    NARROW = 128,
    GROUP = 8,     /* tiles */
    SOME_ROWS = 96, /* or ROWS */
    SOME_LINES = 64,
    SOME_STAGES = 8,
    STAGES_WIDE = 4,
    STAGES_MIDDLE = 5,
    STAGES_NARROW = 6,
    PRODUCER_REGISTERS = 40,
    CONSUMER_REGISTERS = 232
};

/* ---- tiles ------------------------------------------------------------------------------------------------------------------------- */

/* What few rows go through first: RMSNorm. */
typedef struct input_norm {
    const float *x; /* (rows, depth); NULL: nothing, x comes by its map */
    const void *weight;
    kern_dtype weight_dtype;
    float eps;
    bool wide; /* four neighbours of the weight are loaded together */
} input_norm;

typedef struct hopper_product {
    kern_map a, b;
    product_work work;
    input_norm norm;
} hopper_product;

KERN_DEVICE void fetch_maps(const hopper_product *h) {
    if (kern_thread() > 0) return;
    if (!h->norm.x) kern_fetch_map(&h->a);
    kern_fetch_map(&h->b);
}

typedef struct tile_place {
    int row, col;
} tile_place;

/* Tiles in groups of GROUP down, each group all the way across; the last group may be lower. */
KERN_DEVICE tile_place place_of_tile(const product_work *p, const int cols, int tile) {
    const int down = (p->rows + ROWS - 1) / ROWS, across = (p->cols + cols - 1) / cols;
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

/* What a warp group multiplies: 64 lines of A from `line` on, of the `lines` that a stage has before those of B, by `cols` lines of B; of two
 * `sides` one half of these are gate's, the other up's. */
typedef struct group_shape {
    bool a_along, b_along;
    int lines, cols, sides, line;
} group_shape;

/* 16 of depth of a stage, from d on. */
KERN_DEVICE void multiply_stage(float c[][4], const uint16_t *stage, const group_shape g, int d) {
    const kern_wgmma_factor a = factor_at(stage, g.a_along, g.line, d);
    const int cols = g.cols / g.sides;
    KERN_UNROLL
    for (int side = 0; side < g.sides; side++) {
        const kern_wgmma_factor b = factor_at(stage + (g.lines + side * cols) * STEP, g.b_along, 0, d);
        float(*const sums)[4] = c + side * (cols / 8);
        if (cols == WIDE)
            kern_wgmma_256(sums, a, !g.a_along, b, !g.b_along);
        else if (cols == MIDDLE)
            kern_wgmma_192(sums, a, !g.a_along, b, !g.b_along);
        else if (cols == NARROW)
            kern_wgmma_128(sums, a, !g.a_along, b, !g.b_along);
        else if (cols == MIDDLE / 2)
            kern_wgmma_96(sums, a, !g.a_along, b, !g.b_along);
        else
            kern_wgmma_64(sums, a, !g.a_along, b, !g.b_along);
    }
}

/* The chains of a tile, from the ring's stages of STEP of depth. */
KERN_DEVICE void multiply_depth(float c[][4], const uint16_t *memory, ring_gates *gates, ring_place *at, const int stages, const group_shape g,
                                int depth) {
    const int size = (g.lines + g.cols) * STEP;
    int before = -1;
    for (int s = 0; s < depth / STEP; s++, ring_next(at, stages)) {
        ring_wait_full(gates, *at);
        kern_wgmma_fence();
        KERN_UNROLL
        for (int d = 0; d < STEP; d += MMA_DEPTH) multiply_stage(c, memory + at->stage * size, g, d);
        kern_wgmma_commit();
        kern_wgmma_wait(1);
        if (before >= 0) ring_leave(gates, before);
        before = at->stage;
    }
    kern_wgmma_wait(0);
    if (before >= 0) ring_leave(gates, before);
    if (depth % STEP == 0) return;
    ring_wait_full(gates, *at);
    for (int d = 0; d < depth % STEP; d += MMA_DEPTH) { /* zeros beyond the depth are not multiplied */
        kern_wgmma_fence();
        multiply_stage(c, memory + at->stage * size, g, d);
        kern_wgmma_commit();
        kern_wgmma_wait(0);
    }
    ring_leave(gates, at->stage);
    ring_next(at, stages);
}

/* What a block does: tiles of ROWS by cols / sides elements of C, of `cols` lines of B. */
typedef struct tiles_shape {
    bool a_along, b_along;
    int cols, sides, stages;
} tiles_shape;

/* All tiles of the block, by one thread. */
KERN_DEVICE void produce_tiles(uint16_t *memory, ring_gates *gates, const hopper_product *h, const product_work *p, const tiles_shape s, int tiles) {
    const int steps = (p->depth + STEP - 1) / STEP, size = (ROWS + s.cols) * STEP, cols = s.cols / s.sides;
    ring_place at = {0, 0};
    for (int tile = kern_block(); tile < tiles; tile += kern_blocks()) {
        const tile_place place = place_of_tile(p, cols, tile);
        for (int step = 0; step < steps; step++, ring_next(&at, s.stages)) {
            uint16_t *stage = memory + at.stage * size;
            kern_gate *full = &gates->full[at.stage];
            ring_wait_empty(gates, at);
            kern_gate_expect(full, size * (int)sizeof *stage);
            copy_factor(stage, &h->a, s.a_along, ROWS, place.row, step * STEP, full);
            for (int side = 0; side < s.sides; side++)
                copy_factor(stage + (ROWS + side * cols) * STEP, &h->b, s.b_along, cols, side * p->cols + place.col, step * STEP, full);
        }
    }
}

/* What C holds in a tile, by the threads that multiply: it comes while they do. Chains begin with it in the next tile, or it is added in this one. */
KERN_DEVICE void prefetch_c(const product_work *p, const tile_place at, const int cols) {
    enum { LINE = 32 }; /* floats of 128 bytes */
    const int lines = cols / LINE;
    KERN_UNROLL_BY(1)
    for (int i = kern_thread(); i < ROWS * lines; i += CONSUMERS * GROUP_THREADS) {
        const int row = at.row + i / lines, col = at.col + i % lines * LINE;
        if (row < p->rows && col < p->cols) kern_prefetch((const float *)p->to.c + (size_t)row * (size_t)p->cols + (size_t)col);
    }
}

/* C's element from gate and up, whose chains have ended. */
KERN_DEVICE void gate_sums(const product_work *p, float c[][4], const int fragments) {
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++) c[j][e] = gated_of(&p->to, c[j][e], c[fragments + j][e]);
}

KERN_DEVICE void multiply_tiles(const uint16_t *memory, ring_gates *gates, const product_work *p, const tiles_shape s, int tiles) {
    const int group = kern_thread() / GROUP_THREADS, lane = kern_thread() % 32, warp = kern_thread() / 32 % 4, cols = s.cols / s.sides;
    const group_shape shape = {s.a_along, s.b_along, ROWS, s.cols, s.sides, group * GROUP_ROWS};
    float c[WIDE / 8][4];
    ring_place at = {0, 0};
    for (int tile = kern_block(); tile < tiles; tile += kern_blocks()) {
        const tile_place place = place_of_tile(p, cols, tile);
        const int row = place.row + group * GROUP_ROWS + warp * 16 + lane / 4, col = place.col + lane % 4 * 2;
        if (!s.a_along && tile + kern_blocks() < tiles) prefetch_c(p, place_of_tile(p, cols, tile + kern_blocks()), cols);
        if (s.a_along && p->to.start == ADDED) prefetch_c(p, place, cols);
        if (s.a_along)
            begin_from_zero(c, s.cols / 8);
        else
            begin_from_c(c, p, cols / 8, row, col);
        multiply_depth(c, memory, gates, &at, s.stages, shape, p->depth);
        if (s.sides == 2) gate_sums(p, c, cols / 8);
        store_sums(p, c, cols / 8, place.col, row, col, !s.a_along);
    }
}

KERN_DEVICE void tiles_of_product(char *memory, const hopper_product *h, const tiles_shape s) {
    const product_work work = h->work;
    uint16_t *ring = (uint16_t *)KERN_TILE_START(memory);
    ring_gates *gates = (ring_gates *)(ring + s.stages * (ROWS + s.cols) * STEP);
    const int cols = s.cols / s.sides, tiles = (work.rows + ROWS - 1) / ROWS * ((work.cols + cols - 1) / cols);
    fetch_maps(h);
    ring_open(gates, s.stages, 1, CONSUMERS * GROUP_THREADS / 32);
    kern_barrier();
    kern_wait_for_previous();
    kern_next_may_start();
    if (kern_thread() >= CONSUMERS * GROUP_THREADS) {
        kern_registers_less(PRODUCER_REGISTERS);
        if (kern_thread() == CONSUMERS * GROUP_THREADS) produce_tiles(ring, gates, h, &work, s, tiles);
    } else {
        kern_registers_more(CONSUMER_REGISTERS);
        multiply_tiles(ring, gates, &work, s, tiles);
    }
}

#define HOPPER_TILES(name, a_along, b_along, cols, sides, stages)          \
    typedef hopper_product name##_args;                                    \
    KERN_KERNEL_WITH_MAPS(name, TILES_THREADS, 1) {                        \
        KERN_SHARED_BYTES(char, memory);                                   \
        const tiles_shape shape = {a_along, b_along, cols, sides, stages}; \
        tiles_of_product(memory, &a, shape);                               \
    }
HOPPER_TILES(hopper_forward_wide, true, true, WIDE, 1, STAGES_WIDE)
HOPPER_TILES(hopper_forward_middle, true, true, MIDDLE, 1, STAGES_MIDDLE)
HOPPER_TILES(hopper_forward_narrow, true, true, NARROW, 1, STAGES_NARROW)
HOPPER_TILES(hopper_gated_wide, true, true, WIDE, 2, STAGES_WIDE)
HOPPER_TILES(hopper_gated_middle, true, true, MIDDLE, 2, STAGES_MIDDLE)
HOPPER_TILES(hopper_gated_narrow, true, true, NARROW, 2, STAGES_NARROW)
HOPPER_TILES(hopper_grad_input_wide, true, false, WIDE, 1, STAGES_WIDE)
HOPPER_TILES(hopper_grad_input_narrow, true, false, NARROW, 1, STAGES_NARROW)
HOPPER_TILES(hopper_grad_weight_wide, false, false, WIDE, 1, STAGES_WIDE)
HOPPER_TILES(hopper_grad_weight_narrow, false, false, NARROW, 1, STAGES_NARROW)

/* ---- few and some rows: what both have in common -------------------------------------------------------------------------------------- */

/* A tile is `lines` lines of C by `rows` rows of x, a stage of it `deep` of depth: pieces of STEP of the weights, then as many of x. A line
 * of C has one of weights, or, gated, two `sides`: a piece of weights is `together` lines of gate, as many of up, and so on. Normed, all of x
 * is behind the stages, in the same pieces. */
typedef struct few_shape {
    int rows, lines, sides, together, deep, stages;
    bool normed;
} few_shape;

KERN_BOTH int few_stage(const few_shape s) { return (s.sides * s.lines + (s.normed ? 0 : s.rows)) * s.deep; }
KERN_DEVICE int few_weights(const few_shape s, int d) { return d / STEP * s.sides * s.lines * STEP; }
KERN_DEVICE int few_rows(const few_shape s, int d) { return s.sides * s.lines * s.deep + d / STEP * s.rows * STEP; }

/* Where the block is: its tile, and the depth in it. */
typedef struct few_place {
    int tile, d;
    ring_place at;
} few_place;

KERN_DEVICE void few_next(few_place *n, const few_shape s, int depth) {
    ring_next(&n->at, s.stages);
    n->d += s.deep;
    if (n->d < depth) return;
    n->d = 0;
    n->tile += kern_blocks();
}

KERN_DEVICE void copy_weights(uint16_t *memory, ring_gates *gates, const hopper_product *h, const few_shape s, int down, int cols,
                              const few_place *n) {
    uint16_t *stage = memory + n->at.stage * few_stage(s);
    kern_gate *full = &gates->full[n->at.stage];
    kern_gate_expect(full, few_stage(s) * (int)sizeof *stage);
    for (int i = 0; i < s.deep; i += STEP)
        for (int line = 0; line < s.lines; line += s.together)
            for (int side = 0; side < s.sides; side++)
                kern_copy_box(stage + few_weights(s, i) + (line * s.sides + side * s.together) * STEP, &h->b,
                              side * cols + n->tile / down * s.lines + line, n->d + i, full);
}
KERN_DEVICE void copy_rows_of_x(uint16_t *memory, ring_gates *gates, const hopper_product *h, const few_shape s, int down, const few_place *n) {
    uint16_t *stage = memory + n->at.stage * few_stage(s);
    for (int i = 0; i < s.deep; i += STEP)
        kern_copy_box(stage + few_rows(s, i), &h->a, n->tile % down * s.rows, n->d + i, &gates->full[n->at.stage]);
}

/* All copies of the block, by one thread: first as much of the weights as there are stages, which nobody is still writing (dialect.h). */
KERN_DEVICE void produce_few(uint16_t *memory, ring_gates *gates, const hopper_product *h, const product_work *p, const few_shape s, int tiles) {
    const int down = s.rows <= FEW_ROWS ? 1 : (p->rows + s.rows - 1) / s.rows; /* few rows are one tile */
    few_place n = {kern_block(), 0, {0, 0}}, x = n;
    for (; n.tile < tiles && n.at.round == 0; few_next(&n, s, p->depth)) copy_weights(memory, gates, h, s, down, p->cols, &n);
    kern_wait_for_previous();
    for (; !s.normed && x.tile < tiles && x.at.round == 0; few_next(&x, s, p->depth)) copy_rows_of_x(memory, gates, h, s, down, &x);
    for (; n.tile < tiles; few_next(&n, s, p->depth)) {
        ring_wait_empty(gates, n.at);
        copy_weights(memory, gates, h, s, down, p->cols, &n);
        if (!s.normed) copy_rows_of_x(memory, gates, h, s, down, &n);
    }
}

/* Where element e of the j-th fragment of C transposed is: line `line` (e/2: + 8), row `row` + 8 j + e % 2; false: outside. */
KERN_DEVICE bool transposed_at(size_t *i, const product_work *p, int line, int row, int j, int e) {
    const int at_row = row + 8 * j + e % 2, at_line = line + e / 2 * 8;
    *i = (size_t)at_row * (size_t)p->cols + (size_t)at_line;
    return at_row < p->rows && at_line < p->cols;
}

/* Up to STORED_TOGETHER fragments, whose chains have ended. */
KERN_DEVICE void store_transposed(const product_work *p, float c[][4], const int fragments, int line, int row) {
    const product_out *to = &p->to;
    float old[STORED_TOGETHER][4], bias[2] = {0, 0};
    size_t i;
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++)
            old[j][e] = to->start == ADDED && transposed_at(&i, p, line, row, j, e) ? ((const float *)to->c)[i] : 0.0f;
    KERN_UNROLL
    for (int half = 0; half < 2; half++)
        if (to->bias && line + 8 * half < p->cols) bias[half] = kern_element(to->bias, to->bias_dtype, (size_t)(line + 8 * half));
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 4; e++) {
            const float value = to->bias ? c[j][e] + bias[e / 2] : c[j][e];
            if (transposed_at(&i, p, line, row, j, e)) kern_set_element(to->c, to->dtype, i, to->start == ADDED ? old[j][e] + value : value);
        }
}

/* The same of 8 lines: c[j][0], c[j][1] are gate, c[j][2], c[j][3] up. */
KERN_DEVICE void store_gated_transposed(const product_work *p, float c[][4], const int fragments, int line, int row) {
    KERN_UNROLL
    for (int j = 0; j < fragments; j++)
        KERN_UNROLL
        for (int e = 0; e < 2; e++) {
            const int at_row = row + 8 * j + e;
            if (at_row < p->rows && line < p->cols)
                store_gated(&p->to, (size_t)at_row * (size_t)p->cols + (size_t)line, c[j][e], c[j][e + 2]);
        }
}

KERN_DEVICE void store_lines(const product_work *p, float c[][4], const int fragments, const int sides, int line, int row) {
    if (sides == 1)
        store_transposed(p, c, fragments, line, row);
    else
        store_gated_transposed(p, c, fragments, line, row);
}

/* ---- some rows ------------------------------------------------------------------------------------------------------------------------ */

KERN_BOTH few_shape some_shape(int rows, int sides) {
    const int lines = SOME_LINES / sides;
    const few_shape s = {rows, lines, sides, sides == 1 ? lines : 8, STEP, SOME_STAGES, false};
    return s;
}

KERN_DEVICE void multiply_some(const uint16_t *memory, ring_gates *gates, const product_work *p, const few_shape s, int tiles) {
    const int down = (p->rows + s.rows - 1) / s.rows, lane = kern_thread() % 32, warp = kern_thread() / 32;
    const group_shape shape = {true, true, SOME_LINES, s.rows, 1, 0};
    float c[ROWS / 8][4];
    ring_place at = {0, 0};
    for (int tile = kern_block(); tile < tiles; tile += kern_blocks()) {
        const int line = tile / down * s.lines + warp * (MMA_ROWS / s.sides) + lane / 4, row = tile % down * s.rows + lane % 4 * 2;
        begin_from_zero(c, s.rows / 8);
        multiply_depth(c, memory, gates, &at, SOME_STAGES, shape, p->depth);
        KERN_UNROLL
        for (int j = 0; j < s.rows / 8; j += STORED_TOGETHER)
            store_lines(p, c + j, stored_from(j, s.rows / 8), s.sides, line, row + 8 * j);
    }
}

KERN_DEVICE void some_of_product(char *memory, const hopper_product *h, const int rows, const int sides) {
    const few_shape shape = some_shape(rows, sides);
    const product_work work = h->work;
    uint16_t *ring = (uint16_t *)KERN_TILE_START(memory);
    ring_gates *gates = (ring_gates *)(ring + SOME_STAGES * few_stage(shape));
    const int tiles = (work.rows + rows - 1) / rows * ((work.cols + shape.lines - 1) / shape.lines);
    kern_next_may_start();
    fetch_maps(h);
    ring_open(gates, SOME_STAGES, 1, GROUP_THREADS / 32);
    kern_barrier();
    if (kern_thread() >= GROUP_THREADS) {
        if (kern_thread() == GROUP_THREADS) produce_few(ring, gates, h, &work, shape, tiles);
    } else {
        kern_wait_for_previous();
        multiply_some(ring, gates, &work, shape, tiles);
    }
}

#define HOPPER_SOME(name, rows, sides)                    \
    typedef hopper_product name##_args;                   \
    KERN_KERNEL_WITH_MAPS(name, 2 * GROUP_THREADS, 1) {   \
        KERN_SHARED_BYTES(char, memory);                  \
        some_of_product(memory, &a, rows, sides);         \
    }
HOPPER_SOME(hopper_some_96, SOME_ROWS, 1)
HOPPER_SOME(hopper_some_128, ROWS, 1)
HOPPER_SOME(hopper_some_gated_96, SOME_ROWS, 2)
HOPPER_SOME(hopper_some_gated_128, ROWS, 2)

/* ---- few rows ------------------------------------------------------------------------------------------------------------------------- */

enum {
    DEEP = 2 * STEP,
    LINKS = DEEP / MMA_DEPTH,           /* of a chain, in a stage */
    PIECE_LINKS = STEP / MMA_DEPTH,
    LOADED = 4,                         /* links in registers; the one after next is loaded before one is multiplied */
    MOST_WARPS = 4,                     /* that multiply */
    FEW_BYTES = 200 << 10               /* of stages */
};

/* What rows that are normed take of the stages' memory: themselves, as products take them, up to a multiple of DEEP; the norm's weight, what
 * each row is multiplied by, and as many rows as are at work together, a little apart so that two half warps meet on no bank. */
enum { NORMED_ROWS = 8, NORM_BYTES = 40 << 10, NORM_BARRIER = 1 };
KERN_BOTH int norm_depth(int depth) { return (depth + DEEP - 1) / DEEP * DEEP; }
KERN_BOTH int norm_apart(int depth) { return depth + KERN_LANES; }
KERN_BOTH int norm_at_once(int rows, int depth) {
    const int n = NORM_BYTES / (norm_apart(depth) * (int)sizeof(float));
    return n < 1 ? 1 : n < rows ? n : rows;
}
KERN_BOTH int norm_bytes(int rows, int depth) {
    return rows * norm_depth(depth) * (int)sizeof(uint16_t) +
           (depth + rows + norm_at_once(rows, depth) * norm_apart(depth)) * (int)sizeof(float);
}

/* A warp has 16 lines of weights. */
KERN_BOTH few_shape few_shape_of(int rows, int sides, int warps, bool normed, int depth) {
    const int lines = warps * MMA_ROWS / sides;
    few_shape s = {rows, lines, sides, lines, DEEP, 0, normed};
    s.stages = (FEW_BYTES - (normed ? norm_bytes(rows, depth) : 0)) / (few_stage(s) * (int)sizeof(uint16_t));
    if (s.stages > RING_MOST_STAGES) s.stages = RING_MOST_STAGES;
    return s;
}

/* 16 of depth: 16 lines, and the rows, sixteen in four words (of the last eight, if there are no more, the first two). */
typedef struct few_link {
    uint32_t w[4], x[FEW_ROWS / 16][4];
} few_link;

/* Where in a stage's weights, and in its rows, the lane's words are: of each link of a piece, for chunks are exchanged (piece_chunk) by the
 * line's number mod 8, which is the lane's. The four matrices are of A for the weights, and of two B, one after the other, for the rows. */
typedef struct few_lane {
    int w[PIECE_LINKS], x[PIECE_LINKS];
} few_lane;

KERN_DEVICE few_lane few_lane_of(const few_shape s) {
    const int lane = kern_thread() % 32, matrix = lane / 8, first = kern_thread() / 32 * (MMA_ROWS / s.sides);
    const int line = first + (matrix % 2 ? s.sides == 1 ? 8 : s.lines : 0) + lane % 8;
    const int row = (s.rows == 8 ? 0 : matrix / 2 * 8) + lane % 8; /* of eight rows, the same twice */
    few_lane l;
    KERN_UNROLL
    for (int i = 0; i < PIECE_LINKS; i++) {
        l.w[i] = piece_chunk(line, 2 * i + matrix / 2, ROW_CHUNKS) * CHUNK;
        l.x[i] = piece_chunk(row, 2 * i + matrix % 2, ROW_CHUNKS) * CHUNK;
    }
    return l;
}

/* `x`: the rows' pieces of this stage's depth. */
KERN_DEVICE void load_link(few_link *f, const uint16_t *stage, const uint16_t *x, const few_lane *l, const few_shape s, const int link) {
    const int piece = link / PIECE_LINKS, i = link % PIECE_LINKS;
    kern_ldmatrix_x4(f->w, stage + few_weights(s, piece * STEP) + l->w[i]);
    KERN_UNROLL
    for (int j = 0; j < (s.rows + 15) / 16; j++) kern_ldmatrix_x4(f->x[j], x + (piece * s.rows + 16 * j) * STEP + l->x[i]);
}

KERN_DEVICE void multiply_link(float c[FEW_ROWS / 8][4], const few_link *f, const int rows) {
    KERN_UNROLL
    for (int j = 0; j < rows / 8; j++) kern_mma_bf16(c[j], f->w, &f->x[j / 2][j % 2 * 2]);
}

/* ---- rows that are normed: all of them, by the warps that multiply --------------------------------------------------------------------- */

typedef struct norm_memory {
    uint16_t *rows; /* (8, norm_depth), in pieces */
    float *weight, *rstd, *staged;
} norm_memory;

KERN_DEVICE norm_memory norm_memory_at(char *memory, int rows, int depth) {
    norm_memory n;
    n.rows = (uint16_t *)memory;
    n.weight = (float *)(n.rows + rows * norm_depth(depth));
    n.rstd = n.weight + depth;
    n.staged = n.rstd + rows;
    return n;
}

/* What nobody is still writing: zeros where there are no rows, or no depth, and the norm's weight. */
KERN_DEVICE void prepare_norm(const norm_memory *to, const input_norm *n, int rows, int depth, int threads) {
    const kern_float4 zero = {{0, 0, 0, 0}};
    for (int i = 8 * kern_thread(); i < rows * norm_depth(depth); i += 8 * threads) *(kern_float4 *)(to->rows + i) = zero;
    for (int i = 4 * kern_thread(); i < depth; i += 4 * threads)
        *(kern_float4 *)(to->weight + i) = kern_load4(n->weight, n->weight_dtype, (size_t)i, 4, n->wide);
}

/* `count` rows of x: all copies under way at once. */
KERN_DEVICE void stage_rows(float *staged, const float *x, int count, int depth, int threads) {
    for (int row = 0; row < count; row++)
        KERN_UNROLL_BY(4)
        for (int i = 4 * kern_thread(); i < depth; i += 4 * threads)
            kern_copy_async16(staged + row * norm_apart(depth) + i, x + row * depth + i, 16);
    kern_copy_commit();
    kern_copy_wait(0);
}

/* Half a warp a row; those left over go through the last one as well, for the shuffles. */
KERN_DEVICE void sum_rows(const norm_memory *m, int count, int depth, float eps, int threads) {
    for (int begin = 0; begin < count; begin += threads / KERN_LANES) {
        const int own = begin + kern_team(), row = own < count ? own : count - 1;
        const float rstd = rstd_of(row_squares(m->staged + row * norm_apart(depth), depth), depth, eps);
        if (kern_lane() == 0 && row == own) m->rstd[row] = rstd;
    }
}

/* Four elements of a normed row. */
KERN_DEVICE kern_half4 normed_four(const float *x, float rstd, const float *weight) {
    const kern_float4 v = *(const kern_float4 *)x, w = *(const kern_float4 *)weight;
    const kern_half4 y = {{kern_bf16_pair(v.v[0] * rstd * w.v[0], v.v[1] * rstd * w.v[1]),
                           kern_bf16_pair(v.v[2] * rstd * w.v[2], v.v[3] * rstd * w.v[3])}};
    return y;
}

/* Rows begin .. begin+count-1, as products take them. */
KERN_DEVICE void store_rows(const norm_memory *m, int begin, int count, int rows, int depth, int threads) {
    for (int row = 0; row < count; row++) {
        const float rstd = m->rstd[row], *x = m->staged + row * norm_apart(depth);
        KERN_UNROLL_BY(4)
        for (int d = 4 * kern_thread(); d < depth; d += 4 * threads) {
            uint16_t *const piece = m->rows + d / STEP * rows * STEP;
            *(kern_half4 *)(piece + piece_chunk(begin + row, d % STEP / CHUNK, ROW_CHUNKS) * CHUNK + d % CHUNK) = normed_four(x + d, rstd, m->weight + d);
        }
    }
}

KERN_DEVICE void norm_rows(const norm_memory *m, const input_norm *n, const product_work *p, int rows, int threads) {
    const int at_once = norm_at_once(rows, p->depth);
    prepare_norm(m, n, rows, p->depth, threads);
    kern_wait_for_previous();
    for (int begin = 0; begin < p->rows; begin += at_once) {
        const int count = p->rows - begin < at_once ? p->rows - begin : at_once;
        stage_rows(m->staged, n->x + (size_t)begin * (size_t)p->depth, count, p->depth, threads);
        kern_barrier_some(NORM_BARRIER, threads);
        sum_rows(m, count, p->depth, n->eps, threads);
        kern_barrier_some(NORM_BARRIER, threads);
        store_rows(m, begin, count, rows, p->depth, threads);
        kern_barrier_some(NORM_BARRIER, threads);
    }
}

/* The rows' pieces for the stage that the block is at. */
KERN_DEVICE const uint16_t *rows_of_stage(const uint16_t *memory, const uint16_t *normed, const few_shape s, const few_place *n) {
    return s.normed ? normed + n->d * s.rows : memory + n->at.stage * few_stage(s) + few_rows(s, 0);
}

/* What a warp goes through its stages with. */
typedef struct few_work {
    const uint16_t *memory, *normed;
    ring_gates *gates;
    few_lane lane;
    few_link f[LOADED];
    float c[FEW_ROWS / 8][4];
} few_work;

/* The first two links of a stage, when it is there. */
KERN_DEVICE void begin_stage(few_work *w, const few_shape s, const few_place *n) {
    const uint16_t *stage = w->memory + n->at.stage * few_stage(s), *x = rows_of_stage(w->memory, w->normed, s, n);
    ring_wait_full(w->gates, n->at);
    load_link(&w->f[0], stage, x, &w->lane, s, 0);
    load_link(&w->f[1], stage, x, &w->lane, s, 1);
}

/* The links of the stage `here`, as many as the depth has; or all, being a `whole` one. Links are loaded two ahead of what is multiplied, across
 * stages too: a chain then takes little longer than its multiplications. `next`: the stage after, or this one again if there is none. */
KERN_DEVICE void multiply_few_stage(few_work *w, const few_shape s, const few_place *here, const few_place *next, int depth, const bool whole) {
    const uint16_t *stage = w->memory + here->at.stage * few_stage(s), *x = rows_of_stage(w->memory, w->normed, s, here);
    KERN_UNROLL
    for (int link = 0; link < LINKS; link++) {
        if (link + 2 < LINKS)
            load_link(&w->f[(link + 2) % LOADED], stage, x, &w->lane, s, link + 2);
        else if (link + 2 == LINKS)
            begin_stage(w, s, next);
        if (whole || here->d + link * MMA_DEPTH < depth) multiply_link(w->c, &w->f[link % LOADED], s.rows);
    }
    ring_leave(w->gates, here->at.stage);
}

KERN_DEVICE void store_few(const product_work *p, float c[][4], const few_shape s, int tile) {
    const int lane = kern_thread() % 32, line = tile * s.lines + kern_thread() / 32 * (MMA_ROWS / s.sides) + lane / 4, row = lane % 4 * 2;
    store_lines(p, c, s.rows / 8, s.sides, line, row);
}

/* Whole: the depth is of whole stages. */
KERN_DEVICE void multiply_few_rows(few_work *w, const product_work *p, const few_shape s, int tiles, const bool whole) {
    few_place n = {kern_block(), 0, {0, 0}};
    if (n.tile >= tiles) return;
    w->lane = few_lane_of(s);
    begin_from_zero(w->c, s.rows / 8);
    begin_stage(w, s, &n);
    while (n.tile < tiles) {
        const few_place here = n;
        few_next(&n, s, p->depth);
        const few_place next = n.tile < tiles ? n : here;
        multiply_few_stage(w, s, &here, &next, p->depth, whole);
        if (n.d > 0) continue;
        store_few(p, w->c, s, here.tile);
        begin_from_zero(w->c, s.rows / 8);
    }
}

KERN_DEVICE void few_of_product(char *memory, const hopper_product *h, const int rows, const int sides, const bool normed) {
    const product_work work = h->work;
    const input_norm norm = h->norm;
    const int warps = kern_threads() / 32 - 1; /* the last one copies */
    const few_shape s = few_shape_of(rows, sides, warps, normed, work.depth);
    uint16_t *ring = (uint16_t *)KERN_TILE_START(memory);
    ring_gates *gates = (ring_gates *)(ring + s.stages * few_stage(s));
    const int tiles = (work.cols + s.lines - 1) / s.lines;
    kern_next_may_start();
    fetch_maps(h);
    ring_open(gates, s.stages, 1, warps);
    kern_barrier();
    if (kern_thread() >= warps * 32) {
        if (kern_thread() == warps * 32) produce_few(ring, gates, h, &work, s, tiles);
    } else {
        const norm_memory m = norm_memory_at((char *)(gates + 1), rows, work.depth);
        if (normed)
            norm_rows(&m, &norm, &work, rows, warps * 32);
        else
            kern_wait_for_previous();
        few_work w;
        w.memory = ring;
        w.normed = m.rows;
        w.gates = gates;
        if (work.depth % DEEP == 0)
            multiply_few_rows(&w, &work, s, tiles, true);
        else
            multiply_few_rows(&w, &work, s, tiles, false);
    }
}

#define HOPPER_FEW(name, rows, sides, normed)                    \
    typedef hopper_product name##_args;                          \
    KERN_KERNEL_WITH_MAPS(name, (MOST_WARPS + 1) * 32, 1) {      \
        KERN_SHARED_BYTES(char, memory);                         \
        few_of_product(memory, &a, rows, sides, normed);         \
    }
HOPPER_FEW(hopper_few_8, 8, 1, false)
HOPPER_FEW(hopper_few_16, 16, 1, false)
HOPPER_FEW(hopper_few_32, 32, 1, false)
HOPPER_FEW(hopper_few_64, 64, 1, false)
HOPPER_FEW(hopper_gated_8, 8, 2, false)
HOPPER_FEW(hopper_gated_16, 16, 2, false)
HOPPER_FEW(hopper_gated_32, 32, 2, false)
HOPPER_FEW(hopper_gated_64, 64, 2, false)
HOPPER_FEW(hopper_normed_8, 8, 1, true)
HOPPER_FEW(hopper_normed_gated_8, 8, 2, true)

/* ---- launches ----------------------------------------------------------------------------------------------------------------------- */

static void map_operand(kern_ctx *ctx, kern_map *map, const tensor_operand *x, int depth, int box_lines) {
    if (x->along_depth)
        kern_card_map(ctx->card, map, x->ptr, x->lines, depth, x->ld, box_lines);
    else
        kern_card_map(ctx->card, map, x->ptr, depth, x->lines, x->ld, STEP);
}

static int smaller(int a, int b) { return a < b ? a : b; }

#define LAUNCH_HOPPER(ctx, kernel, blocks, threads, elements, h)                                                           \
    KERN_LAUNCH_SHARED(ctx, kernel, smaller(blocks, (ctx)->processors), threads,                           \
                       (size_t)(elements) * sizeof(uint16_t) + sizeof(ring_gates) + KERN_TILE_ALIGN, h)
#define LAUNCH_TILES(ctx, kernel, blocks, cols, stages, h) \
    LAUNCH_HOPPER(ctx, kernel, blocks, TILES_THREADS, (stages) * (ROWS + cols) * STEP, h)

static int sides_of(const tensor_product *p) { return p->gated ? 2 : 1; }

/* All lines of weights: of gate and of up, if a product is gated. */
static tensor_operand weights_of(const tensor_product *p) {
    tensor_operand w = p->b;
    w.lines *= sides_of(p);
    return w;
}

static int tiles_of(const tensor_product *p, int rows, int cols) {
    return kern_blocks_for((size_t)p->a.lines, (size_t)rows) * kern_blocks_for((size_t)p->b.lines, (size_t)cols);
}

/* As many warps a block as leave half of the processors a block: one alone copies no faster than a sixtieth of the card can. */
static few_shape choose_few(kern_ctx *ctx, const tensor_product *p, bool normed) {
    const int sides = sides_of(p);
    int rows = 8, warps = MOST_WARPS;
    while (rows < p->a.lines) rows *= 2;
    while (warps > 1 && 2 * tiles_of(p, rows, warps * MMA_ROWS / sides) < ctx->processors) warps /= 2;
    return few_shape_of(rows, sides, warps, normed, p->depth);
}

static void run_few(kern_ctx *ctx, const tensor_product *p, hopper_product *h) {
    const few_shape s = choose_few(ctx, p, h->norm.x != NULL);
    const int blocks = tiles_of(p, s.rows, s.lines), threads = (s.sides * s.lines / MMA_ROWS + 1) * 32;
    const int elements = s.stages * few_stage(s) + (s.normed ? norm_bytes(s.rows, p->depth) / (int)sizeof(uint16_t) : 0);
    const tensor_operand weights = weights_of(p);
    if (!s.normed) map_operand(ctx, &h->a, &p->a, p->depth, s.rows);
    map_operand(ctx, &h->b, &weights, p->depth, s.lines);
    if (s.normed && p->gated)
        LAUNCH_HOPPER(ctx, hopper_normed_gated_8, blocks, threads, elements, *h);
    else if (s.normed)
        LAUNCH_HOPPER(ctx, hopper_normed_8, blocks, threads, elements, *h);
    else if (p->gated)
        switch (s.rows) {
        case 8: LAUNCH_HOPPER(ctx, hopper_gated_8, blocks, threads, elements, *h); break;
        case 16: LAUNCH_HOPPER(ctx, hopper_gated_16, blocks, threads, elements, *h); break;
        case 32: LAUNCH_HOPPER(ctx, hopper_gated_32, blocks, threads, elements, *h); break;
        default: LAUNCH_HOPPER(ctx, hopper_gated_64, blocks, threads, elements, *h); break;
        }
    else
        switch (s.rows) {
        case 8: LAUNCH_HOPPER(ctx, hopper_few_8, blocks, threads, elements, *h); break;
        case 16: LAUNCH_HOPPER(ctx, hopper_few_16, blocks, threads, elements, *h); break;
        case 32: LAUNCH_HOPPER(ctx, hopper_few_32, blocks, threads, elements, *h); break;
        default: LAUNCH_HOPPER(ctx, hopper_few_64, blocks, threads, elements, *h); break;
        }
}

static void run_some(kern_ctx *ctx, const tensor_product *p, hopper_product *h, int rows) {
    const few_shape s = some_shape(rows, sides_of(p));
    const int blocks = tiles_of(p, s.rows, s.lines), elements = s.stages * few_stage(s);
    const tensor_operand weights = weights_of(p);
    map_operand(ctx, &h->a, &p->a, p->depth, s.rows);
    map_operand(ctx, &h->b, &weights, p->depth, s.together);
    if (p->gated && rows == SOME_ROWS)
        LAUNCH_HOPPER(ctx, hopper_some_gated_96, blocks, 2 * GROUP_THREADS, elements, *h);
    else if (p->gated)
        LAUNCH_HOPPER(ctx, hopper_some_gated_128, blocks, 2 * GROUP_THREADS, elements, *h);
    else if (rows == SOME_ROWS)
        LAUNCH_HOPPER(ctx, hopper_some_96, blocks, 2 * GROUP_THREADS, elements, *h);
    else
        LAUNCH_HOPPER(ctx, hopper_some_128, blocks, 2 * GROUP_THREADS, elements, *h);
}

/* Rows of A and lines of B that a tile takes. */
typedef struct tile_sides {
    int rows, cols;
} tile_sides;

/* Rounds of tiles that the card's processors go, by what a tile takes, which is guessed to grow with both of its sides. */
static int cost_of(kern_ctx *ctx, const tensor_product *p, tile_sides t) {
    const int tiles = tiles_of(p, t.rows, t.cols / sides_of(p));
    return kern_blocks_for((size_t)tiles, (size_t)ctx->processors) * (t.rows + t.cols - WIDE / 4);
}

/* The tile of the least cost; of SOME_LINES columns: of `some`. */
static tile_sides choose_tile(kern_ctx *ctx, const tensor_product *p) {
    static const tile_sides all[] = {{ROWS, WIDE}, {ROWS, MIDDLE}, {ROWS, NARROW}, {ROWS, SOME_LINES}, {SOME_ROWS, SOME_LINES}};
    const bool forward = p->b.along_depth, some = forward && p->a.lines <= 2 * ROWS;
    tile_sides best = all[0];
    for (size_t i = 1; i < sizeof all / sizeof *all; i++) {
        if ((all[i].cols == SOME_LINES && !some) || (all[i].cols == MIDDLE && !forward)) continue;
        if (cost_of(ctx, p, all[i]) < cost_of(ctx, p, best)) best = all[i];
    }
    if (ctx->tile_columns) {
        best.rows = ctx->tile_columns == SOME_LINES && p->a.lines <= SOME_ROWS ? SOME_ROWS : ROWS;
        best.cols = ctx->tile_columns;
    }
    return best;
}

static void run_hopper_tiles(kern_ctx *ctx, const tensor_product *p, hopper_product *h, const int cols) {
    const int own = cols / sides_of(p), blocks = tiles_of(p, ROWS, own);
    const tensor_operand b = weights_of(p);
    map_operand(ctx, &h->a, &p->a, p->depth, ROWS);
    map_operand(ctx, &h->b, &b, p->depth, own);
    if (p->gated)
        switch (cols) {
        case WIDE: LAUNCH_TILES(ctx, hopper_gated_wide, blocks, WIDE, STAGES_WIDE, *h); break;
        case MIDDLE: LAUNCH_TILES(ctx, hopper_gated_middle, blocks, MIDDLE, STAGES_MIDDLE, *h); break;
        default: LAUNCH_TILES(ctx, hopper_gated_narrow, blocks, NARROW, STAGES_NARROW, *h); break;
        }
    else if (p->b.along_depth)
        switch (cols) {
        case WIDE: LAUNCH_TILES(ctx, hopper_forward_wide, blocks, WIDE, STAGES_WIDE, *h); break;
        case MIDDLE: LAUNCH_TILES(ctx, hopper_forward_middle, blocks, MIDDLE, STAGES_MIDDLE, *h); break;
        default: LAUNCH_TILES(ctx, hopper_forward_narrow, blocks, NARROW, STAGES_NARROW, *h); break;
        }
    else if (p->a.along_depth && cols == WIDE)
        LAUNCH_TILES(ctx, hopper_grad_input_wide, blocks, WIDE, STAGES_WIDE, *h);
    else if (p->a.along_depth)
        LAUNCH_TILES(ctx, hopper_grad_input_narrow, blocks, NARROW, STAGES_NARROW, *h);
    else if (cols == WIDE)
        LAUNCH_TILES(ctx, hopper_grad_weight_wide, blocks, WIDE, STAGES_WIDE, *h);
    else
        LAUNCH_TILES(ctx, hopper_grad_weight_narrow, blocks, NARROW, STAGES_NARROW, *h);
}

/* But for maps. */
static hopper_product product_of(const tensor_product *p) {
    hopper_product h;
    memset(&h, 0, sizeof h);
    h.work = work_of(p);
    return h;
}

/* Up to 8 rows, as long as there is room for them and for weights on their way. */
bool kern_cuda_norm_linear(kern_ctx *ctx, const kern_norm_product *n) {
    enum { LEAST_STAGES = 3, ROOM = FEW_BYTES - LEAST_STAGES * MOST_WARPS * MMA_ROWS * DEEP * (int)sizeof(uint16_t) };
    const product_out to = {n->y, n->y_dtype, n->bias, n->bias_dtype, FROM_ZERO};
    const tensor_product p = {{NULL, (size_t)n->k, n->m, true, true}, tensor_operand_of((const uint16_t *)n->w, n->k, n->n, true), to, n->k, n->gated};
    if (!ctx->hopper || ctx->free || n->factors != KERN_BF16 || !p.b.aligned || (uintptr_t)n->x % 16) return false;
    if (n->m < 1 || n->m > NORMED_ROWS || n->n < 1 || n->k < 1 || norm_bytes(NORMED_ROWS, n->k) > ROOM) return false;
    hopper_product h = product_of(&p);
    const input_norm norm = {n->x, n->norm, n->norm_dtype, n->eps, kern_wide(n->norm, n->norm_dtype, n->k)};
    h.norm = norm;
    run_few(ctx, &p, &h);
    return true;
}

bool kern_cuda_hopper_product(kern_ctx *ctx, const tensor_product *p) {
    if (!ctx->hopper || !p->a.aligned || !p->b.aligned) return false;
    if (p->a.lines == 0 || p->b.lines == 0 || p->depth == 0) return false;
    assert((p->to.start == FROM_C) == !p->a.along_depth);
    hopper_product h = product_of(p);
    if (p->b.along_depth && p->a.lines <= FEW_ROWS) {
        run_few(ctx, p, &h);
        return true;
    }
    const tile_sides tile = choose_tile(ctx, p);
    if (tile.cols == SOME_LINES)
        run_some(ctx, p, &h, tile.rows);
    else
        run_hopper_tiles(ctx, p, &h, tile.cols);
    return true;
}
