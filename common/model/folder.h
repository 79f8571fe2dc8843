/* Names inside a checkpoint folder. Private to common/model/. */
#ifndef RLF_COMMON_MODEL_FOLDER_H
#define RLF_COMMON_MODEL_FOLDER_H

#include <stdbool.h>

/* "DIR/NAME"; the caller frees it. */
char *rlf_folder_path(const char *dir, const char *name);
/* Whether DIR holds something of that name. */
bool rlf_folder_has(const char *dir, const char *name);

#endif
