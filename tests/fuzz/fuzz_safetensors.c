/* A safetensors file: every tensor of an accepted one lies inside it, behind the one before, and is found by its name. */
#include <assert.h>
#include <stdint.h>

#include "common/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

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
    }
    rlf_safetensors_destroy(file);
    return 0;
}
