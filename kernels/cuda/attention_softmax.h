/* attention_softmax: the arithmetic that all kernels of attention on tensor cores have in common, on fragments of scores in registers
 * (mma.h): the order of attention_tiles.cu and attention_tiles_grad.cu. */
#ifndef RLF_KERNELS_CUDA_ATTENTION_SOFTMAX_H
#define RLF_KERNELS_CUDA_ATTENTION_SOFTMAX_H

#include "kernels/cuda/attention_tiles.h"

enum { SPLIT = 1024 }; /* keys; a multiple of KEYS */

/* One instruction; which zero of two does not show. */
KERN_DEVICE float larger(float a, float b) { return fmaxf(a, b); }

/* The running softmax of rows g and g+8. */
typedef struct running {
    float values[TILE_DIM / 8][4]; /* C, of which `tiles` are in use */
    float sum[4];                  /* C, all columns the same */
    float top[2];                  /* of rows g, g+8 */
} running;

/* Scores of keys from key0 on that are beyond their row become x. */
KERN_DEVICE void hide(float s[][4], int tiles, int key0, const int pos[2], float x) {
    KERN_UNROLL for (int n = 0; n < tiles; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++)
            if (key0 + 8 * n + lane_column() + i % 2 > pos[i / 2]) s[n][i] = x;
}
/* The same by a branch, where it is mostly none. */
KERN_DEVICE void beyond(float s[][4], int tiles, int key0, const int pos[2], float x) {
    if (key0 + 8 * tiles - 1 > pos[0] || key0 + 8 * tiles - 1 > pos[1]) hide(s, tiles, key0, pos, x);
}

/* The largest of each row, to the four lanes that have it. */
KERN_DEVICE void row_tops(float top[2], float s[][4], int tiles) {
    KERN_UNROLL for (int half = 0; half < 2; half++) {
        float x = s[0][2 * half];
        KERN_UNROLL for (int n = 0; n < tiles; n++)
            x = larger(larger(s[n][2 * half], s[n][2 * half + 1]), x);
        x = larger(kern_shuffle_xor(x, 1), x);
        top[half] = larger(kern_shuffle_xor(x, 2), x);
    }
}

/* Scores to probabilities under the tops, but for those that are beyond. */
KERN_DEVICE void powers(float s[][4], int tiles, const float top[2], float scale) {
    const float low[2] = {top[0] * scale, top[1] * scale};
    KERN_UNROLL for (int n = 0; n < tiles; n++)
        KERN_UNROLL for (int i = 0; i < 4; i++) s[n][i] = kern_exp2(fmaf(s[n][i], scale, -low[i / 2]));
}

/* ---- results of splits ------------------------------------------------------------------------------------------------------------ */

/* How a result under one top and one under another add up: x = before shrink_before + after shrink_after, for sums and values alike. */
typedef struct joint {
    float top, before, after;
} joint;

KERN_DEVICE joint join(float top_before, float top_after, float scale) {
    joint j;
    j.top = larger(top_after, top_before);
    j.before = kern_exp2((top_before - j.top) * scale);
    j.after = kern_exp2((top_after - j.top) * scale);
    return j;
}
KERN_DEVICE float joined(joint j, float before, float after) { return fmaf(before, j.before, after * j.after); }

KERN_DEVICE float lse_of(float top, float sum, int d) { return top * (1.0f / sqrtf((float)d)) + vf_log1(sum); }

/* ---- the gradient ----------------------------------------------------------------------------------------------------------------- */

/* s to p, dp to ds, of one row and key; `seen`: the row sees the key. */
KERN_DEVICE void pair_of(float *s, float *dp, float_pair stat, bool seen, int d) {
    *s = seen ? kern_exp2(fmaf(*s, log2_scale(d), -stat.x)) : 0.0f;
    *dp = *s * (*dp - stat.y) * (1.0f / sqrtf((float)d));
}

#endif
