/* A small HTTP service on the loop of the test (script_server.h). What it does is in the path:
 *   /echo            the body as it came, and the query string before it if there is one
 *   /headers         the request's head
 *   /retrieve        Search-R1's answer to the queries of the body: one passage each, "\"Q\"\nabout Q"; the query "broken" makes it a 500
 *   /fail30          a 500 for three requests of ten, else {"ok": true}
 *   /status/NNN      that status, body "status NNN"
 *   /reset           closes the connection with nothing said
 *   /greeting        what is no HTTP
 *   /stall           half of a body, then silence
 *   /huge            a body of 1 GB
 *   /endless         a body without a length that never ends
 *   /utf8 /json      a body that is not UTF-8, not JSON
 *   /rare            values that JSON seldom holds, under "a", and as /retrieve's passage
 *   /away /here      redirects (307) to another port, to /echo
 *   /to?URL          a redirect (307) to that URL
 *   /refuse          a 403 with 900 bytes, then the request's head and body
 *   /slow            {"ok": true} after slow_ms
 *   /tell            {"text": "Authorization and body"}, of the request */
#ifndef RLF_TESTS_LOOPBACK_H
#define RLF_TESTS_LOOPBACK_H

#include <jansson.h>

#include "script_server.h"

typedef struct loopback {
    script_server http;
    int slow_ms;
    const char *(*choose)(const char *body, size_t n); /* the path to take in place of the one asked for; NULL: as asked */
    size_t requests, most_queries;                     /* answered; in one /retrieve */
} loopback;

static void loopback_more(script_client *c) {
    static const char spaces[1 << 16];
    size_t n = c->left < sizeof spaces ? c->left : sizeof spaces;
    c->left -= n;
    if (n) script_put_bytes(c, spaces, n);
}

static void loopback_reply(script_client *c, int code, const char *headers, const char *body, size_t n) {
    ((loopback *)c->server->user)->requests++;
    script_reply_bytes(c, code, headers, body, n);
}

static void loopback_retrieve(script_client *c, const char *body, size_t n) {
    loopback *s = c->server->user;
    json_t *root = json_loadb(body, n, 0, NULL), *queries = json_object_get(root, "queries"), *result = json_array();
    bool broken = !json_is_integer(json_object_get(root, "topk")) || !json_is_true(json_object_get(root, "return_scores"));
    if (json_array_size(queries) > s->most_queries) s->most_queries = json_array_size(queries);
    for (size_t i = 0; i < json_array_size(queries); i++) {
        const char *query = json_string_value(json_array_get(queries, i));
        char contents[256];
        broken |= strcmp(query, "broken") == 0;
        snprintf(contents, sizeof contents, "\"%s\"\nabout %s", query, query);
        json_array_append_new(result, json_pack("[{s:{s:s, s:s}, s:f}]", "document", "id", "0", "contents", contents, "score", 0.5));
    }
    json_t *answer = json_pack("{s:o}", "result", result);
    char *text = json_dumps(answer, JSON_COMPACT);
    loopback_reply(c, broken ? 500 : 200, "", text, strlen(text));
    free(text);
    json_decref(answer);
    json_decref(root);
}

static void loopback_tell(script_client *c, const char *head, const char *body, size_t n) {
    const char *line = strcasestr(head, "\r\nAuthorization: ");
    rlf_str out = {0};
    if (line) rlf_str_append(&out, line + 17, strcspn(line + 17, "\r"));
    rlf_str_putc(&out, ' ');
    rlf_str_append(&out, body, n);
    json_t *answer = json_pack("{s:s%}", "text", out.ptr, out.len);
    char *text = json_dumps(answer, JSON_COMPACT);
    loopback_reply(c, 200, "", text, strlen(text));
    free(text);
    json_decref(answer);
    rlf_str_clean_up(&out);
}

static void loopback_slow(uv_timer_t *timer) { loopback_reply(timer->data, 200, "", "{\"ok\": true}", 12); }

static void loopback_raw(script_client *c, const char *text, size_t then) {
    c->left = then;
    script_put(c, text);
}

static bool loopback_is(const char *path, const char *name) {
    size_t n = strlen(name);
    return strncmp(path, name, n) == 0 && (path[n] == ' ' || path[n] == '?' || path[n] == '/');
}

static void loopback_answer(script_client *c, const char *head, const char *path, const char *body, size_t n) {
    loopback *s = c->server->user;
    char text[512];
    if (loopback_is(path, "/echo")) {
        rlf_str out = {0};
        if (path[5] == '?') rlf_str_append(&out, path + 5, strcspn(path + 5, " "));
        rlf_str_append(&out, body, n);
        loopback_reply(c, 200, "", out.ptr ? out.ptr : "", out.len);
        rlf_str_clean_up(&out);
    } else if (loopback_is(path, "/headers")) loopback_reply(c, 200, "", head, strlen(head));
    else if (loopback_is(path, "/retrieve")) loopback_retrieve(c, body, n);
    else if (loopback_is(path, "/fail30")) loopback_reply(c, s->requests % 10 < 3 ? 500 : 200, "", "{\"ok\": true}", 12);
    else if (loopback_is(path, "/status")) {
        int length = snprintf(text, sizeof text, "status %d", atoi(path + 8));
        loopback_reply(c, atoi(path + 8), "", text, (size_t)length);
    } else if (loopback_is(path, "/reset")) script_drop(c);
    else if (loopback_is(path, "/greeting")) loopback_raw(c, "220 mail ready\r\n", 0);
    else if (loopback_is(path, "/stall")) loopback_raw(c, "HTTP/1.1 200 x\r\nContent-Length: 20\r\n\r\n0123456789", 0);
    else if (loopback_is(path, "/huge")) loopback_raw(c, "HTTP/1.1 200 x\r\nContent-Length: 1073741824\r\n\r\n", (size_t)1 << 30);
    else if (loopback_is(path, "/endless")) loopback_raw(c, "HTTP/1.1 200 x\r\n\r\n", (size_t)1 << 40);
    else if (loopback_is(path, "/utf8")) loopback_reply(c, 200, "", "{\"a\": \"\xff\xfe\"}", 11);
    else if (loopback_is(path, "/json")) loopback_reply(c, 200, "", "{\"a\": ", 6);
    else if (loopback_is(path, "/rare")) {
        static const char rare[] =
            "{\"a\": [18446744073709551615, \"\\ud83d\"], \"result\": [[{\"document\": {\"contents\": \"T\\u0000\\nx\\u0000y\"}}]]}";
        loopback_reply(c, 200, "", rare, sizeof rare - 1);
    } else if (loopback_is(path, "/away")) {
        snprintf(text, sizeof text, "Location: http://127.0.0.1:%d/echo\r\n", c->server->port == 65535 ? 1 : c->server->port + 1);
        loopback_reply(c, 307, text, "", 0);
    } else if (loopback_is(path, "/here")) loopback_reply(c, 307, "Location: /echo\r\n", "", 0);
    else if (loopback_is(path, "/tell")) loopback_tell(c, head, body, n);
    else if (loopback_is(path, "/to")) {
        snprintf(text, sizeof text, "Location: %.*s\r\n", (int)strcspn(path + 4, " "), path + 4);
        loopback_reply(c, 307, text, "", 0);
    } else if (loopback_is(path, "/refuse")) {
        rlf_str out = {0};
        rlf_str_printf(&out, "%900s", "");
        rlf_str_puts(&out, head);
        rlf_str_append(&out, body, n);
        loopback_reply(c, 403, "", out.ptr, out.len);
        rlf_str_clean_up(&out);
    }
    else if (loopback_is(path, "/slow")) uv_timer_start(&c->timer, loopback_slow, (uint64_t)s->slow_ms, 0);
    else loopback_reply(c, 404, "", "no such path", 12);
}

static void loopback_request(script_client *c, void *user, const char *head, const char *body) {
    const loopback *s = user;
    loopback_answer(c, head, s->choose ? s->choose(body, strlen(body)) : strchr(head, ' ') + 1, body, strlen(body));
}

static bool loopback_start(loopback *s, uv_loop_t *loop) {
    *s = (loopback){.slow_ms = 100};
    if (!script_start(&s->http, loop, loopback_request, s)) return false;
    s->http.written = loopback_more;
    return true;
}

#endif
