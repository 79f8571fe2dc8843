/* Scoring, sharing among learners, packing into micro-batches: nothing lost, the budget kept, the same plan for the same input. */
#include "tests/test.h"

#include <string.h>

#include "common/base/rng.h"
#include "trainer/batch.h"

enum { MANY = 200, BUDGET = 512 };

static int draw(int i, int n) { return (int)rlf_rng_below(1, RLF_RNG_TEST, (uint64_t)i, 0, 0, (uint64_t)n); }

/* An episode of `tokens` tokens, of which the last `model` are the model's. */
static rlf_trajectory episode(rlf_arena *arena, int64_t uid, int64_t sample, size_t tokens, size_t model, double reward,
                              rlf_finish finish) {
    rlf_trajectory t = {.uid = uid, .sample = sample, .reward = reward, .finish = finish};
    t.tokens.v = rlf_arena_alloc(arena, tokens, sizeof *t.tokens.v);
    t.logprobs.v = rlf_arena_alloc(arena, tokens, sizeof *t.logprobs.v);
    t.tokens.n = t.logprobs.n = tokens;
    t.spans.v = rlf_arena_alloc(arena, 2, sizeof *t.spans.v);
    t.spans.n = 2;
    t.spans.v[0] = (rlf_span){.begin = 0, .end = (int64_t)(tokens - model), .kind = RLF_SPAN_PROMPT};
    t.spans.v[1] = (rlf_span){.begin = (int64_t)(tokens - model), .end = (int64_t)tokens, .kind = RLF_SPAN_MODEL};
    return t;
}

static rlf_sequence *many_sequences(rlf_arena *arena) {
    rlf_sequence *s = rlf_arena_alloc(arena, MANY, sizeof *s);
    for (int i = 0; i < MANY; i++) {
        size_t model = 1 + (size_t)draw(i, 100), tokens = model + 10 + (size_t)draw(i + MANY, 300);
        rlf_trajectory t = episode(arena, i / 4, i % 4, tokens, model, 0, RLF_FINISH_ANSWER);
        s[i] = (rlf_sequence){.uid = t.uid, .sample = t.sample, .tokens = t.tokens, .logprobs = t.logprobs, .weight = 1};
        s[i].spans.v = t.spans.v;
        s[i].spans.n = t.spans.n;
    }
    return s;
}

static void check_share(const rlf_batch *share, int seen[MANY], int64_t *tokens) {
    int64_t filled[MANY] = {0};
    for (size_t i = 0; i < share->sequences.n; i++) {
        const rlf_sequence *s = &share->sequences.v[i], *before = s - 1;
        seen[s->uid * 4 + s->sample]++;
        *tokens += (int64_t)s->tokens.n;
        assert_in_range(s->micro, 0, share->micros - 1);
        filled[s->micro] += (int64_t)s->tokens.n;
        if (i > 0)
            assert_true(before->micro < s->micro || (before->micro == s->micro && before->uid * 4 + before->sample < s->uid * 4 +
                                                     s->sample));
    }
    for (int64_t m = 0; m < share->micros; m++) assert_in_range(filled[m], 1, BUDGET);
}

static void nothing_is_lost_and_the_budget_is_kept(void **state) {
    (void)state;
    rlf_arena arena = {0};
    rlf_sequence *sequences = many_sequences(&arena);
    for (int learners = 1; learners <= 7; learners++) {
        trainer_plan plan;
        int seen[MANY] = {0};
        int64_t tokens = 0;
        assert_ok(trainer_plan_init(&plan, sequences, MANY, learners, BUDGET, &arena));
        for (int l = 0; l < learners; l++) check_share(&plan.share[l], seen, &tokens);
        for (int i = 0; i < MANY; i++) assert_int_equal(seen[i], 1);
        assert_int_equal(tokens, plan.tokens);
    }
    rlf_arena_clean_up(&arena);
}

static void denominators_are_those_of_the_whole_batch(void **state) {
    (void)state;
    rlf_arena arena = {0};
    rlf_sequence *sequences = many_sequences(&arena);
    int64_t model = 0;
    for (int i = 0; i < MANY; i++) model += trainer_model_tokens(sequences[i].spans.v, sequences[i].spans.n);
    for (int learners = 1; learners <= 4; learners++) {
        trainer_plan plan;
        assert_ok(trainer_plan_init(&plan, sequences, MANY, learners, BUDGET, &arena));
        for (int l = 0; l < learners; l++) {
            assert_true(plan.share[l].total_tokens == (double)model);
            assert_true(plan.share[l].total_sequences == MANY);
        }
    }
    rlf_arena_clean_up(&arena);
}

static int64_t tokens_of(const rlf_batch *share) {
    int64_t n = 0;
    for (size_t i = 0; i < share->sequences.n; i++) n += (int64_t)share->sequences.v[i].tokens.n;
    return n;
}

static void learners_get_nearly_the_same(void **state) {
    (void)state;
    rlf_arena arena = {0};
    trainer_plan plan;
    assert_ok(trainer_plan_init(&plan, many_sequences(&arena), MANY, 4, BUDGET, &arena));
    for (int l = 0; l < 4; l++) assert_in_range(tokens_of(&plan.share[l]), plan.tokens / 4 * 99 / 100, plan.tokens / 4 * 101 / 100);
    rlf_arena_clean_up(&arena);
}

static void more_learners_than_sequences_leaves_some_empty(void **state) {
    (void)state;
    rlf_arena arena = {0};
    trainer_plan plan;
    assert_ok(trainer_plan_init(&plan, many_sequences(&arena), 2, 5, BUDGET, &arena));
    for (int l = 0; l < 5; l++) assert_int_equal(plan.share[l].sequences.n, l < 2);
    assert_int_equal(plan.share[4].micros, 0);
    rlf_arena_clean_up(&arena);
}

static void sequence_over_the_budget_is_refused(void **state) {
    (void)state;
    rlf_arena arena = {0};
    trainer_plan plan;
    assert_error(trainer_plan_init(&plan, many_sequences(&arena), MANY, 1, 64, &arena), RLF_LIMIT, "train.micro_tokens");
    rlf_arena_clean_up(&arena);
}

/* Two groups of four: rewards differ in the first, are equal in the second. */
static trainer_scores score_two_groups(const rlf_config *config, rlf_arena *arena, rlf_trajectory *t) {
    static const double rewards[] = {1, 0, 0, 1, 1, 1, 1, 1};
    static const rlf_finish finishes[] = {RLF_FINISH_ANSWER, RLF_FINISH_LENGTH_LIMIT, RLF_FINISH_INFRA, RLF_FINISH_ANSWER,
                                          RLF_FINISH_ANSWER, RLF_FINISH_ANSWER, RLF_FINISH_TURN_LIMIT, RLF_FINISH_ANSWER};
    trainer_scores scores;
    for (int i = 0; i < 8; i++) t[i] = episode(arena, i / 4, i % 4, 20, i == 3 ? 0 : 5, rewards[i], finishes[i]);
    trainer_score(config, t, 2, 4, arena, &scores);
    return scores;
}

static void infrastructure_failures_leave_loss_and_baseline(void **state) {
    (void)state;
    rlf_arena arena = {0};
    rlf_trajectory t[8];
    rlf_config config = {0};
    trainer_scores s = score_two_groups(&config, &arena, t);
    static const bool in_loss[] = {true, true, false, false, true, true, true, true};
    assert_int_equal(s.valid, 7);
    assert_int_equal(s.flat_groups, 1);
    assert_int_equal(s.left_out, 1); /* the one in which the model chose nothing */
    for (int i = 0; i < 8; i++) assert_int_equal(s.in_loss[i], in_loss[i]);
    assert_true(s.advantage[2] == 0);
    assert_true(s.advantage[0] > 0.333 && s.advantage[0] < 0.334); /* mean of 1, 0, 1 is 2/3: the lost one has no part in it */
    rlf_arena_clean_up(&arena);
}

static void options_take_flat_groups_and_cut_episodes_out(void **state) {
    (void)state;
    rlf_arena arena = {0};
    rlf_trajectory t[8];
    size_t n;
    rlf_config config = {0};
    config.algorithm.mask_truncated = true;
    trainer_scores s = score_two_groups(&config, &arena, t);
    rlf_sequence *sequences = trainer_sequences(t, &s, 0, 8, &arena, &n);
    assert_int_equal(n, 4);
    assert_int_equal(sequences[1].uid * 4 + sequences[1].sample, 4);
    config.algorithm.drop_zero_variance = true;
    s = score_two_groups(&config, &arena, t);
    (void)trainer_sequences(t, &s, 0, 8, &arena, &n);
    assert_int_equal(n, 1);
    rlf_arena_clean_up(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost_and_the_budget_is_kept),
        cmocka_unit_test(denominators_are_those_of_the_whole_batch),
        cmocka_unit_test(learners_get_nearly_the_same),
        cmocka_unit_test(more_learners_than_sequences_leaves_some_empty),
        cmocka_unit_test(sequence_over_the_budget_is_refused),
        cmocka_unit_test(infrastructure_failures_leave_loss_and_baseline),
        cmocka_unit_test(options_take_flat_groups_and_cut_episodes_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
