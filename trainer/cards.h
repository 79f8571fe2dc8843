/* Which card of its node a rank computes on, and whether the cards hold what they would have to. Private to trainer/.
 *
 * The ranks of a node that compute are numbered, learners first, and take the node's cards in turn: learners are spread as evenly
 * as may be, and so are rollout ranks; where there are fewer cards, several ranks share one. */
#ifndef RLF_TRAINER_CARDS_H
#define RLF_TRAINER_CARDS_H

#include "common/msg/transport.h"
#include "trainer/memory.h"
#include "trainer/topology.h"

/* Cards of this node for the key `device`: 0 for cpu, and for auto where there are none. cuda without a card is an error. */
rlf_status trainer_cards(const rlf_config *config, int *cards) RLF_MUST_USE;
/* The card of `rank`, which is one of the n neighbours; -1 for one that does not compute, and without cards. */
int trainer_card_of(const trainer_topology *topology, const rlf_neighbour *near, size_t n, int cards, int rank);
/* Appends a line for each card with ranks on it: which, and how much they take, each rank as much as memory says of its role; but
 * a rollout rank on a learner's card shares its weights. What NCCL takes for links between cards is named apart: the ranks' own figures do not
 * have it. Cards with too little memory are an error. */
rlf_status trainer_cards_plan(const trainer_topology *topology, const rlf_neighbour *near, size_t n, int cards,
                              const trainer_memory *rollout, const trainer_memory *learner, rlf_str *out) RLF_MUST_USE;

#endif
