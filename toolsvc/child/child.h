/* A program of the user's that speaks lines, on the tool service's loop: for kinds of tools that talk to one (kind_process.c and others).
 *
 * Lines go in and come out, each ended by a newline. What the program writes on its standard error goes to the log, line by line, with
 * secrets blotted out, so many lines a second; the rest is counted there. Nothing of the program outlives it, its owner or the rank
 * (keeper.h). A program that ends is not started again here: its owner does that.
 *
 * Threads: all functions on the loop's thread. Nothing waits, but for toolsvc_child_start: until the program is loaded. */
#ifndef RLF_TOOLSVC_CHILD_H
#define RLF_TOOLSVC_CHILD_H

#include <stdbool.h>
#include <uv.h>

#include "common/config/config.h"
#include "toolsvc/secrets.h"

/* What the keys command, env, cwd, memory_mb and secrets of a tool say. The program sees of our environment HOME, LANG, LC_ALL, LC_CTYPE, LOGNAME,
 * PATH, SHELL, TERM, TMPDIR, TZ and USER; env adds to it or has its way, with ${NAME} for a secret. */
typedef struct toolsvc_command {
    char **argv, **environment; /* owned, as their texts are; NULL-terminated */
    const char *folder;         /* borrowed; "": ours */
    int64_t memory_bytes;       /* of data, each process of it; 0: any amount */
    toolsvc_secrets secrets;
} toolsvc_command;

/* config must outlive it. Errors name the key. */
rlf_status toolsvc_command_init(toolsvc_command *command, const rlf_tool_config *config) RLF_MUST_USE;
/* The same from values that stand for themselves: a list of texts, and a map of texts. Memory and secrets stay as they are. */
rlf_status toolsvc_command_set(toolsvc_command *command, const json_t *argv, json_t *env, const char *folder) RLF_MUST_USE;
/* Zeroed: nothing. No child of it is open. */
void toolsvc_command_clean_up(toolsvc_command *command);
/* Appends what may be shown of n bytes that the program wrote: one line of valid UTF-8 without secrets, cut to a few hundred bytes. */
void toolsvc_command_show(const toolsvc_command *command, const char *bytes, size_t n, rlf_str *out);

typedef struct toolsvc_child toolsvc_child;

typedef struct toolsvc_child_options {
    const toolsvc_command *command; /* until the child is closed or over */
    const char *name;               /* in the log; as long */
    size_t line_bytes;              /* longest line it may say; a longer one ends it */
    size_t queue_bytes;             /* that may wait until it reads them */
    /* One line without its newline: n bytes, of any content, and a NUL; the callback may write to them until it returns. */
    void (*on_line)(void *user, char *line, size_t n);
    /* Once, when the program is over and its last line was told, unless it was closed before. why: "ended with status 3", with the last
     * that it said on its standard error, secrets blotted out; one line of valid UTF-8. The child is gone when this returns. */
    void (*on_end)(void *user, const char *why);
    void *user;
} toolsvc_child_options;

/* Errors as of toolsvc_keeper_start. SIGPIPE, if it would end us, is ignored from here on. */
rlf_status toolsvc_child_start(toolsvc_child **out, uv_loop_t *loop, const toolsvc_child_options *options) RLF_MUST_USE;
/* No callback is called any more, and the pointer is gone. The program's standard input is closed, a little later it gets SIGTERM, and
 * then SIGKILL; the memory goes while the loop runs, 2 s at most. May be called from on_line; not from on_end. NULL is allowed. */
void toolsvc_child_close(toolsvc_child *child);

/* Says n bytes (copied) and a newline. False: it is about to end, or queue_bytes wait already. Calls no callback. */
bool toolsvc_child_say(toolsvc_child *child, const char *line, size_t n);

#endif
