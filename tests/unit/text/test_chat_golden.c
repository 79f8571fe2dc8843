/* Chat templates against transformers (tests/golden/make_chat.py), and what must hold of every one of those conversations: ids of the text
 * are the text's, and a conversation that grows keeps its ids. */
#include "tests/unit/text/talk.h"

static void expect_ids_of_text(const rlf_ids *ids, const rlf_str *text) {
    rlf_str back = {0};
    rlf_tokenizer_decode(tokenizer, ids->v, ids->n, false, &back);
    assert_int_equal(back.len, text->len);
    assert_memory_equal(back.ptr, text->ptr, text->len);
    rlf_str_clean_up(&back);
}

/* ---- as transformers renders ------------------------------------------------------------------------------------------------------ */

/* want: what the family writes, or NULL for the case's text. */
static void check_case(const char *family, const json_t *c, size_t number, const char *want) {
    rlf_row row = talk_of(c);
    rlf_chat *chat = chat_of(family, json_is_true(json_object_get(c, "thinking")), text_of(c, "date"));
    rlf_str text = {0};
    rlf_ids ids = {0};
    rlf_status status = rlf_chat_render(chat, row.messages, row.n_messages, text_of(c, "tools"),
                                        json_is_true(json_object_get(c, "generation")), &text, &ids);
    if (json_object_get(c, "refused")) {
        assert_int_equal(status, RLF_INVALID);
    } else {
        if (!want) want = text_of(c, "text");
        assert_ok(status);
        if (strcmp(text.ptr, want)) fail_msg("%s, case %zu:\n%s\nexpected:\n%s", family, number, text.ptr, want);
        expect_ids_of_text(&ids, &text);
    }
    rlf_ids_clean_up(&ids);
    rlf_str_clean_up(&text);
    rlf_chat_destroy(chat);
}

static void check_family(const char *name, const char *file, size_t at_least) {
    json_t *cases = golden(file);
    size_t rendered = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        check_case(name, json_array_get(cases, i), i, NULL);
        rendered += json_object_get(json_array_get(cases, i), "text") != NULL;
    }
    assert_true(rendered >= at_least);
    json_decref(cases);
}

static void qwen3_equals_transformers(void **state) {
    (void)state;
    check_family("qwen3", "chat_qwen3.json", 120);
}

/* With the templates of Qwen3-2507 make_chat.py gives the texts that Qwen3's has with thinking on, and one of them an opening behind the
 * generation prompt. */
static void qwen3_2507_equals_transformers(void **state) {
    (void)state;
    json_t *cases = golden("chat_qwen3.json");
    size_t rendered = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        bool generation = json_is_true(json_object_get(c, "generation"));
        if (generation && !json_is_true(json_object_get(c, "thinking"))) continue;
        check_case("qwen3-instruct", c, i, NULL);
        check_case("qwen3-thinking", c, i, rlf_arena_printf(&arena, "%s%s", text_of(c, "text"), generation ? "<think>\n" : ""));
        rendered++;
    }
    assert_true(rendered >= 60);
    json_decref(cases);
}

/* Where no thought is written or dropped, this template gives the text of Qwen3's. */
static void qwen3_instruct_plain_equals_transformers(void **state) {
    (void)state;
    json_t *cases = golden("chat_qwen3.json");
    size_t rendered = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        char *messages = json_dumps(json_object_get(c, "messages"), 0);
        bool thoughts = strstr(messages, "think>") || strstr(messages, "reasoning_content") || strstr(text_of(c, "text"), "<think>");
        free(messages);
        if (thoughts) continue;
        check_case("qwen3-instruct-plain", c, i, NULL);
        rendered++;
    }
    assert_true(rendered >= 30);
    json_decref(cases);
}

static void thoughts_are_text_in_qwen3_instruct_plain(void **state) {
    (void)state;
    static const rlf_chat_message messages[] = {{.role = "user", .content = "Q"}, {.role = "assistant", .content = "<think>a</think>\n\nb", .reasoning = "c"}};
    rlf_chat *chat = chat_of("qwen3-instruct-plain", true, NULL);
    rlf_str text = {0};
    assert_ok(rlf_chat_render(chat, messages, 2, NULL, false, &text, NULL));
    assert_string_equal(text.ptr, "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<think>a</think>\n\nb<|im_end|>\n");
    rlf_str_clean_up(&text);
    rlf_chat_destroy(chat);
}

static void qwen25_equals_transformers(void **state) {
    (void)state;
    check_family("qwen2.5", "chat_qwen2.5.json", 60);
}

/* The same but for one sentence, which no message of the cases has. */
static void qwen25_base_has_a_system_prompt_of_its_own(void **state) {
    (void)state;
    static const char instruct[] = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", base[] = "You are a helpful assistant.";
    json_t *cases = golden("chat_qwen2.5.json");
    size_t replaced = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const char *text = text_of(json_array_get(cases, i), "text"), *at = strstr(text, instruct);
        if (!at) continue;
        check_case("qwen2.5-base", json_array_get(cases, i), i,
                   rlf_arena_printf(&arena, "%.*s%s%s", (int)(at - text), text, base, at + strlen(instruct)));
        replaced++;
    }
    assert_true(replaced >= 30);
    json_decref(cases);
}

static void llama3_equals_transformers(void **state) {
    (void)state;
    check_family("llama3.1", "chat_llama3.1.json", 60);
    check_family("llama3.2", "chat_llama3.1.json", 60);
}

/* ---- what is rendered stays ------------------------------------------------------------------------------------------------------- */

typedef struct pieces {
    size_t end[64], n;
    bool model[64];
} pieces;

static void note(void *ctx, size_t begin, size_t end, bool model) {
    pieces *p = ctx;
    assert_true(p->n < 64);
    assert_int_equal(begin, p->n ? p->end[p->n - 1] : 0);
    p->end[p->n] = end;
    p->model[p->n++] = model;
}

static bool says(const rlf_row *row, size_t i, const char *role) { return !strcmp(row->messages[i].role, role); }

/* The talk up to each of its assistant messages: the ids of the shorter one begin those of the longer. */
static void check_prefixes(const rlf_chat *chat, const rlf_row *row) {
    rlf_ids before = {0}, now = {0};
    for (size_t n = 1; n <= row->n_messages; n++) {
        if (!says(row, n - 1, "assistant")) continue;
        pieces p = {.n = 0};
        now.n = 0;
        if (rlf_chat_supervised(chat, row->messages, n, NULL, 1000, &now, note, &p) != RLF_OK) break; /* one that is refused whole */
        assert_true(p.n % 2 == 0 && p.model[p.n - 1]);
        assert_true(now.n > before.n);
        if (before.n) assert_memory_equal(now.v, before.v, before.n * sizeof *now.v);
        before.n = 0;
        rlf_ids_append(&before, now.v, now.n);
    }
    rlf_ids_clean_up(&before);
    rlf_ids_clean_up(&now);
}

/* A rollout that samples these very turns has the same ids: the prompt, then turn by turn what follows. */
static void check_rollout(const rlf_chat *chat, const rlf_row *row) {
    rlf_ids whole = {0}, grown = {0};
    pieces p = {.n = 0};
    size_t first = 0, piece = 1;
    while (first < row->n_messages && !says(row, first, "assistant")) first++;
    if (first == 0 || rlf_chat_supervised(chat, row->messages, row->n_messages, NULL, 1000, &whole, note, &p) != RLF_OK) goto out;
    assert_ok(rlf_chat_prompt(chat, row->messages, first, NULL, &grown));
    assert_int_equal(grown.n, p.end[0]);
    for (size_t i = first, next; piece < p.n; i = next, piece += 2) {
        rlf_slice answers[8];
        size_t n = 0;
        rlf_ids_append(&grown, whole.v + p.end[piece - 1], p.end[piece] - p.end[piece - 1]); /* as sampled */
        assert_true(rlf_chat_closes_turn(chat, grown.v[grown.n - 1]));
        if (piece + 1 == p.n) break;
        for (next = i + 1; !says(row, next, "assistant"); next++) {
            if (!says(row, next, "tool")) goto out; /* a user's words between: not a rollout */
            answers[n++] = rlf_slice_of(row->messages[next].content);
        }
        rlf_chat_observation(chat, answers, n, 1000, (rlf_chat_end){grown.v[grown.n - 1], false}, &grown, NULL);
        assert_int_equal(grown.n, p.end[piece + 1]);
        assert_memory_equal(grown.v, whole.v, grown.n * sizeof *grown.v);
    }
out:
    rlf_ids_clean_up(&whole);
    rlf_ids_clean_up(&grown);
}

static void ids_of_a_conversation_that_grows_are_never_changed(void **state) {
    (void)state;
    static const char *const names[] = {"qwen3", "qwen2.5", "llama3.1", "chatml", "qwen3-instruct", "qwen3-instruct-plain", "qwen3-thinking"};
    json_t *cases = golden("chat_qwen3.json");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            rlf_row row = talk_of(json_array_get(cases, i));
            rlf_chat *chat = chat_of(names[k], json_is_true(json_object_get(json_array_get(cases, i), "thinking")), NULL);
            check_prefixes(chat, &row);
            check_rollout(chat, &row);
            rlf_chat_destroy(chat);
            rlf_arena_reset(&arena);
        }
    }
    json_decref(cases);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen3_equals_transformers),
        cmocka_unit_test(qwen3_2507_equals_transformers),
        cmocka_unit_test(qwen3_instruct_plain_equals_transformers),
        cmocka_unit_test(thoughts_are_text_in_qwen3_instruct_plain),
        cmocka_unit_test(qwen25_equals_transformers),
        cmocka_unit_test(qwen25_base_has_a_system_prompt_of_its_own),
        cmocka_unit_test(llama3_equals_transformers),
        cmocka_unit_test(ids_of_a_conversation_that_grows_are_never_changed),
    };
    return cmocka_run_group_tests(tests, set_up, clean_up);
}
