/* Signals become bytes in a pipe, and a thread reads them: it may do what a handler may not, and it answers at once whatever the rank is
 * busy with.
 *
 * Who speaks of a dead rank: the lowest one alive on its node. Who is dead: a neighbour whose process is gone while SIGTERM comes. A rank
 * that ends the job itself has told its neighbours so before (SIGURG, which the system ignores where nobody listens), and the thread is
 * ended before ranks part in an orderly way. */
#include "trainer/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { END = 0 }; /* a byte that is no signal */

static const int heard[] = {SIGTERM, SIGUSR1, SIGURG};
enum { HEARD = sizeof heard / sizeof *heard };

static struct {
    bool started;
    int rank, read_end, write_end;
    pthread_t thread;
    rlf_neighbour *near; /* (n_near), owned */
    size_t n_near;
    trainer_topology topology;
    atomic_int stop;
} g_signals;

static void set_handlers(void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < HEARD; i++) sigaction(heard[i], &action, NULL);
}

static void put_byte(unsigned char byte) {
    ssize_t ignored = write(g_signals.write_end, &byte, 1); /* full: as many signals are waiting already */
    (void)ignored;
}

static void on_signal(int number) {
    int kept = errno;
    put_byte((unsigned char)number);
    errno = kept;
}

static bool is_gone(const rlf_neighbour *peer) { return kill(peer->pid, 0) != 0 && errno == ESRCH; }

/* Whether a rank of this node is dead. `say`: and says so if that is this rank's part. */
static bool find_dead(bool say) {
    bool any = false, lowest = true;
    for (size_t i = 0; i < g_signals.n_near; i++) {
        if (is_gone(&g_signals.near[i])) any = true;
        else if (g_signals.near[i].rank < g_signals.rank) lowest = false;
    }
    for (size_t i = 0; say && lowest && i < g_signals.n_near; i++) {
        int rank = g_signals.near[i].rank;
        if (is_gone(&g_signals.near[i]))
            fprintf(stderr, "rlf-train: error: rank %d (%s) was killed or crashed: the job ends\n", rank,
                    trainer_role_name(trainer_topology_role(&g_signals.topology, rank)));
    }
    return any;
}

static void *listen_to_signals(void *unused) {
    (void)unused;
    bool explained = false;
    unsigned char number = END;
    while (read(g_signals.read_end, &number, 1) == 1 && number != END) {
        if (number == SIGURG) explained = true;
        else if (number != SIGTERM || !find_dead(!explained)) atomic_store(&g_signals.stop, number);
    }
    return NULL;
}

void trainer_signals_hold(void) {
    signal(SIGPIPE, SIG_IGN); /* a peer that is gone shows as an error of a call */
    set_handlers(SIG_IGN);
}

rlf_status trainer_signals_start(const rlf_transport *transport, const trainer_topology *topology) {
    int ends[2];
    const rlf_neighbour *near = rlf_transport_neighbours(transport, &g_signals.n_near);
    if (pipe2(ends, O_CLOEXEC) != 0 || fcntl(ends[1], F_SETFL, O_NONBLOCK) != 0)
        return RLF_RAISE(IO, "cannot make a pipe: %s", strerror(errno));
    g_signals.read_end = ends[0];
    g_signals.write_end = ends[1];
    g_signals.rank = rlf_transport_rank(transport);
    g_signals.topology = *topology;
    g_signals.near = rlf_calloc(g_signals.n_near, sizeof *near);
    memcpy(g_signals.near, near, g_signals.n_near * sizeof *near);
    if (pthread_create(&g_signals.thread, NULL, listen_to_signals, NULL) != 0) return RLF_RAISE(IO, "cannot start a thread");
    g_signals.started = true;
    set_handlers(on_signal);
    return RLF_OK;
}

void trainer_signals_end(void) {
    if (!g_signals.started) return;
    set_handlers(SIG_IGN);
    fcntl(g_signals.write_end, F_SETFL, 0); /* this byte has to arrive */
    put_byte(END);
    pthread_join(g_signals.thread, NULL);
    close(g_signals.read_end);
    close(g_signals.write_end);
    free(g_signals.near);
    g_signals.started = false;
}

int trainer_stop_asked(void) { return atomic_load(&g_signals.stop); }

void trainer_signals_explained(void) {
    for (size_t i = 0; g_signals.started && i < g_signals.n_near; i++)
        if (g_signals.near[i].rank != g_signals.rank) kill(g_signals.near[i].pid, SIGURG);
}
