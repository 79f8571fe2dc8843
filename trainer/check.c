/* The checks and plans of --check (check.h). */
#include "trainer/check.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/model/checkpoint.h"
#include "kernels/transformer/transformer.h"
#include "trainer/cards.h"
#include "trainer/folder.h"
#include "trainer/job.h"

#define MB(bytes) ((double)(bytes) / 1e6)

static void report_lengths(const char *key, const char *file, const trainer_lengths *l, const char *what, rlf_str *out) {
    rlf_str_printf(out, "%-10s  %s: %zu rows, %s of %.0f tokens on average, %lld at most\n", key, file, l->rows, what,
                   l->rows ? (double)l->total / (double)l->rows : 0.0, (long long)l->longest);
}

static rlf_status check_data(trainer_job *job, rlf_str *out) {
    const rlf_config *config = job->config;
    trainer_lengths train, eval;
    rlf_status status = trainer_data_load(job, &train, &eval);
    if (status != RLF_OK) return status;
    if (train.rows) report_lengths("data.train", config->data.train, &train, trainer_mode_is(config, "sft") ? "conversations" : "prompts", out);
    if (eval.rows) report_lengths("data.eval", config->data.eval, &eval, "prompts", out);
    return RLF_OK;
}

/* Whether a job could write into the folder that a key names: into what is there, or into what is above it. `deep`: more than the last
 * folder may be missing. */
static rlf_status check_folder(const char *key, const char *path, bool deep) {
    rlf_status status = RLF_OK;
    struct stat info;
    char *copy = rlf_strdup(path);
    const char *at = path;
    for (bool above = false; stat(at, &info) != 0; above = true, at = dirname(copy))
        if (errno != ENOENT || (above && !deep)) RLF_FAIL(IO, "key '%s': %s: %s", key, at, strerror(errno));
    if (!S_ISDIR(info.st_mode)) RLF_FAIL(IO, "key '%s': %s is not a folder", key, at);
    if (access(at, W_OK | X_OK) != 0) RLF_FAIL(IO, "key '%s': cannot write into %s: %s", key, at, strerror(errno));
out:
    free(copy);
    return status;
}

static rlf_status check_output(trainer_job *job, rlf_str *out) {
    rlf_status status = RLF_OK;
    const rlf_config *config = job->config;
    RLF_TRY(check_folder("output", config->output, true));
    if (config->traffic.record[0]) RLF_TRY(check_folder("traffic.record", config->traffic.record, false));
    RLF_TRY(trainer_folder_read(config, &job->state, &job->checkpoint));
    rlf_str_printf(out, "output      %s%s%s\n", config->output, job->checkpoint.len ? ", going on from " : "", job->checkpoint.ptr);
out:
    return status;
}

/* Every tensor is read: a missing, misshapen or cut one is found here and not after the job has waited for its nodes. */
static rlf_status check_model(const rlf_config *config, const rlf_model_layout *layout, rlf_str *out) {
    rlf_status status = RLF_OK;
    const rlf_model_shape *s = &layout->shape;
    rlf_dtype dtype = RLF_DTYPE_F32;
    rlf_dtype_parse(config->model.dtype, &dtype); /* the config has been checked */
    void *weights = rlf_calloc(layout->total, rlf_dtype_size(dtype));
    RLF_TRY(rlf_checkpoint_read(config->model.path, layout, dtype, weights));
    rlf_str_printf(out, "%-10s  %s: %s, %d layers of width %d, %d heads (%d key/value), vocabulary %d, %.2f M parameters\n",
                   "model.path", config->model.path,
                   s->family, s->layers, s->hidden, s->heads, s->kv_heads, s->vocab, (double)layout->total / 1e6);
out:
    free(weights);
    return status;
}

static void print_rollouts(const rlf_config *config, const trainer_topology *top, const trainer_memory *m, rlf_str *out) {
    rlf_str_printf(out, "rank %d-%d  rollout      %.1f MB each: weights %.1f, KV cache %.1f (%lld tokens), activations %.1f\n",
                   top->rollout_first, top->rollout_first + top->rollouts - 1, MB(trainer_memory_sum(m)), MB(m->weights), MB(m->cache),
                   (long long)config->rollout.cache_tokens, MB(m->activations));
}

static void print_learners(const rlf_config *config, const trainer_topology *top, const trainer_memory *m, rlf_str *out) {
    rlf_str_printf(out, "rank %d-%d  learner      %.1f MB each: weights %.1f, gradients %.1f, optimizer %.1f (1/%d), reference "
                        "%.1f, activations %.1f (%lld tokens), exchange %.1f\n",
                   top->learner_first, top->learner_first + top->learners - 1, MB(trainer_memory_sum(m)), MB(m->weights),
                   MB(m->gradients), MB(m->optimizer), top->learners, MB(m->reference), MB(m->activations),
                   (long long)trainer_micro_rows(config), MB(m->exchange));
}

/* The cards of this node. A job that is checked alone is planned as if all its ranks were here. */
static rlf_status check_cards(const trainer_check_options *o, const trainer_topology *top, int cards, const trainer_memory *rollout,
                              const trainer_memory *learner, rlf_str *out) {
    rlf_status status = RLF_OK;
    rlf_neighbour *all = rlf_calloc((size_t)top->size, sizeof *all);
    for (int rank = 0; rank < top->size; rank++) all[rank].rank = rank;
    bool alone = o->size == 1;
    if (cards == 0) rlf_str_printf(out, "device      cpu\n");
    RLF_TRY(trainer_cards_plan(top, alone ? all : o->near, alone ? (size_t)top->size : o->n_near, cards, rollout, learner, out));
out:
    free(all);
    return status;
}

static rlf_status check_plan(const trainer_check_options *o, const rlf_model_layout *layout, rlf_str *out) {
    rlf_status status = RLF_OK;
    trainer_topology top;
    int cards, ranks = o->size > 1 ? o->size : trainer_topology_least(o->config);
    RLF_TRY(trainer_topology_init(&top, o->config, ranks));
    RLF_TRY(trainer_cards(o->config, &cards));
    RLF_TRY(kern_model_check(&layout->shape, cards > 0, (int)(top.learners ? trainer_micro_rows(o->config) : o->config->episode.max_tokens)));
    trainer_memory rollout = trainer_memory_of_rollout(o->config, layout, cards > 0, o->rollout_work);
    trainer_memory learner = trainer_memory_of_learner(o->config, layout, cards > 0, top.learners ? top.learners : 1);
    rlf_str_printf(out, "ranks       %d%s\nrank 0    coordinator\n", ranks,
                   o->size > 1 ? "" : " (the least this job can be started with)");
    if (top.tools)
        rlf_str_printf(out, "rank %d-%d  tool         %zu tools and the reward\n", top.tool_first,
                       top.tool_first + top.tools - 1, o->config->n_tools);
    if (top.rollouts) print_rollouts(o->config, &top, &rollout, out);
    if (top.learners) print_learners(o->config, &top, &learner, out);
    RLF_TRY(check_cards(o, &top, cards, &rollout, &learner, out));
out:
    return status;
}

rlf_status trainer_check(const trainer_check_options *o, rlf_str *out) {
    rlf_status status = RLF_OK;
    const rlf_config *config = o->config;
    trainer_job job = {.config = config, .tool_schemas = o->tool_schemas};
    rlf_model_layout layout = {0};
    trainer_state_init(&job.state);
    RLF_TRY(trainer_text_open(&job));
    rlf_model_layout_init(&layout, &job.shape);
    RLF_TRY(check_model(config, &layout, out));
    RLF_TRY(check_data(&job, out));
    RLF_TRY(check_output(&job, out));
    RLF_TRY(check_plan(o, &layout, out));
out:
    trainer_text_close(&job);
    rlf_arena_clean_up(&job.arena);
    trainer_state_clean_up(&job.state);
    rlf_str_clean_up(&job.checkpoint);
    rlf_model_layout_clean_up(&layout);
    return status;
}
