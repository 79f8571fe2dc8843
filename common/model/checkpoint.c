/* Checkpoint folders (checkpoint.h): reading one file or shards into the slab, writing config, weights and tokenizer files,
 * random weights. */
#include "common/model/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/base/outfile.h"
#include "common/base/rng.h"
#include "common/model/safetensors.h"

enum { SHARDS_MAX = 4096, INDEX_MAX = 64 << 20, SIDE_FILE_MAX = 256 << 20, CONFIG_MAX = 4 << 20, LIST_BYTES = 350 };

static char *join(const char *dir, const char *name) {
    rlf_str path = {0};
    rlf_str_printf(&path, "%s/%s", dir, name);
    return path.ptr;
}

static bool exists(const char *dir, const char *name) {
    char *path = join(dir, name);
    bool found = access(path, F_OK) == 0;
    free(path);
    return found;
}

/* ---- the files of a checkpoint ---------------------------------------------------------------------------------------------------- */

typedef struct shard {
    char *path;
    rlf_safetensors *file;
} shard;

typedef struct shards {
    const char *dir;
    shard *items;
    size_t n, cap;
} shards;

static void shards_clean_up(shards *set) {
    for (size_t i = 0; i < set->n; i++) {
        rlf_safetensors_destroy(set->items[i].file);
        free(set->items[i].path);
    }
    free(set->items);
}

/* Opens the file unless it is open already; *out is valid until the next call. */
static rlf_status add_shard(shards *set, const char *name, const shard **out) {
    char *path = join(set->dir, name);
    for (size_t i = 0; i < set->n; i++) {
        *out = &set->items[i];
        if (strcmp(set->items[i].path, path) != 0) continue;
        free(path);
        return RLF_OK;
    }
    set->items = rlf_grow(set->items, set->n, &set->cap, sizeof *set->items);
    set->items[set->n] = (shard){.path = path};
    *out = &set->items[set->n];
    return rlf_safetensors_open(&set->items[set->n++].file, path);
}

static const rlf_st_tensor *find_in(const shards *set, const char *name, const shard **where) {
    for (size_t i = 0; i < set->n; i++) {
        const rlf_st_tensor *tensor = rlf_safetensors_find(set->items[i].file, name);
        if (!tensor) continue;
        *where = &set->items[i];
        return tensor;
    }
    return NULL;
}

/* A file of this folder, not a path that leads out of it. */
static bool is_shard_name(const char *name) {
    static const char suffix[] = ".safetensors";
    size_t n = name ? strlen(name) : 0, end = sizeof suffix - 1;
    return n > end && n < 256 && !strchr(name, '/') && strcmp(name + n - end, suffix) == 0;
}

static rlf_status add_indexed(shards *set, const char *label, const json_t *map) {
    rlf_status status = RLF_OK;
    const shard *where;
    if (!json_is_object(map)) return RLF_RAISE(INVALID, "%s: 'weight_map': expected a map from tensor to file", label);
    for (void *at = json_object_iter((json_t *)map); at; at = json_object_iter_next((json_t *)map, at)) {
        const char *name = json_string_value(json_object_iter_value(at));
        if (!is_shard_name(name))
            RLF_FAIL(INVALID, "%s: '%.200s': expected the name of a .safetensors file beside it", label, json_object_iter_key(at));
        RLF_TRY(add_shard(set, name, &where));
        if (set->n > SHARDS_MAX) RLF_FAIL(LIMIT, "%s: more than %d files", label, SHARDS_MAX);
        if (!rlf_safetensors_find(where->file, json_object_iter_key(at)))
            RLF_FAIL(INVALID, "%s: tensor '%.200s' is not in %s, where the index says it is", label, json_object_iter_key(at), name);
    }
out:
    return status;
}

static rlf_status open_indexed(shards *set) {
    rlf_status status = RLF_OK;
    char *path = join(set->dir, "model.safetensors.index.json");
    rlf_str text = {0};
    json_error_t error;
    json_t *root = NULL;
    RLF_TRY(rlf_str_read_file(&text, path, INDEX_MAX));
    root = json_loadb(text.ptr, text.len, JSON_REJECT_DUPLICATES, &error);
    if (!root) RLF_FAIL(INVALID, "%s:%d: not JSON: %s", path, error.line, error.text);
    RLF_TRY(add_indexed(set, path, json_object_get(root, "weight_map")));
out:
    json_decref(root);
    rlf_str_clean_up(&text);
    free(path);
    return status;
}

static rlf_status open_shards(shards *set) {
    const shard *only;
    if (exists(set->dir, "model.safetensors")) return add_shard(set, "model.safetensors", &only);
    if (exists(set->dir, "model.safetensors.index.json")) return open_indexed(set);
    return RLF_RAISE(NOT_FOUND, "%s: holds neither model.safetensors nor model.safetensors.index.json", set->dir);
}

/* ---- names ------------------------------------------------------------------------------------------------------------------------ */

/* A list of names cut to what fits into one message. */
typedef struct name_list {
    size_t n, shown;
    rlf_str text;
} name_list;

static void list_name(name_list *list, const char *name) {
    if (list->shown == list->n && list->text.len + strlen(name) < LIST_BYTES) {
        rlf_str_printf(&list->text, "%s%.200s", list->n ? ", " : "", name);
        list->shown++;
    }
    list->n++;
}

static void print_list(const name_list *list, const char *what, rlf_str *out) {
    if (list->n == 0) return;
    rlf_str_printf(out, "%s%zu %s tensor%s: %s", out->len ? "; " : "", list->n, what, list->n == 1 ? "" : "s",
                   list->shown ? list->text.ptr : "");
    if (list->shown < list->n) rlf_str_printf(out, " and %zu more", list->n - list->shown);
}

static bool has_suffix(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Tensors that add nothing: a tied head stored a second time (Qwen3-0.6B as published) and the constant frequencies of old checkpoints. */
static bool is_redundant(const rlf_model_layout *layout, const char *name) {
    return (layout->shape.tied && strcmp(name, "lm_head.weight") == 0) || has_suffix(name, "rotary_emb.inv_freq");
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static void list_unexpected(const shards *set, const rlf_model_layout *layout, name_list *out) {
    const char **known = rlf_calloc(layout->n_tensors, sizeof *known);
    for (size_t i = 0; i < layout->n_tensors; i++) known[i] = layout->tensors[i].name;
    qsort(known, layout->n_tensors, sizeof *known, by_text);
    for (size_t s = 0; s < set->n; s++) {
        for (size_t i = 0; i < rlf_safetensors_count(set->items[s].file); i++) {
            const char *name = rlf_safetensors_at(set->items[s].file, i)->name;
            if (!bsearch(&name, known, layout->n_tensors, sizeof *known, by_text) && !is_redundant(layout, name)) list_name(out, name);
        }
    }
    free(known);
}

static rlf_status check_names(const shards *set, const rlf_model_layout *layout) {
    rlf_status status = RLF_OK;
    name_list missing = {0}, unexpected = {0};
    rlf_str text = {0};
    const shard *where;
    for (size_t i = 0; i < layout->n_tensors; i++)
        if (!find_in(set, layout->tensors[i].name, &where)) list_name(&missing, layout->tensors[i].name);
    list_unexpected(set, layout, &unexpected);
    print_list(&missing, "missing", &text);
    print_list(&unexpected, "unexpected", &text);
    if (text.len) status = RLF_RAISE(INVALID, "%s: the weights are not those of config.json: %s", set->dir, text.ptr);
    rlf_str_clean_up(&missing.text);
    rlf_str_clean_up(&unexpected.text);
    rlf_str_clean_up(&text);
    return status;
}

/* A tensor found in two files: which one is meant? */
static rlf_status check_unique(const shards *set) {
    for (size_t s = 1; s < set->n; s++) {
        for (size_t i = 0; i < rlf_safetensors_count(set->items[s].file); i++) {
            const char *name = rlf_safetensors_at(set->items[s].file, i)->name;
            const shard *first = NULL;
            if (find_in(set, name, &first) && first != &set->items[s])
                return RLF_RAISE(INVALID, "%s: tensor '%.200s' is also in %s", set->items[s].path, name, first->path);
        }
    }
    return RLF_OK;
}

/* ---- values ----------------------------------------------------------------------------------------------------------------------- */

static uint32_t widen_bf16(uint16_t h) { return (uint32_t)h << 16; }

static uint32_t widen_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3FF;
    if (exponent == 31) return sign | 0x7F800000 | fraction << 13;
    if (exponent) return sign | (exponent + 112) << 23 | fraction << 13;
    if (!fraction) return sign;
    int shift = __builtin_clz(fraction) - 21; /* subnormal: move the leading one to bit 10 */
    return sign | (uint32_t)(113 - shift) << 23 | ((fraction << shift) & 0x3FF) << 13;
}

/* Converts n elements; false, with *bad the first one, if any is NaN or infinite. Files need not be aligned. */
static bool widen(rlf_dtype dtype, const unsigned char *from, size_t n, float *out, size_t *bad) {
    uint32_t worst = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        uint16_t half;
        if (dtype == RLF_DTYPE_F32) {
            memcpy(&bits, from + 4 * i, 4);
        } else {
            memcpy(&half, from + 2 * i, 2);
            bits = dtype == RLF_DTYPE_BF16 ? widen_bf16(half) : widen_f16(half);
        }
        uint32_t magnitude = bits & 0x7FFFFFFF;
        worst = magnitude > worst ? magnitude : worst;
        memcpy(&out[i], &bits, 4);
    }
    if (worst < 0x7F800000) return true;
    for (*bad = 0; isfinite(out[*bad]); ++*bad) {}
    return false;
}

static void shape_text(const rlf_st_tensor *t, rlf_str *out) {
    rlf_str_putc(out, '[');
    for (int i = 0; i < t->dims; i++) rlf_str_printf(out, "%s%" PRId64, i ? ", " : "", t->shape[i]);
    rlf_str_putc(out, ']');
}

static bool has_shape(const rlf_st_tensor *t, const rlf_tensor_info *want) {
    if (want->vector) return t->dims == 1 && t->shape[0] == want->cols;
    return t->dims == 2 && t->shape[0] == want->rows && t->shape[1] == want->cols;
}

static rlf_status check_tensor(const shard *where, const rlf_st_tensor *t, const rlf_tensor_info *want) {
    if (t->dtype == RLF_DTYPE_OTHER)
        return RLF_RAISE(UNSUPPORTED, "%s: tensor '%s': expected dtype F32, BF16 or F16", where->path, t->name);
    if (has_shape(t, want)) return RLF_OK;
    rlf_str found = {0}, wanted = {0};
    shape_text(t, &found);
    if (want->vector) rlf_str_printf(&wanted, "[%d]", want->cols);
    else rlf_str_printf(&wanted, "[%d, %d]", want->rows, want->cols);
    rlf_status status = RLF_RAISE(INVALID, "%s: tensor '%s': expected shape %s as in config.json, found %s", where->path,
                                  t->name, wanted.ptr, found.ptr);
    rlf_str_clean_up(&found);
    rlf_str_clean_up(&wanted);
    return status;
}

static rlf_status read_tensor(const shards *set, const rlf_tensor_info *want, float *weights) {
    const shard *where = NULL;
    const rlf_st_tensor *t = find_in(set, want->name, &where);
    size_t n = (size_t)want->rows * (size_t)want->cols, bad;
    if (!widen(t->dtype, t->data, n, weights + want->offset, &bad))
        return RLF_RAISE(INVALID, "%s: tensor '%s': element %zu is not a finite number", where->path, t->name, bad);
    return RLF_OK;
}

/* A stored head of a tied model must be the embedding; another would be lost without a word. */
static rlf_status check_tied_head(const shards *set, const rlf_model_layout *layout) {
    const shard *where = NULL;
    const rlf_st_tensor *head = find_in(set, "lm_head.weight", &where);
    if (!layout->shape.tied || !head) return RLF_OK;
    const rlf_st_tensor *embed = find_in(set, layout->tensors[0].name, &where);
    if (head->dtype == embed->dtype && head->bytes == embed->bytes && memcmp(head->data, embed->data, head->bytes) == 0) return RLF_OK;
    return RLF_RAISE(INVALID, "%s: 'lm_head.weight' differs from '%s', but config.json says tie_word_embeddings", set->dir, embed->name);
}

rlf_status rlf_checkpoint_read(const char *dir, const rlf_model_layout *layout, float *weights) {
    rlf_status status = RLF_OK;
    shards set = {.dir = dir};
    RLF_TRY(open_shards(&set));
    RLF_TRY(check_unique(&set));
    RLF_TRY(check_names(&set, layout));
    for (size_t i = 0; i < layout->n_tensors; i++) {
        const shard *where = NULL;
        const rlf_st_tensor *t = find_in(&set, layout->tensors[i].name, &where);
        RLF_TRY(check_tensor(where, t, &layout->tensors[i]));
    }
    RLF_TRY(check_tied_head(&set, layout));
    memset(weights, 0, layout->total * sizeof *weights); /* the padding between tensors */
    for (size_t i = 0; i < layout->n_tensors; i++) RLF_TRY(read_tensor(&set, &layout->tensors[i], weights));
out:
    shards_clean_up(&set);
    return status;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------------------- */

/* The text with the fewest digits that reads back to the same numbers (1e-06 must not become 9.9999999999999995e-07). */
static char *shortest_text(const json_t *root) {
    for (int digits = 6;; digits++) {
        char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
        json_t *again = text ? json_loads(text, 0, NULL) : NULL;
        bool same = digits == 17 || !text || json_equal(root, again);
        json_decref(again);
        if (same) return text;
        free(text);
    }
}

static rlf_status put_json(const char *dir, const char *name, const json_t *root) {
    char *path = join(dir, name), *text = shortest_text(root);
    rlf_str bytes = {0};
    rlf_status status = RLF_OK;
    if (!text) RLF_FAIL(NO_MEMORY, "%s: no memory for its text", path);
    rlf_str_printf(&bytes, "%s\n", text);
    RLF_TRY(rlf_outfile_put(path, bytes.ptr, bytes.len));
out:
    rlf_str_clean_up(&bytes);
    free(text);
    free(path);
    return status;
}

/* As transformers writes it for Qwen3, in the spelling that its versions 4 and 5 both read. */
static json_t *config_from_shape(const rlf_model_shape *s) {
    return json_pack("{s:[s], s:b, s:f, s:n, s:n, s:i, s:s, s:i, s:f, s:i, s:i, s:i, s:s, s:i, s:i, s:i, s:f, s:n, s:f, s:n, "
                     "s:b, s:s, s:b, s:b, s:i}",
                     "architectures", "Qwen3ForCausalLM", "attention_bias", 0, "attention_dropout", 0.0, "bos_token_id",
                     "eos_token_id", "head_dim",
                     s->head_dim, "hidden_act", "silu", "hidden_size", s->hidden, "initializer_range", 0.02, "intermediate_size", s->ffn,
                     "max_position_embeddings", s->max_positions, "max_window_layers", s->layers, "model_type", "qwen3",
                     "num_attention_heads", s->heads,
                     "num_hidden_layers", s->layers, "num_key_value_heads", s->kv_heads, "rms_norm_eps", s->rms_eps,
                     "rope_scaling", "rope_theta",
                     s->rope_theta, "sliding_window", "tie_word_embeddings", (int)s->tied, "torch_dtype", "float32", "use_cache", 1,
                     "use_sliding_window", 0, "vocab_size", s->vocab);
}

static bool same_shape(const rlf_model_shape *a, const rlf_model_shape *b) {
    return strcmp(a->family, b->family) == 0 && a->hidden == b->hidden && a->layers == b->layers && a->heads == b->heads &&
           a->kv_heads == b->kv_heads && a->head_dim == b->head_dim && a->ffn == b->ffn && a->vocab == b->vocab && a->tied == b->tied &&
           a->rope_theta == b->rope_theta && a->rms_eps == b->rms_eps && a->qk_norm == b->qk_norm && a->qkv_bias == b->qkv_bias;
}

/* The source's config.json, every key kept, with the dtype of the file that is written. */
static rlf_status config_from_source(const char *source_dir, const rlf_model_shape *shape, json_t **out) {
    rlf_status status = RLF_OK;
    rlf_model_shape theirs;
    rlf_str text = {0};
    json_error_t error;
    char *path = join(source_dir, "config.json");
    RLF_TRY(rlf_model_shape_read(&theirs, source_dir));
    if (!same_shape(&theirs, shape)) RLF_FAIL(INVALID, "%s: describes another model than the weights to be written", path);
    RLF_TRY(rlf_str_read_file(&text, path, CONFIG_MAX));
    *out = json_loadb(text.ptr, text.len, 0, &error);
    if (!*out) RLF_FAIL(INVALID, "%s:%d: not JSON: %s", path, error.line, error.text);
    bool both = json_object_get(*out, "dtype") && json_object_get(*out, "torch_dtype");
    bool newer = json_object_get(*out, "dtype") != NULL;
    if (newer) json_object_set_new(*out, "dtype", json_string("float32"));
    if (both || !newer) json_object_set_new(*out, "torch_dtype", json_string("float32"));
out:
    rlf_str_clean_up(&text);
    free(path);
    return status;
}

/* Sets *config, owned by the caller. */
static rlf_status write_config(const char *dir, const rlf_model_shape *shape, const char *source_dir, json_t **config) {
    rlf_status status = RLF_OK;
    bool copied = source_dir && exists(source_dir, "config.json");
    if (!copied && strcmp(shape->family, "qwen3") != 0)
        RLF_FAIL(UNSUPPORTED, "%s/config.json: family '%s' is not supported", dir, shape->family);
    if (copied) RLF_TRY(config_from_source(source_dir, shape, config));
    else *config = config_from_shape(shape);
    if (!*config) RLF_FAIL(NO_MEMORY, "%s/config.json: no memory for its text", dir);
    RLF_TRY(put_json(dir, "config.json", *config));
out:
    return status;
}

/* What `generate` of transformers needs to know: which tokens begin and end. */
static rlf_status write_generation_config(const char *dir, const json_t *config) {
    static const char *const keys[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    json_t *root = json_pack("{s:b}", "_from_model_config", 1);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        json_t *value = json_object_get(config, keys[i]);
        if (value && !json_is_null(value)) json_object_set(root, keys[i], value);
    }
    rlf_status status = put_json(dir, "generation_config.json", root);
    json_decref(root);
    return status;
}

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static rlf_status copy_file(const char *from_dir, const char *dir, const char *name) {
    char *from = join(from_dir, name), *to = join(dir, name);
    rlf_str text = {0};
    rlf_status status = RLF_OK;
    if (same_file(from, to)) goto out;
    RLF_TRY(rlf_str_read_file(&text, from, SIDE_FILE_MAX));
    RLF_TRY(rlf_outfile_put(to, text.ptr ? text.ptr : "", text.len));
out:
    rlf_str_clean_up(&text);
    free(from);
    free(to);
    return status;
}

rlf_status rlf_checkpoint_copy_tokenizer(const char *dir, const char *source_dir) {
    static const char *const names[] = {"tokenizer.json",    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                                        "vocab.json",        "merges.txt",            "chat_template.jinja",     "chat_template.json"};
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (exists(source_dir, names[i])) RLF_TRY(copy_file(source_dir, dir, names[i]));
out:
    return status;
}

static rlf_status write_weights(const char *dir, const rlf_model_layout *layout, const float *weights) {
    rlf_st_tensor *tensors = rlf_calloc(layout->n_tensors, sizeof *tensors);
    char *path = join(dir, "model.safetensors");
    for (size_t i = 0; i < layout->n_tensors; i++) {
        const rlf_tensor_info *t = &layout->tensors[i];
        tensors[i] = (rlf_st_tensor){.name = t->name, .dtype = RLF_DTYPE_F32, .dims = t->vector ? 1 : 2,
                                     .shape = {t->vector ? t->cols : t->rows, t->cols},
                                     .data = weights + t->offset, .bytes = (size_t)t->rows * (size_t)t->cols * sizeof(float)};
    }
    rlf_status status = rlf_safetensors_write(path, tensors, layout->n_tensors);
    free(path);
    free(tensors);
    return status;
}

rlf_status rlf_checkpoint_write(const char *dir, const rlf_model_layout *layout, const float *weights, const char *source_dir) {
    rlf_status status = RLF_OK;
    json_t *config = NULL;
    RLF_TRY(write_config(dir, &layout->shape, source_dir, &config));
    if (source_dir && exists(source_dir, "generation_config.json")) RLF_TRY(copy_file(source_dir, dir, "generation_config.json"));
    else RLF_TRY(write_generation_config(dir, config));
    if (source_dir) RLF_TRY(rlf_checkpoint_copy_tokenizer(dir, source_dir));
    RLF_TRY(write_weights(dir, layout, weights));
out:
    json_decref(config);
    return status;
}

/* ---- random weights --------------------------------------------------------------------------------------------------------------- */

/* Four standard normals of one block: two Box-Muller pairs. */
static void four_normals(uint64_t seed, size_t tensor, uint64_t block, double out[4]) {
    uint32_t w[4];
    rlf_rng_block(seed, RLF_RNG_INIT, tensor, (uint32_t)(block >> 32), (uint32_t)block, w);
    for (int i = 0; i < 4; i += 2) {
        double radius = sqrt(-2.0 * log(((double)w[i] + 0.5) * 0x1p-32)), angle = 6.283185307179586 * ((double)w[i + 1] * 0x1p-32);
        out[i] = radius * cos(angle);
        out[i + 1] = radius * sin(angle);
    }
}

static void fill_normal(uint64_t seed, double std, size_t tensor, size_t n, float *out) {
    double z[4];
    for (size_t i = 0; i < n; i++) {
        if (i % 4 == 0) four_normals(seed, tensor, i / 4, z);
        out[i] = (float)(std * z[i % 4]);
    }
}

static bool is_bias(rlf_tensor_role role) { return role == RLF_T_Q_BIAS || role == RLF_T_K_BIAS || role == RLF_T_V_BIAS; }

void rlf_checkpoint_random(const rlf_model_layout *layout, uint64_t seed, double std, float *weights) {
    memset(weights, 0, layout->total * sizeof *weights);
    for (size_t i = 0; i < layout->n_tensors; i++) {
        const rlf_tensor_info *t = &layout->tensors[i];
        size_t n = (size_t)t->rows * (size_t)t->cols;
        float *at = weights + t->offset;
        if (!t->vector) fill_normal(seed, std, i, n, at);
        else if (!is_bias(t->role))
            for (size_t j = 0; j < n; j++) at[j] = 1.0f;
    }
}
