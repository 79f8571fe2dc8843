/* Private to common/model: config.json in the other direction than model.h's rlf_model_shape_read. */
#ifndef RLF_COMMON_MODEL_CONFIG_JSON_H
#define RLF_COMMON_MODEL_CONFIG_JSON_H

#include <jansson.h>

#include "common/model/model.h"

/* config.json as transformers writes it for the shape's family, in the spelling that its versions 4 and 5 both read; `dtype` as in
 * "bfloat16". Owned by the caller; NULL if the family is not known. */
json_t *rlf_model_shape_json(const rlf_model_shape *shape, const char *dtype);

#endif
