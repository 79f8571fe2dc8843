/* JSON schema: what is accepted, and the words for what is not. */
#include "tests/test.h"

#include <stdio.h>
#include <string.h>

#include "toolsvc/schema.h"

/* The phrase for a value, "ok" if it is accepted; static. */
static const char *verdict(const char *schema_text, const char *value_text) {
    static char text[512];
    rlf_str error = {0};
    json_t *schema = json_loads(schema_text, 0, NULL), *value = json_loads(value_text, JSON_DECODE_ANY, NULL);
    assert_non_null(schema);
    assert_non_null(value);
    bool good = toolsvc_schema_check(schema, value, "f", &error);
    assert_int_equal(good, error.len == 0);
    snprintf(text, sizeof text, "%s", good ? "ok" : error.ptr);
    rlf_str_clean_up(&error);
    json_decref(schema);
    json_decref(value);
    return text;
}

static void types_are_checked(void **state) {
    (void)state;
    static const char *const schema = "{\"properties\": {\"s\": {\"type\": \"string\"}, \"i\": {\"type\": \"integer\"}, \"n\": {\"type\": "
                                      "[\"number\", \"null\"]}, \"b\": {\"type\": \"boolean\"}, \"o\": {\"type\": \"object\"}, \"a\": {\"type\": \"array\"}}}";
    assert_string_equal(verdict(schema, "{}"), "ok");
    assert_string_equal(verdict(schema, "{\"s\": \"x\", \"i\": 3, \"n\": null, \"b\": false, \"o\": {}, \"a\": [], \"other\": 1}"), "ok");
    assert_string_equal(verdict(schema, "{\"i\": 3.0, \"n\": 2.5}"), "ok");
    assert_string_equal(verdict(schema, "{\"s\": 1}"), "the argument \"s\" of f must be a string, not a number");
    assert_string_equal(verdict(schema, "{\"i\": 3.5}"), "the argument \"i\" of f must be a whole number, not a number");
    assert_string_equal(verdict(schema, "{\"n\": \"1\"}"), "the argument \"n\" of f must be a number or null, not a string");
    assert_string_equal(verdict(schema, "{\"b\": null}"), "the argument \"b\" of f must be a boolean, not null");
    assert_string_equal(verdict(schema, "{\"a\": {}}"), "the argument \"a\" of f must be an array, not an object");
    assert_string_equal(verdict(schema, "[]"), "the arguments of f must be a JSON object, not an array");
}

static void what_is_missing_or_unknown_is_named(void **state) {
    (void)state;
    static const char *const schema = "{\"type\": \"object\", \"properties\": {\"q\": {\"type\": \"string\"}, \"filter\": {\"type\": \"object\", "
                                      "\"required\": [\"lang\"], \"additionalProperties\": false, \"properties\": {\"lang\": {}}}}, "
                                      "\"required\": [\"q\"], \"additionalProperties\": false}";
    assert_string_equal(verdict(schema, "{\"q\": \"x\", \"filter\": {\"lang\": 1}}"), "ok");
    assert_string_equal(verdict(schema, "{}"), "f needs the argument \"q\" (a string)");
    assert_string_equal(verdict(schema, "{\"q\": \"x\", \"k\": 1}"), "f has no argument \"k\"");
    assert_string_equal(verdict(schema, "{\"q\": \"x\", \"filter\": {}}"), "the argument \"filter\" of f needs the member \"lang\"");
    assert_string_equal(verdict(schema, "{\"q\": \"x\", \"filter\": {\"lang\": 1, \"x\": 2}}"),
                        "the argument \"filter\" of f has no member \"x\"");
    assert_string_equal(verdict("{\"additionalProperties\": {\"type\": \"number\"}}", "{\"a\": 1, \"b\": \"2\"}"),
                        "the argument \"b\" of f must be a number, not a string");
}

static void nested_values_are_named_by_their_path(void **state) {
    (void)state;
    static const char *const schema = "{\"properties\": {\"rows\": {\"type\": \"array\", \"items\": {\"type\": \"object\", \"properties\": "
                                      "{\"tags\": {\"type\": \"array\", \"items\": {\"enum\": [\"a\", \"b\"]}}}}}}}";
    assert_string_equal(verdict(schema, "{\"rows\": [{\"tags\": [\"a\"]}, {\"tags\": [\"b\", \"a\"]}]}"), "ok");
    assert_string_equal(verdict(schema, "{\"rows\": [{\"tags\": [\"a\"]}, {\"tags\": [\"b\", \"c\"]}]}"),
                        "the argument \"rows[1].tags[1]\" of f must be one of [\"a\",\"b\"], not \"c\"");
}

static void bounds_are_checked(void **state) {
    (void)state;
    assert_string_equal(verdict("{\"properties\": {\"k\": {\"minimum\": 1, \"maximum\": 10}}}", "{\"k\": 10}"), "ok");
    assert_string_equal(verdict("{\"properties\": {\"k\": {\"minimum\": 1}}}", "{\"k\": 0}"), "the argument \"k\" of f must be at least 1");
    assert_string_equal(verdict("{\"properties\": {\"k\": {\"maximum\": 1234567}}}", "{\"k\": 12345678}"),
                        "the argument \"k\" of f must be at most 1234567");
    assert_string_equal(verdict("{\"properties\": {\"k\": {\"const\": 0.1}}}", "{\"k\": 0.3}"),
                        "the argument \"k\" of f must be 0.1, not 0.3");
    assert_string_equal(verdict("{\"properties\": {\"k\": {\"maximum\": 1}}}", "{\"k\": 2}"), "the argument \"k\" of f must be at most 1");
    assert_string_equal(verdict("{\"properties\": {\"k\": {\"exclusiveMinimum\": 0}}}", "{\"k\": 0}"),
                        "the argument \"k\" of f must be more than 0");
    assert_string_equal(verdict("{\"properties\": {\"k\": {\"exclusiveMaximum\": 1}}}", "{\"k\": 1}"),
                        "the argument \"k\" of f must be less than 1");
    assert_string_equal(verdict("{\"properties\": {\"s\": {\"maxLength\": 2}}}", "{\"s\": \"\xc3\xa4\xc3\xb6\"}"), "ok");
    assert_string_equal(verdict("{\"properties\": {\"s\": {\"minLength\": 1}}}", "{\"s\": \"\"}"),
                        "the argument \"s\" of f must have at least 1 characters");
    assert_string_equal(verdict("{\"properties\": {\"a\": {\"maxItems\": 1}}}", "{\"a\": [1, 2]}"),
                        "the argument \"a\" of f must have at most 1 items");
}

static void alternatives_and_references_are_followed(void **state) {
    (void)state;
    static const char *const any = "{\"properties\": {\"v\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}}}";
    assert_string_equal(verdict(any, "{\"v\": null}"), "ok");
    assert_string_equal(verdict(any, "{\"v\": 1}"),
                        "the argument \"v\" of f must be one of the forms [{\"type\":\"string\"},{\"type\":\"null\"}]");
    static const char *const reference = "{\"$defs\": {\"node\": {\"type\": \"object\", \"properties\": {\"next\": {\"$ref\": \"#/$defs/node\"}}}}, "
                                         "\"properties\": {\"list\": {\"$ref\": \"#/$defs/node\"}}}";
    assert_string_equal(verdict(reference, "{\"list\": {\"next\": {\"next\": {}}}}"), "ok");
    assert_string_equal(verdict(reference, "{\"list\": {\"next\": {\"next\": 1}}}"),
                        "the argument \"list.next.next\" of f must be an object, not a number");
    assert_string_equal(verdict("{\"properties\": {\"a\": {\"$ref\": \"#/properties/a\"}}}", "{\"a\": 1}"), "ok"); /* ends */
    assert_string_equal(verdict("{\"properties\": {\"a\": {\"const\": 1}, \"b\": {\"allOf\": [{\"type\": \"string\"}]}}}", "{\"a\": 2}"),
                        "the argument \"a\" of f must be 1, not 2");
}

static void choices_are_compared_by_value(void **state) {
    (void)state;
    static const char
        *const schema = "{\"properties\": {\"e\": {\"enum\": [1, 2.0, [3], {\"x\": 4, \"y\": null}]}, \"c\": {\"const\": 1}, "
                        "\"both\": {\"enum\": [1, 2], \"const\": 2}}}";
    static const char *const good[] = {"{\"e\": 1.0}", "{\"e\": 2}",   "{\"e\": [3.0]}", "{\"e\": {\"y\": null, \"x\": 4.0}}",
                                       "{\"c\": 1e0}", "{\"both\": 2}"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_string_equal(verdict(schema, good[i]), "ok");
    static const char *const bad[] = {
        "{\"e\": 1.5}", "{\"e\": \"1\"}", "{\"e\": [3, 3]}", "{\"e\": {\"x\": 4}}", "{\"e\": {\"x\": 4, \"z\": null}}",
        "{\"e\": null}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!strstr(verdict(schema, bad[i]), "must be one of")) fail_msg("%s: %s", bad[i], verdict(schema, bad[i]));
    assert_string_equal(verdict(schema, "{\"both\": 1}"), "the argument \"both\" of f must be 2, not 1");
}

static void members_by_pattern_are_not_refused(void **state) {
    (void)state;
    static const char *const schema =
        "{\"properties\": {\"a\": {\"type\": \"string\"}}, \"patternProperties\": {\"^x-\": {}}, \"additionalProperties\": false}";
    assert_string_equal(verdict(schema, "{\"x-1\": 1}"), "ok");
    assert_string_equal(verdict(schema, "{\"a\": 1}"), "the argument \"a\" of f must be a string, not a number");
}

/* After 63 letters there is room for half of a character. */
static void a_long_name_is_cut_to_valid_text(void **state) {
    (void)state;
#define LETTERS "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk"
    assert_string_equal(verdict("{\"additionalProperties\": {\"type\": \"number\"}}", "{\"" LETTERS "\xc3\xa4z\": \"1\"}"),
                        "the argument \"" LETTERS "\xef\xbf\xbd\" of f must be a number, not a string");
}

static void work_of_a_schema_is_bounded(void **state) {
    (void)state;
    assert_string_equal(verdict("{\"type\": \"object\", \"allOf\": [{\"$ref\": \"#\"}, {\"$ref\": \"#\"}]}", "{}"), "ok");
    assert_string_equal(verdict("{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"string\"}, \"b\": {\"allOf\": [{\"$ref\": \"#/properties/b\"}, "
                                "{\"$ref\": \"#/properties/b\"}]}}}", "{\"a\": 1, \"b\": 1}"),
                        "the argument \"a\" of f must be a string, not a number");
}

static void schema_of_anything_but_an_object_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"[]", "{}", "{\"type\": \"string\"}", "{\"properties\": []}",
                                      "{\"type\": \"object\", \"required\": \"q\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *schema = json_loads(bad[i], 0, NULL);
        assert_int_equal(toolsvc_schema_valid(schema), RLF_INVALID);
        json_decref(schema);
    }
    json_t *schema = json_loads("{\"type\": \"object\"}", 0, NULL);
    assert_ok(toolsvc_schema_valid(schema));
    json_decref(schema);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_are_checked),
        cmocka_unit_test(what_is_missing_or_unknown_is_named),
        cmocka_unit_test(nested_values_are_named_by_their_path),
        cmocka_unit_test(bounds_are_checked),
        cmocka_unit_test(alternatives_and_references_are_followed),
        cmocka_unit_test(choices_are_compared_by_value),
        cmocka_unit_test(members_by_pattern_are_not_refused),
        cmocka_unit_test(a_long_name_is_cut_to_valid_text),
        cmocka_unit_test(work_of_a_schema_is_bounded),
        cmocka_unit_test(schema_of_anything_but_an_object_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
