/* What the coordinator knows of the other ranks: what each owes, when it was last heard, what it was doing. The one place where rank 0
 * waits.
 *
 * A rank that owes something and stays silent past its deadline is an error that names it and what it was doing; heartbeats count as
 * being heard. A tool rank shows that it is there also when it owes nothing, and is watched at all times: others depend on it. While rank 0
 * does not look, because it is busy or the whole job is suspended, no silence grows. An error another rank reports (CONTROL ERROR) ends the wait
 * with that rank's own words. Private to trainer/. */
#ifndef RLF_TRAINER_WATCH_H
#define RLF_TRAINER_WATCH_H

#include "common/msg/transport.h"
#include "trainer/topology.h"

enum { TRAINER_MAX_PHASES = 16 };

typedef struct trainer_phase {
    char name[24];
    double seconds; /* since the rank started */
    double mark;    /* `seconds` at the last trainer_watch_mark */
} trainer_phase;

/* Something counted since the rank started, "search.retries": metrics of a heartbeat whose names hold a dot. */
typedef struct trainer_count {
    char name[96];
    double n;
} trainer_count;

typedef struct trainer_peer {
    int64_t owes;          /* replies outstanding */
    int64_t since_ms;      /* last heard, or asked while it owed nothing; later by what rank 0 was away */
    int64_t deadline_ms;   /* silence allowed while it owes */
    char what[64];         /* what was asked of it */
    char doing[96];        /* its own last words, "" if none */
    int64_t done;          /* tokens, from its heartbeat */
    trainer_phase phases[TRAINER_MAX_PHASES];
    size_t n_phases;
    trainer_count *counts; /* owned */
    size_t n_counts, cap_counts;
} trainer_peer;

typedef struct trainer_watch {
    rlf_transport *transport;
    trainer_topology topology;
    trainer_peer *peers;   /* (topology.size), owned */
    int64_t silence_ms;    /* allowed to tool ranks that owe nothing */
    int64_t checked_ms;
    int64_t moved_ms;      /* when this wait began, or the last token was sampled; later by what rank 0 was away */
    rlf_received in;       /* the message handed out last */
    rlf_arena scratch;     /* of one control or heartbeat */
    void (*tick)(void *ctx); /* called several times a second while waiting; may be NULL */
    void *tick_ctx;
} trainer_watch;

void trainer_watch_init(trainer_watch *watch, rlf_transport *transport, const trainer_topology *topology, int64_t silence_ms);
void trainer_watch_clean_up(trainer_watch *watch);

/* Notes that `rank` owes n more replies. what: "12 trajectories", copied, for messages. */
void trainer_watch_expect(trainer_watch *watch, int rank, int64_t n, int64_t deadline_s, const char *what);
/* A reply of `rank` was taken. */
void trainer_watch_settle(trainer_watch *watch, int rank);
/* Waits for the next message that is neither heartbeat nor error; it stays valid until the next call. limit_ms > 0: an upper bound for
 * a wait in which no rollout rank samples a token, whoever speaks. */
rlf_status trainer_watch_receive(trainer_watch *watch, int64_t limit_ms, const rlf_received **message) RLF_MUST_USE;

/* Sends a control message to `count` ranks from `first` and notes that each owes a reply. */
rlf_status trainer_watch_order(trainer_watch *watch, int first, int count, rlf_control_kind kind, int64_t value,
                               const char *text, int64_t deadline_s, const char *what) RLF_MUST_USE;
/* Waits until every rank that owes has sent a control message of `kind`; calls each(ctx, rank, control), which may be NULL. */
typedef rlf_status trainer_reply_fn(void *ctx, int rank, const rlf_control *control);
rlf_status trainer_watch_gather(trainer_watch *watch, rlf_control_kind kind, trainer_reply_fn *each, void *ctx) RLF_MUST_USE;

/* The phases' seconds start anew from here: step by step accounts. */
void trainer_watch_mark(trainer_watch *watch);

#endif
