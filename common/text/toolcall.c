/* Tool calls in model text (toolcall.h): the formats of JSON.
 *
 * The text is walked once from call to call. The JSON value itself decides where it ends, so that a tag inside one of its strings
 * is text; where the JSON is bad, the walk goes on at the next tag, or ends where the format has no closing tag. Model text is
 * data, not an error of ours: nothing here fails. */
#include <string.h>

#include "common/base/json.h"
#include "common/text/json_text.h"
#include "common/text/toolcall_private.h"

enum { MAX_DEPTH = 64 };
#define CALL "<tool_call>"
#define CALL_END "</tool_call>"
#define THINK "<think>"
#define THINK_END "</think>"

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
    rlf_json_write(value, RLF_JSON_TIGHT, &text);
    const char *out = rlf_arena_dup(arena, text.ptr, text.len);
    rlf_str_clean_up(&text);
    return out;
}

/* `key` of the call: an object, the text of one, or missing. */
static void read_arguments(const json_t *value, const char *key, rlf_arena *arena, rlf_tool_call *call) {
    const json_t *arguments = json_object_get(value, key);
    json_t *parsed = NULL;
    json_error_t error;
    if (json_is_string(arguments)) {
        parsed = rlf_json_parse(json_string_value(arguments), json_string_length(arguments), JSON_DECODE_ANY, &error);
        if (parsed) arguments = parsed;
    }
    if (json_is_object(arguments) && !rlf_json_depth_within(arguments, MAX_DEPTH))
        call->error = rlf_arena_printf(arena, "The \"%s\" of the tool call are nested too deeply.", key);
    else if (json_is_object(arguments)) call->arguments = compact(arguments, arena);
    else if (arguments && !json_is_null(arguments))
        call->error = rlf_arena_printf(arena, "The \"%s\" of the tool call must be a JSON object.", key);
    json_decref(parsed);
}

static void read_call(const json_t *value, const char *key, rlf_arena *arena, rlf_tool_call *call) {
    const json_t *name = json_object_get(value, "name");
    if (!json_is_object(value)) {
        call->error = rlf_arena_printf(arena, "The tool call must be a JSON object with \"name\" and \"%s\".", key);
    } else if (!rlf_json_is_text(name) || json_string_length(name) == 0) {
        call->error = "The tool call has no \"name\".";
    } else {
        call->name = rlf_arena_dup(arena, json_string_value(name), json_string_length(name));
        read_arguments(value, key, arena, call);
    }
}

/* The JSON value at *at, which moves behind it and the space that follows; NULL (and *at stays) if it is none. */
static json_t *read_json(const char *text, size_t *at, size_t n, const char **wrong, rlf_arena *arena) {
    json_error_t error;
    json_t *value = rlf_json_parse(text + *at, n - *at, JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, &error);
    if (value) *at = skip_space(text, *at + (size_t)error.position, n);
    else *wrong = rlf_arena_printf(arena, "The tool call is not valid JSON: %s, at byte %d.", error.text, error.position);
    return value;
}

/* Where calls go; those beyond the maximum are counted only. */
typedef struct found {
    rlf_tool_call *calls, beyond;
    size_t max, total;
} found;

static rlf_tool_call *next_call(found *out) {
    rlf_tool_call *call = out->total < out->max ? &out->calls[out->total] : &out->beyond;
    out->total++;
    *call = (rlf_tool_call){.name = "", .arguments = "{}"};
    return call;
}

/* ---- hermes ------------------------------------------------------------------------------------------------------------------------ */

/* Reads the call whose JSON begins at `at`; returns where the walk goes on. */
static size_t parse_hermes(const char *text, size_t at, size_t n, rlf_arena *arena, rlf_tool_call *call) {
    const char *wrong = NULL;
    json_t *value = read_json(text, &at, n, &wrong, arena);
    if (value) {
        read_call(value, "arguments", arena, call);
        json_decref(value);
        if (starts(text, at, n, CALL_END)) return at + strlen(CALL_END);
        wrong = "There is other text between the JSON of the tool call and " CALL_END ".";
    }
    size_t next = find_visible(text, at, n, CALL), close = find_visible(text, at, next, CALL_END);
    call->error = close == next ? "The tool call is not closed with " CALL_END "." : wrong;
    return close < next ? close + strlen(CALL_END) : next;
}

static void walk_hermes(const char *text, size_t n, rlf_arena *arena, found *out) {
    for (size_t at = find_visible(text, 0, n, CALL); at < n; at = find_visible(text, at, n, CALL))
        at = parse_hermes(text, at + strlen(CALL), n, arena, next_call(out));
}

/* ---- llama ------------------------------------------------------------------------------------------------------------------------- */

/* Whether the turn is a call, whose JSON should begin at *at. */
static bool begins_llama(const char *text, size_t n, size_t *at) {
    size_t tag = find_visible(text, 0, n, RLF_PYTHON_TAG);
    *at = tag < n ? tag + strlen(RLF_PYTHON_TAG) : skip_space(text, 0, n);
    if (tag < n) return true;
    if (starts(text, *at, n, THINK)) {
        size_t end = find(text, *at, n, THINK_END);
        *at = end < n ? skip_space(text, end + strlen(THINK_END), n) : n;
    }
    return *at < n && text[*at] == '{';
}

/* Reads the call at *at and moves on; false: no other follows. What comes after bad JSON can't be told from it. */
static bool parse_llama(const char *text, size_t *at, size_t n, rlf_arena *arena, rlf_tool_call *call) {
    json_t *value = read_json(text, at, n, &call->error, arena);
    if (!value) return false;
    read_call(value, "parameters", arena, call);
    json_decref(value);
    if (starts(text, *at, n, RLF_PYTHON_TAG)) {
        *at += strlen(RLF_PYTHON_TAG);
        return true;
    }
    if (*at < n && text[*at] == ';') *at = skip_space(text, *at + 1, n);
    if (*at == n || text[*at] == '{') return *at < n;
    call->error = "There is other text behind the JSON of the tool call.";
    return false;
}

static void walk_llama(const char *text, size_t n, rlf_arena *arena, found *out) {
    size_t at;
    bool more = begins_llama(text, n, &at);
    while (more) more = parse_llama(text, &at, n, arena, next_call(out));
}

/* ---- every format ------------------------------------------------------------------------------------------------------------------ */

bool rlf_tool_format_parse(const char *name, rlf_tool_format *format) {
    static const char *const names[RLF_TOOLS_COUNT] = {"hermes", "llama", "search-r1", "tool-star", "fenced"};
    for (int i = 0; i < RLF_TOOLS_COUNT; i++) {
        if (strcmp(name, names[i])) continue;
        *format = (rlf_tool_format)i;
        return true;
    }
    return false;
}

void rlf_tool_calls_parse(const rlf_tool_syntax *syntax, const char *text, size_t n, rlf_arena *arena, rlf_tool_call *calls, size_t max,
                          size_t *total) {
    found out = {.calls = calls, .max = max};
    rlf_tool_call call;
    if (syntax->format == RLF_TOOLS_HERMES) walk_hermes(text, n, arena, &out);
    else if (syntax->format == RLF_TOOLS_LLAMA) walk_llama(text, n, arena, &out);
    else if (rlf_tool_tag_parse(syntax, text, n, arena, &call)) *next_call(&out) = call;
    *total = out.total;
}
