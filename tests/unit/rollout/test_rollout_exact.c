/* Trajectories of a small random model: the same bits whatever the schedule, and the very log-probs that the learner computes.
 *
 * The model is real; a script forces some of its draws (a random model would hardly ever write a tool call), and their log-probs
 * are the model's own. */
#include "fake_service.h"

#include "common/model/checkpoint.h"

enum { LONGEST = 400, UIDS = 3, SAMPLES = 4 };

enum { FREE = '~' };

typedef struct forced {
    kern_decoder *decoder;
    fake_script scripts[UIDS * SAMPLES];
    int outputs; /* of the last step */
    kern_filter filter;          /* of its draw */
    const kern_sample_key *keys; /* (outputs) */
} forced;

typedef struct device {
    kern_device *device;
    kern_queue *queue;
    rlf_model_layout layout;
    kern_model *model;
    rlf_tokenizer *tokenizer;
    rlf_chat *chat;
    const char *const *texts; /* (4): what scripts force */
} device;

typedef struct schedule {
    int threads, batch, chunk, page_size, pages, seats;
    uint64_t shuffle;
} schedule;

typedef struct outcome {
    fake_service service;
    rollout_engine_stats stats;
} outcome;

static void ok(rlf_status status) {
    assert_ok(status);
}

/* A way to write calls, and turns of it. Where a script says FREE, the model's own draw stands. */
typedef struct format {
    const char *name;
    const char *texts[4];
} format;

static const format formats[] = {
    {"hermes",
     {"~~~~~~~~<tool_call>{\"name\":\"echo\",\"arguments\":{\"q\":\"Lima\"}}</tool_call><|im_end|>~~~~~~~~~~~~<answer>~</answer>",
      "~~<tool_call>{\"name\":\"long\",\"arguments\":{}}</tool_call><tool_call>{\"name\":\"echo\",\"arguments\":{}}</tool_call><|im_end|>~~~<|im_end|>",
      "<tool_call>{\"name\":\"echo\",\"arguments\":{}}</tool_call><|im_end|>~~<tool_call>oops<|im_end|>~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
      "~~~~~~~~~~~~~~~~~~~~~~~~"}},
    {"search-r1",
     {"~~~~~~~~<search>Lima</search>~~~~~~~~~~~~<answer>~</answer>",
      "~~<search>~~~~</search>~~~</search>~~~~<search>ab</search>~~~~~~<answer>a</answer>",
      "<think>~~~~</think><search>a</search>oops<|im_end|>~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
      "~~~~~~~~~~~~~~~~~~~~~~~~"}},
    {"tool-star",
     {"~~~~~~~~<search>Lima</search>~~~~<python>1</python>~~~~~~~~<answer>~</answer>",
      "~~<python>~~~~</python>~~~</search>~~~~<|im_end|>",
      "<think>~~~~</think><python>a</python>oops<search><|im_end|>~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
      "~~~~~~~~~~~~~~~~~~~~~~~~"}},
    {"fenced",
     {"~~~~~~~~\n```python\nLima\n```~~~~~~~~~~~~<answer>~</answer>",
      "~~\n```py\n~~~~\n```~~~\n```json\n```~~~~~~<|im_end|>",
      "<think>~~~~</think>\n```python\na\n```oops\n```python\n<|im_end|>~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
      "~~~~~~~~~~~~~~~~~~~~~~~~"}},
};
enum { FORMATS = sizeof formats / sizeof formats[0] };

static void device_init(device *d, const format *f, rlf_dtype dtype, int threads) {
    kern_device_options options = {.name = "cpu", .threads = threads};
    rlf_model_shape shape;
    ok(rlf_model_shape_named(&shape, "tiny"));
    assert_true(shape.vocab >= BYTE_VOCAB);
    rlf_model_layout_init(&d->layout, &shape);
    ok(kern_device_open(&d->device, &options));
    ok(kern_queue_new(&d->queue, d->device));
    ok(kern_model_new(&d->model, d->queue, &d->layout, (kern_precision){dtype, dtype}, LONGEST));
    void *weights = rlf_calloc(d->layout.total, rlf_dtype_size(dtype));
    rlf_checkpoint_random(&d->layout, 5, 0.06, dtype, weights); /* livelier than at the start of training */
    kern_upload(d->queue, kern_model_params(d->model), weights, d->layout.total);
    ok(kern_sync(d->queue));
    free(weights);
    d->tokenizer = byte_tokenizer();
    d->texts = f->texts;
    rlf_chat_options chat = {.name = "chatml", .tool_format = f->name, .search_call = "echo.q", .python_call = "long.q"};
    ok(rlf_chat_new(&d->chat, d->tokenizer, "", chat));
}

static void device_clean_up(device *d) {
    rlf_chat_destroy(d->chat);
    rlf_tokenizer_destroy(d->tokenizer);
    kern_model_destroy(d->model);
    kern_queue_destroy(d->queue);
    kern_device_close(d->device);
    rlf_model_layout_clean_up(&d->layout);
}

/* ---- the model with forced draws -------------------------------------------------------------------------------------------------- */

static rlf_status forced_step(void *ctx, const kern_step *step) {
    forced *f = ctx;
    f->outputs = step->outputs;
    return kern_decoder_step(f->decoder, step);
}
static void forced_copy_page(void *ctx, int dst_page, int src_page) {
    kern_decoder_copy_page(((forced *)ctx)->decoder, dst_page, src_page);
}

static fake_script *script_of(forced *f, const kern_sample_key *key) { return &f->scripts[key->uid * SAMPLES + key->sample]; }

/* Forced ids replace drawn ones, and kern_decoder_logprob gives all of them their log-probs: for drawn ones the bits of the draw itself. */
static void forced_draw(void *ctx, kern_filter filter, uint64_t seed, const kern_sample_key *keys) {
    forced *f = ctx;
    kern_decoder_draw(f->decoder, filter, seed, keys);
    f->filter = filter;
    f->keys = keys;
}

static rlf_status forced_collect(void *ctx, int32_t *ids, float *logprobs) {
    forced *f = ctx;
    float again[FAKE_OUTPUTS];
    ok(kern_decoder_collect(f->decoder, ids, logprobs));
    ok(kern_decoder_logprob(f->decoder, f->filter, ids, again));
    assert_memory_equal(again, logprobs, (size_t)f->outputs * sizeof *again);
    for (int o = 0; o < f->outputs; o++) {
        fake_script *s = script_of(f, &f->keys[o]);
        if (s->next >= s->ids.n) continue;
        int32_t id = s->ids.v[s->next++];
        if (id != FREE) ids[o] = id;
    }
    return kern_decoder_logprob(f->decoder, f->filter, ids, logprobs);
}

/* ---- one run ---------------------------------------------------------------------------------------------------------------------- */

static void submit_all(rollout_episodes *set, kern_filter filter) {
    static const char *const questions[UIDS] = {"?", "What is the capital of Peru, and why is it so?", "Seventeen"};
    for (int64_t uid = 0; uid < UIDS; uid++) {
        rlf_said prompt_message = {.role = rlf_slice_of("user"), .content = rlf_slice_of(questions[uid])};
        rlf_sampling sampling = {.temperature = (double)filter.temperature, .top_p = (double)filter.top_p, .top_k = filter.top_k};
        rlf_limits limits = {.turns = 3, .turn_tokens = 150, .observation_tokens = 40, .tokens = LONGEST};
        rlf_episode m = {.uid = uid, .samples = SAMPLES, .seed = 11, .prompt = {&prompt_message, 1}, .limits = {&limits, 1},
                         .sampling = {&sampling, 1}};
        ok(rollout_episodes_submit(set, &m));
    }
}

static outcome *play(device *d, schedule s, kern_filter filter) {
    outcome *o = rlf_calloc(1, sizeof *o);
    forced *f = rlf_calloc(1, sizeof *f);
    rollout_engine *engine = NULL;
    rollout_engine_options options = {.batch = s.batch, .prefill_chunk = s.chunk, .page_size = s.page_size, .pages = s.pages,
                                      .seats = s.seats, .max_tokens = LONGEST};
    rollout_episode_options episode = {.max_prompt_tokens = 200, .max_tokens = LONGEST, .max_calls = 3, .stop_at_answer = true};
    rollout_model model = {.ctx = f, .step = forced_step, .draw = forced_draw, .collect = forced_collect, .copy_page = forced_copy_page};
    ok(rollout_decoder_new(&f->decoder, d->model, &options));
    for (int i = 0; i < UIDS * SAMPLES; i++) byte_script(d->texts[i % 4], &f->scripts[i].ids);
    ok(rollout_engine_new(&engine, model, &options));
    o->service.shuffle = s.shuffle;
    rollout_episodes *set = rollout_episodes_new(engine, d->chat, &episode, (rollout_port){&o->service, service_send});
    submit_all(set, filter);
    for (uint64_t i = 0; rollout_episodes_alive(set); i++) {
        ok(rollout_episodes_step(set));
        if (rollout_engine_ready(engine) && (s.shuffle ^ i) % 3) continue; /* tools take their time */
        service_answer(&o->service, set);
    }
    o->stats = *rollout_engine_statistics(engine);
    rollout_episodes_destroy(set);
    rollout_engine_destroy(engine);
    kern_decoder_destroy(f->decoder);
    for (int i = 0; i < UIDS * SAMPLES; i++) rlf_ids_clean_up(&f->scripts[i].ids);
    free(f);
    assert_int_equal(o->service.n_trajectories, UIDS * SAMPLES);
    assert_true(o->service.calls > UIDS);
    return o;
}

static void outcome_destroy(outcome *o) {
    rlf_arena_clean_up(&o->service.arena);
    free(o);
}

static void assert_same(const outcome *a, const outcome *b) {
    for (int64_t uid = 0; uid < UIDS; uid++)
        for (int64_t s = 0; s < SAMPLES; s++) {
            const rlf_trajectory *x = service_trajectory(&a->service, uid, s), *y = service_trajectory(&b->service, uid, s);
            assert_int_equal(x->tokens.n, y->tokens.n);
            assert_memory_equal(x->tokens.v, y->tokens.v, x->tokens.n * sizeof *x->tokens.v);
            assert_memory_equal(x->logprobs.v, y->logprobs.v, x->tokens.n * sizeof *x->logprobs.v);
            assert_int_equal(x->spans.n, y->spans.n);
            assert_memory_equal(x->spans.v, y->spans.v, x->spans.n * sizeof *x->spans.v);
            assert_int_equal(x->finish, y->finish);
        }
}

static const schedule reference = {1, 64, 32, 16, 400, 64, 0};
static const kern_filter plain = {.temperature = 1, .top_p = 1};

static void check_schedules(const format *f) {
    const schedule schedules[] = {{1, 1, 1, 16, 400, 1, 1},    {1, 3, 5, 32, 100, 2, 2},   {2, 64, 128, 16, 400, 12, 3},
                                  {1, 17, 64, 64, 20, 5, 4},
                                  {1, 64, 32, 16, 27, 12, 5}, {2, 32, 7, 48, 10, 6, 6}, {1, 5, 11, 16, 40, 3, 7}};
    device d[2];
    device_init(&d[0], f, RLF_DTYPE_F32, 1);
    device_init(&d[1], f, RLF_DTYPE_F32, 2);
    outcome *first = play(&d[0], reference, plain);
    int64_t given_up = 0;
    for (size_t i = 0; i < sizeof schedules / sizeof schedules[0]; i++) {
        outcome *other = play(&d[schedules[i].threads - 1], schedules[i], plain);
        assert_same(first, other);
        given_up += other->stats.given_up;
        outcome_destroy(other);
    }
    assert_true(given_up > 0); /* some of them were short of pages */
    outcome_destroy(first);
    device_clean_up(&d[0]);
    device_clean_up(&d[1]);
}

static void trajectories_have_the_same_bits_under_any_schedule(void **state) {
    (void)state;
    for (int f = 0; f < FORMATS; f++) check_schedules(&formats[f]);
}

/* All trajectories of a run, packed one behind the other as the learner does it. */
static void check_learner(device *d, const outcome *o, kern_filter filter) {
    static int32_t tokens[UIDS * SAMPLES * LONGEST], targets[UIDS * SAMPLES * LONGEST], begin[UIDS * SAMPLES + 1];
    static float expected[UIDS * SAMPLES * LONGEST], found[UIDS * SAMPLES * LONGEST];
    kern_trainer *trainer = NULL;
    int rows = 0, model_tokens = 0;
    for (int i = 0; i < o->service.n_trajectories; i++) {
        const rlf_trajectory *t = &o->service.trajectories[i];
        begin[i] = rows;
        for (size_t k = 0; k < t->tokens.n; k++)
            tokens[rows + (int)k] = t->tokens.v[k], targets[rows + (int)k] = -1, expected[rows + (int)k] = 0;
        for (size_t s = 0; s < t->spans.n; s++)
            for (int64_t k = t->spans.v[s].begin; k < t->spans.v[s].end && t->spans.v[s].kind == RLF_SPAN_MODEL; k++, model_tokens++) {
                targets[rows + (int)k - 1] = t->tokens.v[k];
                expected[rows + (int)k - 1] = t->logprobs.v[k];
            }
        rows += (int)t->tokens.n;
        begin[i + 1] = rows;
    }
    kern_trainer_options options = {.max_tokens = rows, .max_seqs = UIDS * SAMPLES};
    kern_batch batch = {rows, o->service.n_trajectories, tokens, begin, targets};
    ok(kern_trainer_new(&trainer, d->model, &options));
    ok(kern_trainer_logprobs(trainer, d->model, &batch, filter, found, NULL));
    kern_trainer_destroy(trainer);
    assert_true(model_tokens > 300);
    assert_memory_equal(found, expected, (size_t)rows * sizeof *found);
}

static void check_filters(const format *f, rlf_dtype stored) {
    const kern_filter filters[] = {{1, 1, 0}, {0.7f, 1, 0}, {1.3f, 0.9f, 0}, {1, 1, 20}, {0.9f, 0.8f, 50}, {0, 1, 0}};
    device d;
    device_init(&d, f, stored, 2);
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        outcome *o = play(&d, (schedule){2, 33, 24, 16, 60, 9, i}, filters[i]);
        check_learner(&d, o, filters[i]);
        outcome_destroy(o);
    }
    device_clean_up(&d);
}

static void learner_computes_the_very_log_probs(void **state) {
    (void)state;
    for (int f = 0; f < FORMATS; f++) check_filters(&formats[f], RLF_DTYPE_F32);
    check_filters(&formats[0], RLF_DTYPE_BF16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trajectories_have_the_same_bits_under_any_schedule),
        cmocka_unit_test(learner_computes_the_very_log_probs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
