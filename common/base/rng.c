/* Draws from the blocks of philox.h. */
#include "common/base/philox.h"

#include <math.h>

void rlf_rng_block(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c, uint32_t out[4]) {
    rlf_philox_block(seed, purpose, a, b, c, out);
}

float rlf_rng_uniform(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c) {
    return rlf_philox_uniform(seed, purpose, a, b, c);
}

double rlf_rng_normal(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c) {
    uint32_t w[4];
    rlf_rng_block(seed, purpose, a, b, c, w);
    double u = ((double)w[0] + 0.5) * 0x1p-32, v = (double)w[1] * 0x1p-32;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

uint64_t rlf_rng_below(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c, uint64_t n) {
    uint32_t w[4];
    rlf_rng_block(seed, purpose, a, b, c, w);
    uint64_t r = ((uint64_t)w[0] << 32) | w[1];
    return (uint64_t)(((unsigned __int128)r * n) >> 64);
}
