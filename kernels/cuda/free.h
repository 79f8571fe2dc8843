/* free: matrix products by cuBLASLt, each with the algorithm that cuBLASLt likes best for its size. Their bits change with the number of rows, so
 * nothing trains or draws with them: they are what the exact products are measured against (isa "free" of kern.h). */
#ifndef RLF_KERNELS_CUDA_FREE_H
#define RLF_KERNELS_CUDA_FREE_H

#include "kernels/cuda/card.h"
#include "kernels/kern.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kern_free kern_free;

/* Loads the library of the CUDA version this was built with. RLF_UNSUPPORTED where it is not found, or its headers were not. */
rlf_status kern_free_open(kern_free **out, kern_card *card) RLF_MUST_USE;
void kern_free_close(kern_free *f);

/* One of A (rows, depth) and B (depth, cols), bfloat16, on the card: a line, which is a row of A or a column of B, is `ld` elements from the next
 * if along_depth, else a depth is. */
typedef struct kern_free_factor {
    const uint16_t *ptr;
    size_t ld;
    bool along_depth;
} kern_free_factor;

/* C (rows, cols) = A B, or C + A B if added, which takes float32. */
typedef struct kern_free_product {
    kern_free_factor a, b;
    void *c;
    kern_dtype dtype;
    bool added;
    int rows, cols, depth;
} kern_free_product;

/* Queues it; false where cuBLASLt has no algorithm for it. */
bool kern_free_multiply(kern_free *f, const kern_free_product *product);

#ifdef __cplusplus
}
#endif
#endif
