/* The generation engine: continuous batching of sequences over a paged cache.
 *
 * A sequence is a growing list of tokens. Those not yet in the cache are pending: more than one is a prefill (taken in chunks),
 * exactly one is a decode.
 * Once the last token has been through the model, the next one is drawn, appended, and handed to the owner, who may let it go on, pause it
 * (a tool is working), append an observation, or close it. Every step runs the decodes of all seated sequences first and fills
 * up with prefill chunks.
 *
 *   open -> [prompt computed once per group] -> decode … -> pause (seat given up, pages kept) -> append + resume -> prefill,
 * decode … -> close
 *
 * Prompts. The samples of a group share a rollout_prompt. Its tokens but the last are computed once; a sample then shares the
 * full pages, copies the last partial one, and computes the last prompt token itself, which gives it logits of its own.
 * Seats. A free one, and then rows, go to the sequence with the fewest rounds (resumptions) behind it, then to the one that has been ready
 * longest: what tools will take is not known, but who has more calls to come has more waiting to come, which is to overlap with the work of
 * others. A sequence begins before others go on only while the cache would hold it to its end, were it as long as the last ones were: what is
 * given up for it would have to be computed again. It may begin beyond that on a seat that nobody else wants.
 * Pages. When the pool is empty, sequences without a seat give theirs up first (youngest first), then those younger than the one
 * in need; what was lost is computed again when it is needed. Pages of a row already in the step are never taken. Somebody
 * always gets on: a step with no row in it means that the oldest may take all pages.
 * Exactness. A row's result depends on that row alone (kernels/kern.h), and a draw on (seed, uid, sample, position). So neither
 * batch, chunk, page size, seats nor pressure changes a token or a log-probability. Only one kind of sampling (filter and seed)
 * is drawn in one step; other kinds wait.
 *
 * The model behind it is a few functions, so that tests can put a script in its place. Not thread safe. */
#ifndef RLF_ROLLOUT_ENGINE_H
#define RLF_ROLLOUT_ENGINE_H

#include "common/text/tokenizer.h"
#include "kernels/transformer/transformer.h"

/* What the engine drives; the functions are those of kern_decoder, with ctx in place of the decoder. */
typedef struct rollout_model {
    void *ctx;
    rlf_status (*step)(void *ctx, const kern_step *step);
    void (*draw)(void *ctx, kern_filter filter, uint64_t seed, const kern_sample_key *keys);
    rlf_status (*collect)(void *ctx, int32_t *ids, float *logprobs);
    void (*copy_page)(void *ctx, int dst_page, int src_page);
    bool ahead; /* steps are queued and run while the host works: a step is queued before the draws of the one before are collected */
} rollout_model;
/* The decoder, which must outlive the engine. */
rollout_model rollout_model_of(kern_decoder *decoder);

typedef struct rollout_engine_options {
    int batch;         /* rows in one step */
    int prefill_chunk; /* rows of one sequence in one step */
    int page_size;     /* tokens */
    int pages;         /* in the pool */
    int seats;         /* sequences that generate at once */
    int max_tokens;    /* no sequence grows beyond this */
} rollout_engine_options;
/* A decoder for an engine of these options: its rows and outputs follow from batch and seats. The caller owns it. */
rlf_status rollout_decoder_new(kern_decoder **out, kern_model *model, const rollout_engine_options *options) RLF_MUST_USE;
/* Its work space beside the cache. */
size_t rollout_decoder_bytes(const rlf_model_layout *layout, kern_precision precision, const char *device,
                             const rollout_engine_options *options);

typedef struct rollout_engine_stats {
    int64_t steps, rows;
    int64_t prompt_rows; /* rows of shared prompts */
    int64_t tokens;      /* drawn, and handed out */
    int64_t given_up;    /* times a sequence or prompt lost its pages */
} rollout_engine_stats;

typedef struct rollout_engine rollout_engine;
typedef struct rollout_seq rollout_seq;
typedef struct rollout_prompt rollout_prompt;

/* Called once per drawn token, which is already the last of the sequence. May pause, append to, or close this sequence, and open others. An
 * error ends the step and is returned by it. */
typedef rlf_status rollout_token_fn(void *owner, rollout_seq *seq, int32_t id, float logprob);

/* Refuses (RLF_LIMIT) a pool that one sequence of max_tokens would not fit. */
rlf_status rollout_engine_new(rollout_engine **out, rollout_model model, const rollout_engine_options *options) RLF_MUST_USE;
/* All sequences and prompts must be closed. A step may be under way: the model goes with the engine, or its draws are collected first. */
void rollout_engine_destroy(rollout_engine *engine);
const rollout_engine_stats *rollout_engine_statistics(const rollout_engine *engine);

/* A prompt of n >= 1 tokens, copied. The caller holds it until rollout_prompt_release; sequences hold it for themselves. */
rollout_prompt *rollout_prompt_new(rollout_engine *engine, const int32_t *ids, size_t n);
void rollout_prompt_release(rollout_prompt *prompt);

/* How a sequence is drawn from. */
typedef struct rollout_draw {
    uint64_t uid, seed;
    uint32_t sample;
    kern_filter filter;
} rollout_draw;
/* A sequence that starts with the prompt and wants its next token. For pages, older sequences go before younger ones. */
rollout_seq *rollout_seq_open(rollout_engine *engine, rollout_prompt *prompt, rollout_draw draw, rollout_token_fn *token, void *owner);
void rollout_seq_close(rollout_seq *seq);
/* Gives the seat up; no token is drawn until rollout_seq_resume. */
void rollout_seq_pause(rollout_seq *seq);
void rollout_seq_resume(rollout_seq *seq);
/* Adds tokens that the model did not choose (log-prob 0); at least one, and not beyond max_tokens. */
void rollout_seq_append(rollout_seq *seq, const int32_t *ids, size_t n);
/* All tokens so far, and their log-probs: 0 where the model did not choose. Valid until the sequence grows. */
const rlf_ids *rollout_seq_tokens(const rollout_seq *seq);
const float *rollout_seq_logprobs(const rollout_seq *seq);
/* Whether it has a seat. */
bool rollout_seq_seated(const rollout_seq *seq);

/* Whether a step would have rows to run, or draws to hand out. */
bool rollout_engine_ready(const rollout_engine *engine);
/* One step, if there is anything to run: it is queued, and the draws of this one, or where the model runs ahead of the one before, are handed
 * out. Errors of the model and of the owners. */
rlf_status rollout_engine_step(rollout_engine *engine) RLF_MUST_USE;

#endif
