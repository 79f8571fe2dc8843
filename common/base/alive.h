/* Signs of life out of long work. What makes others wait, by computing or by writing files, says after every piece of it that it goes on.
 * Whoever answers for the thread has that told to the others; where nobody does, nothing happens. A sign comes from work that was done, never
 * from a clock: what is stuck is silent. */
#ifndef RLF_COMMON_BASE_ALIVE_H
#define RLF_COMMON_BASE_ALIVE_H

typedef void rlf_alive_fn(void *ctx);

/* A piece of this thread's work is done. Cheap: there may be thousands a second, and `fn` is to be so too where nothing is due. */
void rlf_alive(void);
/* From now on rlf_alive of this thread calls fn(ctx); NULL: nothing. */
void rlf_alive_tell(rlf_alive_fn *fn, void *ctx);

#endif
