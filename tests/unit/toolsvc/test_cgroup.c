/* Control groups, with processes of our own in them. Skipped, with the reason, where this machine gives us none; limits are, where the
 * controller belongs to somebody else. */
#include "tests/test.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "toolsvc/sandbox/cgroup.h"
#include "toolsvc/child/clone.h"

typedef struct fixture {
    toolsvc_cgroups *groups;
    char *path;
    int fd;
} fixture;

static int setup(void **state) {
    static fixture f;
    rlf_str why = {0};
    f = (fixture){.groups = toolsvc_cgroups_new(&why), .fd = -1};
    *state = f.groups ? &f : NULL;
    if (!f.groups) fprintf(stderr, "skipped: %s\n", why.ptr);
    rlf_str_clean_up(&why);
    if (!f.groups) return 0;
    return toolsvc_cgroup_make(f.groups, &(toolsvc_cgroup_limits){(int64_t)64 << 20, 8}, &f.path, &f.fd) == RLF_OK ? 0 : -1;
}

static int teardown(void **state) {
    fixture *f = *state;
    if (!f) return 0;
    int left = 0;
    if (f->path) toolsvc_cgroup_remove(f->path), left = access(f->path, F_OK) == 0;
    close(f->fd);
    free(f->path);
    toolsvc_cgroups_destroy(f->groups);
    return left;
}

static bool has(const fixture *f, const char *controller) {
    const char *list = strrchr(toolsvc_cgroups_name(f->groups), '(');
    if (list && strstr(list, controller)) return true;
    fprintf(stderr, "skipped: the controller %s is not ours: %s\n", controller, toolsvc_cgroups_name(f->groups));
    return false;
}

/* Lines of a file of the group. */
static size_t count_lines(const fixture *f, const char *file) {
    char path[4200];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/%s", f->path, file);
    FILE *in = fopen(path, "r");
    for (int c; in && (c = getc(in)) != EOF;) n += c == '\n';
    if (in) fclose(in);
    return n;
}

/* Runs `body` in a process of the group; its wait status. */
static int run_inside(const fixture *f, void (*body)(void)) {
    int exit_fd, status = 0;
    pid_t pid = toolsvc_clone(0, f->fd, &exit_fd);
    if (pid == 0) {
        body();
        _exit(0);
    }
    assert_true(pid > 0);
    close(exit_fd);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

static void await_lines(const fixture *f, size_t n) {
    int64_t end = rlf_now_ms() + 20000;
    while (count_lines(f, "cgroup.procs") != n) {
        assert_true(rlf_now_ms() < end);
        rlf_sleep_us(1000);
    }
}

static void leave_daemons(void) {
    for (int i = 0; i < 4; i++) {
        if (fork() != 0) continue;
        setsid();
        signal(SIGTERM, SIG_IGN);
        for (;;) pause();
    }
}

static void daemons_in_sessions_of_their_own_are_killed_with_the_group(void **state) {
    fixture *f = *state;
    if (!f) skip();
    run_inside(f, leave_daemons);
    assert_int_equal(count_lines(f, "cgroup.procs"), 4);
    toolsvc_cgroup_kill(f->path);
    await_lines(f, 0);
}

static void burn(void) {
    int64_t end = rlf_now_ms() + 200;
    while (rlf_now_ms() < end) {}
}

static void burn_in_children(void) {
    for (int i = 0; i < 2; i++)
        if (fork() == 0) {
            burn();
            _exit(0);
        }
    while (wait(NULL) > 0) {}
}

static void processor_time_of_all_is_told(void **state) {
    fixture *f = *state;
    if (!f) skip();
    assert_int_equal(toolsvc_cgroup_cpu_ms(f->path), 0);
    run_inside(f, burn_in_children);
    assert_true(toolsvc_cgroup_cpu_ms(f->path) > 0);
    assert_int_equal(toolsvc_cgroup_cpu_ms("/nonexistent"), -1);
}

static void fork_too_often(void) {
    for (int i = 0; i < 100; i++) {
        pid_t pid = fork();
        if (pid < 0) _exit(i);
        if (pid == 0) for (;;) pause();
    }
}

static void processes_are_bounded(void **state) {
    fixture *f = *state;
    if (!f || !has(f, "pids")) skip();
    int status = run_inside(f, fork_too_often);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7); /* with itself 8 */
    toolsvc_cgroup_kill(f->path);
    await_lines(f, 0);
}

static void take_memory(void) {
    for (int i = 0; i < 4; i++) /* 128 MiB of 64, shared out */
        if (fork() == 0) {
            char *block = malloc(32 << 20);
            memset(block, 1, 32 << 20);
            for (;;) pause();
        }
    for (;;) pause();
}

static void memory_of_all_is_bounded_and_the_end_is_everybody_s(void **state) {
    fixture *f = *state;
    if (!f || !has(f, "memory")) skip();
    assert_false(toolsvc_cgroup_ran_out_of_memory(f->path));
    int status = run_inside(f, take_memory);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    await_lines(f, 0);
    assert_true(toolsvc_cgroup_ran_out_of_memory(f->path));
}

/* A process that is killed leaves its groups to the next that makes some. */
static void groups_of_the_dead_are_removed(void **state) {
    fixture *f = *state;
    if (!f) skip();
    int name[2];
    assert_int_equal(pipe(name), 0);
    pid_t pid = fork();
    if (pid == 0) {
        rlf_str why = {0};
        char *path = NULL;
        int fd = -1;
        toolsvc_cgroups *groups = toolsvc_cgroups_new(&why);
        if (!groups || toolsvc_cgroup_make(groups, &(toolsvc_cgroup_limits){(int64_t)64 << 20, 8}, &path, &fd) != RLF_OK) _exit(1);
        if (write(name[1], path, strlen(path) + 1) < 0) _exit(1);
        raise(SIGKILL);
    }
    char path[4096] = "";
    waitpid(pid, NULL, 0);
    assert_true(read(name[0], path, sizeof path - 1) > 0);
    close(name[0]), close(name[1]);
    assert_int_equal(access(path, F_OK), 0);
    rlf_str why = {0};
    toolsvc_cgroups *next = toolsvc_cgroups_new(&why);
    assert_non_null(next);
    assert_int_not_equal(access(path, F_OK), 0);
    toolsvc_cgroups_destroy(next);
    rlf_str_clean_up(&why);
}

int main(void) {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(daemons_in_sessions_of_their_own_are_killed_with_the_group),
        CASE(processor_time_of_all_is_told),
        CASE(processes_are_bounded),
        CASE(memory_of_all_is_bounded_and_the_end_is_everybody_s),
        CASE(groups_of_the_dead_are_removed),
    };
    return cmocka_run_group_tests_name("control groups", tests, NULL, NULL);
}
