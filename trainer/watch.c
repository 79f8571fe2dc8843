/* The coordinator's waiting room (watch.h). */
#include "trainer/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"

enum { POLL_MS = 100, AWAY_MS = 1000 };

void trainer_watch_init(trainer_watch *watch, rlf_transport *transport, const trainer_topology *topology, int64_t silence_ms) {
    memset(watch, 0, sizeof *watch);
    watch->transport = transport;
    watch->topology = *topology;
    watch->silence_ms = silence_ms;
    watch->checked_ms = rlf_now_ms();
    watch->peers = rlf_calloc((size_t)topology->size, sizeof *watch->peers);
    for (int rank = 0; rank < topology->size; rank++) watch->peers[rank].since_ms = watch->checked_ms;
}

void trainer_watch_clean_up(trainer_watch *watch) {
    for (int rank = 0; rank < watch->topology.size; rank++) free(watch->peers[rank].counts);
    free(watch->peers);
    rlf_str_clean_up(&watch->in.bytes);
    rlf_arena_clean_up(&watch->scratch);
    memset(watch, 0, sizeof *watch);
}

void trainer_watch_expect(trainer_watch *watch, int rank, int64_t n, int64_t deadline_s, const char *what) {
    trainer_peer *peer = &watch->peers[rank];
    if (peer->owes == 0) peer->since_ms = rlf_now_ms();
    peer->owes += n;
    peer->deadline_ms = deadline_s * 1000;
    snprintf(peer->what, sizeof peer->what, "%s", what);
}

void trainer_watch_settle(trainer_watch *watch, int rank) {
    if (watch->peers[rank].owes > 0) watch->peers[rank].owes--;
}

static const char *role_of(const trainer_watch *watch, int rank) {
    return trainer_role_name(trainer_topology_role(&watch->topology, rank));
}

static rlf_status silence(const trainer_watch *watch, int rank, int64_t now) {
    const trainer_peer *peer = &watch->peers[rank];
    return RLF_RAISE(TIMEOUT, "rank %d (%s) %s%s%shas been silent for %lld s; %s%s", rank, role_of(watch, rank),
                     peer->owes ? "owes " : "", peer->owes ? peer->what : "", peer->owes ? " and " : "",
                     (long long)((now - peer->since_ms) / 1000),
                     peer->doing[0] ? "it was last heard " : "it never said what it was doing", peer->doing);
}

static int64_t later(int64_t time_ms, int64_t by_ms, int64_t now) { return time_ms + by_ms < now ? time_ms + by_ms : now; }

/* What came while rank 0 was away is still to be taken, and where all were suspended nothing came. */
static void pass_over(trainer_watch *watch, int64_t away_ms, int64_t now) {
    watch->moved_ms = later(watch->moved_ms, away_ms, now);
    for (int rank = 1; rank < watch->topology.size; rank++)
        watch->peers[rank].since_ms = later(watch->peers[rank].since_ms, away_ms, now);
}

static bool is_too_silent(const trainer_watch *watch, int rank, int64_t now) {
    const trainer_peer *peer = &watch->peers[rank];
    if (peer->owes > 0) return now - peer->since_ms > peer->deadline_ms;
    return trainer_topology_role(&watch->topology, rank) == TRAINER_TOOL && now - peer->since_ms > watch->silence_ms;
}

static rlf_status check_silence(trainer_watch *watch) {
    int64_t now = rlf_now_ms(), passed_ms = now - watch->checked_ms;
    if (passed_ms < POLL_MS) return RLF_OK;
    if (passed_ms > AWAY_MS) pass_over(watch, passed_ms, now);
    watch->checked_ms = now;
    for (int rank = 1; rank < watch->topology.size; rank++)
        if (is_too_silent(watch, rank, now)) return silence(watch, rank, now);
    return RLF_OK;
}

static rlf_status whole_wait_passed(const trainer_watch *watch, int64_t waited_ms) {
    for (int rank = 1; rank < watch->topology.size; rank++) {
        const trainer_peer *peer = &watch->peers[rank];
        if (peer->owes > 0)
            return RLF_RAISE(TIMEOUT, "nothing was finished for %lld s: rank %d (%s) owes %s; it says it is %s",
                             (long long)(waited_ms / 1000), rank,
                             role_of(watch, rank), peer->what, peer->doing[0] ? peer->doing : "(nothing)");
    }
    return RLF_RAISE(TIMEOUT, "nothing was finished for %lld s, and no rank owes anything", (long long)(waited_ms / 1000));
}

static void note_phase(trainer_peer *peer, const rlf_metric *metric) {
    char name[sizeof peer->phases[0].name];
    snprintf(name, sizeof name, "%.*s", (int)(metric->name.len < sizeof name ? metric->name.len : sizeof name - 1), metric->name.ptr);
    for (size_t i = 0; i < peer->n_phases; i++) {
        if (strcmp(peer->phases[i].name, name) != 0) continue;
        peer->phases[i].seconds = metric->value;
        return;
    }
    if (peer->n_phases == TRAINER_MAX_PHASES) return;
    trainer_phase *phase = &peer->phases[peer->n_phases++];
    memcpy(phase->name, name, sizeof name);
    phase->seconds = metric->value;
}

static void note_count(trainer_peer *peer, const rlf_metric *metric) {
    enum { MOST = 16384 };
    for (size_t i = 0; i < peer->n_counts; i++) {
        if (!rlf_slice_eq(metric->name, peer->counts[i].name)) continue;
        peer->counts[i].n = metric->value;
        return;
    }
    if (peer->n_counts == MOST || metric->name.len >= sizeof peer->counts[0].name) return;
    peer->counts = rlf_grow(peer->counts, peer->n_counts, &peer->cap_counts, sizeof *peer->counts);
    trainer_count *count = &peer->counts[peer->n_counts++];
    snprintf(count->name, sizeof count->name, "%.*s", (int)metric->name.len, metric->name.ptr);
    count->n = metric->value;
}

static rlf_status note_heartbeat(trainer_watch *watch) {
    rlf_heartbeat beat;
    rlf_status status = RLF_OK;
    trainer_peer *peer = &watch->peers[watch->in.from];
    RLF_TRY(rlf_message_decode(RLF_MSG_HEARTBEAT, watch->in.bytes.ptr, watch->in.bytes.len, watch->in.from, &watch->scratch, &beat));
    snprintf(peer->doing, sizeof peer->doing, "%.*s", (int)(beat.doing.len < 90 ? beat.doing.len : 90), beat.doing.ptr);
    if (beat.done > peer->done && trainer_topology_role(&watch->topology, watch->in.from) == TRAINER_ROLLOUT)
        watch->moved_ms = rlf_now_ms();
    peer->done = beat.done;
    for (size_t i = 0; i < beat.phases.n; i++) {
        const rlf_metric *metric = &beat.phases.v[i];
        if (memchr(metric->name.ptr, '.', metric->name.len)) note_count(peer, metric);
        else note_phase(peer, metric);
    }
out:
    return status;
}

/* An error of another rank comes in its own words, which name rank, role and place. */
static rlf_status check_error(trainer_watch *watch) {
    rlf_control control;
    rlf_status status = RLF_OK;
    RLF_TRY(rlf_message_decode(RLF_MSG_CONTROL, watch->in.bytes.ptr, watch->in.bytes.len, watch->in.from, &watch->scratch, &control));
    if (control.kind == RLF_CONTROL_ERROR)
        RLF_FAIL(PEER, "%.*s", (int)(control.text.len < 1000 ? control.text.len : 1000), control.text.ptr);
out:
    return status;
}

rlf_status trainer_watch_receive(trainer_watch *watch, int64_t limit_ms, const rlf_received **message) {
    rlf_status status = RLF_OK;
    watch->moved_ms = rlf_now_ms();
    for (;;) {
        bool got = false;
        RLF_TRY(rlf_receive(watch->transport, &watch->in, POLL_MS, &got));
        if (watch->tick) watch->tick(watch->tick_ctx);
        if (got) {
            rlf_arena_reset(&watch->scratch);
            watch->peers[watch->in.from].since_ms = rlf_now_ms();
            if (watch->in.type == RLF_MSG_CONTROL) RLF_TRY(check_error(watch));
            if (watch->in.type != RLF_MSG_HEARTBEAT) break;
            RLF_TRY(note_heartbeat(watch));
        }
        RLF_TRY(check_silence(watch));
        int64_t still_ms = rlf_now_ms() - watch->moved_ms;
        if (limit_ms > 0 && still_ms > limit_ms) RLF_TRY(whole_wait_passed(watch, still_ms));
    }
    *message = &watch->in;
out:
    return status;
}

rlf_status trainer_watch_order(trainer_watch *watch, int first, int count, rlf_control_kind kind, int64_t value,
                               const char *text, int64_t deadline_s, const char *what) {
    rlf_status status = RLF_OK;
    rlf_control control = {.kind = kind, .value = value, .text = rlf_slice_of(text)};
    for (int rank = first; rank < first + count; rank++) {
        RLF_TRY(rlf_send(watch->transport, rank, RLF_MSG_CONTROL, &control));
        if (deadline_s > 0) trainer_watch_expect(watch, rank, 1, deadline_s, what);
    }
out:
    return status;
}

static int64_t owed(const trainer_watch *watch) {
    int64_t n = 0;
    for (int rank = 1; rank < watch->topology.size; rank++) n += watch->peers[rank].owes;
    return n;
}

rlf_status trainer_watch_gather(trainer_watch *watch, rlf_control_kind kind, trainer_reply_fn *each, void *ctx) {
    rlf_status status = RLF_OK;
    while (owed(watch) > 0) {
        const rlf_received *message;
        rlf_control control = {0};
        RLF_TRY(trainer_watch_receive(watch, 0, &message));
        if (message->type == RLF_MSG_CONTROL)
            RLF_TRY(rlf_message_decode(RLF_MSG_CONTROL, message->bytes.ptr, message->bytes.len, message->from, &watch->scratch, &control));
        if (message->type != RLF_MSG_CONTROL || control.kind != kind || watch->peers[message->from].owes == 0)
            RLF_FAIL(PROTOCOL, "unexpected message %s (kind %lld) from rank %d (%s)", rlf_message_name(message->type),
                     (long long)control.kind, message->from, role_of(watch, message->from));
        trainer_watch_settle(watch, message->from);
        if (each) RLF_TRY(each(ctx, message->from, &control));
    }
out:
    return status;
}

void trainer_watch_mark(trainer_watch *watch) {
    for (int rank = 0; rank < watch->topology.size; rank++)
        for (size_t i = 0; i < watch->peers[rank].n_phases; i++) watch->peers[rank].phases[i].mark = watch->peers[rank].phases[i].seconds;
}
