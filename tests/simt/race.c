/* What orders accesses, and which are not ordered: race.h.
 *
 * Times. A thread's own time goes on whenever others may learn of it; clock_of[t] is what thread t knows of everybody: until which of their times it
 * comes after what they did. Gates have times too, which go on with each phase: a box is written by its gate, at the phase that it is announced for.
 * What every thread of the block knows, after a barrier, is `common`, so a barrier costs one clock and not one a thread. Times are never
 * set back, so shared memory needs no clearing between blocks.
 *
 * Blocks learn of each other by what a thread adds to memory after a fence, a release: what it knew at the fence. Who has added to the same place
 * after that, and then had a fence, has acquired it, and so have those of its block that come after it. */
#include "race.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "simt.h"

enum {
    WARP = SIMT_WARP,
    MAX_THREADS = 1024,
    MAX_WARPS = MAX_THREADS / WARP,
    GATES = 64,
    ACTORS = GATES + MAX_THREADS, /* gates, then threads */
    BARRIERS = 16,
    CELL = 2, /* bytes of memory that have one history */
    SHARED_BYTES = 228 << 10,
    STACK_BYTES = 256 << 10,
    PAGE = 4096,
    PAGE_CELLS = PAGE / CELL,
    RADIX = 1 << 18, /* pages of a leaf of the table of device memory */
    LEAVES = 1 << 17,
    EXCHANGES = 1 << 13 /* of a launch */
};
#define NEVER UINT32_MAX       /* a time that nobody comes after: of what is not over */
#define ATOMIC 0x80000000u     /* beside where an access is */

typedef struct clocks {
    uint32_t of[ACTORS];
} clocks;

/* What a thread told others by adding to memory, or was told. */
typedef struct exchange {
    const void *at;
    int block, thread;
    uint32_t time;  /* an acquisition: of the thread, from which it holds */
    int releases;   /* an acquisition: those before */
    clocks *known;  /* a release */
} exchange;

typedef struct shared_cell {
    uint32_t time, where;       /* of the last write */
    uint16_t writer, again;     /* an actor; another that wrote the same, in no order: again_time is not 0 */
    uint32_t again_time;
    uint32_t warps;             /* that have read since */
    uint8_t lanes[MAX_WARPS];
    uint32_t times[MAX_WARPS], wheres[MAX_WARPS];
} shared_cell;

typedef struct touched {
    uint32_t launch, time, where;
    uint32_t block : 22, thread : 10;
} touched;

typedef struct device_cell {
    touched write, read, other; /* other: the last read of another thread than `read` */
} device_cell;

static clocks clock_of[MAX_THREADS], common, begun; /* begun: when the block began */
static clocks at_fence[MAX_THREADS];
static clocks barriers[BARRIERS], barriers_over[BARRIERS];

static struct {
    const void *at;         /* NULL: not open */
    int opener;
    uint32_t opened, where, phase; /* when, and where in the program; its time */
    clocks arrived, over[2]; /* in the phase under way and before; until the ends of even and odd phases */
} gates[GATES];

/* Of each thread in this block. */
static struct {
    bool waited, may_start, has_fence; /* it has waited for the launch before, has let the next one start, has had a fence */
    const void *taken;                 /* where it has added to since its last fence, and the releases before */
    int releases;
} threads[MAX_THREADS];
static uint32_t tile_written[MAX_THREADS]; /* what a thread wrote until then is there for wgmma */

static struct {
    uint32_t launch, oldest; /* the running one's number, from 1 on; the first that may still run before kern_wait_for_previous */
    bool early, any_waited, waited_first; /* a thread has waited; has done so before it let the next launch start */
    const char *shared;
    shared_cell *cells;
    const void *where;
    exchange releases[EXCHANGES], acquisitions[EXCHANGES];
    int n_releases, n_acquisitions; /* of the launch; of the block */
    device_cell **leaves[LEAVES];
} race;

static void *map(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) simt_broken("no memory for histories");
    return p;
}

/* ---- what is found ---------------------------------------------------------------------------------------------------------------- */

extern const char __executable_start;

static uint32_t place_of(const void *where) { return (uint32_t)((const char *)where - &__executable_start); }

static void print_line(const char *what, uint32_t where) {
    char command[256];
    snprintf(command, sizeof command, "addr2line -e /proc/%d/exe 0x%x >&2", (int)getpid(), (where & ~ATOMIC) - 1);
    fprintf(stderr, "simt: %s ", what);
    if (!where || system(command) != 0) fprintf(stderr, "0x%x of the program\n", where & ~ATOMIC);
}

/* What an access is in no order with, or what else is wrong with it. */
typedef struct finding {
    const char *what; /* NULL: nothing */
    const void *at;
    int block, actor; /* of the other access; no actor: -1 */
    uint32_t where;
} finding;

_Noreturn static void report(finding f) {
    const size_t left = SHARED_BYTES - (size_t)((const char *)f.at - race.shared);
    print_line("access at", place_of(race.where));
    if (f.actor >= 0) print_line(f.actor < GATES ? "a box before it at" : "another before it at", f.where);
    if (f.actor >= GATES) fprintf(stderr, "simt: by block %d, thread %d\n", f.block, f.actor - GATES);
    if (left <= SHARED_BYTES) fprintf(stderr, "simt: shared memory, %zu bytes before its end\n", left);
    simt_broken(f.what);
}

/* Writes that may leave what was there, as others have written it already: the next call tells. Of one access, a cell each. */
enum { DOUBTFUL = 16 };
static struct {
    finding found;
    char before[CELL];
} doubtful[DOUBTFUL];
static int n_doubtful;
static simt_place doubtful_by;
static const void *doubtful_where;

static void doubt(finding f) {
    if (n_doubtful == DOUBTFUL) report(f);
    doubtful_by = simt_at;
    doubtful_where = race.where;
    doubtful[n_doubtful].found = f;
    memcpy(doubtful[n_doubtful++].before, f.at, CELL);
}

void race_settle(void) {
    const int n = n_doubtful;
    n_doubtful = 0;
    for (int i = 0; i < n; i++) {
        if (memcmp(doubtful[i].found.at, doubtful[i].before, CELL) == 0) continue;
        simt_at = doubtful_by;
        race.where = doubtful_where;
        report(doubtful[i].found);
    }
}

/* ---- clocks ----------------------------------------------------------------------------------------------------------------------- */

static int me(void) { return GATES + simt_at.thread; }
static clocks *mine(void) { return &clock_of[simt_at.thread]; }
static uint32_t now(void) { return mine()->of[me()]; }
static uint32_t later(uint32_t a, uint32_t b) { return a > b ? a : b; }
static uint32_t known(int actor) { return later(common.of[actor], mine()->of[actor]); }

static void learn(clocks *to, const clocks *from) {
    for (int i = 0, n = GATES + simt_at.threads; i < n; i++) to->of[i] = later(to->of[i], from->of[i]);
}

static void tell(clocks *to) {
    learn(to, &common);
    learn(to, mine());
    mine()->of[me()]++;
}

void race_barrier(void) {
    for (int t = 0; t < simt_at.threads; t++) {
        for (int g = 0; g < GATES; g++) common.of[g] = later(common.of[g], clock_of[t].of[g]);
        common.of[GATES + t] = clock_of[t].of[GATES + t]++;
    }
}

void race_warp_barrier(void) {
    const int first = simt_at.thread / WARP * WARP;
    clocks all = clock_of[first];
    for (int l = 1; l < WARP; l++) learn(&all, &clock_of[first + l]);
    for (int l = 0; l < WARP; l++) {
        memcpy(&clock_of[first + l], &all, (size_t)(GATES + simt_at.threads) * sizeof all.of[0]);
        clock_of[first + l].of[GATES + first + l]++;
    }
}

void race_barrier_some_arrive(int number) { tell(&barriers[number]); }
void race_barrier_some_over(int number) { barriers_over[number] = barriers[number]; }
void race_barrier_some_wait(int number) { learn(mine(), &barriers_over[number]); }

static int gate_at(const void *at) {
    for (int g = 0; g < GATES; g++) {
        if (gates[g].at != at) continue;
        if (known(gates[g].opener) < gates[g].opened)
            report((finding){"a gate that another opens, in no order", at, simt_at.block, gates[g].opener, gates[g].where});
        return g;
    }
    report((finding){"a gate that nobody has opened", at, simt_at.block, -1, 0});
}

void race_gate_open(const void *at) {
    int g = 0;
    while (g < GATES && gates[g].at && gates[g].at != at) g++;
    if (g == GATES) simt_broken("more gates than the shim keeps");
    if (gates[g].at) simt_broken("a gate is opened twice");
    gates[g].at = at;
    gates[g].opener = me();
    gates[g].opened = now();
    gates[g].where = place_of(race.where);
    memset(&gates[g].arrived, 0, sizeof(clocks));
    tell(&gates[g].arrived);
    gates[g].over[0] = gates[g].over[1] = gates[g].arrived;
}

void race_gate_arrive(const void *at) { tell(&gates[gate_at(at)].arrived); }

void race_gate_over(const void *at, int parity) {
    const int g = gate_at(at);
    gates[g].arrived.of[g] = ++gates[g].phase;
    gates[g].over[parity] = gates[g].arrived;
}

void race_gate_wait(const void *at, int parity) { learn(mine(), &gates[gate_at(at)].over[parity]); }

void race_tile_written(void) {
    tile_written[simt_at.thread] = now();
    mine()->of[me()]++;
}

/* ---- launches and blocks ---------------------------------------------------------------------------------------------------------- */

void race_launch(bool early) {
    race.oldest = !early ? race.launch + 1 : race.waited_first ? race.launch : race.oldest;
    race.launch++;
    race.early = early;
    race.any_waited = race.waited_first = false;
    for (int i = 0; i < race.n_releases; i++) free(race.releases[i].known);
    race.n_releases = 0;
}

void race_launch_ends(void) {
    if (race.early && !race.any_waited) simt_broken("no thread of the launch waits for the one before: who waits for this one may come before that");
}

void race_block(const void *shared) {
    race.shared = shared;
    if (!race.cells) race.cells = map(sizeof(shared_cell) * (SHARED_BYTES / CELL));
    race_barrier();
    for (int g = 0; g < GATES; g++) {
        gates[g].at = NULL;
        common.of[g] = gates[g].phase;
    }
    begun = common;
    race.n_acquisitions = 0;
    memset(threads, 0, sizeof threads);
}

void race_wait_for_previous(void) {
    threads[simt_at.thread].waited = true;
    race.any_waited = true;
    if (!threads[simt_at.thread].may_start) race.waited_first = true;
}

void race_next_may_start(void) { threads[simt_at.thread].may_start = true; }

/* ---- between blocks --------------------------------------------------------------------------------------------------------------- */

static exchange *next_exchange(exchange *list, int *n) {
    if (*n == EXCHANGES) simt_broken("more additions between blocks than the shim keeps");
    return &list[(*n)++];
}

void race_fence(void) {
    const int t = simt_at.thread;
    if (threads[t].taken)
        *next_exchange(race.acquisitions, &race.n_acquisitions) = (exchange){threads[t].taken, simt_at.block, t, now(), threads[t].releases, NULL};
    threads[t].taken = NULL;
    threads[t].has_fence = true;
    at_fence[t] = *mine();
    learn(&at_fence[t], &common);
    mine()->of[me()]++;
}

static void exchange_at(const void *at) {
    const int t = simt_at.thread;
    threads[t].taken = at;
    threads[t].releases = race.n_releases;
    if (!threads[t].has_fence) return;
    clocks *told = malloc(sizeof *told);
    if (!told) simt_broken("no memory");
    *told = at_fence[t];
    *next_exchange(race.releases, &race.n_releases) = (exchange){at, simt_at.block, t, 0, 0, told};
}

/* Whether what the block has acquired has what thread `thread` of another did until `time`. */
static bool acquired(int block, int thread, uint32_t time) {
    for (int i = 0; i < race.n_acquisitions; i++) {
        const exchange *a = &race.acquisitions[i];
        if (known(GATES + a->thread) < a->time) continue;
        for (int r = 0; r < a->releases; r++)
            if (race.releases[r].at == a->at && race.releases[r].block == block && race.releases[r].known->of[GATES + thread] >= time) return true;
    }
    return false;
}

/* ---- shared memory ---------------------------------------------------------------------------------------------------------------- */

/* Who wrote the cell, so that the running thread comes after it; -1: nobody. */
static int writer_before(const shared_cell *c) {
    if (known(c->writer) >= c->time) return c->writer;
    return c->again_time && known(c->again) >= c->again_time ? c->again : -1;
}

static bool written(const shared_cell *c) { return c->time > begun.of[c->writer]; }

static void shared_read(shared_cell *c, const void *at, uint32_t where, uint32_t time) {
    const int w = simt_at.thread / WARP;
    if (writer_before(c) < 0) report((finding){"reads what another writes, in no order", at, simt_at.block, c->writer, c->where});
    if ((c->warps >> w & 1) && c->times[w] == NEVER && time != NEVER && c->lanes[w] != simt_at.thread % WARP) return;
    c->warps |= 1u << w;
    c->lanes[w] = (uint8_t)(simt_at.thread % WARP);
    c->times[w] = time;
    c->wheres[w] = where;
}

/* What a write of the cell is in no order with. */
static finding before_write(const shared_cell *c, const void *at, uint32_t where) {
    if (!((c->where & ATOMIC) && (where & ATOMIC)) && writer_before(c) < 0)
        return (finding){"writes what another writes, in no order", at, simt_at.block, c->writer, c->where};
    for (uint32_t left = c->warps; left; left &= left - 1) {
        const int w = __builtin_ctz(left), reader = GATES + w * WARP + c->lanes[w];
        if (known(reader) < c->times[w]) return (finding){"writes what another reads, in no order", at, simt_at.block, reader, c->wheres[w]};
    }
    return (finding){0};
}

static void shared_write(shared_cell *c, const void *at, uint32_t where, int writer, uint32_t time) {
    const finding f = before_write(c, at, where);
    if (f.what) {
        if (writer < GATES || time == NEVER) report(f);
        doubt(f);
        c->again = (uint16_t)writer;
        c->again_time = time;
        return;
    }
    c->warps = 0;
    c->writer = (uint16_t)writer;
    c->time = time;
    c->where = where;
    c->again_time = 0;
}

/* ---- device memory ---------------------------------------------------------------------------------------------------------------- */

static device_cell *device_cell_at(const void *at) {
    const uintptr_t page = (uintptr_t)at / PAGE;
    device_cell **const leaf = page / RADIX < LEAVES ? race.leaves[page / RADIX] : NULL, *const cells = leaf ? leaf[page % RADIX] : NULL;
    return cells ? cells + (uintptr_t)at % PAGE / CELL : NULL;
}

static bool in_order(const touched *a) {
    if (a->launch != race.launch) return true;
    return (int)a->block == simt_at.block ? known(GATES + a->thread) >= a->time : acquired((int)a->block, a->thread, a->time);
}

static bool same_thread(const touched *a, const touched *b) { return a->launch == b->launch && a->block == b->block && a->thread == b->thread; }

static finding with(const char *what, const void *at, const touched *other) {
    return (finding){what, at, (int)other->block, GATES + other->thread, other->where};
}

static void device_read(device_cell *c, const void *at, touched by) {
    if (!threads[simt_at.thread].waited && c->write.launch >= race.oldest && c->write.launch != race.launch)
        report(with("reads, before it waits for the launch before, what that writes", at, &c->write));
    if (!in_order(&c->write)) report(with("reads what another writes, in no order", at, &c->write));
    if (!same_thread(&c->read, &by)) c->other = c->read;
    c->read = by;
}

static void device_write(device_cell *c, const void *at, touched by) {
    if (!threads[simt_at.thread].waited && race.early) report((finding){"writes before it waits for the launch before", at, 0, -1, 0});
    const bool added = (c->write.where & ATOMIC) && (by.where & ATOMIC);
    const touched *const other = !added && !in_order(&c->write) ? &c->write : !in_order(&c->read) ? &c->read : !in_order(&c->other) ? &c->other : NULL;
    if (other) {
        doubt(with(other == &c->write ? "writes what another writes, in no order" : "writes what another reads, in no order", at, other));
        return;
    }
    c->write = by;
    c->read = c->other = (touched){0};
}

/* Of a buffer's pages. */
void race_memory(const void *at, size_t bytes) {
    const uintptr_t first = (uintptr_t)at / PAGE, end = ((uintptr_t)at + bytes + PAGE - 1) / PAGE;
    if (!bytes) return;
    device_cell *cells = map((end - first) * PAGE_CELLS * sizeof *cells);
    for (uintptr_t page = first; page < end; page++) {
        device_cell ***leaf = &race.leaves[page / RADIX];
        if (!*leaf) *leaf = map(RADIX * sizeof **leaf);
        (*leaf)[page % RADIX] = cells + (page - first) * PAGE_CELLS;
    }
}

void race_memory_gone(const void *at, size_t bytes) {
    const uintptr_t first = (uintptr_t)at / PAGE, end = ((uintptr_t)at + bytes + PAGE - 1) / PAGE;
    if (!bytes) return;
    munmap(race.leaves[first / RADIX][first % RADIX], (end - first) * PAGE_CELLS * sizeof(device_cell));
    for (uintptr_t page = first; page < end; page++) race.leaves[page / RADIX][page % RADIX] = NULL;
}

void race_host_wrote(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += CELL) {
        device_cell *c = device_cell_at((const char *)at + i);
        if (c) memset(c, 0, sizeof *c);
    }
}

/* ---- accesses --------------------------------------------------------------------------------------------------------------------- */

static shared_cell *cell_at(const void *at) { return &race.cells[((const char *)at - race.shared) / CELL]; }

typedef enum access_kind { READ, WRITE, ADD } access_kind;

static void touch_shared(const void *at, size_t cells, access_kind kind, uint32_t where) {
    shared_cell *c = cell_at(at);
    const uint32_t time = now();
    for (size_t i = 0; i < cells; i++, c++) {
        const void *here = (const char *)at + i * CELL;
        if (kind == READ && !written(c)) report((finding){"reads what nobody has written", here, 0, -1, 0});
        if (kind == READ)
            shared_read(c, here, where, time);
        else
            shared_write(c, here, where, me(), time);
    }
}

/* What is no device memory: nothing. */
static void touch_device(const void *at, size_t cells, access_kind kind, uint32_t where) {
    const touched by = {race.launch, now(), where, (unsigned)simt_at.block & 0x3fffff, (unsigned)simt_at.thread & 0x3ff};
    device_cell *c = NULL;
    for (size_t i = 0; i < cells; i++, c++) {
        const void *here = (const char *)at + i * CELL;
        if (i == 0 || (uintptr_t)here % PAGE == 0) c = device_cell_at(here);
        if (!c) return;
        if (kind == READ)
            device_read(c, here, by);
        else
            device_write(c, here, by);
    }
}

static void touch(const void *at, size_t bytes, access_kind kind, const void *where) {
    const char *begin = (const char *)at - (uintptr_t)at % CELL;
    const size_t cells = ((size_t)((const char *)at - begin) + bytes + CELL - 1) / CELL;
    const uint32_t place = place_of(where) | (kind == ADD ? ATOMIC : 0);
    if (n_doubtful) race_settle();
    race.where = where;
    if ((uintptr_t)begin - (uintptr_t)race.shared < SHARED_BYTES)
        touch_shared(begin, cells, kind, place);
    else if ((uintptr_t)begin - (uintptr_t)__builtin_frame_address(0) + STACK_BYTES >= 2 * STACK_BYTES)
        touch_device(begin, cells, kind, place);
}

void race_here(const void *where) { race.where = where; }
void race_read(const void *at, size_t bytes) { touch(at, bytes, READ, race.where); }

void race_atomic(const void *at, size_t bytes) {
    touch(at, bytes, ADD, race.where);
    if ((uintptr_t)at - (uintptr_t)race.shared >= SHARED_BYTES) exchange_at(at);
}

void race_copy_begins(const void *to, const void *from, size_t bytes, size_t read) {
    touch(from, read, READ, race.where);
    for (size_t i = 0; i < bytes / CELL; i++) shared_write(&cell_at(to)[i], (const char *)to + i * CELL, place_of(race.where), me(), NEVER);
}

void race_copy_ends(const void *to, size_t bytes) {
    for (size_t i = 0; i < bytes / CELL; i++) cell_at(to)[i].time = now();
}

void race_box(const void *tile, size_t bytes, const void *gate) {
    const int g = gate_at(gate);
    for (size_t i = 0; i < bytes / CELL; i++)
        shared_write(&cell_at(tile)[i], (const char *)tile + i * CELL, place_of(race.where), g, gates[g].phase + 1);
}

void race_factor_begins(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes / CELL; i++) {
        shared_cell *c = &cell_at(at)[i];
        shared_read(c, (const char *)at + i * CELL, place_of(race.where), NEVER);
        const int writer = writer_before(c);
        if (written(c) && writer >= GATES && (writer == c->writer ? c->time : c->again_time) > tile_written[writer - GATES])
            report((finding){"wgmma reads what a thread wrote that has not said kern_tile_written", at, simt_at.block, c->writer, c->where});
    }
}

void race_factor_ends(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes / CELL; i++) shared_read(&cell_at(at)[i], (const char *)at + i * CELL, place_of(race.where), now());
}

/* ---- what the compiler calls ------------------------------------------------------------------------------------------------------ */

#define WORD(name, bytes, kind)          \
    void name(void *at);                 \
    void name(void *at) { touch(at, bytes, kind, __builtin_return_address(0)); }
#define WORDS(bytes)                                   \
    WORD(__tsan_read##bytes, bytes, READ)              \
    WORD(__tsan_write##bytes, bytes, WRITE)            \
    WORD(__tsan_unaligned_read##bytes, bytes, READ)    \
    WORD(__tsan_unaligned_write##bytes, bytes, WRITE)
WORDS(1)
WORDS(2)
WORDS(4)
WORDS(8)
WORDS(16)

void __tsan_init(void);
void __tsan_init(void) {}
void __tsan_read_range(void *at, long bytes);
void __tsan_read_range(void *at, long bytes) { touch(at, (size_t)bytes, READ, __builtin_return_address(0)); }
void __tsan_write_range(void *at, long bytes);
void __tsan_write_range(void *at, long bytes) { touch(at, (size_t)bytes, WRITE, __builtin_return_address(0)); }
