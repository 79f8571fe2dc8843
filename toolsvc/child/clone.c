/* clone3 with signals held back (clone.h). */
#include "toolsvc/child/clone.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

pid_t toolsvc_clone(uint64_t flags, int group, int *exit_fd) {
    if (group >= 0) flags |= CLONE_INTO_CGROUP;
    struct clone_args args = {.flags = flags | CLONE_PIDFD, .cgroup = group >= 0 ? (uint64_t)group : 0, .pidfd = (uint64_t)(uintptr_t)exit_fd, .exit_signal = SIGCHLD};
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) return 0;
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return pid;
}

void toolsvc_clone_default_signals(void) {
    for (int i = 1; i < NSIG; i++) signal(i, SIG_DFL);
}
