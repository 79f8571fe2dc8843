/* Episodes: a state machine over the engine. One set per rollout rank.
 *
 *     generating --end of turn with calls--> calling --all answered--> generating …
 *         |                                     |  (a tool said done, or infrastructure failed)
 *         +--answer, limit---> scoring <--------+
 *                                 +--reward--> delivered
 *
 * What the model sampled is kept as sampled; a tool's answer is tokenised once, when it is appended. A turn ends at the
 * end-of-turn token, and calls are looked for in its whole text; in a format of tags (toolcall.h) it ends with the very token that
 * completes a closing tag: what that token holds behind the tag stays in the trajectory and is read by no one. With stop_at_answer the
 * episode ends with the token that completes an <answer>.
 * A round of calls is made only if its answers can still be used: tool rounds left, and room for the answers and one more token.
 * Answers are cut to observation_tokens, or to what leaves that room. All calls of a turn run side by side; observations stand
 * in call order.
 * A call that is malformed or one too many in its turn is answered here as a bad call, without asking the service.
 * An answer or reward with status infra_error, or the deadline of the episode, ends it with finish infra and without a reward.
 * A tool that says done ends the episode; its answer is kept in the turn, not among the tokens.
 *
 * The port is the tool service and the coordinator as seen from here: messages out through one function, in through
 * rollout_episodes_observe and _reward. So tests and benchmarks plug a service of their own. Not thread safe. */
#ifndef RLF_ROLLOUT_EPISODE_H
#define RLF_ROLLOUT_EPISODE_H

#include "common/msg/messages.h"
#include "common/text/chat.h"
#include "rollout/engine.h"

/* Takes OPEN, CALL, SCORE, CLOSE for the tool service, TRAJECTORY for the coordinator. `record` is valid during the call only.
 * Returns at once and does not call back into the set: answers come later. */
typedef struct rollout_port {
    void *ctx;
    rlf_status (*send)(void *ctx, rlf_message_type type, const void *record);
} rollout_port;

typedef struct rollout_episode_options {
    int64_t max_prompt_tokens;
    int64_t max_tokens; /* what the engine was made for: bound of every episode's limits.tokens */
    int64_t max_calls;  /* in one turn */
    bool stop_at_answer;
} rollout_episode_options;

typedef struct rollout_episodes rollout_episodes;

/* Everything given must outlive the set. */
rollout_episodes *rollout_episodes_new(rollout_engine *engine, const rlf_chat *chat,
                                       const rollout_episode_options *options, rollout_port port);
/* Episodes still alive are abandoned without a message. */
void rollout_episodes_destroy(rollout_episodes *set);

/* Starts the episodes of one message, which is copied. Errors: a prompt that cannot be rendered, is too long, or leaves no room
 * to answer; a message without limits or sampling. They name the uid. */
rlf_status rollout_episodes_submit(rollout_episodes *set, const rlf_episode *message) RLF_MUST_USE;
/* An answer to a CALL or SCORE. One that nobody waits for (the episode is gone) is ignored; a status that does not exist is
 * RLF_PROTOCOL. */
rlf_status rollout_episodes_observe(rollout_episodes *set, const rlf_observation *message) RLF_MUST_USE;
rlf_status rollout_episodes_reward(rollout_episodes *set, const rlf_reward *message) RLF_MUST_USE;
/* Ends episodes whose deadline has passed, then runs one engine step if there is anything to run. */
rlf_status rollout_episodes_step(rollout_episodes *set) RLF_MUST_USE;

/* Episodes alive, and those of them that wait for the tool service. */
size_t rollout_episodes_alive(const rollout_episodes *set);
size_t rollout_episodes_waiting(const rollout_episodes *set);

#endif
