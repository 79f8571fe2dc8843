/* The service without a transport: messages in by hand, answers caught by a callback, tools that block until the test lets them go. */
#include "tests/test.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "toolsvc/service.h"

/* ---- a tool that the test holds back ------------------------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open;              /* calls of "gate" may end */
    int running, most, ran; /* calls inside, at most at once, and ended */
} g_gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, true, 0, 0, 0};

static void set_gate(bool open) {
    pthread_mutex_lock(&g_gate.lock);
    g_gate.open = open;
    pthread_cond_broadcast(&g_gate.changed);
    pthread_mutex_unlock(&g_gate.lock);
}

/* Answers with its argument once the gate is open or nobody waits. */
static rlf_call_status run_gate(const toolsvc_call *call, rlf_str *out) {
    pthread_mutex_lock(&g_gate.lock);
    if (++g_gate.running > g_gate.most) g_gate.most = g_gate.running;
    while (!g_gate.open && !atomic_load(&call->cancelled)) {
        pthread_mutex_unlock(&g_gate.lock);
        rlf_sleep_us(200);
        pthread_mutex_lock(&g_gate.lock);
    }
    g_gate.running--;
    g_gate.ran++;
    pthread_mutex_unlock(&g_gate.lock);
    rlf_str_puts(out, json_string_value(json_object_get(call->arguments, "text")));
    return RLF_CALL_OK;
}

static rlf_call_status run_broken(const toolsvc_call *call, rlf_str *out) {
    (void)call;
    rlf_str_append(out, "half \xff\xfe", 7);
    return RLF_CALL_TOOL_ERROR;
}

/* A program that is started again when one of its calls is given up: the others end with it. */
static struct {
    toolsvc_call *calls[8];
    size_t n;
} g_herd;

static void start_herd(toolsvc_call *const *calls, size_t n) {
    for (size_t i = 0; i < n; i++) g_herd.calls[g_herd.n++] = calls[i];
}

static void cancel_herd(toolsvc_call *call) {
    (void)call;
    while (g_herd.n) toolsvc_call_finish(g_herd.calls[--g_herd.n], RLF_CALL_INFRA, "it ended", 8);
}

#define TEXT_SCHEMA "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"}},\"required\":[\"text\"]}"
static const toolsvc_kind kind_gate = {.name = "gate", .description = "", .parameters = TEXT_SCHEMA, .run = run_gate};
static const toolsvc_kind kind_broken = {.name = "broken", .description = "", .parameters = TEXT_SCHEMA, .run = run_broken};
static const toolsvc_kind kind_herd = {.name = "herd", .description = "", .parameters = TEXT_SCHEMA, .start = start_herd, .cancel = cancel_herd};
static const toolsvc_kind *const kinds[] = {&kind_gate, &kind_broken, &kind_herd, NULL};

/* ---- fixture ----------------------------------------------------------------------------------------------------------------- */

enum { MOST_ANSWERS = 256 };

typedef struct caught {
    int to;
    rlf_message_type type;
    int64_t uid, turn, call, status;
    size_t components;
    char text[256];
} caught;

typedef struct fixture {
    uv_loop_t loop;
    rlf_tool_config tool_configs[3];
    rlf_config config;
    toolsvc_tools tools;
    toolsvc_service *service;
    caught answers[MOST_ANSWERS];
    size_t n;
    bool fail_sends, told_stopped;
    int heartbeats;
} fixture;

static rlf_status catch_answer(void *user, int to, rlf_message_type type, const void *record) {
    fixture *f = user;
    if (f->fail_sends) return RLF_RAISE(PEER, "the wire is cut");
    if (type == RLF_MSG_CONTROL) f->told_stopped = ((const rlf_control *)record)->kind == RLF_CONTROL_STOPPED && f->heartbeats > 0;
    f->heartbeats += type == RLF_MSG_HEARTBEAT;
    if (type == RLF_MSG_HEARTBEAT || type == RLF_MSG_CONTROL) return RLF_OK;
    assert_true(f->n < MOST_ANSWERS);
    caught *a = &f->answers[f->n++];
    *a = (caught){.to = to, .type = type};
    if (type == RLF_MSG_OBSERVATION) {
        const rlf_observation *o = record;
        a->uid = o->uid, a->turn = o->turn, a->call = o->call, a->status = o->status;
        snprintf(a->text, sizeof a->text, "%.*s", (int)o->text.len, o->text.ptr);
    } else {
        const rlf_reward *r = record;
        assert_int_equal(type, RLF_MSG_REWARD);
        a->uid = r->uid, a->status = r->status, a->components = r->components.n;
    }
    return RLF_OK;
}

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    f->tool_configs[0] = (rlf_tool_config){.name = "gate", .kind = "gate", .timeout_ms = 60000, .concurrency = 64, .queue = 1000};
    f->tool_configs[1] = (rlf_tool_config){.name = "broken", .kind = "broken", .timeout_ms = 60000, .concurrency = 64, .queue = 1000};
    f->tool_configs[2] = (rlf_tool_config){.name = "herd", .kind = "herd", .timeout_ms = 60000, .concurrency = 64, .queue = 1000};
    f->config = (rlf_config){.tools = f->tool_configs, .n_tools = 3, .reward = {.exact_match = 1}, .episode = {.tool_format = "auto"},
                             .deadline = {.message_s = 1}};
    g_gate.open = true;
    g_gate.running = g_gate.most = g_gate.ran = 0;
    if (uv_loop_init(&f->loop) != 0 || toolsvc_tools_init(&f->tools, &f->loop, &f->config, kinds) != RLF_OK) return -1;
    toolsvc_service_new(&f->service, &f->loop, &f->config, &f->tools, catch_answer, f);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    set_gate(true);
    if (f->service && !toolsvc_service_destroy(f->service, 5000)) return -1;
    toolsvc_tools_clean_up(&f->tools);
    int left = uv_loop_close(&f->loop); /* busy if a handle was left open */
    free(f);
    return left;
}

static void give(fixture *f, rlf_message_type type, const void *record) {
    rlf_str bytes = {0};
    rlf_message_encode(type, record, &bytes);
    toolsvc_service_handle(f->service, type, 5, bytes.ptr, bytes.len);
    rlf_str_clean_up(&bytes);
}

static void give_open(fixture *f, int64_t uid) { give(f, RLF_MSG_OPEN, &(rlf_open){.uid = uid, .seed = 1, .extra = {"", 0}}); }

static void give_call(fixture *f, int64_t uid, int64_t call, const char *tool, const char *arguments) {
    give(f, RLF_MSG_CALL, &(rlf_call){.uid = uid, .turn = 2, .call = call, .tool = rlf_slice_of(tool),
                                      .arguments = rlf_slice_of(arguments)});
}

/* Runs the loop until n answers were caught. */
static void await(fixture *f, size_t n) {
    int64_t deadline = rlf_now_ms() + 20000;
    while (f->n < n) {
        assert_true(rlf_now_ms() < deadline);
        uv_run(&f->loop, UV_RUN_NOWAIT);
        rlf_sleep_us(100);
    }
    assert_int_equal(f->n, n);
}

/* The coordinator watches a tool rank that has nothing to do. */
static void an_idle_service_shows_that_it_is_there(void **state) {
    fixture *f = *state;
    for (int64_t deadline = rlf_now_ms() + 20000; f->heartbeats < 2; rlf_sleep_us(1000)) {
        assert_true(rlf_now_ms() < deadline);
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
}

static void await_running(int n) {
    int64_t deadline = rlf_now_ms() + 20000;
    for (int running = -1; running != n; rlf_sleep_us(100)) {
        assert_true(rlf_now_ms() < deadline);
        pthread_mutex_lock(&g_gate.lock);
        running = g_gate.running;
        pthread_mutex_unlock(&g_gate.lock);
    }
}

/* ---- cases ------------------------------------------------------------------------------------------------------------------- */

static void call_is_answered_to_its_sender(void **state) {
    fixture *f = *state;
    give_open(f, 7);
    give_call(f, 7, 3, "gate", "{\"text\": \"hello\"}");
    await(f, 1);
    const caught *a = &f->answers[0];
    assert_int_equal(a->to, 5);
    assert_int_equal(a->uid, 7);
    assert_int_equal(a->turn, 2);
    assert_int_equal(a->call, 3);
    assert_int_equal(a->status, RLF_CALL_OK);
    assert_string_equal(a->text, "hello");
    assert_int_equal(toolsvc_service_outstanding(f->service), 0);
}

static void error_of_a_tool_is_told_as_valid_utf8(void **state) {
    fixture *f = *state;
    give_open(f, 1);
    give_call(f, 1, 0, "broken", "{\"text\": \"\"}");
    await(f, 1);
    assert_int_equal(f->answers[0].status, RLF_CALL_TOOL_ERROR);
    assert_string_equal(f->answers[0].text, "error: half \xef\xbf\xbd\xef\xbf\xbd");
}

static void bad_call_never_runs(void **state) {
    fixture *f = *state;
    give_open(f, 1);
    give_call(f, 1, 0, "nothing", "{}");
    give_call(f, 1, 1, "gate", "{\"text\": 3}");
    assert_int_equal(f->n, 2); /* at once */
    assert_int_equal(f->answers[0].status, RLF_CALL_BAD_CALL);
    assert_int_equal(f->answers[1].status, RLF_CALL_BAD_CALL);
    assert_string_equal(f->answers[1].text, "error: the argument \"text\" of gate must be a string, not a number; its parameters are " TEXT_SCHEMA);
    assert_int_equal(g_gate.ran, 0);
}

static void episode_uses_the_tools_of_its_row(void **state) {
    fixture *f = *state;
    give(f, RLF_MSG_OPEN, &(rlf_open){.uid = 1, .seed = 1, .extra = rlf_slice_of("{\"index\":3,\"tools\":[\"broken\",\"unknown\"]}")});
    give(f, RLF_MSG_OPEN, &(rlf_open){.uid = 2, .seed = 1, .extra = rlf_slice_of("{\"tools\":[]}")});
    give_open(f, 3);
    give_call(f, 1, 0, "gate", "{\"text\": \"x\"}");
    assert_int_equal(f->answers[0].status, RLF_CALL_BAD_CALL);
    assert_string_equal(f->answers[0].text, "error: there is no tool \"gate\"; the tools are: broken");
    give_call(f, 2, 0, "gate", "{\"text\": \"x\"}");
    assert_string_equal(f->answers[1].text, "error: there is no tool \"gate\"; the tools are: none");
    give_call(f, 1, 1, "broken", "{\"text\": \"x\"}");
    await(f, 3);
    assert_int_equal(f->answers[2].status, RLF_CALL_TOOL_ERROR);
    give_call(f, 3, 0, "gate", "{\"text\": \"x\"}");
    await(f, 4);
    assert_int_equal(f->answers[3].status, RLF_CALL_OK);
}

static void episode_that_is_not_open_gets_a_protocol_error(void **state) {
    fixture *f = *state;
    give_call(f, 9, 0, "gate", "{\"text\": \"x\"}");
    give(f, RLF_MSG_SCORE, &(rlf_score){.uid = 9, .data_source = {"", 0}, .extra = {"", 0}});
    assert_int_equal(f->n, 2);
    assert_int_equal(f->answers[0].status, RLF_CALL_INFRA);
    assert_non_null(strstr(f->answers[0].text, "error: protocol: CALL of episode 9"));
    assert_int_equal(f->answers[1].type, RLF_MSG_REWARD);
    assert_int_equal(f->answers[1].status, RLF_CALL_INFRA);
    assert_int_equal(f->answers[1].components, 0);
    give_open(f, 9);
    give_call(f, 9, 0, "gate", "{\"text\": \"x\"}");
    await(f, 3);
    assert_int_equal(f->answers[2].status, RLF_CALL_OK);
}

static void malformed_message_is_counted_and_the_service_lives(void **state) {
    fixture *f = *state;
    toolsvc_service_handle(f->service, RLF_MSG_CALL, 5, "\xc1junk", 5);
    toolsvc_service_handle(f->service, RLF_MSG_CALL, 5, "", 0);
    toolsvc_service_handle(f->service, RLF_MSG_BATCH, 5, "\x80", 1);
    assert_int_equal(toolsvc_service_counts(f->service)->malformed, 3);
    assert_false(toolsvc_service_stopped(f->service));
    rlf_str bytes = {0}; /* a CLOSE has a SCORE's first keys alone: enough to tell its sender */
    rlf_message_encode(RLF_MSG_CLOSE, &(rlf_close){.uid = 8}, &bytes);
    toolsvc_service_handle(f->service, RLF_MSG_SCORE, 5, bytes.ptr, bytes.len);
    rlf_str_clean_up(&bytes);
    assert_int_equal(f->n, 1);
    assert_int_equal(f->answers[0].uid, 8);
    assert_int_equal(f->answers[0].status, RLF_CALL_INFRA);
    give_open(f, 1);
    give_call(f, 1, 0, "gate", "{\"text\": \"still\"}");
    await(f, 2);
    assert_string_equal(f->answers[1].text, "still");
}

static void deadline_passes_and_the_late_result_is_dropped(void **state) {
    fixture *f = *state;
    f->tool_configs[0].timeout_ms = 30;
    set_gate(false);
    give_open(f, 1);
    give_call(f, 1, 0, "gate", "{\"text\": \"late\"}");
    await(f, 1);
    assert_int_equal(f->answers[0].status, RLF_CALL_TIMEOUT);
    assert_string_equal(f->answers[0].text, "error: gate did not answer within 30 ms");
    assert_int_equal(toolsvc_service_outstanding(f->service), 0);
    set_gate(true);
    await_running(0);
    give_call(f, 1, 1, "gate", "{\"text\": \"next\"}");
    await(f, 2);
    assert_string_equal(f->answers[1].text, "next");
}

static void concurrency_of_a_tool_is_kept(void **state) {
    fixture *f = *state;
    f->tool_configs[0].concurrency = 2;
    set_gate(false);
    give_open(f, 1);
    for (int i = 0; i < 6; i++) give_call(f, 1, i, "gate", "{\"text\": \"x\"}");
    await_running(2);
    give_call(f, 1, 6, "broken", "{\"text\": \"\"}"); /* another tool is not held up */
    await(f, 1);
    assert_int_equal(f->answers[0].call, 6);
    set_gate(true);
    await(f, 7);
    assert_int_equal(g_gate.most, 2);
    assert_int_equal(g_gate.ran, 6);
}

static void queued_call_times_out_without_running(void **state) {
    fixture *f = *state;
    f->tool_configs[0].concurrency = 1;
    set_gate(false);
    give_open(f, 1);
    give_call(f, 1, 0, "gate", "{\"text\": \"first\"}");
    f->tool_configs[0].timeout_ms = 30;
    give_call(f, 1, 1, "gate", "{\"text\": \"second\"}");
    await(f, 1);
    assert_int_equal(f->answers[0].call, 1);
    assert_int_equal(f->answers[0].status, RLF_CALL_TIMEOUT);
    set_gate(true);
    await(f, 2);
    assert_string_equal(f->answers[1].text, "first");
    assert_int_equal(g_gate.ran, 1);
}

static void closing_drops_calls_under_way(void **state) {
    fixture *f = *state;
    f->tool_configs[0].concurrency = 1;
    set_gate(false);
    give_open(f, 1);
    give_open(f, 2);
    give_call(f, 1, 0, "gate", "{\"text\": \"a\"}");
    give_call(f, 1, 1, "gate", "{\"text\": \"b\"}");
    give_call(f, 2, 0, "gate", "{\"text\": \"c\"}");
    await_running(1);
    give(f, RLF_MSG_CLOSE, &(rlf_close){.uid = 1});
    assert_int_equal(toolsvc_service_outstanding(f->service), 1);
    set_gate(true);
    await(f, 1);
    assert_string_equal(f->answers[0].text, "c");
    assert_int_equal(toolsvc_service_counts(f->service)->dropped, 2);
    give_call(f, 1, 2, "gate", "{\"text\": \"d\"}");
    assert_int_equal(f->answers[1].status, RLF_CALL_INFRA);
}

static void closing_drops_calls_that_end_with_one_another(void **state) {
    fixture *f = *state;
    give_open(f, 1);
    give_open(f, 2);
    for (int i = 0; i < 3; i++) {
        give_call(f, 1, i, "herd", "{\"text\": \"x\"}");
        give_call(f, 2, i, "herd", "{\"text\": \"x\"}");
    }
    give(f, RLF_MSG_CLOSE, &(rlf_close){.uid = 1});
    assert_int_equal(toolsvc_service_outstanding(f->service), 0);
    assert_int_equal(toolsvc_service_counts(f->service)->dropped, 1);
    assert_int_equal(f->n, 5);
    for (size_t i = 0; i < f->n; i++) assert_string_equal(f->answers[i].text, "error: it ended");
}

static void injected_latency_holds_back_the_answer(void **state) {
    fixture *f = *state;
    f->tool_configs[0].latency_median_ms = 60;
    f->tool_configs[0].concurrency = 1;
    give_open(f, 1);
    int64_t begin = rlf_now_ms();
    for (int i = 0; i < 8; i++) give_call(f, 1, i, "gate", "{\"text\": \"x\"}");
    await(f, 8);
    assert_true(rlf_now_ms() - begin >= 60); /* and side by side: one place does not make it 8 x 60 */
    assert_int_equal(g_gate.ran, 8);
}

static void latency_beyond_the_deadline_is_a_timeout(void **state) {
    fixture *f = *state;
    f->tool_configs[0].latency_median_ms = 1000;
    f->tool_configs[0].timeout_ms = 20;
    give_open(f, 1);
    give_call(f, 1, 0, "gate", "{\"text\": \"x\"}");
    await(f, 1);
    assert_int_equal(f->answers[0].status, RLF_CALL_TIMEOUT);
    assert_int_equal(g_gate.ran, 0);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void latency_is_seeded_and_log_normal(void **state) {
    (void)state;
    enum { N = 20000 };
    static double ms[N];
    rlf_tool_config tool = {.latency_median_ms = 300, .latency_p99_ms = 3000};
    for (int i = 0; i < N; i++) {
        ms[i] = toolsvc_latency_ms(&tool, 42, i, 3, 1, 2);
        assert_true(ms[i] == toolsvc_latency_ms(&tool, 42, i, 3, 1, 2));
    }
    assert_true(toolsvc_latency_ms(&tool, 42, 5, 3, 1, 2) != toolsvc_latency_ms(&tool, 42, 5, 3, 1, 3));
    assert_true(toolsvc_latency_ms(&tool, 42, 5, 3, 1, 2) != toolsvc_latency_ms(&tool, 43, 5, 3, 1, 2));
    qsort(ms, N, sizeof *ms, ascending);
    assert_true(fabs(ms[N / 2] / 300 - 1) < 0.05);
    assert_true(fabs(ms[N * 99 / 100] / 3000 - 1) < 0.15);
    tool.latency_p99_ms = 0;
    assert_true(toolsvc_latency_ms(&tool, 1, 2, 3, 4, 5) == 300);
    tool.latency_median_ms = 0;
    assert_true(toolsvc_latency_ms(&tool, 1, 2, 3, 4, 5) == 0);
}

static void score_is_rewarded_with_named_components(void **state) {
    fixture *f = *state;
    rlf_text turn = {rlf_slice_of("<answer>x</answer>")}, target = {rlf_slice_of("x")};
    rlf_score score = {.uid = 4, .data_source = {"", 0}, .extra = {"", 0}, .finish = RLF_FINISH_ANSWER};
    score.turns.v = &turn, score.turns.n = 1;
    score.targets.v = &target, score.targets.n = 1;
    give_open(f, 4);
    give(f, RLF_MSG_SCORE, &score);
    assert_int_equal(f->n, 1);
    assert_int_equal(f->answers[0].type, RLF_MSG_REWARD);
    assert_int_equal(f->answers[0].status, RLF_CALL_OK);
    assert_int_equal(f->answers[0].components, 3);
}

static void stop_ends_the_service_with_calls_under_way(void **state) {
    fixture *f = *state;
    f->tool_configs[0].concurrency = 2;
    set_gate(false);
    give_open(f, 1);
    for (int i = 0; i < 5; i++) give_call(f, 1, i, "gate", "{\"text\": \"x\"}");
    await_running(2);
    give(f, RLF_MSG_CONTROL, &(rlf_control){.kind = RLF_CONTROL_PUBLISH, .text = {"", 0}});
    assert_false(toolsvc_service_stopped(f->service));
    give(f, RLF_MSG_CONTROL, &(rlf_control){.kind = RLF_CONTROL_STOP, .text = {"", 0}});
    assert_true(toolsvc_service_stopped(f->service));
    assert_true(f->told_stopped);
    assert_ok(toolsvc_service_status(f->service));
    assert_true(toolsvc_service_destroy(f->service, 5000)); /* the gate stays shut: calls end because they are cancelled */
    f->service = NULL;
    assert_int_equal(f->n, 0);
}

static void failed_send_stops_the_service(void **state) {
    fixture *f = *state;
    give_open(f, 1);
    f->fail_sends = true;
    give_call(f, 1, 0, "nothing", "{}");
    assert_true(toolsvc_service_stopped(f->service));
    assert_int_equal(toolsvc_service_status(f->service), RLF_PEER);
}

/* Files may grow no further, as on a full disk, until they may again. */
static void let_files_grow(bool yes) {
    struct rlimit size;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &size), 0);
    size.rlim_cur = yes ? size.rlim_max : 0;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &size), 0);
}

static void a_recording_that_cannot_be_written_stops_the_service(void **state) {
    fixture *f = *state;
    toolsvc_traffic *traffic;
    char folder[] = "/tmp/rlf-service-XXXXXX", file[64];
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/rank_1.jsonl", folder);
    f->config.traffic.record = folder;
    assert_ok(toolsvc_traffic_open(&traffic, &f->config, 1, &f->tools));
    toolsvc_service_use_traffic(f->service, traffic);
    give_open(f, 7);
    give_call(f, 7, 0, "gate", "{\"text\": \"first\"}");
    await(f, 1);
    let_files_grow(false);
    give_call(f, 7, 1, "gate", "{\"text\": \"second\"}");
    for (int64_t deadline = rlf_now_ms() + 20000; !toolsvc_service_stopped(f->service) && rlf_now_ms() < deadline; rlf_sleep_us(100))
        uv_run(&f->loop, UV_RUN_NOWAIT);
    let_files_grow(true);
    assert_int_equal(toolsvc_service_status(f->service), RLF_IO);
    assert_non_null(strstr(rlf_error_message(), file));
    assert_int_equal(f->n, 1); /* what is not recorded is not answered */
    assert_ok(toolsvc_traffic_close(traffic));
    toolsvc_service_use_traffic(f->service, NULL);
    unlink(file);
    rmdir(folder);
}

int main(void) {
    rlf_log_init(-1, "test", RLF_LOG_ERROR + 1);
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(call_is_answered_to_its_sender),
        CASE(error_of_a_tool_is_told_as_valid_utf8),
        CASE(bad_call_never_runs),
        CASE(episode_uses_the_tools_of_its_row),
        CASE(episode_that_is_not_open_gets_a_protocol_error),
        CASE(malformed_message_is_counted_and_the_service_lives),
        CASE(an_idle_service_shows_that_it_is_there),
        CASE(deadline_passes_and_the_late_result_is_dropped),
        CASE(concurrency_of_a_tool_is_kept),
        CASE(queued_call_times_out_without_running),
        CASE(closing_drops_calls_under_way),
        CASE(closing_drops_calls_that_end_with_one_another),
        CASE(injected_latency_holds_back_the_answer),
        CASE(latency_beyond_the_deadline_is_a_timeout),
        CASE(score_is_rewarded_with_named_components),
        CASE(stop_ends_the_service_with_calls_under_way),
        CASE(failed_send_stops_the_service),
        CASE(a_recording_that_cannot_be_written_stops_the_service),
        cmocka_unit_test(latency_is_seeded_and_log_normal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
