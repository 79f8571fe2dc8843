/* The parts of `rlf bench`, and what those of them share that compute: a model of a named shape on one device, a clock, what the
 * device could do at best, and the form of a result. */
#ifndef RLF_TRAINER_CLI_BENCH_H
#define RLF_TRAINER_CLI_BENCH_H

#include <jansson.h>

#include "common/msg/transport.h"
#include "kernels/transformer/transformer.h"

/* Seconds of the clock, or of the processors this process had: what others took is then left out, and so is its own idling. */
double rlf_bench_clock(bool cpu_time);

typedef struct rlf_bench {
    kern_device *device;
    kern_queue *queue;
    rlf_model_layout layout;
    kern_precision precision;
    kern_model *model;
    double seconds;      /* how long a measurement is repeated */
    bool cpu_time, print; /* print: a line a result on standard output */
    int threads;
    double sgemm_flops;  /* of a large product in float32, a second */
    double matrix_flops; /* of one of the model's factors */
    double copy_bytes;   /* read and written by kern_copy beyond any cache, a second; 0: not measured */
} rlf_bench;

/* The best time of a step, which syncs; it is run `least` times and on until the bench's seconds are over. */
typedef rlf_status rlf_bench_step(void *ctx);
rlf_status rlf_bench_best(const rlf_bench *b, int least, rlf_bench_step *step, void *ctx, double *seconds) RLF_MUST_USE;
/* The best time of a call that only queues work. For `seconds`, batches of calls are queued together and waited for once, so that
 * on a card it is the work's time and not the wait's. */
typedef void rlf_bench_call(void *ctx);
rlf_status rlf_bench_queued(const rlf_bench *b, double seconds, rlf_bench_call *call, void *ctx, double *each) RLF_MUST_USE;

/* t (n): uniform in [low, high), from a piece that repeats; queued. */
rlf_status rlf_bench_fill(kern_queue *queue, kern_tensor t, size_t n, float low, float high, uint32_t stream) RLF_MUST_USE;

/* Operations: of a token at each of positions first..last-1, forward, without the head; of a row of the head. */
double rlf_bench_body_flops(const rlf_model_shape *shape, int first, int last);
double rlf_bench_head_flops(const rlf_model_shape *shape);

/* An object with tokens_per_s, seconds, gflops, share_of_sgemm, share_of_matrix and, where bytes are counted, bytes and
 * share_of_copy. */
json_t *rlf_bench_result(const rlf_bench *b, const char *label, double tokens, double seconds, double flops, double bytes);
/* Prints it on standard output. */
void rlf_bench_dump(const json_t *report);

/* ---- the parts: each measures with a model that has enough positions, and gives its result, NULL after an error ------------ */

/* Each operation of kernels/kern.h by itself: an array of objects with op, rows, seconds, bytes, flops, share_of_copy,
 * share_of_matrix. */
rlf_status rlf_bench_kernels(const rlf_bench *b, int sequences, int length, json_t **out) RLF_MUST_USE;
/* Of options, what is kept for the backward pass. */
rlf_status rlf_bench_train(const rlf_bench *b, int sequences, int length, int micro_tokens, kern_trainer_options options,
                           json_t **out) RLF_MUST_USE;
enum { RLF_BENCH_DRAWN = 128 }; /* tokens that decoding draws for each sequence */
rlf_status rlf_bench_decode(const rlf_bench *b, int sequences, int context, json_t **out) RLF_MUST_USE;
rlf_status rlf_bench_prefill(const rlf_bench *b, int length, json_t **out) RLF_MUST_USE;

/* The end of a command that is run among ranks: makes the transport, in *transport, runs the body, tears down. A rank that fails ends
 * the others, which would wait for it. Returns the exit status. */
int rlf_bench_among_ranks(int argc, char **argv, rlf_transport **transport, rlf_bench_step *body, void (*tear_down)(void *ctx),
                          void *ctx);

/* Commands of their own; argv[0] is the name. They return the exit status, as those of cli.h do. */
int rlf_bench_handover(int argc, char **argv);
int rlf_bench_reduce(int argc, char **argv);
int rlf_bench_rollout(int argc, char **argv);
int rlf_bench_tokenize(int argc, char **argv);

#endif
