/* Tool calls and answers in model text, behind toolcall.h.
 *
 * The text is walked once from tag to tag. After <tool_call> the JSON value itself decides where it ends, so that a tag inside
 * one of its strings is text;
 * where the JSON is bad, the walk goes on at the next tag. Model text is data, not an error of ours: nothing here fails. */
#include "common/text/toolcall.h"

#include <string.h>

#include "common/text/json_text.h"

enum { MAX_DEPTH = 64 };
#define CALL "<tool_call>"
#define CALL_END "</tool_call>"
#define THINK "<think>"
#define THINK_END "</think>"
#define ANSWER "<answer>"
#define ANSWER_END "</answer>"

static size_t find(const char *text, size_t from, size_t n, const char *tag) {
    const char *at = from < n ? memmem(text + from, n - from, tag, strlen(tag)) : NULL;
    return at ? (size_t)(at - text) : n;
}

static bool starts(const char *text, size_t at, size_t n, const char *tag) {
    return n - at >= strlen(tag) && !memcmp(text + at, tag, strlen(tag));
}

static size_t skip_space(const char *text, size_t at, size_t n) {
    while (at < n && strchr(" \t\r\n", text[at]) && text[at]) at++;
    return at;
}

/* The next `tag` outside <think>, n if none. An open <think> without an end hides all that follows. */
static size_t find_visible(const char *text, size_t from, size_t n, const char *tag) {
    size_t at = find(text, from, n, tag), think;
    while ((think = find(text, from, at, THINK)) < at) {
        from = find(text, think, n, THINK_END);
        if (from == n) return n;
        if (at < from) at = find(text, from, n, tag);
    }
    return at;
}

static const char *compact(const json_t *value, rlf_arena *arena) {
    rlf_str text = {0};
    rlf_json_write(value, true, &text);
    const char *out = rlf_arena_dup(arena, text.ptr, text.len);
    rlf_str_clean_up(&text);
    return out;
}

/* arguments: an object, the text of one, or missing. */
static void read_arguments(const json_t *arguments, rlf_arena *arena, rlf_tool_call *call) {
    json_t *parsed = NULL;
    json_error_t error;
    if (json_is_string(arguments)) {
        parsed = json_loadb(json_string_value(arguments), json_string_length(arguments), JSON_DECODE_ANY, &error);
        if (parsed) arguments = parsed;
    }
    if (json_is_object(arguments) && !rlf_json_depth_within(arguments, MAX_DEPTH))
        call->error = "The \"arguments\" of the tool call are nested too deeply.";
    else if (json_is_object(arguments)) call->arguments = compact(arguments, arena);
    else if (arguments && !json_is_null(arguments)) call->error = "The \"arguments\" of the tool call must be a JSON object.";
    json_decref(parsed);
}

static void read_call(const json_t *value, rlf_arena *arena, rlf_tool_call *call) {
    const json_t *name = json_object_get(value, "name");
    if (!json_is_object(value)) {
        call->error = "The tool call must be a JSON object with \"name\" and \"arguments\".";
    } else if (!json_is_string(name) || json_string_length(name) == 0) {
        call->error = "The tool call has no \"name\".";
    } else {
        call->name = rlf_arena_dup(arena, json_string_value(name), json_string_length(name));
        read_arguments(json_object_get(value, "arguments"), arena, call);
    }
}

/* Reads the call whose JSON begins at `at`; returns where the walk goes on. */
static size_t parse_call(const char *text, size_t at, size_t n, rlf_arena *arena, rlf_tool_call *call) {
    *call = (rlf_tool_call){.name = "", .arguments = "{}"};
    json_error_t error;
    json_t *value = json_loadb(text + at, n - at, JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, &error);
    if (value) {
        at = skip_space(text, at + (size_t)error.position, n);
        read_call(value, arena, call);
        json_decref(value);
        if (starts(text, at, n, CALL_END)) return at + strlen(CALL_END);
    }
    size_t next = find(text, at, n, CALL), close = find(text, at, next, CALL_END);
    if (close == next) call->error = "The tool call is not closed with " CALL_END ".";
    else if (value) call->error = "There is other text between the JSON of the tool call and " CALL_END ".";
    else call->error = rlf_arena_printf(arena, "The tool call is not valid JSON: %s.", error.text);
    return close < next ? close + strlen(CALL_END) : next;
}

void rlf_tool_calls_parse(const char *text, size_t n, rlf_arena *arena, rlf_tool_call *calls, size_t max, size_t *total) {
    *total = 0;
    for (size_t at = find_visible(text, 0, n, CALL); at < n; at = find_visible(text, at, n, CALL)) {
        rlf_tool_call beyond;
        at = parse_call(text, at + strlen(CALL), n, arena, *total < max ? &calls[*total] : &beyond);
        ++*total;
    }
}

rlf_slice rlf_answer_find(const char *text, size_t n) {
    rlf_slice last = {NULL, 0};
    for (size_t at = find_visible(text, 0, n, ANSWER); at < n; at = find_visible(text, at, n, ANSWER)) {
        size_t begin = at + strlen(ANSWER), end = find(text, begin, n, ANSWER_END);
        if (end == n) break;
        last = (rlf_slice){text + begin, end - begin};
        at = end + strlen(ANSWER_END);
    }
    return last;
}
