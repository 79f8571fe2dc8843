/* Queues and places of tools (dispatch.h).
 *
 * Lifetime of a job: it is alive from submission until nobody waits for it and it is neither queued, running nor backing off; its
 * memory goes when also its timer, which only a job that backed off has, is closed. After toolsvc_call_finish or the worker's return
 * it may be started again (a retry), so the kind's call is one field of it, made anew for each run. */
#include "toolsvc/dispatch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/text/json_text.h"
#include "toolsvc/map.h"
#include "toolsvc/policy.h"
#include "toolsvc/text.h"

enum { NAMED_COUNTS = 32, NAME_BYTES = 32 };

typedef enum job_state { JOB_NEW, JOB_HELD, JOB_QUEUED, JOB_RUNNING, JOB_BACKING_OFF, JOB_OVER } job_state;

typedef struct toolsvc_job {
    toolsvc_call call; /* first: toolsvc_call_finish casts back */
    toolsvc_dispatch *dispatch;
    size_t function, tool;
    json_t *arguments;          /* owned */
    rlf_str text;               /* canonical arguments */
    rlf_str result;             /* of the worker, or of the last run */
    rlf_call_status status;
    toolsvc_waiter *waiters;
    toolsvc_session *session;   /* NULL for kinds without */
    struct toolsvc_job *prev, *next; /* in its tool's queue, or held back by its session */
    struct toolsvc_place *place; /* while running */
    int64_t queued_ns, attempt;
    job_state state;
    bool mergeable, late, timer_made;
    uv_timer_t timer;           /* of the backoff */
    uv_work_t work;
} job;

typedef struct job_list {
    job *first, *last;
    size_t n;
} job_list;

/* What one start holds: a place among the tool's `concurrency`, until the last of its calls is back. */
typedef struct toolsvc_place {
    size_t left;
    bool failed, known; /* known: at least one of them tells something about the tool */
} place;

struct toolsvc_session {
    toolsvc_dispatch *dispatch;
    toolsvc_session *next; /* of the same episode */
    size_t tool;
    void *episode;         /* the kind's */
    uint64_t seed;
    rlf_str extra;
    bool opened, closing;
    job *running;          /* the one job that is queued or running; others are held back */
    job_list held;
};

typedef struct lane { /* one tool's */
    toolsvc_dispatch *dispatch;
    size_t tool;
    job_list queue;
    int64_t running;       /* places taken */
    toolsvc_rate rate;
    toolsvc_breaker breaker;
    uv_timer_t wake;       /* batch window or rate */
    toolsvc_tool_counts counts;
    struct { char name[NAME_BYTES]; int64_t n; } named[NAMED_COUNTS];
} lane;

struct toolsvc_dispatch {
    uv_loop_t *loop;
    const toolsvc_tools *tools;
    int64_t seed;
    lane *lanes;           /* one per tool */
    toolsvc_map in_flight; /* mergeable jobs, by function and arguments */
    size_t alive;          /* jobs, sessions and wake timers that are not freed */
    bool stopped, closing, pumping;
};

static const rlf_tool_config *config_of(const toolsvc_dispatch *d, size_t tool) { return d->tools->v[tool].config; }
static const toolsvc_kind *kind_of(const toolsvc_dispatch *d, size_t tool) { return d->tools->v[tool].kind; }
static bool takes_batches(const toolsvc_dispatch *d, size_t tool) { return kind_of(d, tool)->batches && !d->tools->v[tool].keeps_state; }
static void pump(toolsvc_dispatch *d, size_t tool);

/* ---- lists ------------------------------------------------------------------------------------------------------------------------- */

static void append(job_list *list, job *j) {
    j->prev = list->last;
    j->next = NULL;
    if (list->last) list->last->next = j;
    else list->first = j;
    list->last = j;
    list->n++;
}

static void take_off(job_list *list, job *j) {
    if (j->prev) j->prev->next = j->next;
    else list->first = j->next;
    if (j->next) j->next->prev = j->prev;
    else list->last = j->prev;
    j->prev = j->next = NULL;
    list->n--;
}

/* ---- merging ----------------------------------------------------------------------------------------------------------------------- */

static void merge_key(size_t function, const rlf_str *text, rlf_str *out) {
    rlf_str_append(out, &function, sizeof function);
    rlf_str_append(out, text->ptr, text->len);
}

static void forget_merge(job *j) {
    if (!j->mergeable) return;
    rlf_str key = {0};
    merge_key(j->function, &j->text, &key);
    toolsvc_map_remove(&j->dispatch->in_flight, (rlf_slice){key.ptr, key.len});
    rlf_str_clean_up(&key);
    j->mergeable = false;
}

static void offer_merge(job *j) {
    rlf_str key = {0};
    j->mergeable = true;
    merge_key(j->function, &j->text, &key);
    toolsvc_map_put(&j->dispatch->in_flight, (rlf_slice){key.ptr, key.len}, j);
    rlf_str_clean_up(&key);
}

static job *find_merge(toolsvc_dispatch *d, size_t function, const rlf_str *text) {
    rlf_str key = {0};
    merge_key(function, text, &key);
    job *j = toolsvc_map_get(&d->in_flight, (rlf_slice){key.ptr, key.len});
    rlf_str_clean_up(&key);
    return j;
}

/* ---- the end of a job -------------------------------------------------------------------------------------------------------------- */

static void free_job(job *j) {
    j->dispatch->alive--;
    json_decref(j->arguments);
    rlf_str_clean_up(&j->text);
    rlf_str_clean_up(&j->result);
    free(j);
}

static void on_timer_closed(uv_handle_t *handle) { free_job(handle->data); }

static void free_session_when_unused(toolsvc_session *s) {
    if (!s->closing || s->running || s->held.n) return;
    toolsvc_dispatch *d = s->dispatch;
    if (s->opened && kind_of(d, s->tool)->episode_close) kind_of(d, s->tool)->episode_close(d->tools->v[s->tool].state, s->episode);
    d->alive--;
    rlf_str_clean_up(&s->extra);
    free(s);
}

static void enqueue(job *j) {
    j->state = JOB_QUEUED;
    j->queued_ns = rlf_now_ns();
    append(&j->dispatch->lanes[j->tool].queue, j);
}

/* The session's next job takes its turn. */
static void release_session(job *j) {
    toolsvc_session *s = j->session;
    if (!s || s->running != j) return;
    s->running = s->held.first;
    if (s->running) {
        take_off(&s->held, s->running);
        enqueue(s->running);
    }
    free_session_when_unused(s);
}

/* Off all lists and nobody waits. */
static void end_job(job *j) {
    j->state = JOB_OVER;
    forget_merge(j);
    release_session(j);
    if (j->timer_made) uv_close((uv_handle_t *)&j->timer, on_timer_closed);
    else free_job(j);
}

static void remove_waiter(job *j, toolsvc_waiter *w) {
    if (w->prev) w->prev->next = w->next;
    else j->waiters = w->next;
    if (w->next) w->next->prev = w->prev;
    w->job = NULL;
    w->prev = w->next = NULL;
}

/* Every waiter gets the result. A waiter's `done` may submit or leave, so the list is looked at anew each time. */
static void conclude(job *j, rlf_call_status status, const rlf_str *text) {
    forget_merge(j);
    while (j->waiters) {
        toolsvc_waiter *w = j->waiters;
        remove_waiter(j, w);
        w->done(w, status, text);
    }
    end_job(j);
}

static void conclude_infra(job *j, const char *why) {
    rlf_str text = {0};
    rlf_str_printf(&text, "error: %s %s", config_of(j->dispatch, j->tool)->name, why);
    conclude(j, RLF_CALL_INFRA, &text);
    rlf_str_clean_up(&text);
}

/* ---- retries ----------------------------------------------------------------------------------------------------------------------- */

static void on_backoff_over(uv_timer_t *timer) {
    job *j = timer->data;
    enqueue(j);
    pump(j->dispatch, j->tool);
}

/* An infra error: once more after a while, if the policy allows. */
static bool retry(job *j) {
    toolsvc_dispatch *d = j->dispatch;
    const rlf_tool_config *config = config_of(d, j->tool);
    if (j->session || d->stopped || !j->waiters || j->attempt >= config->retries) return false;
    j->attempt++;
    d->lanes[j->tool].counts.retries++;
    if (!j->timer_made) {
        uv_timer_init(d->loop, &j->timer);
        j->timer.data = j;
        j->timer_made = true;
    }
    j->state = JOB_BACKING_OFF;
    uv_update_time(d->loop);
    uv_timer_start(&j->timer, on_backoff_over, (uint64_t)toolsvc_backoff_ms(config, d->seed, j->text.ptr, j->text.len, j->attempt), 0);
    return true;
}

/* ---- running ----------------------------------------------------------------------------------------------------------------------- */

static void leave_place(job *j, bool known, bool failed) {
    lane *l = &j->dispatch->lanes[j->tool];
    place *p = j->place;
    j->place = NULL;
    p->known |= known;
    p->failed |= known && failed;
    if (--p->left) return;
    l->running--;
    if (p->known) l->counts.breaker_opened += toolsvc_breaker_note(&l->breaker, config_of(j->dispatch, j->tool), p->failed, rlf_now_ns());
    else l->breaker.probing = false;
    free(p);
}

/* A job's run is over; status and result are in it. */
static void finished(job *j) {
    toolsvc_dispatch *d = j->dispatch;
    size_t tool = j->tool;
    bool infra = j->status == RLF_CALL_INFRA, given_up = atomic_load(&j->call.cancelled);
    d->lanes[tool].counts.infra_errors += infra && !given_up;
    leave_place(j, !given_up || j->late, infra || j->late); /* the end of an episode says nothing of the tool */
    if (!given_up && j->status == RLF_CALL_OK)
        toolsvc_cache_put(d->tools->v[tool].cache, d->tools->functions[j->function].name, (rlf_slice){j->text.ptr, j->text.len}, time(NULL),
                          &j->result);
    if (given_up) end_job(j);
    else if (!infra || !retry(j)) conclude(j, j->status, &j->result);
    pump(d, tool);
}

/* An answer that no message holds is as one larger than max_bytes: bytes that are no text grow to three on their way into it. */
static void set_result(job *j, rlf_call_status status, const char *text, size_t n) {
    static const char too_large[] = "the answer is larger than 16 MiB as text, which is the most";
    j->status = status;
    rlf_str_reset(&j->result);
    if (status != RLF_CALL_OK) rlf_str_puts(&j->result, "error: ");
    if (n) toolsvc_append_utf8(&j->result, text, n);
    if (j->result.len > RLF_MSG_MAX_TEXT) set_result(j, RLF_CALL_INFRA, too_large, sizeof too_large - 1);
}

void toolsvc_call_finish(toolsvc_call *call, rlf_call_status status, const char *text, size_t n) {
    job *j = (job *)call;
    set_result(j, status, text, n);
    finished(j);
}

/* On a worker thread: touches the call, status and result alone, which the loop leaves alone until after_work. */
static void work(uv_work_t *request) {
    job *j = request->data;
    rlf_str raw = {0};
    rlf_call_status status = kind_of(j->dispatch, j->tool)->run(&j->call, &raw);
    set_result(j, status, raw.ptr, raw.len);
    rlf_str_clean_up(&raw);
}

static void after_work(uv_work_t *request, int cancelled) {
    (void)cancelled; /* only what nobody waits for is ever cancelled */
    finished(request->data);
}

static rlf_status open_session(toolsvc_session *s) {
    const toolsvc_tool *tool = &s->dispatch->tools->v[s->tool];
    if (s->opened) return RLF_OK;
    toolsvc_origin origin = {.seed = s->seed, .extra = {s->extra.ptr ? s->extra.ptr : "", s->extra.len}};
    rlf_status status = tool->kind->episode_open(tool->state, &origin, &s->episode);
    s->opened = status == RLF_OK;
    return status;
}

static void prepare_call(job *j, place *p) {
    const toolsvc_tool *tool = &j->dispatch->tools->v[j->tool];
    j->state = JOB_RUNNING;
    j->place = p;
    j->call = (toolsvc_call){.config = tool->config, .function = j->dispatch->tools->functions[j->function].name, .state = tool->state,
                             .episode = j->session ? j->session->episode : NULL, .arguments = j->arguments,
                             .text = {j->text.ptr, j->text.len}};
}

/* Starts n > 0 jobs, which are off the queue, in one place. */
static void start(toolsvc_dispatch *d, size_t tool, job **jobs, toolsvc_call **calls, size_t n) {
    lane *l = &d->lanes[tool];
    place *p = rlf_calloc(1, sizeof *p);
    p->left = n;
    toolsvc_breaker_start(&l->breaker);
    l->running++;
    l->counts.runs++;
    l->counts.batches += n > 1;
    for (size_t i = 0; i < n; i++) {
        prepare_call(jobs[i], p);
        calls[i] = &jobs[i]->call;
    }
    if (!kind_of(d, tool)->run) {
        kind_of(d, tool)->start(calls, n);
        return;
    }
    jobs[0]->work.data = jobs[0];
    uv_queue_work(d->loop, &jobs[0]->work, work, after_work);
}

/* ---- queue ------------------------------------------------------------------------------------------------------------------------- */

static void on_wake(uv_timer_t *timer) {
    lane *l = timer->data;
    pump(l->dispatch, l->tool);
}

static void wake_in(toolsvc_dispatch *d, lane *l, int64_t ns) {
    uv_update_time(d->loop);
    uv_timer_start(&l->wake, on_wake, (uint64_t)((ns + 999999) / 1000000), 0);
}

/* How many jobs from the head of the queue belong in one start. */
static size_t batch_of(const toolsvc_dispatch *d, size_t tool, const job *first) {
    int64_t most = takes_batches(d, tool) ? config_of(d, tool)->batch : 1;
    size_t n = 1;
    for (const job *j = first->next; j && (int64_t)n < most && first->attempt == 0 && j->attempt == 0 &&
         j->function == first->function; j = j->next) n++;
    return n;
}

/* Nanoseconds until the head of the queue need not wait for others to go with it. */
static int64_t batch_wait(const toolsvc_dispatch *d, size_t tool, const job *first, size_t n) {
    const rlf_tool_config *config = config_of(d, tool);
    if (!takes_batches(d, tool) || (int64_t)n >= config->batch || first->attempt > 0) return 0;
    if (n < d->lanes[tool].queue.n) return 0; /* another function, or a retry, stands behind */
    int64_t wait = first->queued_ns + config->batch_ms * 1000000 - rlf_now_ns();
    return wait > 0 ? wait : 0;
}

/* Takes the head of the queue and starts it, or fails it. */
static void start_head(toolsvc_dispatch *d, size_t tool, size_t n) {
    lane *l = &d->lanes[tool];
    job *first = l->queue.first, *one_job;
    toolsvc_call *one_call;
    job **jobs = n == 1 ? &one_job : rlf_calloc(n, sizeof *jobs);
    toolsvc_call **calls = n == 1 ? &one_call : rlf_calloc(n, sizeof *calls);
    for (size_t i = 0; i < n; i++) {
        jobs[i] = l->queue.first;
        take_off(&l->queue, jobs[i]);
    }
    if (first->session && open_session(first->session) != RLF_OK) conclude_infra(first, rlf_error_message());
    else start(d, tool, jobs, calls, n);
    if (n > 1) free(jobs), free(calls);
}

static void refuse_head(toolsvc_dispatch *d, size_t tool) {
    lane *l = &d->lanes[tool];
    job *j = l->queue.first;
    take_off(&l->queue, j);
    l->counts.breaker_refused++;
    if (!retry(j)) conclude_infra(j, "is out of service: too many failures in a row");
}

/* One step at the head of the queue; false: nothing can be done now. */
static bool pump_once(toolsvc_dispatch *d, size_t tool) {
    lane *l = &d->lanes[tool];
    const rlf_tool_config *config = config_of(d, tool);
    if (d->stopped || !l->queue.first || l->running >= config->concurrency) return false;
    size_t n = batch_of(d, tool, l->queue.first);
    int64_t wait = batch_wait(d, tool, l->queue.first, n), now = rlf_now_ns();
    if (wait == 0 && !toolsvc_breaker_admits(&l->breaker, config, now)) {
        refuse_head(d, tool);
        return true;
    }
    if (wait == 0) wait = toolsvc_rate_take(&l->rate, config->per_second, now);
    if (wait > 0) {
        wake_in(d, l, wait);
        return false;
    }
    start_head(d, tool, n);
    return true;
}

/* A call that finishes inside start comes back here: the loop below goes on with its tool, and depth does not grow. */
static void pump(toolsvc_dispatch *d, size_t tool) {
    if (d->pumping) {
        if (!d->stopped && d->lanes[tool].queue.first) wake_in(d, &d->lanes[tool], 0);
        return;
    }
    d->pumping = true;
    while (pump_once(d, tool)) {
    }
    d->pumping = false;
}

/* ---- sessions ---------------------------------------------------------------------------------------------------------------------- */

static toolsvc_session *session_of(toolsvc_dispatch *d, size_t tool, toolsvc_session **list, const toolsvc_origin *origin) {
    if (!d->tools->v[tool].keeps_state) return NULL;
    for (toolsvc_session *s = *list; s; s = s->next)
        if (s->tool == tool) return s;
    toolsvc_session *s = rlf_calloc(1, sizeof *s);
    *s = (toolsvc_session){.dispatch = d, .next = *list, .tool = tool, .seed = origin->seed};
    rlf_str_append(&s->extra, origin->extra.ptr, origin->extra.len);
    d->alive++;
    return *list = s;
}

void toolsvc_sessions_close(toolsvc_session *sessions) {
    for (toolsvc_session *next; sessions; sessions = next) {
        next = sessions->next;
        sessions->closing = true;
        free_session_when_unused(sessions);
    }
}

/* ---- interface --------------------------------------------------------------------------------------------------------------------- */

toolsvc_dispatch *toolsvc_dispatch_new(uv_loop_t *loop, const toolsvc_tools *tools, int64_t seed) {
    toolsvc_dispatch *d = rlf_calloc(1, sizeof *d);
    *d = (toolsvc_dispatch){.loop = loop, .tools = tools, .seed = seed, .lanes = rlf_calloc(tools->n + 1, sizeof(lane))};
    for (size_t i = 0; i < tools->n; i++) {
        uv_timer_init(loop, &d->lanes[i].wake);
        d->lanes[i].wake.data = &d->lanes[i];
        d->lanes[i].dispatch = d;
        d->lanes[i].tool = i;
        d->alive++;
    }
    return d;
}

static void on_wake_closed(uv_handle_t *handle) { ((lane *)handle->data)->dispatch->alive--; }

void toolsvc_dispatch_stop(toolsvc_dispatch *d) { d->stopped = true; }

bool toolsvc_dispatch_destroy(toolsvc_dispatch *d) {
    for (size_t i = 0; i < d->tools->n && !d->closing; i++) uv_close((uv_handle_t *)&d->lanes[i].wake, on_wake_closed);
    d->closing = true;
    if (d->alive) return false;
    toolsvc_map_clean_up(&d->in_flight, NULL);
    free(d->lanes);
    free(d);
    return true;
}

static void join(job *j, toolsvc_waiter *w) {
    w->job = j;
    w->prev = NULL;
    w->next = j->waiters;
    if (w->next) w->next->prev = w;
    j->waiters = w;
}

/* A call that can start at once needs no room in the queue. */
static bool has_room(const toolsvc_dispatch *d, const lane *l, const toolsvc_session *session) {
    const rlf_tool_config *config = config_of(d, l->tool);
    size_t waiting = l->queue.n + (session ? session->held.n : 0);
    return (int64_t)waiting < config->queue || (waiting == 0 && l->running < config->concurrency);
}

/* Behind its session's other calls, if there are any. */
static void line_up(job *j) {
    toolsvc_session *s = j->session;
    if (s && s->running) {
        j->state = JOB_HELD;
        append(&s->held, j);
        return;
    }
    if (s) s->running = j;
    enqueue(j);
}

static bool answer_from_cache(toolsvc_dispatch *d, size_t function, const rlf_str *text, toolsvc_waiter *waiter) {
    size_t tool = d->tools->functions[function].tool;
    rlf_str answer = {0};
    bool found = toolsvc_cache_get(d->tools->v[tool].cache, d->tools->functions[function].name,
                                   (rlf_slice){text->ptr, text->len}, time(NULL), &answer);
    d->lanes[tool].counts.cache_hits += found;
    if (found) waiter->done(waiter, RLF_CALL_OK, &answer);
    rlf_str_clean_up(&answer);
    return found;
}

void toolsvc_dispatch_submit(toolsvc_dispatch *d, size_t function, json_t *arguments, toolsvc_session **sessions,
                             const toolsvc_origin *origin, toolsvc_waiter *waiter) {
    size_t tool = d->tools->functions[function].tool;
    lane *l = &d->lanes[tool];
    rlf_str text = {0};
    rlf_json_write(arguments, RLF_JSON_SORTED, &text);
    l->counts.calls++;
    if (answer_from_cache(d, function, &text, waiter)) {
        json_decref(arguments);
        rlf_str_clean_up(&text);
        return;
    }
    toolsvc_session *session = session_of(d, tool, sessions, origin);
    bool merges = config_of(d, tool)->merge && !session;
    job *j = merges ? find_merge(d, function, &text) : NULL;
    if (j) {
        l->counts.merged++;
        join(j, waiter);
        json_decref(arguments);
        rlf_str_clean_up(&text);
        return;
    }
    j = rlf_calloc(1, sizeof *j);
    j->dispatch = d;
    j->function = function;
    j->tool = tool;
    j->arguments = arguments;
    j->text = text;
    j->session = session;
    d->alive++;
    join(j, waiter);
    if (!has_room(d, l, session)) {
        l->counts.queue_full++;
        conclude_infra(j, "has too many calls waiting");
        return;
    }
    if (merges) offer_merge(j);
    line_up(j);
    pump(d, tool);
}

void toolsvc_dispatch_leave(toolsvc_waiter *waiter, bool late) {
    job *j = waiter->job;
    if (!j) return;
    toolsvc_dispatch *d = j->dispatch;
    remove_waiter(j, waiter);
    if (j->waiters) return;
    d->lanes[j->tool].counts.cancelled++;
    forget_merge(j);
    switch (j->state) {
    case JOB_HELD: take_off(&j->session->held, j); break;
    case JOB_QUEUED: take_off(&d->lanes[j->tool].queue, j); break;
    case JOB_RUNNING:
        j->late = late;
        atomic_store(&j->call.cancelled, true);
        if (kind_of(d, j->tool)->run) uv_cancel((uv_req_t *)&j->work); /* comes back as cancelled if no thread has taken it yet */
        else if (kind_of(d, j->tool)->cancel) kind_of(d, j->tool)->cancel(&j->call);
        return;
    default: break;
    }
    size_t tool = j->tool;
    end_job(j);
    pump(d, tool);
}

/* ---- one call ---------------------------------------------------------------------------------------------------------------------- */

typedef struct once {
    toolsvc_waiter waiter;
    rlf_call_status status;
    rlf_str *out;
    bool done;
} once;

static void on_once(toolsvc_waiter *waiter, rlf_call_status status, const rlf_str *text) {
    once *o = (once *)waiter;
    o->status = status;
    o->done = true;
    rlf_str_append(o->out, text->ptr, text->len);
}

static void wait_once(uv_loop_t *loop, once *o, int64_t timeout_ms, const char *name) {
    int64_t end = rlf_now_ms() + timeout_ms;
    while (!o->done && rlf_now_ms() < end)
        if (uv_run(loop, UV_RUN_NOWAIT)) rlf_sleep_us(50);
    if (o->done) return;
    toolsvc_dispatch_leave(&o->waiter, true);
    o->status = RLF_CALL_TIMEOUT;
    rlf_str_printf(o->out, "error: %s did not answer within %lld ms", name, (long long)timeout_ms);
}

rlf_call_status toolsvc_call_once(const toolsvc_tools *tools, const char *name, const char *arguments, rlf_str *out) {
    size_t function;
    json_t *parsed;
    once o = {.waiter = {.done = on_once}, .out = out};
    toolsvc_session *sessions = NULL;
    rlf_call_status status = toolsvc_tools_check(tools, NULL, rlf_slice_of(name), rlf_slice_of(arguments), &function, &parsed, out);
    if (status != RLF_CALL_OK) return status;
    toolsvc_dispatch *d = toolsvc_dispatch_new(tools->loop, tools, 0);
    toolsvc_dispatch_submit(d, function, parsed, &sessions, &(toolsvc_origin){.extra = {"", 0}}, &o.waiter);
    const rlf_tool_config *config = config_of(d, tools->functions[function].tool);
    wait_once(tools->loop, &o, config->timeout_ms, config->name);
    toolsvc_sessions_close(sessions);
    while (!toolsvc_dispatch_destroy(d))
        if (uv_run(tools->loop, UV_RUN_NOWAIT)) rlf_sleep_us(50);
    return o.status;
}

/* ---- counts ------------------------------------------------------------------------------------------------------------------------ */

void toolsvc_call_count(toolsvc_call *call, const char *what) {
    job *j = (job *)call;
    lane *l = &j->dispatch->lanes[j->tool];
    for (size_t i = 0; i < NAMED_COUNTS; i++) {
        if (l->named[i].n == 0) snprintf(l->named[i].name, NAME_BYTES, "%s", what);
        if (strcmp(l->named[i].name, what) != 0) continue;
        l->named[i].n++;
        return;
    }
}

const toolsvc_tool_counts *toolsvc_dispatch_counts(const toolsvc_dispatch *d, size_t tool) { return &d->lanes[tool].counts; }

void toolsvc_dispatch_each_count(const toolsvc_dispatch *d, size_t tool,
                                 void (*each)(void *user, const char *name, int64_t n), void *user) {
    const toolsvc_tool_counts *c = &d->lanes[tool].counts;
#define EACH_(name) if (c->name) each(user, #name, c->name);
    TOOLSVC_COUNTS(EACH_)
#undef EACH_
    for (size_t i = 0; i < NAMED_COUNTS; i++)
        if (d->lanes[tool].named[i].n) each(user, d->lanes[tool].named[i].name, d->lanes[tool].named[i].n);
}
