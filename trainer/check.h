/* `rlf-train --check`: reads everything a job would read, and says what each rank will do and hold, without starting it. */
#ifndef RLF_TRAINER_CHECK_H
#define RLF_TRAINER_CHECK_H

#include "trainer/topology.h"

/* Checks data rows (every prompt or supervised row is tokenised against its limits), the model folder (every tensor) and the plan of
 * ranks, and appends the report to `out`. size: ranks started; 1 stands for "as many as the job needs at least". Tools are checked by
 * the caller (toolsvc_check). */
rlf_status trainer_check(const rlf_config *config, int size, const char *tool_schemas, rlf_str *out) RLF_MUST_USE;

#endif
