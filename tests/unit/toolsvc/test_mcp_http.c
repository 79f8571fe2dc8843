/* MCP sessions over HTTP, in both forms, against a server on the same loop that follows a script: what a function does is in its name. */
#include "tests/test.h"

#include <jansson.h>

#include "common/base/clock.h"
#include "script_server.h"
#include "toolsvc/mcp/mcp.h"

typedef struct world {
    uv_loop_t loop;
    script_server script;
    rlf_tool_config config;
    toolsvc_mcp_server *server;
    char url[64], *url_json;
    rlf_str log;          /* a line for each request: HTTP method, path, session, version, what it asks */
    script_client *events; /* the GET stream */
    json_int_t polled;     /* the call whose stream was broken off */
    int polls;             /* GETs that went on with it */
    int sessions;         /* begun */
    /* the script: */
    bool streams;         /* answers come as events, in pieces, with things between */
    bool legacy;          /* only the older form */
    bool mute;            /* initialize is never answered */
    bool no_get;          /* 405 */
    int notes;            /* status of the answer to notifications; 0: 202 */
    const char *version, *endpoint, *extra; /* extra: raw events before each streamed answer */
} world;

/* ---- the server ------------------------------------------------------------------------------------------------------------------------ */

static void header_of(const char *head, const char *name, char *out, size_t size) {
    const char *at = strcasestr(head, name);
    snprintf(out, size, "%.*s", at ? (int)strcspn(at + strlen(name), "\r\n") : 1, at ? at + strlen(name) : "-");
}

static void note_request(world *w, const char *head, const json_t *message) {
    char session[64], version[64];
    const char *method = json_string_value(json_object_get(message, "method"));
    header_of(head, "\r\nMcp-Session-Id: ", session, sizeof session);
    header_of(head, "\r\nMCP-Protocol-Version: ", version, sizeof version);
    char *text = message && !method ? json_dumps(message, JSON_COMPACT) : NULL;
    rlf_str_printf(&w->log, "%.*s %s %s %s\n", (int)(strchr(strchr(head, ' ') + 1, ' ') - head), head, session, version,
                   method ? method : text ? text : "-");
    free(text);
}

static json_t *text_result(const char *text, bool error) {
    return json_pack("{s:[{s:s, s:s}], s:b}", "content", "type", "text", "text", text, "isError", error);
}

static json_t *page_of(const json_t *params) {
    const char *cursor = json_string_value(json_object_get(params, "cursor"));
    if (cursor && strcmp(cursor, "2") == 0) return json_pack("{s:[{s:s, s:s, s:{s:s}}]}", "tools", "name", "echo", "description", "Says it again.",
                                                             "inputSchema", "type", "object");
    return json_pack("{s:[{s:s, s:{s:s}}], s:s}", "tools", "name", "other", "inputSchema", "type", "object", "nextCursor", "2");
}

/* NULL: no answer at all. */
static json_t *answer_to(world *w, const json_t *message) {
    const char *method = json_string_value(json_object_get(message, "method"));
    const json_t *params = json_object_get(message, "params");
    const char *name = json_string_value(json_object_get(params, "name"));
    json_t *result = NULL, *error = NULL;
    if (strcmp(method, "initialize") == 0) {
        result = json_pack("{s:s, s:{}, s:{s:s, s:s}}", "protocolVersion", w->version, "capabilities", "serverInfo", "name", "script", "version", "1");
    } else if (strcmp(method, "tools/list") == 0) result = page_of(params);
    else if (strcmp(name, "echo") == 0) result = text_result(json_string_value(json_object_get(json_object_get(params, "arguments"), "text")), false);
    else if (strcmp(name, "fails") == 0) result = text_result("it went wrong", true);
    else if (strcmp(name, "bad") == 0) error = json_pack("{s:i, s:s}", "code", -32602, "message", "no such thing");
    else if (strcmp(name, "broken") == 0) error = json_pack("{s:i, s:s}", "code", -32603, "message", "sorry");
    else return NULL;
    json_t *answer = json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id", json_object_get(message, "id"), result ? "result" : "error",
                               result ? result : error);
    return answer;
}

static void put_event(script_client *c, const char *data) {
    rlf_str out = {0};
    rlf_str_printf(&out, "event: message\r\ndata: %s\r\n\r\n", data);
    script_put(c, out.ptr);
    rlf_str_clean_up(&out);
}

static void put_answer(world *w, script_client *c, const json_t *message, const char *headers) {
    json_t *answer = answer_to(w, message);
    char *text = json_dumps(answer, JSON_COMPACT), head[256];
    bool first = strcmp(json_string_value(json_object_get(message, "method")), "initialize") == 0;
    if (w->streams && !first) {
        snprintf(head, sizeof head, "HTTP/1.1 200 x\r\n%sContent-Type: text/event-stream\r\n\r\n", headers);
        script_put(c, head);
        if (w->extra) script_put(c, w->extra);
        put_event(c, text);
        script_drop(c);
    } else {
        snprintf(head, sizeof head, "%sContent-Type: application/json\r\n", headers);
        script_reply(c, 200, head, text);
    }
    free(text);
    json_decref(answer);
}

/* Answers the call before this one, on this one's stream, which goes on. */
static void meddle(script_client *c, json_int_t id) {
    char answer[96];
    snprintf(answer, sizeof answer, "{\"jsonrpc\":\"2.0\",\"id\":%lld,\"result\":{}}", (long long)id - 1);
    script_put(c, "HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\n\r\n");
    put_event(c, answer);
    put_event(c, "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}");
}

/* The answer's stream, broken off on purpose: "polls" has the answer at the third GET, "forgets" at none. */
static void break_off(world *w, script_client *c, const char *name, json_int_t id) {
    char event[96];
    w->polled = id;
    w->polls = 0;
    snprintf(event, sizeof event, "id: %s/0\nretry: 5\ndata:\n\nid: lost\ndata: not ended", name);
    script_put(c, "HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\n\r\n");
    script_put(c, event);
    script_drop(c);
}

static void go_on(world *w, script_client *c, const char *last) {
    char event[160];
    script_put(c, "HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\n\r\n");
    snprintf(event, sizeof event, "id: polls/%d\ndata:\n\n", ++w->polls);
    if (w->polls == 3)
        snprintf(event, sizeof event, "data: {\"jsonrpc\":\"2.0\",\"id\":%lld,\"result\":{}}\n\n", (long long)w->polled);
    if (strncmp(last, "forgets", 7) != 0) script_put(c, event);
    script_drop(c);
}

/* True: the name of a function that breaks HTTP. */
static bool misbehave(world *w, script_client *c, const char *name, json_int_t id) {
    if (strcmp(name, "polls") == 0 || strcmp(name, "forgets") == 0) {
        break_off(w, c, name, id);
        return true;
    }
    if (strcmp(name, "meddle") == 0) {
        meddle(c, id);
        return true;
    }
    if (strcmp(name, "reset") == 0) script_drop(c);
    else if (strcmp(name, "s500") == 0) script_reply(c, 500, "", "oh");
    else if (strcmp(name, "gone") == 0) script_reply(c, 404, "", "no session");
    else if (strcmp(name, "refused") == 0) script_reply(c, 400, "", "no such session");
    else if (strcmp(name, "nobody") == 0)
        script_reply(c, 400, "Content-Type: application/json\r\n",
                     "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"no session\"}}");
    else if (strcmp(name, "wrong") == 0) {
        char text[128];
        snprintf(text, sizeof text, "{\"jsonrpc\":\"2.0\",\"id\":%lld,\"error\":{\"code\":-32602,\"message\":\"no such text\"}}",
                 (long long)id);
        script_reply(c, 400, "Content-Type: application/json\r\n", text);
    } else if (strcmp(name, "half") == 0) script_reply(c, 200, "Content-Type: application/json\r\n", "{\"jsonrpc\":");
    else if (strcmp(name, "another") == 0)
        script_reply(c, 200, "Content-Type: application/json\r\n", "{\"jsonrpc\":\"2.0\",\"id\":999,\"result\":{}}");
    else if (strcmp(name, "cut") == 0) {
        script_put(c, "HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"jsonrpc\"");
        script_drop(c);
    } else if (strcmp(name, "large") == 0) {
        script_put(c, "HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\n\r\n");
        for (int i = 0; i < 100; i++) script_put(c, "data: 01234567890123456789012345678901234567890123456789012345678901234567890123456789\n");
    } else return strcmp(name, "silence") == 0;
    return true;
}

static void take_post(world *w, script_client *c, const char *head, const json_t *message) {
    const char *method = json_string_value(json_object_get(message, "method"));
    const char *name = json_string_value(json_object_get(json_object_get(message, "params"), "name"));
    char headers[64] = "";
    if (w->legacy && strncmp(head, "POST /post", 10) != 0) {
        script_reply(c, 405, "", "");
        return;
    }
    if (!method || !json_object_get(message, "id")) {
        script_reply(c, w->notes ? w->notes : 202, "", "");
        return;
    }
    if (strcmp(method, "initialize") == 0) snprintf(headers, sizeof headers, "Mcp-Session-Id: s%d\r\n", ++w->sessions);
    if ((name && misbehave(w, c, name, json_integer_value(json_object_get(message, "id")))) || (w->mute && strcmp(method, "initialize") == 0)) return;
    if (!w->legacy) {
        put_answer(w, c, message, headers);
        return;
    }
    json_t *answer = answer_to(w, message);
    char *text = json_dumps(answer, JSON_COMPACT);
    script_reply(c, 202, "", "Accepted");
    put_event(w->events, text);
    free(text);
    json_decref(answer);
}

static void on_request(script_client *c, void *user, const char *head, const char *body) {
    world *w = user;
    json_t *message = *body ? json_loads(body, 0, NULL) : NULL;
    note_request(w, head, message);
    char last[64];
    header_of(head, "\r\nLast-Event-ID: ", last, sizeof last);
    if (strncmp(head, "GET", 3) == 0 && *last != '-') {
        rlf_str_printf(&w->log, "after %s\n", last);
        go_on(w, c, last);
    } else if (strncmp(head, "GET", 3) == 0) {
        char event[128];
        if (w->no_get) script_reply(c, 405, "", "");
        else script_put(c, "HTTP/1.1 200 x\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n: here\n\n");
        if (!w->no_get) w->events = c;
        snprintf(event, sizeof event, "event: endpoint\ndata: %s\n\n", w->endpoint);
        if (w->legacy) script_put(c, event);
    } else if (strncmp(head, "DELETE", 6) == 0) script_reply(c, 200, "", "");
    else take_post(w, c, head, message);
    json_decref(message);
}

/* ---- the client ------------------------------------------------------------------------------------------------------------------------ */

static int setup(void **state) {
    world *w = calloc(1, sizeof *w);
    *state = w;
    w->version = "2025-11-25";
    w->endpoint = "/post?s=1";
    if (uv_loop_init(&w->loop) != 0 || !script_start(&w->script, &w->loop, on_request, w)) return -1;
    snprintf(w->url, sizeof w->url, "\"http://127.0.0.1:%d/mcp\"", w->script.port);
    w->config = (rlf_tool_config){.name = "peer", .url = w->url, .max_bytes = 4096, .timeout_ms = 20000, .start_ms = 20000};
    return 0;
}

static int teardown(void **state) {
    world *w = *state;
    toolsvc_mcp_server_close(w->server);
    for (int64_t end = rlf_now_ms() + 5000; w->server && w->server->farewells && rlf_now_ms() < end;) uv_run(&w->loop, UV_RUN_NOWAIT);
    script_stop(&w->script);
    for (int i = 0; i < 10000 && uv_loop_alive(&w->loop); i++) uv_run(&w->loop, UV_RUN_NOWAIT);
    int left = uv_loop_close(&w->loop);
    rlf_str_clean_up(&w->log);
    free(w);
    return left;
}

static toolsvc_mcp *begin(world *w) {
    assert_ok(toolsvc_mcp_server_new(&w->server, &w->config, &w->loop));
    return toolsvc_mcp_new(w->server, true, false);
}

static void await_state(world *w, toolsvc_mcp *mcp, toolsvc_mcp_state wanted) {
    for (int64_t end = rlf_now_ms() + 20000; toolsvc_mcp_state_of(mcp) != wanted;) {
        if (rlf_now_ms() > end) fail_msg("state %d, %s", toolsvc_mcp_state_of(mcp), toolsvc_mcp_why(mcp));
        uv_run(&w->loop, UV_RUN_NOWAIT);
    }
}

static toolsvc_mcp *begin_well(world *w) {
    toolsvc_mcp *mcp = begin(w);
    await_state(w, mcp, TOOLSVC_MCP_READY);
    return mcp;
}

typedef struct outcome {
    int done;
    rlf_str text; /* "infra COUNT: why", "failure: why", or the result */
} outcome;

static void on_answer(void *user, const toolsvc_mcp_answer *answer) {
    outcome *o = user;
    char *result = answer->result ? json_dumps(answer->result, JSON_COMPACT) : NULL;
    o->done++;
    if (result) rlf_str_puts(&o->text, result);
    else rlf_str_printf(&o->text, "%s %s: %s", answer->infra ? "infra" : "failure", answer->count, answer->why);
    free(result);
}

static int64_t call(toolsvc_mcp *mcp, const char *name, outcome *o) {
    json_t *arguments = json_pack("{s:s}", "text", "h\xc3\xa9 \"x\"\n");
    int64_t id = toolsvc_mcp_call(mcp, name, arguments, on_answer, o);
    json_decref(arguments);
    return id;
}

static void await_done(world *w, outcome *o) {
    for (int64_t end = rlf_now_ms() + 20000; !o->done;) {
        assert_true(rlf_now_ms() < end);
        uv_run(&w->loop, UV_RUN_NOWAIT);
    }
}

static void expect(world *w, toolsvc_mcp *mcp, const char *name, const char *wanted) {
    outcome o = {0};
    call(mcp, name, &o);
    await_done(w, &o);
    assert_int_equal(o.done, 1);
    assert_string_equal(o.text.ptr, wanted);
    rlf_str_clean_up(&o.text);
}

static const char echoed[] = "{\"content\":[{\"type\":\"text\",\"text\":\"h\xc3\xa9 \\\"x\\\"\\n\"}],\"isError\":false}";

static void end(world *w, toolsvc_mcp *mcp) {
    toolsvc_mcp_destroy(mcp);
    toolsvc_mcp_server_close(w->server);
    for (int64_t late = rlf_now_ms() + 5000; w->loop.active_handles > 1 + w->script.open && rlf_now_ms() < late;) uv_run(&w->loop, UV_RUN_NOWAIT);
    w->server = NULL;
}

static void expect_log(const world *w, const char *line) {
    if (!strstr(w->log.ptr, line)) fail_msg("%s\nis not in\n%s", line, w->log.ptr);
}

/* ---- streamable HTTP ------------------------------------------------------------------------------------------------------------------- */

static void a_session_begins_lists_calls_and_ends(void **state) {
    world *w = *state;
    toolsvc_mcp *mcp = begin_well(w);
    assert_int_equal(json_array_size(toolsvc_mcp_functions(mcp)), 2); /* of two pages */
    expect(w, mcp, "echo", echoed);
    expect(w, mcp, "fails", "{\"content\":[{\"type\":\"text\",\"text\":\"it went wrong\"}],\"isError\":true}");
    end(w, mcp);
    expect_log(w, "POST /mcp - - initialize\n");
    expect_log(w, "POST /mcp s1 2025-11-25 notifications/initialized\n");
    expect_log(w, "GET /mcp s1 2025-11-25 -\n");
    expect_log(w, "POST /mcp s1 2025-11-25 tools/list\nPOST /mcp s1 2025-11-25 tools/list\nPOST /mcp s1 2025-11-25 tools/call\n");
    expect_log(w, "DELETE /mcp s1 2025-11-25 -\n");
    assert_true(strstr(w->log.ptr, "initialized") < strstr(w->log.ptr, "tools/list"));
}

static void earlier_revisions_are_spoken_and_unknown_ones_refused(void **state) {
    world *w = *state;
    w->version = "2025-06-18";
    toolsvc_mcp *mcp = begin_well(w);
    expect(w, mcp, "echo", echoed);
    end(w, mcp);
    expect_log(w, "POST /mcp s1 2025-06-18 tools/call\n");
    w->version = "2025-03-26";
    mcp = begin_well(w);
    expect(w, mcp, "echo", echoed);
    end(w, mcp);
    expect_log(w, "POST /mcp s2 - tools/call\n"); /* which had no such header */
    w->version = "1999-01-01";
    mcp = begin(w);
    await_state(w, mcp, TOOLSVC_MCP_LOST);
    assert_string_equal(toolsvc_mcp_why(mcp), "the server speaks version 1999-01-01 of the protocol, which is not known here");
    end(w, mcp);
}

static void answers_may_come_as_events_with_others_between(void **state) {
    world *w = *state;
    w->streams = true;
    w->extra = ": comment\r\n\r\nid: 1\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\r\ndata: \"params\":{\"progress\":1}}\r\n\r\n"
               "data: {\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"ping\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"roots/list\"}\n\n"
               "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\ndata: nonsense\n\n"
               "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":{\"a\":\"b\"}}}\n\n"
               "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/unheard/of\"}\n\n";
    toolsvc_mcp *mcp = begin_well(w);
    *toolsvc_mcp_news_of(mcp) = (toolsvc_mcp_news){0};
    expect(w, mcp, "echo", echoed);
    const toolsvc_mcp_news *news = toolsvc_mcp_news_of(mcp);
    assert_true(news->progress == 1 && news->tools_changed == 1 && news->invalid_messages == 1 && news->restarts == 0);
    for (int i = 0; i < 1000; i++) uv_run(&w->loop, UV_RUN_NOWAIT);
    expect_log(w, "{\"jsonrpc\":\"2.0\",\"id\":\"p\",\"result\":{}}\n");
    expect_log(w, "{\"jsonrpc\":\"2.0\",\"id\":5,\"error\":{\"code\":-32601,\"message\":\"method not found\"}}\n");
    end(w, mcp);
}

static void failures_of_a_call_are_told_from_those_of_the_server(void **state) {
    world *w = *state;
    toolsvc_mcp *mcp = begin_well(w);
    expect(w, mcp, "bad", "failure rpc_errors: no such thing (-32602)");
    expect(w, mcp, "broken", "infra rpc_errors: sorry (-32603)");
    expect(w, mcp, "s500", "infra http_5xx: the service answered with status 500");
    expect(w, mcp, "reset", "infra http_reset: the service gave no answer: Server returned nothing (no headers, no data)");
    expect(w, mcp, "half", "infra invalid_answer: the server's answer holds no answer to the request");
    expect(w, mcp, "another", "infra invalid_answer: the server's answer holds no answer to the request");
    expect(w, mcp, "cut", "infra invalid_answer: the server's answer holds no answer to the request");
    expect(w, mcp, "large", "infra http_too_large: the server's event is too large");
    expect(w, mcp, "echo", echoed);
    assert_int_equal(w->sessions, 1);
    end(w, mcp);
}

static void a_stream_that_breaks_off_is_resumed(void **state) {
    world *w = *state;
    toolsvc_mcp *mcp = begin_well(w);
    expect(w, mcp, "polls", "{}");
    assert_int_equal(w->polls, 3);
    expect(w, mcp, "forgets", "infra invalid_answer: the server's answer holds no answer to the request");
    assert_int_equal(w->polls, 1);
    outcome o = {0};
    toolsvc_mcp_cancel(mcp, call(mcp, "polls", &o));
    int64_t id = call(mcp, "polls", &o);
    while (w->polls) uv_run(&w->loop, UV_RUN_NOWAIT); /* until it has broken off */
    toolsvc_mcp_cancel(mcp, id);
    expect(w, mcp, "echo", echoed);
    assert_int_equal(toolsvc_mcp_news_of(mcp)->invalid_messages, 0);
    assert_int_equal(o.done, 0);
    end(w, mcp);
    expect_log(w, "GET /mcp s1 2025-11-25 -\nafter polls/0\nGET /mcp s1 2025-11-25 -\nafter polls/1\nGET /mcp s1 2025-11-25 -\nafter polls/2\n");
    expect_log(w, "after forgets/0\n");
}

static void a_forgotten_session_fails_its_calls_and_another_begins(void **state) {
    world *w = *state;
    toolsvc_mcp *mcp = begin_well(w);
    outcome waiting = {0};
    call(mcp, "silence", &waiting);
    expect(w, mcp, "gone", "infra mcp_sessions_lost: the server has forgotten the session");
    await_done(w, &waiting);
    assert_string_equal(waiting.text.ptr, "infra mcp_sessions_lost: the server has forgotten the session");
    rlf_str_clean_up(&waiting.text);
    expect(w, mcp, "echo", echoed);
    assert_int_equal(w->sessions, 2);
    assert_int_equal(toolsvc_mcp_news_of(mcp)->restarts, 1);
    expect_log(w, "POST /mcp s2 2025-11-25 tools/call\n");
    expect(w, mcp, "refused", "infra mcp_sessions_lost: the server has forgotten the session"); /* as many say it */
    expect(w, mcp, "echo", echoed);
    assert_int_equal(w->sessions, 3);
    expect(w, mcp, "nobody", "infra mcp_sessions_lost: the server has forgotten the session");
    expect(w, mcp, "echo", echoed);
    assert_int_equal(w->sessions, 4);
    end(w, mcp);
}

static void a_request_that_is_bad_in_itself_loses_no_session(void **state) {
    world *w = *state;
    toolsvc_mcp *mcp = begin_well(w);
    expect(w, mcp, "wrong", "failure rpc_errors: no such text (-32602)");
    expect(w, mcp, "echo", echoed);
    assert_int_equal(w->sessions, 1);
    end(w, mcp);
}

static void a_notification_that_is_refused_loses_nothing(void **state) {
    world *w = *state;
    w->notes = 400;
    toolsvc_mcp *mcp = begin_well(w);
    outcome o = {0};
    int64_t id = call(mcp, "silence", &o);
    for (int i = 0; i < 1000; i++) uv_run(&w->loop, UV_RUN_NOWAIT);
    toolsvc_mcp_cancel(mcp, id);
    expect(w, mcp, "echo", echoed);
    for (int i = 0; i < 1000; i++) uv_run(&w->loop, UV_RUN_NOWAIT);
    expect(w, mcp, "echo", echoed);
    assert_int_equal(w->sessions, 1);
    end(w, mcp);
    expect_log(w, "notifications/cancelled\n");
}

static void a_session_with_state_does_not_begin_again(void **state) {
    world *w = *state;
    assert_ok(toolsvc_mcp_server_new(&w->server, &w->config, &w->loop));
    toolsvc_mcp *mcp = toolsvc_mcp_new(w->server, false, true);
    expect(w, mcp, "echo", echoed); /* made before the session was there */
    expect(w, mcp, "gone", "infra mcp_sessions_lost: the server has forgotten the session");
    expect(w, mcp, "echo", "infra mcp_sessions_lost: the server has forgotten the session");
    assert_int_equal(w->sessions, 1);
    assert_null(strstr(w->log.ptr, "tools/list"));
    end(w, mcp);
}

static void a_cancelled_call_is_told_to_the_server(void **state) {
    world *w = *state;
    toolsvc_mcp *mcp = begin_well(w);
    outcome o = {0};
    int64_t id = call(mcp, "silence", &o);
    for (int i = 0; i < 1000; i++) uv_run(&w->loop, UV_RUN_NOWAIT);
    toolsvc_mcp_cancel(mcp, id);
    expect(w, mcp, "echo", echoed);
    assert_int_equal(o.done, 0);
    end(w, mcp);
    expect_log(w, "notifications/cancelled\n");
}

typedef struct rival {
    toolsvc_mcp *mcp;
    int64_t other;
    int done;
} rival;

static void cancel_other(void *user, const toolsvc_mcp_answer *answer) {
    rival *r = user;
    (void)answer;
    r->done++;
    toolsvc_mcp_cancel(r->mcp, r->other);
}

static void a_call_may_be_cancelled_by_what_its_own_stream_brings(void **state) {
    world *w = *state;
    toolsvc_mcp *mcp = begin_well(w);
    rival r = {.mcp = mcp};
    outcome o = {0};
    json_t *arguments = json_object();
    toolsvc_mcp_call(mcp, "silence", arguments, cancel_other, &r);
    json_decref(arguments);
    r.other = call(mcp, "meddle", &o);
    for (int64_t late = rlf_now_ms() + 20000; !r.done && rlf_now_ms() < late;) uv_run(&w->loop, UV_RUN_NOWAIT);
    assert_int_equal(r.done, 1);
    expect(w, mcp, "echo", echoed);
    assert_int_equal(o.done, 0);
    end(w, mcp);
}

static void a_server_without_a_stream_of_its_own_will_do(void **state) {
    world *w = *state;
    w->no_get = true;
    toolsvc_mcp *mcp = begin_well(w);
    expect(w, mcp, "echo", echoed);
    end(w, mcp);
}

static void a_server_that_does_not_begin_is_given_up(void **state) {
    world *w = *state;
    w->mute = true;
    w->config.start_ms = 100;
    toolsvc_mcp *mcp = begin(w);
    await_state(w, mcp, TOOLSVC_MCP_LOST);
    assert_string_equal(toolsvc_mcp_why(mcp), "the server was not ready within 100 ms");
    end(w, mcp);
}

/* ---- the older form ------------------------------------------------------------------------------------------------------------------- */

static void a_server_of_the_older_form_is_found_out(void **state) {
    world *w = *state;
    w->legacy = true;
    w->version = "2024-11-05";
    toolsvc_mcp *mcp = begin_well(w);
    assert_int_equal(json_array_size(toolsvc_mcp_functions(mcp)), 2);
    expect(w, mcp, "echo", echoed);
    expect(w, mcp, "bad", "failure rpc_errors: no such thing (-32602)");
    end(w, mcp);
    expect_log(w, "POST /mcp - - initialize\nGET /mcp - - -\nPOST /post?s=1 - - initialize\n");
    assert_null(strstr(w->log.ptr, "DELETE"));
}

static void the_older_form_may_be_chosen(void **state) {
    world *w = *state;
    w->legacy = true;
    w->config.transport = (char[]){"sse"};
    toolsvc_mcp *mcp = begin_well(w);
    expect(w, mcp, "echo", echoed);
    assert_true(strncmp(w->log.ptr, "GET /mcp", 8) == 0);
    script_drop(w->events);
    await_state(w, mcp, TOOLSVC_MCP_LOST);
    assert_string_equal(toolsvc_mcp_why(mcp), "the server ended its stream of events");
    expect(w, mcp, "echo", echoed); /* in another session */
    end(w, mcp);
}

static void an_endpoint_elsewhere_is_refused(void **state) {
    world *w = *state;
    static const char *const elsewhere[] = {"http://127.0.0.2/post", "https://127.0.0.1/post", "file:///etc/passwd", "//example.com/x"};
    w->legacy = true;
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++) {
        w->endpoint = elsewhere[i];
        toolsvc_mcp *mcp = begin(w);
        await_state(w, mcp, TOOLSVC_MCP_LOST);
        assert_string_equal(toolsvc_mcp_why(mcp), "the server names no endpoint of its own to post to");
        end(w, mcp);
    }
}

static void streamable_http_may_be_insisted_on(void **state) {
    world *w = *state;
    w->legacy = true;
    w->config.transport = (char[]){"http"};
    toolsvc_mcp *mcp = begin(w);
    await_state(w, mcp, TOOLSVC_MCP_LOST);
    assert_string_equal(toolsvc_mcp_why(mcp), "the server answered with status 405");
    end(w, mcp);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(a_session_begins_lists_calls_and_ends),
        CASE(earlier_revisions_are_spoken_and_unknown_ones_refused),
        CASE(answers_may_come_as_events_with_others_between),
        CASE(failures_of_a_call_are_told_from_those_of_the_server),
        CASE(a_stream_that_breaks_off_is_resumed),
        CASE(a_forgotten_session_fails_its_calls_and_another_begins),
        CASE(a_request_that_is_bad_in_itself_loses_no_session),
        CASE(a_notification_that_is_refused_loses_nothing),
        CASE(a_session_with_state_does_not_begin_again),
        CASE(a_cancelled_call_is_told_to_the_server),
        CASE(a_call_may_be_cancelled_by_what_its_own_stream_brings),
        CASE(a_server_without_a_stream_of_its_own_will_do),
        CASE(a_server_that_does_not_begin_is_given_up),
        CASE(a_server_of_the_older_form_is_found_out),
        CASE(the_older_form_may_be_chosen),
        CASE(an_endpoint_elsewhere_is_refused),
        CASE(streamable_http_may_be_insisted_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
