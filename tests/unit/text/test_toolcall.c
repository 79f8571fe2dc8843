/* Tool calls and answers found in model text. */
#include "tests/unit/text/golden.h"

#include "common/text/toolcall.h"

enum { MAX = 4 };
static rlf_arena arena;
static rlf_tool_call calls[MAX];

static size_t parse_as(rlf_tool_format format, const char *text) {
    size_t total;
    rlf_arena_reset(&arena);
    rlf_tool_calls_parse(&(rlf_tool_syntax){.format = format}, text, strlen(text), &arena, calls, MAX, &total);
    return total;
}

static size_t parse(const char *text) { return parse_as(RLF_TOOLS_HERMES, text); }
static size_t parse_llama(const char *text) { return parse_as(RLF_TOOLS_LLAMA, text); }

static int clean_up(void **state) {
    (void)state;
    rlf_arena_clean_up(&arena);
    return 0;
}

static void text_without_a_tag_has_no_call(void **state) {
    (void)state;
    assert_int_equal(parse(""), 0);
    assert_int_equal(parse("{\"name\": \"search\"} </tool_call> <tool_cal"), 0);
}

static void a_call_is_read(void **state) {
    (void)state;
    assert_int_equal(parse("I look.\n<tool_call>\n{\"name\": \"search\", \"arguments\": {\"query\": \"capital of Per\xc3\xba\", \"k\": 3, \"x\": 0.1}}\n</tool_call>"), 1);
    assert_null(calls[0].error);
    assert_string_equal(calls[0].name, "search");
    assert_string_equal(calls[0].arguments, "{\"query\":\"capital of Per\xc3\xba\",\"k\":3,\"x\":0.1}");
}

static void several_calls_keep_their_order(void **state) {
    (void)state;
    assert_int_equal(parse("<tool_call>{\"name\":\"a\"}</tool_call><tool_call>{\"name\":\"b\",\"arguments\":null}</tool_call> and "
                           "<tool_call> {\"arguments\":{},\"name\":\"c\"} </tool_call>"), 3);
    assert_string_equal(calls[0].name, "a");
    assert_string_equal(calls[0].arguments, "{}");
    assert_string_equal(calls[1].name, "b");
    assert_string_equal(calls[2].name, "c");
    for (int i = 0; i < 3; i++) assert_null(calls[i].error);
}

static void calls_beyond_the_maximum_are_counted(void **state) {
    (void)state;
    rlf_str text = {0};
    for (int i = 0; i < 9; i++) rlf_str_printf(&text, "<tool_call>{\"name\":\"n%d\"}</tool_call>", i);
    assert_int_equal(parse(text.ptr), 9);
    assert_string_equal(calls[MAX - 1].name, "n3");
    rlf_str_clean_up(&text);
}

static void arguments_may_be_the_text_of_an_object(void **state) {
    (void)state;
    assert_int_equal(parse("<tool_call>{\"name\":\"a\",\"arguments\":\"{\\\"q\\\": 1}\"}</tool_call>"), 1);
    assert_null(calls[0].error);
    assert_string_equal(calls[0].arguments, "{\"q\":1}");
}

static void any_json_is_an_argument(void **state) {
    (void)state;
    assert_int_equal(parse("<tool_call>{\"name\":\"a\",\"arguments\":{\"n\":18446744073709551615,\"k\":3,\"s\":\"\\u0000\"}}</tool_call> "
                           "<tool_call>{\"name\":\"b\"}</tool_call>"), 2);
    assert_string_equal(calls[0].arguments, "{\"n\":1.8446744073709552e+19,\"k\":3,\"s\":\"\\u0000\"}");
    assert_true(!calls[0].error && !calls[1].error);
    assert_string_equal(calls[1].name, "b");
}

static void a_tag_inside_a_json_string_is_text(void **state) {
    (void)state;
    assert_int_equal(parse("<tool_call>{\"name\":\"a\",\"arguments\":{\"q\":\"<tool_call> </tool_call> <think>\"}}</tool_call>!"), 1);
    assert_null(calls[0].error);
    assert_string_equal(calls[0].arguments, "{\"q\":\"<tool_call> </tool_call> <think>\"}");
}

static void thoughts_are_not_searched(void **state) {
    (void)state;
    assert_int_equal(parse("<think><tool_call>{\"name\":\"a\"}</tool_call></think><tool_call>{\"name\":\"b\"}</tool_call>"), 1);
    assert_string_equal(calls[0].name, "b");
    assert_int_equal(parse("<think>a</think><think>b</think> x <think><tool_call>{\"name\":\"a\"}</tool_call>"), 0);
    assert_int_equal(parse("stray </think><tool_call>{\"name\":\"a\"}</tool_call>"), 1);
    assert_int_equal(parse("<tool_call>{\"name\":\"a\"} <think>or <tool_call>{\"name\":\"b\"}</tool_call>?</think>"), 1);
    assert_string_equal(calls[0].error, "The tool call is not closed with </tool_call>.");
}

static void expect_error_as(rlf_tool_format format, const char *text, const char *name, const char *part) {
    if (parse_as(format, text) != 1 || !calls[0].error) fail_msg("%s: not one call, or a good one", text);
    if (!strstr(calls[0].error, part)) fail_msg("%s: %s", text, calls[0].error);
    assert_string_equal(calls[0].name, name);
    assert_string_equal(calls[0].arguments, "{}");
}

static void expect_error(const char *text, const char *name, const char *part) { expect_error_as(RLF_TOOLS_HERMES, text, name, part); }

static void malformed_calls_say_what_is_wrong(void **state) {
    (void)state;
    expect_error("<tool_call>", "", "not closed");
    expect_error("<tool_call>{\"name\": \"sea", "", "not closed");
    expect_error("<tool_call>{\"name\": \"a\"}", "a", "not closed");
    expect_error("<tool_call>search(Lima)</tool_call>", "", "not valid JSON");
    expect_error("<tool_call>{'name': 'a'}</tool_call>", "", "not valid JSON");
    expect_error("<tool_call></tool_call>", "", "not valid JSON");
    expect_error("<tool_call>[1]</tool_call>", "", "must be a JSON object");
    expect_error("<tool_call>\"a\"</tool_call>", "", "must be a JSON object");
    expect_error("<tool_call>{\"arguments\":{}}</tool_call>", "", "no \"name\"");
    expect_error("<tool_call>{\"name\":\"\",\"arguments\":{}}</tool_call>", "", "no \"name\"");
    expect_error("<tool_call>{\"name\":7}</tool_call>", "", "no \"name\"");
    expect_error("<tool_call>{\"name\":\"a\\u0000\"}</tool_call>", "", "no \"name\"");
    expect_error("<tool_call>{\"name\":\"a\",\"arguments\":[1]}</tool_call>", "a", "must be a JSON object");
    expect_error("<tool_call>{\"name\":\"a\",\"arguments\":\"Lima\"}</tool_call>", "a", "must be a JSON object");
    expect_error("<tool_call>{\"name\":\"a\"} {\"name\":\"b\"}</tool_call>", "a", "other text");
}

static void nesting_is_bounded(void **state) {
    (void)state;
    for (int levels = 60; levels <= 3000; levels = levels == 60 ? 100 : levels * 30) {
        rlf_str text = {0};
        rlf_str_puts(&text, "<tool_call>{\"name\":\"a\",\"arguments\":{\"x\":");
        for (int i = 0; i < levels; i++) rlf_str_putc(&text, '[');
        for (int i = 0; i < levels; i++) rlf_str_putc(&text, ']');
        rlf_str_puts(&text, "}}</tool_call>");
        assert_int_equal(parse(text.ptr), 1);
        if (levels == 60) assert_null(calls[0].error);
        else assert_non_null(calls[0].error);
        rlf_str_clean_up(&text);
    }
}

static void a_bad_call_does_not_hide_the_next(void **state) {
    (void)state;
    assert_int_equal(parse("<tool_call>{\"name\": <tool_call>{\"name\":\"b\"}</tool_call><tool_call>oops</tool_call><tool_call>{\"name\":\"c\"}</tool_call>"), 4);
    assert_non_null(strstr(calls[0].error, "not closed"));
    assert_string_equal(calls[1].name, "b");
    assert_null(calls[1].error);
    assert_non_null(calls[2].error);
    assert_string_equal(calls[3].name, "c");
    assert_null(calls[3].error);
}

/* A megabyte of openings, with nothing closed: ends soon only if the walk is linear. */
static void many_open_tags_are_walked_once(void **state) {
    (void)state;
    rlf_str text = {0};
    for (int i = 0; i < 90000; i++) rlf_str_puts(&text, "<tool_call>");
    assert_int_equal(parse(text.ptr), 90000);
    rlf_str_reset(&text);
    for (int i = 0; i < 90000; i++) rlf_str_puts(&text, "<think></think>");
    assert_int_equal(parse(text.ptr), 0);
    assert_null(rlf_answer_find(&(rlf_tool_syntax){.format = RLF_TOOLS_HERMES}, text.ptr, text.len).ptr);
    rlf_str_clean_up(&text);
}

/* ---- the llama form --------------------------------------------------------------------------------------------------------------- */

static void a_llama_turn_is_calls_from_its_first_brace(void **state) {
    (void)state;
    assert_int_equal(parse_llama("\n {\"name\": \"search\", \"parameters\": {\"query\": \"Per\xc3\xba {\\\"}\", \"k\": 3}} \n"), 1);
    assert_null(calls[0].error);
    assert_string_equal(calls[0].name, "search");
    assert_string_equal(calls[0].arguments, "{\"query\":\"Per\xc3\xba {\\\"}\",\"k\":3}");
    assert_int_equal(parse_llama("{\"name\":\"a\",\"type\":\"function\"}"), 1);
    assert_string_equal(calls[0].arguments, "{}");
    assert_int_equal(parse_llama("<think>{\"name\":\"x\"}</think>\n{\"name\":\"b\",\"parameters\":\"{\\\"q\\\":1}\"}"), 1);
    assert_string_equal(calls[0].name, "b");
    assert_string_equal(calls[0].arguments, "{\"q\":1}");
}

static void other_llama_turns_are_no_calls(void **state) {
    (void)state;
    static const char *const texts[] = {"", " ", "Lima", "I say {\"name\": \"a\"}", "[{\"name\": \"a\"}]", "<think>{\"name\":\"x\"}", "\"{\"",
                                        "<tool_call>{\"name\":\"a\"}</tool_call>", "<think><|python_tag|>{\"name\":\"a\"}</think> no"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (parse_llama(texts[i]) != 0) fail_msg("%s: a call", texts[i]);
}

static void several_llama_calls_keep_their_order(void **state) {
    (void)state;
    assert_int_equal(parse_llama("text <|python_tag|>{\"name\":\"a\"}; {\"name\":\"b\"}\n{\"name\":\"c\"}<|python_tag|>{\"name\":\"d\"};"), 4);
    for (int i = 0; i < 4; i++) {
        assert_null(calls[i].error);
        assert_int_equal(calls[i].name[0], 'a' + i);
    }
    rlf_str text = {0};
    for (int i = 0; i < 50000; i++) rlf_str_puts(&text, "{\"name\":\"a\"}");
    assert_int_equal(parse_llama(text.ptr), 50000);
    rlf_str_clean_up(&text);
}

static void malformed_llama_calls_say_what_is_wrong(void **state) {
    (void)state;
    static const struct { const char *text, *name, *part; } cases[] = {
        {"{", "", "not valid JSON"}, {"{\"name\": \"sea", "", "at byte"}, {"{'name': 'a'}", "", "at byte 2"}, {"<|python_tag|>", "", "not valid JSON"},
        {"<|python_tag|>search(\"Lima\")", "", "not valid JSON"}, {"<|python_tag|>[1]", "", "\"name\" and \"parameters\""},
        {"{\"parameters\":{}}", "", "no \"name\""}, {"{\"name\":\"\"}", "", "no \"name\""}, {"{\"name\":\"a\",\"parameters\":[1]}", "a", "\"parameters\""},
        {"{\"name\":\"a\"} and more", "a", "other text"}, {"{\"name\":\"a\"} ; and more", "a", "other text"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_error_as(RLF_TOOLS_LLAMA, cases[i].text, cases[i].name, cases[i].part);
    assert_int_equal(parse_llama("{\"a\":1}{\"name\":\"b\"}"), 2);
    assert_non_null(calls[0].error);
    assert_null(calls[1].error);
}

static void expect_answer(const char *text, const char *want) {
    rlf_slice answer = rlf_answer_find(&(rlf_tool_syntax){.format = RLF_TOOLS_HERMES}, text, strlen(text));
    if (!want) {
        assert_null(answer.ptr);
        assert_int_equal(answer.len, 0);
        return;
    }
    assert_non_null(answer.ptr);
    if (!rlf_slice_eq(answer, want)) fail_msg("%s: %.*s", text, (int)answer.len, answer.ptr);
}

static void the_last_complete_answer_counts(void **state) {
    (void)state;
    expect_answer("", NULL);
    expect_answer("<answer>Lima", NULL);
    expect_answer("Lima</answer>", NULL);
    expect_answer("<answer> Lima </answer>", " Lima ");
    expect_answer("<answer></answer>", "");
    expect_answer("<answer>a</answer> no, <answer>b</answer> and <answer>c", "b");
    expect_answer("<answer>a <answer>b</answer></answer>", "a <answer>b");
    expect_answer("<think><answer>a</answer></think>", NULL);
    expect_answer("<answer>b</answer><think><answer>a</answer></think>", "b");
    expect_answer("<think>hm <answer>a</answer>", NULL);
    expect_answer("<think>x</think>\n\n<answer>y</answer>", "y");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_without_a_tag_has_no_call),      cmocka_unit_test(a_call_is_read),
        cmocka_unit_test(several_calls_keep_their_order),      cmocka_unit_test(calls_beyond_the_maximum_are_counted),
        cmocka_unit_test(arguments_may_be_the_text_of_an_object), cmocka_unit_test(any_json_is_an_argument), cmocka_unit_test(a_tag_inside_a_json_string_is_text),
        cmocka_unit_test(thoughts_are_not_searched),           cmocka_unit_test(malformed_calls_say_what_is_wrong),
        cmocka_unit_test(nesting_is_bounded),                  cmocka_unit_test(a_bad_call_does_not_hide_the_next),
        cmocka_unit_test(many_open_tags_are_walked_once),      cmocka_unit_test(the_last_complete_answer_counts),
        cmocka_unit_test(a_llama_turn_is_calls_from_its_first_brace), cmocka_unit_test(other_llama_turns_are_no_calls),
        cmocka_unit_test(several_llama_calls_keep_their_order), cmocka_unit_test(malformed_llama_calls_say_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
