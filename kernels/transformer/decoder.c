/* The paged decoder: one step runs rows of any mixture of prefill and decode through the layers (layer.h), and keeps the logits of the
 * rows asked for until the next step. What a step says of its rows goes to the device at once, so that the operations after that take
 * everything from there.
 *
 * Steps ahead. Steps and draws are queued, and the host waits for nothing but what it collects: the arrays of a step come from, and its draws
 * go to, page-locked memory of the step's own, of which there are as many as steps may be under way. A token that is drawn and not
 * collected yet is taken from where the draw has left it on the device (KERN_DRAWN).
 *
 * Graphs. On a card, a step that only decodes (every row is of another sequence than the one before, and all logits are wanted) is queued
 * as one graph, recorded when such a step came for the first time. What is queued depends on the plan of the step alone; in a step that only
 * decodes, the plan has as many rows, and positions, as the next power of two, so that there are few. The rows that are too many repeat
 * the last one: they write the same bits to the same slot, and nobody reads their logits.
 *
 * Within a layer all keys and values of the step are written before any row attends, so rows of one prompt may come together in a step. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "kernels/ops.h"
#include "kernels/transformer/layer.h"

enum { LOGS = 31, FEWEST_POSITIONS = 1024 };

/* The host's side of a step: its inputs, then what was drawn for it, ids and log-probs. */
typedef struct passage {
    kern_stage stage;
    int outputs;
    bool drawn; /* and not collected */
} passage;

struct kern_decoder {
    kern_model *model; /* borrowed */
    kern_decoder_options options;
    kern_kv_shape kv_shape;
    kern_buf *buf, *kv_buf;
    kern_tensor kv;
    /* M = max_rows */
    kern_tensor x, normed;   /* (M, H) */
    kern_tensor qkv;         /* (M, W) */
    kern_tensor attn;        /* (M, heads*D) */
    kern_tensor gate_up, act; /* (M, 2F), (M, F) */
    /* O = max_outputs */
    kern_tensor inputs;      /* int32: the next five, in this order; what a step has of the last is at its beginning */
    kern_tensor tokens, pos, slots, seq; /* (M) */
    kern_tensor index;       /* (O): output rows */
    kern_tensor page_table;  /* (M, max_pages) */
    kern_tensor gathered;    /* (O, H): the residual rows whose logits are wanted */
    kern_tensor ids;         /* (O) int32: targets or drawn ids; logprob comes apart() behind, so that both are fetched as one */
    kern_tensor logits;      /* (O, V) */
    kern_tensor logprob, stats; /* (O), (O, KERN_HEAD_STATS) */
    passage passages[KERN_STEPS_AHEAD];
    int turn;                /* the last step's of them */
    int outputs;             /* of the last step */
    int drawn;               /* ids that the last draw left */
    kern_graph *graphs[LOGS][LOGS]; /* by the binary logarithm of rows, and of positions; NULL: none yet */
    int graph_pages;         /* max_pages of the steps they are for */
};

/* What a step queues depends on this and nothing else. */
typedef struct plan {
    int rows, outputs, max_pages;
    kern_rows_hint hint;
    bool graph;
} plan;

static size_t table_at(const kern_decoder_options *o) { return 4 * (size_t)o->max_rows + (size_t)o->max_outputs; }
static size_t inputs_size(const kern_decoder_options *o) { return table_at(o) + (size_t)o->max_rows * (size_t)o->max_pages; }
/* Elements from ids to log-probs, on the device, where tensors begin at multiples of 64 bytes, and in a passage's stage. */
static size_t apart(const kern_decoder_options *o) { return ((size_t)o->max_outputs + 15) / 16 * 16; }
/* Of a passage's stage, in bytes. */
static size_t ids_at(const kern_decoder_options *o) { return inputs_size(o) * sizeof(int32_t); }
static size_t logprobs_at(const kern_decoder_options *o) { return ids_at(o) + apart(o) * sizeof(int32_t); }
static size_t stage_bytes(const kern_decoder_options *o) { return logprobs_at(o) + (size_t)o->max_outputs * sizeof(float); }

static void lay_out(kern_decoder *d, kern_slab *slab, const rlf_model_shape *s, kern_dtype acts) {
    size_t rows = (size_t)d->options.max_rows, outputs = (size_t)d->options.max_outputs;
    d->x = kern_slab_take(slab, KERN_F32, rows * (size_t)s->hidden);
    d->normed = kern_slab_take(slab, acts, rows * (size_t)s->hidden);
    d->qkv = kern_slab_take(slab, acts, rows * (size_t)((s->heads + 2 * s->kv_heads) * s->head_dim));
    d->attn = kern_slab_take(slab, acts, rows * (size_t)(s->heads * s->head_dim));
    d->gate_up = kern_slab_take(slab, acts, rows * 2 * (size_t)s->ffn);
    d->act = kern_slab_take(slab, acts, rows * (size_t)s->ffn);
    d->inputs = kern_slab_take(slab, KERN_I32, inputs_size(&d->options));
    d->tokens = d->inputs;
    d->pos = kern_at(d->inputs, rows);
    d->slots = kern_at(d->inputs, 2 * rows);
    d->seq = kern_at(d->inputs, 3 * rows);
    d->index = kern_at(d->inputs, 4 * rows);
    d->page_table = kern_at(d->inputs, table_at(&d->options));
    d->gathered = kern_slab_take(slab, KERN_F32, outputs * (size_t)s->hidden);
    d->ids = kern_slab_take(slab, KERN_I32, outputs);
    d->logprob = kern_slab_take(slab, KERN_F32, outputs);
    assert(d->logprob.offset == d->ids.offset + apart(&d->options));
    d->logits = kern_slab_take(slab, KERN_F32, outputs * (size_t)s->vocab);
    d->stats = kern_slab_take(slab, KERN_F32, outputs * KERN_HEAD_STATS);
}

static size_t bytes_of(const rlf_model_shape *s, kern_dtype acts, const kern_decoder_options *options) {
    kern_slab count = {0};
    kern_decoder d = {.options = *options};
    lay_out(&d, &count, s, acts);
    return count.bytes;
}

size_t kern_decoder_bytes(const rlf_model_layout *layout, kern_precision precision, const char *device, const kern_decoder_options *options) {
    return bytes_of(&layout->shape, kern_acts_on(precision, device), options);
}

static rlf_status check_options(const kern_decoder_options *o) {
    if (o->page_size < 16 || o->page_size % 16)
        return RLF_RAISE(INVALID, "page_size %d: expected a positive multiple of 16", o->page_size);
    if (o->pages < 1 || o->max_pages < 1 || o->max_rows < 1 || o->max_outputs < 1 || o->max_outputs > o->max_rows)
        return RLF_RAISE(INVALID, "decoder of %d pages, %d a sequence, %d rows, %d outputs: expected at least 1 of each and outputs not "
                                  "above rows", o->pages, o->max_pages, o->max_rows, o->max_outputs);
    return RLF_OK;
}

rlf_status kern_decoder_new(kern_decoder **out, kern_model *model, const kern_decoder_options *options) {
    rlf_status status = RLF_OK;
    kern_device *device = kern_queue_device(model->queue);
    kern_slab slab = {0};
    kern_decoder *d = rlf_calloc(1, sizeof *d);
    RLF_TRY(check_options(options));
    d->model = model;
    d->options = *options;
    d->kv_shape = (kern_kv_shape){.layers = model->layout->shape.layers, .kv_heads = model->attn.kv_heads, .head_dim = model->attn.head_dim,
                                  .page_size = options->page_size, .pages = options->pages, .factors = model->attn.factors};
    RLF_TRY(kern_buf_new(&d->buf, device, bytes_of(&model->layout->shape, model->acts, options)));
    slab.buf = d->buf;
    lay_out(d, &slab, &model->layout->shape, model->acts);
    RLF_TRY(kern_buf_new(&d->kv_buf, device, kern_kv_bytes(device, d->kv_shape)));
    d->kv = kern_view(d->kv_buf, KERN_U8);
    for (int i = 0; i < KERN_STEPS_AHEAD; i++) RLF_TRY(kern_stage_new(&d->passages[i].stage, device, stage_bytes(options)));
    *out = d;
    d = NULL;
out:
    kern_decoder_destroy(d);
    return status;
}

static void drop_graphs(kern_decoder *d) {
    for (int i = 0; i < LOGS * LOGS; i++) kern_graph_destroy(d->graphs[i / LOGS][i % LOGS]);
    memset(d->graphs, 0, sizeof d->graphs);
}

void kern_decoder_destroy(kern_decoder *decoder) {
    if (!decoder) return;
    drop_graphs(decoder);
    kern_buf_destroy(decoder->kv_buf);
    kern_buf_destroy(decoder->buf); /* on a card this waits for what is queued, which the stages have to outlive */
    for (int i = 0; i < KERN_STEPS_AHEAD; i++) kern_stage_clean_up(&decoder->passages[i].stage);
    free(decoder);
}

/* ---- a step ----------------------------------------------------------------------------------------------------------------------- */

static rlf_status check_row(const kern_decoder *d, const kern_step *step, int i) {
    int64_t slots = (int64_t)d->options.pages * d->options.page_size;
    if (step->pos[i] < 0 || step->pos[i] >= d->model->max_positions || step->pos[i] >= step->max_pages * d->options.page_size)
        return RLF_RAISE(LIMIT, "position %d in row %d: the model has %d positions, the page table %d pages of %d", step->pos[i], i,
                         d->model->max_positions, step->max_pages, d->options.page_size);
    if (step->slots[i] < 0 || step->slots[i] >= slots)
        return RLF_RAISE(INVALID, "cache slot %d in row %d: expected below %lld", step->slots[i], i, (long long)slots);
    return RLF_OK;
}

static rlf_status check_step(const kern_decoder *d, const kern_step *step) {
    rlf_status status = RLF_OK;
    if (step->rows < 1 || step->rows > d->options.max_rows || step->outputs < 0 || step->outputs > d->options.max_outputs)
        RLF_FAIL(LIMIT, "step of %d rows and %d outputs: the decoder was made for %d and %d", step->rows, step->outputs,
                 d->options.max_rows, d->options.max_outputs);
    if (step->max_pages > d->options.max_pages)
        RLF_FAIL(LIMIT, "step with %d pages a sequence: the decoder was made for %d", step->max_pages, d->options.max_pages);
    RLF_TRY(kern_model_check_ids(d->model, "token of row", step->tokens, step->rows, -d->drawn));
    for (int i = 0; i < step->rows; i++) RLF_TRY(check_row(d, step, i));
    for (int i = 0; i < step->outputs; i++)
        if (step->output_rows[i] < 0 || step->output_rows[i] >= step->rows || (i && step->output_rows[i] <= step->output_rows[i - 1]))
            RLF_FAIL(INVALID, "output row %d is %d: expected ascending rows below %d", i, step->output_rows[i], step->rows);
out:
    return status;
}

/* The longest stretch of rows that are all of long runs. */
static void find_long(kern_rows_hint *hint, const kern_step *step) {
    int stretch = 0;
    for (int begin = 0, end; begin < step->rows; begin = end) {
        for (end = begin + 1; end < step->rows && step->seq[end] == step->seq[begin];) end++;
        if (end - begin <= KERN_LONG_RUN) stretch = end;
        if (end - stretch <= hint->long_end - hint->long_begin) continue;
        hint->long_begin = stretch;
        hint->long_end = end;
    }
}

static kern_rows_hint hint_of(const kern_step *step) {
    kern_rows_hint hint = {.decoding = true};
    find_long(&hint, step);
    for (int i = 0; i < step->rows; i++) {
        const bool lone = i < hint.long_begin || i >= hint.long_end;
        if (step->pos[i] >= hint.end) hint.end = step->pos[i] + 1;
        if (lone && step->pos[i] >= hint.lone_end) hint.lone_end = step->pos[i] + 1;
        if (i && step->seq[i] == step->seq[i - 1]) hint.decoding = false;
    }
    return hint;
}

/* The smallest l with n <= 2^l. */
static int log2_up(int n) {
    int l = 0;
    while (l < LOGS - 1 && n > 1 << l) l++;
    return l;
}
static int least(int a, int b) { return a < b ? a : b; }

static plan plan_of(const kern_decoder *d, const kern_step *step) {
    plan p = {step->rows, step->outputs, step->max_pages, hint_of(step), false};
    p.graph = p.hint.decoding && p.outputs == p.rows && kern_device_is_card(kern_queue_device(d->model->queue));
    if (!p.graph) return p;
    p.rows = p.outputs = least(1 << log2_up(p.rows), d->options.max_outputs);
    p.hint.end = p.hint.lone_end = p.hint.end > FEWEST_POSITIONS ? 1 << log2_up(p.hint.end) : FEWEST_POSITIONS;
    return p;
}

/* The step's arrays, for as many rows as planned. The pages of a sequence go to the device once for all rows that come together. */
static void upload_inputs(kern_decoder *d, const kern_step *step, const plan *p) {
    const size_t stride = (size_t)d->options.max_rows, pages = (size_t)p->max_pages;
    int32_t *tokens = (int32_t *)(void *)d->passages[d->turn].stage.memory, *pos = tokens + stride, *slots = pos + stride;
    int32_t *seq = slots + stride;
    int32_t *table = tokens + table_at(&d->options), places = 0;
    for (int i = 0; i < p->rows; i++) {
        const int row = least(i, step->rows - 1);
        if (!i || step->seq[row] != step->seq[least(i - 1, row)])
            memcpy(table + (size_t)places++ * pages, step->page_table + (size_t)step->seq[row] * pages, pages * sizeof(int32_t));
        tokens[i] = step->tokens[row];
        pos[i] = step->pos[row];
        slots[i] = step->slots[row];
        seq[i] = places - 1;
    }
    if (step->outputs) memcpy(seq + stride, step->output_rows, (size_t)step->outputs * sizeof(int32_t));
    kern_upload(d->model->queue, d->inputs, tokens, table_at(&d->options) + (size_t)places * pages);
}

static void run_layer(kern_decoder *d, const plan *p, int layer) {
    const kern_model *m = d->model;
    const kern_kv_rows kept = {d->kv, d->kv_shape, layer, d->slots};
    kern_layer_qkv(m, layer, d->qkv, d->qkv, d->normed, d->x, d->pos, p->rows, &kept);
    kern_attention_paged(m->queue, d->attn, d->qkv, d->kv, d->kv_shape, layer, d->seq, d->pos, p->rows, d->page_table, p->max_pages,
                         p->hint, m->attn);
    kern_layer_attn_out(m, layer, d->x, d->attn, p->rows);
    kern_layer_mlp(m, layer, d->x, d->x, d->normed, d->gate_up, false, d->act, p->rows);
}

/* Rows are gathered only where some are left out. */
static void run_head(kern_decoder *d, const plan *p) {
    const kern_model *m = d->model;
    kern_tensor x = d->x;
    if (p->outputs < p->rows) {
        kern_rows_gather(m->queue, d->gathered, d->x, d->index, p->outputs, m->layout->shape.hidden);
        x = d->gathered;
    }
    kern_model_head(m, d->logits, d->normed, false, x, p->outputs);
}

static void run_plan(kern_decoder *d, const plan *p) {
    const kern_model *m = d->model;
    kern_embed(m->queue, d->x, kern_at(m->params, m->embed), d->tokens, d->ids, p->rows, m->layout->shape.hidden);
    for (int i = 0; i < m->layout->shape.layers; i++) run_layer(d, p, i);
    if (p->outputs) run_head(d, p);
}

/* The first time the operations run one by one, and are recorded for the next: a kernel's first launch may load it, which must not happen
 * while a graph is recorded. */
static rlf_status run_graph(kern_decoder *d, const plan *p) {
    kern_queue *q = d->model->queue;
    kern_graph **graph = &d->graphs[log2_up(p->rows)][log2_up(p->hint.end)];
    if (d->graph_pages != p->max_pages) drop_graphs(d);
    d->graph_pages = p->max_pages;
    if (*graph) {
        kern_graph_run(q, *graph);
        return RLF_OK;
    }
    run_plan(d, p);
    kern_graph_begin(q);
    run_plan(d, p);
    return kern_graph_end(q, graph);
}

/* The one of the step KERN_STEPS_AHEAD before, which is over by now or is waited for. */
static rlf_status next_passage(kern_decoder *d, int outputs) {
    d->turn = (d->turn + 1) % KERN_STEPS_AHEAD;
    passage *p = &d->passages[d->turn];
    assert(!p->drawn);
    p->outputs = d->outputs = outputs;
    return kern_stage_wait(&p->stage);
}

rlf_status kern_decoder_step(kern_decoder *decoder, const kern_step *step) {
    rlf_status status = RLF_OK;
    RLF_TRY(check_step(decoder, step));
    const plan p = plan_of(decoder, step);
    RLF_TRY(next_passage(decoder, step->outputs));
    upload_inputs(decoder, step, &p);
    if (p.graph) RLF_TRY(run_graph(decoder, &p));
    else run_plan(decoder, &p);
    kern_stage_mark(&decoder->passages[decoder->turn].stage);
out:
    return status;
}

/* ---- what the logits are for ------------------------------------------------------------------------------------------------------ */

bool kern_decoder_runs_ahead(const kern_decoder *decoder) { return kern_device_is_card(kern_queue_device(decoder->model->queue)); }

void kern_decoder_draw(kern_decoder *decoder, kern_filter filter, uint64_t seed, const kern_sample_key *keys) {
    const size_t n = (size_t)decoder->outputs;
    passage *p = &decoder->passages[decoder->turn];
    assert(n && !p->drawn);
    kern_sample(decoder->model->queue, decoder->ids, decoder->logprob, decoder->logits, filter, seed, keys, decoder->outputs,
                decoder->model->layout->shape.vocab);
    kern_stage_fetch(&p->stage, ids_at(&decoder->options), decoder->ids, apart(&decoder->options) + n);
    kern_stage_mark(&p->stage);
    p->drawn = true;
    decoder->drawn = decoder->outputs;
}

rlf_status kern_decoder_collect(kern_decoder *decoder, int32_t *ids, float *logprobs) {
    int oldest = (decoder->turn + 1) % KERN_STEPS_AHEAD;
    while (oldest != decoder->turn && !decoder->passages[oldest].drawn) oldest = (oldest + 1) % KERN_STEPS_AHEAD;
    passage *p = &decoder->passages[oldest];
    assert(p->drawn);
    rlf_status status = kern_stage_wait(&p->stage);
    memcpy(ids, p->stage.memory + ids_at(&decoder->options), (size_t)p->outputs * sizeof *ids);
    memcpy(logprobs, p->stage.memory + logprobs_at(&decoder->options), (size_t)p->outputs * sizeof *logprobs);
    p->drawn = false;
    return status;
}

rlf_status kern_decoder_logprob(kern_decoder *decoder, kern_filter filter, const int32_t *targets, float *logprobs) {
    rlf_status status = RLF_OK;
    kern_queue *q = decoder->model->queue;
    if (!decoder->outputs) return RLF_OK;
    RLF_TRY(kern_model_check_ids(decoder->model, "target", targets, decoder->outputs, 0));
    kern_upload(q, decoder->ids, targets, (size_t)decoder->outputs);
    decoder->drawn = 0;
    kern_logprob(q, decoder->logprob, kern_none(), decoder->stats, decoder->logits, decoder->ids, filter, decoder->outputs,
                 decoder->model->layout->shape.vocab);
    kern_download(q, logprobs, decoder->logprob, (size_t)decoder->outputs);
    RLF_TRY(kern_sync(q));
out:
    return status;
}

rlf_status kern_decoder_logits(kern_decoder *decoder, float *logits) {
    kern_queue *q = decoder->model->queue;
    kern_download(q, logits, decoder->logits, (size_t)decoder->outputs * (size_t)decoder->model->layout->shape.vocab);
    return kern_sync(q);
}

void kern_decoder_copy_page(kern_decoder *decoder, int dst_page, int src_page) {
    kern_kv_copy_page(decoder->model->queue, decoder->kv, decoder->kv_shape, dst_page, src_page);
}
