/* A thread that sleeps until it is told that all is well. It ends the process by itself, as the thread that it watches cannot be woken. */
#include "trainer/startup.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Rank 0 speaks first, and rank 1 where rank 0 is the one that is missing: the launcher then takes 2 s and more to end the others. */
enum { LATER_S = 5 };

static struct {
    pthread_t thread;
    pthread_mutex_t lock; /* guards `over` */
    pthread_cond_t ended;
    bool started, over;
    int64_t deadline_s;
    const char *rank;
} g_startup = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *watch(void *unused) {
    (void)unused;
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    int turn = strcmp(g_startup.rank, "0") == 0 ? 0 : strcmp(g_startup.rank, "1") == 0 ? 1 : 2;
    end.tv_sec += g_startup.deadline_s + turn * LATER_S;
    int failed = 0;
    pthread_mutex_lock(&g_startup.lock);
    while (!g_startup.over && !failed) failed = pthread_cond_timedwait(&g_startup.ended, &g_startup.lock, &end);
    if (!g_startup.over) {
        fprintf(stderr, "rlf-train: error: rank %s: deadline passed while waiting in MPI_Init for all ranks to come: %lld s "
                "(deadline.startup_s)\n", g_startup.rank, (long long)g_startup.deadline_s);
        _exit(EXIT_FAILURE);
    }
    pthread_mutex_unlock(&g_startup.lock);
    return NULL;
}

/* In a shell that Slurm runs as a step (salloc, srun --pty) Open MPI takes a lone program for a rank of srun's, and ends it. */
static void leave_step(void) {
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (tasks && strcmp(tasks, "1") == 0) unsetenv("SLURM_STEP_ID");
}

rlf_status trainer_startup_begin(int64_t deadline_s) {
    const char *rank = getenv("PMIX_RANK"); /* the launcher's word for it: MPI cannot be asked yet */
    pthread_condattr_t monotonic;
    if (!rank) leave_step();
    g_startup.deadline_s = deadline_s;
    g_startup.rank = rank ? rank : "0";
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&g_startup.ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&g_startup.thread, NULL, watch, NULL) != 0) return RLF_RAISE(IO, "cannot start a thread");
    g_startup.started = true;
    return RLF_OK;
}

void trainer_startup_end(void) {
    if (!g_startup.started) return;
    pthread_mutex_lock(&g_startup.lock);
    g_startup.over = true;
    pthread_cond_signal(&g_startup.ended);
    pthread_mutex_unlock(&g_startup.lock);
    pthread_join(g_startup.thread, NULL);
    pthread_cond_destroy(&g_startup.ended);
    g_startup.started = false;
}
