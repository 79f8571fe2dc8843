/* The devices that the tests of this folder run on: the CPU's, or, where the environment has RLF_TEST_DEVICE=cuda, cards: those of the SIMT
 * shim (tests/simt) or of the machine, as the program was linked.
 *
 * A test asks for an instruction set and a number of threads. With cards, the portable one with one thread is the CPU still, which the
 * cards are held against; three others stand for the shim's cards, which run threads in three orders, and for the first three of a machine.
 * The third is asked for no more than the kernels for Ampere; a machine with one card has it twice. A card that goes on without Hopper's
 * instructions, since its check found other bits, ends the test. The rest, and what there is no card
 * for, is RLF_UNSUPPORTED. */
#ifndef RLF_TESTS_UNIT_KERNELS_DEVICE_H
#define RLF_TESTS_UNIT_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kern.h"

static inline bool on_cards(void) {
    const char *device = getenv("RLF_TEST_DEVICE");
    return device && strcmp(device, "cuda") == 0;
}

static inline bool is_card(const kern_device *device) { return !strncmp(kern_device_name(device), "cuda", 4); }

static inline rlf_status card_open(kern_device **out, int card) {
    const kern_device_options options = {.name = "cuda", .card = card == 2 && kern_cards() < 3 ? 0 : card, .isa = card == 2 ? "ampere" : NULL};
    rlf_status status = kern_device_open(out, &options);
    if (status != RLF_OK || !strstr(kern_device_name(*out), "without wgmma")) return status;
    fprintf(stderr, "%s: what is to be tested would not run\n", kern_device_name(*out));
    abort();
}

/* isa NULL: the best of the CPU, any card. */
static inline rlf_status device_open(kern_device **out, const char *isa, int threads) {
    static const struct { const char *isa; int threads, card; } stands_for[] = {{"avx2", 1, 0}, {"avx2", 3, 1}, {"avx512", 1, 2}};
    if (!on_cards() || (isa && !strcmp(isa, "portable") && threads == 1))
        return kern_device_open(out, &(kern_device_options){.name = "cpu", .threads = threads, .isa = isa});
    if (!isa) return card_open(out, (threads - 1) % 3) == RLF_OK ? RLF_OK : card_open(out, 0);
    for (size_t i = 0; i < sizeof stands_for / sizeof *stands_for; i++)
        if (!strcmp(isa, stands_for[i].isa) && threads == stands_for[i].threads) return card_open(out, stands_for[i].card);
    return RLF_RAISE(UNSUPPORTED, "no card stands for %s with %d threads", isa, threads);
}

#endif
