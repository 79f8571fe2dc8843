/* rlf score: lines of text on standard input to one JSON object each: token ids, and the log-prob of each token given those
 * before it (the first has none: 0), with as many digits as bring the float back. The learner's own forward computes them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/cli/cli.h"
#include "trainer/cli/model.h"

static const char usage[] =
    "rlf score MODEL [--dtype float32|bfloat16] [--compute-dtype float32|bfloat16] [--device auto|cpu|cuda] [--threads N] < lines\n\n"
    "Prints {\"ids\":[…],\"logprobs\":[…]} for each line; logprobs[i] = log p(ids[i] | ids before it), 0 for the first.\n"
    "  --dtype    how weights are stored in memory, float32 or bfloat16 (as in the files, so that nothing is lost)\n"
    "  --compute-dtype  what is multiplied: float32 (default: nothing is rounded) or bfloat16, as a run with model.dtype: bfloat16 does\n"
    "  --device   what computes: auto (default; a CUDA card where there is one), cpu or cuda\n"
    "  --threads  0 (default): one per core";

static rlf_status encode(void *ctx, const char *text, size_t n, rlf_ids *ids) {
    rlf_tokenizer_encode(ctx, text, n, true, ids);
    return RLF_OK;
}

static rlf_status print_scored(const rlf_ids *ids, const float *logprob) {
    for (size_t i = 1; i < ids->n; i++)
        if (!isfinite(logprob[i - 1]))
            return RLF_RAISE(INVALID, "token %zu of a text has log-prob %g: the model's numbers overflow", i, (double)logprob[i - 1]);
    printf("{\"ids\":[");
    for (size_t i = 0; i < ids->n; i++) printf(i ? ",%d" : "%d", ids->v[i]);
    printf("],\"logprobs\":[");
    for (size_t i = 0; i < ids->n; i++) printf("%s%.9g", i ? "," : "", i ? (double)logprob[i - 1] : 0.0);
    puts("]}");
    return RLF_OK;
}

/* targets, logprob: work space of the longest text. */
static rlf_status score_text(kern_trainer *trainer, kern_model *model, const rlf_ids *ids, int32_t *targets, float *logprob) {
    rlf_status status = RLF_OK;
    const int32_t begin[] = {0, (int32_t)ids->n};
    kern_batch batch = {.rows = (int)ids->n, .seqs = 1, .tokens = ids->v, .seq_begin = begin, .targets = targets};
    for (size_t i = 0; i < ids->n; i++) targets[i] = i + 1 < ids->n ? ids->v[i + 1] : -1;
    if (ids->n) RLF_TRY(kern_trainer_logprobs(trainer, model, &batch, (kern_filter){.temperature = 1, .top_p = 1}, logprob, NULL));
    RLF_TRY(print_scored(ids, logprob));
out:
    return status;
}

static rlf_status score(const char *dir, kern_precision precision, const kern_device_options *device) {
    rlf_status status = RLF_OK;
    rlf_cli_model model;
    rlf_cli_texts texts = {0};
    kern_trainer *trainer = NULL;
    int32_t *targets = NULL;
    float *logprob = NULL;
    RLF_TRY(rlf_cli_model_open(&model, dir, device));
    RLF_TRY(rlf_cli_texts_read(&texts, NULL, encode, model.tokenizer));
    RLF_TRY(rlf_cli_model_read(&model, dir, precision, texts.longest));
    kern_trainer_options options = {.max_tokens = texts.longest ? (int)texts.longest : 1, .max_seqs = 1};
    RLF_TRY(kern_trainer_new(&trainer, model.model, &options));
    targets = rlf_calloc(texts.longest, sizeof *targets);
    logprob = rlf_calloc(texts.longest, sizeof *logprob);
    for (size_t i = 0; i < texts.n; i++) RLF_TRY(score_text(trainer, model.model, &texts.ids[i], targets, logprob));
out:
    free(targets);
    free(logprob);
    kern_trainer_destroy(trainer);
    rlf_cli_texts_clean_up(&texts);
    rlf_cli_model_clean_up(&model);
    return status;
}

int rlf_cmd_score(int argc, char **argv) {
    const char *dir = NULL;
    kern_precision precision = {RLF_DTYPE_OTHER, RLF_DTYPE_F32};
    kern_device_options device = {.name = "auto"};
    double threads = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return rlf_cli_help(usage);
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) {
            if (!rlf_cli_number(argv[++i], 0, 256, &threads)) return rlf_cli_misuse("score", "--threads: expected a number from 0 to 256");
        } else if (!strcmp(argv[i], "--dtype") && i + 1 < argc) {
            if (!rlf_dtype_parse(argv[++i], &precision.stored)) return rlf_cli_misuse("score", "--dtype: expected float32 or bfloat16");
        } else if (!strcmp(argv[i], "--compute-dtype") && i + 1 < argc) {
            if (!rlf_dtype_parse(argv[++i], &precision.factors))
                return rlf_cli_misuse("score", "--compute-dtype: expected float32 or bfloat16");
        } else if (!strcmp(argv[i], "--device") && i + 1 < argc) {
            if (!rlf_cli_device_parse(argv[++i], &device.name)) return rlf_cli_misuse("score", "--device: expected auto, cpu or cuda");
        } else if (argv[i][0] == '-' || dir) {
            return rlf_cli_misuse("score", "expected one MODEL folder");
        } else {
            dir = argv[i];
        }
    }
    if (!dir) return rlf_cli_misuse("score", "expected a MODEL folder");
    device.threads = (int)threads;
    return score(dir, precision, &device) == RLF_OK ? 0 : rlf_cli_fail("score");
}
