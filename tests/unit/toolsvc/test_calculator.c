/* The calculator: values, errors with their place, bounds, and text that is not an expression. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "toolsvc/kinds/calculator.h"

static const char *result_of(const char *text) {
    static char out[TOOLSVC_CALCULATOR_ERROR];
    double value;
    if (toolsvc_calculate(text, strlen(text), &value, out)) toolsvc_number_print(value, out);
    return out;
}

static void expressions_have_their_values(void **state) {
    (void)state;
    static const struct {
        const char *text, *value;
    } cases[] = {{"1+2*3", "7"},           {"(1+2)*3", "9"},         {"2^3^2", "512"},        {"2**3**2", "512"},         {"-2^2", "-4"},
                 {"2^-1", "0.5"},          {"10/4", "2.5"},          {"10 % 4", "2"},         {"-7 % 3", "-1"},           {"8-3-2", "3"},
                 {"100/10/5", "2"},        {"0.1+0.2", "0.30000000000000004"},                {"1/3", "0.3333333333333333"},
                 {"1e3", "1000"}, {".5", "0.5"},            {"5.", "5"},             {"--3", "3"},               {"+-+3", "-3"},
                 {"sqrt(16)", "4"},        {"abs(-2.5)", "2.5"},     {"min(3,1,2)", "1"},     {"max(3, 1, 2)", "3"},
                 {"round(2.5)", "3"},
                 {"round(-2.5)", "-3"},    {"round(3.14159, 2)", "3.14"}, {"round(1234, -2)", "1200"}, {"floor(-1.5)", "-2"},
                 {"ceil(1.2)", "2"},
                 {"pi", "3.141592653589793"}, {"PI", "3.141592653589793"}, {"e", "2.718281828459045"}, {"2*pi", "6.283185307179586"},
                 {"Sqrt ( 2 )", "1.4142135623730951"}, {"  1 \t+\n 1 ", "2"}, {"0*-1", "0"}, {"1e15", "1e+15"},
                 {"123456789012345", "123456789012345"},
                 {"1e-7", "1e-07"},        {"2^0.5", "1.4142135623730951"}, {"max(1)", "1"},  {"1e308*1", "1e+308"},
                 {"((((((1))))))", "1"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_string_equal(result_of(cases[i].text), cases[i].value);
    }
}

static void mistakes_are_told_with_their_place(void **state) {
    (void)state;
    static const struct {
        const char *text, *error;
    } cases[] = {{"", "ends where a number was expected"},
                 {"1+", "ends where a number was expected"},
                 {"(1+2", "ends where ')' was expected"},
                 {"1 2", "'2' at character 3, where an operator or the end was expected"},
                 {"1+*2", "'*' at character 3, where a number was expected"},
                 {"1)", "')' at character 2"},
                 {"1,2", "',' at character 2"},
                 {"1/0", "division by zero"},
                 {"5 % (1-1)", "division by zero"},
                 {"sqrt(-1)", "sqrt of a negative number"},
                 {"(-1)^0.5", "not a finite number"},
                 {"10^400", "not a finite number"},
                 {"1e999", "not a finite number"},
                 {"foo(1)", "unknown name \"foo\""},
                 {"import os", "unknown name \"import\""},
                 {"nan", "unknown name"},
                 {"0x10", "'x' at character 2"},
                 {"sqrt 4", "'4' at character 6, where '(' after the function name was expected"},
                 {"sqrt()", "')' at character 6, where a number was expected"},
                 {"sqrt(1,2)", "sqrt takes at most 1 argument"},
                 {"round(1,2,3)", "round takes at most 2 arguments"},
                 {"round(1,0.5)", "whole number of decimals"},
                 {".", "lone '.'"},
                 {"2e", "'e' at character 2"},
                 {"\xc3\x97", "byte 0xc3 at character 1"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value;
        char error[TOOLSVC_CALCULATOR_ERROR];
        if (toolsvc_calculate(cases[i].text, strlen(cases[i].text), &value, error)) fail_msg("%s: %g", cases[i].text, value);
        if (!strstr(error, cases[i].error)) fail_msg("%s: \"%s\", not \"%s\"", cases[i].text, error, cases[i].error);
    }
}

static void depth_and_length_are_bounded(void **state) {
    (void)state;
    static char text[TOOLSVC_CALCULATOR_MAX_TEXT + 2];
    double value;
    char error[TOOLSVC_CALCULATOR_ERROR];
    static const char repeated[] = "(-^a1";
    for (size_t i = 0; i < sizeof repeated - 1; i++) {
        memset(text, repeated[i], TOOLSVC_CALCULATOR_MAX_TEXT);
        assert_false(toolsvc_calculate(text, TOOLSVC_CALCULATOR_MAX_TEXT, &value, error));
    }
    memset(text, '-', 200);
    assert_false(toolsvc_calculate(text, 200, &value, error));
    assert_non_null(strstr(error, "nested deeper than 64 levels"));
    memset(text, '1', sizeof text);
    assert_false(toolsvc_calculate(text, TOOLSVC_CALCULATOR_MAX_TEXT + 1, &value, error));
    assert_non_null(strstr(error, "4097 characters; at most 4096"));
}

static void random_text_gives_a_value_or_an_error(void **state) {
    (void)state;
    static const char alphabet[] = "0123456789.+-*/%^(),e pisqrtabmnxoudflc\xc3\x97";
    for (uint32_t i = 0; i < 20000; i++) {
        char text[32], error[TOOLSVC_CALCULATOR_ERROR];
        double value = NAN;
        size_t n = rlf_rng_below(1, RLF_RNG_TEST, i, 0, 0, sizeof text);
        for (uint32_t k = 0; k < n; k++) text[k] = alphabet[rlf_rng_below(1, RLF_RNG_TEST, i, 1, k, sizeof alphabet)]; /* NUL too */
        char *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read past n */
        memcpy(exact, text, n);
        bool good = toolsvc_calculate(exact, n, &value, error);
        assert_true(good ? isfinite(value) && !error[0] : error[0] != 0);
        free(exact);
    }
}

static void numbers_print_shortest_and_read_back(void **state) {
    (void)state;
    char out[32];
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t w[4];
        double value;
        rlf_rng_block(2, RLF_RNG_TEST, i, 0, 0, w);
        memcpy(&value, w, sizeof value);
        if (!isfinite(value)) continue;
        toolsvc_number_print(value, out);
        assert_true(strtod(out, NULL) == value);
    }
    toolsvc_number_print(0.1, out);
    assert_string_equal(out, "0.1");
    toolsvc_number_print(-0.0, out);
    assert_string_equal(out, "0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expressions_have_their_values),         cmocka_unit_test(mistakes_are_told_with_their_place),
        cmocka_unit_test(depth_and_length_are_bounded),          cmocka_unit_test(random_text_gives_a_value_or_an_error),
        cmocka_unit_test(numbers_print_shortest_and_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
