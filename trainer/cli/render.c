/* rlf render: conversations on standard input to what the model is shown, as text or as ids. */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/chat.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

static const char usage[] =
    "rlf render MODEL [options] < conversations.jsonl\n\n"
    "Prints one JSON string for each line {\"messages\": [{\"role\", \"content\"}, ...]} (or \"prompt\"): the text that its\n"
    "chat template gives. An assistant's message may have \"tool_calls\" and \"reasoning_content\".\n"
    "  --tools FILE            a JSON array of function schemas\n"
    "  --chat NAME             auto (the checkpoint's own), chatml, llama3.1, llama3.2, qwen2.5, qwen2.5-base,\n"
    "                          qwen3, qwen3-instruct, qwen3-instruct-plain or qwen3-thinking\n"
    "  --thinking on|off       qwen3 (off)\n"
    "  --date TEXT             llama3.1, llama3.2: \"Today Date\" (" RLF_CHAT_DATE ")\n"
    "  --tool-format NAME      auto (the template's), hermes, llama, search-r1, tool-star or fenced\n"
    "  --no-generation-prompt  end with the last message\n"
    "  --ids                   a JSON array of token ids in place of the text";

enum { MOST_TOOLS_BYTES = 16 << 20 };

typedef struct request {
    const char *dir, *tools;
    rlf_chat_options chat;
    bool no_generation, ids;
} request;

typedef struct renderer {
    rlf_tokenizer *tokenizer;
    rlf_chat *chat;
    rlf_str tools;
    rlf_arena arena;
    rlf_str text;
    rlf_ids ids;
} renderer;

static rlf_status print_text(const rlf_str *text) {
    json_t *string = json_stringn(text->ptr, text->len);
    char *json = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    json_decref(string);
    if (!json) return RLF_RAISE(NO_MEMORY, "no memory for a text of %zu bytes", text->len);
    puts(json);
    free(json);
    return RLF_OK;
}

static rlf_status render_line(renderer *r, const request *q, const char *line, size_t n, size_t number) {
    rlf_status status = RLF_OK;
    rlf_row row;
    rlf_arena_reset(&r->arena);
    rlf_str_reset(&r->text);
    r->ids.n = 0;
    RLF_TRY(rlf_messages_parse(&row, line, n, "standard input", number, &r->arena));
    const char *tools = q->tools && !r->tools.ptr ? "" : r->tools.ptr; /* an empty file is not JSON */
    status = rlf_chat_render(r->chat, row.messages, row.n_messages, tools, !q->no_generation, &r->text, q->ids ? &r->ids : NULL);
    if (status != RLF_OK) rlf_error_context("standard input:%zu", number);
    else if (q->ids) rlf_cli_print_ids(&r->ids);
    else RLF_TRY(print_text(&r->text));
out:
    return status;
}

/* One conversation after the other, so that it also serves at the other end of a pipe. */
static rlf_status render_lines(renderer *r, const request *q) {
    rlf_status status = RLF_OK;
    char *line = NULL;
    size_t cap = 0, number = 0;
    for (ssize_t n; (n = getline(&line, &cap, stdin)) >= 0;) {
        number++;
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        RLF_TRY(render_line(r, q, line, (size_t)n, number));
        fflush(stdout);
    }
    if (ferror(stdin)) RLF_FAIL(IO, "cannot read standard input");
out:
    free(line);
    return status;
}

static rlf_status render(renderer *r, const request *q) {
    rlf_status status = RLF_OK;
    RLF_TRY(rlf_tokenizer_load(&r->tokenizer, q->dir));
    RLF_TRY(rlf_chat_new(&r->chat, r->tokenizer, q->dir, q->chat));
    if (q->tools) RLF_TRY(rlf_str_read_file(&r->tools, q->tools, MOST_TOOLS_BYTES));
    RLF_TRY(render_lines(r, q));
out:
    return status;
}

static void clean_up(renderer *r) {
    rlf_chat_destroy(r->chat);
    rlf_tokenizer_destroy(r->tokenizer);
    rlf_arena_clean_up(&r->arena);
    rlf_ids_clean_up(&r->ids);
    rlf_str_clean_up(&r->text);
    rlf_str_clean_up(&r->tools);
}

static bool parse(request *q, int argc, char **argv, bool *help) {
    static const struct option options[] = {{"tools", required_argument, NULL, 't'},    {"chat", required_argument, NULL, 'c'},
                                            {"thinking", required_argument, NULL, 'k'}, {"date", required_argument, NULL, 'd'},
                                            {"tool-format", required_argument, NULL, 'f'},
                                            {"no-generation-prompt", no_argument, NULL, 'n'}, {"ids", no_argument, NULL, 'i'},
                                            {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0}};
    bool good = true;
    int c;
    opterr = 0;
    while (good && (c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 't': q->tools = optarg; break;
        case 'c': q->chat.name = optarg; break;
        case 'k': good = !strcmp(optarg, "on") || !strcmp(optarg, "off"), q->chat.thinking = !strcmp(optarg, "on"); break;
        case 'd': q->chat.date = optarg; break;
        case 'f': q->chat.tool_format = optarg; break;
        case 'n': q->no_generation = true; break;
        case 'i': q->ids = true; break;
        case 'h': *help = true; break;
        default: good = false;
        }
    }
    q->dir = optind < argc ? argv[optind] : NULL;
    return *help || (good && optind + 1 == argc);
}

int rlf_cmd_render(int argc, char **argv) {
    request q = {.chat = {.name = "auto"}};
    renderer r = {0};
    bool help = false;
    if (!parse(&q, argc, argv, &help)) return rlf_cli_misuse("render", "expected one MODEL folder and known options");
    if (help) return rlf_cli_help(usage);
    rlf_status status = render(&r, &q);
    clean_up(&r);
    return status == RLF_OK ? 0 : rlf_cli_fail("render");
}
