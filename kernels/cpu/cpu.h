/* cpu: what the operations of the CPU backend run on. Private to kernels/cpu/. */
#ifndef RLF_KERNELS_CPU_CPU_H
#define RLF_KERNELS_CPU_CPU_H

#include "kernels/cpu/pool.h"
#include "kernels/ops.h"

enum {
    KERN_MAX_THREADS = 256,
    KERN_SCRATCH_BYTES = 32 << 20 /* per thread; reserved at open and only backed by memory once touched */
};

/* `scratch` holds threads * KERN_SCRATCH_BYTES, 64-byte aligned; contents are undefined between operations. */
typedef struct kern_ctx {
    kern_pool *pool;
    int threads;
    char *scratch;
} kern_cpu_ctx;

/* KERN_SCRATCH_BYTES bytes for the task running as `thread` (the third argument of a kern_task_fn); outside kern_pool_run: thread 0. */
static inline void *kern_scratch(const kern_cpu_ctx *ctx, int thread) { return ctx->scratch + (size_t)thread * KERN_SCRATCH_BYTES; }

extern const kern_ops kern_cpu_ops_portable;
#ifdef KERN_HAVE_X86
extern const kern_ops kern_cpu_ops_avx2, kern_cpu_ops_avx512;
#endif

#endif
