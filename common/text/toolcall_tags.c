/* Calls written as tags or blocks of code, and what they call (toolcall.h). */
#include <string.h>

#include "common/base/json.h"
#include "common/text/json_text.h"
#include "common/text/toolcall_private.h"
#include "common/text/utf8.h"

/* What Search-R1 tells a model that did neither: part of the format. */
#define SEARCH_R1_REFUSAL                                                                                                        \
    "My previous action is invalid. If I want to search, I should put the query between <search> and </search>. "                \
    "If I want to give the final answer, I should put the answer between <answer> and </answer>. Let me try again."

/* ---- what a tag calls ------------------------------------------------------------------------------------------------------------- */

/* "function.argument" at its last dot. */
static void split(const char *call, rlf_slice *function, const char **argument) {
    const char *dot = strrchr(call, '.');
    *function = (rlf_slice){call, dot ? (size_t)(dot - call) : strlen(call)};
    *argument = dot ? dot + 1 : "";
}

static const json_t *find_function(const json_t *schemas, rlf_slice name) {
    for (size_t i = 0; i < json_array_size(schemas); i++) {
        const json_t *function = json_object_get(json_array_get(schemas, i), "function");
        const char *found = json_string_value(json_object_get(function, "name"));
        if (found && strlen(found) == name.len && !memcmp(found, name.ptr, name.len)) return function;
    }
    return NULL;
}

static bool takes_text(const json_t *parameters, const char *argument) {
    const json_t *type = json_object_get(json_object_get(json_object_get(parameters, "properties"), argument), "type");
    for (size_t i = 0; i < json_array_size(type); i++)
        if (json_is_string(json_array_get(type, i)) && !strcmp(json_string_value(json_array_get(type, i)), "string")) return true;
    return !type || (json_is_string(type) && !strcmp(json_string_value(type), "string"));
}

static rlf_status check_function(const char *key, const json_t *function, rlf_slice name, const char *argument) {
    const json_t *parameters = json_object_get(function, "parameters"), *properties = json_object_get(parameters, "properties"),
                 *required = json_object_get(parameters, "required");
    if (json_is_object(properties) && !json_object_get(properties, argument))
        return RLF_RAISE(INVALID, "%s: the tool %.*s has no argument \"%s\"", key, (int)name.len, name.ptr, argument);
    if (!takes_text(parameters, argument))
        return RLF_RAISE(INVALID, "%s: the argument \"%s\" of the tool %.*s is not a string", key, argument, (int)name.len, name.ptr);
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *other = json_string_value(json_array_get(required, i));
        if (other && strcmp(other, argument))
            return RLF_RAISE(INVALID, "%s: the tool %.*s needs \"%s\" too, and a tag gives \"%s\" alone", key, (int)name.len, name.ptr,
                             other, argument);
    }
    return RLF_OK;
}

static rlf_status check_call(const char *key, const char *call, const json_t *schemas) {
    rlf_slice name;
    const char *argument;
    split(call, &name, &argument);
    const json_t *function = find_function(schemas, name);
    if (function) return check_function(key, function, name, argument);
    return RLF_RAISE(INVALID, "%s: no tool of the job is named \"%.*s\"; expected TOOL.ARGUMENT of one, or \"\" where the tag is text",
                     key, (int)name.len, name.ptr);
}

rlf_status rlf_tool_syntax_check(const rlf_tool_syntax *syntax, const char *schemas) {
    rlf_status status = RLF_OK;
    bool tags = syntax->format == RLF_TOOLS_SEARCH_R1 || syntax->format == RLF_TOOLS_TOOL_STAR;
    const char *search = tags && syntax->search ? syntax->search : "";
    const char *python = syntax->format >= RLF_TOOLS_TOOL_STAR && syntax->python ? syntax->python : "";
    json_t *offered = NULL;
    if (syntax->format < RLF_TOOLS_SEARCH_R1) return RLF_OK;
    if (!*search && !*python)
        return RLF_RAISE(INVALID, "episode.tool_format: none of its tags calls a tool (episode.search_call, episode.python_call)");
    if (!(offered = rlf_json_parse(schemas, strlen(schemas), 0, NULL))) return RLF_RAISE(INVALID, "schemas of tools: not valid JSON");
    if (*search) RLF_TRY(check_call("episode.search_call", search, offered));
    if (*python) RLF_TRY(check_call("episode.python_call", python, offered));
out:
    json_decref(offered);
    return status;
}

/* ---- calls ------------------------------------------------------------------------------------------------------------------------ */

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static rlf_slice query_of(rlf_slice s) {
    while (s.len && is_space(s.ptr[0])) s.ptr++, s.len--;
    while (s.len && is_space(s.ptr[s.len - 1])) s.len--;
    return s;
}

/* The indentation of the first line belongs to the code. */
static rlf_slice code_of(rlf_slice s) {
    size_t begin = 0;
    for (size_t i = 0; i < s.len && is_space(s.ptr[i]); i++)
        if (s.ptr[i] == '\n') begin = i + 1;
    while (s.len > begin && is_space(s.ptr[s.len - 1])) s.len--;
    return (rlf_slice){s.ptr + begin, s.len - begin};
}

static void read_content(const char *call, rlf_slice content, rlf_arena *arena, rlf_tool_call *out) {
    rlf_str json = {0};
    rlf_slice function;
    const char *argument;
    split(call, &function, &argument);
    out->name = rlf_arena_dup(arena, function.ptr, function.len);
    if (memchr(content.ptr, '\0', content.len) || rlf_utf8_valid(content.ptr, content.len) < content.len) {
        out->error = "The text of the tool call is not valid UTF-8.";
        return;
    }
    rlf_str_putc(&json, '{');
    rlf_json_write_text(argument, strlen(argument), &json);
    rlf_str_putc(&json, ':');
    rlf_json_write_text(content.ptr, content.len, &json);
    rlf_str_putc(&json, '}');
    out->arguments = rlf_arena_dup(arena, json.ptr, json.len);
    rlf_str_clean_up(&json);
}

static const char *stray_error(const char *closing) {
    return closing[2] == 's' ? "There is no <search> before </search>." : "There is no <python> before </python>.";
}

/* What is wrong with a turn that ends in `place`, NULL: nothing. */
static const char *unclosed_error(int place) {
    switch (place) {
    case RLF_IN_SEARCH: return "<search> is not closed with </search>.";
    case RLF_IN_PYTHON: return "<python> is not closed with </python>.";
    case RLF_IN_CODE: return "The block of code is not closed with ``` on a line of its own.";
    default: return NULL;
    }
}

bool rlf_tool_tag_parse(const rlf_tool_syntax *syntax, const char *text, size_t n, rlf_arena *arena, rlf_tool_call *call) {
    rlf_turn_scan scan = {0};
    rlf_turn_event event;
    bool answered = false;
    *call = (rlf_tool_call){.name = "", .arguments = "{}"};
    while ((event = rlf_turn_scan_next(&scan, syntax, text, n)) == RLF_TURN_ANSWER) answered = true;
    rlf_slice content = {text + scan.begin, scan.end - scan.begin};
    if (event != RLF_TURN_CALL) call->error = unclosed_error(scan.place);
    else if (scan.closed == RLF_IN_TEXT) call->error = stray_error(text + scan.end);
    else if (scan.closed == RLF_IN_SEARCH) read_content(syntax->search, query_of(content), arena, call);
    else read_content(syntax->python, code_of(content), arena, call);
    bool good = event == RLF_TURN_CALL && !call->error, none = event != RLF_TURN_CALL && !call->error;
    if (syntax->format == RLF_TOOLS_SEARCH_R1 && !good && !answered) call->error = SEARCH_R1_REFUSAL;
    return !none || call->error;
}
