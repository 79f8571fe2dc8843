/* The loaded tokenizer, shared by tokenizer.c (encode, decode) and tokenizer_load.c (tokenizer.json). Inside common/text only. */
#ifndef RLF_COMMON_TEXT_TOKENIZER_PRIVATE_H
#define RLF_COMMON_TEXT_TOKENIZER_PRIVATE_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "common/text/bpe.h"

enum { RLF_TOKENIZER_PATTERNS = 8 };

/* A trie over the contents of added tokens: the leftmost, then longest match in linear time. Node 0 is the root; 0 as a link means none. */
typedef struct rlf_trie_node {
    int32_t token; /* index into added[], -1: no token ends here */
    uint32_t child, sibling;
    unsigned char byte;
} rlf_trie_node;

typedef struct rlf_trie {
    rlf_trie_node *node;
    size_t n, cap;
    uint32_t first[256]; /* children of the root by byte */
} rlf_trie;

typedef struct rlf_added_token {
    rlf_slice content; /* in bpe.arena */
    int32_t id;
    bool special;
    bool lstrip, rstrip; /* swallows the white space before, after it */
    bool single_word;    /* only where no character of a word is next to it */
} rlf_added_token;

struct rlf_tokenizer {
    rlf_bpe bpe;
    bool nfc;
    pcre2_code *pattern[RLF_TOKENIZER_PATTERNS]; /* applied one within the other; matches and what lies between them are pieces */
    int n_patterns;
    rlf_added_token *added;
    size_t n_added;
    bool *special;    /* (bpe.n_ids) */
    pcre2_code *word; /* a character of a word; NULL where no token is single_word */
    rlf_trie raw;     /* added tokens found before normalisation */
    rlf_trie normal;  /* added tokens found after it */
};

/* The byte of the GPT-2 alphabet that a character stands for, -1 if none (tokenizer.c). */
int rlf_byte_of_char(int32_t c);
/* A vocabulary key as bytes; false (and the key as it is) if a character is not of the alphabet. */
bool rlf_bytes_of_key(const char *key, size_t n, rlf_str *out);

#endif
