/* Log: one line per event, with time, rank and role in it, written with one write() so that ranks do not interleave.
 *
 *   12:00:01.123 rank 2 rollout  info  weights version 7 loaded, checksum 0x1234
 *
 * Lines go to standard error. Safe from any thread. */
#ifndef RLF_COMMON_BASE_LOG_H
#define RLF_COMMON_BASE_LOG_H

#include "common/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum rlf_log_level { RLF_LOG_DEBUG, RLF_LOG_INFO, RLF_LOG_WARN, RLF_LOG_ERROR } rlf_log_level;

/* Set once at start. `role` is copied (at most 15 bytes). rank -1: a one-process program, no rank is printed. */
void rlf_log_init(int rank, const char *role, rlf_log_level lowest);
void rlf_log(rlf_log_level level, const char *fmt, ...) RLF_PRINTF(2, 3);

#define RLF_DEBUG(...) rlf_log(RLF_LOG_DEBUG, __VA_ARGS__)
#define RLF_INFO(...) rlf_log(RLF_LOG_INFO, __VA_ARGS__)
#define RLF_WARN(...) rlf_log(RLF_LOG_WARN, __VA_ARGS__)
#define RLF_ERROR(...) rlf_log(RLF_LOG_ERROR, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
