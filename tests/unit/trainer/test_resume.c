/* Checkpoint folders: found, finished, pruned; a half-written one is never taken. */
#include "tests/test.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/outfile.h"
#include "trainer/checkpoint.h"
#include "trainer/files.h"

#define CHECKSUM UINT64_C(0x0123456789abcdef)

typedef struct folder {
    char path[64];
    char mode[8];
    rlf_config config;
} folder;

/* Stands for the C library's: a run that is killed removes so many files, and no more. */
static int removals_left;

int remove(const char *path) {
    errno = EIO;
    return removals_left-- > 0 && (unlink(path) == 0 || rmdir(path) == 0) ? 0 : -1;
}

static int make_folder(void **state) {
    folder *f = rlf_calloc(1, sizeof *f);
    snprintf(f->path, sizeof f->path, "/tmp/rlf-checkpoint-XXXXXX");
    if (!mkdtemp(f->path)) return -1;
    snprintf(f->mode, sizeof f->mode, "rl");
    f->config.output = f->path;
    f->config.mode = f->mode;
    f->config.seed = 5;
    f->config.train.resume = true;
    f->config.train.keep = 2;
    removals_left = INT_MAX;
    *state = f;
    return 0;
}

static int remove_folder(void **state) {
    folder *f = *state;
    removals_left = INT_MAX;
    int failed = trainer_remove_tree(f->path) != RLF_OK;
    free(f);
    return failed;
}

/* What learners would write stands for itself as one small file. */
static rlf_status save(const folder *f, int64_t step) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    trainer_state run;
    trainer_state_init(&run);
    run.step = step;
    run.tokens = 100 * step;
    run.rows = 50;
    run.rows_checksum = CHECKSUM;
    run.logprob_diff_max = 0.1;
    json_array_append_new(run.evals, json_pack("{s:I, s:f}", "step", (json_int_t)step, "exact_match", 1.0 / 3.0));
    RLF_TRY(trainer_checkpoint_begin(&f->config, step, &path));
    rlf_str_puts(&path, "/model.safetensors");
    RLF_TRY(rlf_outfile_put(path.ptr, "weights", 7));
    RLF_TRY(trainer_checkpoint_commit(&f->config, &run, &path));
out:
    rlf_str_clean_up(&path);
    trainer_state_clean_up(&run);
    return status;
}

static bool exists(const folder *f, const char *name) {
    char path[160];
    snprintf(path, sizeof path, "%s/checkpoints/%s", f->path, name);
    return trainer_file_exists(path);
}

static int64_t found(const folder *f) {
    int64_t step = -1;
    rlf_str dir = {0};
    assert_ok(trainer_checkpoint_newest(&f->config, &step, &dir));
    assert_int_equal(step == 0, dir.len == 0);
    rlf_str_clean_up(&dir);
    return step;
}

static void empty_folder_has_nothing_to_resume(void **state) { assert_int_equal(found(*state), 0); }

static void newest_complete_one_is_found_by_number(void **state) {
    folder *f = *state;
    f->config.train.keep = 0;
    static const int64_t steps[] = {9, 10, 2};
    for (int i = 0; i < 3; i++) assert_ok(save(f, steps[i]));
    assert_int_equal(found(f), 10);
    f->config.train.resume = false;
    assert_int_equal(found(f), 0);
}

static void half_written_one_is_passed_over_and_removed(void **state) {
    folder *f = *state;
    rlf_str path = {0};
    assert_ok(save(f, 3));
    assert_ok(trainer_checkpoint_begin(&f->config, 6, &path));
    rlf_str_reset(&path);
    rlf_str_printf(&path, "%s/checkpoints/step_9", f->path); /* a folder without run_state.json */
    assert_ok(trainer_make_folder(path.ptr));
    assert_int_equal(found(f), 3);
    assert_true(exists(f, "step_6.tmp"));
    assert_ok(trainer_checkpoint_tidy(&f->config));
    assert_false(exists(f, "step_6.tmp"));
    assert_ok(save(f, 9));
    assert_int_equal(found(f), 9);
    rlf_str_clean_up(&path);
}

static void only_the_newest_are_kept(void **state) {
    folder *f = *state;
    for (int64_t step = 1; step <= 12; step++) assert_ok(save(f, step));
    assert_false(exists(f, "step_9"));
    assert_false(exists(f, "step_10"));
    assert_true(exists(f, "step_11") && exists(f, "step_12"));
}

static void kill_while_an_old_one_is_removed_leaves_no_part_of_it(void **state) {
    folder *f = *state;
    for (int64_t step = 3; step <= 5; step++) {
        assert_ok(save(f, 10 * step));
        assert_ok(save(f, 10 * step + 1));
        removals_left = (int)step - 3; /* of its two files and itself */
        assert_int_equal(save(f, 10 * step + 2), RLF_IO);
        removals_left = INT_MAX;
        char name[32], tmp[32];
        snprintf(name, sizeof name, "step_%d", 10 * (int)step);
        snprintf(tmp, sizeof tmp, "step_%d.tmp", 10 * (int)step);
        assert_true(!exists(f, name) && exists(f, tmp));
        assert_int_equal(found(f), 10 * step + 2);
        assert_ok(trainer_checkpoint_tidy(&f->config));
        assert_false(exists(f, tmp));
    }
}

static void complete_one_is_never_overwritten(void **state) {
    folder *f = *state;
    assert_ok(save(f, 4));
    assert_error(save(f, 4), RLF_INVALID, "step_4");
}

static void state_is_read_back_exactly(void **state) {
    folder *f = *state;
    rlf_str dir = {0};
    int64_t step;
    trainer_state run;
    assert_ok(save(f, 7));
    assert_ok(trainer_checkpoint_newest(&f->config, &step, &dir));
    trainer_state_init(&run);
    assert_ok(trainer_checkpoint_read(&f->config, dir.ptr, &run));
    assert_int_equal(run.step, 7);
    assert_int_equal(run.tokens, 700);
    assert_true(run.logprob_diff_max == 0.1);
    assert_true(json_real_value(json_object_get(json_array_get(run.evals, 0), "exact_match")) == 1.0 / 3.0);
    trainer_state_clean_up(&run);
    rlf_str_clean_up(&dir);
}

/* What reading step 7 with these rows in data.train warns of; static. */
static const char *warning(const folder *f, int64_t rows, uint64_t checksum) {
    static char text[1024];
    char dir[160];
    trainer_state run;
    FILE *log = tmpfile();
    int kept = dup(STDERR_FILENO);
    assert_true(log && kept >= 0 && dup2(fileno(log), STDERR_FILENO) >= 0);
    snprintf(dir, sizeof dir, "%s/checkpoints/step_7", f->path);
    trainer_state_init(&run);
    run.rows = rows;
    run.rows_checksum = checksum;
    rlf_status status = trainer_checkpoint_read(&f->config, dir, &run);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    rewind(log);
    text[fread(text, 1, sizeof text - 1, log)] = '\0';
    fclose(log);
    trainer_state_clean_up(&run);
    assert_ok(status);
    return text;
}

static void other_rows_are_warned_of(void **state) {
    folder *f = *state;
    assert_ok(save(f, 7));
    assert_string_equal(warning(f, 50, CHECKSUM), "");
    assert_non_null(strstr(warning(f, 51, CHECKSUM), "was written with 50 rows in data.train, now there are 51"));
    assert_non_null(strstr(warning(f, 50, CHECKSUM + 1), "was written with other rows in data.train, of the same number"));
}

static void checkpoint_of_another_mode_is_refused(void **state) {
    folder *f = *state;
    char path[160];
    trainer_state run;
    assert_ok(save(f, 7));
    snprintf(path, sizeof path, "%s/checkpoints/step_7", f->path);
    snprintf(f->mode, sizeof f->mode, "sft");
    trainer_state_init(&run);
    assert_error(trainer_checkpoint_read(&f->config, path, &run), RLF_INVALID, "mode rl");
    trainer_state_clean_up(&run);
}

static void damaged_state_is_an_error_with_its_path(void **state) {
    folder *f = *state;
    char dir[160], path[192];
    trainer_state run;
    assert_ok(save(f, 7));
    snprintf(dir, sizeof dir, "%s/checkpoints/step_7", f->path);
    snprintf(path, sizeof path, "%s/run_state.json", dir);
    trainer_state_init(&run);
    assert_ok(rlf_outfile_put(path, "{\"step\": 7", 10));
    assert_error(trainer_checkpoint_read(&f->config, dir, &run), RLF_INVALID, "run_state.json");
    assert_ok(rlf_outfile_put(path, "{\"step\": 7}", 11));
    assert_error(trainer_checkpoint_read(&f->config, dir, &run), RLF_INVALID, "format");
    trainer_state_clean_up(&run);
}

static void link_is_replaced_but_a_file_is_not(void **state) {
    folder *f = *state;
    char path[96], target[64] = "";
    snprintf(path, sizeof path, "%s/final", f->path);
    assert_ok(trainer_link(path, "checkpoints/step_1"));
    assert_ok(trainer_link(path, "checkpoints/step_2"));
    assert_true(readlink(path, target, sizeof target - 1) > 0);
    assert_string_equal(target, "checkpoints/step_2");
    assert_ok(trainer_unlink(path));
    assert_false(trainer_file_exists(path));
    assert_ok(trainer_unlink(path));
    assert_ok(trainer_make_folder(path));
    assert_int_equal(trainer_link(path, "checkpoints/step_2"), RLF_INVALID);
    assert_int_equal(trainer_unlink(path), RLF_INVALID);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(empty_folder_has_nothing_to_resume),
        IN_FOLDER(newest_complete_one_is_found_by_number),
        IN_FOLDER(half_written_one_is_passed_over_and_removed),
        IN_FOLDER(only_the_newest_are_kept),
        IN_FOLDER(kill_while_an_old_one_is_removed_leaves_no_part_of_it),
        IN_FOLDER(complete_one_is_never_overwritten),
        IN_FOLDER(state_is_read_back_exactly),
        IN_FOLDER(other_rows_are_warned_of),
        IN_FOLDER(checkpoint_of_another_mode_is_refused),
        IN_FOLDER(damaged_state_is_an_error_with_its_path),
        IN_FOLDER(link_is_replaced_but_a_file_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
