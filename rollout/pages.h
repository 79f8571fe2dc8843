/* The pool of cache pages: which are free, and how many hold each of the others.
 *
 * A page is taken with one holder; a prompt's full pages are retained once more for every sample that shares them, and go back to the pool
 * with the last release. The pool knows numbers only: what lies in a page is the decoder's (kernels/transformer/transformer.h).
 * Invariant: free + pages with a holder == n. */
#ifndef RLF_ROLLOUT_PAGES_H
#define RLF_ROLLOUT_PAGES_H

#include <stdint.h>

typedef struct rollout_pages {
    int32_t *holders; /* (n) owned */
    int32_t *free;    /* (n) owned; a stack of free pages */
    int n, n_free;
} rollout_pages;

void rollout_pages_init(rollout_pages *pages, int n);
void rollout_pages_clean_up(rollout_pages *pages);
/* A free page with one holder, or -1 if there is none. */
int32_t rollout_pages_take(rollout_pages *pages);
void rollout_pages_retain(rollout_pages *pages, int32_t page);
void rollout_pages_release(rollout_pages *pages, int32_t page);

#endif
