/* The pool, its interpreters and the sessions, see sandbox_python.h and the head of sandbox_driver.py.
 *
 * An interpreter ("worker"):  starting -> ready (in the pool) -> taken (by a session, until one of both ends) -> ending.
 * It is freed when its process is collected and libuv has closed its four handles. A killed worker leaves its session at once.
 *
 * Workers are started from a timer, one a turn of the loop: a call on a ready worker has its answer before its replacement is cloned, as
 * a rule, and a failure to start never reaches a caller from within its own call. */
#include "toolsvc/sandbox/sandbox_python.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/log.h"

enum { TOKEN = 8, ANSWER = TOKEN + 1, REQUEST_HEAD = TOKEN + 12, READ_SIZE = 65536, HANDLES = 4, START_MS = 10000, REPLACE_MS = 5, WATCH_MS = 100 };
enum { DROPPED_BYTES = 16 << 20, CLOSED_GRACE_MS = 200 };

__asm__(".section .rodata\n"
        ".global toolsvc_sandbox_driver\n"
        "toolsvc_sandbox_driver:\n"
        ".incbin \"" TOOLSVC_SANDBOX_DRIVER "\"\n"
        ".byte 0\n"
        ".previous\n");
extern const char toolsvc_sandbox_driver[];

typedef enum end_cause { END_ITSELF, END_WALL, END_OUTPUT, END_MEMORY, END_CPU, END_CHANNEL, END_START, END_UNWANTED } end_cause;

typedef struct call {
    struct call *next;
    uint64_t number;
    char *code;
    size_t n;
    int64_t wall_ms;
    toolsvc_python_done_fn *done;
    void *user;
} call;

typedef struct worker {
    struct worker *prev, *next; /* on pool->workers */
    toolsvc_python *pool;
    toolsvc_sandbox_child child;
    toolsvc_python_session *session; /* NULL: starting, ready, or ending */
    bool ready, ending;              /* answered once; killed or gone */
    end_cause cause;                 /* once ending */
    int wait_status;
    rlf_str text;                    /* printed since the call began, cut to output_bytes */
    size_t printed;
    char token[TOKEN], answer[ANSWER];
    size_t answer_len;
    bool asked;                      /* a request is out */
    uv_pipe_t control, output;
    uv_poll_t exit;
    uv_timer_t timer;                /* wall limit of the start and of a call */
    int handles;                     /* not yet closed */
} worker;

struct toolsvc_python_session {
    toolsvc_python_session *prev, *next; /* on pool->sessions */
    toolsvc_python_session *wait_next;   /* on pool->waiting */
    toolsvc_python *pool;
    int64_t seed;
    worker *worker;
    uint64_t calls;                      /* numbered so far */
    bool waiting, lost;                  /* for a worker; its last worker ended, which no answer has told yet */
    call *first, *last;                  /* the first may be running */
};

struct toolsvc_python {
    uv_loop_t *loop;
    toolsvc_python_options options;
    toolsvc_sandbox *sandbox;
    worker *workers;
    size_t alive, ready, starting;
    toolsvc_python_session *sessions, *waiting, *last_waiting;
    size_t n_waiting;
    bool start_failed; /* the last start did: no more in advance until one succeeds */
    rlf_str failure;   /* why */
    bool opened;       /* until then toolsvc_python_new reports it */
    bool closing;
    int timers;        /* not yet closed */
    uv_timer_t kick, watch; /* starts workers; looks at the memory of those that are taken */
    char buffer[READ_SIZE];
};

/* ---- lists ------------------------------------------------------------------------------------------------------------------------ */

static void enter_waiting(toolsvc_python_session *s) {
    toolsvc_python *p = s->pool;
    s->waiting = true;
    s->wait_next = NULL;
    if (p->last_waiting) p->last_waiting->wait_next = s;
    else p->waiting = s;
    p->last_waiting = s;
    p->n_waiting++;
}

static void leave_waiting(toolsvc_python_session *s) {
    toolsvc_python *p = s->pool;
    if (!s->waiting) return;
    toolsvc_python_session **link = &p->waiting, *before = NULL;
    for (; *link != s; link = &(*link)->wait_next) before = *link;
    *link = s->wait_next;
    if (p->last_waiting == s) p->last_waiting = before;
    s->waiting = false;
    p->n_waiting--;
}

static void free_call(call *c) {
    free(c->code);
    free(c);
}

/* Takes the first call off the session. */
static call *take_first(toolsvc_python_session *s) {
    call *c = s->first;
    s->first = c->next;
    if (!s->first) s->last = NULL;
    return c;
}

/* ---- the end of a worker -------------------------------------------------------------------------------------------------------------- */

static void free_pool_when_unused(toolsvc_python *p) {
    if (!p->closing || p->timers || p->alive) return;
    toolsvc_sandbox_destroy(p->sandbox);
    rlf_str_clean_up(&p->failure);
    free(p);
}

static void on_worker_closed(uv_handle_t *handle) {
    worker *w = handle->data;
    toolsvc_python *p = w->pool;
    if (--w->handles) return;
    if (w->prev) w->prev->next = w->next;
    else p->workers = w->next;
    if (w->next) w->next->prev = w->prev;
    p->alive--;
    rlf_str_clean_up(&w->text);
    free(w);
    free_pool_when_unused(p);
}

/* Kills it, unless it has ended; from here on it is no longer counted, and only waited for. */
static void end_worker(worker *w, end_cause cause) {
    if (w->ending) return;
    w->ending = true;
    w->cause = cause;
    if (!w->ready) w->pool->starting--;
    else if (!w->session) w->pool->ready--;
    if (cause != END_ITSELF) toolsvc_sandbox_kill(&w->child);
}

/* The same for one whose session no longer waits for it. */
static void drop_worker(toolsvc_python_session *s) {
    worker *w = s->worker;
    if (!w) return;
    end_worker(w, END_UNWANTED);
    w->session = NULL;
    w->asked = false;
    s->worker = NULL;
}

/* What the model reads in place of the rest of an answer. */
static void tell_end(const worker *w, int64_t wall_ms, rlf_str *out) {
    int status = w->wait_status;
    if (out->len && out->ptr[out->len - 1] != '\n') rlf_str_putc(out, '\n');
    rlf_str_putc(out, '[');
    if (w->cause == END_WALL) rlf_str_printf(out, "stopped: not done after %lld ms", (long long)wall_ms);
    else if (w->cause == END_OUTPUT) rlf_str_puts(out, "stopped: it never ceased to print");
    else if (w->cause == END_MEMORY)
        rlf_str_printf(out, "stopped: its processes took more than %lld MiB together", (long long)w->pool->options.limits.memory_mb);
    else if (w->cause == END_CPU)
        rlf_str_printf(out, "stopped: its processes took more than %lld s of processor time", (long long)w->pool->options.limits.cpu_s);
    else if (w->cause == END_CHANNEL) rlf_str_puts(out, "stopped: it meddled with the interpreter");
    else if (WIFEXITED(status)) rlf_str_printf(out, "the interpreter exited with status %d", WEXITSTATUS(status));
    else if (WTERMSIG(status) == SIGKILL) rlf_str_puts(out, "killed: out of processor time or memory");
    else rlf_str_printf(out, "the interpreter was ended by signal %d, %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
    rlf_str_puts(out, "; its variables are lost]\n");
}

/* ---- output ----------------------------------------------------------------------------------------------------------------------- */

static void keep_output(worker *w, const char *bytes, size_t n) {
    size_t room = (size_t)w->pool->options.output_bytes;
    room = w->text.len < room ? room - w->text.len : 0;
    if (w->asked || !w->ready) rlf_str_append(&w->text, bytes, n < room ? n : room);
    w->printed += n;
}

static bool printed_too_much(const worker *w) { return w->printed > (size_t)w->pool->options.output_bytes + DROPPED_BYTES; }

/* All that is in the pipe now: what was printed before an answer was in it first. */
static void drain_output(worker *w) {
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&w->output, &fd) != 0) return;
    while (!printed_too_much(w)) {
        ssize_t n = read(fd, w->pool->buffer, READ_SIZE);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        keep_output(w, w->pool->buffer, (size_t)n);
    }
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    worker *w = handle->data;
    (void)suggested;
    *buffer = uv_buf_init(w->pool->buffer, READ_SIZE);
}

static void on_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    worker *w = stream->data;
    if (n < 0) uv_read_stop(stream);
    if (n > 0) keep_output(w, buffer->base, (size_t)n);
    if (printed_too_much(w)) {
        uv_read_stop(stream);
        end_worker(w, END_OUTPUT);
    }
}

/* ---- calls ------------------------------------------------------------------------------------------------------------------------ */

static void schedule(toolsvc_python *p);

typedef struct request {
    uv_write_t write;
    char bytes[];
} request;

static void on_sent(uv_write_t *write, int status) {
    (void)status; /* a worker that takes no request is ending */
    free(write);
}

static void on_limit(uv_timer_t *timer) {
    worker *w = timer->data;
    end_worker(w, w->ready ? END_WALL : END_START);
}

/* Hands the session's first call to its worker. */
static void ask(toolsvc_python_session *s) {
    worker *w = s->worker;
    const call *c = s->first;
    request *r = rlf_calloc(1, sizeof *r + REQUEST_HEAD + c->n);
    uint32_t n = (uint32_t)c->n;
    drain_output(w);
    rlf_str_reset(&w->text);
    w->printed = 0;
    if (getrandom(w->token, TOKEN, 0) != TOKEN) RLF_DEBUG("no random token: %s", strerror(errno));
    memcpy(r->bytes, w->token, TOKEN);
    memcpy(r->bytes + TOKEN, &s->seed, 8);
    memcpy(r->bytes + TOKEN + 8, &n, 4);
    memcpy(r->bytes + REQUEST_HEAD, c->code, c->n);
    w->asked = true;
    uv_buf_t buffer = uv_buf_init(r->bytes, (unsigned)(REQUEST_HEAD + c->n));
    if (uv_write(&r->write, (uv_stream_t *)&w->control, &buffer, 1, on_sent) != 0) free(r);
    uv_update_time(s->pool->loop);
    if (c->wall_ms > 0) uv_timer_start(&w->timer, on_limit, (uint64_t)c->wall_ms, 0);
}

/* Runs while an interpreter is taken. */
static void on_watch(uv_timer_t *timer) {
    toolsvc_python *p = timer->data;
    bool any = false;
    for (worker *w = p->workers; w; w = w->next) {
        if (!w->session || w->ending) continue;
        any = true;
        if (toolsvc_sandbox_memory(&w->child) > p->options.limits.memory_mb << 20) end_worker(w, END_MEMORY);
        if (toolsvc_sandbox_cpu_ms(&w->child) > (p->options.limits.cpu_s + 1) * 1000) end_worker(w, END_CPU);
    }
    if (!any) uv_timer_stop(timer);
}

static void give(worker *w, toolsvc_python_session *s) {
    w->session = s;
    s->worker = w;
    if (!uv_is_active((uv_handle_t *)&s->pool->watch)) uv_timer_start(&s->pool->watch, on_watch, WATCH_MS, WATCH_MS);
    ask(s);
}

static worker *find_ready(const toolsvc_python *p) {
    worker *w = p->workers;
    while (w && (!w->ready || w->session || w->ending)) w = w->next;
    return w;
}

/* Gets the session's first call going, if it has one and none is running. A worker that is ending calls this again. */
static void go_on(toolsvc_python_session *s) {
    if (!s->first || s->waiting || (s->worker && (s->worker->asked || s->worker->ending))) return;
    worker *w = s->worker ? NULL : find_ready(s->pool);
    if (s->worker) {
        ask(s);
    } else if (w) {
        s->pool->ready--;
        give(w, s);
    } else {
        enter_waiting(s);
    }
    schedule(s->pool);
}

/* Answers the session's first call; *text is emptied. The next call is sent first: the session may be gone afterwards. */
static void finish(toolsvc_python_session *s, toolsvc_python_outcome outcome, rlf_str *text) {
    static const char note[] = "[a new interpreter: variables of earlier calls are lost]\n";
    call *c = take_first(s);
    rlf_str whole = {0};
    if (s->lost && outcome != TOOLSVC_PYTHON_BROKEN) {
        rlf_str_puts(&whole, note);
        s->lost = false;
    }
    rlf_str_append(&whole, text->ptr ? text->ptr : "", text->len);
    rlf_str_clean_up(text);
    if (outcome == TOOLSVC_PYTHON_LOST) s->lost = true;
    go_on(s);
    c->done(c->user, outcome, whole.ptr ? whole.ptr : "", whole.len);
    rlf_str_clean_up(&whole);
    free_call(c);
}

/* The text of the call that ends; the worker starts its next with none. How much a killed one printed is chance. */
static rlf_str take_text(worker *w) {
    rlf_str text = w->text;
    w->text = (rlf_str){0};
    if (w->printed == text.len) return text;
    if (text.len && text.ptr[text.len - 1] != '\n') rlf_str_putc(&text, '\n');
    if (w->ending) rlf_str_puts(&text, "[cut]\n");
    else rlf_str_printf(&text, "[cut: %zu bytes were printed]\n", w->printed);
    return text;
}

/* ---- the control socket ----------------------------------------------------------------------------------------------------------- */

static void become_ready(worker *w) {
    toolsvc_python *p = w->pool;
    uv_timer_stop(&w->timer);
    w->ready = true;
    p->starting--;
    p->start_failed = false;
    toolsvc_python_session *s = p->waiting;
    if (s) {
        leave_waiting(s);
        give(w, s);
    } else {
        p->ready++;
    }
}

static void take_answer(worker *w) {
    static const char zeros[ANSWER];
    int outcome = w->answer[TOKEN];
    w->answer_len = 0;
    if (!w->ready && memcmp(w->answer, zeros, ANSWER) == 0) {
        become_ready(w);
    } else if (w->asked && memcmp(w->answer, w->token, TOKEN) == 0 && (outcome == 0 || outcome == 1)) {
        uv_timer_stop(&w->timer);
        drain_output(w);
        w->asked = false;
        rlf_str text = take_text(w);
        finish(w->session, outcome ? TOOLSVC_PYTHON_RAISED : TOOLSVC_PYTHON_DONE, &text);
    } else {
        end_worker(w, END_CHANNEL);
    }
}

static void on_closed_control(uv_timer_t *timer) { end_worker(timer->data, END_CHANNEL); }

/* Closed from inside: the worker is about to exit, which will say more, or the code closed it. */
static void on_control(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    worker *w = stream->data;
    if (w->ending) return;
    if (n < 0) {
        uv_read_stop(stream);
        uv_timer_start(&w->timer, on_closed_control, CLOSED_GRACE_MS, 0);
    } else if (w->answer_len + (size_t)n > ANSWER) {
        end_worker(w, END_CHANNEL);
    } else {
        memcpy(w->answer + w->answer_len, buffer->base, (size_t)n);
        w->answer_len += (size_t)n;
        if (w->answer_len == ANSWER) take_answer(w);
    }
}

/* ---- starting and collecting ------------------------------------------------------------------------------------------------------------ */

/* No worker came up: the session that has waited longest gets the reason. */
static void start_failure(toolsvc_python *p, const char *why, size_t n) {
    if (!p->start_failed && p->opened) RLF_WARN("python: no interpreter: %.*s", (int)n, why);
    p->start_failed = true;
    rlf_str_reset(&p->failure);
    rlf_str_append(&p->failure, why, n);
    toolsvc_python_session *s = p->waiting;
    if (!s) return;
    rlf_str text = {0};
    rlf_str_append(&text, why, n);
    leave_waiting(s);
    finish(s, TOOLSVC_PYTHON_BROKEN, &text);
}

static void close_handles(worker *w) {
    uv_close((uv_handle_t *)&w->exit, on_worker_closed);
    uv_close((uv_handle_t *)&w->control, on_worker_closed);
    uv_close((uv_handle_t *)&w->output, on_worker_closed);
    uv_close((uv_handle_t *)&w->timer, on_worker_closed);
}

/* Tells whoever the worker was for. */
static void tell_exit(worker *w, bool started) {
    toolsvc_python_session *s = w->session;
    if (!started && w->cause != END_UNWANTED) {
        static const char late[] = "it did not start within 10 s";
        bool said = w->text.len > 0;
        start_failure(w->pool, said ? w->text.ptr : late, said ? w->text.len : sizeof late - 1);
    }
    if (!s) return;
    s->worker = NULL;
    if (w->asked) {
        rlf_str text = take_text(w);
        tell_end(w, s->first->wall_ms, &text);
        finish(s, TOOLSVC_PYTHON_LOST, &text);
    } else {
        s->lost = true;
        go_on(s);
    }
}

static void on_process_end(uv_poll_t *poll, int status, int events) {
    worker *w = poll->data;
    toolsvc_python *p = w->pool;
    (void)status, (void)events;
    drain_output(w);
    end_worker(w, END_ITSELF);
    close_handles(w); /* before the descriptor of `exit` is closed */
    w->wait_status = toolsvc_sandbox_reap(&w->child);
    if (w->cause == END_ITSELF && w->child.ran_out_of_memory) w->cause = END_MEMORY;
    tell_exit(w, w->ready);
    if (!p->closing) schedule(p);
}

static rlf_status start_worker(toolsvc_python *p) {
    worker *w = rlf_calloc(1, sizeof *w);
    rlf_status status = toolsvc_sandbox_start(p->sandbox, &w->child);
    if (status == RLF_OK && uv_poll_init(p->loop, &w->exit, w->child.exit_fd) != 0) {
        status = RLF_RAISE(INTERNAL, "libuv cannot watch a process");
        close(w->child.control);
        close(w->child.output);
        toolsvc_sandbox_kill(&w->child);
        toolsvc_sandbox_reap(&w->child);
    }
    if (status != RLF_OK) {
        free(w);
        return status;
    }
    w->pool = p;
    w->handles = HANDLES;
    w->next = p->workers;
    if (w->next) w->next->prev = w;
    p->workers = w;
    p->alive++;
    p->starting++;
    uv_timer_init(p->loop, &w->timer);
    uv_pipe_init(p->loop, &w->control, 0);
    uv_pipe_init(p->loop, &w->output, 0);
    w->exit.data = w->timer.data = w->control.data = w->output.data = w;
    int rc = uv_pipe_open(&w->control, w->child.control);
    if (!rc) rc = uv_pipe_open(&w->output, w->child.output);
    assert(rc == 0); /* both are fresh descriptors of streams */
    (void)rc;
    uv_read_start((uv_stream_t *)&w->control, give_buffer, on_control);
    uv_read_start((uv_stream_t *)&w->output, give_buffer, on_output);
    uv_poll_start(&w->exit, UV_READABLE, on_process_end);
    uv_timer_start(&w->timer, on_limit, START_MS, 0);
    return RLF_OK;
}

static bool wants_worker(const toolsvc_python *p) {
    size_t ahead = p->start_failed ? 0 : (size_t)p->options.workers;
    return p->starting + p->ready < p->n_waiting + ahead;
}

static void on_kick(uv_timer_t *timer) {
    toolsvc_python *p = timer->data;
    if (!wants_worker(p)) return;
    if (start_worker(p) != RLF_OK) start_failure(p, rlf_error_message(), strlen(rlf_error_message()));
    schedule(p);
}

/* At the next turn where a session waits; else a little later, out of the way of the call that took the ready one. */
static void schedule(toolsvc_python *p) {
    if (p->closing || !wants_worker(p)) return;
    if (p->n_waiting) uv_timer_start(&p->kick, on_kick, 0, 0);
    else if (!uv_is_active((uv_handle_t *)&p->kick)) uv_timer_start(&p->kick, on_kick, REPLACE_MS, 0);
}

/* ---- the pool --------------------------------------------------------------------------------------------------------------------- */

static rlf_status choose_interpreter(const char *wanted, const char **chosen) {
    static const char *const usual[] = {"/usr/bin/python3", "/usr/local/bin/python3", "/bin/python3"};
    *chosen = wanted;
    if (wanted[0] == '/') return RLF_OK;
    if (wanted[0]) return RLF_RAISE(INVALID, "key \"path\": \"%s\"; the absolute path of an interpreter was expected", wanted);
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (access(usual[i], X_OK) == 0) {
            *chosen = usual[i];
            return RLF_OK;
        }
    return RLF_RAISE(NOT_FOUND, "there is no python3 in /usr/bin, /usr/local/bin or /bin; install it, or name one with the key \"path\"");
}

static void on_timer_closed(uv_handle_t *handle) {
    toolsvc_python *p = handle->data;
    p->timers--;
    free_pool_when_unused(p);
}

/* What an error says that the operator should know before the first call of a model. */
static rlf_status start_first(toolsvc_python *p) {
    int64_t workers = p->options.workers;
    if (workers < 1) p->options.workers = 1;
    schedule(p);
    while (!p->ready && !p->start_failed) uv_run(p->loop, UV_RUN_ONCE);
    p->options.workers = workers;
    p->opened = true;
    if (p->ready) return RLF_OK;
    bool ours = strncmp(p->failure.ptr, "sandbox: ", 9) == 0 && p->options.limits.namespaces;
    bool hinted = strstr(p->failure.ptr, TOOLSVC_SANDBOX_HINT) != NULL;
    if (ours) return RLF_RAISE(UNSUPPORTED, "%s%s", p->failure.ptr, hinted ? "" : "; " TOOLSVC_SANDBOX_HINT);
    return RLF_RAISE(IO, "the interpreter does not start: %s", p->failure.ptr);
}

rlf_status toolsvc_python_new(toolsvc_python **out, uv_loop_t *loop, const toolsvc_python_options *options) {
    const char *program;
    rlf_status status = choose_interpreter(options->interpreter, &program);
    if (status != RLF_OK) return status;
    /* -s: no user folder; -B: no .pyc files; -c puts the current folder, the scratch, first among those that modules come from */
    const char *const argv[] = {program, "-s", "-B", "-X", "utf8", "-c", toolsvc_sandbox_driver, NULL};
    toolsvc_sandbox *sandbox;
    status = toolsvc_sandbox_new(&sandbox, &options->limits, argv);
    if (status != RLF_OK) return status;
    toolsvc_python *p = rlf_calloc(1, sizeof *p);
    *p = (toolsvc_python){.loop = loop, .options = *options, .sandbox = sandbox, .timers = 2};
    p->options.interpreter = NULL; /* the caller's */
    uv_timer_init(loop, &p->kick);
    uv_timer_init(loop, &p->watch);
    p->kick.data = p->watch.data = p;
    status = start_first(p);
    if (status == RLF_OK) *out = p;
    else toolsvc_python_destroy(p);
    return status;
}

void toolsvc_python_destroy(toolsvc_python *p) {
    if (!p) return;
    p->closing = true;
    while (p->sessions) toolsvc_python_close(p->sessions);
    for (worker *w = p->workers; w; w = w->next) end_worker(w, END_UNWANTED);
    uv_close((uv_handle_t *)&p->kick, on_timer_closed);
    uv_close((uv_handle_t *)&p->watch, on_timer_closed);
}

const char *toolsvc_python_groups(const toolsvc_python *p) { return toolsvc_sandbox_groups(p->sandbox); }
size_t toolsvc_python_alive(const toolsvc_python *p) { return p->alive; }
size_t toolsvc_python_ready(const toolsvc_python *p) { return p->ready; }

/* ---- sessions --------------------------------------------------------------------------------------------------------------------- */

toolsvc_python_session *toolsvc_python_open(toolsvc_python *p, int64_t seed) {
    toolsvc_python_session *s = rlf_calloc(1, sizeof *s);
    *s = (toolsvc_python_session){.pool = p, .seed = seed, .next = p->sessions};
    if (s->next) s->next->prev = s;
    p->sessions = s;
    return s;
}

void toolsvc_python_close(toolsvc_python_session *s) {
    toolsvc_python *p = s->pool;
    drop_worker(s);
    leave_waiting(s);
    while (s->first) free_call(take_first(s));
    if (s->prev) s->prev->next = s->next;
    else p->sessions = s->next;
    if (s->next) s->next->prev = s->prev;
    free(s);
}

uint64_t toolsvc_python_run(toolsvc_python_session *s, const char *code, size_t n, int64_t wall_ms, toolsvc_python_done_fn *done,
                            void *user) {
    call *c = rlf_calloc(1, sizeof *c);
    *c = (call){.number = ++s->calls, .code = rlf_calloc(1, n + 1), .n = n, .wall_ms = wall_ms, .done = done, .user = user};
    memcpy(c->code, code, n);
    if (s->last) s->last->next = c;
    else s->first = c;
    s->last = c;
    go_on(s);
    return c->number;
}

void toolsvc_python_cancel(toolsvc_python_session *s, uint64_t number) {
    call *before = NULL, *c = s->first;
    for (; c && c->number != number; c = c->next) before = c;
    if (!c) return;
    if (c == s->first && s->worker && s->worker->asked) {
        drop_worker(s);
        s->lost = true;
    }
    if (before) before->next = c->next;
    else s->first = c->next;
    if (s->last == c) s->last = before;
    free_call(c);
    if (!s->first) leave_waiting(s);
    go_on(s);
}
