/* The words of a text as stems: SQLite's tokenizer of FTS5, unicode61 (case and accents folded) under Porter.
 *
 * A stemmer belongs to one SQLite connection, must be cleaned up before that is closed, and is used by one thread at a time. */
#ifndef RLF_TOOLSVC_STEMMER_H
#define RLF_TOOLSVC_STEMMER_H

#include <sqlite3.h>
#include <stdbool.h>

#include "common/base/mem.h"

enum { TOOLSVC_STEM_MAX = 512 }; /* bytes; a longer stem is cut */

typedef struct toolsvc_stemmer {
    fts5_tokenizer tokenizer;
    Fts5Tokenizer *words;
} toolsvc_stemmer;

/* RLF_UNSUPPORTED: this SQLite has no FTS5. */
rlf_status toolsvc_stemmer_init(toolsvc_stemmer *stemmer, sqlite3 *db) RLF_MUST_USE;
/* A zeroed stemmer is allowed. */
void toolsvc_stemmer_clean_up(toolsvc_stemmer *stemmer);

/* Calls `take` with each stem of the text, in order, until it returns false. Text beyond 1 GiB is left out. */
rlf_status toolsvc_stemmer_run(const toolsvc_stemmer *stemmer, rlf_slice text, bool (*take)(void *user, rlf_slice stem),
                               void *user) RLF_MUST_USE;

#endif
