/* A program with three pipes to us, and a keeper between it and us: a process that sees to it that nothing of the program outlives the
 * program, our wish, or us.
 *
 *   rank ──► keeper ──► program ──► whatever that starts
 *
 * The keeper is our child and the nearest "subreaper" above the program: what the program leaves behind, in whatever group or session,
 * becomes the keeper's child, and is killed. It ends the program when told to (SIGTERM, and KILL_MS later SIGKILL), and so when the
 * thread that started it ends, however that came to pass; if the keeper itself is killed, the kernel kills the program.
 * It is a copy of our process that runs no program of its own: its memory is ours until we write to it. Its exit status is the program's.
 *
 * The program runs with our rights, in a process group of its own, without descriptors but 0, 1, 2, with the environment it is given.
 * It is killed before us when memory runs out, and what each of its processes may take can be bounded.
 *
 * Nothing here waits, but for toolsvc_keeper_start: until the program is loaded. Threads: any one, which must outlive the program. */
#ifndef RLF_TOOLSVC_KEEPER_H
#define RLF_TOOLSVC_KEEPER_H

#include <stdint.h>
#include <sys/types.h>

#include "common/base/status.h"

enum { TOOLSVC_KEEPER_KILL_MS = 1000 };

/* The descriptors are the caller's to close; they are non-blocking and close-on-exec. */
typedef struct toolsvc_kept {
    pid_t keeper;
    int exit_fd;         /* a pidfd: readable once program and all that it left are gone */
    int in, out, error;  /* ends of the pipes that are the program's 0, 1 and 2 */
} toolsvc_kept;

/* Starts argv (NULL-terminated), looked for in our PATH unless argv[0] holds a slash; environment: "NAME=value", NULL-terminated;
 * folder: where it runs; "": here. memory_bytes: the most that each of its processes may take for its data (RLIMIT_DATA; beyond it the process
 * gets no more from the kernel); 0: any amount. NOT_FOUND: it cannot be run, or not there; IO: no process. */
rlf_status toolsvc_keeper_start(toolsvc_kept *kept, char *const *argv, char *const *environment, const char *folder,
                                int64_t memory_bytes) RLF_MUST_USE;
/* Asks the keeper to end the program. May be called again, before the reaping. */
void toolsvc_keeper_stop(const toolsvc_kept *kept);
/* Once exit_fd is readable: collects the keeper and closes exit_fd. Returns the program's wait status, as of waitpid. */
int toolsvc_keeper_reap(toolsvc_kept *kept);

#endif
