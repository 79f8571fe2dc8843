/* What the parts of the loader share: tokenizer_load.c reads the document, tokenizer_model.c its vocabulary and merges. Inside these two
 * only. */
#ifndef RLF_COMMON_TEXT_TOKENIZER_LOAD_H
#define RLF_COMMON_TEXT_TOKENIZER_LOAD_H

#include "common/text/json_scan.h"
#include "common/text/tokenizer_private.h"

enum { RLF_MAX_ID = (1 << 22) - 1 };

/* Vocabulary keys that are not of the byte alphabet (special tokens, mostly), in the order of their bytes: no text is matched with them. */
typedef struct rlf_odd_keys {
    int32_t *v; /* their ids; owned */
    size_t n, cap;
} rlf_odd_keys;

/* One parse: the document as far as it was read, and the tokenizer under construction. */
typedef struct rlf_loader {
    const char *label; /* the document's name for messages */
    json_t *root;      /* all of it but model; owned */
    json_t *model;     /* all of it but vocab and merges; owned */
    const json_t *added; /* root's added_tokens: an array, or NULL */
    rlf_json_scan vocab, merges; /* at their opening brackets; n 0: the key is missing */
    size_t n_vocab;
    int32_t n_ids; /* largest id + 1 of the added tokens, then of the vocabulary as well */
    rlf_odd_keys odd;
    rlf_tokenizer *tokenizer;
} rlf_loader;

/* The "type" of an object, "(none)" if it has none. */
const char *rlf_loader_type(const json_t *object);
/* Whether a boolean key has this value, or its default where it is missing. Anything but a boolean has not, and so is refused. */
bool rlf_loader_flag(const json_t *object, const char *key, bool wanted, bool by_default);
/* Fills tokenizer->bpe from model, vocab and merges. */
rlf_status rlf_loader_model(rlf_loader *l) RLF_MUST_USE;
/* The id of the vocabulary entry whose key reads so, -1 if there is none. */
int32_t rlf_loader_vocab_id(const rlf_loader *l, rlf_slice key);
/* By bytes, then by length: negative, 0 or positive. */
int rlf_slice_order(rlf_slice a, rlf_slice b);

#endif
