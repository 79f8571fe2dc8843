/* Conversations of golden files as messages, and chats over a tokenizer of bytes. */
#ifndef RLF_TESTS_UNIT_TEXT_TALK_H
#define RLF_TESTS_UNIT_TEXT_TALK_H

#include "tests/unit/text/golden.h"

#include "common/text/chat.h"
#include "tests/unit/rollout/byte_tokenizer.h"

static const char *const families[] = {"chatml", "llama3.1", "llama3.2", "qwen2.5", "qwen2.5-base",
                                       "qwen3", "qwen3-instruct", "qwen3-instruct-plain", "qwen3-thinking"};
enum { FAMILIES = sizeof families / sizeof families[0] };

/* For the whole program, by its set-up and clean-up. */
static rlf_tokenizer *tokenizer;
static rlf_arena arena;

static inline int set_up(void **state) {
    (void)state;
    tokenizer = byte_tokenizer();
    return 0;
}

static inline int clean_up(void **state) {
    (void)state;
    rlf_tokenizer_destroy(tokenizer);
    rlf_arena_clean_up(&arena);
    return 0;
}

/* The messages of a JSON object that has them; strings go to the arena. */
static inline rlf_row talk_of(const json_t *object) {
    rlf_row row;
    char *line = json_dumps(object, JSON_COMPACT);
    assert_ok(rlf_messages_parse(&row, line, strlen(line), "golden", 1, &arena));
    free(line);
    return row;
}

static inline rlf_chat *chat_of(const char *name, bool thinking, const char *date) {
    rlf_chat *chat = NULL;
    assert_ok(rlf_chat_new(&chat, tokenizer, NULL, (rlf_chat_options){.name = name, .thinking = thinking, .date = date}));
    return chat;
}

#endif
