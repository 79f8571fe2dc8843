/* The tool kind "index": full-text search in a file made by `rlf index`. The answer is rendered as Search-R1 does: one paragraph
 * per passage,
 *     Doc 1(Title: "Lima") Lima is the capital of Peru.
 * the title in quotes if the corpus had it so. */
#include "common/base/log.h"
#include "toolsvc/index/index.h"
#include "toolsvc/kind.h"

static rlf_status open_index(const rlf_tool_config *config, uv_loop_t *loop, void **state) {
    (void)loop;
    if (!config->path || !config->path[0]) return RLF_RAISE(INVALID, "key \"path\": a tool of kind index needs the file made by rlf index");
    if (config->top_k < 1) return RLF_RAISE(INVALID, "key \"top_k\": %lld; at least 1 was expected", (long long)config->top_k);
    toolsvc_index *index;
    rlf_status status = toolsvc_index_open(&index, config->path);
    if (status == RLF_OK) RLF_DEBUG("%s: %s holds %zu passages", config->name, config->path, toolsvc_index_passages(index));
    *state = index;
    return status;
}

static void close_index(void *state) { toolsvc_index_destroy(state); }

static void render(const toolsvc_hit *hits, size_t n, rlf_str *out) {
    if (n == 0) rlf_str_puts(out, "No passage matches the query.");
    for (size_t i = 0; i < n; i++) {
        const char *mark = hits[i].title_quoted ? "\"" : "";
        rlf_str_printf(out, "Doc %zu(Title: %s%s%s) %s\n", i + 1, mark, hits[i].title, mark, hits[i].text);
    }
}

static rlf_call_status run_index(const toolsvc_call *call, rlf_str *out) {
    const json_t *query = json_object_get(call->arguments, "query");
    rlf_arena arena = {0};
    toolsvc_hit *hits;
    size_t count;
    rlf_status status = toolsvc_index_search(call->state, json_string_value(query), json_string_length(query), (size_t)call->config->top_k,
                                             &call->cancelled, &arena, &hits, &count);
    if (status == RLF_OK)
        render(hits, count, out);
    else
        rlf_str_printf(out, "the search failed: %s", rlf_error_message());
    rlf_arena_clean_up(&arena);
    return status == RLF_OK ? RLF_CALL_OK : RLF_CALL_INFRA;
}

const toolsvc_kind toolsvc_kind_index = {.name = "index",
                                         .description = "Search for passages that answer a query.",
                                         .parameters = "{\"type\": \"object\", \"properties\": {\"query\": {\"type\": \"string\", "
                                                       "\"description\": \"what to search for\"}}, \"required\": [\"query\"]}",
                                         .open = open_index,
                                         .close = close_index,
                                         .run = run_index};
