/* philox: the generator behind rng.h, for kernels too. Layout: key = seed low, seed high; counter = (a low, a high, b, c) with the purpose
 * folded into the key by a Weyl step, so that purposes are separate keys, not separate counters.
 *
 * C17 and CUDA C++ include this header. */
#ifndef RLF_COMMON_BASE_PHILOX_H
#define RLF_COMMON_BASE_PHILOX_H

#include "common/base/rng.h"

#ifdef __CUDACC__
#define RLF_PHILOX static __host__ __device__ __forceinline__
#else
#define RLF_PHILOX static inline
#endif

RLF_PHILOX void rlf_philox_round(uint32_t c[4], const uint32_t k[2]) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
    c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k[0];
    c[1] = (uint32_t)p1;
    c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k[1];
    c[3] = (uint32_t)p0;
}

/* The bare generator, as in the paper: c is the counter, and then the block. */
RLF_PHILOX void rlf_philox_4x32_10(uint32_t c[4], const uint32_t key[2]) {
    uint32_t k[2] = {key[0], key[1]};
    for (int round = 0; round < 10; round++) {
        rlf_philox_round(c, k);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
}

/* rlf_rng_block and rlf_rng_uniform. */
RLF_PHILOX void rlf_philox_block(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c, uint32_t out[4]) {
    const uint64_t mixed = seed + (uint64_t)purpose * 0x9E3779B97F4A7C15ull;
    const uint32_t key[2] = {(uint32_t)mixed, (uint32_t)(mixed >> 32)};
    out[0] = (uint32_t)a;
    out[1] = (uint32_t)(a >> 32);
    out[2] = b;
    out[3] = c;
    rlf_philox_4x32_10(out, key);
}
RLF_PHILOX float rlf_philox_uniform(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c) {
    uint32_t w[4];
    rlf_philox_block(seed, purpose, a, b, c, w);
    return (float)(w[0] >> 8) * 5.9604644775390625e-8f; /* 2^-24 */
}

#endif
