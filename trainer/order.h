/* The order in which training rows are drawn: a function of (seed, position) alone, so that a resumed run draws what the undisturbed one
 * would have.
 *
 * Position p is row p mod rows of epoch p / rows; each epoch is a permutation: rows sorted by a counter-based draw keyed by (epoch,
 * row). Private to trainer/. */
#ifndef RLF_TRAINER_ORDER_H
#define RLF_TRAINER_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct trainer_order {
    uint64_t seed;
    size_t rows;
    bool shuffle;    /* false: file order in every epoch */
    int64_t epoch;   /* of `row`, -1: none computed */
    uint32_t *row;   /* (rows) permutation of that epoch, owned */
} trainer_order;

/* rows > 0. */
void trainer_order_init(trainer_order *order, uint64_t seed, size_t rows, bool shuffle);
void trainer_order_clean_up(trainer_order *order);
/* The row at a position, which is 0 at the first draw of a run. */
size_t trainer_order_row(trainer_order *order, int64_t position);

#endif
