/* The allow-list, compiled by libseccomp and kept as BPF, so that the child between clone and exec only has to hand it over. */
#include "toolsvc/sandbox/sandbox_filter.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/mem.h"

/* Left out on purpose, among others: ptrace, process_vm_*, pidfd_getfd, mount and its kin, unshare, setns, chroot, pivot_root, clone3
 * (its flags are in memory, where no filter can look), socket, connect, bind, keyctl, bpf, perf_event_open, io_uring, userfaultfd,
 * memfd (its pages are bounded by nothing), execveat, System V and POSIX queues and shared memory, inotify and fanotify (counted per
 * user, so that one could starve another), mknod, personality, setuid and its kin, setxattr, sync, syslog, module, kexec, swap and
 * clock calls. */
static const char *const allowed[] = {
    /* files */
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "open", "openat", "openat2",
    "creat", "close", "close_range", "stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs", "lseek", "access",
    "faccessat", "faccessat2", "dup", "dup2", "dup3", "pipe", "pipe2", "sendfile", "splice", "tee", "copy_file_range", "fcntl", "flock",
    "fsync", "fdatasync", "truncate", "ftruncate", "fallocate", "fadvise64", "readahead", "getdents", "getdents64", "getcwd", "chdir",
    "fchdir", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "link", "linkat", "unlink", "unlinkat", "symlink",
    "symlinkat", "readlink", "readlinkat", "chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat", "umask", "utime",
    "utimes", "utimensat", "futimesat", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr",
    /* waiting */
    "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2",
    "eventfd", "eventfd2", "pause", "nanosleep", "clock_nanosleep",
    /* memory */
    "mmap", "munmap", "mprotect", "mremap", "msync", "mincore", "madvise", "brk",
    /* signals and timers */
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait", "rt_sigqueueinfo", "rt_sigsuspend",
    "sigaltstack", "kill", "tkill", "tgkill", "pidfd_open", "pidfd_send_signal", "signalfd", "signalfd4", "alarm", "getitimer",
    "setitimer", "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun", "timer_delete", "timerfd_create",
    "timerfd_settime", "timerfd_gettime", "restart_syscall",
    /* processes and threads */
    "fork", "vfork", "execve", "exit", "exit_group", "wait4", "waitid", "getpid", "gettid", "getppid", "getpgid", "getpgrp", "getsid",
    "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "getpriority", "setpriority", "sched_yield",
    "sched_getaffinity", "sched_setaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max",
    "sched_get_priority_min", "arch_prctl", "set_tid_address", "set_robust_list", "get_robust_list", "futex", "futex_waitv", "rseq",
    "membarrier", "getrlimit", "setrlimit", "prlimit64", "getrusage", "times",
    /* the machine */
    "uname", "sysinfo", "getrandom", "getcpu", "gettimeofday", "time", "clock_gettime", "clock_getres",
    /* sockets that already have their other end */
    "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg", "shutdown", "getsockname", "getpeername", "getsockopt",
    "setsockopt",
};
static const char *const group_calls[] = {"setsid", "setpgid"};

/* A call allowed if one argument, masked, has a value. The mask covers all 64 bits: what the kernel ignores must be 0. */
typedef struct condition {
    const char *call;
    unsigned argument;
    uint64_t mask, value;
} condition;

static const uint64_t all_bits = UINT64_MAX;
/* CLONE_PARENT makes children of ours, which nobody would collect where there are no namespaces. */
static const uint64_t refused_flags = CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                                      CLONE_NEWCGROUP | 0x80 /* CLONE_NEWTIME */ | CLONE_PARENT;

static int allow(scmp_filter_ctx filter, const char *name, unsigned tests, const struct scmp_arg_cmp *test) {
    int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR) return 0; /* this libseccomp does not know it: stays closed */
    int rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, tests, test);
    return rc == -EDOM ? 0 : rc; /* not a call of this architecture */
}

static int allow_conditional(scmp_filter_ctx filter) {
    const condition table[] = {
        {"clone", 0, refused_flags, 0},
        {"socketpair", 0, all_bits, AF_UNIX},
        {"ioctl", 1, all_bits, TCGETS},
        {"ioctl", 1, all_bits, TIOCGWINSZ},
        {"ioctl", 1, all_bits, FIONREAD},
        {"ioctl", 1, all_bits, FIONBIO},
        {"ioctl", 1, all_bits, FIOCLEX},
        {"ioctl", 1, all_bits, FIONCLEX},
        {"prctl", 0, all_bits, PR_SET_NAME},
        {"prctl", 0, all_bits, PR_GET_NAME},
        {"prctl", 0, all_bits, PR_SET_PDEATHSIG},
        {"prctl", 0, all_bits, PR_GET_DUMPABLE},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct scmp_arg_cmp test = {table[i].argument, SCMP_CMP_MASKED_EQ, table[i].mask, table[i].value};
        int rc = allow(filter, table[i].call, 1, &test);
        if (rc) return rc;
    }
    return 0;
}

static int fill(scmp_filter_ctx filter, bool keep_group) {
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof allowed / sizeof *allowed; i++) rc = allow(filter, allowed[i], 0, NULL);
    for (size_t i = 0; !rc && !keep_group && i < sizeof group_calls / sizeof *group_calls; i++) rc = allow(filter, group_calls[i], 0, NULL);
    return rc ? rc : allow_conditional(filter);
}

/* The program as BPF: libseccomp writes it to a descriptor alone. */
static rlf_status take_program(scmp_filter_ctx filter, struct sock_fprog *program) {
    rlf_status status = RLF_OK;
    struct sock_filter *code = NULL;
    int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0) return RLF_RAISE(IO, "sandbox: memfd_create: %s", strerror(errno));
    int rc = seccomp_export_bpf(filter, fd);
    if (rc) RLF_FAIL(INTERNAL, "sandbox: libseccomp cannot export the filter: %s", strerror(-rc));
    off_t n = lseek(fd, 0, SEEK_END);
    if (n <= 0 || n / (off_t)sizeof *code > BPF_MAXINSNS) RLF_FAIL(INTERNAL, "sandbox: a filter of %lld bytes", (long long)n);
    code = rlf_calloc(1, (size_t)n);
    if (pread(fd, code, (size_t)n, 0) != n) RLF_FAIL(IO, "sandbox: reading the filter: %s", strerror(errno));
    *program = (struct sock_fprog){.len = (unsigned short)((size_t)n / sizeof *code), .filter = code};
    code = NULL;
out:
    free(code);
    close(fd);
    return status;
}

rlf_status toolsvc_sandbox_filter(struct sock_fprog *program, bool keep_group) {
    rlf_status status = RLF_OK;
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (!filter) return RLF_RAISE(INTERNAL, "sandbox: libseccomp cannot make a filter");
    seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a binary tree instead of a list */
    int rc = fill(filter, keep_group);
    if (rc) RLF_FAIL(INTERNAL, "sandbox: libseccomp refuses a rule: %s", strerror(-rc));
    status = take_program(filter, program);
out:
    seccomp_release(filter);
    return status;
}
