/* Sums to one number: sumsq and checksum.
 *
 * Each part of the array leaves its own sum in scratch; the parts come to the host, which adds them in order, 64 Ki parts at a time.
 *   sumsq      parts of 4096 elements, half a warp each: lane l adds the squares of elements l, l+16, ... in double, then the tree
 *   checksum   parts of 64 Ki elements, a block each; adding integers has no order
 * Bytes: each element once, and 8 a part. */
#include "kernels/cuda/dialect.h"

enum { THREADS = 256, TEAMS = THREADS / KERN_LANES, SUMSQ_PART = 4096, CHECKSUM_PART = 1 << 16 };

typedef struct sumsq_parts_args {
    double *parts;
    const float *x;
    size_t n;
    int count; /* parts */
} sumsq_parts_args;

KERN_KERNEL(sumsq_parts) {
    const int part = kern_block() * TEAMS + kern_team();
    const size_t begin = (size_t)part * SUMSQ_PART, end = begin + SUMSQ_PART < a.n ? begin + SUMSQ_PART : a.n;
    double sum = 0;
    KERN_UNROLL_BY(8)
    for (size_t i = begin + (size_t)kern_lane(); i < end; i += KERN_LANES) sum += (double)a.x[i] * (double)a.x[i];
    sum = kern_sum16_f64(sum);
    if (part < a.count && kern_lane() == 0) a.parts[part] = sum;
}

double kern_cuda_sumsq(kern_ctx *ctx, const float *x, size_t n) {
    const size_t stride = (size_t)KERN_CUDA_PARTS * SUMSQ_PART;
    double sum = 0, *parts = (double *)ctx->parts;
    for (size_t begin = 0; begin < n; begin += stride) {
        const size_t rest = n - begin < stride ? n - begin : stride;
        const sumsq_parts_args args = {(double *)ctx->scratch, x + begin, rest, kern_blocks_for(rest, SUMSQ_PART)};
        KERN_LAUNCH(ctx, sumsq_parts, kern_blocks_for((size_t)args.count, TEAMS), THREADS, args);
        kern_card_download(ctx->card, parts, ctx->scratch, (size_t)args.count * sizeof *parts);
        for (int i = 0; i < args.count; i++) sum += parts[i];
    }
    return sum;
}

typedef struct checksum_parts_args {
    uint64_t *parts;
    const void *x;
    size_t size, n, begin; /* size: bytes of an element; begin: of the first part */
} checksum_parts_args;

KERN_DEVICE uint64_t bits_of(const void *x, size_t size, size_t i) {
    return size == 4 ? ((const uint32_t *)x)[i] : size == 2 ? ((const uint16_t *)x)[i] : ((const uint8_t *)x)[i];
}

KERN_DEVICE uint64_t mixed(const void *x, const size_t size, size_t begin, size_t end) {
    uint64_t sum = 0;
    KERN_UNROLL_BY(8)
    for (size_t i = begin + (size_t)kern_thread(); i < end; i += THREADS) sum += kern_mix64(bits_of(x, size, i), i);
    return sum;
}

KERN_KERNEL(checksum_parts) {
    KERN_SHARED(uint64_t, total);
    const size_t begin = a.begin + (size_t)kern_block() * CHECKSUM_PART, end = begin + CHECKSUM_PART < a.n ? begin + CHECKSUM_PART : a.n;
    uint64_t sum;
    if (kern_thread() == 0) *total = 0;
    kern_barrier();
    if (a.size == 4)
        sum = mixed(a.x, 4, begin, end);
    else if (a.size == 2)
        sum = mixed(a.x, 2, begin, end);
    else
        sum = mixed(a.x, 1, begin, end);
    for (int half = 16; half; half /= 2) sum += kern_shuffle_xor_u64(sum, half);
    if (kern_thread() % 32 == 0) kern_add_u64(total, sum);
    kern_barrier();
    if (kern_thread() == 0) a.parts[kern_block()] = *total;
}

uint64_t kern_cuda_checksum(kern_ctx *ctx, const void *x, kern_dtype dtype, size_t n) {
    const size_t stride = (size_t)KERN_CUDA_PARTS * CHECKSUM_PART;
    uint64_t sum = 0, *parts = (uint64_t *)ctx->parts;
    for (size_t begin = 0; begin < n; begin += stride) {
        const int count = kern_blocks_for(n - begin < stride ? n - begin : stride, CHECKSUM_PART);
        const checksum_parts_args args = {(uint64_t *)ctx->scratch, x, kern_dtype_size(dtype), n, begin};
        KERN_LAUNCH(ctx, checksum_parts, count, THREADS, args);
        kern_card_download(ctx->card, parts, ctx->scratch, (size_t)count * sizeof *parts);
        for (int i = 0; i < count; i++) sum += parts[i];
    }
    return sum;
}
