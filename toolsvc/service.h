/* The logic of a tool rank, on one libuv loop, apart from the transport: messages go in through toolsvc_service_handle, answers
 * leave through a callback.
 *
 * A call:  checked -> dispatched (dispatch.h: queued, running, tried again) -> delayed (injected latency) -> answered.
 * Every call is answered exactly once, unless its episode is closed or the service stops first. When its deadline passes,
 * counted from its arrival, it is answered with status timeout wherever it is, and what its run still brings is dropped. A
 * delayed call holds none of its tool's places.
 *
 * No content of a message ends the service: what can't be decoded is logged and counted; a CALL or SCORE for an episode that is
 * not open is answered with status infra_error.
 *
 * Threads: all functions on the loop's thread. */
#ifndef RLF_TOOLSVC_SERVICE_H
#define RLF_TOOLSVC_SERVICE_H

#include <stdbool.h>
#include <uv.h>

#include "common/config/config.h"
#include "common/msg/messages.h"
#include "toolsvc/tools.h"
#include "toolsvc/traffic.h"

typedef struct toolsvc_service toolsvc_service;

/* Sends one message; the record is borrowed. A failure ends the service. */
typedef rlf_status toolsvc_send_fn(void *user, int to, rlf_message_type type, const void *record);

typedef struct toolsvc_counts {
    size_t messages, malformed; /* received; of these not decodable or not for this role */
    size_t calls, bad_calls, timeouts, infra, dropped; /* dropped: unanswered because the episode closed or the service stopped */
    size_t scores;
} toolsvc_counts;

/* config and tools are borrowed and must outlive the service. */
void toolsvc_service_new(toolsvc_service **out, uv_loop_t *loop, const rlf_config *config, const toolsvc_tools *tools,
                         toolsvc_send_fn *send, void *user);
/* From now on answers are recorded to, or taken from, `traffic`, which is borrowed and must outlive the service. */
void toolsvc_service_use_traffic(toolsvc_service *service, toolsvc_traffic *traffic);
/* Drops outstanding calls, waits up to timeout_ms for workers, closes the service's handles and frees it. False: a worker did not come back
 * in time; its memory is left to it, and neither the loop nor the tools may be freed. */
bool toolsvc_service_destroy(toolsvc_service *service, int timeout_ms);

/* One received message of n bytes. Answers may be sent before it returns. */
void toolsvc_service_handle(toolsvc_service *service, rlf_message_type type, int from, const void *bytes, size_t n);

/* Calls that were not yet answered. */
size_t toolsvc_service_outstanding(const toolsvc_service *service);
/* CONTROL STOP came, or sending or recording failed. */
bool toolsvc_service_stopped(const toolsvc_service *service);
/* RLF_OK unless a send or the recording failed; then the error is recorded in this thread. */
rlf_status toolsvc_service_status(const toolsvc_service *service);
const toolsvc_counts *toolsvc_service_counts(const toolsvc_service *service);

/* The injected latency of a call, ms: log-normal with the tool's median and 99th percentile, a function of the arguments alone;
 * 0 without median. */
double toolsvc_latency_ms(const rlf_tool_config *tool, int64_t seed, int64_t uid, int64_t sample, int64_t turn, int64_t call);

#endif
