/* Tensors between ranks: gradients added over learners, weights gathered and handed over.
 *
 * Three ways, the best that all concerned have:
 *   each rank has a card of its own, and the build NCCL: straight from card to card;
 *   a taker is on the card of one that gives: it looks into the giver's memory, and nothing is copied;
 *   else MPI, which knows the host's memory only. Where that is the device's too, tensors are sent from where they lie and received
 *   where they belong; elsewhere they go through page-locked memory, a piece at a time, so that a slab is never held twice.
 * All only move bytes. A sum is added on the device, in rank order, element by element, so its bits depend neither on the way nor
 * on the size of the pieces. What is added travels as float32 or, half the bytes, as bfloat16.
 *
 * Every wait has the deadline given at the start, from the beginning of the call on; the error (RLF_TIMEOUT) names the operation
 * and, but for NCCL, the rank waited for. One thread at a time. */
#ifndef RLF_KERNELS_COMM_COMM_H
#define RLF_KERNELS_COMM_COMM_H

#include "common/msg/transport.h"
#include "kernels/kern.h"

typedef struct kern_comm kern_comm;

/* Queue and transport are borrowed. `piece_bytes`, a multiple of 64, is the same on all ranks that exchange tensors. */
rlf_status kern_comm_new(kern_comm **out, kern_queue *queue, rlf_transport *transport, size_t piece_bytes, int timeout_ms) RLF_MUST_USE;
void kern_comm_destroy(kern_comm *comm);

/* Ranks first..first+count-1 join in the two collectives below; itself collective over them. Once for a comm. What the ways between them
 * take of the device they take now, and not with the first collective. */
rlf_status kern_comm_join(kern_comm *comm, int first, int count) RLF_MUST_USE;
/* For the memory plan: bytes of the device in buffers of ours; and, beside those, what NCCL takes of a card for a link with `peers` other
 * cards of its node. */
size_t kern_comm_bytes(size_t piece_bytes, int count);
size_t kern_comm_link_bytes(int peers);
/* Reduce-scatter: x (n) float32 of every rank; rank first+i ends with the sum over ranks of part i in place, the parts being
 * rlf_shard(n, count, i). `wire` KERN_BF16: every rank's x, that of the rank itself too, is rounded to the nearest bfloat16 (of two the
 * even one), and the rounded ones are added in float32, in the same order. All-gather: the inverse, for any dtype; part i is taken from
 * rank first+i. Either may be called with one rank, and does nothing: what does not travel is not rounded. */
rlf_status kern_comm_reduce_scatter(kern_comm *comm, kern_tensor x, size_t n, kern_dtype wire) RLF_MUST_USE;
rlf_status kern_comm_all_gather(kern_comm *comm, kern_tensor x, size_t n) RLF_MUST_USE;

/* n elements from one rank to several by MPI, each of which receives as many. `what` ("weights version 7") is for the error's
 * text. */
rlf_status kern_comm_send(kern_comm *comm, const int *to, size_t n_to, kern_tensor x, size_t n, const char *what) RLF_MUST_USE;
rlf_status kern_comm_receive(kern_comm *comm, int from, kern_tensor x, size_t n, const char *what) RLF_MUST_USE;

/* One tensor that is handed over again and again, to ranks first..first+takers-1. The `givers` ranks after them all hold it: any of them
 * shares it with takers on its card, and the first of them sends it to the other takers: from card to card to one on each card, by MPI to
 * those which are not alone there. These do not look into that one's memory: they would have to be told when it has the tensor, and it would
 * have to keep it for them. */
typedef struct kern_handover kern_handover;
/* Collective over all those ranks; as above, all memory of the device is taken now. buf holds n elements of dtype from its start: a giver's
 * tensor. A taker gives NULL; where it is on a giver's card, and can open that giver's buffer, *shared is it, and the taker's own (else NULL:
 * the taker makes one of its own). */
rlf_status kern_handover_new(kern_handover **out, kern_comm *comm, int first, int takers, int givers, kern_buf *buf, size_t n,
                             kern_dtype dtype, kern_buf **shared) RLF_MUST_USE;
void kern_handover_destroy(kern_handover *handover);
/* Collective likewise, when all givers hold the same: x of the takers is then theirs. A shared x is it without this call, and so while its
 * giver writes it: takers look at x only after the call, and no more once a giver may be writing again. The caller sees to both: here, by
 * generation and training that take turns. */
rlf_status kern_handover_run(kern_handover *handover, kern_tensor x, const char *what) RLF_MUST_USE;
/* How it comes to this taker: "as the giver's own memory", "from card to card" or "through the host". Of the first giver: "from card to
 * card" where it goes so to any. */
const char *kern_handover_way(const kern_handover *handover);
/* The orderly end, collective likewise: takers call it when they have destroyed what they shared, givers before they destroy their
 * buffers. */
rlf_status kern_handover_part(kern_handover *handover) RLF_MUST_USE;

#endif
