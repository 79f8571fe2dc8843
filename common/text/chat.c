/* Chat templates behind chat.h.
 *
 * A prompt is rendered to text and encoded once, as a whole, because that is what the model saw when its makers trained it. What
 * follows a model turn is pieces: template text, where control tokens count, and tools' answers, encoded apart as plain text. A
 * tokenizer merges nothing across that border, so an answer costs the same ids wherever it stands. */
#include "common/text/chat.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/text/json_text.h"

enum { MAX_TOOLS_JSON = 16 << 20, MAX_DEPTH = 64, MAX_CONFIG = 64 << 20 };
#define START "<|im_start|>"
#define END "<|im_end|>"
#define RESPONSE "<tool_response>"
#define RESPONSE_END "</tool_response>"
#define THINK_END "</think>"
#define KNOWN "known templates: qwen3, chatml"

typedef enum template_kind { QWEN3, CHATML } template_kind;

struct rlf_chat {
    const rlf_tokenizer *tokenizer;
    template_kind kind;
    bool thinking;
    int32_t end_of_turn, end_of_text; /* end_of_text -1: the tokenizer has none */
};

/* ---- which template ---- */

static bool has(const char *text, const char *part) { return strstr(text, part) != NULL; }

/* By the phrases that make the ids: a template that differs in them must not be taken for one it is not. */
static rlf_status recognise(const char *source, const char *text, template_kind *kind) {
    bool chatml = has(text, START) && has(text, END);
    if (chatml && has(text, "enable_thinking") && has(text, RESPONSE) &&
        has(text, "return a json object with function name and arguments within <tool_call>")) {
        *kind = QWEN3;
        return RLF_OK;
    }
    if (chatml && !has(text, "tool") && !has(text, "think") && !has(text, "You are")) {
        *kind = CHATML;
        return RLF_OK;
    }
    return RLF_RAISE(UNSUPPORTED, "%s: this chat template is not one of the " KNOWN, source);
}

static rlf_status recognise_config(const char *path, const rlf_str *json, template_kind *kind) {
    json_error_t error;
    json_t *root = json_loadb(json->ptr ? json->ptr : "", json->len, 0, &error);
    const char *text = json_string_value(json_object_get(root, "chat_template"));
    rlf_status status;
    if (!root) status = RLF_RAISE(INVALID, "%s: line %d, byte %d: %s", path, error.line, error.position, error.text);
    else if (!text)
        status = RLF_RAISE(NOT_FOUND, "%s: chat_template: expected text, or a file chat_template.jinja beside it; or name one "
                                      "of the " KNOWN, path);
    else status = recognise(path, text, kind);
    json_decref(root);
    return status;
}

static rlf_status detect(const char *dir, template_kind *kind) {
    rlf_status status = RLF_OK;
    rlf_str path = {0}, text = {0};
    rlf_str_printf(&path, "%s/chat_template.jinja", dir);
    bool jinja = access(path.ptr, F_OK) == 0;
    if (!jinja) {
        rlf_str_reset(&path);
        rlf_str_printf(&path, "%s/tokenizer_config.json", dir);
        if (access(path.ptr, F_OK) != 0)
            RLF_FAIL(NOT_FOUND, "%s: no chat_template.jinja or tokenizer_config.json to know the chat template by; name one of "
                                "the " KNOWN, dir);
    }
    RLF_TRY(rlf_str_read_file(&text, path.ptr, MAX_CONFIG));
    RLF_TRY(jinja ? recognise(path.ptr, text.ptr, kind) : recognise_config(path.ptr, &text, kind));
out:
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&text);
    return status;
}

static rlf_status kind_of(const char *name, const char *dir, template_kind *kind) {
    if (!strcmp(name, "auto")) return detect(dir, kind);
    if (!strcmp(name, "qwen3")) *kind = QWEN3;
    else if (!strcmp(name, "chatml")) *kind = CHATML;
    else return RLF_RAISE(INVALID, "chat template \"%s\" is unknown (" KNOWN ", or auto)", name);
    return RLF_OK;
}

rlf_status rlf_chat_new(rlf_chat **out, const rlf_tokenizer *tokenizer, const char *name, const char *dir, bool thinking) {
    *out = NULL;
    template_kind kind;
    rlf_status status = kind_of(name, dir, &kind);
    if (status != RLF_OK) return status;
    int32_t end = rlf_tokenizer_id(tokenizer, END);
    if (end < 0 || rlf_tokenizer_id(tokenizer, START) < 0)
        return RLF_RAISE(INVALID, "%s: the tokenizer has no token " START " or " END ", which the chat template needs",
                         dir ? dir : "tokenizer");
    rlf_chat *chat = rlf_calloc(1, sizeof *chat);
    *chat = (rlf_chat){tokenizer, kind, thinking, end, rlf_tokenizer_id(tokenizer, "<|endoftext|>")};
    *out = chat;
    return RLF_OK;
}

void rlf_chat_destroy(rlf_chat *chat) { free(chat); }

int32_t rlf_chat_end_of_turn(const rlf_chat *chat) { return chat->end_of_turn; }

bool rlf_chat_is_stop(const rlf_chat *chat, int32_t id) { return id >= 0 && (id == chat->end_of_turn || id == chat->end_of_text); }

/* ---- the prompt as text ---- */

static bool is_role(const rlf_chat_message *message, const char *role) { return !strcmp(message->role, role); }

static rlf_status check_roles(const rlf_chat_message *messages, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!is_role(&messages[i], "system") && !is_role(&messages[i], "user") && !is_role(&messages[i], "assistant") &&
            !is_role(&messages[i], "tool"))
            return RLF_RAISE(INVALID, "message %zu: role \"%s\": expected system, user, assistant or tool", i, messages[i].role);
    return RLF_OK;
}

static void put_turn(const char *role, const char *content, rlf_str *out) { rlf_str_printf(out, START "%s\n%s" END "\n", role, content); }

static const char *generation_prompt(const rlf_chat *chat) {
    return chat->kind == QWEN3 && !chat->thinking ? START "assistant\n<think>\n\n</think>\n\n" : START "assistant\n";
}

static rlf_status put_tools(const char *system, const char *tools_json, rlf_str *out) {
    json_error_t error;
    rlf_status status = RLF_OK;
    size_t n = strlen(tools_json);
    if (n > MAX_TOOLS_JSON) return RLF_RAISE(LIMIT, "tools: %zu bytes of JSON (at most %d)", n, MAX_TOOLS_JSON);
    json_t *tools = json_loadb(tools_json, n, 0, &error);
    if (!tools) return RLF_RAISE(INVALID, "tools: line %d, byte %d: %s", error.line, error.position, error.text);
    if (!json_is_array(tools)) RLF_FAIL(INVALID, "tools: expected a JSON array of function schemas");
    if (!rlf_json_depth_within(tools, MAX_DEPTH)) RLF_FAIL(LIMIT, "tools: nested deeper than %d", MAX_DEPTH);
    if (json_array_size(tools) == 0) {
        if (system) put_turn("system", system, out);
        goto out;
    }
    rlf_str_puts(out, START "system\n");
    if (system) rlf_str_printf(out, "%s\n\n", system);
    rlf_str_puts(out, "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                      "You are provided with function signatures within <tools></tools> XML tags:\n<tools>");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        rlf_str_putc(out, '\n');
        rlf_json_write(json_array_get(tools, i), false, out);
    }
    rlf_str_puts(out, "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
                      "<tool_call></tool_call> XML tags:\n"
                      "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" END "\n");
out:
    json_decref(tools);
    return status;
}

/* Tool answers i, i + 1, … of one turn stand in one user message. Returns the first message after them. */
static size_t put_answers(const rlf_chat_message *messages, size_t n, size_t i, rlf_str *out) {
    rlf_str_puts(out, START "user");
    for (; i < n && is_role(&messages[i], "tool"); i++) rlf_str_printf(out, "\n" RESPONSE "\n%s\n" RESPONSE_END, messages[i].content);
    rlf_str_puts(out, END "\n");
    return i;
}

static bool is_wrapped_answer(const char *content) {
    size_t n = strlen(content), close = strlen(RESPONSE_END);
    return !strncmp(content, RESPONSE, strlen(RESPONSE)) && n >= close && !strcmp(content + n - close, RESPONSE_END);
}

/* The last message of a user that is not a tool's answer; n - 1 if none. Assistant turns after it belong to the present task and
 * keep their thoughts. */
static size_t last_query(const rlf_chat_message *messages, size_t n) {
    for (size_t i = n; i-- > 0;)
        if (is_role(&messages[i], "user") && !is_wrapped_answer(messages[i].content)) return i;
    return n - 1;
}

static rlf_slice strip_newlines(rlf_slice s, bool left, bool right) {
    while (left && s.len && s.ptr[0] == '\n') s.ptr++, s.len--;
    while (right && s.len && s.ptr[s.len - 1] == '\n') s.len--;
    return s;
}

/* Qwen3's rule: text before the first </think> (and after the last <think> in it) is the thought, what follows the last </think>
 * the content. */
static void split_thought(const char *content, rlf_slice *thought, rlf_slice *rest) {
    *thought = (rlf_slice){"", 0};
    *rest = rlf_slice_of(content);
    const char *close = strstr(content, THINK_END);
    if (!close) return;
    *thought = strip_newlines((rlf_slice){content, (size_t)(close - content)}, false, true);
    for (const char *open = content; (open = memmem(open, (size_t)(thought->ptr + thought->len - open), "<think>", 7)) != NULL;) {
        open += 7;
        *thought = (rlf_slice){open, (size_t)(thought->ptr + thought->len - open)};
    }
    *thought = strip_newlines(*thought, true, false);
    for (const char *next; (next = strstr(close + 1, THINK_END)) != NULL;) close = next;
    *rest = strip_newlines(rlf_slice_of(close + strlen(THINK_END)), true, false);
}

/* An assistant message of the history: before the last query its thought is dropped; after it kept, and put even if empty in the
 * last message. */
static void put_history_turn(const char *content, bool after_query, bool last, rlf_str *out) {
    rlf_slice thought, rest;
    split_thought(content, &thought, &rest);
    rlf_str_puts(out, START "assistant\n");
    if (after_query && (last || thought.len)) {
        thought = strip_newlines(thought, true, true);
        rest = strip_newlines(rest, true, false);
        rlf_str_puts(out, "<think>\n");
        rlf_str_append(out, thought.ptr, thought.len);
        rlf_str_puts(out, "\n</think>\n\n");
    }
    rlf_str_append(out, rest.ptr, rest.len);
    rlf_str_puts(out, END "\n");
}

static rlf_status render_qwen3(const rlf_chat_message *messages, size_t n, const char *tools_json, rlf_str *out) {
    const char *system = n && is_role(&messages[0], "system") ? messages[0].content : NULL;
    if (tools_json) {
        rlf_status status = put_tools(system, tools_json, out);
        if (status != RLF_OK) return status;
    } else if (system) {
        put_turn("system", system, out);
    }
    size_t query = last_query(messages, n);
    for (size_t i = system ? 1 : 0; i < n;) {
        if (is_role(&messages[i], "tool")) {
            i = put_answers(messages, n, i, out);
            continue;
        }
        if (is_role(&messages[i], "assistant")) put_history_turn(messages[i].content, i > query, i + 1 == n, out);
        else put_turn(messages[i].role, messages[i].content, out);
        i++;
    }
    return RLF_OK;
}

static void render_chatml(const rlf_chat_message *messages, size_t n, rlf_str *out) {
    for (size_t i = 0; i < n;) {
        if (is_role(&messages[i], "tool")) {
            i = put_answers(messages, n, i, out);
        } else {
            put_turn(messages[i].role, messages[i].content, out);
            i++;
        }
    }
}

rlf_status rlf_chat_prompt_text(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json, rlf_str *out) {
    rlf_status status = RLF_OK;
    if (n == 0) RLF_FAIL(INVALID, "a prompt needs at least one message");
    RLF_TRY(check_roles(messages, n));
    if (chat->kind == QWEN3) RLF_TRY(render_qwen3(messages, n, tools_json, out));
    else render_chatml(messages, n, out);
    rlf_str_puts(out, generation_prompt(chat));
out:
    return status;
}

rlf_status rlf_chat_prompt(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json, rlf_ids *out) {
    rlf_str text = {0};
    rlf_status status = rlf_chat_prompt_text(chat, messages, n, tools_json, &text);
    if (status == RLF_OK) rlf_tokenizer_encode(chat->tokenizer, text.ptr, text.len, true, out);
    rlf_str_clean_up(&text);
    return status;
}

/* ---- what follows a model turn ---- */

static void encode_template(const rlf_chat *chat, const char *text, rlf_ids *out) {
    rlf_tokenizer_encode(chat->tokenizer, text, strlen(text), true, out);
}

/* From just behind the model's end of turn to just before the end of the user message that holds the answers. */
static void append_answers(const rlf_chat *chat, const rlf_slice *answers, size_t n, size_t max_tokens, rlf_ids *out, size_t *cut) {
    encode_template(chat, "\n" START "user\n" RESPONSE "\n", out);
    for (size_t i = 0; i < n; i++) {
        if (i > 0) encode_template(chat, "\n" RESPONSE_END "\n" RESPONSE "\n", out);
        size_t begin = out->n;
        rlf_tokenizer_encode(chat->tokenizer, answers[i].ptr, answers[i].len, false, out);
        if (out->n - begin <= max_tokens) continue;
        out->n = begin + max_tokens;
        ++*cut;
    }
}

void rlf_chat_observation(const rlf_chat *chat, const rlf_slice *answers, size_t n, size_t max_tokens, bool closed, rlf_ids *out,
                          size_t *cut) {
    rlf_str tail = {0};
    *cut = 0;
    if (!closed) rlf_ids_push(out, chat->end_of_turn);
    if (n > 0) append_answers(chat, answers, n, max_tokens, out, cut);
    rlf_str_printf(&tail, "%s\n%s", n > 0 ? "\n" RESPONSE_END END : "", generation_prompt(chat));
    encode_template(chat, tail.ptr, out);
    rlf_str_clean_up(&tail);
}

/* ---- supervised ---- */

/* All that stands between two model turns: any mix of tool answers and messages. Ends with the generation prompt. */
static void append_between(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, size_t max_tokens, rlf_ids *out) {
    size_t i = 0, cut;
    while (i < n && is_role(&messages[i], "tool")) i++;
    rlf_slice *answers = rlf_calloc(i, sizeof *answers);
    for (size_t k = 0; k < i; k++) answers[k] = rlf_slice_of(messages[k].content);
    if (i == n) {
        rlf_chat_observation(chat, answers, i, max_tokens, true, out, &cut);
    } else {
        rlf_str text = {0};
        if (i > 0) append_answers(chat, answers, i, max_tokens, out, &cut);
        rlf_str_puts(&text, i > 0 ? "\n" RESPONSE_END END "\n" : "\n");
        render_chatml(messages + i, n - i, &text); /* both templates put these roles alike */
        rlf_str_puts(&text, generation_prompt(chat));
        encode_template(chat, text.ptr, out);
        rlf_str_clean_up(&text);
    }
    free(answers);
}

static size_t next_assistant(const rlf_chat_message *messages, size_t n, size_t from) {
    while (from < n && !is_role(&messages[from], "assistant")) from++;
    return from;
}

rlf_status rlf_chat_supervised(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json,
                               size_t max_observation_tokens, rlf_ids *out, rlf_chat_span_fn *span, void *ctx) {
    rlf_status status = RLF_OK;
    size_t begin = out->n, at = next_assistant(messages, n, 0);
    if (at == n) RLF_FAIL(INVALID, "a supervised conversation needs an assistant message");
    RLF_TRY(check_roles(messages, n));
    RLF_TRY(rlf_chat_prompt(chat, messages, at, tools_json, out));
    while (at < n) {
        span(ctx, begin, out->n, false);
        begin = out->n;
        encode_template(chat, messages[at].content, out);
        rlf_ids_push(out, chat->end_of_turn);
        span(ctx, begin, out->n, true);
        begin = out->n;
        size_t next = next_assistant(messages, n, at + 1);
        if (next < n) append_between(chat, messages + at + 1, next - at - 1, max_observation_tokens, out);
        at = next;
    }
out:
    return status;
}
