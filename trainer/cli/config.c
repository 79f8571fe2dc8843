/* rlf config: the reference of the job file; with a job file, its resolved configuration. */
#include <stdio.h>
#include <string.h>

#include "common/config/config.h"
#include "trainer/cli/cli.h"

static const char usage[] =
    "rlf config [JOB.yaml [key=value ...]]\n\n"
    "Without a file: every key of a job file, its type, unit, default, range and meaning, as a Markdown table.\n"
    "With one: the resolved configuration as YAML, after all checks.";

int rlf_cmd_config(int argc, char **argv) {
    rlf_str text = {0};
    rlf_config config;
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) return rlf_cli_help(usage);
    if (argc < 2) {
        rlf_config_reference(&text);
    } else {
        if (rlf_config_load(&config, argv[1], argv + 2, (size_t)argc - 2) != RLF_OK) return rlf_cli_fail("config");
        rlf_config_dump(&config, &text);
        rlf_config_clean_up(&config);
    }
    fwrite(text.ptr, 1, text.len, stdout);
    rlf_str_clean_up(&text);
    return 0;
}
