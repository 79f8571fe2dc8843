/* summary.json: what a finished run came to (job.h). */
#include "trainer/files.h"
#include "trainer/job.h"

/* An evaluation with its sources as members of their own ("eval_end.two.exact_match"), where no figure has that name. */
static json_t *flat(json_t *eval) {
    const char *source;
    json_t *value, *object = json_copy(eval), *by_source = json_object_get(eval, "by_source");
    json_object_del(object, "by_source");
    json_object_foreach(by_source, source, value)
        if (!json_object_get(object, source)) json_object_set(object, source, value);
    return object;
}

/* Of the weights before the first step. */
static json_t *eval_start(const trainer_job *job) {
    return job->steps > 0 && trainer_evaluated(job, 0) ? flat(json_array_get(job->state.evals, 0)) : json_null();
}

/* Of the weights after the last step; in mode eval, of the model. */
static json_t *eval_end(const trainer_job *job) {
    bool there = trainer_evaluated(job, job->state.step) && (job->steps == 0 || job->state.step > 0);
    return there ? flat(json_array_get(job->state.evals, json_array_size(job->state.evals) - 1)) : json_null();
}

static json_t *exact_match_of(json_t *eval) {
    json_t *value = json_object_get(eval, "exact_match");
    return value ? json_incref(value) : json_null();
}

static void put_evaluations(const trainer_job *job, json_t *object) {
    json_t *start = eval_start(job), *end = eval_end(job), *exact = json_object();
    json_object_set_new(exact, "before", exact_match_of(start));
    json_object_set_new(exact, "after", exact_match_of(end));
    json_object_set_new(object, "exact_match", exact);
    json_object_set_new(object, "eval_start", start);
    json_object_set_new(object, "eval_end", end);
    json_object_set(object, "evals", job->state.evals);
}

static json_t *summary_json(const trainer_job *job) {
    json_t *object = json_object();
    const trainer_state *state = &job->state;
    json_object_set_new(object, "mode", json_string(job->config->mode));
    json_object_set_new(object, "model", json_string(job->config->model.path));
    json_object_set_new(object, "steps", json_integer(state->step));
    json_object_set_new(object, "seed", json_integer(job->config->seed));
    json_object_set_new(object, "logprob_diff_max", json_real(state->logprob_diff_max));
    trainer_put_real(object, "seconds", trainer_metrics_elapsed(&job->metrics));
    json_object_set_new(object, "episodes", json_integer(state->episodes));
    json_object_set_new(object, "tokens", json_integer(state->tokens));
    json_object_set_new(object, "infra", json_integer(state->infra));
    json_object_set_new(object, "retried", json_integer(state->retried));
    json_object_set_new(object, "ranks", json_integer(job->watch.topology.size));
    json_object_set_new(object, "checkpoint", json_string(job->checkpoint.ptr ? job->checkpoint.ptr : ""));
    json_object_set_new(object, "tools", trainer_counts_json(&job->watch));
    put_evaluations(job, object);
    return object;
}

rlf_status trainer_summary_write(const trainer_job *job) {
    rlf_str path = {0};
    rlf_str_printf(&path, "%s/summary.json", job->config->output);
    bool there = trainer_file_exists(path.ptr);
    rlf_str_clean_up(&path);
    return there ? RLF_OK : trainer_json_write(job->config->output, "summary.json", summary_json(job), 9);
}
