/* Transport: messages and raw buffers between ranks, over MPI. No rank spins while nothing comes, and no wait is without a deadline
 * (rlf_transport_new has none: MPI_Init cannot be given one; trainer/startup.h guards it from outside).
 *
 * Messages are sent without blocking (the bytes are copied and kept until MPI is done with them) and received from any rank, in
 * order per sender. A wait polls with MPI_Improbe and sleeps between polls, 20 us to 1 ms (4 ms on rank 0) as messages come or not: an
 * idle rank costs under 1 % of a core. When a deadline passes, the error (RLF_TIMEOUT) names the operation and the rank waited for.
 *
 * MPI moves what is longer than a few KiB only while it is called, on both sides, so a wait does not sleep while bytes are on their
 * way: it looks again and again, each time giving the core to whoever has work (sched_yield), and sleeps only when for 10 ms no
 * piece has come through; for a message: 10 ms and what it takes at 100 MB/s.
 *
 * Rank 0 is the one that every other rank waits for, so it shows that it is there: while it receives, and in long work of its own
 * (common/base/alive.h), it sends a HEARTBEAT to every rank, at once and then several times within the deadline of
 * rlf_transport_set_deadline. These stay inside the transport. A rank that waits
 * and has heard nothing from rank 0 for longer gets RLF_TIMEOUT.
 *
 * Bulk: tensors, as raw bytes between two ranks that both know the size; in pieces of 1 MiB, four on their way at a time (bulk.c).
 * What an error leaves unfinished goes on when the other rank comes, with the next call of MPI: the memory of a bulk operation that gave
 * RLF_TIMEOUT is left as it is until the process ends.
 * Collectives here are built on bulk sends in rank order, so that sums have one order and every wait has a deadline; those on
 * tensors are in kernels/comm.
 *
 * One thread per process uses the transport. Not a singleton only in name: one per process, made by rlf_transport_new from
 * MPI_COMM_WORLD. */
#ifndef RLF_COMMON_MSG_TRANSPORT_H
#define RLF_COMMON_MSG_TRANSPORT_H

#include <sched.h>
#include <stdbool.h>
#include <sys/types.h>

#include "common/msg/messages.h"

typedef struct rlf_transport rlf_transport;

typedef struct rlf_received {
    rlf_message_type type;
    int from;
    rlf_str bytes; /* owned by the receiver; reuse the same object for the next receive */
} rlf_received;

/* A rank of this node, as the operating system sees it. */
typedef struct rlf_neighbour {
    int rank;
    pid_t pid;
    cpu_set_t cores; /* that it may run on */
} rlf_neighbour;

/* Initialises MPI if it is not. Collective over MPI_COMM_WORLD. */
rlf_status rlf_transport_new(rlf_transport **out, int *argc, char ***argv) RLF_MUST_USE;
/* Orderly end: collective; waits at most timeout_ms for sends under way and for the other ranks, then finalises MPI. RLF_TIMEOUT if they
 * do not come: the transport is still there, to be aborted. */
rlf_status rlf_transport_destroy(rlf_transport *transport, int timeout_ms) RLF_MUST_USE;
/* Disorderly end: every rank of the job stops at once with `exit_status`. Does not return. */
void rlf_transport_abort(rlf_transport *transport, int exit_status) __attribute__((noreturn));

int rlf_transport_rank(const rlf_transport *transport);
int rlf_transport_size(const rlf_transport *transport);
/* The clock of deadlines of bulk operations: it stands still while this rank waits in one and is suspended, with the whole job perhaps. */
int64_t rlf_transport_now_ms(const rlf_transport *transport);
/* The n ranks of this node, this one among them, ascending. The transport keeps them. */
const rlf_neighbour *rlf_transport_neighbours(const rlf_transport *transport, size_t *n);
/* How long a rank may wait for a sign of rank 0: first_ms for the first, silence_ms from one to the next; a message that stops half-way
 * may take silence_ms too. The same on all ranks. Before this call: an hour, and no signs. */
void rlf_transport_set_deadline(rlf_transport *transport, int64_t first_ms, int64_t silence_ms);

/* Encodes and sends. Never blocks. A rank may send to itself. */
rlf_status rlf_send(rlf_transport *transport, int to, rlf_message_type type, const void *record) RLF_MUST_USE;
/* The next message from any rank. timeout_ms 0: only look; *got says whether one came: not every silence is an error. RLF_TIMEOUT: that
 * of rank 0 is, after the deadline set. */
rlf_status rlf_receive(rlf_transport *transport, rlf_received *message, int timeout_ms, bool *got) RLF_MUST_USE;
/* Lets sends make progress without receiving; *sending: some are not through. A long message needs this while its receiver takes it. */
rlf_status rlf_transport_poll(rlf_transport *transport, bool *sending) RLF_MUST_USE;

/* Blocking, with a deadline. `what` ("weights version 7") is for the error text. */
rlf_status rlf_bulk_receive(rlf_transport *transport, int from, void *data, size_t bytes, int timeout_ms, const char *what) RLF_MUST_USE;
/* The same data to one rank or several at once (skips the caller itself). */
rlf_status rlf_bulk_send_many(rlf_transport *transport, const int *to, size_t n, const void *data, size_t bytes, int timeout_ms,
                              const char *what) RLF_MUST_USE;

/* Part i of n elements shared by `count` ranks: from a multiple of 16 to a multiple of 16, but for the last end. */
void rlf_shard(size_t n, int count, int i, size_t *begin, size_t *end);

/* What this rank exchanges with one other. */
typedef struct rlf_exchange {
    const void *send;
    void *receive;
    size_t send_bytes, receive_bytes;
} rlf_exchange;
/* Among ranks first..first+count-1, all of which call (collective over them): exchanges with[i] with rank first+i; its own entry
 * is left alone. */
rlf_status rlf_exchange_all(rlf_transport *transport, int first, int count, const rlf_exchange *with, int timeout_ms,
                            const char *what) RLF_MUST_USE;
/* Sum in rank order of n doubles on every rank, likewise. */
rlf_status rlf_all_reduce(rlf_transport *transport, int first, int count, double *x, size_t n, int timeout_ms) RLF_MUST_USE;

#endif
