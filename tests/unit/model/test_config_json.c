/* config.json: what is read from it, and what is refused and in which words. */
#include "tests/test.h"

#include <stdio.h>
#include <string.h>

#include "common/model/model.h"

#define SIZES "\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":96,\"vocab_size\":100"
#define HEAD "{\"model_type\":\"qwen3\","

static rlf_status parse(rlf_model_shape *shape, const char *text) {
    return rlf_model_shape_parse(shape, text, strlen(text), "config.json");
}

static void refused(const char *text, const char *message) {
    rlf_model_shape shape;
    assert_int_not_equal(parse(&shape, text), RLF_OK);
    if (strncmp(rlf_error_message(), message, strlen(message)) != 0) assert_string_equal(rlf_error_message(), message);
}

/* Adds one entry to a valid config. */
static void entry_refused(const char *entry, const char *message) {
    char text[1024];
    snprintf(text, sizeof text, HEAD SIZES ",%s}", entry);
    refused(text, message);
}

static rlf_model_shape accepted(const char *entry) {
    char text[1024];
    rlf_model_shape shape;
    snprintf(text, sizeof text, HEAD SIZES "%s}", entry);
    rlf_status status = parse(&shape, text);
    if (status != RLF_OK) print_error("%s\n", rlf_error_message());
    assert_ok(status);
    return shape;
}

static void sizes_are_read_and_the_rest_has_defaults(void **state) {
    (void)state;
    rlf_model_shape s = accepted("");
    assert_string_equal(s.family, "qwen3");
    assert_true(s.hidden == 64 && s.layers == 2 && s.heads == 4 && s.kv_heads == 2 && s.ffn == 96 && s.vocab == 100);
    assert_int_equal(s.head_dim, 128);
    assert_true(s.rope_theta == 10000 && s.rms_eps == 1e-6 && !s.tied && s.qk_norm && !s.qkv_bias);
    s = accepted(",\"head_dim\":32,\"tie_word_embeddings\":true,\"rms_norm_eps\":1e-5,\"max_position_embeddings\":77");
    assert_true(s.head_dim == 32 && s.tied && s.rms_eps == 1e-5 && s.max_positions == 77);
}

/* The shape of another family, from its smallest valid config with more entries. */
static rlf_model_shape family_shape(const char *family, const char *entries) {
    char text[1024];
    rlf_model_shape shape;
    snprintf(text, sizeof text, "{\"model_type\":\"%s\"," SIZES "%s}", family, entries);
    assert_ok(parse(&shape, text));
    return shape;
}

static void families_differ_in_biases_norms_and_defaults(void **state) {
    (void)state;
    rlf_model_shape s = family_shape("qwen2", ",\"architectures\":[\"Qwen2ForCausalLM\"],\"sliding_window\":131072,\"max_window_layers\":1");
    assert_true(s.qkv_bias && !s.qk_norm && s.head_dim == 16 && s.max_positions == 32768 && s.rope_scaling.factor == 0);
    assert_string_equal(s.family, "qwen2");
    s = family_shape("llama", ",\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"mlp_bias\":false,\"pretraining_tp\":1");
    assert_true(!s.qkv_bias && !s.qk_norm && s.head_dim == 16 && s.max_positions == 2048);
    s = family_shape("mistral", ",\"architectures\":[\"MistralForCausalLM\"],\"sliding_window\":null,\"head_dim\":24");
    assert_true(!s.qkv_bias && !s.qk_norm && s.head_dim == 24 && s.max_positions == 131072);
}

static void a_missing_count_of_key_heads_means_what_it_means_to_transformers(void **state) {
    (void)state;
#define NO_KV "\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_size\":96,\"vocab_size\":100"
    rlf_model_shape s;
    assert_ok(parse(&s, "{\"model_type\":\"llama\"," NO_KV "}"));
    assert_int_equal(s.kv_heads, 4);
    assert_ok(parse(&s, "{\"model_type\":\"qwen2\"," NO_KV ",\"num_key_value_heads\":null}"));
    assert_int_equal(s.kv_heads, 4);
    refused("{\"model_type\":\"mistral\",\"sliding_window\":null," NO_KV "}", /* 8, which 4 heads do not have */
            "config.json: 'num_key_value_heads': expected a divisor of num_attention_heads");
}

#define LLAMA3(type) "\"" type "\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4,\"original_max_position_embeddings\":512"

static void both_spellings_of_rope_are_read(void **state) {
    (void)state;
    assert_true(accepted(",\"rope_theta\":1000000,\"rope_scaling\":null").rope_theta == 1e6);
    assert_true(accepted(",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"default\"}").rope_theta == 5e5);
    assert_true(accepted(",\"rope_theta\":7e5,\"rope_parameters\":{\"rope_type\":\"default\"}").rope_theta == 7e5);
    assert_true(accepted(",\"rope_scaling\":{\"type\":\"default\"}").rope_theta == 1e4);
    static const char *const spellings[] = {",\"rope_theta\":5e5,\"rope_scaling\":{" LLAMA3("rope_type") "}",
                                            ",\"rope_theta\":5e5,\"rope_scaling\":{" LLAMA3("type") "}",
                                            ",\"rope_parameters\":{\"rope_theta\":5e5," LLAMA3("rope_type") "}"};
    for (int i = 0; i < 3; i++) {
        rlf_model_shape s = family_shape("llama", spellings[i]);
        assert_true(s.rope_theta == 5e5 && s.rope_scaling.factor == 8 && s.rope_scaling.low_freq_factor == 1 &&
                    s.rope_scaling.high_freq_factor == 4 && s.rope_scaling.original_positions == 512);
    }
}

static void keys_that_change_no_number_are_ignored(void **state) {
    (void)state;
    accepted(",\"torch_dtype\":\"bfloat16\",\"use_cache\":false,\"sliding_window\":4096,\"use_sliding_window\":false,\"quantization_config\":null,"
             "\"attention_bias\":false,\"attention_dropout\":0.0,\"hidden_act\":\"silu\",\"layer_types\":[\"full_attention\",\"full_attention\"],"
             "\"architectures\":[\"Qwen3ForCausalLM\"],\"something_new\":{\"a\":1}");
}

static void other_architectures_are_refused(void **state) {
    (void)state;
    refused("{}", "config.json: 'model_type': expected qwen3, qwen2, llama or mistral; the key is missing or not a text");
    refused("{\"model_type\":3}", "config.json: 'model_type': expected qwen3, qwen2, llama or mistral; the key is missing or not a text");
    refused("{\"model_type\":\"qwen3_moe\"}", "config.json: 'model_type': 'qwen3_moe' is not supported; expected qwen3, qwen2, llama or mistral");
    refused("{\"model_type\":\"mixtral\"}", "config.json: 'model_type': 'mixtral' is not supported; expected qwen3, qwen2, llama or mistral");
    refused("{\"model_type\":\"llama\",\"architectures\":[\"MistralForCausalLM\"]}",
            "config.json: 'architectures': 'MistralForCausalLM' is not supported; expected LlamaForCausalLM");
    entry_refused("\"architectures\":[\"Qwen3ForTokenClassification\"]",
                  "config.json: 'architectures': 'Qwen3ForTokenClassification' is not supported; expected Qwen3ForCausalLM");
    entry_refused("\"architectures\":[]", "config.json: 'architectures': expected a list with Qwen3ForCausalLM");
}

static void options_that_would_change_the_numbers_are_refused(void **state) {
    (void)state;
    entry_refused("\"rope_scaling\":{\"type\":\"yarn\"}", "config.json: 'rope_scaling.type': 'yarn' is not supported; expected default or llama3");
    entry_refused("\"rope_parameters\":{\"rope_theta\":1e4,\"rope_type\":\"dynamic\"}",
                  "config.json: 'rope_parameters.rope_type': 'dynamic' is not supported; expected default or llama3");
    entry_refused("\"rope_parameters\":{\"rope_type\":7}", "config.json: 'rope_parameters.rope_type': expected default or llama3");
    entry_refused("\"rope_parameters\":{\"full_attention\":{}}",
                  "config.json: 'rope_parameters.full_attention': a map for each type of layer is not supported");
    entry_refused("\"rope_parameters\":1", "config.json: 'rope_parameters': expected a map");
    entry_refused("\"rope_scaling\":\"llama3\"", "config.json: 'rope_scaling': expected null or a map");
    entry_refused("\"rope_scaling\":{\"rope_type\":\"llama3\"}",
                  "config.json: 'rope_scaling.factor': expected a number above 0 and at most 1e+06");
    entry_refused("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}",
                  "config.json: 'rope_scaling.high_freq_factor': expected a number above low_freq_factor");
    entry_refused("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
                  "\"original_max_position_embeddings\":0}",
                  "config.json: 'rope_scaling.original_max_position_embeddings': expected an integer from 1 to 16777216");
    entry_refused("\"rope_parameters\":{\"partial_rotary_factor\":0.5}",
                  "config.json: 'rope_parameters.partial_rotary_factor': anything but 1 is not supported");
    entry_refused("\"partial_rotary_factor\":\"x\"", "config.json: 'partial_rotary_factor': expected a number");
    entry_refused("\"mlp_bias\":true", "config.json: 'mlp_bias': true is not supported");
    refused("{\"model_type\":\"mistral\",\"sliding_window\":4096}", "config.json: 'sliding_window': anything but null is not supported");
    refused("{\"model_type\":\"mistral\"}", "config.json: 'sliding_window': expected null; the key is missing, which means 4096");
    refused("{\"model_type\":\"qwen2\",\"use_sliding_window\":true}", "config.json: 'use_sliding_window': true is not supported");
    entry_refused("\"quantization_config\":{}", "config.json: 'quantization_config': anything but null is not supported");
    entry_refused("\"num_experts\":8", "config.json: 'num_experts': anything but null is not supported");
    entry_refused("\"use_sliding_window\":true", "config.json: 'use_sliding_window': true is not supported");
    entry_refused("\"attention_bias\":true", "config.json: 'attention_bias': true is not supported");
    entry_refused("\"hidden_act\":\"gelu\"", "config.json: 'hidden_act': anything but silu is not supported");
    entry_refused("\"attention_dropout\":0.1", "config.json: 'attention_dropout': anything but 0 is not supported");
    entry_refused("\"layer_types\":[\"sliding_attention\"]", "config.json: 'layer_types': anything but full_attention is not supported");
}

static void numbers_out_of_bounds_are_refused(void **state) {
    (void)state;
    refused(HEAD "\"a\":1}", "config.json: 'hidden_size': expected an integer from 1 to 65536; the key is missing");
    refused(HEAD "\"hidden_size\":0}", "config.json: 'hidden_size': expected an integer from 1 to 65536");
    refused(HEAD "\"hidden_size\":1e3}", "config.json: 'hidden_size': expected an integer from 1 to 65536");
    refused(HEAD "\"hidden_size\":\"64\"}", "config.json: 'hidden_size': expected an integer from 1 to 65536");
    refused(HEAD "\"hidden_size\":99999999999}", "config.json: 'hidden_size': expected an integer from 1 to 65536");
    entry_refused("\"head_dim\":-2", "config.json: 'head_dim': expected an integer from 1 to 1024");
    entry_refused("\"head_dim\":7", "config.json: 'head_dim': expected an even number");
    entry_refused("\"rope_theta\":0", "config.json: 'rope_theta': expected a number above 0 and at most 1e+12");
    entry_refused("\"rms_norm_eps\":\"x\"", "config.json: 'rms_norm_eps': expected a number above 0 and at most 1");
    entry_refused("\"tie_word_embeddings\":1", "config.json: 'tie_word_embeddings': expected true or false");
    refused(HEAD "\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":3,\"intermediate_size\":9,\"vocab_size\":9}",
            "config.json: 'num_key_value_heads': expected a divisor of num_attention_heads");
}

static void what_is_not_a_json_map_is_refused(void **state) {
    (void)state;
    refused("", "config.json:1: byte 0: not JSON: ");
    refused("{\n\"a\":", "config.json:2: byte 6: not JSON: ");
    refused("[]", "config.json: expected a JSON map");
    entry_refused("\"vocab_size\":9", "config.json:1: byte 161: not JSON: duplicate object key");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read_and_the_rest_has_defaults),
        cmocka_unit_test(families_differ_in_biases_norms_and_defaults),
        cmocka_unit_test(a_missing_count_of_key_heads_means_what_it_means_to_transformers),
        cmocka_unit_test(both_spellings_of_rope_are_read),
        cmocka_unit_test(keys_that_change_no_number_are_ignored),
        cmocka_unit_test(other_architectures_are_refused),
        cmocka_unit_test(options_that_would_change_the_numbers_are_refused),
        cmocka_unit_test(numbers_out_of_bounds_are_refused),
        cmocka_unit_test(what_is_not_a_json_map_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
