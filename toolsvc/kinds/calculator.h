/* Arithmetic on one line of text: + - * / % ^ (or **), parentheses, functions and constants, in double precision.
 *
 *   expression = term { ("+" | "-") term }
 *   term       = unary { ("*" | "/" | "%") unary }
 *   unary      = { "+" | "-" } power
 *   power      = primary [ ("^" | "**") unary ]              right to left; -2^2 is -4
 *   primary    = number | constant | function "(" expression { "," expression } ")" | "(" expression ")"
 *
 * constants: pi, e.  functions: sqrt abs min max round floor ceil; round takes an optional number of decimals. % is the
 * remainder with the sign of the dividend (C's fmod). Nothing is evaluated but this grammar. */
#ifndef RLF_TOOLSVC_CALCULATOR_H
#define RLF_TOOLSVC_CALCULATOR_H

#include <stdbool.h>
#include <stddef.h>

enum { TOOLSVC_CALCULATOR_MAX_TEXT = 4096, TOOLSVC_CALCULATOR_MAX_DEPTH = 64, TOOLSVC_CALCULATOR_ERROR = 160 };

/* True: *value is the finite result. False: `error` (TOOLSVC_CALCULATOR_ERROR bytes) says what is wrong and at which character,
 * for the model to read. */
bool toolsvc_calculate(const char *text, size_t n, double *value, char *error);

/* The shortest decimal text that reads back as the same double; whole numbers below 1e15 without exponent. out holds 32 bytes. */
void toolsvc_number_print(double value, char *out);

#endif
