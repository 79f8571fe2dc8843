/* What ranks tell each other before they exchange tensors: the cards they are on. Private to kernels/comm. */
#ifndef RLF_KERNELS_COMM_GROUP_H
#define RLF_KERNELS_COMM_GROUP_H

#include "kernels/comm/comm.h"
#include "kernels/ops.h"

struct kern_comm {
    kern_queue *queue;
    rlf_transport *transport;
    int timeout_ms;
    size_t piece_bytes;
    kern_stage stage;  /* (piece_bytes) on cards, for MPI */
    int first, count;  /* who joined */
    kern_buf *parts;   /* (piece_bytes / 2): a piece of each rank, to be added; as bfloat16, behind them the pieces that are sent */
    kern_link *link;   /* NULL: MPI */
};

/* What a rank tells of itself. */
typedef struct kern_member {
    bool card, links, shares; /* it is on a card; can be linked; gives a handle to its tensor */
    int major;                /* of the card's compute capability */
    char name[96];            /* of the device */
    unsigned char identity[KERN_IDENTITY_BYTES], link_id[KERN_LINK_ID_BYTES], share[KERN_SHARE_BYTES];
} kern_member;

/* This rank; with an id for a link, where it is the one that `makes` it. Without an id it cannot be linked, and says so in the log. */
void kern_member_init(kern_member *me, const kern_comm *comm, bool makes);
/* Collective over ranks first..first+count-1: all[i] is what rank first+i tells. Cards and CPUs together are an error: they do not
 * promise the same bits. Nor do cards whose major numbers differ, but for float32 factors, and factors are not known here: that is a warning
 * from rank `first`. */
rlf_status kern_members_meet(const kern_comm *comm, int first, int count, const kern_member *me, kern_member *all) RLF_MUST_USE;
bool kern_same_card(const kern_member *a, const kern_member *b);
/* Links those of n members that are chosen, of which this rank is one, where they can: all have links, each has a card of its
 * own. *link stays NULL else. `maker`, one of them, has the id. */
rlf_status kern_members_link(const kern_comm *comm, const kern_member *all, const bool *chosen, int n, int me,
                             int maker, kern_link **link) RLF_MUST_USE;

const kern_link_ops *kern_comm_links(const kern_comm *comm);
/* For the log. */
const char *kern_comm_way(const kern_link *link);
/* On the clock of the transport: from now on, and how long until then, at least 0. */
int64_t kern_comm_deadline_ms(const kern_comm *comm);
int kern_comm_left_ms(const kern_comm *comm, int64_t deadline_ms);

#endif
