/* What kernels/cuda/link.c asks of NCCL, for machines without cards: tests/simt/nccl.c stands in for the library, so that link.c itself runs. Names are
 * NCCL's. As there, communicators are non-blocking: calls leave them in progress until ncclCommGetAsyncError says otherwise, and what is
 * queued is over when the stream is (kern_card_idle): not before the other ranks come, who may never. */
#ifndef RLF_TESTS_SIMT_NCCL_H
#define RLF_TESTS_SIMT_NCCL_H

#include <stdbool.h>
#include <stddef.h>

typedef struct simt_comm *ncclComm_t;
typedef void *cudaStream_t;
typedef enum { ncclSuccess = 0, ncclSystemError = 2, ncclInvalidUsage = 5, ncclRemoteError = 6, ncclInProgress = 7 } ncclResult_t;
typedef enum { ncclInt8 = 0 } ncclDataType_t;
typedef struct { char internal[128]; } ncclUniqueId;
typedef struct { int blocking; } ncclConfig_t;
#define NCCL_CONFIG_INITIALIZER {1}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int count, ncclUniqueId id, int rank, ncclConfig_t *config);
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state);
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);
ncclResult_t ncclSend(const void *data, size_t n, ncclDataType_t type, int to, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclRecv(void *data, size_t n, ncclDataType_t type, int from, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream);
const char *ncclGetErrorString(ncclResult_t result);
const char *ncclGetLastError(ncclComm_t comm);

/* ---- the stand-in's own */

extern ncclResult_t simt_nccl_state; /* what communicators say of themselves, if a test sets it */
extern int simt_nccl_connections;    /* made by this process: as NCCL does, with the first that goes to or comes from a peer; one for broadcasts */
extern bool simt_nccl_without_id;    /* as where no network interface is as NCCL was told to have it */
/* Moves what can be moved, of all this process has queued; true when nothing is left. For tests/simt/card.c. */
bool simt_nccl_idle(void);

#endif
