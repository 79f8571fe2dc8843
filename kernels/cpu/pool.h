/* A pool of worker threads for the CPU backend. Tasks are numbered; which thread runs which is not defined, so a task's result must not
 * depend on it. Idle workers sleep. */
#ifndef RLF_KERNELS_CPU_POOL_H
#define RLF_KERNELS_CPU_POOL_H

#include "common/base/status.h"

typedef struct kern_pool kern_pool;
typedef void kern_task_fn(void *ctx, int task, int thread);

/* `threads` counts the caller; 1 starts none. */
rlf_status kern_pool_new(kern_pool **out, int threads) RLF_MUST_USE;
void kern_pool_destroy(kern_pool *pool);
int kern_pool_threads(const kern_pool *pool);
/* Runs fn for task 0..tasks-1 on the pool and the calling thread; returns when all are done. thread is 0..threads-1: for scratch memory.
 * Each task of the calling thread is a sign of life (common/base/alive.h). */
void kern_pool_run(kern_pool *pool, int tasks, kern_task_fn *fn, void *ctx);

#endif
