/* The forward product of bfloat16 factors (product.h). A chain takes pairs of depths, the second of a pair first, each a fused multiply-add
 * of x rounded to bfloat16, denormals being zeros throughout: what the instruction vdpbf16ps does of two bfloat16 each, at twice the rate of
 * float32. A unit is a pair, filled up by a zero at the end of an odd depth.
 *
 * Instruction set avx512bf16 has that instruction, and is otherwise avx512: this is the only file compiled for it. The others take a
 * pair in two terms, x and weights widened to float32, in which products of two bfloat16 are exact. AVX-512 and AVX2 have the processor
 * flush denormals meanwhile, portable C does. */
#include "kernels/cpu/isa/isa.h"

enum { UNIT = 2, IN_PLACE = 0 };

#if defined(__AVX512BF16__)
enum { TERMS = 1 };
static inline int chain_place(int term) { return term; }
static inline vf chain_term(vf units, int term) {
    (void)term;
    return units;
}
static inline vf chain_step(vf a, vf b, vf sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
static inline void store_terms(float *to, const char *from) { vf_store(to, vf_load_words(from)); }
#else
enum { TERMS = 2 };
static inline int chain_place(int term) { return 1 - term; }
static inline vf half_of_pairs(vf units, int term) { return term == 0 ? vf_second_of_pairs(units) : vf_first_of_pairs(units); }
static inline void store_terms(float *to, const char *from) { vf_store_widened(to, from); }
#if defined(__AVX2__)
static inline vf chain_term(vf units, int term) { return half_of_pairs(units, term); }
static inline vf chain_step(vf a, vf b, vf sum) { return vf_fma(a, b, sum); }
#endif
#endif

#if defined(__AVX2__)
static inline vf chain_add(vf a, vf b) { return vf_add(a, b); }
static inline unsigned chain_enter(void) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | _MM_DENORMALS_ZERO_ON | _MM_FLUSH_ZERO_ON);
    return before;
}
static inline void chain_leave(unsigned before) { _mm_setcsr(before); }
#else
static inline vf flushed(vf x) { VF_EACH_(kern_flushed(x.v[i])); }
static inline vf chain_term(vf units, int term) { return flushed(half_of_pairs(units, term)); }
static inline vf chain_step(vf a, vf b, vf sum) { VF_EACH_(kern_fma_flushed(a.v[i], b.v[i], sum.v[i])); }
static inline vf chain_add(vf a, vf b) { return flushed(vf_add(flushed(a), flushed(b))); }
static inline unsigned chain_enter(void) { return 0; }
static inline void chain_leave(unsigned before) { (void)before; }
#endif

/* The terms of `depth` elements of x, from an even depth on: x rounded, as pairs or widened again. */
static void copy_terms(float *to, const float *x, int depth) {
    for (int d = 0; d < depth + depth % UNIT; d++) {
        const uint16_t rounded = d < depth ? kern_bf16_of_float(kern_flushed(x[d])) : 0;
        if (TERMS == 1)
            memcpy((uint16_t *)to + d, &rounded, sizeof rounded);
        else
            to[d] = kern_float_of_bf16(rounded);
    }
}

#include "kernels/cpu/isa/product_bf16.h"

void KERN_CPU(kern_cpu_linear_bf16)(kern_cpu_ctx *ctx, float *y, const float *x, const uint16_t *w, const float *bias, int m, int n, int k,
                                    bool accumulate) {
    run_product(ctx, product_bf16(y, x, w, bias, m, n, k, accumulate));
}
