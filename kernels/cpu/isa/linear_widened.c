/* The forward product of float32 factors with weights stored as bfloat16 (product.h): the bits of linear.c with float32 weights of the same
 * values, which are widened where they are used. A pair of depths is two terms, the first of them first. */
#include "kernels/cpu/isa/isa.h"

enum { UNIT = 2, TERMS = 2, IN_PLACE = 0 };

static inline int chain_place(int term) { return term; }
static inline vf chain_term(vf units, int term) { return term == 0 ? vf_first_of_pairs(units) : vf_second_of_pairs(units); }
static inline vf chain_step(vf a, vf b, vf sum) { return vf_fma(a, b, sum); }
static inline vf chain_add(vf a, vf b) { return vf_add(a, b); }
static inline void store_terms(float *to, const char *from) { vf_store_widened(to, from); }
static inline unsigned chain_enter(void) { return 0; }
static inline void chain_leave(unsigned before) { (void)before; }

/* An odd depth is filled up so that the last term, times the zero of the weights', is -0: what leaves every sum as it is. */
static void copy_terms(float *to, const float *x, int depth) {
    memcpy(to, x, (size_t)depth * sizeof *to);
    if (depth % UNIT) to[depth] = -0.0f;
}

#include "kernels/cpu/isa/product_bf16.h"

void KERN_CPU(kern_cpu_linear_widened)(kern_cpu_ctx *ctx, float *y, const float *x, const uint16_t *w, const float *bias, int m, int n, int k,
                                       bool accumulate) {
    run_product(ctx, product_bf16(y, x, w, bias, m, n, k, accumulate));
}
