/* Broken checkpoint folders, one row of a table each: what is wrong, and the one line it gives, which names the file and the key, tensor or
 * byte. Each row starts from a folder that is fine (a Llama of one layer, in one file or in three). */
#include "tests/test.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/base/outfile.h"
#include "common/model/checkpoint.h"

typedef enum damage {
    SET,     /* config.json: key a becomes the JSON text b */
    DROP,    /* config.json: key a is gone */
    PUT,     /* the file's text is b */
    REMOVE,  /* the file is gone */
    FOLDER,  /* the file is a folder */
    CUT,     /* the file loses its last n bytes */
    GROW,    /* the file gains n bytes */
    BYTES,   /* n bytes of b overwrite those at byte `at` of the data, behind a safetensors header */
    LENGTH,  /* the header's length field becomes n */
    HEADER,  /* in the header, the first a becomes b */
    INDEX,   /* in the index, the first a becomes b */
} damage;

typedef struct row {
    const char *title;
    damage damage;
    const char *file, *a, *b;
    size_t at, n;
    const char *message; /* behind the folder's path */
} row;

#define ONE "model.safetensors"
#define SECOND "model-00002-of-00003.safetensors"
#define INDEX_FILE "model.safetensors.index.json"
#define EMBED "model.embed_tokens.weight"
#define Q "model.layers.0.self_attn.q_proj.weight"
#define K "model.layers.0.self_attn.k_proj.weight"
#define LLAMA3 "\"rope_type\":\"llama3\",\"factor\":8.0,\"original_max_position_embeddings\":16"

static const row CONFIGS[] = {
    {"no config", REMOVE, "config.json", .message = "/config.json: cannot open: No such file or directory"},
    {"a folder in its place", FOLDER, "config.json", .message = "/config.json: cannot read: Is a directory"},
    {"not JSON", PUT, "config.json", .b = "model_type: llama",
     .message = "/config.json:1: byte 5: not JSON: '[' or '{' expected near 'model'"},
    {"cut off", PUT, "config.json", .b = "{\"model_type\": \"llama\",\n \"hidden_size\": 8",
     .message = "/config.json:2: byte 41: not JSON: '}' expected near end of file"},
    {"empty", PUT, "config.json", .b = "", .message = "/config.json:1: byte 0: not JSON: '[' or '{' expected near end of file"},
    {"broken UTF-8", PUT, "config.json", .b = "{\"model_type\": \"lla\xff\"}",
     .message = "/config.json:1: byte 19: not JSON: unable to decode byte 0xff"},
    {"nested without end", PUT, "config.json", .b = NULL,
     .message = "/config.json:1: byte 2049: not JSON: maximum parsing depth reached near '['"},
    {"a list", PUT, "config.json", .b = "[1]", .message = "/config.json: expected a JSON map"},
    {"a key twice", PUT, "config.json", .b = "{\"model_type\":\"llama\",\"model_type\":\"qwen3\"}",
     .message = "/config.json:1: byte 34: not JSON: duplicate object key near '\"model_type\"'"},
    {"no family", DROP, .a = "model_type",
     .message = "/config.json: 'model_type': expected qwen3, qwen2, llama or mistral; the key is missing or not a text"},
    {"another family", SET, .a = "model_type", .b = "\"gpt2\"",
     .message = "/config.json: 'model_type': 'gpt2' is not supported; expected qwen3, qwen2, llama or mistral"},
    {"mixture of experts", SET, .a = "model_type", .b = "\"mixtral\"",
     .message = "/config.json: 'model_type': 'mixtral' is not supported; expected qwen3, qwen2, llama or mistral"},
    {"experts", SET, .a = "num_local_experts", .b = "8",
     .message = "/config.json: 'num_local_experts': anything but null is not supported"},
    {"quantised", SET, .a = "quantization_config", .b = "{\"quant_method\":\"gptq\"}",
     .message = "/config.json: 'quantization_config': anything but null is not supported"},
    {"another head", SET, .a = "architectures", .b = "[\"LlamaForSequenceClassification\"]",
     .message = "/config.json: 'architectures': 'LlamaForSequenceClassification' is not supported; expected LlamaForCausalLM"},
    {"another activation", SET, .a = "hidden_act", .b = "\"gelu\"",
     .message = "/config.json: 'hidden_act': anything but silu is not supported"},
    {"sliding layers", SET, .a = "layer_types", .b = "[\"sliding_attention\"]",
     .message = "/config.json: 'layer_types': anything but full_attention is not supported"},
    {"biases", SET, .a = "attention_bias", .b = "true", .message = "/config.json: 'attention_bias': true is not supported"},
    {"biases of another type", SET, .a = "mlp_bias", .b = "\"no\"", .message = "/config.json: 'mlp_bias': expected true or false"},
    {"yarn", SET, .a = "rope_scaling", .b = "{\"type\":\"yarn\",\"factor\":4.0}",
     .message = "/config.json: 'rope_scaling.type': 'yarn' is not supported; expected default or llama3"},
    {"scaling without its numbers", SET, .a = "rope_scaling", .b = "{" LLAMA3 "}",
     .message = "/config.json: 'rope_scaling.low_freq_factor': expected a number above 0 and at most 1e+06"},
    {"scaling in the wrong order", SET, .a = "rope_parameters", .b = "{\"low_freq_factor\":4,\"high_freq_factor\":1," LLAMA3 "}",
     .message = "/config.json: 'rope_parameters.high_freq_factor': expected a number above low_freq_factor"},
    {"a theta of text", SET, .a = "rope_theta", .b = "\"1e6\"",
     .message = "/config.json: 'rope_theta': expected a number above 0 and at most 1e+12"},
    {"no width", SET, .a = "hidden_size", .b = "0", .message = "/config.json: 'hidden_size': expected an integer from 1 to 65536"},
    {"a negative depth", SET, .a = "num_hidden_layers", .b = "-1",
     .message = "/config.json: 'num_hidden_layers': expected an integer from 1 to 1024"},
    {"a depth of 2^31", SET, .a = "num_hidden_layers", .b = "2147483648",
     .message = "/config.json: 'num_hidden_layers': expected an integer from 1 to 1024"},
    {"a broken number of heads", SET, .a = "num_attention_heads", .b = "2.5",
     .message = "/config.json: 'num_attention_heads': expected an integer from 1 to 1024"},
    {"heads that do not divide", SET, .a = "num_key_value_heads", .b = "3",
     .message = "/config.json: 'num_key_value_heads': expected a divisor of num_attention_heads"},
    {"an odd head", SET, .a = "head_dim", .b = "5", .message = "/config.json: 'head_dim': expected an even number"},
    {"no vocabulary", DROP, .a = "vocab_size",
     .message = "/config.json: 'vocab_size': expected an integer from 1 to 4194304; the key is missing"},
};

static const row WEIGHTS[] = {
    {"no weights", REMOVE, ONE, .message = ": holds neither model.safetensors nor model.safetensors.index.json"},
    {"a folder in their place", FOLDER, ONE, .message = "/" ONE ": not a regular file"},
    {"empty", PUT, ONE, .b = "", .message = "/" ONE ": 0 bytes are too few for a safetensors file (truncated?)"},
    {"a web page", PUT, ONE, .b = "<html>404</html>",
     .message = "/" ONE ": byte 0: a header of 3473469848023230524 bytes; at most 100000000 are allowed (not a safetensors file?)"},
    {"cut within the data", CUT, ONE, .n = 4,
     .message = "/" ONE ": tensor 'lm_head.weight': its data end at byte 2080 of the data, but the file has only 2076 (truncated?)"},
    {"bytes behind the data", GROW, ONE, .n = 3, .message = "/" ONE ": 3 bytes behind the last tensor belong to none"},
    {"a header beyond the file", LENGTH, ONE, .n = 90000000, .message = "/" ONE ": a header of 90000000 bytes, but only "},
    {"a header cut short", LENGTH, ONE, .n = 20, .message = "/" ONE ": byte 28: the header is not JSON: "},
    {"a header that is no map", HEADER, ONE, "{", "[",
     .message = "/" ONE ": byte 24: the header is not JSON: ']' expected near ':'"},
    {"a name twice", HEADER, ONE, K, Q, .message = "/" ONE ": byte "},
    {"a tensor missing", HEADER, ONE, Q, "model.layers.0.self_attn.q_prox.weight",
     .message = ": the weights are not those of config.json: 1 missing tensor: " Q "; 1 unexpected tensor: model.layers.0.self_attn.q_prox.weight"},
    {"a hole", HEADER, ONE, "\"data_offsets\":[0,320]", "\"data_offsets\":[4,324]",
     .message = "/" ONE ": tensor '" EMBED "': a hole of 4 bytes before its data, at byte 0"},
    {"an overlap", HEADER, ONE, "\"data_offsets\":[320,352]", "\"data_offsets\":[316,348]",
     .message = "/" ONE ": tensor 'model.layers.0.input_layernorm.weight': its data overlap those of '" EMBED "'"},
    {"an offset beyond the file", HEADER, ONE, "\"data_offsets\":[0,320]", "\"data_offsets\":[0,99999999999]",
     .message = "/" ONE ": tensor '" EMBED "': its data end at byte 99999999999 of the data, but the file has only 2080 (truncated?)"},
    {"offsets the wrong way round", HEADER, ONE, "\"data_offsets\":[0,320]", "\"data_offsets\":[320,0]",
     .message = "/" ONE ": tensor '" EMBED "': expected 'data_offsets' that begin at 0 or later and end no earlier than they begin"},
    {"a dtype nobody knows", HEADER, ONE, "\"F32\"", "\"X99\"",
     .message = "/" ONE ": tensor '" EMBED "': dtype 'X99' is not known"},
    {"a dtype that is not read", HEADER, ONE, "\"F32\"", "\"I32\"",
     .message = "/" ONE ": tensor '" EMBED "': expected dtype F32, BF16 or F16"},
    {"a dtype of half the bytes", HEADER, ONE, "\"F32\"", "\"F16\"",
     .message = "/" ONE ": tensor '" EMBED "': shape and dtype make 80 elements of 2 bytes, but data_offsets hold 320 bytes"},
    {"a shape the other way round", HEADER, ONE, "\"shape\":[10,8]", "\"shape\":[8,10]",
     .message = "/" ONE ": tensor '" EMBED "': expected shape [10, 8] as in config.json, found [8, 10]"},
    {"a shape of another size", HEADER, ONE, "\"shape\":[10,8]", "\"shape\":[10,9]",
     .message = "/" ONE ": tensor '" EMBED "': shape and dtype make 90 elements of 4 bytes, but data_offsets hold 320 bytes"},
    {"a negative shape", HEADER, ONE, "\"shape\":[10,8]", "\"shape\":[-10,-8]",
     .message = "/" ONE ": tensor '" EMBED "': expected whole numbers of at least 0 in 'shape'"},
    {"a NaN", BYTES, ONE, .b = "\xff\xff\xff\xff", .at = 8, .n = 4,
     .message = "/" ONE ": tensor '" EMBED "': element 2 is not a finite number"},
    {"an infinity", BYTES, ONE, .b = "\x00\x00\x80\xff", .at = 320, .n = 4,
     .message = "/" ONE ": tensor 'model.layers.0.input_layernorm.weight': element 0 is not a finite number"},
    {"weights of another vocabulary", SET, .a = "vocab_size", .b = "11",
     .message = "/" ONE ": tensor '" EMBED "': expected shape [11, 8] as in config.json, found [10, 8]"},
    {"weights of fewer layers", SET, .a = "num_hidden_layers", .b = "2",
     .message = ": the weights are not those of config.json: 9 missing tensors: model.layers.1.input_layernorm.weight, model.layers.1.self_attn.q_proj"},
    {"weights of another head", SET, .a = "tie_word_embeddings", .b = "true",
     .message = "/" ONE ": 'lm_head.weight' differs from the embedding, but config.json says tie_word_embeddings"},
    {"weights of another family", PUT, "config.json",
     .b = "{\"model_type\":\"qwen2\",\"hidden_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
          "\"intermediate_size\":6,\"vocab_size\":10}",
     .message = ": the weights are not those of config.json: 3 missing tensors: model.layers.0.self_attn.q_proj.bias, "
                "model.layers.0.self_attn.k_proj.bias, model.layers.0.self_attn.v_proj.bias"},
};

static const row SHARDS[] = {
    {"no index", REMOVE, INDEX_FILE, .message = ": holds neither model.safetensors nor model.safetensors.index.json"},
    {"an index that is not JSON", PUT, INDEX_FILE, .b = "{\"weight_map\": {", .message = "/" INDEX_FILE ":1: not JSON: "},
    {"an index without a map", PUT, INDEX_FILE, .b = "{\"metadata\": {}}",
     .message = "/" INDEX_FILE ": 'weight_map': expected a map from tensor to file"},
    {"a shard missing", REMOVE, SECOND, .message = "/" SECOND ": cannot open: No such file or directory"},
    {"a shard cut off", CUT, SECOND, .n = 1,
     .message = "/" SECOND ": tensor 'model.layers.0.mlp.gate_proj.weight': its data end at byte 608 of the data, but the file has only 607"},
    {"a shard outside the folder", INDEX, .a = "\"lm_head.weight\": \"model", .b = "\"lm_head.weight\": \"../model",
     .message = "/" INDEX_FILE ": 'lm_head.weight': expected the name of a .safetensors file beside it"},
    {"a shard of another kind", INDEX, .a = "\"lm_head.weight\": \"model-00003-of-00003.safetensors\"",
     .b = "\"lm_head.weight\": \"pytorch_model.bin\"",
     .message = "/" INDEX_FILE ": 'lm_head.weight': expected the name of a .safetensors file beside it"},
    {"a tensor in another shard", INDEX, .a = "\"lm_head.weight\": \"model-00003", .b = "\"lm_head.weight\": \"model-00001",
     .message = "/" INDEX_FILE ": tensor 'lm_head.weight' is not in model-00001-of-00003.safetensors, where the index says it is"},
    {"a tensor that is in none", INDEX, .a = "\"lm_head.weight\"", .b = "\"lm_head.bias\"",
     .message = "/" INDEX_FILE ": tensor 'lm_head.bias' is not in model-00003-of-00003.safetensors, where the index says it is"},
    {"a tensor twice in the index", INDEX, .a = "\"model.norm.weight\"", .b = "\"lm_head.weight\"",
     .message = "/" INDEX_FILE ":18: not JSON: duplicate object key near '\"lm_head.weight\"'"},
    {"a name in two shards", HEADER, SECOND, "mlp.gate_proj.weight", "mlp.up_proj.weight",
     .message = "/" INDEX_FILE ": tensor 'model.layers.0.mlp.gate_proj.weight' is not in " SECOND ", where the index says it is"},
    {"a NaN in a shard", BYTES, SECOND, .b = "\x00\x00\xc0\x7f", .at = 0, .n = 4, 
     .message = "/" SECOND ": tensor 'model.layers.0.self_attn.v_proj.weight': element 0 is not a finite number"},
};

/* ---- a folder and its damage ------------------------------------------------------------------------------------------------------ */

static char dir[64];

static char *path_of(const char *file) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    return path;
}

static void make_folder(size_t shard_bytes) {
    rlf_model_shape shape = {.family = "llama", .hidden = 8, .layers = 1, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 6, .vocab = 10,
                             .max_positions = 32, .rope_theta = 1e4, .rms_eps = 1e-5};
    rlf_model_layout layout;
    snprintf(dir, sizeof dir, "/tmp/rlf_test_broken_XXXXXX");
    assert_non_null(mkdtemp(dir));
    rlf_model_layout_init(&layout, &shape);
    float *weights = rlf_calloc(layout.total, sizeof *weights);
    rlf_checkpoint_random(&layout, 1, 0.5, RLF_DTYPE_F32, weights);
    assert_ok(rlf_checkpoint_write(dir, &layout, RLF_DTYPE_F32, weights, NULL, shard_bytes));
    free(weights);
    rlf_model_layout_clean_up(&layout);
}

static void remove_folder(void) {
    DIR *folder = opendir(dir);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (entry->d_name[0] != '.') remove(path_of(entry->d_name));
    closedir(folder);
    assert_int_equal(rmdir(dir), 0);
}

static rlf_str get(const char *file) {
    rlf_str text = {0};
    assert_ok(rlf_str_read_file(&text, path_of(file), 1 << 20));
    return text;
}

static void put(const char *file, const char *bytes, size_t n) { assert_ok(rlf_outfile_put(path_of(file), bytes, n)); }

static void set_key(const char *key, const char *value) {
    json_t *root = json_load_file(path_of("config.json"), 0, NULL);
    if (value) json_object_set_new(root, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else json_object_del(root, key);
    assert_int_equal(json_dump_file(root, path_of("config.json"), 0), 0);
    json_decref(root);
}

/* The first a of the text becomes b. */
static rlf_str replaced(const char *text, size_t n, const char *a, const char *b) {
    rlf_str out = {0};
    const char *at = memmem(text, n, a, strlen(a));
    assert_non_null(at);
    rlf_str_append(&out, text, (size_t)(at - text));
    rlf_str_puts(&out, b);
    rlf_str_append(&out, at + strlen(a), n - (size_t)(at - text) - strlen(a));
    return out;
}

static void change_header(const row *r) {
    rlf_str file = get(r->file), out = {0};
    uint64_t length;
    memcpy(&length, file.ptr, 8);
    rlf_str header = replaced(file.ptr + 8, length, r->a, r->b);
    uint64_t now = header.len;
    rlf_str_append(&out, &now, 8);
    rlf_str_append(&out, header.ptr, header.len);
    rlf_str_append(&out, file.ptr + 8 + length, file.len - 8 - length);
    put(r->file, out.ptr, out.len);
    rlf_str_clean_up(&file);
    rlf_str_clean_up(&header);
    rlf_str_clean_up(&out);
}

static void overwrite(const char *file, bool in_data, size_t at, const void *bytes, size_t n) {
    rlf_str text = get(file);
    uint64_t length;
    memcpy(&length, text.ptr, 8);
    memcpy(text.ptr + (in_data ? 8 + length : 0) + at, bytes, n);
    put(file, text.ptr, text.len);
    rlf_str_clean_up(&text);
}

static void put_text(const row *r) {
    static char deep[5000];
    memset(deep, '[', sizeof deep);
    put(r->file, r->b ? r->b : deep, r->b ? strlen(r->b) : sizeof deep);
}

static void change_index(const row *r) {
    rlf_str text = get(INDEX_FILE), out = replaced(text.ptr, text.len, r->a, r->b);
    put(INDEX_FILE, out.ptr, out.len);
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&out);
}

static void do_damage(const row *r) {
    struct stat info;
    switch (r->damage) {
    case SET: set_key(r->a, r->b); break;
    case DROP: set_key(r->a, NULL); break;
    case PUT: put_text(r); break;
    case REMOVE: assert_int_equal(unlink(path_of(r->file)), 0); break;
    case FOLDER: assert_int_equal(unlink(path_of(r->file)) | mkdir(path_of(r->file), 0700), 0); break;
    case CUT:
    case GROW:
        assert_int_equal(stat(path_of(r->file), &info), 0);
        assert_int_equal(truncate(path_of(r->file), info.st_size + (off_t)r->n * (r->damage == GROW ? 1 : -1)), 0);
        break;
    case BYTES: overwrite(r->file, true, r->at, r->b, r->n); break;
    case LENGTH: overwrite(r->file, false, 0, &r->n, 8); break;
    case HEADER: change_header(r); break;
    case INDEX: change_index(r); break;
    }
}

/* As a program opens a folder: the shape, then the weights. */
static rlf_status open_folder(void) {
    rlf_status status = RLF_OK;
    rlf_model_shape shape;
    rlf_model_layout layout = {0};
    void *weights = NULL;
    RLF_TRY(rlf_model_shape_read(&shape, dir));
    rlf_model_layout_init(&layout, &shape);
    weights = rlf_calloc(layout.total, 4);
    RLF_TRY(rlf_checkpoint_read(dir, &layout, RLF_DTYPE_BF16, weights));
out:
    free(weights);
    rlf_model_layout_clean_up(&layout);
    return status;
}

static int refused(const row *r) {
    const char *message = rlf_error_message(), *rest = message + strlen(dir);
    rlf_status status = open_folder();
    if (status == RLF_OK) print_error("%s: accepted\n", r->title);
    else if (strncmp(message, dir, strlen(dir)) != 0 || strncmp(rest, r->message, strlen(r->message)) != 0)
        print_error("%s: says\n  %s\nexpected\n  %s\n", r->title, message, r->message);
    else if (!strchr(message, '\n')) return 0;
    return 1;
}

static void each(const row *rows, size_t n, size_t shard_bytes) {
    int failures = 0;
    for (size_t i = 0; i < n; i++) {
        make_folder(shard_bytes);
        assert_ok(open_folder());
        do_damage(&rows[i]);
        failures += refused(&rows[i]);
        remove_folder();
    }
    assert_int_equal(failures, 0);
}

static void broken_configs_give_one_line(void **state) {
    (void)state;
    each(CONFIGS, sizeof CONFIGS / sizeof CONFIGS[0], RLF_SHARD_BYTES);
}

static void broken_weights_give_one_line(void **state) {
    (void)state;
    each(WEIGHTS, sizeof WEIGHTS / sizeof WEIGHTS[0], RLF_SHARD_BYTES);
}

static void broken_shards_give_one_line(void **state) {
    (void)state;
    each(SHARDS, sizeof SHARDS / sizeof SHARDS[0], 750);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_configs_give_one_line),
        cmocka_unit_test(broken_weights_give_one_line),
        cmocka_unit_test(broken_shards_give_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
