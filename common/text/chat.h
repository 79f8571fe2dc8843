/* Chat templates: a conversation to token ids, turn by turn. What has been rendered is never rendered again: the prompt once, then each
 * observation appended behind the ids the model sampled.
 *
 * Templates: "qwen3" (ChatML with the Qwen3 tool block; thinking on or off), "chatml" (bare ChatML: no default system prompt, no
 * tool block). */
#ifndef RLF_COMMON_TEXT_CHAT_H
#define RLF_COMMON_TEXT_CHAT_H

#include "common/config/data.h"
#include "common/text/tokenizer.h"

typedef struct rlf_chat rlf_chat;

/* name: "qwen3", "chatml", or "auto": recognised from DIR/tokenizer_config.json or chat_template.jinja; an unknown template is
 * refused with the list.
 * The tokenizer must outlive the chat. Refuses a tokenizer without the template's control tokens. */
rlf_status rlf_chat_new(rlf_chat **out, const rlf_tokenizer *tokenizer, const char *name, const char *dir, bool thinking) RLF_MUST_USE;
void rlf_chat_destroy(rlf_chat *chat);

/* The id that ends a turn (<|im_end|>), and whether an id ends generation (<|im_end|> or <|endoftext|>). */
int32_t rlf_chat_end_of_turn(const rlf_chat *chat);
bool rlf_chat_is_stop(const rlf_chat *chat, int32_t id);

/* Messages (system, user, assistant, tool) and the generation prompt. tools_json: a JSON array of OpenAI-style function schemas,
 * or NULL; "chatml" has no place for it. Byte for byte what transformers renders. The text is encoded as a whole with added
 * tokens, as transformers does: a control token's text inside a message is that token, so messages of people who are not trusted
 * do not belong here. */
rlf_status rlf_chat_prompt(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json,
                           rlf_ids *out) RLF_MUST_USE;
/* The same as text, for `rlf render`. */
rlf_status rlf_chat_prompt_text(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json,
                                rlf_str *out) RLF_MUST_USE;

/* What follows a finished model turn (whose last id is the end of turn; `closed` false: the model stopped without it, and it is
 * put first): the tools' answers in call order (n == 0: none, only the generation prompt), and the next generation prompt. An
 * answer longer than max_tokens tokens is cut there; *cut counts such answers. Text inside an answer never becomes a control token. */
void rlf_chat_observation(const rlf_chat *chat, const rlf_slice *answers, size_t n, size_t max_tokens, bool closed, rlf_ids *out,
                          size_t *cut);

/* Supervised: renders the prompt (messages before the first assistant message), then alternately model turns and observations.
 * Calls `span` once per piece in order with its range in `out`; model pieces include the end of turn. A message's text is
 * encoded as in a prompt, a tool's as in an observation. What follows the last assistant message is left out: nothing answers it. */
typedef void rlf_chat_span_fn(void *ctx, size_t begin, size_t end, bool model);
rlf_status rlf_chat_supervised(const rlf_chat *chat, const rlf_chat_message *messages, size_t n, const char *tools_json,
                               size_t max_observation_tokens, rlf_ids *out, rlf_chat_span_fn *span, void *ctx) RLF_MUST_USE;

#endif
