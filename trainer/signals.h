/* What signals mean to a rank (signals.c). Private to trainer/.
 *
 * SIGTERM and SIGUSR1 ask rank 0 to checkpoint and stop; other ranks leave that to it. But mpirun sends SIGTERM as well when a rank was
 * killed or crashed, a second before it kills all the others: then one rank of the dead one's node says which it was. And it does so when
 * it gets SIGTERM itself, which leaves no time for a checkpoint: SIGUSR1 is what it hands on.
 * One per process, as signals are. */
#ifndef RLF_TRAINER_SIGNALS_H
#define RLF_TRAINER_SIGNALS_H

#include "common/msg/transport.h"
#include "trainer/topology.h"

/* Ignores what would end the process before it has a role. Called first. */
void trainer_signals_hold(void);
/* Starts to listen, in a thread of its own. transport and topology are only read now. */
rlf_status trainer_signals_start(const rlf_transport *transport, const trainer_topology *topology) RLF_MUST_USE;
/* Back to trainer_signals_hold, before the other ranks may end. Does nothing if it was not started. */
void trainer_signals_end(void);
/* The signal that asked for a stop, 0 if none did. */
int trainer_stop_asked(void);
/* This rank has said why the job ends, and will end it: the other ranks of this node are told not to take its end for a crash. */
void trainer_signals_explained(void);

#endif
