/* The head: log-prob, entropy and their gradient, and sampling, under temperature, top-k and top-p.
 *
 * One row of logits is described once (row_open) for all three, which is why a sampled token's log-prob has the bits of kern_logprob:
 *
 *   z = logits * (1/temperature); maximum over all z
 *   kept: z[j] > threshold, or z[j] == threshold and j <= threshold_id
 *   a part, KERN_HEAD_PART ids: its maximum m over all its z; s, the sum of its kept exp(z - m), and w, that of exp(z - m)*(z - m): 16 lanes
 *   by j mod 16, fixed tree
 *   with f = exp(m - maximum) of each part, parts ascending:
 *   mass = s*f, sum = sum of mass, weighted = sum of f*((m - maximum)*s + w), which is that of e*(z - maximum) over the row
 *   log p(j) = (z[j] - maximum) - log(sum)
 *
 * A draw finds the part by running sums of mass, in it 16 ids by running sums of theirs (e = exp(z - maximum), fixed tree), then the id.
 *
 * The kept set. Tokens are ordered by (z descending, id ascending). top_k keeps a prefix of that order; top_p then the shortest
 * prefix whose share of the mass that top_k left reaches top_p (so as Hugging Face chains its two processors). Shares are weighed in
 * integers, e * 2^40 rounded, so that they do not depend on the order of addition and a radix selection finds the prefix without
 * sorting. */
#include <assert.h>

#include "common/base/rng.h"
#include "kernels/cpu/isa/isa.h"

enum {
    MAX_VOCAB = KERN_MOST_VOCAB, /* ids are compared as floats, exact below 2^24; scratch holds 3 arrays of them */
    CHUNK = 64           /* ids in one maximum of the selection */
};

typedef struct head_row {
    const float *logits;
    int v;
    float inverse_t, maximum, threshold;
    int threshold_id;
    float sum, weighted; /* of kept e and e*(z - maximum) */
    float log_sum;
    const float *mass; /* of each part, in scratch */
} head_row;

static inline float load_z(const head_row *row, int id) { return row->logits[id] * row->inverse_t; }

/* z of ids i..i+15, of which there are all; */
static inline vf load_all_z16(const head_row *row, int i) { return vf_mul(vf_load(row->logits + i), vf_set1(row->inverse_t)); }

/* or past the end -inf, whose e is 0. */
static inline vf load_z16(const head_row *row, int i) {
    const int n = row->v - i;
    return n >= VF ? load_all_z16(row, i) : vf_mul(vf_load_n(row->logits + i, n, -INFINITY), vf_set1(row->inverse_t));
}

static inline bool is_kept(const head_row *row, int id) {
    const float z = load_z(row, id);
    return z > row->threshold || (z == row->threshold && id <= row->threshold_id);
}

/* x where ids i..i+15 with these z are kept, else 0. */
static inline vf keep16(const head_row *row, vf z, int i, vf x) {
    const vf t = vf_set1(row->threshold), ids = vf_add(vf_iota(), vf_set1((float)i));
    vf tied = vf_select_lt(vf_set1((float)row->threshold_id), ids, vf_zero(), x);
    return vf_select_lt(z, t, vf_zero(), vf_select_lt(t, z, x, tied));
}

/* e of ids i..i+15, 0 where not kept. */
static inline vf kept_e16(const head_row *row, int i) {
    const vf z = load_z16(row, i);
    return keep16(row, z, i, vf_exp(vf_sub(z, vf_set1(row->maximum))));
}

/* The largest z of ids begin..end-1. */
static float largest_z(const head_row *row, int begin, int end) {
    vf top = vf_set1(-INFINITY), other = top; /* two, so that one need not wait for the other */
    int i = begin;
    for (; i + 2 * VF <= end; i += 2 * VF) {
        top = vf_max(load_all_z16(row, i), top);
        other = vf_max(load_all_z16(row, i + VF), other);
    }
    for (; i < end; i += VF) top = vf_max(load_z16(row, i), top);
    return vf_hmax(vf_max(top, other));
}

static inline int parts_of(const head_row *row) { return (row->v + KERN_HEAD_PART - 1) / KERN_HEAD_PART; }
static inline int end_of_part(const head_row *row, int part) { return kern_min(row->v, (part + 1) * KERN_HEAD_PART); }

typedef struct head_part {
    float maximum, sum, weighted;
} head_part;

/* The sums of a part whose maximum is there. */
static inline void sum_ids(head_part *part, const head_row *row, int begin, int end, bool all) {
    const vf maximum = vf_set1(kern_head_shift_from(part->maximum));
    vf sum = vf_zero(), weighted = vf_zero();
    for (int i = begin; i < end; i += VF) {
        const vf z = load_z16(row, i), below = vf_sub(z, maximum);
        vf e = vf_exp(below);
        if (!all) e = keep16(row, z, i, e);
        sum = vf_add(sum, e);
        weighted = vf_fma(e, vf_max(below, vf_set1(KERN_HEAD_LEAST)), weighted);
    }
    part->sum = vf_sum(sum);
    part->weighted = vf_sum(weighted);
}

static head_part sum_part(const head_row *row, int begin, int end) {
    head_part part = {.maximum = largest_z(row, begin, end)};
    if (row->threshold == -INFINITY) sum_ids(&part, row, begin, end, true);
    else if (part.maximum >= row->threshold) sum_ids(&part, row, begin, end, false);
    return part;
}

/* Sets the row's maximum too. scratch: (parts) masses, then the parts. */
static void row_sums(head_row *row, float *scratch) {
    const int n = parts_of(row);
    float *mass = scratch, top = -INFINITY;
    head_part *parts = (head_part *)(void *)(scratch + n);
    for (int p = 0; p < n; p++) {
        parts[p] = sum_part(row, p * KERN_HEAD_PART, end_of_part(row, p));
        if (parts[p].maximum > top) top = parts[p].maximum;
    }
    row->maximum = top + 0.0f; /* never -0 */
    row->sum = row->weighted = 0.0f;
    for (int p = 0; p < n; p++) {
        float weighted;
        mass[p] = kern_head_mass(parts[p].maximum, parts[p].sum, parts[p].weighted, row->maximum, &weighted);
        row->sum += mass[p];
        row->weighted += weighted;
    }
    row->log_sum = vf_log1(row->sum);
    row->mass = mass;
}

static float row_entropy(const head_row *row) { return row->log_sum - row->weighted / row->sum; }

static float row_logprob(const head_row *row, int id) {
    return is_kept(row, id) ? (load_z(row, id) - row->maximum) - row->log_sum : -INFINITY;
}

/* ---- selection of the kept set ---------------------------------------------------------------------------------------------------- */

/* Ids ascending. e NULL: each weighs 1, else e * 2^40 rounded to an integer. */
typedef struct candidates {
    float *z, *e;
    int32_t *id;
    int n;
    float maximum; /* of z, or above */
} candidates;

enum { DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS, LEVELS = 5 };
#define WEIGHT_ONE 0x1p40f

/* Digits of z, most significant first: order of z is order of digits. The first spreads what lies just below the maximum evenly,
 * in eighths;
 * the others are the float's own bits, made to sort like integers, -0 like 0. */
static inline uint32_t digit_of(float z, float maximum, int level) {
    if (level == 0) {
        const float below = (maximum - z) * 8.0f;
        return DIGITS - 1 - (below < (float)(DIGITS - 1) ? (uint32_t)below : DIGITS - 1);
    }
    uint32_t bits;
    z = z + 0.0f;
    memcpy(&bits, &z, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return bits >> (32 - DIGIT_BITS * level) & (DIGITS - 1);
}

static inline uint64_t weight_of(const candidates *c, int i) { return c->e ? (uint64_t)rintf(c->e[i] * WEIGHT_ONE) : 1; }

/* Keeps the candidates with the digit in which the running weight, from the largest down, reaches *need; takes what lies above
 * off *need. */
static void select_digit(candidates *c, int level, uint64_t *need) {
    const candidates in = *c; /* a copy, which the stores below cannot change */
    uint64_t weight[DIGITS] = {0};
    for (int i = 0; i < in.n; i++) weight[digit_of(in.z[i], in.maximum, level)] += weight_of(&in, i);
    uint32_t digit = DIGITS - 1;
    while (digit > 0 && weight[digit] < *need) *need -= weight[digit--];
    int n = 0;
    for (int i = 0; i < in.n; i++) {
        if (digit_of(in.z[i], in.maximum, level) != digit) continue;
        in.z[n] = in.z[i];
        in.id[n] = in.id[i];
        if (in.e) in.e[n] = in.e[i];
        n++;
    }
    c->n = n;
}

/* Sets the row's threshold to the last token of the shortest prefix, in (z descending, id ascending), whose weight reaches `need`, which is
 * at least 1 and at most the total. Uses up the candidates. */
static void select_prefix(head_row *row, candidates *c, uint64_t need) {
    for (int level = 0; level < LEVELS && c->n > 1; level++) select_digit(c, level, &need);
    int i = 0; /* the rest are equal in z */
    while (i < c->n - 1 && weight_of(c, i) < need) need -= weight_of(c, i++);
    if (c->n == 0) return; /* logits that are not numbers */
    row->threshold = c->z[i];
    row->threshold_id = c->id[i];
}

/* What a selection works on: the chunks' maxima, which let it skip what is far below, and room for candidates. */
typedef struct selection {
    float *maxima; /* (chunks) */
    int chunks;
    candidates c;
} selection;

/* Sets the row's maximum. */
static selection selection_in(float *scratch, head_row *row) {
    const int padded = (row->v + CHUNK - 1) / CHUNK * CHUNK;
    selection s = {.maxima = scratch, .chunks = padded / CHUNK};
    scratch += (s.chunks + VF - 1) / VF * VF;
    s.c = (candidates){.z = scratch, .id = (int32_t *)(scratch + padded)};
    float top = -INFINITY;
    for (int i = 0; i < s.chunks; i++) {
        s.maxima[i] = largest_z(row, i * CHUNK, kern_min(row->v, (i + 1) * CHUNK));
        if (s.maxima[i] > top) top = s.maxima[i];
    }
    s.c.maximum = row->maximum = top + 0.0f;
    return s;
}

/* Candidates: the kept ids with z >= lowest. */
static void gather(selection *s, const head_row *from, float lowest) {
    const head_row row = *from; /* a copy, which the stores below cannot change */
    float *z = s->c.z;
    int32_t *ids = s->c.id;
    int n = 0;
    for (int i = 0; i < s->chunks; i++) {
        if (s->maxima[i] < lowest) continue;
        for (int id = i * CHUNK; id < row.v && id < (i + 1) * CHUNK; id++) {
            z[n] = load_z(&row, id);
            ids[n] = id;
            n += (z[n] >= lowest) & is_kept(&row, id);
        }
    }
    s->c.n = n;
    s->c.e = NULL;
}

/* At least k values reach the k-th largest of the chunks' maxima, so candidates below it need not be looked at. */
static void keep_top_k(head_row *row, int k, selection *s) {
    float lowest = -INFINITY;
    if (k <= s->chunks) {
        head_row chunks = {.threshold = -INFINITY};
        for (int i = 0; i < s->chunks; i++) {
            s->c.z[i] = s->maxima[i];
            s->c.id[i] = i;
        }
        s->c.n = s->chunks;
        select_prefix(&chunks, &s->c, (uint64_t)k);
        lowest = chunks.threshold;
    }
    gather(s, row, lowest);
    select_prefix(row, &s->c, (uint64_t)k);
}

/* Gives the candidates their e; returns their weight. */
static uint64_t weigh(candidates *c, float *e) {
    uint64_t total = 0;
    c->e = e;
    for (int i = 0; i < c->n; i += VF) {
        const int n = kern_min(VF, c->n - i);
        vf_store_n(e + i, vf_exp(vf_sub(vf_load_n(c->z + i, n, 0.0f), vf_set1(c->maximum))), n);
        for (int j = i; j < i + n; j++) total += weight_of(c, j);
    }
    return total;
}

/* The weight of all kept ids. Sixteen vectors at a time, in two halves of 20 bits, whose sums are exact in a float. */
static uint64_t kept_weight(const head_row *row) {
    int64_t total = 0;
    for (int begin = 0; begin < row->v; begin += VF * VF) {
        vf high = vf_zero(), low = vf_zero();
        float parts[2][VF];
        for (int i = begin; i < row->v && i < begin + VF * VF; i += VF) {
            const vf e = vf_mul(kept_e16(row, i), vf_set1(0x1p20f)), h = vf_round(e);
            high = vf_add(high, h);
            low = vf_add(low, vf_round(vf_mul(vf_sub(e, h), vf_set1(0x1p20f))));
        }
        vf_store(parts[0], high);
        vf_store(parts[1], low);
        for (int lane = 0; lane < VF; lane++) total += (int64_t)parts[0][lane] * (1 << 20) + (int64_t)parts[1][lane];
    }
    return (uint64_t)total;
}

/* After top_k the candidates are few. Else most rows are decided by the tokens within NEAR of the maximum, and all by those
 * within FAR: below it a token weighs nothing. */
static void keep_top_p(head_row *row, float top_p, selection *s) {
    static const float NEAR = 12.0f, FAR = 29.0f;
    const bool few = row->threshold > -INFINITY;
    float *e = s->c.z + 2 * (size_t)s->chunks * CHUNK;
    gather(s, row, few ? row->threshold : row->maximum - NEAR);
    uint64_t found = weigh(&s->c, e);
    const double wanted = ceil((double)top_p * (double)(few ? found : kept_weight(row)));
    const uint64_t need = wanted < 1 ? 1 : (uint64_t)wanted;
    if (found < need) {
        gather(s, row, row->maximum - FAR);
        found = weigh(&s->c, e);
    }
    if (found >= need) select_prefix(row, &s->c, need);
}

/* temperature > 0. */
static void row_open(head_row *row, const float *logits, int v, kern_filter filter, float *scratch) {
    *row = (head_row){.logits = logits, .v = v, .inverse_t = 1.0f / filter.temperature, .threshold = -INFINITY, .threshold_id = v};
    const bool top_k = filter.top_k > 0 && filter.top_k < v, top_p = filter.top_p < 1.0f;
    if (top_k || top_p) {
        selection s = selection_in(scratch, row);
        if (top_k) keep_top_k(row, filter.top_k, &s);
        if (top_p) keep_top_p(row, filter.top_p, &s);
    }
    row_sums(row, scratch);
}

/* The lowest id of the largest logit. */
static int row_argmax(const float *logits, int v) {
    const head_row row = {.logits = logits, .v = v, .inverse_t = 1.0f};
    const float top = largest_z(&row, 0, v);
    int id = 0;
    while (id < v - 1 && logits[id] != top) id++;
    return logits[id] == top ? id : 0;
}

/* 0; but NaN where the largest logit is no number or infinite. */
static float logprob_of_most(float logit) { return logit - logit; }

/* ---- operations ------------------------------------------------------------------------------------------------------------------- */

typedef struct head_job {
    const kern_cpu_ctx *cpu;
    float *logprob, *entropy, *stats, *dlogits;
    const float *logits, *dlogprob, *dentropy;
    const int32_t *targets;
    int32_t *ids;
    kern_filter filter;
    uint64_t seed;
    const kern_sample_key *keys;
    int v;
} head_job;

static void check_job(const head_job *job) {
    assert(job->v > 0 && job->v <= MAX_VOCAB);
    assert(job->filter.temperature >= 0 && job->filter.top_p > 0 && job->filter.top_k >= 0);
    (void)job;
}

static void logprob_row(void *arg, int i, int thread) {
    const head_job *job = arg;
    const float *logits = job->logits + (size_t)i * job->v;
    const int target = job->targets[i];
    float *stats = job->stats ? job->stats + (size_t)i * KERN_HEAD_STATS : NULL;
    if (job->filter.temperature == 0.0f) {
        job->logprob[i] = target == row_argmax(logits, job->v) ? logprob_of_most(logits[target]) : -INFINITY;
        if (job->entropy) job->entropy[i] = 0.0f;
        if (stats) memset(stats, 0, KERN_HEAD_STATS * sizeof *stats);
        return;
    }
    head_row row;
    row_open(&row, logits, job->v, job->filter, kern_scratch(job->cpu, thread));
    job->logprob[i] = row_logprob(&row, target);
    if (job->entropy) job->entropy[i] = row_entropy(&row);
    if (!stats) return;
    stats[0] = row.maximum;
    stats[1] = row.log_sum;
    stats[2] = row.threshold;
    memcpy(&stats[3], &row.threshold_id, sizeof *stats);
    stats[4] = row_entropy(&row);
    stats[5] = is_kept(&row, target);
}

void KERN_OP(logprob)(kern_cpu_ctx *ctx, float *logprob, float *entropy, float *stats, const float *logits, const int32_t *targets,
                      kern_filter filter, int m, int v) {
    head_job job = {.cpu = ctx, .logprob = logprob, .entropy = entropy, .stats = stats, .logits = logits, .targets = targets,
                    .filter = filter, .v = v};
    check_job(&job);
    kern_pool_run(ctx->pool, m, logprob_row, &job);
}

/* d/dz_j of a log p(t) + b H, over kept j: a (1[j = t] - p_j) - b p_j (log p_j + H); times 1/temperature. A target outside the kept set has
 * a constant log-prob. */
static void logprob_grad_row(void *arg, int i, int thread) {
    (void)thread;
    const head_job *job = arg;
    float *dlogits = job->dlogits + (size_t)i * job->v;
    const float *stats = job->stats + (size_t)i * KERN_HEAD_STATS;
    if (job->filter.temperature == 0.0f) {
        memset(dlogits, 0, (size_t)job->v * sizeof *dlogits);
        return;
    }
    head_row row = {.logits = job->logits + (size_t)i * job->v, .v = job->v, .inverse_t = 1.0f / job->filter.temperature,
                    .maximum = stats[0], .log_sum = stats[1], .threshold = stats[2]};
    memcpy(&row.threshold_id, &stats[3], sizeof row.threshold_id);
    const int target = job->targets[i];
    const float a = stats[5] > 0.0f ? job->dlogprob[i] : 0.0f, b = job->dentropy ? job->dentropy[i] : 0.0f;
    const vf va = vf_set1(a), vb = vf_set1(b), centre = vf_set1(stats[4] - row.log_sum), scale = vf_set1(-row.inverse_t);
    for (int j = 0; j < job->v; j += VF) {
        const vf z = load_z16(&row, j), shift = vf_max(vf_sub(z, vf_set1(row.maximum)), vf_set1(KERN_HEAD_LEAST));
        vf p = keep16(&row, z, j, vf_exp(vf_sub(shift, vf_set1(row.log_sum))));
        vf d = vf_mul(vf_mul(p, vf_fma(vb, vf_add(shift, centre), va)), scale);
        if (job->v - j >= VF)
            vf_store(dlogits + j, d);
        else
            vf_store_n(dlogits + j, d, job->v - j);
    }
    dlogits[target] += a * row.inverse_t;
}

void KERN_OP(logprob_grad)(kern_cpu_ctx *ctx, void *dlogits, kern_dtype dtype, const float *logits, const float *stats,
                           const int32_t *targets, const float *dlogprob, const float *dentropy, kern_filter filter, int m, int v) {
    (void)dtype;
    head_job job = {.cpu = ctx, .dlogits = dlogits, .logits = logits, .stats = (float *)stats, .targets = targets, .dlogprob = dlogprob,
                    .dentropy = dentropy, .filter = filter, .v = v};
    check_job(&job);
    kern_pool_run(ctx->pool, m, logprob_grad_row, &job);
}

/* The first of n masses at which their running sum passes *point; rounding may leave none: then the last that is positive, or 0. Takes
 * what comes before it off *point. */
static int pick(const float *mass, int n, float *point) {
    float run = 0.0f, before = 0.0f;
    int chosen = 0;
    for (int i = 0; i < n && !(run > *point); i++) {
        if (mass[i] > 0.0f) {
            chosen = i;
            before = run;
        }
        run += mass[i];
    }
    *point -= before;
    return chosen;
}

/* Inverse distribution over kept ids ascending. */
static int draw(const head_row *row, float u) {
    float point = u * row->sum, groups[KERN_HEAD_PART / VF], e[VF];
    const int part = pick(row->mass, parts_of(row), &point), begin = part * KERN_HEAD_PART;
    int n = 0;
    for (int i = begin; i < end_of_part(row, part); i += VF) groups[n++] = vf_sum(kept_e16(row, i));
    const int first = begin + pick(groups, n, &point) * VF;
    vf_store(e, kept_e16(row, first));
    return first + pick(e, kern_min(VF, row->v - first), &point);
}

static void sample_row(void *arg, int i, int thread) {
    const head_job *job = arg;
    const float *logits = job->logits + (size_t)i * job->v;
    const kern_sample_key key = job->keys[i];
    if (job->filter.temperature == 0.0f) {
        job->ids[i] = row_argmax(logits, job->v);
        job->logprob[i] = logprob_of_most(logits[job->ids[i]]);
        return;
    }
    head_row row;
    row_open(&row, logits, job->v, job->filter, kern_scratch(job->cpu, thread));
    job->ids[i] = draw(&row, rlf_rng_uniform(job->seed, RLF_RNG_SAMPLE, key.uid, key.sample, key.position));
    job->logprob[i] = row_logprob(&row, job->ids[i]);
}

void KERN_OP(sample)(kern_cpu_ctx *ctx, int32_t *ids, float *logprob, const float *logits, kern_filter filter, uint64_t seed,
                     const kern_sample_key *keys, int m, int v) {
    head_job job = {.cpu = ctx, .ids = ids, .logprob = logprob, .logits = logits, .filter = filter, .seed = seed, .keys = keys, .v = v};
    check_job(&job);
    kern_pool_run(ctx->pool, m, sample_row, &job);
}
