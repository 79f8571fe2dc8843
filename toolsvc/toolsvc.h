/* The tool-service role: an environment service on its own ranks, one libuv loop each. Tools, and rewards, run here, so that
 * nothing slow blocks generation. */
#ifndef RLF_TOOLSVC_TOOLSVC_H
#define RLF_TOOLSVC_TOOLSVC_H

#include "common/config/config.h"
#include "common/msg/transport.h"

/* Opens every tool of the config once, to find errors early and to ask services what they offer: for --check and for the coordinator's
 * start. Appends the schemas shown in the prompt: a JSON array of {"type":"function","function":{name, description, parameters}}. */
rlf_status toolsvc_describe(const rlf_config *config, rlf_str *schemas) RLF_MUST_USE;
/* Serves OPEN, CALL, SCORE, CLOSE until CONTROL STOP (returns RLF_OK) or an error (returned). */
rlf_status toolsvc_run(rlf_transport *transport, const rlf_config *config) RLF_MUST_USE;

#endif
