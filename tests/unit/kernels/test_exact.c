/* The rule of kern.h, end to end: whatever the batch size, prefill chunk, page size, packing, thread count or instruction set, a token's
 * log-probability has the same bits. Everything here is compared with memcmp. */
#include <math.h>

#include "tests/unit/kernels/rig.h"

static const kern_filter PLAIN = {.temperature = 0.7f, .top_p = 1.0f, .top_k = 0};
static const kern_filter KEPT = {.temperature = 1.3f, .top_p = 0.9f, .top_k = 40};

/* 8 heads over 4, hidden 64; and a shape in which nothing is a multiple of 16. */
static rlf_model_shape even_shape(void) {
    rlf_model_shape s;
    assert_ok(rlf_model_shape_named(&s, "tiny"));
    return s;
}
static rlf_model_shape odd_shape(void) {
    return (rlf_model_shape){.family = "qwen3", .hidden = 40, .layers = 2, .heads = 6, .kv_heads = 2, .head_dim = 18, .ffn = 52,
                             .vocab = 101,
                             .max_positions = MAX_POSITIONS, .rope_theta = 1e6, .rms_eps = 1e-6, .tied = false, .qk_norm = true};
}

/* Heads of a size that attention on tensor cores takes. */
static rlf_model_shape tiles_shape(void) {
    return (rlf_model_shape){.family = "qwen3", .hidden = 32, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 64, .ffn = 32, .vocab = 64,
                             .max_positions = MAX_POSITIONS, .rope_theta = 1e6, .rms_eps = 1e-6, .tied = true, .qk_norm = true};
}

/* ---- the same rows by decoder and by trainer --------------------------------------------------------------------------------------- */

static void by_trainer(rig *r, const pack *p, kern_filter filter, int head_rows, float *logprob, float *entropy) {
    kern_trainer_options options = {.max_tokens = p->rows, .max_seqs = p->seqs, .head_rows = head_rows, .gradients = false};
    kern_trainer *trainer;
    kern_batch batch = pack_batch(p);
    assert_ok(kern_trainer_new(&trainer, r->model, &options));
    assert_ok(kern_trainer_logprobs(trainer, r->model, &batch, filter, logprob, entropy));
    kern_trainer_destroy(trainer);
}

/* How the decoder goes through the sequences: `together` at a time, up to `chunk` tokens of each in a step. */
typedef struct schedule {
    int chunk, together, page_size;
} schedule;

typedef struct feed {
    const pack *p;
    schedule plan;
    int max_pages, pages;
    int32_t *page_table;                            /* (seqs, max_pages), pages scattered over the pool */
    int32_t *tokens, *pos, *seq, *slots, *outputs;  /* (chunk * together) of the step being built */
    int32_t *targets, *rows_of;                     /* of the outputs: target, row of the pack */
    float *logprobs;
    int *next;                                      /* (seqs) first token not fed yet */
} feed;

static feed feed_new(const pack *p, schedule plan) {
    size_t rows = (size_t)plan.chunk * (size_t)plan.together, seqs = (size_t)p->seqs;
    feed f = {.p = p, .plan = plan, .max_pages = (p->longest + plan.page_size - 1) / plan.page_size};
    f.pages = f.max_pages * p->seqs;
    f.page_table = rlf_calloc(seqs * (size_t)f.max_pages, sizeof(int32_t));
    for (int i = 0; i < f.pages; i++) f.page_table[i] = f.pages - 1 - i;
    int32_t **arrays[] = {&f.tokens, &f.pos, &f.seq, &f.slots, &f.outputs, &f.targets, &f.rows_of};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) *arrays[i] = rlf_calloc(rows, sizeof(int32_t));
    f.logprobs = rlf_calloc(rows, sizeof(float));
    f.next = rlf_calloc(seqs, sizeof(int));
    return f;
}

static void feed_free(feed *f) {
    int32_t *arrays[] = {f->page_table, f->tokens, f->pos, f->seq, f->slots, f->outputs, f->targets, f->rows_of};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) free(arrays[i]);
    free(f->logprobs);
    free(f->next);
}

/* Appends the next tokens of sequence s to the step. */
static void feed_sequence(feed *f, kern_step *step, int s) {
    const pack *p = f->p;
    for (int n = 0; n < f->plan.chunk && p->begin[s] + f->next[s] < p->begin[s + 1]; n++) {
        int row = p->begin[s] + f->next[s], pos = f->next[s]++, i = step->rows++;
        f->tokens[i] = p->tokens[row];
        f->pos[i] = pos;
        f->seq[i] = s;
        f->slots[i] = f->page_table[s * f->max_pages + pos / f->plan.page_size] * f->plan.page_size + pos % f->plan.page_size;
        if (p->targets[row] < 0) continue;
        f->rows_of[step->outputs] = row;
        f->targets[step->outputs] = p->targets[row];
        f->outputs[step->outputs++] = i;
    }
}

/* One step over up to `together` unfinished sequences from `first` on; false when all are done. */
static bool feed_step(feed *f, kern_step *step) {
    *step = (kern_step){.tokens = f->tokens, .pos = f->pos, .seq = f->seq, .slots = f->slots, .max_pages = f->max_pages,
                        .page_table = f->page_table, .output_rows = f->outputs};
    int fed = 0;
    for (int s = 0; s < f->p->seqs && fed < f->plan.together; s++) {
        if (f->p->begin[s] + f->next[s] >= f->p->begin[s + 1]) continue;
        feed_sequence(f, step, s);
        fed++;
    }
    return step->rows > 0;
}

static void by_decoder(rig *r, const pack *p, kern_filter filter, schedule plan, float *logprob) {
    feed f = feed_new(p, plan);
    kern_decoder_options options = {.page_size = plan.page_size, .pages = f.pages, .max_pages = f.max_pages,
                                    .max_rows = plan.chunk * plan.together,
                                    .max_outputs = plan.chunk * plan.together};
    kern_decoder *decoder;
    kern_step step;
    assert_ok(kern_decoder_new(&decoder, r->model, &options));
    memset(logprob, 0, (size_t)p->rows * sizeof *logprob);
    while (feed_step(&f, &step)) {
        assert_ok(kern_decoder_step(decoder, &step));
        assert_ok(kern_decoder_logprob(decoder, filter, f.targets, f.logprobs));
        for (int i = 0; i < step.outputs; i++) logprob[f.rows_of[i]] = f.logprobs[i];
    }
    kern_decoder_destroy(decoder);
    feed_free(&f);
}

static void same_bits(const char *what, const pack *p, const float *got, const float *expected) {
    for (int i = 0; i < p->rows; i++)
        if (memcmp(&got[i], &expected[i], sizeof(float)))
            fail_msg("%s: row %d of %d is %.9g, expected %.9g", what, i, p->rows, (double)got[i], (double)expected[i]);
}

/* ---- cases ------------------------------------------------------------------------------------------------------------------------- */

/* 64 sequences of 1 to 70 tokens, the first ones around page boundaries. */
static pack many_sequences(int vocab) {
    int lengths[64] = {70, 1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65};
    for (int s = 13; s < 64; s++) lengths[s] = 1 + below(7, (uint64_t)s, 40);
    return pack_new(lengths, 64, vocab);
}

static void check_decoder(rig *r, const pack *p, const float *expected, schedule plan) {
    char what[96];
    float *got = rlf_calloc((size_t)p->rows, sizeof *got);
    snprintf(what, sizeof what, "%s, chunk %d, %d together, pages of %d", kern_device_name(r->device), plan.chunk, plan.together,
             plan.page_size);
    by_decoder(r, p, PLAIN, plan, got);
    same_bits(what, p, got, expected);
    free(got);
}

static void check_schedules(rlf_model_shape shape, rlf_dtype dtype, const schedule *plans, size_t n) {
    rig r;
    assert_true(rig_open(&r, &shape, dtype, NULL, 2));
    pack p = many_sequences(shape.vocab);
    float *expected = rlf_calloc((size_t)p.rows, sizeof *expected);
    by_trainer(&r, &p, PLAIN, 0, expected, NULL);
    for (int i = 0; i < p.rows; i++) assert_true(p.targets[i] < 0 ? expected[i] == 0 : expected[i] < 0);
    for (size_t i = 0; i < n; i += on_cards() ? 5 : 1) check_decoder(&r, &p, expected, plans[i]); /* the shim takes its time */
    free(expected);
    pack_free(&p);
    rig_close(&r);
}

static void decoder_equals_trainer_at_every_chunk_batch_and_page_size(void **state) {
    (void)state;
    const schedule plans[] = {{1, 1, 16},  {1, 5, 32},  {1, 16, 64}, {1, 33, 16}, {1, 64, 32}, {3, 1, 32},  {3, 7, 16},
                              {3, 64, 64}, {16, 1, 64}, {16, 9, 16}, {16, 64, 32}, {70, 1, 16}, {70, 8, 32}, {70, 64, 64}};
    check_schedules(even_shape(), RLF_DTYPE_F32, plans, sizeof plans / sizeof plans[0]);
    check_schedules(even_shape(), RLF_DTYPE_BF16, plans, sizeof plans / sizeof plans[0]);
}

static void decoder_equals_trainer_when_no_size_is_a_multiple_of_sixteen(void **state) {
    (void)state;
    const schedule plans[] = {{1, 2, 16}, {1, 64, 16}, {3, 11, 32}, {16, 3, 64}, {70, 64, 16}};
    check_schedules(odd_shape(), RLF_DTYPE_F32, plans, sizeof plans / sizeof plans[0]);
    check_schedules(odd_shape(), RLF_DTYPE_BF16, plans, sizeof plans / sizeof plans[0]);
}

static void packed_equals_alone_for_every_head_chunk(void **state) {
    (void)state;
    rig r;
    rlf_model_shape shape = even_shape();
    assert_true(rig_open(&r, &shape, RLF_DTYPE_F32, NULL, 2));
    pack p = many_sequences(shape.vocab);
    float *packed = rlf_calloc(4 * (size_t)p.rows, sizeof *packed), *packed_h = packed + p.rows, *got = packed_h + p.rows,
        *got_h = got + p.rows;
    by_trainer(&r, &p, KEPT, 0, packed, packed_h);
    for (int s = 0; s < p.seqs; s++) {
        int first = p.begin[s];
        int32_t begin[2] = {0, p.begin[s + 1] - first};
        pack alone = {.rows = begin[1], .seqs = 1, .tokens = p.tokens + first, .begin = begin, .targets = p.targets + first};
        by_trainer(&r, &alone, KEPT, 1 + s % 20, got + first, got_h + first);
    }
    same_bits("log-prob alone", &p, got, packed);
    same_bits("entropy alone", &p, got_h, packed_h);
    free(packed);
    pack_free(&p);
    rig_close(&r);
}

static void weighted_loss(void *ctx, int n, const int32_t *row, const float *logprob, const float *entropy, float *dlogprob,
                          float *dentropy) {
    (void)ctx, (void)logprob, (void)entropy;
    for (int i = 0; i < n; i++) {
        dlogprob[i] = unit(1000, (uint64_t)row[i]);
        dentropy[i] = unit(1001, (uint64_t)row[i]);
    }
}

/* What a layer keeps for the backward pass. */
typedef enum keeping { ALL, INPUTS, INPUTS_AND_ATTENTION } keeping;

/* Log-probs, entropies and gradients of a packed batch: (rows), (rows), (total). */
static void train_once(rig *r, const pack *p, keeping kept, float *out) {
    kern_trainer_options options = {.max_tokens = p->rows, .max_seqs = p->seqs, .gradients = true, .recompute = kept != ALL,
                                    .keep_attention = kept == INPUTS_AND_ATTENTION};
    kern_batch batch = pack_batch(p);
    kern_trainer *trainer;
    kern_buf *grads;
    assert_ok(kern_trainer_new(&trainer, r->model, &options));
    assert_ok(kern_buf_new(&grads, r->device, r->layout.total * sizeof(float)));
    assert_ok(kern_trainer_logprobs(trainer, r->model, &batch, PLAIN, out, out + p->rows));
    assert_ok(kern_trainer_gradients(trainer, &batch, PLAIN, weighted_loss, NULL, kern_view(grads, KERN_F32)));
    kern_download(r->queue, out + 2 * p->rows, kern_view(grads, KERN_F32), r->layout.total);
    assert_ok(kern_sync(r->queue));
    kern_buf_destroy(grads);
    kern_trainer_destroy(trainer);
}

/* By the portable CPU with one thread. `halved`: float32 weights of the values that bfloat16 has. */
static float *expected_of(const rlf_model_shape *shape, kern_precision precision, bool halved, const pack *p, size_t *n) {
    rig r;
    assert_true(rig_open_as(&r, shape, precision, "portable", 1));
    if (halved) rig_round(&r);
    *n = 2 * (size_t)p->rows + r.layout.total;
    float *expected = rlf_calloc(*n, sizeof *expected);
    train_once(&r, p, ALL, expected);
    rig_close(&r);
    return expected;
}

/* sqrt of the sum of (a - b)^2 over that of b^2. */
static double relative_distance(const float *a, const float *b, size_t n) {
    double apart = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        apart += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(apart / size);
}

/* Log-probs and entropies within 0.4 %, the gradient within 2 %: what a few products allow whose factors are rounded to 8 bits, which is
 * wrong by up to 2^-9, 0.2 %. */
static void assert_near(const pack *p, const float *got, const float *expected, size_t n) {
    const size_t rows = (size_t)p->rows;
    const double logprobs = relative_distance(got, expected, rows), entropies = relative_distance(got + rows, expected + rows, rows);
    const double gradients = relative_distance(got + 2 * rows, expected + 2 * rows, n - 2 * rows);
    if (!(logprobs < 0.004 && entropies < 0.004 && gradients < 0.02))
        fail_msg("relative distances: log-probs %g, entropies %g, gradients %g", logprobs, entropies, gradients);
}

static const kern_precision FLOATS = {RLF_DTYPE_F32, RLF_DTYPE_F32}, STORED = {RLF_DTYPE_BF16, RLF_DTYPE_F32},
                            ROUNDED = {RLF_DTYPE_BF16, RLF_DTYPE_BF16};

/* Weights stored as bfloat16 whose factors are float32 give what a float32 model of the same numbers gives. */
static void check_backends(rlf_model_shape shape, kern_precision precision) {
    const char *isas[] = {"avx512bf16", "avx512", "avx2", "portable"};
    const int lengths[] = {37, 1, 18, 64, 5}, threads[] = {1, 2, 4};
    const schedule plans[] = {{1, 1, 16}, {1, 2, 32}, {1, 3, 64}, {1, 4, 16}, {1, 5, 32}, {3, 4, 16}}; /* steps of 1 to 12 rows */
    pack p = pack_new(lengths, 5, shape.vocab);
    const bool rounded = precision.factors == RLF_DTYPE_BF16, stored = precision.stored == RLF_DTYPE_BF16 && !rounded;
    size_t n;
    float *of_cpu = expected_of(&shape, stored ? FLOATS : precision, stored, &p, &n), *of_cards = NULL, *got = rlf_calloc(n, sizeof *got);
    int compared = 0;
    for (int i = !rounded; i < 4; i++) { /* the first differs from the second with bfloat16 factors alone */
        for (int t = 0; t < 3; t++) {
            rig r;
            if (!rig_open_as(&r, &shape, precision, isas[i], threads[t])) continue;
            train_once(&r, &p, (keeping)t, got); /* computing layers again changes nothing */
            const bool tensor_cores = rounded && is_card(r.device);
            if (tensor_cores && !of_cards) {
                assert_near(&p, got, of_cpu, n);
                of_cards = memcpy(rlf_calloc(n, sizeof *got), got, n * sizeof *got);
            }
            const float *expected = tensor_cores ? of_cards : of_cpu;
            same_bits(kern_device_name(r.device), &p, got, expected);
            assert_memory_equal(got, expected, n * sizeof *got);
            for (size_t k = 0; k < sizeof plans / sizeof plans[0]; k += on_cards() ? 5 : 1) check_decoder(&r, &p, expected, plans[k]);
            rig_close(&r);
            compared++;
        }
    }
    assert_true(compared >= (on_cards() ? 2 : 3));
    free(of_cpu);
    free(of_cards);
    free(got);
    pack_free(&p);
}

static void threads_and_instruction_sets_give_the_same_logprobs_entropies_and_gradients(void **state) {
    (void)state;
    check_backends(even_shape(), FLOATS);
    check_backends(odd_shape(), FLOATS);
}

static void with_weights_stored_as_bfloat16_they_are_those_of_the_same_numbers_in_float32(void **state) {
    (void)state;
    check_backends(even_shape(), STORED);
    check_backends(odd_shape(), STORED);
}

static void with_bfloat16_factors_they_are_the_same_as_each_other_too(void **state) {
    (void)state;
    check_backends(even_shape(), ROUNDED);
    check_backends(odd_shape(), ROUNDED);
}

static void bfloat16_factors_stay_near_float32_factors_of_the_same_numbers(void **state) {
    const int lengths[] = {37, 1, 18, 64, 5};
    (void)state;
    for (int i = 0; i < 2; i++) {
        rlf_model_shape shape = i ? odd_shape() : even_shape();
        pack p = pack_new(lengths, 5, shape.vocab);
        size_t n;
        float *exact = expected_of(&shape, FLOATS, true, &p, &n), *got = expected_of(&shape, ROUNDED, false, &p, &n);
        assert_near(&p, got, exact, n);
        assert_true(relative_distance(got, exact, (size_t)p.rows) > 1e-5); /* they are rounded */
        free(exact);
        free(got);
        pack_free(&p);
    }
}

static void attention_by_tiles_gives_the_same_bits_to_decoder_and_trainer_in_every_order_of_threads(void **state) {
    (void)state;
    const char *isas[] = {"avx2", "avx2", "avx512", "portable"};
    const int lengths[] = {70, 1, 17, 66}, threads[] = {1, 3, 1, 2};
    const schedule plans[] = {{1, 4, 16}, {37, 3, 32}, {70, 4, 48}};
    rlf_model_shape shape = tiles_shape();
    pack p = pack_new(lengths, 4, shape.vocab);
    float *expected = NULL, *got = NULL;
    for (int i = 0; i < 4; i++) {
        rig r;
        if (!rig_open(&r, &shape, RLF_DTYPE_BF16, isas[i], threads[i])) continue;
        const size_t n = 2 * (size_t)p.rows + r.layout.total;
        got = rlf_realloc(got, n, sizeof *got);
        train_once(&r, &p, (keeping)(i % 3), got);
        if (!expected) expected = memcpy(rlf_calloc(n, sizeof *got), got, n * sizeof *got);
        assert_memory_equal(got, expected, n * sizeof *got);
        for (int k = 0; k < 2; k++) check_decoder(&r, &p, expected, plans[(i + k) % 3]);
        rig_close(&r);
    }
    assert_non_null(expected);
    free(expected);
    free(got);
    pack_free(&p);
}

/* ---- what was sampled is what is trained on ---------------------------------------------------------------------------------------- */

enum { GROUP = 6, PROMPT = 21, DRAWN = 30, PAGE = 16 };

static int slot_of(int sample, int pos, int max_pages) { return (sample * max_pages + pos / PAGE) * PAGE + pos % PAGE; }

/* The prompt goes through once, as sample 0; its pages are copied for the others. */
static void prefill_group(kern_decoder *decoder, const int32_t *prompt, const int32_t *page_table, int max_pages) {
    int32_t pos[PROMPT], seq[PROMPT] = {0}, slots[PROMPT];
    for (int i = 0; i < PROMPT; i++) {
        pos[i] = i;
        slots[i] = slot_of(0, i, max_pages);
    }
    kern_step step = {.rows = PROMPT, .tokens = prompt, .pos = pos, .seq = seq, .slots = slots, .max_pages = max_pages,
                      .page_table = page_table};
    assert_ok(kern_decoder_step(decoder, &step));
    for (int s = 1; s < GROUP; s++)
        for (int page = 0; page * PAGE < PROMPT; page++) kern_decoder_copy_page(decoder, s * max_pages + page, page);
}

/* The draw after position `at`, to the sequences' tokens and log-probs. */
static void collect(kern_decoder *decoder, pack *p, float *rollout, int length, int at) {
    int32_t ids[GROUP];
    float logprobs[GROUP];
    assert_ok(kern_decoder_collect(decoder, ids, logprobs));
    for (int s = 0; s < GROUP; s++) {
        p->tokens[s * length + at + 1] = ids[s];
        rollout[s * length + at] = logprobs[s];
    }
}

/* Each step is queued before the draws of the one before are collected. */
static void check_sampled(rig *r, kern_filter filter) {
    enum { LENGTH = PROMPT + DRAWN, MAX_PAGES = (LENGTH + PAGE - 1) / PAGE };
    int lengths[GROUP];
    int32_t page_table[GROUP * MAX_PAGES], pos[GROUP], seq[GROUP], slots[GROUP], last[GROUP];
    float *rollout = rlf_calloc(2 * GROUP * LENGTH, sizeof *rollout), *trained = rollout + GROUP * LENGTH;
    kern_sample_key keys[GROUP];
    kern_decoder *decoder;
    kern_decoder_options options = {.page_size = PAGE, .pages = GROUP * MAX_PAGES, .max_pages = MAX_PAGES, .max_rows = PROMPT,
                                    .max_outputs = GROUP};
    for (int s = 0; s < GROUP; s++) lengths[s] = LENGTH;
    for (int i = 0; i < GROUP * MAX_PAGES; i++) page_table[i] = i;
    pack p = pack_new(lengths, GROUP, r->layout.shape.vocab);
    for (int s = 1; s < GROUP; s++) memcpy(p.tokens + s * LENGTH, p.tokens, PROMPT * sizeof(int32_t));
    assert_ok(kern_decoder_new(&decoder, r->model, &options));
    prefill_group(decoder, p.tokens, page_table, MAX_PAGES);
    for (int at = PROMPT - 1; at + 1 < LENGTH; at++) { /* the prompt's last token is fed again to get its logits */
        for (int s = 0; s < GROUP; s++) {
            last[s] = at < PROMPT ? p.tokens[s * LENGTH + at] : KERN_DRAWN(s);
            pos[s] = at;
            seq[s] = s;
            slots[s] = slot_of(s, at, MAX_PAGES);
            keys[s] = (kern_sample_key){.uid = 5, .sample = (uint32_t)s, .position = (uint32_t)at + 1};
        }
        kern_step step = {.rows = GROUP, .tokens = last, .pos = pos, .seq = seq, .slots = slots, .max_pages = MAX_PAGES,
                          .page_table = page_table, .outputs = GROUP, .output_rows = seq};
        assert_ok(kern_decoder_step(decoder, &step));
        kern_decoder_draw(decoder, filter, 99, keys);
        if (at >= PROMPT) collect(decoder, &p, rollout, LENGTH, at - 1);
    }
    collect(decoder, &p, rollout, LENGTH, LENGTH - 2);
    for (int i = 0; i < p.rows; i++) p.targets[i] = i % LENGTH >= PROMPT - 1 && i % LENGTH + 1 < LENGTH ? p.tokens[i + 1] : -1;
    by_trainer(r, &p, filter, 0, trained, NULL);
    same_bits("sampled log-prob", &p, trained, rollout);
    kern_decoder_destroy(decoder);
    pack_free(&p);
    free(rollout);
}

static void training_sees_the_very_logprobs_sampling_had(void **state) {
    (void)state;
    const rlf_model_shape shapes[] = {even_shape(), even_shape(), tiles_shape()};
    for (int i = 0; i < 3; i++) {
        rig r;
        assert_true(rig_open(&r, &shapes[i], i ? RLF_DTYPE_BF16 : RLF_DTYPE_F32, NULL, 2));
        check_sampled(&r, PLAIN);
        check_sampled(&r, KEPT);
        check_sampled(&r, (kern_filter){.temperature = 0, .top_p = 1, .top_k = 0});
        rig_close(&r);
    }
}

/* ---- decoding alone and together: one graph for each number of rows, on a card ------------------------------------------------------- */

enum { TOGETHER = 5, ROWS = TOGETHER + 1, FAR = 1100 }; /* rows that are decoded, and a neighbour of the last; positions of the model */

/* A sequence each, whose keys are zero but where the test decodes, in pages from the pool's end on. */
typedef struct decoded {
    int32_t tokens[ROWS], pos[ROWS], seq[ROWS], slots[ROWS], *page_table;
    int max_pages;
} decoded;

static void set_pages(decoded *d, int max_pages, int pages) {
    d->max_pages = max_pages;
    for (int i = 0; i < ROWS * max_pages; i++) {
        const int page = i / max_pages * (pages / ROWS) + i % max_pages;
        d->page_table[i] = i % max_pages < pages / ROWS ? pages - 1 - page : 0;
    }
    for (int i = 0; i < ROWS; i++) d->slots[i] = d->page_table[i * max_pages + d->pos[i] / PAGE] * PAGE + d->pos[i] % PAGE;
}

static void run_decoded(kern_decoder *decoder, const decoded *d, int first, int rows, int outputs, float *logits) {
    const int32_t all[TOGETHER] = {0, 1, 2, 3, 4};
    kern_step step = {.rows = rows, .tokens = d->tokens + first, .pos = d->pos + first, .seq = d->seq + first, .slots = d->slots + first,
                      .max_pages = d->max_pages, .page_table = d->page_table, .outputs = outputs, .output_rows = all};
    assert_ok(kern_decoder_step(decoder, &step));
    assert_ok(kern_decoder_logits(decoder, logits));
}

/* All together, and in each smaller number, all logits wanted; against each with a neighbour whose logits are not wanted: no graph. */
static void check_decoded(kern_decoder *decoder, const decoded *d, int vocab) {
    const size_t row = (size_t)vocab, bytes = row * sizeof(float);
    float *logits = rlf_calloc(2 * TOGETHER * row, sizeof *logits), *one = logits + TOGETHER * row;
    for (int rows = TOGETHER; rows > 0; rows--)
        for (int again = 0; again < 2; again++) {
            run_decoded(decoder, d, 0, rows, rows, logits);
            for (int i = 0; i < rows; i++) {
                run_decoded(decoder, d, i, 2, 1, one);
                if (memcmp(logits + (size_t)i * row, one, bytes)) fail_msg("row %d of %d", i, rows);
            }
        }
    free(logits);
}

static void check_graphs(const rlf_model_shape *shape, rlf_dtype dtype) {
    enum { PAGES = (FAR + PAGE - 1) / PAGE };
    rig r;
    kern_model *model;
    kern_decoder *decoder;
    int32_t table[ROWS * (PAGES + 1)];
    decoded d = {{3, 14, 15, 9, 26, 5}, {0, 16, 1022, 40, 255, 7}, {0, 1, 2, 3, 4, 5}, {0}, table, 0};
    kern_decoder_options options = {.page_size = PAGE, .pages = ROWS * PAGES, .max_pages = PAGES + 1, .max_rows = 7,
                                    .max_outputs = TOGETHER};
    assert_true(rig_open(&r, shape, dtype, NULL, 2));
    assert_ok(kern_model_new(&model, r.queue, &r.layout, (kern_precision){dtype, dtype}, FAR));
    kern_copy(r.queue, kern_model_params(model), kern_model_params(r.model), r.layout.total);
    assert_ok(kern_decoder_new(&decoder, model, &options));
    for (int step = 0; step < 4; step++) {
        set_pages(&d, PAGES + (step > 2), options.pages);
        check_decoded(decoder, &d, shape->vocab);
        for (int i = 0; i < ROWS; i++) d.pos[i]++;
    }
    kern_decoder_destroy(decoder);
    kern_model_destroy(model);
    rig_close(&r);
}

static void rows_decoded_together_have_the_bits_they_have_alone_on_both_sides_of_a_split(void **state) {
    (void)state;
    const rlf_model_shape even = even_shape(), tiles = tiles_shape();
    check_graphs(&even, RLF_DTYPE_F32);
    check_graphs(&tiles, RLF_DTYPE_BF16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoder_equals_trainer_at_every_chunk_batch_and_page_size),
        cmocka_unit_test(decoder_equals_trainer_when_no_size_is_a_multiple_of_sixteen),
        cmocka_unit_test(packed_equals_alone_for_every_head_chunk),
        cmocka_unit_test(threads_and_instruction_sets_give_the_same_logprobs_entropies_and_gradients),
        cmocka_unit_test(with_weights_stored_as_bfloat16_they_are_those_of_the_same_numbers_in_float32),
        cmocka_unit_test(with_bfloat16_factors_they_are_the_same_as_each_other_too),
        cmocka_unit_test(bfloat16_factors_stay_near_float32_factors_of_the_same_numbers),
        cmocka_unit_test(attention_by_tiles_gives_the_same_bits_to_decoder_and_trainer_in_every_order_of_threads),
        cmocka_unit_test(training_sees_the_very_logprobs_sampling_had),
        cmocka_unit_test(rows_decoded_together_have_the_bits_they_have_alone_on_both_sides_of_a_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
