/* Tools: opening from the configuration, checking calls, answers, schemas. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "toolsvc/dispatch.h"
#include "toolsvc/index/index.h"
#include "toolsvc/text.h"
#include "toolsvc/toolsvc.h"

static rlf_tool_config tool_of(const char *name, const char *kind) {
    return (rlf_tool_config){.name = (char *)name, .kind = (char *)kind, .path = "", .description = "", .top_k = 3,
                             .timeout_ms = 1000, .concurrency = 4};
}

static rlf_config config_of(rlf_tool_config *tools, size_t n) { return (rlf_config){.tools = tools, .n_tools = n}; }

/* An index of two passages, made once. */
static char g_corpus[] = "/tmp/rlf-tools-XXXXXX", g_index[64];
static int make_index(void **state) {
    (void)state;
    static const char text[] = "{\"id\": 1, \"contents\": \"\\\"Peru\\\"\\nLima is the capital of Peru.\"}\n"
                               "{\"id\": 2, \"title\": \"Norway\", \"text\": \"The capital is Oslo.\"}\n";
    size_t n;
    int fd = mkstemp(g_corpus);
    bool written = fd >= 0 && write(fd, text, sizeof text - 1) == sizeof text - 1;
    if (fd >= 0) close(fd);
    snprintf(g_index, sizeof g_index, "%s.index", g_corpus);
    return written && toolsvc_index_build(g_corpus, g_index, &n) == RLF_OK ? 0 : -1;
}
static int remove_index(void **state) {
    (void)state;
    return unlink(g_corpus) | unlink(g_index);
}

/* Opens the tools of a configuration for one case. */
static uv_loop_t g_loop;
static void open_tools(toolsvc_tools *tools, const rlf_config *config) {
    assert_int_equal(uv_loop_init(&g_loop), 0);
    assert_ok(toolsvc_tools_init(tools, &g_loop, config, NULL));
}
static void close_tools(toolsvc_tools *tools) {
    toolsvc_tools_clean_up(tools);
    assert_int_equal(uv_loop_close(&g_loop), 0);
}

static rlf_call_status run_tool(const toolsvc_tools *tools, const char *name, const char *arguments, rlf_str *out) {
    rlf_str_reset(out);
    return toolsvc_call_once(tools, name, arguments, out);
}

static void schemas_are_compact_and_in_fixed_order(void **state) {
    (void)state;
    rlf_tool_config tools[] = {tool_of("search", "index"), tool_of("calc", "calculator")};
    tools[0].path = g_index;
    tools[0].description = "Find \"facts\".";
    rlf_config config = config_of(tools, 1);
    rlf_str out = {0};
    assert_ok(toolsvc_describe(&config, &out));
    assert_string_equal(out.ptr, "[{\"type\":\"function\",\"function\":{\"name\":\"search\",\"description\":\"Find \\\"facts\\\".\",\"parameters\":{\"type\":\"object\","
                                 "\"properties\":{\"query\":{\"type\":\"string\",\"description\":\"what to search for\"}},\"required\":[\"query\"]}}}]");
    rlf_str_reset(&out);
    config.n_tools = 2;
    assert_ok(toolsvc_describe(&config, &out));
    assert_non_null(strstr(out.ptr, "{\"name\":\"calc\",\"description\":\"Compute an arithmetic expression"));
    rlf_str_reset(&out);
    config.n_tools = 0;
    assert_ok(toolsvc_describe(&config, &out));
    assert_string_equal(out.ptr, "[]");
    rlf_str_clean_up(&out);
}

static void check_refused(rlf_tool_config *tools, size_t n, rlf_status wanted, const char *text) {
    rlf_config config = config_of(tools, n);
    rlf_str schemas = {0};
    assert_int_equal(toolsvc_describe(&config, &schemas), wanted);
    assert_int_equal(schemas.len, 0);
    if (!strstr(rlf_error_message(), text)) fail_msg("\"%s\" lacks \"%s\"", rlf_error_message(), text);
}

static void bad_configuration_names_the_tool_and_key(void **state) {
    (void)state;
    rlf_tool_config t[2] = {tool_of("a", "calculator"), tool_of("b", "abacus")};
    check_refused(t, 2, RLF_INVALID, "tools[1] (b): key \"kind\": unknown kind \"abacus\"");
    t[1] = tool_of("a", "calculator");
    check_refused(t, 2, RLF_INVALID, "tools[1] (a): key \"name\": tools[0] has the same name");
    t[1] = tool_of("", "calculator");
    check_refused(t, 2, RLF_INVALID, "key \"name\"");
    t[1] = tool_of("b", "index");
    check_refused(t, 2, RLF_INVALID, "tools[1] (b): key \"path\"");
    t[1].path = "/nonexistent/index";
    check_refused(t, 2, RLF_IO, "tools[1] (b): /nonexistent/index");
    t[1] = tool_of("b", "calculator");
    t[1].concurrency = 0;
    check_refused(t, 2, RLF_INVALID, "key \"concurrency\"");
    t[1].concurrency = 1, t[1].timeout_ms = 0;
    check_refused(t, 2, RLF_INVALID, "key \"timeout_ms\"");
    t[1].timeout_ms = 1, t[1].latency_median_ms = 10, t[1].latency_p99_ms = 5;
    check_refused(t, 2, RLF_INVALID, "key \"latency.p99_ms\"");
    t[1] = tool_of("b", "calculator"), t[1].state = "episode";
    check_refused(t, 2, RLF_INVALID, "tools[1] (b): key \"state\": tools of kind calculator keep no state per episode");
    t[1].state = "shared", t[1].batch = 8;
    check_refused(t, 2, RLF_INVALID, "tools[1] (b): key \"batch\": tools of kind calculator take one call at a time");
    t[1].batch = 1;
    rlf_config config = config_of(t, 2);
    rlf_str schemas = {0};
    assert_ok(toolsvc_describe(&config, &schemas));
    rlf_str_clean_up(&schemas);
}

/* The text of a refused call; static. */
static const char *refusal(const toolsvc_tools *tools, const char *name, const char *arguments) {
    static char text[400];
    rlf_str error = {0};
    size_t function;
    json_t *parsed;
    rlf_call_status status = toolsvc_tools_check(tools, NULL, rlf_slice_of(name), rlf_slice_of(arguments), &function, &parsed, &error);
    snprintf(text, sizeof text, "%s", status == RLF_CALL_BAD_CALL ? error.ptr : "accepted");
    json_decref(parsed);
    rlf_str_clean_up(&error);
    return text;
}

#define CALC_SCHEMA "{\"type\":\"object\",\"properties\":{\"expression\":{\"type\":\"string\",\"description\":\"the expression, such as (3 + 4) * 2\"}},\"required\":[\"expression\"]}"

static void bad_calls_are_told_what_was_wrong(void **state) {
    (void)state;
    rlf_tool_config t[] = {tool_of("calc", "calculator"), tool_of("sum", "calculator")};
    rlf_config config = config_of(t, 2);
    toolsvc_tools tools;
    open_tools(&tools, &config);
    assert_string_equal(refusal(&tools, "search", "{}"), "error: there is no tool \"search\"; the tools are: calc, sum");
    assert_string_equal(refusal(&tools, "", "{}"), "error: there is no tool \"\"; the tools are: calc, sum");
    assert_string_equal(refusal(&tools, "\xff", "{}"), "error: there is no tool \"\xef\xbf\xbd\"; the tools are: calc, sum");
    assert_string_equal(refusal(&tools, "calc", "{}"), "error: calc needs the argument \"expression\" (a string); its parameters are " CALC_SCHEMA);
    assert_string_equal(refusal(&tools, "calc", "{\"expression\": 1}"),
                        "error: the argument \"expression\" of calc must be a string, not a number; its parameters are " CALC_SCHEMA);
    assert_string_equal(refusal(&tools, "calc", "{\"expression\": null}"),
                        "error: the argument \"expression\" of calc must be a string, not null; its parameters are " CALC_SCHEMA);
    assert_string_equal(refusal(&tools, "calc", "[1]"), "error: the arguments of calc must be a JSON object, not an array; its parameters are " CALC_SCHEMA);
    assert_string_equal(refusal(&tools, "calc", "\"1+1\""), "error: the arguments of calc must be a JSON object, not a string; its parameters are " CALC_SCHEMA);
    assert_memory_equal(refusal(&tools, "calc", "{\"expression\": "), "error: the arguments of calc are not valid JSON: ", 49);
    assert_memory_equal(refusal(&tools, "calc", ""), "error: the arguments of calc are not valid JSON: ", 49);
    assert_memory_equal(refusal(&tools, "calc", "{\"expression\": \"\xff\"}"), "error: the arguments of calc are not valid JSON: ", 49);
    assert_string_equal(refusal(&tools, "sum", "{\"expression\": \"1\", \"more\": 2}"), "accepted");
    assert_string_equal(refusal(&tools, "sum", "{\"expression\": \"\\u0000 \\ud83d\", \"more\": 18446744073709551616}"),
                        "accepted");
    close_tools(&tools);
}

static void calculator_answers_and_marks_errors(void **state) {
    (void)state;
    rlf_tool_config t[] = {tool_of("calc", "calculator")};
    rlf_config config = config_of(t, 1);
    toolsvc_tools tools;
    rlf_str out = {0};
    open_tools(&tools, &config);
    assert_int_equal(run_tool(&tools, "calc", "{\"expression\": \"6*7\"}", &out), RLF_CALL_OK);
    assert_string_equal(out.ptr, "42");
    assert_int_equal(run_tool(&tools, "calc", "{\"expression\": \"1/0\"}", &out), RLF_CALL_TOOL_ERROR);
    assert_string_equal(out.ptr, "error: division by zero");
    assert_int_equal(run_tool(&tools, "calc", "{\"expression\": \"\"}", &out), RLF_CALL_TOOL_ERROR);
    rlf_str_clean_up(&out);
    close_tools(&tools);
}

static void index_answers_in_the_form_of_search_r1(void **state) {
    (void)state;
    rlf_tool_config t[] = {tool_of("search", "index")};
    t[0].path = g_index;
    rlf_config config = config_of(t, 1);
    toolsvc_tools tools;
    rlf_str out = {0};
    open_tools(&tools, &config);
    assert_int_equal(run_tool(&tools, "search", "{\"query\": \"capital Peru\"}", &out), RLF_CALL_OK);
    assert_string_equal(out.ptr, "Doc 1(Title: \"Peru\") Lima is the capital of Peru.\nDoc 2(Title: Norway) The capital is Oslo.\n");
    assert_int_equal(run_tool(&tools, "search", "{\"query\": \"zebra\"}", &out), RLF_CALL_OK);
    assert_string_equal(out.ptr, "No passage matches the query.");
    rlf_str_clean_up(&out);
    close_tools(&tools);
}

static void broken_bytes_become_replacement_characters(void **state) {
    (void)state;
    rlf_str out = {0};
    toolsvc_append_utf8(&out, "a\xff" "b\xc3", 4);
    assert_string_equal(out.ptr, "a\xef\xbf\xbd" "b\xef\xbf\xbd");
    rlf_str_reset(&out);
    toolsvc_append_utf8(&out, "x\0y", 3);
    assert_string_equal(out.ptr, "x\xef\xbf\xbdy");
    rlf_str_reset(&out);
    toolsvc_append_utf8(&out, "\xed\xa0\x80", 3); /* a surrogate */
    assert_int_equal(out.len, 9);
    rlf_str_reset(&out);
    toolsvc_append_utf8(&out, "\xe4\xb8\xad \xf0\x9f\x98\x80", 8);
    assert_string_equal(out.ptr, "\xe4\xb8\xad \xf0\x9f\x98\x80");
    rlf_str_clean_up(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schemas_are_compact_and_in_fixed_order),   cmocka_unit_test(bad_configuration_names_the_tool_and_key),
        cmocka_unit_test(bad_calls_are_told_what_was_wrong),        cmocka_unit_test(calculator_answers_and_marks_errors),
        cmocka_unit_test(index_answers_in_the_form_of_search_r1),   cmocka_unit_test(broken_bytes_become_replacement_characters),
    };
    return cmocka_run_group_tests(tests, make_index, remove_index);
}
