/* Episodes on scripted turns: a fake model that says what it is told to, a fake service, and what a trajectory has to be. */
#ifndef RLF_TESTS_UNIT_ROLLOUT_EPISODE_WORLD_H
#define RLF_TESTS_UNIT_ROLLOUT_EPISODE_WORLD_H

#include "fake_service.h"

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

static inline world *world_as(int seats, rlf_chat_options chat, bool stop_at_answer) {
    world *w = rlf_calloc(1, sizeof *w);
    rollout_engine_options options = {.batch = 64, .prefill_chunk = 32, .page_size = PAGE, .pages = 400, .seats = seats,
                                      .max_tokens = LONGEST};
    rollout_episode_options episode = {.max_prompt_tokens = 200, .max_tokens = LONGEST, .max_calls = 3, .stop_at_answer = stop_at_answer};
    w->model = fake_new(PAGE, 400, 256);
    assert_ok(rollout_engine_new(&w->engine, fake_model_of(w->model), &options));
    w->tokenizer = byte_tokenizer();
    assert_ok(rlf_chat_new(&w->chat, w->tokenizer, "", chat));
    w->set = rollout_episodes_new(w->engine, w->chat, &episode, (rollout_port){&w->service, service_send});
    w->limits = (rlf_limits){.turns = 3, .turn_tokens = 200, .observation_tokens = 100, .tokens = 500};
    w->samples = 1;
    return w;
}

static inline world *world_with(int seats, const char *chat) { return world_as(seats, (rlf_chat_options){.name = chat}, true); }
static inline world *world_new(int seats) { return world_with(seats, "chatml"); }

static inline void world_destroy(world *w) {
    rollout_episodes_destroy(w->set);
    rollout_engine_destroy(w->engine);
    rlf_chat_destroy(w->chat);
    rlf_tokenizer_destroy(w->tokenizer);
    rlf_arena_clean_up(&w->service.arena);
    fake_destroy(w->model);
    free(w);
}

/* What the model will say in episode `uid`, over all its turns. */
static inline void script(world *w, int64_t uid, uint32_t sample, const char *text) {
    fake_script *s = &w->model->scripts[w->model->n_scripts++];
    *s = (fake_script){.uid = (uint64_t)uid, .sample = sample};
    byte_script(text, &s->ids);
}

static inline rlf_status try_submit_talk(world *w, int64_t uid, rlf_said *messages, size_t n) {
    rlf_text target = {rlf_slice_of("Lima")};
    rlf_sampling sampling = {.temperature = 1, .top_p = 1};
    rlf_episode m = {.uid = uid, .samples = w->samples, .attempt = 1, .seed = 9, .version = 4, .prompt = {messages, n},
                     .targets = {&target, 1}, .data_source = rlf_slice_of("nq"), .extra = rlf_slice_of("{}"), .limits = {&w->limits, 1},
                     .sampling = {&sampling, 1}};
    return rollout_episodes_submit(w->set, &m);
}

static inline rlf_status try_submit(world *w, int64_t uid, const char *question) {
    rlf_said message = {.role = rlf_slice_of("user"), .content = rlf_slice_of(question)};
    return try_submit_talk(w, uid, &message, 1);
}

static inline void submit(world *w, int64_t uid) {
    assert_ok(try_submit(w, uid, "Where?"));
}

static inline void run(world *w) {
    for (int i = 0; rollout_episodes_alive(w->set); i++) {
        assert_true(i < 20000);
        assert_ok(rollout_episodes_step(w->set));
        while (service_answer(&w->service, w->set)) continue;
    }
}

/* Spans are consecutive, cover all tokens, begin with the prompt, and log-probs are set in model spans alone. */
static inline void check_trajectory(const rlf_trajectory *t) {
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

static inline const rlf_trajectory *only(const world *w) {
    assert_int_equal(w->service.n_trajectories, 1);
    check_trajectory(&w->service.trajectories[0]);
    return &w->service.trajectories[0];
}

/* Runs one scripted episode to its end. */
static inline const rlf_trajectory *play(world *w, const char *text) {
    script(w, 1, 0, text);
    submit(w, 1);
    run(w);
    assert_int_equal(w->service.closed, 1);
    return only(w);
}

static inline void assert_span(const world *w, const rlf_trajectory *t, size_t index, rlf_span_kind kind, int64_t turn, const char *text) {
    rlf_str found = {0};
    assert_true(index < t->spans.n);
    const rlf_span *s = &t->spans.v[index];
    rlf_tokenizer_decode(w->tokenizer, t->tokens.v + s->begin, (size_t)(s->end - s->begin), false, &found);
    assert_string_equal(found.ptr, text);
    assert_int_equal(s->kind, kind);
    assert_int_equal(s->turn, turn);
    rlf_str_clean_up(&found);
}

static inline void assert_text(rlf_slice slice, const char *text) { assert_string_equal(slice.ptr, text); }

#define CALL(tool, argument) "<tool_call>{\"name\":\"" tool "\",\"arguments\":{\"q\":\"" argument "\"}}</tool_call>"
#define PROMPT "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
#define ANSWERED(text) "\n<|im_start|>user\n<tool_response>\n" text "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"

#endif
