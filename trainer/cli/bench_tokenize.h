/* The part of `rlf bench` that measures the tokenizer. */
#ifndef RLF_TRAINER_CLI_BENCH_TOKENIZE_H
#define RLF_TRAINER_CLI_BENCH_TOKENIZE_H

/* `rlf bench tokenize`; argv[0] is "tokenize". Returns the exit status, as the commands of cli.h do. */
int rlf_bench_tokenize(int argc, char **argv);

#endif
