/* Full-text index of passages: one SQLite file, BM25 ranking, Porter stemming.
 *
 * Building reads JSONL, one passage a line, in either form:
 *     {"id": "7", "contents": "\"Title\"\ntext"}        wiki-18 (Search-R1, FlashRAG): the first line is the title, usually in quotes
 *     {"id": "7", "title": "Title", "text": "text"}
 * and renames the finished file into place, so that a reader sees a whole index or none.
 *
 * Searching takes any text: its words, cut and stemmed as those of the passages were, each passage that holds one of them scored by BM25
 * (k1 1.2, b .75, a word of the title counting 1.5 times): the same scores, to rounding, as SQLite's bm25(), without looking at most
 * passages of common words. Equal scores are ordered by position in the corpus: the same index and query always give the same answer.
 *
 * Threads: an open index may be searched from any number of threads at once; each search borrows one of its connections. */
#ifndef RLF_TOOLSVC_INDEX_H
#define RLF_TOOLSVC_INDEX_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/base/mem.h"

typedef struct toolsvc_index toolsvc_index;

typedef struct toolsvc_hit {
    const char *id, *title, *text; /* UTF-8, in the caller's arena; title "" if there is none */
    bool title_quoted;             /* the corpus had the title in double quotes, which `title` leaves out */
    double score;                  /* BM25, higher is better */
} toolsvc_hit;

/* Writes the index of `corpus` to `path`, replacing an index or an empty file that was there; another file is refused. *passages counts
 * them. Errors name file and line, and leave `path` untouched. */
rlf_status toolsvc_index_build(const char *corpus, const char *path, size_t *passages) RLF_MUST_USE;

/* Opens for reading; refuses a file that toolsvc_index_build did not make. */
rlf_status toolsvc_index_open(toolsvc_index **out, const char *path) RLF_MUST_USE;
/* No search may be under way. NULL is allowed. */
void toolsvc_index_destroy(toolsvc_index *index);
size_t toolsvc_index_passages(const toolsvc_index *index);

/* The best k passages for a query of n bytes, best first; *count <= k, 0 if no word of the query occurs. hits and their strings
 * go to the arena. A query is read up to its 64th different word that a passage holds, and no further than 64 KiB.
 * `cancel` may be NULL; once it is true the search gives up with RLF_STOPPED. */
rlf_status toolsvc_index_search(toolsvc_index *index, const char *query, size_t n, size_t k, const atomic_bool *cancel, rlf_arena *arena,
                                toolsvc_hit **hits, size_t *count) RLF_MUST_USE;

#endif
