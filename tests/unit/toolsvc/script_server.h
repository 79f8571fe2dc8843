/* An HTTP server on the loop of the test, on a free port of 127.0.0.1, that does what a function of the test says: `answer` gets every request
 * whole, and writes raw bytes with script_put, now or later; script_drop ends a connection. Connections are kept; a request has at
 * most 1 MiB. */
#ifndef RLF_TESTS_SCRIPT_SERVER_H
#define RLF_TESTS_SCRIPT_SERVER_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/base/mem.h"

typedef struct script_server script_server;
typedef struct script_client {
    uv_tcp_t tcp;
    uv_timer_t timer; /* for answers that come later */
    script_server *server;
    rlf_str in;
    size_t left; /* for `written`: what there is still to write */
    int handles; /* not yet closed */
} script_client;

/* head: from the method on, ended by an empty line; NUL terminated as body is. */
typedef void script_fn(script_client *client, void *user, const char *head, const char *body);

struct script_server {
    uv_tcp_t listener;
    int port;
    size_t connections, open; /* accepted, not yet closed */
    script_fn *answer;
    void (*written)(script_client *client); /* after each script_put; may be NULL */
    void *user;
};

typedef struct script_write {
    uv_write_t request;
    char *bytes;
} script_write;

static void script_gone(uv_handle_t *handle) {
    script_client *c = handle->data;
    if (--c->handles) return;
    c->server->open--;
    rlf_str_clean_up(&c->in);
    free(c);
}

static void script_drop(script_client *c) {
    if (uv_is_closing((uv_handle_t *)&c->tcp)) return;
    uv_close((uv_handle_t *)&c->tcp, script_gone);
    uv_close((uv_handle_t *)&c->timer, script_gone);
}

static void script_written(uv_write_t *request, int status) {
    script_write *w = (script_write *)request;
    script_client *c = request->data;
    free(w->bytes);
    free(w);
    if (status != 0) script_drop(c);
    else if (c->server->written) c->server->written(c);
}

static void script_put_bytes(script_client *c, const char *bytes, size_t n) {
    script_write *w = calloc(1, sizeof *w);
    w->bytes = rlf_calloc(n + 1, 1);
    memcpy(w->bytes, bytes, n);
    w->request.data = c;
    uv_buf_t buffer = uv_buf_init(w->bytes, (unsigned)n);
    if (uv_write(&w->request, (uv_stream_t *)&c->tcp, &buffer, 1, script_written) == 0) return;
    free(w->bytes);
    free(w);
    script_drop(c);
}

static void script_put(script_client *c, const char *text) { script_put_bytes(c, text, strlen(text)); }

/* A whole answer. headers: each ended by CR LF. */
static void script_reply_bytes(script_client *c, int code, const char *headers, const char *body, size_t n) {
    rlf_str out = {0};
    rlf_str_printf(&out, "HTTP/1.1 %d x\r\n%sContent-Length: %zu\r\n\r\n", code, headers, n);
    rlf_str_append(&out, body, n);
    script_put_bytes(c, out.ptr, out.len);
    rlf_str_clean_up(&out);
}

static inline void script_reply(script_client *c, int code, const char *headers, const char *body) {
    script_reply_bytes(c, code, headers, body, strlen(body));
}

static void script_parse(script_client *c) {
    char *end = c->in.ptr ? strstr(c->in.ptr, "\r\n\r\n") : NULL, *length = end ? strcasestr(c->in.ptr, "\r\nContent-Length:") : NULL;
    if (!end) return;
    size_t head = (size_t)(end - c->in.ptr) + 4, n = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    if (c->in.len < head + n) return;
    rlf_str first = {0}, body = {0};
    rlf_str_append(&first, c->in.ptr, head);
    rlf_str_append(&body, c->in.ptr + head, n);
    memmove(c->in.ptr, c->in.ptr + head + n, c->in.len - head - n + 1);
    c->in.len -= head + n;
    c->server->answer(c, c->server->user, first.ptr, body.ptr ? body.ptr : "");
    rlf_str_clean_up(&first);
    rlf_str_clean_up(&body);
}

static void script_room(uv_handle_t *handle, size_t wanted, uv_buf_t *buffer) {
    (void)handle, (void)wanted;
    *buffer = uv_buf_init(malloc(1 << 16), 1 << 16);
}

static void script_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    script_client *c = stream->data;
    if (n > 0) rlf_str_append(&c->in, buffer->base, (size_t)n);
    free(buffer->base);
    if (n < 0 || c->in.len > 1 << 20) script_drop(c);
    else if (n > 0) script_parse(c);
}

static void script_accept(uv_stream_t *listener, int status) {
    script_server *s = listener->data;
    if (status != 0) return;
    script_client *c = calloc(1, sizeof *c);
    c->server = s;
    c->handles = 2;
    s->connections++;
    s->open++;
    uv_tcp_init(listener->loop, &c->tcp);
    uv_timer_init(listener->loop, &c->timer);
    c->tcp.data = c->timer.data = c;
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) != 0) script_drop(c);
    else uv_read_start((uv_stream_t *)&c->tcp, script_room, script_read);
}

static bool script_start(script_server *s, uv_loop_t *loop, script_fn *answer, void *user) {
    struct sockaddr_in address;
    int size = sizeof address;
    *s = (script_server){.answer = answer, .user = user};
    uv_ip4_addr("127.0.0.1", 0, &address);
    uv_tcp_init(loop, &s->listener);
    s->listener.data = s;
    if (uv_tcp_bind(&s->listener, (struct sockaddr *)&address, 0) != 0 ||
        uv_listen((uv_stream_t *)&s->listener, 4096, script_accept) != 0) return false;
    if (uv_tcp_getsockname(&s->listener, (struct sockaddr *)&address, &size) != 0) return false;
    s->port = ntohs(address.sin_port);
    return true;
}

static inline void script_stop_one(uv_handle_t *handle, void *user) {
    if (handle->type == UV_TCP && handle != user && handle->data) script_drop(handle->data);
}

/* Closes all connections; no other TCP handle may be on the loop. */
static inline void script_stop(script_server *s) {
    uv_walk(s->listener.loop, script_stop_one, &s->listener);
    uv_close((uv_handle_t *)&s->listener, NULL);
    while (s->open) uv_run(s->listener.loop, UV_RUN_NOWAIT);
    uv_run(s->listener.loop, UV_RUN_NOWAIT);
}

#endif
