/* rlf bench decode and prefill: steps of kern_decoder.
 *
 * Decoding draws RLF_BENCH_DRAWN tokens for each of several sequences that have the same context, which is computed once and its
 * pages copied. A step cannot avoid reading every weight once (of an embedding table that is not the head as well, a few rows:
 * not counted) and the keys and values of every sequence up to its position; these bytes are compared with those that a copy
 * reads and writes in the same time.
 *
 * A step is queued before the tokens of the one before are collected, as in rollout; the time is the clock's, until the host has the last. */
#include <stdio.h>
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "trainer/cli/bench.h"

enum { PAGE = 64 };

typedef struct decoding {
    const rlf_bench *b;
    kern_decoder *decoder;
    int seqs, context, max_pages;
    int32_t *page_table;                        /* (seqs, max_pages) */
    int32_t *tokens, *pos, *seq, *slots, *rows; /* one step: (longer of seqs and context) */
    int32_t *ids;    /* (seqs) drawn last */
    float *logprobs; /* (seqs) */
    kern_sample_key *keys;
} decoding;

static rlf_status decoding_init(decoding *d, const rlf_bench *b, int seqs, int context, int drawn) {
    const int rows = seqs > context ? seqs : context, max_pages = (context + drawn + PAGE - 1) / PAGE, pages = seqs * max_pages;
    const kern_decoder_options options = {.page_size = PAGE, .pages = pages, .max_pages = max_pages, .max_rows = rows, .max_outputs = seqs};
    *d = (decoding){.b = b, .seqs = seqs, .context = context, .max_pages = max_pages};
    int32_t **arrays[] = {&d->tokens, &d->pos, &d->seq, &d->slots, &d->rows};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) *arrays[i] = rlf_calloc((size_t)rows, sizeof(int32_t));
    d->page_table = rlf_calloc((size_t)pages, sizeof(int32_t));
    for (int i = 0; i < pages; i++) d->page_table[i] = i;
    d->ids = rlf_calloc((size_t)seqs, sizeof *d->ids);
    d->logprobs = rlf_calloc((size_t)seqs, sizeof *d->logprobs);
    d->keys = rlf_calloc((size_t)seqs, sizeof *d->keys);
    return kern_decoder_new(&d->decoder, b->model, &options);
}

static void decoding_clean_up(decoding *d) {
    int32_t *arrays[] = {d->tokens, d->pos, d->seq, d->slots, d->rows, d->page_table};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) free(arrays[i]);
    free(d->ids);
    free(d->logprobs);
    free(d->keys);
    kern_decoder_destroy(d->decoder);
}

static void set_row(decoding *d, int i, int seq, int pos) {
    d->seq[i] = seq;
    d->pos[i] = pos;
    d->slots[i] = (seq * d->max_pages + pos / PAGE) * PAGE + pos % PAGE;
}

static kern_step step_of(const decoding *d, int rows, int outputs) {
    return (kern_step){.rows = rows,
                       .tokens = d->tokens,
                       .pos = d->pos,
                       .seq = d->seq,
                       .slots = d->slots,
                       .max_pages = d->max_pages,
                       .page_table = d->page_table,
                       .outputs = outputs,
                       .output_rows = d->rows};
}

/* The context, random tokens, of sequence 0 in one step; the logits of its last row. */
static rlf_status prompt(void *ctx) {
    rlf_status status = RLF_OK;
    decoding *d = ctx;
    for (int i = 0; i < d->context; i++) {
        d->tokens[i] = (int32_t)rlf_rng_below(2, RLF_RNG_TEST, 0, 0, (uint32_t)i, (uint64_t)d->b->layout.shape.vocab);
        set_row(d, i, 0, i);
    }
    d->rows[0] = d->context - 1;
    kern_step step = step_of(d, d->context, 1);
    RLF_TRY(kern_decoder_step(d->decoder, &step));
    RLF_TRY(kern_sync(d->b->queue));
out:
    return status;
}

static void share_context(decoding *d) {
    for (int s = 0; s < d->seqs; s++) d->ids[s] = d->tokens[0];
    for (int s = 1; s < d->seqs; s++)
        for (int p = 0; p * PAGE < d->context; p++) kern_decoder_copy_page(d->decoder, s * d->max_pages + p, p);
}

/* The steps after the context; each row's token is the one drawn before. */
static rlf_status draw(void *ctx) {
    rlf_status status = RLF_OK;
    decoding *d = ctx;
    const kern_filter filter = {.temperature = 1, .top_p = 1};
    for (int i = 0; i < d->seqs; i++) d->rows[i] = i;
    for (int pos = d->context; pos < d->context + RLF_BENCH_DRAWN; pos++) {
        for (int i = 0; i < d->seqs; i++) {
            set_row(d, i, i, pos);
            d->tokens[i] = pos == d->context ? d->ids[i] : KERN_DRAWN(i);
            d->keys[i] = (kern_sample_key){.uid = (uint64_t)i, .position = (uint32_t)pos + 1};
        }
        kern_step step = step_of(d, d->seqs, d->seqs);
        RLF_TRY(kern_decoder_step(d->decoder, &step));
        kern_decoder_draw(d->decoder, filter, 1, d->keys);
        if (pos > d->context) RLF_TRY(kern_decoder_collect(d->decoder, d->ids, d->logprobs));
    }
    RLF_TRY(kern_decoder_collect(d->decoder, d->ids, d->logprobs));
out:
    return status;
}

/* Bytes of the keys and values of one token, all layers. */
static double token_bytes(const rlf_bench *b) {
    const rlf_model_shape *s = &b->layout.shape;
    const kern_kv_shape page = {.layers = s->layers,
                                .kv_heads = s->kv_heads,
                                .head_dim = s->head_dim,
                                .page_size = PAGE,
                                .pages = 1,
                                .factors = kern_dtype_of(b->precision.factors)};
    return (double)kern_kv_bytes(b->device, page) / PAGE;
}

/* Of a step in the middle. */
static double step_bytes(const decoding *d) {
    const rlf_bench *b = d->b;
    const rlf_model_shape *s = &b->layout.shape;
    double weights = (double)b->layout.total - (s->tied ? 0 : (double)s->vocab * s->hidden);
    return weights * (double)rlf_dtype_size(b->precision.stored) +
           d->seqs * (d->context + (RLF_BENCH_DRAWN + 1) / 2.0) * token_bytes(b);
}

rlf_status rlf_bench_decode(const rlf_bench *b, int sequences, int context, json_t **out) {
    rlf_status status = RLF_OK;
    const rlf_model_shape *s = &b->layout.shape;
    const double flops = sequences * (rlf_bench_body_flops(s, context, context + RLF_BENCH_DRAWN) +
                                      RLF_BENCH_DRAWN * rlf_bench_head_flops(s));
    decoding d;
    double best;
    char label[48];
    *out = NULL;
    RLF_TRY(decoding_init(&d, b, sequences, context, RLF_BENCH_DRAWN));
    RLF_TRY(prompt(&d));
    share_context(&d);
    RLF_TRY(rlf_bench_best(b, 1, draw, &d, &best));
    snprintf(label, sizeof label, "decode %d x %d at %d", sequences, RLF_BENCH_DRAWN, context);
    *out = rlf_bench_result(b, label, (double)sequences * RLF_BENCH_DRAWN, best, flops, RLF_BENCH_DRAWN * step_bytes(&d));
    json_object_set_new(*out, "sequences", json_integer(sequences));
    json_object_set_new(*out, "context", json_integer(context));
    json_object_set_new(*out, "bytes_per_step", json_real(step_bytes(&d)));
out:
    decoding_clean_up(&d);
    return status;
}

rlf_status rlf_bench_prefill(const rlf_bench *b, int length, json_t **out) {
    rlf_status status = RLF_OK;
    const rlf_model_shape *s = &b->layout.shape;
    decoding d;
    double best;
    char label[48];
    *out = NULL;
    RLF_TRY(decoding_init(&d, b, 1, length, 0));
    RLF_TRY(rlf_bench_best(b, 1, prompt, &d, &best));
    snprintf(label, sizeof label, "prefill %d", length);
    *out = rlf_bench_result(b, label, length, best, rlf_bench_body_flops(s, 0, length) + rlf_bench_head_flops(s), 0);
    json_object_set_new(*out, "length", json_integer(length));
out:
    decoding_clean_up(&d);
    return status;
}
