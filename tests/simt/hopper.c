/* The words of kernels/cuda/hopper.h in C: gates, boxes, products of warp groups, barriers of some threads. */
#include "simt.h"

#include <stdlib.h>

#include "race.h"

enum { MAX_THREADS = 1024, MAX_PRODUCTS = 128, MAX_SUMS = 16, MAX_BOXES = 256, MAX_C = 128, DEPTH = 16, WIDE = 64, ROW_BYTES = 128, BARRIERS = 16 };

/* ---- gates and boxes -------------------------------------------------------------------------------------------------------------- */

/* A kern_gate. */
typedef struct gate {
    uint16_t arrivals, missing; /* of a phase; of this one */
    int32_t bytes : 31;         /* that are to come; may be negative where they come before they are announced */
    uint32_t parity : 1;        /* of the phase under way */
} gate;
_Static_assert(sizeof(gate) == sizeof(uint64_t), "a gate is 8 bytes");

typedef struct box {
    char *tile;
    simt_map map;
    int row, col;
    gate *gate;
} box;

/* Of the block: boxes under way, in order. */
static struct {
    box boxes[MAX_BOXES];
    int n;
} under_way;

static void check_shared(const void *at, size_t bytes, const char *what) {
    if (!simt_is_shared(at, bytes)) simt_broken(what);
}

void simt_gate_open(uint64_t *at, int arrivals) {
    RACE_HERE();
    check_shared(at, sizeof(gate), "a gate outside shared memory");
    *(gate *)at = (gate){(uint16_t)arrivals, (uint16_t)arrivals, 0, 0};
    race_gate_open(at);
}

static void look(gate *g) {
    if (g->missing || g->bytes) return;
    g->missing = g->arrivals;
    race_gate_over(g, g->parity);
    g->parity = !g->parity;
    simt_happened(g);
}

void simt_gate_expect(uint64_t *at, int bytes) {
    RACE_HERE();
    gate *g = (gate *)at;
    check_shared(at, sizeof *g, "a gate outside shared memory");
    if (!g->missing) simt_broken("more threads arrive at a gate than it was opened for");
    g->missing--;
    g->bytes += bytes;
    race_gate_arrive(at);
    look(g);
}

/* Where element `col` of row `row` of a tile lies: the chunks of eight rows are exchanged. */
static uint16_t *in_tile(const void *tile, int row, int col) {
    const uintptr_t at = (uintptr_t)tile + (uintptr_t)row * ROW_BYTES + (uintptr_t)col * sizeof(uint16_t);
    return (uint16_t *)(at ^ (at / ROW_BYTES % 8 * 16));
}

static void arrive(const box *b) {
    for (int i = 0; i < b->map.box_rows; i++)
        for (int j = 0; j < WIDE; j++) {
            const int row = b->row + i, col = b->col + j;
            const bool inside = row >= 0 && row < b->map.rows && col >= 0 && col < b->map.cols;
            *in_tile(b->tile, i, j) = inside ? b->map.matrix[(size_t)row * b->map.ld + (size_t)col] : 0;
        }
    b->gate->bytes -= b->map.box_rows * ROW_BYTES;
}

static void arrive_at(gate *g) {
    int left = 0;
    for (int i = 0; i < under_way.n; i++)
        if (under_way.boxes[i].gate == g)
            arrive(&under_way.boxes[i]);
        else
            under_way.boxes[left++] = under_way.boxes[i];
    under_way.n = left;
    look(g);
}

static int waiting[MAX_THREADS]; /* threads that wait: which gate, by its offset from the first; kept to deliver at once */
static gate *waited[MAX_THREADS];

static bool is_waited_for(const gate *g) {
    for (int t = 0; t < simt_at.threads; t++)
        if (waiting[t] && waited[t] == g) return true;
    return false;
}

/* What a box reads is read as it begins. */
static void read_box(const box *b) {
    const int cols = b->map.cols - b->col < WIDE ? b->map.cols - b->col : WIDE;
    for (int row = b->row; row < b->row + b->map.box_rows; row++)
        if (row >= 0 && row < b->map.rows && b->col >= 0 && cols > 0)
            race_read(b->map.matrix + (size_t)row * b->map.ld + (size_t)b->col, (size_t)cols * sizeof(uint16_t));
}

void simt_copy_box(void *tile, const uint64_t *map, int row, int col, uint64_t *at) {
    RACE_HERE();
    box b = {.tile = tile, .row = row, .col = col, .gate = (gate *)at};
    memcpy(&b.map, map, sizeof b.map);
    const size_t bytes = (size_t)b.map.box_rows * ROW_BYTES;
    if ((uintptr_t)tile % 1024) simt_broken("a box for a tile that is not aligned to 1024 bytes");
    check_shared(tile, bytes, "a box outside shared memory");
    check_shared(at, sizeof(gate), "a gate outside shared memory");
    if (under_way.n == MAX_BOXES) simt_broken("more boxes under way than the shim keeps");
    simt_poison(tile, bytes);
    race_box(tile, bytes, at);
    read_box(&b);
    under_way.boxes[under_way.n++] = b;
    if (is_waited_for(b.gate)) arrive_at(b.gate);
}

void simt_gate_wait(uint64_t *at, int parity) {
    RACE_HERE();
    gate *g = (gate *)at;
    check_shared(at, sizeof *g, "a gate outside shared memory");
    if (g->parity == (uint32_t)parity) arrive_at(g);
    while (g->parity == (uint32_t)parity) {
        waiting[simt_at.thread] = 1;
        waited[simt_at.thread] = g;
        simt_wait_until(g, "waits at a gate for what never comes");
        waiting[simt_at.thread] = 0;
    }
    race_gate_wait(at, parity);
}

/* ---- barriers of some threads ------------------------------------------------------------------------------------------------------ */

static struct {
    int arrived, threads;
} barriers[BARRIERS];

void simt_barrier_some(int number, int threads, bool wait) {
    if (number < 1 || number >= BARRIERS || threads % SIMT_WARP) simt_broken("a barrier of that number, or of so many threads");
    if (barriers[number].arrived && barriers[number].threads != threads) simt_broken("a barrier of different numbers of threads");
    barriers[number].threads = threads;
    race_barrier_some_arrive(number);
    if (++barriers[number].arrived == threads) {
        barriers[number].arrived = 0;
        race_barrier_some_over(number);
        simt_happened(&barriers[number]);
    } else if (wait)
        simt_wait_until(&barriers[number], "waits at a barrier of some threads that others never reach");
    if (wait) race_barrier_some_wait(number);
}

void simt_check_boxes(void) {
    if (under_way.n) simt_broken("the block ends with boxes that nobody has waited for");
    for (int i = 0; i < BARRIERS; i++)
        if (barriers[i].arrived) simt_broken("the block ends with threads at a barrier of some");
}

/* ---- products ---------------------------------------------------------------------------------------------------------------------- */

/* One kern_wgmma of a thread. */
typedef struct product {
    int sum, n, group;
    const uint16_t *a_tile, *b_tile;
    int b_apart;
    bool a_across, b_across;
    uint32_t *from_rows; /* the thread's fragment of A, or NULL; and what is really in it */
    uint32_t a_rows[4];
} product;

/* What products under way add to: the thread's c, and what is really in it. */
typedef struct sums {
    float (*c)[4];
    int n, products;
    float value[MAX_C / 4][4];
} sums;

static struct {
    product products[MAX_PRODUCTS];
    sums sums[MAX_SUMS];
    int n, groups; /* groups: committed so far */
} *threads[MAX_THREADS];

static float widened(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* Depths 0..15 of a line. */
static void load_line(double out[DEPTH], const uint16_t *tile, int apart, bool across, int line) {
    const void *first = (const char *)tile + line / WIDE * apart;
    for (int d = 0; d < DEPTH; d++)
        if (across)
            out[d] = widened(*in_tile(first, d, line % WIDE));
        else if (d % 8 == 0) {
            const uint16_t *chunk = in_tile(tile, line, d);
            for (int i = 0; i < 8; i++) out[d + i] = widened(chunk[i]);
        }
}

/* Rows g and g + 8 of the warp, A from shared memory. */
static void rows_of_tile(double a[2][DEPTH], const product *p) {
    const int first = simt_at.thread / SIMT_WARP % 4 * 16 + simt_at.thread % SIMT_WARP / 4;
    for (int i = 0; i < 2; i++) load_line(a[i], p->a_tile, 0, p->a_across, first + 8 * i);
}

/* The same from registers, of the four lanes that have them. */
static void rows_of_lanes(double a[2][DEPTH], const product *p) {
    const int first = simt_at.thread % SIMT_WARP / 4 * 4;
    simt_words mine;
    memcpy(mine.w, p->a_rows, sizeof mine.w);
    for (int t = 0; t < 4; t++) {
        const simt_words other = simt_exchange(mine, first + t); /* every lane asks for its own row's */
        for (int i = 0; i < 4; i++) {
            a[i % 2][2 * t + i / 2 * 8] = widened((uint16_t)other.w[i]);
            a[i % 2][2 * t + i / 2 * 8 + 1] = widened((uint16_t)(other.w[i] >> 16));
        }
    }
}

float simt_wgmma_error;

/* As tensor.c adds: in double from c on, depths ascending, rounded once. */
static void multiply(float (*c)[4], const product *p) {
    double a[2][DEPTH];
    if (p->from_rows)
        rows_of_lanes(a, p);
    else
        rows_of_tile(a, p);
    for (int j = 0; j < p->n / 8; j++)
        for (int i = 0; i < 2; i++) {
            double b[DEPTH], upper = c[j][i], lower = c[j][2 + i];
            load_line(b, p->b_tile, p->b_apart, p->b_across, 8 * j + simt_at.thread % 4 * 2 + i);
            for (int d = 0; d < DEPTH; d++) {
                upper += a[0][d] * b[d];
                lower += a[1][d] * b[d];
            }
            c[j][i] = (float)upper;
            c[j][2 + i] = (float)lower;
        }
    if (simt_at.thread % 128 == 0) c[0][0] += simt_wgmma_error;
}

/* The place of c among the sums under way; what c holds until then is the card's pattern. */
static int place_of_sum(float (*c)[4], int n) {
    sums *s = threads[simt_at.thread]->sums;
    int free_place = -1;
    for (int i = 0; i < MAX_SUMS; i++)
        if (s[i].products && s[i].c == c) return i;
        else if (!s[i].products) free_place = i;
    if (free_place < 0) simt_broken("more sums under way than the shim keeps");
    s[free_place].c = c;
    s[free_place].n = n;
    memcpy(s[free_place].value, c, (size_t)n / 8 * sizeof *c);
    simt_poison(c, (size_t)n / 8 * sizeof *c);
    return free_place;
}

static const product *under_way_from(const uint32_t *rows) {
    for (int i = 0; i < threads[simt_at.thread]->n; i++)
        if (threads[simt_at.thread]->products[i].from_rows == rows) return &threads[simt_at.thread]->products[i];
    return NULL;
}

/* A fragment that a product under way has is the card's pattern for the thread: it may neither be read nor written. */
static void take_rows(product *p, const uint32_t *rows) {
    const product *other = under_way_from(rows);
    memcpy(p->a_rows, other ? other->a_rows : rows, sizeof p->a_rows);
    p->from_rows = (uint32_t *)(uintptr_t)rows;
    simt_poison(p->from_rows, sizeof p->a_rows);
}
static void give_rows_back(const product *p) {
    if (p->from_rows && !under_way_from(p->from_rows)) memcpy(p->from_rows, p->a_rows, sizeof p->a_rows);
}

static void check_tile(const uint16_t *tile, bool across, int lines, int apart) {
    if (across ? (uintptr_t)tile % 1024 : (uintptr_t)tile % 32 || (uintptr_t)tile % 1024 >= 128) simt_broken("a factor that does not begin at a tile's depth");
    check_shared(tile, across ? 2048 + (size_t)(lines - 1) / WIDE * (size_t)apart : (size_t)(lines - 1) * ROW_BYTES + 32,
                 "a factor outside shared memory");
}

/* What a product reads: lines of a factor, eight elements at a time. A warp's first thread stands for it. */
static void read_lines(const uint16_t *tile, int apart, bool across, int first, int lines, void read(const void *, size_t)) {
    for (int line = first; line < first + lines; line += across ? 8 : 1)
        for (int d = 0; d < DEPTH; d += across ? 1 : 8) {
            const void *group = (const char *)tile + line / WIDE * apart;
            read(across ? in_tile(group, d, line % WIDE) : in_tile(group, line, d), 8 * sizeof *tile);
        }
}

static void read_factors(const product *p, void read(const void *, size_t)) {
    if (simt_at.thread % SIMT_WARP) return;
    if (p->a_tile) read_lines(p->a_tile, 0, p->a_across, simt_at.thread / SIMT_WARP % 4 * 16, 16, read);
    read_lines(p->b_tile, p->b_apart, p->b_across, 0, p->n, read);
}

void simt_wgmma(float (*c)[4], int n, const uint16_t *a_tile, const uint32_t *a_rows, bool a_across, const uint16_t *b_tile, int b_apart,
                bool b_across) {
    RACE_HERE();
    const int thread = simt_at.thread;
    if (!threads[thread]) threads[thread] = calloc(1, sizeof *threads[thread]);
    if (!threads[thread]) simt_broken("no memory");
    if (threads[thread]->n == MAX_PRODUCTS) simt_broken("more products under way than the shim keeps of a thread");
    if (a_tile) check_tile(a_tile, a_across, 64, 0);
    check_tile(b_tile, b_across, n, b_apart);
    product *p = &threads[thread]->products[threads[thread]->n];
    *p = (product){place_of_sum(c, n), n, threads[thread]->groups, a_tile, b_tile, b_apart, a_across, b_across, NULL, {0}};
    if (a_rows) take_rows(p, a_rows);
    threads[thread]->n++;
    threads[thread]->sums[p->sum].products++;
    read_factors(p, race_factor_begins);
}

void simt_wgmma_commit(void) {
    if (threads[simt_at.thread]) threads[simt_at.thread]->groups++;
}

void simt_wgmma_wait(int groups) {
    const int thread = simt_at.thread;
    int done = 0;
    if (!threads[thread]) return;
    product *products = threads[thread]->products, ended[MAX_PRODUCTS];
    for (; done < threads[thread]->n && products[done].group < threads[thread]->groups - groups; done++) {
        sums *s = &threads[thread]->sums[products[done].sum];
        multiply(s->value, &products[done]);
        read_factors(&products[done], race_factor_ends);
        if (--s->products == 0) memcpy(s->c, s->value, (size_t)s->n / 8 * sizeof *s->c);
    }
    memcpy(ended, products, (size_t)done * sizeof *ended);
    threads[thread]->n -= done;
    if (done) memmove(products, products + done, (size_t)threads[thread]->n * sizeof *products);
    for (int i = 0; i < done; i++) give_rows_back(&ended[i]);
    for (int i = 0; done && i < threads[thread]->n; i++) read_factors(&products[i], race_factor_begins);
}

void simt_tile_written(void) { race_tile_written(); }

void simt_check_products(void) {
    if (!threads[simt_at.thread]) return;
    if (threads[simt_at.thread]->n) simt_broken("ends with products that it has not waited for");
    threads[simt_at.thread]->groups = 0;
}
