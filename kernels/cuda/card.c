/* The calls to the CUDA runtime. */
#include "kernels/cuda/card.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

enum {
    ALLOWED = 256,            /* kernels that ask for shared memory, at most */
    COMPUTE_MAJOR = 8,        /* bfloat16 on tensor cores */
    HOPPER_MAJOR = 9,
    SHARED_BYTES = 160 << 10 /* what a block of the hungriest kernel takes: linear_few.cu */
};

typedef CUresult (*encode_fn)(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address, const cuuint64_t *sizes,
                               const cuuint64_t *strides, const cuuint32_t *box, const cuuint32_t *steps, CUtensorMapInterleave interleave,
                               CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill);

struct kern_card {
    int number;
    cudaStream_t stream;
    cudaError_t failure; /* the first */
    const char *failed;  /* and what it was */
    char name[128];
    unsigned char identity[16];
    bool hopper;
    int major, processors;
    encode_fn encode; /* of maps; NULL: there are none */
    struct {
        const void *kernel;
        size_t bytes;
    } allowed[ALLOWED]; /* shared memory a block: a hash table */
};

static void note(kern_card *card, cudaError_t result, const char *what) {
    if (result == cudaSuccess || card->failure != cudaSuccess) return;
    card->failure = result;
    card->failed = what;
}

static bool usable(const struct cudaDeviceProp *p) { return p->major >= COMPUTE_MAJOR && p->sharedMemPerBlockOptin >= SHARED_BYTES; }

static rlf_status check_card(const struct cudaDeviceProp *p, int number) {
    if (usable(p)) return RLF_OK;
    if (p->major < COMPUTE_MAJOR)
        return RLF_RAISE(UNSUPPORTED, "CUDA card %d, %s, has compute capability %d.%d; expected %d.0 or newer", number, p->name, p->major,
                         p->minor, COMPUTE_MAJOR);
    return RLF_RAISE(UNSUPPORTED, "CUDA card %d, %s, has %zu KiB of shared memory for a block; expected at least %d", number, p->name,
                     p->sharedMemPerBlockOptin >> 10, SHARED_BYTES >> 10);
}

static rlf_status find_card(struct cudaDeviceProp *p, int number) {
    int count = 0;
    cudaError_t result = cudaGetDeviceCount(&count);
    if (result != cudaSuccess) return RLF_RAISE(UNSUPPORTED, "no CUDA card can be used: %s", cudaGetErrorString(result));
    if (number < 0 || number >= count) return RLF_RAISE(UNSUPPORTED, "no CUDA card %d: this machine has %d", number, count);
    result = cudaGetDeviceProperties(p, number);
    if (result != cudaSuccess) return RLF_RAISE(DEVICE, "CUDA card %d: %s", number, cudaGetErrorString(result));
    return check_card(p, number);
}

int kern_card_count(void) {
    struct cudaDeviceProp p;
    int count = 0, n = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) return 0;
    while (n < count && cudaGetDeviceProperties(&p, n) == cudaSuccess && usable(&p)) n++;
    return n;
}

rlf_status kern_card_describe(int number, char *name, size_t name_bytes, size_t *bytes) {
    struct cudaDeviceProp p;
    rlf_status status = find_card(&p, number);
    if (status != RLF_OK) return status;
    snprintf(name, name_bytes, "%.80s, %zu GiB", p.name, p.totalGlobalMem >> 30);
    *bytes = p.totalGlobalMem;
    return RLF_OK;
}

/* The driver's function that makes maps, which the runtime does not link. */
static encode_fn find_encode(void) {
    enum cudaDriverEntryPointQueryResult found;
    void *entry = NULL;
    cudaError_t result = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    return result == cudaSuccess && found == cudaDriverEntryPointSuccess ? (encode_fn)entry : NULL;
}

rlf_status kern_card_open(kern_card **out, int number) {
    rlf_status status = RLF_OK;
    kern_card *card = rlf_calloc(1, sizeof *card);
    size_t bytes;
    struct cudaDeviceProp p;
    card->number = number;
    RLF_TRY(kern_card_describe(number, card->name, sizeof card->name, &bytes));
    cudaError_t result = cudaSetDevice(number);
    if (result == cudaSuccess) result = cudaSetDeviceFlags(cudaDeviceScheduleYield); /* who waits gives others its core: ranks share them */
    if (result == cudaSuccess) result = cudaStreamCreateWithFlags(&card->stream, cudaStreamNonBlocking);
    if (result == cudaSuccess) result = cudaGetDeviceProperties(&p, number);
    if (result != cudaSuccess)
        RLF_FAIL(DEVICE, "CUDA card %d, %s: %s%s", number, card->name, cudaGetErrorString(result),
                 result == cudaErrorDevicesUnavailable ? "; where its compute mode lets one process alone have it, ranks can share it by NVIDIA's MPS" : "");
    memcpy(card->identity, &p.uuid, sizeof card->identity);
    card->major = p.major;
    card->processors = p.multiProcessorCount;
    card->encode = p.major == HOPPER_MAJOR ? find_encode() : NULL;
    card->hopper = card->encode != NULL;
    *out = card;
    card = NULL;
out:
    free(card);
    return status;
}

void kern_card_close(kern_card *card) {
    cudaSetDevice(card->number);
    cudaStreamDestroy(card->stream);
    free(card);
}

const char *kern_card_name(const kern_card *card) { return card->name; }

int kern_card_major(const kern_card *card) { return card->major; }
bool kern_card_hopper(const kern_card *card) { return card->hopper; }
int kern_card_processors(const kern_card *card) { return card->processors; }

void kern_card_map(kern_card *card, kern_map *map, const uint16_t *matrix, int rows, int cols, size_t ld, int box_rows) {
    enum { WIDE = 64 };
    CUtensorMap made = {0};
    const cuuint64_t sizes[2] = {(cuuint64_t)cols, (cuuint64_t)rows}, strides[1] = {ld * sizeof *matrix};
    const cuuint32_t box[2] = {WIDE, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    cudaSetDevice(card->number);
    CUresult result = card->encode(&made, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)(uintptr_t)matrix, sizes, strides, box, steps,
                                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) note(card, cudaErrorInvalidValue, "map of a matrix");
    _Static_assert(sizeof made == sizeof map->words, "a map is as the driver makes it");
    memcpy(map->words, &made, sizeof made);
}

size_t kern_card_free_bytes(kern_card *card) {
    size_t available = 0, all;
    cudaSetDevice(card->number);
    return cudaMemGetInfo(&available, &all) == cudaSuccess ? available : 0;
}

void *kern_card_allocate(kern_card *card, size_t bytes) {
    void *ptr = NULL;
    cudaSetDevice(card->number);
    if (cudaMalloc(&ptr, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError(); /* the caller reports it */
        return NULL;
    }
    kern_card_zero(card, ptr, bytes);
    return ptr;
}

/* cudaFree waits for what is queued. */
void kern_card_release(kern_card *card, void *ptr) {
    cudaSetDevice(card->number);
    note(card, cudaFree(ptr), "free");
}

void *kern_card_host_allocate(kern_card *card, size_t bytes) {
    void *ptr = NULL;
    cudaSetDevice(card->number);
    if (cudaHostAlloc(&ptr, bytes ? bytes : 1, cudaHostAllocDefault) == cudaSuccess) return ptr;
    cudaGetLastError(); /* the caller reports it */
    return NULL;
}

void kern_card_host_release(kern_card *card, void *ptr) {
    cudaSetDevice(card->number);
    note(card, cudaFreeHost(ptr), "free of host memory");
}

/* From ordinary memory the runtime has taken its copy by the time the call returns. */
void kern_card_upload(kern_card *card, void *dst, const void *src, size_t bytes) {
    cudaSetDevice(card->number);
    note(card, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, card->stream), "upload");
}

void kern_card_download(kern_card *card, void *dst, const void *src, size_t bytes) {
    kern_card_fetch(card, dst, src, bytes);
    note(card, cudaStreamSynchronize(card->stream), "download");
}

void kern_card_fetch(kern_card *card, void *dst, const void *src, size_t bytes) {
    cudaSetDevice(card->number);
    note(card, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, card->stream), "download");
}

void kern_card_copy(kern_card *card, void *dst, const void *src, size_t bytes) {
    cudaSetDevice(card->number);
    note(card, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, card->stream), "copy");
}

void kern_card_zero(kern_card *card, void *dst, size_t bytes) {
    cudaSetDevice(card->number);
    note(card, cudaMemsetAsync(dst, 0, bytes, card->stream), "zero");
}

static rlf_status first_failure(const kern_card *card) {
    if (card->failure == cudaSuccess) return RLF_OK;
    return RLF_RAISE(DEVICE, "CUDA card %d, %s: %s: %s", card->number, card->name, card->failed, cudaGetErrorString(card->failure));
}

rlf_status kern_card_sync(kern_card *card) {
    cudaSetDevice(card->number);
    note(card, cudaStreamSynchronize(card->stream), "sync");
    return first_failure(card);
}

void kern_card_mark(kern_card *card, void **mark) {
    cudaEvent_t event = *mark;
    cudaSetDevice(card->number);
    if (!event) note(card, cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    note(card, cudaEventRecord(event, card->stream), "event");
    *mark = event;
}

rlf_status kern_card_wait(kern_card *card, void *mark) {
    cudaSetDevice(card->number);
    note(card, cudaEventSynchronize(mark), "step");
    return first_failure(card);
}

void kern_card_unmark(kern_card *card, void *mark) {
    cudaSetDevice(card->number);
    note(card, cudaEventDestroy(mark), "event");
}

bool kern_card_idle(kern_card *card) {
    cudaSetDevice(card->number);
    cudaError_t result = cudaStreamQuery(card->stream);
    if (result == cudaErrorNotReady) return false;
    note(card, result, "sync");
    return true;
}

void kern_card_record(kern_card *card) {
    cudaSetDevice(card->number);
    note(card, cudaStreamBeginCapture(card->stream, cudaStreamCaptureModeThreadLocal), "begin of a graph");
}

rlf_status kern_card_recorded(kern_card *card, void **graph) {
    cudaGraph_t kept = NULL;
    cudaGraphExec_t ready = NULL;
    cudaSetDevice(card->number);
    cudaError_t result = cudaStreamEndCapture(card->stream, &kept);
    if (result == cudaSuccess) result = cudaGraphInstantiate(&ready, kept, 0);
    if (kept) cudaGraphDestroy(kept);
    *graph = ready;
    if (result == cudaSuccess) return RLF_OK;
    return RLF_RAISE(DEVICE, "CUDA card %d, %s: graph: %s", card->number, card->name, cudaGetErrorString(result));
}

void kern_card_replay(kern_card *card, void *graph) {
    cudaSetDevice(card->number);
    note(card, cudaGraphLaunch((cudaGraphExec_t)graph, card->stream), "graph");
}

void kern_card_forget(kern_card *card, void *graph) {
    cudaSetDevice(card->number);
    note(card, cudaGraphExecDestroy((cudaGraphExec_t)graph), "end of a graph");
}

void kern_card_identity(const kern_card *card, unsigned char out[16]) { memcpy(out, card->identity, sizeof card->identity); }

/* The caller may go on without: what failed must not be taken for a launch's error. */
static rlf_status shared(const kern_card *card, cudaError_t result, const char *what) {
    if (result == cudaSuccess) return RLF_OK;
    cudaGetLastError();
    return RLF_RAISE(DEVICE, "CUDA card %d, %s, %s: %s", card->number, card->name, what, cudaGetErrorString(result));
}

_Static_assert(sizeof(cudaIpcMemHandle_t) == 64, "a handle is CUDA's");

rlf_status kern_card_share(kern_card *card, void *ptr, unsigned char handle[64]) {
    cudaIpcMemHandle_t ipc;
    cudaSetDevice(card->number);
    cudaError_t result = cudaIpcGetMemHandle(&ipc, ptr);
    memcpy(handle, &ipc, sizeof ipc);
    return shared(card, result, "weights for another process");
}

rlf_status kern_card_open_shared(kern_card *card, const unsigned char handle[64], void **ptr) {
    cudaIpcMemHandle_t ipc;
    memcpy(&ipc, handle, sizeof ipc);
    cudaSetDevice(card->number);
    return shared(card, cudaIpcOpenMemHandle(ptr, ipc, cudaIpcMemLazyEnablePeerAccess), "weights of another process");
}

void kern_card_close_shared(kern_card *card, void *ptr) {
    cudaSetDevice(card->number);
    note(card, cudaIpcCloseMemHandle(ptr), "close");
}

void *kern_card_stream(kern_card *card) {
    cudaSetDevice(card->number);
    return card->stream;
}

void kern_card_allow(kern_card *card, const void *kernel, size_t bytes) {
    size_t i = ((uintptr_t)kernel >> 4) % ALLOWED;
    while (card->allowed[i].kernel && card->allowed[i].kernel != kernel) i = (i + 1) % ALLOWED;
    if (bytes <= card->allowed[i].bytes) return;
    card->allowed[i].kernel = kernel;
    card->allowed[i].bytes = bytes;
    cudaSetDevice(card->number);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

bool kern_card_well(const kern_card *card) { return card->failure == cudaSuccess; }
void kern_card_launched(kern_card *card, const char *kernel) { note(card, cudaGetLastError(), kernel); }
