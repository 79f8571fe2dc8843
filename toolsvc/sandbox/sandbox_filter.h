/* The system calls that sandboxed code may make: an allow-list, so that what a newer kernel adds stays closed. What is not on it
 * fails with ENOSYS, which the C library knows how to live with; a call by another architecture's convention kills. */
#ifndef RLF_TOOLSVC_SANDBOX_FILTER_H
#define RLF_TOOLSVC_SANDBOX_FILTER_H

#include <linux/filter.h>
#include <stdbool.h>

#include "common/base/status.h"

/* keep_group: the process may not leave its process group either. filter->filter is allocated with malloc. */
rlf_status toolsvc_sandbox_filter(struct sock_fprog *filter, bool keep_group) RLF_MUST_USE;

#endif
