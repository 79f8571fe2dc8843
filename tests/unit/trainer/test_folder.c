/* The run folder: one job at a time. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "trainer/files.h"
#include "trainer/folder.h"

typedef struct folder {
    char path[64];
} folder;

static int make_folder(void **state) {
    folder *f = rlf_calloc(1, sizeof *f);
    snprintf(f->path, sizeof f->path, "/tmp/rlf-folder-XXXXXX");
    *state = f;
    return mkdtemp(f->path) ? 0 : -1;
}

static int remove_folder(void **state) {
    folder *f = *state;
    int failed = trainer_remove_tree(f->path) != RLF_OK;
    free(f);
    return failed;
}

static void assert_error(const char *words) {
    if (!strstr(rlf_error_message(), words)) fail_msg("'%s' does not say '%s'", rlf_error_message(), words);
}

static void a_second_job_is_refused_until_the_first_has_ended(void **state) {
    const folder *f = *state;
    int first = -1, second = -1;
    assert_int_equal(trainer_folder_lock(f->path, &first), RLF_OK);
    assert_true(first >= 0);
    assert_int_equal(trainer_folder_lock(f->path, &first), RLF_OK);
    assert_int_equal(trainer_folder_lock(f->path, &second), RLF_INVALID);
    assert_error("another job is running");
    close(second);
    close(first);
    second = -1;
    assert_int_equal(trainer_folder_lock(f->path, &second), RLF_OK);
    close(second);
}

static void a_folder_that_is_not_there_is_not_locked(void **state) {
    const folder *f = *state;
    char path[96];
    int fd = -1;
    snprintf(path, sizeof path, "%s/none", f->path);
    assert_int_equal(trainer_folder_lock(path, &fd), RLF_OK);
    assert_int_equal(fd, -1);
    assert_false(trainer_file_exists(path));
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(a_second_job_is_refused_until_the_first_has_ended),
        IN_FOLDER(a_folder_that_is_not_there_is_not_locked),
    };
    return cmocka_run_group_tests_name("folder", tests, NULL, NULL);
}
