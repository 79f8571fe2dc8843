/* Files that are there whole or not at all. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/alive.h"
#include "common/base/outfile.h"

static char dir[64], path[80], tmp[96];

static int set_up(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/rlf_test_outfile_XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/f", dir);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    return 0;
}

/* Fails where a test left PATH.tmp behind. */
static int tear_down(void **state) {
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void assert_holds(const char *text) {
    rlf_str found = {0};
    assert_ok(rlf_str_read_file(&found, path, 1000));
    assert_string_equal(found.ptr, text);
    rlf_str_clean_up(&found);
}

static void a_committed_file_replaces_the_former_one(void **state) {
    (void)state;
    rlf_outfile file;
    assert_ok(rlf_outfile_put(path, "old text", 8));
    assert_ok(rlf_outfile_open(&file, path));
    assert_ok(rlf_outfile_write(&file, "ne", 2));
    assert_ok(rlf_outfile_write(&file, "w", 1));
    assert_holds("old text");
    assert_ok(rlf_outfile_commit(&file));
    rlf_outfile_clean_up(&file);
    assert_holds("new");
}

static void without_commit_the_former_file_stays(void **state) {
    (void)state;
    rlf_outfile file;
    assert_ok(rlf_outfile_put(path, "old", 3));
    assert_ok(rlf_outfile_open(&file, path));
    assert_ok(rlf_outfile_write(&file, "new", 3));
    assert_int_equal(access(tmp, F_OK), 0);
    rlf_outfile_clean_up(&file);
    assert_holds("old");
    assert_int_equal(access(tmp, F_OK), -1);
}

static void a_left_over_of_a_killed_writer_is_no_obstacle(void **state) {
    (void)state;
    FILE *f = fopen(tmp, "w");
    fputs("a much longer text than the one that follows", f);
    fclose(f);
    assert_ok(rlf_outfile_put(path, "x", 1));
    assert_holds("x");
}

static void a_folder_that_is_not_there_is_an_error(void **state) {
    (void)state;
    char missing[96];
    snprintf(missing, sizeof missing, "%s/no/f", dir);
    assert_error(rlf_outfile_put(missing, "x", 1), RLF_IO, "/no/f: cannot write: No such file or directory");
}

static void a_full_disk_is_an_error(void **state) {
    (void)state;
    rlf_outfile file = {.fd = -1};
    if (access("/dev/full", W_OK) != 0) skip();
    assert_int_equal(symlink("/dev/full", tmp), 0); /* PATH.tmp is opened through it */
    assert_ok(rlf_outfile_open(&file, path));
    assert_error(rlf_outfile_write(&file, "x", 1), RLF_IO, "/f: cannot write: No space left on device");
    rlf_outfile_clean_up(&file);
    assert_int_equal(access(path, F_OK), -1);
}

static void count_sign(void *ctx) { ++*(int *)ctx; }

static void every_64_mib_and_every_sync_are_signs_of_life(void **state) {
    (void)state;
    enum { MIB = 1 << 20 };
    int signs = 0;
    char *bytes = rlf_calloc(40, MIB);
    rlf_outfile file;
    rlf_alive_tell(count_sign, &signs);
    assert_ok(rlf_outfile_open(&file, path));
    for (int i = 0; i < 4; i++) {
        assert_ok(rlf_outfile_write(&file, bytes, 40 * MIB));
        assert_int_equal(signs, (i + 1) * 40 / 64);
    }
    assert_ok(rlf_outfile_commit(&file));
    rlf_alive_tell(NULL, NULL);
    assert_int_equal(signs, 4); /* the file's sync, and the folder's */
    rlf_outfile_clean_up(&file);
    free(bytes);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 160 * MIB);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(a_committed_file_replaces_the_former_one),
        CASE(without_commit_the_former_file_stays),
        CASE(a_left_over_of_a_killed_writer_is_no_obstacle),
        CASE(a_folder_that_is_not_there_is_an_error),
        CASE(a_full_disk_is_an_error),
        CASE(every_64_mib_and_every_sync_are_signs_of_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
