/* Every trajectory, readable: OUTPUT/rollouts/NAME.jsonl, one episode a line, written whole after its step.
 *
 *   {"uid","sample","attempt","version","data_source","id","question","targets":[…],"reward",
 *    "components":{name:value},"finish","error","advantage",
 *    "spans":[{"kind","turn","version","text","tokens":[…],"logprobs":[…]}],
 *    "turns":[{"turn","call","tool","arguments","status","latency_ms","reward","cut","answer"}],
 *    "generate_ms","tool_ms"}
 *
 * logprobs are there for model spans alone. Text is the tokens decoded, control tokens included; bytes that are not UTF-8 show as
 * U+FFFD. Private to trainer/. */
#ifndef RLF_TRAINER_TRAJECTORIES_H
#define RLF_TRAINER_TRAJECTORIES_H

#include "common/config/data.h"
#include "common/msg/messages.h"
#include "common/text/tokenizer.h"

/* Appends one line. advantage: NULL leaves the key out (evaluation). */
void trainer_trajectory_line(const rlf_trajectory *trajectory, const rlf_row *row, const rlf_tokenizer *tokenizer,
                             const double *advantage, rlf_str *out);

/* Appends text as a JSON string with its quotes. */
void trainer_put_json_text(rlf_str *out, const char *text, size_t n);

#endif
