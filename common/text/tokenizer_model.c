/* The "model" of tokenizer.json, its vocabulary and merges, to an rlf_bpe. These two are 95 % of the document: they are read from the text
 * itself, without a tree of values in between. */
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer_load.h"

enum { MAX_MERGES = 1 << 23 };

/* ---- vocabulary ---- */

/* One member of the vocabulary: its key in `key` or in the text, and its id. */
static rlf_status read_entry(const rlf_loader *l, rlf_json_scan *scan, rlf_str *buffer, rlf_slice *key, int32_t *id) {
    int64_t value;
    rlf_status status = rlf_json_scan_key(scan, buffer, key);
    if (status != RLF_OK) return status;
    if (!rlf_json_scan_int(scan, &value) || value < 0 || value > RLF_MAX_ID)
        return RLF_RAISE(INVALID, "%s: model.vocab: \"%.*s\": expected an id from 0 to %d", l->label, (int)(key->len < 40 ? key->len : 40),
                         key->ptr, RLF_MAX_ID);
    *id = (int32_t)value;
    return RLF_OK;
}

/* How many entries there are; raises n_ids to their largest id + 1. */
static rlf_status count_vocab(rlf_loader *l, rlf_json_scan scan) {
    rlf_status status = RLF_OK;
    rlf_str buffer = {0};
    bool more;
    RLF_TRY(rlf_json_scan_mark(&scan, '{'));
    for (;;) {
        rlf_slice key;
        int32_t id;
        RLF_TRY(rlf_json_scan_more(&scan, '}', &l->n_vocab, &more));
        if (!more) break;
        RLF_TRY(read_entry(l, &scan, &buffer, &key, &id));
        if (id >= l->n_ids) l->n_ids = id + 1;
    }
    if (l->n_vocab > RLF_MAX_ID + 1) RLF_FAIL(INVALID, "%s: model.vocab: more entries than ids from 0 to %d", l->label, RLF_MAX_ID);
out:
    rlf_str_clean_up(&buffer);
    return status;
}

static rlf_status add_entry(rlf_loader *l, rlf_slice key, int32_t id, rlf_str *bytes) {
    rlf_bpe *bpe = &l->tokenizer->bpe;
    bool mapped = rlf_bytes_of_key(key.ptr, key.len, bytes) && bytes->len > 0;
    rlf_slice token = {bytes->ptr ? bytes->ptr : "", bytes->len};
    int shown = (int)(key.len < 40 ? key.len : 40);
    bool taken = bpe->token[id].ptr != NULL;
    if (!rlf_bpe_add_token(bpe, id, token, mapped))
        return RLF_RAISE(INVALID, "%s: model.vocab: \"%.*s\" %s", l->label, shown, key.ptr,
                         taken ? "has the id of another token" : "is there twice");
    if (mapped) return RLF_OK;
    l->odd.v = rlf_grow(l->odd.v, l->odd.n, &l->odd.cap, sizeof *l->odd.v);
    l->odd.v[l->odd.n++] = id;
    return RLF_OK;
}

int rlf_slice_order(rlf_slice a, rlf_slice b) {
    int order = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int by_bytes(const void *a, const void *b, void *tokens) {
    const rlf_slice *token = tokens;
    return rlf_slice_order(token[*(const int32_t *)a], token[*(const int32_t *)b]);
}

static rlf_status sort_odd(const rlf_loader *l) {
    rlf_slice *token = l->tokenizer->bpe.token;
    const int32_t *v = l->odd.v;
    if (l->odd.n) qsort_r(l->odd.v, l->odd.n, sizeof *v, by_bytes, token);
    for (size_t i = 1; i < l->odd.n; i++)
        if (!rlf_slice_order(token[v[i - 1]], token[v[i]]))
            return RLF_RAISE(INVALID, "%s: model.vocab: \"%.40s\" is there twice", l->label, token[v[i]].ptr);
    return RLF_OK;
}

static rlf_status load_vocab(rlf_loader *l, rlf_json_scan scan) {
    rlf_status status = RLF_OK;
    rlf_str buffer = {0}, bytes = {0};
    size_t n = 0;
    bool more;
    RLF_TRY(rlf_json_scan_mark(&scan, '{'));
    for (;;) {
        rlf_slice key;
        int32_t id;
        RLF_TRY(rlf_json_scan_more(&scan, '}', &n, &more));
        if (!more) break;
        RLF_TRY(read_entry(l, &scan, &buffer, &key, &id));
        RLF_TRY(add_entry(l, key, id, &bytes));
    }
    RLF_TRY(sort_odd(l));
out:
    rlf_str_clean_up(&buffer);
    rlf_str_clean_up(&bytes);
    return status;
}

int32_t rlf_loader_vocab_id(const rlf_loader *l, rlf_slice key) {
    const rlf_bpe *bpe = &l->tokenizer->bpe;
    rlf_str bytes = {0};
    bool mapped = rlf_bytes_of_key(key.ptr, key.len, &bytes);
    int32_t id = mapped && bytes.len ? rlf_bpe_find(bpe, bytes.ptr, bytes.len) : -1;
    rlf_str_clean_up(&bytes);
    size_t low = 0, high = mapped ? 0 : l->odd.n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int order = rlf_slice_order(bpe->token[l->odd.v[mid]], key);
        if (order == 0) return l->odd.v[mid];
        if (order < 0) low = mid + 1;
        else high = mid;
    }
    return id;
}

/* ---- merges ---- */

typedef struct merge_reader {
    rlf_str buffer, left, right; /* the sides as bytes of the alphabet; `left` becomes the result */
    bool mapped;                 /* both sides are of the alphabet */
} merge_reader;

/* "a b": keys hold no space, it stands for itself as U+0120. */
static bool split_sides(merge_reader *r, rlf_slice text) {
    const char *space = memchr(text.ptr, ' ', text.len);
    if (!space) return false;
    size_t n = (size_t)(space - text.ptr);
    if (memchr(space + 1, ' ', text.len - n - 1)) return false;
    r->mapped = rlf_bytes_of_key(text.ptr, n, &r->left);
    r->mapped = rlf_bytes_of_key(space + 1, text.len - n - 1, &r->right) && r->mapped;
    return true;
}

/* "a b" or ["a", "b"]. False: it is neither, or the text is broken. */
static bool read_merge(merge_reader *r, rlf_json_scan *scan) {
    size_t n = 0;
    bool more;
    rlf_slice side;
    if (rlf_json_scan_peek(scan) != '[') return rlf_json_scan_string(scan, &r->buffer, &side) == RLF_OK && split_sides(r, side);
    scan->at++;
    for (r->mapped = true;;) {
        if (rlf_json_scan_more(scan, ']', &n, &more) != RLF_OK) return false;
        if (!more) return n == 2;
        if (n > 2 || rlf_json_scan_string(scan, &r->buffer, &side) != RLF_OK) return false;
        r->mapped = rlf_bytes_of_key(side.ptr, side.len, n == 1 ? &r->left : &r->right) && r->mapped;
    }
}

/* The result's id, or -1 if a side or the result is not in the vocabulary. */
static int32_t merge_result(const rlf_bpe *bpe, merge_reader *r, int32_t *left, int32_t *right) {
    if (!r->mapped || r->left.len == 0 || r->right.len == 0) return -1;
    *left = rlf_bpe_find(bpe, r->left.ptr, r->left.len);
    *right = rlf_bpe_find(bpe, r->right.ptr, r->right.len);
    rlf_str_append(&r->left, r->right.ptr, r->right.len);
    return *left >= 0 && *right >= 0 ? rlf_bpe_find(bpe, r->left.ptr, r->left.len) : -1;
}

static rlf_status count_merges(rlf_json_scan scan, size_t *n) {
    rlf_status status = rlf_json_scan_mark(&scan, '[');
    for (bool more = true; status == RLF_OK;) {
        status = rlf_json_scan_more(&scan, ']', n, &more);
        if (!more) break;
        if (status == RLF_OK) status = rlf_json_scan_skip(&scan);
    }
    return status;
}

static rlf_status load_merges(const rlf_loader *l, rlf_json_scan scan) {
    rlf_status status = RLF_OK;
    rlf_bpe *bpe = &l->tokenizer->bpe;
    merge_reader r = {0};
    size_t n = 0;
    bool more;
    RLF_TRY(rlf_json_scan_mark(&scan, '['));
    for (;;) {
        int32_t left, right, id;
        RLF_TRY(rlf_json_scan_more(&scan, ']', &n, &more));
        if (!more) break;
        if (!read_merge(&r, &scan)) RLF_FAIL(INVALID, "%s: model.merges[%zu]: expected \"a b\" or [\"a\", \"b\"]", l->label, n - 1);
        id = merge_result(bpe, &r, &left, &right);
        if (id < 0) RLF_FAIL(INVALID, "%s: model.merges[%zu]: a side or the result is not in model.vocab", l->label, n - 1);
        rlf_bpe_add_merge(bpe, left, right, (int32_t)(n - 1), id);
    }
out:
    rlf_str_clean_up(&r.buffer);
    rlf_str_clean_up(&r.left);
    rlf_str_clean_up(&r.right);
    return status;
}

/* ---- the model ---- */

static rlf_status check_model(const rlf_loader *l) {
    const json_t *model = l->model, *dropout = json_object_get(model, "dropout");
    if (json_object_get(model, "type") && strcmp(rlf_loader_type(model), "BPE"))
        return RLF_RAISE(UNSUPPORTED, "%s: model.type: %s is not supported (only BPE)", l->label, rlf_loader_type(model));
    if (!rlf_loader_flag(model, "byte_fallback", false, false))
        return RLF_RAISE(UNSUPPORTED, "%s: model.byte_fallback: only false is supported (byte-level BPE, not SentencePiece)", l->label);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (affix && !json_is_null(affix) && !(json_is_string(affix) && json_string_length(affix) == 0))
            return RLF_RAISE(UNSUPPORTED, "%s: model.%s: only none is supported", l->label, affixes[i]);
    }
    if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return RLF_RAISE(UNSUPPORTED, "%s: model.dropout: only null is supported", l->label);
    const json_t *ignore = json_object_get(model, "ignore_merges");
    if (ignore && !json_is_null(ignore) && !json_is_boolean(ignore))
        return RLF_RAISE(INVALID, "%s: model.ignore_merges: expected true or false", l->label);
    return RLF_OK;
}

rlf_status rlf_loader_model(rlf_loader *l) {
    rlf_status status = RLF_OK;
    rlf_bpe *bpe = &l->tokenizer->bpe;
    size_t n_merges = 0;
    int missing;
    RLF_TRY(check_model(l));
    RLF_TRY(count_vocab(l, l->vocab));
    RLF_TRY(count_merges(l->merges, &n_merges));
    if (n_merges > MAX_MERGES) RLF_FAIL(LIMIT, "%s: model.merges: %zu of them (at most %d)", l->label, n_merges, MAX_MERGES);
    rlf_bpe_init(bpe, l->n_ids, l->n_vocab, n_merges, json_is_true(json_object_get(l->model, "ignore_merges")));
    RLF_TRY(load_vocab(l, l->vocab));
    missing = rlf_bpe_find_bytes(bpe);
    if (missing >= 0)
        RLF_FAIL(UNSUPPORTED, "%s: model.vocab: no token for byte 0x%02x (byte-level BPE has all 256)", l->label, (unsigned)missing);
    RLF_TRY(load_merges(l, l->merges));
out:
    return status;
}
