/* The head: log-prob, entropy and their gradient, and sampling, under temperature, top-k and top-p, with the bits of the CPU.
 *
 * A block of threads is one row of logits, described once (row_open) for all three, which is why a sampled token's log-prob has the bits of
 * kern_logprob:
 *
 *   z = logits * (1/temperature); maximum over all z; e[j] = exp(z[j] - maximum)
 *   kept: z[j] > threshold, or z[j] == threshold and j <= threshold_id
 *   sum of kept e, and of kept e*(z - maximum), in 16 lanes by j mod 16, then the tree
 *   log p(j) = (z[j] - maximum) - log(sum)
 *
 * The kept set is a prefix of the tokens ordered by (z descending, id ascending): top_k of them, then the shortest prefix whose share of
 * the mass that is left reaches top_p. Shares are weighed in integers, e * 2^40 rounded, so the prefix does not depend on the order of
 * addition: a radix selection over the bits of z finds it in four passes, and a fifth finds the id among equals.
 *
 * Passes over a row: 1 for the maximum, 5 for top_k, 6 for top_p, 1 for the sums, whose 16 chains take turns with all threads computing e;
 * 1 more for a draw. 4 bytes an element each, from the cache where the row fits. */
#include "kernels/cuda/dialect.h"

#include <assert.h>

#include "common/base/rng.h"

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    TEAMS = THREADS / KERN_LANES,
    CHUNK = 2048,        /* ids whose e are in shared memory at a time */
    SAMPLE_BLOCK = 256,  /* ids in one partial sum of the sampler */
    MAX_VOCAB = 1 << 19,
    DIGITS = 256
};

typedef struct head_args {
    float *logprob, *entropy, *stats, *dlogits; /* entropy, stats: NULL where not wanted */
    const float *logits, *dlogprob, *dentropy, *uniforms;
    const int32_t *targets;
    int32_t *ids;
    kern_filter filter;
    int v;
} head_args;
typedef head_args logprob_args, logprob_grad_args, sample_args;

typedef struct head_row {
    const float *logits;
    int v, threshold_id;
    float inverse_t, maximum, threshold;
    float sum, weighted; /* of kept e and e*(z - maximum) */
    float log_sum;
} head_row;

/* Parts are used one after the other, each between barriers. */
typedef struct head_memory {
    float e[CHUNK], shift[CHUNK];
    float block_sums[MAX_VOCAB / SAMPLE_BLOCK];
    uint64_t weight[DIGITS], total, need;
    float tops[WARPS], sum, weighted, threshold, before;
    int digit, counts[THREADS], threshold_id, chosen, lowest[THREADS];
} head_memory;

KERN_DEVICE float load_z(const head_row *row, int id) { return row->logits[id] * row->inverse_t; }

KERN_DEVICE bool is_kept(const head_row *row, float z, int id) {
    return z > row->threshold || (z == row->threshold && id <= row->threshold_id);
}

/* 0 where not kept. */
KERN_DEVICE float kept_e(const head_row *row, int id) {
    const float z = load_z(row, id);
    return is_kept(row, z, id) ? kern_exp1(z - row->maximum) : 0.0f;
}

/* z - maximum, bounded below where e is 0 anyway, so that e times it is never 0 times infinity. */
KERN_DEVICE float bounded_shift(const head_row *row, float z) { return kern_larger(z - row->maximum, -1000.0f); }

/* Every thread of the block gets the result, and shared memory is free again. */
KERN_DEVICE float row_maximum(const head_row *row, head_memory *memory) {
    float top = -INFINITY;
    for (int i = kern_thread(); i < row->v; i += THREADS) top = kern_larger(load_z(row, i), top);
    top = kern_max32(top);
    if (kern_thread() % 32 == 0) memory->tops[kern_thread() / 32] = top;
    kern_barrier();
    top = memory->tops[0];
    for (int w = 1; w < WARPS; w++) top = kern_larger(memory->tops[w], top);
    kern_barrier();
    return top;
}

KERN_DEVICE void row_sums(head_row *row, head_memory *memory) {
    float sum = 0, weighted = 0;
    for (int begin = 0; begin < row->v; begin += CHUNK) {
        const int n = row->v - begin < CHUNK ? row->v - begin : CHUNK;
        for (int i = kern_thread(); i < n; i += THREADS) {
            memory->e[i] = kept_e(row, begin + i);
            memory->shift[i] = bounded_shift(row, load_z(row, begin + i));
        }
        kern_barrier();
        for (int i = kern_lane(); i < n && kern_thread() < 32; i += KERN_LANES) {
            sum += memory->e[i];
            weighted = fmaf(memory->e[i], memory->shift[i], weighted);
        }
        kern_barrier();
    }
    sum = kern_sum16(sum);
    weighted = kern_sum16(weighted);
    if (kern_thread() == 0) {
        memory->sum = sum;
        memory->weighted = weighted;
    }
    kern_barrier();
    row->sum = memory->sum;
    row->weighted = memory->weighted;
    row->log_sum = vf_log1(row->sum);
    kern_barrier();
}

KERN_DEVICE float row_entropy(const head_row *row) { return row->log_sum - row->weighted / row->sum; }

KERN_DEVICE float row_logprob(const head_row *row, int id) {
    const float z = load_z(row, id);
    return is_kept(row, z, id) ? (z - row->maximum) - row->log_sum : -INFINITY;
}

/* ---- selection of the kept set ---------------------------------------------------------------------------------------------------- */

/* Bits that sort as z does, -0 like 0. */
KERN_DEVICE uint32_t sortable(float z) {
    uint32_t bits;
    z = z + 0.0f;
    memcpy(&bits, &z, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* What a kept id weighs: 1 for top_k, e * 2^40 rounded for top_p. */
KERN_DEVICE uint64_t weight_of(const head_row *row, float z, bool by_mass) {
    return by_mass ? (uint64_t)rintf(kern_exp1(z - row->maximum) * 0x1p40f) : 1;
}

KERN_DEVICE uint64_t total_weight(const head_row *row, head_memory *memory) {
    uint64_t sum = 0;
    if (kern_thread() == 0) memory->total = 0;
    kern_barrier();
    for (int i = kern_thread(); i < row->v; i += THREADS) {
        const float z = load_z(row, i);
        if (is_kept(row, z, i)) sum += weight_of(row, z, true);
    }
    kern_add_u64(&memory->total, sum);
    kern_barrier();
    sum = memory->total;
    kern_barrier();
    return sum;
}

/* The digit, from the largest down, in which the running weight of the kept ids whose upper bits are `prefix` reaches memory->need; takes
 * what lies above off it. */
KERN_DEVICE uint32_t select_digit(const head_row *row, head_memory *memory, uint32_t prefix, int level, bool by_mass) {
    const int shift = 24 - 8 * level;
    for (int i = kern_thread(); i < DIGITS; i += THREADS) memory->weight[i] = 0;
    kern_barrier();
    for (int i = kern_thread(); i < row->v; i += THREADS) {
        const float z = load_z(row, i);
        const uint32_t key = sortable(z);
        if (!is_kept(row, z, i) || (level > 0 && key >> (shift + 8) != prefix)) continue;
        kern_add_u64(&memory->weight[key >> shift & 255u], weight_of(row, z, by_mass));
    }
    kern_barrier();
    if (kern_thread() == 0) {
        int digit = DIGITS - 1;
        while (digit > 0 && memory->weight[digit] < memory->need) memory->need -= memory->weight[digit--];
        memory->digit = digit;
    }
    kern_barrier();
    return prefix << 8 | (uint32_t)memory->digit;
}

/* Ids of the kept tokens with this key, in stretches of the vocabulary, a thread each. */
KERN_DEVICE int stretch(const head_row *row) { return (row->v + THREADS - 1) / THREADS; }

KERN_DEVICE int count_equals(const head_row *row, uint32_t key) {
    int n = 0;
    for (int i = kern_thread() * stretch(row); i < (kern_thread() + 1) * stretch(row) && i < row->v; i++)
        n += sortable(load_z(row, i)) == key && is_kept(row, load_z(row, i), i);
    return n;
}

/* Of the equals, the one whose weight reaches what is still needed, or the last. The thread in whose stretch it lies says so. */
KERN_DEVICE void choose_equal(const head_row *row, head_memory *memory, uint32_t key, bool by_mass) {
    memory->counts[kern_thread()] = count_equals(row, key);
    kern_barrier();
    int before = 0, all = 0;
    for (int t = 0; t < THREADS; t++) {
        if (t < kern_thread()) before += memory->counts[t];
        all += memory->counts[t];
    }
    for (int i = kern_thread() * stretch(row); i < (kern_thread() + 1) * stretch(row) && i < row->v; i++) {
        const float z = load_z(row, i);
        if (sortable(z) != key || !is_kept(row, z, i)) continue;
        const uint64_t each = weight_of(row, z, by_mass), place = each ? (memory->need - 1) / each : (uint64_t)all;
        const int wanted = place < (uint64_t)(all - 1) ? (int)place : all - 1;
        if (before++ != wanted) continue;
        memory->threshold = z;
        memory->threshold_id = i;
    }
}

/* Sets the row's threshold to the last token of the shortest prefix whose weight reaches `need`, at least 1 and at most the total. */
KERN_DEVICE void select_prefix(head_row *row, head_memory *memory, uint64_t need, bool by_mass) {
    uint32_t key = 0;
    if (kern_thread() == 0) {
        memory->need = need;
        memory->threshold = row->threshold; /* stays where logits are not numbers */
        memory->threshold_id = row->threshold_id;
    }
    kern_barrier();
    for (int level = 0; level < 4; level++) key = select_digit(row, memory, key, level, by_mass);
    choose_equal(row, memory, key, by_mass);
    kern_barrier();
    row->threshold = memory->threshold;
    row->threshold_id = memory->threshold_id;
    kern_barrier();
}

/* temperature > 0. */
KERN_DEVICE void row_open(head_row *row, const head_args *a, head_memory *memory) {
    row->logits = a->logits + (size_t)kern_block() * a->v;
    row->v = a->v;
    row->inverse_t = 1.0f / a->filter.temperature;
    row->threshold = -INFINITY;
    row->threshold_id = a->v;
    row->maximum = row_maximum(row, memory);
    if (a->filter.top_k > 0 && a->filter.top_k < a->v) select_prefix(row, memory, (uint64_t)a->filter.top_k, false);
    if (a->filter.top_p < 1.0f) {
        const uint64_t total = total_weight(row, memory);
        const double wanted = ceil((double)a->filter.top_p * (double)total);
        const uint64_t need = wanted < 1 ? 1 : (uint64_t)wanted;
        if (total >= need) select_prefix(row, memory, need, true);
    }
    row_sums(row, memory);
}

/* The lowest id of the largest logit. */
KERN_DEVICE int row_argmax(const float *logits, int v, head_memory *memory) {
    head_row row;
    row.logits = logits;
    row.v = v;
    row.inverse_t = 1.0f;
    const float top = row_maximum(&row, memory);
    int id = v;
    for (int i = kern_thread(); i < v && id == v; i += THREADS)
        if (logits[i] == top) id = i;
    memory->lowest[kern_thread()] = id;
    kern_barrier();
    for (int t = 0; t < THREADS; t++) id = memory->lowest[t] < id ? memory->lowest[t] : id;
    return id < v ? id : 0;
}

/* ---- kernels ---------------------------------------------------------------------------------------------------------------------- */

KERN_DEVICE void logprob_greedy(const head_args *a, head_memory *memory) {
    const int i = kern_block(), best = row_argmax(a->logits + (size_t)i * a->v, a->v, memory);
    if (kern_thread()) return;
    a->logprob[i] = a->targets[i] == best ? 0.0f : -INFINITY;
    if (a->entropy) a->entropy[i] = 0.0f;
    for (int s = 0; s < KERN_HEAD_STATS && a->stats; s++) a->stats[i * KERN_HEAD_STATS + s] = 0.0f;
}

KERN_KERNEL(logprob) {
    KERN_SHARED(head_memory, memory);
    const int i = kern_block();
    if (a.filter.temperature == 0.0f) {
        logprob_greedy(&a, memory);
        return;
    }
    head_row row;
    row_open(&row, &a, memory);
    if (kern_thread()) return;
    a.logprob[i] = row_logprob(&row, a.targets[i]);
    if (a.entropy) a.entropy[i] = row_entropy(&row);
    if (!a.stats) return;
    float *stats = a.stats + (size_t)i * KERN_HEAD_STATS;
    stats[0] = row.maximum;
    stats[1] = row.log_sum;
    stats[2] = row.threshold;
    memcpy(&stats[3], &row.threshold_id, sizeof *stats);
}

/* d/dz_j of a log p(t) + b H, over kept j: a (1[j = t] - p_j) - b p_j (log p_j + H); times 1/temperature. A target outside the kept set has
 * a constant log-prob. */
KERN_KERNEL(logprob_grad) {
    KERN_SHARED(head_memory, memory);
    const int i = kern_block(), target = a.targets[i];
    float *dlogits = a.dlogits + (size_t)i * a.v;
    if (a.filter.temperature == 0.0f) {
        for (int j = kern_thread(); j < a.v; j += THREADS) dlogits[j] = 0.0f;
        return;
    }
    const float *stats = a.stats + (size_t)i * KERN_HEAD_STATS;
    head_row row;
    row.logits = dlogits;
    row.v = a.v;
    row.inverse_t = 1.0f / a.filter.temperature;
    row.maximum = stats[0];
    row.log_sum = stats[1];
    row.threshold = stats[2];
    memcpy(&row.threshold_id, &stats[3], sizeof row.threshold_id);
    const float by_logprob = is_kept(&row, load_z(&row, target), target) ? a.dlogprob[i] : 0.0f;
    const float by_entropy = a.dentropy ? a.dentropy[i] : 0.0f;
    float entropy = 0.0f;
    kern_barrier(); /* the target's logit has been read before it is overwritten */
    if (by_entropy != 0.0f) {
        row_sums(&row, memory);
        entropy = row_entropy(&row);
    }
    const float centre = entropy - row.log_sum, scale = -row.inverse_t;
    for (int j = kern_thread(); j < a.v; j += THREADS) {
        const float z = load_z(&row, j), shift = bounded_shift(&row, z);
        const float p = is_kept(&row, z, j) ? kern_exp1(shift - row.log_sum) : 0.0f;
        const float d = p * fmaf(by_entropy, shift + centre, by_logprob) * scale;
        dlogits[j] = j == target ? d + by_logprob * row.inverse_t : d;
    }
}

/* Half a warp a block of ids, in 16 lanes; half warps beyond the last do its work again. */
KERN_DEVICE void sum_blocks(const head_row *row, head_memory *memory, int blocks) {
    for (int first = 0; first < blocks; first += TEAMS) {
        const int b = first + kern_team() < blocks ? first + kern_team() : blocks - 1;
        float sum = 0;
        for (int i = b * SAMPLE_BLOCK + kern_lane(); i < row->v && i < (b + 1) * SAMPLE_BLOCK; i += KERN_LANES) sum += kept_e(row, i);
        sum = kern_sum16(sum);
        if (first + kern_team() < blocks && kern_lane() == 0) memory->block_sums[b] = sum;
    }
    kern_barrier();
}

/* The block in which the running sum passes u * total, and what comes before it: one thread. */
KERN_DEVICE void choose_block(head_memory *memory, int blocks, float u) {
    float total = 0.0f, before = 0.0f;
    for (int b = 0; b < blocks; b++) total += memory->block_sums[b];
    const float point = u * total;
    memory->chosen = 0;
    memory->before = point;
    for (int b = 0; b < blocks; b++) {
        if (memory->block_sums[b] > 0.0f) {
            memory->chosen = b;
            memory->before = point - before;
        }
        before += memory->block_sums[b];
        if (before > point) break;
    }
}

/* The first id of the block whose running e passes `rest`; rounding may leave none: then the last one with any probability. One thread. */
KERN_DEVICE int draw_in_block(const float *e, int begin, int n, float rest) {
    float run = 0.0f;
    int last = 0;
    for (int i = 0; i < n; i++) {
        if (!(e[i] > 0.0f)) continue;
        last = begin + i;
        run += e[i];
        if (run > rest) return last;
    }
    return last;
}

KERN_KERNEL(sample) {
    KERN_SHARED(head_memory, memory);
    const int i = kern_block();
    if (a.filter.temperature == 0.0f) {
        const int best = row_argmax(a.logits + (size_t)i * a.v, a.v, memory);
        if (kern_thread()) return;
        a.ids[i] = best;
        a.logprob[i] = 0.0f;
        return;
    }
    head_row row;
    row_open(&row, &a, memory);
    const int blocks = (a.v + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK;
    sum_blocks(&row, memory, blocks);
    if (kern_thread() == 0) choose_block(memory, blocks, a.uniforms[i]);
    kern_barrier();
    const int begin = memory->chosen * SAMPLE_BLOCK, n = a.v - begin < SAMPLE_BLOCK ? a.v - begin : SAMPLE_BLOCK;
    for (int j = kern_thread(); j < n; j += THREADS) memory->e[j] = kept_e(&row, begin + j);
    kern_barrier();
    if (kern_thread()) return;
    const int id = draw_in_block(memory->e, begin, n, memory->before);
    a.ids[i] = id;
    a.logprob[i] = row_logprob(&row, id);
}

/* ---- operations ------------------------------------------------------------------------------------------------------------------- */

static head_args args_for(kern_filter filter, int v) {
    head_args args;
    assert(v > 0 && v <= MAX_VOCAB);
    assert(filter.temperature >= 0 && filter.top_p > 0 && filter.top_k >= 0);
    memset(&args, 0, sizeof args);
    args.filter = filter;
    args.v = v;
    return args;
}

void kern_cuda_logprob(kern_ctx *ctx, float *logprob_out, float *entropy, float *stats, const float *logits, const int32_t *targets,
                       kern_filter filter, int m, int v) {
    head_args args = args_for(filter, v);
    args.logprob = logprob_out;
    args.entropy = entropy;
    args.stats = stats;
    args.logits = logits;
    args.targets = targets;
    KERN_LAUNCH(ctx, logprob, m, THREADS, args);
}

void kern_cuda_logprob_grad(kern_ctx *ctx, float *logits, const float *stats, const int32_t *targets, const float *dlogprob,
                            const float *dentropy, kern_filter filter, int m, int v) {
    head_args args = args_for(filter, v);
    args.dlogits = logits;
    args.stats = (float *)stats;
    args.targets = targets;
    args.dlogprob = dlogprob;
    args.dentropy = dentropy;
    KERN_LAUNCH(ctx, logprob_grad, m, THREADS, args);
}

/* The uniforms are drawn on the host, from the one generator there is, as many at a time as there is room for. */
void kern_cuda_sample(kern_ctx *ctx, int32_t *ids, float *logprob_out, const float *logits, kern_filter filter, uint64_t seed,
                      const kern_sample_key *keys, int m, int v) {
    head_args args = args_for(filter, v);
    float *uniforms = (float *)ctx->parts;
    for (int begin = 0; begin < m; begin += KERN_CUDA_PARTS) {
        const int n = m - begin < KERN_CUDA_PARTS ? m - begin : KERN_CUDA_PARTS;
        for (int i = 0; i < n; i++) {
            const kern_sample_key key = keys[begin + i];
            uniforms[i] = rlf_rng_uniform(seed, RLF_RNG_SAMPLE, key.uid, key.sample, key.position);
        }
        args.uniforms = (const float *)kern_cuda_stage(ctx, uniforms, (size_t)n * sizeof *uniforms);
        args.ids = ids + begin;
        args.logprob = logprob_out + begin;
        args.logits = logits + (size_t)begin * v;
        KERN_LAUNCH(ctx, sample, n, THREADS, args);
    }
}
