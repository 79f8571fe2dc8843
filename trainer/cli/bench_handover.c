/* rlf bench handover: how long it takes until other ranks have a model's weights (kernels/comm, kern_handover).
 *
 *   mpirun -np 2 rlf bench handover --shape qwen3-4b --dtype bfloat16 --device cuda
 *
 * As in a job the last rank is the learner, which gives, and the ranks before it take; they have the machine's cards in turn, or
 * all the CPU. A hand-over begins when all ranks are ready, and ends when a taker has the checksum of what it got: rank 0's
 * clock, the best of several. A wait for a rank that is late sleeps up to a millisecond (common/msg/transport.h): times are
 * true to that. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "kernels/comm/comm.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

enum { WAIT_MS = 60000 };

static const char USAGE[] =
    "mpirun -np N rlf bench handover [--shape bench-42m] [--dtype float32|bfloat16] [--device auto|cpu|cuda] [--seconds 4] [--json]\n\n"
    "Times the way of weights from the last rank to the others, which take them and their checksum.\n"
    "  --seconds  how long it is repeated";

typedef struct bench {
    const char *shape_name, *device_name;
    rlf_dtype dtype;
    double seconds;
    bool json;
    rlf_transport *transport;
    kern_device *device;
    kern_queue *queue;
    kern_comm *comm;
    kern_handover *handover;
    rlf_model_layout layout;
    kern_buf *weights;
    double best, best_checksum; /* seconds, of the same hand-over */
} bench;

static int rank_of(const bench *b) { return rlf_transport_rank(b->transport); }
static bool gives(const bench *b) { return rank_of(b) == rlf_transport_size(b->transport) - 1; }
static kern_dtype stored(const bench *b) { return kern_dtype_of(b->dtype); }
static double bytes_of(const bench *b) { return (double)b->layout.total * (double)rlf_dtype_size(b->dtype); }

static rlf_status set_up(bench *b) {
    rlf_status status = RLF_OK;
    const int ranks = rlf_transport_size(b->transport), cards = kern_cards();
    const kern_device_options options = {.name = b->device_name, .card = cards ? rank_of(b) % cards : 0};
    rlf_model_shape shape;
    kern_buf *shared;
    if (ranks < 2) RLF_FAIL(INVALID, "handover: one rank has nobody to give weights to: mpirun -np 2 rlf bench handover");
    RLF_TRY(rlf_model_shape_named(&shape, b->shape_name));
    rlf_model_layout_init(&b->layout, &shape);
    RLF_TRY(rlf_cli_device_open(&b->device, &options));
    RLF_TRY(kern_queue_new(&b->queue, b->device));
    RLF_TRY(kern_comm_new(&b->comm, b->queue, b->transport, KERN_WINDOW_BYTES, WAIT_MS));
    if (gives(b)) {
        RLF_TRY(kern_buf_new(&b->weights, b->device, (size_t)bytes_of(b)));
        RLF_TRY(rlf_bench_fill(b->queue, kern_view(b->weights, stored(b)), b->layout.total, -0.035f, 0.035f, 1));
    }
    RLF_TRY(kern_handover_new(&b->handover, b->comm, 0, ranks - 1, 1, b->weights, b->layout.total, stored(b), &shared));
    if (shared) b->weights = shared;
    else if (!gives(b)) RLF_TRY(kern_buf_new(&b->weights, b->device, (size_t)bytes_of(b)));
out:
    return status;
}

/* Sum over ranks. */
static rlf_status agree(bench *b, double *x, size_t n) {
    return rlf_all_reduce(b->transport, 0, rlf_transport_size(b->transport), x, n, WAIT_MS);
}

/* A taker with other weights than the giver is an error. */
static rlf_status hand_over(bench *b) {
    rlf_status status = RLF_OK;
    const kern_tensor x = kern_view(b->weights, stored(b));
    double start = rlf_now_s();
    RLF_TRY(kern_handover_run(b->handover, x, "weights"));
    double taken = rlf_now_s();
    uint64_t sum = kern_checksum(b->queue, x, b->layout.total);
    double done = rlf_now_s();
    RLF_TRY(kern_sync(b->queue));
    if (done - start < b->best) {
        b->best = done - start;
        b->best_checksum = done - taken;
    }
    double given[2] = {gives(b) ? (double)(sum >> 32) : 0, gives(b) ? (double)(sum & 0xffffffff) : 0};
    RLF_TRY(agree(b, given, 2));
    if (given[0] != (double)(sum >> 32) || given[1] != (double)(sum & 0xffffffff))
        RLF_FAIL(INTERNAL, "rank %d has not the weights that it was given", rank_of(b));
out:
    return status;
}

static rlf_status measure(bench *b) {
    rlf_status status = RLF_OK;
    double end = rlf_now_s() + b->seconds, more = 1;
    b->best = INFINITY;
    while (more > 0) {
        RLF_TRY(hand_over(b));
        more = rank_of(b) == 0 && rlf_now_s() < end; /* rank 0's clock is everybody's */
        RLF_TRY(agree(b, &more, 1));
    }
out:
    return status;
}

static void report(const bench *b) {
    const char *way = kern_handover_way(b->handover);
    double bytes = bytes_of(b);
    if (!b->json) {
        printf("%s in %s from one rank to %d, %s, on %s\n%.1f MB in %.2f ms, %.2f GB/s; of that the checksum %.2f ms\n",
               b->shape_name, rlf_dtype_torch_name(b->dtype), rlf_transport_size(b->transport) - 1, way,
               kern_device_name(b->device), bytes * 1e-6, b->best * 1e3, bytes / b->best * 1e-9, b->best_checksum * 1e3);
        return;
    }
    json_t *report = json_pack("{s:s, s:s, s:s, s:i, s:s, s:f, s:f, s:f, s:f}", "shape", b->shape_name, "dtype",
                               rlf_dtype_torch_name(b->dtype), "device", kern_device_name(b->device), "takers",
                               rlf_transport_size(b->transport) - 1, "way", way, "bytes", bytes, "seconds", b->best,
                               "checksum_seconds", b->best_checksum, "bytes_per_s", bytes / b->best);
    rlf_bench_dump(report);
    json_decref(report);
}

/* Takers let go of what they share before its giver does. */
static rlf_status part(bench *b) {
    rlf_status status = RLF_OK;
    if (!gives(b)) {
        kern_buf_destroy(b->weights);
        b->weights = NULL;
    }
    RLF_TRY(kern_handover_part(b->handover));
out:
    return status;
}

static void tear_down(void *ctx) {
    bench *b = ctx;
    kern_handover_destroy(b->handover);
    kern_buf_destroy(b->weights);
    kern_comm_destroy(b->comm);
    kern_queue_destroy(b->queue);
    kern_device_close(b->device);
    rlf_model_layout_clean_up(&b->layout);
}

static rlf_status run(void *ctx) {
    rlf_status status = RLF_OK;
    bench *b = ctx;
    RLF_TRY(set_up(b));
    RLF_TRY(measure(b));
    if (rank_of(b) == 0) report(b);
    RLF_TRY(part(b));
out:
    return status;
}

static bool parse(bench *b, int argc, char **argv, bool *help) {
    static const struct option known[] = {{"shape", required_argument, NULL, 's'},
                                          {"dtype", required_argument, NULL, 'd'},
                                          {"device", required_argument, NULL, 'D'},
                                          {"seconds", required_argument, NULL, 'S'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        if (c == 's') b->shape_name = optarg;
        else if (c == 'd' && rlf_dtype_parse(optarg, &b->dtype)) continue;
        else if (c == 'D' && rlf_cli_device_parse(optarg, &b->device_name)) continue;
        else if (c == 'S' && rlf_cli_number(optarg, 0, 600, &b->seconds)) continue;
        else if (c == 'j') b->json = true;
        else if (c == 'h') *help = true;
        else return false;
    }
    return *help || optind == argc;
}

int rlf_bench_handover(int argc, char **argv) {
    bench b = {.shape_name = "bench-42m", .device_name = "auto", .seconds = 4};
    bool help = false;
    if (!parse(&b, argc, argv, &help)) return rlf_cli_misuse("bench", "handover: expected options within their ranges");
    if (help) return rlf_cli_help(USAGE);
    return rlf_bench_among_ranks(argc, argv, &b.transport, run, tear_down, &b);
}
