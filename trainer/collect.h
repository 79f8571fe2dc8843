/* Episodes out, trajectories in. What comes back is ordered by (uid, sample), whatever rank made it and whenever it came. Private to
 * trainer/. */
#ifndef RLF_TRAINER_COLLECT_H
#define RLF_TRAINER_COLLECT_H

#include "trainer/watch.h"

typedef struct trainer_collected {
    rlf_trajectory *v; /* (groups, samples), in the arena; finish infra: lost for good after the retries */
    size_t n;
    int64_t retried;   /* attempts lost to infrastructure and made again */
} trainer_collected;

/* Called after each trajectory taken: for the progress line. */
typedef void trainer_collect_fn(void *ctx, const rlf_trajectory *trajectory);

/* Runs groups[n] (EPISODE records complete but for `attempt`; uids are groups[0].uid + i, first_sample 0, all with the same `samples`
 * and `version`) on the rollout ranks, each group on the least loaded one. An episode that infrastructure lost is tried again, elsewhere
 * where there is an elsewhere, up to episode.retries times. Trajectories are checked before they are believed: lengths, spans, version,
 * ids below `vocab`. */
rlf_status trainer_collect(trainer_watch *watch, const rlf_config *config, const rlf_episode *groups, size_t n, int vocab, rlf_arena *arena,
                           trainer_collect_fn *each, void *ctx, trainer_collected *out) RLF_MUST_USE;

/* The checks on one trajectory; an error says what is wrong with it. */
rlf_status trainer_trajectory_check(const rlf_trajectory *trajectory, int64_t version, int vocab) RLF_MUST_USE;

#endif
