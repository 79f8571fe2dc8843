/* Random weights (checkpoint.h). */
#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/model/checkpoint.h"
#include "common/model/values.h"

typedef struct random_source {
    uint64_t seed;
    double std;
} random_source;

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

static bool is_bias(rlf_tensor_role role) { return role == RLF_T_Q_BIAS || role == RLF_T_K_BIAS || role == RLF_T_V_BIAS; }

/* Elements begin .. begin+n-1 of a tensor. */
static void fill_run(const random_source *from, const rlf_tensor_info *t, size_t tensor, size_t begin, size_t n, float *out) {
    double z[4];
    for (size_t i = 0; i < n; i++) {
        if (t->vector) {
            out[i] = is_bias(t->role) ? 0.0f : 1.0f;
            continue;
        }
        if (i == 0 || (begin + i) % 4 == 0) four_normals(from->seed, tensor, (begin + i) / 4, z);
        out[i] = (float)(from->std * z[(begin + i) % 4]);
    }
}

/* A thread's part of a range: elements begin .. begin+n-1 of the model, at `to`. */
typedef struct part {
    const rlf_model_layout *layout;
    random_source from;
    rlf_dtype dtype;
    size_t begin, n;
    char *to;
} part;

static void *fill_part(void *arg) {
    enum { AT_ONCE = 1024 };
    const part *p = arg;
    float values[AT_ONCE];
    size_t size = rlf_dtype_size(p->dtype), bad;
    rlf_model_run run;
    for (size_t at = p->begin, end = p->begin + p->n; at < end; at += run.n) {
        char *place = p->to + (at - p->begin) * size;
        run = rlf_model_run_at(p->layout, at, end - at < AT_ONCE ? end : at + AT_ONCE);
        if (!run.tensor) {
            memset(place, 0, run.n * size);
            continue;
        }
        fill_run(&p->from, run.tensor, (size_t)(run.tensor - p->layout->tensors), run.begin, run.n, values);
        bool finite = rlf_values_convert(place, p->dtype, values, RLF_DTYPE_F32, run.n, &bad);
        assert(finite);
        (void)finite;
    }
    return NULL;
}

/* The cores this process may use, up to `most`. */
static size_t cores(size_t most) {
    cpu_set_t set;
    size_t n = sched_getaffinity(0, sizeof set, &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;
    return n < most ? n : most;
}

void rlf_checkpoint_random_range(const rlf_model_layout *layout, uint64_t seed, double std, rlf_dtype dtype, size_t begin, size_t n,
                                 void *to) {
    enum { THREADS_MAX = 16, THREAD_ELEMENTS = 1 << 18 };
    const size_t most = 1 + n / THREAD_ELEMENTS, threads = most > 1 ? cores(most < THREADS_MAX ? most : THREADS_MAX) : 1;
    part parts[THREADS_MAX];
    pthread_t ids[THREADS_MAX];
    bool started[THREADS_MAX] = {false};
    for (size_t i = 0; i < threads; i++) {
        size_t at = n * i / threads;
        parts[i] = (part){layout, {seed, std}, dtype, begin + at, n * (i + 1) / threads - at, (char *)to + at * rlf_dtype_size(dtype)};
        started[i] = i > 0 && pthread_create(&ids[i], NULL, fill_part, &parts[i]) == 0;
    }
    for (size_t i = 0; i < threads; i++)
        if (!started[i]) fill_part(&parts[i]);
    for (size_t i = 0; i < threads; i++)
        if (started[i]) pthread_join(ids[i], NULL);
}

void rlf_checkpoint_random(const rlf_model_layout *layout, uint64_t seed, double std, rlf_dtype dtype, void *weights) {
    rlf_checkpoint_random_range(layout, seed, std, dtype, 0, layout->total, weights);
}
