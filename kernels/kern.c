/* kern.c: devices, buffers and queues, and the operations of kern.h as calls into the device's table (ops.h).
 *
 * A backend (cpu/device.c, cuda/device.c) gives memory, copies and the table. Every operation comes through here once, which is where
 * tensors are checked against their buffers: type, and that the elements the shape asks for are inside. A tensor that does not fit is our
 * bug, hence the asserts. */
#include "kernels/kern.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/alive.h"
#include "common/base/mem.h"
#include "kernels/ops.h"

enum { STAGED = 4 << 20 }; /* elements of kern_device.vectors */

struct kern_queue {
    kern_device *device;
};

struct kern_buf {
    kern_device *device;
    void *ptr;
    size_t bytes;
    bool borrowed; /* of another process */
};

/* ---- memory ----------------------------------------------------------------------------------------------------------------------- */

rlf_status kern_buf_new(kern_buf **out, kern_device *device, size_t bytes) {
    void *ptr = device->backend->allocate(device->ctx, bytes);
    if (!ptr)
        return RLF_RAISE(NO_MEMORY, "%s: cannot allocate a buffer of %zu bytes; %zu are free", device->name, bytes,
                         device->backend->free_bytes(device->ctx));
    kern_buf *buf = rlf_calloc(1, sizeof *buf);
    *buf = (kern_buf){device, ptr, bytes, false};
    device->bytes += bytes;
    *out = buf;
    return RLF_OK;
}

void kern_buf_destroy(kern_buf *buf) {
    if (!buf) return;
    if (buf->borrowed) {
        buf->device->backend->close_shared(buf->device->ctx, buf->ptr);
    } else {
        buf->device->backend->release(buf->device->ctx, buf->ptr, buf->bytes);
        buf->device->bytes -= buf->bytes;
    }
    free(buf);
}

rlf_status kern_buf_share(const kern_buf *buf, unsigned char handle[KERN_SHARE_BYTES]) {
    return buf->device->backend->share(buf->device->ctx, buf->ptr, handle);
}

rlf_status kern_buf_open(kern_buf **out, kern_device *device, const unsigned char handle[KERN_SHARE_BYTES], size_t bytes) {
    void *ptr;
    rlf_status status = device->backend->open_shared(device->ctx, handle, &ptr);
    if (status != RLF_OK) return status;
    kern_buf *buf = rlf_calloc(1, sizeof *buf);
    *buf = (kern_buf){device, ptr, bytes, true};
    *out = buf;
    return RLF_OK;
}

size_t kern_dtype_size(kern_dtype dtype) {
    switch (dtype) {
    case KERN_F32:
    case KERN_I32: return 4;
    case KERN_BF16:
    case KERN_I16: return 2;
    case KERN_U8: return 1;
    }
    assert(!"unknown dtype");
    return 0;
}

static void *address_of(kern_tensor t) { return (char *)t.buf->ptr + t.offset * kern_dtype_size(t.dtype); }

void *kern_address(kern_tensor t) { return address_of(t); }
void *kern_host_ptr(kern_tensor t) { return t.buf->device->backend->host_memory ? address_of(t) : NULL; }

rlf_status kern_stage_new(kern_stage *stage, kern_device *device, size_t bytes) {
    *stage = (kern_stage){device, device->backend->host_allocate(device->ctx, bytes), bytes, NULL};
    return stage->memory ? RLF_OK : RLF_RAISE(NO_MEMORY, "cannot allocate %zu bytes of host memory for %s", bytes, device->name);
}

void kern_stage_clean_up(kern_stage *stage) {
    if (stage->mark) stage->device->backend->unmark(stage->device->ctx, stage->mark);
    if (stage->memory) stage->device->backend->host_release(stage->device->ctx, stage->memory, stage->bytes);
    *stage = (kern_stage){0};
}

void kern_stage_fetch(kern_stage *stage, size_t at, kern_tensor src, size_t n) {
    const size_t bytes = n * kern_dtype_size(src.dtype);
    assert(at + bytes <= stage->bytes);
    stage->device->backend->fetch(stage->device->ctx, stage->memory + at, address_of(src), bytes);
}

void kern_stage_mark(kern_stage *stage) {
    if (!stage->device->backend->host_memory) stage->device->backend->mark(stage->device->ctx, &stage->mark);
}

rlf_status kern_stage_wait(kern_stage *stage) {
    const kern_backend *backend = stage->device->backend;
    if (backend->host_memory) return RLF_OK;
    return stage->mark ? backend->wait(stage->device->ctx, stage->mark) : backend->sync(stage->device->ctx);
}

/* ---- device and queue ------------------------------------------------------------------------------------------------------------- */

#ifndef KERN_HAVE_CUDA
int kern_cards(void) { return 0; }

static rlf_status no_cuda(void) { return RLF_RAISE(UNSUPPORTED, "this program was built without CUDA"); }

rlf_status kern_card_find(kern_card_facts *out, int card) {
    (void)out, (void)card;
    return no_cuda();
}

rlf_status kern_cuda_open(kern_device *device, const kern_device_options *options) {
    (void)device, (void)options;
    return no_cuda();
}
#endif

bool kern_card_driver(void) { return access("/dev/nvidiactl", F_OK) == 0; }

static rlf_status open_backend(kern_device *device, const kern_device_options *options) {
    bool any = !strcmp(options->name, "auto"), cards = any && kern_cards() > 0;
    if (!strcmp(options->name, "cpu") || (any && !cards)) return kern_cpu_open(device, options);
    if (!strcmp(options->name, "cuda") || cards) return kern_cuda_open(device, options);
    return RLF_RAISE(UNSUPPORTED, "no device named \"%s\"; expected auto, cpu or cuda", options->name);
}

rlf_status kern_device_open(kern_device **out, const kern_device_options *options) {
    rlf_status status = RLF_OK;
    kern_device *device = rlf_calloc(1, sizeof *device);
    RLF_TRY(open_backend(device, options));
    if (device->backend->host_memory) {
        device->vectors = device->backend->allocate(device->ctx, STAGED * sizeof(float));
        if (!device->vectors) RLF_FAIL(NO_MEMORY, "cannot reserve memory for vectors of weights");
    }
    *out = device;
    device = NULL;
out:
    kern_device_close(device);
    return status;
}

void kern_device_close(kern_device *device) {
    if (!device) return;
    if (device->vectors) device->backend->release(device->ctx, device->vectors, STAGED * sizeof(float));
    if (device->backend) device->backend->close(device->ctx);
    free(device);
}

const char *kern_device_name(const kern_device *device) { return device->name; }
size_t kern_device_bytes(const kern_device *device) { return device->bytes; }
bool kern_device_is_card(const kern_device *device) { return !device->backend->host_memory; }
kern_dtype kern_activations(const kern_device *device, kern_dtype factors) { return kern_device_is_card(device) ? factors : KERN_F32; }
kern_dtype kern_activations_on(const char *device, kern_dtype factors) { return strcmp(device, "cuda") == 0 ? factors : KERN_F32; }

rlf_status kern_queue_new(kern_queue **out, kern_device *device) {
    *out = rlf_calloc(1, sizeof **out);
    (*out)->device = device;
    return RLF_OK;
}

void kern_queue_destroy(kern_queue *queue) { free(queue); }
kern_device *kern_queue_device(const kern_queue *queue) { return queue->device; }
rlf_status kern_sync(kern_queue *queue) {
    rlf_status status = queue->device->backend->sync(queue->device->ctx);
    rlf_alive();
    return status;
}

struct kern_graph {
    kern_device *device;
    void *recorded; /* the backend's */
};

void kern_graph_begin(kern_queue *queue) {
    assert(kern_device_is_card(queue->device));
    queue->device->backend->record(queue->device->ctx);
}

rlf_status kern_graph_end(kern_queue *queue, kern_graph **out) {
    void *recorded;
    rlf_status status = queue->device->backend->recorded(queue->device->ctx, &recorded);
    if (status != RLF_OK) return status;
    *out = rlf_calloc(1, sizeof **out);
    **out = (kern_graph){queue->device, recorded};
    return RLF_OK;
}

void kern_graph_run(kern_queue *queue, const kern_graph *graph) {
    assert(graph->device == queue->device);
    queue->device->backend->replay(queue->device->ctx, graph->recorded);
}

void kern_graph_destroy(kern_graph *graph) {
    if (!graph) return;
    graph->device->backend->forget(graph->device->ctx, graph->recorded);
    free(graph);
}

/* ---- unwrapping ------------------------------------------------------------------------------------------------------------------- */

/* Address of a tensor that must be there, be of `dtype`, and hold n elements. */
static void *must(kern_tensor t, kern_dtype dtype, size_t n) {
    assert(t.buf && t.dtype == dtype);
    assert(t.offset + n <= t.buf->bytes / kern_dtype_size(dtype));
    return address_of(t);
}

static float *f32(kern_tensor t, size_t n) { return must(t, KERN_F32, n); }
static float *f32_or_none(kern_tensor t, size_t n) { return t.buf ? must(t, KERN_F32, n) : NULL; }
static const int32_t *i32(kern_tensor t, size_t n) { return must(t, KERN_I32, n); }

/* A matrix of weights, float32 or bfloat16: its address; the dtype is the tensor's. */
static const void *weights(kern_tensor w, size_t n) {
    assert(w.dtype == KERN_F32 || w.dtype == KERN_BF16);
    return must(w, w.dtype, n);
}

/* Activations, or a gradient of some. The CPU backend has them as float32 alone: a tensor of bfloat16 there is our bug. */
static void *acts(const kern_queue *queue, kern_tensor t, size_t n) {
    assert(t.dtype == KERN_F32 || (t.dtype == KERN_BF16 && kern_device_is_card(queue->device)));
    return must(t, t.dtype, n);
}
/* The same of an operation whose activations all have one dtype. */
static void *acts_as(const kern_queue *queue, kern_tensor t, kern_dtype dtype, size_t n) {
    assert(t.dtype == dtype);
    return acts(queue, t, n);
}
/* Only what rounds its factors takes bfloat16 activations, and only sums in float32 are added to. */
static bool fits(kern_tensor t, kern_dtype factors, bool accumulate) {
    return t.dtype == KERN_F32 || (factors == KERN_BF16 && !accumulate);
}

/* A vector of n weights. On a card as it is; on the CPU as float32: one of bfloat16 is widened into the staging area, from element `at`
 * on. */
static kern_dtype vector_dtype(const kern_queue *queue, kern_tensor w) { return kern_device_is_card(queue->device) ? w.dtype : KERN_F32; }
static const void *vector(kern_queue *queue, kern_tensor w, size_t n, size_t at) {
    kern_device *device = queue->device;
    if (!w.buf) return NULL;
    if (w.dtype == KERN_F32 || kern_device_is_card(device)) return weights(w, n);
    assert(at + n <= STAGED);
    device->ops->widen(device->ctx, device->vectors + at, must(w, KERN_BF16, n), n);
    return device->vectors + at;
}

/* Elements of an array of a rows by b columns. */
static size_t area(int a, int b) {
    assert(a >= 0 && b >= 0);
    return (size_t)a * (size_t)b;
}

static size_t qkv_area(int m, kern_attn_shape shape) { return area(m, kern_qkv_width(shape)); }
static size_t heads_area(int m, kern_attn_shape shape) { return area(m, shape.heads * shape.head_dim); }

static const kern_ops *ops_of(const kern_queue *queue) { return queue->device->ops; }
static kern_ctx *ctx_of(kern_queue *queue) { return queue->device->ctx; }

/* ---- copies ----------------------------------------------------------------------------------------------------------------------- */

void kern_upload(kern_queue *queue, kern_tensor dst, const void *src, size_t n) {
    if (n) queue->device->backend->upload(ctx_of(queue), must(dst, dst.dtype, n), src, n * kern_dtype_size(dst.dtype));
}

void kern_download(kern_queue *queue, void *dst, kern_tensor src, size_t n) {
    if (n) queue->device->backend->download(ctx_of(queue), dst, must(src, src.dtype, n), n * kern_dtype_size(src.dtype));
}

void kern_copy(kern_queue *queue, kern_tensor dst, kern_tensor src, size_t n) {
    if (n) queue->device->backend->copy(ctx_of(queue), must(dst, src.dtype, n), must(src, src.dtype, n), n * kern_dtype_size(src.dtype));
}

void kern_zero(kern_queue *queue, kern_tensor dst, size_t n) {
    if (n) queue->device->backend->zero(ctx_of(queue), must(dst, dst.dtype, n), n * kern_dtype_size(dst.dtype));
}

void kern_convert(kern_queue *queue, kern_tensor dst, kern_tensor src, size_t n) {
    if (dst.dtype == src.dtype) {
        kern_copy(queue, dst, src, n);
    } else if (dst.dtype == KERN_F32) {
        ops_of(queue)->widen(ctx_of(queue), f32(dst, n), must(src, KERN_BF16, n), n);
    } else {
        ops_of(queue)->narrow(ctx_of(queue), must(dst, KERN_BF16, n), f32(src, n), n);
    }
}

/* ---- operations: see kern.h ------------------------------------------------------------------------------------------------------- */

void kern_linear(kern_queue *queue, kern_tensor y, kern_tensor x, kern_tensor w, kern_tensor bias, kern_dtype factors, int m, int n, int k,
                 bool accumulate) {
    assert(factors == KERN_F32 || w.dtype == KERN_BF16);
    assert(fits(x, factors, false) && fits(y, factors, accumulate));
    ops_of(queue)->linear(ctx_of(queue), acts(queue, y, area(m, n)), y.dtype, acts(queue, x, area(m, k)), x.dtype, weights(w, area(n, k)),
                          w.dtype, vector(queue, bias, (size_t)n, 0), vector_dtype(queue, bias), factors, m, n, k, accumulate);
}

void kern_linear_grad_input(kern_queue *queue, kern_tensor dx, kern_tensor dy, kern_tensor w, kern_dtype factors, int m, int n, int k,
                            bool accumulate) {
    assert(factors == KERN_F32 || w.dtype == KERN_BF16);
    assert(fits(dy, factors, false) && fits(dx, factors, accumulate));
    ops_of(queue)->linear_grad_input(ctx_of(queue), acts(queue, dx, area(m, k)), dx.dtype, acts(queue, dy, area(m, n)), dy.dtype,
                                     weights(w, area(n, k)), w.dtype, factors, m, n, k, accumulate);
}

void kern_linear_grad_weight(kern_queue *queue, kern_tensor dw, kern_tensor dy, kern_tensor x, kern_dtype factors, int m, int n, int k) {
    assert(fits(dy, factors, false) && fits(x, factors, false));
    ops_of(queue)->linear_grad_weight(ctx_of(queue), f32(dw, area(n, k)), acts(queue, dy, area(m, n)), dy.dtype,
                                      acts(queue, x, area(m, k)), x.dtype, factors, m, n, k);
}

void kern_bias_grad(kern_queue *queue, kern_tensor dbias, kern_tensor dy, int m, int n) {
    ops_of(queue)->bias_grad(ctx_of(queue), f32(dbias, (size_t)n), acts(queue, dy, area(m, n)), dy.dtype, m, n);
}

/* Tables of the next four have as many rows as the ids need, which is not checked here. */
void kern_embed(kern_queue *queue, kern_tensor y, kern_tensor table, kern_tensor ids, kern_tensor drawn, int m, int k) {
    ops_of(queue)->rows_gather(ctx_of(queue), f32(y, area(m, k)), weights(table, 0), table.dtype, i32(ids, (size_t)m),
                               drawn.buf ? i32(drawn, 0) : NULL, m, k);
}

void kern_embed_grad(kern_queue *queue, kern_tensor dtable, kern_tensor dy, kern_tensor ids, int m, int k) {
    ops_of(queue)->embed_grad(ctx_of(queue), f32(dtable, 0), f32(dy, area(m, k)), i32(ids, (size_t)m), m, k);
}

void kern_rows_gather(kern_queue *queue, kern_tensor y, kern_tensor x, kern_tensor index, int m, int k) {
    ops_of(queue)->rows_gather(ctx_of(queue), f32(y, area(m, k)), weights(x, 0), x.dtype, i32(index, (size_t)m), NULL, m, k);
}

void kern_rows_add(kern_queue *queue, kern_tensor y, kern_tensor x, int m, int k) {
    ops_of(queue)->rows_add(ctx_of(queue), f32(y, (size_t)k), weights(x, area(m, k)), x.dtype, m, k);
}

void kern_rows_scatter(kern_queue *queue, kern_tensor y, kern_tensor x, kern_tensor index, int m, int k) {
    ops_of(queue)->rows_scatter(ctx_of(queue), f32(y, 0), f32(x, area(m, k)), i32(index, (size_t)m), m, k);
}

void kern_rmsnorm(kern_queue *queue, kern_tensor y, kern_tensor x, kern_tensor weight, float eps, int m, int k) {
    ops_of(queue)->rmsnorm(ctx_of(queue), acts(queue, y, area(m, k)), y.dtype, f32(x, area(m, k)), vector(queue, weight, (size_t)k, 0),
                           vector_dtype(queue, weight), eps, m, k);
}

void kern_rmsnorm_grad(kern_queue *queue, kern_tensor dx, kern_tensor dweight, kern_tensor dy, kern_tensor x, kern_tensor weight, float eps,
                       int m, int k) {
    ops_of(queue)->rmsnorm_grad(ctx_of(queue), f32(dx, area(m, k)), f32(dweight, (size_t)k), acts(queue, dy, area(m, k)), dy.dtype,
                                f32(x, area(m, k)), vector(queue, weight, (size_t)k, 0), vector_dtype(queue, weight), eps, m, k);
}

void kern_swiglu(kern_queue *queue, kern_tensor y, kern_tensor gate_up, int m, int f) {
    ops_of(queue)->swiglu(ctx_of(queue), acts(queue, y, area(m, f)), acts_as(queue, gate_up, y.dtype, 2 * area(m, f)), y.dtype, m, f);
}

void kern_swiglu_grad(kern_queue *queue, kern_tensor dgate_up, kern_tensor dy, kern_tensor gate_up, int m, int f) {
    ops_of(queue)->swiglu_grad(ctx_of(queue), acts(queue, dgate_up, 2 * area(m, f)), acts_as(queue, dy, dgate_up.dtype, area(m, f)),
                               acts_as(queue, gate_up, dgate_up.dtype, 2 * area(m, f)), dgate_up.dtype, m, f);
}

void kern_linear_swiglu(kern_queue *queue, kern_tensor y, kern_tensor gate_up, kern_tensor x, kern_tensor w, kern_dtype factors, int m,
                        int f, int k) {
    assert(factors == KERN_F32 || w.dtype == KERN_BF16);
    assert(fits(x, factors, false) && fits(y, factors, false));
    ops_of(queue)->linear_swiglu(ctx_of(queue), acts(queue, y, area(m, f)), acts_as(queue, gate_up, y.dtype, 2 * area(m, f)), y.dtype,
                                 acts(queue, x, area(m, k)), x.dtype, weights(w, 2 * area(f, k)), w.dtype, factors, m, f, k);
}

/* Whether one kernel has done the norm and the product that takes it. */
static bool norm_linear(kern_queue *queue, kern_tensor y, kern_tensor x, kern_tensor norm, float eps, kern_tensor w, kern_tensor bias,
                        kern_dtype factors, int m, int n, int k, bool gated) {
    const kern_backend *backend = queue->device->backend;
    assert(factors == KERN_F32 || w.dtype == KERN_BF16);
    if (!backend->norm_linear) return false;
    const kern_norm_product product = {.y = acts(queue, y, area(m, n)),
                                       .y_dtype = y.dtype,
                                       .x = f32(x, area(m, k)),
                                       .norm = weights(norm, (size_t)k),
                                       .w = weights(w, (gated ? 2 : 1) * area(n, k)),
                                       .bias = bias.buf ? weights(bias, (size_t)n) : NULL,
                                       .norm_dtype = norm.dtype,
                                       .bias_dtype = bias.dtype,
                                       .factors = factors,
                                       .eps = eps,
                                       .m = m,
                                       .n = n,
                                       .k = k,
                                       .gated = gated};
    return backend->norm_linear(ctx_of(queue), &product);
}

void kern_norm_linear(kern_queue *queue, kern_tensor y, kern_tensor normed, kern_tensor x, kern_tensor norm, float eps, kern_tensor w,
                      kern_tensor bias, kern_dtype factors, int m, int n, int k) {
    if (norm_linear(queue, y, x, norm, eps, w, bias, factors, m, n, k, false)) return;
    kern_rmsnorm(queue, normed, x, norm, eps, m, k);
    kern_linear(queue, y, normed, w, bias, factors, m, n, k, false);
}

void kern_norm_linear_swiglu(kern_queue *queue, kern_tensor y, kern_tensor gate_up, kern_tensor normed, kern_tensor x, kern_tensor norm,
                             float eps, kern_tensor w, kern_dtype factors, int m, int f, int k) {
    if (norm_linear(queue, y, x, norm, eps, w, kern_none(), factors, m, f, k, true)) return;
    kern_rmsnorm(queue, normed, x, norm, eps, m, k);
    kern_linear_swiglu(queue, y, gate_up, normed, w, factors, m, f, k);
}

static kern_dtype norms_dtype(const kern_queue *queue, kern_tensor q_norm, kern_tensor k_norm) {
    assert(!q_norm.buf || !k_norm.buf || q_norm.dtype == k_norm.dtype);
    return vector_dtype(queue, q_norm.buf ? q_norm : k_norm);
}

static void *kv_cache(kern_queue *queue, kern_tensor kv, kern_kv_shape shape, kern_attn_shape used_with) {
    assert(shape.kv_heads == used_with.kv_heads && shape.head_dim == used_with.head_dim && shape.factors == used_with.factors);
    return must(kv, KERN_U8, kern_kv_bytes(queue->device, shape));
}

void kern_qk_rope(kern_queue *queue, kern_tensor out, kern_tensor in, kern_tensor q_norm, kern_tensor k_norm, float eps, kern_tensor rope,
                  kern_tensor pos, int m, kern_attn_shape shape, const kern_kv_rows *kept) {
    const kern_kv_rows to = kept ? *kept : (kern_kv_rows){.kv = kern_none()};
    size_t d = (size_t)shape.head_dim;
    assert(!kept || fits(out, shape.factors, false));
    ops_of(queue)->qk_rope(ctx_of(queue), acts(queue, out, qkv_area(m, shape)), acts_as(queue, in, out.dtype, qkv_area(m, shape)), out.dtype,
                           vector(queue, q_norm, d, 0), vector(queue, k_norm, d, d), norms_dtype(queue, q_norm, k_norm), eps, f32(rope, 0),
                           i32(pos, (size_t)m), m, shape, kept ? kv_cache(queue, to.kv, to.shape, shape) : NULL, to.shape, to.layer,
                           kept ? i32(to.slots, (size_t)m) : NULL);
}

void kern_qk_rope_grad(kern_queue *queue, kern_tensor din, kern_tensor dq_norm, kern_tensor dk_norm, kern_tensor dout, kern_tensor in,
                       kern_tensor q_norm, kern_tensor k_norm, float eps, kern_tensor rope, kern_tensor pos, int m, kern_attn_shape shape) {
    size_t d = (size_t)shape.head_dim;
    ops_of(queue)->qk_rope_grad(ctx_of(queue), acts(queue, din, qkv_area(m, shape)), f32_or_none(dq_norm, d), f32_or_none(dk_norm, d),
                                acts_as(queue, dout, din.dtype, qkv_area(m, shape)), acts_as(queue, in, din.dtype, qkv_area(m, shape)),
                                din.dtype, vector(queue, q_norm, d, 0), vector(queue, k_norm, d, d), norms_dtype(queue, q_norm, k_norm), eps,
                                f32(rope, 0), i32(pos, (size_t)m), m, shape);
}

void kern_attention(kern_queue *queue, kern_tensor out, kern_tensor lse, kern_tensor qkv, const int32_t *seq_begin, int seqs,
                    kern_attn_shape shape) {
    int m = seq_begin[seqs];
    assert(fits(qkv, shape.factors, false));
    ops_of(queue)->attention(ctx_of(queue), acts_as(queue, out, qkv.dtype, heads_area(m, shape)), f32(lse, area(m, shape.heads)),
                             acts(queue, qkv, qkv_area(m, shape)), qkv.dtype, seq_begin, seqs, shape);
}

void kern_attention_grad(kern_queue *queue, kern_tensor dqkv, kern_tensor dout, kern_tensor out, kern_tensor lse, kern_tensor qkv,
                         const int32_t *seq_begin, int seqs, kern_attn_shape shape) {
    int m = seq_begin[seqs];
    assert(fits(qkv, shape.factors, false));
    ops_of(queue)->attention_grad(ctx_of(queue), acts_as(queue, dqkv, qkv.dtype, qkv_area(m, shape)),
                                  acts_as(queue, dout, qkv.dtype, heads_area(m, shape)), acts_as(queue, out, qkv.dtype, heads_area(m, shape)),
                                  f32(lse, area(m, shape.heads)), acts(queue, qkv, qkv_area(m, shape)), qkv.dtype, seq_begin, seqs, shape);
}

size_t kern_kv_bytes(const kern_device *device, kern_kv_shape shape) { return device->ops->kv_bytes(shape); }

size_t kern_kv_bytes_on(const char *device, kern_kv_shape shape) {
#ifdef KERN_HAVE_CUDA
    if (strcmp(device, "cuda") == 0) return kern_cuda_kv_bytes(shape);
#endif
    (void)device;
    return kern_cpu_kv_bytes(shape);
}

void kern_kv_copy_page(kern_queue *queue, kern_tensor kv, kern_kv_shape kv_shape, int dst_page, int src_page) {
    ops_of(queue)->kv_copy_page(ctx_of(queue), must(kv, KERN_U8, kern_kv_bytes(queue->device, kv_shape)), kv_shape, dst_page, src_page);
}

void kern_attention_paged(kern_queue *queue, kern_tensor out, kern_tensor qkv, kern_tensor kv, kern_kv_shape kv_shape, int layer,
                          kern_tensor seq, kern_tensor pos, int m, kern_tensor page_table, int max_pages, kern_rows_hint hint,
                          kern_attn_shape shape) {
    assert(fits(qkv, shape.factors, false));
    ops_of(queue)->attention_paged(ctx_of(queue), acts_as(queue, out, qkv.dtype, heads_area(m, shape)),
                                   acts(queue, qkv, qkv_area(m, shape)), qkv.dtype, kv_cache(queue, kv, kv_shape, shape), kv_shape, layer,
                                   i32(seq, (size_t)m), i32(pos, (size_t)m), m, i32(page_table, (size_t)max_pages), max_pages, hint, shape);
}

void kern_logprob(kern_queue *queue, kern_tensor logprob, kern_tensor entropy, kern_tensor stats, kern_tensor logits, kern_tensor targets,
                  kern_filter filter, int m, int v) {
    ops_of(queue)->logprob(ctx_of(queue), f32(logprob, (size_t)m), f32_or_none(entropy, (size_t)m), f32(stats, area(m, KERN_HEAD_STATS)),
                           f32(logits, area(m, v)), i32(targets, (size_t)m), filter, m, v);
}

void kern_logprob_grad(kern_queue *queue, kern_tensor dlogits, kern_tensor logits, kern_tensor stats, kern_tensor targets,
                       kern_tensor dlogprob, kern_tensor dentropy, kern_filter filter, int m, int v) {
    ops_of(queue)->logprob_grad(ctx_of(queue), acts(queue, dlogits, area(m, v)), dlogits.dtype, f32(logits, area(m, v)),
                                f32(stats, area(m, KERN_HEAD_STATS)), i32(targets, (size_t)m), f32(dlogprob, (size_t)m),
                                f32_or_none(dentropy, (size_t)m), filter, m, v);
}

void kern_sample(kern_queue *queue, kern_tensor ids, kern_tensor logprob, kern_tensor logits, kern_filter filter, uint64_t seed,
                 const kern_sample_key *keys, int m, int v) {
    ops_of(queue)->sample(ctx_of(queue), must(ids, KERN_I32, (size_t)m), f32(logprob, (size_t)m), f32(logits, area(m, v)),
                          filter, seed, keys, m, v);
}

void kern_adamw(kern_queue *queue, kern_tensor param, kern_tensor rest, kern_tensor grad, kern_tensor m, kern_tensor v, size_t n,
                kern_adamw_args args) {
    ops_of(queue)->adamw(ctx_of(queue), must(param, rest.buf ? KERN_BF16 : KERN_F32, n), rest.buf ? must(rest, KERN_I16, n) : NULL,
                         f32(grad, n), f32(m, n), f32(v, n), n, &args);
}

double kern_sumsq(kern_queue *queue, kern_tensor x, size_t n) { return ops_of(queue)->sumsq(ctx_of(queue), f32(x, n), n); }

uint64_t kern_checksum(kern_queue *queue, kern_tensor x, size_t n) {
    return ops_of(queue)->checksum(ctx_of(queue), must(x, x.dtype, n), n * kern_dtype_size(x.dtype));
}
