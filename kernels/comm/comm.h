/* Tensors between ranks: gradients added over learners, weights gathered and handed over.
 *
 * Over MPI, which knows the host's memory only. Where that is the device's too, tensors are sent from where they lie and received where they
 * belong. Elsewhere they go through a stage of page-locked memory, a piece at a time, so that a slab is never held twice. A sum is added in
 * rank order, element by element, so its bits depend neither on that nor on the size of the pieces.
 *
 * Every wait has the deadline given at the start, from the beginning of the call on; the error (RLF_TIMEOUT) names the rank waited for and
 * the operation. One thread at a time. */
#ifndef RLF_KERNELS_COMM_COMM_H
#define RLF_KERNELS_COMM_COMM_H

#include "common/msg/transport.h"
#include "kernels/kern.h"

typedef struct kern_comm kern_comm;

/* Queue and transport are borrowed. `piece_bytes`, a multiple of 64, is the same on all ranks that exchange tensors. */
rlf_status kern_comm_new(kern_comm **out, kern_queue *queue, rlf_transport *transport, size_t piece_bytes, int timeout_ms) RLF_MUST_USE;
void kern_comm_destroy(kern_comm *comm);

/* Among ranks first..first+count-1, all of which call with the same arguments (collective over them).
 * Reduce-scatter: x (n) float32 of every rank; rank first+i ends with the sum over ranks of part i in place, the parts being rlf_shard(n,
 * count, i). What the other parts hold afterwards is undefined. All-gather: the inverse, for any dtype; part i is taken from rank
 * first+i. */
rlf_status kern_comm_reduce_scatter(kern_comm *comm, int first, int count, kern_tensor x, size_t n) RLF_MUST_USE;
rlf_status kern_comm_all_gather(kern_comm *comm, int first, int count, kern_tensor x, size_t n) RLF_MUST_USE;

/* n elements from one rank to several, each of which receives as many. `what` ("weights version 7") is for the error's text. */
rlf_status kern_comm_send(kern_comm *comm, const int *to, size_t n_to, kern_tensor x, size_t n, const char *what) RLF_MUST_USE;
rlf_status kern_comm_receive(kern_comm *comm, int from, kern_tensor x, size_t n, const char *what) RLF_MUST_USE;

#endif
