/* Roles by rank (topology.h). */
#include "trainer/topology.h"

#include <string.h>

bool trainer_mode_is(const rlf_config *config, const char *mode) { return strcmp(config->mode, mode) == 0; }

bool trainer_generates(const rlf_config *config) { return !trainer_mode_is(config, "sft") || config->data.eval[0] != '\0'; }

int trainer_topology_least(const rlf_config *config) {
    int64_t ranks = 1;
    if (trainer_generates(config)) ranks += config->ranks.tool + config->ranks.rollout;
    if (!trainer_mode_is(config, "eval")) ranks += 1;
    return (int)ranks;
}

rlf_status trainer_topology_init(trainer_topology *topology, const rlf_config *config, int size) {
    bool generates = trainer_generates(config), evaluates = trainer_mode_is(config, "eval");
    int least = trainer_topology_least(config);
    memset(topology, 0, sizeof *topology);
    if (size < least)
        return RLF_RAISE(INVALID, "this job needs at least %d ranks (1 coordinator, %d tool, %d rollout, %d learner) and was "
                                  "started with %d: mpirun -np %d%s",
                         least, generates ? (int)config->ranks.tool : 0, generates ? (int)config->ranks.rollout : 0, !evaluates,
                         size, least, size == 1 ? ", the mpirun of the MPI that rlf-train was built with" : "");
    topology->size = size;
    topology->tool_first = 1;
    topology->tools = generates ? (int)config->ranks.tool : 0;
    topology->rollout_first = 1 + topology->tools;
    topology->rollouts = evaluates ? size - 1 - topology->tools : generates ? (int)config->ranks.rollout : 0;
    topology->learner_first = topology->rollout_first + topology->rollouts;
    topology->learners = size - topology->learner_first;
    return RLF_OK;
}

trainer_role trainer_topology_role(const trainer_topology *topology, int rank) {
    if (rank == 0) return TRAINER_COORDINATOR;
    if (rank < topology->rollout_first) return TRAINER_TOOL;
    return rank < topology->learner_first ? TRAINER_ROLLOUT : TRAINER_LEARNER;
}

const char *trainer_role_name(trainer_role role) {
    static const char *const names[] = {"coordinator", "tool", "rollout", "learner"};
    return names[role];
}
