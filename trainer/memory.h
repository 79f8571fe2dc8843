/* The memory plan: what a rank holds while the job runs, on the device it computes on. Private to trainer/. */
#ifndef RLF_TRAINER_MEMORY_H
#define RLF_TRAINER_MEMORY_H

#include "common/config/config.h"
#include "common/model/model.h"

/* Bytes of work space of a rollout rank, beside weights and cache, on "cpu" or "cuda": rollout_work_bytes. */
typedef size_t trainer_work_fn(const rlf_config *config, const rlf_model_layout *layout, const char *device);

/* Bytes. */
typedef struct trainer_memory {
    double weights, cache;                     /* cache: of a rollout rank */
    double gradients, optimizer, reference;    /* of a learner */
    double activations, exchange;              /* exchange: of several learners */
} trainer_memory;

trainer_memory trainer_memory_of_rollout(const rlf_config *config, const rlf_model_layout *layout, bool on_cards,
                                         trainer_work_fn *rollout_work);
trainer_memory trainer_memory_of_learner(const rlf_config *config, const rlf_model_layout *layout, bool on_cards, int learners);
double trainer_memory_sum(const trainer_memory *memory);
/* Rows of one micro-batch: no sequence is cut. */
int64_t trainer_micro_rows(const rlf_config *config);

#endif
