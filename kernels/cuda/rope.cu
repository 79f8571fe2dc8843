/* q and k: norm per head, then rotary embedding; and the gradient. Half a warp a head of a row; v goes along as heads that are only copied.
 * A lane has the pairs i, D/2 + i for i = lane, lane + 16, ... of its head in registers: all loads of a head are under way before the first
 * is used.
 *
 *   qk_rope        reads and writes each element once: 8 bytes, or 4 as bfloat16; k and v that are kept, once more. Of few rows it is as long as
 *                  loads that wait for each other: so what does not come from the operation in front (where a row turns to and is kept,
 *                  cosines, the norm's weight) is there before that has ended
 *   qk_rope_grad   reads dout and in, writes din: 12 bytes, or 6. A block of threads has a part of KERN_PART_ROWS rows and goes through its
 *                  heads, TASKS at a time, in the order in which the norms' weights add them; half a warp leaves what it has of a head in
 *                  shared memory, where then a thread a column adds it. Memory for two turns, so that there is one barrier a turn. In the
 *                  end a thread a column goes through the parts */
#include "kernels/cuda/kv.h"
#include "kernels/cuda/norm.h"

enum { THREADS = 256, TEAMS = THREADS / KERN_LANES, MAX_DIM = 256, MOST_PAIRS = MAX_DIM / 2 / KERN_LANES };

KERN_BOTH int all_heads(kern_attn_shape s) { return s.heads + 2 * s.kv_heads; }

/* ---- a head in half a warp -------------------------------------------------------------------------------------------------------- */

/* Elements i and D/2 + i, for the n-th i of the lane. */
typedef struct head_pairs {
    float first[MOST_PAIRS], second[MOST_PAIRS];
} head_pairs;

/* For the n-th i of the lane, of those that the head has. d is a constant where the kernel is made for it: then the test goes away. */
#define EACH_PAIR(n, i, half) \
    KERN_UNROLL               \
    for (int n = 0, i = kern_lane(); n < ((half) + KERN_LANES - 1) / KERN_LANES && n < MOST_PAIRS; n++, i += KERN_LANES) if (i < (half))

KERN_DEVICE void load_head(head_pairs *x, const void *from, kern_dtype dtype, size_t at, int d) {
    EACH_PAIR(n, i, d / 2) {
        x->first[n] = kern_element(from, dtype, at + i);
        x->second[n] = kern_element(from, dtype, at + d / 2 + i);
    }
}

/* Sum of squares, in 16 lanes by index mod 16: the lane's own elements where D/2 is a multiple of 16, else such as other lanes have, which
 * may write them after that. A head that is not there: whatever. */
KERN_DEVICE float head_squares(const head_pairs *x, const void *from, kern_dtype dtype, size_t at, int d, bool there) {
    float sum = 0;
    if (d / 2 % KERN_LANES) {
        for (int i = kern_lane(); there && i < d; i += KERN_LANES) {
            const float y = kern_element(from, dtype, at + i);
            sum = fmaf(y, y, sum);
        }
        kern_warp_barrier();
    } else {
        EACH_PAIR(n, i, d / 2) sum = fmaf(x->first[n], x->first[n], sum);
        EACH_PAIR(n, i, d / 2) sum = fmaf(x->second[n], x->second[n], sum);
    }
    return kern_sum16(sum);
}

/* ---- forward ---------------------------------------------------------------------------------------------------------------------- */

typedef struct qk_rope_args {
    void *out;
    const void *in;
    kern_dtype dtype;
    const void *q_norm, *k_norm;
    kern_dtype norm_dtype;
    float eps;
    const float *rope;
    const int32_t *pos;
    int m;
    kern_attn_shape shape;
    void *kv; /* the layer of a cache; NULL: k and v are not kept */
    kern_kv_shape kv_shape;
    const int32_t *slots;
} qk_rope_args;

/* Element i of the cache: what `out` has of x. Where that is bfloat16, factors are. */
KERN_DEVICE void keep(const qk_rope_args *a, const kern_dtype dtype, const int d, size_t i, float x) {
    const bool half = dtype == KERN_BF16, tiles = attention_by_tiles(half ? KERN_BF16 : a->kv_shape.factors, d);
    if (tiles)
        ((uint16_t *)a->kv)[i] = kern_bf16_of_float(x);
    else
        ((float *)a->kv)[i] = half ? kern_float_of_bf16(kern_bf16_of_float(x)) : x;
}

KERN_DEVICE void rope_head(const qk_rope_args *a, const kern_dtype dtype, const int d) {
    const kern_attn_shape s = a->shape;
    const int task = kern_block() * TEAMS + kern_team(), tasks = a->m * all_heads(s), mine = task < tasks ? task : tasks - 1;
    const int row = mine / all_heads(s), head = mine % all_heads(s), half = d / 2;
    const size_t at = (size_t)mine * d;
    const void *norm = head < s.heads ? a->q_norm : a->k_norm;
    const bool rotated = head < s.heads + s.kv_heads, normed = rotated && norm, kept = a->kv && head >= s.heads;
    const bool there = task < tasks; /* or the last one, which others may have written already: half warps are left for the shuffles */
    head_pairs x = {{0}, {0}}, turn, weight;
    const int slot = kept ? a->slots[row] : 0, pos = rotated ? a->pos[row] : 0;
    if (normed) load_head(&weight, norm, a->norm_dtype, 0, d);
    if (rotated) load_head(&turn, a->rope, KERN_F32, (size_t)pos * d, d);
    const size_t place = kept ? kv_place(a->kv_shape, slot, (head - s.heads) % s.kv_heads) + (rotated ? 0 : kv_half(a->kv_shape)) : 0;
    kern_wait_for_previous();
    if (there) load_head(&x, a->in, dtype, at, d);
    const float rstd = rstd_of(head_squares(&x, a->in, dtype, at, d, there), d, a->eps);
    if (!there) return;
    EACH_PAIR(n, i, half) {
        float first = x.first[n], second = x.second[n];
        if (normed) {
            first = first * rstd * weight.first[n];
            second = second * rstd * weight.second[n];
        }
        const float low = rotated ? fmaf(-second, turn.second[n], first * turn.first[n]) : first;
        const float high = rotated ? fmaf(first, turn.second[n], second * turn.first[n]) : second;
        kern_set_element(a->out, dtype, at + i, low);
        kern_set_element(a->out, dtype, at + half + i, high);
        if (!kept) continue;
        keep(a, dtype, d, place + i, low);
        keep(a, dtype, d, place + half + i, high);
    }
}

#define ROPE_KERNEL(name, dtype, d)   \
    typedef qk_rope_args name##_args; \
    KERN_KERNEL_WAITS(name) {         \
        rope_head(&a, dtype, d);      \
    }
ROPE_KERNEL(rope_64, KERN_F32, 64)
ROPE_KERNEL(rope_128, KERN_F32, 128)
ROPE_KERNEL(rope_64_bf16, KERN_BF16, 64)
ROPE_KERNEL(rope_128_bf16, KERN_BF16, 128)
ROPE_KERNEL(rope_any, a.dtype, a.shape.head_dim)

void kern_cuda_qk_rope(kern_ctx *ctx, void *out, const void *in, kern_dtype dtype, const void *q_norm, const void *k_norm,
                       kern_dtype norm_dtype, float eps, const float *rope, const int32_t *pos, int m, kern_attn_shape shape, void *kv,
                       kern_kv_shape kv_shape, int layer, const int32_t *slots) {
    const size_t before = (size_t)layer * kv_layer(kv_shape) * kern_dtype_size(kv_dtype(kv_shape));
    const qk_rope_args args = {out, in, dtype, q_norm, k_norm, norm_dtype, eps, rope, pos, m, shape, kv ? (char *)kv + before : NULL,
                               kv_shape, slots};
    const int blocks = kern_blocks_for((size_t)m * (size_t)all_heads(shape), TEAMS), d = shape.head_dim;
    if (d == 64 && dtype == KERN_F32)
        KERN_LAUNCH(ctx, rope_64, blocks, THREADS, args);
    else if (d == 128 && dtype == KERN_F32)
        KERN_LAUNCH(ctx, rope_128, blocks, THREADS, args);
    else if (d == 64)
        KERN_LAUNCH(ctx, rope_64_bf16, blocks, THREADS, args);
    else if (d == 128)
        KERN_LAUNCH(ctx, rope_128_bf16, blocks, THREADS, args);
    else
        KERN_LAUNCH(ctx, rope_any, blocks, THREADS, args);
}

/* ---- gradient --------------------------------------------------------------------------------------------------------------------- */

enum { GRAD_THREADS = 512, TASKS = GRAD_THREADS / KERN_LANES }; /* a thread for each column of q_norm and of k_norm: 2 D at most */

typedef struct rope_grad_args {
    void *din;
    float *q_parts, *k_parts; /* (parts, D), NULL where there is no gradient */
    const void *dout, *in;
    kern_dtype dtype;
    const void *q_norm, *k_norm;
    kern_dtype norm_dtype;
    float eps;
    const float *rope;
    const int32_t *pos;
    int m;
    kern_attn_shape shape;
} rope_grad_args;

/* Of one turn, a head's gradient before the rotation, and x; element i of task t is [t*stride + i]. */
KERN_BOTH int turn_stride(int d) { return d + KERN_LANES; } /* so that the two halves of a warp lie in different banks */
KERN_BOTH size_t turn_floats(int d) { return (size_t)TASKS * (size_t)(2 * turn_stride(d) + 1); }
typedef struct turn_memory {
    float *dout, *in, *rstd; /* rstd (TASKS) */
} turn_memory;

KERN_DEVICE turn_memory turn_of(float *memory, int turn, int d) {
    float *const from = memory + (size_t)(turn % 2) * turn_floats(d);
    const turn_memory m = {from, from + TASKS * turn_stride(d), from + 2 * TASKS * turn_stride(d)};
    return m;
}

/* The gradient of a head, task n of the block's part; all of the half warp's. Not `there`: one more than the part has, of which nothing is read or
 * written, for the shuffles. */
KERN_DEVICE void rope_grad_head(const rope_grad_args *a, const turn_memory *memory, size_t head_at, bool there, const kern_dtype dtype,
                                const int d) {
    const kern_attn_shape s = a->shape;
    const int row = (int)(head_at / (size_t)all_heads(s)), head = (int)(head_at % (size_t)all_heads(s)), half = d / 2;
    const size_t at = head_at * d;
    const void *norm = head < s.heads ? a->q_norm : a->k_norm;
    const bool rotated = head < s.heads + s.kv_heads, normed = rotated && norm;
    float *const g = memory->dout + kern_team() * turn_stride(d), *const x = memory->in + kern_team() * turn_stride(d);
    head_pairs dout = {{0}, {0}}, in = {{0}, {0}}, turn;
    if (there) load_head(&dout, a->dout, dtype, at, d);
    if (there && normed) load_head(&in, a->in, dtype, at, d);
    if (rotated) load_head(&turn, a->rope, KERN_F32, (size_t)a->pos[row] * d, d);
    EACH_PAIR(n, i, half) {
        const float first = dout.first[n], second = dout.second[n];
        g[i] = rotated ? fmaf(second, turn.second[n], first * turn.first[n]) : first;
        g[half + i] = rotated ? fmaf(-first, turn.second[n], second * turn.first[n]) : second;
        if (normed) {
            x[i] = in.first[n];
            x[half + i] = in.second[n];
        }
    }
    kern_warp_barrier();
    float squares = 0, sum = 0;
    if (normed) {
        KERN_UNROLL
        for (int i = kern_lane(); i < d; i += KERN_LANES) squares = fmaf(x[i], x[i], squares);
    }
    const float rstd = rstd_of(kern_sum16(squares), d, a->eps);
    if (normed) {
        KERN_UNROLL
        for (int i = kern_lane(); i < d; i += KERN_LANES) sum = fmaf(g[i] * kern_element(norm, a->norm_dtype, i), x[i] * rstd, sum);
    }
    const float mean = kern_sum16(sum) / (float)d;
    if (kern_lane() == 0) memory->rstd[kern_team()] = rstd;
    if (!there) return;
    KERN_UNROLL
    for (int i = kern_lane(); i < d; i += KERN_LANES)
        kern_set_element(a->din, dtype, at + i, normed ? norm_grad_of(g[i], x[i], kern_element(norm, a->norm_dtype, i), rstd, mean) : g[i]);
}

/* A column of q_norm or k_norm: adds the heads first..last-1 among n, of which the first is number `head` of its row. */
KERN_DEVICE float add_column(float sum, const turn_memory *memory, int column, int n, int head, int heads, int first, int last, int d) {
    for (int t = 0; t < n; t++, head = head + 1 < heads ? head + 1 : 0)
        if (head >= first && head < last)
            sum = fmaf(memory->dout[t * turn_stride(d) + column], memory->in[t * turn_stride(d) + column] * memory->rstd[t], sum);
    return sum;
}

KERN_DEVICE void rope_grad_part(const rope_grad_args *a, float *memory, const kern_dtype dtype, const int d) {
    const kern_attn_shape s = a->shape;
    const int heads = all_heads(s), row0 = kern_block() * KERN_PART_ROWS, rows = a->m - row0 < KERN_PART_ROWS ? a->m - row0 : KERN_PART_ROWS;
    const int tasks = rows * heads, column = kern_thread() % d;
    const bool of_q = kern_thread() < d, of_k = !of_q && kern_thread() < 2 * d;
    float *const parts = of_q ? a->q_parts : of_k ? a->k_parts : NULL;
    float sum = 0;
    for (int begin = 0, turn = 0; begin < tasks; begin += TASKS, turn++) {
        const turn_memory here = turn_of(memory, turn, d);
        const int task = begin + kern_team(), n = tasks - begin < TASKS ? tasks - begin : TASKS;
        rope_grad_head(a, &here, (size_t)row0 * heads + (task < tasks ? task : tasks - 1), task < tasks, dtype, d);
        kern_barrier();
        if (parts) sum = add_column(sum, &here, column, n, begin % heads, heads, of_q ? 0 : s.heads, of_q ? s.heads : s.heads + s.kv_heads, d);
    }
    if (parts) parts[(size_t)kern_block() * d + column] = sum;
}

#define ROPE_GRAD_KERNEL(name, dtype, d, blocks)    \
    typedef rope_grad_args name##_args;             \
    KERN_KERNEL_FOR(name, GRAD_THREADS, blocks) {   \
        KERN_SHARED_BYTES(float, memory);           \
        rope_grad_part(&a, memory, dtype, d);       \
    }
ROPE_GRAD_KERNEL(rope_grad_64, KERN_F32, 64, 2)
ROPE_GRAD_KERNEL(rope_grad_128, KERN_F32, 128, 2)
ROPE_GRAD_KERNEL(rope_grad_64_bf16, KERN_BF16, 64, 2)
ROPE_GRAD_KERNEL(rope_grad_128_bf16, KERN_BF16, 128, 2)
ROPE_GRAD_KERNEL(rope_grad_any, a.dtype, a.shape.head_dim, 1)

static void rope_grad_of_rows(kern_ctx *ctx, rope_grad_args args, int parts) {
    const int d = args.shape.head_dim;
    const size_t bytes = 2 * turn_floats(d) * sizeof(float);
    if (d == 64 && args.dtype == KERN_F32)
        KERN_LAUNCH_SHARED(ctx, rope_grad_64, parts, GRAD_THREADS, bytes, args);
    else if (d == 128 && args.dtype == KERN_F32)
        KERN_LAUNCH_SHARED(ctx, rope_grad_128, parts, GRAD_THREADS, bytes, args);
    else if (d == 64)
        KERN_LAUNCH_SHARED(ctx, rope_grad_64_bf16, parts, GRAD_THREADS, bytes, args);
    else if (d == 128)
        KERN_LAUNCH_SHARED(ctx, rope_grad_128_bf16, parts, GRAD_THREADS, bytes, args);
    else
        KERN_LAUNCH_SHARED(ctx, rope_grad_any, parts, GRAD_THREADS, bytes, args);
}

/* din may be dout: half a warp has read all of a head before it writes it. */
void kern_cuda_qk_rope_grad(kern_ctx *ctx, void *din, float *dq_norm, float *dk_norm, const void *dout, const void *in, kern_dtype dtype,
                            const void *q_norm, const void *k_norm, kern_dtype norm_dtype, float eps, const float *rope, const int32_t *pos,
                            int m, kern_attn_shape shape) {
    const size_t width = (size_t)kern_qkv_width(shape) * kern_dtype_size(dtype), d = (size_t)shape.head_dim;
    const int chunk = kern_cuda_rows_at_a_time(ctx, KERN_PART_ROWS, 2 * d * sizeof(float));
    const bool q = dq_norm && q_norm, k = dk_norm && k_norm;
    for (int begin = 0; begin < m; begin += chunk) {
        const size_t at = (size_t)begin * width;
        const int rows = m - begin < chunk ? m - begin : chunk, parts = kern_blocks_for((size_t)rows, KERN_PART_ROWS);
        float *q_parts = ctx->scratch, *k_parts = q_parts + (size_t)parts * d;
        const rope_grad_args args = {(char *)din + at, q ? q_parts : NULL, k ? k_parts : NULL, (const char *)dout + at, (const char *)in + at,
                                     dtype, q_norm, k_norm, norm_dtype, eps, rope, pos + begin, rows, shape};
        rope_grad_of_rows(ctx, args, parts);
        if (q) kern_cuda_rows_add(ctx, dq_norm, q_parts, KERN_F32, parts, shape.head_dim);
        if (k) kern_cuda_rows_add(ctx, dk_norm, k_parts, KERN_F32, parts, shape.head_dim);
    }
}
