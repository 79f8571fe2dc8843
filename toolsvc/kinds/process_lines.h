/* The lines that a program behind the kind "process" reads and writes, as PROCESS.md tells its author. Pure: text to values and back. */
#ifndef RLF_TOOLSVC_PROCESS_LINES_H
#define RLF_TOOLSVC_PROCESS_LINES_H

#include <stdbool.h>

#include "toolsvc/kind.h"

/* Numbers of requests are as large as a double holds exactly, at most. */
#define TOOLSVC_PROCESS_MOST_ID 9007199254740991

/* Append one line without its newline. */
void toolsvc_process_describe(uint64_t id, rlf_str *out);
void toolsvc_process_open(uint64_t episode, const toolsvc_origin *origin, rlf_str *out);
void toolsvc_process_close(uint64_t episode, rlf_str *out);
void toolsvc_process_cancel(uint64_t id, rlf_str *out);
/* n calls, numbered from `id`; more than one go as a batch. episode: 0: none. */
void toolsvc_process_call(toolsvc_call *const *calls, size_t n, uint64_t id, uint64_t episode, rlf_str *out);

/* One answer. */
typedef struct toolsvc_process_answer {
    uint64_t id;
    rlf_call_status status;  /* OK, TOOL_ERROR or INFRA */
    const json_t *value;     /* borrowed: the result, or what went wrong; NULL if it has functions */
    const json_t *functions; /* borrowed: the answer to describe: an array; NULL otherwise */
} toolsvc_process_answer;

/* The answers in one line of n bytes, in order, until `each` returns false. False: the line holds anything else; `each` was not called. */
bool toolsvc_process_read(const char *line, size_t n, bool (*each)(void *user, const toolsvc_process_answer *answer), void *user);
/* Appends what a model reads of a value: texts as they are, all else as JSON. */
void toolsvc_process_text(const json_t *value, rlf_str *out);

#endif
