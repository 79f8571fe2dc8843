/* The worker pool. One job at a time. `left` counts the tasks not yet taken; whoever brings it down from t > 0 owns task tasks -
 * t, and the job cannot end, nor its fields change, before that task is finished. A thread that gets t <= 0 touches nothing
 * else. So the caller waits for tasks, never for threads: a worker that wakes late, because other ranks hold its core, finds
 * nothing to do and delays no one.
 *
 * Kernels come in quick succession, so an idle worker watches the generation for SPIN_NS before it sleeps on the condition
 * variable, and the caller does the same for the end of a job. No longer: many ranks may share the cores, and a spinning one
 * takes the time another needs. */
#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/base/alive.h"
#include "common/base/clock.h"
#include "common/base/mem.h"

enum { SPIN_NS = 20000 };

struct kern_pool {
    int threads; /* with the caller */
    pthread_t *workers;
    int started;

    kern_task_fn *fn; /* the job: written by the caller while all tasks of the one before are finished */
    void *ctx;
    int tasks;
    atomic_int left;        /* tasks not taken; below 0: threads that came too late */
    atomic_int finished;    /* tasks done */
    atomic_uint generation; /* job number; changes under `mutex` */
    atomic_bool stop;

    pthread_mutex_t mutex;
    pthread_cond_t work; /* generation changed */
    pthread_cond_t done; /* finished reached tasks */
};

/* What a worker is told; it frees it. */
typedef struct worker_start {
    kern_pool *pool;
    int thread;
} worker_start;

static inline void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void finish_task(kern_pool *pool, int tasks) {
    if (atomic_fetch_add_explicit(&pool->finished, 1, memory_order_acq_rel) + 1 < tasks) return;
    pthread_mutex_lock(&pool->mutex); /* the caller is either before its check or asleep: never between */
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

static void run_tasks(kern_pool *pool, int thread) {
    int left;
    while ((left = atomic_fetch_sub_explicit(&pool->left, 1, memory_order_acq_rel)) > 0) {
        int tasks = pool->tasks; /* after the last finish_task the field is the next job's */
        pool->fn(pool->ctx, tasks - left, thread);
        finish_task(pool, tasks);
        rlf_alive(); /* of the caller, where one is told: workers have nobody */
    }
}

static bool job_is_new(kern_pool *pool, int seen) {
    return atomic_load_explicit(&pool->generation, memory_order_acquire) != (unsigned)seen;
}

static bool job_is_done(kern_pool *pool, int tasks) { return atomic_load_explicit(&pool->finished, memory_order_acquire) == tasks; }

/* Waits until holds(pool, value): first watching, then asleep on `cond`. */
static void wait_until(kern_pool *pool, bool (*holds)(kern_pool *pool, int value), int value, pthread_cond_t *cond) {
    int64_t end = rlf_now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            if (holds(pool, value)) return;
            pause_cpu();
        }
    } while (rlf_now_ns() < end);
    pthread_mutex_lock(&pool->mutex);
    while (!holds(pool, value)) pthread_cond_wait(cond, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *arg) {
    worker_start start = *(worker_start *)arg;
    free(arg);
    kern_pool *pool = start.pool;
    unsigned seen = 0;
    for (;;) {
        wait_until(pool, job_is_new, (int)seen, &pool->work);
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed)) return NULL;
        run_tasks(pool, start.thread);
    }
}

/* A new generation: wakes every worker. */
static void announce(kern_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool->work);
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
    atomic_store_explicit(&pool->stop, true, memory_order_relaxed);
    announce(pool);
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
        for (int task = 0; task < tasks; task++) {
            fn(ctx, task, 0);
            rlf_alive();
        }
        return;
    }
    pool->fn = fn;
    pool->ctx = ctx;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->finished, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->left, tasks, memory_order_release);
    announce(pool);
    run_tasks(pool, 0);
    wait_until(pool, job_is_done, tasks, &pool->done);
}
