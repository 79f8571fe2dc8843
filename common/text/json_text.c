/* The JSON writer behind json_text.h. */
#include "common/text/json_text.h"

#include <stdlib.h>
#include <string.h>

static void write_string(const char *s, size_t n, rlf_str *out) {
    static const char escaped[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    rlf_str_putc(out, '"');
    for (size_t i = 0; i < n; i++) {
        const char *at = s[i] ? strchr(escaped, s[i]) : NULL;
        if (at) rlf_str_printf(out, "\\%c", letter[at - escaped]);
        else if ((unsigned char)s[i] < 0x20) rlf_str_printf(out, "\\u%04x", (unsigned)s[i]);
        else rlf_str_putc(out, s[i]);
    }
    rlf_str_putc(out, '"');
}

/* Python's repr: the fewest digits that read back the same; an exponent if it is below -4 or above 15. */
static void write_real(double x, rlf_str *out) {
    char digits[40];
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, x);
    while (strtod(digits, NULL) != x && ++precision < 17);
    int exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent > 15) rlf_str_puts(out, digits);
    else rlf_str_printf(out, "%.*f", precision > exponent ? precision - exponent : 1, x);
}

static void write_array(const json_t *value, bool compact, rlf_str *out) {
    rlf_str_putc(out, '[');
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (i) rlf_str_puts(out, compact ? "," : ", ");
        rlf_json_write(json_array_get(value, i), compact, out);
    }
    rlf_str_putc(out, ']');
}

static void write_object(json_t *value, bool compact, rlf_str *out) {
    const char *key;
    json_t *item;
    const char *separator = "";
    rlf_str_putc(out, '{');
    json_object_foreach(value, key, item) {
        rlf_str_puts(out, separator);
        write_string(key, strlen(key), out);
        rlf_str_puts(out, compact ? ":" : ": ");
        rlf_json_write(item, compact, out);
        separator = compact ? "," : ", ";
    }
    rlf_str_putc(out, '}');
}

void rlf_json_write(const json_t *value, bool compact, rlf_str *out) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: write_object((json_t *)value, compact, out); break; /* iterating does not change it */
    case JSON_ARRAY: write_array(value, compact, out); break;
    case JSON_STRING: write_string(json_string_value(value), json_string_length(value), out); break;
    case JSON_INTEGER: rlf_str_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value)); break;
    case JSON_REAL: write_real(json_real_value(value), out); break;
    case JSON_TRUE: rlf_str_puts(out, "true"); break;
    case JSON_FALSE: rlf_str_puts(out, "false"); break;
    case JSON_NULL: rlf_str_puts(out, "null"); break;
    }
}

bool rlf_json_depth_within(const json_t *value, int levels) {
    if (!json_is_array(value) && !json_is_object(value)) return true;
    if (levels == 0) return false;
    const char *key;
    json_t *item;
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!rlf_json_depth_within(json_array_get(value, i), levels - 1)) return false;
    json_object_foreach((json_t *)value, key, item)
        if (!rlf_json_depth_within(item, levels - 1)) return false;
    return true;
}
