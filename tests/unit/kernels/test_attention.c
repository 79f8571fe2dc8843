/* Attention, packed and paged, and its gradient: against a naive reference in double, and against itself bit for bit. */
#include "tests/unit/kernels/attention_fixture.h"

static const kern_attn_shape SHAPES[] = {{4, 2, 32, KERN_F32}, {2, 2, 16, KERN_F32}, {3, 1, 64, KERN_F32},  {6, 2, 18, KERN_F32},
                                         {2, 1, 128, KERN_F32}, {1, 1, 8, KERN_F32}, {4, 4, 40, KERN_F32}, {30, 1, 16, KERN_F32}};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

/* ---- cases ------------------------------------------------------------------------------------------------------------------------- */

static void attention_matches_a_double_reference(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){1, 17, 64, 65, 2}, 5);
        result r = run_packed(&fx, &p);
        double *qkv = widened(p.qkv, qkv_size(&p)), *out = rlf_calloc(out_size(&p), sizeof *out),
            *lse = rlf_calloc(lse_size(&p), sizeof *lse);
        reference_forward(&p, qkv, out, lse);
        for (size_t k = 0; k < out_size(&p); k++) close_to("out", r.out[k], out[k], 1e-5);
        for (size_t k = 0; k < lse_size(&p); k++) close_to("lse", r.lse[k], lse[k], 1e-5);
        free(qkv);
        free(out);
        free(lse);
        result_free(&r);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void attention_gradient_matches_finite_differences(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){3, 70, 18}, 3);
        result r = run_packed(&fx, &p);
        double *qkv = widened(p.qkv, qkv_size(&p));
        for (uint32_t n = 0; n < 60; n++) {
            size_t at = (size_t)rlf_rng_below(9, RLF_RNG_TEST, n, 0, 0, qkv_size(&p));
            close_to("dqkv", r.dqkv[at], slope(reference_loss, &p, qkv, at), 1e-4);
        }
        free(qkv);
        result_free(&r);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void attention_is_the_same_on_every_instruction_set_and_thread_count(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){1, 40, 129}, 3);
        result first = {0};
        for (int v = 0; v < N_VARIANTS; v++) {
            fixture fx;
            if (!fx_open(&fx, VARIANTS[v].isa, VARIANTS[v].threads)) continue;
            result r = run_packed(&fx, &p);
            if (v == 0)
                first = r;
            else {
                same_results(&p, &r, &first);
                result_free(&r);
            }
            fx_close(&fx);
        }
        result_free(&first);
        problem_free(&p);
    }
}

static void a_packed_sequence_gives_the_bits_it_gives_alone(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 3));
    for (int i = 0; i < 4; i++) check_alone(&fx, SHAPES[i], (const int[]){5, 300, 1, 64, 33}, 5);
    fx_close(&fx);
}

static void a_prefix_gives_the_bits_it_gives_within_a_longer_sequence(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 1));
    problem p = problem_new(SHAPES[2], (const int[]){530}, 1);
    result all = run_packed(&fx, &p);
    for (int n = 1; n < p.rows; n += 29) {
        problem prefix = p;
        prefix.rows = prefix.begin[1] = n;
        result r = run_packed(&fx, &prefix);
        same_bits("out", r.out, all.out, out_size(&prefix));
        same_bits("lse", r.lse, all.lse, lse_size(&prefix));
        result_free(&r);
    }
    result_free(&all);
    problem_free(&p);
    fx_close(&fx);
}

/* ---- paged ------------------------------------------------------------------------------------------------------------------------- */

static void paged_attention_gives_the_bits_of_packed_attention(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        problem p = problem_new(SHAPES[i], (const int[]){1, 17, 64, 65, 130, 2}, 6);
        float *out = zero_floats(out_size(&p));
        fixture fx;
        assert_true(fx_open(&fx, NULL, 1 + i % 4));
        result packed = run_packed(&fx, &p);
        for (int page = 16; page <= 64; page *= 2)
            for (int chunk = 1; chunk <= 130; chunk = chunk * 3 + 2) {
                run_paged(&fx, &p, page, chunk, out);
                same_bits("paged", out, packed.out, out_size(&p));
            }
        fx_close(&fx);
        free(out);
        result_free(&packed);
        problem_free(&p);
    }
}

static void paged_attention_is_the_same_on_every_instruction_set(void **state) {
    (void)state;
    problem p = problem_new(SHAPES[3], (const int[]){9, 40}, 2);
    float *out = zero_floats(out_size(&p)), *first = zero_floats(out_size(&p));
    for (int v = 0; v < N_VARIANTS; v++) {
        fixture fx;
        if (!fx_open(&fx, VARIANTS[v].isa, VARIANTS[v].threads)) continue;
        run_paged(&fx, &p, 16, 7, v ? out : first);
        if (v) same_bits("paged", out, first, out_size(&p));
        fx_close(&fx);
    }
    free(out);
    free(first);
    problem_free(&p);
}

static void rows_of_a_step_may_come_in_any_order(void **state) {
    (void)state;
    check_any_order(SHAPES[0], (const int[]){20, 33}, 2);
}

static void a_copied_page_serves_like_the_original(void **state) {
    (void)state;
    check_copied_page(SHAPES[0]);
}

static unsigned char *cache_bytes(fixture *fx, const cache *c) {
    const size_t n = kern_kv_bytes(fx->device, c->shape);
    unsigned char *bytes = rlf_calloc(n, 1);
    kern_download(fx->queue, bytes, c->kv, n);
    assert_ok(kern_sync(fx->queue));
    return bytes;
}

/* Normed, turned and kept in one operation, in place, against one after the other: the same rows, and the same bytes of the cache. */
static void check_kept(fixture *fx, const problem *p, bool norms) {
    const size_t n = qkv_size(p), d = (size_t)p->shape.head_dim, m = (size_t)p->rows;
    const int mark = fx->n;
    cache together = cache_new(fx, p, 16), apart = cache_new(fx, p, 16);
    float *table = random_floats(3, m * d, 1.0f), *weight = random_floats(4, d, 1.5f), *got = zero_floats(n), *expected = zero_floats(n);
    int32_t *pos = rlf_calloc(m, sizeof *pos), *slots = rlf_calloc(m, sizeof *slots);
    for (int i = 0; i < p->rows; i++) {
        pos[i] = i * 5 % p->rows;
        slots[i] = (i * 7 + 3) % (together.shape.pages * 16);
    }
    kern_tensor in = fx_as(fx, p->acts, p->qkv, n), out = fx_zeros(fx, p->acts, n);
    kern_tensor rope = fx_f32(fx, table, m * d), at = fx_i32(fx, pos, m);
    kern_tensor q_norm = norms ? fx_f32(fx, weight, d) : kern_none(), k_norm = norms ? fx_f32(fx, p->qkv, d) : kern_none();
    const kern_kv_rows kept = {together.kv, together.shape, LAYER, fx_i32(fx, slots, m)};
    kern_qk_rope(fx->queue, out, in, q_norm, k_norm, 1e-6f, rope, at, p->rows, p->shape, NULL);
    kern_qk_rope(fx->queue, in, in, q_norm, k_norm, 1e-6f, rope, at, p->rows, p->shape, &kept);
    fx_get_wide(fx, expected, out, n);
    fx_get_wide(fx, got, in, n);
    same_bits("rows", got, expected, n);
    keep_rows(fx, p, &apart, out, slots, p->rows);
    unsigned char *left = cache_bytes(fx, &together), *right = cache_bytes(fx, &apart);
    assert_memory_equal(left, right, kern_kv_bytes(fx->device, together.shape));
    free(left), free(right);
    free(table), free(weight), free(got), free(expected), free(pos), free(slots), free(together.table), free(apart.table);
    fx_release(fx, mark);
}

static void keys_kept_as_they_are_turned_are_those_of_the_row(void **state) {
    static const kern_attn_shape shapes[] = {{4, 2, 64, KERN_BF16},  {6, 1, 128, KERN_BF16}, {3, 1, 40, KERN_BF16}, {2, 2, 18, KERN_BF16},
                                             {2, 1, 256, KERN_BF16}, {4, 2, 64, KERN_F32},   {2, 1, 128, KERN_F32}, {30, 1, 16, KERN_F32}};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        problem p = problem_new(shapes[i], (const int[]){21, 1, 15}, 3);
        for (int v = 0; v < N_VARIANTS; v++) {
            fixture fx;
            if (!fx_open(&fx, VARIANTS[v].isa, VARIANTS[v].threads)) continue;
            for (int norms = 0; norms < 2; norms++) {
                p.acts = KERN_F32;
                check_kept(&fx, &p, norms);
                p.acts = kern_activations(fx.device, shapes[i].factors);
                check_kept(&fx, &p, norms);
            }
            fx_close(&fx);
        }
        problem_free(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_a_double_reference),
        cmocka_unit_test(attention_gradient_matches_finite_differences),
        cmocka_unit_test(attention_is_the_same_on_every_instruction_set_and_thread_count),
        cmocka_unit_test(a_packed_sequence_gives_the_bits_it_gives_alone),
        cmocka_unit_test(a_prefix_gives_the_bits_it_gives_within_a_longer_sequence),
        cmocka_unit_test(paged_attention_gives_the_bits_of_packed_attention),
        cmocka_unit_test(paged_attention_is_the_same_on_every_instruction_set),
        cmocka_unit_test(rows_of_a_step_may_come_in_any_order),
        cmocka_unit_test(a_copied_page_serves_like_the_original),
        cmocka_unit_test(keys_kept_as_they_are_turned_are_those_of_the_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
