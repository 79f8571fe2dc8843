/* Tensors between ranks (kernels/comm), on the CPU or on cards (tests/unit/kernels/device.h), in pieces of several sizes. Each
 * case ends in a vote over all ranks before the verdict is acted on, so that no rank is left waiting in a collective. */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/mem.h"
#include "kernels/comm/comm.h"
#include "kernels/ops.h"
#include "tests/unit/kernels/device.h"

enum { WAIT_MS = 20000 };

static rlf_transport *g_t;
static kern_device *g_device;
static kern_queue *g_queue;

/* A comm, and a tensor of n elements, for one round of a case. */
typedef struct rig {
    kern_comm *comm;
    kern_buf *buf;
    kern_tensor x;
    int size, rank;
} rig;

static bool rig_open(rig *r, size_t n, kern_dtype dtype, size_t piece_bytes, const void *values) {
    *r = (rig){.size = rlf_transport_size(g_t), .rank = rlf_transport_rank(g_t)};
    if (kern_comm_new(&r->comm, g_queue, g_t, piece_bytes, WAIT_MS) != RLF_OK) return false;
    if (kern_comm_join(r->comm, 0, r->size) != RLF_OK) return false;
    if (kern_buf_new(&r->buf, g_device, n * kern_dtype_size(dtype)) != RLF_OK) return false;
    r->x = kern_view(r->buf, dtype);
    kern_upload(g_queue, r->x, values, n);
    return kern_sync(g_queue) == RLF_OK;
}

/* What the tensor holds now goes to `values`. */
static bool rig_close(rig *r, size_t n, void *values) {
    kern_download(g_queue, values, r->x, n);
    bool ok = kern_sync(g_queue) == RLF_OK;
    kern_buf_destroy(r->buf);
    kern_comm_destroy(r->comm);
    return ok;
}

/* Room for 16 elements of each rank, or all in one piece. */
static size_t piece_bytes(int round) { return (size_t)(round ? 1 << 20 : 16 * 2 * 4 * rlf_transport_size(g_t)); }

static float element(int rank, size_t i) { return (float)((i * 2654435761u + (unsigned)rank * 97u) % 1000u) * 0.001f - 0.3f; }

/* The nearest bfloat16, of two the even one, by arithmetic in double: 8 bits of fraction. */
static float rounded(float x) {
    int exponent;
    double fraction = frexp((double)x, &exponent) * 256;
    return (float)ldexp(nearbyint(fraction), exponent - 8);
}

/* What a rank contributes to element i: as it travels. With one rank nothing does. */
static float contribution(int rank, size_t i, kern_dtype wire, int ranks) {
    return wire == KERN_BF16 && ranks > 1 ? rounded(element(rank, i)) : element(rank, i);
}

static bool reduces(size_t n, size_t piece, kern_dtype wire) {
    rig r;
    float *x = rlf_calloc(n, sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = element(rlf_transport_rank(g_t), i);
    bool ok = rig_open(&r, n, KERN_F32, piece, x);
    ok = ok && kern_comm_reduce_scatter(r.comm, r.x, n, wire) == RLF_OK;
    ok = ok && kern_comm_all_gather(r.comm, r.x, n) == RLF_OK;
    ok = rig_close(&r, n, x) && ok;
    for (size_t i = 0; i < n && ok; i++) {
        float sum = contribution(0, i, wire, r.size);
        for (int from = 1; from < r.size; from++) sum += contribution(from, i, wire, r.size);
        ok = memcmp(&sum, &x[i], sizeof sum) == 0;
    }
    free(x);
    return ok;
}

static bool reduces_all(kern_dtype wire) {
    bool ok = true;
    for (size_t n = 1; n < 5000 && ok; n = n * 3 + 5)
        for (int round = 0; round < 2 && ok; round++) ok = reduces(n, piece_bytes(round), wire);
    return ok;
}

static bool reduce_scatter_then_all_gather_sums_in_rank_order(void) { return reduces_all(KERN_F32); }
static bool what_travels_as_bfloat16_is_rounded_once_and_added_in_float32(void) { return reduces_all(KERN_BF16); }

static bool gathers_halves(size_t n, size_t piece) {
    rig r;
    size_t begin, end;
    uint16_t *x = rlf_calloc(n, sizeof *x);
    rlf_shard(n, rlf_transport_size(g_t), rlf_transport_rank(g_t), &begin, &end);
    for (size_t i = begin; i < end; i++) x[i] = (uint16_t)(i * 40503u + 1);
    bool ok = rig_open(&r, n, KERN_BF16, piece, x);
    ok = ok && kern_comm_all_gather(r.comm, r.x, n) == RLF_OK;
    ok = rig_close(&r, n, x) && ok;
    for (size_t i = 0; i < n && ok; i++) ok = x[i] == (uint16_t)(i * 40503u + 1);
    free(x);
    return ok;
}

static bool all_gather_moves_elements_of_two_bytes(void) {
    bool ok = true;
    for (size_t n = 1; n < 5000 && ok; n = n * 3 + 5)
        for (int round = 0; round < 2 && ok; round++) ok = gathers_halves(n, piece_bytes(round));
    return ok;
}

static bool hands_over(size_t n, size_t piece) {
    rig r;
    float *x = rlf_calloc(n, sizeof *x);
    int size = rlf_transport_size(g_t), to[64];
    for (int i = 0; i < size; i++) to[i] = i;
    for (size_t i = 0; i < n && rlf_transport_rank(g_t) == 0; i++) x[i] = element(7, i);
    bool ok = rig_open(&r, n, KERN_F32, piece, x);
    if (ok && r.rank == 0) ok = kern_comm_send(r.comm, to, (size_t)size, r.x, n, "weights") == RLF_OK;
    else if (ok) ok = kern_comm_receive(r.comm, 0, r.x, n, "weights") == RLF_OK;
    ok = rig_close(&r, n, x) && ok;
    for (size_t i = 0; i < n && ok; i++) ok = x[i] == element(7, i);
    free(x);
    return ok;
}

/* Whether this rank takes, and is on the card of one that gives. */
static bool has_a_giver_on_its_card(int takers, int size) {
    const int rank = rlf_transport_rank(g_t);
    unsigned char *cards = rlf_calloc((size_t)size, KERN_IDENTITY_BYTES);
    bool has = false;
    MPI_Allgather(g_device->identity, KERN_IDENTITY_BYTES, MPI_BYTE, cards, KERN_IDENTITY_BYTES, MPI_BYTE, MPI_COMM_WORLD);
    for (int giver = takers; giver < size && on_cards() && rank < takers; giver++)
        has |= memcmp(cards + giver * KERN_IDENTITY_BYTES, g_device->identity, KERN_IDENTITY_BYTES) == 0;
    free(cards);
    return has;
}

/* The last ranks, who have it all, hand a tensor to the others, twice. On fewer cards than ranks some share a giver's memory. */
static bool hands_over_again(size_t n, int givers) {
    rig r;
    kern_handover *handover = NULL;
    kern_buf *shared = NULL;
    int takers = rlf_transport_size(g_t) - givers;
    float *x = rlf_calloc(n, sizeof *x);
    bool giver = rlf_transport_rank(g_t) >= takers, ok = rig_open(&r, n, KERN_F32, piece_bytes(1), x);
    ok = ok && kern_handover_new(&handover, r.comm, 0, takers, givers, giver ? r.buf : NULL, n, KERN_F32, &shared) == RLF_OK;
    ok = (shared != NULL) == has_a_giver_on_its_card(takers, r.size) && ok;
    kern_tensor to = shared ? kern_view(shared, KERN_F32) : r.x;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < n; i++) x[i] = giver ? element(round, i) : 0;
        if (giver) kern_upload(g_queue, r.x, x, n);
        ok = kern_sync(g_queue) == RLF_OK && ok;
        MPI_Barrier(MPI_COMM_WORLD); /* it has settled */
        ok = ok && kern_handover_run(handover, to, "weights") == RLF_OK;
        kern_download(g_queue, x, to, n);
        for (size_t i = 0; i < n && ok; i++) ok = x[i] == element(round, i);
        MPI_Barrier(MPI_COMM_WORLD); /* all have looked */
    }
    kern_buf_destroy(shared);
    ok = ok && kern_handover_part(handover) == RLF_OK;
    kern_handover_destroy(handover);
    ok = rig_close(&r, n, x) && ok;
    free(x);
    return ok;
}

static bool a_tensor_is_handed_over_again_and_again(void) { return rlf_transport_size(g_t) == 1 || hands_over_again(100000, 1); }
static bool several_may_hand_it_over(void) { return rlf_transport_size(g_t) < 3 || hands_over_again(100000, 2); }

static bool a_tensor_goes_from_one_rank_to_all_others(void) {
    bool ok = true;
    for (int round = 0; round < 2 && ok; round++) ok = hands_over(3001, piece_bytes(round));
    return ok;
}

/* A window over a tensor: what is written piece by piece is read piece by piece. */
static bool a_window_shows_every_piece(void) {
    enum { N = 1000, PIECE = 192 };
    float x[N];
    kern_window *window = NULL;
    kern_buf *buf = NULL;
    bool ok = kern_window_new(&window, g_queue, PIECE) == RLF_OK && kern_buf_new(&buf, g_device, N * sizeof(float)) == RLF_OK;
    size_t n = 0, pieces = 0;
    for (size_t at = 0; at < N && ok; at += n) {
        n = N - at;
        float *room = kern_window_room(window, kern_at(kern_view(buf, KERN_F32), at), &n);
        for (size_t i = 0; i < n; i++) room[i] = element(3, at + i);
        ok = kern_window_write(window, kern_at(kern_view(buf, KERN_F32), at), n) == RLF_OK;
        pieces++;
    }
    ok = ok && pieces == (on_cards() ? (N * sizeof(float) + PIECE - 1) / PIECE : 1);
    for (size_t at = 0; at < N && ok; at += n) {
        const void *host;
        n = N - at;
        ok = kern_window_read(window, kern_at(kern_view(buf, KERN_F32), at), &n, &host) == RLF_OK;
        if (ok) memcpy(x + at, host, n * sizeof *x);
    }
    for (size_t i = 0; i < N && ok; i++) ok = x[i] == element(3, i);
    kern_buf_destroy(buf);
    kern_window_destroy(window);
    return ok;
}

int main(int argc, char **argv) {
    static const struct { const char *name; bool (*run)(void); } cases[] = {
        {"reduce_scatter_then_all_gather_sums_in_rank_order", reduce_scatter_then_all_gather_sums_in_rank_order},
        {"what_travels_as_bfloat16_is_rounded_once_and_added_in_float32", what_travels_as_bfloat16_is_rounded_once_and_added_in_float32},
        {"all_gather_moves_elements_of_two_bytes", all_gather_moves_elements_of_two_bytes},
        {"a_tensor_goes_from_one_rank_to_all_others", a_tensor_goes_from_one_rank_to_all_others},
        {"a_tensor_is_handed_over_again_and_again", a_tensor_is_handed_over_again_and_again},
        {"several_may_hand_it_over", several_may_hand_it_over},
        {"a_window_shows_every_piece", a_window_shows_every_piece},
    };
    if (rlf_transport_new(&g_t, &argc, &argv) != RLF_OK ||
        device_open(&g_device, NULL, on_cards() ? 1 + rlf_transport_rank(g_t) : 1) != RLF_OK || /* the cards in turn */
        kern_queue_new(&g_queue, g_device) != RLF_OK) {
        fprintf(stderr, "%s\n", rlf_error_message());
        return 1;
    }
    rlf_log_init(rlf_transport_rank(g_t), "test", RLF_LOG_WARN);
    MPI_Barrier(MPI_COMM_WORLD); /* a card takes its time to open: some have more to check, and no deadline is meant for that */
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int mine = cases[i].run(), all = 0;
        MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
        if (!mine) fprintf(stderr, "rank %d: %s: %s\n", rlf_transport_rank(g_t), cases[i].name, rlf_error_message());
        if (rlf_transport_rank(g_t) == 0) printf("%s %s\n", all ? "ok  " : "FAIL", cases[i].name);
        failed += !all;
    }
    kern_queue_destroy(g_queue);
    kern_device_close(g_device);
    if (rlf_transport_destroy(g_t, 10000) != RLF_OK) rlf_transport_abort(g_t, 1);
    return failed != 0;
}
