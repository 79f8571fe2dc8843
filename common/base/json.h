/* JSON from outside, read by jansson with two things that it refuses by default: a NUL in a text (take a text's length from
 * json_string_length, or refuse it where it is used), and an integer beyond 64 bits, which becomes a real. Still refused are a NUL in a
 * key and a real that no double holds. */
#ifndef RLF_COMMON_BASE_JSON_H
#define RLF_COMMON_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/base/status.h"

/* As json_loadb: a new reference, or NULL and *error, which may be NULL. Positions are those of `text`. */
json_t *rlf_json_parse(const char *text, size_t n, size_t flags, json_error_t *error);
/* The value in a file of at most max_bytes: a new reference. Errors name the file, and the line of what is no JSON. */
rlf_status rlf_json_read_file(const char *path, size_t max_bytes, size_t flags, json_t **out) RLF_MUST_USE;
/* What an error is, to stand before its text: "not JSON", or "a number out of range". */
const char *rlf_json_problem(const json_error_t *error);
/* Bytes of the byte order mark that a file's text begins with, as some editors write it: 3, or 0. */
size_t rlf_json_mark(const char *text, size_t n);
/* A text that is the C string of its bytes. */
bool rlf_json_is_text(const json_t *value);

#endif
