/* config.json: an accepted shape is inside the bounds that the layout and the kernels rely on. */
#include <assert.h>
#include <stdint.h>

#include "common/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    rlf_model_shape shape;
    if (rlf_model_shape_parse(&shape, (const char *)data, n, "fuzz") != RLF_OK) return 0;
    assert(shape.hidden > 0 && shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0);
    assert(shape.head_dim > 0 && shape.head_dim % 2 == 0 && shape.ffn > 0 && shape.vocab > 0 && shape.max_positions > 0);
    assert(shape.rope_theta > 0 && shape.rms_eps > 0 && shape.family[0] != '\0');
    const rlf_rope_scaling *scaling = &shape.rope_scaling;
    assert(scaling->factor == 0 || (scaling->factor > 0 && scaling->original_positions > 0 && scaling->low_freq_factor > 0));
    assert(scaling->factor == 0 || scaling->high_freq_factor > scaling->low_freq_factor);
    rlf_model_layout layout;
    rlf_model_layout_init(&layout, &shape);
    assert(layout.total % 16 == 0 && layout.n_tensors >= 2 + 9 * (size_t)shape.layers);
    rlf_model_layout_clean_up(&layout);
    return 0;
}
