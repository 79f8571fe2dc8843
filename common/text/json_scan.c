/* The cursor behind json_scan.h. */
#include "common/text/json_scan.h"

#include <string.h>
#include <utf8proc.h>

rlf_status rlf_json_scan_fail(const rlf_json_scan *scan, size_t at, const char *what) {
    size_t line = 1;
    for (size_t i = 0; i < at && i < scan->n; i++) line += scan->text[i] == '\n';
    return RLF_RAISE(INVALID, "%s: line %zu, byte %zu: %s", scan->label, line, at + 1, what);
}

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

char rlf_json_scan_peek(rlf_json_scan *scan) {
    while (scan->at < scan->n && is_space(scan->text[scan->at])) scan->at++;
    return scan->at < scan->n ? scan->text[scan->at] : '\0';
}

rlf_status rlf_json_scan_mark(rlf_json_scan *scan, char mark) {
    const char what[] = {'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', ' ', '\'', mark, '\'', '\0'};
    if (rlf_json_scan_peek(scan) != mark) return rlf_json_scan_fail(scan, scan->at, what);
    scan->at++;
    return RLF_OK;
}

rlf_status rlf_json_scan_more(rlf_json_scan *scan, char close, size_t *taken, bool *more) {
    *more = rlf_json_scan_peek(scan) != close;
    if (!*more) {
        scan->at++;
        return RLF_OK;
    }
    if ((*taken)++ == 0) return RLF_OK;
    return rlf_json_scan_mark(scan, ',');
}

/* ---- strings ---- */

/* Four hexadecimal digits at `at`, or -1. */
static int32_t hex4(const rlf_json_scan *scan, size_t at) {
    int32_t value = 0;
    if (scan->n < 4 || at > scan->n - 4) return -1;
    for (size_t i = at; i < at + 4; i++) {
        char c = scan->text[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* The character of a \uXXXX at `at` (after the u), or of a pair of surrogates; -1 if it is neither. Sets the length read. */
static int32_t escaped_char(const rlf_json_scan *scan, size_t at, size_t *length) {
    int32_t high = hex4(scan, at), low;
    *length = 4;
    if (high < 0xd800 || high > 0xdfff) return high;
    if (high > 0xdbff || at + 6 > scan->n || scan->text[at + 4] != '\\' || scan->text[at + 5] != 'u') return -1;
    low = hex4(scan, at + 6);
    *length = 10;
    return low >= 0xdc00 && low <= 0xdfff ? 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00) : -1;
}

/* Appends what the escape at scan->at (after the backslash) stands for. */
static bool read_escape(rlf_json_scan *scan, rlf_str *out) {
    static const char letters[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    char c = scan->at < scan->n ? scan->text[scan->at++] : '\0';
    const char *letter = c ? strchr(letters, c) : NULL;
    if (letter) {
        rlf_str_putc(out, meaning[letter - letters]);
        return true;
    }
    size_t length;
    int32_t value = c == 'u' ? escaped_char(scan, scan->at, &length) : -1;
    if (value < 0) return false;
    utf8proc_uint8_t bytes[4];
    rlf_str_append(out, bytes, (size_t)utf8proc_encode_char(value, bytes));
    scan->at += length;
    return true;
}

/* The first quote, backslash or control character at or after scan->at; scan->n if none. */
static size_t plain_end(const rlf_json_scan *scan) {
    size_t i = scan->at;
    while (i < scan->n && scan->text[i] != '"' && scan->text[i] != '\\' && (unsigned char)scan->text[i] >= 0x20) i++;
    return i;
}

rlf_status rlf_json_scan_string(rlf_json_scan *scan, rlf_str *buffer, rlf_slice *out) {
    size_t begin = scan->at;
    if (rlf_json_scan_peek(scan) != '"') return rlf_json_scan_fail(scan, scan->at, "expected a string");
    scan->at++;
    rlf_str_reset(buffer);
    for (bool escaped = false;; escaped = true) {
        size_t end = plain_end(scan);
        if (end == scan->n) return rlf_json_scan_fail(scan, begin, "a string without an end");
        rlf_slice run = {scan->text + scan->at, end - scan->at};
        char c = scan->text[end];
        scan->at = end + 1;
        if (c == '"' && !escaped) return *out = run, RLF_OK;
        rlf_str_append(buffer, run.ptr, run.len);
        if (c == '"') return *out = (rlf_slice){buffer->ptr, buffer->len}, RLF_OK;
        if (c != '\\') return rlf_json_scan_fail(scan, end, "a control character in a string");
        if (!read_escape(scan, buffer)) return rlf_json_scan_fail(scan, end, "a bad escape in a string");
    }
}

rlf_status rlf_json_scan_key(rlf_json_scan *scan, rlf_str *buffer, rlf_slice *out) {
    rlf_status status = rlf_json_scan_string(scan, buffer, out);
    return status == RLF_OK ? rlf_json_scan_mark(scan, ':') : status;
}

/* ---- other values ---- */

bool rlf_json_scan_int(rlf_json_scan *scan, int64_t *out) {
    (void)rlf_json_scan_peek(scan);
    size_t at = scan->at, first;
    bool negative = at < scan->n && scan->text[at] == '-';
    int64_t value = 0;
    for (first = at += negative; at < scan->n && at - first < 19 && scan->text[at] >= '0' && scan->text[at] <= '9'; at++)
        value = at - first < 18 ? value * 10 + (scan->text[at] - '0') : value;
    if (at == first || at - first > 18 || (scan->text[first] == '0' && at - first > 1)) return false;
    if (at < scan->n && memchr(".eE", scan->text[at], 3)) return false;
    scan->at = at;
    *out = negative ? -value : value;
    return true;
}

/* Goes on to behind the string that begins here. */
static rlf_status skip_string(rlf_json_scan *scan) {
    size_t begin = scan->at++;
    for (size_t end; (end = plain_end(scan)) < scan->n;) {
        scan->at = end + 1;
        if (scan->text[end] == '"') return RLF_OK;
        if (scan->text[end] == '\\') scan->at++; /* perhaps past the end: plain_end then stops there */
    }
    return rlf_json_scan_fail(scan, begin, "a string without an end");
}

/* Whether a number, true, false or null ends before this byte. */
static bool ends_scalar(char c) { return is_space(c) || c == ',' || c == ':' || c == '"' || c == '[' || c == ']' || c == '{' || c == '}'; }

rlf_status rlf_json_scan_skip(rlf_json_scan *scan) {
    size_t depth = 0;
    rlf_status status;
    do {
        char c = rlf_json_scan_peek(scan);
        if (c == '\0') return rlf_json_scan_fail(scan, scan->at, "the document ends within a value");
        if (c == '"') {
            if ((status = skip_string(scan)) != RLF_OK) return status;
            continue;
        }
        if (depth == 0 && strchr(",:]}", c)) return rlf_json_scan_fail(scan, scan->at, "expected a value");
        if (c == '{' || c == '[') depth++;
        else if (c == '}' || c == ']') depth--;
        scan->at++;
        if (ends_scalar(c)) continue;
        while (scan->at < scan->n && !ends_scalar(scan->text[scan->at])) scan->at++;
    } while (depth > 0);
    return RLF_OK;
}

rlf_status rlf_json_scan_load(rlf_json_scan *scan, json_t **out) {
    json_error_t error;
    (void)rlf_json_scan_peek(scan);
    size_t begin = scan->at;
    rlf_status status = rlf_json_scan_skip(scan);
    if (status != RLF_OK) return status;
    *out = json_loadb(scan->text + begin, scan->at - begin, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    return *out ? RLF_OK : rlf_json_scan_fail(scan, begin + (size_t)error.position, error.text);
}
