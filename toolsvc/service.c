/* The state machine of a tool rank, see service.h.
 *
 * Lifetime of a call: it is on the service's list until it is answered or dropped; its memory goes when both its timer is closed
 * (libuv closes asynchronously) and its worker is back. One timer serves both the deadline and, once the result is there, the
 * end of the injected delay, which always comes before the deadline: a latency beyond the deadline is known at arrival, and such
 * a call never runs. */
#include "toolsvc/service.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/rng.h"
#include "toolsvc/episodes.h"
#include "toolsvc/reward.h"

enum { MAX_OUTSTANDING = 65536, HEARTBEAT_MS = 1000, COORDINATOR = 0 };

typedef enum call_state { CALL_QUEUED, CALL_RUNNING, CALL_DELAYED, CALL_DOOMED, CALL_OVER } call_state;

typedef struct call {
    toolsvc_service *service;
    struct call *prev, *next;       /* on service->calls while not over */
    struct call *queue_next;        /* in its tool's queue while queued */
    toolsvc_episode_key episode;
    int64_t turn, index;
    int from;
    size_t tool;
    call_state state;
    int64_t arrival_ns;
    double latency_ms;              /* injected */
    rlf_str argument, text;
    rlf_call_status status;
    atomic_bool cancel;
    uv_timer_t timer;
    uv_work_t work;
    bool in_pool, timer_closed;
} call;

/* Per tool: calls waiting for a place, and places taken. */
typedef struct queue {
    call *first, *last;
    int64_t running;
} queue;

struct toolsvc_service {
    uv_loop_t *loop;
    const rlf_config *config;
    const toolsvc_tools *tools;
    toolsvc_send_fn *send;
    void *user;
    queue *queues; /* one per tool */
    call *calls;
    size_t outstanding, alive; /* not answered; not freed */
    toolsvc_episodes episodes;
    uv_timer_t heartbeat;
    bool heartbeat_closed, stopped;
    rlf_status status;
    toolsvc_counts counts;
    rlf_arena arena; /* of the message being handled */
};

/* ---- sending ------------------------------------------------------------------------------------------------------------------------- */

static void send_record(toolsvc_service *s, int to, rlf_message_type type, const void *record) {
    if (s->status != RLF_OK) return;
    s->status = s->send(s->user, to, type, record);
    if (s->status != RLF_OK) s->stopped = true;
}

static rlf_slice slice_of(const rlf_str *text) { return (rlf_slice){text->ptr ? text->ptr : "", text->len}; }

static void send_observation(toolsvc_service *s, int to, toolsvc_episode_key key, int64_t turn, int64_t index,
                             const rlf_str *text, rlf_call_status status, double latency_ms) {
    s->counts.bad_calls += status == RLF_CALL_BAD_CALL;
    s->counts.timeouts += status == RLF_CALL_TIMEOUT;
    s->counts.infra += status == RLF_CALL_INFRA;
    rlf_observation o = {.uid = key.uid, .sample = key.sample, .attempt = key.attempt, .turn = turn, .call = index,
                         .text = slice_of(text), .status = status, .latency_ms = latency_ms};
    send_record(s, to, RLF_MSG_OBSERVATION, &o);
}

static void on_heartbeat(uv_timer_t *timer) {
    toolsvc_service *s = timer->data;
    if (s->outstanding == 0) return;
    char doing[64];
    snprintf(doing, sizeof doing, "%zu calls running", s->outstanding);
    rlf_heartbeat beat = {.doing = rlf_slice_of(doing), .done = (int64_t)(s->counts.calls - s->outstanding)};
    send_record(s, COORDINATOR, RLF_MSG_HEARTBEAT, &beat);
}

/* ---- the end of a call --------------------------------------------------------------------------------------------------------------- */

static void free_when_unused(call *c) {
    if (c->in_pool || !c->timer_closed) return;
    c->service->alive--;
    rlf_str_clean_up(&c->argument);
    rlf_str_clean_up(&c->text);
    free(c);
}

static void on_timer_closed(uv_handle_t *handle) {
    call *c = handle->data;
    c->timer_closed = true;
    free_when_unused(c);
}

static void leave_queue(call *c) {
    queue *q = &c->service->queues[c->tool];
    call **link = &q->first, *before = NULL;
    for (; *link && *link != c; link = &(*link)->queue_next) before = *link;
    if (!*link) return;
    *link = c->queue_next;
    if (q->last == c) q->last = before;
}

/* Takes the call off every list. Its worker, if it has one, is told to give up. */
static void end_call(call *c) {
    toolsvc_service *s = c->service;
    if (c->state == CALL_QUEUED) leave_queue(c);
    if (c->state == CALL_RUNNING) {
        atomic_store(&c->cancel, true);
        uv_cancel((uv_req_t *)&c->work); /* comes back as cancelled if no thread has taken it yet */
    }
    c->state = CALL_OVER;
    if (c->prev) c->prev->next = c->next;
    else s->calls = c->next;
    if (c->next) c->next->prev = c->prev;
    s->outstanding--;
    toolsvc_episode *episode = toolsvc_episodes_find(&s->episodes, c->episode);
    if (episode && episode->calls) episode->calls--;
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
}

static void answer(call *c, rlf_call_status status, const rlf_str *text) {
    send_observation(c->service, c->from, c->episode, c->turn, c->index, text, status, (double)(rlf_now_ns() - c->arrival_ns) * 1e-6);
    end_call(c);
}

static void answer_timeout(call *c) {
    rlf_str text = {0};
    const rlf_tool_config *tool = c->service->tools->v[c->tool].config;
    rlf_str_printf(&text, "error: %s did not answer within %lld ms", tool->name, (long long)tool->timeout_ms);
    answer(c, RLF_CALL_TIMEOUT, &text);
    rlf_str_clean_up(&text);
}

static void on_timer(uv_timer_t *timer) {
    call *c = timer->data;
    if (c->state == CALL_DELAYED)
        answer(c, c->status, &c->text);
    else
        answer_timeout(c);
}

/* ---- running ----------------------------------------------------------------------------------------------------------------- */

static void start_next(toolsvc_service *s, size_t tool);

/* On a worker thread: touches argument, text and status alone, which the loop leaves alone until after_work. */
static void work(uv_work_t *request) {
    call *c = request->data;
    c->status = toolsvc_tool_run(&c->service->tools->v[c->tool], &c->argument, &c->cancel, &c->text);
}

/* The result is there: sent now, or held back until the injected latency is over. */
static void deliver(call *c) {
    double passed_ms = (double)(rlf_now_ns() - c->arrival_ns) * 1e-6, left_ms = ceil(c->latency_ms - passed_ms);
    if (left_ms <= 0) {
        answer(c, c->status, &c->text);
        return;
    }
    c->state = CALL_DELAYED;
    uv_timer_start(&c->timer, on_timer, (uint64_t)left_ms, 0);
}

static void after_work(uv_work_t *request, int cancelled) {
    call *c = request->data;
    toolsvc_service *s = c->service;
    size_t tool = c->tool;
    (void)cancelled;
    c->in_pool = false;
    s->queues[tool].running--;
    if (c->state == CALL_RUNNING)
        deliver(c);
    else
        free_when_unused(c);
    start_next(s, tool);
}

static void start(call *c) {
    c->state = CALL_RUNNING;
    c->in_pool = true;
    c->work.data = c;
    c->service->queues[c->tool].running++;
    uv_queue_work(c->service->loop, &c->work, work, after_work);
}

static void start_next(toolsvc_service *s, size_t tool) {
    queue *q = &s->queues[tool];
    while (!s->stopped && q->first && q->running < s->tools->v[tool].config->concurrency) {
        call *c = q->first;
        q->first = c->queue_next;
        if (!q->first) q->last = NULL;
        start(c);
    }
}

static void enqueue(call *c) {
    queue *q = &c->service->queues[c->tool];
    c->state = CALL_QUEUED;
    c->queue_next = NULL;
    if (q->last) q->last->queue_next = c;
    else q->first = c;
    q->last = c;
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
    send_observation(s, from, (toolsvc_episode_key){m->uid, m->sample, m->attempt}, m->turn, m->call, &copy, status, 0);
    rlf_str_clean_up(&copy);
}

static void refuse_protocol(toolsvc_service *s, int from, const rlf_call *m) {
    char text[160];
    int n = snprintf(text, sizeof text, "error: protocol: CALL of episode %lld sample %lld attempt %lld, which is not open",
                     (long long)m->uid, (long long)m->sample, (long long)m->attempt);
    RLF_WARN("rank %d: %s", from, text + 7);
    refuse(s, from, m, RLF_CALL_INFRA, text, (size_t)n);
}

/* A call under way; argument moves into it. */
static call *new_call(toolsvc_service *s, int from, const rlf_call *m, size_t tool, rlf_str *argument, double latency_ms) {
    call *c = rlf_calloc(1, sizeof *c);
    *c = (call){.service = s, .next = s->calls, .episode = {m->uid, m->sample, m->attempt}, .turn = m->turn, .index = m->call,
                .from = from, .tool = tool, .arrival_ns = rlf_now_ns(), .latency_ms = latency_ms, .argument = *argument};
    if (s->calls) s->calls->prev = c;
    s->calls = c;
    s->outstanding++;
    s->alive++;
    uv_timer_init(s->loop, &c->timer);
    c->timer.data = c;
    uv_update_time(s->loop);
    uv_timer_start(&c->timer, on_timer, (uint64_t)s->tools->v[tool].config->timeout_ms, 0);
    return c;
}

static void accept_call(toolsvc_service *s, int from, const rlf_call *m, toolsvc_episode *episode, size_t tool, rlf_str *argument) {
    const rlf_tool_config *config = s->tools->v[tool].config;
    double latency_ms = toolsvc_latency_ms(config, episode->seed, m->uid, m->sample, m->turn, m->call);
    call *c = new_call(s, from, m, tool, argument, latency_ms);
    episode->calls++;
    if (latency_ms >= (double)config->timeout_ms) {
        c->state = CALL_DOOMED;
        return;
    }
    enqueue(c);
    start_next(s, tool);
}

static void handle_call(toolsvc_service *s, int from, const rlf_call *m) {
    s->counts.calls++;
    toolsvc_episode *episode = toolsvc_episodes_find(&s->episodes, (toolsvc_episode_key){m->uid, m->sample, m->attempt});
    if (!episode) {
        refuse_protocol(s, from, m);
        return;
    }
    if (s->outstanding >= MAX_OUTSTANDING) {
        static const char text[] = "error: too many calls are waiting";
        refuse(s, from, m, RLF_CALL_INFRA, text, sizeof text - 1);
        return;
    }
    size_t tool;
    rlf_str argument = {0}, error = {0};
    rlf_call_status status = toolsvc_tools_check(s->tools, m->tool, m->arguments, &tool, &argument, &error);
    if (status == RLF_CALL_OK) {
        accept_call(s, from, m, episode, tool, &argument);
    } else {
        refuse(s, from, m, status, error.ptr, error.len);
        rlf_str_clean_up(&argument);
    }
    rlf_str_clean_up(&error);
}

static void handle_open(toolsvc_service *s, int from, const rlf_open *m) {
    (void)from;
    toolsvc_episode *episode = toolsvc_episodes_put(&s->episodes, (toolsvc_episode_key){m->uid, m->sample, m->attempt});
    episode->seed = m->seed;
}

static void handle_close(toolsvc_service *s, int from, const rlf_close *m) {
    (void)from;
    toolsvc_episode_key key = {m->uid, m->sample, m->attempt};
    toolsvc_episode *episode = toolsvc_episodes_find(&s->episodes, key);
    if (!episode) return;
    size_t left = episode->calls;
    for (call *c = s->calls, *next; c && left; c = next) {
        next = c->next;
        if (c->episode.uid != key.uid || c->episode.sample != key.sample || c->episode.attempt != key.attempt) continue;
        s->counts.dropped++;
        left--;
        end_call(c);
    }
    toolsvc_episodes_remove(&s->episodes, key);
}

/* Answers a SCORE that gets no reward. */
static void refuse_score(toolsvc_service *s, int from, toolsvc_episode_key key) {
    rlf_reward reward = {.uid = key.uid, .sample = key.sample, .attempt = key.attempt, .status = RLF_CALL_INFRA};
    s->counts.infra++;
    send_record(s, from, RLF_MSG_REWARD, &reward);
}

static void handle_score(toolsvc_service *s, int from, const rlf_score *m) {
    toolsvc_episode_key key = {m->uid, m->sample, m->attempt};
    s->counts.scores++;
    if (!toolsvc_episodes_find(&s->episodes, key)) {
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
    (void)from;
    if (m->kind == RLF_CONTROL_STOP) s->stopped = true;
}

/* Logs and counts what can't be read. A SCORE that at least names its episode (it then reads as a CLOSE) is answered; a CALL
 * needs more than that. */
static void handle_malformed(toolsvc_service *s, rlf_message_type type, int from, const void *bytes, size_t n) {
    rlf_close key;
    s->counts.malformed++;
    RLF_ERROR("message dropped: %s", rlf_error_message());
    if (type != RLF_MSG_SCORE || rlf_message_decode(RLF_MSG_CLOSE, bytes, n, from, &s->arena, &key) != RLF_OK) return;
    refuse_score(s, from, (toolsvc_episode_key){key.uid, key.sample, key.attempt});
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
    s->queues = rlf_calloc(tools->n + 1, sizeof *s->queues);
    uv_timer_init(loop, &s->heartbeat);
    s->heartbeat.data = s;
    uv_timer_start(&s->heartbeat, on_heartbeat, HEARTBEAT_MS, HEARTBEAT_MS);
    *out = s;
}

static void on_heartbeat_closed(uv_handle_t *handle) { ((toolsvc_service *)handle->data)->heartbeat_closed = true; }

bool toolsvc_service_destroy(toolsvc_service *s, int timeout_ms) {
    if (!s) return true;
    s->stopped = true;
    while (s->calls) {
        s->counts.dropped++;
        end_call(s->calls);
    }
    uv_close((uv_handle_t *)&s->heartbeat, on_heartbeat_closed);
    int64_t deadline_ms = rlf_now_ms() + timeout_ms;
    while (s->alive || !s->heartbeat_closed) {
        uv_run(s->loop, UV_RUN_NOWAIT);
        if (!s->alive && s->heartbeat_closed) break;
        if (rlf_now_ms() > deadline_ms) return false;
        rlf_sleep_us(200);
    }
    toolsvc_episodes_clean_up(&s->episodes);
    rlf_arena_clean_up(&s->arena);
    free(s->queues);
    free(s);
    return true;
}

size_t toolsvc_service_outstanding(const toolsvc_service *s) { return s->outstanding; }
bool toolsvc_service_stopped(const toolsvc_service *s) { return s->stopped; }
rlf_status toolsvc_service_status(const toolsvc_service *s) { return s->status; }
const toolsvc_counts *toolsvc_service_counts(const toolsvc_service *s) { return &s->counts; }
