/* What the way back costs: from the moment a tool's answer is ready until the rollout rank has the OBSERVATION. Two ranks over MPI.
 *
 *   mpirun -np 2 bench_observation JOB.yaml CALLS RATE
 *
 * Rank 0 sends CALLs at a steady rate, as a rollout rank does; rank 1 is the tool rank of the job, whose tool `clock` asks the tool_server.
 * The answer is the monotonic clock of when it was written, which all processes of a machine share; the difference to the clock when the
 * OBSERVATION is here is the figure: the way through the socket, libcurl, the service, MPI, and the sleep of both ranks.
 * Rank 0 waits as one with nothing to generate; one that generates looks between two steps, so an answer waits for the end of a step too.
 * Prints one JSON object; the shares are of a core, under this load and then, for two seconds, without any. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "toolsvc/toolsvc.h"

enum { EPISODES = 64, TOOL_RANK = 1, IDLE_MS = 2000, LATE_MS = 60000, BYE_MS = 10000, BASE = 10, MOST = 100000000 };

typedef struct bench {
    rlf_transport *transport;
    long calls, rate;
    long sent, answered;
    double *ms; /* (calls) from ready to here */
    clockid_t clocks[2]; /* processor time of both ranks */
    rlf_received inbox;
    rlf_arena arena;
} bench;

static double cpu_s(clockid_t clock) {
    struct timespec t;
    return clock_gettime(clock, &t) == 0 ? (double)t.tv_sec + (double)t.tv_nsec * 1e-9 : 0;
}

static rlf_status send_due(bench *b, int64_t begin_ns) {
    rlf_status status = RLF_OK;
    while (b->sent < b->calls && rlf_now_ns() >= begin_ns + b->sent * (1000000000 / b->rate)) {
        rlf_call call = {.uid = b->sent % EPISODES, .turn = b->sent, .tool = rlf_slice_of("clock"), .arguments = rlf_slice_of("{}")};
        b->sent++;
        RLF_TRY(rlf_send(b->transport, TOOL_RANK, RLF_MSG_CALL, &call));
    }
out:
    return status;
}

static rlf_status take(bench *b) {
    rlf_status status = RLF_OK;
    rlf_observation o;
    int64_t now = rlf_now_ns();
    if (b->inbox.type != RLF_MSG_OBSERVATION) return RLF_OK;
    rlf_arena_reset(&b->arena);
    RLF_TRY(rlf_message_decode(b->inbox.type, b->inbox.bytes.ptr, b->inbox.bytes.len, b->inbox.from, &b->arena, &o));
    if (o.status != RLF_CALL_OK) RLF_FAIL(INTERNAL, "a call ended with status %s: %s", rlf_call_status_text(o.status), o.text.ptr);
    b->ms[b->answered++] = (double)(now - strtoll(o.text.ptr, NULL, BASE)) * 1e-6;
out:
    return status;
}

/* All that has come; if nothing has, it sleeps for up to a millisecond. */
static rlf_status look(bench *b) {
    rlf_status status = RLF_OK;
    bool got = true;
    int wait_ms = 1;
    while (got) {
        RLF_TRY(rlf_receive(b->transport, &b->inbox, wait_ms, &got));
        if (got) RLF_TRY(take(b));
        wait_ms = 0;
    }
out:
    return status;
}

static rlf_status rest(bench *b, int64_t ms) {
    rlf_status status = RLF_OK;
    bool got;
    for (int64_t end = rlf_now_ms() + ms; rlf_now_ms() < end;) RLF_TRY(rlf_receive(b->transport, &b->inbox, 50, &got));
out:
    return status;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const bench *b, double seconds, const double *busy, const double *idle) {
    size_t n = (size_t)b->calls;
    qsort(b->ms, n, sizeof *b->ms, ascending);
    printf("{\"calls\": %ld, \"calls_per_s\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, "
           "\"rollout_rank_share\": %.4f, \"tool_rank_share\": %.4f, \"idle_rollout_rank_share\": %.4f, \"idle_tool_rank_share\": %.4f}\n",
           b->calls, (double)n / seconds, b->ms[n / 2], b->ms[n * 99 / 100], b->ms[n - 1], busy[0] / seconds, busy[1] / seconds,
           idle[0] * 1e3 / IDLE_MS, idle[1] * 1e3 / IDLE_MS);
}

static rlf_status drive(bench *b) {
    rlf_status status = RLF_OK;
    double busy[2], idle[2];
    for (int64_t uid = 0; uid < EPISODES; uid++) {
        rlf_open open = {.uid = uid, .extra = {"", 0}};
        RLF_TRY(rlf_send(b->transport, TOOL_RANK, RLF_MSG_OPEN, &open));
    }
    int64_t begin = rlf_now_ns(), late = begin / 1000000 + b->calls * 1000 / b->rate + LATE_MS;
    for (int i = 0; i < 2; i++) busy[i] = -cpu_s(b->clocks[i]);
    while (b->answered < b->calls) {
        RLF_TRY(send_due(b, begin));
        RLF_TRY(look(b));
        if (rlf_now_ms() > late) RLF_FAIL(TIMEOUT, "%ld of %ld answers have come", b->answered, b->calls);
    }
    double seconds = (double)(rlf_now_ns() - begin) * 1e-9;
    for (int i = 0; i < 2; i++) busy[i] += cpu_s(b->clocks[i]), idle[i] = -cpu_s(b->clocks[i]);
    RLF_TRY(rest(b, IDLE_MS));
    for (int i = 0; i < 2; i++) idle[i] += cpu_s(b->clocks[i]);
    print(b, seconds, busy, idle);
    rlf_control stop = {.kind = RLF_CONTROL_STOP, .text = {"", 0}};
    RLF_TRY(rlf_send(b->transport, TOOL_RANK, RLF_MSG_CONTROL, &stop));
out:
    return status;
}

static rlf_status run_client(bench *b) {
    size_t n;
    const rlf_neighbour *near = rlf_transport_neighbours(b->transport, &n);
    for (size_t i = 0; i < 2; i++) clock_getcpuclockid(near[i < n ? i : 0].pid, &b->clocks[i]);
    b->ms = rlf_calloc((size_t)b->calls, sizeof *b->ms);
    rlf_status status = drive(b);
    free(b->ms);
    rlf_str_clean_up(&b->inbox.bytes);
    rlf_arena_clean_up(&b->arena);
    return status;
}

static rlf_status run_service(rlf_transport *transport, const char *job) {
    rlf_config config;
    rlf_status status = rlf_config_load(&config, job, NULL, 0);
    if (status != RLF_OK) return status;
    status = toolsvc_run(transport, &config);
    rlf_config_clean_up(&config);
    return status;
}

static bool parse(bench *b, int argc, char **argv) {
    if (argc != 4 || rlf_transport_size(b->transport) != 2) return false;
    b->calls = strtol(argv[2], NULL, BASE);
    b->rate = strtol(argv[3], NULL, BASE);
    return b->calls > 0 && b->calls <= MOST && b->rate > 0 && b->rate <= MOST;
}

int main(int argc, char **argv) {
    bench b = {0};
    if (rlf_transport_new(&b.transport, &argc, &argv) != RLF_OK) {
        fprintf(stderr, "bench_observation: %s\n", rlf_error_message());
        return 1;
    }
    int rank = rlf_transport_rank(b.transport);
    bool good = parse(&b, argc, argv);
    if (!good && rank == 0) fprintf(stderr, "bench_observation: expected two ranks and JOB.yaml CALLS RATE\n");
    rlf_log_init(rank, "bench", RLF_LOG_WARN);
    rlf_status status = !good ? RLF_INVALID : rank == 0 ? run_client(&b) : run_service(b.transport, argv[1]);
    if (status != RLF_OK && good) fprintf(stderr, "bench_observation: rank %d: %s\n", rank, rlf_error_message());
    if (status != RLF_OK || rlf_transport_destroy(b.transport, BYE_MS) != RLF_OK) rlf_transport_abort(b.transport, 1);
    return 0;
}
