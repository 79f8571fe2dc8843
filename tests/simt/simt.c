/* Fibers and their scheduler.
 *
 * A fiber runs one thread of the block at a time, block after block; its stack stays. A warp's fibers are run in turn until each is done or
 * waits for the block, then comes the next warp: any order is one that a card could have taken. A fiber that waits goes straight to the next
 * of its warp, which mostly waited at the same place: so the processor foresees the return, and the scheduler is asked once a warp. */
#include "simt.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "race.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

enum {
    WARP = SIMT_WARP,
    MAX_THREADS = 1024,
    MAX_WARPS = MAX_THREADS / WARP,
    STACK_BYTES = 256 << 10,
    KERNEL_SHARED_BYTES = 48 << 10,  /* of a size the kernel says */
    LAUNCH_SHARED_BYTES = 227 << 10, /* that the launch says: Hopper */
    MAPPED_SHARED_BYTES = 228 << 10,
    PAGE_BYTES = 4096
};

typedef enum fiber_state { READY, AT_WARP, AT_BLOCK, AT_EVENT, DONE } fiber_state;

typedef struct fiber {
    void *stack_pointer;
    char *stack;
    fiber_state state;
    const char *file;    /* of the barrier it waits at */
    int line;
    const void *event;   /* it waits for, and what that is called */
    const char *event_name;
} fiber;

typedef struct warp {
    int arrived;
    simt_warp_work *work; /* what those that have arrived wait for; NULL: each other */
    void *mine[WARP];
} warp;

simt_place simt_at;

static struct {
    fiber fibers[MAX_THREADS];
    warp warps[MAX_WARPS];
    void *scheduler; /* its stack pointer */
    const char *name;
    simt_kernel *kernel;
    const void *args;
    int arrived; /* at the block's barrier */
    char *shared; /* MAPPED_SHARED_BYTES before a page that cannot be touched */
    size_t shared_bytes, launch_bytes; /* of this block, 0: not asked for yet; as the launch says */
    simt_order order;
    uint64_t random;
    int lanes[WARP], place_of[WARP], warp_order[MAX_WARPS]; /* lanes in their order; the place of a lane in it */
} simt;

_Noreturn void simt_broken(const char *what) {
    fprintf(stderr, "simt: kernel %s, block %d, thread %d: %s\n", simt.name, simt_at.block, simt_at.thread, what);
    abort();
}

/* ---- changing stacks -------------------------------------------------------------------------------------------------------------- */

/* Saves what a call must keep and the stack pointer, and goes on where `to` was saved. */
void simt_switch(void **save, void *to);
__asm__(".text\n.globl simt_switch\n.hidden simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size simt_switch,.-simt_switch\n");

/* AddressSanitizer is told of each change of stack, on both sides of it; where the scheduler's is, the first fiber learns from it. */
static const void *scheduler_bottom;
static size_t scheduler_bytes;
#ifdef __SANITIZE_ADDRESS__
static void leaving(void **fake, const void *bottom, size_t bytes) { __sanitizer_start_switch_fiber(fake, bottom, bytes); }
static void arrived(void *fake) {
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fake, &bottom, &bytes);
    if (scheduler_bottom) return;
    scheduler_bottom = bottom;
    scheduler_bytes = bytes;
}
#else
static void leaving(void **fake, const void *bottom, size_t bytes) { (void)fake, (void)bottom, (void)bytes; }
static void arrived(void *fake) { (void)fake; }
#endif

static void run_fiber(void **from, int thread);

/* The next thread of the warp that is ready, after the one at `place` in the order; -1: none. */
static int next_ready(int first, int place) {
    for (int i = 1; i <= WARP; i++) {
        const int thread = first + simt.lanes[(place + i) % WARP];
        if (simt.fibers[thread].state == READY) return thread;
    }
    return -1;
}

/* The running fiber, which waits or is done, makes way. */
static void leave(void) {
    const int thread = simt_at.thread, first = thread / WARP * WARP, next = next_ready(first, simt.place_of[thread - first]);
    fiber *f = &simt.fibers[thread];
    void *fake = NULL;
    race_settle();
    if (next >= 0) {
        run_fiber(&f->stack_pointer, next);
        return;
    }
    leaving(&fake, scheduler_bottom, scheduler_bytes);
    simt_switch(&f->stack_pointer, simt.scheduler);
    arrived(fake);
}

static void fiber_main(void) {
    arrived(NULL);
    for (;;) {
        simt.kernel(simt.args);
        simt_check_copies();
        simt_check_products();
        simt.fibers[simt_at.thread].state = DONE;
        leave();
    }
}

static void *map_or_die(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) simt_broken("no memory for stacks");
    return p;
}

/* A stack on which simt_switch finds six registers and the address of fiber_main, which is entered as by a call. */
static void fiber_init(fiber *f) {
    f->stack = map_or_die(STACK_BYTES);
    void **top = (void **)(void *)(f->stack + STACK_BYTES);
    top[-2] = (void *)fiber_main;
    f->stack_pointer = top - 8;
}

/* Keeps the stack pointer in `from`, to come back to. */
static void run_fiber(void **from, int thread) {
    fiber *f = &simt.fibers[thread];
    if (!f->stack) fiber_init(f);
    void *fake = NULL;
    simt_at.thread = thread;
    leaving(&fake, f->stack, STACK_BYTES);
    simt_switch(from, f->stack_pointer);
    arrived(fake);
}

/* ---- waiting ---------------------------------------------------------------------------------------------------------------------- */

static void wait_here(fiber_state state) {
    simt.fibers[simt_at.thread].state = state;
    leave();
}

void simt_barrier(const char *file, int line) {
    fiber *f = &simt.fibers[simt_at.thread];
    f->file = file;
    f->line = line;
    if (++simt.arrived < simt_at.threads) {
        wait_here(AT_BLOCK);
        return;
    }
    simt.arrived = 0;
    race_barrier();
    for (int t = 0; t < simt_at.threads; t++) {
        if (simt.fibers[t].file != file || simt.fibers[t].line != line) simt_broken("the threads of a block wait at different barriers");
        simt.fibers[t].state = READY;
    }
}

void simt_wait_until(const void *what, const char *name) {
    simt.fibers[simt_at.thread].event = what;
    simt.fibers[simt_at.thread].event_name = name;
    wait_here(AT_EVENT);
}

void simt_happened(const void *what) {
    for (int t = 0; t < simt_at.threads; t++)
        if (simt.fibers[t].state == AT_EVENT && simt.fibers[t].event == what) simt.fibers[t].state = READY;
}

void simt_together(simt_warp_work *work, void *mine) {
    const int first = simt_at.thread / WARP * WARP;
    warp *w = &simt.warps[simt_at.thread / WARP];
    if (w->arrived && w->work != work) simt_broken("the threads of a warp wait for different things");
    w->work = work;
    w->mine[simt_at.thread - first] = mine;
    if (++w->arrived < WARP) {
        wait_here(AT_WARP);
        return;
    }
    w->arrived = 0;
    if (work)
        work(w->mine);
    else
        race_warp_barrier();
    for (int t = first; t < first + WARP; t++) simt.fibers[t].state = READY;
}

void simt_warp_barrier(void) { simt_together(NULL, NULL); }

typedef struct exchange {
    simt_words given, taken;
    int from;
} exchange;

static void exchange_all(void *const mine[WARP]) {
    for (int lane = 0; lane < WARP; lane++) {
        exchange *e = mine[lane];
        e->taken = ((const exchange *)mine[e->from])->given;
    }
}

simt_words simt_exchange(simt_words mine, int from) {
    exchange e = {.given = mine, .from = from};
    simt_together(exchange_all, &e);
    return e.taken;
}

static void ballot_all(void *const mine[WARP]) {
    uint32_t bits = 0;
    for (int lane = 0; lane < WARP; lane++) bits |= *(const uint32_t *)mine[lane] << lane;
    for (int lane = 0; lane < WARP; lane++) *(uint32_t *)mine[lane] = bits;
}

uint32_t simt_ballot(bool bit) {
    uint32_t mine = bit;
    simt_together(ballot_all, &mine);
    return mine;
}

/* ---- between blocks, and launches ------------------------------------------------------------------------------------------------- */

void simt_fence(void) { race_fence(); }
void simt_wait_for_previous(void) { race_wait_for_previous(); }
void simt_next_may_start(void) { race_next_may_start(); }

uint32_t simt_add_u32(uint32_t *to, uint32_t x) {
    RACE_HERE();
    race_atomic(to, sizeof *to);
    *to += x;
    return *to - x;
}

void simt_add_u64(uint64_t *to, uint64_t x) {
    RACE_HERE();
    race_atomic(to, sizeof *to);
    *to += x;
}

/* ---- shared memory ---------------------------------------------------------------------------------------------------------------- */

static uint64_t next_random(void) {
    simt.random ^= simt.random << 13;
    simt.random ^= simt.random >> 7;
    return simt.random ^= simt.random << 17;
}

void simt_poison(void *at, size_t bytes) {
    static const int pattern[] = {0xff, 0x7e};
    uint64_t *words = at;
    if (simt.order != SIMT_SHUFFLED)
        memset(at, pattern[simt.order], bytes);
    else
        for (size_t i = 0; i < bytes / sizeof *words; i++) words[i] = next_random();
}

/* So that the first byte after it is on the page that cannot be touched, but for alignment to 16. */
static void *shared_of(size_t bytes) {
    const size_t rounded = (bytes + 15) / 16 * 16;
    char *at = simt.shared + MAPPED_SHARED_BYTES - rounded;
    if (simt.shared_bytes && simt.shared_bytes != bytes) simt_broken("shared memory of two sizes");
    if (!simt.shared_bytes) simt_poison(at, rounded);
    simt.shared_bytes = bytes;
    return at;
}

void *simt_shared(size_t bytes) {
    if (bytes > KERNEL_SHARED_BYTES) simt_broken("more shared memory than a kernel can say it needs: KERN_SHARED_BYTES takes more");
    return shared_of(bytes);
}

void *simt_shared_bytes(size_t needed) {
    if (simt.launch_bytes > LAUNCH_SHARED_BYTES) simt_broken("more shared memory than a block has");
    if (needed > simt.launch_bytes) simt_broken("less shared memory from the launch than the kernel needs");
    return shared_of(simt.launch_bytes);
}

bool simt_is_shared(const void *at, size_t bytes) {
    const char *end = simt.shared + MAPPED_SHARED_BYTES;
    return (const char *)at >= end - (simt.shared_bytes + 15) / 16 * 16 && (const char *)at <= end - bytes;
}

/* ---- blocks ----------------------------------------------------------------------------------------------------------------------- */

/* 0..n-1 in the order of the card. */
static void fill_order(int *order, int n) {
    for (int i = 0; i < n; i++) order[i] = simt.order == SIMT_DESCENDING ? n - 1 - i : i;
    for (int i = n - 1; i > 0 && simt.order == SIMT_SHUFFLED; i--) {
        const int j = (int)(next_random() % (unsigned)(i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

/* Until none of the warp's threads is ready. False if none was. */
static bool run_warp(int w) {
    const int thread = next_ready(w * WARP, WARP - 1);
    if (thread >= 0) run_fiber(&simt.scheduler, thread);
    return thread >= 0;
}

static void check_all_done(int threads) {
    for (int t = 0; t < threads; t++) {
        simt_at.thread = t;
        if (simt.fibers[t].state == AT_BLOCK) simt_broken("waits at a barrier that others never reach");
        if (simt.fibers[t].state == AT_EVENT) simt_broken(simt.fibers[t].event_name);
        if (simt.fibers[t].state == AT_WARP) simt_broken("waits at a shuffle or warp barrier that others of its warp never reach");
    }
}

static void run_block(int block, int blocks, int threads) {
    const int warps = threads / WARP;
    bool ran = true;
    simt_at = (simt_place){0, block, threads, blocks};
    simt.arrived = 0;
    simt.shared_bytes = 0;
    for (int w = 0; w < warps; w++) simt.warps[w].arrived = 0;
    for (int t = 0; t < threads; t++) simt.fibers[t].state = READY;
    race_block(simt.shared);
    fill_order(simt.lanes, WARP);
    for (int i = 0; i < WARP; i++) simt.place_of[simt.lanes[i]] = i;
    fill_order(simt.warp_order, warps);
    while (ran) {
        ran = false;
        for (int w = 0; w < warps; w++) ran |= run_warp(simt.warp_order[w]);
    }
    check_all_done(threads);
    simt_check_boxes();
    race_barrier();
}

static void set_up(void) {
    simt.random = 88172645463325252u;
    simt.shared = map_or_die(MAPPED_SHARED_BYTES + PAGE_BYTES);
    if (mprotect(simt.shared + MAPPED_SHARED_BYTES, PAGE_BYTES, PROT_NONE) != 0) simt_broken("mprotect");
}

void simt_launch(simt_order order, bool early, const char *name, simt_kernel *kernel, int blocks, int threads, size_t shared_bytes, const void *args) {
    if (!simt.shared) set_up();
    simt.order = order;
    simt.name = name;
    simt.kernel = kernel;
    simt.args = args;
    simt.launch_bytes = shared_bytes;
    if (threads < WARP || threads > MAX_THREADS || threads % WARP) simt_broken("a block of so many threads");
    if (blocks <= 0) return;
    int *turn = malloc((size_t)blocks * sizeof *turn);
    if (!turn) simt_broken("no memory");
    fill_order(turn, blocks);
    race_launch(early);
    for (int i = 0; i < blocks; i++) run_block(turn[i], blocks, threads);
    race_launch_ends();
    free(turn);
}
