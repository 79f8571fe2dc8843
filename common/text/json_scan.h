/* A cursor over JSON text, for documents with tables too large for a tree of values: it walks objects and arrays member by member,
 * reads strings and integers in place, and hands any other value to jansson. Inside common/text only.
 *
 * The text must be valid UTF-8 (rlf_utf8_valid). What a caller skips is checked only as far as finding its end needs: load it, or
 * walk it later, to have it checked whole. Errors are INVALID with the line and the byte. A cursor is a value: copy it to come back. */
#ifndef RLF_COMMON_TEXT_JSON_SCAN_H
#define RLF_COMMON_TEXT_JSON_SCAN_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/mem.h"

typedef struct rlf_json_scan {
    const char *label; /* the document's name in messages */
    const char *text;
    size_t n, at; /* bytes; the next one to read */
} rlf_json_scan;

/* The next byte that is not white space, left unread; 0 at the end. */
char rlf_json_scan_peek(rlf_json_scan *scan);
/* Reads this one byte of punctuation. */
rlf_status rlf_json_scan_mark(rlf_json_scan *scan, char mark) RLF_MUST_USE;
/* After the opening bracket and after each member: whether another member follows (its comma is read, if *taken > 0) or `close`
 * was read. Counts in *taken, which starts at 0. */
rlf_status rlf_json_scan_more(rlf_json_scan *scan, char close, size_t *taken, bool *more) RLF_MUST_USE;
/* A string's contents: a part of the text where nothing is escaped, else in `buffer`, valid until that is used again. */
rlf_status rlf_json_scan_string(rlf_json_scan *scan, rlf_str *buffer, rlf_slice *out) RLF_MUST_USE;
/* A key and its colon. */
rlf_status rlf_json_scan_key(rlf_json_scan *scan, rlf_str *buffer, rlf_slice *out) RLF_MUST_USE;
/* An integer of at most 18 digits; false, and nothing is read, if there is another value. */
bool rlf_json_scan_int(rlf_json_scan *scan, int64_t *out);
rlf_status rlf_json_scan_skip(rlf_json_scan *scan) RLF_MUST_USE;
/* Any value, as a tree (the caller's reference). Keys given twice are refused. */
rlf_status rlf_json_scan_load(rlf_json_scan *scan, json_t **out) RLF_MUST_USE;
/* Raises "label: line, byte: what" for the place `at`. */
rlf_status rlf_json_scan_fail(const rlf_json_scan *scan, size_t at, const char *what);

#endif
