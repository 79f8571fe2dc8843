/* What the loader must refuse: the tiny tokenizer.json with one thing broken. Each refusal is one line that begins with the document's name
 * and says which key, or which line and byte. */
#include "tests/unit/text/golden.h"

static rlf_str tiny; /* the document, compact */

static int load_tiny(void **state) {
    (void)state;
    json_t *root = golden("text_tiny_tokenizer.json");
    char *text = json_dumps(root, JSON_COMPACT);
    rlf_str_puts(&tiny, text);
    free(text);
    json_decref(root);
    return 0;
}

static int drop_tiny(void **state) {
    (void)state;
    rlf_str_clean_up(&tiny);
    return 0;
}

static void refused(const char *what, const char *text, size_t n, const char *part) {
    rlf_tokenizer *tokenizer = NULL;
    rlf_status got = rlf_tokenizer_parse(&tokenizer, text, n, "t.json");
    const char *message = rlf_error_message();
    assert_null(tokenizer);
    if (got == RLF_OK || strncmp(message, "t.json: ", 8) || !strstr(message, part) || strpbrk(message, "\n\r") || strlen(message) > 200)
        fail_msg("%s: %s, \"%s\"", what, rlf_status_name(got), message);
}

/* ---- one value replaced ---- */

static void refused_with(const char *path, const char *key, const char *json, const char *part) {
    json_t *root = json_loadb(tiny.ptr, tiny.len, 0, NULL), *at = root;
    char names[128], *save = NULL;
    snprintf(names, sizeof names, "%s", path);
    for (char *name = strtok_r(names, "/", &save); name; name = strtok_r(NULL, "/", &save))
        at = json_is_array(at) ? json_array_get(at, (size_t)strtol(name, NULL, 10)) : json_object_get(at, name);
    json_t *value = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    if (json_is_array(at)) assert_int_equal(json_array_set_new(at, (size_t)strtol(key, NULL, 10), value), 0);
    else assert_int_equal(json_object_set_new(at, key, value), 0);
    char *text = json_dumps(root, JSON_COMPACT), what[256];
    snprintf(what, sizeof what, "%s/%s = %.60s", path, key, json);
    refused(what, text, strlen(text), part);
    free(text);
    json_decref(root);
}

#define SPLIT "pre_tokenizer/pretokenizers/0"

static void a_value_that_is_not_supported_is_refused_by_its_key(void **state) {
    (void)state;
    static const struct { const char *path, *key, *json, *part; } bad[] = {
        {"", "normalizer", "{\"type\":\"NFKC\"}", "normalizer: type NFKC"},
        {"", "normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"}]}", "normalizers[0]: type Prepend"},
        {"", "normalizer", "7", "normalizer: type (none)"},
        {"", "pre_tokenizer", "{\"type\":\"Whitespace\"}", "pre_tokenizer: type Whitespace"},
        {"", "pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\"}", "pre_tokenizer: type Metaspace"},
        {"", "pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[]}", "pre_tokenizer"},
        {"", "pre_tokenizer", "{\"type\":\"a\\nb\"}", "pre_tokenizer: type a b"},
        {"", "pre_tokenizer", "null", "pre_tokenizer"},
        {"", "pre_tokenizer", "[1]", "pre_tokenizer"},
        {"", "decoder", "{\"type\":\"WordPiece\"}", "decoder: type WordPiece"},
        {"", "decoder", "{\"type\":\"Sequence\",\"decoders\":[]}", "decoder: type Sequence"},
        {"", "decoder", "\"ByteLevel\"", "decoder"},
        {"model", "type", "\"Unigram\"", "model.type: Unigram"},
        {"model", "type", "3", "model.type"},
        {"model", "byte_fallback", "true", "model.byte_fallback"},
        {"model", "dropout", "0.1", "model.dropout"},
        {"model", "end_of_word_suffix", "\"</w>\"", "model.end_of_word_suffix"},
        {"model", "continuing_subword_prefix", "\"##\"", "model.continuing_subword_prefix"},
        {SPLIT, "type", "\"Digits\"", "pre_tokenizer.pretokenizers[0]: type Digits"},
        {SPLIT, "behavior", "\"Removed\"", "pre_tokenizer.pretokenizers[0].behavior: Removed"},
        {SPLIT, "invert", "true", "pre_tokenizer.pretokenizers[0].invert"},
        {SPLIT, "invert", "\"no\"", "pre_tokenizer.pretokenizers[0].invert"},
        {SPLIT, "pattern", "{\"String\":\" \"}", "pre_tokenizer.pretokenizers[0].pattern"},
        {SPLIT, "pattern", "{\"Regex\":\"\\\\w+\"}", "escape"},
        {SPLIT, "pattern", "{\"Regex\":\"\\\\s*\"}", "empty text"},
        {SPLIT, "pattern", "{\"Regex\":\"\"}", "empty text"},
        {"pre_tokenizer/pretokenizers/1", "add_prefix_space", "true", "pre_tokenizer.pretokenizers[1].add_prefix_space"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refused_with(bad[i].path, bad[i].key, bad[i].json, bad[i].part);
}

static void a_bad_value_is_refused_by_its_key(void **state) {
    (void)state;
    static const struct { const char *path, *key, *json, *part; } bad[] = {
        {"", "model", "3", "model: expected an object"},
        {"", "added_tokens", "{}", "added_tokens: expected an array"},
        {"model", "vocab", "[]", "model.vocab: expected an object"},
        {"model", "merges", "null", "model.merges: expected an array"},
        {"model", "merges", "{\"a\":\"b\"}", "model.merges: expected an array"},
        {"model", "ignore_merges", "1", "model.ignore_merges"},
        {"model", "merges", "[\"a b c\"]", "model.merges[0]: expected"},
        {"model", "merges", "[\"ab\"]", "model.merges[0]: expected"},
        {"model", "merges", "[[\"a\"]]", "model.merges[0]: expected"},
        {"model", "merges", "[[\"a\",\"b\",\"c\"]]", "model.merges[0]: expected"},
        {"model", "merges", "[[1,2]]", "model.merges[0]: expected"},
        {"model", "merges", "[7]", "model.merges[0]: expected"},
        {"model", "merges", "[\"t h\",[[\"a\"],\"b\"]]", "model.merges[1]: expected"},
        /* a result is longer than its sides, so merges can go round only through one that is not an entry, or through nothing at all */
        {"model", "merges", "[[\"zzqq\",\"a\"]]", "model.merges[0]: a side or the result"},
        {"model", "merges", "[[\"q\",\"#\"],[\"q#\",\"q\"]]", "model.merges[0]: a side or the result"},
        {"model", "merges", "[[\"\",\"a\"]]", "model.merges[0]: a side or the result"},
        {"model", "merges", "[\"a \"]", "model.merges[0]: a side or the result"},
        {"model", "merges", "[[\"\\u65e5\",\"a\"]]", "model.merges[0]: a side or the result"},
        {"model/vocab", "new", "-1", "\"new\": expected an id"},
        {"model/vocab", "new", "1e3", "\"new\": expected an id"},
        {"model/vocab", "new", "5.0", "\"new\": expected an id"},
        {"model/vocab", "new", "\"5\"", "\"new\": expected an id"},
        {"model/vocab", "new", "null", "\"new\": expected an id"},
        {"model/vocab", "new", "[1]", "\"new\": expected an id"},
        {"model/vocab", "new", "4194304", "\"new\": expected an id"},
        {"model/vocab", "new", "4000000000", "\"new\": expected an id"},
        {"model/vocab", "new", "5", "\"new\" has the id of another token"},
        {"model/vocab", "a\nb", "-1", "\"a"},
        {"added_tokens", "0", "7", "added_tokens[0].id"},
        {"added_tokens", "0", "{\"id\":0}", "added_tokens[0].content"},
        {"added_tokens/0", "content", "\"\"", "added_tokens[0].content"},
        {"added_tokens/0", "content", "[\"x\"]", "added_tokens[0].content"},
        {"added_tokens/0", "id", "7", "added_tokens[0].id: 7, but"},
        {"added_tokens/0", "id", "-1", "added_tokens[0].id"},
        {"added_tokens/0", "id", "1e2", "added_tokens[0].id"},
        {"added_tokens/0", "id", "4194304", "added_tokens[0].id"},
        {"added_tokens/0", "id", "null", "added_tokens[0].id"},
        {"added_tokens/5", "id", "1999", "added_tokens[5].id: 1999, but the reference gives"}, /* ids without holes after the vocabulary */
        {"added_tokens/5", "content", "\"<think>\"", "another added token has the same text"},
        {"added_tokens/0", "special", "1", "added_tokens[0].special"},
        {"added_tokens/0", "lstrip", "\"yes\"", "added_tokens[0].lstrip"},
        {"added_tokens/0", "rstrip", "null", "added_tokens[0].rstrip"},
        {"added_tokens/0", "single_word", "{}", "added_tokens[0].single_word"},
        {"added_tokens/0", "normalized", "0", "added_tokens[0].normalized"},
        {SPLIT, "pattern", "{\"Regex\":\"(a\"}", "bad regex"},
        {SPLIT, "pattern", "{\"Regex\":\"[z-a]\"}", "bad regex"},
        {SPLIT, "pattern", "{\"Regex\":\"a{3,2}\"}", "bad regex"},
        {SPLIT, "pattern", "{\"Regex\":\"+\"}", "bad regex"},
        {SPLIT, "pattern", "{\"Regex\":\"\\\\p{Nope}\"}", "bad regex"},
        {SPLIT, "pattern", "{\"Regex\":\"a\\\\\"}", "\\ at its end"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refused_with(bad[i].path, bad[i].key, bad[i].json, bad[i].part);
}

/* ---- the text itself broken ---- */

/* The tiny document with the first `from` replaced. */
static void refused_after(const char *from, const char *to, const char *part) {
    const char *at = strstr(tiny.ptr, from);
    if (!at) fail_msg("no %s in the document", from);
    rlf_str text = {0};
    rlf_str_append(&text, tiny.ptr, (size_t)(at - tiny.ptr));
    rlf_str_puts(&text, to);
    rlf_str_puts(&text, at + strlen(from));
    refused(to, text.ptr, text.len, part);
    rlf_str_clean_up(&text);
}

static void broken_text_is_refused_with_its_place(void **state) {
    (void)state;
    static const struct { const char *from, *to, *part; } bad[] = {
        {"{", "\xef\xbb\xbf{", "line 1, byte 1: a byte order mark"},
        {"{", "[", "line 1, byte 1: expected '{'"},
        {"{", "", "line 1, byte 1: expected '{'"},
        {"\"model\":{", "\"model\":{\"type\":\"BPE\",", "model.type is there twice"},
        {"\"model\":", "\"model\":{},\"model\":", "model is there twice"},
        {"\"model\":", "\"decoder\":null,\"model\":", "decoder is there twice"},
        {"\"vocab\":", "\"vocab\":{},\"vocab\":", "model.vocab is there twice"},
        {"\"merges\":", "\"merges\":[],\"merges\":", "model.merges is there twice"},
        {"\"vocab\":{", "\"vocab\":{\"a\":9999,", "model.vocab: \"a\" is there twice"},
        {"\"vocab\":{", "\"vocab\":{\"\\u0061\":9999,", "model.vocab: \"a\" is there twice"},
        {"\"vocab\":{", "\"vocab\":{\"\xe6\x97\xa5\":9998,\"\xe6\x97\xa5\":9999,", "model.vocab: \"\xe6\x97\xa5\" is there twice"},
        {"\"vocab\":{", "\"vocab\":{\"\":9998,\"\":9999,", "model.vocab: \"\" is there twice"},
        {"\"vocab\":", "\"words\":", "model.vocab: missing"},
        {"\"merges\":", "\"merge\":", "model.merges: missing"},
        {"\"model\":", "\"models\":", "model: missing"},
        {"\"vocab\":{", "\"vocab\":{\"\\ud800\":9999,", "a bad escape"},
        {"\"vocab\":{", "\"vocab\":{\"\\ud800\\u0041\":9999,", "a bad escape"},
        {"\"vocab\":{", "\"vocab\":{\"\\x\":9999,", "a bad escape"},
        {"\"vocab\":{", "\"vocab\":{\"\\u00g0\":9999,", "a bad escape"},
        {"\"vocab\":{", "\"vocab\":{\"\x01\":9999,", "a control character in a string"},
        {"\"vocab\":{", "\"vocab\":{\"\xff\":9999,", "not UTF-8"},
        {"\"vocab\":{", "\"vocab\":{\"\xed\xa0\x80\":9999,", "not UTF-8"},
        {"\"vocab\":{", "\"vocab\":{new:9999,", "expected a string"},
        {"\"vocab\":{", "\"vocab\":{\"new\" 9999,", "expected ':'"},
        {"\"vocab\":{", "\"vocab\":{\"new\":9999 ", "expected ','"},
        {"\"vocab\":{", "\"vocab\":{\"new\":0099,", "\"new\": expected an id"},
        {"\"vocab\":{", "\"vocab\":{\"new\":99999999999999999999999,", "\"new\": expected an id"},
        {"\"vocab\":{", "\"vocab\":{,", "expected a string"},
        {"\"vocab\":{", "\"vocab\":{]", "byte"},
        {"\"merges\":[", "\"merges\":[,", "expected a value"},
        {"\"merges\":[", "\"merges\":[\"a b\",,", "expected a value"},
        {"\"merges\":[", "\"merges\":[\"a b\" ", "expected ','"},
        {"\"merges\":[", "\"merges\":[\"a \\q\",", "model.merges[0]"},
        {"\"normalizer\":{", "\"normalizer\":{\"type\":\"NFC\",\"type\":\"NFC\",", "line 1, byte"},
        {"\"normalizer\":{", "\"normalizer\":{nul,", "line 1, byte"},
        {"\"normalizer\":", "\n\"normalizer\":nul,\"x\":", "line 2, byte"},
        {"\"normalizer\":", "\"a\\u0000b\":1,\"a\":2,\"normalizer\":", "line 1, byte"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refused_after(bad[i].from, bad[i].to, bad[i].part);
}

static void a_cut_document_is_refused_wherever_it_is_cut(void **state) {
    (void)state;
    for (size_t n = 0; n < tiny.len; n += n < 4000 || n + 200 > tiny.len ? 1 : 83) {
        char *text = rlf_calloc(n + 1, 1); /* its own memory, so that a read past its end is seen */
        memcpy(text, tiny.ptr, n);
        refused("cut", text, n, "");
        free(text);
    }
}

static void what_follows_the_document_is_refused(void **state) {
    (void)state;
    rlf_str text = {0};
    rlf_str_append(&text, tiny.ptr, tiny.len);
    rlf_str_puts(&text, " \n{}");
    refused("two values", text.ptr, text.len, "more than one value");
    text.ptr[tiny.len] = '\0';
    refused("a NUL after it", text.ptr, tiny.len + 1, "more than one value");
    rlf_str_clean_up(&text);
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    enum { LEVELS = 200000 };
    static const char *const before[] = {"{\"post_processor\":", "{\"model\":{\"dropout\":", "{\"model\":{\"vocab\":{\"a\":", "{\"model\":{\"merges\":", ""};
    for (size_t i = 0; i < sizeof before / sizeof *before; i++) {
        rlf_str text = {0};
        rlf_str_puts(&text, before[i]);
        for (int k = 0; k < LEVELS; k++) rlf_str_putc(&text, '[');
        refused("open", text.ptr, text.len, "line 1, byte");
        for (int k = 0; k < LEVELS; k++) rlf_str_putc(&text, ']');
        rlf_str_puts(&text, "}}}");
        refused("closed", text.ptr, text.len, "");
        rlf_str_clean_up(&text);
    }
}

static void too_much_is_refused(void **state) {
    (void)state;
    rlf_str json = {0};
    rlf_str_puts(&json, "{\"Regex\":\"");
    for (int i = 0; i < 9000; i++) rlf_str_putc(&json, 'a');
    rlf_str_puts(&json, "\"}");
    refused_with(SPLIT, "pattern", json.ptr, "a regex of 9000 bytes");
    rlf_str_reset(&json);
    rlf_str_puts(&json, "[");
    for (int i = 0; i < 9; i++) rlf_str_puts(&json, "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Isolated\"},");
    rlf_str_puts(&json, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]");
    refused_with("pre_tokenizer", "pretokenizers", json.ptr, "more than 8 regexes");
    rlf_str_reset(&json);
    rlf_str_putc(&json, '"');
    for (int i = 0; i < 1025; i++) rlf_str_putc(&json, 'a');
    rlf_str_putc(&json, '"');
    refused_with("added_tokens/0", "content", json.ptr, "added_tokens[0].content");
    rlf_str_clean_up(&json);
}

static void a_vocabulary_without_every_byte_is_refused(void **state) {
    (void)state;
    refused_after("\"\xc4\xa0\":", "\"\xe6\x97\xa5\":", "no token for byte 0x20"); /* the space, written U+0120 */
    refused_after("\"a\":", "\"zqzq\":", "no token for byte 0x61");
}

static void a_folder_without_the_file_is_refused(void **state) {
    (void)state;
    rlf_tokenizer *tokenizer = NULL;
    assert_error(rlf_tokenizer_load(&tokenizer, "/nonexistent"), RLF_IO, "/nonexistent/tokenizer.json");
    assert_null(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_that_is_not_supported_is_refused_by_its_key),
        cmocka_unit_test(a_bad_value_is_refused_by_its_key),
        cmocka_unit_test(broken_text_is_refused_with_its_place),
        cmocka_unit_test(a_cut_document_is_refused_wherever_it_is_cut),
        cmocka_unit_test(what_follows_the_document_is_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(a_vocabulary_without_every_byte_is_refused),
        cmocka_unit_test(a_folder_without_the_file_is_refused),
    };
    return cmocka_run_group_tests(tests, load_tiny, drop_tiny);
}
