/* One value of the table: from a YAML scalar to its field and back (keys.h). */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/keys.h"

enum { NUMBER_MAX = 63 }; /* bytes of a number */

static void *field(const rlf_key *key, void *base) { return (char *)base + key->offset; }
static const void *const_field(const rlf_key *key, const void *base) { return (const char *)base + key->offset; }

const rlf_key *rlf_key_find(const rlf_key *keys, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(keys[i].name, name) == 0) return &keys[i];
    return NULL;
}

/* ---- reading ---------------------------------------------------------------------------------------------------------------------- */

static bool set_int(const rlf_key *key, int64_t *out, const char *text) {
    if (strspn(text, "+-0123456789") != strlen(text)) return false;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || (double)value < key->min || (double)value > key->max) return false;
    *out = value;
    return true;
}

static bool set_real(const rlf_key *key, double *out, const char *text) {
    if (strspn(text, "+-.eE0123456789") != strlen(text)) return false; /* no hexadecimal, nan, inf */
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < key->min || value > key->max) return false;
    *out = value;
    return true;
}

static bool set_bool(bool *out, const char *text) {
    bool yes = strcmp(text, "true") == 0;
    if (!yes && strcmp(text, "false") != 0) return false;
    *out = yes;
    return true;
}

static bool is_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (const char *at = choices; n; at++) {
        size_t len = strcspn(at, "|");
        if (len == n && memcmp(at, text, n) == 0) return true;
        at += len;
        if (!*at) break;
    }
    return false;
}

static bool set_text(const rlf_key *key, char **out, const char *text, bool quoted) {
    if (!quoted && (strcmp(text, "~") == 0 || strcmp(text, "null") == 0)) text = "";
    if (key->choices && !is_choice(key->choices, text) && strcmp(text, key->fallback) != 0) return false;
    char *copy = rlf_strdup(text);
    free(*out);
    *out = copy;
    return true;
}

bool rlf_key_set(const rlf_key *key, void *base, const char *text, size_t n, bool quoted) {
    if (memchr(text, '\0', n)) return false;
    if (key->type == RLF_KEY_TEXT || key->type == RLF_KEY_JSON) return set_text(key, field(key, base), text, quoted);
    if (quoted || n == 0 || n > NUMBER_MAX) return false;
    switch (key->type) {
    case RLF_KEY_INT: return set_int(key, field(key, base), text);
    case RLF_KEY_REAL: return set_real(key, field(key, base), text);
    default: return set_bool(field(key, base), text);
    }
}

/* ---- printing --------------------------------------------------------------------------------------------------------------------- */

void rlf_real_print(double value, rlf_str *out) {
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    if (strchr(text, 'e') && fabs(value) >= 1 && fabs(value) < 1e16) snprintf(text, sizeof text, "%.0f", value); /* 30, not 3e+01 */
    rlf_str_puts(out, text);
}

/* The code points that YAML does not allow in plain sight, or that end a line in it. */
static bool needs_escape(uint32_t c) {
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 || c == 0xFEFF || (c & 0xFFFE) == 0xFFFE;
}

/* The next code point of well-formed UTF-8 (libyaml has checked it). */
static uint32_t next_code_point(const unsigned char **at) {
    uint32_t c = *(*at)++;
    int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC0 ? 1 : 0;
    if (more) c &= 0x3Fu >> more;
    while (more-- && **at) c = c << 6 | (*(*at)++ & 0x3F);
    return c;
}

static void print_quoted(const char *text, rlf_str *out) {
    rlf_str_putc(out, '"');
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        const unsigned char *start = at;
        uint32_t c = next_code_point(&at);
        if (c == '"' || c == '\\') rlf_str_printf(out, "\\%c", (int)c);
        else if (c == '\n') rlf_str_puts(out, "\\n");
        else if (needs_escape(c)) rlf_str_printf(out, "\\U%08X", (unsigned)c);
        else rlf_str_append(out, start, (size_t)(at - start));
    }
    rlf_str_putc(out, '"');
}

/* Quoted, a number or boolean would be read as a text; lists, maps and texts would lose characters that YAML does not have in plain sight. */
static void print_json(const char *text, rlf_str *out) {
    if (*text && !strchr("{[\"", *text)) rlf_str_puts(out, text);
    else print_quoted(text, out);
}

void rlf_key_print(const rlf_key *key, const void *base, rlf_str *out) {
    const void *at = const_field(key, base);
    switch (key->type) {
    case RLF_KEY_INT: rlf_str_printf(out, "%lld", (long long)*(const int64_t *)at); break;
    case RLF_KEY_REAL: rlf_real_print(*(const double *)at, out); break;
    case RLF_KEY_BOOL: rlf_str_puts(out, *(const bool *)at ? "true" : "false"); break;
    case RLF_KEY_TEXT: print_quoted(*(char *const *)at, out); break;
    case RLF_KEY_JSON: print_json(*(char *const *)at, out); break;
    }
}

void rlf_key_expected(const rlf_key *key, rlf_str *out) {
    if (key->type == RLF_KEY_BOOL) {
        rlf_str_puts(out, "true or false");
    } else if (key->type == RLF_KEY_JSON) {
        rlf_str_puts(out, "a value, list or map");
    } else if (key->type == RLF_KEY_TEXT && !key->choices) {
        rlf_str_puts(out, "text");
    } else if (key->type == RLF_KEY_TEXT) {
        rlf_str_puts(out, strchr(key->choices, '|') ? "one of " : "");
        for (const char *c = key->choices; *c; c++) rlf_str_puts(out, *c == '|' ? ", " : (char[]){*c, '\0'});
    } else {
        rlf_str_puts(out, key->type == RLF_KEY_INT ? "an integer from " : "a number from ");
        rlf_real_print(key->min, out);
        rlf_str_puts(out, " to ");
        rlf_real_print(key->max, out);
    }
}
