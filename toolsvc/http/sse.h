/* Server-sent events (WHATWG HTML, 9.2): a parser that takes the bytes of a text/event-stream as they come, in pieces of any size.
 *
 * Lines end with CR LF, LF or CR; a byte-order mark at the start, comments and unknown fields are skipped; several data lines make one text
 * with line feeds between. What is not ended by an empty line is no event. `id` is kept: a stream that broke off is resumed after the event
 * that named it.
 *
 * Bounded: a line or an event's data of more than max_bytes ends the parsing. */
#ifndef RLF_TOOLSVC_SSE_H
#define RLF_TOOLSVC_SSE_H

#include <stdbool.h>

#include "common/base/mem.h"

/* Zeroed, with max_bytes set: at the start of a stream. */
typedef struct toolsvc_sse {
    size_t max_bytes;
    int64_t retry_ms;        /* what the last `retry` field said; 0: none */
    rlf_str id;              /* of the last event that named one; may be empty */
    rlf_str line, type, data, next_id; /* private, as all below: of the event that is not over */
    bool has_data, has_id, started, after_cr;
} toolsvc_sse;

/* type: "" if the event names none. Both are borrowed. False: stop here; the parser may be gone. */
typedef bool toolsvc_sse_fn(void *user, const char *type, rlf_slice data);

void toolsvc_sse_clean_up(toolsvc_sse *sse);
/* The same stream goes on over another connection: an event that was not over is dropped; id and retry_ms stay. */
void toolsvc_sse_restart(toolsvc_sse *sse);
/* False: too large; no more may be fed. */
bool toolsvc_sse_feed(toolsvc_sse *sse, const char *bytes, size_t n, toolsvc_sse_fn *each, void *user);

#endif
