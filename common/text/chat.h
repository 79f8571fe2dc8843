/* Chat templates: a conversation to token ids, turn by turn. What has been rendered is never rendered again: the prompt once, then each
 * observation appended behind the ids the model sampled.
 *
 *   qwen3      ChatML with the Qwen3 tool block; thinking on or off
 *   qwen3-instruct, qwen3-thinking   the same as Qwen3 of July 2025 has it: no thought is asked for; always one, opened by the prompt
 *   qwen3-instruct-plain   the same as Qwen3-4B-Instruct-2507 has it: an assistant's content stands as it is, its reasoning_content nowhere
 *   qwen2.5, qwen2.5-base   ChatML with the Qwen2.5 tool block and the system prompt of its Instruct models, or of the others
 *   llama3.1   Llama 3.1 and 3.3: tools in the first user message, tool answers from "ipython"
 *   llama3.2   the same with the date as an option where the original asks the clock: rendered alike
 *   chatml     bare ChatML: no default system prompt, no tool block. Its templates know no calls and would put a tool's answer in a turn
 *              of "tool"; both are put as in qwen2.5
 *
 * But for that, and for integers beyond 64 bits, which become reals (json.h), a prompt is, byte for byte, what transformers renders with
 * the model's own template. What is appended later differs from a fresh
 * rendering of the longer conversation, always by keeping what the model saw and sampled:
 *   - all: a model turn stays as sampled (white space around it, spelling of its JSON, its <think> block); an answer is encoded
 *     apart, so that its ids do not depend on what stands around it, and control text in it stays text.
 *   - qwen3: a fresh rendering drops the thoughts before the last question, and gives the last turn an empty <think> block if it has
 *     none; here nothing is dropped or added, and every turn opens with what it was generated behind: with thinking off the empty
 *     block, in qwen3-thinking the opening tag.
 *   - chatml, qwen2.5, qwen3: the newline behind <|im_end|> belongs to what is appended, not to the model's turn.
 *   - formats of tags (toolcall.h): a tool's answer stands in the model's own turn, behind the tag that asked for it, and the turn goes on:
 *       search-r1  \n\n<information>answer</information>\n\n, and for a refused call \n, what is wrong, \n
 *       tool-star  a space, <result>\nanswer\n</result>
 *       fenced     \nObservation:\nanswer\n
 *     without the white space at the answer's ends (but for the first of these only newlines at its end). Tools are not listed: what
 *     the model may do is for the system prompt or the row to say. Where the model ended its turn after all, a new one is opened.
 *   - llama3.*: a fresh rendering trims turns, leaves out <|python_tag|> and text beside a call, ends a call with <|eot_id|> even if
 *     the model ended it with <|eom_id|>, and refuses several calls in a turn. */
#ifndef RLF_COMMON_TEXT_CHAT_H
#define RLF_COMMON_TEXT_CHAT_H

#include "common/config/config.h"
#include "common/config/data.h"
#include "common/text/tokenizer.h"
#include "common/text/toolcall.h"

typedef struct rlf_chat rlf_chat;

#define RLF_SEARCH_CALL "search.query" /* the defaults of episode.search_call and python_call */
#define RLF_PYTHON_CALL "python.code"
#define RLF_CHAT_DATE "26 Jul 2024" /* the original's own, and the default of episode.date */

typedef struct rlf_chat_options {
    const char *name;        /* one of the list above, or "auto": recognised from the checkpoint */
    bool thinking;           /* qwen3: thinking mode */
    const char *date;        /* llama3.*: "Today Date"; NULL: RLF_CHAT_DATE. The clock is never asked */
    const char *tool_format; /* NULL or "auto" (the template's), or one of toolcall.h */
    const char *search_call, *python_call; /* what the tags call (rlf_tool_syntax); NULL: RLF_SEARCH_CALL, RLF_PYTHON_CALL */
} rlf_chat_options;
rlf_chat_options rlf_chat_options_of(const rlf_config *config);

/* dir: where "auto" looks, in this order: chat_template.jinja, chat_template.json, the chat_template of tokenizer_config.json (a text, or
 * a list of named ones, of which the one named "default" counts). A template is recognised by what it writes, not by how it is laid
 * out; one that is not known is refused with the list.
 * The tokenizer must outlive the chat. Refuses a tokenizer without the template's control tokens. */
rlf_status rlf_chat_new(rlf_chat **out, const rlf_tokenizer *tokenizer, const char *dir, rlf_chat_options options) RLF_MUST_USE;
void rlf_chat_destroy(rlf_chat *chat);

/* The id that ends a turn (<|im_end|>, <|eot_id|>); whether an id ends the model's turn in the text too, so that an observation may
 * follow it (that one, or <|eom_id|>); and whether an id ends generation (those, and <|endoftext|> or <|end_of_text|>). */
int32_t rlf_chat_end_of_turn(const rlf_chat *chat);
bool rlf_chat_closes_turn(const rlf_chat *chat, int32_t id);
bool rlf_chat_is_stop(const rlf_chat *chat, int32_t id);

/* How the model writes a tool call. Lives as long as the chat. */
const rlf_tool_syntax *rlf_chat_tool_syntax(const rlf_chat *chat);
/* What a generation prompt has written of the model's turn, as parsers and rewards read it: "<think>\n" in qwen3-thinking, else "". With formats of
 * tags tools' answers stand in the turn: where the conversation's `last` message is one (NULL: no message), the turn goes on and there is no
 * generation prompt, ""; and it goes on behind a last id that ends no generation. */
const char *rlf_chat_opening(const rlf_chat *chat, const rlf_chat_message *last);
bool rlf_chat_goes_on(const rlf_chat *chat, int32_t id);
/* Appends the text of a sampled id as parsers and rewards read it: without control tokens, but for <|python_tag|>, which is one. */
void rlf_chat_read(const rlf_chat *chat, int32_t id, rlf_str *out);

/* Messages (system, user, assistant, tool) as text, as ids, or both (either may be NULL), with or without the generation prompt behind.
 * tools_json: a JSON array of OpenAI-style function schemas, or NULL; "chatml" and the formats of tags have no place for it.
 * The text is encoded as a whole with added tokens, as transformers does: a control token's text inside a message is that token, so
 * messages of people who are not trusted do not belong here. Tools' answers are the exception: where one holds the text of an added
 * token, answers are encoded apart, as plain text. */
rlf_status rlf_chat_render(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json, bool generation,
                           rlf_str *text, rlf_ids *ids) RLF_MUST_USE;
/* The ids with the generation prompt: where an episode begins. */
rlf_status rlf_chat_prompt(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json,
                           rlf_ids *out) RLF_MUST_USE;

/* How a model turn ended. */
typedef struct rlf_chat_end {
    int32_t id;   /* its last */
    bool refused; /* the answers are what was wrong with its calls (rlf_tool_call.error), from no tool */
} rlf_chat_end;

/* What follows a finished model turn: the tools' answers in call order (n == 0: none), and the next generation prompt. Where the
 * turn's last id does not close it, the end of turn is put first; in a format of tags only behind an id that ends generation all the same.
 * Of an answer's tokens (for llama3.* those of the JSON string that it becomes) the first max_tokens are kept; cut (n), or NULL,
 * tells of which answers not all were. Text inside an answer never becomes a control token. */
void rlf_chat_observation(const rlf_chat *chat, const rlf_slice *answers, size_t n, size_t max_tokens, rlf_chat_end end, rlf_ids *out,
                          bool *cut);

/* Supervised: renders the prompt (messages before the first assistant message), then alternately model turns and observations.
 * Calls `span` once per piece in order with its range in `out`; model pieces include the end of turn. A model turn is the message's
 * content as it stands, behind its reasoning in <think> (qwen3 with thinking on; qwen3-thinking, also one that stands in the content) and
 * before its tool calls (llama3.*: in place of the content), and has no end of turn where a tool's answer stands in it; a tool's answer is encoded as in an observation. What
 * follows the last assistant message is left out: nothing answers it. */
typedef void rlf_chat_span_fn(void *ctx, size_t begin, size_t end, bool model);
rlf_status rlf_chat_supervised(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json,
                               size_t max_observation_tokens, rlf_ids *out, rlf_chat_span_fn *span, void *ctx) RLF_MUST_USE;

#endif
