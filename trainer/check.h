/* `rlf-train --check`: reads everything a job would read, and says what each rank will do and hold, without starting it. */
#ifndef RLF_TRAINER_CHECK_H
#define RLF_TRAINER_CHECK_H

#include "common/msg/transport.h"
#include "trainer/memory.h"

typedef struct trainer_check_options {
    const rlf_config *config;
    int size;                     /* ranks started; 1 stands for "as many as the job needs at least" */
    const rlf_neighbour *near;    /* (n_near) ranks of this node */
    size_t n_near;
    const char *tool_schemas;     /* JSON array */
    trainer_work_fn *rollout_work; /* rollout_work_bytes */
} trainer_check_options;

/* Checks data rows (every prompt or supervised row is tokenised against its limits), the model folder (every tensor), the folders that
 * are written and what is in the run folder already, and the plan of ranks, with this node's cards; appends the report to `out`. Tools are checked by the caller (toolsvc_check). */
rlf_status trainer_check(const trainer_check_options *options, rlf_str *out) RLF_MUST_USE;

#endif
