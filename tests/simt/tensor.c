/* The words of kernels/cuda/mma.h in C: tensor cores, the loads of their fragments, asynchronous copies. */
#include "simt.h"

#include <stdlib.h>

#include "race.h"

enum { WARP = SIMT_WARP, ROWS = 16, COLS = 8, DEPTH = 16, COPY_BYTES = 16, MAX_THREADS = 1024, MAX_COPIES = 256 };

/* ---- products --------------------------------------------------------------------------------------------------------------------- */

typedef struct mma {
    float *c;
    const uint32_t *a, *b;
} mma;

static double low_of(uint32_t pair) {
    const uint32_t bits = pair << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static double high_of(uint32_t pair) { return low_of(pair >> 16); }

typedef double four __attribute__((vector_size(4 * sizeof(double))));

/* All products are exact in double; the sum is rounded as double until its end. */
static void mma_all(void *const mine[WARP]) {
    double a[ROWS][DEPTH];
    union {
        double of[COLS];
        four half[2];
    } b[DEPTH], sum;
    for (int lane = 0; lane < WARP; lane++) {
        const mma *m = mine[lane];
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            const int row = g + i % 2 * 8, d = 2 * t + i / 2 * 8;
            a[row][d] = low_of(m->a[i]);
            a[row][d + 1] = high_of(m->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            b[2 * t + 8 * i].of[g] = low_of(m->b[i]);
            b[2 * t + 8 * i + 1].of[g] = high_of(m->b[i]);
        }
    }
    for (int row = 0; row < ROWS; row++) {
        float *c[COLS];
        for (int j = 0; j < COLS; j++) c[j] = &((const mma *)mine[row % 8 * 4 + j / 2])->c[row / 8 * 2 + j % 2];
        for (int j = 0; j < COLS; j++) sum.of[j] = *c[j];
        four left = sum.half[0], right = sum.half[1];
        for (int d = 0; d < DEPTH; d++) {
            left += a[row][d] * b[d].half[0];
            right += a[row][d] * b[d].half[1];
        }
        sum.half[0] = left;
        sum.half[1] = right;
        for (int j = 0; j < COLS; j++) *c[j] = (float)sum.of[j];
    }
}

void simt_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    mma m = {c, a, b};
    simt_together(mma_all, &m);
}

/* ---- loads ------------------------------------------------------------------------------------------------------------------------ */

typedef struct ldmatrix {
    uint32_t *r;
    const uint16_t *row;
} ldmatrix;

int64_t simt_bank_conflicts;

static void count_conflicts(void *const mine[WARP]) {
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned taken = 0;
        for (int i = 0; i < 8; i++) taken |= 1u << (uintptr_t)((const ldmatrix *)mine[8 * matrix + i])->row / 16 % 8;
        simt_bank_conflicts += taken != 0xff;
    }
}

static void ldmatrix_all(void *const mine[WARP]) {
    count_conflicts(mine);
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++) {
            const ldmatrix *from = mine[8 * i + lane / 4];
            memcpy(&((const ldmatrix *)mine[lane])->r[i], from->row + lane % 4 * 2, sizeof(uint32_t));
        }
}

static void ldmatrix_trans_all(void *const mine[WARP]) {
    count_conflicts(mine);
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++) {
            const ldmatrix *first = mine[8 * i + lane % 4 * 2], *second = mine[8 * i + lane % 4 * 2 + 1];
            ((const ldmatrix *)mine[lane])->r[i] = first->row[lane / 4] | (uint32_t)second->row[lane / 4] << 16;
        }
}

static void load(simt_warp_work *work, uint32_t r[4], const void *row) {
    ldmatrix m = {r, row};
    if ((uintptr_t)row % 16) simt_broken("ldmatrix of a row that is not aligned to 16 bytes");
    if (!simt_is_shared(row, 16)) simt_broken("ldmatrix of a row outside shared memory");
    race_read(row, 16);
    simt_together(work, &m);
}

void simt_ldmatrix_x4(uint32_t r[4], const void *row) {
    RACE_HERE();
    load(ldmatrix_all, r, row);
}

void simt_ldmatrix_x4_trans(uint32_t r[4], const void *row) {
    RACE_HERE();
    load(ldmatrix_trans_all, r, row);
}

/* ---- asynchronous copies ---------------------------------------------------------------------------------------------------------- */

typedef struct copy {
    char *dst;
    int group;
    char bytes[COPY_BYTES];
} copy;

/* Of a thread: what it has begun and not waited for, in order. */
static struct {
    copy *pending; /* (MAX_COPIES), made when first used */
    int n, groups; /* groups: committed so far */
} copies[MAX_THREADS];

void simt_copy_async16(void *dst, const void *src, int bytes_valid) {
    RACE_HERE();
    const int thread = simt_at.thread, n = copies[thread].n;
    if ((uintptr_t)dst % COPY_BYTES || (uintptr_t)src % COPY_BYTES) simt_broken("an asynchronous copy that is not aligned to 16 bytes");
    if (!simt_is_shared(dst, COPY_BYTES)) simt_broken("an asynchronous copy to outside shared memory");
    if (bytes_valid < 0 || bytes_valid > COPY_BYTES) simt_broken("an asynchronous copy of more than 16 bytes");
    if (n == MAX_COPIES) simt_broken("more asynchronous copies under way than the shim keeps of a thread");
    if (!copies[thread].pending) copies[thread].pending = malloc(MAX_COPIES * sizeof(copy));
    if (!copies[thread].pending) simt_broken("no memory");
    copy *c = &copies[thread].pending[n];
    *c = (copy){.dst = dst, .group = copies[thread].groups};
    memcpy(c->bytes, src, (size_t)bytes_valid);
    simt_poison(dst, COPY_BYTES);
    race_copy_begins(dst, src, COPY_BYTES, (size_t)bytes_valid);
    copies[thread].n++;
}

void simt_copy_commit(void) { copies[simt_at.thread].groups++; }

void simt_copy_wait(int groups) {
    const int thread = simt_at.thread;
    copy *pending = copies[thread].pending;
    int done = 0;
    for (; done < copies[thread].n && pending[done].group < copies[thread].groups - groups; done++) {
        memcpy(pending[done].dst, pending[done].bytes, COPY_BYTES);
        race_copy_ends(pending[done].dst, COPY_BYTES);
    }
    copies[thread].n -= done;
    if (done) memmove(pending, pending + done, (size_t)copies[thread].n * sizeof *pending);
}

void simt_check_copies(void) {
    if (copies[simt_at.thread].n) simt_broken("ends with asynchronous copies that it has not waited for");
    copies[simt_at.thread].groups = 0;
}
