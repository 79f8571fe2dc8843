/* card: what the backend asks of the CUDA runtime, and all it asks of it. card.c passes it on; tests/simt/card.c stands in for it where
 * there is no card.
 *
 * Work is queued in order on the card's one stream. The first failure of anything queued is kept and comes back from every later
 * kern_card_sync. One thread at a time uses a card. */
#ifndef RLF_KERNELS_CUDA_CARD_H
#define RLF_KERNELS_CUDA_CARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kern_card kern_card;

/* Cards 0 .. n-1 can be used. */
int kern_card_count(void);
/* E.g. "NVIDIA H200, 139 GiB", and its memory. Errors as those of kern_card_open; makes nothing on the card. */
rlf_status kern_card_describe(int number, char *name, size_t name_bytes, size_t *bytes) RLF_MUST_USE;

/* RLF_UNSUPPORTED where there is no card of that number (0, 1, ...), or it is too old. */
rlf_status kern_card_open(kern_card **out, int number) RLF_MUST_USE;
void kern_card_close(kern_card *card);
const char *kern_card_name(const kern_card *card);
/* Memory that nobody has taken. */
size_t kern_card_free_bytes(kern_card *card);

/* The first number of its compute capability, which is its generation. */
int kern_card_major(const kern_card *card);
/* Whether kernels may use the words of hopper.h. */
bool kern_card_hopper(const kern_card *card);
/* Multiprocessors: how many blocks of a hungry kernel run at a time. Speed may depend on it, and no bit. */
int kern_card_processors(const kern_card *card);

/* Memory of the card, zeroed, aligned to 16 bytes at least; NULL where there is not as much. */
void *kern_card_allocate(kern_card *card, size_t bytes);
void kern_card_release(kern_card *card, void *ptr);
/* Page-locked memory of the host; NULL where there is not as much. */
void *kern_card_host_allocate(kern_card *card, size_t bytes);
void kern_card_host_release(kern_card *card, void *ptr);

/* As in kern.h, but for uploads from page-locked memory, which are over only after a sync or a mark that is waited for. */
void kern_card_upload(kern_card *card, void *dst, const void *src, size_t bytes);
void kern_card_download(kern_card *card, void *dst, const void *src, size_t bytes);
/* A download to page-locked memory that is over as late. */
void kern_card_fetch(kern_card *card, void *dst, const void *src, size_t bytes);
void kern_card_copy(kern_card *card, void *dst, const void *src, size_t bytes);
void kern_card_zero(kern_card *card, void *dst, size_t bytes);
rlf_status kern_card_sync(kern_card *card) RLF_MUST_USE;
/* A point in what is queued, *mark being made where it is NULL; and a wait until it is passed, with the errors of kern_card_sync. */
void kern_card_mark(kern_card *card, void **mark);
rlf_status kern_card_wait(kern_card *card, void *mark) RLF_MUST_USE;
void kern_card_unmark(kern_card *card, void *mark);
/* Whether everything queued is through, or has failed: a look, no wait. */
bool kern_card_idle(kern_card *card);

/* Launches that are queued again as one, with the arguments that they had. From `record` on launches are kept instead of run, until
 * `recorded` gives what was kept, a graph to replay any number of times and to forget in the end. In between nothing is asked of the card
 * but launches. */
void kern_card_record(kern_card *card);
rlf_status kern_card_recorded(kern_card *card, void **graph) RLF_MUST_USE;
void kern_card_replay(kern_card *card, void *graph);
void kern_card_forget(kern_card *card, void *graph);

/* A matrix (rows, cols) of 2-byte elements in the card's memory, for kern_copy_box (hopper.h), which takes boxes of box_rows (up to 256) by 64
 * columns. It stands in a kernel's arguments. `matrix` and `ld`, elements from a row to the next, are multiples of 16 bytes. */
typedef struct kern_map {
    uint64_t words[16];
}
#ifdef __CUDACC__
__attribute__((aligned(64)))
#endif
kern_map;
void kern_card_map(kern_card *card, kern_map *map, const uint16_t *matrix, int rows, int cols, size_t ld, int box_rows);

/* A number that no other card has. */
void kern_card_identity(const kern_card *card, unsigned char out[16]);
/* Memory of one process in another that has the same card: a handle to what kern_card_allocate gave, and the address that it
 * opens there. */
rlf_status kern_card_share(kern_card *card, void *ptr, unsigned char handle[64]) RLF_MUST_USE;
rlf_status kern_card_open_shared(kern_card *card, const unsigned char handle[64], void **ptr) RLF_MUST_USE;
void kern_card_close_shared(kern_card *card, void *ptr);

/* For KERN_LAUNCH (dialect.h): makes the card the calling thread's and returns its cudaStream_t; and sees whether the launch of `kernel`,
 * a literal, went well. */
void *kern_card_stream(kern_card *card);
bool kern_card_well(const kern_card *card); /* nothing has failed: else nothing is launched */
/* Lets blocks of a kernel have so many bytes of shared memory, or as many as they had been let before: a graph may hold them to it. A refusal
 * comes back from the launch. */
void kern_card_allow(kern_card *card, const void *kernel, size_t bytes);
void kern_card_launched(kern_card *card, const char *kernel);

#ifdef __cplusplus
}
#endif
#endif
