/* A loopback service for benchmarks: answers every call after the same latency, over HTTP/1.1 with connections kept.
 *
 *   tool_server LATENCY_MS     prints its port and serves until standard input ends
 *
 * GET /…      one JSON object, {"answered_ns": N}: the monotonic clock when the answer was written
 * POST /mcp   an MCP server (streamable HTTP, JSON answers, sessions) whose one tool, `echo`, gives back its text
 *
 * One thread, one libuv loop. A connection has one request at a time; what it sends early waits. The peer is a benchmark of ours: what
 * cannot be read closes the connection. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <uv.h>

#include "common/base/clock.h"
#include "common/base/mem.h"

enum { MOST_BYTES = 1 << 20, BACKLOG = 4096, BASE = 10 };

static int64_t g_latency_ms;
static char *g_open; /* (cap) whether session i is open */
static size_t g_sessions, g_open_cap;

typedef struct peer {
    uv_tcp_t tcp;
    uv_timer_t timer; /* of the answer that waits */
    uv_write_t write;
    rlf_str in, out;
    size_t used;      /* bytes of `in` that the request in hand takes */
    bool busy, stamped;
    int handles;      /* not yet closed */
} peer;

typedef struct request {
    rlf_slice method, path, body;
    size_t session; /* 1 + its number; 0: none named */
    size_t bytes;   /* with its head */
} request;

/* ---- a connection ------------------------------------------------------------------------------------------------------------------ */

static void serve(peer *p);

static void on_handle_closed(uv_handle_t *handle) {
    peer *p = handle->data;
    if (--p->handles > 0) return;
    rlf_str_clean_up(&p->in);
    rlf_str_clean_up(&p->out);
    free(p);
}

static void hang_up(peer *p) {
    if (uv_is_closing((uv_handle_t *)&p->tcp)) return;
    uv_close((uv_handle_t *)&p->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&p->timer, on_handle_closed);
}

static void on_written(uv_write_t *write, int error) {
    peer *p = write->data;
    if (error) return hang_up(p);
    memmove(p->in.ptr, p->in.ptr + p->used, p->in.len - p->used);
    p->in.len -= p->used;
    p->in.ptr[p->in.len] = '\0';
    p->busy = false;
    serve(p);
}

static void put_answer(peer *p, const char *status, const char *headers, const char *body) {
    rlf_str_reset(&p->out);
    rlf_str_printf(&p->out, "HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n%s", status, headers,
                   strlen(body), body);
}

static void write_answer(uv_timer_t *timer) {
    peer *p = timer->data;
    if (p->stamped) {
        char body[64];
        snprintf(body, sizeof body, "{\"answered_ns\": \"%" PRId64 "\"}", rlf_now_ns());
        put_answer(p, "200 OK", "", body);
    }
    uv_buf_t buffer = uv_buf_init(p->out.ptr, (unsigned)p->out.len);
    if (uv_write(&p->write, (uv_stream_t *)&p->tcp, &buffer, 1, on_written) != 0) hang_up(p);
}

/* ---- MCP --------------------------------------------------------------------------------------------------------------------------- */

static json_t *initialize(const json_t *params) {
    const char *version = json_string_value(json_object_get(params, "protocolVersion"));
    return json_pack("{s:s, s:{s:{}}, s:{s:s, s:s}}", "protocolVersion", version ? version : "2025-06-18", "capabilities", "tools",
                     "serverInfo", "name", "tool_server", "version", "1");
}

static json_t *list_tools(void) {
    return json_pack("{s:[{s:s, s:s, s:{s:s, s:{s:{s:s}}, s:[s]}}]}", "tools", "name", "echo", "description", "Gives back its text.",
                     "inputSchema", "type", "object", "properties", "text", "type", "string", "required", "text");
}

static json_t *call_tool(const json_t *params) {
    const char *text = json_string_value(json_object_get(json_object_get(params, "arguments"), "text"));
    return json_pack("{s:[{s:s, s:s}], s:b}", "content", "type", "text", "text", text ? text : "", "isError", !text);
}

/* NULL: there is no such method. */
static json_t *result_of(const char *method, const json_t *params) {
    if (strcmp(method, "initialize") == 0) return initialize(params);
    if (strcmp(method, "tools/list") == 0) return list_tools();
    if (strcmp(method, "tools/call") == 0) return call_tool(params);
    if (strcmp(method, "ping") == 0) return json_object();
    return NULL;
}

static size_t open_session(void) {
    g_open = rlf_grow(g_open, g_sessions, &g_open_cap, sizeof *g_open);
    g_open[g_sessions] = 1;
    return g_sessions++;
}

static void put_result(peer *p, const char *method, json_t *id, json_t *result) {
    char session[64] = "";
    json_t *answer = result ? json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id", id, "result", result)
                            : json_pack("{s:s, s:O, s:{s:i, s:s}}", "jsonrpc", "2.0", "id", id, "error", "code", -32601, "message",
                                        "method not found");
    char *body = json_dumps(answer, JSON_COMPACT);
    if (strcmp(method, "initialize") == 0) snprintf(session, sizeof session, "Mcp-Session-Id: %zu\r\n", open_session());
    put_answer(p, "200 OK", session, body);
    free(body);
    json_decref(answer);
}

/* How long the answer waits. */
static int64_t take_message(peer *p, const request *r) {
    json_t *message = json_loadb(r->body.ptr, r->body.len, 0, NULL);
    const char *method = json_string_value(json_object_get(message, "method"));
    json_t *id = json_object_get(message, "id");
    int64_t wait_ms = 0;
    if (!method) put_answer(p, "400 Bad Request", "", "");
    else if (r->session && (r->session > g_sessions || !g_open[r->session - 1])) put_answer(p, "404 Not Found", "", "");
    else if (!id) put_answer(p, "202 Accepted", "", "");
    else {
        put_result(p, method, id, result_of(method, json_object_get(message, "params")));
        wait_ms = strcmp(method, "tools/call") == 0 ? g_latency_ms : 0;
    }
    json_decref(message);
    return wait_ms;
}

static int64_t take_mcp(peer *p, const request *r) {
    if (strncmp(r->method.ptr, "POST ", 5) == 0) return take_message(p, r);
    bool ends = strncmp(r->method.ptr, "DELETE ", 7) == 0 && r->session && r->session <= g_sessions;
    if (ends) g_open[r->session - 1] = 0;
    put_answer(p, ends ? "200 OK" : "405 Method Not Allowed", "", "");
    return 0;
}

/* ---- requests ---------------------------------------------------------------------------------------------------------------------- */

/* The value of a header in a NUL-terminated head; "" if it has none. */
static const char *header_of(const char *head, const char *name) {
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, strlen(name)) == 0 && line[2 + strlen(name)] == ':') return line + 3 + strlen(name);
    return "";
}

/* False: not all of it is there. */
static bool read_request(peer *p, request *r) {
    char *end = p->in.len ? strstr(p->in.ptr, "\r\n\r\n") : NULL;
    if (!end) return false;
    end[2] = '\0'; /* header_of stops here */
    size_t head = (size_t)(end + 4 - p->in.ptr), body = strtoul(header_of(p->in.ptr, "Content-Length"), NULL, BASE);
    const char *session = header_of(p->in.ptr, "Mcp-Session-Id"), *space = strchr(p->in.ptr, ' ');
    *r = (request){.method = {p->in.ptr, 0}, .path = rlf_slice_of(space ? space + 1 : ""), .body = {p->in.ptr + head, body},
                   .session = *session ? strtoul(session, NULL, BASE) + 1 : 0, .bytes = head + body};
    end[2] = '\r';
    return p->in.len >= r->bytes;
}

static void serve(peer *p) {
    request r;
    if (p->busy || uv_is_closing((uv_handle_t *)&p->tcp) || !read_request(p, &r)) return;
    int64_t wait_ms = g_latency_ms;
    p->busy = true;
    p->used = r.bytes;
    p->stamped = strncmp(r.path.ptr, "/mcp ", 5) != 0;
    if (!p->stamped) wait_ms = take_mcp(p, &r);
    if (wait_ms == 0) write_answer(&p->timer);
    else uv_timer_start(&p->timer, write_answer, (uint64_t)wait_ms, 0);
}

static void on_alloc(uv_handle_t *handle, size_t wanted, uv_buf_t *buffer) {
    static char bytes[1 << 16];
    (void)handle;
    (void)wanted;
    *buffer = uv_buf_init(bytes, sizeof bytes);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    peer *p = stream->data;
    if (n < 0 || p->in.len + (size_t)n > MOST_BYTES) return hang_up(p);
    rlf_str_append(&p->in, buffer->base, (size_t)n);
    serve(p);
}

static void on_peer(uv_stream_t *server, int error) {
    if (error) return;
    peer *p = rlf_calloc(1, sizeof *p);
    uv_tcp_init(server->loop, &p->tcp);
    uv_timer_init(server->loop, &p->timer);
    p->tcp.data = p->timer.data = p->write.data = p;
    p->handles = 2;
    if (uv_accept(server, (uv_stream_t *)&p->tcp) != 0) return hang_up(p);
    uv_tcp_nodelay(&p->tcp, 1);
    uv_read_start((uv_stream_t *)&p->tcp, on_alloc, on_read);
}

/* ---- the service ------------------------------------------------------------------------------------------------------------------- */

static void allow_descriptors(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void on_input(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    (void)stream;
    (void)buffer;
    if (n < 0) exit(0);
}

static int listen_anywhere(uv_loop_t *loop, uv_tcp_t *server) {
    struct sockaddr_in address;
    int size = sizeof address;
    uv_ip4_addr("127.0.0.1", 0, &address);
    uv_tcp_init(loop, server);
    if (uv_tcp_bind(server, (const struct sockaddr *)&address, 0) != 0 || uv_listen((uv_stream_t *)server, BACKLOG, on_peer) != 0 ||
        uv_tcp_getsockname(server, (struct sockaddr *)&address, &size) != 0) return -1;
    return ntohs(address.sin_port);
}

int main(int argc, char **argv) {
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t server;
    uv_pipe_t input;
    char *end = NULL;
    g_latency_ms = argc == 2 ? strtol(argv[1], &end, BASE) : -1;
    if (g_latency_ms < 0 || !end || *end) {
        fprintf(stderr, "tool_server: expected a latency in ms\n");
        return 2;
    }
    allow_descriptors();
    int port = listen_anywhere(loop, &server);
    if (port < 0) {
        fprintf(stderr, "tool_server: cannot listen on 127.0.0.1\n");
        return 1;
    }
    printf("%d\n", port);
    fflush(stdout);
    uv_pipe_init(loop, &input, 0);
    if (uv_pipe_open(&input, 0) == 0) uv_read_start((uv_stream_t *)&input, on_alloc, on_input);
    return uv_run(loop, UV_RUN_DEFAULT);
}
