/* The operations that are one pass over memory: rows by index, sums, conversions, AdamW, checksum.
 *
 * Work is cut into pieces whose size depends on the shape alone. Where pieces meet in one number (sumsq, checksum) each leaves its own part
 * in memory and the parts are added in order; where they would meet in one element (bias_grad, embed_grad, rows_add) the cut is by columns, and each
 * task goes through all rows ascending. Loops are plain C: the compiler makes vectors of them, and no step depends on their width. */
#include "kernels/cpu/isa/isa.h"

enum {
    CHUNK = 1 << 16,  /* elements of one task of an elementwise operation */
    COLUMNS = 128,    /* columns of one task where rows must be taken in order */
    SMALL = 1 << 14   /* elements below which a second thread costs more than it brings */
};

static int pieces(size_t n, size_t piece) { return (int)((n + piece - 1) / piece); }

/* ---- rows by index ---------------------------------------------------------------------------------------------------------------- */

static void widen_range(float *y, const uint16_t *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = kern_float_of_bf16(x[i]);
}

/* Row x_index[i] of x goes to row y_index[i] of y, for i < m; without an index: row i. */
typedef struct rows_job {
    float *y;
    const void *x;
    kern_dtype x_dtype;
    const int32_t *y_index, *x_index;
    const int32_t *drawn; /* for KERN_DRAWN in x_index */
    size_t k;
    int m, rows; /* rows: of one task */
} rows_job;

static void copy_rows_task(void *arg, int task, int thread) {
    const rows_job *job = arg;
    (void)thread;
    int end = kern_min(job->m, (task + 1) * job->rows);
    for (int i = task * job->rows; i < end; i++) {
        size_t to = (size_t)(job->y_index ? job->y_index[i] : i);
        size_t from = (size_t)(job->x_index ? kern_known_id(job->x_index[i], job->drawn) : i);
        if (job->x_dtype == KERN_BF16)
            widen_range(job->y + to * job->k, (const uint16_t *)job->x + from * job->k, job->k);
        else
            memcpy(job->y + to * job->k, (const float *)job->x + from * job->k, job->k * sizeof(float));
    }
}

static void copy_rows(kern_cpu_ctx *ctx, rows_job job) {
    job.rows = job.k > 0 && job.k < SMALL ? (int)(SMALL / job.k) : 1;
    kern_pool_run(ctx->pool, pieces((size_t)job.m, (size_t)job.rows), copy_rows_task, &job);
}

void KERN_OP(rows_gather)(kern_cpu_ctx *ctx, float *y, const void *x, kern_dtype x_dtype, const int32_t *index, const int32_t *drawn, int m,
                          int k) {
    copy_rows(ctx, (rows_job){.y = y, .x = x, .x_dtype = x_dtype, .x_index = index, .drawn = drawn, .k = (size_t)k, .m = m});
}

void KERN_OP(rows_scatter)(kern_cpu_ctx *ctx, float *y, const float *x, const int32_t *index, int m, int k) {
    copy_rows(ctx, (rows_job){.y = y, .x = x, .x_dtype = KERN_F32, .y_index = index, .k = (size_t)k, .m = m});
}

/* ---- sums over rows, by columns --------------------------------------------------------------------------------------------------- */

typedef struct sum_rows_job {
    float *y;
    const float *x;
    const int32_t *index; /* the row of y that a row of x is added to, or NULL */
    size_t k;
    int m;
} sum_rows_job;

static void embed_grad_task(void *arg, int task, int thread) {
    const sum_rows_job *job = arg;
    (void)thread;
    size_t begin = (size_t)task * COLUMNS, end = kern_min_size(job->k, begin + COLUMNS);
    for (int i = 0; i < job->m; i++) {
        float *to = job->y + (size_t)job->index[i] * job->k;
        const float *from = job->x + (size_t)i * job->k;
        for (size_t j = begin; j < end; j++) to[j] += from[j];
    }
}

void KERN_OP(embed_grad)(kern_cpu_ctx *ctx, float *dtable, const float *dy, const int32_t *ids, int m, int k) {
    sum_rows_job job = {.y = dtable, .x = dy, .index = ids, .k = (size_t)k, .m = m};
    kern_pool_run(ctx->pool, pieces(job.k, COLUMNS), embed_grad_task, &job);
}

static void rows_add_task(void *arg, int task, int thread) {
    const rows_job *job = arg;
    (void)thread;
    size_t begin = (size_t)task * COLUMNS, n = kern_min_size(COLUMNS, job->k - begin);
    for (int i = 0; i < job->m; i++) {
        float *to = job->y + begin;
        size_t from = (size_t)i * job->k + begin;
        if (job->x_dtype == KERN_BF16)
            for (size_t j = 0; j < n; j++) to[j] += kern_float_of_bf16(((const uint16_t *)job->x)[from + j]);
        else
            for (size_t j = 0; j < n; j++) to[j] += ((const float *)job->x)[from + j];
    }
}

void KERN_OP(rows_add)(kern_cpu_ctx *ctx, float *y, const void *x, kern_dtype x_dtype, int m, int k) {
    rows_job job = {.y = y, .x = x, .x_dtype = x_dtype, .k = (size_t)k, .m = m};
    kern_pool_run(ctx->pool, pieces(job.k, COLUMNS), rows_add_task, &job);
}

static void bias_grad_task(void *arg, int task, int thread) {
    const sum_rows_job *job = arg;
    (void)thread;
    size_t begin = (size_t)task * COLUMNS, n = kern_min_size(COLUMNS, job->k - begin);
    for (int part = 0; part < job->m; part += KERN_PART_ROWS) {
        float sum[COLUMNS] = {0};
        for (int i = part; i < kern_min(job->m, part + KERN_PART_ROWS); i++)
            for (size_t j = 0; j < n; j++) sum[j] += job->x[(size_t)i * job->k + begin + j];
        for (size_t j = 0; j < n; j++) job->y[begin + j] += sum[j];
    }
}

void KERN_OP(bias_grad)(kern_cpu_ctx *ctx, float *dbias, const void *dy, kern_dtype dy_dtype, int m, int n) {
    (void)dy_dtype;
    sum_rows_job job = {.y = dbias, .x = dy, .k = (size_t)n, .m = m};
    kern_pool_run(ctx->pool, pieces(job.k, COLUMNS), bias_grad_task, &job);
}

/* ---- conversions ------------------------------------------------------------------------------------------------------------------ */

typedef struct convert_job {
    void *y;
    const void *x;
    size_t n;
} convert_job;

static void widen_task(void *arg, int task, int thread) {
    const convert_job *job = arg;
    (void)thread;
    size_t begin = (size_t)task * CHUNK;
    widen_range((float *)job->y + begin, (const uint16_t *)job->x + begin, kern_min_size(job->n - begin, CHUNK));
}

void KERN_OP(widen)(kern_cpu_ctx *ctx, float *y, const uint16_t *x, size_t n) {
    convert_job job = {y, x, n};
    kern_pool_run(ctx->pool, pieces(n, CHUNK), widen_task, &job);
}

static void narrow_task(void *arg, int task, int thread) {
    const convert_job *job = arg;
    (void)thread;
    uint16_t *y = job->y;
    const float *x = job->x;
    size_t end = kern_min_size(job->n, ((size_t)task + 1) * CHUNK);
    for (size_t i = (size_t)task * CHUNK; i < end; i++) y[i] = kern_bf16_of_float(x[i]);
}

void KERN_OP(narrow)(kern_cpu_ctx *ctx, uint16_t *y, const float *x, size_t n) {
    convert_job job = {y, x, n};
    kern_pool_run(ctx->pool, pieces(n, CHUNK), narrow_task, &job);
}

/* ---- AdamW ------------------------------------------------------------------------------------------------------------------------ */

typedef struct adamw_job {
    void *param;
    int16_t *rest; /* NULL: param is float32 */
    const float *grad;
    float *m, *v;
    size_t n;
    kern_adamw_factors factors;
} adamw_job;

static void adamw_task(void *arg, int task, int thread) {
    const adamw_job job = *(const adamw_job *)arg;
    (void)thread;
    float *param = job.param;
    size_t end = kern_min_size(job.n, ((size_t)task + 1) * CHUNK);
    for (size_t i = (size_t)task * CHUNK; i < end; i++)
        kern_adamw_element(&param[i], job.grad[i], &job.m[i], &job.v[i], &job.factors);
}

static void adamw_masters_task(void *arg, int task, int thread) {
    const adamw_job job = *(const adamw_job *)arg;
    (void)thread;
    uint16_t *param = job.param;
    size_t end = kern_min_size(job.n, ((size_t)task + 1) * CHUNK);
    for (size_t i = (size_t)task * CHUNK; i < end; i++) {
        float master = kern_master_of(kern_float_of_bf16(param[i]), job.rest[i]);
        kern_adamw_element(&master, job.grad[i], &job.m[i], &job.v[i], &job.factors);
        param[i] = kern_bf16_of_float(master);
        job.rest[i] = kern_rest_of(master);
    }
}

void KERN_OP(adamw)(kern_cpu_ctx *ctx, void *param, int16_t *rest, const float *grad, float *m, float *v, size_t n,
                    const kern_adamw_args *args) {
    adamw_job job = {param, rest, grad, m, v, n, kern_adamw_factors_of(args)};
    kern_pool_run(ctx->pool, pieces(n, CHUNK), rest ? adamw_masters_task : adamw_task, &job);
}

/* ---- sums to one number ----------------------------------------------------------------------------------------------------------- */

enum { PARTS = 1 << 16 }; /* parts worked out before they are added up: they lie in the scratch of thread 0 */

typedef struct sum_job {
    const void *x;
    size_t n, begin; /* elements, or bytes; begin: of the first part */
    void *parts;     /* double or uint64_t */
} sum_job;

enum { SUMSQ_PART = 4096 };

/* Sixteen lanes by index mod 16, then lane i with i+8, +4, +2, +1. */
static double sumsq_part(const float *x, size_t n) {
    double lane[VF] = {0};
    size_t whole = n / VF * VF;
    for (size_t i = 0; i < whole; i += VF)
        for (size_t j = 0; j < VF; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (size_t i = whole; i < n; i++) lane[i - whole] += (double)x[i] * (double)x[i];
    for (int half = VF / 2; half; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

static void sumsq_task(void *arg, int task, int thread) {
    const sum_job *job = arg;
    (void)thread;
    enum { PARTS_OF_TASK = CHUNK / SUMSQ_PART };
    for (int i = 0; i < PARTS_OF_TASK; i++) {
        size_t part = (size_t)task * PARTS_OF_TASK + (size_t)i, begin = job->begin + part * SUMSQ_PART;
        if (begin >= job->n) return;
        ((double *)job->parts)[part] = sumsq_part((const float *)job->x + begin, kern_min_size(job->n - begin, SUMSQ_PART));
    }
}

double KERN_OP(sumsq)(kern_cpu_ctx *ctx, const float *x, size_t n) {
    double sum = 0, *parts = kern_scratch(ctx, 0);
    const size_t stride = (size_t)PARTS * SUMSQ_PART;
    for (size_t begin = 0; begin < n; begin += stride) {
        size_t count = kern_min_size(n - begin, stride);
        sum_job job = {x, n, begin, parts};
        kern_pool_run(ctx->pool, pieces(count, CHUNK), sumsq_task, &job);
        for (int i = 0; i < pieces(count, SUMSQ_PART); i++) sum += parts[i];
    }
    return sum;
}

/* Words begin .. of x, of which `bytes` bytes are left. */
static uint64_t checksum_words(const char *x, size_t bytes, size_t begin) {
    uint64_t sum = 0, word;
    for (size_t i = 0; i < bytes / sizeof word; i++) {
        memcpy(&word, x + i * sizeof word, sizeof word);
        sum += kern_mix64(word, begin + i);
    }
    if (bytes % sizeof word == 0) return sum;
    word = 0;
    memcpy(&word, x + bytes / sizeof word * sizeof word, bytes % sizeof word);
    return sum + kern_mix64(word, begin + bytes / sizeof word);
}

static void checksum_task(void *arg, int task, int thread) {
    const sum_job *job = arg;
    const size_t begin = job->begin + (size_t)task * CHUNK;
    (void)thread;
    ((uint64_t *)job->parts)[task] =
        checksum_words((const char *)job->x + begin, kern_min_size(job->n - begin, CHUNK), begin / sizeof(uint64_t));
}

uint64_t KERN_OP(checksum)(kern_cpu_ctx *ctx, const void *x, size_t bytes) {
    uint64_t sum = 0, *parts = kern_scratch(ctx, 0);
    const size_t stride = (size_t)PARTS * CHUNK;
    for (size_t begin = 0; begin < bytes; begin += stride) {
        size_t count = kern_min_size(bytes - begin, stride);
        sum_job job = {x, bytes, begin, parts};
        kern_pool_run(ctx->pool, pieces(count, CHUNK), checksum_task, &job);
        for (int i = 0; i < pieces(count, CHUNK); i++) sum += parts[i];
    }
    return sum;
}
