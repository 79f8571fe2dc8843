/* Rank 0 (trainer.h): opens the job, waits until every rank is ready, drives the steps, checkpoints, stops.
 *
 * At the boundary of a step the order is: step, evaluation where one is due, checkpoint where one is due, stop where one was asked for.
 * So a checkpoint holds the results of every evaluation before it, and a resumed run does again only what was lost. SIGTERM and SIGUSR1
 * are asked-for stops: the step under way ends, a checkpoint is written, and the job ends with status 0, to be continued by the same
 * command. An evaluation that was due then is made first when the run goes on, and added to that checkpoint. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/outfile.h"
#include "kernels/kern.h"
#include "trainer/files.h"
#include "trainer/folder.h"
#include "trainer/job.h"
#include "trainer/signals.h"
#include "trainer/trainer.h"

/* ---- opening -------------------------------------------------------------------------------------------------------------------- */

static rlf_status open_data(trainer_job *job) {
    trainer_lengths train, eval;
    rlf_status status = trainer_data_load(job, &train, &eval);
    if (status == RLF_OK && train.rows) trainer_order_init(&job->order, (uint64_t)job->config->seed, job->train.n, job->config->data.shuffle);
    return status;
}

/* Nothing is removed before the folder is this job's alone. */
static rlf_status open_state(trainer_job *job) {
    rlf_status status = RLF_OK;
    const rlf_config *config = job->config;
    bool evaluates = trainer_mode_is(config, "eval");
    RLF_TRY(trainer_folder_lock(config->output, &job->lock));
    RLF_TRY(trainer_folder_read(config, &job->state, &job->checkpoint));
    job->steps = evaluates ? 0 : config->train.steps;
    job->published = evaluates ? 0 : -1;
    job->start_step = job->saved_step = job->state.step;
    if (job->start_step > 0) RLF_INFO("going on from %s", job->checkpoint.ptr);
    if (!evaluates) RLF_TRY(trainer_checkpoint_tidy(config));
out:
    return status;
}

static bool due(int64_t every, int64_t step, int64_t steps) { return step == steps || (every > 0 && step > 0 && step % every == 0); }

static bool evaluation_is_due(const trainer_job *job) {
    const rlf_config *config = job->config;
    if (!config->data.eval[0] || trainer_evaluated(job, job->state.step)) return false;
    return due(config->train.eval_every, job->state.step, job->steps) || (job->state.step == 0 && config->train.eval_at_start);
}

/* A run that goes on is not done: its summary is of fewer steps, and the checkpoint that `final` links to may be pruned. */
static rlf_status reopen(const trainer_job *job) {
    rlf_status status = RLF_OK;
    rlf_str summary = {0}, link = {0};
    rlf_str_printf(&summary, "%s/summary.json", job->config->output);
    rlf_str_printf(&link, "%s/final", job->config->output);
    RLF_TRY(trainer_unlink(link.ptr));
    RLF_TRY(trainer_remove_tree(summary.ptr));
out:
    rlf_str_clean_up(&summary);
    rlf_str_clean_up(&link);
    return status;
}

static rlf_status write_config(const rlf_config *config) {
    rlf_str path = {0}, text = {0};
    rlf_str_printf(&path, "%s/config.yaml", config->output);
    rlf_config_dump(config, &text);
    rlf_status status = rlf_outfile_put(path.ptr, text.ptr, text.len);
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&text);
    return status;
}

static void say_done(const trainer_job *job) {
    RLF_INFO("the run in %s is done, after %lld steps: see summary.json there. A larger train.steps goes on, another output starts anew",
             job->config->output, (long long)job->state.step);
}

/* The files of a run that is done stay as they are, whatever this job's keys say. */
static rlf_status open_folder(trainer_job *job) {
    rlf_status status = RLF_OK;
    static const char *const folders[] = {"checkpoints", "rollouts"};
    rlf_str path = {0};
    bool done = job->state.step >= job->steps && !evaluation_is_due(job);
    for (int i = 0; i < 2; i++) {
        rlf_str_reset(&path);
        rlf_str_printf(&path, "%s/%s", job->config->output, folders[i]);
        RLF_TRY(trainer_make_folder(path.ptr));
    }
    RLF_TRY(trainer_folder_lock(job->config->output, &job->lock));
    if (job->start_step > 0)
        trainer_folder_compare(job->config, done ? "the run is done, the new ones change nothing" : "the run goes on with the new ones");
    if (done) say_done(job);
    else {
        RLF_TRY(write_config(job->config));
        RLF_TRY(reopen(job));
    }
    RLF_TRY(trainer_metrics_open(&job->metrics, job->config->output, job->start_step, trainer_evaluated(job, job->start_step)));
out:
    rlf_str_clean_up(&path);
    return status;
}

/* A driver that does not work is no reason to compute on CPUs in silence. */
static void note_idle_cards(const trainer_job *job) {
    kern_card_facts facts;
    if (strcmp(job->config->device, "auto") || !kern_card_driver() || kern_cards() > 0) return;
    if (kern_card_find(&facts, 0) != RLF_OK) RLF_WARN("computing on CPUs, though there is a driver of NVIDIA's: %s", rlf_error_message());
}

/* Ranks on cards and ranks on the CPU do not give the same bits where weights are bfloat16: a job is on one kind of device. */
static rlf_status note_device(void *ctx, int rank, const rlf_control *ready) {
    trainer_job *job = ctx;
    bool first = !job->device_rank, card = strncmp(ready->text.ptr, "cuda", 4) == 0;
    if (rank < job->watch.topology.rollout_first) return RLF_OK;
    if (first) {
        job->device_rank = rank;
        job->on_cards = card;
    }
    if (first && card)
        RLF_WARN("computing on CUDA cards: some of these kernels have been tested on a CPU only, no card has run them yet (kernels/cuda/README.md)");
    if (first && !card) note_idle_cards(job);
    if (card == job->on_cards) return RLF_OK;
    return RLF_RAISE(INVALID, "rank %d computes on %s, but rank %d on %s: set device to cpu, or start the job where every node has cards",
                     rank, ready->text.ptr, job->device_rank, card ? "the CPU" : "a card");
}

static void draw_progress(void *ctx) { trainer_progress_draw(&((trainer_job *)ctx)->progress, false); }

static rlf_status open_job(trainer_job *job) {
    rlf_status status = RLF_OK;
    trainer_topology topology;
    RLF_TRY(trainer_topology_init(&topology, job->config, rlf_transport_size(job->transport)));
    trainer_watch_init(&job->watch, job->transport, &topology, job->config->deadline.message_s * 1000);
    for (int rank = 1; rank < topology.size; rank++)
        trainer_watch_expect(&job->watch, rank, 1, job->config->deadline.startup_s, "word that it is ready");
    job->train_s = rlf_calloc((size_t)topology.size, sizeof *job->train_s);
    trainer_state_init(&job->state);
    RLF_TRY(trainer_text_open(job));
    RLF_TRY(open_data(job));
    RLF_TRY(open_state(job));
    RLF_TRY(trainer_watch_gather(&job->watch, RLF_CONTROL_READY, note_device, job));
    RLF_TRY(open_folder(job));
    RLF_INFO("%s: %d ranks are ready: %d tool, %d rollout, %d learner", job->config->mode, topology.size, topology.tools,
             topology.rollouts, topology.learners);
    trainer_progress_init(&job->progress, job->config->log.progress && job->steps > 0, job->config->mode, job->start_step, job->steps);
    job->watch.tick = draw_progress;
    job->watch.tick_ctx = job;
out:
    return status;
}

static void close_job(trainer_job *job) {
    trainer_watch_clean_up(&job->watch);
    trainer_metrics_close(&job->metrics);
    trainer_order_clean_up(&job->order);
    trainer_state_clean_up(&job->state);
    if (job->lock >= 0) close(job->lock);
    trainer_text_close(job);
    rlf_arena_clean_up(&job->arena);
    rlf_str_clean_up(&job->checkpoint);
    free(job->train_s);
}

/* ---- the run -------------------------------------------------------------------------------------------------------------------- */

static rlf_status one_step(trainer_job *job) {
    rlf_arena_reset(&job->arena);
    return trainer_mode_is(job->config, "sft") ? trainer_supervised_step(job) : trainer_rl_step(job);
}

/* Before any step: one of the weights at the start, or one that was put off when the run stopped, which its checkpoint takes in. */
static rlf_status evaluate_first(trainer_job *job) {
    rlf_status status = RLF_OK;
    if (!evaluation_is_due(job)) return RLF_OK;
    RLF_TRY(trainer_evaluate(job));
    if (job->start_step == 0) goto out;
    RLF_TRY(trainer_metrics_sync(&job->metrics));
    RLF_TRY(trainer_checkpoint_put_state(job->config, &job->state, job->checkpoint.ptr));
out:
    return status;
}

static rlf_status run_steps(trainer_job *job, bool *stopped) {
    rlf_status status = RLF_OK;
    const rlf_config *config = job->config;
    if (trainer_mode_is(config, "rl")) RLF_TRY(trainer_exchange_publish(job, job->state.step));
    RLF_TRY(evaluate_first(job));
    while (job->state.step < job->steps && !trainer_stop_asked()) {
        RLF_TRY(one_step(job));
        if (evaluation_is_due(job) && !trainer_stop_asked()) RLF_TRY(trainer_evaluate(job));
        if (due(config->train.checkpoint_every, job->state.step, job->steps)) RLF_TRY(trainer_exchange_save(job));
    }
    trainer_progress_draw(&job->progress, job->state.step > job->start_step);
    trainer_progress_clear(&job->progress);
    *stopped = trainer_stop_asked() && (job->state.step < job->steps || evaluation_is_due(job));
    if (job->state.step > 0) RLF_TRY(trainer_exchange_save(job));
out:
    return status;
}

/* OUTPUT/final is the checkpoint of a run that is done, under a name that does not depend on the number of steps. */
static rlf_status finish(trainer_job *job) {
    rlf_status status = RLF_OK;
    rlf_str link = {0}, target = {0};
    RLF_TRY(trainer_summary_write(job));
    if (job->saved_step == 0) goto out;
    rlf_str_printf(&link, "%s/final", job->config->output);
    rlf_str_printf(&target, "checkpoints/step_%lld", (long long)job->saved_step);
    RLF_TRY(trainer_link(link.ptr, target.ptr));
out:
    rlf_str_clean_up(&link);
    rlf_str_clean_up(&target);
    return status;
}

static void say_where(const trainer_job *job) {
    const char *output = job->config->output;
    if (job->checkpoint.ptr && job->checkpoint.ptr[0]) RLF_INFO("checkpoint    %s", job->checkpoint.ptr);
    RLF_INFO("curves        %s/metrics.jsonl, and for TensorBoard in %s", output, output);
    if (job->config->log.trajectories && trainer_generates(job->config)) RLF_INFO("trajectories  %s/rollouts/", output);
}

rlf_status trainer_coordinator_run(rlf_transport *transport, const rlf_config *config, const char *tool_schemas) {
    rlf_status status = RLF_OK;
    trainer_job job = {.transport = transport, .config = config, .tool_schemas = tool_schemas, .lock = -1};
    bool stopped = false;
    RLF_TRY(open_job(&job));
    RLF_TRY(run_steps(&job, &stopped));
    RLF_TRY(trainer_exchange_stop_tools(&job));
    if (stopped)
        RLF_INFO("stopped by signal %d after step %lld; the same command goes on from there", trainer_stop_asked(),
                 (long long)job.state.step);
    else RLF_TRY(finish(&job));
    RLF_TRY(trainer_watch_order(&job.watch, 1 + job.watch.topology.tools, job.watch.topology.size - 1 - job.watch.topology.tools,
                                RLF_CONTROL_STOP, 0, stopped ? "signal" : "done", 0, ""));
    say_where(&job);
out:
    close_job(&job);
    return status;
}
