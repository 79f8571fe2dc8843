/* JSON-RPC messages: what is read of each kind, what is refused, what is written. */
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

#include "toolsvc/mcp/jsonrpc.h"

typedef struct seen {
    rlf_str text;
    int left; /* messages until the reading is told to stop; 0: never */
} seen;

static bool note(void *user, const toolsvc_rpc *m) {
    static const char *const types[] = {"request", "notification", "result", "failure"};
    seen *s = user;
    char *id = m->id ? json_dumps(m->id, JSON_ENCODE_ANY) : NULL, *value = NULL;
    if (m->params || m->result) value = json_dumps(m->params ? m->params : m->result, JSON_ENCODE_ANY | JSON_COMPACT);
    rlf_str_printf(&s->text, "%s %s %lld %s %s %lld %s|", types[m->type], id ? id : "-", (long long)m->number, m->method ? m->method : "-",
                   value ? value : "-", (long long)m->code, m->message);
    free(id);
    free(value);
    return s->left == 0 || --s->left > 0;
}

static void expect(const char *text, const char *wanted) {
    seen s = {0};
    assert_true(toolsvc_rpc_read(text, strlen(text), note, &s));
    assert_string_equal(s.text.ptr, wanted);
    rlf_str_clean_up(&s.text);
}

static void refused(const char *text) {
    seen s = {0};
    if (toolsvc_rpc_read(text, strlen(text), note, &s)) fail_msg("%s was accepted", text);
    assert_int_equal(s.text.len, 0);
}

static void messages_of_each_kind_are_read(void **state) {
    (void)state;
    expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", "request 1 -1 ping - 0 |");
    expect("{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"m\",\"params\":{\"x\":[1]}}", "request \"a\" -1 m {\"x\":[1]} 0 |");
    expect("{\"jsonrpc\":\"2.0\",\"method\":\"n\",\"params\":[]}", "notification - -1 n [] 0 |");
    expect("{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}", "result - 7 - {} 0 |");
    expect("{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":null}", "result - 7 - null 0 |");
    expect("{\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32602,\"message\":\"no\"}}", "failure - 7 - - -32602 no|");
    expect("{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700}}", "failure - -1 - - -32700 |");
    expect(" \n{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\r\n", "result - 7 - {} 0 |");
}

static void an_answer_to_a_text_id_is_none_of_ours(void **state) {
    (void)state;
    expect("{\"jsonrpc\":\"2.0\",\"id\":\"7\",\"result\":{}}", "result - -1 - {} 0 |");
}

static void the_messages_of_a_batch_come_in_order_until_the_reader_stops(void **state) {
    (void)state;
    static const char batch[] = "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1},{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":2}]";
    expect(batch, "result - 1 - 1 0 |result - 2 - 2 0 |");
    seen s = {.left = 1};
    assert_true(toolsvc_rpc_read(batch, strlen(batch), note, &s));
    assert_string_equal(s.text.ptr, "result - 1 - 1 0 |");
    rlf_str_clean_up(&s.text);
}

static void what_is_no_message_leaves_the_others_of_its_batch(void **state) {
    (void)state;
    static const char batch[] =
        "[{\"jsonrpc\":\"2.0\",\"method\":\"n\",\"params\":null},7,{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":2}]";
    seen s = {0};
    assert_false(toolsvc_rpc_read(batch, strlen(batch), note, &s));
    assert_string_equal(s.text.ptr, "result - 2 - 2 0 |");
    rlf_str_clean_up(&s.text);
}

static void what_is_no_message_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {
        "", "x", "{", "7", "null", "[]", "{}", "[7]", "\"text\"",
        "{\"id\":1,\"method\":\"m\"}",
        "{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"m\"}",
        "{\"jsonrpc\":2.0,\"id\":1,\"method\":\"m\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":1}",
        "{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"m\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":[],\"method\":\"m\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":3}",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":3}",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":\"text\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1,\"error\":{\"code\":1}}",
        "{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refused(bad[i]);
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    deep[100000] = '\0';
    refused(deep);
    free(deep);
}

static void bytes_that_are_not_utf8_are_replaced(void **state) {
    (void)state;
    expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"a\xff\"}", "result - 1 - \"a\xef\xbf\xbd\" 0 |");
}

static void values_that_are_rare_in_json_lose_no_message(void **state) {
    (void)state;
    expect("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":[18446744073709551616,\"\\ud83d\"]}",
           "result - 1 - [1.8446744073709552e19,\"\xef\xbf\xbd\"] 0 |");
}

static void messages_are_written_on_one_line(void **state) {
    (void)state;
    rlf_str out = {0};
    toolsvc_rpc_put_request(&out, 3, "tools/call", json_pack("{s:s, s:f}", "a", "x\ny", "b", 0.1));
    toolsvc_rpc_put_notification(&out, "n", NULL);
    json_t *id = json_string("q");
    toolsvc_rpc_put_result(&out, id, json_object());
    toolsvc_rpc_put_failure(&out, id, TOOLSVC_RPC_METHOD_NOT_FOUND, "no");
    json_decref(id);
    assert_string_equal(out.ptr, "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"tools/call\",\"params\":{\"a\":\"x\\ny\",\"b\":0.1}}"
                                 "{\"jsonrpc\":\"2.0\",\"method\":\"n\"}{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"result\":{}}"
                                 "{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"error\":{\"code\":-32601,\"message\":\"no\"}}");
    rlf_str_clean_up(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_of_each_kind_are_read),
        cmocka_unit_test(an_answer_to_a_text_id_is_none_of_ours),
        cmocka_unit_test(the_messages_of_a_batch_come_in_order_until_the_reader_stops),
        cmocka_unit_test(what_is_no_message_leaves_the_others_of_its_batch),
        cmocka_unit_test(what_is_no_message_is_refused),
        cmocka_unit_test(bytes_that_are_not_utf8_are_replaced),
        cmocka_unit_test(values_that_are_rare_in_json_lose_no_message),
        cmocka_unit_test(messages_are_written_on_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
