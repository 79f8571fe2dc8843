/* The head: log-prob, entropy and their gradient, and sampling, under temperature, top-k and top-p, with the bits of the CPU.
 *
 *   z = logits * (1/temperature); maximum over all z
 *   kept: z[j] > threshold, or z[j] == threshold and j <= threshold_id
 *   a part, KERN_HEAD_PART ids: its maximum m over all its z; s, the sum of its kept exp(z - m), and w, that of exp(z - m)*(z - m): 16 lanes
 *   by j mod 16, fixed tree
 *   of the row: kern_head_mass of each part, and the sums of both over parts ascending
 *   log p(j) = (z[j] - maximum) - log(sum)
 *
 * A warp does a part, with its ids in registers: all multiprocessors are busy with a single row of a large vocabulary. A block a row then
 * merges the parts and writes what is asked, so that a sampled token's log-prob has the bits of kern_logprob.
 *
 * The kept set is a prefix of the tokens ordered by (z descending, id ascending): top_k of them, then the shortest prefix whose share of
 * the mass that is left reaches top_p. Shares are weighed in integers, e * 2^40 rounded, so the prefix does not depend on the order of
 * addition. A histogram of weights over steps of 1/8 below the maximum says in which step the prefix ends; a block a row gathers the ids of
 * that step, and goes through the bits of z and then of id, 8 at a time. (More than LISTED ids in the step: it goes through the row.)
 *
 * Launches, and bytes a logit:
 *   logprob, sample, nothing filtered   sums, close: 4, once
 *   greedy                              maxima, close: 4, once
 *   top_p, or top_k                     maxima, weigh, select, sums, close: 4, and 4 for each of the three in the middle but for parts below
 *                                       what they look for; both: weigh and select again
 *   logprob_grad                        8, once; 6 where its gradient is bfloat16
 * Operations a logit: some 25 for exp (sums, weigh, logprob_grad); in sums 4 for a chain of 16 lanes, which a warp does twice over, and 8 for
 * both; in weigh 20 and two additions to shared memory. So maxima is bound by memory, the others by one as much as the other. */
#include "kernels/cuda/dialect.h"

#include <assert.h>

#include "common/base/philox.h"

enum {
    PART = KERN_HEAD_PART,
    MAX_VOCAB = KERN_MOST_VOCAB,
    MAX_PARTS = MAX_VOCAB / PART,
    EACH = PART / 32,       /* ids of a part that a lane has: 4, and 4 more every 128 */
    SUM_WARPS = 4,          /* parts a block: of maxima and sums */
    SUM_THREADS = 32 * SUM_WARPS,
    WEIGH_WARPS = 8,        /* of weigh */
    WEIGH_THREADS = 32 * WEIGH_WARPS,
    DIGITS = 256,
    SELECT_THREADS = 512,
    LISTED = 4096,          /* candidates of select in shared memory */
    CLOSE_THREADS = 256,
    CLOSE_WARPS = CLOSE_THREADS / 32,
    GROUPS = PART / 16,     /* of a part: KERN_LANES ids each */
    SAMPLE_ROWS = 128,      /* that a launch of close_sample takes keys for */
    AHEAD = 8,              /* loads that go before a chain's additions */
    GRAD_THREADS = 256,
    GRAD_STEPS = 4,
    GRAD_IDS = GRAD_THREADS * GRAD_STEPS * 4
};

/* Of a row and part; mass and the rest of the merge are the last kernel's. */
typedef struct head_part {
    float maximum, sum, weighted, unused;
} head_part;

typedef struct head_kept {
    float threshold;
    int threshold_id;
} head_kept;

typedef struct head_args {
    float *logprob, *entropy, *stats; /* entropy, stats: NULL where not wanted */
    void *dlogits;
    kern_dtype dlogits_dtype;
    const float *logits, *dlogprob, *dentropy;
    const int32_t *targets;
    int32_t *ids;
    kern_filter filter;
    int m, v, n_parts;
    head_part *parts;  /* (m, n_parts) */
    head_kept *kept;   /* (m); NULL: everything is kept */
    uint64_t *weights; /* (m, blocks of weigh, DIGITS) */
    bool by_mass;      /* the selection: top_p, not top_k */
    bool narrowed;     /* kept has been set before */
    bool wide;         /* four neighbours of dlogits are stored together */
} head_args;
typedef head_args maxima_args, sums_args, weigh_args, select_args, close_logprob_args, logprob_grad_args;

typedef struct close_sample_args {
    head_args head;
    uint64_t seed;
    kern_sample_key keys[SAMPLE_ROWS]; /* with the launch: nothing is copied from the host */
} close_sample_args;

typedef struct head_row {
    const float *logits;
    int v, threshold_id;
    float inverse_t, maximum, threshold;
    float sum, weighted; /* of kept e and e*(z - maximum) */
    float log_sum;
} head_row;

/* ---- a row and its parts ---------------------------------------------------------------------------------------------------------- */

KERN_DEVICE head_row row_of(const head_args *a, int i, bool kept) {
    head_row row;
    row.logits = a->logits + (size_t)i * a->v;
    row.v = a->v;
    row.inverse_t = a->filter.temperature == 0.0f ? 1.0f : 1.0f / a->filter.temperature;
    row.threshold = kept ? a->kept[i].threshold : -INFINITY;
    row.threshold_id = kept ? a->kept[i].threshold_id : a->v;
    return row;
}

KERN_DEVICE float load_z(const head_row *row, int id) { return row->logits[id] * row->inverse_t; }

KERN_DEVICE bool is_kept(const head_row *row, float z, int id) {
    return z > row->threshold || (z == row->threshold && id <= row->threshold_id);
}

/* 0 where not kept. */
KERN_DEVICE float kept_e(const head_row *row, int id) {
    const float z = load_z(row, id);
    return is_kept(row, z, id) ? kern_exp1(z - row->maximum) : 0.0f;
}

KERN_DEVICE float row_entropy(const head_row *row) { return row->log_sum - row->weighted / row->sum; }

KERN_DEVICE float row_logprob(const head_row *row, int id) {
    const float z = load_z(row, id);
    return is_kept(row, z, id) ? (z - row->maximum) - row->log_sum : -INFINITY;
}

KERN_DEVICE bool is_aligned(const float *x) { return ((uintptr_t)x & 15) == 0; }

/* `many` times four of the n floats of x, from `first` on and `stride` further each time; -inf after the end. Where they lie so, it is 16
 * bytes at a time, all under way before the first is used. */
KERN_DEVICE void load_fours(kern_float4 *to, int many, const float *x, int first, int stride, int n) {
    if (is_aligned(x + first) && first + stride * (many - 1) + 4 <= n) {
        KERN_UNROLL
        for (int s = 0; s < many; s++) to[s] = *(const kern_float4 *)(x + first + stride * s);
        return;
    }
    KERN_UNROLL
    for (int s = 0; s < many; s++)
        KERN_UNROLL
        for (int c = 0; c < 4; c++) {
            const int at = first + stride * s + c;
            to[s].v[c] = at < n ? x[at] : -INFINITY;
        }
}

KERN_DEVICE int warp_lane(void) { return kern_thread() % 32; }

/* Where in its part a lane's s-th four ids are. */
KERN_DEVICE int place_of(int s) { return 4 * (32 * s + warp_lane()); }

/* z of the lane's ids of a part; -inf after the row's end. */
KERN_DEVICE void load_part(kern_float4 z[EACH / 4], const head_row *row, int part) {
    load_fours(z, EACH / 4, row->logits + (size_t)part * PART, place_of(0), place_of(1) - place_of(0), row->v - part * PART);
    KERN_UNROLL
    for (int s = 0; s < EACH / 4; s++)
        KERN_UNROLL
        for (int c = 0; c < 4; c++) z[s].v[c] *= row->inverse_t;
}

KERN_DEVICE float largest_of(const kern_float4 z[EACH / 4]) {
    float top = -INFINITY;
    KERN_UNROLL
    for (int s = 0; s < EACH / 4; s++)
        KERN_UNROLL
        for (int c = 0; c < 4; c++) top = kern_larger(z[s].v[c], top);
    return kern_max32(top);
}

/* The row's maximum, of its parts'; to all lanes of the warp. */
KERN_DEVICE float row_maximum(const head_args *a, int i) {
    float top = -INFINITY;
    for (int p = warp_lane(); p < a->n_parts; p += 32) top = kern_larger(a->parts[(size_t)i * a->n_parts + p].maximum, top);
    return kern_max32(top) + 0.0f; /* never -0 */
}

/* ---- parts: a warp each ----------------------------------------------------------------------------------------------------------- */

KERN_KERNEL_EARLY(maxima) {
    const int at = kern_block() * SUM_WARPS + kern_thread() / 32;
    if (at >= a.m * a.n_parts) return;
    const head_row row = row_of(&a, at / a.n_parts, false);
    kern_float4 z[EACH / 4];
    load_part(z, &row, at % a.n_parts);
    const float top = largest_of(z);
    if (warp_lane() == 0) a.parts[at].maximum = top;
}

typedef struct sums_memory {
    kern_float4 e[SUM_WARPS][PART / 4], below[SUM_WARPS][PART / 4]; /* exp(z - m) where kept, and z - m bounded below */
} sums_memory;

/* e and, if wanted, what they are multiplied by, into memory. */
KERN_DEVICE void put_e(kern_float4 *e, kern_float4 *below, const head_row *row, const kern_float4 z[EACH / 4], float m, int part, bool weighted) {
    const bool all = row->threshold == -INFINITY;
    const float shift_from = kern_head_shift_from(m);
    KERN_UNROLL
    for (int s = 0; s < EACH / 4; s++) {
        kern_float4 e4, below4;
        KERN_UNROLL
        for (int c = 0; c < 4; c++) {
            const float x = z[s].v[c] - shift_from;
            e4.v[c] = all || is_kept(row, z[s].v[c], part * PART + place_of(s) + c) ? kern_exp1(x) : 0.0f;
            below4.v[c] = kern_larger(x, KERN_HEAD_LEAST);
        }
        e[place_of(s) / 4] = e4;
        if (weighted) below[place_of(s) / 4] = below4;
    }
}

KERN_KERNEL_EARLY(sums) {
    KERN_SHARED(sums_memory, memory);
    const int warp = kern_thread() / 32, at = kern_block() * SUM_WARPS + warp;
    if (at >= a.m * a.n_parts) return;
    const head_row row = row_of(&a, at / a.n_parts, a.kept != NULL);
    const bool weighted_too = a.entropy || a.stats;
    float sum = 0, weighted = 0;
    if (a.kept && a.parts[at].maximum < row.threshold) {
        if (warp_lane() == 0) a.parts[at].sum = a.parts[at].weighted = 0.0f;
        return;
    }
    kern_float4 z[EACH / 4];
    load_part(z, &row, at % a.n_parts);
    const float top = largest_of(z);
    put_e(memory->e[warp], memory->below[warp], &row, z, top, at % a.n_parts, weighted_too);
    kern_warp_barrier();
    const float *e = (const float *)memory->e[warp] + kern_lane(), *below = (const float *)memory->below[warp] + kern_lane();
    for (int g = 0; g < GROUPS; g += AHEAD) {
        KERN_UNROLL
        for (int k = 0; k < AHEAD; k++) {
            const float x = e[(g + k) * KERN_LANES];
            sum += x;
            if (weighted_too) weighted = fmaf(x, below[(g + k) * KERN_LANES], weighted);
        }
    }
    sum = kern_sum16(sum);
    weighted = kern_sum16(weighted);
    if (warp_lane() == 0) {
        head_part part;
        part.maximum = top;
        part.sum = sum;
        part.weighted = weighted;
        part.unused = 0.0f;
        a.parts[at] = part;
    }
}

/* ---- selection of the kept set ---------------------------------------------------------------------------------------------------- */

/* Steps of an eighth below the maximum, the nearest being DIGITS - 1. */
KERN_DEVICE int step_of(float z, float maximum) {
    const float below = (maximum - z) * 8.0f;
    return DIGITS - 1 - (below < (float)(DIGITS - 1) ? (int)below : DIGITS - 1);
}

/* (z descending, id ascending) as (key descending): bits that sort as z does, -0 like 0, and those of the id turned round. */
enum { ID_BITS = 24, KEY_BITS = 32 + ID_BITS };

KERN_DEVICE uint64_t key_of(float z, int id) {
    uint32_t bits;
    z = z + 0.0f;
    memcpy(&bits, &z, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << ID_BITS | (uint64_t)((1 << ID_BITS) - 1 - id);
}

KERN_DEVICE float z_of_key(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> ID_BITS);
    float z;
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    memcpy(&z, &bits, sizeof z);
    return z;
}
KERN_DEVICE int id_of_key(uint64_t key) { return (1 << ID_BITS) - 1 - (int)(key & ((1 << ID_BITS) - 1)); }

/* What a kept id weighs: 1 for top_k, e * 2^40 rounded for top_p. */
KERN_DEVICE uint64_t weight_of(float z, float maximum, bool by_mass) {
    return by_mass ? (uint64_t)rintf(kern_exp1(z - maximum) * 0x1p40f) : 1;
}

/* No id of the part has a place in the selection: none is kept, or they weigh nothing, e being below 2^-41. */
KERN_DEVICE bool is_far(const head_row *row, float part_maximum, bool by_mass) {
    return part_maximum < row->threshold || (by_mass && row->maximum - part_maximum > 29.0f);
}

/* Weights of a part by step, in two halves of 20 bits: the sum of 1024 fits. */
typedef struct step_weights {
    uint32_t high[DIGITS], low[DIGITS];
} step_weights;
typedef struct weigh_memory {
    step_weights of[WEIGH_WARPS];
} weigh_memory;

KERN_DEVICE void add_weight(step_weights *to, const head_row *row, float z, int id, bool by_mass) {
    if (id >= row->v || !is_kept(row, z, id)) return;
    const int step = step_of(z, row->maximum);
    if (!by_mass) {
        kern_add_u32(&to->low[step], 1);
        return;
    }
    const float e = kern_exp1(z - row->maximum) * 0x1p20f, high = rintf(e), low = rintf((e - high) * 0x1p20f);
    if (high > 0.0f) kern_add_u32(&to->high[step], (uint32_t)(int32_t)high);
    if (low != 0.0f) kern_add_u32(&to->low[step], (uint32_t)(int32_t)low);
}

KERN_DEVICE int weigh_blocks(const head_args *a) { return (a->n_parts + WEIGH_WARPS - 1) / WEIGH_WARPS; }

KERN_KERNEL_EARLY(weigh) {
    KERN_SHARED(weigh_memory, memory);
    const int blocks = weigh_blocks(&a), i = kern_block() / blocks, warp = kern_thread() / 32;
    const int part = kern_block() % blocks * WEIGH_WARPS + warp;
    step_weights *mine = &memory->of[warp];
    head_row row = row_of(&a, i, a.narrowed);
    row.maximum = row_maximum(&a, i);
    for (int d = warp_lane(); d < DIGITS; d += 32) mine->high[d] = mine->low[d] = 0;
    kern_warp_barrier();
    if (part < a.n_parts && !is_far(&row, a.parts[(size_t)i * a.n_parts + part].maximum, a.by_mass)) {
        kern_float4 z[EACH / 4];
        load_part(z, &row, part);
        KERN_UNROLL
        for (int s = 0; s < EACH / 4; s++)
            KERN_UNROLL
            for (int c = 0; c < 4; c++) add_weight(mine, &row, z[s].v[c], part * PART + place_of(s) + c, a.by_mass);
    }
    kern_barrier();
    int64_t weight = 0;
    for (int w = 0; w < WEIGH_WARPS; w++)
        weight += (int64_t)(int32_t)memory->of[w].high[kern_thread()] * (1 << 20) + (int32_t)memory->of[w].low[kern_thread()];
    a.weights[(size_t)kern_block() * DIGITS + kern_thread()] = (uint64_t)weight;
}

typedef struct select_memory {
    float z[LISTED];
    int32_t id[LISTED];
    uint64_t weight[DIGITS], of16[DIGITS / 16], need;
    uint32_t low[DIGITS], high[DIGITS]; /* of weights that are being added */
    uint32_t listed;
    int digit;
} select_memory;

/* Of what the ids that are still candidates have in common. */
typedef struct candidates {
    int step, shift; /* their step; key >> shift is prefix */
    uint64_t prefix;
    uint32_t n; /* as many are in the list; more than LISTED: none is */
} candidates;

KERN_DEVICE bool is_candidate(const candidates *c, const head_row *row, float z, int id) {
    return step_of(z, row->maximum) == c->step && id < row->v && is_kept(row, z, id) && key_of(z, id) >> c->shift == c->prefix;
}

/* The digit, from the largest down, in which the running weight reaches memory->need; takes what lies above off it. */
KERN_DEVICE int pick_digit(select_memory *memory) {
    const int t = kern_thread();
    uint64_t above = 0;
    const uint64_t need = memory->need;
    if (t < DIGITS / 16) {
        uint64_t sum = 0;
        for (int d = 0; d < 16; d++) sum += memory->weight[16 * t + d];
        memory->of16[t] = sum;
    }
    kern_barrier();
    if (t < DIGITS) {
        for (int g = t / 16 + 1; g < DIGITS / 16; g++) above += memory->of16[g];
        for (int d = t + 1; d < (t / 16 + 1) * 16; d++) above += memory->weight[d];
        if (above < need && (t == 0 || above + memory->weight[t] >= need)) {
            memory->digit = t;
            memory->need = need - above;
        }
    }
    kern_barrier();
    return memory->digit;
}

KERN_DEVICE void visit_list(select_memory *memory, const candidates *c, const head_row *row, float z, int id, bool by_mass) {
    (void)row, (void)by_mass, (void)c;
    const uint32_t at = kern_take_u32(&memory->listed, 1);
    if (at >= LISTED) return;
    memory->z[at] = z;
    memory->id[at] = id;
}

/* Shared memory adds words of 32 bits by itself, and none of 64. */
KERN_DEVICE void visit_weigh(select_memory *memory, const candidates *c, const head_row *row, float z, int id, bool by_mass) {
    const int digit = (int)(key_of(z, id) >> (c->shift - 8) & 255);
    const uint64_t weight = weight_of(z, row->maximum, by_mass);
    const uint32_t low = (uint32_t)weight, carry = kern_take_u32(&memory->low[digit], low) > UINT32_MAX - low;
    const uint32_t high = (uint32_t)(weight >> 32) + carry;
    if (high) kern_add_u32(&memory->high[digit], high);
}

/* Every candidate of the row; a warp a part, but for those that have none. */
#define FOR_CANDIDATES_OF_ROW(visit)                                                                                        \
    for (int part = kern_thread() / 32; part < a->n_parts; part += SELECT_THREADS / 32) {                                   \
        const float top = a->parts[(size_t)kern_block() * a->n_parts + part].maximum;                                       \
        if (is_far(row, top, a->by_mass) || step_of(top, row->maximum) < c->step) continue;                                 \
        kern_float4 z[EACH / 4];                                                                                              \
        load_part(z, row, part);                                                                                            \
        KERN_UNROLL                                                                                                         \
        for (int s = 0; s < EACH / 4; s++)                                                                                  \
            KERN_UNROLL                                                                                                     \
            for (int k = 0; k < 4; k++) {                                                                                   \
                const int id = part * PART + place_of(s) + k;                                                               \
                if (is_candidate(c, row, z[s].v[k], id)) visit(memory, c, row, z[s].v[k], id, a->by_mass);                  \
            }                                                                                                               \
    }

/* Writes the candidates to the list, and how many they are to c->n. */
KERN_DEVICE void list_candidates(const head_args *a, select_memory *memory, candidates *c, const head_row *row) {
    if (kern_thread() == 0) memory->listed = 0;
    kern_barrier();
    FOR_CANDIDATES_OF_ROW(visit_list)
    kern_barrier();
    c->n = memory->listed;
}

/* Narrows the candidates by 8 more bits of their keys. */
KERN_DEVICE void narrow(const head_args *a, select_memory *memory, candidates *c, const head_row *row) {
    for (int d = kern_thread(); d < DIGITS; d += SELECT_THREADS) memory->low[d] = memory->high[d] = 0;
    kern_barrier();
    if (c->n <= LISTED) {
        for (uint32_t i = (uint32_t)kern_thread(); i < c->n; i += SELECT_THREADS)
            if (key_of(memory->z[i], memory->id[i]) >> c->shift == c->prefix)
                visit_weigh(memory, c, row, memory->z[i], memory->id[i], a->by_mass);
    } else {
        FOR_CANDIDATES_OF_ROW(visit_weigh)
    }
    kern_barrier();
    for (int d = kern_thread(); d < DIGITS; d += SELECT_THREADS) memory->weight[d] = (uint64_t)memory->high[d] << 32 | memory->low[d];
    kern_barrier();
    c->prefix = c->prefix << 8 | (uint64_t)pick_digit(memory);
    c->shift -= 8;
    kern_barrier();
}

/* The weight that the prefix is to reach, at least 1; 0: there is not as much. Into memory->need. */
KERN_DEVICE uint64_t find_need(const head_args *a, select_memory *memory) {
    const int blocks = weigh_blocks(a);
    for (int d = kern_thread(); d < DIGITS; d += SELECT_THREADS) {
        uint64_t sum = 0;
        for (int b = 0; b < blocks; b++) sum += a->weights[((size_t)kern_block() * blocks + b) * DIGITS + d];
        memory->weight[d] = sum;
    }
    kern_barrier();
    uint64_t total = 0, need = (uint64_t)a->filter.top_k;
    for (int d = 0; d < DIGITS && a->by_mass; d++) total += memory->weight[d];
    if (a->by_mass) {
        const double wanted = ceil((double)a->filter.top_p * (double)total);
        need = wanted < 1 ? 1 : (uint64_t)wanted;
        if (total < need) need = 0;
    }
    if (kern_thread() == 0) memory->need = need;
    kern_barrier();
    return need;
}

/* Sets the row's threshold to the last token of the shortest prefix whose weight reaches what is needed. */
KERN_KERNEL_WAITS_FOR(select, SELECT_THREADS, 1) {
    kern_wait_for_previous();
    KERN_SHARED(select_memory, memory);
    const int i = kern_block();
    head_row row = row_of(&a, i, a.narrowed);
    row.maximum = row_maximum(&a, i);
    const uint64_t need = find_need(&a, memory);
    head_kept kept;
    kept.threshold = row.threshold;
    kept.threshold_id = row.threshold_id;
    if (need) {
        candidates c;
        c.step = pick_digit(memory);
        c.shift = KEY_BITS;
        c.prefix = 0;
        c.n = LISTED + 1;
        while (c.shift > 0) {
            if (c.n > LISTED) list_candidates(&a, memory, &c, &row);
            narrow(&a, memory, &c, &row);
        }
        kept.threshold = z_of_key(c.prefix);
        kept.threshold_id = id_of_key(c.prefix);
    }
    if (kern_thread() == 0) a.kept[i] = kept;
}

/* ---- the end: a block a row ------------------------------------------------------------------------------------------------------- */

typedef struct close_memory {
    float mass[MAX_PARTS + AHEAD], weighted[MAX_PARTS + AHEAD], running[MAX_PARTS + AHEAD];
    float groups[GROUPS], e[PART], tops[CLOSE_WARPS], row_weighted;
    int chosen;
} close_memory;

/* The largest x of the block's threads, to all. */
KERN_DEVICE float block_maximum(close_memory *memory, float x) {
    x = kern_max32(x);
    kern_barrier();
    if (warp_lane() == 0) memory->tops[kern_thread() / 32] = x;
    kern_barrier();
    x = memory->tops[0];
    for (int w = 1; w < CLOSE_WARPS; w++) x = kern_larger(memory->tops[w], x);
    return x;
}

/* The sums of x[0], x[0] + x[1], ..., n of them, rounded up to AHEAD: there are as many x. One thread. */
KERN_DEVICE float run_up(float *running, const float *x, int n) {
    float run = 0.0f;
    for (int i = 0; i < n; i += AHEAD) {
        float ahead[AHEAD];
        KERN_UNROLL
        for (int k = 0; k < AHEAD; k++) ahead[k] = x[i + k];
        KERN_UNROLL
        for (int k = 0; k < AHEAD; k++) running[i + k] = run += ahead[k];
    }
    return run;
}

/* Sums over the row, from those of its parts. Leaves running sums of mass in memory. */
KERN_DEVICE void row_close(head_row *row, const head_args *a, close_memory *memory) {
    const head_part *parts = a->parts + (size_t)kern_block() * a->n_parts;
    const int n = a->n_parts;
    row->maximum = row_maximum(a, kern_block());
    for (int p = kern_thread(); p < n + AHEAD; p += CLOSE_THREADS) {
        memory->mass[p] = memory->weighted[p] = 0.0f;
        if (p < n)
            memory->mass[p] = kern_head_mass(parts[p].maximum, parts[p].sum, parts[p].weighted, row->maximum, &memory->weighted[p]);
    }
    kern_barrier();
    if (kern_thread() == 0) run_up(memory->running, memory->mass, n);
    if (kern_thread() == 32 && (a->entropy || a->stats)) memory->row_weighted = run_up(memory->weighted, memory->weighted, n);
    kern_barrier();
    row->sum = memory->running[n - 1];
    row->weighted = a->entropy || a->stats ? memory->row_weighted : 0.0f;
    row->log_sum = vf_log1(row->sum);
}

/* The lowest id of the largest logit; the parts' maxima are there. */
KERN_DEVICE int row_argmax(const head_row *row, const head_args *a, close_memory *memory) {
    const head_part *parts = a->parts + (size_t)kern_block() * a->n_parts;
    const float top = row_maximum(a, kern_block());
    int part = a->n_parts, id = a->v;
    for (int p = kern_thread(); p < a->n_parts && part == a->n_parts; p += CLOSE_THREADS)
        if (parts[p].maximum == top) part = p;
    part = (int)-block_maximum(memory, -(float)part);
    for (int j = part * PART + kern_thread(); j < a->v && j < (part + 1) * PART && id == a->v; j += CLOSE_THREADS)
        if (load_z(row, j) == top) id = j;
    id = (int)-block_maximum(memory, -(float)id);
    return id < a->v ? id : 0;
}

/* 0; but NaN where the largest logit is no number or infinite. */
KERN_DEVICE float logprob_of_most(const head_row *row, int id) {
    const float z = load_z(row, id);
    return z - z;
}

KERN_KERNEL(close_logprob) {
    KERN_SHARED(close_memory, memory);
    const int i = kern_block(), target = a.targets[i];
    const bool greedy = a.filter.temperature == 0.0f;
    head_row row = row_of(&a, i, a.kept != NULL);
    int best = 0;
    if (greedy) best = row_argmax(&row, &a, memory);
    else row_close(&row, &a, memory);
    if (kern_thread()) return;
    a.logprob[i] = !greedy ? row_logprob(&row, target) : target == best ? logprob_of_most(&row, best) : -INFINITY;
    if (a.entropy) a.entropy[i] = greedy ? 0.0f : row_entropy(&row);
    if (!a.stats) return;
    float *stats = a.stats + (size_t)i * KERN_HEAD_STATS;
    for (int s = 0; s < KERN_HEAD_STATS; s++) stats[s] = 0.0f;
    if (greedy) return;
    stats[0] = row.maximum;
    stats[1] = row.log_sum;
    stats[2] = row.threshold;
    float threshold_id;
    memcpy(&threshold_id, &row.threshold_id, sizeof threshold_id);
    stats[3] = threshold_id;
    stats[4] = row_entropy(&row);
    stats[5] = is_kept(&row, load_z(&row, target), target) ? 1.0f : 0.0f;
}

/* The first of n masses at which their running sum passes *point; rounding may leave none: then the last that is positive, or 0. Takes
 * what comes before it off *point. All threads; what is in memory was written before a barrier. */
KERN_DEVICE int pick(close_memory *memory, const float *mass, int n, float *point) {
    const float *running = memory->running;
    if (kern_thread() == 0) memory->chosen = -1;
    kern_barrier();
    for (int i = kern_thread(); i < n; i += CLOSE_THREADS)
        if (running[i] > *point && (i == 0 || !(running[i - 1] > *point))) memory->chosen = i;
    kern_barrier();
    int chosen = memory->chosen;
    for (int i = n - 1; chosen < 0; i--)
        if (i <= 0 || mass[i] > 0.0f) chosen = i > 0 ? i : 0;
    *point -= chosen ? running[chosen - 1] : 0.0f;
    kern_barrier(); /* before memory->running is others' */
    return chosen;
}

/* Inverse distribution over kept ids ascending. */
KERN_DEVICE int draw(const head_row *row, const head_args *a, close_memory *memory, float u) {
    float point = u * row->sum;
    const int begin = pick(memory, memory->mass, a->n_parts, &point) * PART;
    for (int j = kern_thread(); j < PART; j += CLOSE_THREADS) {
        const float e = begin + j < row->v ? kept_e(row, begin + j) : 0.0f, sum = kern_sum16(e);
        memory->e[j] = e;
        if (kern_lane() == 0) memory->groups[j / KERN_LANES] = sum;
    }
    kern_barrier();
    if (kern_thread() == 0) run_up(memory->running, memory->groups, GROUPS);
    kern_barrier();
    const int first = pick(memory, memory->groups, GROUPS, &point) * KERN_LANES;
    if (kern_thread() == 0) run_up(memory->running, memory->e + first, KERN_LANES);
    kern_barrier();
    return begin + first + pick(memory, memory->e + first, KERN_LANES, &point);
}

KERN_KERNEL(close_sample) {
    KERN_SHARED(close_memory, memory);
    const int i = kern_block();
    const bool greedy = a.head.filter.temperature == 0.0f;
    const kern_sample_key key = a.keys[i];
    head_row row = row_of(&a.head, i, a.head.kept != NULL);
    int id;
    if (greedy) {
        id = row_argmax(&row, &a.head, memory);
    } else {
        row_close(&row, &a.head, memory);
        id = draw(&row, &a.head, memory, rlf_philox_uniform(a.seed, RLF_RNG_SAMPLE, key.uid, key.sample, key.position));
    }
    if (kern_thread()) return;
    a.head.ids[i] = id;
    a.head.logprob[i] = greedy ? logprob_of_most(&row, id) : row_logprob(&row, id);
}

/* ---- gradient --------------------------------------------------------------------------------------------------------------------- */

/* d/dz_j of a log p(t) + b H, over kept j: a (1[j = t] - p_j) - b p_j (log p_j + H); times 1/temperature. A target outside the kept set has
 * a constant log-prob. */
typedef struct grad_terms {
    float by_logprob, by_entropy, centre, scale;
    int target;
} grad_terms;

KERN_DEVICE float grad_of(const head_row *row, const grad_terms *g, float z, int j) {
    const float shift = kern_larger(z - row->maximum, KERN_HEAD_LEAST);
    const float p = is_kept(row, z, j) ? kern_exp1(shift - row->log_sum) : 0.0f;
    const float d = p * fmaf(g->by_entropy, shift + g->centre, g->by_logprob) * g->scale;
    return j == g->target ? d + g->by_logprob * row->inverse_t : d;
}

KERN_KERNEL(logprob_grad) {
    const int blocks = (a.v + GRAD_IDS - 1) / GRAD_IDS, i = kern_block() / blocks;
    const int begin = kern_block() % blocks * GRAD_IDS + 4 * kern_thread();
    const float *stats = a.stats + (size_t)i * KERN_HEAD_STATS;
    const float *logits = a.logits + (size_t)i * a.v;
    head_row row = row_of(&a, i, false);
    row.maximum = stats[0];
    row.log_sum = stats[1];
    row.threshold = stats[2];
    const float threshold_id = stats[3];
    memcpy(&row.threshold_id, &threshold_id, sizeof row.threshold_id);
    grad_terms g;
    g.by_logprob = stats[5] > 0.0f ? a.dlogprob[i] : 0.0f;
    g.by_entropy = a.dentropy ? a.dentropy[i] : 0.0f;
    g.centre = stats[4] - row.log_sum;
    g.scale = -row.inverse_t;
    g.target = a.targets[i];
    kern_float4 x[GRAD_STEPS];
    load_fours(x, GRAD_STEPS, logits, begin, 4 * GRAD_THREADS, a.v);
    KERN_UNROLL
    for (int s = 0; s < GRAD_STEPS; s++) {
        const int at = begin + 4 * GRAD_THREADS * s;
        KERN_UNROLL
        for (int c = 0; c < 4; c++)
            x[s].v[c] = a.filter.temperature == 0.0f ? 0.0f : grad_of(&row, &g, x[s].v[c] * row.inverse_t, at + c);
        kern_store4(a.dlogits, a.dlogits_dtype, (size_t)i * (size_t)a.v + (size_t)at, a.v - at, a.wide, x[s]);
    }
}

/* ---- operations ------------------------------------------------------------------------------------------------------------------- */

static bool is_filtered(const head_args *args) {
    return args->filter.temperature > 0.0f && ((args->filter.top_k > 0 && args->filter.top_k < args->v) || args->filter.top_p < 1.0f);
}

static head_args args_for(kern_filter filter, int v) {
    head_args args;
    assert(v > 0 && v <= MAX_VOCAB);
    assert(filter.temperature >= 0 && filter.top_p > 0 && filter.top_k >= 0);
    memset(&args, 0, sizeof args);
    args.filter = filter;
    args.v = v;
    args.n_parts = kern_blocks_for((size_t)v, PART);
    return args;
}

/* Scratch of a row: its place in weights, parts and kept. */
static size_t weights_of_row(const head_args *args) { return (size_t)kern_blocks_for((size_t)args->n_parts, WEIGH_WARPS) * DIGITS; }
static int rows_at_a_time(const kern_ctx *ctx, const head_args *args) {
    const size_t bytes = weights_of_row(args) * sizeof *args->weights + (size_t)args->n_parts * sizeof *args->parts + sizeof *args->kept;
    const int most = INT_MAX / args->n_parts, rows = kern_cuda_rows_at_a_time(ctx, 1, bytes);
    return rows < most ? rows : most;
}

/* The parts' sums of m rows, and before them the kept set. */
static void queue_parts(kern_ctx *ctx, head_args *args, int m) {
    const int blocks = kern_blocks_for((size_t)m * (size_t)args->n_parts, SUM_WARPS);
    args->m = m;
    args->weights = (uint64_t *)ctx->scratch;
    args->parts = (head_part *)(args->weights + (size_t)m * weights_of_row(args));
    args->kept = is_filtered(args) ? (head_kept *)(args->parts + (size_t)m * (size_t)args->n_parts) : NULL;
    args->narrowed = false;
    if (args->kept || args->filter.temperature == 0.0f) KERN_LAUNCH(ctx, maxima, blocks, SUM_THREADS, *args);
    for (int by_mass = 0; by_mass < 2 && args->kept; by_mass++) {
        if (by_mass ? args->filter.top_p >= 1.0f : args->filter.top_k <= 0 || args->filter.top_k >= args->v) continue;
        args->by_mass = by_mass != 0;
        KERN_LAUNCH(ctx, weigh, m * kern_blocks_for((size_t)args->n_parts, WEIGH_WARPS), WEIGH_THREADS, *args);
        KERN_LAUNCH(ctx, select, m, SELECT_THREADS, *args);
        args->narrowed = true;
    }
    if (args->filter.temperature > 0.0f) KERN_LAUNCH(ctx, sums, blocks, SUM_THREADS, *args);
}

void kern_cuda_logprob(kern_ctx *ctx, float *logprob_out, float *entropy, float *stats, const float *logits, const int32_t *targets,
                       kern_filter filter, int m, int v) {
    head_args args = args_for(filter, v);
    const int most = rows_at_a_time(ctx, &args);
    for (int begin = 0; begin < m; begin += most) {
        const int n = m - begin < most ? m - begin : most;
        args.logprob = logprob_out + begin;
        args.entropy = entropy ? entropy + begin : NULL;
        args.stats = stats ? stats + (size_t)begin * KERN_HEAD_STATS : NULL;
        args.logits = logits + (size_t)begin * v;
        args.targets = targets + begin;
        queue_parts(ctx, &args, n);
        KERN_LAUNCH(ctx, close_logprob, n, CLOSE_THREADS, args);
    }
}

void kern_cuda_logprob_grad(kern_ctx *ctx, void *dlogits, kern_dtype dtype, const float *logits, const float *stats,
                            const int32_t *targets, const float *dlogprob, const float *dentropy, kern_filter filter, int m, int v) {
    head_args args = args_for(filter, v);
    args.dlogits = dlogits;
    args.dlogits_dtype = dtype;
    args.wide = kern_wide(dlogits, dtype, v);
    args.logits = logits;
    args.stats = (float *)stats;
    args.targets = targets;
    args.dlogprob = dlogprob;
    args.dentropy = dentropy;
    KERN_LAUNCH(ctx, logprob_grad, m * kern_blocks_for((size_t)v, GRAD_IDS), GRAD_THREADS, args);
}

/* Uniforms are drawn on the card. */
void kern_cuda_sample(kern_ctx *ctx, int32_t *ids, float *logprob_out, const float *logits, kern_filter filter, uint64_t seed,
                      const kern_sample_key *keys, int m, int v) {
    head_args args = args_for(filter, v);
    const int room = rows_at_a_time(ctx, &args), most = room < SAMPLE_ROWS ? room : SAMPLE_ROWS;
    for (int begin = 0; begin < m; begin += most) {
        const int n = m - begin < most ? m - begin : most;
        close_sample_args close;
        args.ids = ids + begin;
        args.logprob = logprob_out + begin;
        args.logits = logits + (size_t)begin * v;
        queue_parts(ctx, &args, n);
        memset(&close, 0, sizeof close);
        close.head = args;
        close.seed = seed;
        memcpy(close.keys, keys + begin, (size_t)n * sizeof *keys);
        KERN_LAUNCH(ctx, close_sample, n, CLOSE_THREADS, close);
    }
}
