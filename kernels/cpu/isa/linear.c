/* Matrix products: C (rows, cols) from A (rows, depth) and B (depth, cols), for the forward product and its two gradients.
 *
 * Every element of C is one chain of fused multiply-adds over depth ascending (THE RULE), so which elements are worked on together is free,
 * and only ever changes speed. The scheme is that of Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (TOMS 2008):
 *
 *   task     a block of at most TASK_ROWS x TASK_COLS elements of C, for one thread; tasks share nothing
 *   depth    in steps of DEPTH; between steps the chains rest in C as float32, which loses nothing
 *   panel    MR rows of A, or NR columns of B, over one step, copied to [depth][MR] or [depth][NR]: all row panels of the task (second-
 *            level cache), but one column panel at a time (first-level cache), used for all its rows and dropped. So weights stay
 *            row-major in memory, and no second copy of them is kept anywhere
 *   tile     MR x NR chains in registers over one step
 *
 * B may be stored as bfloat16: it is widened, exactly, where panels are copied, and nothing after that knows. Along depth two neighbours
 * share 32 bits, so one transpose of sixteen lanes moves 32 depths.
 *
 * With few rows (decoding) the copy of B is most of the work; two more ways of going through the same chains follow, for up to four rows
 * and for batches; path_of chooses. */
#include "kernels/cpu/isa/isa.h"

#if defined(__AVX512F__)
enum { MR = 14, NV = 2, STREAMS = 1 }; /* 28 sums, 2 columns, 2 rows: 32 registers */
#define FOR_TILE_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif defined(__AVX2__)
enum { MR = 6, NV = 1, STREAMS = 1 }; /* 12 sums, 2 columns, 2 rows: 16 registers */
#define FOR_TILE_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
enum { MR = 4, NV = 1, STREAMS = 0 }; /* blocks transposed in registers are only for vector registers, and slow to compile without */
#define FOR_TILE_ROWS(X) X(1) X(2) X(3) X(4)
#endif

enum {
    NR = NV * VF,
    DEPTH = 256,
    TASK_ROWS = 518,
    TASK_COLS = 512,
    SLACK = VF /* a copied line may write this far past its panel */
};

/* One of A and B. A line is a row of C for A, a column of C for B. Element (line, d) is ptr[line*ld + d] if along_depth, else
 * ptr[d*ld + line]. */
typedef struct operand {
    const void *ptr; /* float, or uint16_t holding bfloat16 */
    size_t ld;
    bool along_depth, bf16;
} operand;

static size_t place_of(const operand *x, int line, int d) {
    return x->along_depth ? (size_t)line * x->ld + (size_t)d : (size_t)d * x->ld + (size_t)line;
}
static size_t element_size(const operand *x) { return x->bf16 ? sizeof(uint16_t) : sizeof(float); }
static const char *address_of(const operand *x, int line, int d) { return (const char *)x->ptr + place_of(x, line, d) * element_size(x); }

typedef enum chain_start {
    FROM_ZERO, /* C = chain + bias */
    ADDED,     /* C = C + (chain + bias) */
    FROM_C     /* the chain begins with C */
} chain_start;

typedef enum path { BY_PANELS, BY_STREAMS, BY_LANES } path;

typedef struct product {
    operand a, b;
    float *c;
    const float *bias; /* (cols) or NULL */
    int rows, cols, depth;
    chain_start start;
    path path;
    int col_tasks, task_rows, task_cols; /* how C is cut: see cut() */
} product;

/* What a thread keeps in its scratch. */
typedef struct workspace {
    float rows[TASK_ROWS * DEPTH + SLACK]; /* the row panels, one after the other */
    float cols[NR * DEPTH + SLACK];        /* the column panel */
    float chains[TASK_ROWS * TASK_COLS];   /* C between steps, where C itself holds what the result is added to */
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

/* Sixteen lanes of a panel from `lines` (1..16) lines along depth; the lanes beyond repeat the last line and are never used.
 * Where width < 16 a store runs into the next depth's place, which is written after it. */
static void copy_along_depth(float *to, size_t width, const float *from, size_t ld, int lines, int depth) {
    const float *line[VF];
    for (int i = 0; i < VF; i++) line[i] = from + (size_t)kern_min(i, lines - 1) * ld;
    int d = 0;
    for (; d + VF <= depth; d += VF) {
        vf t[VF];
#pragma GCC unroll 16
        for (int i = 0; i < VF; i++) t[i] = vf_load(line[i] + d);
        transpose16(t);
#pragma GCC unroll 16
        for (int i = 0; i < VF; i++) vf_store(to + (size_t)(d + i) * width, t[i]);
    }
    for (; d < depth; d++)
        for (int i = 0; i < VF; i++) to[(size_t)d * width + (size_t)i] = line[i][d];
}

static void copy_along_depth_bf16(float *to, size_t width, const uint16_t *from, size_t ld, int lines, int depth) {
    const uint16_t *line[VF];
    for (int i = 0; i < VF; i++) line[i] = from + (size_t)kern_min(i, lines - 1) * ld;
    int d = 0;
    for (; d + 2 * VF <= depth; d += 2 * VF) {
        vf t[VF];
#pragma GCC unroll 16
        for (int i = 0; i < VF; i++) t[i] = vf_load_words(line[i] + d);
        transpose16(t);
#pragma GCC unroll 16
        for (int i = 0; i < VF; i++) {
            vf_store(to + (size_t)(d + 2 * i) * width, vf_first_of_pairs(t[i]));
            vf_store(to + (size_t)(d + 2 * i + 1) * width, vf_second_of_pairs(t[i]));
        }
    }
    for (; d < depth; d++)
        for (int i = 0; i < VF; i++) to[(size_t)d * width + (size_t)i] = kern_float_of_bf16(line[i][d]);
}

static void copy_across_depth(float *to, size_t width, const float *from, size_t ld, int lines, int depth) {
    if (lines >= VF) {
        for (int d = 0; d < depth; d++) vf_store(to + (size_t)d * width, vf_load(from + (size_t)d * ld));
        return;
    }
    for (int d = 0; d < depth; d++) vf_store(to + (size_t)d * width, vf_load_n(from + (size_t)d * ld, lines, 0.0f));
}

static void copy_across_depth_bf16(float *to, size_t width, const uint16_t *from, size_t ld, int lines, int depth) {
    for (int d = 0; d < depth; d++) {
        const uint16_t *line = from + (size_t)d * ld;
        if (lines >= VF)
            vf_store(to + (size_t)d * width, vf_load_bf16(line));
        else
            for (int i = 0; i < lines; i++) to[(size_t)d * width + (size_t)i] = kern_float_of_bf16(line[i]);
    }
}

/* to[(d - begin)*width + i] = element (line + i, d) for i < lines <= width, begin <= d < begin + depth. */
static void copy_panel(float *to, int width, const operand *x, int line, int lines, int begin, int depth) {
    for (int i = 0; i < lines; i += VF) {
        int lanes = kern_min(VF, lines - i);
        const void *from = address_of(x, line + i, begin);
        if (x->bf16)
            (x->along_depth ? copy_along_depth_bf16 : copy_across_depth_bf16)(to + i, (size_t)width, from, x->ld, lanes, depth);
        else
            (x->along_depth ? copy_along_depth : copy_across_depth)(to + i, (size_t)width, from, x->ld, lanes, depth);
    }
}

/* ---- tiles ------------------------------------------------------------------------------------------------------------------------ */

/* Memory the next panel will be copied from, asked for while this one is worked on: per step d of a tile the two addresses
 * first[.] + d/VF*far + d%VF*near. A cache line has sixteen floats; one of bfloat16 is asked for twice. */
typedef struct prefetch {
    const char *first[2];
    size_t far, near; /* bytes */
} prefetch;

typedef struct tile {
    const float *a, *b; /* panels */
    int depth, cols;    /* cols: of NR, that exist in C */
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
    vf col[NV];
    for (int v = 0; v < NV; v++) col[v] = vf_load(b + v * VF);
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        vf row = vf_set1(a[i]);
        for (int v = 0; v < NV; v++) sum[i][v] = vf_fma(row, col[v], sum[i][v]);
    }
}

static inline __attribute__((always_inline)) void tile_chains(const tile *t, vf sum[MR][NV], const int rows) {
    const float *a = t->a, *b = t->b;
    const char *line0 = t->ahead.first[0], *line1 = t->ahead.first[1];
    int d = 0;
    for (; d + VF <= t->depth; d += VF, line0 += t->ahead.far, line1 += t->ahead.far)
        for (size_t i = 0; i < VF; i++, a += rows, b += NR) {
            __builtin_prefetch(line0 + i * t->ahead.near);
            __builtin_prefetch(line1 + i * t->ahead.near);
            tile_step(sum, a, b, rows);
        }
    for (; d < t->depth; d++, a += rows, b += NR) tile_step(sum, a, b, rows);
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
            if (t->bias) y = vf_add(y, load_lanes(t->bias + v * VF, lanes));
            if (t->add) y = vf_add(load_lanes(to, lanes), y);
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

static void copy_row_panels(workspace *space, const product *p, const block *b, int begin, int depth) {
    for (int panel = 0; panel < b->panels; panel++) {
        int row = panel_begin(b, panel), rows = panel_begin(b, panel + 1) - row;
        copy_panel(space->rows + (size_t)row * (size_t)depth, rows, &p->a, b->row + row, rows, begin, depth);
    }
}

/* Shares the lines of the column panel at (col, begin) among the first tiles: two to one tile, else one to each of the first two. */
static prefetch prefetch_for(const operand *x, int col, int begin, int panel, int panels) {
    const size_t size = element_size(x), ld = x->ld * size, half = x->along_depth ? DEPTH / VF * ld : VF * size;
    const char *first = address_of(x, col, begin), *second = NV == 1 ? first : first + half;
    if (panels > 1 && panel == 0) second = first;
    if (panels > 1 && panel == 1) first = second;
    return x->along_depth ? (prefetch){{first, second}, ld, VF * size} : (prefetch){{first, second}, VF * ld, ld};
}

/* One step over depth of one column panel: fills in where the chains come from and go to, and runs its tiles. */
static void run_column_panel(workspace *space, const product *p, const block *b, int col, int begin, int depth) {
    bool more = col + NR < b->cols;
    int next_col = b->col + (more ? col + NR : 0), next_begin = more || begin + DEPTH >= p->depth ? begin : begin + DEPTH;
    const size_t ld = (size_t)p->cols;
    bool first = begin == 0, last = begin + depth == p->depth, aside = p->start == ADDED;
    float *c = p->c + (size_t)b->row * ld + (size_t)(b->col + col);
    float *chains = aside ? space->chains + col : c;
    size_t chains_ld = aside ? TASK_COLS : ld;
    tile t = {
        .b = space->cols,
        .depth = depth,
        .cols = kern_min(NR, b->cols - col),
        .from_ld = chains_ld,
        .to_ld = last ? ld : chains_ld,
        .bias = last && p->bias ? p->bias + b->col + col : NULL,
        .add = last && aside,
    };
    for (int panel = 0; panel < b->panels; panel++) {
        int row = panel_begin(b, panel), rows = panel_begin(b, panel + 1) - row;
        t.a = space->rows + (size_t)row * (size_t)depth;
        t.from = first && p->start != FROM_C ? NULL : chains + (size_t)row * chains_ld;
        t.to = (last ? c : chains) + (size_t)row * t.to_ld;
        t.ahead = panel < 2 ? prefetch_for(&p->b, next_col, next_begin, panel, b->panels) : (prefetch){{(const char *)t.a, (const char *)t.a}, 0, 0};
        tile_of_rows[rows](&t);
    }
}

static void product_task(const product *p, workspace *space, int task) {
    block b = block_of(p, task);
    for (int begin = 0; begin < p->depth; begin += DEPTH) {
        int depth = kern_min(DEPTH, p->depth - begin);
        copy_row_panels(space, p, &b, begin, depth);
        for (int col = 0; col < b.cols; col += NR) {
            copy_panel(space->cols, NR, &p->b, b.col + col, kern_min(NR, b.cols - col), begin, depth);
            run_column_panel(space, p, &b, col, begin, depth);
        }
    }
}

/* ---- a few rows ------------------------------------------------------------------------------------------------------------------- */

/* Decoding one to STREAM_ROWS rows: every weight is used once per row, so the time is that of reading them. Sixteen columns'
 * chains run through the whole depth in registers, fed by blocks of sixteen cache lines of weights (16 depths of float32, or 32 of
 * bfloat16) transposed in registers; STREAM_GROUPS such groups side by side keep enough chains in flight, and what they will need next is
 * asked for one panel, a contiguous piece of memory, ahead, beyond the last column too, where the layer's next matrix begins: into the
 * second-level cache, as a panel may be more than the first one holds. */
enum { STREAM_ROWS = 4, STREAM_GROUPS = 2, STREAM_COLS = STREAM_GROUPS * VF, LINE_BYTES = VF * sizeof(float) };

/* Makes the compiler take a pointer as new, so that it works out addresses from few registers, not one pointer per line. */
#define FRESH_POINTER(p) __asm__("" : "+r"(p))

/* t = the transposed block of sixteen cache lines at `from`, a line every `stride` bytes; asks for the sixteen lines at `ahead`. */
static inline __attribute__((always_inline)) void load_block(vf t[VF], const char *from, size_t stride, const char *ahead) {
#pragma GCC unroll 4
    for (int i = 0; i < VF; i += 4, from += 4 * stride) {
        FRESH_POINTER(from);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            t[i + j] = vf_load_words(from + (size_t)j * stride);
            __builtin_prefetch(ahead + (i + j) * LINE_BYTES, 0, 2);
        }
    }
    transpose16(t);
}

/* Stores `lanes` columns of a row, their chains being `sum`. */
static inline __attribute__((always_inline)) void finish_lanes(const product *p, vf sum, int row, int col, int lanes) {
    float *to = p->c + (size_t)row * (size_t)p->cols + (size_t)col;
    if (p->bias) sum = vf_add(sum, load_lanes(p->bias + col, lanes));
    if (p->start == ADDED) sum = vf_add(load_lanes(to, lanes), sum);
    store_lanes(to, sum, lanes);
}

/* The chains of one group over the depths of a block: d, d+1, ... */
static inline __attribute__((always_inline)) void stream_block(vf sum[STREAM_ROWS], const vf t[VF], const float *x, size_t x_ld,
                                                               const int rows, const bool bf16) {
#pragma GCC unroll 16
    for (int i = 0; i < VF; i++) {
        if (!bf16) {
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) sum[r] = vf_fma(vf_set1(x[(size_t)r * x_ld + (size_t)i]), t[i], sum[r]);
            continue;
        }
        vf first = vf_first_of_pairs(t[i]), second = vf_second_of_pairs(t[i]);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sum[r] = vf_fma(vf_set1(x[(size_t)r * x_ld + (size_t)(2 * i)]), first, sum[r]);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sum[r] = vf_fma(vf_set1(x[(size_t)r * x_ld + (size_t)(2 * i + 1)]), second, sum[r]);
    }
}

/* One depth of sixteen lines, one by one: what a last block that is not whole consists of. */
static inline vf gather_lanes(const operand *x, int line, int d) {
    float lane[VF];
    for (int i = 0; i < VF; i++) {
        const void *from = address_of(x, line + i, d);
        lane[i] = x->bf16 ? kern_float_of_bf16(*(const uint16_t *)from) : *(const float *)from;
    }
    return vf_load(lane);
}

static inline __attribute__((always_inline)) void stream_panel(const product *p, int col, const char *ahead, const int rows,
                                                               const bool bf16) {
    const int step = bf16 ? 2 * VF : VF;
    const size_t x_ld = p->a.ld, stride = p->b.ld * (bf16 ? sizeof(uint16_t) : sizeof(float));
    const float *x = p->a.ptr;
    const char *from = (const char *)p->b.ptr + (size_t)col * stride;
    vf sum[STREAM_GROUPS][STREAM_ROWS];
    for (int g = 0; g < STREAM_GROUPS; g++)
        for (int r = 0; r < rows; r++) sum[g][r] = vf_zero();
    int d = 0;
    for (; d + step <= p->depth; d += step, from += LINE_BYTES)
#pragma GCC unroll 2
        for (int g = 0; g < STREAM_GROUPS; g++, ahead += VF * LINE_BYTES) {
            vf t[VF];
            load_block(t, from + (size_t)g * VF * stride, stride, ahead);
            stream_block(sum[g], t, x + d, x_ld, rows, bf16);
        }
    for (; d < p->depth; d++)
        for (int g = 0; g < STREAM_GROUPS; g++) {
            vf t = gather_lanes(&p->b, col + g * VF, d);
            for (int r = 0; r < rows; r++) sum[g][r] = vf_fma(vf_set1(x[(size_t)r * x_ld + (size_t)d]), t, sum[g][r]);
        }
    for (int g = 0; g < STREAM_GROUPS; g++)
        for (int r = 0; r < rows; r++) finish_lanes(p, sum[g][r], r, col + g * VF, VF);
}

#define STREAM_FUNCTION(rows)                                                             \
    static void stream_##rows(const product *p, int col, const char *ahead) {             \
        if (p->b.bf16)                                                                    \
            stream_panel(p, col, ahead, rows, true);                                      \
        else                                                                              \
            stream_panel(p, col, ahead, rows, false);                                     \
    }
STREAM_FUNCTION(1)
STREAM_FUNCTION(2)
STREAM_FUNCTION(3)
STREAM_FUNCTION(4)
static void (*const stream_of_rows[STREAM_ROWS + 1])(const product *p, int col,
                                                     const char *ahead) = {NULL, stream_1, stream_2, stream_3, stream_4};

static void stream_task(const product *p, int task) {
    int end = kern_min(p->cols, (task + 1) * p->task_cols);
    for (int col = task * p->task_cols; col < end; col += STREAM_COLS)
        stream_of_rows[p->rows](p, col, address_of(&p->b, col + STREAM_COLS, 0));
}

/* ---- rows as lanes ---------------------------------------------------------------------------------------------------------------- */

/* Decoding a batch: a vector holds one depth of sixteen rows, and a weight is repeated over it, so that weights need no transposing, which
 * would be half as much work as the chains of sixteen rows. A tile is LANE_COLS columns of one vector of rows, or half as many of two; its
 * chains run through the whole depth in registers. Weights come in blocks of LANE_DEPTH depths, [column][depth], copied (and widened) one
 * block ahead of their use, between the multiplications, and what follows the tile in memory is asked for meanwhile: the next tile, or
 * the next task, or the layer's next matrix. The rows lie transposed, [depth][rows of the panel], in a thread's scratch during all its
 * tasks. */
#if defined(__AVX512F__)
enum { LANE_COLS = 24, LANE_VECS = 2 }; /* 24 sums, 2 vectors of rows, a weight: 27 of 32 registers */
#else
enum { LANE_COLS = 6, LANE_VECS = 1 }; /* 12 sums, 2, 1: 15 of 16 registers */
#endif
enum {
    LANE_PART = LANE_COLS / 3,  /* columns of a tile at the end of a task, where fewer are left */
    LANE_ROWS = LANE_VECS * VF, /* of a panel; the last one may be of one vector */
    LANE_DEPTH = 64,
    LANE_HELD = 48,             /* columns whose chains wait, so that C is written by whole cache lines */
    LANE_ROOM = 4 << 20,        /* floats of transposed rows */
    MOST_LANES = 128            /* with more rows the other way costs no more, and wastes no lanes */
};

typedef struct lane_space {
    float block[2][LANE_COLS * LANE_DEPTH]; /* weights: in use, and being copied */
    float sums[LANE_HELD * LANE_ROWS];      /* [column][row] */
    float rows[LANE_ROOM + SLACK];
} lane_space;
_Static_assert(sizeof(lane_space) <= KERN_SCRATCH_BYTES, "transposed rows must fit into a thread's scratch");

typedef struct lane_tile {
    const char *from, *next; /* the columns' weights; those of the tile that follows, of as many columns */
    size_t stride;           /* bytes from column to column */
    const float *rows;
    int depth;
    int turn; /* the block that holds the first weights */
    float *sums;
} lane_tile;

/* Copies LANE_DEPTH depths of `cols` columns `to`, and asks for as much memory at `ahead`. */
static inline __attribute__((always_inline)) void lane_copy(float *to, const char *from, size_t stride, const char *ahead,
                                                            const int cols, const bool bf16) {
    for (int c = 0; c < cols; c++, from += stride)
#pragma GCC unroll 4
        for (int i = 0; i < LANE_DEPTH; i += VF, to += VF) {
            vf_store(to, bf16 ? vf_load_bf16((const uint16_t *)from + i) : vf_load((const float *)from + i));
            if (bf16 && i % (2 * VF)) continue; /* a line has two vectors */
            __builtin_prefetch(ahead, 0, 2);
            ahead += LINE_BYTES;
        }
}

/* The chains over `depth` depths. */
static inline __attribute__((always_inline)) void lane_chains(vf sum[LANE_COLS], const float *weights, const float *rows, const int depth,
                                                              const int vecs, const int cols) {
#pragma GCC unroll 1
    for (int d = 0; d < depth; d++, rows += vecs * VF, weights++) {
        const vf first = vf_load(rows), second = vecs > 1 ? vf_load(rows + VF) : first;
#pragma GCC unroll 24
        for (int c = 0; c < cols; c++) {
            const vf weight = vf_set1(weights[c * LANE_DEPTH]);
            sum[c * vecs] = vf_fma(weight, first, sum[c * vecs]);
            if (vecs > 1) sum[c * vecs + 1] = vf_fma(weight, second, sum[c * vecs + 1]);
        }
    }
}

/* Leaves the chains in t->sums, and the first weights of the next tile in the block whose number it returns. */
static inline __attribute__((always_inline)) int lane_run(lane_space *space, const lane_tile *t, const int vecs, const int cols,
                                                          const bool bf16) {
    const int parts = cols % 8 == 0 ? 8 : cols % 4 == 0 ? 4 : 2, size = bf16 ? sizeof(uint16_t) : sizeof(float);
    const int part_cols = cols / parts, part_depth = LANE_DEPTH / parts;
    const float *rows = t->rows;
    const char *ahead = t->from + cols * t->stride;
    int turn = t->turn;
    vf sum[LANE_COLS];
#pragma GCC unroll 24
    for (int i = 0; i < cols * vecs; i++) sum[i] = vf_zero();
    for (int d = LANE_DEPTH; d <= t->depth; d += LANE_DEPTH, turn = !turn) {
        const char *from = d < t->depth ? t->from + (size_t)d * size : t->next;
        for (int part = 0; part < parts; part++) {
            lane_copy(space->block[!turn] + part * part_cols * LANE_DEPTH, from, t->stride, ahead, part_cols, bf16);
            lane_chains(sum, space->block[turn] + part * part_depth, rows, part_depth, vecs, cols);
            from += part_cols * t->stride;
            ahead += part_cols * LANE_DEPTH * size;
            rows += part_depth * vecs * VF;
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < cols * vecs; i++) vf_store(t->sums + i * VF, sum[i]);
    return turn;
}

#define LANE_FUNCTION(name, vecs, cols)                                                                                                    \
    static int name(lane_space *space, const lane_tile *t, bool bf16) {                                                                    \
        return bf16 ? lane_run(space, t, vecs, cols, true) : lane_run(space, t, vecs, cols, false);                                        \
    }
LANE_FUNCTION(lane_narrow, 1, LANE_COLS)
LANE_FUNCTION(lane_narrow_part, 1, LANE_PART)
LANE_FUNCTION(lane_wide, LANE_VECS, LANE_COLS / LANE_VECS)
LANE_FUNCTION(lane_wide_part, LANE_VECS, LANE_PART / LANE_VECS)

/* From space->sums to C. */
static void lane_finish(const product *p, const float *sums, int vecs, int cols, int row, int rows, int col) {
    for (int v = 0; v < vecs; v++)
        for (int c = 0; c < cols; c += VF) {
            const int lanes = kern_min(VF, cols - c);
            vf t[VF];
            for (int i = 0; i < VF; i++) t[i] = i < lanes ? vf_load(sums + ((c + i) * vecs + v) * VF) : vf_zero();
            transpose16(t);
            for (int r = 0; r < VF && v * VF + r < rows; r++) finish_lanes(p, t[r], row + v * VF + r, col + c, lanes);
        }
}

/* All the task's columns for the panel of rows that begins at `row`. */
static void lane_panel(lane_space *space, const product *p, int row, int col, int end) {
    const int rows = kern_min(LANE_ROWS, p->rows - row), vecs = rows > VF ? LANE_VECS : 1;
    lane_tile t = {.stride = p->b.ld * element_size(&p->b), .rows = space->rows + (size_t)row * (size_t)p->depth, .depth = p->depth};
    int held = 0;
    for (int cols, ready = 0; col < end; col += cols) {
        const bool part = end - col < LANE_COLS / vecs;
        cols = (part ? LANE_PART : LANE_COLS) / vecs;
        const bool more = end - col >= 2 * cols;
        t.from = address_of(&p->b, col, 0);
        t.next = more ? address_of(&p->b, col + cols, 0) : t.from;
        t.sums = space->sums + held * vecs * VF;
        if (!ready) lane_copy(space->block[t.turn], t.from, t.stride, t.from, cols, p->b.bf16);
        t.turn = (vecs > 1 ? part ? lane_wide_part : lane_wide : part ? lane_narrow_part : lane_narrow)(space, &t, p->b.bf16);
        ready = more;
        held += cols;
        if (held < LANE_HELD && col + cols < end) continue;
        lane_finish(p, space->sums, vecs, held, row, rows, col + cols - held);
        held = 0;
    }
}

static void copy_lane_rows(lane_space *space, const product *p) {
    for (int row = 0; row < p->rows; row += LANE_ROWS) {
        const int rows = kern_min(LANE_ROWS, p->rows - row);
        copy_panel(space->rows + (size_t)row * (size_t)p->depth, rows > VF ? LANE_ROWS : VF, &p->a, row, rows, 0, p->depth);
    }
}

static void lane_task(const product *p, lane_space *space, int task) {
    const int col = task * p->task_cols, end = kern_min(p->cols, col + p->task_cols);
    for (int row = 0; row < p->rows; row += LANE_ROWS) lane_panel(space, p, row, col, end);
}

/* ---- cutting into tasks ------------------------------------------------------------------------------------------------------------- */

static int divide_up(int a, int b) { return (a + b - 1) / b; }

/* The paths of few rows take whole panels of columns, weights along depth. By lanes, what is lost is the lanes beyond the last row; by
 * panels, the copies of weights, which cost about as much as the chains of 6 (bfloat16) or 12 rows more. */
static path path_of(const product *p) {
    const int lanes = divide_up(p->rows, VF) * VF, waste = p->b.bf16 ? 6 : 12;
    if (!STREAMS || !p->a.along_depth || !p->b.along_depth || p->start == FROM_C) return BY_PANELS;
    if (p->rows <= STREAM_ROWS) return p->cols % STREAM_COLS == 0 ? BY_STREAMS : BY_PANELS;
    if (p->cols % LANE_PART || p->depth % LANE_DEPTH || (int64_t)lanes * p->depth > LANE_ROOM) return BY_PANELS;
    return lanes <= MOST_LANES && lanes - p->rows <= waste ? BY_LANES : BY_PANELS;
}

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
    bool has_rows[KERN_MAX_THREADS]; /* BY_LANES: the thread's scratch holds the rows */
} product_job;

static void run_task(void *arg, int task, int thread) {
    product_job *job = arg;
    const product *p = job->product;
    void *space = kern_scratch(job->ctx, thread);
    if (p->path == BY_STREAMS) {
        stream_task(p, task);
    } else if (p->path == BY_PANELS) {
        product_task(p, space, task);
    } else {
        if (!job->has_rows[thread]) copy_lane_rows(space, p);
        job->has_rows[thread] = true;
        lane_task(p, space, task);
    }
}

/* No depth: the chain is its start. */
static void run_empty(const product *p) {
    if (p->start == FROM_C) return;
    for (int i = 0; i < p->rows; i++)
        for (int j = 0; j < p->cols; j++) {
            float *c = p->c + (size_t)i * (size_t)p->cols + (size_t)j;
            float y = p->bias ? 0.0f + p->bias[j] : 0.0f;
            *c = p->start == ADDED ? *c + y : y;
        }
}

static void run_product(kern_cpu_ctx *ctx, product p) {
    if (p.rows == 0 || p.cols == 0) return;
    if (p.depth == 0) {
        run_empty(&p);
        return;
    }
    p.path = path_of(&p);
    product_job job = {.product = &p, .ctx = ctx};
    kern_pool_run(ctx->pool, cut(&p, ctx->threads), run_task, &job);
}

/* ---- the operations --------------------------------------------------------------------------------------------------------------- */

void KERN_OP(linear)(kern_cpu_ctx *ctx, float *y, const float *x, const void *w, kern_dtype w_dtype, const float *bias, int m, int n, int k,
                     bool accumulate) {
    run_product(ctx, (product){
                         .a = {x, (size_t)k, true, false},
                         .b = {w, (size_t)k, true, w_dtype == KERN_BF16},
                         .c = y,
                         .bias = bias,
                         .rows = m,
                         .cols = n,
                         .depth = k,
                         .start = accumulate ? ADDED : FROM_ZERO,
                     });
}

void KERN_OP(linear_grad_input)(kern_cpu_ctx *ctx, float *dx, const float *dy, const void *w, kern_dtype w_dtype, int m, int n, int k,
                                bool accumulate) {
    run_product(ctx, (product){
                         .a = {dy, (size_t)n, true, false},
                         .b = {w, (size_t)k, false, w_dtype == KERN_BF16},
                         .c = dx,
                         .rows = m,
                         .cols = k,
                         .depth = n,
                         .start = accumulate ? ADDED : FROM_ZERO,
                     });
}

void KERN_OP(linear_grad_weight)(kern_cpu_ctx *ctx, float *dw, const float *dy, const float *x, kern_dtype w_dtype, int m, int n, int k) {
    (void)w_dtype; /* gradients of either are float32 chains */
    run_product(ctx, (product){
                         .a = {dy, (size_t)n, false, false},
                         .b = {x, (size_t)k, false, false},
                         .c = dw,
                         .rows = n,
                         .cols = k,
                         .depth = m,
                         .start = FROM_C,
                     });
}
