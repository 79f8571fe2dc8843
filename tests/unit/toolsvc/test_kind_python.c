/* The kind "python" behind the service: state belongs to an episode, and ends with it, with a deadline, and with the service. */
#include "tests/test.h"

#include "common/config/config.h"
#include "tests/unit/toolsvc/python_rig.h"
#include "toolsvc/service.h"
#include "toolsvc/toolsvc.h"

enum { TIMEOUT_MS = 1500 };

typedef struct fixture {
    uv_loop_t loop;
    rlf_tool_config tool;
    rlf_config config;
    toolsvc_tools tools;
    toolsvc_service *service;
    size_t n;
    int64_t status; /* of the last answer */
    char text[4096];
} fixture;

static rlf_status catch_answer(void *user, int to, rlf_message_type type, const void *record) {
    fixture *f = user;
    const rlf_observation *o = record;
    (void)to;
    if (type != RLF_MSG_OBSERVATION) return RLF_OK;
    f->n++;
    f->status = o->status;
    snprintf(f->text, sizeof f->text, "%.*s", (int)o->text.len, o->text.ptr);
    return RLF_OK;
}

static rlf_tool_config tool_config(void) {
    return (rlf_tool_config){.name = "python", .kind = "python", .path = "", .description = "", .schema = "", .sandbox = "namespaces",
                             .memory_mb = 256, .processes = 16, .cpu_s = 20, .scratch_mb = 8, .output_bytes = 4096, .workers = 2,
                             .timeout_ms = TIMEOUT_MS, .concurrency = 64, .queue = 64};
}

static int setup(void **state) {
    static fixture f;
    const char *missing = rig_missing(true);
    *state = NULL;
    if (missing) {
        fprintf(stderr, "skipped: %s\n", missing);
        return 0;
    }
    f = (fixture){.tool = tool_config()};
    f.config = (rlf_config){.tools = &f.tool, .n_tools = 1};
    if (uv_loop_init(&f.loop) != 0 || toolsvc_tools_init(&f.tools, &f.loop, &f.config, NULL) != RLF_OK) return -1;
    toolsvc_service_new(&f.service, &f.loop, &f.config, &f.tools, catch_answer, &f);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    if (!f) return 0;
    if (!toolsvc_service_destroy(f->service, 5000)) return -1;
    toolsvc_tools_clean_up(&f->tools);
    int left = uv_loop_close(&f->loop);
    return left ? left : (int)rig_descendants();
}

static fixture *fixture_or_skip(void **state) {
    if (!*state) skip();
    return *state;
}

static void give(fixture *f, rlf_message_type type, const void *record) {
    rlf_str bytes = {0};
    rlf_message_encode(type, record, &bytes);
    toolsvc_service_handle(f->service, type, 5, bytes.ptr, bytes.len);
    rlf_str_clean_up(&bytes);
}

static void give_open(fixture *f, int64_t uid, int64_t attempt) {
    give(f, RLF_MSG_OPEN, &(rlf_open){.uid = uid, .attempt = attempt, .seed = 1, .extra = {"", 0}});
}

static void give_close(fixture *f, int64_t uid, int64_t attempt) {
    give(f, RLF_MSG_CLOSE, &(rlf_close){.uid = uid, .attempt = attempt});
}

static void give_call(fixture *f, int64_t uid, int64_t attempt, const char *code) {
    char arguments[512];
    snprintf(arguments, sizeof arguments, "{\"code\": \"%s\"}", code);
    give(f, RLF_MSG_CALL, &(rlf_call){.uid = uid, .attempt = attempt, .tool = rlf_slice_of("python"), .arguments = rlf_slice_of(arguments)});
}

static void await(fixture *f, size_t n) {
    for (int64_t deadline = rlf_now_ms() + 20000; f->n < n; rlf_sleep_us(100)) {
        assert_true(rlf_now_ms() < deadline);
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
}

static const char *call(fixture *f, int64_t uid, int64_t attempt, const char *code) {
    size_t n = f->n + 1;
    give_call(f, uid, attempt, code);
    await(f, n);
    return f->text;
}

static void state_is_kept_over_an_episode_and_goes_with_it(void **state) {
    fixture *f = fixture_or_skip(state);
    give_open(f, 1, 0);
    give_open(f, 2, 0);
    assert_string_equal(call(f, 1, 0, "x = 41"), "");
    assert_string_equal(call(f, 1, 0, "x + 1"), "42\n");
    assert_int_equal(f->status, RLF_CALL_OK);
    assert_string_equal(call(f, 2, 0, "'x' in globals()"), "False\n");
    give_close(f, 1, 0);
    give_open(f, 1, 0);
    assert_non_null(strstr(call(f, 1, 0, "x"), "NameError"));
    assert_int_equal(f->status, RLF_CALL_TOOL_ERROR);
}

static void several_calls_of_a_turn_run_in_their_order(void **state) {
    fixture *f = fixture_or_skip(state);
    give_open(f, 1, 0);
    give_call(f, 1, 0, "x = [1]");
    give_call(f, 1, 0, "x.append(2)");
    give_call(f, 1, 0, "x");
    await(f, 3);
    assert_string_equal(f->text, "[1, 2]\n");
}

static void a_deadline_ends_the_interpreter_and_the_next_answer_says_so(void **state) {
    fixture *f = fixture_or_skip(state);
    give_open(f, 1, 0);
    call(f, 1, 0, "x = 1");
    call(f, 1, 0, "while True: pass");
    assert_int_equal(f->status, RLF_CALL_TIMEOUT);
    assert_string_equal(call(f, 1, 0, "'x' in globals()"), "[a new interpreter: variables of earlier calls are lost]\nFalse\n");
}

static void draws_follow_the_episode_and_are_the_same_in_every_attempt(void **state) {
    fixture *f = fixture_or_skip(state);
    char first[64];
    give_open(f, 1, 0);
    give_open(f, 1, 1);
    give_open(f, 2, 0);
    snprintf(first, sizeof first, "%.60s", call(f, 1, 0, "import random; random.random()"));
    assert_string_equal(call(f, 1, 1, "import random; random.random()"), first);
    assert_string_not_equal(call(f, 2, 0, "import random; random.random()"), first);
}

static void an_episode_closed_in_the_middle_of_a_call_leaves_nothing_running(void **state) {
    fixture *f = fixture_or_skip(state);
    give_open(f, 1, 0);
    give_call(f, 1, 0, "import os; os.fork();\\nwhile True: pass");
    for (int i = 0; i < 50; i++) uv_run(&f->loop, UV_RUN_NOWAIT), rlf_sleep_us(1000);
    give_close(f, 1, 0);
    for (int64_t end = rlf_now_ms() + 20000; rig_descendants() != 2 && rlf_now_ms() < end;) uv_run(&f->loop, UV_RUN_NOWAIT);
    assert_int_equal(rig_descendants(), 2); /* the two that are kept ready */
    assert_int_equal(f->n, 0);
}

static void stopping_in_the_middle_of_a_call_leaves_nothing_running(void **state) {
    fixture *f = fixture_or_skip(state);
    give_open(f, 1, 0);
    give_call(f, 1, 0, "while True: pass");
    uv_run(&f->loop, UV_RUN_NOWAIT); /* the teardown does the rest */
    assert_int_equal(f->n, 0);
}

static void a_missing_interpreter_is_found_before_the_start(void **state) {
    (void)state;
    rlf_tool_config tool = tool_config();
    rlf_config config = {.tools = &tool, .n_tools = 1};
    tool.path = "/nonexistent/python3";
    rlf_str out = {0};
    assert_int_equal(toolsvc_describe(&config, &out), RLF_NOT_FOUND);
    rlf_str_clean_up(&out);
    assert_string_equal(rlf_error_message(), "tools[0] (python): /nonexistent/python3: No such file or directory");
}

int main(void) {
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(state_is_kept_over_an_episode_and_goes_with_it),
        CASE(several_calls_of_a_turn_run_in_their_order),
        CASE(a_deadline_ends_the_interpreter_and_the_next_answer_says_so),
        CASE(draws_follow_the_episode_and_are_the_same_in_every_attempt),
        CASE(an_episode_closed_in_the_middle_of_a_call_leaves_nothing_running),
        CASE(stopping_in_the_middle_of_a_call_leaves_nothing_running),
        cmocka_unit_test(a_missing_interpreter_is_found_before_the_start),
    };
    return cmocka_run_group_tests_name("kind python", tests, NULL, NULL);
}
