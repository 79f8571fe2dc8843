/* Every device a test compares: each instruction set this machine has, with 1 to 4 threads, or every card (device.h); and tensors with
 * known contents on them. */
#ifndef RLF_TESTS_UNIT_KERNELS_DEVICES_H
#define RLF_TESTS_UNIT_KERNELS_DEVICES_H

#include "tests/test.h"

#include "common/base/rng.h"
#include "tests/unit/kernels/device.h"

enum { MAX_DEVICES = 16, MAX_THREADS = 4 };

static kern_queue *queues[MAX_DEVICES];
static int device_count;

/* Group setup and teardown. */
static int open_devices(void **state) {
    static const char *const isas[] = {"portable", "avx2", "avx512", "avx512bf16"};
    (void)state;
    for (int isa = 0; isa < 4; isa++)
        for (int threads = 1; threads <= MAX_THREADS; threads++) {
            kern_device *device;
            rlf_status status = device_open(&device, isas[isa], threads);
            if (status == RLF_UNSUPPORTED) continue;
            if (status != RLF_OK || kern_queue_new(&queues[device_count], device) != RLF_OK) return -1;
            device_count++;
        }
    if (device_count > 1) return 0;
    kern_device *device;
    if (device_open(&device, NULL, 1) != RLF_OK) print_error("%s\n", rlf_error_message());
    return -1;
}

static int close_devices(void **state) {
    (void)state;
    for (int i = 0; i < device_count; i++) {
        kern_device *device = kern_queue_device(queues[i]);
        kern_queue_destroy(queues[i]);
        kern_device_close(device);
    }
    return 0;
}

/* A new tensor holding a copy of n values (zero if NULL); drop() frees it. */
static inline kern_tensor tensor_of(kern_queue *queue, kern_dtype dtype, const void *values, size_t n) {
    kern_buf *buf;
    assert_ok(kern_buf_new(&buf, kern_queue_device(queue), n * kern_dtype_size(dtype)));
    kern_tensor t = kern_view(buf, dtype);
    if (values) kern_upload(queue, t, values, n);
    return t;
}

static inline void drop(kern_tensor t) { kern_buf_destroy(t.buf); }

/* The tensor holds exactly these bits. */
static inline void assert_holds(kern_queue *queue, kern_tensor t, const float *expected, size_t n) {
    float *got = malloc((n ? n : 1) * sizeof *got);
    kern_download(queue, got, t, n);
    assert_ok(kern_sync(queue));
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &expected[i], sizeof(float)) != 0)
            fail_msg("%s: element %zu is %a, expected %a", kern_device_name(kern_queue_device(queue)), i, (double)got[i],
                     (double)expected[i]);
    free(got);
}

/* The same for weights, which may be stored either way; `values` are such that bfloat16 holds them exactly. */
static const kern_dtype WEIGHT_DTYPES[] = {KERN_F32, KERN_BF16};
static inline kern_tensor weights_of(kern_queue *queue, kern_dtype dtype, const float *values, size_t n) {
    if (dtype == KERN_F32) return tensor_of(queue, dtype, values, n);
    uint16_t *halves = malloc((n ? n : 1) * sizeof *halves);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        halves[i] = (uint16_t)(bits >> 16);
    }
    kern_tensor t = tensor_of(queue, dtype, halves, n);
    free(halves);
    return t;
}

/* Products of such factors have an order of their own there (kern.h). */
static inline bool on_tensor_cores(kern_queue *queue, kern_dtype factors) {
    return factors == KERN_BF16 && is_card(kern_queue_device(queue));
}

/* n floats in [-1, 1); free() them. Different streams differ. */
static inline float *random_floats(size_t n, uint32_t stream) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = 2.0f * rlf_rng_uniform(9, RLF_RNG_TEST, i, stream, 0) - 1.0f;
    return x;
}

/* The same, of values that bfloat16 holds exactly. */
static inline float *random_weights(size_t n, uint32_t stream) {
    float *x = random_floats(n, stream);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0xffff0000u;
        memcpy(&x[i], &bits, sizeof bits);
    }
    return x;
}

#endif
