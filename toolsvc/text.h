/* Text from outside. */
#ifndef RLF_TOOLSVC_TEXT_H
#define RLF_TOOLSVC_TEXT_H

#include "common/base/mem.h"

/* Appends n bytes as valid UTF-8: each byte that is not becomes U+FFFD, and so does NUL. */
void toolsvc_append_utf8(rlf_str *out, const char *bytes, size_t n);

#endif
