/* The run folder between starts (folder.h). */
#include "trainer/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/mem.h"

rlf_status trainer_folder_lock(const char *output, int *fd) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    if (*fd >= 0) return RLF_OK;
    rlf_str_printf(&path, "%s/lock", output);
    *fd = open(path.ptr, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0 && errno != ENOENT) RLF_FAIL(IO, "cannot open %s: %s", path.ptr, strerror(errno));
    if (*fd < 0 || flock(*fd, LOCK_EX | LOCK_NB) == 0) goto out;
    if (errno == EWOULDBLOCK) RLF_FAIL(INVALID, "another job is running in output %s: end it, or choose another output", output);
    RLF_WARN("cannot lock %s: %s; nothing keeps a second job out of this folder", path.ptr, strerror(errno));
out:
    rlf_str_clean_up(&path);
    return status;
}
