/* rlf tokenize: lines of text on standard input to one JSON array of token ids each, as the `tokenizers` library gives without
 * special tokens around. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer.h"
#include "trainer/cli/cli.h"

static const char usage[] =
    "rlf tokenize MODEL [--plain] [--null] < lines\n\n"
    "Prints one JSON array of token ids for each line (without its newline). MODEL: a folder with tokenizer.json.\n"
    "  --plain   text that looks like an added token (<|im_end|>) is encoded as plain text\n"
    "  --null    texts end with a NUL byte, not a newline, and may hold newlines";

static void print_ids(const rlf_ids *ids) {
    putchar('[');
    for (size_t i = 0; i < ids->n; i++) printf(i ? ",%d" : "%d", ids->v[i]);
    puts("]");
}

int rlf_cmd_tokenize(int argc, char **argv) {
    const char *dir = NULL;
    bool plain = false;
    int end = '\n';
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return rlf_cli_help(usage);
        if (!strcmp(argv[i], "--plain")) plain = true;
        else if (!strcmp(argv[i], "--null")) end = '\0';
        else if (argv[i][0] == '-' || dir) return rlf_cli_misuse("tokenize", "expected one MODEL folder");
        else dir = argv[i];
    }
    if (!dir) return rlf_cli_misuse("tokenize", "expected a MODEL folder");
    rlf_tokenizer *tokenizer = NULL;
    if (rlf_tokenizer_load(&tokenizer, dir) != RLF_OK) return rlf_cli_fail("tokenize");

    rlf_ids ids = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getdelim(&line, &cap, end, stdin)) >= 0) {
        if (n > 0 && line[n - 1] == end) n--;
        ids.n = 0;
        rlf_tokenizer_encode(tokenizer, line, (size_t)n, !plain, &ids);
        print_ids(&ids);
    }
    bool failed = ferror(stdin) != 0;
    free(line);
    rlf_ids_clean_up(&ids);
    rlf_tokenizer_destroy(tokenizer);
    if (!failed) return 0;
    (void)RLF_RAISE(IO, "cannot read standard input");
    return rlf_cli_fail("tokenize");
}
