/* HTTP client on the loop: libcurl's multi socket interface, driven by libuv's polls and one timer. No wait; the only threads are those in
 * which libcurl looks up host names.
 *
 * What every exchange keeps to:
 *   - http and https only; certificates and host names are verified, against the system's authorities or those the request names, and a
 *     refusal is TOOLSVC_HTTP_TLS; no proxy or netrc from the environment.
 *   - A redirect is followed (five times at most) if scheme, host and port stay as they are and neither method nor body would
 *     change (any for GET, else 307 and 308); another one is an error, TOOLSVC_HTTP_REDIRECT.
 *   - Addresses that are not public (toolsvc_http_is_private) are reached only if
 *     the URL names the address itself ("127.0.0.1", "[::1]") or "localhost", or if allow_private is set. The check is on the
 *     address that is connected to, after the name was looked up, so a public name that points inside does not help.
 *   - An answer longer than max_bytes is cut off, TOOLSVC_HTTP_TOO_LARGE; nothing is decompressed.
 *   - Connections are kept and used again.
 *   - A body of type text/event-stream is handed over piece by piece as it comes, if the request asks for that.
 *
 * Threads: the loop's. */
#ifndef RLF_TOOLSVC_HTTP_H
#define RLF_TOOLSVC_HTTP_H

#include <stdbool.h>
#include <uv.h>

#include "common/base/mem.h"

typedef struct toolsvc_http toolsvc_http;
typedef struct toolsvc_exchange toolsvc_exchange;

/* Why there is no answer; the names are those of the metrics. */
#define TOOLSVC_HTTP_TABLE(X)                                                                                                  \
    X(OK, "ok") X(REFUSED, "http_connect") /* no connection: refused, no such host */                                          \
    X(TLS, "http_tls")                     /* no trust: certificate, host name, handshake */                                   \
    X(RESET, "http_reset")                 /* the connection broke, or what came was not HTTP */                               \
    X(TIMEOUT, "http_timeout") X(TOO_LARGE, "http_too_large") X(REDIRECT, "http_redirect") X(PRIVATE, "http_private_address")
#define TOOLSVC_HTTP_ENUM_(n, t) TOOLSVC_HTTP_##n,
typedef enum toolsvc_http_error { TOOLSVC_HTTP_TABLE(TOOLSVC_HTTP_ENUM_) TOOLSVC_HTTP_COUNT } toolsvc_http_error;
const char *toolsvc_http_error_name(toolsvc_http_error error);

/* Loopback, private, link-local, unique local, shared, multicast, reserved or unspecified; and IPv6 addresses that lead to such an IPv4 one
 * (mapped, compatible, NAT64, 6to4) or whose end nobody sees (Teredo). Families other than these two are. */
bool toolsvc_http_is_private(const struct sockaddr *address);

typedef struct toolsvc_http_answer { /* borrowed, during the callback */
    toolsvc_http_error error;
    const char *why;    /* for people, without the URL; "" if there is no error */
    long code;          /* 200; 0 where there is an error */
    const char *type;   /* Content-Type; "" if it has none */
    const char *header; /* value of the header that the request names; "" if it has none */
    rlf_slice body;     /* of a stream: the piece that has come; empty at its end */
} toolsvc_http_answer;
typedef void toolsvc_http_fn(void *user, const toolsvc_http_answer *answer);

/* All is copied by toolsvc_http_send. */
typedef struct toolsvc_http_request {
    const char *method, *url;
    const char *const *headers; /* "Name: value" */
    size_t n_headers;
    rlf_slice body;             /* sent unless method is GET, as JSON unless `headers` have a Content-Type */
    int64_t timeout_ms;         /* 0: none, for a stream that others watch */
    int64_t max_bytes;          /* of a body that comes whole */
    bool allow_private;
    const char *ca;             /* PEM file of the authorities to trust; NULL or "": the system's */
    const char *header;         /* "Mcp-Session-Id": a header of the answer that is wanted; NULL: none */
    toolsvc_http_fn *stream;    /* gets the pieces of a text/event-stream; may cancel. NULL: bodies come whole */
} toolsvc_http_request;

rlf_status toolsvc_http_new(toolsvc_http **out, uv_loop_t *loop) RLF_MUST_USE;
/* No exchange is under way. Its handles are closing when this returns; it is freed in their callbacks. NULL is allowed. */
void toolsvc_http_close(toolsvc_http *http);

/* done is called once, later, unless the exchange is cancelled. */
toolsvc_exchange *toolsvc_http_send(toolsvc_http *http, const toolsvc_http_request *request, toolsvc_http_fn *done, void *user);
void toolsvc_http_cancel(toolsvc_exchange *exchange);

/* What is wrong with a URL, for people; NULL: nothing. */
const char *toolsvc_http_url_error(const char *url);

/* Appends the URL that `reference`, absolute or relative, means on the page `base`. False: it is none, or leads to another scheme, host
 * or port. */
bool toolsvc_http_resolve(const char *base, const char *reference, rlf_str *out);

#endif
