/* simt: a stand-in for a CUDA card, so that the kernels of kernels/cuda/ run, and are checked, on a CPU. It gives the words of
 * kernels/cuda/dialect.h their meaning in C; simt.c runs blocks one after the other, each thread of a block as a fiber that goes on until
 * it waits for others; card.c has memory.
 *
 * What it finds that a card would pass over:
 *   an access outside device or shared memory    a page fault: every buffer ends at a page that cannot be touched
 *   a barrier that not all threads reach, or at different places of the source; a shuffle that not all of a warp reach: a message, abort
 *   a missing barrier, a race, memory read before it was written    other bits: the three cards of this machine run threads and blocks in
 *                             ascending, descending and shuffled order, and fill shared memory with a pattern of their own
 *   an asynchronous copy that is not waited for, or overtakes a reader    other bits: until the wait its destination holds that pattern
 *   a copy, a sync, or memory taken or given back while a graph is recorded    a message, abort
 *   an address that is not aligned as ldmatrix and asynchronous copies want it; more shared memory than a block may have: a message, abort
 *   any other access that is not aligned as its type wants it, e.g. of four floats at once: -fsanitize=alignment's message, abort
 *
 * A block is as many threads as a card allows, a multiple of 32. x86-64 only. One host thread at a time. */
#ifndef RLF_TESTS_SIMT_SIMT_H
#define RLF_TESTS_SIMT_SIMT_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum simt_order { SIMT_ASCENDING, SIMT_DESCENDING, SIMT_SHUFFLED, SIMT_ORDERS } simt_order;

typedef void simt_kernel(const void *args);

/* Runs all blocks before it returns. early: a card may begin before the launch before has ended (race.h). shared_bytes: for KERN_SHARED_BYTES,
 * 0 without it. */
void simt_launch(simt_order order, bool early, const char *name, simt_kernel *kernel, int blocks, int threads, size_t shared_bytes, const void *args);

/* ---- inside a kernel -------------------------------------------------------------------------------------------------------------- */

/* Where the running thread is. */
typedef struct simt_place {
    int thread, block, threads, blocks;
} simt_place;
extern simt_place simt_at;

/* Memory of the block: a size the kernel says, and the size the launch says (of which it needs `needed`). */
void *simt_shared(size_t bytes);
void *simt_shared_bytes(size_t needed);
void simt_barrier(const char *file, int line);
void simt_warp_barrier(void);
/* Every thread of the warp comes with the same work and something of its own; the last to come does it for all, given what each brought. */
enum { SIMT_WARP = 32 };
typedef void simt_warp_work(void *const mine[SIMT_WARP]);
void simt_together(simt_warp_work *work, void *mine);
/* Every thread of the warp gives four words; returns those of lane `from`. */
typedef struct simt_words {
    uint32_t w[4];
} simt_words;
simt_words simt_exchange(simt_words mine, int from);

uint32_t simt_ballot(bool bit);
void simt_fence(void);
void simt_wait_for_previous(void);
void simt_next_may_start(void);
uint32_t simt_add_u32(uint32_t *to, uint32_t x); /* what was there */
void simt_add_u64(uint64_t *to, uint64_t x);

/* The words of kernels/cuda/mma.h: tensor.c. */
void simt_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]);
void simt_ldmatrix_x4(uint32_t r[4], const void *row);
void simt_ldmatrix_x4_trans(uint32_t r[4], const void *row);
/* So far: ldmatrix loads of 8 rows that are not in 8 different sixteenths of 128 bytes, so that a card would take longer. */
extern int64_t simt_bank_conflicts;
void simt_copy_async16(void *dst, const void *src, int bytes_valid);
void simt_copy_commit(void);
void simt_copy_wait(int groups);

/* The words of kernels/cuda/hopper.h: hopper.c. A copy comes as late as it may, when somebody waits for it; a product is computed when it is
 * waited for, and what it adds to holds the card's pattern until then. */
void simt_gate_open(uint64_t *gate, int arrivals);
void simt_gate_expect(uint64_t *gate, int bytes);
void simt_gate_wait(uint64_t *gate, int parity);
void simt_copy_box(void *tile, const uint64_t *map, int row, int col, uint64_t *gate);
void simt_wgmma(float (*c)[4], int n, const uint16_t *a_tile, const uint32_t *a_rows, bool a_across, const uint16_t *b_tile, int b_apart,
                bool b_across);
void simt_wgmma_commit(void);
void simt_wgmma_wait(int groups);
void simt_tile_written(void);
void simt_barrier_some(int number, int threads, bool wait);
extern float simt_wgmma_error; /* what the first element of each product is wrong by: 0, but where a test sets it */
/* What kern_card_map leaves. */
typedef struct simt_map {
    const uint16_t *matrix;
    size_t ld;
    int rows, cols, box_rows;
} simt_map;

/* Between simt.c, tensor.c and hopper.c: */
void simt_check_copies(void); /* a thread is at its end */
void simt_check_products(void);
void simt_check_boxes(void); /* a block is at its end */
void simt_wait_until(const void *what, const char *name); /* until somebody calls simt_happened with it */
void simt_happened(const void *what);
_Noreturn void simt_broken(const char *what);
bool simt_is_shared(const void *at, size_t bytes);
void simt_poison(void *at, size_t bytes); /* with what this card fills memory with; multiples of 8 bytes */

/* A launch on the card of a context, which keeps it where it records a graph: tests/simt/card.c. */
struct kern_card;
void simt_queue(struct kern_card *card, bool early, const char *name, simt_kernel *kernel, int blocks, int threads, size_t shared_bytes,
                const void *args, size_t args_bytes);

#define KERN_DEVICE static inline
#define KERN_KERNEL_(name, before)                         \
    static void name(const name##_args a);                 \
    static void name##_thread(const void *args) {          \
        before;                                            \
        name(*(const name##_args *)args);                  \
    }                                                      \
    static void name(const name##_args a)
#define KERN_KERNEL(name) KERN_KERNEL_(name, simt_wait_for_previous())
#define KERN_KERNEL_FOR(name, threads, blocks) KERN_KERNEL(name)
#define KERN_KERNEL_EARLY(name) KERN_KERNEL_(name, (simt_next_may_start(), simt_wait_for_previous()))
#define KERN_KERNEL_WAITS(name) KERN_KERNEL_(name, simt_next_may_start())
#define KERN_KERNEL_WAITS_FOR(name, threads, blocks) KERN_KERNEL_WAITS(name)
#define KERN_KERNEL_WITH_MAPS(name, threads, blocks) KERN_KERNEL_(name, )
#define KERN_SHARED(type, name) type *const name = simt_shared(sizeof(type))
#define KERN_SHARED_BYTES(type, name) type *const name = simt_shared_bytes(sizeof(type))
#define KERN_LAUNCH(ctx, name, blocks, threads, args) KERN_LAUNCH_SHARED(ctx, name, blocks, threads, 0, args)
#define KERN_LAUNCH_SHARED(ctx, name, blocks, threads, bytes, args)                                                                      \
    do {                                                                                                                                 \
        if ((blocks) <= 0) break;                                                                                                        \
        simt_queue((ctx)->card, (ctx)->hopper && !(ctx)->wrote_weights, #name, name##_thread, blocks, threads, bytes, &(args), sizeof(args)); \
        (ctx)->wrote_weights = false;                                                                                                    \
    } while (0)

#define kern_fence simt_fence
#define kern_wait_for_previous simt_wait_for_previous
#define kern_next_may_start simt_next_may_start

#define KERN_UNROLL
#define KERN_UNROLL_BY(n)

static inline int kern_thread(void) { return simt_at.thread; }
static inline int kern_block(void) { return simt_at.block; }
static inline int kern_threads(void) { return simt_at.threads; }
static inline int kern_blocks(void) { return simt_at.blocks; }
#define kern_barrier() simt_barrier(__FILE__, __LINE__)
#define kern_warp_barrier() simt_warp_barrier()
static inline uint64_t kern_shuffle_xor_u64(uint64_t x, int mask) {
    simt_words mine = {{(uint32_t)x, (uint32_t)(x >> 32), 0, 0}}, other = simt_exchange(mine, simt_at.thread % 32 ^ mask);
    return other.w[0] | (uint64_t)other.w[1] << 32;
}
static inline double kern_shuffle_xor_f64(double x, int mask) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = kern_shuffle_xor_u64(bits, mask);
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline float kern_shuffle_xor(float x, int mask) {
    simt_words mine = {{0}};
    memcpy(mine.w, &x, sizeof x);
    mine = simt_exchange(mine, simt_at.thread % 32 ^ mask);
    memcpy(&x, mine.w, sizeof x);
    return x;
}
#define kern_ballot simt_ballot
#define kern_add_u64 simt_add_u64
#define kern_add_u32 (void)simt_add_u32
#define kern_take_u32 simt_add_u32

#endif
