/* Families of chat templates, shared by chat.c (ids, turn by turn), chat_render.c (text) and chat_detect.c (which). Inside common/text
 * only.
 *
 * A family is a table of strings and two functions for what differs in kind: what stands before the conversation, and how an
 * assistant's message of the history is put. */
#ifndef RLF_COMMON_TEXT_CHAT_PRIVATE_H
#define RLF_COMMON_TEXT_CHAT_PRIVATE_H

#include <jansson.h>

#include "common/text/chat.h"

#define RLF_CHAT_KNOWN "known templates: chatml, llama3.1, llama3.2, qwen2.5, qwen2.5-base, qwen3, qwen3-instruct, " \
    "qwen3-instruct-plain, qwen3-thinking"

/* Text with ranges that are not the template's: tools' answers, in which nothing is a control token. */
typedef struct rlf_chat_text {
    rlf_str text;
    struct { size_t begin, end; } *plain; /* in order, apart from each other */
    size_t n, cap;
} rlf_chat_text;
void rlf_chat_text_clean_up(rlf_chat_text *text);

/* How a tool's answer stands in the model's turn: the formats of tags. */
typedef struct rlf_chat_in_turn {
    const char *open, *close;                 /* around an answer */
    const char *refused_open, *refused_close; /* around what was wrong with a call */
    bool trims; /* the answer loses the white space at both ends, else newlines at its end */
} rlf_chat_in_turn;
/* NULL: in this format answers are messages of their own. */
const rlf_chat_in_turn *rlf_chat_in_turn_of(rlf_tool_format format);

typedef struct rlf_chat_talk {
    const struct rlf_chat_family *family;
    const rlf_chat_in_turn *in_turn; /* or NULL */
    bool thinking;
    const char *date;
    const rlf_chat_message *messages; /* (n) */
    size_t n;
    const json_t *tools; /* an array of objects, or NULL */
    size_t query;        /* index of the last question of a user; n - 1 if none */
    bool goes_on;        /* the conversation ends in the model's turn, which goes on */
} rlf_chat_talk;

typedef struct rlf_chat_family {
    const char *turn_open, *role_close, *turn_close; /* around a message: open role close content close */
    const char *answers_open, *answer_open, *answer_close, *answers_close; /* around a run of answers, and each of them */
    const char *after_turn;   /* what of turn_close is appended behind the id that the model samples */
    const char *system;       /* the system prompt of a conversation that has none; NULL */
    const char *no_thought;   /* opens a turn without thinking; "" if the family has no such mode */
    const char *opening;      /* a thought that every generation prompt opens and the model closes; "" */
    const char *const *needed; /* tokens that a tokenizer must have; this and the next two end in NULL */
    const char *const *closes; /* tokens that close a turn; the first is the end of turn */
    const char *const *ends;   /* other tokens that end generation */
    rlf_tool_format format;
    bool trims;         /* messages lose the white space at both ends */
    bool json_answers;  /* an answer stands as a JSON string */
    bool calls_alone;   /* a message with tool calls is its calls; else they follow the content */
    bool raw_arguments; /* arguments given as text stand as they are; else as a JSON string */
    /* Puts what stands before the conversation; *next: the first message that is not in it. */
    rlf_status (*put_head)(const rlf_chat_talk *talk, rlf_chat_text *out, size_t *next);
    /* Puts the thought before the content of message i, if any. Returns what is left to put of the content; *some: there was content,
     * so that a newline stands before a tool call. */
    rlf_slice (*put_thought)(const rlf_chat_talk *talk, size_t i, rlf_chat_text *out, bool *some);
} rlf_chat_family;

struct rlf_chat {
    const rlf_tokenizer *tokenizer;
    const rlf_chat_family *family;
    rlf_tool_syntax syntax;
    const rlf_chat_in_turn *in_turn; /* or NULL */
    bool thinking;
    char *date, *search_call, *python_call; /* owned; syntax borrows them */
    int32_t stops[4]; /* ids that end generation; the first n_closes close a turn, the first of all is the end of turn */
    int n_closes, n_stops;
    int32_t python_tag; /* -1: the tokenizer has none, or no call is written with it */
};

/* The family of a name, or NULL. */
const rlf_chat_family *rlf_chat_family_of(const char *name);
/* The name of the template that `text` is; source stands for it in messages. */
rlf_status rlf_chat_recognise(const char *source, rlf_slice text, const char **name) RLF_MUST_USE;
/* The name of the template in the checkpoint folder `dir`. */
rlf_status rlf_chat_detect(const char *dir, const char **name) RLF_MUST_USE;

/* A JSON array of objects, or NULL for NULL. Owned by the caller. */
rlf_status rlf_chat_tools_parse(const char *tools_json, json_t **tools) RLF_MUST_USE;
/* The whole conversation, without generation prompt. */
rlf_status rlf_chat_put_talk(const rlf_chat_talk *talk, rlf_chat_text *out) RLF_MUST_USE;
/* Messages begin … end - 1, none of which is an assistant's: what may stand between two model turns. */
void rlf_chat_put_between(const rlf_chat_talk *talk, size_t begin, size_t end, rlf_chat_text *out);
void rlf_chat_put_answers(const rlf_chat_family *family, const rlf_slice *answers, size_t n, rlf_chat_text *out);
/* Behind a model turn that is still open. */
void rlf_chat_put_in_turn(const rlf_chat_in_turn *in_turn, rlf_slice answer, bool refused, rlf_chat_text *out);
void rlf_chat_put_generation(const rlf_chat_talk *talk, rlf_chat_text *out);
/* Message i as the model shall produce it, without the end of turn. */
rlf_status rlf_chat_put_model_turn(const rlf_chat_talk *talk, size_t i, rlf_chat_text *out) RLF_MUST_USE;

#endif
