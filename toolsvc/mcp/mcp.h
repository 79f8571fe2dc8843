/* A session with an MCP server, as a client: it begins, asks what the server offers, makes calls, and answers what the server asks.
 * Revisions 2025-11-25, 2025-06-18, 2025-03-26 and 2024-11-05 of the protocol; the first is offered.
 *
 * A session begins at once. Calls made before it is there wait. When the link is lost (the program ended, the server forgot the session or
 * cannot be reached, it was not ready within start_ms), every call gets an infrastructure failure, and the next call begins a new session,
 * no sooner than 100 ms, 200, … 1600 after the first, second, … loss in a row: calls that wait for it are to fail by the server, not by
 * their deadline. A session that keeps state (`once`) is not begun again after its first call.
 *
 * What a server may ask: ping is answered, everything else with "method not found". Its log goes to ours, at most 100 lines a session. That
 * its list of functions has changed is counted: what a run offers was fixed when it began.
 *
 * Threads: the loop's. */
#ifndef RLF_TOOLSVC_MCP_H
#define RLF_TOOLSVC_MCP_H

#include <jansson.h>

#include "toolsvc/mcp/mcp_server.h"

typedef struct toolsvc_mcp toolsvc_mcp;

typedef struct toolsvc_mcp_answer { /* borrowed, during the callback */
    const json_t *result; /* NULL: a failure */
    bool infra;           /* of the link or the server, not of the call */
    const char *count;    /* a failure's name in the metrics */
    const char *why;      /* of a failure, for the model too */
} toolsvc_mcp_answer;
/* It may make calls, cancel them, and destroy the session. */
typedef void toolsvc_mcp_fn(void *user, const toolsvc_mcp_answer *answer);

#define TOOLSVC_MCP_NEWS(X) X(restarts) X(tools_changed) X(progress) X(invalid_messages)
#define TOOLSVC_MCP_FIELD_(name) int64_t name;
typedef struct toolsvc_mcp_news { /* counted since the owner last set it to 0 */
    TOOLSVC_MCP_NEWS(TOOLSVC_MCP_FIELD_)
} toolsvc_mcp_news;
#undef TOOLSVC_MCP_FIELD_

/* lists: asks for the functions before any call. server is borrowed. */
toolsvc_mcp *toolsvc_mcp_new(toolsvc_mcp_server *server, bool lists, bool once);
/* Calls under way are forgotten. Handles may still be closing when this returns. */
void toolsvc_mcp_destroy(toolsvc_mcp *mcp);

typedef enum toolsvc_mcp_state { TOOLSVC_MCP_STARTING, TOOLSVC_MCP_READY, TOOLSVC_MCP_LOST } toolsvc_mcp_state;
toolsvc_mcp_state toolsvc_mcp_state_of(const toolsvc_mcp *mcp);
/* Why it was lost; "" if it never was. Borrowed, until it is lost again. */
const char *toolsvc_mcp_why(const toolsvc_mcp *mcp);
/* The server's functions as it describes them, an array; borrowed. Empty before READY or without `lists`. */
const json_t *toolsvc_mcp_functions(const toolsvc_mcp *mcp);
toolsvc_mcp_news *toolsvc_mcp_news_of(toolsvc_mcp *mcp);

/* Calls a function of the server's. `done` comes once, never from within this function, unless the call is cancelled first. Returns its
 * number. arguments: copied. */
int64_t toolsvc_mcp_call(toolsvc_mcp *mcp, const char *function, const json_t *arguments, toolsvc_mcp_fn *done, void *user);
/* Nobody waits any more; the server is told. */
void toolsvc_mcp_cancel(toolsvc_mcp *mcp, int64_t call);

#endif
