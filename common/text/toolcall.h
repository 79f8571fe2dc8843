/* Tool calls in model text: the formats a model may write them in (key episode.tool_format).
 *
 *   hermes     <tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>, several per turn, other text around them
 *   llama      the whole turn is {"name": …, "parameters": {…}}, or what follows <|python_tag|> is; several stand one behind the
 *              other, with ";" or <|python_tag|> between or nothing
 *   search-r1  <search>query</search>; a turn that holds neither a call nor an <answer> is a call that is refused
 *   tool-star  <search>query</search>, <python>code</python>
 *   fenced     a Markdown block of code, ```python or ```py on a line of its own to ``` at the beginning of a line; blocks of other
 *              languages are text
 *
 * In the llama form a turn that begins with "{" is a call, well formed or not, and any other text without the tag is an answer.
 *
 * The last three are formats of tags. A tag calls one function with one argument, which is its text (rlf_tool_syntax). The first closing
 * tag ends the turn, whether or not it was opened, so that a turn has one call at most; what the token that completes it holds behind
 * it is never read. Between a tag and its closing tag everything is its text. White space around a query is not part of it; of code, empty
 * lines before it and white space behind it.
 *
 * In every format the text inside <think>…</think> is not searched, and in those of tags nor is the text inside <answer>…</answer>.
 * Only what the model wrote is ever searched: tags in a tool's answer mean nothing. */
#ifndef RLF_COMMON_TEXT_TOOLCALL_H
#define RLF_COMMON_TEXT_TOOLCALL_H

#include <stdbool.h>

#include "common/base/mem.h"

typedef enum rlf_tool_format {
    RLF_TOOLS_HERMES, RLF_TOOLS_LLAMA, RLF_TOOLS_SEARCH_R1, RLF_TOOLS_TOOL_STAR, RLF_TOOLS_FENCED, RLF_TOOLS_COUNT
} rlf_tool_format;
#define RLF_TOOL_FORMATS "hermes, llama, search-r1, tool-star, fenced" /* their names, for messages */

/* The format of a name; false: there is none. */
bool rlf_tool_format_parse(const char *name, rlf_tool_format *format);

#define RLF_PYTHON_TAG "<|python_tag|>"

/* A format and what its tags call. Texts are borrowed. */
typedef struct rlf_tool_syntax {
    rlf_tool_format format;
    const char *search, *python; /* "function.argument" that <search> calls, and <python> or a block of code; NULL or "": it is text */
} rlf_tool_syntax;

/* Whether the functions that the tags call are among those on offer, a JSON array of OpenAI-style schemas, and take their argument.
 * Errors name the key. */
rlf_status rlf_tool_syntax_check(const rlf_tool_syntax *syntax, const char *schemas) RLF_MUST_USE;

typedef struct rlf_tool_call {
    const char *name;      /* "" if it could not be read */
    const char *arguments; /* compact JSON object text; "{}" if none */
    const char *error;     /* NULL if well formed; else what is wrong, for the model to read (search-r1: in that format's own words) */
} rlf_tool_call;

/* Every call in the text of one finished turn, in order; an unclosed tag or bad JSON gives a call with `error`.
 * At most `max` are returned; *total counts all. Strings go to the arena. */
void rlf_tool_calls_parse(const rlf_tool_syntax *syntax, const char *text, size_t n, rlf_arena *arena, rlf_tool_call *calls, size_t max,
                          size_t *total);

/* Follows the text of one turn while it grows, so that the turn can end with the very token that completes something. Zeroed at the
 * beginning of a turn. Over a whole turn the work is linear in its text. */
typedef enum rlf_turn_event { RLF_TURN_GOES_ON, RLF_TURN_CALL, RLF_TURN_ANSWER } rlf_turn_event;
typedef struct rlf_turn_scan {
    size_t at;         /* text before it has been read */
    size_t begin, end; /* of the content that the last event completed */
    int place;         /* what the text at `at` is in: toolcall_private.h */
    int closed;        /* the place that the last event completed; the text itself: a closing tag that nothing opened */
} rlf_turn_scan;
/* text (n): all of the turn so far. Returns the next thing that is complete: a call of a format of tags (well formed or not), an
 * <answer>; to be asked again until the turn goes on. */
rlf_turn_event rlf_turn_scan_next(rlf_turn_scan *scan, const rlf_tool_syntax *syntax, const char *text, size_t n);

/* The content of the last complete <answer>…</answer> of a turn, or {NULL, 0}. */
rlf_slice rlf_answer_find(const rlf_tool_syntax *syntax, const char *text, size_t n);

#endif
