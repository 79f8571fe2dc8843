/* How many threads a rank runs, and whether the launcher left it the cores for them. Private to trainer/. */
#ifndef RLF_TRAINER_CORES_H
#define RLF_TRAINER_CORES_H

#include "common/msg/transport.h"
#include "trainer/topology.h"

/* Threads of `rank`, which is one of the n neighbours: `threads` of the config or, where that is 0, the cores it may run on shared by the
 * ranks of its role that may run on some of them. Ranks of one role only, because roles take turns: learners wait while episodes are
 * generated, and the other way round. 1 to KERN_MAX_THREADS. */
int trainer_threads(const rlf_config *config, const trainer_topology *topology, const rlf_neighbour *near, size_t n, int rank);
/* Cores that the launcher of this process may use: what a rank that is not bound would have. */
int trainer_cores_available(void);
/* One line into `line` where the neighbours are bound so that rollout ranks or learners miss cores: config.threads is more than a rank's
 * cores, or all ranks of a role together may use at most half of the `available` cores and have work for more. False if all is well. */
bool trainer_cores_short(const rlf_config *config, const trainer_topology *topology, const rlf_neighbour *near, size_t n, int available,
                         rlf_str *line);

#endif
