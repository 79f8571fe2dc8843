/* JSON from outside: what jansson refuses by default and is JSON all the same, and what stays refused. */
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/json.h"

static json_t *parse(const char *text, size_t flags) {
    json_error_t error;
    json_t *value = rlf_json_parse(text, strlen(text), flags, &error);
    if (!value) print_message("%s: %s\n", rlf_json_problem(&error), error.text);
    return value;
}

static void integers_beyond_64_bits_become_reals_and_others_stay(void **state) {
    (void)state;
    json_t *list = parse("[18446744073709551615, 9223372036854775807, -9223372036854775808, -9223372036854775809, 3, \"18446744073709551615\","
                         " \"\\\"18446744073709551615\", 1000000000000000019884624838656, 2.5, 1e3, true, {\"18446744073709551615\": 0}]", 0);
    static const double want[] = {18446744073709551615.0, 9223372036854775807.0, -9223372036854775808.0, -9223372036854775809.0, 3, 0, 0,
                                  1000000000000000019884624838656.0, 2.5, 1000};
    assert_int_equal(json_array_size(list), 12);
    for (size_t i = 0; i < 10; i++) assert_true(json_number_value(json_array_get(list, i)) == want[i]);
    assert_true(json_integer_value(json_array_get(list, 1)) == INT64_MAX && json_integer_value(json_array_get(list, 2)) == INT64_MIN);
    assert_true(json_is_integer(json_array_get(list, 4)));
    assert_string_equal(json_string_value(json_array_get(list, 5)), "18446744073709551615");
    assert_string_equal(json_string_value(json_array_get(list, 6)), "\"18446744073709551615");
    assert_non_null(json_object_get(json_array_get(list, 11), "18446744073709551615"));
    json_decref(list);
}

static void a_text_may_hold_a_nul(void **state) {
    (void)state;
    json_t *list = parse("[\"a\\u0000b\", \"c\"]", 0);
    assert_int_equal(json_string_length(json_array_get(list, 0)), 3);
    assert_false(rlf_json_is_text(json_array_get(list, 0)));
    assert_true(rlf_json_is_text(json_array_get(list, 1)));
    assert_false(rlf_json_is_text(list) || rlf_json_is_text(NULL));
    json_decref(list);
}

static void a_value_ends_where_it_does_in_the_text(void **state) {
    (void)state;
    static const char text[] = "{\"a\": 18446744073709551615}</tool_call>";
    json_error_t error;
    json_t *value = rlf_json_parse(text, strlen(text), JSON_DISABLE_EOF_CHECK, &error);
    assert_non_null(value);
    assert_string_equal(text + error.position, "</tool_call>");
    json_decref(value);
}

static void what_is_wrong_is_told(void **state) {
    (void)state;
    static const struct { const char *text, *problem; } cases[] = {
        {"[1e999]", "a number out of range"}, {"[18446744073709551615, -1e999]", "a number out of range"}, {"[1", "not JSON"}, {"", "not JSON"},
        {"[18446744073709551615", "not JSON"}, {"{\"\\u0000\": 1}", "not JSON"}, {"[18446744073709551615, \"", "not JSON"},
        {"[18446744073709551615, \"\\", "not JSON"}, {"[01]", "not JSON"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_error_t error;
        assert_null(rlf_json_parse(cases[i].text, strlen(cases[i].text), 0, &error));
        assert_string_equal(rlf_json_problem(&error), cases[i].problem);
    }
    assert_null(rlf_json_parse("[1e999]", 7, 0, NULL));
}

static void a_file_that_is_no_json_is_refused_with_its_line(void **state) {
    (void)state;
    char path[] = "/tmp/rlf_json_XXXXXX";
    json_t *value;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_error(rlf_json_read_file(path, 100, 0, &value), RLF_INVALID, ":1: not JSON");
    assert_int_equal(write(fd, "{\"a\":\n7", 7), 7);
    assert_error(rlf_json_read_file(path, 100, 0, &value), RLF_INVALID, ":2: not JSON");
    assert_null(value);
    assert_int_equal(write(fd, "}", 1), 1);
    assert_error(rlf_json_read_file(path, 7, 0, &value), RLF_LIMIT, path);
    assert_ok(rlf_json_read_file(path, 8, 0, &value));
    assert_int_equal(json_integer_value(json_object_get(value, "a")), 7);
    json_decref(value);
    close(fd);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_beyond_64_bits_become_reals_and_others_stay),
        cmocka_unit_test(a_text_may_hold_a_nul),
        cmocka_unit_test(a_value_ends_where_it_does_in_the_text),
        cmocka_unit_test(what_is_wrong_is_told),
        cmocka_unit_test(a_file_that_is_no_json_is_refused_with_its_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
