/* See text.h. */
#include "toolsvc/text.h"

#include <utf8proc.h>

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
