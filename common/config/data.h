/* Data rows: JSONL in the schema of verl and Search-R1.
 *
 *   {"data_source":"nq","prompt":[{"role":"user","content":"…"}],"reward_model":{"ground_truth":{"target":["…"]}},"extra_info":{…}}
 *
 * extra_info.tools, where it is there, lists the functions that the row's episodes may use: those alone are shown and answered.
 * ground_truth may be {"target":[…]}, a list of strings, or one string. A row of FlashRAG's or of NQ-open's is read as it is, its
 * question being the only message:
 *
 *   {"id":"test_0","question":"who got the first nobel prize in physics","golden_answers":["…"]}   (or "answers", "answer")
 *
 * For supervised training a row has "messages" instead of "prompt": the whole conversation, roles system, user, assistant, tool;
 * assistant contents are the exact text the model shall produce, tool contents what the tool answered. An assistant's "tool_calls"
 * (with them "content" may be null or missing) and "reasoning_content" are put as its chat template puts them. Errors name file,
 * line, and what was expected; every line is checked at load.
 * Keys that are not named here are ignored, blank lines are skipped, and a line has at most 16 MiB. */
#ifndef RLF_COMMON_CONFIG_DATA_H
#define RLF_COMMON_CONFIG_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/mem.h"

typedef struct rlf_chat_message {
    const char *role;    /* "system" | "user" | "assistant" | "tool" */
    const char *content; /* UTF-8, NUL terminated */
    const char *reasoning;  /* what an assistant thought before the content, NULL if not given apart from it (which "" is not) */
    const char *tool_calls; /* an assistant's calls: a JSON list of {"name", "arguments"}, perhaps within {"function"}; NULL if none */
} rlf_chat_message;

typedef struct rlf_row {
    const char *data_source;
    const rlf_chat_message *messages;
    size_t n_messages;
    const char **targets; /* accepted answers */
    size_t n_targets;
    const char **tools;   /* extra_info.tools: names of the functions its episodes may use; NULL: all */
    size_t n_tools;
    const char *extra;    /* extra_info as compact JSON text, "" if none */
    const char *id;       /* extra_info.index as text, or the line number */
    size_t line;          /* its line number, for messages */
} rlf_row;

typedef struct rlf_dataset {
    rlf_row *rows;   /* (n), owned */
    size_t n;
    uint64_t checksum; /* of the bytes of all lines that are not blank: FNV-1a (Fowler, Noll, Vo 1991), 64 bits */
    rlf_arena arena;   /* owns all that the rows point to */
} rlf_dataset;

/* supervised: rows need "messages" with at least one assistant message; else "prompt" (or "messages" without assistant) and a
 * ground truth. */
rlf_status rlf_dataset_load(rlf_dataset *data, const char *path, bool supervised) RLF_MUST_USE;
void rlf_dataset_clean_up(rlf_dataset *data);
/* The messages alone, of a line {"messages": […]} or {"prompt": […]} with any other keys: a conversation with no demands on who
 * speaks. */
rlf_status rlf_messages_parse(rlf_row *row, const char *line, size_t n, const char *file, size_t line_number,
                              rlf_arena *arena) RLF_MUST_USE;
/* One line, for tests and the fuzzer; strings go to `arena`. */
rlf_status rlf_row_parse(rlf_row *row, const char *line, size_t n, const char *file, size_t line_number, bool supervised,
                         rlf_arena *arena) RLF_MUST_USE;

#endif
