/* Writing a checkpoint folder (checkpoint.h): config, generation config and tokenizer files, weights in one file or in shards. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/outfile.h"
#include "common/model/checkpoint.h"
#include "common/model/config_json.h"
#include "common/model/folder.h"

enum { SIDE_FILE_MAX = 256 << 20, CONFIG_MAX = 4 << 20 };

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
    char *path = rlf_folder_path(dir, name), *text = shortest_text(root);
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

static bool same_scaling(const rlf_rope_scaling *a, const rlf_rope_scaling *b) {
    return a->factor == b->factor && a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->original_positions == b->original_positions;
}

static bool same_shape(const rlf_model_shape *a, const rlf_model_shape *b) {
    return strcmp(a->family, b->family) == 0 && a->hidden == b->hidden && a->layers == b->layers && a->heads == b->heads &&
           a->kv_heads == b->kv_heads && a->head_dim == b->head_dim && a->ffn == b->ffn && a->vocab == b->vocab && a->tied == b->tied &&
           a->rope_theta == b->rope_theta && same_scaling(&a->rope_scaling, &b->rope_scaling) && a->rms_eps == b->rms_eps &&
           a->qk_norm == b->qk_norm && a->qkv_bias == b->qkv_bias;
}

/* The source's config.json, every key kept, with the dtype of the file that is written. */
static rlf_status config_from_source(const char *source_dir, const rlf_model_shape *shape, rlf_dtype dtype, json_t **out) {
    rlf_status status = RLF_OK;
    rlf_model_shape theirs;
    char *path = rlf_folder_path(source_dir, "config.json");
    RLF_TRY(rlf_model_shape_read(&theirs, source_dir));
    if (!same_shape(&theirs, shape)) RLF_FAIL(INVALID, "%s: describes another model than the weights to be written", path);
    RLF_TRY(rlf_json_read_file(path, CONFIG_MAX, 0, out));
    bool both = json_object_get(*out, "dtype") && json_object_get(*out, "torch_dtype");
    bool newer = json_object_get(*out, "dtype") != NULL;
    if (newer) json_object_set_new(*out, "dtype", json_string(rlf_dtype_torch_name(dtype)));
    if (both || !newer) json_object_set_new(*out, "torch_dtype", json_string(rlf_dtype_torch_name(dtype)));
out:
    free(path);
    return status;
}

/* Sets *config, owned by the caller. */
static rlf_status write_config(const char *dir, const rlf_model_shape *shape, rlf_dtype dtype, const char *source_dir,
                               json_t **config) {
    rlf_status status = RLF_OK;
    bool copied = source_dir && rlf_folder_has(source_dir, "config.json");
    if (copied) RLF_TRY(config_from_source(source_dir, shape, dtype, config));
    else *config = rlf_model_shape_json(shape, rlf_dtype_torch_name(dtype));
    if (!*config) RLF_FAIL(UNSUPPORTED, "%s/config.json: family '%s' is not supported", dir, shape->family);
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
    char *from = rlf_folder_path(from_dir, name), *to = rlf_folder_path(dir, name);
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
        if (rlf_folder_has(source_dir, names[i])) RLF_TRY(copy_file(source_dir, dir, names[i]));
out:
    return status;
}

/* ---- weights ---------------------------------------------------------------------------------------------------------------------- */

/* The layout's tensors as a file holds them, cut into files: file f holds tensors begin[f] .. begin[f+1]-1. */
typedef struct plan {
    const rlf_model_layout *layout;
    rlf_st_tensor *tensors; /* (n) */
    size_t n, files;
    size_t *begin; /* (files + 1) */
    uint64_t bytes, elements;
} plan;

static void plan_clean_up(plan *p) {
    free(p->tensors);
    free(p->begin);
}

static void plan_init(plan *p, const rlf_model_layout *layout, rlf_dtype dtype, size_t shard_bytes) {
    size_t size = rlf_dtype_size(dtype), held = 0;
    *p = (plan){.layout = layout, .n = layout->n_tensors, .files = 1};
    p->tensors = rlf_calloc(p->n, sizeof *p->tensors);
    p->begin = rlf_calloc(p->n + 1, sizeof *p->begin);
    for (size_t i = 0; i < p->n; i++) {
        const rlf_tensor_info *t = &layout->tensors[i];
        size_t elements = (size_t)t->rows * (size_t)t->cols;
        p->tensors[i] = (rlf_st_tensor){.name = t->name, .dtype = dtype, .dims = t->vector ? 1 : 2,
                                        .shape = {t->vector ? t->cols : t->rows, t->cols},
                                        .bytes = elements * size};
        if (held > 0 && held + p->tensors[i].bytes > shard_bytes) {
            p->begin[p->files++] = i;
            held = 0;
        }
        held += p->tensors[i].bytes;
        p->bytes += p->tensors[i].bytes;
        p->elements += elements;
    }
    p->begin[p->files] = p->n;
}

static void file_name(const plan *p, size_t file, char out[64]) {
    if (p->files == 1) snprintf(out, 64, "model.safetensors");
    else snprintf(out, 64, "model-%05zu-of-%05zu.safetensors", file + 1, p->files);
}

static rlf_status write_index(const char *dir, const plan *p) {
    rlf_str text = {0};
    char *path = rlf_folder_path(dir, "model.safetensors.index.json"), name[64];
    json_t *map = json_object();
    for (size_t file = 0; file < p->files; file++) {
        file_name(p, file, name);
        for (size_t i = p->begin[file]; i < p->begin[file + 1]; i++) json_object_set_new(map, p->tensors[i].name, json_string(name));
    }
    json_t *root = json_pack("{s:{s:I, s:I}, s:o}", "metadata", "total_parameters", (json_int_t)p->elements, "total_size",
                             (json_int_t)p->bytes, "weight_map", map);
    char *lines = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS);
    rlf_str_printf(&text, "%s\n", lines ? lines : "");
    rlf_status status = rlf_outfile_put(path, text.ptr, text.len);
    free(lines);
    json_decref(root);
    rlf_str_clean_up(&text);
    free(path);
    return status;
}

/* Removes DIR/NAME, which would be read instead of what was just written, or beside it. */
static rlf_status remove_older(const char *dir, const char *name) {
    char *path = rlf_folder_path(dir, name);
    rlf_status status = RLF_OK;
    if (unlink(path) != 0 && errno != ENOENT) status = RLF_RAISE(IO, "%s: cannot remove: %s", path, strerror(errno));
    free(path);
    return status;
}

/* Where the data of one file come from. */
typedef struct file_source {
    const plan *plan;
    size_t first; /* tensor of the file */
    rlf_slab_fn *slab;
    void *ctx;
} file_source;

static rlf_status tensor_data(void *ctx, size_t i, size_t begin, size_t *bytes, const void **data) {
    const file_source *from = ctx;
    const rlf_st_tensor *t = &from->plan->tensors[from->first + i];
    size_t size = rlf_dtype_size(t->dtype), n = *bytes / size;
    rlf_status status = from->slab(from->ctx, from->plan->layout->tensors[from->first + i].offset + begin / size, &n, data);
    *bytes = n * size;
    return status;
}

static rlf_status write_weights(const char *dir, const plan *p, rlf_slab_fn *slab, void *ctx) {
    rlf_status status = RLF_OK;
    char name[64];
    for (size_t file = 0; file < p->files; file++) {
        file_source from = {p, p->begin[file], slab, ctx};
        file_name(p, file, name);
        char *path = rlf_folder_path(dir, name);
        status = rlf_safetensors_write(path, p->tensors + p->begin[file], p->begin[file + 1] - p->begin[file], tensor_data, &from);
        free(path);
        RLF_TRY(status);
    }
    if (p->files > 1) RLF_TRY(write_index(dir, p));
    RLF_TRY(remove_older(dir, p->files > 1 ? "model.safetensors" : "model.safetensors.index.json"));
out:
    return status;
}

rlf_status rlf_checkpoint_write_from(const char *dir, const rlf_model_layout *layout, rlf_dtype dtype, rlf_slab_fn *slab, void *ctx,
                                     const char *source_dir, size_t shard_bytes) {
    rlf_status status = RLF_OK;
    json_t *config = NULL;
    plan p;
    plan_init(&p, layout, dtype, shard_bytes);
    RLF_TRY(write_config(dir, &layout->shape, dtype, source_dir, &config));
    if (source_dir && rlf_folder_has(source_dir, "generation_config.json")) RLF_TRY(copy_file(source_dir, dir, "generation_config.json"));
    else RLF_TRY(write_generation_config(dir, config));
    if (source_dir) RLF_TRY(rlf_checkpoint_copy_tokenizer(dir, source_dir));
    RLF_TRY(write_weights(dir, &p, slab, ctx));
out:
    plan_clean_up(&p);
    json_decref(config);
    return status;
}

typedef struct memory_slab {
    const char *weights;
    size_t size; /* bytes of an element */
} memory_slab;

static rlf_status memory_data(void *ctx, size_t begin, size_t *n, const void **data) {
    (void)n;
    const memory_slab *from = ctx;
    *data = from->weights + begin * from->size;
    return RLF_OK;
}

rlf_status rlf_checkpoint_write(const char *dir, const rlf_model_layout *layout, rlf_dtype dtype, const void *weights,
                                const char *source_dir, size_t shard_bytes) {
    memory_slab from = {weights, rlf_dtype_size(dtype)};
    return rlf_checkpoint_write_from(dir, layout, dtype, memory_data, &from, source_dir, shard_bytes);
}
