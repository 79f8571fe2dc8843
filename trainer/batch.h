/* From trajectories to what each learner computes: advantages, who is in the loss, mini-batches by whole groups, micro-batches under a
 * token budget, and an even share for every learner. Pure functions: the same input gives the same plan, and the input is ordered by
 * (uid, sample). Private to trainer/. */
#ifndef RLF_TRAINER_BATCH_H
#define RLF_TRAINER_BATCH_H

#include "common/config/config.h"
#include "common/msg/messages.h"

typedef struct trainer_scores {
    double *advantage;      /* (groups * samples), in the arena; 0 for episodes lost to infrastructure */
    bool *in_loss;          /* (groups * samples) */
    int64_t valid;          /* episodes not lost */
    int64_t flat_groups;    /* groups whose rewards are all equal */
    int64_t left_out;       /* valid episodes that options took out of the loss */
} trainer_scores;

/* Group-relative advantages of trajectories (groups, samples). Out of the loss: episodes lost to infrastructure; with
 * algorithm.mask_truncated those that a limit ended (they still count in the baseline); with algorithm.drop_zero_variance groups with
 * one reward; episodes in which the model chose nothing. */
void trainer_score(const rlf_config *config, const rlf_trajectory *trajectories, size_t groups, size_t samples, rlf_arena *arena,
                   trainer_scores *out);

/* The sequences of episodes [begin, end) that are in the loss, in order. Token arrays and spans are shared with the trajectories. */
rlf_sequence *trainer_sequences(const rlf_trajectory *trajectories, const trainer_scores *scores, size_t begin, size_t end,
                                rlf_arena *arena, size_t *n);

/* Tokens of the model in these spans: those the loss sees. */
int64_t trainer_model_tokens(const rlf_span *spans, size_t n);

typedef struct trainer_plan {
    /* (learners), in the arena: micros, total_tokens, total_sequences, sequences set; step, update, updates, lr left to the caller */
    rlf_batch *share;
    int64_t tokens;          /* all tokens, of all learners */
    int64_t model_tokens;    /* the denominator */
} trainer_plan;

/* Shares sequences[n] among learners, longest first to the one with the fewest tokens so far (Graham's LPT rule: at most 4/3 of the best
 * makespan), then packs each share into micro-batches of at most micro_tokens tokens, first fit, longest first. Within a micro-batch
 * sequences stand in (uid, sample) order. A learner may get none. Refuses a sequence longer than micro_tokens. */
rlf_status trainer_plan_init(trainer_plan *plan, const rlf_sequence *sequences, size_t n, int learners, int64_t micro_tokens,
                             rlf_arena *arena) RLF_MUST_USE;

#endif
