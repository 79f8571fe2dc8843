/* Recursive descent over the grammar in calculator.h. The first error wins: it sets `failed`, which every loop looks at, and
 * later ones are ignored. */
#include "toolsvc/kinds/calculator.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_ARGUMENTS = 64, MAX_NUMBER = 400 };

typedef struct parser {
    const char *text;
    size_t n, at;
    int depth;
    bool failed;
    char *error;
} parser;

static double expression(parser *p);

__attribute__((format(printf, 2, 3))) static double fail(parser *p, const char *fmt, ...) {
    if (p->failed) return 0;
    p->failed = true;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->error, TOOLSVC_CALCULATOR_ERROR, fmt, ap);
    va_end(ap);
    return 0;
}

/* Next character that is not white space; 0 at the end. */
static char peek(parser *p) {
    while (p->at < p->n && isspace((unsigned char)p->text[p->at])) p->at++;
    return p->at < p->n ? p->text[p->at] : 0;
}

static bool accept(parser *p, char c) {
    if (p->failed || peek(p) != c || p->at >= p->n) return false;
    p->at++;
    return true;
}

static double unexpected(parser *p, const char *wanted) {
    char c = peek(p);
    if (p->at >= p->n) return fail(p, "the expression ends where %s was expected", wanted);
    if (c > ' ' && c < 127) return fail(p, "'%c' at character %zu, where %s was expected", c, p->at + 1, wanted);
    return fail(p, "byte 0x%02x at character %zu, where %s was expected", (unsigned char)c, p->at + 1, wanted);
}

static void digits(parser *p) {
    while (p->at < p->n && isdigit((unsigned char)p->text[p->at])) p->at++;
}

/* digits [. digits] [e [sign] digits]; the caller has seen a digit or a point. */
static double number(parser *p) {
    size_t begin = p->at;
    digits(p);
    if (p->at < p->n && p->text[p->at] == '.') p->at++, digits(p);
    if (p->at - begin == 1 && p->text[begin] == '.') return fail(p, "a lone '.' at character %zu", begin + 1);
    if (p->at < p->n && (p->text[p->at] | 32) == 'e') {
        size_t exponent = p->at + 1;
        if (exponent < p->n && (p->text[exponent] == '+' || p->text[exponent] == '-')) exponent++;
        if (exponent < p->n && isdigit((unsigned char)p->text[exponent])) p->at = exponent, digits(p);
    }
    char copy[MAX_NUMBER + 1];
    if (p->at - begin > MAX_NUMBER) return fail(p, "the number at character %zu is longer than %d digits", begin + 1, (int)MAX_NUMBER);
    memcpy(copy, p->text + begin, p->at - begin);
    copy[p->at - begin] = 0;
    return strtod(copy, NULL);
}

static double call_sqrt(parser *p, const double *x, int n) {
    (void)n;
    return x[0] < 0 ? fail(p, "sqrt of a negative number") : sqrt(x[0]);
}
static double call_abs(parser *p, const double *x, int n) { return (void)p, (void)n, fabs(x[0]); }
static double call_floor(parser *p, const double *x, int n) { return (void)p, (void)n, floor(x[0]); }
static double call_ceil(parser *p, const double *x, int n) { return (void)p, (void)n, ceil(x[0]); }
static double call_min(parser *p, const double *x, int n) {
    (void)p;
    double least = x[0];
    for (int i = 1; i < n; i++) least = fmin(least, x[i]);
    return least;
}
static double call_max(parser *p, const double *x, int n) {
    (void)p;
    double most = x[0];
    for (int i = 1; i < n; i++) most = fmax(most, x[i]);
    return most;
}
static double call_round(parser *p, const double *x, int n) {
    if (n == 1) return round(x[0]);
    if (x[1] != floor(x[1]) || fabs(x[1]) > 15) return fail(p, "round takes a whole number of decimals from -15 to 15");
    double scale = pow(10, fabs(x[1]));
    return x[1] < 0 ? round(x[0] / scale) * scale : round(x[0] * scale) / scale;
}

static const struct function {
    const char *name;
    int min, max; /* arguments */
    double (*call)(parser *p, const double *x, int n);
} functions[] = {{"sqrt", 1, 1, call_sqrt},   {"abs", 1, 1, call_abs},     {"min", 1, MAX_ARGUMENTS, call_min},
                 {"max", 1, MAX_ARGUMENTS, call_max},
                 {"round", 1, 2, call_round}, {"floor", 1, 1, call_floor}, {"ceil", 1, 1, call_ceil}};

static bool names(const char *name, const char *text, size_t n) { return strlen(name) == n && strncasecmp(name, text, n) == 0; }

static double call(parser *p, const struct function *f) {
    double x[MAX_ARGUMENTS];
    int n = 0;
    if (!accept(p, '(')) return unexpected(p, "'(' after the function name");
    do {
        if (n == f->max) return fail(p, "%s takes at most %d argument%s", f->name, f->max, f->max == 1 ? "" : "s");
        x[n++] = expression(p);
    } while (accept(p, ','));
    if (!accept(p, ')')) return unexpected(p, "')'");
    if (p->failed) return 0;
    return f->call(p, x, n);
}

static double name(parser *p) {
    const char *text = p->text + p->at;
    size_t n = 0;
    while (p->at + n < p->n && (isalnum((unsigned char)text[n]) || text[n] == '_')) n++;
    p->at += n;
    if (names("pi", text, n)) return 3.14159265358979323846;
    if (names("e", text, n)) return 2.71828182845904523536;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (names(functions[i].name, text, n)) return call(p, &functions[i]);
    return fail(p, "unknown name \"%.*s\"; known are sqrt, abs, min, max, round, floor, ceil, pi and e", n > 32 ? 32 : (int)n, text);
}

static double primary(parser *p) {
    char c = peek(p);
    if (isdigit((unsigned char)c) || c == '.') return number(p);
    if (isalpha((unsigned char)c)) return name(p);
    if (!accept(p, '(')) return unexpected(p, "a number");
    double value = expression(p);
    if (!accept(p, ')')) return unexpected(p, "')'");
    return value;
}

static bool accept_power(parser *p) {
    if (accept(p, '^')) return true;
    if (p->failed || peek(p) != '*' || p->at + 1 >= p->n || p->text[p->at + 1] != '*') return false;
    p->at += 2;
    return true;
}

/* unary and power: signs in front bind weaker than ^, signs behind it belong to the exponent. */
static double unary(parser *p) {
    if (p->failed) return 0;
    if (++p->depth > TOOLSVC_CALCULATOR_MAX_DEPTH) return fail(p, "nested deeper than %d levels", (int)TOOLSVC_CALCULATOR_MAX_DEPTH);
    double value;
    if (accept(p, '-')) {
        value = -unary(p);
    } else if (accept(p, '+')) {
        value = unary(p);
    } else {
        value = primary(p);
        if (accept_power(p)) value = pow(value, unary(p));
    }
    p->depth--;
    return value;
}

static double term(parser *p) {
    double value = unary(p);
    while (!p->failed) {
        if (accept(p, '*')) {
            value *= unary(p);
        } else if (accept(p, '/') || accept(p, '%')) {
            char operation = p->text[p->at - 1];
            double by = unary(p);
            if (by == 0) return fail(p, "division by zero");
            value = operation == '/' ? value / by : fmod(value, by);
        } else {
            break;
        }
    }
    return value;
}

static double expression(parser *p) {
    double value = term(p);
    while (!p->failed) {
        if (accept(p, '+'))
            value += term(p);
        else if (accept(p, '-'))
            value -= term(p);
        else
            break;
    }
    return value;
}

bool toolsvc_calculate(const char *text, size_t n, double *value, char *error) {
    parser p = {.text = text, .n = n, .error = error};
    error[0] = 0;
    if (n > TOOLSVC_CALCULATOR_MAX_TEXT) {
        fail(&p, "the expression has %zu characters; at most %d are allowed", n, (int)TOOLSVC_CALCULATOR_MAX_TEXT);
        return false;
    }
    *value = expression(&p);
    peek(&p);
    if (!p.failed && p.at < p.n) unexpected(&p, "an operator or the end");
    if (!p.failed && !isfinite(*value)) fail(&p, "the result is not a finite number");
    return !p.failed;
}

void toolsvc_number_print(double value, char *out) {
    enum { SIZE = 32 };
    if (value == 0) value = fabs(value); /* no minus sign */
    if (value == floor(value) && fabs(value) < 1e15) {
        snprintf(out, SIZE, "%.0f", value);
        return;
    }
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(out, SIZE, "%.*g", precision, value);
        if (strtod(out, NULL) == value) return;
    }
}
