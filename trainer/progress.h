/* The progress line: a bar redrawn in place where a person watches, a plain line every few seconds elsewhere.
 *
 *   rl  [######------]  12/40  reward 0.431  exact 0.388  1,234 tok/s  3m10s left
 *
 * Under mpirun standard error is a pipe even on a terminal; then the launcher's own standard error decides. Private to trainer/. */
#ifndef RLF_TRAINER_PROGRESS_H
#define RLF_TRAINER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/mem.h"

typedef struct trainer_progress {
    bool on, bar;
    char mode[8];
    int64_t start, step, steps; /* step: completed */
    int64_t tokens;             /* generated or trained on by this process since `begun_s` */
    double begun_s, drawn_s;
    double reward, exact;       /* of the last step; NAN: not shown */
    double loss;                /* shown where reward is not */
    bool drawn;                 /* a bar stands on the screen, without a line end */
} trainer_progress;

void trainer_progress_init(trainer_progress *progress, bool on, const char *mode, int64_t start, int64_t steps);
/* The line for the present state, without line end. */
void trainer_progress_line(const trainer_progress *progress, double now_s, rlf_str *out);
/* Draws if it is time to, or `force`. */
void trainer_progress_draw(trainer_progress *progress, bool force);
/* Ends a bar on the screen, so that something else can be printed. */
void trainer_progress_clear(trainer_progress *progress);

#endif
