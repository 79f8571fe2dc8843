/* The tool service over the real transport: rank 0 is coordinator and client, ranks 1..TOOLS serve, the rest are further
 * clients. Clients open episodes on every tool rank, call, score and close, interleaved, and check every answer; then rank 0
 * stops the service. All ranks vote before the verdict.
 *
 *   test_toolsvc          the calls go to a calculator
 *   test_toolsvc python   they go to an interpreter per episode, each of which keeps what the first call gave it */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "toolsvc/toolsvc.h"

enum { EPISODES = 20, CALLS = 3, WAIT_MS = 30000 };

static rlf_transport *g_t;
static rlf_tool_config g_tool = {.name = "calc", .kind = "calculator", .timeout_ms = 20000, .concurrency = 4, .queue = 1000,
                                 .latency_median_ms = 5, .latency_p99_ms = 50};
static const rlf_tool_config g_python = {.name = "calc", .kind = "python", .timeout_ms = 20000, .concurrency = 64, .queue = 1000, .path = "",
                                        .sandbox = "namespaces", .memory_mb = 256, .processes = 8, .cpu_s = 20, .scratch_mb = 8,
                                        .output_bytes = 1000, .workers = 2};
static bool g_interpreted;
static const rlf_config g_config = {.tools = &g_tool, .n_tools = 1, .episode = {.tool_format = (char *)"hermes"}, .reward = {.exact_match = 1},
                                    .deadline = {.message_s = 60}};

/* Half of the ranks after the first, at least one. */
static int tools_of(int size) { return size < 4 ? 1 : (size - 1) / 2; }

static double cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static bool send_calls(int to, int64_t uid) {
    rlf_open open = {.uid = uid, .seed = 3, .extra = {"", 0}};
    bool ok = rlf_send(g_t, to, RLF_MSG_OPEN, &open) == RLF_OK;
    for (int64_t i = 0; i < CALLS; i++) {
        char arguments[64];
        if (!g_interpreted) snprintf(arguments, sizeof arguments, "{\"expression\": \"%lld * 10 + %lld\"}", (long long)uid, (long long)i);
        else if (i == 0) snprintf(arguments, sizeof arguments, "{\"code\": \"x = %lld; x\"}", (long long)uid * 10);
        else snprintf(arguments, sizeof arguments, "{\"code\": \"x += 1; x\"}");
        rlf_call call = {.uid = uid, .call = i, .tool = rlf_slice_of("calc"), .arguments = rlf_slice_of(arguments)};
        ok &= rlf_send(g_t, to, RLF_MSG_CALL, &call) == RLF_OK;
    }
    return ok;
}

static bool send_score(int to, int64_t uid) {
    rlf_text turn = {rlf_slice_of("<answer> The 42 </answer>")}, target = {rlf_slice_of("42")};
    rlf_score score = {.uid = uid, .finish = RLF_FINISH_ANSWER, .data_source = {"", 0}, .extra = {"", 0}};
    score.turns.v = &turn, score.turns.n = 1;
    score.targets.v = &target, score.targets.n = 1;
    rlf_close close = {.uid = uid};
    return rlf_send(g_t, to, RLF_MSG_SCORE, &score) == RLF_OK && rlf_send(g_t, to, RLF_MSG_CLOSE, &close) == RLF_OK;
}

/* What a client has seen so far. */
typedef struct client {
    int tools, done; /* other clients that are through */
    int64_t base;    /* its uids: base.. */
    int answers[EPISODES];
    int rewards, ready, stopped;
    bool ok;
} client;

static void take_observation(client *c, int from, const rlf_observation *o) {
    char wanted[32];
    snprintf(wanted, sizeof wanted, "%lld%s", (long long)(o->uid * 10 + o->call), g_interpreted ? "\n" : "");
    int64_t e = o->uid - c->base;
    c->ok = c->ok && e >= 0 && e < EPISODES && o->status == RLF_CALL_OK && rlf_slice_eq(o->text, wanted) && from == 1 + (int)e % c->tools;
    if (c->ok && ++c->answers[e] == CALLS) c->ok = send_score(from, o->uid);
}

static void take_reward(client *c, const rlf_reward *r) {
    c->ok = c->ok && r->components.n == 3 && rlf_slice_eq(r->components.v[0].name, "exact_match") && r->components.v[0].value == 1;
    c->rewards++;
}

static void take(client *c, const rlf_received *m, rlf_arena *arena) {
    union {
        rlf_observation observation;
        rlf_reward reward;
        rlf_control control;
        rlf_heartbeat heartbeat;
    } u;
    rlf_arena_reset(arena);
    c->ok = c->ok && rlf_message_decode(m->type, m->bytes.ptr, m->bytes.len, m->from, arena, &u) == RLF_OK;
    if (!c->ok) return;
    if (m->type == RLF_MSG_OBSERVATION) take_observation(c, m->from, &u.observation);
    if (m->type == RLF_MSG_REWARD) take_reward(c, &u.reward);
    if (m->type != RLF_MSG_CONTROL) return;
    c->ready += u.control.kind == RLF_CONTROL_READY;
    c->stopped += u.control.kind == RLF_CONTROL_STOPPED;
    c->done += u.control.kind == RLF_CONTROL_SAVED;
}

static void take_next(client *c, rlf_received *m, rlf_arena *arena) {
    bool got = false;
    c->ok = rlf_receive(g_t, m, WAIT_MS, &got) == RLF_OK && got;
    if (c->ok) take(c, m, arena);
}

static bool run_client(int rank, int size) {
    client c = {.tools = tools_of(size), .base = (rank + 1) * 1000, .ok = true};
    int others = rank == 0 ? size - 1 - c.tools : 0;
    rlf_received m = {0};
    rlf_arena arena = {0};
    for (int64_t e = 0; e < EPISODES; e++) c.ok &= send_calls(1 + (int)e % c.tools, c.base + e);
    while (c.ok && (c.rewards < EPISODES || c.done < others || (rank == 0 && c.ready < c.tools))) take_next(&c, &m, &arena);
    rlf_control done = {.kind = RLF_CONTROL_SAVED, .text = {"", 0}}, stop = {.kind = RLF_CONTROL_STOP, .text = {"", 0}};
    if (rank != 0) c.ok &= rlf_send(g_t, 0, RLF_MSG_CONTROL, &done) == RLF_OK;
    if (rank == 0) rlf_sleep_us(2000000); /* the service idles: its cost is printed */
    for (int i = 1; rank == 0 && i <= c.tools; i++) c.ok &= rlf_send(g_t, i, RLF_MSG_CONTROL, &stop) == RLF_OK;
    while (c.ok && rank == 0 && c.stopped < c.tools) take_next(&c, &m, &arena);
    rlf_str_clean_up(&m.bytes);
    rlf_arena_clean_up(&arena);
    return c.ok;
}

static bool run_service(void) {
    double cpu = cpu_s(), wall = rlf_now_s();
    bool ok = toolsvc_run(g_t, &g_config) == RLF_OK;
    cpu = cpu_s() - cpu;
    wall = rlf_now_s() - wall;
    fprintf(stderr, "tool rank: %.2f %% of a core over %.1f s\n", 100 * cpu / wall, wall);
    return ok && cpu < 0.25 * wall; /* catches a busy loop, not a slow machine */
}

/* The same on every rank: they share a machine. */
static bool can_interpret(void) {
    rlf_str schemas = {0};
    bool can = toolsvc_describe(&g_config, &schemas) == RLF_OK;
    rlf_str_clean_up(&schemas);
    return can;
}

static int leave_skipped(int rank) {
    if (rank == 0) printf("skipped: %s\n", rlf_error_message());
    if (rlf_transport_destroy(g_t, 10000) != RLF_OK) rlf_transport_abort(g_t, 1);
    return 0;
}

int main(int argc, char **argv) {
    if (rlf_transport_new(&g_t, &argc, &argv) != RLF_OK) {
        fprintf(stderr, "%s\n", rlf_error_message());
        return 1;
    }
    int rank = rlf_transport_rank(g_t), size = rlf_transport_size(g_t);
    g_interpreted = argc > 1 && strcmp(argv[1], "python") == 0;
    if (g_interpreted) g_tool = g_python;
    if (g_interpreted && !can_interpret()) return leave_skipped(rank);
    bool serves = rank >= 1 && rank <= tools_of(size);
    rlf_log_init(rank, serves ? "toolsvc" : "client", RLF_LOG_WARN);
    int mine = serves ? run_service() : run_client(rank, size), all = 0;
    if (!mine) fprintf(stderr, "rank %d failed: %s\n", rank, rlf_error_message());
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
    if (rlf_transport_destroy(g_t, 10000) != RLF_OK) rlf_transport_abort(g_t, 1);
    if (rank == 0) printf("%s every_call_and_score_is_answered_to_its_rank\n", all ? "ok" : "FAILED");
    return all ? 0 : 1;
}
