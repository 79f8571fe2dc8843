/* Checkpoint folders: those that transformers saved (tests/golden/make_checkpoint.py) are read to the values they hold; those we
 * write are read back; a broken one gives one line. */
#include "tests/test.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/base/outfile.h"
#include "common/model/checkpoint.h"
#include "common/model/safetensors.h"

/* A temporary folder for each test. */
static char dir[64], other[64];

static void empty_folder(const char *path) {
    char file[512];
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        unlink(file); /* refuses . and .. */
    }
    if (folder) closedir(folder);
}

static int set_up(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/rlf_test_ck_XXXXXX");
    snprintf(other, sizeof other, "/tmp/rlf_test_ck_XXXXXX");
    return mkdtemp(dir) && mkdtemp(other) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    empty_folder(dir);
    empty_folder(other);
    return rmdir(dir) || rmdir(other);
}

static void put(const char *folder, const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(rlf_outfile_put(path, text, strlen(text)));
}

static rlf_str get(const char *folder, const char *name) {
    char path[512];
    rlf_str text = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(rlf_str_read_file(&text, path, 1 << 24));
    return text;
}

static rlf_model_layout small_layout(bool tied) {
    rlf_model_shape shape = {.family = "qwen3", .hidden = 6, .layers = 1, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 5, .vocab = 7,
                             .max_positions = 32, .rope_theta = 1e4, .rms_eps = 1e-6, .tied = tied, .qk_norm = true};
    rlf_model_layout layout;
    rlf_model_layout_init(&layout, &shape);
    return layout;
}

/* ---- what transformers saved ------------------------------------------------------------------------------------------------------ */

static void assert_golden(const char *name, bool tied) {
    char path[512];
    rlf_model_shape shape;
    rlf_model_layout layout;
    snprintf(path, sizeof path, RLF_GOLDEN "/%s", name);
    assert_ok(rlf_model_shape_read(&shape, path));
    assert_int_equal(shape.hidden, 16);
    assert_int_equal(shape.kv_heads, 2);
    assert_int_equal(shape.head_dim, 8);
    assert_true(shape.rope_theta == 5000.0 && shape.rms_eps == 1e-6 && shape.tied == tied);
    rlf_model_layout_init(&layout, &shape);
    float *weights = malloc(layout.total * sizeof *weights);
    memset(weights, 0xFF, layout.total * sizeof *weights);
    assert_ok(rlf_checkpoint_read(path, &layout, RLF_DTYPE_F32, weights));
    double sum = 0, expected = 0;
    for (size_t t = 0; t < layout.n_tensors; t++) {
        for (size_t i = 0; i < (size_t)layout.tensors[t].rows * (size_t)layout.tensors[t].cols; i++) {
            float value = (float)((int)((7 * i + 13 * t) % 63) - 31) / 32;
            assert_true(weights[layout.tensors[t].offset + i] == value);
            expected += fabsf(value);
        }
    }
    for (size_t i = 0; i < layout.total; i++) sum += fabsf(weights[i]);
    assert_true(sum == expected); /* so the padding is zero */
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

static void a_float32_checkpoint_is_read(void **state) {
    (void)state;
    assert_golden("checkpoint_tied", true);
}

static void a_sharded_bfloat16_checkpoint_is_read(void **state) {
    (void)state;
    assert_golden("checkpoint_bf16", false);
}

static void a_float16_checkpoint_with_an_older_config_is_read(void **state) {
    (void)state;
    assert_golden("checkpoint_f16", true);
}

/* ---- what we write ---------------------------------------------------------------------------------------------------------------- */

static void a_written_checkpoint_is_read_back(void **state) {
    (void)state;
    rlf_model_layout layout = small_layout(false);
    rlf_model_shape shape;
    float *weights = rlf_calloc(layout.total, sizeof *weights), *again = rlf_calloc(layout.total, sizeof *again);
    rlf_checkpoint_random(&layout, 3, 0.02, RLF_DTYPE_F32, weights);
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, NULL, RLF_SHARD_BYTES));
    assert_ok(rlf_model_shape_read(&shape, dir));
    assert_string_equal(shape.family, "qwen3");
    assert_true(shape.hidden == 6 && shape.layers == 1 && shape.heads == 2 && shape.kv_heads == 1 && shape.head_dim == 4 && shape.ffn == 5);
    assert_true(shape.vocab == 7 && shape.max_positions == 32 && shape.rope_theta == 1e4 && shape.rms_eps == 1e-6 && !shape.tied &&
                shape.qk_norm);
    assert_ok(rlf_checkpoint_read(dir, &layout, RLF_DTYPE_F32, again));
    assert_memory_equal(weights, again, layout.total * sizeof *weights);
    free(weights);
    free(again);
    rlf_model_layout_clean_up(&layout);
}

static void the_same_weights_give_the_same_bytes(void **state) {
    (void)state;
    rlf_model_layout layout = small_layout(true);
    float *weights = rlf_calloc(layout.total, sizeof *weights);
    rlf_checkpoint_random(&layout, 3, 0.02, RLF_DTYPE_F32, weights);
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, NULL, RLF_SHARD_BYTES));
    assert_ok(rlf_checkpoint_write(other, &layout, RLF_DTYPE_F32, weights, NULL, RLF_SHARD_BYTES));
    static const char *const files[] = {"config.json", "generation_config.json", "model.safetensors"};
    for (size_t i = 0; i < 3; i++) {
        rlf_str a = get(dir, files[i]), b = get(other, files[i]);
        assert_int_equal(a.len, b.len);
        assert_memory_equal(a.ptr, b.ptr, a.len);
        rlf_str_clean_up(&a);
        rlf_str_clean_up(&b);
    }
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

static void the_config_of_every_named_family_is_read_back_as_it_was(void **state) {
    (void)state;
    static const char *const names[] = {"tiny", "tiny-qwen2", "tiny-llama", "tiny-mistral", "quickstart-llama"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        rlf_model_shape shape, again;
        rlf_model_layout layout;
        assert_ok(rlf_model_shape_named(&shape, names[i]));
        rlf_model_layout_init(&layout, &shape);
        float *weights = rlf_calloc(layout.total, sizeof *weights);
        assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, NULL, RLF_SHARD_BYTES));
        memset(&again, 0, sizeof again);
        assert_ok(rlf_model_shape_read(&again, dir));
        assert_string_equal(again.family, shape.family);
        memcpy(again.family, shape.family, sizeof again.family);
        assert_memory_equal(&again, &shape, sizeof shape);
        free(weights);
        rlf_model_layout_clean_up(&layout);
    }
}

/* Bytes of data in one file of DIR. */
static size_t file_bytes(const char *name, size_t *tensors) {
    char path[512];
    rlf_safetensors *file;
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(rlf_safetensors_open(&file, path));
    *tensors = rlf_safetensors_count(file);
    for (size_t i = 0; i < *tensors; i++) bytes += rlf_safetensors_at(file, i)->bytes;
    rlf_safetensors_destroy(file);
    return bytes;
}

static void weights_above_the_limit_go_into_several_files_with_an_index(void **state) {
    (void)state;
    rlf_model_layout layout = small_layout(false);
    float *weights = rlf_calloc(layout.total, sizeof *weights), *again = rlf_calloc(layout.total, sizeof *again);
    rlf_checkpoint_random(&layout, 3, 0.02, RLF_DTYPE_F32, weights);
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, NULL, RLF_SHARD_BYTES));
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, NULL, 180)); /* the largest tensor has 192 */
    rlf_str text = get(dir, "model.safetensors.index.json");
    json_t *root = json_loads(text.ptr, 0, NULL), *file;
    const char *key;
    size_t tensors, held;
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "metadata"), "total_parameters")), 344);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "metadata"), "total_size")), 1376);
    json_object_foreach(json_object_get(root, "weight_map"), key, file) {
        held = file_bytes(json_string_value(file), &tensors);
        assert_true(held <= 180 || tensors == 1);
    }
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(access(path, F_OK), -1);
    assert_ok(rlf_checkpoint_read(dir, &layout, RLF_DTYPE_F32, again));
    assert_memory_equal(weights, again, layout.total * sizeof *weights);
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, NULL, 1376));
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    assert_int_equal(access(path, F_OK), -1);
    json_decref(root);
    rlf_str_clean_up(&text);
    free(weights);
    free(again);
    rlf_model_layout_clean_up(&layout);
}

/* Every tensor of what transformers wrote is found again, byte for byte, after it went through a slab of that dtype. */
static void assert_bytes_kept(const char *name, rlf_dtype dtype, size_t shard_bytes) {
    char source[512];
    rlf_model_shape shape;
    rlf_model_layout layout;
    snprintf(source, sizeof source, RLF_GOLDEN "/%s", name);
    assert_ok(rlf_model_shape_read(&shape, source));
    rlf_model_layout_init(&layout, &shape);
    size_t bytes = layout.total * rlf_dtype_size(dtype);
    void *weights = rlf_calloc(bytes, 1), *again = rlf_calloc(bytes, 1);
    assert_ok(rlf_checkpoint_read(source, &layout, dtype, weights));
    assert_ok(rlf_checkpoint_write(dir, &layout, dtype, weights, source, shard_bytes));
    memset(again, 0xFF, bytes);
    assert_ok(rlf_checkpoint_read(dir, &layout, dtype, again));
    assert_memory_equal(weights, again, bytes);
    free(weights);
    free(again);
    rlf_model_layout_clean_up(&layout);
}

/* Tensors of the same name in both files are the same; *compared counts them. */
static void assert_same_tensors(const char *a_path, const char *b_path, size_t *compared) {
    rlf_safetensors *a, *b;
    assert_ok(rlf_safetensors_open(&a, a_path));
    assert_ok(rlf_safetensors_open(&b, b_path));
    for (size_t i = 0; i < rlf_safetensors_count(a); i++) {
        const rlf_st_tensor *x = rlf_safetensors_at(a, i), *y = rlf_safetensors_find(b, x->name);
        if (!y) continue;
        assert_true(x->dtype == y->dtype && x->dims == y->dims && x->bytes == y->bytes);
        assert_memory_equal(x->data, y->data, x->bytes);
        ++*compared;
    }
    rlf_safetensors_destroy(a);
    rlf_safetensors_destroy(b);
}

static void loading_and_saving_keeps_every_tensor_to_the_byte(void **state) {
    (void)state;
    size_t compared = 0;
    char path[128], theirs[512];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_bytes_kept("checkpoint_tied", RLF_DTYPE_F32, RLF_SHARD_BYTES);
    assert_same_tensors(RLF_GOLDEN "/checkpoint_tied/model.safetensors", path, &compared);
    assert_int_equal(compared, 24);
    assert_bytes_kept("checkpoint_bf16", RLF_DTYPE_BF16, RLF_SHARD_BYTES);
    for (int i = 1; i <= 4; i++) {
        snprintf(theirs, sizeof theirs, RLF_GOLDEN "/checkpoint_bf16/model-%05d-of-00004.safetensors", i);
        assert_same_tensors(theirs, path, &compared);
    }
    assert_int_equal(compared, 24 + 25);
    assert_bytes_kept("checkpoint_bf16", RLF_DTYPE_BF16, 3000);
}

/* Reads a golden checkpoint, writes it with itself as the source; returns the text of the new config.json. */
static rlf_str rewrite(const char *source, rlf_model_layout *layout) {
    rlf_model_shape shape;
    assert_ok(rlf_model_shape_read(&shape, source));
    rlf_model_layout_init(layout, &shape);
    float *weights = rlf_calloc(layout->total, sizeof *weights), *again = rlf_calloc(layout->total, sizeof *again);
    assert_ok(rlf_checkpoint_read(source, layout, RLF_DTYPE_F32, weights));
    assert_ok(rlf_checkpoint_write(dir, layout, RLF_DTYPE_F32, weights, source, RLF_SHARD_BYTES));
    assert_ok(rlf_checkpoint_read(dir, layout, RLF_DTYPE_F32, again));
    assert_memory_equal(weights, again, layout->total * sizeof *weights);
    free(weights);
    free(again);
    return get(dir, "config.json");
}

static void the_source_config_is_kept_but_for_its_dtype(void **state) {
    (void)state;
    rlf_model_layout layout;
    rlf_str before = get(RLF_GOLDEN "/checkpoint_bf16", "config.json"), after = rewrite(RLF_GOLDEN "/checkpoint_bf16", &layout);
    json_t *a = json_loads(before.ptr, 0, NULL), *b = json_loads(after.ptr, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(a, "dtype")), "bfloat16");
    json_object_set_new(a, "dtype", json_string("float32"));
    assert_true(json_equal(a, b));
    json_decref(a);
    json_decref(b);
    rlf_str_clean_up(&before);
    rlf_str_clean_up(&after);
    rlf_model_layout_clean_up(&layout);
}

static void tokenizer_files_and_generation_config_are_copied(void **state) {
    (void)state;
    rlf_model_layout layout = small_layout(true);
    float *weights = rlf_calloc(layout.total, sizeof *weights);
    put(other, "tokenizer.json", "{\"x\":1}");
    put(other, "generation_config.json", "{\"eos_token_id\":5}");
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, other, RLF_SHARD_BYTES));
    rlf_str tokenizer = get(dir, "tokenizer.json"), generation = get(dir, "generation_config.json");
    assert_string_equal(tokenizer.ptr, "{\"x\":1}");
    assert_string_equal(generation.ptr, "{\"eos_token_id\":5}");
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, dir, RLF_SHARD_BYTES)); /* onto itself */
    rlf_str_clean_up(&tokenizer);
    tokenizer = get(dir, "tokenizer.json");
    assert_string_equal(tokenizer.ptr, "{\"x\":1}");
    rlf_str_clean_up(&tokenizer);
    rlf_str_clean_up(&generation);
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

static void weights_of_another_shape_than_the_source_are_not_written(void **state) {
    (void)state;
    rlf_model_layout layout = small_layout(true);
    float *weights = rlf_calloc(layout.total, sizeof *weights);
    assert_error(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, RLF_GOLDEN "/checkpoint_tied", RLF_SHARD_BYTES), RLF_INVALID,
                 "checkpoint_tied/config.json: describes another model than the weights to be written");
    assert_int_equal(rmdir(dir), 0); /* nothing is in it */
    assert_int_equal(mkdir(dir, 0700), 0);
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

/* ---- broken weights --------------------------------------------------------------------------------------------------------------- */

/* Writes `name` with the tensors of the layout from `first` on, changed by what the test wants. */
typedef struct change {
    size_t first, count; /* tensors written; count 0: all from first on */
    size_t at;           /* the tensor to change */
    const char *name;    /* its new name */
    bool transposed, flat;
    bool extra;          /* one tensor that no layout has */
} change;

static void write_changed(const char *name, const rlf_model_layout *layout, const float *weights, change c) {
    rlf_st_tensor tensors[32];
    char path[128];
    size_t n = 0, end = c.count ? c.first + c.count : layout->n_tensors;
    for (size_t i = c.first; i < end; i++) {
        const rlf_tensor_info *t = &layout->tensors[i];
        rlf_st_tensor *out = &tensors[n++];
        *out = (rlf_st_tensor){.name = t->name, .dtype = RLF_DTYPE_F32, .dims = t->vector ? 1 : 2,
                               .shape = {t->vector ? t->cols : t->rows, t->cols},
                               .data = weights + t->offset, .bytes = (size_t)t->rows * (size_t)t->cols * 4};
        if (i != c.at) continue;
        if (c.name) out->name = c.name;
        if (c.transposed) out->shape[0] = t->cols, out->shape[1] = t->rows;
        if (c.flat) out->dims = 1, out->shape[0] = (int64_t)t->rows * t->cols;
    }
    if (c.extra) tensors[n++] = (rlf_st_tensor){.name = "model.extra", .dims = 1, .shape = {1}, .data = weights, .bytes = 4};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(rlf_safetensors_write(path, tensors, n, NULL, NULL));
}

/* Reads DIR with the layout and expects this message behind the folder's name. */
static void read_refused(const rlf_model_layout *layout, const char *message) {
    float *weights = rlf_calloc(layout->total, sizeof *weights);
    assert_int_not_equal(rlf_checkpoint_read(dir, layout, RLF_DTYPE_F32, weights), RLF_OK);
    assert_memory_equal(rlf_error_message(), dir, strlen(dir));
    assert_string_equal(rlf_error_message() + strlen(dir), message);
    free(weights);
}

static void changed_refused(change c, const char *message) {
    rlf_model_layout layout = small_layout(false);
    float *weights = rlf_calloc(layout.total, sizeof *weights);
    write_changed("model.safetensors", &layout, weights, c);
    read_refused(&layout, message);
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

static void missing_and_unexpected_tensors_are_listed_together(void **state) {
    (void)state;
    changed_refused((change){.first = 1}, ": the weights are not those of config.json: 1 missing tensor: model.embed_tokens.weight");
    changed_refused((change){.extra = true}, ": the weights are not those of config.json: 1 unexpected tensor: model.extra");
    changed_refused((change){.first = 2, .extra = true},
                    ": the weights are not those of config.json: 2 missing tensors: model.embed_tokens.weight, "
                                                         "model.layers.0.input_layernorm.weight; 1 unexpected tensor: model.extra");
    changed_refused((change){.at = 3, .name = "model.layers.0.self_attn.k.weight"},
                    ": the weights are not those of config.json: 1 missing tensor: model.layers.0.self_attn.k_proj.weight; "
                    "1 unexpected tensor: model.layers.0.self_attn.k.weight");
    changed_refused((change){.first = 13, .extra = true},
                    ": the weights are not those of config.json: 13 missing tensors: model.embed_tokens.weight, model.layers.0.input_layernorm.weight, "
                    "model.layers.0.self_attn.q_proj.weight, model.layers.0.self_attn.k_proj.weight, model.layers.0.self_attn.v_proj.weight, "
                    "model.layers.0.self_attn.q_norm.weight, model.layers.0.self_attn.k_norm.weight, model.layers.0.self_attn.o_proj.weight and 5 more; "
                    "1 unexpected tensor: model.extra");
}

static void wrong_shapes_are_named(void **state) {
    (void)state;
    changed_refused((change){.at = 2, .transposed = true}, "/model.safetensors: tensor 'model.layers.0.self_attn.q_proj.weight': "
                                                           "expected shape [8, 6] as in config.json, found [6, 8]");
    changed_refused((change){.at = 2, .flat = true}, "/model.safetensors: tensor 'model.layers.0.self_attn.q_proj.weight': "
                                                     "expected shape [8, 6] as in config.json, found [48]");
}

static void numbers_that_are_not_finite_are_refused(void **state) {
    (void)state;
    rlf_model_layout layout = small_layout(false);
    float *weights = rlf_calloc(layout.total, sizeof *weights);
    weights[layout.tensors[2].offset + 5] = NAN;
    write_changed("model.safetensors", &layout, weights, (change){0});
    read_refused(&layout, "/model.safetensors: tensor 'model.layers.0.self_attn.q_proj.weight': element 5 is not a finite number");
    weights[layout.tensors[2].offset + 5] = 0;
    weights[layout.tensors[0].offset + 1] = -INFINITY;
    write_changed("model.safetensors", &layout, weights, (change){0});
    read_refused(&layout, "/model.safetensors: tensor 'model.embed_tokens.weight': element 1 is not a finite number");
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

static void other_dtypes_are_refused(void **state) {
    (void)state;
    rlf_model_shape shape = {.family = "qwen3", .hidden = 1, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .ffn = 1,
                             .vocab = 1, .tied = true};
    rlf_model_layout layout;
    rlf_str text = {0};
    size_t end = 0;
    rlf_model_layout_init(&layout, &shape);
    for (size_t i = 0; i < layout.n_tensors; i++) {
        const rlf_tensor_info *t = &layout.tensors[i];
        size_t n = (size_t)t->rows * (size_t)t->cols;
        rlf_str_printf(&text, "%c\"%s\":{\"dtype\":\"I8\",\"shape\":", i ? ',' : '{', t->name);
        rlf_str_printf(&text, t->vector ? "[%d]" : "[%d,%d]", t->vector ? t->cols : t->rows, t->cols);
        rlf_str_printf(&text, ",\"data_offsets\":[%zu,%zu]}", end, end + n);
        end += n;
    }
    rlf_str_putc(&text, '}');
    char path[128];
    unsigned char length[8] = {(unsigned char)text.len, (unsigned char)(text.len >> 8)};
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = fopen(path, "wb");
    fwrite(length, 1, 8, f);
    fwrite(text.ptr, 1, text.len, f);
    for (size_t i = 0; i < end; i++) fputc(0, f);
    fclose(f);
    read_refused(&layout, "/model.safetensors: tensor 'model.embed_tokens.weight': expected dtype F32, BF16 or F16");
    rlf_str_clean_up(&text);
    rlf_model_layout_clean_up(&layout);
}

static void a_stored_head_of_a_tied_model_must_be_the_embedding(void **state) {
    (void)state;
    rlf_model_layout tied = small_layout(true), untied = small_layout(false);
    float *weights = rlf_calloc(untied.total, sizeof *weights), *read = rlf_calloc(tied.total, sizeof *read);
    write_changed("model.safetensors", &untied, weights, (change){0});
    assert_ok(rlf_checkpoint_read(dir, &tied, RLF_DTYPE_F32, read));
    weights[untied.tensors[untied.n_tensors - 1].offset] = 1;
    write_changed("model.safetensors", &untied, weights, (change){0});
    read_refused(&tied, "/model.safetensors: 'lm_head.weight' differs from the embedding, but config.json says tie_word_embeddings");
    free(weights);
    free(read);
    rlf_model_layout_clean_up(&tied);
    rlf_model_layout_clean_up(&untied);
}

static void values_of_every_half_number_are_widened_exactly(void **state) {
    (void)state;
    static uint16_t half[65536];
    rlf_model_shape shape = {.family = "qwen3", .hidden = 256, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .ffn = 1,
                             .vocab = 248, .tied = true};
    rlf_model_layout layout;
    rlf_model_layout_init(&layout, &shape);
    /* The 248 * 256 finite ones: sign, then every pattern below the exponent of all ones. */
    for (size_t i = 0; i < 63488; i++) half[i] = (uint16_t)(i < 31744 ? i : i - 31744 + 32768);
    float *weights = rlf_calloc(layout.total, sizeof *weights);
    rlf_st_tensor tensors[16];
    for (size_t i = 0; i < layout.n_tensors; i++) {
        const rlf_tensor_info *t = &layout.tensors[i];
        tensors[i] = (rlf_st_tensor){.name = t->name, .dtype = RLF_DTYPE_F16, .dims = t->vector ? 1 : 2,
                                     .shape = {t->vector ? t->cols : t->rows, t->cols},
                                     .data = half, .bytes = (size_t)t->rows * (size_t)t->cols * 2};
    }
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_ok(rlf_safetensors_write(path, tensors, layout.n_tensors, NULL, NULL));
    assert_ok(rlf_checkpoint_read(dir, &layout, RLF_DTYPE_F32, weights));
    for (size_t i = 0; i < 63488; i++) {
        int exponent = half[i] >> 10 & 31, fraction = half[i] & 1023;
        float value = exponent ? ldexpf((float)(1024 + fraction), exponent - 25) : ldexpf((float)fraction, -24);
        assert_true(weights[i] == (half[i] >> 15 ? -value : value));
    }
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

/* Nearly nine million weights: enough for three threads. */
static void a_large_file_is_read_whole_and_its_first_fault_is_found(void **state) {
    (void)state;
    rlf_model_shape shape = {.family = "llama", .hidden = 33, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .ffn = 3, .vocab = 130000};
    rlf_model_layout layout;
    rlf_model_layout_init(&layout, &shape);
    uint16_t *weights = rlf_calloc(layout.total, sizeof *weights), *again = rlf_calloc(layout.total, sizeof *again);
    for (size_t t = 0; t < layout.n_tensors; t++)
        for (size_t i = 0; i < (size_t)layout.tensors[t].rows * (size_t)layout.tensors[t].cols; i++)
            weights[layout.tensors[t].offset + i] = (uint16_t)(i * 2654435761u >> 18 & 0xBFFF);
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_BF16, weights, NULL, RLF_SHARD_BYTES));
    memset(again, 0xFF, layout.total * sizeof *again);
    assert_ok(rlf_checkpoint_read(dir, &layout, RLF_DTYPE_BF16, again));
    assert_memory_equal(weights, again, layout.total * sizeof *weights);
    weights[2000000] = weights[3999999] = weights[layout.total - 20] = 0x7FC0;
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_BF16, weights, NULL, RLF_SHARD_BYTES));
    for (int i = 0; i < 5; i++) {
        assert_error(rlf_checkpoint_read(dir, &layout, RLF_DTYPE_BF16, again), RLF_INVALID,
                     "tensor 'model.embed_tokens.weight': element 2000000 is not a finite number");
    }
    free(weights);
    free(again);
    rlf_model_layout_clean_up(&layout);
}

/* ---- broken folders --------------------------------------------------------------------------------------------------------------- */

static void an_empty_folder_says_what_is_missing(void **state) {
    (void)state;
    rlf_model_layout layout = small_layout(false);
    read_refused(&layout, ": holds neither model.safetensors nor model.safetensors.index.json");
    rlf_model_layout_clean_up(&layout);
}

static void broken_indices_are_refused(void **state) {
    (void)state;
    rlf_model_layout layout = small_layout(false);
    float *weights = rlf_calloc(layout.total, sizeof *weights);
    write_changed("a.safetensors", &layout, weights, (change){.count = 2});
    write_changed("b.safetensors", &layout, weights, (change){.first = 1, .count = 1});
    static const char index[] = "model.safetensors.index.json";
    put(dir, index, "{\"weight_map\":[]}");
    read_refused(&layout, "/model.safetensors.index.json: 'weight_map': expected a map from tensor to file");
    put(dir, index, "{}");
    read_refused(&layout, "/model.safetensors.index.json: 'weight_map': expected a map from tensor to file");
    put(dir, index, "{\"weight_map\":{\"x\":\"../../etc/x.safetensors\"}}");
    read_refused(&layout, "/model.safetensors.index.json: 'x': expected the name of a .safetensors file beside it");
    put(dir, index, "{\"weight_map\":{\"x\":7}}");
    read_refused(&layout, "/model.safetensors.index.json: 'x': expected the name of a .safetensors file beside it");
    put(dir, index, "{\"weight_map\":{\"x\":\"c.safetensors\"}}");
    read_refused(&layout, "/c.safetensors: cannot open: No such file or directory");
    put(dir, index, "{\"weight_map\":{\"x\":\"a.safetensors\"}}");
    read_refused(&layout, "/model.safetensors.index.json: tensor 'x' is not in a.safetensors, where the index says it is");
    put(dir, index, "{\"weight_map\":{\"model.embed_tokens.weight\":\"a.safetensors\",\"model.layers.0.input_layernorm.weight\":\"b.safetensors\"}}");
    char message[256];
    snprintf(message, sizeof message, "/b.safetensors: tensor 'model.layers.0.input_layernorm.weight' is also in %s/a.safetensors", dir);
    read_refused(&layout, message);
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

static void a_truncated_file_is_refused(void **state) {
    (void)state;
    rlf_model_layout layout = small_layout(false);
    float *weights = rlf_calloc(layout.total, sizeof *weights);
    char path[128];
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, NULL, RLF_SHARD_BYTES));
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(truncate(path, info.st_size - 4), 0);
    read_refused(&layout, "/model.safetensors: tensor 'lm_head.weight': its data end at byte 1376 of the data, but the file has only 1372 (truncated?)");
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

/* ---- slabs in pieces -------------------------------------------------------------------------------------------------------------- */

typedef struct piecewise {
    const float *weights;
    size_t most, asked; /* elements given at a time; how often */
    float piece[100];
} piecewise;

static rlf_status give_piece(void *ctx, size_t begin, size_t *n, const void **data) {
    piecewise *from = ctx;
    if (*n > from->most) *n = from->most;
    memcpy(from->piece, from->weights + begin, *n * sizeof(float));
    *data = from->piece;
    from->asked++;
    return RLF_OK;
}

static void a_slab_goes_through_pieces_of_any_size(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 7, 16, 100};
    rlf_model_layout layout = small_layout(true);
    float *weights = rlf_calloc(layout.total, sizeof *weights), *again = rlf_calloc(layout.total, sizeof *again);
    rlf_checkpoint *file;
    rlf_checkpoint_random(&layout, 3, 0.02, RLF_DTYPE_F32, weights);
    assert_ok(rlf_checkpoint_write(other, &layout, RLF_DTYPE_F32, weights, NULL, 500));
    rlf_str index = get(other, "model.safetensors.index.json");
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        piecewise from = {.weights = weights, .most = sizes[s]};
        memset(again, 0xFF, layout.total * sizeof *again);
        assert_ok(rlf_checkpoint_write_from(dir, &layout, RLF_DTYPE_F32, give_piece, &from, NULL, 500));
        assert_true(from.asked >= layout.n_tensors);
        rlf_str index_again = get(dir, "model.safetensors.index.json");
        assert_string_equal(index.ptr, index_again.ptr);
        rlf_str_clean_up(&index_again);
        assert_ok(rlf_checkpoint_open(&file, dir, &layout, RLF_DTYPE_F32));
        for (size_t at = 0; at < layout.total; at += sizes[s]) {
            size_t n = layout.total - at < sizes[s] ? layout.total - at : sizes[s];
            assert_ok(rlf_checkpoint_range(file, at, n, again + at));
        }
        rlf_checkpoint_close(file);
        assert_memory_equal(weights, again, layout.total * sizeof *weights);
        memset(again, 0xFF, layout.total * sizeof *again);
        for (size_t at = 0; at < layout.total; at += sizes[s]) {
            size_t n = layout.total - at < sizes[s] ? layout.total - at : sizes[s];
            rlf_checkpoint_random_range(&layout, 3, 0.02, RLF_DTYPE_F32, at, n, again + at);
        }
        assert_memory_equal(weights, again, layout.total * sizeof *weights);
    }
    rlf_str_clean_up(&index);
    free(weights);
    free(again);
    rlf_model_layout_clean_up(&layout);
}

/* ---- random weights --------------------------------------------------------------------------------------------------------------- */

static void random_weights_are_normal_and_a_function_of_the_seed(void **state) {
    (void)state;
    rlf_model_shape shape;
    rlf_model_layout layout;
    assert_ok(rlf_model_shape_named(&shape, "quickstart"));
    rlf_model_layout_init(&layout, &shape);
    float *a = rlf_calloc(layout.total, sizeof *a), *b = rlf_calloc(layout.total, sizeof *b);
    rlf_checkpoint_random(&layout, 5, 0.02, RLF_DTYPE_F32, a);
    rlf_checkpoint_random(&layout, 5, 0.02, RLF_DTYPE_F32, b);
    assert_memory_equal(a, b, layout.total * sizeof *a);
    rlf_checkpoint_random(&layout, 6, 0.02, RLF_DTYPE_F32, b);
    const rlf_tensor_info *embed = &layout.tensors[0], *norm = rlf_model_tensor(&layout, RLF_T_NORM_FINAL, -1);
    size_t n = (size_t)embed->rows * (size_t)embed->cols;
    double mean = 0, square = 0, fourth = 0, same = 0;
    for (size_t i = 0; i < n; i++) {
        double z = a[embed->offset + i] / 0.02;
        mean += z / (double)n;
        square += z * z / (double)n;
        fourth += z * z * z * z / (double)n;
        same += a[i] == b[i];
    }
    assert_true(fabs(mean) < 0.02 && fabs(square - 1) < 0.03 && fabs(fourth - 3) < 0.2);
    assert_true(same < 4);
    for (int i = 0; i < norm->cols; i++) assert_true(a[norm->offset + (size_t)i] == 1.0f);
    free(a);
    free(b);
    rlf_model_layout_clean_up(&layout);
}

static void the_dtype_that_loses_nothing_is_told(void **state) {
    (void)state;
    rlf_dtype dtype;
    assert_ok(rlf_checkpoint_dtype(RLF_GOLDEN "/checkpoint_bf16", &dtype));
    assert_int_equal(dtype, RLF_DTYPE_BF16);
    assert_ok(rlf_checkpoint_dtype(RLF_GOLDEN "/checkpoint_tied", &dtype));
    assert_int_equal(dtype, RLF_DTYPE_F32);
    assert_int_equal(rlf_checkpoint_dtype(dir, &dtype), RLF_NOT_FOUND);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(a_float32_checkpoint_is_read),
        CASE(a_sharded_bfloat16_checkpoint_is_read),
        CASE(a_float16_checkpoint_with_an_older_config_is_read),
        CASE(a_written_checkpoint_is_read_back),
        CASE(the_config_of_every_named_family_is_read_back_as_it_was),
        CASE(weights_above_the_limit_go_into_several_files_with_an_index),
        CASE(loading_and_saving_keeps_every_tensor_to_the_byte),
        CASE(a_large_file_is_read_whole_and_its_first_fault_is_found),
        CASE(the_same_weights_give_the_same_bytes),
        CASE(the_source_config_is_kept_but_for_its_dtype),
        CASE(tokenizer_files_and_generation_config_are_copied),
        CASE(weights_of_another_shape_than_the_source_are_not_written),
        CASE(missing_and_unexpected_tensors_are_listed_together),
        CASE(wrong_shapes_are_named),
        CASE(numbers_that_are_not_finite_are_refused),
        CASE(other_dtypes_are_refused),
        CASE(a_stored_head_of_a_tied_model_must_be_the_embedding),
        CASE(values_of_every_half_number_are_widened_exactly),
        CASE(the_dtype_that_loses_nothing_is_told),
        CASE(an_empty_folder_says_what_is_missing),
        CASE(broken_indices_are_refused),
        CASE(a_truncated_file_is_refused),
        CASE(a_slab_goes_through_pieces_of_any_size),
        CASE(random_weights_are_normal_and_a_function_of_the_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
