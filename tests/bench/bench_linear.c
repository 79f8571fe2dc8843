/* Rates of the matrix products: bench_linear [isa].
 *
 * Prints GFLOP/s (2 per multiply-add, best of the rounds that fit into a fixed time) for a large square product, the shapes of training and
 * the shapes of decoding, with one and two threads, weights stored as float32 and as bfloat16 (forward only: gradients widen them). Decoding goes round a set of weights larger than the caches, as a model does; its last
 * column is the rate at which weights are read. */
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "kernels/kern.h"

enum { ROUND_MS = 300, WEIGHT_FLOATS = 48 << 20 };

typedef enum direction { FORWARD, GRAD_INPUT, GRAD_WEIGHT } direction;
static const char *const direction_names[] = {"forward", "grad_input", "grad_weight"};

typedef struct operands {
    kern_queue *queue;
    kern_tensor x, w, y;
} operands;

static void die(const char *what) {
    fprintf(stderr, "bench_linear: %s: %s\n", what, rlf_error_message());
    exit(1);
}

static kern_tensor random_tensor(kern_queue *queue, size_t n) {
    kern_buf *buf;
    if (kern_buf_new(&buf, kern_queue_device(queue), n * sizeof(float)) != RLF_OK) die("buffer");
    kern_tensor t = kern_view(buf, KERN_F32);
    float *p = rlf_calloc(n, sizeof *p);
    for (size_t i = 0; i < n; i += 4) {
        uint32_t words[4];
        rlf_rng_block(1, RLF_RNG_TEST, i, 0, 0, words);
        for (size_t j = 0; j < 4 && i + j < n; j++) p[i + j] = (float)(words[j] >> 8) * 0x1p-24f - 0.5f;
    }
    kern_upload(queue, t, p, n);
    free(p);
    return t;
}

static void run_once(const operands *o, direction dir, kern_tensor w, int m, int n, int k) {
    if (dir == FORWARD) kern_linear(o->queue, o->y, o->x, w, kern_none(), w.dtype, m, n, k, false);
    if (dir == GRAD_INPUT) kern_linear_grad_input(o->queue, o->x, o->y, w, w.dtype, m, n, k, false);
    if (dir == GRAD_WEIGHT) kern_linear_grad_weight(o->queue, w, o->y, o->x, w.dtype, m, n, k);
}

/* One line. `cold`: successive calls take successive weights. */
static void measure(const operands *o, const char *label, direction dir, int m, int n, int k, bool cold) {
    size_t size = (size_t)n * (size_t)k, sets = cold ? WEIGHT_FLOATS / size : 1, set = 0;
    double best = 1e30, total = 0, end = rlf_now_s() + ROUND_MS * 1e-3;
    int calls = 0;
    while (rlf_now_s() < end) {
        double begin = rlf_now_s();
        run_once(o, dir, kern_at(o->w, size * (set++ % sets)), m, n, k);
        double spent = rlf_now_s() - begin;
        if (calls++) total += spent; /* the first one warms up */
        if (spent < best) best = spent;
    }
    double flops = 2.0 * m * n * k, mean = calls > 1 ? total / (calls - 1) : best;
    printf("  %-12s %-12s m %5d n %5d k %5d  best %7.1f  mean %7.1f GFLOP/s", label, direction_names[dir], m, n, k, flops / best * 1e-9,
           flops / mean * 1e-9);
    if (cold) printf("  weights %5.1f GB/s", (double)(size * kern_dtype_size(o->w.dtype)) / mean * 1e-9);
    printf("\n");
    fflush(stdout);
}

/* Forward products, and gradients where the weights are float32. */
static void measure_all(const operands *o) {
    const int directions = o->w.dtype == KERN_F32 ? GRAD_WEIGHT : FORWARD;
    static const struct shape { const char *label; int n, k; } shapes[] = {
        {"qkv", 1024, 512}, {"attn out", 512, 512}, {"gate up", 3072, 512}, {"down", 512, 1536}, {"head", 32000, 512}};
    const size_t count = sizeof shapes / sizeof *shapes;
    static const int decode_rows[] = {1, 4, 16, 32};
    measure(o, "square", FORWARD, 2048, 2048, 2048, false);
    for (size_t i = 0; i < count; i++)
        for (int dir = FORWARD; dir <= directions; dir++)
            measure(o, shapes[i].label, (direction)dir, i + 1 < count ? 2048 : 256, shapes[i].n, shapes[i].k, false);
    for (size_t r = 0; r < sizeof decode_rows / sizeof *decode_rows; r++)
        for (size_t i = 0; i < count; i++) measure(o, shapes[i].label, FORWARD, decode_rows[r], shapes[i].n, shapes[i].k, true);
}

int main(int argc, char **argv) {
    for (int threads = 1; threads <= 2; threads++) {
        kern_device *device;
        operands o;
        kern_device_options options = {.name = "cpu", .threads = threads, .isa = argc > 1 ? argv[1] : NULL};
        if (kern_device_open(&device, &options) != RLF_OK) die("device");
        if (kern_queue_new(&o.queue, device) != RLF_OK) die("queue");
        o.x = random_tensor(o.queue, 2048 * 2048);
        o.y = random_tensor(o.queue, 256 * 32000);
        o.w = random_tensor(o.queue, WEIGHT_FLOATS);
        printf("%s\n", kern_device_name(device));
        measure_all(&o);
        kern_buf *half;
        if (kern_buf_new(&half, device, WEIGHT_FLOATS * kern_dtype_size(KERN_BF16)) != RLF_OK) die("buffer");
        kern_convert(o.queue, kern_view(half, KERN_BF16), o.w, WEIGHT_FLOATS);
        printf("%s, weights of bfloat16\n", kern_device_name(device));
        measure_all(&(operands){.queue = o.queue, .x = o.x, .w = kern_view(half, KERN_BF16), .y = o.y});
        kern_buf_destroy(half);
        kern_buf_destroy(o.x.buf);
        kern_buf_destroy(o.y.buf);
        kern_buf_destroy(o.w.buf);
        kern_queue_destroy(o.queue);
        kern_device_close(device);
    }
    return 0;
}
