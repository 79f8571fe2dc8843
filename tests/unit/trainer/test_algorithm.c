/* Advantages, token losses and schedules: values by hand, derivatives by finite differences. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trainer/algorithm.h"

static void assert_close(double a, double b, double tolerance) {
    if (!(fabs(a - b) <= tolerance)) fail_msg("%.9g is not %.9g within %g", a, b, tolerance);
}

static rlf_config plain_config(void) {
    static char estimator[] = "k3", schedule[] = "constant";
    rlf_config c = {0};
    c.algorithm.clip_low = c.algorithm.clip_high = 0.2;
    c.algorithm.kl_estimator = estimator;
    c.optimizer.schedule = schedule;
    c.optimizer.lr = 1e-3;
    return c;
}

static void group_is_centred_and_scaled_by_the_unbiased_deviation(void **state) {
    (void)state;
    double reward[] = {1, 0, 0, 1}, advantage[4];
    bool valid[] = {true, true, true, true};
    assert_true(trainer_group_advantages(reward, valid, 4, true, advantage));
    double std = sqrt(4 * 0.25 / 3);
    for (int i = 0; i < 4; i++) assert_close(advantage[i], (reward[i] - 0.5) / (std + 1e-6), 1e-12);
    trainer_group_advantages(reward, valid, 4, false, advantage);
    assert_close(advantage[0], 0.5, 0);
}

static void infrastructure_failures_leave_the_baseline(void **state) {
    (void)state;
    double reward[] = {1, 0, -100}, advantage[3];
    bool valid[] = {true, true, false};
    assert_true(trainer_group_advantages(reward, valid, 3, false, advantage));
    assert_close(advantage[0], 0.5, 0);
    assert_close(advantage[1], -0.5, 0);
    assert_close(advantage[2], 0, 0);
}

static void group_of_one_has_mean_zero_and_deviation_one(void **state) {
    (void)state;
    double reward[] = {0.7}, advantage[1];
    bool valid[] = {true};
    assert_false(trainer_group_advantages(reward, valid, 1, true, advantage));
    assert_close(advantage[0], 0.7, 1e-6);
}

static void equal_rewards_give_zero_not_nan(void **state) {
    (void)state;
    double reward[] = {0.3, 0.3, 0.3}, advantage[3] = {9, 9, 9};
    bool valid[] = {true, true, true}, none[] = {false, false, false};
    assert_false(trainer_group_advantages(reward, valid, 3, true, advantage));
    for (int i = 0; i < 3; i++) assert_close(advantage[i], 0, 0);
    assert_false(trainer_group_advantages(reward, none, 3, true, advantage));
}

static void on_policy_loss_is_minus_the_advantage(void **state) {
    (void)state;
    rlf_config c = plain_config();
    trainer_token t = {.logprob = -1.25f, .old_logprob = -1.25f, .advantage = 2.0f, .scale = 0.5f};
    trainer_token_loss l = trainer_loss_grpo(&c, &t);
    assert_close(l.loss, -1.0, 0);
    assert_close(l.dlogprob, -1.0, 0);
    assert_false(l.clipped);
}

static void clip_stops_the_gradient_on_its_own_side_only(void **state) {
    (void)state;
    rlf_config c = plain_config();
    trainer_token up = {.logprob = -0.5f, .old_logprob = -1.0f, .advantage = 1, .scale = 1}; /* ratio 1.65 */
    assert_true(trainer_loss_grpo(&c, &up).clipped);
    assert_close(trainer_loss_grpo(&c, &up).dlogprob, 0, 0);
    assert_close(trainer_loss_grpo(&c, &up).loss, -1.2, 1e-6);
    up.advantage = -1; /* pessimistic side: not clipped */
    assert_false(trainer_loss_grpo(&c, &up).clipped);
    assert_close(trainer_loss_grpo(&c, &up).loss, exp(0.5), 1e-6);
    up.logprob = 1.0f; /* ratio 7.4: dual clip */
    c.algorithm.dual_clip = 3;
    assert_close(trainer_loss_grpo(&c, &up).loss, 3, 1e-6);
    assert_close(trainer_loss_grpo(&c, &up).dlogprob, 0, 0);
}

/* d loss / d logprob and d loss / d entropy against central differences, for each estimator, at points away from the kinks. */
static void derivatives_match_finite_differences(void **state) {
    (void)state;
    static const char *const estimators[] = {"k1", "k2", "k3"};
    rlf_config c = plain_config();
    c.algorithm.kl = 0.3;
    c.algorithm.entropy = 0.1;
    for (int e = 0; e < 3; e++) {
        char name[8];
        snprintf(name, sizeof name, "%s", estimators[e]);
        c.algorithm.kl_estimator = name;
        for (int i = 0; i < 40; i++) {
            trainer_token t = {-1.0f - 0.05f * (float)i, -1.5f, -1.2f - 0.03f * (float)i, 0.8f, i % 2 ? 1.5f : -0.5f, 0.25f};
            const float h = 1.0f / 256;
            trainer_token a = t, b = t;
            a.logprob -= h;
            b.logprob += h;
            double ratio = exp(t.logprob - t.old_logprob);
            if (fabs(ratio - 0.8) < 0.02 || fabs(ratio - 1.2) < 0.02) continue;
            double slope = ((double)trainer_loss_grpo(&c, &b).loss - trainer_loss_grpo(&c, &a).loss) / (2 * h);
            assert_close(trainer_loss_grpo(&c, &t).dlogprob, slope, 2e-4);
            a = b = t;
            a.entropy -= 0.5f;
            b.entropy += 0.5f;
            slope = (double)trainer_loss_grpo(&c, &b).loss - trainer_loss_grpo(&c, &a).loss;
            assert_close(trainer_loss_grpo(&c, &t).dentropy, slope, 1e-6);
        }
    }
}

static void token_outside_the_kept_set_gives_no_nan(void **state) {
    (void)state;
    rlf_config c = plain_config();
    c.algorithm.kl = 0.1;
    trainer_token t = {.logprob = -INFINITY, .old_logprob = -1, .ref_logprob = -2, .advantage = 1, .scale = 1};
    trainer_token_loss l = trainer_loss_grpo(&c, &t);
    assert_true(isfinite(l.loss) && isfinite(l.dlogprob));
    t.advantage = -1;
    l = trainer_loss_grpo(&c, &t);
    assert_true(isfinite(l.loss) && isfinite(l.dlogprob));
}

static void supervised_loss_is_minus_logprob(void **state) {
    (void)state;
    trainer_token t = {.logprob = -2, .scale = 0.25f};
    trainer_token_loss l = trainer_loss_supervised(NULL, &t);
    assert_close(l.loss, 0.5, 0);
    assert_close(l.dlogprob, -0.25, 0);
}

static void schedule_warms_up_then_follows_the_cosine(void **state) {
    (void)state;
    rlf_config c = plain_config();
    char cosine[] = "cosine";
    c.optimizer.warmup_steps = 4;
    assert_close(trainer_learning_rate(&c, 0, 100), 0.25e-3, 1e-12);
    assert_close(trainer_learning_rate(&c, 3, 100), 1e-3, 1e-12);
    assert_close(trainer_learning_rate(&c, 99, 100), 1e-3, 1e-12);
    c.optimizer.schedule = cosine;
    c.optimizer.min_lr_ratio = 0.1;
    assert_close(trainer_learning_rate(&c, 4, 100), 1e-3, 1e-12);
    assert_close(trainer_learning_rate(&c, 52, 100), 0.55e-3, 1e-9);
    assert_close(trainer_learning_rate(&c, 100, 100), 0.1e-3, 1e-12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(group_is_centred_and_scaled_by_the_unbiased_deviation),
        cmocka_unit_test(infrastructure_failures_leave_the_baseline),
        cmocka_unit_test(group_of_one_has_mean_zero_and_deviation_one),
        cmocka_unit_test(equal_rewards_give_zero_not_nan),
        cmocka_unit_test(on_policy_loss_is_minus_the_advantage),
        cmocka_unit_test(clip_stops_the_gradient_on_its_own_side_only),
        cmocka_unit_test(derivatives_match_finite_differences),
        cmocka_unit_test(token_outside_the_kept_set_gives_no_nan),
        cmocka_unit_test(supervised_loss_is_minus_logprob),
        cmocka_unit_test(schedule_warms_up_then_follows_the_cosine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
