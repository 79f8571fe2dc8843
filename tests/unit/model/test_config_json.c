/* config.json: what is read from it, and what is refused and in which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
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
    assert_int_equal(status, RLF_OK);
    return shape;
}

static void sizes_are_read_and_the_rest_has_defaults(void **state) {
    (void)state;
    rlf_model_shape s = accepted("");
    assert_string_equal(s.family, "qwen3");
    assert_true(s.hidden == 64 && s.layers == 2 && s.heads == 4 && s.kv_heads == 2 && s.ffn == 96 && s.vocab == 100);
    assert_int_equal(s.head_dim, 16);
    assert_true(s.rope_theta == 10000 && s.rms_eps == 1e-6 && !s.tied && s.qk_norm && !s.qkv_bias);
    s = accepted(",\"head_dim\":32,\"tie_word_embeddings\":true,\"rms_norm_eps\":1e-5,\"max_position_embeddings\":77");
    assert_true(s.head_dim == 32 && s.tied && s.rms_eps == 1e-5 && s.max_positions == 77);
}

static void both_spellings_of_rope_are_read(void **state) {
    (void)state;
    assert_true(accepted(",\"rope_theta\":1000000,\"rope_scaling\":null").rope_theta == 1e6);
    assert_true(accepted(",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"default\"}").rope_theta == 5e5);
}

static void keys_that_change_no_number_are_ignored(void **state) {
    (void)state;
    accepted(",\"torch_dtype\":\"bfloat16\",\"use_cache\":false,\"sliding_window\":4096,\"use_sliding_window\":false,\"quantization_config\":null,"
             "\"attention_bias\":false,\"attention_dropout\":0.0,\"hidden_act\":\"silu\",\"layer_types\":[\"full_attention\",\"full_attention\"],"
             "\"architectures\":[\"Qwen3ForCausalLM\"],\"something_new\":{\"a\":1}");
}

static void other_architectures_are_refused(void **state) {
    (void)state;
    refused("{}", "config.json: 'model_type': expected \"qwen3\"; the key is missing or not a text");
    refused("{\"model_type\":\"qwen3_moe\"}", "config.json: 'model_type': 'qwen3_moe' is not supported; expected qwen3");
    entry_refused("\"architectures\":[\"Qwen3ForTokenClassification\"]",
                  "config.json: 'architectures': 'Qwen3ForTokenClassification' is not supported; expected Qwen3ForCausalLM");
    entry_refused("\"architectures\":[]", "config.json: 'architectures': expected a list with Qwen3ForCausalLM");
}

static void options_that_would_change_the_numbers_are_refused(void **state) {
    (void)state;
    entry_refused("\"rope_scaling\":{\"type\":\"yarn\"}", "config.json: 'rope_scaling': anything but null is not supported");
    entry_refused("\"rope_parameters\":{\"rope_theta\":1e4,\"rope_type\":\"yarn\"}",
                  "config.json: 'rope_parameters': a rope_type other than default is not supported");
    entry_refused("\"rope_parameters\":{\"full_attention\":{}}", "config.json: 'rope_theta': expected a number above 0 and at most 1e+12");
    entry_refused("\"rope_parameters\":1", "config.json: 'rope_parameters': expected a map");
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
        cmocka_unit_test(both_spellings_of_rope_are_read),
        cmocka_unit_test(keys_that_change_no_number_are_ignored),
        cmocka_unit_test(other_architectures_are_refused),
        cmocka_unit_test(options_that_would_change_the_numbers_are_refused),
        cmocka_unit_test(numbers_out_of_bounds_are_refused),
        cmocka_unit_test(what_is_not_a_json_map_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
