/* Reading the weights of a checkpoint folder (checkpoint.h): one file or shards, checked, into the slab. */
#include "common/model/checkpoint.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/model/folder.h"
#include "common/model/load.h"
#include "common/model/safetensors.h"

enum { SHARDS_MAX = 4096, INDEX_MAX = 64 << 20, LIST_BYTES = 350 };

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
    char *path = rlf_folder_path(set->dir, name);
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
    char *path = rlf_folder_path(set->dir, "model.safetensors.index.json");
    json_t *root = NULL;
    RLF_TRY(rlf_json_read_file(path, INDEX_MAX, JSON_REJECT_DUPLICATES, &root));
    RLF_TRY(add_indexed(set, path, json_object_get(root, "weight_map")));
out:
    json_decref(root);
    free(path);
    return status;
}

static rlf_status open_shards(shards *set) {
    const shard *only;
    if (rlf_folder_has(set->dir, "model.safetensors")) return add_shard(set, "model.safetensors", &only);
    if (rlf_folder_has(set->dir, "model.safetensors.index.json")) return open_indexed(set);
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

/* ---- data ------------------------------------------------------------------------------------------------------------------------- */

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

struct rlf_checkpoint {
    shards set;
    const rlf_model_layout *layout;
    rlf_dtype dtype;
    rlf_stored *tensors; /* (layout->n_tensors), owned */
    rlf_stored head;     /* of a tied model that has it all the same */
};

static rlf_status find_tensors(rlf_checkpoint *c) {
    rlf_status status = RLF_OK;
    const rlf_model_layout *layout = c->layout;
    const shard *where = NULL;
    for (size_t i = 0; i < layout->n_tensors; i++) {
        const rlf_st_tensor *t = find_in(&c->set, layout->tensors[i].name, &where);
        RLF_TRY(check_tensor(where, t, &layout->tensors[i]));
        c->tensors[i] = (rlf_stored){where->file, t};
    }
    const rlf_st_tensor *head = layout->shape.tied ? find_in(&c->set, "lm_head.weight", &where) : NULL;
    if (!head) goto out;
    RLF_TRY(check_tensor(where, head, &layout->tensors[0]));
    c->head = (rlf_stored){where->file, head};
out:
    return status;
}

rlf_status rlf_checkpoint_open(rlf_checkpoint **out, const char *dir, const rlf_model_layout *layout, rlf_dtype dtype) {
    rlf_status status = RLF_OK;
    rlf_checkpoint *c = rlf_calloc(1, sizeof *c);
    *c = (rlf_checkpoint){.set = {.dir = dir}, .layout = layout, .dtype = dtype};
    c->tensors = rlf_calloc(layout->n_tensors, sizeof *c->tensors);
    RLF_TRY(open_shards(&c->set));
    RLF_TRY(check_unique(&c->set));
    RLF_TRY(check_names(&c->set, layout));
    RLF_TRY(find_tensors(c));
    *out = c;
    c = NULL;
out:
    rlf_checkpoint_close(c);
    return status;
}

void rlf_checkpoint_close(rlf_checkpoint *c) {
    if (!c) return;
    shards_clean_up(&c->set);
    free(c->tensors);
    free(c);
}

/* A stored head of a tied model must be the embedding; another would be lost without a word. */
static rlf_load load_of_run(const rlf_checkpoint *c, rlf_model_run run, void *to) {
    size_t i = (size_t)(run.tensor - c->layout->tensors);
    return (rlf_load){.from = c->tensors[i], .twin = i == 0 ? c->head : (rlf_stored){0}, .begin = run.begin, .n = run.n,
                      .dtype = c->dtype, .to = to};
}

rlf_status rlf_checkpoint_range(const rlf_checkpoint *c, size_t begin, size_t n, void *to) {
    size_t size = rlf_dtype_size(c->dtype), loads = 0;
    rlf_load *load = rlf_calloc(c->layout->n_tensors, sizeof *load);
    rlf_model_run run;
    for (size_t at = 0; at < n; at += run.n) {
        char *place = (char *)to + at * size;
        run = rlf_model_run_at(c->layout, begin + at, begin + n);
        if (run.tensor) load[loads++] = load_of_run(c, run, place);
        else memset(place, 0, run.n * size);
    }
    rlf_status status = rlf_load_run(load, loads);
    free(load);
    return status;
}

rlf_status rlf_checkpoint_read(const char *dir, const rlf_model_layout *layout, rlf_dtype dtype, void *weights) {
    rlf_status status = RLF_OK;
    rlf_checkpoint *c = NULL;
    RLF_TRY(rlf_checkpoint_open(&c, dir, layout, dtype));
    RLF_TRY(rlf_checkpoint_range(c, 0, layout->total, weights));
out:
    rlf_checkpoint_close(c);
    return status;
}

static bool all_bf16(const rlf_safetensors *file) {
    for (size_t i = 0; i < rlf_safetensors_count(file); i++)
        if (rlf_safetensors_at(file, i)->dtype != RLF_DTYPE_BF16) return false;
    return true;
}

rlf_status rlf_checkpoint_dtype(const char *dir, rlf_dtype *out) {
    rlf_status status = RLF_OK;
    shards set = {.dir = dir};
    RLF_TRY(open_shards(&set));
    *out = RLF_DTYPE_BF16;
    for (size_t i = 0; i < set.n; i++)
        if (!all_bf16(set.items[i].file)) *out = RLF_DTYPE_F32;
out:
    shards_clean_up(&set);
    return status;
}
