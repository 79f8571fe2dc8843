/* ops: what stands between kern.h and the backends: one table of operations, one entry per operation of kern.h. Private to kernels/.
 *
 * kern.c checks and unwraps the tensors of the public call, then calls the table of the device. The arguments here are those of kern.h, in
 * its order, with tensors replaced by addresses (NULL: left out), so kern.h is also their documentation. A tensor that may be float32 or
 * bfloat16 is a `void` address and, after it, its dtype; `dtype` alone is that of all such tensors before it; param of adamw is bfloat16
 * where there is a rest. On the CPU activations are float32 always, and so are vectors of weights (kern.c widens them): a CPU operation
 * ignores these dtypes. KERN_OP_TABLE is the only list of operations, and gives the struct below, the prototypes and the tables:
 * kern_cpu_ops_<isa>, made by cpu/isa/table.c, and kern_cuda_ops.
 *
 * An operation never allocates, and never reads a clock, an environment variable or the number of threads into a result (see THE RULE in
 * kern.h). On the CPU it is finished on return; on a card it is queued. */
#ifndef RLF_KERNELS_OPS_H
#define RLF_KERNELS_OPS_H

#include "kernels/kern.h"

/* What an operation runs on. Each backend has its own: kernels/cpu/cpu.h, kernels/cuda/cuda.h. */
typedef struct kern_ctx kern_ctx;

/* X(return type, name, parameters). */
#define KERN_OP_TABLE(X)                                                                                                                   \
    /* linear.c */                                                                                                                         \
    X(void, linear, (kern_ctx *ctx, void *y, kern_dtype y_dtype, const void *x, kern_dtype x_dtype, const void *w, kern_dtype w_dtype,     \
                     const void *bias, kern_dtype bias_dtype, kern_dtype factors, int m, int n, int k, bool accumulate))                   \
    X(void, linear_grad_input, (kern_ctx *ctx, void *dx, kern_dtype dx_dtype, const void *dy, kern_dtype dy_dtype, const void *w,          \
                                kern_dtype w_dtype, kern_dtype factors, int m, int n, int k, bool accumulate))                             \
    X(void, linear_grad_weight, (kern_ctx *ctx, float *dw, const void *dy, kern_dtype dy_dtype, const void *x, kern_dtype x_dtype,         \
                                 kern_dtype factors, int m, int n, int k))                                                                 \
    /* simple.c */                                                                                                                         \
    X(void, bias_grad, (kern_ctx *ctx, float *dbias, const void *dy, kern_dtype dy_dtype, int m, int n))                                   \
    X(void, embed_grad, (kern_ctx *ctx, float *dtable, const float *dy, const int32_t *ids, int m, int k))                                 \
    X(void, rows_gather, (kern_ctx *ctx, float *y, const void *x, kern_dtype x_dtype, const int32_t *index, const int32_t *drawn, int m,   \
                          int k))                                                                                                            \
    X(void, rows_scatter, (kern_ctx *ctx, float *y, const float *x, const int32_t *index, int m, int k))                                   \
    X(void, rows_add, (kern_ctx *ctx, float *y, const void *x, kern_dtype x_dtype, int m, int k))                                          \
    X(void, widen, (kern_ctx *ctx, float *y, const uint16_t *x, size_t n))                                                                 \
    X(void, narrow, (kern_ctx *ctx, uint16_t *y, const float *x, size_t n))                                                                \
    X(void, adamw, (kern_ctx *ctx, void *param, int16_t *rest, const float *grad, float *m, float *v, size_t n,                            \
                    const kern_adamw_args *args))                                                                                          \
    X(double, sumsq, (kern_ctx *ctx, const float *x, size_t n))                                                                            \
    X(uint64_t, checksum, (kern_ctx *ctx, const void *x, size_t bytes))                                                                    \
    /* norm.c */                                                                                                                           \
    X(void, rmsnorm, (kern_ctx *ctx, void *y, kern_dtype y_dtype, const float *x, const void *weight, kern_dtype weight_dtype, float eps,  \
                      int m, int k))                                                                                                       \
    X(void, rmsnorm_grad, (kern_ctx *ctx, float *dx, float *dweight, const void *dy, kern_dtype dy_dtype, const float *x,                  \
                           const void *weight, kern_dtype weight_dtype, float eps, int m, int k))                                          \
    X(void, swiglu, (kern_ctx *ctx, void *y, const void *gate_up, kern_dtype dtype, int m, int f))                                         \
    X(void, linear_swiglu, (kern_ctx *ctx, void *y, void *gate_up, kern_dtype dtype, const void *x, kern_dtype x_dtype, const void *w,     \
                            kern_dtype w_dtype, kern_dtype factors, int m, int f, int k))                                                  \
    X(void, swiglu_grad, (kern_ctx *ctx, void *dgate_up, const void *dy, const void *gate_up, kern_dtype dtype, int m, int f))             \
    X(void, qk_rope, (kern_ctx *ctx, void *out, const void *in, kern_dtype dtype, const void *q_norm, const void *k_norm,                  \
                      kern_dtype norm_dtype, float eps, const float *rope, const int32_t *pos, int m, kern_attn_shape shape,               \
                      void *kv, kern_kv_shape kv_shape, int layer, const int32_t *slots))                                                  \
    X(void, qk_rope_grad, (kern_ctx *ctx, void *din, float *dq_norm, float *dk_norm, const void *dout, const void *in, kern_dtype dtype,   \
                           const void *q_norm, const void *k_norm, kern_dtype norm_dtype, float eps, const float *rope,                    \
                           const int32_t *pos, int m, kern_attn_shape shape))                                                              \
    /* attention.c */                                                                                                                      \
    X(void, attention, (kern_ctx *ctx, void *out, float *lse, const void *qkv, kern_dtype dtype, const int32_t *seq_begin, int seqs,       \
                        kern_attn_shape shape))                                                                                            \
    X(void, attention_grad, (kern_ctx *ctx, void *dqkv, const void *dout, const void *out, const float *lse, const void *qkv,              \
                             kern_dtype dtype, const int32_t *seq_begin, int seqs, kern_attn_shape shape))                                 \
    X(size_t, kv_bytes, (kern_kv_shape shape))                                                                                             \
    X(void, kv_copy_page, (kern_ctx *ctx, void *kv, kern_kv_shape kv_shape, int dst_page, int src_page))                                   \
    X(void, attention_paged, (kern_ctx *ctx, void *out, const void *qkv, kern_dtype dtype, const void *kv, kern_kv_shape kv_shape,         \
                              int layer, const int32_t *seq, const int32_t *pos, int m, const int32_t *page_table, int max_pages,          \
                              kern_rows_hint hint, kern_attn_shape shape))                                                                 \
    /* head.c */                                                                                                                           \
    X(void, logprob, (kern_ctx *ctx, float *logprob, float *entropy, float *stats, const float *logits, const int32_t *targets,            \
                      kern_filter filter, int m, int v))                                                                                   \
    X(void, logprob_grad, (kern_ctx *ctx, void *dlogits, kern_dtype dtype, const float *logits, const float *stats,                        \
                           const int32_t *targets, const float *dlogprob, const float *dentropy, kern_filter filter, int m, int v))       \
    X(void, sample, (kern_ctx *ctx, int32_t *ids, float *logprob, const float *logits, kern_filter filter, uint64_t seed,                  \
                     const kern_sample_key *keys, int m, int v))

#define KERN_OP_MEMBER_(type, name, parameters) type(*name) parameters;
typedef struct kern_ops {
    KERN_OP_TABLE(KERN_OP_MEMBER_)
} kern_ops;
#undef KERN_OP_MEMBER_

/* A product whose x goes through RMSNorm first, in one kernel: y = linear(rmsnorm(x)), or gated, w having twice n lines, swiglu of that. */
typedef struct kern_norm_product {
    void *y;
    kern_dtype y_dtype;
    const float *x;
    const void *norm, *w, *bias; /* (k), (n or 2n, k), (n) or NULL */
    kern_dtype norm_dtype, bias_dtype, factors; /* w: bfloat16, as factors are */
    float eps;
    int m, n, k;
    bool gated;
} kern_norm_product;

enum { KERN_IDENTITY_BYTES = 16, KERN_LINK_ID_BYTES = 128, KERN_SHARE_BYTES = 64 };

/* What one device exchanges with another, in device memory. */
typedef struct kern_link_part {
    const void *send;
    void *receive;
    size_t send_bytes, receive_bytes;
} kern_link_part;

/* Devices of several processes that exchange memory without the host: cuda/link.h says what each does. */
typedef struct kern_link kern_link;
typedef struct kern_link_ops {
    rlf_status (*id)(unsigned char id[KERN_LINK_ID_BYTES]);
    rlf_status (*make)(kern_link **out, kern_ctx *ctx, const unsigned char id[KERN_LINK_ID_BYTES], int rank, int count,
                       int timeout_ms);
    void (*destroy)(kern_link *link);
    rlf_status (*exchange)(kern_link *link, const kern_link_part *with, int timeout_ms, const char *what);
    rlf_status (*broadcast)(kern_link *link, void *data, size_t bytes, int root, int timeout_ms, const char *what);
} kern_link_ops;

/* Memory and order of a device, for kern.c. Sizes are bytes. */
typedef struct kern_backend {
    bool host_memory;                                               /* addresses are the host's own */
    void (*close)(kern_ctx *ctx);
    size_t (*free_bytes)(kern_ctx *ctx);                            /* that may still be allocated, as far as is known */
    void *(*allocate)(kern_ctx *ctx, size_t bytes);                 /* zeroed; NULL where there is not as much */
    void (*release)(kern_ctx *ctx, void *ptr, size_t bytes);
    void *(*host_allocate)(kern_ctx *ctx, size_t bytes);            /* of the host, such as the device copies fastest from; or NULL */
    void (*host_release)(kern_ctx *ctx, void *ptr, size_t bytes);
    void (*upload)(kern_ctx *ctx, void *dst, const void *src, size_t bytes);
    void (*download)(kern_ctx *ctx, void *dst, const void *src, size_t bytes);
    void (*copy)(kern_ctx *ctx, void *dst, const void *src, size_t bytes);
    void (*zero)(kern_ctx *ctx, void *dst, size_t bytes);
    rlf_status (*sync)(kern_ctx *ctx);
    /* A download into memory of host_allocate that is queued, and marks in the queue: the first makes *mark where it is NULL. On the CPU
     * nothing is ever queued. */
    void (*fetch)(kern_ctx *ctx, void *dst, const void *src, size_t bytes);
    void (*mark)(kern_ctx *ctx, void **mark);
    rlf_status (*wait)(kern_ctx *ctx, void *mark);
    void (*unmark)(kern_ctx *ctx, void *mark);
    /* Graphs, as in kern.h: what is recorded comes back from `recorded`, and is forgotten in the end. NULL where there are none. */
    void (*record)(kern_ctx *ctx);
    rlf_status (*recorded)(kern_ctx *ctx, void **graph);
    void (*replay)(kern_ctx *ctx, void *graph);
    void (*forget)(kern_ctx *ctx, void *graph);
    /* Memory of one process in another on the same device: a handle to an allocation, and what it opens there. NULL where there
     * is no such. */
    rlf_status (*share)(kern_ctx *ctx, void *ptr, unsigned char handle[KERN_SHARE_BYTES]);
    rlf_status (*open_shared)(kern_ctx *ctx, const unsigned char handle[KERN_SHARE_BYTES], void **ptr);
    void (*close_shared)(kern_ctx *ctx, void *ptr);
    const kern_link_ops *link; /* NULL where there is none */
    bool (*norm_linear)(kern_ctx *ctx, const kern_norm_product *product); /* false, or NULL: it is not done in one kernel */
} kern_backend;

struct kern_device {
    const kern_backend *backend;
    const kern_ops *ops;
    kern_ctx *ctx;
    float *vectors; /* CPU: float32 copies of the weight vectors of the operation at work; NULL on a card, which reads them as they are */
    size_t bytes;   /* in buffers */
    char name[160];
    unsigned char identity[KERN_IDENTITY_BYTES]; /* of a card: the same in all processes that use it, and no other's */
    int major;      /* of a card: of its compute capability */
};

/* Address of the tensor's first element where device memory is the host's, else NULL. */
void *kern_host_ptr(kern_tensor t);

/* Host memory for copies from and to a device: page-locked where that is faster. An upload from it, or a fetch, is over only after a sync,
 * or when a mark that followed has been waited for. */
typedef struct kern_stage {
    kern_device *device;
    char *memory; /* NULL: none yet */
    size_t bytes;
    void *mark;   /* the backend's; NULL: none was set */
} kern_stage;
rlf_status kern_stage_new(kern_stage *stage, kern_device *device, size_t bytes) RLF_MUST_USE;
void kern_stage_clean_up(kern_stage *stage);
/* Queues a copy of n elements to `at`, bytes, of the stage. */
void kern_stage_fetch(kern_stage *stage, size_t at, kern_tensor src, size_t n);
/* Marks what is queued. The wait, for the last mark or, without one, all that is queued, returns the first device failure. */
void kern_stage_mark(kern_stage *stage);
rlf_status kern_stage_wait(kern_stage *stage) RLF_MUST_USE;

/* A buffer of another process on the same device: handle is what kern_buf_share gave there. The other process keeps it as long as
 * this one does. */
rlf_status kern_buf_share(const kern_buf *buf, unsigned char handle[KERN_SHARE_BYTES]) RLF_MUST_USE;
rlf_status kern_buf_open(kern_buf **out, kern_device *device, const unsigned char handle[KERN_SHARE_BYTES],
                         size_t bytes) RLF_MUST_USE;
/* Where a tensor lies, as its backend addresses it. */
void *kern_address(kern_tensor t);

/* Each fills backend, ops, ctx and name, and of a card identity and major. */
/* kv_bytes of each. */
size_t kern_cpu_kv_bytes(kern_kv_shape shape);
#ifdef __cplusplus
extern "C"
#endif
size_t kern_cuda_kv_bytes(kern_kv_shape shape);
rlf_status kern_cpu_open(kern_device *device, const kern_device_options *options) RLF_MUST_USE;
rlf_status kern_cuda_open(kern_device *device, const kern_device_options *options) RLF_MUST_USE;

#endif
