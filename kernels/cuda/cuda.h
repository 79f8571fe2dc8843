/* cuda: what the operations of the CUDA backend run on, and their prototypes. Private to kernels/cuda/. C17 and CUDA C++; files
 * with kernels include dialect.h. */
#ifndef RLF_KERNELS_CUDA_CUDA_H
#define RLF_KERNELS_CUDA_CUDA_H

#include <assert.h>
#include <limits.h>

#include "kernels/cuda/card.h"
#include "kernels/cuda/free.h"
#include "kernels/ops.h"
#include "kernels/scalar.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    KERN_CUDA_SCRATCH_FLOATS = 64 << 20, /* work space of one operation, on the card */
    KERN_CUDA_COUNTERS = KERN_CUDA_SCRATCH_FLOATS / 128, /* of blocks that have ended */
    KERN_CUDA_STAGING_BYTES = 32 << 20,  /* host arrays that operations take with them, on the card */
    KERN_CUDA_PARTS = 1 << 14            /* parts of a sum that come to the host at a time */
};

struct kern_ctx {
    kern_card *card;
    bool hopper;      /* kernels use the words of hopper.h */
    int processors;   /* that their products take: the card's, or as few as check.c asks for */
    int tile_columns; /* of their products' tiles, where check.c asks for them; 0: as linear_hopper.cu chooses */
    kern_free *free; /* what does products in place of ours; NULL, but where that is measured */
    bool wrote_weights; /* the last launch may have: the next one starts only when it is over (dialect.h) */
    float *scratch; /* (scratch_floats), on the card; contents between operations: undefined */
    size_t scratch_floats;
    uint32_t *counters; /* (KERN_CUDA_COUNTERS), on the card; between operations: 0 */
    char *staging;  /* (KERN_CUDA_STAGING_BYTES), on the card: a ring */
    size_t staged;  /* where the next array goes */
    void *parts;    /* (KERN_CUDA_PARTS) of 8 bytes, on the host, page-locked */
};

/* The card's copy of a host array, for the operation that is being queued. What is overwritten when the ring comes round belongs to
 * operations that come before in the stream, and so are done with it. */
const void *kern_cuda_stage(kern_ctx *ctx, const void *host, size_t bytes);

/* Whether Hopper's instructions give the bits of the others: check.c. *differs: what does not, or NULL. RLF_DEVICE if a kernel fails, or
 * does not end. */
rlf_status kern_cuda_check_hopper(kern_ctx *ctx, const char **differs) RLF_MUST_USE;

/* kern_backend's norm_linear: linear_hopper.cu. */
bool kern_cuda_norm_linear(kern_ctx *ctx, const kern_norm_product *product);

/* For an operation that needs so many bytes of scratch for each `rows` rows: how many rows it may take at a time, a multiple of them, at
 * least one. */
static inline int kern_cuda_rows_at_a_time(const kern_ctx *ctx, int rows, size_t bytes) {
    const size_t times = ctx->scratch_floats * sizeof(float) / (bytes ? bytes : 1), most = (size_t)(INT_MAX / 2 / rows);
    assert(times > 0);
    return (int)(times < most ? times : most) * rows;
}

static inline int kern_blocks_for(size_t n, size_t each) { return (int)((n + each - 1) / each); }

#define KERN_CUDA_PROTOTYPE_(type, name, parameters) type kern_cuda_##name parameters;
KERN_OP_TABLE(KERN_CUDA_PROTOTYPE_)
#undef KERN_CUDA_PROTOTYPE_

#ifdef __cplusplus
}
#endif
#endif
