/* Coordinator and learners: update, hand-over, checkpoint, and the account of who did what (job.h). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "trainer/job.h"

/* ---- update --------------------------------------------------------------------------------------------------------------------- */

static rlf_status send_shares(trainer_job *job, trainer_plan *plan, int64_t update, int64_t updates, double lr) {
    rlf_status status = RLF_OK;
    const trainer_topology *top = &job->watch.topology;
    char what[64];
    snprintf(what, sizeof what, "update %lld of step %lld", (long long)update + 1, (long long)job->state.step + 1);
    for (int i = 0; i < top->learners; i++) {
        rlf_batch *batch = &plan->share[i];
        batch->step = job->state.step;
        batch->update = update;
        batch->updates = updates;
        batch->lr = lr;
        RLF_TRY(rlf_send(job->transport, top->learner_first + i, RLF_MSG_BATCH, batch));
        trainer_watch_expect(&job->watch, top->learner_first + i, 1, job->config->deadline.message_s, what);
    }
out:
    return status;
}

static void raise_to(double *max, double value) {
    if (!(value <= *max)) *max = value; /* a NaN stays */
}

/* Shares of sums add up; the norm is the same on every learner, so the first one's is taken. */
static void learn(trainer_job *job, const rlf_step *step, int rank, trainer_learned *learned) {
    for (size_t i = 0; i < step->metrics.n; i++) {
        rlf_slice name = step->metrics.v[i].name;
        double value = step->metrics.v[i].value;
        if (rlf_slice_eq(name, "loss")) learned->loss += value;
        else if (rlf_slice_eq(name, "kl")) learned->kl += value;
        else if (rlf_slice_eq(name, "entropy")) learned->entropy += value;
        else if (rlf_slice_eq(name, "clipped")) learned->clipped += value;
        else if (rlf_slice_eq(name, "tokens")) learned->tokens += value;
        else if (rlf_slice_eq(name, "logprob_mismatches")) learned->mismatches += value;
        else if (rlf_slice_eq(name, "logprob_diff_sum")) learned->diff_sum += value;
        else if (rlf_slice_eq(name, "logprob_diff_max")) raise_to(&learned->diff_max, value);
        else if (rlf_slice_eq(name, "train_s")) job->train_s[rank] += value;
        else if (rlf_slice_eq(name, "grad_norm") && rank == job->watch.topology.learner_first) learned->grad_norm += value;
    }
}

/* The replies in rank order, so that sums do not depend on arrival. */
static rlf_status take_replies(trainer_job *job, int64_t update, trainer_learned *learned) {
    rlf_status status = RLF_OK;
    const trainer_topology *top = &job->watch.topology;
    rlf_step *replies = rlf_arena_alloc(&job->arena, (size_t)top->learners, sizeof *replies);
    bool *have = rlf_arena_alloc(&job->arena, (size_t)top->learners, sizeof *have);
    for (int missing = top->learners; missing > 0; missing--) {
        const rlf_received *message;
        RLF_TRY(trainer_watch_receive(&job->watch, 0, &message));
        int i = message->from - top->learner_first;
        if (message->type != RLF_MSG_STEP || i < 0 || have[i])
            RLF_FAIL(PROTOCOL, "unexpected message %s from rank %d while an update is under way",
                     rlf_message_name(message->type), message->from);
        RLF_TRY(rlf_message_decode(RLF_MSG_STEP, message->bytes.ptr, message->bytes.len, message->from, &job->arena, &replies[i]));
        if (replies[i].step != job->state.step || replies[i].update != update)
            RLF_FAIL(PROTOCOL, "rank %d answered for step %lld, update %lld; step %lld, update %lld is under way", message->from,
                     (long long)replies[i].step, (long long)replies[i].update, (long long)job->state.step, (long long)update);
        have[i] = true;
        trainer_watch_settle(&job->watch, message->from);
    }
    for (int i = 0; i < top->learners; i++) learn(job, &replies[i], top->learner_first + i, learned);
out:
    return status;
}

rlf_status trainer_exchange_update(trainer_job *job, trainer_plan *plan, int64_t update, int64_t updates, double lr,
                                   trainer_learned *learned) {
    rlf_status status = RLF_OK;
    if (plan->model_tokens == 0) {
        learned->skipped++;
        return RLF_OK;
    }
    RLF_TRY(send_shares(job, plan, update, updates, lr));
    RLF_TRY(take_replies(job, update, learned));
    learned->updates++;
    raise_to(&job->state.logprob_diff_max, learned->diff_max);
out:
    return status;
}

/* ---- hand-over ------------------------------------------------------------------------------------------------------------------ */

typedef struct checksums {
    char text[32];
    int rank;
    int64_t version;
} checksums;

static rlf_status compare(void *ctx, int rank, const rlf_control *control) {
    checksums *first = ctx;
    char text[sizeof first->text];
    snprintf(text, sizeof text, "%.*s", (int)(control->text.len < 31 ? control->text.len : 31), control->text.ptr);
    if (control->value != first->version)
        return RLF_RAISE(PROTOCOL, "rank %d holds weights version %lld where %lld was handed over", rank, (long long)control->value,
                         (long long)first->version);
    if (!first->text[0]) {
        memcpy(first->text, text, sizeof text);
        first->rank = rank;
    }
    if (strcmp(first->text, text) != 0)
        return RLF_RAISE(PROTOCOL, "weights version %lld differ: checksum %s on rank %d, %s on rank %d",
                         (long long)first->version, first->text, first->rank, text, rank);
    return RLF_OK;
}

rlf_status trainer_exchange_publish(trainer_job *job, int64_t version) {
    rlf_status status = RLF_OK;
    const trainer_topology *top = &job->watch.topology;
    checksums first = {.version = version};
    char what[64];
    snprintf(what, sizeof what, "the hand-over of weights version %lld", (long long)version);
    RLF_TRY(trainer_watch_order(&job->watch, top->learner_first, top->learners, RLF_CONTROL_PUBLISH, version, "",
                                job->config->deadline.message_s, what));
    RLF_TRY(trainer_watch_order(&job->watch, top->rollout_first, top->rollouts, RLF_CONTROL_PUBLISH, version, "",
                                job->config->deadline.message_s, what));
    RLF_TRY(trainer_watch_gather(&job->watch, RLF_CONTROL_PUBLISHED, compare, &first));
    job->published = version;
out:
    return status;
}

/* ---- checkpoint ----------------------------------------------------------------------------------------------------------------- */

rlf_status trainer_exchange_save(trainer_job *job) {
    rlf_status status = RLF_OK;
    const trainer_topology *top = &job->watch.topology;
    rlf_str folder = {0};
    if (job->saved_step == job->state.step) return RLF_OK;
    RLF_TRY(trainer_checkpoint_begin(job->config, job->state.step, &folder));
    RLF_TRY(trainer_watch_order(&job->watch, top->learner_first, 1, RLF_CONTROL_SAVE, job->state.step, folder.ptr,
                                job->config->deadline.message_s, "a checkpoint"));
    RLF_TRY(trainer_watch_gather(&job->watch, RLF_CONTROL_SAVED, NULL, NULL));
    RLF_TRY(trainer_metrics_sync(&job->metrics));
    RLF_TRY(trainer_checkpoint_commit(job->config, &job->state, &job->checkpoint));
    job->saved_step = job->state.step;
    trainer_progress_clear(&job->progress);
    RLF_INFO("checkpoint %s", job->checkpoint.ptr);
out:
    rlf_str_clean_up(&folder);
    return status;
}

/* ---- account -------------------------------------------------------------------------------------------------------------------- */

void trainer_learned_put(const trainer_learned *l, double lr, bool policy, json_t *object) {
    double n = (double)l->updates;
    trainer_put_real(object, "loss", l->loss / n);
    trainer_put_real(object, "grad_norm", l->grad_norm / n);
    trainer_put_real(object, "lr", lr);
    trainer_put_real(object, "entropy", l->entropy / n);
    json_object_set_new(object, "loss_tokens", json_integer((json_int_t)l->tokens));
    json_object_set_new(object, "updates", json_integer(l->updates));
    if (!policy) return;
    trainer_put_real(object, "kl", l->kl / n);
    trainer_put_real(object, "clip_share", l->clipped / n);
    trainer_put_real(object, "logprob_diff_max", l->diff_max);
    json_object_set_new(object, "logprob_mismatches", json_integer((json_int_t)l->mismatches));
    json_object_set_new(object, "updates_skipped", json_integer(l->skipped));
}

static json_t *phases_of(const trainer_job *job, int rank, double wall_s) {
    const trainer_peer *peer = &job->watch.peers[rank];
    json_t *phases = json_object();
    double busy = 0;
    if (rank >= job->watch.topology.learner_first) {
        trainer_put_real(phases, "train", job->train_s[rank]);
        trainer_put_real(phases, "idle", wall_s > job->train_s[rank] ? wall_s - job->train_s[rank] : 0);
        return phases;
    }
    for (size_t i = 0; i < peer->n_phases; i++) {
        trainer_put_real(phases, peer->phases[i].name, peer->phases[i].seconds - peer->phases[i].mark);
        busy += peer->phases[i].seconds - peer->phases[i].mark;
    }
    if (!json_object_get(phases, "idle")) trainer_put_real(phases, "idle", wall_s > busy ? wall_s - busy : 0);
    return phases;
}

rlf_status trainer_exchange_stop_tools(trainer_job *job) {
    rlf_status status = RLF_OK;
    const trainer_topology *top = &job->watch.topology;
    if (top->tools == 0) return RLF_OK;
    RLF_TRY(trainer_watch_order(&job->watch, top->tool_first, top->tools, RLF_CONTROL_STOP, 0, "done", job->config->deadline.message_s,
                                "its last counts"));
    RLF_TRY(trainer_watch_gather(&job->watch, RLF_CONTROL_STOPPED, NULL, NULL));
out:
    return status;
}

json_t *trainer_counts_json(const trainer_watch *watch) {
    json_t *sums = json_object();
    for (int rank = 1; rank < watch->topology.size; rank++) {
        const trainer_peer *peer = &watch->peers[rank];
        for (size_t i = 0; i < peer->n_counts; i++) {
            json_int_t before = json_integer_value(json_object_get(sums, peer->counts[i].name));
            json_object_set_new(sums, peer->counts[i].name, json_integer(before + (json_int_t)peer->counts[i].n));
        }
    }
    return sums;
}

void trainer_phases_put(trainer_job *job, double wall_s, json_t *object) {
    const trainer_topology *top = &job->watch.topology;
    json_t *ranks = json_object();
    for (int rank = 1; rank < top->size; rank++) {
        char name[48];
        snprintf(name, sizeof name, "rank %d %s", rank, trainer_role_name(trainer_topology_role(top, rank)));
        json_object_set_new(ranks, name, phases_of(job, rank, wall_s));
        job->train_s[rank] = 0;
    }
    trainer_watch_mark(&job->watch);
    json_object_set_new(object, "phases", ranks);
    json_object_set_new(object, "tools", trainer_counts_json(&job->watch));
}
