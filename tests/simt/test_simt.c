/* The shim finds what it says it finds: small kernels, some of them wrong on purpose, in a child process where they end it. */
#include "tests/test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/mma.h"
#include "tests/simt/cards.h"

enum { THREADS = 64, BLOCKS = 3 };

/* What every kernel here is given. */
typedef struct values {
    float *y;
    int n;
} values;
typedef values reversed_args, unguarded_args, diverging_args, two_places_args, half_warp_args, beyond_args, shared_beyond_args, summed_args;
typedef values unwritten_args, large_args, too_large_args, tensor_args, unaligned_rows_args;
typedef values copied_args, early_args, overtaken_args, unwaited_args, unaligned_copy_args;

typedef struct block_values {
    float x[THREADS];
} block_values;

/* Every thread gives its place, and takes that of the thread opposite. */
KERN_KERNEL(reversed) {
    KERN_SHARED(block_values, memory);
    memory->x[kern_thread()] = (float)(kern_block() * THREADS + kern_thread());
    kern_barrier();
    a.y[kern_block() * THREADS + kern_thread()] = memory->x[THREADS - 1 - kern_thread()];
}

KERN_KERNEL(unguarded) {
    KERN_SHARED(block_values, memory);
    memory->x[kern_thread()] = (float)(kern_block() * THREADS + kern_thread());
    a.y[kern_block() * THREADS + kern_thread()] = memory->x[THREADS - 1 - kern_thread()];
}

KERN_KERNEL(unwritten) {
    KERN_SHARED(block_values, memory);
    a.y[kern_block() * THREADS + kern_thread()] = memory->x[kern_thread()];
}

KERN_KERNEL(summed) {
    a.y[kern_block() * THREADS + kern_thread()] = kern_sum16((float)kern_lane());
}

KERN_KERNEL(diverging) {
    if (kern_thread() < a.n) kern_barrier();
}

KERN_KERNEL(two_places) {
    if (kern_thread() < a.n)
        kern_barrier();
    else
        kern_barrier();
}

KERN_KERNEL(half_warp) {
    if (kern_thread() < a.n) a.y[kern_thread()] = kern_shuffle_xor(1.0f, 1);
}

KERN_KERNEL(beyond) { a.y[a.n + kern_thread()] = 1.0f; }

KERN_KERNEL(shared_beyond) {
    KERN_SHARED(block_values, memory);
    memory->x[kern_thread() + a.n] = 1.0f;
}

/* As much shared memory as the launch gives. */
KERN_KERNEL(large) {
    KERN_SHARED_BYTES(block_values, memory);
    char *last = (char *)memory + a.n - 1;
    if (kern_thread() == 0) *last = (char)kern_block();
    kern_barrier();
    a.y[kern_block() * THREADS + kern_thread()] = (float)*last;
}

typedef struct much {
    char x[(48 << 10) + 1];
} much;
KERN_KERNEL(too_large) {
    KERN_SHARED(much, memory);
    memory->x[a.n + kern_thread()] = 0;
}

/* ---- tensor cores: A (16,16) by B (16,8) */

typedef struct matrices {
    uint16_t a[16][16], b_columns[8][16], b_rows[16][8];
} matrices;

static float a_of(int n, int row, int d) { return (float)(n == 2 ? d < 3 : (row * 3 + d * 5) % 17 - 8); }
static float b_of(int n, int d, int col) { return (float)(n == 2 ? 1 : (d * 7 + col * 11) % 13 - 6); }
static float c_of(int n, int row, int col) { return n == 2 ? 0x1p24f : (float)(row - 2 * col); }

KERN_KERNEL(tensor) {
    KERN_SHARED(matrices, memory);
    const int lane = kern_thread() % 32, g = lane / 4, t = lane % 4;
    uint32_t fa[4], fb[4];
    float c[4];
    for (int i = kern_thread(); i < 16 * 16; i += THREADS) memory->a[i / 16][i % 16] = kern_bf16_of_float(a_of(a.n, i / 16, i % 16));
    for (int i = kern_thread(); i < 16 * 8; i += THREADS)
        memory->b_rows[i / 8][i % 8] = memory->b_columns[i % 8][i / 8] = kern_bf16_of_float(b_of(a.n, i / 8, i % 8));
    kern_barrier();
    kern_ldmatrix_x4(fa, &memory->a[lane % 16][lane / 16 * 8]);
    if (a.n == 1)
        kern_ldmatrix_x4_trans(fb, memory->b_rows[lane % 16]);
    else
        kern_ldmatrix_x4(fb, &memory->b_columns[lane % 8][lane / 8 % 2 * 8]);
    for (int i = 0; i < 4; i++) c[i] = c_of(a.n, g + i / 2 * 8, 2 * t + i % 2);
    kern_mma_bf16(c, fa, fb);
    for (int i = 0; i < 4 && kern_thread() < 32 && kern_block() == 0; i++) a.y[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
}

KERN_KERNEL(unaligned_rows) {
    KERN_SHARED(matrices, memory);
    uint32_t r[4];
    kern_ldmatrix_x4(r, &memory->a[kern_thread() % 16][a.n]);
}

/* ---- asynchronous copies of the block's part of y, which is then reversed */

KERN_DEVICE void copy_part(block_values *memory, const values *a, int bytes_valid) {
    const int from = 4 * kern_thread();
    if (kern_thread() < THREADS / 4) kern_copy_async16(&memory->x[from], &a->y[kern_block() * THREADS + from], bytes_valid);
    kern_copy_commit();
}

KERN_DEVICE void give_reversed(const block_values *memory, const values *a) {
    a->y[kern_block() * THREADS + kern_thread()] = memory->x[THREADS - 1 - kern_thread()];
}

KERN_KERNEL(copied) {
    KERN_SHARED(block_values, memory);
    copy_part(memory, &a, 16 - a.n);
    kern_copy_wait(0);
    kern_barrier();
    give_reversed(memory, &a);
}

/* The wait lets the last group go on. */
KERN_KERNEL(early) {
    KERN_SHARED(block_values, memory);
    copy_part(memory, &a, 16);
    kern_copy_wait(1);
    kern_barrier();
    const float x = memory->x[THREADS - 1 - kern_thread()];
    kern_copy_wait(0);
    a.y[kern_block() * THREADS + kern_thread()] = x;
}

/* No barrier between reading and the copy. */
KERN_KERNEL(overtaken) {
    KERN_SHARED(block_values, memory);
    memory->x[kern_thread()] = 1;
    kern_barrier();
    const float x = memory->x[THREADS - 1 - kern_thread()];
    copy_part(memory, &a, 16);
    kern_copy_wait(0);
    kern_barrier();
    a.y[kern_block() * THREADS + kern_thread()] = x;
}

KERN_KERNEL(unwaited) {
    KERN_SHARED(block_values, memory);
    copy_part(memory, &a, 16);
    if (kern_thread() >= a.n) kern_copy_wait(0);
}

KERN_KERNEL(unaligned_copy) {
    KERN_SHARED(block_values, memory);
    kern_copy_async16(&memory->x[4], &a.y[a.n], 16);
    kern_copy_commit();
    kern_copy_wait(0);
}

typedef void launcher(kern_ctx *ctx, values args);
#define LAUNCHER(name) \
    static void launch_##name(kern_ctx *ctx, values args) { KERN_LAUNCH(ctx, name, BLOCKS, THREADS, args); }
LAUNCHER(reversed)
LAUNCHER(unguarded)
LAUNCHER(unwritten)
LAUNCHER(summed)
LAUNCHER(diverging)
LAUNCHER(two_places)
LAUNCHER(half_warp)
LAUNCHER(beyond)
LAUNCHER(shared_beyond)
LAUNCHER(too_large)
LAUNCHER(tensor)
LAUNCHER(unaligned_rows)
LAUNCHER(copied)
LAUNCHER(early)
LAUNCHER(overtaken)
LAUNCHER(unwaited)
LAUNCHER(unaligned_copy)
static void launch_large(kern_ctx *ctx, values args) { KERN_LAUNCH_SHARED(ctx, large, BLOCKS, THREADS, (size_t)args.n, args); }

/* What the kernel leaves in y on a card; before, element i is i. */
static void run(launcher *launch, int card, int n, float y[BLOCKS * THREADS]) {
    kern_ctx ctx = {.card = cards[card]};
    float *buf = kern_card_allocate(ctx.card, BLOCKS * THREADS * sizeof *buf);
    for (int i = 0; i < BLOCKS * THREADS; i++) y[i] = (float)i;
    kern_card_upload(ctx.card, buf, y, BLOCKS * THREADS * sizeof *y);
    launch(&ctx, (values){buf, n});
    kern_card_download(ctx.card, y, buf, BLOCKS * THREADS * sizeof *y);
    kern_card_release(ctx.card, buf);
}

static bool same_on_all_cards(launcher *launch) {
    float first[BLOCKS * THREADS], y[BLOCKS * THREADS];
    run(launch, 0, 0, first);
    for (int card = 1; card < SIMT_ORDERS; card++) {
        run(launch, card, 0, y);
        if (memcmp(y, first, sizeof y)) return false;
    }
    return true;
}

/* The signal that ends the kernel's process, on every card the same; 0: none. */
static int signal_of(launcher *launch, int n) {
    int found = 0;
    for (int card = 0; card < SIMT_ORDERS; card++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            float y[BLOCKS * THREADS];
            signal(SIGSEGV, SIG_DFL);
            signal(SIGABRT, SIG_DFL);
            if (!freopen("/dev/null", "w", stderr)) _exit(1);
            run(launch, card, n, y);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        if (card) assert_int_equal(signal, found);
        found = signal;
    }
    return found;
}

static void threads_meet_at_barriers_and_shuffles(void **state) {
    (void)state;
    float y[BLOCKS * THREADS];
    for (int card = 0; card < SIMT_ORDERS; card++) {
        run(launch_reversed, card, 0, y);
        for (int i = 0; i < BLOCKS * THREADS; i++) assert_true(y[i] == (float)(i / THREADS * THREADS + THREADS - 1 - i % THREADS));
        run(launch_summed, card, 0, y);
        for (int i = 0; i < BLOCKS * THREADS; i++) assert_true(y[i] == 120.0f);
    }
    assert_true(same_on_all_cards(launch_reversed));
}

static void a_missing_barrier_and_unwritten_memory_give_other_bits_on_other_cards(void **state) {
    (void)state;
    assert_false(same_on_all_cards(launch_unguarded));
    assert_false(same_on_all_cards(launch_unwritten));
}

static void a_barrier_or_shuffle_that_not_all_reach_ends_the_program(void **state) {
    (void)state;
    assert_int_equal(signal_of(launch_diverging, THREADS), 0);
    assert_int_equal(signal_of(launch_diverging, THREADS - 1), SIGABRT);
    assert_int_equal(signal_of(launch_two_places, THREADS / 2), SIGABRT);
    assert_int_equal(signal_of(launch_half_warp, THREADS), 0);
    assert_int_equal(signal_of(launch_half_warp, 16), SIGABRT);
}

/* Under AddressSanitizer, which handles the fault itself, the program ends too, but not by the signal. */
static void an_access_outside_a_buffer_or_shared_memory_ends_the_program(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip();
#endif
    assert_int_equal(signal_of(launch_beyond, 0), 0);
    assert_int_equal(signal_of(launch_beyond, BLOCKS * THREADS - THREADS + 1), SIGSEGV);
    assert_int_equal(signal_of(launch_beyond, -BLOCKS * THREADS - 4096 / 4), SIGSEGV);
    assert_int_equal(signal_of(launch_shared_beyond, 0), 0);
    assert_int_equal(signal_of(launch_shared_beyond, 1), SIGSEGV);
}

static void a_launch_gives_as_much_shared_memory_as_a_hopper_block_may_have(void **state) {
    (void)state;
    float y[BLOCKS * THREADS];
    run(launch_large, 0, 227 << 10, y);
    for (int i = 0; i < BLOCKS * THREADS; i++) assert_true(y[i] == (float)(i / THREADS));
    assert_int_equal(signal_of(launch_large, sizeof(block_values)), 0);
    assert_int_equal(signal_of(launch_large, sizeof(block_values) - 1), SIGABRT);
    assert_int_equal(signal_of(launch_large, (227 << 10) + 1), SIGABRT);
    assert_int_equal(signal_of(launch_too_large, 0), SIGABRT);
}

/* n = 2: a chain of floats would lose each 1 that is added to 2^24. */
static void tensor_cores_multiply_matrices_from_fragments(void **state) {
    (void)state;
    float y[BLOCKS * THREADS];
    for (int card = 0; card < SIMT_ORDERS; card++)
        for (int n = 0; n < 3; n++) {
            run(launch_tensor, card, n, y);
            for (int row = 0; row < 16; row++)
                for (int col = 0; col < 8; col++) {
                    double sum = (double)c_of(n, row, col);
                    for (int d = 0; d < 16; d++) sum += (double)a_of(n, row, d) * (double)b_of(n, d, col);
                    assert_true(y[row * 8 + col] == (float)sum);
                }
        }
    assert_int_equal(signal_of(launch_unaligned_rows, 8), 0);
    assert_int_equal(signal_of(launch_unaligned_rows, 4), SIGABRT);
}

/* The kernel's A has rows of 32 bytes, so that the fifth is on the banks of the first. */
static void loads_of_fragments_that_a_card_would_split_are_counted(void **state) {
    (void)state;
    float y[BLOCKS * THREADS];
    simt_bank_conflicts = 0;
    run(launch_tensor, 0, 0, y);
    assert_true(simt_bank_conflicts > 0);
}

enum { ROWS = 150, COLS = 200, DEPTH = 176 };

/* What the operations that use scratch give when it has `floats` for products and a tenth for others, one result after the other. */
static float *results_with(size_t floats, size_t *n) {
    enum { M = ROWS, N = 24, K = 40, RESULTS = 2 * M * N + M * K + N * K + M * K + 2 * K + 12 };
    const kern_attn_shape shape = {.heads = 2, .kv_heads = 1, .head_dim = 6};
    kern_ctx ctx = {.card = cards[SIMT_SHUFFLED], .scratch_floats = floats};
    float *x = kern_card_allocate(ctx.card, ROWS * K * sizeof *x), *to = kern_card_allocate(ctx.card, RESULTS * sizeof *to), *at = to;
    float *result = malloc(RESULTS * sizeof *result);
    uint16_t *w = kern_card_allocate(ctx.card, N * K * sizeof *w);
    int32_t *pos = kern_card_allocate(ctx.card, ROWS * sizeof *pos);
    ctx.scratch = kern_card_allocate(ctx.card, floats * sizeof *ctx.scratch);
    for (int i = 0; i < ROWS * K; i++) x[i] = (float)(i * 37 % 101) / 50 - 1;
    for (int i = 0; i < N * K; i++) w[i] = kern_bf16_of_float(x[i]);
    kern_cuda_linear(&ctx, at, KERN_F32, x, KERN_F32, w, KERN_BF16, NULL, KERN_F32, KERN_BF16, M, N, K, false), at += M * N;
    kern_cuda_linear_grad_input(&ctx, at, KERN_F32, x, KERN_F32, w, KERN_BF16, KERN_BF16, M, N, K, false), at += M * K;
    kern_cuda_linear_grad_weight(&ctx, at, x, KERN_F32, x, KERN_F32, KERN_BF16, M, N, K), at += N * K;
    ctx.scratch_floats /= 10;
    kern_cuda_rmsnorm_grad(&ctx, at, at + M * K, x, KERN_F32, x, x, KERN_F32, 1e-6f, M, K), at += M * K + K;
    kern_cuda_bias_grad(&ctx, at, x, KERN_F32, M, K), at += K;
    kern_cuda_qk_rope_grad(&ctx, at + 12, at, at + 6, x, x, KERN_F32, x, x, KERN_F32, 1e-6f, x, pos, M, shape);
    kern_card_download(ctx.card, result, to, RESULTS * sizeof *to);
    *n = RESULTS;
    kern_card_release(ctx.card, ctx.scratch);
    kern_card_release(ctx.card, pos);
    kern_card_release(ctx.card, w);
    kern_card_release(ctx.card, to);
    kern_card_release(ctx.card, x);
    return result;
}

/* Room for one to three parts of 32 rows at a time, and for all. */
static void operations_that_go_through_scratch_in_parts_give_the_same_bits(void **state) {
    size_t n;
    float *whole = results_with(1 << 20, &n), *in_parts = results_with(1280, &n);
    (void)state;
    assert_memory_equal(whole, in_parts, n * sizeof *whole);
    free(whole);
    free(in_parts);
}

static void products_on_tensor_cores_have_no_bank_conflicts(void **state) {
    kern_ctx ctx = {.card = cards[0], .processors = kern_card_processors(cards[0]), .scratch_floats = 1 << 20};
    float *x = kern_card_allocate(ctx.card, ROWS * COLS * sizeof *x), *y = kern_card_allocate(ctx.card, ROWS * COLS * sizeof *y);
    uint16_t *w = kern_card_allocate(ctx.card, COLS * DEPTH * sizeof *w);
    (void)state;
    ctx.scratch = kern_card_allocate(ctx.card, ctx.scratch_floats * sizeof *ctx.scratch);
    simt_bank_conflicts = 0;
    for (int rows = 8; rows <= ROWS; rows *= 2)
        for (int hopper = 0; hopper < 2; hopper++) {
            ctx.hopper = hopper;
            kern_cuda_linear(&ctx, y, KERN_F32, x, KERN_F32, w, KERN_BF16, NULL, KERN_F32, KERN_BF16, rows, COLS, DEPTH, false);
            if (rows <= 64 || hopper) kern_cuda_linear_swiglu(&ctx, y, NULL, KERN_F32, x, KERN_F32, w, KERN_BF16, KERN_BF16, rows, COLS / 2, DEPTH);
        }
    ctx.hopper = false;
    kern_cuda_linear_grad_input(&ctx, y, KERN_F32, x, KERN_F32, w, KERN_BF16, KERN_BF16, ROWS, COLS, DEPTH, false);
    kern_cuda_linear_grad_weight(&ctx, y, x, KERN_F32, x, KERN_F32, KERN_BF16, DEPTH, ROWS, ROWS);
    assert_true(simt_bank_conflicts == 0);
    kern_card_release(ctx.card, ctx.scratch);
    kern_card_release(ctx.card, w);
    kern_card_release(ctx.card, y);
    kern_card_release(ctx.card, x);
}

static void asynchronous_copies_are_there_after_wait_and_barrier(void **state) {
    (void)state;
    float y[BLOCKS * THREADS];
    for (int card = 0; card < SIMT_ORDERS; card++)
        for (int missing = 0; missing <= 16; missing += 4) {
            run(launch_copied, card, missing, y);
            for (int i = 0; i < BLOCKS * THREADS; i++) {
                const int from = i / THREADS * THREADS + THREADS - 1 - i % THREADS;
                assert_true(y[i] == (from % 4 < 4 - missing / 4 ? (float)from : 0.0f));
            }
        }
}

static void a_copy_used_early_or_into_memory_in_use_gives_other_bits_on_other_cards(void **state) {
    (void)state;
    assert_false(same_on_all_cards(launch_early));
    assert_false(same_on_all_cards(launch_overtaken));
}

static void a_copy_that_is_not_waited_for_or_not_aligned_ends_the_program(void **state) {
    (void)state;
    assert_int_equal(signal_of(launch_unwaited, 0), 0);
    assert_int_equal(signal_of(launch_unwaited, 1), SIGABRT);
    assert_int_equal(signal_of(launch_unaligned_copy, 4), 0);
    assert_int_equal(signal_of(launch_unaligned_copy, 2), SIGABRT);
}

static void a_write_into_what_alignment_leaves_over_is_found_when_the_buffer_is_freed(void **state) {
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        char *buf = kern_card_allocate(cards[0], 5);
        buf[5] = 0;
        kern_card_release(cards[0], buf);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void a_graph_runs_when_it_is_replayed_with_the_arguments_it_was_recorded_with(void **state) {
    (void)state;
    float y[BLOCKS * THREADS] = {0};
    void *graph;
    for (int card = 0; card < SIMT_ORDERS; card++) {
        kern_ctx ctx = {.card = cards[card]};
        float *buf = kern_card_allocate(ctx.card, 2 * sizeof y);
        values args = {buf, 0};
        kern_card_record(ctx.card);
        launch_reversed(&ctx, args);
        args.y += BLOCKS * THREADS;
        launch_reversed(&ctx, args);
        args.y = NULL;
        assert_ok(kern_card_recorded(ctx.card, &graph));
        for (int half = 0; half < 2; half++) {
            kern_card_download(ctx.card, y, buf + half * BLOCKS * THREADS, sizeof y);
            for (int i = 0; i < BLOCKS * THREADS; i++) assert_true(y[i] == 0.0f);
        }
        for (int time = 0; time < 2; time++) {
            kern_card_zero(ctx.card, buf, 2 * sizeof y);
            kern_card_replay(ctx.card, graph);
            for (int half = 0; half < 2; half++) {
                kern_card_download(ctx.card, y, buf + half * BLOCKS * THREADS, sizeof y);
                assert_true(y[0] == THREADS - 1.0f && y[BLOCKS * THREADS - 1] == (BLOCKS - 1.0f) * THREADS);
            }
        }
        kern_card_forget(ctx.card, graph);
        kern_card_release(ctx.card, buf);
    }
}

static void copy_in_graph(kern_ctx *ctx, values args) {
    const float x = 0;
    kern_card_record(ctx->card);
    kern_card_upload(ctx->card, args.y, &x, sizeof x);
}

static void a_copy_while_a_graph_is_recorded_ends_the_program(void **state) {
    (void)state;
    assert_int_equal(signal_of(copy_in_graph, 0), SIGABRT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_meet_at_barriers_and_shuffles),
        cmocka_unit_test(a_missing_barrier_and_unwritten_memory_give_other_bits_on_other_cards),
        cmocka_unit_test(a_barrier_or_shuffle_that_not_all_reach_ends_the_program),
        cmocka_unit_test(an_access_outside_a_buffer_or_shared_memory_ends_the_program),
        cmocka_unit_test(a_launch_gives_as_much_shared_memory_as_a_hopper_block_may_have),
        cmocka_unit_test(tensor_cores_multiply_matrices_from_fragments),
        cmocka_unit_test(loads_of_fragments_that_a_card_would_split_are_counted),
        cmocka_unit_test(operations_that_go_through_scratch_in_parts_give_the_same_bits),
        cmocka_unit_test(products_on_tensor_cores_have_no_bank_conflicts),
        cmocka_unit_test(asynchronous_copies_are_there_after_wait_and_barrier),
        cmocka_unit_test(a_copy_used_early_or_into_memory_in_use_gives_other_bits_on_other_cards),
        cmocka_unit_test(a_copy_that_is_not_waited_for_or_not_aligned_ends_the_program),
        cmocka_unit_test(a_write_into_what_alignment_leaves_over_is_found_when_the_buffer_is_freed),
        cmocka_unit_test(a_graph_runs_when_it_is_replayed_with_the_arguments_it_was_recorded_with),
        cmocka_unit_test(a_copy_while_a_graph_is_recorded_ends_the_program),
    };
    return cmocka_run_group_tests(tests, open_cards, close_cards);
}
