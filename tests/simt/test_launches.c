/* What the CUDA backend asks of a card, at the sizes of a real model: the backend's host code on a runtime that runs nothing (runtime.h). */
#include "tests/test.h"

#include <stdlib.h>

#include "common/base/mem.h"
#include "kernels/ops.h"
#include "kernels/transformer/transformer.h"
#include "tests/simt/runtime.h"

static const runtime_cards hopper = {2, 9, 132, 227 << 10, false}, ampere = {2, 8, 108, 163 << 10, false};

static void assert_no_fault(void) {
    const char *first;
    if (runtime_faults(&first)) fail_msg("%s", first);
}

/* A model of 8 billion parameters in bfloat16. */
typedef struct rig {
    rlf_model_layout layout;
    kern_device *device;
    kern_queue *queue;
    kern_model *model;
} rig;

static void rig_open(rig *r, runtime_cards cards, int positions) {
    rlf_model_shape shape;
    kern_precision precision;
    runtime_set(cards);
    assert_ok(rlf_model_shape_named(&shape, "qwen3-8b"));
    rlf_model_layout_init(&r->layout, &shape);
    assert_ok(kern_device_open(&r->device, &(kern_device_options){.name = "cuda"}));
    assert_ok(kern_queue_new(&r->queue, r->device));
    assert_ok(kern_precision_parse("bfloat16", "auto", &precision));
    assert_ok(kern_model_new(&r->model, r->queue, &r->layout, precision, positions));
}

static void rig_close(rig *r) {
    assert_ok(kern_sync(r->queue));
    assert_no_fault();
    kern_model_destroy(r->model);
    kern_queue_destroy(r->queue);
    kern_device_close(r->device);
    rlf_model_layout_clean_up(&r->layout);
}

/* ---- training --------------------------------------------------------------------------------------------------------------------- */

static void no_loss(void *ctx, int n, const int32_t *row, const float *logprob, const float *entropy, float *dlogprob, float *dentropy) {
    (void)ctx, (void)row, (void)logprob, (void)entropy;
    for (int i = 0; i < n; i++) dlogprob[i] = dentropy[i] = 0;
}

static void take_gradients(const rig *r, int rows, int seqs, kern_tensor grads) {
    const kern_trainer_options options = {.max_tokens = rows, .max_seqs = seqs, .gradients = true, .recompute = true};
    kern_trainer *trainer;
    int32_t *tokens = rlf_calloc((size_t)rows, sizeof *tokens), *seq_begin = rlf_calloc((size_t)seqs + 1, sizeof *seq_begin);
    for (int i = 0; i <= seqs; i++) seq_begin[i] = (int32_t)((int64_t)rows * i / seqs);
    assert_ok(kern_trainer_new(&trainer, r->model, &options));
    const kern_batch batch = {rows, seqs, tokens, seq_begin, tokens};
    assert_ok(kern_trainer_gradients(trainer, &batch, (kern_filter){0.7f, 0.95f, 50}, no_loss, NULL, grads));
    kern_trainer_destroy(trainer);
    free(tokens);
    free(seq_begin);
}

/* All that learners do to whole slabs. */
static void update(const rig *r, kern_tensor grads) {
    const size_t n = r->layout.total;
    kern_buf *state[3];
    kern_tensor weights = kern_model_params(r->model);
    for (int i = 0; i < 3; i++) assert_ok(kern_buf_new(&state[i], r->device, n * sizeof(float)));
    kern_sumsq(r->queue, grads, n);
    kern_adamw(r->queue, weights, kern_view(state[2], KERN_I16), grads, kern_view(state[0], KERN_F32), kern_view(state[1], KERN_F32), n,
               (kern_adamw_args){.step = 1});
    kern_checksum(r->queue, weights, n);
    kern_convert(r->queue, grads, weights, n);
    kern_convert(r->queue, weights, grads, n);
    kern_copy(r->queue, kern_view(state[0], KERN_F32), grads, n);
    for (int i = 0; i < 3; i++) kern_buf_destroy(state[i]);
}

static void train(runtime_cards cards, int rows, int seqs) {
    rig r;
    kern_buf *buf;
    rig_open(&r, cards, rows);
    assert_ok(kern_buf_new(&buf, r.device, r.layout.total * sizeof(float)));
    const kern_tensor grads = kern_view(buf, KERN_F32);
    kern_zero(r.queue, grads, r.layout.total);
    take_gradients(&r, rows, seqs, grads);
    update(&r, grads);
    kern_buf_destroy(buf);
    rig_close(&r);
}

static void a_training_step_fits_hopper(void **state) {
    (void)state;
    train(hopper, 131072, 1);
    train(hopper, 32768, 1111);
}
static void a_training_step_fits_ampere(void **state) {
    (void)state;
    train(ampere, 131072, 1);
    train(ampere, 32768, 1111);
}

/* ---- decoding --------------------------------------------------------------------------------------------------------------------- */

enum { MOST_ROWS = 1024, PAGE = 64, SEQUENCE_PAGES = 2048, PAGES = 10000, POSITIONS = SEQUENCE_PAGES * PAGE };

/* Rows up to position `end`, each of a sequence of its own, or all of one. */
static void step(kern_decoder *decoder, int rows, int end, bool prefill) {
    static int32_t tokens[MOST_ROWS], pos[MOST_ROWS], seq[MOST_ROWS], slots[MOST_ROWS], outputs[MOST_ROWS], ids[MOST_ROWS];
    static kern_sample_key keys[MOST_ROWS];
    static float logprobs[MOST_ROWS];
    int32_t *page_table = rlf_calloc((size_t)MOST_ROWS * SEQUENCE_PAGES, sizeof *page_table);
    for (int i = 0; i < rows; i++) {
        pos[i] = prefill ? end - rows + i : end - 1;
        seq[i] = prefill ? 0 : i;
        slots[i] = PAGES * PAGE - 1;
        outputs[i] = i;
    }
    const kern_step s = {rows, tokens, pos, seq, slots, SEQUENCE_PAGES, page_table, rows, outputs};
    assert_ok(kern_decoder_step(decoder, &s));
    kern_decoder_draw(decoder, (kern_filter){0.7f, 0.95f, 50}, 1, keys);
    assert_ok(kern_decoder_collect(decoder, ids, logprobs));
    free(page_table);
}

static void decode(runtime_cards cards) {
    static const int cases[][2] = {{1, 100}, {1, POSITIONS}, {4, 900}, {8, 3000}, {64, 5000}, {256, 40000}, {MOST_ROWS, POSITIONS}};
    rig r;
    kern_decoder *decoder;
    rig_open(&r, cards, POSITIONS);
    assert_ok(kern_decoder_new(&decoder, r.model, &(kern_decoder_options){PAGE, PAGES, SEQUENCE_PAGES, MOST_ROWS, MOST_ROWS}));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int again = 0; again < 2; again++) step(decoder, cases[i][0], cases[i][1], false); /* the second as a graph */
    step(decoder, 300, 2000, true);
    step(decoder, MOST_ROWS, POSITIONS, true);
    kern_decoder_copy_page(decoder, PAGES - 1, 0);
    kern_decoder_destroy(decoder);
    rig_close(&r);
}

static void steps_of_decoding_fit_hopper(void **state) {
    (void)state;
    decode(hopper);
}
static void steps_of_decoding_fit_ampere(void **state) {
    (void)state;
    decode(ampere);
}

/* ---- by themselves ---------------------------------------------------------------------------------------------------------------- */

static void a_hopper_card_is_asked_about_all_kernels_for_it(void **state) {
    static const char *const parts[] = {"hopper_", "attend_few", "attend_scores", "attend_values"};
    kern_device *device;
    (void)state;
    runtime_set(hopper);
    assert_ok(kern_device_open(&device, &(kern_device_options){.name = "cuda"}));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (runtime_fewest_launches(parts[i]) < 1) fail_msg("a kernel %s… was not checked", parts[i]);
    assert_no_fault();
    kern_device_close(device);
}

static void the_widest_norm_fits_ampere(void **state) {
    kern_device *device;
    kern_queue *queue;
    kern_buf *buf;
    (void)state;
    runtime_set(ampere);
    assert_ok(kern_device_open(&device, &(kern_device_options){.name = "cuda"}));
    assert_ok(kern_queue_new(&queue, device));
    assert_ok(kern_buf_new(&buf, device, (size_t)1 << 30));
    const kern_tensor x = kern_view(buf, KERN_F32);
    kern_rmsnorm_grad(queue, x, kern_at(x, 1 << 24), kern_at(x, 1 << 25), kern_at(x, 1 << 26), kern_at(x, 1 << 27), 1e-6f, 64, KERN_CARD_HIDDEN);
    assert_ok(kern_sync(queue));
    assert_no_fault();
    kern_buf_destroy(buf);
    kern_queue_destroy(queue);
    kern_device_close(device);
}

/* Weights are copied then, and the next launch is not to blame. */
static void a_tensor_that_cannot_be_shared_breaks_nothing_else(void **state) {
    runtime_cards alone = hopper;
    kern_device *device;
    kern_queue *queue;
    kern_buf *buf;
    unsigned char handle[KERN_SHARE_BYTES];
    (void)state;
    alone.refuses_ipc = true;
    runtime_set(alone);
    assert_ok(kern_device_open(&device, &(kern_device_options){.name = "cuda"}));
    assert_ok(kern_queue_new(&queue, device));
    assert_ok(kern_buf_new(&buf, device, 1 << 20));
    assert_int_equal(kern_buf_share(buf, handle), RLF_DEVICE);
    kern_zero(queue, kern_view(buf, KERN_F32), 1000);
    kern_checksum(queue, kern_view(buf, KERN_F32), 1000);
    assert_ok(kern_sync(queue));
    kern_buf_destroy(buf);
    kern_queue_destroy(queue);
    kern_device_close(device);
}

static void a_card_says_which_generation_it_is_of(void **state) {
    const runtime_cards cards[] = {ampere, hopper};
    (void)state;
    for (int i = 0; i < 2; i++) {
        kern_device *device;
        runtime_set(cards[i]);
        assert_ok(kern_device_open(&device, &(kern_device_options){.name = "cuda"}));
        assert_int_equal(device->major, cards[i].major);
        kern_device_close(device);
    }
}

static void two_cards_are_used_in_turn(void **state) {
    kern_device *device[2];
    kern_queue *queue[2];
    kern_buf *buf[2];
    (void)state;
    runtime_set(hopper);
    for (int i = 0; i < 2; i++) {
        assert_ok(kern_device_open(&device[i], &(kern_device_options){.name = "cuda", .card = i}));
        assert_ok(kern_queue_new(&queue[i], device[i]));
        assert_ok(kern_buf_new(&buf[i], device[i], (size_t)1 << 30));
    }
    for (int i = 0; i < 2; i++) {
        const kern_tensor x = kern_view(buf[i], KERN_F32);
        kern_rmsnorm_grad(queue[i], x, kern_at(x, 1 << 24), kern_at(x, 1 << 25), kern_at(x, 1 << 26), kern_at(x, 1 << 27), 1e-6f, 64, 4096);
        assert_ok(kern_sync(queue[i]));
    }
    assert_no_fault();
    for (int i = 0; i < 2; i++) {
        kern_buf_destroy(buf[i]);
        kern_queue_destroy(queue[i]);
        kern_device_close(device[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hopper_card_is_asked_about_all_kernels_for_it), /* first: once in a process */
        cmocka_unit_test(a_training_step_fits_hopper),
        cmocka_unit_test(a_training_step_fits_ampere),
        cmocka_unit_test(steps_of_decoding_fit_hopper),
        cmocka_unit_test(steps_of_decoding_fit_ampere),
        cmocka_unit_test(the_widest_norm_fits_ampere),
        cmocka_unit_test(a_tensor_that_cannot_be_shared_breaks_nothing_else),
        cmocka_unit_test(a_card_says_which_generation_it_is_of),
        cmocka_unit_test(two_cards_are_used_in_turn),
    };
    return cmocka_run_group_tests_name("launches", tests, NULL, NULL);
}
