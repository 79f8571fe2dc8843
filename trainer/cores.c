/* Threads and bindings of the ranks of one node (cores.h). Every rank knows the affinity mask of its neighbours from the start. */
#include "trainer/cores.h"

#include <unistd.h>

#include "kernels/kern.h"

/* Of each of the ranks that share these cores. */
static int threads_each(int cores, int ranks) {
    int share = ranks > 1 ? cores / ranks : cores;
    return share < 1 ? 1 : share < KERN_MAX_THREADS ? share : KERN_MAX_THREADS;
}

static bool meet(const cpu_set_t *a, const cpu_set_t *b) {
    cpu_set_t both;
    CPU_AND(&both, a, b);
    return CPU_COUNT(&both) > 0;
}

int trainer_threads(const rlf_config *config, const trainer_topology *topology, const rlf_neighbour *near, size_t n, int rank) {
    const rlf_neighbour *me = near;
    trainer_role role = trainer_topology_role(topology, rank);
    int sharing = 0;
    if (config->threads > 0) return (int)config->threads;
    while (me->rank != rank) me++;
    for (size_t i = 0; i < n; i++)
        sharing += trainer_topology_role(topology, near[i].rank) == role && meet(&near[i].cores, &me->cores);
    return threads_each(CPU_COUNT(&me->cores), sharing);
}

int trainer_cores_available(void) {
    cpu_set_t mask;
    return sched_getaffinity(getppid(), sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

static const char advice[] = "start it with mpirun --bind-to none";

static bool role_is_short(const rlf_config *config, const trainer_topology *topology, const rlf_neighbour *near, size_t n, int available,
                          trainer_role role, rlf_str *line) {
    cpu_set_t all;
    int ranks = 0;
    CPU_ZERO(&all);
    for (size_t i = 0; i < n; i++) {
        int cores = CPU_COUNT(&near[i].cores);
        if (trainer_topology_role(topology, near[i].rank) != role) continue;
        ranks++;
        CPU_OR(&all, &all, &near[i].cores);
        if (cores < available && config->threads > cores) {
            rlf_str_printf(line, "rank %d (%s) runs %lld threads, but mpirun has bound it to %d of %d cores: %s", near[i].rank,
                           trainer_role_name(role), (long long)config->threads, cores, available, advice);
            return true;
        }
    }
    int cores = CPU_COUNT(&all), each = config->threads > 0 ? (int)config->threads : threads_each(available, ranks);
    if (ranks == 0 || 2 * cores > available || cores >= ranks * each) return false;
    rlf_str_printf(line, "mpirun has bound %s to %d of %d cores, %d rank%s with %d thread%s each would use more: %s",
                   role == TRAINER_ROLLOUT ? "the rollout ranks" : "the learners", cores, available, ranks, ranks == 1 ? "" : "s", each,
                   each == 1 ? "" : "s", advice);
    return true;
}

bool trainer_cores_short(const rlf_config *config, const trainer_topology *topology, const rlf_neighbour *near, size_t n, int available,
                         rlf_str *line) {
    return role_is_short(config, topology, near, n, available, TRAINER_ROLLOUT, line) ||
           role_is_short(config, topology, near, n, available, TRAINER_LEARNER, line);
}
