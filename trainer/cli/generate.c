/* rlf generate: continues prompts, token by token as they are drawn, through the rollout engine: the same draws as in training
 * for the same seed. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/config.h"
#include "common/text/chat.h"
#include "rollout/engine.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

static const char usage[] =
    "rlf generate MODEL [--prompt TEXT] [options] [< lines]\n\n"
    "Prints the model's answer to the prompt, or to each line of standard input, as it is drawn.\n"
    "  --chat         the prompt is a user's message in the model's chat template (default)\n"
    "  --template     auto (the checkpoint's own), chatml, llama3.1, llama3.2, qwen2.5, qwen2.5-base, qwen3,\n"
    "                 qwen3-instruct, qwen3-instruct-plain or qwen3-thinking\n"
    "  --raw          the prompt is continued as it stands, up to an eos_token_id of the checkpoint\n"
    "  --max-tokens   tokens drawn at most (256)\n"
    "  --temperature  0: always the most probable token; else at least 1e-6 (1)\n"
    "  --top-p        smallest set of tokens with this probability (1: all)\n"
    "  --top-k        most probable tokens (0: all)\n"
    "  --seed         of the draws (0)\n"
    "  --dtype        how weights are stored in memory: float32 or bfloat16 (as in the files, so that nothing is lost)\n"
    "  --compute-dtype  what is multiplied: float32 or bfloat16 (as weights are stored: a run's own arithmetic)\n"
    "  --device       what computes: auto (a CUDA card where there is one), cpu or cuda\n"
    "  --threads      0: one per core";

enum { CHUNK = 256, PAGE = 16, MOST_TOKENS = 1 << 24 };

typedef struct request {
    const char *dir, *prompt, *template, *device;
    bool raw;
    kern_precision precision;
    double max_tokens, temperature, top_p, top_k, seed, threads;
} request;

typedef struct generator {
    rlf_cli_model model;
    rlf_chat *chat; /* NULL: raw */
    rlf_ids stops;  /* where there is no chat to tell them */
    kern_decoder *decoder;
    rollout_engine *engine;
    rollout_seq *seq; /* the answer under way, or NULL */
    rlf_text_stream text;
    size_t left; /* tokens that may still be drawn */
} generator;

/* ---- one answer ------------------------------------------------------------------------------------------------------------------- */

/* The text that this token completes; id -1: what is left at the end. */
static void print_token(generator *g, int32_t id) {
    rlf_str text = {0};
    if (id >= 0) rlf_text_stream_push(&g->text, id, &text);
    else rlf_text_stream_end(&g->text, &text);
    if (text.len) fwrite(text.ptr, 1, text.len, stdout);
    fflush(stdout);
    rlf_str_clean_up(&text);
}

static bool is_stop(const generator *g, int32_t id) {
    if (g->chat) return rlf_chat_is_stop(g->chat, id);
    for (size_t i = 0; i < g->stops.n; i++)
        if (g->stops.v[i] == id) return true;
    return false;
}

static rlf_status on_token(void *owner, rollout_seq *seq, int32_t id, float logprob) {
    generator *g = owner;
    bool stop = is_stop(g, id);
    if (!isfinite(logprob)) return RLF_RAISE(INVALID, "a token has log-prob %g: the model's numbers overflow", (double)logprob);
    if (!stop) print_token(g, id);
    if (!stop && --g->left > 0) return RLF_OK;
    rollout_seq_close(seq);
    g->seq = NULL;
    return RLF_OK;
}

static rlf_status answer(generator *g, const request *r, const rlf_ids *prompt, uint64_t number) {
    rlf_status status = RLF_OK;
    rollout_draw draw = {.uid = number, .seed = (uint64_t)r->seed,
                         .filter = {.temperature = (float)r->temperature, .top_p = (float)r->top_p, .top_k = (int)r->top_k}};
    if (!prompt->n) RLF_FAIL(INVALID, "prompt %llu is empty", (unsigned long long)number + 1);
    g->left = (size_t)r->max_tokens;
    g->text = (rlf_text_stream){.tokenizer = g->model.tokenizer, .skip_special = true};
    rollout_prompt *shared = rollout_prompt_new(g->engine, prompt->v, prompt->n);
    g->seq = rollout_seq_open(g->engine, shared, draw, on_token, g);
    rollout_prompt_release(shared);
    while (rollout_engine_ready(g->engine)) RLF_TRY(rollout_engine_step(g->engine));
    print_token(g, -1);
    putchar('\n');
out:
    return status;
}

/* ---- set up ----------------------------------------------------------------------------------------------------------------------- */

static rlf_status encode(void *ctx, const char *text, size_t n, rlf_ids *ids) {
    const generator *g = ctx;
    rlf_chat_message message = {.role = "user", .content = text};
    if (g->chat && memchr(text, '\0', n)) return RLF_RAISE(INVALID, "a message holds a NUL");
    if (g->chat) return rlf_chat_prompt(g->chat, &message, 1, NULL, ids);
    rlf_tokenizer_encode(g->model.tokenizer, text, n, true, ids);
    return RLF_OK;
}

static rlf_status make_engine(generator *g, size_t length) {
    rlf_status status = RLF_OK;
    rollout_engine_options options = {.batch = CHUNK, .prefill_chunk = CHUNK, .page_size = PAGE,
                                      .pages = (int)(length / PAGE) + 2, .seats = 1, .max_tokens = (int)length};
    RLF_TRY(rollout_decoder_new(&g->decoder, g->model.model, &options));
    RLF_TRY(rollout_engine_new(&g->engine, rollout_model_of(g->decoder), &options));
out:
    return status;
}

static rlf_status generate(generator *g, const request *r) {
    rlf_status status = RLF_OK;
    rlf_cli_texts texts = {0};
    RLF_TRY(rlf_cli_model_open(&g->model, r->dir, &(kern_device_options){.name = r->device, .threads = (int)r->threads}));
    rlf_chat_options options = {.name = r->template};
    if (r->raw) RLF_TRY(rlf_cli_stops(r->dir, g->model.tokenizer, &g->stops));
    else RLF_TRY(rlf_chat_new(&g->chat, g->model.tokenizer, r->dir, options));
    RLF_TRY(rlf_cli_texts_read(&texts, r->prompt, encode, g));
    size_t length = texts.longest + (size_t)r->max_tokens;
    if (length > (size_t)g->model.layout.shape.max_positions)
        RLF_FAIL(LIMIT, "a prompt of %zu tokens and --max-tokens %.0f: the model in %s has %d positions", texts.longest, r->max_tokens, r->dir,
                 g->model.layout.shape.max_positions);
    RLF_TRY(rlf_cli_model_read(&g->model, r->dir, r->precision, length));
    RLF_TRY(make_engine(g, length));
    for (size_t i = 0; i < texts.n; i++) RLF_TRY(answer(g, r, &texts.ids[i], i));
out:
    rlf_cli_texts_clean_up(&texts);
    return status;
}

static void clean_up(generator *g) {
    if (g->seq) rollout_seq_close(g->seq);
    rollout_engine_destroy(g->engine);
    kern_decoder_destroy(g->decoder);
    rlf_chat_destroy(g->chat);
    rlf_ids_clean_up(&g->stops);
    rlf_cli_model_clean_up(&g->model);
}

static bool parse(request *r, int argc, char **argv, bool *help) {
    static const struct option options[] = {{"prompt", required_argument, NULL, 'p'},      {"raw", no_argument, NULL, 'r'},
                                            {"chat", no_argument, NULL, 'c'},              {"max-tokens", required_argument, NULL, 'n'},
                                            {"template", required_argument, NULL, 'm'},
                                            {"temperature", required_argument, NULL, 't'}, {"top-p", required_argument, NULL, 'P'},
                                            {"top-k", required_argument, NULL, 'k'},       {"seed", required_argument, NULL, 's'},
                                            {"threads", required_argument, NULL, 'T'},     {"help", no_argument, NULL, 'h'},
                                            {"dtype", required_argument, NULL, 'd'},       {"compute-dtype", required_argument, NULL, 'C'},
                                                  {"device", required_argument, NULL, 'D'},
                                            {NULL, 0, NULL, 0}};
    bool good = true;
    int c;
    opterr = 0;
    while (good && (c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 'p': r->prompt = optarg; break;
        case 'm': r->template = optarg; break;
        case 'r': r->raw = true; break;
        case 'c': r->raw = false; break;
        case 'n': good = rlf_cli_number(optarg, 1, MOST_TOKENS, &r->max_tokens); break;
        case 't': good = rlf_cli_number(optarg, 0, 100, &r->temperature) && (r->temperature == 0 || r->temperature >= RLF_LEAST_TEMPERATURE); break;
        case 'P': good = rlf_cli_number(optarg, 1e-6, 1, &r->top_p); break;
        case 'k': good = rlf_cli_number(optarg, 0, MOST_TOKENS, &r->top_k); break;
        case 's': good = rlf_cli_number(optarg, 0, 9e15, &r->seed); break;
        case 'd': good = rlf_dtype_parse(optarg, &r->precision.stored); break;
        case 'C': good = rlf_dtype_parse(optarg, &r->precision.factors); break;
        case 'D': good = rlf_cli_device_parse(optarg, &r->device); break;
        case 'T': good = rlf_cli_number(optarg, 0, 256, &r->threads); break;
        case 'h': *help = true; break;
        default: good = false;
        }
    }
    r->dir = optind < argc ? argv[optind] : NULL;
    return *help || (good && optind + 1 == argc);
}

int rlf_cmd_generate(int argc, char **argv) {
    request r = {.template = "auto", .device = "auto", .precision = {RLF_DTYPE_OTHER, RLF_DTYPE_OTHER}, .max_tokens = 256, .temperature = 1, .top_p = 1};
    generator g = {0};
    bool help = false;
    if (!parse(&r, argc, argv, &help)) return rlf_cli_misuse("generate", "expected one MODEL folder and options within their ranges");
    if (help) return rlf_cli_help(usage);
    rlf_status status = generate(&g, &r);
    clean_up(&g);
    return status == RLF_OK ? 0 : rlf_cli_fail("generate");
}
