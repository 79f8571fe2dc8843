/* Record and replay of a run's calls (keys traffic.record and traffic.replay), so that a run can be repeated, to the byte, where its tools
 * are not: no network, no index, other answers by now.
 *
 * A folder with one JSONL file per tool rank: for each start of the run a line with the functions on offer, then one line per call that
 * was answered, written at once,
 *     {"started_ms": 1764036000000, "functions": [{"tool": "search", "name": "search", "description": …, "parameters": {…}}]}
 *     {"version": 3, "uid": 7, "sample": 0, "attempt": 0, "turn": 1, "call": 0, "function": "search", "arguments": "{…}", "status": "ok",
 *      "text": "…"}
 * Calls that were bad are not in it: they are bad again. What cannot be written ends the run before the call is answered: no checkpoint
 * has seen what is not recorded. A resumed run goes on at the end of what is there, and cuts off a line that its killed predecessor left
 * unfinished.
 *
 * Replay reads every file of the folder, opens no tool, and answers a call with what was recorded for the same weights (version), the same
 * place in the same episode and the same arguments: the last answer, where a resumed run made the call again. The number of tool
 * ranks may be another one. A call that was not recorded is an infra_error. */
#ifndef RLF_TOOLSVC_TRAFFIC_H
#define RLF_TOOLSVC_TRAFFIC_H

#include "toolsvc/tools.h"

typedef struct toolsvc_traffic toolsvc_traffic;

/* *out is NULL where the configuration asks for neither. rank: names the file. Errors name file and line. */
rlf_status toolsvc_traffic_open(toolsvc_traffic **out, const rlf_config *config, int rank, const toolsvc_tools *tools) RLF_MUST_USE;
/* RLF_IO: the end could not be written. NULL is allowed. */
rlf_status toolsvc_traffic_close(toolsvc_traffic *traffic) RLF_MUST_USE;
bool toolsvc_traffic_replays(const toolsvc_traffic *traffic);

/* Recording: one answer, before it is sent. version: of the weights, as OPEN had it; message: the CALL. RLF_OK where nothing is recorded. */
rlf_status toolsvc_traffic_note(toolsvc_traffic *traffic, int64_t version, const rlf_call *message, rlf_call_status status,
                                const rlf_str *text) RLF_MUST_USE;
/* Replaying: false if nothing was recorded for it. *text is borrowed until close. */
bool toolsvc_traffic_find(const toolsvc_traffic *traffic, int64_t version, const rlf_call *message, rlf_call_status *status,
                          const rlf_str **text);

/* The recorded functions, as in the first line: a new array. */
rlf_status toolsvc_traffic_functions(const char *folder, json_t **out) RLF_MUST_USE;

#endif
