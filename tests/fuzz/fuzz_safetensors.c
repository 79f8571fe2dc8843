/* A safetensors file: every tensor of an accepted one lies inside it, behind the one before, and is found by its name; its values load. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/model/load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Into a slab of just its size. */
static void load(const rlf_safetensors *file, const rlf_st_tensor *t, rlf_dtype dtype) {
    void *slab = rlf_calloc(t->bytes / rlf_dtype_size(t->dtype), rlf_dtype_size(dtype));
    rlf_load one = {.file = file, .tensor = t, .dtype = dtype, .to = slab};
    if (rlf_load_run(&one, 1) == RLF_OK) {
        one.compare = true;
        rlf_status status = rlf_load_run(&one, 1);
        assert(status == RLF_OK);
        (void)status;
    }
    free(slab);
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
