/* Reading data rows (data.h): a file is read in pieces, each complete line is parsed with jansson and copied into the arena of
 * the dataset. */
#include "common/config/data.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"

enum { LINE_MAX_BYTES = 16 << 20, MESSAGES_MAX = 65536, TARGETS_MAX = 65536, TOOLS_MAX = 1024, PIECE = 1 << 16 };
enum { EXTRA_MAX = 16 << 20 }; /* what a message holds */

#define TEXT "text without NUL"

/* Where a row is, for messages, and where its strings go. */
typedef struct place {
    const char *file;
    size_t line;
    rlf_arena *arena;
} place;

static rlf_status expected(const place *at, const char *key, const char *what) {
    return RLF_RAISE(INVALID, "%s:%zu: '%s': expected %s", at->file, at->line, key, what);
}

static const char *copy(const place *at, const json_t *string) {
    return rlf_arena_dup(at->arena, json_string_value(string), json_string_length(string));
}

/* ---- the parts of a row ----------------------------------------------------------------------------------------------------------- */

static bool is_role(const char *role) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(role, roles[i]) == 0) return true;
    return false;
}

/* What only an assistant's message has. */
static rlf_status parse_reply(const place *at, rlf_chat_message *out, const char *key, size_t i, const json_t *message) {
    const json_t *reasoning = json_object_get(message, "reasoning_content"), *calls = json_object_get(message, "tool_calls");
    char name[48];
    *out = (rlf_chat_message){0};
    snprintf(name, sizeof name, "%s[%zu].reasoning_content", key, i);
    if (reasoning && !json_is_null(reasoning) && !rlf_json_is_text(reasoning)) return expected(at, name, TEXT);
    snprintf(name, sizeof name, "%s[%zu].tool_calls", key, i);
    if (calls && !json_is_null(calls) && !json_is_array(calls)) return expected(at, name, "a list of calls");
    if (json_is_string(reasoning)) out->reasoning = copy(at, reasoning);
    if (json_array_size(calls) == 0) return RLF_OK;
    char *text = json_dumps(calls, JSON_COMPACT);
    if (!text) return RLF_RAISE(NO_MEMORY, "%s:%zu: no memory for tool_calls", at->file, at->line);
    out->tool_calls = rlf_arena_dup(at->arena, text, strlen(text));
    free(text);
    return RLF_OK;
}

static rlf_status parse_message(const place *at, rlf_chat_message *out, const char *key, size_t i, const json_t *message) {
    rlf_status status = RLF_OK;
    const json_t *role = json_object_get(message, "role"), *content = json_object_get(message, "content");
    char name[48];
    snprintf(name, sizeof name, "%s[%zu]", key, i);
    if (!json_is_object(message)) return expected(at, name, "a map with role and content");
    snprintf(name, sizeof name, "%s[%zu].role", key, i);
    if (!rlf_json_is_text(role) || !is_role(json_string_value(role))) return expected(at, name, "one of system, user, assistant, tool");
    RLF_TRY(parse_reply(at, out, key, i, message));
    snprintf(name, sizeof name, "%s[%zu].content", key, i);
    bool nothing = !content || json_is_null(content);
    if (!rlf_json_is_text(content) && !(nothing && out->tool_calls)) return expected(at, name, TEXT);
    out->role = copy(at, role);
    out->content = nothing ? "" : copy(at, content);
out:
    return status;
}

static rlf_status parse_messages(const place *at, rlf_row *row, const char *key, const json_t *list) {
    rlf_status status = RLF_OK;
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0 || n > MESSAGES_MAX) return expected(at, key, "a list of at least one chat message");
    rlf_chat_message *messages = rlf_arena_alloc(at->arena, n, sizeof *messages);
    for (size_t i = 0; i < n; i++) RLF_TRY(parse_message(at, &messages[i], key, i, json_array_get(list, i)));
    row->messages = messages;
    row->n_messages = n;
out:
    return status;
}

static size_t count_assistant(const rlf_row *row) {
    size_t n = 0;
    for (size_t i = 0; i < row->n_messages; i++) n += strcmp(row->messages[i].role, "assistant") == 0;
    return n;
}

/* A row of a data set of questions (FlashRAG, NQ-open), which has no messages. */
static const json_t *lone_question(const json_t *root) {
    return json_object_get(root, "prompt") || json_object_get(root, "messages") ? NULL : json_object_get(root, "question");
}

static bool is_space(char c) { return c != '\0' && strchr(" \t\r\n", c); }

/* As one message of the user, without white space around it and with a question mark at its end (Search-R1's preparation of NQ). */
static rlf_status parse_question(const place *at, rlf_row *row, const json_t *question) {
    if (!rlf_json_is_text(question)) return expected(at, "question", TEXT);
    const char *text = json_string_value(question), *end = text + json_string_length(question);
    while (is_space(*text)) text++;
    while (end > text && is_space(end[-1])) end--;
    if (end == text) return expected(at, "question", "a question");
    rlf_chat_message *message = rlf_arena_alloc(at->arena, 1, sizeof *message);
    *message = (rlf_chat_message){.role = "user"};
    message->content = rlf_arena_printf(at->arena, "%.*s%s", (int)(end - text), text, end[-1] == '?' ? "" : "?");
    row->messages = message;
    row->n_messages = 1;
    return RLF_OK;
}

static rlf_status parse_conversation(const place *at, rlf_row *row, const json_t *root, bool supervised) {
    rlf_status status = RLF_OK;
    const json_t *prompt = json_object_get(root, "prompt"), *messages = json_object_get(root, "messages");
    if (supervised && !messages) return expected(at, "messages", "the whole conversation, a list of chat messages; the key is missing");
    if (lone_question(root)) return parse_question(at, row, lone_question(root));
    if (!prompt && !messages) return expected(at, "prompt", "a list of chat messages (or 'question', a text); the key is missing");
    const char *key = supervised || !prompt ? "messages" : "prompt";
    RLF_TRY(parse_messages(at, row, key, supervised || !prompt ? messages : prompt));
    if (supervised && count_assistant(row) == 0) return expected(at, key, "at least one message of the assistant");
    if (!supervised && !prompt && count_assistant(row))
        return expected(at, key, "no message of the assistant: a question, not a conversation");
    if (!supervised && strcmp(row->messages[row->n_messages - 1].role, "assistant") == 0)
        return expected(at, key, "a last message that is not the assistant's");
out:
    return status;
}

static rlf_status parse_target_list(const place *at, rlf_row *row, const char *key, const json_t *list) {
    size_t n = json_array_size(list);
    if (n == 0 || n > TARGETS_MAX) return expected(at, key, "at least one accepted answer");
    row->targets = rlf_arena_alloc(at->arena, n, sizeof *row->targets);
    for (size_t i = 0; i < n; i++) {
        const json_t *target = json_array_get(list, i);
        if (!rlf_json_is_text(target)) return expected(at, key, "a list of texts only, without NUL");
        row->targets[i] = copy(at, target);
    }
    row->n_targets = n;
    return RLF_OK;
}

/* *key is where the accepted answers are, or would be. */
static const json_t *find_targets(const json_t *root, const char **key) {
    static const char *const beside_question[] = {"golden_answers", "answers", "answer"};
    for (size_t i = 0; lone_question(root) && i < sizeof beside_question / sizeof *beside_question; i++) {
        *key = beside_question[i];
        if (json_object_get(root, *key)) return json_object_get(root, *key);
    }
    *key = "reward_model.ground_truth";
    return json_object_get(json_object_get(root, "reward_model"), "ground_truth");
}

static rlf_status parse_targets(const place *at, rlf_row *row, const json_t *root, bool required) {
    const json_t *model = json_object_get(root, "reward_model");
    const char *key;
    const json_t *truth = find_targets(root, &key);
    if (model && !json_is_object(model)) return expected(at, "reward_model", "a map with ground_truth");
    if (!truth && !required) return RLF_OK;
    if (!truth) return expected(at, key, "the accepted answers; the key is missing");
    if (json_is_object(truth)) truth = json_object_get(truth, "target");
    if (json_is_array(truth)) return parse_target_list(at, row, key, truth);
    if (!rlf_json_is_text(truth)) return expected(at, key, "{\"target\": [...]}, a list of texts, or a text, without NUL");
    row->targets = rlf_arena_alloc(at->arena, 1, sizeof *row->targets);
    row->targets[0] = copy(at, truth);
    row->n_targets = 1;
    return RLF_OK;
}

static rlf_status parse_tools(const place *at, rlf_row *row, const json_t *list) {
    size_t n = json_array_size(list);
    if (!list || json_is_null(list)) return RLF_OK;
    if (!json_is_array(list) || n > TOOLS_MAX) return expected(at, "extra_info.tools", "a list of names of functions");
    row->tools = rlf_arena_alloc(at->arena, n, sizeof *row->tools);
    for (size_t i = 0; i < n; i++) {
        if (!rlf_json_is_text(json_array_get(list, i))) return expected(at, "extra_info.tools", "a list of names of functions");
        row->tools[i] = copy(at, json_array_get(list, i));
    }
    row->n_tools = n;
    return RLF_OK;
}

static rlf_status parse_extra(const place *at, rlf_row *row, const json_t *root) {
    const json_t *extra = json_object_get(root, "extra_info"), *index = json_object_get(extra, "index");
    row->extra = "";
    if (!index && lone_question(root)) index = json_object_get(root, "id");
    if (rlf_json_is_text(index)) row->id = copy(at, index);
    else if (json_is_integer(index)) row->id = rlf_arena_printf(at->arena, "%lld", (long long)json_integer_value(index));
    else row->id = rlf_arena_printf(at->arena, "%zu", at->line);
    if (!extra || json_is_null(extra)) return RLF_OK;
    if (!json_is_object(extra)) return expected(at, "extra_info", "a map");
    rlf_status status = parse_tools(at, row, json_object_get(extra, "tools"));
    if (status != RLF_OK) return status;
    char *text = json_dumps(extra, JSON_COMPACT);
    if (!text) return RLF_RAISE(NO_MEMORY, "%s:%zu: no memory for extra_info", at->file, at->line);
    size_t n = strlen(text);
    row->extra = rlf_arena_dup(at->arena, text, n);
    free(text);
    if (n <= EXTRA_MAX) return RLF_OK;
    return RLF_RAISE(LIMIT, "%s:%zu: extra_info has %zu bytes as compact JSON; expected at most %d", at->file, at->line, n, (int)EXTRA_MAX);
}

static rlf_status parse_source(const place *at, rlf_row *row, const json_t *root) {
    const json_t *source = json_object_get(root, "data_source");
    row->data_source = "";
    if (!source || json_is_null(source)) return RLF_OK;
    if (!rlf_json_is_text(source)) return expected(at, "data_source", TEXT);
    row->data_source = copy(at, source);
    return RLF_OK;
}

static rlf_status parse_line(const place *at, const char *line, size_t n, json_t **root) {
    json_error_t error;
    *root = NULL;
    if (n > LINE_MAX_BYTES) return RLF_RAISE(LIMIT, "%s:%zu: a row of more than %d bytes", at->file, at->line, LINE_MAX_BYTES);
    size_t mark = at->line == 1 ? rlf_json_mark(line, n) : 0;
    *root = rlf_json_parse(line + mark, n - mark, JSON_REJECT_DUPLICATES, &error);
    if (!*root)
        return RLF_RAISE(INVALID, "%s:%zu: byte %d: %s: %s", at->file, at->line, error.position, rlf_json_problem(&error), error.text);
    if (!json_is_object(*root)) return RLF_RAISE(INVALID, "%s:%zu: expected a row {\"prompt\": [...], ...}", at->file, at->line);
    return RLF_OK;
}

rlf_status rlf_messages_parse(rlf_row *row, const char *line, size_t n, const char *file, size_t line_number, rlf_arena *arena) {
    rlf_status status = RLF_OK;
    place at = {file, line_number, arena};
    json_t *root;
    *row = (rlf_row){0};
    RLF_TRY(parse_line(&at, line, n, &root));
    const json_t *prompt = json_object_get(root, "prompt"), *messages = json_object_get(root, "messages");
    if (!prompt && !messages)
        RLF_FAIL(INVALID, "%s:%zu: 'messages': expected a list of chat messages; the key is missing", file, line_number);
    RLF_TRY(parse_messages(&at, row, messages ? "messages" : "prompt", messages ? messages : prompt));
out:
    json_decref(root);
    return status;
}

rlf_status rlf_row_parse(rlf_row *row, const char *line, size_t n, const char *file, size_t line_number, bool supervised,
                         rlf_arena *arena) {
    rlf_status status = RLF_OK;
    place at = {file, line_number, arena};
    json_t *root;
    *row = (rlf_row){.line = line_number};
    RLF_TRY(parse_line(&at, line, n, &root));
    RLF_TRY(parse_source(&at, row, root));
    RLF_TRY(parse_conversation(&at, row, root, supervised));
    RLF_TRY(parse_targets(&at, row, root, !supervised));
    RLF_TRY(parse_extra(&at, row, root));
out:
    json_decref(root);
    return status;
}

/* ---- the file --------------------------------------------------------------------------------------------------------------------- */

typedef struct reader {
    rlf_dataset *data;
    size_t cap;
    const char *path;
    size_t line; /* number of the line being gathered, from 1 */
    bool supervised;
    rlf_str pending; /* its bytes so far */
} reader;

static bool is_blank(const rlf_str *line) {
    size_t i = 0;
    while (i < line->len && strchr(" \t\r", line->ptr[i]) && line->ptr[i]) i++;
    return i == line->len;
}

static uint64_t add_to_checksum(uint64_t sum, const rlf_str *line) {
    for (size_t i = 0; i <= line->len; i++) sum = (sum ^ (i < line->len ? (uint8_t)line->ptr[i] : '\n')) * 0x100000001b3;
    return sum;
}

static rlf_status finish_line(reader *in) {
    if (!is_blank(&in->pending)) {
        rlf_dataset *data = in->data;
        data->checksum = add_to_checksum(data->checksum, &in->pending);
        data->rows = rlf_grow(data->rows, data->n, &in->cap, sizeof *data->rows);
        rlf_status status = rlf_row_parse(&data->rows[data->n], in->pending.ptr, in->pending.len, in->path, in->line,
                                          in->supervised, &data->arena);
        if (status != RLF_OK) return status;
        data->n++;
    }
    rlf_str_reset(&in->pending);
    in->line++;
    return RLF_OK;
}

static rlf_status feed(reader *in, const char *bytes, size_t n) {
    rlf_status status = RLF_OK;
    for (const char *end = bytes + n; bytes < end;) {
        const char *newline = memchr(bytes, '\n', (size_t)(end - bytes));
        rlf_str_append(&in->pending, bytes, (size_t)((newline ? newline : end) - bytes));
        if (in->pending.len > LINE_MAX_BYTES) RLF_FAIL(LIMIT, "%s:%zu: a row of more than %d bytes", in->path, in->line, LINE_MAX_BYTES);
        if (newline) RLF_TRY(finish_line(in));
        bytes = newline ? newline + 1 : end;
    }
out:
    return status;
}

rlf_status rlf_dataset_load(rlf_dataset *data, const char *path, bool supervised) {
    rlf_status status = RLF_OK;
    *data = (rlf_dataset){.checksum = 0xcbf29ce484222325};
    reader in = {.data = data, .path = path, .line = 1, .supervised = supervised};
    char *piece = rlf_calloc(PIECE, 1);
    FILE *f = fopen(path, "rb");
    if (!f) RLF_FAIL(IO, "%s: cannot open: %s", path, strerror(errno));
    for (size_t n; (n = fread(piece, 1, PIECE, f)) > 0;) RLF_TRY(feed(&in, piece, n));
    if (ferror(f)) RLF_FAIL(IO, "%s: cannot read: %s", path, strerror(errno));
    RLF_TRY(finish_line(&in)); /* a last line without its newline */
    if (data->n == 0) RLF_FAIL(INVALID, "%s: no rows", path);
out:
    if (f) fclose(f);
    free(piece);
    rlf_str_clean_up(&in.pending);
    if (status != RLF_OK) rlf_dataset_clean_up(data);
    return status;
}

void rlf_dataset_clean_up(rlf_dataset *data) {
    free(data->rows);
    rlf_arena_clean_up(&data->arena);
    *data = (rlf_dataset){0};
}
