/* The kind "plugin" behind its dispatch, with libraries built for it: tests/peers/plugin.c in several ways, and the example
 * jobs/tools/dice.c. */
#include "tests/unit/toolsvc/tool_rig.h"

#define PLUGIN(name) (RLF_PLUGINS "/lib" name ".so")

static rlf_tool_config tool(const char *path, const char *state) {
    rlf_tool_config t = rig_tool("mine", "plugin");
    t.path = (char *)path, t.state = (char *)state;
    return t;
}

static void a_plugin_offers_its_functions_and_answers(void **state) {
    rlf_tool_config t = tool(PLUGIN("plugin_stateless"), "shared");
    t.options = "{\"a\": [1]}";
    rig_start(state, t);
    assert_int_equal(g->tools.n_functions, 2);
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"echo\", \"text\": \"h\\u00e9llo\"}"), "h\xc3\xa9llo");
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"options\"}"), "{\"a\": [1]}");
    rig_ask(g, 0, 0, "{\"what\": \"fail\"}");
    rig_assert(0, RLF_CALL_TOOL_ERROR, "error: no such thing");
    rig_ask(g, 0, 0, "{\"what\": \"infra\"}");
    rig_assert(0, RLF_CALL_INFRA, "error: out of order");
    rig_ask(g, 0, 0, "{\"what\": \"odd\"}");
    rig_assert(0, RLF_CALL_INFRA, "error: ");
}

static void an_answer_that_is_too_long_is_an_infrastructure_error(void **state) {
    rlf_tool_config t = tool(PLUGIN("plugin_stateless"), "shared");
    t.max_bytes = 100000;
    rig_start(state, t);
    rig_ask(g, 0, 0, "{\"what\": \"long\"}");
    rig_assert(0, RLF_CALL_INFRA, "error: the answer has more than 100000 bytes");
}

static void many_calls_run_at_once(void **state) {
    rig_start(state, tool(PLUGIN("plugin_stateless"), "shared"));
    char arguments[64];
    for (int i = 0; i < 300; i++) {
        snprintf(arguments, sizeof arguments, "{\"what\": \"echo\", \"text\": \"%d\"}", i);
        rig_submit(g, i, 0, arguments);
    }
    rig_await(g, 0, 300);
    for (int i = 0; i < 300; i++) assert_int_equal(atoi(g->calls[i].text), i);
}

static void an_episode_has_state_with_its_row(void **state) {
    rlf_tool_config t = tool(PLUGIN("plugin"), "episode");
    rig_start(state, t);
    for (int e = 0; e < RIG_EPISODES; e++) rig_submit(g, e, e, "{\"what\": \"extra\"}");
    rig_await(g, 0, RIG_EPISODES);
    for (int e = 0; e < RIG_EPISODES; e++) {
        char expected[32];
        snprintf(expected, sizeof expected, "{\"row\": %d}", e);
        assert_string_equal(g->calls[e].text, expected);
    }
}

static void an_episode_that_cannot_open_is_an_infrastructure_error(void **state) {
    rlf_tool_config t = tool(PLUGIN("plugin"), "episode");
    t.options = "\"no episodes\"";
    rig_start(state, t);
    rig_ask(g, 0, 0, "{\"what\": \"echo\"}");
    rig_assert(0, RLF_CALL_INFRA, "error: there is no room");
}

static void a_call_given_up_is_told_so(void **state) {
    rig_start(state, tool(PLUGIN("plugin"), "episode"));
    rig_submit(g, 0, 0, "{\"what\": \"wait\"}");
    rig_turn(g, 20);
    toolsvc_dispatch_leave(&g->calls[0].waiter, true);
    assert_string_equal(rig_ask(g, 1, 0, "{\"what\": \"echo\", \"text\": \"next\"}"), "next");
}

static void an_answer_holds_no_secret(void **state) {
    rlf_tool_config t = tool(PLUGIN("plugin_stateless"), "shared");
    setenv("KEY", "correct-horse", 1);
    t.secrets = "[\"KEY\"]";
    rig_start(state, t);
    assert_string_equal(rig_ask(g, 0, 0, "{\"what\": \"env\"}"), "[secret]");
}

/* Its throws follow from the seed, in whatever attempt. */
static void the_example_works(void **state) {
    char first[3][64];
    for (int attempt = 0; attempt < 2; attempt++) {
        rlf_tool_config t = tool(PLUGIN("dice"), "episode");
        t.options = "{\"sides\":1000}";
        rig_start(state, t);
        for (int i = 0; i < 3; i++) {
            rig_ask(g, 0, 1, "{}");
            if (attempt == 0) memcpy(first[i], g->calls[0].text, 64);
            else assert_string_equal(g->calls[0].text, first[i]);
        }
        assert_memory_equal(first[2], "throw 3: ", 9);
        assert_int_equal(rig_end(state), 0);
    }
    assert_string_not_equal(strchr(first[0], ':'), strchr(first[1], ':'));
}

static void what_is_wrong_with_a_plugin_is_told_before_the_start(void **state) {
    char message[1024];
    (void)state;
    rig_refuses(tool("libnothing.so", "shared"), "tools[0] (mine): key \"path\": libnothing.so: No such file or directory");
    rig_refuses(tool(PLUGIN("plugin"), "shared"),
                "tools[0] (mine): key \"state\": the plugin keeps state per episode; episode was expected");
    rig_refuses(tool(PLUGIN("plugin_stateless"), "episode"), "tools[0] (mine): key \"state\": the plugin keeps no state per episode");
    rig_refuses(tool(PLUGIN("plugin_no_run"), "episode"),
                "tools[0] (mine): key \"path\": the plugin lacks describe, run, or one of episode_open and episode_close");
    snprintf(message, sizeof message,
             "tools[0] (mine): key \"path\": %s is built for version 2 of toolsvc/plugin.h, and this program has version 1", PLUGIN("plugin_other_abi"));
    rig_refuses(tool(PLUGIN("plugin_other_abi"), "episode"), message);
    snprintf(message, sizeof message,
             "tools[0] (mine): key \"path\": %s has no function rlf_plugin_entry that gives a plugin (toolsvc/plugin.h)", PLUGIN("no_plugin"));
    rig_refuses(tool(PLUGIN("no_plugin"), "shared"), message);
    rlf_tool_config t = tool(PLUGIN("plugin"), "episode");
    t.options = "\"refuse\"";
    rig_refuses(t, "tools[0] (mine): the plugin refuses to open: it was told to refuse");
    static tool_rig r;
    t = tool(__FILE__, "shared");
    assert_error(rig_open(&r, &t), RLF_INVALID, "tools[0] (mine): key \"path\": it cannot be loaded: " __FILE__);
}

int main(void) {
#define CASE(f) cmocka_unit_test_teardown(f, rig_end)
    const struct CMUnitTest tests[] = {
        CASE(a_plugin_offers_its_functions_and_answers),
        CASE(an_answer_that_is_too_long_is_an_infrastructure_error),
        CASE(many_calls_run_at_once),
        CASE(an_episode_has_state_with_its_row),
        CASE(an_episode_that_cannot_open_is_an_infrastructure_error),
        CASE(a_call_given_up_is_told_so),
        CASE(an_answer_holds_no_secret),
        CASE(the_example_works),
        cmocka_unit_test(what_is_wrong_with_a_plugin_is_told_before_the_start),
    };
    return cmocka_run_group_tests_name("kind plugin", tests, NULL, NULL);
}
