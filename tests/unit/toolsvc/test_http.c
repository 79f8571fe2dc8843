/* The HTTP client and the kinds that use it, against a server on the same loop that misbehaves on request (loopback.h). */
#include "tests/test.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "loopback.h"
#include "toolsvc/dispatch.h"
#include "toolsvc/http/http.h"
#include "toolsvc/secrets.h"

typedef struct fixture {
    uv_loop_t loop;
    loopback server;
    toolsvc_http *http;
    size_t descriptors;
} fixture;

static size_t count_descriptors(void) {
    size_t n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
}

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (uv_loop_init(&f->loop) != 0 || uv_loop_close(&f->loop) != 0) return -1; /* libuv keeps some of its own from the first loop on */
    f->descriptors = count_descriptors();
    if (uv_loop_init(&f->loop) != 0) return -1;
    return loopback_start(&f->server, &f->loop) && toolsvc_http_new(&f->http, &f->loop) == RLF_OK ? 0 : -1;
}

static int teardown(void **state) {
    fixture *f = *state;
    toolsvc_http_close(f->http);
    script_stop(&f->server.http);
    for (int i = 0; i < 1000 && uv_loop_alive(&f->loop); i++) uv_run(&f->loop, UV_RUN_NOWAIT);
    int left = uv_loop_close(&f->loop);
    bool clean = count_descriptors() == f->descriptors;
    free(f);
    return clean ? left : -1;
}

/* ---- the client ---------------------------------------------------------------------------------------------------------------------- */

typedef struct result {
    int done;
    toolsvc_http_error error;
    long code;
    rlf_str body;
} result;

static void on_done(void *user, const toolsvc_http_answer *answer) {
    result *r = user;
    r->done++;
    r->error = answer->error;
    r->code = answer->code;
    if (answer->body.len) rlf_str_append(&r->body, answer->body.ptr, answer->body.len);
}

static void await(fixture *f, const int *done, int n) {
    int64_t end = rlf_now_ms() + 30000;
    while (*done < n) {
        assert_true(rlf_now_ms() < end);
        if (uv_run(&f->loop, UV_RUN_NOWAIT)) rlf_sleep_us(20);
    }
}

static toolsvc_http_request request_of(const fixture *f, const char *method, const char *path, const char *body) {
    static char url[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", f->server.http.port, path);
    return (toolsvc_http_request){.method = method, .url = url, .body = rlf_slice_of(body), .timeout_ms = 20000, .max_bytes = 1 << 20};
}

/* Sends, waits, and expects this error. The caller frees r->body. */
static void exchange(fixture *f, toolsvc_http_request request, toolsvc_http_error wanted, result *r) {
    *r = (result){0};
    toolsvc_http_send(f->http, &request, on_done, r);
    await(f, &r->done, 1);
    if (r->error != wanted) fail_msg("%s: %s, %s was expected", request.url, toolsvc_http_error_name(r->error),
                                     toolsvc_http_error_name(wanted));
}

static void expect_error(fixture *f, const char *path, toolsvc_http_error wanted) {
    result r;
    toolsvc_http_request request = request_of(f, "GET", path, "");
    request.timeout_ms = 300;
    exchange(f, request, wanted, &r);
    assert_int_equal(r.body.len, 0);
}

static void answers_come_back_over_a_kept_connection(void **state) {
    fixture *f = *state;
    for (int i = 0; i < 5; i++) {
        result r;
        exchange(f, request_of(f, "POST", "/echo", "hello"), TOOLSVC_HTTP_OK, &r);
        assert_int_equal(r.code, 200);
        assert_string_equal(r.body.ptr, "hello");
        rlf_str_clean_up(&r.body);
    }
    result r;
    exchange(f, request_of(f, "GET", "/status/404", ""), TOOLSVC_HTTP_OK, &r);
    assert_int_equal(r.code, 404);
    rlf_str_clean_up(&r.body);
    assert_int_equal(f->server.http.connections, 1);
}

static void broken_services_have_names(void **state) {
    fixture *f = *state;
    expect_error(f, "/reset", TOOLSVC_HTTP_RESET);
    expect_error(f, "/greeting", TOOLSVC_HTTP_RESET);
    expect_error(f, "/stall", TOOLSVC_HTTP_TIMEOUT);
    expect_error(f, "/huge", TOOLSVC_HTTP_TOO_LARGE);
    expect_error(f, "/endless", TOOLSVC_HTTP_TOO_LARGE);
    result r;
    toolsvc_http_request request = request_of(f, "GET", "/", "");
    request.url = "http://127.0.0.1:1/";
    exchange(f, request, TOOLSVC_HTTP_REFUSED, &r);
    request.url = "file:///etc/passwd";
    exchange(f, request, TOOLSVC_HTTP_REFUSED, &r);
    request.url = "http://no-such-host.invalid/";
    exchange(f, request, TOOLSVC_HTTP_REFUSED, &r);
}

static void redirects_stay_where_they_are(void **state) {
    fixture *f = *state;
    result r;
    expect_error(f, "/away", TOOLSVC_HTTP_REDIRECT);
    expect_error(f, "/to?file:///etc/passwd", TOOLSVC_HTTP_REDIRECT);
    expect_error(f, "/to?http://169.254.169.254/latest/meta-data/", TOOLSVC_HTTP_REDIRECT);
    expect_error(f, "/to?http://[::1]/", TOOLSVC_HTTP_REDIRECT);
    expect_error(f, "/to?//localhost/echo", TOOLSVC_HTTP_REDIRECT);
    expect_error(f, "/to?https://127.0.0.1/", TOOLSVC_HTTP_REDIRECT);
    expect_error(f, "/to?gopher://127.0.0.1/", TOOLSVC_HTTP_REDIRECT);
    assert_int_equal(f->server.requests, 7); /* nothing followed */
    exchange(f, request_of(f, "POST", "/here", "body"), TOOLSVC_HTTP_OK, &r);
    assert_string_equal(r.body.ptr, "body");
    rlf_str_clean_up(&r.body);
}

static void private_addresses_are_known_in_every_form(void **state) {
    (void)state;
    static const char *const private_ones[] = {
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.8.8.8", "169.254.169.254",
        "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1", "febf::1", "fec0::1", "fc00::1", "fdff::1", "ff02::1", "::ffff:10.0.0.1",
        "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8", "2002:0a00:0001::", "2002:a9fe:a9fe::1", "2001::1"};
    static const char *const public_ones[] = {
        "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255",
        "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
        "223.255.255.255", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:0808:0808::1", "2001:200::1"};
    for (size_t i = 0; i < sizeof private_ones / sizeof *private_ones + sizeof public_ones / sizeof *public_ones; i++) {
        bool wanted = i < sizeof private_ones / sizeof *private_ones;
        const char *text = wanted ? private_ones[i] : public_ones[i - sizeof private_ones / sizeof *private_ones];
        struct sockaddr_in v4 = {.sin_family = AF_INET};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        bool is_v6 = strchr(text, ':');
        assert_int_equal(inet_pton(is_v6 ? AF_INET6 : AF_INET, text, is_v6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr), 1);
        if (toolsvc_http_is_private(is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4) != wanted) fail_msg("%s", text);
    }
    assert_true(toolsvc_http_is_private(&(struct sockaddr){.sa_family = AF_UNIX}));
}

/* libcurl itself takes every name below localhost for this machine. */
static void private_address_must_be_named(void **state) {
    fixture *f = *state;
    result r;
    char url[128];
    toolsvc_http_request request = request_of(f, "POST", "/echo", "x");
    request.url = url;
    snprintf(url, sizeof url, "http://inside.localhost:%d/echo", f->server.http.port);
    exchange(f, request, TOOLSVC_HTTP_PRIVATE, &r);
    assert_int_equal(f->server.http.connections, 0);
    request.allow_private = true;
    exchange(f, request, TOOLSVC_HTTP_OK, &r);
    rlf_str_clean_up(&r.body);
    request.allow_private = false;
    static const char *const named[] = {"localhost", "127.0.0.1", "127.1", "0x7f000001", "2130706433"};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        snprintf(url, sizeof url, "http://%s:%d/echo", named[i], f->server.http.port);
        exchange(f, request, TOOLSVC_HTTP_OK, &r);
        rlf_str_clean_up(&r.body);
    }
}

static void cancelled_exchange_is_silent(void **state) {
    fixture *f = *state;
    result r = {0}, other;
    toolsvc_http_request request = request_of(f, "GET", "/stall", "");
    toolsvc_exchange *x = toolsvc_http_send(f->http, &request, on_done, &r);
    for (int i = 0; i < 50; i++) uv_run(&f->loop, UV_RUN_NOWAIT);
    toolsvc_http_cancel(x);
    exchange(f, request_of(f, "GET", "/echo", ""), TOOLSVC_HTTP_OK, &other);
    rlf_str_clean_up(&other.body);
    assert_int_equal(r.done, 0);
}

/* ---- kinds --------------------------------------------------------------------------------------------------------------------------- */

enum { CALLS = 200 };

typedef struct waiting {
    toolsvc_waiter waiter;
    int *done;
    rlf_call_status status;
    char text[2048];
} waiting;

static void on_call_done(toolsvc_waiter *waiter, rlf_call_status status, const rlf_str *text) {
    waiting *w = (waiting *)waiter;
    ++*w->done;
    w->status = status;
    snprintf(w->text, sizeof w->text, "%s", text->ptr ? text->ptr : "");
}

typedef struct bench {
    rlf_tool_config tool;
    rlf_config config;
    char url[256];
    toolsvc_tools tools;
    toolsvc_dispatch *dispatch;
    toolsvc_session *sessions;
    waiting w[CALLS];
    int done;
} bench;

static bench *bench_of(fixture *f, const char *kind, const char *path) {
    bench *b = calloc(1, sizeof *b);
    snprintf(b->url, sizeof b->url, "\"http://127.0.0.1:%d%s\"", f->server.http.port, path);
    b->tool = (rlf_tool_config){.name = "t", .kind = (char *)kind, .url = b->url, .timeout_ms = 10000, .concurrency = 64, .queue = 1000,
                                .batch = 1, .backoff_ms = 1, .method = "POST", .max_bytes = 1 << 20, .top_k = 1,
                                .schema = strcmp(kind, "http") == 0 ? "{\"type\": \"object\"}" : ""};
    b->config = (rlf_config){.tools = &b->tool, .n_tools = 1};
    return b;
}

static void bench_open(fixture *f, bench *b) {
    assert_ok(toolsvc_tools_init(&b->tools, &f->loop, &b->config, NULL));
    b->dispatch = toolsvc_dispatch_new(&f->loop, &b->tools, 1);
    for (int i = 0; i < CALLS; i++) b->w[i].waiter.done = on_call_done, b->w[i].done = &b->done;
}

/* Closes the tool on the loop that the server runs on, so not by toolsvc_tools_clean_up, which waits until nothing is left on it. */
static void bench_close(fixture *f, bench *b) {
    for (int i = 0; i < CALLS; i++) toolsvc_dispatch_leave(&b->w[i].waiter, false);
    while (!toolsvc_dispatch_destroy(b->dispatch)) uv_run(&f->loop, UV_RUN_NOWAIT);
    script_stop(&f->server.http);
    toolsvc_http_close(f->http);
    f->http = NULL;
    toolsvc_tools_clean_up(&b->tools);
    assert_true(loopback_start(&f->server, &f->loop)); /* for teardown */
    assert_ok(toolsvc_http_new(&f->http, &f->loop));
    free(b);
}

static void call(bench *b, int i, json_t *arguments) {
    toolsvc_dispatch_submit(b->dispatch, 0, arguments, &b->sessions, &(toolsvc_origin){.extra = {"", 0}}, &b->w[i].waiter);
}

typedef struct search { const char *wanted; int64_t n; } search;
static void look(void *user, const char *name, int64_t n) {
    search *s = user;
    if (strcmp(s->wanted, name) == 0) s->n = n;
}
static int64_t named_count(const bench *b, const char *wanted) {
    search s = {wanted, 0};
    toolsvc_dispatch_each_count(b->dispatch, 0, look, &s);
    return s.n;
}

static void retriever_asks_in_batches(void **state) {
    fixture *f = *state;
    bench *b = bench_of(f, "retriever", "/retrieve");
    b->tool.batch = 32, b->tool.batch_ms = 2;
    bench_open(f, b);
    for (int i = 0; i < CALLS; i++) {
        char query[32];
        snprintf(query, sizeof query, "q%d", i);
        call(b, i, json_pack("{s:s}", "query", query));
    }
    await(f, &b->done, CALLS);
    for (int i = 0; i < CALLS; i++) {
        char wanted[100];
        snprintf(wanted, sizeof wanted, "Doc 1(Title: \"q%d\") about q%d\n", i, i);
        assert_int_equal(b->w[i].status, RLF_CALL_OK);
        assert_string_equal(b->w[i].text, wanted);
    }
    assert_int_equal(f->server.requests, 7); /* 200 / 32, rounded up */
    assert_int_equal(f->server.most_queries, 32);
    bench_close(f, b);
}

static void poison_does_not_take_its_batch_with_it(void **state) {
    fixture *f = *state;
    bench *b = bench_of(f, "retriever", "/retrieve");
    b->tool.batch = 4, b->tool.batch_ms = 1000, b->tool.retries = 1;
    bench_open(f, b);
    for (int i = 0; i < 4; i++) call(b, i, json_pack("{s:s}", "query", i == 2 ? "broken" : "fine"));
    await(f, &b->done, 4);
    for (int i = 0; i < 4; i++) assert_int_equal(b->w[i].status, i == 2 ? RLF_CALL_INFRA : RLF_CALL_OK);
    assert_string_equal(b->w[2].text, "error: the service answered with status 500");
    assert_int_equal(named_count(b, "http_5xx"), 5);
    bench_close(f, b);
}

static void retries_overcome_a_service_that_fails_often(void **state) {
    fixture *f = *state;
    bench *b = bench_of(f, "http", "/fail30");
    b->tool.retries = 8, b->tool.answer = "/ok";
    bench_open(f, b);
    for (int i = 0; i < CALLS; i++) call(b, i, json_pack("{s:i}", "x", i));
    await(f, &b->done, CALLS);
    for (int i = 0; i < CALLS; i++) {
        assert_int_equal(b->w[i].status, RLF_CALL_OK);
        assert_string_equal(b->w[i].text, "true");
    }
    assert_int_equal(named_count(b, "http_5xx"), toolsvc_dispatch_counts(b->dispatch, 0)->retries);
    assert_true(named_count(b, "http_5xx") > CALLS / 4);
    bench_close(f, b);
}

static void check_fault(fixture *f, const char *path, rlf_call_status wanted, const char *text, const char *count) {
    bench *b = bench_of(f, "http", path);
    b->tool.answer = "/a", b->tool.timeout_ms = 400;
    bench_open(f, b);
    call(b, 0, json_object());
    await(f, &b->done, 1);
    assert_int_equal(b->w[0].status, wanted);
    if (!strstr(b->w[0].text, text)) fail_msg("%s: \"%s\" lacks \"%s\"", path, b->w[0].text, text);
    assert_int_equal(named_count(b, count), 1);
    bench_close(f, b);
}

static void every_fault_is_counted_under_its_name(void **state) {
    fixture *f = *state;
    check_fault(f, "/reset", RLF_CALL_INFRA, "error: the service gave no answer", "http_reset");
    check_fault(f, "/stall", RLF_CALL_INFRA, "error: the service gave no answer", "http_timeout");
    check_fault(f, "/huge", RLF_CALL_INFRA, "the answer is too large", "http_too_large");
    check_fault(f, "/away", RLF_CALL_INFRA, "redirects elsewhere", "http_redirect");
    check_fault(f, "/utf8", RLF_CALL_INFRA, "not valid UTF-8", "invalid_utf8");
    check_fault(f, "/json", RLF_CALL_INFRA, "not valid JSON", "invalid_json");
    check_fault(f, "/fail30", RLF_CALL_INFRA, "status 500", "http_5xx");
    check_fault(f, "/status/429", RLF_CALL_INFRA, "status 429", "http_429");
    check_fault(f, "/status/404", RLF_CALL_TOOL_ERROR, "error: the service answered with status 404: status 404", "http_4xx");
}

static void values_that_are_rare_in_json_are_answers(void **state) {
    fixture *f = *state;
    bench *b = bench_of(f, "http", "/rare");
    b->tool.answer = "/a";
    bench_open(f, b);
    call(b, 0, json_object());
    await(f, &b->done, 1);
    assert_string_equal(b->w[0].text, "[1.8446744073709552e+19,\"\xef\xbf\xbd\"]");
    bench_close(f, b);
    b = bench_of(f, "retriever", "/rare");
    bench_open(f, b);
    call(b, 0, json_pack("{s:s}", "query", "q"));
    await(f, &b->done, 1);
    assert_string_equal(b->w[0].text, "Doc 1(Title: T\xef\xbf\xbd) x\xef\xbf\xbdy\n");
    bench_close(f, b);
}

static void body_and_path_are_filled_in(void **state) {
    fixture *f = *state;
    bench *b = bench_of(f, "http", "/echo?q={{q}}&n={{n}}");
    b->tool.body = "{\"query\": \"{{q}}\", \"text\": \"<{{q}}|{{n}}>\", \"n\": \"{{n}}\", \"gone\": \"{{none}}\", \"list\": [1, \"{{l}}\"]}";
    bench_open(f, b);
    call(b, 0, json_pack("{s:s, s:f, s:[s]}", "q", "a b&\"\xc3\xa4", "n", 0.1, "l", "x"));
    await(f, &b->done, 1);
    assert_string_equal(
        b->w[0].text,
        "?q=a%20b%26%22%C3%A4&n=0.1{\"query\":\"a b&\\\"\xc3\xa4\",\"text\":\"<a b&\\\"\xc3\xa4|0.1>\",\"n\":0.1,\"list\":[1,[\"x\"]]}");
    bench_close(f, b);
    b = bench_of(f, "http", "/echo");
    bench_open(f, b);
    call(b, 0, json_pack("{s:i, s:i}", "z", 1, "a", 2));
    await(f, &b->done, 1);
    assert_string_equal(b->w[0].text, "{\"a\":2,\"z\":1}");
    bench_close(f, b);
}

/* The head of what kind http sends. */
static void expect_head(fixture *f, const char *method, const char *headers, const char *wanted, const char *unwanted) {
    bench *b = bench_of(f, "http", "/headers");
    b->tool.method = (char *)method, b->tool.headers = (char *)headers;
    bench_open(f, b);
    call(b, 0, json_object());
    await(f, &b->done, 1);
    if (!strstr(b->w[0].text, wanted)) fail_msg("\"%s\" lacks \"%s\"", b->w[0].text, wanted);
    if (strstr(b->w[0].text, unwanted)) fail_msg("\"%s\" has \"%s\"", b->w[0].text, unwanted);
    bench_close(f, b);
}

static void a_body_is_json_unless_the_headers_say_otherwise(void **state) {
    fixture *f = *state;
    expect_head(f, "POST", NULL, "\r\nContent-Type: application/json\r\n", "form-urlencoded");
    expect_head(f, "PUT", "{\"X\": \"y\"}", "\r\nContent-Type: application/json\r\n", "form-urlencoded");
    expect_head(f, "POST", "{\"content-type\": \"text/plain\"}", "\r\ncontent-type: text/plain\r\n", "application/json");
    expect_head(f, "GET", NULL, "\r\nAccept: */*\r\n", "Content-Type");
}

/* The text of a call of kind http whose headers and body hold the secret RLF_TEST_KEY, in the bench's order. */
static char *call_with_secret(fixture *f, const char *path, const char *value, rlf_call_status wanted) {
    static char text[4096];
    setenv("RLF_TEST_KEY", value, 1);
    bench *b = bench_of(f, "http", path);
    b->tool.headers = "{\"Authorization\": \"Bearer ${RLF_TEST_KEY}\"}";
    b->tool.body = "{\"key\": \"k=${RLF_TEST_KEY}\", \"list\": [{\"key\": \"${RLF_TEST_KEY}\"}], \"said\": \"{{said}}\"}";
    b->tool.secrets = "[\"RLF_TEST_KEY\"]";
    bench_open(f, b);
    call(b, 0, json_pack("{s:s}", "said", "${RLF_TEST_KEY}"));
    await(f, &b->done, 1);
    assert_int_equal(b->w[0].status, wanted);
    snprintf(text, sizeof text, "%s", b->w[0].text);
    bench_close(f, b);
    unsetenv("RLF_TEST_KEY");
    return text;
}

static void secrets_come_from_the_environment_and_do_not_come_back(void **state) {
    fixture *f = *state;
    const char *text = call_with_secret(f, "/headers", "very-secret-value", RLF_CALL_OK);
    assert_non_null(strstr(text, "Authorization: Bearer [secret]\r\n"));
    assert_null(strstr(text, "very-secret"));
    text = call_with_secret(f, "/echo", "very-secret-value", RLF_CALL_OK);
    assert_string_equal(text, "{\"key\":\"k=[secret]\",\"list\":[{\"key\":\"[secret]\"}],\"said\":\"${RLF_TEST_KEY}\"}");
    text = call_with_secret(f, "/echo", "very \"secret\" value\\", RLF_CALL_OK); /* comes back as JSON escapes it */
    assert_string_equal(text, "{\"key\":\"k=[secret]\",\"list\":[{\"key\":\"[secret]\"}],\"said\":\"${RLF_TEST_KEY}\"}");
}

static void a_cut_through_a_secret_leaves_none_of_it(void **state) {
    fixture *f = *state;
    char value[200] = "";
    memset(value, 'x', sizeof value - 1);
    const char *text = call_with_secret(f, "/refuse", value, RLF_CALL_TOOL_ERROR);
    assert_non_null(strstr(text, "status 403"));
    assert_null(strstr(text, "xxx"));
}

static void blot_expect(const toolsvc_secrets *s, const char *text, const char *wanted) {
    rlf_str out = {0};
    toolsvc_secrets_blot(s, text, strlen(text), &out);
    assert_string_equal(out.ptr, wanted);
    rlf_str_clean_up(&out);
}

static void secrets_are_blotted_out_in_each_of_their_forms(void **state) {
    (void)state;
    toolsvc_secrets s = {0};
    toolsvc_secrets_add(&s, "short");
    toolsvc_secrets_add(&s, "a/b+c\"d\xc3\xa4");
    toolsvc_secrets_add(&s, "password");
    toolsvc_secrets_add(&s, "password-of-mine");
    blot_expect(&s, "short a/b+c\"d\xc3\xa4, a/b+c\\\"d\xc3\xa4.", "short [secret], [secret].");
    blot_expect(&s, "a\\/b+c\\\"d\\u00E4 a%2Fb%2Bc%22d%C3%A4 a%2fb%2bc%22d%c3%a4", "[secret] [secret] [secret]");
    blot_expect(&s, "passwordpassword-of-mine password-of", "[secret][secret] [secret]-of");
    toolsvc_secrets_clean_up(&s);
}

static void refused_as(fixture *f, rlf_status status, const rlf_tool_config *tool, const char *wanted) {
    rlf_config config = {.tools = (rlf_tool_config *)(uintptr_t)tool, .n_tools = 1};
    toolsvc_tools tools;
    toolsvc_http_close(f->http); /* a failed opening runs the loop dry */
    script_stop(&f->server.http);
    assert_int_equal(toolsvc_tools_init(&tools, &f->loop, &config, NULL), status);
    if (!strstr(rlf_error_message(), wanted)) fail_msg("\"%s\" lacks \"%s\"", rlf_error_message(), wanted);
    assert_true(loopback_start(&f->server, &f->loop));
    assert_ok(toolsvc_http_new(&f->http, &f->loop));
}

static void refused(fixture *f, const rlf_tool_config *tool, const char *wanted) { refused_as(f, RLF_INVALID, tool, wanted); }

static void bad_configuration_names_the_key(void **state) {
    fixture *f = *state;
    bench *b = bench_of(f, "http", "/");
    rlf_tool_config good = b->tool, bad = good;
    bad.url = "\"ftp://host/\"", refused(f, &bad, "tools[0] (t): key \"url\"");
    bad.url = "\"http://{{host}}/\"", refused(f, &bad, "key \"url\": {{");
    bad.url = "[]", refused(f, &bad, "key \"url\"");
    char *const none[] = {"\"http://[::1:80/\"", "\"http://a host/\"", "\"http://h:99999/\"", "[\"http://h/\", \"http://:80\"]"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) bad.url = none[i], refused(f, &bad, "key \"url\": no such URL can be: ");
    bad = good, bad.headers = "{\"a\": 1}", refused(f, &bad, "key \"headers\"");
    bad = good, bad.headers = "{\"a\": \"${HOME}\"}", refused(f, &bad, "${HOME} is not in the list of key \"secrets\"");
    bad = good, bad.secrets = "[\"RLF_NO_SUCH_VARIABLE\"]", refused(f, &bad, "no variable RLF_NO_SUCH_VARIABLE");
    bad = good, bad.body = "[\"${HOME}\"]", refused(f, &bad, "key \"body\": ${HOME} is not in the list of key \"secrets\"");
    bad = good, bad.ca = "/nonexistent.pem", refused_as(f, RLF_NOT_FOUND, &bad, "key \"ca\": /nonexistent.pem: No such file");
    bad = good, bad.answer = "text", refused(f, &bad, "key \"answer\"");
    bad = good, bad.schema = "", refused(f, &bad, "key \"schema\"");
    bad = good, bad.schema = "{\"properties\": {\"query\": {}}}";
    bad.url = "[\"http://h/?q={{query}}\", \"http://h/?q={{qury}}\"]", refused(f, &bad, "key \"url\": {{qury}} is not among the properties of key \"schema\"");
    bad.url = good.url, bad.body = "{\"a\": [\"{{query}} {{\", \"of {{n}}\"]}", refused(f, &bad, "key \"body\": {{n}} is not among the properties");
    free(b);
}

static void replicas_share_the_load(void **state) {
    fixture *f = *state;
    loopback second;
    bench *b = bench_of(f, "http", "/slow");
    assert_true(loopback_start(&second, &f->loop));
    snprintf(b->url, sizeof b->url, "[\"http://127.0.0.1:%d/slow\", \"http://127.0.0.1:%d/slow\"]", f->server.http.port, second.http.port);
    bench_open(f, b);
    for (int i = 0; i < 40; i++) call(b, i, json_object());
    await(f, &b->done, 40);
    assert_int_equal(f->server.requests, 20);
    assert_int_equal(second.requests, 20);
    uv_close((uv_handle_t *)&second.http.listener, NULL);
    bench_close(f, b);
}

int main(void) {
    rlf_log_init(-1, "test", RLF_LOG_ERROR + 1);
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(answers_come_back_over_a_kept_connection),
        CASE(broken_services_have_names),
        CASE(redirects_stay_where_they_are),
        CASE(private_addresses_are_known_in_every_form),
        CASE(private_address_must_be_named),
        CASE(cancelled_exchange_is_silent),
        CASE(retriever_asks_in_batches),
        CASE(poison_does_not_take_its_batch_with_it),
        CASE(retries_overcome_a_service_that_fails_often),
        CASE(every_fault_is_counted_under_its_name),
        CASE(values_that_are_rare_in_json_are_answers),
        CASE(body_and_path_are_filled_in),
        CASE(a_body_is_json_unless_the_headers_say_otherwise),
        CASE(secrets_come_from_the_environment_and_do_not_come_back),
        CASE(a_cut_through_a_secret_leaves_none_of_it),
        CASE(secrets_are_blotted_out_in_each_of_their_forms),
        CASE(bad_configuration_names_the_key),
        CASE(replicas_share_the_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
