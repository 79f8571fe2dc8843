/* Cards of several processes (kernels/cuda/link.h): what they exchange arrives, and a rank that does not come, or an error of NCCL's, is the error of
 * those who wait, by their deadline. On the SIMT shim's stand-in for NCCL. At least two ranks; the last is the one that fails. Each case ends in a
 * barrier and a vote. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "kernels/cuda/link.h"
#include "tests/simt/nccl/nccl.h"

enum { WAIT_MS = 20000, SHORT_MS = 200, LARGE = 300000 };

static int g_rank, g_size;
static kern_card *g_card;

static bool last(void) { return g_rank == g_size - 1; }

/* Rank 0 makes the id. */
static rlf_status open_link(kern_link **link, int timeout_ms) {
    unsigned char id[KERN_LINK_ID_BYTES];
    rlf_status status = g_rank == 0 ? kern_link_id(id) : RLF_OK;
    MPI_Bcast(id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    return status != RLF_OK ? status : kern_link_new(link, g_card, id, g_rank, g_size, timeout_ms);
}

static char byte_of(int from, int to, size_t i) { return (char)(from * 31 + to * 7 + (int)(i % 251)); }

/* n bytes from each rank to each other; from, to: (size, n) on the card. */
static rlf_status exchange(kern_link *link, char *from, char *to, size_t n, int timeout_ms) {
    kern_link_part *parts = rlf_calloc((size_t)g_size, sizeof *parts);
    for (int i = 0; i < g_size; i++) {
        for (size_t j = 0; j < n; j++) from[(size_t)i * n + j] = byte_of(g_rank, i, j);
        parts[i] = (kern_link_part){from + (size_t)i * n, to + (size_t)i * n, n, n};
    }
    const rlf_status status = kern_link_exchange(link, parts, timeout_ms, "gradients");
    free(parts);
    return status;
}

static bool exchanged(const char *to, size_t n) {
    for (int i = 0; i < g_size; i++)
        for (size_t j = 0; j < n; j++)
            if (i != g_rank && to[(size_t)i * n + j] != byte_of(i, g_rank, j)) return false;
    return true;
}

/* Two tensors of (size, n) bytes, zeros. */
typedef struct memory {
    char *from, *to;
} memory;
static memory memory_new(size_t n) {
    return (memory){kern_card_allocate(g_card, (size_t)g_size * n), kern_card_allocate(g_card, (size_t)g_size * n)};
}
static void memory_free(memory m) {
    kern_card_release(g_card, m.from);
    kern_card_release(g_card, m.to);
}

static bool what_is_exchanged_and_broadcast_arrives(void) {
    static const size_t sizes[] = {1, 1000, 65536, LARGE};
    kern_link *link = NULL;
    bool ok = open_link(&link, WAIT_MS) == RLF_OK;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && ok; i++) {
        memory m = memory_new(sizes[i]);
        ok = exchange(link, m.from, m.to, sizes[i], WAIT_MS) == RLF_OK && exchanged(m.to, sizes[i]);
        for (int root = 0; root < g_size && ok; root++) {
            memset(m.from, g_rank == root ? root + 1 : 0, sizes[i]);
            ok = kern_link_broadcast(link, m.from, sizes[i], root, WAIT_MS, "weights") == RLF_OK && m.from[sizes[i] - 1] == root + 1;
        }
        memory_free(m);
    }
    kern_link_destroy(link);
    return ok;
}

static bool says(rlf_status status, rlf_status wanted, const char *what) {
    if (status == wanted && strstr(rlf_error_message(), what)) return true;
    fprintf(stderr, "rank %d: \"%s\" where \"%s\" was expected\n", g_rank, status == RLF_OK ? "nothing" : rlf_error_message(), what);
    return false;
}

/* The others have a card less than they should. */
static bool a_rank_that_does_not_come_to_the_start_is_a_timeout(void) {
    unsigned char id[KERN_LINK_ID_BYTES];
    kern_link *link = NULL;
    const int64_t begin = rlf_now_ms();
    bool ok = g_rank > 0 || kern_link_id(id) == RLF_OK;
    MPI_Bcast(id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    if (last()) return ok;
    ok = ok && says(kern_link_new(&link, g_card, id, g_rank, g_size, SHORT_MS), RLF_TIMEOUT, "cards of NCCL: start of NCCL");
    return ok && !link && rlf_now_ms() - begin >= SHORT_MS;
}

/* And what it brings when the others have given up goes nowhere. */
static bool a_rank_that_does_not_come_to_an_exchange_is_a_timeout(void) {
    kern_link *link = NULL;
    memory m = memory_new(LARGE);
    bool ok = open_link(&link, WAIT_MS) == RLF_OK;
    if (!last()) ok = ok && says(exchange(link, m.from, m.to, LARGE, SHORT_MS), RLF_TIMEOUT, "cards of NCCL: gradients");
    MPI_Barrier(MPI_COMM_WORLD);
    const char before = m.to[(size_t)(g_size - 1) * LARGE];
    if (last()) ok = ok && says(exchange(link, m.from, m.to, LARGE, SHORT_MS), RLF_TIMEOUT, "cards of NCCL: gradients");
    MPI_Barrier(MPI_COMM_WORLD);
    if (!last()) ok = ok && before == 0 && m.to[(size_t)(g_size - 1) * LARGE] == 0;
    kern_link_destroy(link);
    memory_free(m);
    return ok;
}

static bool an_error_of_nccl_names_the_operation(void) {
    kern_link *link = NULL;
    memory m = memory_new(LARGE);
    bool ok = open_link(&link, WAIT_MS) == RLF_OK;
    MPI_Barrier(MPI_COMM_WORLD);
    simt_nccl_state = ncclRemoteError;
    ok = ok && says(exchange(link, m.from, m.to, LARGE, WAIT_MS), RLF_DEVICE, "gradients: NCCL, among");
    simt_nccl_state = ncclSuccess;
    kern_link_destroy(link);
    memory_free(m);
    return ok;
}

int main(int argc, char **argv) {
    static const struct { const char *name; bool (*run)(void); } cases[] = {
        {"what_is_exchanged_and_broadcast_arrives", what_is_exchanged_and_broadcast_arrives},
        {"a_rank_that_does_not_come_to_the_start_is_a_timeout", a_rank_that_does_not_come_to_the_start_is_a_timeout},
        {"a_rank_that_does_not_come_to_an_exchange_is_a_timeout", a_rank_that_does_not_come_to_an_exchange_is_a_timeout},
        {"an_error_of_nccl_names_the_operation", an_error_of_nccl_names_the_operation},
    };
    int failed = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &g_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &g_size);
    if (kern_card_open(&g_card, g_rank % kern_card_count()) != RLF_OK) return 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int mine = cases[i].run(), all = 0;
        MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
        if (!mine) fprintf(stderr, "rank %d: %s: %s\n", g_rank, cases[i].name, rlf_error_message());
        if (g_rank == 0) printf("%s %s\n", all ? "ok  " : "FAIL", cases[i].name);
        failed += !all;
    }
    kern_card_close(g_card);
    MPI_Finalize();
    return failed != 0;
}
