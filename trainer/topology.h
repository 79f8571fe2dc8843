/* Which rank does what. Rank 0 coordinates; then tool service, rollout, learners. A mode that has no use for a role has no ranks of it:
 * supervised training without evaluation is all learners, evaluation is all rollout ranks. Private to trainer/. */
#ifndef RLF_TRAINER_TOPOLOGY_H
#define RLF_TRAINER_TOPOLOGY_H

#include "common/config/config.h"

typedef enum trainer_role { TRAINER_COORDINATOR, TRAINER_TOOL, TRAINER_ROLLOUT, TRAINER_LEARNER } trainer_role;

typedef struct trainer_topology {
    int size, tool_first, tools, rollout_first, rollouts, learner_first, learners;
} trainer_topology;

/* Refuses a world too small for the config, which has been checked (rlf_config_load), saying how many ranks it needs. */
rlf_status trainer_topology_init(trainer_topology *topology, const rlf_config *config, int size) RLF_MUST_USE;
trainer_role trainer_topology_role(const trainer_topology *topology, int rank);
/* "coordinator", "tool", "rollout" or "learner". */
const char *trainer_role_name(trainer_role role);
/* Ranks the config asks for at least. */
int trainer_topology_least(const rlf_config *config);
/* Whether the job generates: rl and eval always, sft where data.eval is set. */
bool trainer_generates(const rlf_config *config);
bool trainer_mode_is(const rlf_config *config, const char *mode);

#endif
