/* The shim finds what it says it finds: small kernels, some of them wrong on purpose, in a child process where they end it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/dialect.h"

enum { THREADS = 64, BLOCKS = 3 };

/* What every kernel here is given. */
typedef struct values {
    float *y;
    int n;
} values;
typedef values reversed_args, unguarded_args, diverging_args, two_places_args, half_warp_args, beyond_args, shared_beyond_args, summed_args;
typedef values unwritten_args;

typedef struct block_values {
    float x[THREADS];
} block_values;

static kern_card *cards[SIMT_ORDERS];

static int open_cards(void **state) {
    (void)state;
    for (int i = 0; i < SIMT_ORDERS; i++)
        if (kern_card_open(&cards[i], i) != RLF_OK) return -1;
    return 0;
}

static int close_cards(void **state) {
    (void)state;
    for (int i = 0; i < SIMT_ORDERS; i++) kern_card_close(cards[i]);
    return 0;
}

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

/* What the kernel leaves in y on a card. */
static void run(launcher *launch, int card, int n, float y[BLOCKS * THREADS]) {
    kern_ctx ctx = {.card = cards[card]};
    float *buf = kern_card_allocate(ctx.card, BLOCKS * THREADS * sizeof *buf);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_meet_at_barriers_and_shuffles),
        cmocka_unit_test(a_missing_barrier_and_unwritten_memory_give_other_bits_on_other_cards),
        cmocka_unit_test(a_barrier_or_shuffle_that_not_all_reach_ends_the_program),
        cmocka_unit_test(an_access_outside_a_buffer_or_shared_memory_ends_the_program),
        cmocka_unit_test(a_write_into_what_alignment_leaves_over_is_found_when_the_buffer_is_freed),
    };
    return cmocka_run_group_tests(tests, open_cards, close_cards);
}
