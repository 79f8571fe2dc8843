/* Random weights (checkpoint.h). */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/model/checkpoint.h"

/* Four standard normals of one block: two Box-Muller pairs. */
static void four_normals(uint64_t seed, size_t tensor, uint64_t block, double out[4]) {
    uint32_t w[4];
    rlf_rng_block(seed, RLF_RNG_INIT, tensor, (uint32_t)(block >> 32), (uint32_t)block, w);
    for (int i = 0; i < 4; i += 2) {
        double radius = sqrt(-2.0 * log(((double)w[i] + 0.5) * 0x1p-32)), angle = 6.283185307179586 * ((double)w[i + 1] * 0x1p-32);
        out[i] = radius * cos(angle);
        out[i + 1] = radius * sin(angle);
    }
}

static void fill_normal(uint64_t seed, double std, size_t tensor, size_t n, float *out) {
    double z[4];
    for (size_t i = 0; i < n; i++) {
        if (i % 4 == 0) four_normals(seed, tensor, i / 4, z);
        out[i] = (float)(std * z[i % 4]);
    }
}

static bool is_bias(rlf_tensor_role role) { return role == RLF_T_Q_BIAS || role == RLF_T_K_BIAS || role == RLF_T_V_BIAS; }

void rlf_checkpoint_random(const rlf_model_layout *layout, uint64_t seed, double std, float *weights) {
    memset(weights, 0, layout->total * sizeof *weights);
    for (size_t i = 0; i < layout->n_tensors; i++) {
        const rlf_tensor_info *t = &layout->tensors[i];
        size_t n = (size_t)t->rows * (size_t)t->cols;
        float *at = weights + t->offset;
        if (!t->vector) fill_normal(seed, std, i, n, at);
        else if (!is_bias(t->role))
            for (size_t j = 0; j < n; j++) at[j] = 1.0f;
    }
}
