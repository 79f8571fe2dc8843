/* The result of an MCP call as text for the model. */
#ifndef RLF_TOOLSVC_MCP_CONTENT_H
#define RLF_TOOLSVC_MCP_CONTENT_H

#include <jansson.h>

#include "common/msg/messages.h"

/* Appends the texts of the content blocks, a line feed between them; an image, a sound or a resource without text is a fixed short line:
 * "[image: image/png, 1234 bytes]", "[resource: file:///x.bin, 1234 bytes]". Where there are no blocks, structuredContent as JSON.
 * Any bytes may be in it. OK; TOOL_ERROR: the server says that it is an error; INFRA: it is no result of a call, nothing is appended. */
rlf_call_status toolsvc_mcp_content(const json_t *result, rlf_str *out);

#endif
