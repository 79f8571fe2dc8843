/* runtime: a stand-in for the CUDA runtime, under the backend's own host code and kernels as nvcc made them. Nothing runs, and memory is
 * addresses alone, so that a model of any size can be stepped through on any machine. What a card would refuse is refused, with the error that
 * CUDA's documentation names for it, and counted: grids and blocks beyond the limits; shared memory beyond what a block has, or what the kernel
 * was given on that card (cudaFuncSetAttribute); a stream of another card than the current one; copies and maps (cuTensorMapEncodeTiled) that
 * leave an allocation, maps of other sizes, strides, boxes or alignment than the copy engine takes. */
#ifndef RLF_TESTS_SIMT_RUNTIME_H
#define RLF_TESTS_SIMT_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

typedef struct runtime_cards {
    int count, major, processors;
    size_t shared_bytes; /* that a block may have */
    bool refuses_ipc;
} runtime_cards;

/* The machine's cards from now on: for devices that are opened after it. Forgets faults and launches. */
void runtime_set(runtime_cards cards);
/* How much was refused, IPC aside; *first says what first. */
size_t runtime_faults(const char **first);
/* Launches of kernels whose names contain `part`: of all that there are, the fewest. */
long runtime_fewest_launches(const char *part);

#endif
