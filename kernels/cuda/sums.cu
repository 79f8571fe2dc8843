/* Sums to one number: sumsq and checksum.
 *
 * Each part of the array leaves its own sum in scratch; the parts come to the host, KERN_CUDA_PARTS at a time, which adds them in order
 * while the card does the next.
 *   sumsq      parts of 4096 elements, four threads each: thread q adds the squares of elements 4q..4q+3 of every sixteen in double, four
 *              lanes of the sixteen side by side, 16 bytes a load and AHEAD loads under way; then the tree
 *   checksum   parts of 256 KiB, a block each, 16 bytes a load; adding integers has no order. Some 30 integer operations a word of 8 bytes are less
 *              than its memory takes
 * Bytes: each element once, and 8 a part. */
#include "kernels/cuda/dialect.h"

enum { THREADS = 256, SUMSQ_PART = 4096, SUMSQ_LANES = 16, QUADS = THREADS / 4, AHEAD = 8, CHECKSUM_PART = 1 << 18, WORD = 8 };

KERN_DEVICE bool is_aligned(const void *x) { return ((uintptr_t)x & 15) == 0; }

typedef struct sumsq_parts_args {
    double *parts;
    const float *x;
    size_t n;
    int count; /* parts */
} sumsq_parts_args;

/* The next AHEAD fours of a thread; zeros after the n-th float. */
KERN_DEVICE void load_ahead(kern_float4 four[AHEAD], const float *x, size_t at, size_t n) {
    if (at + (AHEAD - 1) * SUMSQ_LANES + 4 <= n && is_aligned(x + at)) {
        KERN_UNROLL
        for (int s = 0; s < AHEAD; s++) four[s] = *(const kern_float4 *)(x + at + s * SUMSQ_LANES);
        return;
    }
    KERN_UNROLL
    for (int s = 0; s < AHEAD; s++)
        KERN_UNROLL
        for (int c = 0; c < 4; c++) four[s].v[c] = at + (size_t)(s * SUMSQ_LANES + c) < n ? x[at + (size_t)(s * SUMSQ_LANES + c)] : 0.0f;
}

KERN_KERNEL(sumsq_parts) {
    const int q = kern_thread() % 4, part = kern_block() * QUADS + kern_thread() / 4;
    const size_t begin = (size_t)part * SUMSQ_PART;
    double sum[4] = {0, 0, 0, 0};
    for (int i = 0; i < SUMSQ_PART && begin + (size_t)i < a.n; i += AHEAD * SUMSQ_LANES) {
        kern_float4 x[AHEAD];
        load_ahead(x, a.x, begin + (size_t)(i + 4 * q), a.n);
        KERN_UNROLL
        for (int s = 0; s < AHEAD; s++)
            KERN_UNROLL
            for (int c = 0; c < 4; c++) sum[c] += (double)x[s].v[c] * (double)x[s].v[c];
    }
    KERN_UNROLL
    for (int c = 0; c < 4; c++) { /* the tree: lane 4q + c with those 8 and 4 further, */
        sum[c] += kern_shuffle_xor_f64(sum[c], 2);
        sum[c] += kern_shuffle_xor_f64(sum[c], 1);
    }
    if (part < a.count && q == 0) a.parts[part] = (sum[0] + sum[2]) + (sum[1] + sum[3]); /* then 2 and 1 */
}

static void queue_sumsq(kern_ctx *ctx, const float *x, size_t n, int begin, int count) {
    const size_t first = (size_t)begin * SUMSQ_PART, rest = n - first < (size_t)count * SUMSQ_PART ? n - first : (size_t)count * SUMSQ_PART;
    const sumsq_parts_args args = {(double *)ctx->scratch + begin, x + first, rest, count};
    KERN_LAUNCH(ctx, sumsq_parts, kern_blocks_for((size_t)count, QUADS), THREADS, args);
}

/* As many parts as come to the host next, from `begin` on. */
static int next_parts(int begin, int parts) { return parts - begin < KERN_CUDA_PARTS ? parts - begin : KERN_CUDA_PARTS; }

double kern_cuda_sumsq(kern_ctx *ctx, const float *x, size_t n) {
    double sum = 0, *host = (double *)ctx->parts;
    const int parts = kern_blocks_for(n, SUMSQ_PART);
    assert((size_t)parts * sizeof *host <= ctx->scratch_floats * sizeof(float));
    queue_sumsq(ctx, x, n, 0, next_parts(0, parts));
    for (int begin = 0; begin < parts; begin += KERN_CUDA_PARTS) {
        const int count = next_parts(begin, parts);
        kern_card_download(ctx->card, host, (double *)ctx->scratch + begin, (size_t)count * sizeof *host);
        if (begin + count < parts) queue_sumsq(ctx, x, n, begin + count, next_parts(begin + count, parts));
        for (int i = 0; i < count; i++) sum += host[i];
    }
    return sum;
}

typedef struct checksum_parts_args {
    uint64_t *parts;
    const char *x;
    size_t bytes, begin; /* begin: of the first part */
} checksum_parts_args;

/* Word i, of which `bytes` bytes are there. */
KERN_DEVICE uint64_t mix_bytes(const char *x, int bytes, size_t i) {
    uint64_t word = 0;
    for (int b = 0; b < bytes && b < WORD; b++) word |= (uint64_t)(unsigned char)x[b] << (8 * b);
    return kern_mix64(word, i);
}

/* The two words of a load, the first being word i. */
KERN_DEVICE uint64_t mix_two(const kern_float4 *four, size_t i) {
    uint64_t word[2];
    memcpy(word, four, sizeof word);
    return kern_mix64(word[0], i) + kern_mix64(word[1], i + 1);
}

/* A whole part that is aligned, from word `first` on: AHEAD loads under way. */
KERN_DEVICE uint64_t mix_part(const kern_float4 *x, size_t first) {
    uint64_t sum = 0;
    for (int i = kern_thread(); i < CHECKSUM_PART / 16; i += THREADS * AHEAD) {
        kern_float4 four[AHEAD];
        KERN_UNROLL
        for (int s = 0; s < AHEAD; s++) four[s] = x[i + THREADS * s];
        KERN_UNROLL
        for (int s = 0; s < AHEAD; s++) sum += mix_two(&four[s], first + (size_t)(2 * (i + THREADS * s)));
    }
    return sum;
}

KERN_KERNEL(checksum_parts) {
    KERN_SHARED(uint64_t, total);
    const size_t begin = a.begin + (size_t)kern_block() * CHECKSUM_PART;
    const int bytes = a.bytes - begin < CHECKSUM_PART ? (int)(a.bytes - begin) : CHECKSUM_PART;
    const char *x = a.x + begin;
    uint64_t sum = 0;
    if (kern_thread() == 0) *total = 0;
    kern_barrier();
    if (bytes == CHECKSUM_PART && is_aligned(x)) sum = mix_part((const kern_float4 *)x, begin / WORD);
    else
        for (int i = WORD * kern_thread(); i < bytes; i += WORD * THREADS) sum += mix_bytes(x + i, bytes - i, (begin + (size_t)i) / WORD);
    for (int half = 16; half; half /= 2) sum += kern_shuffle_xor_u64(sum, half);
    if (kern_thread() % 32 == 0) kern_add_u64(total, sum);
    kern_barrier();
    if (kern_thread() == 0) a.parts[kern_block()] = *total;
}

uint64_t kern_cuda_checksum(kern_ctx *ctx, const void *x, size_t bytes) {
    const size_t stride = (size_t)KERN_CUDA_PARTS * CHECKSUM_PART;
    uint64_t sum = 0, *parts = (uint64_t *)ctx->parts;
    for (size_t begin = 0; begin < bytes; begin += stride) {
        const int count = kern_blocks_for(bytes - begin < stride ? bytes - begin : stride, CHECKSUM_PART);
        const checksum_parts_args args = {(uint64_t *)ctx->scratch, (const char *)x, bytes, begin};
        KERN_LAUNCH(ctx, checksum_parts, count, THREADS, args);
        kern_card_download(ctx->card, parts, ctx->scratch, (size_t)count * sizeof *parts);
        for (int i = 0; i < count; i++) sum += parts[i];
    }
    return sum;
}
