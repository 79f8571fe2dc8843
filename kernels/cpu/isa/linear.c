/* Matrix products in float32: the forward product and its two gradients (product.h). A chain is one fused multiply-add per depth, ascending.
 *
 * Weights stored as bfloat16 have forward products of their own (linear_bf16.c, linear_widened.c); the gradient with respect to the input
 * widens them, exactly, where panels are copied. */
#include "kernels/cpu/isa/isa.h"

enum { UNIT = 1, TERMS = 1, IN_PLACE = 1 };

static inline int chain_place(int term) { return term; }
static inline vf chain_term(vf units, int term) {
    (void)term;
    return units;
}
static inline vf chain_step(vf a, vf b, vf sum) { return vf_fma(a, b, sum); }
static inline vf chain_add(vf a, vf b) { return vf_add(a, b); }
static inline void store_terms(float *to, const char *from) { vf_store(to, vf_load_words(from)); }
static inline void copy_terms(float *to, const float *line, int depth) { memcpy(to, line, (size_t)depth * sizeof *to); }
static inline unsigned chain_enter(void) { return 0; }
static inline void chain_leave(unsigned before) { (void)before; }

#include "kernels/cpu/isa/product.h"

static void copy_along_depth(float *to, size_t width, const operand *x, int line, int lines, int begin, int units) {
    copy_transposed(to, width, address_of(x, line, begin), x->line, lines, units);
}

static void copy_across_depth(float *to, size_t width, const operand *x, int line, int lines, int begin, int units) {
    for (int d = 0; d < units; d++) {
        const float *from = (const float *)address_of(x, line, begin + d);
        vf_store(to + (size_t)d * width, lines >= VF ? vf_load(from) : vf_load_n(from, lines, 0.0f));
    }
}

static void copy_across_depth_bf16(float *to, size_t width, const operand *x, int line, int lines, int begin, int units) {
    for (int d = 0; d < units; d++) {
        const uint16_t *from = (const uint16_t *)address_of(x, line, begin + d);
        if (lines >= VF)
            vf_store(to + (size_t)d * width, vf_load_bf16(from));
        else
            for (int i = 0; i < lines; i++) to[(size_t)d * width + (size_t)i] = kern_float_of_bf16(from[i]);
    }
}

/* x (lines, depth), row-major. */
static operand along(const float *x, int depth) {
    return (operand){x, (size_t)depth * sizeof *x, sizeof *x, depth, true, copy_along_depth};
}

/* x (depth, lines), row-major. */
static operand across(const void *x, kern_dtype dtype, int lines, int depth) {
    const bool bf16 = dtype == KERN_BF16;
    const size_t size = bf16 ? sizeof(uint16_t) : sizeof(float);
    return (operand){x, size, (size_t)lines * size, depth, false, bf16 ? copy_across_depth_bf16 : copy_across_depth};
}

void KERN_OP(linear)(kern_cpu_ctx *ctx, void *y, kern_dtype y_dtype, const void *x, kern_dtype x_dtype, const void *w, kern_dtype w_dtype,
                     const void *bias, kern_dtype bias_dtype, kern_dtype factors, int m, int n, int k, bool accumulate) {
    (void)y_dtype, (void)x_dtype, (void)bias_dtype;
    if (w_dtype == KERN_BF16) {
        (factors == KERN_BF16 ? ctx->linear_bf16 : KERN_CPU(kern_cpu_linear_widened))(ctx, y, x, w, bias, m, n, k, accumulate);
        return;
    }
    run_product(ctx, (product){
                         .a = along(x, k),
                         .b = along(w, k),
                         .c = y,
                         .bias = bias,
                         .rows = m,
                         .cols = n,
                         .start = accumulate ? ADDED : FROM_ZERO,
                     });
}

/* Gradients are float32 chains whatever the factors. */
void KERN_OP(linear_grad_input)(kern_cpu_ctx *ctx, void *dx, kern_dtype dx_dtype, const void *dy, kern_dtype dy_dtype, const void *w,
                                kern_dtype w_dtype, kern_dtype factors, int m, int n, int k, bool accumulate) {
    (void)dx_dtype, (void)dy_dtype, (void)factors;
    run_product(ctx, (product){
                         .a = along(dy, n),
                         .b = across(w, w_dtype, k, n),
                         .c = dx,
                         .rows = m,
                         .cols = k,
                         .start = accumulate ? ADDED : FROM_ZERO,
                     });
}

void KERN_OP(linear_grad_weight)(kern_cpu_ctx *ctx, float *dw, const void *dy, kern_dtype dy_dtype, const void *x, kern_dtype x_dtype,
                                 kern_dtype factors, int m, int n, int k) {
    (void)dy_dtype, (void)x_dtype, (void)factors;
    run_product(ctx, (product){
                         .a = across(dy, KERN_F32, n, m),
                         .b = across(x, KERN_F32, k, m),
                         .c = dw,
                         .rows = n,
                         .cols = k,
                         .start = FROM_C,
                     });
}
