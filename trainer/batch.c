/* Scoring, sharing and packing (batch.h). */
#include "trainer/batch.h"

#include <stdlib.h>
#include <string.h>

#include "trainer/algorithm.h"

int64_t trainer_model_tokens(const rlf_span *spans, size_t n) {
    int64_t tokens = 0;
    for (size_t i = 0; i < n; i++)
        if (spans[i].kind == RLF_SPAN_MODEL) tokens += spans[i].end - spans[i].begin;
    return tokens;
}

static bool cut_by_limit(const rlf_trajectory *t) { return t->finish == RLF_FINISH_LENGTH_LIMIT || t->finish == RLF_FINISH_TURN_LIMIT; }

static void score_group(const rlf_config *config, const rlf_trajectory *t, size_t samples, rlf_arena *arena, double *advantage,
                        bool *in_loss, trainer_scores *out) {
    double *reward = rlf_arena_alloc(arena, samples, sizeof *reward);
    bool *valid = rlf_arena_alloc(arena, samples, sizeof *valid);
    for (size_t i = 0; i < samples; i++) {
        valid[i] = t[i].finish != RLF_FINISH_INFRA;
        reward[i] = valid[i] ? t[i].reward : 0;
        out->valid += valid[i];
    }
    bool differ = trainer_group_advantages(reward, valid, samples, config->algorithm.normalize_std, advantage);
    out->flat_groups += !differ;
    for (size_t i = 0; i < samples; i++) {
        bool left_out = (config->algorithm.mask_truncated && cut_by_limit(&t[i])) || (config->algorithm.drop_zero_variance && !differ);
        in_loss[i] = valid[i] && !left_out && trainer_model_tokens(t[i].spans.v, t[i].spans.n) > 0;
        out->left_out += valid[i] && !in_loss[i];
    }
}

void trainer_score(const rlf_config *config, const rlf_trajectory *trajectories, size_t groups, size_t samples, rlf_arena *arena,
                   trainer_scores *out) {
    memset(out, 0, sizeof *out);
    out->advantage = rlf_arena_alloc(arena, groups * samples, sizeof *out->advantage);
    out->in_loss = rlf_arena_alloc(arena, groups * samples, sizeof *out->in_loss);
    for (size_t g = 0; g < groups; g++)
        score_group(config, trajectories + g * samples, samples, arena, out->advantage + g * samples, out->in_loss + g * samples, out);
}

rlf_sequence *trainer_sequences(const rlf_trajectory *trajectories, const trainer_scores *scores, size_t begin, size_t end,
                                rlf_arena *arena, size_t *n) {
    rlf_sequence *sequences = rlf_arena_alloc(arena, end - begin, sizeof *sequences);
    *n = 0;
    for (size_t i = begin; i < end; i++) {
        const rlf_trajectory *t = &trajectories[i];
        if (!scores->in_loss[i]) continue;
        rlf_sequence *s = &sequences[(*n)++];
        *s = (rlf_sequence){.uid = t->uid, .sample = t->sample, .tokens = t->tokens, .logprobs = t->logprobs,
                            .advantage = scores->advantage[i], .weight = 1};
        s->spans.v = t->spans.v;
        s->spans.n = t->spans.n;
    }
    return sequences;
}

/* ---- sharing and packing ----------------------------------------------------------------------------------------------------------- */

typedef struct item {
    size_t index; /* in (uid, sample) order */
    int64_t tokens;
    int learner;
    int64_t micro;
} item;

static int longest_first(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->tokens != y->tokens) return x->tokens > y->tokens ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int by_place(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->learner != y->learner) return x->learner < y->learner ? -1 : 1;
    if (x->micro != y->micro) return x->micro < y->micro ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static void share_out(item *items, size_t n, int learners, rlf_arena *arena) {
    int64_t *load = rlf_arena_alloc(arena, (size_t)learners, sizeof *load);
    for (size_t i = 0; i < n; i++) {
        int least = 0;
        for (int l = 1; l < learners; l++)
            if (load[l] < load[least]) least = l;
        items[i].learner = least;
        load[least] += items[i].tokens;
    }
}

/* First fit over the items of one learner, in the order given. Returns the number of micro-batches. */
static int64_t pack(item *items, size_t n, int learner, int64_t micro_tokens, int64_t *filled) {
    int64_t micros = 0;
    for (size_t i = 0; i < n; i++) {
        if (items[i].learner != learner) continue;
        int64_t m = 0;
        while (m < micros && filled[m] + items[i].tokens > micro_tokens) m++;
        if (m == micros) filled[micros++] = 0;
        filled[m] += items[i].tokens;
        items[i].micro = m;
    }
    return micros;
}

static void fill_share(rlf_batch *batch, const item *items, size_t n, const rlf_sequence *sequences, rlf_arena *arena) {
    batch->sequences.v = rlf_arena_alloc(arena, n, sizeof *batch->sequences.v);
    batch->sequences.n = n;
    for (size_t i = 0; i < n; i++) {
        batch->sequences.v[i] = sequences[items[i].index];
        batch->sequences.v[i].micro = items[i].micro;
    }
}

rlf_status trainer_plan_init(trainer_plan *plan, const rlf_sequence *sequences, size_t n, int learners, int64_t micro_tokens,
                             rlf_arena *arena) {
    *plan = (trainer_plan){.share = rlf_arena_alloc(arena, (size_t)learners, sizeof *plan->share)};
    item *items = rlf_arena_alloc(arena, n, sizeof *items);
    int64_t *filled = rlf_arena_alloc(arena, n, sizeof *filled);
    for (size_t i = 0; i < n; i++) {
        items[i] = (item){.index = i, .tokens = (int64_t)sequences[i].tokens.n};
        plan->tokens += items[i].tokens;
        plan->model_tokens += trainer_model_tokens(sequences[i].spans.v, sequences[i].spans.n);
        if (items[i].tokens > micro_tokens)
            return RLF_RAISE(LIMIT, "a sequence of %lld tokens (uid %lld) does not fit a micro-batch: raise train.micro_tokens "
                                    "(%lld) or lower episode.max_tokens",
                             (long long)items[i].tokens, (long long)sequences[i].uid, (long long)micro_tokens);
    }
    qsort(items, n, sizeof *items, longest_first);
    share_out(items, n, learners, arena);
    for (int l = 0; l < learners; l++) {
        plan->share[l].total_tokens = (double)plan->model_tokens;
        plan->share[l].total_sequences = (double)n;
        plan->share[l].micros = pack(items, n, l, micro_tokens, filled);
    }
    qsort(items, n, sizeof *items, by_place);
    for (size_t begin = 0, l = 0; l < (size_t)learners; l++) {
        size_t end = begin;
        while (end < n && items[end].learner == (int)l) end++;
        fill_share(&plan->share[l], items + begin, end - begin, sequences, arena);
        begin = end;
    }
    return RLF_OK;
}
