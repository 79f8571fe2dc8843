/* Encoding and decoding behind tokenizer.h.
 *
 *   text → runs of valid UTF-8 | single broken bytes
 *   run  → added tokens of the raw text | segments → NFC → added tokens of the normalised text | segments
 *        → regexes, one within the other, which see stand-ins of the newest characters (newer_chars.h) → pieces → byte-pair merging → ids
 *
 * The order of these steps is that of the `tokenizers` library; each changes ids if swapped. Everything here only reads the
 * tokenizer: what a call needs to write is in its `encoder`. */
#include "common/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "common/text/newer_chars.h"
#include "common/text/tokenizer_private.h"
#include "common/text/utf8.h"

/* ---- ids ---- */

void rlf_ids_clean_up(rlf_ids *ids) {
    free(ids->v);
    *ids = (rlf_ids){0};
}

void rlf_ids_push(rlf_ids *ids, int32_t id) {
    ids->v = rlf_grow(ids->v, ids->n, &ids->cap, sizeof *ids->v);
    ids->v[ids->n++] = id;
}

void rlf_ids_append(rlf_ids *ids, const int32_t *v, size_t n) {
    if (n == 0) return;
    size_t cap = ids->cap ? ids->cap : 8;
    while (cap < ids->n + n) cap *= 2;
    if (cap != ids->cap) ids->v = rlf_realloc(ids->v, cap, sizeof *ids->v);
    ids->cap = cap;
    memcpy(ids->v + ids->n, v, n * sizeof *v);
    ids->n += n;
}

/* ---- the byte alphabet of GPT-2: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up, in order ---- */

static bool stands_for_itself(int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; }

int rlf_byte_of_char(int32_t c) {
    if (c >= 0 && c < 256) return stands_for_itself(c) ? c : -1;
    int k = c - 256;
    if (k >= 0 && k <= 32) return k;       /* 0 .. 32 */
    if (k >= 33 && k <= 66) return k + 94; /* 127 .. 160 */
    return k == 67 ? 173 : -1;
}

bool rlf_bytes_of_key(const char *key, size_t n, rlf_str *out) {
    rlf_str_reset(out);
    for (size_t i = 0; i < n;) { /* the alphabet ends at U+0143: one or two bytes a character */
        unsigned char a = (unsigned char)key[i], b = i + 1 < n ? (unsigned char)key[i + 1] : 0;
        bool two = a >= 0xc2 && a <= 0xdf && (b & 0xc0) == 0x80;
        int byte = rlf_byte_of_char(two ? (a & 31) << 6 | (b & 63) : a < 0x80 ? a : -1);
        if (byte < 0) {
            rlf_str_reset(out);
            rlf_str_append(out, key, n);
            return false;
        }
        rlf_str_putc(out, (char)byte);
        i += two ? 2 : 1;
    }
    return true;
}

/* ---- encode ---- */

typedef struct encoder {
    const rlf_tokenizer *tokenizer;
    pcre2_match_data *match[RLF_TOKENIZER_PATTERNS]; /* one a level: an outer match is still needed while an inner one runs */
    pcre2_match_data *word;
    pcre2_match_context *limit;
    rlf_bpe_scratch scratch;
    rlf_str normalized;
    rlf_str seen, seen_char; /* copies with stand-ins, of what is being cut into pieces and of one character */
    rlf_ids *out;
} encoder;

/* Steps the regex engine may take for one match: patterns of tokenizers go over a run of n characters a few times at most. */
static uint32_t step_limit(size_t n) {
    enum { LEAST = 10000000, PER_BYTE = 16 };
    return n < (UINT32_MAX - LEAST) / PER_BYTE ? (uint32_t)(LEAST + PER_BYTE * n) : UINT32_MAX;
}

/* The first match at or after `at`. False if there is none, or the regex engine reached its limit: the rest is one piece then. */
static bool next_match(encoder *e, int level, const char *text, size_t n, size_t at, size_t *begin, size_t *end) {
    const pcre2_code *code = e->tokenizer->pattern[level];
    pcre2_match_data *match = e->match[level];
    int found = pcre2_match(code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, match, e->limit);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, e->limit);
    if (found < 0) return false;
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
    *begin = range[0];
    *end = range[1];
    return *begin >= at && *end > *begin; /* \K could put the begin anywhere */
}

/* Cuts text into pieces by what the patterns see in its place, byte for byte. */
static void encode_pieces(encoder *e, int level, const char *text, const char *seen, size_t n) {
    if (n == 0) return;
    if (level == e->tokenizer->n_patterns) {
        rlf_bpe_encode(&e->tokenizer->bpe, text, n, &e->scratch, e->out);
        return;
    }
    size_t at = 0, begin, end;
    while (at < n && next_match(e, level, seen, n, at, &begin, &end)) {
        encode_pieces(e, level + 1, text + at, seen + at, begin - at);
        encode_pieces(e, level + 1, text + begin, seen + begin, end - begin);
        at = end;
    }
    encode_pieces(e, level + 1, text + at, seen + at, n - at);
}

/* The longest token of the trie that text starts with: its index in added[] and its length in this text, or -1. */
static int32_t trie_match(const rlf_trie *trie, const char *text, size_t n, size_t *length) {
    int32_t longest = -1;
    uint32_t at = trie->first[(unsigned char)text[0]];
    for (size_t i = 1; at; i++) {
        if (trie->node[at].token >= 0) {
            longest = trie->node[at].token;
            *length = i;
        }
        if (i == n) break;
        at = trie->node[at].child;
        while (at && trie->node[at].byte != (unsigned char)text[i]) at = trie->node[at].sibling;
    }
    return longest;
}

typedef void segment_fn(encoder *e, const char *text, size_t n);

/* Whether a character of a word begins at `at`. */
static bool word_at(encoder *e, const char *text, size_t n, size_t at) {
    size_t length;
    if (at >= n || rlf_utf8_next(text + at, n - at, &length) != RLF_UTF8_WHOLE) return false;
    const char *seen = rlf_newer_chars_replace(text + at, length, &e->seen_char);
    return pcre2_match(e->tokenizer->word, (PCRE2_SPTR)seen, length, 0, PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, e->word, NULL) >= 0;
}

static bool stands_alone(encoder *e, const char *text, size_t n, size_t begin, size_t end) {
    size_t before = begin;
    while (before > 0 && ((unsigned char)text[--before] & 0xc0) == 0x80) {}
    return !(begin > 0 && word_at(e, text, n, before)) && !word_at(e, text, n, end);
}

/* The end of the white space at `at`. *known: a run of it that was walked before, to which any later walk within it leads. */
static size_t space_end(const char *text, size_t n, size_t at, size_t known[2]) {
    size_t end = at, space;
    if (at >= known[0] && at <= known[1]) return known[1];
    while ((space = rlf_utf8_space_at_start(text + end, n - end)) > 0) end += space;
    known[0] = at;
    known[1] = end;
    return end;
}

/* Pushes the added tokens of `trie` found in the text and hands what lies between them to `rest`. As in the reference, the white space
 * that a token swallows at its right is still searched for tokens. */
static void split_added(encoder *e, const rlf_trie *trie, const char *text, size_t n, segment_fn *rest) {
    size_t done = 0, known[2] = {SIZE_MAX, 0};
    for (size_t at = 0; trie->n && at < n;) {
        size_t length = 0, space;
        int32_t token = trie_match(trie, text + at, n - at, &length);
        if (token < 0) {
            at++;
            continue;
        }
        const rlf_added_token *added = &e->tokenizer->added[token];
        size_t begin = at, end = at + length;
        at = end;
        if (added->single_word && !stands_alone(e, text, n, begin, end)) continue;
        while (added->lstrip && begin > done && (space = rlf_utf8_space_at_end(text + done, begin - done)) > 0) begin -= space;
        if (begin > done) rest(e, text + done, begin - done);
        rlf_ids_push(e->out, added->id);
        done = added->rstrip ? space_end(text, n, end, known) : end;
    }
    rest(e, text + done, n - done);
}

static void encode_plain(encoder *e, const char *text, size_t n) {
    encode_pieces(e, 0, text, rlf_newer_chars_replace(text, n, &e->seen), n);
}

static rlf_slice normalize(encoder *e, const char *text, size_t n) {
    return e->tokenizer->nfc ? rlf_utf8_nfc(text, n, &e->normalized) : (rlf_slice){text, n};
}

static void encode_segment(encoder *e, const char *text, size_t n) {
    rlf_slice normal = normalize(e, text, n);
    split_added(e, &e->tokenizer->normal, normal.ptr, normal.len, encode_plain);
}

static void encode_run(encoder *e, const char *text, size_t n, bool added_tokens) {
    if (added_tokens) {
        split_added(e, &e->tokenizer->raw, text, n, encode_segment);
    } else {
        rlf_slice normal = normalize(e, text, n);
        encode_plain(e, normal.ptr, normal.len);
    }
}

void rlf_tokenizer_encode(const rlf_tokenizer *tokenizer, const char *text, size_t n, bool added_tokens, rlf_ids *out) {
    encoder e = {.tokenizer = tokenizer, .out = out};
    for (int i = 0; i < tokenizer->n_patterns; i++) e.match[i] = pcre2_match_data_create(1, NULL);
    e.limit = pcre2_match_context_create(NULL);
    pcre2_set_match_limit(e.limit, step_limit(n));
    if (tokenizer->word) e.word = pcre2_match_data_create(1, NULL);
    while (n > 0) {
        size_t run = rlf_utf8_valid(text, n);
        if (run > 0) encode_run(&e, text, run, added_tokens);
        if (run < n) rlf_ids_push(out, tokenizer->bpe.of_byte[(unsigned char)text[run++]]);
        text += run;
        n -= run;
    }
    for (int i = 0; i < tokenizer->n_patterns; i++) pcre2_match_data_free(e.match[i]);
    pcre2_match_data_free(e.word);
    pcre2_match_context_free(e.limit);
    rlf_bpe_scratch_clean_up(&e.scratch);
    rlf_str_clean_up(&e.normalized);
    rlf_str_clean_up(&e.seen);
    rlf_str_clean_up(&e.seen_char);
}

/* ---- decode and lookups ---- */

/* Empty for what is left out. */
static rlf_slice bytes_of(const rlf_tokenizer *tokenizer, int32_t id, bool skip_special) {
    if (id < 0 || id >= tokenizer->bpe.n_ids || (skip_special && tokenizer->special[id])) return (rlf_slice){0};
    return tokenizer->bpe.token[id];
}

void rlf_tokenizer_decode(const rlf_tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special, rlf_str *out) {
    for (size_t i = 0; i < n; i++) {
        rlf_slice bytes = bytes_of(tokenizer, ids[i], skip_special);
        if (bytes.len) rlf_str_append(out, bytes.ptr, bytes.len);
    }
}

static const char replacement[] = "\xef\xbf\xbd";

static void stream_byte(rlf_text_stream *stream, char byte, rlf_str *out) {
    stream->held[stream->n_held++] = byte;
    while (stream->n_held > 0) {
        size_t length;
        rlf_utf8_kind kind = rlf_utf8_next(stream->held, stream->n_held, &length);
        if (kind == RLF_UTF8_CUT) return;
        if (kind == RLF_UTF8_WHOLE) rlf_str_append(out, stream->held, length);
        else rlf_str_puts(out, replacement);
        stream->n_held -= length;
        memmove(stream->held, stream->held + length, stream->n_held);
    }
}

void rlf_text_stream_push(rlf_text_stream *stream, int32_t id, rlf_str *out) {
    rlf_slice bytes = bytes_of(stream->tokenizer, id, stream->skip_special);
    for (size_t i = 0; i < bytes.len; i++) stream_byte(stream, bytes.ptr[i], out);
}

void rlf_text_stream_end(rlf_text_stream *stream, rlf_str *out) {
    if (stream->n_held > 0) rlf_str_puts(out, replacement);
    stream->n_held = 0;
}

int32_t rlf_tokenizer_size(const rlf_tokenizer *tokenizer) { return tokenizer->bpe.n_ids; }

bool rlf_tokenizer_is_special(const rlf_tokenizer *tokenizer, int32_t id) {
    return id >= 0 && id < tokenizer->bpe.n_ids && tokenizer->special[id];
}

int32_t rlf_tokenizer_id(const rlf_tokenizer *tokenizer, const char *token) {
    for (size_t i = 0; i < tokenizer->n_added; i++)
        if (rlf_slice_eq(tokenizer->added[i].content, token)) return tokenizer->added[i].id;
    rlf_str bytes = {0};
    bool mapped = rlf_bytes_of_key(token, strlen(token), &bytes);
    int32_t id = mapped && bytes.len ? rlf_bpe_find(&tokenizer->bpe, bytes.ptr, bytes.len) : -1;
    rlf_str_clean_up(&bytes);
    return id;
}
