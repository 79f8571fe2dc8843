/* The transformer against PyTorch (golden files of make_models.py), against finite differences, and against wrong input. */
#include "tests/unit/kernels/rig.h"

#include <math.h>

/* ---- golden ------------------------------------------------------------------------------------------------------------------------ */

typedef struct golden {
    rlf_str file, grads_file; /* owned; the pointers below lie inside */
    rlf_model_shape shape;
    int rows, seqs, every, stride, samples, prompt, greedy;
    float temperature, norm;
    const int32_t *tokens, *begin, *targets, *continued;
    const float *logits, *logprob, *entropy, *after, *grads;
} golden;

static const char *const GOLDEN[] = {"qwen3_tied", "qwen3_untied", "qwen2_tied", "qwen2_untied", "llama_tied", "llama_untied", "llama_plain",
                                     "mistral_tied", "mistral_untied"};
enum { GOLDEN_COUNT = sizeof GOLDEN / sizeof GOLDEN[0] };

static void read_file(rlf_str *s, const char *name, const char *suffix) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", RLF_GOLDEN, name, suffix);
    assert_ok(rlf_str_read_file(s, path, 1 << 20));
}

static int logit_rows(const golden *g) { return (g->rows + g->every - 1) / g->every; }

static golden golden_open(const char *name) {
    golden g = {0};
    read_file(&g.file, name, ".bin");
    read_file(&g.grads_file, name, ".grads.bin");
    const int32_t *config = (const int32_t *)(const void *)g.file.ptr;
    assert_ok(rlf_model_shape_parse(&g.shape, (const char *)(config + 1), (size_t)config[0], name));
    const int32_t *h = config + 1 + config[0] / 4;
    g.rows = h[0], g.seqs = h[1], g.every = h[2], g.stride = h[3], g.samples = h[4], g.prompt = h[5], g.greedy = h[6];
    g.temperature = *(const float *)(const void *)(h + 7);
    g.tokens = h + 8;
    g.begin = g.tokens + g.rows;
    g.targets = g.begin + g.seqs + 1;
    g.logits = (const float *)(const void *)(g.targets + g.rows);
    g.logprob = g.logits + logit_rows(&g) * g.shape.vocab;
    g.entropy = g.logprob + g.rows;
    g.norm = g.entropy[g.rows];
    g.after = g.entropy + g.rows + 1;
    g.continued = (const int32_t *)(const void *)(g.after + g.samples);
    g.grads = (const float *)(const void *)g.grads_file.ptr;
    assert_int_equal((const char *)(g.continued + g.greedy) - g.file.ptr, g.file.len);
    return g;
}

static void golden_close(golden *g) {
    rlf_str_clean_up(&g->file);
    rlf_str_clean_up(&g->grads_file);
}

static kern_filter golden_filter(const golden *g) { return (kern_filter){.temperature = g->temperature, .top_p = 1, .top_k = 0}; }
static kern_batch golden_batch(const golden *g) { return (kern_batch){g->rows, g->seqs, g->tokens, g->begin, g->targets}; }

static void close_to(const char *what, int n, const float *got, const float *expected, double tolerance) {
    for (int i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)expected[i]) <= tolerance))
            fail_msg("%s %d: %.9g, expected %.9g within %g", what, i, (double)got[i], (double)expected[i], tolerance);
}

/* One check over every model. */
static void each_golden(void (*check)(rig *r, const golden *g)) {
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        rig r;
        golden g = golden_open(GOLDEN[i]);
        assert_true(rig_open(&r, &g.shape, RLF_DTYPE_F32, NULL, 2));
        check(&r, &g);
        rig_close(&r);
        golden_close(&g);
    }
}

static void check_golden_logprobs(rig *r, const golden *g) {
    kern_trainer_options options = {.max_tokens = g->rows, .max_seqs = g->seqs, .head_rows = 7, .gradients = false};
    kern_trainer *trainer;
    kern_batch batch = golden_batch(g);
    float *got = rlf_calloc(2 * (size_t)g->rows, sizeof *got);
    assert_ok(kern_trainer_new(&trainer, r->model, &options));
    assert_ok(kern_trainer_logprobs(trainer, r->model, &batch, golden_filter(g), got, got + g->rows));
    close_to("log-prob", g->rows, got, g->logprob, 2e-5);
    close_to("entropy", g->rows, got + g->rows, g->entropy, 2e-5);
    kern_trainer_destroy(trainer);
    free(got);
}

static void logprobs_and_entropies_match_torch(void **state) {
    (void)state;
    each_golden(check_golden_logprobs);
}

enum { PAGE = 64, SEQ_PAGES = MAX_POSITIONS / PAGE };

/* All sequences in one step: sequence s has the pages from s * SEQ_PAGES on. */
static void check_golden_logits(rig *r, const golden *g) {
    kern_decoder_options options = {.page_size = PAGE, .pages = g->seqs * SEQ_PAGES, .max_pages = SEQ_PAGES, .max_rows = g->rows,
                                    .max_outputs = g->rows};
    kern_decoder *decoder;
    int32_t *pos = rlf_calloc(4 * (size_t)g->rows + (size_t)(g->seqs * SEQ_PAGES), sizeof *pos), *seq = pos + g->rows;
    int32_t *slots = seq + g->rows, *out = slots + g->rows, *page_table = out + g->rows;
    float *logits = rlf_calloc((size_t)logit_rows(g) * (size_t)g->shape.vocab, sizeof *logits);
    for (int i = 0; i < g->seqs * SEQ_PAGES; i++) page_table[i] = i;
    for (int i = 0; i < logit_rows(g); i++) out[i] = i * g->every;
    for (int s = 0; s < g->seqs; s++) {
        for (int i = g->begin[s]; i < g->begin[s + 1]; i++) {
            pos[i] = i - g->begin[s];
            seq[i] = s;
            slots[i] = s * MAX_POSITIONS + pos[i];
        }
    }
    kern_step step = {.rows = g->rows, .tokens = g->tokens, .pos = pos, .seq = seq, .slots = slots, .max_pages = SEQ_PAGES,
                      .page_table = page_table, .outputs = logit_rows(g), .output_rows = out};
    assert_ok(kern_decoder_new(&decoder, r->model, &options));
    assert_ok(kern_decoder_step(decoder, &step));
    assert_ok(kern_decoder_logits(decoder, logits));
    close_to("logit", logit_rows(g) * g->shape.vocab, logits, g->logits, 2e-5);
    kern_decoder_destroy(decoder);
    free(pos);
    free(logits);
}

static void decoder_logits_match_torch(void **state) {
    (void)state;
    each_golden(check_golden_logits);
}

/* Runs rows of one sequence in its pages and draws the next token behind the last of them. */
static int32_t greedy_next(kern_decoder *decoder, const int32_t *tokens, int begin, int end) {
    int32_t pos[PAGE] = {0}, seq[PAGE] = {0}, pages[SEQ_PAGES], last = end - begin - 1, id = -1;
    for (int i = 0; i < SEQ_PAGES; i++) pages[i] = i;
    for (int i = begin; i < end; i++) pos[i - begin] = i;
    kern_step step = {.rows = end - begin, .tokens = tokens + begin, .pos = pos, .seq = seq, .slots = pos, .max_pages = SEQ_PAGES,
                      .page_table = pages, .outputs = 1, .output_rows = &last};
    assert_ok(kern_decoder_step(decoder, &step));
    float logprob;
    kern_decoder_draw(decoder, (kern_filter){.temperature = 0, .top_p = 1}, 1, &(kern_sample_key){0});
    assert_ok(kern_decoder_collect(decoder, &id, &logprob));
    return id;
}

static void check_golden_greedy(rig *r, const golden *g) {
    kern_decoder_options options = {.page_size = PAGE, .pages = SEQ_PAGES, .max_pages = SEQ_PAGES, .max_rows = PAGE, .max_outputs = 1};
    kern_decoder *decoder;
    int32_t tokens[MAX_POSITIONS];
    int s = 0, done = 0;
    while (g->begin[s + 1] - g->begin[s] < g->prompt) s++;
    memcpy(tokens, g->tokens + g->begin[s], (size_t)g->prompt * sizeof *tokens);
    assert_ok(kern_decoder_new(&decoder, r->model, &options));
    for (int n = g->prompt; n < g->prompt + g->greedy; done = n++) tokens[n] = greedy_next(decoder, tokens, done, n);
    assert_memory_equal(tokens + g->prompt, g->continued, (size_t)g->greedy * sizeof *tokens);
    kern_decoder_destroy(decoder);
}

static void greedy_decoding_gives_the_tokens_of_transformers(void **state) {
    (void)state;
    each_golden(check_golden_greedy);
}

static void golden_loss(void *ctx, int n, const int32_t *row, const float *logprob, const float *entropy, float *dlogprob,
                        float *dentropy) {
    (void)logprob, (void)entropy;
    int *visited = ctx;
    for (int i = 0; i < n; i++) {
        visited[row[i]]++;
        dlogprob[i] = 0.1f * unit(1000, (uint64_t)row[i]);
        dentropy[i] = 0.02f * unit(1001, (uint64_t)row[i]);
    }
}

/* Norm of the difference and largest difference of each tensor, against the tensor's norm and largest element. */
static void check_gradient(const rlf_tensor_info *t, const float *got, const float *expected) {
    size_t n = (size_t)t->rows * (size_t)t->cols;
    double diff2 = 0, norm2 = 0, diff = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double e = (double)expected[i], d = fabs((double)got[i] - e);
        diff2 += d * d;
        norm2 += e * e;
        diff = d > diff ? d : diff;
        largest = fabs(e) > largest ? fabs(e) : largest;
    }
    if (!(sqrt(diff2) <= 1e-4 * sqrt(norm2)) || !(diff <= 1e-4 * largest))
        fail_msg("%s: difference %g of norm %g, at most %g of %g", t->name, sqrt(diff2), sqrt(norm2), diff, largest);
    assert_true(norm2 > 0);
}

static void check_golden_gradients(rig *r, const golden *g) {
    kern_trainer_options options = {.max_tokens = g->rows, .max_seqs = g->seqs, .head_rows = 10, .gradients = true};
    kern_trainer *trainer;
    kern_buf *buf;
    kern_batch batch = golden_batch(g);
    int *visited = rlf_calloc((size_t)g->rows, sizeof *visited);
    float *grads = rlf_calloc(r->layout.total, sizeof *grads);
    assert_ok(kern_trainer_new(&trainer, r->model, &options));
    assert_ok(kern_buf_new(&buf, r->device, r->layout.total * sizeof(float)));
    assert_ok(kern_trainer_gradients(trainer, &batch, golden_filter(g), golden_loss, visited, kern_view(buf, KERN_F32)));
    kern_download(r->queue, grads, kern_view(buf, KERN_F32), r->layout.total);
    for (int i = 0; i < g->rows; i++) assert_int_equal(visited[i], g->targets[i] >= 0);
    const float *expected = g->grads;
    for (size_t t = 0; t < r->layout.n_tensors; t++) {
        check_gradient(&r->layout.tensors[t], grads + r->layout.tensors[t].offset, expected);
        expected += (size_t)r->layout.tensors[t].rows * (size_t)r->layout.tensors[t].cols;
    }
    double norm = sqrt(kern_sumsq(r->queue, kern_view(buf, KERN_F32), r->layout.total));
    assert_true(fabs(norm - (double)g->norm) <= 1e-5 * norm);
    kern_buf_destroy(buf);
    kern_trainer_destroy(trainer);
    free(grads);
    free(visited);
}

static void every_gradient_and_the_global_norm_match_torch(void **state) {
    (void)state;
    each_golden(check_golden_gradients);
}

/* A slab with each tensor's elements taken from, and given to, an array without padding. */
static void spread(const rlf_model_layout *layout, float *slab, const float *flat) {
    for (size_t t = 0; t < layout->n_tensors; t++) {
        size_t n = (size_t)layout->tensors[t].rows * (size_t)layout->tensors[t].cols;
        memcpy(slab + layout->tensors[t].offset, flat, n * sizeof *flat);
        flat += n;
    }
}

static void check_golden_step(rig *r, const golden *g) {
    size_t total = r->layout.total, flat = 0;
    kern_buf *grads, *m, *v;
    float *slab = rlf_calloc(total, sizeof *slab);
    assert_ok(kern_buf_new(&grads, r->device, total * sizeof(float)));
    assert_ok(kern_buf_new(&m, r->device, total * sizeof(float)));
    assert_ok(kern_buf_new(&v, r->device, total * sizeof(float)));
    spread(&r->layout, slab, g->grads);
    kern_upload(r->queue, kern_view(grads, KERN_F32), slab, total);
    kern_adamw_args args = {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f,
                            .grad_scale = fminf(1.0f, 1.0f / (g->norm + 1e-6f))};
    for (args.step = 1; args.step <= 2; args.step++)
        kern_adamw(r->queue, kern_model_params(r->model), kern_none(), kern_view(grads, KERN_F32), kern_view(m, KERN_F32),
                   kern_view(v, KERN_F32), total, args);
    kern_download(r->queue, slab, kern_model_params(r->model), total);
    for (size_t t = 0; t < r->layout.n_tensors; t++) {
        const rlf_tensor_info *info = &r->layout.tensors[t];
        for (size_t i = 0; i < (size_t)info->rows * (size_t)info->cols; i++, flat++)
            if (flat % (size_t)g->stride == 0) close_to(info->name, 1, slab + info->offset + i, g->after + flat / (size_t)g->stride, 1e-6);
    }
    free(slab);
    kern_buf_destroy(grads);
    kern_buf_destroy(m);
    kern_buf_destroy(v);
}

static void two_steps_of_adamw_match_torch(void **state) {
    (void)state;
    each_golden(check_golden_step);
}

/* ---- finite differences ------------------------------------------------------------------------------------------------------------ */

/* A shape with biases and without q/k norm, which the golden models have the other way round. */
static rlf_model_shape biased_shape(void) {
    return (rlf_model_shape){.family = "qwen2", .hidden = 20, .layers = 2, .heads = 3, .kv_heads = 1, .head_dim = 10, .ffn = 28,
                             .vocab = 37,
                             .max_positions = MAX_POSITIONS, .rope_theta = 1e4, .rms_eps = 1e-6, .tied = true, .qkv_bias = true};
}

typedef struct slope_test {
    rig r;
    pack p;
    kern_trainer *trainer;
    kern_filter filter;
    float *weights, *moved, *grads, *out; /* (total) thrice; (2 rows) */
} slope_test;

static double loss_at(slope_test *t, const float *weights) {
    kern_batch batch = pack_batch(&t->p);
    double loss = 0;
    kern_upload(t->r.queue, kern_model_params(t->r.model), weights, t->r.layout.total);
    assert_ok(kern_trainer_logprobs(t->trainer, t->r.model, &batch, t->filter, t->out, t->out + t->p.rows));
    for (int i = 0; i < t->p.rows; i++)
        loss += (double)(0.1f * unit(1000, (uint64_t)i)) * (double)t->out[i] +
            (double)(0.02f * unit(1001, (uint64_t)i)) * (double)t->out[t->p.rows + i];
    return loss;
}

/* d loss along `direction` of length 1 over one tensor, by fourth-order central differences. */
static double slope(slope_test *t, size_t offset, size_t n, const double *direction) {
    static const double at[4] = {-2, -1, 1, 2}, factor[4] = {1.0 / 12, -8.0 / 12, 8.0 / 12, -1.0 / 12};
    const double h = 0.01;
    double sum = 0;
    memcpy(t->moved, t->weights, t->r.layout.total * sizeof(float));
    for (int k = 0; k < 4; k++) {
        for (size_t i = 0; i < n; i++) t->moved[offset + i] = (float)((double)t->weights[offset + i] + at[k] * h * direction[i]);
        sum += factor[k] * loss_at(t, t->moved);
    }
    return sum / h;
}

/* Along the gradient the slope is its norm; along a random direction it is the product of the two. */
static void check_slopes(slope_test *t, const rlf_tensor_info *info) {
    size_t n = (size_t)info->rows * (size_t)info->cols;
    const float *g = t->grads + info->offset;
    double *d = rlf_calloc(n, sizeof *d), norm2 = 0, random2 = 0, product = 0;
    for (size_t i = 0; i < n; i++) norm2 += (double)g[i] * (double)g[i];
    for (size_t i = 0; i < n; i++) d[i] = (double)g[i] / sqrt(norm2);
    double along = slope(t, info->offset, n, d);
    if (!(fabs(along - sqrt(norm2)) <= 2e-3 * sqrt(norm2) + 1e-5))
        fail_msg("%s: slope %g along a gradient of norm %g", info->name, along, sqrt(norm2));
    for (size_t i = 0; i < n; i++) {
        d[i] = (double)unit(3000, i);
        random2 += d[i] * d[i];
    }
    for (size_t i = 0; i < n; i++) product += (d[i] /= sqrt(random2)) * (double)g[i];
    double aside = slope(t, info->offset, n, d);
    if (!(fabs(aside - product) <= 2e-3 * sqrt(norm2) + 1e-5)) fail_msg("%s: slope %g, expected %g", info->name, aside, product);
    free(d);
}

static void gradients_match_finite_differences_with_biases_and_without_qk_norm(void **state) {
    (void)state;
    const int lengths[] = {9, 1, 14};
    slope_test t = {.filter = {.temperature = 0.9f, .top_p = 1, .top_k = 0}};
    rlf_model_shape shape = biased_shape();
    kern_buf *grads;
    assert_true(rig_open(&t.r, &shape, RLF_DTYPE_F32, NULL, 1));
    t.p = pack_new(lengths, 3, shape.vocab);
    kern_trainer_options options = {.max_tokens = t.p.rows, .max_seqs = 3, .gradients = true};
    int *visited = rlf_calloc((size_t)t.p.rows, sizeof *visited);
    size_t total = t.r.layout.total;
    t.weights = rlf_calloc(3 * total + 2 * (size_t)t.p.rows, sizeof(float));
    t.moved = t.weights + total;
    t.grads = t.moved + total;
    t.out = t.grads + total;
    rig_fill(&t.r.layout, t.weights);
    assert_ok(kern_trainer_new(&t.trainer, t.r.model, &options));
    assert_ok(kern_buf_new(&grads, t.r.device, total * sizeof(float)));
    kern_batch batch = pack_batch(&t.p);
    assert_ok(kern_trainer_gradients(t.trainer, &batch, t.filter, golden_loss, visited, kern_view(grads, KERN_F32)));
    kern_download(t.r.queue, t.grads, kern_view(grads, KERN_F32), total);
    for (size_t i = 0; i < t.r.layout.n_tensors; i++) check_slopes(&t, &t.r.layout.tensors[i]);
    kern_buf_destroy(grads);
    kern_trainer_destroy(t.trainer);
    pack_free(&t.p);
    free(t.weights);
    free(visited);
    rig_close(&t.r);
}

/* ---- other models, wrong input, memory --------------------------------------------------------------------------------------------- */

static void reference_model_goes_through_the_same_trainer(void **state) {
    (void)state;
    golden g = golden_open("qwen3_tied");
    rig r;
    kern_model *reference;
    kern_trainer *trainer;
    kern_trainer_options options = {.max_tokens = g.rows, .max_seqs = g.seqs, .gradients = true};
    kern_batch batch = golden_batch(&g);
    float *out = rlf_calloc(2 * (size_t)g.rows, sizeof *out);
    assert_true(rig_open(&r, &g.shape, RLF_DTYPE_F32, NULL, 2));
    assert_ok(kern_model_new(&reference, r.queue, &r.layout, (kern_precision){RLF_DTYPE_F32, RLF_DTYPE_F32}, MAX_POSITIONS));
    assert_ok(kern_trainer_new(&trainer, r.model, &options));
    assert_ok(kern_trainer_logprobs(trainer, reference, &batch, golden_filter(&g), out, NULL));
    for (int i = 0; i < g.rows; i++) /* all weights zero: every token equally likely */
        assert_true(fabs((double)out[i] + (g.targets[i] >= 0 ? log(g.shape.vocab) : 0)) < 1e-5);
    kern_copy(r.queue, kern_model_params(reference), kern_model_params(r.model), r.layout.total);
    assert_ok(kern_trainer_logprobs(trainer, reference, &batch, golden_filter(&g), out, NULL));
    assert_ok(kern_trainer_logprobs(trainer, r.model, &batch, golden_filter(&g), out + g.rows, NULL));
    assert_memory_equal(out, out + g.rows, (size_t)g.rows * sizeof *out);
    free(out);
    kern_trainer_destroy(trainer);
    kern_model_destroy(reference);
    rig_close(&r);
    golden_close(&g);
}

static void wrong_batches_are_refused_with_the_row_named(void **state) {
    (void)state;
    const int lengths[] = {4, 3};
    rig r;
    rlf_model_shape shape = biased_shape();
    kern_trainer *trainer;
    float out[7];
    assert_true(rig_open(&r, &shape, RLF_DTYPE_F32, NULL, 1));
    pack p = pack_new(lengths, 2, shape.vocab);
    kern_batch batch = pack_batch(&p);
    kern_trainer_options small = {.max_tokens = 6, .max_seqs = 2}, few = {.max_tokens = 7, .max_seqs = 1},
        enough = {.max_tokens = 7, .max_seqs = 2};
    kern_filter filter = {.temperature = 1, .top_p = 1};
    assert_ok(kern_trainer_new(&trainer, r.model, &small));
    assert_int_equal(kern_trainer_logprobs(trainer, r.model, &batch, filter, out, NULL), RLF_LIMIT);
    kern_trainer_destroy(trainer);
    assert_ok(kern_trainer_new(&trainer, r.model, &few));
    assert_int_equal(kern_trainer_logprobs(trainer, r.model, &batch, filter, out, NULL), RLF_LIMIT);
    kern_trainer_destroy(trainer);
    assert_ok(kern_trainer_new(&trainer, r.model, &enough));
    p.tokens[5] = shape.vocab;
    assert_error(kern_trainer_logprobs(trainer, r.model, &batch, filter, out, NULL), RLF_INVALID, "token 5");
    p.tokens[5] = 0;
    p.targets[2] = -2;
    assert_int_equal(kern_trainer_logprobs(trainer, r.model, &batch, filter, out, NULL), RLF_INVALID);
    p.targets[2] = 0;
    p.begin[1] = 0;
    assert_int_equal(kern_trainer_logprobs(trainer, r.model, &batch, filter, out, NULL), RLF_LIMIT);
    p.begin[1] = 4;
    assert_int_equal(kern_trainer_gradients(trainer, &batch, filter, golden_loss, NULL, kern_model_params(r.model)), RLF_INVALID);
    assert_ok(kern_trainer_logprobs(trainer, r.model, &batch, filter, out, NULL));
    kern_trainer_destroy(trainer);
    pack_free(&p);
    rig_close(&r);
}

static void wrong_steps_are_refused(void **state) {
    (void)state;
    rig r;
    rlf_model_shape shape = biased_shape();
    kern_decoder *decoder;
    kern_decoder_options options = {.page_size = 16, .pages = 2, .max_pages = 1, .max_rows = 2, .max_outputs = 1},
        odd = {.page_size = 24, .pages = 1, .max_pages = 1, .max_rows = 1, .max_outputs = 1};
    assert_true(rig_open(&r, &shape, RLF_DTYPE_F32, NULL, 1));
    assert_int_equal(kern_decoder_new(&decoder, r.model, &odd), RLF_INVALID);
    assert_ok(kern_decoder_new(&decoder, r.model, &options));
    int32_t tokens[2] = {1, 2}, pos[2] = {0, 1}, seq[2] = {0, 0}, slots[2] = {16, 17}, page_table[1] = {1}, out[1] = {1};
    kern_step step = {.rows = 2, .tokens = tokens, .pos = pos, .seq = seq, .slots = slots, .max_pages = 1,
                      .page_table = page_table, .outputs = 1, .output_rows = out};
    assert_ok(kern_decoder_step(decoder, &step));
    tokens[0] = -1;
    assert_int_equal(kern_decoder_step(decoder, &step), RLF_INVALID);
    tokens[0] = 1;
    pos[1] = 16;
    assert_int_equal(kern_decoder_step(decoder, &step), RLF_LIMIT);
    pos[1] = 1;
    slots[1] = 32;
    assert_int_equal(kern_decoder_step(decoder, &step), RLF_INVALID);
    slots[1] = 17;
    out[0] = 2;
    assert_int_equal(kern_decoder_step(decoder, &step), RLF_INVALID);
    out[0] = 1;
    step.max_pages = 2;
    assert_int_equal(kern_decoder_step(decoder, &step), RLF_LIMIT);
    step.max_pages = 1;
    step.rows = 3;
    assert_int_equal(kern_decoder_step(decoder, &step), RLF_LIMIT);
    kern_decoder_destroy(decoder);
    rig_close(&r);
}

static void impossible_shapes_are_refused(void **state) {
    (void)state;
    rig r;
    rlf_model_shape shape = biased_shape();
    kern_model *model;
    assert_true(rig_open(&r, &shape, RLF_DTYPE_F32, NULL, 1));
    r.layout.shape.head_dim = 11;
    assert_int_equal(kern_model_new(&model, r.queue, &r.layout, (kern_precision){RLF_DTYPE_F32, RLF_DTYPE_F32}, 16), RLF_UNSUPPORTED);
    r.layout.shape.head_dim = 10;
    r.layout.shape.kv_heads = 2;
    assert_int_equal(kern_model_new(&model, r.queue, &r.layout, (kern_precision){RLF_DTYPE_F32, RLF_DTYPE_F32}, 16), RLF_UNSUPPORTED);
    r.layout.shape.kv_heads = 1;
    rig_close(&r);
}

static void refused_by_kernels(const rlf_model_shape *shape, bool card, int positions, const char *why) {
    assert_int_not_equal(kern_model_check(shape, card, positions), RLF_OK);
    if (!strstr(rlf_error_message(), why)) fail_msg("\"%s\" in: %s", why, rlf_error_message());
}

static void what_the_kernels_have_no_room_for_is_refused(void **state) {
    rlf_model_shape good, shape;
    (void)state;
    assert_ok(rlf_model_shape_named(&good, "qwen3-8b"));
    for (int card = 0; card < 2; card++) assert_ok(kern_model_check(&good, card, 131072));
    refused_by_kernels(&good, false, 240000, "240000 positions: with this model there is room for 239610 on the CPU");
    refused_by_kernels(&good, true, 600000, "600000 positions: with this model there is room for 524288 on a card");
    for (int card = 0; card < 2; card++) {
        shape = good;
        shape.vocab = KERN_MOST_VOCAB + 1;
        refused_by_kernels(&shape, card, 1, "vocabulary of 524289: expected at most 524288");
        shape = good;
        shape.heads = 129, shape.kv_heads = 1;
        refused_by_kernels(&shape, card, 1, "129 heads over 1 kv_heads: expected at most 128 to one");
    }
    shape = good;
    shape.hidden = 16384;
    assert_ok(kern_model_check(&shape, false, 1));
    refused_by_kernels(&shape, true, 1, "width 16384: expected at most 13824 on a card");
}

/* The formula in trainer.c, for bench-42m: 8 (2*512 + 1024 + 512 + 8 + 3072) + 512 floats a token kept, 2*512 + 3*1536 of work space. */
static void memory_plan_follows_the_documented_formula(void **state) {
    (void)state;
    rlf_model_shape shape;
    rlf_model_layout layout;
    assert_ok(rlf_model_shape_named(&shape, "bench-42m"));
    rlf_model_layout_init(&layout, &shape);
    kern_trainer_options options = {.max_tokens = 2048, .max_seqs = 8, .head_rows = 16, .gradients = true};
    kern_precision precision = {RLF_DTYPE_F32, RLF_DTYPE_F32};
    double expected = 4.0 * (2048 * (8 * (2 * 512 + 1024 + 512 + 8 + 3072) + 512 + 2 * 512 + 3 * 1536) + 16 * (32000 + 3 * 512));
    double bytes = (double)kern_trainer_bytes(&layout, precision, "cpu", &options);
    assert_true(fabs(bytes - expected) < 1e-3 * expected);
    options.recompute = true;
    expected -= 4.0 * 2048 * 7 * (512 + 1024 + 512 + 8 + 3072);
    assert_true(fabs((double)kern_trainer_bytes(&layout, precision, "cpu", &options) - expected) < 1e-3 * expected);
    options.keep_attention = true;
    const double attention = 4.0 * 2048 * 7 * (512 + 8);
    assert_true(fabs((double)kern_trainer_bytes(&layout, precision, "cpu", &options) - (expected + attention)) < 1e-3 * expected);
    options.keep_attention = false;
    precision = (kern_precision){RLF_DTYPE_BF16, RLF_DTYPE_BF16};
    assert_true(fabs((double)kern_trainer_bytes(&layout, precision, "cpu", &options) - expected) < 1e-3 * expected);
    double halved = 2048 * (1024 + 512 + 3072 + 512 + 3 * 1536) + 16 * 512; /* elements of a layer, and of the work space */
    double on_card = expected - 2 * halved + 2 * 16 * 32000;               /* where the gradient of the logits is another tensor */
    assert_true(fabs((double)kern_trainer_bytes(&layout, precision, "cuda", &options) - on_card) < 1e-3 * expected);
    options.gradients = options.recompute = false;
    assert_true((double)kern_trainer_bytes(&layout, precision, "cpu", &options) < bytes / 4);
    rlf_model_layout_clean_up(&layout);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logprobs_and_entropies_match_torch),
        cmocka_unit_test(decoder_logits_match_torch),
        cmocka_unit_test(greedy_decoding_gives_the_tokens_of_transformers),
        cmocka_unit_test(every_gradient_and_the_global_norm_match_torch),
        cmocka_unit_test(two_steps_of_adamw_match_torch),
        cmocka_unit_test(gradients_match_finite_differences_with_biases_and_without_qk_norm),
        cmocka_unit_test(reference_model_goes_through_the_same_trainer),
        cmocka_unit_test(wrong_batches_are_refused_with_the_row_named),
        cmocka_unit_test(wrong_steps_are_refused),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(what_the_kernels_have_no_room_for_is_refused),
        cmocka_unit_test(memory_plan_follows_the_documented_formula),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
