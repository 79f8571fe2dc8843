/* race.h finds what it says it finds, and nothing where it is in order: small kernels, each right, and wrong on purpose. */
#include "tests/test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/ring.h"
#include "tests/simt/cards.h"

enum { SIDE = 64, THREADS = 128, BLOCKS = 3, FLOATS = 4096, TILE_BYTES = SIDE * SIDE * 2, STEPS = 4 };

/* What every kernel here is given: in, out and sum lie on the card; sum[0] is 0. */
typedef struct values {
    kern_map map; /* of `in`, as bfloat16 (STEPS * SIDE, SIDE) */
    const float *in;
    float *out;
    uint32_t *sum;
    bool wrong;
} values;

typedef struct memory {
    uint16_t tiles[2][SIDE * SIDE];
    float x[THREADS];
    ring_gates gates;
    kern_gate gate;
    int last;
} memory;

#define KERNEL(name)            \
    typedef values name##_args; \
    KERN_KERNEL(name)

KERN_DEVICE memory *aligned(char *bytes) { return (memory *)KERN_TILE_START(bytes); }

/* ---- one block ---------------------------------------------------------------------------------------------------------------------- */

/* Its own x is 0, and everybody has seen to it. */
KERN_DEVICE void clear(memory *m) {
    m->x[kern_thread()] = 0;
    kern_barrier();
}

KERNEL(barrier) {
    KERN_SHARED(memory, m);
    clear(m);
    m->x[kern_thread()] = 1;
    if (!a.wrong) kern_barrier();
    a.out[kern_block() * THREADS + kern_thread()] = m->x[THREADS - 1 - kern_thread()];
}

/* A vote is no barrier. */
KERNEL(warp_barrier) {
    KERN_SHARED(memory, m);
    clear(m);
    m->x[kern_thread()] = 1;
    if (a.wrong)
        kern_ballot(true);
    else
        kern_warp_barrier();
    a.out[kern_block() * THREADS + kern_thread()] = m->x[kern_thread() ^ 1];
}

/* A warp barrier is none of the block. */
KERNEL(overwritten) {
    KERN_SHARED(memory, m);
    m->x[kern_thread()] = 1;
    kern_barrier();
    const float x = m->x[THREADS - 1 - kern_thread()];
    if (a.wrong)
        kern_warp_barrier();
    else
        kern_barrier();
    m->x[kern_thread()] = x + 1;
}

KERNEL(unwritten) {
    KERN_SHARED(memory, m);
    if (!a.wrong || kern_thread() == 0) m->x[kern_thread()] = 1;
    a.out[kern_block() * THREADS + kern_thread()] = m->x[kern_thread()];
}

/* Both warps of a pair write; what they write is the same, or not. */
KERNEL(same) {
    KERN_SHARED(memory, m);
    m->x[kern_thread() % 32] = a.wrong ? (float)(kern_thread() / 32) : 1;
    kern_warp_barrier();
    a.out[kern_block() * THREADS + kern_thread()] = m->x[kern_thread() % 32];
}

KERNEL(barrier_some) {
    KERN_SHARED(memory, m);
    clear(m);
    if (kern_thread() >= 64) return;
    m->x[kern_thread()] = 1;
    if (a.wrong && kern_thread() >= 32)
        kern_barrier_pass(1, 64);
    else
        kern_barrier_some(1, 64);
    a.out[kern_thread()] = m->x[63 - kern_thread()];
}

KERNEL(copied) {
    KERN_SHARED(memory, m);
    if (kern_thread() < THREADS / 4) kern_copy_async16(&m->x[4 * kern_thread()], &a.in[4 * kern_thread()], 16);
    kern_copy_commit();
    if (a.wrong) kern_copy_wait(1);
    if (!a.wrong) kern_copy_wait(0);
    kern_barrier();
    a.out[kern_block() * THREADS + kern_thread()] = m->x[kern_thread()];
    kern_copy_wait(0);
}

/* ---- gates, boxes, wgmma ------------------------------------------------------------------------------------------------------------ */

/* A warp copies, two read; the stage that was read may be filled when both have left it, or, wrong, when one has. */
typedef values ring_args;
KERN_KERNEL_WITH_MAPS(ring, THREADS, 1) {
    KERN_SHARED_BYTES(char, bytes);
    memory *const m = aligned(bytes);
    ring_open(&m->gates, 2, 1, a.wrong ? 1 : 2);
    kern_barrier();
    kern_wait_for_previous();
    const int warp = kern_thread() / 32;
    for (int i = 0; i < STEPS; i++) {
        const ring_place at = ring_at(i, 2);
        if (kern_thread() == 64) {
            ring_wait_empty(&m->gates, at);
            kern_gate_expect(&m->gates.full[at.stage], TILE_BYTES);
            kern_copy_box(m->tiles[at.stage], &a.map, i * SIDE, 0, &m->gates.full[at.stage]);
        } else if (warp < 2) {
            ring_wait_full(&m->gates, at);
            uint32_t r[4];
            kern_ldmatrix_x4(r, m->tiles[at.stage] + kern_thread() * 8);
            a.out[kern_thread()] = (float)r[0];
            if (a.wrong && warp == 1) continue;
            ring_leave(&m->gates, at.stage);
        }
    }
}

/* Who has not waited at the gate has not seen the box, though one that has is before it. */
typedef values box_args;
KERN_KERNEL_WITH_MAPS(box, THREADS, 1) {
    KERN_SHARED_BYTES(char, bytes);
    memory *const m = aligned(bytes);
    if (kern_thread() == 0) kern_gate_open(&m->gate, 1);
    kern_gate_opened();
    m->tiles[0][kern_thread()] = 0;
    kern_barrier();
    kern_wait_for_previous();
    if (kern_thread() == 0) {
        kern_gate_expect(&m->gate, TILE_BYTES);
        kern_copy_box(m->tiles[0], &a.map, 0, 0, &m->gate);
    }
    if (kern_thread() >= 32) kern_gate_wait(&m->gate, 0);
    if (!a.wrong) kern_barrier();
    a.out[kern_thread()] = m->tiles[0][kern_thread()];
}

/* A tile that threads write; wgmma has to be told. */
KERN_DEVICE void multiply(memory *m, const values *a, bool told, bool early) {
    float c[SIDE / 8][4] = {{0}};
    for (int i = kern_thread(); i < SIDE * SIDE; i += THREADS) m->tiles[0][i] = 0;
    if (told) kern_tile_written();
    kern_barrier();
    kern_wgmma_fence();
    kern_wgmma_64(c, kern_wgmma_along(m->tiles[0]), false, kern_wgmma_along(m->tiles[0]), false);
    kern_wgmma_commit();
    if (early) m->tiles[0][kern_thread() * 8] = 1;
    kern_wgmma_wait(0);
    kern_barrier();
    m->tiles[0][kern_thread()] = 1;
    a->out[kern_thread()] = c[0][0];
}
KERNEL(told) {
    KERN_SHARED_BYTES(char, bytes);
    multiply(aligned(bytes), &a, !a.wrong, false);
}
KERNEL(under_way) {
    KERN_SHARED_BYTES(char, bytes);
    multiply(aligned(bytes), &a, true, a.wrong);
}

KERNEL(opened) {
    KERN_SHARED(memory, m);
    if (kern_thread() == 0) kern_gate_open(&m->gate, THREADS);
    kern_gate_opened();
    if (a.wrong)
        kern_warp_barrier();
    else
        kern_barrier();
    kern_gate_arrive(&m->gate);
    kern_gate_wait(&m->gate, 0);
}

/* ---- blocks and launches ------------------------------------------------------------------------------------------------------------ */

/* The block that ends last takes what all have written. */
KERN_DEVICE void take_all(memory *m, const values *a, bool before, bool after) {
    a->out[kern_block() * THREADS + kern_thread()] = 1;
    kern_barrier();
    if (kern_thread() == 0) {
        if (before) kern_fence();
        m->last = kern_take_u32(a->sum, 1) == (uint32_t)kern_blocks() - 1;
        if (after) kern_fence();
    }
    kern_barrier();
    if (!m->last) return;
    float sum = 0;
    for (int b = 0; b < kern_blocks(); b++) sum += a->out[b * THREADS + THREADS - 1 - kern_thread()];
    a->out[BLOCKS * THREADS + kern_thread()] = sum;
}
KERNEL(fence_before) {
    KERN_SHARED(memory, m);
    take_all(m, &a, !a.wrong, true);
}
KERNEL(fence_after) {
    KERN_SHARED(memory, m);
    take_all(m, &a, true, !a.wrong);
}

/* Whole numbers may be added in any order, but not beside a store. */
KERNEL(added) {
    if (a.wrong && kern_thread() == 5)
        *a.sum = 1;
    else
        kern_add_u32(a.sum, 1);
}

KERNEL(blocks) { a.out[(a.wrong ? 0 : kern_block() * THREADS) + kern_thread()] = (float)kern_block(); }

KERNEL(writer) {
    kern_next_may_start();
    a.out[kern_block() * THREADS + kern_thread()] = 1;
}
typedef values reader_args, hasty_args;
KERN_KERNEL_WITH_MAPS(reader, THREADS, 1) {
    const float x = a.wrong ? a.out[kern_thread()] : a.in[kern_thread()];
    kern_wait_for_previous();
    a.out[kern_thread()] = x + a.out[kern_thread()];
}
KERN_KERNEL_WITH_MAPS(hasty, THREADS, 1) {
    if (!a.wrong) kern_wait_for_previous();
    a.out[kern_thread()] = 2;
    kern_wait_for_previous();
}

/* ---- running them ------------------------------------------------------------------------------------------------------------------- */

typedef void launcher(kern_ctx *ctx, values a);
#define LAUNCHER(name) \
    static void launch_##name(kern_ctx *ctx, values a) { KERN_LAUNCH_SHARED(ctx, name, BLOCKS, THREADS, sizeof(memory) + KERN_TILE_ALIGN, a); }
LAUNCHER(barrier)
LAUNCHER(warp_barrier)
LAUNCHER(overwritten)
LAUNCHER(unwritten)
LAUNCHER(same)
LAUNCHER(copied)
LAUNCHER(told)
LAUNCHER(under_way)
LAUNCHER(opened)
LAUNCHER(fence_before)
LAUNCHER(fence_after)
LAUNCHER(added)
LAUNCHER(blocks)
#define LAUNCHER_OF_ONE(name, before)                                                             \
    static void launch_##name(kern_ctx *ctx, values a) {                                         \
        before;                                                                                  \
        KERN_LAUNCH_SHARED(ctx, name, 1, THREADS, sizeof(memory) + KERN_TILE_ALIGN, a);           \
    }
LAUNCHER_OF_ONE(barrier_some, )
LAUNCHER_OF_ONE(ring, )
LAUNCHER_OF_ONE(box, )
LAUNCHER_OF_ONE(reader, KERN_LAUNCH(ctx, writer, BLOCKS, THREADS, a))
LAUNCHER_OF_ONE(hasty, KERN_LAUNCH(ctx, writer, BLOCKS, THREADS, a))

/* The host says that the launch before wrote what a launch reads at once. */
static void launch_weights(kern_ctx *ctx, values a) {
    KERN_LAUNCH(ctx, writer, BLOCKS, THREADS, a);
    ctx->wrote_weights = !a.wrong;
    a.wrong = true;
    KERN_LAUNCH_SHARED(ctx, reader, 1, THREADS, 0, a);
}

static void run(launcher *launch, int card, bool wrong) {
    kern_ctx ctx = {.card = cards[card], .hopper = true};
    float *in = kern_card_allocate(ctx.card, STEPS * TILE_BYTES), *out = kern_card_allocate(ctx.card, FLOATS * sizeof *out);
    uint32_t *sum = kern_card_allocate(ctx.card, sizeof *sum);
    values a = {.in = in, .out = out, .sum = sum, .wrong = wrong};
    kern_card_zero(ctx.card, sum, sizeof *sum);
    kern_card_map(ctx.card, &a.map, (const uint16_t *)in, STEPS * SIDE, SIDE, SIDE, SIDE);
    launch(&ctx, a);
    kern_card_release(ctx.card, sum);
    kern_card_release(ctx.card, out);
    kern_card_release(ctx.card, in);
}

/* Whether it ends the program, and with this in what it says. */
static bool found(launcher *launch, int card, const char *what) {
    char said[4096] = "";
    int pipes[2], status;
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL);
        if (dup2(pipes[1], STDERR_FILENO) < 0) _exit(1);
        close(pipes[0]);
        run(launch, card, true);
        _exit(0);
    }
    close(pipes[1]);
    for (size_t n = 0; n < sizeof said - 1;) {
        const ssize_t more = read(pipes[0], said + n, sizeof said - 1 - n);
        if (more <= 0) break;
        n += (size_t)more;
    }
    close(pipes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(said, what) && strstr(said, "test_race.c:");
}

/* On every card, in whatever order that runs threads. */
static void finds(launcher *launch, const char *what) {
    for (int card = 0; card < SIMT_ORDERS; card++) {
        run(launch, card, false);
        if (!found(launch, card, what)) fail_msg("card %d: \"%s\" was not found", card, what);
    }
}

static void barriers_order_and_votes_do_not(void **state) {
    (void)state;
    finds(launch_barrier, "no order");
    finds(launch_warp_barrier, "no order");
    finds(launch_overwritten, "no order");
    finds(launch_barrier_some, "no order");
}

static void shared_memory_has_to_be_written_first(void **state) {
    (void)state;
    finds(launch_unwritten, "reads what nobody has written");
}

static void several_may_write_the_same(void **state) {
    (void)state;
    finds(launch_same, "writes what another writes, in no order");
}

static void copies_are_over_when_they_are_waited_for(void **state) {
    (void)state;
    finds(launch_copied, "reads what another writes, in no order");
}

static void gates_order_those_who_arrive_and_those_who_wait(void **state) {
    (void)state;
    finds(launch_ring, "writes what another reads, in no order");
    finds(launch_box, "no order");
    finds(launch_opened, "a gate that");
}

static void wgmma_reads_until_it_is_waited_for_what_it_was_told_of(void **state) {
    (void)state;
    finds(launch_told, "kern_tile_written");
    finds(launch_under_way, "no order");
}

static void blocks_learn_of_each_other_by_fences_and_additions(void **state) {
    (void)state;
    finds(launch_fence_before, "reads what another writes, in no order");
    finds(launch_fence_after, "reads what another writes, in no order");
    finds(launch_added, "no order");
    finds(launch_blocks, "writes what another writes, in no order");
}

static void a_launch_that_begins_early_reads_what_the_one_before_leaves_alone(void **state) {
    (void)state;
    finds(launch_reader, "before it waits for the launch before");
    finds(launch_weights, "before it waits for the launch before");
    finds(launch_hasty, "before it waits for the launch before");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(barriers_order_and_votes_do_not),
        cmocka_unit_test(shared_memory_has_to_be_written_first),
        cmocka_unit_test(several_may_write_the_same),
        cmocka_unit_test(copies_are_over_when_they_are_waited_for),
        cmocka_unit_test(gates_order_those_who_arrive_and_those_who_wait),
        cmocka_unit_test(wgmma_reads_until_it_is_waited_for_what_it_was_told_of),
        cmocka_unit_test(blocks_learn_of_each_other_by_fences_and_additions),
        cmocka_unit_test(a_launch_that_begins_early_reads_what_the_one_before_leaves_alone),
    };
    return cmocka_run_group_tests(tests, open_cards, close_cards);
}
