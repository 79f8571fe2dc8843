/* norm: what norm.cu and rope.cu share of RMSNorm. */
#ifndef RLF_KERNELS_CUDA_NORM_H
#define RLF_KERNELS_CUDA_NORM_H

#include "kernels/cuda/dialect.h"

KERN_DEVICE float rstd_of(float sum, int k, float eps) { return 1.0f / sqrtf(sum / (float)k + eps); }

/* rstd * (g - xhat * mean) of one element, with g = dy * weight, xhat = x * rstd, and mean that of g * xhat over the row. */
KERN_DEVICE float norm_grad_of(float dy, float x, float weight, float rstd, float mean) {
    return rstd * fmaf(-(x * rstd), mean, dy * weight);
}

#endif
