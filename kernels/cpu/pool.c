/* The worker pool. One job at a time: the caller publishes it under the mutex (a new generation number), everyone draws task numbers from
 * one atomic counter, and the caller waits until the last worker has left the job.
 *
 * Kernels come in quick succession, so an idle worker watches the generation for SPIN_NS before it sleeps on the condition variable, and the
 * caller does the same for the end of a job. No longer: many ranks may share the cores, and a spinning one takes the time another needs. */
#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/mem.h"

enum { SPIN_NS = 20000 };

struct kern_pool {
    int threads; /* with the caller */
    pthread_t *workers;
    int started;

    kern_task_fn *fn; /* the job: written by the caller while no worker is in one */
    void *ctx;
    int tasks;
    atomic_int next;         /* next task to hand out */
    atomic_int busy;         /* workers still in the job */
    atomic_uint generation;  /* job number; changes under `mutex` */
    bool stop;               /* under `mutex` */

    pthread_mutex_t mutex;
    pthread_cond_t work; /* generation or stop changed */
    pthread_cond_t done; /* busy reached 0 */
};

typedef struct worker_start {
    kern_pool *pool;
    int thread;
} worker_start;

static inline void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void run_tasks(kern_pool *pool, int thread) {
    for (;;) {
        int task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->tasks) return;
        pool->fn(pool->ctx, task, thread);
    }
}

/* Returns whether *value left `old` within SPIN_NS. */
static bool spin_while(const atomic_uint *value, unsigned old) {
    int64_t end = rlf_now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(value, memory_order_acquire) != old) return true;
            pause_cpu();
        }
    } while (rlf_now_ns() < end);
    return false;
}

/* Waits for a job newer than `seen`; false: the pool is closing. */
static bool wait_for_job(kern_pool *pool, unsigned seen) {
    if (spin_while(&pool->generation, seen)) return !pool->stop;
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->work, &pool->mutex);
    bool go_on = !pool->stop;
    pthread_mutex_unlock(&pool->mutex);
    return go_on;
}

static void leave_job(kern_pool *pool) {
    if (atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_acq_rel) != 1) return;
    pthread_mutex_lock(&pool->mutex); /* the caller is either before its check or asleep: never between */
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *arg) {
    worker_start start = *(worker_start *)arg;
    free(arg);
    unsigned seen = 0;
    while (wait_for_job(start.pool, seen)) {
        seen++;
        run_tasks(start.pool, start.thread);
        leave_job(start.pool);
    }
    return NULL;
}

/* A new generation: wakes every worker. */
static void announce(kern_pool *pool, bool stop) {
    pthread_mutex_lock(&pool->mutex);
    pool->stop = stop;
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
}

static void wait_until_done(kern_pool *pool) {
    int64_t end = rlf_now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            if (!atomic_load_explicit(&pool->busy, memory_order_acquire)) return;
            pause_cpu();
        }
    } while (rlf_now_ns() < end);
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load_explicit(&pool->busy, memory_order_acquire)) pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

static rlf_status start_worker(kern_pool *pool, int thread) {
    worker_start *start = rlf_calloc(1, sizeof *start);
    *start = (worker_start){pool, thread};
    int error = pthread_create(&pool->workers[pool->started], NULL, worker_main, start);
    if (error) {
        free(start);
        return RLF_RAISE(LIMIT, "cannot start worker thread %d of %d (error %d)", thread, pool->threads, error);
    }
    pool->started++;
    return RLF_OK;
}

rlf_status kern_pool_new(kern_pool **out, int threads) {
    rlf_status status = RLF_OK;
    kern_pool *pool = rlf_calloc(1, sizeof *pool);
    pool->threads = threads;
    pool->workers = rlf_calloc((size_t)threads, sizeof *pool->workers);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (int thread = 1; thread < threads; thread++) RLF_TRY(start_worker(pool, thread));
    *out = pool;
    pool = NULL;
out:
    kern_pool_destroy(pool);
    return status;
}

void kern_pool_destroy(kern_pool *pool) {
    if (!pool) return;
    announce(pool, true);
    for (int i = 0; i < pool->started; i++) pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}

int kern_pool_threads(const kern_pool *pool) { return pool->threads; }

void kern_pool_run(kern_pool *pool, int tasks, kern_task_fn *fn, void *ctx) {
    if (pool->started == 0 || tasks <= 1) {
        for (int task = 0; task < tasks; task++) fn(ctx, task, 0);
        return;
    }
    pool->fn = fn;
    pool->ctx = ctx;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->busy, pool->started, memory_order_relaxed);
    announce(pool, false);
    run_tasks(pool, 0);
    wait_until_done(pool);
}
