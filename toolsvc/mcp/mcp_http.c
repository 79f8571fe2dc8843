/* MCP over HTTP (mcp_link.h), in two forms.
 *
 * Streamable HTTP (2025-03-26 and later): every message is a POST. A request is answered in the POST's answer, as JSON or as a stream of
 * events, the last of which is the answer; what the server says unasked comes over a GET stream, which it need not have. A stream whose
 * events have ids may break off (from 2025-11-25 on a server may do that on purpose): a GET that names the last id goes on with it, after
 * the time that the server asked for, and as long as each such GET brings something. The session's name
 * is a header that the answer to `initialize` brought; 404 means that the server has forgotten it, and the session is lost. Many
 * servers say 400 for that, which to a request means something else only where it comes with the error of that very request.
 *
 * HTTP with SSE (2024-11-05): a GET stream, whose first event, `endpoint`, says where messages are posted; all answers come over the
 * stream, and when it ends the session is lost. The endpoint has to have the scheme, host and port of the url.
 *
 * Which of them: as configured; else the first POST tells: a server that refuses it with 400, 404 or 405 is asked for the older form. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "toolsvc/mcp/jsonrpc.h"
#include "toolsvc/mcp/mcp_link.h"
#include "toolsvc/http/remote.h"
#include "toolsvc/http/sse.h"

enum { HEADERS_MAX = 64, HEADERS_OWN = 3, REOPEN_MS = 1000, REOPEN_MOST_MS = 60000, SESSION_MAX = 1024 };

typedef struct http_link http_link;

/* A message under way, and the answer to it. */
typedef struct post {
    http_link *link;
    struct post *prev, *next;
    int64_t id;
    rlf_str text;  /* kept where it may have to be sent another way */
    toolsvc_sse sse;
    bool fed;      /* this connection brought a piece of a stream */
    int64_t due_ms; /* when its stream is resumed; 0: it is not broken off */
    toolsvc_exchange *exchange; /* NULL: it waits for the endpoint, or until due_ms */
} post;

struct http_link {
    toolsvc_mcp_link link; /* first */
    toolsvc_mcp_server *server;
    const toolsvc_mcp_owner *owner;
    void *user;
    rlf_str session, version, endpoint; /* empty: none yet */
    post *posts;
    post *feeding;            /* whose stream is being read; NULL once it is dropped meanwhile */
    toolsvc_exchange *stream; /* the GET; NULL: none */
    toolsvc_sse sse;
    uv_timer_t reopen, resume;
    int64_t wait_ms;          /* before the stream is opened again */
    bool legacy, decided, up; /* decided: the form is known; up: the session has begun */
    int busy;                 /* our functions that hand messages to the owner, who may close the link */
    bool closed;
    int timers;               /* not closed yet */
};

/* ---- life -------------------------------------------------------------------------------------------------------------------------- */

static void free_when_done(http_link *l) {
    if (!l->closed || l->timers || l->busy) return;
    rlf_str_clean_up(&l->session);
    rlf_str_clean_up(&l->version);
    rlf_str_clean_up(&l->endpoint);
    toolsvc_sse_clean_up(&l->sse);
    free(l);
}

static void on_timer_closed(uv_handle_t *handle) {
    http_link *l = handle->data;
    l->timers--;
    free_when_done(l);
}

static void enter(http_link *l) { l->busy++; }

/* False: the link was closed meanwhile, and may be gone. */
static bool leave(http_link *l) {
    bool open = !l->closed;
    l->busy--;
    free_when_done(l);
    return open;
}

static void free_post(post *p) {
    if (p->prev) p->prev->next = p->next;
    else p->link->posts = p->next;
    if (p->next) p->next->prev = p->prev;
    if (p->link->feeding == p) p->link->feeding = NULL;
    toolsvc_sse_clean_up(&p->sse);
    rlf_str_clean_up(&p->text);
    free(p);
}

/* Tells the owner that the session is over. */
static void lose(http_link *l, const char *count, const char *why) {
    if (!l->closed) l->owner->lost(l->user, count, why);
}

/* ---- requests ---------------------------------------------------------------------------------------------------------------------- */

/* The headers of the configuration and of the session, and after which event a stream is to go on (NULL: none). The lines made here are in
 * `own`, HEADERS_OWN at most. */
static size_t put_headers(const http_link *l, const rlf_str *last, const char **headers, char own[][SESSION_MAX + 64]) {
    size_t n = 0, made = 0;
    for (size_t i = 0; i < l->server->n_headers && n < HEADERS_MAX; i++) headers[n++] = l->server->headers[i];
    headers[n++] = "Accept: application/json, text/event-stream";
    if (l->session.len) {
        snprintf(own[made], sizeof *own, "Mcp-Session-Id: %s", l->session.ptr);
        headers[n++] = own[made++];
    }
    if (l->version.len) {
        snprintf(own[made], sizeof *own, "MCP-Protocol-Version: %s", l->version.ptr);
        headers[n++] = own[made++];
    }
    if (last && last->len && last->len <= SESSION_MAX) {
        snprintf(own[made], sizeof *own, "Last-Event-ID: %s", last->ptr);
        headers[n++] = own[made++];
    }
    return n;
}

/* body NULL: a GET, which goes on with a stream after the event `last`. */
static toolsvc_exchange *ask(http_link *l, const char *url, const rlf_str *body, const rlf_str *last, int64_t timeout_ms,
                             toolsvc_http_fn *stream, toolsvc_http_fn *done, void *user) {
    const char *headers[HEADERS_MAX + 1 + HEADERS_OWN], *method = body ? "POST" : "GET";
    char own[HEADERS_OWN][SESSION_MAX + 64];
    size_t n = put_headers(l, last, headers, own);
    toolsvc_http_request request = {.method = method, .url = url, .headers = headers, .n_headers = n, .timeout_ms = timeout_ms,
                                    .max_bytes = l->server->max_bytes, .allow_private = l->server->allow_private, .ca = l->server->ca,
                                    .header = "Mcp-Session-Id",
                                    .stream = stream};
    if (body) request.body = (rlf_slice){body->ptr, body->len};
    return toolsvc_http_send(l->server->http, &request, done, user);
}

/* ---- the stream -------------------------------------------------------------------------------------------------------------------- */

static void send_post(post *p);
static void open_stream(http_link *l);
static void on_post_end(void *user, const toolsvc_http_answer *answer);
static void on_resume(uv_timer_t *timer);

static void send_waiting(http_link *l) {
    for (post *p = l->posts, *next; p; p = next) {
        next = p->next;
        if (!p->exchange) send_post(p);
    }
}

/* The older form: where messages go. */
static bool take_endpoint(http_link *l, rlf_slice data) {
    char reference[4096];
    if (l->endpoint.len) return true;
    snprintf(reference, sizeof reference, "%.*s", (int)(data.len < sizeof reference ? data.len : 0), data.ptr);
    if (!*reference || !toolsvc_http_resolve(l->server->url, reference, &l->endpoint)) {
        lose(l, "invalid_answer", "the server names no endpoint of its own to post to");
        return !l->closed;
    }
    l->decided = true;
    send_waiting(l);
    return true;
}

/* An event without data only names an id. */
static void take_message(http_link *l, const char *type, rlf_slice data) {
    if (data.len && (*type == '\0' || strcmp(type, "message") == 0)) l->owner->message(l->user, data.ptr, data.len);
}

static bool on_event(void *user, const char *type, rlf_slice data) {
    http_link *l = user;
    if (l->legacy && strcmp(type, "endpoint") == 0) return take_endpoint(l, data);
    take_message(l, type, data);
    return !l->closed;
}

static void on_stream(void *user, const toolsvc_http_answer *answer) {
    http_link *l = user;
    if (answer->code / 100 != 2) return;
    enter(l);
    l->wait_ms = REOPEN_MS;
    if (!toolsvc_sse_feed(&l->sse, answer->body.ptr, answer->body.len, on_event, l)) {
        if (!l->closed) toolsvc_http_cancel(l->stream);
        l->stream = NULL;
        lose(l, "http_too_large", "the server's event is too large");
    }
    leave(l);
}

static void on_reopen(uv_timer_t *timer) { open_stream(timer->data); }

/* The streamable form does without its stream, and asks again later unless the server has none. */
static void on_stream_end(void *user, const toolsvc_http_answer *answer) {
    http_link *l = user;
    const char *count = "mcp_stream_ended";
    rlf_str why = {0};
    l->stream = NULL;
    int64_t retry_ms = l->sse.retry_ms, wait_ms = retry_ms > l->wait_ms ? retry_ms : l->wait_ms;
    toolsvc_sse_restart(&l->sse);
    if (l->legacy) {
        if (!toolsvc_remote_failed(answer, &count, &why)) {
            if (answer->code / 100 == 2) rlf_str_puts(&why, "the server ended its stream of events");
            else rlf_str_printf(&why, "the server answered with status %ld", answer->code);
        }
        enter(l);
        lose(l, count, why.ptr);
        leave(l);
    } else if (answer->code / 100 == 2 || answer->error != TOOLSVC_HTTP_OK) {
        uv_timer_start(&l->reopen, on_reopen, (uint64_t)(wait_ms < REOPEN_MOST_MS ? wait_ms : REOPEN_MOST_MS), 0);
        l->wait_ms = wait_ms < REOPEN_MOST_MS ? 2 * wait_ms : wait_ms;
    }
    rlf_str_clean_up(&why);
}

static void open_stream(http_link *l) { l->stream = ask(l, l->server->url, NULL, &l->sse.id, 0, on_stream, on_stream_end, l); }

/* ---- posts ------------------------------------------------------------------------------------------------------------------------- */

static bool on_post_event(void *user, const char *type, rlf_slice data) {
    http_link *l = user;
    take_message(l, type, data);
    return l->feeding != NULL; /* closing the link drops all posts */
}

static void take_session(http_link *l, const toolsvc_http_answer *answer) {
    size_t n = strlen(answer->header);
    if (l->legacy || l->up || l->session.len || n == 0 || n > SESSION_MAX) return;
    rlf_str_append(&l->session, answer->header, n);
}

static void on_post_stream(void *user, const toolsvc_http_answer *answer) {
    post *p = user;
    http_link *l = p->link;
    if (answer->code / 100 != 2) return;
    enter(l);
    take_session(l, answer);
    l->feeding = p;
    p->fed = true;
    if (!toolsvc_sse_feed(&p->sse, answer->body.ptr, answer->body.len, on_post_event, l)) {
        int64_t id = p->id;
        toolsvc_http_cancel(p->exchange);
        free_post(p);
        l->owner->ended(l->user, id, "http_too_large", "the server's event is too large");
    }
    leave(l);
}

/* A server that does not know this form: the same message again, another way. */
static bool fall_back(post *p, const toolsvc_http_answer *answer) {
    http_link *l = p->link;
    if (l->decided || answer->error != TOOLSVC_HTTP_OK || (answer->code != 400 && answer->code != 404 && answer->code != 405)) return false;
    l->legacy = true;
    p->exchange = NULL;
    if (!l->stream) open_stream(l);
    return true;
}

/* Sets the id to 0 where the message is its request's error. */
static bool find_error(void *user, const toolsvc_rpc *m) {
    int64_t *id = user;
    if (m->type == TOOLSVC_RPC_FAILURE && m->number == *id) *id = 0;
    return *id != 0;
}

/* Whether the body is the error of request `id`, as JSON-RPC has it. */
static bool is_error_of(int64_t id, rlf_slice body) {
    return id > 0 && toolsvc_rpc_read(body.ptr, body.len, find_error, &id) && id == 0;
}

/* The answer to a POST that is not 2xx. */
static void refuse(http_link *l, int64_t id, const toolsvc_http_answer *answer) {
    const char *count = "http_4xx";
    rlf_str why = {0};
    bool has_error = answer->code == 400 && is_error_of(id, answer->body);
    if (!toolsvc_remote_failed(answer, &count, &why)) rlf_str_printf(&why, "the server answered with status %ld", answer->code);
    if (has_error) l->owner->message(l->user, answer->body.ptr, answer->body.len);
    else if (l->session.len && (answer->code == 404 || (answer->code == 400 && id > 0)))
        lose(l, "mcp_sessions_lost", "the server has forgotten the session");
    else l->owner->ended(l->user, id, count, why.ptr);
    rlf_str_clean_up(&why);
}

/* Longest that a request and its answer may take: who waits has a deadline of their own. */
static int64_t longest_ms(const http_link *l) { return l->server->start_ms + l->server->timeout_ms; }

/* Goes on with the streams that are due, and sets the timer for those that are not. */
static void resume_due(http_link *l) {
    int64_t now = rlf_now_ms(), next = INT64_MAX;
    for (post *p = l->posts; p; p = p->next) {
        if (p->due_ms > now && p->due_ms < next) next = p->due_ms;
        if (p->due_ms == 0 || p->due_ms > now) continue;
        p->due_ms = 0;
        p->exchange = ask(l, l->server->url, NULL, &p->sse.id, longest_ms(l), on_post_stream, on_post_end, p);
    }
    uv_update_time(l->server->loop);
    if (next < INT64_MAX) uv_timer_start(&l->resume, on_resume, (uint64_t)(next - now), 0);
}

static void on_resume(uv_timer_t *timer) { resume_due(timer->data); }

/* The answer's stream broke off before the answer, and can be resumed. */
static bool resume_later(post *p, const toolsvc_http_answer *answer) {
    http_link *l = p->link;
    bool broke = answer->error == TOOLSVC_HTTP_OK ? answer->code / 100 == 2 : answer->error == TOOLSVC_HTTP_RESET;
    if (!broke || l->legacy || !p->fed || p->sse.id.len == 0 || !l->owner->waits(l->user, p->id)) return false;
    p->due_ms = rlf_now_ms() + (p->sse.retry_ms ? p->sse.retry_ms : REOPEN_MS);
    p->exchange = NULL;
    p->fed = false;
    toolsvc_sse_restart(&p->sse);
    resume_due(l);
    return true;
}

static void on_post_end(void *user, const toolsvc_http_answer *answer) {
    post *p = user;
    http_link *l = p->link;
    int64_t id = p->id;
    if (fall_back(p, answer) || resume_later(p, answer)) return;
    bool whole = !l->legacy && answer->body.len > 0 && strncasecmp(answer->type, "application/json", 16) == 0;
    enter(l);
    free_post(p);
    if (answer->error != TOOLSVC_HTTP_OK || answer->code / 100 != 2) {
        refuse(l, id, answer);
    } else {
        l->decided = true;
        take_session(l, answer);
        if (whole) l->owner->message(l->user, answer->body.ptr, answer->body.len);
        if (!l->closed && (!l->legacy || id <= 0))
            l->owner->ended(l->user, id, "invalid_answer", "the server's answer holds no answer to the request");
    }
    leave(l);
}

static void send_post(post *p) {
    http_link *l = p->link;
    const char *url = l->legacy ? l->endpoint.ptr : l->server->url;
    p->exchange = ask(l, url, &p->text, NULL, longest_ms(l), on_post_stream, on_post_end, p);
}

/* ---- the link ---------------------------------------------------------------------------------------------------------------------- */

static void send_http(toolsvc_mcp_link *link, int64_t id, const char *text, size_t n) {
    http_link *l = (http_link *)link;
    post *p = rlf_calloc(1, sizeof *p);
    *p = (post){.link = l, .next = l->posts, .id = id, .sse.max_bytes = (size_t)l->server->max_bytes};
    if (p->next) p->next->prev = p;
    l->posts = p;
    rlf_str_append(&p->text, text, n);
    if (!l->legacy || l->endpoint.len) send_post(p);
}

static void ready_http(toolsvc_mcp_link *link, const char *version) {
    http_link *l = (http_link *)link;
    l->up = true;
    if (strcmp(version, "2025-06-18") >= 0) rlf_str_puts(&l->version, version); /* earlier ones have no such header */
    if (!l->legacy) open_stream(l);
}

static void drop_http(toolsvc_mcp_link *link, int64_t id) {
    http_link *l = (http_link *)link;
    post *p = l->posts;
    while (p && p->id != id) p = p->next;
    if (!p || id < 0) return;
    if (p->exchange) toolsvc_http_cancel(p->exchange);
    free_post(p);
}

static void say_farewell(http_link *l) {
    const char *headers[HEADERS_MAX + 1 + HEADERS_OWN];
    char own[HEADERS_OWN][SESSION_MAX + 64];
    if (!l->session.len) return;
    toolsvc_mcp_server_farewell(l->server, headers, put_headers(l, NULL, headers, own));
}

static void close_http(toolsvc_mcp_link *link) {
    http_link *l = (http_link *)link;
    l->closed = true;
    say_farewell(l);
    if (l->stream) toolsvc_http_cancel(l->stream);
    for (post *p = l->posts, *next; p; p = next) {
        next = p->next;
        if (p->exchange) toolsvc_http_cancel(p->exchange);
        free_post(p);
    }
    uv_close((uv_handle_t *)&l->reopen, on_timer_closed);
    uv_close((uv_handle_t *)&l->resume, on_timer_closed);
}

rlf_status toolsvc_mcp_http_open(toolsvc_mcp_link **out, toolsvc_mcp_server *server, const toolsvc_mcp_owner *owner, void *user) {
    http_link *l = rlf_calloc(1, sizeof *l);
    *l = (http_link){.link = {.send = send_http, .ready = ready_http, .drop = drop_http, .close = close_http}, .server = server,
                     .owner = owner, .user = user, .legacy = server->only_sse, .decided = server->only_http || server->only_sse,
                     .wait_ms = REOPEN_MS, .timers = 2, .sse.max_bytes = (size_t)server->max_bytes};
    uv_timer_init(server->loop, &l->reopen);
    uv_timer_init(server->loop, &l->resume);
    l->reopen.data = l->resume.data = l;
    if (l->legacy) open_stream(l);
    *out = &l->link;
    return RLF_OK;
}
