/* Row order (order.h). */
#include "trainer/order.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

typedef struct draw { uint64_t key; uint32_t row; } draw;

void trainer_order_init(trainer_order *order, uint64_t seed, size_t rows, bool shuffle) {
    assert(rows > 0 && rows <= UINT32_MAX);
    *order = (trainer_order){.seed = seed, .rows = rows, .shuffle = shuffle, .epoch = -1};
    if (shuffle) order->row = rlf_calloc(rows, sizeof *order->row);
}

void trainer_order_clean_up(trainer_order *order) {
    free(order->row);
    memset(order, 0, sizeof *order);
}

static int by_key(const void *a, const void *b) {
    const draw *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void permute(trainer_order *order, int64_t epoch) {
    draw *draws = rlf_calloc(order->rows, sizeof *draws);
    for (size_t i = 0; i < order->rows; i++) {
        uint32_t words[4];
        rlf_rng_block(order->seed, RLF_RNG_SHUFFLE, (uint64_t)epoch, 0, (uint32_t)i, words);
        draws[i] = (draw){(uint64_t)words[0] << 32 | words[1], (uint32_t)i};
    }
    qsort(draws, order->rows, sizeof *draws, by_key);
    for (size_t i = 0; i < order->rows; i++) order->row[i] = draws[i].row;
    order->epoch = epoch;
    free(draws);
}

size_t trainer_order_row(trainer_order *order, int64_t position) {
    int64_t epoch = position / (int64_t)order->rows;
    size_t place = (size_t)(position % (int64_t)order->rows);
    if (!order->shuffle) return place;
    if (order->epoch != epoch) permute(order, epoch);
    return order->row[place];
}
