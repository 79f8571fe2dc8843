/* The three cards of the SIMT shim: kernels/cuda/card.h in host memory. A buffer ends at a page that cannot be touched, and begins after
 * one, but for alignment to 16 bytes; what the alignment leaves over is checked when it is released. Launches run at once. Copies from and
 * to page-locked memory are over as late as a card may be with them: what is fetched comes when it is waited for, and what an upload
 * was taken from must still be there then. */
#include "kernels/cuda/card.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "card.h"
#include "common/base/mem.h"
#include "nccl/nccl.h"
#include "race.h"
#include "simt.h"

int simt_major = 9;
bool simt_opens_nothing;

enum { PAGE = 4096, ALIGN = 16, CANARY = 0xa5 };
#define CARD_BYTES ((size_t)8 << 30) /* what a card is said to have */

/* A launch that was kept; its arguments follow. */
typedef struct launch {
    bool early;
    const char *name;
    simt_kernel *kernel;
    int blocks, threads;
    size_t shared_bytes;
    struct launch *next;
} launch;

typedef struct graph {
    launch *first, **last;
} graph;

/* A copy that is queued: of what was on the card then, to the host's memory; or of what the host's memory held. */
typedef struct late_copy {
    struct late_copy *next;
    bool to_host;
    void *host;
    size_t bytes;
    uint64_t number;
    char data[];
} late_copy;

/* Page-locked memory. */
typedef struct locked {
    struct locked *next;
    const char *begin, *end;
} locked;

struct kern_card {
    simt_order order;
    late_copy *first, **last; /* by number */
    locked *locked;
    uint64_t copies; /* queued since it was opened */
    char name[64];
    graph *recording; /* NULL: launches run */
    bool after_launch; /* the last that was queued is a launch of this graph, or of none */
};

/* What a card refuses while a graph is recorded. */
static void not_recording(const kern_card *card, const char *what) {
    if (!card->recording) return;
    fprintf(stderr, "simt: %s while a graph is recorded\n", what);
    abort();
}

static void refuse(const char *what) {
    fprintf(stderr, "simt: %s\n", what);
    abort();
}

/* ---- copies that are queued ------------------------------------------------------------------------------------------------------- */

static bool is_locked(const kern_card *card, const void *ptr) {
    for (const locked *l = card->locked; l; l = l->next)
        if ((const char *)ptr >= l->begin && (const char *)ptr < l->end) return true;
    return false;
}

static void queue_copy(kern_card *card, bool to_host, void *host, const void *data, size_t bytes) {
    late_copy *c = rlf_calloc(1, sizeof *c + bytes);
    *c = (late_copy){.to_host = to_host, .host = host, .bytes = bytes, .number = card->copies++};
    memcpy(c->data, data, bytes);
    *card->last = c;
    card->last = &c->next;
}

/* All copies before number `end` are over. */
static void settle(kern_card *card, uint64_t end) {
    while (card->first && card->first->number < end) {
        late_copy *c = card->first;
        if (c->to_host) memcpy(c->host, c->data, c->bytes);
        else if (memcmp(c->host, c->data, c->bytes) != 0) refuse("page-locked memory was written while a copy from it was queued");
        card->first = c->next;
        if (!card->first) card->last = &card->first;
        free(c);
    }
}

void kern_card_mark(kern_card *card, void **mark) {
    not_recording(card, "a mark");
    if (!*mark) *mark = rlf_calloc(1, sizeof card->copies);
    *(uint64_t *)*mark = card->copies;
}

rlf_status kern_card_wait(kern_card *card, void *mark) {
    settle(card, *(const uint64_t *)mark);
    return RLF_OK;
}

void kern_card_unmark(kern_card *card, void *mark) {
    (void)card;
    free(mark);
}

/* Lies in the page before the buffer's first. */
typedef struct block_head {
    size_t bytes, mapped;
    int fd; /* of the memory: another process maps it too */
} block_head;

/* ---- cards ------------------------------------------------------------------------------------------------------------------------ */

int kern_card_count(void) { return SIMT_ORDERS; }

rlf_status kern_card_describe(int number, char *name, size_t name_bytes, size_t *bytes) {
    static const char *const orders[SIMT_ORDERS] = {"ascending", "descending", "shuffled"};
    if (number < 0 || number >= SIMT_ORDERS) return RLF_RAISE(UNSUPPORTED, "no CUDA card %d: the SIMT shim has %d", number, SIMT_ORDERS);
    if (!__builtin_cpu_supports("fma")) return RLF_RAISE(UNSUPPORTED, "the SIMT shim is compiled for a CPU with fused multiply-add");
    snprintf(name, name_bytes, "SIMT shim, %s order", orders[number]);
    *bytes = CARD_BYTES;
    return RLF_OK;
}

rlf_status kern_card_open(kern_card **out, int number) {
    rlf_status status = RLF_OK;
    size_t bytes;
    kern_card *card = rlf_calloc(1, sizeof *card);
    card->order = (simt_order)number;
    card->last = &card->first;
    RLF_TRY(kern_card_describe(number, card->name, sizeof card->name, &bytes));
    *out = card;
    card = NULL;
out:
    free(card);
    return status;
}

int kern_card_major(const kern_card *card) {
    (void)card;
    return simt_major;
}
bool kern_card_hopper(const kern_card *card) {
    (void)card;
    return true;
}
/* Few, so that some have several tiles. */
int kern_card_processors(const kern_card *card) { return card->order == SIMT_DESCENDING ? 3 : 132; }

void kern_card_map(kern_card *card, kern_map *map, const uint16_t *matrix, int rows, int cols, size_t ld, int box_rows) {
    const simt_map made = {matrix, ld, rows, cols, box_rows};
    if ((uintptr_t)matrix % 16 || ld * sizeof *matrix % 16) refuse("a map of a matrix that is not aligned to 16 bytes");
    if (box_rows < 1 || box_rows > 256) refuse("a map of boxes of so many rows");
    (void)card;
    memset(map, 0, sizeof *map);
    memcpy(map->words, &made, sizeof made);
}

size_t kern_card_free_bytes(kern_card *card) {
    (void)card;
    return CARD_BYTES;
}

void kern_card_close(kern_card *card) {
    settle(card, card->copies);
    free(card);
}
const char *kern_card_name(const kern_card *card) { return card->name; }

/* ---- launches and graphs ---------------------------------------------------------------------------------------------------------- */

void simt_queue(kern_card *card, bool early, const char *name, simt_kernel *kernel, int blocks, int threads, size_t shared_bytes, const void *args,
                size_t args_bytes) {
    early = early && card->after_launch;
    card->after_launch = true;
    if (!card->recording) {
        simt_launch(card->order, early, name, kernel, blocks, threads, shared_bytes, args);
        return;
    }
    launch *l = rlf_calloc(1, sizeof *l + args_bytes);
    *l = (launch){early, name, kernel, blocks, threads, shared_bytes, NULL};
    memcpy(l + 1, args, args_bytes);
    *card->recording->last = l;
    card->recording->last = &l->next;
}

void kern_card_record(kern_card *card) {
    not_recording(card, "another graph");
    card->recording = rlf_calloc(1, sizeof *card->recording);
    card->recording->last = &card->recording->first;
    card->after_launch = false;
}

rlf_status kern_card_recorded(kern_card *card, void **out) {
    *out = card->recording;
    card->recording = NULL;
    card->after_launch = false;
    return RLF_OK;
}

void kern_card_replay(kern_card *card, void *recorded) {
    not_recording(card, "another graph");
    for (const launch *l = ((const graph *)recorded)->first; l; l = l->next)
        simt_launch(card->order, l->early, l->name, l->kernel, l->blocks, l->threads, l->shared_bytes, l + 1);
    card->after_launch = false;
}

void kern_card_forget(kern_card *card, void *recorded) {
    not_recording(card, "another graph");
    for (launch *l = ((graph *)recorded)->first, *next; l; l = next) {
        next = l->next;
        free(l);
    }
    free(recorded);
}

/* ---- memory ----------------------------------------------------------------------------------------------------------------------- */

static char *map_block(int fd, size_t mapped) {
    char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return base;
    if (mprotect(base + PAGE, PAGE, PROT_NONE) != 0 || mprotect(base + mapped - PAGE, PAGE, PROT_NONE) != 0) abort();
    return base;
}

/* head page | page that cannot be touched | ... buffer | page that cannot be touched */
void *kern_card_allocate(kern_card *card, size_t bytes) {
    not_recording(card, "memory taken");
    if (bytes > SIZE_MAX / 8) return NULL;
    const size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN, pages = (rounded + PAGE - 1) / PAGE * PAGE, mapped = pages + 3 * PAGE;
    const int fd = memfd_create("card", MFD_CLOEXEC);
    char *base = fd < 0 || ftruncate(fd, (off_t)mapped) != 0 ? MAP_FAILED : map_block(fd, mapped);
    if (base == MAP_FAILED) {
        if (fd >= 0) close(fd);
        return NULL;
    }
    *(block_head *)(void *)base = (block_head){bytes, mapped, fd};
    char *ptr = base + mapped - PAGE - rounded;
    memset(ptr + bytes, CANARY, rounded - bytes);
    race_memory(ptr, bytes);
    return ptr;
}

static char *base_of(void *ptr) { return (char *)((uintptr_t)ptr / PAGE * PAGE) - 2 * PAGE; }

void kern_card_release(kern_card *card, void *ptr) {
    not_recording(card, "memory given back");
    char *base = base_of(ptr);
    /* An empty buffer is at the very end, so on the page that cannot be touched. */
    const block_head head = *(const block_head *)(void *)base;
    const size_t rounded = (head.bytes + ALIGN - 1) / ALIGN * ALIGN;
    for (size_t i = head.bytes; i < rounded; i++)
        if ((unsigned char)((char *)ptr)[i] != CANARY) {
            fprintf(stderr, "simt: a kernel wrote after the end of a buffer of %zu bytes\n", head.bytes);
            abort();
        }
    race_memory_gone(ptr, head.bytes);
    munmap(base, head.mapped);
    close(head.fd);
}

/* What a handle says: the process and its file, which others find in /proc. */
typedef struct block_handle {
    pid_t process;
    int fd;
    size_t bytes, mapped;
} block_handle;
_Static_assert(sizeof(block_handle) <= 64, "a handle has 64 bytes");

rlf_status kern_card_share(kern_card *card, void *ptr, unsigned char handle[64]) {
    (void)card;
    const block_head head = *(const block_head *)(void *)base_of(ptr);
    const block_handle shared = {getpid(), head.fd, head.bytes, head.mapped};
    memcpy(handle, &shared, sizeof shared);
    return RLF_OK;
}

rlf_status kern_card_open_shared(kern_card *card, const unsigned char handle[64], void **ptr) {
    (void)card;
    block_handle shared;
    char path[64];
    if (simt_opens_nothing) return RLF_RAISE(DEVICE, "the SIMT shim was told to open nothing");
    memcpy(&shared, handle, sizeof shared);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)shared.process, shared.fd);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    char *base = fd < 0 ? MAP_FAILED : map_block(fd, shared.mapped);
    if (fd >= 0) close(fd);
    if (base == MAP_FAILED) return RLF_RAISE(DEVICE, "the SIMT shim cannot map %s", path);
    *ptr = base + shared.mapped - PAGE - (shared.bytes + ALIGN - 1) / ALIGN * ALIGN;
    return RLF_OK;
}

void kern_card_close_shared(kern_card *card, void *ptr) {
    (void)card;
    char *base = base_of(ptr);
    munmap(base, ((const block_head *)(void *)base)->mapped);
}

void *kern_card_host_allocate(kern_card *card, size_t bytes) {
    not_recording(card, "memory taken");
    char *ptr = rlf_calloc(1, bytes ? bytes : 1);
    locked *l = rlf_calloc(1, sizeof *l);
    *l = (locked){card->locked, ptr, ptr + bytes};
    card->locked = l;
    return ptr;
}

/* As on a card, it waits for what is queued. */
void kern_card_host_release(kern_card *card, void *ptr) {
    not_recording(card, "memory given back");
    settle(card, card->copies);
    locked **at = &card->locked;
    while ((*at)->begin != (char *)ptr) at = &(*at)->next;
    locked *gone = *at;
    *at = gone->next;
    free(gone);
    free(ptr);
}

void kern_card_upload(kern_card *card, void *dst, const void *src, size_t bytes) {
    kern_card_copy(card, dst, src, bytes);
    if (is_locked(card, src)) queue_copy(card, false, (void *)(uintptr_t)src, src, bytes);
}

void kern_card_fetch(kern_card *card, void *dst, const void *src, size_t bytes) {
    not_recording(card, "a copy");
    if (!is_locked(card, dst)) refuse("what is fetched goes to page-locked memory");
    queue_copy(card, true, dst, src, bytes);
    memset(dst, CANARY, bytes);
}

void kern_card_download(kern_card *card, void *dst, const void *src, size_t bytes) {
    settle(card, card->copies);
    kern_card_copy(card, dst, src, bytes);
}

void kern_card_copy(kern_card *card, void *dst, const void *src, size_t bytes) {
    not_recording(card, "a copy");
    memcpy(dst, src, bytes);
    card->after_launch = false;
    race_host_wrote(dst, bytes);
}

void kern_card_zero(kern_card *card, void *dst, size_t bytes) {
    not_recording(card, "a copy");
    memset(dst, 0, bytes);
    card->after_launch = false;
    race_host_wrote(dst, bytes);
}

bool kern_card_idle(kern_card *card) {
    if (!simt_nccl_idle()) return false;
    settle(card, card->copies);
    return true;
}

void *kern_card_stream(kern_card *card) { return card; }

void kern_card_identity(const kern_card *card, unsigned char out[16]) {
    memset(out, 0, 16);
    out[0] = (unsigned char)(1 + card->order);
}

rlf_status kern_card_sync(kern_card *card) {
    not_recording(card, "a sync");
    if (!simt_nccl_idle()) refuse("a sync while NCCL waits for other ranks, who may never come");
    settle(card, card->copies);
    return RLF_OK;
}
