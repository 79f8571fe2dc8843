/* A program shut away: nothing but a file system of its own, a scratch folder in memory, and two pipes to us.
 *
 * With namespaces (Linux 5.12 or newer, no privilege needed) the program runs as process 1 of new user, mount, pid, network, ipc, uts
 * and cgroup namespaces. Its root holds, read-only, /usr (with the links /bin, /lib …), the folders of the interpreter where it lives
 * elsewhere, a handful of files in /etc that we write, five devices and a /proc of its own processes; /tmp, limited in size, is all
 * it may write to. Its network has no interface that is up. Started by root, it is user 65534 outside. Killing process 1 kills all.
 *
 * Without (`namespaces` false) it sees the files that we see, with our rights, and works in a temporary folder; it cannot leave its
 * process group, so killing the group kills all.
 *
 * Either way: an allow-list of system calls (sandbox_filter.h), no new privileges, resource limits, an empty environment but for what
 * we name, no descriptor but four: 0 is /dev/null, 1 and 2 the output pipe, 3 the control socket. It dies with the thread that
 * started it.
 *
 * Where control groups may be made (cgroup.h) and `groups` asks for them, each program is in one, which is killed as a whole. With
 * its controllers the kernel bounds memory and number of all processes together; without, the memory of each process, and that of all
 * is for the caller to look at, now and then (toolsvc_sandbox_memory), as is, in a group, their processor time
 * (toolsvc_sandbox_cpu_ms). The out-of-memory killer takes them before a rank. On kernels before 5.14 `processes` counts all of the
 * user's.
 *
 * Nothing here waits: the caller watches the descriptors (sandbox_python.h does, with libuv). Threads: an open sandbox may start
 * children from any one thread that outlives them. */
#ifndef RLF_TOOLSVC_SANDBOX_H
#define RLF_TOOLSVC_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/base/mem.h"

typedef struct toolsvc_sandbox_limits {
    bool namespaces;
    bool groups;        /* a control group for each program, where this is possible */
    int64_t memory_mb;  /* address space of one process */
    int64_t processes;  /* processes and threads at once; with namespaces alone */
    int64_t cpu_s;      /* processor time of one process, over its life */
    int64_t scratch_mb; /* the scratch folder (with namespaces), and the largest file */
} toolsvc_sandbox_limits;

typedef struct toolsvc_sandbox toolsvc_sandbox;

/* One running program. The descriptors are the caller's to close; they are non-blocking and close-on-exec. */
typedef struct toolsvc_sandbox_child {
    pid_t pid;
    int exit_fd;   /* a pidfd: readable once process 1 has ended */
    int control;   /* our end of the socket that is descriptor 3 inside */
    int output;    /* what was written to descriptors 1 and 2; a failed start tells its reason here */
    char *scratch; /* without namespaces: the temporary folder; else NULL */
    char *group;   /* path of its control group; NULL: none */
    bool ran_out_of_memory; /* once collected: its group was killed for that */
} toolsvc_sandbox_child;

/* Prepares what every child shares. argv: NULL-terminated, argv[0] an absolute path to an interpreter; copied.
 * NOT_FOUND: argv[0] cannot be run. UNSUPPORTED: it lies where opening its folder would open the user's files too. */
rlf_status toolsvc_sandbox_new(toolsvc_sandbox **out, const toolsvc_sandbox_limits *limits, const char *const *argv) RLF_MUST_USE;
/* No child may be running. NULL is allowed. */
void toolsvc_sandbox_destroy(toolsvc_sandbox *sandbox);

/* "control groups /sys/fs/cgroup/… (memory, pids)", or why there are none: for people. */
const char *toolsvc_sandbox_groups(const toolsvc_sandbox *sandbox);

/* Starts the program. UNSUPPORTED: the kernel or its settings forbid what the sandbox needs; the message says what to do. Other
 * failures come later, as an exit with the reason in the output. */
rlf_status toolsvc_sandbox_start(const toolsvc_sandbox *sandbox, toolsvc_sandbox_child *child) RLF_MUST_USE;
/* Kills every process of the child, which exit_fd will tell. May be called again, before the reaping. */
void toolsvc_sandbox_kill(const toolsvc_sandbox_child *child);
/* Bytes of memory of its own (neither file nor scratch) that the child's processes hold together; pages that a fork still shares count
 * for each. A few file reads per process. Without namespaces, what has lost its parent is not seen. */
int64_t toolsvc_sandbox_memory(const toolsvc_sandbox_child *child);
/* Processor time that the child's processes took together; -1: it has no control group to tell. */
int64_t toolsvc_sandbox_cpu_ms(const toolsvc_sandbox_child *child);
/* Once exit_fd is readable: collects the child, kills what is left of it, removes its scratch folder, closes exit_fd.
 * Returns the wait status, as of waitpid. */
int toolsvc_sandbox_reap(toolsvc_sandbox_child *child);

/* The line that a refused sandbox ends with. */
#define TOOLSVC_SANDBOX_HINT                                                                                                          \
    "allow unprivileged user namespaces on this machine, or set the tool's key \"sandbox\" to none, which lets its code see your files"

#endif
