/* Arena, byte string and growing arrays. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/mem.h"

static int is_zero(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i]) return 0;
    return 1;
}

static void arena_memory_is_zeroed_aligned_and_apart(void **state) {
    rlf_arena arena = {0};
    unsigned char *last = NULL;
    (void)state;
    for (size_t size = 0; size < 3000; size += 7) {
        unsigned char *p = rlf_arena_alloc(&arena, size, 1);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        assert_true(is_zero(p, size));
        memset(p, 0xaa, size);
        if (last && size > 7) assert_int_equal(last[size - 8], 0xaa); /* the one before is as it was left */
        last = p;
    }
    rlf_arena_clean_up(&arena);
    assert_null(arena.first);
}

static void arena_holds_blocks_larger_than_its_own(void **state) {
    rlf_arena arena = {0};
    (void)state;
    char *small = rlf_arena_dup(&arena, "small", 5);
    unsigned char *large = rlf_arena_alloc(&arena, 1 << 20, 3);
    assert_true(is_zero(large, 3 << 20));
    assert_string_equal(small, "small");
    rlf_arena_clean_up(&arena);
}

static void arena_reset_keeps_its_blocks_and_zeroes_anew(void **state) {
    rlf_arena arena = {0};
    (void)state;
    for (int round = 0; round < 3; round++) {
        struct rlf_arena_block *first = arena.first;
        for (int i = 0; i < 100; i++) {
            unsigned char *p = rlf_arena_alloc(&arena, 5000, 1);
            assert_true(is_zero(p, 5000));
            memset(p, 1, 5000);
        }
        if (round) assert_ptr_equal(arena.first, first);
        rlf_arena_reset(&arena);
    }
    rlf_arena_clean_up(&arena);
}

static void arena_copies_and_prints(void **state) {
    rlf_arena arena = {0};
    (void)state;
    char *copy = rlf_arena_dup(&arena, "a\0b", 3);
    assert_memory_equal(copy, "a\0b\0", 4);
    assert_string_equal(rlf_arena_printf(&arena, "%s-%d", "step", 12), "step-12");
    assert_string_equal(rlf_arena_dup(&arena, NULL, 0), "");
    rlf_arena_clean_up(&arena);
}

static void string_grows_and_may_hold_nul(void **state) {
    rlf_str s = {0};
    (void)state;
    rlf_str_append(&s, "a\0b", 3);
    rlf_str_putc(&s, 'c');
    rlf_str_puts(&s, "de");
    rlf_str_printf(&s, "%04d", 42);
    assert_int_equal(s.len, 10);
    assert_memory_equal(s.ptr, "a\0bcde0042", 11);
    for (int i = 0; i < 10000; i++) rlf_str_printf(&s, "%d,", i % 10);
    assert_int_equal(s.len, 10 + 20000);
    assert_int_equal(s.ptr[s.len], 0);
    rlf_str_reset(&s);
    assert_int_equal(s.len, 0);
    assert_string_equal(s.ptr, "");
    rlf_str_clean_up(&s);
    assert_null(s.ptr);
}

/* A file with `n` bytes; the path lives until the next call. */
static const char *file_of(const char *bytes, size_t n) {
    static char path[64];
    snprintf(path, sizeof path, "test_mem_%ld.tmp", (long)getpid());
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return path;
}

static void a_file_is_appended_whole(void **state) {
    enum { N = 200000 };
    char *bytes = malloc(N);
    rlf_str s = {0};
    (void)state;
    for (int i = 0; i < N; i++) bytes[i] = (char)(i * 31);
    const char *path = file_of(bytes, N);
    rlf_str_puts(&s, "head");
    assert_ok(rlf_str_read_file(&s, path, N));
    assert_int_equal(s.len, 4 + N);
    assert_memory_equal(s.ptr + 4, bytes, N);
    assert_int_equal(unlink(path), 0);
    rlf_str_clean_up(&s);
    free(bytes);
}

static void a_file_too_large_or_missing_is_refused_by_name(void **state) {
    rlf_str s = {0};
    (void)state;
    const char *path = file_of("0123456789", 10);
    assert_error(rlf_str_read_file(&s, path, 9), RLF_LIMIT, path);
    assert_int_equal(unlink(path), 0);
    assert_error(rlf_str_read_file(&s, path, 100), RLF_IO, path);
    rlf_str_clean_up(&s);
}

static void arrays_grow_and_keep_their_contents(void **state) {
    int *v = NULL;
    size_t cap = 0;
    (void)state;
    for (size_t n = 0; n < 1000; n++) {
        v = rlf_grow(v, n, &cap, sizeof *v);
        assert_true(cap > n);
        v[n] = (int)n;
    }
    for (int i = 0; i < 1000; i++) assert_int_equal(v[i], i);
    free(v);
}

static void heap_calls_never_return_null(void **state) {
    (void)state;
    unsigned char *p = rlf_calloc(0, 8);
    assert_non_null(p);
    free(p);
    p = rlf_calloc(100, 3);
    assert_true(is_zero(p, 300));
    p = rlf_realloc(p, 1000, 2);
    assert_true(is_zero(p, 300));
    free(p);
    char *s = rlf_strdup("text");
    assert_string_equal(s, "text");
    free(s);
}

static void slices_compare_by_length_and_bytes(void **state) {
    (void)state;
    assert_true(rlf_slice_eq(rlf_slice_of("abc"), "abc"));
    assert_false(rlf_slice_eq(rlf_slice_of("abc"), "abcd"));
    assert_false(rlf_slice_eq((rlf_slice){"abc", 2}, "abc"));
    assert_true(rlf_slice_eq((rlf_slice){"abc", 2}, "ab"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_memory_is_zeroed_aligned_and_apart),
        cmocka_unit_test(arena_holds_blocks_larger_than_its_own),
        cmocka_unit_test(arena_reset_keeps_its_blocks_and_zeroes_anew),
        cmocka_unit_test(arena_copies_and_prints),
        cmocka_unit_test(string_grows_and_may_hold_nul),
        cmocka_unit_test(a_file_is_appended_whole),
        cmocka_unit_test(a_file_too_large_or_missing_is_refused_by_name),
        cmocka_unit_test(arrays_grow_and_keep_their_contents),
        cmocka_unit_test(heap_calls_never_return_null),
        cmocka_unit_test(slices_compare_by_length_and_bytes),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
