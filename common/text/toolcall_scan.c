/* The text of a turn as it grows (toolcall.h): a table of marks, each of which leads from one place to another. The leftmost mark
 * counts. Where the text ends in what may become a mark, the scan waits there: it never reads more than a mark's length again. */
#include <string.h>

#include "common/text/toolcall_private.h"

enum { ANY = (1 << RLF_TOOLS_COUNT) - 1, TAGS = 1 << RLF_TOOLS_SEARCH_R1 | 1 << RLF_TOOLS_TOOL_STAR, STAR = 1 << RLF_TOOLS_TOOL_STAR,
       FENCES = 1 << RLF_TOOLS_FENCED };
enum { LONGEST_HEAD = 32 }; /* of a fence's line, which is read again until it is whole */
enum { NO_CALL, SEARCH, PYTHON };

typedef struct mark {
    const char *text;
    int formats; /* bits of those that have it */
    int calls;   /* it is none where this calls nothing */
    int from, to;
    rlf_turn_event event;
} mark;

static const mark marks[] = {
    {"<think>", ANY, NO_CALL, RLF_IN_TEXT, RLF_IN_THOUGHT, RLF_TURN_GOES_ON},
    {"</think>", ANY, NO_CALL, RLF_IN_THOUGHT, RLF_IN_TEXT, RLF_TURN_GOES_ON},
    {"<answer>", ANY, NO_CALL, RLF_IN_TEXT, RLF_IN_ANSWER, RLF_TURN_GOES_ON},
    {"</answer>", ANY, NO_CALL, RLF_IN_ANSWER, RLF_IN_TEXT, RLF_TURN_ANSWER},
    {"<search>", TAGS, SEARCH, RLF_IN_TEXT, RLF_IN_SEARCH, RLF_TURN_GOES_ON},
    {"</search>", TAGS, SEARCH, RLF_IN_SEARCH, RLF_IN_TEXT, RLF_TURN_CALL},
    {"</search>", TAGS, SEARCH, RLF_IN_TEXT, RLF_IN_TEXT, RLF_TURN_CALL},
    {"<python>", STAR, PYTHON, RLF_IN_TEXT, RLF_IN_PYTHON, RLF_TURN_GOES_ON},
    {"</python>", STAR, PYTHON, RLF_IN_PYTHON, RLF_IN_TEXT, RLF_TURN_CALL},
    {"</python>", STAR, PYTHON, RLF_IN_TEXT, RLF_IN_TEXT, RLF_TURN_CALL},
    {"```", FENCES, PYTHON, RLF_IN_TEXT, RLF_IN_FENCE_HEAD, RLF_TURN_GOES_ON},
    {"```", FENCES, PYTHON, RLF_IN_CODE, RLF_IN_TEXT, RLF_TURN_CALL},
    {"```", FENCES, PYTHON, RLF_IN_OTHER_CODE, RLF_IN_TEXT, RLF_TURN_GOES_ON},
};

static bool has_mark(const rlf_tool_syntax *syntax, const mark *m) {
    const char *call = m->calls == SEARCH ? syntax->search : syntax->python;
    return (m->formats & 1 << syntax->format) && (m->calls == NO_CALL || (call && *call));
}

/* The mark at scan->at, or NULL; *waits: the text ends in what may become one. */
static const mark *mark_at(const rlf_turn_scan *scan, const rlf_tool_syntax *syntax, const char *text, size_t n, bool *waits) {
    size_t left = n - scan->at;
    const char *here = text + scan->at;
    *waits = false;
    if (*here != '<' && *here != '`') return NULL;
    if (*here == '`' && scan->at > 0 && here[-1] != '\n') return NULL; /* a fence begins its line */
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        const mark *m = &marks[i];
        size_t length = strlen(m->text);
        if (m->from != scan->place || !has_mark(syntax, m) || memcmp(here, m->text, left < length ? left : length)) continue;
        if (left >= length) return m;
        *waits = true;
    }
    return NULL;
}

/* The rest of the line that opens a fence. False: it is not all there. */
static bool read_fence_head(rlf_turn_scan *scan, const char *text, size_t n) {
    size_t left = n - scan->at, most = left < LONGEST_HEAD ? left : LONGEST_HEAD;
    const char *head = text + scan->at, *end = memchr(head, '\n', most);
    if (!end && left < LONGEST_HEAD) return false;
    size_t length = end ? (size_t)(end - head) : 0, line = end ? length + 1 : most;
    while (length && strchr(" \t\r", head[length - 1])) length--;
    bool python = (length == 2 && !memcmp(head, "py", 2)) || (length == 6 && !memcmp(head, "python", 6));
    scan->place = python ? RLF_IN_CODE : RLF_IN_OTHER_CODE;
    scan->begin = scan->at += line;
    return true;
}

static void follow(rlf_turn_scan *scan, const mark *m) {
    scan->closed = scan->place;
    scan->end = scan->at;
    scan->at += strlen(m->text);
    scan->place = m->to;
    if (m->to != RLF_IN_TEXT) scan->begin = scan->at;
}

rlf_turn_event rlf_turn_scan_next(rlf_turn_scan *scan, const rlf_tool_syntax *syntax, const char *text, size_t n) {
    bool waits = false;
    while (scan->at < n && !waits) {
        if (scan->place == RLF_IN_FENCE_HEAD) {
            if (!read_fence_head(scan, text, n)) break;
            continue;
        }
        const mark *m = mark_at(scan, syntax, text, n, &waits);
        if (m) follow(scan, m);
        else scan->at += !waits;
        if (m && m->event != RLF_TURN_GOES_ON) return m->event;
    }
    return RLF_TURN_GOES_ON;
}

rlf_slice rlf_answer_find(const rlf_tool_syntax *syntax, const char *text, size_t n) {
    rlf_slice last = {NULL, 0};
    rlf_turn_scan scan = {0};
    while (rlf_turn_scan_next(&scan, syntax, text, n) == RLF_TURN_ANSWER) last = (rlf_slice){text + scan.begin, scan.end - scan.begin};
    return last;
}
