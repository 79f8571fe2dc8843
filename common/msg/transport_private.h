/* What the files of the transport share: its state, and how a wait is spent. Private to common/msg. */
#ifndef RLF_COMMON_MSG_TRANSPORT_PRIVATE_H
#define RLF_COMMON_MSG_TRANSPORT_PRIVATE_H

#include <mpi.h>

#include "common/msg/transport.h"

/* A message on its way out: MPI reads `bytes` until the request completes. */
typedef struct rlf_outgoing {
    MPI_Request request;
    rlf_str bytes;
} rlf_outgoing;

struct rlf_transport {
    MPI_Comm messages, bulk;
    int rank, size;
    rlf_neighbour *near; /* (n_near) ranks of this node, ascending */
    int n_near;
    bool beats;                 /* a deadline was set, so rank 0 shows that it is there */
    int64_t allowed_ms;         /* silence of rank 0, as of now */
    int64_t silence_ms;         /* the same after its first word */
    int64_t pause_us;           /* how long a wait for messages sleeps next */
    int64_t eager_ms;           /* until when a wait does not sleep, while a long message goes out */
    int64_t away_ms;            /* for which waits for bytes were not looked at, so far */
    int64_t heard_ms, looked_ms; /* when rank 0 was heard, and looked for, last; on rank 0: heard_ms is when it beat */
    rlf_outgoing *out;
    size_t n_out, cap_out;
    rlf_str spare; /* the memory of the last completed send */
};

#define MPI_TRY(call)                                              \
    do {                                                           \
        int code_ = (call);                                        \
        if (code_ != MPI_SUCCESS) {                                \
            status = rlf_mpi_failed(code_, #call);                 \
            goto out;                                              \
        }                                                          \
    } while (0)

rlf_status rlf_mpi_failed(int code, const char *operation) RLF_MUST_USE;
/* Drops finished sends of messages. */
rlf_status rlf_reap_sends(rlf_transport *transport) RLF_MUST_USE;

/* A wait for bytes that somebody is sending or taking (transport.h): without sleep while requests are done one after the other, but where
 * none was for `eager_ms`, the other side is elsewhere, perhaps for minutes: sleeps of 20 us to 1 ms. */
typedef struct rlf_wait {
    rlf_transport *transport;
    int64_t deadline_ms, eager_ms; /* deadline: on the clock of rlf_transport_now_ms */
    int64_t looked_ms, moved_ms;   /* when somebody looked last, and something was done */
    int64_t pause_us; /* the next sleep */
} rlf_wait;
rlf_wait rlf_wait_begin(rlf_transport *transport, int64_t timeout_ms, int64_t eager_ms);
/* A request is done. */
void rlf_wait_moved(rlf_wait *wait);
/* After a look that found nothing done: until the next one. False: the deadline has passed. */
bool rlf_wait_on(rlf_wait *wait);

#endif
