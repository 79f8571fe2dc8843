/* The rollout role: generates multi-turn trajectories. One rank runs rollout_run until told to stop.
 *
 * Flow: EPISODE in -> episodes (episode.h) over a continuous-batching engine (engine.h) -> CALL, SCORE out, OBSERVATION, REWARD
 * in -> TRAJECTORY out. */
#ifndef RLF_ROLLOUT_ROLLOUT_H
#define RLF_ROLLOUT_ROLLOUT_H

#include "common/config/config.h"
#include "common/model/model.h"
#include "common/msg/transport.h"
#include "kernels/kern.h"

/* Serves as rollout rank until CONTROL STOP (returns RLF_OK) or an error (returned; the caller reports it). Weights arrive by
 * CONTROL PUBLISH from the learners as tensor of config->model.dtype, in mode eval they are read from config->model.path.
 * `device`: what this rank computes on.
 * Ranks: 0 coordinator; 1..ranks.tool tool service; then ranks.rollout rollout ranks; then learners. */
rlf_status rollout_run(rlf_transport *transport, const rlf_config *config, const kern_device_options *device) RLF_MUST_USE;

/* Bytes of work space of a rollout rank beside weights and cache, on "cpu" or "cuda": for the memory plan. */
size_t rollout_work_bytes(const rlf_config *config, const rlf_model_layout *layout, const char *device);

#endif
