/* What an episode test needs around the episodes: a tool service that answers when and in which order the test says, and
 * the trajectories kept for inspection.
 *
 * Tools of the service: "echo" answers its arguments; "long" 300 letters; "fail", "late", "unknown" with status tool_error,
 * timeout, bad_call; "infra" with infra_error; "done" says done; "mute" never answers. */
#ifndef RLF_TESTS_ROLLOUT_FAKE_SERVICE_H
#define RLF_TESTS_ROLLOUT_FAKE_SERVICE_H

#include <stdio.h>

#include "common/base/rng.h"
#include "byte_tokenizer.h"
#include "fake_model.h"
#include "rollout/episode.h"

enum { SERVICE_MAX = 512 };

typedef struct fake_request {
    bool score;
    int64_t uid, sample, attempt, turn, call;
    char tool[16], arguments[512];
    uint64_t order;
} fake_request;

typedef struct fake_service {
    fake_request requests[SERVICE_MAX];
    int n_requests;
    uint64_t shuffle; /* 0: answers in the order of arrival; else a seeded other order */
    uint64_t counter;
    bool hold;        /* nothing is answered while set */
    int opened, calls, most_calls, scored, closed;
    rlf_score last_score;
    int64_t reward_status;
    rlf_arena arena;
    rlf_trajectory trajectories[SERVICE_MAX];
    int n_trajectories;
} fake_service;

static inline void service_add(fake_service *s, fake_request request) {
    assert_true(s->n_requests < SERVICE_MAX);
    request.order = s->shuffle ? fake_mix(s->shuffle ^ fake_mix(s->counter)) : s->counter;
    s->counter++;
    s->requests[s->n_requests++] = request;
}

/* A copy that outlives the message. */
static inline void keep(fake_service *s, rlf_message_type type, const void *record, void *copy) {
    rlf_str bytes = {0};
    rlf_message_encode(type, record, &bytes);
    assert_ok(rlf_message_decode(type, bytes.ptr, bytes.len, 0, &s->arena, copy));
    rlf_str_clean_up(&bytes);
}

static inline rlf_status service_send(void *ctx, rlf_message_type type, const void *record) {
    fake_service *s = ctx;
    if (type == RLF_MSG_OPEN) s->opened++;
    if (type == RLF_MSG_CLOSE) s->closed++;
    if (type == RLF_MSG_CALL) {
        const rlf_call *m = record;
        fake_request request = {.uid = m->uid, .sample = m->sample, .attempt = m->attempt, .turn = m->turn, .call = m->call};
        snprintf(request.tool, sizeof request.tool, "%s", m->tool.ptr);
        snprintf(request.arguments, sizeof request.arguments, "%s", m->arguments.ptr);
        service_add(s, request);
        s->calls++;
        if (s->n_requests > s->most_calls) s->most_calls = s->n_requests;
    }
    if (type == RLF_MSG_SCORE) {
        const rlf_score *m = record;
        keep(s, type, m, &s->last_score);
        service_add(s, (fake_request){.score = true, .uid = m->uid, .sample = m->sample, .attempt = m->attempt});
        s->scored++;
    }
    if (type == RLF_MSG_TRAJECTORY) {
        assert_true(s->n_trajectories < SERVICE_MAX);
        keep(s, type, record, &s->trajectories[s->n_trajectories++]);
    }
    return RLF_OK;
}

static inline void answer_call(rollout_episodes *set, const fake_request *r) {
    char text[640];
    rlf_observation m = {.uid = r->uid, .sample = r->sample, .attempt = r->attempt, .turn = r->turn, .call = r->call, .latency_ms = 2.5};
    snprintf(text, sizeof text, "%s", r->arguments);
    if (!strcmp(r->tool, "long")) memset(text, 'x', 300), text[300] = 0;
    if (!strcmp(r->tool, "fail")) m.status = RLF_CALL_TOOL_ERROR, snprintf(text, sizeof text, "out of cheese");
    if (!strcmp(r->tool, "late")) m.status = RLF_CALL_TIMEOUT, snprintf(text, sizeof text, "no answer in 5 ms");
    if (!strcmp(r->tool, "unknown")) m.status = RLF_CALL_BAD_CALL, snprintf(text, sizeof text, "error: no tool is named unknown");
    if (!strcmp(r->tool, "infra")) m.status = RLF_CALL_INFRA, snprintf(text, sizeof text, "connection refused");
    m.done = !strcmp(r->tool, "done");
    m.text = rlf_slice_of(text);
    assert_ok(rollout_episodes_observe(set, &m));
}

static inline void answer_score(fake_service *s, rollout_episodes *set, const fake_request *r) {
    rlf_component parts[] = {{rlf_slice_of("exact_match"), 1, 0.5}, {rlf_slice_of("format"), 0.25, 1}};
    rlf_reward m = {.uid = r->uid, .sample = r->sample, .attempt = r->attempt, .status = s->reward_status, .components = {parts, 2}};
    assert_ok(rollout_episodes_reward(set, &m));
}

/* Answers one request, the first in the service's order; false if there is none that it answers. */
static inline bool service_answer(fake_service *s, rollout_episodes *set) {
    int first = -1;
    for (int i = 0; i < s->n_requests && !s->hold; i++)
        if (strcmp(s->requests[i].tool, "mute") && (first < 0 || s->requests[i].order < s->requests[first].order)) first = i;
    if (first < 0) return false;
    fake_request request = s->requests[first];
    s->requests[first] = s->requests[--s->n_requests];
    if (request.score) answer_score(s, set, &request);
    else answer_call(set, &request);
    return true;
}

static inline const rlf_trajectory *service_trajectory(const fake_service *s, int64_t uid, int64_t sample) {
    for (int i = 0; i < s->n_trajectories; i++)
        if (s->trajectories[i].uid == uid && s->trajectories[i].sample == sample) return &s->trajectories[i];
    fail_msg("no trajectory of episode %lld sample %lld", (long long)uid, (long long)sample);
    return NULL;
}

#endif
