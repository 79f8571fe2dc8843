/* Pipes on the loop, lines out of bytes, and the end of a program (child.h).
 *
 * A child is freed when its keeper is collected and libuv has closed its five handles. Owned: until closed or over. A child that is not
 * owned is read and forgotten, so that a program which is about to end is not stopped by a full pipe. */
#include "toolsvc/child/child.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "toolsvc/child/keeper.h"
#include "toolsvc/text.h"

enum { READ_BYTES = 65536, HANDLES = 5, END_OF_INPUT_MS = 500, CLOSED_OUTPUT_MS = 300, MOST_ARGUMENTS = 1024 };
enum { ERROR_BYTES = 4096, SHOWN_BYTES = 500, LOG_PER_S = 20, LOG_BURST = 100, DRAINED_BYTES = 4 << 20 };

typedef enum end_cause { END_ITSELF, END_LONG_LINE, END_CLOSED_OUTPUT } end_cause;

struct toolsvc_child {
    toolsvc_child_options options;
    toolsvc_kept kept;
    uv_pipe_t in, out, error;
    uv_poll_t exit;
    uv_timer_t timer;    /* between two steps of its end */
    int handles;         /* not yet closed */
    bool owned, ending;
    end_cause cause;     /* once ending */
    rlf_str line;        /* of its output, begun */
    rlf_str error_line;  /* of its standard error, begun, at most ERROR_BYTES of it */
    rlf_str last_words;  /* the last line of its standard error, as logged */
    double log_room;     /* lines that may be logged now, at log_ms */
    int64_t log_ms;
    size_t not_logged;
    char buffer[READ_BYTES];
};

/* ---- the command --------------------------------------------------------------------------------------------------------------------- */

static void free_texts(char **v) {
    for (size_t i = 0; v && v[i]; i++) free(v[i]);
    free(v);
}

static rlf_status set_arguments(toolsvc_command *c, const json_t *list) {
    size_t n = json_array_size(list), good = 0;
    c->argv = rlf_calloc(n + 1, sizeof *c->argv);
    for (; good < n && n <= MOST_ARGUMENTS; good++) {
        const char *word = json_string_value(json_array_get(list, good));
        if (!word || (good == 0 && !*word)) break;
        c->argv[good] = rlf_strdup(word);
    }
    if (n > 0 && good == n) return RLF_OK;
    return RLF_RAISE(INVALID, "key \"command\": a list of 1 to %d texts was expected, the program and its arguments", (int)MOST_ARGUMENTS);
}

static void add_variable(toolsvc_command *c, size_t *n, size_t *cap, const char *name, const char *value) {
    rlf_str text = {0};
    rlf_str_printf(&text, "%s=", name);
    rlf_str_puts(&text, value);
    c->environment = rlf_grow(c->environment, *n, cap, sizeof *c->environment);
    c->environment[(*n)++] = text.ptr;
}

static void set_environment(toolsvc_command *c, json_t *map) {
    static const char *const passed[] = {"HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"};
    size_t n = 0, cap = 0;
    const char *name;
    json_t *value;
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
        if (getenv(passed[i]) && !json_object_get(map, passed[i])) add_variable(c, &n, &cap, passed[i], getenv(passed[i]));
    json_object_foreach(map, name, value) add_variable(c, &n, &cap, name, json_string_value(value));
    c->environment = rlf_grow(c->environment, n, &cap, sizeof *c->environment);
    c->environment[n] = NULL;
}

/* Fills secrets into the texts of a map. */
static rlf_status fill_environment(const toolsvc_command *c, json_t *map) {
    const char *name;
    json_t *value;
    if (!json_is_object(map)) return RLF_RAISE(INVALID, "key \"env\": a map of texts was expected");
    json_object_foreach(map, name, value) {
        rlf_str filled = {0};
        if (!json_is_string(value)) return RLF_RAISE(INVALID, "key \"env\": \"%.64s\": a text was expected", name);
        rlf_status status = toolsvc_secrets_fill(&c->secrets, "env", json_string_value(value), &filled);
        if (status == RLF_OK) json_string_set(value, filled.ptr ? filled.ptr : "");
        rlf_str_clean_up(&filled);
        if (status != RLF_OK) return status;
    }
    return RLF_OK;
}

rlf_status toolsvc_command_set(toolsvc_command *c, const json_t *argv, json_t *env, const char *folder) {
    const char *name;
    json_t *value;
    json_object_foreach(env, name, value)
        if (!json_is_string(value) || !*name || strchr(name, '=')) return RLF_RAISE(INVALID, "key \"env\": \"%.64s\": a text was expected", name);
    c->folder = folder;
    set_environment(c, env);
    return set_arguments(c, argv);
}

rlf_status toolsvc_command_init(toolsvc_command *c, const rlf_tool_config *config) {
    rlf_status status = RLF_OK;
    json_t *argv = rlf_config_json(config->command), *env = rlf_config_json(config->env);
    *c = (toolsvc_command){.memory_bytes = config->memory_mb << 20};
    if (!env) env = json_object();
    RLF_TRY(toolsvc_secrets_init(&c->secrets, config->secrets));
    RLF_TRY(fill_environment(c, env));
    RLF_TRY(toolsvc_command_set(c, argv, env, config->cwd ? config->cwd : ""));
out:
    json_decref(argv);
    json_decref(env);
    if (status != RLF_OK) toolsvc_command_clean_up(c);
    return status;
}

void toolsvc_command_clean_up(toolsvc_command *c) {
    free_texts(c->argv);
    free_texts(c->environment);
    toolsvc_secrets_clean_up(&c->secrets);
    *c = (toolsvc_command){0};
}

/* Blotted before it is cut, so that no part of a secret is left. */
void toolsvc_command_show(const toolsvc_command *command, const char *bytes, size_t n, rlf_str *out) {
    rlf_str clean = {0};
    size_t start = out->len;
    toolsvc_secrets_blot(&command->secrets, bytes, n > ERROR_BYTES ? ERROR_BYTES : n, &clean);
    toolsvc_append_utf8(out, clean.ptr, clean.len > SHOWN_BYTES ? SHOWN_BYTES : clean.len);
    rlf_str_clean_up(&clean);
    for (size_t i = start; i < out->len; i++)
        if ((unsigned char)out->ptr[i] < ' ' || out->ptr[i] == 127) out->ptr[i] = ' ';
}

/* ---- its standard error -------------------------------------------------------------------------------------------------------------- */

static bool may_log(toolsvc_child *c) {
    int64_t now = rlf_now_ms();
    c->log_room += (double)(now - c->log_ms) * LOG_PER_S / 1000;
    if (c->log_room > LOG_BURST) c->log_room = LOG_BURST;
    c->log_ms = now;
    if (c->log_room < 1) return false;
    c->log_room -= 1;
    return true;
}

static void tell_not_logged(toolsvc_child *c) {
    if (c->not_logged) RLF_WARN("%s: %zu more lines of its standard error are left out", c->options.name, c->not_logged);
    c->not_logged = 0;
}

static void log_error_line(toolsvc_child *c) {
    rlf_str *shown = &c->last_words;
    rlf_str_reset(shown);
    toolsvc_command_show(c->options.command, c->error_line.ptr, c->error_line.len, shown);
    if (!may_log(c)) {
        c->not_logged++;
        return;
    }
    tell_not_logged(c);
    RLF_INFO("%s: %s", c->options.name, shown->ptr);
}

static void end_error_line(toolsvc_child *c) {
    if (c->error_line.len) log_error_line(c);
    rlf_str_reset(&c->error_line);
}

static void take_error(toolsvc_child *c, const char *bytes, size_t n) {
    for (size_t i = 0; i < n && c->owned; i++) {
        if (bytes[i] == '\n') end_error_line(c);
        else if (c->error_line.len < ERROR_BYTES) rlf_str_putc(&c->error_line, bytes[i]);
    }
}

/* ---- its output ---------------------------------------------------------------------------------------------------------------------- */

static void end_for(toolsvc_child *c, end_cause cause) {
    if (c->ending) return;
    c->ending = true;
    c->cause = cause;
    toolsvc_keeper_stop(&c->kept);
}

/* One line, or the rest of one, that ends in bytes[n], which is overwritten. */
static void take_line(toolsvc_child *c, char *bytes, size_t n) {
    if (c->line.len + n > c->options.line_bytes) {
        end_for(c, END_LONG_LINE);
    } else if (c->line.len) {
        rlf_str whole = c->line;
        c->line = (rlf_str){0};
        rlf_str_append(&whole, bytes, n);
        c->options.on_line(c->options.user, whole.ptr, whole.len);
        rlf_str_clean_up(&whole);
    } else {
        bytes[n] = '\0';
        c->options.on_line(c->options.user, bytes, n);
    }
}

static void take_output(toolsvc_child *c, char *bytes, size_t n) {
    while (n && c->owned && !c->ending) {
        char *end = memchr(bytes, '\n', n);
        if (!end) break;
        take_line(c, bytes, (size_t)(end - bytes));
        n -= (size_t)(end + 1 - bytes);
        bytes = end + 1;
    }
    if (!n || !c->owned || c->ending) return;
    if (c->line.len + n > c->options.line_bytes) end_for(c, END_LONG_LINE);
    else rlf_str_append(&c->line, bytes, n);
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    toolsvc_child *c = handle->data;
    (void)suggested;
    *buffer = uv_buf_init(c->buffer, READ_BYTES);
}

static void on_error_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    if (n < 0) uv_read_stop(stream);
    if (n > 0) take_error(stream->data, buffer->base, (size_t)n);
}

static void on_still_there(uv_timer_t *timer) { end_for(timer->data, END_CLOSED_OUTPUT); }

/* Closed output: the program is about to end, which will say more, or it has nothing to say any more. */
static void on_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    toolsvc_child *c = stream->data;
    if (n < 0) uv_read_stop(stream);
    if (n < 0 && c->owned) uv_timer_start(&c->timer, on_still_there, CLOSED_OUTPUT_MS, 0);
    if (n > 0) take_output(c, buffer->base, (size_t)n);
}

/* What is still in a pipe when every process that could write to it is gone. */
static void drain(toolsvc_child *c, uv_pipe_t *pipe, void (*take)(toolsvc_child *c, char *bytes, size_t n)) {
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)pipe, &fd) != 0) return;
    for (size_t total = 0; total < DRAINED_BYTES && c->owned;) {
        ssize_t n = read(fd, c->buffer, READ_BYTES);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        take(c, c->buffer, (size_t)n);
        total += (size_t)n;
    }
}

static void take_error_bytes(toolsvc_child *c, char *bytes, size_t n) { take_error(c, bytes, n); }

/* ---- its end ------------------------------------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle) {
    toolsvc_child *c = handle->data;
    if (--c->handles) return;
    rlf_str_clean_up(&c->line);
    rlf_str_clean_up(&c->error_line);
    rlf_str_clean_up(&c->last_words);
    free(c);
}

static void close_input(toolsvc_child *c) {
    if (!uv_is_closing((uv_handle_t *)&c->in)) uv_close((uv_handle_t *)&c->in, on_closed);
}

static void tell_end(toolsvc_child *c, int status, rlf_str *out) {
    if (c->cause == END_LONG_LINE) rlf_str_printf(out, "wrote a line of more than %zu bytes", c->options.line_bytes);
    else if (c->cause == END_CLOSED_OUTPUT) rlf_str_puts(out, "closed its standard output");
    else if (WIFEXITED(status)) rlf_str_printf(out, "ended with status %d", WEXITSTATUS(status));
    else rlf_str_printf(out, "was ended by signal %d, %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (c->last_words.len) rlf_str_printf(out, "; its last words: %s", c->last_words.ptr);
}

static void on_program_end(uv_poll_t *poll, int poll_status, int events) {
    toolsvc_child *c = poll->data;
    rlf_str why = {0};
    (void)poll_status, (void)events;
    uv_poll_stop(poll);
    drain(c, &c->out, take_output);
    drain(c, &c->error, take_error_bytes);
    if (c->owned) end_error_line(c), tell_not_logged(c);
    close_input(c);
    uv_close((uv_handle_t *)&c->out, on_closed);
    uv_close((uv_handle_t *)&c->error, on_closed);
    uv_close((uv_handle_t *)&c->timer, on_closed);
    uv_close((uv_handle_t *)&c->exit, on_closed); /* before its descriptor is closed */
    tell_end(c, toolsvc_keeper_reap(&c->kept), &why);
    bool owned = c->owned;
    c->owned = false;
    c->ending = true;
    if (owned) c->options.on_end(c->options.user, why.ptr);
    rlf_str_clean_up(&why);
}

static void on_input_ended(uv_timer_t *timer) { toolsvc_keeper_stop(&((toolsvc_child *)timer->data)->kept); }

void toolsvc_child_close(toolsvc_child *c) {
    if (!c) return;
    assert(c->owned); /* not after its end, of which on_end told */
    c->owned = false;
    c->ending = true;
    close_input(c);
    uv_update_time(c->timer.loop);
    uv_timer_start(&c->timer, on_input_ended, END_OF_INPUT_MS, 0);
}

/* ---- its start ----------------------------------------------------------------------------------------------------------------------- */

static void ignore_broken_pipes(void) {
    struct sigaction now;
    if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL) signal(SIGPIPE, SIG_IGN);
}

static void open_handles(toolsvc_child *c, uv_loop_t *loop) {
    uv_timer_init(loop, &c->timer);
    uv_pipe_init(loop, &c->in, 0);
    uv_pipe_init(loop, &c->out, 0);
    uv_pipe_init(loop, &c->error, 0);
    c->exit.data = c->timer.data = c->in.data = c->out.data = c->error.data = c;
    int rc = uv_pipe_open(&c->in, c->kept.in);
    if (!rc) rc = uv_pipe_open(&c->out, c->kept.out);
    if (!rc) rc = uv_pipe_open(&c->error, c->kept.error);
    assert(rc == 0); /* all are fresh descriptors of pipes */
    (void)rc;
    uv_read_start((uv_stream_t *)&c->out, give_buffer, on_output);
    uv_read_start((uv_stream_t *)&c->error, give_buffer, on_error_output);
    uv_poll_start(&c->exit, UV_READABLE, on_program_end);
}

rlf_status toolsvc_child_start(toolsvc_child **out, uv_loop_t *loop, const toolsvc_child_options *options) {
    const toolsvc_command *command = options->command;
    toolsvc_child *c = rlf_calloc(1, sizeof *c);
    *c = (toolsvc_child){.options = *options, .owned = true, .handles = HANDLES, .log_room = LOG_BURST, .log_ms = rlf_now_ms()};
    ignore_broken_pipes();
    rlf_status status = toolsvc_keeper_start(&c->kept, command->argv, command->environment, command->folder, command->memory_bytes);
    if (status == RLF_OK && uv_poll_init(loop, &c->exit, c->kept.exit_fd) != 0) {
        status = RLF_RAISE(INTERNAL, "libuv cannot watch a process");
        close(c->kept.in), close(c->kept.out), close(c->kept.error);
        toolsvc_keeper_stop(&c->kept);
        toolsvc_keeper_reap(&c->kept);
    }
    if (status != RLF_OK) {
        free(c);
        return status;
    }
    open_handles(c, loop);
    *out = c;
    return RLF_OK;
}

/* ---- saying -------------------------------------------------------------------------------------------------------------------------- */

typedef struct saying {
    uv_write_t write;
    char bytes[];
} saying;

static void on_said(uv_write_t *write, int status) {
    (void)status; /* a program that takes no input is ending, or will be late */
    free(write);
}

bool toolsvc_child_say(toolsvc_child *c, const char *line, size_t n) {
    if (c->ending || uv_stream_get_write_queue_size((uv_stream_t *)&c->in) + n + 1 > c->options.queue_bytes) return false;
    saying *s = rlf_calloc(1, sizeof *s + n + 1);
    memcpy(s->bytes, line, n);
    s->bytes[n] = '\n';
    uv_buf_t buffer = uv_buf_init(s->bytes, (unsigned)(n + 1));
    if (uv_write(&s->write, (uv_stream_t *)&c->in, &buffer, 1, on_said) == 0) return true;
    free(s);
    return false;
}
