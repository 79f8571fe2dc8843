/* Chat templates as ids, turn by turn (chat.h). The text comes from chat_render.c.
 *
 * A prompt is encoded once, as a whole, because that is what the model saw when its makers trained it. What follows a model turn is
 * pieces: template text, where control tokens count, and tools' answers, encoded apart as plain text. A tokenizer merges nothing
 * across that border, so an answer costs the same ids wherever it stands. */
#include "common/text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "common/text/chat_private.h"

rlf_chat_options rlf_chat_options_of(const rlf_config *config) {
    return (rlf_chat_options){.name = config->episode.chat, .thinking = config->episode.thinking, .date = config->episode.date,
                              .tool_format = config->episode.tool_format, .search_call = config->episode.search_call,
                              .python_call = config->episode.python_call};
}

/* ---- set up ----------------------------------------------------------------------------------------------------------------------- */

static rlf_status family_of(const char *name, const char *dir, const rlf_chat_family **family) {
    rlf_status status = RLF_OK;
    if (!strcmp(name, "auto")) RLF_TRY(rlf_chat_detect(dir, &name));
    *family = rlf_chat_family_of(name);
    if (!*family) RLF_FAIL(INVALID, "chat template \"%s\" is unknown (" RLF_CHAT_KNOWN ", or auto)", name);
out:
    return status;
}

static rlf_status tool_format_of(const char *name, const rlf_chat_family *family, rlf_tool_format *format) {
    *format = family->format;
    if (!name || !strcmp(name, "auto") || rlf_tool_format_parse(name, format)) return RLF_OK;
    return RLF_RAISE(INVALID, "tool format \"%s\" is unknown (known: " RLF_TOOL_FORMATS ", or auto)", name);
}

static rlf_status check_tokens(const rlf_tokenizer *tokenizer, const rlf_chat_family *family, const char *dir) {
    for (const char *const *token = family->needed; *token; token++)
        if (rlf_tokenizer_id(tokenizer, *token) < 0)
            return RLF_RAISE(INVALID, "%s: the tokenizer has no token %s, which the chat template needs", dir ? dir : "tokenizer", *token);
    return RLF_OK;
}

static void take_stops(rlf_chat *chat, const char *const *tokens) {
    for (; *tokens; tokens++) {
        int32_t id = rlf_tokenizer_id(chat->tokenizer, *tokens);
        if (id >= 0) chat->stops[chat->n_stops++] = id;
    }
}

static void take_ids(rlf_chat *chat) {
    take_stops(chat, chat->family->closes);
    chat->n_closes = chat->n_stops;
    take_stops(chat, chat->family->ends);
    chat->python_tag = chat->syntax.format == RLF_TOOLS_LLAMA ? rlf_tokenizer_id(chat->tokenizer, RLF_PYTHON_TAG) : -1;
}

rlf_status rlf_chat_new(rlf_chat **out, const rlf_tokenizer *tokenizer, const char *dir, rlf_chat_options options) {
    rlf_status status = RLF_OK;
    const rlf_chat_family *family = NULL;
    rlf_tool_format format;
    *out = NULL;
    RLF_TRY(family_of(options.name, dir, &family));
    RLF_TRY(tool_format_of(options.tool_format, family, &format));
    RLF_TRY(check_tokens(tokenizer, family, dir));
    *out = rlf_calloc(1, sizeof **out);
    **out = (rlf_chat){.tokenizer = tokenizer, .family = family, .thinking = options.thinking, .in_turn = rlf_chat_in_turn_of(format),
                       .date = rlf_strdup(options.date ? options.date : RLF_CHAT_DATE),
                       .search_call = rlf_strdup(options.search_call ? options.search_call : RLF_SEARCH_CALL),
                       .python_call = rlf_strdup(options.python_call ? options.python_call : RLF_PYTHON_CALL)};
    (*out)->syntax = (rlf_tool_syntax){format, (*out)->search_call, (*out)->python_call};
    take_ids(*out);
out:
    return status;
}

void rlf_chat_destroy(rlf_chat *chat) {
    if (!chat) return;
    free(chat->date);
    free(chat->search_call);
    free(chat->python_call);
    free(chat);
}

/* ---- ids with a meaning ----------------------------------------------------------------------------------------------------------- */

static bool is_among(const int32_t *ids, int n, int32_t id) {
    for (int i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

int32_t rlf_chat_end_of_turn(const rlf_chat *chat) { return chat->stops[0]; }
bool rlf_chat_closes_turn(const rlf_chat *chat, int32_t id) { return is_among(chat->stops, chat->n_closes, id); }
bool rlf_chat_is_stop(const rlf_chat *chat, int32_t id) { return is_among(chat->stops, chat->n_stops, id); }
static bool is_tool(const rlf_chat_message *message) { return !strcmp(message->role, "tool"); }
static bool leaves_open(const rlf_chat *chat, const rlf_chat_message *last) { return chat->in_turn && last && is_tool(last); }
const char *rlf_chat_opening(const rlf_chat *chat, const rlf_chat_message *last) { return leaves_open(chat, last) ? "" : chat->family->opening; }
bool rlf_chat_goes_on(const rlf_chat *chat, int32_t id) { return chat->in_turn && !rlf_chat_is_stop(chat, id); }
const rlf_tool_syntax *rlf_chat_tool_syntax(const rlf_chat *chat) { return &chat->syntax; }

void rlf_chat_read(const rlf_chat *chat, int32_t id, rlf_str *out) {
    rlf_tokenizer_decode(chat->tokenizer, &id, 1, id != chat->python_tag, out);
}

/* ---- text to ids ------------------------------------------------------------------------------------------------------------------ */

static void encode(const rlf_chat *chat, const rlf_chat_text *text, size_t begin, size_t end, bool added, rlf_ids *out) {
    if (end > begin) rlf_tokenizer_encode(chat->tokenizer, text->text.ptr + begin, end - begin, added, out);
}

/* The template's text and the plain ranges apart, of which at most max_tokens are kept; cut (text->n) or NULL. */
static void encode_pieces(const rlf_chat *chat, const rlf_chat_text *text, size_t max_tokens, rlf_ids *out, bool *cut) {
    size_t at = 0;
    for (size_t i = 0; i < text->n; i++) {
        encode(chat, text, at, text->plain[i].begin, true, out);
        at = text->plain[i].end;
        size_t begin = out->n;
        encode(chat, text, text->plain[i].begin, at, false, out);
        bool longer = out->n - begin > max_tokens;
        if (longer) out->n = begin + max_tokens;
        if (cut) cut[i] = longer;
    }
    encode(chat, text, at, text->text.len, true, out);
}

/* Whether a plain range holds the text of an added token. */
static bool holds_control_text(const rlf_chat *chat, const rlf_chat_text *text) {
    rlf_ids plain = {0}, added = {0};
    bool differs = false;
    for (size_t i = 0; i < text->n && !differs; i++) {
        plain.n = added.n = 0;
        encode(chat, text, text->plain[i].begin, text->plain[i].end, false, &plain);
        encode(chat, text, text->plain[i].begin, text->plain[i].end, true, &added);
        differs = plain.n != added.n || (plain.n && memcmp(plain.v, added.v, plain.n * sizeof *plain.v));
    }
    rlf_ids_clean_up(&plain);
    rlf_ids_clean_up(&added);
    return differs;
}

/* ---- prompts ---------------------------------------------------------------------------------------------------------------------- */

static rlf_status check_messages(const rlf_chat *chat, const rlf_chat_message *messages, size_t n) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    if (n == 0) return RLF_RAISE(INVALID, "a prompt needs at least one message");
    for (size_t i = 0; i < n; i++) {
        int k = 0;
        while (k < 4 && strcmp(messages[i].role, roles[k])) k++;
        if (k == 4) return RLF_RAISE(INVALID, "message %zu: role \"%s\": expected system, user, assistant or tool", i, messages[i].role);
        bool follows = i > 0 && (is_tool(&messages[i - 1]) || !strcmp(messages[i - 1].role, "assistant"));
        if (chat->in_turn && is_tool(&messages[i]) && !follows)
            return RLF_RAISE(INVALID, "message %zu: a tool's answer stands in the turn of an assistant, and there is none before it", i);
    }
    return RLF_OK;
}

static bool is_wrapped_answer(const char *content) {
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    size_t n = strlen(content);
    return !strncmp(content, open, strlen(open)) && n >= strlen(close) && !strcmp(content + n - strlen(close), close);
}

/* The last message of a user that is not a tool's answer; n - 1 if none. Assistant turns after it belong to the present task. */
static size_t last_query(const rlf_chat_message *messages, size_t n) {
    for (size_t i = n; i-- > 0;)
        if (!strcmp(messages[i].role, "user") && !is_wrapped_answer(messages[i].content)) return i;
    return n - 1;
}

static rlf_chat_talk talk_of(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const json_t *tools) {
    return (rlf_chat_talk){.family = chat->family, .in_turn = chat->in_turn, .thinking = chat->thinking, .date = chat->date,
                           .messages = messages, .n = n, .tools = tools, .query = n ? last_query(messages, n) : 0};
}

rlf_status rlf_chat_render(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json, bool generation,
                           rlf_str *text, rlf_ids *ids) {
    rlf_status status = RLF_OK;
    rlf_chat_text out = {0};
    json_t *tools = NULL;
    RLF_TRY(check_messages(chat, messages, n));
    RLF_TRY(rlf_chat_tools_parse(chat->in_turn ? NULL : tools_json, &tools));
    rlf_chat_talk talk = talk_of(chat, messages, n, tools);
    talk.goes_on = generation && leaves_open(chat, &messages[n - 1]);
    RLF_TRY(rlf_chat_put_talk(&talk, &out));
    if (generation && !talk.goes_on) rlf_chat_put_generation(&talk, &out);
    if (ids && holds_control_text(chat, &out)) encode_pieces(chat, &out, SIZE_MAX, ids, NULL);
    else if (ids) encode(chat, &out, 0, out.text.len, true, ids);
    if (text) rlf_str_append(text, out.text.ptr ? out.text.ptr : "", out.text.len);
out:
    rlf_chat_text_clean_up(&out);
    json_decref(tools);
    return status;
}

rlf_status rlf_chat_prompt(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json, rlf_ids *out) {
    return rlf_chat_render(chat, messages, n, tools_json, true, NULL, out);
}

/* ---- what follows a model turn ---------------------------------------------------------------------------------------------------- */

void rlf_chat_observation(const rlf_chat *chat, const rlf_slice *answers, size_t n, size_t max_tokens, rlf_chat_end end, rlf_ids *out,
                          bool *cut) {
    rlf_chat_text text = {0};
    rlf_chat_talk talk = talk_of(chat, NULL, 0, NULL);
    bool open = rlf_chat_goes_on(chat, end.id);
    if (!open && !rlf_chat_closes_turn(chat, end.id)) rlf_ids_push(out, rlf_chat_end_of_turn(chat));
    if (!open) rlf_str_puts(&text.text, chat->family->after_turn);
    if (!chat->in_turn) rlf_chat_put_answers(chat->family, answers, n, &text);
    if (!open) rlf_chat_put_generation(&talk, &text);
    for (size_t i = 0; chat->in_turn && i < n; i++) rlf_chat_put_in_turn(chat->in_turn, answers[i], end.refused, &text);
    encode_pieces(chat, &text, max_tokens, out, cut);
    rlf_chat_text_clean_up(&text);
}

/* ---- supervised ------------------------------------------------------------------------------------------------------------------- */

static size_t next_assistant(const rlf_chat_talk *talk, size_t from) {
    while (from < talk->n && strcmp(talk->messages[from].role, "assistant")) from++;
    return from;
}

/* Whether a tool's answer stands in the turn of message i, behind it. */
static bool stays_open(const rlf_chat_talk *talk, size_t i) { return talk->in_turn && i + 1 < talk->n && is_tool(&talk->messages[i + 1]); }

static rlf_status append_model_turn(const rlf_chat *chat, const rlf_chat_talk *talk, size_t i, rlf_ids *out) {
    rlf_chat_text text = {0};
    rlf_status status = rlf_chat_put_model_turn(talk, i, &text);
    if (status == RLF_OK) {
        encode(chat, &text, 0, text.text.len, true, out);
        if (!stays_open(talk, i)) rlf_ids_push(out, rlf_chat_end_of_turn(chat));
    }
    rlf_chat_text_clean_up(&text);
    return status;
}

/* All that stands between two model turns: any mix of tool answers and messages. Ends with the generation prompt, unless all of it stands
 * in the turn of the message before it. */
static void append_between(const rlf_chat *chat, const rlf_chat_talk *talk, size_t begin, size_t end, size_t max_tokens, rlf_ids *out) {
    rlf_chat_text text = {0};
    size_t at = begin;
    for (; talk->in_turn && at < end && is_tool(&talk->messages[at]); at++)
        rlf_chat_put_in_turn(talk->in_turn, rlf_slice_of(talk->messages[at].content), false, &text);
    if (at == begin) rlf_str_puts(&text.text, chat->family->after_turn);
    else if (at < end) rlf_str_puts(&text.text, chat->family->turn_close);
    rlf_chat_put_between(talk, at, end, &text);
    if (at == begin || at < end) rlf_chat_put_generation(talk, &text);
    encode_pieces(chat, &text, max_tokens, out, NULL);
    rlf_chat_text_clean_up(&text);
}

rlf_status rlf_chat_supervised(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json,
                               size_t max_observation_tokens, rlf_ids *out, rlf_chat_span_fn *span, void *ctx) {
    rlf_status status = RLF_OK;
    rlf_chat_talk talk = talk_of(chat, messages, n, NULL);
    size_t begin = out->n, at = next_assistant(&talk, 0);
    if (at == n) RLF_FAIL(INVALID, "a supervised conversation needs an assistant message");
    RLF_TRY(check_messages(chat, messages, n));
    RLF_TRY(rlf_chat_prompt(chat, messages, at, tools_json, out));
    while (at < n) {
        span(ctx, begin, out->n, false);
        begin = out->n;
        RLF_TRY(append_model_turn(chat, &talk, at, out));
        span(ctx, begin, out->n, true);
        begin = out->n;
        size_t next = next_assistant(&talk, at + 1);
        if (next < n) append_between(chat, &talk, at + 1, next, max_observation_tokens, out);
        at = next;
    }
out:
    return status;
}
