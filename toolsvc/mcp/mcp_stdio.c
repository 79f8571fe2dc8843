/* MCP over a program's standard input and output, a message a line (mcp_link.h). */
#include <stdlib.h>

#include "toolsvc/child/child.h"
#include "toolsvc/mcp/mcp_link.h"

enum { QUEUE_MESSAGES = 4 }; /* of the largest that may wait until the program reads them */

typedef struct stdio_link {
    toolsvc_mcp_link link; /* first */
    const toolsvc_mcp_owner *owner;
    void *user;
    toolsvc_child *child; /* NULL: over */
    uv_timer_t failed;    /* tells the owner that a message could not be sent, after it was tried */
} stdio_link;

static void on_line(void *user, char *line, size_t n) {
    stdio_link *l = user;
    if (n > 0) l->owner->message(l->user, line, n);
}

static void on_end(void *user, const char *why) {
    stdio_link *l = user;
    rlf_str text = {0};
    l->child = NULL;
    rlf_str_printf(&text, "the server %s", why);
    l->owner->lost(l->user, "mcp_servers_lost", text.ptr);
    rlf_str_clean_up(&text);
}

static void on_failed(uv_timer_t *timer) {
    stdio_link *l = timer->data;
    l->owner->lost(l->user, "mcp_servers_stuck", "the server does not read what it is sent");
}

static void send_line(toolsvc_mcp_link *link, int64_t id, const char *text, size_t n) {
    stdio_link *l = (stdio_link *)link;
    (void)id;
    if (l->child && !toolsvc_child_say(l->child, text, n)) uv_timer_start(&l->failed, on_failed, 0, 0);
}

static void ready(toolsvc_mcp_link *link, const char *version) { (void)link, (void)version; }
static void drop(toolsvc_mcp_link *link, int64_t id) { (void)link, (void)id; }

static void on_closed(uv_handle_t *handle) { free(handle->data); }

static void close_link(toolsvc_mcp_link *link) {
    stdio_link *l = (stdio_link *)link;
    toolsvc_child_close(l->child);
    uv_close((uv_handle_t *)&l->failed, on_closed);
}

rlf_status toolsvc_mcp_stdio_open(toolsvc_mcp_link **out, toolsvc_mcp_server *server, const toolsvc_mcp_owner *owner, void *user) {
    stdio_link *l = rlf_calloc(1, sizeof *l);
    *l = (stdio_link){.link = {.in_order = true, .send = send_line, .ready = ready, .drop = drop, .close = close_link}, .owner = owner,
                      .user = user};
    toolsvc_child_options options = {.command = &server->command, .name = server->name, .line_bytes = (size_t)server->max_bytes,
                                     .queue_bytes = QUEUE_MESSAGES * (size_t)server->max_bytes, .on_line = on_line, .on_end = on_end,
                                     .user = l};
    rlf_status status = toolsvc_child_start(&l->child, server->loop, &options);
    if (status != RLF_OK) {
        free(l);
        return status;
    }
    uv_timer_init(server->loop, &l->failed);
    l->failed.data = l;
    *out = &l->link;
    return RLF_OK;
}
