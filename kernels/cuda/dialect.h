/* dialect: what kernels are written in: C17 that is also CUDA C++, and these words. nvcc compiles the .cu files for cards; a C compiler
 * compiles the same files against tests/simt/simt.h, which gives the words their meaning on the CPU, and checks what a card would not.
 *
 *   KERN_KERNEL(name) { ... }    a kernel; its only argument is `const name_args a`, a struct defined before
 *   KERN_KERNEL_FOR(name, threads, blocks)    the same, with so few registers that so many blocks of so many threads fit on a processor
 *   KERN_KERNEL_EARLY(name)      the same, beginning with kern_next_may_start(): before it waits
 *   KERN_KERNEL_WAITS(name), KERN_KERNEL_WAITS_FOR(name, threads, blocks)    the same, but kern_wait_for_previous() stands where the kernel says
 *                                it, which all threads do
 *   KERN_KERNEL_WITH_MAPS(name, threads, blocks)    the same for hopper.h: maps are used where they lie in `a`, the rest is
 *                                best copied to variables: it would be read again and again
 *   KERN_LAUNCH(ctx, name, blocks, threads, args)    queues it; threads is a multiple of 32; no blocks: nothing
 *   KERN_SHARED(type, name)      at the top of a kernel, once: `name` points to the block's memory, undefined at first; 48 KiB at most
 *   KERN_LAUNCH_SHARED(ctx, name, blocks, threads, bytes, args), KERN_SHARED_BYTES(type, name)    the same with as many bytes a block as
 *                                the launch says, up to what the card has (227 KiB on Hopper); type is what stands at the beginning
 *   kern_thread() kern_block()   this thread's place in its block, the block's place; kern_threads() in a block, kern_blocks() of the launch
 *   kern_barrier()               all threads of the block, at one place of the source
 *   kern_warp_barrier(), kern_shuffle_*, kern_ballot (bit l is what lane l says)   all 32 threads of a warp
 *   kern_next_may_start()        the kernel that follows may take its place on the card, once all blocks have said so. It waits until this one is
 *                                over before it does anything but read what no kernel writes that may still run: weights, and what the
 *                                host uploaded, such as a step's positions and pages. So kernels that write weights do not say it, and the
 *                                host says that they have (wrote_weights of kern_ctx). Said before this kernel waits itself, several
 *                                kernels wait on the card, each for the one before: all of them have read weights, and nothing lies between
 *                                the end of one and the beginning of the next but that this one is told
 *   kern_wait_for_previous()     what every kernel begins with by itself, but for those with maps and KERN_KERNEL_WAITS
 *   KERN_UNROLL                  before a loop of constant length whose counter picks registers: it is written out
 *   KERN_UNROLL_BY(n)            before any loop: n turns at a time, so that their loads come first
 *   kern_add_u64(), kern_add_u32()    atomics: adding integers has no order
 *   kern_take_u32()              the same, and returns what was there: for places in a list whose order nothing depends on
 *   kern_fence()                 between blocks: who takes what a thread adds after a fence, and then fences, sees what that thread, and
 *                                those it had met at a barrier, wrote before; so do those who meet it at a barrier then
 * and those of mma.h for tensor cores, and of hopper.h for Hopper's. */
#ifndef RLF_KERNELS_CUDA_DIALECT_H
#define RLF_KERNELS_CUDA_DIALECT_H

#include "kernels/cuda/cuda.h"

#ifdef __CUDACC__

#define KERN_DEVICE static __device__ __forceinline__
/* Every kernel waits for the one before it in the stream, which may have let it start. */
#define KERN_KERNEL_BODY_(name, bounds, before)                                     \
    static __device__ __forceinline__ void name##_body(const name##_args &a);       \
    static __global__ void bounds name(const name##_args a) {                       \
        before;                                                                     \
        name##_body(a);                                                             \
    }                                                                               \
    static __device__ __forceinline__ void name##_body(const name##_args &a)
#define KERN_KERNEL(name) KERN_KERNEL_BODY_(name, , kern_wait_for_previous())
#define KERN_KERNEL_FOR(name, threads, blocks) KERN_KERNEL_BODY_(name, __launch_bounds__(threads KERN_COMMA blocks), kern_wait_for_previous())
#define KERN_KERNEL_EARLY(name) KERN_KERNEL_BODY_(name, , kern_next_may_start(); kern_wait_for_previous())
#define KERN_KERNEL_WAITS(name) KERN_KERNEL_BODY_(name, , kern_next_may_start())
#define KERN_KERNEL_WAITS_FOR(name, threads, blocks) KERN_KERNEL_BODY_(name, __launch_bounds__(threads KERN_COMMA blocks), kern_next_may_start())
#define KERN_COMMA ,
#define KERN_KERNEL_WITH_MAPS(name, threads, blocks) \
    static __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ name##_args a)
#define KERN_SHARED(type, name)           \
    __shared__ type name##_memory;        \
    type *const name = &name##_memory
#define KERN_SHARED_BYTES(type, name)                        \
    extern __shared__ __align__(128) char kern_shared_bytes[]; \
    type *const name = (type *)kern_shared_bytes
#define KERN_LAUNCH(ctx, name, blocks, threads, args)                                                      \
    do {                                                                                                   \
        if ((blocks) <= 0) break;                                                                          \
        kern_launch(name, (ctx), (blocks), (threads), 0, args);                                            \
        kern_card_launched((ctx)->card, #name);                                                            \
    } while (0)
#define KERN_LAUNCH_SHARED(ctx, name, blocks, threads, bytes, args)                                        \
    do {                                                                                                   \
        if ((blocks) <= 0) break;                                                                          \
        kern_card_allow((ctx)->card, (const void *)(name), (bytes));                                       \
        kern_launch(name, (ctx), (blocks), (threads), (bytes), args);                                      \
        kern_card_launched((ctx)->card, #name);                                                            \
    } while (0)

/* On Hopper's cards a launch may start as soon as the kernel before lets it (kern_next_may_start), or when all its blocks have ended: what
 * they wrote need not be there by then. So the launch after one that wrote weights starts when those are there. */
template <typename args_type>
static void kern_launch(void (*kernel)(args_type), kern_ctx *ctx, int blocks, int threads, size_t bytes, const args_type &args) {
    cudaLaunchAttribute early;
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = bytes;
    config.stream = (cudaStream_t)kern_card_stream(ctx->card);
    config.attrs = &early;
    config.numAttrs = ctx->hopper && !ctx->wrote_weights ? 1 : 0;
    ctx->wrote_weights = false;
    if (kern_card_well(ctx->card)) cudaLaunchKernelEx(&config, kernel, args);
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
KERN_DEVICE void kern_wait_for_previous(void) { asm volatile("griddepcontrol.wait;" ::: "memory"); }
KERN_DEVICE void kern_next_may_start(void) { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
#else
KERN_DEVICE void kern_wait_for_previous(void) {}
KERN_DEVICE void kern_next_may_start(void) {}
#endif

#define KERN_UNROLL _Pragma("unroll")
#define KERN_PRAGMA_(text) _Pragma(#text)
#define KERN_UNROLL_BY(n) KERN_PRAGMA_(unroll n)

KERN_DEVICE int kern_thread(void) { return (int)threadIdx.x; }
KERN_DEVICE int kern_block(void) { return (int)blockIdx.x; }
KERN_DEVICE int kern_threads(void) { return (int)blockDim.x; }
KERN_DEVICE int kern_blocks(void) { return (int)gridDim.x; }
#define kern_barrier() __syncthreads()
#define kern_warp_barrier() __syncwarp()
KERN_DEVICE float kern_shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
KERN_DEVICE double kern_shuffle_xor_f64(double x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
KERN_DEVICE uint64_t kern_shuffle_xor_u64(uint64_t x, int mask) {
    return (uint64_t)__shfl_xor_sync(0xffffffffu, (unsigned long long)x, mask);
}
KERN_DEVICE uint32_t kern_ballot(bool bit) { return __ballot_sync(0xffffffffu, bit); }
KERN_DEVICE void kern_add_u64(uint64_t *to, uint64_t x) { atomicAdd((unsigned long long *)to, (unsigned long long)x); }
KERN_DEVICE void kern_add_u32(uint32_t *to, uint32_t x) { atomicAdd(to, x); }
KERN_DEVICE uint32_t kern_take_u32(uint32_t *from, uint32_t x) { return atomicAdd(from, x); }
#define kern_fence() __threadfence()

#else
#include <simt.h>
#endif

/* Floats that are loaded and stored together. */
typedef struct float_pair {
    float x, y;
} __attribute__((aligned(8))) float_pair;
typedef struct float_quad {
    float x, y, z, w;
} __attribute__((aligned(16))) float_quad;

/* Two floats, each to the nearest bfloat16, the even one of two: kern_bf16_of_float in one instruction, but for which NaN a NaN becomes. */
KERN_DEVICE uint32_t kern_bf16_pair(float low, float high) {
#ifdef __CUDACC__
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return kern_bf16_of_float(low) | (uint32_t)kern_bf16_of_float(high) << 16;
#endif
}

/* ---- tensors of either type --------------------------------------------------------------------------------------------------------- */

/* Element i as a float, and a float to element i, to the nearest. */
KERN_DEVICE float kern_element(const void *x, kern_dtype dtype, size_t i) {
    return dtype == KERN_BF16 ? kern_float_of_bf16(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}
KERN_DEVICE void kern_set_element(void *x, kern_dtype dtype, size_t i, float to) {
    if (dtype == KERN_BF16)
        ((uint16_t *)x)[i] = kern_bf16_of_float(to);
    else
        ((float *)x)[i] = to;
}

/* Four elements from i on, of which the tensor has the first n. `wide`: in one access; i is a multiple of 4 then, and so is the tensor's
 * length, and its address that of four elements (kern_wide). */
typedef struct kern_float4 {
    float v[4];
} __attribute__((aligned(16))) kern_float4;
typedef struct kern_half4 {
    uint32_t v[2];
} __attribute__((aligned(8))) kern_half4;

static inline bool kern_wide(const void *x, kern_dtype dtype, int row) {
    return row % 4 == 0 && (uintptr_t)x % (4 * (dtype == KERN_BF16 ? sizeof(uint16_t) : sizeof(float))) == 0;
}

KERN_DEVICE kern_float4 kern_load4(const void *x, kern_dtype dtype, size_t i, int n, bool wide) {
    kern_float4 y = {{0, 0, 0, 0}};
    if (n <= 0) return y;
    if (wide && dtype == KERN_F32) return *(const kern_float4 *)((const float *)x + i);
    if (wide) {
        const kern_half4 half = *(const kern_half4 *)((const uint16_t *)x + i);
        KERN_UNROLL
        for (int e = 0; e < 4; e++) y.v[e] = kern_float_of_bf16((uint16_t)(half.v[e / 2] >> e % 2 * 16));
        return y;
    }
    for (int e = 0; e < 4 && e < n; e++) y.v[e] = kern_element(x, dtype, i + (size_t)e);
    return y;
}
KERN_DEVICE void kern_store4(void *x, kern_dtype dtype, size_t i, int n, bool wide, kern_float4 y) {
    if (n <= 0) return;
    if (wide && dtype == KERN_F32) {
        *(kern_float4 *)((float *)x + i) = y;
    } else if (wide) {
        const kern_half4 half = {{kern_bf16_pair(y.v[0], y.v[1]), kern_bf16_pair(y.v[2], y.v[3])}};
        *(kern_half4 *)((uint16_t *)x + i) = half;
    } else {
        for (int e = 0; e < 4 && e < n; e++) kern_set_element(x, dtype, i + (size_t)e, y.v[e]);
    }
}

/* ---- sixteen lanes: half a warp, and the reductions of kern.h over it -------------------------------------------------------------- */

enum { KERN_LANES = 16 };

KERN_DEVICE int kern_lane(void) { return kern_thread() % KERN_LANES; }
KERN_DEVICE int kern_team(void) { return kern_thread() / KERN_LANES; } /* which half warp of the block */

/* Lane i with i+8, then +4, +2, +1: a butterfly adds the same pairs, and leaves the sum in every lane. */
KERN_DEVICE float kern_sum16(float x) {
    for (int half = 8; half; half /= 2) x += kern_shuffle_xor(x, half);
    return x;
}
KERN_DEVICE double kern_sum16_f64(double x) {
    for (int half = 8; half; half /= 2) x += kern_shuffle_xor_f64(x, half);
    return x;
}
KERN_DEVICE float kern_larger(float a, float b) { return a > b ? a : b; }
KERN_DEVICE float kern_max32(float x) {
    for (int half = 16; half; half /= 2) x = kern_larger(kern_shuffle_xor(x, half), x);
    return x;
}

#endif
