/* Dispatch and collection of episodes (collect.h). A rollout rank holds at most twice its seats, so that late groups go where there is
 * room; a retried episode draws the same random numbers, because they are keyed by (seed, uid, sample, position) alone. */
#include "trainer/collect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"

typedef struct slot {
    int64_t attempt;
    bool done;
} slot;

typedef struct collection {
    trainer_watch *watch;
    const rlf_config *config;
    const rlf_episode *groups;
    size_t n, samples, next; /* next: first group not handed out */
    slot *slots;             /* (n * samples) */
    int64_t *load;           /* (rollouts) episodes under way */
    size_t remaining;
    trainer_collected *out;
} collection;

/* The rollout rank (index) with the least under way, other than `avoid` where there is another; ties go to the lowest. */
static int least_loaded(const collection *r, int avoid) {
    int best = -1;
    for (int i = 0; i < r->watch->topology.rollouts; i++)
        if ((i != avoid || r->watch->topology.rollouts == 1) && (best < 0 || r->load[i] < r->load[best])) best = i;
    return best;
}

static rlf_status hand_out(collection *r, int rollout, const rlf_episode *episode) {
    int rank = r->watch->topology.rollout_first + rollout;
    char what[64];
    rlf_status status = rlf_send(r->watch->transport, rank, RLF_MSG_EPISODE, episode);
    if (status != RLF_OK) return status;
    r->load[rollout] += episode->samples;
    snprintf(what, sizeof what, "%lld trajectories", (long long)r->load[rollout]);
    trainer_watch_expect(r->watch, rank, episode->samples, r->config->deadline.message_s, what);
    return RLF_OK;
}

static rlf_status hand_out_groups(collection *r) {
    rlf_status status = RLF_OK;
    while (r->next < r->n) {
        int rollout = least_loaded(r, -1);
        if (r->load[rollout] > 0 && r->load[rollout] + (int64_t)r->samples > 2 * r->config->rollout.seats) break;
        RLF_TRY(hand_out(r, rollout, &r->groups[r->next]));
        r->next++;
    }
out:
    return status;
}

static rlf_status try_again(collection *r, size_t index, int failed_on) {
    rlf_episode episode = r->groups[index / r->samples];
    episode.first_sample = (int64_t)(index % r->samples);
    episode.samples = 1;
    episode.attempt = ++r->slots[index].attempt;
    r->out->retried++;
    return hand_out(r, least_loaded(r, failed_on), &episode);
}

/* Decodes and checks what came; *index: of its slot, which is waiting for this very attempt. */
static rlf_status read_trajectory(collection *r, const rlf_received *message, int vocab, rlf_arena *arena, rlf_trajectory *out,
                                  size_t *index) {
    rlf_status status = RLF_OK;
    int rollout = message->from - r->watch->topology.rollout_first;
    if (message->type != RLF_MSG_TRAJECTORY || rollout < 0 || rollout >= r->watch->topology.rollouts)
        RLF_FAIL(PROTOCOL, "unexpected message %s from rank %d while trajectories are collected",
                 rlf_message_name(message->type), message->from);
    RLF_TRY(rlf_message_decode(RLF_MSG_TRAJECTORY, message->bytes.ptr, message->bytes.len, message->from, arena, out));
    int64_t group = out->uid - r->groups[0].uid;
    if (group < 0 || group >= (int64_t)r->n || out->sample < 0 || out->sample >= (int64_t)r->samples)
        RLF_FAIL(PROTOCOL, "rank %d sent a trajectory nobody asked for: uid %lld, sample %lld", message->from, (long long)out->uid,
                 (long long)out->sample);
    *index = (size_t)group * r->samples + (size_t)out->sample;
    if (r->slots[*index].done || out->attempt != r->slots[*index].attempt)
        RLF_FAIL(PROTOCOL, "rank %d sent uid %lld, sample %lld, attempt %lld twice or too late", message->from, (long long)out->uid,
                 (long long)out->sample, (long long)out->attempt);
    status = trainer_trajectory_check(out, r->groups[0].version, vocab);
    if (status != RLF_OK)
        rlf_error_context("trajectory uid %lld, sample %lld from rank %d", (long long)out->uid, (long long)out->sample, message->from);
out:
    return status;
}

/* *taken: the trajectory that filled a slot; NULL where it is tried again. */
static rlf_status accept(collection *r, const rlf_received *message, int vocab, rlf_arena *arena, rlf_trajectory **taken) {
    rlf_status status = RLF_OK;
    rlf_trajectory t;
    size_t index = 0;
    int rollout = message->from - r->watch->topology.rollout_first;
    *taken = NULL;
    RLF_TRY(read_trajectory(r, message, vocab, arena, &t, &index));
    r->load[rollout]--;
    trainer_watch_settle(r->watch, message->from);
    if (t.finish == RLF_FINISH_INFRA && r->slots[index].attempt < r->config->episode.retries) {
        RLF_WARN("uid %lld, sample %lld was lost to infrastructure on rank %d (%.*s): tried again", (long long)t.uid,
                 (long long)t.sample, message->from, (int)(t.error.len < 200 ? t.error.len : 200), t.error.ptr ? t.error.ptr : "");
        RLF_TRY(try_again(r, index, rollout));
        goto out;
    }
    r->slots[index].done = true;
    r->out->v[index] = t;
    r->remaining--;
    *taken = &r->out->v[index];
out:
    return status;
}

rlf_status trainer_collect(trainer_watch *watch, const rlf_config *config, const rlf_episode *groups, size_t n, int vocab, rlf_arena *arena,
                           trainer_collect_fn *each, void *ctx, trainer_collected *out) {
    rlf_status status = RLF_OK;
    memset(out, 0, sizeof *out);
    if (n == 0) return RLF_OK;
    collection r = {.watch = watch, .config = config, .groups = groups, .n = n, .samples = (size_t)groups[0].samples, .out = out};
    int64_t limit_ms = (config->episode.timeout_s + config->deadline.message_s) * 1000;
    r.slots = rlf_calloc(n * r.samples, sizeof *r.slots);
    r.load = rlf_calloc((size_t)watch->topology.rollouts, sizeof *r.load);
    r.remaining = out->n = n * r.samples;
    out->v = rlf_arena_alloc(arena, out->n, sizeof *out->v);
    while (r.remaining > 0) {
        const rlf_received *message;
        rlf_trajectory *taken;
        RLF_TRY(hand_out_groups(&r));
        RLF_TRY(trainer_watch_receive(watch, limit_ms, &message));
        RLF_TRY(accept(&r, message, vocab, arena, &taken));
        if (taken && each) each(ctx, taken);
    }
out:
    free(r.slots);
    free(r.load);
    return status;
}

static rlf_status check_spans(const rlf_trajectory *t, int64_t version) {
    int64_t end = 0;
    for (size_t i = 0; i < t->spans.n; i++) {
        const rlf_span *span = &t->spans.v[i];
        if (span->begin != end || span->end < span->begin || span->end > (int64_t)t->tokens.n)
            return RLF_RAISE(PROTOCOL, "span %zu covers %lld to %lld where one from %lld was expected", i,
                             (long long)span->begin, (long long)span->end, (long long)end);
        if (span->kind < RLF_SPAN_PROMPT || span->kind > RLF_SPAN_OBSERVATION)
            return RLF_RAISE(PROTOCOL, "span %zu has kind %lld", i, (long long)span->kind);
        if (span->kind == RLF_SPAN_MODEL && (span->version != version || span->begin == 0))
            return RLF_RAISE(PROTOCOL, "span %zu was sampled by weights version %lld, wanted %lld", i, (long long)span->version,
                             (long long)version);
        end = span->end;
    }
    if (end != (int64_t)t->tokens.n) return RLF_RAISE(PROTOCOL, "spans cover %lld of %zu tokens", (long long)end, t->tokens.n);
    return RLF_OK;
}

rlf_status trainer_trajectory_check(const rlf_trajectory *t, int64_t version, int vocab) {
    if (t->finish < 0 || t->finish >= RLF_FINISH_COUNT) return RLF_RAISE(PROTOCOL, "finish is %lld", (long long)t->finish);
    if (t->finish == RLF_FINISH_INFRA) return RLF_OK; /* may be cut anywhere; it is never trained on */
    if (t->version != version)
        return RLF_RAISE(PROTOCOL, "weights version %lld where %lld was published", (long long)t->version, (long long)version);
    if (t->logprobs.n != t->tokens.n) return RLF_RAISE(PROTOCOL, "%zu log-probs for %zu tokens", t->logprobs.n, t->tokens.n);
    if (!isfinite(t->reward)) return RLF_RAISE(PROTOCOL, "the reward is not a finite number");
    for (size_t i = 0; i < t->tokens.n; i++)
        if (t->tokens.v[i] < 0 || t->tokens.v[i] >= vocab || !isfinite(t->logprobs.v[i]) || t->logprobs.v[i] > 0)
            return RLF_RAISE(PROTOCOL, "token %zu has id %d (of %d) and log-prob %g", i, (int)t->tokens.v[i], vocab,
                             (double)t->logprobs.v[i]);
    return check_spans(t, version);
}
