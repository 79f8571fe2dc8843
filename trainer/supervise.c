/* One supervised step (job.h): the next train.prompts rows, one optimizer update, the mean over their model tokens. */
#include <math.h>

#include "common/base/clock.h"
#include "trainer/algorithm.h"
#include "trainer/job.h"

static rlf_status draw(trainer_job *job, rlf_sequence *sequences, size_t n) {
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < n; i++) {
        int64_t position = job->state.step * job->config->train.prompts + (int64_t)i;
        const rlf_row *row = &job->train.rows[trainer_order_row(&job->order, position)];
        RLF_TRY(trainer_supervised_of(job, row, position + 1, &job->arena, &sequences[i]));
    }
out:
    return status;
}

static rlf_status account(trainer_job *job, const trainer_learned *learned, const trainer_plan *plan, double lr,
                          double prepare_s, double total_s) {
    json_t *object = json_object(), *seconds = json_object();
    json_object_set_new(object, "step", json_integer(job->state.step));
    trainer_learned_put(learned, lr, false, object);
    json_object_set_new(object, "tokens", json_integer(plan->tokens));
    trainer_put_real(seconds, "prepare", prepare_s);
    trainer_put_real(seconds, "train", total_s - prepare_s);
    trainer_put_real(seconds, "total", total_s);
    json_object_set_new(object, "seconds", seconds);
    trainer_phases_put(job, total_s, object);
    return trainer_metrics_write(&job->metrics, job->state.step, object);
}

rlf_status trainer_supervised_step(trainer_job *job) {
    rlf_status status = RLF_OK;
    size_t n = (size_t)job->config->train.prompts;
    trainer_plan plan;
    trainer_learned learned = {0};
    double start = rlf_now_s(), lr = trainer_learning_rate(job->config, (long)job->state.step, (long)job->steps);
    rlf_sequence *sequences = rlf_arena_alloc(&job->arena, n, sizeof *sequences);
    RLF_TRY(draw(job, sequences, n));
    RLF_TRY(trainer_plan_init(&plan, sequences, n, job->watch.topology.learners, job->config->train.micro_tokens, &job->arena));
    double prepared = rlf_now_s();
    RLF_TRY(trainer_exchange_update(job, &plan, 0, 1, lr, &learned));
    job->state.step++;
    job->state.episodes += (int64_t)n;
    job->state.tokens += plan.model_tokens;
    RLF_TRY(account(job, &learned, &plan, lr, prepared - start, rlf_now_s() - start));
    job->progress.step = job->state.step;
    job->progress.tokens += plan.tokens;
    job->progress.loss = learned.loss;
out:
    return status;
}
