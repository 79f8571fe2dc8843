/* A Hugging Face checkpoint folder: config.json, tokenizer files and safetensors, read and written.
 *
 * Weights in memory are float32 in the layout of model.h. Reading accepts F32, BF16 and F16 files, one file or sharded with
 * model.safetensors.index.json; every tensor's name, shape and dtype is checked and all missing and unexpected names are listed in one error.
 * Writing gives a folder that transformers loads. Files are written under a temporary name, synced and renamed. */
#ifndef RLF_COMMON_MODEL_CHECKPOINT_H
#define RLF_COMMON_MODEL_CHECKPOINT_H

#include <stdint.h>

#include "common/model/model.h"

/* Fills weights[layout->total] from DIR. */
rlf_status rlf_checkpoint_read(const char *dir, const rlf_model_layout *layout, float *weights) RLF_MUST_USE;

/* Writes config.json, generation_config.json and model.safetensors (F32) into existing folder DIR, and copies tokenizer.json,
 * tokenizer_config.json and other json, txt and jinja side files from `source_dir` (may be NULL: none). config.json is the source's with
 * nothing lost, where there is one. */
rlf_status rlf_checkpoint_write(const char *dir, const rlf_model_layout *layout, const float *weights, const char *source_dir) RLF_MUST_USE;

/* Random weights as transformers initialises them: normal(0, 0.02) for matrices, ones for norms, zeros for biases; a function of
 * (seed, tensor, element) alone. */
void rlf_checkpoint_random(const rlf_model_layout *layout, uint64_t seed, float *weights);

#endif
