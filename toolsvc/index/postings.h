/* The file of an index, which index_build.c writes and index.c reads, and a run of postings in it.
 *
 * A SQLite file with the tables
 *     meta(key, value)                  passages; words, of all passages together
 *     passage(rowid, id, title, quoted, text)
 *     term(stem, number, passages)      every stem, and how many passages hold it
 *     posting(key, bytes)               key: number << 32 | first passage; bytes: a block of at most TOOLSVC_BLOCK postings
 * A posting says that a passage holds a stem: the step from the passage before (0 for the first of a block), the weight, and how many words
 * the passage has in all, each as an unsigned LEB128 of at most 32 bits. A stem's blocks are in order of their passages, so that one seek
 * finds the only block that can hold a passage. The weight counts a stem of the title as TOOLSVC_TITLE_WEIGHT, one of the text as
 * TOOLSVC_TEXT_WEIGHT. The count of words comes with every posting so that a score needs nothing but the posting. */
#ifndef RLF_TOOLSVC_POSTINGS_H
#define RLF_TOOLSVC_POSTINGS_H

#include <stdbool.h>

#include "common/base/mem.h"

enum {
    TOOLSVC_INDEX_FORMAT = 2,
    TOOLSVC_INDEX_ID = 0x726C6669, /* "rlfi", in the header of the file */
    TOOLSVC_BLOCK = 256,
    TOOLSVC_TITLE_WEIGHT = 3,
    TOOLSVC_TEXT_WEIGHT = 2 /* so that a word of the title counts 1.5 times */
};

typedef struct toolsvc_posting {
    uint32_t passage, weight, words;
} toolsvc_posting;

static inline void toolsvc_number_append(rlf_str *out, uint32_t value) {
    for (; value >= 0x80; value >>= 7) rlf_str_putc(out, (char)(value | 0x80));
    rlf_str_putc(out, (char)value);
}

/* A block being read. */
typedef struct toolsvc_block {
    const unsigned char *at, *end;
    uint32_t passage; /* of the posting before; of the first one, at the beginning */
    bool damaged;
} toolsvc_block;

static inline uint32_t toolsvc_number_read(toolsvc_block *block) {
    uint32_t value = 0;
    for (int shift = 0; block->at < block->end && shift < 32; shift += 7) {
        unsigned char byte = *block->at++;
        value |= (uint32_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return value;
    }
    block->damaged = true;
    return 0;
}

/* False at the end, and where the block is damaged. */
static inline bool toolsvc_block_next(toolsvc_block *block, toolsvc_posting *posting) {
    if (block->at == block->end) return false;
    posting->passage = block->passage += toolsvc_number_read(block);
    posting->weight = toolsvc_number_read(block);
    posting->words = toolsvc_number_read(block);
    return !block->damaged;
}

#endif
