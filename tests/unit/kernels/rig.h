/* What the transformer's tests share: a device, a queue and a model with weights made of a hash, opened and closed together. */
#ifndef RLF_TESTS_UNIT_KERNELS_RIG_H
#define RLF_TESTS_UNIT_KERNELS_RIG_H

#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "kernels/transformer/transformer.h"
#include "tests/unit/kernels/device.h"

enum { MAX_POSITIONS = 512 };

typedef struct rig {
    kern_device *device;
    kern_queue *queue;
    rlf_model_layout layout;
    kern_model *model;
} rig;

/* Element i of a stream of floats in [-0.5, 0.5): the same as unit() of tests/golden/make_models.py. */
static inline float unit(uint64_t stream, uint64_t i) {
    uint64_t x = ((stream << 32) + i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    return (float)(x >> 40) * 0x1p-24f - 0.5f;
}

static inline int below(uint64_t stream, uint64_t i, int n) { return (int)((unit(stream, i) + 0.5f) * (float)n); }

/* Norm weights around 1, all others around 0. */
static inline void rig_fill(const rlf_model_layout *layout, float *weights) {
    for (size_t t = 0; t < layout->n_tensors; t++) {
        const rlf_tensor_info *info = &layout->tensors[t];
        bool norm = info->vector && strstr(info->name, "norm");
        size_t n = (size_t)info->rows * (size_t)info->cols;
        for (size_t i = 0; i < n; i++) weights[info->offset + i] = norm ? 1 + 0.25f * unit(t, i) : 0.5f * unit(t, i);
    }
}

/* False where this machine lacks the instruction set. isa NULL: the best. Weights are rounded to what is stored. */
static inline bool rig_open_as(rig *r, const rlf_model_shape *shape, kern_precision precision, const char *isa, int threads) {
    *r = (rig){0};
    rlf_status status = device_open(&r->device, isa, threads);
    if (isa && status == RLF_UNSUPPORTED) return false;
    assert_ok(status);
    assert_ok(kern_queue_new(&r->queue, r->device));
    rlf_model_layout_init(&r->layout, shape);
    assert_ok(kern_model_new(&r->model, r->queue, &r->layout, precision, MAX_POSITIONS));
    kern_buf *wide;
    float *weights = rlf_calloc(r->layout.total, sizeof *weights);
    rig_fill(&r->layout, weights);
    assert_ok(kern_buf_new(&wide, r->device, r->layout.total * sizeof *weights));
    kern_upload(r->queue, kern_view(wide, KERN_F32), weights, r->layout.total);
    kern_convert(r->queue, kern_model_params(r->model), kern_view(wide, KERN_F32), r->layout.total);
    kern_buf_destroy(wide);
    free(weights);
    return true;
}

/* The same with factors as weights are stored. */
static inline bool rig_open(rig *r, const rlf_model_shape *shape, rlf_dtype dtype, const char *isa, int threads) {
    return rig_open_as(r, shape, (kern_precision){dtype, dtype}, isa, threads);
}

/* Rounds float32 weights to what a rig of RLF_DTYPE_BF16 has. */
static inline void rig_round(rig *r) {
    kern_buf *half;
    assert_ok(kern_buf_new(&half, r->device, r->layout.total * kern_dtype_size(KERN_BF16)));
    kern_convert(r->queue, kern_view(half, KERN_BF16), kern_model_params(r->model), r->layout.total);
    kern_convert(r->queue, kern_model_params(r->model), kern_view(half, KERN_BF16), r->layout.total);
    kern_buf_destroy(half);
}

static inline void rig_close(rig *r) {
    kern_model_destroy(r->model);
    rlf_model_layout_clean_up(&r->layout);
    kern_queue_destroy(r->queue);
    kern_device_close(r->device);
}

/* Sequences packed one after the other, each row's target the token that follows it. */
typedef struct pack {
    int rows, seqs, longest;
    int32_t *tokens, *begin, *targets;
} pack;

static inline kern_batch pack_batch(const pack *p) { return (kern_batch){p->rows, p->seqs, p->tokens, p->begin, p->targets}; }

static inline pack pack_new(const int *lengths, int seqs, int vocab) {
    pack p = {.seqs = seqs, .begin = rlf_calloc((size_t)seqs + 1, sizeof(int32_t))};
    for (int s = 0; s < seqs; s++) {
        p.begin[s + 1] = p.begin[s] + lengths[s];
        if (lengths[s] > p.longest) p.longest = lengths[s];
    }
    p.rows = p.begin[seqs];
    p.tokens = rlf_calloc((size_t)p.rows, sizeof(int32_t));
    p.targets = rlf_calloc((size_t)p.rows, sizeof(int32_t));
    for (int i = 0; i < p.rows; i++) p.tokens[i] = below(2000, (uint64_t)i, vocab);
    for (int s = 0; s < seqs; s++)
        for (int i = p.begin[s]; i < p.begin[s + 1]; i++) p.targets[i] = i + 1 < p.begin[s + 1] ? p.tokens[i + 1] : -1;
    return p;
}

static inline void pack_free(pack *p) {
    free(p->tokens);
    free(p->begin);
    free(p->targets);
}

#endif
