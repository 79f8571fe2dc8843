/* Sizes of what rollout ranks and learners allocate (memory.h). */
#include "trainer/memory.h"

#include <assert.h>

#include "kernels/transformer/transformer.h"
#include "trainer/optimizer.h"
#include "trainer/topology.h"

static kern_precision precision_of(const rlf_config *config) {
    kern_precision precision = {RLF_DTYPE_F32, RLF_DTYPE_F32};
    rlf_status status = kern_precision_parse(config->model.dtype, config->model.compute_dtype, &precision);
    assert(status == RLF_OK); /* the config has been checked */
    (void)status;
    return precision;
}

static rlf_dtype stored_dtype(const rlf_config *config) { return precision_of(config).stored; }

static double weights_bytes(const rlf_config *config, const rlf_model_layout *layout) {
    return (double)layout->total * (double)rlf_dtype_size(stored_dtype(config));
}

int64_t trainer_micro_rows(const rlf_config *config) {
    return config->train.micro_tokens > config->episode.max_tokens ? config->train.micro_tokens : config->episode.max_tokens;
}

static const char *device_of(bool on_cards) { return on_cards ? "cuda" : "cpu"; }

trainer_memory trainer_memory_of_rollout(const rlf_config *config, const rlf_model_layout *layout, bool on_cards,
                                         trainer_work_fn *rollout_work) {
    const rlf_model_shape *s = &layout->shape;
    const kern_kv_shape cache = {.layers = s->layers, .kv_heads = s->kv_heads, .head_dim = s->head_dim,
                                 .page_size = (int)config->rollout.page_size,
                                 .pages = (int)(config->rollout.cache_tokens / config->rollout.page_size),
                                 .factors = kern_dtype_of(precision_of(config).factors)};
    return (trainer_memory){.weights = weights_bytes(config, layout), .activations = (double)rollout_work(config, layout, device_of(on_cards)),
                            .cache = (double)kern_kv_bytes_on(device_of(on_cards), cache)};
}

trainer_memory trainer_memory_of_learner(const rlf_config *config, const rlf_model_layout *layout, bool on_cards, int learners) {
    int rows = (int)trainer_micro_rows(config);
    kern_trainer_options options = {.max_tokens = rows, .max_seqs = rows, .gradients = true, .recompute = config->train.recompute,
                                    .keep_attention = config->train.keep_attention};
    bool reference = trainer_mode_is(config, "rl") && config->algorithm.kl > 0;
    return (trainer_memory){.weights = weights_bytes(config, layout), .gradients = (double)layout->total * sizeof(float),
                            .optimizer = (double)trainer_optimizer_bytes(layout, stored_dtype(config), learners),
                            .reference = reference ? weights_bytes(config, layout) : 0,
                            .activations = (double)kern_trainer_bytes(layout, precision_of(config), device_of(on_cards), &options),
                            .exchange = (double)kern_comm_bytes(KERN_WINDOW_BYTES, learners)};
}

double trainer_memory_sum(const trainer_memory *m) {
    return m->weights + m->cache + m->gradients + m->optimizer + m->reference + m->activations + m->exchange;
}
