/* Philox-4x32-10. Layout: key = seed low, seed high; counter = (a low, a high, b, c) with the purpose folded into the key by a
 * Weyl step, so that purposes are separate keys, not separate counters. */
#include "common/base/rng.h"

#include <math.h>

static void philox_round(uint32_t c[4], const uint32_t k[2]) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c[0];
    uint64_t p1 = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t next[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ k[0], (uint32_t)p1, (uint32_t)(p0 >> 32) ^ c[3] ^ k[1], (uint32_t)p0};
    for (int i = 0; i < 4; i++) c[i] = next[i];
}

/* The bare generator, as in the paper. */
static void philox_4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t k[2] = {key[0], key[1]};
    for (int i = 0; i < 4; i++) out[i] = counter[i];
    for (int round = 0; round < 10; round++) {
        philox_round(out, k);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
}

void rlf_rng_block(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c, uint32_t out[4]) {
    uint64_t mixed = seed + (uint64_t)purpose * 0x9E3779B97F4A7C15ull;
    const uint32_t key[2] = {(uint32_t)mixed, (uint32_t)(mixed >> 32)};
    const uint32_t counter[4] = {(uint32_t)a, (uint32_t)(a >> 32), b, c};
    philox_4x32_10(counter, key, out);
}

float rlf_rng_uniform(uint64_t seed, rlf_rng_purpose purpose, uint64_t a, uint32_t b, uint32_t c) {
    uint32_t w[4];
    rlf_rng_block(seed, purpose, a, b, c, w);
    return (float)(w[0] >> 8) * 0x1p-24f;
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
