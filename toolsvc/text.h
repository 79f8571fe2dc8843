/* Text from outside. */
#ifndef RLF_TOOLSVC_TEXT_H
#define RLF_TOOLSVC_TEXT_H

#include <jansson.h>

#include "common/base/mem.h"

/* Appends n bytes as valid UTF-8: each byte that is not becomes U+FFFD, and so does NUL. */
void toolsvc_append_utf8(rlf_str *out, const char *bytes, size_t n);

/* As rlf_json_parse (common/base/json.h), with one thing more: the escape of half a character, "\ud83d", as Python's json.dumps writes what
 * is no text, is read as U+FFFD. */
json_t *toolsvc_json_parse(const char *text, size_t n, size_t flags, json_error_t *error);

#endif
