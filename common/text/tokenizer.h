/* Byte-level BPE from a Hugging Face tokenizer.json (GPT-2 byte alphabet; pre-tokenizer regex through PCRE2 with Unicode; optional NFC;
 * added and special tokens found anywhere in the text). Ids equal those of the `tokenizers` library. No post-processor is applied.
 * One limit: what is a letter or a number is PCRE2's table. A character assigned after its Unicode version (14 in PCRE2 10.42)
 * may be split off otherwise than by the library's newer one: 20 numerals of Unicode 15 are, with the Qwen3 regex.
 *
 * Immutable once loaded; may be shared by threads. Input that is not UTF-8 is encoded byte by byte where it is broken. */
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

#endif
