/* What an MCP server is and how it is reached, resolved: from the keys of a tool, or from its entry in a file of servers
 * (common/config/servers.h). Also what its sessions share: the loop and the HTTP client.
 *
 * Secrets: in the job file's headers, env and url `${NAME}` stands for a variable that key `secrets` lists. In a file of servers `${NAME}`,
 * `${env:NAME}` and `${NAME:-default}` stand for any variable of the environment, `${workspaceFolder}` for the current folder and
 * `${userHome}` for HOME; a value there is taken for a secret if its name holds KEY, TOKEN, SECRET, PASS, AUTH, COOKIE or CREDENTIAL. What
 * VS Code asks its user for, `${input:api-key}`, is a secret too and stands in variable API_KEY.
 * None of this is ever put into the configuration. */
#ifndef RLF_TOOLSVC_MCP_SERVER_H
#define RLF_TOOLSVC_MCP_SERVER_H

#include "common/config/config.h"
#include "toolsvc/child/child.h"
#include "toolsvc/http/http.h"

typedef struct toolsvc_mcp_server {
    const char *name;       /* of the tool, for messages; borrowed */
    uv_loop_t *loop;
    toolsvc_command command; /* the program; argv NULL: there is a url */
    char *folder;           /* of command */
    toolsvc_http *http;     /* NULL where there is a program */
    char *url;
    char **headers;         /* "Name: value" */
    size_t n_headers, cap_headers;
    bool only_http, only_sse; /* which of the two forms over HTTP; neither: as the server likes */
    int64_t max_bytes, start_ms, timeout_ms; /* of one message; until it is ready; of one call */
    bool allow_private;
    const char *ca;         /* borrowed; as in http.h */
    size_t farewells;       /* exchanges that tell the server that a session is over */
    bool closed;
    uv_timer_t end;         /* frees it from outside the HTTP client's callbacks */
} toolsvc_mcp_server;

/* Errors name the key, or the file and the server. config must outlive it. */
rlf_status toolsvc_mcp_server_new(toolsvc_mcp_server **out, const rlf_tool_config *config, uv_loop_t *loop) RLF_MUST_USE;
/* Its sessions are over. It is freed when the last farewell is said, while the loop runs. NULL is allowed. */
void toolsvc_mcp_server_close(toolsvc_mcp_server *server);
/* Of the headers, the url or the program's environment. */
static inline const toolsvc_secrets *toolsvc_mcp_server_secrets(const toolsvc_mcp_server *server) { return &server->command.secrets; }
/* Tells the server by DELETE that its session is over, within a second. headers: of that session. */
void toolsvc_mcp_server_farewell(toolsvc_mcp_server *server, const char *const *headers, size_t n_headers);

#endif
