/* UTF-8: where it is broken, what is white space, and the canonical composed form (NFC). Inside common/text only. */
#ifndef RLF_COMMON_TEXT_UTF8_H
#define RLF_COMMON_TEXT_UTF8_H

#include <stdbool.h>

#include "common/base/mem.h"

/* What text begins with: a character; the beginning of one, cut off at n; or bytes that are no character's beginning. */
typedef enum rlf_utf8_kind { RLF_UTF8_WHOLE, RLF_UTF8_CUT, RLF_UTF8_BROKEN } rlf_utf8_kind;

/* Of n > 0 bytes. *length: its bytes; of a broken character, as many as could have begun one, at least 1 (Unicode's "maximal subpart"). */
rlf_utf8_kind rlf_utf8_next(const char *text, size_t n, size_t *length);
/* Bytes of the leading run of valid UTF-8 (shortest forms, no surrogates, at most U+10FFFF): n if all of it is. */
size_t rlf_utf8_valid(const char *text, size_t n);
/* Length of the white-space character (Unicode White_Space) that text starts with or ends with, 0 if it does not. Valid UTF-8 only. */
size_t rlf_utf8_space_at_start(const char *text, size_t n);
size_t rlf_utf8_space_at_end(const char *text, size_t n);
/* NFC of valid UTF-8. The result is `text` itself where nothing can change, else memory of `buffer`. Linear in n. */
rlf_slice rlf_utf8_nfc(const char *text, size_t n, rlf_str *buffer);

#endif
