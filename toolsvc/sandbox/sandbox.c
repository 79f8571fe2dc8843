/* Starting and ending a sandboxed program, see sandbox.h.
 *
 * The child is made by clone3 straight from the rank, without a helper program: between clone and exec it makes system calls alone, on
 * what was prepared before (other threads of the rank may have held any lock at the moment of the clone, so no malloc, no stdio).
 * We write its user map from outside, which as root lets it become user 65534 with no way back; it waits for one byte on its
 * control socket until that is done.
 *
 * The new root is built on a tmpfs over /proc, the one folder that is always there and that nothing is taken from. */
#include "toolsvc/sandbox/sandbox.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "toolsvc/sandbox/cgroup.h"
#include "toolsvc/sandbox/kernel_file.h"
#include "toolsvc/child/clone.h"
#include "toolsvc/sandbox/sandbox_filter.h"

#define BASE "/proc" /* where the new root is built */
#define MIB 1048576
enum { INSIDE_ID = 1000, NOBODY = 65534, MAX_STEPS = 128, MAX_ARGS = 16, SETUP_FAILED = 126, OPEN_FILES = 256, PENDING_SIGNALS = 256 };
enum { CONTROL = 3, LAST_CAPABILITY = 63 };
/* mount_setattr(2), which older C libraries do not declare. */
enum { READ_ONLY = 1, NO_SUID = 2, NO_DEV = 4, NO_EXEC = 8, RECURSIVE = 0x8000 };
typedef struct mount_flags { uint64_t set, clear, propagation, user_ns; } mount_flags;

typedef enum step_kind { STEP_DIR, STEP_LINK, STEP_FILE, STEP_BIND, STEP_DEVICE } step_kind;

/* One entry of the new root. */
typedef struct step {
    step_kind kind;
    char *target; /* below BASE */
    char *source; /* LINK: where it points; FILE: its content; BIND, DEVICE: the path outside */
} step;

struct toolsvc_sandbox {
    toolsvc_sandbox_limits limits;
    char *argv[MAX_ARGS];
    struct sock_fprog filter;
    step steps[MAX_STEPS];
    size_t n_steps;
    char scratch_options[64];
    toolsvc_cgroups *groups; /* NULL: none */
    rlf_str groups_words;
};

/* One thread each and one hash seed: the same code gives the same text. */
#define ENVIRONMENT                                                                                                                   \
    "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "TZ=UTC", "PYTHONHASHSEED=0", "MALLOC_ARENA_MAX=2", "OMP_NUM_THREADS=1",     \
        "OPENBLAS_NUM_THREADS=1"

/* ---- what the new root holds ---------------------------------------------------------------------------------------------------- */

/* Adds an entry, unless its place is taken: the first wins. */
static void add_step(toolsvc_sandbox *s, step_kind kind, const char *path, const char *source) {
    rlf_str target = {0};
    rlf_str_printf(&target, "%s%s", BASE, path);
    for (size_t i = 0; i < s->n_steps; i++)
        if (strcmp(s->steps[i].target, target.ptr) == 0) {
            rlf_str_clean_up(&target);
            return;
        }
    assert(s->n_steps < MAX_STEPS);
    s->steps[s->n_steps++] = (step){kind, target.ptr, source ? rlf_strdup(source) : NULL};
}

/* The folders above `path`. */
static void add_parents(toolsvc_sandbox *s, const char *path) {
    char *copy = rlf_strdup(path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        add_step(s, STEP_DIR, copy, NULL);
        *slash = '/';
    }
    free(copy);
}

/* A folder or file as it is outside, a link as a link; nothing where there is nothing. */
static void add_same(toolsvc_sandbox *s, const char *path) {
    struct stat info;
    char link[512];
    if (lstat(path, &info) != 0) return;
    add_parents(s, path);
    if (S_ISLNK(info.st_mode)) {
        ssize_t n = readlink(path, link, sizeof link - 1);
        if (n <= 0) return;
        link[n] = '\0';
        add_step(s, STEP_LINK, path, link);
    } else {
        add_step(s, STEP_BIND, path, path);
    }
}

static void add_devices(toolsvc_sandbox *s) {
    static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};
    add_step(s, STEP_DIR, "/dev", NULL);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) add_step(s, STEP_DEVICE, devices[i], devices[i]);
    add_step(s, STEP_LINK, "/dev/shm", "/tmp");
    add_step(s, STEP_LINK, "/dev/fd", "/proc/self/fd");
}

static void add_system(toolsvc_sandbox *s) {
    static const char *const shared[] = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
                                         "/etc/ld.so.cache", "/etc/alternatives"};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) add_same(s, shared[i]);
    add_step(s, STEP_DIR, "/etc", NULL);
    add_step(s, STEP_FILE, "/etc/passwd", "sandbox:x:1000:1000::/tmp:/bin/sh\n");
    add_step(s, STEP_FILE, "/etc/group", "sandbox:x:1000:\n");
    add_step(s, STEP_FILE, "/etc/hosts", "127.0.0.1 localhost\n");
    add_devices(s);
    add_step(s, STEP_DIR, "/proc", NULL);
    add_step(s, STEP_DIR, "/tmp", NULL);
}

/* The folder two above a program is an interpreter's own if it holds what every such folder does. */
static bool is_prefix(const char *folder) {
    static const char *const marks[] = {"pyvenv.cfg", "lib/python3", "include/python3"};
    char path[4200];
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, marks[i]);
        if (access(path, F_OK) == 0) return true;
    }
    for (int minor = 6; minor < 64; minor++) { /* lib/python3.11 */
        snprintf(path, sizeof path, "%s/lib/python3.%d", folder, minor);
        if (access(path, F_OK) == 0) return true;
    }
    return false;
}

/* Where the program, or what it links to, lies outside /usr: the folder of that interpreter. */
static rlf_status add_interpreter(toolsvc_sandbox *s, const char *program) {
    char folder[4096];
    if (strncmp(program, "/usr/", 5) == 0 || strncmp(program, "/bin/", 5) == 0) return RLF_OK;
    snprintf(folder, sizeof folder, "%s", program);
    for (int i = 0; i < 2; i++) {
        char *slash = strrchr(folder, '/');
        if (slash) *slash = '\0';
    }
    const char *home = getenv("HOME");
    if (!folder[0] || (home && strcmp(folder, home) == 0) || !is_prefix(folder))
        return RLF_RAISE(UNSUPPORTED, "sandbox: %s: its folder \"%s\" is not an interpreter's own, and is not opened to the sandbox", program,
                         folder);
    add_same(s, folder);
    return RLF_OK;
}

static rlf_status plan_root(toolsvc_sandbox *s) {
    rlf_status status = RLF_OK;
    char real[4096];
    if (!realpath(s->argv[0], real)) return RLF_RAISE(NOT_FOUND, "%s: %s", s->argv[0], strerror(errno));
    add_system(s);
    RLF_TRY(add_interpreter(s, s->argv[0]));
    RLF_TRY(add_interpreter(s, real));
out:
    return status;
}

static void open_groups(toolsvc_sandbox *s) {
    rlf_str why = {0};
    if (s->limits.groups) s->groups = toolsvc_cgroups_new(&why);
    else rlf_str_puts(&why, "they were not asked for");
    if (s->groups) rlf_str_printf(&s->groups_words, "control groups %s", toolsvc_cgroups_name(s->groups));
    else rlf_str_printf(&s->groups_words, "no control groups (%s)", why.ptr);
    rlf_str_clean_up(&why);
}

const char *toolsvc_sandbox_groups(const toolsvc_sandbox *s) { return s->groups_words.ptr; }

rlf_status toolsvc_sandbox_new(toolsvc_sandbox **out, const toolsvc_sandbox_limits *limits, const char *const *argv) {
    rlf_status status = RLF_OK;
    toolsvc_sandbox *s = rlf_calloc(1, sizeof *s);
    s->limits = *limits;
    for (size_t i = 0; argv[i] && i < MAX_ARGS - 1; i++) s->argv[i] = rlf_strdup(argv[i]);
    if (access(s->argv[0], X_OK) != 0) RLF_FAIL(NOT_FOUND, "%s: %s", s->argv[0], strerror(errno));
    if (limits->namespaces) RLF_TRY(plan_root(s));
    snprintf(s->scratch_options, sizeof s->scratch_options, "size=%lldm,nr_inodes=%lld,mode=0700", (long long)limits->scratch_mb,
             (long long)limits->scratch_mb * 64 + 64);
    RLF_TRY(toolsvc_sandbox_filter(&s->filter, !limits->namespaces));
    open_groups(s);
    *out = s;
    s = NULL;
out:
    toolsvc_sandbox_destroy(s);
    return status;
}

void toolsvc_sandbox_destroy(toolsvc_sandbox *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n_steps; i++) {
        free(s->steps[i].target);
        free(s->steps[i].source);
    }
    for (size_t i = 0; i < MAX_ARGS; i++) free(s->argv[i]);
    free(s->filter.filter);
    toolsvc_cgroups_destroy(s->groups);
    rlf_str_clean_up(&s->groups_words);
    free(s);
}

/* ---- inside the child: system calls alone ----------------------------------------------------------------------------------------- */

static void say(const char *text) { (void)!write(STDERR_FILENO, text, strlen(text)); }

/* The one line the starter finds in the output. */
static _Noreturn void give_up(const char *what, const char *object) {
    const char *reason = strerrordesc_np(errno);
    say("sandbox: ");
    say(what);
    say(object);
    say(": ");
    say(reason ? reason : "?");
    _exit(SETUP_FAILED);
}

static void need(bool done, const char *what, const char *object) {
    if (!done) give_up(what, object);
}

static bool set_mount_flags(const char *path, uint64_t flags) {
    mount_flags change = {.set = flags};
    return syscall(SYS_mount_setattr, -1, path, RECURSIVE, &change, sizeof change) == 0;
}

static void write_file(const char *path, const char *content) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    need(fd >= 0 && write(fd, content, strlen(content)) == (ssize_t)strlen(content), "write ", path);
    close(fd);
}

/* The mount point has the type of what is mounted on it. */
static void bind_same(const step *e) {
    struct stat info;
    need(stat(e->source, &info) == 0, "look at ", e->source);
    if (S_ISDIR(info.st_mode)) need(mkdir(e->target, 0755) == 0, "make ", e->target);
    else write_file(e->target, "");
    need(mount(e->source, e->target, NULL, MS_BIND | MS_REC, NULL) == 0, "bind ", e->source);
    uint64_t flags = READ_ONLY | NO_SUID | (e->kind == STEP_DEVICE ? NO_EXEC : NO_DEV);
    need(set_mount_flags(e->target, flags), "protect ", e->source);
}

static void build_entry(const step *e) {
    switch (e->kind) {
    case STEP_DIR: need(mkdir(e->target, 0755) == 0, "make ", e->target); break;
    case STEP_LINK: need(symlink(e->source, e->target) == 0, "link ", e->target); break;
    case STEP_FILE: write_file(e->target, e->source); break;
    case STEP_BIND:
    case STEP_DEVICE: bind_same(e); break;
    }
}

/* A container may hide parts of /proc; the kernel then gives us no /proc of our own, and the folder stays empty. */
static void build_root(const toolsvc_sandbox *s) {
    need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "make the mounts private", "");
    need(mount("root", BASE, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=512,mode=0755") == 0, "mount ", "the root");
    for (size_t i = 0; i < s->n_steps; i++) build_entry(&s->steps[i]);
    mount("proc", BASE "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "subset=pid");
    need(set_mount_flags(BASE, READ_ONLY), "protect ", "the root");
    need(mount("scratch", BASE "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, s->scratch_options) == 0, "mount ", "/tmp");
    need(chdir(BASE) == 0 && syscall(SYS_pivot_root, ".", ".") == 0, "change ", "the root");
    need(umount2(".", MNT_DETACH) == 0 && chdir("/tmp") == 0, "leave ", "the old root");
}

static void limit(int resource, rlim_t most) {
    struct rlimit r = {most, most};
    need(setrlimit((__rlimit_resource_t)resource, &r) == 0, "set ", "a limit");
}

static void set_limits(const toolsvc_sandbox_limits *l) {
    limit(RLIMIT_AS, (rlim_t)l->memory_mb * MIB);
    limit(RLIMIT_CPU, (rlim_t)l->cpu_s);
    limit(RLIMIT_FSIZE, (rlim_t)l->scratch_mb * MIB);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NOFILE, OPEN_FILES);
    limit(RLIMIT_MSGQUEUE, 0);
    limit(RLIMIT_MEMLOCK, 65536);
    limit(RLIMIT_SIGPENDING, PENDING_SIGNALS);
    if (l->namespaces) limit(RLIMIT_NPROC, (rlim_t)l->processes);
}

static void drop_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    for (int i = 0; i <= LAST_CAPABILITY; i++) prctl(PR_CAPBSET_DROP, i, 0, 0, 0); /* fails past the last one */
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    need(syscall(SYS_capset, &header, none) == 0, "drop ", "capabilities");
}

static void reset_signals(void) {
    sigset_t none;
    toolsvc_clone_default_signals();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* 1, 2 and 3 as promised, all else closed. The two come in above 3 (see make_channels). */
static void arrange_descriptors(int control, int output) {
    if (dup2(output, 1) < 0 || dup2(output, 2) < 0 || dup2(control, CONTROL) < 0) _exit(SETUP_FAILED);
    need(syscall(SYS_close_range, CONTROL + 1, ~0U, 0) == 0, "close ", "descriptors");
    close(STDIN_FILENO);
}

/* Raw calls: the C library's own would stop to tell the rank's other threads, which are not here. */
static void enter_namespaces(const toolsvc_sandbox *s) {
    syscall(SYS_setgroups, 0, NULL); /* forbidden where the rank is not root: nothing in the new root is open to those groups alone */
    need(syscall(SYS_setresgid, INSIDE_ID, INSIDE_ID, INSIDE_ID) == 0 && syscall(SYS_setresuid, INSIDE_ID, INSIDE_ID, INSIDE_ID) == 0,
         "become ", "another user");
    need(sethostname("sandbox", 7) == 0, "set ", "the host name");
    build_root(s);
}

static _Noreturn void run_child(const toolsvc_sandbox *s, int control, int output, char *scratch, char *const *environment) {
    char go;
    reset_signals();
    arrange_descriptors(control, output);
    if (read(CONTROL, &go, 1) != 1) _exit(SETUP_FAILED);
    need(setsid() >= 0, "start ", "a session");
    if (scratch) need(chdir(scratch) == 0, "enter ", scratch);
    else enter_namespaces(s);
    need(open("/dev/null", O_RDONLY) == STDIN_FILENO, "open ", "/dev/null"); /* that of the new root */
    set_limits(&s->limits);
    umask(022);
    personality(ADDR_NO_RANDOMIZE); /* addresses are part of what code prints */
    if (!scratch) drop_capabilities();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &s->filter) == 0, "set ", "the filter");
    execve(s->argv[0], s->argv, environment);
    give_up("run ", s->argv[0]);
}

/* ---- starting --------------------------------------------------------------------------------------------------------------------- */

/* A copy of the descriptor above those that the child arranges; closes the old one. */
static int raise_fd(int fd) {
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 16);
    close(fd);
    return high;
}

/* ours[0], theirs[0]: the control socket; [1]: the output pipe. */
static rlf_status make_channels(int ours[2], int theirs[2]) {
    int control[2], output[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) != 0) return RLF_RAISE(IO, "sandbox: socketpair: %s", strerror(errno));
    if (pipe2(output, O_CLOEXEC) != 0) {
        close(control[0]), close(control[1]);
        return RLF_RAISE(IO, "sandbox: pipe: %s", strerror(errno));
    }
    ours[0] = control[0], ours[1] = output[0];
    theirs[0] = raise_fd(control[1]), theirs[1] = raise_fd(output[1]);
    fcntl(ours[0], F_SETFL, O_NONBLOCK);
    fcntl(ours[1], F_SETFL, O_NONBLOCK);
    return RLF_OK;
}

static bool write_proc(pid_t pid, const char *file, const char *text) {
    char folder[32];
    snprintf(folder, sizeof folder, "/proc/%d", (int)pid);
    return toolsvc_kernel_write(folder, file, text);
}

/* Root hands the child to user 65534; anybody else only to themselves. */
static rlf_status map_user(pid_t pid) {
    char users[64], groups[64];
    bool root = geteuid() == 0;
    snprintf(users, sizeof users, "%u %u 1", (unsigned)INSIDE_ID, root ? (unsigned)NOBODY : geteuid());
    snprintf(groups, sizeof groups, "%u %u 1", (unsigned)INSIDE_ID, root ? (unsigned)NOBODY : getegid());
    if ((root || write_proc(pid, "setgroups", "deny")) && write_proc(pid, "uid_map", users) && write_proc(pid, "gid_map", groups))
        return RLF_OK;
    return RLF_RAISE(UNSUPPORTED, "sandbox: its user cannot be mapped (%s); " TOOLSVC_SANDBOX_HINT, strerror(errno));
}

static rlf_status make_scratch(const toolsvc_sandbox *s, char **scratch) {
    *scratch = NULL;
    if (s->limits.namespaces) return RLF_OK;
    const char *folder = getenv("TMPDIR");
    rlf_str path = {0};
    rlf_str_printf(&path, "%s/rlf-sandbox-XXXXXX", folder && folder[0] == '/' ? folder : "/tmp");
    if (!mkdtemp(path.ptr)) {
        rlf_status status = RLF_RAISE(IO, "sandbox: %s: %s", path.ptr, strerror(errno));
        rlf_str_clean_up(&path);
        return status;
    }
    *scratch = path.ptr;
    return RLF_OK;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info, (void)kind, (void)where;
    return remove(path), 0;
}

static void remove_scratch(char **scratch) {
    if (*scratch) nftw(*scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    free(*scratch);
    *scratch = NULL;
}

/* *fd: for clone; -1: no group. */
static rlf_status make_group(const toolsvc_sandbox *s, toolsvc_sandbox_child *child, int *fd) {
    toolsvc_cgroup_limits limits = {(s->limits.memory_mb + s->limits.scratch_mb) * MIB, s->limits.processes};
    return s->groups ? toolsvc_cgroup_make(s->groups, &limits, &child->group, fd) : RLF_OK;
}

static pid_t start_process(const toolsvc_sandbox *s, const int theirs[2], int group, toolsvc_sandbox_child *child) {
    char home[4200], temporary[4200];
    snprintf(home, sizeof home, "HOME=%s", child->scratch ? child->scratch : "/tmp");
    snprintf(temporary, sizeof temporary, "TMPDIR=%s", child->scratch ? child->scratch : "/tmp");
    char *const environment[] = {ENVIRONMENT, home, temporary, NULL};
    uint64_t spaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    pid_t pid = toolsvc_clone(s->limits.namespaces ? spaces : 0, group, &child->exit_fd);
    if (pid == 0) run_child(s, theirs[0], theirs[1], child->scratch, environment);
    return pid;
}

rlf_status toolsvc_sandbox_start(const toolsvc_sandbox *s, toolsvc_sandbox_child *child) {
    rlf_status status = RLF_OK;
    int ours[2] = {-1, -1}, theirs[2] = {-1, -1}, group = -1;
    *child = (toolsvc_sandbox_child){.pid = -1, .exit_fd = -1, .control = -1, .output = -1};
    RLF_TRY(make_scratch(s, &child->scratch));
    RLF_TRY(make_channels(ours, theirs));
    RLF_TRY(make_group(s, child, &group));
    child->pid = start_process(s, theirs, group, child);
    if (child->pid < 0 && s->limits.namespaces && (errno == EPERM || errno == ENOSPC || errno == EINVAL || errno == ENOSYS || errno == EUSERS))
        RLF_FAIL(UNSUPPORTED, "sandbox: no namespaces here (%s); " TOOLSVC_SANDBOX_HINT, strerror(errno));
    if (child->pid < 0) RLF_FAIL(IO, "sandbox: clone: %s", strerror(errno));
    if (s->limits.namespaces) RLF_TRY(map_user(child->pid));
    write_proc(child->pid, "oom_score_adj", "1000"); /* rather this than a rank; no harm if it fails */
    if (write(ours[0], "g", 1) != 1) RLF_FAIL(IO, "sandbox: the child is gone: %s", strerror(errno));
    child->control = ours[0], child->output = ours[1];
    ours[0] = ours[1] = -1;
out:
    for (int i = 0; i < 2; i++) {
        if (ours[i] >= 0) close(ours[i]);
        if (theirs[i] >= 0) close(theirs[i]);
    }
    if (group >= 0) close(group);
    if (status != RLF_OK && child->pid > 0) toolsvc_sandbox_kill(child);
    if (status != RLF_OK) toolsvc_sandbox_reap(child);
    return status;
}

/* ---- memory ----------------------------------------------------------------------------------------------------------------------- */

/* At most size - 1 bytes; "" if it cannot be read. */
static void read_proc(pid_t pid, const char *file, char *text, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, size - 1);
    text[n > 0 ? n : 0] = '\0';
    if (fd >= 0) close(fd);
}

static int64_t own_memory(pid_t pid) {
    char text[128];
    long long total, resident = 0, shared = 0;
    read_proc(pid, "statm", text, sizeof text);
    return sscanf(text, "%lld %lld %lld", &total, &resident, &shared) == 3 ? (int64_t)(resident - shared) * sysconf(_SC_PAGESIZE) : 0;
}

/* The children that one thread of `pid` made, appended to the list. */
static size_t add_children(pid_t pid, const char *thread, pid_t *list, size_t n, size_t most) {
    char file[64], text[4096];
    snprintf(file, sizeof file, "task/%.20s/children", thread);
    read_proc(pid, file, text, sizeof text);
    for (char *at = text, *end; n < most; at = end) {
        long child = strtol(at, &end, 10);
        if (end == at) break;
        list[n++] = (pid_t)child;
    }
    return n;
}

int64_t toolsvc_sandbox_memory(const toolsvc_sandbox_child *child) {
    enum { MOST = 4096 };
    pid_t list[MOST];
    int64_t bytes = 0;
    size_t n = 0;
    list[n++] = child->pid;
    for (size_t i = 0; i < n; i++) {
        char path[64];
        bytes += own_memory(list[i]);
        snprintf(path, sizeof path, "/proc/%d/task", (int)list[i]);
        DIR *threads = opendir(path);
        for (struct dirent *e; threads && (e = readdir(threads));)
            if (e->d_name[0] != '.') n = add_children(list[i], e->d_name, list, n, MOST);
        if (threads) closedir(threads);
    }
    return bytes;
}

int64_t toolsvc_sandbox_cpu_ms(const toolsvc_sandbox_child *child) { return child->group ? toolsvc_cgroup_cpu_ms(child->group) : -1; }

/* ---- ending ----------------------------------------------------------------------------------------------------------------------- */

void toolsvc_sandbox_kill(const toolsvc_sandbox_child *child) {
    if (child->group) toolsvc_cgroup_kill(child->group);
    if (child->scratch) kill(-child->pid, SIGKILL);
    kill(child->pid, SIGKILL); /* process 1 of its namespace takes the others along */
}

/* Its processes are collected with process 1; without namespaces some may still be on their way out. */
static void remove_group(toolsvc_sandbox_child *child) {
    if (!child->group) return;
    toolsvc_cgroup_kill(child->group);
    child->ran_out_of_memory = toolsvc_cgroup_ran_out_of_memory(child->group);
    toolsvc_cgroup_remove(child->group);
    free(child->group);
    child->group = NULL;
}

int toolsvc_sandbox_reap(toolsvc_sandbox_child *child) {
    int wait_status = 0;
    if (child->pid > 0) {
        if (child->scratch) kill(-child->pid, SIGKILL);
        while (waitpid(child->pid, &wait_status, 0) < 0 && errno == EINTR) {}
    }
    if (child->exit_fd >= 0) close(child->exit_fd);
    child->pid = -1;
    child->exit_fd = -1;
    remove_scratch(&child->scratch);
    remove_group(child);
    return wait_status;
}
