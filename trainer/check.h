/* `rlf-train --check`: reads everything a job would read, and says what each rank will do and hold, without starting it. */
#ifndef RLF_TRAINER_CHECK_H
#define RLF_TRAINER_CHECK_H

#include "common/model/model.h"
#include "trainer/topology.h"

/* Bytes of work space of a rank, beside weights and cache. */
typedef size_t trainer_work_fn(const rlf_config *config, const rlf_model_layout *layout);

/* Checks data rows (every prompt or supervised row is tokenised against its limits), the model folder (every tensor) and the plan of
 * ranks, and appends the report to `out`. size: ranks started; 1 stands for "as many as the job needs at least". Tools are checked by
 * the caller (toolsvc_check); rollout_work is rollout_work_bytes. */
rlf_status trainer_check(const rlf_config *config, int size, const char *tool_schemas, trainer_work_fn *rollout_work,
                         rlf_str *out) RLF_MUST_USE;

#endif
