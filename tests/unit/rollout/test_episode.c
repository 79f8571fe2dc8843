/* The episode state machine on scripted turns: what is called, appended, cut, ended, and sent. */
#include "fake_service.h"

#include "common/base/clock.h"

typedef struct world {
    fake_model *model;
    rollout_engine *engine;
    rlf_tokenizer *tokenizer;
    rlf_chat *chat;
    rollout_episodes *set;
    fake_service service;
    rlf_limits limits;
    int64_t samples;
} world;

enum { LONGEST = 600, PAGE = 16 };

static world *world_as(int seats, rlf_chat_options chat, bool stop_at_answer) {
    world *w = rlf_calloc(1, sizeof *w);
    rollout_engine_options options = {.batch = 64, .prefill_chunk = 32, .page_size = PAGE, .pages = 400, .seats = seats,
                                      .max_tokens = LONGEST};
    rollout_episode_options episode = {.max_prompt_tokens = 200, .max_tokens = LONGEST, .max_calls = 3, .stop_at_answer = stop_at_answer};
    w->model = fake_new(PAGE, 400, 256);
    assert_int_equal(rollout_engine_new(&w->engine, fake_model_of(w->model), &options), RLF_OK);
    w->tokenizer = byte_tokenizer();
    if (rlf_chat_new(&w->chat, w->tokenizer, "", chat) != RLF_OK) fail_msg("%s", rlf_error_message());
    w->set = rollout_episodes_new(w->engine, w->chat, &episode, (rollout_port){&w->service, service_send});
    w->limits = (rlf_limits){.turns = 3, .turn_tokens = 200, .observation_tokens = 100, .tokens = 500};
    w->samples = 1;
    return w;
}

static world *world_with(int seats, const char *chat) { return world_as(seats, (rlf_chat_options){.name = chat}, true); }
static world *world_new(int seats) { return world_with(seats, "chatml"); }

static void world_destroy(world *w) {
    rollout_episodes_destroy(w->set);
    rollout_engine_destroy(w->engine);
    rlf_chat_destroy(w->chat);
    rlf_tokenizer_destroy(w->tokenizer);
    rlf_arena_clean_up(&w->service.arena);
    fake_destroy(w->model);
    free(w);
}

/* What the model will say in episode `uid`, over all its turns. */
static void script(world *w, int64_t uid, uint32_t sample, const char *text) {
    fake_script *s = &w->model->scripts[w->model->n_scripts++];
    *s = (fake_script){.uid = (uint64_t)uid, .sample = sample};
    byte_script(text, &s->ids);
}

static rlf_status try_submit_talk(world *w, int64_t uid, rlf_said *messages, size_t n) {
    rlf_text target = {rlf_slice_of("Lima")};
    rlf_sampling sampling = {.temperature = 1, .top_p = 1};
    rlf_episode m = {.uid = uid, .samples = w->samples, .attempt = 1, .seed = 9, .version = 4, .prompt = {messages, n},
                     .targets = {&target, 1}, .data_source = rlf_slice_of("nq"), .extra = rlf_slice_of("{}"), .limits = {&w->limits, 1},
                     .sampling = {&sampling, 1}};
    return rollout_episodes_submit(w->set, &m);
}

static rlf_status try_submit(world *w, int64_t uid, const char *question) {
    rlf_said message = {.role = rlf_slice_of("user"), .content = rlf_slice_of(question)};
    return try_submit_talk(w, uid, &message, 1);
}

static void submit(world *w, int64_t uid) {
    if (try_submit(w, uid, "Where?") != RLF_OK) fail_msg("%s", rlf_error_message());
}

static void run(world *w) {
    for (int i = 0; rollout_episodes_alive(w->set); i++) {
        assert_true(i < 20000);
        assert_int_equal(rollout_episodes_step(w->set), RLF_OK);
        while (service_answer(&w->service, w->set)) continue;
    }
}

/* Spans are consecutive, cover all tokens, begin with the prompt, and log-probs are set in model spans alone. */
static void check_trajectory(const rlf_trajectory *t) {
    int64_t at = 0;
    assert_int_equal(t->tokens.n, t->logprobs.n);
    assert_int_equal(t->spans.v[0].kind, RLF_SPAN_PROMPT);
    for (size_t i = 0; i < t->spans.n; i++) {
        const rlf_span *s = &t->spans.v[i];
        assert_int_equal(s->begin, at);
        assert_true(s->end > s->begin);
        assert_int_equal(s->version, 4);
        for (int64_t k = s->begin; k < s->end; k++) assert_int_equal(t->logprobs.v[k] != 0, s->kind == RLF_SPAN_MODEL);
        at = s->end;
    }
    assert_int_equal(at, t->tokens.n);
    assert_int_equal(t->version, 4);
    assert_int_equal(t->attempt, 1);
}

static const rlf_trajectory *only(const world *w) {
    assert_int_equal(w->service.n_trajectories, 1);
    check_trajectory(&w->service.trajectories[0]);
    return &w->service.trajectories[0];
}

/* Runs one scripted episode to its end. */
static const rlf_trajectory *play(world *w, const char *text) {
    script(w, 1, 0, text);
    submit(w, 1);
    run(w);
    assert_int_equal(w->service.closed, 1);
    return only(w);
}

static void assert_span(const world *w, const rlf_trajectory *t, size_t index, rlf_span_kind kind, int64_t turn, const char *text) {
    rlf_str found = {0};
    assert_true(index < t->spans.n);
    const rlf_span *s = &t->spans.v[index];
    rlf_tokenizer_decode(w->tokenizer, t->tokens.v + s->begin, (size_t)(s->end - s->begin), false, &found);
    assert_string_equal(found.ptr, text);
    assert_int_equal(s->kind, kind);
    assert_int_equal(s->turn, turn);
    rlf_str_clean_up(&found);
}

static void assert_text(rlf_slice slice, const char *text) { assert_string_equal(slice.ptr, text); }

#define CALL(tool, argument) "<tool_call>{\"name\":\"" tool "\",\"arguments\":{\"q\":\"" argument "\"}}</tool_call>"
#define PROMPT "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
#define ANSWERED(text) "\n<|im_start|>user\n<tool_response>\n" text "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"

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
        assert_int_equal(try_submit_talk(w, 1, talk, 3), RLF_OK);
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
    assert_int_equal(try_submit(w, 77, question), RLF_LIMIT);
    assert_non_null(strstr(rlf_error_message(), "77"));
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
        assert_int_equal(rollout_episodes_step(w->set), RLF_OK);
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
    while (!w->service.n_requests) assert_int_equal(rollout_episodes_step(w->set), RLF_OK);
    w->limits.timeout_ms = 0;
    submit(w, 2);
    assert_int_equal(rollout_episodes_step(w->set), RLF_OK);
    while (service_answer(&w->service, w->set)) continue;
    for (int i = 0; i < 6; i++) {
        rlf_sleep_us(200000);
        assert_int_equal(rollout_episodes_step(w->set), RLF_OK);
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
    while (!w->service.n_requests) assert_int_equal(rollout_episodes_step(w->set), RLF_OK);
    rlf_observation m = {.uid = 1, .attempt = 1, .turn = 0, .call = 0, .text = rlf_slice_of("stale")};
    rlf_observation other[] = {m, m, m, m, m};
    other[0].uid = 2, other[1].attempt = 0, other[2].turn = 1, other[3].call = 1, other[4].sample = 3;
    for (int i = 0; i < 5; i++) assert_int_equal(rollout_episodes_observe(w->set, &other[i]), RLF_OK);
    rlf_reward reward = {.uid = 1, .attempt = 1};
    assert_int_equal(rollout_episodes_reward(w->set, &reward), RLF_OK);
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
    for (int i = 0; i < 300; i++) assert_int_equal(rollout_episodes_step(w->set), RLF_OK);
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

/* ---- another template ------------------------------------------------------------------------------------------------------------- */

#define LLAMA_CALL(tool, argument) "{\"name\": \"" tool "\", \"parameters\": {\"q\": \"" argument "\"}}"
#define LLAMA_ANSWER(text) "<|start_header_id|>ipython<|end_header_id|>\n\n\"" text "\"<|eot_id|>"
#define LLAMA_TURN "<|start_header_id|>assistant<|end_header_id|>\n\n"

static void llama_turn_that_is_a_call_is_answered_from_ipython(void **state) {
    (void)state;
    world *w = world_with(8, "llama3.1");
    const rlf_trajectory *t = play(w, LLAMA_CALL("echo", "Peru") "<|eot_id|><answer>Lima</answer>");
    assert_int_equal(t->spans.n, 4);
    assert_span(w, t, 0, RLF_SPAN_PROMPT, 0, "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
                "December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhere?<|eot_id|>" LLAMA_TURN);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, LLAMA_CALL("echo", "Peru") "<|eot_id|>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, LLAMA_ANSWER("{\\\"q\\\":\\\"Peru\\\"}") LLAMA_TURN);
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<answer>Lima</answer>");
    assert_text(t->turns.v[0].arguments, "{\"q\":\"Peru\"}");
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void llama_calls_behind_the_python_tag_end_with_the_message(void **state) {
    (void)state;
    world *w = world_with(8, "llama3.1");
    const rlf_trajectory *t = play(w, "<|python_tag|>" LLAMA_CALL("echo", "a") "; " LLAMA_CALL("fail", "") "<|eom_id|>It is so.<|eot_id|>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0,
                LLAMA_ANSWER("{\\\"q\\\":\\\"a\\\"}") LLAMA_ANSWER("error: tool_error: out of cheese") LLAMA_TURN);
    assert_int_equal(t->turns.n, 2);
    assert_text(w->service.last_score.turns.v[0].text, "<|python_tag|>" LLAMA_CALL("echo", "a") "; " LLAMA_CALL("fail", ""));
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void llama_turn_ended_by_end_of_text_is_closed_before_the_observation(void **state) {
    (void)state;
    world *w = world_with(8, "llama3.1");
    const rlf_trajectory *t = play(w, LLAMA_CALL("echo", "<|eot_id|>") "<|end_of_text|><answer>b</answer>");
    assert_int_equal(w->service.calls, 0); /* a control token inside a call is the end of the turn */
    assert_int_equal(t->turns.v[0].status, RLF_CALL_BAD_CALL);
    world_destroy(w);
    w = world_with(8, "llama3.1");
    t = play(w, LLAMA_CALL("echo", "a") "<|end_of_text|><answer>b</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, "<|eot_id|>" LLAMA_ANSWER("{\\\"q\\\":\\\"a\\\"}") LLAMA_TURN);
    world_destroy(w);
}

static void llama_text_that_is_no_call_is_an_answer(void **state) {
    (void)state;
    world *w = world_with(8, "llama3.1");
    const rlf_trajectory *t = play(w, "I would say " LLAMA_CALL("echo", "a") "<|eot_id|>never");
    assert_int_equal(w->service.calls, 0);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

/* ---- formats of tags -------------------------------------------------------------------------------------------------------------- */

#define INFORMATION(text) "\n\n<information>" text "</information>\n\n"
#define RESULT(text) " <result>\n" text "\n</result>"
#define OBSERVED(text) "\nObservation:\n" text "\n"
#define REFUSED                                                                                                                  \
    "My previous action is invalid. If I want to search, I should put the query between <search> and </search>. "                \
    "If I want to give the final answer, I should put the answer between <answer> and </answer>. Let me try again."

static world *world_of_tags(const char *format, const char *search, const char *python) {
    world *w = world_as(8, (rlf_chat_options){.name = "chatml", .tool_format = format, .search_call = search, .python_call = python}, true);
    w->limits.observation_tokens = 300;
    return w;
}

static void answer_to_a_search_stands_in_the_models_own_turn(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "echo.q", "");
    const rlf_trajectory *t = play(w, "<think>not <search>yet</search></think>\n<search> Peru </search>so <answer>Lima</answer>");
    assert_int_equal(t->spans.n, 4);
    assert_span(w, t, 0, RLF_SPAN_PROMPT, 0, PROMPT);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<think>not <search>yet</search></think>\n<search> Peru </search>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, INFORMATION("{\"q\":\"Peru\"}"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "so <answer>Lima</answer>");
    assert_int_equal(t->turns.n, 1);
    assert_text(t->turns.v[0].tool, "echo");
    assert_text(t->turns.v[0].arguments, "{\"q\":\"Peru\"}");
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    assert_int_equal(w->service.last_score.bad_calls, 0);
    world_destroy(w);
}

static void token_that_completes_a_tag_is_kept_with_what_it_holds_behind_it(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "echo.q", "");
    script(w, 1, 0, "<search>ab</search");
    rlf_ids *ids = &w->model->scripts[0].ids;
    rlf_ids_push(ids, BYTE_CLOSE); /* ">!" */
    size_t n = ids->n;
    byte_script("<answer>x</answer", ids);
    rlf_ids_push(ids, BYTE_CLOSE);
    byte_script("never", ids);
    submit(w, 1);
    run(w);
    const rlf_trajectory *t = only(w);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<search>ab</search>!");
    assert_memory_equal(t->tokens.v + t->spans.v[1].begin, ids->v, n * sizeof *ids->v); /* "ab" is still two tokens */
    assert_int_equal(t->spans.v[1].end - t->spans.v[1].begin, n);
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, INFORMATION("{\"q\":\"ab\"}"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<answer>x</answer>!");
    assert_text(w->service.last_score.turns.v[0].text, "<search>ab</search>!");
    world_destroy(w);
}

static void tags_in_an_answer_are_never_read(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "echo.q", "");
    const rlf_trajectory *t = play(w, "<search></information><think><search>b</search></think><answer>x</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, INFORMATION("{\"q\":\"</information><think><search>b\"}"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "</think><answer>x</answer>");
    assert_int_equal(w->service.calls, 1);
    world_destroy(w);
}

static void turn_without_an_action_is_refused_and_counted(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "echo.q", "");
    w->limits.tokens = LONGEST;
    const rlf_trajectory *t = play(w, "Lima</search>It is Lima.<|im_end|><answer>Lima</answer>");
    assert_int_equal(w->service.calls, 0);
    assert_int_equal(t->spans.n, 6);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "Lima</search>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, "\n" REFUSED "\n");
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "It is Lima.<|im_end|>");
    assert_span(w, t, 4, RLF_SPAN_OBSERVATION, 1, "\n<|im_start|>assistant\n\n" REFUSED "\n");
    for (int i = 0; i < 2; i++) assert_int_equal(t->turns.v[i].status, RLF_CALL_BAD_CALL);
    assert_text(t->turns.v[0].answer, REFUSED);
    assert_int_equal(w->service.last_score.bad_calls, 2);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
    w = world_of_tags("search-r1", "echo.q", "");
    t = play(w, "<search>a<|endoftext|><answer>Lima</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, "<|im_end|>\n<|im_start|>assistant\n\n" REFUSED "\n");
    world_destroy(w);
}

static void no_action_after_the_last_round_is_answered(void **state) {
    (void)state;
    static const char *const last[] = {"<search>b</search>", "It is Lima.<|im_end|>", "</search>"};
    for (int i = 0; i < 3; i++) {
        world *w = world_of_tags("search-r1", "echo.q", "");
        rlf_str text = {0};
        w->limits.turns = 1;
        rlf_str_printf(&text, "<search>a</search>%snever", last[i]);
        const rlf_trajectory *t = play(w, text.ptr);
        assert_int_equal(w->service.calls, 1);
        assert_int_equal(t->finish, RLF_FINISH_TURN_LIMIT);
        assert_span(w, t, 3, RLF_SPAN_MODEL, 1, last[i]);
        assert_int_equal(t->spans.n, 4);
        rlf_str_clean_up(&text);
        world_destroy(w);
    }
}

static void two_tags_call_two_tools(void **state) {
    (void)state;
    world *w = world_of_tags("tool-star", "fail.q", "echo.code");
    const rlf_trajectory *t = play(w, "<search>a</search><python>\n1 < 2\n</python></python>It is so.<|im_end|>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, RESULT("error: tool_error: out of cheese"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<python>\n1 < 2\n</python>");
    assert_span(w, t, 4, RLF_SPAN_OBSERVATION, 1, RESULT("{\"code\":\"1 < 2\"}"));
    assert_span(w, t, 6, RLF_SPAN_OBSERVATION, 2, RESULT("error: There is no <python> before </python>."));
    assert_span(w, t, 7, RLF_SPAN_MODEL, 3, "It is so.<|im_end|>");
    assert_int_equal(t->turns.v[0].status, RLF_CALL_TOOL_ERROR);
    assert_int_equal(t->turns.v[2].status, RLF_CALL_BAD_CALL);
    assert_int_equal(w->service.last_score.bad_calls, 1);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void block_of_code_is_a_call(void **state) {
    (void)state;
    world *w = world_of_tags("fenced", "", "echo.code");
    const rlf_trajectory *t = play(w, "I compute.\n```python\n1 +\n  1\n```\nSo <answer>2</answer>");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "I compute.\n```python\n1 +\n  1\n```");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, OBSERVED("{\"code\":\"1 +\\n  1\"}"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "\nSo <answer>2</answer>");
    world_destroy(w);
    w = world_of_tags("fenced", "", "echo.code");
    t = play(w, "```python\n1<|im_end|><answer>2</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0,
                "\n<|im_start|>assistant\n" OBSERVED("error: The block of code is not closed with ``` on a line of its own."));
    assert_int_equal(w->service.last_score.bad_calls, 1);
    world_destroy(w);
}

static void answer_in_the_models_own_turn_is_cut_by_tokens_or_not_asked_for(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "long.q", "");
    w->limits.observation_tokens = 7;
    const rlf_trajectory *t = play(w, "<search>a</search><answer>x</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, INFORMATION("xxxxxxx"));
    assert_true(t->turns.v[0].cut);
    int64_t asked = t->spans.v[2].begin;
    world_destroy(w);
    w = world_of_tags("search-r1", "long.q", "");
    w->limits.tokens = asked + 32; /* the tags around an answer are 31, and one more is to be drawn: no room for the answer */
    t = play(w, "<search>a</search><answer>x</answer>");
    assert_int_equal(w->service.calls, 0);
    assert_int_equal(t->finish, RLF_FINISH_LENGTH_LIMIT);
    world_destroy(w);
}

static void answer_that_does_not_end_the_episode_lets_the_turn_go_on(void **state) {
    (void)state;
    rlf_chat_options chat = {.name = "chatml", .tool_format = "search-r1", .search_call = "echo.q"};
    world *w = world_as(8, chat, false);
    const rlf_trajectory *t = play(w, "<answer>a</answer><search>b</search>hm <answer>c</answer>.<|im_end|>never");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<answer>a</answer><search>b</search>");
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "hm <answer>c</answer>.<|im_end|>");
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

/* ---- a thought that the prompt opened ---------------------------------------------------------------------------------------------- */

#define OPENED(text) "<|im_start|>assistant\n<think>\n" text

static void what_stands_in_an_opened_thought_is_no_call_and_no_answer(void **state) {
    (void)state;
    world *w = world_with(8, "qwen3-thinking");
    const rlf_trajectory *t = play(w, "shall I " CALL("fail", "x") "?</think>" CALL("echo", "Peru")
                                      "<|im_end|><answer>no</answer></think><answer>Lima</answer>");
    assert_span(w, t, 0, RLF_SPAN_PROMPT, 0, "<|im_start|>user\nWhere?<|im_end|>\n" OPENED(""));
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0,
                "\n<|im_start|>user\n<tool_response>\n{\"q\":\"Peru\"}\n</tool_response><|im_end|>\n" OPENED(""));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<answer>no</answer></think><answer>Lima</answer>");
    assert_int_equal(w->service.calls, 1);
    assert_text(t->turns.v[0].tool, "echo");
    assert_text(w->service.last_score.turns.v[1].text, "<think>\n<answer>no</answer></think><answer>Lima</answer>");
    world_destroy(w);
}

static void an_opened_thought_is_over_where_a_turn_goes_on_behind_an_answer(void **state) {
    (void)state;
    world *w = world_as(8, (rlf_chat_options){.name = "qwen3-thinking", .tool_format = "search-r1", .search_call = "echo.q"}, true);
    w->limits.observation_tokens = 300;
    const rlf_trajectory *t = play(w, "<search>no</search></think><search>Peru</search><answer>Lima</answer>");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<search>no</search></think><search>Peru</search>");
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<answer>Lima</answer>");
    assert_int_equal(w->service.calls, 1);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void a_prompt_that_ends_in_a_tools_answer_opens_no_thought(void **state) {
    (void)state;
    world *w = world_as(8, (rlf_chat_options){.name = "qwen3-thinking", .tool_format = "search-r1", .search_call = "echo.q"}, true);
    rlf_said messages[] = {{.role = rlf_slice_of("user"), .content = rlf_slice_of("Where?")},
                           {.role = rlf_slice_of("assistant"), .content = rlf_slice_of("hm</think>\n\n<search>a</search>")},
                           {.role = rlf_slice_of("tool"), .content = rlf_slice_of("b")}};
    script(w, 1, 0, "<search>Peru</search><answer>Lima</answer>");
    if (try_submit_talk(w, 1, messages, 3) != RLF_OK) fail_msg("%s", rlf_error_message());
    run(w);
    const rlf_trajectory *t = only(w);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<search>Peru</search>");
    assert_int_equal(w->service.calls, 1);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_that_ends_in_a_tools_answer_opens_no_thought),
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
        cmocka_unit_test(llama_turn_that_is_a_call_is_answered_from_ipython),
        cmocka_unit_test(llama_calls_behind_the_python_tag_end_with_the_message),
        cmocka_unit_test(llama_turn_ended_by_end_of_text_is_closed_before_the_observation),
        cmocka_unit_test(llama_text_that_is_no_call_is_an_answer),
        cmocka_unit_test(answer_to_a_search_stands_in_the_models_own_turn),
        cmocka_unit_test(token_that_completes_a_tag_is_kept_with_what_it_holds_behind_it),
        cmocka_unit_test(tags_in_an_answer_are_never_read),
        cmocka_unit_test(turn_without_an_action_is_refused_and_counted),
        cmocka_unit_test(no_action_after_the_last_round_is_answered),
        cmocka_unit_test(two_tags_call_two_tools),
        cmocka_unit_test(block_of_code_is_a_call),
        cmocka_unit_test(answer_in_the_models_own_turn_is_cut_by_tokens_or_not_asked_for),
        cmocka_unit_test(answer_that_does_not_end_the_episode_lets_the_turn_go_on),
        cmocka_unit_test(what_stands_in_an_opened_thought_is_no_call_and_no_answer),
        cmocka_unit_test(an_opened_thought_is_over_where_a_turn_goes_on_behind_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
