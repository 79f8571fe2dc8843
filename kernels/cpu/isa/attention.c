/* Causal attention, forward: packed sequences and the paged cache, through the same code and so with the same bits.
 *
 * The keys of one sequence and kv head are a list of blocks (kv.h): pages of the cache, or, for packed rows, blocks of 64 keys that a task
 * builds in its scratch. attend() takes up to BLOCK_ROWS query rows of one group (rows and their heads) over such a list:
 *
 *   scores   s[j] = (chain over d of q[d] k_j[d]) * scale            tiles of 6 rows x 64 keys
 *   softmax  maximum over j <= pos; e[j] = exp(s[j] - maximum); sum in 16 lanes by j mod 16, then the fixed tree
 *   values   out[d] = (chain over j of e[j] v_j[d]) * (1 / sum) + 0  tiles of 6 rows x 64 channels
 *
 * Two passes over all scores rather than an online softmax: nothing is ever rescaled, so blocks can have any size. A row that shares a tile
 * with a later row meets keys after its own position with e = 0, which leaves a chain as it is but for the sign of zero; the final + 0
 * settles that. Keys after the last row of a tile are never multiplied into values, so unwritten places of a page cannot leak.
 *
 * Scratch bounds a packed sequence: 2 D + 24 floats a position (kern_cpu_positions; paged: 24 floats). */
#include <assert.h>

#include "kernels/cpu/isa/kv.h"
#include "kernels/cpu/isa/tile.h"

enum {
    BLOCK_ROWS = 24,  /* query rows that share a pass over the keys */
    PACK_KEYS = 64,   /* keys a block in scratch, and keys all rows of a block meet before the next keys */
    PACK_ROWS = 256   /* positions a task of packed attention: the cost of packing its keys is spread over them */
};

typedef struct key_list {
    const float *base;     /* block i starts at base + (pages ? pages[i] : i) * stride */
    const int32_t *pages;
    size_t stride;
    int page_size, head_dim;
} key_list;

/* Up to BLOCK_ROWS query rows over one key list, positions ascending or not; their scores in scratch. */
typedef struct row_block {
    int rows;
    const float *q[BLOCK_ROWS];
    float *out[BLOCK_ROWS], *lse[BLOCK_ROWS]; /* lse NULL: not wanted */
    int pos[BLOCK_ROWS];
    float *scores; /* (BLOCK_ROWS, capacity) */
    size_t stride; /* floats between rows of scores */
    size_t capacity;
} row_block;

static const float *key_block(const key_list *keys, int i) {
    return keys->base + (size_t)(keys->pages ? keys->pages[i] : i) * keys->stride;
}

static int last_pos(const row_block *b, int begin, int end) {
    int last = 0;
    for (int r = begin; r < end; r++) last = b->pos[r] > last ? b->pos[r] : last;
    return last;
}

/* Where the 16 keys from `first` on start: their block's row of channel 0. */
static const float *key_vector(const key_list *keys, int first) {
    return key_block(keys, first / keys->page_size) + first % keys->page_size;
}

/* Dot products of rows [r0, r0+rows) with keys begin .. end-1, as far as the tile's last position goes. */
static void score_tile(row_block *b, int r0, int rows, const key_list *keys, int begin, int end) {
    const int last = kern_min(end - 1, last_pos(b, r0, r0 + rows));
    kern_tile t = {.a_step = 1, .b_step = (size_t)keys->page_size, .depth = keys->head_dim};
    for (int r = 0; r < rows; r++) t.a[r] = b->q[r0 + r];
    for (int key = begin, vecs; key <= last; key += vecs * VF) {
        vecs = tile_vecs(rows, (last - key) / VF + 1);
        for (int v = 0; v < vecs; v++) t.b[v] = key_vector(keys, key + v * VF);
        for (int r = 0; r < rows; r++) t.c[r] = b->scores + (size_t)(r0 + r) * b->stride + (size_t)key;
        tile_run(&t, rows, vecs);
    }
}

/* Adds e[j] v_j of block i to the outputs of rows [r0, r0+rows). */
static void value_tile(row_block *b, int r0, int rows, const key_list *keys, int i) {
    const int p = keys->page_size, d = keys->head_dim, wanted = last_pos(b, r0, r0 + rows) + 1 - i * p;
    if (wanted <= 0) return;
    kern_tile t = {.a_step = 1, .b_step = (size_t)d, .depth = kern_min(p, wanted), .accumulate = i > 0};
    for (int r = 0; r < rows; r++) {
        t.a[r] = b->scores + (size_t)(r0 + r) * b->stride + (size_t)i * p;
        t.c[r] = b->out[r0 + r];
    }
    tile_columns(&t, rows, key_block(keys, i) + kv_half(p, d), d);
}

static inline vf first_lanes(vf x, int n, float fill) {
    return n >= VF ? x : vf_select_lt(vf_iota(), vf_set1((float)n), x, vf_set1(fill));
}

/* Scores of keys 0..n-1 become e, those up to `padded` become 0; returns the sum of e. */
static float softmax_row(float *s, int n, int padded, float scale, float *lse) {
    const vf factor = vf_set1(scale);
    vf top = vf_set1(-INFINITY), sum = vf_zero();
    for (int j = 0; j < n; j += VF) top = vf_max(top, first_lanes(vf_mul(vf_load(s + j), factor), n - j, -INFINITY));
    const float maximum = vf_hmax(top);
    const vf shift = vf_set1(maximum);
    for (int j = 0; j < n; j += VF) {
        vf e = first_lanes(vf_exp(vf_sub(vf_mul(vf_load(s + j), factor), shift)), n - j, 0.0f);
        vf_store(s + j, e);
        sum = vf_add(sum, e);
    }
    for (int j = (n + VF - 1) / VF * VF; j < padded; j++) s[j] = 0.0f;
    const float total = vf_sum(sum);
    if (lse) *lse = maximum + vf_log1(total);
    return total;
}

static void normalise_row(float *out, float sum, int d) {
    const vf inverse = vf_set1(1.0f / sum);
    for (int i = 0; i < d; i += VF) {
        const int n = kern_min(VF, d - i);
        vf x = n == VF ? vf_load(out + i) : vf_load_n(out + i, n, 0.0f);
        x = vf_add(vf_mul(x, inverse), vf_zero());
        if (n == VF)
            vf_store(out + i, x);
        else
            vf_store_n(out + i, x, n);
    }
}

static void attend(row_block *b, const key_list *keys) {
    const int p = keys->page_size, last = last_pos(b, 0, b->rows), blocks = last / p + 1;
    const float scale = 1.0f / sqrtf((float)keys->head_dim);
    float sum[BLOCK_ROWS];
    b->stride = (size_t)blocks * p;
    assert(b->stride * (size_t)b->rows <= b->capacity);
    for (int key = 0; key <= last; key += PACK_KEYS)
        for (int r = 0; r < b->rows; r += TILE_ROWS) score_tile(b, r, kern_min(TILE_ROWS, b->rows - r), keys, key, key + PACK_KEYS);
    for (int r0 = 0; r0 < b->rows; r0 += TILE_ROWS) {
        const int end = kern_min(r0 + TILE_ROWS, b->rows), padded = last_pos(b, r0, end) + 1;
        for (int r = r0; r < end; r++) sum[r] = softmax_row(b->scores + (size_t)r * b->stride, b->pos[r] + 1, padded, scale, b->lse[r]);
    }
    for (int i = 0; i < blocks; i++)
        for (int r = 0; r < b->rows; r += TILE_ROWS) value_tile(b, r, kern_min(TILE_ROWS, b->rows - r), keys, i);
    for (int r = 0; r < b->rows; r++) normalise_row(b->out[r], sum[r], keys->head_dim);
    b->rows = 0;
}

/* Adds the `group` heads of one row; runs the block whenever it is full. */
static void push_row(row_block *b, const key_list *keys, const float *q, float *out, float *lse, int pos, int group) {
    for (int h = 0; h < group; h++) {
        b->q[b->rows] = q + (size_t)h * keys->head_dim;
        b->out[b->rows] = out + (size_t)h * keys->head_dim;
        b->lse[b->rows] = lse ? lse + h : NULL;
        b->pos[b->rows] = pos;
        if (++b->rows == BLOCK_ROWS) attend(b, keys);
    }
}

/* ---- packed ----------------------------------------------------------------------------------------------------------------------- */

typedef struct packed_job {
    const kern_cpu_ctx *cpu;
    float *out, *lse;
    const float *qkv;
    const int32_t *seq_begin;
    kern_attn_shape shape;
} packed_job;

static int chunks_of(const packed_job *job, int s) { return (job->seq_begin[s + 1] - job->seq_begin[s] + PACK_ROWS - 1) / PACK_ROWS; }

static void pack_keys(float *blocks, const float *key, const float *value, int n, int width, int d) {
    for (int j = 0; j < n; j++)
        kv_store(blocks + (size_t)(j / PACK_KEYS) * kv_block(PACK_KEYS, d), PACK_KEYS, d, j % PACK_KEYS, key + (size_t)j * width,
                 value + (size_t)j * width);
}

/* Task: a chunk of one sequence's positions, for one kv head. */
static void packed_task(void *arg, int task, int thread) {
    const packed_job *job = arg;
    const int g = job->shape.kv_heads, d = job->shape.head_dim, group = job->shape.heads / g, width = kern_qkv_width(job->shape);
    const int head = task % g;
    int chunk = task / g, s = 0;
    for (; chunk >= chunks_of(job, s); s++) chunk -= chunks_of(job, s);
    const int row0 = job->seq_begin[s], begin = chunk * PACK_ROWS, end = kern_min(begin + PACK_ROWS, job->seq_begin[s + 1] - row0);

    float *scratch = kern_scratch(job->cpu, thread);
    const size_t used = (size_t)(end + PACK_KEYS - 1) / PACK_KEYS * kv_block(PACK_KEYS, d);
    key_list keys = {.base = scratch, .stride = kv_block(PACK_KEYS, d), .page_size = PACK_KEYS, .head_dim = d};
    row_block block = {.scores = scratch + used, .capacity = KERN_SCRATCH_BYTES / sizeof(float) - used};
    const float *key = job->qkv + (size_t)row0 * width + (job->shape.heads + head) * d;
    assert(used < KERN_SCRATCH_BYTES / sizeof(float));
    pack_keys(scratch, key, key + g * d, end, width, d);
    for (int pos = begin; pos < end; pos++) {
        const size_t row = (size_t)(row0 + pos);
        push_row(&block, &keys, job->qkv + row * width + head * group * d, job->out + (row * job->shape.heads + head * group) * d,
                 job->lse ? job->lse + row * job->shape.heads + head * group : NULL, pos, group);
    }
    if (block.rows) attend(&block, &keys);
}

void KERN_OP(attention)(kern_cpu_ctx *ctx, void *out, float *lse, const void *qkv, kern_dtype dtype, const int32_t *seq_begin, int seqs,
                        kern_attn_shape shape) {
    (void)dtype;
    packed_job job = {.cpu = ctx, .out = out, .lse = lse, .qkv = qkv, .seq_begin = seq_begin, .shape = shape};
    int chunks = 0;
    for (int s = 0; s < seqs; s++) chunks += chunks_of(&job, s);
    kern_pool_run(ctx->pool, chunks * shape.kv_heads, packed_task, &job);
}

/* ---- paged ------------------------------------------------------------------------------------------------------------------------ */

typedef struct paged_job {
    const kern_cpu_ctx *cpu;
    float *out;
    const float *qkv, *layer;
    const int32_t *seq, *pos, *page_table;
    int m, max_pages, per_task;
    kern_kv_shape kv;
    kern_attn_shape shape;
} paged_job;

/* Task: per_task rows, for one kv head. Neighbouring rows of one sequence share a block. */
static void paged_task(void *arg, int task, int thread) {
    const paged_job *job = arg;
    const int g = job->shape.kv_heads, d = job->shape.head_dim, group = job->shape.heads / g, width = kern_qkv_width(job->shape);
    const int head = task % g, begin = task / g * job->per_task, end = kern_min(job->m, begin + job->per_task);
    row_block block = {.scores = kern_scratch(job->cpu, thread), .capacity = KERN_SCRATCH_BYTES / sizeof(float)};
    key_list keys = {.base = job->layer + (size_t)head * kv_block(job->kv.page_size, d), .stride = kv_page(&job->kv),
                     .page_size = job->kv.page_size, .head_dim = d};
    for (int row = begin; row < end; row++) {
        if (row > begin && block.rows && job->seq[row] != job->seq[row - 1]) attend(&block, &keys);
        keys.pages = job->page_table + (size_t)job->seq[row] * job->max_pages;
        push_row(&block, &keys, job->qkv + (size_t)row * width + head * group * d,
                 job->out + ((size_t)row * job->shape.heads + head * group) * d, NULL, job->pos[row], group);
    }
    if (block.rows) attend(&block, &keys);
}

void KERN_OP(attention_paged)(kern_cpu_ctx *ctx, void *out, const void *qkv, kern_dtype dtype, const void *kv, kern_kv_shape kv_shape,
                              int layer, const int32_t *seq, const int32_t *pos, int m, const int32_t *page_table, int max_pages,
                              kern_rows_hint hint, kern_attn_shape shape) {
    (void)dtype, (void)hint;
    /* Full blocks share key loads, but a few rows are spread over the threads. */
    const int group = shape.heads / shape.kv_heads, full = group < BLOCK_ROWS ? BLOCK_ROWS / group : 1;
    const int spread = m * shape.kv_heads / (4 * ctx->threads) + 1;
    paged_job job = {.cpu = ctx, .out = out, .qkv = qkv, .layer = (const float *)kv + (size_t)layer * kv_shape.pages * kv_page(&kv_shape), .seq = seq,
                     .pos = pos, .page_table = page_table, .m = m, .max_pages = max_pages, .per_task = kern_min(full, spread),
                     .kv = kv_shape, .shape = shape};
    kern_pool_run(ctx->pool, (m + job.per_task - 1) / job.per_task * shape.kv_heads, paged_task, &job);
}
