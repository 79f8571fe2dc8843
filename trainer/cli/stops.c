/* The ids that end a text (model.h). */
#include <unistd.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "trainer/cli/model.h"

enum { MAX_CONFIG = 4 << 20 };

void rlf_cli_usual_stops(const rlf_tokenizer *tokenizer, rlf_ids *out) {
    static const char *const names[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int32_t id = rlf_tokenizer_id(tokenizer, names[i]);
        if (id >= 0) rlf_ids_push(out, id);
    }
}

static void push_id(const json_t *value, rlf_ids *out) {
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (id >= 0 && id <= INT32_MAX) rlf_ids_push(out, (int32_t)id);
}

/* eos_token_id of a file, a number or a list; nothing where there is no such file or key. */
static rlf_status read_stops(const char *path, rlf_ids *out) {
    rlf_status status = RLF_OK;
    json_t *root = NULL;
    if (access(path, F_OK) != 0) return RLF_OK;
    RLF_TRY(rlf_json_read_file(path, MAX_CONFIG, 0, &root));
    const json_t *stops = json_object_get(root, "eos_token_id");
    push_id(stops, out);
    for (size_t i = 0; i < json_array_size(stops); i++) push_id(json_array_get(stops, i), out);
out:
    json_decref(root);
    return status;
}

rlf_status rlf_cli_stops(const char *dir, const rlf_tokenizer *tokenizer, rlf_ids *out) {
    static const char *const files[] = {"generation_config.json", "config.json"};
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    for (size_t i = 0; i < sizeof files / sizeof files[0] && out->n == 0; i++) {
        rlf_str_reset(&path);
        rlf_str_printf(&path, "%s/%s", dir, files[i]);
        RLF_TRY(read_stops(path.ptr, out));
    }
    if (out->n == 0) rlf_cli_usual_stops(tokenizer, out);
out:
    rlf_str_clean_up(&path);
    return status;
}
