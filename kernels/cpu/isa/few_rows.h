/* few_rows: two ways of going through the chains of product.h for the products of decoding, where copying panels of weights would be most of
 * the work: for up to four rows, and for batches. path_of chooses. Part of product.h; for ISAs with vector registers. */
#ifndef RLF_KERNELS_CPU_ISA_FEW_ROWS_H
#define RLF_KERNELS_CPU_ISA_FEW_ROWS_H

/* ---- a few rows ------------------------------------------------------------------------------------------------------------------- */

/* Decoding one to STREAM_ROWS rows: every weight is used once per row, so the time is that of reading them. Sixteen columns' chains run
 * through the whole depth in registers, fed by blocks of sixteen cache lines of weights (16 units of 16 columns) transposed in registers;
 * STREAM_GROUPS such groups side by side keep enough chains in flight, and what they will need next is asked for one panel, a contiguous
 * piece of memory, ahead, beyond the last column too, where the layer's next matrix begins: into the second-level cache, as a panel may be
 * more than the first one holds. The rows' terms are the rows themselves, or lie in a thread's scratch during all its tasks. */
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
    if (p->bias) sum = chain_add(sum, load_lanes(p->bias + col, lanes));
    if (p->start == ADDED) sum = chain_add(load_lanes(to, lanes), sum);
    store_lanes(to, sum, lanes);
}

/* The terms of the rows. */
typedef struct stream_rows {
    const float *terms;
    size_t ld;
} stream_rows;

static void copy_stream_rows(float *to, const product *p) {
    for (int r = 0; r < p->rows; r++) copy_terms(to + (size_t)r * (size_t)p->units * TERMS, (const float *)address_of(&p->a, r, 0), p->a.depth);
}

static stream_rows stream_rows_of(const product *p, const float *space) {
    if (IN_PLACE) return (stream_rows){p->a.ptr, p->a.line / sizeof(float)};
    return (stream_rows){space, (size_t)p->units * TERMS};
}

/* The chains of one group over a block's units, whose terms of the first row are at x. */
static inline __attribute__((always_inline)) void stream_block(vf sum[STREAM_ROWS], const vf t[VF], const float *x, size_t ld,
                                                               const int rows) {
#pragma GCC unroll 16
    for (int i = 0; i < VF; i++)
#pragma GCC unroll 2
        for (int term = 0; term < TERMS; term++) {
            const vf col = chain_term(t[i], term);
            const float *row = x + i * TERMS + chain_place(term);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) sum[r] = chain_step(vf_set1(row[(size_t)r * ld]), col, sum[r]);
        }
}

/* The same for one unit: what a last block that is not whole consists of. */
static inline __attribute__((always_inline)) void stream_unit(vf sum[STREAM_ROWS], const vf units, const float *x, size_t ld,
                                                              const int rows) {
    for (int term = 0; term < TERMS; term++)
        for (int r = 0; r < rows; r++)
            sum[r] = chain_step(vf_set1(x[(size_t)r * ld + (size_t)chain_place(term)]), chain_term(units, term), sum[r]);
}

static inline __attribute__((always_inline)) void stream_panel(const product *p, stream_rows x, int col, const char *ahead,
                                                               const int rows) {
    const int whole = p->b.depth / UNIT / VF * VF;
    const char *from = address_of(&p->b, col, 0);
    vf sum[STREAM_GROUPS][STREAM_ROWS];
    for (int g = 0; g < STREAM_GROUPS; g++)
        for (int r = 0; r < rows; r++) sum[g][r] = vf_zero();
    int d = 0;
    for (; d < whole; d += VF, from += LINE_BYTES, x.terms += VF * TERMS)
#pragma GCC unroll 2
        for (int g = 0; g < STREAM_GROUPS; g++, ahead += VF * LINE_BYTES) {
            vf t[VF];
            load_block(t, from + (size_t)g * VF * p->b.line, p->b.line, ahead);
            stream_block(sum[g], t, x.terms, x.ld, rows);
        }
    for (; d < p->units; d++, x.terms += TERMS)
        for (int g = 0; g < STREAM_GROUPS; g++) {
            float units[VF];
            p->b.copy(units, VF, &p->b, col + g * VF, VF, d, 1);
            stream_unit(sum[g], vf_load(units), x.terms, x.ld, rows);
        }
    for (int g = 0; g < STREAM_GROUPS; g++)
        for (int r = 0; r < rows; r++) finish_lanes(p, sum[g][r], r, col + g * VF, VF);
}

#define STREAM_FUNCTION(rows)                                                                     \
    static void stream_##rows(const product *p, stream_rows x, int col, const char *ahead) {      \
        stream_panel(p, x, col, ahead, rows);                                                     \
    }
STREAM_FUNCTION(1)
STREAM_FUNCTION(2)
STREAM_FUNCTION(3)
STREAM_FUNCTION(4)
static void (*const stream_of_rows[STREAM_ROWS + 1])(const product *p, stream_rows x, int col,
                                                     const char *ahead) = {NULL, stream_1, stream_2, stream_3, stream_4};

static void stream_task(const product *p, const float *space, int task) {
    int end = kern_min(p->cols, (task + 1) * p->task_cols);
    for (int col = task * p->task_cols; col < end; col += STREAM_COLS)
        stream_of_rows[p->rows](p, stream_rows_of(p, space), col, address_of(&p->b, col + STREAM_COLS, 0));
}

/* ---- rows as lanes ---------------------------------------------------------------------------------------------------------------- */

/* Decoding a batch: a vector holds one term of sixteen rows, and a weight's is repeated over it, so that weights need no transposing, which
 * would be half as much work as the chains of sixteen rows. A tile is LANE_COLS columns of one vector of rows, or half as many of two; its
 * chains run through the whole depth in registers. Weights come in blocks of LANE_DEPTH units, [column][unit][term], copied one block ahead
 * of their use, between the multiplications, and what follows the tile in memory is asked for meanwhile: the next tile, or the next task,
 * or the layer's next matrix. The rows lie transposed, [unit][term][rows of the panel], in a thread's scratch during all its tasks. */
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
    LANE_ROOM = 4 << 20,        /* terms of transposed rows */
    LANES_LOST = UNIT == 1 ? 12 : 6,
    MOST_LANES = 128            /* with more rows the other way costs no more, and wastes no lanes */
};

typedef struct lane_space {
    float block[2][LANE_COLS * LANE_DEPTH * TERMS]; /* weights: in use, and being copied */
    float sums[LANE_HELD * LANE_ROWS];      /* [column][row] */
    float rows[LANE_ROOM + SLACK];
} lane_space;
_Static_assert(sizeof(lane_space) <= KERN_SCRATCH_BYTES, "transposed rows must fit into a thread's scratch");

typedef struct lane_tile {
    const char *from, *next; /* the columns' weights; those of the tile that follows, of as many columns */
    size_t stride;           /* bytes from column to column */
    const float *rows;
    int units;
    int turn; /* the block that holds the first weights */
    float *sums;
} lane_tile;

/* Copies LANE_DEPTH units of `cols` columns `to`, and asks for as much memory at `ahead`. */
static inline __attribute__((always_inline)) void lane_copy(float *to, const char *from, size_t stride, const char *ahead,
                                                            const int cols) {
    for (int c = 0; c < cols; c++, from += stride)
#pragma GCC unroll 4
        for (int i = 0; i < LANE_DEPTH; i += VF, to += VF * TERMS, ahead += LINE_BYTES) {
            store_terms(to, from + (size_t)i * sizeof(float));
            __builtin_prefetch(ahead, 0, 2);
        }
}

/* The chains over `units` units. */
static inline __attribute__((always_inline)) void lane_chains(vf sum[LANE_COLS], const float *weights, const float *rows, const int units,
                                                              const int vecs, const int cols) {
#pragma GCC unroll 1
    for (int d = 0; d < units; d++, rows += TERMS * vecs * VF, weights += TERMS)
#pragma GCC unroll 2
        for (int term = 0; term < TERMS; term++) {
            const int place = chain_place(term);
            const float *terms = rows + place * vecs * VF;
            const vf first = vf_load(terms), second = vecs > 1 ? vf_load(terms + VF) : first;
#pragma GCC unroll 24
            for (int c = 0; c < cols; c++) {
                const vf weight = vf_set1(weights[c * LANE_DEPTH * TERMS + place]);
                sum[c * vecs] = chain_step(first, weight, sum[c * vecs]);
                if (vecs > 1) sum[c * vecs + 1] = chain_step(second, weight, sum[c * vecs + 1]);
            }
        }
}

/* Leaves the chains in t->sums, and the first weights of the next tile in the block whose number it returns. */
static inline __attribute__((always_inline)) int lane_run(lane_space *space, const lane_tile *t, const int vecs, const int cols) {
    const int parts = cols % 8 == 0 ? 8 : cols % 4 == 0 ? 4 : 2, part_cols = cols / parts, part_units = LANE_DEPTH / parts;
    const float *rows = t->rows;
    const char *ahead = t->from + cols * t->stride;
    int turn = t->turn;
    vf sum[LANE_COLS];
#pragma GCC unroll 24
    for (int i = 0; i < cols * vecs; i++) sum[i] = vf_zero();
    for (int d = LANE_DEPTH; d <= t->units; d += LANE_DEPTH, turn = !turn) {
        const char *from = d < t->units ? t->from + (size_t)d * sizeof(float) : t->next;
        for (int part = 0; part < parts; part++) {
            lane_copy(space->block[!turn] + part * part_cols * LANE_DEPTH * TERMS, from, t->stride, ahead, part_cols);
            lane_chains(sum, space->block[turn] + part * part_units * TERMS, rows, part_units, vecs, cols);
            from += part_cols * t->stride;
            ahead += part_cols * LANE_DEPTH * sizeof(float);
            rows += part_units * TERMS * vecs * VF;
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < cols * vecs; i++) vf_store(t->sums + i * VF, sum[i]);
    return turn;
}

#define LANE_FUNCTION(name, vecs, cols) \
    static int name(lane_space *space, const lane_tile *t) { return lane_run(space, t, vecs, cols); }
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
    lane_tile t = {.stride = p->b.line, .rows = space->rows + (size_t)row * (size_t)p->units * TERMS, .units = p->units};
    int held = 0;
    for (int cols, ready = 0; col < end; col += cols) {
        const bool part = end - col < LANE_COLS / vecs;
        cols = (part ? LANE_PART : LANE_COLS) / vecs;
        const bool more = end - col >= 2 * cols;
        t.from = address_of(&p->b, col, 0);
        t.next = more ? address_of(&p->b, col + cols, 0) : t.from;
        t.sums = space->sums + held * vecs * VF;
        if (!ready) lane_copy(space->block[t.turn], t.from, t.stride, t.from, cols);
        t.turn = (vecs > 1 ? part ? lane_wide_part : lane_wide : part ? lane_narrow_part : lane_narrow)(space, &t);
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
        copy_panel(space->rows + (size_t)row * (size_t)p->units * TERMS, rows > VF ? LANE_ROWS : VF, &p->a, row, rows, 0, p->units);
    }
}

static void lane_task(const product *p, lane_space *space, int task) {
    const int col = task * p->task_cols, end = kern_min(p->cols, col + p->task_cols);
    for (int row = 0; row < p->rows; row += LANE_ROWS) lane_panel(space, p, row, col, end);
}

/* ---- choosing ------------------------------------------------------------------------------------------------------------------------ */

/* Both take whole panels of columns, weights along depth, and rows that fit into the scratch. By lanes, what is lost is the lanes beyond the last
 * row; by panels, the copies of weights, which cost about as much as the chains of LANES_LOST rows more. */
static path path_of(const product *p) {
    const int lanes = divide_up(p->rows, VF) * VF;
    if (!p->b.along_depth || p->start == FROM_C || p->units == 0 || (int64_t)lanes * p->units * TERMS > LANE_ROOM) return BY_PANELS;
    if (p->rows <= STREAM_ROWS) return p->cols % STREAM_COLS == 0 ? BY_STREAMS : BY_PANELS;
    if (p->cols % LANE_PART || p->b.depth % (LANE_DEPTH * UNIT)) return BY_PANELS;
    return lanes <= MOST_LANES && lanes - p->rows <= LANES_LOST ? BY_LANES : BY_PANELS;
}

/* `first`: of this thread; its scratch does not hold the rows yet. */
static void few_rows_task(const product *p, void *space, int task, bool first) {
    if (p->path == BY_STREAMS) {
        if (first && !IN_PLACE) copy_stream_rows(space, p);
        stream_task(p, space, task);
    } else {
        if (first) copy_lane_rows(space, p);
        lane_task(p, space, task);
    }
}

#endif
