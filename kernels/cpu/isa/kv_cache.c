/* The paged key/value cache: size, writing rows, copying a page. Its layout is in kv.h; it is float32 whatever the shape's factors. */
#include <assert.h>

#include "kernels/cpu/isa/kv.h"

typedef struct write_job {
    float *layer;
    const float *qkv;
    const int32_t *slots;
    kern_kv_shape kv;
    kern_attn_shape shape;
    int m, per_task;
} write_job;

size_t KERN_OP(kv_bytes)(kern_kv_shape shape) {
    assert(shape.page_size % VF == 0);
    return (size_t)shape.layers * (size_t)shape.pages * kv_page(&shape) * sizeof(float);
}

static void write_rows(void *arg, int task, int thread) {
    (void)thread;
    const write_job *job = arg;
    const int d = job->shape.head_dim, p = job->kv.page_size, g = job->shape.kv_heads, width = kern_qkv_width(job->shape);
    const int end = kern_min(job->m, (task + 1) * job->per_task);
    for (int row = task * job->per_task; row < end; row++) {
        const float *key = job->qkv + (size_t)row * width + job->shape.heads * d, *value = key + g * d;
        float *page = job->layer + (size_t)(job->slots[row] / p) * kv_page(&job->kv);
        for (int h = 0; h < g; h++)
            kv_store(page + h * kv_block(p, d), p, d, job->slots[row] % p, key + h * d, value + h * d);
    }
}

void KERN_OP(kv_write)(kern_cpu_ctx *ctx, void *kv, kern_kv_shape kv_shape, int layer, const void *qkv, kern_dtype dtype, const int32_t *slots,
                       int m, kern_attn_shape shape) {
    (void)dtype;
    write_job job = {.layer = (float *)kv + (size_t)layer * kv_shape.pages * kv_page(&kv_shape), .qkv = qkv, .slots = slots, .kv = kv_shape,
                     .shape = shape, .m = m, .per_task = 16};
    kern_pool_run(ctx->pool, (m + job.per_task - 1) / job.per_task, write_rows, &job);
}

void KERN_OP(kv_copy_page)(kern_cpu_ctx *ctx, void *kv, kern_kv_shape kv_shape, int dst_page, int src_page) {
    (void)ctx;
    const size_t page = kv_page(&kv_shape);
    for (int layer = 0; layer < kv_shape.layers; layer++) {
        float *pages = (float *)kv + (size_t)layer * kv_shape.pages * page;
        memcpy(pages + dst_page * page, pages + src_page * page, page * sizeof(float));
    }
}
