/* What a Hopper card is asked before its own instructions are used: whether they give the bits of the kernels for Ampere, on which the
 * promise of one order rests (linear.h, attention_tiles.cu), and whether they end at all. Small cases of each kernel that hopper.h makes
 * possible. */
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "kernels/cuda/cuda.h"

enum { ELEMENTS = 1 << 17, FACTORS = 2 * ELEMENTS, PATIENCE_MS = 20000, ROWS_MOST = 136, HEADS = 2, SEQUENCES = 2 };

/* Of up to 128 rows: columns of products, those of gate and up together, and their depth. One block of threads, where there is no more, goes more than twice round the
 * stages of its ring for them. */
enum { COLUMNS = 264, DEPTH = 584 };

/* FACTORS in bfloat16, a and b, and ELEMENTS of results in float32. */
typedef struct bench {
    kern_ctx *ctx;
    uint16_t *a, *b;
    float *to;
    float *host[2]; /* what `to` held, with and without Hopper's instructions */
} bench;

typedef struct checked {
    const char *what;
    void (*run)(const bench *b, int rows);
    int rows; /* which the choice of a kernel depends on */
    int columns; /* of tiles: kern_ctx.tile_columns */
    int processors; /* that are used; 0: all */
} checked;

static const int32_t seq_begin[SEQUENCES + 1] = {0, 50, ROWS_MOST};

static void forward(const bench *b, int rows) {
    kern_cuda_linear(b->ctx, b->to, KERN_F32, b->a, KERN_BF16, b->b, KERN_BF16, NULL, KERN_F32, KERN_BF16, rows, COLUMNS, DEPTH, false);
}
/* Gate and up, where they are stored, lie behind what cases take of a. */
static void gated_of(const bench *b, const uint16_t *x, const uint16_t *w, kern_dtype dtype, int rows, int f, int depth) {
    kern_cuda_linear_swiglu(b->ctx, b->to, b->a + ELEMENTS, dtype, x, KERN_BF16, w, KERN_BF16, KERN_BF16, rows, f, depth);
}
static void gated(const bench *b, int rows) { gated_of(b, b->a, b->b, KERN_F32, rows, COLUMNS / 2, DEPTH); }
/* Two elements of a are one of x; in one kernel, or by the norm and the product, with what b has more than weights between them. */
static void normed_to(const bench *b, int rows, bool gated) {
    const int n = gated ? COLUMNS / 2 : COLUMNS;
    const float *x = (const float *)(const void *)b->a;
    uint16_t *const between = b->b + COLUMNS * DEPTH;
    const kern_norm_product p = {.y = b->to, .y_dtype = KERN_F32, .x = x, .norm = b->b, .w = b->b, .norm_dtype = KERN_BF16,
                                 .factors = KERN_BF16, .eps = 1e-6f, .m = rows, .n = n, .k = DEPTH, .gated = gated};
    if (kern_cuda_norm_linear(b->ctx, &p)) return;
    kern_cuda_rmsnorm(b->ctx, between, KERN_BF16, x, p.norm, KERN_BF16, p.eps, rows, DEPTH);
    if (gated) gated_of(b, between, b->b, KERN_F32, rows, n, DEPTH);
    else kern_cuda_linear(b->ctx, b->to, KERN_F32, between, KERN_BF16, p.w, KERN_BF16, NULL, KERN_F32, KERN_BF16, rows, n, DEPTH, false);
}
static void normed(const bench *b, int rows) { normed_to(b, rows, false); }
static void normed_gated(const bench *b, int rows) { normed_to(b, rows, true); }
/* Tiles of each width, whole ones and parts. What leaves them is stored, and added to; or rounded. */
enum { MANY = 520 };
static void forward_tiles(const bench *b, int rows) {
    for (int added = 0; added < 2; added++)
        kern_cuda_linear(b->ctx, b->to, KERN_F32, b->a, KERN_BF16, b->b, KERN_BF16, NULL, KERN_F32, KERN_BF16, rows, MANY, 200, added);
}
static void gated_tiles(const bench *b, int rows) { gated_of(b, b->a, b->b, KERN_BF16, rows, MANY / 2, 200); }
static void grad_input(const bench *b, int rows) {
    kern_cuda_linear_grad_input(b->ctx, b->to, KERN_F32, b->a, KERN_BF16, b->b, KERN_BF16, KERN_BF16, rows, 200, MANY, false);
}
static void grad_weight(const bench *b, int rows) {
    kern_cuda_linear_grad_weight(b->ctx, b->to, b->a, KERN_BF16, b->b, KERN_BF16, KERN_BF16, rows, 136, MANY);
}
static kern_attn_shape heads_of(int d) { return (kern_attn_shape){HEADS, 1, d, KERN_BF16}; }
/* out and lse, of rows that fill no tile; `rows` is D. */
static void attention(const bench *b, int d) {
    kern_cuda_attention(b->ctx, b->to, b->to + ELEMENTS / 2, b->a, KERN_BF16, seq_begin, SEQUENCES, heads_of(d));
}
static void attention_grad(const bench *b, int d) {
    uint16_t *const out = b->b + ELEMENTS / 2;
    kern_cuda_attention(b->ctx, out, b->to + ELEMENTS / 2, b->a, KERN_BF16, seq_begin, SEQUENCES, heads_of(d));
    kern_cuda_attention_grad(b->ctx, b->to, b->b, out, b->to + ELEMENTS / 2, b->a, KERN_BF16, seq_begin, SEQUENCES, heads_of(d));
}

/* Chunks of two sequences, one of which crosses a split, in pages that serve several times. */
static void prefill(const bench *b, int d) {
    enum { PAGE = 16, PAGES = 16, PLACES = 72, FIRST = 30, SECOND = 1000 };
    const kern_kv_shape cache = {1, 1, d, PAGE, PAGES, KERN_BF16};
    int32_t seq[ROWS_MOST], pos[ROWS_MOST], pages[SEQUENCES * PLACES];
    for (int i = 0; i < ROWS_MOST; i++) {
        seq[i] = i >= seq_begin[1];
        pos[i] = i - seq_begin[seq[i]] + (seq[i] ? SECOND : FIRST);
    }
    for (int i = 0; i < SEQUENCES * PLACES; i++) pages[i] = i * 5 % PAGES;
    kern_cuda_attention_paged(b->ctx, b->to, b->a, KERN_BF16, b->b, cache, 0, kern_cuda_stage(b->ctx, seq, sizeof seq),
                              kern_cuda_stage(b->ctx, pos, sizeof pos), ROWS_MOST, kern_cuda_stage(b->ctx, pages, sizeof pages), PLACES,
                              (kern_rows_hint){.end = PLACES * PAGE, .lone_end = PLACES * PAGE}, heads_of(d));
}

/* Rows that decode, all at one position of one sequence. */
static void decode(const bench *b, int rows, int position, int d) {
    enum { PAGE = 16, PAGES = 16, PLACES = 72 };
    const kern_kv_shape cache = {1, 1, d, PAGE, PAGES, KERN_BF16};
    int32_t seq[ROWS_MOST] = {0}, pos[ROWS_MOST], pages[PLACES];
    for (int i = 0; i < ROWS_MOST; i++) pos[i] = position;
    for (int i = 0; i < PLACES; i++) pages[i] = i * 5 % PAGES;
    kern_cuda_attention_paged(b->ctx, b->to, b->a, KERN_BF16, b->b, cache, 0, kern_cuda_stage(b->ctx, seq, sizeof seq),
                              kern_cuda_stage(b->ctx, pos, sizeof pos), rows, kern_cuda_stage(b->ctx, pages, sizeof pages), PLACES,
                              (kern_rows_hint){.end = position + 1, .lone_end = position + 1, .decoding = true}, heads_of(d));
}
/* One block of threads, and two thirds of the processors (attention_decode.cu): two splits for each row. */
static void decode_one(const bench *b, int d) { decode(b, 1, 1000, d); }
static void decode_some(const bench *b, int d) {
    const int rows = kern_card_processors(b->ctx->card) / 3;
    decode(b, rows < ROWS_MOST ? rows : ROWS_MOST, 1100, d);
}

static const checked CASES[] = {
    {"a product of few rows, a warp a block", forward, 5, 0, 0}, {"a product of few rows", forward, 5, 0, 1},
    {"a product of 16 rows", forward, 16, 0, 1}, {"a product of 32 rows", forward, 32, 0, 1}, {"a product of 64 rows", forward, 64, 0, 1},
    {"SwiGLU of few rows", gated, 5, 0, 1}, {"SwiGLU of 16 rows", gated, 16, 0, 1}, {"SwiGLU of 32 rows", gated, 32, 0, 1},
    {"SwiGLU of 64 rows", gated, 64, 0, 1}, {"SwiGLU of 80 rows", gated, 80, 64, 1}, {"SwiGLU of 100 rows", gated, 100, 64, 1},
    {"a product of a norm", normed, 7, 0, 1}, {"SwiGLU of a norm", normed_gated, 8, 0, 1},
    {"a product of 80 rows", forward, 80, 64, 1}, {"a product of 100 rows", forward, 100, 64, 1},
    {"a product of narrow tiles", forward_tiles, 136, 128, 1}, {"a product of middle tiles", forward_tiles, 136, 192, 1},
    {"a product of wide tiles", forward_tiles, 136, 256, 1}, {"SwiGLU of narrow tiles", gated_tiles, 136, 128, 1},
    {"SwiGLU of middle tiles", gated_tiles, 136, 192, 1}, {"SwiGLU of wide tiles", gated_tiles, 136, 256, 1},
    {"a gradient by inputs, of narrow tiles", grad_input, 136, 128, 1}, {"a gradient by inputs, of wide tiles", grad_input, 136, 256, 1},
    {"a gradient by weights, of narrow tiles", grad_weight, 136, 128, 1}, {"a gradient by weights, of wide tiles", grad_weight, 136, 256, 1},
    {"attention, D 64", attention, 64, 0, 0}, {"attention, D 128", attention, 128, 0, 0}, {"its gradient, D 64", attention_grad, 64, 0, 0},
    {"its gradient, D 128", attention_grad, 128, 0, 0}, {"prefill, D 64", prefill, 64, 0, 0}, {"prefill, D 128", prefill, 128, 0, 0},
    {"decoding of one row, D 64", decode_one, 64, 0, 0}, {"decoding of one row, D 128", decode_one, 128, 0, 0},
    {"decoding of some rows, D 64", decode_some, 64, 0, 0}, {"decoding of some rows, D 128", decode_some, 128, 0, 0}};

/* Waits, but not for ever: a kernel that never ends cannot be ended. */
static rlf_status finish(kern_ctx *ctx, const char *what) {
    const double end = rlf_now_s() + PATIENCE_MS * 1e-3;
    while (!kern_card_idle(ctx->card)) {
        if (rlf_now_s() > end)
            return RLF_RAISE(DEVICE, "%s: %s has not ended after %d s; isa: ampere (rlf bench: --isa ampere) leaves it out", kern_card_name(ctx->card),
                             what, PATIENCE_MS / 1000);
        rlf_sleep_us(50);
    }
    const rlf_status status = kern_card_sync(ctx->card);
    if (status != RLF_OK) rlf_error_context("%s (isa: ampere leaves it out)", what);
    return status;
}

static rlf_status run_case(bench *b, const checked *c, bool *same) {
    const size_t bytes = ELEMENTS * sizeof *b->to;
    rlf_status status = RLF_OK;
    b->ctx->tile_columns = c->columns;
    if (c->processors) b->ctx->processors = c->processors;
    for (int way = 0; way < 2; way++) {
        b->ctx->hopper = way == 0;
        kern_card_zero(b->ctx->card, b->to, bytes);
        c->run(b, c->rows);
        RLF_TRY(finish(b->ctx, c->what));
        kern_card_download(b->ctx->card, b->host[way], b->to, bytes);
        RLF_TRY(kern_card_sync(b->ctx->card));
    }
    *same = memcmp(b->host[0], b->host[1], bytes) == 0;
out:
    b->ctx->tile_columns = 0;
    b->ctx->processors = kern_card_processors(b->ctx->card);
    return status;
}

/* *differs: the first whose bits do; a warning names each. */
static rlf_status run_cases(bench *b, const char **differs) {
    rlf_status status = RLF_OK;
    bool same;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        RLF_TRY(run_case(b, &CASES[i], &same));
        if (same) continue;
        RLF_WARN("%s: Hopper's instructions give other bits for %s", kern_card_name(b->ctx->card), CASES[i].what);
        if (!*differs) *differs = CASES[i].what;
    }
out:
    return status;
}

/* Values of both signs and several sizes, none of them special. */
static void fill(kern_ctx *ctx, uint16_t *to, uint32_t seed) {
    uint16_t *values = rlf_calloc(FACTORS, sizeof *values);
    for (int i = 0; i < FACTORS; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (uint16_t)((seed >> 16 & 0x8000) | (0x3c00 + (seed >> 12 & 0x3ff))); /* 2^-7 to 2 */
    }
    kern_card_upload(ctx->card, to, values, FACTORS * sizeof *values);
    free(values);
}

rlf_status kern_cuda_check_hopper(kern_ctx *ctx, const char **differs) {
    rlf_status status = RLF_OK;
    bench b = {.ctx = ctx};
    const bool hopper = ctx->hopper;
    *differs = NULL;
    b.a = kern_card_allocate(ctx->card, FACTORS * sizeof *b.a);
    b.b = kern_card_allocate(ctx->card, FACTORS * sizeof *b.b);
    b.to = kern_card_allocate(ctx->card, ELEMENTS * sizeof *b.to);
    for (int i = 0; i < 2; i++) b.host[i] = rlf_calloc(ELEMENTS, sizeof *b.host[i]);
    if (!b.a || !b.b || !b.to) RLF_FAIL(NO_MEMORY, "%s: no memory left for a check", kern_card_name(ctx->card));
    fill(ctx, b.a, 1);
    fill(ctx, b.b, 2);
    RLF_TRY(run_cases(&b, differs));
out:
    ctx->hopper = hopper;
    for (int i = 0; i < 2; i++) free(b.host[i]);
    if (status == RLF_DEVICE) return status; /* what does not end keeps its memory: to give it back waits for the end */
    if (b.a) kern_card_release(ctx->card, b.a);
    if (b.b) kern_card_release(ctx->card, b.b);
    if (b.to) kern_card_release(ctx->card, b.to);
    return status;
}
