/* Rule rewards: named components of one finished episode, from the model's own text alone (never the prompt, never a tool's answer).
 *
 * The answer is the content of the last complete <answer>…</answer> of any turn, outside <think> and outside calls written as tags
 * (toolcall.h). Where no turn has one and the
 * episode ended by itself (finish answer: a turn without a tool call), the whole last turn outside <think> is the answer, for
 * exact_match and f1.
 *
 *   exact_match  1 if the normalised answer equals any normalised target, else 0
 *   f1           the highest token F1 against a target (SQuAD, Rajpurkar et al. 2016; both empty: 1)
 *   format       1 if the episode ended with an <answer> tag in its last turn and no call was bad, in whichever format, else 0
 *
 * Normalisation (SQuAD, Search-R1): lower case, the 32 ASCII punctuation characters deleted, the words a, an, the replaced by a
 * space, white space collapsed;
 * letters, word boundaries and white space are Unicode's. */
#ifndef RLF_TOOLSVC_REWARD_H
#define RLF_TOOLSVC_REWARD_H

#include "common/config/config.h"
#include "common/msg/messages.h"

enum { TOOLSVC_REWARD_COMPONENTS = 3 };

/* Appends the normal form of n bytes of UTF-8. Bytes that are not UTF-8 are kept as they are. */
void toolsvc_reward_normalize(const char *text, size_t n, rlf_str *out);

/* 0..1: token F1 of two normalised texts. */
double toolsvc_reward_f1(rlf_slice answer, rlf_slice target);

/* Fills exact_match, f1, format, in this order, with the weights of the config. Names are constants. */
void toolsvc_reward_score(const rlf_config *config, const rlf_score *score, rlf_component components[TOOLSVC_REWARD_COMPONENTS]);

#endif
