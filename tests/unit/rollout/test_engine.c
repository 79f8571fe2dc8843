/* The engine over a model that checks every cache read (fake_model.h): the same tokens whatever the schedule. */
#include "fake_model.h"

enum { GROUPS = 5, SAMPLES = 3, SEQS = GROUPS * SAMPLES, LONGEST = 120 };

typedef struct reader {
    rollout_seq *seq;
    int wanted, pauses; /* tokens to draw; times it pauses on the way */
    int paused_for;     /* steps left; 0: not paused */
    int tool_steps;     /* how long a tool takes */
    bool done;
    int32_t tokens[LONGEST];
    float logprobs[LONGEST];
    size_t n;
} reader;

static void finish_reader(reader *r) {
    r->n = rollout_seq_tokens(r->seq)->n;
    memcpy(r->tokens, rollout_seq_tokens(r->seq)->v, r->n * sizeof *r->tokens);
    memcpy(r->logprobs, rollout_seq_logprobs(r->seq), r->n * sizeof *r->logprobs);
    rollout_seq_close(r->seq);
    r->done = true;
}

static rlf_status on_token(void *owner, rollout_seq *seq, int32_t id, float logprob) {
    (void)id;
    (void)logprob;
    reader *r = owner;
    if (--r->wanted == 0) finish_reader(r);
    else if (r->wanted % 7 == 0 && r->pauses-- > 0) {
        rollout_seq_pause(seq);
        r->paused_for = r->tool_steps;
    }
    return RLF_OK;
}

typedef struct schedule {
    int batch, chunk, page_size, pages, seats, tool_steps;
    bool ahead;
} schedule;

static void submit(rollout_engine *e, reader *readers, int tool_steps) {
    for (int g = 0; g < GROUPS; g++) {
        int32_t ids[40];
        size_t n = (size_t[]){1, 16, 17, 33, 40}[g];
        for (size_t i = 0; i < n; i++) ids[i] = (int32_t)(fake_mix((uint64_t)g * 100 + i) % 200);
        rollout_prompt *prompt = rollout_prompt_new(e, ids, n);
        for (uint32_t s = 0; s < SAMPLES; s++) {
            reader *r = &readers[g * SAMPLES + (int)s];
            *r = (reader){.wanted = 10 + 5 * (int)s + g, .pauses = 2, .tool_steps = tool_steps + (int)s};
            rollout_draw draw = {.uid = (uint64_t)g, .sample = s, .seed = g == 4 ? 8 : 7,
                                 .filter = {.temperature = g == 2 ? 0.5f : 1, .top_p = 1}};
            r->seq = rollout_seq_open(e, prompt, draw, on_token, r);
        }
        rollout_prompt_release(prompt);
    }
}

static bool tools(reader *readers, rollout_engine *e) {
    bool alive = false;
    for (int i = 0; i < SEQS; i++) {
        reader *r = &readers[i];
        alive = alive || !r->done;
        if (r->done || !r->paused_for) continue;
        if (--r->paused_for && rollout_engine_ready(e)) continue;
        const int32_t answer[] = {1, 2, 3, 4, 5, (int32_t)(r->wanted)};
        r->paused_for = 0;
        rollout_seq_append(r->seq, answer, 6);
        rollout_seq_resume(r->seq);
    }
    return alive;
}

static rollout_engine_stats run(schedule s, reader *readers) {
    fake_model *model = fake_new(s.page_size, s.pages, 256);
    rollout_engine_options options = {.batch = s.batch, .prefill_chunk = s.chunk, .page_size = s.page_size, .pages = s.pages,
                                      .seats = s.seats, .max_tokens = LONGEST};
    rollout_engine *e = NULL;
    model->ahead = s.ahead;
    assert_ok(rollout_engine_new(&e, fake_model_of(model), &options));
    submit(e, readers, s.tool_steps);
    for (int i = 0; tools(readers, e); i++) {
        assert_true(i < 100000);
        assert_ok(rollout_engine_step(e));
    }
    assert_true(model->most_rows <= s.batch);
    rollout_engine_stats stats = *rollout_engine_statistics(e);
    rollout_engine_destroy(e); /* asserts that every page came back */
    fake_destroy(model);
    return stats;
}

static void assert_same(const reader *a, const reader *b) {
    for (int i = 0; i < SEQS; i++) {
        assert_int_equal(a[i].n, b[i].n);
        assert_memory_equal(a[i].tokens, b[i].tokens, a[i].n * sizeof *a[i].tokens);
        assert_memory_equal(a[i].logprobs, b[i].logprobs, a[i].n * sizeof *a[i].logprobs);
    }
}

static const schedule roomy = {256, 64, 16, 400, 64, 3, false};

static void tokens_do_not_depend_on_the_schedule(void **state) {
    (void)state;
    static reader first[SEQS], other[SEQS];
    schedule schedules[] = {{1, 1, 16, 400, 1, 1, false},   {7, 3, 16, 400, 5, 9, false},  {64, 16, 32, 100, 3, 2, false},
                            {16, 200, 48, 60, 64, 1, false}, {3, 64, 16, 400, 15, 30, false}, {256, 64, 64, 64, 2, 1, false}};
    const size_t n = sizeof schedules / sizeof schedules[0];
    run(roomy, first);
    for (size_t i = 0; i < 2 * n; i++) {
        schedules[i % n].ahead = i >= n;
        run(schedules[i % n], other);
        assert_same(first, other);
    }
}

static void tokens_do_not_depend_on_cache_pressure(void **state) {
    (void)state;
    static reader first[SEQS], other[SEQS];
    run(roomy, first);
    for (int pages = 9; pages < 40; pages += 3)
        for (int seats = 1; seats <= 9; seats += 4)
            for (int batch = 1; batch <= 33; batch += 16) {
                rollout_engine_stats stats = run((schedule){batch, 11, 16, pages, seats, 5, false}, other);
                assert_same(first, other);
                run((schedule){batch, 11, 16, pages, seats, 5, true}, other);
                assert_same(first, other);
                if (pages == 9 && seats > 1 && batch > 1) assert_true(stats.given_up > 0);
            }
}

/* Sequences with long answers, which fill the smallest cache there may be; after each answer they draw a few tokens more. */
enum { LONG_SEQS = 12, LONG_TOKENS = 400, LONG_PAGES = LONG_TOKENS / 16 };

typedef struct long_reader {
    rollout_seq *seq; /* NULL: done */
    uint64_t seed;
    int until_answer; /* tokens */
    int waits;        /* steps; 0: for nothing */
} long_reader;

static int drawn(long_reader *r, int n) { return (int)((r->seed = fake_mix(r->seed)) % (uint64_t)n); }

static rlf_status on_long_token(void *owner, rollout_seq *seq, int32_t id, float logprob) {
    (void)id, (void)logprob;
    long_reader *r = owner;
    if (rollout_seq_tokens(seq)->n >= LONG_TOKENS - 1) {
        rollout_seq_close(seq);
        r->seq = NULL;
    } else if (r->until_answer-- == 0) {
        rollout_seq_pause(seq);
        r->waits = 1 + drawn(r, 12);
    }
    return RLF_OK;
}

static void answer_long(long_reader *r) {
    int32_t ids[LONG_TOKENS];
    size_t room = LONG_TOKENS - 1 - rollout_seq_tokens(r->seq)->n, n = 1 + (size_t)drawn(r, 150);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)(fake_mix(i) % 200);
    if (room) rollout_seq_append(r->seq, ids, n < room ? n : room);
    rollout_seq_resume(r->seq);
    r->until_answer = 1 + drawn(r, 30);
}

static void run_long(uint64_t seed, int batch, int chunk) {
    long_reader readers[LONG_SEQS];
    fake_model *model = fake_new(16, LONG_PAGES + 1, 256);
    rollout_engine_options options = {.batch = batch, .prefill_chunk = chunk, .page_size = 16, .pages = LONG_PAGES + 1, .seats = LONG_SEQS,
                                      .max_tokens = LONG_TOKENS};
    rollout_engine *e = NULL;
    bool alive = true;
    assert_ok(rollout_engine_new(&e, fake_model_of(model), &options));
    for (int i = 0; i < LONG_SEQS; i++) {
        const int32_t ids[] = {1, 2, (int32_t)i};
        rollout_prompt *prompt = rollout_prompt_new(e, ids, 3);
        readers[i] = (long_reader){.seed = seed * 100 + (uint64_t)i, .until_answer = i};
        readers[i].seq = rollout_seq_open(e, prompt, (rollout_draw){.uid = (uint64_t)i, .seed = 7, .filter = {.temperature = 1, .top_p = 1}},
                                          on_long_token, &readers[i]);
        rollout_prompt_release(prompt);
    }
    for (int steps = 0; alive; steps++) {
        alive = false;
        assert_true(steps < 200000);
        assert_ok(rollout_engine_step(e));
        for (int i = 0; i < LONG_SEQS; i++) {
            alive = alive || readers[i].seq;
            if (readers[i].seq && readers[i].waits && --readers[i].waits == 0) answer_long(&readers[i]);
        }
    }
    rollout_engine_destroy(e);
    fake_destroy(model);
}

static void somebody_gets_on_in_the_smallest_cache(void **state) {
    static const int shapes[][2] = {{1, 1}, {1, 64}, {2, 1}, {2, 64}, {8, 7}, {8, 64}};
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_long(seed, shapes[i][0], shapes[i][1]);
}

static void prompt_of_a_group_is_computed_once(void **state) {
    (void)state;
    static reader readers[SEQS];
    rollout_engine_stats stats = run(roomy, readers);
    assert_int_equal(stats.prompt_rows, 0 + 15 + 16 + 32 + 39);
    assert_int_equal(stats.given_up, 0);
}

/* Ahead, a step is queued while the draws of the one before are not known: those that turn out to be for nobody are not counted, and cost
 * a row for each pause and each end. */
static void steps_ahead_cost_a_row_for_each_turn(void **state) {
    (void)state;
    static reader readers[SEQS];
    schedule ahead = roomy;
    ahead.ahead = true;
    rollout_engine_stats one = run(roomy, readers), other = run(ahead, readers);
    assert_int_equal(one.tokens, other.tokens);
    assert_in_range(other.rows, one.rows + 1, one.rows + 2 * SEQS * 3);
    assert_int_equal(one.prompt_rows, other.prompt_rows);
}

static void log_probs_are_zero_where_the_model_did_not_choose(void **state) {
    (void)state;
    static reader readers[SEQS];
    run(roomy, readers);
    const reader *r = &readers[SAMPLES]; /* prompt of 16 tokens, 11 drawn, 2 pauses at most */
    size_t zeros = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (i < 16) assert_true(r->logprobs[i] == 0);
        zeros += r->logprobs[i] == 0;
    }
    assert_int_equal(r->n - zeros, 11);
}

/* A sequence that draws its last token, and has no room for another, is not taken further ahead. */
static void sequences_that_end_at_their_longest_cost_no_row_ahead(void **state) {
    enum { PROMPT = 16 };
    int64_t rows[2];
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) {
        fake_model *model = fake_new(16, 16, 256);
        rollout_engine_options options = {.batch = 8, .prefill_chunk = 8, .page_size = 16, .pages = 16, .seats = 4, .max_tokens = 48};
        rollout_engine *e = NULL;
        reader readers[3];
        int32_t ids[PROMPT] = {0};
        model->ahead = ahead;
        assert_ok(rollout_engine_new(&e, fake_model_of(model), &options));
        rollout_prompt *prompt = rollout_prompt_new(e, ids, PROMPT);
        for (int i = 0; i < 3; i++) {
            readers[i] = (reader){.wanted = options.max_tokens - PROMPT};
            rollout_draw draw = {.uid = (uint64_t)i, .filter = {1, 1, 0}};
            readers[i].seq = rollout_seq_open(e, prompt, draw, on_token, &readers[i]);
        }
        rollout_prompt_release(prompt);
        while (rollout_engine_ready(e)) assert_ok(rollout_engine_step(e));
        for (int i = 0; i < 3; i++) assert_true(readers[i].done && readers[i].n == (size_t)options.max_tokens);
        rows[ahead] = rollout_engine_statistics(e)->rows;
        rollout_engine_destroy(e);
        fake_destroy(model);
    }
    assert_int_equal(rows[0], rows[1]);
}

/* Whenever it fails, with pages scarce: what there is can be closed. */
static void a_failure_of_the_model_leaves_what_can_be_closed(void **state) {
    (void)state;
    static reader readers[SEQS];
    int failures = 0;
    for (int fails_in = 1; fails_in < 200; fails_in++)
        for (int ahead = 0; ahead < 2; ahead++) {
            fake_model *model = fake_new(16, 12, 256);
            rollout_engine_options options = {.batch = 17, .prefill_chunk = 11, .page_size = 16, .pages = 12, .seats = 5, .max_tokens = LONGEST};
            rollout_engine *e = NULL;
            rlf_status status = RLF_OK;
            model->ahead = ahead;
            model->fails_in = fails_in;
            assert_ok(rollout_engine_new(&e, fake_model_of(model), &options));
            submit(e, readers, 3);
            while (status == RLF_OK && tools(readers, e)) status = rollout_engine_step(e);
            failures += status == RLF_DEVICE;
            for (int i = 0; i < SEQS; i++) {
                if (!readers[i].done) assert_int_equal(status, RLF_DEVICE);
                if (!readers[i].done) rollout_seq_close(readers[i].seq);
            }
            rollout_engine_destroy(e);
            fake_destroy(model);
        }
    assert_true(failures > 50);
}

/* Three sequences and one seat. Each draws a token, waits for no time, draws another, and is over. */
typedef struct turns { rollout_seq *seq; char name; int drawn; char *order; } turns;

static rlf_status on_turn(void *owner, rollout_seq *seq, int32_t id, float logprob) {
    (void)id;
    (void)logprob;
    turns *t = owner;
    t->order[strlen(t->order)] = t->name;
    if (++t->drawn == 2) {
        rollout_seq_close(seq);
    } else {
        rollout_seq_pause(seq);
        rollout_seq_append(seq, &(int32_t){1}, 1);
        rollout_seq_resume(seq);
    }
    return RLF_OK;
}

static void assert_seats(int pages, const char *expected) {
    fake_model *model = fake_new(16, pages, 256);
    rollout_engine_options options = {.batch = 4, .prefill_chunk = 4, .page_size = 16, .pages = pages, .seats = 1, .max_tokens = LONGEST};
    rollout_engine *e = NULL;
    turns all[3];
    char order[8] = "";
    assert_ok(rollout_engine_new(&e, fake_model_of(model), &options));
    rollout_prompt *prompt = rollout_prompt_new(e, (int32_t[]){1, 2}, 2);
    for (int i = 0; i < 3; i++) {
        all[i] = (turns){.name = (char)('a' + i), .order = order};
        all[i].seq = rollout_seq_open(e, prompt, (rollout_draw){.uid = (uint64_t)i, .filter = {1, 1, 0}}, on_turn, &all[i]);
    }
    rollout_prompt_release(prompt);
    while (rollout_engine_ready(e)) assert_ok(rollout_engine_step(e));
    assert_string_equal(order, expected);
    rollout_engine_destroy(e);
    fake_destroy(model);
}

static void seats_go_to_those_with_the_fewest_rounds_while_the_cache_has_room(void **state) {
    (void)state;
    assert_seats(24, "abcabc"); /* room for three at their longest, 8 pages each */
    assert_seats(23, "abacbc"); /* for two: the third begins when the first has ended */
    assert_seats(9, "aabbcc");
}

static void pool_too_small_for_one_sequence_is_refused(void **state) {
    (void)state;
    rollout_engine_options options = {.batch = 4, .prefill_chunk = 4, .page_size = 16, .pages = 8, .seats = 4, .max_tokens = LONGEST};
    rollout_engine *e = NULL;
    assert_error(rollout_engine_new(&e, (rollout_model){0}, &options), RLF_LIMIT, "rollout.cache_tokens");
    options.pages = 9;
    assert_ok(rollout_engine_new(&e, (rollout_model){0}, &options));
    rollout_engine_destroy(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_do_not_depend_on_the_schedule),
        cmocka_unit_test(tokens_do_not_depend_on_cache_pressure),
        cmocka_unit_test(somebody_gets_on_in_the_smallest_cache),
        cmocka_unit_test(prompt_of_a_group_is_computed_once),
        cmocka_unit_test(steps_ahead_cost_a_row_for_each_turn),
        cmocka_unit_test(sequences_that_end_at_their_longest_cost_no_row_ahead),
        cmocka_unit_test(a_failure_of_the_model_leaves_what_can_be_closed),
        cmocka_unit_test(log_probs_are_zero_where_the_model_did_not_choose),
        cmocka_unit_test(seats_go_to_those_with_the_fewest_rounds_while_the_cache_has_room),
        cmocka_unit_test(pool_too_small_for_one_sequence_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
