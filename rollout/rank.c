/* The rollout rank: messages in, engine steps, messages out, until told to stop (rollout.h).
 *
 * While there are rows to run, the inbox is only looked at between steps; with nothing to run the rank sleeps in the transport.
 * Weights arrive between two sets of episodes, never under one: a cache belongs to episodes, so none outlives the weights it was
 * computed with. */
#include "rollout/rollout.h"

#include <assert.h>
#include <stdio.h>

#include "common/base/alive.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "kernels/comm/comm.h"
#include "rollout/episode.h"

enum { IDLE_WAIT_MS = 50, COORDINATOR = 0 };

typedef enum rank_phase { GENERATE, TOOL_WAIT, IDLE, HANDOVER, PHASE_COUNT } rank_phase;
static const char *const phase_names[PHASE_COUNT] = {"generate", "tool_wait", "idle", "handover"};

typedef struct rollout_rank {
    rlf_transport *transport;
    const rlf_config *config;
    rlf_model_layout layout;
    kern_precision precision;
    rlf_tokenizer *tokenizer;
    rlf_chat *chat;
    kern_device *device;
    kern_queue *queue;
    kern_comm *comm;
    kern_handover *handover; /* of weights from learners; NULL in mode eval */
    kern_model *model;
    kern_decoder *decoder;
    rollout_engine *engine;
    rollout_episodes *episodes;
    int64_t version; /* of the weights; -1: none yet */
    rlf_received inbox;
    rlf_arena arena; /* of the message in hand */
    rank_phase doing;
    double seconds[PHASE_COUNT];
    int64_t heartbeat_ms; /* when the last one was sent */
    bool stop;
} rollout_rank;

/* ---- messages out ----------------------------------------------------------------------------------------------------------------- */

/* All messages of an episode go to one tool rank: it may keep state for it. */
static int tool_rank(const rlf_config *config, int64_t uid, int64_t sample) {
    uint64_t x = ((uint64_t)uid << 20 ^ (uint64_t)sample) + 0x9E3779B97F4A7C15ull; /* SplitMix64 */
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return 1 + (int)((x ^ x >> 31) % (uint64_t)config->ranks.tool);
}

static int receiver_of(const rlf_config *config, rlf_message_type type, const void *record) {
#define TO_TOOL_RANK_(record_type) tool_rank(config, ((const record_type *)record)->uid, ((const record_type *)record)->sample)
    switch (type) {
    case RLF_MSG_OPEN: return TO_TOOL_RANK_(rlf_open);
    case RLF_MSG_CALL: return TO_TOOL_RANK_(rlf_call);
    case RLF_MSG_SCORE: return TO_TOOL_RANK_(rlf_score);
    case RLF_MSG_CLOSE: return TO_TOOL_RANK_(rlf_close);
    default: return COORDINATOR;
    }
#undef TO_TOOL_RANK_
}

/* Once it has the last trajectory the learner may write its weights, which may be ours: a step that is still under way, for nobody, is
 * waited for. */
static rlf_status port_send(void *ctx, rlf_message_type type, const void *record) {
    rlf_status status = RLF_OK;
    rollout_rank *r = ctx;
    if (type == RLF_MSG_TRAJECTORY && rollout_episodes_alive(r->episodes) <= 1) RLF_TRY(kern_sync(r->queue));
    RLF_TRY(rlf_send(r->transport, receiver_of(r->config, type, record), type, record));
out:
    return status;
}

static rlf_status send_control(rollout_rank *r, rlf_control_kind kind, int64_t value, const char *text) {
    rlf_control message = {.kind = kind, .value = value, .text = rlf_slice_of(text)};
    return rlf_send(r->transport, COORDINATOR, RLF_MSG_CONTROL, &message);
}

static rlf_status heartbeat(rollout_rank *r) {
    int64_t now = rlf_now_ms();
    rlf_metric phases[PHASE_COUNT];
    char text[96];
    if (now - r->heartbeat_ms < rlf_config_beat_ms(r->config)) return RLF_OK;
    r->heartbeat_ms = now;
    snprintf(text, sizeof text, "%s, %zu episodes, %zu of them waiting for tools", phase_names[r->doing],
             rollout_episodes_alive(r->episodes), rollout_episodes_waiting(r->episodes));
    for (int i = 0; i < PHASE_COUNT; i++) phases[i] = (rlf_metric){rlf_slice_of(phase_names[i]), r->seconds[i]};
    rlf_heartbeat message = {.doing = rlf_slice_of(text), .done = rollout_engine_statistics(r->engine)->tokens,
                             .phases = {phases, PHASE_COUNT}};
    return rlf_send(r->transport, COORDINATOR, RLF_MSG_HEARTBEAT, &message);
}

/* In the middle of a step or a hand-over. */
static void on_alive(void *ctx) {
    rlf_status ignored = heartbeat(ctx); /* the next message that does not go out is not */
    (void)ignored;
}

/* ---- weights ---------------------------------------------------------------------------------------------------------------------- */

static rlf_status settle_weights(rollout_rank *r, int64_t version, uint64_t *checksum) {
    rlf_status status = RLF_OK;
    *checksum = kern_checksum(r->queue, kern_model_params(r->model), r->layout.total);
    RLF_TRY(kern_sync(r->queue));
    r->version = version;
    RLF_DEBUG("weights version %lld, checksum %016llx", (long long)version, (unsigned long long)*checksum);
out:
    return status;
}

static rlf_status receive_weights(rollout_rank *r, int64_t version) {
    rlf_status status = RLF_OK;
    double begin = rlf_now_s();
    uint64_t checksum = 0;
    char what[64], text[32];
    r->doing = HANDOVER;
    if (rollout_episodes_alive(r->episodes))
        RLF_FAIL(PROTOCOL, "weights version %lld came while %zu episodes run on version %lld", (long long)version,
                 rollout_episodes_alive(r->episodes), (long long)r->version);
    snprintf(what, sizeof what, "weights version %lld", (long long)version);
    RLF_TRY(kern_handover_run(r->handover, kern_model_params(r->model), what));
    RLF_TRY(settle_weights(r, version, &checksum));
    snprintf(text, sizeof text, "%016llx", (unsigned long long)checksum);
    RLF_TRY(send_control(r, RLF_CONTROL_PUBLISHED, version, text));
    r->seconds[HANDOVER] += rlf_now_s() - begin;
out:
    return status;
}

static rlf_status read_weights(rollout_rank *r) {
    rlf_status status = RLF_OK;
    uint64_t checksum;
    RLF_TRY(kern_model_read(r->model, r->config->model.path));
    RLF_TRY(settle_weights(r, 0, &checksum));
out:
    return status;
}

/* ---- messages in ------------------------------------------------------------------------------------------------------------------ */

static rlf_status on_episode(rollout_rank *r, const rlf_episode *m) {
    if (m->version != r->version)
        return RLF_RAISE(PROTOCOL, "episode %lld is for weights version %lld, this rank has %lld", (long long)m->uid, (long long)m->version,
                         (long long)r->version);
    return rollout_episodes_submit(r->episodes, m);
}

static rlf_status on_control(rollout_rank *r, const rlf_control *m) {
    switch (m->kind) {
    case RLF_CONTROL_PUBLISH: return receive_weights(r, m->value);
    case RLF_CONTROL_STOP: r->stop = true; return RLF_OK;
    default: return RLF_RAISE(PROTOCOL, "control message of kind %lld from rank %d: a rollout rank has no use for it",
                              (long long)m->kind, r->inbox.from);
    }
}

static rlf_status handle(rollout_rank *r) {
    rlf_status status = RLF_OK;
    union { rlf_episode episode; rlf_observation observation; rlf_reward reward; rlf_control control; } m;
    rlf_arena_reset(&r->arena);
    switch (r->inbox.type) {
    case RLF_MSG_EPISODE: case RLF_MSG_OBSERVATION: case RLF_MSG_REWARD: case RLF_MSG_CONTROL: break;
    default: RLF_FAIL(PROTOCOL, "message %s from rank %d: a rollout rank has no use for it", rlf_message_name(r->inbox.type),
                      r->inbox.from);
    }
    RLF_TRY(rlf_message_decode(r->inbox.type, r->inbox.bytes.ptr, r->inbox.bytes.len, r->inbox.from, &r->arena, &m));
    if (r->inbox.type == RLF_MSG_EPISODE) RLF_TRY(on_episode(r, &m.episode));
    if (r->inbox.type == RLF_MSG_OBSERVATION) RLF_TRY(rollout_episodes_observe(r->episodes, &m.observation));
    if (r->inbox.type == RLF_MSG_REWARD) RLF_TRY(rollout_episodes_reward(r->episodes, &m.reward));
    if (r->inbox.type == RLF_MSG_CONTROL) RLF_TRY(on_control(r, &m.control));
out:
    return status;
}

/* Handles all that has come; with nothing to run, waits a little for the first. */
static rlf_status drain(rollout_rank *r) {
    rlf_status status = RLF_OK;
    bool got = true;
    int wait_ms = rollout_engine_ready(r->engine) ? 0 : IDLE_WAIT_MS;
    while (!r->stop) {
        RLF_TRY(rlf_receive(r->transport, &r->inbox, wait_ms, &got));
        if (!got) break;
        RLF_TRY(handle(r));
        wait_ms = 0;
    }
out:
    return status;
}

static rlf_status serve(rollout_rank *r) {
    rlf_status status = RLF_OK;
    while (!r->stop) {
        double begin = rlf_now_s(), handover = r->seconds[HANDOVER];
        rank_phase phase = rollout_engine_ready(r->engine) ? GENERATE : rollout_episodes_alive(r->episodes) ? TOOL_WAIT : IDLE;
        r->doing = phase;
        RLF_TRY(drain(r));
        double drained = rlf_now_s();
        r->seconds[phase] += drained - begin - (r->seconds[HANDOVER] - handover);
        RLF_TRY(rollout_episodes_step(r->episodes));
        r->seconds[GENERATE] += rlf_now_s() - drained;
        RLF_TRY(heartbeat(r));
    }
out:
    return status;
}

/* ---- set up ----------------------------------------------------------------------------------------------------------------------- */

static rlf_status set_up_text(rollout_rank *r) {
    rlf_status status = RLF_OK;
    const rlf_config *c = r->config;
    rlf_model_shape shape;
    RLF_TRY(rlf_model_shape_read(&shape, c->model.path));
    rlf_model_layout_init(&r->layout, &shape);
    RLF_TRY(rlf_tokenizer_load(&r->tokenizer, c->model.path));
    RLF_TRY(rlf_chat_new(&r->chat, r->tokenizer, c->model.path, rlf_chat_options_of(c)));
    if (rlf_tokenizer_size(r->tokenizer) > shape.vocab)
        RLF_FAIL(INVALID, "%s: the tokenizer has %d ids, the model's vocabulary %d", c->model.path,
                 rlf_tokenizer_size(r->tokenizer), shape.vocab);
    if (c->episode.max_tokens > shape.max_positions)
        RLF_FAIL(INVALID, "episode.max_tokens %lld: the model in %s has %d positions", (long long)c->episode.max_tokens,
                 c->model.path, shape.max_positions);
out:
    return status;
}

static rollout_engine_options engine_options(const rlf_config *c) {
    return (rollout_engine_options){.batch = (int)c->rollout.batch, .prefill_chunk = (int)c->rollout.prefill_chunk,
                                    .seats = (int)c->rollout.seats, .page_size = (int)c->rollout.page_size,
                                    .pages = (int)(c->rollout.cache_tokens / c->rollout.page_size),
                                    .max_tokens = (int)c->episode.max_tokens};
}

size_t rollout_work_bytes(const rlf_config *config, const rlf_model_layout *layout, const char *device) {
    rollout_engine_options options = engine_options(config);
    kern_precision precision = {RLF_DTYPE_F32, RLF_DTYPE_F32};
    rlf_status status = kern_precision_parse(config->model.dtype, config->model.compute_dtype, &precision);
    assert(status == RLF_OK); /* the config has been checked */
    (void)status;
    return rollout_decoder_bytes(layout, precision, device, &options);
}

static bool evaluates(const rollout_rank *r) { return rlf_slice_eq(rlf_slice_of(r->config->mode), "eval"); }

/* A model with room for weights, or over a learner's own where one is on the same card. */
static rlf_status set_up_model(rollout_rank *r, int positions) {
    rlf_status status = RLF_OK;
    const rlf_config *c = r->config;
    const int first = (int)(1 + c->ranks.tool), rollouts = (int)c->ranks.rollout;
    kern_buf *shared = NULL;
    RLF_TRY(kern_comm_new(&r->comm, r->queue, r->transport, KERN_WINDOW_BYTES, (int)(c->deadline.collective_s * 1000)));
    if (!evaluates(r))
        RLF_TRY(kern_handover_new(&r->handover, r->comm, first, rollouts, rlf_transport_size(r->transport) - first - rollouts, NULL,
                                  r->layout.total, kern_dtype_of(r->precision.stored), &shared));
    if (shared) RLF_TRY(kern_model_new_over(&r->model, r->queue, &r->layout, r->precision, positions, shared));
    else RLF_TRY(kern_model_new(&r->model, r->queue, &r->layout, r->precision, positions));
    if (shared) RLF_INFO("weights are those of a learner on the same card");
out:
    return status;
}

static rlf_status set_up_engine(rollout_rank *r, const kern_device_options *device) {
    rlf_status status = RLF_OK;
    const rlf_config *c = r->config;
    rollout_engine_options options = engine_options(c);
    RLF_TRY(kern_precision_parse(c->model.dtype, c->model.compute_dtype, &r->precision));
    RLF_TRY(kern_device_open(&r->device, device));
    RLF_TRY(kern_queue_new(&r->queue, r->device));
    RLF_TRY(set_up_model(r, options.max_tokens));
    RLF_TRY(rollout_decoder_new(&r->decoder, r->model, &options));
    RLF_TRY(rollout_engine_new(&r->engine, rollout_model_of(r->decoder), &options));
out:
    return status;
}

static rlf_status set_up(rollout_rank *r, const kern_device_options *device) {
    rlf_status status = RLF_OK;
    const rlf_config *c = r->config;
    rollout_episode_options options = {.max_prompt_tokens = c->episode.max_prompt_tokens, .max_tokens = c->episode.max_tokens,
                                       .max_calls = c->episode.max_calls, .stop_at_answer = c->episode.stop_at_answer};
    RLF_TRY(set_up_text(r));
    RLF_TRY(set_up_engine(r, device));
    r->episodes = rollout_episodes_new(r->engine, r->chat, &options, (rollout_port){r, port_send});
    r->version = -1;
    rlf_alive_tell(on_alive, r);
    if (evaluates(r)) RLF_TRY(read_weights(r));
    RLF_INFO("%s, %.1f MB, %zu parameters, cache of %lld tokens", kern_device_name(r->device),
             (double)kern_device_bytes(r->device) * 1e-6, r->layout.total, (long long)c->rollout.cache_tokens);
    RLF_TRY(send_control(r, RLF_CONTROL_READY, (int64_t)kern_device_bytes(r->device), kern_device_name(r->device)));
out:
    return status;
}

static void clean_up_engine(rollout_rank *r) {
    rlf_alive_tell(NULL, NULL); /* what it tells is the engine's */
    rollout_episodes_destroy(r->episodes);
    rollout_engine_destroy(r->engine);
    kern_decoder_destroy(r->decoder);
    kern_model_destroy(r->model);
    r->episodes = NULL;
    r->engine = NULL;
    r->decoder = NULL;
    r->model = NULL;
}

static void clean_up(rollout_rank *r) {
    clean_up_engine(r);
    kern_handover_destroy(r->handover);
    kern_comm_destroy(r->comm);
    kern_queue_destroy(r->queue);
    kern_device_close(r->device);
    rlf_chat_destroy(r->chat);
    rlf_tokenizer_destroy(r->tokenizer);
    rlf_model_layout_clean_up(&r->layout);
    rlf_str_clean_up(&r->inbox.bytes);
    rlf_arena_clean_up(&r->arena);
}

rlf_status rollout_run(rlf_transport *transport, const rlf_config *config, const kern_device_options *device) {
    rlf_status status = RLF_OK;
    rollout_rank rank = {.transport = transport, .config = config};
    RLF_TRY(set_up(&rank, device));
    RLF_TRY(serve(&rank));
    clean_up_engine(&rank); /* the weights may be the learner's */
    if (rank.handover) RLF_TRY(kern_handover_part(rank.handover));
out:
    if (status != RLF_TIMEOUT) clean_up(&rank); /* else MPI may not be through with our memory (transport.h) */
    return status;
}
