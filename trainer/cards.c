/* Ranks on cards (cards.h). */
#include "trainer/cards.h"

#include <string.h>

#include "kernels/comm/comm.h"

/* What a process takes on a card beside its tensors: a device's own work space, 304 MB (kernels/cuda/cuda.h), and the CUDA context with the
 * kernels' code, taken to be 500 MB (not measured). */
#define PROCESS_BYTES 800e6
#define MB(bytes) ((double)(bytes) / 1e6)

rlf_status trainer_cards(const rlf_config *config, int *cards) {
    kern_card_facts first;
    *cards = strcmp(config->device, "cpu") == 0 ? 0 : kern_cards();
    if (strcmp(config->device, "cuda") != 0 || *cards > 0) return RLF_OK;
    rlf_status status = kern_card_find(&first, 0); /* says why there is none */
    rlf_error_context("device: cuda");
    return status;
}

static bool computes(const trainer_topology *topology, int rank) { return rank >= topology->rollout_first && rank < topology->size; }

int trainer_card_of(const trainer_topology *topology, const rlf_neighbour *near, size_t n, int cards, int rank) {
    int learners = 0, before = 0;
    trainer_role role = trainer_topology_role(topology, rank);
    if (cards == 0 || !computes(topology, rank)) return -1;
    for (size_t i = 0; i < n; i++) {
        trainer_role other = trainer_topology_role(topology, near[i].rank);
        learners += other == TRAINER_LEARNER;
        before += other == role && near[i].rank < rank;
    }
    return (role == TRAINER_LEARNER ? before : learners + before) % cards;
}

/* A job on this node's cards. */
typedef struct cards_job {
    const trainer_topology *topology;
    const rlf_neighbour *near;
    size_t n;
    int cards;
    const trainer_memory *rollout, *learner;
} cards_job;

static int card_of(const cards_job *j, int rank) { return trainer_card_of(j->topology, j->near, j->n, j->cards, rank); }
static bool learns(const cards_job *j, int rank) { return trainer_topology_role(j->topology, rank) == TRAINER_LEARNER; }

static bool has_learner(const cards_job *j, int card) {
    for (size_t i = 0; i < j->n; i++)
        if (learns(j, j->near[i].rank) && card_of(j, j->near[i].rank) == card) return true;
    return false;
}

static double taken_by(const cards_job *j, int rank) {
    if (learns(j, rank)) return PROCESS_BYTES + trainer_memory_sum(j->learner);
    return PROCESS_BYTES + trainer_memory_sum(j->rollout) - (has_learner(j, card_of(j, rank)) ? j->rollout->weights : 0);
}

/* ---- links (kernels/comm): ranks on this node that have one, and what it takes ------------------------------------------------------- */

static bool is_first_of_its_role(const cards_job *j, int rank) {
    for (size_t i = 0; i < j->n; i++) {
        int other = j->near[i].rank;
        if (other < rank && learns(j, other) == learns(j, rank) && card_of(j, other) == card_of(j, rank)) return false;
    }
    return true;
}

/* Learners exchange gradients so where there are several, each with a card of its own. */
static int linked_learners(const cards_job *j) {
    int n = 0;
    for (size_t i = 0; i < j->n; i++) {
        if (!learns(j, j->near[i].rank)) continue;
        if (!is_first_of_its_role(j, j->near[i].rank)) return 0;
        n++;
    }
    return j->topology->learners > 1 ? n : 0;
}

/* The first learner hands weights so to a rollout rank on each card that no learner is on. */
static bool takes_by_link(const cards_job *j, int rank) {
    int card = card_of(j, rank);
    return j->topology->learners > 0 && card >= 0 && !has_learner(j, card) && is_first_of_its_role(j, rank);
}

static int linked_takers(const cards_job *j) {
    int n = 0;
    for (size_t i = 0; i < j->n; i++) n += takes_by_link(j, j->near[i].rank);
    return n;
}

static double links_of(const cards_job *j, int rank) {
    const int learners = linked_learners(j), takers = linked_takers(j), neighbours = takers < 2 ? takers : 2; /* a broadcast goes round a ring */
    double bytes = 0;
    if (learners && learns(j, rank)) bytes += (double)kern_comm_link_bytes(learners - 1);
    if (takers && (rank == j->topology->learner_first || takes_by_link(j, rank))) bytes += (double)kern_comm_link_bytes(neighbours);
    return bytes;
}

static rlf_status plan_card(const cards_job *j, int card, rlf_str *out) {
    double taken = 0, links = 0;
    kern_card_facts facts = {0};
    rlf_str ranks = {0};
    rlf_status status = kern_card_find(&facts, card);
    for (size_t i = 0; i < j->n; i++) {
        int rank = j->near[i].rank;
        if (card_of(j, rank) != card) continue;
        rlf_str_printf(&ranks, "%srank %d %s", ranks.len ? ", " : "", rank, trainer_role_name(trainer_topology_role(j->topology, rank)));
        taken += taken_by(j, rank);
        if (facts.links) links += links_of(j, rank);
    }
    if (links > 0) rlf_str_printf(&ranks, ", NCCL (%.1f MB)", MB(links));
    taken += links;
    if (status == RLF_OK && ranks.len)
        rlf_str_printf(out, "card %d      %s: %.1f of %.1f MB taken by %s\n", card, facts.name, MB(taken), MB(facts.bytes), ranks.ptr);
    if (status == RLF_OK && taken > (double)facts.bytes)
        status = RLF_RAISE(LIMIT, "card %d, %s: %.1f MB are planned for %s, but it has %.1f MB; take fewer ranks, or smaller "
                           "rollout.cache_tokens or train.micro_tokens%s", card, facts.name, MB(taken), ranks.ptr, MB(facts.bytes),
                           j->cards == 1 ? "; ranks that were given a card each have to see all of their node's (Slurm: --gpus-per-node)" : "");
    rlf_str_clean_up(&ranks);
    return status;
}

rlf_status trainer_cards_plan(const trainer_topology *topology, const rlf_neighbour *near, size_t n, int cards,
                              const trainer_memory *rollout, const trainer_memory *learner, rlf_str *out) {
    rlf_status status = RLF_OK;
    cards_job job = {topology, near, n, cards, rollout, learner};
    for (int card = 0; card < cards; card++) RLF_TRY(plan_card(&job, card, out));
out:
    return status;
}
