/* Byte-pair merging over a vocabulary of byte strings: the part of the tokenizer that knows nothing of JSON, regexes or added tokens.
 *
 * Built once (init, tokens, merges, finish), then immutable and safe to share between threads. Inside common/text only. */
#ifndef RLF_COMMON_TEXT_BPE_H
#define RLF_COMMON_TEXT_BPE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/text/tokenizer.h"

/* What merging the pair (left, right) = (key >> 32, key) gives. Free slots have id -1. */
typedef struct rlf_bpe_merge {
    uint64_t key;
    int32_t rank, id;
} rlf_bpe_merge;

typedef struct rlf_bpe {
    rlf_slice *token;     /* (n_ids) bytes of each id, in the arena; ptr NULL: no such id */
    bool *whole;          /* (n_ids) a piece equal to this token encodes to it alone: found by one lookup, no merging */
    int32_t n_ids;
    int32_t *by_bytes;    /* open addressing, (bytes_mask + 1) ids or -1 */
    uint32_t bytes_mask;
    rlf_bpe_merge *merges; /* open addressing, (merges_mask + 1) */
    uint32_t merges_mask;
    size_t longest;       /* bytes of the longest token */
    int32_t of_byte[256]; /* the id of each single byte */
    bool ignore_merges;   /* every token is `whole` */
    rlf_arena arena;
} rlf_bpe;

/* Working memory of one encoding call; zeroed is valid. */
typedef struct rlf_bpe_scratch {
    struct rlf_bpe_symbol *symbols;
    struct rlf_bpe_candidate *heap;
    size_t cap;
} rlf_bpe_scratch;
void rlf_bpe_scratch_clean_up(rlf_bpe_scratch *scratch);

void rlf_bpe_init(rlf_bpe *bpe, int32_t n_ids, size_t n_merges, bool ignore_merges);
void rlf_bpe_clean_up(rlf_bpe *bpe);
/* False if the id already has a token. `matched` false: kept for decoding only (its text is not of the byte alphabet). */
bool rlf_bpe_add_token(rlf_bpe *bpe, int32_t id, rlf_slice bytes, bool matched);
/* A later merge of the same pair replaces the earlier one, as in the reference. */
void rlf_bpe_add_merge(rlf_bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t id);
/* Completes the tables. Returns -1, or the first byte value that has no token. */
int rlf_bpe_finish(rlf_bpe *bpe);

/* The id of the token with these bytes, -1 if none. */
int32_t rlf_bpe_find(const rlf_bpe *bpe, const char *bytes, size_t n);
/* Appends the ids of one pre-tokenized piece. O(n log n). */
void rlf_bpe_encode(const rlf_bpe *bpe, const char *piece, size_t n, rlf_bpe_scratch *scratch, rlf_ids *out);

#endif
