/* What services answer, from the bytes of a body to the text of an observation, for the kinds http and retriever: whatever came, every call is
 * answered once, in valid UTF-8, without the secret. The HTTP client is replaced by this file: it never connects, and answers what the
 * input says.
 *
 * Input: a byte for tool and outcome, a byte for the status, then the body. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/base/log.h"
#include "toolsvc/dispatch.h"
#include "toolsvc/http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define SECRET "secret-value"
enum { TOOLS = 4, MOST_CALLS = 2 };

/* ---- the client ----------------------------------------------------------------------------------------------------------------------- */

struct toolsvc_exchange {
    toolsvc_http_fn *done;
    void *user;
};
static toolsvc_exchange *g_sent; /* the one under way */

rlf_status toolsvc_http_new(toolsvc_http **out, uv_loop_t *loop) {
    (void)loop;
    *out = NULL;
    return RLF_OK;
}
void toolsvc_http_close(toolsvc_http *http) { (void)http; }
const char *toolsvc_http_error_name(toolsvc_http_error error) { return error == TOOLSVC_HTTP_RESET ? "http_reset" : "http_tls"; }
toolsvc_exchange *toolsvc_http_send(toolsvc_http *http, const toolsvc_http_request *request, toolsvc_http_fn *done, void *user) {
    (void)http, (void)request;
    assert(!g_sent);
    g_sent = calloc(1, sizeof *g_sent);
    *g_sent = (toolsvc_exchange){done, user};
    return g_sent;
}
const char *toolsvc_http_url_error(const char *url) {
    (void)url;
    return NULL;
}
bool toolsvc_http_resolve(const char *base, const char *reference, rlf_str *out) {
    (void)base, (void)reference, (void)out;
    return false;
}
void toolsvc_http_cancel(toolsvc_exchange *exchange) {
    free(exchange);
    g_sent = NULL;
}

/* ---- calls ---------------------------------------------------------------------------------------------------------------------------- */

typedef struct waiting {
    toolsvc_waiter waiter;
    int answers;
} waiting;

static void on_done(toolsvc_waiter *waiter, rlf_call_status status, const rlf_str *text) {
    ((waiting *)waiter)->answers++;
    assert(status == RLF_CALL_OK || status == RLF_CALL_TOOL_ERROR || status == RLF_CALL_INFRA);
    for (utf8proc_ssize_t i = 0, length; i < (utf8proc_ssize_t)text->len; i += length) {
        utf8proc_int32_t c;
        length = utf8proc_iterate((const utf8proc_uint8_t *)text->ptr + i, (utf8proc_ssize_t)text->len - i, &c);
        assert(length > 0 && c != 0);
    }
    assert(!text->len || !memmem(text->ptr, text->len, SECRET, sizeof SECRET - 1));
}

static uv_loop_t g_loop;
static toolsvc_tools g_tools;
static toolsvc_dispatch *g_dispatch;
static rlf_tool_config g_configs[TOOLS];
static rlf_config g_config;

static rlf_tool_config tool_of(const char *name, const char *kind, const char *answer, int batch) {
    return (rlf_tool_config){.name = (char *)(uintptr_t)name, .kind = (char *)(uintptr_t)kind, .answer = (char *)(uintptr_t)answer, .url = "\"http://localhost/\"",
                             .method = "POST", .schema = batch ? "" : "{\"type\": \"object\"}", .secrets = "[\"RLF_FUZZ_SECRET\"]",
                             .timeout_ms = 1000, .concurrency = 8, .queue = 8, .batch = batch ? batch : 1, .batch_ms = 1000, .top_k = 3, .max_bytes = 1 << 20};
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    setenv("RLF_FUZZ_SECRET", SECRET, 1);
    rlf_log_init(-1, "fuzz", RLF_LOG_ERROR + 1);
    g_configs[0] = tool_of("whole", "http", "", 0);
    g_configs[1] = tool_of("pointed", "http", "/a/0/b~1c", 0);
    g_configs[2] = tool_of("one", "retriever", "", 1);
    g_configs[3] = tool_of("two", "retriever", "", MOST_CALLS);
    g_config = (rlf_config){.tools = g_configs, .n_tools = TOOLS};
    if (uv_loop_init(&g_loop) != 0 || toolsvc_tools_init(&g_tools, &g_loop, &g_config, NULL) != RLF_OK) abort();
    g_dispatch = toolsvc_dispatch_new(&g_loop, &g_tools, 1);
    return 0;
}

static void answer(int outcome, int code, rlf_slice body) {
    static const toolsvc_http_error errors[] = {TOOLSVC_HTTP_OK, TOOLSVC_HTTP_OK, TOOLSVC_HTTP_RESET, TOOLSVC_HTTP_TLS};
    toolsvc_http_answer a = {.error = errors[outcome], .why = "", .type = "", .header = ""};
    char *why = calloc(body.len + 1, 1);
    memcpy(why, body.ptr, body.len);
    if (a.error == TOOLSVC_HTTP_OK) a.code = code, a.body = body;
    else a.why = why;
    toolsvc_exchange *sent = g_sent;
    g_sent = NULL;
    sent->done(sent->user, &a);
    free(sent);
    free(why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    size_t tool = data[0] % TOOLS, calls = tool == 3 ? MOST_CALLS : 1;
    waiting w[MOST_CALLS] = {0};
    toolsvc_session *sessions = NULL;
    for (size_t i = 0; i < calls; i++) {
        w[i].waiter.done = on_done;
        json_t *arguments = tool < 2 ? json_object() : json_pack("{s:i, s:s}", "i", (int)i, "query", "q");
        toolsvc_dispatch_submit(g_dispatch, tool, arguments, &sessions, &(toolsvc_origin){.extra = {"", 0}}, &w[i].waiter);
    }
    for (int i = 0; i < 8 && !g_sent; i++) uv_run(&g_loop, UV_RUN_NOWAIT);
    assert(g_sent);
    answer(data[0] / TOOLS % 4, data[1] < 64 ? 400 + data[1] : data[1] < 96 ? 500 + data[1] : 200, (rlf_slice){(const char *)data + 2, n - 2});
    for (int i = 0; i < 8; i++) uv_run(&g_loop, UV_RUN_NOWAIT);
    for (size_t i = 0; i < calls; i++) assert(w[i].answers == 1);
    return 0;
}
