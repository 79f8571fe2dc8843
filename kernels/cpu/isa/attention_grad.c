/* Gradient of packed causal attention (the equations of FlashAttention-2, Dao 2023, section 3.1.2, on the CPU).
 *
 *   p = exp(q·k scale - lse)    dv_j = sum_i p_ij dout_i    dp_ij = dout_i · v_j    D_i = dout_i · out_i
 *   ds = p (dp - D) scale       dq_i = sum_j ds_ij k_j      dk_j = sum_i ds_ij q_i
 *
 * Task: one sequence and kv head, with all query heads of its group: it alone writes its dq, dk and dv, so nothing depends on the threads.
 * It walks blocks of 64 keys, and within one the query rows from the first that sees a key of the block to the last, in blocks of about 48
 * (positions ascending, heads of the group within a position). Every product is tiles of tile.h over panels copied side by side
 * into scratch:
 * dk and dv of the block of keys stay there, dq is accumulated in place, over keys ascending. */
#include <assert.h>

#include "kernels/cpu/isa/tile.h"

enum {
    GRAD_KEYS = 64, /* keys a block */
    GRAD_ROWS = 48  /* query rows a block, unless one position alone has more heads */
};

typedef struct grad_job {
    const kern_cpu_ctx *cpu;
    float *dqkv;
    const float *dout, *out, *lse, *qkv;
    const int32_t *seq_begin;
    kern_attn_shape shape;
} grad_job;

/* One task's place in the tensors and its panels in scratch. Keys: n of the block, at key0..; rows: positions pos0.. times the group. */
typedef struct grad_work {
    const grad_job *job;
    int row0, length, head, group, d, width; /* row0: the sequence's first row; head: the kv head */
    float *kt, *vt;                          /* (D, GRAD_KEYS) */
    float *k, *dk, *dv;                      /* (GRAD_KEYS, D) */
    float *q, *dout;                         /* (rows, D) */
    float *p, *ds;                           /* (rows, GRAD_KEYS) */
    float *delta;                            /* (length * group): D */
} grad_work;

static float dot(const float *a, const float *b, int n) {
    vf sum = vf_zero();
    for (int i = 0; i < n; i += VF) {
        const int lanes = kern_min(VF, n - i);
        sum = vf_fma(vf_load_n(a + i, lanes, 0.0f), vf_load_n(b + i, lanes, 0.0f), sum);
    }
    return vf_sum(sum);
}

/* The q (or dq) of position pos and head h of the group; k and v follow all q. */
static size_t q_at(const grad_work *w, int pos, int h) {
    return (size_t)(w->row0 + pos) * w->width + (size_t)(w->head * w->group + h) * w->d;
}
static size_t k_at(const grad_work *w, int pos) {
    return (size_t)(w->row0 + pos) * w->width + (size_t)(w->job->shape.heads + w->head) * w->d;
}
static size_t v_at(const grad_work *w, int pos) { return k_at(w, pos) + (size_t)w->job->shape.kv_heads * w->d; }
static size_t out_at(const grad_work *w, int pos, int h) {
    return ((size_t)(w->row0 + pos) * w->job->shape.heads + (size_t)(w->head * w->group + h)) * w->d;
}

static grad_work work_of(const grad_job *job, int task, float *scratch) {
    const int g = job->shape.kv_heads, d = job->shape.head_dim, s = task / g;
    grad_work w = {.job = job, .row0 = job->seq_begin[s], .length = job->seq_begin[s + 1] - job->seq_begin[s], .head = task % g,
                   .group = job->shape.heads / g, .d = d, .width = kern_qkv_width(job->shape)};
    const size_t rows = w.group > GRAD_ROWS ? (size_t)w.group : GRAD_ROWS, keys = (size_t)GRAD_KEYS * d;
    float *end = scratch;
    float **panels[] = {&w.kt, &w.vt, &w.k, &w.dk, &w.dv, &w.q, &w.dout, &w.p, &w.ds, &w.delta};
    const size_t sizes[] = {keys, keys, keys, keys, keys, rows * d, rows * d, rows * GRAD_KEYS, rows * GRAD_KEYS,
                            (size_t)w.length * w.group};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *panels[i] = end;
        end += sizes[i];
    }
    assert((size_t)(end - scratch) <= KERN_SCRATCH_BYTES / sizeof(float));
    return w;
}

static void compute_delta(grad_work *w) {
    for (int pos = 0; pos < w->length; pos++)
        for (int h = 0; h < w->group; h++)
            w->delta[pos * w->group + h] = dot(w->job->dout + out_at(w, pos, h), w->job->out + out_at(w, pos, h), w->d);
}

/* Keys and values of the block, with their transposes; unused columns are zero. */
static void load_keys(grad_work *w, int key0, int n) {
    const size_t bytes = (size_t)w->d * sizeof(float);
    for (int j = 0; j < n; j++) memcpy(w->k + (size_t)j * w->d, w->job->qkv + k_at(w, key0 + j), bytes);
    for (int j = 0; j < n; j++) {
        const float *k = w->k + (size_t)j * w->d, *v = w->job->qkv + v_at(w, key0 + j);
        for (int i = 0; i < w->d; i++) w->kt[(size_t)i * GRAD_KEYS + j] = k[i];
        for (int i = 0; i < w->d; i++) w->vt[(size_t)i * GRAD_KEYS + j] = v[i];
    }
    for (int i = 0; i < w->d && n < GRAD_KEYS; i++) {
        memset(w->kt + (size_t)i * GRAD_KEYS + n, 0, (size_t)(GRAD_KEYS - n) * sizeof(float));
        memset(w->vt + (size_t)i * GRAD_KEYS + n, 0, (size_t)(GRAD_KEYS - n) * sizeof(float));
    }
}

static void load_rows(grad_work *w, int pos0, int positions) {
    const size_t bytes = (size_t)w->d * (size_t)w->group * sizeof(float); /* the heads of a group lie side by side */
    for (int i = 0; i < positions; i++) {
        memcpy(w->q + (size_t)i * w->group * w->d, w->job->qkv + q_at(w, pos0 + i, 0), bytes);
        memcpy(w->dout + (size_t)i * w->group * w->d, w->job->dout + out_at(w, pos0 + i, 0), bytes);
    }
}

/* A block of keys against a block of rows. Row r is at position pos0 + r / group and sees the first visible_to() keys of the block. */
typedef struct pairing {
    int key0, keys, pos0, rows, group;
} pairing;

static int visible_to(const pairing *p, int row) { return kern_min(p->keys, p->pos0 + row / p->group - p->key0 + 1); }

/* c (rows, GRAD_KEYS) = a (rows, d) · b (d, GRAD_KEYS), as far as a row of the tile sees. */
static void dot_products(const pairing *p, float *c, const float *a, const float *b, int d) {
    for (int r0 = 0; r0 < p->rows; r0 += TILE_ROWS) {
        const int rows = kern_min(TILE_ROWS, p->rows - r0), visible = visible_to(p, r0 + rows - 1);
        kern_tile t = {.a_step = 1, .b_step = GRAD_KEYS, .depth = d};
        for (int r = 0; r < rows; r++) {
            t.a[r] = a + (size_t)(r0 + r) * d;
            t.c[r] = c + (size_t)(r0 + r) * GRAD_KEYS;
        }
        tile_columns(&t, rows, b, (visible + VF - 1) / VF * VF);
    }
}

/* c (keys, d) [+]= aᵀ · b, with a (rows, GRAD_KEYS) and b (rows, d), from the first row that sees a key of the tile. */
static void key_products(const pairing *p, float *c, const float *a, const float *b, int d) {
    for (int k0 = 0; k0 < p->keys; k0 += TILE_ROWS) {
        const int keys = kern_min(TILE_ROWS, p->keys - k0), blind = p->key0 + k0 - p->pos0;
        const int skip = blind > 0 ? kern_min(p->rows, blind * p->group) : 0;
        kern_tile t = {.a_step = GRAD_KEYS, .b_step = (size_t)d, .depth = p->rows - skip, .accumulate = p->pos0 > p->key0};
        for (int k = 0; k < keys; k++) {
            t.a[k] = a + (size_t)skip * GRAD_KEYS + k0 + k;
            t.c[k] = c + (size_t)(k0 + k) * d;
        }
        tile_columns(&t, keys, b + (size_t)skip * d, d);
    }
}

/* dq [+]= ds · k, in place in the tensor. */
static void add_dq(grad_work *w, const pairing *p) {
    for (int r0 = 0; r0 < p->rows; r0 += TILE_ROWS) {
        const int rows = kern_min(TILE_ROWS, p->rows - r0);
        kern_tile t = {.a_step = 1, .b_step = (size_t)w->d, .depth = visible_to(p, r0 + rows - 1), .accumulate = p->key0 > 0};
        for (int r = 0; r < rows; r++) {
            t.a[r] = w->ds + (size_t)(r0 + r) * GRAD_KEYS;
            t.c[r] = w->job->dqkv + q_at(w, p->pos0 + (r0 + r) / p->group, (r0 + r) % p->group);
        }
        tile_columns(&t, rows, w->k, w->d);
    }
}

/* p holds q·k and ds holds dout·v on entry, for the visible keys; the others get 0. */
static void softmax_grad_row(float *p, float *ds, int visible, float scale, float lse, float delta) {
    const vf vscale = vf_set1(scale), vlse = vf_set1(lse), vdelta = vf_set1(delta);
    int j = 0;
    for (; j < visible; j += VF) {
        vf e = vf_exp(vf_sub(vf_mul(vf_load(p + j), vscale), vlse));
        vf g = vf_mul(vf_mul(e, vf_sub(vf_load(ds + j), vdelta)), vscale);
        if (visible - j < VF) {
            const vf n = vf_set1((float)(visible - j));
            e = vf_select_lt(vf_iota(), n, e, vf_zero());
            g = vf_select_lt(vf_iota(), n, g, vf_zero());
        }
        vf_store(p + j, e);
        vf_store(ds + j, g);
    }
    for (; j < GRAD_KEYS; j += VF) {
        vf_store(p + j, vf_zero());
        vf_store(ds + j, vf_zero());
    }
}

static void grad_block(grad_work *w, const pairing *p) {
    const float scale = 1.0f / sqrtf((float)w->d);
    load_rows(w, p->pos0, p->rows / p->group);
    dot_products(p, w->p, w->q, w->kt, w->d);
    dot_products(p, w->ds, w->dout, w->vt, w->d);
    for (int r = 0; r < p->rows; r++) {
        const int pos = p->pos0 + r / p->group, h = r % p->group;
        const float lse = w->job->lse[(size_t)(w->row0 + pos) * w->job->shape.heads + w->head * w->group + h];
        softmax_grad_row(w->p + (size_t)r * GRAD_KEYS, w->ds + (size_t)r * GRAD_KEYS, visible_to(p, r), scale, lse,
                         w->delta[pos * w->group + h]);
    }
    add_dq(w, p);
    key_products(p, w->dk, w->ds, w->q, w->d);
    key_products(p, w->dv, w->p, w->dout, w->d);
}

static void grad_task(void *arg, int task, int thread) {
    const grad_job *job = arg;
    grad_work w = work_of(job, task, kern_scratch(job->cpu, thread));
    const int step = w.group < GRAD_ROWS ? GRAD_ROWS / w.group : 1;
    compute_delta(&w);
    for (int key0 = 0; key0 < w.length; key0 += GRAD_KEYS) {
        const int n = kern_min(GRAD_KEYS, w.length - key0);
        load_keys(&w, key0, n);
        for (int pos = key0; pos < w.length; pos += step)
            grad_block(&w, &(pairing){key0, n, pos, kern_min(step, w.length - pos) * w.group, w.group});
        for (int j = 0; j < n; j++) {
            memcpy(job->dqkv + k_at(&w, key0 + j), w.dk + (size_t)j * w.d, (size_t)w.d * sizeof(float));
            memcpy(job->dqkv + v_at(&w, key0 + j), w.dv + (size_t)j * w.d, (size_t)w.d * sizeof(float));
        }
    }
}

void KERN_OP(attention_grad)(kern_cpu_ctx *ctx, void *dqkv, const void *dout, const void *out, const float *lse, const void *qkv,
                             kern_dtype dtype, const int32_t *seq_begin, int seqs, kern_attn_shape shape) {
    (void)dtype;
    grad_job job = {.cpu = ctx, .dqkv = dqkv, .dout = dout, .out = out, .lse = lse, .qkv = qkv, .seq_begin = seq_begin, .shape = shape};
    kern_pool_run(ctx->pool, seqs * shape.kv_heads, grad_task, &job);
}
