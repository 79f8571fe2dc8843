/* Shared by toolcall.c (calls as JSON), toolcall_scan.c (text as it grows) and toolcall_tags.c (calls as tags). Inside common/text only. */
#ifndef RLF_COMMON_TEXT_TOOLCALL_PRIVATE_H
#define RLF_COMMON_TEXT_TOOLCALL_PRIVATE_H

#include "common/text/toolcall.h"

/* What a piece of a turn's text is in. */
enum { RLF_IN_TEXT, RLF_IN_THOUGHT, RLF_IN_ANSWER, RLF_IN_SEARCH, RLF_IN_PYTHON, RLF_IN_FENCE_HEAD, RLF_IN_CODE, RLF_IN_OTHER_CODE };

/* The one call of a turn in a format of tags; false: it has none. */
bool rlf_tool_tag_parse(const rlf_tool_syntax *syntax, const char *text, size_t n, rlf_arena *arena, rlf_tool_call *call);

#endif
