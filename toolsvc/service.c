/* The messages of a tool rank (service.h): episodes, and the requests that CALLs are until they are answered. What runs a call is
 * below, in dispatch.h.
 *
 * Lifetime of a request: it is on the service's list until it is answered or dropped; its memory goes when its timer is closed
 * (libuv closes asynchronously). One timer serves both the deadline and, once the result is there, the end of the injected delay,
 * which always comes before the deadline: a latency beyond the deadline is known at arrival, and such a call never runs. */
#include "toolsvc/service.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/rng.h"
#include "toolsvc/dispatch.h"
#include "toolsvc/map.h"
#include "toolsvc/reward.h"

enum { MAX_OUTSTANDING = 65536, COORDINATOR = 0 };

typedef enum request_state { REQUEST_WAITING, REQUEST_DELAYED, REQUEST_OVER } request_state;

typedef struct episode_key {
    int64_t uid, sample, attempt;
} episode_key;

/* One that is open. */
typedef struct episode {
    episode_key key;
    int64_t seed, version;     /* as OPEN had them */
    size_t calls;              /* not yet answered */
    char *extra;               /* of its OPEN; owned */
    unsigned char *allowed;    /* which functions it may use (tools.h), owned; NULL: all */
    toolsvc_session *sessions; /* state of tools that keep one (dispatch.h); NULL if none */
} episode;

typedef struct request {
    toolsvc_waiter waiter;          /* first: on_result casts back */
    toolsvc_service *service;
    struct request *prev, *next;    /* on service->requests while not over */
    episode_key episode;
    int64_t version, turn, index;
    int from;
    const rlf_tool_config *tool;
    request_state state;
    int64_t arrival_ns;
    double latency_ms;              /* injected */
    rlf_call_status status;         /* while delayed, as text */
    rlf_str text;
    rlf_str function, arguments;    /* as called, while traffic is recorded */
    uv_timer_t timer;
} request;

struct toolsvc_service {
    uv_loop_t *loop;
    const rlf_config *config;
    const toolsvc_tools *tools;
    toolsvc_send_fn *send;
    void *user;
    toolsvc_dispatch *dispatch;
    toolsvc_traffic *traffic; /* borrowed; NULL: neither recorded nor replayed */
    request *requests;
    size_t outstanding, alive; /* not answered; not freed */
    toolsvc_map episodes; /* by the bytes of their key */
    uv_timer_t heartbeat;
    bool heartbeat_closed, stopped;
    rlf_status status;
    toolsvc_counts counts;
    rlf_arena arena; /* of the message being handled */
};

/* ---- sending ------------------------------------------------------------------------------------------------------------------------- */

/* What fails ends the service; the first failure counts. */
static void check(toolsvc_service *s, rlf_status status) {
    if (status == RLF_OK || s->status != RLF_OK) return;
    s->status = status;
    s->stopped = true;
}

static void send_record(toolsvc_service *s, int to, rlf_message_type type, const void *record) {
    if (s->status == RLF_OK) check(s, s->send(s->user, to, type, record));
}

static rlf_slice slice_of(const rlf_str *text) { return (rlf_slice){text->ptr ? text->ptr : "", text->len}; }

static void send_observation(toolsvc_service *s, int to, episode_key key, int64_t turn, int64_t index,
                             const rlf_str *text, rlf_call_status status, double latency_ms) {
    s->counts.bad_calls += status == RLF_CALL_BAD_CALL;
    s->counts.timeouts += status == RLF_CALL_TIMEOUT;
    s->counts.infra += status == RLF_CALL_INFRA;
    rlf_observation o = {.uid = key.uid, .sample = key.sample, .attempt = key.attempt, .turn = turn, .call = index,
                         .text = slice_of(text), .status = status, .latency_ms = latency_ms};
    send_record(s, to, RLF_MSG_OBSERVATION, &o);
}

/* The counts of one tool on their way into a heartbeat. */
typedef struct count_list {
    toolsvc_service *service;
    const char *tool;
    rlf_metric *v;
    size_t n, cap;
} count_list;

static void add_count(void *user, const char *name, int64_t n) {
    count_list *list = user;
    const char *full = rlf_arena_printf(&list->service->arena, "%s.%s", list->tool, name);
    list->v = rlf_grow(list->v, list->n, &list->cap, sizeof *list->v);
    list->v[list->n++] = (rlf_metric){rlf_slice_of(full), (double)n};
}

/* What is running, and what each tool has counted since the start ("search.retries"). */
static void send_heartbeat(toolsvc_service *s) {
    char doing[64];
    count_list list = {.service = s};
    rlf_arena_reset(&s->arena);
    for (size_t i = 0; i < s->tools->n; i++) {
        list.tool = s->tools->v[i].config->name;
        toolsvc_dispatch_each_count(s->dispatch, i, add_count, &list);
    }
    snprintf(doing, sizeof doing, "%zu calls running", s->outstanding);
    rlf_heartbeat beat = {.doing = rlf_slice_of(doing), .done = (int64_t)(s->counts.calls - s->outstanding)};
    beat.phases.v = list.v;
    beat.phases.n = list.n;
    send_record(s, COORDINATOR, RLF_MSG_HEARTBEAT, &beat);
    free(list.v);
}

/* With nothing to do too: the coordinator asks nothing of a tool rank, and would not see otherwise that it is stuck. */
static void on_heartbeat(uv_timer_t *timer) { send_heartbeat(timer->data); }

/* ---- episodes ------------------------------------------------------------------------------------------------------------------------ */

static rlf_slice bytes_of(const episode_key *key) { return (rlf_slice){(const char *)key, sizeof *key}; }

/* NULL: it is not open. */
static episode *find_episode(const toolsvc_service *s, episode_key key) { return toolsvc_map_get(&s->episodes, bytes_of(&key)); }

static void end_episode(void *value) {
    episode *e = value;
    toolsvc_sessions_close(e->sessions);
    free(e->extra);
    free(e->allowed);
    free(e);
}

/* ---- the end of a call --------------------------------------------------------------------------------------------------------------- */

static void on_timer_closed(uv_handle_t *handle) {
    request *r = handle->data;
    r->service->alive--;
    rlf_str_clean_up(&r->text);
    rlf_str_clean_up(&r->function);
    rlf_str_clean_up(&r->arguments);
    free(r);
}

/* Takes the request off every list. late: its deadline has passed. */
static void end_request(request *r, bool late) {
    toolsvc_service *s = r->service;
    r->state = REQUEST_OVER;
    toolsvc_dispatch_leave(&r->waiter, late);
    if (r->prev) r->prev->next = r->next;
    else s->requests = r->next;
    if (r->next) r->next->prev = r->prev;
    s->outstanding--;
    episode *e = find_episode(s, r->episode);
    if (e && e->calls) e->calls--;
    uv_close((uv_handle_t *)&r->timer, on_timer_closed);
}

static void note_traffic(const request *r, rlf_call_status status, const rlf_str *text) {
    toolsvc_service *s = r->service;
    if (s->status != RLF_OK) return;
    rlf_call m = {.uid = r->episode.uid, .sample = r->episode.sample, .attempt = r->episode.attempt, .turn = r->turn, .call = r->index,
                  .tool = slice_of(&r->function), .arguments = slice_of(&r->arguments)};
    check(s, toolsvc_traffic_note(s->traffic, r->version, &m, status, text));
}

static void answer(request *r, rlf_call_status status, const rlf_str *text, bool late) {
    note_traffic(r, status, text);
    send_observation(r->service, r->from, r->episode, r->turn, r->index, text, status, (double)(rlf_now_ns() - r->arrival_ns) * 1e-6);
    end_request(r, late);
}

static void answer_timeout(request *r) {
    rlf_str text = {0};
    const rlf_tool_config *tool = r->tool;
    rlf_str_printf(&text, "error: %s did not answer within %lld ms", tool->name, (long long)tool->timeout_ms);
    answer(r, RLF_CALL_TIMEOUT, &text, true);
    rlf_str_clean_up(&text);
}

static void on_timer(uv_timer_t *timer) {
    request *r = timer->data;
    if (r->state == REQUEST_DELAYED)
        answer(r, r->status, &r->text, false);
    else
        answer_timeout(r);
}

/* The result is there: sent now, or held back until the injected latency is over. */
static void on_result(toolsvc_waiter *waiter, rlf_call_status status, const rlf_str *text) {
    request *r = (request *)waiter;
    double passed_ms = (double)(rlf_now_ns() - r->arrival_ns) * 1e-6, left_ms = ceil(r->latency_ms - passed_ms);
    if (left_ms <= 0) {
        answer(r, status, text, false);
        return;
    }
    r->state = REQUEST_DELAYED;
    r->status = status;
    rlf_str_append(&r->text, text->ptr, text->len);
    uv_timer_start(&r->timer, on_timer, (uint64_t)left_ms, 0);
}

/* ---- messages ---------------------------------------------------------------------------------------------------------------- */

double toolsvc_latency_ms(const rlf_tool_config *tool, int64_t seed, int64_t uid, int64_t sample, int64_t turn, int64_t index) {
    static const double normal_p99 = 2.3263478740408408;
    if (!(tool->latency_median_ms > 0)) return 0;
    if (!(tool->latency_p99_ms > tool->latency_median_ms)) return tool->latency_median_ms;
    double sigma = log(tool->latency_p99_ms / tool->latency_median_ms) / normal_p99;
    double x = rlf_rng_normal((uint64_t)seed, RLF_RNG_LATENCY, (uint64_t)uid, (uint32_t)sample, (uint32_t)(turn * 64 + index));
    return tool->latency_median_ms * exp(sigma * x);
}

/* Answers a call that will not run. */
static void refuse(toolsvc_service *s, int from, const rlf_call *m, rlf_call_status status, const char *text, size_t n) {
    rlf_str copy = {0};
    rlf_str_append(&copy, text, n);
    send_observation(s, from, (episode_key){m->uid, m->sample, m->attempt}, m->turn, m->call, &copy, status, 0);
    rlf_str_clean_up(&copy);
}

static void refuse_protocol(toolsvc_service *s, int from, const rlf_call *m) {
    char text[160];
    int n = snprintf(text, sizeof text, "error: protocol: CALL of episode %lld sample %lld attempt %lld, which is not open",
                     (long long)m->uid, (long long)m->sample, (long long)m->attempt);
    RLF_WARN("rank %d: %s", from, text + 7);
    refuse(s, from, m, RLF_CALL_INFRA, text, (size_t)n);
}

static request *new_request(toolsvc_service *s, int from, const rlf_call *m, const rlf_tool_config *tool, double latency_ms) {
    request *r = rlf_calloc(1, sizeof *r);
    *r = (request){.waiter = {.done = on_result}, .service = s, .next = s->requests, .episode = {m->uid, m->sample, m->attempt},
                   .turn = m->turn, .index = m->call, .from = from, .tool = tool, .arrival_ns = rlf_now_ns(), .latency_ms = latency_ms};
    if (s->requests) s->requests->prev = r;
    s->requests = r;
    s->outstanding++;
    s->alive++;
    uv_timer_init(s->loop, &r->timer);
    r->timer.data = r;
    uv_update_time(s->loop);
    uv_timer_start(&r->timer, on_timer, (uint64_t)tool->timeout_ms, 0);
    return r;
}

static uint64_t seed_of(const episode *e) {
    uint32_t words[4];
    rlf_rng_block((uint64_t)e->seed, RLF_RNG_TOOL, (uint64_t)e->key.uid, (uint32_t)e->key.sample, 0, words);
    return (uint64_t)words[1] << 32 | words[0];
}

/* The recorded answer; at once but for the injected latency. */
static void replay(request *r, const rlf_call *m) {
    static char text[] = "error: the recorded traffic has no such call";
    rlf_str missing = {.ptr = text, .len = sizeof text - 1};
    const rlf_str *recorded = &missing;
    rlf_call_status status = RLF_CALL_INFRA;
    bool found = toolsvc_traffic_find(r->service->traffic, r->version, m, &status, &recorded);
    if (!found) RLF_WARN("uid %lld sample %lld: a call that is not in the recorded traffic", (long long)m->uid, (long long)m->sample);
    on_result(&r->waiter, status, recorded);
}

/* arguments: a reference, taken over. */
static void accept_call(toolsvc_service *s, int from, const rlf_call *m, episode *e, size_t function, json_t *arguments) {
    const rlf_tool_config *config = s->tools->v[s->tools->functions[function].tool].config;
    double latency_ms = toolsvc_latency_ms(config, e->seed, m->uid, m->sample, m->turn, m->call);
    request *r = new_request(s, from, m, config, latency_ms);
    toolsvc_origin origin = {.seed = seed_of(e), .extra = rlf_slice_of(e->extra)};
    e->calls++;
    r->version = e->version;
    if (s->traffic && !toolsvc_traffic_replays(s->traffic)) {
        rlf_str_append(&r->function, m->tool.ptr, m->tool.len);
        rlf_str_append(&r->arguments, m->arguments.ptr, m->arguments.len);
    }
    if (latency_ms >= (double)config->timeout_ms || s->tools->replayed) json_decref(arguments); /* never runs */
    if (s->tools->replayed) replay(r, m);
    else if (latency_ms < (double)config->timeout_ms)
        toolsvc_dispatch_submit(s->dispatch, function, arguments, &e->sessions, &origin, &r->waiter);
}

static void handle_call(toolsvc_service *s, int from, const rlf_call *m) {
    s->counts.calls++;
    episode *e = find_episode(s, (episode_key){m->uid, m->sample, m->attempt});
    if (!e) {
        refuse_protocol(s, from, m);
        return;
    }
    if (s->outstanding >= MAX_OUTSTANDING) {
        static const char text[] = "error: too many calls are waiting";
        refuse(s, from, m, RLF_CALL_INFRA, text, sizeof text - 1);
        return;
    }
    size_t function;
    json_t *arguments;
    rlf_str error = {0};
    rlf_call_status status = toolsvc_tools_check(s->tools, e->allowed, m->tool, m->arguments, &function, &arguments, &error);
    if (status == RLF_CALL_OK) accept_call(s, from, m, e, function, arguments);
    else refuse(s, from, m, status, error.ptr, error.len);
    rlf_str_clean_up(&error);
}

/* The functions that extra_info.tools lists, as flags; NULL: it lists none, and all may be used. Names that nothing has are the
 * coordinator's to refuse. */
static unsigned char *allowed_of(const toolsvc_tools *tools, const char *extra) {
    if (!strstr(extra, "\"tools\"")) return NULL;
    json_t *root = rlf_json_parse(extra, strlen(extra), 0, NULL), *list = json_object_get(root, "tools");
    unsigned char *allowed = json_is_array(list) ? rlf_calloc(tools->n_functions + 1, 1) : NULL;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        for (size_t f = 0; name && f < tools->n_functions; f++) allowed[f] |= strcmp(tools->functions[f].name, name) == 0;
    }
    json_decref(root);
    return allowed;
}

static void handle_open(toolsvc_service *s, int from, const rlf_open *m) {
    (void)from;
    const episode_key key = {m->uid, m->sample, m->attempt};
    episode *e = find_episode(s, key);
    if (!e) {
        e = rlf_calloc(1, sizeof *e);
        e->key = key;
        e->extra = rlf_strdup(m->extra.ptr ? m->extra.ptr : "");
        e->allowed = allowed_of(s->tools, e->extra);
        toolsvc_map_put(&s->episodes, bytes_of(&key), e);
    }
    e->seed = m->seed;
    e->version = m->version;
}

static void handle_close(toolsvc_service *s, int from, const rlf_close *m) {
    (void)from;
    const episode_key key = {m->uid, m->sample, m->attempt};
    const episode *e = find_episode(s, key);
    if (!e) return;
    for (request *r = s->requests; r && e->calls;) { /* ending one may end others: then from the first again */
        bool its = memcmp(&r->episode, &key, sizeof key) == 0;
        if (its) {
            s->counts.dropped++;
            end_request(r, false);
        }
        r = its ? s->requests : r->next;
    }
    end_episode(toolsvc_map_remove(&s->episodes, bytes_of(&key)));
}

/* Answers a SCORE that gets no reward. */
static void refuse_score(toolsvc_service *s, int from, episode_key key) {
    rlf_reward reward = {.uid = key.uid, .sample = key.sample, .attempt = key.attempt, .status = RLF_CALL_INFRA};
    s->counts.infra++;
    send_record(s, from, RLF_MSG_REWARD, &reward);
}

static void handle_score(toolsvc_service *s, int from, const rlf_score *m) {
    episode_key key = {m->uid, m->sample, m->attempt};
    s->counts.scores++;
    if (!find_episode(s, key)) {
        RLF_WARN("rank %d: protocol: SCORE of episode %lld sample %lld attempt %lld, which is not open", from, (long long)m->uid,
                 (long long)m->sample, (long long)m->attempt);
        refuse_score(s, from, key);
        return;
    }
    rlf_component components[TOOLSVC_REWARD_COMPONENTS];
    rlf_reward reward = {.uid = m->uid, .sample = m->sample, .attempt = m->attempt, .status = RLF_CALL_OK};
    toolsvc_reward_score(s->config, m, components);
    reward.components.v = components;
    reward.components.n = TOOLSVC_REWARD_COMPONENTS;
    send_record(s, from, RLF_MSG_REWARD, &reward);
}

static void handle_control(toolsvc_service *s, int from, const rlf_control *m) {
    rlf_control stopped = {.kind = RLF_CONTROL_STOPPED, .text = {"", 0}};
    if (m->kind != RLF_CONTROL_STOP) return;
    send_heartbeat(s);
    send_record(s, from, RLF_MSG_CONTROL, &stopped);
    s->stopped = true;
}

/* Logs and counts what can't be read. A SCORE that at least names its episode (it then reads as a CLOSE) is answered; a CALL
 * needs more than that. */
static void handle_malformed(toolsvc_service *s, rlf_message_type type, int from, const void *bytes, size_t n) {
    rlf_close key;
    s->counts.malformed++;
    RLF_ERROR("message dropped: %s", rlf_error_message());
    if (type != RLF_MSG_SCORE || rlf_message_decode(RLF_MSG_CLOSE, bytes, n, from, &s->arena, &key) != RLF_OK) return;
    refuse_score(s, from, (episode_key){key.uid, key.sample, key.attempt});
}

static bool is_ours(rlf_message_type type) {
    return type == RLF_MSG_OPEN || type == RLF_MSG_CALL || type == RLF_MSG_SCORE || type == RLF_MSG_CLOSE || type == RLF_MSG_CONTROL;
}

void toolsvc_service_handle(toolsvc_service *s, rlf_message_type type, int from, const void *bytes, size_t n) {
    union {
        rlf_open open;
        rlf_call call;
        rlf_score score;
        rlf_close close;
        rlf_control control;
    } m;
    s->counts.messages++;
    rlf_arena_reset(&s->arena);
    rlf_status status = is_ours(type) ? RLF_OK : RLF_RAISE(PROTOCOL, "%s from rank %d is not for the tool "
                                                                     "service", rlf_message_name(type), from);
    if (status == RLF_OK) status = rlf_message_decode(type, bytes, n, from, &s->arena, &m);
    if (status != RLF_OK) {
        handle_malformed(s, type, from, bytes, n);
        return;
    }
    if (s->stopped) return;
    if (type == RLF_MSG_OPEN) handle_open(s, from, &m.open);
    if (type == RLF_MSG_CALL) handle_call(s, from, &m.call);
    if (type == RLF_MSG_SCORE) handle_score(s, from, &m.score);
    if (type == RLF_MSG_CLOSE) handle_close(s, from, &m.close);
    if (type == RLF_MSG_CONTROL) handle_control(s, from, &m.control);
}

/* ---- life -------------------------------------------------------------------------------------------------------------------- */

void toolsvc_service_new(toolsvc_service **out, uv_loop_t *loop, const rlf_config *config, const toolsvc_tools *tools,
                         toolsvc_send_fn *send, void *user) {
    toolsvc_service *s = rlf_calloc(1, sizeof *s);
    *s = (toolsvc_service){.loop = loop, .config = config, .tools = tools, .send = send, .user = user};
    s->dispatch = toolsvc_dispatch_new(loop, tools, config->seed);
    uv_timer_init(loop, &s->heartbeat);
    s->heartbeat.data = s;
    const uint64_t beat_ms = (uint64_t)rlf_config_beat_ms(config);
    uv_timer_start(&s->heartbeat, on_heartbeat, beat_ms, beat_ms);
    *out = s;
}

void toolsvc_service_use_traffic(toolsvc_service *s, toolsvc_traffic *traffic) { s->traffic = traffic; }

static void on_heartbeat_closed(uv_handle_t *handle) { ((toolsvc_service *)handle->data)->heartbeat_closed = true; }

bool toolsvc_service_destroy(toolsvc_service *s, int timeout_ms) {
    if (!s) return true;
    s->stopped = true;
    toolsvc_dispatch_stop(s->dispatch);
    while (s->requests) {
        s->counts.dropped++;
        end_request(s->requests, false);
    }
    toolsvc_map_clean_up(&s->episodes, end_episode);
    uv_close((uv_handle_t *)&s->heartbeat, on_heartbeat_closed);
    int64_t deadline_ms = rlf_now_ms() + timeout_ms;
    for (bool idle = toolsvc_dispatch_destroy(s->dispatch); s->alive || !s->heartbeat_closed || !idle;) {
        uv_run(s->loop, UV_RUN_NOWAIT);
        idle = idle || toolsvc_dispatch_destroy(s->dispatch);
        if (rlf_now_ms() > deadline_ms) return false;
        if (s->alive || !s->heartbeat_closed || !idle) rlf_sleep_us(200);
    }
    rlf_arena_clean_up(&s->arena);
    free(s);
    return true;
}

size_t toolsvc_service_outstanding(const toolsvc_service *s) { return s->outstanding; }
bool toolsvc_service_stopped(const toolsvc_service *s) { return s->stopped; }
rlf_status toolsvc_service_status(const toolsvc_service *s) { return s->status; }
const toolsvc_counts *toolsvc_service_counts(const toolsvc_service *s) { return &s->counts; }
