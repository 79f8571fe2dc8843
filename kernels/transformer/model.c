/* Parameters, the rotary table, and the forward parts that decoder and trainer share (layer.h). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "kernels/transformer/layer.h"

enum { SLAB_ALIGN = 64 };

kern_tensor kern_slab_take(kern_slab *slab, kern_dtype dtype, size_t n) {
    size_t size = kern_dtype_size(dtype);
    kern_tensor t = kern_at(kern_view(slab->buf, dtype), slab->bytes / size);
    slab->bytes += (n * size + SLAB_ALIGN - 1) / SLAB_ALIGN * SLAB_ALIGN;
    return t;
}

/* ---- creation --------------------------------------------------------------------------------------------------------------------- */

static size_t offset_of(const rlf_model_layout *layout, rlf_tensor_role role, int layer) {
    const rlf_tensor_info *t = rlf_model_tensor(layout, role, layer);
    return t ? t->offset : 0;
}

static void find_offsets(kern_model *model) {
    const rlf_model_layout *l = model->layout;
    model->embed = offset_of(l, RLF_T_EMBED, -1);
    model->norm_final = offset_of(l, RLF_T_NORM_FINAL, -1);
    model->head = l->shape.tied ? model->embed : offset_of(l, RLF_T_HEAD, -1);
    for (int i = 0; i < l->shape.layers; i++) {
        model->layers[i] = (layer_offsets){
            .norm_attn = offset_of(l, RLF_T_NORM_ATTN, i), .qkv = offset_of(l, RLF_T_Q, i), .qkv_bias = offset_of(l, RLF_T_Q_BIAS, i),
            .q_norm = offset_of(l, RLF_T_Q_NORM, i), .k_norm = offset_of(l, RLF_T_K_NORM, i), .o = offset_of(l, RLF_T_O, i),
            .norm_ffn = offset_of(l, RLF_T_NORM_FFN, i), .gate_up = offset_of(l, RLF_T_GATE, i), .down = offset_of(l, RLF_T_DOWN, i)};
    }
}

/* The angle by which pair i of a head turns from one position to the next, as transformers computes it (modeling_rope_utils, types default
 * and llama3): every rounding to float is made here too, in the same order. */
static float rope_frequency(const rlf_model_shape *s, int i) {
    const rlf_rope_scaling *scaling = &s->rope_scaling;
    float exponent = (float)(2 * i) / (float)s->head_dim;
    float frequency = 1.0f / (float)pow(s->rope_theta, (double)exponent);
    if (scaling->factor == 0) return frequency;
    float turn = 6.283185307179586f / frequency; /* positions of one whole turn */
    float original = (float)scaling->original_positions, factor = (float)scaling->factor, low = (float)scaling->low_freq_factor;
    if (turn < (float)(scaling->original_positions / scaling->high_freq_factor)) return frequency;
    if (turn > (float)(scaling->original_positions / scaling->low_freq_factor)) return frequency / factor;
    float blend = (original / turn - low) / (float)(scaling->high_freq_factor - scaling->low_freq_factor);
    return (1.0f - blend) * frequency / factor + blend * frequency;
}

/* Frequencies and angles are float32, so that the same position turns by the same angle as in transformers; the cosine and sine of that
 * angle are then exact to the last bit of a float. */
static void fill_rope(float *table, int positions, const rlf_model_shape *shape) {
    int dim = shape->head_dim, half = dim / 2;
    for (int i = 0; i < half; i++) {
        float inv_freq = rope_frequency(shape, i);
        for (int p = 0; p < positions; p++) {
            float angle = (float)p * inv_freq;
            table[(size_t)p * (size_t)dim + (size_t)i] = (float)cos((double)angle);
            table[(size_t)p * (size_t)dim + (size_t)(half + i)] = (float)sin((double)angle);
        }
    }
}

static rlf_status make_rope(kern_model *model) {
    rlf_status status = RLF_OK;
    size_t n = (size_t)model->max_positions * (size_t)model->attn.head_dim;
    float *table = rlf_calloc(n, sizeof *table);
    RLF_TRY(kern_buf_new(&model->rope_buf, kern_queue_device(model->queue), n * sizeof *table));
    model->rope = kern_view(model->rope_buf, KERN_F32);
    fill_rope(table, model->max_positions, &model->layout->shape);
    kern_upload(model->queue, model->rope, table, n);
    RLF_TRY(kern_sync(model->queue));
out:
    free(table);
    return status;
}

rlf_status kern_precision_parse(const char *dtype, const char *compute_dtype, kern_precision *out) {
    if (!rlf_dtype_parse(dtype, &out->stored)) return RLF_RAISE(INVALID, "model.dtype %s: expected float32 or bfloat16", dtype);
    out->factors = out->stored;
    if (strcmp(compute_dtype, "auto") == 0 || rlf_dtype_parse(compute_dtype, &out->factors)) return RLF_OK;
    return RLF_RAISE(INVALID, "model.compute_dtype %s: expected auto, float32 or bfloat16", compute_dtype);
}

static rlf_status check_dtype(rlf_dtype dtype) {
    if (dtype == RLF_DTYPE_F32 || dtype == RLF_DTYPE_BF16) return RLF_OK;
    return RLF_RAISE(UNSUPPORTED, "parameters can be stored, and multiplied, as float32 or bfloat16 only");
}

kern_dtype kern_acts_on(kern_precision precision, const char *device) {
    return kern_activations_on(device, kern_dtype_of(precision.factors));
}

static rlf_status check_positions(const rlf_model_shape *s, bool card, int max_positions) {
    const int most = card ? KERN_CARD_ROW_HEADS / s->heads : kern_cpu_positions(s->head_dim);
    if (max_positions < 1) return RLF_RAISE(INVALID, "max_positions %d: expected at least 1", max_positions);
    if (max_positions > most)
        return RLF_RAISE(LIMIT, "%d positions: with this model there is room for %d on %s", max_positions, most, card ? "a card" : "the CPU");
    return RLF_OK;
}

rlf_status kern_model_check(const rlf_model_shape *s, bool card, int max_positions) {
    if (s->head_dim % 2 || s->head_dim < 2 || s->head_dim > 256)
        return RLF_RAISE(UNSUPPORTED, "head_dim %d: expected an even number up to 256", s->head_dim);
    if (s->kv_heads < 1 || s->heads % s->kv_heads)
        return RLF_RAISE(UNSUPPORTED, "%d heads over %d kv_heads: expected a multiple", s->heads, s->kv_heads);
    if (s->heads / s->kv_heads > KERN_MOST_GROUP)
        return RLF_RAISE(UNSUPPORTED, "%d heads over %d kv_heads: expected at most %d to one", s->heads, s->kv_heads, KERN_MOST_GROUP);
    if (s->vocab > KERN_MOST_VOCAB) return RLF_RAISE(UNSUPPORTED, "vocabulary of %d: expected at most %d", s->vocab, KERN_MOST_VOCAB);
    if (card && s->hidden > KERN_CARD_HIDDEN)
        return RLF_RAISE(UNSUPPORTED, "width %d: expected at most %d on a card", s->hidden, KERN_CARD_HIDDEN);
    return check_positions(s, card, max_positions);
}

rlf_status kern_model_new(kern_model **out, kern_queue *queue, const rlf_model_layout *layout, kern_precision precision,
                          int max_positions) {
    kern_buf *params;
    rlf_status status = check_dtype(precision.stored);
    if (status == RLF_OK) status = kern_buf_new(&params, kern_queue_device(queue), layout->total * rlf_dtype_size(precision.stored));
    return status == RLF_OK ? kern_model_new_over(out, queue, layout, precision, max_positions, params) : status;
}

rlf_status kern_model_new_over(kern_model **out, kern_queue *queue, const rlf_model_layout *layout, kern_precision precision,
                               int max_positions, kern_buf *params) {
    rlf_status status = RLF_OK;
    const kern_dtype stored = kern_dtype_of(precision.stored), factors = kern_dtype_of(precision.factors);
    const rlf_model_shape *s = &layout->shape;
    kern_model *model = rlf_calloc(1, sizeof *model);
    model->params_buf = params;
    RLF_TRY(check_dtype(precision.stored));
    RLF_TRY(check_dtype(precision.factors));
    if (factors == KERN_BF16 && stored == KERN_F32)
        RLF_FAIL(UNSUPPORTED, "factors of bfloat16 need parameters stored as bfloat16; these are float32");
    RLF_TRY(kern_model_check(s, kern_device_is_card(kern_queue_device(queue)), max_positions));
    model->layout = layout;
    model->queue = queue;
    model->attn = (kern_attn_shape){s->heads, s->kv_heads, s->head_dim, factors};
    model->acts = kern_activations(kern_queue_device(queue), factors);
    model->max_positions = max_positions;
    model->eps = (float)s->rms_eps;
    model->layers = rlf_calloc((size_t)s->layers, sizeof *model->layers);
    find_offsets(model);
    model->params = kern_view(model->params_buf, stored);
    RLF_TRY(make_rope(model));
    *out = model;
    model = NULL;
out:
    kern_model_destroy(model);
    return status;
}

void kern_model_destroy(kern_model *model) {
    if (!model) return;
    kern_buf_destroy(model->params_buf);
    kern_buf_destroy(model->rope_buf);
    free(model->layers);
    free(model);
}

kern_tensor kern_model_params(const kern_model *model) { return model->params; }
const rlf_model_layout *kern_model_layout(const kern_model *model) { return model->layout; }

rlf_status kern_model_check_ids(const kern_model *model, const char *what, const int32_t *ids, int n, int lowest) {
    for (int i = 0; i < n; i++)
        if (ids[i] < lowest || ids[i] >= model->layout->shape.vocab)
            return RLF_RAISE(INVALID, "%s %d is %d: expected %d or more, and below the vocabulary's %d", what, i, ids[i], lowest,
                             model->layout->shape.vocab);
    return RLF_OK;
}

/* ---- the forward path of a row ---------------------------------------------------------------------------------------------------- */

kern_tensor kern_layer_q_norm(const kern_model *model, int layer, kern_tensor slab) {
    return model->layout->shape.qk_norm ? kern_at(slab, model->layers[layer].q_norm) : kern_none();
}

kern_tensor kern_layer_k_norm(const kern_model *model, int layer, kern_tensor slab) {
    return model->layout->shape.qk_norm ? kern_at(slab, model->layers[layer].k_norm) : kern_none();
}

void kern_layer_qkv_in(const kern_model *model, int layer, kern_tensor qkv_in, kern_tensor normed, kern_tensor x, int rows) {
    const layer_offsets *at = &model->layers[layer];
    kern_tensor bias = model->layout->shape.qkv_bias ? kern_at(model->params, at->qkv_bias) : kern_none();
    kern_norm_linear(model->queue, qkv_in, normed, x, kern_at(model->params, at->norm_attn), model->eps, kern_at(model->params, at->qkv), bias,
                     model->attn.factors, rows, kern_qkv_width(model->attn), model->layout->shape.hidden);
}

void kern_layer_qkv(const kern_model *model, int layer, kern_tensor qkv, kern_tensor qkv_in, kern_tensor normed, kern_tensor x,
                    kern_tensor pos, int rows, const kern_kv_rows *kept) {
    kern_layer_qkv_in(model, layer, qkv_in, normed, x, rows);
    kern_qk_rope(model->queue, qkv, qkv_in, kern_layer_q_norm(model, layer, model->params), kern_layer_k_norm(model, layer, model->params),
                 model->eps, model->rope, pos, rows, model->attn, kept);
}

void kern_layer_attn_out(const kern_model *model, int layer, kern_tensor x, kern_tensor attn, int rows) {
    kern_linear(model->queue, x, attn, kern_at(model->params, model->layers[layer].o), kern_none(), model->attn.factors, rows,
                model->layout->shape.hidden, model->attn.heads * model->attn.head_dim, true);
}

void kern_layer_gate_up(const kern_model *model, int layer, kern_tensor mid, kern_tensor normed, kern_tensor gate_up, int rows) {
    const layer_offsets *at = &model->layers[layer];
    kern_norm_linear(model->queue, gate_up, normed, mid, kern_at(model->params, at->norm_ffn), model->eps, kern_at(model->params, at->gate_up),
                     kern_none(), model->attn.factors, rows, 2 * model->layout->shape.ffn, model->layout->shape.hidden);
}

void kern_layer_mlp(const kern_model *model, int layer, kern_tensor x, kern_tensor mid, kern_tensor normed, kern_tensor gate_up, bool kept,
                    kern_tensor act, int rows) {
    const layer_offsets *at = &model->layers[layer];
    int hidden = model->layout->shape.hidden, ffn = model->layout->shape.ffn;
    if (kept) {
        kern_layer_gate_up(model, layer, mid, normed, gate_up, rows);
        kern_swiglu(model->queue, act, gate_up, rows, ffn);
    } else {
        kern_norm_linear_swiglu(model->queue, act, gate_up, normed, mid, kern_at(model->params, at->norm_ffn), model->eps,
                                kern_at(model->params, at->gate_up), model->attn.factors, rows, ffn, hidden);
    }
    kern_linear(model->queue, x, act, kern_at(model->params, at->down), kern_none(), model->attn.factors, rows, hidden, ffn, true);
}

void kern_model_head(const kern_model *model, kern_tensor logits, kern_tensor normed, bool kept, kern_tensor x, int rows) {
    const rlf_model_shape *s = &model->layout->shape;
    kern_tensor norm = kern_at(model->params, model->norm_final), w = kern_at(model->params, model->head);
    if (kept) {
        kern_rmsnorm(model->queue, normed, x, norm, model->eps, rows, s->hidden);
        kern_linear(model->queue, logits, normed, w, kern_none(), model->attn.factors, rows, s->vocab, s->hidden, false);
    } else {
        kern_norm_linear(model->queue, logits, normed, x, norm, model->eps, w, kern_none(), model->attn.factors, rows, s->vocab, s->hidden);
    }
}
