/* attention: what the forward and the gradient share. */
#ifndef RLF_KERNELS_CUDA_ATTENTION_H
#define RLF_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/dialect.h"

enum { MAX_DIM = 256 };

/* The sequence of a packed row: the last that begins at it or before. */
KERN_DEVICE int sequence_of(const int32_t *begin, int seqs, int row) {
    int low = 0, high = seqs;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (begin[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

KERN_DEVICE float dot(const float *q, const float *k, int d) {
    float sum = 0;
    for (int i = 0; i < d; i++) sum = fmaf(q[i], k[i], sum);
    return sum;
}

#endif
