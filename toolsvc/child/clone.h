/* A process of our own making beside the C library's fork: the rank has threads, and any of them may hold a lock at that moment, so that
 * what runs in the child before an exec makes system calls alone, on what was prepared before. */
#ifndef RLF_TOOLSVC_CLONE_H
#define RLF_TOOLSVC_CLONE_H

#include <stdint.h>
#include <sys/types.h>

/* As fork. flags: namespaces (CLONE_NEW…), or 0. group: descriptor of the control group it starts in; -1: ours. *exit_fd: a pidfd, close-on-exec, readable once the child has ended. In the child all
 * signals are blocked: a handler of ours would write into our event loop. -1: errno says why. */
pid_t toolsvc_clone(uint64_t flags, int group, int *exit_fd);
/* For the child: handlers of the rank must not run there, and an exec keeps what is ignored. Blocked signals stay blocked. */
void toolsvc_clone_default_signals(void);

#endif
