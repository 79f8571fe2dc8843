/* Conversations as text, family by family (chat_private.h). What the templates write is theirs to the byte, also where it looks odd. */
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/text/chat_private.h"
#include "common/text/json_text.h"
#include "common/text/utf8.h"

enum { MAX_JSON = 16 << 20, MAX_DEPTH = 64 };
#define RESPONSE "<tool_response>"
#define RESPONSE_END "</tool_response>"
#define THINK "<think>"
#define THINK_END "</think>"
#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"

void rlf_chat_text_clean_up(rlf_chat_text *text) {
    rlf_str_clean_up(&text->text);
    free(text->plain);
}

/* ---- small parts ------------------------------------------------------------------------------------------------------------------ */

static void put(rlf_chat_text *out, const char *text) { rlf_str_puts(&out->text, text); }
static void put_slice(rlf_chat_text *out, rlf_slice s) { rlf_str_append(&out->text, s.ptr, s.len); }
static bool is_role(const rlf_chat_message *message, const char *role) { return !strcmp(message->role, role); }

static rlf_slice strip_newlines(rlf_slice s, bool left, bool right) {
    while (left && s.len && s.ptr[0] == '\n') s.ptr++, s.len--;
    while (right && s.len && s.ptr[s.len - 1] == '\n') s.len--;
    return s;
}

/* Python's str.strip: Unicode's white space, and the four separators from U+001C on. */
static rlf_slice strip_space(rlf_slice s) {
    size_t k;
    if (rlf_utf8_valid(s.ptr, s.len) < s.len) return s;
    while (s.len && (k = s.ptr[0] >= 0x1c && s.ptr[0] <= 0x1f ? 1 : rlf_utf8_space_at_start(s.ptr, s.len)) > 0) s.ptr += k, s.len -= k;
    while (s.len && (k = s.ptr[s.len - 1] >= 0x1c && s.ptr[s.len - 1] <= 0x1f ? 1 : rlf_utf8_space_at_end(s.ptr, s.len)) > 0) s.len -= k;
    return s;
}

static rlf_slice content_of(const rlf_chat_talk *talk, size_t i) {
    rlf_slice content = rlf_slice_of(talk->messages[i].content);
    return talk->family->trims ? strip_space(content) : content;
}

static void put_turn(const rlf_chat_family *family, const char *role, rlf_slice content, rlf_chat_text *out) {
    rlf_str_printf(&out->text, "%s%s%s", family->turn_open, role, family->role_close);
    put_slice(out, content);
    put(out, family->turn_close);
}

/* ---- tools ------------------------------------------------------------------------------------------------------------------------ */

static rlf_status check_tools(const json_t *tools) {
    if (!json_is_array(tools)) return RLF_RAISE(INVALID, "tools: expected a JSON array of function schemas");
    if (!rlf_json_depth_within(tools, MAX_DEPTH)) return RLF_RAISE(LIMIT, "tools: nested deeper than %d", MAX_DEPTH);
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (!json_is_object(json_array_get(tools, i))) return RLF_RAISE(INVALID, "tools[%zu]: expected a JSON object", i);
    return RLF_OK;
}

rlf_status rlf_chat_tools_parse(const char *tools_json, json_t **tools) {
    json_error_t error;
    *tools = NULL;
    if (!tools_json) return RLF_OK;
    size_t n = strlen(tools_json);
    if (n > MAX_JSON) return RLF_RAISE(LIMIT, "tools: %zu bytes of JSON (at most %d)", n, MAX_JSON);
    json_t *parsed = rlf_json_parse(tools_json, n, 0, &error);
    if (!parsed) return RLF_RAISE(INVALID, "tools: line %d, byte %d: %s", error.line, error.position, error.text);
    rlf_status status = check_tools(parsed);
    if (status == RLF_OK) *tools = parsed;
    else json_decref(parsed);
    return status;
}

/* ---- tool calls of a message ------------------------------------------------------------------------------------------------------ */

/* OpenAI's form wraps name and arguments in "function". */
static const json_t *function_of(const json_t *call) {
    const json_t *function = json_object_get(call, "function");
    return function ? function : call;
}

static rlf_status check_calls(const json_t *calls, bool wrapped, size_t message) {
    if (!json_is_array(calls)) return RLF_RAISE(INVALID, "message %zu: tool_calls: expected a list", message);
    if (!rlf_json_depth_within(calls, MAX_DEPTH))
        return RLF_RAISE(LIMIT, "message %zu: tool_calls: nested deeper than %d", message, MAX_DEPTH);
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *function = function_of(json_array_get(calls, i)), *arguments = json_object_get(function, "arguments");
        if (!json_is_object(function)) return RLF_RAISE(INVALID, "message %zu: tool_calls[%zu]: expected an object", message, i);
        if (wrapped && !json_object_get(json_array_get(calls, i), "function"))
            return RLF_RAISE(INVALID, "message %zu: tool_calls[%zu]: function: expected an object; the key is missing", message, i);
        if (!rlf_json_is_text(json_object_get(function, "name")))
            return RLF_RAISE(INVALID, "message %zu: tool_calls[%zu]: name: expected text without NUL", message, i);
        if (!json_is_object(arguments) && !json_is_string(arguments))
            return RLF_RAISE(INVALID, "message %zu: tool_calls[%zu]: arguments: expected an object, or one as text", message, i);
    }
    return RLF_OK;
}

/* *calls is NULL if the message has none. */
static rlf_status parse_calls(const rlf_chat_talk *talk, size_t i, json_t **calls) {
    const char *text = talk->messages[i].tool_calls;
    bool llama = talk->family->format == RLF_TOOLS_LLAMA;
    json_error_t error;
    *calls = NULL;
    if (!text || !*text) return RLF_OK;
    if (strlen(text) > MAX_JSON) return RLF_RAISE(LIMIT, "message %zu: tool_calls of %zu bytes (at most %d)", i, strlen(text), MAX_JSON);
    json_t *parsed = rlf_json_parse(text, strlen(text), 0, &error);
    if (!parsed) return RLF_RAISE(INVALID, "message %zu: tool_calls: byte %d: %s", i, error.position, error.text);
    rlf_status status = check_calls(parsed, llama, i);
    size_t n = json_array_size(parsed);
    if (status == RLF_OK && llama && n > 1)
        status = RLF_RAISE(INVALID, "message %zu: %zu tool calls: this template has one a turn", i, n);
    if (status == RLF_OK && talk->in_turn && n > 0)
        status = RLF_RAISE(INVALID, "message %zu: tool_calls: in this tool format a call stands in the content", i);
    if (status == RLF_OK && n > 0) *calls = parsed;
    else json_decref(parsed);
    return status;
}

static void put_arguments(const rlf_chat_family *family, const json_t *arguments, rlf_chat_text *out) {
    rlf_slice text = {json_string_value(arguments), json_string_length(arguments)};
    if (text.ptr && family->raw_arguments) put_slice(out, text);
    else rlf_json_write(arguments, RLF_JSON_SPACED, &out->text);
}

/* after_text: something stands before the first call. */
static void put_calls(const rlf_chat_family *family, const json_t *calls, bool after_text, rlf_chat_text *out) {
    bool llama = family->format == RLF_TOOLS_LLAMA;
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *function = function_of(json_array_get(calls, i));
        if (!llama) put(out, i || after_text ? "\n<tool_call>\n" : "<tool_call>\n");
        rlf_str_printf(&out->text, "{\"name\": \"%s\", \"%s\": ", json_string_value(json_object_get(function, "name")),
                       llama ? "parameters" : "arguments");
        put_arguments(family, json_object_get(function, "arguments"), out);
        put(out, llama ? "}" : "}\n</tool_call>");
    }
}

static void put_content_and_calls(const rlf_chat_family *family, rlf_slice content, bool after_text, const json_t *calls,
                                  rlf_chat_text *out) {
    if (!calls || !family->calls_alone) put_slice(out, content);
    put_calls(family, calls, after_text, out);
}

/* ---- answers ---------------------------------------------------------------------------------------------------------------------- */

static void put_plain(rlf_slice answer, bool as_json, rlf_chat_text *out) {
    out->plain = rlf_grow(out->plain, out->n, &out->cap, sizeof *out->plain);
    out->plain[out->n].begin = out->text.len;
    if (as_json) rlf_json_write_text(answer.ptr, answer.len, &out->text);
    else put_slice(out, answer);
    out->plain[out->n++].end = out->text.len;
}

static void put_answer(const rlf_chat_family *family, rlf_slice answer, rlf_chat_text *out) {
    put(out, family->answer_open);
    put_plain(answer, family->json_answers, out);
    put(out, family->answer_close);
}

const rlf_chat_in_turn *rlf_chat_in_turn_of(rlf_tool_format format) {
    static const rlf_chat_in_turn search_r1 = {"\n\n<information>", "</information>\n\n", "\n", "\n", true},
                                  tool_star = {" <result>\n", "\n</result>", " <result>\n", "\n</result>", false},
                                  fenced = {"\nObservation:\n", "\n", "\nObservation:\n", "\n", false};
    switch (format) {
    case RLF_TOOLS_SEARCH_R1: return &search_r1;
    case RLF_TOOLS_TOOL_STAR: return &tool_star;
    case RLF_TOOLS_FENCED: return &fenced;
    default: return NULL;
    }
}

void rlf_chat_put_in_turn(const rlf_chat_in_turn *in_turn, rlf_slice answer, bool refused, rlf_chat_text *out) {
    put(out, refused ? in_turn->refused_open : in_turn->open);
    put_plain(in_turn->trims ? strip_space(answer) : strip_newlines(answer, false, true), false, out);
    put(out, refused ? in_turn->refused_close : in_turn->close);
}

void rlf_chat_put_answers(const rlf_chat_family *family, const rlf_slice *answers, size_t n, rlf_chat_text *out) {
    if (n == 0) return;
    put(out, family->answers_open);
    for (size_t i = 0; i < n; i++) put_answer(family, answers[i], out);
    put(out, family->answers_close);
}

/* Answers i, i + 1, … of one turn. Returns the first message after them. */
static size_t put_answer_messages(const rlf_chat_talk *talk, size_t i, size_t end, rlf_chat_text *out) {
    put(out, talk->family->answers_open);
    for (; i < end && is_role(&talk->messages[i], "tool"); i++)
        put_answer(talk->family, rlf_slice_of(talk->messages[i].content), out);
    put(out, talk->family->answers_close);
    return i;
}

void rlf_chat_put_between(const rlf_chat_talk *talk, size_t begin, size_t end, rlf_chat_text *out) {
    for (size_t i = begin; i < end;) {
        if (is_role(&talk->messages[i], "tool")) {
            i = put_answer_messages(talk, i, end, out);
        } else {
            put_turn(talk->family, talk->messages[i].role, content_of(talk, i), out);
            i++;
        }
    }
}

/* ---- thoughts --------------------------------------------------------------------------------------------------------------------- */

static void put_thought(rlf_slice thought, rlf_chat_text *out) {
    put_slice(out, strip_newlines(thought, true, true));
    put(out, "\n" THINK_END "\n\n");
}

static void put_thought_block(rlf_slice thought, rlf_chat_text *out) {
    put(out, THINK "\n");
    put_thought(thought, out);
}

static rlf_slice no_thought(const rlf_chat_talk *talk, size_t i, rlf_chat_text *out, bool *some) {
    (void)out;
    rlf_slice content = content_of(talk, i);
    *some = content.len > 0;
    return content;
}

/* Qwen3's rule for a thought that stands in the content: text before the first </think> (and after the last <think> in it) is the
 * thought, what follows the last </think> the content. */
static void split_thought(const char *content, rlf_slice *thought, rlf_slice *rest) {
    *thought = (rlf_slice){"", 0};
    *rest = rlf_slice_of(content);
    const char *close = strstr(content, THINK_END);
    if (!close) return;
    *thought = strip_newlines((rlf_slice){content, (size_t)(close - content)}, false, true);
    for (const char *open = content; (open = memmem(open, (size_t)(thought->ptr + thought->len - open), THINK, strlen(THINK))) != NULL;) {
        open += strlen(THINK);
        *thought = (rlf_slice){open, (size_t)(thought->ptr + thought->len - open)};
    }
    *thought = strip_newlines(*thought, true, false);
    for (const char *next; (next = strstr(close + 1, THINK_END)) != NULL;) close = next;
    *rest = strip_newlines(rlf_slice_of(close + strlen(THINK_END)), true, false);
}

static void thought_and_rest(const rlf_chat_message *message, rlf_slice *thought, rlf_slice *rest) {
    if (message->reasoning) {
        *thought = rlf_slice_of(message->reasoning);
        *rest = rlf_slice_of(message->content);
    } else {
        split_thought(message->content, thought, rest);
    }
}

/* Behind a generation prompt that opened the thought. Returns what is left to put of the content. */
static rlf_slice put_rest_of_thought(const rlf_chat_message *message, rlf_chat_text *out) {
    rlf_slice thought, rest;
    thought_and_rest(message, &thought, &rest);
    put_thought(thought, out);
    return strip_newlines(rest, true, false);
}

/* Before the last question the thought is dropped; behind it kept, and put even if empty in the last message. */
static rlf_slice qwen3_thought(const rlf_chat_talk *talk, size_t i, rlf_chat_text *out, bool *some) {
    rlf_slice thought, rest;
    thought_and_rest(&talk->messages[i], &thought, &rest);
    *some = rest.len > 0;
    if (i > talk->query && (i + 1 == talk->n || thought.len)) {
        put_thought_block(thought, out);
        rest = strip_newlines(rest, true, false);
    }
    return rest;
}

/* ---- heads ------------------------------------------------------------------------------------------------------------------------ */

static rlf_status no_head(const rlf_chat_talk *talk, rlf_chat_text *out, size_t *next) {
    (void)talk, (void)out;
    *next = 0;
    return RLF_OK;
}

static void put_tool_block(const json_t *tools, rlf_chat_text *out) {
    put(out, "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
               "You are provided with function signatures within <tools></tools> XML tags:\n<tools>");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        put(out, "\n");
        rlf_json_write(json_array_get(tools, i), RLF_JSON_SPACED, &out->text);
    }
    put(out, "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
               "<tool_call></tool_call> XML tags:\n"
               "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>");
}

static rlf_status qwen_head(const rlf_chat_talk *talk, rlf_chat_text *out, size_t *next) {
    bool given = is_role(&talk->messages[0], "system");
    const char *system = given ? talk->messages[0].content : talk->family->system;
    *next = given ? 1 : 0;
    if (json_array_size(talk->tools) == 0) {
        if (system) put_turn(talk->family, "system", rlf_slice_of(system), out);
        return RLF_OK;
    }
    put(out, "<|im_start|>system\n");
    if (system) rlf_str_printf(&out->text, "%s\n\n", system);
    put_tool_block(talk->tools, out);
    put(out, talk->family->turn_close);
    return RLF_OK;
}

/* With tools the first message after the system's is the user's, whoever wrote it, and stands behind them. */
static rlf_status llama_head(const rlf_chat_talk *talk, rlf_chat_text *out, size_t *next) {
    size_t i = is_role(&talk->messages[0], "system") ? 1 : 0;
    rlf_str_printf(&out->text, "<|begin_of_text|>" HEADER("system") "%sCutting Knowledge Date: December 2023\nToday Date: %s\n\n",
                   talk->tools ? "Environment: ipython\n" : "", talk->date);
    if (i) put_slice(out, content_of(talk, 0));
    put(out, talk->family->turn_close);
    *next = i;
    if (!talk->tools) return RLF_OK;
    if (i == talk->n) return RLF_RAISE(INVALID, "tools: this template puts them in the first message of the user, and there is none");
    put(out, HEADER("user") "Given the following functions, please respond with a JSON for a function call with its proper arguments "
               "that best answers the given prompt.\n\nRespond in the format {\"name\": function name, \"parameters\": dictionary of "
               "argument name and its value}.Do not use variables.\n\n");
    for (size_t t = 0; t < json_array_size(talk->tools); t++) {
        rlf_json_write(json_array_get(talk->tools, t), RLF_JSON_INDENTED, &out->text);
        put(out, "\n\n");
    }
    put_slice(out, content_of(talk, i));
    put(out, talk->family->turn_close);
    *next = i + 1;
    return RLF_OK;
}

/* ---- families --------------------------------------------------------------------------------------------------------------------- */

static const char *const chatml_needed[] = {"<|im_start|>", "<|im_end|>", NULL};
static const char *const chatml_closes[] = {"<|im_end|>", NULL};
static const char *const chatml_ends[] = {"<|endoftext|>", NULL};
static const char *const llama_needed[] = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", NULL};
static const char *const llama_closes[] = {"<|eot_id|>", "<|eom_id|>", NULL};
static const char *const llama_ends[] = {"<|end_of_text|>", NULL};

#define CHATML                                                                                                                   \
    .turn_open = "<|im_start|>", .role_close = "\n", .turn_close = "<|im_end|>\n", .answers_open = "<|im_start|>user",           \
    .answer_open = "\n" RESPONSE "\n", .answer_close = "\n" RESPONSE_END, .answers_close = "<|im_end|>\n", .after_turn = "\n",    \
    .needed = chatml_needed, .closes = chatml_closes, .ends = chatml_ends, .format = RLF_TOOLS_HERMES

#define QWEN CHATML, .no_thought = "", .opening = "", .put_head = qwen_head, .put_thought = no_thought
#define QWEN3 CHATML, .raw_arguments = true, .put_head = qwen_head, .put_thought = qwen3_thought

static const rlf_chat_family chatml = {CHATML, .no_thought = "", .opening = "", .put_head = no_head, .put_thought = no_thought};
static const rlf_chat_family qwen25 = {QWEN, .system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."};
static const rlf_chat_family qwen25_base = {QWEN, .system = "You are a helpful assistant."};
static const rlf_chat_family qwen3 = {QWEN3, .no_thought = THINK "\n\n" THINK_END "\n\n", .opening = ""};
static const rlf_chat_family qwen3_instruct = {QWEN3, .no_thought = "", .opening = ""};
static const rlf_chat_family qwen3_plain = {QWEN, .raw_arguments = true};
static const rlf_chat_family qwen3_thinking = {QWEN3, .no_thought = "", .opening = THINK "\n"};
static const rlf_chat_family llama3 = {
    .turn_open = "<|start_header_id|>", .role_close = "<|end_header_id|>\n\n", .turn_close = "<|eot_id|>", .answers_open = "",
    .answer_open = HEADER("ipython"), .answer_close = "<|eot_id|>", .answers_close = "", .after_turn = "", .no_thought = "", .opening = "",
    .needed = llama_needed, .closes = llama_closes, .ends = llama_ends, .format = RLF_TOOLS_LLAMA, .trims = true,
    .json_answers = true, .calls_alone = true, .put_head = llama_head, .put_thought = no_thought};

const rlf_chat_family *rlf_chat_family_of(const char *name) {
    static const struct { const char *name; const rlf_chat_family *family; } known[] = {
        {"chatml", &chatml}, {"llama3.1", &llama3}, {"llama3.2", &llama3}, {"qwen2.5", &qwen25}, {"qwen2.5-base", &qwen25_base},
        {"qwen3", &qwen3}, {"qwen3-instruct", &qwen3_instruct}, {"qwen3-instruct-plain", &qwen3_plain},
        {"qwen3-thinking", &qwen3_thinking}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(name, known[i].name)) return known[i].family;
    return NULL;
}

/* ---- the conversation ------------------------------------------------------------------------------------------------------------- */

/* What follows assistant message *i in its turn: tools' answers and how the model went on. *i: its last message. */
static rlf_status put_rest_of_turn(const rlf_chat_talk *talk, size_t *i, rlf_chat_text *out) {
    rlf_status status = RLF_OK;
    while (talk->in_turn && *i + 1 < talk->n && is_role(&talk->messages[*i + 1], "tool")) {
        rlf_chat_put_in_turn(talk->in_turn, rlf_slice_of(talk->messages[++*i].content), false, out);
        if (*i + 1 < talk->n && is_role(&talk->messages[*i + 1], "assistant")) RLF_TRY(rlf_chat_put_model_turn(talk, ++*i, out));
    }
out:
    return status;
}

/* *i: the assistant's message that opens the turn; then the last that stands in it. */
static rlf_status put_history_turn(const rlf_chat_talk *talk, size_t *i, rlf_chat_text *out) {
    rlf_status status = RLF_OK;
    json_t *calls;
    RLF_TRY(parse_calls(talk, *i, &calls));
    rlf_str_printf(&out->text, "%sassistant%s", talk->family->turn_open, talk->family->role_close);
    bool some;
    rlf_slice content = talk->family->put_thought(talk, *i, out, &some);
    put_content_and_calls(talk->family, content, some, calls, out);
    json_decref(calls);
    RLF_TRY(put_rest_of_turn(talk, i, out));
    if (!talk->goes_on || *i + 1 < talk->n) put(out, talk->family->turn_close);
out:
    return status;
}

rlf_status rlf_chat_put_talk(const rlf_chat_talk *talk, rlf_chat_text *out) {
    rlf_status status = RLF_OK;
    size_t i;
    RLF_TRY(talk->family->put_head(talk, out, &i));
    while (i < talk->n) {
        size_t end = i;
        while (end < talk->n && !is_role(&talk->messages[end], "assistant")) end++;
        rlf_chat_put_between(talk, i, end, out);
        if (end < talk->n) RLF_TRY(put_history_turn(talk, &end, out));
        i = end + 1;
    }
out:
    return status;
}

void rlf_chat_put_generation(const rlf_chat_talk *talk, rlf_chat_text *out) {
    rlf_str_printf(&out->text, "%sassistant%s%s%s", talk->family->turn_open, talk->family->role_close,
                   talk->thinking ? "" : talk->family->no_thought, talk->family->opening);
}

rlf_status rlf_chat_put_model_turn(const rlf_chat_talk *talk, size_t i, rlf_chat_text *out) {
    const rlf_chat_message *message = &talk->messages[i];
    rlf_slice content = rlf_slice_of(message->content);
    json_t *calls;
    rlf_status status = parse_calls(talk, i, &calls);
    if (status != RLF_OK) return status;
    if (*talk->family->opening) content = put_rest_of_thought(message, out);
    else if (message->reasoning && talk->thinking && *talk->family->no_thought) put_thought_block(rlf_slice_of(message->reasoning), out);
    put_content_and_calls(talk->family, content, content.len > 0, calls, out);
    json_decref(calls);
    return RLF_OK;
}
