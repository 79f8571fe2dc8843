/* Control groups are folders, and what they do is written to files in them (cgroup.h). */
#include "toolsvc/sandbox/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "toolsvc/child/clone.h"
#include "toolsvc/sandbox/kernel_file.h"

#define RANKS "rlf-ranks"
#define TOOLS "rlf-tools-"
enum { PATH_BYTES = 4096, FILE_BYTES = 4096, EMPTY_ROUNDS = 16 };

static const char *const controllers[] = {"memory", "pids", "cpu"};
enum { CONTROLLERS = sizeof controllers / sizeof *controllers };

struct toolsvc_cgroups {
    char *path; /* F/rlf-tools-PID */
    rlf_str name;
    bool has[CONTROLLERS];
    uint64_t made;
};

/* ---- files -------------------------------------------------------------------------------------------------------------------------- */

static bool write_number(const char *folder, const char *file, int64_t n) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)n);
    return toolsvc_kernel_write(folder, file, text);
}

/* Whether `word` is one of the words of the file. */
static bool lists(const char *folder, const char *file, const char *word) {
    static const char between[] = " \n";
    char text[FILE_BYTES];
    if (!toolsvc_kernel_read(folder, file, text, sizeof text)) return false;
    for (size_t at = strspn(text, between), n; text[at]; at += n + strspn(text + at + n, between)) {
        n = strcspn(text + at, between);
        if (strlen(word) == n && memcmp(text + at, word, n) == 0) return true;
    }
    return false;
}

/* The number behind "key " at the beginning of a line; -1: there is none. */
static int64_t number_of(const char *folder, const char *file, const char *key) {
    char text[FILE_BYTES];
    size_t n = strlen(key);
    if (!toolsvc_kernel_read(folder, file, text, sizeof text)) return -1;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, n) == 0 && line[n] == ' ') return strtoll(line + n + 1, NULL, 10);
    }
    return -1;
}

/* ---- the group this process is in ----------------------------------------------------------------------------------------------------- */

/* Its path in the hierarchy: the line "0::/path". */
static bool own_path(char *path, size_t size) {
    char line[PATH_BYTES];
    FILE *f = fopen("/proc/self/cgroup", "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) {
        found = strncmp(line, "0::/", 4) == 0;
        if (found) snprintf(path, size, "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
    }
    if (f) fclose(f);
    return found;
}

/* One line of mountinfo: where a cgroup2 hierarchy is mounted, and which of its groups that shows. */
static bool is_mount(const char *line, char *root, char *point) {
    const char *type = strstr(line, " - cgroup2 ");
    return type && sscanf(line, "%*d %*d %*s %4095s %4095s", root, point) == 2;
}

/* The folder of this process's group. *mount: length of the part that is the mount's, behind which "" or "/a" is left. */
static bool own_folder(char *folder, size_t size, size_t *mount) {
    char line[3 * PATH_BYTES], root[PATH_BYTES], point[PATH_BYTES], path[PATH_BYTES];
    FILE *f = own_path(path, sizeof path) ? fopen("/proc/self/mountinfo", "re") : NULL;
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) {
        if (!is_mount(line, root, point)) continue;
        size_t n = strcmp(root, "/") == 0 ? 0 : strlen(root);
        if (strncmp(path, root, n) != 0 || (path[n] && path[n] != '/')) continue;
        *mount = strlen(point);
        found = (size_t)snprintf(folder, size, "%s%s", point, strcmp(path + n, "/") == 0 ? "" : path + n) < size;
    }
    if (f) fclose(f);
    return found;
}

/* Root may write everywhere; that does not make a group its own. The group at the top of what is seen is (a container's, or the
 * machine's), and one that systemd has marked so. */
static bool is_delegated(const char *folder, bool top) {
    char value[8];
    if (access(folder, W_OK) != 0) return false;
    int fd = toolsvc_kernel_open(folder, "cgroup.procs", O_WRONLY);
    if (fd < 0) return false;
    close(fd);
    return geteuid() != 0 || top || getxattr(folder, "trusted.delegate", value, sizeof value) > 0 ||
           getxattr(folder, "user.delegate", value, sizeof value) > 0;
}

/* The group F, whether or not this process has been moved into its rlf-ranks. */
static bool find_group(char *folder, size_t size, rlf_str *why) {
    size_t mount = 0;
    if (!own_folder(folder, size, &mount)) {
        rlf_str_puts(why, "there is no control group of version 2");
        return false;
    }
    char *last = strrchr(folder, '/');
    if (last && strcmp(last, "/" RANKS) == 0) *last = '\0';
    if (is_delegated(folder, strlen(folder) == mount)) return true;
    rlf_str_printf(why, "the control group %s is not delegated to this user", folder);
    return false;
}

/* ---- controllers ---------------------------------------------------------------------------------------------------------------------- */

/* Moves every process of the group into its rlf-ranks; new ones may come meanwhile. */
static void empty(const char *folder) {
    char ranks[PATH_BYTES], line[32];
    if ((size_t)snprintf(ranks, sizeof ranks, "%s/" RANKS, folder) >= sizeof ranks) return;
    mkdir(ranks, 0755);
    for (int round = 0; round < EMPTY_ROUNDS; round++) {
        int fd = toolsvc_kernel_open(folder, "cgroup.procs", O_RDONLY);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
        bool any = false;
        while (f && fgets(line, sizeof line, f)) any = toolsvc_kernel_write(ranks, "cgroup.procs", line) || any;
        if (f) fclose(f);
        if (!any) return;
    }
}

/* Gives the children of the group one more controller, if the group has it. */
static bool enable(const char *folder, const char *controller) {
    char order[32];
    if (lists(folder, "cgroup.subtree_control", controller)) return true;
    if (!lists(folder, "cgroup.controllers", controller)) return false;
    snprintf(order, sizeof order, "+%s", controller);
    if (toolsvc_kernel_write(folder, "cgroup.subtree_control", order)) return true;
    if (errno != EBUSY) return false;
    empty(folder);
    return toolsvc_kernel_write(folder, "cgroup.subtree_control", order);
}

/* ---- groups left behind --------------------------------------------------------------------------------------------------------------- */

static void remove_tree(const char *folder) {
    DIR *d = opendir(folder);
    toolsvc_cgroup_kill(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        char child[PATH_BYTES];
        bool is_child = e->d_type == DT_DIR && e->d_name[0] != '.';
        if (is_child && (size_t)snprintf(child, sizeof child, "%s/%s", folder, e->d_name) < sizeof child) rmdir(child);
    }
    if (d) closedir(d);
    rmdir(folder);
}

/* Groups of processes that are gone. */
static void remove_stale(const char *folder) {
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[PATH_BYTES];
        if (strncmp(e->d_name, TOOLS, sizeof TOOLS - 1) != 0) continue;
        long pid = strtol(e->d_name + sizeof TOOLS - 1, NULL, 10);
        bool gone = pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
        if (gone && (size_t)snprintf(path, sizeof path, "%s/%s", folder, e->d_name) < sizeof path) remove_tree(path);
    }
    if (d) closedir(d);
}

/* ---- life ----------------------------------------------------------------------------------------------------------------------------- */

static void name_groups(toolsvc_cgroups *g) {
    const char *before = " (";
    rlf_str_puts(&g->name, g->path);
    for (size_t i = 0; i < CONTROLLERS; i++) {
        if (!g->has[i]) continue;
        rlf_str_printf(&g->name, "%s%s", before, controllers[i]);
        before = ", ";
    }
    rlf_str_puts(&g->name, *before == ',' ? ")" : " (no controllers)");
}

/* A process that starts in the group and ends at once. False: errno says why not. */
static bool try_clone(int fd) {
    int exit_fd;
    pid_t pid = toolsvc_clone(0, fd, &exit_fd);
    if (pid == 0) _exit(0);
    if (pid < 0) return false;
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
    close(exit_fd);
    return true;
}

/* One group, made, used and removed as a program's would be. */
static bool try_one(toolsvc_cgroups *g, rlf_str *why) {
    char *path = NULL;
    int fd = -1;
    if (toolsvc_cgroup_make(g, &(toolsvc_cgroup_limits){(int64_t)1 << 30, 16}, &path, &fd) != RLF_OK) {
        rlf_str_puts(why, rlf_error_message());
        return false;
    }
    bool good = try_clone(fd);
    if (!good) rlf_str_printf(why, "no process can be started in %s: %s", path, strerror(errno));
    close(fd);
    toolsvc_cgroup_remove(path);
    free(path);
    return good;
}

toolsvc_cgroups *toolsvc_cgroups_new(rlf_str *why) {
    char folder[PATH_BYTES];
    rlf_str path = {0};
    if (!find_group(folder, sizeof folder, why)) return NULL;
    remove_stale(folder);
    static atomic_uint serial;
    rlf_str_printf(&path, "%s/" TOOLS "%d-%u", folder, (int)getpid(), atomic_fetch_add(&serial, 1));
    if (mkdir(path.ptr, 0755) != 0) {
        rlf_str_printf(why, "%s: %s", path.ptr, strerror(errno));
        rlf_str_clean_up(&path);
        return NULL;
    }
    toolsvc_cgroups *g = rlf_calloc(1, sizeof *g);
    g->path = path.ptr;
    for (size_t i = 0; i < CONTROLLERS; i++) g->has[i] = enable(folder, controllers[i]) && enable(g->path, controllers[i]);
    name_groups(g);
    if (try_one(g, why)) return g;
    toolsvc_cgroups_destroy(g);
    return NULL;
}

void toolsvc_cgroups_destroy(toolsvc_cgroups *g) {
    if (!g) return;
    remove_tree(g->path);
    rlf_str_clean_up(&g->name);
    free(g->path);
    free(g);
}

const char *toolsvc_cgroups_name(const toolsvc_cgroups *g) { return g->name.ptr; }

/* ---- one program ---------------------------------------------------------------------------------------------------------------------- */

/* False: errno says why not. A machine without swap has no file for it. */
static bool set_limits(const toolsvc_cgroups *g, const char *path, const toolsvc_cgroup_limits *limits) {
    if (g->has[0]) {
        if (!write_number(path, "memory.max", limits->memory_bytes) || !toolsvc_kernel_write(path, "memory.oom.group", "1")) return false;
        if (!toolsvc_kernel_write(path, "memory.swap.max", "0") && errno != ENOENT) return false;
    }
    if (g->has[1] && !write_number(path, "pids.max", limits->processes)) return false;
    return !g->has[2] || toolsvc_kernel_write(path, "cpu.weight", "10");
}

rlf_status toolsvc_cgroup_make(toolsvc_cgroups *g, const toolsvc_cgroup_limits *limits, char **path, int *fd) {
    rlf_status status = RLF_OK;
    rlf_str own = {0};
    *path = NULL;
    rlf_str_printf(&own, "%s/%llu", g->path, (unsigned long long)g->made++);
    if (mkdir(own.ptr, 0755) != 0) RLF_FAIL(IO, "control group %s: %s", own.ptr, strerror(errno));
    if (set_limits(g, own.ptr, limits)) *fd = open(own.ptr, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    else *fd = -1;
    if (*fd < 0) {
        status = RLF_RAISE(IO, "control group %s: %s", own.ptr, strerror(errno));
        rmdir(own.ptr);
        goto out;
    }
    *path = own.ptr;
    own = (rlf_str){0};
out:
    rlf_str_clean_up(&own);
    return status;
}

void toolsvc_cgroup_kill(const char *path) { toolsvc_kernel_write(path, "cgroup.kill", "1"); }

int64_t toolsvc_cgroup_cpu_ms(const char *path) {
    int64_t us = number_of(path, "cpu.stat", "usage_usec");
    return us < 0 ? -1 : us / 1000;
}

bool toolsvc_cgroup_ran_out_of_memory(const char *path) { return number_of(path, "memory.events", "oom_kill") > 0; }

void toolsvc_cgroup_remove(const char *path) { rmdir(path); }
