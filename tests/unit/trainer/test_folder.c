/* The run folder: one job at a time, and whose results are in it. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/outfile.h"
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

static void job_of(const folder *f, const char *mode, const char *model, const char *eval, rlf_config *config) {
    char text[512];
    snprintf(text, sizeof text, "mode: %s\noutput: %s\nmodel: {path: %s}\ndata: {train: t.jsonl, eval: %s}\n", mode, f->path, model, eval);
    assert_ok(rlf_config_parse(config, text, strlen(text), "job.yaml", NULL, 0));
}

static void put(const folder *f, const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    assert_ok(rlf_outfile_put(path, text, strlen(text)));
}

static void put_config(const folder *f, const char *mode, const char *model, const char *eval) {
    rlf_config config;
    rlf_str text = {0};
    job_of(f, mode, model, eval, &config);
    rlf_config_dump(&config, &text);
    put(f, "config.yaml", text.ptr);
    rlf_str_clean_up(&text);
    rlf_config_clean_up(&config);
}

static rlf_status read_as(const folder *f, const char *mode, const char *model, const char *eval) {
    rlf_config config;
    rlf_str checkpoint = {0};
    trainer_state state;
    job_of(f, mode, model, eval, &config);
    trainer_state_init(&state);
    rlf_status status = trainer_folder_read(&config, &state, &checkpoint);
    assert_int_equal(state.step, 0);
    assert_string_equal(checkpoint.ptr, "");
    trainer_state_clean_up(&state);
    rlf_str_clean_up(&checkpoint);
    rlf_config_clean_up(&config);
    return status;
}

static void a_second_job_is_refused_until_the_first_has_ended(void **state) {
    const folder *f = *state;
    int first = -1, second = -1;
    assert_ok(trainer_folder_lock(f->path, &first));
    assert_true(first >= 0);
    assert_ok(trainer_folder_lock(f->path, &first));
    assert_error(trainer_folder_lock(f->path, &second), RLF_INVALID, "another job is running");
    close(second);
    close(first);
    second = -1;
    assert_ok(trainer_folder_lock(f->path, &second));
    close(second);
}

static void a_folder_that_is_not_there_is_not_locked(void **state) {
    const folder *f = *state;
    char path[96];
    int fd = -1;
    snprintf(path, sizeof path, "%s/none", f->path);
    assert_ok(trainer_folder_lock(path, &fd));
    assert_int_equal(fd, -1);
    assert_false(trainer_file_exists(path));
}

static void an_evaluation_is_replaced_by_the_same_one_alone(void **state) {
    const folder *f = *state;
    put_config(f, "eval", "m", "e.jsonl");
    assert_ok(read_as(f, "eval", "other", "e.jsonl")); /* it was stopped: there are no results */
    put(f, "summary.json", "{}");
    assert_ok(read_as(f, "eval", "m", "e.jsonl"));
    assert_error(read_as(f, "eval", "other", "e.jsonl"), RLF_INVALID, "the evaluation of m with e.jsonl");
    assert_int_equal(read_as(f, "eval", "m", "other.jsonl"), RLF_INVALID);
    assert_error(read_as(f, "rl", "m", "e.jsonl"), RLF_INVALID, "mode eval");
}

static void results_without_a_readable_config_refuse_nothing(void **state) {
    const folder *f = *state;
    put(f, "summary.json", "{}");
    assert_ok(read_as(f, "eval", "m", "e.jsonl"));
    put(f, "config.yaml", "a_key_of_another_version: 1\n");
    assert_ok(read_as(f, "eval", "m", "e.jsonl"));
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(a_second_job_is_refused_until_the_first_has_ended),
        IN_FOLDER(a_folder_that_is_not_there_is_not_locked),
        IN_FOLDER(an_evaluation_is_replaced_by_the_same_one_alone),
        IN_FOLDER(results_without_a_readable_config_refuse_nothing),
    };
    return cmocka_run_group_tests_name("folder", tests, NULL, NULL);
}
