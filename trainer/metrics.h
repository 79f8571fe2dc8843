/* The curves of a run: OUTPUT/metrics.jsonl, one JSON object a line, and the same numbers as TensorBoard scalars.
 *
 * Every object has "step" (completed steps) and "elapsed_s" (seconds of work since the start of the run, pauses left out). A resumed run
 * first cuts the file to the steps of its checkpoint, and warns where they are not all there. Numbers that are not finite are null. Private
 * to trainer/. */
#ifndef RLF_TRAINER_METRICS_H
#define RLF_TRAINER_METRICS_H

#include <jansson.h>
#include <stdbool.h>

#include "trainer/events.h"

typedef struct trainer_metrics {
    FILE *file;
    char *path;          /* owned */
    trainer_events events;
    double started_s;    /* monotonic time at which elapsed_s would have been 0 */
} trainer_metrics;

/* Opens both files in folder OUTPUT. start_step > 0: keeps the lines of steps up to it, and counts time on from the last of them.
 * evaluated: the checkpoint holds an evaluation of that step; the line of one that it does not hold goes, since it is made again. */
rlf_status trainer_metrics_open(trainer_metrics *metrics, const char *output, int64_t start_step, bool evaluated) RLF_MUST_USE;
void trainer_metrics_close(trainer_metrics *metrics);
double trainer_metrics_elapsed(const trainer_metrics *metrics);
/* What was written is on disk: a checkpoint that is found after a power failure is not ahead of its curves. */
rlf_status trainer_metrics_sync(const trainer_metrics *metrics) RLF_MUST_USE;
/* Adds elapsed_s to the object, writes it as a line, and its numbers, named by their path ("finish/answer"), to the event file. Takes
 * the reference. */
rlf_status trainer_metrics_write(trainer_metrics *metrics, int64_t step, json_t *object) RLF_MUST_USE;

typedef struct trainer_metrics_kept {
    int64_t steps;     /* lines of steps, not of evaluations */
    size_t unreadable; /* lines that are no such object, and were left out: the machine failed, or somebody wrote to the file */
    double elapsed_s;  /* of the last line */
} trainer_metrics_kept;

/* The lines of `text` whose step is at most `step`, without its evaluation unless `evaluated`. One without an end, which a kill broke off, is
 * left out and not counted. */
void trainer_metrics_cut(const char *text, size_t n, int64_t step, bool evaluated, rlf_str *out, trainer_metrics_kept *kept);
/* object[key] = value, null where it is not finite. */
void trainer_put_real(json_t *object, const char *key, double value);

#endif
