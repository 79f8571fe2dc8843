/* Replicas, headers, secrets (remote.h). */
#include "toolsvc/http/remote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "toolsvc/secrets.h"
#include "toolsvc/text.h"

/* How much later than the call's own deadline its exchange is given up: the deadline is the service's to keep, and what ends first on a busy
 * machine would else be chance. */
enum { LATER_MS = 1000 };

typedef struct replica {
    char *url; /* secrets filled in */
    int64_t outstanding;
} replica;

struct toolsvc_remote {
    const rlf_tool_config *config;
    toolsvc_http *http;
    replica *replicas;
    size_t n, last;  /* last: asked last */
    char **headers;
    size_t n_headers, cap_headers;
    toolsvc_secrets secrets;
};

struct toolsvc_remote_exchange {
    toolsvc_remote *remote;
    size_t replica;
    toolsvc_exchange *exchange;
    toolsvc_http_fn *done;
    void *user;
};

/* ---- configuration ------------------------------------------------------------------------------------------------------------------ */

static rlf_status add_headers(toolsvc_remote *r, json_t *headers) {
    const char *name;
    json_t *value;
    if (headers && !json_is_object(headers)) return RLF_RAISE(INVALID, "key \"headers\": a map of texts was expected");
    json_object_foreach(headers, name, value) {
        rlf_str line = {0};
        if (!json_is_string(value) || strpbrk(name, ":\r\n") || strpbrk(json_string_value(value), "\r\n"))
            return RLF_RAISE(INVALID, "key \"headers\": \"%.64s\": a text of one line was expected", name);
        rlf_str_printf(&line, "%s: ", name);
        rlf_status status = toolsvc_secrets_fill(&r->secrets, "headers", json_string_value(value), &line);
        r->headers = rlf_grow(r->headers, r->n_headers, &r->cap_headers, sizeof *r->headers);
        r->headers[r->n_headers++] = line.ptr;
        if (status != RLF_OK) return status;
    }
    return RLF_OK;
}

/* "http://host/…": templates only behind the host. */
static rlf_status check_url(const char *url, bool templates) {
    size_t scheme = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;
    if (!scheme || !url[scheme]) return RLF_RAISE(INVALID, "key \"url\": a text that begins with http:// or https:// was expected");
    const char *hole = strstr(url, "{{"), *wrong = toolsvc_http_url_error(url);
    if (hole && (!templates || (size_t)(hole - url) <= scheme + strcspn(url + scheme, "/?#")))
        return RLF_RAISE(INVALID, "key \"url\": {{…}} is not allowed here; scheme and host are the same for every call");
    if (wrong) return RLF_RAISE(INVALID, "key \"url\": no such URL can be: %s", wrong);
    return RLF_OK;
}

static rlf_status add_urls(toolsvc_remote *r, const json_t *urls, bool templates) {
    size_t n = json_is_string(urls) ? 1 : json_array_size(urls);
    if (n == 0 || n > 1024) return RLF_RAISE(INVALID, "key \"url\": a text or a list of texts was expected, at most 1024");
    r->replicas = rlf_calloc(n, sizeof *r->replicas);
    for (size_t i = 0; i < n; i++) {
        const char *url = json_string_value(json_is_string(urls) ? urls : json_array_get(urls, i));
        rlf_str filled = {0};
        rlf_status status = url ? toolsvc_secrets_fill(&r->secrets, "url", url, &filled) : RLF_OK;
        if (status == RLF_OK) status = check_url(filled.ptr ? filled.ptr : "", templates);
        r->replicas[r->n++].url = filled.ptr;
        if (status != RLF_OK) return status;
    }
    r->last = n - 1;
    return RLF_OK;
}

static rlf_status check_ca(const char *ca) {
    if (!ca || !*ca || access(ca, R_OK) == 0) return RLF_OK;
    return RLF_RAISE(NOT_FOUND, "key \"ca\": %s: %s", ca, strerror(errno));
}

static void free_remote(toolsvc_remote *r) {
    for (size_t i = 0; i < r->n; i++) free(r->replicas[i].url);
    for (size_t i = 0; i < r->n_headers; i++) free(r->headers[i]);
    free(r->replicas);
    free(r->headers);
    toolsvc_secrets_clean_up(&r->secrets);
    free(r);
}

rlf_status toolsvc_remote_open(toolsvc_remote **out, const rlf_tool_config *config, uv_loop_t *loop, bool templates) {
    rlf_status status = RLF_OK;
    toolsvc_remote *r = rlf_calloc(1, sizeof *r);
    json_t *headers = rlf_config_json(config->headers), *urls = rlf_config_json(config->url);
    r->config = config;
    RLF_TRY(toolsvc_secrets_init(&r->secrets, config->secrets));
    RLF_TRY(add_headers(r, headers));
    RLF_TRY(add_urls(r, urls, templates));
    RLF_TRY(check_ca(config->ca));
    RLF_TRY(toolsvc_http_new(&r->http, loop));
    *out = r;
out:
    json_decref(headers);
    json_decref(urls);
    if (status != RLF_OK) free_remote(r);
    return status;
}

void toolsvc_remote_close(toolsvc_remote *r) {
    toolsvc_http_close(r->http);
    free_remote(r);
}

/* ---- exchanges ---------------------------------------------------------------------------------------------------------------------- */

static size_t choose(const toolsvc_remote *r) {
    size_t best = (r->last + 1) % r->n;
    for (size_t i = 1; i < r->n; i++) {
        size_t at = (r->last + 1 + i) % r->n;
        if (r->replicas[at].outstanding < r->replicas[best].outstanding) best = at;
    }
    return best;
}

static void on_answer(void *user, const toolsvc_http_answer *answer) {
    toolsvc_remote_exchange *x = user;
    toolsvc_http_answer clean = *answer;
    rlf_str why = {0};
    x->remote->replicas[x->replica].outstanding--;
    toolsvc_remote_blot(x->remote, answer->why, strlen(answer->why), &why);
    clean.why = why.ptr ? why.ptr : "";
    x->done(x->user, &clean);
    rlf_str_clean_up(&why);
    free(x);
}

toolsvc_remote_exchange *toolsvc_remote_send(toolsvc_remote *r, const char *method, rlf_slice body, toolsvc_url_fn *url,
                                             const void *url_user, toolsvc_http_fn *done, void *user) {
    toolsvc_remote_exchange *x = rlf_calloc(1, sizeof *x);
    rlf_str made = {0};
    *x = (toolsvc_remote_exchange){.remote = r, .replica = choose(r), .done = done, .user = user};
    r->last = x->replica;
    r->replicas[x->replica].outstanding++;
    if (url) url(url_user, r->replicas[x->replica].url, &made);
    toolsvc_http_request request = {.method = method, .url = url ? made.ptr : r->replicas[x->replica].url,
                                    .headers = (const char *const *)r->headers, .n_headers = r->n_headers, .body = body,
                                    .timeout_ms = r->config->timeout_ms + LATER_MS, .max_bytes = r->config->max_bytes,
                                    .allow_private = r->config->allow_private, .ca = r->config->ca};
    x->exchange = toolsvc_http_send(r->http, &request, on_answer, x);
    rlf_str_clean_up(&made);
    return x;
}

void toolsvc_remote_cancel(toolsvc_remote_exchange *x) {
    x->remote->replicas[x->replica].outstanding--;
    toolsvc_http_cancel(x->exchange);
    free(x);
}

rlf_status toolsvc_remote_fill(const toolsvc_remote *r, const char *key, const char *text, rlf_str *out) {
    return toolsvc_secrets_fill(&r->secrets, key, text, out);
}

void toolsvc_remote_blot(const toolsvc_remote *r, const char *bytes, size_t n, rlf_str *out) {
    toolsvc_secrets_blot(&r->secrets, bytes, n, out);
}

bool toolsvc_remote_failed(const toolsvc_http_answer *answer, const char **count, rlf_str *why) {
    if (answer->error != TOOLSVC_HTTP_OK) {
        *count = toolsvc_http_error_name(answer->error);
        rlf_str_printf(why, "the service gave no answer: %s", answer->why);
        return true;
    }
    if (answer->code < 500 && answer->code != 408 && answer->code != 425 && answer->code != 429) return false;
    *count = answer->code == 429 ? "http_429" : answer->code >= 500 ? "http_5xx" : "http_4xx";
    rlf_str_printf(why, "the service answered with status %ld", answer->code);
    return true;
}

json_t *toolsvc_remote_json(rlf_slice body, const char **count, const char **why) {
    json_error_t error;
    json_t *root = toolsvc_json_parse(body.ptr, body.len, JSON_DECODE_ANY, &error);
    if (root) return root;
    bool text = json_error_code(&error) != json_error_invalid_utf8;
    *count = text ? "invalid_json" : "invalid_utf8";
    *why = text ? "the service's answer is not valid JSON" : "the service's answer is not valid UTF-8";
    return NULL;
}
