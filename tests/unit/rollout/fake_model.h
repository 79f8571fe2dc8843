/* A model without arithmetic behind the engine: it keeps, for every cache slot, which token of which position was written there, and checks
 * that each row finds exactly the tokens 0..pos of its sequence in the pages it is given. What it draws is a hash of those
 * tokens and of the key, so a page mixed up anywhere changes a token; or the next token of a script, where there is one. */
#ifndef RLF_TESTS_ROLLOUT_FAKE_MODEL_H
#define RLF_TESTS_ROLLOUT_FAKE_MODEL_H

#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

#include "rollout/engine.h"

enum { FAKE_SCRIPTS = 64, FAKE_OUTPUTS = 4096 };

typedef struct fake_script {
    uint64_t uid;
    uint32_t sample;
    rlf_ids ids;    /* drawn one after the other */
    size_t next;
} fake_script;

typedef struct fake_cell { int32_t token, pos; } fake_cell;

typedef struct fake_draw {
    int32_t ids[FAKE_OUTPUTS];
    float logprobs[FAKE_OUTPUTS];
    int n;
} fake_draw;

typedef struct fake_model {
    int page_size, pages, vocab;
    fake_cell *cells; /* (pages * page_size) */
    uint64_t hash[FAKE_OUTPUTS];
    int outputs, most_rows;
    fake_draw draws[2];          /* not collected: the first is the older */
    int n_draws;
    int32_t drawn[FAKE_OUTPUTS]; /* by the last draw */
    int n_drawn;
    bool ahead;
    int fails_in; /* steps; 0: never */
    int copies;
    fake_script scripts[FAKE_SCRIPTS];
    int n_scripts;
} fake_model;

static inline uint64_t fake_mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

static inline rlf_status fake_step(void *ctx, const kern_step *s) {
    fake_model *m = ctx;
    if (m->fails_in && --m->fails_in == 0) return RLF_RAISE(DEVICE, "the model has failed");
    for (int i = 0; i < s->rows; i++) {
        assert_in_range(s->slots[i], 0, m->pages * m->page_size - 1);
        assert_int_equal(s->slots[i], s->page_table[s->seq[i] * s->max_pages + s->pos[i] / m->page_size] * m->page_size +
                         s->pos[i] % m->page_size);
        int32_t token = s->tokens[i];
        if (token < 0) {
            assert_in_range(KERN_DRAWN(token), 0, m->n_drawn - 1);
            token = m->drawn[KERN_DRAWN(token)];
        }
        m->cells[s->slots[i]] = (fake_cell){token, s->pos[i]};
    }
    for (int o = 0; o < s->outputs; o++) {
        int row = s->output_rows[o];
        uint64_t h = 0;
        for (int p = 0; p <= s->pos[row]; p++) {
            int page = s->page_table[s->seq[row] * s->max_pages + p / m->page_size];
            assert_in_range(page, 0, m->pages - 1);
            fake_cell cell = m->cells[page * m->page_size + p % m->page_size];
            assert_int_equal(cell.pos, p);
            h = fake_mix(h ^ (uint64_t)cell.token);
        }
        m->hash[o] = h;
    }
    m->outputs = s->outputs;
    if (s->rows > m->most_rows) m->most_rows = s->rows;
    return RLF_OK;
}

static inline fake_script *fake_find(fake_model *m, uint64_t uid, uint32_t sample) {
    for (int i = 0; i < m->n_scripts; i++)
        if (m->scripts[i].uid == uid && m->scripts[i].sample == sample) return &m->scripts[i];
    return NULL;
}

static inline void fake_draw_all(void *ctx, kern_filter filter, uint64_t seed, const kern_sample_key *keys) {
    fake_model *m = ctx;
    assert_true(m->n_draws < 2);
    fake_draw *d = &m->draws[m->n_draws++];
    for (int o = 0; o < m->outputs; o++) {
        uint64_t h = fake_mix(m->hash[o] ^ fake_mix(seed ^ fake_mix(keys[o].uid << 32 ^ keys[o].sample) ^ keys[o].position));
        fake_script *script = fake_find(m, keys[o].uid, keys[o].sample);
        d->ids[o] = (int32_t)(h % (uint64_t)m->vocab);
        if (script && script->next < script->ids.n) d->ids[o] = script->ids.v[script->next++];
        d->logprobs[o] = -filter.temperature * (float)(h >> 40) / (float)(1 << 20) - 0.001f;
    }
    d->n = m->n_drawn = m->outputs;
    memcpy(m->drawn, d->ids, (size_t)d->n * sizeof *d->ids);
}

static inline rlf_status fake_collect(void *ctx, int32_t *ids, float *logprobs) {
    fake_model *m = ctx;
    assert_true(m->n_draws > 0);
    memcpy(ids, m->draws[0].ids, (size_t)m->draws[0].n * sizeof *ids);
    memcpy(logprobs, m->draws[0].logprobs, (size_t)m->draws[0].n * sizeof *logprobs);
    m->draws[0] = m->draws[1];
    m->n_draws--;
    return RLF_OK;
}

static inline void fake_copy_page(void *ctx, int dst_page, int src_page) {
    fake_model *m = ctx;
    memcpy(m->cells + dst_page * m->page_size, m->cells + src_page * m->page_size, (size_t)m->page_size * sizeof *m->cells);
    m->copies++;
}

static inline fake_model *fake_new(int page_size, int pages, int vocab) {
    fake_model *m = rlf_calloc(1, sizeof *m);
    m->page_size = page_size;
    m->pages = pages;
    m->vocab = vocab;
    m->cells = rlf_calloc((size_t)(page_size * pages), sizeof *m->cells);
    for (int i = 0; i < page_size * pages; i++) m->cells[i].pos = -1;
    return m;
}

static inline void fake_destroy(fake_model *m) {
    for (int i = 0; i < m->n_scripts; i++) rlf_ids_clean_up(&m->scripts[i].ids);
    free(m->cells);
    free(m);
}

static inline rollout_model fake_model_of(fake_model *m) {
    return (rollout_model){.ctx = m, .step = fake_step, .draw = fake_draw_all, .collect = fake_collect, .copy_page = fake_copy_page,
                           .ahead = m->ahead};
}

#endif
