/* See text.h. */
#include "toolsvc/text.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/base/json.h"

void toolsvc_append_utf8(rlf_str *out, const char *bytes, size_t n) {
    size_t good = 0; /* begin of the run not yet copied */
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)bytes + i, (utf8proc_ssize_t)(n - i), &c);
        if (len > 0 && c != 0) {
            i += (size_t)len;
            continue;
        }
        rlf_str_append(out, bytes + good, i - good);
        rlf_str_puts(out, "\xef\xbf\xbd");
        good = ++i;
    }
    rlf_str_append(out, bytes + good, n - good);
}

/* The UTF-16 unit that an escape, "\u0041", stands for; 0: there is none, or it is NUL. */
static unsigned unit_at(const char *at) {
    char digits[5] = "";
    if (at[0] != '\\' || at[1] != 'u' || strspn(at + 2, "0123456789abcdefABCDEF") < 4) return 0;
    memcpy(digits, at + 2, 4);
    return (unsigned)strtoul(digits, NULL, 16);
}

/* Makes escapes of half a character such of U+FFFD, which are as long. False: there are none. */
static bool mend_halves(char *text, size_t n) {
    bool mended = false;
    for (size_t i = 0; i < n;) {
        unsigned unit = unit_at(text + i), half = unit >> 10; /* 0x36: the first of two, 0x37: the second */
        bool whole = half == 0x36 && unit_at(text + i + 6) >> 10 == 0x37;
        if ((half == 0x36 || half == 0x37) && !whole) {
            memcpy(text + i + 2, "fffd", 4);
            mended = true;
        }
        i += whole ? 12 : unit ? 6 : text[i] == '\\' ? 2 : 1;
    }
    return mended;
}

json_t *toolsvc_json_parse(const char *text, size_t n, size_t flags, json_error_t *error) {
    json_t *value = rlf_json_parse(text, n, flags, error);
    rlf_str whole = {0};
    if (value) return value;
    rlf_str_append(&whole, text, n);
    if (mend_halves(whole.ptr, n)) value = rlf_json_parse(whole.ptr, n, flags, error);
    rlf_str_clean_up(&whole);
    return value;
}
