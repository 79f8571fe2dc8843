/* The part of `rlf bench` that measures each operation of kernels/kern.h by itself, at the sizes of one model. */
#ifndef RLF_TRAINER_CLI_BENCH_KERNELS_H
#define RLF_TRAINER_CLI_BENCH_KERNELS_H

#include <jansson.h>

#include "common/model/safetensors.h"
#include "kernels/transformer/transformer.h"

typedef struct rlf_bench_kernels {
    kern_queue *queue;
    const rlf_model_shape *shape;
    kern_precision precision;
    double matrix_flops;   /* of a large product, a second: what operations are compared with */
    double seconds;        /* how long an operation is repeated */
    double (*now)(const void *ctx); /* seconds */
    const void *ctx;
    bool print;            /* a line an operation on standard output */
} rlf_bench_kernels;

/* Returns a JSON array of objects: op, rows, seconds, bytes, flops, share_of_copy, share_of_matrix. A time is the best of several batches of
 * calls that are queued together and waited for once, so that on a card it is the work's and not the wait's. */
rlf_status rlf_bench_kernels_run(const rlf_bench_kernels *bench, json_t **out) RLF_MUST_USE;

#endif
