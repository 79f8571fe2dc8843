/* Continuous batching over a paged cache (engine.h).
 *
 * Sequences are kept in the order they were opened, which is their priority for pages; goes_before tells who gets a seat, and rows. A
 * step is built in host arrays and queued with its draws; its draws are collected, and only then are owners called.
 *
 * Ahead. Where the model runs while the host does something else, a step is built and queued before the draws of the one before
 * are collected: a sequence goes on with the token that it is about to have, as if it were there (length). Owners are called while that
 * step runs. If one then pauses its sequence, appends to it or closes it, what the step draws for it is nobody's (disown), and
 * the row it was drawn from is taken again when it goes on: the token that the row was for is the sequence's all the same, so no bit
 * changes. Pages may change hands at once, as the model does things in order. */
#include "rollout/engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "rollout/pages.h"

enum { MEMORY = 64 }; /* window of mean_pages, in ended sequences */

struct rollout_prompt {
    rollout_engine *engine;
    rlf_ids ids;
    int32_t *pages; /* (max_pages) the first n_pages are held */
    int n_pages;
    size_t cached;  /* tokens in the cache; all but the last token are wanted there */
    int holders;
    bool in_step;
};

/* A queued step: the sequences that it draws a token for. */
typedef struct flight {
    bool going;          /* queued, and its tokens not handed out */
    rollout_seq **owner; /* (batch) of each output; NULL: the sequence no longer wants it */
    int outputs;
} flight;

struct rollout_seq {
    rollout_engine *engine;
    rollout_prompt *prompt;
    rollout_draw draw;
    rollout_token_fn *token;
    void *owner;
    rlf_ids ids;
    float *logprobs; /* (cap_logprobs) */
    size_t cap_logprobs;
    int32_t *pages;  /* (max_pages) the first n_pages are held */
    int n_pages;
    size_t cached;
    const flight *flight; /* the step that draws its next token; NULL: none */
    int output;           /* which output of it */
    bool attached;   /* holds the prompt's pages; false: cached is 0 */
    bool paused, seated, started, in_step;
    int64_t rounds;  /* times it was resumed */
    int64_t ready;   /* number of the event that opened or last resumed it */
    size_t age;      /* its place among all sequences, while a step is built */
};

struct rollout_engine {
    rollout_model model;
    rollout_engine_options options;
    rollout_engine_stats stats;
    rollout_pages pages;
    int max_pages; /* of one sequence */
    rollout_seq **seqs; /* by age, oldest first */
    size_t n_seqs, cap_seqs;
    int seated;
    int64_t events;    /* sequences opened or resumed so far */
    int started;       /* sequences that had a seat and are open */
    double mean_pages; /* moving average over ended sequences; begins at max_pages */
    rollout_prompt **prompts;
    size_t n_prompts, cap_prompts;
    /* the step being built */
    rollout_seq **order; /* (seats) who has a seat, in the order in which they get rows */
    int rows, places, outputs;
    int32_t *tokens, *pos, *seq, *slots, *output_rows, *ids; /* (batch) */
    int32_t *page_table; /* (batch, max_pages) */
    kern_sample_key *keys;
    float *logprobs;
    const rollout_draw *kind; /* what is drawn in this step; NULL until the first output */
    flight flights[2], *next, *last; /* of the step being built, and the one before */
};

/* ---- the model -------------------------------------------------------------------------------------------------------------------- */

static rlf_status decoder_step(void *ctx, const kern_step *step) { return kern_decoder_step(ctx, step); }
static void decoder_draw(void *ctx, kern_filter filter, uint64_t seed, const kern_sample_key *keys) {
    kern_decoder_draw(ctx, filter, seed, keys);
}
static rlf_status decoder_collect(void *ctx, int32_t *ids, float *logprobs) { return kern_decoder_collect(ctx, ids, logprobs); }
static void decoder_copy_page(void *ctx, int dst_page, int src_page) { kern_decoder_copy_page(ctx, dst_page, src_page); }

rollout_model rollout_model_of(kern_decoder *decoder) {
    return (rollout_model){.ctx = decoder, .step = decoder_step, .draw = decoder_draw, .collect = decoder_collect,
                           .copy_page = decoder_copy_page, .ahead = kern_decoder_runs_ahead(decoder)};
}

/* Pages of the longest episode. */
static int max_pages_of(const rollout_engine_options *o) { return (o->max_tokens + o->page_size - 1) / o->page_size; }

static kern_decoder_options decoder_options(const rollout_engine_options *o) {
    return (kern_decoder_options){.page_size = o->page_size, .pages = o->pages, .max_pages = max_pages_of(o), .max_rows = o->batch,
                                  .max_outputs = o->seats < o->batch ? o->seats : o->batch};
}

rlf_status rollout_decoder_new(kern_decoder **out, kern_model *model, const rollout_engine_options *o) {
    kern_decoder_options options = decoder_options(o);
    return kern_decoder_new(out, model, &options);
}

size_t rollout_decoder_bytes(const rlf_model_layout *layout, kern_precision precision, const char *device, const rollout_engine_options *o) {
    kern_decoder_options options = decoder_options(o);
    return kern_decoder_bytes(layout, precision, device, &options);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------- */

static rlf_status check_options(const rollout_engine_options *o, int max_pages) {
    if (o->batch < 1 || o->prefill_chunk < 1 || o->seats < 1 || o->max_tokens < 1)
        return RLF_RAISE(INVALID, "rollout batch %d, prefill_chunk %d, seats %d, longest episode %d tokens: expected at least 1 "
                                  "of each", o->batch,
                         o->prefill_chunk, o->seats, o->max_tokens);
    if (o->pages < max_pages + 1)
        return RLF_RAISE(LIMIT, "rollout.cache_tokens gives %d pages of %d tokens, but one episode of %d tokens needs %d",
                         o->pages, o->page_size, o->max_tokens, max_pages + 1);
    return RLF_OK;
}

rlf_status rollout_engine_new(rollout_engine **out, rollout_model model, const rollout_engine_options *options) {
    rlf_status status = RLF_OK;
    size_t batch = (size_t)options->batch;
    rollout_engine *e = NULL;
    int max_pages = max_pages_of(options);
    RLF_TRY(check_options(options, max_pages));
    e = rlf_calloc(1, sizeof *e);
    e->model = model;
    e->options = *options;
    e->max_pages = max_pages;
    e->mean_pages = max_pages;
    rollout_pages_init(&e->pages, options->pages);
    e->order = rlf_calloc((size_t)options->seats, sizeof(*e->order));
    e->tokens = rlf_calloc(batch, sizeof *e->tokens);
    e->pos = rlf_calloc(batch, sizeof *e->pos);
    e->seq = rlf_calloc(batch, sizeof *e->seq);
    e->slots = rlf_calloc(batch, sizeof *e->slots);
    e->output_rows = rlf_calloc(batch, sizeof *e->output_rows);
    e->ids = rlf_calloc(batch, sizeof *e->ids);
    e->page_table = rlf_calloc(batch * (size_t)max_pages, sizeof *e->page_table);
    for (int i = 0; i < 2; i++) e->flights[i].owner = rlf_calloc(batch, sizeof(rollout_seq *));
    e->next = &e->flights[0];
    e->last = &e->flights[1];
    e->keys = rlf_calloc(batch, sizeof *e->keys);
    e->logprobs = rlf_calloc(batch, sizeof *e->logprobs);
    *out = e;
out:
    return status;
}

void rollout_engine_destroy(rollout_engine *engine) {
    if (!engine) return;
    assert(engine->n_seqs == 0 && engine->n_prompts == 0);
    assert(engine->pages.n_free == engine->pages.n);
    rollout_pages_clean_up(&engine->pages);
    free(engine->seqs);
    free(engine->prompts);
    free(engine->order);
    free(engine->tokens);
    free(engine->pos);
    free(engine->seq);
    free(engine->slots);
    free(engine->output_rows);
    free(engine->ids);
    free(engine->page_table);
    for (int i = 0; i < 2; i++) free(engine->flights[i].owner);
    free(engine->keys);
    free(engine->logprobs);
    free(engine);
}

const rollout_engine_stats *rollout_engine_statistics(const rollout_engine *engine) { return &engine->stats; }

/* ---- prompts ---------------------------------------------------------------------------------------------------------------------- */

rollout_prompt *rollout_prompt_new(rollout_engine *engine, const int32_t *ids, size_t n) {
    assert(n >= 1 && n <= (size_t)engine->options.max_tokens);
    rollout_prompt *p = rlf_calloc(1, sizeof *p);
    p->engine = engine;
    p->holders = 1;
    p->pages = rlf_calloc((size_t)engine->max_pages, sizeof *p->pages);
    rlf_ids_append(&p->ids, ids, n);
    engine->prompts = rlf_grow(engine->prompts, engine->n_prompts, &engine->cap_prompts, sizeof(*engine->prompts));
    engine->prompts[engine->n_prompts++] = p;
    return p;
}

static void prompt_drop_pages(rollout_prompt *p) {
    for (int i = 0; i < p->n_pages; i++) rollout_pages_release(&p->engine->pages, p->pages[i]);
    p->n_pages = 0;
    p->cached = 0;
}

void rollout_prompt_release(rollout_prompt *prompt) {
    rollout_engine *e = prompt->engine;
    size_t i = 0;
    if (--prompt->holders) return;
    prompt_drop_pages(prompt);
    while (e->prompts[i] != prompt) i++;
    e->n_prompts--;
    memmove(e->prompts + i, e->prompts + i + 1, (e->n_prompts - i) * sizeof(*e->prompts));
    rlf_ids_clean_up(&prompt->ids);
    free(prompt->pages);
    free(prompt);
}

static bool prompt_complete(const rollout_prompt *p) { return p->cached + 1 == p->ids.n; }

/* ---- sequences -------------------------------------------------------------------------------------------------------------------- */

static void push_token(rollout_seq *s, int32_t id, float logprob) {
    s->logprobs = rlf_grow(s->logprobs, s->ids.n, &s->cap_logprobs, sizeof *s->logprobs);
    s->logprobs[s->ids.n] = logprob;
    rlf_ids_push(&s->ids, id);
}

rollout_seq *rollout_seq_open(rollout_engine *engine, rollout_prompt *prompt, rollout_draw draw, rollout_token_fn *token, void *owner) {
    rollout_seq *s = rlf_calloc(1, sizeof *s);
    *s = (rollout_seq){.engine = engine, .prompt = prompt, .draw = draw, .token = token, .owner = owner, .ready = engine->events++};
    s->pages = rlf_calloc((size_t)engine->max_pages, sizeof *s->pages);
    for (size_t i = 0; i < prompt->ids.n; i++) push_token(s, prompt->ids.v[i], 0);
    prompt->holders++;
    engine->seqs = rlf_grow(engine->seqs, engine->n_seqs, &engine->cap_seqs, sizeof(*engine->seqs));
    engine->seqs[engine->n_seqs++] = s;
    return s;
}

static void seq_drop_pages(rollout_seq *s) {
    for (int i = 0; i < s->n_pages; i++) rollout_pages_release(&s->engine->pages, s->pages[i]);
    s->n_pages = 0;
    s->cached = 0;
    s->attached = false;
}

static void leave_seat(rollout_seq *s) {
    if (s->seated) s->engine->seated--;
    s->seated = false;
}

/* Its length goes into mean_pages. */
static void count_ended(rollout_engine *e, const rollout_seq *s) {
    size_t size = (size_t)e->options.page_size;
    if (!s->started) return;
    e->started--;
    e->mean_pages += ((double)((s->ids.n + size - 1) / size) - e->mean_pages) / MEMORY;
}

/* The token being drawn for it is dropped; the row it is drawn from is computed again. */
static void disown(rollout_seq *s) {
    if (!s->flight) return;
    s->flight->owner[s->output] = NULL;
    s->flight = NULL;
    if (s->cached) s->cached--;
}

void rollout_seq_close(rollout_seq *seq) {
    rollout_engine *e = seq->engine;
    size_t i = 0;
    disown(seq);
    count_ended(e, seq);
    leave_seat(seq);
    seq_drop_pages(seq);
    while (e->seqs[i] != seq) i++;
    e->n_seqs--;
    memmove(e->seqs + i, e->seqs + i + 1, (e->n_seqs - i) * sizeof(*e->seqs));
    rollout_prompt_release(seq->prompt);
    rlf_ids_clean_up(&seq->ids);
    free(seq->logprobs);
    free(seq->pages);
    free(seq);
}

void rollout_seq_pause(rollout_seq *seq) {
    disown(seq);
    leave_seat(seq);
    seq->paused = true;
}

void rollout_seq_resume(rollout_seq *seq) {
    seq->paused = false;
    seq->rounds++;
    seq->ready = seq->engine->events++;
}

void rollout_seq_append(rollout_seq *seq, const int32_t *ids, size_t n) {
    assert(n >= 1 && seq->ids.n + n <= (size_t)seq->engine->options.max_tokens);
    disown(seq);
    for (size_t i = 0; i < n; i++) push_token(seq, ids[i], 0);
}

const rlf_ids *rollout_seq_tokens(const rollout_seq *seq) { return &seq->ids; }
const float *rollout_seq_logprobs(const rollout_seq *seq) { return seq->logprobs; }
bool rollout_seq_seated(const rollout_seq *seq) { return seq->seated; }

/* ---- pages under pressure --------------------------------------------------------------------------------------------------------- */

/* The oldest sequence (with a seat, if only those count) that still has to take its pages from this prompt; n_seqs if none has. */
static size_t prompt_age(const rollout_engine *e, const rollout_prompt *p, bool seated) {
    size_t i = 0;
    while (i < e->n_seqs && (e->seqs[i]->prompt != p || e->seqs[i]->attached || (seated && !e->seqs[i]->seated))) i++;
    return i;
}

/* Frees the pages of a prompt that all its sequences are attached to: they hold the full ones themselves. */
static bool give_up_idle_prompt(rollout_engine *e) {
    for (size_t i = 0; i < e->n_prompts; i++) {
        rollout_prompt *p = e->prompts[i];
        if (!p->n_pages || p->in_step || prompt_age(e, p, false) < e->n_seqs) continue;
        prompt_drop_pages(p);
        return true;
    }
    return false;
}

static bool give_up_seq(rollout_engine *e, size_t age, bool unseated) {
    for (size_t i = e->n_seqs; i-- > 0;) {
        rollout_seq *s = e->seqs[i];
        if (!s->n_pages || s->in_step || (unseated ? s->seated : i <= age)) continue;
        seq_drop_pages(s);
        e->stats.given_up++;
        return true;
    }
    return false;
}

static bool give_up_young_prompt(rollout_engine *e, size_t age) {
    for (size_t i = e->n_prompts; i-- > 0;) {
        rollout_prompt *p = e->prompts[i];
        if (!p->n_pages || p->in_step || prompt_age(e, p, true) <= age) continue;
        prompt_drop_pages(p);
        e->stats.given_up++;
        return true;
    }
    return false;
}

/* A page for the sequence of that age (its index), if need be from those that go behind it. -1: none this time. */
static int32_t take_page(rollout_engine *e, size_t age) {
    int32_t page = rollout_pages_take(&e->pages);
    while (page < 0 && (give_up_idle_prompt(e) || give_up_seq(e, age, true) || give_up_young_prompt(e, age) || give_up_seq(e, age, false)))
        page = rollout_pages_take(&e->pages);
    return page;
}

/* Pages for tokens 0..tokens-1; returns how many tokens the pages now hold room for, at most `tokens`. */
static size_t grow_pages(rollout_engine *e, size_t age, int32_t *pages, int *n_pages, size_t tokens) {
    size_t size = (size_t)e->options.page_size;
    while ((size_t)*n_pages * size < tokens) {
        int32_t page = take_page(e, age);
        if (page < 0) break;
        pages[(*n_pages)++] = page;
    }
    return (size_t)*n_pages * size < tokens ? (size_t)*n_pages * size : tokens;
}

/* Shares the prompt's full pages and copies the partial one. Does nothing while there is no page for the copy. */
static void attach(rollout_engine *e, rollout_seq *s, size_t age) {
    rollout_prompt *p = s->prompt;
    size_t size = (size_t)e->options.page_size;
    int full = (int)(p->cached / size);
    assert(s->n_pages == 0 && s->cached == 0);
    if (p->cached % size) {
        int32_t copy = take_page(e, age); /* never from p itself, which s still needs */
        if (copy < 0) return;
        e->model.copy_page(e->model.ctx, copy, p->pages[full]);
        s->pages[full] = copy;
        s->n_pages = 1;
    }
    for (int i = 0; i < full; i++) {
        s->pages[i] = p->pages[i];
        rollout_pages_retain(&e->pages, p->pages[i]);
    }
    s->n_pages += full;
    s->cached = p->cached;
    s->attached = true;
}

/* ---- a step ----------------------------------------------------------------------------------------------------------------------- */

static bool same_kind(const rollout_draw *a, const rollout_draw *b) {
    return a->seed == b->seed && a->filter.temperature == b->filter.temperature && a->filter.top_p == b->filter.top_p &&
           a->filter.top_k == b->filter.top_k;
}

/* Whether the cache would hold one more sequence to its end, were it as long as others were. */
static bool has_room(const rollout_engine *e) { return (e->started + 1) * e->mean_pages <= e->options.pages; }

/* Who gets a free seat, and rows, first: the one with the fewest rounds behind it, for it has the most waiting ahead; then the one that has
 * been ready longest. One that has not begun comes last where it would cost others their pages. */
static bool goes_before(const rollout_seq *a, const rollout_seq *b, bool room) {
    if (!room && a->started != b->started) return a->started;
    return a->rounds != b->rounds ? a->rounds < b->rounds : a->ready < b->ready;
}

static rollout_seq *next_to_sit(const rollout_engine *e) {
    rollout_seq *next = NULL;
    bool room = has_room(e);
    for (size_t i = 0; i < e->n_seqs; i++) {
        rollout_seq *s = e->seqs[i];
        if (!s->paused && !s->seated && (!next || goes_before(s, next, room))) next = s;
    }
    return next;
}

static void give_seats(rollout_engine *e) {
    rollout_seq *s;
    while (e->seated < e->options.seats && (s = next_to_sit(e))) {
        e->started += !s->started;
        s->seated = s->started = true;
        e->seated++;
    }
}

/* Its tokens, with the one that is being drawn. */
static size_t length(const rollout_seq *s) { return s->ids.n + (s->flight != NULL); }

/* Whether it has room to go on; one that is drawing its last token has not. */
static bool may_go_on(const rollout_seq *s) { return !s->flight || length(s) < (size_t)s->engine->options.max_tokens; }

/* Tokens begin .. begin+n-1, of which the last may be the one after `ids`, which is output `drawn` of the step before. */
static void add_rows(rollout_engine *e, const rlf_ids *ids, int drawn, const int32_t *pages, int n_pages, size_t begin, size_t n) {
    size_t size = (size_t)e->options.page_size;
    memcpy(e->page_table + (size_t)e->places * (size_t)e->max_pages, pages, (size_t)n_pages * sizeof *pages);
    for (size_t p = begin; p < begin + n; p++, e->rows++) {
        e->tokens[e->rows] = p < ids->n ? ids->v[p] : KERN_DRAWN(drawn);
        e->pos[e->rows] = (int32_t)p;
        e->seq[e->rows] = e->places;
        e->slots[e->rows] = (int32_t)((size_t)pages[p / size] * size + p % size);
    }
    e->places++;
}

static size_t clamp_rows(const rollout_engine *e, size_t wanted) {
    size_t left = (size_t)(e->options.batch - e->rows), chunk = (size_t)e->options.prefill_chunk;
    if (wanted > chunk) wanted = chunk;
    return wanted < left ? wanted : left;
}

static void place_prompt(rollout_engine *e, rollout_prompt *p, size_t age) {
    size_t n = clamp_rows(e, p->ids.n - 1 - p->cached);
    if (p->in_step || !n) return;
    p->in_step = true;
    n = grow_pages(e, age, p->pages, &p->n_pages, p->cached + n) - p->cached;
    p->in_step = n > 0;
    if (!n) return;
    add_rows(e, &p->ids, 0, p->pages, p->n_pages, p->cached, n);
    p->cached += n;
    e->stats.prompt_rows += (int64_t)n;
}

static void add_output(rollout_engine *e, rollout_seq *s) {
    e->kind = &s->draw;
    e->output_rows[e->outputs] = e->rows - 1;
    e->next->owner[e->outputs] = s;
    e->keys[e->outputs] = (kern_sample_key){.uid = s->draw.uid, .sample = s->draw.sample, .position = (uint32_t)length(s)};
    e->outputs++;
}

static void place_seq(rollout_engine *e, rollout_seq *s, size_t age) {
    size_t n = clamp_rows(e, length(s) - s->cached);
    bool last = n && s->cached + n == length(s);
    if (last && e->kind && !same_kind(e->kind, &s->draw)) n--, last = false; /* its draw waits for a step of its kind */
    if (!n) return;
    s->in_step = true;
    n = grow_pages(e, age, s->pages, &s->n_pages, s->cached + n) - s->cached;
    s->in_step = n > 0;
    if (!n) return;
    add_rows(e, &s->ids, s->output, s->pages, s->n_pages, s->cached, n);
    s->cached += n;
    if (last && s->cached == length(s)) add_output(e, s);
}

static int compare_seated(const void *a, const void *b) {
    const rollout_seq *x = *(rollout_seq *const *)a, *y = *(rollout_seq *const *)b;
    return goes_before(x, y, true) ? -1 : goes_before(y, x, true);
}

static void order_seated(rollout_engine *e) {
    size_t n = 0;
    for (size_t i = 0; i < e->n_seqs; i++) {
        rollout_seq *s = e->seqs[i];
        s->age = i;
        if (s->seated) e->order[n++] = s;
    }
    qsort(e->order, n, sizeof(*e->order), compare_seated);
}

static void place_prefill(rollout_engine *e, rollout_seq *s) {
    if (s->in_step || !may_go_on(s)) return;
    if (s->attached) place_seq(e, s, s->age);
    else if (!prompt_complete(s->prompt)) place_prompt(e, s->prompt, s->age);
}

static rollout_seq *oldest_seated(const rollout_engine *e) {
    rollout_seq *oldest = NULL;
    for (int i = 0; i < e->seated; i++)
        if (!oldest || e->order[i]->age < oldest->age) oldest = e->order[i];
    return oldest;
}

/* Decodes first, then prefill chunks. The oldest sequence's chunk comes before all others, since nobody takes its pages: others could fill
 * every step with rows whose pages the next step takes away, and none would finish. */
static void build_step(rollout_engine *e) {
    e->rows = e->places = e->outputs = 0;
    e->kind = NULL;
    give_seats(e);
    order_seated(e);
    for (int i = 0; i < e->seated; i++) {
        rollout_seq *s = e->order[i];
        if (!may_go_on(s)) continue;
        if (!s->attached && prompt_complete(s->prompt) && !s->prompt->in_step) attach(e, s, s->age);
        if (s->attached && s->cached + 1 == length(s)) place_seq(e, s, s->age);
    }
    if (e->seated) place_prefill(e, oldest_seated(e));
    for (int i = 0; i < e->seated && e->rows < e->options.batch; i++) place_prefill(e, e->order[i]);
}

static void forget_step(rollout_engine *e) {
    for (size_t i = 0; i < e->n_seqs; i++) e->seqs[i]->in_step = false;
    for (size_t i = 0; i < e->n_prompts; i++) e->prompts[i]->in_step = false;
}

/* The step that was built, with its draws. */
static rlf_status queue_step(rollout_engine *e) {
    rlf_status status = RLF_OK;
    flight *f = e->next;
    kern_step step = {.rows = e->rows, .tokens = e->tokens, .pos = e->pos, .seq = e->seq, .slots = e->slots, .max_pages = e->max_pages,
                      .page_table = e->page_table, .outputs = e->outputs, .output_rows = e->output_rows};
    RLF_TRY(e->model.step(e->model.ctx, &step));
    if (e->outputs) e->model.draw(e->model.ctx, e->kind->filter, e->kind->seed, e->keys);
    f->going = true;
    f->outputs = e->outputs;
    for (int i = 0; i < f->outputs; i++) {
        f->owner[i]->flight = f;
        f->owner[i]->output = i;
    }
    e->stats.steps++;
    e->stats.rows += e->rows;
out:
    return status;
}

static rlf_status hand_out(rollout_engine *e, rollout_seq *s, int32_t id, float logprob) {
    if (s->ids.n >= (size_t)e->options.max_tokens)
        return RLF_RAISE(INTERNAL, "episode %llu.%u has %zu tokens and no room for one more", (unsigned long long)s->draw.uid, s->draw.sample,
                         s->ids.n);
    e->stats.tokens++;
    push_token(s, id, logprob);
    return s->token(s->owner, s, id, logprob);
}

/* What the step has drawn goes to those it was drawn for. */
static rlf_status land(rollout_engine *e, flight *f) {
    rlf_status status = RLF_OK;
    if (!f->going) return RLF_OK;
    f->going = false;
    if (f->outputs) RLF_TRY(e->model.collect(e->model.ctx, e->ids, e->logprobs));
    for (int i = 0; i < f->outputs; i++)
        if (f->owner[i] && f->owner[i]->flight == f) f->owner[i]->flight = NULL;
    for (int i = 0; i < f->outputs; i++)
        if (f->owner[i]) RLF_TRY(hand_out(e, f->owner[i], e->ids[i], e->logprobs[i]));
out:
    return status;
}

bool rollout_engine_ready(const rollout_engine *engine) {
    for (size_t i = 0; i < engine->n_seqs; i++)
        if (!engine->seqs[i]->paused) return true;
    return engine->last->going;
}

rlf_status rollout_engine_step(rollout_engine *engine) {
    rlf_status status = RLF_OK;
    if (!rollout_engine_ready(engine)) return RLF_OK;
    build_step(engine);
    forget_step(engine);
    assert(engine->rows > 0 || engine->last->going);
    if (engine->rows) RLF_TRY(queue_step(engine));
    flight *before = engine->last;
    engine->last = engine->next;
    engine->next = before;
    RLF_TRY(land(engine, engine->model.ahead ? before : engine->last));
out:
    return status;
}
