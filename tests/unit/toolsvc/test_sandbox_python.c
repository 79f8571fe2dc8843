/* The interpreter: state, text, limits, the pool. Each test runs with namespaces and, the same, without; where the machine lacks what a
 * mode needs, its tests are skipped and say what is missing. test_sandbox_escapes.c holds what tries to get out. */
#include "tests/test.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/unit/toolsvc/python_rig.h"

typedef struct fixture {
    rig r;
    toolsvc_python_session *s;
    answer a;
} fixture;

static bool g_namespaces;

static int setup(void **state) {
    static fixture f;
    const char *missing = rig_missing(g_namespaces);
    toolsvc_python_options options = rig_options(g_namespaces);
    *state = NULL;
    if (missing) {
        fprintf(stderr, "skipped: %s\n", missing);
        return 0;
    }
    rig_start(&f.r, &options);
    f.s = toolsvc_python_open(f.r.python, 42);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    if (!f) return 0;
    int left = rig_stop(&f->r);
    return left ? left : (int)rig_descendants();
}

static fixture *fixture_or_skip(void **state) {
    if (!*state) skip();
    return *state;
}

static const char *run(fixture *f, const char *code) {
    rig_run(&f->r, f->s, code, 20000, &f->a);
    return f->a.text;
}

static void variables_functions_and_imports_survive_from_call_to_call(void **state) {
    fixture *f = fixture_or_skip(state);
    assert_string_equal(run(f, "import math\nx = 20\ndef twice(n):\n    return 2 * n\n"), "");
    assert_int_equal(f->a.outcome, TOOLSVC_PYTHON_DONE);
    assert_string_equal(run(f, "twice(x) + int(math.sqrt(4))"), "42\n");
}

static void the_value_of_the_last_expression_follows_what_was_printed(void **state) {
    fixture *f = fixture_or_skip(state);
    assert_string_equal(run(f, "print('a')\n'b'"), "a\n'b'\n");
    assert_string_equal(run(f, "None"), "");
    assert_string_equal(run(f, "x = 1; x"), "1\n");
    assert_string_equal(run(f, ""), "");
}

static void standard_error_and_programs_started_are_part_of_the_text(void **state) {
    fixture *f = fixture_or_skip(state);
    assert_string_equal(run(f, "import os, sys\nsys.stderr.write('e\\n')\nos.system('echo from a shell')\nprint('last')"),
                        "e\nfrom a shell\nlast\n");
}

static void an_exception_is_told_with_the_lines_of_the_code_alone(void **state) {
    fixture *f = fixture_or_skip(state);
    const char *text = run(f, "def f(a):\n    return 1 / a\nf(0)");
    assert_int_equal(f->a.outcome, TOOLSVC_PYTHON_RAISED);
    assert_non_null(strstr(text, "File \"<call 1>\", line 2, in f"));
    assert_non_null(strstr(text, "return 1 / a"));
    assert_non_null(strstr(text, "ZeroDivisionError: division by zero\n"));
    assert_null(strstr(text, "serve"));
    text = run(f, "1 +");
    assert_int_equal(f->a.outcome, TOOLSVC_PYTHON_RAISED);
    assert_non_null(strstr(text, "SyntaxError"));
    assert_null(strstr(text, "Traceback"));
    assert_string_equal(run(f, "import sys; x = 5; sys.exit(3)"), "");
    assert_string_equal(run(f, "x"), "5\n");
}

static void a_call_past_its_wall_limit_loses_the_state_and_keeps_its_text(void **state) {
    fixture *f = fixture_or_skip(state);
    run(f, "x = 1");
    rig_run(&f->r, f->s, "print('begun')\nwhile True: pass", 300, &f->a);
    assert_int_equal(f->a.outcome, TOOLSVC_PYTHON_LOST);
    assert_string_equal(f->a.text, "begun\n[stopped: not done after 300 ms; its variables are lost]\n");
    assert_string_equal(run(f, "'x' in globals()"), "[a new interpreter: variables of earlier calls are lost]\nFalse\n");
    assert_string_equal(run(f, "1"), "1\n");
}

static void an_interpreter_that_ends_by_itself_says_how(void **state) {
    fixture *f = fixture_or_skip(state);
    assert_string_equal(run(f, "import os; print('bye'); os._exit(3)"), "bye\n[the interpreter exited with status 3; its variables are lost]\n");
    assert_int_equal(f->a.outcome, TOOLSVC_PYTHON_LOST);
    assert_non_null(strstr(run(f, "import ctypes; ctypes.string_at(0)"), "ended by signal 11"));
}

static void long_output_is_cut_and_counted(void **state) {
    fixture *f = fixture_or_skip(state);
    const char *text = run(f, "print('x' * 9999)");
    assert_int_equal(f->a.outcome, TOOLSVC_PYTHON_DONE);
    assert_int_equal(strspn(text, "x"), 4096);
    assert_string_equal(text + 4096, "\n[cut: 10000 bytes were printed]\n");
}

static void calls_of_a_session_run_in_order_and_cancelling_one_that_waits_leaves_the_others(void **state) {
    fixture *f = fixture_or_skip(state);
    answer a[3] = {0};
    uint64_t number[3];
    static const char *const code[] = {"x = [0]", "x.append(1)", "x.append(2); x"};
    for (size_t i = 0; i < 3; i++) number[i] = toolsvc_python_run(f->s, code[i], strlen(code[i]), 0, rig_done, &a[i]);
    toolsvc_python_cancel(f->s, number[1]);
    toolsvc_python_cancel(f->s, 99);
    rig_await(&f->r, &a[2].here);
    assert_true(a[0].here);
    assert_false(a[1].here);
    assert_string_equal(a[2].text, "[0, 2]\n");
}

static void a_cancelled_call_that_runs_takes_the_interpreter_along(void **state) {
    fixture *f = fixture_or_skip(state);
    answer never = {0};
    run(f, "x = 1");
    uint64_t number = toolsvc_python_run(f->s, "while True: pass", 16, 0, rig_done, &never);
    toolsvc_python_cancel(f->s, number);
    assert_string_equal(run(f, "2"), "[a new interpreter: variables of earlier calls are lost]\n2\n");
    assert_false(never.here);
}

static void sessions_share_nothing(void **state) {
    fixture *f = fixture_or_skip(state);
    toolsvc_python_session *other = toolsvc_python_open(f->r.python, 43);
    answer b;
    run(f, "x = 1; open('mine', 'w').write('secret')");
    rig_run(&f->r, other, "import os; 'x' in globals(), os.listdir('.')", 20000, &b);
    assert_string_equal(b.text, "(False, [])\n");
    toolsvc_python_close(other);
    assert_string_equal(run(f, "x"), "1\n");
}

static void the_same_code_and_seed_give_the_same_text(void **state) {
    fixture *f = fixture_or_skip(state);
    static const char code[] = "import random\nclass C: pass\nprint(random.random(), hash('a'), {'a', 'b', 'c', 'd'}, C(), object(), set([C(), C(), C()]))";
    static char first[sizeof((answer *)0)->text];
    snprintf(first, sizeof first, "%s", run(f, code));
    assert_int_equal(f->a.outcome, TOOLSVC_PYTHON_DONE);
    for (int64_t seed = 42; seed <= 43; seed++) {
        toolsvc_python_session *again = toolsvc_python_open(f->r.python, seed);
        answer b;
        rig_run(&f->r, again, code, 20000, &b);
        if (seed == 42) assert_string_equal(b.text, first);
        else assert_string_not_equal(b.text, first);
        toolsvc_python_close(again);
    }
}

static void many_sessions_at_once_each_get_their_own_answer(void **state) {
    enum { MANY = 24 };
    fixture *f = fixture_or_skip(state);
    toolsvc_python_session *s[MANY];
    static answer a[MANY];
    char code[32], expected[32];
    memset(a, 0, sizeof a);
    for (int i = 0; i < MANY; i++) {
        s[i] = toolsvc_python_open(f->r.python, i);
        int n = snprintf(code, sizeof code, "%d * 1000", i);
        toolsvc_python_run(s[i], code, (size_t)n, 0, rig_done, &a[i]);
    }
    for (int i = 0; i < MANY; i++) {
        rig_await(&f->r, &a[i].here);
        snprintf(expected, sizeof expected, "%d\n", i * 1000);
        assert_string_equal(a[i].text, expected);
        toolsvc_python_close(s[i]);
    }
    rig_settle(&f->r, 2, 2);
    assert_int_equal(toolsvc_python_alive(f->r.python), 2);
}

static void destroying_the_pool_while_calls_run_leaves_nothing(void **state) {
    fixture *f = fixture_or_skip(state);
    answer never = {0};
    run(f, "import os\nfor i in range(3):\n    if os.fork() == 0:\n        while True: pass");
    toolsvc_python_run(f->s, "while True: pass", 16, 0, rig_done, &never);
    uv_run(&f->r.loop, UV_RUN_NOWAIT); /* the teardown does the rest */
    assert_false(never.here);
}

static void code_makes_no_children_of_ours(void **state) {
    fixture *f = fixture_or_skip(state);
    char code[160];
    snprintf(code, sizeof code, "import ctypes, os\nr = ctypes.CDLL(None).syscall(%d, %d, 0, 0, 0, 0)\nif r == 0: os._exit(0)\nr",
             (int)SYS_clone, CLONE_PARENT | SIGCHLD);
    assert_string_equal(run(f, code), "-1\n");
}

/* The rank's part: interpreters, one of them busy, until it is killed. */
static void be_a_rank(int ready) {
    rig r;
    toolsvc_python_options options = rig_options(g_namespaces);
    rig_start(&r, &options);
    rig_settle(&r, 2, 2);
    toolsvc_python_session *s = toolsvc_python_open(r.python, 1);
    answer never = {0};
    toolsvc_python_run(s, "while True: pass", 16, 0, rig_done, &never);
    uv_run(&r.loop, UV_RUN_NOWAIT);
    if (write(ready, "r", 1) != 1) abort();
    rig_await(&r, &never.here);
}

static void a_killed_rank_takes_its_interpreters_along(void **state) {
    fixture_or_skip(state);
    size_t before = rig_descendants();
    int ready[2];
    char c;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* what it leaves behind becomes ours, and is seen */
    assert_int_equal(pipe(ready), 0);
    pid_t rank = fork();
    if (rank == 0) be_a_rank(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_true(rig_descendants() >= before + 3);
    kill(rank, SIGKILL);
    waitpid(rank, NULL, 0);
    for (int64_t end = rlf_now_ms() + 20000; rig_descendants() > before && rlf_now_ms() < end; rlf_sleep_us(1000))
        waitpid(-1, NULL, WNOHANG); /* those of the fixture do not end here */
    assert_int_equal(rig_descendants(), before);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    close(ready[0]), close(ready[1]);
}

static void errors_of_the_configuration_are_told(void **state) {
    (void)state;
    toolsvc_python_options options = rig_options(g_namespaces);
    options.interpreter = "python3";
    assert_int_equal(rig_try(&options), RLF_INVALID);
    options.interpreter = "/nonexistent/python3";
    assert_error(rig_try(&options), RLF_NOT_FOUND, "/nonexistent/python3");
    options.interpreter = "/bin/false";
    if (rig_missing(g_namespaces)) skip();
    assert_int_equal(rig_try(&options), RLF_IO);
}

int main(void) {
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(variables_functions_and_imports_survive_from_call_to_call),
        CASE(the_value_of_the_last_expression_follows_what_was_printed),
        CASE(standard_error_and_programs_started_are_part_of_the_text),
        CASE(an_exception_is_told_with_the_lines_of_the_code_alone),
        CASE(a_call_past_its_wall_limit_loses_the_state_and_keeps_its_text),
        CASE(an_interpreter_that_ends_by_itself_says_how),
        CASE(long_output_is_cut_and_counted),
        CASE(calls_of_a_session_run_in_order_and_cancelling_one_that_waits_leaves_the_others),
        CASE(a_cancelled_call_that_runs_takes_the_interpreter_along),
        CASE(sessions_share_nothing),
        CASE(the_same_code_and_seed_give_the_same_text),
        CASE(many_sessions_at_once_each_get_their_own_answer),
        CASE(destroying_the_pool_while_calls_run_leaves_nothing),
        CASE(code_makes_no_children_of_ours),
        CASE(a_killed_rank_takes_its_interpreters_along),
        CASE(errors_of_the_configuration_are_told),
    };
    g_namespaces = true;
    int failed = cmocka_run_group_tests_name("with namespaces", tests, NULL, NULL);
    g_namespaces = false;
    return failed + cmocka_run_group_tests_name("sandbox: none", tests, NULL, NULL);
}
