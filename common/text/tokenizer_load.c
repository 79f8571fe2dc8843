/* tokenizer.json to an rlf_tokenizer. What is not supported is refused by its key: a tokenizer that gives other ids than it was
 * trained with is worse than none. Keys that do not change ids (truncation, padding, post_processor, trim_offsets, version) are
 * not read. */
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer_load.h"
#include "common/text/utf8.h"

enum { MAX_FILE = 256 << 20, MAX_ADDED = 1 << 16, MAX_CONTENT = 1024, MAX_PATTERN = 8192 };

static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/* A character of a word to the reference where it finds added tokens that must stand alone: \w of Rust's regex. */
static const char word_pattern[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";

/* ---- reading keys ---- */

const char *rlf_loader_type(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "(none)";
}

bool rlf_loader_flag(const json_t *object, const char *key, bool wanted, bool by_default) {
    const json_t *value = json_object_get(object, key);
    if (!value) return by_default == wanted;
    return json_is_boolean(value) && json_is_true(value) == wanted;
}

/* ---- normalizer ---- */

static rlf_status load_normalizer(rlf_loader *l, const json_t *normalizer) {
    if (!normalizer || json_is_null(normalizer)) return RLF_OK;
    const json_t *list = json_object_get(normalizer, "normalizers");
    if (!strcmp(rlf_loader_type(normalizer), "Sequence") && json_is_array(list)) {
        for (size_t i = 0; i < json_array_size(list); i++)
            if (strcmp(rlf_loader_type(json_array_get(list, i)), "NFC"))
                return RLF_RAISE(UNSUPPORTED, "%s: normalizer.normalizers[%zu]: type %s is not supported (only NFC)", l->label,
                                 i, rlf_loader_type(json_array_get(list, i)));
        l->tokenizer->nfc = json_array_size(list) > 0;
        return RLF_OK;
    }
    if (strcmp(rlf_loader_type(normalizer), "NFC"))
        return RLF_RAISE(UNSUPPORTED, "%s: normalizer: type %s is not supported (only NFC or null)", l->label, rlf_loader_type(normalizer));
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

static rlf_status compile(const rlf_loader *l, const char *key, const char *pattern, size_t n, pcre2_code **out) {
    int error = 0;
    PCRE2_SIZE at = 0;
    *out = pcre2_compile((PCRE2_SPTR)pattern, n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, NULL);
    if (*out) {
        (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it the interpreter runs: the same matches, slower */
        return RLF_OK;
    }
    PCRE2_UCHAR message[128] = "";
    pcre2_get_error_message(error, message, sizeof message);
    return RLF_RAISE(INVALID, "%s: %s: bad regex: %s", l->label, key, (const char *)message);
}

static rlf_status add_pattern(rlf_loader *l, const char *key, const char *pattern, size_t n) {
    rlf_tokenizer *t = l->tokenizer;
    rlf_status status = RLF_OK;
    rlf_str translated = {0};
    const char *what;
    uint32_t matches_empty = 0;
    if (n > MAX_PATTERN) RLF_FAIL(LIMIT, "%s: %s: a regex of %zu bytes (at most %d)", l->label, key, n, MAX_PATTERN);
    if (t->n_patterns == RLF_TOKENIZER_PATTERNS) RLF_FAIL(LIMIT, "%s: %s: more than %d regexes", l->label, key, RLF_TOKENIZER_PATTERNS);
    if (!translate_pattern(pattern, n, &translated, &what))
        RLF_FAIL(UNSUPPORTED, "%s: %s: the regex has %s, which is not supported", l->label, key, what);
    RLF_TRY(compile(l, key, translated.ptr ? translated.ptr : "", translated.len, &t->pattern[t->n_patterns]));
    pcre2_pattern_info(t->pattern[t->n_patterns++], PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty) RLF_FAIL(UNSUPPORTED, "%s: %s: the regex can match the empty text", l->label, key);
out:
    rlf_str_clean_up(&translated);
    return status;
}

static rlf_status load_byte_level(rlf_loader *l, const char *key, const json_t *step) {
    if (!rlf_loader_flag(step, "add_prefix_space", false, true))
        return RLF_RAISE(UNSUPPORTED, "%s: %s.add_prefix_space: only false is supported", l->label, key);
    return rlf_loader_flag(step, "use_regex", true, true) ? add_pattern(l, key, gpt2_pattern, sizeof gpt2_pattern - 1) : RLF_OK;
}

static rlf_status load_split(rlf_loader *l, const char *key, const json_t *step) {
    const json_t *regex = json_object_get(json_object_get(step, "pattern"), "Regex");
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    if (!regex || !json_is_string(regex)) return RLF_RAISE(UNSUPPORTED, "%s: %s.pattern: expected {\"Regex\": \"…\"}", l->label, key);
    if (!behavior || strcmp(behavior, "Isolated"))
        return RLF_RAISE(UNSUPPORTED, "%s: %s.behavior: %s is not supported (only Isolated)", l->label, key,
                         behavior ? behavior : "(none)");
    if (!rlf_loader_flag(step, "invert", false, false))
        return RLF_RAISE(UNSUPPORTED, "%s: %s.invert: only false is supported", l->label, key);
    return add_pattern(l, key, json_string_value(regex), json_string_length(regex));
}

static rlf_status load_pre_tokenizer(rlf_loader *l, const json_t *pre) {
    if (!strcmp(rlf_loader_type(pre), "ByteLevel")) return load_byte_level(l, "pre_tokenizer", pre);
    const json_t *list = json_object_get(pre, "pretokenizers");
    size_t n = json_array_size(list);
    if (strcmp(rlf_loader_type(pre), "Sequence") || n == 0)
        return RLF_RAISE(UNSUPPORTED, "%s: pre_tokenizer: type %s is not supported (ByteLevel, or a Sequence of Split and then "
                                      "ByteLevel)", l->label, rlf_loader_type(pre));
    for (size_t i = 0; i < n; i++) {
        const json_t *step = json_array_get(list, i);
        char key[64];
        snprintf(key, sizeof key, "pre_tokenizer.pretokenizers[%zu]", i);
        const char *wanted = i + 1 < n ? "Split" : "ByteLevel";
        if (strcmp(rlf_loader_type(step), wanted))
            return RLF_RAISE(UNSUPPORTED, "%s: %s: type %s is not supported (%s expected here)", l->label, key, rlf_loader_type(step),
                             wanted);
        rlf_status status = i + 1 < n ? load_split(l, key, step) : load_byte_level(l, key, step);
        if (status != RLF_OK) return status;
    }
    return RLF_OK;
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

/* False if another token ends there. */
static bool trie_add(rlf_trie *trie, rlf_slice content, int32_t token) {
    if (trie->n == 0) trie_push(trie, 0, 0);
    uint32_t at = 0;
    for (size_t i = 0; i < content.len; i++) {
        at = trie_child(trie, at, (unsigned char)content.ptr[i]);
        if (i == 0) trie->first[(unsigned char)content.ptr[0]] = at;
    }
    if (trie->node[at].token >= 0) return false;
    trie->node[at].token = token;
    return true;
}

/* The reference gives an added token the id of the vocabulary's entry of the same text, else the next one after all before it, whatever
 * the file says. Where the two differ the ids in use are not the ones the file's author meant: refused. */
static rlf_status claim_id(rlf_loader *l, size_t i, int32_t id, rlf_slice content, int32_t *next) {
    rlf_bpe *bpe = &l->tokenizer->bpe;
    int32_t known = rlf_loader_vocab_id(l, content), given = known >= 0 ? known : (*next)++;
    if (id != given)
        return RLF_RAISE(INVALID, "%s: added_tokens[%zu].id: %d, but the reference gives this token the id %d", l->label, i, id, given);
    if (known < 0 ? rlf_bpe_add_token(bpe, id, content, false) : !rlf_slice_order(bpe->token[id], content)) return RLF_OK;
    return RLF_RAISE(INVALID, "%s: added_tokens[%zu]: the id %d belongs to another token", l->label, i, id);
}

static rlf_status read_flag(const rlf_loader *l, const json_t *entry, size_t i, const char *key, bool by_default, bool *out) {
    const json_t *value = json_object_get(entry, key);
    *out = value ? json_is_true(value) : by_default;
    if (value && !json_is_boolean(value))
        return RLF_RAISE(INVALID, "%s: added_tokens[%zu].%s: expected true or false", l->label, i, key);
    return RLF_OK;
}

/* Puts the token into the trie of the texts it is searched in. */
static rlf_status add_to_trie(rlf_loader *l, size_t i, bool normalized) {
    rlf_tokenizer *t = l->tokenizer;
    rlf_slice content = t->added[i].content;
    rlf_str buffer = {0};
    if (normalized && t->nfc) content = rlf_utf8_nfc(content.ptr, content.len, &buffer);
    bool added = trie_add(normalized ? &t->normal : &t->raw, content, (int32_t)i);
    if (content.ptr != t->added[i].content.ptr) /* it decodes to what it was found by */
        t->bpe.token[t->added[i].id] = (rlf_slice){rlf_arena_dup(&t->bpe.arena, content.ptr, content.len), content.len};
    rlf_str_clean_up(&buffer);
    return added ? RLF_OK : RLF_RAISE(INVALID, "%s: added_tokens[%zu].content: another added token has the same text", l->label, i);
}

static rlf_status load_added_token(rlf_loader *l, const json_t *entry, size_t i, int32_t *next) {
    rlf_tokenizer *t = l->tokenizer;
    rlf_status status = RLF_OK;
    rlf_added_token *added = &t->added[t->n_added++];
    const json_t *text = json_object_get(entry, "content");
    bool normalized;
    if (!json_is_string(text) || json_string_length(text) == 0 || json_string_length(text) > MAX_CONTENT)
        RLF_FAIL(INVALID, "%s: added_tokens[%zu].content: expected text of 1 to %d bytes", l->label, i, MAX_CONTENT);
    added->id = (int32_t)json_integer_value(json_object_get(entry, "id"));
    RLF_TRY(claim_id(l, i, added->id, (rlf_slice){json_string_value(text), json_string_length(text)}, next));
    added->content = t->bpe.token[added->id];
    RLF_TRY(read_flag(l, entry, i, "special", false, &added->special));
    RLF_TRY(read_flag(l, entry, i, "lstrip", false, &added->lstrip));
    RLF_TRY(read_flag(l, entry, i, "rstrip", false, &added->rstrip));
    RLF_TRY(read_flag(l, entry, i, "single_word", false, &added->single_word));
    RLF_TRY(read_flag(l, entry, i, "normalized", !added->special, &normalized));
    if (added->single_word && !t->word) RLF_TRY(compile(l, "single_word", word_pattern, sizeof word_pattern - 1, &t->word));
    t->special[added->id] = added->special;
    /* It is found before the model sees it, and as plain text it must not become the token: a piece it is only where it has to stand
     * alone and does not. */
    if (!added->single_word) t->bpe.whole[added->id] = RLF_BPE_MERGED;
    RLF_TRY(add_to_trie(l, i, normalized));
out:
    return status;
}

static int by_content(const void *a, const void *b) {
    const rlf_added_token *x = *(const rlf_added_token *const *)a, *y = *(const rlf_added_token *const *)b;
    return rlf_slice_order(x->content, y->content);
}

/* No text may be that of two tokens, found before and after normalisation. */
static rlf_status check_contents(const rlf_loader *l) {
    const rlf_tokenizer *t = l->tokenizer;
    rlf_status status = RLF_OK;
    const rlf_added_token **sorted = rlf_calloc(t->n_added, sizeof *sorted);
    for (size_t i = 0; i < t->n_added; i++) sorted[i] = &t->added[i];
    if (t->n_added) qsort(sorted, t->n_added, sizeof *sorted, by_content);
    for (size_t i = 1; i < t->n_added; i++)
        if (!by_content(&sorted[i - 1], &sorted[i]))
            RLF_FAIL(INVALID, "%s: added_tokens[%zu].content: another added token has the same text", l->label,
                     (size_t)(sorted[i] - t->added));
out:
    free(sorted);
    return status;
}

static rlf_status load_added(rlf_loader *l) {
    rlf_tokenizer *t = l->tokenizer;
    rlf_status status = RLF_OK;
    size_t n = json_array_size(l->added);
    int32_t next = (int32_t)l->n_vocab;
    t->added = rlf_calloc(n, sizeof *t->added);
    t->special = rlf_calloc((size_t)t->bpe.n_ids, sizeof *t->special);
    for (size_t i = 0; i < n; i++) RLF_TRY(load_added_token(l, json_array_get(l->added, i), i, &next));
    RLF_TRY(check_contents(l));
out:
    return status;
}

/* Checks the list's form and its ids, and takes the largest. */
static rlf_status count_added(rlf_loader *l) {
    const json_t *list = json_object_get(l->root, "added_tokens");
    if (!list || json_is_null(list)) return RLF_OK;
    if (!json_is_array(list) || json_array_size(list) > MAX_ADDED)
        return RLF_RAISE(INVALID, "%s: added_tokens: expected an array of at most %d", l->label, MAX_ADDED);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_object_get(json_array_get(list, i), "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > RLF_MAX_ID)
            return RLF_RAISE(INVALID, "%s: added_tokens[%zu].id: expected an id from 0 to %d", l->label, i, RLF_MAX_ID);
        if (json_integer_value(id) >= l->n_ids) l->n_ids = (int32_t)json_integer_value(id) + 1;
    }
    l->added = list;
    return RLF_OK;
}

/* ---- the document ---- */

/* A key whose value is too large for a tree: it is passed over, and where it begins is noted. */
typedef struct table {
    const char *key;
    char opening;
    rlf_json_scan *at;
} table;

static const table *table_of(const table *tables, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(tables[i].key, key)) return &tables[i];
    return NULL;
}

/* The members of the object that begins here: tables are noted, all others become members of `into`. `prefix` is for messages. */
static rlf_status read_members(rlf_json_scan *scan, const char *prefix, const table *tables, size_t n_tables, json_t *into) {
    rlf_status status = RLF_OK;
    rlf_str buffer = {0}, name = {0};
    rlf_slice key;
    size_t n = 0;
    bool more;
    RLF_TRY(rlf_json_scan_mark(scan, '{'));
    for (;;) {
        RLF_TRY(rlf_json_scan_more(scan, '}', &n, &more));
        if (!more) break;
        RLF_TRY(rlf_json_scan_key(scan, &buffer, &key));
        rlf_str_reset(&name);
        rlf_str_append(&name, key.ptr, key.len);
        rlf_str_putc(&name, '\0');
        if (strlen(name.ptr) < key.len) RLF_TRY(rlf_json_scan_fail(scan, scan->at, "a NUL in a key"));
        const table *passed = table_of(tables, n_tables, name.ptr);
        if (passed ? passed->at->n > 0 : json_object_get(into, name.ptr) != NULL)
            RLF_FAIL(INVALID, "%s: %s%.40s is there twice", scan->label, prefix, name.ptr);
        if (passed) {
            if (rlf_json_scan_peek(scan) != passed->opening)
                RLF_FAIL(INVALID, "%s: %s%s: expected an %s", scan->label, prefix, name.ptr, passed->opening == '{' ? "object" : "array");
            *passed->at = *scan;
            RLF_TRY(rlf_json_scan_skip(scan));
            continue;
        }
        json_t *value;
        RLF_TRY(rlf_json_scan_load(scan, &value));
        if (json_object_set_new(into, name.ptr, value)) RLF_FAIL(INVALID, "%s: %s: a bad key", scan->label, prefix);
    }
    for (size_t i = 0; i < n_tables; i++)
        if (!tables[i].at->n)
            RLF_FAIL(INVALID, "%s: %s%s: missing (an %s)", scan->label, prefix, tables[i].key,
                     tables[i].opening == '{' ? "object" : "array");
out:
    rlf_str_clean_up(&buffer);
    rlf_str_clean_up(&name);
    return status;
}

static rlf_status read_document(rlf_loader *l, const char *json, size_t n) {
    rlf_status status = RLF_OK;
    rlf_json_scan scan = {.label = l->label, .text = json, .n = n}, model = {0};
    const table document[] = {{"model", '{', &model}}, tables[] = {{"vocab", '{', &l->vocab}, {"merges", '[', &l->merges}};
    size_t valid = rlf_utf8_valid(json, n);
    if (valid < n) return rlf_json_scan_fail(&scan, valid, "not UTF-8");
    if (n >= 3 && !memcmp(json, "\xef\xbb\xbf", 3)) return rlf_json_scan_fail(&scan, 0, "a byte order mark, which JSON has not");
    RLF_TRY(read_members(&scan, "", document, 1, l->root));
    if (rlf_json_scan_peek(&scan) || scan.at < n) RLF_FAIL(INVALID, "%s: byte %zu: more than one value", l->label, scan.at + 1);
    RLF_TRY(read_members(&model, "model.", tables, 2, l->model));
out:
    return status;
}

static rlf_status load_document(rlf_loader *l, const char *json, size_t n) {
    rlf_status status = RLF_OK;
    RLF_TRY(read_document(l, json, n));
    const json_t *decoder = json_object_get(l->root, "decoder");
    RLF_TRY(count_added(l));
    RLF_TRY(load_normalizer(l, json_object_get(l->root, "normalizer")));
    RLF_TRY(load_pre_tokenizer(l, json_object_get(l->root, "pre_tokenizer")));
    if (decoder && !json_is_null(decoder) && strcmp(rlf_loader_type(decoder), "ByteLevel"))
        RLF_FAIL(UNSUPPORTED, "%s: decoder: type %s is not supported (only ByteLevel)", l->label, rlf_loader_type(decoder));
    RLF_TRY(rlf_loader_model(l));
    RLF_TRY(load_added(l));
out:
    return status;
}

rlf_status rlf_tokenizer_parse(rlf_tokenizer **out, const char *json, size_t n, const char *label) {
    rlf_loader l = {.label = label, .root = json_object(), .model = json_object(), .tokenizer = rlf_calloc(1, sizeof *l.tokenizer)};
    rlf_status status = load_document(&l, json, n);
    json_decref(l.root);
    json_decref(l.model);
    free(l.odd.v);
    *out = status == RLF_OK ? l.tokenizer : NULL;
    if (status != RLF_OK) rlf_tokenizer_destroy(l.tokenizer);
    return status;
}

rlf_status rlf_tokenizer_load(rlf_tokenizer **out, const char *dir) {
    rlf_status status = RLF_OK;
    *out = NULL;
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
    pcre2_code_free(t->word);
    free(t->added);
    free(t->special);
    free(t->raw.node);
    free(t->normal.node);
    rlf_bpe_clean_up(&t->bpe);
    free(t);
}
