/* Every message between ranks: its fields, sender and receiver. Reading this file is reading the system.
 *
 *   coordinator --EPISODE--> rollout --OPEN, CALL, SCORE, CLOSE--> tool service --OBSERVATION, REWARD--> rollout
 *   rollout --TRAJECTORY--> coordinator
 *   coordinator --BATCH--> learner --STEP--> coordinator;   CONTROL and HEARTBEAT both ways between the coordinator and any rank;
 *   learner --CONTROL--> learner.
 *
 * On the wire a message is one msgpack map with the short keys below. Unknown keys are ignored; a missing one is an error that
 * names key, message and sender. Strings and arrays are bounded here, before anything is allocated. Number arrays travel as
 * msgpack bin (little-endian), so that floats keep their bits. Weights and gradients are not messages: they are raw buffers
 * (transport.h, bulk).
 *
 * A record is declared once, as a list of fields:   KIND(R, member, "key"[, …])
 *   I64, F64            int64_t, double
 *   STR                 rlf_slice (NUL terminated behind its end); at most RLF_MSG_MAX_TEXT bytes
 *   I32S, F32S          rlf_i32s, rlf_f32s
 *   LIST(R, type, …)    struct { rlf_<type> *v; size_t n; } of another record
 * Decoded memory belongs to the arena given to the decoder. */
#ifndef RLF_COMMON_MSG_MESSAGES_H
#define RLF_COMMON_MSG_MESSAGES_H

#include <stdint.h>

#include "common/base/mem.h"

enum {
    RLF_MSG_MAX_BYTES = 1 << 30,  /* one message */
    RLF_MSG_MAX_TEXT = 16 << 20,  /* one string */
    RLF_MSG_MAX_ITEMS = 1 << 24   /* elements of one array */
};

typedef struct rlf_i32s { int32_t *v; size_t n; } rlf_i32s;
typedef struct rlf_f32s { float *v; size_t n; } rlf_f32s;

/* ---- parts ------------------------------------------------------------------------------------------------------------------------ */

/* What a run of tokens is. Spans are consecutive and cover all tokens of a trajectory. */
typedef enum rlf_span_kind { RLF_SPAN_PROMPT, RLF_SPAN_MODEL, RLF_SPAN_OBSERVATION } rlf_span_kind;

/* What became of a tool call. Only INFRA takes the episode out of the loss. */
#define RLF_CALL_STATUS_TABLE(X)                                                                                              \
    X(OK, "ok") X(TOOL_ERROR, "tool_error") X(TIMEOUT, "timeout") X(BAD_CALL, "bad_call") X(INFRA, "infra_error")
/* Why an episode ended. */
#define RLF_FINISH_TABLE(X)                                                                                                   \
    X(ANSWER, "answer")        /* the model gave an answer (tag, or a turn without a tool call) */                            \
    X(STOP, "stop")            /* a tool said done */                                                                         \
    X(TURN_LIMIT, "turn_limit")     /* a call after the last tool round: not made */                                          \
    X(LENGTH_LIMIT, "length_limit") /* turn or episode token limit */                                                         \
    X(INFRA, "infra")          /* infrastructure failed: out of loss and baseline, tried again */
#define RLF_ENUM_CALL_(n, t) RLF_CALL_##n,
#define RLF_ENUM_FINISH_(n, t) RLF_FINISH_##n,
typedef enum rlf_call_status { RLF_CALL_STATUS_TABLE(RLF_ENUM_CALL_) RLF_CALL_STATUS_COUNT } rlf_call_status;
typedef enum rlf_finish { RLF_FINISH_TABLE(RLF_ENUM_FINISH_) RLF_FINISH_COUNT } rlf_finish;
const char *rlf_call_status_text(int64_t status);
const char *rlf_finish_text(int64_t finish);

#define RLF_FIELDS_said(R, I64, F64, STR, I32S, F32S, LIST)                                                                    \
    STR(R, role, "r") STR(R, content, "c") I64(R, reasoned, "g") /* 1: reasoning is given, perhaps empty */                    \
    STR(R, reasoning, "h") STR(R, tool_calls, "t") /* "" none; rlf_chat_message */
#define RLF_FIELDS_text(R, I64, F64, STR, I32S, F32S, LIST) STR(R, text, "x")
#define RLF_FIELDS_span(R, I64, F64, STR, I32S, F32S, LIST)                                                                    \
    I64(R, begin, "b") I64(R, end, "e") I64(R, kind, "k") /* rlf_span_kind */ I64(R, turn, "t") /* 0 first model turn */       \
    I64(R, version, "v") /* weights that sampled it */
#define RLF_FIELDS_turn(R, I64, F64, STR, I32S, F32S, LIST) /* one tool call */                                                \
    I64(R, turn, "t") I64(R, call, "i") /* index within the turn */ STR(R, tool, "n") STR(R, arguments, "a")                   \
    I64(R, status, "s") /* rlf_call_status */ F64(R, latency_ms, "l") F64(R, reward, "r") /* step reward */                    \
    I64(R, cut, "c") /* 1: the answer was cut to the token limit */ STR(R, answer, "x")
#define RLF_FIELDS_component(R, I64, F64, STR, I32S, F32S, LIST) /* a named part of a reward; the reward is sum of weight*value */ \
    STR(R, name, "n") F64(R, weight, "w") F64(R, value, "v")
#define RLF_FIELDS_limits(R, I64, F64, STR, I32S, F32S, LIST)                                                                  \
    I64(R, turns, "t") /* tool rounds; 0: tools off */ I64(R, turn_tokens, "n") I64(R, observation_tokens, "o") I64(R, tokens, "m")   \
    I64(R, timeout_ms, "d")
#define RLF_FIELDS_sampling(R, I64, F64, STR, I32S, F32S, LIST) F64(R, temperature, "t") F64(R, top_p, "p") I64(R, top_k, "k")
#define RLF_FIELDS_metric(R, I64, F64, STR, I32S, F32S, LIST) STR(R, name, "n") F64(R, value, "v")
/* A trajectory as a learner sees it: advantage added, texts left out. */
#define RLF_FIELDS_sequence(R, I64, F64, STR, I32S, F32S, LIST)                                                                \
    I64(R, uid, "u") I64(R, sample, "s") I32S(R, tokens, "t") F32S(R, logprobs, "l") LIST(R, span, spans, "p")                 \
    F64(R, advantage, "a") F64(R, weight, "w") /* of each model token in the loss; 0 leaves it out */                          \
    I64(R, micro, "m") /* micro-batch on its learner */

/* ---- messages --------------------------------------------------------------------------------------------------------------------- */

/* coordinator -> rollout: `samples` episodes of one question, numbered from first_sample; they share their prompt. */
#define RLF_FIELDS_episode(R, I64, F64, STR, I32S, F32S, LIST)                                                                 \
    I64(R, uid, "u") I64(R, first_sample, "s") I64(R, samples, "n") I64(R, attempt, "a") I64(R, seed, "e") I64(R, version, "v") \
    LIST(R, said, prompt, "p") STR(R, tools, "t") /* JSON array of the schemas shown in the prompt; "" none */                 \
    LIST(R, text, targets, "g") STR(R, data_source, "d") STR(R, extra, "x") LIST(R, limits, limits, "l") LIST(R, sampling, sampling, "m")
/* rollout -> tool service, in this order per episode (uid, sample, attempt): OPEN, any CALLs, SCORE, CLOSE. */
#define RLF_FIELDS_open(R, I64, F64, STR, I32S, F32S, LIST)                                                                    \
    I64(R, uid, "u") I64(R, sample, "s") I64(R, attempt, "a") I64(R, version, "v") I64(R, seed, "e") STR(R, extra, "x")
#define RLF_FIELDS_call(R, I64, F64, STR, I32S, F32S, LIST)                                                                    \
    I64(R, uid, "u") I64(R, sample, "s") I64(R, attempt, "a") I64(R, turn, "t") I64(R, call, "i") STR(R, tool, "n") STR(R, arguments, "g")
#define RLF_FIELDS_score(R, I64, F64, STR, I32S, F32S, LIST) /* text: what the model itself wrote, all turns, in order */      \
    I64(R, uid, "u") I64(R, sample, "s") I64(R, attempt, "a") LIST(R, text, turns, "t") LIST(R, text, targets, "g")            \
    STR(R, data_source, "d") STR(R, extra, "x") I64(R, calls, "c") I64(R, bad_calls, "b") I64(R, finish, "f")
#define RLF_FIELDS_close(R, I64, F64, STR, I32S, F32S, LIST) I64(R, uid, "u") I64(R, sample, "s") I64(R, attempt, "a")
/* tool service -> rollout: the answer to one CALL, and to one SCORE. */
#define RLF_FIELDS_observation(R, I64, F64, STR, I32S, F32S, LIST)                                                             \
    I64(R, uid, "u") I64(R, sample, "s") I64(R, attempt, "a") I64(R, turn, "t") I64(R, call, "i") STR(R, text, "x")            \
    I64(R, status, "c") /* rlf_call_status */ F64(R, reward, "r") I64(R, done, "d") F64(R, latency_ms, "l")
#define RLF_FIELDS_reward(R, I64, F64, STR, I32S, F32S, LIST)                                                                  \
    I64(R, uid, "u") I64(R, sample, "s") I64(R, attempt, "a") I64(R, status, "c") LIST(R, component, components, "p")
/* rollout -> coordinator: one finished episode. logprobs are 0 where the model did not choose. */
#define RLF_FIELDS_trajectory(R, I64, F64, STR, I32S, F32S, LIST)                                                              \
    I64(R, uid, "u") I64(R, sample, "s") I64(R, attempt, "a") I64(R, version, "v") I32S(R, tokens, "t") F32S(R, logprobs, "l") \
    LIST(R, span, spans, "p") LIST(R, turn, turns, "n") LIST(R, component, components, "r") F64(R, reward, "w")                \
    I64(R, finish, "f") STR(R, error, "e") /* why, where finish is infra */ F64(R, generate_ms, "g") F64(R, tool_ms, "o")
/* coordinator -> learner: this learner's share of one optimizer update. */
#define RLF_FIELDS_batch(R, I64, F64, STR, I32S, F32S, LIST)                                                                   \
    I64(R, step, "s") I64(R, update, "u") I64(R, updates, "n") I64(R, micros, "m") F64(R, lr, "l")                             \
    F64(R, total_tokens, "t") /* loss tokens of the whole global batch: the denominator */ F64(R, total_sequences, "q")        \
    LIST(R, sequence, sequences, "v")
/* learner -> coordinator: what one update did (sums over this learner's share, so that the coordinator can add them). */
#define RLF_FIELDS_step(R, I64, F64, STR, I32S, F32S, LIST)                                                                    \
    I64(R, step, "s") I64(R, update, "u") I64(R, version, "v") LIST(R, metric, metrics, "m")
/* any -> coordinator, every second or so while working, and from a tool rank always: what it is doing, and per-phase seconds since start (a
 * tool rank: counts of its tools, "search.calls"). coordinator -> any: a sign of life, empty (transport.h). */
#define RLF_FIELDS_heartbeat(R, I64, F64, STR, I32S, F32S, LIST)                                                               \
    STR(R, doing, "d") I64(R, done, "n") /* tokens generated or trained so far */ LIST(R, metric, phases, "p")
/* coordinator -> any, any -> coordinator, and among learners. */
#define RLF_CONTROL_TABLE(X)                                                                                                   \
    X(READY)      /* rank -> coordinator: set up; value = bytes of memory taken, text = device, "" of a tool rank */             \
    X(PUBLISH)    /* coordinator -> learners and rollouts: hand weights over as version `value`; learner 0 sends them (bulk) */ \
    X(PUBLISHED)  /* rank -> coordinator: done; value = version, text = checksum in hex */                                     \
    X(SAVE)       /* coordinator -> learner 0: write weights and optimizer state of step `value` into folder `text` */         \
    X(FETCH)      /* learner 0 -> another: send the piece of the optimizer's state that begins at `value` (bulk; optimizer.h) */ \
    X(SAVED)      /* learner 0 -> coordinator */                                                                               \
    X(STOP)       /* coordinator -> any: finish; value = exit status, text = why */                                            \
    X(STOPPED)    /* tool rank -> coordinator: no call is taken any more; what its tools counted came in the HEARTBEAT before */ \
    X(ERROR)      /* rank -> coordinator: text = the one line that says what and where */
#define RLF_ENUM_CONTROL_(n) RLF_CONTROL_##n,
typedef enum rlf_control_kind { RLF_CONTROL_TABLE(RLF_ENUM_CONTROL_) RLF_CONTROL_COUNT } rlf_control_kind;
#define RLF_FIELDS_control(R, I64, F64, STR, I32S, F32S, LIST) I64(R, kind, "k") I64(R, value, "v") STR(R, text, "t")

/* Parts before the records that hold them. */
#define RLF_PART_TABLE(X) X(said) X(text) X(span) X(turn) X(component) X(limits) X(sampling) X(metric) X(sequence)
#define RLF_MESSAGE_TABLE(X)                                                                                                   \
    X(EPISODE, episode) X(OPEN, open) X(CALL, call) X(SCORE, score) X(CLOSE, close) X(OBSERVATION, observation)                \
    X(REWARD, reward) X(TRAJECTORY, trajectory) X(BATCH, batch) X(STEP, step) X(HEARTBEAT, heartbeat) X(CONTROL, control)

/* ---- generated: struct rlf_<record> and enum rlf_message_type ----------------------------------------------------------------------- */

#define RLF_D_I64_(R, m, key) int64_t m;
#define RLF_D_F64_(R, m, key) double m;
#define RLF_D_STR_(R, m, key) rlf_slice m;
#define RLF_D_I32S_(R, m, key) rlf_i32s m;
#define RLF_D_F32S_(R, m, key) rlf_f32s m;
#define RLF_D_LIST_(R, type, m, key) struct { struct rlf_##type *v; size_t n; } m;
#define RLF_DECLARE_(r)                                                                                                        \
    typedef struct rlf_##r {                                                                                                   \
        RLF_FIELDS_##r(r, RLF_D_I64_, RLF_D_F64_, RLF_D_STR_, RLF_D_I32S_, RLF_D_F32S_, RLF_D_LIST_)                           \
    } rlf_##r;
#define RLF_DECLARE_MESSAGE_(NAME, r) RLF_DECLARE_(r)
RLF_PART_TABLE(RLF_DECLARE_)
RLF_MESSAGE_TABLE(RLF_DECLARE_MESSAGE_)
#define RLF_ENUM_MESSAGE_(NAME, r) RLF_MSG_##NAME,
typedef enum rlf_message_type { RLF_MESSAGE_TABLE(RLF_ENUM_MESSAGE_) RLF_MSG_COUNT } rlf_message_type;

/* "EPISODE"; "?" out of range. */
const char *rlf_message_name(int type);

/* Appends the encoding of *record, which is a struct rlf_<record> of that type. */
void rlf_message_encode(rlf_message_type type, const void *record, rlf_str *out);
/* Fills *record (a struct of that type) from exactly n bytes. Memory comes from the arena. `from` (a rank) is for the error text alone. */
rlf_status rlf_message_decode(rlf_message_type type, const void *bytes, size_t n, int from, rlf_arena *arena, void *record) RLF_MUST_USE;

#endif
