/* cpu: what the operations of the CPU backend run on. Private to kernels/cpu/. */
#ifndef RLF_KERNELS_CPU_CPU_H
#define RLF_KERNELS_CPU_CPU_H

#include "kernels/cpu/pool.h"
#include "kernels/ops.h"

enum { KERN_SCRATCH_BYTES = 256 << 20 }; /* per thread; reserved at open and only backed by memory once touched */

typedef struct kern_ctx kern_cpu_ctx;

/* kern_linear with weights stored as bfloat16: with bfloat16 factors, which has an instruction set of its own, and with float32 factors. */
typedef void kern_cpu_linear_fn(kern_cpu_ctx *ctx, float *y, const float *x, const uint16_t *w, const float *bias, int m, int n, int k,
                                     bool accumulate);

/* `scratch` holds threads * KERN_SCRATCH_BYTES, 64-byte aligned; contents are undefined between operations. */
struct kern_ctx {
    kern_pool *pool;
    int threads;
    char *scratch;
    kern_cpu_linear_fn *linear_bf16; /* of this processor */
};

/* KERN_SCRATCH_BYTES bytes for the task running as `thread` (the third argument of a kern_task_fn); outside kern_pool_run: thread 0. */
static inline void *kern_scratch(const kern_cpu_ctx *ctx, int thread) { return ctx->scratch + (size_t)thread * KERN_SCRATCH_BYTES; }

/* What there is of each instruction set; but for the portable one, only where KERN_HAVE_X86 is defined. */
extern const kern_ops kern_cpu_ops_portable, kern_cpu_ops_avx2, kern_cpu_ops_avx512;
kern_cpu_linear_fn kern_cpu_linear_bf16_portable, kern_cpu_linear_bf16_avx2, kern_cpu_linear_bf16_avx512,
    kern_cpu_linear_bf16_avx512bf16, kern_cpu_linear_widened_portable, kern_cpu_linear_widened_avx2, kern_cpu_linear_widened_avx512;

#endif
