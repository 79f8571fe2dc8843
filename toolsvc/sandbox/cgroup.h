/* Control groups (version 2) for programs that are to be bounded and killed as one, where this process may make them: where the group it
 * is in belongs to it ("is delegated"), as in a container, or under `systemd-run --scope -p Delegate=yes`.
 *
 *   F                    the group this process was in
 *   F/rlf-ranks          where the processes of F go if F has to be emptied first: a group with limited children holds no process itself
 *   F/rlf-tools-PID-K    ours, the K-th of this process
 *   F/rlf-tools-PID-K/N  one for each program
 *
 * What the kernel bounds in such a group depends on the controllers that F has: memory (all of it together, no swap; past it all are
 * killed), pids (processes and threads), cpu (the programs give way to others, weight 10). Killing, and the processor time that all took,
 * need none. What a process that was killed leaves behind is removed by the next one.
 *
 * Threads: any one. */
#ifndef RLF_TOOLSVC_CGROUP_H
#define RLF_TOOLSVC_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/mem.h"

typedef struct toolsvc_cgroups toolsvc_cgroups;

typedef struct toolsvc_cgroup_limits {
    int64_t memory_bytes, processes;
} toolsvc_cgroup_limits;

/* Tries all that a program will need. NULL: no groups can be had here, and why is appended. */
toolsvc_cgroups *toolsvc_cgroups_new(rlf_str *why);
/* No program may be running. NULL is allowed. */
void toolsvc_cgroups_destroy(toolsvc_cgroups *groups);
/* "/sys/fs/cgroup/…/rlf-tools-7-0 (memory, pids)": for people. */
const char *toolsvc_cgroups_name(const toolsvc_cgroups *groups);

/* Makes the group of one program: *path (owned by the caller), and a descriptor of it for clone3. IO: it cannot be made. */
rlf_status toolsvc_cgroup_make(toolsvc_cgroups *groups, const toolsvc_cgroup_limits *limits, char **path, int *fd) RLF_MUST_USE;
/* Kills every process in it. */
void toolsvc_cgroup_kill(const char *path);
/* Processor time of all that were ever in it; -1: it cannot be read. */
int64_t toolsvc_cgroup_cpu_ms(const char *path);
/* Whether its processes were killed because of memory. */
bool toolsvc_cgroup_ran_out_of_memory(const char *path);
/* Its processes are gone, or going (then toolsvc_cgroups_destroy removes it). */
void toolsvc_cgroup_remove(const char *path);

#endif
