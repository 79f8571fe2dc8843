/* The run folder OUTPUT between one start of a job and the next: who uses it, and what is there already. Private to trainer/. */
#ifndef RLF_TRAINER_FOLDER_H
#define RLF_TRAINER_FOLDER_H

#include "trainer/checkpoint.h"

/* Locks OUTPUT/lock for as long as *fd is open, -1 before the first call; refuses a folder in which another job runs. The system unlocks
 * it when the process ends, however it does. Does nothing where it is locked, and where there is no folder yet. Where the file system
 * knows no locks, warns. */
rlf_status trainer_folder_lock(const char *output, int *fd) RLF_MUST_USE;
/* What a job goes on from: reads its newest checkpoint, if any, into a state already initialised with `rows` set, and gives its path, ""
 * if there is none. Changes nothing. A run folder belongs to one run: refuses one of another mode, checkpoints that are not to be
 * continued, and in mode eval the results of another model or other data. */
rlf_status trainer_folder_read(const rlf_config *config, trainer_state *state, rlf_str *checkpoint) RLF_MUST_USE;
/* Warns of the keys whose values OUTPUT/config.yaml, of the last start, has otherwise, but for output; `then`: what follows from it.
 * Of model.path follows less: it does not give the weights. */
void trainer_folder_compare(const rlf_config *config, const char *then);

#endif
