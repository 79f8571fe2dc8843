/* Tool calls and answers in arbitrary model text: whatever comes back must hold what toolcall.h promises. */
#include <assert.h>
#include <jansson.h>
#include <stdint.h>
#include <string.h>

#include "common/text/toolcall.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* shortest: bytes that a call takes at least. */
static void check_calls(rlf_tool_format format, size_t shortest, const char *text, size_t n) {
    enum { MAX = 8 };
    static rlf_arena arena;
    rlf_tool_call calls[MAX];
    size_t total = 0;
    rlf_tool_calls_parse(format, text, n, &arena, calls, MAX, &total);
    assert(total <= n / shortest);
    for (size_t i = 0; i < total && i < MAX; i++) {
        json_t *arguments = json_loads(calls[i].arguments, 0, NULL);
        assert(json_is_object(arguments));
        assert(calls[i].error ? calls[i].error[0] != '\0' : calls[i].name[0] != '\0');
        json_decref(arguments);
    }
    rlf_arena_reset(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const char *text = (const char *)data;
    check_calls(RLF_TOOLS_HERMES, strlen("<tool_call>"), text, n);
    check_calls(RLF_TOOLS_LLAMA, strlen("{"), text, n);
    rlf_slice answer = rlf_answer_find(text, n);
    if (answer.ptr) assert(answer.ptr >= text && answer.ptr + answer.len <= text + n && !memmem(answer.ptr, answer.len, "</answer>", 9));
    return 0;
}
