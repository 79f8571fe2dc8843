/* The episode state machine on scripted turns: what is called, appended, cut, ended, and sent. */
#include "episode_world.h"

#include "common/base/clock.h"

/* ---- the prompt ------------------------------------------------------------------------------------------------------------------- */

/* The templates take a thought out of the content only where there is no reasoning_content, which "" is. */
static void an_empty_reasoning_is_not_a_missing_one(void **state) {
    (void)state;
    for (int reasoned = 0; reasoned < 2; reasoned++) {
        world *w = world_as(8, (rlf_chat_options){.name = "qwen3", .thinking = true}, true);
        rlf_said talk[] = {{.role = rlf_slice_of("user"), .content = rlf_slice_of("Where?")},
                           {.role = rlf_slice_of("assistant"), .content = rlf_slice_of("<think>x</think>y"), .reasoned = reasoned},
                           {.role = rlf_slice_of("user"), .content = rlf_slice_of("Who?")}};
        script(w, 1, 0, "<answer>Lima</answer>");
        assert_ok(try_submit_talk(w, 1, talk, 3));
        run(w);
        assert_span(w, only(w), 0, RLF_SPAN_PROMPT, 0,
                    reasoned ? "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n<think>x</think>y<|im_end|>\n"
                               "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
                             : "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\ny<|im_end|>\n"
                               "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n");
        world_destroy(w);
    }
}

/* ---- turns ------------------------------------------------------------------------------------------------------------------------ */

static void episode_ends_with_the_token_that_completes_the_answer(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, "hm <answer>Lima</answer>and more");
    assert_int_equal(t->spans.n, 2);
    assert_span(w, t, 0, RLF_SPAN_PROMPT, 0, PROMPT);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "hm <answer>Lima</answer>");
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    assert_float_equal(t->reward, 0.75, 0);
    assert_int_equal(t->components.n, 2);
    world_destroy(w);
}

static void closing_tag_without_an_answer_does_not_end_the_episode(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, "<think><answer>x</answer></think></answer><answer>y</answer>");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<think><answer>x</answer></think></answer><answer>y</answer>");
    world_destroy(w);
}

static void turn_without_a_call_ends_the_episode(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, "It is Lima.<|im_end|>");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "It is Lima.<|im_end|>");
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    assert_int_equal(w->service.calls, 0);
    world_destroy(w);
}

static void answer_of_a_tool_is_appended_as_an_observation(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, "so " CALL("echo", "Peru") "<|im_end|><answer>Lima</answer>");
    assert_int_equal(t->spans.n, 4);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "so " CALL("echo", "Peru") "<|im_end|>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, ANSWERED("{\"q\":\"Peru\"}"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<answer>Lima</answer>");
    assert_int_equal(t->turns.n, 1);
    assert_text(t->turns.v[0].tool, "echo");
    assert_text(t->turns.v[0].arguments, "{\"q\":\"Peru\"}");
    assert_text(t->turns.v[0].answer, "{\"q\":\"Peru\"}");
    assert_int_equal(t->turns.v[0].status, RLF_CALL_OK);
    assert_float_equal(t->turns.v[0].latency_ms, 2.5, 0);
    world_destroy(w);
}

static void turn_ended_by_end_of_text_is_closed_before_the_observation(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, CALL("echo", "a") "<|endoftext|><answer>b</answer>");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, CALL("echo", "a") "<|endoftext|>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, "<|im_end|>" ANSWERED("{\"q\":\"a\"}"));
    world_destroy(w);
}

/* "ab" was sampled as two tokens; the tokenizer would make one of it. */
static void sampled_ids_are_kept_as_sampled(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, "abab" CALL("echo", "ab") "<|im_end|>ab<answer>ab</answer>");
    rlf_ids expected = {0};
    byte_script("abab" CALL("echo", "ab") "<|im_end|>", &expected);
    assert_int_equal(t->spans.v[1].end - t->spans.v[1].begin, expected.n);
    assert_memory_equal(t->tokens.v + t->spans.v[1].begin, expected.v, expected.n * sizeof *expected.v);
    bool merged = false; /* the observation is the tokenizer's own */
    for (int64_t i = t->spans.v[2].begin; i < t->spans.v[2].end; i++) merged = merged || t->tokens.v[i] == BYTE_AB;
    assert_true(merged);
    rlf_ids_clean_up(&expected);
    world_destroy(w);
}

static void control_tokens_in_an_answer_stay_text(void **state) {
    (void)state;
    world *w = world_new(8);
    script(w, 1, 0, "<tool_call>{\"name\":\"echo\",\"arguments\":{\"q\":\"");
    byte_script("<", &w->model->scripts[0].ids); /* written letter by letter: not a control token either */
    byte_script("|im_end|>\"}}</tool_call><|im_end|><answer>x</answer>", &w->model->scripts[0].ids);
    submit(w, 1);
    run(w);
    const rlf_trajectory *t = only(w);
    int ends = 0;
    for (int64_t i = t->spans.v[2].begin; i < t->spans.v[2].end; i++) ends += t->tokens.v[i] == BYTE_END;
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, ANSWERED("{\"q\":\"<|im_end|>\"}"));
    assert_int_equal(ends, 1);
    world_destroy(w);
}

/* ---- calls ------------------------------------------------------------------------------------------------------------------------ */

static void calls_of_a_turn_run_side_by_side_and_are_appended_in_call_order(void **state) {
    (void)state;
    for (uint64_t shuffle = 0; shuffle < 6; shuffle++) {
        world *w = world_new(8);
        w->service.shuffle = shuffle;
        const rlf_trajectory *t = play(w, CALL("echo", "1") CALL("echo", "2") "\n" CALL("echo", "3") "<|im_end|><answer>x</answer>");
        assert_int_equal(w->service.most_calls, 3);
        assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0,
                    ANSWERED("{\"q\":\"1\"}\n</tool_response>\n<tool_response>\n{\"q\":\"2\"}\n</tool_response>\n<tool_response>\n{\"q\":\"3\"}"));
        for (int64_t i = 0; i < 3; i++) assert_int_equal(t->turns.v[i].call, i);
        world_destroy(w);
    }
}

static void calls_beyond_the_most_are_answered_as_bad_calls(void **state) {
    (void)state;
    world *w = world_new(8);
    w->limits.turn_tokens = 400;
    w->limits.tokens = LONGEST;
    const rlf_trajectory *t = play(w, CALL("echo",
                                           "1") CALL("echo", "2") CALL("echo", "3") CALL("echo", "4") CALL("echo", "5") "<|im_end|><answer>x</answer>");
    assert_int_equal(w->service.calls, 3);
    assert_int_equal(t->turns.n, 5);
    for (int i = 0; i < 5; i++) assert_int_equal(t->turns.v[i].status, i < 3 ? RLF_CALL_OK : RLF_CALL_BAD_CALL);
    assert_text(t->turns.v[4].answer, "error: too many calls: at most 3 in one turn");
    assert_int_equal(w->service.last_score.calls, 5);
    assert_int_equal(w->service.last_score.bad_calls, 2);
    world_destroy(w);
}

static void malformed_call_is_answered_without_the_service(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, "<tool_call>{\"name\": oops}</tool_call><|im_end|><answer>x</answer>");
    assert_int_equal(w->service.calls, 0);
    assert_int_equal(t->turns.v[0].status, RLF_CALL_BAD_CALL);
    assert_int_equal(strncmp(t->turns.v[0].answer.ptr, "error: ", 7), 0);
    assert_int_equal(t->spans.n, 4);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    assert_int_equal(w->service.last_score.bad_calls, 1);
    world_destroy(w);
}

static void what_went_wrong_is_in_the_turn_and_in_the_text(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, CALL("fail", "") CALL("late", "") CALL("unknown", "") "<|im_end|><answer>x</answer>");
    assert_int_equal(t->turns.v[0].status, RLF_CALL_TOOL_ERROR);
    assert_int_equal(t->turns.v[1].status, RLF_CALL_TIMEOUT);
    assert_int_equal(t->turns.v[2].status, RLF_CALL_BAD_CALL);
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0,
                ANSWERED("error: tool_error: out of cheese\n</tool_response>\n<tool_response>\nerror: timeout: no answer in 5 ms\n</tool_response>\n"
                         "<tool_response>\nerror: no tool is named unknown"));
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    assert_int_equal(w->service.last_score.bad_calls, 1);
    world_destroy(w);
}

static void tool_that_says_done_ends_the_episode(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, CALL("done", "a") "<|im_end|>never");
    assert_int_equal(t->finish, RLF_FINISH_STOP);
    assert_int_equal(t->spans.n, 2);
    assert_text(t->turns.v[0].answer, "{\"q\":\"a\"}");
    assert_int_equal(w->service.scored, 1);
    world_destroy(w);
}

/* ---- limits ----------------------------------------------------------------------------------------------------------------------- */

static void call_after_the_last_round_is_not_made(void **state) {
    (void)state;
    world *w = world_new(8);
    w->limits.turns = 2;
    const rlf_trajectory *t = play(w, CALL("echo", "1") "<|im_end|>" CALL("echo", "2") "<|im_end|>" CALL("echo", "3") "<|im_end|>");
    assert_int_equal(w->service.calls, 2);
    assert_int_equal(t->finish, RLF_FINISH_TURN_LIMIT);
    assert_int_equal(t->turns.n, 2);
    assert_int_equal(t->spans.n, 6);
    assert_int_equal(w->service.scored, 1);
    world_destroy(w);
}

static void no_rounds_means_tools_off(void **state) {
    (void)state;
    world *w = world_new(8);
    w->limits.turns = 0;
    const rlf_trajectory *t = play(w, CALL("echo", "1") "<|im_end|>");
    assert_int_equal(w->service.calls, 0);
    assert_int_equal(t->finish, RLF_FINISH_TURN_LIMIT);
    world_destroy(w);
}

static void turn_ends_at_its_token_limit(void **state) {
    (void)state;
    world *w = world_new(8);
    w->limits.turn_tokens = 5;
    const rlf_trajectory *t = play(w, "abcdefghij");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "abcde");
    assert_int_equal(t->finish, RLF_FINISH_LENGTH_LIMIT);
    world_destroy(w);
}

static void episode_ends_at_its_token_limit(void **state) {
    (void)state;
    world *w = world_new(8);
    w->limits.tokens = 40;
    const rlf_trajectory *t = play(w, "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz");
    assert_int_equal(t->tokens.n, 40);
    assert_int_equal(t->finish, RLF_FINISH_LENGTH_LIMIT);
    assert_int_equal(w->service.last_score.finish, RLF_FINISH_LENGTH_LIMIT);
    world_destroy(w);
}

static void turn_that_ends_with_its_last_token_is_an_answer(void **state) {
    (void)state;
    world *w = world_new(8);
    w->limits.turn_tokens = 5;
    assert_int_equal(play(w, "abcd<|im_end|>")->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

/* The template around an answer takes 51 bytes' worth of tokens here; one token of answer and one of the model must fit behind it. */
static void tool_is_not_called_when_its_answer_could_not_be_used(void **state) {
    (void)state;
    const char *text = CALL("echo", "1") "<|im_end|><answer>x</answer>";
    for (int64_t tokens = 60; tokens < 260; tokens++) {
        world *w = world_new(8);
        w->limits.tokens = tokens;
        const rlf_trajectory *t = play(w, text);
        assert_true((int64_t)t->tokens.n <= tokens);
        if (w->service.calls) {
            assert_true(t->spans.n == 4); /* an answer that was asked for is read, and something said after it */
            assert_true(t->spans.v[3].end > t->spans.v[3].begin);
        } else {
            assert_int_equal(t->finish, RLF_FINISH_LENGTH_LIMIT);
            assert_int_equal(t->spans.n, 2);
        }
        world_destroy(w);
    }
}

static void long_answer_is_cut_by_tokens_and_counted(void **state) {
    (void)state;
    world *w = world_new(8);
    w->limits.observation_tokens = 20;
    const rlf_trajectory *t = play(w, CALL("echo", "1") CALL("long", "") "<|im_end|><answer>x</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, ANSWERED("{\"q\":\"1\"}\n</tool_response>\n<tool_response>\nxxxxxxxxxxxxxxxxxxxx"));
    assert_int_equal(t->turns.v[0].cut, 0);
    assert_int_equal(t->turns.v[1].cut, 1);
    assert_int_equal(t->turns.v[1].answer.len, 300);
    world_destroy(w);
}

static void prompt_that_leaves_no_room_is_refused_with_its_uid(void **state) {
    (void)state;
    world *w = world_new(8);
    char question[300];
    memset(question, 'q', sizeof question - 1);
    question[sizeof question - 1] = 0;
    assert_error(try_submit(w, 77, question), RLF_LIMIT, "77");
    w->limits.tokens = 20;
    assert_int_equal(try_submit(w, 78, "Where?"), RLF_LIMIT);
    assert_int_equal(rollout_episodes_alive(w->set), 0);
    world_destroy(w);
}

/* ---- things that break ------------------------------------------------------------------------------------------------------------ */

static void broken_infrastructure_ends_the_episode_without_a_reward(void **state) {
    (void)state;
    world *w = world_new(8);
    const rlf_trajectory *t = play(w, CALL("echo", "1") CALL("infra", "") CALL("mute", "") "<|im_end|>");
    assert_int_equal(t->finish, RLF_FINISH_INFRA);
    assert_text(t->error, "tool infra: error: infra_error: connection refused");
    assert_int_equal(t->components.n, 0);
    assert_true(t->reward == 0);
    assert_int_equal(w->service.scored, 0);
    assert_int_equal(t->turns.v[1].status, RLF_CALL_INFRA);
    assert_int_equal(t->turns.v[2].status, RLF_CALL_INFRA);
    world_destroy(w);
}

static void failed_reward_is_infrastructure(void **state) {
    (void)state;
    world *w = world_new(8);
    w->service.reward_status = RLF_CALL_TIMEOUT;
    const rlf_trajectory *t = play(w, "<answer>x</answer>");
    assert_int_equal(t->finish, RLF_FINISH_INFRA);
    assert_text(t->error, "reward: timeout");
    assert_int_equal(t->components.n, 0);
    world_destroy(w);
}

static void deadline_ends_the_episode_and_names_what_it_waited_for(void **state) {
    (void)state;
    world *w = world_new(8);
    w->limits.timeout_ms = 400;
    script(w, 1, 0, CALL("mute", "") "<|im_end|>");
    submit(w, 1);
    for (int i = 0; rollout_episodes_alive(w->set); i++) {
        assert_true(i < 10000);
        assert_ok(rollout_episodes_step(w->set));
        if (rollout_episodes_waiting(w->set)) rlf_sleep_us(20000);
    }
    const rlf_trajectory *t = only(w);
    assert_int_equal(t->finish, RLF_FINISH_INFRA);
    assert_text(t->error, "episode 1 sample 0: not done after 400 ms, waiting for mute");
    assert_int_equal(w->service.scored, 0);
    assert_int_equal(w->service.closed, 1);
    world_destroy(w);
}

/* Another has the only seat when the answer comes, for longer than the deadline. */
static void waiting_for_a_seat_is_not_on_the_clock(void **state) {
    (void)state;
    world *w = world_new(1);
    w->limits.timeout_ms = 1000;
    for (int64_t uid = 1; uid <= 2; uid++) script(w, uid, 0, CALL("echo", "1") "<|im_end|><answer>x</answer>");
    submit(w, 1);
    while (!w->service.n_requests) assert_ok(rollout_episodes_step(w->set));
    w->limits.timeout_ms = 0;
    submit(w, 2);
    assert_ok(rollout_episodes_step(w->set));
    while (service_answer(&w->service, w->set)) continue;
    for (int i = 0; i < 6; i++) {
        rlf_sleep_us(200000);
        assert_ok(rollout_episodes_step(w->set));
    }
    run(w);
    assert_int_equal(service_trajectory(&w->service, 1, 0)->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void answers_that_nobody_waits_for_are_ignored(void **state) {
    (void)state;
    world *w = world_new(8);
    w->service.hold = true;
    script(w, 1, 0, CALL("echo", "1") "<|im_end|><answer>x</answer>");
    submit(w, 1);
    while (!w->service.n_requests) assert_ok(rollout_episodes_step(w->set));
    rlf_observation m = {.uid = 1, .attempt = 1, .turn = 0, .call = 0, .text = rlf_slice_of("stale")};
    rlf_observation other[] = {m, m, m, m, m};
    other[0].uid = 2, other[1].attempt = 0, other[2].turn = 1, other[3].call = 1, other[4].sample = 3;
    for (int i = 0; i < 5; i++) assert_ok(rollout_episodes_observe(w->set, &other[i]));
    rlf_reward reward = {.uid = 1, .attempt = 1};
    assert_ok(rollout_episodes_reward(w->set, &reward));
    assert_int_equal(rollout_episodes_waiting(w->set), 1);
    m.status = 99;
    assert_int_equal(rollout_episodes_observe(w->set, &m), RLF_PROTOCOL);
    w->service.hold = false;
    run(w);
    assert_text(only(w)->turns.v[0].answer, "{\"q\":\"1\"}");
    world_destroy(w);
}

static void message_that_makes_no_sense_is_refused(void **state) {
    (void)state;
    world *w = world_new(2);
    w->limits.tokens = LONGEST + 1;
    assert_int_equal(try_submit(w, 5, "Where?"), RLF_PROTOCOL);
    w->limits.tokens = 100;
    w->samples = 0;
    assert_int_equal(try_submit(w, 5, "Where?"), RLF_PROTOCOL);
    w->samples = 1;
    submit(w, 5);
    assert_int_equal(try_submit(w, 5, "Where?"), RLF_PROTOCOL);
    world_destroy(w);
}

/* ---- the set ---------------------------------------------------------------------------------------------------------------------- */

static void score_sees_only_what_the_model_wrote(void **state) {
    (void)state;
    world *w = world_new(8);
    play(w, "so " CALL("echo", "Peru") "<|im_end|><answer>Lima</answer>");
    const rlf_score *s = &w->service.last_score;
    assert_int_equal(s->turns.n, 2);
    assert_text(s->turns.v[0].text, "so " CALL("echo", "Peru"));
    assert_text(s->turns.v[1].text, "<answer>Lima</answer>");
    assert_text(s->targets.v[0].text, "Lima");
    assert_text(s->data_source, "nq");
    assert_int_equal(s->calls, 1);
    assert_int_equal(s->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void episode_that_waits_gives_its_seat_to_another(void **state) {
    (void)state;
    world *w = world_new(1);
    w->service.hold = true;
    script(w, 1, 0, CALL("echo", "1") "<|im_end|><answer>x</answer>");
    script(w, 2, 0, "I say no more.<|im_end|>");
    submit(w, 1);
    submit(w, 2);
    for (int i = 0; i < 300; i++) assert_ok(rollout_episodes_step(w->set));
    assert_int_equal(rollout_episodes_waiting(w->set), 2); /* one for its tool, the other, which came second, for its reward */
    assert_int_equal(w->service.scored, 1);
    w->service.hold = false;
    run(w);
    assert_int_equal(w->service.n_trajectories, 2);
    world_destroy(w);
}

/* Episodes of several samples with calls of every kind, under another schedule each time. */
static void play_many(world *w) {
    static const char *const texts[] = {CALL("echo", "1") CALL("long", "") "<|im_end|>ok " CALL("echo", "2") "<|im_end|><answer>x</answer>",
                                        "no<|im_end|>", CALL("fail", "") "<|im_end|>" CALL("done", "") "<|im_end|>",
                                        "<tool_call>{<|im_end|>hm", CALL("infra", "") "<|im_end|>"};
    w->samples = 5;
    for (int64_t uid = 1; uid <= 4; uid++) {
        for (uint32_t s = 0; s < 5; s++) script(w, uid, s, texts[(uid + s) % 5]);
        submit(w, uid);
    }
    run(w);
    assert_int_equal(w->service.n_trajectories, 20);
}

static void assert_same_trajectory(const rlf_trajectory *a, const rlf_trajectory *b) {
    assert_int_equal(a->tokens.n, b->tokens.n);
    assert_memory_equal(a->tokens.v, b->tokens.v, a->tokens.n * sizeof *a->tokens.v);
    assert_memory_equal(a->logprobs.v, b->logprobs.v, a->logprobs.n * sizeof *a->logprobs.v);
    assert_int_equal(a->spans.n, b->spans.n);
    assert_memory_equal(a->spans.v, b->spans.v, a->spans.n * sizeof *a->spans.v);
    assert_int_equal(a->turns.n, b->turns.n);
    assert_int_equal(a->finish, b->finish);
    assert_true(a->reward == b->reward);
}

static void trajectories_do_not_depend_on_seats_or_the_order_of_answers(void **state) {
    (void)state;
    world *first = world_new(64);
    play_many(first);
    for (uint64_t shuffle = 0; shuffle < 4; shuffle++) {
        world *w = world_new(1 + (int)shuffle * 3);
        w->service.shuffle = shuffle;
        play_many(w);
        for (int64_t uid = 1; uid <= 4; uid++)
            for (int64_t s = 0; s < 5; s++)
                assert_same_trajectory(service_trajectory(&first->service, uid, s), service_trajectory(&w->service, uid, s));
        world_destroy(w);
    }
    world_destroy(first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_reasoning_is_not_a_missing_one),
        cmocka_unit_test(episode_ends_with_the_token_that_completes_the_answer),
        cmocka_unit_test(closing_tag_without_an_answer_does_not_end_the_episode),
        cmocka_unit_test(turn_without_a_call_ends_the_episode),
        cmocka_unit_test(answer_of_a_tool_is_appended_as_an_observation),
        cmocka_unit_test(turn_ended_by_end_of_text_is_closed_before_the_observation),
        cmocka_unit_test(sampled_ids_are_kept_as_sampled),
        cmocka_unit_test(control_tokens_in_an_answer_stay_text),
        cmocka_unit_test(calls_of_a_turn_run_side_by_side_and_are_appended_in_call_order),
        cmocka_unit_test(calls_beyond_the_most_are_answered_as_bad_calls),
        cmocka_unit_test(malformed_call_is_answered_without_the_service),
        cmocka_unit_test(what_went_wrong_is_in_the_turn_and_in_the_text),
        cmocka_unit_test(tool_that_says_done_ends_the_episode),
        cmocka_unit_test(call_after_the_last_round_is_not_made),
        cmocka_unit_test(no_rounds_means_tools_off),
        cmocka_unit_test(turn_ends_at_its_token_limit),
        cmocka_unit_test(episode_ends_at_its_token_limit),
        cmocka_unit_test(turn_that_ends_with_its_last_token_is_an_answer),
        cmocka_unit_test(tool_is_not_called_when_its_answer_could_not_be_used),
        cmocka_unit_test(long_answer_is_cut_by_tokens_and_counted),
        cmocka_unit_test(prompt_that_leaves_no_room_is_refused_with_its_uid),
        cmocka_unit_test(broken_infrastructure_ends_the_episode_without_a_reward),
        cmocka_unit_test(failed_reward_is_infrastructure),
        cmocka_unit_test(deadline_ends_the_episode_and_names_what_it_waited_for),
        cmocka_unit_test(waiting_for_a_seat_is_not_on_the_clock),
        cmocka_unit_test(answers_that_nobody_waits_for_are_ignored),
        cmocka_unit_test(message_that_makes_no_sense_is_refused),
        cmocka_unit_test(score_sees_only_what_the_model_wrote),
        cmocka_unit_test(episode_that_waits_gives_its_seat_to_another),
        cmocka_unit_test(trajectories_do_not_depend_on_seats_or_the_order_of_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
