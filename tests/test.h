/* cmocka behind the headers that it wants before it, and what most tests ask: whether a call succeeded, and with which words it failed. */
#ifndef RLF_TESTS_TEST_H
#define RLF_TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/base/status.h"

#define assert_ok(expr)                                                                          \
    do {                                                                                         \
        if ((expr) != RLF_OK) fail_msg("%s: %s: %s", #expr, rlf_error_where(), rlf_error_message()); \
    } while (0)

/* The status is `wanted`, and `part` is in the error's message. */
#define assert_error(expr, wanted, part)                                                                                            \
    do {                                                                                                                            \
        const rlf_status got_ = (expr);                                                                                             \
        if (got_ != (wanted) || !strstr(rlf_error_message(), (part)))                                                               \
            fail_msg("%s: %s, \"%s\"; expected %s, \"%s\"", #expr, rlf_status_name(got_), rlf_error_message(), rlf_status_name(wanted), (part)); \
    } while (0)

#endif
