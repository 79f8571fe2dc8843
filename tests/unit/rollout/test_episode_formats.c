/* The episode state machine with other templates and formats of calls: what ends a turn, what is a call, and what stands in a thought. */
#include "episode_world.h"

/* ---- another template ------------------------------------------------------------------------------------------------------------- */

#define LLAMA_CALL(tool, argument) "{\"name\": \"" tool "\", \"parameters\": {\"q\": \"" argument "\"}}"
#define LLAMA_ANSWER(text) "<|start_header_id|>ipython<|end_header_id|>\n\n\"" text "\"<|eot_id|>"
#define LLAMA_TURN "<|start_header_id|>assistant<|end_header_id|>\n\n"

static void llama_turn_that_is_a_call_is_answered_from_ipython(void **state) {
    (void)state;
    world *w = world_with(8, "llama3.1");
    const rlf_trajectory *t = play(w, LLAMA_CALL("echo", "Peru") "<|eot_id|><answer>Lima</answer>");
    assert_int_equal(t->spans.n, 4);
    assert_span(w, t, 0, RLF_SPAN_PROMPT, 0, "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
                "December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhere?<|eot_id|>" LLAMA_TURN);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, LLAMA_CALL("echo", "Peru") "<|eot_id|>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, LLAMA_ANSWER("{\\\"q\\\":\\\"Peru\\\"}") LLAMA_TURN);
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<answer>Lima</answer>");
    assert_text(t->turns.v[0].arguments, "{\"q\":\"Peru\"}");
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void llama_calls_behind_the_python_tag_end_with_the_message(void **state) {
    (void)state;
    world *w = world_with(8, "llama3.1");
    const rlf_trajectory *t = play(w, "<|python_tag|>" LLAMA_CALL("echo", "a") "; " LLAMA_CALL("fail", "") "<|eom_id|>It is so.<|eot_id|>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0,
                LLAMA_ANSWER("{\\\"q\\\":\\\"a\\\"}") LLAMA_ANSWER("error: tool_error: out of cheese") LLAMA_TURN);
    assert_int_equal(t->turns.n, 2);
    assert_text(w->service.last_score.turns.v[0].text, "<|python_tag|>" LLAMA_CALL("echo", "a") "; " LLAMA_CALL("fail", ""));
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void llama_turn_ended_by_end_of_text_is_closed_before_the_observation(void **state) {
    (void)state;
    world *w = world_with(8, "llama3.1");
    const rlf_trajectory *t = play(w, LLAMA_CALL("echo", "<|eot_id|>") "<|end_of_text|><answer>b</answer>");
    assert_int_equal(w->service.calls, 0); /* a control token inside a call is the end of the turn */
    assert_int_equal(t->turns.v[0].status, RLF_CALL_BAD_CALL);
    world_destroy(w);
    w = world_with(8, "llama3.1");
    t = play(w, LLAMA_CALL("echo", "a") "<|end_of_text|><answer>b</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, "<|eot_id|>" LLAMA_ANSWER("{\\\"q\\\":\\\"a\\\"}") LLAMA_TURN);
    world_destroy(w);
}

static void llama_text_that_is_no_call_is_an_answer(void **state) {
    (void)state;
    world *w = world_with(8, "llama3.1");
    const rlf_trajectory *t = play(w, "I would say " LLAMA_CALL("echo", "a") "<|eot_id|>never");
    assert_int_equal(w->service.calls, 0);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

/* ---- formats of tags -------------------------------------------------------------------------------------------------------------- */

#define INFORMATION(text) "\n\n<information>" text "</information>\n\n"
#define RESULT(text) " <result>\n" text "\n</result>"
#define OBSERVED(text) "\nObservation:\n" text "\n"
#define REFUSED                                                                                                                  \
    "My previous action is invalid. If I want to search, I should put the query between <search> and </search>. "                \
    "If I want to give the final answer, I should put the answer between <answer> and </answer>. Let me try again."

static world *world_of_tags(const char *format, const char *search, const char *python) {
    world *w = world_as(8, (rlf_chat_options){.name = "chatml", .tool_format = format, .search_call = search, .python_call = python}, true);
    w->limits.observation_tokens = 300;
    return w;
}

static void answer_to_a_search_stands_in_the_models_own_turn(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "echo.q", "");
    const rlf_trajectory *t = play(w, "<think>not <search>yet</search></think>\n<search> Peru </search>so <answer>Lima</answer>");
    assert_int_equal(t->spans.n, 4);
    assert_span(w, t, 0, RLF_SPAN_PROMPT, 0, PROMPT);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<think>not <search>yet</search></think>\n<search> Peru </search>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, INFORMATION("{\"q\":\"Peru\"}"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "so <answer>Lima</answer>");
    assert_int_equal(t->turns.n, 1);
    assert_text(t->turns.v[0].tool, "echo");
    assert_text(t->turns.v[0].arguments, "{\"q\":\"Peru\"}");
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    assert_int_equal(w->service.last_score.bad_calls, 0);
    world_destroy(w);
}

static void token_that_completes_a_tag_is_kept_with_what_it_holds_behind_it(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "echo.q", "");
    script(w, 1, 0, "<search>ab</search");
    rlf_ids *ids = &w->model->scripts[0].ids;
    rlf_ids_push(ids, BYTE_CLOSE); /* ">!" */
    size_t n = ids->n;
    byte_script("<answer>x</answer", ids);
    rlf_ids_push(ids, BYTE_CLOSE);
    byte_script("never", ids);
    submit(w, 1);
    run(w);
    const rlf_trajectory *t = only(w);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<search>ab</search>!");
    assert_memory_equal(t->tokens.v + t->spans.v[1].begin, ids->v, n * sizeof *ids->v); /* "ab" is still two tokens */
    assert_int_equal(t->spans.v[1].end - t->spans.v[1].begin, n);
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, INFORMATION("{\"q\":\"ab\"}"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<answer>x</answer>!");
    assert_text(w->service.last_score.turns.v[0].text, "<search>ab</search>!");
    world_destroy(w);
}

static void tags_in_an_answer_are_never_read(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "echo.q", "");
    const rlf_trajectory *t = play(w, "<search></information><think><search>b</search></think><answer>x</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, INFORMATION("{\"q\":\"</information><think><search>b\"}"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "</think><answer>x</answer>");
    assert_int_equal(w->service.calls, 1);
    world_destroy(w);
}

static void turn_without_an_action_is_refused_and_counted(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "echo.q", "");
    w->limits.tokens = LONGEST;
    const rlf_trajectory *t = play(w, "Lima</search>It is Lima.<|im_end|><answer>Lima</answer>");
    assert_int_equal(w->service.calls, 0);
    assert_int_equal(t->spans.n, 6);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "Lima</search>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, "\n" REFUSED "\n");
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "It is Lima.<|im_end|>");
    assert_span(w, t, 4, RLF_SPAN_OBSERVATION, 1, "\n<|im_start|>assistant\n\n" REFUSED "\n");
    for (int i = 0; i < 2; i++) assert_int_equal(t->turns.v[i].status, RLF_CALL_BAD_CALL);
    assert_text(t->turns.v[0].answer, REFUSED);
    assert_int_equal(w->service.last_score.bad_calls, 2);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
    w = world_of_tags("search-r1", "echo.q", "");
    t = play(w, "<search>a<|endoftext|><answer>Lima</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, "<|im_end|>\n<|im_start|>assistant\n\n" REFUSED "\n");
    world_destroy(w);
}

static void no_action_after_the_last_round_is_answered(void **state) {
    (void)state;
    static const char *const last[] = {"<search>b</search>", "It is Lima.<|im_end|>", "</search>"};
    for (int i = 0; i < 3; i++) {
        world *w = world_of_tags("search-r1", "echo.q", "");
        rlf_str text = {0};
        w->limits.turns = 1;
        rlf_str_printf(&text, "<search>a</search>%snever", last[i]);
        const rlf_trajectory *t = play(w, text.ptr);
        assert_int_equal(w->service.calls, 1);
        assert_int_equal(t->finish, RLF_FINISH_TURN_LIMIT);
        assert_span(w, t, 3, RLF_SPAN_MODEL, 1, last[i]);
        assert_int_equal(t->spans.n, 4);
        rlf_str_clean_up(&text);
        world_destroy(w);
    }
}

static void two_tags_call_two_tools(void **state) {
    (void)state;
    world *w = world_of_tags("tool-star", "fail.q", "echo.code");
    const rlf_trajectory *t = play(w, "<search>a</search><python>\n1 < 2\n</python></python>It is so.<|im_end|>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, RESULT("error: tool_error: out of cheese"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<python>\n1 < 2\n</python>");
    assert_span(w, t, 4, RLF_SPAN_OBSERVATION, 1, RESULT("{\"code\":\"1 < 2\"}"));
    assert_span(w, t, 6, RLF_SPAN_OBSERVATION, 2, RESULT("error: There is no <python> before </python>."));
    assert_span(w, t, 7, RLF_SPAN_MODEL, 3, "It is so.<|im_end|>");
    assert_int_equal(t->turns.v[0].status, RLF_CALL_TOOL_ERROR);
    assert_int_equal(t->turns.v[2].status, RLF_CALL_BAD_CALL);
    assert_int_equal(w->service.last_score.bad_calls, 1);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void block_of_code_is_a_call(void **state) {
    (void)state;
    world *w = world_of_tags("fenced", "", "echo.code");
    const rlf_trajectory *t = play(w, "I compute.\n```python\n1 +\n  1\n```\nSo <answer>2</answer>");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "I compute.\n```python\n1 +\n  1\n```");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, OBSERVED("{\"code\":\"1 +\\n  1\"}"));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "\nSo <answer>2</answer>");
    world_destroy(w);
    w = world_of_tags("fenced", "", "echo.code");
    t = play(w, "```python\n1<|im_end|><answer>2</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0,
                "\n<|im_start|>assistant\n" OBSERVED("error: The block of code is not closed with ``` on a line of its own."));
    assert_int_equal(w->service.last_score.bad_calls, 1);
    world_destroy(w);
}

static void answer_in_the_models_own_turn_is_cut_by_tokens_or_not_asked_for(void **state) {
    (void)state;
    world *w = world_of_tags("search-r1", "long.q", "");
    w->limits.observation_tokens = 7;
    const rlf_trajectory *t = play(w, "<search>a</search><answer>x</answer>");
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0, INFORMATION("xxxxxxx"));
    assert_true(t->turns.v[0].cut);
    int64_t asked = t->spans.v[2].begin;
    world_destroy(w);
    w = world_of_tags("search-r1", "long.q", "");
    w->limits.tokens = asked + 32; /* the tags around an answer are 31, and one more is to be drawn: no room for the answer */
    t = play(w, "<search>a</search><answer>x</answer>");
    assert_int_equal(w->service.calls, 0);
    assert_int_equal(t->finish, RLF_FINISH_LENGTH_LIMIT);
    world_destroy(w);
}

static void answer_that_does_not_end_the_episode_lets_the_turn_go_on(void **state) {
    (void)state;
    rlf_chat_options chat = {.name = "chatml", .tool_format = "search-r1", .search_call = "echo.q"};
    world *w = world_as(8, chat, false);
    const rlf_trajectory *t = play(w, "<answer>a</answer><search>b</search>hm <answer>c</answer>.<|im_end|>never");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<answer>a</answer><search>b</search>");
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "hm <answer>c</answer>.<|im_end|>");
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

/* ---- a thought that the prompt opened ---------------------------------------------------------------------------------------------- */

#define OPENED(text) "<|im_start|>assistant\n<think>\n" text

static void what_stands_in_an_opened_thought_is_no_call_and_no_answer(void **state) {
    (void)state;
    world *w = world_with(8, "qwen3-thinking");
    const rlf_trajectory *t = play(w, "shall I " CALL("fail", "x") "?</think>" CALL("echo", "Peru")
                                      "<|im_end|><answer>no</answer></think><answer>Lima</answer>");
    assert_span(w, t, 0, RLF_SPAN_PROMPT, 0, "<|im_start|>user\nWhere?<|im_end|>\n" OPENED(""));
    assert_span(w, t, 2, RLF_SPAN_OBSERVATION, 0,
                "\n<|im_start|>user\n<tool_response>\n{\"q\":\"Peru\"}\n</tool_response><|im_end|>\n" OPENED(""));
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<answer>no</answer></think><answer>Lima</answer>");
    assert_int_equal(w->service.calls, 1);
    assert_text(t->turns.v[0].tool, "echo");
    assert_text(w->service.last_score.turns.v[1].text, "<think>\n<answer>no</answer></think><answer>Lima</answer>");
    world_destroy(w);
}

static void an_opened_thought_is_over_where_a_turn_goes_on_behind_an_answer(void **state) {
    (void)state;
    world *w = world_as(8, (rlf_chat_options){.name = "qwen3-thinking", .tool_format = "search-r1", .search_call = "echo.q"}, true);
    w->limits.observation_tokens = 300;
    const rlf_trajectory *t = play(w, "<search>no</search></think><search>Peru</search><answer>Lima</answer>");
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<search>no</search></think><search>Peru</search>");
    assert_span(w, t, 3, RLF_SPAN_MODEL, 1, "<answer>Lima</answer>");
    assert_int_equal(w->service.calls, 1);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

static void a_prompt_that_ends_in_a_tools_answer_opens_no_thought(void **state) {
    (void)state;
    world *w = world_as(8, (rlf_chat_options){.name = "qwen3-thinking", .tool_format = "search-r1", .search_call = "echo.q"}, true);
    rlf_said messages[] = {{.role = rlf_slice_of("user"), .content = rlf_slice_of("Where?")},
                           {.role = rlf_slice_of("assistant"), .content = rlf_slice_of("hm</think>\n\n<search>a</search>")},
                           {.role = rlf_slice_of("tool"), .content = rlf_slice_of("b")}};
    script(w, 1, 0, "<search>Peru</search><answer>Lima</answer>");
    assert_ok(try_submit_talk(w, 1, messages, 3));
    run(w);
    const rlf_trajectory *t = only(w);
    assert_span(w, t, 1, RLF_SPAN_MODEL, 0, "<search>Peru</search>");
    assert_int_equal(w->service.calls, 1);
    assert_int_equal(t->finish, RLF_FINISH_ANSWER);
    world_destroy(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_that_ends_in_a_tools_answer_opens_no_thought),
        cmocka_unit_test(llama_turn_that_is_a_call_is_answered_from_ipython),
        cmocka_unit_test(llama_calls_behind_the_python_tag_end_with_the_message),
        cmocka_unit_test(llama_turn_ended_by_end_of_text_is_closed_before_the_observation),
        cmocka_unit_test(llama_text_that_is_no_call_is_an_answer),
        cmocka_unit_test(answer_to_a_search_stands_in_the_models_own_turn),
        cmocka_unit_test(token_that_completes_a_tag_is_kept_with_what_it_holds_behind_it),
        cmocka_unit_test(tags_in_an_answer_are_never_read),
        cmocka_unit_test(turn_without_an_action_is_refused_and_counted),
        cmocka_unit_test(no_action_after_the_last_round_is_answered),
        cmocka_unit_test(two_tags_call_two_tools),
        cmocka_unit_test(block_of_code_is_a_call),
        cmocka_unit_test(answer_in_the_models_own_turn_is_cut_by_tokens_or_not_asked_for),
        cmocka_unit_test(answer_that_does_not_end_the_episode_lets_the_turn_go_on),
        cmocka_unit_test(what_stands_in_an_opened_thought_is_no_call_and_no_answer),
        cmocka_unit_test(an_opened_thought_is_over_where_a_turn_goes_on_behind_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
