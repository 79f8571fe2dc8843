/* Tensors between ranks over MPI (comm.h). Every operation is a loop over pieces: show the host what is to be sent, exchange, put what was
 * received where it belongs. The stage has room for one piece of a broadcast, or for what one rank exchanges with `count` ranks at a time. */
#include "kernels/comm/comm.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "kernels/ops.h"

struct kern_comm {
    kern_queue *queue;
    rlf_transport *transport;
    int timeout_ms;
    kern_stage stage; /* untouched, and so not there, where only tensors in host memory are sent and received */
};

rlf_status kern_comm_new(kern_comm **out, kern_queue *queue, rlf_transport *transport, size_t piece_bytes, int timeout_ms) {
    rlf_status status = RLF_OK;
    kern_comm *c = rlf_calloc(1, sizeof *c);
    assert(piece_bytes % 64 == 0);
    *c = (kern_comm){.queue = queue, .transport = transport, .timeout_ms = timeout_ms};
    RLF_TRY(kern_stage_new(&c->stage, kern_queue_device(queue), piece_bytes));
    *out = c;
    c = NULL;
out:
    kern_comm_destroy(c);
    return status;
}

void kern_comm_destroy(kern_comm *c) {
    if (!c) return;
    kern_stage_clean_up(&c->stage);
    free(c);
}

/* ---- between tensors and the host ------------------------------------------------------------------------------------------------- */

/* n elements of x in the host's memory: x itself or, after the next sync, `stage`. */
static void *shown(kern_comm *c, kern_tensor x, size_t n, void *stage) {
    void *own = kern_host_ptr(x);
    if (own) return own;
    kern_download(c->queue, stage, x, n);
    return stage;
}

/* Where the host receives n elements of x: x itself, or `stage`, from where placed() takes them. */
static void *room(kern_tensor x, void *stage) {
    void *own = kern_host_ptr(x);
    return own ? own : stage;
}

static void placed(kern_comm *c, kern_tensor x, size_t n, const void *stage) {
    if (!kern_host_ptr(x)) kern_upload(c->queue, x, stage, n);
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static int left_ms(int64_t deadline) {
    int64_t left = deadline - rlf_now_ms();
    return left > 0 ? (int)left : 0;
}

/* ---- collectives ------------------------------------------------------------------------------------------------------------------ */

/* One collective under way: pieces at `at` of every part, until the longest is through. */
typedef struct collective {
    kern_comm *comm;
    int first, count, me;
    kern_tensor x;
    size_t n, size, piece; /* elements, bytes of one, elements of a piece */
    size_t longest, at;
    rlf_exchange *with;    /* (count), owned */
    int64_t deadline;
    const char *what;
} collective;

static collective begin(kern_comm *c, int first, int count, kern_tensor x, size_t n, const char *what) {
    size_t size = kern_dtype_size(x.dtype);
    collective o = {.comm = c, .first = first, .count = count, .me = rlf_transport_rank(c->transport) - first, .x = x, .n = n, .size = size,
                    .piece = c->stage.bytes / size / (2 * (size_t)count) / 16 * 16, .deadline = rlf_now_ms() + c->timeout_ms, .what = what};
    if (o.piece == 0) o.piece = 16;
    assert(o.piece * size * 2 * (size_t)count <= c->stage.bytes);
    o.with = rlf_calloc((size_t)count, sizeof *o.with);
    for (int i = 0; i < count; i++) {
        size_t b, e;
        rlf_shard(n, count, i, &b, &e);
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

static rlf_status exchange(const collective *o) {
    rlf_status status = kern_sync(o->comm->queue);
    return status == RLF_OK ? rlf_exchange_all(o->comm->transport, o->first, o->count, o->with, left_ms(o->deadline), o->what) : status;
}

/* own = parts[0] + parts[1] + ..., of n floats each. own may be one of them. */
static void add_in_order(float *own, const float *const *parts, int count, size_t n) {
    enum { AT_ONCE = 1024 };
    float sum[AT_ONCE];
    for (size_t at = 0; at < n; at += AT_ONCE) {
        size_t k = smaller(n - at, AT_ONCE);
        memcpy(sum, parts[0] + at, k * sizeof *sum);
        for (int i = 1; i < count; i++)
            for (size_t j = 0; j < k; j++) sum[j] += parts[i][at + j];
        memcpy(own + at, sum, k * sizeof *sum);
    }
}

/* Sends each rank its part, receives all of this rank's, adds. */
static rlf_status reduce_piece(collective *o, const float **parts) {
    rlf_status status = RLF_OK;
    size_t mine, n;
    kern_tensor own = part(o, o->me, &mine);
    for (int i = 0; i < o->count; i++) {
        kern_tensor theirs = part(o, i, &n);
        float *here = n ? shown(o->comm, theirs, n, out_stage(o, i)) : NULL;
        parts[i] = i == o->me ? here : in_stage(o, i);
        o->with[i] = (rlf_exchange){here, in_stage(o, i), n * o->size, mine * o->size};
    }
    RLF_TRY(exchange(o));
    if (mine == 0) goto out;
    float *sum = room(own, out_stage(o, o->me));
    add_in_order(sum, parts, o->count, mine);
    placed(o->comm, own, mine, sum);
    RLF_TRY(kern_sync(o->comm->queue));
out:
    return status;
}

rlf_status kern_comm_reduce_scatter(kern_comm *c, int first, int count, kern_tensor x, size_t n) {
    if (count == 1) return RLF_OK;
    rlf_status status = RLF_OK;
    collective o = begin(c, first, count, x, n, "gradient reduce-scatter");
    const float **parts = rlf_calloc((size_t)count, sizeof *parts);
    assert(x.dtype == KERN_F32);
    for (; o.at < o.longest; o.at += o.piece) RLF_TRY(reduce_piece(&o, parts));
out:
    free(parts);
    free(o.with);
    return status;
}

static rlf_status gather_piece(collective *o) {
    rlf_status status = RLF_OK;
    size_t mine, n;
    kern_tensor own = part(o, o->me, &mine);
    void *here = mine ? shown(o->comm, own, mine, out_stage(o, o->me)) : NULL;
    for (int i = 0; i < o->count; i++) {
        kern_tensor theirs = part(o, i, &n);
        o->with[i] = (rlf_exchange){here, room(theirs, in_stage(o, i)), mine * o->size, n * o->size};
    }
    RLF_TRY(exchange(o));
    for (int i = 0; i < o->count; i++) {
        kern_tensor theirs = part(o, i, &n);
        if (i != o->me && n) placed(o->comm, theirs, n, in_stage(o, i));
    }
    RLF_TRY(kern_sync(o->comm->queue));
out:
    return status;
}

rlf_status kern_comm_all_gather(kern_comm *c, int first, int count, kern_tensor x, size_t n) {
    if (count == 1) return RLF_OK;
    rlf_status status = RLF_OK;
    collective o = begin(c, first, count, x, n, "weight all-gather");
    for (; o.at < o.longest; o.at += o.piece) RLF_TRY(gather_piece(&o));
out:
    free(o.with);
    return status;
}

/* ---- one to several --------------------------------------------------------------------------------------------------------------- */

rlf_status kern_comm_send(kern_comm *c, const int *to, size_t n_to, kern_tensor x, size_t n, const char *what) {
    rlf_status status = RLF_OK;
    size_t size = kern_dtype_size(x.dtype), piece = c->stage.bytes / size;
    int64_t deadline = rlf_now_ms() + c->timeout_ms;
    for (size_t at = 0; at < n; at += piece) {
        size_t k = smaller(n - at, piece);
        const void *here = shown(c, kern_at(x, at), k, c->stage.memory);
        RLF_TRY(kern_sync(c->queue));
        RLF_TRY(rlf_bulk_send_many(c->transport, to, n_to, here, k * size, left_ms(deadline), what));
    }
out:
    return status;
}

rlf_status kern_comm_receive(kern_comm *c, int from, kern_tensor x, size_t n, const char *what) {
    rlf_status status = RLF_OK;
    size_t size = kern_dtype_size(x.dtype), piece = c->stage.bytes / size;
    int64_t deadline = rlf_now_ms() + c->timeout_ms;
    for (size_t at = 0; at < n; at += piece) {
        size_t k = smaller(n - at, piece);
        void *here = room(kern_at(x, at), c->stage.memory);
        RLF_TRY(rlf_bulk_receive(c->transport, from, here, k * size, left_ms(deadline), what));
        placed(c, kern_at(x, at), k, c->stage.memory);
        RLF_TRY(kern_sync(c->queue));
    }
out:
    return status;
}
