/* Sums over episodes (stats.h). The spread of rewards is kept by Welford's method (Technometrics 4, 1962): no cancellation where all are
 * equal. */
#include "trainer/stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trainer/metrics.h"

static void add_component(trainer_stats *stats, const rlf_component *component) {
    size_t i = 0;
    while (i < stats->n_components && !rlf_slice_eq(component->name, stats->components[i].name)) i++;
    if (i == stats->n_components) {
        if (i == TRAINER_MAX_COMPONENTS || component->name.len >= sizeof stats->components[0].name) return;
        memcpy(stats->components[i].name, component->name.ptr, component->name.len);
        stats->n_components++;
    }
    stats->components[i].sum += component->value;
}

static void add_calls(trainer_stats *stats, const rlf_trajectory *t) {
    for (size_t i = 0; i < t->turns.n; i++) {
        const rlf_turn *turn = &t->turns.v[i];
        stats->rounds += i == 0 || turn->turn != t->turns.v[i - 1].turn;
        stats->calls++;
        if (turn->status >= 0 && turn->status < RLF_CALL_STATUS_COUNT) stats->call_status[turn->status]++;
        stats->cuts += turn->cut != 0;
    }
}

void trainer_stats_add(trainer_stats *stats, const rlf_trajectory *t) {
    stats->episodes++;
    stats->finish[t->finish]++;
    if (t->finish == RLF_FINISH_INFRA) return;
    stats->valid++;
    double off = t->reward - stats->reward;
    stats->reward += off / (double)stats->valid;
    stats->reward_spread += off * (t->reward - stats->reward);
    for (size_t i = 0; i < t->components.n; i++) add_component(stats, &t->components.v[i]);
    for (size_t i = 0; i < t->spans.n; i++) stats->tokens[t->spans.v[i].kind] += t->spans.v[i].end - t->spans.v[i].begin;
    add_calls(stats, t);
}

double trainer_stats_component(const trainer_stats *stats, const char *name) {
    for (size_t i = 0; i < stats->n_components; i++)
        if (strcmp(stats->components[i].name, name) == 0) return stats->components[i].sum / (double)stats->valid;
    return NAN;
}

double trainer_stats_reward(const trainer_stats *stats) { return stats->valid ? stats->reward : NAN; }

static double reward_std(const trainer_stats *stats) { return stats->valid ? sqrt(stats->reward_spread / (double)stats->valid) : NAN; }

static void put_count(json_t *object, const char *key, int64_t n) { json_object_set_new(object, key, json_integer(n)); }

static json_t *components_json(const trainer_stats *stats) {
    json_t *object = json_object();
    for (size_t i = 0; i < stats->n_components; i++)
        trainer_put_real(object, stats->components[i].name, stats->components[i].sum / (double)stats->valid);
    return object;
}

static json_t *finish_json(const trainer_stats *stats) {
    json_t *object = json_object();
    for (int i = 0; i < RLF_FINISH_COUNT; i++) put_count(object, rlf_finish_text(i), stats->finish[i]);
    return object;
}

void trainer_stats_put(const trainer_stats *stats, json_t *object) {
    put_count(object, "episodes", stats->episodes);
    put_count(object, "infra", stats->finish[RLF_FINISH_INFRA]);
    trainer_put_real(object, "reward_mean", trainer_stats_reward(stats));
    trainer_put_real(object, "reward_std", reward_std(stats));
    trainer_put_real(object, "exact_match", trainer_stats_component(stats, "exact_match"));
    json_object_set_new(object, "components", components_json(stats));
    json_object_set_new(object, "finish", finish_json(stats));
    trainer_put_real(object, "turns_mean", stats->valid ? (double)stats->rounds / (double)stats->valid : NAN);
    put_count(object, "calls", stats->calls);
    put_count(object, "bad_calls", stats->call_status[RLF_CALL_BAD_CALL]);
    put_count(object, "tool_errors", stats->call_status[RLF_CALL_TOOL_ERROR]);
    put_count(object, "tool_timeouts", stats->call_status[RLF_CALL_TIMEOUT]);
    put_count(object, "cuts", stats->cuts);
    json_object_set_new(object, "tokens", json_pack("{s:I, s:I, s:I}", "prompt", (json_int_t)stats->tokens[RLF_SPAN_PROMPT], "model",
                                                    (json_int_t)stats->tokens[RLF_SPAN_MODEL], "observation",
                                                    (json_int_t)stats->tokens[RLF_SPAN_OBSERVATION]));
}
