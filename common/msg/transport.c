/* MPI behind transport.h. Messages use one communicator (tag = message type), raw buffers another, so that neither matches the other. */
#include "common/msg/transport.h"

#include <assert.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/base/clock.h"

enum {
    PIECE_BYTES = 64 << 20,
    SLEEP_MIN_US = 20,
    SLEEP_MAX_US = 1000,
    SLEEP_MAX_0_US = 4000,   /* of rank 0: it has the least to do, and nobody waits for its answer but between steps */
    BULK_TAG = 1,
    BEATS = 4,               /* signs of life of rank 0 within the silence allowed */
    AWAY_MS = 1000,          /* a rank that did not look for longer was busy: what came meanwhile is still to be taken */
    DEFAULT_MS = 3600 * 1000
};

/* A message on its way out: MPI reads `bytes` until the request completes. */
typedef struct outgoing {
    MPI_Request request;
    rlf_str bytes;
} outgoing;

struct rlf_transport {
    MPI_Comm messages, bulk;
    int rank, size;
    rlf_neighbour *near; /* (n_near) ranks of this node, ascending */
    int n_near;
    bool beats;                 /* a deadline was set, so rank 0 shows that it is there */
    int64_t allowed_ms;         /* silence of rank 0, as of now */
    int64_t silence_ms;         /* the same after its first word */
    int64_t pause_us;           /* how long a wait for messages sleeps next */
    int64_t heard_ms, looked_ms; /* when rank 0 was heard, and looked for, last; on rank 0: heard_ms is when it beat */
    outgoing *out;
    size_t n_out, cap_out;
    rlf_str spare; /* the memory of the last completed send */
};

static rlf_status mpi_failed(int code, const char *operation) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    return RLF_RAISE(IO, "%s failed: %s", operation, text);
}

#define MPI_TRY(call)                                              \
    do {                                                           \
        int code_ = (call);                                        \
        if (code_ != MPI_SUCCESS) {                                \
            status = mpi_failed(code_, #call);                     \
            goto out;                                              \
        }                                                          \
    } while (0)

/* Sleeps longer the longer nothing came. For a wait in which latency counts and that does not come often. */
static void back_off(int64_t *us) {
    rlf_sleep_us(*us);
    *us = *us * 2 > SLEEP_MAX_US ? SLEEP_MAX_US : *us * 2;
}

static rlf_status find_neighbours(rlf_transport *t) {
    rlf_status status = RLF_OK;
    MPI_Comm node;
    rlf_neighbour me = {.rank = t->rank, .pid = getpid()};
    if (sched_getaffinity(0, sizeof me.cores, &me.cores) != 0) return RLF_RAISE(INTERNAL, "sched_getaffinity failed");
    MPI_TRY(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, t->rank, MPI_INFO_NULL, &node));
    MPI_Comm_size(node, &t->n_near);
    t->near = rlf_calloc((size_t)t->n_near, sizeof *t->near);
    MPI_TRY(MPI_Allgather(&me, sizeof me, MPI_BYTE, t->near, sizeof me, MPI_BYTE, node));
    MPI_Comm_free(&node);
out:
    return status;
}

rlf_status rlf_transport_new(rlf_transport **out, int *argc, char ***argv) {
    rlf_status status = RLF_OK;
    rlf_transport *t = rlf_calloc(1, sizeof *t);
    int started = 0, provided = 0;
    prctl(PR_SET_TIMERSLACK, 1000); /* short sleeps shall be short */
    MPI_Initialized(&started);
    if (!started) MPI_TRY(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_TRY(MPI_Comm_rank(MPI_COMM_WORLD, &t->rank));
    MPI_TRY(MPI_Comm_size(MPI_COMM_WORLD, &t->size));
    MPI_TRY(MPI_Comm_dup(MPI_COMM_WORLD, &t->messages));
    MPI_TRY(MPI_Comm_dup(MPI_COMM_WORLD, &t->bulk));
    RLF_TRY(find_neighbours(t));
    t->allowed_ms = t->silence_ms = DEFAULT_MS;
    *out = t;
    return RLF_OK;
out:
    free(t->near);
    free(t);
    return status;
}

void rlf_transport_set_deadline(rlf_transport *t, int64_t first_ms, int64_t silence_ms) {
    t->beats = true;
    t->allowed_ms = first_ms;
    t->silence_ms = silence_ms;
    t->heard_ms = t->looked_ms = rlf_now_ms();
    if (t->rank == 0) t->heard_ms -= silence_ms; /* the first sign is due at once */
}

/* Drops finished sends. */
static rlf_status reap_sends(rlf_transport *t) {
    rlf_status status = RLF_OK;
    size_t kept = 0, i = 0;
    for (; i < t->n_out; i++) {
        int done = 0;
        MPI_TRY(MPI_Test(&t->out[i].request, &done, MPI_STATUS_IGNORE));
        if (!done) {
            t->out[kept++] = t->out[i];
            continue;
        }
        rlf_str_clean_up(&t->spare);
        t->spare = t->out[i].bytes;
    }
out:
    while (i < t->n_out) t->out[kept++] = t->out[i++];
    t->n_out = kept;
    return status;
}

rlf_status rlf_transport_poll(rlf_transport *t, bool *sending) {
    rlf_status status = reap_sends(t);
    *sending = t->n_out > 0;
    return status;
}

/* Waits until the request is done or the deadline has passed; *done tells which. */
static rlf_status wait_request(rlf_transport *t, MPI_Request *request, int64_t deadline_ms, bool *done) {
    rlf_status status = RLF_OK;
    int64_t us = SLEEP_MIN_US;
    for (;;) {
        int flag = 0;
        MPI_TRY(MPI_Test(request, &flag, MPI_STATUS_IGNORE));
        *done = flag;
        if (flag || rlf_now_ms() > deadline_ms) break;
        RLF_TRY(reap_sends(t));
        back_off(&us);
    }
out:
    return status;
}

rlf_status rlf_transport_destroy(rlf_transport *t, int timeout_ms) {
    rlf_status status = RLF_OK;
    int64_t deadline = rlf_now_ms() + timeout_ms, us = SLEEP_MIN_US;
    while (t->n_out && rlf_now_ms() < deadline) {
        RLF_TRY(reap_sends(t));
        if (t->n_out) back_off(&us);
    }
    if (t->n_out) RLF_FAIL(TIMEOUT, "deadline of %d ms passed while %zu messages were on their way at the end", timeout_ms, t->n_out);
    MPI_Request barrier;
    bool together = false;
    MPI_TRY(MPI_Ibarrier(t->bulk, &barrier));
    RLF_TRY(wait_request(t, &barrier, deadline, &together));
    if (!together) RLF_FAIL(TIMEOUT, "deadline of %d ms passed while the other ranks were waited for at the end", timeout_ms);
    MPI_Comm_free(&t->messages);
    MPI_Comm_free(&t->bulk);
    rlf_str_clean_up(&t->spare);
    free(t->out);
    free(t->near);
    free(t);
    MPI_Finalize();
out:
    return status;
}

void rlf_transport_abort(rlf_transport *t, int exit_status) {
    (void)t;
    MPI_Abort(MPI_COMM_WORLD, exit_status);
    _Exit(exit_status);
}

int rlf_transport_rank(const rlf_transport *t) { return t->rank; }
int rlf_transport_size(const rlf_transport *t) { return t->size; }

const rlf_neighbour *rlf_transport_neighbours(const rlf_transport *t, size_t *n) {
    *n = (size_t)t->n_near;
    return t->near;
}

/* ---- messages --------------------------------------------------------------------------------------------------------------------- */

rlf_status rlf_send(rlf_transport *t, int to, rlf_message_type type, const void *record) {
    rlf_status status = RLF_OK;
    outgoing o = {0};
    RLF_TRY(reap_sends(t));
    o.bytes = t->spare;
    t->spare = (rlf_str){0};
    rlf_str_reset(&o.bytes);
    rlf_message_encode(type, record, &o.bytes);
    if (o.bytes.len > RLF_MSG_MAX_BYTES)
        RLF_FAIL(LIMIT, "message %s to rank %d: %zu bytes, at most %d allowed", rlf_message_name((int)type), to, o.bytes.len,
                 RLF_MSG_MAX_BYTES);
    MPI_TRY(MPI_Isend(o.bytes.ptr, (int)o.bytes.len, MPI_BYTE, to, (int)type, t->messages, &o.request));
    t->out = rlf_grow(t->out, t->n_out, &t->cap_out, sizeof *t->out);
    t->out[t->n_out++] = o;
    return RLF_OK;
out:
    rlf_str_clean_up(&o.bytes);
    return status;
}

/* Receives a message that MPI has matched. One too long to have come whole needs its sender's help: hence the deadline. */
static rlf_status take_bytes(rlf_transport *t, rlf_received *m, MPI_Message *handle, int n) {
    rlf_status status = RLF_OK;
    MPI_Request request;
    bool done = false;
    rlf_str_reset(&m->bytes);
    if (m->bytes.cap < (size_t)n + 1) {
        m->bytes.ptr = rlf_realloc(m->bytes.ptr, (size_t)n + 1, 1);
        m->bytes.cap = (size_t)n + 1;
    }
    MPI_TRY(MPI_Imrecv(m->bytes.ptr, n, MPI_BYTE, handle, &request));
    RLF_TRY(wait_request(t, &request, rlf_now_ms() + t->silence_ms, &done));
    if (!done) {
        m->bytes = (rlf_str){0}; /* left behind: MPI may still write to it */
        RLF_FAIL(TIMEOUT, "a message %s of %d bytes from rank %d stopped half-way, for %lld s", rlf_message_name((int)m->type), n, m->from,
                 (long long)(t->silence_ms / 1000));
    }
    m->bytes.len = (size_t)n;
    m->bytes.ptr[n] = '\0';
out:
    return status;
}

/* Takes a message that has arrived, if one has. */
static rlf_status take_message(rlf_transport *t, rlf_received *m, bool *got) {
    rlf_status status = RLF_OK;
    int flag = 0, n = 0;
    MPI_Message handle;
    MPI_Status info;
    MPI_TRY(MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, t->messages, &flag, &handle, &info));
    *got = flag;
    if (!flag) goto out;
    MPI_TRY(MPI_Get_count(&info, MPI_BYTE, &n));
    m->from = info.MPI_SOURCE;
    m->type = (rlf_message_type)info.MPI_TAG;
    RLF_TRY(take_bytes(t, m, &handle, n));
    if (m->from != 0 || t->rank == 0) goto out;
    t->heard_ms = rlf_now_ms();
    t->allowed_ms = t->silence_ms;
    *got = m->type != RLF_MSG_HEARTBEAT;
out:
    return status;
}

static rlf_status beat(rlf_transport *t, int64_t now) {
    rlf_status status = RLF_OK;
    rlf_heartbeat sign = {.doing = rlf_slice_of("")};
    t->heard_ms = now;
    for (int to = 1; to < t->size; to++) RLF_TRY(rlf_send(t, to, RLF_MSG_HEARTBEAT, &sign));
out:
    return status;
}

/* Rank 0 shows that it is there; another rank finds out whether rank 0 still is. */
static rlf_status keep_in_touch(rlf_transport *t) {
    int64_t now = rlf_now_ms();
    if (t->rank == 0) return t->beats && now - t->heard_ms >= t->silence_ms / BEATS ? beat(t, now) : RLF_OK;
    if (now - t->looked_ms > AWAY_MS) t->heard_ms = now;
    t->looked_ms = now;
    if (now - t->heard_ms > t->allowed_ms)
        return RLF_RAISE(TIMEOUT, "deadline passed while waiting for a message: rank 0 (coordinator) has been silent for %lld s",
                         (long long)((now - t->heard_ms) / 1000));
    return RLF_OK;
}

/* Messages come in streams: the pause between two looks follows their rate, half as long after one that came, twice after none. */
static void adapt_pause(rlf_transport *t, bool got) {
    int64_t most = t->rank == 0 ? SLEEP_MAX_0_US : SLEEP_MAX_US, us = got ? t->pause_us / 2 : t->pause_us * 2;
    t->pause_us = us < SLEEP_MIN_US ? SLEEP_MIN_US : us > most ? most : us;
}

rlf_status rlf_receive(rlf_transport *t, rlf_received *m, int timeout_ms, bool *got) {
    rlf_status status = RLF_OK;
    int64_t deadline = rlf_now_ms() + timeout_ms;
    for (;;) {
        RLF_TRY(take_message(t, m, got));
        RLF_TRY(keep_in_touch(t));
        if (timeout_ms > 0 || *got) adapt_pause(t, *got);
        if (*got || timeout_ms == 0 || rlf_now_ms() >= deadline) break;
        RLF_TRY(reap_sends(t));
        rlf_sleep_us(t->pause_us);
    }
out:
    return status;
}

/* ---- raw buffers ------------------------------------------------------------------------------------------------------------------ */

static int piece_size(size_t bytes, size_t at) { return (int)(bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES); }

static rlf_status wait_bulk(rlf_transport *t, MPI_Request *request, int64_t deadline, const char *verb, int peer, size_t at,
                            size_t bytes, const char *what) {
    bool done = false;
    rlf_status status = wait_request(t, request, deadline, &done);
    if (status == RLF_OK && !done)
        status = RLF_RAISE(TIMEOUT, "deadline passed while %s rank %d: %s (byte %zu of %zu)", verb, peer, what, at, bytes);
    return status;
}

rlf_status rlf_bulk_send_many(rlf_transport *t, const int *to, size_t n, const void *data, size_t bytes, int timeout_ms, const char *what) {
    rlf_status status = RLF_OK;
    int64_t deadline = rlf_now_ms() + timeout_ms;
    MPI_Request *requests = rlf_calloc(n, sizeof *requests);
    for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
        for (size_t i = 0; i < n; i++) {
            requests[i] = MPI_REQUEST_NULL;
            if (to[i] != t->rank)
                MPI_TRY(MPI_Isend((const char *)data + at, piece_size(bytes, at), MPI_BYTE, to[i], BULK_TAG, t->bulk, &requests[i]));
        }
        for (size_t i = 0; i < n; i++) RLF_TRY(wait_bulk(t, &requests[i], deadline, "sending to", to[i], at, bytes, what));
    }
out:
    free(requests);
    return status;
}

rlf_status rlf_bulk_receive(rlf_transport *t, int from, void *data, size_t bytes, int timeout_ms, const char *what) {
    rlf_status status = RLF_OK;
    int64_t deadline = rlf_now_ms() + timeout_ms;
    for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
        MPI_Request request;
        MPI_TRY(MPI_Irecv((char *)data + at, piece_size(bytes, at), MPI_BYTE, from, BULK_TAG, t->bulk, &request));
        RLF_TRY(wait_bulk(t, &request, deadline, "receiving from", from, at, bytes, what));
    }
out:
    return status;
}

/* ---- collectives in rank order ---------------------------------------------------------------------------------------------------- */

void rlf_shard(size_t n, int count, int i, size_t *begin, size_t *end) {
    size_t blocks = (n + 15) / 16;
    *begin = blocks * (size_t)i / (size_t)count * 16;
    *end = i == count - 1 ? n : blocks * (size_t)(i + 1) / (size_t)count * 16;
}

rlf_status rlf_exchange_all(rlf_transport *t, int first, int count, const rlf_exchange *with, int timeout_ms, const char *what) {
    rlf_status status = RLF_OK;
    int64_t deadline = rlf_now_ms() + timeout_ms;
    MPI_Request *requests = rlf_calloc((size_t)count * 2, sizeof *requests);
    for (int i = 0; i < 2 * count; i++) requests[i] = MPI_REQUEST_NULL;
    for (int i = 0; i < count; i++) {
        const rlf_exchange *e = &with[i];
        if (first + i == t->rank) continue;
        assert(e->send_bytes <= INT32_MAX && e->receive_bytes <= INT32_MAX);
        MPI_TRY(MPI_Irecv(e->receive, (int)e->receive_bytes, MPI_BYTE, first + i, BULK_TAG, t->bulk, &requests[i]));
        MPI_TRY(MPI_Isend(e->send, (int)e->send_bytes, MPI_BYTE, first + i, BULK_TAG, t->bulk, &requests[count + i]));
    }
    for (int i = 0; i < 2 * count; i++)
        RLF_TRY(wait_bulk(t, &requests[i], deadline, i < count ? "receiving from" : "sending to", first + i % count, 0,
                          i < count ? with[i].receive_bytes : with[i - count].send_bytes, what));
out:
    free(requests);
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
    free(all);
    return status;
}
