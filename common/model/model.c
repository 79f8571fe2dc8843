/* Shapes known by name, and the layout of a model's parameters in one slab (model.h).
 *
 * The slab follows the forward pass: embedding, then the layers, final norm, head. Each tensor starts at a multiple of 16
 * elements (one cache line of floats), except that k follows q, v follows k and up follows gate without a gap, so that one
 * product reads them as one matrix. */
#include "common/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/mem.h"

enum { ALIGN = 16, LAYER_TENSORS_MAX = 14 };

typedef struct named_shape {
    const char *name;
    rlf_model_shape shape;
} named_shape;

#define QWEN3(hidden_, layers_, heads_, kv_heads_, dim_, ffn_, vocab_, positions_, theta_, tied_)                                    \
    {.family = "qwen3", .hidden = hidden_, .layers = layers_, .heads = heads_, .kv_heads = kv_heads_, .head_dim = dim_, .ffn = ffn_, \
     .vocab = vocab_, .max_positions = positions_, .rope_theta = theta_, .rms_eps = 1e-6, .tied = tied_, .qk_norm = true}

#define QWEN2(hidden_, layers_, heads_, kv_heads_, dim_, ffn_, vocab_, positions_, theta_, tied_)                                    \
    {.family = "qwen2", .hidden = hidden_, .layers = layers_, .heads = heads_, .kv_heads = kv_heads_, .head_dim = dim_, .ffn = ffn_, \
     .vocab = vocab_, .max_positions = positions_, .rope_theta = theta_, .rms_eps = 1e-6, .tied = tied_, .qkv_bias = true}

/* Rotary frequencies scaled by factor_ from original_ positions on. */
#define LLAMA(hidden_, layers_, heads_, kv_heads_, dim_, ffn_, vocab_, positions_, theta_, factor_, original_, tied_)                \
    {.family = "llama", .hidden = hidden_, .layers = layers_, .heads = heads_, .kv_heads = kv_heads_, .head_dim = dim_, .ffn = ffn_, \
     .vocab = vocab_, .max_positions = positions_, .rope_theta = theta_, .rope_scaling = {factor_, 1, 4, original_},                 \
     .rms_eps = 1e-5, .tied = tied_}

static const named_shape NAMED[] = {
    {"tiny", QWEN3(64, 2, 4, 2, 16, 128, 384, 2048, 10000.0, true)},  /* tests */
    {"quickstart", QWEN3(128, 4, 4, 2, 32, 384, 512, 2048, 10000.0, true)},
    {"bench-42m", QWEN3(512, 8, 8, 4, 64, 1536, 32000, 4096, 1e6, true)},
    {"qwen3-0.6b", QWEN3(1024, 28, 16, 8, 128, 3072, 151936, 40960, 1e6, true)},
    {"qwen3-1.7b", QWEN3(2048, 28, 16, 8, 128, 6144, 151936, 40960, 1e6, true)},
    {"qwen3-4b", QWEN3(2560, 36, 32, 8, 128, 9728, 151936, 40960, 1e6, true)},
    {"qwen3-8b", QWEN3(4096, 36, 32, 8, 128, 12288, 151936, 40960, 1e6, false)},
    {"tiny-qwen2", QWEN2(60, 2, 6, 2, 10, 128, 384, 2048, 10000.0, true)},
    {"quickstart-qwen2", QWEN2(128, 4, 4, 2, 32, 384, 512, 2048, 10000.0, true)},
    {"qwen2.5-3b", QWEN2(2048, 36, 16, 2, 128, 11008, 151936, 32768, 1e6, true)},
    {"qwen2.5-7b", QWEN2(3584, 28, 28, 4, 128, 18944, 152064, 131072, 1e6, false)},
    {"tiny-llama", LLAMA(64, 2, 4, 2, 16, 128, 384, 2048, 10000.0, 8, 64, false)},
    {"quickstart-llama", LLAMA(128, 4, 4, 2, 32, 384, 512, 2048, 10000.0, 8, 256, true)},
    {"llama-3.2-1b", LLAMA(2048, 16, 32, 8, 64, 8192, 128256, 131072, 5e5, 32, 8192, true)},
    {"llama-3.1-8b", LLAMA(4096, 32, 32, 8, 128, 14336, 128256, 131072, 5e5, 8, 8192, false)},
    {"tiny-mistral", {.family = "mistral", .hidden = 64, .layers = 2, .heads = 4, .kv_heads = 1, .head_dim = 20, .ffn = 128, .vocab = 384,
                      .max_positions = 2048, .rope_theta = 10000.0, .rms_eps = 1e-5}},
};
enum { NAMED_COUNT = sizeof NAMED / sizeof NAMED[0] };

rlf_status rlf_model_shape_named(rlf_model_shape *shape, const char *name) {
    for (int i = 0; i < NAMED_COUNT; i++) {
        if (strcasecmp(NAMED[i].name, name) == 0) {
            *shape = NAMED[i].shape;
            return RLF_OK;
        }
    }
    rlf_str known = {0};
    for (int i = 0; i < NAMED_COUNT; i++) rlf_str_printf(&known, "%s%s", i ? ", " : "", NAMED[i].name);
    rlf_status status = RLF_RAISE(NOT_FOUND, "no model shape is named '%.100s'; known: %s", name, known.ptr);
    rlf_str_clean_up(&known);
    return status;
}

/* ---- layout ----------------------------------------------------------------------------------------------------------------------- */

static bool follows_without_gap(rlf_tensor_role role) {
    return role == RLF_T_K || role == RLF_T_V || role == RLF_T_K_BIAS || role == RLF_T_V_BIAS || role == RLF_T_UP;
}

static size_t align_up(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

static void add(rlf_model_layout *layout, rlf_tensor_role role, int layer, const char *name, int rows, int cols, bool vector) {
    rlf_tensor_info *t = &layout->tensors[layout->n_tensors++];
    t->role = role;
    t->layer = layer;
    t->rows = rows;
    t->cols = cols;
    t->vector = vector;
    t->offset = follows_without_gap(role) ? layout->total : align_up(layout->total);
    layout->total = t->offset + (size_t)rows * (size_t)cols;
    if (layer < 0)
        snprintf(t->name, sizeof t->name, "%s", name);
    else
        snprintf(t->name, sizeof t->name, "model.layers.%d.%s", layer, name);
}

static void add_matrix(rlf_model_layout *layout, rlf_tensor_role role, int layer, const char *name, int rows, int cols) {
    add(layout, role, layer, name, rows, cols, false);
}

static void add_vector(rlf_model_layout *layout, rlf_tensor_role role, int layer, const char *name, int n) {
    add(layout, role, layer, name, 1, n, true);
}

static void add_layer(rlf_model_layout *layout, int i) {
    const rlf_model_shape *s = &layout->shape;
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    add_vector(layout, RLF_T_NORM_ATTN, i, "input_layernorm.weight", s->hidden);
    add_matrix(layout, RLF_T_Q, i, "self_attn.q_proj.weight", q, s->hidden);
    add_matrix(layout, RLF_T_K, i, "self_attn.k_proj.weight", kv, s->hidden);
    add_matrix(layout, RLF_T_V, i, "self_attn.v_proj.weight", kv, s->hidden);
    if (s->qkv_bias) {
        add_vector(layout, RLF_T_Q_BIAS, i, "self_attn.q_proj.bias", q);
        add_vector(layout, RLF_T_K_BIAS, i, "self_attn.k_proj.bias", kv);
        add_vector(layout, RLF_T_V_BIAS, i, "self_attn.v_proj.bias", kv);
    }
    if (s->qk_norm) {
        add_vector(layout, RLF_T_Q_NORM, i, "self_attn.q_norm.weight", s->head_dim);
        add_vector(layout, RLF_T_K_NORM, i, "self_attn.k_norm.weight", s->head_dim);
    }
    add_matrix(layout, RLF_T_O, i, "self_attn.o_proj.weight", s->hidden, q);
    add_vector(layout, RLF_T_NORM_FFN, i, "post_attention_layernorm.weight", s->hidden);
    add_matrix(layout, RLF_T_GATE, i, "mlp.gate_proj.weight", s->ffn, s->hidden);
    add_matrix(layout, RLF_T_UP, i, "mlp.up_proj.weight", s->ffn, s->hidden);
    add_matrix(layout, RLF_T_DOWN, i, "mlp.down_proj.weight", s->hidden, s->ffn);
}

void rlf_model_layout_init(rlf_model_layout *layout, const rlf_model_shape *shape) {
    *layout = (rlf_model_layout){.shape = *shape};
    layout->tensors = rlf_calloc((size_t)shape->layers * LAYER_TENSORS_MAX + 3, sizeof *layout->tensors);
    add_matrix(layout, RLF_T_EMBED, -1, "model.embed_tokens.weight", shape->vocab, shape->hidden);
    for (int i = 0; i < shape->layers; i++) add_layer(layout, i);
    add_vector(layout, RLF_T_NORM_FINAL, -1, "model.norm.weight", shape->hidden);
    if (!shape->tied) add_matrix(layout, RLF_T_HEAD, -1, "lm_head.weight", shape->vocab, shape->hidden);
    layout->total = align_up(layout->total);
}

void rlf_model_layout_clean_up(rlf_model_layout *layout) {
    free(layout->tensors);
    *layout = (rlf_model_layout){0};
}

const rlf_tensor_info *rlf_model_tensor(const rlf_model_layout *layout, rlf_tensor_role role, int layer) {
    for (size_t i = 0; i < layout->n_tensors; i++)
        if (layout->tensors[i].role == role && layout->tensors[i].layer == layer) return &layout->tensors[i];
    return NULL;
}

/* The last tensor that begins at or before `at`, as an index; n_tensors if none does. */
static size_t last_before(const rlf_model_layout *layout, size_t at) {
    size_t low = 0, high = layout->n_tensors;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (layout->tensors[middle].offset <= at) low = middle + 1;
        else high = middle;
    }
    return low ? low - 1 : layout->n_tensors;
}

rlf_model_run rlf_model_run_at(const rlf_model_layout *layout, size_t at, size_t end) {
    size_t i = last_before(layout, at), next = i < layout->n_tensors ? i + 1 : 0;
    if (i < layout->n_tensors) {
        const rlf_tensor_info *t = &layout->tensors[i];
        size_t tensor_end = t->offset + (size_t)t->rows * (size_t)t->cols;
        if (at < tensor_end) return (rlf_model_run){t, at - t->offset, (tensor_end < end ? tensor_end : end) - at};
    }
    size_t stop = next < layout->n_tensors && layout->tensors[next].offset < end ? layout->tensors[next].offset : end;
    return (rlf_model_run){NULL, 0, stop - at};
}
