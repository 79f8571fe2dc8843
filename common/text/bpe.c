/* Byte-pair merging behind bpe.h.
 *
 * The rule: of all adjacent pairs that have a merge, apply the one of lowest rank, leftmost first, until none is left. Short
 * pieces (nearly all) scan an array for it; long ones keep a linked list of symbols and a heap of candidates, so that one
 * megabyte without a space costs n log n.
 * A heap entry may be stale: its symbol was merged since. It is recognised because the pair found there now has another rank. */
#include "common/text/bpe.h"

#include <stdlib.h>
#include <string.h>

enum { SHORT_PIECE = 48, PART = 1 << 30 };
#define NO_RANK INT32_MAX
#define NONE UINT32_MAX

struct rlf_bpe_symbol {
    int32_t id; /* -1: merged into its left neighbour */
    uint32_t prev, next;
};

struct rlf_bpe_candidate {
    int32_t rank;
    uint32_t at; /* left symbol of the pair */
};

/* ---- tables ---- */

static uint64_t first_bytes(const char *bytes, size_t n) {
    uint64_t word = 0;
    memcpy(&word, bytes, n < 8 ? n : 8);
    return word;
}

/* The bytes themselves where eight hold them, else a hash. */
static uint64_t key_of(const char *bytes, size_t n) {
    if (n <= 8) return first_bytes(bytes, n);
    uint64_t h = n;
    for (size_t i = 0; i < n; i += 8) {
        h = (h ^ first_bytes(bytes + i, n - i)) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    return h;
}

static uint32_t hash_key(uint64_t key, size_t n) {
    key = (key ^ n) * 0xff51afd7ed558ccdu;
    return (uint32_t)((key ^ key >> 32) * 0xc4ceb9fe1a85ec53u >> 32);
}

static uint32_t hash_pair(uint64_t key) {
    key *= 0x9e3779b97f4a7c15u;
    return (uint32_t)(key >> 32 ^ key);
}

static uint32_t table_size(size_t n) {
    uint32_t size = 64;
    while (size < n + n / 2) size *= 2;
    return size;
}

void rlf_bpe_init(rlf_bpe *bpe, int32_t n_ids, size_t n_tokens, size_t n_merges, bool ignore_merges) {
    uint32_t n_bytes = table_size(n_tokens), n_pairs = table_size(n_merges);
    *bpe = (rlf_bpe){.n_ids = n_ids, .bytes_mask = n_bytes - 1, .merges_mask = n_pairs - 1};
    bpe->token = rlf_calloc((size_t)n_ids, sizeof *bpe->token);
    bpe->whole = rlf_calloc((size_t)n_ids, sizeof *bpe->whole);
    if (ignore_merges) memset(bpe->whole, RLF_BPE_WHOLE, (size_t)n_ids);
    bpe->by_bytes = rlf_calloc(n_bytes, sizeof *bpe->by_bytes);
    bpe->merges = rlf_calloc(n_pairs, sizeof *bpe->merges);
    for (uint32_t i = 0; i < n_bytes; i++) bpe->by_bytes[i].id = -1;
    for (uint32_t i = 0; i < n_pairs; i++) bpe->merges[i].id = -1;
}

void rlf_bpe_clean_up(rlf_bpe *bpe) {
    free(bpe->token);
    free(bpe->whole);
    free(bpe->by_bytes);
    free(bpe->merges);
    rlf_arena_clean_up(&bpe->arena);
    *bpe = (rlf_bpe){0};
}

/* The slot of the token with these bytes, or the free one where it would be. */
static rlf_bpe_slot *find(const rlf_bpe *bpe, const char *bytes, size_t n) {
    uint64_t key = key_of(bytes, n);
    for (uint32_t i = hash_key(key, n);; i++) {
        rlf_bpe_slot *slot = &bpe->by_bytes[i & bpe->bytes_mask];
        if (slot->id < 0) return slot;
        if (slot->key == key && slot->len == n && (n <= 8 || !memcmp(bpe->token[slot->id].ptr, bytes, n))) return slot;
    }
}

int32_t rlf_bpe_find(const rlf_bpe *bpe, const char *bytes, size_t n) { return n > bpe->longest ? -1 : find(bpe, bytes, n)->id; }

bool rlf_bpe_add_token(rlf_bpe *bpe, int32_t id, rlf_slice bytes, bool matched) {
    if (bpe->token[id].ptr) return false;
    rlf_bpe_slot *slot = matched ? find(bpe, bytes.ptr, bytes.len) : NULL;
    if (slot && slot->id >= 0) return false;
    bpe->token[id] = (rlf_slice){rlf_arena_dup(&bpe->arena, bytes.ptr, bytes.len), bytes.len};
    if (!slot) return true;
    *slot = (rlf_bpe_slot){key_of(bytes.ptr, bytes.len), (uint32_t)bytes.len, id};
    if (bytes.len > bpe->longest) bpe->longest = bytes.len;
    return true;
}

static rlf_bpe_merge *slot_of(const rlf_bpe *bpe, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = hash_pair(key);
    while (bpe->merges[i & bpe->merges_mask].id >= 0 && bpe->merges[i & bpe->merges_mask].key != key) i++;
    return &bpe->merges[i & bpe->merges_mask];
}

void rlf_bpe_add_merge(rlf_bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t id) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    *slot_of(bpe, left, right) = (rlf_bpe_merge){.key = key, .rank = rank, .id = id};
}

static int32_t rank_of(const rlf_bpe *bpe, int32_t left, int32_t right) {
    const rlf_bpe_merge *merge = slot_of(bpe, left, right);
    return merge->id >= 0 ? merge->rank : NO_RANK;
}

/* ---- merging ---- */

static void merge_short(const rlf_bpe *bpe, const char *piece, size_t n, rlf_ids *out) {
    int32_t id[SHORT_PIECE], rank[SHORT_PIECE]; /* rank[i]: of the pair (i, i + 1) */
    for (size_t i = 0; i < n; i++) id[i] = bpe->of_byte[(unsigned char)piece[i]];
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rank_of(bpe, id[i], id[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;
        id[best] = slot_of(bpe, id[best], id[best + 1])->id;
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        if (best + 1 < n) memmove(rank + best + 1, rank + best + 2, (n - best - 2) * sizeof *rank);
        if (best + 1 < n) rank[best] = rank_of(bpe, id[best], id[best + 1]);
        if (best > 0) rank[best - 1] = rank_of(bpe, id[best - 1], id[best]);
    }
    rlf_ids_append(out, id, n);
}

static bool before(struct rlf_bpe_candidate a, struct rlf_bpe_candidate b) { return a.rank != b.rank ? a.rank < b.rank : a.at < b.at; }

static size_t heap_push(struct rlf_bpe_candidate *heap, size_t n, struct rlf_bpe_candidate c) {
    size_t i = n;
    for (; i > 0 && before(c, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = c;
    return n + 1;
}

static size_t heap_pop(struct rlf_bpe_candidate *heap, size_t n) {
    struct rlf_bpe_candidate last = heap[--n];
    size_t i = 0;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], last)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return n;
}

/* A piece of n bytes puts at most n - 1 first candidates and two per merge on the heap, each merge after taking one off: 2 n is enough. */
static void reserve(rlf_bpe_scratch *scratch, size_t n) {
    if (n <= scratch->cap) return;
    scratch->symbols = rlf_realloc(scratch->symbols, n, sizeof *scratch->symbols);
    scratch->heap = rlf_realloc(scratch->heap, n, 2 * sizeof *scratch->heap);
    scratch->cap = n;
}

void rlf_bpe_scratch_clean_up(rlf_bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (rlf_bpe_scratch){0};
}

static size_t push_pair(const rlf_bpe *bpe, rlf_bpe_scratch *scratch, size_t n_heap, uint32_t at) {
    const struct rlf_bpe_symbol *s = scratch->symbols;
    if (at == NONE || s[at].next == NONE) return n_heap;
    int32_t rank = rank_of(bpe, s[at].id, s[s[at].next].id);
    return rank == NO_RANK ? n_heap : heap_push(scratch->heap, n_heap, (struct rlf_bpe_candidate){rank, at});
}

static void merge_long(const rlf_bpe *bpe, const char *piece, size_t n, rlf_bpe_scratch *scratch, rlf_ids *out) {
    reserve(scratch, n);
    struct rlf_bpe_symbol *s = scratch->symbols;
    for (uint32_t i = 0; i < n; i++)
        s[i] = (struct rlf_bpe_symbol){bpe->of_byte[(unsigned char)piece[i]], i ? i - 1 : NONE, i + 1 < n ? i + 1 : NONE};
    size_t n_heap = 0;
    for (uint32_t i = 0; i + 1 < n; i++) n_heap = push_pair(bpe, scratch, n_heap, i);
    while (n_heap > 0) {
        struct rlf_bpe_candidate top = scratch->heap[0];
        n_heap = heap_pop(scratch->heap, n_heap);
        uint32_t left = top.at, right = s[left].next;
        if (s[left].id < 0 || right == NONE) continue;
        const rlf_bpe_merge *merge = slot_of(bpe, s[left].id, s[right].id);
        if (merge->id < 0 || merge->rank != top.rank) continue;
        s[left].id = merge->id;
        s[left].next = s[right].next;
        s[right].id = -1;
        if (s[left].next != NONE) s[s[left].next].prev = left;
        n_heap = push_pair(bpe, scratch, n_heap, left);
        n_heap = push_pair(bpe, scratch, n_heap, s[left].prev);
    }
    for (uint32_t i = 0; i != NONE; i = s[i].next) rlf_ids_push(out, s[i].id);
}

static void merge(const rlf_bpe *bpe, const char *piece, size_t n, rlf_bpe_scratch *scratch, rlf_ids *out) {
    if (n <= SHORT_PIECE) merge_short(bpe, piece, n, out);
    else merge_long(bpe, piece, n, scratch, out);
}

void rlf_bpe_encode(const rlf_bpe *bpe, const char *piece, size_t n, rlf_bpe_scratch *scratch, rlf_ids *out) {
    int32_t id = rlf_bpe_find(bpe, piece, n);
    uint8_t whole = id < 0 ? RLF_BPE_MERGED : __atomic_load_n(&bpe->whole[id], __ATOMIC_RELAXED);
    if (whole == RLF_BPE_WHOLE) {
        rlf_ids_push(out, id);
        return;
    }
    size_t before = out->n;
    for (; n > PART; n -= PART, piece += PART) merge(bpe, piece, PART, scratch, out); /* symbols are counted in 32 bits */
    merge(bpe, piece, n, scratch, out);
    if (whole == RLF_BPE_MERGED) return;
    whole = out->n == before + 1 && out->v[before] == id ? RLF_BPE_WHOLE : RLF_BPE_MERGED;
    __atomic_store_n(&bpe->whole[id], whole, __ATOMIC_RELAXED);
}

int rlf_bpe_find_bytes(rlf_bpe *bpe) {
    for (int b = 0; b < 256; b++) {
        bpe->of_byte[b] = rlf_bpe_find(bpe, &(char){(char)b}, 1);
        if (bpe->of_byte[b] < 0) return b;
    }
    return -1;
}
