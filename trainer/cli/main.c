/* rlf: runs one command of the table below. One process, one machine, no MPI, but for `bench handover` and `bench reduce`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/status.h"
#include "trainer/cli/cli.h"

typedef struct entry {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} entry;

/* One line a command, whose file is trainer/cli/NAME.c. */
static const entry commands[] = {
    {"tokenize", rlf_cmd_tokenize, "text lines to arrays of token ids"},
    {"render", rlf_cmd_render, "conversations to what the model is shown"},
    {"index", rlf_cmd_index, "a corpus of passages to a full-text index"},
    {"search", rlf_cmd_search, "queries to the best passages of an index"},
    {"init", rlf_cmd_init, "a checkpoint folder of a known shape with random weights"},
    {"config", rlf_cmd_config, "every key of a job file, or the resolved configuration of one"},
    {"score", rlf_cmd_score, "text lines to the log-probs of their tokens"},
    {"generate", rlf_cmd_generate, "answers of a model to prompts"},
    {"report", rlf_cmd_report, "what finished runs came to, or one value of a summary"},
    {"tools", rlf_cmd_tools, "the tools of a job, one call of one, or how fast they answer"},
    {"bench", rlf_cmd_bench, "speed of training, decoding, hand-over and more on this machine"},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

int rlf_cli_fail(const char *command) {
    fprintf(stderr, "rlf %s: %s\n", command, rlf_error_message());
    return 1;
}

int rlf_cli_help(const char *usage) {
    printf("usage: %s\n", usage);
    return 0;
}

int rlf_cli_misuse(const char *command, const char *what) {
    fprintf(stderr, "rlf %s: %s (see rlf %s --help)\n", command, what, command);
    return 2;
}

bool rlf_cli_number(const char *text, double low, double high, double *out) {
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && *out >= low && *out <= high;
}

static int help(void) {
    printf("usage: rlf COMMAND [options]\n\nThe one-process companion of rlf-train. `rlf COMMAND --help` tells more.\n\n");
    for (int i = 0; i < COMMANDS; i++) printf("  %-10s %s\n", commands[i].name, commands[i].help);
    return 0;
}

static int version(void) {
    printf("rlf %s\n", RLF_VERSION);
    return 0;
}

static int run(const char *name, int argc, char **argv) {
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) return help();
    if (!strcmp(name, "--version")) return version();
    for (int i = 0; i < COMMANDS; i++)
        if (!strcmp(name, commands[i].name)) return commands[i].run(argc, argv);
    fprintf(stderr, *name ? "rlf: no command \"%s\" (see rlf --help)\n" : "rlf: no command given%s (see rlf --help)\n", name);
    return 2;
}

int main(int argc, char **argv) {
    rlf_log_init(-1, "rlf", RLF_LOG_INFO);
    const char *name = argc > 1 ? argv[1] : "";
    int result = run(name, argc - 1, argv + 1);
    if (fflush(stdout) == 0 && !ferror(stdout)) return result;
    fprintf(stderr, "rlf %s: cannot write to standard output\n", name);
    return 1;
}
