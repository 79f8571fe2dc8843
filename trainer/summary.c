/* summary.json: what a finished run came to (job.h). */
#include <stdlib.h>
#include <string.h>

#include "common/base/outfile.h"
#include "trainer/job.h"

static json_t *exact_match_of(const json_t *evals, size_t i) {
    json_t *value = json_object_get(json_array_get(evals, i), "exact_match");
    return value ? json_incref(value) : json_null();
}

/* "before" is an evaluation of the starting weights, "after" one of the final ones; null where there was none. */
static json_t *exact_match_json(const trainer_job *job) {
    const json_t *evals = job->state.evals;
    json_t *object = json_object();
    bool before = job->steps > 0 && trainer_evaluated(job, 0), after = trainer_evaluated(job, job->state.step) && (job->steps == 0 || job->state.step > 0);
    json_object_set_new(object, "before", before ? exact_match_of(evals, 0) : json_null());
    json_object_set_new(object, "after", after ? exact_match_of(evals, json_array_size(evals) - 1) : json_null());
    return object;
}

static json_t *summary_json(const trainer_job *job) {
    json_t *object = json_object();
    const trainer_state *state = &job->state;
    json_object_set_new(object, "mode", json_string(job->config->mode));
    json_object_set_new(object, "model", json_string(job->config->model.path));
    json_object_set_new(object, "steps", json_integer(state->step));
    json_object_set_new(object, "seed", json_integer(job->config->seed));
    json_object_set_new(object, "exact_match", exact_match_json(job));
    json_object_set_new(object, "logprob_diff_max", json_real(state->logprob_diff_max));
    trainer_put_real(object, "seconds", trainer_metrics_elapsed(&job->metrics));
    json_object_set_new(object, "episodes", json_integer(state->episodes));
    json_object_set_new(object, "tokens", json_integer(state->tokens));
    json_object_set_new(object, "infra", json_integer(state->infra));
    json_object_set_new(object, "retried", json_integer(state->retried));
    json_object_set_new(object, "ranks", json_integer(job->watch.topology.size));
    json_object_set_new(object, "checkpoint", json_string(job->checkpoint.ptr ? job->checkpoint.ptr : ""));
    json_object_set(object, "evals", state->evals);
    return object;
}

rlf_status trainer_summary_write(const trainer_job *job) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    json_t *object = summary_json(job);
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    if (!text) RLF_FAIL(INTERNAL, "summary.json cannot be encoded");
    rlf_str_printf(&path, "%s/summary.json", job->config->output);
    RLF_TRY(rlf_outfile_put(path.ptr, text, strlen(text)));
out:
    free(text);
    json_decref(object);
    rlf_str_clean_up(&path);
    return status;
}
