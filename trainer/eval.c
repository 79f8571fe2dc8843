/* Evaluation (job.h). Greedy unless eval_sampling says otherwise; uids lie far above those of training, and are the same at every
 * evaluation, so that two evaluations differ by the weights alone. */
#include <math.h>
#include <string.h>

#include "common/base/log.h"
#include "trainer/job.h"

#define FIRST_EVAL_UID ((int64_t)1 << 40)

/* Results by data_source, in order of first appearance. */
typedef struct sources {
    struct { const char *name; trainer_stats stats; } *v; /* in the arena; (rows) at most */
    size_t n;
} sources;

static void add_to_source(sources *s, const char *name, const rlf_trajectory *t) {
    size_t i = 0;
    while (i < s->n && strcmp(s->v[i].name, name) != 0) i++;
    if (i == s->n) s->v[s->n++].name = name;
    trainer_stats_add(&s->v[i].stats, t);
}

static size_t most_sources(const rlf_row *rows, size_t n) {
    size_t changes = 0;
    for (size_t i = 0; i < n; i++) changes += i == 0 || strcmp(rows[i].data_source, rows[i - 1].data_source) != 0;
    return changes;
}

static json_t *result_json(const trainer_job *job, const rlf_trajectory *trajectories, size_t rows, size_t samples, rlf_arena *arena) {
    sources s = {.v = rlf_arena_alloc(arena, most_sources(job->eval.rows, rows), sizeof *s.v)};
    trainer_stats all = {0};
    for (size_t i = 0; i < rows * samples; i++) {
        trainer_stats_add(&all, &trajectories[i]);
        add_to_source(&s, job->eval.rows[i / samples].data_source, &trajectories[i]);
    }
    json_t *object = json_object(), *by_source = json_object();
    json_object_set_new(object, "rows", json_integer((json_int_t)rows));
    trainer_stats_put(&all, object);
    for (size_t i = 0; i < s.n; i++) {
        json_t *one = json_object();
        trainer_stats_put(&s.v[i].stats, one);
        json_object_set_new(by_source, s.v[i].name, one);
    }
    json_object_set_new(object, "by_source", by_source);
    return object;
}

static const rlf_row *row_of(void *ctx, size_t group) { return &((const trainer_job *)ctx)->eval.rows[group]; }

static void say_result(trainer_job *job, const json_t *result) {
    const json_t *exact = json_object_get(result, "exact_match"), *reward = json_object_get(result, "reward_mean");
    trainer_progress_clear(&job->progress);
    if (json_is_null(exact)) RLF_WARN("evaluation after step %lld: every episode was lost to infrastructure", (long long)job->state.step);
    else
        RLF_INFO("evaluation after step %lld: exact match %.4f, reward %.4f, %lld rows", (long long)job->state.step,
                 json_number_value(exact), json_number_value(reward), (long long)json_integer_value(json_object_get(result, "rows")));
}

static rlf_status keep_result(trainer_job *job, json_t *result) {
    json_t *line = json_object(), *kept = json_object();
    say_result(job, result);
    json_object_set_new(kept, "step", json_integer(job->state.step));
    json_object_update(kept, result);
    json_array_append_new(job->state.evals, kept);
    json_object_set_new(line, "step", json_integer(job->state.step));
    json_object_set_new(line, "eval", result);
    return trainer_metrics_write(&job->metrics, job->state.step, line);
}

bool trainer_evaluated(const trainer_job *job, int64_t step) {
    for (size_t i = 0; i < json_array_size(job->state.evals); i++)
        if (json_integer_value(json_object_get(json_array_get(job->state.evals, i), "step")) == step) return true;
    return false;
}

rlf_status trainer_evaluate(trainer_job *job) {
    rlf_status status = RLF_OK;
    const rlf_config *config = job->config;
    rlf_sampling sampling = {config->eval_sampling.temperature, config->eval_sampling.top_p, config->eval_sampling.top_k};
    size_t samples = (size_t)config->eval_sampling.samples, rows = job->eval.n;
    trainer_collected got;
    if (config->data.eval_limit > 0 && rows > (size_t)config->data.eval_limit) rows = (size_t)config->data.eval_limit;
    if (job->published != job->state.step) RLF_TRY(trainer_exchange_publish(job, job->state.step));
    rlf_arena_reset(&job->arena);
    rlf_episode *episodes = rlf_arena_alloc(&job->arena, rows, sizeof *episodes);
    for (size_t i = 0; i < rows; i++)
        RLF_TRY(trainer_episode_of(job, &job->eval.rows[i], config->data.eval, FIRST_EVAL_UID + (int64_t)i, (int64_t)samples,
                                   sampling, &job->arena, &episodes[i]));
    RLF_TRY(trainer_collect(&job->watch, config, episodes, rows, job->shape.vocab, &job->arena, NULL, NULL, &got));
    RLF_TRY(trainer_rollouts_write(job, "eval", got.v, rows, samples, NULL, row_of, job));
    RLF_TRY(keep_result(job, result_json(job, got.v, rows, samples, &job->arena)));
    trainer_watch_mark(&job->watch);
out:
    return status;
}
