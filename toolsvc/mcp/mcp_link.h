/* How messages get to an MCP server and back: over a program's standard input and output (mcp_stdio.c), or over HTTP (mcp_http.c). A link
 * is one connection, that is one MCP session; when it is lost, so is the session, and a new link is made.
 *
 * Lifetime: toolsvc_mcp_link_close may be called from within the owner's functions below; none of them is called after it.
 * Threads: the loop's. */
#ifndef RLF_TOOLSVC_MCP_LINK_H
#define RLF_TOOLSVC_MCP_LINK_H

#include "toolsvc/mcp/mcp_server.h"

typedef struct toolsvc_mcp_link toolsvc_mcp_link;

/* What its owner is told. count: a name for the metrics; why: for people and for the model. Both are borrowed. */
typedef struct toolsvc_mcp_owner {
    void (*message)(void *user, const char *text, size_t n); /* a JSON-RPC message or batch has come */
    /* Message `id` has been sent and nothing more will come of it: a request that has no answer by now gets none. */
    void (*ended)(void *user, int64_t id, const char *count, const char *why);
    bool (*waits)(void *user, int64_t id); /* whether request `id` is still to be answered */
    void (*lost)(void *user, const char *count, const char *why); /* once: the session is over; close it */
} toolsvc_mcp_owner;

/* The first member of every link. */
struct toolsvc_mcp_link {
    bool in_order; /* messages arrive in the order in which they were sent; else `ended` tells of each that it has arrived */
    void (*send)(toolsvc_mcp_link *link, int64_t id, const char *text, size_t n);
    void (*ready)(toolsvc_mcp_link *link, const char *version);
    void (*drop)(toolsvc_mcp_link *link, int64_t id);
    void (*close)(toolsvc_mcp_link *link);
};

/* Begins to connect; server and owner are borrowed and outlive it. */
rlf_status toolsvc_mcp_stdio_open(toolsvc_mcp_link **out, toolsvc_mcp_server *server, const toolsvc_mcp_owner *owner,
                                  void *user) RLF_MUST_USE;
rlf_status toolsvc_mcp_http_open(toolsvc_mcp_link **out, toolsvc_mcp_server *server, const toolsvc_mcp_owner *owner,
                                 void *user) RLF_MUST_USE;

/* One message on one line, copied. id: of a request, above 0; 0 or less: nothing answers it. No function of the owner's is called before
 * this returns. */
static inline void toolsvc_mcp_link_send(toolsvc_mcp_link *link, int64_t id, const char *text, size_t n) { link->send(link, id, text, n); }
/* The server has agreed to this version of the protocol. */
static inline void toolsvc_mcp_link_ready(toolsvc_mcp_link *link, const char *version) { link->ready(link, version); }
/* Nobody waits for the answer to this request any more. */
static inline void toolsvc_mcp_link_drop(toolsvc_mcp_link *link, int64_t id) { link->drop(link, id); }
static inline void toolsvc_mcp_link_close(toolsvc_mcp_link *link) { link->close(link); }

#endif
