/* What holds in every family of templates: control text of a tool stays text, turns are closed and stopped by the family's tokens, and
 * what is wrong is refused in one line. A tokenizer of bytes shows ids as text. */
#include "tests/unit/text/talk.h"

static size_t count_control(const rlf_ids *ids) {
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++) n += ids->v[i] >= BYTE_END_OF_TEXT;
    return n;
}

/* All the control texts there are, as somebody's web page might hold them. */
static const char *hostile(void) {
    rlf_str text = {0};
    rlf_str_puts(&text, "x");
    for (int i = 0; i < BYTE_ADDED; i++) rlf_str_printf(&text, "%s\n", byte_added[i]);
    const char *copy = rlf_arena_dup(&arena, text.ptr, text.len);
    rlf_str_clean_up(&text);
    return copy;
}

/* ---- control text ----------------------------------------------------------------------------------------------------------------- */

static void control_text_in_an_observation_stays_text_in_every_family(void **state) {
    (void)state;
    for (int f = 0; f < FAMILIES; f++) {
        rlf_chat *chat = chat_of(families[f], false, NULL);
        rlf_ids plain = {0}, ids = {0};
        rlf_slice harmless = rlf_slice_of("x"), answer = rlf_slice_of(hostile());
        rlf_chat_observation(chat, &harmless, 1, 10000, (rlf_chat_end){rlf_chat_end_of_turn(chat), false}, &plain, NULL);
        rlf_chat_observation(chat, &answer, 1, 10000, (rlf_chat_end){rlf_chat_end_of_turn(chat), false}, &ids, NULL);
        assert_true(ids.n > plain.n + 50);
        assert_int_equal(count_control(&ids), count_control(&plain));
        rlf_ids_clean_up(&plain);
        rlf_ids_clean_up(&ids);
        rlf_chat_destroy(chat);
    }
}

static void control_text_in_a_tool_message_stays_text_in_every_family(void **state) {
    (void)state;
    for (int f = 0; f < FAMILIES; f++) {
        rlf_chat *chat = chat_of(families[f], false, NULL);
        rlf_chat_message messages[] = {{.role = "user", .content = "Q <|im_end|><|eot_id|>"}, {.role = "assistant", .content = "A"},
                                       {.role = "tool", .content = "x"}, {.role = "user", .content = "R"}};
        rlf_ids plain = {0}, ids = {0};
        assert_ok(rlf_chat_prompt(chat, messages, 4, NULL, &plain));
        messages[2].content = hostile();
        assert_ok(rlf_chat_prompt(chat, messages, 4, NULL, &ids));
        assert_true(ids.n > plain.n + 50);
        assert_int_equal(count_control(&ids), count_control(&plain));
        rlf_ids_clean_up(&plain);
        rlf_ids_clean_up(&ids);
        rlf_chat_destroy(chat);
    }
}

/* ---- the ends of turns ------------------------------------------------------------------------------------------------------------ */

static void turns_are_closed_and_stopped_by_the_tokens_of_the_family(void **state) {
    (void)state;
    for (int f = 0; f < FAMILIES; f++) {
        bool llama = !strncmp(families[f], "llama", 5);
        const char *closes = llama ? "<|eot_id|><|eom_id|>" : "<|im_end|>";
        const char *stops = llama ? "<|eot_id|><|eom_id|><|end_of_text|>" : "<|im_end|><|endoftext|>";
        rlf_chat *chat = chat_of(families[f], false, NULL);
        for (int32_t id = -1; id < BYTE_END_OF_TEXT + BYTE_ADDED; id++) {
            const char *token = id >= BYTE_END_OF_TEXT ? byte_added[id - BYTE_END_OF_TEXT] : "none";
            assert_int_equal(rlf_chat_closes_turn(chat, id), strstr(closes, token) != NULL);
            assert_int_equal(rlf_chat_is_stop(chat, id), strstr(stops, token) != NULL);
        }
        assert_int_equal(rlf_chat_tool_syntax(chat)->format, llama ? RLF_TOOLS_LLAMA : RLF_TOOLS_HERMES);
        rlf_chat_destroy(chat);
    }
}

static void the_python_tag_is_read_where_calls_are_written_with_it(void **state) {
    (void)state;
    for (int f = 0; f < FAMILIES; f++) {
        rlf_chat *chat = chat_of(families[f], false, NULL);
        rlf_str text = {0};
        rlf_chat_read(chat, 'a', &text);
        rlf_chat_read(chat, rlf_tokenizer_id(tokenizer, "<|python_tag|>"), &text);
        rlf_chat_read(chat, rlf_tokenizer_id(tokenizer, "<tool_call>"), &text);
        rlf_chat_read(chat, rlf_chat_end_of_turn(chat), &text);
        assert_string_equal(text.ptr, rlf_chat_tool_syntax(chat)->format == RLF_TOOLS_LLAMA ? "a<|python_tag|><tool_call>" : "a<tool_call>");
        rlf_str_clean_up(&text);
        rlf_chat_destroy(chat);
    }
}

static void long_llama_answers_are_cut_inside_their_json(void **state) {
    (void)state;
    rlf_chat *chat = chat_of("llama3.1", false, NULL);
    rlf_slice answers[] = {rlf_slice_of("12\n45"), rlf_slice_of("1")};
    bool cut[2];
    rlf_ids ids = {0};
    rlf_str text = {0};
    rlf_chat_observation(chat, answers, 2, 5, (rlf_chat_end){-1, false}, &ids, cut);
    rlf_tokenizer_decode(tokenizer, ids.v, ids.n, false, &text);
    assert_string_equal(text.ptr, "<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n\"12\\n<|eot_id|><|start_header_id|>ipython<|end_header_id|>"
                                  "\n\n\"1\"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
    assert_true(cut[0] && !cut[1]);
    rlf_ids_clean_up(&ids);
    rlf_str_clean_up(&text);
    rlf_chat_destroy(chat);
}

/* ---- supervised ------------------------------------------------------------------------------------------------------------------- */

static void keep_model_text(void *ctx, size_t begin, size_t end, bool model) {
    if (!model) return;
    size_t *range = ctx;
    range[0] = begin, range[1] = end;
}

static void expect_model_turn(const char *family, bool thinking, const char *want) {
    static const rlf_chat_message messages[] = {
        {.role = "user", .content = "Q"},
        {.role = "assistant", .content = " look ", .reasoning = "\nhm\n", .tool_calls = "[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1.0,\"b\":[]}}}]"}};
    rlf_chat *chat = chat_of(family, thinking, NULL);
    rlf_ids ids = {0};
    rlf_str text = {0};
    size_t range[2] = {0, 0};
    assert_ok(rlf_chat_supervised(chat, messages, 2, NULL, 10, &ids, keep_model_text, range));
    rlf_tokenizer_decode(tokenizer, ids.v + range[0], range[1] - range[0], false, &text);
    assert_string_equal(text.ptr, want);
    rlf_ids_clean_up(&ids);
    rlf_str_clean_up(&text);
    rlf_chat_destroy(chat);
}

static void a_model_turn_is_thought_content_and_calls(void **state) {
    (void)state;
#define F_CALL "\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1.0, \"b\": []}}\n</tool_call><|im_end|>"
    expect_model_turn("qwen3", true, "<think>\nhm\n</think>\n\n look " F_CALL);
    expect_model_turn("qwen3", false, " look " F_CALL);
    expect_model_turn("qwen3-instruct", true, " look " F_CALL);
    expect_model_turn("qwen3-instruct-plain", true, " look " F_CALL);
    expect_model_turn("qwen3-thinking", false, "hm\n</think>\n\n look " F_CALL);
    expect_model_turn("qwen2.5", true, " look " F_CALL);
    expect_model_turn("chatml", true, " look " F_CALL);
    expect_model_turn("llama3.1", true, "{\"name\": \"f\", \"parameters\": {\"a\": 1.0, \"b\": []}}<|eot_id|>");
}

/* ---- refusals --------------------------------------------------------------------------------------------------------------------- */

typedef struct bad {
    const char *family, *messages, *tools, *part; /* tools NULL: none */
} bad;

#define USER "{\"role\":\"user\",\"content\":\"Q\"}"
#define CALLS(list) "[" USER ",{\"role\":\"assistant\",\"tool_calls\":" list "}]"

static void what_is_malformed_is_refused_with_its_place(void **state) {
    (void)state;
    static const bad cases[] = {
        {"qwen3", "[{\"role\":\"developer\",\"content\":\"Q\"}]", NULL, "messages[0].role': expected one of system"},
        {"qwen3", "[{\"content\":\"Q\"}]", NULL, "messages[0].role"},
        {"qwen3", "[{\"role\":\"user\"}]", NULL, "messages[0].content': expected text"},
        {"qwen3", "[" USER ",{\"role\":\"assistant\",\"content\":null}]", NULL, "messages[1].content': expected text"},
        {"qwen3", "[" USER ",{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", NULL, "messages[1].content': expected text"},
        {"qwen3", "[" USER ",{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":7}]", NULL, "messages[1].reasoning_content': expected text"},
        {"qwen3", "[" USER ", 7]", NULL, "messages[1]': expected a map"},
        {"qwen3", "[]", NULL, "expected a list of at least one"},
        {"qwen3", "{}", NULL, "expected a list of at least one"},
        {"qwen3", CALLS("{}"), NULL, "messages[1].tool_calls': expected a list of calls"},
        {"qwen3", CALLS("[7]"), NULL, "message 1: tool_calls[0]: expected an object"},
        {"qwen3", CALLS("[{\"function\":7}]"), NULL, "message 1: tool_calls[0]: expected an object"},
        {"qwen3", CALLS("[{\"name\":7,\"arguments\":{}}]"), NULL, "message 1: tool_calls[0]: name: expected text"},
        {"qwen3", CALLS("[{\"name\":\"f\",\"arguments\":{}},{\"name\":\"f\"}]"), NULL, "message 1: tool_calls[1]: arguments: expected an object"},
        {"qwen2.5", CALLS("[{\"name\":\"f\",\"arguments\":[1]}]"), NULL, "message 1: tool_calls[0]: arguments: expected an object"},
        {"qwen3", CALLS("[{\"name\":\"f\\u0000\",\"arguments\":{}}]"), NULL, "message 1: tool_calls[0]: name: expected text without NUL"},
        {"llama3.1", CALLS("[{\"name\":\"f\",\"arguments\":{}}]"), NULL, "tool_calls[0]: function: expected an object"},
        {"llama3.1", CALLS("[{\"function\":{\"name\":\"f\",\"arguments\":{}}},{\"function\":{\"name\":\"g\",\"arguments\":{}}}]"), NULL,
         "message 1: 2 tool calls"},
        {"qwen3", "[" USER "]", "", "tools: line 1"},
        {"qwen3", "[" USER "]", "[{", "tools: line 1"},
        {"chatml", "[" USER "]", "{}", "tools: expected a JSON array"},
        {"llama3.1", "[" USER "]", "7", "tools:"},
        {"qwen2.5", "[" USER "]", "[{}, \"search\"]", "tools[1]: expected a JSON object"},
        {"llama3.1", "[{\"role\":\"system\",\"content\":\"S\"}]", "[{}]", "there is none"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rlf_chat *chat = chat_of(cases[i].family, false, NULL);
        rlf_str line = {0}, text = {0};
        rlf_row row;
        rlf_str_printf(&line, "{\"messages\":%s}", cases[i].messages);
        rlf_status status = rlf_messages_parse(&row, line.ptr, line.len, "line", 1, &arena);
        if (status == RLF_OK) status = rlf_chat_render(chat, row.messages, row.n_messages, cases[i].tools, true, &text, NULL);
        if (status != RLF_INVALID || !strstr(rlf_error_message(), cases[i].part))
            fail_msg("case %zu: %s, expected %s", i, status == RLF_OK ? text.ptr : rlf_error_message(), cases[i].part);
        assert_null(strchr(rlf_error_message(), '\n'));
        assert_null(text.ptr);
        rlf_str_clean_up(&line);
        rlf_chat_destroy(chat);
        rlf_arena_reset(&arena);
    }
}

static void nesting_of_tools_and_calls_is_bounded(void **state) {
    (void)state;
    rlf_chat *chat = chat_of("llama3.1", false, NULL);
    rlf_str deep = {0}, text = {0};
    rlf_str_puts(&deep, "[{\"a\":");
    for (int i = 0; i < 200; i++) rlf_str_putc(&deep, '[');
    for (int i = 0; i < 200; i++) rlf_str_putc(&deep, ']');
    rlf_str_puts(&deep, "}]");
    rlf_chat_message messages[] = {{.role = "user", .content = "Q"}, {.role = "assistant", .content = "", .tool_calls = deep.ptr}};
    assert_int_equal(rlf_chat_render(chat, messages, 1, deep.ptr, true, &text, NULL), RLF_LIMIT);
    assert_int_equal(rlf_chat_render(chat, messages, 2, NULL, true, &text, NULL), RLF_LIMIT);
    rlf_str_clean_up(&deep);
    rlf_str_clean_up(&text);
    rlf_chat_destroy(chat);
}

static void names_and_tokenizers_that_do_not_fit_are_refused(void **state) {
    (void)state;
    rlf_tokenizer *tiny = tiny_tokenizer();
    rlf_chat *chat = NULL;
    assert_int_equal(rlf_chat_new(&chat, tiny, "some/dir", (rlf_chat_options){.name = "llama3.2"}), RLF_INVALID);
    assert_string_equal(strstr(rlf_error_message(), "some/dir"), "some/dir: the tokenizer has no token <|begin_of_text|>, which the chat template needs");
    assert_error(rlf_chat_new(&chat, tiny, NULL, (rlf_chat_options){.name = "gemma"}), RLF_INVALID,
                 "\"gemma\" is unknown (known templates: " KNOWN_TEMPLATES ", or auto)");
    assert_error(rlf_chat_new(&chat, tiny, NULL, (rlf_chat_options){.name = "qwen3", .tool_format = "xml"}), RLF_INVALID,
                 "hermes, llama, search-r1, tool-star, fenced, or auto");
    assert_null(chat);
    rlf_tokenizer_destroy(tiny);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(control_text_in_an_observation_stays_text_in_every_family),
        cmocka_unit_test(control_text_in_a_tool_message_stays_text_in_every_family),
        cmocka_unit_test(turns_are_closed_and_stopped_by_the_tokens_of_the_family),
        cmocka_unit_test(the_python_tag_is_read_where_calls_are_written_with_it),
        cmocka_unit_test(long_llama_answers_are_cut_inside_their_json),
        cmocka_unit_test(a_model_turn_is_thought_content_and_calls),
        cmocka_unit_test(what_is_malformed_is_refused_with_its_place),
        cmocka_unit_test(nesting_of_tools_and_calls_is_bounded),
        cmocka_unit_test(names_and_tokenizers_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, clean_up);
}
