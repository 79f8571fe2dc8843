/* The tool kind "retriever": a search service that speaks as Search-R1's does,
 *     POST {"queries": ["q1", "q2"], "topk": 3, "return_scores": true}
 *     200  {"result": [[{"document": {"id": "0", "contents": "\"Title\"\ntext"}, "score": 0.87}, …], …]}
 * Calls that come within a short window go out as one request (keys batch, batch_ms). The answer is rendered as by kind index. */
#include <stdlib.h>
#include <string.h>

#include "toolsvc/http/remote.h"

/* One request under way. */
typedef struct query_batch {
    toolsvc_remote *remote;
    toolsvc_remote_exchange *exchange;
    toolsvc_call **calls; /* (n); NULL: given up */
    size_t n, waiting;
} query_batch;

static rlf_status open_retriever(const rlf_tool_config *config, uv_loop_t *loop, void **state) {
    toolsvc_remote *remote = NULL;
    rlf_status status = toolsvc_remote_open(&remote, config, loop, false);
    *state = remote;
    return status;
}

static void close_retriever(void *state) { toolsvc_remote_close(state); }

static void free_batch(query_batch *b) {
    free(b->calls);
    free(b);
}

static void fail_all(query_batch *b, const char *count, const char *why) {
    for (size_t i = 0; i < b->n; i++) {
        if (!b->calls[i]) continue;
        toolsvc_call_count(b->calls[i], count);
        toolsvc_call_finish(b->calls[i], RLF_CALL_INFRA, why, strlen(why));
    }
}

/* "Doc 1(Title: "Lima") Lima is the capital of Peru.": the first line is the title, quotes and all. False: not a passage. */
static bool render_one(const json_t *hit, size_t number, rlf_str *out) {
    const json_t *contents = json_object_get(json_object_get(hit, "document"), "contents");
    if (!json_is_string(contents)) return false;
    const char *title = json_string_value(contents), *end = title + json_string_length(contents);
    const char *eol = memchr(title, '\n', (size_t)(end - title)), *text = eol ? eol + 1 : end;
    rlf_str_printf(out, "Doc %zu(Title: ", number);
    rlf_str_append(out, title, (size_t)((eol ? eol : end) - title));
    rlf_str_puts(out, ") ");
    rlf_str_append(out, text, (size_t)(end - text));
    rlf_str_putc(out, '\n');
    return true;
}

static bool render(const json_t *hits, rlf_str *out) {
    if (!json_is_array(hits)) return false;
    if (json_array_size(hits) == 0) rlf_str_puts(out, "No passage matches the query.");
    for (size_t i = 0; i < json_array_size(hits); i++)
        if (!render_one(json_array_get(hits, i), i + 1, out)) return false;
    return true;
}

static void finish_one(query_batch *b, toolsvc_call *call, const json_t *hits) {
    static const char wrong[] = "the service's answer is not a list of passages";
    rlf_str text = {0}, clean = {0};
    bool good = render(hits, &text);
    if (!good) toolsvc_call_count(call, "invalid_answer");
    else toolsvc_remote_blot(b->remote, text.ptr, text.len, &clean);
    toolsvc_call_finish(call, good ? RLF_CALL_OK : RLF_CALL_INFRA, good ? clean.ptr : wrong, good ? clean.len : sizeof wrong - 1);
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&clean);
}

static void on_answer(void *user, const toolsvc_http_answer *answer) {
    query_batch *b = user;
    const char *count = NULL, *wrong = NULL;
    rlf_str why = {0};
    json_t *root = NULL;
    if (toolsvc_remote_failed(answer, &count, &why)) {
        fail_all(b, count, why.ptr);
    } else if (answer->code / 100 != 2) {
        rlf_str_printf(&why, "the service answered with status %ld", answer->code);
        fail_all(b, "http_4xx", why.ptr);
    } else if (!(root = toolsvc_remote_json(answer->body, &count, &wrong))) {
        fail_all(b, count, wrong);
    } else {
        const json_t *result = json_object_get(root, "result");
        for (size_t i = 0; i < b->n; i++)
            if (b->calls[i]) finish_one(b, b->calls[i], json_array_get(result, i));
    }
    json_decref(root);
    rlf_str_clean_up(&why);
    free_batch(b);
}

static void start_retriever(toolsvc_call *const *calls, size_t n) {
    query_batch *b = rlf_calloc(1, sizeof *b);
    *b = (query_batch){.remote = calls[0]->state, .calls = rlf_calloc(n, sizeof(toolsvc_call *)), .n = n, .waiting = n};
    json_t *queries = json_array();
    for (size_t i = 0; i < n; i++) {
        b->calls[i] = calls[i];
        calls[i]->data = b;
        json_array_append(queries, json_object_get(calls[i]->arguments, "query"));
    }
    json_t *root = json_pack("{s:o, s:I, s:b}", "queries", queries, "topk", (json_int_t)calls[0]->config->top_k, "return_scores", 1);
    char *body = json_dumps(root, JSON_COMPACT);
    b->exchange = toolsvc_remote_send(b->remote, "POST", rlf_slice_of(body), NULL, NULL, on_answer, b);
    free(body);
    json_decref(root);
}

static void cancel_retriever(toolsvc_call *call) {
    query_batch *b = call->data;
    for (size_t i = 0; i < b->n; i++)
        if (b->calls[i] == call) b->calls[i] = NULL;
    if (--b->waiting == 0) {
        toolsvc_remote_cancel(b->exchange);
        free_batch(b);
    }
    toolsvc_call_finish(call, RLF_CALL_INFRA, "", 0);
}

const toolsvc_kind toolsvc_kind_retriever = {
    .name = "retriever",
    .description = "Search for passages that answer a query.",
    .parameters = "{\"type\": \"object\", \"properties\": {\"query\": {\"type\": \"string\", \"description\": \"what to search for\"}}, "
                  "\"required\": [\"query\"]}",
    .open = open_retriever,
    .close = close_retriever,
    .start = start_retriever,
    .cancel = cancel_retriever,
    .batches = true};
