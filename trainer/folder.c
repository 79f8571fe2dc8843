/* The run folder between starts (folder.h). */
#include "trainer/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/base/log.h"
#include "trainer/files.h"
#include "trainer/topology.h"

rlf_status trainer_folder_lock(const char *output, int *fd) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    if (*fd >= 0) return RLF_OK;
    rlf_str_printf(&path, "%s/lock", output);
    *fd = open(path.ptr, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0 && errno != ENOENT) RLF_FAIL(IO, "cannot open %s: %s", path.ptr, strerror(errno));
    if (*fd < 0 || flock(*fd, LOCK_EX | LOCK_NB) == 0) goto out;
    if (errno == EWOULDBLOCK) RLF_FAIL(INVALID, "another job is running in output %s: end it, or choose another output", output);
    RLF_WARN("cannot lock %s: %s; nothing keeps a second job out of this folder", path.ptr, strerror(errno));
out:
    rlf_str_clean_up(&path);
    return status;
}

/* The configuration of the last start; false if there is none that can be read. */
static bool last_config(const rlf_config *config, rlf_config *last) {
    rlf_str path = {0};
    *last = (rlf_config){0};
    rlf_str_printf(&path, "%s/config.yaml", config->output);
    bool there = trainer_file_exists(path.ptr), read = there && rlf_config_load(last, path.ptr, NULL, 0) == RLF_OK;
    if (there && !read) RLF_WARN("this job is not compared with the last one in its folder: %s", rlf_error_message());
    rlf_str_clean_up(&path);
    return read;
}

static rlf_status check_results(const rlf_config *config) {
    rlf_status status = RLF_OK;
    rlf_str summary = {0};
    rlf_config last = {0};
    rlf_str_printf(&summary, "%s/summary.json", config->output);
    if (!trainer_file_exists(summary.ptr) || !last_config(config, &last)) goto out;
    if (strcmp(last.mode, config->mode) != 0)
        RLF_FAIL(INVALID, "output %s holds the results of a job of mode %s: choose another output", config->output, last.mode);
    if (trainer_mode_is(config, "eval") && (strcmp(last.model.path, config->model.path) || strcmp(last.data.eval, config->data.eval)))
        RLF_FAIL(INVALID, "output %s holds the evaluation of %s with %s: choose another output", config->output, last.model.path,
                 last.data.eval);
out:
    rlf_config_clean_up(&last);
    rlf_str_clean_up(&summary);
    return status;
}

rlf_status trainer_folder_read(const rlf_config *config, trainer_state *state, rlf_str *checkpoint) {
    rlf_status status = RLF_OK;
    bool evaluates = trainer_mode_is(config, "eval");
    size_t checkpoints;
    int64_t step;
    rlf_str_reset(checkpoint);
    rlf_str_puts(checkpoint, "");
    RLF_TRY(trainer_checkpoint_count(config, &checkpoints));
    if (checkpoints > 0 && evaluates)
        RLF_FAIL(INVALID, "output %s is the folder of a training run: give the evaluation a folder of its own", config->output);
    if (checkpoints > 0 && !config->train.resume)
        RLF_FAIL(INVALID, "output %s holds checkpoints and train.resume is false: choose another output", config->output);
    RLF_TRY(check_results(config));
    if (checkpoints == 0) goto out;
    RLF_TRY(trainer_checkpoint_newest(config, &step, checkpoint));
    RLF_TRY(trainer_checkpoint_read(config, checkpoint->ptr, state));
    if (state->step != step) RLF_FAIL(INVALID, "%s says it is step %lld", checkpoint->ptr, (long long)state->step);
out:
    return status;
}

void trainer_folder_compare(const rlf_config *config, const char *then) {
    rlf_config last;
    rlf_str keys = {0};
    if (!last_config(config, &last)) return;
    free(last.output);
    last.output = rlf_strdup(config->output); /* the folder may have been moved */
    rlf_config_compare(&last, config, &keys);
    if (keys.len) RLF_WARN("other values than at the last start: %s: %s", keys.ptr, then);
    if (strcmp(last.model.path, config->model.path) != 0)
        RLF_WARN("the weights are those of this run's checkpoint all the same: to start from %s choose another output", config->model.path);
    rlf_config_clean_up(&last);
    rlf_str_clean_up(&keys);
}
