/* rlf tokenize: lines of text on standard input to one JSON array of token ids each, as the `tokenizers` library gives without
 * special tokens around; and back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

static const char usage[] =
    "rlf tokenize MODEL [--plain] [--decode] [--null] < lines\n\n"
    "Prints one JSON array of token ids for each line (without its newline). MODEL: a folder with tokenizer.json.\n"
    "  --plain   text that looks like an added token (<|im_end|>) is encoded as plain text\n"
    "  --decode  the other way: arrays of ids, as this prints them, to their text, special tokens with it\n"
    "  --null    texts end with a NUL byte, not a newline, and may hold newlines";

/* Ids of "[1,2]"; false if the line is not of this form. */
static bool read_ids(const char *line, rlf_ids *ids) {
    ids->n = 0;
    if (*line++ != '[') return false;
    while (*line != ']') {
        char *end;
        long id = strtol(line, &end, 10);
        if (end == line || id < 0 || id > INT32_MAX || (*end != ',' && *end != ']')) return false;
        rlf_ids_push(ids, (int32_t)id);
        line = end + (*end == ',');
    }
    return line[1] == '\n' || line[1] == '\0';
}

/* One command line, then its work. */
typedef struct request {
    const char *dir;
    bool plain, decode;
    int end; /* of a text */
} request;

static rlf_status encode_texts(const rlf_tokenizer *tokenizer, const request *r) {
    rlf_ids ids = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getdelim(&line, &cap, r->end, stdin)) >= 0) {
        if (n > 0 && line[n - 1] == r->end) n--;
        ids.n = 0;
        rlf_tokenizer_encode(tokenizer, line, (size_t)n, !r->plain, &ids);
        rlf_cli_print_ids(&ids);
    }
    free(line);
    rlf_ids_clean_up(&ids);
    return ferror(stdin) ? RLF_RAISE(IO, "cannot read standard input") : RLF_OK;
}

static rlf_status decode_ids(const rlf_tokenizer *tokenizer, const request *r) {
    rlf_status status = RLF_OK;
    rlf_ids ids = {0};
    rlf_str text = {0};
    char *line = NULL;
    size_t cap = 0, number = 0;
    while (getline(&line, &cap, stdin) >= 0) {
        number++;
        if (!read_ids(line, &ids)) RLF_FAIL(INVALID, "standard input: line %zu: expected an array of ids, [1,2]", number);
        rlf_str_reset(&text);
        rlf_tokenizer_decode(tokenizer, ids.v, ids.n, false, &text);
        rlf_str_putc(&text, (char)r->end);
        fwrite(text.ptr, 1, text.len, stdout);
    }
    if (ferror(stdin)) RLF_FAIL(IO, "cannot read standard input");
out:
    free(line);
    rlf_ids_clean_up(&ids);
    rlf_str_clean_up(&text);
    return status;
}

int rlf_cmd_tokenize(int argc, char **argv) {
    request r = {.end = '\n'};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return rlf_cli_help(usage);
        if (!strcmp(argv[i], "--plain")) r.plain = true;
        else if (!strcmp(argv[i], "--decode")) r.decode = true;
        else if (!strcmp(argv[i], "--null")) r.end = '\0';
        else if (argv[i][0] == '-' || r.dir) return rlf_cli_misuse("tokenize", "expected one MODEL folder");
        else r.dir = argv[i];
    }
    if (!r.dir) return rlf_cli_misuse("tokenize", "expected a MODEL folder");
    rlf_tokenizer *tokenizer = NULL;
    rlf_status status = rlf_tokenizer_load(&tokenizer, r.dir);
    if (status == RLF_OK) status = r.decode ? decode_ids(tokenizer, &r) : encode_texts(tokenizer, &r);
    rlf_tokenizer_destroy(tokenizer);
    return status == RLF_OK ? 0 : rlf_cli_fail("tokenize");
}
