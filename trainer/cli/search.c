/* rlf search: queries on standard input, one JSON array of passages each on standard output. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "toolsvc/index/index.h"
#include "trainer/cli/cli.h"

enum { MOST_PASSAGES = 1000 };

static const char usage[] =
    "rlf search INDEX [-k N] < queries\n\n"
    "Prints one JSON array for each line: the N (3) best passages, {\"id\", \"title\", \"text\", \"score\"}, best first.";

static bool read_count(const char *text, size_t *k) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || value < 1 || value > MOST_PASSAGES) return false;
    *k = value;
    return true;
}

static void print_hits(const toolsvc_hit *hits, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:f}", "id", hits[i].id, "title", hits[i].title, "text",
                                              hits[i].text, "score", hits[i].score));
    json_dumpf(list, stdout, JSON_PRESERVE_ORDER);
    putchar('\n');
    fflush(stdout);
    json_decref(list);
}

/* One query after the other, so that it also serves at the other end of a pipe. */
static rlf_status search_lines(toolsvc_index *index, size_t k) {
    rlf_status status = RLF_OK;
    rlf_arena arena = {0};
    char *line = NULL;
    size_t cap = 0, count;
    for (ssize_t n; (n = getline(&line, &cap, stdin)) >= 0;) {
        toolsvc_hit *hits;
        if (n > 0 && line[n - 1] == '\n') n--;
        rlf_arena_reset(&arena);
        RLF_TRY(toolsvc_index_search(index, line, (size_t)n, k, NULL, &arena, &hits, &count));
        print_hits(hits, count);
    }
    if (ferror(stdin)) RLF_FAIL(IO, "cannot read standard input");
out:
    free(line);
    rlf_arena_clean_up(&arena);
    return status;
}

int rlf_cmd_search(int argc, char **argv) {
    const char *path = NULL;
    size_t k = 3;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return rlf_cli_help(usage);
        if (!strcmp(argv[i], "-k") && i + 1 < argc) {
            if (!read_count(argv[++i], &k)) return rlf_cli_misuse("search", "-k: expected a number from 1 to 1000");
        } else if (argv[i][0] == '-' || path) {
            return rlf_cli_misuse("search", "expected one INDEX");
        } else {
            path = argv[i];
        }
    }
    if (!path) return rlf_cli_misuse("search", "expected an INDEX");
    toolsvc_index *index;
    if (toolsvc_index_open(&index, path) != RLF_OK) return rlf_cli_fail("search");
    rlf_status status = search_lines(index, k);
    toolsvc_index_destroy(index);
    return status == RLF_OK ? 0 : rlf_cli_fail("search");
}
