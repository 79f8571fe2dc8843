/* Private to common/model: numbers of a file on their way into a slab. */
#ifndef RLF_COMMON_MODEL_VALUES_H
#define RLF_COMMON_MODEL_VALUES_H

#include <stdbool.h>
#include <stddef.h>

#include "common/model/safetensors.h"

/* Converts n elements from dtype `from` (F32, BF16, F16) to dtype `to` (F32, BF16; rounded to the nearest, ties to even). Neither side
 * need be aligned; `out` may be `in` where the dtypes are equal. False if an element of the result is NaN or infinite: all are
 * converted all the same, and *bad is the first such. */
bool rlf_values_convert(void *out, rlf_dtype to, const void *in, rlf_dtype from, size_t n, size_t *bad);

#endif
