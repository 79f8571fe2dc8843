/* Rule rewards: normalisation as the reference Python does it, F1, and what counts as the answer. */
#include "tests/test.h"

#include <math.h>
#include <string.h>

#include "toolsvc/reward.h"

static void check_normal(const char *text, const char *wanted) {
    rlf_str out = {0};
    toolsvc_reward_normalize(text, strlen(text), &out);
    assert_string_equal(out.ptr ? out.ptr : "", wanted);
    rlf_str_clean_up(&out);
}

static void normal_form_is_that_of_the_reference(void **state) {
    (void)state;
    check_normal("The Beatles", "beatles");
    check_normal("  A  cat,\tan owl\nand THE dog! ", "cat owl and dog");
    check_normal("U.S.A.", "usa");
    check_normal("theatre another Anna", "theatre another anna");
    check_normal("the", "");
    check_normal("A", "");
    check_normal("", "");
    check_normal("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "");
    check_normal("a-b the_end", "ab theend");
    check_normal("an a the an", "");
    check_normal("\xc3\x89" "COLE d'\xc3\x89t\xc3\xa9", "\xc3\xa9" "cole d\xc3\xa9t\xc3\xa9");
    check_normal("S\xc3\xa3o Paulo", "s\xc3\xa3o paulo");
    check_normal("M\xc3\x9cNCHEN", "m\xc3\xbcnchen");
    check_normal("\xc4\xb0stanbul", "i\xcc\x87stanbul");                 /* str.lower gives two code points */
    check_normal("\xe2\x80\x9cLima\xe2\x80\x9d", "\xe2\x80\x9clima\xe2\x80\x9d"); /* only ASCII punctuation goes */
    check_normal("1990\xe2\x80\x93" "95", "1990\xe2\x80\x93" "95");
    check_normal("a\xe2\x80\x93the", "\xe2\x80\x93");                    /* a dash is a word boundary */
    check_normal("x\xc2\xa0" "the\xe3\x80\x80y", "x y");                 /* no-break and ideographic space */
    check_normal("the\xc3\xa9", "the\xc3\xa9");                          /* é is a letter: no boundary */
    check_normal("a\xcc\x81", "\xcc\x81");                               /* a combining accent is not */
    check_normal("3 a 4", "3 4");
    check_normal("\xff" "The", "\xff");
    check_normal("\xe4\xb8\xad\xe5\x9b\xbd", "\xe4\xb8\xad\xe5\x9b\xbd");
}

static double f1_of(const char *a, const char *b) { return toolsvc_reward_f1(rlf_slice_of(a), rlf_slice_of(b)); }

static void f1_counts_words_as_a_multiset(void **state) {
    (void)state;
    assert_true(f1_of("lima", "lima") == 1);
    assert_true(f1_of("lima", "oslo") == 0);
    assert_true(fabs(f1_of("lima peru", "lima") - 2.0 / 3) < 1e-12);
    assert_true(fabs(f1_of("x x x", "x y") - 0.4) < 1e-12); /* P 1/3, R 1/2 */
    assert_true(fabs(f1_of("b a", "a b") - 1) < 1e-12);
    assert_true(f1_of("", "") == 1);
    assert_true(f1_of("x", "") == 0);
    assert_true(f1_of("", "x") == 0);
    assert_true(f1_of("ab", "a b") == 0);
}

typedef struct scored {
    int exact, format;
    double f1;
} scored;

static scored score_turns(const char *const *turns, size_t n, int64_t finish, int64_t bad_calls) {
    static const rlf_config config = {.reward = {.exact_match = 1, .f1 = 0.5, .format = 0.25}, .episode = {.tool_format = "auto"}};
    rlf_text texts[4], targets[2] = {{rlf_slice_of("Lima")}, {rlf_slice_of("City of Kings")}};
    rlf_score s = {.finish = finish, .bad_calls = bad_calls};
    for (size_t i = 0; i < n; i++) texts[i].text = rlf_slice_of(turns[i]);
    s.turns.v = texts, s.turns.n = n;
    s.targets.v = targets, s.targets.n = 2;
    rlf_component c[TOOLSVC_REWARD_COMPONENTS];
    toolsvc_reward_score(&config, &s, c);
    assert_true(rlf_slice_eq(c[0].name, "exact_match") && c[0].weight == 1);
    assert_true(rlf_slice_eq(c[1].name, "f1") && c[1].weight == 0.5);
    assert_true(rlf_slice_eq(c[2].name, "format") && c[2].weight == 0.25);
    return (scored){(int)c[0].value, (int)c[2].value, c[1].value};
}

static scored score_one(const char *turn) { return score_turns(&turn, 1, RLF_FINISH_ANSWER, 0); }

static void tagged_answer_is_graded(void **state) {
    (void)state;
    scored s = score_one("I think so. <answer> the LIMA. </answer>");
    assert_int_equal(s.exact, 1);
    assert_int_equal(s.format, 1);
    assert_true(s.f1 == 1);
    s = score_one("<answer>Lima, Peru</answer>");
    assert_int_equal(s.exact, 0);
    assert_true(fabs(s.f1 - 2.0 / 3) < 1e-12);
    assert_int_equal(score_one("<answer>the City of Kings!</answer>").exact, 1); /* any target */
}

static void last_answer_counts(void **state) {
    (void)state;
    assert_int_equal(score_one("<answer>Lima</answer> no, <answer>Oslo</answer>").exact, 0);
    assert_int_equal(score_one("<answer>Oslo</answer> no, <answer>Lima</answer>").exact, 1);
}

static void answer_inside_thinking_is_not_graded(void **state) {
    (void)state;
    scored s = score_one("<think><answer>Lima</answer></think> I do not know");
    assert_int_equal(s.exact, 0);
    assert_int_equal(s.format, 0);
    assert_int_equal(score_one("<think>Oslo? no</think> Lima").exact, 1);
    assert_int_equal(score_one("it was opened by the prompt</think>\n\nLima").exact, 1);
    assert_int_equal(score_one("Oslo <think> Lima").exact, 0);
}

static void text_without_tag_is_a_plain_answer_without_format(void **state) {
    (void)state;
    scored s = score_one("Lima.");
    assert_int_equal(s.exact, 1);
    assert_int_equal(s.format, 0);
    assert_true(s.f1 == 1);
    const char *turns[] = {"Lima <tool_call>x</tool_call>", "Oslo"};
    assert_int_equal(score_turns(turns, 2, RLF_FINISH_ANSWER, 0).exact, 0); /* the last turn only */
}

static void episode_cut_by_a_limit_has_no_plain_answer(void **state) {
    (void)state;
    const char *turn = "Lima";
    scored s = score_turns(&turn, 1, RLF_FINISH_LENGTH_LIMIT, 0);
    assert_int_equal(s.exact, 0);
    assert_true(s.f1 == 0);
    const char *call = "<tool_call>\n{\"name\": \"search\", \"arguments\": {\"query\": \"Lima\"}}\n</tool_call>";
    assert_true(score_turns(&call, 1, RLF_FINISH_TURN_LIMIT, 0).f1 == 0);
    assert_true(score_turns(NULL, 0, RLF_FINISH_ANSWER, 0).f1 == 0);
}

static void format_needs_the_tag_in_the_last_turn_and_clean_calls(void **state) {
    (void)state;
    const char *turns[] = {"<answer>Lima</answer>", "that is all"};
    scored s = score_turns(turns, 2, RLF_FINISH_ANSWER, 0);
    assert_int_equal(s.exact, 1);
    assert_int_equal(s.format, 0);
    assert_int_equal(score_turns(turns, 1, RLF_FINISH_ANSWER, 1).format, 0);
    assert_int_equal(score_turns(turns, 1, RLF_FINISH_TURN_LIMIT, 0).format, 0);
    assert_int_equal(score_turns(turns, 1, RLF_FINISH_ANSWER, 0).format, 1);
    assert_int_equal(score_one("<answer>Lima").format, 0);
}

/* The example in the prompt is answered right; the model said nothing. SCORE carries the model's turns alone, and nothing else
 * is looked at. */
static void text_of_the_prompt_is_never_graded(void **state) {
    (void)state;
    static const rlf_config config = {.reward = {.exact_match = 1}, .episode = {.tool_format = "auto"}};
    rlf_text turn = {rlf_slice_of("hm")}, target = {rlf_slice_of("Beijing")};
    rlf_score s = {.finish = RLF_FINISH_ANSWER, .extra = rlf_slice_of("For example, <answer> Beijing </answer>. Question: x"),
                   .data_source = rlf_slice_of("<answer>Beijing</answer>")};
    s.turns.v = &turn, s.turns.n = 1;
    s.targets.v = &target, s.targets.n = 1;
    rlf_component c[TOOLSVC_REWARD_COMPONENTS];
    toolsvc_reward_score(&config, &s, c);
    assert_true(c[0].value == 0 && c[1].value == 0 && c[2].value == 0);
}

static double exact_as(const char *format, const char *text) {
    rlf_config config = {.reward = {.exact_match = 1}, .episode = {.tool_format = (char *)(uintptr_t)format, .search_call = (char[]){"s.q"}, .python_call = (char[]){"p.c"}}};
    rlf_text turn = {rlf_slice_of(text)}, target = {rlf_slice_of("Lima")};
    rlf_score s = {.finish = RLF_FINISH_TURN_LIMIT};
    s.turns.v = &turn, s.turns.n = 1;
    s.targets.v = &target, s.targets.n = 1;
    rlf_component c[TOOLSVC_REWARD_COMPONENTS];
    toolsvc_reward_score(&config, &s, c);
    return c[0].value;
}

static void answer_inside_a_call_is_none_in_its_format(void **state) {
    (void)state;
    static const char code[] = "<python>x = '<answer>Lima</answer>'</python>", fence[] = "```python\n# <answer>Lima</answer>\n```";
    assert_true(exact_as("tool-star", code) == 0 && exact_as("fenced", fence) == 0);
    assert_true(exact_as("fenced", code) == 1 && exact_as("tool-star", fence) == 1 && exact_as("auto", code) == 1);
    assert_true(exact_as("tool-star", "<search>Peru") == 0 && exact_as("search-r1", "<think>a</think><answer> Lima. </answer>") == 1);
}

static void no_targets_score_nothing(void **state) {
    (void)state;
    static const rlf_config config = {.reward = {.exact_match = 1}, .episode = {.tool_format = "auto"}};
    rlf_text turn = {rlf_slice_of("<answer></answer>")};
    rlf_score s = {.finish = RLF_FINISH_ANSWER};
    s.turns.v = &turn, s.turns.n = 1;
    rlf_component c[TOOLSVC_REWARD_COMPONENTS];
    toolsvc_reward_score(&config, &s, c);
    assert_true(c[0].value == 0 && c[1].value == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normal_form_is_that_of_the_reference),
        cmocka_unit_test(f1_counts_words_as_a_multiset),
        cmocka_unit_test(tagged_answer_is_graded),
        cmocka_unit_test(last_answer_counts),
        cmocka_unit_test(answer_inside_thinking_is_not_graded),
        cmocka_unit_test(text_without_tag_is_a_plain_answer_without_format),
        cmocka_unit_test(episode_cut_by_a_limit_has_no_plain_answer),
        cmocka_unit_test(format_needs_the_tag_in_the_last_turn_and_clean_calls),
        cmocka_unit_test(text_of_the_prompt_is_never_graded),
        cmocka_unit_test(answer_inside_a_call_is_none_in_its_format),
        cmocka_unit_test(no_targets_score_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
