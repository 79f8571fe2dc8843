/* A small HTTP server on the loop of the test, on a free port of 127.0.0.1. What it does is in the path:
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
 *   /tell            {"text": "Authorization and body"}, of the request
 * Connections are kept; a request has at most 1 MiB. */
#ifndef RLF_TESTS_LOOPBACK_H
#define RLF_TESTS_LOOPBACK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/base/mem.h"

typedef struct loopback {
    uv_tcp_t listener;
    int port;
    int slow_ms;
    const char *(*choose)(const char *body, size_t n); /* the path to take in place of the one asked for; NULL: as asked */
    size_t connections, open, requests, most_queries; /* accepted; not closed; answered; in one /retrieve */
} loopback;

typedef struct loopback_client {
    uv_tcp_t tcp;
    uv_timer_t timer;
    loopback *server;
    rlf_str in;
    size_t left; /* of an endless body */
    int handles;
} loopback_client;

typedef struct loopback_write {
    uv_write_t request;
    rlf_str bytes;
} loopback_write;

static void loopback_gone(uv_handle_t *handle) {
    loopback_client *c = handle->data;
    if (--c->handles) return;
    c->server->open--;
    rlf_str_clean_up(&c->in);
    free(c);
}

static void loopback_drop(loopback_client *c) {
    if (uv_is_closing((uv_handle_t *)&c->tcp)) return;
    uv_close((uv_handle_t *)&c->tcp, loopback_gone);
    uv_close((uv_handle_t *)&c->timer, loopback_gone);
}

static void loopback_more(loopback_client *c);

static void loopback_written(uv_write_t *request, int status) {
    loopback_write *w = (loopback_write *)request;
    loopback_client *c = request->data;
    rlf_str_clean_up(&w->bytes);
    free(w);
    if (status != 0) loopback_drop(c);
    else if (c->left) loopback_more(c);
}

/* Takes over `bytes`. */
static void loopback_put(loopback_client *c, rlf_str bytes) {
    loopback_write *w = calloc(1, sizeof *w);
    w->bytes = bytes;
    w->request.data = c;
    uv_buf_t buffer = uv_buf_init(bytes.ptr, (unsigned)bytes.len);
    if (uv_write(&w->request, (uv_stream_t *)&c->tcp, &buffer, 1, loopback_written) != 0) {
        rlf_str_clean_up(&w->bytes);
        free(w);
        loopback_drop(c);
    }
}

static void loopback_more(loopback_client *c) {
    static const char spaces[1 << 16];
    rlf_str bytes = {0};
    size_t n = c->left < sizeof spaces ? c->left : sizeof spaces;
    rlf_str_append(&bytes, spaces, n);
    c->left -= n;
    loopback_put(c, bytes);
}

static void loopback_reply(loopback_client *c, int code, const char *headers, const char *body, size_t n) {
    rlf_str bytes = {0};
    c->server->requests++;
    rlf_str_printf(&bytes, "HTTP/1.1 %d x\r\n%sContent-Length: %zu\r\n\r\n", code, headers, n);
    rlf_str_append(&bytes, body, n);
    loopback_put(c, bytes);
}

static void loopback_retrieve(loopback_client *c, const char *body, size_t n) {
    json_t *root = json_loadb(body, n, 0, NULL), *queries = json_object_get(root, "queries"), *result = json_array();
    bool broken = !json_is_integer(json_object_get(root, "topk")) || !json_is_true(json_object_get(root, "return_scores"));
    if (json_array_size(queries) > c->server->most_queries) c->server->most_queries = json_array_size(queries);
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

static void loopback_tell(loopback_client *c, const char *head, const char *body, size_t n) {
    const char *line = strcasestr(head, "\r\nAuthorization: ");
    rlf_str out = {0};
    if (line && line < body) rlf_str_append(&out, line + 17, strcspn(line + 17, "\r"));
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

static void loopback_raw(loopback_client *c, const char *text, size_t then) {
    rlf_str bytes = {0};
    rlf_str_puts(&bytes, text);
    c->left = then;
    loopback_put(c, bytes);
}

static bool loopback_is(const char *path, const char *name) {
    size_t n = strlen(name);
    return strncmp(path, name, n) == 0 && (path[n] == ' ' || path[n] == '?' || path[n] == '/');
}

static void loopback_answer(loopback_client *c, const char *head, const char *path, const char *body, size_t n) {
    loopback *s = c->server;
    char text[512];
    if (loopback_is(path, "/echo")) {
        rlf_str out = {0};
        if (path[5] == '?') rlf_str_append(&out, path + 5, strcspn(path + 5, " "));
        rlf_str_append(&out, body, n);
        loopback_reply(c, 200, "", out.ptr ? out.ptr : "", out.len);
        rlf_str_clean_up(&out);
    } else if (loopback_is(path, "/headers")) loopback_reply(c, 200, "", head, (size_t)(body - head));
    else if (loopback_is(path, "/retrieve")) loopback_retrieve(c, body, n);
    else if (loopback_is(path, "/fail30")) loopback_reply(c, s->requests % 10 < 3 ? 500 : 200, "", "{\"ok\": true}", 12);
    else if (loopback_is(path, "/status")) {
        int length = snprintf(text, sizeof text, "status %d", atoi(path + 8));
        loopback_reply(c, atoi(path + 8), "", text, (size_t)length);
    } else if (loopback_is(path, "/reset")) loopback_drop(c);
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
        snprintf(text, sizeof text, "Location: http://127.0.0.1:%d/echo\r\n", s->port == 65535 ? 1 : s->port + 1);
        loopback_reply(c, 307, text, "", 0);
    } else if (loopback_is(path, "/here")) loopback_reply(c, 307, "Location: /echo\r\n", "", 0);
    else if (loopback_is(path, "/tell")) loopback_tell(c, head, body, n);
    else if (loopback_is(path, "/to")) {
        snprintf(text, sizeof text, "Location: %.*s\r\n", (int)strcspn(path + 4, " "), path + 4);
        loopback_reply(c, 307, text, "", 0);
    } else if (loopback_is(path, "/refuse")) {
        rlf_str out = {0};
        rlf_str_printf(&out, "%900s", "");
        rlf_str_append(&out, head, (size_t)(body - head) + n);
        loopback_reply(c, 403, "", out.ptr, out.len);
        rlf_str_clean_up(&out);
    }
    else if (loopback_is(path, "/slow")) uv_timer_start(&c->timer, loopback_slow, (uint64_t)s->slow_ms, 0);
    else loopback_reply(c, 404, "", "no such path", 12);
}

/* Answers the request in c->in if it is there whole. */
static void loopback_parse(loopback_client *c) {
    char *end = c->in.ptr ? strstr(c->in.ptr, "\r\n\r\n") : NULL, *length = c->in.ptr ? strcasestr(c->in.ptr, "\r\nContent-Length:") : NULL;
    const char *path = c->in.ptr ? strchr(c->in.ptr, ' ') : NULL;
    if (!end || !path) return;
    size_t head = (size_t)(end - c->in.ptr) + 4, n = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    if (c->in.len < head + n) return;
    path = c->server->choose ? c->server->choose(c->in.ptr + head, n) : path + 1;
    loopback_answer(c, c->in.ptr, path, c->in.ptr + head, n);
    memmove(c->in.ptr, c->in.ptr + head + n, c->in.len - head - n + 1);
    c->in.len -= head + n;
}

static void loopback_room(uv_handle_t *handle, size_t wanted, uv_buf_t *buffer) {
    (void)handle, (void)wanted;
    *buffer = uv_buf_init(malloc(1 << 16), 1 << 16);
}

static void loopback_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    loopback_client *c = stream->data;
    if (n > 0) rlf_str_append(&c->in, buffer->base, (size_t)n);
    free(buffer->base);
    if (n < 0 || c->in.len > 1 << 20) loopback_drop(c);
    else if (n > 0) loopback_parse(c);
}

static void loopback_accept(uv_stream_t *listener, int status) {
    loopback *s = listener->data;
    if (status != 0) return;
    loopback_client *c = calloc(1, sizeof *c);
    c->server = s;
    c->handles = 2;
    s->connections++;
    s->open++;
    uv_tcp_init(listener->loop, &c->tcp);
    uv_timer_init(listener->loop, &c->timer);
    c->tcp.data = c->timer.data = c;
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) != 0) loopback_drop(c);
    else uv_read_start((uv_stream_t *)&c->tcp, loopback_room, loopback_read);
}

static bool loopback_start(loopback *s, uv_loop_t *loop) {
    struct sockaddr_in address;
    int size = sizeof address;
    *s = (loopback){.slow_ms = 100};
    uv_ip4_addr("127.0.0.1", 0, &address);
    uv_tcp_init(loop, &s->listener);
    s->listener.data = s;
    if (uv_tcp_bind(&s->listener, (struct sockaddr *)&address, 0) != 0 ||
        uv_listen((uv_stream_t *)&s->listener, 4096, loopback_accept) != 0) return false;
    if (uv_tcp_getsockname(&s->listener, (struct sockaddr *)&address, &size) != 0) return false;
    s->port = ntohs(address.sin_port);
    return true;
}

static inline void loopback_stop_one(uv_handle_t *handle, void *user) {
    if (handle->type != UV_TCP || handle == user) return;
    loopback_drop(handle->data);
}

/* Closes all connections; the loop must still run. */
static inline void loopback_stop(loopback *s) {
    uv_walk(s->listener.loop, loopback_stop_one, &s->listener);
    uv_close((uv_handle_t *)&s->listener, NULL);
    while (s->open) uv_run(s->listener.loop, UV_RUN_NOWAIT);
    uv_run(s->listener.loop, UV_RUN_NOWAIT);
}

#endif
