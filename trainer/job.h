/* The coordinator's job, and the pieces it is done in. Everything here runs on rank 0, in one thread, which sleeps while it waits.
 *
 *   coordinator.c  opens and closes the job, drives the steps, checkpoints, stops
 *   rl.c           one reinforcement-learning step: draw, collect, score, update, hand over
 *   supervise.c    one supervised step
 *   eval.c         an evaluation
 *   exchange.c     what both kinds of step say to the learners: update, hand over, save
 *   prompt.c       the model's text side; rows to episodes and to supervised sequences
 *   summary.c      the end of the run
 *
 * The result is a function of (seed, config, tool answers): nothing here depends on which rank answered, or when. Private to trainer/. */
#ifndef RLF_TRAINER_JOB_H
#define RLF_TRAINER_JOB_H

#include "common/model/model.h"
#include "common/text/chat.h"
#include "trainer/batch.h"
#include "trainer/checkpoint.h"
#include "trainer/collect.h"
#include "trainer/metrics.h"
#include "trainer/order.h"
#include "trainer/progress.h"
#include "trainer/stats.h"
#include "trainer/watch.h"

typedef struct trainer_job {
    rlf_transport *transport;
    const rlf_config *config;
    const char *tool_schemas;     /* JSON array */
    trainer_watch watch;
    rlf_model_shape shape;
    rlf_tokenizer *tokenizer;
    rlf_chat *chat;
    rlf_dataset train, eval;
    trainer_order order;
    trainer_state state;
    trainer_metrics metrics;
    trainer_progress progress;
    rlf_arena arena;              /* of one step or evaluation */
    int device_rank;              /* the first rank that said what it computes on; 0: none yet */
    bool on_cards;                /* whether that is a card */
    int64_t steps;                /* to be done in all; 0 in mode eval */
    int64_t start_step;           /* where this process began */
    int64_t saved_step;           /* of the newest checkpoint; 0: none */
    int64_t published;            /* version the rollout ranks hold; -1: none */
    double *train_s;              /* (size) seconds each learner computed in this step, owned */
    rlf_str checkpoint;           /* path of the newest, "" if none */
    int lock;                     /* of the run folder (folder.h); -1: not yet */
} trainer_job;

/* ---- prompt.c ----------------------------------------------------------------------------------------------------------------------- */

/* Reads the model's shape, tokenizer and chat template into the job. Refuses a model without positions for episodes and rows of the length
 * that the job allows, and a tag of episode.tool_format that calls what no tool offers, naming the key. */
rlf_status trainer_text_open(trainer_job *job) RLF_MUST_USE;
/* Frees that, and the data. */
void trainer_text_close(trainer_job *job);
/* The EPISODE record of a row, complete but for `attempt`. Refuses a prompt longer than episode.max_prompt_tokens, naming `file` and
 * line. */
rlf_status trainer_episode_of(const trainer_job *job, const rlf_row *row, const char *file, int64_t uid, int64_t samples,
                              rlf_sampling sampling, rlf_arena *arena, rlf_episode *out) RLF_MUST_USE;
/* A row of data.train as a sequence with weight and advantage 1; its model spans are what the loss sees. Refuses one longer than
 * episode.max_tokens. */
rlf_status trainer_supervised_of(const trainer_job *job, const rlf_row *row, int64_t uid, rlf_arena *arena, rlf_sequence *out) RLF_MUST_USE;
typedef struct trainer_lengths { size_t rows; int64_t longest, total; } trainer_lengths; /* in tokens */
/* Reads data.train and data.eval, as far as there are such, into the job, and measures every row that it will draw: what the two above
 * refuse is refused now, and not when steps are done. Uses the job's arena. */
rlf_status trainer_data_load(trainer_job *job, trainer_lengths *train, trainer_lengths *eval) RLF_MUST_USE;

/* ---- exchange.c --------------------------------------------------------------------------------------------------------------------- */

/* What learners said of the updates of a step: means over updates of what is a mean already, sums of counts. */
typedef struct trainer_learned {
    int64_t updates;        /* made */
    int64_t skipped;        /* nothing in their loss */
    double loss, kl, entropy, clipped, grad_norm; /* sums over updates */
    double tokens, mismatches, diff_sum;
    double diff_max;
} trainer_learned;

/* One optimizer update: BATCH to every learner, STEP from every learner. A plan without model tokens is skipped. */
rlf_status trainer_exchange_update(trainer_job *job, trainer_plan *plan, int64_t update, int64_t updates, double lr,
                                   trainer_learned *learned) RLF_MUST_USE;
/* Hands the weights over as `version` and compares the checksums of all ranks that hold them. */
rlf_status trainer_exchange_publish(trainer_job *job, int64_t version) RLF_MUST_USE;
/* Writes the checkpoint of state.step, if it is not written yet. */
rlf_status trainer_exchange_save(trainer_job *job) RLF_MUST_USE;
/* loss, kl, entropy, clip_share, grad_norm, lr, logprob_diff_max, logprob_mismatches, updates, updates_skipped. */
void trainer_learned_put(const trainer_learned *learned, double lr, bool policy, json_t *object);
/* Ends the tool ranks: what they counted is complete then. Without any, does nothing. */
rlf_status trainer_exchange_stop_tools(trainer_job *job) RLF_MUST_USE;
/* What tools counted, "search.retries", over all tool ranks since the start; as of their last heartbeats. A new object. */
json_t *trainer_counts_json(const trainer_watch *watch);
/* "phases": seconds of this step by rank and what it did; marks them. "tools": the counts. */
void trainer_phases_put(trainer_job *job, double wall_s, json_t *object);

/* ---- one step, one evaluation ------------------------------------------------------------------------------------------------------- */

/* Does step state.step and raises it by one. */
rlf_status trainer_rl_step(trainer_job *job) RLF_MUST_USE;
rlf_status trainer_supervised_step(trainer_job *job) RLF_MUST_USE;
/* Evaluates the weights of state.step, which the rollout ranks are given first if they lack them. Every row of data.eval (up to
 * data.eval_limit) is scored eval_sampling.samples times, each exactly once. The result goes to state.evals, metrics.jsonl and
 * rollouts/eval_NNNNNN.jsonl. */
rlf_status trainer_evaluate(trainer_job *job) RLF_MUST_USE;
bool trainer_evaluated(const trainer_job *job, int64_t step);
/* Writes OUTPUT/rollouts/NAME.jsonl where log.trajectories asks for it; advantages may be NULL. row_of(ctx, group) gives the row of a
 * group. */
typedef const rlf_row *trainer_row_fn(void *ctx, size_t group);
rlf_status trainer_rollouts_write(const trainer_job *job, const char *kind, const rlf_trajectory *trajectories, size_t groups,
                                  size_t samples, const double *advantages, trainer_row_fn *row_of, void *ctx) RLF_MUST_USE;

/* ---- summary.c ---------------------------------------------------------------------------------------------------------------------- */

/* Writes OUTPUT/summary.json, unless it is there: this process has found the run done then, and its tools have counted nothing. */
rlf_status trainer_summary_write(const trainer_job *job) RLF_MUST_USE;

#endif
