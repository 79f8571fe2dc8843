/* What a set of episodes came to: rewards, components, how they ended, tool calls. Episodes lost to infrastructure are counted and take
 * no part in any mean. Private to trainer/. */
#ifndef RLF_TRAINER_STATS_H
#define RLF_TRAINER_STATS_H

#include <jansson.h>

#include "common/msg/messages.h"

enum { TRAINER_MAX_COMPONENTS = 16 };

typedef struct trainer_stats {
    int64_t episodes, valid;
    double reward, reward_spread;                /* mean, and sum of squares about it, of valid episodes */
    struct { char name[32]; double sum; } components[TRAINER_MAX_COMPONENTS];
    size_t n_components;
    int64_t finish[RLF_FINISH_COUNT];
    int64_t rounds, calls, call_status[RLF_CALL_STATUS_COUNT], cuts;
    int64_t tokens[3];                           /* by rlf_span_kind */
} trainer_stats;

/* A zeroed trainer_stats is empty. */
void trainer_stats_add(trainer_stats *stats, const rlf_trajectory *trajectory);
/* Mean of a component over valid episodes; NAN where there is none of that name. */
double trainer_stats_component(const trainer_stats *stats, const char *name);
double trainer_stats_reward(const trainer_stats *stats);
/* Sets episodes, infra, reward_mean, reward_std, exact_match, components, finish, turns_mean, calls, bad_calls, tool_errors,
 * tool_timeouts, cuts and tokens. */
void trainer_stats_put(const trainer_stats *stats, json_t *object);

#endif
