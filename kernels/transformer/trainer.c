/* The trainer: one packed micro-batch forward, loss, backward.
 *
 * Kept per layer for the backward pass, in elements a row (H hidden, W = (heads + 2 kv_heads) D, A = heads D, F ffn):
 *     residual before attention H, residual before the MLP H, qkv before norm and rotation W, attention output A and its lse (heads),
 *     gate and up 2F                                                            sum: 2H + W + A + heads + 2F
 * so   activation bytes = 4 max_tokens (L (2H + W + A + heads + 2F) + H) + work space of 4 max_tokens (2H + max(3F, 2W + A)) + the head's,
 * all being float32. Where activations are bfloat16 (kern_activations), W, A, F and one of the work space's H take 2 bytes an element.
 * Recomputed, because each costs one pass over memory and no matrix product: both RMSNorms, q/k norm and rotation, SwiGLU.
 * Without gradients one layer's worth is kept, and the residual stream is one buffer.
 * With recompute the layers share all but the residual before attention, and every layer but the last goes forward once more before it goes
 * backward, up to its gate and up: L H + (H + W + A + heads + 2F) + H floats a row, for all matrix products of a layer but one.
 * With keep_attention too each layer has attention's output and lse of its own: L (H + A + heads) + (H + W + 2F) + H floats a row. Attention
 * then goes forward once.
 *
 * The head is visited once: chunk by chunk, rows with a target go hidden -> logits -> log-prob -> loss -> d logits -> d hidden and d weight
 * while the chunk's logits are there. No more than head_rows rows of logits exist at a time; as every chunk reads the head's weights and
 * updates its whole gradient once, a chunk of 16 MiB costs bench-42m 8 % of a step and one of 64 MiB 2 %, which is the default. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "kernels/transformer/layer.h"

enum { HEAD_CHUNK_BYTES = 64 << 20, HEAD_CHUNK_BYTES_CARD = 1 << 30, HEAD_ROWS_MIN = 16, HEAD_ROWS_STEP = 128 };

typedef struct layer_acts {
    kern_tensor x, mid; /* (M, H) the residual stream before attention, before the MLP */
    kern_tensor qkv_in; /* (M, W) before norm and rotation */
    kern_tensor attn;   /* (M, heads*D) */
    kern_tensor lse;    /* (M, heads) */
    kern_tensor gate_up; /* (M, 2F) */
} layer_acts;

struct kern_trainer {
    kern_model *model; /* borrowed; whose gradients are computed */
    kern_trainer_options options; /* head_rows chosen */
    kern_dtype dtype;             /* the model's acts: of all below but the residual stream x, mid, last, dx, head_x, head_dx, and the head */
    kern_buf *buf;
    /* M = max_tokens */
    layer_acts *acts; /* (L), owned; all the same tensors without gradients, with recompute all the same but for x, with keep_attention
                       * also but for attn and lse */
    kern_tensor last;   /* (M, H) the residual stream after the last layer */
    kern_tensor normed; /* (M, H), becomes its own gradient */
    kern_tensor qkv, dqkv, dattn; /* (M, W), (M, W), (M, heads*D): attention's work space, which is also ... */
    kern_tensor act, dgate_up;    /* (M, F), (M, 2F): ... the MLP's. act becomes its own gradient */
    kern_tensor dx;     /* (M, H) gradient of the residual stream, carried down the layers */
    kern_tensor tokens, pos; /* (M) int32 */
    /* R = head_rows */
    kern_tensor index, targets; /* (R) int32 */
    kern_tensor head_x, head_normed, head_dx; /* (R, H) */
    kern_tensor logits, dlogits; /* (R, V); one tensor where acts are float32 */
    kern_tensor logprob, entropy, dlogprob, dentropy, stats; /* (R), stats (R, KERN_HEAD_STATS) */
    /* on the host */
    int32_t *host_pos;  /* (M) */
    int32_t *host_rows; /* (M) rows with a target, ascending */
    int32_t *host_targets; /* (M) their targets */
    float *host_loss;   /* (4, R) logprob, entropy and their derivatives */
};

/* ---- memory ----------------------------------------------------------------------------------------------------------------------- */

/* A chunk of the head's rows. On a card with tensor cores (activations of bfloat16) a product of few rows leaves most of it without work. */
static kern_trainer_options chosen(const rlf_model_shape *s, kern_dtype acts, const kern_trainer_options *options) {
    kern_trainer_options o = *options;
    size_t bytes = acts == KERN_BF16 ? HEAD_CHUNK_BYTES_CARD : HEAD_CHUNK_BYTES;
    int fitting = (int)(bytes / ((size_t)s->vocab * sizeof(float)));
    if (fitting > HEAD_ROWS_STEP) fitting -= fitting % HEAD_ROWS_STEP;
    if (o.head_rows <= 0) o.head_rows = fitting > HEAD_ROWS_MIN ? fitting : HEAD_ROWS_MIN;
    if (o.head_rows > o.max_tokens) o.head_rows = o.max_tokens;
    return o;
}

static void lay_out_layers(kern_trainer *t, kern_slab *slab, const rlf_model_shape *s) {
    size_t m = (size_t)t->options.max_tokens, hidden = m * (size_t)s->hidden, heads = m * (size_t)s->heads;
    size_t dim = (size_t)s->head_dim;
    bool shared = !t->options.gradients || t->options.recompute, kept = t->options.gradients && t->options.keep_attention;
    for (int i = 0; i < s->layers; i++) {
        layer_acts *a = &t->acts[i];
        if (i && shared) *a = t->acts[0];
        if (!i || t->options.gradients) a->x = kern_slab_take(slab, KERN_F32, hidden);
        if (!i || !shared || kept) {
            a->attn = kern_slab_take(slab, t->dtype, heads * dim);
            a->lse = kern_slab_take(slab, KERN_F32, heads);
        }
        if (i && shared) continue;
        a->mid = t->options.gradients ? kern_slab_take(slab, KERN_F32, hidden) : a->x;
        a->qkv_in = kern_slab_take(slab, t->dtype, (heads + 2 * m * (size_t)s->kv_heads) * dim);
        a->gate_up = kern_slab_take(slab, t->dtype, 2 * m * (size_t)s->ffn);
    }
    t->last = t->options.gradients ? kern_slab_take(slab, KERN_F32, hidden) : t->acts[0].x;
}

/* Attention's and the MLP's work space lie over each other: neither outlives its half of a layer. */
static void lay_out_work(kern_trainer *t, kern_slab *slab, const rlf_model_shape *s) {
    size_t m = (size_t)t->options.max_tokens, dim = (size_t)s->head_dim;
    size_t attn = m * (size_t)s->heads * dim, qkv = attn + 2 * m * (size_t)s->kv_heads * dim, ffn = m * (size_t)s->ffn;
    kern_slab mlp = *slab;
    t->qkv = kern_slab_take(slab, t->dtype, qkv);
    t->act = kern_slab_take(&mlp, t->dtype, ffn);
    if (t->options.gradients) {
        t->dqkv = kern_slab_take(slab, t->dtype, qkv);
        t->dattn = kern_slab_take(slab, t->dtype, attn);
        t->dgate_up = kern_slab_take(&mlp, t->dtype, 2 * ffn);
    }
    if (mlp.bytes > slab->bytes) slab->bytes = mlp.bytes;
    t->normed = kern_slab_take(slab, t->dtype, m * (size_t)s->hidden);
    if (t->options.gradients) t->dx = kern_slab_take(slab, KERN_F32, m * (size_t)s->hidden);
    t->tokens = kern_slab_take(slab, KERN_I32, m);
    t->pos = kern_slab_take(slab, KERN_I32, m);
}

static void lay_out_head(kern_trainer *t, kern_slab *slab, const rlf_model_shape *s) {
    size_t rows = (size_t)t->options.head_rows, hidden = rows * (size_t)s->hidden;
    t->index = kern_slab_take(slab, KERN_I32, rows);
    t->targets = kern_slab_take(slab, KERN_I32, rows);
    t->head_x = kern_slab_take(slab, KERN_F32, hidden);
    t->head_normed = kern_slab_take(slab, t->dtype, hidden);
    t->logits = kern_slab_take(slab, KERN_F32, rows * (size_t)s->vocab);
    t->logprob = kern_slab_take(slab, KERN_F32, rows);
    t->entropy = kern_slab_take(slab, KERN_F32, rows);
    t->stats = kern_slab_take(slab, KERN_F32, rows * KERN_HEAD_STATS);
    if (!t->options.gradients) return;
    t->dlogits = t->dtype == KERN_F32 ? t->logits : kern_slab_take(slab, t->dtype, rows * (size_t)s->vocab);
    t->head_dx = kern_slab_take(slab, KERN_F32, hidden);
    t->dlogprob = kern_slab_take(slab, KERN_F32, rows);
    t->dentropy = kern_slab_take(slab, KERN_F32, rows);
}

static void lay_out(kern_trainer *t, kern_slab *slab, const rlf_model_shape *s) {
    lay_out_layers(t, slab, s);
    lay_out_work(t, slab, s);
    lay_out_head(t, slab, s);
}

size_t kern_trainer_bytes(const rlf_model_layout *layout, kern_precision precision, const char *device, const kern_trainer_options *options) {
    const rlf_model_shape *s = &layout->shape;
    kern_slab count = {0};
    kern_trainer t = {.options = chosen(s, kern_acts_on(precision, device), options), .dtype = kern_acts_on(precision, device)};
    t.acts = rlf_calloc((size_t)s->layers, sizeof *t.acts);
    lay_out(&t, &count, s);
    free(t.acts);
    return count.bytes + 3 * sizeof(int32_t) * (size_t)options->max_tokens + 4 * sizeof(float) * (size_t)t.options.head_rows;
}

rlf_status kern_trainer_new(kern_trainer **out, kern_model *model, const kern_trainer_options *options) {
    rlf_status status = RLF_OK;
    const rlf_model_shape *s = &model->layout->shape;
    kern_slab count = {0}, slab = {0};
    kern_trainer *t = rlf_calloc(1, sizeof *t);
    if (options->max_tokens < 1 || options->max_seqs < 1)
        RLF_FAIL(INVALID, "trainer of %d tokens and %d sequences: expected at least 1 of each", options->max_tokens, options->max_seqs);
    t->model = model;
    t->options = chosen(s, model->acts, options);
    t->dtype = model->acts;
    t->acts = rlf_calloc((size_t)s->layers, sizeof *t->acts);
    lay_out(t, &count, s);
    RLF_TRY(kern_buf_new(&t->buf, kern_queue_device(model->queue), count.bytes));
    slab.buf = t->buf;
    lay_out(t, &slab, s);
    t->host_pos = rlf_calloc((size_t)options->max_tokens, sizeof *t->host_pos);
    t->host_rows = rlf_calloc((size_t)options->max_tokens, sizeof *t->host_rows);
    t->host_targets = rlf_calloc((size_t)options->max_tokens, sizeof *t->host_targets);
    t->host_loss = rlf_calloc(4 * (size_t)t->options.head_rows, sizeof *t->host_loss);
    *out = t;
    t = NULL;
out:
    kern_trainer_destroy(t);
    return status;
}

void kern_trainer_destroy(kern_trainer *trainer) {
    if (!trainer) return;
    kern_buf_destroy(trainer->buf);
    free(trainer->acts);
    free(trainer->host_pos);
    free(trainer->host_rows);
    free(trainer->host_targets);
    free(trainer->host_loss);
    free(trainer);
}

/* ---- the batch -------------------------------------------------------------------------------------------------------------------- */

static rlf_status check_batch(const kern_trainer *t, const kern_model *model, const kern_batch *batch) {
    rlf_status status = RLF_OK;
    if (batch->rows < 1 || batch->rows > t->options.max_tokens || batch->seqs < 1 || batch->seqs > t->options.max_seqs)
        RLF_FAIL(LIMIT, "batch of %d tokens in %d sequences: the trainer was made for %d in %d", batch->rows, batch->seqs,
                 t->options.max_tokens, t->options.max_seqs);
    if (batch->seq_begin[0] != 0 || batch->seq_begin[batch->seqs] != batch->rows)
        RLF_FAIL(INVALID, "sequences cover rows %d to %d: expected 0 to %d", batch->seq_begin[0], batch->seq_begin[batch->seqs],
                 batch->rows);
    for (int s = 0; s < batch->seqs; s++) {
        int n = batch->seq_begin[s + 1] - batch->seq_begin[s];
        if (n < 1 || n > model->max_positions)
            RLF_FAIL(LIMIT, "sequence %d has %d tokens: expected 1 to %d", s, n, model->max_positions);
    }
    RLF_TRY(kern_model_check_ids(model, "token", batch->tokens, batch->rows, 0));
    RLF_TRY(kern_model_check_ids(model, "target", batch->targets, batch->rows, -1));
out:
    return status;
}

static void upload_batch(kern_trainer *t, const kern_batch *batch) {
    kern_queue *q = t->model->queue;
    for (int s = 0; s < batch->seqs; s++)
        for (int i = batch->seq_begin[s]; i < batch->seq_begin[s + 1]; i++) t->host_pos[i] = i - batch->seq_begin[s];
    kern_upload(q, t->tokens, batch->tokens, (size_t)batch->rows);
    kern_upload(q, t->pos, t->host_pos, (size_t)batch->rows);
}

/* Fills host_rows and host_targets; returns how many rows have a target. */
static int collect_targets(kern_trainer *t, const kern_batch *batch) {
    int n = 0;
    for (int i = 0; i < batch->rows; i++) {
        if (batch->targets[i] < 0) continue;
        t->host_rows[n] = i;
        t->host_targets[n++] = batch->targets[i];
    }
    return n;
}

/* ---- forward ---------------------------------------------------------------------------------------------------------------------- */

static bool same(kern_tensor a, kern_tensor b) { return a.buf == b.buf && a.offset == b.offset; }

static void carry(kern_trainer *t, kern_tensor to, kern_tensor from, int rows) {
    if (!same(to, from)) kern_copy(t->model->queue, to, from, (size_t)rows * (size_t)t->model->layout->shape.hidden);
}

static kern_tensor residual_after(const kern_trainer *t, int layer) {
    return layer + 1 < t->model->layout->shape.layers ? t->acts[layer + 1].x : t->last;
}

/* From the layer's input to the residual before its MLP. `kept`: attn and lse are there. */
static void forward_attention(kern_trainer *t, const kern_model *model, const kern_batch *batch, int layer, bool kept) {
    const layer_acts *a = &t->acts[layer];
    if (kept) {
        kern_layer_qkv_in(model, layer, a->qkv_in, t->normed, a->x, batch->rows);
    } else {
        kern_layer_qkv(model, layer, t->qkv, a->qkv_in, t->normed, a->x, t->pos, batch->rows, NULL);
        kern_attention(t->model->queue, a->attn, a->lse, t->qkv, batch->seq_begin, batch->seqs, model->attn);
    }
    carry(t, a->mid, a->x, batch->rows);
    kern_layer_attn_out(model, layer, a->mid, a->attn, batch->rows);
}

static void forward_layer(kern_trainer *t, const kern_model *model, const kern_batch *batch, int layer) {
    const layer_acts *a = &t->acts[layer];
    kern_tensor after = residual_after(t, layer);
    forward_attention(t, model, batch, layer, false);
    carry(t, after, a->mid, batch->rows);
    kern_layer_mlp(model, layer, after, a->mid, t->normed, a->gate_up, t->options.gradients, t->act, batch->rows);
}

static void forward(kern_trainer *t, const kern_model *model, const kern_batch *batch) {
    const rlf_model_shape *s = &model->layout->shape;
    upload_batch(t, batch);
    kern_embed(t->model->queue, t->acts[0].x, kern_at(model->params, model->embed), t->tokens, kern_none(), batch->rows, s->hidden);
    for (int i = 0; i < s->layers; i++) forward_layer(t, model, batch, i);
}

/* What the backward pass of the layer needs, again: from its input up to its gate and up. */
static void recompute_layer(kern_trainer *t, const kern_batch *batch, int layer) {
    const layer_acts *a = &t->acts[layer];
    forward_attention(t, t->model, batch, layer, t->options.keep_attention);
    kern_layer_gate_up(t->model, layer, a->mid, t->normed, a->gate_up, batch->rows);
}

/* Rows first .. first+n-1 of the list of rows with a target, up to log-prob and entropy, which come to the host. */
static void head_forward(kern_trainer *t, const kern_model *model, kern_filter filter, int first, int n, float *logprob, float *entropy) {
    kern_queue *q = t->model->queue;
    const rlf_model_shape *s = &model->layout->shape;
    kern_upload(q, t->index, t->host_rows + first, (size_t)n);
    kern_upload(q, t->targets, t->host_targets + first, (size_t)n);
    kern_rows_gather(q, t->head_x, t->last, t->index, n, s->hidden);
    kern_model_head(model, t->logits, t->head_normed, t->options.gradients, t->head_x, n);
    kern_logprob(q, t->logprob, t->entropy, t->stats, t->logits, t->targets, filter, n, s->vocab);
    kern_download(q, logprob, t->logprob, (size_t)n);
    kern_download(q, entropy, t->entropy, (size_t)n);
}

rlf_status kern_trainer_logprobs(kern_trainer *trainer, kern_model *model, const kern_batch *batch, kern_filter filter, float *logprob,
                                 float *entropy) {
    rlf_status status = RLF_OK;
    kern_trainer *t = trainer;
    int rows = t->options.head_rows;
    float *lp = t->host_loss, *ent = t->host_loss + rows;
    RLF_TRY(check_batch(t, model, batch));
    int targets = collect_targets(t, batch);
    memset(logprob, 0, (size_t)batch->rows * sizeof *logprob);
    if (entropy) memset(entropy, 0, (size_t)batch->rows * sizeof *entropy);
    forward(t, model, batch);
    for (int first = 0; first < targets; first += rows) {
        int n = targets - first < rows ? targets - first : rows;
        head_forward(t, model, filter, first, n, lp, ent);
        for (int i = 0; i < n; i++) {
            logprob[t->host_rows[first + i]] = lp[i];
            if (entropy) entropy[t->host_rows[first + i]] = ent[i];
        }
    }
    RLF_TRY(kern_sync(t->model->queue));
out:
    return status;
}

/* ---- backward --------------------------------------------------------------------------------------------------------------------- */

/* From d log-prob, d entropy on the host: adds the head's and the final norm's gradients, and sets the rows' part of dx. */
static void head_backward(kern_trainer *t, kern_filter filter, int n, const float *dlogprob, const float *dentropy, kern_tensor grads) {
    const kern_model *m = t->model;
    kern_queue *q = m->queue;
    const rlf_model_shape *s = &m->layout->shape;
    kern_upload(q, t->dlogprob, dlogprob, (size_t)n);
    kern_upload(q, t->dentropy, dentropy, (size_t)n);
    kern_logprob_grad(q, t->dlogits, t->logits, t->stats, t->targets, t->dlogprob, t->dentropy, filter, n, s->vocab);
    kern_linear_grad_weight(q, kern_at(grads, m->head), t->dlogits, t->head_normed, m->attn.factors, n, s->vocab, s->hidden);
    kern_linear_grad_input(q, t->head_normed, t->dlogits, kern_at(m->params, m->head), m->attn.factors, n, s->vocab, s->hidden, false);
    kern_zero(q, t->head_dx, (size_t)n * (size_t)s->hidden);
    kern_rmsnorm_grad(q, t->head_dx, kern_at(grads, m->norm_final), t->head_normed, t->head_x, kern_at(m->params, m->norm_final), m->eps, n,
                      s->hidden);
    kern_rows_scatter(q, t->dx, t->head_dx, t->index, n, s->hidden);
}

static void head(kern_trainer *t, kern_filter filter, int targets, kern_loss_fn *loss, void *ctx, kern_tensor grads) {
    int rows = t->options.head_rows;
    float *logprob = t->host_loss, *entropy = logprob + rows, *dlogprob = entropy + rows, *dentropy = dlogprob + rows;
    for (int first = 0; first < targets; first += rows) {
        int n = targets - first < rows ? targets - first : rows;
        head_forward(t, t->model, filter, first, n, logprob, entropy);
        memset(dlogprob, 0, 2 * (size_t)rows * sizeof *dlogprob);
        loss(ctx, n, t->host_rows + first, logprob, entropy, dlogprob, dentropy);
        head_backward(t, filter, n, dlogprob, dentropy, grads);
    }
}

/* dx as the next two products take it: where activations are bfloat16, rounded once, into normed, which nobody needs yet. */
static kern_tensor dx_for_products(kern_trainer *t, int rows) {
    if (t->dtype == KERN_F32) return t->dx;
    kern_convert(t->model->queue, t->normed, t->dx, (size_t)rows * (size_t)t->model->layout->shape.hidden);
    return t->normed;
}

/* dx: gradient after the layer -> gradient before the MLP. */
static void mlp_backward(kern_trainer *t, int layer, int rows, kern_tensor grads) {
    const kern_model *m = t->model;
    kern_queue *q = m->queue;
    const layer_acts *a = &t->acts[layer];
    const layer_offsets *at = &m->layers[layer];
    int hidden = m->layout->shape.hidden, ffn = m->layout->shape.ffn;
    kern_tensor dx = dx_for_products(t, rows);
    kern_swiglu(q, t->act, a->gate_up, rows, ffn);
    kern_linear_grad_weight(q, kern_at(grads, at->down), dx, t->act, m->attn.factors, rows, hidden, ffn);
    kern_linear_grad_input(q, t->act, dx, kern_at(m->params, at->down), m->attn.factors, rows, hidden, ffn, false);
    kern_swiglu_grad(q, t->dgate_up, t->act, a->gate_up, rows, ffn);
    kern_rmsnorm(q, t->normed, a->mid, kern_at(m->params, at->norm_ffn), m->eps, rows, hidden);
    kern_linear_grad_weight(q, kern_at(grads, at->gate_up), t->dgate_up, t->normed, m->attn.factors, rows, 2 * ffn, hidden);
    kern_linear_grad_input(q, t->normed, t->dgate_up, kern_at(m->params, at->gate_up), m->attn.factors, rows, 2 * ffn, hidden, false);
    kern_rmsnorm_grad(q, t->dx, kern_at(grads, at->norm_ffn), t->normed, a->mid, kern_at(m->params, at->norm_ffn), m->eps, rows, hidden);
}

/* dx: gradient before the MLP -> gradient before the layer. */
static void attention_backward(kern_trainer *t, int layer, const kern_batch *batch, kern_tensor grads) {
    const kern_model *m = t->model;
    kern_queue *q = m->queue;
    const layer_acts *a = &t->acts[layer];
    const layer_offsets *at = &m->layers[layer];
    kern_tensor q_norm = kern_layer_q_norm(m, layer, m->params), k_norm = kern_layer_k_norm(m, layer, m->params);
    int rows = batch->rows, hidden = m->layout->shape.hidden, width = kern_qkv_width(m->attn), inner = m->attn.heads * m->attn.head_dim;
    kern_tensor dx = dx_for_products(t, rows);
    kern_linear_grad_weight(q, kern_at(grads, at->o), dx, a->attn, m->attn.factors, rows, hidden, inner);
    kern_linear_grad_input(q, t->dattn, dx, kern_at(m->params, at->o), m->attn.factors, rows, hidden, inner, false);
    kern_qk_rope(q, t->qkv, a->qkv_in, q_norm, k_norm, m->eps, m->rope, t->pos, rows, m->attn, NULL);
    kern_attention_grad(q, t->dqkv, t->dattn, a->attn, a->lse, t->qkv, batch->seq_begin, batch->seqs, m->attn);
    kern_qk_rope_grad(q, t->dqkv, kern_layer_q_norm(m, layer, grads), kern_layer_k_norm(m, layer, grads), t->dqkv, a->qkv_in,
                      q_norm, k_norm, m->eps, m->rope, t->pos, rows, m->attn);
    kern_rmsnorm(q, t->normed, a->x, kern_at(m->params, at->norm_attn), m->eps, rows, hidden);
    kern_linear_grad_weight(q, kern_at(grads, at->qkv), t->dqkv, t->normed, m->attn.factors, rows, width, hidden);
    if (m->layout->shape.qkv_bias) kern_bias_grad(q, kern_at(grads, at->qkv_bias), t->dqkv, rows, width);
    kern_linear_grad_input(q, t->normed, t->dqkv, kern_at(m->params, at->qkv), m->attn.factors, rows, width, hidden, false);
    kern_rmsnorm_grad(q, t->dx, kern_at(grads, at->norm_attn), t->normed, a->x, kern_at(m->params, at->norm_attn), m->eps, rows, hidden);
}

rlf_status kern_trainer_gradients(kern_trainer *trainer, const kern_batch *batch, kern_filter filter, kern_loss_fn *loss, void *ctx,
                                  kern_tensor grads) {
    rlf_status status = RLF_OK;
    kern_trainer *t = trainer;
    const kern_model *m = t->model;
    int hidden = m->layout->shape.hidden;
    if (!t->options.gradients) RLF_FAIL(INVALID, "this trainer was made without gradients");
    RLF_TRY(check_batch(t, m, batch));
    int targets = collect_targets(t, batch);
    forward(t, m, batch);
    kern_zero(m->queue, t->dx, (size_t)batch->rows * (size_t)hidden);
    head(t, filter, targets, loss, ctx, grads);
    for (int i = m->layout->shape.layers - 1; i >= 0; i--) {
        if (t->options.recompute && i < m->layout->shape.layers - 1) recompute_layer(t, batch, i);
        mlp_backward(t, i, batch->rows, grads);
        attention_backward(t, i, batch, grads);
    }
    kern_embed_grad(m->queue, kern_at(grads, m->embed), t->dx, t->tokens, batch->rows, hidden);
    RLF_TRY(kern_sync(m->queue));
out:
    return status;
}
