/* Transport under MPI, at any number of ranks. Each case ends in a vote over all ranks before the verdict is acted on, so that
 * no rank is left waiting in a collective. */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/msg/transport.h"

static rlf_transport *g_t;

/* Every rank sends `count` numbered messages to every rank; each must arrive once, in order per sender. */
static bool messages_keep_their_order_per_sender(void) {
    enum { COUNT = 200 };
    int size = rlf_transport_size(g_t);
    int64_t *next = rlf_calloc((size_t)size, sizeof *next);
    bool ok = true;
    for (int64_t i = 0; i < COUNT; i++)
        for (int to = 0; to < size; to++) {
            rlf_control c = {.kind = RLF_CONTROL_READY, .value = i, .text = rlf_slice_of("hello")};
            ok &= rlf_send(g_t, to, RLF_MSG_CONTROL, &c) == RLF_OK;
        }
    rlf_received m = {0};
    rlf_arena arena = {0};
    for (int left = COUNT * size; ok && left; left--) {
        bool got = false;
        rlf_control c;
        ok &= rlf_receive(g_t, &m, 20000, &got) == RLF_OK && got;
        ok = ok && rlf_message_decode(m.type, m.bytes.ptr, m.bytes.len, m.from, &arena, &c) == RLF_OK;
        ok = ok && c.value == next[m.from]++ && rlf_slice_eq(c.text, "hello");
        rlf_arena_reset(&arena);
    }
    rlf_str_clean_up(&m.bytes);
    rlf_arena_clean_up(&arena);
    free(next);
    return ok;
}

static bool receive_returns_when_nothing_comes(void) {
    rlf_received m = {0};
    bool got = true;
    int64_t start = rlf_now_ms();
    bool ok = rlf_receive(g_t, &m, 50, &got) == RLF_OK && !got && rlf_now_ms() - start >= 50;
    rlf_str_clean_up(&m.bytes);
    return ok;
}

static bool idle_rank_uses_little_cpu(void) {
    rlf_received m = {0};
    bool got = false;
    clock_t before = clock();
    bool ok = rlf_receive(g_t, &m, 500, &got) == RLF_OK && !got;
    double cpu_s = (double)(clock() - before) / CLOCKS_PER_SEC;
    rlf_str_clean_up(&m.bytes);
    return ok && cpu_s < 0.25; /* half a spin: catches a busy loop, not a slow machine */
}

static bool carries(size_t n) {
    int size = rlf_transport_size(g_t), rank = rlf_transport_rank(g_t);
    if (size == 1) return true;
    unsigned char *data = rlf_calloc(n + 1, 1);
    bool ok = true;
    if (rank == 0) {
        int to[64];
        for (int i = 0; i < size; i++) to[i] = i;
        for (size_t i = 0; i < n; i++) data[i] = (unsigned char)(i * 31 + i / 255);
        ok = rlf_bulk_send_many(g_t, to, (size_t)size, data, n, 60000, "test") == RLF_OK;
    } else {
        ok = rlf_bulk_receive(g_t, 0, data, n, 60000, "test") == RLF_OK;
        for (size_t i = 0; ok && i < n; i++) ok = data[i] == (unsigned char)(i * 31 + i / 255);
    }
    free(data);
    return ok;
}

/* Around the first, short piece and the next, and in many. */
static bool bulk_arrives_whole(void) {
    static const size_t sizes[] = {0, 1, 2047, 2048, 2049, 2048 + (1 << 20), 2049 + (1 << 20), (9u << 20) + 12345};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!carries(sizes[i])) return false;
    return true;
}

/* Rank 0 comes half a second late to an exchange of 2 MiB with each of the others. */
static bool rank_that_waits_for_bytes_uses_little_cpu(void) {
    enum { BYTES = 2 << 20 };
    int size = rlf_transport_size(g_t), rank = rlf_transport_rank(g_t);
    rlf_exchange *with = rlf_calloc((size_t)size, sizeof *with);
    char *sent = rlf_calloc(1, BYTES), *received = rlf_calloc((size_t)size, BYTES);
    memset(sent, rank + 1, BYTES);
    for (int i = 0; i < size; i++)
        if ((rank == 0) != (i == 0)) with[i] = (rlf_exchange){sent, received + (size_t)i * BYTES, BYTES, BYTES};
    if (rank == 0) rlf_sleep_us(500000);
    clock_t before = clock();
    bool ok = rlf_exchange_all(g_t, 0, size, with, 20000, "test") == RLF_OK;
    ok = ok && (rank == 0 || (double)(clock() - before) / CLOCKS_PER_SEC < 0.25); /* half a spin */
    for (int i = 0; i < size; i++) {
        const char *from = received + (size_t)i * BYTES;
        if (with[i].receive) ok = ok && from[0] == i + 1 && memcmp(from, from + 1, BYTES - 1) == 0;
    }
    free(received);
    free(sent);
    free(with);
    return ok;
}

/* Stops this process, lets it go on, and returns the process that does. */
static pid_t suspend_later(int after_ms, int for_ms) {
    pid_t me = getpid(), by = fork();
    if (by != 0) return by;
    rlf_sleep_us(after_ms * 1000);
    kill(me, SIGSTOP);
    rlf_sleep_us(for_ms * 1000);
    kill(me, SIGCONT);
    _exit(0);
}

/* The whole job is suspended for longer than a wait may take, and rank 0 comes a little later. */
static bool suspended_wait_is_not_late(void) {
    enum { LIMIT_MS = 2000, AFTER_MS = 100, FOR_MS = 3000, LATER_MS = 500 };
    int size = rlf_transport_size(g_t), rank = rlf_transport_rank(g_t);
    char sent = 7, received = 7;
    if (size == 1) return true;
    pid_t by = suspend_later(AFTER_MS, FOR_MS);
    if (rank == 0) rlf_sleep_us((AFTER_MS + FOR_MS + LATER_MS) * 1000);
    else received = 0;
    bool ok = true;
    for (int to = 1; rank == 0 && to < size; to++) ok &= rlf_bulk_send_many(g_t, &to, 1, &sent, 1, LIMIT_MS, "test") == RLF_OK;
    if (rank > 0) ok = rlf_bulk_receive(g_t, 0, &received, 1, LIMIT_MS, "test") == RLF_OK;
    return by > 0 && waitpid(by, NULL, 0) == by && ok && received == sent;
}

static bool late_bulk_names_rank_and_operation(void) {
    int size = rlf_transport_size(g_t), rank = rlf_transport_rank(g_t);
    if (size == 1 || rank != size - 1) return true;
    char byte;
    rlf_status status = rlf_bulk_receive(g_t, 0, &byte, 1, 30, "weights version 7");
    return status == RLF_TIMEOUT && strstr(rlf_error_message(), "rank 0") && strstr(rlf_error_message(), "weights version 7");
}

static bool neighbours_are_the_ranks_of_the_node(void) {
    size_t n;
    const rlf_neighbour *near = rlf_transport_neighbours(g_t, &n);
    if ((int)n != rlf_transport_size(g_t)) return false; /* the test runs on one node */
    for (size_t i = 0; i < n; i++)
        if (near[i].rank != (int)i || kill(near[i].pid, 0) != 0 || CPU_COUNT(&near[i].cores) < 1) return false;
    return near[rlf_transport_rank(g_t)].pid == getpid();
}

static bool waits(int timeout_ms, rlf_status expected) {
    rlf_received m = {0};
    bool got = false;
    bool ok = rlf_receive(g_t, &m, timeout_ms, &got) == expected && !got;
    rlf_str_clean_up(&m.bytes);
    return ok;
}

static bool signs_of_life_keep_a_wait_going(void) {
    rlf_transport_set_deadline(g_t, 1500, 1500);
    return waits(2500, RLF_OK);
}

static bool silent_rank_0_is_named_by_those_who_wait(void) {
    bool ok = true;
    rlf_transport_set_deadline(g_t, 300, 300);
    if (rlf_transport_rank(g_t) == 0) rlf_sleep_us(3000000);
    else ok = waits(20000, RLF_TIMEOUT) && strstr(rlf_error_message(), "rank 0 (coordinator) has been silent");
    rlf_transport_set_deadline(g_t, 3600000, 3600000);
    return ok;
}

static bool all_reduce_adds_on_every_rank(void) {
    int size = rlf_transport_size(g_t), rank = rlf_transport_rank(g_t);
    double x[2] = {rank + 1, 0.25};
    bool ok = rlf_all_reduce(g_t, 0, size, x, 2, 20000) == RLF_OK;
    return ok && x[0] == size * (size + 1) / 2 && x[1] == 0.25 * size;
}

static bool shards_cover_everything_once(void) {
    for (size_t n = 0; n < 200; n++)
        for (int count = 1; count < 9; count++) {
            size_t at = 0, b, e;
            for (int i = 0; i < count; i++) {
                rlf_shard(n, count, i, &b, &e);
                if (b != at || e < b) return false;
                at = e;
            }
            if (at != n) return false;
        }
    return true;
}

int main(int argc, char **argv) {
    static const struct { const char *name; bool (*run)(void); } cases[] = {
        {"messages_keep_their_order_per_sender", messages_keep_their_order_per_sender},
        {"receive_returns_when_nothing_comes", receive_returns_when_nothing_comes},
        {"idle_rank_uses_little_cpu", idle_rank_uses_little_cpu},
        {"neighbours_are_the_ranks_of_the_node", neighbours_are_the_ranks_of_the_node},
        {"signs_of_life_keep_a_wait_going", signs_of_life_keep_a_wait_going},
        {"silent_rank_0_is_named_by_those_who_wait", silent_rank_0_is_named_by_those_who_wait},
        {"bulk_arrives_whole", bulk_arrives_whole},
        {"rank_that_waits_for_bytes_uses_little_cpu", rank_that_waits_for_bytes_uses_little_cpu},
        {"all_reduce_adds_on_every_rank", all_reduce_adds_on_every_rank},
        {"shards_cover_everything_once", shards_cover_everything_once},
        {"suspended_wait_is_not_late", suspended_wait_is_not_late},
        {"late_bulk_names_rank_and_operation", late_bulk_names_rank_and_operation}, /* last: leaves a receive open */
    };
    if (rlf_transport_new(&g_t, &argc, &argv) != RLF_OK) {
        fprintf(stderr, "%s\n", rlf_error_message());
        return 1;
    }
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int mine = cases[i].run(), all = 0;
        MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
        if (!mine) fprintf(stderr, "rank %d: %s: %s\n", rlf_transport_rank(g_t), cases[i].name, rlf_error_message());
        if (rlf_transport_rank(g_t) == 0) printf("%s %s\n", all ? "ok  " : "FAIL", cases[i].name);
        failed += !all;
    }
    if (rlf_transport_destroy(g_t, 10000) != RLF_OK) rlf_transport_abort(g_t, 1);
    return failed != 0;
}
