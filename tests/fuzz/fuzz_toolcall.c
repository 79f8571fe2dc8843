/* Tool calls and answers in arbitrary model text: whatever comes back must hold what toolcall.h promises. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/base/json.h"
#include "common/text/toolcall.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* shortest: bytes that a call takes at least; 0: there may be one in no bytes at all. */
static void check_calls(const rlf_tool_syntax *syntax, size_t shortest, const char *text, size_t n) {
    enum { MAX = 8 };
    static rlf_arena arena;
    rlf_tool_call calls[MAX];
    size_t total = 0;
    rlf_tool_calls_parse(syntax, text, n, &arena, calls, MAX, &total);
    assert(shortest ? total <= n / shortest : total <= 1);
    for (size_t i = 0; i < total && i < MAX; i++) {
        json_t *arguments = rlf_json_parse(calls[i].arguments, strlen(calls[i].arguments), 0, NULL);
        assert(json_is_object(arguments));
        assert(calls[i].error ? calls[i].error[0] != '\0' : calls[i].name[0] != '\0');
        json_decref(arguments);
    }
    rlf_arena_reset(&arena);
}

/* What a turn completes first does not depend on the pieces in which its text comes. */
static void check_scan(const rlf_tool_syntax *syntax, const char *text, size_t n) {
    rlf_turn_scan whole = {0}, pieces = {0};
    rlf_turn_event event = rlf_turn_scan_next(&whole, syntax, text, n), again = RLF_TURN_GOES_ON;
    for (size_t end = 0; end < n && again == RLF_TURN_GOES_ON;) {
        end += 1 + (unsigned char)text[end] % 7;
        again = rlf_turn_scan_next(&pieces, syntax, text, end < n ? end : n);
    }
    assert(again == event);
    if (event != RLF_TURN_GOES_ON) assert(whole.at == pieces.at && whole.begin == pieces.begin && whole.end == pieces.end);
    assert(whole.at <= n && whole.begin <= whole.at && (event == RLF_TURN_GOES_ON || whole.end < whole.at));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const size_t shortest[RLF_TOOLS_COUNT] = {sizeof "<tool_call>" - 1, 1, 0, 0, 0};
    const char *text = (const char *)data;
    for (int format = 0; format < RLF_TOOLS_COUNT; format++) {
        rlf_tool_syntax syntax = {(rlf_tool_format)format, "search.query", "python.code"};
        check_calls(&syntax, shortest[format], text, n);
        check_scan(&syntax, text, n);
        rlf_slice answer = rlf_answer_find(&syntax, text, n);
        if (!answer.ptr) continue;
        assert(answer.ptr >= text && answer.ptr + answer.len <= text + n && !memmem(answer.ptr, answer.len, "</answer>", 9));
    }
    return 0;
}
