/* swiglu: what swiglu.cu and the products that end with it (linear.h) share. */
#ifndef RLF_KERNELS_CUDA_SWIGLU_H
#define RLF_KERNELS_CUDA_SWIGLU_H

#include "kernels/cuda/dialect.h"

KERN_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + kern_exp1(0.0f - x)); }
KERN_DEVICE float swiglu_of(float gate, float up) { return gate * sigmoid(gate) * up; }

#endif
