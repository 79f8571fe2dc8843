/* A model's weights from and to checkpoint folders (transformer.h), through a window: on the CPU straight into the slab, on a
 * card a piece at a time. */
#include "common/model/checkpoint.h"
#include "kernels/transformer/layer.h"

/* Fills elements begin .. begin+n-1 of the slab, at `to`. */
typedef rlf_status fill_fn(void *ctx, size_t begin, size_t n, void *to);

static rlf_status fill(kern_model *model, fill_fn *give, void *ctx) {
    rlf_status status = RLF_OK;
    kern_window *window = NULL;
    size_t total = model->layout->total, n;
    RLF_TRY(kern_window_new(&window, model->queue, KERN_WINDOW_BYTES));
    for (size_t at = 0; at < total; at += n) {
        kern_tensor part = kern_at(model->params, at);
        n = total - at;
        void *room = kern_window_room(window, part, &n);
        RLF_TRY(give(ctx, at, n, room));
        RLF_TRY(kern_window_write(window, part, n));
    }
out:
    kern_window_destroy(window);
    return status;
}

static rlf_dtype stored_dtype(const kern_model *model) {
    return model->params.dtype == KERN_BF16 ? RLF_DTYPE_BF16 : RLF_DTYPE_F32;
}

static rlf_status from_checkpoint(void *ctx, size_t begin, size_t n, void *to) { return rlf_checkpoint_range(ctx, begin, n, to); }

rlf_status kern_model_read(kern_model *model, const char *dir) {
    rlf_status status = RLF_OK;
    rlf_checkpoint *file = NULL;
    RLF_TRY(rlf_checkpoint_open(&file, dir, model->layout, stored_dtype(model)));
    RLF_TRY(fill(model, from_checkpoint, file));
out:
    rlf_checkpoint_close(file);
    return status;
}

typedef struct random_weights {
    const kern_model *model;
    uint64_t seed;
    double std;
} random_weights;

static rlf_status from_random(void *ctx, size_t begin, size_t n, void *to) {
    const random_weights *r = ctx;
    rlf_checkpoint_random_range(r->model->layout, r->seed, r->std, stored_dtype(r->model), begin, n, to);
    return RLF_OK;
}

rlf_status kern_model_random(kern_model *model, uint64_t seed, double std) {
    random_weights r = {model, seed, std};
    return fill(model, from_random, &r);
}

typedef struct shown {
    const kern_model *model;
    kern_window *window;
} shown;

static rlf_status show(void *ctx, size_t begin, size_t *n, const void **data) {
    const shown *s = ctx;
    return kern_window_read(s->window, kern_at(s->model->params, begin), n, data);
}

rlf_status kern_model_write(const kern_model *model, const char *dir, const char *source_dir, size_t shard_bytes) {
    rlf_status status = RLF_OK;
    shown s = {.model = model};
    RLF_TRY(kern_window_new(&s.window, model->queue, KERN_WINDOW_BYTES));
    RLF_TRY(rlf_checkpoint_write_from(dir, model->layout, stored_dtype(model), show, &s, source_dir, shard_bytes));
out:
    kern_window_destroy(s.window);
    return status;
}
