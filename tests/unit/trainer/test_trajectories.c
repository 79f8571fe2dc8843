/* Trajectories: checked before they are believed, counted, and written as JSON that reads back. */
#include "tests/test.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "tests/unit/rollout/byte_tokenizer.h"
#include "trainer/collect.h"
#include "trainer/progress.h"
#include "trainer/stats.h"
#include "trainer/trajectories.h"

enum { TOKENS = 6, VOCAB = 256 };

typedef struct sample {
    int32_t tokens[TOKENS];
    float logprobs[TOKENS];
    rlf_span spans[3];
    rlf_turn turns[1];
    rlf_component components[1];
    rlf_trajectory t;
} sample;

/* Two prompt tokens, two of the model, two of a tool. */
static void sample_init(sample *s) {
    *s = (sample){.tokens = {'H', 'i', 'a', 'b', 'c', 'd'}, .logprobs = {0, 0, -0.5f, -0.25f, 0, 0}};
    s->spans[0] = (rlf_span){.begin = 0, .end = 2, .kind = RLF_SPAN_PROMPT};
    s->spans[1] = (rlf_span){.begin = 2, .end = 4, .kind = RLF_SPAN_MODEL, .version = 3};
    s->spans[2] = (rlf_span){.begin = 4, .end = 6, .kind = RLF_SPAN_OBSERVATION, .version = 3};
    s->turns[0] = (rlf_turn){.tool = rlf_slice_of("search"), .arguments = rlf_slice_of("{\"query\":\"x\"}"),
                             .answer = rlf_slice_of("a \"quoted\"\nline \xff"), .status = RLF_CALL_BAD_CALL, .cut = 1};
    s->components[0] = (rlf_component){.name = rlf_slice_of("exact_match"), .weight = 1, .value = 0.5};
    s->t = (rlf_trajectory){.uid = 1, .version = 3, .tokens = {s->tokens, TOKENS}, .logprobs = {s->logprobs, TOKENS},
                            .spans = {s->spans, 3},
                            .turns = {s->turns, 1}, .components = {s->components, 1}, .reward = 0.5, .finish = RLF_FINISH_ANSWER};
}

static void refused(const sample *s, const char *why) {
    assert_int_equal(trainer_trajectory_check(&s->t, 3, VOCAB), RLF_PROTOCOL);
    if (!strstr(rlf_error_message(), why)) fail_msg("'%s' does not say '%s'", rlf_error_message(), why);
}

static void sound_trajectory_is_accepted(void **state) {
    (void)state;
    sample s;
    sample_init(&s);
    assert_ok(trainer_trajectory_check(&s.t, 3, VOCAB));
}

static void stale_weights_are_refused(void **state) {
    (void)state;
    sample s;
    sample_init(&s);
    s.t.version = 2;
    refused(&s, "version 2");
    sample_init(&s);
    s.spans[1].version = 2;
    refused(&s, "version 2");
}

static void spans_with_a_hole_or_past_the_end_are_refused(void **state) {
    (void)state;
    sample s;
    sample_init(&s);
    s.spans[1].begin = 3;
    refused(&s, "span 1");
    sample_init(&s);
    s.spans[2].end = 7;
    refused(&s, "span 2");
    sample_init(&s);
    s.t.spans.n = 2;
    refused(&s, "spans cover 4 of 6");
    sample_init(&s);
    s.spans[0].kind = 3;
    refused(&s, "kind 3");
}

static void impossible_tokens_and_logprobs_are_refused(void **state) {
    (void)state;
    sample s;
    sample_init(&s);
    s.tokens[5] = VOCAB;
    refused(&s, "token 5");
    sample_init(&s);
    s.logprobs[2] = NAN;
    refused(&s, "token 2");
    sample_init(&s);
    s.t.logprobs.n = 5;
    refused(&s, "5 log-probs for 6");
    sample_init(&s);
    s.t.reward = INFINITY;
    refused(&s, "reward");
}

static void lost_episodes_are_counted_and_take_no_part_in_means(void **state) {
    (void)state;
    sample s;
    trainer_stats stats = {0};
    sample_init(&s);
    trainer_stats_add(&stats, &s.t);
    s.t.reward = 1.5;
    trainer_stats_add(&stats, &s.t);
    s.t.finish = RLF_FINISH_INFRA;
    s.t.reward = 0;
    trainer_stats_add(&stats, &s.t);
    json_t *object = json_object();
    trainer_stats_put(&stats, object);
    assert_int_equal(json_integer_value(json_object_get(object, "episodes")), 3);
    assert_int_equal(json_integer_value(json_object_get(object, "infra")), 1);
    assert_true(json_real_value(json_object_get(object, "reward_mean")) == 1.0);
    assert_true(json_real_value(json_object_get(object, "reward_std")) == 0.5);
    assert_true(json_real_value(json_object_get(object, "exact_match")) == 0.5);
    assert_int_equal(json_integer_value(json_object_get(object, "bad_calls")), 2);
    assert_int_equal(json_integer_value(json_object_get(object, "cuts")), 2);
    json_decref(object);
}

static void means_over_nothing_are_null(void **state) {
    (void)state;
    trainer_stats stats = {0};
    json_t *object = json_object();
    trainer_stats_put(&stats, object);
    assert_true(json_is_null(json_object_get(object, "reward_mean")));
    assert_true(json_is_null(json_object_get(object, "exact_match")));
    json_decref(object);
}

static void any_bytes_become_a_json_string(void **state) {
    (void)state;
    static const struct { const char *in, *out; } cases[] = {
        {"plain", "plain"}, {"\"\\\n\t\x01\x7f", "\"\\\n\t\x01\x7f"}, {"caf\xc3\xa9 \xf0\x9f\x98\x80", "caf\xc3\xa9 \xf0\x9f\x98\x80"},
        {"\xff" "a", "\xef\xbf\xbd" "a"}, {"\xc3", "\xef\xbf\xbd"}, {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80z", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rlf_str text = {0};
        trainer_put_json_text(&text, cases[i].in, strlen(cases[i].in));
        json_t *value = json_loadb(text.ptr, text.len, JSON_DECODE_ANY, NULL);
        assert_non_null(value);
        assert_string_equal(json_string_value(value), cases[i].out);
        json_decref(value);
        rlf_str_clean_up(&text);
    }
}

static void line_holds_spans_turns_and_question(void **state) {
    (void)state;
    sample s;
    rlf_tokenizer *tokenizer = NULL;
    rlf_str line = {0};
    double advantage = -0.25;
    static const rlf_chat_message messages[] = {{.role = "system", .content = "be brief"}, {.role = "user", .content = "why?"}};
    static const char *targets[] = {"because"};
    rlf_row row = {.data_source = "set", .messages = messages, .n_messages = 2, .targets = targets, .n_targets = 1, .extra = "", .id = "7"};
    sample_init(&s);
    byte_tokenizer_json(&line);
    assert_ok(rlf_tokenizer_parse(&tokenizer, line.ptr, line.len, "test"));
    rlf_str_reset(&line);
    trainer_trajectory_line(&s.t, &row, tokenizer, &advantage, &line);
    assert_int_equal(line.ptr[line.len - 1], '\n');
    json_t *object = json_loadb(line.ptr, line.len, 0, NULL), *spans = json_object_get(object, "spans"), *model = json_array_get(spans, 1);
    assert_non_null(object);
    assert_string_equal(json_string_value(json_object_get(object, "question")), "why?");
    assert_string_equal(json_string_value(json_object_get(object, "finish")), "answer");
    assert_true(json_real_value(json_object_get(object, "advantage")) == -0.25);
    assert_int_equal(json_array_size(spans), 3);
    assert_string_equal(json_string_value(json_object_get(model, "text")), "ab");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(model, "tokens"), 1)), 'b');
    assert_true(json_real_value(json_array_get(json_object_get(model, "logprobs"), 1)) == -0.25);
    assert_null(json_object_get(json_array_get(spans, 2), "logprobs"));
    assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(object, "turns"), 0), "status")), "bad_call");
    json_decref(object);
    rlf_str_clean_up(&line);
    rlf_tokenizer_destroy(tokenizer);
}

static void progress_line_shows_reward_speed_and_time_left(void **state) {
    (void)state;
    rlf_str line = {0};
    trainer_progress progress;
    trainer_progress_init(&progress, false, "rl", 10, 40);
    progress.step = 20;
    progress.tokens = 5000;
    progress.reward = 0.5;
    progress.exact = 0.25;
    trainer_progress_line(&progress, progress.begun_s + 50, &line);
    assert_string_equal(line.ptr, "rl [############------------] 20/40  reward 0.500  exact 0.250  100 tok/s  1m40s left");
    rlf_str_clean_up(&line);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_trajectory_is_accepted),
        cmocka_unit_test(stale_weights_are_refused),
        cmocka_unit_test(spans_with_a_hole_or_past_the_end_are_refused),
        cmocka_unit_test(impossible_tokens_and_logprobs_are_refused),
        cmocka_unit_test(lost_episodes_are_counted_and_take_no_part_in_means),
        cmocka_unit_test(means_over_nothing_are_null),
        cmocka_unit_test(any_bytes_become_a_json_string),
        cmocka_unit_test(line_holds_spans_turns_and_question),
        cmocka_unit_test(progress_line_shows_reward_speed_and_time_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
