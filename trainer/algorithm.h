/* Algorithms: from rewards to advantages, and from log-probs to a loss and its derivative. Pure functions, no messages, no ranks.
 *
 * The coordinator computes one advantage per episode (never per row); the learner evaluates the token loss. All denominators are
 * over the global batch. */
#ifndef RLF_TRAINER_ALGORITHM_H
#define RLF_TRAINER_ALGORITHM_H

#include <stdbool.h>
#include <stddef.h>

#include "common/config/config.h"

/* Group-relative advantages (GRPO, Shao et al. 2024, arXiv 2402.03300): a_i = (r_i - mean) / (std + 1e-6), std unbiased over the valid
 * members; without normalize_std the division is left out. A group of one valid member: mean 0, std 1. Invalid members (infrastructure
 * failures) take no part and get 0. All equal: all 0. Returns true if the valid rewards differ. */
bool trainer_group_advantages(const double *reward, const bool *valid, size_t n, bool normalize_std, double *advantage);

/* Weighting of a token: weight / denominator, fixed by the coordinator. */
typedef struct trainer_token {
    float logprob;     /* new policy */
    float old_logprob; /* at rollout */
    float ref_logprob; /* reference policy; unused if kl is 0 */
    float entropy;
    float advantage;
    float scale;       /* this token's share of the global batch: weight / total_tokens (token mean), or
                          weight / (tokens of its sequence * total_sequences) (sequence mean) */
} trainer_token;

typedef struct trainer_token_loss {
    float loss;      /* scale included */
    float dlogprob, dentropy;
    float kl;        /* estimate against the reference, unscaled */
    bool clipped;    /* the clip, or the dual clip, decided */
} trainer_token_loss;

typedef trainer_token_loss trainer_loss_fn(const rlf_config *config, const trainer_token *token);

/* PPO-clip surrogate per token (Schulman et al. 2017, eq. 7) with ratio exp(logprob - old), bounds clip_low/high, dual clip (Ye
 * et al. 2020), minus entropy bonus, plus kl * estimator(logprob, ref): with d = ref - logprob,  k1 = -d,  k2 = d²/2,  k3 =
 * exp(d) - d - 1 (Schulman, "Approximating KL divergence").
 * k1's gradient as a loss is that of logprob itself (zero in expectation); offered for completeness, documented as such. */
trainer_loss_fn trainer_loss_grpo;
/* -logprob: supervised. */
trainer_loss_fn trainer_loss_supervised;

/* Learning rate of update `step` (0-based) of `total`: linear warm-up, then constant or cosine, which is lr * min_lr_ratio at `total`. */
double trainer_learning_rate(const rlf_config *config, long step, long total);

#endif
