/* Results of MCP calls as text. */
#include "tests/test.h"

#include <string.h>

#include "toolsvc/mcp/mcp_content.h"

static void expect(const char *result, rlf_call_status status, const char *wanted) {
    json_t *value = json_loads(result, JSON_DECODE_ANY, NULL);
    rlf_str out = {0};
    assert_non_null(value);
    assert_int_equal(toolsvc_mcp_content(value, &out), status);
    assert_string_equal(out.ptr ? out.ptr : "", wanted);
    rlf_str_clean_up(&out);
    json_decref(value);
}

static void texts_are_joined(void **state) {
    (void)state;
    expect("{\"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", \"text\": \"b\\n\"}]}", RLF_CALL_OK, "a\nb\n");
    expect("{\"content\": []}", RLF_CALL_OK, "");
    expect("{\"content\": [{\"type\": \"text\"}, 7]}", RLF_CALL_OK, "\n[unknown]");
}

static void what_is_no_text_is_described(void **state) {
    (void)state;
    expect("{\"content\": [{\"type\": \"image\", \"mimeType\": \"image/png\", \"data\": \"AAAA\"}]}", RLF_CALL_OK, "[image: image/png, 3 bytes]");
    expect("{\"content\": [{\"type\": \"audio\", \"mimeType\": \"audio/wav\", \"data\": \"AAA=\"}]}", RLF_CALL_OK, "[audio: audio/wav, 2 bytes]");
    expect("{\"content\": [{\"type\": \"resource\", \"resource\": {\"uri\": \"file:///x\", \"blob\": \"AA==\"}}]}", RLF_CALL_OK, "[resource: file:///x, 1 bytes]");
    expect("{\"content\": [{\"type\": \"resource\", \"resource\": {\"uri\": \"file:///x\", \"text\": \"inside\"}}]}", RLF_CALL_OK, "inside");
    expect("{\"content\": [{\"type\": \"resource_link\", \"uri\": \"file:///y\", \"name\": \"y\"}, {\"type\": \"hologram\"}]}", RLF_CALL_OK, "[resource: file:///y]\n[hologram]");
}

static void structured_content_stands_in_for_text(void **state) {
    (void)state;
    expect("{\"content\": [], \"structuredContent\": {\"a\": [1, 2]}}", RLF_CALL_OK, "{\"a\":[1,2]}");
    expect("{\"structuredContent\": {\"a\": 0.1}}", RLF_CALL_OK, "{\"a\":0.1}");
    expect("{\"content\": [{\"type\": \"text\", \"text\": \"t\"}], \"structuredContent\": {\"a\": 1}}", RLF_CALL_OK, "t");
}

static void an_error_of_the_tool_is_one(void **state) {
    (void)state;
    expect("{\"content\": [{\"type\": \"text\", \"text\": \"no such file\"}], \"isError\": true}", RLF_CALL_TOOL_ERROR, "no such file");
}

static void what_is_no_result_of_a_call_is_the_servers_fault(void **state) {
    (void)state;
    expect("{}", RLF_CALL_INFRA, "");
    expect("{\"content\": \"text\"}", RLF_CALL_INFRA, "");
    expect("[1]", RLF_CALL_INFRA, "");
    expect("null", RLF_CALL_INFRA, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_joined),
        cmocka_unit_test(what_is_no_text_is_described),
        cmocka_unit_test(structured_content_stands_in_for_text),
        cmocka_unit_test(an_error_of_the_tool_is_one),
        cmocka_unit_test(what_is_no_result_of_a_call_is_the_servers_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
