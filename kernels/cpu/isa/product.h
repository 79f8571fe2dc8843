/* product: matrix products, C (rows, cols) from A (rows, depth) and B (depth, cols), for the chain of the file that includes it: linear.c has
 * that of float32, linear_bf16.c that of bfloat16 factors, linear_widened.c that of float32 with weights stored as bfloat16.
 *
 * Every element of C is one chain over depth (THE RULE), so which elements are worked on together is free, and only ever changes speed. The
 * scheme is that of Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (TOMS 2008):
 *
 *   task     a block of at most TASK_ROWS x TASK_COLS elements of C, for one thread; tasks share nothing
 *   depth    in steps of DEPTH units; between steps the chains rest in C as float32, which loses nothing
 *   panel    MR rows of A, or NR columns of B, over one step, copied to [unit][MR] or [unit][NR]: all row panels of the task (second-
 *            level cache), but one column panel at a time (first-level cache), used for all its rows and dropped. So weights stay
 *            row-major in memory, and no second copy of them is kept anywhere
 *   tile     MR x NR chains in registers over one step
 *
 * With few rows (decoding) the copy of B is most of the work; few_rows.h has two more ways of going through the same chains.
 *
 * A unit is four bytes of a line of B along depth, a float or two bfloat16, so that both kinds of weights are copied and transposed alike.
 * A chain takes it in TERMS steps, one term after the other; a line of A is copied to TERMS floats a unit, in the order of memory. The
 * including file defines, before:
 *
 *   UNIT                   elements of a unit
 *   TERMS                  1 or 2
 *   IN_PLACE               lines of A along depth are terms as they lie in memory; else copy_terms(to, line, depth) makes a line of them
 *   chain_place(t)         which in memory, of a unit's terms, is the t-th in the chain's order
 *   chain_term(b, t)       that term of sixteen units of B
 *   chain_step(a, b, sum)  the chains of sixteen lanes, one term further
 *   chain_add(a, b)        for bias and old value
 *   store_terms(to, from)  sixteen units of a line of B as terms, in the order of memory
 *   chain_enter, chain_leave   around all of these, on each thread: the state of the processor that they need */
#ifndef RLF_KERNELS_CPU_ISA_PRODUCT_H
#define RLF_KERNELS_CPU_ISA_PRODUCT_H

#include "kernels/cpu/isa/isa.h"

#if defined(__AVX512F__)
enum { MR = 14, NV = 2 }; /* 28 sums, 2 columns, 2 rows: 32 registers */
#define FOR_TILE_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif defined(__AVX2__)
enum { MR = 6, NV = 1 }; /* 12 sums, 2 columns, 2 rows: 16 registers */
#define FOR_TILE_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
enum { MR = 4, NV = 1 };
#define FOR_TILE_ROWS(X) X(1) X(2) X(3) X(4)
#endif

enum {
    NR = NV * VF,
    DEPTH = 256,
    TASK_ROWS = 518 / TERMS,
    TASK_COLS = 512,
    SLACK = VF /* a copied line may write this far past its panel */
};

typedef struct operand operand;
/* Copies `lines` (1..16) lines over `units` units from `begin` on to sixteen lanes of a panel `width` lanes wide; those beyond the lines are never
 * used. Where width < 16 a store runs into the place that follows, which is written after it. */
typedef void copy_lanes(float *to, size_t width, const operand *x, int line, int lines, int begin, int units);

/* One of A and B. A line is a row of C for A, a column of C for B. */
struct operand {
    const void *ptr;
    size_t line, unit; /* bytes from a line to the next, from a unit to the next */
    int depth;         /* elements of a line; the last unit may want one */
    bool along_depth;  /* a line's elements are neighbours */
    copy_lanes *copy;
};

static inline int divide_up(int a, int b) { return (a + b - 1) / b; }

static const char *address_of(const operand *x, int line, int unit) {
    return (const char *)x->ptr + (size_t)line * x->line + (size_t)unit * x->unit;
}

typedef enum chain_start {
    FROM_ZERO, /* C = chain + bias */
    ADDED,     /* C = C + (chain + bias) */
    FROM_C     /* the chain begins with C */
} chain_start;

typedef enum path {
    BY_PANELS,
    BY_STREAMS, BY_LANES /* few_rows.h */
} path;

typedef struct product {
    operand a, b;
    float *c;
    const float *bias; /* (cols) or NULL */
    int rows, cols, units; /* units: of depth */
    chain_start start;
    path path;
    int col_tasks, task_rows, task_cols; /* how C is cut: see cut() */
} product;

/* What a thread keeps in its scratch. */
typedef struct workspace {
    float rows[TASK_ROWS * DEPTH * TERMS + SLACK]; /* the row panels, one after the other */
    float cols[NR * DEPTH + SLACK];                /* the column panel */
    float chains[TASK_ROWS * TASK_COLS];           /* C between steps, where C itself holds what the result is added to */
} workspace;
_Static_assert(sizeof(workspace) <= KERN_SCRATCH_BYTES, "the workspace of a product must fit into a thread's scratch");

/* ---- copying panels --------------------------------------------------------------------------------------------------------------- */

/* transpose16: lane i of t[j] changes places with lane j of t[i]. */
#if defined(__AVX512F__)
static inline __attribute__((always_inline)) void transpose16(vf t[VF]) {
    vf u[VF];
#pragma GCC unroll 8
    for (int i = 0; i < VF; i += 2) { /* pairs of rows */
        u[i] = _mm512_unpacklo_ps(t[i], t[i + 1]);
        u[i + 1] = _mm512_unpackhi_ps(t[i], t[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < VF; i += 4) { /* t[i+j] has column j of every group of four, of rows i..i+3 */
        t[i] = _mm512_shuffle_ps(u[i], u[i + 2], 0x44);
        t[i + 1] = _mm512_shuffle_ps(u[i], u[i + 2], 0xee);
        t[i + 2] = _mm512_shuffle_ps(u[i + 1], u[i + 3], 0x44);
        t[i + 3] = _mm512_shuffle_ps(u[i + 1], u[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) { /* the same for groups of four lanes: a 4x4 transpose of them */
        vf a = _mm512_shuffle_f32x4(t[j], t[j + 4], 0x88), b = _mm512_shuffle_f32x4(t[j], t[j + 4], 0xdd);
        vf c = _mm512_shuffle_f32x4(t[j + 8], t[j + 12], 0x88), d = _mm512_shuffle_f32x4(t[j + 8], t[j + 12], 0xdd);
        t[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        t[j + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        t[j + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        t[j + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}
#elif defined(__AVX2__)
static inline __attribute__((always_inline)) void transpose8(__m256 t[8]) {
    __m256 u[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) { /* t[i+j] has columns j and j+4 of rows i..i+3 */
        u[i] = _mm256_unpacklo_ps(t[i], t[i + 1]);
        u[i + 1] = _mm256_unpackhi_ps(t[i], t[i + 1]);
        u[i + 2] = _mm256_unpacklo_ps(t[i + 2], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_ps(t[i + 2], t[i + 3]);
        t[i] = _mm256_shuffle_ps(u[i], u[i + 2], 0x44);
        t[i + 1] = _mm256_shuffle_ps(u[i], u[i + 2], 0xee);
        t[i + 2] = _mm256_shuffle_ps(u[i + 1], u[i + 3], 0x44);
        t[i + 3] = _mm256_shuffle_ps(u[i + 1], u[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256 low = t[j], high = t[j + 4];
        t[j] = _mm256_permute2f128_ps(low, high, 0x20);
        t[j + 4] = _mm256_permute2f128_ps(low, high, 0x31);
    }
}

static inline __attribute__((always_inline)) void transpose16(vf t[VF]) {
    __m256 q[4][8]; /* quarters: rows 0-7 left, rows 0-7 right, rows 8-15 left, rows 8-15 right */
    for (int i = 0; i < 8; i++) {
        q[0][i] = t[i].a;
        q[1][i] = t[i].b;
        q[2][i] = t[i + 8].a;
        q[3][i] = t[i + 8].b;
    }
    for (int i = 0; i < 4; i++) transpose8(q[i]);
    for (int i = 0; i < 8; i++) {
        t[i] = (vf){q[0][i], q[2][i]};
        t[i + 8] = (vf){q[1][i], q[3][i]};
    }
}
#else
static inline void transpose16(vf t[VF]) {
    for (int i = 0; i < VF; i++)
        for (int j = 0; j < i; j++) {
            float x = t[i].v[j];
            t[i].v[j] = t[j].v[i];
            t[j].v[i] = x;
        }
}
#endif

/* Sixteen lanes [word][width] from `lines` lines of `words` words of 32 bits, `stride` bytes apart; the lanes beyond repeat the last line. */
static void copy_transposed(float *to, size_t width, const char *from, size_t stride, int lines, int words) {
    const char *line[VF];
    for (int i = 0; i < VF; i++) line[i] = from + (size_t)kern_min(i, lines - 1) * stride;
    int w = 0;
    for (; w + VF <= words; w += VF) {
        vf t[VF];
#pragma GCC unroll 16
        for (int i = 0; i < VF; i++) t[i] = vf_load_words(line[i] + (size_t)w * sizeof(float));
        transpose16(t);
#pragma GCC unroll 16
        for (int i = 0; i < VF; i++) vf_store(to + (size_t)(w + i) * width, t[i]);
    }
    for (; w < words; w++)
        for (int i = 0; i < VF; i++) memcpy(&to[(size_t)w * width + (size_t)i], line[i] + (size_t)w * sizeof(float), sizeof(float));
}

/* to[(unit - begin)*width + i] = unit of line + i, or of A its terms, for i < lines <= width, begin <= unit < begin + units. */
static void copy_panel(float *to, int width, const operand *x, int line, int lines, int begin, int units) {
    for (int i = 0; i < lines; i += VF) x->copy(to + i, (size_t)width, x, line + i, kern_min(VF, lines - i), begin, units);
}

/* ---- tiles ------------------------------------------------------------------------------------------------------------------------ */

/* Memory the next panel will be copied from, asked for while this one is worked on: per unit d of a tile the two addresses
 * first[.] + d/VF*far + d%VF*near. */
typedef struct prefetch {
    const char *first[2];
    size_t far, near; /* bytes */
} prefetch;

typedef struct tile {
    const float *a, *b; /* panels */
    int units, cols;    /* cols: of NR, that exist in C */
    const float *from;  /* where the chains come from; NULL: zero */
    float *to;
    size_t from_ld, to_ld;
    const float *bias; /* of the tile's first column, or NULL: none, or not the last step */
    bool add;          /* to = to + chain */
    prefetch ahead;
} tile;

static inline vf load_lanes(const float *p, int n) { return n >= VF ? vf_load(p) : n > 0 ? vf_load_n(p, n, 0.0f) : vf_zero(); }
static inline void store_lanes(float *p, vf x, int n) {
    if (n >= VF)
        vf_store(p, x);
    else if (n > 0)
        vf_store_n(p, x, n);
}

/* `rows` is a constant wherever these are called, so that the sums live in registers. */
static inline __attribute__((always_inline)) void tile_step(vf sum[MR][NV], const float *a, const float *b, const int rows) {
#pragma GCC unroll 2
    for (int term = 0; term < TERMS; term++) {
        const float *terms = a + chain_place(term) * rows;
        vf col[NV];
        for (int v = 0; v < NV; v++) col[v] = chain_term(vf_load(b + v * VF), term);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            vf row = vf_set1(terms[i]);
            for (int v = 0; v < NV; v++) sum[i][v] = chain_step(row, col[v], sum[i][v]);
        }
    }
}

static inline __attribute__((always_inline)) void tile_chains(const tile *t, vf sum[MR][NV], const int rows) {
    const float *a = t->a, *b = t->b;
    const char *line0 = t->ahead.first[0], *line1 = t->ahead.first[1];
    int d = 0;
    for (; d + VF <= t->units; d += VF, line0 += t->ahead.far, line1 += t->ahead.far)
        for (size_t i = 0; i < VF; i++, a += rows * TERMS, b += NR) {
            __builtin_prefetch(line0 + i * t->ahead.near);
            __builtin_prefetch(line1 + i * t->ahead.near);
            tile_step(sum, a, b, rows);
        }
    for (; d < t->units; d++, a += rows * TERMS, b += NR) tile_step(sum, a, b, rows);
}

static inline __attribute__((always_inline)) void tile_run(const tile *t, const int rows) {
    vf sum[MR][NV];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) {
            sum[i][v] = t->from ? load_lanes(t->from + (size_t)i * t->from_ld + v * VF, t->cols - v * VF) : vf_zero();
            __builtin_prefetch(t->to + (size_t)(i + rows) * t->to_ld + v * VF, 1); /* where the next tile will go */
        }
    tile_chains(t, sum, rows);
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) {
            int lanes = t->cols - v * VF;
            float *to = t->to + (size_t)i * t->to_ld + v * VF;
            vf y = sum[i][v];
            if (t->bias) y = chain_add(y, load_lanes(t->bias + v * VF, lanes));
            if (t->add) y = chain_add(load_lanes(to, lanes), y);
            store_lanes(to, y, lanes);
        }
}

#define TILE_FUNCTION(rows) static void tile_##rows(const tile *t) { tile_run(t, rows); }
FOR_TILE_ROWS(TILE_FUNCTION)
#define TILE_ENTRY(rows) tile_##rows,
static void (*const tile_of_rows[MR + 1])(const tile *t) = {NULL, FOR_TILE_ROWS(TILE_ENTRY)};

/* ---- one task --------------------------------------------------------------------------------------------------------------------- */

/* A block of C: rows row .. row+rows-1, columns col .. col+cols-1. Its rows are dealt to panels evenly: 16 are 8 + 8, not 14 + 2. */
typedef struct block {
    int row, rows, col, cols, panels;
} block;

static block block_of(const product *p, int task) {
    block b;
    b.row = task / p->col_tasks * p->task_rows;
    b.col = task % p->col_tasks * p->task_cols;
    b.rows = kern_min(p->task_rows, p->rows - b.row);
    b.cols = kern_min(p->task_cols, p->cols - b.col);
    b.panels = (b.rows + MR - 1) / MR;
    return b;
}

static int panel_begin(const block *b, int panel) { return (int)((int64_t)b->rows * panel / b->panels); }

static void copy_row_panels(workspace *space, const product *p, const block *b, int begin, int units) {
    for (int panel = 0; panel < b->panels; panel++) {
        int row = panel_begin(b, panel), rows = panel_begin(b, panel + 1) - row;
        copy_panel(space->rows + (size_t)row * (size_t)units * TERMS, rows, &p->a, b->row + row, rows, begin, units);
    }
}

/* Shares the lines of the column panel at (col, begin) among the first tiles: two to one tile, else one to each of the first two. */
static prefetch prefetch_for(const operand *x, int col, int begin, int panel, int panels) {
    const size_t half = x->along_depth ? DEPTH / VF * x->line : VF * x->line;
    const char *first = address_of(x, col, begin), *second = NV == 1 ? first : first + half;
    if (panels > 1 && panel == 0) second = first;
    if (panels > 1 && panel == 1) first = second;
    return x->along_depth ? (prefetch){{first, second}, x->line, VF * x->unit} : (prefetch){{first, second}, VF * x->unit, x->unit};
}

/* One step over depth of one column panel: fills in where the chains come from and go to, and runs its tiles. */
static void run_column_panel(workspace *space, const product *p, const block *b, int col, int begin, int units) {
    bool more = col + NR < b->cols;
    int next_col = b->col + (more ? col + NR : 0), next_begin = more || begin + DEPTH >= p->units ? begin : begin + DEPTH;
    const size_t ld = (size_t)p->cols;
    bool first = begin == 0, last = begin + units == p->units, aside = p->start == ADDED;
    float *c = p->c + (size_t)b->row * ld + (size_t)(b->col + col);
    float *chains = aside ? space->chains + col : c;
    size_t chains_ld = aside ? TASK_COLS : ld;
    tile t = {
        .b = space->cols,
        .units = units,
        .cols = kern_min(NR, b->cols - col),
        .from_ld = chains_ld,
        .to_ld = last ? ld : chains_ld,
        .bias = last && p->bias ? p->bias + b->col + col : NULL,
        .add = last && aside,
    };
    for (int panel = 0; panel < b->panels; panel++) {
        int row = panel_begin(b, panel), rows = panel_begin(b, panel + 1) - row;
        t.a = space->rows + (size_t)row * (size_t)units * TERMS;
        t.from = first && p->start != FROM_C ? NULL : chains + (size_t)row * chains_ld;
        t.to = (last ? c : chains) + (size_t)row * t.to_ld;
        t.ahead = panel < 2 ? prefetch_for(&p->b, next_col, next_begin, panel, b->panels) : (prefetch){{(const char *)t.a, (const char *)t.a}, 0, 0};
        tile_of_rows[rows](&t);
    }
}

static void product_task(const product *p, workspace *space, int task) {
    block b = block_of(p, task);
    for (int begin = 0; begin == 0 || begin < p->units; begin += DEPTH) { /* without depth too: the chain is its start */
        int units = kern_min(DEPTH, p->units - begin);
        copy_row_panels(space, p, &b, begin, units);
        for (int col = 0; col < b.cols; col += NR) {
            copy_panel(space->cols, NR, &p->b, b.col + col, kern_min(NR, b.cols - col), begin, units);
            run_column_panel(space, p, &b, col, begin, units);
        }
    }
}

#if defined(__AVX2__)
#include "kernels/cpu/isa/few_rows.h"
#else /* blocks transposed in registers are only for vector registers, and slow to compile without */
enum { STREAM_COLS = NR, LANE_COLS = NR };
static path path_of(const product *p) {
    (void)p;
    return BY_PANELS;
}
static void few_rows_task(const product *p, void *space, int task, bool first) { (void)p, (void)space, (void)task, (void)first; }
#endif

/* ---- cutting into tasks ----------------------------------------------------------------------------------------------------------- */

/* Cuts C evenly into blocks as large as allowed, and the columns finer until every thread has a few, so that none waits long for
 * another. */
static int cut(product *p, int threads) {
    static const int widths[] = {[BY_PANELS] = NR, [BY_STREAMS] = STREAM_COLS, [BY_LANES] = LANE_COLS};
    int width = widths[p->path]; /* a task has whole panels, or two would add to the same columns */
    int row_tasks = p->path == BY_LANES ? 1 : divide_up(p->rows, TASK_ROWS), panels = divide_up(p->cols, width);
    p->task_rows = divide_up(p->rows, row_tasks);
    int wanted = threads > 1 ? divide_up(4 * threads, row_tasks) : 1;
    int per_task = kern_min(TASK_COLS / width, divide_up(panels, wanted));
    p->task_cols = divide_up(panels, divide_up(panels, per_task)) * width;
    p->col_tasks = divide_up(p->cols, p->task_cols);
    return row_tasks * p->col_tasks;
}

typedef struct product_job {
    const product *product;
    kern_cpu_ctx *ctx;
    bool begun[KERN_MAX_THREADS]; /* the thread has had a task */
} product_job;

/* Not inlined: the compiler does not know that chain_enter means the arithmetic here. */
static __attribute__((noinline)) void run_chains(product_job *job, int task, int thread) {
    const product *p = job->product;
    void *space = kern_scratch(job->ctx, thread);
    if (p->path == BY_PANELS)
        product_task(p, space, task);
    else
        few_rows_task(p, space, task, !job->begun[thread]);
    job->begun[thread] = true;
}

static void run_task(void *job, int task, int thread) {
    const unsigned before = chain_enter();
    run_chains(job, task, thread);
    chain_leave(before);
}

static void run_product(kern_cpu_ctx *ctx, product p) {
    if (p.rows == 0 || p.cols == 0) return;
    p.units = divide_up(p.b.depth, UNIT);
    p.path = path_of(&p);
    product_job job = {.product = &p, .ctx = ctx};
    kern_pool_run(ctx->pool, cut(&p, ctx->threads), run_task, &job);
}

#endif
