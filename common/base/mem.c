/* Arena, byte string and checked heap calls behind mem.h. */
#include "common/base/mem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rlf_arena_block {
    struct rlf_arena_block *next;
    size_t cap, used;
    _Alignas(16) unsigned char bytes[];
};

enum { ARENA_BLOCK = 64 * 1024, SHORT_TEXT = 32 };

static void *or_abort(void *p, size_t bytes) {
    if (!p) {
        fprintf(stderr, "rlf: out of memory (%zu bytes)\n", bytes);
        abort();
    }
    return p;
}

static size_t product(size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) or_abort(NULL, SIZE_MAX);
    return bytes ? bytes : 1;
}

void *rlf_calloc(size_t n, size_t size) {
    size_t bytes = product(n, size);
    return or_abort(calloc(1, bytes), bytes);
}

void *rlf_realloc(void *old, size_t n, size_t size) {
    size_t bytes = product(n, size);
    return or_abort(realloc(old, bytes), bytes);
}

char *rlf_strdup(const char *s) { return or_abort(strdup(s), strlen(s) + 1); }

void *rlf_grow(void *array, size_t len, size_t *cap, size_t size) {
    if (len < *cap) return array;
    *cap = *cap ? *cap * 2 : 8;
    return rlf_realloc(array, *cap, size);
}

void rlf_arena_clean_up(rlf_arena *arena) {
    struct rlf_arena_block *block = arena->first;
    while (block) {
        struct rlf_arena_block *next = block->next;
        free(block);
        block = next;
    }
    arena->first = arena->current = NULL;
}

void rlf_arena_reset(rlf_arena *arena) {
    for (struct rlf_arena_block *b = arena->first; b; b = b->next) b->used = 0;
    arena->current = arena->first;
}

void *rlf_arena_alloc(rlf_arena *arena, size_t n, size_t size) {
    size_t bytes = (product(n, size) + 15) & ~(size_t)15;
    struct rlf_arena_block *b = arena->current;
    while (b && b->cap - b->used < bytes && b->next) b = b->next;
    if (!b || b->cap - b->used < bytes) {
        size_t cap = bytes > ARENA_BLOCK ? bytes : ARENA_BLOCK;
        struct rlf_arena_block *fresh = or_abort(malloc(sizeof *fresh + cap), cap);
        *fresh = (struct rlf_arena_block){.next = NULL, .cap = cap, .used = 0};
        if (b) b->next = fresh;
        else arena->first = fresh;
        b = fresh;
    }
    arena->current = b;
    void *out = b->bytes + b->used;
    b->used += bytes;
    return memset(out, 0, bytes);
}

char *rlf_arena_dup(rlf_arena *arena, const void *bytes, size_t n) {
    char *out = rlf_arena_alloc(arena, n + 1, 1);
    if (n) memcpy(out, bytes, n);
    return out;
}

char *rlf_arena_printf(rlf_arena *arena, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *out = rlf_arena_alloc(arena, (size_t)(n < 0 ? 0 : n) + 1, 1);
    va_start(ap, fmt);
    if (n >= 0) vsnprintf(out, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return out;
}

void rlf_str_clean_up(rlf_str *s) {
    free(s->ptr);
    *s = (rlf_str){0};
}

void rlf_str_reset(rlf_str *s) {
    s->len = 0;
    if (s->ptr) s->ptr[0] = '\0';
}

static void reserve(rlf_str *s, size_t extra) {
    size_t need = s->len + extra + 1;
    if (need <= s->cap) return;
    size_t cap = s->cap ? s->cap : 64;
    while (cap < need) cap *= 2;
    s->ptr = rlf_realloc(s->ptr, cap, 1);
    s->cap = cap;
}

void rlf_str_append(rlf_str *s, const void *bytes, size_t n) {
    reserve(s, n);
    if (n) memcpy(s->ptr + s->len, bytes, n);
    s->len += n;
    s->ptr[s->len] = '\0';
}

void rlf_str_puts(rlf_str *s, const char *text) { rlf_str_append(s, text, strlen(text)); }
void rlf_str_putc(rlf_str *s, char c) { rlf_str_append(s, &c, 1); }

void rlf_str_printf(rlf_str *s, const char *fmt, ...) {
    va_list ap;
    reserve(s, SHORT_TEXT); /* most texts are short: these are printed once */
    va_start(ap, fmt);
    int n = vsnprintf(s->ptr + s->len, s->cap - s->len, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n >= s->cap - s->len) {
        reserve(s, (size_t)n);
        va_start(ap, fmt);
        vsnprintf(s->ptr + s->len, (size_t)n + 1, fmt, ap);
        va_end(ap);
    }
    if (n > 0) s->len += (size_t)n;
    s->ptr[s->len] = '\0';
}

rlf_status rlf_str_read_file(rlf_str *s, const char *path, size_t max_bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) return RLF_RAISE(IO, "%s: cannot open: %s", path, strerror(errno));
    rlf_status status = RLF_OK;
    size_t start = s->len;
    for (;;) {
        reserve(s, 65536);
        size_t n = fread(s->ptr + s->len, 1, 65536, f);
        s->len += n;
        s->ptr[s->len] = '\0';
        if (n == 0) break;
        if (s->len - start > max_bytes) RLF_FAIL(LIMIT, "%s: larger than %zu bytes", path, max_bytes);
    }
    if (ferror(f)) RLF_FAIL(IO, "%s: cannot read: %s", path, strerror(errno));
out:
    fclose(f);
    return status;
}

rlf_slice rlf_slice_of(const char *text) { return (rlf_slice){text, strlen(text)}; }
int rlf_slice_eq(rlf_slice a, const char *text) { return a.len == strlen(text) && memcmp(a.ptr, text, a.len) == 0; }
