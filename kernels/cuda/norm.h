/* norm: RMSNorm of one row by half a warp, shared by norm.cu and rope.cu. All threads of a warp take part; lane l has elements l, l+16,
 * ... */
#ifndef RLF_KERNELS_CUDA_NORM_H
#define RLF_KERNELS_CUDA_NORM_H

#include "kernels/cuda/dialect.h"

KERN_DEVICE float row_rstd(const float *x, int k, float eps) {
    float sum = 0;
    for (int i = kern_lane(); i < k; i += KERN_LANES) sum = fmaf(x[i], x[i], sum);
    return 1.0f / sqrtf(kern_sum16(sum) / (float)k + eps);
}

/* mean(g * xhat), with g = dy * weight and xhat = x * rstd. */
KERN_DEVICE float row_norm_mean(const float *dy, const float *x, const float *weight, float rstd, int k) {
    float sum = 0;
    for (int i = kern_lane(); i < k; i += KERN_LANES) sum = fmaf(dy[i] * weight[i], x[i] * rstd, sum);
    return kern_sum16(sum) / (float)k;
}

/* rstd * (g - xhat * mean) of one element. */
KERN_DEVICE float norm_grad_of(float dy, float x, float weight, float rstd, float mean) {
    return rstd * fmaf(-(x * rstd), mean, dy * weight);
}

#endif
