/* rlf tools: the tools of a job as a model sees them; one call of one; how fast they answer. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "toolsvc/dispatch.h"
#include "trainer/cli/cli.h"

static const char usage[] =
    "rlf tools JOB.yaml [key=value ...] [call NAME ARGUMENTS | bench NAME ARGUMENTS [CALLS [IN_FLIGHT]]]\n\n"
    "Without a word behind the job: what the tools offer, with the JSON schema of the arguments.\n"
    "call    one call as a model would make it; ARGUMENTS is JSON: '{\"query\": \"Lima\"}'. Prints the answer; exit status 0 if it is ok.\n"
    "bench   CALLS calls (1000), IN_FLIGHT of them at once (64); {{i}} in ARGUMENTS stands for the number of the call. Prints one JSON object.";

enum { MOST_CALLS = 10000000, LATE_CHECK_MS = 20 };

static void list(const toolsvc_tools *tools) {
    for (size_t i = 0; i < tools->n_functions; i++) {
        const toolsvc_function *f = &tools->functions[i];
        char *schema = json_dumps(f->parameters, JSON_INDENT(2));
        printf("%s (%s): %s\n%s\n", f->name, tools->v[f->tool].kind->name, f->description, schema ? schema : "{}");
        free(schema);
    }
}

static int call(const toolsvc_tools *tools, const char *name, const char *arguments) {
    rlf_str out = {0};
    rlf_call_status status = toolsvc_call_once(tools, name, arguments, &out);
    printf("%s\n", out.ptr ? out.ptr : "");
    rlf_str_clean_up(&out);
    if (status == RLF_CALL_OK) return 0;
    fprintf(stderr, "rlf tools: the call ended with status %s\n", rlf_call_status_text(status));
    return 1;
}

/* ---- bench -------------------------------------------------------------------------------------------------------------------------- */

typedef struct probe {
    toolsvc_waiter waiter;
    struct bench *bench;
    toolsvc_session *sessions;
    int64_t start_ns, due_ns; /* due_ns 0: not in use */
} probe;

typedef struct bench {
    const toolsvc_tools *tools;
    toolsvc_dispatch *dispatch;
    const char *name, *arguments;
    long calls, in_flight, started, done, ok;
    double *ms; /* (calls) */
    probe *probes; /* (in_flight) */
    probe **idle;  /* a stack of those not in use */
    long n_idle;
    uv_timer_t late; /* ends calls whose time is over */
} bench;

static void fill_in(const bench *b, long number, rlf_str *out) {
    for (const char *at = b->arguments; *at;) {
        if (strncmp(at, "{{i}}", 5) != 0) {
            rlf_str_putc(out, *at++);
            continue;
        }
        rlf_str_printf(out, "%ld", number);
        at += 5;
    }
}

static void end_probe(probe *p, rlf_call_status status) {
    bench *b = p->bench;
    p->due_ns = 0;
    b->ms[b->done++] = (double)(rlf_now_ns() - p->start_ns) * 1e-6;
    b->ok += status == RLF_CALL_OK;
    b->idle[b->n_idle++] = p;
}

static void on_done(toolsvc_waiter *waiter, rlf_call_status status, const rlf_str *text) {
    (void)text;
    end_probe((probe *)waiter, status);
}

/* A call that is given up may end others. */
static void on_late(uv_timer_t *timer) {
    bench *b = timer->data;
    int64_t now = rlf_now_ns();
    for (probe *p = b->probes; p < b->probes + b->in_flight; p++) {
        if (!p->due_ns || now < p->due_ns) continue;
        toolsvc_dispatch_leave(&p->waiter, true);
        end_probe(p, RLF_CALL_TIMEOUT);
    }
}

/* False: the arguments are not what the tool takes. */
static bool submit(bench *b, rlf_str *error) {
    rlf_str text = {0};
    size_t function;
    json_t *parsed;
    fill_in(b, b->started, &text);
    bool good = toolsvc_tools_check(b->tools, NULL, rlf_slice_of(b->name), (rlf_slice){text.ptr, text.len}, &function,
                                    &parsed, error) == RLF_CALL_OK;
    rlf_str_clean_up(&text);
    if (!good) return false;
    probe *p = b->idle[--b->n_idle];
    p->start_ns = rlf_now_ns();
    p->due_ns = p->start_ns + b->tools->v[b->tools->functions[function].tool].config->timeout_ms * 1000000;
    b->started++;
    toolsvc_dispatch_submit(b->dispatch, function, parsed, &p->sessions, &(toolsvc_origin){.extra = {"", 0}}, &p->waiter);
    return true;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void print_count(void *user, const char *name, int64_t n) {
    (void)user;
    printf(", \"%s\": %" PRId64, name, n);
}

static void print_bench(const bench *b, double seconds, double cpu) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    qsort(b->ms, (size_t)b->done, sizeof *b->ms, ascending);
    printf("{\"done\": %ld, \"ok\": %ld, \"in_flight\": %ld, \"seconds\": %.3f, \"calls_per_s\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"cpu_s\": %.3f, \"resident_mb\": %.1f",
           b->done, b->ok, b->in_flight, seconds, (double)b->done / seconds, b->ms[b->done / 2], b->ms[b->done * 99 / 100], cpu,
           (double)u.ru_maxrss / 1024);
    for (size_t i = 0; i < b->tools->n; i++) toolsvc_dispatch_each_count(b->dispatch, i, print_count, NULL);
    printf("}\n");
}

static int run_bench(const toolsvc_tools *tools, const char *name, const char *arguments, long calls, long in_flight) {
    uv_loop_t *loop = tools->loop;
    rlf_str error = {0};
    bench b = {.tools = tools, .dispatch = toolsvc_dispatch_new(loop, tools, 1), .name = name, .arguments = arguments, .calls = calls,
               .in_flight = in_flight, .ms = rlf_calloc((size_t)calls, sizeof(double))};
    b.probes = rlf_calloc((size_t)in_flight, sizeof *b.probes);
    b.idle = rlf_calloc((size_t)in_flight, sizeof *b.idle);
    for (long i = 0; i < in_flight; i++) {
        b.probes[i] = (probe){.waiter = {.done = on_done}, .bench = &b};
        b.idle[b.n_idle++] = &b.probes[i];
    }
    uv_timer_init(loop, &b.late);
    b.late.data = &b;
    uv_timer_start(&b.late, on_late, LATE_CHECK_MS, LATE_CHECK_MS);
    double start = rlf_now_s(), cpu = cpu_s();
    bool good = true;
    while (good && b.done < calls) {
        while (good && b.started < calls && b.n_idle > 0) good = submit(&b, &error);
        uv_run(loop, b.started < calls && b.n_idle > 0 ? UV_RUN_NOWAIT : UV_RUN_ONCE);
    }
    if (good) print_bench(&b, rlf_now_s() - start, cpu_s() - cpu);
    else fprintf(stderr, "rlf tools: %s\n", error.ptr + strlen("error: "));
    for (long i = 0; i < in_flight; i++) {
        toolsvc_dispatch_leave(&b.probes[i].waiter, false);
        toolsvc_sessions_close(b.probes[i].sessions);
    }
    uv_close((uv_handle_t *)&b.late, NULL); /* closed, as the dispatch's handles are, by the first turn below */
    while (!toolsvc_dispatch_destroy(b.dispatch)) uv_run(loop, UV_RUN_ONCE);
    free(b.probes);
    free(b.idle);
    free(b.ms);
    rlf_str_clean_up(&error);
    return good && b.ok == calls ? 0 : 1;
}

/* ---- the command -------------------------------------------------------------------------------------------------------------------- */

static long number_of(const char *text, long fallback, long most) {
    char *end;
    long n = text ? strtol(text, &end, 10) : fallback;
    return text && (end == text || *end || n < 1 || n > most) ? 0 : n;
}

static int run(const toolsvc_tools *tools, int argc, char **argv) {
    if (argc == 0) {
        list(tools);
        return 0;
    }
    if (strcmp(argv[0], "call") == 0 && argc == 3) return call(tools, argv[1], argv[2]);
    if (strcmp(argv[0], "bench") == 0 && argc >= 3 && argc <= 5) {
        long calls = number_of(argc > 3 ? argv[3] : NULL, 1000, MOST_CALLS), in_flight = number_of(argc > 4 ? argv[4] : NULL, 64, 65536);
        if (calls && in_flight) return run_bench(tools, argv[1], argv[2], calls, in_flight);
    }
    return rlf_cli_misuse("tools", "expected nothing, call NAME ARGUMENTS, or bench NAME ARGUMENTS [CALLS [IN_FLIGHT]] behind the job");
}

int rlf_cmd_tools(int argc, char **argv) {
    rlf_config config;
    toolsvc_tools tools;
    uv_loop_t loop;
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) return rlf_cli_help(usage);
    if (argc < 2) return rlf_cli_misuse("tools", "expected a job file");
    int overrides = 0;
    while (2 + overrides < argc && strchr(argv[2 + overrides], '=')) overrides++;
    if (rlf_config_load(&config, argv[1], argv + 2, (size_t)overrides) != RLF_OK) return rlf_cli_fail("tools");
    if (uv_loop_init(&loop) != 0) return rlf_cli_misuse("tools", "libuv cannot make an event loop");
    rlf_status status = toolsvc_tools_init(&tools, &loop, &config, NULL);
    int result = status == RLF_OK ? run(&tools, argc - 2 - overrides, argv + 2 + overrides) : rlf_cli_fail("tools");
    if (status == RLF_OK) toolsvc_tools_clean_up(&tools);
    uv_loop_close(&loop);
    rlf_config_clean_up(&config);
    return result;
}
