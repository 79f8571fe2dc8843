/* The part of `rlf bench` that measures what waiting for tools costs. */
#ifndef RLF_TRAINER_CLI_BENCH_ROLLOUT_H
#define RLF_TRAINER_CLI_BENCH_ROLLOUT_H

/* `rlf bench rollout`; argv[0] is "rollout". Returns the exit status, as the commands of cli.h do. */
int rlf_bench_rollout(int argc, char **argv);

#endif
