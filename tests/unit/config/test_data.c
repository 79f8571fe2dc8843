/* Data rows: the schemas that are read, and one line for each kind of broken row. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config/data.h"

#define ROW(truth) "{\"data_source\":\"nq\",\"prompt\":[{\"role\":\"user\",\"content\":\"q?\"}],\"reward_model\":{\"ground_truth\":" truth "}}"

static rlf_status parse(rlf_row *row, const char *line, bool supervised, rlf_arena *arena) {
    return rlf_row_parse(row, line, strlen(line), "d.jsonl", 7, supervised, arena);
}

/* Expects a message that begins so; what follows "not JSON: " are the JSON library's words. */
static void refused(const char *line, bool supervised, const char *message) {
    rlf_arena arena = {0};
    rlf_row row;
    assert_int_not_equal(parse(&row, line, supervised, &arena), RLF_OK);
    if (strncmp(rlf_error_message(), message, strlen(message)) != 0) assert_string_equal(rlf_error_message(), message);
    rlf_arena_clean_up(&arena);
}

static void a_row_of_the_schema_is_read(void **state) {
    (void)state;
    rlf_arena arena = {0};
    rlf_row row;
    assert_ok(parse(&row, "{\"data_source\":\"nq\",\"prompt\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"Wörld?\"}],"
                          "\"ability\":\"x\",\"reward_model\":{\"style\":\"rule\",\"ground_truth\":{\"target\":[\"a\",\"b\"]}},"
                          "\"extra_info\":{\"split\":\"test\",\"index\":12}}", false, &arena));
    assert_string_equal(row.data_source, "nq");
    assert_int_equal(row.n_messages, 2);
    assert_string_equal(row.messages[1].role, "user");
    assert_string_equal(row.messages[1].content, "Wörld?");
    assert_int_equal(row.n_targets, 2);
    assert_string_equal(row.targets[1], "b");
    assert_string_equal(row.extra, "{\"split\":\"test\",\"index\":12}");
    assert_string_equal(row.id, "12");
    rlf_arena_clean_up(&arena);
}

/* FlashRAG's and NQ-open's. */
static void a_lone_question_is_a_row(void **state) {
    (void)state;
    static const char *const lines[] = {"{\"id\":\"test_0\",\"question\":\" who wrote it \\n\",\"golden_answers\":[\"a\",\"b\"],\"answer\":7}",
                                        "{\"id\":\"test_0\",\"question\":\"who wrote it?\",\"answers\":[\"a\",\"b\"]}",
                                        "{\"id\":\"test_0\",\"question\":\"who wrote it?\",\"answer\":[\"a\",\"b\"]}"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        rlf_arena arena = {0};
        rlf_row row;
        assert_ok(parse(&row, lines[i], false, &arena));
        assert_int_equal(row.n_messages, 1);
        assert_string_equal(row.messages[0].role, "user");
        assert_string_equal(row.messages[0].content, "who wrote it?");
        assert_int_equal(row.n_targets, 2);
        assert_string_equal(row.targets[0], "a");
        assert_string_equal(row.id, "test_0");
        rlf_arena_clean_up(&arena);
    }
    refused("{\"question\":\" \",\"answer\":\"a\"}", false, "d.jsonl:7: 'question': expected a question");
    refused("{\"question\":5,\"answer\":\"a\"}", false, "d.jsonl:7: 'question': expected text without NUL");
    refused("{\"question\":\"q\",\"golden_answers\":[]}", false, "d.jsonl:7: 'golden_answers': expected at least one accepted answer");
    refused("{\"question\":\"q\"}", false, "d.jsonl:7: 'reward_model.ground_truth': expected the accepted answers; the key is missing");
    refused("{\"question\":\"q\",\"answer\":\"a\"}", true, "d.jsonl:7: 'messages': expected the whole conversation");
}

static void a_row_may_name_its_tools(void **state) {
    (void)state;
    rlf_arena arena = {0};
    rlf_row row;
#define TOOLS(list) "{\"prompt\":[{\"role\":\"user\",\"content\":\"x\"}],\"reward_model\":{\"ground_truth\":\"a\"},\"extra_info\":{\"tools\":" list "}}"
    assert_ok(parse(&row, TOOLS("[\"search\",\"calc\"]"), false, &arena));
    assert_int_equal(row.n_tools, 2);
    assert_string_equal(row.tools[1], "calc");
    assert_ok(parse(&row, TOOLS("[]"), false, &arena));
    assert_non_null(row.tools); /* none, which is not all */
    assert_int_equal(row.n_tools, 0);
    assert_ok(parse(&row, ROW("\"x\""), false, &arena));
    assert_null(row.tools);
    rlf_arena_clean_up(&arena);
    refused(TOOLS("\"search\""), false, "d.jsonl:7: 'extra_info.tools': expected a list of names of functions");
    refused(TOOLS("[1]"), false, "d.jsonl:7: 'extra_info.tools': expected a list of names of functions");
}

static void ground_truth_may_be_a_map_a_list_or_a_text(void **state) {
    (void)state;
    static const char *const lines[] = {ROW("{\"target\":[\"x\"]}"), ROW("{\"target\":\"x\"}"), ROW("[\"x\"]"), ROW("\"x\"")};
    rlf_arena arena = {0};
    rlf_row row;
    for (size_t i = 0; i < 4; i++) {
        assert_ok(parse(&row, lines[i], false, &arena));
        assert_int_equal(row.n_targets, 1);
        assert_string_equal(row.targets[0], "x");
        assert_string_equal(row.id, "7");
        assert_string_equal(row.extra, "");
    }
    rlf_arena_clean_up(&arena);
}

static void a_conversation_is_read_for_supervised_training(void **state) {
    (void)state;
    rlf_arena arena = {0};
    rlf_row row;
    assert_ok(parse(&row, "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"},"
                          "{\"role\":\"tool\",\"content\":\"t\"},{\"role\":\"assistant\",\"content\":\"b\"}]}", true,
                          &arena));
    assert_int_equal(row.n_messages, 4);
    assert_string_equal(row.messages[2].role, "tool");
    assert_int_equal(row.n_targets, 0);
    rlf_arena_clean_up(&arena);
}

static void what_is_not_read_may_be_any_json(void **state) {
    (void)state;
    rlf_arena arena = {0};
    rlf_row row;
    assert_int_equal(parse(&row, "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\",\"x\":\"\\u0000\"}],\"id\":18446744073709551615,\"data_source\":null,"
                                 "\"reward_model\":{\"ground_truth\":\"a\"},\"extra_info\":{\"tools\":null,\"index\":3,\"x\":\"\\u0000\"}}", false, &arena),
                     RLF_OK);
    assert_string_equal(row.data_source, "");
    assert_string_equal(row.id, "3");
    assert_null(row.tools);
    assert_string_equal(row.extra, "{\"tools\":null,\"index\":3,\"x\":\"\\u0000\"}");
    rlf_arena_clean_up(&arena);
}

static void broken_rows_say_where_and_what(void **state) {
    (void)state;
    refused("", false, "d.jsonl:7: byte 0: not JSON: ");
    refused("{\"prompt\":", false, "d.jsonl:7: byte 10: not JSON: ");
    refused("{} x", false, "d.jsonl:7: byte 4: not JSON: ");
    refused("[1]", false, "d.jsonl:7: expected a row {\"prompt\": [...], ...}");
    refused("{\"a\":1,\"a\":2}", false, "d.jsonl:7: byte 10: not JSON: ");
    refused("{\"a\":\"\xff\"}", false, "d.jsonl:7: byte 6: not JSON: ");
    refused("{\"a\":1e999}", false, "d.jsonl:7: byte 10: a number out of range: ");
    refused(ROW("\"\\u0000\""), false, "d.jsonl:7: 'reward_model.ground_truth': expected {\"target\": [...]}, a list of texts, or a text, without NUL");
    refused("{\"prompt\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}", false, "d.jsonl:7: 'prompt[0].content': expected text without NUL");
    refused("{\"prompt\":[{\"role\":\"user\\u0000\",\"content\":\"a\"}]}", false, "d.jsonl:7: 'prompt[0].role': expected one of");
    refused("{\"data_source\":1}", false, "d.jsonl:7: 'data_source': expected text");
    refused("{}", false, "d.jsonl:7: 'prompt': expected a list of chat messages (or 'question', a text); the key is missing");
    refused("{\"prompt\":\"text\"}", false, "d.jsonl:7: 'prompt': expected a list of at least one chat message");
    refused("{\"prompt\":[]}", false, "d.jsonl:7: 'prompt': expected a list of at least one chat message");
    refused("{\"prompt\":[\"x\"]}", false, "d.jsonl:7: 'prompt[0]': expected a map with role and content");
    refused("{\"prompt\":[{\"role\":\"human\",\"content\":\"x\"}]}", false, "d.jsonl:7: 'prompt[0].role': expected one of system, user, assistant, tool");
    refused("{\"prompt\":[{\"role\":\"user\",\"content\":null}]}", false, "d.jsonl:7: 'prompt[0].content': expected text");
    refused("{\"prompt\":[{\"role\":\"assistant\",\"content\":\"x\"}]}", false, "d.jsonl:7: 'prompt': expected a last message that is not the assistant's");
    refused("{\"prompt\":[{\"role\":\"user\",\"content\":\"x\"}]}", false,
            "d.jsonl:7: 'reward_model.ground_truth': expected the accepted answers; the key is missing");
    refused("{\"prompt\":[{\"role\":\"user\",\"content\":\"x\"}],\"reward_model\":1}", false, "d.jsonl:7: 'reward_model': expected a map with ground_truth");
    refused(ROW("[]"), false, "d.jsonl:7: 'reward_model.ground_truth': expected at least one accepted answer");
    refused(ROW("[1]"), false, "d.jsonl:7: 'reward_model.ground_truth': expected a list of texts only");
    refused(ROW("{\"answer\":\"x\"}"), false, "d.jsonl:7: 'reward_model.ground_truth': expected {\"target\": [...]}, a list of texts, or a text");
    refused(ROW("\"x\"},\"extra_info\":{\"index\":\"i\"},\"prompt2\":{\"x\":[1]"), true,
            "d.jsonl:7: 'messages': expected the whole conversation, a list of chat messages; the key is missing");
    refused("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", true, "d.jsonl:7: 'messages': expected at least one message of the assistant");
    refused("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"x\"}]}", false,
            "d.jsonl:7: 'messages': expected no message of the assistant: a question, not a conversation");
    refused("{\"prompt\":[{\"role\":\"user\",\"content\":\"x\"}],\"reward_model\":{\"ground_truth\":\"a\"},\"extra_info\":[]}", false,
            "d.jsonl:7: 'extra_info': expected a map");
}

/* A temporary file with these bytes; its path is static. */
static const char *file_with(const char *text, size_t n) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/rlf_test_data_%d.jsonl", (int)getpid());
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
    return path;
}

static void a_file_is_read_line_by_line(void **state) {
    (void)state;
    static const char text[] = "\xEF\xBB\xBF" ROW("\"a\"") "\r\n\n" ROW("\"b\"") "\n  \n" ROW("\"c\""); /* a byte order mark, blank lines, no newline at the end */
    rlf_dataset data;
    const char *path = file_with(text, sizeof text - 1);
    assert_ok(rlf_dataset_load(&data, path, false));
    assert_int_equal(data.n, 3);
    assert_string_equal(data.rows[1].targets[0], "b");
    assert_string_equal(data.rows[1].id, "3");
    assert_string_equal(data.rows[2].id, "5");
    assert_true(data.checksum == 0xeb75b3f61a8e9876); /* by another FNV-1a, of the three lines, each with its newline */
    rlf_dataset_clean_up(&data);
    unlink(path);
}

static void a_broken_line_of_a_file_is_named(void **state) {
    (void)state;
    static const char text[] = ROW("\"a\"") "\n" ROW("\"b\"") "\n{\"prompt\":7}\n";
    char message[128];
    rlf_dataset data;
    const char *path = file_with(text, sizeof text - 1);
    assert_int_equal(rlf_dataset_load(&data, path, false), RLF_INVALID);
    snprintf(message, sizeof message, "%s:3: 'prompt': expected a list of at least one chat message", path);
    assert_string_equal(rlf_error_message(), message);
    path = file_with("\n \n", 3);
    assert_error(rlf_dataset_load(&data, path, false), RLF_INVALID, ": no rows");
    unlink(path);
    assert_int_equal(rlf_dataset_load(&data, path, false), RLF_IO);
}

static void a_line_without_an_end_is_refused_before_it_fills_memory(void **state) {
    (void)state;
    size_t n = (size_t)17 << 20;
    char *text = malloc(n);
    rlf_dataset data;
    memset(text, ' ', n);
    const char *path = file_with(text, n);
    assert_error(rlf_dataset_load(&data, path, false), RLF_LIMIT, ":1: a row of more than 16777216 bytes");
    free(text);
    unlink(path);
}

static void real_questions_are_read(void **state) {
    (void)state;
    rlf_dataset data;
    if (access(RLF_SHARED "/data/xquad_test.jsonl", R_OK) != 0) {
        print_message("no " RLF_SHARED "/data: skipped\n");
        skip();
    }
    assert_ok(rlf_dataset_load(&data, RLF_SHARED "/data/xquad_test.jsonl", false));
    assert_int_equal(data.n, 179);
    for (size_t i = 0; i < data.n; i++) {
        assert_string_equal(data.rows[i].data_source, "xquad");
        assert_true(data.rows[i].n_targets > 0 && *data.rows[i].targets[0]);
        assert_non_null(strstr(data.rows[i].extra, "\"passage\":\"x"));
    }
    assert_string_equal(data.rows[0].targets[0], "Proving that any of these classes are unequal");
    assert_string_equal(data.rows[0].id, "56e1ee4de3433e1400423214");
    rlf_dataset_clean_up(&data);
    assert_ok(rlf_dataset_load(&data, RLF_SHARED "/data/nq_open_dev_1500.jsonl", false));
    assert_int_equal(data.n, 1500);
    assert_string_equal(data.rows[0].messages[0].content, "when was the last time anyone was on the moon?");
    assert_string_equal(data.rows[0].targets[1], "December 1972");
    rlf_dataset_clean_up(&data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_of_the_schema_is_read),
        cmocka_unit_test(a_lone_question_is_a_row),
        cmocka_unit_test(a_row_may_name_its_tools),
        cmocka_unit_test(ground_truth_may_be_a_map_a_list_or_a_text),
        cmocka_unit_test(a_conversation_is_read_for_supervised_training),
        cmocka_unit_test(what_is_not_read_may_be_any_json),
        cmocka_unit_test(broken_rows_say_where_and_what),
        cmocka_unit_test(a_file_is_read_line_by_line),
        cmocka_unit_test(a_broken_line_of_a_file_is_named),
        cmocka_unit_test(a_line_without_an_end_is_refused_before_it_fills_memory),
        cmocka_unit_test(real_questions_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
