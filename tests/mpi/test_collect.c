/* The coordinator's collection over the real transport: rank 0 collects, the others play rollout ranks that answer late, out of
 * order, or lose an episode to infrastructure. What is collected must be the same whatever they do. All ranks vote before the verdict. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "trainer/collect.h"

enum { GROUPS = 7, SAMPLES = 3, FIRST_UID = 41, TOKENS = 4, VOCAB = 100 };

static rlf_transport *g_t;
static rlf_config g_config;

/* Samples that every rank loses at their first attempt; the last of them at every attempt. */
static bool is_lost(int64_t uid, int64_t sample, int64_t attempt) {
    return (uid % 3 == 0 && sample == 1 && attempt == 0) || (uid == FIRST_UID + GROUPS - 1 && sample == 2);
}

static rlf_status answer(const rlf_episode *e, int64_t sample) {
    int32_t tokens[TOKENS] = {1, 2, (int32_t)(e->uid % VOCAB), (int32_t)sample};
    float logprobs[TOKENS] = {0, 0, -1, -0.5f};
    rlf_span spans[] = {{.begin = 0, .end = 2, .kind = RLF_SPAN_PROMPT},
                        {.begin = 2, .end = TOKENS, .kind = RLF_SPAN_MODEL, .version = e->version}};
    bool lost = is_lost(e->uid, sample, e->attempt);
    rlf_trajectory t = {.uid = e->uid, .sample = sample, .attempt = e->attempt, .version = e->version, .tokens = {tokens, TOKENS},
                        .logprobs = {logprobs, TOKENS}, .spans = {spans, 2}, .reward = (double)sample,
                        .finish = lost ? RLF_FINISH_INFRA : RLF_FINISH_ANSWER};
    t.error = rlf_slice_of(lost ? "a trial" : "");
    return rlf_send(g_t, 0, RLF_MSG_TRAJECTORY, &t);
}

/* Answers an EPISODE after a while that differs by rank and group, its samples last first. Returns false at STOP or an error. */
static bool play(const rlf_received *m, rlf_arena *arena, rlf_status *status) {
    rlf_episode e;
    if (m->type != RLF_MSG_EPISODE) return false;
    *status = rlf_message_decode(m->type, m->bytes.ptr, m->bytes.len, m->from, arena, &e);
    rlf_sleep_us((e.uid * 7919 + rlf_transport_rank(g_t) * 104729) % 5 * 2000);
    for (int64_t i = e.samples; *status == RLF_OK && i-- > 0;) *status = answer(&e, e.first_sample + i);
    return *status == RLF_OK;
}

static bool rollout_rank(void) {
    rlf_received message = {0};
    rlf_arena arena = {0};
    rlf_status status = RLF_OK;
    bool got = true, go = true;
    while (go && got) {
        rlf_arena_reset(&arena);
        status = rlf_receive(g_t, &message, 20000, &got);
        if (status != RLF_OK || !got) break;
        go = play(&message, &arena, &status);
    }
    rlf_arena_clean_up(&arena);
    rlf_str_clean_up(&message.bytes);
    return status == RLF_OK && got;
}

static void make_groups(rlf_episode *groups) {
    for (int i = 0; i < GROUPS; i++) {
        groups[i] = (rlf_episode){.uid = FIRST_UID + i, .samples = SAMPLES, .version = 9};
        groups[i].tools = groups[i].data_source = groups[i].extra = rlf_slice_of("");
    }
}

static bool in_order(const trainer_collected *got) {
    bool ok = got->n == GROUPS * SAMPLES;
    int64_t retried = 0;
    for (size_t i = 0; ok && i < got->n; i++) {
        const rlf_trajectory *t = &got->v[i];
        int64_t uid = FIRST_UID + (int64_t)i / SAMPLES, sample = (int64_t)i % SAMPLES;
        bool lost = is_lost(uid, sample, g_config.episode.retries);
        int64_t attempt = lost ? g_config.episode.retries : is_lost(uid, sample, 0);
        ok = t->uid == uid && t->sample == sample && t->attempt == attempt && (t->finish == RLF_FINISH_INFRA) == lost;
        retried += attempt;
    }
    return ok && got->retried == retried;
}

static void count(void *ctx, const rlf_trajectory *t) {
    (void)t;
    ++*(int *)ctx;
}

/* All ranks but the first generate. */
static void watch_rollouts(trainer_watch *watch, int size) {
    trainer_topology top = {.size = size, .tool_first = 1, .rollout_first = 1, .rollouts = size - 1, .learner_first = size};
    trainer_watch_init(watch, g_t, &top, 20000);
}

static bool coordinator(int size) {
    rlf_status status = RLF_OK;
    rlf_episode groups[GROUPS];
    rlf_arena arena = {0};
    trainer_watch watch;
    trainer_collected got = {0};
    int taken = 0;
    watch_rollouts(&watch, size);
    make_groups(groups);
    RLF_TRY(trainer_collect(&watch, &g_config, groups, GROUPS, VOCAB, &arena, count, &taken, &got));
    RLF_TRY(trainer_watch_order(&watch, 1, size - 1, RLF_CONTROL_STOP, 0, "", 0, ""));
out:
    if (status != RLF_OK) fprintf(stderr, "%s\n", rlf_error_message());
    bool ok = status == RLF_OK && in_order(&got) && taken == GROUPS * SAMPLES;
    trainer_watch_clean_up(&watch);
    rlf_arena_clean_up(&arena);
    return ok;
}

/* A rank that owes something and says nothing is named, with what it owes. */
static bool silence_is_an_error(int size) {
    trainer_watch watch;
    const rlf_received *message;
    watch_rollouts(&watch, size);
    trainer_watch_expect(&watch, 1, 1, 0, "a trial");
    bool ok = trainer_watch_receive(&watch, 0, &message) == RLF_TIMEOUT && strstr(rlf_error_message(), "rank 1 (rollout) owes a trial");
    trainer_watch_clean_up(&watch);
    return ok;
}

enum { BEATS = 15, BEAT_MS = 100, STILL_MS = 800 };

/* Samples tokens, and then none. */
static bool beats(void) {
    rlf_status status = RLF_OK;
    for (int64_t done = 1; done <= BEATS && status == RLF_OK; done++) {
        rlf_heartbeat beat = {.doing = rlf_slice_of("generate"), .done = done};
        status = rlf_send(g_t, 0, RLF_MSG_HEARTBEAT, &beat);
        rlf_sleep_us(BEAT_MS * 1000);
    }
    return status == RLF_OK;
}

/* While tokens are sampled, and no longer, it is no error that nothing is finished. */
static bool a_wait_is_as_long_as_tokens_are_sampled(int size) {
    trainer_watch watch;
    const rlf_received *message;
    watch_rollouts(&watch, size);
    trainer_watch_expect(&watch, 1, 1, 20, "a trial");
    bool ok = trainer_watch_receive(&watch, STILL_MS, &message) == RLF_TIMEOUT && watch.peers[1].done == BEATS &&
              strstr(rlf_error_message(), "s: rank 1 (rollout) owes a trial; it says it is generate");
    trainer_watch_clean_up(&watch);
    return ok;
}

/* A tool rank that owes nothing is watched too; but what rank 0 itself slept through is no silence. */
static bool a_silent_tool_rank_is_an_error(int size) {
    trainer_watch watch;
    const rlf_received *message;
    trainer_topology top = {.size = size, .tool_first = 1, .tools = 1, .rollout_first = 2, .rollouts = size - 2, .learner_first = size};
    trainer_watch_init(&watch, g_t, &top, 1000);
    rlf_sleep_us(1200000);
    bool ok = trainer_watch_receive(&watch, 200, &message) == RLF_TIMEOUT && strstr(rlf_error_message(), "nothing was finished");
    ok = ok && trainer_watch_receive(&watch, 0, &message) == RLF_TIMEOUT && strstr(rlf_error_message(), "rank 1 (tool) has been silent for 1 s");
    trainer_watch_clean_up(&watch);
    return ok;
}

int main(int argc, char **argv) {
    if (rlf_transport_new(&g_t, &argc, &argv) != RLF_OK) return EXIT_FAILURE;
    int rank = rlf_transport_rank(g_t), size = rlf_transport_size(g_t), all = 0;
    rlf_log_init(rank, "test", RLF_LOG_ERROR);
    g_config.episode.retries = 2;
    g_config.episode.timeout_s = 20;
    g_config.deadline.message_s = 20;
    g_config.rollout.seats = 2;
    int ok = rank > 0 ? rollout_rank() && (rank > 1 || beats())
                      : coordinator(size) && a_wait_is_as_long_as_tokens_are_sampled(size) && silence_is_an_error(size) &&
                            a_silent_tool_rank_is_an_error(size);
    MPI_Allreduce(&ok, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (rlf_transport_destroy(g_t, 5000) != RLF_OK) rlf_transport_abort(g_t, 1);
    if (rank == 0) printf("%s\n", all ? "ok" : "FAILED");
    return all ? EXIT_SUCCESS : EXIT_FAILURE;
}
