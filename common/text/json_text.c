/* The JSON writer behind json_text.h. */
#include "common/text/json_text.h"

#include <stdlib.h>
#include <string.h>

void rlf_json_write_text(const char *s, size_t n, rlf_str *out) {
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

static void write_value(const json_t *value, rlf_json_style style, size_t level, rlf_str *out);

static bool is_tight(rlf_json_style style) { return style == RLF_JSON_TIGHT || style == RLF_JSON_SORTED; }

static void new_line(rlf_json_style style, size_t level, rlf_str *out) {
    if (style != RLF_JSON_INDENTED) return;
    rlf_str_putc(out, '\n');
    for (size_t i = 0; i < level; i++) rlf_str_puts(out, "    ");
}

static const char *comma(rlf_json_style style) { return style == RLF_JSON_SPACED ? ", " : ","; }

static void write_array(const json_t *value, rlf_json_style style, size_t level, rlf_str *out) {
    size_t n = json_array_size(value);
    rlf_str_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i) rlf_str_puts(out, comma(style));
        new_line(style, level + 1, out);
        write_value(json_array_get(value, i), style, level + 1, out);
    }
    if (n) new_line(style, level, out);
    rlf_str_putc(out, ']');
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static void write_object(json_t *value, rlf_json_style style, size_t level, rlf_str *out) {
    size_t n = json_object_size(value), i = 0;
    const char **keys = rlf_calloc(n + 1, sizeof *keys), *key; /* (n) */
    json_t *item;
    json_object_foreach(value, key, item) keys[i++] = key;
    if (style == RLF_JSON_SORTED) qsort(keys, n, sizeof *keys, by_bytes);
    rlf_str_putc(out, '{');
    for (i = 0; i < n; i++) {
        if (i) rlf_str_puts(out, comma(style));
        new_line(style, level + 1, out);
        rlf_json_write_text(keys[i], strlen(keys[i]), out);
        rlf_str_puts(out, is_tight(style) ? ":" : ": ");
        write_value(json_object_get(value, keys[i]), style, level + 1, out);
    }
    if (n) new_line(style, level, out);
    rlf_str_putc(out, '}');
    free(keys);
}

static void write_value(const json_t *value, rlf_json_style style, size_t level, rlf_str *out) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: write_object((json_t *)value, style, level, out); break; /* iterating does not change it */
    case JSON_ARRAY: write_array(value, style, level, out); break;
    case JSON_STRING: rlf_json_write_text(json_string_value(value), json_string_length(value), out); break;
    case JSON_INTEGER: rlf_str_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value)); break;
    case JSON_REAL: write_real(json_real_value(value), out); break;
    case JSON_TRUE: rlf_str_puts(out, "true"); break;
    case JSON_FALSE: rlf_str_puts(out, "false"); break;
    case JSON_NULL: rlf_str_puts(out, "null"); break;
    }
}

void rlf_json_write(const json_t *value, rlf_json_style style, rlf_str *out) { write_value(value, style, 0, out); }

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
