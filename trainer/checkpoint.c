/* Checkpoint folders (checkpoint.h). */
#include "trainer/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/log.h"
#include "trainer/files.h"

enum { MAX_STATE_BYTES = 64 << 20 };

void trainer_state_init(trainer_state *state) {
    memset(state, 0, sizeof *state);
    state->evals = json_array();
}

void trainer_state_clean_up(trainer_state *state) {
    json_decref(state->evals);
    state->evals = NULL;
}

/* ---- which folders there are -------------------------------------------------------------------------------------------------------- */

typedef struct step_list {
    int64_t *v; /* ascending, owned */
    size_t n, cap;
} step_list;

/* "step_12" is 12; anything else, "step_012" and "step_12.tmp" included, is -1. */
static int64_t step_of(const char *name) {
    char again[32];
    char *end;
    if (strncmp(name, "step_", 5) != 0 || strlen(name) > 5 + 18) return -1;
    int64_t step = strtoll(name + 5, &end, 10);
    snprintf(again, sizeof again, "step_%lld", (long long)step);
    return step > 0 && strcmp(again, name) == 0 ? step : -1;
}

static int ascending(const void *a, const void *b) {
    const int64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static bool is_complete(const char *folder, int64_t step) {
    rlf_str path = {0};
    rlf_str_printf(&path, "%s/step_%lld/run_state.json", folder, (long long)step);
    bool complete = trainer_file_exists(path.ptr);
    rlf_str_clean_up(&path);
    return complete;
}

/* Complete checkpoints; none where the folder does not exist. */
static rlf_status list_steps(const char *folder, step_list *list) {
    *list = (step_list){0};
    DIR *dir = opendir(folder);
    if (!dir) return errno == ENOENT ? RLF_OK : RLF_RAISE(IO, "cannot read folder %s: %s", folder, strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir));) {
        int64_t step = step_of(entry->d_name);
        if (step < 0 || !is_complete(folder, step)) continue;
        list->v = rlf_grow(list->v, list->n, &list->cap, sizeof *list->v);
        list->v[list->n++] = step;
    }
    closedir(dir);
    if (list->n) qsort(list->v, list->n, sizeof *list->v, ascending);
    return RLF_OK;
}

static void checkpoints_folder(const rlf_config *config, rlf_str *path) { rlf_str_printf(path, "%s/checkpoints", config->output); }

rlf_status trainer_checkpoint_newest(const rlf_config *config, int64_t *step, rlf_str *dir) {
    rlf_status status = RLF_OK;
    rlf_str folder = {0};
    step_list list = {0};
    *step = 0;
    rlf_str_reset(dir);
    rlf_str_puts(dir, "");
    if (!config->train.resume) goto out;
    checkpoints_folder(config, &folder);
    RLF_TRY(list_steps(folder.ptr, &list));
    if (list.n == 0) goto out;
    *step = list.v[list.n - 1];
    rlf_str_printf(dir, "%s/step_%lld", folder.ptr, (long long)*step);
out:
    free(list.v);
    rlf_str_clean_up(&folder);
    return status;
}

rlf_status trainer_checkpoint_count(const rlf_config *config, size_t *n) {
    rlf_str folder = {0};
    step_list list;
    checkpoints_folder(config, &folder);
    rlf_status status = list_steps(folder.ptr, &list);
    *n = list.n;
    free(list.v);
    rlf_str_clean_up(&folder);
    return status;
}

/* ---- writing -------------------------------------------------------------------------------------------------------------------- */

rlf_status trainer_checkpoint_tidy(const rlf_config *config) {
    rlf_status status = RLF_OK;
    rlf_str folder = {0}, path = {0};
    checkpoints_folder(config, &folder);
    DIR *dir = opendir(folder.ptr);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        size_t n = strlen(entry->d_name);
        if (strncmp(entry->d_name, "step_", 5) != 0 || n < 9 || strcmp(entry->d_name + n - 4, ".tmp") != 0) continue;
        rlf_str_reset(&path);
        rlf_str_printf(&path, "%s/%s", folder.ptr, entry->d_name);
        RLF_INFO("removing %s, which a run that was stopped left unfinished", path.ptr);
        RLF_TRY(trainer_remove_tree(path.ptr));
    }
out:
    if (dir) closedir(dir);
    rlf_str_clean_up(&folder);
    rlf_str_clean_up(&path);
    return status;
}

rlf_status trainer_checkpoint_begin(const rlf_config *config, int64_t step, rlf_str *folder) {
    rlf_status status = RLF_OK;
    rlf_str_reset(folder);
    rlf_str_printf(folder, "%s/checkpoints/step_%lld.tmp", config->output, (long long)step);
    RLF_TRY(trainer_remove_tree(folder->ptr));
    RLF_TRY(trainer_make_folder(folder->ptr));
out:
    return status;
}

enum { CHECKSUM_CHARS = 17 };
static void write_checksum(char to[CHECKSUM_CHARS], uint64_t sum) { snprintf(to, CHECKSUM_CHARS, "%016llx", (unsigned long long)sum); }

static json_t *state_to_json(const rlf_config *config, const trainer_state *state) {
    char checksum[CHECKSUM_CHARS];
    write_checksum(checksum, state->rows_checksum);
    return json_pack("{s:i, s:s, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:f, s:O}", "format", 1, "mode", config->mode, "step",
                     (json_int_t)state->step, "rows", (json_int_t)state->rows, "rows_checksum", checksum, "episodes", (json_int_t)state->episodes, "tokens",
                     (json_int_t)state->tokens, "infra", (json_int_t)state->infra, "retried", (json_int_t)state->retried,
                     "logprob_diff_max", state->logprob_diff_max, "evals", state->evals);
}

/* A kill in between leaves a step_N.tmp, which the next start removes, and never a part of a step_N. */
static rlf_status remove_step(const char *folder, int64_t step) {
    rlf_status status = RLF_OK;
    rlf_str path = {0}, temporary = {0};
    rlf_str_printf(&path, "%s/step_%lld", folder, (long long)step);
    rlf_str_printf(&temporary, "%s.tmp", path.ptr);
    if (rename(path.ptr, temporary.ptr) != 0) RLF_FAIL(IO, "cannot rename %s to %s: %s", path.ptr, temporary.ptr, strerror(errno));
    RLF_TRY(trainer_remove_tree(temporary.ptr));
out:
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&temporary);
    return status;
}

static rlf_status prune(const rlf_config *config, const char *folder) {
    rlf_status status = RLF_OK;
    step_list list = {0};
    size_t keep = (size_t)config->train.keep;
    if (keep == 0) goto out;
    RLF_TRY(list_steps(folder, &list));
    for (size_t i = 0; i + keep < list.n; i++) RLF_TRY(remove_step(folder, list.v[i]));
out:
    free(list.v);
    return status;
}

rlf_status trainer_checkpoint_put_state(const rlf_config *config, const trainer_state *state, const char *dir) {
    return trainer_json_write(dir, "run_state.json", state_to_json(config, state), 17);
}

rlf_status trainer_checkpoint_commit(const rlf_config *config, const trainer_state *state, rlf_str *path) {
    rlf_status status = RLF_OK;
    rlf_str folder = {0}, temporary = {0};
    checkpoints_folder(config, &folder);
    rlf_str_printf(&temporary, "%s/step_%lld.tmp", folder.ptr, (long long)state->step);
    rlf_str_reset(path);
    rlf_str_printf(path, "%s/step_%lld", folder.ptr, (long long)state->step);
    if (is_complete(folder.ptr, state->step)) RLF_FAIL(INVALID, "%s exists already and is not overwritten", path->ptr);
    RLF_TRY(trainer_checkpoint_put_state(config, state, temporary.ptr));
    RLF_TRY(trainer_sync_folder(temporary.ptr));
    RLF_TRY(trainer_remove_tree(path->ptr)); /* what has no run_state.json is no checkpoint */
    if (rename(temporary.ptr, path->ptr) != 0) RLF_FAIL(IO, "cannot rename %s to %s: %s", temporary.ptr, path->ptr, strerror(errno));
    RLF_TRY(trainer_sync_folder(folder.ptr));
    RLF_TRY(prune(config, folder.ptr));
out:
    rlf_str_clean_up(&folder);
    rlf_str_clean_up(&temporary);
    return status;
}

/* ---- reading -------------------------------------------------------------------------------------------------------------------- */

static rlf_status state_from_json(const rlf_config *config, json_t *object, const char *path, trainer_state *state) {
    char checksum[CHECKSUM_CHARS];
    const char *mode, *checksum_then = checksum; /* this one and rows: not in checkpoints of earlier versions */
    json_int_t format, step, rows = state->rows, episodes, tokens, infra, retried;
    json_t *evals;
    json_error_t error;
    write_checksum(checksum, state->rows_checksum);
    if (json_unpack_ex(object, &error, 0, "{s:I, s:s, s:I, s?I, s?s, s:I, s:I, s:I, s:I, s:F, s:o}", "format", &format, "mode", &mode,
                       "step", &step, "rows", &rows, "rows_checksum", &checksum_then, "episodes", &episodes, "tokens", &tokens, "infra", &infra,
                       "retried", &retried, "logprob_diff_max", &state->logprob_diff_max, "evals", &evals) != 0)
        return RLF_RAISE(INVALID, "%s: %s", path, error.text);
    if (format != 1 || !json_is_array(evals)) return RLF_RAISE(INVALID, "%s: expected format 1 and a list of evals", path);
    if (strcmp(mode, config->mode) != 0)
        return RLF_RAISE(INVALID, "%s was written by mode %s, this job is mode %s: choose another output", path, mode, config->mode);
    if (rows != state->rows)
        RLF_WARN("%s was written with %lld rows in data.train, now there are %lld, which are drawn in another order", path, (long long)rows,
                 (long long)state->rows);
    else if (strcmp(checksum_then, checksum) != 0)
        RLF_WARN("%s was written with other rows in data.train, of the same number: the steps to come draw from the new ones", path);
    state->step = step;
    state->episodes = episodes;
    state->tokens = tokens;
    state->infra = infra;
    state->retried = retried;
    json_decref(state->evals);
    state->evals = json_incref(evals);
    return RLF_OK;
}

rlf_status trainer_checkpoint_read(const rlf_config *config, const char *dir, trainer_state *state) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    json_t *object = NULL;
    rlf_str_printf(&path, "%s/run_state.json", dir);
    RLF_TRY(rlf_json_read_file(path.ptr, MAX_STATE_BYTES, 0, &object));
    RLF_TRY(state_from_json(config, object, path.ptr, state));
out:
    json_decref(object);
    rlf_str_clean_up(&path);
    return status;
}
