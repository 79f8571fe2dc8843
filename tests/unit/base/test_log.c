/* The log: one line, in one write, with rank and role, and nothing below the level asked for. */
#include "tests/test.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/base/log.h"

/* What one call writes to standard error. */
static size_t captured(rlf_log_level level, const char *text, char *out, size_t cap) {
    int ends[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    rlf_log(level, "%s", text);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    ssize_t n = read(ends[0], out, cap - 1);
    close(ends[0]);
    close(ends[1]);
    close(saved);
    out[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

static void a_line_tells_time_rank_role_and_level(void **state) {
    char line[4096];
    (void)state;
    rlf_log_init(2, "rollout", RLF_LOG_INFO);
    captured(RLF_LOG_WARN, "disk is slow", line, sizeof line);
    assert_int_equal(line[2], ':');
    assert_string_equal(line + strlen("12:00:01.123 "), "rank 2 rollout     warn  disk is slow\n");
}

static void lower_levels_are_silent(void **state) {
    char line[4096];
    (void)state;
    rlf_log_init(-1, "", RLF_LOG_WARN);
    assert_int_equal(captured(RLF_LOG_INFO, "chatter", line, sizeof line), 0);
    captured(RLF_LOG_ERROR, "trouble", line, sizeof line);
    assert_string_equal(line + strlen("12:00:01.123 "), "error trouble\n");
}

static void a_long_line_is_cut_and_still_ends(void **state) {
    char line[4096], text[6000];
    (void)state;
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    size_t n = captured(RLF_LOG_ERROR, text, line, sizeof line);
    assert_in_range(n, 2000, 2048);
    assert_int_equal(line[n - 1], '\n');
    assert_ptr_equal(strchr(line, '\n'), line + n - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_tells_time_rank_role_and_level),
        cmocka_unit_test(lower_levels_are_silent),
        cmocka_unit_test(a_long_line_is_cut_and_still_ends),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
