/* MPI behind transport.h: set-up and messages. Messages use one communicator (tag = message type), raw buffers (bulk.c) another, so that
 * neither matches the other. */
#include "common/msg/transport_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/base/alive.h"
#include "common/base/clock.h"

enum {
    SLEEP_MIN_US = 20,
    SLEEP_MAX_US = 1000,
    SLEEP_MAX_0_US = 4000,   /* of rank 0: it has the least to do, and nobody waits for its answer but between steps */
    BEATS = 4,               /* signs of life of rank 0 within the silence allowed */
    AWAY_MS = 1000,          /* a rank that did not look for longer was busy: what came meanwhile is still to be taken */
    LONG_BYTES = 4096,       /* a message that MPI may not send by itself */
    EAGER_MS = 10,           /* while it comes, or goes, a wait does not sleep: for this, and for as long as it */
    EAGER_BYTES_MS = 100000, /* takes at 100 MB/s */
    DEFAULT_MS = 3600 * 1000
};

rlf_status rlf_mpi_failed(int code, const char *operation) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    return RLF_RAISE(IO, "%s failed: %s", operation, text);
}

rlf_wait rlf_wait_begin(rlf_transport *t, int64_t timeout_ms, int64_t eager_ms) {
    int64_t now = rlf_now_ms();
    return (rlf_wait){.transport = t, .deadline_ms = rlf_transport_now_ms(t) + timeout_ms, .eager_ms = eager_ms, .looked_ms = now,
                      .moved_ms = now, .pause_us = SLEEP_MIN_US};
}

/* Returns the time. Where all were suspended nothing came, and the clock of waits stood still. */
static int64_t look(rlf_wait *w) {
    int64_t now = rlf_now_ms(), passed_ms = now - w->looked_ms;
    if (passed_ms > AWAY_MS) w->transport->away_ms += passed_ms;
    return w->looked_ms = now;
}

void rlf_wait_moved(rlf_wait *w) {
    w->moved_ms = look(w);
    w->pause_us = SLEEP_MIN_US;
}

bool rlf_wait_on(rlf_wait *w) {
    int64_t now = look(w);
    if (rlf_transport_now_ms(w->transport) > w->deadline_ms) return false;
    if (now - w->moved_ms < w->eager_ms) {
        sched_yield();
        return true;
    }
    rlf_sleep_us(w->pause_us);
    w->pause_us = w->pause_us * 2 > SLEEP_MAX_US ? SLEEP_MAX_US : w->pause_us * 2;
    return true;
}

static int64_t eager_of(size_t bytes) { return EAGER_MS + (int64_t)(bytes / EAGER_BYTES_MS); }

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

rlf_status rlf_reap_sends(rlf_transport *t) {
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
    rlf_status status = rlf_reap_sends(t);
    *sending = t->n_out > 0;
    return status;
}

/* Until the request is done or the deadline has passed; *done tells which. */
static rlf_status wait_request(rlf_transport *t, MPI_Request *request, rlf_wait wait, bool *done) {
    rlf_status status = RLF_OK;
    do {
        int flag = 0;
        MPI_TRY(MPI_Test(request, &flag, MPI_STATUS_IGNORE));
        *done = flag;
        if (flag) break;
        RLF_TRY(rlf_reap_sends(t));
    } while (rlf_wait_on(&wait));
out:
    return status;
}

rlf_status rlf_transport_destroy(rlf_transport *t, int timeout_ms) {
    rlf_status status = RLF_OK;
    rlf_wait wait = rlf_wait_begin(t, timeout_ms, 0);
    do RLF_TRY(rlf_reap_sends(t));
    while (t->n_out && rlf_wait_on(&wait));
    if (t->n_out) RLF_FAIL(TIMEOUT, "deadline of %d ms passed while %zu messages were on their way at the end", timeout_ms, t->n_out);
    MPI_Request barrier;
    bool together = false;
    MPI_TRY(MPI_Ibarrier(t->bulk, &barrier));
    RLF_TRY(wait_request(t, &barrier, wait, &together));
    if (!together) RLF_FAIL(TIMEOUT, "deadline of %d ms passed while the other ranks were waited for at the end", timeout_ms);
    MPI_Comm_free(&t->messages);
    MPI_Comm_free(&t->bulk);
    if (t->rank == 0) rlf_alive_tell(NULL, NULL);
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
int64_t rlf_transport_now_ms(const rlf_transport *t) { return rlf_now_ms() - t->away_ms; }

const rlf_neighbour *rlf_transport_neighbours(const rlf_transport *t, size_t *n) {
    *n = (size_t)t->n_near;
    return t->near;
}

/* ---- messages --------------------------------------------------------------------------------------------------------------------- */

rlf_status rlf_send(rlf_transport *t, int to, rlf_message_type type, const void *record) {
    rlf_status status = RLF_OK;
    rlf_outgoing o = {0};
    RLF_TRY(rlf_reap_sends(t));
    o.bytes = t->spare;
    t->spare = (rlf_str){0};
    rlf_str_reset(&o.bytes);
    rlf_message_encode(type, record, &o.bytes);
    if (o.bytes.len > RLF_MSG_MAX_BYTES)
        RLF_FAIL(LIMIT, "message %s to rank %d: %zu bytes, at most %d allowed", rlf_message_name((int)type), to, o.bytes.len,
                 RLF_MSG_MAX_BYTES);
    MPI_TRY(MPI_Isend(o.bytes.ptr, (int)o.bytes.len, MPI_BYTE, to, (int)type, t->messages, &o.request));
    t->out = rlf_grow(t->out, t->n_out, &t->cap_out, sizeof *t->out);
    if (o.bytes.len > LONG_BYTES) t->eager_ms = rlf_now_ms() + eager_of(o.bytes.len);
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
    RLF_TRY(wait_request(t, &request, rlf_wait_begin(t, t->silence_ms, eager_of((size_t)n)), &done));
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

static rlf_status beat_if_due(rlf_transport *t) {
    int64_t now = rlf_now_ms();
    return t->beats && now - t->heard_ms >= t->silence_ms / BEATS ? beat(t, now) : RLF_OK;
}

/* Rank 0 in the middle of long work of its own. */
static void on_alive(void *ctx) {
    rlf_status ignored = beat_if_due(ctx); /* what keeps a message from going out keeps the next one too, which is not ignored */
    (void)ignored;
}

void rlf_transport_set_deadline(rlf_transport *t, int64_t first_ms, int64_t silence_ms) {
    t->beats = true;
    t->allowed_ms = first_ms;
    t->silence_ms = silence_ms;
    t->heard_ms = t->looked_ms = rlf_now_ms();
    if (t->rank > 0) return;
    t->heard_ms -= silence_ms; /* the first sign is due at once */
    rlf_alive_tell(on_alive, t);
}

/* Rank 0 shows that it is there; another rank finds out whether rank 0 still is. */
static rlf_status keep_in_touch(rlf_transport *t) {
    int64_t now = rlf_now_ms();
    if (t->rank == 0) return beat_if_due(t);
    if (now - t->looked_ms > AWAY_MS) t->heard_ms = now;
    t->looked_ms = now;
    if (now - t->heard_ms > t->allowed_ms)
        return RLF_RAISE(TIMEOUT, "deadline passed while waiting for a message: rank 0 (coordinator) has been silent for %lld s",
                         (long long)((now - t->heard_ms) / 1000));
    return RLF_OK;
}

/* A long message is on its way out, and moves only while MPI is called. */
static bool eager(const rlf_transport *t) { return t->n_out > 0 && rlf_now_ms() < t->eager_ms; }

/* Messages come in streams: the pause between two looks follows their rate, half as long after one that came, twice after none. */
static void adapt_pause(rlf_transport *t, bool got) {
    if (!got && eager(t)) return;
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
        RLF_TRY(rlf_reap_sends(t));
        if (eager(t)) sched_yield();
        else rlf_sleep_us(t->pause_us);
    }
out:
    return status;
}
