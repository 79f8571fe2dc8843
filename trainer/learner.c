/* The learner role: BATCH in, one optimizer update, STEP out; weights out on PUBLISH; checkpoint files on SAVE, for which learner 0 asks the
 * others for their state (FETCH).
 *
 * Every learner holds all weights and gradients, and the optimizer's state of its shard (optimizer.h). One update:
 *   pack each micro-batch -> forward, loss, backward (gradients add up in the slab) -> reduce-scatter -> global norm
 *   -> AdamW on the shard -> all-gather.
 * A learner without sequences still takes part in the collectives. An update whose global batch has no loss token changes nothing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/alive.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "trainer/algorithm.h"
#include "trainer/batch.h"
#include "trainer/checkpoint.h"
#include "trainer/memory.h"
#include "trainer/optimizer.h"
#include "trainer/topology.h"
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

typedef struct learner {
    rlf_transport *transport;
    const rlf_config *config;
    trainer_topology topology;
    rlf_model_layout layout;
    kern_precision precision;
    kern_device *device;
    kern_queue *queue;
    kern_comm *comm;
    kern_handover *handover; /* of weights to the rollout ranks, where there are some */
    kern_model *model, *reference; /* reference: NULL without KL */
    kern_trainer *trainer;
    trainer_optimizer *optimizer;
    kern_buf *grads;
    int64_t version;
    int max_tokens;
    bool supervised;
    packed pack;
    tally tally;
    const char *doing; /* what it was asked for last */
    int64_t last_heartbeat_ms, tokens_done;
    double train_s;
} learner;

static int learner_index(const learner *l) { return rlf_transport_rank(l->transport) - l->topology.learner_first; }
static int collective_ms(const learner *l) { return (int)(l->config->deadline.collective_s * 1000); }
static kern_tensor gradients(const learner *l) { return kern_view(l->grads, KERN_F32); }

static rlf_status reply(learner *l, rlf_control_kind kind, int64_t value, const char *text) {
    rlf_control c = {.kind = kind, .value = value, .text = rlf_slice_of(text)};
    return rlf_send(l->transport, 0, RLF_MSG_CONTROL, &c);
}

/* In the middle of what it was asked for. */
static void on_alive(void *ctx) {
    learner *l = ctx;
    if (rlf_now_ms() - l->last_heartbeat_ms < rlf_config_beat_ms(l->config)) return;
    l->last_heartbeat_ms = rlf_now_ms();
    rlf_metric phase = {rlf_slice_of("train"), l->train_s};
    rlf_heartbeat h = {.doing = rlf_slice_of(l->doing), .done = l->tokens_done};
    h.phases.v = &phase;
    h.phases.n = 1;
    rlf_status ignored = rlf_send(l->transport, 0, RLF_MSG_HEARTBEAT, &h); /* the next message that does not go out is not */
    (void)ignored;
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
    if (strcmp(l->config->algorithm.aggregate, "sequence") != 0) return s->weight / batch->total_tokens;
    return s->weight / ((double)trainer_model_tokens(s->spans.v, s->spans.n) * batch->total_sequences);
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
    RLF_TRY(kern_trainer_gradients(l->trainer, &rows, training_filter(l), loss_of_rows, l, gradients(l)));
    l->tokens_done += p->rows;
out:
    return status;
}

/* ---- one update ------------------------------------------------------------------------------------------------------------------- */

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
    trainer_adamw args = {.lr = batch->lr, .beta1 = l->config->optimizer.beta1, .beta2 = l->config->optimizer.beta2,
                          .eps = l->config->optimizer.eps, .weight_decay = l->config->optimizer.weight_decay,
                          .clip = l->config->optimizer.grad_clip};
    l->doing = "training";
    l->tally = (tally){0};
    if (batch->total_tokens > 0) {
        kern_zero(l->queue, gradients(l), l->layout.total);
        for (int64_t micro = 0; micro < batch->micros; micro++) RLF_TRY(train_micro(l, batch, micro));
        RLF_TRY(trainer_optimizer_update(l->optimizer, gradients(l), &args, &grad_norm));
    }
    double seconds = rlf_now_s() - start;
    l->train_s += seconds;
    RLF_TRY(send_step(l, batch, grad_norm, seconds));
out:
    return status;
}

/* ---- hand-over and checkpoint ----------------------------------------------------------------------------------------------------- */

static rlf_status publish(learner *l, int64_t version) {
    rlf_status status = RLF_OK;
    char what[48], checksum[24];
    l->doing = "handing over weights";
    snprintf(what, sizeof what, "weights version %lld", (long long)version);
    if (l->handover) RLF_TRY(kern_handover_run(l->handover, kern_model_params(l->model), what));
    l->version = version;
    snprintf(checksum, sizeof checksum, "%016llx",
             (unsigned long long)kern_checksum(l->queue, kern_model_params(l->model), l->layout.total));
    RLF_TRY(kern_sync(l->queue));
    RLF_TRY(reply(l, RLF_CONTROL_PUBLISHED, version, checksum));
out:
    return status;
}

static rlf_status save(learner *l, int64_t step, const char *folder) {
    rlf_status status = RLF_OK;
    l->doing = "writing a checkpoint";
    RLF_TRY(kern_model_write(l->model, folder, l->config->model.path, (size_t)l->config->train.shard_mb * 1000000));
    RLF_TRY(trainer_optimizer_write(l->optimizer, folder));
    RLF_TRY(reply(l, RLF_CONTROL_SAVED, step, ""));
out:
    return status;
}

/* ---- set-up and the loop ---------------------------------------------------------------------------------------------------------- */

static rlf_status load_weights(learner *l) {
    rlf_status status = RLF_OK;
    rlf_str resume = {0};
    RLF_TRY(trainer_checkpoint_newest(l->config, &l->version, &resume));
    const char *from = l->version > 0 ? resume.ptr : l->config->model.path;
    RLF_TRY(kern_model_read(l->model, from));
    if (l->version > 0) RLF_TRY(trainer_optimizer_read(l->optimizer, from));
    if (l->reference) RLF_TRY(kern_model_read(l->reference, l->config->model.path));
    RLF_INFO("%s, %.1f MB, weights of %s", kern_device_name(l->device), (double)kern_device_bytes(l->device) * 1e-6, from);
out:
    rlf_str_clean_up(&resume);
    return status;
}

static rlf_status offer_weights(learner *l) {
    kern_tensor weights = kern_model_params(l->model);
    kern_buf *shared;
    return kern_handover_new(&l->handover, l->comm, l->topology.rollout_first, l->topology.rollouts, l->topology.learners, weights.buf,
                             l->layout.total, weights.dtype, &shared);
}

static kern_dtype reduced_as(const learner *l) { return strcmp(l->config->train.reduce_dtype, "bfloat16") ? KERN_F32 : KERN_BF16; }

static rlf_status set_up(learner *l, const kern_device_options *device) {
    rlf_status status = RLF_OK;
    const rlf_config *config = l->config;
    rlf_model_shape shape;
    RLF_TRY(trainer_topology_init(&l->topology, config, rlf_transport_size(l->transport)));
    RLF_TRY(rlf_model_shape_read(&shape, config->model.path));
    rlf_model_layout_init(&l->layout, &shape);
    RLF_TRY(kern_precision_parse(config->model.dtype, config->model.compute_dtype, &l->precision));
    l->supervised = strcmp(config->mode, "sft") == 0;
    l->max_tokens = (int)trainer_micro_rows(config);
    pack_new(&l->pack, l->max_tokens);

    RLF_TRY(kern_device_open(&l->device, device));
    RLF_TRY(kern_queue_new(&l->queue, l->device));
    RLF_TRY(kern_comm_new(&l->comm, l->queue, l->transport, KERN_WINDOW_BYTES, collective_ms(l)));
    RLF_TRY(kern_comm_join(l->comm, l->topology.learner_first, l->topology.learners));
    RLF_TRY(kern_model_new(&l->model, l->queue, &l->layout, l->precision, l->max_tokens));
    if (l->topology.rollouts > 0) RLF_TRY(offer_weights(l));
    if (!l->supervised && config->algorithm.kl > 0)
        RLF_TRY(kern_model_new(&l->reference, l->queue, &l->layout, l->precision, l->max_tokens));
    RLF_TRY(kern_trainer_new(&l->trainer, l->model,
                             &(kern_trainer_options){.max_tokens = l->max_tokens, .max_seqs = l->max_tokens, .gradients = true,
                                                     .recompute = config->train.recompute,
                                                     .keep_attention = config->train.keep_attention}));
    RLF_TRY(kern_buf_new(&l->grads, l->device, l->layout.total * sizeof(float)));
    RLF_TRY(trainer_optimizer_new(&l->optimizer, l->queue, l->model,
                                  &(trainer_learners){.transport = l->transport, .comm = l->comm, .first = l->topology.learner_first,
                                                      .count = l->topology.learners, .index = learner_index(l), .reduce = reduced_as(l),
                                                      .timeout_ms = collective_ms(l)}));
    RLF_TRY(load_weights(l));
    RLF_TRY(reply(l, RLF_CONTROL_READY, (int64_t)kern_device_bytes(l->device), kern_device_name(l->device)));
out:
    return status;
}

static void tear_down(learner *l) {
    trainer_optimizer_destroy(l->optimizer);
    kern_trainer_destroy(l->trainer);
    kern_model_destroy(l->reference);
    kern_model_destroy(l->model);
    kern_buf_destroy(l->grads);
    kern_handover_destroy(l->handover);
    kern_comm_destroy(l->comm);
    kern_queue_destroy(l->queue);
    kern_device_close(l->device);
    pack_clean_up(&l->pack);
    rlf_model_layout_clean_up(&l->layout);
}

static rlf_status obey(learner *l, const rlf_control *control, int from, bool *stop) {
    switch (control->kind) {
    case RLF_CONTROL_PUBLISH: return publish(l, control->value);
    case RLF_CONTROL_SAVE: return save(l, control->value, control->text.ptr);
    case RLF_CONTROL_FETCH: return trainer_optimizer_send(l->optimizer, control->value);
    case RLF_CONTROL_STOP: *stop = true; return RLF_OK;
    default: return RLF_RAISE(PROTOCOL, "control message of kind %lld from rank %d: a learner has no use for it",
                              (long long)control->kind, from);
    }
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
        RLF_TRY(obey(l, &control, m->from, stop));
    } else {
        RLF_FAIL(PROTOCOL, "message %s from rank %d is not for a learner", rlf_message_name((int)m->type), m->from);
    }
out:
    return status;
}

rlf_status trainer_learner_run(rlf_transport *transport, const rlf_config *config, const kern_device_options *device) {
    rlf_status status = RLF_OK;
    learner l = {.transport = transport, .config = config};
    rlf_received message = {0};
    rlf_arena arena = {0};
    bool stop = false;
    l.doing = "starting";
    rlf_alive_tell(on_alive, &l); /* weights and state of the optimizer may be minutes of reading */
    RLF_TRY(set_up(&l, device));
    while (!stop) {
        bool got = false;
        RLF_TRY(rlf_receive(transport, &message, 1000, &got));
        if (!got) continue;
        rlf_arena_reset(&arena);
        RLF_TRY(serve(&l, &message, &arena, &stop));
    }
    if (l.handover) RLF_TRY(kern_handover_part(l.handover));
out:
    rlf_alive_tell(NULL, NULL);
    rlf_str_clean_up(&message.bytes);
    rlf_arena_clean_up(&arena);
    if (status != RLF_TIMEOUT) tear_down(&l); /* else MPI may not be through with our memory (transport.h) */
    return status;
}
