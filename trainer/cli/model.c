/* A checkpoint folder opened for one process (model.h). */
#include "trainer/cli/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/checkpoint.h"

bool rlf_cli_device_parse(const char *text, const char **out) {
    *out = text;
    return !strcmp(text, "auto") || !strcmp(text, "cpu") || !strcmp(text, "cuda");
}

rlf_status rlf_cli_device_open(kern_device **out, const kern_device_options *options) {
    rlf_status status = kern_device_open(out, options);
    if (status == RLF_OK && kern_device_is_card(*out))
        fprintf(stderr, "rlf: computing on %s: no card has run some of these kernels yet (kernels/cuda/README.md)\n", kern_device_name(*out));
    return status;
}

rlf_status rlf_cli_model_open(rlf_cli_model *model, const char *dir, const kern_device_options *device) {
    rlf_status status = RLF_OK;
    rlf_model_shape shape;
    *model = (rlf_cli_model){0};
    RLF_TRY(rlf_model_shape_read(&shape, dir));
    rlf_model_layout_init(&model->layout, &shape);
    RLF_TRY(rlf_tokenizer_load(&model->tokenizer, dir));
    RLF_TRY(rlf_cli_device_open(&model->device, device));
    RLF_TRY(kern_queue_new(&model->queue, model->device));
out:
    return status;
}

rlf_status rlf_cli_model_read(rlf_cli_model *model, const char *dir, kern_precision precision, size_t positions) {
    rlf_status status = RLF_OK;
    if (positions > (size_t)model->layout.shape.max_positions)
        RLF_FAIL(LIMIT, "text of %zu tokens: the model in %s has %d positions", positions, dir, model->layout.shape.max_positions);
    if (precision.stored == RLF_DTYPE_OTHER) RLF_TRY(rlf_checkpoint_dtype(dir, &precision.stored));
    if (precision.factors == RLF_DTYPE_OTHER) precision.factors = precision.stored;
    RLF_TRY(kern_model_new(&model->model, model->queue, &model->layout, precision, positions ? (int)positions : 1));
    RLF_TRY(kern_model_read(model->model, dir));
out:
    return status;
}

void rlf_cli_model_clean_up(rlf_cli_model *model) {
    kern_model_destroy(model->model);
    kern_queue_destroy(model->queue);
    kern_device_close(model->device);
    rlf_tokenizer_destroy(model->tokenizer);
    rlf_model_layout_clean_up(&model->layout);
}

static rlf_status add_text(rlf_cli_texts *texts, size_t *cap, const char *text, size_t n, rlf_cli_encode_fn *encode, void *ctx) {
    texts->ids = rlf_grow(texts->ids, texts->n, cap, sizeof *texts->ids);
    rlf_ids *ids = &texts->ids[texts->n++];
    *ids = (rlf_ids){0};
    rlf_status status = encode(ctx, text, n, ids);
    if (ids->n > texts->longest) texts->longest = ids->n;
    if (status != RLF_OK) rlf_error_context("line %zu", texts->n);
    return status;
}

rlf_status rlf_cli_texts_read(rlf_cli_texts *texts, const char *text, rlf_cli_encode_fn *encode, void *ctx) {
    rlf_status status = RLF_OK;
    char *line = NULL;
    size_t cap = 0, cap_texts = 0;
    *texts = (rlf_cli_texts){0};
    if (text) RLF_TRY(add_text(texts, &cap_texts, text, rlf_slice_of(text).len, encode, ctx));
    for (ssize_t n; !text && (n = getline(&line, &cap, stdin)) >= 0;) {
        if (n > 0 && line[n - 1] == '\n') line[--n] = 0;
        RLF_TRY(add_text(texts, &cap_texts, line, (size_t)n, encode, ctx));
    }
    if (!text && ferror(stdin)) RLF_FAIL(IO, "cannot read standard input");
out:
    free(line);
    return status;
}

void rlf_cli_texts_clean_up(rlf_cli_texts *texts) {
    for (size_t i = 0; i < texts->n; i++) rlf_ids_clean_up(&texts->ids[i]);
    free(texts->ids);
}

void rlf_cli_print_ids(const rlf_ids *ids) {
    putchar('[');
    for (size_t i = 0; i < ids->n; i++) printf(i ? ",%d" : "%d", ids->v[i]);
    puts("]");
}
