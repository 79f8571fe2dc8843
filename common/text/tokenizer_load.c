/* tokenizer.json to an rlf_tokenizer. What is not supported is refused by its key: a tokenizer that gives other ids than it was
 * trained with is worse than none. Keys that do not change ids (truncation, padding, post_processor, trim_offsets, version) are
 * not read. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer.h"
#include "common/text/tokenizer_private.h"
#include "common/text/utf8.h"

enum { MAX_FILE = 256 << 20, MAX_ID = (1 << 22) - 1, MAX_ADDED = 1 << 16, MAX_CONTENT = 1024, MAX_PATTERN = 8192 };

static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* What a parse knows: the document's name for messages, and the tokenizer under construction. */
typedef struct loader {
    const char *label;
    rlf_tokenizer *tokenizer;
} loader;

/* ---- reading keys ---- */

static const char *type_of(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "(none)";
}

/* A boolean key that must be there or have a default. Anything but a boolean counts as the opposite of `wanted`, so that it is refused. */
static bool is_flag(const json_t *object, const char *key, bool wanted, bool by_default) {
    const json_t *value = json_object_get(object, key);
    if (!value) return by_default == wanted;
    return json_is_boolean(value) && json_is_true(value) == wanted;
}

static bool is_empty(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return !value || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0);
}

/* ---- normalizer ---- */

static rlf_status load_normalizer(loader *l, const json_t *normalizer) {
    if (!normalizer || json_is_null(normalizer)) return RLF_OK;
    const json_t *list = json_object_get(normalizer, "normalizers");
    if (!strcmp(type_of(normalizer), "Sequence") && json_is_array(list)) {
        for (size_t i = 0; i < json_array_size(list); i++)
            if (strcmp(type_of(json_array_get(list, i)), "NFC"))
                return RLF_RAISE(UNSUPPORTED, "%s: normalizer.normalizers[%zu]: type %s is not supported (only NFC)", l->label,
                                 i, type_of(json_array_get(list, i)));
        l->tokenizer->nfc = json_array_size(list) > 0;
        return RLF_OK;
    }
    if (strcmp(type_of(normalizer), "NFC"))
        return RLF_RAISE(UNSUPPORTED, "%s: normalizer: type %s is not supported (only NFC or null)", l->label, type_of(normalizer));
    l->tokenizer->nfc = true;
    return RLF_OK;
}

/* ---- pre-tokenizer ---- */

/* Rewrites a pattern of the reference's regex engine (Oniguruma) for PCRE2. They agree on what tokenizers use, except for white
 * space (U+180E) and a few escapes and class forms, which are refused. False: *what says which. */
static bool translate_pattern(const char *pattern, size_t n, rlf_str *out, const char **what) {
    bool in_class = false;
    for (size_t i = 0; i < n; i++) {
        char c = pattern[i], next = i + 1 < n ? pattern[i + 1] : '\0';
        if (c == '\\') {
            i++;
            if (next == 's') rlf_str_puts(out, in_class ? "\\p{Z}\\t-\\r\\x{85}" : "[\\p{Z}\\t-\\r\\x{85}]");
            else if (next == 'S' && !in_class) rlf_str_puts(out, "[^\\p{Z}\\t-\\r\\x{85}]");
            else if ((next >= '!' && next <= '/') || (next >= ':' && next <= '@') || (next >= '[' && next <= '`') ||
                     (next >= '{' && next <= '~') || strchr("pPdDrntx ", next)) {
                if (next == '\0') return *what = "a \\ at its end", false;
                rlf_str_append(out, pattern + i - 1, 2);
            } else return *what = "an escape other than \\s \\S \\p \\P \\d \\D \\r \\n \\t \\x and punctuation", false;
            continue;
        }
        if (in_class && c == '[') return *what = "a [ inside [ ]", false;
        if (in_class && c == '&' && next == '&') return *what = "&& inside [ ]", false;
        if (c == '[') in_class = true;
        else if (c == ']') in_class = false;
        else if (!in_class && (c == '$' || (c == '(' && next == '*'))) return *what = "$ or (*", false;
        rlf_str_putc(out, c);
        if (c == '[' && next == '^') rlf_str_putc(out, pattern[++i]);
    }
    return true;
}

static rlf_status compile_pattern(loader *l, const char *key, const char *pattern, size_t n) {
    rlf_tokenizer *t = l->tokenizer;
    rlf_status status = RLF_OK;
    rlf_str translated = {0};
    const char *what;
    int error = 0;
    uint32_t matches_empty = 0;
    PCRE2_SIZE at = 0;
    if (n > MAX_PATTERN) RLF_FAIL(LIMIT, "%s: %s: a regex of %zu bytes (at most %d)", l->label, key, n, MAX_PATTERN);
    if (t->n_patterns == RLF_TOKENIZER_PATTERNS) RLF_FAIL(LIMIT, "%s: %s: more than %d regexes", l->label, key, RLF_TOKENIZER_PATTERNS);
    if (!translate_pattern(pattern, n, &translated, &what))
        RLF_FAIL(UNSUPPORTED, "%s: %s: the regex has %s, which is not supported", l->label, key, what);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)(translated.ptr ? translated.ptr : ""), translated.len,
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, NULL);
    if (!code) {
        PCRE2_UCHAR message[128] = "";
        pcre2_get_error_message(error, message, sizeof message);
        RLF_FAIL(INVALID, "%s: %s: bad regex: %s", l->label, key, (const char *)message);
    }
    t->pattern[t->n_patterns++] = code;
    pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty) RLF_FAIL(UNSUPPORTED, "%s: %s: the regex can match the empty text", l->label, key);
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without it the interpreter runs: the same matches, slower */
out:
    rlf_str_clean_up(&translated);
    return status;
}

static rlf_status load_byte_level(loader *l, const char *key, const json_t *step) {
    if (!is_flag(step, "add_prefix_space", false, true))
        return RLF_RAISE(UNSUPPORTED, "%s: %s.add_prefix_space: only false is supported", l->label, key);
    return is_flag(step, "use_regex", true, true) ? compile_pattern(l, key, gpt2_pattern, sizeof gpt2_pattern - 1) : RLF_OK;
}

static rlf_status load_split(loader *l, const char *key, const json_t *step) {
    const json_t *regex = json_object_get(json_object_get(step, "pattern"), "Regex");
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    if (!regex || !json_is_string(regex)) return RLF_RAISE(UNSUPPORTED, "%s: %s.pattern: expected {\"Regex\": \"…\"}", l->label, key);
    if (!behavior || strcmp(behavior, "Isolated"))
        return RLF_RAISE(UNSUPPORTED, "%s: %s.behavior: %s is not supported (only Isolated)", l->label, key,
                         behavior ? behavior : "(none)");
    if (!is_flag(step, "invert", false, false)) return RLF_RAISE(UNSUPPORTED, "%s: %s.invert: only false is supported", l->label, key);
    return compile_pattern(l, key, json_string_value(regex), json_string_length(regex));
}

static rlf_status load_pre_tokenizer(loader *l, const json_t *pre) {
    if (!strcmp(type_of(pre), "ByteLevel")) return load_byte_level(l, "pre_tokenizer", pre);
    const json_t *list = json_object_get(pre, "pretokenizers");
    size_t n = json_array_size(list);
    if (strcmp(type_of(pre), "Sequence") || n == 0)
        return RLF_RAISE(UNSUPPORTED, "%s: pre_tokenizer: type %s is not supported (ByteLevel, or a Sequence of Split and then "
                                      "ByteLevel)", l->label, type_of(pre));
    for (size_t i = 0; i < n; i++) {
        const json_t *step = json_array_get(list, i);
        char key[64];
        snprintf(key, sizeof key, "pre_tokenizer.pretokenizers[%zu]", i);
        const char *wanted = i + 1 < n ? "Split" : "ByteLevel";
        if (strcmp(type_of(step), wanted))
            return RLF_RAISE(UNSUPPORTED, "%s: %s: type %s is not supported (%s expected here)", l->label, key, type_of(step), wanted);
        rlf_status status = i + 1 < n ? load_split(l, key, step) : load_byte_level(l, key, step);
        if (status != RLF_OK) return status;
    }
    return RLF_OK;
}

/* ---- model ---- */

static rlf_status check_model(loader *l, const json_t *model) {
    const json_t *type = json_object_get(model, "type");
    if (type && strcmp(type_of(model), "BPE"))
        return RLF_RAISE(UNSUPPORTED, "%s: model.type: %s is not supported (only BPE)", l->label, type_of(model));
    if (!is_empty(model, "continuing_subword_prefix"))
        return RLF_RAISE(UNSUPPORTED, "%s: model.continuing_subword_prefix: only none is supported", l->label);
    if (!is_empty(model, "end_of_word_suffix"))
        return RLF_RAISE(UNSUPPORTED, "%s: model.end_of_word_suffix: only none is supported", l->label);
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return RLF_RAISE(UNSUPPORTED, "%s: model.dropout: only null is supported", l->label);
    if (!json_is_object(json_object_get(model, "vocab")))
        return RLF_RAISE(INVALID, "%s: model.vocab: expected an object of token: id", l->label);
    if (!json_is_array(json_object_get(model, "merges"))) return RLF_RAISE(INVALID, "%s: model.merges: expected an array", l->label);
    return RLF_OK;
}

static bool valid_id(const json_t *id) { return json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) <= MAX_ID; }

/* Largest id + 1 over vocabulary and added tokens; checks that each is one. */
static rlf_status count_ids(loader *l, json_t *vocab, const json_t *added, int32_t *n_ids) {
    const char *key;
    json_t *id;
    json_int_t last = -1;
    json_object_foreach(vocab, key, id) {
        if (!valid_id(id)) return RLF_RAISE(INVALID, "%s: model.vocab: \"%.40s\": expected an id from 0 to %d", l->label, key, MAX_ID);
        if (json_integer_value(id) > last) last = json_integer_value(id);
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        id = json_object_get(json_array_get(added, i), "id");
        if (!valid_id(id)) return RLF_RAISE(INVALID, "%s: added_tokens[%zu].id: expected an id from 0 to %d", l->label, i, MAX_ID);
        if (json_integer_value(id) > last) last = json_integer_value(id);
    }
    *n_ids = (int32_t)last + 1;
    return RLF_OK;
}

static rlf_status load_vocab(loader *l, json_t *vocab) {
    rlf_str bytes = {0};
    rlf_status status = RLF_OK;
    void *at;
    for (at = json_object_iter(vocab); at; at = json_object_iter_next(vocab, at)) {
        const char *key = json_object_iter_key(at);
        int32_t id = (int32_t)json_integer_value(json_object_iter_value(at));
        bool mapped = rlf_bytes_of_key(key, strlen(key), &bytes);
        rlf_slice token = {bytes.ptr ? bytes.ptr : "", bytes.len};
        if (!rlf_bpe_add_token(&l->tokenizer->bpe, id, token, mapped && token.len > 0))
            RLF_FAIL(INVALID, "%s: model.vocab: \"%.40s\": another token has the id %d", l->label, key, id);
    }
out:
    rlf_str_clean_up(&bytes);
    return status;
}

/* "a b" or ["a", "b"]. */
static bool merge_sides(const json_t *merge, rlf_slice *left, rlf_slice *right) {
    const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
    if (json_array_size(merge) == 2 && json_is_string(a) && json_is_string(b)) {
        *left = (rlf_slice){json_string_value(a), json_string_length(a)};
        *right = (rlf_slice){json_string_value(b), json_string_length(b)};
        return true;
    }
    const char *text = json_string_value(merge), *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' ')) return false;
    *left = (rlf_slice){text, (size_t)(space - text)};
    *right = rlf_slice_of(space + 1);
    return true;
}

static rlf_status load_merges(loader *l, const json_t *merges) {
    rlf_bpe *bpe = &l->tokenizer->bpe;
    rlf_str a = {0}, b = {0};
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < json_array_size(merges); i++) {
        rlf_slice left, right;
        if (!merge_sides(json_array_get(merges, i), &left, &right))
            RLF_FAIL(INVALID, "%s: model.merges[%zu]: expected \"a b\" or [\"a\", \"b\"]", l->label, i);
        bool mapped = rlf_bytes_of_key(left.ptr, left.len, &a) && rlf_bytes_of_key(right.ptr, right.len, &b);
        int32_t id_a = mapped && a.len ? rlf_bpe_find(bpe, a.ptr, a.len) : -1;
        int32_t id_b = mapped && b.len ? rlf_bpe_find(bpe, b.ptr, b.len) : -1;
        if (id_b >= 0) rlf_str_append(&a, b.ptr, b.len);
        int32_t id = id_a >= 0 && id_b >= 0 ? rlf_bpe_find(bpe, a.ptr, a.len) : -1;
        if (id < 0) RLF_FAIL(INVALID, "%s: model.merges[%zu]: a side or the result is not in model.vocab", l->label, i);
        rlf_bpe_add_merge(bpe, id_a, id_b, (int32_t)i, id);
    }
out:
    rlf_str_clean_up(&a);
    rlf_str_clean_up(&b);
    return status;
}

static rlf_status load_model(loader *l, const json_t *model, const json_t *added) {
    rlf_status status = RLF_OK;
    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    int32_t n_ids = 0;
    RLF_TRY(check_model(l, model));
    RLF_TRY(count_ids(l, vocab, added, &n_ids));
    rlf_bpe_init(&l->tokenizer->bpe, n_ids, json_array_size(merges), is_flag(model, "ignore_merges", true, false));
    RLF_TRY(load_vocab(l, vocab));
    RLF_TRY(load_merges(l, merges));
    int missing = rlf_bpe_finish(&l->tokenizer->bpe);
    if (missing >= 0)
        RLF_FAIL(UNSUPPORTED, "%s: model.vocab: no token for byte 0x%02x (byte-level BPE has all 256)", l->label, (unsigned)missing);
out:
    return status;
}

/* ---- added tokens ---- */

static uint32_t trie_push(rlf_trie *trie, unsigned char byte, uint32_t sibling) {
    trie->node = rlf_grow(trie->node, trie->n, &trie->cap, sizeof *trie->node);
    trie->node[trie->n] = (rlf_trie_node){.token = -1, .byte = byte, .sibling = sibling};
    return (uint32_t)trie->n++;
}

static uint32_t trie_child(rlf_trie *trie, uint32_t parent, unsigned char byte) {
    uint32_t at = trie->node[parent].child;
    while (at && trie->node[at].byte != byte) at = trie->node[at].sibling;
    if (!at) {
        at = trie_push(trie, byte, trie->node[parent].child);
        trie->node[parent].child = at;
    }
    return at;
}

static void trie_add(rlf_trie *trie, rlf_slice content, int32_t token) {
    if (trie->n == 0) trie_push(trie, 0, 0);
    uint32_t at = 0;
    for (size_t i = 0; i < content.len; i++) {
        at = trie_child(trie, at, (unsigned char)content.ptr[i]);
        if (i == 0) trie->first[(unsigned char)content.ptr[0]] = at;
    }
    trie->node[at].token = token;
}

/* The token's text under its id: new, or already there as a vocabulary entry of the same text. */
static rlf_status claim_id(loader *l, size_t i, int32_t id, rlf_slice content) {
    rlf_bpe *bpe = &l->tokenizer->bpe;
    if (rlf_bpe_add_token(bpe, id, content, false)) return RLF_OK;
    rlf_slice old = bpe->token[id];
    if (old.len == content.len && !memcmp(old.ptr, content.ptr, old.len)) return RLF_OK;
    return RLF_RAISE(INVALID, "%s: added_tokens[%zu]: the id %d belongs to another token", l->label, i, id);
}

static rlf_status load_added_token(loader *l, const json_t *entry, size_t i) {
    rlf_tokenizer *t = l->tokenizer;
    const json_t *text = json_object_get(entry, "content");
    if (!json_is_string(text) || json_string_length(text) == 0 || json_string_length(text) > MAX_CONTENT)
        return RLF_RAISE(INVALID, "%s: added_tokens[%zu].content: expected text of 1 to %d bytes", l->label, i, MAX_CONTENT);
    if (!is_flag(entry, "single_word", false, false))
        return RLF_RAISE(UNSUPPORTED, "%s: added_tokens[%zu].single_word: only false is supported", l->label, i);
    int32_t id = (int32_t)json_integer_value(json_object_get(entry, "id"));
    rlf_slice content = {json_string_value(text), json_string_length(text)};
    rlf_status status = claim_id(l, i, id, content);
    if (status != RLF_OK) return status;
    rlf_added_token *added = &t->added[t->n_added];
    *added = (rlf_added_token){.content = t->bpe.token[id],
                               .id = id,
                               .special = is_flag(entry, "special", true, false),
                               .lstrip = is_flag(entry, "lstrip", true, false),
                               .rstrip = is_flag(entry, "rstrip", true, false)};
    t->special[id] = added->special;
    if (is_flag(entry, "normalized", false, true)) {
        trie_add(&t->raw, added->content, (int32_t)t->n_added++);
        return RLF_OK;
    }
    rlf_str buffer = {0};
    trie_add(&t->normal, t->nfc ? rlf_utf8_nfc(added->content.ptr, added->content.len, &buffer) : added->content, (int32_t)t->n_added++);
    rlf_str_clean_up(&buffer);
    return RLF_OK;
}

static rlf_status load_added(loader *l, const json_t *list) {
    rlf_tokenizer *t = l->tokenizer;
    size_t n = json_array_size(list);
    t->added = rlf_calloc(n, sizeof *t->added);
    t->special = rlf_calloc((size_t)t->bpe.n_ids, sizeof *t->special);
    for (size_t i = 0; i < n; i++) {
        rlf_status status = load_added_token(l, json_array_get(list, i), i);
        if (status != RLF_OK) return status;
    }
    return RLF_OK;
}

/* ---- the document ---- */

static rlf_status load_document(loader *l, const json_t *root) {
    rlf_status status = RLF_OK;
    const json_t *added = json_object_get(root, "added_tokens"), *decoder = json_object_get(root, "decoder");
    if (!json_is_object(root) || !json_is_object(json_object_get(root, "model")))
        RLF_FAIL(INVALID, "%s: expected an object with a key \"model\"", l->label);
    if (added && !json_is_null(added) && (!json_is_array(added) || json_array_size(added) > MAX_ADDED))
        RLF_FAIL(INVALID, "%s: added_tokens: expected an array of at most %d", l->label, MAX_ADDED);
    if (decoder && !json_is_null(decoder) && strcmp(type_of(decoder), "ByteLevel"))
        RLF_FAIL(UNSUPPORTED, "%s: decoder: type %s is not supported (only ByteLevel)", l->label, type_of(decoder));
    RLF_TRY(load_normalizer(l, json_object_get(root, "normalizer")));
    RLF_TRY(load_pre_tokenizer(l, json_object_get(root, "pre_tokenizer")));
    RLF_TRY(load_model(l, json_object_get(root, "model"), added));
    RLF_TRY(load_added(l, added));
out:
    return status;
}

rlf_status rlf_tokenizer_parse(rlf_tokenizer **out, const char *json, size_t n, const char *label) {
    *out = NULL;
    json_error_t error;
    json_t *root = json_loadb(json, n, 0, &error);
    if (!root) return RLF_RAISE(INVALID, "%s: line %d, byte %d: %s", label, error.line, error.position, error.text);
    loader l = {.label = label, .tokenizer = rlf_calloc(1, sizeof *l.tokenizer)};
    rlf_status status = load_document(&l, root);
    json_decref(root);
    if (status == RLF_OK) *out = l.tokenizer;
    else rlf_tokenizer_destroy(l.tokenizer);
    return status;
}

rlf_status rlf_tokenizer_load(rlf_tokenizer **out, const char *dir) {
    *out = NULL;
    rlf_status status = RLF_OK;
    rlf_str path = {0}, json = {0};
    rlf_str_printf(&path, "%s/tokenizer.json", dir);
    RLF_TRY(rlf_str_read_file(&json, path.ptr, MAX_FILE));
    RLF_TRY(rlf_tokenizer_parse(out, json.ptr, json.len, path.ptr));
out:
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&json);
    return status;
}

void rlf_tokenizer_destroy(rlf_tokenizer *t) {
    if (!t) return;
    for (int i = 0; i < t->n_patterns; i++) pcre2_code_free(t->pattern[i]);
    free(t->added);
    free(t->special);
    free(t->raw.node);
    free(t->normal.node);
    rlf_bpe_clean_up(&t->bpe);
    free(t);
}
