/* Roles by rank, as text and number (topology.c). Private to trainer/. */
#ifndef RLF_TRAINER_TOPOLOGY_H
#define RLF_TRAINER_TOPOLOGY_H

#include "trainer/trainer.h"

typedef enum trainer_role { TRAINER_COORDINATOR, TRAINER_TOOL, TRAINER_ROLLOUT, TRAINER_LEARNER } trainer_role;

trainer_role trainer_topology_role(const trainer_topology *topology, int rank);
/* "coordinator", "tool", "rollout" or "learner". */
const char *trainer_role_name(trainer_role role);
/* Ranks the config asks for at least. */
int trainer_topology_least(const rlf_config *config);
/* Whether the job generates: rl and eval always, sft where data.eval is set. */
bool trainer_generates(const rlf_config *config);
bool trainer_mode_is(const rlf_config *config, const char *mode);

#endif
