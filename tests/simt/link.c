/* The SIMT shim's stand-in for NCCL (kernels/cuda/link.h): ranks of one machine exchange through a memory that all of them map.
 * From each rank to each other leads a box of BOX_BYTES, which is full or empty; every rank goes round its boxes until nothing is
 * left to put or to take. */
#include "kernels/cuda/link.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"

enum { BOX_BYTES = 64 << 10, SLEEP_US = 20 };

typedef struct box {
    _Atomic size_t bytes; /* 0: empty */
    char data[BOX_BYTES];
} box;

struct kern_link {
    box *boxes; /* (count, count): from, to */
    size_t mapped;
    int rank, count;
};

/* The id says whose file it is, which others find in /proc; it stays open until the process ends. */
typedef struct link_name {
    pid_t process;
    int fd;
} link_name;

rlf_status kern_link_id(unsigned char id[KERN_LINK_ID_BYTES]) {
    const link_name name = {getpid(), memfd_create("link", MFD_CLOEXEC)};
    memset(id, 0, KERN_LINK_ID_BYTES);
    memcpy(id, &name, sizeof name);
    return name.fd >= 0 ? RLF_OK : RLF_RAISE(DEVICE, "the SIMT shim has no memory for a link");
}

rlf_status kern_link_new(kern_link **out, kern_card *card, const unsigned char id[KERN_LINK_ID_BYTES], int rank, int count,
                         int timeout_ms) {
    rlf_status status = RLF_OK;
    link_name name;
    char path[64];
    kern_link *l = rlf_calloc(1, sizeof *l);
    (void)card, (void)timeout_ms;
    memcpy(&name, id, sizeof name);
    *l = (kern_link){.mapped = (size_t)count * (size_t)count * sizeof(box), .rank = rank, .count = count};
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)name.process, name.fd);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    bool sized = fd >= 0 && ftruncate(fd, (off_t)l->mapped) == 0;
    l->boxes = sized ? mmap(NULL, l->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (l->boxes == MAP_FAILED) RLF_FAIL(DEVICE, "the SIMT shim cannot map %s", path);
    *out = l;
    return RLF_OK;
out:
    free(l);
    return status;
}

void kern_link_destroy(kern_link *l) {
    if (!l) return;
    munmap(l->boxes, l->mapped);
    free(l);
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Puts what fits into an empty box; true if it moved something. */
static bool put(box *b, const char *from, size_t bytes, size_t *done) {
    size_t n = smaller(bytes - *done, BOX_BYTES);
    if (n == 0 || atomic_load(&b->bytes) != 0) return false;
    memcpy(b->data, from + *done, n);
    atomic_store(&b->bytes, n);
    *done += n;
    return true;
}

static bool take(box *b, char *to, size_t bytes, size_t *done) {
    size_t n = atomic_load(&b->bytes);
    if (*done == bytes || n == 0) return false;
    memcpy(to + *done, b->data, n);
    atomic_store(&b->bytes, 0);
    *done += n;
    return true;
}

rlf_status kern_link_exchange(kern_link *l, const kern_link_part *with, int timeout_ms, const char *what) {
    rlf_status status = RLF_OK;
    int64_t deadline = rlf_now_ms() + timeout_ms;
    size_t *sent = rlf_calloc(2 * (size_t)l->count, sizeof *sent), *received = sent + l->count;
    for (bool left = true; left;) {
        bool moved = false;
        left = false;
        for (int i = 0; i < l->count; i++) {
            if (i == l->rank) continue;
            moved |= put(&l->boxes[l->rank * l->count + i], with[i].send, with[i].send_bytes, &sent[i]);
            moved |= take(&l->boxes[i * l->count + l->rank], with[i].receive, with[i].receive_bytes, &received[i]);
            left |= sent[i] < with[i].send_bytes || received[i] < with[i].receive_bytes;
        }
        if (left && rlf_now_ms() > deadline)
            RLF_FAIL(TIMEOUT, "deadline passed while waiting for the other %d cards of the shim: %s", l->count - 1, what);
        if (left && !moved) rlf_sleep_us(SLEEP_US);
    }
out:
    free(sent);
    return status;
}

rlf_status kern_link_broadcast(kern_link *l, void *data, size_t bytes, int root, int timeout_ms, const char *what) {
    kern_link_part *with = rlf_calloc((size_t)l->count, sizeof *with);
    for (int i = 0; i < l->count; i++)
        with[i] = (kern_link_part){data, data, l->rank == root ? bytes : 0, i == root ? bytes : 0};
    rlf_status status = kern_link_exchange(l, with, timeout_ms, what);
    free(with);
    return status;
}
