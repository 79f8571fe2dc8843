/* Byte-pair merging over a vocabulary of byte strings: the part of the tokenizer that knows nothing of JSON, regexes or added tokens.
 *
 * Built once (init, tokens, find_bytes, merges), then safe to share between threads: nothing changes but the memo `whole`.
 * Inside common/text only. */
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

/* A token found by its bytes: `key` is the bytes themselves where there are at most eight, else a hash of them. Free slots have id -1. */
typedef struct rlf_bpe_slot {
    uint64_t key;
    uint32_t len;
    int32_t id;
} rlf_bpe_slot;

/* Whether a piece equal to a token encodes to it alone, so that no merging is needed. Found out when it is first asked. */
enum { RLF_BPE_UNKNOWN, RLF_BPE_WHOLE, RLF_BPE_MERGED };

typedef struct rlf_bpe {
    rlf_slice *token;     /* (n_ids) bytes of each id, in the arena; ptr NULL: no such id */
    uint8_t *whole;       /* (n_ids) RLF_BPE_UNKNOWN or what it was found to be; written by any thread, always the same value */
    int32_t n_ids;
    rlf_bpe_slot *by_bytes; /* open addressing, (bytes_mask + 1) */
    uint32_t bytes_mask;
    rlf_bpe_merge *merges; /* open addressing, (merges_mask + 1) */
    uint32_t merges_mask;
    size_t longest;       /* bytes of the longest token */
    int32_t of_byte[256]; /* the id of each single byte */
    rlf_arena arena;
} rlf_bpe;

/* Working memory of one encoding call; zeroed is valid. */
typedef struct rlf_bpe_scratch {
    struct rlf_bpe_symbol *symbols;
    struct rlf_bpe_candidate *heap;
    size_t cap;
} rlf_bpe_scratch;
void rlf_bpe_scratch_clean_up(rlf_bpe_scratch *scratch);

/* n_ids: largest id + 1; n_tokens: at most so many are added as matched. ignore_merges: every token is RLF_BPE_WHOLE, whatever merging
 * gives. */
void rlf_bpe_init(rlf_bpe *bpe, int32_t n_ids, size_t n_tokens, size_t n_merges, bool ignore_merges);
void rlf_bpe_clean_up(rlf_bpe *bpe);
/* False if the id already has a token, or another id has this one. `matched` false: kept for decoding only (its text is not of the byte
 * alphabet). */
bool rlf_bpe_add_token(rlf_bpe *bpe, int32_t id, rlf_slice bytes, bool matched);
/* A later merge of the same pair replaces the earlier one, as in the reference. */
void rlf_bpe_add_merge(rlf_bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t id);
/* After the tokens: finds those of single bytes. Returns -1, or the first byte value that has none. */
int rlf_bpe_find_bytes(rlf_bpe *bpe);

/* The id of the token with these bytes, -1 if none. */
int32_t rlf_bpe_find(const rlf_bpe *bpe, const char *bytes, size_t n);
/* Appends the ids of one pre-tokenized piece. O(n log n). */
void rlf_bpe_encode(const rlf_bpe *bpe, const char *piece, size_t n, rlf_bpe_scratch *scratch, rlf_ids *out);

#endif
