/* safetensors: 8-byte little-endian header length, a JSON header, then raw little-endian data (huggingface/safetensors, format notes).
 *
 * Reading maps the file, but touches no more of the map than the header. Everything the header says is checked before use: length, JSON, dtype, shape product, offsets inside the file,
 * no overlap, no hole. Errors name the file and the tensor or byte. */
#ifndef RLF_COMMON_MODEL_SAFETENSORS_H
#define RLF_COMMON_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/status.h"

typedef enum rlf_dtype { RLF_DTYPE_F32, RLF_DTYPE_BF16, RLF_DTYPE_F16, RLF_DTYPE_OTHER } rlf_dtype;

/* Bytes of an element, and the name in transformers' config.json ("bfloat16"); not for RLF_DTYPE_OTHER. */
size_t rlf_dtype_size(rlf_dtype dtype);
const char *rlf_dtype_torch_name(rlf_dtype dtype);
/* What `model.dtype` and --dtype say: "float32" or "bfloat16"; false for another name. */
bool rlf_dtype_parse(const char *name, rlf_dtype *out);

typedef struct rlf_st_tensor {
    const char *name;   /* owned by the file object */
    rlf_dtype dtype;
    int dims;           /* 0 to 8 */
    int64_t shape[8];
    const void *data;   /* into the map: what is read there becomes resident; to be written: NULL where it is to be asked for */
    size_t bytes;
} rlf_st_tensor;

typedef struct rlf_safetensors rlf_safetensors;

rlf_status rlf_safetensors_open(rlf_safetensors **out, const char *path) RLF_MUST_USE;
/* The same checks over bytes in memory, which must outlive the object: for tests and the fuzzer. */
rlf_status rlf_safetensors_parse(rlf_safetensors **out, const void *bytes, size_t n, const char *label) RLF_MUST_USE;
void rlf_safetensors_destroy(rlf_safetensors *file);
/* The path, or the label given to parse. */
const char *rlf_safetensors_label(const rlf_safetensors *file);
/* Copies bytes begin .. begin+n-1 of a tensor's data to `out` without making the map resident. Safe from several threads. */
rlf_status rlf_safetensors_read(const rlf_safetensors *file, const rlf_st_tensor *tensor, size_t begin, size_t n, void *out) RLF_MUST_USE;
/* Tensors are numbered in the order of their data. */
size_t rlf_safetensors_count(const rlf_safetensors *file);
const rlf_st_tensor *rlf_safetensors_at(const rlf_safetensors *file, size_t i);
const rlf_st_tensor *rlf_safetensors_find(const rlf_safetensors *file, const char *name);

/* Gives *bytes bytes of tensor i's data from byte `begin` on, in *data, valid until the next call; it may cut *bytes. Called in
 * the order of the file. */
typedef rlf_status rlf_st_source_fn(void *ctx, size_t i, size_t begin, size_t *bytes, const void **data);
/* Writes `n` tensors (F32, BF16 or F16, distinct names) in the order given with metadata {"format":"pt"}, under PATH.tmp,
 * fsynced, renamed to PATH. give: asked for the data of tensors that have none in memory; may be NULL where all have. */
rlf_status rlf_safetensors_write(const char *path, const rlf_st_tensor *tensors, size_t n, rlf_st_source_fn *give,
                                 void *ctx) RLF_MUST_USE;

#endif
