/* Token bucket, circuit breaker, backoff (policy.h). */
#include "toolsvc/policy.h"

#include <math.h>

#include "common/base/rng.h"

int64_t toolsvc_rate_take(toolsvc_rate *rate, double per_second, int64_t now_ns) {
    if (!(per_second > 0)) return 0;
    double size = per_second > 1 ? per_second : 1, back = (double)(now_ns - rate->at_ns) * 1e-9 * per_second;
    rate->spent = rate->spent > back ? rate->spent - back : 0;
    rate->at_ns = now_ns;
    if (rate->spent + 1 > size) return (int64_t)ceil((rate->spent + 1 - size) / per_second * 1e9);
    rate->spent += 1;
    return 0;
}

bool toolsvc_breaker_admits(const toolsvc_breaker *breaker, const rlf_tool_config *config, int64_t now_ns) {
    if (config->breaker_failures == 0 || breaker->reopen_ns == 0) return true;
    return !breaker->probing && now_ns >= breaker->reopen_ns;
}

void toolsvc_breaker_start(toolsvc_breaker *breaker) { breaker->probing = breaker->reopen_ns != 0; }

bool toolsvc_breaker_note(toolsvc_breaker *breaker, const rlf_tool_config *config, bool failed, int64_t now_ns) {
    bool was_open = breaker->reopen_ns != 0;
    if (config->breaker_failures == 0) return false;
    breaker->probing = false;
    if (!failed) {
        *breaker = (toolsvc_breaker){0};
        return false;
    }
    breaker->failures++;
    if (!was_open && breaker->failures < config->breaker_failures) return false;
    breaker->reopen_ns = now_ns + config->breaker_reset_ms * 1000000;
    return !was_open;
}

double toolsvc_backoff_ms(const rlf_tool_config *config, int64_t seed, const char *text, size_t n, int64_t attempt) {
    uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a */
    for (size_t i = 0; i < n; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3ull;
    double ms = (double)config->backoff_ms * exp2((double)(attempt - 1));
    if (ms > 60000) ms = 60000;
    return ms * (0.5 + 0.5 * (double)rlf_rng_uniform((uint64_t)seed, RLF_RNG_LATENCY, hash, 0x72747279, (uint32_t)attempt));
}
