/* Memory by lifetime: an arena per step, episode or message; a growing byte string; checked heap calls.
 *
 * Arena: allocations are freed together by reset (keeps its blocks) or clean_up. Not thread safe; one owner.
 * rlf_str grows as needed, is always NUL terminated once anything was appended, and may hold NUL bytes.
 * Running out of memory for a size that *we* chose ends the process with a message (abort): no caller can go on.
 * Sizes that come from outside are bounded by the caller before they get here. */
#ifndef RLF_COMMON_BASE_MEM_H
#define RLF_COMMON_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Zeroed, never NULL (n*size checked for overflow). Free with free(). */
void *rlf_calloc(size_t n, size_t size);
/* Never NULL; contents kept; new bytes are not zeroed. */
void *rlf_realloc(void *old, size_t n, size_t size);
char *rlf_strdup(const char *s);

/* Makes room for one more element in a heap array of `len` used, `*cap` allocated elements (doubling). Returns the
 * array, perhaps moved:   v = rlf_grow(v, n, &cap, sizeof *v); v[n++] = x; */
void *rlf_grow(void *array, size_t len, size_t *cap, size_t size);

typedef struct rlf_arena {
    struct rlf_arena_block *first, *current;
} rlf_arena;

/* A zeroed rlf_arena is a valid empty arena. */
void rlf_arena_clean_up(rlf_arena *arena);
void rlf_arena_reset(rlf_arena *arena);
/* Zeroed memory aligned to 16, owned by the arena; never NULL. n == 0 gives a valid pointer. */
void *rlf_arena_alloc(rlf_arena *arena, size_t n, size_t size);
/* A copy of n bytes plus a terminating NUL. */
char *rlf_arena_dup(rlf_arena *arena, const void *bytes, size_t n);
char *rlf_arena_printf(rlf_arena *arena, const char *fmt, ...) RLF_PRINTF(2, 3);

typedef struct rlf_str {
    char *ptr; /* NULL while empty and never grown; else NUL terminated at ptr[len] */
    size_t len, cap;
} rlf_str;

void rlf_str_clean_up(rlf_str *s);
void rlf_str_reset(rlf_str *s); /* len 0, memory kept */
void rlf_str_append(rlf_str *s, const void *bytes, size_t n);
void rlf_str_puts(rlf_str *s, const char *text);
void rlf_str_putc(rlf_str *s, char c);
void rlf_str_printf(rlf_str *s, const char *fmt, ...) RLF_PRINTF(2, 3);
/* Appends the whole file; refuses (RLF_LIMIT) one larger than max_bytes; the message names the path. */
rlf_status rlf_str_read_file(rlf_str *s, const char *path, size_t max_bytes) RLF_MUST_USE;

/* A borrowed run of bytes: not NUL terminated by contract, never owned. */
typedef struct rlf_slice {
    const char *ptr;
    size_t len;
} rlf_slice;

rlf_slice rlf_slice_of(const char *text);
int rlf_slice_eq(rlf_slice a, const char *text);

#ifdef __cplusplus
}
#endif
#endif
