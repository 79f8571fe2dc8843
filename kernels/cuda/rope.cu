/* q and k: norm per head, then rotary embedding; and the gradient. Half a warp a head of a row; v goes along as heads that are only copied.
 *
 *   qk_rope        reads and writes each element once (the norm's first pass over a head leaves it in the cache): 8 bytes
 *   qk_rope_grad   reads dout and in, writes din: 12 bytes; the norms' weights: a thread a pair of columns of a part of KERN_PART_ROWS rows,
 *                  through rows and heads, in that order: 8 bytes more; then a thread a column through the parts */
#include "kernels/cuda/norm.h"

enum { THREADS = 256, TEAMS = THREADS / KERN_LANES, COLUMN_THREADS = 32 };

typedef struct qk_rope_args {
    float *out;
    const float *in, *q_norm, *k_norm;
    float eps;
    const float *rope;
    const int32_t *pos;
    int m;
    kern_attn_shape shape;
} qk_rope_args;

KERN_BOTH int all_heads(kern_attn_shape s) { return s.heads + 2 * s.kv_heads; }

KERN_KERNEL(qk_rope) {
    const kern_attn_shape s = a.shape;
    const int task = kern_block() * TEAMS + kern_team(), tasks = a.m * all_heads(s), mine = task < tasks ? task : tasks - 1;
    const int row = mine / all_heads(s), head = mine % all_heads(s), d = s.head_dim, half = d / 2;
    const size_t at = (size_t)mine * d;
    const float *x = a.in + at, *weight = head < s.heads ? a.q_norm : a.k_norm, *rope = a.rope + (size_t)a.pos[row] * d;
    float *y = a.out + at;
    const bool rotated = head < s.heads + s.kv_heads;
    const float rstd = row_rstd(x, d, a.eps);
    if (task >= tasks) return;
    for (int i = kern_lane(); i < half; i += KERN_LANES) {
        float first = x[i], second = x[half + i];
        if (rotated && weight) {
            first = first * rstd * weight[i];
            second = second * rstd * weight[half + i];
        }
        y[i] = rotated ? fmaf(-second, rope[half + i], first * rope[i]) : first;
        y[half + i] = rotated ? fmaf(first, rope[half + i], second * rope[i]) : second;
    }
}

void kern_cuda_qk_rope(kern_ctx *ctx, float *out, const float *in, const float *q_norm, const float *k_norm, float eps, const float *rope,
                       const int32_t *pos, int m, kern_attn_shape shape) {
    const qk_rope_args args = {out, in, q_norm, k_norm, eps, rope, pos, m, shape};
    KERN_LAUNCH(ctx, qk_rope, kern_blocks_for((size_t)m * (size_t)all_heads(shape), TEAMS), THREADS, args);
}

typedef struct rope_grad_args {
    float *din, *rstd, *q_parts, *k_parts; /* rstd (m, H + G), parts (parts, D), NULL where there is no gradient */
    const float *dout, *in, *q_norm, *k_norm;
    float eps;
    const float *rope;
    const int32_t *pos;
    int m;
    kern_attn_shape shape;
} rope_grad_args;
typedef rope_grad_args rope_rstd_args, rope_weights_args, rope_grad_rows_args;

KERN_KERNEL(rope_rstd) {
    const int rotated = a.shape.heads + a.shape.kv_heads, tasks = a.m * rotated, task = kern_block() * TEAMS + kern_team();
    const int mine = task < tasks ? task : tasks - 1;
    const size_t head = (size_t)(mine / rotated) * all_heads(a.shape) + mine % rotated;
    const float rstd = row_rstd(a.in + head * a.shape.head_dim, a.shape.head_dim, a.eps);
    if (task < tasks && kern_lane() == 0) a.rstd[mine] = rstd;
}

/* Elements i and half + i of the gradient before the rotation. */
KERN_DEVICE void unrotate(float *first, float *second, const float *dout, const float *rope, int half, int i) {
    const float x = dout[i], y = dout[half + i], c = rope[i], s = rope[half + i];
    *first = fmaf(y, s, x * c);
    *second = fmaf(-x, s, y * c);
}

/* A thread a pair of columns of a part; blocks of even number: q_norm, of odd: k_norm. */
KERN_KERNEL(rope_weights) {
    const kern_attn_shape s = a.shape;
    const int d = s.head_dim, half = d / 2, across = (half + COLUMN_THREADS - 1) / COLUMN_THREADS, rotated = s.heads + s.kv_heads;
    const int first = kern_block() % 2 ? s.heads : 0, last = kern_block() % 2 ? rotated : s.heads;
    const int part = kern_block() / 2 / across, i = kern_block() / 2 % across * COLUMN_THREADS + kern_thread(), begin = part * KERN_PART_ROWS;
    float *parts = kern_block() % 2 ? a.k_parts : a.q_parts;
    if (!parts || i >= half) return;
    float sum_a = 0, sum_b = 0;
    for (int row = begin; row < a.m && row < begin + KERN_PART_ROWS; row++)
        for (int h = first; h < last; h++) {
            const size_t at = ((size_t)row * all_heads(s) + h) * d;
            const float rstd = a.rstd[(size_t)row * rotated + h];
            float da, db;
            unrotate(&da, &db, a.dout + at, a.rope + (size_t)a.pos[row] * d, half, i);
            sum_a = fmaf(da, a.in[at + i] * rstd, sum_a);
            sum_b = fmaf(db, a.in[at + half + i] * rstd, sum_b);
        }
    parts[(size_t)part * d + i] = sum_a;
    parts[(size_t)part * d + half + i] = sum_b;
}

/* First the rotation back, into din; then, where there is a norm, its gradient, in which a lane meets elements that others turned. */
KERN_KERNEL(rope_grad_rows) {
    const kern_attn_shape s = a.shape;
    const int task = kern_block() * TEAMS + kern_team(), tasks = a.m * all_heads(s), mine = task < tasks ? task : tasks - 1;
    const int row = mine / all_heads(s), head = mine % all_heads(s), d = s.head_dim, half = d / 2;
    const size_t at = (size_t)mine * d;
    const float *weight = head < s.heads ? a.q_norm : a.k_norm, *x = a.in + at;
    const bool rotated = head < s.heads + s.kv_heads, normed = rotated && weight, written = task < tasks;
    float *din = a.din + at;
    for (int i = kern_lane(); i < half && written; i += KERN_LANES) {
        float first = a.dout[at + i], second = a.dout[at + half + i];
        if (rotated) unrotate(&first, &second, a.dout + at, a.rope + (size_t)a.pos[row] * d, half, i);
        din[i] = first;
        din[half + i] = second;
    }
    kern_warp_barrier();
    const float rstd = normed ? a.rstd[(size_t)row * (s.heads + s.kv_heads) + head] : 0.0f;
    float sum = 0;
    for (int i = kern_lane(); i < d && normed && written; i += KERN_LANES) sum = fmaf(din[i] * weight[i], x[i] * rstd, sum);
    const float mean = kern_sum16(sum) / (float)d;
    for (int i = kern_lane(); i < d && normed && written; i += KERN_LANES) din[i] = norm_grad_of(din[i], x[i], weight[i], rstd, mean);
}

static void rope_grad_of_rows(kern_ctx *ctx, rope_grad_args args, float *dq_norm, float *dk_norm) {
    const size_t m = (size_t)args.m;
    const int d = args.shape.head_dim, parts = kern_blocks_for(m, KERN_PART_ROWS);
    if (args.q_norm || args.k_norm) {
        KERN_LAUNCH(ctx, rope_rstd, kern_blocks_for(m * (size_t)(args.shape.heads + args.shape.kv_heads), TEAMS), THREADS, args);
        KERN_LAUNCH(ctx, rope_weights, 2 * parts * kern_blocks_for((size_t)d / 2, COLUMN_THREADS), COLUMN_THREADS, args);
        if (dq_norm) kern_cuda_rows_add(ctx, dq_norm, args.q_parts, parts, d);
        if (dk_norm) kern_cuda_rows_add(ctx, dk_norm, args.k_parts, parts, d);
    }
    KERN_LAUNCH(ctx, rope_grad_rows, kern_blocks_for(m * (size_t)all_heads(args.shape), TEAMS), THREADS, args);
}

/* din may be dout: the weights' gradients, which read all of dout, come first. */
void kern_cuda_qk_rope_grad(kern_ctx *ctx, float *din, float *dq_norm, float *dk_norm, const float *dout, const float *in,
                            const float *q_norm, const float *k_norm, float eps, const float *rope, const int32_t *pos, int m,
                            kern_attn_shape shape) {
    const int width = kern_qkv_width(shape), rotated = shape.heads + shape.kv_heads;
    const int chunk = kern_cuda_rows_at_a_time(ctx, KERN_PART_ROWS, (size_t)(KERN_PART_ROWS * rotated + 2 * shape.head_dim) * sizeof(float));
    for (int begin = 0; begin < m; begin += chunk) {
        const size_t at = (size_t)begin * width;
        const int rows = m - begin < chunk ? m - begin : chunk;
        float *q_parts = ctx->scratch + (size_t)rows * rotated;
        float *k_parts = q_parts + (size_t)kern_blocks_for((size_t)rows, KERN_PART_ROWS) * shape.head_dim;
        const rope_grad_args args = {din + at, ctx->scratch, dq_norm ? q_parts : NULL, dk_norm ? k_parts : NULL, dout + at, in + at, q_norm,
                                     k_norm, eps, rope, pos + begin, rows, shape};
        rope_grad_of_rows(ctx, args, dq_norm, dk_norm);
    }
}
