/* rlf bench train: forward, loss, backward, global norm and AdamW on packed sequences of equal length.
 *
 * In parts of whole sequences, as train.micro_tokens cuts them, whose gradients add up before the one step: the activations of a part are what
 * memory must hold.
 *
 * Operations are the model's: three times those forward, of each row's keys up to itself; recomputation is not counted. Their
 * share of the measured matrix rate is the model-FLOP utilisation. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "trainer/cli/bench.h"

typedef struct training {
    const rlf_bench *b;
    kern_trainer *trainer;
    kern_buf *state; /* gradients and both moments: (3, total) float32; of masters, where weights are bfloat16, the rest: (total) int16 */
    int sequences, length, part; /* part: sequences at a time */
    int32_t *tokens, *targets, *begin; /* (sequences * length), twice; (sequences + 1) */
    double weight;                     /* of a token in the mean */
    int64_t step;
    double loss, first_loss;
} training;

static bool has_masters(const rlf_bench *b) { return b->precision.stored != RLF_DTYPE_F32; }

static void mean_loss(void *ctx, int n, const int32_t *row, const float *logprob, const float *entropy, float *dlogprob,
                      float *dentropy) {
    (void)row, (void)entropy, (void)dentropy;
    training *t = ctx;
    for (int i = 0; i < n; i++) {
        t->loss -= (double)logprob[i] * t->weight;
        dlogprob[i] = (float)-t->weight;
    }
}

static rlf_status train_step(void *ctx) {
    rlf_status status = RLF_OK;
    training *t = ctx;
    const rlf_bench *b = t->b;
    size_t total = b->layout.total;
    const kern_filter filter = {.temperature = 1, .top_p = 1};
    kern_tensor grads = kern_view(t->state, KERN_F32), m = kern_at(grads, total), v = kern_at(m, total),
                rest = kern_at(kern_view(t->state, KERN_I16), 6 * total);
    t->loss = 0;
    kern_zero(b->queue, grads, total);
    for (int first = 0; first < t->sequences; first += t->part) {
        int n = t->sequences - first < t->part ? t->sequences - first : t->part, row = first * t->length;
        const kern_batch batch = {n * t->length, n, t->tokens + row, t->begin, t->targets + row};
        RLF_TRY(kern_trainer_gradients(t->trainer, &batch, filter, mean_loss, t, grads));
    }
    double norm = sqrt(kern_sumsq(b->queue, grads, total));
    kern_adamw_args args = {.lr = 1e-4f,
                            .beta1 = 0.9f,
                            .beta2 = 0.999f,
                            .eps = 1e-8f,
                            .weight_decay = 0.01f,
                            .step = ++t->step,
                            .grad_scale = (float)fmin(1, 1 / (norm + 1e-6))};
    kern_adamw(b->queue, kern_model_params(b->model), has_masters(b) ? rest : kern_none(), grads, m, v, total, args);
    RLF_TRY(kern_sync(b->queue));
    if (t->step == 1) t->first_loss = t->loss;
out:
    return status;
}

/* Random tokens; each but a sequence's last has the next as its target. */
static void make_batch(training *t) {
    int sequences = t->sequences, length = t->length, rows = sequences * length;
    t->tokens = rlf_calloc((size_t)rows, sizeof *t->tokens);
    t->targets = rlf_calloc((size_t)rows, sizeof *t->targets);
    t->begin = rlf_calloc((size_t)sequences + 1, sizeof *t->begin);
    for (int i = 0; i < rows; i++)
        t->tokens[i] = (int32_t)rlf_rng_below(1, RLF_RNG_TEST, 0, 0, (uint32_t)i, (uint64_t)t->b->layout.shape.vocab);
    for (int i = 0; i < rows; i++) t->targets[i] = (i + 1) % length ? t->tokens[i + 1] : -1;
    for (int s = 0; s <= sequences; s++) t->begin[s] = s * length;
    t->weight = 1.0 / ((double)sequences * (length - 1));
}

rlf_status rlf_bench_train(const rlf_bench *b, int sequences, int length, int micro_tokens, kern_trainer_options options, json_t **out) {
    rlf_status status = RLF_OK;
    const rlf_model_shape *s = &b->layout.shape;
    const double rows = (double)sequences * length;
    const int fitting = micro_tokens ? micro_tokens / length : sequences, part = fitting < 1 ? 1 : fitting < sequences ? fitting : sequences;
    training t = {.b = b, .sequences = sequences, .length = length, .part = part};
    double best;
    char label[48];
    *out = NULL;
    options.max_tokens = part * length;
    options.max_seqs = part;
    options.gradients = true;
    RLF_TRY(kern_trainer_new(&t.trainer, b->model, &options));
    RLF_TRY(kern_buf_new(&t.state, b->device, b->layout.total * (3 * sizeof(float) + (has_masters(b) ? sizeof(int16_t) : 0))));
    make_batch(&t);
    RLF_TRY(rlf_bench_best(b, 3, train_step, &t, &best));
    snprintf(label, sizeof label, "train %d x %d", sequences, length);
    *out = rlf_bench_result(b, label, rows, best,
                            3 * sequences * (rlf_bench_body_flops(s, 0, length) + (length - 1) * rlf_bench_head_flops(s)), 0);
    json_object_set_new(*out, "sequences", json_integer(sequences));
    json_object_set_new(*out, "length", json_integer(length));
    json_object_set_new(*out, "sequences_at_a_time", json_integer(part));
    json_object_set_new(*out, "recompute", json_boolean(options.recompute));
    json_object_set_new(*out, "keep_attention", json_boolean(options.keep_attention));
    json_object_set_new(*out, "loss_first", json_real(t.first_loss));
    json_object_set_new(*out, "loss_last", json_real(t.loss));
    if (b->print) printf("%-24s %9.4f -> %.4f\n", "  loss, first -> last", t.first_loss, t.loss);
out:
    kern_trainer_destroy(t.trainer);
    kern_buf_destroy(t.state);
    free(t.tokens);
    free(t.targets);
    free(t.begin);
    return status;
}
