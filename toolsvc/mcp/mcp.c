/* The client's side of a session (mcp.h): LOST -> STARTING (initialize, tools/list page by page) -> READY -> LOST …
 *
 * A request is on the list of its session from when it is made until it is answered, dropped or failed; `sent` tells whether the link has
 * it. Lists are walked from their head each time, since a `done` may change them. */
#include "toolsvc/mcp/mcp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "toolsvc/mcp/jsonrpc.h"
#include "toolsvc/map.h"
#include "toolsvc/mcp/mcp_link.h"

enum { FUNCTIONS_MAX = 1024, PAGES_MAX = 256, LOG_LINES = 100, LOG_SHOWN = 300, BACKOFF_MS = 100, BACKOFF_DOUBLINGS = 4, WHY_SHOWN = 1000 };
enum { INITIALIZED = 0, UNNAMED = -1 }; /* to the link, where no request is meant */

static const char newest[] = "2025-11-25";
static const char *const versions[] = {newest, "2025-06-18", "2025-03-26", "2024-11-05"};

typedef struct request {
    struct request *prev, *next;
    int64_t id;
    rlf_str text;
    bool sent;
    toolsvc_mcp_fn *done; /* NULL: one of ours, see `answered` */
    void (*answered)(toolsvc_mcp *mcp, const toolsvc_mcp_answer *answer);
    void *user;
} request;

struct toolsvc_mcp {
    toolsvc_mcp_server *server;
    toolsvc_mcp_link *link; /* NULL: LOST */
    toolsvc_mcp_state state;
    bool lists, once, used, started_before;
    bool over;              /* lost, with state that nothing brings back */
    int64_t next_id;
    request *first, *last;  /* in the order they were made */
    toolsvc_map by_id;
    uv_timer_t timer;       /* STARTING: its deadline; LOST: the next start */
    int64_t lost_ms;        /* when; 0: never */
    int losses;             /* in a row */
    int log_lines;
    int garbage;            /* things that were no messages, of this session */
    size_t pages;
    json_t *functions;
    rlf_str why;
    toolsvc_mcp_news news;
};

static void begin(toolsvc_mcp *mcp);
static void fail_all(toolsvc_mcp *mcp, const char *count, const char *why);
static void lose(toolsvc_mcp *mcp, const char *count, const char *why);

/* ---- requests ---------------------------------------------------------------------------------------------------------------------- */

static rlf_slice key_of(const int64_t *id) { return (rlf_slice){(const char *)id, sizeof *id}; }

static request *find(const toolsvc_mcp *mcp, int64_t id) { return toolsvc_map_get(&mcp->by_id, key_of(&id)); }

static request *add(toolsvc_mcp *mcp, const char *method, json_t *params) {
    request *r = rlf_calloc(1, sizeof *r);
    r->id = mcp->next_id++;
    toolsvc_rpc_put_request(&r->text, r->id, method, params);
    r->prev = mcp->last;
    if (mcp->last) mcp->last->next = r;
    else mcp->first = r;
    mcp->last = r;
    toolsvc_map_put(&mcp->by_id, key_of(&r->id), r);
    return r;
}

static void take_off(toolsvc_mcp *mcp, request *r) {
    if (r->prev) r->prev->next = r->next;
    else mcp->first = r->next;
    if (r->next) r->next->prev = r->prev;
    else mcp->last = r->prev;
    toolsvc_map_remove(&mcp->by_id, key_of(&r->id));
}

static void free_request(request *r) {
    rlf_str_clean_up(&r->text);
    free(r);
}

static void send_request(toolsvc_mcp *mcp, request *r) {
    r->sent = true;
    toolsvc_mcp_link_send(mcp->link, r->id, r->text.ptr, r->text.len);
    rlf_str_clean_up(&r->text);
}

static void conclude(toolsvc_mcp *mcp, request *r, const toolsvc_mcp_answer *answer) {
    take_off(mcp, r);
    if (r->done) r->done(r->user, answer);
    else r->answered(mcp, answer);
    free_request(r);
}

/* One of ours, which goes out at once. */
static void ask(toolsvc_mcp *mcp, const char *method, json_t *params,
                void (*answered)(toolsvc_mcp *mcp, const toolsvc_mcp_answer *answer)) {
    request *r = add(mcp, method, params);
    r->answered = answered;
    send_request(mcp, r);
}

static void notify(toolsvc_mcp *mcp, int64_t id, const char *method, json_t *params) {
    rlf_str text = {0};
    toolsvc_rpc_put_notification(&text, method, params);
    toolsvc_mcp_link_send(mcp->link, id, text.ptr, text.len);
    rlf_str_clean_up(&text);
}

/* ---- the beginning ----------------------------------------------------------------------------------------------------------------- */

static void become_ready(toolsvc_mcp *mcp) {
    mcp->state = TOOLSVC_MCP_READY;
    uv_timer_stop(&mcp->timer);
    for (request *r = mcp->first; r && mcp->link; r = r->next)
        if (!r->sent) send_request(mcp, r);
}

static void list_functions(toolsvc_mcp *mcp, const char *cursor);

static bool add_functions(toolsvc_mcp *mcp, const json_t *page) {
    const json_t *list = json_object_get(page, "tools");
    if (!json_is_array(list) || ++mcp->pages > PAGES_MAX) return false;
    if (json_array_size(mcp->functions) + json_array_size(list) > FUNCTIONS_MAX) return false;
    for (size_t i = 0; i < json_array_size(list); i++) json_array_append(mcp->functions, json_array_get(list, i));
    return true;
}

static void on_list(toolsvc_mcp *mcp, const toolsvc_mcp_answer *answer) {
    const char *cursor = json_string_value(json_object_get(answer->result, "nextCursor"));
    if (!answer->result) lose(mcp, answer->count, answer->why);
    else if (!add_functions(mcp, answer->result)) lose(mcp, "invalid_answer", "the server's list of functions is none, or too long");
    else if (cursor && *cursor) list_functions(mcp, cursor);
    else become_ready(mcp);
}

static void list_functions(toolsvc_mcp *mcp, const char *cursor) {
    ask(mcp, "tools/list", cursor ? json_pack("{s:s}", "cursor", cursor) : NULL, on_list);
}

/* The server knows that the session has begun; requests that came before would be refused. */
static void go_on(toolsvc_mcp *mcp) {
    if (mcp->lists && mcp->pages == 0) list_functions(mcp, NULL);
    else become_ready(mcp);
}

static bool is_known(const char *version) {
    for (size_t i = 0; version && i < sizeof versions / sizeof *versions; i++)
        if (strcmp(versions[i], version) == 0) return true;
    return false;
}

static void on_initialized(toolsvc_mcp *mcp, const toolsvc_mcp_answer *answer) {
    const char *version = json_string_value(json_object_get(answer->result, "protocolVersion"));
    if (!answer->result || !is_known(version)) {
        char why[160];
        snprintf(why, sizeof why, "the server speaks version %.32s of the protocol, which is not known here", version ? version : "(none)");
        lose(mcp, answer->result ? "invalid_answer" : answer->count, answer->result ? why : answer->why);
        return;
    }
    toolsvc_mcp_link_ready(mcp->link, version);
    notify(mcp, INITIALIZED, "notifications/initialized", NULL);
    if (mcp->link->in_order) go_on(mcp);
}

static void on_timer(uv_timer_t *timer) {
    toolsvc_mcp *mcp = timer->data;
    char why[96];
    snprintf(why, sizeof why, "the server was not ready within %lld ms", (long long)mcp->server->start_ms);
    if (mcp->state == TOOLSVC_MCP_STARTING) lose(mcp, "start_timeout", why);
    else if (mcp->over) fail_all(mcp, "mcp_sessions_lost", toolsvc_mcp_why(mcp));
    else begin(mcp);
}

/* ---- what comes -------------------------------------------------------------------------------------------------------------------- */

static bool is_infra(int64_t code) {
    return code == TOOLSVC_RPC_PARSE_ERROR || code == TOOLSVC_RPC_INVALID_REQUEST || code == TOOLSVC_RPC_METHOD_NOT_FOUND ||
           code == TOOLSVC_RPC_INTERNAL_ERROR || code == -32000 || code == -32001; /* the last two: closed, timed out, by custom */
}

static void on_answer(toolsvc_mcp *mcp, const toolsvc_rpc *m) {
    request *r = find(mcp, m->number);
    toolsvc_mcp_answer answer = {.result = m->result, .infra = is_infra(m->code), .count = "rpc_errors"};
    rlf_str why = {0};
    if (!r || !r->sent) return; /* nobody waits any more */
    if (!m->result) rlf_str_printf(&why, "%.*s (%lld)", WHY_SHOWN, m->message, (long long)m->code);
    answer.why = why.ptr ? why.ptr : "";
    if (m->result && r->done) mcp->losses = 0; /* one that only begins and fails is no better */
    conclude(mcp, r, &answer);
    rlf_str_clean_up(&why);
}

static void answer_server(toolsvc_mcp *mcp, const toolsvc_rpc *m) {
    rlf_str text = {0};
    if (strcmp(m->method, "ping") == 0) toolsvc_rpc_put_result(&text, m->id, json_object());
    else toolsvc_rpc_put_failure(&text, m->id, TOOLSVC_RPC_METHOD_NOT_FOUND, "method not found");
    toolsvc_mcp_link_send(mcp->link, UNNAMED, text.ptr, text.len);
    rlf_str_clean_up(&text);
}

/* A line of ours with a text of the server's. */
static void log_text(toolsvc_mcp *mcp, bool quiet, const char *what, const char *text, size_t n) {
    rlf_str clean = {0};
    if (mcp->log_lines >= LOG_LINES) return;
    mcp->log_lines++;
    toolsvc_secrets_blot(toolsvc_mcp_server_secrets(mcp->server), text, n, &clean);
    for (size_t i = 0; i < clean.len; i++)
        if ((unsigned char)clean.ptr[i] < ' ') clean.ptr[i] = ' ';
    rlf_log(quiet ? RLF_LOG_DEBUG : RLF_LOG_WARN, "%s: %s%.*s%s", mcp->server->name, what, LOG_SHOWN, clean.ptr ? clean.ptr : "",
            mcp->log_lines == LOG_LINES ? " (no more lines of this session are shown)" : "");
    rlf_str_clean_up(&clean);
}

static void log_message(toolsvc_mcp *mcp, const json_t *params) {
    const char *level = json_string_value(json_object_get(params, "level"));
    const json_t *data = json_object_get(params, "data");
    char *text = json_is_string(data) ? rlf_strdup(json_string_value(data)) : json_dumps(data, JSON_COMPACT | JSON_ENCODE_ANY);
    bool quiet = !level || !strcmp(level, "debug") || !strcmp(level, "info") || !strcmp(level, "notice");
    log_text(mcp, quiet, "", text ? text : "", text ? strlen(text) : 0);
    free(text);
}

static void take_notification(toolsvc_mcp *mcp, const toolsvc_rpc *m) {
    if (strcmp(m->method, "notifications/tools/list_changed") == 0) mcp->news.tools_changed++;
    else if (strcmp(m->method, "notifications/progress") == 0) mcp->news.progress++;
    else if (strcmp(m->method, "notifications/message") == 0) log_message(mcp, m->params);
}

static bool on_rpc(void *user, const toolsvc_rpc *m) {
    toolsvc_mcp *mcp = user;
    if (m->type == TOOLSVC_RPC_REQUEST) answer_server(mcp, m);
    else if (m->type == TOOLSVC_RPC_NOTIFICATION) take_notification(mcp, m);
    else on_answer(mcp, m);
    return mcp->link != NULL;
}

static void on_message(void *user, const char *text, size_t n) {
    toolsvc_mcp *mcp = user;
    if (toolsvc_rpc_read(text, n, on_rpc, mcp)) return;
    mcp->news.invalid_messages++;
    log_text(mcp, mcp->garbage++ > 0, "the server wrote what is no message: ", text, n);
}

static bool on_waits(void *user, int64_t id) { return find(user, id) != NULL; }

static void on_ended(void *user, int64_t id, const char *count, const char *why) {
    toolsvc_mcp *mcp = user;
    request *r = find(mcp, id);
    if (id == INITIALIZED && mcp->state == TOOLSVC_MCP_STARTING) go_on(mcp);
    if (r && r->sent) conclude(mcp, r, &(toolsvc_mcp_answer){.infra = true, .count = count, .why = why});
}

static void on_lost(void *user, const char *count, const char *why) { lose(user, count, why); }

/* ---- losing and beginning again ---------------------------------------------------------------------------------------------------- */

/* Every request gets the failure; those made meanwhile wait for the next session. */
static void fail_all(toolsvc_mcp *mcp, const char *count, const char *why) {
    int64_t end = mcp->next_id;
    while (mcp->first && mcp->first->id < end) {
        request *r = mcp->first;
        if (r->done) {
            conclude(mcp, r, &(toolsvc_mcp_answer){.infra = true, .count = count, .why = why});
            continue;
        }
        take_off(mcp, r);
        free_request(r);
    }
}

static void lose(toolsvc_mcp *mcp, const char *count, const char *why) {
    if (mcp->state == TOOLSVC_MCP_LOST) return;
    char *copy = rlf_strdup(why);
    mcp->state = TOOLSVC_MCP_LOST;
    mcp->over = mcp->once && mcp->used;
    mcp->lost_ms = rlf_now_ms();
    mcp->losses++;
    uv_timer_stop(&mcp->timer);
    if (mcp->link) toolsvc_mcp_link_close(mcp->link);
    mcp->link = NULL;
    rlf_str_reset(&mcp->why);
    rlf_str_puts(&mcp->why, why);
    fail_all(mcp, count, copy);
    free(copy);
}

static void begin(toolsvc_mcp *mcp) {
    static const toolsvc_mcp_owner owner = {.message = on_message, .ended = on_ended, .waits = on_waits, .lost = on_lost};
    mcp->state = TOOLSVC_MCP_STARTING;
    mcp->log_lines = mcp->garbage = 0;
    mcp->news.restarts += mcp->started_before;
    mcp->started_before = true;
    uv_update_time(mcp->server->loop);
    uv_timer_start(&mcp->timer, on_timer, (uint64_t)mcp->server->start_ms, 0);
    rlf_status status = mcp->server->command.argv ? toolsvc_mcp_stdio_open(&mcp->link, mcp->server, &owner, mcp)
                                            : toolsvc_mcp_http_open(&mcp->link, mcp->server, &owner, mcp);
    if (status != RLF_OK) {
        lose(mcp, "start_failed", rlf_error_message());
        return;
    }
    ask(mcp, "initialize", json_pack("{s:s, s:{}, s:{s:s, s:s}}", "protocolVersion", newest, "capabilities", "clientInfo", "name", "rlf",
                                     "version", "0.1.0"), on_initialized);
}

/* After a loss, not before its wait is over. */
static void begin_again(toolsvc_mcp *mcp) {
    int doublings = mcp->losses - 1 < BACKOFF_DOUBLINGS ? mcp->losses - 1 : BACKOFF_DOUBLINGS;
    int64_t left_ms = mcp->over ? 0 : mcp->lost_ms + ((int64_t)BACKOFF_MS << (doublings > 0 ? doublings : 0)) - rlf_now_ms();
    if (uv_is_active((uv_handle_t *)&mcp->timer)) return;
    uv_update_time(mcp->server->loop);
    uv_timer_start(&mcp->timer, on_timer, (uint64_t)(left_ms > 0 ? left_ms : 0), 0);
}

/* ---- the interface ----------------------------------------------------------------------------------------------------------------- */

toolsvc_mcp *toolsvc_mcp_new(toolsvc_mcp_server *server, bool lists, bool once) {
    toolsvc_mcp *mcp = rlf_calloc(1, sizeof *mcp);
    *mcp = (toolsvc_mcp){.server = server, .lists = lists, .once = once, .next_id = 1, .functions = json_array()};
    uv_timer_init(server->loop, &mcp->timer);
    mcp->timer.data = mcp;
    begin(mcp);
    return mcp;
}

static void on_timer_closed(uv_handle_t *handle) {
    toolsvc_mcp *mcp = handle->data;
    toolsvc_map_clean_up(&mcp->by_id, NULL);
    rlf_str_clean_up(&mcp->why);
    json_decref(mcp->functions);
    free(mcp);
}

void toolsvc_mcp_destroy(toolsvc_mcp *mcp) {
    if (mcp->link) toolsvc_mcp_link_close(mcp->link);
    mcp->link = NULL;
    while (mcp->first) {
        request *r = mcp->first;
        take_off(mcp, r);
        free_request(r);
    }
    uv_close((uv_handle_t *)&mcp->timer, on_timer_closed);
}

toolsvc_mcp_state toolsvc_mcp_state_of(const toolsvc_mcp *mcp) { return mcp->state; }
const char *toolsvc_mcp_why(const toolsvc_mcp *mcp) { return mcp->why.ptr ? mcp->why.ptr : ""; }
const json_t *toolsvc_mcp_functions(const toolsvc_mcp *mcp) { return mcp->functions; }
toolsvc_mcp_news *toolsvc_mcp_news_of(toolsvc_mcp *mcp) { return &mcp->news; }

int64_t toolsvc_mcp_call(toolsvc_mcp *mcp, const char *function, const json_t *arguments, toolsvc_mcp_fn *done, void *user) {
    json_t *params = json_pack("{s:s, s:o, s:{s:I}}", "name", function, "arguments", json_deep_copy(arguments), "_meta", "progressToken",
                               (json_int_t)mcp->next_id);
    request *r = add(mcp, "tools/call", params);
    r->done = done;
    r->user = user;
    if (mcp->state == TOOLSVC_MCP_READY) send_request(mcp, r);
    else if (mcp->state == TOOLSVC_MCP_LOST) begin_again(mcp);
    mcp->used = true;
    return r->id;
}

void toolsvc_mcp_cancel(toolsvc_mcp *mcp, int64_t call) {
    request *r = find(mcp, call);
    if (!r) return;
    take_off(mcp, r);
    if (r->sent && mcp->link) {
        toolsvc_mcp_link_drop(mcp->link, call);
        notify(mcp, UNNAMED, "notifications/cancelled",
               json_pack("{s:I, s:s}", "requestId", (json_int_t)call, "reason", "nobody waits any longer"));
    }
    free_request(r);
}
