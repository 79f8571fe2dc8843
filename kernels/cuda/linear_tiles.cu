/* Matrix products with bfloat16 weights on tensor cores, for many rows: the forward product and both gradients, in the order of linear.h.
 *
 * Activations and their gradients are used as they are where they are bfloat16. Those that are float32 (the gradient of logits) are rounded
 * to bfloat16, nearest even, into scratch by a pass of their own, rows padded to 16 bytes, as many rows at a time as scratch has room for:
 * rows are independent, and the weight gradient's chains, which begin with the old value of dw, go on from one part of the rows to the next
 * (parts are multiples of 16 rows: the split is not seen). The pass costs 6 bytes an element. Rounding while tiles are loaded would instead
 * read each float32 once for every tile across, through registers: twice the traffic of the second-level cache, which tiles of this size
 * are close to already, and registers that the sums need.
 *
 *   block    ROWS x cols elements of C, 8 warps as 2 x 4; a warp has 64 x cols/4 of them in registers for the whole depth. Wide blocks have
 *            256 columns (a warp's 64 x 64 need 32 bytes of shared memory for 512 multiply-adds), narrow ones 64: for products that would
 *            leave much of the card without a wide block
 *   step     STEP of depth: a piece of A and one of B come to shared memory by asynchronous copies, STAGES - 1 steps ahead; one barrier a
 *            step, which says both that the step's pieces are there and that the pieces read before it may be overwritten
 *   within   fragments of the next 16 of depth are loaded while those of this 16 are multiplied
 *   blocks   go down GROUP blocks of rows before the next columns, so that blocks at work together share their pieces in the cache
 *
 * Operations: 2 rows cols depth. Bytes from the second-level cache: A cols/256 times, B rows/128 times, 2 bytes each; C once, 4 bytes, twice
 * where it is added to. A wide block needs 24 KiB for 2^20 multiply-adds (16 of depth: 4 KiB a warp from shared memory), so a card with
 * 1024 of them a cycle and multiprocessor is limited by its tensor cores, not by memory. On an H100, whose cores give their full rate to wgmma
 * alone, it had 208 TFLOP/s of 793 (NOTES.md); there linear_hopper.cu takes its place. */
#include "kernels/cuda/linear_store.h"

enum {
    THREADS = 256,
    WARPS_DOWN = 2,
    WARPS_ACROSS = 4,
    ROWS = 128,
    WIDE = 256,
    NARROW = 64,
    STAGES = 3,
    GROUP = 8,
    DOWN = ROWS / WARPS_DOWN / MMA_ROWS,           /* fragments of a warp */
    MOST_ACROSS = WIDE / WARPS_ACROSS / MMA_COLS
};

/* ---- one tile --------------------------------------------------------------------------------------------------------------------- */

/* 16 of depth, for a warp. b[i] is sixteen columns. */
typedef struct fragments {
    uint32_t a[DOWN][4], b[MOST_ACROSS / 2][4];
} fragments;

/* The warp's rows and columns of the block begin here. */
KERN_DEVICE int warp_row(void) { return kern_thread() / 32 / WARPS_ACROSS * (ROWS / WARPS_DOWN); }
KERN_DEVICE int warp_col(const int cols) { return kern_thread() / 32 % WARPS_ACROSS * (cols / WARPS_ACROSS); }

KERN_DEVICE void load_fragments(fragments *f, const uint16_t *piece_a, const uint16_t *piece_b, const bool a_along, const bool b_along,
                                const int cols, int d) {
    KERN_UNROLL
    for (int i = 0; i < DOWN; i++) load_fragment(f->a[i], piece_a, a_along, ROWS, warp_row() + i * MMA_ROWS, d);
    KERN_UNROLL
    for (int j = 0; j < cols / WARPS_ACROSS / 16; j++) load_fragment(f->b[j], piece_b, b_along, cols, warp_col(cols) + 16 * j, d);
}

KERN_DEVICE void multiply_fragments(float c[DOWN][MOST_ACROSS][4], const fragments *f, const int cols) {
    KERN_UNROLL
    for (int i = 0; i < DOWN; i++)
        KERN_UNROLL
        for (int j = 0; j < cols / WARPS_ACROSS / MMA_COLS; j++) {
            const uint32_t b[2] = {f->b[j / 2][j % 2], f->b[j / 2][j % 2 + 2]};
            kern_mma_bf16(c[i][j], f->a[i], b);
        }
}

/* The chains of one step; `left` is the depth from its beginning on. What a step has beyond the depth is zeros, and is not multiplied. */
KERN_DEVICE void multiply_step(float c[DOWN][MOST_ACROSS][4], const uint16_t *piece_a, const uint16_t *piece_b, const bool a_along,
                               const bool b_along, const int cols, int left) {
    fragments f[2];
    load_fragments(&f[0], piece_a, piece_b, a_along, b_along, cols, 0);
    KERN_UNROLL
    for (int i = 0; i < STEP / MMA_DEPTH; i++) {
        if (i + 1 < STEP / MMA_DEPTH) load_fragments(&f[(i + 1) % 2], piece_a, piece_b, a_along, b_along, cols, (i + 1) * MMA_DEPTH);
        if (i * MMA_DEPTH < left) multiply_fragments(c, &f[i % 2], cols);
    }
}

/* Blocks in groups of GROUP down, each group all the way across; the last group may be lower. */
KERN_DEVICE void place_of_block(const product_work *p, const int cols, int *row0, int *col0) {
    const int down = (p->rows + ROWS - 1) / ROWS, across = (p->cols + cols - 1) / cols;
    const int group = kern_block() / (GROUP * across), in_group = kern_block() % (GROUP * across);
    const int height = down - group * GROUP < GROUP ? down - group * GROUP : GROUP;
    *row0 = (group * GROUP + in_group % height) * ROWS;
    *col0 = in_group / height * cols;
}

typedef struct tiles_product {
    tensor_operand a, b;
    product_work work;
} tiles_product;

KERN_DEVICE void tile(uint16_t *memory, const tiles_product *p, const bool a_along, const bool b_along, const int cols) {
    const product_work *const work = &p->work;
    const int steps = (work->depth + STEP - 1) / STEP, stage = (ROWS + cols) * STEP;
    int row0, col0;
    float c[DOWN][MOST_ACROSS][4];
    place_of_block(work, cols, &row0, &col0);
    const int row = row0 + warp_row(), col = col0 + warp_col(cols), across = cols / WARPS_ACROSS / MMA_COLS;
    const int own_row = row + kern_thread() % 32 / 4, own_col = col + kern_thread() % 4 * 2;
    KERN_UNROLL
    for (int i = 0; i < DOWN; i++)
        if (a_along)
            begin_from_zero(c[i], across);
        else
            begin_from_c(c[i], work, across, own_row + i * MMA_ROWS, own_col);
    for (int s = 1 - STAGES; s < steps; s++) {
        const int ahead = s + STAGES - 1;
        uint16_t *next = memory + ahead % STAGES * stage;
        if (s >= 0) {
            kern_copy_wait(STAGES - 2);
            kern_barrier();
        }
        if (ahead < steps) {
            copy_piece(next, &p->a, a_along, ROWS, row0, ahead * STEP, work->depth);
            copy_piece(next + ROWS * STEP, &p->b, b_along, cols, col0, ahead * STEP, work->depth);
        }
        kern_copy_commit();
        if (s < 0 || row >= work->rows || col >= work->cols) continue;
        const uint16_t *here = memory + s % STAGES * stage;
        multiply_step(c, here, here + ROWS * STEP, a_along, b_along, cols, work->depth - s * STEP);
    }
    KERN_UNROLL
    for (int i = 0; i < DOWN; i++) store_sums(work, c[i], across, col, own_row + i * MMA_ROWS, own_col, !a_along);
}

#define TILE_KERNEL(name, a_along, b_along, cols)         \
    typedef tiles_product name##_args;                    \
    KERN_KERNEL(name) {                                   \
        KERN_SHARED_BYTES(uint16_t, memory);              \
        tile(memory, &a, a_along, b_along, cols);         \
    }
TILE_KERNEL(forward_wide, true, true, WIDE)
TILE_KERNEL(forward_narrow, true, true, NARROW)
TILE_KERNEL(grad_input_wide, true, false, WIDE)
TILE_KERNEL(grad_input_narrow, true, false, NARROW)
TILE_KERNEL(grad_weight_wide, false, false, WIDE)
TILE_KERNEL(grad_weight_narrow, false, false, NARROW)

static int blocks_of(const tensor_product *p, int cols) {
    return kern_blocks_for((size_t)p->a.lines, ROWS) * kern_blocks_for((size_t)p->b.lines, (size_t)cols);
}

/* By cuBLASLt, where that is measured. */
static bool run_free(kern_ctx *ctx, const tensor_product *p) {
    const kern_free_product product = {{p->a.ptr, p->a.ld, p->a.along_depth},
                                       {p->b.ptr, p->b.ld, p->b.along_depth},
                                       p->to.c,
                                       p->to.dtype,
                                       p->to.start != FROM_ZERO,
                                       p->a.lines,
                                       p->b.lines,
                                       p->depth};
    return ctx->free && !p->to.bias && p->a.aligned && p->b.aligned && kern_free_multiply(ctx->free, &product);
}

static void run_tiles(kern_ctx *ctx, const tensor_product *p) {
    if (run_free(ctx, p) || kern_cuda_hopper_product(ctx, p)) return;
    const tiles_product product = {p->a, p->b, work_of(p)};
    const bool wide = blocks_of(p, WIDE) >= kern_card_processors(ctx->card);
    const int cols = wide ? WIDE : NARROW, blocks = blocks_of(p, cols);
    const size_t bytes = (size_t)(STAGES * (ROWS + cols) * STEP) * sizeof(uint16_t);
    if (p->b.along_depth && wide)
        KERN_LAUNCH_SHARED(ctx, forward_wide, blocks, THREADS, bytes, product);
    else if (p->b.along_depth)
        KERN_LAUNCH_SHARED(ctx, forward_narrow, blocks, THREADS, bytes, product);
    else if (p->a.along_depth && wide)
        KERN_LAUNCH_SHARED(ctx, grad_input_wide, blocks, THREADS, bytes, product);
    else if (p->a.along_depth)
        KERN_LAUNCH_SHARED(ctx, grad_input_narrow, blocks, THREADS, bytes, product);
    else if (wide)
        KERN_LAUNCH_SHARED(ctx, grad_weight_wide, blocks, THREADS, bytes, product);
    else
        KERN_LAUNCH_SHARED(ctx, grad_weight_narrow, blocks, THREADS, bytes, product);
}

/* ---- rounding to bfloat16 --------------------------------------------------------------------------------------------------------- */

enum { PAIRS = 4, ROUND_COLS = 2 * PAIRS * THREADS };

/* y (rows, ld) from x (rows, cols), the columns beyond are zeros. */
typedef struct round_rows_args {
    uint32_t *y; /* pairs */
    const float *x;
    int cols, ld;
} round_rows_args;

/* A block has ROUND_COLS columns of a row. */
KERN_KERNEL(round_rows) {
    kern_next_may_start();
    const int across = (a.ld + ROUND_COLS - 1) / ROUND_COLS, row = kern_block() / across;
    const float *x = a.x + (size_t)row * (size_t)a.cols;
    uint32_t *y = a.y + (size_t)row * (size_t)(a.ld / 2);
    int col = kern_block() % across * ROUND_COLS + 2 * kern_thread();
    for (int i = 0; i < PAIRS && col < a.ld; i++, col += 2 * THREADS)
        y[col / 2] = kern_bf16_pair(col < a.cols ? x[col] : 0.0f, col + 1 < a.cols ? x[col + 1] : 0.0f);
}

/* Elements of a row of `cols` in scratch: a multiple of 16 bytes. */
static int padded(int cols) { return (cols + CHUNK - 1) / CHUNK * CHUNK; }

/* Rows of bfloat16, ld elements apart. */
typedef struct matrix16 {
    const uint16_t *ptr;
    int ld;
} matrix16;

/* Rows begin .. begin+rows-1 of x (m, cols) as they are, or rounded into scratch from element `at` on, a multiple of 16 bytes. */
static matrix16 rounded(kern_ctx *ctx, const void *x, kern_dtype dtype, int begin, int rows, int cols, size_t at) {
    const size_t first = (size_t)begin * (size_t)cols;
    const matrix16 as_it_is = {(const uint16_t *)x + first, cols}, copy = {(uint16_t *)ctx->scratch + at, padded(cols)};
    if (dtype == KERN_BF16) return as_it_is;
    const round_rows_args args = {(uint32_t *)copy.ptr, (const float *)x + first, cols, copy.ld};
    KERN_LAUNCH(ctx, round_rows, rows * kern_blocks_for((size_t)copy.ld, ROUND_COLS), THREADS, args);
    return copy;
}

/* Elements of scratch that a row of so many columns takes. */
static int scratch_of(kern_dtype dtype, int cols) { return dtype == KERN_BF16 ? 0 : padded(cols); }

/* Rows whose `elements` in bfloat16 scratch has room for. */
static int rows_at_a_time(const kern_ctx *ctx, int elements) {
    return kern_cuda_rows_at_a_time(ctx, MMA_ROWS, MMA_ROWS * (size_t)elements * sizeof(uint16_t));
}

/* `to` from row `begin` of its n columns on. */
static product_out rows_from(product_out to, int begin, int n) {
    to.c = (char *)to.c + (size_t)begin * (size_t)n * kern_dtype_size(to.dtype);
    return to;
}

/* ---- the operations --------------------------------------------------------------------------------------------------------------- */

/* Few rows, or so few narrow blocks that tiles would leave multiprocessors without work: by the other kernel, to the same bits. */
static void run_forward(kern_ctx *ctx, const tensor_product *p) {
    if (run_free(ctx, p) || kern_cuda_hopper_product(ctx, p)) return;
    if (p->a.lines <= FEW_ROWS || blocks_of(p, NARROW) < kern_card_processors(ctx->card))
        kern_cuda_product_of_few(ctx, p);
    else
        run_tiles(ctx, p);
}

void kern_cuda_tensor_linear(kern_ctx *ctx, product_out y, const void *x, kern_dtype x_dtype, const uint16_t *w, int m, int n, int k) {
    const int part = rows_at_a_time(ctx, scratch_of(x_dtype, k));
    for (int begin = 0; begin < m; begin += part) {
        const int rows = m - begin < part ? m - begin : part;
        const matrix16 x16 = rounded(ctx, x, x_dtype, begin, rows, k, 0);
        const tensor_product p = {tensor_operand_of(x16.ptr, x16.ld, rows, true), tensor_operand_of(w, k, n, true), rows_from(y, begin, n),
                                  k, false};
        run_forward(ctx, &p);
    }
}

bool kern_cuda_tensor_linear_swiglu(kern_ctx *ctx, product_out y, const void *x, kern_dtype x_dtype, const uint16_t *w, int m, int f,
                                    int k) {
    const tensor_operand weights = tensor_operand_of(w, k, f, true);
    if (ctx->free || (m > FEW_ROWS && !(ctx->hopper && weights.aligned))) return false;
    const int part = rows_at_a_time(ctx, scratch_of(x_dtype, k));
    for (int begin = 0; begin < m; begin += part) {
        const int rows = m - begin < part ? m - begin : part;
        const matrix16 x16 = rounded(ctx, x, x_dtype, begin, rows, k, 0);
        const tensor_product p = {tensor_operand_of(x16.ptr, x16.ld, rows, true), weights, rows_from(y, begin, f), k, true};
        if (!kern_cuda_hopper_product(ctx, &p)) kern_cuda_product_of_few(ctx, &p);
    }
    return true;
}

void kern_cuda_tensor_grad_input(kern_ctx *ctx, product_out dx, const void *dy, kern_dtype dy_dtype, const uint16_t *w, int m, int n, int k) {
    const int part = rows_at_a_time(ctx, scratch_of(dy_dtype, n));
    for (int begin = 0; begin < m; begin += part) {
        const int rows = m - begin < part ? m - begin : part;
        const matrix16 dy16 = rounded(ctx, dy, dy_dtype, begin, rows, n, 0);
        const tensor_product p = {tensor_operand_of(dy16.ptr, dy16.ld, rows, true), tensor_operand_of(w, k, k, false), rows_from(dx, begin, k),
                                  n, false};
        run_tiles(ctx, &p);
    }
}

void kern_cuda_tensor_grad_weight(kern_ctx *ctx, product_out dw, const void *dy, kern_dtype dy_dtype, const void *x, kern_dtype x_dtype, int m,
                                  int n, int k) {
    const int part = rows_at_a_time(ctx, scratch_of(dy_dtype, n) + scratch_of(x_dtype, k));
    for (int begin = 0; begin < m; begin += part) {
        const int rows = m - begin < part ? m - begin : part;
        const matrix16 dy16 = rounded(ctx, dy, dy_dtype, begin, rows, n, 0);
        const matrix16 x16 = rounded(ctx, x, x_dtype, begin, rows, k, (size_t)rows * (size_t)scratch_of(dy_dtype, n));
        const tensor_product p = {tensor_operand_of(dy16.ptr, dy16.ld, n, false), tensor_operand_of(x16.ptr, x16.ld, k, false), dw, rows,
                                  false};
        run_tiles(ctx, &p);
    }
}
