/* The shim's cards, for its own tests: group setup and teardown. */
#ifndef RLF_TESTS_SIMT_CARDS_H
#define RLF_TESTS_SIMT_CARDS_H

#include "kernels/cuda/card.h"

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

#endif
