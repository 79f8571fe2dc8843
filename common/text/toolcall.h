/* Tool calls in model text.
 *
 *   hermes   <tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>, several per turn, other text around them
 *   llama    the whole turn is {"name": …, "parameters": {…}}, or what follows <|python_tag|> is; several stand one behind the
 *            other, with ";" or <|python_tag|> between or nothing
 *
 * In the llama form a turn that begins with "{" is a call, well formed or not, and any other text without the tag is an answer. */
#ifndef RLF_COMMON_TEXT_TOOLCALL_H
#define RLF_COMMON_TEXT_TOOLCALL_H

#include <stdbool.h>

#include "common/base/mem.h"

typedef enum rlf_tool_format { RLF_TOOLS_HERMES, RLF_TOOLS_LLAMA } rlf_tool_format;

#define RLF_PYTHON_TAG "<|python_tag|>"

typedef struct rlf_tool_call {
    const char *name;      /* "" if it could not be read */
    const char *arguments; /* compact JSON object text; "{}" if none */
    const char *error;     /* NULL if well formed; else what is wrong, for the model to read */
} rlf_tool_call;

/* Every call in the text of one turn, in order; an unclosed tag or bad JSON gives a call with `error`. Text inside
 * <think>…</think> is not searched.
 * At most `max` are returned; *total counts all. Strings go to the arena. */
void rlf_tool_calls_parse(rlf_tool_format format, const char *text, size_t n, rlf_arena *arena, rlf_tool_call *calls, size_t max,
                          size_t *total);

/* The content of the last complete <answer>…</answer> outside <think>, or {NULL, 0}. */
rlf_slice rlf_answer_find(const char *text, size_t n);

#endif
