/* safetensors: what is read, what is refused and in which words, and the bytes that are written. */
#include "tests/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/model/safetensors.h"

/* Parses a file of this header and `data` zero bytes. */
static rlf_status parse(rlf_safetensors **file, const char *header, size_t data) {
    size_t length = strlen(header), n = 8 + length + data;
    unsigned char *bytes = rlf_calloc(n, 1);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(length >> (8 * i));
    memcpy(bytes + 8, header, length);
    rlf_status status = rlf_safetensors_parse(file, bytes, n, "f");
    if (status != RLF_OK) assert_null(*file);
    free(bytes);
    return status;
}

static void refused(const char *header, size_t data, const char *message) {
    rlf_safetensors *file;
    rlf_status status = parse(&file, header, data);
    if (status == RLF_OK) rlf_safetensors_destroy(file);
    assert_int_not_equal(status, RLF_OK);
    if (strncmp(rlf_error_message(), message, strlen(message)) != 0) assert_string_equal(rlf_error_message(), message);
}

static void bytes_refused(const char *bytes, size_t n, const char *message) {
    rlf_safetensors *file;
    assert_int_equal(rlf_safetensors_parse(&file, bytes, n, "f"), RLF_INVALID);
    assert_null(file);
    assert_string_equal(rlf_error_message(), message);
}

#define T(name, dtype, shape, offsets) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void tensors_are_found_by_name_and_in_order_of_their_data(void **state) {
    (void)state;
    rlf_safetensors *file;
    assert_ok(parse(&file, "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F32", "[2,3]", "[4,28]") "," T("a", "BF16", "[2]", "[0,4]") ","
                           T("empty", "F32", "[0,5]", "[4,4]") "," T("scalar", "I64", "[]", "[28,36]") "}   ", 36));
    assert_int_equal(rlf_safetensors_count(file), 4);
    assert_string_equal(rlf_safetensors_at(file, 0)->name, "a");
    const rlf_st_tensor *b = rlf_safetensors_find(file, "b");
    assert_int_equal(b->dims, 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 24);
    assert_int_equal(rlf_safetensors_find(file, "a")->dtype, RLF_DTYPE_BF16);
    assert_int_equal(rlf_safetensors_find(file, "scalar")->dtype, RLF_DTYPE_OTHER);
    assert_null(rlf_safetensors_find(file, "c"));
    rlf_safetensors_destroy(file);
}

static void a_file_without_tensors_is_valid(void **state) {
    (void)state;
    rlf_safetensors *file;
    assert_ok(parse(&file, "{}", 0));
    assert_int_equal(rlf_safetensors_count(file), 0);
    assert_null(rlf_safetensors_find(file, "x"));
    rlf_safetensors_destroy(file);
}

static void truncated_files_are_refused(void **state) {
    (void)state;
    bytes_refused("", 0, "f: 0 bytes are too few for a safetensors file (truncated?)");
    bytes_refused("\1\0\0\0\0\0\0", 7, "f: 7 bytes are too few for a safetensors file (truncated?)");
    bytes_refused("\3\0\0\0\0\0\0\0{}", 10, "f: a header of 3 bytes, but only 2 follow (truncated?)");
    refused("{" T("a", "F32", "[4]", "[0,16]") "}", 15,
            "f: tensor 'a': its data end at byte 16 of the data, but the file has only 15 (truncated?)");
}

static void every_cut_of_a_file_is_refused(void **state) {
    (void)state;
    static const char header[] = "{" T("a", "F32", "[2]", "[0,8]") "}";
    unsigned char bytes[8 + sizeof header - 1 + 8] = {sizeof header - 1};
    memcpy(bytes + 8, header, sizeof header - 1);
    rlf_safetensors *file;
    for (size_t n = 0; n < sizeof bytes; n++) {
        unsigned char *cut = rlf_calloc(n, 1); /* of exactly n bytes, so that a sanitizer sees a read behind them */
        memcpy(cut, bytes, n);
        assert_int_equal(rlf_safetensors_parse(&file, cut, n, "f"), RLF_INVALID);
        free(cut);
    }
    assert_ok(rlf_safetensors_parse(&file, bytes, sizeof bytes, "f"));
    rlf_safetensors_destroy(file);
}

static void a_huge_header_is_refused_before_it_is_read(void **state) {
    (void)state;
    bytes_refused("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10,
                  "f: byte 0: a header of 18446744073709551615 bytes; at most 100000000 are allowed (not a safetensors file?)");
    bytes_refused("<!DOCTYPE html>", 15, "f: byte 0: a header of 5789751444030890300 bytes; at most 100000000 are allowed (not a safetensors file?)");
}

static void broken_headers_are_refused(void **state) {
    (void)state;
    refused("", 0, "f: byte 8: the header is not JSON: ");
    refused("{\"a\":", 0, "f: byte 13: the header is not JSON: ");
    refused("[]", 0, "f: byte 8: expected a JSON map of tensors");
    refused("{" T("a", "F32", "[1]", "[0,4]") "," T("a", "F32", "[1]", "[4,8]") "}", 8,
            "f: byte 65: the header is not JSON: duplicate object key");
    refused("{\"__metadata__\":[]}", 0, "f: '__metadata__': expected a map of texts");
    refused("{\"__metadata__\":{\"a\":1}}", 0, "f: '__metadata__': 'a' is not a text");
    refused("{\"a\":1}", 0, "f: tensor 'a': expected a map with dtype, shape and data_offsets");
    refused("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "f: tensor 'a': expected 'dtype', a text such as F32");
    refused("{" T("a", "F33", "[1]", "[0,4]") "}", 4, "f: tensor 'a': dtype 'F33' is not known");
    refused("{" T("a", "F32", "7", "[0,4]") "}", 4, "f: tensor 'a': expected 'shape', a list of at most 8 sizes");
    refused("{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "f: tensor 'a': expected 'shape', a list of at most 8 sizes");
    refused("{" T("a", "F32", "[-1]", "[0,4]") "}", 4, "f: tensor 'a': expected whole numbers of at least 0 in 'shape'");
    refused("{" T("a", "F32", "[1.5]", "[0,4]") "}", 4, "f: tensor 'a': expected whole numbers of at least 0 in 'shape'");
    refused("{" T("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "f: tensor 'a': 'shape' is larger than any file");
    refused("{" T("a", "F32", "[4611686018427387904]", "[0,0]") "}", 0,
            "f: tensor 'a': shape and dtype make 4611686018427387904 elements of 4 bytes");
    refused("{" T("a", "F32", "[1]", "[0]") "}", 4, "f: tensor 'a': expected 'data_offsets', a list of two whole numbers");
    refused("{" T("a", "F32", "[1]", "[0,\"4\"]") "}", 4, "f: tensor 'a': expected 'data_offsets', a list of two whole numbers");
    refused("{" T("a", "F32", "[1]", "[4,0]") "}", 4,
            "f: tensor 'a': expected 'data_offsets' that begin at 0 or later and end no earlier than they begin");
    refused("{" T("a", "F32", "[1]", "[-4,0]") "}", 4,
            "f: tensor 'a': expected 'data_offsets' that begin at 0 or later and end no earlier than they begin");
}

static void data_that_do_not_fit_the_shape_are_refused(void **state) {
    (void)state;
    refused("{" T("a", "F32", "[2]", "[0,4]") "}", 4,
            "f: tensor 'a': shape and dtype make 2 elements of 4 bytes, but data_offsets hold 4 bytes");
    refused("{" T("a", "BF16", "[2]", "[0,8]") "}", 8,
            "f: tensor 'a': shape and dtype make 2 elements of 2 bytes, but data_offsets hold 8 bytes");
}

static void overlaps_holes_and_leftovers_are_refused(void **state) {
    (void)state;
    refused("{" T("a", "F32", "[2]", "[0,8]") "," T("b", "F32", "[2]", "[4,12]") "}", 12, "f: tensor 'b': its data overlap those of 'a'");
    refused("{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[0,4]") "}", 4, "f: tensor 'b': its data overlap those of 'a'");
    refused("{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[8,12]") "}", 12,
            "f: tensor 'b': a hole of 4 bytes before its data, at byte 4");
    refused("{" T("a", "F32", "[1]", "[4,8]") "}", 8, "f: tensor 'a': a hole of 4 bytes before its data, at byte 0");
    refused("{" T("a", "F32", "[1]", "[0,4]") "}", 12, "f: 8 bytes behind the last tensor belong to none");
}

static void a_name_of_absurd_length_is_refused(void **state) {
    (void)state;
    char header[1024], name[600];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", name);
    refused(header, 4, "f: a tensor name of more than 512 bytes");
}

static const char *temporary(void) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/rlf_test_%d.safetensors", (int)getpid());
    return path;
}

static void what_is_written_is_read_back(void **state) {
    (void)state;
    static const float a[6] = {1, 2, 3, 4, 5, 6}, b[2] = {-1, 0.5f};
    static const char expected[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," T("z \\\"q", "F32", "[2,3]", "[0,24]") "," T("a", "F32", "[2]", "[24,32]") "}";
    const rlf_st_tensor tensors[] = {{.name = "z \"q", .dims = 2, .shape = {2, 3}, .data = a, .bytes = sizeof a},
                                     {.name = "a", .dims = 1, .shape = {2}, .data = b, .bytes = sizeof b}};
    rlf_str bytes = {0};
    rlf_safetensors *file;
    assert_ok(rlf_safetensors_write(temporary(), tensors, 2, NULL, NULL));
    assert_ok(rlf_str_read_file(&bytes, temporary(), 1000));
    assert_memory_equal(bytes.ptr + 8, expected, sizeof expected - 1);
    assert_int_equal((unsigned char)bytes.ptr[0] % 8, 0);
    assert_int_equal(bytes.len, 8 + (size_t)(unsigned char)bytes.ptr[0] + 32);
    assert_ok(rlf_safetensors_open(&file, temporary()));
    assert_memory_equal(rlf_safetensors_find(file, "z \"q")->data, a, sizeof a);
    assert_memory_equal(rlf_safetensors_find(file, "a")->data, b, sizeof b);
    rlf_safetensors_destroy(file);
    rlf_str_clean_up(&bytes);
    unlink(temporary());
}

static void files_that_cannot_be_opened_or_written_are_named(void **state) {
    (void)state;
    rlf_safetensors *file;
    assert_int_equal(rlf_safetensors_open(&file, "/no/such"), RLF_IO);
    assert_string_equal(rlf_error_message(), "/no/such: cannot open: No such file or directory");
    assert_int_equal(rlf_safetensors_open(&file, "/tmp"), RLF_INVALID);
    assert_string_equal(rlf_error_message(), "/tmp: not a regular file");
    assert_int_equal(rlf_safetensors_write("/no/such", NULL, 0, NULL, NULL), RLF_IO);
    assert_string_equal(rlf_error_message(), "/no/such: cannot write: No such file or directory");
    close(open(temporary(), O_CREAT | O_WRONLY | O_TRUNC, 0600));
    assert_error(rlf_safetensors_open(&file, temporary()), RLF_INVALID,
                 ": 0 bytes are too few for a safetensors file (truncated?)");
    unlink(temporary());
}

static void two_tensors_of_one_name_are_not_written(void **state) {
    (void)state;
    const rlf_st_tensor twice[] = {{.name = "a", .dims = 1}, {.name = "a", .dims = 1}};
    assert_int_equal(rlf_safetensors_write(temporary(), twice, 2, NULL, NULL), RLF_INVALID);
    assert_int_equal(access(temporary(), F_OK), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_found_by_name_and_in_order_of_their_data),
        cmocka_unit_test(a_file_without_tensors_is_valid),
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(every_cut_of_a_file_is_refused),
        cmocka_unit_test(a_huge_header_is_refused_before_it_is_read),
        cmocka_unit_test(broken_headers_are_refused),
        cmocka_unit_test(data_that_do_not_fit_the_shape_are_refused),
        cmocka_unit_test(overlaps_holes_and_leftovers_are_refused),
        cmocka_unit_test(a_name_of_absurd_length_is_refused),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(files_that_cannot_be_opened_or_written_are_named),
        cmocka_unit_test(two_tensors_of_one_name_are_not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
