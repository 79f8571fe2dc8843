/* Private to common/model: the data of many tensors from their files to their places in a slab.
 *
 * Data are read in pieces straight to where they belong (by way of a buffer of one piece where the dtype changes), checked while they are
 * still in the cache, and never mapped: nothing of the file becomes resident. Large sets are read by several threads, which hides the
 * latency of the disk and the cost of first touching the slab. */
#ifndef RLF_COMMON_MODEL_LOAD_H
#define RLF_COMMON_MODEL_LOAD_H

#include "common/model/safetensors.h"

/* A tensor (F32, BF16 or F16) where it is stored. */
typedef struct rlf_stored {
    const rlf_safetensors *file;
    const rlf_st_tensor *tensor; /* NULL: none */
} rlf_stored;

/* Elements begin .. begin+n-1 of a tensor, converted to `dtype` (F32 or BF16), at `to`. Those of `twin`, where there is one, must
 * be equal. */
typedef struct rlf_load {
    rlf_stored from, twin;
    size_t begin, n;
    rlf_dtype dtype;
    void *to;
} rlf_load;

/* All of them. An element that is not finite, a value that differs, or a read that fails is an error, the first in the order given; the
 * contents of the slab are then undefined. */
rlf_status rlf_load_run(const rlf_load *loads, size_t n) RLF_MUST_USE;

#endif
