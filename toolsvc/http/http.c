/* libcurl on libuv (http.h). libcurl tells which sockets to poll (on_socket) and when to call it again (on_timeout); each socket has
 * one uv_poll_t. Transfers that libcurl reports as done are taken in one place, collect, which is called after every
 * curl_multi_socket_action and never from inside one of libcurl's callbacks: those must not be re-entered, and whoever gets an answer may
 * send and cancel. For the same reason the pieces of a stream wait in a list until collect hands them over.
 *
 * libcurl walks all connections of a multi handle when an exchange begins and when it ends. So that thousands in flight do not cost their
 * square, there are several such handles; an exchange goes to the first that is not full, where the idle connections are. */
#include "toolsvc/http/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_REDIRECTS = 5, CONNECT_MS = 30000, HEADER_MAX = 4096, SHARDS = 64, SHARD_EXCHANGES = 256 };

typedef struct shard {
    toolsvc_http *http;
    CURLM *multi; /* NULL until it is needed */
    uv_timer_t timer;
    size_t exchanges; /* under way */
} shard;

struct toolsvc_http {
    uv_loop_t *loop;
    shard shards[SHARDS];
    size_t handles; /* not yet closed: timers and polls */
    bool collecting;
    struct toolsvc_exchange *fed; /* streams with pieces to hand over */
};

typedef struct socket_poll {
    uv_poll_t poll;
    shard *shard;
    curl_socket_t fd;
} socket_poll;

struct toolsvc_exchange {
    toolsvc_http *http;
    shard *shard;
    CURL *easy;
    struct curl_slist *headers;
    rlf_str body, sent;
    int64_t max_bytes;
    int redirects;
    bool literal, is_get, too_large, private_address;
    char why[CURL_ERROR_SIZE]; /* libcurl's own words; they may hold the host's name, never the URL */
    char *wanted;        /* name of the header that the caller wants, with its colon; NULL: none */
    rlf_str header;      /* its value */
    bool fed;            /* on http->fed */
    toolsvc_exchange *next, *prev; /* there */
    toolsvc_http_fn *stream, *done;
    void *user;
};

static const char *const error_names[] = {
#define NAME_(n, t) t,
    TOOLSVC_HTTP_TABLE(NAME_)
#undef NAME_
};
const char *toolsvc_http_error_name(toolsvc_http_error error) { return error_names[error]; }

/* ---- addresses ---------------------------------------------------------------------------------------------------------------------- */

static bool is_private_v4(uint32_t a) { /* host order */
    static const struct { uint32_t net; int bits; } nets[] = {
        {0x00000000, 8}, {0x0A000000, 8}, {0x64400000, 10}, {0x7F000000, 8}, {0xA9FE0000, 16}, {0xAC100000, 12}, {0xC0000000, 24},
        {0xC0A80000, 16}, {0xC6120000, 15}, {0xE0000000, 3}}; /* the last: multicast and reserved */
    for (size_t i = 0; i < sizeof nets / sizeof *nets; i++)
        if ((a ^ nets[i].net) >> (32 - nets[i].bits) == 0) return true;
    return false;
}

/* Where an IPv6 address holds an IPv4 one that traffic to it ends at; -1: it holds none. */
static int offset_of_v4(const struct in6_addr *a) {
    static const unsigned char nat64[12] = {0x00, 0x64, 0xFF, 0x9B}, six_to_four[2] = {0x20, 0x02};
    if (IN6_IS_ADDR_UNSPECIFIED(a) || IN6_IS_ADDR_LOOPBACK(a)) return -1;
    if (IN6_IS_ADDR_V4MAPPED(a) || IN6_IS_ADDR_V4COMPAT(a) || memcmp(a->s6_addr, nat64, sizeof nat64) == 0) return 12;
    return memcmp(a->s6_addr, six_to_four, sizeof six_to_four) == 0 ? 2 : -1;
}

static bool is_private_v6(const struct in6_addr *a) {
    static const unsigned char teredo[4] = {0x20, 0x01}, local_nat64[6] = {0x00, 0x64, 0xFF, 0x9B, 0x00, 0x01};
    int offset = offset_of_v4(a);
    if (offset >= 0) {
        uint32_t v4;
        memcpy(&v4, a->s6_addr + offset, sizeof v4);
        return is_private_v4(ntohl(v4));
    }
    if (memcmp(a->s6_addr, teredo, sizeof teredo) == 0 || memcmp(a->s6_addr, local_nat64, sizeof local_nat64) == 0) return true;
    return IN6_IS_ADDR_LOOPBACK(a) || IN6_IS_ADDR_UNSPECIFIED(a) || IN6_IS_ADDR_LINKLOCAL(a) || IN6_IS_ADDR_SITELOCAL(a) ||
           IN6_IS_ADDR_MULTICAST(a) || (a->s6_addr[0] & 0xFE) == 0xFC;
}

bool toolsvc_http_is_private(const struct sockaddr *address) {
    if (address->sa_family == AF_INET) return is_private_v4(ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr));
    if (address->sa_family == AF_INET6) return is_private_v6(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
    return true;
}

/* The URL names the address itself, or this machine. */
static bool names_address(const char *url) {
    CURLU *parts = curl_url();
    char *host = NULL;
    unsigned char address[16];
    bool literal = false;
    if (parts && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK && curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
        literal = host[0] == '[' || inet_pton(AF_INET, host, address) == 1 || strcmp(host, "localhost") == 0;
    }
    curl_free(host);
    curl_url_cleanup(parts);
    return literal;
}

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address) {
    toolsvc_exchange *x = user;
    (void)purpose;
    if (!x->literal && toolsvc_http_is_private(&address->addr)) {
        x->private_address = true;
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* ---- the end of an exchange --------------------------------------------------------------------------------------------------------- */

static void list_as_fed(toolsvc_exchange *x) {
    if (x->fed) return;
    x->fed = true;
    x->prev = NULL;
    x->next = x->http->fed;
    if (x->next) x->next->prev = x;
    x->http->fed = x;
}

static void unlist(toolsvc_exchange *x) {
    if (!x->fed) return;
    x->fed = false;
    if (x->prev) x->prev->next = x->next;
    else x->http->fed = x->next;
    if (x->next) x->next->prev = x->prev;
}

static void free_exchange(toolsvc_exchange *x) {
    unlist(x);
    curl_multi_remove_handle(x->shard->multi, x->easy);
    x->shard->exchanges--;
    curl_easy_cleanup(x->easy);
    curl_slist_free_all(x->headers);
    rlf_str_clean_up(&x->body);
    rlf_str_clean_up(&x->sent);
    rlf_str_clean_up(&x->header);
    free(x->wanted);
    free(x);
}

static bool same_origin(const char *a, const char *b) {
    static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT};
    CURLU *u = curl_url(), *v = curl_url();
    bool same = curl_url_set(u, CURLUPART_URL, a, 0) == CURLUE_OK && curl_url_set(v, CURLUPART_URL, b, 0) == CURLUE_OK;
    for (size_t i = 0; same && i < sizeof parts / sizeof *parts; i++) {
        char *p = NULL, *q = NULL;
        same = curl_url_get(u, parts[i], &p, CURLU_DEFAULT_PORT) == CURLUE_OK &&
            curl_url_get(v, parts[i], &q, CURLU_DEFAULT_PORT) == CURLUE_OK &&
               strcasecmp(p, q) == 0;
        curl_free(p);
        curl_free(q);
    }
    curl_url_cleanup(u);
    curl_url_cleanup(v);
    return same;
}

/* An answer that sends us elsewhere: goes there and returns true, or must be refused. */
static bool follow(toolsvc_exchange *x, long code) {
    char *to = NULL, *from = NULL;
    curl_easy_getinfo(x->easy, CURLINFO_REDIRECT_URL, &to);
    curl_easy_getinfo(x->easy, CURLINFO_EFFECTIVE_URL, &from);
    if (!to || !from || (!x->is_get && code != 307 && code != 308) || ++x->redirects > MAX_REDIRECTS ||
        !same_origin(to, from)) return false;
    char *copy = rlf_strdup(to);
    curl_multi_remove_handle(x->shard->multi, x->easy);
    curl_easy_setopt(x->easy, CURLOPT_URL, copy);
    free(copy);
    rlf_str_reset(&x->body);
    curl_multi_add_handle(x->shard->multi, x->easy);
    return true;
}

static toolsvc_http_error error_of(const toolsvc_exchange *x, CURLcode result) {
    long sent = 0; /* bytes of the request */
    if (x->private_address) return TOOLSVC_HTTP_PRIVATE;
    if (x->too_large || result == CURLE_FILESIZE_EXCEEDED) return TOOLSVC_HTTP_TOO_LARGE;
    curl_easy_getinfo(x->easy, CURLINFO_REQUEST_SIZE, &sent);
    switch (result) {
    case CURLE_OK: return TOOLSVC_HTTP_OK;
    case CURLE_OPERATION_TIMEDOUT: return TOOLSVC_HTTP_TIMEOUT;
    case CURLE_UNSUPPORTED_PROTOCOL: return sent ? TOOLSVC_HTTP_RESET : TOOLSVC_HTTP_REFUSED; /* of the answer, or of the URL */
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_URL_MALFORMAT: return TOOLSVC_HTTP_REFUSED;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR: return TOOLSVC_HTTP_TLS;
    default: return TOOLSVC_HTTP_RESET;
    }
}

/* An answer without its body. */
static toolsvc_http_answer head_of(toolsvc_exchange *x) {
    char *type = NULL;
    toolsvc_http_answer answer = {.why = "", .type = "", .header = x->header.ptr ? x->header.ptr : "", .body = {"", 0}};
    curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &answer.code);
    curl_easy_getinfo(x->easy, CURLINFO_CONTENT_TYPE, &type);
    if (type) answer.type = type;
    return answer;
}

static void finish(toolsvc_exchange *x, CURLcode result) {
    toolsvc_http_answer answer = {.error = error_of(x, result), .why = "", .type = "", .header = "", .body = {"", 0}};
    if (answer.error == TOOLSVC_HTTP_OK) answer = head_of(x);
    if (answer.error == TOOLSVC_HTTP_OK && answer.code / 100 == 3) {
        if (follow(x, answer.code)) return;
        answer.error = TOOLSVC_HTTP_REDIRECT;
        answer.code = 0;
    }
    if (answer.error == TOOLSVC_HTTP_OK) answer.body = (rlf_slice){x->body.ptr ? x->body.ptr : "", x->body.len};
    else if (answer.error == TOOLSVC_HTTP_REDIRECT) answer.why = "the service redirects elsewhere, which is refused";
    else if (answer.error == TOOLSVC_HTTP_PRIVATE) answer.why = "the host's address is a private one (allow_private is not set)";
    else if (answer.error == TOOLSVC_HTTP_TOO_LARGE) answer.why = "the answer is too large";
    else answer.why = answer.error == TOOLSVC_HTTP_TLS && x->why[0] ? x->why : curl_easy_strerror(result);
    x->done(x->user, &answer);
    free_exchange(x);
}

/* Hands over what streams have brought; their owners may cancel any exchange. */
static void hand_over(toolsvc_http *http) {
    for (toolsvc_exchange *x; (x = http->fed);) {
        rlf_str piece = x->body;
        toolsvc_http_answer answer = head_of(x);
        unlist(x);
        x->body = (rlf_str){0};
        answer.body = (rlf_slice){piece.ptr, piece.len};
        x->stream(x->user, &answer);
        rlf_str_clean_up(&piece);
    }
}

static void collect(shard *s) {
    toolsvc_http *http = s->http;
    int left;
    if (http->collecting) return;
    http->collecting = true;
    hand_over(http);
    for (CURLMsg *m; (m = curl_multi_info_read(s->multi, &left));) {
        toolsvc_exchange *x;
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode result = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &x);
        finish(x, result);
    }
    http->collecting = false;
}

/* ---- libcurl and libuv -------------------------------------------------------------------------------------------------------------- */

static void handle_closed(toolsvc_http *http) {
    if (--http->handles == 0) free(http);
}

static void on_poll_closed(uv_handle_t *handle) {
    socket_poll *p = handle->data;
    handle_closed(p->shard->http);
    free(p);
}

static void on_timer_closed(uv_handle_t *handle) { handle_closed(((shard *)handle->data)->http); }

static void on_ready(uv_poll_t *poll, int status, int events) {
    socket_poll *p = poll->data;
    shard *s = p->shard; /* p may go */
    int flags = (events & UV_READABLE ? CURL_CSELECT_IN : 0) | (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0), running;
    if (status < 0) flags = CURL_CSELECT_ERR;
    curl_multi_socket_action(s->multi, p->fd, flags, &running);
    collect(s);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_user) {
    shard *s = user;
    socket_poll *p = socket_user;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (!p) return 0;
        curl_multi_assign(s->multi, fd, NULL);
        uv_poll_stop(&p->poll); /* before libcurl closes the descriptor */
        uv_close((uv_handle_t *)&p->poll, on_poll_closed);
        return 0;
    }
    if (!p) {
        p = rlf_calloc(1, sizeof *p);
        *p = (socket_poll){.shard = s, .fd = fd};
        if (uv_poll_init_socket(s->http->loop, &p->poll, fd) != 0) {
            free(p);
            return -1;
        }
        p->poll.data = p;
        s->http->handles++;
        curl_multi_assign(s->multi, fd, p);
    }
    uv_poll_start(&p->poll, (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0), on_ready);
    return 0;
}

static void on_timer(uv_timer_t *timer) {
    shard *s = timer->data;
    int running;
    curl_multi_socket_action(s->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(s);
}

static int on_timeout(CURLM *multi, long timeout_ms, void *user) {
    shard *s = user;
    (void)multi;
    if (timeout_ms < 0) {
        uv_timer_stop(&s->timer);
        return 0;
    }
    uv_update_time(s->http->loop);
    uv_timer_start(&s->timer, on_timer, (uint64_t)timeout_ms, 0);
    return 0;
}

static bool shard_begin(shard *s, toolsvc_http *http) {
    if (!(s->multi = curl_multi_init())) return false;
    s->http = http;
    uv_timer_init(http->loop, &s->timer);
    s->timer.data = s;
    http->handles++;
    curl_multi_setopt(s->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(s->multi, CURLMOPT_SOCKETDATA, s);
    curl_multi_setopt(s->multi, CURLMOPT_TIMERFUNCTION, on_timeout);
    curl_multi_setopt(s->multi, CURLMOPT_TIMERDATA, s);
    curl_multi_setopt(s->multi, CURLMOPT_MAXCONNECTS, (long)SHARD_EXCHANGES);
    curl_multi_setopt(s->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    return true;
}

rlf_status toolsvc_http_new(toolsvc_http **out, uv_loop_t *loop) {
    toolsvc_http *http = rlf_calloc(1, sizeof *http);
    http->loop = loop;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !shard_begin(&http->shards[0], http)) {
        free(http);
        return RLF_RAISE(INTERNAL, "libcurl: cannot be initialised");
    }
    *out = http;
    return RLF_OK;
}

void toolsvc_http_close(toolsvc_http *http) {
    if (!http) return;
    for (shard *s = http->shards; s < http->shards + SHARDS && s->multi; s++) {
        curl_multi_cleanup(s->multi); /* closes idle connections; on_socket has removed their polls */
        uv_close((uv_handle_t *)&s->timer, on_timer_closed);
    }
    curl_global_cleanup();
}

/* ---- sending ------------------------------------------------------------------------------------------------------------------------ */

static bool is_stream(const toolsvc_exchange *x) {
    static const char type[] = "text/event-stream";
    char *found = NULL;
    return x->stream && curl_easy_getinfo(x->easy, CURLINFO_CONTENT_TYPE, &found) == CURLE_OK && found &&
           strncasecmp(found, type, sizeof type - 1) == 0;
}

/* One line of the head. */
static size_t take_header(char *bytes, size_t size, size_t n, void *user) {
    toolsvc_exchange *x = user;
    size_t len = size * n, skip = strlen(x->wanted);
    if (len < skip || len > HEADER_MAX || strncasecmp(bytes, x->wanted, skip) != 0) return len;
    size_t end = len;
    while (skip < end && (bytes[skip] == ' ' || bytes[skip] == '\t')) skip++;
    while (end > skip && strchr(" \t\r\n", bytes[end - 1])) end--;
    rlf_str_reset(&x->header);
    rlf_str_append(&x->header, bytes + skip, end - skip);
    return len;
}

static size_t take_body(char *bytes, size_t size, size_t n, void *user) {
    toolsvc_exchange *x = user;
    bool stream = is_stream(x);
    if (stream) list_as_fed(x);
    if (!stream && x->body.len + size * n > (size_t)x->max_bytes) {
        x->too_large = true;
        return 0;
    }
    rlf_str_append(&x->body, bytes, size * n);
    return size * n;
}

static void limit_protocols(CURL *easy) {
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

/* The authorities of the file alone: those in the system's folder would be trusted beside them. */
static void trust(CURL *easy, const char *ca) {
    if (!ca || !*ca) return;
    curl_easy_setopt(easy, CURLOPT_CAINFO, ca);
    curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
}

static void set_options(toolsvc_exchange *x, const toolsvc_http_request *r) {
    CURL *easy = x->easy;
    limit_protocols(easy);
    trust(easy, r->ca);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, x->why);
    curl_easy_setopt(easy, CURLOPT_URL, r->url);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, x);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)r->timeout_ms);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)r->max_bytes);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, x);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, x->headers);
    curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L); /* a stream without a time limit notices that its peer has gone */
    if (x->wanted) {
        curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
        curl_easy_setopt(easy, CURLOPT_HEADERDATA, x);
    }
    if (x->is_get) {
        curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
        return;
    }
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, x->sent.ptr ? x->sent.ptr : "");
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)x->sent.len);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, r->method);
}

/* libcurl's own would call the body a form. */
static const char json_type[] = "Content-Type: application/json";

static bool has_type(const toolsvc_http_request *r) {
    for (size_t i = 0; i < r->n_headers; i++)
        if (strncasecmp(r->headers[i], json_type, strlen("Content-Type:")) == 0) return true;
    return false;
}

/* The first that is not full; with all full, the one with the fewest exchanges. */
static shard *shard_with_room(toolsvc_http *http) {
    shard *least = http->shards;
    for (shard *s = http->shards; s < http->shards + SHARDS; s++) {
        if (!s->multi && !shard_begin(s, http)) break;
        if (s->exchanges < SHARD_EXCHANGES) return s;
        if (s->exchanges < least->exchanges) least = s;
    }
    return least;
}

toolsvc_exchange *toolsvc_http_send(toolsvc_http *http, const toolsvc_http_request *r, toolsvc_http_fn *done, void *user) {
    toolsvc_exchange *x = rlf_calloc(1, sizeof *x);
    *x = (toolsvc_exchange){.http = http, .shard = shard_with_room(http), .easy = curl_easy_init(), .max_bytes = r->max_bytes, .is_get = strcmp(r->method, "GET") == 0,
                            .literal = r->allow_private || names_address(r->url), .stream = r->stream, .done = done, .user = user};
    if (!x->easy) abort(); /* out of memory */
    if (r->header) {
        rlf_str name = {0};
        rlf_str_printf(&name, "%s:", r->header);
        x->wanted = name.ptr;
    }
    rlf_str_append(&x->sent, r->body.ptr, r->body.len);
    x->headers = curl_slist_append(NULL, "Expect:"); /* no pause before the body */
    if (!x->is_get && !has_type(r)) x->headers = curl_slist_append(x->headers, json_type);
    for (size_t i = 0; i < r->n_headers; i++) x->headers = curl_slist_append(x->headers, r->headers[i]);
    set_options(x, r);
    x->shard->exchanges++;
    curl_multi_add_handle(x->shard->multi, x->easy);
    return x;
}

void toolsvc_http_cancel(toolsvc_exchange *x) { free_exchange(x); }

const char *toolsvc_http_url_error(const char *url) {
    CURLU *parts = curl_url();
    CURLUcode code = curl_url_set(parts, CURLUPART_URL, url, CURLU_ALLOW_SPACE);
    curl_url_cleanup(parts);
    return code == CURLUE_OK ? NULL : curl_url_strerror(code);
}

bool toolsvc_http_resolve(const char *base, const char *reference, rlf_str *out) {
    CURLU *url = curl_url();
    char *text = NULL;
    bool good = curl_url_set(url, CURLUPART_URL, base, 0) == CURLUE_OK && curl_url_set(url, CURLUPART_URL, reference, 0) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_URL, &text, 0) == CURLUE_OK && same_origin(base, text);
    if (good) rlf_str_puts(out, text);
    curl_free(text);
    curl_url_cleanup(url);
    return good;
}
