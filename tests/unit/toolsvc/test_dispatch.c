/* The policy of a tool: calls submitted by hand to a kind that keeps what it was given until the test finishes it. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "toolsvc/dispatch.h"
#include "toolsvc/policy.h"

/* ---- a kind in the test's hand ------------------------------------------------------------------------------------------------------- */

enum { MOST = 64 };

static struct {
    toolsvc_call *calls[MOST]; /* started and not finished */
    size_t n, starts, largest; /* calls; starts of any number; calls in the largest of them */
    int open_episodes, opened, cancelled;
    bool refuse_episodes;
} g;

static void start_held(toolsvc_call *const *calls, size_t n) {
    g.starts++;
    if (n > g.largest) g.largest = n;
    for (size_t i = 0; i < n; i++) g.calls[g.n++] = calls[i];
}

static void forget(toolsvc_call *call) {
    size_t kept = 0;
    for (size_t i = 0; i < g.n; i++)
        if (g.calls[i] != call) g.calls[kept++] = g.calls[i];
    g.n = kept;
}

static void cancel_held(toolsvc_call *call) {
    assert_true(atomic_load(&call->cancelled));
    g.cancelled++;
    forget(call);
    toolsvc_call_finish(call, RLF_CALL_INFRA, "gave up", 7);
}

static rlf_status open_episode(void *state, const toolsvc_origin *origin, void **episode) {
    (void)state;
    if (g.refuse_episodes) return RLF_RAISE(IO, "has no room for %s", origin->extra.ptr);
    *episode = &g;
    g.open_episodes++;
    g.opened++;
    return RLF_OK;
}

static void close_episode(void *state, void *episode) {
    (void)state;
    assert_ptr_equal(episode, &g);
    assert_int_equal(g.n, 0); /* none of its calls is under way */
    g.open_episodes--;
}

#define SCHEMA "{\"type\": \"object\", \"properties\": {\"x\": {}}}"
static const toolsvc_kind kind_held = {.name = "held", .parameters = SCHEMA, .start = start_held, .cancel = cancel_held, .batches = true};
static const toolsvc_kind kind_kept = {.name = "kept", .parameters = SCHEMA, .start = start_held, .cancel = cancel_held,
                                       .episode_open = open_episode, .episode_close = close_episode};
static const toolsvc_kind *const kinds[] = {&kind_held, &kind_kept, NULL};

/* ---- fixture ------------------------------------------------------------------------------------------------------------------------- */

typedef struct waiting {
    toolsvc_waiter waiter;
    int done;
    rlf_call_status status;
    size_t len; /* of the whole text */
    char text[80];
} waiting;

typedef struct fixture {
    uv_loop_t loop;
    rlf_tool_config configs[2];
    rlf_config config;
    toolsvc_tools tools;
    toolsvc_dispatch *dispatch;
    toolsvc_session *sessions;
    waiting w[MOST];
} fixture;

static void on_done(toolsvc_waiter *waiter, rlf_call_status status, const rlf_str *text) {
    waiting *w = (waiting *)waiter;
    w->done++;
    w->status = status;
    w->len = text->len;
    snprintf(w->text, sizeof w->text, "%s", text->ptr ? text->ptr : "");
}

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    memset(&g, 0, sizeof g);
    for (int i = 0; i < 2; i++)
        f->configs[i] = (rlf_tool_config){.name = i ? "kept" : "held", .kind = i ? "kept" : "held", .timeout_ms = 60000, .concurrency = 64,
                                          .queue = 1000, .backoff_ms = 1, .batch = 1};
    f->config = (rlf_config){.tools = f->configs, .n_tools = 2};
    for (int i = 0; i < MOST; i++) f->w[i].waiter.done = on_done;
    if (uv_loop_init(&f->loop) != 0 || toolsvc_tools_init(&f->tools, &f->loop, &f->config, kinds) != RLF_OK) return -1;
    f->dispatch = toolsvc_dispatch_new(&f->loop, &f->tools, 1);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    toolsvc_dispatch_stop(f->dispatch);
    for (int i = 0; i < MOST; i++) toolsvc_dispatch_leave(&f->w[i].waiter, false);
    toolsvc_sessions_close(f->sessions);
    for (int i = 0; !toolsvc_dispatch_destroy(f->dispatch); i++) {
        if (i > 10000) return -1;
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    toolsvc_tools_clean_up(&f->tools);
    int left = uv_loop_close(&f->loop);
    if (g.open_episodes) return -1;
    free(f);
    return left;
}

/* Waiter i calls function 0 (held) or 1 (kept) with argument x. */
static void submit(fixture *f, int i, size_t function, int x) {
    toolsvc_dispatch_submit(f->dispatch, function, json_pack("{s:i}", "x", x), &f->sessions,
                            &(toolsvc_origin){.seed = 3, .extra = {"{}", 2}}, &f->w[i].waiter);
}

static int argument(size_t i) { return (int)json_integer_value(json_object_get(g.calls[i]->arguments, "x")); }

static void finish_with(size_t i, rlf_call_status status, const char *bytes, size_t n) {
    toolsvc_call *call = g.calls[i];
    forget(call);
    toolsvc_call_finish(call, status, bytes, n);
}

static void finish(size_t i, rlf_call_status status, const char *text) { finish_with(i, status, text, strlen(text)); }

/* Runs the loop until n calls are started and not finished. */
static void await_started(fixture *f, size_t n) {
    int64_t end = rlf_now_ms() + 20000;
    while (g.n != n) {
        assert_true(rlf_now_ms() < end);
        uv_run(&f->loop, UV_RUN_NOWAIT);
        rlf_sleep_us(50);
    }
}

static const toolsvc_tool_counts *counts(const fixture *f, size_t tool) { return toolsvc_dispatch_counts(f->dispatch, tool); }

/* ---- cases --------------------------------------------------------------------------------------------------------------------------- */

static void started_call_is_answered_when_it_is_finished(void **state) {
    fixture *f = *state;
    submit(f, 0, 0, 5);
    assert_int_equal(g.n, 1);
    assert_int_equal(argument(0), 5);
    assert_string_equal(g.calls[0]->text.ptr, "{\"x\":5}");
    assert_string_equal(g.calls[0]->function, "held");
    assert_int_equal(f->w[0].done, 0);
    toolsvc_call_count(g.calls[0], "oddities");
    finish(0, RLF_CALL_OK, "five");
    assert_int_equal(f->w[0].done, 1);
    assert_string_equal(f->w[0].text, "five");
    submit(f, 1, 0, 6);
    finish(0, RLF_CALL_TOOL_ERROR, "no such thing");
    assert_int_equal(f->w[1].status, RLF_CALL_TOOL_ERROR);
    assert_string_equal(f->w[1].text, "error: no such thing");
}

/* Bytes that are no text grow to three on their way into the answer. */
static void answer_that_no_message_holds_is_an_infra_error(void **state) {
    fixture *f = *state;
    size_t most = RLF_MSG_MAX_TEXT / 3 * 3;
    char *bytes = rlf_calloc(most, 1);
    submit(f, 0, 0, 1);
    finish_with(0, RLF_CALL_OK, bytes, most / 3);
    assert_int_equal(f->w[0].status, RLF_CALL_OK);
    assert_int_equal(f->w[0].len, most);
    static const rlf_call_status statuses[] = {RLF_CALL_OK, RLF_CALL_TOOL_ERROR};
    for (int i = 1; i <= 2; i++) {
        submit(f, i, 0, 1);
        finish_with(0, statuses[i - 1], bytes, most / 3 + (i == 1));
        assert_int_equal(f->w[i].status, RLF_CALL_INFRA);
        assert_string_equal(f->w[i].text, "error: the answer is larger than 16 MiB as text, which is the most");
    }
    assert_int_equal(counts(f, 0)->infra_errors, 2);
    free(bytes);
}

static void arguments_have_one_text(void **state) {
    fixture *f = *state;
    json_t *arguments = json_loads("{\"b\": 0.1, \"a\": [{\"z\": 1.0, \"y\": \"\\u00e4\"}], \"B\": 1e300}", 0, NULL);
    toolsvc_dispatch_submit(f->dispatch, 0, arguments, &f->sessions, &(toolsvc_origin){.extra = {"", 0}}, &f->w[0].waiter);
    assert_string_equal(g.calls[0]->text.ptr, "{\"B\":1e+300,\"a\":[{\"y\":\"\xc3\xa4\",\"z\":1.0}],\"b\":0.1}");
}

static void only_infra_errors_are_tried_again(void **state) {
    fixture *f = *state;
    f->configs[0].retries = 2;
    submit(f, 0, 0, 1);
    submit(f, 1, 0, 2);
    finish(1, RLF_CALL_TOOL_ERROR, "final");
    assert_int_equal(f->w[1].done, 1);
    finish(0, RLF_CALL_INFRA, "refused");
    assert_int_equal(f->w[0].done, 0);
    await_started(f, 1);
    finish(0, RLF_CALL_INFRA, "refused");
    await_started(f, 1);
    finish(0, RLF_CALL_OK, "at last");
    assert_int_equal(f->w[0].status, RLF_CALL_OK);
    assert_string_equal(f->w[0].text, "at last");
    submit(f, 2, 0, 3);
    for (int i = 0; i < 3; i++) {
        await_started(f, 1);
        finish(0, RLF_CALL_INFRA, "reset");
    }
    assert_int_equal(f->w[2].status, RLF_CALL_INFRA);
    assert_string_equal(f->w[2].text, "error: reset");
    assert_int_equal(counts(f, 0)->retries, 4);
    assert_int_equal(counts(f, 0)->infra_errors, 5);
    assert_int_equal(counts(f, 0)->runs, 7);
}

static void call_that_backs_off_can_be_left(void **state) {
    fixture *f = *state;
    f->configs[0].retries = 2, f->configs[0].backoff_ms = 60000;
    submit(f, 0, 0, 1);
    finish(0, RLF_CALL_INFRA, "refused");
    toolsvc_dispatch_leave(&f->w[0].waiter, true);
    assert_int_equal(f->w[0].done, 0);
    assert_int_equal(counts(f, 0)->cancelled, 1);
}

static void left_call_is_told_to_give_up(void **state) {
    fixture *f = *state;
    f->configs[0].concurrency = 1;
    submit(f, 0, 0, 1);
    submit(f, 1, 0, 2);
    toolsvc_dispatch_leave(&f->w[0].waiter, true);
    assert_int_equal(g.cancelled, 1);
    assert_int_equal(f->w[0].done, 0);
    assert_int_equal(g.n, 1); /* its place went to the next */
    assert_int_equal(argument(0), 2);
    finish(0, RLF_CALL_OK, "ok");
    assert_int_equal(f->w[1].done, 1);
}

static void full_queue_refuses(void **state) {
    fixture *f = *state;
    f->configs[0].concurrency = 1, f->configs[0].queue = 2, f->configs[0].retries = 3;
    for (int i = 0; i < 4; i++) submit(f, i, 0, i);
    assert_int_equal(f->w[3].status, RLF_CALL_INFRA);
    assert_string_equal(f->w[3].text, "error: held has too many calls waiting");
    for (int i = 0; i < 3; i++) finish(0, RLF_CALL_OK, "ok");
    assert_int_equal(f->w[0].done + f->w[1].done + f->w[2].done, 3);
    assert_int_equal(counts(f, 0)->queue_full, 1);
    f->configs[0].queue = 0;
    submit(f, 4, 0, 4); /* starts at once: needs no room */
    submit(f, 5, 0, 5);
    assert_int_equal(g.n, 1);
    assert_int_equal(f->w[5].status, RLF_CALL_INFRA);
}

static void identical_calls_in_flight_run_once(void **state) {
    fixture *f = *state;
    f->configs[0].merge = true;
    submit(f, 0, 0, 1);
    submit(f, 1, 0, 1);
    submit(f, 2, 0, 2);
    submit(f, 3, 0, 1);
    assert_int_equal(g.n, 2);
    toolsvc_dispatch_leave(&f->w[0].waiter, false);
    assert_int_equal(g.cancelled, 0); /* others still wait for it */
    finish(0, RLF_CALL_OK, "one");
    assert_string_equal(f->w[1].text, "one");
    assert_string_equal(f->w[3].text, "one");
    assert_int_equal(f->w[0].done + f->w[2].done, 0);
    submit(f, 4, 0, 1); /* the former is over */
    assert_int_equal(g.n, 2);
    toolsvc_dispatch_leave(&f->w[4].waiter, false);
    assert_int_equal(g.cancelled, 1);
    submit(f, 5, 0, 1); /* not the one that was given up */
    assert_int_equal(g.n, 2);
    assert_int_equal(counts(f, 0)->merged, 2);
}

static void cached_answers_are_not_asked_for_again(void **state) {
    fixture *f = *state;
    toolsvc_cache_close(f->tools.v[0].cache);
    f->configs[0].cache_entries = 10;
    assert_ok(toolsvc_cache_open(&f->tools.v[0].cache, &f->configs[0]));
    submit(f, 0, 0, 1);
    finish(0, RLF_CALL_OK, "one");
    submit(f, 1, 0, 1);
    assert_int_equal(g.n, 0);
    assert_string_equal(f->w[1].text, "one");
    submit(f, 2, 0, 2);
    finish(0, RLF_CALL_TOOL_ERROR, "two");
    submit(f, 3, 0, 2); /* an error is never kept */
    assert_int_equal(g.n, 1);
    assert_int_equal(counts(f, 0)->cache_hits, 1);
    assert_int_equal(counts(f, 0)->runs, 3);
}

static void calls_of_a_short_window_go_out_together(void **state) {
    fixture *f = *state;
    f->configs[0].batch = 4, f->configs[0].batch_ms = 20, f->configs[0].retries = 1;
    for (int i = 0; i < 6; i++) submit(f, i, 0, i);
    assert_int_equal(g.n, 4); /* a full batch does not wait */
    assert_int_equal(g.starts, 1);
    await_started(f, 6);
    assert_int_equal(g.starts, 2);
    assert_int_equal(g.largest, 4);
    for (int i = 0; i < 6; i++) assert_int_equal(argument((size_t)i), i);
    while (g.n) finish(0, RLF_CALL_INFRA, "one of them is poison"); /* retries go alone */
    await_started(f, 6);
    assert_int_equal(g.starts, 8);
    while (g.n) finish(0, RLF_CALL_OK, "ok");
    for (int i = 0; i < 6; i++) assert_int_equal(f->w[i].status, RLF_CALL_OK);
    assert_int_equal(counts(f, 0)->batches, 2);
}

static void batch_holds_one_place(void **state) {
    fixture *f = *state;
    f->configs[0].batch = 2, f->configs[0].batch_ms = 1000, f->configs[0].concurrency = 1;
    for (int i = 0; i < 4; i++) submit(f, i, 0, i);
    assert_int_equal(g.n, 2);
    finish(0, RLF_CALL_OK, "ok");
    assert_int_equal(g.n, 1); /* the place is taken until the whole batch is back */
    finish(0, RLF_CALL_OK, "ok");
    await_started(f, 2);
    assert_int_equal(argument(0), 2);
}

static void rate_spreads_starts(void **state) {
    fixture *f = *state;
    f->configs[0].per_second = 20;
    int64_t begin = rlf_now_ms();
    for (int i = 0; i < 24; i++) submit(f, i, 0, i);
    assert_int_equal(g.n, 20);
    await_started(f, 24);
    assert_true(rlf_now_ms() - begin >= 190);
    toolsvc_rate rate = {0};
    for (int i = 0; i < 3; i++) assert_int_equal(toolsvc_rate_take(&rate, 3, 0), 0);
    assert_int_equal(toolsvc_rate_take(&rate, 3, 0), 333333334);
    assert_int_equal(toolsvc_rate_take(&rate, 3, 333333334), 0);
    rate = (toolsvc_rate){0};
    assert_int_equal(toolsvc_rate_take(&rate, 0.5, 0), 0);
    assert_int_equal(toolsvc_rate_take(&rate, 0.5, 1000000000), 1000000000);
}

static void breaker_opens_probes_and_closes(void **state) {
    (void)state;
    rlf_tool_config config = {.breaker_failures = 2, .breaker_reset_ms = 10};
    const int64_t ms = 1000000;
    toolsvc_breaker b = {0};
    assert_false(toolsvc_breaker_note(&b, &config, true, 0));
    assert_false(toolsvc_breaker_note(&b, &config, false, 0)); /* in a row */
    assert_false(toolsvc_breaker_note(&b, &config, true, 0));
    assert_true(toolsvc_breaker_admits(&b, &config, 0));
    assert_true(toolsvc_breaker_note(&b, &config, true, ms));
    assert_false(toolsvc_breaker_admits(&b, &config, 5 * ms));
    assert_true(toolsvc_breaker_admits(&b, &config, 11 * ms)); /* the probe, once it starts */
    assert_true(toolsvc_breaker_admits(&b, &config, 11 * ms));
    toolsvc_breaker_start(&b);
    assert_false(toolsvc_breaker_admits(&b, &config, 11 * ms));
    assert_false(toolsvc_breaker_note(&b, &config, true, 12 * ms));
    assert_false(toolsvc_breaker_admits(&b, &config, 21 * ms));
    assert_true(toolsvc_breaker_admits(&b, &config, 22 * ms));
    toolsvc_breaker_start(&b);
    assert_false(toolsvc_breaker_note(&b, &config, false, 23 * ms));
    assert_true(toolsvc_breaker_admits(&b, &config, 23 * ms));
    toolsvc_breaker_start(&b);
    assert_true(toolsvc_breaker_admits(&b, &config, 23 * ms));
}

static void tool_out_of_service_fails_at_once(void **state) {
    fixture *f = *state;
    f->configs[0].breaker_failures = 2, f->configs[0].breaker_reset_ms = 30;
    submit(f, 0, 0, 0);
    submit(f, 1, 0, 1);
    finish(0, RLF_CALL_INFRA, "down");
    toolsvc_dispatch_leave(&f->w[1].waiter, true); /* a deadline that passed counts as a failure */
    submit(f, 2, 0, 2);
    assert_int_equal(f->w[2].status, RLF_CALL_INFRA);
    assert_string_equal(f->w[2].text, "error: held is out of service: too many failures in a row");
    assert_int_equal(g.n, 0);
    rlf_sleep_us(40000);
    submit(f, 3, 0, 3);
    submit(f, 4, 0, 4);
    assert_int_equal(g.n, 1); /* the probe */
    assert_int_equal(f->w[4].status, RLF_CALL_INFRA);
    finish(0, RLF_CALL_OK, "up");
    submit(f, 5, 0, 5);
    assert_int_equal(g.n, 1);
    assert_int_equal(counts(f, 0)->breaker_opened, 1);
    assert_int_equal(counts(f, 0)->breaker_refused, 2);
}

static void probe_may_wait_for_its_rate(void **state) {
    fixture *f = *state;
    f->configs[0].breaker_failures = 1, f->configs[0].per_second = 20;
    for (int i = 0; i < 20; i++) submit(f, i, 0, i); /* all that a second has */
    while (g.n) finish(0, RLF_CALL_INFRA, "down");
    submit(f, 20, 0, 20);
    await_started(f, 1);
    finish(0, RLF_CALL_OK, "up");
    submit(f, 21, 0, 21);
    await_started(f, 1);
}

static void probe_that_gets_no_episode_is_none(void **state) {
    fixture *f = *state;
    f->configs[1].breaker_failures = 1;
    submit(f, 0, 1, 0);
    finish(0, RLF_CALL_INFRA, "down");
    toolsvc_sessions_close(f->sessions);
    f->sessions = NULL;
    g.refuse_episodes = true;
    submit(f, 1, 1, 1);
    assert_string_equal(f->w[1].text, "error: kept has no room for {}");
    g.refuse_episodes = false;
    submit(f, 2, 1, 2);
    assert_int_equal(g.n, 1);
}

static void calls_of_an_episode_run_one_by_one_in_order(void **state) {
    fixture *f = *state;
    toolsvc_session *other = NULL;
    f->configs[1].retries = 3;
    for (int i = 0; i < 3; i++) submit(f, i, 1, i);
    toolsvc_dispatch_submit(f->dispatch, 1, json_pack("{s:i}", "x", 9), &other, &(toolsvc_origin){.extra = {"", 0}}, &f->w[9].waiter);
    assert_int_equal(g.opened, 2);
    assert_int_equal(g.n, 2); /* one of each episode */
    finish(1, RLF_CALL_OK, "");
    for (int i = 0; i < 3; i++) {
        await_started(f, 1);
        assert_int_equal(argument(0), i);
        assert_ptr_equal(g.calls[0]->episode, &g);
        finish(0, i == 1 ? RLF_CALL_INFRA : RLF_CALL_OK, "x"); /* never tried again: its state may have changed */
    }
    assert_int_equal(f->w[1].status, RLF_CALL_INFRA);
    assert_int_equal(counts(f, 1)->retries, 0);
    assert_int_equal(g.open_episodes, 2);
    toolsvc_sessions_close(other);
    assert_int_equal(g.open_episodes, 1);
}

static void episode_is_closed_when_its_last_call_is_back(void **state) {
    fixture *f = *state;
    submit(f, 0, 1, 0);
    submit(f, 1, 1, 1);
    toolsvc_dispatch_leave(&f->w[1].waiter, false);
    toolsvc_dispatch_leave(&f->w[0].waiter, false);
    toolsvc_sessions_close(f->sessions);
    f->sessions = NULL;
    assert_int_equal(g.open_episodes, 0);
    assert_int_equal(g.cancelled, 1);
    g.refuse_episodes = true;
    submit(f, 2, 1, 2);
    assert_int_equal(f->w[2].status, RLF_CALL_INFRA);
    assert_string_equal(f->w[2].text, "error: kept has no room for {}");
}

static void backoff_doubles_and_its_jitter_is_seeded(void **state) {
    (void)state;
    rlf_tool_config config = {.backoff_ms = 100};
    for (int64_t attempt = 1, base = 100; attempt < 8; attempt++, base *= 2) {
        double ms = toolsvc_backoff_ms(&config, 7, "{}", 2, attempt);
        assert_true(ms >= (double)base / 2 && ms < (double)base);
        assert_true(ms == toolsvc_backoff_ms(&config, 7, "{}", 2, attempt));
        assert_true(ms != toolsvc_backoff_ms(&config, 8, "{}", 2, attempt));
        assert_true(ms != toolsvc_backoff_ms(&config, 7, "[]", 2, attempt));
    }
    assert_true(toolsvc_backoff_ms(&config, 7, "{}", 2, 99) < 60000);
}

int main(void) {
    rlf_log_init(-1, "test", RLF_LOG_ERROR + 1);
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(started_call_is_answered_when_it_is_finished),
        CASE(answer_that_no_message_holds_is_an_infra_error),
        CASE(arguments_have_one_text),
        CASE(only_infra_errors_are_tried_again),
        CASE(call_that_backs_off_can_be_left),
        CASE(left_call_is_told_to_give_up),
        CASE(full_queue_refuses),
        CASE(identical_calls_in_flight_run_once),
        CASE(cached_answers_are_not_asked_for_again),
        CASE(calls_of_a_short_window_go_out_together),
        CASE(batch_holds_one_place),
        CASE(rate_spreads_starts),
        CASE(tool_out_of_service_fails_at_once),
        CASE(probe_may_wait_for_its_rate),
        CASE(probe_that_gets_no_episode_is_none),
        CASE(calls_of_an_episode_run_one_by_one_in_order),
        CASE(episode_is_closed_when_its_last_call_is_back),
        cmocka_unit_test(breaker_opens_probes_and_closes),
        cmocka_unit_test(backoff_doubles_and_its_jitter_is_seeded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
