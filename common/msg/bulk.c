/* Raw buffers between ranks (transport.h): lanes of bytes, one for each peer and way, all at once.
 *
 * A lane is cut into pieces, of which several are on their way at a time, so that the next is there when one is done; MPI keeps their
 * order. The first is short enough to travel with MPI's first word: whoever sleeps because the other rank is elsewhere is awake soon after
 * it has come, before the long ones begin. Sender and receiver cut alike: by the lane's length alone. */
#include <stdlib.h>
#include <string.h>

#include "common/base/alive.h"
#include "common/base/clock.h"
#include "common/msg/transport_private.h"

enum {
    FIRST_BYTES = 2048,
    PIECE_BYTES = 1 << 20,
    IN_FLIGHT = 4,   /* pieces of a lane */
    EAGER_MS = 10,   /* without a finished piece, until a wait sleeps */
    BULK_TAG = 1
};

typedef struct lane {
    int peer;
    bool sends;
    char *data;
    size_t bytes, at;       /* at: of the next piece */
    size_t pieces, arrived; /* pieces given to MPI; bytes that are through */
    int length[IN_FLIGHT];  /* of piece i: at i % IN_FLIGHT */
} lane;

/* Gives MPI the next pieces, as far as there is room for their requests. */
static rlf_status launch(rlf_transport *t, lane *l, MPI_Request *requests) {
    rlf_status status = RLF_OK;
    for (size_t slot; l->at < l->bytes && requests[slot = l->pieces % IN_FLIGHT] == MPI_REQUEST_NULL; l->pieces++) {
        size_t most = l->at == 0 ? FIRST_BYTES : PIECE_BYTES, left = l->bytes - l->at;
        char *from = l->data + l->at;
        l->length[slot] = (int)(left < most ? left : most);
        l->at += (size_t)l->length[slot];
        if (l->sends) MPI_TRY(MPI_Isend(from, l->length[slot], MPI_BYTE, l->peer, BULK_TAG, t->bulk, &requests[slot]));
        else MPI_TRY(MPI_Irecv(from, l->length[slot], MPI_BYTE, l->peer, BULK_TAG, t->bulk, &requests[slot]));
    }
out:
    return status;
}

static rlf_status too_late(const lane *lanes, const char *what) {
    const lane *l = lanes;
    while (l->arrived == l->bytes) l++;
    return RLF_RAISE(TIMEOUT, "deadline passed while %s rank %d: %s (byte %zu of %zu)", l->sends ? "sending to" : "receiving from", l->peer,
                     what, l->arrived, l->bytes);
}

/* What is done makes room for what is next. *left: requests under way, done or not. */
static rlf_status move(rlf_transport *t, lane *lanes, size_t n, MPI_Request *requests, int *done, bool *moved, bool *left) {
    rlf_status status = RLF_OK;
    int n_done = 0;
    MPI_TRY(MPI_Testsome((int)n * IN_FLIGHT, requests, &n_done, done, MPI_STATUSES_IGNORE));
    *left = n_done != MPI_UNDEFINED;
    *moved = *left && n_done > 0;
    for (int i = 0; *moved && i < n_done; i++) {
        lane *l = &lanes[done[i] / IN_FLIGHT];
        l->arrived += (size_t)l->length[done[i] % IN_FLIGHT];
        RLF_TRY(launch(t, l, requests + (l - lanes) * IN_FLIGHT));
    }
out:
    return status;
}

/* All bytes of n lanes, or RLF_TIMEOUT, which names the first lane that is not through. */
static rlf_status run(rlf_transport *t, lane *lanes, size_t n, int timeout_ms, const char *what) {
    rlf_status status = RLF_OK;
    rlf_wait wait = rlf_wait_begin(t, timeout_ms, EAGER_MS);
    MPI_Request *requests = rlf_calloc(n * IN_FLIGHT, sizeof(MPI_Request));
    int *done = rlf_calloc(n * IN_FLIGHT, sizeof *done);
    for (size_t i = 0; i < n * IN_FLIGHT; i++) requests[i] = MPI_REQUEST_NULL;
    for (size_t i = 0; i < n; i++) RLF_TRY(launch(t, &lanes[i], requests + i * IN_FLIGHT));
    for (;;) {
        bool moved = false, left = false;
        RLF_TRY(move(t, lanes, n, requests, done, &moved, &left));
        if (!left) break;
        RLF_TRY(rlf_reap_sends(t));
        rlf_alive(); /* a wait too: it has a deadline of its own */
        if (moved) rlf_wait_moved(&wait);
        else if (!rlf_wait_on(&wait)) RLF_TRY(too_late(lanes, what));
    }
out:
    free(done);
    free(requests);
    return status;
}

rlf_status rlf_bulk_send_many(rlf_transport *t, const int *to, size_t n, const void *data, size_t bytes, int timeout_ms, const char *what) {
    lane *lanes = rlf_calloc(n, sizeof *lanes);
    size_t n_lanes = 0;
    for (size_t i = 0; i < n; i++)
        if (to[i] != t->rank) lanes[n_lanes++] = (lane){.peer = to[i], .sends = true, .data = (char *)data, .bytes = bytes};
    rlf_status status = run(t, lanes, n_lanes, timeout_ms, what);
    free(lanes);
    return status;
}

rlf_status rlf_bulk_receive(rlf_transport *t, int from, void *data, size_t bytes, int timeout_ms, const char *what) {
    lane l = {.peer = from, .data = data, .bytes = bytes};
    return run(t, &l, 1, timeout_ms, what);
}

/* ---- collectives in rank order ---------------------------------------------------------------------------------------------------- */

void rlf_shard(size_t n, int count, int i, size_t *begin, size_t *end) {
    size_t blocks = (n + 15) / 16;
    *begin = blocks * (size_t)i / (size_t)count * 16;
    *end = i == count - 1 ? n : blocks * (size_t)(i + 1) / (size_t)count * 16;
}

rlf_status rlf_exchange_all(rlf_transport *t, int first, int count, const rlf_exchange *with, int timeout_ms, const char *what) {
    lane *lanes = rlf_calloc((size_t)count * 2, sizeof *lanes);
    size_t n = 0;
    for (int i = 0; i < count; i++)
        if (first + i != t->rank) lanes[n++] = (lane){.peer = first + i, .data = with[i].receive, .bytes = with[i].receive_bytes};
    for (int i = 0; i < count; i++)
        if (first + i != t->rank)
            lanes[n++] = (lane){.peer = first + i, .sends = true, .data = (char *)with[i].send, .bytes = with[i].send_bytes};
    rlf_status status = run(t, lanes, n, timeout_ms, what);
    free(lanes);
    return status;
}

rlf_status rlf_all_reduce(rlf_transport *t, int first, int count, double *x, size_t n, int timeout_ms) {
    if (count == 1) return RLF_OK;
    rlf_status status = RLF_OK;
    double *all = rlf_calloc(n * (size_t)count, sizeof *all);
    rlf_exchange *with = rlf_calloc((size_t)count, sizeof *with);
    for (int i = 0; i < count; i++) with[i] = (rlf_exchange){x, all + n * (size_t)i, n * sizeof *x, n * sizeof *x};
    RLF_TRY(rlf_exchange_all(t, first, count, with, timeout_ms, "all-reduce of sums"));
    memcpy(all + n * (size_t)(t->rank - first), x, n * sizeof *x);
    for (size_t j = 0; j < n; j++) {
        x[j] = all[j];
        for (int i = 1; i < count; i++) x[j] += all[n * (size_t)i + j];
    }
out:
    free(with);
    if (status != RLF_TIMEOUT) free(all); /* transport.h */
    return status;
}
