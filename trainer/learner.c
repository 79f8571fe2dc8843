/* The learner role: BATCH in, one optimizer update, STEP out; weights out on PUBLISH; checkpoint files on SAVE.
 *
 * Every learner holds all weights and gradients, and the AdamW moments of its shard of the slab (rlf_shard). One update:
 *   pack each micro-batch -> forward, loss, backward (gradients add up in the slab) -> reduce-scatter -> global norm
 *   -> AdamW on the shard -> all-gather.
 * Where weights are stored as bfloat16 (model.dtype), AdamW works on float32 master weights, which belong to the optimizer's state and are
 * sharded like it; after each update they are rounded into the slab. They begin as the stored weights.
 * A learner without sequences still takes part in the collectives. An update whose global batch has no loss token changes nothing. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/checkpoint.h"
#include "common/model/safetensors.h"
#include "kernels/transformer/transformer.h"
#include "trainer/algorithm.h"
#include "trainer/files.h"
#include "trainer/trainer.h"

/* Host arrays of one packed micro-batch, by row; row i predicts the token after it. */
typedef struct packed {
    int rows, seqs;
    int32_t *tokens, *targets, *seq_begin;
    float *old_logprob, *ref_logprob, *advantage, *scale;
    bool *on_policy;
} packed;

/* Sums over this learner's share of one update. */
typedef struct tally {
    double loss, kl, entropy, clipped, tokens, diff_max, diff_sum, mismatches;
} tally;

/* The optimizer's state, and what its tensors are called in optimizer.safetensors. */
enum { MOMENT1, MOMENT2, MASTER, STATES };
static const char *const state_names[STATES] = {"exp_avg", "exp_avg_sq", "master"};

typedef struct learner {
    rlf_transport *transport;
    const rlf_config *config;
    trainer_topology topology;
    rlf_model_layout layout;
    rlf_dtype dtype; /* of the weights */
    kern_device *device;
    kern_queue *queue;
    kern_model *model, *reference; /* reference: NULL without KL */
    kern_trainer *trainer;
    kern_buf *grads, *state[STATES]; /* gradients: all; state: of the shard; MASTER is NULL where weights are float32 */
    size_t begin, end; /* this learner's shard */
    int64_t updates_done, version;
    int max_tokens;
    bool supervised;
    packed pack;
    tally tally;
    int64_t last_heartbeat_ms, tokens_done;
    double train_s;
} learner;

static int learner_index(const learner *l) { return rlf_transport_rank(l->transport) - l->topology.learner_first; }
static int collective_ms(const learner *l) { return (int)(l->config->deadline.collective_s * 1000); }
static kern_tensor slab(kern_buf *buf) { return kern_view(buf, KERN_F32); }
static int states(const learner *l) { return l->state[MASTER] ? STATES : MASTER; }

static rlf_status reply(learner *l, rlf_control_kind kind, int64_t value, const char *text) {
    rlf_control c = {.kind = kind, .value = value, .text = rlf_slice_of(text)};
    return rlf_send(l->transport, 0, RLF_MSG_CONTROL, &c);
}

static rlf_status heartbeat(learner *l, const char *doing) {
    if (rlf_now_ms() - l->last_heartbeat_ms < 1000) return RLF_OK;
    l->last_heartbeat_ms = rlf_now_ms();
    rlf_metric phase = {rlf_slice_of("train"), l->train_s};
    rlf_heartbeat h = {.doing = rlf_slice_of(doing), .done = l->tokens_done};
    h.phases.v = &phase;
    h.phases.n = 1;
    return rlf_send(l->transport, 0, RLF_MSG_HEARTBEAT, &h);
}

/* ---- one micro-batch -------------------------------------------------------------------------------------------------------------- */

static void pack_new(packed *p, int rows) {
    size_t n = (size_t)rows;
    *p = (packed){.tokens = rlf_calloc(n, 4), .targets = rlf_calloc(n, 4), .seq_begin = rlf_calloc(n + 1, 4),
                  .old_logprob = rlf_calloc(n, 4),
                  .ref_logprob = rlf_calloc(n, 4), .advantage = rlf_calloc(n, 4), .scale = rlf_calloc(n, 4),
                  .on_policy = rlf_calloc(n, sizeof(bool))};
}

static void pack_clean_up(packed *p) {
    free(p->tokens);
    free(p->targets);
    free(p->seq_begin);
    free(p->old_logprob);
    free(p->ref_logprob);
    free(p->advantage);
    free(p->scale);
    free(p->on_policy);
}

static size_t model_tokens(const rlf_sequence *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->spans.n; i++)
        if (s->spans.v[i].kind == RLF_SPAN_MODEL) n += (size_t)(s->spans.v[i].end - s->spans.v[i].begin);
    return n;
}

/* Spans come from a coordinator of the same program, yet memory safety shall not rest on that. */
static rlf_status check_sequence(const learner *l, const rlf_sequence *s) {
    if (s->tokens.n < 2 || s->tokens.n > (size_t)l->max_tokens || s->logprobs.n != s->tokens.n)
        return RLF_RAISE(PROTOCOL, "BATCH: sequence %lld.%lld has %zu tokens (2 to %d allowed) and %zu log-probs", (long long)s->uid,
                         (long long)s->sample, s->tokens.n, l->max_tokens, s->logprobs.n);
    for (size_t i = 0; i < s->tokens.n; i++)
        if (s->tokens.v[i] < 0 || s->tokens.v[i] >= l->layout.shape.vocab)
            return RLF_RAISE(PROTOCOL, "BATCH: token id %d is outside the vocabulary of %d", s->tokens.v[i], l->layout.shape.vocab);
    for (size_t i = 0; i < s->spans.n; i++)
        if (s->spans.v[i].begin < 0 || s->spans.v[i].end < s->spans.v[i].begin || s->spans.v[i].end > (int64_t)s->tokens.n)
            return RLF_RAISE(PROTOCOL, "BATCH: span %zu of sequence %lld.%lld is out of range", i, (long long)s->uid, (long long)s->sample);
    return RLF_OK;
}

/* The denominators are those of the global batch, fixed by the coordinator. */
static double token_scale(const learner *l, const rlf_batch *batch, const rlf_sequence *s) {
    if (strcmp(l->config->algorithm.aggregate, "sequence") == 0) return s->weight / ((double)model_tokens(s) * batch->total_sequences);
    return s->weight / batch->total_tokens;
}

static rlf_status pack_sequence(learner *l, const rlf_batch *batch, const rlf_sequence *s, bool weights_unchanged) {
    packed *p = &l->pack;
    rlf_status status = check_sequence(l, s);
    int rows = status == RLF_OK ? (int)s->tokens.n - 1 : 0;
    if (status == RLF_OK && p->rows + rows > l->max_tokens)
        status = RLF_RAISE(PROTOCOL, "BATCH: micro-batch %lld holds over %d tokens", (long long)s->micro, l->max_tokens);
    if (status != RLF_OK) return status;

    double scale = token_scale(l, batch, s);
    for (int i = 0; i < rows; i++) {
        int row = p->rows + i;
        p->tokens[row] = s->tokens.v[i];
        p->targets[row] = -1;
        p->old_logprob[row] = s->logprobs.v[i + 1];
        p->advantage[row] = (float)s->advantage;
        p->scale[row] = (float)scale;
        p->on_policy[row] = false;
    }
    for (size_t k = 0; k < s->spans.n; k++) {
        const rlf_span *span = &s->spans.v[k];
        if (span->kind != RLF_SPAN_MODEL) continue;
        for (int64_t i = span->begin < 1 ? 1 : span->begin; i < span->end; i++) {
            p->targets[p->rows + i - 1] = s->tokens.v[i];
            p->on_policy[p->rows + i - 1] = weights_unchanged && span->version == l->version;
        }
    }
    p->rows += rows;
    p->seq_begin[++p->seqs] = p->rows;
    return RLF_OK;
}

/* kern_loss_fn: the token loss of the algorithm, and the tally. */
static void loss_of_rows(void *ctx, int n, const int32_t *row, const float *logprob, const float *entropy, float *dlogprob,
                         float *dentropy) {
    learner *l = ctx;
    const packed *p = &l->pack;
    tally *sum = &l->tally;
    for (int k = 0; k < n; k++) {
        int i = row[k];
        trainer_token t = {logprob[k], p->old_logprob[i], p->ref_logprob[i], entropy[k], p->advantage[i], p->scale[i]};
        trainer_token_loss loss = l->supervised ? trainer_loss_supervised(l->config, &t) : trainer_loss_grpo(l->config, &t);
        dlogprob[k] = loss.dlogprob;
        dentropy[k] = loss.dentropy;
        sum->loss += loss.loss;
        sum->kl += (double)t.scale * loss.kl;
        sum->entropy += (double)t.scale * t.entropy;
        sum->clipped += loss.clipped ? t.scale : 0;
        sum->tokens += t.scale != 0;
        if (!p->on_policy[i]) continue;
        double diff = memcmp(&t.logprob, &t.old_logprob, sizeof(float)) ? fabs((double)t.logprob - (double)t.old_logprob) : 0;
        sum->mismatches += memcmp(&t.logprob, &t.old_logprob, sizeof(float)) != 0;
        sum->diff_sum += diff;
        if (!(diff <= sum->diff_max)) sum->diff_max = diff; /* a NaN stays */
    }
}

static kern_filter training_filter(const learner *l) {
    if (l->supervised) return (kern_filter){1.0f, 1.0f, 0};
    return (kern_filter){(float)l->config->sampling.temperature, (float)l->config->sampling.top_p, (int)l->config->sampling.top_k};
}

static rlf_status train_micro(learner *l, const rlf_batch *batch, int64_t micro) {
    rlf_status status = RLF_OK;
    packed *p = &l->pack;
    p->rows = p->seqs = 0;
    for (size_t i = 0; i < batch->sequences.n; i++)
        if (batch->sequences.v[i].micro == micro) RLF_TRY(pack_sequence(l, batch, &batch->sequences.v[i], batch->update == 0));
    if (!p->rows) goto out;
    kern_batch rows = {p->rows, p->seqs, p->tokens, p->seq_begin, p->targets};
    if (l->reference) RLF_TRY(kern_trainer_logprobs(l->trainer, l->reference, &rows, training_filter(l), p->ref_logprob, NULL));
    RLF_TRY(kern_trainer_gradients(l->trainer, &rows, training_filter(l), loss_of_rows, l, slab(l->grads)));
    l->tokens_done += p->rows;
    RLF_TRY(heartbeat(l, "training"));
out:
    return status;
}

/* ---- one update ------------------------------------------------------------------------------------------------------------------- */

/* AdamW on this shard of the weights. */
static void update_shard(learner *l, kern_adamw_args args) {
    size_t n = l->end - l->begin;
    kern_tensor weights = kern_at(kern_model_params(l->model), l->begin), grads = kern_at(slab(l->grads), l->begin);
    kern_tensor master = l->state[MASTER] ? slab(l->state[MASTER]) : weights;
    kern_adamw(l->queue, master, grads, slab(l->state[MOMENT1]), slab(l->state[MOMENT2]), n, args);
    if (l->state[MASTER]) kern_convert(l->queue, weights, master, n);
}

/* Sums gradients over learners, clips by the global norm, updates this shard, and gathers the weights. */
static rlf_status optimizer_step(learner *l, double lr, double *grad_norm) {
    rlf_status status = RLF_OK;
    int first = l->topology.learner_first, count = l->topology.learners, ms = collective_ms(l);
    size_t total = l->layout.total, n = l->end - l->begin;
    float *grads = kern_host_ptr(slab(l->grads));
    RLF_TRY(rlf_reduce_scatter(l->transport, first, count, grads, total, ms));
    double square = kern_sumsq(l->queue, kern_at(slab(l->grads), l->begin), n);
    RLF_TRY(rlf_all_reduce(l->transport, first, count, &square, 1, ms));
    *grad_norm = sqrt(square);
    if (!isfinite(*grad_norm)) RLF_FAIL(INVALID, "gradient norm is not finite in update %lld", (long long)l->updates_done + 1);

    double clip = l->config->optimizer.grad_clip;
    double scale = clip > 0 && *grad_norm > clip ? clip / (*grad_norm + 1e-6) : 1.0;
    kern_adamw_args args = {.lr = (float)lr, .beta1 = (float)l->config->optimizer.beta1, .beta2 = (float)l->config->optimizer.beta2,
                            .eps = (float)l->config->optimizer.eps, .weight_decay = (float)l->config->optimizer.weight_decay,
                            .step = ++l->updates_done, .grad_scale = (float)scale};
    update_shard(l, args);
    RLF_TRY(kern_sync(l->queue));
    RLF_TRY(rlf_all_gather(l->transport, first, count, kern_host_ptr(kern_model_params(l->model)), rlf_dtype_size(l->dtype), total, ms));
out:
    return status;
}

static rlf_status send_step(learner *l, const rlf_batch *batch, double grad_norm, double seconds) {
    const tally *t = &l->tally;
    rlf_metric metrics[] = {
        {rlf_slice_of("loss"), t->loss}, {rlf_slice_of("kl"), t->kl}, {rlf_slice_of("entropy"), t->entropy},
        {rlf_slice_of("clipped"), t->clipped},
        {rlf_slice_of("tokens"), t->tokens}, {rlf_slice_of("logprob_diff_max"), t->diff_max},
        {rlf_slice_of("logprob_diff_sum"), t->diff_sum},
        {rlf_slice_of("logprob_mismatches"), t->mismatches}, {rlf_slice_of("grad_norm"), grad_norm}, {rlf_slice_of("train_s"), seconds}};
    rlf_step s = {.step = batch->step, .update = batch->update, .version = l->version};
    s.metrics.v = metrics;
    s.metrics.n = sizeof metrics / sizeof *metrics;
    return rlf_send(l->transport, 0, RLF_MSG_STEP, &s);
}

static rlf_status train(learner *l, const rlf_batch *batch) {
    rlf_status status = RLF_OK;
    double start = rlf_now_s(), grad_norm = 0;
    l->tally = (tally){0};
    if (batch->total_tokens > 0) {
        kern_zero(l->queue, slab(l->grads), l->layout.total);
        for (int64_t micro = 0; micro < batch->micros; micro++) RLF_TRY(train_micro(l, batch, micro));
        RLF_TRY(optimizer_step(l, batch->lr, &grad_norm));
    }
    double seconds = rlf_now_s() - start;
    l->train_s += seconds;
    RLF_TRY(send_step(l, batch, grad_norm, seconds));
out:
    return status;
}

/* ---- hand-over and checkpoint ----------------------------------------------------------------------------------------------------- */

/* Learner 0 sends the weights to every rollout rank. */
static rlf_status send_weights(learner *l, const char *what) {
    int n = l->topology.rollouts;
    int *to = rlf_calloc((size_t)n, sizeof *to);
    for (int i = 0; i < n; i++) to[i] = l->topology.rollout_first + i;
    const void *weights = kern_host_ptr(kern_model_params(l->model));
    size_t bytes = l->layout.total * rlf_dtype_size(l->dtype);
    rlf_status status = rlf_bulk_send_many(l->transport, to, (size_t)n, weights, bytes, collective_ms(l), what);
    free(to);
    return status;
}

static rlf_status publish(learner *l, int64_t version) {
    rlf_status status = RLF_OK;
    char what[48], checksum[24];
    snprintf(what, sizeof what, "weights version %lld", (long long)version);
    if (learner_index(l) == 0) RLF_TRY(send_weights(l, what));
    l->version = version;
    snprintf(checksum, sizeof checksum, "%016llx",
             (unsigned long long)kern_checksum(l->queue, kern_model_params(l->model), l->layout.total));
    RLF_TRY(reply(l, RLF_CONTROL_PUBLISHED, version, checksum));
out:
    return status;
}

/* Brings one state of all shards together in full[total] on learner 0; the others send theirs. */
static rlf_status gather_state(learner *l, kern_buf *state, float *full) {
    static const char what[] = "optimizer state for a checkpoint";
    rlf_status status = RLF_OK;
    float *mine = kern_host_ptr(slab(state));
    int first = l->topology.learner_first;
    if (learner_index(l) > 0) return rlf_bulk_send(l->transport, first, mine, (l->end - l->begin) * sizeof *mine, collective_ms(l), what);
    memcpy(full + l->begin, mine, (l->end - l->begin) * sizeof *mine);
    for (int i = 1; i < l->topology.learners; i++) {
        size_t b, e;
        rlf_shard(l->layout.total, l->topology.learners, i, &b, &e);
        RLF_TRY(rlf_bulk_receive(l->transport, first + i, full + b, (e - b) * sizeof *full, collective_ms(l), what));
    }
out:
    return status;
}

/* optimizer.safetensors: "exp_avg.NAME", "exp_avg_sq.NAME" and, where weights are bfloat16, "master.NAME" per parameter, so that it does not
 * depend on the number of learners. full: (states) arrays in the layout. */
static rlf_status write_state(const learner *l, const char *folder, float *const *full) {
    size_t n = l->layout.n_tensors, count = (size_t)states(l) * n;
    rlf_arena arena = {0};
    rlf_st_tensor *out = rlf_arena_alloc(&arena, count, sizeof *out);
    for (size_t i = 0; i < count; i++) {
        const rlf_tensor_info *t = &l->layout.tensors[i % n];
        out[i] = (rlf_st_tensor){.name = rlf_arena_printf(&arena, "%s.%s", state_names[i / n], t->name),
                                 .dtype = RLF_DTYPE_F32,
                                 .dims = t->vector ? 1 : 2, .data = full[i / n] + t->offset,
                                 .bytes = (size_t)t->rows * (size_t)t->cols * sizeof(float)};
        out[i].shape[0] = t->vector ? t->cols : t->rows;
        out[i].shape[1] = t->vector ? 0 : t->cols;
    }
    rlf_status status = rlf_safetensors_write(rlf_arena_printf(&arena, "%s/optimizer.safetensors", folder), out, count, NULL, NULL);
    rlf_arena_clean_up(&arena);
    return status;
}

static rlf_status save(learner *l, int64_t step, const char *folder) {
    rlf_status status = RLF_OK;
    bool writer = learner_index(l) == 0;
    float *full[STATES] = {NULL};
    for (int i = 0; i < states(l); i++) {
        if (writer) full[i] = rlf_calloc(l->layout.total, sizeof *full[i]);
        RLF_TRY(gather_state(l, l->state[i], full[i]));
    }
    if (writer) {
        RLF_TRY(rlf_checkpoint_write(folder, &l->layout, l->dtype, kern_host_ptr(kern_model_params(l->model)), l->config->model.path,
                                     (size_t)l->config->train.shard_mb * 1000000));
        RLF_TRY(write_state(l, folder, full));
        RLF_TRY(trainer_json_write(folder, "optimizer.json", json_pack("{s:I}", "updates", (json_int_t)l->updates_done), 9));
    }
    RLF_TRY(reply(l, RLF_CONTROL_SAVED, step, ""));
out:
    for (int i = 0; i < STATES; i++) free(full[i]);
    return status;
}

/* This shard of one state, from the per-parameter tensors of the file. */
static rlf_status read_state(learner *l, const rlf_safetensors *file, const char *prefix, float *shard) {
    for (size_t i = 0; i < l->layout.n_tensors; i++) {
        const rlf_tensor_info *t = &l->layout.tensors[i];
        char name[128];
        snprintf(name, sizeof name, "%s.%s", prefix, t->name);
        const rlf_st_tensor *from = rlf_safetensors_find(file, name);
        size_t n = (size_t)t->rows * (size_t)t->cols;
        if (!from || from->dtype != RLF_DTYPE_F32 || from->bytes != n * sizeof *shard)
            return RLF_RAISE(INVALID, "optimizer.safetensors: tensor %s is missing or not F32 of %zu elements", name, n);
        size_t b = t->offset > l->begin ? t->offset : l->begin, e = t->offset + n < l->end ? t->offset + n : l->end;
        if (b < e) memcpy(shard + (b - l->begin), (const float *)from->data + (b - t->offset), (e - b) * sizeof *shard);
    }
    return RLF_OK;
}

static rlf_status read_optimizer(learner *l, const char *folder) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    rlf_safetensors *file = NULL;
    json_t *state = NULL;
    json_error_t error;
    rlf_str_printf(&path, "%s/optimizer.json", folder);
    state = json_load_file(path.ptr, 0, &error);
    if (!state || !json_is_integer(json_object_get(state, "updates")))
        RLF_FAIL(INVALID, "%s: expected {\"updates\": N}: %s", path.ptr, error.text);
    l->updates_done = json_integer_value(json_object_get(state, "updates"));
    rlf_str_reset(&path);
    rlf_str_printf(&path, "%s/optimizer.safetensors", folder);
    RLF_TRY(rlf_safetensors_open(&file, path.ptr));
    if (rlf_safetensors_count(file) != (size_t)states(l) * l->layout.n_tensors)
        RLF_FAIL(INVALID, "%s: %zu tensors, expected %d for each parameter with model.dtype %s: the run began with another one", path.ptr,
                 rlf_safetensors_count(file), states(l), l->config->model.dtype);
    for (int i = 0; i < states(l); i++) RLF_TRY(read_state(l, file, state_names[i], kern_host_ptr(slab(l->state[i]))));
out:
    json_decref(state);
    if (file) rlf_safetensors_destroy(file);
    rlf_str_clean_up(&path);
    return status;
}

/* ---- set-up and the loop ---------------------------------------------------------------------------------------------------------- */

static rlf_status load_weights(learner *l) {
    rlf_status status = RLF_OK;
    rlf_str resume = {0};
    RLF_TRY(trainer_resume_find(l->config, &l->version, &resume));
    const char *from = l->version > 0 ? resume.ptr : l->config->model.path;
    RLF_TRY(rlf_checkpoint_read(from, &l->layout, l->dtype, kern_host_ptr(kern_model_params(l->model))));
    if (l->version > 0) RLF_TRY(read_optimizer(l, from));
    else if (l->state[MASTER])
        kern_convert(l->queue, slab(l->state[MASTER]), kern_at(kern_model_params(l->model), l->begin), l->end - l->begin);
    if (l->reference)
        RLF_TRY(rlf_checkpoint_read(l->config->model.path, &l->layout, l->dtype, kern_host_ptr(kern_model_params(l->reference))));
    RLF_INFO("weights of %s", from);
out:
    rlf_str_clean_up(&resume);
    return status;
}

static rlf_status set_up(learner *l, int threads) {
    rlf_status status = RLF_OK;
    const rlf_config *config = l->config;
    rlf_model_shape shape;
    RLF_TRY(trainer_topology_init(&l->topology, config, rlf_transport_size(l->transport)));
    RLF_TRY(rlf_model_shape_read(&shape, config->model.path));
    rlf_model_layout_init(&l->layout, &shape);
    if (!rlf_dtype_parse(config->model.dtype, &l->dtype)) RLF_FAIL(INVALID, "model.dtype %s: expected float32 or bfloat16", config->model.dtype);
    l->supervised = strcmp(config->mode, "sft") == 0;
    int64_t longest = config->episode.max_tokens > config->train.micro_tokens ? config->episode.max_tokens : config->train.micro_tokens;
    l->max_tokens = (int)longest;
    rlf_shard(l->layout.total, l->topology.learners, learner_index(l), &l->begin, &l->end);
    pack_new(&l->pack, l->max_tokens);

    RLF_TRY(kern_device_open(&l->device, &(kern_device_options){.name = "cpu", .threads = threads}));
    RLF_TRY(kern_queue_new(&l->queue, l->device));
    RLF_TRY(kern_model_new(&l->model, l->queue, &l->layout, l->dtype, l->max_tokens));
    if (!l->supervised && config->algorithm.kl > 0)
        RLF_TRY(kern_model_new(&l->reference, l->queue, &l->layout, l->dtype, l->max_tokens));
    RLF_TRY(kern_trainer_new(&l->trainer, l->model,
                             &(kern_trainer_options){.max_tokens = l->max_tokens, .max_seqs = l->max_tokens, .gradients = true,
                                                     .recompute = config->train.recompute}));
    RLF_TRY(kern_buf_new(&l->grads, l->device, l->layout.total * sizeof(float)));
    for (int i = 0; i < (l->dtype == RLF_DTYPE_F32 ? MASTER : STATES); i++)
        RLF_TRY(kern_buf_new(&l->state[i], l->device, (l->end - l->begin) * sizeof(float)));
    RLF_TRY(load_weights(l));
    size_t held = l->layout.total * (rlf_dtype_size(l->dtype) + sizeof(float)) + (size_t)states(l) * (l->end - l->begin) * sizeof(float);
    RLF_TRY(reply(l, RLF_CONTROL_READY, (int64_t)held, ""));
out:
    return status;
}

static void tear_down(learner *l) {
    if (l->trainer) kern_trainer_destroy(l->trainer);
    if (l->reference) kern_model_destroy(l->reference);
    if (l->model) kern_model_destroy(l->model);
    kern_buf_destroy(l->grads);
    for (int i = 0; i < STATES; i++) kern_buf_destroy(l->state[i]);
    if (l->queue) kern_queue_destroy(l->queue);
    if (l->device) kern_device_close(l->device);
    pack_clean_up(&l->pack);
    rlf_model_layout_clean_up(&l->layout);
}

static rlf_status serve(learner *l, const rlf_received *m, rlf_arena *arena, bool *stop) {
    rlf_status status = RLF_OK;
    if (m->type == RLF_MSG_BATCH) {
        rlf_batch batch;
        RLF_TRY(rlf_message_decode(m->type, m->bytes.ptr, m->bytes.len, m->from, arena, &batch));
        RLF_TRY(train(l, &batch));
    } else if (m->type == RLF_MSG_CONTROL) {
        rlf_control control;
        RLF_TRY(rlf_message_decode(m->type, m->bytes.ptr, m->bytes.len, m->from, arena, &control));
        if (control.kind == RLF_CONTROL_PUBLISH) RLF_TRY(publish(l, control.value));
        else if (control.kind == RLF_CONTROL_SAVE) RLF_TRY(save(l, control.value, control.text.ptr));
        else if (control.kind == RLF_CONTROL_STOP) *stop = true;
        else RLF_FAIL(PROTOCOL, "control message of kind %lld from rank %d: a learner has no use for it", (long long)control.kind, m->from);
    } else {
        RLF_FAIL(PROTOCOL, "message %s from rank %d is not for a learner", rlf_message_name((int)m->type), m->from);
    }
out:
    return status;
}

rlf_status trainer_learner_run(rlf_transport *transport, const rlf_config *config, int threads) {
    rlf_status status = RLF_OK;
    learner l = {.transport = transport, .config = config};
    rlf_received message = {0};
    rlf_arena arena = {0};
    bool stop = false;
    RLF_TRY(set_up(&l, threads));
    while (!stop) {
        bool got = false;
        RLF_TRY(rlf_receive(transport, &message, 1000, &got));
        if (!got) continue;
        rlf_arena_reset(&arena);
        RLF_TRY(serve(&l, &message, &arena, &stop));
    }
out:
    rlf_str_clean_up(&message.bytes);
    rlf_arena_clean_up(&arena);
    tear_down(&l);
    return status;
}
