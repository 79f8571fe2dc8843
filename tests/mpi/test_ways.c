/* Which way tensors take between ranks (kernels/comm), on the three cards of the SIMT shim, and what becomes of those ways that a machine refuses.
 * The cards go around, so that of five ranks two pairs share one. Each case ends in a vote over all ranks before the verdict is acted on. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/mem.h"
#include "kernels/comm/group.h"
#include "tests/simt/card.h"
#include "tests/simt/nccl/nccl.h"

enum { WAIT_MS = 20000, PIECE = 1 << 20, N = 100000 };

static rlf_transport *g_t;
static kern_device *g_device;
static kern_queue *g_queue;

static int rank(void) { return rlf_transport_rank(g_t); }
static int size(void) { return rlf_transport_size(g_t); }

static rlf_status join(kern_comm **comm) {
    rlf_status status = RLF_OK;
    RLF_TRY(kern_comm_new(comm, g_queue, g_t, PIECE, WAIT_MS));
    RLF_TRY(kern_comm_join(*comm, 0, size()));
out:
    return status;
}

/* Whether ones of all ranks add up. */
static bool adds_up(kern_comm *comm) {
    kern_buf *buf = NULL;
    float *x = rlf_calloc(N, sizeof *x);
    for (int i = 0; i < N; i++) x[i] = 1;
    bool ok = kern_buf_new(&buf, g_device, N * sizeof *x) == RLF_OK;
    const kern_tensor all = kern_view(buf, KERN_F32);
    kern_upload(g_queue, all, x, N);
    ok = ok && kern_comm_reduce_scatter(comm, all, N, KERN_F32) == RLF_OK && kern_comm_all_gather(comm, all, N) == RLF_OK;
    kern_download(g_queue, x, all, N);
    for (int i = 0; i < N && ok; i++) ok = x[i] == (float)size();
    kern_buf_destroy(buf);
    free(x);
    return ok;
}

/* A tensor that the last `givers` ranks hand to the others. */
typedef struct handing {
    kern_comm *comm;
    kern_handover *handover;
    kern_buf *own, *shared;
} handing;

static bool gives(int givers) { return rank() >= size() - givers; }

static bool handing_open(handing *h, int givers) {
    *h = (handing){0};
    return kern_comm_new(&h->comm, g_queue, g_t, PIECE, WAIT_MS) == RLF_OK && kern_buf_new(&h->own, g_device, N * sizeof(float)) == RLF_OK &&
           kern_handover_new(&h->handover, h->comm, 0, size() - givers, givers, gives(givers) ? h->own : NULL, N, KERN_F32, &h->shared) == RLF_OK;
}

/* Whether what is given arrives, again and again. */
static bool hands_over(const handing *h, int givers) {
    bool ok = h->handover != NULL;
    float *x = rlf_calloc(N, sizeof *x);
    const kern_tensor to = kern_view(h->shared ? h->shared : h->own, KERN_F32);
    for (int round = 1; round < 3; round++) {
        for (int i = 0; i < N; i++) x[i] = gives(givers) ? (float)(i % 1000 + round) : 0;
        if (!h->shared) kern_upload(g_queue, to, x, N);
        ok = kern_sync(g_queue) == RLF_OK && ok;
        MPI_Barrier(MPI_COMM_WORLD); /* it has settled */
        ok = ok && kern_handover_run(h->handover, to, "weights") == RLF_OK;
        kern_download(g_queue, x, to, N);
        for (int i = 0; i < N && ok; i++) ok = x[i] == (float)(i % 1000 + round);
        MPI_Barrier(MPI_COMM_WORLD); /* all have looked */
    }
    free(x);
    return ok;
}

static bool handing_close(handing *h) {
    kern_buf_destroy(h->shared);
    bool ok = h->handover && kern_handover_part(h->handover) == RLF_OK;
    kern_handover_destroy(h->handover);
    kern_buf_destroy(h->own);
    kern_comm_destroy(h->comm);
    return ok;
}

static bool goes(const handing *h, const char *way) {
    const char *is = kern_handover_way(h->handover);
    if (strcmp(is, way) != 0) fprintf(stderr, "rank %d: %s, where it should be %s\n", rank(), is, way);
    return strcmp(is, way) == 0;
}

/* ---- cases ------------------------------------------------------------------------------------------------------------------------ */

/* What that takes of a card is taken then. */
static bool linked_cards_are_connected_at_the_start(void) {
    kern_comm *comm = NULL;
    handing h;
    simt_nccl_connections = 0;
    bool ok = join(&comm) == RLF_OK && (comm->link != NULL) == (size() <= kern_cards());
    ok = ok && simt_nccl_connections == (comm->link ? size() - 1 : 0);
    ok = adds_up(comm) && ok && simt_nccl_connections == (comm->link ? size() - 1 : 0);
    simt_nccl_connections = 0;
    ok = handing_open(&h, 1) && ok;
    const int connected = simt_nccl_connections;
    ok = hands_over(&h, 1) && ok && connected == (strcmp(kern_handover_way(h.handover), "from card to card") == 0) && simt_nccl_connections == connected;
    ok = handing_close(&h) && ok;
    kern_comm_destroy(comm);
    return ok;
}

static bool without_an_id_ranks_go_through_the_host(void) {
    kern_comm *comm = NULL;
    handing h;
    simt_nccl_without_id = true;
    bool ok = join(&comm) == RLF_OK && adds_up(comm) && !comm->link;
    ok = handing_open(&h, 1) && hands_over(&h, 1) && goes(&h, h.shared ? "as the giver's own memory" : "through the host") && ok;
    ok = handing_close(&h) && ok;
    simt_nccl_without_id = false;
    kern_comm_destroy(comm);
    return ok;
}

/* Of five ranks the first two are on the cards of the last two, who give. */
static bool what_a_taker_cannot_open_is_copied_to_it(void) {
    handing h;
    simt_opens_nothing = rank() == 0;
    bool ok = handing_open(&h, 2) && (h.shared != NULL) == (size() == 5 && rank() == 1);
    ok = hands_over(&h, 2) && ok && (size() < 5 || rank() > 0 || goes(&h, "through the host"));
    ok = handing_close(&h) && ok;
    simt_opens_nothing = false;
    return ok;
}

/* Of five ranks the first and the fourth are on a card without one that gives, the second on that of the last, which gives. */
static bool one_taker_a_card_is_linked(void) {
    static const char *const ways[] = {"from card to card", "as the giver's own memory", "from card to card", "through the host", "from card to card"};
    handing h;
    bool ok = handing_open(&h, 1);
    ok = hands_over(&h, 1) && ok && (size() < 5 || goes(&h, ways[rank()]));
    return handing_close(&h) && ok;
}

/* What this rank logs while all join. */
static bool join_says(const char *what, bool wanted) {
    char line[2000];
    kern_comm *comm = NULL;
    FILE *lines = tmpfile();
    const int err = dup(STDERR_FILENO);
    bool ok = lines && dup2(fileno(lines), STDERR_FILENO) >= 0, said = false;
    rlf_log_init(rank(), "test", RLF_LOG_WARN);
    ok = join(&comm) == RLF_OK && ok;
    rlf_log_init(rank(), "test", RLF_LOG_ERROR);
    dup2(err, STDERR_FILENO);
    close(err);
    rewind(lines);
    while (fgets(line, sizeof line, lines)) said |= strstr(line, what) != NULL;
    fclose(lines);
    kern_comm_destroy(comm);
    return ok && said == wanted;
}

static bool cards_of_two_generations_are_told_apart_once(void) {
    kern_device *device = g_device;
    kern_queue *queue = g_queue;
    bool ok = join_says("compute capability", false);
    simt_major = rank() == size() - 1 ? 8 : 9;
    ok = kern_device_open(&g_device, &(kern_device_options){.name = "cuda", .card = rank() % kern_cards()}) == RLF_OK && ok;
    ok = kern_queue_new(&g_queue, g_device) == RLF_OK && ok;
    ok = join_says(size() == 3 ? "rank 0 computes on cuda card 0, SIMT shim, ascending order (compute capability 9), rank 2 on cuda card 2, SIMT shim, "
                                 "shuffled order (8): " : "(compute capability 9), rank 4 on ", rank() == 0) && ok;
    kern_queue_destroy(g_queue);
    kern_device_close(g_device);
    g_device = device;
    g_queue = queue;
    simt_major = 9;
    return ok;
}

int main(int argc, char **argv) {
    static const struct { const char *name; bool (*run)(void); } cases[] = {
        {"linked_cards_are_connected_at_the_start", linked_cards_are_connected_at_the_start},
        {"without_an_id_ranks_go_through_the_host", without_an_id_ranks_go_through_the_host},
        {"one_taker_a_card_is_linked", one_taker_a_card_is_linked},
        {"what_a_taker_cannot_open_is_copied_to_it", what_a_taker_cannot_open_is_copied_to_it},
        {"cards_of_two_generations_are_told_apart_once", cards_of_two_generations_are_told_apart_once},
    };
    if (rlf_transport_new(&g_t, &argc, &argv) != RLF_OK ||
        kern_device_open(&g_device, &(kern_device_options){.name = "cuda", .card = rlf_transport_rank(g_t) % kern_cards()}) != RLF_OK ||
        kern_queue_new(&g_queue, g_device) != RLF_OK) {
        fprintf(stderr, "%s\n", rlf_error_message());
        return 1;
    }
    rlf_log_init(rank(), "test", RLF_LOG_ERROR);
    MPI_Barrier(MPI_COMM_WORLD); /* all cards are open */
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int mine = cases[i].run(), all = 0;
        MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
        if (!mine) fprintf(stderr, "rank %d: %s: %s\n", rank(), cases[i].name, rlf_error_message());
        if (rank() == 0) printf("%s %s\n", all ? "ok  " : "FAIL", cases[i].name);
        failed += !all;
    }
    kern_queue_destroy(g_queue);
    kern_device_close(g_device);
    if (rlf_transport_destroy(g_t, 10000) != RLF_OK) rlf_transport_abort(g_t, 1);
    return failed != 0;
}
