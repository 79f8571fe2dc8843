/* rlf bench rollout: what waiting for tools costs. Episodes of the real engine and state machine, a model of a named shape with
 * random weights, and a tool whose answers take log-normal time, in one process.
 *
 * Twice the same episodes: asynchronous, as the rollout rank runs them (an answer goes in when it is there), and
 * batch-synchronous, as many trainers do (all episodes generate until each has called a tool, then all answers are waited for).
 * The model's draws are computed and then replaced by a script of letters, a tool call at the end of each turn, an answer in the
 * last: a random model would never call a tool. */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/rng.h"
#include "rollout/episode.h"
#include "trainer/cli/bench_rollout.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

static const char usage[] =
    "rlf bench rollout [--shape bench-42m] [--threads N] [--episodes 64] [--rounds 2] [--tokens 64] [--answer 128] [--median-ms "
    "300] [--p99-ms 3000] [--json]\n"
    "  --rounds     tool rounds of an episode\n"
    "  --tokens     drawn before the call of a turn, on average (the call takes 30 more)\n"
    "  --answer     tokens of a tool's answer\n"
    "  --median-ms, --p99-ms  the tool's latency, log-normal";

enum { PROMPT_LETTERS = 100, LONGEST = 4096, PAGE = 16, CHUNK = 128, BATCH = 64, VOCAB = 256 + 3, END_OF_TURN = 258, MOST_EPISODES = 4096 };

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
    double due; /* seconds */
} answer;

typedef struct bench {
    const char *shape;
    bool json;
    double threads, episodes, rounds, tokens, answer_tokens, median_ms, p99_ms;
    rlf_cli_model model;
    rlf_chat *chat;
    kern_decoder *decoder;
    rollout_engine *engine;
    rollout_episodes *set;
    struct { int drawn, turn; } *progress; /* (episodes) */
    int outputs; /* of the last step */
    answer *answers;
    size_t n_answers, cap_answers;
    char *text;  /* of every answer */
} bench;

typedef struct result {
    double seconds, waiting, tokens;
} result;

static const char call_text[] = "<tool_call>{\"name\":\"t\"}</tool_call>";
static const char answer_text[] = "<answer>x</answer>";

static rlf_status bench_step(void *ctx, const kern_step *step) {
    bench *b = ctx;
    b->outputs = step->outputs;
    return kern_decoder_step(b->decoder, step);
}

static void bench_copy_page(void *ctx, int dst_page, int src_page) { kern_decoder_copy_page(((bench *)ctx)->decoder, dst_page, src_page); }

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

static rlf_status bench_sample(void *ctx, kern_filter filter, uint64_t seed, const kern_sample_key *keys, int32_t *ids, float *logprobs) {
    bench *b = ctx;
    rlf_status status = kern_decoder_sample(b->decoder, filter, seed, keys, ids, logprobs);
    for (int i = 0; i < b->outputs; i++) ids[i] = next_token(b, keys[i].uid);
    return status;
}

static double latency_s(const bench *b, int64_t uid, int64_t turn) {
    double sigma = log(b->p99_ms / b->median_ms) / 2.3263478740408408; /* the 99 % quantile of the standard normal */
    double normal = rlf_rng_normal(1, RLF_RNG_LATENCY, (uint64_t)uid, (uint32_t)turn, 0);
    return b->median_ms * 1e-3 * exp(sigma * normal);
}

static rlf_status port_send(void *ctx, rlf_message_type type, const void *record) {
    bench *b = ctx;
    const rlf_call *call = record;
    const rlf_score *score = record;
    if (type != RLF_MSG_CALL && type != RLF_MSG_SCORE) return RLF_OK;
    b->answers = rlf_grow(b->answers, b->n_answers, &b->cap_answers, sizeof *b->answers);
    b->answers[b->n_answers++] = type == RLF_MSG_SCORE
                                     ? (answer){.score = true, .uid = score->uid}
                                     : (answer){.uid = call->uid, .turn = call->turn, .call = call->call,
                                                .due = rlf_now_s() + latency_s(b, call->uid, call->turn)};
    return RLF_OK;
}

/* The tools of one episode answer one after the other: no order of work makes the phase shorter than the slowest episode's take. */
static double slowest_tools_s(const bench *b) {
    double slowest = 0;
    for (int64_t uid = 0; uid < (int64_t)b->episodes; uid++) {
        double sum = 0;
        for (int64_t turn = 0; turn < (int64_t)b->rounds; turn++) sum += latency_s(b, uid, turn);
        slowest = fmax(slowest, sum);
    }
    return slowest;
}

static rlf_status deliver(bench *b, const answer *a) {
    rlf_reward reward = {.uid = a->uid};
    rlf_observation observation = {.uid = a->uid, .turn = a->turn, .call = a->call, .text = rlf_slice_of(b->text)};
    return a->score ? rollout_episodes_reward(b->set, &reward) : rollout_episodes_observe(b->set, &observation);
}

/* When something can be delivered: when the first answer is due; batch-synchronous: when the last is, and never while an episode
 * can generate. */
static double next_due(const bench *b, bool synchronous) {
    double first = INFINITY, last = 0;
    for (size_t i = 0; i < b->n_answers; i++) {
        first = fmin(first, b->answers[i].due);
        last = fmax(last, b->answers[i].due);
    }
    if (!synchronous || !b->n_answers) return first;
    return rollout_engine_ready(b->engine) ? INFINITY : last;
}

static rlf_status deliver_due(bench *b, bool synchronous) {
    rlf_status status = RLF_OK;
    double now = rlf_now_s();
    if (next_due(b, synchronous) > now) return RLF_OK;
    for (size_t i = b->n_answers; i-- > 0;) {
        answer a = b->answers[i];
        if (a.due > now) continue;
        b->answers[i] = b->answers[--b->n_answers];
        RLF_TRY(deliver(b, &a));
    }
out:
    return status;
}

static rlf_status submit(bench *b) {
    rlf_status status = RLF_OK;
    char question[PROMPT_LETTERS + 1] = {0};
    memset(question, 'q', PROMPT_LETTERS);
    rlf_said message = {.role = rlf_slice_of("user"), .content = rlf_slice_of(question)};
    rlf_limits limits = {.turns = (int64_t)b->rounds, .turn_tokens = LONGEST, .observation_tokens = LONGEST, .tokens = LONGEST};
    rlf_sampling sampling = {.temperature = 1, .top_p = 1};
    for (int64_t uid = 0; uid < (int64_t)b->episodes; uid++) {
        rlf_episode m = {.uid = uid, .samples = 1, .prompt = {&message, 1}, .limits = {&limits, 1}, .sampling = {&sampling, 1}};
        RLF_TRY(rollout_episodes_submit(b->set, &m));
    }
out:
    return status;
}

static rlf_status play(bench *b, bool synchronous, result *out) {
    rlf_status status = RLF_OK;
    double begin = rlf_now_s(), waiting = 0;
    int64_t tokens = rollout_engine_statistics(b->engine)->tokens;
    memset(b->progress, 0, (size_t)b->episodes * sizeof *b->progress);
    RLF_TRY(submit(b));
    while (rollout_episodes_alive(b->set)) {
        RLF_TRY(deliver_due(b, synchronous));
        if (rollout_engine_ready(b->engine)) {
            RLF_TRY(rollout_episodes_step(b->set));
        } else if (rollout_episodes_alive(b->set)) {
            double start = rlf_now_s(), rest = next_due(b, synchronous) - start;
            if (rest > 0) rlf_sleep_us((int64_t)(rest * 1e6) + 1);
            waiting += rlf_now_s() - start;
        }
    }
    *out = (result){rlf_now_s() - begin, waiting, (double)(rollout_engine_statistics(b->engine)->tokens - tokens)};
out:
    return status;
}

/* ---- set up and report ------------------------------------------------------------------------------------------------------------ */

static rlf_status open_model(bench *b) {
    rlf_status status = RLF_OK;
    kern_device_options device = {.name = "cpu", .threads = (int)b->threads};
    rlf_model_shape shape;
    RLF_TRY(rlf_model_shape_named(&shape, b->shape));
    if (shape.vocab < VOCAB) RLF_FAIL(INVALID, "shape %s has a vocabulary of %d: expected at least %d", b->shape, shape.vocab, VOCAB);
    rlf_model_layout_init(&b->model.layout, &shape);
    RLF_TRY(kern_device_open(&b->model.device, &device));
    RLF_TRY(kern_queue_new(&b->model.queue, b->model.device));
    RLF_TRY(rlf_cli_model_random(&b->model.model, b->model.queue, &b->model.layout, RLF_DTYPE_F32, LONGEST));
    RLF_TRY(byte_tokenizer(&b->model.tokenizer));
    RLF_TRY(rlf_chat_new(&b->chat, b->model.tokenizer, "", (rlf_chat_options){.name = "chatml"}));
out:
    return status;
}

static rlf_status open_rollout(bench *b) {
    rlf_status status = RLF_OK;
    int episodes = (int)b->episodes, length = (int)((b->rounds + 1) * (1.5 * b->tokens + 64) + b->rounds * (b->answer_tokens + 64)) + 256;
    if (length > LONGEST) RLF_FAIL(INVALID, "episodes of up to %d tokens: expected at most %d", length, LONGEST);
    rollout_engine_options options = {.batch = BATCH, .prefill_chunk = CHUNK, .page_size = PAGE,
                                      .pages = episodes * (length / PAGE + 2) + LONGEST / PAGE,
                                      .seats = BATCH, .max_tokens = LONGEST};
    rollout_episode_options episode = {.max_prompt_tokens = LONGEST, .max_tokens = LONGEST, .max_calls = 4, .stop_at_answer = true};
    RLF_TRY(rollout_decoder_new(&b->decoder, b->model.model, &options));
    RLF_TRY(rollout_engine_new(&b->engine, (rollout_model){b, bench_step, bench_sample, bench_copy_page}, &options));
    b->set = rollout_episodes_new(b->engine, b->chat, &episode, (rollout_port){b, port_send});
    b->progress = rlf_calloc((size_t)episodes, sizeof *b->progress);
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
    free(b->answers);
    free(b->text);
}

static json_t *describe(const bench *b, const char *label, const result *r) {
    if (!b->json)
        printf("%-18s %7.2f s  waiting %5.1f %%  %7.2f episodes/s  %8.1f tokens/s\n", label, r->seconds, 100 * r->waiting / r->seconds,
               b->episodes / r->seconds, r->tokens / r->seconds);
    return json_pack("{s:f, s:f, s:f, s:f}", "seconds", r->seconds, "waiting_share", r->waiting / r->seconds, "episodes_per_s",
                     b->episodes / r->seconds, "tokens_per_s", r->tokens / r->seconds);
}

static rlf_status run(bench *b) {
    rlf_status status = RLF_OK;
    result asynchronous, synchronous;
    RLF_TRY(open_model(b));
    RLF_TRY(open_rollout(b));
    if (!b->json)
        printf("%s on %s: %d episodes of %d tool rounds, tool latency median %.0f ms, 99 %% %.0f ms, %.2f s in all for the slowest\n",
               b->shape, kern_device_name(b->model.device), (int)b->episodes, (int)b->rounds, b->median_ms, b->p99_ms, slowest_tools_s(b));
    RLF_TRY(play(b, false, &asynchronous));
    RLF_TRY(play(b, true, &synchronous));
    json_t *report = json_pack("{s:s, s:s, s:i, s:f, s:f}", "shape", b->shape, "device", kern_device_name(b->model.device),
                               "episodes", (int)b->episodes, "median_ms", b->median_ms, "p99_ms", b->p99_ms);
    json_object_set_new(report, "slowest_tools_s", json_real(slowest_tools_s(b)));
    json_object_set_new(report, "asynchronous", describe(b, "asynchronous", &asynchronous));
    json_object_set_new(report, "batch_synchronous", describe(b, "batch-synchronous", &synchronous));
    json_object_set_new(report, "ratio", json_real(synchronous.seconds / asynchronous.seconds));
    if (b->json) {
        json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        printf("\n");
    } else {
        printf("%-18s %7.2f x\n", "ratio", synchronous.seconds / asynchronous.seconds);
    }
    json_decref(report);
out:
    return status;
}

static bool parse(bench *b, int argc, char **argv, bool *help) {
    static const struct option options[] = {{"shape", required_argument, NULL, 's'},     {"threads", required_argument, NULL, 't'},
                                            {"episodes", required_argument, NULL, 'e'},  {"rounds", required_argument, NULL, 'r'},
                                            {"tokens", required_argument, NULL, 'n'},    {"answer", required_argument, NULL, 'a'},
                                            {"median-ms", required_argument, NULL, 'm'}, {"p99-ms", required_argument, NULL, 'p'},
                                            {"json", no_argument, NULL, 'j'},            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    bool good = true;
    int c;
    opterr = 0;
    while (good && (c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 's': b->shape = optarg; break;
        case 't': good = rlf_cli_number(optarg, 0, 256, &b->threads); break;
        case 'e': good = rlf_cli_number(optarg, 1, MOST_EPISODES, &b->episodes); break;
        case 'r': good = rlf_cli_number(optarg, 0, 16, &b->rounds); break;
        case 'n': good = rlf_cli_number(optarg, 1, LONGEST, &b->tokens); break;
        case 'a': good = rlf_cli_number(optarg, 1, LONGEST, &b->answer_tokens); break;
        case 'm': good = rlf_cli_number(optarg, 1e-3, 1e5, &b->median_ms); break;
        case 'p': good = rlf_cli_number(optarg, 1e-3, 1e6, &b->p99_ms); break;
        case 'j': b->json = true; break;
        case 'h': *help = true; break;
        default: good = false;
        }
    }
    return *help || (good && optind == argc && b->p99_ms >= b->median_ms);
}

int rlf_bench_rollout(int argc, char **argv) {
    bench b = {.shape = "bench-42m", .episodes = 64, .rounds = 2, .tokens = 64, .answer_tokens = 128, .median_ms = 300, .p99_ms = 3000};
    bool help = false;
    if (!parse(&b, argc, argv, &help))
        return rlf_cli_misuse("bench", "rollout: expected options within their ranges, --p99-ms not below --median-ms");
    if (help) return rlf_cli_help(usage);
    rlf_status status = run(&b);
    clean_up(&b);
    return status == RLF_OK ? 0 : rlf_cli_fail("bench");
}
