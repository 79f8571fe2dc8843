/* The paged key/value cache: size, copying a page; norm.c writes its rows. Its layout is in kv.h; it is float32 whatever the shape's
 * factors. */
#include <assert.h>

#include "kernels/cpu/isa/kv.h"

size_t KERN_OP(kv_bytes)(kern_kv_shape shape) {
    assert(shape.page_size % VF == 0);
    return (size_t)shape.layers * (size_t)shape.pages * kv_page(&shape) * sizeof(float);
}

void KERN_OP(kv_copy_page)(kern_cpu_ctx *ctx, void *kv, kern_kv_shape kv_shape, int dst_page, int src_page) {
    (void)ctx;
    const size_t page = kv_page(&kv_shape);
    for (int layer = 0; layer < kv_shape.layers; layer++) {
        float *pages = (float *)kv + (size_t)layer * kv_shape.pages * page;
        memcpy(pages + dst_page * page, pages + src_page * page, page * sizeof(float));
    }
}
