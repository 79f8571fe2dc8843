/* Byte-level BPE from a Hugging Face tokenizer.json (GPT-2 byte alphabet; pre-tokenizer regexes through PCRE2 with Unicode; optional NFC;
 * ignore_merges; added and special tokens anywhere in the text, with their flags): GPT-2, Qwen2, Qwen2.5, Qwen3, Llama 3 and tables like
 * them. Ids equal those of the `tokenizers` library. Tables in the style of SentencePiece are refused.
 * No post-processor is applied: the <|begin_of_text|> of Llama 3 is for the caller to write, as its chat template does. Ids are those of
 * the library with add_special_tokens=False.
 * What is a letter, a number or a mark is as in Unicode 16, the library's, whatever PCRE2 knows of it (newer_chars.h; a PCRE2 older than
 * 10.40 lacks what came with Unicode 14). Normalisation is utf8proc's: with 2.8 it is that of Unicode 15.
 *
 * May be shared by threads once loaded. Input that is not UTF-8 is encoded byte by byte where it is broken: each such byte becomes its own
 * token, the text before and after it is encoded as if it stood alone, and decoding gives the same bytes back. */
#ifndef RLF_COMMON_TEXT_TOKENIZER_H
#define RLF_COMMON_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/mem.h"

typedef struct rlf_tokenizer rlf_tokenizer;

typedef struct rlf_ids {
    int32_t *v; /* owned */
    size_t n, cap;
} rlf_ids;
void rlf_ids_clean_up(rlf_ids *ids);
void rlf_ids_push(rlf_ids *ids, int32_t id);
void rlf_ids_append(rlf_ids *ids, const int32_t *v, size_t n);

/* Reads DIR/tokenizer.json. A feature that is not supported is refused by its key. */
rlf_status rlf_tokenizer_load(rlf_tokenizer **out, const char *dir) RLF_MUST_USE;
rlf_status rlf_tokenizer_parse(rlf_tokenizer **out, const char *json, size_t n, const char *label) RLF_MUST_USE;
void rlf_tokenizer_destroy(rlf_tokenizer *tokenizer);

/* Largest id + 1. */
int32_t rlf_tokenizer_size(const rlf_tokenizer *tokenizer);
/* The id of an added token or vocabulary entry given as text ("<|im_end|>"), -1 if none. */
int32_t rlf_tokenizer_id(const rlf_tokenizer *tokenizer, const char *token);
bool rlf_tokenizer_is_special(const rlf_tokenizer *tokenizer, int32_t id);

/* Appends ids. added_tokens false: text that looks like an added token is encoded as plain text (tool answers, other people's words). */
void rlf_tokenizer_encode(const rlf_tokenizer *tokenizer, const char *text, size_t n, bool added_tokens, rlf_ids *out);
/* Appends the bytes of the ids; ids out of range are skipped; special tokens are left out if skip_special. May end inside a
 * UTF-8 character. */
void rlf_tokenizer_decode(const rlf_tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special, rlf_str *out);

/* The text of ids that come one at a time, in whole characters: what rlf_tokenizer_decode gives for all of them, with U+FFFD in place of
 * each part that is not UTF-8 (one for a character's beginning, or for a byte that cannot be one), as the library decodes. A zeroed one
 * with a tokenizer is ready for use, and is again after its end. */
typedef struct rlf_text_stream {
    const rlf_tokenizer *tokenizer; /* borrowed */
    bool skip_special;              /* special tokens are left out */
    char held[4];                   /* the beginning of a character */
    size_t n_held;
} rlf_text_stream;

/* Appends what is complete now. */
void rlf_text_stream_push(rlf_text_stream *stream, int32_t id, rlf_str *out);
/* Appends U+FFFD if a character is incomplete. */
void rlf_text_stream_end(rlf_text_stream *stream, rlf_str *out);

#endif
