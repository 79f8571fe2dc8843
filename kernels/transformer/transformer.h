/* The transformer built from the operations of kern.h: one forward for rollout (paged cache), one forward and backward for training
 * (packed sequences). Both ask kern.h for the same rows, so both compute the same bits.
 *
 * kern_model    parameters (one slab in the layout of common/model/model.h) and the rotary table
 * kern_decoder  a paged cache and work space: steps of mixed prefill and decode rows, sampling, scoring
 * kern_trainer  activations and work space for one micro-batch: log-probs, entropy, loss, gradients
 *
 * All memory is taken at creation; a step allocates nothing, but for the graphs of a decoder on a card (decoder.c), each once. None of these
 * is thread safe. */
#ifndef RLF_KERNELS_TRANSFORMER_TRANSFORMER_H
#define RLF_KERNELS_TRANSFORMER_TRANSFORMER_H

#include "common/model/model.h"
#include "common/model/safetensors.h"
#include "kernels/kern.h"

typedef struct kern_model kern_model;

/* How parameters are stored, and what products and attention multiply (kern.h): RLF_DTYPE_F32 or RLF_DTYPE_BF16 each, bfloat16 factors with
 * bfloat16 parameters only. Gradients of parameters and the residual stream are float32 whatever they are; other activations are what
 * kern_activations says of the device and the factors, in decoder and trainer alike. */
typedef struct kern_precision {
    rlf_dtype stored, factors;
} kern_precision;
/* KERN_BF16 of RLF_DTYPE_BF16, else KERN_F32. */
static inline kern_dtype kern_dtype_of(rlf_dtype dtype) { return dtype == RLF_DTYPE_BF16 ? KERN_BF16 : KERN_F32; }
/* From the names that model.dtype and model.compute_dtype have: float32, bfloat16; for the second also auto, which is the first. */
rlf_status kern_precision_parse(const char *dtype, const char *compute_dtype, kern_precision *out) RLF_MUST_USE;

/* Whether the kernels can do it: a model of this shape, on the CPU or on a card, with so many positions, and rows of one micro-batch. UNSUPPORTED or
 * LIMIT says what they cannot. */
rlf_status kern_model_check(const rlf_model_shape *shape, bool card, int max_positions) RLF_MUST_USE;
/* The same is an error here. `layout` must outlive the model. max_positions bounds the rotary table. Parameters start at zero. */
rlf_status kern_model_new(kern_model **out, kern_queue *queue, const rlf_model_layout *layout, kern_precision precision,
                          int max_positions) RLF_MUST_USE;
/* The same over the parameters in `params`, which becomes the model's, whatever comes of it: another process may write them. */
rlf_status kern_model_new_over(kern_model **out, kern_queue *queue, const rlf_model_layout *layout, kern_precision precision,
                               int max_positions, kern_buf *params) RLF_MUST_USE;
void kern_model_destroy(kern_model *model);
kern_tensor kern_model_params(const kern_model *model); /* (layout->total), as stored */
const rlf_model_layout *kern_model_layout(const kern_model *model);
/* Weights from a checkpoint folder (rlf_checkpoint_read), or random ones (rlf_checkpoint_random). */
rlf_status kern_model_read(kern_model *model, const char *dir) RLF_MUST_USE;
rlf_status kern_model_random(kern_model *model, uint64_t seed, double std) RLF_MUST_USE;
/* Writes a checkpoint folder: rlf_checkpoint_write_from. */
rlf_status kern_model_write(const kern_model *model, const char *dir, const char *source_dir, size_t shard_bytes) RLF_MUST_USE;

/* ---- decoding --------------------------------------------------------------------------------------------------------------------- */

typedef struct kern_decoder kern_decoder;

typedef struct kern_decoder_options {
    int page_size;          /* tokens a page, a multiple of 16 */
    int pages;              /* in the pool */
    int max_pages;          /* of one sequence */
    int max_rows;           /* rows in one step, prefill and decode together */
    int max_outputs;        /* rows of one step whose logits are wanted */
} kern_decoder_options;

rlf_status kern_decoder_new(kern_decoder **out, kern_model *model, const kern_decoder_options *options) RLF_MUST_USE;
void kern_decoder_destroy(kern_decoder *decoder);
/* Bytes of work space kern_decoder_new would take beside the cache (kern_kv_bytes): for the memory plan. */
size_t kern_decoder_bytes(const rlf_model_layout *layout, kern_precision precision, const char *device, const kern_decoder_options *options);

/* One step: `rows` rows of any sequences, each with its token (or KERN_DRAWN(j), output j of the last draw), position, sequence index
 * (into page_table) and cache slot (page * page_size + place). A row sees the keys of its sequence at positions
 * 0..pos, including rows of this very step. Host arrays. */
typedef struct kern_step {
    int rows;
    const int32_t *tokens, *pos, *seq, *slots; /* (rows) */
    int max_pages;
    const int32_t *page_table;  /* (sequences, max_pages) */
    int outputs;
    const int32_t *output_rows; /* (outputs) rows whose logits are computed, ascending */
} kern_step;

/* Queues the step; logits of the output rows stay in the decoder for the calls below. On a card, up to KERN_STEPS_AHEAD are under way: the
 * one before those is waited for. Returns what it failed by, if it did. */
enum { KERN_STEPS_AHEAD = 2 };
rlf_status kern_decoder_step(kern_decoder *decoder, const kern_step *step) RLF_MUST_USE;
/* Whether steps run while the host goes on. */
bool kern_decoder_runs_ahead(const kern_decoder *decoder);
/* Queues the draw of one token for each output row of the last step (in that order), of which there are some; keys: host array (outputs). Only
 * the last KERN_STEPS_AHEAD steps may have draws that were not collected. */
void kern_decoder_draw(kern_decoder *decoder, kern_filter filter, uint64_t seed, const kern_sample_key *keys);
/* Waits for the oldest draw that was not collected. ids, logprobs: host arrays (outputs of its step). */
rlf_status kern_decoder_collect(kern_decoder *decoder, int32_t *ids, float *logprobs) RLF_MUST_USE;
/* Log-prob of a given next token for each output row. */
rlf_status kern_decoder_logprob(kern_decoder *decoder, kern_filter filter, const int32_t *targets, float *logprobs) RLF_MUST_USE;
/* Copies the logits (outputs, V) of the last step to the host: for tests and golden comparisons. */
rlf_status kern_decoder_logits(kern_decoder *decoder, float *logits) RLF_MUST_USE;
void kern_decoder_copy_page(kern_decoder *decoder, int dst_page, int src_page);

/* ---- training --------------------------------------------------------------------------------------------------------------------- */

typedef struct kern_trainer kern_trainer;

typedef struct kern_trainer_options {
    int max_tokens;  /* rows in one micro-batch */
    int max_seqs;
    int head_rows;   /* rows of logits held at a time (0: chosen from V) */
    bool gradients;  /* false: log-probs only, less memory */
    bool recompute;  /* with gradients: of each layer keep its input alone, and compute the rest again in the backward pass. The same bits */
    bool keep_attention; /* with recompute: keep what attention gives too, so that attention is not computed again. The same bits */
} kern_trainer_options;

rlf_status kern_trainer_new(kern_trainer **out, kern_model *model, const kern_trainer_options *options) RLF_MUST_USE;
void kern_trainer_destroy(kern_trainer *trainer);

/* A packed micro-batch. Sequence s is rows seq_begin[s] .. seq_begin[s+1]-1. targets[i] is the token whose log-prob row i gives
 * (the token at row i+1), or -1 where none is wanted: such rows cost no head. */
typedef struct kern_batch {
    int rows, seqs;
    const int32_t *tokens;    /* (rows) */
    const int32_t *seq_begin; /* (seqs+1) */
    const int32_t *targets;   /* (rows) */
} kern_batch;

/* Called for runs of rows with a target, each row once, ascending: row[i] are row numbers. Fills the derivatives of the loss
 * (pre-zeroed). */
typedef void kern_loss_fn(void *ctx, int n, const int32_t *row, const float *logprob, const float *entropy, float *dlogprob,
                          float *dentropy);

/* Log-probs and entropies (host arrays (rows); rows without target get 0; entropy may be NULL). `model` may be another model of
 * the same shape (the reference). */
rlf_status kern_trainer_logprobs(kern_trainer *trainer, kern_model *model, const kern_batch *batch, kern_filter filter, float *logprob,
                                 float *entropy) RLF_MUST_USE;
/* Forward, loss and backward in one go; gradients are added to `grads` (layout->total). The head is visited once. */
rlf_status kern_trainer_gradients(kern_trainer *trainer, const kern_batch *batch, kern_filter filter, kern_loss_fn *loss, void *ctx,
                                  kern_tensor grads) RLF_MUST_USE;
/* Bytes kern_trainer_new would take: for the memory plan. */
size_t kern_trainer_bytes(const rlf_model_layout *layout, kern_precision precision, const char *device, const kern_trainer_options *options);

#endif
