/* Time: one monotonic clock. */
#ifndef RLF_COMMON_BASE_CLOCK_H
#define RLF_COMMON_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t rlf_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline int64_t rlf_now_ms(void) { return rlf_now_ns() / 1000000; }
static inline double rlf_now_s(void) { return (double)rlf_now_ns() * 1e-9; }

static inline void rlf_sleep_us(int64_t us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

#endif
