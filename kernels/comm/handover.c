/* A tensor handed over again and again (comm.h). Takers on a giver's card share its memory, where they can open it. Of the others the first on each
 * card is linked with the first giver, where all of those can be; to the rest MPI brings it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/mem.h"
#include "kernels/comm/group.h"

enum { BUCKET_BYTES = 256 << 20 }; /* of one broadcast: so that a deadline and a failure are looked at in between */

struct kern_handover {
    kern_comm *comm;
    int first, takers, count, me; /* place among all; givers' are behind takers' */
    size_t n;
    bool shares;          /* this taker looks into a giver's memory */
    kern_link *link;      /* of takers and, as the last, the first giver; NULL: this is none of them */
    int linked;           /* takers in it */
    int *to;              /* (n_to) of the first giver: ranks that take by MPI; owned */
    size_t n_to;
};

static bool gives(const kern_handover *h) { return h->me >= h->takers; }
static bool sends(const kern_handover *h) { return h->me == h->takers; }

/* The giver whose memory a taker would look into: the first on its card that shares; NULL: none. */
static const kern_member *giver_beside(const kern_handover *h, const kern_member *all, int taker) {
    for (int i = h->takers; i < h->count; i++)
        if (all[i].shares && kern_same_card(&all[i], &all[taker])) return &all[i];
    return NULL;
}

static rlf_status meet(kern_handover *h, kern_buf *buf, kern_member *all) {
    rlf_status status = RLF_OK;
    kern_member me;
    kern_member_init(&me, h->comm, sends(h));
    if (gives(h) && me.card) me.shares = kern_buf_share(buf, me.share) == RLF_OK;
    if (gives(h) && me.card && !me.shares) RLF_INFO("weights are copied to other ranks on this card too: %s", rlf_error_message());
    RLF_TRY(kern_members_meet(h->comm, h->first, h->count, &me, all));
out:
    return status;
}

/* Each tells all others a byte; told: (count), or NULL where it is only a matter of having come. */
static rlf_status tell(const kern_handover *h, char mine, char *told, const char *what) {
    char *words = rlf_calloc((size_t)h->count, 1);
    rlf_exchange *with = rlf_calloc((size_t)h->count, sizeof *with);
    for (int i = 0; i < h->count; i++) with[i] = (rlf_exchange){&mine, &words[i], 1, 1};
    rlf_status status = rlf_exchange_all(h->comm->transport, h->first, h->count, with, h->comm->timeout_ms, what);
    words[h->me] = mine;
    if (status == RLF_OK && told) memcpy(told, words, (size_t)h->count);
    free(with);
    if (status != RLF_TIMEOUT) free(words); /* transport.h */
    return status;
}

/* Takers beside a giver open its memory; looks (count): which of them do. A handle that can be made need not open elsewhere: in a container with
 * processes of its own, say. */
static rlf_status look(kern_handover *h, const kern_member *all, size_t bytes, kern_buf **shared, char *looks) {
    const kern_member *giver = gives(h) ? NULL : giver_beside(h, all, h->me);
    bool any = false;
    for (int i = h->takers; i < h->count; i++) any |= all[i].shares;
    if (!any) return RLF_OK;
    if (giver && kern_buf_open(shared, kern_queue_device(h->comm->queue), giver->share, bytes) != RLF_OK)
        RLF_INFO("weights are copied to this rank, which cannot look into those of a learner on its card: %s", rlf_error_message());
    return tell(h, *shared != NULL, looks, "acquaintance of the ranks that share weights");
}

/* Has NCCL connect the cards now, as in comm.c; the takers have no tensor yet. */
static rlf_status broadcast_first(const kern_handover *h) {
    enum { BYTES = 16 };
    rlf_status status = RLF_OK;
    kern_buf *buf = NULL;
    RLF_TRY(kern_buf_new(&buf, kern_queue_device(h->comm->queue), BYTES));
    RLF_TRY(kern_comm_links(h->comm)->broadcast(h->link, kern_address(kern_view(buf, KERN_U8)), BYTES, h->linked, h->comm->timeout_ms,
                                                "first broadcast"));
out:
    if (status != RLF_TIMEOUT) kern_buf_destroy(buf);
    return status;
}

/* Of the takers that do not look the first on each card but the first giver's: NCCL has one rank a card. */
static void choose(const kern_handover *h, const kern_member *all, const char *looks, bool *chosen) {
    chosen[h->takers] = true;
    for (int i = 0; i < h->takers; i++) {
        chosen[i] = !looks[i] && !kern_same_card(&all[i], &all[h->takers]);
        for (int j = 0; j < i; j++)
            if (chosen[j] && kern_same_card(&all[i], &all[j])) chosen[i] = false;
    }
}

/* Who shares, a link for some of the rest, and what the first giver sends by MPI. */
static rlf_status arrange(kern_handover *h, kern_buf *buf, size_t bytes, kern_buf **shared) {
    rlf_status status = RLF_OK;
    kern_member *all = rlf_calloc((size_t)h->count, sizeof *all);
    bool *chosen = rlf_calloc((size_t)h->count, sizeof *chosen);
    char *looks = rlf_calloc((size_t)h->count, sizeof *looks);
    RLF_TRY(meet(h, buf, all));
    RLF_TRY(look(h, all, bytes, shared, looks));
    choose(h, all, looks, chosen);
    h->shares = *shared != NULL;
    if (chosen[h->me]) RLF_TRY(kern_members_link(h->comm, all, chosen, h->count, h->me, h->takers, &h->link));
    for (int i = 0; i < h->takers; i++) {
        if (h->link && chosen[i]) h->linked++;
        else if (sends(h) && !looks[i]) h->to[h->n_to++] = h->first + i;
    }
    if (h->link) RLF_TRY(broadcast_first(h));
out:
    if (status != RLF_OK) {
        kern_buf_destroy(*shared);
        *shared = NULL;
    }
    free(looks);
    free(chosen);
    if (status != RLF_TIMEOUT) free(all); /* transport.h */
    return status;
}

rlf_status kern_handover_new(kern_handover **out, kern_comm *comm, int first, int takers, int givers, kern_buf *buf, size_t n,
                             kern_dtype dtype, kern_buf **shared) {
    rlf_status status = RLF_OK;
    kern_handover *h = rlf_calloc(1, sizeof *h);
    *h = (kern_handover){.comm = comm, .first = first, .takers = takers, .count = takers + givers, .n = n,
                         .me = rlf_transport_rank(comm->transport) - first};
    h->to = rlf_calloc((size_t)takers, sizeof *h->to);
    *shared = NULL;
    assert(gives(h) == (buf != NULL));
    RLF_TRY(arrange(h, buf, n * kern_dtype_size(dtype), shared));
    if (sends(h) && !kern_queue_device(comm->queue)->backend->host_memory)
        RLF_INFO("weights go to %d of %d rollout ranks from card to card, to %zu through the host; the others look into a learner's", h->linked,
                 takers, h->n_to);
    *out = h;
    h = NULL;
out:
    kern_handover_destroy(h);
    return status;
}

void kern_handover_destroy(kern_handover *h) {
    if (!h) return;
    if (h->link) kern_comm_links(h->comm)->destroy(h->link);
    free(h->to);
    free(h);
}

const char *kern_handover_way(const kern_handover *h) { return h->shares ? "as the giver's own memory" : kern_comm_way(h->link); }

static rlf_status broadcast(kern_handover *h, kern_tensor x, const char *what) {
    rlf_status status = RLF_OK;
    const kern_link_ops *links = kern_comm_links(h->comm);
    size_t bytes = h->n * kern_dtype_size(x.dtype);
    int64_t deadline = kern_comm_deadline_ms(h->comm);
    for (size_t at = 0; at < bytes; at += BUCKET_BYTES) {
        size_t k = bytes - at < BUCKET_BYTES ? bytes - at : BUCKET_BYTES;
        RLF_TRY(links->broadcast(h->link, (char *)kern_address(x) + at, k, h->linked, kern_comm_left_ms(h->comm, deadline), what));
    }
out:
    return status;
}

rlf_status kern_handover_part(kern_handover *h) {
    if (kern_queue_device(h->comm->queue)->backend->host_memory) return RLF_OK;
    return tell(h, 0, NULL, "end of shared weights");
}

/* Those that take by MPI wait until the linked ones have it. */
rlf_status kern_handover_run(kern_handover *h, kern_tensor x, const char *what) {
    rlf_status status = RLF_OK;
    if (h->shares || (gives(h) && !sends(h))) goto out;
    if (h->link) RLF_TRY(broadcast(h, x, what));
    if (h->n_to) RLF_TRY(kern_comm_send(h->comm, h->to, h->n_to, x, h->n, what));
    if (!gives(h) && !h->link) RLF_TRY(kern_comm_receive(h->comm, h->first + h->takers, x, h->n, what));
out:
    return status;
}
