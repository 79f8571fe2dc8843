/* One step of reinforcement learning (job.h): draw rows, collect their groups, score, write them down, update, hand over, account. */
#include <math.h>
#include <stdio.h>

#include "common/base/alive.h"
#include "common/base/clock.h"
#include "common/base/outfile.h"
#include "trainer/algorithm.h"
#include "trainer/job.h"
#include "trainer/trajectories.h"

typedef struct rl_step {
    trainer_job *job;
    size_t groups, samples;
    const rlf_row **rows;      /* (groups) */
    rlf_episode *episodes;     /* (groups) */
    trainer_collected got;
    trainer_scores scores;
    trainer_learned learned;
    trainer_stats stats;
    double lr;
    double generate_s, score_s, train_s, hand_over_s;
} rl_step;

/* Rows are drawn by position, and a group's uid is its position + 1: both go on where a resumed run left off. */
static rlf_status draw(rl_step *s) {
    rlf_status status = RLF_OK;
    trainer_job *job = s->job;
    const rlf_config *config = job->config;
    rlf_sampling sampling = {config->sampling.temperature, config->sampling.top_p, config->sampling.top_k};
    s->rows = rlf_arena_alloc(&job->arena, s->groups, sizeof *s->rows);
    s->episodes = rlf_arena_alloc(&job->arena, s->groups, sizeof *s->episodes);
    for (size_t g = 0; g < s->groups; g++) {
        int64_t position = job->state.step * config->train.prompts + (int64_t)g;
        s->rows[g] = &job->train.rows[trainer_order_row(&job->order, position)];
        RLF_TRY(trainer_episode_of(job, s->rows[g], config->data.train, position + 1, (int64_t)s->samples, sampling, &job->arena,
                                   &s->episodes[g]));
    }
out:
    return status;
}

static void count_tokens(void *ctx, const rlf_trajectory *t) {
    ((trainer_job *)ctx)->progress.tokens += trainer_model_tokens(t->spans.v, t->spans.n);
}

static const rlf_row *row_of(void *ctx, size_t group) { return ((rl_step *)ctx)->rows[group]; }

static rlf_status score(rl_step *s) {
    trainer_job *job = s->job;
    trainer_score(job->config, s->got.v, s->groups, s->samples, &job->arena, &s->scores);
    for (size_t i = 0; i < s->got.n; i++) trainer_stats_add(&s->stats, &s->got.v[i]);
    job->state.episodes += s->stats.valid;
    job->state.infra += s->stats.finish[RLF_FINISH_INFRA];
    job->state.retried += s->got.retried;
    return trainer_rollouts_write(job, "step", s->got.v, s->groups, s->samples, s->scores.advantage, row_of, s);
}

/* Mini-batch u is groups [groups*u/updates, groups*(u+1)/updates). */
static rlf_status update(rl_step *s) {
    rlf_status status = RLF_OK;
    trainer_job *job = s->job;
    const rlf_config *config = job->config;
    size_t updates = (size_t)config->train.updates;
    s->lr = trainer_learning_rate(config, (long)job->state.step, (long)job->steps);
    for (size_t u = 0; u < updates; u++) {
        size_t n, begin = s->groups * u / updates * s->samples, end = s->groups * (u + 1) / updates * s->samples;
        trainer_plan plan;
        rlf_sequence *sequences = trainer_sequences(s->got.v, &s->scores, begin, end, &job->arena, &n);
        RLF_TRY(trainer_plan_init(&plan, sequences, n, job->watch.topology.learners, config->train.micro_tokens, &job->arena));
        job->state.tokens += plan.model_tokens;
        RLF_TRY(trainer_exchange_update(job, &plan, (int64_t)u, (int64_t)updates, s->lr, &s->learned));
    }
out:
    return status;
}

static json_t *seconds_json(const rl_step *s, double total) {
    json_t *seconds = json_object();
    trainer_put_real(seconds, "generate", s->generate_s);
    trainer_put_real(seconds, "score", s->score_s);
    trainer_put_real(seconds, "train", s->train_s);
    trainer_put_real(seconds, "hand_over", s->hand_over_s);
    trainer_put_real(seconds, "total", total);
    return seconds;
}

/* Means over episodes of the time their tokens and their tools took. */
static void put_latencies(const rl_step *s, json_t *object) {
    double generate_ms = 0, tool_ms = 0;
    for (size_t i = 0; i < s->got.n; i++) {
        if (s->got.v[i].finish == RLF_FINISH_INFRA) continue;
        generate_ms += s->got.v[i].generate_ms;
        tool_ms += s->got.v[i].tool_ms;
    }
    trainer_put_real(object, "episode_generate_ms", generate_ms / (double)s->stats.valid);
    trainer_put_real(object, "episode_tool_ms", tool_ms / (double)s->stats.valid);
}

static rlf_status account(rl_step *s, double total) {
    trainer_job *job = s->job;
    json_t *object = json_object();
    json_object_set_new(object, "step", json_integer(job->state.step));
    json_object_set_new(object, "version", json_integer(job->published));
    trainer_stats_put(&s->stats, object);
    trainer_learned_put(&s->learned, s->lr, true, object);
    json_object_set_new(object, "retried", json_integer(s->got.retried));
    json_object_set_new(object, "zero_variance_groups", json_integer(s->scores.flat_groups));
    json_object_set_new(object, "left_out", json_integer(s->scores.left_out));
    put_latencies(s, object);
    json_object_set_new(object, "seconds", seconds_json(s, total));
    trainer_phases_put(job, total, object);
    return trainer_metrics_write(&job->metrics, job->state.step, object);
}

rlf_status trainer_rl_step(trainer_job *job) {
    rlf_status status = RLF_OK;
    rl_step s = {.job = job, .groups = (size_t)job->config->train.prompts, .samples = (size_t)job->config->algorithm.group};
    double t0 = rlf_now_s();
    RLF_TRY(draw(&s));
    RLF_TRY(trainer_collect(&job->watch, job->config, s.episodes, s.groups, job->shape.vocab, &job->arena, count_tokens, job, &s.got));
    double t1 = rlf_now_s();
    RLF_TRY(score(&s));
    double t2 = rlf_now_s();
    RLF_TRY(update(&s));
    double t3 = rlf_now_s();
    RLF_TRY(trainer_exchange_publish(job, job->state.step + 1));
    job->state.step++;
    double t4 = rlf_now_s();
    s.generate_s = t1 - t0;
    s.score_s = t2 - t1;
    s.train_s = t3 - t2;
    s.hand_over_s = t4 - t3;
    RLF_TRY(account(&s, t4 - t0));
    job->progress.step = job->state.step;
    job->progress.reward = trainer_stats_reward(&s.stats);
    job->progress.exact = trainer_stats_component(&s.stats, "exact_match");
out:
    return status;
}

rlf_status trainer_rollouts_write(const trainer_job *job, const char *kind, const rlf_trajectory *trajectories, size_t groups,
                                  size_t samples, const double *advantages, trainer_row_fn *row_fn, void *ctx) {
    rlf_status status = RLF_OK;
    rlf_str path = {0}, text = {0};
    bool evaluation = advantages == NULL;
    if (!job->config->log.trajectories) return RLF_OK;
    for (size_t i = 0; i < groups * samples; i++) {
        trainer_trajectory_line(&trajectories[i], row_fn(ctx, i / samples), job->tokenizer, evaluation ? NULL : &advantages[i], &text);
        rlf_alive();
    }
    rlf_str_printf(&path, "%s/rollouts/%s_%06lld.jsonl", job->config->output, kind, (long long)job->state.step + !evaluation);
    RLF_TRY(rlf_outfile_put(path.ptr, text.ptr ? text.ptr : "", text.len));
out:
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&text);
    return status;
}
