/* The CPU as a device: buffers are host memory, an operation is finished when its function returns, and so a sync has nothing to wait
 * for. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "kernels/cpu/cpu.h"

/* ---- memory ----------------------------------------------------------------------------------------------------------------------- */

enum {
    ALIGNMENT = 64,
    MAP_FROM_BYTES = 1 << 20 /* larger buffers are mapped: zero until touched */
};

/* In huge pages where there are some: decoding reads all weights for every token, and with small ones waits for page tables as long as for
 * the weights (in a virtual machine 17 against 31 GB/s). */
static void *map_zeroed(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static void *allocate_zeroed(size_t bytes) {
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *p = aligned_alloc(ALIGNMENT, rounded ? rounded : ALIGNMENT);
    if (p) memset(p, 0, rounded);
    return p;
}

static void *cpu_allocate(kern_ctx *ctx, size_t bytes) {
    (void)ctx;
    return bytes >= MAP_FROM_BYTES ? map_zeroed(bytes) : allocate_zeroed(bytes);
}

static void cpu_release(kern_ctx *ctx, void *ptr, size_t bytes) {
    (void)ctx;
    if (bytes >= MAP_FROM_BYTES)
        munmap(ptr, bytes);
    else
        free(ptr);
}

static size_t cpu_free_bytes(kern_ctx *ctx) {
    (void)ctx;
    return (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}

static void cpu_copy(kern_ctx *ctx, void *dst, const void *src, size_t bytes) {
    (void)ctx;
    memcpy(dst, src, bytes);
}

static void cpu_zero(kern_ctx *ctx, void *dst, size_t bytes) {
    (void)ctx;
    memset(dst, 0, bytes);
}

static rlf_status cpu_sync(kern_ctx *ctx) {
    (void)ctx;
    return RLF_OK;
}

/* ---- opening ---------------------------------------------------------------------------------------------------------------------- */

typedef struct isa_entry {
    const char *name;
    const kern_ops *ops;
    kern_cpu_linear_fn *linear_bf16;
} isa_entry;

static bool machine_has(const char *isa) {
#ifdef KERN_HAVE_X86
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(isa, "avx2")) return avx2;
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512bw");
    if (!strcmp(isa, "avx512")) return avx512;
    if (!strcmp(isa, "avx512bf16")) return avx512 && __builtin_cpu_supports("avx512bf16");
#endif
    return !strcmp(isa, "portable");
}

/* `wanted` NULL: the best the machine has. */
static rlf_status choose_isa(isa_entry *out, const char *wanted) {
    static const isa_entry best_first[] = {
#ifdef KERN_HAVE_X86
        {"avx512bf16", &kern_cpu_ops_avx512, kern_cpu_linear_bf16_avx512bf16},
        {"avx512", &kern_cpu_ops_avx512, kern_cpu_linear_bf16_avx512},
        {"avx2", &kern_cpu_ops_avx2, kern_cpu_linear_bf16_avx2},
#endif
        {"portable", &kern_cpu_ops_portable, kern_cpu_linear_bf16_portable},
    };
    for (size_t i = 0; i < sizeof best_first / sizeof *best_first; i++) {
        if (wanted && strcmp(wanted, best_first[i].name) != 0) continue;
        if (!machine_has(best_first[i].name)) continue;
        *out = best_first[i];
        return RLF_OK;
    }
    return RLF_RAISE(UNSUPPORTED, "instruction set \"%s\" is not one this build and this machine have (avx512bf16, avx512, avx2, "
                     "portable)", wanted);
}

static int threads_for_affinity(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int cores = CPU_COUNT(&set);
    return cores < KERN_MAX_THREADS ? cores : KERN_MAX_THREADS;
}

static void cpu_close(kern_ctx *ctx) {
    kern_pool_destroy(ctx->pool);
    if (ctx->scratch) munmap(ctx->scratch, (size_t)ctx->threads * KERN_SCRATCH_BYTES);
    free(ctx);
}

static const kern_backend cpu_backend = {.host_memory = true, .close = cpu_close, .free_bytes = cpu_free_bytes,
                                         .allocate = cpu_allocate, .release = cpu_release,
                                         .host_allocate = cpu_allocate, .host_release = cpu_release,
                                         .upload = cpu_copy, .download = cpu_copy, .fetch = cpu_copy, .copy = cpu_copy,
                                         .zero = cpu_zero, .sync = cpu_sync};

/* Keys, values and the scores of a block of rows (isa/attention.c), a block of keys more than there are. */
int kern_cpu_positions(int head_dim) { return (int)(KERN_SCRATCH_BYTES / sizeof(float) / (size_t)(2 * head_dim + 24)) - 64; }

size_t kern_cpu_kv_bytes(kern_kv_shape shape) { return kern_cpu_ops_portable.kv_bytes(shape); }

rlf_status kern_cpu_open(kern_device *device, const kern_device_options *options) {
    rlf_status status = RLF_OK;
    isa_entry isa = {0};
    kern_ctx *ctx = rlf_calloc(1, sizeof *ctx);
    int threads = options->threads ? options->threads : threads_for_affinity();
    if (threads < 1 || threads > KERN_MAX_THREADS) RLF_FAIL(INVALID, "%d threads; expected 1 to %d", threads, KERN_MAX_THREADS);
    RLF_TRY(choose_isa(&isa, options->isa));
    ctx->threads = threads;
    ctx->scratch = map_zeroed((size_t)threads * KERN_SCRATCH_BYTES);
    if (!ctx->scratch) RLF_FAIL(NO_MEMORY, "cannot reserve scratch memory for %d threads", threads);
    RLF_TRY(kern_pool_new(&ctx->pool, threads));
    snprintf(device->name, sizeof device->name, "cpu %s, %d thread%s", isa.name, threads, threads == 1 ? "" : "s");
    device->backend = &cpu_backend;
    device->ops = isa.ops;
    ctx->linear_bf16 = isa.linear_bf16;
    device->ctx = ctx;
    ctx = NULL;
out:
    if (ctx) cpu_close(ctx);
    return status;
}
