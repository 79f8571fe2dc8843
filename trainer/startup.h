/* The deadline of the way into MPI, which has none of its own: MPI_Init, and the first exchange behind it, return only once every rank has
 * come, and a rank may never do so. Private to trainer/. One per process. */
#ifndef RLF_TRAINER_STARTUP_H
#define RLF_TRAINER_STARTUP_H

#include <stdint.h>

#include "common/base/status.h"

/* Starts to watch, in a thread of its own: unless trainer_startup_end comes within deadline_s, one line says what was waited for and the
 * process ends, with EXIT_FAILURE, upon which the launcher ends the others. A program that no launcher started comes alone, in a step of
 * Slurm's too: SLURM_STEP_ID leaves the environment. */
rlf_status trainer_startup_begin(int64_t deadline_s) RLF_MUST_USE;
/* Does nothing if it was not begun. */
void trainer_startup_end(void);

#endif
