/* The tokenizer, in one of two ways that the first byte picks: an arbitrary tokenizer.json (and some text through it, should it
 * load), or arbitrary text through a small fixed tokenizer, where decoding must give the text back: exactly as plain text
 * without NFC; always as something that encodes alike. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/text/tokenizer.h"
#include "common/text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void put_char(rlf_str *out, int c) {
    rlf_str_putc(out, (char)(0xc0 | c >> 6));
    rlf_str_putc(out, (char)(0x80 | (c & 63)));
}

/* A key of the byte alphabet, escaped for JSON. */
static void put_byte(rlf_str *out, int b) {
    int rank = b <= 32 ? b : b >= 127 && b <= 160 ? b - 94 : 67;
    if (b == '"' || b == '\\') rlf_str_printf(out, "\\%c", b);
    else if (b > 32 && b < 127) rlf_str_putc(out, (char)b);
    else put_char(out, b > 160 && b != 173 ? b : 256 + rank);
}

/* Every byte, a few merges, and added tokens with every flag; `llama`: ignore_merges, a regex and an entry that merging does not reach. */
static rlf_tokenizer *fixed(bool nfc, bool llama) {
    rlf_str json = {0};
    rlf_tokenizer *tokenizer = NULL;
    rlf_str_printf(&json, "{\"normalizer\":%s,\"pre_tokenizer\":%s,\"added_tokens\":["
                          "{\"id\":261,\"content\":\"<a>\",\"normalized\":false},{\"id\":262,\"content\":\"<a>b\",\"lstrip\":true,\"normalized\":false},"
                          "{\"id\":263,\"content\":\"e\\u0301x\",\"rstrip\":true},{\"id\":264,\"content\":\"\\n\",\"rstrip\":true,\"normalized\":false},"
                          "{\"id\":265,\"content\":\"ww\",\"single_word\":true}],\"model\":{\"type\":\"BPE\",\"ignore_merges\":%s,\"vocab\":{",
                   nfc ? "{\"type\":\"NFC\"}" : "null",
                   llama ? "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
                           "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
                           "\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}"
                         : "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
                   llama ? "true" : "false");
    for (int b = 0; b < 256; b++) {
        rlf_str_puts(&json, b ? ",\"" : "\"");
        put_byte(&json, b);
        rlf_str_printf(&json, "\":%d", b);
    }
    rlf_str_puts(&json, ",\"aa\":256,\"aaa\":257,\"ab\":258,\"bab\":259,\"xyz\":260},\"merges\":[\"a a\",\"aa a\",\"a b\",\"b ab\"]}}");
    if (rlf_tokenizer_parse(&tokenizer, json.ptr, json.len, "fixed") != RLF_OK) assert(!"the fixed tokenizer loads");
    rlf_str_clean_up(&json);
    return tokenizer;
}

/* Streaming gives whole characters, and where all of the text is UTF-8, the text. */
static void stream(const rlf_tokenizer *tokenizer, const rlf_ids *ids, const rlf_str *text) {
    rlf_text_stream stream = {.tokenizer = tokenizer};
    rlf_str out = {0};
    for (size_t i = 0; i <= ids->n; i++) {
        size_t before = out.len;
        if (i < ids->n) rlf_text_stream_push(&stream, ids->v[i], &out);
        else rlf_text_stream_end(&stream, &out);
        if (out.len > before) assert(rlf_utf8_valid(out.ptr + before, out.len - before) == out.len - before);
    }
    if (text->len && rlf_utf8_valid(text->ptr, text->len) == text->len) assert(out.len == text->len && !memcmp(out.ptr, text->ptr, out.len));
    rlf_str_clean_up(&out);
}

static void round_trip(const rlf_tokenizer *tokenizer, const char *text, size_t n, bool added, bool exact) {
    rlf_ids ids = {0}, again = {0};
    rlf_str out = {0};
    rlf_tokenizer_encode(tokenizer, text, n, added, &ids);
    for (size_t i = 0; i < ids.n; i++) assert(ids.v[i] >= 0 && ids.v[i] < rlf_tokenizer_size(tokenizer));
    rlf_tokenizer_decode(tokenizer, ids.v, ids.n, false, &out);
    stream(tokenizer, &ids, &out);
    if (exact) assert(out.len == n && (n == 0 || !memcmp(out.ptr, text, n)));
    if (!added) {
        rlf_tokenizer_encode(tokenizer, out.ptr ? out.ptr : "", out.len, added, &again);
        assert(again.n == ids.n && (ids.n == 0 || !memcmp(again.v, ids.v, ids.n * sizeof *ids.v)));
    }
    rlf_ids_clean_up(&ids);
    rlf_ids_clean_up(&again);
    rlf_str_clean_up(&out);
}

static void arbitrary_document(const char *json, size_t n) {
    static const char text[] = "The caf\xc3\xa9's  <a> e\xcc\x81x 123\n\xf0\x9f\x98\x80\xff";
    rlf_tokenizer *tokenizer = NULL;
    if (rlf_tokenizer_parse(&tokenizer, json, n, "fuzz") != RLF_OK) {
        assert(!tokenizer && !strncmp(rlf_error_message(), "fuzz: ", 6) && !strchr(rlf_error_message(), '\n'));
        return;
    }
    round_trip(tokenizer, text, sizeof text - 1, true, false);
    round_trip(tokenizer, text, sizeof text - 1, false, false);
    rlf_tokenizer_destroy(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static rlf_tokenizer *plain, *nfc, *llama;
    if (!plain) {
        plain = fixed(false, false);
        nfc = fixed(true, false);
        llama = fixed(false, true);
    }
    if (n == 0) return 0;
    const char *text = (const char *)data + 1;
    if (data[0] & 1) {
        round_trip(plain, text, n - 1, false, true);
        round_trip(llama, text, n - 1, false, true);
        round_trip(nfc, text, n - 1, false, false);
        round_trip(nfc, text, n - 1, true, false);
        round_trip(llama, text, n - 1, true, false);
    } else {
        arbitrary_document(text, n - 1);
    }
    return 0;
}
