/* The pool of cache pages (pages.h). */
#include "rollout/pages.h"

#include <assert.h>
#include <stdlib.h>

#include "common/base/mem.h"

void rollout_pages_init(rollout_pages *pages, int n) {
    *pages = (rollout_pages){.holders = rlf_calloc((size_t)n, sizeof *pages->holders),
                             .free = rlf_calloc((size_t)n, sizeof *pages->free), .n = n};
    for (int i = n - 1; i >= 0; i--) pages->free[pages->n_free++] = i; /* the lowest number comes first */
}

void rollout_pages_clean_up(rollout_pages *pages) {
    free(pages->holders);
    free(pages->free);
    *pages = (rollout_pages){0};
}

int32_t rollout_pages_take(rollout_pages *pages) {
    if (!pages->n_free) return -1;
    int32_t page = pages->free[--pages->n_free];
    assert(pages->holders[page] == 0);
    pages->holders[page] = 1;
    return page;
}

void rollout_pages_retain(rollout_pages *pages, int32_t page) {
    assert(page >= 0 && page < pages->n && pages->holders[page] > 0);
    pages->holders[page]++;
}

void rollout_pages_release(rollout_pages *pages, int32_t page) {
    assert(page >= 0 && page < pages->n && pages->holders[page] > 0);
    if (--pages->holders[page] == 0) pages->free[pages->n_free++] = page;
}
