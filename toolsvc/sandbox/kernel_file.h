/* Small files in /proc and /sys/fs/cgroup, which are read whole and written by one call. */
#ifndef RLF_TOOLSVC_KERNEL_FILE_H
#define RLF_TOOLSVC_KERNEL_FILE_H

#include <stdbool.h>
#include <stddef.h>

/* As open(2), closed on exec; flags: O_RDONLY or O_WRONLY. */
int toolsvc_kernel_open(const char *folder, const char *file, int flags);
/* At most size - 1 bytes and a NUL; false: it cannot be read. */
bool toolsvc_kernel_read(const char *folder, const char *file, char *text, size_t size);
/* False: errno says why not. */
bool toolsvc_kernel_write(const char *folder, const char *file, const char *text);

#endif
