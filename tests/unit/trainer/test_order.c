/* The order of data rows: a permutation an epoch, a function of seed and position alone. */
#include "tests/test.h"

#include <stdlib.h>

#include "common/base/mem.h"
#include "trainer/order.h"

enum { ROWS = 97 };

static void every_epoch_is_a_permutation(void **state) {
    (void)state;
    trainer_order order;
    trainer_order_init(&order, 7, ROWS, true);
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[ROWS] = {0};
        for (int i = 0; i < ROWS; i++) seen[trainer_order_row(&order, epoch * ROWS + i)]++;
        for (int i = 0; i < ROWS; i++) assert_int_equal(seen[i], 1);
    }
    trainer_order_clean_up(&order);
}

static int same_places(trainer_order *a, int64_t from_a, trainer_order *b, int64_t from_b) {
    int same = 0;
    for (int i = 0; i < ROWS; i++) same += trainer_order_row(a, from_a + i) == trainer_order_row(b, from_b + i);
    return same;
}

static void epochs_and_seeds_differ(void **state) {
    (void)state;
    trainer_order a, b;
    trainer_order_init(&a, 7, ROWS, true);
    trainer_order_init(&b, 8, ROWS, true);
    assert_true(same_places(&a, 0, &b, 0) < ROWS / 4);
    trainer_order_clean_up(&b);
    trainer_order_init(&b, 7, ROWS, true);
    assert_true(same_places(&a, 0, &b, ROWS) < ROWS / 4);
    trainer_order_clean_up(&a);
    trainer_order_clean_up(&b);
}

static void a_position_does_not_depend_on_what_was_drawn_before(void **state) {
    (void)state;
    trainer_order a, b;
    trainer_order_init(&a, 7, ROWS, true);
    trainer_order_init(&b, 7, ROWS, true);
    for (int i = 0; i < 2 * ROWS + 5; i++) (void)trainer_order_row(&a, i);
    for (int i = 2 * ROWS + 5; i < 4 * ROWS; i++) assert_int_equal(trainer_order_row(&a, i), trainer_order_row(&b, i));
    trainer_order_clean_up(&a);
    trainer_order_clean_up(&b);
}

static void without_shuffle_rows_come_in_file_order(void **state) {
    (void)state;
    trainer_order order;
    trainer_order_init(&order, 7, 3, false);
    for (int i = 0; i < 9; i++) assert_int_equal(trainer_order_row(&order, i), i % 3);
    trainer_order_clean_up(&order);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_epoch_is_a_permutation),
        cmocka_unit_test(epochs_and_seeds_differ),
        cmocka_unit_test(a_position_does_not_depend_on_what_was_drawn_before),
        cmocka_unit_test(without_shuffle_rows_come_in_file_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
