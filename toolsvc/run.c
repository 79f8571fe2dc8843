/* The event loop of a tool rank: the transport and libuv, turn by turn in one thread.
 *
 * MPI has no descriptor to wait for, so the loop looks at it between waits of 20 us to 4 ms: half as long after a message, twice after
 * none, so that they follow the rate of messages.
 * The waits are on libuv's own descriptor and end when a timer is due, so neither a worker that finishes nor a deadline is late;
 * what may wait is a new message to an idle rank. Each turn costs about 20 us on a busy machine: at 4 ms an idle rank takes half
 * a percent of a core. A long answer on its way out needs MPI's help on this side while the rollout rank takes it: until it is through,
 * the loop looks every half millisecond at least. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <uv.h>

#include "common/base/log.h"
#include "toolsvc/service.h"
#include "toolsvc/toolsvc.h"

enum { SHORTEST_WAIT_US = 20, LONGEST_WAIT_US = 4000, SENDING_WAIT_US = 500, MESSAGES_PER_TURN = 64, STOP_MS = 3000 };

static rlf_status send_message(void *user, int to, rlf_message_type type, const void *record) { return rlf_send(user, to, type, record); }

/* libuv starts its worker threads at first use, as many as this variable says (4 by default): as many as there are cores, but
 * not more than calls may run. */
static void choose_workers(const rlf_config *config) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN), wanted = 0;
    char text[32];
    for (size_t i = 0; i < config->n_tools; i++) wanted += config->tools[i].concurrency > 1024 ? 1024 : (long)config->tools[i].concurrency;
    if (wanted > cores) wanted = cores;
    snprintf(text, sizeof text, "%ld", wanted < 2 ? 2 : wanted);
    setenv("UV_THREADPOOL_SIZE", text, 0);
}

/* Sleeps until libuv has something or a timer is due, at most wait_us; true: there is something. */
static bool wait_for_loop(uv_loop_t *loop, long wait_us) {
    int timer_ms = uv_backend_timeout(loop);
    if (timer_ms >= 0 && timer_ms * 1000L < wait_us) wait_us = timer_ms * 1000L;
    struct pollfd fd = {.fd = uv_backend_fd(loop), .events = POLLIN};
    struct timespec limit = {wait_us / 1000000, wait_us % 1000000 * 1000};
    return ppoll(&fd, 1, &limit, NULL) > 0;
}

/* Handles what has arrived; *any tells whether there was something. */
static rlf_status take_messages(rlf_transport *transport, toolsvc_service *service, rlf_received *message, bool *any) {
    *any = false;
    for (int i = 0; i < MESSAGES_PER_TURN && !toolsvc_service_stopped(service); i++) {
        bool got;
        rlf_status status = rlf_receive(transport, message, 0, &got);
        if (status != RLF_OK || !got) return status;
        *any = true;
        toolsvc_service_handle(service, message->type, message->from, message->bytes.ptr, message->bytes.len);
    }
    return RLF_OK;
}

static rlf_status serve(rlf_transport *transport, uv_loop_t *loop, toolsvc_service *service) {
    rlf_status status = RLF_OK;
    rlf_received message = {0};
    long wait_us = SHORTEST_WAIT_US;
    bool woken = true, sending = false;
    while (!toolsvc_service_stopped(service)) {
        bool any;
        RLF_TRY(take_messages(transport, service, &message, &any));
        if (any) wait_us = wait_us / 2 > SHORTEST_WAIT_US ? wait_us / 2 : SHORTEST_WAIT_US;
        uv_update_time(loop);
        if (any || woken || uv_backend_timeout(loop) == 0) uv_run(loop, UV_RUN_NOWAIT);
        if (toolsvc_service_stopped(service)) break;
        RLF_TRY(rlf_transport_poll(transport, &sending));
        if (sending && wait_us > SENDING_WAIT_US) wait_us = SENDING_WAIT_US;
        woken = wait_for_loop(loop, wait_us);
        wait_us = woken ? wait_us : wait_us * 2 > LONGEST_WAIT_US ? LONGEST_WAIT_US : wait_us * 2;
    }
    status = toolsvc_service_status(service);
out:
    rlf_str_clean_up(&message.bytes);
    return status;
}

static void report(const toolsvc_counts *n) {
    RLF_INFO("tool service stops: %zu calls (%zu bad, %zu timeouts, %zu infrastructure errors, %zu dropped), %zu scores, %zu of "
             "%zu messages malformed", n->calls,
             n->bad_calls, n->timeouts, n->infra, n->dropped, n->scores, n->malformed, n->messages);
}

rlf_status toolsvc_run(rlf_transport *transport, const rlf_config *config) {
    rlf_status status = RLF_OK;
    toolsvc_tools tools = {0};
    toolsvc_traffic *traffic = NULL;
    toolsvc_service *service = NULL;
    uv_loop_t loop;
    bool clean = true;
    choose_workers(config);
    if (uv_loop_init(&loop) != 0) return RLF_RAISE(INTERNAL, "libuv: cannot make an event loop");
    RLF_TRY(toolsvc_tools_init(&tools, &loop, config, NULL));
    RLF_TRY(toolsvc_traffic_open(&traffic, config, rlf_transport_rank(transport), &tools));
    toolsvc_service_new(&service, &loop, config, &tools, send_message, transport);
    toolsvc_service_use_traffic(service, traffic);
    rlf_control ready = {.kind = RLF_CONTROL_READY};
    status = rlf_send(transport, 0, RLF_MSG_CONTROL, &ready);
    if (status == RLF_OK) status = serve(transport, &loop, service);
    report(toolsvc_service_counts(service));
    clean = toolsvc_service_destroy(service, STOP_MS);
    rlf_status closed = toolsvc_traffic_close(traffic);
    if (status == RLF_OK) status = closed;
    if (!clean) RLF_WARN("a tool call is still running %d ms after the stop; it is left behind", (int)STOP_MS);
out:
    if (clean) {
        toolsvc_tools_clean_up(&tools);
        uv_loop_close(&loop);
    }
    return status;
}
