/* The arithmetic of dispatch.h's policy, apart from the loop: how long a start must wait, when a tool is out of service, how long to
 * back off. Times are given, in nanoseconds of the monotonic clock. */
#ifndef RLF_TOOLSVC_POLICY_H
#define RLF_TOOLSVC_POLICY_H

#include <stdbool.h>

#include "common/config/config.h"

/* A token bucket. Zeroed: full. */
typedef struct toolsvc_rate {
    double spent; /* tokens missing from the full bucket */
    int64_t at_ns;
} toolsvc_rate;

/* 0: a start may happen now, and is taken. Else the nanoseconds until one may. per_second 0: no limit. */
int64_t toolsvc_rate_take(toolsvc_rate *rate, double per_second, int64_t now_ns);

/* Zeroed: closed, that is, in service. */
typedef struct toolsvc_breaker {
    int64_t failures;  /* in a row */
    int64_t reopen_ns; /* out of service until then; 0: in service */
    bool probing;      /* one call was let through and is not back */
} toolsvc_breaker;

/* May a call start? failures 0 in the configuration: always. */
bool toolsvc_breaker_admits(const toolsvc_breaker *breaker, const rlf_tool_config *config, int64_t now_ns);
/* An admitted call starts. If the tool is out of service, it is the probe. */
void toolsvc_breaker_start(toolsvc_breaker *breaker);
/* A call that started is back. True: the tool has just gone out of service. */
bool toolsvc_breaker_note(toolsvc_breaker *breaker, const rlf_tool_config *config, bool failed, int64_t now_ns);

/* Before retry `attempt` (1: the first) of the call with that text: backoff_ms * 2^(attempt-1), at most 60 s, times a draw in [1/2, 1). */
double toolsvc_backoff_ms(const rlf_tool_config *config, int64_t seed, const char *text, size_t n, int64_t attempt);

#endif
