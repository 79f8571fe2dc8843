/* product_bf16: product.h with weights stored as bfloat16, for the chain of the file that includes it, where a unit is a pair of depths. */
#ifndef RLF_KERNELS_CPU_ISA_PRODUCT_BF16_H
#define RLF_KERNELS_CPU_ISA_PRODUCT_BF16_H

#include "kernels/cpu/isa/product.h"

static void copy_rows(float *to, size_t width, const operand *x, int line, int lines, int begin, int units) {
    enum { PIECE = 32 }; /* units */
    float terms[VF][PIECE * TERMS];
    for (int d = 0; d < units; d += PIECE) {
        const int n = kern_min(PIECE, units - d), depth = kern_min(n * UNIT, x->depth - (begin + d) * UNIT);
        for (int i = 0; i < lines; i++) copy_terms(terms[i], (const float *)address_of(x, line + i, begin + d), depth);
        copy_transposed(to + (size_t)(d * TERMS) * width, width, (const char *)terms, sizeof terms[0], lines, n * TERMS);
    }
}

static void copy_weights(float *to, size_t width, const operand *x, int line, int lines, int begin, int units) {
    const int whole = kern_min(units, x->depth / UNIT - begin);
    copy_transposed(to, width, address_of(x, line, begin), x->line, lines, whole);
    for (int i = 0; i < VF && whole < units; i++) {
        uint16_t pair[UNIT] = {0};
        memcpy(pair, address_of(x, line + kern_min(i, lines - 1), begin + whole), sizeof *pair);
        memcpy(&to[(size_t)whole * width + (size_t)i], pair, sizeof pair);
    }
}

/* y (m,n) = x (m,k) · w (n,k)ᵀ [+ bias], or added to y. */
static product product_bf16(float *y, const float *x, const uint16_t *w, const float *bias, int m, int n, int k, bool accumulate) {
    return (product){
        .a = {x, (size_t)k * sizeof *x, UNIT * sizeof *x, k, true, copy_rows},
        .b = {w, (size_t)k * sizeof *w, UNIT * sizeof *w, k, true, copy_weights},
        .c = y,
        .bias = bias,
        .rows = m,
        .cols = n,
        .start = accumulate ? ADDED : FROM_ZERO,
    };
}

#endif
