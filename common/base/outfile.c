/* Writing beside, syncing, renaming (outfile.h). */
#include "common/base/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/alive.h"

enum { PIECE_BYTES = 64 << 20 };

rlf_status rlf_outfile_open(rlf_outfile *file, const char *path) {
    rlf_str tmp = {0};
    rlf_str_printf(&tmp, "%s.tmp", path);
    *file = (rlf_outfile){.fd = -1, .path = rlf_strdup(path), .tmp = tmp.ptr};
    file->fd = open(file->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file->fd >= 0) return RLF_OK;
    rlf_status status = RLF_RAISE(IO, "%s: cannot write: %s", path, strerror(errno));
    rlf_outfile_clean_up(file);
    return status;
}

/* After a whole piece: the disk begins with it, and is waited for where the one before is not there yet. Best effort, for rlf_outfile_commit
 * asks for all of it. */
static void push(const rlf_outfile *file) {
    const off_t at = (off_t)file->bytes - PIECE_BYTES;
    sync_file_range(file->fd, at, PIECE_BYTES, SYNC_FILE_RANGE_WRITE);
    if (at > 0)
        sync_file_range(file->fd, at - PIECE_BYTES, PIECE_BYTES,
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    rlf_alive();
}

rlf_status rlf_outfile_write(rlf_outfile *file, const void *bytes, size_t n) {
    const char *at = bytes;
    while (n > 0) {
        size_t room = PIECE_BYTES - file->bytes % PIECE_BYTES;
        ssize_t done = write(file->fd, at, n < room ? n : room);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return RLF_RAISE(IO, "%s: cannot write: %s", file->path, strerror(errno));
        at += done;
        n -= (size_t)done;
        file->bytes += (size_t)done;
        if (file->bytes % PIECE_BYTES == 0) push(file);
    }
    return RLF_OK;
}

/* Best effort: some file systems refuse to sync a folder. */
static void sync_folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    rlf_str folder = {0};
    if (slash) rlf_str_append(&folder, path, slash == path ? 1 : (size_t)(slash - path));
    int fd = open(slash ? folder.ptr : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    rlf_alive();
    rlf_str_clean_up(&folder);
}

rlf_status rlf_outfile_commit(rlf_outfile *file) {
    int fd = file->fd;
    if (fsync(fd) != 0) return RLF_RAISE(IO, "%s: cannot sync: %s", file->path, strerror(errno));
    rlf_alive();
    file->fd = -1;
    if (close(fd) != 0) return RLF_RAISE(IO, "%s: cannot close: %s", file->path, strerror(errno));
    if (rename(file->tmp, file->path) != 0) return RLF_RAISE(IO, "%s: cannot rename to it: %s", file->path, strerror(errno));
    free(file->tmp);
    file->tmp = NULL;
    sync_folder_of(file->path);
    return RLF_OK;
}

void rlf_outfile_clean_up(rlf_outfile *file) {
    if (file->fd >= 0) close(file->fd);
    if (file->tmp) unlink(file->tmp);
    free(file->tmp);
    free(file->path);
    *file = (rlf_outfile){.fd = -1};
}

rlf_status rlf_outfile_put(const char *path, const void *bytes, size_t n) {
    rlf_outfile file;
    rlf_status status = rlf_outfile_open(&file, path);
    if (status == RLF_OK) status = rlf_outfile_write(&file, bytes, n);
    if (status == RLF_OK) status = rlf_outfile_commit(&file);
    rlf_outfile_clean_up(&file);
    return status;
}
