/* Files of MCP servers: the shapes that other programs write, and the tools that a job gets from one. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config/servers.h"

static void expect(const char *text, const char *wanted) {
    json_t *servers;
    assert_ok(rlf_servers_parse(text, strlen(text), "s.json", &servers));
    char *found = json_dumps(servers, JSON_COMPACT);
    assert_string_equal(found, wanted);
    free(found);
    json_decref(servers);
}

static void refused(const char *text, const char *message) {
    json_t *servers;
    assert_int_not_equal(rlf_servers_parse(text, strlen(text), "s.json", &servers), RLF_OK);
    assert_string_equal(rlf_error_message(), message);
}

static void each_known_shape_is_read(void **state) {
    (void)state;
    expect("{\"mcpServers\": {\"a\": {\"command\": \"x\"}, \"b\": {\"url\": \"y\"}}}", "{\"a\":{\"command\":\"x\"},\"b\":{\"url\":\"y\"}}");
    expect("{\"servers\": {\"a\": {\"type\": \"stdio\"}}, \"inputs\": []}", "{\"a\":{\"type\":\"stdio\"}}");
    expect("{\"mcp\": {\"servers\": {\"a\": {}}}}", "{\"a\":{}}");
    expect("[{\"mcpServers\": {\"a\": {}}}, {\"mcpServers\": {\"b\": {}}}, \"another tool\"]", "{\"a\":{},\"b\":{}}");
    expect("{\"mcpServers\": {\"a\": {\"disabled\": true}, \"b\": {\"disabled\": false}}}", "{\"b\":{\"disabled\":false}}");
}

static void what_those_programs_allow_beside_json_is_read(void **state) {
    (void)state;
    expect("\xef\xbb\xbf{\"servers\": {\"a\": {}}}\r\n", "{\"a\":{}}");
    expect("// settings\n{\"servers\": { /* two */ \"a\": {\"args\": [\"//x\", \"#y\", \"/*z*/\",],},},} // end", "{\"a\":{\"args\":[\"//x\",\"#y\",\"/*z*/\"]}}");
    expect("[\n  # ours\n  {'mcpServers': {'a': {'args': ['it\\'s', 'say \"x\"', \"it's\", 'a\\\\b'], 'on': True, 'off': False, 'no': None}}}]",
           "{\"a\":{\"args\":[\"it's\",\"say \\\"x\\\"\",\"it's\",\"a\\\\b\"],\"on\":true,\"off\":false,\"no\":null}}");
}

static void what_is_no_such_file_is_refused(void **state) {
    (void)state;
    refused("{}", "s.json: a map \"mcpServers\" or \"servers\" was expected");
    refused("{\"mcpServers\": []}", "s.json: a map \"mcpServers\" or \"servers\" was expected");
    refused("{\"mcpServers\": {\"a\": 1}}", "s.json: server \"a\": a map with a command or a url was expected");
    refused("[{\"mcpServers\": {\"a\": {}}}, {\"mcpServers\": {\"a\": {}}}]", "s.json: server \"a\" is there twice");
    refused("{\n\"mcpServers\": {\n'a' {}}}", "s.json:3: not JSON: ':' expected near '{'");
    refused("", "s.json:1: not JSON: '[' or '{' expected near end of file");
}

static void a_tool_is_named_after_its_server(void **state) {
    (void)state;
    char name[65], wanted[65];
    rlf_server_tool_name("my server/v1.2-x", name, sizeof name);
    assert_string_equal(name, "my_server_v1_2-x");
    memset(wanted, 'a', 64);
    wanted[64] = '\0';
    rlf_server_tool_name("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", name, sizeof name);
    assert_string_equal(name, wanted);
}

/* ---- in a job -------------------------------------------------------------------------------------------------------------------------- */

static char path[] = "/tmp/rlf-servers-XXXXXX";

static int write_file(void **state) {
    static const char text[] = "{\"mcpServers\": {\"files\": {\"command\": \"x\", \"env\": {\"TOKEN\": \"hidden-value\"}}, \"my time\": {\"url\": \"http://h/\"}}}";
    (void)state;
    int fd = mkstemp(path);
    bool good = fd >= 0 && write(fd, text, sizeof text - 1) == (ssize_t)sizeof text - 1;
    if (fd >= 0) close(fd);
    return good ? 0 : -1;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

static rlf_status parse(rlf_config *config, const char *tools, const char *override) {
    char text[1024], *overrides[] = {(char *)(uintptr_t)override};
    snprintf(text, sizeof text, "mode: rl\noutput: o\nmodel: {path: m}\ndata: {train: t}\ntools:\n%s", tools);
    return rlf_config_parse(config, text, strlen(text), "job.yaml", overrides, override ? 1 : 0);
}

static void job_refused(const char *tools, const char *message) {
    rlf_config config;
    assert_int_not_equal(parse(&config, tools, NULL), RLF_OK);
    assert_string_equal(rlf_error_message(), message);
}

static void a_file_becomes_a_tool_for_each_server(void **state) {
    (void)state;
    rlf_config c, again;
    char tools[256], override[96];
    snprintf(tools, sizeof tools, "  - {name: calc, kind: calculator}\n  - {kind: mcp, timeout_ms: 77}\n  - {name: last, kind: calculator}\n");
    snprintf(override, sizeof override, "tools.1.file=%s", path);
    assert_ok(parse(&c, tools, override));
    assert_int_equal(c.n_tools, 4);
    static const char *const names[] = {"calc", "files", "my_time", "last"}, *const servers[] = {"", "files", "my time", ""};
    for (int i = 0; i < 4; i++) {
        assert_string_equal(c.tools[i].name, names[i]);
        assert_string_equal(c.tools[i].server, servers[i]);
    }
    assert_true(c.tools[1].timeout_ms == 77 && c.tools[2].timeout_ms == 77 && c.tools[3].timeout_ms == 10000);
    rlf_str dump = {0};
    rlf_config_dump(&c, &dump);
    assert_null(strstr(dump.ptr, "hidden-value")); /* what a server is stays in its file */
    assert_ok(rlf_config_parse(&again, dump.ptr, dump.len, "dump", NULL, 0));
    assert_int_equal(again.n_tools, 4);
    rlf_config_clean_up(&again);
    rlf_str_clean_up(&dump);
    rlf_config_clean_up(&c);
}

static void one_server_of_a_file_may_be_named(void **state) {
    (void)state;
    rlf_config c;
    char tools[256];
    snprintf(tools, sizeof tools, "  - {name: clock, kind: mcp, file: %s, server: my time}\n", path);
    assert_ok(parse(&c, tools, NULL));
    assert_true(c.n_tools == 1 && strcmp(c.tools[0].name, "clock") == 0 && strcmp(c.tools[0].server, "my time") == 0);
    rlf_config_clean_up(&c);
}

static void a_server_comes_from_one_place(void **state) {
    char tools[256], message[256];
    (void)state;
    job_refused("  - {name: a, kind: mcp}\n", "job.yaml:6: key 'tools.0.command': required for kind mcp: the program, or else url, or file");
    job_refused("  - {name: a, kind: mcp, command: [x], url: \"http://h/\"}\n", "job.yaml:6: key 'tools.0.command': expected only one of command, url and file");
    job_refused("  - {name: a, kind: mcp, url: \"http://h/\", server: x}\n", "job.yaml:6: key 'tools.0.file': required where server is set");
    snprintf(tools, sizeof tools, "  - {name: a, kind: mcp, file: %s}\n", path);
    snprintf(message, sizeof message, "key 'tools.0.file': %s lists 2 servers; expected at most 256 tools, and no key name: each has its server's", path);
    job_refused(tools, message);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_known_shape_is_read),
        cmocka_unit_test(what_those_programs_allow_beside_json_is_read),
        cmocka_unit_test(what_is_no_such_file_is_refused),
        cmocka_unit_test(a_tool_is_named_after_its_server),
        cmocka_unit_test(a_file_becomes_a_tool_for_each_server),
        cmocka_unit_test(one_server_of_a_file_may_be_named),
        cmocka_unit_test(a_server_comes_from_one_place),
    };
    return cmocka_run_group_tests(tests, write_file, remove_file);
}
