/* The calls to NCCL (link.h). The communicator is non-blocking: a call may leave it "in progress", and what was queued on the
 * card's stream may wait for ranks that never come; both are polled. NCCL only moves bytes here. Sums are the caller's, in its
 * own order: a reduction of NCCL's would have the order of the algorithm and topology that it chose. */
#include "kernels/cuda/link.h"

#include <assert.h>
#include <nccl.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/alive.h"
#include "common/base/clock.h"
#include "common/base/mem.h"

enum { SLEEP_MIN_US = 5, SLEEP_MAX_US = 1000 };

_Static_assert(sizeof(ncclUniqueId) == KERN_LINK_ID_BYTES, "an id is NCCL's");

struct kern_link {
    kern_card *card;
    ncclComm_t comm; /* NULL once aborted */
    int rank, count;
};

rlf_status kern_link_id(unsigned char id[KERN_LINK_ID_BYTES]) {
    ncclUniqueId unique;
    ncclResult_t result = ncclGetUniqueId(&unique);
    if (result != ncclSuccess) return RLF_RAISE(DEVICE, "NCCL: no id: %s", ncclGetErrorString(result));
    memcpy(id, &unique, sizeof unique);
    return RLF_OK;
}

/* Gives the communicator up, which ends what it has on the card. */
static void give_up(kern_link *l) {
    if (l->comm) ncclCommAbort(l->comm);
    l->comm = NULL;
}

static rlf_status failed(kern_link *l, ncclResult_t result, const char *what) {
    rlf_status status = RLF_RAISE(DEVICE, "%s: NCCL, among %d cards: %s (%s)", what, l->count, ncclGetErrorString(result),
                                  ncclGetLastError(l->comm));
    give_up(l);
    return status;
}

/* What a wait looks at: true when it is over. */
typedef bool over_fn(kern_link *l, ncclResult_t state);

static bool taken(kern_link *l, ncclResult_t state) {
    (void)l;
    return state == ncclSuccess;
}

static bool done(kern_link *l, ncclResult_t state) { return state == ncclSuccess && kern_card_idle(l->card); }

static rlf_status await(kern_link *l, over_fn *over, int64_t deadline_ms, const char *what) {
    int64_t us = SLEEP_MIN_US;
    for (;;) {
        ncclResult_t state, result = ncclCommGetAsyncError(l->comm, &state);
        if (result != ncclSuccess) return failed(l, result, what);
        if (state != ncclSuccess && state != ncclInProgress) return failed(l, state, what);
        if (over(l, state)) return RLF_OK;
        if (rlf_now_ms() > deadline_ms) break;
        rlf_alive();
        rlf_sleep_us(us);
        us = us * 2 > SLEEP_MAX_US ? SLEEP_MAX_US : us * 2;
    }
    rlf_status status = RLF_RAISE(TIMEOUT, "deadline passed while waiting for the other %d cards of NCCL: %s", l->count - 1, what);
    give_up(l);
    return status;
}

rlf_status kern_link_new(kern_link **out, kern_card *card, const unsigned char id[KERN_LINK_ID_BYTES], int rank, int count,
                         int timeout_ms) {
    rlf_status status = RLF_OK;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId unique;
    kern_link *l = rlf_calloc(1, sizeof *l);
    *l = (kern_link){.card = card, .rank = rank, .count = count};
    memcpy(&unique, id, sizeof unique);
    config.blocking = 0;
    (void)kern_card_stream(card); /* makes the card this thread's */
    ncclResult_t result = ncclCommInitRankConfig(&l->comm, count, unique, rank, &config);
    if (result != ncclSuccess && result != ncclInProgress)
        RLF_FAIL(DEVICE, "NCCL, among %d cards: %s", count, ncclGetErrorString(result));
    RLF_TRY(await(l, taken, rlf_now_ms() + timeout_ms, "start of NCCL"));
    *out = l;
    l = NULL;
out:
    kern_link_destroy(l);
    return status;
}

/* The operations are over, so nothing is lost by an abort, and nobody is waited for. */
void kern_link_destroy(kern_link *l) {
    if (!l) return;
    give_up(l);
    free(l);
}

/* After a call that queued something: `result` is the call's. */
static rlf_status finish(kern_link *l, ncclResult_t result, int timeout_ms, const char *what) {
    rlf_status status = RLF_OK;
    int64_t deadline = rlf_now_ms() + timeout_ms;
    if (result != ncclSuccess && result != ncclInProgress) return failed(l, result, what);
    RLF_TRY(await(l, taken, deadline, what));
    RLF_TRY(await(l, done, deadline, what));
    RLF_TRY(kern_card_sync(l->card));
out:
    return status;
}

static void keep_first(ncclResult_t *first, ncclResult_t result) {
    if (*first == ncclSuccess || *first == ncclInProgress) *first = result;
}

rlf_status kern_link_exchange(kern_link *l, const kern_link_part *with, int timeout_ms, const char *what) {
    assert(l->comm);
    cudaStream_t stream = kern_card_stream(l->card);
    ncclResult_t result = ncclGroupStart();
    for (int i = 0; i < l->count; i++) {
        if (i == l->rank) continue;
        if (with[i].send_bytes) keep_first(&result, ncclSend(with[i].send, with[i].send_bytes, ncclInt8, i, l->comm, stream));
        if (with[i].receive_bytes) keep_first(&result, ncclRecv(with[i].receive, with[i].receive_bytes, ncclInt8, i, l->comm, stream));
    }
    keep_first(&result, ncclGroupEnd());
    return finish(l, result, timeout_ms, what);
}

rlf_status kern_link_broadcast(kern_link *l, void *data, size_t bytes, int root, int timeout_ms, const char *what) {
    assert(l->comm);
    ncclResult_t result = ncclBroadcast(data, data, bytes, ncclInt8, root, l->comm, kern_card_stream(l->card));
    return finish(l, result, timeout_ms, what);
}
