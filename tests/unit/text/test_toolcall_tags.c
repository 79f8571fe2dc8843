/* Tool calls written as tags and blocks of code: what is read, when a turn ends, whatever pieces its text comes in. */
#include "tests/unit/text/golden.h"

#include "common/text/toolcall.h"

static rlf_arena arena;
static rlf_tool_call call;
static const rlf_tool_syntax search_r1 = {RLF_TOOLS_SEARCH_R1, "search.query", "python.code"},
                             tool_star = {RLF_TOOLS_TOOL_STAR, "search.query", "python.code"},
                             fenced = {RLF_TOOLS_FENCED, "search.query", "python.code"}, hermes = {RLF_TOOLS_HERMES, "", ""};
#define REFUSED                                                                                                                  \
    "My previous action is invalid. If I want to search, I should put the query between <search> and </search>. "                \
    "If I want to give the final answer, I should put the answer between <answer> and </answer>. Let me try again."

static int clean_up(void **state) {
    (void)state;
    rlf_arena_clean_up(&arena);
    return 0;
}

static size_t parse(const rlf_tool_syntax *syntax, const char *text) {
    size_t total;
    rlf_arena_reset(&arena);
    call = (rlf_tool_call){0};
    rlf_tool_calls_parse(syntax, text, strlen(text), &arena, &call, 1, &total);
    return total;
}

static void expect_call(const rlf_tool_syntax *syntax, const char *text, const char *name, const char *arguments) {
    if (parse(syntax, text) != 1 || call.error) fail_msg("%s: %s", text, call.error ? call.error : "no call");
    assert_string_equal(call.name, name);
    assert_string_equal(call.arguments, arguments);
}

static void expect_error(const rlf_tool_syntax *syntax, const char *text, const char *part) {
    if (parse(syntax, text) != 1 || !call.error || !strstr(call.error, part))
        fail_msg("%s: %s", text, call.error ? call.error : "no call, or a good one");
    assert_string_equal(call.arguments, "{}");
}

/* ---- what is read ----------------------------------------------------------------------------------------------------------------- */

static void a_search_is_the_text_of_its_tag_without_white_space_around_it(void **state) {
    (void)state;
    expect_call(&search_r1, "<think> I look. </think>\n<search> capital of Per\xc3\xba \n</search>", "search", "{\"query\":\"capital of Per\xc3\xba\"}");
    expect_call(&tool_star, "<search>a \"b\"\n\\c</search>", "search", "{\"query\":\"a \\\"b\\\"\\n\\\\c\"}");
    expect_call(&tool_star, "<search></search>", "search", "{\"query\":\"\"}");
}

static void code_keeps_its_indentation(void **state) {
    (void)state;
    expect_call(&tool_star, "<python>\n\n  if x:\n    y()\n \n</python>", "python", "{\"code\":\"  if x:\\n    y()\"}");
    expect_call(&fenced, "So:\n```python\n  a\n\n  b\n```", "python", "{\"code\":\"  a\\n\\n  b\"}");
    expect_call(&fenced, "```py \r\nprint(1)\n```", "python", "{\"code\":\"print(1)\"}");
}

static void a_tag_may_call_any_function(void **state) {
    (void)state;
    rlf_tool_syntax other = {RLF_TOOLS_TOOL_STAR, "wiki.v2.q", "calculator.expression"};
    expect_call(&other, "<search>a</search>", "wiki.v2", "{\"q\":\"a\"}");
    expect_call(&other, "<python>1+1</python>", "calculator", "{\"expression\":\"1+1\"}");
}

static void a_tag_that_calls_nothing_is_text(void **state) {
    (void)state;
    rlf_tool_syntax none = {RLF_TOOLS_TOOL_STAR, "search.query", ""}, all = {RLF_TOOLS_FENCED, NULL, NULL};
    assert_int_equal(parse(&none, "<python>1</python></python><python>"), 0);
    expect_call(&none, "<python><search>a</search></python>", "search", "{\"query\":\"a\"}");
    assert_int_equal(parse(&all, "```python\n1\n```"), 0);
    assert_int_equal(parse(&search_r1, "<answer>x</answer><python>1</python>"), 0); /* not a tag of this format */
}

static void what_follows_the_first_closing_tag_is_not_read(void **state) {
    (void)state;
    expect_call(&search_r1, "<search>a</search><search>b</search></search>", "search", "{\"query\":\"a\"}");
    expect_call(&fenced, "```python\na\n```\n```python\nb\n```", "python", "{\"code\":\"a\"}");
    assert_null(rlf_answer_find(&search_r1, "<search>a</search><answer>b</answer>", 36).ptr);
}

static void between_a_tag_and_its_closing_tag_everything_is_text(void **state) {
    (void)state;
    expect_call(&tool_star, "<python>x = '<search>a</search></think><answer>b</answer>'</python>", "python",
                "{\"code\":\"x = '<search>a</search></think><answer>b</answer>'\"}");
    expect_call(&search_r1, "<search>a <search> b</search>", "search", "{\"query\":\"a <search> b\"}");
    expect_call(&fenced, "```python\nx = 'a```b' # <answer>c</answer>\n```", "python", "{\"code\":\"x = 'a```b' # <answer>c</answer>\"}");
    assert_null(rlf_answer_find(&tool_star, "<python><answer>b</answer></python>", 35).ptr);
}

static void thoughts_and_answers_are_not_searched(void **state) {
    (void)state;
    assert_int_equal(parse(&tool_star, "<think><search>a</search> </python>"), 0);
    assert_int_equal(parse(&tool_star, "<answer><search>a</search></answer>"), 0);
    assert_int_equal(parse(&fenced, "<think>\n```python\na\n```\n</think> <answer>\n```python\nb\n```\n</answer>"), 0);
    expect_call(&search_r1, "<think><search>a</search></think><search>b</search>", "search", "{\"query\":\"b\"}");
    expect_call(&search_r1, "</think> <search>b</search>", "search", "{\"query\":\"b\"}");
}

static void blocks_of_other_languages_are_text(void **state) {
    (void)state;
    assert_int_equal(parse(&fenced, "```json\n{}\n```\n```\nplain\n```\n"), 0);
    assert_int_equal(parse(&fenced, " ```python\nnot at the beginning of its line\n"), 0);
    assert_int_equal(parse(&fenced, "```python inline```\n```pythonic\n\n```\n"), 0);
    expect_call(&fenced, "```\n```\n```python\na\n```", "python", "{\"code\":\"a\"}");
    expect_call(&fenced, "```sh\n```python\n```python\na\n```", "python", "{\"code\":\"a\"}"); /* the second fence closed the first */
}

static void malformed_calls_say_what_is_wrong(void **state) {
    (void)state;
    expect_error(&tool_star, "<search>Lima", "<search> is not closed with </search>");
    expect_error(&tool_star, "<python>1 </search>", "<python> is not closed with </python>");
    expect_error(&tool_star, "Lima</search>", "no <search> before </search>");
    expect_error(&tool_star, "1</python>", "no <python> before </python>");
    expect_error(&fenced, "```python\n1\n", "not closed with ```");
    expect_error(&tool_star, "<search>\xff</search>", "not valid UTF-8");
    assert_int_equal(parse(&tool_star, "I would say Lima."), 0);
    assert_int_equal(parse(&fenced, ""), 0);
}

static void a_search_r1_turn_without_an_action_is_refused_in_its_own_words(void **state) {
    (void)state;
    static const char *const texts[] = {"", "Lima.", "<search>Lima", "Lima</search>", "<think> <search>a</search>", "<answer>Lima", "</answer>",
                                        "<search>\xff</search>"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) expect_error(&search_r1, texts[i], REFUSED);
    assert_int_equal(parse(&search_r1, "<answer>Lima</answer> and more"), 0);
}

/* ---- when a turn ends ------------------------------------------------------------------------------------------------------------- */

typedef struct turn {
    const rlf_tool_syntax *syntax;
    const char *text;
    rlf_turn_event event;
    const char *content; /* NULL: a closing tag that nothing opened */
    size_t rest;         /* bytes behind what is complete */
} turn;

static const turn turns[] = {
    {&search_r1, "<think>a < b</think> <search> q </search>\n\n", RLF_TURN_CALL, " q ", 2},
    {&search_r1, "<think></search></think><answer>x<search></answer>", RLF_TURN_ANSWER, "x<search>", 0},
    {&search_r1, "q</search> ", RLF_TURN_CALL, NULL, 1},
    {&tool_star, "<sear<search>q</sear</search>!", RLF_TURN_CALL, "q</sear", 1},
    {&tool_star, "<python>1 <\xe2\x82\xac</python>", RLF_TURN_CALL, "1 <\xe2\x82\xac", 0},
    {&tool_star, "</python><python>", RLF_TURN_CALL, NULL, 8},
    {&fenced, "a\n```python\nx = '``'\n```\n", RLF_TURN_CALL, "x = '``'\n", 1},
    {&fenced, "```json\n``\n```\n```py\n```", RLF_TURN_CALL, "", 0},
    {&fenced, "```a language with a name that is far too long for python\n```\n<answer>b</answer>", RLF_TURN_ANSWER, "b", 0},
    {&fenced, "```python                                      \n```\n<answer>b</answer>", RLF_TURN_ANSWER, "b", 0},
    {&hermes, "<search>a</search>```python\n```<think></answer><answer></think><answer>b</answer>c", RLF_TURN_ANSWER, "b", 1},
};
enum { TURNS = sizeof turns / sizeof turns[0] };

/* The text in pieces that end where `ends` says (its last is the whole); the turn ends in the piece that holds its last byte, no sooner. */
static void expect_turn(const turn *t, const size_t *ends, size_t n) {
    rlf_turn_scan scan = {0};
    size_t last = strlen(t->text) - t->rest, i = 0;
    rlf_turn_event event = RLF_TURN_GOES_ON;
    while (i < n && (event = rlf_turn_scan_next(&scan, t->syntax, t->text, ends[i])) == RLF_TURN_GOES_ON) i++;
    if (event != t->event) fail_msg("%s: event %d", t->text, event);
    assert_true(ends[i] >= last && (i == 0 || ends[i - 1] < last));
    assert_int_equal(scan.at, last);
    if (!t->content) {
        assert_int_equal(scan.closed, 0);
        return;
    }
    assert_int_equal(scan.end - scan.begin, strlen(t->content));
    assert_memory_equal(t->text + scan.begin, t->content, strlen(t->content));
}

static void a_turn_ends_with_its_last_byte_however_its_text_is_cut(void **state) {
    (void)state;
    for (int t = 0; t < TURNS; t++) {
        size_t n = strlen(turns[t].text), ends[128];
        for (size_t i = 0; i < n; i++) ends[i] = i + 1;
        expect_turn(&turns[t], ends, n);
        for (size_t a = 0; a <= n; a++)
            for (size_t b = a; b <= n; b++) expect_turn(&turns[t], (size_t[]){a, b, n}, 3);
    }
}

/* At every point where generation may be cut off, the scan and the parse of the finished text agree. */
static void a_turn_cut_anywhere_is_parsed_as_it_was_followed(void **state) {
    (void)state;
    for (int t = 0; t < TURNS; t++) {
        for (size_t n = 0; n <= strlen(turns[t].text); n++) {
            char *text = rlf_arena_dup(&arena, turns[t].text, n);
            rlf_turn_scan scan = {0};
            rlf_turn_event event;
            while ((event = rlf_turn_scan_next(&scan, turns[t].syntax, text, n)) == RLF_TURN_ANSWER) continue;
            size_t total;
            call = (rlf_tool_call){0};
            rlf_tool_calls_parse(turns[t].syntax, text, n, &arena, &call, 1, &total);
            if (event == RLF_TURN_CALL) assert_int_equal(total, 1);
            else assert_true(total == 0 || call.error);
        }
        rlf_arena_reset(&arena);
    }
}

static rlf_tokenizer *golden_tokenizer(const char *path) {
    rlf_str json = {0};
    rlf_tokenizer *tokenizer = NULL;
    assert_ok(rlf_str_read_file(&json, path, 1 << 20));
    assert_ok(rlf_tokenizer_parse(&tokenizer, json.ptr, json.len, path));
    rlf_str_clean_up(&json);
    return tokenizer;
}

/* The turn in its tokens, and with two or three of them joined to one in every way. */
static void follow_tokens(const rlf_tokenizer *tokenizer, const turn *t) {
    rlf_ids ids = {0};
    rlf_str text = {0};
    size_t ends[128], pieces[128];
    rlf_tokenizer_encode(tokenizer, t->text, strlen(t->text), false, &ids);
    for (size_t i = 0; i < ids.n; i++) {
        rlf_tokenizer_decode(tokenizer, &ids.v[i], 1, true, &text);
        ends[i] = text.len;
    }
    assert_string_equal(text.ptr, t->text);
    for (size_t stride = 1; stride <= 3; stride++)
        for (size_t first = 0; first < stride && first < ids.n; first++) {
            size_t n = 0;
            for (size_t i = first; i < ids.n; i += stride) pieces[n++] = ends[i];
            if (pieces[n - 1] < text.len) pieces[n++] = text.len;
            expect_turn(t, pieces, n);
        }
    rlf_ids_clean_up(&ids);
    rlf_str_clean_up(&text);
}

static void a_turn_ends_with_the_token_that_completes_it(void **state) {
    (void)state;
    static const char *const paths[] = {RLF_GOLDEN "/text_tiny_tokenizer.json", RLF_GOLDEN "/text_llama_tokenizer.json"};
    for (int p = 0; p < 2; p++) {
        rlf_tokenizer *tokenizer = golden_tokenizer(paths[p]);
        for (int t = 0; t < TURNS; t++) follow_tokens(tokenizer, &turns[t]);
        rlf_tokenizer_destroy(tokenizer);
    }
}

/* ---- what tags call --------------------------------------------------------------------------------------------------------------- */

#define OFFER(name, properties, required)                                                                                        \
    "{\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"parameters\":{\"type\":\"object\",\"properties\":{" properties "},\"required\":[" required "]}}}"
#define OFFERED                                                                                                                  \
    "[" OFFER("search", "\"query\":{\"type\":\"string\"},\"k\":{\"type\":\"integer\"}", "\"query\"") ","                          \
    OFFER("python", "\"code\":{\"type\":[\"string\",\"null\"]}", "") "," OFFER("two", "\"a\":{},\"b\":{}", "\"a\",\"b\"") "]"

static void what_tags_call_must_be_on_offer(void **state) {
    (void)state;
    static const struct { rlf_tool_syntax syntax; const char *part; } cases[] = {
        {{RLF_TOOLS_HERMES, "none.q", "none.q"}, NULL},
        {{RLF_TOOLS_LLAMA, "", ""}, NULL},
        {{RLF_TOOLS_SEARCH_R1, "search.query", "none.q"}, NULL},
        {{RLF_TOOLS_TOOL_STAR, "search.query", "python.code"}, NULL},
        {{RLF_TOOLS_TOOL_STAR, "", "python.code"}, NULL},
        {{RLF_TOOLS_FENCED, "none.q", "python.code"}, NULL},
        {{RLF_TOOLS_SEARCH_R1, "wiki.query", ""}, "episode.search_call: no tool of the job is named \"wiki\""},
        {{RLF_TOOLS_SEARCH_R1, "search.q", ""}, "episode.search_call: the tool search has no argument \"q\""},
        {{RLF_TOOLS_SEARCH_R1, "search.k", ""}, "\"k\" of the tool search is not a string"},
        {{RLF_TOOLS_SEARCH_R1, "two.a", ""}, "the tool two needs \"b\" too"},
        {{RLF_TOOLS_SEARCH_R1, "", "python.code"}, "none of its tags calls a tool"},
        {{RLF_TOOLS_TOOL_STAR, "search.query", "calculator.expression"}, "episode.python_call: no tool of the job is named \"calculator\""},
        {{RLF_TOOLS_FENCED, "search.query", NULL}, "none of its tags calls a tool"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rlf_status status = rlf_tool_syntax_check(&cases[i].syntax, OFFERED);
        if (!cases[i].part) assert_ok(status);
        else if (status != RLF_INVALID || !strstr(rlf_error_message(), cases[i].part)) fail_msg("case %zu: %s", i, rlf_error_message());
    }
}

static void formats_have_names(void **state) {
    (void)state;
    static const char *const names[] = {"hermes", "llama", "search-r1", "tool-star", "fenced"};
    rlf_tool_format format;
    for (int i = 0; i < RLF_TOOLS_COUNT; i++) {
        assert_true(rlf_tool_format_parse(names[i], &format));
        assert_int_equal(format, i);
        assert_non_null(strstr(RLF_TOOL_FORMATS, names[i]));
    }
    assert_false(rlf_tool_format_parse("auto", &format));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_search_is_the_text_of_its_tag_without_white_space_around_it),
        cmocka_unit_test(code_keeps_its_indentation),
        cmocka_unit_test(a_tag_may_call_any_function),
        cmocka_unit_test(a_tag_that_calls_nothing_is_text),
        cmocka_unit_test(what_follows_the_first_closing_tag_is_not_read),
        cmocka_unit_test(between_a_tag_and_its_closing_tag_everything_is_text),
        cmocka_unit_test(thoughts_and_answers_are_not_searched),
        cmocka_unit_test(blocks_of_other_languages_are_text),
        cmocka_unit_test(malformed_calls_say_what_is_wrong),
        cmocka_unit_test(a_search_r1_turn_without_an_action_is_refused_in_its_own_words),
        cmocka_unit_test(a_turn_ends_with_its_last_byte_however_its_text_is_cut),
        cmocka_unit_test(a_turn_cut_anywhere_is_parsed_as_it_was_followed),
        cmocka_unit_test(a_turn_ends_with_the_token_that_completes_it),
        cmocka_unit_test(what_tags_call_must_be_on_offer),
        cmocka_unit_test(formats_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
