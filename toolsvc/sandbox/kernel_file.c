/* Files of the kernel (kernel_file.h). */
#include "toolsvc/sandbox/kernel_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

int toolsvc_kernel_open(const char *folder, const char *file, int flags) {
    char path[PATH_BYTES];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, file) >= sizeof path) return -1;
    return open(path, flags | O_CLOEXEC);
}

bool toolsvc_kernel_read(const char *folder, const char *file, char *text, size_t size) {
    int fd = toolsvc_kernel_open(folder, file, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    text[n > 0 ? n : 0] = '\0';
    if (fd >= 0) close(fd);
    return n >= 0;
}

bool toolsvc_kernel_write(const char *folder, const char *file, const char *text) {
    int fd = toolsvc_kernel_open(folder, file, O_WRONLY);
    if (fd < 0) return false;
    bool done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    int error = errno;
    close(fd);
    errno = error;
    return done;
}
