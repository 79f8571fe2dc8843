/* race: finds accesses of the shim's threads to the same memory, one of them a write, that nothing orders: on a card either may come first,
 * and a test would fail once in a thousand runs. What it finds does not depend on the order in which the shim runs threads.
 *
 * The library kern_race is kern_simt with it (SIMT_RACE): its kernels are compiled with -fsanitize=thread, whose calls come to race.c
 * in place of the sanitizer's own library. Each thread has a vector clock (FastTrack: Flanagan and Freund 2009), and each two bytes of
 * shared and device memory their last accesses. What orders, and nothing else does:
 *
 *   kern_barrier, kern_barrier_some, kern_warp_barrier    those who come. Shuffles, votes, ldmatrix and mma order nothing
 *   gates              who waits for a phase comes after those who arrived, and after the boxes that were announced for it
 *   kern_copy_wait     a thread's own asynchronous copies: before it not even that thread may touch where they go
 *   kern_wgmma_wait    what wgmma reads, which nobody may write before it. What threads wrote, wgmma sees if they said kern_tile_written first
 *   kern_fence         what comes before it, by what the thread adds to memory after it; for who takes from there, and then has a fence too
 *   kern_wait_for_previous    launches. Before it a kernel reads nothing that a launch wrote which may still run, and writes nothing
 *
 * Shared memory that is read before anybody wrote it is found too, but for factors of wgmma, of which some lines may not be wanted.
 *
 * Threads may write what is there already, e.g. zeros that both of two warp groups need: who comes after one of them comes after the write.
 *
 * Of reads the last of each warp is kept, and in device memory the last two: of many readers that a write overtakes it may miss one, not all. */
#ifndef RLF_TESTS_SIMT_RACE_H
#define RLF_TESTS_SIMT_RACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef SIMT_RACE
#define RACE_WORD(declaration) declaration;
#else
#define RACE_WORD(declaration) static inline declaration {}
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif

/* early: the launch may begin before the one before it has ended. */
RACE_WORD(void race_launch(bool early))
RACE_WORD(void race_launch_ends(void))
RACE_WORD(void race_block(const void *shared)) /* where its memory begins, of which it has the end */

RACE_WORD(void race_settle(void)) /* the running thread makes way for another */

/* What the running thread does; or all of its block, or warp, of which it is one. */
RACE_WORD(void race_barrier(void))
RACE_WORD(void race_warp_barrier(void))
RACE_WORD(void race_barrier_some_arrive(int number))
RACE_WORD(void race_barrier_some_over(int number))
RACE_WORD(void race_barrier_some_wait(int number))
RACE_WORD(void race_gate_open(const void *gate))
RACE_WORD(void race_gate_arrive(const void *gate))
RACE_WORD(void race_gate_over(const void *gate, int parity))
RACE_WORD(void race_gate_wait(const void *gate, int parity))
RACE_WORD(void race_fence(void))
RACE_WORD(void race_tile_written(void))
RACE_WORD(void race_wait_for_previous(void))
RACE_WORD(void race_next_may_start(void))

/* Accesses of the shim for a thread, and where the kernel asks for them: RACE_HERE at the beginning of a word. A copy's 16 bytes, of which it reads so many; a box of the map's rows; a factor of wgmma. */
#define RACE_HERE() race_here(__builtin_return_address(0))
RACE_WORD(void race_here(const void *where))
RACE_WORD(void race_read(const void *at, size_t bytes))
RACE_WORD(void race_atomic(const void *at, size_t bytes))
RACE_WORD(void race_copy_begins(const void *to, const void *from, size_t bytes, size_t read))
RACE_WORD(void race_copy_ends(const void *to, size_t bytes))
RACE_WORD(void race_box(const void *tile, size_t bytes, const void *gate))
RACE_WORD(void race_factor_begins(const void *at, size_t bytes))
RACE_WORD(void race_factor_ends(const void *at, size_t bytes))

/* Device memory: it is there; it is gone; the host has written it. */
RACE_WORD(void race_memory(const void *at, size_t bytes))
RACE_WORD(void race_memory_gone(const void *at, size_t bytes))
RACE_WORD(void race_host_wrote(const void *at, size_t bytes))

#undef RACE_WORD
#ifndef SIMT_RACE
#pragma GCC diagnostic pop
#endif
#endif
