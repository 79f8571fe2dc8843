/* link: cards of several processes that exchange memory directly, and all that is asked of NCCL for it. link.c passes it on;
 * tests/simt/nccl.c stands in for NCCL where there are no cards.
 *
 * Collective over the ranks of a link, each on a card of its own; operations come in the same order on all. Nothing here blocks
 * in NCCL: every wait polls, until the deadline at the latest. Then the link is aborted, and the error (RLF_TIMEOUT) names the
 * operation; a link that failed once is not usable again. An operation is over, on this card, when its function returns. */
#ifndef RLF_KERNELS_CUDA_LINK_H
#define RLF_KERNELS_CUDA_LINK_H

#include "kernels/cuda/card.h"
#include "kernels/ops.h"

/* Made by one rank and told to the others. */
rlf_status kern_link_id(unsigned char id[KERN_LINK_ID_BYTES]) RLF_MUST_USE;
rlf_status kern_link_new(kern_link **out, kern_card *card, const unsigned char id[KERN_LINK_ID_BYTES], int rank, int count,
                         int timeout_ms) RLF_MUST_USE;
void kern_link_destroy(kern_link *link);
/* with[i]: what goes to and comes from rank i; its own entry is left alone. */
rlf_status kern_link_exchange(kern_link *link, const kern_link_part *with, int timeout_ms, const char *what) RLF_MUST_USE;
/* The root's bytes to all. */
rlf_status kern_link_broadcast(kern_link *link, void *data, size_t bytes, int root, int timeout_ms, const char *what) RLF_MUST_USE;

#endif
