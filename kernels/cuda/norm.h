/* norm: what norm.cu and rope.cu share of RMSNorm. */
#ifndef RLF_KERNELS_CUDA_NORM_H
#define RLF_KERNELS_CUDA_NORM_H

#include "kernels/cuda/dialect.h"

KERN_DEVICE float rstd_of(float sum, int k, float eps) { return 1.0f / sqrtf(sum / (float)k + eps); }

enum { NORM_AHEAD = 8 };

/* The lane's part of the chains of a row in shared memory, loads NORM_AHEAD of the additions; in every lane, the sum. */
KERN_DEVICE float row_squares(const float *x, int k) {
    float sum = 0, v[NORM_AHEAD];
    int i = kern_lane();
    for (; i + (NORM_AHEAD - 1) * KERN_LANES < k; i += NORM_AHEAD * KERN_LANES) {
        KERN_UNROLL
        for (int n = 0; n < NORM_AHEAD; n++) v[n] = x[i + n * KERN_LANES];
        KERN_UNROLL
        for (int n = 0; n < NORM_AHEAD; n++) sum = fmaf(v[n], v[n], sum);
    }
    for (; i < k; i += KERN_LANES) sum = fmaf(x[i], x[i], sum);
    return kern_sum16(sum);
}

/* rstd * (g - xhat * mean) of one element, with g = dy * weight, xhat = x * rstd, and mean that of g * xhat over the row. */
KERN_DEVICE float norm_grad_of(float dy, float x, float weight, float rstd, float mean) {
    return rstd * fmaf(-(x * rstd), mean, dy * weight);
}

#endif
