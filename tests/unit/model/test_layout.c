/* The named shapes and the layout of parameters in one slab. */
#include "tests/test.h"

#include <stdio.h>
#include <string.h>

#include "common/model/model.h"

static rlf_model_layout layout_of(const char *name) {
    rlf_model_shape shape;
    rlf_model_layout layout;
    assert_ok(rlf_model_shape_named(&shape, name));
    rlf_model_layout_init(&layout, &shape);
    return layout;
}

static size_t parameters(const rlf_model_layout *layout) {
    size_t n = 0;
    for (size_t i = 0; i < layout->n_tensors; i++) n += (size_t)layout->tensors[i].rows * (size_t)layout->tensors[i].cols;
    return n;
}

static void names_are_found_whatever_their_case(void **state) {
    (void)state;
    rlf_model_shape a, b;
    assert_ok(rlf_model_shape_named(&a, "Qwen3-4B"));
    assert_ok(rlf_model_shape_named(&b, "qwen3-4b"));
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(a.heads * a.head_dim, 4096);
    assert_int_equal(a.hidden, 2560);
}

static void unknown_name_lists_the_known_ones(void **state) {
    (void)state;
    rlf_model_shape shape;
    assert_error(rlf_model_shape_named(&shape, "gpt-5"), RLF_NOT_FOUND, "gpt-5");
    assert_non_null(strstr(rlf_error_message(), "bench-42m"));
    assert_non_null(strstr(rlf_error_message(), "qwen3-8b"));
}

static void parameter_counts_match_the_published_models(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t parameters;
    } published[] = {{"qwen3-0.6b", 596049920},    {"qwen3-8b", 8190735360},     {"qwen2.5-3b", 3085938688}, {"qwen2.5-7b", 7615616512},
                     {"llama-3.2-1b", 1235814400}, {"llama-3.1-8b", 8030261248}, {"bench-42m", 41559552}};
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        rlf_model_layout layout = layout_of(published[i].name);
        assert_int_equal(parameters(&layout), published[i].parameters);
        rlf_model_layout_clean_up(&layout);
    }
}

static void tensors_are_ordered_and_do_not_overlap(void **state) {
    (void)state;
    rlf_model_layout layout = layout_of("qwen3-8b");
    size_t end = 0;
    for (size_t i = 0; i < layout.n_tensors; i++) {
        const rlf_tensor_info *t = &layout.tensors[i];
        assert_in_range(t->offset, end, end + 15);
        end = t->offset + (size_t)t->rows * (size_t)t->cols;
    }
    assert_in_range(layout.total, end, end + 15);
    assert_int_equal(layout.total % 16, 0);
    rlf_model_layout_clean_up(&layout);
}

static void projections_of_one_product_are_adjacent_even_at_odd_sizes(void **state) {
    (void)state;
    rlf_model_shape shape = {.family = "qwen3", .hidden = 10, .layers = 2, .heads = 3, .kv_heads = 1, .head_dim = 6, .ffn = 7, .vocab = 11,
                             .max_positions = 32, .rope_theta = 1e4, .rms_eps = 1e-6, .qk_norm = true, .qkv_bias = true};
    rlf_model_layout layout;
    rlf_model_layout_init(&layout, &shape);
    for (int i = 0; i < shape.layers; i++) {
        size_t q = rlf_model_tensor(&layout, RLF_T_Q, i)->offset, b = rlf_model_tensor(&layout, RLF_T_Q_BIAS, i)->offset;
        assert_int_equal(q % 16, 0);
        assert_int_equal(rlf_model_tensor(&layout, RLF_T_K, i)->offset, q + 18 * 10);
        assert_int_equal(rlf_model_tensor(&layout, RLF_T_V, i)->offset, q + 24 * 10);
        assert_int_equal(rlf_model_tensor(&layout, RLF_T_K_BIAS, i)->offset, b + 18);
        assert_int_equal(rlf_model_tensor(&layout, RLF_T_V_BIAS, i)->offset, b + 24);
        assert_int_equal(rlf_model_tensor(&layout, RLF_T_UP, i)->offset, rlf_model_tensor(&layout, RLF_T_GATE, i)->offset + 70);
    }
    rlf_model_layout_clean_up(&layout);
}

static void tensors_carry_hugging_face_names(void **state) {
    (void)state;
    rlf_model_layout tied = layout_of("tiny"), untied = layout_of("qwen3-8b");
    assert_string_equal(rlf_model_tensor(&tied, RLF_T_DOWN, 1)->name, "model.layers.1.mlp.down_proj.weight");
    assert_string_equal(rlf_model_tensor(&tied, RLF_T_Q_NORM, 0)->name, "model.layers.0.self_attn.q_norm.weight");
    assert_string_equal(rlf_model_tensor(&untied, RLF_T_HEAD, -1)->name, "lm_head.weight");
    assert_null(rlf_model_tensor(&tied, RLF_T_HEAD, -1));
    assert_null(rlf_model_tensor(&tied, RLF_T_Q_BIAS, 0));
    assert_null(rlf_model_tensor(&tied, RLF_T_Q, 2));
    rlf_model_layout_clean_up(&tied);
    rlf_model_layout_clean_up(&untied);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_found_whatever_their_case),
        cmocka_unit_test(unknown_name_lists_the_known_ones),
        cmocka_unit_test(parameter_counts_match_the_published_models),
        cmocka_unit_test(tensors_are_ordered_and_do_not_overlap),
        cmocka_unit_test(projections_of_one_product_are_adjacent_even_at_odd_sizes),
        cmocka_unit_test(tensors_carry_hugging_face_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
