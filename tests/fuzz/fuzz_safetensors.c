/* A safetensors file: every tensor of an accepted one lies inside it, behind the one before, and is found by its name; its values load. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Into memory of just its size, whole and compared with itself, then its second half. */
static void load(const rlf_safetensors *file, const rlf_st_tensor *t, rlf_dtype dtype) {
    const size_t n = t->bytes / rlf_dtype_size(t->dtype), half = n / 2;
    const rlf_stored stored = {file, t};
    void *all = rlf_calloc(n, rlf_dtype_size(dtype)), *part = rlf_calloc(n - half, rlf_dtype_size(dtype));
    const rlf_load whole = {.from = stored, .twin = stored, .n = n, .dtype = dtype, .to = all},
                   second = {.from = stored, .begin = half, .n = n - half, .dtype = dtype, .to = part};
    if (rlf_load_run(&whole, 1) == RLF_OK) {
        rlf_status status = rlf_load_run(&second, 1);
        assert(status == RLF_OK && !memcmp((const char *)all + half * rlf_dtype_size(dtype), part, (n - half) * rlf_dtype_size(dtype)));
        (void)status;
    }
    free(all);
    free(part);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    rlf_safetensors *file;
    if (rlf_safetensors_parse(&file, data, n, "fuzz") != RLF_OK) return 0;
    const uint8_t *end = NULL;
    for (size_t i = 0; i < rlf_safetensors_count(file); i++) {
        const rlf_st_tensor *t = rlf_safetensors_at(file, i);
        const uint8_t *begin = t->data;
        assert(begin >= data + 8 && begin + t->bytes <= data + n);
        assert(!end || begin == end);
        assert(t->dims >= 0 && t->dims <= 8 && rlf_safetensors_find(file, t->name) == t);
        end = begin + t->bytes;
        if (t->dtype != RLF_DTYPE_OTHER) load(file, t, i % 2 ? RLF_DTYPE_F32 : RLF_DTYPE_BF16);
    }
    rlf_safetensors_destroy(file);
    return 0;
}
