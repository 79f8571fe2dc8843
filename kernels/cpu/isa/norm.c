/* RMSNorm, SwiGLU and the per-head norm with rotary embedding, forward and gradient.
 *
 * Rows are independent, so forward passes split them over the pool as they come. A weight gradient adds parts of KERN_PART_ROWS rows in order
 * (kern.h): there the pool splits columns, and every task walks all rows. What both need of a row, the reciprocal root mean square, is
 * computed once into thread 0's scratch; long inputs go through it in chunks of whole parts, which leaves the sums as they are. */
#include "kernels/cpu/isa/kv.h"

enum {
    TASK_FLOATS = 1 << 14,                           /* rows are handed out in tasks of about this many floats */
    RSTD_FLOATS = KERN_SCRATCH_BYTES / sizeof(float) /* the scratch of thread 0 */
};
_Static_assert(RSTD_FLOATS % KERN_PART_ROWS == 0, "a chunk of rows is whole parts");

static inline vf load_lanes(const float *p, int n) { return n >= VF ? vf_load(p) : vf_load_n(p, n, 0.0f); }

static inline void store_lanes(float *p, vf x, int n) {
    if (n >= VF)
        vf_store(p, x);
    else
        vf_store_n(p, x, n);
}

static int rows_per_task(int width) {
    int rows = TASK_FLOATS / width;
    return rows < 1 ? 1 : rows;
}

static int task_count(int m, int rows) { return (m + rows - 1) / rows; }

static float row_rstd(const float *x, int k, float eps) {
    vf sum = vf_zero();
    for (int i = 0; i < k; i += VF) {
        vf v = load_lanes(x + i, k - i);
        sum = vf_fma(v, v, sum);
    }
    return 1.0f / sqrtf(vf_sum(sum) / (float)k + eps);
}

/* dx = [dx +] rstd * (g - xhat * mean(g * xhat)), with g = dy * weight and xhat = x * rstd. dx may be dy. */
static void row_norm_grad(float *dx, const float *dy, const float *x, const float *weight, float rstd, int k, bool accumulate) {
    const vf r = vf_set1(rstd);
    vf sum = vf_zero();
    for (int i = 0; i < k; i += VF) {
        vf g = vf_mul(load_lanes(dy + i, k - i), load_lanes(weight + i, k - i));
        sum = vf_fma(g, vf_mul(load_lanes(x + i, k - i), r), sum);
    }
    const vf mean = vf_set1(vf_sum(sum) / (float)k);
    for (int i = 0; i < k; i += VF) {
        vf g = vf_mul(load_lanes(dy + i, k - i), load_lanes(weight + i, k - i));
        vf d = vf_mul(r, vf_fnma(vf_mul(load_lanes(x + i, k - i), r), mean, g));
        if (accumulate) d = vf_add(load_lanes(dx + i, k - i), d);
        store_lanes(dx + i, d, k - i);
    }
}

/* ---- RMSNorm ---------------------------------------------------------------------------------------------------------------------- */

typedef struct norm_job {
    float *y, *dweight, *rstd; /* y: the forward's output, or dx */
    const float *x, *dy, *weight;
    float eps;
    int m, k, per_task; /* rows, or columns, a task */
} norm_job;

static void norm_rows(void *arg, int task, int thread) {
    (void)thread;
    const norm_job *job = arg;
    const int k = job->k, end = kern_min(job->m, (task + 1) * job->per_task);
    for (int row = task * job->per_task; row < end; row++) {
        const float *x = job->x + (size_t)row * k;
        float *y = job->y + (size_t)row * k;
        const vf rstd = vf_set1(row_rstd(x, k, job->eps));
        for (int i = 0; i < k; i += VF)
            store_lanes(y + i, vf_mul(vf_mul(load_lanes(x + i, k - i), rstd), load_lanes(job->weight + i, k - i)), k - i);
    }
}

void KERN_OP(rmsnorm)(kern_cpu_ctx *ctx, void *y, kern_dtype y_dtype, const float *x, const void *weight, kern_dtype weight_dtype, float eps,
                      int m, int k) {
    (void)y_dtype, (void)weight_dtype;
    norm_job job = {.y = y, .x = x, .weight = weight, .eps = eps, .m = m, .k = k, .per_task = rows_per_task(k)};
    kern_pool_run(ctx->pool, task_count(m, job.per_task), norm_rows, &job);
}

static void norm_grad_rows(void *arg, int task, int thread) {
    (void)thread;
    const norm_job *job = arg;
    const int end = kern_min(job->m, (task + 1) * job->per_task);
    for (int row = task * job->per_task; row < end; row++) {
        const size_t at = (size_t)row * job->k;
        job->rstd[row] = row_rstd(job->x + at, job->k, job->eps);
        row_norm_grad(job->y + at, job->dy + at, job->x + at, job->weight, job->rstd[row], job->k, true);
    }
}

/* dweight of 64 columns: four vectors, so that a row's four cache lines are used at once. */
static void norm_grad_columns(void *arg, int task, int thread) {
    (void)thread;
    const norm_job *job = arg;
    const int k = job->k, begin = task * job->per_task, n = kern_min(k - begin, job->per_task);
    vf total[4], sum[4];
    for (int v = 0; v * VF < n; v++) total[v] = load_lanes(job->dweight + begin + v * VF, n - v * VF);
    for (int part = 0; part < job->m; part += KERN_PART_ROWS) {
        for (int v = 0; v * VF < n; v++) sum[v] = vf_zero();
        for (int row = part; row < kern_min(job->m, part + KERN_PART_ROWS); row++) {
            const float *x = job->x + (size_t)row * k + begin, *dy = job->dy + (size_t)row * k + begin;
            const vf rstd = vf_set1(job->rstd[row]);
            for (int v = 0; v * VF < n; v++) {
                vf xhat = vf_mul(load_lanes(x + v * VF, n - v * VF), rstd);
                sum[v] = vf_fma(load_lanes(dy + v * VF, n - v * VF), xhat, sum[v]);
            }
        }
        for (int v = 0; v * VF < n; v++) total[v] = vf_add(total[v], sum[v]);
    }
    for (int v = 0; v * VF < n; v++) store_lanes(job->dweight + begin + v * VF, total[v], n - v * VF);
}

void KERN_OP(rmsnorm_grad)(kern_cpu_ctx *ctx, float *dx, float *dweight, const void *dy, kern_dtype dy_dtype, const float *x,
                           const void *weight, kern_dtype weight_dtype, float eps, int m, int k) {
    (void)dy_dtype, (void)weight_dtype;
    for (int begin = 0; begin < m; begin += RSTD_FLOATS) {
        const size_t at = (size_t)begin * k;
        norm_job job = {.y = dx + at, .dweight = dweight, .rstd = kern_scratch(ctx, 0), .x = x + at, .dy = (const float *)dy + at, .weight = weight,
                        .eps = eps, .m = kern_min(m - begin, RSTD_FLOATS), .k = k, .per_task = rows_per_task(k)};
        kern_pool_run(ctx->pool, task_count(job.m, job.per_task), norm_grad_rows, &job);
        job.per_task = 4 * VF;
        kern_pool_run(ctx->pool, task_count(k, job.per_task), norm_grad_columns, &job);
    }
}

/* ---- SwiGLU ----------------------------------------------------------------------------------------------------------------------- */

typedef struct swiglu_job {
    float *out;
    const float *dy, *gate_up;
    int m, f, per_task;
} swiglu_job;

static inline vf sigmoid(vf x) { return vf_div(vf_set1(1.0f), vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_zero(), x)))); }

static void swiglu_rows(void *arg, int task, int thread) {
    (void)thread;
    const swiglu_job *job = arg;
    const int f = job->f, end = kern_min(job->m, (task + 1) * job->per_task);
    for (int row = task * job->per_task; row < end; row++) {
        const float *gate = job->gate_up + (size_t)row * 2 * f, *up = gate + f;
        float *y = job->out + (size_t)row * f;
        for (int i = 0; i < f; i += VF) {
            vf g = load_lanes(gate + i, f - i);
            store_lanes(y + i, vf_mul(vf_mul(g, sigmoid(g)), load_lanes(up + i, f - i)), f - i);
        }
    }
}

void KERN_OP(swiglu)(kern_cpu_ctx *ctx, void *y, const void *gate_up, kern_dtype dtype, int m, int f) {
    (void)dtype;
    swiglu_job job = {.out = y, .gate_up = gate_up, .m = m, .f = f, .per_task = rows_per_task(2 * f)};
    kern_pool_run(ctx->pool, task_count(m, job.per_task), swiglu_rows, &job);
}

void KERN_OP(linear_swiglu)(kern_cpu_ctx *ctx, void *y, void *gate_up, kern_dtype dtype, const void *x, kern_dtype x_dtype, const void *w,
                            kern_dtype w_dtype, kern_dtype factors, int m, int f, int k) {
    KERN_OP(linear)(ctx, gate_up, dtype, x, x_dtype, w, w_dtype, NULL, KERN_F32, factors, m, 2 * f, k, false);
    KERN_OP(swiglu)(ctx, y, gate_up, dtype, m, f);
}

/* silu'(g) = s (1 + g (1 - s)), s = sigmoid(g). dgate_up may be gate_up. */
static void swiglu_grad_rows(void *arg, int task, int thread) {
    (void)thread;
    const swiglu_job *job = arg;
    const int f = job->f, end = kern_min(job->m, (task + 1) * job->per_task);
    const vf one = vf_set1(1.0f);
    for (int row = task * job->per_task; row < end; row++) {
        const float *gate = job->gate_up + (size_t)row * 2 * f, *up = gate + f, *dy = job->dy + (size_t)row * f;
        float *dgate = job->out + (size_t)row * 2 * f, *dup = dgate + f;
        for (int i = 0; i < f; i += VF) {
            const int n = f - i;
            vf g = load_lanes(gate + i, n), u = load_lanes(up + i, n), d = load_lanes(dy + i, n), s = sigmoid(g);
            store_lanes(dgate + i, vf_mul(vf_mul(d, u), vf_mul(s, vf_fma(g, vf_sub(one, s), one))), n);
            store_lanes(dup + i, vf_mul(d, vf_mul(g, s)), n);
        }
    }
}

void KERN_OP(swiglu_grad)(kern_cpu_ctx *ctx, void *dgate_up, const void *dy, const void *gate_up, kern_dtype dtype, int m, int f) {
    (void)dtype;
    swiglu_job job = {.out = dgate_up, .dy = dy, .gate_up = gate_up, .m = m, .f = f, .per_task = rows_per_task(2 * f)};
    kern_pool_run(ctx->pool, task_count(m, job.per_task), swiglu_grad_rows, &job);
}

/* ---- q and k: norm per head, then rotary embedding -------------------------------------------------------------------------------- */

typedef struct rope_job {
    float *out, *dq_norm, *dk_norm, *rstd; /* rstd (m, H+G) */
    const float *in, *dout, *q_norm, *k_norm, *rope;
    const int32_t *pos;
    float eps;
    int m, per_task;
    kern_attn_shape shape;
    float *kv; /* the layer of a cache; NULL: k and v are not kept */
    kern_kv_shape kv_shape;
    const int32_t *slots;
} rope_job;

static inline const float *head_norm(const rope_job *job, int head) { return head < job->shape.heads ? job->q_norm : job->k_norm; }

static inline const float *row_rope(const rope_job *job, int row) { return job->rope + (size_t)job->pos[row] * job->shape.head_dim; }

/* One head: y = rotate(x * rstd * weight); weight NULL: y = rotate(x). y may be x. */
static void rope_head(float *y, const float *x, const float *weight, float eps, const float *rope, int d) {
    const int half = d / 2;
    const vf rstd = vf_set1(weight ? row_rstd(x, d, eps) : 1.0f);
    for (int i = 0; i < half; i += VF) {
        const int n = half - i;
        vf a = load_lanes(x + i, n), b = load_lanes(x + half + i, n);
        if (weight) {
            a = vf_mul(vf_mul(a, rstd), load_lanes(weight + i, n));
            b = vf_mul(vf_mul(b, rstd), load_lanes(weight + half + i, n));
        }
        vf c = load_lanes(rope + i, n), s = load_lanes(rope + half + i, n);
        store_lanes(y + i, vf_fnma(b, s, vf_mul(a, c)), n);
        store_lanes(y + half + i, vf_fma(a, s, vf_mul(b, c)), n);
    }
}

static void keep_row(const rope_job *job, int row) {
    const kern_attn_shape s = job->shape;
    const int d = s.head_dim, g = s.kv_heads, page_size = job->kv_shape.page_size, slot = job->slots[row];
    const float *key = job->out + (size_t)row * kern_qkv_width(s) + s.heads * d, *value = key + g * d;
    float *page = job->kv + (size_t)(slot / page_size) * kv_page(&job->kv_shape);
    for (int h = 0; h < g; h++) kv_store(page + h * kv_block(page_size, d), page_size, d, slot % page_size, key + h * d, value + h * d);
}

static void rope_rows(void *arg, int task, int thread) {
    (void)thread;
    const rope_job *job = arg;
    const kern_attn_shape s = job->shape;
    const int width = kern_qkv_width(s), rotated = s.heads + s.kv_heads, end = kern_min(job->m, (task + 1) * job->per_task);
    for (int row = task * job->per_task; row < end; row++) {
        const float *in = job->in + (size_t)row * width;
        float *out = job->out + (size_t)row * width;
        for (int h = 0; h < rotated; h++)
            rope_head(out + h * s.head_dim, in + h * s.head_dim, head_norm(job, h), job->eps, row_rope(job, row), s.head_dim);
        const int v = rotated * s.head_dim;
        if (out != in) memcpy(out + v, in + v, (size_t)(width - v) * sizeof(float));
        if (job->kv) keep_row(job, row);
    }
}

void KERN_OP(qk_rope)(kern_cpu_ctx *ctx, void *out, const void *in, kern_dtype dtype, const void *q_norm, const void *k_norm,
                      kern_dtype norm_dtype, float eps, const float *rope, const int32_t *pos, int m, kern_attn_shape shape, void *kv,
                      kern_kv_shape kv_shape, int layer, const int32_t *slots) {
    (void)dtype, (void)norm_dtype;
    rope_job job = {.out = out, .in = in, .q_norm = q_norm, .k_norm = k_norm, .rope = rope, .pos = pos, .eps = eps, .m = m,
                    .per_task = rows_per_task(kern_qkv_width(shape)), .shape = shape, .kv_shape = kv_shape, .slots = slots};
    if (kv) job.kv = (float *)kv + (size_t)layer * (size_t)kv_shape.pages * kv_page(&kv_shape);
    kern_pool_run(ctx->pool, task_count(m, job.per_task), rope_rows, &job);
}

/* Columns i.. of both halves of dy, the gradient before the rotation. */
static inline void unrotate(vf *da, vf *db, const float *dout, const float *rope, int half, int i) {
    const int n = half - i;
    vf a = load_lanes(dout + i, n), b = load_lanes(dout + half + i, n), c = load_lanes(rope + i, n), s = load_lanes(rope + half + i, n);
    *da = vf_fma(b, s, vf_mul(a, c));
    *db = vf_fnma(a, s, vf_mul(b, c));
}

static void rope_rstd_rows(void *arg, int task, int thread) {
    (void)thread;
    const rope_job *job = arg;
    const int d = job->shape.head_dim, rotated = job->shape.heads + job->shape.kv_heads, width = kern_qkv_width(job->shape);
    const int end = kern_min(job->m, (task + 1) * job->per_task);
    for (int row = task * job->per_task; row < end; row++)
        for (int h = 0; h < rotated; h++)
            job->rstd[(size_t)row * rotated + h] = row_rstd(job->in + (size_t)row * width + h * d, d, job->eps);
}

/* The sums of one part, over rows, then heads first..last-1. */
static inline void rope_weight_part(vf *sum_a, vf *sum_b, const rope_job *job, int part, int first, int last, int i) {
    const kern_attn_shape s = job->shape;
    const int d = s.head_dim, half = d / 2, n = half - i, rotated = s.heads + s.kv_heads, width = kern_qkv_width(s);
    *sum_a = *sum_b = vf_zero();
    for (int row = part; row < kern_min(job->m, part + KERN_PART_ROWS); row++)
        for (int h = first; h < last; h++) {
            const size_t at = (size_t)row * width + h * d;
            const vf rstd = vf_set1(job->rstd[(size_t)row * rotated + h]);
            vf da, db;
            unrotate(&da, &db, job->dout + at, row_rope(job, row), half, i);
            *sum_a = vf_fma(da, vf_mul(load_lanes(job->in + at + i, n), rstd), *sum_a);
            *sum_b = vf_fma(db, vf_mul(load_lanes(job->in + at + half + i, n), rstd), *sum_b);
        }
}

/* Task: one vector of columns of the half, of q_norm (even) or k_norm (odd). */
static void rope_weight_columns(void *arg, int task, int thread) {
    (void)thread;
    const rope_job *job = arg;
    const kern_attn_shape s = job->shape;
    const int half = s.head_dim / 2, i = task / 2 * VF, n = half - i;
    const int first = task % 2 ? s.heads : 0, last = task % 2 ? s.heads + s.kv_heads : s.heads;
    float *dweight = task % 2 ? job->dk_norm : job->dq_norm;
    if (!dweight) return;
    vf total_a = load_lanes(dweight + i, n), total_b = load_lanes(dweight + half + i, n), sum_a, sum_b;
    for (int part = 0; part < job->m; part += KERN_PART_ROWS) {
        rope_weight_part(&sum_a, &sum_b, job, part, first, last, i);
        total_a = vf_add(total_a, sum_a);
        total_b = vf_add(total_b, sum_b);
    }
    store_lanes(dweight + i, total_a, n);
    store_lanes(dweight + half + i, total_b, n);
}

static void rope_grad_rows(void *arg, int task, int thread) {
    (void)thread;
    const rope_job *job = arg;
    const kern_attn_shape s = job->shape;
    const int d = s.head_dim, half = d / 2, rotated = s.heads + s.kv_heads, width = kern_qkv_width(s);
    const int end = kern_min(job->m, (task + 1) * job->per_task);
    for (int row = task * job->per_task; row < end; row++) {
        for (int h = 0; h < rotated; h++) {
            const size_t at = (size_t)row * width + h * d;
            for (int i = 0; i < half; i += VF) {
                vf da, db;
                unrotate(&da, &db, job->dout + at, row_rope(job, row), half, i);
                store_lanes(job->out + at + i, da, half - i);
                store_lanes(job->out + at + half + i, db, half - i);
            }
            const float *weight = head_norm(job, h);
            if (weight)
                row_norm_grad(job->out + at, job->out + at, job->in + at, weight, job->rstd[(size_t)row * rotated + h], d, false);
        }
        const size_t v = (size_t)row * width + rotated * d;
        if (job->out != job->dout) memcpy(job->out + v, job->dout + v, (size_t)(width - rotated * d) * sizeof(float));
    }
}

void KERN_OP(qk_rope_grad)(kern_cpu_ctx *ctx, void *din, float *dq_norm, float *dk_norm, const void *dout, const void *in, kern_dtype dtype,
                           const void *q_norm, const void *k_norm, kern_dtype norm_dtype, float eps, const float *rope, const int32_t *pos,
                           int m, kern_attn_shape shape) {
    (void)dtype, (void)norm_dtype;
    const int width = kern_qkv_width(shape), chunk = RSTD_FLOATS / (shape.heads + shape.kv_heads) / KERN_PART_ROWS * KERN_PART_ROWS;
    for (int begin = 0; begin < m; begin += chunk) {
        const size_t at = (size_t)begin * width;
        rope_job job = {.out = (float *)din + at, .dq_norm = dq_norm, .dk_norm = dk_norm, .rstd = kern_scratch(ctx, 0),
                        .in = (const float *)in + at, .dout = (const float *)dout + at, .q_norm = q_norm, .k_norm = k_norm, .rope = rope, .pos = pos + begin, .eps = eps,
                        .m = kern_min(m - begin, chunk), .per_task = rows_per_task(width), .shape = shape};
        const int tasks = task_count(job.m, job.per_task);
        if (q_norm || k_norm) {
            kern_pool_run(ctx->pool, tasks, rope_rstd_rows, &job);
            kern_pool_run(ctx->pool, task_count(shape.head_dim / 2, VF) * 2, rope_weight_columns, &job);
        }
        kern_pool_run(ctx->pool, tasks, rope_grad_rows, &job);
    }
}
