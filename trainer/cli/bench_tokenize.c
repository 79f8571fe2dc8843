/* rlf bench tokenize: how long a tokenizer.json takes to load, and how fast a text is encoded and decoded, on one thread.
 *
 * The text is cut at line ends into documents of at least --document bytes (0: one document), each encoded by itself, as a data set would
 * be. tests/bench/tokenizers_encode.py does the same with the `tokenizers` library. Best of several runs, as other work on a machine only
 * ever makes one slower; the worst load is given as well. */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/text/tokenizer.h"
#include "trainer/cli/bench.h"
#include "trainer/cli/cli.h"

enum { MAX_TEXT = 1 << 30 };

static const char usage[] =
    "rlf bench tokenize MODEL TEXT [options]\n\n"
    "Times loading MODEL/tokenizer.json, and encoding and decoding the file TEXT, on one thread.\n"
    "  --document  the text is cut at line ends into documents of at least so many bytes (4096; 0: one document)\n"
    "  --seconds   how long each measurement is repeated (2)\n"
    "  --cpu-time  CPU seconds of the process, not the clock's: for a machine busy with other work\n"
    "  --json      the report as JSON";

typedef struct bench {
    const char *dir, *path;
    double document, seconds;
    bool cpu_time, json;
    rlf_tokenizer *tokenizer;
    rlf_str text, decoded;
    rlf_ids ids;
    double load, load_worst, encode, decode; /* seconds; of encode and decode the best */
} bench;

static rlf_status time_load(bench *b) {
    b->load = INFINITY;
    for (double end = rlf_now_s() + b->seconds; rlf_now_s() < end || !isfinite(b->load);) {
        rlf_tokenizer_destroy(b->tokenizer);
        double start = rlf_bench_clock(b->cpu_time);
        rlf_status status = rlf_tokenizer_load(&b->tokenizer, b->dir);
        if (status != RLF_OK) return status;
        double took = rlf_bench_clock(b->cpu_time) - start;
        b->load = fmin(b->load, took);
        b->load_worst = fmax(b->load_worst, took);
    }
    return RLF_OK;
}

/* The end of the document that begins at `at`. */
static size_t document_end(const bench *b, size_t at) {
    size_t least = (size_t)b->document, left = b->text.len - at;
    if (least == 0 || left <= least) return b->text.len;
    const char *end = memchr(b->text.ptr + at + least - 1, '\n', left - least + 1);
    return end ? (size_t)(end - b->text.ptr) + 1 : b->text.len;
}

static void encode(bench *b) {
    b->ids.n = 0;
    for (size_t at = 0, end; at < b->text.len; at = end) {
        end = document_end(b, at);
        rlf_tokenizer_encode(b->tokenizer, b->text.ptr + at, end - at, true, &b->ids);
    }
}

static void decode(bench *b) {
    rlf_str_reset(&b->decoded);
    rlf_tokenizer_decode(b->tokenizer, b->ids.v, b->ids.n, false, &b->decoded);
}

static double best_of(bench *b, void run(bench *b)) {
    double best = INFINITY;
    for (double end = rlf_now_s() + b->seconds; rlf_now_s() < end || !isfinite(best);) {
        double start = rlf_bench_clock(b->cpu_time);
        run(b);
        best = fmin(best, rlf_bench_clock(b->cpu_time) - start);
    }
    return best;
}

static void report(const bench *b) {
    double bytes = (double)b->text.len, tokens = (double)b->ids.n;
    if (!b->json) {
        printf("load    %7.3f s best, %.3f s worst\n", b->load, b->load_worst);
        printf("encode  %7.2f MB/s  %10.0f tokens/s  (%.2f MB, %zu tokens)\n", bytes / b->encode * 1e-6, tokens / b->encode,
               bytes * 1e-6, b->ids.n);
        printf("decode  %7.2f MB/s  %10.0f tokens/s\n", (double)b->decoded.len / b->decode * 1e-6, tokens / b->decode);
        return;
    }
    json_t *report = json_pack("{s:f, s:f, s:f, s:I, s:f, s:f, s:s}", "load_s", b->load, "load_worst_s", b->load_worst, "bytes", bytes,
                               "tokens", (json_int_t)b->ids.n, "encode_mb_per_s", bytes / b->encode * 1e-6, "decode_mb_per_s",
                               (double)b->decoded.len / b->decode * 1e-6, "clock", b->cpu_time ? "cpu" : "wall");
    rlf_bench_dump(report);
    json_decref(report);
}

static rlf_status run(bench *b) {
    rlf_status status = RLF_OK;
    RLF_TRY(rlf_str_read_file(&b->text, b->path, MAX_TEXT));
    if (b->text.len == 0) RLF_FAIL(INVALID, "%s: no text", b->path);
    RLF_TRY(time_load(b));
    b->encode = best_of(b, encode);
    b->decode = best_of(b, decode);
    report(b);
out:
    return status;
}

static bool parse(bench *b, int argc, char **argv, bool *help) {
    static const struct option options[] = {{"document", required_argument, NULL, 'd'}, {"seconds", required_argument, NULL, 's'},
                                            {"cpu-time", no_argument, NULL, 'c'},       {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0}};
    bool good = true;
    int c;
    opterr = 0;
    while (good && (c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 'd': good = rlf_cli_number(optarg, 0, MAX_TEXT, &b->document); break;
        case 's': good = rlf_cli_number(optarg, 0, 600, &b->seconds); break;
        case 'c': b->cpu_time = true; break;
        case 'j': b->json = true; break;
        case 'h': *help = true; break;
        default: good = false;
        }
    }
    b->dir = optind < argc ? argv[optind] : NULL;
    b->path = optind + 1 < argc ? argv[optind + 1] : NULL;
    return *help || (good && optind + 2 == argc);
}

int rlf_bench_tokenize(int argc, char **argv) {
    bench b = {.document = 4096, .seconds = 2};
    bool help = false;
    if (!parse(&b, argc, argv, &help))
        return rlf_cli_misuse("bench", "tokenize: expected a MODEL folder, a TEXT file, and options within their ranges");
    if (help) return rlf_cli_help(usage);
    rlf_status status = run(&b);
    rlf_tokenizer_destroy(b.tokenizer);
    rlf_str_clean_up(&b.text);
    rlf_str_clean_up(&b.decoded);
    rlf_ids_clean_up(&b.ids);
    return status == RLF_OK ? 0 : rlf_cli_fail("bench");
}
