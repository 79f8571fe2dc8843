/* A program on the loop: its lines, its standard error, and its end, which leaves nothing behind. */
#include "tests/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "toolsvc/child/child.h"

enum { LINE_BYTES = 10000, QUEUE_BYTES = 1 << 20, WAIT_MS = 20000 };

typedef struct rig {
    uv_loop_t loop;
    rlf_tool_config config;
    toolsvc_command command;
    toolsvc_child *child;
    rlf_str lines; /* each with its newline */
    size_t n_lines;
    bool over, close_at_line;
    char why[1024];
    char folder[64];
} rig;

static size_t descriptors(void) {
    size_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static int setup(void **state) {
    rig *r = rlf_calloc(1, sizeof *r);
    snprintf(r->folder, sizeof r->folder, "/tmp/rlf-child-XXXXXX");
    if (uv_loop_init(&r->loop) != 0 || !mkdtemp(r->folder)) return -1;
    *state = r;
    return 0;
}

static int teardown(void **state) {
    rig *r = *state;
    char command[128];
    uv_run(&r->loop, UV_RUN_DEFAULT);
    toolsvc_command_clean_up(&r->command);
    free(r->config.command);
    rlf_str_clean_up(&r->lines);
    snprintf(command, sizeof command, "rm -rf %s", r->folder);
    int left = uv_loop_close(&r->loop) | system(command);
    free(r);
    return left;
}

static void on_line(void *user, char *line, size_t n) {
    rig *r = user;
    assert_int_equal(line[n], '\0');
    rlf_str_append(&r->lines, line, n);
    rlf_str_putc(&r->lines, '\n');
    r->n_lines++;
    if (r->close_at_line) toolsvc_child_close(r->child);
}

static void on_end(void *user, const char *why) {
    rig *r = user;
    assert_false(r->over);
    r->over = true;
    snprintf(r->why, sizeof r->why, "%s", why);
}

static rlf_status try_start(rig *r) {
    r->config.cwd = r->config.cwd ? r->config.cwd : r->folder;
    rlf_status status = toolsvc_command_init(&r->command, &r->config);
    if (status != RLF_OK) return status;
    toolsvc_child_options options = {.command = &r->command, .name = "mine", .line_bytes = LINE_BYTES, .queue_bytes = QUEUE_BYTES,
                                     .on_line = on_line, .on_end = on_end, .user = r};
    return toolsvc_child_start(&r->child, &r->loop, &options);
}

/* A shell's script. */
static void start(rig *r, const char *script) {
    json_t *list = json_pack("[s, s, s]", "sh", "-c", script);
    r->config.command = json_dumps(list, 0);
    json_decref(list);
    assert_ok(try_start(r));
}

static void await_lines(rig *r, size_t n) {
    for (int64_t end = rlf_now_ms() + WAIT_MS; r->n_lines < n; rlf_sleep_us(100)) {
        assert_true(rlf_now_ms() < end);
        uv_run(&r->loop, UV_RUN_NOWAIT);
    }
}

static const char *await_end(rig *r) {
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_true(r->over);
    return r->why;
}

/* The number that a script wrote to a file of the folder. */
static pid_t process_in(const rig *r, const char *file) {
    char path[128], text[32] = "";
    snprintf(path, sizeof path, "%s/%s", r->folder, file);
    for (int64_t end = rlf_now_ms() + WAIT_MS; !strchr(text, '\n'); rlf_sleep_us(1000)) {
        assert_true(rlf_now_ms() < end);
        int fd = open(path, O_RDONLY);
        ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        text[n > 0 ? n : 0] = '\0';
        if (fd >= 0) close(fd);
    }
    return (pid_t)strtol(text, NULL, 10);
}

static void assert_goes(pid_t process) {
    assert_true(process > 1);
    for (int64_t end = rlf_now_ms() + WAIT_MS; kill(process, 0) == 0; rlf_sleep_us(1000)) assert_true(rlf_now_ms() < end);
}

static void lines_go_in_and_come_out(void **state) {
    rig *r = *state;
    start(r, "while read -r line; do echo \"got $line\"; done; echo over");
    assert_true(toolsvc_child_say(r->child, "one", 3));
    assert_true(toolsvc_child_say(r->child, "", 0));
    await_lines(r, 2);
    assert_string_equal(r->lines.ptr, "got one\ngot \n");
    toolsvc_child_close(r->child);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_false(r->over); /* closed: no callback */
    assert_int_equal(r->n_lines, 2);
}

static void lines_longer_than_a_read_arrive_whole(void **state) {
    rig *r = *state;
    char line[LINE_BYTES];
    memset(line, 'x', sizeof line);
    start(r, "exec cat");
    for (int i = 0; i < 40; i++) assert_true(toolsvc_child_say(r->child, line, sizeof line - (size_t)i));
    await_lines(r, 40);
    const char *at = r->lines.ptr;
    for (size_t i = 0; i < 40; i++, at = strchr(at, '\n') + 1) assert_int_equal(strcspn(at, "\n"), sizeof line - i);
    toolsvc_child_close(r->child);
}

static void an_end_is_told_with_its_status_and_last_words_after_the_last_line(void **state) {
    rig *r = *state;
    start(r, "echo last; echo begun >&2; printf 'no \\001 model' >&2; printf unfinished; exit 3");
    assert_string_equal(await_end(r), "ended with status 3; its last words: no   model");
    assert_string_equal(r->lines.ptr, "last\n");
}

static void an_end_by_a_signal_is_told(void **state) {
    rig *r = *state;
    start(r, "kill -9 $$");
    assert_string_equal(await_end(r), "was ended by signal 9, Killed");
}

static void an_endless_line_ends_the_program(void **state) {
    rig *r = *state;
    start(r, "echo first; exec cat /dev/zero");
    assert_string_equal(await_end(r), "wrote a line of more than 10000 bytes");
    assert_string_equal(r->lines.ptr, "first\n");
}

static void a_program_that_closes_its_output_is_ended(void **state) {
    rig *r = *state;
    start(r, "exec >&-; exec sleep 1000");
    assert_string_equal(await_end(r), "closed its standard output");
}

static void what_waits_for_a_program_that_does_not_read_is_bounded(void **state) {
    rig *r = *state;
    char line[65536];
    size_t n = 0;
    memset(line, 'x', sizeof line);
    start(r, "exec sleep 1000");
    while (toolsvc_child_say(r->child, line, sizeof line)) assert_true(++n < 100);
    assert_true(n >= QUEUE_BYTES / sizeof line - 1);
    toolsvc_child_close(r->child);
}

static void it_may_be_closed_from_its_own_line(void **state) {
    rig *r = *state;
    r->close_at_line = true;
    start(r, "echo one; echo two; exec cat");
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_string_equal(r->lines.ptr, "one\n");
}

static void a_program_that_ignores_signals_is_killed_with_all_that_it_started(void **state) {
    rig *r = *state;
    start(r, "trap '' TERM; sleep 1000 & echo $! > near; setsid sh -c 'sleep 1000 & echo $! > far' & "
             "while :; do sleep 1; done");
    pid_t near = process_in(r, "near"), far = process_in(r, "far");
    toolsvc_child_close(r->child);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(kill(near, 0), -1);
    assert_int_equal(kill(far, 0), -1);
}

static void what_a_program_leaves_behind_goes_with_it(void **state) {
    rig *r = *state;
    start(r, "setsid sh -c 'sleep 1000 & echo $! > far'; exit 0");
    assert_string_equal(await_end(r), "ended with status 0");
    assert_int_equal(kill(process_in(r, "far"), 0), -1);
}

static void nothing_outlives_a_rank_that_is_killed(void **state) {
    rig *r = *state;
    pid_t rank = fork();
    if (rank == 0) {
        start(r, "trap '' TERM; echo $$ > self; setsid sh -c 'sleep 1000 & echo $! > far'; while :; do sleep 1; done");
        for (;;) pause();
    }
    pid_t self = process_in(r, "self"), far = process_in(r, "far");
    kill(rank, SIGKILL);
    waitpid(rank, NULL, 0);
    assert_goes(self);
    assert_goes(far);
}

static void no_descriptor_is_passed_on_or_left(void **state) {
    rig *r = *state;
    start(r, "exit 0");
    await_end(r); /* libuv opens a spare descriptor with its first pipe */
    free(r->config.command);
    toolsvc_command_clean_up(&r->command);
    size_t before = descriptors();
    int open_one = open("/dev/null", O_RDONLY); /* without close-on-exec */
    start(r, "ls -l /proc/self/fd | grep -vc '/proc/' ; exec cat");
    await_lines(r, 1);
    assert_string_equal(r->lines.ptr, "4\n"); /* 0, 1, 2 and the line "total" */
    close(open_one);
    toolsvc_child_close(r->child);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_int_equal(descriptors(), before);
}

/* Runs the loop to the end of the program, and returns what came to our standard error meanwhile. */
static void await_end_with_log(rig *r, char *text, size_t size) {
    char path[128];
    snprintf(path, sizeof path, "%s/log", r->folder);
    fflush(stderr);
    int kept = dup(2), log = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(log, 2);
    await_end(r);
    dup2(kept, 2);
    ssize_t n = pread(log, text, size - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    close(kept), close(log);
}

static void its_standard_error_is_logged_without_secrets(void **state) {
    rig *r = *state;
    char log[8192];
    setenv("RLF_TEST_KEY", "correct-horse", 1);
    r->config.secrets = "[\"RLF_TEST_KEY\"]";
    r->config.env = "{\"KEY\": \"${RLF_TEST_KEY}\", \"HOME\": \"/nowhere\"}";
    start(r, "echo \"the key is $KEY, home $HOME, ${RLF_TEST_KEY:-none}\" >&2");
    await_end_with_log(r, log, sizeof log);
    assert_non_null(strstr(log, "info  mine: the key is [secret], home /nowhere, none\n"));
    assert_null(strstr(log, "correct-horse"));
    assert_string_equal(r->why, "ended with status 0; its last words: the key is [secret], home /nowhere, none");
}

static void a_flood_on_its_standard_error_is_cut(void **state) {
    rig *r = *state;
    static char log[1 << 20];
    start(r, "i=0; while [ $i -lt 5000 ]; do echo \"line $i\" >&2; i=$((i+1)); done; head -c 100000 /dev/zero | tr '\\0' x >&2");
    await_end_with_log(r, log, sizeof log);
    size_t lines = 0;
    for (const char *at = log; (at = strstr(at, "mine: line ")); at++) lines++;
    assert_in_range(lines, 100, 1000);
    assert_non_null(strstr(log, "more lines of its standard error are left out\n"));
    assert_in_range(strlen(r->why), 500, 600);
}

static void memory_of_its_processes_is_bounded(void **state) {
    rig *r = *state;
    r->config.memory_mb = 64;
    start(r, "dd if=/dev/zero of=/dev/null bs=32M count=1 2>/dev/null && echo little; "
             "dd if=/dev/zero of=/dev/null bs=128M count=1 2>/dev/null || echo much");
    await_end(r);
    assert_string_equal(r->lines.ptr, "little\nmuch\n");
}

static void a_program_that_cannot_run_is_named(void **state) {
    rig *r = *state;
    r->config.command = rlf_strdup("[\"./nothing\", \"here\"]");
    assert_int_equal(try_start(r), RLF_NOT_FOUND);
    assert_string_equal(rlf_error_message(), "./nothing: No such file or directory");
    toolsvc_command_clean_up(&r->command);
    r->config.cwd = "/nonexistent";
    assert_int_equal(try_start(r), RLF_NOT_FOUND);
    assert_string_equal(rlf_error_message(), "/nonexistent: No such file or directory");
}

static void a_wrong_command_is_refused(void **state) {
    rig *r = *state;
    static const char *const wrong[] = {"", "[]", "\"ls\"", "[1]", "[\"\"]", "[\"ls\", {}]"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        rlf_tool_config config = {.command = (char *)wrong[i]};
        assert_error(toolsvc_command_init(&r->command, &config), RLF_INVALID,
                     "key \"command\": a list of 1 to 1024 texts was expected");
    }
    rlf_tool_config config = {.command = "[\"ls\"]", .env = "{\"A=B\": \"c\"}"};
    assert_int_equal(toolsvc_command_init(&r->command, &config), RLF_INVALID);
    assert_string_equal(rlf_error_message(), "key \"env\": \"A=B\": a text was expected");
    config.env = "{\"A\": \"${NOT_LISTED}\"}";
    assert_int_equal(toolsvc_command_init(&r->command, &config), RLF_INVALID);
    assert_string_equal(rlf_error_message(), "key \"env\": ${NOT_LISTED} is not in the list of key \"secrets\"");
}

int main(void) {
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(lines_go_in_and_come_out),
        CASE(lines_longer_than_a_read_arrive_whole),
        CASE(an_end_is_told_with_its_status_and_last_words_after_the_last_line),
        CASE(an_end_by_a_signal_is_told),
        CASE(an_endless_line_ends_the_program),
        CASE(a_program_that_closes_its_output_is_ended),
        CASE(what_waits_for_a_program_that_does_not_read_is_bounded),
        CASE(it_may_be_closed_from_its_own_line),
        CASE(a_program_that_ignores_signals_is_killed_with_all_that_it_started),
        CASE(what_a_program_leaves_behind_goes_with_it),
        CASE(nothing_outlives_a_rank_that_is_killed),
        CASE(no_descriptor_is_passed_on_or_left),
        CASE(its_standard_error_is_logged_without_secrets),
        CASE(a_flood_on_its_standard_error_is_cut),
        CASE(memory_of_its_processes_is_bounded),
        CASE(a_program_that_cannot_run_is_named),
        CASE(a_wrong_command_is_refused),
    };
    return cmocka_run_group_tests_name("child", tests, NULL, NULL);
}
