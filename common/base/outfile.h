/* A file that is there whole or not at all: written as PATH.tmp, synced, renamed to PATH; the folder is synced too.
 *
 *   rlf_outfile file;
 *   RLF_TRY(rlf_outfile_open(&file, path));     a failure needs no clean-up, but clean_up is always safe after it
 *   RLF_TRY(rlf_outfile_write(&file, bytes, n));
 *   RLF_TRY(rlf_outfile_commit(&file));
 * out:
 *   rlf_outfile_clean_up(&file);                removes PATH.tmp where commit was not reached; PATH is then untouched
 *
 * The disk is kept busy while a long file is written, so that no call, the sync at the end neither, waits for more than two pieces of 64 MiB;
 * after each there is a sign of life (alive.h).
 *
 * Not thread safe; one writer of a PATH at a time. Errors (RLF_IO) name the path. */
#ifndef RLF_COMMON_BASE_OUTFILE_H
#define RLF_COMMON_BASE_OUTFILE_H

#include <stddef.h>

#include "common/base/mem.h"

typedef struct rlf_outfile {
    int fd;     /* -1: not open */
    size_t bytes; /* written so far */
    char *path; /* owned */
    char *tmp;  /* owned */
} rlf_outfile;

rlf_status rlf_outfile_open(rlf_outfile *file, const char *path) RLF_MUST_USE;
rlf_status rlf_outfile_write(rlf_outfile *file, const void *bytes, size_t n) RLF_MUST_USE;
rlf_status rlf_outfile_commit(rlf_outfile *file) RLF_MUST_USE;
void rlf_outfile_clean_up(rlf_outfile *file);

/* All of it in one call. */
rlf_status rlf_outfile_put(const char *path, const void *bytes, size_t n) RLF_MUST_USE;

#endif
