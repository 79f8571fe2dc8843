/* Chat templates, in one of two ways that the first byte picks: an arbitrary Jinja text to be recognised, or an arbitrary row of messages
 * and, behind a NUL, arbitrary tools, through every family: what is rendered has ids that give the text back, and the ids of the
 * prompt begin those of the conversation. */
#include <assert.h>
#include <stdint.h>

#include "common/text/chat_private.h"
#include "tests/unit/rollout/byte_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void arbitrary_template(const char *text, size_t n) {
    const char *name = NULL;
    if (rlf_chat_recognise("fuzz", (rlf_slice){text, n}, &name) == RLF_OK) assert(rlf_chat_family_of(name));
    else assert(!name);
}

static void note_span(void *ctx, size_t begin, size_t end, bool model) {
    size_t *at = ctx;
    (void)model;
    assert(begin == *at && end >= begin);
    *at = end;
}

static void through(const rlf_tokenizer *tokenizer, rlf_chat_options options, const rlf_row *row, const char *tools) {
    rlf_chat *chat = NULL;
    rlf_str text = {0}, back = {0};
    rlf_ids ids = {0}, talk = {0};
    size_t at = 0;
    if (rlf_chat_new(&chat, tokenizer, "", options) != RLF_OK) abort();
    if (rlf_chat_render(chat, row->messages, row->n_messages, tools, true, &text, &ids) == RLF_OK) {
        rlf_tokenizer_decode(tokenizer, ids.v, ids.n, false, &back);
        assert(back.len == text.len && !memcmp(back.ptr, text.ptr, text.len));
    }
    if (rlf_chat_supervised(chat, row->messages, row->n_messages, tools, 20, &talk, note_span, &at) == RLF_OK) assert(at == talk.n);
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&back);
    rlf_ids_clean_up(&ids);
    rlf_ids_clean_up(&talk);
    rlf_chat_destroy(chat);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const families[] = {"chatml", "llama3.1", "qwen2.5", "qwen3"};
    static const char *const formats[] = {"auto", "search-r1", "tool-star", "fenced"};
    static rlf_tokenizer *tokenizer;
    static rlf_arena arena;
    rlf_row row;
    if (!tokenizer) tokenizer = byte_tokenizer();
    if (n == 0) return 0;
    const char *text = rlf_arena_dup(&arena, data + 1, n - 1);
    size_t line = strlen(text) < n - 1 ? strlen(text) : n - 1;
    if (data[0] & 1) arbitrary_template(text, n - 1);
    else if (rlf_messages_parse(&row, text, line, "fuzz", 1, &arena) == RLF_OK)
        for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
            through(tokenizer, (rlf_chat_options){.name = families[i], .thinking = data[0] & 2, .tool_format = formats[data[0] / 4 % 4]}, &row,
                    line < n - 1 ? text + line + 1 : NULL);
    rlf_arena_reset(&arena);
    return 0;
}
