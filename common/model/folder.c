/* See folder.h. */
#include "common/model/folder.h"

#include <stdlib.h>
#include <unistd.h>

#include "common/base/mem.h"

char *rlf_folder_path(const char *dir, const char *name) {
    rlf_str path = {0};
    rlf_str_printf(&path, "%s/%s", dir, name);
    return path.ptr;
}

bool rlf_folder_has(const char *dir, const char *name) {
    char *path = rlf_folder_path(dir, name);
    bool found = access(path, F_OK) == 0;
    free(path);
    return found;
}
