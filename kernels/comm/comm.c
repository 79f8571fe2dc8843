/* Collectives, and the way through MPI (comm.h). Every operation is a loop over pieces: what is to be sent and where what is
 * received belongs, as tensors; then either the cards exchange it themselves, or the host does. The stage has room for one piece
 * of a broadcast, or for what one rank exchanges with all others at a time. */
#include "kernels/comm/comm.h"

#include <assert.h>
#include <stdlib.h>

#include "common/base/log.h"
#include "common/base/mem.h"
#include "kernels/comm/group.h"

static bool host_memory(const kern_comm *c) { return kern_queue_device(c->queue)->backend->host_memory; }

rlf_status kern_comm_new(kern_comm **out, kern_queue *queue, rlf_transport *transport, size_t piece_bytes, int timeout_ms) {
    rlf_status status = RLF_OK;
    kern_comm *c = rlf_calloc(1, sizeof *c);
    assert(piece_bytes % 64 == 0);
    *c = (kern_comm){.queue = queue, .transport = transport, .timeout_ms = timeout_ms, .piece_bytes = piece_bytes, .count = 1};
    if (!host_memory(c)) RLF_TRY(kern_stage_new(&c->stage, kern_queue_device(queue), piece_bytes));
    *out = c;
    c = NULL;
out:
    kern_comm_destroy(c);
    return status;
}

void kern_comm_destroy(kern_comm *c) {
    if (!c) return;
    if (c->link) kern_comm_links(c)->destroy(c->link);
    kern_buf_destroy(c->parts);
    kern_stage_clean_up(&c->stage);
    free(c);
}

size_t kern_comm_bytes(size_t piece_bytes, int count) { return count > 1 ? piece_bytes / 2 : 0; }

/* Not measured here. NVIDIA/nccl issue 1685 tells of eight H100s that each had 1.06 GB taken before the first exchange of all with all and
 * 4.34 after it: for every peer 32 channels, each with an allocation of 10 MiB and one of 2. What is there before, but for the CUDA context, is
 * taken to be 0.6 GB. */
size_t kern_comm_link_bytes(int peers) {
    enum { LINK_BYTES = 600000000, CHANNELS = 32, CHANNEL_BYTES = 12 << 20 };
    return LINK_BYTES + (size_t)CHANNELS * CHANNEL_BYTES * (size_t)peers;
}

/* NCCL connects two cards when they first exchange something, all channels of theirs whatever the size, and takes gigabytes for it: now, that a card
 * which has not as much shows at the start of a job. */
static rlf_status exchange_first(const kern_comm *c) {
    enum { BYTES = 16 };
    kern_link_part *parts = rlf_calloc((size_t)c->count, sizeof *parts);
    char *at = kern_address(kern_view(c->parts, KERN_U8));
    const int me = rlf_transport_rank(c->transport) - c->first;
    assert((size_t)c->count * BYTES <= kern_comm_bytes(c->piece_bytes, c->count));
    for (int i = 0; i < c->count; i++) parts[i] = (kern_link_part){at + me * BYTES, at + i * BYTES, BYTES, BYTES};
    rlf_status status = kern_comm_links(c)->exchange(c->link, parts, c->timeout_ms, "first exchange");
    free(parts);
    return status;
}

rlf_status kern_comm_join(kern_comm *c, int first, int count) {
    rlf_status status = RLF_OK;
    kern_member me, *all = rlf_calloc((size_t)count, sizeof *all);
    bool *chosen = rlf_calloc((size_t)count, sizeof *chosen);
    c->first = first;
    c->count = count;
    if (count == 1) goto out;
    RLF_TRY(kern_buf_new(&c->parts, kern_queue_device(c->queue), kern_comm_bytes(c->piece_bytes, count)));
    kern_member_init(&me, c, rlf_transport_rank(c->transport) == first);
    RLF_TRY(kern_members_meet(c, first, count, &me, all));
    for (int i = 0; i < count; i++) chosen[i] = true;
    RLF_TRY(kern_members_link(c, all, chosen, count, rlf_transport_rank(c->transport) - first, 0, &c->link));
    if (c->link) RLF_TRY(exchange_first(c));
    if (!host_memory(c)) RLF_INFO("%d ranks exchange gradients and weights %s", count, kern_comm_way(c->link));
out:
    free(chosen);
    if (status != RLF_TIMEOUT) free(all); /* transport.h */
    return status;
}

/* ---- between tensors and the host ------------------------------------------------------------------------------------------------- */

/* n elements of x in the host's memory: x itself or, after the next sync, `stage`. */
static void *shown(kern_comm *c, kern_tensor x, size_t n, void *stage) {
    if (host_memory(c)) return kern_host_ptr(x);
    kern_download(c->queue, stage, x, n);
    return stage;
}

/* Where the host receives elements of x: x itself, or `stage`, from where placed() takes them. */
static void *room(kern_comm *c, kern_tensor x, void *stage) { return host_memory(c) ? kern_host_ptr(x) : stage; }

static void placed(kern_comm *c, kern_tensor x, size_t n, const void *stage) {
    if (!host_memory(c)) kern_upload(c->queue, x, stage, n);
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* ---- collectives ------------------------------------------------------------------------------------------------------------------ */

/* What goes to and comes from one rank. */
typedef struct swap {
    kern_tensor send, receive;
    size_t send_n, receive_n;
} swap;

/* One collective under way: pieces at `at` of every part, until the longest is through. */
typedef struct collective {
    kern_comm *comm;
    int count, me;
    kern_tensor x;
    size_t n, size, piece; /* elements, bytes of one on its way, elements of a piece */
    size_t longest, at;
    swap *with;            /* (count), owned */
    int64_t deadline;
    const char *what;
} collective;

static collective begin(kern_comm *c, kern_tensor x, size_t n, kern_dtype wire, const char *what) {
    size_t size = kern_dtype_size(x.dtype), count = (size_t)c->count;
    collective o = {.comm = c, .count = c->count, .me = rlf_transport_rank(c->transport) - c->first, .x = x, .n = n,
                    .size = kern_dtype_size(wire), .piece = c->piece_bytes / size / (2 * count) / 16 * 16,
                    .deadline = kern_comm_deadline_ms(c), .what = what};
    if (o.piece == 0) o.piece = 16;
    assert(o.piece * size * 2 * count <= c->piece_bytes);
    o.with = rlf_calloc(count, sizeof *o.with);
    for (int i = 0; i < c->count; i++) {
        size_t b, e;
        rlf_shard(n, c->count, i, &b, &e);
        if (e - b > o.longest) o.longest = e - b;
    }
    return o;
}

/* The current piece of part i, and how many elements it has: none once the part is through. */
static kern_tensor part(const collective *o, int i, size_t *n) {
    size_t b, e;
    rlf_shard(o->n, o->count, i, &b, &e);
    *n = e - b > o->at ? smaller(e - b - o->at, o->piece) : 0;
    return kern_at(o->x, b + (*n ? o->at : 0));
}

static void *out_stage(const collective *o, int i) { return o->comm->stage.memory + (size_t)i * o->piece * o->size; }
static void *in_stage(const collective *o, int i) { return out_stage(o, o->count + i); }

static rlf_status exchange_by_link(const collective *o) {
    kern_link_part *parts = rlf_calloc((size_t)o->count, sizeof *parts);
    for (int i = 0; i < o->count; i++) {
        const swap *s = &o->with[i];
        parts[i] = (kern_link_part){kern_address(s->send), kern_address(s->receive), s->send_n * o->size, s->receive_n * o->size};
    }
    rlf_status status = kern_comm_links(o->comm)->exchange(o->comm->link, parts, kern_comm_left_ms(o->comm, o->deadline), o->what);
    free(parts);
    return status;
}

static rlf_status exchange_by_host(const collective *o) {
    rlf_status status = RLF_OK;
    kern_comm *c = o->comm;
    rlf_exchange *with = rlf_calloc((size_t)o->count, sizeof *with);
    const void *here = NULL;
    size_t here_at = SIZE_MAX; /* an all-gather sends the same to all */
    for (int i = 0; i < o->count; i++) {
        const swap *s = &o->with[i];
        if (i == o->me) continue;
        if (s->send_n && s->send.offset != here_at) here = shown(c, s->send, s->send_n, out_stage(o, i));
        if (s->send_n) here_at = s->send.offset;
        with[i] = (rlf_exchange){here, room(c, s->receive, in_stage(o, i)), s->send_n * o->size, s->receive_n * o->size};
    }
    RLF_TRY(kern_sync(c->queue));
    RLF_TRY(rlf_exchange_all(c->transport, c->first, o->count, with, kern_comm_left_ms(c, o->deadline), o->what));
    for (int i = 0; i < o->count; i++)
        if (i != o->me) placed(c, o->with[i].receive, o->with[i].receive_n, in_stage(o, i));
    RLF_TRY(kern_sync(c->queue));
out:
    free(with);
    return status;
}

static rlf_status exchange(const collective *o) { return o->comm->link ? exchange_by_link(o) : exchange_by_host(o); }

/* own = parts[0] + parts[1] + ... in this order, own standing for parts[me]: what is before it is added up first, and then, the order of
 * two being all the same, added to it. */
static void add_parts(const collective *o, kern_tensor own, kern_tensor parts, size_t n) {
    kern_queue *q = o->comm->queue;
    int after = o->count - 1 - o->me;
    if (o->me > 1) kern_rows_add(q, parts, kern_at(parts, n), o->me - 1, (int)n);
    if (o->me > 0) kern_rows_add(q, own, parts, 1, (int)n);
    if (after > 0) kern_rows_add(q, own, kern_at(parts, (size_t)(o->me + 1) * n), after, (int)n);
}

/* Sends each rank its part, receives all of this rank's, adds. */
static rlf_status reduce_piece(collective *o) {
    rlf_status status = RLF_OK;
    size_t mine, n;
    kern_tensor own = part(o, o->me, &mine), parts = kern_view(o->comm->parts, KERN_F32);
    for (int i = 0; i < o->count; i++) {
        kern_tensor theirs = part(o, i, &n);
        o->with[i] = (swap){theirs, kern_at(parts, (size_t)i * mine), n, mine};
    }
    RLF_TRY(exchange(o));
    if (mine) add_parts(o, own, parts, mine);
    RLF_TRY(kern_sync(o->comm->queue));
out:
    return status;
}

/* The same with parts that are rounded before they travel; the own one too, so that the sum is that of any other owner. */
static rlf_status reduce_rounded_piece(collective *o) {
    rlf_status status = RLF_OK;
    kern_queue *q = o->comm->queue;
    size_t mine, n;
    kern_tensor own = part(o, o->me, &mine), parts = kern_view(o->comm->parts, KERN_BF16);
    for (int i = 0; i < o->count; i++) {
        kern_tensor theirs = part(o, i, &n), here = kern_at(parts, (size_t)i * mine);
        kern_tensor sent = i == o->me ? here : kern_at(parts, (size_t)(o->count + i) * o->piece);
        if (n) kern_convert(q, sent, theirs, n);
        o->with[i] = (swap){sent, here, n, mine};
    }
    RLF_TRY(exchange(o));
    if (mine) {
        kern_convert(q, own, parts, mine);
        kern_rows_add(q, own, kern_at(parts, mine), o->count - 1, (int)mine);
    }
    RLF_TRY(kern_sync(q));
out:
    return status;
}

rlf_status kern_comm_reduce_scatter(kern_comm *c, kern_tensor x, size_t n, kern_dtype wire) {
    if (c->count == 1) return RLF_OK;
    rlf_status status = RLF_OK;
    collective o = begin(c, x, n, wire, "gradient reduce-scatter");
    assert(x.dtype == KERN_F32);
    for (; o.at < o.longest; o.at += o.piece) RLF_TRY(wire == KERN_F32 ? reduce_piece(&o) : reduce_rounded_piece(&o));
out:
    free(o.with);
    return status;
}

static rlf_status gather_piece(collective *o) {
    size_t mine, n;
    kern_tensor own = part(o, o->me, &mine);
    for (int i = 0; i < o->count; i++) {
        kern_tensor theirs = part(o, i, &n);
        o->with[i] = (swap){own, theirs, mine, n};
    }
    return exchange(o);
}

rlf_status kern_comm_all_gather(kern_comm *c, kern_tensor x, size_t n) {
    if (c->count == 1) return RLF_OK;
    rlf_status status = RLF_OK;
    collective o = begin(c, x, n, x.dtype, "weight all-gather");
    for (; o.at < o.longest; o.at += o.piece) RLF_TRY(gather_piece(&o));
out:
    free(o.with);
    return status;
}

/* ---- one to several --------------------------------------------------------------------------------------------------------------- */

rlf_status kern_comm_send(kern_comm *c, const int *to, size_t n_to, kern_tensor x, size_t n, const char *what) {
    rlf_status status = RLF_OK;
    size_t size = kern_dtype_size(x.dtype), piece = c->piece_bytes / size;
    int64_t deadline = kern_comm_deadline_ms(c);
    for (size_t at = 0; at < n; at += piece) {
        size_t k = smaller(n - at, piece);
        const void *here = shown(c, kern_at(x, at), k, c->stage.memory);
        RLF_TRY(kern_sync(c->queue));
        RLF_TRY(rlf_bulk_send_many(c->transport, to, n_to, here, k * size, kern_comm_left_ms(c, deadline), what));
    }
out:
    return status;
}

rlf_status kern_comm_receive(kern_comm *c, int from, kern_tensor x, size_t n, const char *what) {
    rlf_status status = RLF_OK;
    size_t size = kern_dtype_size(x.dtype), piece = c->piece_bytes / size;
    int64_t deadline = kern_comm_deadline_ms(c);
    for (size_t at = 0; at < n; at += piece) {
        size_t k = smaller(n - at, piece);
        void *here = room(c, kern_at(x, at), c->stage.memory);
        RLF_TRY(rlf_bulk_receive(c->transport, from, here, k * size, kern_comm_left_ms(c, deadline), what));
        placed(c, kern_at(x, at), k, c->stage.memory);
        RLF_TRY(kern_sync(c->queue));
    }
out:
    return status;
}
