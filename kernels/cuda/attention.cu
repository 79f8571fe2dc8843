/* Causal attention, forward, plain: packed sequences and the paged cache by one kernel, and so with the same bits, which are the CPU's.
 *
 *   scores   s[j] = (chain over d of q[d] k_j[d]) * scale                a thread a key
 *   softmax  maximum over j <= pos; e[j] = exp(s[j] - maximum); sum in 16 lanes by j mod 16, then the tree
 *   values   out[d] = (chain over j of e[j] v_j[d]) * (1 / sum) + 0      a thread a channel
 *
 * A block of threads is one query row and head. It goes through the keys twice: for the maximum, and, with the scores computed again rather
 * than kept, for sum and values, KEYS at a time. Operations: 6 D a key, row and head (4 D would do if scores were kept); bytes: every row
 * and head reads its keys twice and its values once, mostly from the cache. It serves float32 factors, and those D that attention_tiles.cu
 * does not. */
#include "kernels/cuda/attention.h"

enum { KEYS = 128, THREADS = KEYS, WARPS = THREADS / 32 };

typedef struct attend_args {
    void *out;
    float *lse;               /* NULL: not wanted */
    elements qkv;             /* out has their dtype */
    kern_attn_shape shape;
    const int32_t *seq_begin; /* packed: (seqs + 1); else NULL */
    int seqs;
    const float *layer;       /* paged: the layer of the cache, ... */
    kern_kv_shape kv;
    const int32_t *seq, *pos, *page_table;
    int max_pages;
} attend_args;

typedef struct attend_memory {
    float q[MAX_DIM], e[KEYS], top[WARPS], sum;
} attend_memory;

/* Where the keys of one row and kv head are. */
typedef struct key_list {
    elements in;          /* packed: qkv; paged: the layer */
    size_t first;         /* packed: the key at position 0 */
    size_t step, value;   /* packed: elements to the next key; both: elements from a key to its value */
    const int32_t *pages; /* NULL: packed */
    int head;
} key_list;

KERN_DEVICE size_t key_of(const attend_args *a, const key_list *keys, int j) {
    if (!keys->pages) return keys->first + (size_t)j * keys->step;
    return kv_place(a->kv, keys->pages[j / a->kv.page_size] * a->kv.page_size + j % a->kv.page_size, keys->head);
}

KERN_DEVICE key_list keys_of(const attend_args *a, int row, int head, int *pos) {
    const int d = a->shape.head_dim, kv_head = head / (a->shape.heads / a->shape.kv_heads);
    key_list keys;
    keys.head = kv_head;
    if (a->seq_begin) {
        const int begin = a->seq_begin[sequence_of(a->seq_begin, a->seqs, row)];
        keys.step = (size_t)kern_qkv_width(a->shape);
        keys.value = (size_t)(a->shape.kv_heads * d);
        keys.in = a->qkv;
        keys.first = (size_t)begin * keys.step + (a->shape.heads + kv_head) * d;
        keys.pages = NULL;
        *pos = row - begin;
    } else {
        keys.step = keys.first = 0;
        keys.value = kv_half(a->kv);
        keys.in.ptr = a->layer;
        keys.in.dtype = KERN_F32;
        keys.pages = a->page_table + (size_t)a->seq[row] * a->max_pages;
        *pos = a->pos[row];
    }
    return keys;
}

/* The largest of every thread's x, to all. */
KERN_DEVICE float block_max(float *tops, float x) {
    x = kern_max32(x);
    if (kern_thread() % 32 == 0) tops[kern_thread() / 32] = x;
    kern_barrier();
    x = tops[0];
    for (int w = 1; w < WARPS; w++) x = kern_larger(tops[w], x);
    return x;
}

KERN_KERNEL(attend) {
    KERN_SHARED(attend_memory, memory);
    const int row = kern_block() / a.shape.heads, head = kern_block() % a.shape.heads, d = a.shape.head_dim, t = kern_thread();
    const size_t q_at = (size_t)row * kern_qkv_width(a.shape) + head * d;
    const float scale = 1.0f / sqrtf((float)d);
    int pos;
    const key_list keys = keys_of(&a, row, head, &pos);
    for (int i = t; i < d; i += THREADS) memory->q[i] = element_of(a.qkv, q_at + i);
    kern_barrier();
    const elements q = {memory->q, KERN_F32};

    float top = -INFINITY;
    for (int j = t; j <= pos; j += KEYS) top = kern_larger(dot(q, 0, keys.in, key_of(&a, &keys, j), d) * scale, top);
    top = block_max(memory->top, top);

    float sum = 0, value[MAX_DIM / THREADS] = {0};
    for (int first = 0; first <= pos; first += KEYS) {
        const int n = pos + 1 - first < KEYS ? pos + 1 - first : KEYS;
        memory->e[t] = t < n ? kern_exp1(dot(q, 0, keys.in, key_of(&a, &keys, first + t), d) * scale - top) : 0.0f;
        kern_barrier();
        for (int j = kern_lane(); j < n; j += KERN_LANES) sum += memory->e[j];
        for (int j = 0; j < n; j++) {
            const size_t v = key_of(&a, &keys, first + j) + keys.value;
            for (int c = 0; c < MAX_DIM / THREADS; c++)
                if (c * THREADS + t < d) value[c] = fmaf(memory->e[j], element_of(keys.in, v + c * THREADS + t), value[c]);
        }
        kern_barrier();
    }
    sum = kern_sum16(sum); /* every half warp has added the same */
    const size_t out = ((size_t)row * a.shape.heads + head) * d;
    for (int c = 0; c < MAX_DIM / THREADS; c++)
        if (c * THREADS + t < d) kern_set_element(a.out, a.qkv.dtype, out + c * THREADS + t, value[c] * (1.0f / sum) + 0.0f);
    if (a.lse && t == 0) a.lse[(size_t)row * a.shape.heads + head] = top + vf_log1(sum);
}

static attend_args packed_or_paged(void *out, float *lse, const void *qkv, kern_dtype dtype, kern_attn_shape shape) {
    attend_args args;
    memset(&args, 0, sizeof args);
    args.out = out;
    args.lse = lse;
    args.qkv.ptr = qkv;
    args.qkv.dtype = dtype;
    args.shape = shape;
    return args;
}

void kern_cuda_attention(kern_ctx *ctx, void *out, float *lse, const void *qkv, kern_dtype dtype, const int32_t *seq_begin, int seqs,
                         kern_attn_shape shape) {
    if (attention_by_tiles(shape.factors, shape.head_dim)) {
        kern_cuda_attention_tiles(ctx, out, lse, qkv, dtype, seq_begin, seqs, shape);
        return;
    }
    attend_args args = packed_or_paged(out, lse, qkv, dtype, shape);
    args.seq_begin = (const int32_t *)kern_cuda_stage(ctx, seq_begin, (size_t)(seqs + 1) * sizeof *seq_begin);
    args.seqs = seqs;
    KERN_LAUNCH(ctx, attend, seq_begin[seqs] * shape.heads, THREADS, args);
}

void kern_cuda_attention_paged(kern_ctx *ctx, void *out, const void *qkv, kern_dtype dtype, const void *kv, kern_kv_shape kv_shape, int layer,
                               const int32_t *seq, const int32_t *pos, int m, const int32_t *page_table, int max_pages,
                               kern_rows_hint hint, kern_attn_shape shape) {
    if (attention_by_tiles(shape.factors, shape.head_dim)) {
        kern_cuda_attention_paged_tiles(ctx, out, qkv, dtype, kv, kv_shape, layer, seq, pos, m, page_table, max_pages, hint, shape);
        return;
    }
    attend_args args = packed_or_paged(out, NULL, qkv, dtype, shape);
    args.layer = (const float *)kv + (size_t)layer * kv_layer(kv_shape);
    args.kv = kv_shape;
    args.seq = seq;
    args.pos = pos;
    args.page_table = page_table;
    args.max_pages = max_pages;
    KERN_LAUNCH(ctx, attend, m * shape.heads, THREADS, args);
}
