/* rlf init: a Hugging Face checkpoint folder of a known shape with random weights, a function of shape and seed alone. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/base/outfile.h"
#include "common/model/checkpoint.h"
#include "common/text/tokenizer.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

static const char usage[] =
    "rlf init --shape NAME -o DIR [--seed N] [--std X] [--dtype NAME] [--tokenizer MODEL] [sizes]\n\n"
    "Writes config.json, generation_config.json and model.safetensors with random weights to DIR, which must not hold a model yet.\n"
    "  --shape NAME        a known shape; a wrong name lists them\n"
    "  --seed N            default 1; the same shape and seed give the same bytes\n"
    "  --std X             standard deviation of the matrices' weights (0.02; small models learn faster from 1/sqrt(hidden))\n"
    "  --dtype NAME        float32 (default) or bfloat16: what the weights are stored as\n"
    "  --tokenizer MODEL   copy the tokenizer of that folder (or of the folder of that tokenizer.json)\n"
    "  --vocab N, --hidden N, --layers N, --heads N, --kv-heads N, --head-dim N, --ffn N, --positions N\n"
    "                      sizes that differ from the shape's";

typedef struct options {
    const char *shape, *out;
    char *tokenizer; /* a folder; owned */
    long long seed;
    double std;
    rlf_dtype dtype;
    rlf_model_shape model;
} options;

/* A size option and its field; the limits are those of config.json. */
typedef struct size_option {
    const char *name;
    size_t offset;
    long long max;
} size_option;

static const size_option SIZES[] = {
    {"--vocab", offsetof(rlf_model_shape, vocab), 1 << 22},       {"--hidden", offsetof(rlf_model_shape, hidden), 1 << 16},
    {"--layers", offsetof(rlf_model_shape, layers), 1024},        {"--heads", offsetof(rlf_model_shape, heads), 1024},
    {"--kv-heads", offsetof(rlf_model_shape, kv_heads), 1024},    {"--head-dim", offsetof(rlf_model_shape, head_dim), 1024},
    {"--ffn", offsetof(rlf_model_shape, ffn), 1 << 20},           {"--positions", offsetof(rlf_model_shape, max_positions), 1 << 24},
};

static rlf_status parse_number(const char *name, const char *text, long long min, long long max, long long *out) {
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (errno || end == text || *end || *out < min || *out > max)
        return RLF_RAISE(INVALID, "%s: expected an integer from %lld to %lld, found '%.60s'", name, min, max, text);
    return RLF_OK;
}

static rlf_status parse_std(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end || !(*out > 0 && *out <= 1))
        return RLF_RAISE(INVALID, "--std: expected a number above 0, up to 1, found '%.60s'", text);
    return RLF_OK;
}

static rlf_status apply_size(options *o, const char *name, const char *text) {
    for (size_t i = 0; i < sizeof SIZES / sizeof SIZES[0]; i++) {
        if (strcmp(SIZES[i].name, name) != 0) continue;
        long long value;
        rlf_status status = parse_number(name, text, 1, SIZES[i].max, &value);
        if (status == RLF_OK) *(int *)((char *)&o->model + SIZES[i].offset) = (int)value;
        return status;
    }
    return RLF_RAISE(INVALID, "unknown option '%.60s' (see rlf init --help)", name);
}

/* The folder of the tokenizer, given as itself or as the path of its tokenizer.json. */
static char *folder_of(const char *path) {
    static const char file[] = "tokenizer.json";
    size_t n = strlen(path), end = sizeof file - 1;
    rlf_str out = {0};
    if (strcmp(path, file) == 0) return rlf_strdup(".");
    if (n > end && path[n - end - 1] == '/' && strcmp(path + n - end, file) == 0) n -= end;
    rlf_str_append(&out, path, n);
    return out.ptr;
}

static rlf_status parse_option(options *o, const char *name, const char *value) {
    if (!value) return RLF_RAISE(INVALID, "%s: expected a value", name);
    if (!strcmp(name, "--shape")) return RLF_OK; /* read first, since sizes change it */
    if (!strcmp(name, "-o")) return o->out = value, RLF_OK;
    if (!strcmp(name, "--seed")) return parse_number(name, value, 0, LLONG_MAX, &o->seed);
    if (!strcmp(name, "--std")) return parse_std(value, &o->std);
    if (!strcmp(name, "--dtype"))
        return rlf_dtype_parse(value, &o->dtype) ? RLF_OK : RLF_RAISE(INVALID, "--dtype: expected float32 or bfloat16, found '%.60s'", value);
    if (strcmp(name, "--tokenizer") != 0) return apply_size(o, name, value);
    free(o->tokenizer);
    o->tokenizer = folder_of(value);
    return RLF_OK;
}

static rlf_status parse_options(options *o, int argc, char **argv) {
    rlf_status status = RLF_OK;
    for (int i = 1; i + 1 < argc; i += 2)
        if (!strcmp(argv[i], "--shape")) o->shape = argv[i + 1];
    RLF_TRY(rlf_model_shape_named(&o->model, o->shape ? o->shape : ""));
    for (int i = 1; i < argc; i += 2) RLF_TRY(parse_option(o, argv[i], i + 1 < argc ? argv[i + 1] : NULL));
    if (!o->out || !*o->out) RLF_FAIL(INVALID, "-o: expected the folder to write");
    if (o->model.heads % o->model.kv_heads) RLF_FAIL(INVALID, "--kv-heads: expected a divisor of the %d heads", o->model.heads);
    if (strcmp(o->model.family, "llama") == 0 && o->model.hidden % o->model.heads)
        RLF_FAIL(INVALID, "--hidden: transformers expects a multiple of the %d heads of a Llama", o->model.heads);
    if (o->model.head_dim % 2) RLF_FAIL(INVALID, "--head-dim: expected an even number");
out:
    return status;
}

static rlf_status load_tokenizer(const options *o, rlf_tokenizer **out) {
    rlf_status status = rlf_tokenizer_load(out, o->tokenizer);
    if (status == RLF_OK && (long long)rlf_tokenizer_size(*out) > o->model.vocab)
        return RLF_RAISE(INVALID, "%s: the tokenizer has ids up to %lld, but the shape only %d rows; give --vocab", o->tokenizer,
                         (long long)rlf_tokenizer_size(*out) - 1, o->model.vocab);
    return status;
}

/* What `generate` of transformers needs to know: which tokens end a text or a turn. */
static void put_stops(const rlf_ids *stops, rlf_str *out) {
    rlf_str_puts(out, "{\n  \"eos_token_id\": ");
    if (stops->n == 1) {
        rlf_str_printf(out, "%d\n}\n", stops->v[0]);
        return;
    }
    for (size_t i = 0; i < stops->n; i++) rlf_str_printf(out, "%s\n    %d", i ? "," : "[", stops->v[i]);
    rlf_str_printf(out, "\n  ],\n  \"pad_token_id\": %d\n}\n", stops->v[stops->n - 1]);
}

/* Copies the tokenizer, and names the tokens that end a text where they have their usual names. */
static rlf_status put_tokenizer(const options *o, const rlf_tokenizer *tokenizer) {
    rlf_status status = RLF_OK;
    rlf_str path = {0}, text = {0};
    rlf_ids stops = {0};
    rlf_cli_usual_stops(tokenizer, &stops);
    RLF_TRY(rlf_checkpoint_copy_tokenizer(o->out, o->tokenizer));
    if (stops.n == 0) goto out;
    put_stops(&stops, &text);
    rlf_str_printf(&path, "%s/generation_config.json", o->out);
    RLF_TRY(rlf_outfile_put(path.ptr, text.ptr, text.len));
out:
    rlf_ids_clean_up(&stops);
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&text);
    return status;
}

static rlf_status make_folder(const char *dir) {
    static const char *const files[] = {"model.safetensors", "model.safetensors.index.json", "config.json"}; /* of a model that is there */
    rlf_str path = {0};
    rlf_status status = RLF_OK;
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) RLF_FAIL(IO, "%s: cannot make the folder: %s", dir, strerror(errno));
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        rlf_str_reset(&path);
        rlf_str_printf(&path, "%s/%s", dir, files[i]);
        if (access(path.ptr, F_OK) == 0) RLF_FAIL(INVALID, "%s: exists already; nothing is overwritten", path.ptr);
    }
out:
    rlf_str_clean_up(&path);
    return status;
}

static rlf_status run(options *o) {
    rlf_status status = RLF_OK;
    rlf_model_layout layout = {0};
    void *weights = NULL;
    rlf_tokenizer *tokenizer = NULL;
    if (o->tokenizer) RLF_TRY(load_tokenizer(o, &tokenizer));
    RLF_TRY(make_folder(o->out));
    rlf_model_layout_init(&layout, &o->model);
    weights = rlf_calloc(layout.total, rlf_dtype_size(o->dtype));
    rlf_checkpoint_random(&layout, (uint64_t)o->seed, o->std, o->dtype, weights);
    RLF_TRY(rlf_checkpoint_write(o->out, &layout, o->dtype, weights, NULL, RLF_SHARD_BYTES));
    if (o->tokenizer) RLF_TRY(put_tokenizer(o, tokenizer));
out:
    rlf_tokenizer_destroy(tokenizer);
    free(weights);
    rlf_model_layout_clean_up(&layout);
    return status;
}

int rlf_cmd_init(int argc, char **argv) {
    options o = {.seed = 1, .std = 0.02};
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return rlf_cli_help(usage);
    rlf_status status = parse_options(&o, argc, argv);
    if (status == RLF_OK) status = run(&o);
    free(o.tokenizer);
    return status == RLF_OK ? 0 : rlf_cli_fail("init");
}
