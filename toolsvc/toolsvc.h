/* The tool-service role: an environment service on its own ranks, one libuv loop each. Tools, and rewards, run here, so that
 * nothing slow blocks generation. */
#ifndef RLF_TOOLSVC_TOOLSVC_H
#define RLF_TOOLSVC_TOOLSVC_H

#include "common/config/config.h"
#include "common/msg/transport.h"

/* Opens every tool of the config once, to find errors early: for --check and for the coordinator's start. */
rlf_status toolsvc_check(const rlf_config *config) RLF_MUST_USE;
/* The schemas shown in the prompt: a JSON array of {"type":"function","function":{name, description, parameters}}, appended to `out`. */
void toolsvc_schemas(const rlf_config *config, rlf_str *out);
/* Serves OPEN, CALL, SCORE, CLOSE until CONTROL STOP (returns RLF_OK) or an error (returned). */
rlf_status toolsvc_run(rlf_transport *transport, const rlf_config *config) RLF_MUST_USE;

#endif
