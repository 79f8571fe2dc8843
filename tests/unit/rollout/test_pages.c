/* The pool of pages: numbers out, numbers back, shared pages back last. */
#include "tests/test.h"

#include "rollout/pages.h"

static void every_page_is_given_once_and_then_none(void **state) {
    (void)state;
    rollout_pages pages;
    rollout_pages_init(&pages, 5);
    for (int i = 0; i < 5; i++) assert_int_equal(rollout_pages_take(&pages), i);
    assert_int_equal(rollout_pages_take(&pages), -1);
    rollout_pages_release(&pages, 3);
    assert_int_equal(rollout_pages_take(&pages), 3);
    rollout_pages_clean_up(&pages);
}

static void shared_page_is_free_after_its_last_release(void **state) {
    (void)state;
    rollout_pages pages;
    rollout_pages_init(&pages, 1);
    int32_t page = rollout_pages_take(&pages);
    rollout_pages_retain(&pages, page);
    rollout_pages_retain(&pages, page);
    rollout_pages_release(&pages, page);
    rollout_pages_release(&pages, page);
    assert_int_equal(rollout_pages_take(&pages), -1);
    rollout_pages_release(&pages, page);
    assert_int_equal(pages.n_free, 1);
    rollout_pages_clean_up(&pages);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_page_is_given_once_and_then_none),
        cmocka_unit_test(shared_page_is_free_after_its_last_release),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
