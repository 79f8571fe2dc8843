/* Commands of `rlf`, the one-process companion of rlf-train.
 *
 * Each command is one file of this folder with one function `rlf_cmd_NAME`, listed in the table of main.c. argv[0] is the command's name,
 * so a command may hand argc and argv to getopt as they are. Its results go to standard output; on failure it records the error with
 * RLF_RAISE (or a callee did) and returns rlf_cli_fail(NAME), which prints the one line on standard error. Return value: the exit status
 * of the program. */
#ifndef RLF_TRAINER_CLI_CLI_H
#define RLF_TRAINER_CLI_CLI_H

#include <stdbool.h>

int rlf_cmd_tokenize(int argc, char **argv);
int rlf_cmd_render(int argc, char **argv);
int rlf_cmd_bench(int argc, char **argv);
int rlf_cmd_index(int argc, char **argv);
int rlf_cmd_search(int argc, char **argv);
int rlf_cmd_init(int argc, char **argv);
int rlf_cmd_score(int argc, char **argv);
int rlf_cmd_generate(int argc, char **argv);
int rlf_cmd_config(int argc, char **argv);
int rlf_cmd_tools(int argc, char **argv);
int rlf_cmd_report(int argc, char **argv);

/* Prints "rlf NAME: last error of this thread" on standard error; returns 1. */
int rlf_cli_fail(const char *command);
/* For `--help` of a command (usage on standard output, returns 0) and for a wrong command line (one line on standard error, returns 2). */
int rlf_cli_help(const char *usage);
int rlf_cli_misuse(const char *command, const char *what);
/* The value of an option: a number in [low, high], or false. */
bool rlf_cli_number(const char *text, double low, double high, double *out);

#endif
