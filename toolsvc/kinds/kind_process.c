/* The tool kind "process": programs of the user's own that read calls and write answers, a line each (PROCESS.md, child.h).
 *
 * `workers` programs run side by side; a call goes to the one with the fewest under way, an episode with state stays with its program.
 * A program is started again when it ends, writes anything but answers, or is stuck: a call is given up after more than half of its
 * time, and nothing at all was answered since it was sent. What it had under way ends as infra_error. One that has answered since its
 * start is back at once; else the wait doubles from start to start. Calls wait for it too, until that takes longer than a second.
 *
 * Freed when it is closed and the timers of its workers are. */
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "toolsvc/child/child.h"
#include "toolsvc/map.h"
#include "toolsvc/kinds/process_lines.h"

enum { QUEUE_BYTES = 64 << 20, FIRST_WAIT_MS = 100, LONGEST_WAIT_MS = 10000, PATIENCE_MS = 1000 };

typedef struct process_tool process_tool;

/* One place for a program, which may be there or not. */
typedef struct worker {
    process_tool *tool;
    toolsvc_child *child;      /* NULL: none now */
    uint64_t life;             /* programs started here so far: an episode's state is in one of them */
    struct request *requests;  /* under way */
    size_t outstanding, episodes;
    bool answered;             /* since its start */
    int64_t heard_ms;          /* when it last answered */
    int64_t wait_ms;           /* before it is started again, unless it answers */
    rlf_str why;               /* it ended last */
    uv_timer_t again;
} worker;

/* A call that was started. Its list is its worker's, or that of calls which are about to fail. */
typedef struct request {
    struct request *prev, *next, **list;
    worker *worker; /* NULL: none */
    toolsvc_call *call;
    uint64_t id;
    int64_t sent_ms;
} request;

typedef struct episode {
    worker *worker; /* NULL: not told of it yet */
    uint64_t life, number;
    rlf_str opening; /* the line that tells */
} episode;

struct process_tool {
    const rlf_tool_config *config;
    uv_loop_t *loop;
    toolsvc_command command;
    worker *workers;
    size_t n, timers;    /* workers; of their timers those that are not closed */
    bool open;           /* until then what is wrong is told by the one who opens it */
    uint64_t last_id, last_episode, describe_id;
    toolsvc_map requests; /* by id */
    request *pending;    /* until a program is up */
    json_t *functions;   /* what the program says that it offers, or the configuration */
    size_t ended, garbage, stuck; /* not yet counted for a call */
};

/* ---- requests under way -------------------------------------------------------------------------------------------------------------- */

static rlf_slice key_of(const uint64_t *id) { return (rlf_slice){(const char *)id, sizeof *id}; }

static process_tool *tool_of(const toolsvc_call *call) { return call->state; }

static void add_request(request **list, worker *w, toolsvc_call *call, uint64_t id) {
    request *r = rlf_calloc(1, sizeof *r);
    *r = (request){.list = list, .worker = w, .call = call, .id = id, .sent_ms = rlf_now_ms(), .next = *list};
    if (r->next) r->next->prev = r;
    *list = r;
    if (w) w->outstanding++;
    call->data = r;
    toolsvc_map_put(&tool_of(call)->requests, key_of(&r->id), r);
}

/* The call is the caller's to finish. */
static toolsvc_call *remove_request(request *r) {
    toolsvc_call *call = r->call;
    toolsvc_map_remove(&tool_of(call)->requests, key_of(&r->id));
    if (r->prev) r->prev->next = r->next;
    else *r->list = r->next;
    if (r->next) r->next->prev = r->prev;
    if (r->worker) r->worker->outstanding--;
    call->data = NULL;
    free(r);
    return call;
}

/* The worker's calls, which are then no longer its own. `to` must stay where it is. */
static void take_requests(worker *w, request **to) {
    *to = w->requests;
    w->requests = NULL;
    w->outstanding = 0;
    for (request *r = *to; r; r = r->next) r->list = to, r->worker = NULL;
}

static void count_all(toolsvc_call *call, const char *what, size_t *n) {
    for (; *n; --*n) toolsvc_call_count(call, what);
}

/* What happened is counted for the tool, through any of its calls. */
static void count_for(process_tool *t, toolsvc_call *call) {
    count_all(call, "programs_ended", &t->ended);
    count_all(call, "programs_stuck", &t->stuck);
    count_all(call, "garbage_lines", &t->garbage);
}

static void finish_infra(toolsvc_call *call, const char *what, const char *why) {
    rlf_str text = {0};
    count_for(tool_of(call), call);
    rlf_str_printf(&text, "%s%s", what, why);
    toolsvc_call_finish(call, RLF_CALL_INFRA, text.ptr, text.len);
    rlf_str_clean_up(&text);
}

/* A call that ends may cancel others of the list, so it is looked at anew each time. */
static void fail_all(request **list, const char *what, const char *why) {
    rlf_str kept = {0}; /* `why` may change meanwhile */
    rlf_str_puts(&kept, why);
    while (*list) finish_infra(remove_request(*list), what, kept.ptr);
    rlf_str_clean_up(&kept);
}

static void reverse(request **list) {
    request *last = NULL;
    for (request *r = *list, *next; r; r = next) {
        next = r->next;
        r->next = r->prev;
        r->prev = next;
        last = r;
    }
    *list = last;
}

/* ---- programs ------------------------------------------------------------------------------------------------------------------------ */

static void on_line(void *user, char *line, size_t n);
static void on_end(void *user, const char *why);
static void start_worker(worker *w);
static void start_process(toolsvc_call *const *calls, size_t n);

static void on_again(uv_timer_t *timer) { start_worker(timer->data); }

/* Whether a program is up, or will be soon. */
static bool is_expected(const process_tool *t) {
    for (size_t i = 0; i < t->n; i++)
        if (t->workers[i].child || t->workers[i].wait_ms < PATIENCE_MS) return true;
    return false;
}

static void start_again(worker *w) {
    if (w->answered) {
        w->wait_ms = 0;
        start_worker(w);
        return;
    }
    w->wait_ms = w->wait_ms ? w->wait_ms * 2 : FIRST_WAIT_MS;
    if (w->wait_ms > LONGEST_WAIT_MS) w->wait_ms = LONGEST_WAIT_MS;
    uv_update_time(w->tool->loop);
    uv_timer_start(&w->again, on_again, (uint64_t)w->wait_ms, 0);
    if (!is_expected(w->tool)) fail_all(&w->tool->pending, "there is no program to ask: it ", w->why.ptr);
}

static rlf_status try_start(worker *w) {
    process_tool *t = w->tool;
    toolsvc_child_options options = {.command = &t->command, .name = t->config->name, .line_bytes = (size_t)t->config->max_bytes,
                                     .queue_bytes = QUEUE_BYTES, .on_line = on_line, .on_end = on_end, .user = w};
    rlf_status status = toolsvc_child_start(&w->child, t->loop, &options);
    w->answered = false;
    w->heard_ms = rlf_now_ms();
    w->episodes = 0;
    w->life++;
    return status;
}

static void set_why(worker *w, const char *why) {
    rlf_str_reset(&w->why);
    rlf_str_puts(&w->why, why);
    if (w->tool->open) RLF_WARN("%s: its program %s", w->tool->config->name, why);
}

/* In the order in which they came. */
static void start_pending(process_tool *t) {
    request *list = t->pending;
    t->pending = NULL;
    for (request *r = list; r; r = r->next) r->list = &list;
    reverse(&list);
    while (list) {
        toolsvc_call *call = remove_request(list);
        start_process(&call, 1);
    }
}

static void start_worker(worker *w) {
    if (try_start(w) == RLF_OK) {
        start_pending(w->tool);
        return;
    }
    rlf_error_context("did not start");
    set_why(w, rlf_error_message());
    start_again(w);
}

/* The program is gone, or let go. Another is started before its calls end: what they set off may need it. */
static void lose(worker *w, const char *why, size_t *count) {
    request *lost;
    take_requests(w, &lost);
    w->child = NULL;
    ++*count;
    set_why(w, why);
    start_again(w);
    fail_all(&lost, "the program ", why);
}

static void on_end(void *user, const char *why) {
    worker *w = user;
    lose(w, why, &w->tool->ended);
}

/* ---- answers ------------------------------------------------------------------------------------------------------------------------- */

typedef struct taker {
    worker *worker;
    uint64_t life;
    bool wrong;
} taker;

static void finish_with(toolsvc_call *call, const toolsvc_process_answer *a) {
    static const char wrong[] = "the program answered a call with functions";
    rlf_str text = {0}, clean = {0};
    count_for(tool_of(call), call);
    if (a->value) toolsvc_process_text(a->value, &text);
    else rlf_str_puts(&text, wrong);
    toolsvc_secrets_blot(&tool_of(call)->command.secrets, text.ptr ? text.ptr : "", text.len, &clean);
    toolsvc_call_finish(call, a->value ? a->status : RLF_CALL_INFRA, clean.ptr, clean.len);
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&clean);
}

/* A number that was given, but is not under way, is that of a call which was given up. Only functions answer describe. */
static bool take_answer(void *user, const toolsvc_process_answer *a) {
    taker *k = user;
    worker *w = k->worker;
    process_tool *t = w->tool;
    request *r = toolsvc_map_get(&t->requests, key_of(&a->id));
    k->wrong = a->id == 0 || a->id > t->last_id || (a->id == t->describe_id && !a->functions);
    if (k->wrong) return false;
    w->answered = true;
    w->heard_ms = rlf_now_ms();
    if (a->id == t->describe_id && a->functions && !t->functions) t->functions = json_deep_copy(a->functions);
    if (r && r->worker == w) finish_with(remove_request(r), a);
    return w->life == k->life;
}

static void on_line(void *user, char *line, size_t n) {
    worker *w = user;
    taker k = {.worker = w, .life = w->life};
    if (toolsvc_process_read(line, n, take_answer, &k) && !k.wrong) return;
    rlf_str why = {0};
    rlf_str_puts(&why, "wrote a line that is no answer: ");
    toolsvc_command_show(&w->tool->command, line, n, &why);
    toolsvc_child_close(w->child);
    lose(w, why.ptr, &w->tool->garbage);
    rlf_str_clean_up(&why);
}

/* ---- calls --------------------------------------------------------------------------------------------------------------------------- */

/* Of those that are up the one with the least to do; NULL: none is up. */
static worker *choose(process_tool *t, bool for_episode) {
    worker *best = NULL;
    for (size_t i = 0; i < t->n; i++) {
        worker *w = &t->workers[i];
        if (!w->child) continue;
        bool by_episodes = best && for_episode && w->episodes != best->episodes;
        if (!best || (by_episodes ? w->episodes < best->episodes : w->outstanding < best->outstanding)) best = w;
    }
    return best;
}

static bool say(worker *w, rlf_str *line) {
    bool said = toolsvc_child_say(w->child, line->ptr, line->len);
    rlf_str_clean_up(line);
    return said;
}

/* The program of an episode, which is told of it before its first call. */
static worker *worker_of(process_tool *t, episode *e) {
    if (e->worker) return e->worker->child && e->worker->life == e->life ? e->worker : NULL;
    worker *w = choose(t, true);
    if (!w || !say(w, &e->opening)) return NULL;
    e->worker = w;
    e->life = w->life;
    w->episodes++;
    return w;
}

static bool send_calls(worker *w, toolsvc_call *const *calls, size_t n, uint64_t id) {
    const episode *e = calls[0]->episode;
    rlf_str line = {0};
    toolsvc_process_call(calls, n, id, e ? e->number : 0, &line);
    if (say(w, &line)) return true;
    toolsvc_call_count(calls[0], "input_full");
    return false;
}

static void start_process(toolsvc_call *const *calls, size_t n) {
    process_tool *t = tool_of(calls[0]);
    episode *e = calls[0]->episode;
    worker *w = e ? worker_of(t, e) : choose(t, false);
    bool lost = !w && e && e->worker, up = choose(t, false) != NULL;
    uint64_t id = t->last_id + 1;
    request *failed = NULL;
    t->last_id += n;
    bool sent = w && send_calls(w, calls, n, id), waits = !up && !lost && is_expected(t);
    for (size_t i = 0; i < n; i++) add_request(sent ? &w->requests : waits ? &t->pending : &failed, sent ? w : NULL, calls[i], id + i);
    if (lost) toolsvc_call_count(calls[0], "state_lost");
    if (lost) fail_all(&failed, "the program that kept this episode's state ", e->worker->why.ptr);
    else if (up) fail_all(&failed, "the program does not read its input", "");
    else fail_all(&failed, "there is no program to ask: it ", t->workers[0].why.ptr);
}

/* No answer at all for so long: the program hangs, or does what nobody waits for any more. */
static bool is_stuck(const worker *w, const request *r) {
    int64_t now = rlf_now_ms();
    return w->heard_ms <= r->sent_ms && now - r->sent_ms > w->tool->config->timeout_ms / 2;
}

static void cancel_process(toolsvc_call *call) {
    request *r = call->data;
    worker *w = r->worker;
    process_tool *t = tool_of(call);
    bool stuck = w && is_stuck(w, r);
    rlf_str line = {0};
    if (w && !stuck) {
        toolsvc_process_cancel(r->id, &line);
        say(w, &line);
    }
    remove_request(r);
    toolsvc_call_finish(call, RLF_CALL_INFRA, "", 0);
    if (!stuck) return;
    toolsvc_child_close(w->child);
    lose(w, "gave no answer in time", &t->stuck);
}

/* ---- episodes ------------------------------------------------------------------------------------------------------------------------ */

static bool keeps_state(const rlf_tool_config *config) { return config->state && strcmp(config->state, "episode") == 0; }

static rlf_status open_episode(void *state, const toolsvc_origin *origin, void **out) {
    process_tool *t = state;
    episode *e = rlf_calloc(1, sizeof *e);
    e->number = ++t->last_episode;
    toolsvc_process_open(e->number, origin, &e->opening);
    *out = e;
    return RLF_OK;
}

static void close_episode(void *state, void *opened) {
    episode *e = opened;
    rlf_str line = {0};
    (void)state;
    if (e->worker && e->worker->child && e->worker->life == e->life) {
        toolsvc_process_close(e->number, &line);
        say(e->worker, &line);
        e->worker->episodes--;
    }
    rlf_str_clean_up(&e->opening);
    free(e);
}

/* ---- opening ------------------------------------------------------------------------------------------------------------------------- */

static void free_when_closed(process_tool *t) {
    if (t->timers) return;
    for (size_t i = 0; i < t->n; i++) rlf_str_clean_up(&t->workers[i].why);
    toolsvc_command_clean_up(&t->command);
    toolsvc_map_clean_up(&t->requests, NULL);
    json_decref(t->functions);
    free(t->workers);
    free(t);
}

static void on_timer_closed(uv_handle_t *handle) {
    process_tool *t = ((worker *)handle->data)->tool;
    t->timers--;
    free_when_closed(t);
}

static void close_process(void *state) {
    process_tool *t = state;
    t->open = false;
    for (size_t i = 0; i < t->n; i++) {
        toolsvc_child_close(t->workers[i].child);
        uv_close((uv_handle_t *)&t->workers[i].again, on_timer_closed);
    }
}

static rlf_status ask_functions(process_tool *t) {
    worker *w = &t->workers[0];
    uint64_t life = w->life;
    rlf_str line = {0};
    t->describe_id = ++t->last_id;
    toolsvc_process_describe(t->describe_id, &line);
    say(w, &line);
    for (int64_t end = rlf_now_ms() + t->config->start_ms; !t->functions && w->child && w->life == life;) {
        if (rlf_now_ms() > end)
            return RLF_RAISE(TIMEOUT, "key \"command\": the program did not tell its functions within %lld ms (key start_ms)",
                             (long long)t->config->start_ms);
        if (uv_run(t->loop, UV_RUN_NOWAIT)) rlf_sleep_us(200);
    }
    if (!t->functions) return RLF_RAISE(IO, "key \"command\": asked for its functions, the program %s", w->why.ptr);
    if (json_array_size(t->functions) == 0) return RLF_RAISE(INVALID, "key \"command\": the program offers no function");
    return RLF_OK;
}

static rlf_status configured_function(process_tool *t) {
    const rlf_tool_config *config = t->config;
    const char *description = config->description && *config->description ? config->description : "A tool.";
    t->functions = json_pack("[{s:s, s:s, s:o}]", "name", config->name, "description", description, "parameters",
                             rlf_config_json(config->schema));
    return t->functions ? RLF_OK : RLF_RAISE(INVALID, "key \"schema\": a JSON object was expected");
}

/* The first program is started here, so that what is wrong with it is told here; the others from their timers. */
static rlf_status start_programs(process_tool *t) {
    rlf_status status = try_start(&t->workers[0]);
    if (status != RLF_OK) {
        rlf_error_context("key \"command\"");
        return status;
    }
    bool told = t->config->schema && *t->config->schema;
    status = told ? configured_function(t) : ask_functions(t);
    if (status != RLF_OK) return status;
    for (size_t i = 1; i < t->n; i++) uv_timer_start(&t->workers[i].again, on_again, 0, 0);
    t->open = true;
    return RLF_OK;
}

static rlf_status open_process(const rlf_tool_config *config, uv_loop_t *loop, void **state) {
    process_tool *t = rlf_calloc(1, sizeof *t);
    *t = (process_tool){.config = config, .loop = loop, .n = (size_t)config->workers, .timers = (size_t)config->workers};
    rlf_status status = toolsvc_command_init(&t->command, config);
    if (status == RLF_OK && config->workers < 1) status = RLF_RAISE(INVALID, "key \"workers\": at least 1 was expected");
    if (status != RLF_OK) {
        toolsvc_command_clean_up(&t->command);
        free(t);
        return status;
    }
    t->workers = rlf_calloc(t->n, sizeof *t->workers);
    for (size_t i = 0; i < t->n; i++) {
        t->workers[i].tool = t;
        rlf_str_puts(&t->workers[i].why, "is not started yet");
        uv_timer_init(loop, &t->workers[i].again);
        t->workers[i].again.data = &t->workers[i];
    }
    status = start_programs(t);
    if (status == RLF_OK) *state = t;
    else close_process(t);
    return status;
}

static json_t *functions_of(void *state) { return json_incref(((process_tool *)state)->functions); }

const toolsvc_kind toolsvc_kind_process = {.name = "process",
                                           .open = open_process,
                                           .close = close_process,
                                           .functions = functions_of,
                                           .keeps_state = keeps_state,
                                           .episode_open = open_episode,
                                           .episode_close = close_episode,
                                           .start = start_process,
                                           .cancel = cancel_process,
                                           .batches = true};
