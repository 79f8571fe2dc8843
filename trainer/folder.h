/* The run folder OUTPUT between one start of a job and the next: who uses it. Private to trainer/. */
#ifndef RLF_TRAINER_FOLDER_H
#define RLF_TRAINER_FOLDER_H

#include "common/base/status.h"

/* Locks OUTPUT/lock for as long as *fd is open, -1 before the first call; refuses a folder in which another job runs. The system unlocks
 * it when the process ends, however it does. Does nothing where it is locked, and where there is no folder yet. Where the file system
 * knows no locks, warns. */
rlf_status trainer_folder_lock(const char *output, int *fd) RLF_MUST_USE;

#endif
