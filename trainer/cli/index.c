/* rlf index: a JSONL corpus to the full-text index that a tool of kind index searches. */
#include <stdio.h>
#include <string.h>

#include "toolsvc/index/index.h"
#include "trainer/cli/cli.h"

static const char usage[] =
    "rlf index CORPUS.jsonl -o INDEX\n\n"
    "Builds a full-text index (one SQLite file, exact BM25, Porter stemming). One passage a line:\n"
    "  {\"id\": \"7\", \"contents\": \"\\\"Title\\\"\\ntext\"}   or   {\"id\": \"7\", \"title\": \"Title\", \"text\": \"text\"}\n"
    "An index that was at INDEX is replaced once the new one is complete; any other file there is refused.";

int rlf_cmd_index(int argc, char **argv) {
    const char *corpus = NULL, *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return rlf_cli_help(usage);
        if (!strcmp(argv[i], "-o") && i + 1 < argc && !path) path = argv[++i];
        else if (argv[i][0] == '-' || corpus) return rlf_cli_misuse("index", "expected CORPUS.jsonl -o INDEX");
        else corpus = argv[i];
    }
    if (!corpus || !path) return rlf_cli_misuse("index", "expected CORPUS.jsonl -o INDEX");
    size_t passages;
    if (toolsvc_index_build(corpus, path, &passages) != RLF_OK) return rlf_cli_fail("index");
    printf("%s: %zu passages\n", path, passages);
    return 0;
}
