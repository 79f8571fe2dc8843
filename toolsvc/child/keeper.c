/* The keeper's life (keeper.h). From the clone on it makes system calls alone (clone.h). All signals stay blocked in it: it takes SIGCHLD
 * and SIGTERM by sigtimedwait. */
#include "toolsvc/child/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "toolsvc/child/clone.h"

enum { SWEEP_MS = 10, NO_PROGRAM = 127 };

/* What the program is to be, and why it is not. */
typedef struct plan {
    char *const *argv, *const *environment;
    const char *folder;
    int64_t memory_bytes;
    int in, out, error, report; /* its descriptors, and where a failure is told; all above 2 */
    pid_t rank;
} plan;

typedef struct failure {
    int error;
    bool of_folder;
} failure;

/* ---- the program, before it is one --------------------------------------------------------------------------------------------------- */

static _Noreturn void give_up(const plan *p, bool of_folder) {
    failure f = {.error = errno, .of_folder = of_folder};
    ssize_t ignored = write(p->report, &f, sizeof f);
    (void)ignored;
    _exit(NO_PROGRAM);
}

static void offer_to_the_memory_killer(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t ignored = write(fd, "1000", 4); /* no harm if it fails */
    (void)ignored;
    close(fd);
}

static bool bound_memory(int64_t bytes) {
    struct rlimit data = {(rlim_t)bytes, (rlim_t)bytes};
    return bytes == 0 || setrlimit(RLIMIT_DATA, &data) == 0;
}

static _Noreturn void run_program(const plan *p, pid_t keeper) {
    sigset_t none;
    sigemptyset(&none);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != keeper) _exit(NO_PROGRAM);
    setpgid(0, 0);
    if (dup2(p->in, 0) < 0 || dup2(p->out, 1) < 0 || dup2(p->error, 2) < 0) give_up(p, false);
    if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) != 0) give_up(p, false);
    if (*p->folder && chdir(p->folder) != 0) give_up(p, true);
    offer_to_the_memory_killer();
    if (!bound_memory(p->memory_bytes)) give_up(p, false);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvpe(p->argv[0], p->argv, p->environment);
    give_up(p, false);
}

/* ---- the keeper ---------------------------------------------------------------------------------------------------------------------- */

/* Takes one signal, within timeout_ms (-1: whenever it comes); 0: none came. */
static int take_signal(int64_t timeout_ms) {
    sigset_t set;
    struct timespec limit = {timeout_ms / 1000, timeout_ms % 1000 * 1000000};
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    int signal_taken = sigtimedwait(&set, NULL, timeout_ms < 0 ? NULL : &limit);
    return signal_taken > 0 ? signal_taken : 0;
}

/* Collects what has ended; true once the program has, which stays uncollected: until then its group's number is no one else's. */
static bool collect_until(pid_t program) {
    for (;;) {
        siginfo_t info = {0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return false;
        if (info.si_pid == program) return true;
        waitpid(info.si_pid, NULL, 0);
    }
}

/* Returns when the program has ended by itself, or was told to and its time is up. */
static void watch(pid_t program) {
    int64_t end_ms = -1;
    while (!collect_until(program)) {
        int64_t left = end_ms < 0 ? -1 : end_ms - rlf_now_ms();
        if (end_ms >= 0 && left <= 0) return;
        if (take_signal(left) != SIGTERM || end_ms >= 0) continue;
        kill(-program, SIGTERM);
        kill(program, SIGTERM); /* in case its group is not there yet */
        end_ms = rlf_now_ms() + TOOLSVC_KEEPER_KILL_MS;
    }
}

/* Kills the keeper's children; theirs become its own. False: they cannot be told. */
static bool kill_children(void) {
    char text[4096];
    int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    if (n < 0) return false;
    text[n] = '\0';
    for (char *at = text; *at;) {
        pid_t child = 0;
        for (; *at >= '0' && *at <= '9'; at++) child = child * 10 + (*at - '0');
        if (child > 0) kill(child, SIGKILL);
        if (*at) at++;
    }
    return true;
}

/* Until nothing is left that can be found. Returns the program's status. */
static int sweep(pid_t program) {
    int status = 0, of_program = 0;
    kill(-program, SIGKILL);
    for (bool found = true;;) {
        pid_t ended = waitpid(-1, &status, WNOHANG);
        if (ended == program) of_program = status;
        if (ended > 0) continue;
        if (ended < 0 || !found) return of_program;
        found = kill_children();
        take_signal(SWEEP_MS);
    }
}

/* Ends the keeper as the program ended. */
static _Noreturn void end_alike(int status) {
    sigset_t none;
    struct rlimit no_core = {0, 0};
    if (WIFEXITED(status)) _exit(WEXITSTATUS(status));
    setrlimit(RLIMIT_CORE, &no_core);
    prctl(PR_SET_PDEATHSIG, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    kill(getpid(), WTERMSIG(status));
    _exit(NO_PROGRAM);
}

static _Noreturn void keep(const plan *p) {
    toolsvc_clone_default_signals();
    setsid();
    prctl(PR_SET_NAME, "rlf-keeper");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != p->rank) _exit(NO_PROGRAM);
    int exit_fd;
    pid_t keeper = getpid(), program = toolsvc_clone(0, -1, &exit_fd);
    if (program == 0) run_program(p, keeper);
    if (program < 0) give_up(p, false);
    syscall(SYS_close_range, 0, ~0U, 0);
    watch(program);
    end_alike(sweep(program));
}

/* ---- starting ------------------------------------------------------------------------------------------------------------------------ */

/* A pipe above the standard descriptors; `ours` is the end that we keep, [0] to read, [1] to write. */
static rlf_status make_pipe(int ours, int *kept, int *given) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return RLF_RAISE(IO, "pipe: %s", strerror(errno));
    *kept = ends[ours];
    *given = fcntl(ends[!ours], F_DUPFD_CLOEXEC, 3);
    close(ends[!ours]);
    if (*given < 0 || fcntl(*kept, F_SETFL, O_NONBLOCK) != 0) return RLF_RAISE(IO, "pipe: %s", strerror(errno));
    return RLF_OK;
}

static void close_one(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* Waits for the exec, or what kept it from coming. */
static rlf_status await_exec(int report, const plan *p) {
    failure f;
    ssize_t n;
    do n = read(report, &f, sizeof f);
    while (n < 0 && errno == EINTR);
    if (n == 0) return RLF_OK;
    if (n != sizeof f) return RLF_RAISE(IO, "the start of %.200s cannot be watched", p->argv[0]);
    return RLF_RAISE(NOT_FOUND, "%.200s: %s", f.of_folder ? p->folder : p->argv[0], strerror(f.error));
}

rlf_status toolsvc_keeper_start(toolsvc_kept *kept, char *const *argv, char *const *environment, const char *folder,
                                int64_t memory_bytes) {
    rlf_status status = RLF_OK;
    plan p = {argv, environment, folder, memory_bytes, -1, -1, -1, -1, getpid()};
    int report = -1;
    *kept = (toolsvc_kept){-1, -1, -1, -1, -1};
    RLF_TRY(make_pipe(1, &kept->in, &p.in));
    RLF_TRY(make_pipe(0, &kept->out, &p.out));
    RLF_TRY(make_pipe(0, &kept->error, &p.error));
    RLF_TRY(make_pipe(0, &report, &p.report));
    fcntl(report, F_SETFL, 0);
    kept->keeper = toolsvc_clone(0, -1, &kept->exit_fd);
    if (kept->keeper == 0) keep(&p);
    if (kept->keeper < 0) RLF_FAIL(IO, "%.200s: no process for it: %s", argv[0], strerror(errno));
    close_one(&p.report);
    status = await_exec(report, &p);
out:
    close_one(&p.in), close_one(&p.out), close_one(&p.error), close_one(&p.report), close_one(&report);
    if (status == RLF_OK) return RLF_OK;
    close_one(&kept->in), close_one(&kept->out), close_one(&kept->error);
    if (kept->keeper > 0) {
        toolsvc_keeper_stop(kept);
        toolsvc_keeper_reap(kept);
    }
    return status;
}

void toolsvc_keeper_stop(const toolsvc_kept *kept) {
    if (kept->keeper > 0) kill(kept->keeper, SIGTERM);
}

int toolsvc_keeper_reap(toolsvc_kept *kept) {
    int status = 0;
    while (waitpid(kept->keeper, &status, 0) < 0 && errno == EINTR) {}
    close_one(&kept->exit_fd);
    kept->keeper = -1;
    return status;
}
