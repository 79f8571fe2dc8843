/* rlf bench reduce: how long learners take to add up a model's gradients and to gather its weights again (kernels/comm).
 *
 *   mpirun -np 2 rlf bench reduce --shape qwen3-4b --dtype bfloat16 --reduce-dtype bfloat16 --device cuda
 *
 * Every rank is a learner; they have the machine's cards in turn, or all the CPU. Both operations begin when all ranks are ready, and
 * end on rank 0, whose clock it is: the best of several. On the CPU the same bytes then go by MPI alone, without a deadline, a sum or a
 * sleep (MPI_Isend, MPI_Irecv, MPI_Waitall): what the machine can do. */
#include <getopt.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "kernels/comm/comm.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

enum { WAIT_MS = 60000, MOST_RANKS = 1024 };

static const char USAGE[] =
    "mpirun -np N rlf bench reduce [--shape bench-42m] [--dtype float32|bfloat16] [--reduce-dtype float32|bfloat16]\n"
    "                              [--device auto|cpu|cuda] [--threads N] [--seconds 4] [--json]\n\n"
    "Times what learners exchange in one update: gradients are added, weights gathered.\n"
    "  --dtype         how weights are stored (float32)\n"
    "  --reduce-dtype  how gradients travel (float32): train.reduce_dtype\n"
    "  --seconds       how long it is repeated";

/* Seconds of the fastest repetition. */
typedef struct times {
    double reduce, gather, both, mpi; /* mpi: of both by MPI alone; INFINITY: not measured */
} times;

typedef struct bench {
    const char *shape_name, *device_name;
    rlf_dtype dtype, reduce_dtype;
    double seconds, threads; /* threads 0: one per core */
    bool json;
    rlf_transport *transport;
    kern_device *device;
    kern_queue *queue;
    kern_comm *comm;
    rlf_model_layout layout;
    kern_buf *grads, *weights;
    char *sent, *received; /* (gradients) of MPI alone; NULL on cards */
    times best;
} bench;

static int rank_of(const bench *b) { return rlf_transport_rank(b->transport); }
static int ranks_of(const bench *b) { return rlf_transport_size(b->transport); }

/* What a rank sends to all others in one update. */
static double bytes_of(const bench *b) {
    size_t begin, end;
    rlf_shard(b->layout.total, ranks_of(b), rank_of(b), &begin, &end);
    double mine = (double)(end - begin), all = (double)b->layout.total, others = ranks_of(b) - 1;
    return (all - mine) * (double)rlf_dtype_size(b->reduce_dtype) + others * mine * (double)rlf_dtype_size(b->dtype);
}

static rlf_status set_up(bench *b) {
    rlf_status status = RLF_OK;
    const int cards = kern_cards();
    const kern_device_options options = {.name = b->device_name, .threads = (int)b->threads, .card = cards ? rank_of(b) % cards : 0};
    rlf_model_shape shape;
    if (ranks_of(b) < 2) RLF_FAIL(INVALID, "reduce: one rank has nobody to exchange with: mpirun -np 2 rlf bench reduce");
    if (ranks_of(b) > MOST_RANKS) RLF_FAIL(INVALID, "reduce: expected at most %d ranks, found %d", MOST_RANKS, ranks_of(b));
    RLF_TRY(rlf_model_shape_named(&shape, b->shape_name));
    rlf_model_layout_init(&b->layout, &shape);
    size_t n = b->layout.total;
    RLF_TRY(rlf_cli_device_open(&b->device, &options));
    RLF_TRY(kern_queue_new(&b->queue, b->device));
    RLF_TRY(kern_comm_new(&b->comm, b->queue, b->transport, KERN_WINDOW_BYTES, WAIT_MS));
    RLF_TRY(kern_comm_join(b->comm, 0, ranks_of(b)));
    RLF_TRY(kern_buf_new(&b->grads, b->device, n * sizeof(float)));
    RLF_TRY(kern_buf_new(&b->weights, b->device, n * rlf_dtype_size(b->dtype)));
    RLF_TRY(rlf_bench_fill(b->queue, kern_view(b->weights, kern_dtype_of(b->dtype)), n, -0.035f, 0.035f, 1));
    if (kern_device_is_card(b->device) || n / (size_t)ranks_of(b) + 16 > INT32_MAX) goto out; /* MPI counts in int */
    b->sent = rlf_calloc(n, sizeof(float));
    b->received = rlf_calloc(n + 16 * (size_t)ranks_of(b), sizeof(float)); /* parts are not all as long */
out:
    return status;
}

/* Sum over ranks, which are then all here. */
static rlf_status agree(bench *b, double *x) { return rlf_all_reduce(b->transport, 0, ranks_of(b), x, 1, WAIT_MS); }

static rlf_status update(bench *b) {
    rlf_status status = RLF_OK;
    double all_here = 0;
    size_t n = b->layout.total;
    RLF_TRY(rlf_bench_fill(b->queue, kern_view(b->grads, KERN_F32), n, -1e-3f, 1e-3f, 2));
    RLF_TRY(kern_sync(b->queue));
    RLF_TRY(agree(b, &all_here));
    double start = rlf_now_s();
    RLF_TRY(kern_comm_reduce_scatter(b->comm, kern_view(b->grads, KERN_F32), n, kern_dtype_of(b->reduce_dtype)));
    double reduced = rlf_now_s();
    RLF_TRY(kern_comm_all_gather(b->comm, kern_view(b->weights, kern_dtype_of(b->dtype)), n));
    double gathered = rlf_now_s();
    if (gathered - start < b->best.both)
        b->best = (times){.reduce = reduced - start, .gather = gathered - reduced, .both = gathered - start, .mpi = b->best.mpi};
out:
    return status;
}

static MPI_Datatype mpi_of(rlf_dtype dtype) { return dtype == RLF_DTYPE_BF16 ? MPI_UINT16_T : MPI_FLOAT; }

/* What a reduce-scatter sends (each rank its part, of which every rank has one) or an all-gather (the own part to all), by MPI alone. */
static void by_mpi(const bench *b, bool gather, rlf_dtype dtype) {
    MPI_Request requests[2 * MOST_RANKS];
    size_t size = rlf_dtype_size(dtype), begin, end, theirs, their_end;
    int n = 0;
    rlf_shard(b->layout.total, ranks_of(b), rank_of(b), &begin, &end);
    for (int i = 0; i < ranks_of(b); i++) {
        if (i == rank_of(b)) continue;
        rlf_shard(b->layout.total, ranks_of(b), i, &theirs, &their_end);
        char *in = b->received + (gather ? theirs : (size_t)i * (end - begin)) * size, *out = b->sent + (gather ? begin : theirs) * size;
        int mine = (int)(end - begin), other = (int)(their_end - theirs);
        MPI_Irecv(in, gather ? other : mine, mpi_of(dtype), i, 0, MPI_COMM_WORLD, &requests[n++]);
        MPI_Isend(out, gather ? mine : other, mpi_of(dtype), i, 0, MPI_COMM_WORLD, &requests[n++]);
    }
    MPI_Waitall(n, requests, MPI_STATUSES_IGNORE);
}

static rlf_status yardstick(bench *b) {
    rlf_status status = RLF_OK;
    double all_here = 0;
    if (!b->sent) return RLF_OK;
    RLF_TRY(agree(b, &all_here));
    double start = rlf_now_s();
    by_mpi(b, false, b->reduce_dtype);
    by_mpi(b, true, b->dtype);
    double took = rlf_now_s() - start;
    if (took < b->best.mpi) b->best.mpi = took;
out:
    return status;
}

static rlf_status measure(bench *b) {
    rlf_status status = RLF_OK;
    double end = rlf_now_s() + b->seconds, more = 1;
    b->best = (times){INFINITY, INFINITY, INFINITY, INFINITY};
    while (more > 0) {
        RLF_TRY(update(b));
        RLF_TRY(yardstick(b));
        more = rank_of(b) == 0 && rlf_now_s() < end; /* rank 0's clock is everybody's */
        RLF_TRY(agree(b, &more));
    }
out:
    return status;
}

static void report(const bench *b) {
    const times *t = &b->best;
    double bytes = bytes_of(b);
    if (!b->json) {
        printf("%s, gradients as %s and weights as %s among %d learners, on %s\n"
               "%.1f MB sent by each in %.2f ms, %.2f GB/s: gradients added in %.2f ms, weights gathered in %.2f ms\n",
               b->shape_name, rlf_dtype_torch_name(b->reduce_dtype), rlf_dtype_torch_name(b->dtype), ranks_of(b),
               kern_device_name(b->device), bytes * 1e-6, t->both * 1e3, bytes / t->both * 1e-9, t->reduce * 1e3, t->gather * 1e3);
        if (b->sent) printf("the same bytes by MPI alone, which adds nothing: %.2f ms\n", t->mpi * 1e3);
        return;
    }
    json_t *report = json_pack("{s:s, s:s, s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f}", "shape", b->shape_name, "dtype",
                               rlf_dtype_torch_name(b->dtype), "reduce_dtype", rlf_dtype_torch_name(b->reduce_dtype), "device",
                               kern_device_name(b->device), "learners", ranks_of(b), "bytes", bytes, "seconds", t->both,
                               "reduce_seconds", t->reduce, "gather_seconds", t->gather, "bytes_per_s", bytes / t->both);
    if (b->sent) json_object_set_new(report, "mpi_seconds", json_real(t->mpi));
    rlf_bench_dump(report);
    json_decref(report);
}

static void tear_down(void *ctx) {
    bench *b = ctx;
    free(b->received);
    free(b->sent);
    kern_buf_destroy(b->weights);
    kern_buf_destroy(b->grads);
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
out:
    return status;
}

static bool parse(bench *b, int argc, char **argv, bool *help) {
    static const struct option known[] = {{"shape", required_argument, NULL, 's'},
                                          {"dtype", required_argument, NULL, 'd'},
                                          {"reduce-dtype", required_argument, NULL, 'r'},
                                          {"device", required_argument, NULL, 'D'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"seconds", required_argument, NULL, 'S'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        if (c == 's') b->shape_name = optarg;
        else if (c == 'd' && rlf_dtype_parse(optarg, &b->dtype)) continue;
        else if (c == 'r' && rlf_dtype_parse(optarg, &b->reduce_dtype)) continue;
        else if (c == 'D' && rlf_cli_device_parse(optarg, &b->device_name)) continue;
        else if (c == 't' && rlf_cli_number(optarg, 0, 256, &b->threads)) continue;
        else if (c == 'S' && rlf_cli_number(optarg, 0, 600, &b->seconds)) continue;
        else if (c == 'j') b->json = true;
        else if (c == 'h') *help = true;
        else return false;
    }
    return *help || optind == argc;
}

int rlf_bench_reduce(int argc, char **argv) {
    bench b = {.shape_name = "bench-42m", .device_name = "auto", .seconds = 4};
    bool help = false;
    if (!parse(&b, argc, argv, &help)) return rlf_cli_misuse("bench", "reduce: expected options within their ranges");
    if (help) return rlf_cli_help(USAGE);
    return rlf_bench_among_ranks(argc, argv, &b.transport, run, tear_down, &b);
}
