/* Which template a checkpoint has. A Jinja text is known by what it writes: its marks must all be there, and every phrase in it (a
 * string, or text outside the tags, with a space between words) must be one that the family writes. White space, comments, and the
 * order of its branches don't count; another sentence does. Bare ChatML is so little that all words of its code are given too: every
 * other word (bos_token, trim, im_sep) stands for something that bare ChatML does not write. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/json.h"
#include "common/text/chat_private.h"

enum { MAX_CONFIG = 64 << 20, MARKS = 8 };

typedef struct recognised {
    const char *name;
    const char *marks[MARKS]; /* without white space; "!" before one that must be absent */
    const char *phrases;      /* all that the family's revisions write; white space does not count */
    const char *words;        /* all that its code may hold, with a space around each; NULL: any */
} recognised;

#define HERMES_PHRASES                                                                                                           \
    "# Tools You may call one or more functions to assist with the user query. You are provided with function signatures within " \
    "<tools></tools> XML tags: <tools>\n</tools> For each function call, return a json object with function name and arguments "  \
    "within <tool_call></tool_call> XML tags: <tool_call>{\"name\": <function-name>, \"arguments\": <args-json-object>}"           \
    "</tool_call><|im_end|>\n<tool_call>{\"name\": \"\n\", \"arguments\": \n"
#define QWEN3_PHRASES HERMES_PHRASES "<think></think>\n<|im_start|>assistant<think>\n"
#define LLAMA_PHRASES                                                                                                            \
    "26 Jul 2024\n%d %b %Y\nCutting Knowledge Date: December 2023\nToday Date: \nEnvironment: ipython\nTools: \n"                  \
    "You have access to the following functions. To call a function, please respond with JSON for a function call.\n"             \
    "Respond in the format {\"name\": function name, \"parameters\": dictionary of argument name and its value}.\n"               \
    "Do not use variables.\nGiven the following functions, please respond with a JSON for a function call "                       \
    "with its proper arguments that best answers the given prompt.\n{\"name\": \"\n\", \n\"parameters\": \n=\"\n"
#define TOOL_MARKS "<|im_start|>", "<tool_response>", "<tools>"
/* The last two: where changed copies of these templates keep the thoughts of turns before the last question, and leave out an empty one. */
#define QWEN3_MARKS TOOL_MARKS, "reasoning_content", "loop.index0>ns.last_query_index", "!ifreasoning_content%}"
#define LLAMA_MARKS                                                                                                              \
    "<|start_header_id|>", "<|eot_id|>", "CuttingKnowledgeDate:December2023", "TodayDate:", "tools_in_user_message", "ipython"

static const recognised known[] = {
    {"qwen3", {QWEN3_MARKS, "enable_thinking"}, QWEN3_PHRASES, NULL},
    {"qwen3-thinking", {QWEN3_MARKS, "!enable_thinking", "<|im_start|>assistant<think>"}, QWEN3_PHRASES, NULL},
    {"qwen3-instruct", {QWEN3_MARKS, "!enable_thinking", "!<|im_start|>assistant<think>"}, QWEN3_PHRASES, NULL},
    {"qwen3-instruct-plain", {TOOL_MARKS, "'<|im_start|>'+message.role+''+content}}", "argumentsisstring", "!think"}, HERMES_PHRASES, NULL},
    {"qwen2.5", {TOOL_MARKS, "YouareQwen,createdbyAlibabaCloud.", "!think"},
     HERMES_PHRASES "<|im_start|>system You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>", NULL},
    {"qwen2.5-base", {TOOL_MARKS, "Youareahelpfulassistant.", "!think"},
     HERMES_PHRASES "<|im_start|>system You are a helpful assistant.<|im_end|>", NULL},
    {"llama3.2", {LLAMA_MARKS, "strftime_now"}, LLAMA_PHRASES, NULL},
    {"llama3.1", {LLAMA_MARKS, "!strftime_now"}, LLAMA_PHRASES, NULL},
    {"chatml", {"<|im_start|>", "<|im_end|>"}, "",
     " for in if elif else endif endfor set not and or is defined true false message messages m role content system user assistant "
     "add_generation_prompt im_start im_end "},
};

/* ---- phrases ---------------------------------------------------------------------------------------------------------------------- */

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* Text without white space and escapes of it; the other escapes are undone. */
static void squeeze(rlf_slice text, rlf_str *out) {
    rlf_str_reset(out);
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '\\' && i + 1 < text.len) {
            char c = text.ptr[++i];
            if (c != 'n' && c != 't' && c != 'r') rlf_str_putc(out, c);
        } else if (!is_space(text.ptr[i])) {
            rlf_str_putc(out, text.ptr[i]);
        }
    }
}

/* How many bytes at s[0] are white space, or an escape of it. */
static size_t space_at(rlf_slice s) {
    if (s.len && is_space(s.ptr[0])) return 1;
    return s.len > 1 && s.ptr[0] == '\\' && strchr("ntr", s.ptr[1]) && s.ptr[1] ? 2 : 0;
}

/* Whether white space stands between two other characters. */
static bool is_phrase(rlf_slice s) {
    bool begun = false, parted = false;
    while (s.len) {
        size_t n = space_at(s);
        if (!n && parted) return true;
        begun = begun || !n;
        parted = begun && n;
        s.ptr += n ? n : 1, s.len -= n ? n : 1;
    }
    return false;
}

typedef struct scan {
    const char *text;
    size_t at, n;
    bool inside; /* a tag */
} scan;

static bool looking_at(const scan *s, const char *what) {
    size_t n = strlen(what);
    return s->n - s->at >= n && !memcmp(s->text + s->at, what, n);
}

/* Text up to the next tag, and into it. */
static rlf_slice text_outside(scan *s) {
    size_t begin = s->at;
    while (s->at < s->n && !looking_at(s, "{{") && !looking_at(s, "{%")) s->at++;
    rlf_slice found = {s->text + begin, s->at - begin};
    if (s->at < s->n) s->at += 2, s->inside = true;
    return found;
}

/* The string that begins at its quote; nothing where it is what raise_exception says. */
static rlf_slice string_inside(scan *s) {
    static const char raises[] = "raise_exception(";
    char quote = s->text[s->at];
    size_t begin = s->at + 1, end = begin;
    bool said = s->at >= strlen(raises) && !memcmp(s->text + s->at - strlen(raises), raises, strlen(raises));
    while (end < s->n && s->text[end] != quote) end += s->text[end] == '\\' ? 2 : 1;
    if (end > s->n) end = s->n;
    s->at = end < s->n ? end + 1 : end;
    return (rlf_slice){s->text + begin, said ? 0 : end - begin};
}

/* The next piece that the template may write, perhaps empty. False at the end. */
static bool next_text(scan *s, rlf_slice *out) {
    *out = (rlf_slice){"", 0};
    if (s->at >= s->n) return false;
    if (!s->inside) *out = text_outside(s);
    else if (s->text[s->at] == '"' || s->text[s->at] == '\'') *out = string_inside(s);
    else if (!looking_at(s, "}}") && !looking_at(s, "%}")) s->at++;
    else s->at += 2, s->inside = false;
    return true;
}

/* Whether every phrase of the template is one of `phrases` (squeezed). */
static bool writes_only(rlf_slice text, const char *phrases) {
    scan s = {.text = text.ptr, .n = text.len};
    rlf_str squeezed = {0};
    rlf_slice part;
    bool good = true;
    while (good && next_text(&s, &part)) {
        if (!is_phrase(part)) continue;
        squeeze(part, &squeezed);
        good = squeezed.len == 0 || strstr(phrases, squeezed.ptr);
    }
    rlf_str_clean_up(&squeezed);
    return good;
}

/* ---- words ------------------------------------------------------------------------------------------------------------------------ */

static bool is_in_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }

/* Whether every word of the template is one of `words`. */
static bool says_only(rlf_slice text, const char *words) {
    rlf_str word = {0};
    bool good = true;
    for (size_t i = 0; good && i < text.len;) {
        rlf_str_reset(&word);
        rlf_str_putc(&word, ' ');
        for (; i < text.len && is_in_word(text.ptr[i]); i++) rlf_str_putc(&word, text.ptr[i]);
        rlf_str_putc(&word, ' ');
        good = word.len == 2 || strstr(words, word.ptr);
        i += i < text.len && text.ptr[i] == '\\' ? 2 : 1; /* an escape is no word */
    }
    rlf_str_clean_up(&word);
    return good;
}

/* ---- marks ------------------------------------------------------------------------------------------------------------------------ */

static bool has_marks(const recognised *r, const char *squeezed) {
    for (size_t i = 0; i < MARKS && r->marks[i]; i++) {
        bool absent = r->marks[i][0] == '!';
        if ((strstr(squeezed, r->marks[i] + absent) != NULL) == absent) return false;
    }
    return true;
}

static bool is_template(const recognised *r, rlf_slice text, const char *squeezed) {
    rlf_str phrases = {0};
    squeeze(rlf_slice_of(r->phrases), &phrases);
    bool good = has_marks(r, squeezed) && writes_only(text, phrases.ptr ? phrases.ptr : "") && (!r->words || says_only(text, r->words));
    rlf_str_clean_up(&phrases);
    return good;
}

static void drop_comments(rlf_slice text, rlf_str *out) {
    for (const char *begin; (begin = memmem(text.ptr, text.len, "{#", 2)) != NULL;) {
        size_t n = (size_t)(begin - text.ptr);
        const char *end = memmem(begin, text.len - n, "#}", 2);
        rlf_str_append(out, text.ptr, n);
        n = end ? (size_t)(end - text.ptr) + 2 : text.len;
        text = (rlf_slice){text.ptr + n, text.len - n};
    }
    rlf_str_append(out, text.ptr, text.len);
}

rlf_status rlf_chat_recognise(const char *source, rlf_slice text, const char **name) {
    rlf_str code = {0}, squeezed = {0};
    *name = NULL;
    drop_comments(text, &code);
    rlf_slice kept = {code.ptr, code.len};
    squeeze(kept, &squeezed);
    for (size_t i = 0; i < sizeof known / sizeof known[0] && squeezed.ptr && !*name; i++)
        if (is_template(&known[i], kept, squeezed.ptr)) *name = known[i].name;
    rlf_str_clean_up(&code);
    rlf_str_clean_up(&squeezed);
    return *name ? RLF_OK : RLF_RAISE(UNSUPPORTED, "%s: this chat template is not one of the " RLF_CHAT_KNOWN, source);
}

/* ---- files ------------------------------------------------------------------------------------------------------------------------ */

/* A text, or a list of {"name": …, "template": …}, of which the default counts. */
static const json_t *default_template(const json_t *value) {
    if (!json_is_array(value)) return value;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(value, i), "name"));
        if (name && !strcmp(name, "default")) return json_object_get(json_array_get(value, i), "template");
    }
    return NULL;
}

static rlf_status recognise_json(const char *path, const rlf_str *json, const char **name) {
    json_error_t error;
    json_t *root = rlf_json_parse(json->ptr ? json->ptr : "", json->len, 0, &error);
    const json_t *text = default_template(json_object_get(root, "chat_template"));
    rlf_status status;
    if (!root) status = RLF_RAISE(INVALID, "%s: line %d, byte %d: %s", path, error.line, error.position, error.text);
    else if (!json_is_string(text))
        status = RLF_RAISE(NOT_FOUND, "%s: chat_template: expected text, or a list of named ones with a default, or a file "
                                      "chat_template.jinja beside it; or name one of the " RLF_CHAT_KNOWN, path);
    else status = rlf_chat_recognise(path, (rlf_slice){json_string_value(text), json_string_length(text)}, name);
    json_decref(root);
    return status;
}

rlf_status rlf_chat_detect(const char *dir, const char **name) {
    static const char *const files[] = {"chat_template.jinja", "chat_template.json", "tokenizer_config.json"};
    enum { FILES = sizeof files / sizeof files[0] };
    rlf_status status = RLF_OK;
    rlf_str path = {0}, text = {0};
    int i = 0;
    for (; i < FILES; i++) {
        rlf_str_reset(&path);
        rlf_str_printf(&path, "%s/%s", dir, files[i]);
        if (access(path.ptr, F_OK) == 0) break;
    }
    if (i == FILES)
        RLF_FAIL(NOT_FOUND, "%s: no chat_template.jinja or tokenizer_config.json to know the chat template by; name one of the "
                 RLF_CHAT_KNOWN, dir);
    RLF_TRY(rlf_str_read_file(&text, path.ptr, MAX_CONFIG));
    if (i == 0) RLF_TRY(rlf_chat_recognise(path.ptr, (rlf_slice){text.ptr ? text.ptr : "", text.len}, name));
    else RLF_TRY(recognise_json(path.ptr, &text, name));
out:
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&text);
    return status;
}
