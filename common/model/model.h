/* What a model is: its shape, read from a Hugging Face config.json, and the layout of its parameters in one slab.
 *
 * The layout is the contract between checkpoint files, kernels, optimizer and hand-over: one flat array of `total` elements in which
 * every tensor has a Hugging Face name, a shape and an offset. Gradients, AdamW moments and reference weights use the same layout.
 * Within a layer, q_proj, k_proj, v_proj lie next to each other without a gap, and so do gate_proj, up_proj: one matrix product
 * serves them. */
#ifndef RLF_COMMON_MODEL_MODEL_H
#define RLF_COMMON_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Scaling of the rotary frequencies as Llama 3.1 introduced it (rope_type "llama3"): turns longer than original_positions / low_freq_factor
 * positions are slowed by `factor`, those shorter than original_positions / high_freq_factor are kept, between them lies a blend. */
typedef struct rlf_rope_scaling {
    double factor; /* 0: no scaling */
    double low_freq_factor, high_freq_factor; /* low < high */
    int original_positions;
} rlf_rope_scaling;

typedef struct rlf_model_shape {
    char family[16];   /* model_type of config.json: "qwen3", "qwen2", "llama", "mistral" */
    int hidden;        /* H */
    int layers;        /* L */
    int heads;         /* query heads */
    int kv_heads;      /* key/value heads; divides heads */
    int head_dim;      /* D; heads * D need not equal hidden */
    int ffn;           /* F, intermediate_size */
    int vocab;         /* V, rows of the embedding */
    int max_positions; /* max_position_embeddings */
    double rope_theta;
    rlf_rope_scaling rope_scaling;
    double rms_eps;
    bool tied;         /* lm_head is the embedding */
    bool qk_norm;      /* RMSNorm over each head of q and k (Qwen3) */
    bool qkv_bias;     /* biases of q, k and v (Qwen2) */
} rlf_model_shape;

typedef enum rlf_tensor_role {
    RLF_T_EMBED,      /* (V, H) */
    RLF_T_NORM_ATTN,  /* (H) input_layernorm */
    RLF_T_Q, RLF_T_K, RLF_T_V, /* (heads*D, H), (kv_heads*D, H) twice */
    RLF_T_Q_BIAS, RLF_T_K_BIAS, RLF_T_V_BIAS, /* only if qkv_bias */
    RLF_T_Q_NORM, RLF_T_K_NORM, /* (D), only if qk_norm */
    RLF_T_O,          /* (H, heads*D) */
    RLF_T_NORM_FFN,   /* (H) post_attention_layernorm */
    RLF_T_GATE, RLF_T_UP, /* (F, H) */
    RLF_T_DOWN,       /* (H, F) */
    RLF_T_NORM_FINAL, /* (H) */
    RLF_T_HEAD,       /* (V, H), only if not tied */
    RLF_T_ROLE_COUNT
} rlf_tensor_role;

typedef struct rlf_tensor_info {
    char name[80];    /* Hugging Face name: "model.layers.0.self_attn.q_proj.weight" */
    rlf_tensor_role role;
    int layer;        /* -1 outside the layers */
    int rows, cols;   /* a vector of n has rows 1, cols n, and is one-dimensional in files */
    bool vector;
    size_t offset;    /* elements from the start of the slab */
} rlf_tensor_info;

typedef struct rlf_model_layout {
    rlf_model_shape shape;
    rlf_tensor_info *tensors; /* owned; ordered by offset */
    size_t n_tensors;
    size_t total;             /* elements of the slab; a multiple of 16 (padding holds zero) */
} rlf_model_layout;

/* Reads DIR/config.json. Refuses an architecture or option that is not supported, naming the key. */
rlf_status rlf_model_shape_read(rlf_model_shape *shape, const char *dir) RLF_MUST_USE;
/* The same from memory; `label` stands for the file name in messages. */
rlf_status rlf_model_shape_parse(rlf_model_shape *shape, const char *text, size_t n, const char *label) RLF_MUST_USE;
/* The shapes `rlf init --shape` knows; RLF_NOT_FOUND lists their names. */
rlf_status rlf_model_shape_named(rlf_model_shape *shape, const char *name) RLF_MUST_USE;

void rlf_model_layout_init(rlf_model_layout *layout, const rlf_model_shape *shape);
void rlf_model_layout_clean_up(rlf_model_layout *layout);
/* The tensor of that role (layer -1 outside layers), or NULL where the shape has none. */
const rlf_tensor_info *rlf_model_tensor(const rlf_model_layout *layout, rlf_tensor_role role, int layer);

/* Elements of a slab that lie in one tensor, or between tensors (padding). A slab is walked from run to run:
 * for (at = begin; at < end; at += run.n) run = rlf_model_run_at(layout, at, end) */
typedef struct rlf_model_run {
    const rlf_tensor_info *tensor; /* NULL: padding */
    size_t begin;                  /* first element, counted from the tensor's */
    size_t n;                      /* at least 1 */
} rlf_model_run;
/* The longest run that begins at element `at` and ends at `end` (at most layout->total) or before. */
rlf_model_run rlf_model_run_at(const rlf_model_layout *layout, size_t at, size_t end);

#ifdef __cplusplus
}
#endif
#endif
