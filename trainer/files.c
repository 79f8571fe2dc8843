/* Folder handling of a run (files.h). */
#include "trainer/files.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/alive.h"
#include "common/base/outfile.h"

static rlf_status make_one(const char *path) {
    struct stat info;
    if (mkdir(path, 0777) == 0) return RLF_OK;
    if (errno == EEXIST && stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return RLF_OK;
    return RLF_RAISE(IO, "cannot make folder %s: %s", path, strerror(errno == EEXIST ? ENOTDIR : errno));
}

rlf_status trainer_make_folder(const char *path) {
    rlf_status status = RLF_OK;
    char *copy = rlf_strdup(path);
    for (char *slash = strchr(copy + (*copy == '/'), '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        status = make_one(copy);
        *slash = '/';
        if (status != RLF_OK) goto out;
    }
    RLF_TRY(make_one(copy));
out:
    free(copy);
    return status;
}

rlf_status trainer_sync_folder(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return RLF_RAISE(IO, "cannot open folder %s: %s", path, strerror(errno));
    int failed = fsync(fd);
    int reason = errno;
    close(fd);
    rlf_alive();
    /* Some file systems cannot sync a folder and say so with EINVAL: nothing more can be done there. */
    if (failed && reason != EINVAL) return RLF_RAISE(IO, "cannot sync folder %s: %s", path, strerror(reason));
    return RLF_OK;
}

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *place) {
    (void)info, (void)flag, (void)place;
    rlf_alive();
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

rlf_status trainer_remove_tree(const char *path) {
    if (!trainer_file_exists(path)) return RLF_OK;
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0) return RLF_RAISE(IO, "cannot remove %s: %s", path, strerror(errno));
    return RLF_OK;
}

/* Refuses anything but a link. */
static rlf_status check_link(const char *path) {
    struct stat info;
    if (lstat(path, &info) == 0 && !S_ISLNK(info.st_mode)) return RLF_RAISE(INVALID, "%s exists and is not a link", path);
    return RLF_OK;
}

rlf_status trainer_link(const char *path, const char *target) {
    rlf_status status = RLF_OK;
    rlf_str temporary = {0};
    rlf_str_printf(&temporary, "%s.tmp", path);
    RLF_TRY(check_link(path));
    RLF_TRY(trainer_remove_tree(temporary.ptr));
    if (symlink(target, temporary.ptr) != 0 || rename(temporary.ptr, path) != 0)
        RLF_FAIL(IO, "cannot make link %s: %s", path, strerror(errno));
out:
    rlf_str_clean_up(&temporary);
    return status;
}

rlf_status trainer_unlink(const char *path) {
    rlf_status status = check_link(path);
    if (status == RLF_OK && unlink(path) != 0 && errno != ENOENT) status = RLF_RAISE(IO, "cannot remove %s: %s", path, strerror(errno));
    return status;
}

rlf_status trainer_json_write(const char *folder, const char *name, json_t *object, int digits) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    char *text = object ? json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(digits)) : NULL;
    if (!text) RLF_FAIL(INTERNAL, "%s cannot be encoded", name);
    rlf_str_printf(&path, "%s/%s", folder, name);
    RLF_TRY(rlf_outfile_put(path.ptr, text, strlen(text)));
out:
    free(text);
    json_decref(object);
    rlf_str_clean_up(&path);
    return status;
}

bool trainer_file_exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}
