/* The coordinator and learner roles, and what they share. */
#ifndef RLF_TRAINER_TRAINER_H
#define RLF_TRAINER_TRAINER_H

#include "common/config/config.h"
#include "common/msg/transport.h"
#include "kernels/kern.h"

/* Which rank does what: 0 coordinator; then ranks.tool tool-service ranks; then ranks.rollout; the rest learn. */
typedef struct trainer_topology {
    int size, tool_first, tools, rollout_first, rollouts, learner_first, learners;
} trainer_topology;
/* Refuses a world too small for the config, saying how many ranks it needs. */
rlf_status trainer_topology_init(trainer_topology *topology, const rlf_config *config, int size) RLF_MUST_USE;

/* Rank 0: runs the whole job; returns when it is done, and every other rank has been told to stop. tool_schemas: JSON array for
 * the prompts. */
rlf_status trainer_coordinator_run(rlf_transport *transport, const rlf_config *config, const char *tool_schemas) RLF_MUST_USE;
/* A learner rank: serves BATCH, PUBLISH, SAVE until CONTROL STOP. Starts from the newest complete checkpoint of config->output
 * where train.resume says so and there is one, else from config->model.path; both sides use trainer_resume_find. `device`: what
 * it computes on. */
rlf_status trainer_learner_run(rlf_transport *transport, const rlf_config *config, const kern_device_options *device) RLF_MUST_USE;

/* Newest complete checkpoint folder OUTPUT/checkpoints/step_N: *step = N and `dir` its path, or *step = 0 and dir "" if there is none. */
rlf_status trainer_resume_find(const rlf_config *config, int64_t *step, rlf_str *dir) RLF_MUST_USE;

#endif
