/* Members of a group and their cards (group.h). */
#include "kernels/comm/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/mem.h"

const kern_link_ops *kern_comm_links(const kern_comm *c) { return kern_queue_device(c->queue)->backend->link; }

const char *kern_comm_way(const kern_link *link) { return link ? "from card to card" : "through the host"; }

int64_t kern_comm_deadline_ms(const kern_comm *c) { return rlf_transport_now_ms(c->transport) + c->timeout_ms; }

int kern_comm_left_ms(const kern_comm *c, int64_t deadline_ms) {
    int64_t left = deadline_ms - rlf_transport_now_ms(c->transport);
    return left > 0 ? (int)left : 0;
}

/* An id that cannot be made ends no job: where every rank is on one card nobody asks for it. */
void kern_member_init(kern_member *me, const kern_comm *c, bool makes) {
    *me = (kern_member){.card = kern_device_is_card(kern_queue_device(c->queue)), .links = kern_comm_links(c) != NULL};
    memcpy(me->identity, kern_queue_device(c->queue)->identity, sizeof me->identity);
    me->major = kern_queue_device(c->queue)->major;
    snprintf(me->name, sizeof me->name, "%.95s", kern_device_name(kern_queue_device(c->queue)));
    if (!me->links || !makes || kern_comm_links(c)->id(me->link_id) == RLF_OK) return;
    me->links = false;
    RLF_WARN("nothing goes from card to card, but through the host: %s", rlf_error_message());
}

/* Tensor cores of different generations keep different bits of a sum of products of bfloat16: of an A100 and an H100, say. */
static void warn_of_cards(int first, int count, const kern_member *all) {
    for (int i = 1; i < count; i++) {
        if (all[i].major == all[0].major) continue;
        RLF_WARN("rank %d computes on %s (compute capability %d), rank %d on %s (%d): with compute_dtype bfloat16 their bits may "
                 "differ, and logprob_diff_max then is not 0; with float32 they are the same", first, all[0].name, all[0].major, first + i, all[i].name, all[i].major);
        return;
    }
}

rlf_status kern_members_meet(const kern_comm *c, int first, int count, const kern_member *me, kern_member *all) {
    rlf_status status = RLF_OK;
    int rank = rlf_transport_rank(c->transport);
    rlf_exchange *with = rlf_calloc((size_t)count, sizeof *with);
    for (int i = 0; i < count; i++) with[i] = (rlf_exchange){me, &all[i], sizeof *me, sizeof *me};
    RLF_TRY(rlf_exchange_all(c->transport, first, count, with, c->timeout_ms, "acquaintance of the ranks that exchange tensors"));
    all[rank - first] = *me;
    for (int i = 0; i < count; i++)
        if (all[i].card != me->card)
            RLF_FAIL(INVALID, "rank %d computes on %s, rank %d on %s: set device to cpu, or start the job where every node has cards", rank,
                     me->card ? "a card" : "the CPU", first + i, me->card ? "the CPU" : "a card");
    if (rank == first) warn_of_cards(first, count, all);
out:
    free(with);
    return status;
}

bool kern_same_card(const kern_member *a, const kern_member *b) { return memcmp(a->identity, b->identity, sizeof a->identity) == 0; }

rlf_status kern_members_link(const kern_comm *c, const kern_member *all, const bool *chosen, int n, int me, int maker,
                             kern_link **link) {
    int count = 0, place = 0;
    for (int i = 0; i < n; i++) {
        if (!chosen[i]) continue;
        if (!all[i].links) return RLF_OK;
        for (int j = 0; j < i; j++)
            if (chosen[j] && kern_same_card(&all[i], &all[j])) return RLF_OK;
        place += i < me;
        count++;
    }
    if (count < 2) return RLF_OK;
    return kern_comm_links(c)->make(link, kern_queue_device(c->queue)->ctx, all[maker].link_id, place, count, c->timeout_ms);
}
