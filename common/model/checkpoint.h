/* A Hugging Face checkpoint folder: config.json, tokenizer files and safetensors, read and written.
 *
 * Weights in memory are F32 or BF16 in the layout of model.h. Reading accepts F32, BF16 and F16 files, one file or sharded with
 * model.safetensors.index.json; every tensor's name, shape and dtype is checked and all missing and unexpected names are listed
 * in one error. A NaN or infinity is an error. What is rounded to BF16 is rounded to the nearest, ties to even.
 * A tied head that is stored a second time is accepted if it is the embedding.
 * Writing gives a folder that transformers loads. Files are written under a temporary name, synced and renamed. */
#ifndef RLF_COMMON_MODEL_CHECKPOINT_H
#define RLF_COMMON_MODEL_CHECKPOINT_H

#include <stdint.h>

#include "common/model/model.h"
#include "common/model/safetensors.h"

#define RLF_SHARD_BYTES ((size_t)5000000000) /* the usual limit of one file: 5 GB */

/* DIR opened for reading weights as `dtype` (RLF_DTYPE_F32 or RLF_DTYPE_BF16): names, shapes and stored dtypes are checked here,
 * values when they are read. `dir` and `layout` must outlive it. */
typedef struct rlf_checkpoint rlf_checkpoint;
rlf_status rlf_checkpoint_open(rlf_checkpoint **out, const char *dir, const rlf_model_layout *layout, rlf_dtype dtype) RLF_MUST_USE;
/* Elements begin .. begin+n-1 of the slab to `to`, padding as zero: a slab that the host cannot hold at once is read in ranges.
 * On an error the contents of `to` are undefined. */
rlf_status rlf_checkpoint_range(const rlf_checkpoint *checkpoint, size_t begin, size_t n, void *to) RLF_MUST_USE;
void rlf_checkpoint_close(rlf_checkpoint *checkpoint);
/* The whole slab, weights[layout->total], in one call. */
rlf_status rlf_checkpoint_read(const char *dir, const rlf_model_layout *layout, rlf_dtype dtype, void *weights) RLF_MUST_USE;

/* The smaller of the two dtypes that loses nothing: RLF_DTYPE_BF16 if every tensor of DIR is BF16, else RLF_DTYPE_F32. */
rlf_status rlf_checkpoint_dtype(const char *dir, rlf_dtype *out) RLF_MUST_USE;

/* Gives elements begin .. begin+*n-1 of a slab in `*data`, which stays valid until the next call; it may cut *n. Called in
 * ascending order. */
typedef rlf_status rlf_slab_fn(void *ctx, size_t begin, size_t *n, const void **data);

/* Writes config.json, generation_config.json and the weights, which `slab` gives, stored as the `dtype` that they have (F32 or
 * BF16), into existing folder DIR, and copies the tokenizer's files and the generation config from `source_dir` (may be NULL:
 * none). The weights go into model.safetensors where their data fit into `shard_bytes`, else into
 * model-0000I-of-0000N.safetensors with model.safetensors.index.json, as transformers writes them: tensors in the layout's order,
 * a file is full when the next one would pass the limit, a tensor above the limit has a file of its own. An older set of weights
 * in DIR under the other name is removed. config.json is the source's with nothing lost but its dtype, where there is one; a
 * source that describes another model is an error, and nothing is written. The same input gives the same bytes. */
rlf_status rlf_checkpoint_write_from(const char *dir, const rlf_model_layout *layout, rlf_dtype dtype, rlf_slab_fn *slab, void *ctx,
                                     const char *source_dir, size_t shard_bytes) RLF_MUST_USE;
/* The same with weights[layout->total] in memory. */
rlf_status rlf_checkpoint_write(const char *dir, const rlf_model_layout *layout, rlf_dtype dtype, const void *weights,
                                const char *source_dir, size_t shard_bytes) RLF_MUST_USE;

/* Copies what the tokenizer and chat template consist of: tokenizer.json, tokenizer_config.json, special_tokens_map.json,
 * added_tokens.json, vocab.json, merges.txt, chat_template.jinja, chat_template.json, those that are there. The same folder
 * twice is fine. */
rlf_status rlf_checkpoint_copy_tokenizer(const char *dir, const char *source_dir) RLF_MUST_USE;

/* Random weights of `dtype` (F32 or BF16) as transformers initialises them: normal(0, std) for matrices (transformers: 0.02), ones for
 * norms, zeros for biases; a function of (seed, tensor, element) alone, then rounded to the dtype. std is at most 1. */
void rlf_checkpoint_random(const rlf_model_layout *layout, uint64_t seed, double std, rlf_dtype dtype, void *weights);
/* Elements begin .. begin+n-1 of the same, to `to`. */
void rlf_checkpoint_random_range(const rlf_model_layout *layout, uint64_t seed, double std, rlf_dtype dtype, size_t begin, size_t n,
                                 void *to);

#endif
