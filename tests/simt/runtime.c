/* The calls of card.c, dialect.h and the code that nvcc makes for launches (runtime.h). */
#include "tests/simt/runtime.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MOST_KERNELS = 512, MOST_CARDS = 8, MOST_BLOCKS = 4096, PAGE = 4096, UNASKED_BYTES = 48 << 10, MOST_THREADS = 1024, FIRST_STREAM = 0x100 };

typedef struct kernel {
    const void *host;
    char name[128];
    int granted[MOST_CARDS]; /* bytes of shared memory */
    long launches;
} kernel;

typedef struct memory_block {
    char *at;
    size_t bytes;
} memory_block;

static runtime_cards g_cards = {1, 9, 132, 227 << 10, false};
static kernel g_kernels[MOST_KERNELS];
static memory_block g_blocks[MOST_BLOCKS];
static int g_n_kernels, g_n_blocks, g_current;
static size_t g_faults;
static char g_first[256];
static cudaError_t g_last;

/* ---- what tests ask --------------------------------------------------------------------------------------------------------------- */

void runtime_set(runtime_cards cards) {
    g_cards = cards;
    g_faults = 0;
    g_first[0] = '\0';
    for (int i = 0; i < g_n_kernels; i++) {
        g_kernels[i].launches = 0;
        memset(g_kernels[i].granted, 0, sizeof g_kernels[i].granted);
    }
}

size_t runtime_faults(const char **first) {
    *first = g_first;
    return g_faults;
}

long runtime_fewest_launches(const char *part) {
    long fewest = -1;
    for (int i = 0; i < g_n_kernels; i++)
        if (strstr(g_kernels[i].name, part) && (fewest < 0 || g_kernels[i].launches < fewest)) fewest = g_kernels[i].launches;
    return fewest;
}

/* ---- errors ----------------------------------------------------------------------------------------------------------------------- */

static cudaError_t failed(cudaError_t error) {
    g_last = error;
    return error;
}

static cudaError_t fault(cudaError_t error, const char *what, const char *whose) {
    if (g_faults++ == 0) snprintf(g_first, sizeof g_first, "%s: %s", whose, what);
    return failed(error);
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = g_last;
    g_last = cudaSuccess;
    return error;
}

const char *cudaGetErrorString(cudaError_t error) {
    static char text[32];
    snprintf(text, sizeof text, "error %d", (int)error);
    return text;
}

/* ---- cards ------------------------------------------------------------------------------------------------------------------------ */

cudaError_t cudaSetDevice(int device) {
    g_current = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = g_cards.count;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "a card that is none");
    p->major = g_cards.major;
    p->multiProcessorCount = g_cards.processors;
    p->sharedMemPerBlockOptin = g_cards.shared_bytes;
    p->totalGlobalMem = SIZE_MAX / 4;
    p->uuid.bytes[0] = (char)(device + 1);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *all) {
    *available = *all = SIZE_MAX / 4;
    return cudaSuccess;
}

/* ---- memory ----------------------------------------------------------------------------------------------------------------------- */

static bool is_inside(const void *at, size_t bytes) {
    for (int i = 0; i < g_n_blocks; i++)
        if ((const char *)at >= g_blocks[i].at && (const char *)at + bytes <= g_blocks[i].at + g_blocks[i].bytes) return true;
    return false;
}

cudaError_t cudaMalloc(void **ptr, size_t bytes) {
    void *at = mmap(NULL, bytes + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || g_n_blocks == MOST_BLOCKS) return failed(cudaErrorMemoryAllocation);
    g_blocks[g_n_blocks++] = (memory_block){at, bytes};
    *ptr = at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *ptr) {
    for (int i = 0; i < g_n_blocks; i++) {
        if (g_blocks[i].at != ptr) continue;
        munmap(ptr, g_blocks[i].bytes + PAGE);
        g_blocks[i] = g_blocks[--g_n_blocks];
        return cudaSuccess;
    }
    return fault(cudaErrorInvalidValue, "of what was not allocated", "free");
}

cudaError_t cudaHostAlloc(void **ptr, size_t bytes, unsigned flags) {
    (void)flags;
    *ptr = calloc(1, bytes);
    return *ptr ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *ptr) {
    free(ptr);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    (void)stream;
    if (kind != cudaMemcpyDeviceToHost && !is_inside(to, bytes)) return fault(cudaErrorInvalidValue, "to outside of an allocation", "copy");
    if (kind != cudaMemcpyHostToDevice && !is_inside(from, bytes)) return fault(cudaErrorInvalidValue, "from outside of an allocation", "copy");
    if (kind == cudaMemcpyDeviceToHost) memset(to, 0, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    (void)value, (void)stream;
    return is_inside(to, bytes) ? cudaSuccess : fault(cudaErrorInvalidValue, "outside of an allocation", "zero");
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *ptr) {
    (void)ptr;
    memset(handle, 0, sizeof *handle);
    return g_cards.refuses_ipc ? failed(cudaErrorNotSupported) : cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void **ptr, cudaIpcMemHandle_t handle, unsigned flags) {
    (void)ptr, (void)handle, (void)flags;
    return failed(cudaErrorNotSupported);
}

cudaError_t cudaIpcCloseMemHandle(void *ptr) {
    (void)ptr;
    return cudaSuccess;
}

/* ---- streams, events, graphs: what is queued is over --------------------------------------------------------------------------------- */

cudaError_t cudaSetDeviceFlags(unsigned flags) {
    (void)flags;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    (void)flags;
    *stream = (cudaStream_t)(uintptr_t)(FIRST_STREAM + g_current);
    return cudaSuccess;
}

#define OVER(handle)          \
    {                         \
        (void)(handle);       \
        return cudaSuccess;   \
    }
#define OVER_OF(handle, other) \
    {                          \
        (void)(other);         \
        OVER(handle)           \
    }
#define MADE(handle, from)                  \
    {                                       \
        (void)(from);                       \
        *(handle) = (void *)(uintptr_t)1;   \
        return cudaSuccess;                 \
    }
cudaError_t cudaStreamDestroy(cudaStream_t stream) OVER(stream)
cudaError_t cudaStreamQuery(cudaStream_t stream) OVER(stream)
cudaError_t cudaStreamSynchronize(cudaStream_t stream) OVER(stream)
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) MADE(event, flags)
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) OVER_OF(event, stream)
cudaError_t cudaEventSynchronize(cudaEvent_t event) OVER(event)
cudaError_t cudaEventDestroy(cudaEvent_t event) OVER(event)
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) OVER_OF(stream, mode)
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) MADE(graph, stream)
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ready, cudaGraph_t graph, unsigned long long flags) MADE(ready, graph && flags)
cudaError_t cudaGraphDestroy(cudaGraph_t graph) OVER(graph)
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) OVER(graph)
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) OVER_OF(graph, stream)

/* ---- kernels ---------------------------------------------------------------------------------------------------------------------- */

void **__cudaRegisterFatBinary(void *binary);
void __cudaRegisterFatBinaryEnd(void **handle);
void __cudaUnregisterFatBinary(void **handle);
void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name, int limit, uint3 *thread, uint3 *block,
                            dim3 *block_size, dim3 *grid_size, int *warp_size);
unsigned __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *bytes, void *stream);
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args, size_t bytes, cudaStream_t stream);

void **__cudaRegisterFatBinary(void *binary) {
    static void *kept;
    kept = binary;
    return &kept;
}
void __cudaRegisterFatBinaryEnd(void **handle) { (void)handle; }
void __cudaUnregisterFatBinary(void **handle) { (void)handle; }

void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name, int limit, uint3 *thread, uint3 *block,
                            dim3 *block_size, dim3 *grid_size, int *warp_size) {
    (void)handle, (void)device, (void)limit, (void)thread, (void)block, (void)block_size, (void)grid_size, (void)warp_size;
    if (g_n_kernels == MOST_KERNELS) abort();
    kernel *k = &g_kernels[g_n_kernels++];
    k->host = host;
    snprintf(k->name, sizeof k->name, "%s", name);
}

/* The backend launches by cudaLaunchKernelEx alone, and not by <<<>>>. */
unsigned __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *bytes, void *stream) {
    (void)grid, (void)block, (void)bytes, (void)stream;
    abort();
}
cudaError_t __cudaGetKernel(cudaKernel_t *out, const void *host) {
    (void)out, (void)host;
    abort();
}
cudaError_t __cudaLaunchKernel(cudaKernel_t which, dim3 grid, dim3 block, void **args, size_t bytes, cudaStream_t stream) {
    (void)which, (void)grid, (void)block, (void)args, (void)bytes, (void)stream;
    abort();
}

static kernel *kernel_of(const void *host) {
    for (int i = 0; i < g_n_kernels; i++)
        if (g_kernels[i].host == host) return &g_kernels[i];
    abort();
}

cudaError_t cudaFuncSetAttribute(const void *host, enum cudaFuncAttribute attribute, int value) {
    kernel *k = kernel_of(host);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || (size_t)value > g_cards.shared_bytes)
        return fault(cudaErrorInvalidValue, "shared memory that no block has", k->name);
    if (value < k->granted[g_current]) return fault(cudaErrorInvalidValue, "less shared memory than graphs may hold it to", k->name);
    k->granted[g_current] = value;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *host, void **args) {
    kernel *k = kernel_of(host);
    const int card = (int)((uintptr_t)c->stream - FIRST_STREAM);
    const size_t granted = (size_t)k->granted[card] > UNASKED_BYTES ? (size_t)k->granted[card] : UNASKED_BYTES;
    (void)args;
    if (c->gridDim.x < 1 || c->gridDim.x > INT32_MAX || c->gridDim.y != 1 || c->gridDim.z != 1)
        return fault(cudaErrorInvalidConfiguration, "a grid that cannot be", k->name);
    if (c->blockDim.x < 1 || c->blockDim.x > MOST_THREADS) return fault(cudaErrorInvalidConfiguration, "a block that cannot be", k->name);
    if (card != g_current) return fault(cudaErrorInvalidResourceHandle, "another card is the current one", k->name);
    if (c->dynamicSmemBytes > granted) return fault(cudaErrorInvalidValue, "more shared memory than it was given", k->name);
    k->launches++;
    return cudaSuccess;
}

/* ---- maps ------------------------------------------------------------------------------------------------------------------------- */

static const char *fault_of_map(cuuint32_t rank, const void *at, const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box) {
    enum { ELEMENT = 2, MOST_BOX = 256, SWIZZLED = 128 };
    for (cuuint32_t i = 0; i < rank; i++)
        if (sizes[i] < 1 || sizes[i] > (cuuint64_t)1 << 32 || box[i] < 1 || box[i] > MOST_BOX) return "a size or box that cannot be";
    if ((uintptr_t)at % 16 || strides[0] % 16 || strides[0] >= (cuuint64_t)1 << 40) return "an address or stride that cannot be";
    if (box[0] * ELEMENT > SWIZZLED) return "a box wider than its swizzle";
    return is_inside(at, (sizes[1] - 1) * strides[0] + sizes[0] * ELEMENT) ? NULL : "outside of an allocation";
}

static CUresult encode(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *at, const cuuint64_t *sizes, const cuuint64_t *strides,
                       const cuuint32_t *box, const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                       CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    (void)type, (void)steps, (void)interleave, (void)swizzle, (void)promotion, (void)fill;
    const char *wrong = fault_of_map(rank, at, sizes, strides, box);
    memset(map, 0, sizeof *map);
    if (!wrong) return CUDA_SUCCESS;
    fault(cudaSuccess, wrong, "map");
    return CUDA_ERROR_INVALID_VALUE;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **entry, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *found) {
    (void)symbol, (void)version, (void)flags;
    *entry = (void *)encode;
    *found = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
