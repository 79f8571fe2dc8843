/* Advantages, token losses and the learning-rate schedule behind algorithm.h. */
#include "trainer/algorithm.h"

#include <math.h>
#include <string.h>

bool trainer_group_advantages(const double *reward, const bool *valid, size_t n, bool normalize_std, double *advantage) {
    double sum = 0, square = 0, low = INFINITY, high = -INFINITY;
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (!valid[i]) continue;
        count++;
        sum += reward[i];
        low = fmin(low, reward[i]);
        high = fmax(high, reward[i]);
    }
    bool differ = count > 1 && high > low;
    double mean = count > 1 ? sum / (double)count : 0, std = 1;
    if (count > 1) {
        for (size_t i = 0; i < n; i++)
            if (valid[i]) square += (reward[i] - mean) * (reward[i] - mean);
        std = sqrt(square / (double)(count - 1));
    }
    for (size_t i = 0; i < n; i++) {
        advantage[i] = 0;
        if (valid[i] && (differ || count == 1)) advantage[i] = normalize_std ? (reward[i] - mean) / (std + 1e-6) : reward[i] - mean;
    }
    return differ;
}

/* The clipped surrogate of one token, unscaled: value to minimise, and its derivative by logprob. */
static double surrogate(const rlf_config *config, const trainer_token *t, double *derivative, bool *clipped) {
    double a = t->advantage;
    double ratio = exp((double)t->logprob - (double)t->old_logprob);
    double bounded = fmin(fmax(ratio, 1.0 - config->algorithm.clip_low), 1.0 + config->algorithm.clip_high);
    double value = -ratio * a, limit = -bounded * a;
    *derivative = value;
    *clipped = false;
    if (limit > value) {
        *clipped = true;
        *derivative = 0;
        value = limit;
    }
    double floor = config->algorithm.dual_clip > 0 && a < 0 ? -config->algorithm.dual_clip * a : INFINITY;
    if (value > floor) {
        *clipped = true;
        *derivative = 0;
        value = floor;
    }
    return value;
}

/* An estimate of KL(policy || reference) at one token, and its derivative by logprob. */
static double kl_estimate(const char *estimator, double logprob, double ref, double *derivative) {
    double d = ref - logprob;
    *derivative = 0;
    if (!isfinite(d)) return 0; /* outside the kept set of one of the two */
    if (strcmp(estimator, "k1") == 0) return *derivative = 1, -d;
    if (strcmp(estimator, "k2") == 0) return *derivative = -d, 0.5 * d * d;
    return *derivative = 1 - exp(d), exp(d) - d - 1; /* k3 */
}

trainer_token_loss trainer_loss_grpo(const rlf_config *config, const trainer_token *t) {
    trainer_token_loss out = {0};
    double dlogprob, dkl = 0, kl = 0;
    double loss = surrogate(config, t, &dlogprob, &out.clipped);
    if (config->algorithm.kl > 0) kl = kl_estimate(config->algorithm.kl_estimator, t->logprob, t->ref_logprob, &dkl);
    loss += config->algorithm.kl * kl - config->algorithm.entropy * t->entropy;
    out.loss = (float)(t->scale * loss);
    out.dlogprob = (float)(t->scale * (dlogprob + config->algorithm.kl * dkl));
    out.dentropy = (float)(t->scale * -config->algorithm.entropy);
    out.kl = (float)kl;
    return out;
}

trainer_token_loss trainer_loss_supervised(const rlf_config *config, const trainer_token *t) {
    (void)config;
    return (trainer_token_loss){.loss = -t->scale * t->logprob, .dlogprob = -t->scale};
}

double trainer_learning_rate(const rlf_config *config, long step, long total) {
    double lr = config->optimizer.lr;
    long warmup = (long)config->optimizer.warmup_steps;
    if (step < warmup) return lr * (double)(step + 1) / (double)warmup;
    if (strcmp(config->optimizer.schedule, "cosine") != 0 || total <= warmup) return lr;
    double at = fmin(1.0, (double)(step - warmup) / (double)(total - warmup));
    double low = lr * config->optimizer.min_lr_ratio;
    return low + (lr - low) * 0.5 * (1.0 + cos(3.141592653589793 * at));
}
