/* Gradient of packed causal attention, plain (the equations of FlashAttention-2, Dao 2023, section 3.1.2), with the bits of the CPU:
 *
 *   p = exp(q·k scale - lse)    dv_j = sum_i p_ij dout_i    dp_ij = dout_i · v_j    D_i = dout_i · out_i
 *   ds = p (dp - D) scale       dq_i = sum_j ds_ij k_j      dk_j = sum_i ds_ij q_i
 *
 * Three kernels, no atomics: D, half a warp a row and head; dq, a block a row and query head, over keys ascending; dk and dv, a block a
 * key and kv head, over rows ascending and within a row over the heads of its group. Both big ones compute p and ds, PAIRS at a time, a
 * thread a pair, and then add, a thread a channel. Operations: 2 * 4 D for the scores, 6 D for the sums, a pair of row and key. It serves
 * where attention.cu does. */
#include <assert.h>

#include "kernels/cuda/attention.h"

enum { PAIRS = 128, THREADS = PAIRS, EACH = MAX_DIM / THREADS, TEAMS = THREADS / KERN_LANES };

typedef struct attn_grad_args {
    void *dqkv;
    float *delta;                /* (M, H): D */
    elements dout, out, qkv;     /* all of one dtype, and dqkv */
    const float *lse;
    const int32_t *seq_begin;
    int seqs, m;
    kern_attn_shape shape;
} attn_grad_args;
typedef attn_grad_args grad_delta_args, grad_q_args, grad_kv_args;

typedef struct grad_memory {
    float p[PAIRS], ds[PAIRS];
} grad_memory;

/* Floats from the start of qkv, and of dqkv, to a row's q of a head, and to its k of a kv head; v is kv_heads * D further. */
KERN_DEVICE size_t q_at(const attn_grad_args *a, int row, int head) {
    return (size_t)row * kern_qkv_width(a->shape) + (size_t)(head * a->shape.head_dim);
}
KERN_DEVICE size_t k_at(const attn_grad_args *a, int row, int kv_head) { return q_at(a, row, a->shape.heads + kv_head); }
KERN_DEVICE size_t out_at(const attn_grad_args *a, int row, int head) { return ((size_t)row * a->shape.heads + head) * a->shape.head_dim; }

KERN_KERNEL(grad_delta) {
    const int task = kern_block() * TEAMS + kern_team(), tasks = a.m * a.shape.heads, mine = task < tasks ? task : tasks - 1;
    const size_t at = (size_t)mine * a.shape.head_dim;
    float sum = 0;
    for (int i = kern_lane(); i < a.shape.head_dim; i += KERN_LANES) sum = fmaf(element_of(a.dout, at + i), element_of(a.out, at + i), sum);
    sum = kern_sum16(sum);
    if (task < tasks && kern_lane() == 0) a.delta[task] = sum;
}

/* p and ds of a query row and head with a key row. */
KERN_DEVICE void pair(const attn_grad_args *a, int row, int head, int key, float *p, float *ds) {
    const int d = a->shape.head_dim, kv_head = head / (a->shape.heads / a->shape.kv_heads);
    const float scale = 1.0f / sqrtf((float)d);
    const size_t k = k_at(a, key, kv_head), v = k + a->shape.kv_heads * d;
    const size_t at = (size_t)row * a->shape.heads + head;
    *p = kern_exp1(dot(a->qkv, q_at(a, row, head), a->qkv, k, d) * scale - a->lse[at]);
    *ds = *p * (dot(a->dout, out_at(a, row, head), a->qkv, v, d) - a->delta[at]) * scale;
}

KERN_KERNEL(grad_q) {
    KERN_SHARED(grad_memory, memory);
    const int row = kern_block() / a.shape.heads, head = kern_block() % a.shape.heads, d = a.shape.head_dim, t = kern_thread();
    const int begin = a.seq_begin[sequence_of(a.seq_begin, a.seqs, row)], kv_head = head / (a.shape.heads / a.shape.kv_heads);
    float dq[EACH] = {0};
    for (int first = begin; first <= row; first += PAIRS) {
        const int n = row + 1 - first < PAIRS ? row + 1 - first : PAIRS;
        if (t < n) pair(&a, row, head, first + t, &memory->p[t], &memory->ds[t]);
        kern_barrier();
        for (int j = 0; j < n; j++)
            for (int c = 0; c < EACH; c++)
                if (c * THREADS + t < d)
                    dq[c] = fmaf(memory->ds[j], element_of(a.qkv, k_at(&a, first + j, kv_head) + c * THREADS + t), dq[c]);
        kern_barrier();
    }
    for (int c = 0; c < EACH; c++)
        if (c * THREADS + t < d) kern_set_element(a.dqkv, a.qkv.dtype, q_at(&a, row, head) + c * THREADS + t, dq[c]);
}

/* Pair i of the key: row key + i / group, head i % group of the kv head's group. */
KERN_KERNEL(grad_kv) {
    KERN_SHARED(grad_memory, memory);
    const int key = kern_block() / a.shape.kv_heads, kv_head = kern_block() % a.shape.kv_heads, d = a.shape.head_dim, t = kern_thread();
    const int group = a.shape.heads / a.shape.kv_heads, end = a.seq_begin[sequence_of(a.seq_begin, a.seqs, key) + 1];
    const int pairs = (end - key) * group;
    float dk[EACH] = {0}, dv[EACH] = {0};
    for (int first = 0; first < pairs; first += PAIRS) {
        const int n = pairs - first < PAIRS ? pairs - first : PAIRS, mine = first + t;
        if (t < n) pair(&a, key + mine / group, kv_head * group + mine % group, key, &memory->p[t], &memory->ds[t]);
        kern_barrier();
        for (int i = 0; i < n; i++) {
            const int row = key + (first + i) / group, head = kv_head * group + (first + i) % group;
            for (int c = 0; c < EACH; c++) {
                const int channel = c * THREADS + t;
                if (channel >= d) continue;
                dk[c] = fmaf(memory->ds[i], element_of(a.qkv, q_at(&a, row, head) + channel), dk[c]);
                dv[c] = fmaf(memory->p[i], element_of(a.dout, out_at(&a, row, head) + channel), dv[c]);
            }
        }
        kern_barrier();
    }
    for (int c = 0; c < EACH; c++) {
        const size_t at = k_at(&a, key, kv_head) + c * THREADS + t;
        if (c * THREADS + t >= d) continue;
        kern_set_element(a.dqkv, a.qkv.dtype, at, dk[c]);
        kern_set_element(a.dqkv, a.qkv.dtype, at + a.shape.kv_heads * d, dv[c]);
    }
}

void kern_cuda_attention_grad(kern_ctx *ctx, void *dqkv, const void *dout, const void *out, const float *lse, const void *qkv, kern_dtype dtype,
                              const int32_t *seq_begin, int seqs, kern_attn_shape shape) {
    if (attention_by_tiles(shape.factors, shape.head_dim)) {
        kern_cuda_attention_grad_tiles(ctx, dqkv, dout, out, lse, qkv, dtype, seq_begin, seqs, shape);
        return;
    }
    const int m = seq_begin[seqs];
    const int32_t *begin = (const int32_t *)kern_cuda_stage(ctx, seq_begin, (size_t)(seqs + 1) * sizeof *seq_begin);
    const attn_grad_args args = {dqkv, ctx->scratch, {dout, dtype}, {out, dtype}, {qkv, dtype}, lse, begin, seqs, m, shape};
    assert((size_t)m * (size_t)shape.heads <= KERN_CUDA_SCRATCH_FLOATS);
    KERN_LAUNCH(ctx, grad_delta, kern_blocks_for((size_t)m * (size_t)shape.heads, TEAMS), THREADS, args);
    KERN_LAUNCH(ctx, grad_q, m * shape.heads, THREADS, args);
    KERN_LAUNCH(ctx, grad_kv, m * shape.kv_heads, THREADS, args);
}
