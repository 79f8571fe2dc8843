/* The optimizer's state in checkpoints: master weights are whole there, and two bytes beside the weights in memory. One learner, on the
 * CPU. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/model/safetensors.h"
#include "trainer/files.h"
#include "trainer/optimizer.h"

enum { SLABS = 3 };
static const char *const names[SLABS] = {"exp_avg", "exp_avg_sq", "master"};

/* A model of bfloat16 weights with more of them than are made whole at a time, and the state of a checkpoint: moments and masters. */
typedef struct rig {
    char path[64]; /* of a folder */
    kern_device *device;
    kern_queue *queue;
    rlf_model_layout layout;
    kern_model *model;
    float *slab[SLABS]; /* (total) each; 0 in padding */
} rig;

/* x, or where no update leaves such a master its neighbour towards zero. */
static float left(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x1ffff) == 0x8000 ? nextafterf(x, 0) : x;
}

static void fill(rig *r) {
    for (uint32_t s = 0; s < SLABS; s++) {
        r->slab[s] = rlf_calloc(r->layout.total, sizeof(float));
        for (size_t t = 0; t < r->layout.n_tensors; t++) {
            const rlf_tensor_info *info = &r->layout.tensors[t];
            const size_t n = (size_t)info->rows * (size_t)info->cols;
            for (size_t i = 0; i < n; i++) r->slab[s][info->offset + i] = left(rlf_rng_uniform(1, RLF_RNG_TEST, i, s, (uint32_t)t) - 0.5f);
        }
    }
}

/* The weights become what masters round to. */
static void round_masters(const rig *r) {
    kern_buf *wide;
    assert_ok(kern_buf_new(&wide, r->device, r->layout.total * sizeof(float)));
    kern_upload(r->queue, kern_view(wide, KERN_F32), r->slab[SLABS - 1], r->layout.total);
    kern_convert(r->queue, kern_model_params(r->model), kern_view(wide, KERN_F32), r->layout.total);
    assert_ok(kern_sync(r->queue));
    kern_buf_destroy(wide);
}

static int set_up(void **state) {
    rig *r = rlf_calloc(1, sizeof *r);
    const rlf_model_shape shape = {.family = "qwen3", .hidden = 32, .layers = 2, .heads = 2, .kv_heads = 1, .head_dim = 16, .ffn = 48,
                                   .vocab = 70001, .max_positions = 64, .rope_theta = 1e6, .rms_eps = 1e-6, .tied = true, .qk_norm = true};
    snprintf(r->path, sizeof r->path, "/tmp/rlf-optimizer-XXXXXX");
    if (!mkdtemp(r->path)) return -1;
    assert_ok(kern_device_open(&r->device, &(kern_device_options){.name = "cpu", .threads = 1}));
    assert_ok(kern_queue_new(&r->queue, r->device));
    rlf_model_layout_init(&r->layout, &shape);
    assert_ok(kern_model_new(&r->model, r->queue, &r->layout, (kern_precision){RLF_DTYPE_BF16, RLF_DTYPE_BF16}, 64));
    fill(r);
    round_masters(r);
    *state = r;
    return 0;
}

static int tear_down(void **state) {
    rig *r = *state;
    kern_model_destroy(r->model);
    rlf_model_layout_clean_up(&r->layout);
    kern_queue_destroy(r->queue);
    kern_device_close(r->device);
    for (int s = 0; s < SLABS; s++) free(r->slab[s]);
    int failed = trainer_remove_tree(r->path) != RLF_OK;
    free(r);
    return failed;
}

static const char *folder(const rig *r, const char *name) {
    static char path[96];
    snprintf(path, sizeof path, "%s/%s", r->path, name);
    assert_ok(trainer_make_folder(path));
    return path;
}

/* A checkpoint of the slabs. */
static void write_slabs(const rig *r, const char *name) {
    const size_t n = r->layout.n_tensors;
    rlf_arena arena = {0};
    rlf_st_tensor *out = rlf_arena_alloc(&arena, SLABS * n, sizeof *out);
    for (size_t i = 0; i < SLABS * n; i++) {
        const rlf_tensor_info *t = &r->layout.tensors[i % n];
        out[i] = (rlf_st_tensor){.name = rlf_arena_printf(&arena, "%s.%s", names[i / n], t->name), .dtype = RLF_DTYPE_F32,
                                 .dims = t->vector ? 1 : 2, .bytes = (size_t)t->rows * (size_t)t->cols * sizeof(float),
                                 .data = r->slab[i / n] + t->offset};
        out[i].shape[0] = t->vector ? t->cols : t->rows;
        out[i].shape[1] = t->vector ? 0 : t->cols;
    }
    assert_ok(rlf_safetensors_write(rlf_arena_printf(&arena, "%s/optimizer.safetensors", folder(r, name)), out, SLABS * n, NULL, NULL));
    assert_ok(trainer_json_write(folder(r, name), "optimizer.json", json_pack("{s:i}", "updates", 7), 9));
    rlf_arena_clean_up(&arena);
}

static trainer_optimizer *optimizer_of(const rig *r) {
    trainer_optimizer *o;
    assert_ok(trainer_optimizer_new(&o, r->queue, r->model, &(trainer_learners){.count = 1}));
    return o;
}

/* Reads one checkpoint and writes another. */
static void read_and_write(const rig *r, const char *from, const char *to) {
    trainer_optimizer *o = optimizer_of(r);
    assert_ok(trainer_optimizer_read(o, folder(r, from)));
    assert_ok(trainer_optimizer_write(o, folder(r, to)));
    trainer_optimizer_destroy(o);
}

static void same_file(const rig *r, const char *a, const char *b, const char *name) {
    char command[256];
    snprintf(command, sizeof command, "cmp %s/%s/%s %s/%s/%s", r->path, a, name, r->path, b, name);
    assert_int_equal(system(command), 0);
}

static void a_checkpoint_is_written_as_it_was_read(void **state) {
    const rig *r = *state;
    write_slabs(r, "a");
    read_and_write(r, "a", "b");
    same_file(r, "a", "b", "optimizer.safetensors");
    same_file(r, "a", "b", "optimizer.json");
}

static void masters_that_no_update_leaves_are_read_as_their_neighbours(void **state) {
    rig *r = *state;
    float *masters = r->slab[SLABS - 1];
    masters[5] = 0x1.01p0f;    /* halfway between 1 and the next bfloat16 */
    masters[1500000] = -0x1.05p0f;
    masters[6] = 0x1.03p0f;    /* an odd one below: this rounds up, and stays */
    round_masters(r);
    write_slabs(r, "old");
    read_and_write(r, "old", "new");
    masters[5] = left(masters[5]);
    masters[1500000] = left(masters[1500000]);
    assert_true(masters[5] < 0x1.01p0f && masters[1500000] > -0x1.05p0f);
    write_slabs(r, "expected");
    same_file(r, "new", "expected", "optimizer.safetensors");
}

static void masters_of_other_weights_are_refused(void **state) {
    rig *r = *state;
    trainer_optimizer *o = optimizer_of(r);
    write_slabs(r, "a");
    r->slab[SLABS - 1][1500000] += 0.25f;
    round_masters(r);
    assert_error(trainer_optimizer_read(o, folder(r, "a")), RLF_INVALID, "does not round to the model's");
    trainer_optimizer_destroy(o);
}

static void masters_begin_as_the_weights(void **state) {
    rig *r = *state;
    trainer_optimizer *o = optimizer_of(r);
    uint16_t *weights = rlf_calloc(r->layout.total, sizeof *weights);
    kern_download(r->queue, weights, kern_model_params(r->model), r->layout.total);
    memset(r->slab[0], 0, r->layout.total * sizeof(float));
    memset(r->slab[1], 0, r->layout.total * sizeof(float));
    for (size_t i = 0; i < r->layout.total; i++) {
        const uint32_t bits = (uint32_t)weights[i] << 16;
        memcpy(&r->slab[2][i], &bits, sizeof bits);
    }
    write_slabs(r, "expected");
    assert_ok(trainer_optimizer_write(o, folder(r, "new")));
    same_file(r, "new", "expected", "optimizer.safetensors");
    trainer_optimizer_destroy(o);
    free(weights);
}

static void ten_bytes_a_parameter_are_planned_and_taken(void **state) {
    const rig *r = *state;
    const size_t before = kern_device_bytes(r->device);
    trainer_optimizer *o = optimizer_of(r);
    assert_int_equal(kern_device_bytes(r->device) - before, trainer_optimizer_bytes(&r->layout, RLF_DTYPE_BF16, 1));
    assert_int_equal(trainer_optimizer_bytes(&r->layout, RLF_DTYPE_BF16, 1), 10 * r->layout.total);
    assert_int_equal(trainer_optimizer_bytes(&r->layout, RLF_DTYPE_F32, 1), 8 * r->layout.total);
    assert_in_range(trainer_optimizer_bytes(&r->layout, RLF_DTYPE_BF16, 4), 10 * (r->layout.total / 4), 10 * (r->layout.total / 4 + 16));
    trainer_optimizer_destroy(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_checkpoint_is_written_as_it_was_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(masters_that_no_update_leaves_are_read_as_their_neighbours, set_up, tear_down),
        cmocka_unit_test_setup_teardown(masters_of_other_weights_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(masters_begin_as_the_weights, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ten_bytes_a_parameter_are_planned_and_taken, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
