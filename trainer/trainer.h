/* What trainer/main.c runs on rank 0 and on the learner ranks. */
#ifndef RLF_TRAINER_TRAINER_H
#define RLF_TRAINER_TRAINER_H

#include "common/config/config.h"
#include "common/msg/transport.h"
#include "kernels/kern.h"

/* Rank 0: runs the whole job; returns when it is done, and every other rank has been told to stop. tool_schemas: JSON array for
 * the prompts. */
rlf_status trainer_coordinator_run(rlf_transport *transport, const rlf_config *config, const char *tool_schemas) RLF_MUST_USE;
/* A learner rank: serves BATCH, PUBLISH, SAVE until CONTROL STOP. Starts from the newest complete checkpoint of config->output
 * where train.resume says so and there is one (trainer_checkpoint_newest), else from config->model.path. `device`: what it computes on. */
rlf_status trainer_learner_run(rlf_transport *transport, const rlf_config *config, const kern_device_options *device) RLF_MUST_USE;

#endif
