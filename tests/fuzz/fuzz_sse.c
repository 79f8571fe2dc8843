/* Server-sent events in pieces: the same events come whatever the pieces are, and nothing grows beyond the limit. The first byte of the
 * input is the length of a piece. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "toolsvc/http/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { LIMIT = 4096 };

static bool note(void *user, const char *type, rlf_slice data) {
    rlf_str *out = user;
    assert(data.len <= LIMIT);
    rlf_str_puts(out, type);
    rlf_str_append(out, data.ptr, data.len);
    rlf_str_putc(out, '|');
    return true;
}

/* False: too large. */
static bool read_in_pieces(const char *bytes, size_t n, size_t piece, rlf_str *out) {
    toolsvc_sse sse = {.max_bytes = LIMIT};
    bool good = true;
    for (size_t at = 0; good && at < n; at += piece) good = toolsvc_sse_feed(&sse, bytes + at, n - at < piece ? n - at : piece, note, out);
    assert(sse.line.len <= LIMIT && sse.data.len <= LIMIT && sse.id.len <= LIMIT && sse.next_id.len <= LIMIT);
    toolsvc_sse_clean_up(&sse);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    rlf_str whole = {0}, pieces = {0};
    bool good = read_in_pieces((const char *)data + 1, n - 1, n, &whole);
    assert(read_in_pieces((const char *)data + 1, n - 1, (size_t)data[0] + 1, &pieces) == good);
    assert(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.ptr, pieces.ptr, whole.len) == 0));
    rlf_str_clean_up(&whole);
    rlf_str_clean_up(&pieces);
    return 0;
}
