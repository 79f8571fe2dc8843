/* Gradient of packed causal attention on tensor cores (FlashAttention-2, Dao 2023, section 3.1.2), for the forward of attention_tiles.cu.
 *
 * Definition. Factors are rounded to bfloat16 (q, k, v, dout; p and ds when they are multiplied), sums are float32, c = log2(e)/sqrt(D):
 *
 *   p_ij = 2^(q_i·k_j c - lse_i log2(e))      dp_ij = dout_i·v_j      delta_i = dout_i·out_i, in 16 lanes by index mod 16
 *   ds = p (dp - delta) / sqrt(D)             dq_i = sum_j ds_ij k_j  dk_j = sum_i ds_ij q_i      dv_j = sum_i p_ij dout_i
 *
 * Every sum is a chain of kern_mma_bf16, 16 at a time: dq over keys ascending, dk and dv over the heads of the group and within a head over
 * rows ascending. A sequence's tiles begin at its first row, so it gives the same bits alone and packed. No atomics.
 *
 * Three kernels. grad_round: lse and delta, and, where they are float32, rounded copies of q, k, v, dout, a head's rows side by side; that
 * costs a pass over memory and saves the others half of theirs. grad_keys: a block of threads has 64 keys of a kv head and goes through
 * the queries; it works on the transposed scores (16 keys a warp, by queries), so p and ds are in registers as the next products want
 * them. grad_queries: 64 queries of a head, through the keys. Either copies the next tile while it works on one. As many kv heads, or else
 * heads of one, at a time as the work space holds copies of; dk and dv go on from what the heads before have left in dqkv.
 *
 * Operations: 14 D a row, head and visible key: s and dp are computed by both kernels, where atomics would let 10 D do, in an order that
 * changes. Bytes: 4 D for each row of the other side and tile of 64. Shared memory is the limit: for 16 rows a warp it loads 512 bytes for
 * every two products of fragments. */
#include "kernels/cuda/attention_softmax.h"

#include <assert.h>

enum {
    ROWS = 16 * WARPS,       /* of a tile of queries, and KEYS */
    STEP = 32,               /* columns of scores that a warp has in registers */
    ROUND_THREADS = 256, ROUND_TEAMS = ROUND_THREADS / KERN_LANES,
    ITEMS = 512              /* that are queued together */
};

/* A tile of a sequence: 64 rows, as keys or as queries. */
typedef struct grad_item {
    int32_t begin, rows; /* of the sequence */
    int32_t at;          /* position of the tile's first row */
} grad_item;

typedef struct tiles_grad_args {
    void *dqkv;
    const void *dout, *out, *qkv;
    kern_dtype dtype;        /* of these and dqkv */
    const float *lse;
    kern_attn_shape shape;
    const grad_item *items;
    int n_items, m;
    int first_kv, kv_heads;  /* the kv heads at work */
    int first_head, heads;   /* and the heads of each one's group; tasks below: kv_heads * heads */
    uint16_t *keys, *values; /* (kv_heads, m, D) copies, as the next two: of float32 tensors only */
    uint16_t *queries, *douts; /* (tasks, m, D) */
    float_pair *stats;       /* (tasks, m): lse log2(e), delta */
} tiles_grad_args;
typedef tiles_grad_args grad_round_args, grad_keys_64_args, grad_keys_128_args, grad_queries_64_args, grad_queries_128_args;

/* ---- copies ----------------------------------------------------------------------------------------------------------------------- */

/* The head of all that task t is. */
KERN_DEVICE int head_of(const tiles_grad_args *a, int task) {
    return (a->first_kv + task / a->heads) * (a->shape.heads / a->shape.kv_heads) + a->first_head + task % a->heads;
}

/* Rows of D bfloat16, so many elements apart. */
typedef struct rows16 {
    const uint16_t *ptr;
    size_t step;
} rows16;

/* The rows of one head: in a copy, the head-th of its list, or in a tensor, from `column` of its rows on. */
KERN_DEVICE rows16 rows_of(const tiles_grad_args *a, const uint16_t *copy, int head, const void *tensor, int width, int column) {
    const size_t d = (size_t)a->shape.head_dim;
    const bool copied = a->dtype == KERN_F32;
    const rows16 rows = {copied ? copy + (size_t)head * a->m * d : (const uint16_t *)tensor + column, copied ? d : (size_t)width};
    return rows;
}
KERN_DEVICE rows16 keys_of(const tiles_grad_args *a, int kv) {
    return rows_of(a, a->keys, kv, a->qkv, kern_qkv_width(a->shape), (a->shape.heads + a->first_kv + kv) * a->shape.head_dim);
}
KERN_DEVICE rows16 values_of(const tiles_grad_args *a, int kv) {
    return rows_of(a, a->values, kv, a->qkv, kern_qkv_width(a->shape),
                   (a->shape.heads + a->shape.kv_heads + a->first_kv + kv) * a->shape.head_dim);
}
KERN_DEVICE rows16 queries_of(const tiles_grad_args *a, int task) {
    return rows_of(a, a->queries, task, a->qkv, kern_qkv_width(a->shape), head_of(a, task) * a->shape.head_dim);
}
KERN_DEVICE rows16 douts_of(const tiles_grad_args *a, int task) {
    return rows_of(a, a->douts, task, a->dout, a->shape.heads * a->shape.head_dim, head_of(a, task) * a->shape.head_dim);
}

/* Half a warp a row of a task, or of a kv head. */
KERN_KERNEL(grad_round) {
    const bool copied = a.dtype == KERN_F32;
    const int d = a.shape.head_dim, tasks = a.kv_heads * a.heads, all = (tasks + (copied ? a.kv_heads : 0)) * a.m;
    const int n = kern_block() * ROUND_TEAMS + kern_team(), mine = n < all ? n : all - 1, task = mine / a.m, row = mine % a.m;
    const bool is_key = task >= tasks;
    const int head = is_key ? a.shape.heads + a.first_kv + task - tasks : head_of(&a, task);
    const size_t stat = ((size_t)row * a.shape.heads + (is_key ? 0 : head)), x_at = (size_t)row * kern_qkv_width(a.shape) + head * d;
    const float *x = (const float *)a.qkv + x_at, *y = is_key ? x + a.shape.kv_heads * d : (const float *)a.dout + stat * d;
    uint32_t *to_x = (uint32_t *)(is_key ? a.keys : a.queries), *to_y = (uint32_t *)(is_key ? a.values : a.douts);
    const size_t to = ((size_t)(is_key ? task - tasks : task) * a.m + row) * d / 2;
    float sum = 0;
    for (int i = kern_lane(); i < d && !is_key; i += KERN_LANES) {
        const float dout = kern_element(a.dout, a.dtype, stat * d + i);
        sum = fmaf(kern_float_of_bf16(kern_bf16_of_float(dout)), kern_element(a.out, a.dtype, stat * d + i), sum);
    }
    sum = kern_sum16(sum);
    if (n >= all) return;
    for (int i = kern_lane(); i < d / 2 && copied; i += KERN_LANES) {
        to_x[to + i] = kern_bf16_pair(x[2 * i], x[2 * i + 1]);
        to_y[to + i] = kern_bf16_pair(y[2 * i], y[2 * i + 1]);
    }
    if (!is_key && kern_lane() == 0) a.stats[(size_t)task * a.m + row] = (float_pair){a.lse[stat] * LOG2_E, sum};
}

/* ---- what both kernels share ------------------------------------------------------------------------------------------------------ */

/* Two tiles that stay, two stages of two tiles; stats of two stages. */
KERN_BOTH size_t grad_bytes(int d) { return sizeof(uint16_t) * (size_t)(6 * tile_size(ROWS, d)) + 2 * ROWS * sizeof(float_pair); }

/* Begins to copy rows at.. of a sequence from two arrays to two tiles; rows beyond the sequence: zeros. */
KERN_DEVICE void fetch_pair(uint16_t *tiles, rows16 x, rows16 y, const grad_item *item, int at, int d) {
    const int valid = item->rows - at;
    KERN_UNROLL for (int n = 0; n < ROWS * d / COPY; n += THREADS) {
        const int i = n + kern_thread(), row = i / (d / COPY), part = i % (d / COPY) * COPY, bytes = row < valid ? 16 : 0;
        const size_t from = (size_t)(item->begin + at + (bytes ? row : 0));
        uint16_t *to = tiles + row * tile_stride(d) + part;
        kern_copy_async16(to, x.ptr + from * x.step + part, bytes);
        kern_copy_async16(to + tile_size(ROWS, d), y.ptr + from * y.step + part, bytes);
    }
}

/* A chain of 16 rows (row0.. of `a`) by STEP columns (rows c0.. of `b`) over D, from 0. */
KERN_DEVICE void scores(float s[STEP / 8][4], const uint16_t *a, const uint16_t *b, int row0, int c0, int d) {
    KERN_UNROLL for (int n = 0; n < STEP / 8; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) s[n][i] = 0;
    KERN_UNROLL for (int k = 0; k < d / 16; k++) {
        uint32_t left[4];
        load_a(left, a, tile_stride(d), row0, 16 * k);
        KERN_UNROLL for (int n = 0; n < STEP / 16; n++) {
            uint32_t right[4];
            load_b(right, b, tile_stride(d), c0 + 16 * n, 16 * k);
            kern_mma_bf16(s[2 * n], left, right);
            kern_mma_bf16(s[2 * n + 1], left, right + 2);
        }
    }
}

/* sum (16, D) += x (16, STEP) · rows c0.. of the tile. */
KERN_DEVICE void add_products(float sum[TILE_DIM / 8][4], float x[STEP / 8][4], const uint16_t *tile, int c0, int d) {
    KERN_UNROLL for (int k = 0; k < STEP / 16; k++) {
        uint32_t left[4];
        a_of_c(left, x[2 * k], x[2 * k + 1]);
        KERN_UNROLL for (int n = 0; n < d / 16; n++) {
            uint32_t right[4];
            load_b_trans(right, tile, tile_stride(d), c0 + 16 * k, 16 * n);
            kern_mma_bf16(sum[2 * n], left, right);
            kern_mma_bf16(sum[2 * n + 1], left, right + 2);
        }
    }
}

/* The element of dqkv from `column` of its rows on, for the lane's rows row0+g, row0+g+8 of the tile. */
KERN_DEVICE size_t gradient_at(const tiles_grad_args *a, const grad_item *item, int row, int column) {
    return (size_t)(item->begin + item->at + row) * kern_qkv_width(a->shape) + column + lane_column();
}

KERN_DEVICE void read_gradient(float sum[TILE_DIM / 8][4], const tiles_grad_args *a, const grad_item *item, int row0, int column, int d) {
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const int row = row0 + lane_row() + 8 * half;
        const bool inside = item->at + row < item->rows;
        const float *from = (const float *)a->dqkv + gradient_at(a, item, inside ? row : 0, column);
        KERN_UNROLL for (int n = 0; n < d / 8; n++) {
            const float_pair x = *(const float_pair *)(from + 8 * n);
            sum[n][2 * half] = x.x;
            sum[n][2 * half + 1] = x.y;
        }
    }
}

KERN_DEVICE void write_gradient(float sum[TILE_DIM / 8][4], const tiles_grad_args *a, const grad_item *item, int row0, int column, int d) {
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        const int row = row0 + lane_row() + 8 * half;
        if (item->at + row >= item->rows) continue;
        const size_t to = gradient_at(a, item, row, column);
        KERN_UNROLL for (int n = 0; n < d / 8; n++) store_pair(a->dqkv, a->dtype, to + 8 * n, sum[n][2 * half], sum[n][2 * half + 1]);
    }
}

KERN_DEVICE void clear(float sum[TILE_DIM / 8][4], int d) {
    KERN_UNROLL for (int n = 0; n < d / 8; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) sum[n][i] = 0;
}

/* ---- dk and dv -------------------------------------------------------------------------------------------------------------------- */

/* Step i of a tile of keys: which head's queries, from which position on. */
typedef struct grad_step {
    int head, at;
} grad_step;

KERN_DEVICE grad_step step_of(const grad_item *item, int i) {
    const int tiles = (item->rows - item->at + ROWS - 1) / ROWS;
    const grad_step s = {i / tiles, item->at + i % tiles * ROWS};
    return s;
}

KERN_DEVICE void fetch_queries(uint16_t *tiles, float_pair *stats, const tiles_grad_args *a, const grad_item *item, int kv, int i, int d) {
    const grad_step s = step_of(item, i);
    const int row = kern_thread(), task = kv * a->heads + s.head;
    const size_t from = (size_t)task * a->m;
    fetch_pair(tiles, queries_of(a, task), douts_of(a, task), item, s.at, d);
    if (row < ROWS) stats[row] = s.at + row < item->rows ? a->stats[from + item->begin + s.at + row] : (float_pair){0, 0};
}

/* A tile of queries, whose first is at position `at`, for the warp's keys, of which the first is row0 of the tile and at position key0. */
KERN_DEVICE void grad_keys_tile(float dk[TILE_DIM / 8][4], float dv[TILE_DIM / 8][4], const uint16_t *own, const uint16_t *stage,
                                const float_pair *stats, int row0, int key0, int at, int d) {
    const uint16_t *keys = own, *values = own + tile_size(ROWS, d), *queries = stage, *douts = stage + tile_size(ROWS, d);
    for (int c0 = 0; c0 < ROWS; c0 += STEP) {
        float p[STEP / 8][4], ds[STEP / 8][4];
        scores(p, keys, queries, row0, c0, d);
        scores(ds, values, douts, row0, c0, d);
        KERN_UNROLL for (int n = 0; n < STEP / 8; n++)
            KERN_UNROLL for (int i = 0; i < 4; i++) {
                const int row = c0 + 8 * n + lane_column() + i % 2;
                pair_of(&p[n][i], &ds[n][i], stats[row], at + row >= key0 + lane_row() + i / 2 * 8, d);
            }
        add_products(dv, p, douts, c0, d);
        add_products(dk, ds, queries, c0, d);
    }
}

KERN_DEVICE void grad_keys(const tiles_grad_args *a, uint16_t *own, int d) {
    const grad_item item = a->items[kern_block() / a->kv_heads];
    const int kv = kern_block() % a->kv_heads, row0 = kern_thread() / 32 * 16, column = (a->shape.heads + a->first_kv + kv) * d;
    const int steps = a->heads * ((item.rows - item.at + ROWS - 1) / ROWS);
    uint16_t *const stages = own + 2 * tile_size(ROWS, d);
    float_pair *const stats = (float_pair *)(stages + 4 * tile_size(ROWS, d));
    float dk[TILE_DIM / 8][4], dv[TILE_DIM / 8][4];
    fetch_pair(own, keys_of(a, kv), values_of(a, kv), &item, item.at, d);
    fetch_queries(stages, stats, a, &item, kv, 0, d);
    kern_copy_commit();
    if (a->first_head) {
        read_gradient(dk, a, &item, row0, column, d);
        read_gradient(dv, a, &item, row0, column + a->shape.kv_heads * d, d);
    } else {
        clear(dk, d);
        clear(dv, d);
    }
    for (int i = 0; i < steps; i++) {
        const int stage = i % 2, other = 1 - stage;
        kern_copy_wait(0);
        kern_barrier();
        if (i + 1 < steps) fetch_queries(stages + other * 2 * tile_size(ROWS, d), stats + other * ROWS, a, &item, kv, i + 1, d);
        kern_copy_commit();
        grad_keys_tile(dk, dv, own, stages + stage * 2 * tile_size(ROWS, d), stats + stage * ROWS, row0, item.at + row0,
                       step_of(&item, i).at, d);
    }
    write_gradient(dk, a, &item, row0, column, d);
    write_gradient(dv, a, &item, row0, column + a->shape.kv_heads * d, d);
}

KERN_KERNEL(grad_keys_64) {
    KERN_SHARED_BYTES(uint16_t, memory);
    grad_keys(&a, memory, 64);
}
KERN_KERNEL(grad_keys_128) {
    KERN_SHARED_BYTES(uint16_t, memory);
    grad_keys(&a, memory, 128);
}

/* ---- dq --------------------------------------------------------------------------------------------------------------------------- */

/* A block of keys, whose first is at key0, for the warp's queries, which begin at row0 of the tile; stat and pos of rows g, g+8. */
KERN_DEVICE void grad_queries_tile(float dq[TILE_DIM / 8][4], const uint16_t *own, const uint16_t *stage, const float_pair stat[2],
                                   const int pos[2], int row0, int key0, int d) {
    const uint16_t *queries = own, *douts = own + tile_size(ROWS, d), *keys = stage, *values = stage + tile_size(ROWS, d);
    for (int c0 = 0; c0 < KEYS; c0 += STEP) {
        float p[STEP / 8][4], ds[STEP / 8][4];
        scores(p, queries, keys, row0, c0, d);
        scores(ds, douts, values, row0, c0, d);
        KERN_UNROLL for (int n = 0; n < STEP / 8; n++)
            KERN_UNROLL for (int i = 0; i < 4; i++)
                pair_of(&p[n][i], &ds[n][i], stat[i / 2], key0 + c0 + 8 * n + lane_column() + i % 2 <= pos[i / 2], d);
        add_products(dq, ds, keys, c0, d);
    }
}

KERN_DEVICE void grad_queries(const tiles_grad_args *a, uint16_t *own, int d) {
    const int tasks = a->kv_heads * a->heads, task = kern_block() % tasks, kv = task / a->heads;
    const grad_item item = a->items[a->n_items - 1 - kern_block() / tasks]; /* those with most keys first */
    const int row0 = kern_thread() / 32 * 16;
    const rows16 keys = keys_of(a, kv), values = values_of(a, kv);
    uint16_t *const stages = own + 2 * tile_size(ROWS, d);
    float dq[TILE_DIM / 8][4];
    float_pair stat[2];
    int pos[2];
    fetch_pair(own, queries_of(a, task), douts_of(a, task), &item, item.at, d);
    fetch_pair(stages, keys, values, &item, 0, d);
    kern_copy_commit();
    clear(dq, d);
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        pos[half] = item.at + row0 + lane_row() + 8 * half;
        stat[half] = pos[half] < item.rows ? a->stats[(size_t)task * a->m + item.begin + pos[half]] : (float_pair){0, 0};
    }
    for (int key0 = 0; key0 <= item.at; key0 += KEYS) {
        const int stage = key0 / KEYS % 2, other = 1 - stage;
        kern_copy_wait(0);
        kern_barrier();
        if (key0 < item.at) fetch_pair(stages + other * 2 * tile_size(ROWS, d), keys, values, &item, key0 + KEYS, d);
        kern_copy_commit();
        grad_queries_tile(dq, own, stages + stage * 2 * tile_size(ROWS, d), stat, pos, row0, key0, d);
    }
    write_gradient(dq, a, &item, row0, head_of(a, task) * d, d);
}

KERN_KERNEL(grad_queries_64) {
    KERN_SHARED_BYTES(uint16_t, memory);
    grad_queries(&a, memory, 64);
}
KERN_KERNEL(grad_queries_128) {
    KERN_SHARED_BYTES(uint16_t, memory);
    grad_queries(&a, memory, 128);
}

/* ---- queueing --------------------------------------------------------------------------------------------------------------------- */

static void run_items(kern_ctx *ctx, tiles_grad_args args, const grad_item *items, int n) {
    const int d = args.shape.head_dim, keys = n * args.kv_heads, queries = keys * args.heads;
    args.items = (const grad_item *)kern_cuda_stage(ctx, items, (size_t)n * sizeof *items);
    args.n_items = n;
    if (d == 64) {
        KERN_LAUNCH_SHARED(ctx, grad_keys_64, keys, THREADS, grad_bytes(d), args);
        KERN_LAUNCH_SHARED(ctx, grad_queries_64, queries, THREADS, grad_bytes(d), args);
    } else {
        KERN_LAUNCH_SHARED(ctx, grad_keys_128, keys, THREADS, grad_bytes(d), args);
        KERN_LAUNCH_SHARED(ctx, grad_queries_128, queries, THREADS, grad_bytes(d), args);
    }
}

static void run_heads(kern_ctx *ctx, const tiles_grad_args *args, const int32_t *seq_begin, int seqs) {
    const int tasks = args->kv_heads * args->heads;
    grad_item items[ITEMS];
    int n = 0;
    const size_t rounded = (size_t)(tasks + (args->dtype == KERN_F32 ? args->kv_heads : 0)) * (size_t)args->m;
    KERN_LAUNCH(ctx, grad_round, kern_blocks_for(rounded, ROUND_TEAMS), ROUND_THREADS, *args);
    if (args->dtype == KERN_BF16 && kern_cuda_attention_grad_hopper(ctx, (uint16_t *)args->dqkv, (const uint16_t *)args->dout,
                                                                    (const uint16_t *)args->qkv, args->stats, args->first_kv, args->kv_heads,
                                                                    seq_begin, seqs, args->shape))
        return;
    for (int s = 0; s < seqs; s++)
        for (int at = 0; at < seq_begin[s + 1] - seq_begin[s]; at += ROWS) {
            const grad_item item = {seq_begin[s], seq_begin[s + 1] - seq_begin[s], at};
            items[n++] = item;
            if (n < ITEMS) continue;
            run_items(ctx, *args, items, n);
            n = 0;
        }
    if (n) run_items(ctx, *args, items, n);
}

/* Cuts the work space: copies of kv_heads keys and values, and of `heads` of each one's queries. */
static void cut_scratch(tiles_grad_args *args, float *scratch) {
    const size_t head = (size_t)args->m * (size_t)args->shape.head_dim, kv = (size_t)args->kv_heads * head, q = kv * (size_t)args->heads;
    args->stats = (float_pair *)scratch;
    args->keys = (uint16_t *)(scratch + 2 * (size_t)(args->kv_heads * args->heads) * (size_t)args->m);
    args->keys += (8 - ((size_t)args->keys / sizeof(uint16_t)) % 8) % 8; /* to 16 bytes, for the copies */
    args->values = args->keys + kv;
    args->queries = args->values + kv;
    args->douts = args->queries + q;
}

/* What is bfloat16 needs no copies, only the statistics: a kv head's are together always, so that dk and dv are rounded once. */
void kern_cuda_attention_grad_tiles(kern_ctx *ctx, void *dqkv, const void *dout, const void *out, const float *lse, const void *qkv,
                                    kern_dtype dtype, const int32_t *seq_begin, int seqs, kern_attn_shape shape) {
    tiles_grad_args args;
    const int m = seq_begin[seqs], group = shape.heads / shape.kv_heads;
    const size_t kv = dtype == KERN_F32 ? (size_t)m * (size_t)shape.head_dim : 0, head = kv + 2 * (size_t)m; /* floats */
    const size_t space = ctx->scratch_floats - 4;
    if (!m) return;
    assert(dtype == KERN_F32 ? kv + head <= space : (size_t)group * head <= space);
    const size_t kv_heads = space / (kv + (size_t)group * head), heads = (space - kv) / head;
    const int kv_step = !kv_heads ? 1 : (int)kv_heads < shape.kv_heads ? (int)kv_heads : shape.kv_heads;
    const int head_step = (int)heads < group ? (int)heads : group;
    memset(&args, 0, sizeof args);
    args.dqkv = dqkv;
    args.dout = dout;
    args.out = out;
    args.lse = lse;
    args.qkv = qkv;
    args.dtype = dtype;
    args.shape = shape;
    args.m = m;
    for (args.first_kv = 0; args.first_kv < shape.kv_heads; args.first_kv += kv_step)
        for (args.first_head = 0; args.first_head < group; args.first_head += head_step) {
            args.kv_heads = shape.kv_heads - args.first_kv < kv_step ? shape.kv_heads - args.first_kv : kv_step;
            args.heads = group - args.first_head < head_step ? group - args.first_head : head_step;
            cut_scratch(&args, ctx->scratch);
            run_heads(ctx, &args, seq_begin, seqs);
        }
}
