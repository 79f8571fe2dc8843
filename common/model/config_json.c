/* config.json of a Hugging Face checkpoint -> rlf_model_shape (model.h), for Qwen3.
 *
 * What the arithmetic here does not do is refused by name: it would give wrong numbers, not an error. Keys that do not change the
 * arithmetic (dtype, cache and version keys) are ignored. Both spellings of RoPE are read: rope_theta with rope_scaling, and
 * rope_parameters of transformers 5. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/model.h"

enum { FILE_MAX = 4 << 20 };

typedef struct source {
    const char *label;
    const json_t *root;
} source;

static rlf_status expected(const source *in, const char *key, const char *what) {
    return RLF_RAISE(INVALID, "%s: '%s': expected %s", in->label, key, what);
}

static rlf_status unsupported(const source *in, const char *key, const char *what) {
    return RLF_RAISE(UNSUPPORTED, "%s: '%s': %s is not supported", in->label, key, what);
}

/* NULL if the key is missing or null: transformers writes both for "not set". */
static const json_t *get(const source *in, const char *key) {
    const json_t *value = json_object_get(in->root, key);
    return json_is_null(value) ? NULL : value;
}

/* An integer from 1 to max; fallback (if not 0) where the key is missing. */
static rlf_status get_size(const source *in, const char *key, int max, int fallback, int *out) {
    const json_t *value = get(in, key);
    char what[64];
    snprintf(what, sizeof what, "an integer from 1 to %d%s", max, value ? "" : "; the key is missing");
    *out = fallback;
    if (!value && fallback > 0) return RLF_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > max) return expected(in, key, what);
    *out = (int)json_integer_value(value);
    return RLF_OK;
}

/* A number above 0 and at most max; fallback (if not 0) where the key is missing. */
static rlf_status get_real(const source *in, const char *key, double max, double fallback, double *out) {
    const json_t *value = get(in, key);
    char what[64];
    snprintf(what, sizeof what, "a number above 0 and at most %g", max);
    *out = value ? json_number_value(value) : fallback;
    if (value && !json_is_number(value)) return expected(in, key, what);
    return *out > 0 && *out <= max && isfinite(*out) ? RLF_OK : expected(in, key, what);
}

static rlf_status get_bool(const source *in, const char *key, bool *out) {
    const json_t *value = get(in, key);
    *out = json_is_true(value);
    return !value || json_is_boolean(value) ? RLF_OK : expected(in, key, "true or false");
}

/* ---- what is refused -------------------------------------------------------------------------------------------------------------- */

static rlf_status refuse_if_true(const source *in, const char *key) {
    bool on;
    rlf_status status = get_bool(in, key, &on);
    return status == RLF_OK && on ? unsupported(in, key, "true") : status;
}

static rlf_status check_family(const source *in) {
    const json_t *type = get(in, "model_type"), *names = get(in, "architectures");
    if (!json_is_string(type)) return expected(in, "model_type", "\"qwen3\"; the key is missing or not a text");
    if (strcmp(json_string_value(type), "qwen3") != 0)
        return RLF_RAISE(UNSUPPORTED, "%s: 'model_type': '%.60s' is not supported; expected qwen3", in->label, json_string_value(type));
    if (!names) return RLF_OK;
    const char *name = json_string_value(json_array_get(names, 0));
    if (!name) return expected(in, "architectures", "a list with Qwen3ForCausalLM");
    if (strcmp(name, "Qwen3ForCausalLM") != 0)
        return RLF_RAISE(UNSUPPORTED, "%s: 'architectures': '%.60s' is not supported; expected Qwen3ForCausalLM", in->label, name);
    return RLF_OK;
}

static rlf_status check_layer_types(const source *in) {
    const json_t *types = get(in, "layer_types");
    if (types && !json_is_array(types)) return expected(in, "layer_types", "a list");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (!type || strcmp(type, "full_attention") != 0) return unsupported(in, "layer_types", "anything but full_attention");
    }
    return RLF_OK;
}

static rlf_status check_options(const source *in) {
    static const char *const absent[] = {"quantization_config", "num_experts", "num_local_experts", "rope_scaling"};
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
        if (get(in, absent[i])) RLF_TRY(unsupported(in, absent[i], "anything but null"));
    RLF_TRY(refuse_if_true(in, "use_sliding_window"));
    RLF_TRY(refuse_if_true(in, "attention_bias"));
    RLF_TRY(check_layer_types(in));
    const json_t *act = get(in, "hidden_act"), *dropout = get(in, "attention_dropout");
    if (act && !json_is_string(act)) RLF_TRY(expected(in, "hidden_act", "\"silu\""));
    if (act && strcmp(json_string_value(act), "silu") != 0) RLF_TRY(unsupported(in, "hidden_act", "anything but silu"));
    if (dropout && !json_is_number(dropout)) RLF_TRY(expected(in, "attention_dropout", "a number"));
    if (dropout && json_number_value(dropout) != 0) RLF_TRY(unsupported(in, "attention_dropout", "anything but 0"));
out:
    return status;
}

/* ---- the shape -------------------------------------------------------------------------------------------------------------------- */

static rlf_status read_rope(const source *in, rlf_model_shape *shape) {
    const json_t *parameters = get(in, "rope_parameters");
    if (!parameters) return get_real(in, "rope_theta", 1e12, 10000.0, &shape->rope_theta);
    if (!json_is_object(parameters)) return expected(in, "rope_parameters", "a map");
    const json_t *type = json_object_get(parameters, "rope_type");
    if (json_is_string(type) && strcmp(json_string_value(type), "default") != 0)
        return unsupported(in, "rope_parameters", "a rope_type other than default");
    source inner = {in->label, parameters};
    return get_real(&inner, "rope_theta", 1e12, 0, &shape->rope_theta);
}

static rlf_status read_sizes(const source *in, rlf_model_shape *s) {
    rlf_status status = RLF_OK;
    RLF_TRY(get_size(in, "hidden_size", 1 << 16, 0, &s->hidden));
    RLF_TRY(get_size(in, "num_hidden_layers", 1024, 0, &s->layers));
    RLF_TRY(get_size(in, "num_attention_heads", 1024, 0, &s->heads));
    RLF_TRY(get_size(in, "num_key_value_heads", 1024, s->heads, &s->kv_heads));
    RLF_TRY(get_size(in, "head_dim", 1024, s->hidden / s->heads, &s->head_dim));
    RLF_TRY(get_size(in, "intermediate_size", 1 << 20, 0, &s->ffn));
    RLF_TRY(get_size(in, "vocab_size", 1 << 22, 0, &s->vocab));
    RLF_TRY(get_size(in, "max_position_embeddings", 1 << 24, 32768, &s->max_positions));
    if (s->heads % s->kv_heads) RLF_TRY(expected(in, "num_key_value_heads", "a divisor of num_attention_heads"));
    if (s->head_dim % 2) RLF_TRY(expected(in, "head_dim", "an even number"));
out:
    return status;
}

static rlf_status read_shape(const source *in, rlf_model_shape *shape) {
    rlf_status status = RLF_OK;
    *shape = (rlf_model_shape){.family = "qwen3", .qk_norm = true};
    RLF_TRY(check_family(in));
    RLF_TRY(check_options(in));
    RLF_TRY(read_sizes(in, shape));
    RLF_TRY(read_rope(in, shape));
    RLF_TRY(get_real(in, "rms_norm_eps", 1.0, 1e-6, &shape->rms_eps));
    RLF_TRY(get_bool(in, "tie_word_embeddings", &shape->tied));
out:
    return status;
}

rlf_status rlf_model_shape_parse(rlf_model_shape *shape, const char *text, size_t n, const char *label) {
    json_error_t error;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (!root) return RLF_RAISE(INVALID, "%s:%d: byte %d: not JSON: %s", label, error.line, error.position, error.text);
    source in = {label, root};
    rlf_status status = json_is_object(root) ? read_shape(&in, shape) : RLF_RAISE(INVALID, "%s: expected a JSON map", label);
    json_decref(root);
    return status;
}

rlf_status rlf_model_shape_read(rlf_model_shape *shape, const char *dir) {
    rlf_str path = {0}, text = {0};
    rlf_str_printf(&path, "%s/config.json", dir);
    rlf_status status = rlf_str_read_file(&text, path.ptr, FILE_MAX);
    if (status == RLF_OK) status = rlf_model_shape_parse(shape, text.ptr, text.len, path.ptr);
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&text);
    return status;
}
