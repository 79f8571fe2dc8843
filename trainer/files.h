/* Folders of a run: made, synced, removed; JSON files in them. Other files are written with common/base/outfile.h. Private to trainer/. */
#ifndef RLF_TRAINER_FILES_H
#define RLF_TRAINER_FILES_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/status.h"

/* Creates the folder and its parents; existing ones are fine. */
rlf_status trainer_make_folder(const char *path) RLF_MUST_USE;
/* Syncs the entries of a folder to disk. */
rlf_status trainer_sync_folder(const char *path) RLF_MUST_USE;
/* Removes a file or a whole folder; links are removed, not followed. A path that does not exist is fine. */
rlf_status trainer_remove_tree(const char *path) RLF_MUST_USE;
/* Makes PATH a symbolic link to `target`, in place of a link that is there; anything else there is an error. */
rlf_status trainer_link(const char *path, const char *target) RLF_MUST_USE;
/* Removes a symbolic link; anything else there is an error, nothing there is fine. */
rlf_status trainer_unlink(const char *path) RLF_MUST_USE;
/* Writes FOLDER/NAME, whole or not at all, reals with so many digits. Takes over the reference; NULL is an error. */
rlf_status trainer_json_write(const char *folder, const char *name, json_t *object, int digits) RLF_MUST_USE;
bool trainer_file_exists(const char *path);

#endif
