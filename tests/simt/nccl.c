/* The SIMT shim's stand-in for NCCL (nccl/nccl.h): ranks of one machine exchange through a memory that all of them map. From each rank to each
 * other leads a box of BOX_BYTES, which is full or empty; whoever looks whether a stream is idle goes round its boxes. */
#include <nccl.h>

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/mem.h"

enum { BOX_BYTES = 64 << 10, POLLS = 3 /* of the state of a communicator, until what was called is no longer in progress */ };

typedef struct box {
    _Atomic size_t bytes; /* 0: empty */
    char data[BOX_BYTES];
} box;

typedef struct meeting {
    _Atomic int come; /* ranks */
    box boxes[];      /* (count, count): from, to */
} meeting;

/* What a call has queued. */
typedef struct transfer {
    struct transfer *next;
    const char *send; /* one of the two is not NULL */
    char *receive;
    int peer;
    size_t bytes, done;
} transfer;

struct simt_comm {
    struct simt_comm *next; /* of the process */
    meeting *meeting;
    size_t mapped;
    int rank, count, polls;
    bool *peers, ring; /* what is connected; peers: (count), owned */
    transfer *first, **last;
};

static ncclComm_t comms;
static int groups; /* that have been started and not ended */
ncclResult_t simt_nccl_state;
int simt_nccl_connections;
bool simt_nccl_without_id;

/* The id says whose file it is, which others find in /proc; it stays open until the process ends. */
typedef struct meeting_name {
    pid_t process;
    int fd;
} meeting_name;

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    if (simt_nccl_without_id) return ncclInvalidUsage;
    const meeting_name name = {getpid(), memfd_create("nccl", MFD_CLOEXEC)};
    memset(id, 0, sizeof *id);
    memcpy(id, &name, sizeof name);
    return name.fd >= 0 ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int count, ncclUniqueId id, int rank, ncclConfig_t *config) {
    meeting_name name;
    char path[64];
    const size_t mapped = sizeof(meeting) + (size_t)count * (size_t)count * sizeof(box);
    if (config->blocking) return ncclInvalidUsage;
    memcpy(&name, &id, sizeof name);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)name.process, name.fd);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    void *at = fd >= 0 && ftruncate(fd, (off_t)mapped) == 0 ? mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (at == MAP_FAILED) return ncclSystemError;
    *comm = rlf_calloc(1, sizeof **comm);
    **comm = (struct simt_comm){.next = comms, .meeting = at, .mapped = mapped, .rank = rank, .count = count, .polls = POLLS,
                                .peers = rlf_calloc((size_t)count, sizeof(bool))};
    (*comm)->last = &(*comm)->first;
    comms = *comm;
    atomic_fetch_add(&(*comm)->meeting->come, 1);
    return ncclInProgress;
}

/* What is queued is given up. */
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    ncclComm_t *at = &comms;
    while (*at != comm) at = &(*at)->next;
    *at = comm->next;
    for (transfer *t = comm->first, *next; t; t = next) {
        next = t->next;
        free(t);
    }
    munmap(comm->meeting, comm->mapped);
    free(comm->peers);
    free(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state) {
    if (comm->polls) comm->polls--;
    *state = simt_nccl_state ? simt_nccl_state : comm->polls || atomic_load(&comm->meeting->come) < comm->count ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    return result == ncclRemoteError ? "remote process exited or there was a network error" : result == ncclSystemError ? "unhandled system error" : "misuse";
}
const char *ncclGetLastError(ncclComm_t comm) { return comm ? "the stand-in was told to fail" : ""; }

/* ---- transfers ---------------------------------------------------------------------------------------------------------------------- */

ncclResult_t ncclGroupStart(void) {
    groups++;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
    groups--;
    return ncclInProgress;
}

/* While a communicator is in progress nothing else may be asked of it, but in the group that has made it so. */
static ncclResult_t queue(ncclComm_t comm, transfer t) {
    if (comm->polls && !groups) return ncclInvalidUsage;
    *comm->last = rlf_calloc(1, sizeof t);
    **comm->last = t;
    comm->last = &(*comm->last)->next;
    comm->polls = POLLS;
    return ncclInProgress;
}

static void connect_first(bool *connected) {
    simt_nccl_connections += !*connected;
    *connected = true;
}

ncclResult_t ncclSend(const void *data, size_t n, ncclDataType_t type, int to, ncclComm_t comm, cudaStream_t stream) {
    (void)type, (void)stream;
    connect_first(&comm->peers[to]);
    return queue(comm, (transfer){.send = data, .peer = to, .bytes = n});
}

ncclResult_t ncclRecv(void *data, size_t n, ncclDataType_t type, int from, ncclComm_t comm, cudaStream_t stream) {
    (void)type, (void)stream;
    connect_first(&comm->peers[from]);
    return queue(comm, (transfer){.receive = data, .peer = from, .bytes = n});
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = ncclInProgress;
    (void)type, (void)stream;
    connect_first(&comm->ring);
    if (comm->rank != root) return queue(comm, (transfer){.receive = to, .peer = root, .bytes = n});
    ncclGroupStart();
    for (int i = 0; i < comm->count && result == ncclInProgress; i++)
        if (i != root) result = queue(comm, (transfer){.send = from, .peer = i, .bytes = n});
    ncclGroupEnd();
    return result;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* A box's worth, if the box allows. */
static void move(ncclComm_t comm, transfer *t) {
    box *const boxes = comm->meeting->boxes, *const b = &boxes[t->send ? comm->rank * comm->count + t->peer : t->peer * comm->count + comm->rank];
    const size_t full = atomic_load(&b->bytes), n = t->send ? smaller(t->bytes - t->done, BOX_BYTES) : full;
    if (t->done == t->bytes || !n || (full != 0) == (t->send != NULL)) return; /* what else is there is of a transfer to come */
    if (t->send)
        memcpy(b->data, t->send + t->done, n);
    else
        memcpy(t->receive + t->done, b->data, n);
    t->done += n;
    atomic_store(&b->bytes, t->send ? n : 0);
}

/* Of several transfers with one peer the first comes first; here there is one each way. */
bool simt_nccl_idle(void) {
    bool idle = true;
    for (ncclComm_t comm = comms; comm; comm = comm->next) {
        for (transfer *t = comm->first; t; t = t->next) move(comm, t);
        while (comm->first && comm->first->done == comm->first->bytes) {
            transfer *over = comm->first;
            comm->first = over->next;
            free(over);
        }
        if (!comm->first) comm->last = &comm->first;
        idle = idle && !comm->first;
    }
    return idle;
}
