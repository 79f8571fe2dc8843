/* The error record: what is raised is what is read, in the thread that raised it. */
#include "tests/test.h"

#include <pthread.h>
#include <string.h>

#include "common/base/status.h"

static void every_status_has_a_name(void **state) {
    (void)state;
    for (int i = 0; i < RLF_STATUS_COUNT; i++) assert_true(strlen(rlf_status_name((rlf_status)i)) > 0);
    assert_string_equal(rlf_status_name(RLF_NO_MEMORY), "NO_MEMORY");
    assert_string_equal(rlf_status_name((rlf_status)1000), "UNKNOWN");
}

static void raise_records_message_and_place(void **state) {
    (void)state;
    rlf_status status = RLF_RAISE(INVALID, "line %d: expected %s", 7, "a number");
    assert_int_equal(status, RLF_INVALID);
    assert_string_equal(rlf_error_message(), "line 7: expected a number");
    assert_memory_equal(rlf_error_where(), "test_status.c:", strlen("test_status.c:"));
}

static void context_is_put_in_front(void **state) {
    (void)state;
    assert_int_equal(RLF_RAISE(IO, "no space"), RLF_IO);
    rlf_error_context("writing %s", "step_3");
    rlf_error_context("checkpoint");
    assert_string_equal(rlf_error_message(), "checkpoint: writing step_3: no space");
}

static void a_message_may_quote_the_one_before(void **state) {
    (void)state;
    assert_int_equal(RLF_RAISE(IO, "no space"), RLF_IO);
    assert_int_equal(RLF_RAISE(PEER, "rank 3: %s", rlf_error_message()), RLF_PEER);
    assert_string_equal(rlf_error_message(), "rank 3: no space");
}

static void long_messages_are_cut_not_overrun(void **state) {
    char text[5000];
    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(RLF_RAISE(IO, "%s", text), RLF_IO);
    assert_int_equal(strlen(rlf_error_message()), 1023);
    for (int i = 0; i < 5; i++) rlf_error_context("%s", text);
    assert_true(strlen(rlf_error_message()) <= 1023);
    assert_memory_equal(rlf_error_message(), "xxx", 3);
}

static void a_message_is_one_line(void **state) {
    (void)state;
    assert_int_equal(RLF_RAISE(IO, "key \"%s\"", "a\nb\x1b[1m\x7f\xc3\xa9"), RLF_IO);
    assert_string_equal(rlf_error_message(), "key \"a b [1m \xc3\xa9\"");
}

static rlf_status fail_at(int step, int *cleaned) {
    rlf_status status = RLF_OK;
    RLF_TRY(step == 1 ? RLF_RAISE(IO, "first") : RLF_OK);
    if (step == 2) RLF_FAIL(LIMIT, "second");
out:
    ++*cleaned;
    return status;
}

static void try_and_fail_go_through_the_one_way_out(void **state) {
    int cleaned = 0;
    (void)state;
    assert_ok(fail_at(0, &cleaned));
    assert_int_equal(fail_at(1, &cleaned), RLF_IO);
    assert_string_equal(rlf_error_message(), "first");
    assert_int_equal(fail_at(2, &cleaned), RLF_LIMIT);
    assert_string_equal(rlf_error_message(), "second");
    assert_int_equal(cleaned, 3);
}

static void *raise_elsewhere(void *arg) {
    *(rlf_status *)arg = RLF_RAISE(DEVICE, "from the other thread");
    return NULL;
}

static void the_record_belongs_to_the_thread(void **state) {
    pthread_t thread;
    rlf_status other = RLF_OK;
    (void)state;
    assert_int_equal(RLF_RAISE(IO, "mine"), RLF_IO);
    assert_int_equal(pthread_create(&thread, NULL, raise_elsewhere, &other), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(other, RLF_DEVICE);
    assert_string_equal(rlf_error_message(), "mine");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_name),
        cmocka_unit_test(raise_records_message_and_place),
        cmocka_unit_test(context_is_put_in_front),
        cmocka_unit_test(a_message_may_quote_the_one_before),
        cmocka_unit_test(long_messages_are_cut_not_overrun),
        cmocka_unit_test(a_message_is_one_line),
        cmocka_unit_test(try_and_fail_go_through_the_one_way_out),
        cmocka_unit_test(the_record_belongs_to_the_thread),
    };
    return cmocka_run_group_tests_name("status", tests, NULL, NULL);
}
