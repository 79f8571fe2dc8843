/* Counter-based random numbers: Philox-4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11).
 *
 * No state: the same (seed, stream, counter) always gives the same draw, on any rank, in any order, and on a device. What a draw is
 * for is its `purpose`, so that two uses never share a stream. Sampling of token `position` of sample `sample` of episode group `uid`:
 *     rlf_rng_uniform(seed, RLF_RNG_SAMPLE, uid, sample, position)                                            */
#ifndef RLF_COMMON_BASE_RNG_H
#define RLF_COMMON_BASE_RNG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum rlf_rng_purpose {
    RLF_RNG_SAMPLE = 1,  /* a token: (uid, sample, position) */
    RLF_RNG_INIT = 2,    /* an initial weight: (tensor index, 0, element) */
    RLF_RNG_SHUFFLE = 3, /* order of the data: (epoch, 0, row) */
    RLF_RNG_LATENCY = 4, /* injected tool latency: (uid, sample, call) */
    RLF_RNG_TEST = 5,    /* tests, benchmarks, data generators */
    RLF_RNG_TOOL = 6     /* seed of an episode's state in a tool: (uid, sample, 0) */
} rlf_rng_purpose;

/* Four 32-bit words of the block. key = (seed mixed with purpose), counter = (a, b, c) as documented in philox.h. */
void rlf_rng_block(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c, uint32_t out[4]);

/* In [0, 1), multiples of 2^-24, exact in float. */
float rlf_rng_uniform(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c);
/* Standard normal (Box-Muller on one block, computed in double). */
double rlf_rng_normal(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c);
/* In [0, n), n > 0; bias below 2^-32. */
uint64_t rlf_rng_below(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c, uint64_t n);

#ifdef __cplusplus
}
#endif
#endif
