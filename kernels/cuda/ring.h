/* ring: stages of shared memory that one thread fills by the copy engine and warps read, each as far ahead or behind as there are stages. */
#ifndef RLF_KERNELS_CUDA_RING_H
#define RLF_KERNELS_CUDA_RING_H

#include "kernels/cuda/hopper.h"

enum { RING_MOST_STAGES = 24 };

/* Of each stage: `full` ends a phase when what was copied is there, `empty` when all readers have done with it. */
typedef struct ring_gates {
    kern_gate full[RING_MOST_STAGES], empty[RING_MOST_STAGES];
} ring_gates;

/* How far a thread has come. */
typedef struct ring_place {
    int stage, round;
} ring_place;

/* Step i of a ring; and the place after one. */
KERN_DEVICE ring_place ring_at(int i, const int stages) {
    const ring_place at = {i % stages, i / stages};
    return at;
}
KERN_DEVICE void ring_next(ring_place *at, const int stages) {
    if (++at->stage < stages) return;
    at->stage = 0;
    at->round++;
}

/* By all threads, of which there are more than stages; a barrier of the block has to follow. `writers` threads arrive at `full`, `readers`
 * warps at `empty`. */
KERN_DEVICE void ring_open(ring_gates *gates, const int stages, int writers, int readers) {
    if (kern_thread() >= stages) return;
    kern_gate_open(&gates->full[kern_thread()], writers);
    kern_gate_open(&gates->empty[kern_thread()], readers);
    kern_gate_opened();
}

/* What fills the stage waits until it is free. */
KERN_DEVICE void ring_wait_empty(ring_gates *gates, ring_place at) {
    if (at.round > 0) kern_gate_wait(&gates->empty[at.stage], (at.round - 1) & 1);
}
/* A reader waits until it is there; and leaves it, by whole warps. */
KERN_DEVICE void ring_wait_full(ring_gates *gates, ring_place at) { kern_gate_wait(&gates->full[at.stage], at.round & 1); }
KERN_DEVICE void ring_leave(ring_gates *gates, int stage) {
    kern_warp_barrier();
    if (kern_thread() % 32 == 0) kern_gate_arrive(&gates->empty[stage]);
}

#endif
