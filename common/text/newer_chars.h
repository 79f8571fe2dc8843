/* Characters newer than the regex engine's Unicode: PCRE2 10.42 knows Unicode 14, the `tokenizers` library 16. Patterns are matched on a copy
 * of the text in which each of them has an older stand-in of the same category and length; a stand-in is what the pattern sees, and ids
 * are those of the text. To a PCRE2 that knows them they are the same either way. Inside common/text only. */
#ifndef RLF_COMMON_TEXT_NEWER_CHARS_H
#define RLF_COMMON_TEXT_NEWER_CHARS_H

#include "common/base/mem.h"

/* The text with stand-ins, of the same n bytes: `text` itself where it has no such character, else memory of `buffer`. Valid UTF-8 only. */
const char *rlf_newer_chars_replace(const char *text, size_t n, rlf_str *buffer);

#endif
