/* rlf bench rollout: what waiting for tools costs. Episodes of the real engine and state machine, a model of a named shape with
 * random weights, and a tool whose answers take log-normal time, in one process.
 *
 * The same episodes four ways:
 *   asynchronous       as the rollout rank runs them, on a card but for steps ahead: all are there at once, a call goes out when its turn
 *                      ends, an answer goes in when it is there; the cache has room for one batch at its longest
 *   batch-synchronous  as many trainers do: one batch after the other; all of its episodes generate until each has called, then all calls
 *                      go out together and all answers are waited for
 *   generation alone   asynchronous, with tools that answer at once
 *   slowest episode    that with the slowest tools, alone: its own generation and its own tools, one after the other
 * No order of work ends before the last two: the longer of them is the bound.
 * What there is to win: let a batch generate for G seconds, W be the sum over the rounds of each round's slowest call, L the tools of the
 * slowest episode. Batch-synchronous takes G + W, asynchronous max(G, L) at least. With 256 episodes, 3 rounds and a latency of median
 * 0.2 s, 99 % 5 s, W is 32 s and L 16 s (medians over draws). One batch is then 2.9 times as fast at best, at G = L, in the median draw,
 * and a slow call in a last round still comes after G. In a stream of batches the engine is busy meanwhile, and only its end waits. In that
 * proportion, about 9 s a batch, of which 47 us are a row's:
 *   rlf bench rollout --shape quickstart --tokens 24 --answer 48 --episodes 256 --batches 16 --rounds 3 --median-ms 200 --p99-ms 5000
 *   --step-us 300 --row-us 47
 * Seeds 1 to 5 gave 4.3 to 5.1 times, 3 to 15 % over generation alone; one batch (seeds 1 to 20) 1.5 to 2.4 times, 1 to 45 % over its
 * bound.
 *
 * The model's draws are computed and then replaced by a script of letters, a tool call at the end of each turn, an answer in the
 * last: a random model would never call a tool. Generation takes the time it takes, or what --step-us and --row-us say, when nothing is
 * computed and the figures are the same everywhere; a wait is not slept through but put on the clock, so a run takes no longer than its
 * generation. */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/rng.h"
#include "rollout/episode.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

static const char usage[] =
    "rlf bench rollout [--shape bench-42m] [--device auto|cpu|cuda] [--threads N] [--episodes 64] [--batches 1] [--rounds 2] [--tokens 64]\n"
    "                  [--answer 128] [--median-ms 300] [--p99-ms 3000] [--seed 1] [--cpu-time | --step-us N --row-us N] [--json]\n"
    "  --episodes   of a batch\n"
    "  --batches    in all; the asynchronous way has the episodes of all batches at once, the batch-synchronous one batch after batch\n"
    "  --rounds     tool rounds of an episode\n"
    "  --tokens     drawn before the call of a turn, on average (the call takes 30 more)\n"
    "  --answer     tokens of a tool's answer\n"
    "  --median-ms, --p99-ms  the tool's latency, log-normal; --seed draws it\n"
    "  --cpu-time  generation takes the processor time of its one thread, on the CPU, whatever else the machine does\n"
    "  --step-us, --row-us  generation is not computed, but takes this long for a step and for each of its rows";

enum { PROMPT_LETTERS = 100, LONGEST = 4096, PAGE = 16, CHUNK = 128, BATCH = 64, VOCAB = 256 + 3, END_OF_TURN = 258, MOST_EPISODES = 4096,
       MOST_BATCHES = 64 };

/* How a set of episodes is run. */
typedef enum way { ASYNCHRONOUS, SYNCHRONOUS, NO_LATENCY } way;

/* ---- a tokenizer of bytes --------------------------------------------------------------------------------------------------------- */

/* The byte alphabet of GPT-2: printable bytes stand for themselves, the others for letters from U+0100 on. */
static int letter_of(int byte, int *next) {
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return printable ? byte : (*next)++;
}

static rlf_status byte_tokenizer(rlf_tokenizer **out) {
    static const char *const added[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    rlf_str json = {0};
    int next = 256;
    rlf_str_puts(&json, "{\"added_tokens\":[");
    for (int i = 0; i < 3; i++)
        rlf_str_printf(&json, "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                       "\"normalized\":false,\"special\":true}",
                       i ? "," : "", 256 + i, added[i]);
    rlf_str_puts(&json, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
                        "\"use_regex\":false},"
                        "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int b = 0; b < 256; b++) rlf_str_printf(&json, "%s\"\\u%04x\":%d", b ? "," : "", (unsigned)letter_of(b, &next), b);
    rlf_str_puts(&json, "},\"merges\":[]}}");
    rlf_status status = rlf_tokenizer_parse(out, json.ptr, json.len, "byte tokenizer");
    rlf_str_clean_up(&json);
    return status;
}

/* ---- the run ---------------------------------------------------------------------------------------------------------------------- */

typedef struct answer {
    bool score;
    int64_t uid, turn, call;
    double due; /* seconds; INFINITY: the call has not gone out */
} answer;

typedef struct bench {
    const char *shape, *device;
    bool json, cpu_time;
    double threads, episodes, batches, rounds, tokens, answer_tokens, median_ms, p99_ms, seed, step_us, row_us;
    way way;
    double skipped;   /* seconds of waiting that were put on the clock */
    double pretended; /* seconds of steps that were not computed */
    rlf_cli_model model;
    rlf_chat *chat;
    kern_decoder *decoder;
    rollout_engine *engine;
    rollout_episodes *set;
    struct { int drawn, turn; } *progress; /* (batches * episodes) */
    int outputs;    /* of the last step */
    int32_t *drawn; /* (BATCH) for it */
    answer *answers;
    size_t n_answers, cap_answers;
    char *text;  /* of every answer */
} bench;

typedef struct result {
    double seconds, waiting, tokens, rows;
} result;

static const char call_text[] = "<tool_call>{\"name\":\"t\"}</tool_call>";
static const char answer_text[] = "<answer>x</answer>";

static bool pretends(const bench *b) { return b->step_us > 0 || b->row_us > 0; }

static rlf_status bench_step(void *ctx, const kern_step *step) {
    bench *b = ctx;
    b->outputs = step->outputs;
    if (!pretends(b)) return kern_decoder_step(b->decoder, step);
    b->pretended += 1e-6 * (b->step_us + b->row_us * step->rows);
    return RLF_OK;
}

static void bench_copy_page(void *ctx, int dst_page, int src_page) {
    const bench *b = ctx;
    if (!pretends(b)) kern_decoder_copy_page(b->decoder, dst_page, src_page);
}

/* Letters, from half to one and a half times as many as asked for, then the text that ends the turn. */
static int32_t next_token(bench *b, uint64_t uid) {
    int turn = b->progress[uid].turn, drawn = b->progress[uid].drawn++;
    int letters = (int)(b->tokens * (0.5 + (double)rlf_rng_uniform(1, RLF_RNG_TEST, uid, (uint32_t)turn, 0)));
    const char *end = turn < (int)b->rounds ? call_text : answer_text;
    if (drawn < letters) return 'a' + drawn % 26;
    if (end[drawn - letters]) return end[drawn - letters];
    b->progress[uid].turn++;
    b->progress[uid].drawn = 0;
    return END_OF_TURN;
}

static void bench_draw(void *ctx, kern_filter filter, uint64_t seed, const kern_sample_key *keys) {
    bench *b = ctx;
    if (!pretends(b)) kern_decoder_draw(b->decoder, filter, seed, keys);
    for (int i = 0; i < b->outputs; i++) b->drawn[i] = next_token(b, keys[i].uid);
}

static rlf_status bench_collect(void *ctx, int32_t *ids, float *logprobs) {
    bench *b = ctx;
    rlf_status status = pretends(b) ? RLF_OK : kern_decoder_collect(b->decoder, ids, logprobs);
    memcpy(ids, b->drawn, (size_t)b->outputs * sizeof *ids);
    if (pretends(b)) memset(logprobs, 0, (size_t)b->outputs * sizeof *logprobs);
    return status;
}

static double spent_s(const bench *b) { return pretends(b) ? b->pretended : rlf_bench_clock(b->cpu_time); }

static double clock_s(const bench *b) { return spent_s(b) + b->skipped; }
static int64_t all_episodes(const bench *b) { return (int64_t)(b->batches * b->episodes); }

static double latency_s(const bench *b, int64_t uid, int64_t turn) {
    double sigma = log(b->p99_ms / b->median_ms) / 2.3263478740408408; /* the 99 % quantile of the standard normal */
    double normal = rlf_rng_normal((uint64_t)b->seed, RLF_RNG_LATENCY, (uint64_t)uid, (uint32_t)turn, 0);
    return b->median_ms * 1e-3 * exp(sigma * normal);
}

static double tools_s(const bench *b, int64_t uid) {
    double sum = 0;
    for (int64_t turn = 0; turn < (int64_t)b->rounds; turn++) sum += latency_s(b, uid, turn);
    return sum;
}

static int64_t slowest_episode(const bench *b) {
    int64_t slowest = 0;
    for (int64_t uid = 1; uid < all_episodes(b); uid++)
        if (tools_s(b, uid) > tools_s(b, slowest)) slowest = uid;
    return slowest;
}

static void send_call(const bench *b, answer *a) { a->due = clock_s(b) + (b->way == NO_LATENCY ? 0 : latency_s(b, a->uid, a->turn)); }

static rlf_status port_send(void *ctx, rlf_message_type type, const void *record) {
    bench *b = ctx;
    const rlf_call *call = record;
    const rlf_score *score = record;
    if (type != RLF_MSG_CALL && type != RLF_MSG_SCORE) return RLF_OK;
    answer a = type == RLF_MSG_SCORE ? (answer){.score = true, .uid = score->uid}
                                     : (answer){.uid = call->uid, .turn = call->turn, .call = call->call, .due = INFINITY};
    if (!a.score && b->way != SYNCHRONOUS) send_call(b, &a);
    b->answers = rlf_grow(b->answers, b->n_answers, &b->cap_answers, sizeof *b->answers);
    b->answers[b->n_answers++] = a;
    return RLF_OK;
}

static rlf_status deliver(bench *b, const answer *a) {
    rlf_reward reward = {.uid = a->uid};
    rlf_observation observation = {.uid = a->uid, .turn = a->turn, .call = a->call, .text = rlf_slice_of(b->text)};
    return a->score ? rollout_episodes_reward(b->set, &reward) : rollout_episodes_observe(b->set, &observation);
}

/* Nothing can generate, so the round is over: its calls go out. */
static void end_round(bench *b) {
    for (size_t i = 0; i < b->n_answers; i++)
        if (isinf(b->answers[i].due)) send_call(b, &b->answers[i]);
}

/* When something can be delivered: when the first answer is due, or, batch-synchronous, when the last one is. */
static double next_due(const bench *b) {
    double first = INFINITY, last = 0;
    for (size_t i = 0; i < b->n_answers; i++) {
        first = fmin(first, b->answers[i].due);
        last = fmax(last, b->answers[i].due);
    }
    return b->way == SYNCHRONOUS && b->n_answers ? last : first;
}

static rlf_status deliver_due(bench *b) {
    rlf_status status = RLF_OK;
    double now = clock_s(b);
    if (next_due(b) > now) return RLF_OK;
    for (size_t i = b->n_answers; i-- > 0;) {
        answer a = b->answers[i];
        if (a.due > now) continue;
        b->answers[i] = b->answers[--b->n_answers];
        RLF_TRY(deliver(b, &a));
    }
out:
    return status;
}

/* Tokens of an episode, at most. */
static int longest(const bench *b) {
    return (int)((b->rounds + 1) * (1.5 * b->tokens + 64) + b->rounds * (b->answer_tokens + 64)) + 256;
}

/* The episodes first .. first+n-1. */
static rlf_status submit(bench *b, int64_t first, int64_t n) {
    rlf_status status = RLF_OK;
    char question[PROMPT_LETTERS + 1] = {0};
    memset(question, 'q', PROMPT_LETTERS);
    rlf_said message = {.role = rlf_slice_of("user"), .content = rlf_slice_of(question)};
    rlf_limits limits = {.turns = (int64_t)b->rounds, .turn_tokens = LONGEST, .observation_tokens = LONGEST, .tokens = longest(b)};
    rlf_sampling sampling = {.temperature = 1, .top_p = 1};
    for (int64_t uid = first; uid < first + n; uid++) {
        rlf_episode m = {.uid = uid, .samples = 1, .prompt = {&message, 1}, .limits = {&limits, 1}, .sampling = {&sampling, 1}};
        b->progress[uid].drawn = b->progress[uid].turn = 0;
        RLF_TRY(rollout_episodes_submit(b->set, &m));
    }
out:
    return status;
}

static rlf_status play(bench *b, int64_t first, int64_t n) {
    rlf_status status = RLF_OK;
    RLF_TRY(submit(b, first, n));
    while (rollout_episodes_alive(b->set)) {
        RLF_TRY(deliver_due(b));
        if (rollout_engine_ready(b->engine)) {
            RLF_TRY(rollout_episodes_step(b->set));
        } else if (rollout_episodes_alive(b->set)) {
            end_round(b);
            b->skipped += fmax(0, next_due(b) - clock_s(b));
        }
    }
out:
    return status;
}

/* `batches` times n episodes from `first` on; only batch-synchronous one batch after the other. */
static rlf_status measure(bench *b, way how, int64_t first, int64_t n, int64_t batches, result *out) {
    rlf_status status = RLF_OK;
    rollout_engine_stats before = *rollout_engine_statistics(b->engine);
    double begin = spent_s(b);
    b->way = how;
    b->skipped = 0;
    if (how != SYNCHRONOUS) RLF_TRY(play(b, first, n * batches));
    for (int64_t i = 0; how == SYNCHRONOUS && i < batches; i++) RLF_TRY(play(b, first + i * n, n));
    const rollout_engine_stats *after = rollout_engine_statistics(b->engine);
    *out = (result){clock_s(b) - begin, b->skipped, (double)(after->tokens - before.tokens), (double)(after->rows - before.rows)};
out:
    return status;
}

/* ---- set up and report ------------------------------------------------------------------------------------------------------------ */

static rlf_status open_model(bench *b) {
    rlf_status status = RLF_OK;
    kern_device_options device = {.name = b->cpu_time ? "cpu" : b->device, .threads = (int)b->threads};
    rlf_model_shape shape;
    RLF_TRY(rlf_model_shape_named(&shape, b->shape));
    if (shape.vocab < VOCAB) RLF_FAIL(INVALID, "shape %s has a vocabulary of %d: expected at least %d", b->shape, shape.vocab, VOCAB);
    rlf_model_layout_init(&b->model.layout, &shape);
    RLF_TRY(rlf_cli_device_open(&b->model.device, &device));
    RLF_TRY(kern_queue_new(&b->model.queue, b->model.device));
    RLF_TRY(kern_model_new(&b->model.model, b->model.queue, &b->model.layout, (kern_precision){RLF_DTYPE_F32, RLF_DTYPE_F32}, LONGEST));
    RLF_TRY(kern_model_random(b->model.model, 1, 0.02));
    RLF_TRY(byte_tokenizer(&b->model.tokenizer));
    RLF_TRY(rlf_chat_new(&b->chat, b->model.tokenizer, "", (rlf_chat_options){.name = "chatml"}));
out:
    return status;
}

static rlf_status open_rollout(bench *b) {
    rlf_status status = RLF_OK;
    int episodes = (int)b->episodes, length = longest(b);
    if (length > LONGEST) RLF_FAIL(INVALID, "episodes of up to %d tokens: expected at most %d", length, LONGEST);
    rollout_engine_options options = {.batch = BATCH, .prefill_chunk = CHUNK, .page_size = PAGE,
                                      .pages = (episodes + 1) * (length / PAGE + 2),
                                      .seats = BATCH, .max_tokens = length};
    rollout_episode_options episode = {.max_prompt_tokens = length, .max_tokens = length, .max_calls = 4, .stop_at_answer = true};
    RLF_TRY(rollout_decoder_new(&b->decoder, b->model.model, &options));
    RLF_TRY(rollout_engine_new(&b->engine, (rollout_model){b, bench_step, bench_draw, bench_collect, bench_copy_page, false}, &options));
    b->set = rollout_episodes_new(b->engine, b->chat, &episode, (rollout_port){b, port_send});
    b->drawn = rlf_calloc(BATCH, sizeof *b->drawn);
    b->progress = rlf_calloc((size_t)all_episodes(b), sizeof *b->progress);
    b->text = rlf_calloc((size_t)b->answer_tokens + 1, 1);
    memset(b->text, 'o', (size_t)b->answer_tokens);
out:
    return status;
}

static void clean_up(bench *b) {
    rollout_episodes_destroy(b->set);
    rollout_engine_destroy(b->engine);
    kern_decoder_destroy(b->decoder);
    rlf_chat_destroy(b->chat);
    rlf_cli_model_clean_up(&b->model);
    free(b->progress);
    free(b->drawn);
    free(b->answers);
    free(b->text);
}

static json_t *describe(const bench *b, const char *label, const result *r) {
    if (!b->json)
        printf("%-18s %7.2f s  waiting %5.1f %%  %7.2f episodes/s  %8.1f tokens/s\n", label, r->seconds, 100 * r->waiting / r->seconds,
               (double)all_episodes(b) / r->seconds, r->tokens / r->seconds);
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "seconds", r->seconds, "waiting_share", r->waiting / r->seconds, "episodes_per_s",
                     (double)all_episodes(b) / r->seconds, "tokens_per_s", r->tokens / r->seconds, "rows", r->rows);
}

/* The chain: what the slowest episode takes alone. */
static void report_bounds(const bench *b, json_t *report, double seconds, double generation, double alone, double ratio) {
    double tools = tools_s(b, slowest_episode(b)), chain = tools + alone, bound = fmax(generation, chain);
    json_object_set_new(report, "slowest_tools_s", json_real(tools));
    json_object_set_new(report, "slowest_episode_s", json_real(chain));
    json_object_set_new(report, "bound_s", json_real(bound));
    json_object_set_new(report, "over_bound_share", json_real(seconds / bound - 1));
    json_object_set_new(report, "over_generation_share", json_real(seconds / generation - 1));
    json_object_set_new(report, "ratio", json_real(ratio));
    if (b->json) return;
    printf("%-18s %7.2f s, of which its tools %.2f s\n", "slowest episode", chain, tools);
    printf("asynchronous against batch-synchronous: %.2f times as fast; over generation alone %.1f %%, over the bound of %.2f s %.1f %%\n",
           ratio, 100 * (seconds / generation - 1), bound, 100 * (seconds / bound - 1));
}

static rlf_status run(bench *b) {
    rlf_status status = RLF_OK;
    result asynchronous, synchronous, generation, alone;
    int64_t n = (int64_t)b->episodes, batches = (int64_t)b->batches;
    RLF_TRY(open_model(b));
    RLF_TRY(open_rollout(b));
    if (!b->json)
        printf("%s on %s: %d x %d episodes of %d tool rounds, tool latency median %.0f ms, 99 %% %.0f ms\n", b->shape,
               kern_device_name(b->model.device), (int)batches, (int)n, (int)b->rounds, b->median_ms, b->p99_ms);
    RLF_TRY(measure(b, ASYNCHRONOUS, 0, n, batches, &asynchronous));
    RLF_TRY(measure(b, SYNCHRONOUS, 0, n, batches, &synchronous));
    RLF_TRY(measure(b, NO_LATENCY, 0, n, batches, &generation));
    RLF_TRY(measure(b, NO_LATENCY, slowest_episode(b), 1, 1, &alone));
    json_t *report = json_pack("{s:s, s:s, s:i, s:i, s:f, s:f}", "shape", b->shape, "device", kern_device_name(b->model.device),
                               "episodes", (int)n, "batches", (int)batches, "median_ms", b->median_ms, "p99_ms", b->p99_ms);
    json_object_set_new(report, "asynchronous", describe(b, "asynchronous", &asynchronous));
    json_object_set_new(report, "batch_synchronous", describe(b, "batch-synchronous", &synchronous));
    json_object_set_new(report, "generation_alone", describe(b, "generation alone", &generation));
    report_bounds(b, report, asynchronous.seconds, generation.seconds, alone.seconds, synchronous.seconds / asynchronous.seconds);
    if (b->json) rlf_bench_dump(report);
    json_decref(report);
out:
    return status;
}

static bool parse(bench *b, int argc, char **argv, bool *help) {
    static const struct option options[] = {{"shape", required_argument, NULL, 's'},     {"threads", required_argument, NULL, 't'},
                                            {"episodes", required_argument, NULL, 'e'},  {"batches", required_argument, NULL, 'b'},
                                            {"rounds", required_argument, NULL, 'r'},    {"seed", required_argument, NULL, 'S'},
                                            {"tokens", required_argument, NULL, 'n'},    {"answer", required_argument, NULL, 'a'},
                                            {"median-ms", required_argument, NULL, 'm'}, {"p99-ms", required_argument, NULL, 'p'},
                                            {"cpu-time", no_argument, NULL, 'c'},        {"step-us", required_argument, NULL, 'u'},
                                            {"row-us", required_argument, NULL, 'R'},    {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},            {"device", required_argument, NULL, 'd'},
                                            {NULL, 0, NULL, 0}};
    bool good = true;
    int c;
    opterr = 0;
    while (good && (c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 's': b->shape = optarg; break;
        case 't': good = rlf_cli_number(optarg, 0, 256, &b->threads); break;
        case 'e': good = rlf_cli_number(optarg, 1, MOST_EPISODES, &b->episodes); break;
        case 'b': good = rlf_cli_number(optarg, 1, MOST_BATCHES, &b->batches); break;
        case 'S': good = rlf_cli_number(optarg, 0, 1e9, &b->seed); break;
        case 'r': good = rlf_cli_number(optarg, 0, 16, &b->rounds); break;
        case 'n': good = rlf_cli_number(optarg, 1, LONGEST, &b->tokens); break;
        case 'a': good = rlf_cli_number(optarg, 1, LONGEST, &b->answer_tokens); break;
        case 'm': good = rlf_cli_number(optarg, 1e-3, 1e5, &b->median_ms); break;
        case 'p': good = rlf_cli_number(optarg, 1e-3, 1e6, &b->p99_ms); break;
        case 'd': good = rlf_cli_device_parse(optarg, &b->device); break;
        case 'c': b->cpu_time = true; break;
        case 'u': good = rlf_cli_number(optarg, 0, 1e9, &b->step_us); break;
        case 'R': good = rlf_cli_number(optarg, 0, 1e9, &b->row_us); break;
        case 'j': b->json = true; break;
        case 'h': *help = true; break;
        default: good = false;
        }
    }
    return *help || (good && optind == argc && b->p99_ms >= b->median_ms && (!b->cpu_time || (b->threads == 1 && !pretends(b))));
}

int rlf_bench_rollout(int argc, char **argv) {
    bench b = {.shape = "bench-42m", .device = "auto", .episodes = 64, .batches = 1, .rounds = 2, .tokens = 64, .answer_tokens = 128,
               .median_ms = 300, .p99_ms = 3000, .seed = 1};
    bool help = false;
    if (!parse(&b, argc, argv, &help))
        return rlf_cli_misuse("bench", "rollout: expected options within their ranges, --p99-ms not below --median-ms, --cpu-time with "
                                       "--threads 1 and without --step-us and --row-us");
    if (help) return rlf_cli_help(usage);
    rlf_status status = run(&b);
    clean_up(&b);
    return status == RLF_OK ? 0 : rlf_cli_fail("bench");
}
