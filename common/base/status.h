/* Status codes and the per-thread error record.
 *
 * Rules: an assert is a bug of ours; a status is anything that input, a peer, a disk or a card can cause.
 * An error is raised once, where it is found, with RLF_RAISE; callers pass it up with RLF_TRY, which hops to the
 * one `out:` label of the function. Only main() exits. The record is per thread: read it in the thread that failed.
 *
 * This header is included from .cu files: it stays in the common subset of C17 and C++17. */
#ifndef RLF_COMMON_BASE_STATUS_H
#define RLF_COMMON_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* One table makes the enum and its names. */
#define RLF_STATUS_TABLE(X)                                        \
    X(OK)                                                          \
    X(INVALID)      /* input that is not as it must be */          \
    X(UNSUPPORTED)  /* valid, but not something we do */           \
    X(NOT_FOUND)                                                   \
    X(IO)                                                          \
    X(NO_MEMORY)                                                   \
    X(LIMIT)        /* larger than a bound */                      \
    X(TIMEOUT)      /* a deadline passed */                        \
    X(PROTOCOL)     /* a malformed message */                      \
    X(PEER)         /* another rank failed */                      \
    X(DEVICE)                                                      \
    X(STOPPED)      /* on request */                               \
    X(INTERNAL)

#define RLF_STATUS_ENUM_(name) RLF_##name,
typedef enum rlf_status { RLF_STATUS_TABLE(RLF_STATUS_ENUM_) RLF_STATUS_COUNT } rlf_status;
#undef RLF_STATUS_ENUM_

#define RLF_MUST_USE __attribute__((warn_unused_result))
#define RLF_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))

/* "INVALID"; never NULL. */
const char *rlf_status_name(rlf_status status);

/* Records the error in this thread's slot and returns `status`. A message is one line of at most 1023 bytes: control characters
 * become spaces, longer text is cut. Use the macro. */
rlf_status rlf_raise_at(const char *file, int line, rlf_status status, const char *fmt, ...) RLF_PRINTF(4, 5);
#define RLF_RAISE(status, ...) rlf_raise_at(__FILE__, __LINE__, RLF_##status, __VA_ARGS__)

/* Prepends "context: " to the message recorded in this thread: for a caller that knows what was being done. */
void rlf_error_context(const char *fmt, ...) RLF_PRINTF(1, 2);

/* The last message raised in this thread ("" if none), and where ("file.c:12"). Valid until the next raise in the thread. */
const char *rlf_error_message(void);
const char *rlf_error_where(void);

/* Needs `rlf_status status = RLF_OK;` and a label `out:` in the calling function. */
#define RLF_TRY(expr)                                              \
    do {                                                           \
        status = (expr);                                           \
        if (status != RLF_OK) goto out;                            \
    } while (0)

/* Raise and hop to out. */
#define RLF_FAIL(code, ...)                                        \
    do {                                                           \
        status = RLF_RAISE(code, __VA_ARGS__);                     \
        goto out;                                                  \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
