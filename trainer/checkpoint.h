/* Checkpoints of a run: OUTPUT/checkpoints/step_N/, a Hugging Face folder with the optimizer's state and run_state.json beside it.
 *
 * A checkpoint is written as step_N.tmp, and exists once that folder has been renamed: run_state.json is its last file, and everything
 * is on disk before the rename. One that is to be removed is renamed to step_N.tmp first. So a folder step_N is complete or it is not there.
 * run_state.json holds only what follows from (seed, config, tool answers), no times: a resumed run writes the same bytes. Rank 0 alone
 * writes here; learners put their files into the folder they are told. Private to trainer/. */
#ifndef RLF_TRAINER_CHECKPOINT_H
#define RLF_TRAINER_CHECKPOINT_H

#include <jansson.h>

#include "common/config/config.h"

/* What a run needs beyond weights and optimizer to go on as if it had never stopped. Everything random is keyed by position, so the step
 * says it all. */
typedef struct trainer_state {
    int64_t step;              /* completed steps; also the version of the weights */
    int64_t episodes, tokens;  /* taken, and model tokens trained on, since the start of the run */
    int64_t infra, retried;    /* episodes lost for good, attempts made again */
    int64_t rows;              /* of data.train, which are drawn in an order that follows from their number */
    uint64_t rows_checksum;    /* rlf_dataset.checksum of them */
    double logprob_diff_max;   /* over the run */
    json_t *evals;             /* owned array of evaluation results (eval.c) */
} trainer_state;

void trainer_state_init(trainer_state *state);
void trainer_state_clean_up(trainer_state *state);

/* Removes step_*.tmp left by a run that was killed while it wrote or removed one. */
rlf_status trainer_checkpoint_tidy(const rlf_config *config) RLF_MUST_USE;
/* Makes an empty step_N.tmp and gives its path. */
rlf_status trainer_checkpoint_begin(const rlf_config *config, int64_t step, rlf_str *folder) RLF_MUST_USE;
/* The learners are done with the folder: writes run_state.json, syncs, renames, removes all but the newest train.keep. `path`: the final
 * folder. */
rlf_status trainer_checkpoint_commit(const rlf_config *config, const trainer_state *state, rlf_str *path) RLF_MUST_USE;
/* Writes DIR/run_state.json, whole or not at all: that of a complete checkpoint too, once its step has been evaluated. */
rlf_status trainer_checkpoint_put_state(const rlf_config *config, const trainer_state *state, const char *dir) RLF_MUST_USE;
/* Reads DIR/run_state.json into a state already initialised, with `rows` and their checksum set. Refuses one of another mode; warns of
 * other rows (of keys that have changed: trainer_folder_compare). */
rlf_status trainer_checkpoint_read(const rlf_config *config, const char *dir, trainer_state *state) RLF_MUST_USE;
/* The newest complete checkpoint, where train.resume says so: *step and its path, else 0 and "". Every rank that goes on from it looks for
 * itself. */
rlf_status trainer_checkpoint_newest(const rlf_config *config, int64_t *step, rlf_str *dir) RLF_MUST_USE;
/* Complete checkpoints in OUTPUT/checkpoints. */
rlf_status trainer_checkpoint_count(const rlf_config *config, size_t *n) RLF_MUST_USE;

#endif
