/* Files that list MCP servers, as other programs have them: {"mcpServers": {NAME: {…}}} (Claude Desktop, Cursor), {"servers": {…}} or
 * {"mcp": {"servers": {…}}} (VS Code), or a list of such (RL-Factory's .pydata).
 *
 * Read as JSON, and where that fails with what those programs allow beside it: comments, commas before a closing bracket, texts in
 * single quotes, True, False and None. */
#ifndef RLF_COMMON_CONFIG_SERVERS_H
#define RLF_COMMON_CONFIG_SERVERS_H

#include <jansson.h>

#include "common/config/config.h"

enum { RLF_SERVERS_MAX_BYTES = 1 << 20 };

/* *out: a new object from the server's name to its entry, an object; those with "disabled": true are left out. label: names the file in
 * errors. */
rlf_status rlf_servers_parse(const char *text, size_t n, const char *label, json_t **out) RLF_MUST_USE;
rlf_status rlf_servers_read(const char *path, json_t **out) RLF_MUST_USE;

/* What the model's side knows server NAME by: its letters, digits, _ and -, others as _; at most 64. size: of out, at least 65. */
void rlf_server_tool_name(const char *name, char *out, size_t size);

#endif
