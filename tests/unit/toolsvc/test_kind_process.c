/* The kind "process" behind its dispatch, with a real program (tests/peers/lines_tool.c) that keeps the protocol, or breaks it. */
#include <signal.h>

#include "tests/unit/toolsvc/tool_rig.h"
#include "toolsvc/kinds/process_lines.h"

#define PROGRAM(how) "[\"" RLF_LINES_TOOL "\", \"" how "\"]"
#define SCHEMA "{\"type\": \"object\", \"properties\": {\"what\": {\"type\": \"string\"}}, \"required\": [\"what\"]}"

static rlf_tool_config tool(void) {
    rlf_tool_config t = rig_tool("mine", "process");
    t.command = PROGRAM("describe");
    return t;
}

static void a_program_tells_its_functions_and_answers(void **state) {
    rig_start(state, tool());
    assert_int_equal(g->tools.n_functions, 3);
    assert_string_equal(g->tools.functions[1].name, "do_too");
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"echo\", \"text\": \"h\\u00e9llo \\n\"}"), "h\xc3\xa9llo \n");
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"echo\", \"text\": [0.1, {\"a\": null}]}"), "[0.1,{\"a\":null}]");
    rig_ask(g, 0, 0, "{\"what\": \"fail\"}");
    rig_assert(0, RLF_CALL_TOOL_ERROR, "error: no such thing");
    rig_ask(g, 0, 0, "{\"what\": \"infra\"}");
    rig_assert(0, RLF_CALL_INFRA, "error: out of order");
}

static void the_configuration_may_tell_the_function(void **state) {
    rlf_tool_config t = tool();
    t.schema = SCHEMA, t.command = PROGRAM("silent"), t.description = "Does it.";
    rig_start(state, t);
    assert_string_equal(g->tools.functions[0].name, "mine");
    assert_string_equal(g->tools.functions[0].description, "Does it.");
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"echo\", \"text\": \"yes\"}"), "yes");
}

static void many_calls_in_flight_are_answered_in_any_order(void **state) {
    rig_start(state, tool());
    char arguments[64];
    for (int i = 0; i < 400; i++) {
        snprintf(arguments, sizeof arguments, "{\"what\": \"keep\", \"text\": \"%d\"}", i);
        rig_submit(g, i, 0, arguments);
    }
    rig_ask(g, 400, 0, "{\"what\": \"release\"}");
    rig_await(g, 0, 400);
    for (int i = 0; i < 400; i++) assert_int_equal(atoi(g->calls[i].text), i);
    assert_int_equal(rig_count(g, "runs"), 401);
}

static void calls_go_out_together_where_the_configuration_says_so(void **state) {
    rlf_tool_config t = tool();
    t.batch = 16, t.batch_ms = 1000;
    rig_start(state, t);
    for (int i = 0; i < 48; i++) rig_submit(g, i, 0, "{\"what\": \"echo\", \"text\": \"x\"}");
    rig_await(g, 0, 48);
    for (int i = 0; i < 48; i++) rig_assert(i, RLF_CALL_OK, "x");
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"count\"}"),
                        "{\"opens\":0,\"closes\":0,\"cancels\":0,\"batches\":3,\"largest\":16,\"alive\":0}");
}

static void an_episode_has_state_with_its_seed_and_row(void **state) {
    rlf_tool_config t = tool();
    t.state = "episode", t.workers = 3;
    rig_start(state, t);
    rig_turn(g, 100); /* all three are up */
    for (int turn = 1; turn <= 3; turn++) {
        for (int e = 0; e < RIG_EPISODES; e++) rig_submit(g, e, e, "{\"what\": \"add\"}");
        rig_await(g, 0, RIG_EPISODES);
        for (int e = 0; e < RIG_EPISODES; e++) {
            char expected[64];
            snprintf(expected, sizeof expected, "{\"n\":%d,\"extra\":{\"row\":%d}}", e * 100 + turn, e);
            assert_string_equal(g->calls[e].text, expected);
        }
    }
    for (int e = 1; e < RIG_EPISODES; e++) {
        toolsvc_sessions_close(g->sessions[e]);
        g->sessions[e] = NULL;
    }
    assert_non_null(strstr(rig_ask(g, 0, 0, "{\"what\": \"count\"}"), "\"alive\":1}"));
    assert_null(strstr(g->calls[0].text, "\"opens\":1,")); /* they were shared out, with more than one for each program */
}

static void calls_of_one_episode_keep_their_order(void **state) {
    rlf_tool_config t = tool();
    t.state = "episode", t.batch = 8, t.batch_ms = 100;
    rig_start(state, t);
    for (int i = 0; i < 10; i++) rig_submit(g, i, 0, "{\"what\": \"add\"}");
    rig_await(g, 0, 10);
    for (int i = 0; i < 10; i++) assert_int_equal(atoi(g->calls[i].text + strlen("{\"n\":")), i + 1);
}

static void a_death_fails_what_was_under_way_and_the_program_is_back(void **state) {
    rig_start(state, tool());
    for (int i = 0; i < 5; i++) rig_submit(g, i, 0, "{\"what\": \"keep\", \"text\": \"\"}");
    rig_submit(g, 5, 0, "{\"what\": \"die\"}");
    rig_await(g, 0, 6);
    for (int i = 0; i < 6; i++) rig_assert(i, RLF_CALL_INFRA, "error: the program ended with status 3; its last words: no more");
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"echo\", \"text\": \"back\"}"), "back");
    assert_int_equal(rig_count(g, "programs_ended"), 1);
    assert_int_equal(rig_count(g, "infra_errors"), 6);
}

static void a_retry_meets_the_new_program(void **state) {
    rlf_tool_config t = tool();
    t.retries = 2;
    rig_start(state, t);
    pid_t process = atoi(rig_ask(g, 1, 0, "{\"what\": \"pid\"}"));
    rig_submit(g, 0, 0, "{\"what\": \"keep\", \"text\": \"kept\"}");
    rig_turn(g, 20);
    assert_int_equal(kill(process, SIGKILL), 0);
    while (rig_count(g, "runs") < 3) rig_turn(g, 1);
    rig_ask(g, 2, 0, "{\"what\": \"release\"}");
    rig_await(g, 0, 1);
    rig_assert(0, RLF_CALL_OK, "kept");
    assert_int_equal(rig_count(g, "programs_ended"), 1);
}

static void a_death_takes_the_state_of_its_episodes_along(void **state) {
    rlf_tool_config t = tool();
    t.state = "episode";
    rig_start(state, t);
    rig_ask(g, 0, 1, "{\"what\": \"add\"}");
    rig_ask(g, 0, 2, "{\"what\": \"die\"}");
    rig_ask(g, 0, 1, "{\"what\": \"add\"}");
    rig_assert(0, RLF_CALL_INFRA, "error: the program that kept this episode's state ended with status 3; its last words: no more");
    assert_int_equal(rig_count(g, "state_lost"), 1);
    assert_string_equal(rig_ask(g, 0, 3, "{\"what\": \"add\"}"), "{\"n\":301,\"extra\":{\"row\":3}}");
}

static void garbage_is_an_infrastructure_error_and_counted(void **state) {
    rig_start(state, tool());
    rig_submit(g, 0, 0, "{\"what\": \"keep\", \"text\": \"\"}");
    rig_submit(g, 1, 0, "{\"what\": \"garbage\"}");
    rig_await(g, 0, 2);
    for (int i = 0; i < 2; i++)
        rig_assert(i, RLF_CALL_INFRA, "error: the program wrote a line that is no answer: Traceback: \xef\xbf\xbd oh");
    rig_ask(g, 0, 0, "{\"what\": \"stranger\"}");
    assert_int_equal(g->calls[0].status, RLF_CALL_INFRA);
    assert_int_equal(rig_count(g, "garbage_lines"), 2);
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"echo\", \"text\": \"back\"}"), "back");
}

static void a_program_that_closes_its_output_or_never_ends_a_line_is_started_again(void **state) {
    rig_start(state, tool());
    rig_ask(g, 0, 0, "{\"what\": \"mute\"}");
    rig_assert(0, RLF_CALL_INFRA, "error: the program closed its standard output");
    rig_ask(g, 0, 0, "{\"what\": \"endless\"}");
    rig_assert(0, RLF_CALL_INFRA, "error: the program wrote a line of more than 1048576 bytes");
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"echo\", \"text\": \"back\"}"), "back");
}

static void a_program_that_hangs_is_started_again_when_a_call_runs_out_of_time(void **state) {
    rlf_tool_config t = tool();
    t.timeout_ms = 100;
    rig_start(state, t);
    rig_submit(g, 0, 0, "{\"what\": \"deaf\"}");
    rig_submit(g, 1, 0, "{\"what\": \"echo\", \"text\": \"\"}");
    rig_turn(g, 150);
    toolsvc_dispatch_leave(&g->calls[0].waiter, true);
    rig_await(g, 1, 2);
    rig_assert(1, RLF_CALL_INFRA, "error: the program gave no answer in time");
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"echo\", \"text\": \"back\"}"), "back");
    assert_int_equal(rig_count(g, "programs_stuck"), 1);
}

static void a_call_given_up_is_cancelled_and_its_late_answer_is_not_garbage(void **state) {
    rig_start(state, tool());
    rig_submit(g, 0, 0, "{\"what\": \"keep\", \"text\": \"late\"}");
    rig_turn(g, 20);
    toolsvc_dispatch_leave(&g->calls[0].waiter, false);
    assert_string_equal(rig_ask(g, 1, 0, "{\"what\": \"release\"}"), "released");
    assert_non_null(strstr(rig_ask(g, 1, 0, "{\"what\": \"count\"}"), "\"cancels\":1,"));
    assert_int_equal(rig_count(g, "garbage_lines"), 0);
}

static void while_no_program_stays_up_calls_fail(void **state) {
    rlf_tool_config t = tool();
    t.schema = SCHEMA, t.command = PROGRAM("ends");
    rig_start(state, t);
    rig_ask(g, 0, 0, "{\"what\": \"echo\"}");
    assert_int_equal(g->calls[0].status, RLF_CALL_INFRA);
    assert_non_null(strstr(g->calls[0].text, "ended with status 2; its last words: cannot load the model"));
    assert_true(rig_count(g, "programs_ended") < 10);
}

static void an_answer_holds_no_secret(void **state) {
    rlf_tool_config t = tool();
    setenv("RLF_TEST_KEY", "correct-horse", 1);
    t.secrets = "[\"RLF_TEST_KEY\"]", t.env = "{\"KEY\": \"${RLF_TEST_KEY}\"}";
    rig_start(state, t);
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"key\"}"), "[secret]");
}

static void what_is_wrong_with_a_program_is_told_before_the_start(void **state) {
    rlf_tool_config t = tool();
    (void)state;
    t.command = "[\"./nothing\"]";
    rig_refuses(t, "tools[0] (mine): key \"command\": ./nothing: No such file or directory");
    t.command = PROGRAM("ends");
    rig_refuses(t, "tools[0] (mine): key \"command\": asked for its functions, the program ended with status 2; its last words: cannot "
                "load the model");
    t.command = PROGRAM("none");
    rig_refuses(t, "tools[0] (mine): key \"command\": the program offers no function");
    t.command = PROGRAM("refuses"), t.start_ms = 60000;
    rig_refuses(t, "tools[0] (mine): key \"command\": asked for its functions, the program wrote a line that is no answer: "
                   "{\"id\":1,\"error\":\"not today\"}");
    t.command = PROGRAM("silent"), t.start_ms = 200;
    rig_refuses(t, "tools[0] (mine): key \"command\": the program did not tell its functions within 200 ms (key start_ms)");
}

/* ---- lines ------------------------------------------------------------------------------------------------------------------------- */

typedef struct seen {
    size_t n, stop_after;
    uint64_t ids[8];
} seen;

static bool see(void *user, const toolsvc_process_answer *a) {
    seen *s = user;
    s->ids[s->n++] = a->id;
    return s->n != s->stop_after;
}

static bool reads(const char *line, seen *s) {
    *s = (seen){.stop_after = s->stop_after};
    return toolsvc_process_read(line, strlen(line), see, s);
}

static void a_line_holds_one_answer_or_several(void **state) {
    seen s = {0};
    (void)state;
    assert_true(reads("{\"id\": 7, \"result\": null}", &s));
    assert_int_equal(s.ids[0], 7);
    assert_true(reads(" [{\"id\": 1, \"error\": \"\"}, {\"id\": 2, \"infra_error\": {}}, {\"id\": 3, \"functions\": []}]\r", &s));
    assert_int_equal(s.n, 3);
    s.stop_after = 2;
    assert_true(reads("[{\"id\": 1, \"error\": \"\"}, {\"id\": 2, \"result\": {}}, {\"id\": 3, \"result\": []}]", &s));
    assert_int_equal(s.n, 2);
}

static bool see_text(void *user, const toolsvc_process_answer *a) {
    toolsvc_process_text(a->value, user);
    return true;
}

static void values_that_are_rare_in_json_are_no_garbage(void **state) {
    static const char line[] =
        "{\"id\": 7, \"result\": [18446744073709551615, \"a\\u0000b\", \"\\ud83d \\uDE00 \\ud83d\\ude00 \\\\ud83d\"]}";
    rlf_str text = {0};
    (void)state;
    assert_true(toolsvc_process_read(line, strlen(line), see_text, &text));
    assert_string_equal(text.ptr,
                        "[1.8446744073709552e+19,\"a\\u0000b\",\"\xef\xbf\xbd \xef\xbf\xbd \xf0\x9f\x98\x80 \\\\ud83d\"]");
    rlf_str_clean_up(&text);
}

static void anything_else_is_garbage(void **state) {
    static const char *const lines[] = {
        "", "x", "7", "[]", "{}", "{\"id\": 1}", "{\"result\": 1}", "{\"id\": \"1\", \"result\": 1}",
        "{\"id\": 1, \"result\": 1, \"error\": 2}", "{\"id\": -1, \"result\": 1}", "{\"id\": 9007199254740992, \"result\": 1}",
        "{\"id\": 1.0, \"result\": 1}", "{\"id\": 1, \"functions\": {}}", "{\"id\": 1, \"functions\": [], \"result\": 1}",
        "{\"id\": 1, \"result\": 1", "{\"id\": 1, \"result\": 1} x", "[{\"id\": 1, \"result\": 1}, 2]",
        "{\"id\": 1, \"result\": \"\xff\"}", "{\"id\": 1, \"id\": 2, \"result\": 1}"};
    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        seen s = {0};
        if (reads(lines[i], &s) || s.n) fail_msg("taken for an answer: %s", lines[i]);
    }
}

int main(void) {
#define CASE(f) cmocka_unit_test_teardown(f, rig_end)
    const struct CMUnitTest tests[] = {
        CASE(a_program_tells_its_functions_and_answers),
        CASE(the_configuration_may_tell_the_function),
        CASE(many_calls_in_flight_are_answered_in_any_order),
        CASE(calls_go_out_together_where_the_configuration_says_so),
        CASE(an_episode_has_state_with_its_seed_and_row),
        CASE(calls_of_one_episode_keep_their_order),
        CASE(a_death_fails_what_was_under_way_and_the_program_is_back),
        CASE(a_retry_meets_the_new_program),
        CASE(a_death_takes_the_state_of_its_episodes_along),
        CASE(garbage_is_an_infrastructure_error_and_counted),
        CASE(a_program_that_closes_its_output_or_never_ends_a_line_is_started_again),
        CASE(a_program_that_hangs_is_started_again_when_a_call_runs_out_of_time),
        CASE(a_call_given_up_is_cancelled_and_its_late_answer_is_not_garbage),
        CASE(while_no_program_stays_up_calls_fail),
        CASE(an_answer_holds_no_secret),
        CASE(what_is_wrong_with_a_program_is_told_before_the_start),
        cmocka_unit_test(a_line_holds_one_answer_or_several),
        cmocka_unit_test(values_that_are_rare_in_json_are_no_garbage),
        cmocka_unit_test(anything_else_is_garbage),
    };
    return cmocka_run_group_tests_name("kind process", tests, NULL, NULL);
}
