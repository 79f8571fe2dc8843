/* config.json of a Hugging Face checkpoint <-> rlf_model_shape (model.h), for the families in the table below.
 *
 * What the arithmetic here does not do is refused by name: it would give wrong numbers, not an error. Keys that do not change the
 * arithmetic (dtype, cache and version keys) are ignored. A key that is missing means what it means to transformers. Both spellings of RoPE
 * are read: rope_theta with rope_scaling, and rope_parameters of transformers 5. */
#include "common/model/config_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/mem.h"

enum { FILE_MAX = 4 << 20 };
#define THETA 10000.0 /* where no rope_theta is given */

/* One family: what it computes, and what transformers takes for a missing key (0: heads, and hidden / heads). */
typedef struct family {
    const char *name, *architecture;
    bool qk_norm, qkv_bias;
    int kv_heads, head_dim, max_positions;
    const char *window; /* the key that must be off for full attention: a switch (use_...), or a size that must be null */
    const char *own;    /* keys of its config.json that say "off", as JSON */
} family;

#define QWEN_WINDOW "\"sliding_window\": null, \"use_sliding_window\": false"

static const family FAMILIES[] = {
    {"qwen3", "Qwen3ForCausalLM", true, false, 32, 128, 32768, "use_sliding_window", "{\"attention_bias\": false, " QWEN_WINDOW "}"},
    {"qwen2", "Qwen2ForCausalLM", false, true, 32, 0, 32768, "use_sliding_window", "{" QWEN_WINDOW "}"},
    {"llama", "LlamaForCausalLM", false, false, 0, 0, 2048, NULL, "{\"attention_bias\": false, \"mlp_bias\": false}"},
    {"mistral", "MistralForCausalLM", false, false, 8, 0, 131072, "sliding_window", "{\"sliding_window\": null}"},
};
#define FAMILY_NAMES "qwen3, qwen2, llama or mistral"

static const family *family_named(const char *name) {
    for (size_t i = 0; i < sizeof FAMILIES / sizeof FAMILIES[0]; i++)
        if (strcmp(FAMILIES[i].name, name) == 0) return &FAMILIES[i];
    return NULL;
}

/* A map of the file, and how its keys are called in messages: "rope_scaling." stands before those of that map. */
typedef struct source {
    const char *label, *prefix;
    const json_t *root;
} source;

static rlf_status expected(const source *in, const char *key, const char *what) {
    return RLF_RAISE(INVALID, "%s: '%s%s': expected %s", in->label, in->prefix, key, what);
}

static rlf_status unsupported(const source *in, const char *key, const char *what) {
    return RLF_RAISE(UNSUPPORTED, "%s: '%s%s': %s is not supported", in->label, in->prefix, key, what);
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

static rlf_status check_family(const source *in, const family **out) {
    const json_t *type = get(in, "model_type"), *names = get(in, "architectures");
    if (!json_is_string(type)) return expected(in, "model_type", FAMILY_NAMES "; the key is missing or not a text");
    const family *f = *out = family_named(json_string_value(type));
    if (!f)
        return RLF_RAISE(UNSUPPORTED, "%s: 'model_type': '%.60s' is not supported; expected " FAMILY_NAMES, in->label,
                         json_string_value(type));
    if (!names) return RLF_OK;
    const char *name = json_string_value(json_array_get(names, 0));
    if (!name) return RLF_RAISE(INVALID, "%s: 'architectures': expected a list with %s", in->label, f->architecture);
    if (strcmp(name, f->architecture) != 0)
        return RLF_RAISE(UNSUPPORTED, "%s: 'architectures': '%.60s' is not supported; expected %s", in->label, name, f->architecture);
    return RLF_OK;
}

static rlf_status check_window(const source *in, const family *f) {
    if (!f->window) return RLF_OK;
    if (strncmp(f->window, "use_", 4) == 0) return refuse_if_true(in, f->window);
    if (!json_object_get(in->root, f->window)) return expected(in, f->window, "null; the key is missing, which means 4096");
    return get(in, f->window) ? unsupported(in, f->window, "anything but null") : RLF_OK;
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

/* A number that must be `only` where it is given. */
static rlf_status refuse_unless(const source *in, const char *key, double only) {
    const json_t *value = get(in, key);
    char what[64];
    snprintf(what, sizeof what, "anything but %g", only);
    if (value && !json_is_number(value)) return expected(in, key, "a number");
    return value && json_number_value(value) != only ? unsupported(in, key, what) : RLF_OK;
}

static rlf_status check_options(const source *in, const family *f) {
    static const char *const absent[] = {"quantization_config", "num_experts", "num_local_experts"};
    static const char *const off[] = {"attention_bias", "mlp_bias", "use_mrope"};
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
        if (get(in, absent[i])) RLF_TRY(unsupported(in, absent[i], "anything but null"));
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++) RLF_TRY(refuse_if_true(in, off[i]));
    RLF_TRY(check_window(in, f));
    RLF_TRY(check_layer_types(in));
    const json_t *act = get(in, "hidden_act");
    if (act && !json_is_string(act)) RLF_TRY(expected(in, "hidden_act", "\"silu\""));
    if (act && strcmp(json_string_value(act), "silu") != 0) RLF_TRY(unsupported(in, "hidden_act", "anything but silu"));
    RLF_TRY(refuse_unless(in, "attention_dropout", 0));
    RLF_TRY(refuse_unless(in, "partial_rotary_factor", 1));
out:
    return status;
}

/* ---- RoPE ------------------------------------------------------------------------------------------------------------------------- */

/* The map that holds RoPE's options, as transformers chooses it: rope_scaling where it has entries, else rope_parameters; or none. */
static rlf_status find_rope(const source *in, source *rope) {
    const json_t *older = get(in, "rope_scaling"), *newer = get(in, "rope_parameters");
    if (older && !json_is_object(older)) return expected(in, "rope_scaling", "null or a map");
    if (newer && !json_is_object(newer)) return expected(in, "rope_parameters", "a map");
    bool use_older = json_object_size(older) > 0;
    *rope = (source){in->label, use_older ? "rope_scaling." : "rope_parameters.", use_older ? older : newer};
    return RLF_OK;
}

static rlf_status read_llama3(const source *rope, rlf_model_shape *shape) {
    rlf_status status = RLF_OK;
    rlf_rope_scaling *s = &shape->rope_scaling;
    RLF_TRY(get_real(rope, "factor", 1e6, 0, &s->factor));
    RLF_TRY(get_real(rope, "low_freq_factor", 1e6, 0, &s->low_freq_factor));
    RLF_TRY(get_real(rope, "high_freq_factor", 1e6, 0, &s->high_freq_factor));
    RLF_TRY(get_size(rope, "original_max_position_embeddings", 1 << 24, shape->max_positions, &s->original_positions));
    if (s->low_freq_factor >= s->high_freq_factor) RLF_TRY(expected(rope, "high_freq_factor", "a number above low_freq_factor"));
out:
    return status;
}

static rlf_status read_rope(const source *in, rlf_model_shape *shape) {
    rlf_status status = RLF_OK;
    source rope;
    RLF_TRY(find_rope(in, &rope));
    RLF_TRY(get_real(get(&rope, "rope_theta") ? &rope : in, "rope_theta", 1e12, THETA, &shape->rope_theta));
    RLF_TRY(refuse_unless(&rope, "partial_rotary_factor", 1));
    if (get(&rope, "full_attention")) RLF_TRY(unsupported(&rope, "full_attention", "a map for each type of layer"));
    const char *key = get(&rope, "rope_type") ? "rope_type" : "type";
    const json_t *type = get(&rope, key);
    if (type && !json_is_string(type)) RLF_TRY(expected(&rope, key, "default or llama3"));
    if (!type || strcmp(json_string_value(type), "default") == 0) goto out;
    if (strcmp(json_string_value(type), "llama3") != 0)
        RLF_FAIL(UNSUPPORTED, "%s: '%s%s': '%.60s' is not supported; expected default or llama3", in->label, rope.prefix, key,
                 json_string_value(type));
    if (get(in, "original_max_position_embeddings")) RLF_TRY(unsupported(in, "original_max_position_embeddings", "the key outside its map"));
    RLF_TRY(read_llama3(&rope, shape));
out:
    return status;
}

/* ---- the shape -------------------------------------------------------------------------------------------------------------------- */

static rlf_status read_sizes(const source *in, const family *f, rlf_model_shape *s) {
    rlf_status status = RLF_OK;
    RLF_TRY(get_size(in, "hidden_size", 1 << 16, 0, &s->hidden));
    RLF_TRY(get_size(in, "num_hidden_layers", 1024, 0, &s->layers));
    RLF_TRY(get_size(in, "num_attention_heads", 1024, 0, &s->heads));
    bool missing = !json_object_get(in->root, "num_key_value_heads");
    RLF_TRY(get_size(in, "num_key_value_heads", 1024, missing && f->kv_heads ? f->kv_heads : s->heads, &s->kv_heads));
    RLF_TRY(get_size(in, "head_dim", 1024, f->head_dim ? f->head_dim : s->hidden / s->heads, &s->head_dim));
    RLF_TRY(get_size(in, "intermediate_size", 1 << 20, 0, &s->ffn));
    RLF_TRY(get_size(in, "vocab_size", 1 << 22, 0, &s->vocab));
    RLF_TRY(get_size(in, "max_position_embeddings", 1 << 24, f->max_positions, &s->max_positions));
    if (s->heads % s->kv_heads) RLF_TRY(expected(in, "num_key_value_heads", "a divisor of num_attention_heads"));
    if (s->head_dim % 2) RLF_TRY(expected(in, "head_dim", "an even number"));
out:
    return status;
}

static rlf_status read_shape(const source *in, rlf_model_shape *shape) {
    rlf_status status = RLF_OK;
    const family *f = NULL;
    RLF_TRY(check_family(in, &f));
    RLF_TRY(check_options(in, f));
    *shape = (rlf_model_shape){.qk_norm = f->qk_norm, .qkv_bias = f->qkv_bias};
    snprintf(shape->family, sizeof shape->family, "%s", f->name);
    RLF_TRY(read_sizes(in, f, shape));
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
    source in = {label, "", root};
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

/* ---- the other way ---------------------------------------------------------------------------------------------------------------- */

/* For both spellings of the same: transformers 4 and 5 read rope_theta with rope_scaling. */
static json_t *rope_scaling_json(const rlf_rope_scaling *s) {
    if (s->factor == 0) return json_null();
    return json_pack("{s:f, s:f, s:f, s:i, s:s}", "factor", s->factor, "high_freq_factor", s->high_freq_factor, "low_freq_factor",
                     s->low_freq_factor, "original_max_position_embeddings", s->original_positions, "rope_type", "llama3");
}

json_t *rlf_model_shape_json(const rlf_model_shape *s, const char *dtype) {
    const family *f = family_named(s->family);
    if (!f) return NULL;
    json_t *root = json_pack("{s:[s], s:f, s:n, s:n, s:i, s:s, s:i, s:f, s:i, s:i, s:s, s:i, s:i, s:i, s:f, s:o, s:f, s:b, s:s, s:b, s:i}",
                             "architectures", f->architecture, "attention_dropout", 0.0, "bos_token_id", "eos_token_id", "head_dim",
                             s->head_dim, "hidden_act", "silu", "hidden_size", s->hidden, "initializer_range", 0.02, "intermediate_size",
                             s->ffn, "max_position_embeddings", s->max_positions, "model_type", f->name, "num_attention_heads", s->heads,
                             "num_hidden_layers", s->layers, "num_key_value_heads", s->kv_heads, "rms_norm_eps", s->rms_eps, "rope_scaling",
                             rope_scaling_json(&s->rope_scaling), "rope_theta", s->rope_theta, "tie_word_embeddings", (int)s->tied,
                             "torch_dtype", dtype, "use_cache", 1, "vocab_size", s->vocab);
    json_t *own = json_loads(f->own, 0, NULL);
    json_object_update(root, own);
    json_decref(own);
    return root;
}
