/* UTF-8 behind utf8.h. utf8proc knows the characters; the canonical ordering is done here, because utf8proc's is quadratic in the length of
 * a run of combining marks, and such runs come from outside. */
#include "common/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- validity and white space ---- */

/* Bytes of the character that this one begins, 0 if none. Sets the range of the second: narrower where a shorter form would do, and where
 * surrogates or what is above U+10FFFF would begin. */
static size_t length_by_first(unsigned char first, unsigned char *low, unsigned char *high) {
    *low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    *high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (first < 0x80) return 1;
    return first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : first >= 0xf0 && first <= 0xf4 ? 4 : 0;
}

rlf_utf8_kind rlf_utf8_next(const char *text, size_t n, size_t *length) {
    const unsigned char *s = (const unsigned char *)text;
    unsigned char low, high;
    size_t whole = length_by_first(s[0], &low, &high);
    for (*length = 1; *length < whole; (*length)++) {
        if (*length == n) return RLF_UTF8_CUT;
        if (s[*length] < low || s[*length] > high) return RLF_UTF8_BROKEN;
        low = 0x80;
        high = 0xbf;
    }
    return whole ? RLF_UTF8_WHOLE : RLF_UTF8_BROKEN;
}

size_t rlf_utf8_valid(const char *text, size_t n) {
    size_t at = 0, length;
    while (at < n) {
        if ((unsigned char)text[at] < 0x80) at++;
        else if (rlf_utf8_next(text + at, n - at, &length) == RLF_UTF8_WHOLE) at += length;
        else break;
    }
    return at;
}

static bool is_space(int32_t c) {
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

size_t rlf_utf8_space_at_start(const char *text, size_t n) {
    utf8proc_int32_t c;
    utf8proc_ssize_t len = n ? utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &c) : 0;
    return len > 0 && is_space(c) ? (size_t)len : 0;
}

size_t rlf_utf8_space_at_end(const char *text, size_t n) {
    size_t begin = n;
    while (begin > 0 && n - begin < 4 && ((unsigned char)text[--begin] & 0xc0) == 0x80) {}
    size_t len = rlf_utf8_space_at_start(text + begin, n - begin);
    return begin + len == n ? len : 0;
}

/* ---- NFC ---- */

/* Below U+0300 every character is its own NFC and none combines with what precedes it: the first byte of U+0300 is 0xCC. */
static bool may_change(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] >= 0xcc) return true;
    return false;
}

typedef struct codepoints {
    int32_t *v;
    size_t n, cap;
} codepoints;

static void push_decomposed(codepoints *out, int32_t c) {
    enum { LONGEST = 18 }; /* the longest decomposition in Unicode; canonical ones have 4 */
    while (out->cap < out->n + LONGEST) out->v = rlf_grow(out->v, out->cap, &out->cap, sizeof *out->v);
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(c, out->v + out->n, LONGEST, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
    if (n >= 0 && n <= LONGEST) out->n += (size_t)n;
}

static int combining_class(int32_t c) { return c < 0x300 ? 0 : utf8proc_get_property(c)->combining_class; }

/* Stable counting sort by combining class of v[0 .. n), all marks. */
static void sort_marks(int32_t *v, size_t n) {
    size_t begin[257] = {0};
    int32_t *sorted = rlf_calloc(n, sizeof *sorted);
    for (size_t i = 0; i < n; i++) begin[combining_class(v[i]) + 1]++;
    for (int c = 0; c < 256; c++) begin[c + 1] += begin[c];
    for (size_t i = 0; i < n; i++) sorted[begin[combining_class(v[i])]++] = v[i];
    memcpy(v, sorted, n * sizeof *v);
    free(sorted);
}

static void order_marks(int32_t *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t end = i;
        bool ordered = true;
        for (int last = 0, c; end < n && (c = combining_class(v[end])) != 0; end++, last = c)
            if (c < last) ordered = false;
        if (!ordered) sort_marks(v + i, end - i);
        if (end > i) i = end - 1;
    }
}

/* The reference normalises by the tables of Unicode 9: to it, characters assigned later neither compose nor reorder, and models
 * were trained on what it gives. These are the ranges, all unassigned in Unicode 9, in which later versions have such characters. */
static const int32_t after_unicode_9[][2] = {
    {0x5c8, 0x5c9},     {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1aff},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},
    {0x105c0, 0x105ff}, {0x10d00, 0x10dff}, {0x10e80, 0x10fff}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x11380, 0x113ff},
    {0x1145e, 0x1145e}, {0x11800, 0x1184f}, {0x11900, 0x1195f}, {0x119a0, 0x11aaf}, {0x11d00, 0x11daf}, {0x11f00, 0x11f5f},
    {0x16100, 0x1613f}, {0x16d40, 0x16d7f}, {0x16ff0, 0x16ff1}, {0x1d127, 0x1d128}, {0x1d250, 0x1d28f}, {0x1e08f, 0x1e08f},
    {0x1e100, 0x1e14f}, {0x1e290, 0x1e2ff}, {0x1e4d0, 0x1e4ff}, {0x1e5d0, 0x1e5ff}, {0x1e6c0, 0x1e6ff},
};

static bool is_inert(int32_t c) {
    size_t low = 0, high = sizeof after_unicode_9 / sizeof after_unicode_9[0];
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > after_unicode_9[mid][1]) low = mid + 1;
        else high = mid;
    }
    return low < sizeof after_unicode_9 / sizeof after_unicode_9[0] && c >= after_unicode_9[low][0];
}

static void append_char(rlf_str *out, int32_t c) {
    utf8proc_uint8_t bytes[4];
    rlf_str_append(out, bytes, (size_t)utf8proc_encode_char(c, bytes));
}

static void flush_composed(codepoints *points, rlf_str *out) {
    order_marks(points->v, points->n);
    utf8proc_ssize_t n = utf8proc_normalize_utf32(points->v, (utf8proc_ssize_t)points->n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < n; i++) append_char(out, points->v[i]);
    points->n = 0;
}

rlf_slice rlf_utf8_nfc(const char *text, size_t n, rlf_str *buffer) {
    if (!may_change(text, n)) return (rlf_slice){text, n};
    codepoints points = {0};
    rlf_str_reset(buffer);
    for (size_t at = 0; at < n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(n - at), &c);
        if (len <= 0) break;
        at += (size_t)len;
        if (is_inert(c)) {
            flush_composed(&points, buffer);
            append_char(buffer, c);
        } else {
            push_decomposed(&points, c);
        }
    }
    flush_composed(&points, buffer);
    free(points.v);
    return (rlf_slice){buffer->ptr ? buffer->ptr : text, buffer->len};
}
