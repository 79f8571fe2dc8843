/* The kind mcp with servers that are programs (tests/peers/mcp_peer.c), from a job file on: what is offered, calls, state, crashes, secrets,
 * files of servers. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "toolsvc/dispatch.h"

#define PEER RLF_PEERS "/mcp_peer"

typedef struct rig {
    uv_loop_t loop;
    rlf_config config;
    toolsvc_tools tools;
    bool open;
} rig;

/* tools: YAML, a list. */
static rlf_status try_open(rig *r, const char *tools) {
    rlf_str text = {0};
    rlf_str_printf(&text, "mode: rl\noutput: o\nmodel: {path: m}\ndata: {train: t}\ntools:\n%s", tools);
    rlf_status status = rlf_config_parse(&r->config, text.ptr, text.len, "job.yaml", NULL, 0);
    rlf_str_clean_up(&text);
    if (status == RLF_OK) status = toolsvc_tools_init(&r->tools, &r->loop, &r->config, NULL);
    r->open = status == RLF_OK;
    return status;
}

static void open_tools(rig *r, const char *tools) {
    assert_ok(try_open(r, tools));
}

static void refused(rig *r, const char *tools, const char *message) {
    assert_int_not_equal(try_open(r, tools), RLF_OK);
    assert_string_equal(rlf_error_message(), message);
    rlf_config_clean_up(&r->config);
}

static int setup(void **state) {
    rig *r = rlf_calloc(1, sizeof *r);
    *state = r;
    return uv_loop_init(&r->loop);
}

static int teardown(void **state) {
    rig *r = *state;
    if (r->open) toolsvc_tools_clean_up(&r->tools);
    rlf_config_clean_up(&r->config);
    for (int i = 0; i < 1000 && uv_loop_alive(&r->loop); i++) uv_run(&r->loop, UV_RUN_ONCE);
    int left = uv_loop_close(&r->loop);
    free(r);
    return left;
}

static void expect(rig *r, const char *name, const char *arguments, rlf_call_status wanted, const char *text) {
    rlf_str out = {0};
    rlf_call_status status = toolsvc_call_once(&r->tools, name, arguments, &out);
    if (status != wanted || strcmp(out.ptr, text) != 0) fail_msg("%s, \"%s\" instead of \"%s\"", rlf_call_status_text(status), out.ptr, text);
    rlf_str_clean_up(&out);
}

static void names_of(const rig *r, rlf_str *out) {
    for (size_t i = 0; i < r->tools.n_functions; i++) rlf_str_printf(out, "%s%s", i ? " " : "", r->tools.functions[i].name);
}

static void expect_names(const rig *r, const char *wanted) {
    rlf_str names = {0};
    names_of(r, &names);
    assert_string_equal(names.ptr, wanted);
    rlf_str_clean_up(&names);
}

/* ---- what is offered ------------------------------------------------------------------------------------------------------------------- */

static void a_servers_functions_are_offered_by_name(void **state) {
    rig *r = *state;
    open_tools(r, "  - {name: peer, kind: mcp, command: [" PEER "]}\n");
    expect_names(r, "crash echo env fail note search sleep");
    assert_string_equal(r->tools.functions[1].description, "Says the text.");
    expect(r, "echo", "{\"text\": \"h\\u00e9\\n\\u0001\"}", RLF_CALL_OK, "h\xc3\xa9\n\x01");
    expect(r, "fail", "{\"text\": \"no\"}", RLF_CALL_TOOL_ERROR, "error: no");
    expect(r, "echo", "{\"text\": 1}", RLF_CALL_BAD_CALL,
           "error: the argument \"text\" of echo must be a string, not a number; its parameters are "
           "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"}},\"required\":[\"text\"]}");
}

static void functions_are_chosen_and_prefixed(void **state) {
    rig *r = *state;
    open_tools(r, "  - {name: a, kind: mcp, command: [" PEER "], functions: [note, echo]}\n"
                  "  - {name: b, kind: mcp, command: [" PEER "], functions: [echo], prefix: b_}\n");
    expect_names(r, "echo note b_echo");
    expect(r, "b_echo", "{\"text\": \"x\"}", RLF_CALL_OK, "x");
}

static void functions_that_clash_or_are_not_there_are_refused(void **state) {
    rig *r = *state;
    refused(r, "  - {name: a, kind: mcp, command: [" PEER "]}\n  - {name: b, kind: mcp, command: [" PEER "]}\n",
            "tools[1] (b): function \"crash\": the function \"crash\" is there twice: tools[0] (a) has it too (keys functions and prefix of "
            "kind mcp tell them apart)");
    refused(r, "  - {name: a, kind: mcp, command: [" PEER "], functions: [echo, grep]}\n",
            "tools[0] (a): key \"functions\": the server has no \"grep\"; it has: note, echo, sleep, crash, env, fail, search");
}

static void a_server_that_cannot_start_is_named(void **state) {
    rig *r = *state;
    refused(r, "  - {name: a, kind: mcp, command: [/nonexistent/server]}\n",
            "tools[0] (a): the MCP server cannot be used: /nonexistent/server: No such file or directory");
    refused(r, "  - {name: a, kind: mcp, command: [sh, -c, 'echo going >&2; exit 7']}\n",
            "tools[0] (a): the MCP server cannot be used: the server ended with status 7; its last words: going");
    refused(r, "  - {name: a, kind: mcp, start_ms: 200, command: [sleep, '10']}\n",
            "tools[0] (a): the MCP server cannot be used: the server was not ready within 200 ms");
}

static void lines_that_are_no_messages_are_passed_over(void **state) {
    rig *r = *state;
    open_tools(r, "  - {name: a, kind: mcp, command: [" PEER "], env: {PEER_PREFACE: \"Welcome! {\"}}\n");
    expect(r, "echo", "{\"text\": \"x\"}", RLF_CALL_OK, "x");
}

/* ---- calls through the dispatcher, as episodes make them ------------------------------------------------------------------------------ */

typedef struct answer {
    toolsvc_waiter waiter;
    bool done;
    rlf_call_status status;
    char text[512];
} answer;

static void on_done(toolsvc_waiter *waiter, rlf_call_status status, const rlf_str *text) {
    answer *a = (answer *)waiter;
    a->done = true;
    a->status = status;
    snprintf(a->text, sizeof a->text, "%s", text->ptr);
}

static void submit(rig *r, toolsvc_dispatch *d, toolsvc_session **sessions, const char *name, const char *arguments, answer *a) {
    size_t function;
    json_t *parsed;
    rlf_str error = {0};
    *a = (answer){.waiter.done = on_done};
    assert_int_equal(toolsvc_tools_check(&r->tools, NULL, rlf_slice_of(name), rlf_slice_of(arguments), &function, &parsed, &error), RLF_CALL_OK);
    rlf_str_clean_up(&error);
    toolsvc_dispatch_submit(d, function, parsed, sessions, &(toolsvc_origin){.extra = {"", 0}}, &a->waiter);
}

static void await(rig *r, answer *a, rlf_call_status wanted, const char *text) {
    for (int64_t end = rlf_now_ms() + 20000; !a->done;) {
        assert_true(rlf_now_ms() < end);
        uv_run(&r->loop, UV_RUN_ONCE);
    }
    if (a->status != wanted || strcmp(a->text, text) != 0)
        fail_msg("%s, \"%s\" instead of \"%s\"", rlf_call_status_text(a->status), a->text, text);
}

static void put_count(void *user, const char *name, int64_t n) { rlf_str_printf(user, "%s=%lld ", name, (long long)n); }

static void finish(rig *r, toolsvc_dispatch *d, const char *counts) {
    rlf_str text = {0};
    toolsvc_dispatch_each_count(d, 0, put_count, &text);
    if (counts) assert_string_equal(text.ptr, counts);
    rlf_str_clean_up(&text);
    while (!toolsvc_dispatch_destroy(d)) uv_run(&r->loop, UV_RUN_ONCE);
}

static void with_shared_state_all_calls_reach_one_server(void **state) {
    rig *r = *state;
    open_tools(r, "  - {name: a, kind: mcp, command: [" PEER "]}\n");
    expect(r, "note", "{\"text\": \"1\"}", RLF_CALL_OK, "1");
    expect(r, "note", "{\"text\": \"2\"}", RLF_CALL_OK, "1,2");
}

static void each_episode_has_a_server_of_its_own(void **state) {
    rig *r = *state;
    answer a, b;
    toolsvc_session *one = NULL, *two = NULL;
    open_tools(r, "  - {name: a, kind: mcp, command: [" PEER "], state: episode, workers: 1}\n");
    toolsvc_dispatch *d = toolsvc_dispatch_new(&r->loop, &r->tools, 1);
    for (int i = 0; i < 3; i++) {
        submit(r, d, &one, "note", "{\"text\": \"x\"}", &a);
        submit(r, d, &two, "note", "{\"text\": \"y\"}", &b);
        await(r, &a, RLF_CALL_OK, i == 0 ? "x" : i == 1 ? "x,x" : "x,x,x");
        await(r, &b, RLF_CALL_OK, i == 0 ? "y" : i == 1 ? "y,y" : "y,y,y");
    }
    toolsvc_sessions_close(one);
    toolsvc_sessions_close(two);
    finish(r, d, "calls=6 runs=6 progress=6 ");
}

static void a_shared_server_that_crashes_is_started_again(void **state) {
    rig *r = *state;
    answer slow, crash, next;
    toolsvc_session *sessions = NULL;
    open_tools(r, "  - {name: a, kind: mcp, command: [" PEER "], retries: 0}\n");
    toolsvc_dispatch *d = toolsvc_dispatch_new(&r->loop, &r->tools, 1);
    submit(r, d, &sessions, "crash", "{\"text\": \"bye\"}", &crash);
    submit(r, d, &sessions, "echo", "{\"text\": \"x\"}", &slow);
    await(r, &crash, RLF_CALL_INFRA, "error: the server ended with status 3; its last words: crashing: bye");
    await(r, &slow, RLF_CALL_INFRA, "error: the server ended with status 3; its last words: crashing: bye");
    submit(r, d, &sessions, "echo", "{\"text\": \"y\"}", &next);
    await(r, &next, RLF_CALL_OK, "y");
    finish(r, d, "calls=3 runs=3 infra_errors=2 mcp_servers_lost=2 progress=2 restarts=1 ");
}

static void a_call_that_a_crash_took_is_tried_again(void **state) {
    rig *r = *state;
    answer a;
    toolsvc_session *sessions = NULL;
    open_tools(r, "  - {name: a, kind: mcp, command: [" PEER "], env: {PEER_CRASH: \"1\"}, retries: 1, backoff_ms: 1}\n");
    toolsvc_dispatch *d = toolsvc_dispatch_new(&r->loop, &r->tools, 1);
    for (int i = 0; i < 3; i++) { /* every server answers one */
        submit(r, d, &sessions, "echo", "{\"text\": \"x\"}", &a);
        await(r, &a, RLF_CALL_OK, "x");
    }
    finish(r, d, "calls=3 runs=5 retries=2 infra_errors=2 progress=3 mcp_servers_lost=2 restarts=2 ");
}

static void the_state_of_a_lost_server_is_not_made_up(void **state) {
    rig *r = *state;
    answer a;
    toolsvc_session *sessions = NULL;
    open_tools(r, "  - {name: a, kind: mcp, command: [" PEER "], state: episode, workers: 0}\n");
    toolsvc_dispatch *d = toolsvc_dispatch_new(&r->loop, &r->tools, 1);
    submit(r, d, &sessions, "note", "{\"text\": \"x\"}", &a);
    await(r, &a, RLF_CALL_OK, "x");
    submit(r, d, &sessions, "crash", "{\"text\": \"\"}", &a);
    await(r, &a, RLF_CALL_INFRA, "error: the server ended with status 3; its last words: crashing: ");
    submit(r, d, &sessions, "note", "{\"text\": \"y\"}", &a);
    await(r, &a, RLF_CALL_INFRA, "error: the server ended with status 3; its last words: crashing: ");
    toolsvc_sessions_close(sessions);
    finish(r, d, NULL);
}

static void a_call_past_its_deadline_is_cancelled(void **state) {
    rig *r = *state;
    open_tools(r, "  - {name: a, kind: mcp, command: [" PEER "], timeout_ms: 300}\n");
    expect(r, "sleep", "{\"ms\": 600}", RLF_CALL_TIMEOUT, "error: a did not answer within 300 ms");
    rlf_sleep_us(400000); /* until the server hears again */
    expect(r, "echo", "{\"text\": \"x\"}", RLF_CALL_OK, "x");
}

/* ---- secrets, and files of servers ------------------------------------------------------------------------------------------------------ */

static void secrets_reach_the_server_and_no_answer(void **state) {
    rig *r = *state;
    setenv("RLF_TEST_KEY", "very-secret-value", 1);
    setenv("RLF_TEST_OTHER", "not-passed-on", 1);
    open_tools(r, "  - {name: a, kind: mcp, command: [" PEER "], env: {KEY: \"${RLF_TEST_KEY}\", PLAIN: plain}, secrets: [RLF_TEST_KEY]}\n");
    expect(r, "env", "{\"text\": \"KEY\"}", RLF_CALL_OK, "[secret]");
    expect(r, "env", "{\"text\": \"PLAIN\"}", RLF_CALL_OK, "plain");
    expect(r, "env", "{\"text\": \"RLF_TEST_OTHER\"}", RLF_CALL_OK, "(not set)");
    rlf_str dump = {0};
    rlf_config_dump(&r->config, &dump);
    assert_null(strstr(dump.ptr, "very-secret-value"));
    rlf_str_clean_up(&dump);
}

static char file[] = "/tmp/rlf-mcp-XXXXXX";

static void write_file(const char *text) {
    FILE *f = fopen(file, "w");
    assert_true(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void a_file_of_servers_is_read_as_it_is(void **state) {
    rig *r = *state;
    setenv("RLF_TEST_KEY", "very-secret-value", 1);
    write_file("{\"mcpServers\": { // ours\n"
               "  \"first one\": {\"command\": \"${RLF_TEST_PEER}\", \"args\": [], \"env\": {\"API_KEY\": \"${env:RLF_TEST_KEY}\", \"X\": \"${NO_SUCH:-fallback}\"}, \"cwd\": \"${userHome}\"},\n"
               "  \"second\": {\"command\": \"" PEER "\", \"disabled\": true},\n}}");
    setenv("RLF_TEST_PEER", PEER, 1);
    rlf_str tools = {0};
    rlf_str_printf(&tools, "  - {kind: mcp, file: %s, functions: [env]}\n", file);
    open_tools(r, tools.ptr);
    rlf_str_clean_up(&tools);
    assert_int_equal(r->config.n_tools, 1);
    assert_string_equal(r->config.tools[0].name, "first_one");
    expect(r, "env", "{\"text\": \"API_KEY\"}", RLF_CALL_OK, "[secret]");
    expect(r, "env", "{\"text\": \"X\"}", RLF_CALL_OK, "fallback");
}

static void memory_of_a_program_is_bounded(void **state) {
#ifdef __SANITIZE_ADDRESS__
    skip(); /* the peer's own shadow memory would not fit */
#endif
    rig *r = *state;
    rlf_str tools = {0};
    write_file("{\"mcpServers\": {\"s\": {\"command\": \"sh\", \"args\": [\"-c\", \"LIMIT=$(ulimit -d) exec " PEER "\"]}}}");
    rlf_str_printf(&tools, "  - {kind: mcp, file: %s, functions: [env], memory_mb: 100}\n", file);
    rlf_str_printf(&tools, "  - {name: t, kind: mcp, command: [sh, -c, 'LIMIT=$(ulimit -d) exec " PEER "'], functions: [env], prefix: t_, memory_mb: 200}\n");
    open_tools(r, tools.ptr);
    rlf_str_clean_up(&tools);
    expect(r, "env", "{\"text\": \"LIMIT\"}", RLF_CALL_OK, "102400");
    expect(r, "t_env", "{\"text\": \"LIMIT\"}", RLF_CALL_OK, "204800");
}

static void what_an_editor_would_ask_for_comes_from_the_environment(void **state) {
    rig *r = *state;
    setenv("RLF_ASKED_FOR", "very-secret-value", 1);
    write_file("{\"inputs\": [{\"type\": \"promptString\", \"id\": \"rlf-asked.for\", \"password\": true}], \"servers\": {\"s\":\n"
               "  {\"type\": \"stdio\", \"command\": \"" PEER "\", \"env\": {\"X\": \"a ${input:rlf-asked.for} z\"}}}}");
    rlf_str tools = {0};
    rlf_str_printf(&tools, "  - {kind: mcp, file: %s, functions: [env]}\n", file);
    open_tools(r, tools.ptr);
    rlf_str_clean_up(&tools);
    expect(r, "env", "{\"text\": \"X\"}", RLF_CALL_OK, "a [secret] z");
}

static void a_wrong_entry_of_a_file_is_named(void **state) {
    static const char *const bad[][2] = {
        {"{\"args\": []}", "\"command\": a text was expected, or else a \"url\""},
        {"{\"command\": \"x\", \"args\": [1]}", "\"args\": a list of texts was expected"},
        {"{\"command\": \"x\", \"env\": {\"A\": \"${RLF_NO_SUCH}\"}}", "\"env\": the environment has no variable RLF_NO_SUCH"},
        {"{\"command\": \"x\", \"env\": {\"A\": \"${input:rlf-no.such}\"}}",
         "\"env\": nobody is asked for ${input:rlf-no.such} here, and the environment has no variable RLF_NO_SUCH"},
        {"{\"url\": \"ftp://h/\"}", "\"url\": a text that begins with http:// or https:// was expected"},
        {"{\"url\": \"http://[::1/mcp\"}", "\"url\": no such URL can be: Bad IPv6 address"},
        {"{\"url\": \"http://h/\", \"headers\": {\"A\": \"x\\ny\"}}", "\"headers\": \"A\": a text of one line was expected"}};
    rig *r = *state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rlf_str text = {0}, tools = {0}, message = {0};
        rlf_str_printf(&text, "{\"servers\": {\"s\": %s}}", bad[i][0]);
        rlf_str_printf(&tools, "  - {kind: mcp, file: %s}\n", file);
        rlf_str_printf(&message, "tools[0] (s): %s: server \"s\": %s", file, bad[i][1]);
        write_file(text.ptr);
        refused(r, tools.ptr, message.ptr);
        rlf_str_clean_up(&text);
        rlf_str_clean_up(&tools);
        rlf_str_clean_up(&message);
    }
}

static int make_file(void **state) {
    (void)state;
    int fd = mkstemp(file);
    return fd >= 0 ? close(fd) : -1;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(file);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(a_servers_functions_are_offered_by_name),
        CASE(functions_are_chosen_and_prefixed),
        CASE(functions_that_clash_or_are_not_there_are_refused),
        CASE(a_server_that_cannot_start_is_named),
        CASE(lines_that_are_no_messages_are_passed_over),
        CASE(with_shared_state_all_calls_reach_one_server),
        CASE(each_episode_has_a_server_of_its_own),
        CASE(a_shared_server_that_crashes_is_started_again),
        CASE(a_call_that_a_crash_took_is_tried_again),
        CASE(the_state_of_a_lost_server_is_not_made_up),
        CASE(a_call_past_its_deadline_is_cancelled),
        CASE(secrets_reach_the_server_and_no_answer),
        CASE(a_file_of_servers_is_read_as_it_is),
        CASE(memory_of_a_program_is_bounded),
        CASE(what_an_editor_would_ask_for_comes_from_the_environment),
        CASE(a_wrong_entry_of_a_file_is_named),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
