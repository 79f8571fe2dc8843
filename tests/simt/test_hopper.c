/* The words of hopper.h on the shim: boxes, gates and products of warp groups do what they say, kernels that misuse them end the program, and a
 * card whose wgmma has other bits is used without it. */
#include "tests/test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/hopper.h"
#include "tests/simt/cards.h"

enum { SIDE = 64, THREADS = 128, TILE_BYTES = SIDE * SIDE * 2 };

typedef enum fault_kind { NONE, NO_COPY, NOT_WAITED_FOR, MISPLACED, TOO_MANY, LEFT_BEHIND, ALONE } fault_kind;

/* C (64, 64) from A and B, of 64 lines and 64 of depth each: a row a line (along), or a row a depth (across). */
typedef struct product_args {
    kern_map a, b;
    float *c;
    bool across, rows; /* rows: A from registers */
    bool peeks;        /* at those while the products have them */
    const uint16_t *a_rows;
    fault_kind fault;
} product_args;

/* The fragment of A of this warp's rows, 16 of depth from d on. */
KERN_DEVICE void rows_of(uint32_t r[4], const uint16_t *a, int d) {
    const int lane = kern_thread() % 32, row = kern_thread() / 32 * 16 + lane / 4, at = d + lane % 4 * 2;
    for (int i = 0; i < 4; i++) memcpy(&r[i], &a[(row + i % 2 * 8) * SIDE + at + i / 2 * 8], sizeof r[i]);
}

KERN_KERNEL_WITH_MAPS(product, THREADS, 1) {
    KERN_SHARED_BYTES(char, memory);
    uint16_t *const left = (uint16_t *)KERN_TILE_START(memory), *const right = left + SIDE * SIDE;
    kern_gate *const gate = (kern_gate *)(right + SIDE * SIDE);
    float c[SIDE / 8][4];
    uint32_t r[SIDE / 16][4];
    if (kern_thread() == 0) kern_gate_open(gate, 1);
    kern_gate_opened();
    kern_barrier();
    if (kern_thread() == 0 && a.fault != NO_COPY) {
        kern_gate_expect(gate, 2 * TILE_BYTES);
        if (a.fault == TOO_MANY) kern_gate_arrive(gate);
        kern_copy_box(left + (a.fault == MISPLACED ? 8 : 0), &a.a, 0, 0, gate);
        kern_copy_box(right, &a.b, 0, 0, gate);
    }
    if (a.fault == LEFT_BEHIND) return;
    if (a.fault == ALONE && kern_thread() < 32) kern_barrier_some(1, 64);
    kern_gate_wait(gate, 0);
    for (int j = 0; j < SIDE / 8; j++)
        for (int e = 0; e < 4; e++) c[j][e] = 1;
    kern_wgmma_fence();
    for (int k = 0; k < SIDE / 16; k++) {
        if (a.rows) {
            rows_of(r[k], a.a_rows, 16 * k);
            kern_wgmma_rows_64(c, r[k], kern_wgmma_along(right + 16 * k), false);
        } else if (a.across)
            kern_wgmma_64(c, kern_wgmma_across(left + 16 * k * SIDE, 0), true, kern_wgmma_across(right + 16 * k * SIDE, 0), true);
        else
            kern_wgmma_64(c, kern_wgmma_along(left + 16 * k), false, kern_wgmma_along(right + 16 * k), false);
    }
    kern_wgmma_commit();
    if (a.fault == NOT_WAITED_FOR) return;
    const uint32_t seen = a.peeks ? r[0][0] : 0;
    kern_wgmma_wait(0);
    if (a.peeks && seen != r[0][0]) c[0][0] += 1;
    const int lane = kern_thread() % 32, row = kern_thread() / 32 * 16 + lane / 4;
    for (int j = 0; j < SIDE / 8; j++)
        for (int e = 0; e < 4; e++) a.c[(row + e / 2 * 8) * SIDE + 8 * j + lane % 4 * 2 + e % 2] = c[j][e];
}

/* Small whole numbers, so that sums are exact: element (line, d). */
static int value_of(int which, int line, int d) { return (line * 7 + d * 3 + which * 5) % 11 - 5; }

static void run(int card, bool across, bool rows, fault_kind fault, bool peeks, float c[SIDE * SIDE]) {
    kern_ctx ctx = {.card = cards[card], .hopper = true};
    uint16_t host[SIDE * SIDE], *factors[2];
    product_args args = {.across = across, .rows = rows, .peeks = peeks, .fault = fault};
    for (int which = 0; which < 2; which++) {
        for (int line = 0; line < SIDE; line++)
            for (int d = 0; d < SIDE; d++) host[across ? d * SIDE + line : line * SIDE + d] = kern_bf16_of_float((float)value_of(which, line, d));
        factors[which] = kern_card_allocate(ctx.card, sizeof host);
        kern_card_upload(ctx.card, factors[which], host, sizeof host);
        kern_card_map(ctx.card, which ? &args.b : &args.a, factors[which], SIDE, SIDE, SIDE, SIDE);
    }
    args.a_rows = factors[0];
    args.c = kern_card_allocate(ctx.card, SIDE * SIDE * sizeof *c);
    KERN_LAUNCH_SHARED(&ctx, product, 1, THREADS, KERN_TILE_ALIGN + 2 * TILE_BYTES + sizeof(kern_gate), args);
    kern_card_download(ctx.card, c, args.c, SIDE * SIDE * sizeof *c);
    kern_card_release(ctx.card, args.c);
    for (int which = 0; which < 2; which++) kern_card_release(ctx.card, factors[which]);
}

static void a_warp_group_multiplies_what_boxes_bring(void **state) {
    (void)state;
    static float c[SIDE * SIDE];
    for (int card = 0; card < SIMT_ORDERS; card++)
        for (int way = 0; way < 3; way++) {
            run(card, way == 1, way == 2, NONE, false, c);
            for (int i = 0; i < SIDE; i++)
                for (int j = 0; j < SIDE; j++) {
                    int sum = 1;
                    for (int d = 0; d < SIDE; d++) sum += value_of(0, i, d) * value_of(1, j, d);
                    assert_true(c[i * SIDE + j] == (float)sum);
                }
        }
}

static void a_fragment_is_the_products_until_they_are_waited_for(void **state) {
    (void)state;
    static float c[SIDE * SIDE], peeked[SIDE * SIDE];
    run(0, false, true, NONE, false, c);
    run(0, false, true, NONE, true, peeked);
    assert_memory_not_equal(c, peeked, sizeof c);
}

static bool ends_the_program(fault_kind fault) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static float c[SIDE * SIDE];
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        run(0, false, false, fault, false, c);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void misuse_ends_the_program(void **state) {
    (void)state;
    assert_false(ends_the_program(NONE));
    for (int fault = NO_COPY; fault <= ALONE; fault++)
        if (!ends_the_program((fault_kind)fault)) fail_msg("fault %d was not found", fault);
}

static void a_card_with_other_bits_is_used_without_wgmma(void **state) {
    (void)state;
    kern_device *device;
    simt_wgmma_error = 1;
    assert_ok(kern_device_open(&device, &(kern_device_options){.name = "cuda"}));
    assert_non_null(strstr(kern_device_name(device), "without wgmma"));
    kern_device_close(device);
    assert_int_equal(kern_device_open(&device, &(kern_device_options){.name = "cuda", .isa = "hopper"}), RLF_UNSUPPORTED);
    simt_wgmma_error = 0;
    assert_ok(kern_device_open(&device, &(kern_device_options){.name = "cuda", .isa = "hopper"}));
    assert_null(strstr(kern_device_name(device), "without wgmma"));
    kern_device_close(device);
    assert_int_equal(kern_device_open(&device, &(kern_device_options){.name = "cuda", .isa = "avx2"}), RLF_UNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_warp_group_multiplies_what_boxes_bring),
        cmocka_unit_test(a_fragment_is_the_products_until_they_are_waited_for),
        cmocka_unit_test(misuse_ends_the_program),
        cmocka_unit_test(a_card_with_other_bits_is_used_without_wgmma),
    };
    return cmocka_run_group_tests(tests, open_cards, close_cards);
}
