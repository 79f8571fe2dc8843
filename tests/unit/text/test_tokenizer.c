/* The tokenizer against ids and texts of the `tokenizers` library (tests/golden/make_text.py), and its corners. */
#include "tests/unit/text/golden.h"

#include <unistd.h>

#include "common/text/utf8.h"

#define QWEN3_TABLE RLF_SHARED "/data/qwen3_tokenizer" /* the real one: outside the tree, tests go without where it is missing */

static rlf_tokenizer *tiny;

static int load_tiny(void **state) {
    (void)state;
    tiny = tiny_tokenizer();
    return 0;
}

static int drop_tiny(void **state) {
    (void)state;
    rlf_tokenizer_destroy(tiny);
    return 0;
}

static void check_cases(const rlf_tokenizer *tokenizer, const char *name) {
    json_t *cases = golden(name);
    assert_true(json_array_size(cases) > 50);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *text = json_object_get(json_array_get(cases, i), "text"), *want = json_object_get(json_array_get(cases, i), "ids");
        rlf_ids ids = {0};
        rlf_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), true, &ids);
        for (size_t k = 0; k < ids.n && k < json_array_size(want); k++)
            if (ids.v[k] != json_integer_value(json_array_get(want, k))) fail_msg("%s: case %zu, token %zu: got %d", name, i, k, ids.v[k]);
        assert_int_equal(ids.n, json_array_size(want));
        rlf_ids_clean_up(&ids);
    }
    json_decref(cases);
}

static void ids_equal_the_librarys_on_a_tiny_table(void **state) {
    (void)state;
    check_cases(tiny, "text_tiny_cases.json");
}

static rlf_tokenizer *llama_tokenizer(void) {
    rlf_str json = {0};
    rlf_tokenizer *llama = NULL;
    assert_ok(rlf_str_read_file(&json, RLF_GOLDEN "/text_llama_tokenizer.json", 1 << 20));
    assert_ok(rlf_tokenizer_parse(&llama, json.ptr, json.len, "llama"));
    rlf_str_clean_up(&json);
    return llama;
}

static void ids_equal_the_librarys_on_a_llama_3_table(void **state) {
    (void)state;
    rlf_tokenizer *llama = llama_tokenizer();
    assert_true(rlf_tokenizer_is_special(llama, rlf_tokenizer_id(llama, "<|begin_of_text|>")));
    check_cases(llama, "text_llama_cases.json");
    rlf_tokenizer_destroy(llama);
}

static void ids_equal_the_librarys_on_the_qwen3_table(void **state) {
    (void)state;
    if (access(QWEN3_TABLE, R_OK) != 0) {
        print_message("skipped: no %s\n", QWEN3_TABLE);
        skip();
    }
    rlf_tokenizer *qwen = NULL;
    assert_ok(rlf_tokenizer_load(&qwen, QWEN3_TABLE));
    assert_int_equal(rlf_tokenizer_size(qwen), 151669);
    assert_int_equal(rlf_tokenizer_id(qwen, "<|im_end|>"), 151645);
    assert_true(rlf_tokenizer_is_special(qwen, 151645));
    assert_false(rlf_tokenizer_is_special(qwen, rlf_tokenizer_id(qwen, "<tool_call>")));
    check_cases(qwen, "text_qwen3_cases.json");
    rlf_tokenizer_destroy(qwen);
}

static void decoding_gives_the_text_back(void **state) {
    (void)state;
    static const char text[] = "Hello, w\xc3\xb6rld \xe6\x97\xa5\xe6\x9c\xac\xf0\x9f\x98\x80 <|im_end|>\n\n  x\t1234";
    rlf_ids ids = {0};
    rlf_str out = {0};
    rlf_tokenizer_encode(tiny, text, sizeof text - 1, true, &ids);
    rlf_tokenizer_decode(tiny, ids.v, ids.n, false, &out);
    assert_string_equal(out.ptr, text);
    rlf_ids_clean_up(&ids);
    rlf_str_clean_up(&out);
}

/* The stream's pieces: whole characters each, together `want`. */
static void check_stream(rlf_text_stream *stream, const int32_t *ids, size_t n, const char *want) {
    rlf_str all = {0}, part = {0};
    for (size_t i = 0; i <= n; i++) {
        rlf_str_reset(&part);
        if (i < n) rlf_text_stream_push(stream, ids[i], &part);
        else rlf_text_stream_end(stream, &part);
        assert_int_equal(rlf_utf8_valid(part.ptr ? part.ptr : "", part.len), part.len);
        rlf_str_append(&all, part.ptr ? part.ptr : "", part.len);
    }
    assert_string_equal(all.ptr ? all.ptr : "", want);
    rlf_str_clean_up(&all);
    rlf_str_clean_up(&part);
}

static void a_stream_gives_whole_characters_and_the_librarys_text(void **state) {
    (void)state;
    rlf_tokenizer *llama = llama_tokenizer();
    json_t *cases = golden("text_llama_decoded.json");
    rlf_text_stream stream = {.tokenizer = llama, .skip_special = true}; /* one for all: it is ready again after its end */
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *list = json_object_get(json_array_get(cases, i), "ids");
        rlf_ids ids = {0};
        for (size_t k = 0; k < json_array_size(list); k++) rlf_ids_push(&ids, (int32_t)json_integer_value(json_array_get(list, k)));
        check_stream(&stream, ids.v, ids.n, text_of(json_array_get(cases, i), "text"));
        rlf_ids_clean_up(&ids);
    }
    assert_true(json_array_size(cases) > 50);
    json_decref(cases);
    rlf_tokenizer_destroy(llama);
}

static void a_stream_of_a_text_gives_the_text(void **state) {
    (void)state;
    static const char text[] = "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80 \xe6\x97\xa5\xe6\x9c\xac \xe0\xb8\x81 caf\xc3\xa9";
    rlf_ids ids = {0};
    rlf_text_stream stream = {.tokenizer = tiny};
    rlf_tokenizer_encode(tiny, text, sizeof text - 1, true, &ids);
    check_stream(&stream, ids.v, ids.n, text);
    check_stream(&stream, ids.v, 1, "\xef\xbf\xbd"); /* cut within the first character */
    rlf_ids_clean_up(&ids);
}

static void skipping_special_tokens_leaves_the_others(void **state) {
    (void)state;
    int32_t ids[] = {rlf_tokenizer_id(tiny, "<|im_end|>"), rlf_tokenizer_id(tiny, "A"), rlf_tokenizer_id(tiny, "<tool_call>"), -1, 1 << 30};
    rlf_str out = {0};
    rlf_tokenizer_decode(tiny, ids, 5, true, &out);
    assert_string_equal(out.ptr, "A<tool_call>");
    rlf_str_clean_up(&out);
}

/* All added tokens from id `first` on, glued and apart, as plain text: none of them comes out, and decoding gives the text. */
static void check_plain(const rlf_tokenizer *tokenizer, int32_t first) {
    rlf_str text = {0}, out = {0};
    rlf_ids ids = {0};
    for (int32_t id = first; id < rlf_tokenizer_size(tokenizer); id++) {
        rlf_tokenizer_decode(tokenizer, &id, 1, false, &text);
        if (id % 2) rlf_str_puts(&text, " a");
    }
    rlf_tokenizer_encode(tokenizer, text.ptr, text.len, false, &ids);
    assert_true(ids.n > 30);
    for (size_t i = 0; i < ids.n; i++)
        if (ids.v[i] >= first || rlf_tokenizer_is_special(tokenizer, ids.v[i])) fail_msg("token %zu is %d", i, ids.v[i]);
    rlf_tokenizer_decode(tokenizer, ids.v, ids.n, false, &out);
    assert_string_equal(out.ptr, text.ptr);
    ids.n = 0;
    rlf_tokenizer_encode(tokenizer, text.ptr, text.len, true, &ids); /* while as it stands it is full of them */
    assert_true(ids.v[0] == first);
    rlf_ids_clean_up(&ids);
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&out);
}

static void plain_encoding_never_gives_an_added_token(void **state) {
    (void)state;
    rlf_tokenizer *llama = llama_tokenizer(), *qwen = NULL;
    check_plain(tiny, 1200);
    check_plain(llama, 1100);
    if (access(QWEN3_TABLE, R_OK) == 0) {
        assert_ok(rlf_tokenizer_load(&qwen, QWEN3_TABLE));
        check_plain(qwen, 151643);
    }
    rlf_tokenizer_destroy(llama);
    rlf_tokenizer_destroy(qwen);
}

/* ignore_merges looks whole words up in the vocabulary, where special tokens may have an entry: as plain text they must not be found. */
static void a_special_word_of_the_vocabulary_is_not_given_for_plain_text(void **state) {
    (void)state;
    json_t *root = golden("text_llama_tokenizer.json"), *model = json_object_get(root, "model");
    json_object_set_new(json_object_get(model, "vocab"), "STOP", json_integer(1100));
    json_array_clear(json_object_get(root, "added_tokens"));
    json_array_append_new(json_object_get(root, "added_tokens"),
                          json_pack("{s:i, s:s, s:b, s:b}", "id", 1100, "content", "STOP", "special", 1, "normalized", 0));
    char *json = json_dumps(root, 0);
    rlf_tokenizer *tokenizer = NULL;
    rlf_ids ids = {0};
    assert_ok(rlf_tokenizer_parse(&tokenizer, json, strlen(json), "special"));
    rlf_tokenizer_encode(tokenizer, "STOP", 4, false, &ids);
    assert_true(ids.n > 1);
    ids.n = 0;
    rlf_tokenizer_encode(tokenizer, "STOP", 4, true, &ids);
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.v[0], 1100);
    rlf_ids_clean_up(&ids);
    rlf_tokenizer_destroy(tokenizer);
    free(json);
    json_decref(root);
}

static void broken_utf8_is_encoded_byte_by_byte(void **state) {
    (void)state;
    /* a lone continuation, an overlong form, a surrogate, a cut character: each byte its own id, whole text around as usual */
    static const char text[] = "ab\x80" "cd\xc0\xaf" "ef\xed\xa0\x80" "<|im_end|>\xe6\x97";
    rlf_ids ids = {0}, part = {0};
    rlf_str out = {0};
    rlf_tokenizer_encode(tiny, text, sizeof text - 1, true, &ids);
    rlf_tokenizer_decode(tiny, ids.v, ids.n, false, &out);
    assert_int_equal(out.len, sizeof text - 1);
    assert_memory_equal(out.ptr, text, sizeof text - 1);
    rlf_tokenizer_encode(tiny, "ab", 2, true, &part);
    assert_memory_equal(ids.v, part.v, part.n * sizeof *part.v);
    rlf_str_reset(&out);
    rlf_tokenizer_decode(tiny, ids.v + part.n, 1, false, &out);
    assert_string_equal(out.ptr, "\x80");
    assert_int_equal(ids.v[ids.n - 3], rlf_tokenizer_id(tiny, "<|im_end|>"));
    rlf_ids_clean_up(&ids);
    rlf_ids_clean_up(&part);
    rlf_str_clean_up(&out);
}

/* A piece of one megabyte: the naive algorithm would need about 10^12 steps, so this ends only if the heap is used. */
static void a_piece_of_a_megabyte_is_encoded(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    char *text = rlf_calloc(N, 1);
    memset(text, 'a', N);
    rlf_ids whole = {0};
    rlf_str out = {0};
    rlf_tokenizer_encode(tiny, text, N, true, &whole);
    rlf_tokenizer_decode(tiny, whole.v, whole.n, false, &out);
    assert_int_equal(out.len, N);
    assert_memory_equal(out.ptr, text, N);
    assert_true(whole.n <= N);
    rlf_ids_clean_up(&whole);
    rlf_str_clean_up(&out);
    free(text);
}

/* The two ways of merging, at the lengths where one takes over from the other. */
static void short_and_long_pieces_merge_alike(void **state) {
    (void)state;
    char text[256];
    for (int i = 0; i < 256; i++) text[i] = "theandingreator"[i * 7 % 15];
    for (size_t n = 40; n < 60; n++) {
        rlf_ids a = {0}, b = {0};
        rlf_str back = {0};
        rlf_tokenizer_encode(tiny, text, n, true, &a);
        rlf_tokenizer_encode(tiny, text, n + 100, true, &b);
        rlf_tokenizer_decode(tiny, a.v, a.n, false, &back);
        assert_int_equal(back.len, n);
        for (size_t i = 0; i + 12 < a.n; i++) assert_int_equal(a.v[i], b.v[i]); /* far from the end they agree */
        rlf_ids_clean_up(&a);
        rlf_ids_clean_up(&b);
        rlf_str_clean_up(&back);
    }
}

static void a_long_run_of_marks_is_ordered(void **state) {
    (void)state;
    enum { PAIRS = 100000 }; /* U+0301 (class 230) and U+0316 (class 220) in turn; a quadratic order would take minutes */
    rlf_str text = {0}, buffer = {0};
    rlf_str_putc(&text, 'x');
    for (int i = 0; i < PAIRS; i++) rlf_str_puts(&text, "\xcc\x81\xcc\x96");
    rlf_slice normal = rlf_utf8_nfc(text.ptr, text.len, &buffer);
    assert_int_equal(normal.len, text.len);
    assert_memory_equal(normal.ptr + 1, "\xcc\x96", 2);
    assert_memory_equal(normal.ptr + 1 + 2 * (PAIRS - 1), "\xcc\x96\xcc\x81", 4);
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&buffer);
}

static void characters_after_unicode_9_do_not_reorder(void **state) {
    (void)state;
    rlf_str buffer = {0};
    static const char text[] = "a\xe0\xa3\xa3\xe0\xa3\x93\xcc\x81"; /* U+08E3 (220), U+08D3 (of Unicode 11), U+0301 */
    rlf_slice normal = rlf_utf8_nfc(text, sizeof text - 1, &buffer);
    assert_int_equal(normal.len, sizeof text - 1);
    assert_memory_equal(normal.ptr, text, sizeof text - 1);
    rlf_str_clean_up(&buffer);
}

/* ---- variants of the tiny document ---- */

/* With another pre-tokenizer, other merges, ignore_merges. */
static rlf_tokenizer *variant(const char *pre, const char *merges, bool ignore) {
    json_t *root = golden("text_tiny_tokenizer.json"), *model = json_object_get(root, "model");
    rlf_tokenizer *tokenizer = NULL;
    if (pre) json_object_set_new(root, "pre_tokenizer", json_loads(pre, 0, NULL));
    if (merges) json_object_set_new(model, "merges", json_loads(merges, 0, NULL));
    json_object_set_new(model, "ignore_merges", json_boolean(ignore));
    char *text = json_dumps(root, 0);
    assert_ok(rlf_tokenizer_parse(&tokenizer, text, strlen(text), "variant"));
    free(text);
    json_decref(root);
    return tokenizer;
}

static void merges_may_be_written_as_text(void **state) {
    (void)state;
    rlf_tokenizer *t = variant(NULL, "[\"t h\", \"th e\"]", false);
    rlf_ids ids = {0};
    rlf_tokenizer_encode(t, "the", 3, true, &ids);
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.v[0], rlf_tokenizer_id(t, "the"));
    rlf_tokenizer_encode(t, "and", 3, true, &ids);
    assert_int_equal(ids.n, 4);
    rlf_ids_clean_up(&ids);
    rlf_tokenizer_destroy(t);
}

static void ignore_merges_takes_whole_words_from_the_vocabulary(void **state) {
    (void)state;
    rlf_tokenizer *t = variant(NULL, "[]", true);
    rlf_ids ids = {0};
    rlf_tokenizer_encode(t, "the", 3, true, &ids);
    assert_int_equal(ids.n, 1);
    rlf_ids_clean_up(&ids);
    rlf_tokenizer_destroy(t);
}

static void plain_byte_level_splits_as_gpt2(void **state) {
    (void)state;
    rlf_tokenizer *t = variant("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}", "[]", true);
    rlf_ids ids = {0};
    rlf_tokenizer_encode(t, "the for", 7, true, &ids);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.v[1], rlf_tokenizer_id(t, "\xc4\xa0" "for"));
    rlf_ids_clean_up(&ids);
    rlf_tokenizer_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_librarys_on_a_tiny_table),
        cmocka_unit_test(ids_equal_the_librarys_on_a_llama_3_table),
        cmocka_unit_test(ids_equal_the_librarys_on_the_qwen3_table),
        cmocka_unit_test(decoding_gives_the_text_back),
        cmocka_unit_test(skipping_special_tokens_leaves_the_others),
        cmocka_unit_test(a_stream_gives_whole_characters_and_the_librarys_text),
        cmocka_unit_test(a_stream_of_a_text_gives_the_text),
        cmocka_unit_test(plain_encoding_never_gives_an_added_token),
        cmocka_unit_test(a_special_word_of_the_vocabulary_is_not_given_for_plain_text),
        cmocka_unit_test(broken_utf8_is_encoded_byte_by_byte),
        cmocka_unit_test(a_piece_of_a_megabyte_is_encoded),
        cmocka_unit_test(short_and_long_pieces_merge_alike),
        cmocka_unit_test(a_long_run_of_marks_is_ordered),
        cmocka_unit_test(characters_after_unicode_9_do_not_reorder),
        cmocka_unit_test(merges_may_be_written_as_text),
        cmocka_unit_test(ignore_merges_takes_whole_words_from_the_vocabulary),
        cmocka_unit_test(plain_byte_level_splits_as_gpt2),
    };
    return cmocka_run_group_tests(tests, load_tiny, drop_tiny);
}
