/* The optimizer of one learner: AdamW on its shard of the weights (rlf_shard), and the state that belongs to it.
 *
 * The state is sharded like the weights it updates: two moments, float32, and, where weights are stored as bfloat16, what the float32
 * master weights that AdamW works on are beside them (the rest of kern_adamw): 8 or 10 bytes a parameter. In a checkpoint it is
 * optimizer.safetensors, whose tensors are those of the layout, float32, master weights whole, so that it does not depend on the number of
 * learners, and optimizer.json. Private to trainer/. */
#ifndef RLF_TRAINER_OPTIMIZER_H
#define RLF_TRAINER_OPTIMIZER_H

#include "kernels/comm/comm.h"
#include "kernels/transformer/transformer.h"

typedef struct trainer_optimizer trainer_optimizer;

/* Which learner this is, and how to reach the others. Deadlines are those of one exchange. */
typedef struct trainer_learners {
    rlf_transport *transport;
    kern_comm *comm;
    int first, count, index; /* learners are ranks first .. first+count-1; this is rank first+index */
    kern_dtype reduce; /* how gradients travel: KERN_F32 or KERN_BF16 */
    int timeout_ms;
} trainer_learners;

/* For the weights of `model`, which must outlive it, as `queue`, the model's, and the learners. Moments are zero, master weights are the
 * stored ones: training begins with those that the model has at the first update. */
rlf_status trainer_optimizer_new(trainer_optimizer **out, kern_queue *queue, kern_model *model,
                                 const trainer_learners *learners) RLF_MUST_USE;
void trainer_optimizer_destroy(trainer_optimizer *optimizer);
/* Bytes of state that a learner holds. */
size_t trainer_optimizer_bytes(const rlf_model_layout *layout, rlf_dtype dtype, int learners);

/* The state of a checkpoint whose weights have been read. An optimizer of another model or dtype is an error, and so are master weights
 * that do not round to the stored ones: a learner has the masters of its shard alone, and weights are to be the same on all. A master of
 * the kind that kern_adamw does not leave, but earlier versions did, becomes its neighbour likewise. */
rlf_status trainer_optimizer_read(trainer_optimizer *optimizer, const char *folder) RLF_MUST_USE;
/* On learner 0: writes the files. What the others hold it asks them for, a piece at a time as it comes to them, by CONTROL FETCH, whose value
 * they give to trainer_optimizer_send; so nobody waits while it writes. */
rlf_status trainer_optimizer_write(trainer_optimizer *optimizer, const char *folder) RLF_MUST_USE;
/* Sends learner 0 a piece of this shard. `at`: where it begins, state by state as elements of the slab; RLF_PROTOCOL where it is not ours. */
rlf_status trainer_optimizer_send(trainer_optimizer *optimizer, int64_t at) RLF_MUST_USE;

/* One update, collective over learners: sums the gradients (layout->total), clips them by their global norm, which is left in
 * *norm, updates this shard and gathers the weights. */
typedef struct trainer_adamw {
    double lr, beta1, beta2, eps, weight_decay;
    double clip; /* 0: off */
} trainer_adamw;
rlf_status trainer_optimizer_update(trainer_optimizer *optimizer, kern_tensor grads, const trainer_adamw *args,
                                    double *norm) RLF_MUST_USE;

#endif
