/* Transport: messages and raw buffers between ranks, over MPI. No rank spins while it waits, and no wait is without a deadline.
 *
 * Messages are sent without blocking (the bytes are copied and kept until MPI is done with them) and received from any rank, in
 * order per sender. A wait polls with MPI_Improbe and sleeps between polls, first 20 us, then up to 1 ms: an idle rank costs
 * under 1 % of a core. When a deadline passes, the error (RLF_TIMEOUT) names the operation and the rank waited for.
 *
 * Bulk: tensors, as raw bytes between two ranks that both know the size; in pieces of at most 64 MiB, each checked against the deadline.
 * Collectives here are built on bulk sends in rank order, so that sums have one order and every wait has a deadline.
 *
 * One thread per process uses the transport. Not a singleton only in name: one per process, made by rlf_transport_new from
 * MPI_COMM_WORLD. */
#ifndef RLF_COMMON_MSG_TRANSPORT_H
#define RLF_COMMON_MSG_TRANSPORT_H

#include <stdbool.h>

#include "common/msg/messages.h"

typedef struct rlf_transport rlf_transport;

typedef struct rlf_received {
    rlf_message_type type;
    int from;
    rlf_str bytes; /* owned by the receiver; reuse the same object for the next receive */
} rlf_received;

/* Initialises MPI if it is not. Collective over MPI_COMM_WORLD. */
rlf_status rlf_transport_new(rlf_transport **out, int *argc, char ***argv) RLF_MUST_USE;
/* Orderly end: collective; waits at most timeout_ms for sends under way, then finalises MPI. */
void rlf_transport_destroy(rlf_transport *transport, int timeout_ms);
/* Disorderly end: every rank of the job stops at once with `exit_status`. Does not return. */
void rlf_transport_abort(rlf_transport *transport, int exit_status) __attribute__((noreturn));

int rlf_transport_rank(const rlf_transport *transport);
int rlf_transport_size(const rlf_transport *transport);
/* Ranks on this node (for the default thread count), and this rank's index among them. */
int rlf_transport_local_size(const rlf_transport *transport);
int rlf_transport_local_rank(const rlf_transport *transport);

/* Encodes and sends. Never blocks. A rank may send to itself. */
rlf_status rlf_send(rlf_transport *transport, int to, rlf_message_type type, const void *record) RLF_MUST_USE;
/* The next message from any rank. timeout_ms 0: only look; *got says whether one came. Never RLF_TIMEOUT: not every silence is an error. */
rlf_status rlf_receive(rlf_transport *transport, rlf_received *message, int timeout_ms, bool *got) RLF_MUST_USE;
/* Lets sends make progress without receiving. */
void rlf_transport_poll(rlf_transport *transport);

/* Blocking, with a deadline. `what` ("weights version 7") is for the error text. */
rlf_status rlf_bulk_send(rlf_transport *transport, int to, const void *data, size_t bytes, int timeout_ms, const char *what) RLF_MUST_USE;
rlf_status rlf_bulk_receive(rlf_transport *transport, int from, void *data, size_t bytes, int timeout_ms, const char *what) RLF_MUST_USE;
/* The same data to several ranks at once (skips the caller itself). */
rlf_status rlf_bulk_send_many(rlf_transport *transport, const int *to, size_t n, const void *data, size_t bytes, int timeout_ms,
                              const char *what) RLF_MUST_USE;

/* Among ranks first..first+count-1, all of which call with the same arguments (collective over them).
 * Reduce-scatter: x[n] of every rank; rank first+i ends with the sum over ranks, added in rank order, of x[begin_i .. end_i) in
 * place, the parts being
 * rlf_shard(n, count, i). All-gather: the inverse; part i is taken from rank first+i. */
void rlf_shard(size_t n, int count, int i, size_t *begin, size_t *end); /* multiples of 16 but for the last end */
rlf_status rlf_reduce_scatter(rlf_transport *transport, int first, int count, float *x, size_t n, int timeout_ms) RLF_MUST_USE;
rlf_status rlf_all_gather(rlf_transport *transport, int first, int count, float *x, size_t n, int timeout_ms) RLF_MUST_USE;
/* Sum in rank order of n doubles on every rank. */
rlf_status rlf_all_reduce(rlf_transport *transport, int first, int count, double *x, size_t n, int timeout_ms) RLF_MUST_USE;

#endif
