/* The calls to cuBLASLt (free.h), which is loaded when it is asked for: no program needs it. A matrix in rows is to it the transposed matrix in
 * columns, so it is asked for C' = B' A'. What it needs to know of a product is made once for each size. */
#include "kernels/cuda/free.h"

#if defined(KERN_WITHOUT_FREE) || !__has_include(<cublasLt.h>)

rlf_status kern_free_open(kern_free **out, kern_card *card) {
    (void)out;
    return RLF_RAISE(UNSUPPORTED, "%s: isa \"free\": this program was built without cuBLASLt", kern_card_name(card));
}
void kern_free_close(kern_free *f) { (void)f; }
bool kern_free_multiply(kern_free *f, const kern_free_product *product) {
    (void)f, (void)product;
    return false;
}

#else

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/mem.h"

enum { WORK_BYTES = 64 << 20, MOST_PLANS = 256 };

#define FREE_CALLS(X)                                                                                                                   \
    X(Create) X(Destroy) X(Matmul) X(MatmulDescCreate) X(MatmulDescSetAttribute) X(MatmulDescDestroy) X(MatrixLayoutCreate)             \
    X(MatrixLayoutDestroy) X(MatmulPreferenceCreate) X(MatmulPreferenceSetAttribute) X(MatmulPreferenceDestroy) X(MatmulAlgoGetHeuristic)

/* A product of one size. */
typedef struct plan {
    kern_free_product of; /* but for addresses */
    bool possible;
    cublasLtMatmulDesc_t how;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
} plan;

struct kern_free {
    kern_card *card;
    void *library, *work; /* work (WORK_BYTES), on the card */
    cublasLtHandle_t handle;
#define MEMBER_(name) __typeof__(&cublasLt##name) name;
    FREE_CALLS(MEMBER_)
#undef MEMBER_
    plan plans[MOST_PLANS];
    int n_plans;
};

static rlf_status load(kern_free *f) {
    char name[32];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    f->library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!f->library) return RLF_RAISE(UNSUPPORTED, "isa \"free\": %s", dlerror());
#define LOAD_(call)                                                                            \
    f->call = (__typeof__(f->call))dlsym(f->library, "cublasLt" #call);                        \
    if (!f->call) return RLF_RAISE(UNSUPPORTED, "isa \"free\": %s has no cublasLt" #call, name);
    FREE_CALLS(LOAD_)
#undef LOAD_
    return RLF_OK;
}

rlf_status kern_free_open(kern_free **out, kern_card *card) {
    rlf_status status = RLF_OK;
    kern_free *f = rlf_calloc(1, sizeof *f);
    f->card = card;
    RLF_TRY(load(f));
    kern_card_stream(card); /* makes the card this thread's */
    cublasStatus_t result = f->Create(&f->handle);
    if (result != CUBLAS_STATUS_SUCCESS) RLF_FAIL(DEVICE, "%s: cuBLASLt: status %d", kern_card_name(card), (int)result);
    f->work = kern_card_allocate(card, WORK_BYTES);
    if (!f->work) RLF_FAIL(NO_MEMORY, "%s: no memory left for the work space of cuBLASLt", kern_card_name(card));
    *out = f;
    f = NULL;
out:
    kern_free_close(f);
    return status;
}

static void drop(kern_free *f, plan *p) {
    if (p->how) f->MatmulDescDestroy(p->how);
    if (p->a) f->MatrixLayoutDestroy(p->a);
    if (p->b) f->MatrixLayoutDestroy(p->b);
    if (p->c) f->MatrixLayoutDestroy(p->c);
}

void kern_free_close(kern_free *f) {
    if (!f) return;
    for (int i = 0; i < f->n_plans; i++) drop(f, &f->plans[i]);
    if (f->work) kern_card_release(f->card, f->work);
    if (f->handle) f->Destroy(f->handle);
    if (f->library) dlclose(f->library);
    free(f);
}

static bool same_factor(const kern_free_factor *x, const kern_free_factor *y) { return x->ld == y->ld && x->along_depth == y->along_depth; }

static bool same(const kern_free_product *x, const kern_free_product *y) {
    return same_factor(&x->a, &y->a) && same_factor(&x->b, &y->b) && x->dtype == y->dtype && x->added == y->added && x->rows == y->rows &&
           x->cols == y->cols && x->depth == y->depth;
}

/* As columns: a factor along depth has `depth` rows and a column a line. */
static bool lay_out(const kern_free *f, cublasLtMatrixLayout_t *out, const kern_free_factor *x, int lines, int depth) {
    const uint64_t rows = (uint64_t)(x->along_depth ? depth : lines), cols = (uint64_t)(x->along_depth ? lines : depth);
    return f->MatrixLayoutCreate(out, CUDA_R_16BF, rows, cols, (int64_t)x->ld) == CUBLAS_STATUS_SUCCESS;
}

static bool say_how(const kern_free *f, plan *p) {
    const cublasOperation_t of_b = p->of.b.along_depth ? CUBLAS_OP_T : CUBLAS_OP_N, of_a = p->of.a.along_depth ? CUBLAS_OP_N : CUBLAS_OP_T;
    return f->MatmulDescCreate(&p->how, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           f->MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSA, &of_b, sizeof of_b) == CUBLAS_STATUS_SUCCESS &&
           f->MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSB, &of_a, sizeof of_a) == CUBLAS_STATUS_SUCCESS;
}

static bool choose(const kern_free *f, plan *p) {
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const size_t most = WORK_BYTES;
    const uint32_t aligned = 16;
    int found = 0;
    cublasLtMatmulHeuristicResult_t best;
    cublasLtMatmulPreference_t wish;
    if (f->MatmulPreferenceCreate(&wish) != CUBLAS_STATUS_SUCCESS) return false;
    cublasStatus_t result = f->MatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
    for (int i = 0; i < 4 && result == CUBLAS_STATUS_SUCCESS; i++)
        result = f->MatmulPreferenceSetAttribute(wish, alignments[i], &aligned, sizeof aligned);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = f->MatmulAlgoGetHeuristic(f->handle, p->how, p->b, p->a, p->c, p->c, wish, 1, &best, &found);
    f->MatmulPreferenceDestroy(wish);
    if (result != CUBLAS_STATUS_SUCCESS || !found) return false;
    p->algorithm = best.algo;
    return true;
}

static plan *plan_of(kern_free *f, const kern_free_product *product) {
    for (int i = 0; i < f->n_plans; i++)
        if (same(&f->plans[i].of, product)) return &f->plans[i];
    if (f->n_plans == MOST_PLANS) return NULL;
    plan *p = &f->plans[f->n_plans++];
    const cudaDataType_t dtype = product->dtype == KERN_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    p->of = *product;
    p->possible = say_how(f, p) && lay_out(f, &p->b, &product->b, product->cols, product->depth) &&
                  lay_out(f, &p->a, &product->a, product->rows, product->depth) &&
                  f->MatrixLayoutCreate(&p->c, dtype, (uint64_t)product->cols, (uint64_t)product->rows, product->cols) == CUBLAS_STATUS_SUCCESS &&
                  choose(f, p);
    if (!p->possible) RLF_WARN("cuBLASLt has no algorithm for %d x %d x %d: it is our product", product->rows, product->cols, product->depth);
    return p;
}

bool kern_free_multiply(kern_free *f, const kern_free_product *product) {
    const float one = 1, old = product->added;
    const plan *p = plan_of(f, product);
    if (!p || !p->possible) return false;
    return f->Matmul(f->handle, p->how, &one, product->b.ptr, p->b, product->a.ptr, p->a, &old, product->c, p->c, product->c, p->c, &p->algorithm,
                     f->work, WORK_BYTES, kern_card_stream(f->card)) == CUBLAS_STATUS_SUCCESS;
}

#endif
