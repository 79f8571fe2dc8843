/* The job file: every value, every message, and the round trip of the dump. */
#include "tests/test.h"

#include <stdio.h>
#include <string.h>

#include "common/config/config.h"
#include "common/config/keys.h"

static const char minimal[] = "mode: rl\noutput: runs/x\nmodel: {path: m}\ndata: {train: t.jsonl}\n";

static rlf_status parse(rlf_config *config, const char *text, char **overrides, size_t n) {
    return rlf_config_parse(config, text, strlen(text), "job.yaml", overrides, n);
}

/* Parses `text` and expects exactly this message. */
static void refused(const char *text, const char *message) {
    rlf_config config;
    rlf_status status = parse(&config, text, NULL, 0);
    if (status == RLF_OK) rlf_config_clean_up(&config);
    assert_int_not_equal(status, RLF_OK);
    assert_string_equal(rlf_error_message(), message);
}

/* Adds one line to a valid file, as its line 5, and expects this message. */
static void line_refused(const char *line, const char *message) {
    char text[2048];
    snprintf(text, sizeof text, "%s%s\n", minimal, line);
    refused(text, message);
}

static void override_refused(char *override, const char *message) {
    rlf_config config;
    rlf_status status = parse(&config, minimal, &override, 1);
    if (status == RLF_OK) rlf_config_clean_up(&config);
    assert_int_not_equal(status, RLF_OK);
    assert_string_equal(rlf_error_message(), message);
}

static void a_minimal_file_gets_the_defaults(void **state) {
    (void)state;
    rlf_config c;
    assert_ok(parse(&c, minimal, NULL, 0));
    assert_string_equal(c.mode, "rl");
    assert_string_equal(c.model.path, "m");
    assert_string_equal(c.data.eval, "");
    assert_int_equal(c.algorithm.group, 4);
    assert_true(c.algorithm.clip_low == 0.2 && c.optimizer.lr == 1e-6 && c.eval_sampling.temperature == 0);
    assert_true(c.data.shuffle && c.train.resume && !c.episode.thinking);
    assert_int_equal(c.n_tools, 0);
    rlf_config_clean_up(&c);
}

static void values_are_read_into_their_fields(void **state) {
    (void)state;
    static const char text[] =
        "mode: sft\noutput: \"a: b\"\nseed: 77\nmodel:\n  path: dir\ndata:\n  train: t\n  shuffle: false\ntrain:\n  steps: 12\n"
        "optimizer:\n  lr: 3e-4\n  betas_unused:\n";
    rlf_config c;
    char valid[sizeof text];
    snprintf(valid, sizeof valid, "%.*s", (int)(strstr(text, "  betas") - text), text);
    assert_ok(parse(&c, valid, NULL, 0));
    assert_string_equal(c.output, "a: b");
    assert_int_equal(c.seed, 77);
    assert_int_equal(c.train.steps, 12);
    assert_false(c.data.shuffle);
    assert_true(c.optimizer.lr == 3e-4);
    rlf_config_clean_up(&c);
    refused(text, "job.yaml:13: unknown key 'optimizer.betas_unused', did you mean 'optimizer.beta1'?");
}

static void tools_are_a_list_of_maps(void **state) {
    (void)state;
    char text[1024];
    snprintf(text, sizeof text, "%stools:\n  - name: search\n    kind: index\n    path: i.db\n    latency: {median_ms: 300, p99_ms: 3000}\n"
             "  - {name: calc, kind: calculator, timeout_ms: 50}\n", minimal);
    rlf_config c;
    assert_ok(parse(&c, text, NULL, 0));
    assert_int_equal(c.n_tools, 2);
    assert_string_equal(c.tools[0].path, "i.db");
    assert_true(c.tools[0].latency_p99_ms == 3000 && c.tools[0].latency_median_ms == 300);
    assert_int_equal(c.tools[0].top_k, 3);
    assert_int_equal(c.tools[1].timeout_ms, 50);
    rlf_config_clean_up(&c);
}

static void overrides_win_over_the_file_and_the_last_over_the_first(void **state) {
    (void)state;
    char *overrides[] = {"train.steps=3", "train.steps=4", "tools=[{name: x, kind: calculator}]", "tools.0.latency.median_ms=300",
                         "tools.0.description=two words", "episode.system=", "sampling={temperature: 0.5}", "output=a=b"};
    rlf_config c;
    assert_ok(parse(&c, minimal, overrides, 8));
    assert_int_equal(c.train.steps, 4);
    assert_int_equal(c.n_tools, 1);
    assert_true(c.tools[0].latency_median_ms == 300);
    assert_string_equal(c.tools[0].description, "two words");
    assert_true(c.sampling.temperature == 0.5);
    assert_string_equal(c.output, "a=b");
    rlf_config_clean_up(&c);
}

static void misspelt_keys_get_a_suggestion(void **state) {
    (void)state;
    line_refused("train: {step: 3}", "job.yaml:5: unknown key 'train.step', did you mean 'train.steps'?");
    line_refused("tarin: {steps: 3}", "job.yaml:5: unknown key 'tarin', did you mean 'train'?");
    line_refused("sead: 3", "job.yaml:5: unknown key 'sead', did you mean 'seed'?");
    line_refused("lr: 0.1", "job.yaml:5: unknown key 'lr', did you mean 'optimizer.lr'?");
    line_refused("tool: []", "job.yaml:5: unknown key 'tool', did you mean 'tools'?");
    line_refused("xyzzy: 3", "job.yaml:5: unknown key 'xyzzy'; `rlf config` lists the keys");
    line_refused("tools: [{name: a, kind: calculator, timeout: 3}]",
                 "job.yaml:5: unknown key 'tools.0.timeout', did you mean 'tools.0.timeout_ms'?");
    override_refused("tool.0.name=find", "command line: unknown key 'tool.0.name', did you mean 'tools.0.name'?");
    override_refused("train.step=3", "command line: unknown key 'train.step', did you mean 'train.steps'?");
}

static void wrong_values_say_what_was_expected(void **state) {
    (void)state;
    line_refused("seed: many", "job.yaml:5: key 'seed': expected an integer from 0 to 9007199254740991, found 'many'");
    line_refused("seed: 1.5", "job.yaml:5: key 'seed': expected an integer from 0 to 9007199254740991, found '1.5'");
    line_refused("seed: 99999999999999999999", "job.yaml:5: key 'seed': expected an integer from 0 to 9007199254740991, found '99999999999999999999'");
    line_refused("train: {steps: 0}", "job.yaml:5: key 'train.steps': expected an integer from 1 to 1000000000, found '0'");
    line_refused("train: {steps: \"10\"}", "job.yaml:5: key 'train.steps': expected an integer from 1 to 1000000000, found \"10\"");
    line_refused("train:\n  resume: yes", "job.yaml:6: key 'train.resume': expected true or false, found 'yes'");
    line_refused("device: gpu", "job.yaml:5: key 'device': expected one of auto, cpu, cuda, found 'gpu'");
    line_refused("sampling: {top_p: 2}", "job.yaml:5: key 'sampling.top_p': expected a number from 1e-06 to 1, found '2'");
    line_refused("sampling: {top_p: .nan}", "job.yaml:5: key 'sampling.top_p': expected a number from 1e-06 to 1, found '.nan'");
    line_refused("seed: [1]", "job.yaml:5: key 'seed': expected an integer from 0 to 9007199254740991, found a list");
    line_refused("train: 5", "job.yaml:5: 'train': expected a map of keys, found '5'");
    line_refused("tools: 5", "job.yaml:5: key 'tools': expected a list of maps, found '5'");
    line_refused("tools: [5]", "job.yaml:5: key 'tools.0': expected a map with at least name and kind, found '5'");
    line_refused("device: \"cpu\\0\"", "job.yaml:5: key 'device': expected one of auto, cpu, cuda, found \"cpu\"");
    line_refused("tools: [{name: a, kind: calculator, max_bytes: 16777217}]",
                 "job.yaml:5: key 'tools.0.max_bytes': expected an integer from 1 to 16777216, found '16777217'");
    override_refused("sampling.top_k=-1", "command line: key 'sampling.top_k': expected an integer from 0 to 16777216, found '-1'");
    override_refused("sampling.top_k=", "command line: key 'sampling.top_k': expected an integer from 0 to 16777216, found \"\"");
    override_refused("episode.system=# hi", "'episode.system=# hi': command line: expected a value, found a comment; a text that begins with # needs quotes");
    override_refused("top_k", "command line: expected key=value, found 'top_k'");
    override_refused("tools.3.top_k=1", "command line: key 'tools.3.top_k': the list has 0 tools, counted from 0");
    override_refused("tools.x.top_k=1", "command line: unknown key 'tools.x.top_k'; a tool's key reads tools.0.timeout_ms");
}

static void a_key_set_twice_is_an_error(void **state) {
    (void)state;
    line_refused("seed: 1\nseed: 2", "job.yaml:6: key 'seed' is set twice, first in line 5");
    line_refused("data: {eval: x}", "job.yaml:5: key 'data' is set twice, first in line 4");
    line_refused("data.train: x", "job.yaml:5: key 'data.train' is set twice, first in line 4");
    line_refused("tools: [{name: a, name: b}]", "job.yaml:5: key 'tools.0.name' is set twice, first in line 5");
}

static void what_is_not_one_yaml_map_is_refused(void **state) {
    (void)state;
    refused("", "job.yaml: the file is empty; expected a map of keys");
    refused("just text\n", "job.yaml:1: 'the file': expected a map of keys, found 'just text'");
    refused("- a\n", "job.yaml:1: 'the file': expected a map of keys, found 'a list'");
    refused("mode: rl\n---\nmode: sft\n", "job.yaml:3: expected one YAML document, found a second one");
    refused("mode: rl\n  x: [\n", "job.yaml:2: mapping values are not allowed in this context");
    refused("mode: \"\xff\"\n", "job.yaml: byte 7: invalid leading UTF-8 octet");
    refused("? [a]\n: b\n", "job.yaml:1: expected a key, found a list");
    refused("&a train: {x: 1}\n", "job.yaml:1: unknown key 'train.x'; `rlf config` lists the keys");
    refused("train: &a {train: *a}\n", "job.yaml:1: unknown key 'train.train', did you mean 'data.train'?");
}

static void missing_keys_are_named(void **state) {
    (void)state;
    refused("seed: 1\n", "job.yaml: key 'mode': required: one of rl, sft, eval");
    refused("mode: rl\n", "job.yaml: key 'output': required: the run folder");
    refused("mode: rl\noutput: x\n", "job.yaml: key 'model.path': required: the checkpoint folder to start from");
    refused("mode: sft\noutput: x\nmodel: {path: m}\n", "job.yaml: key 'data.train': required: the rows to train on (mode rl or sft)");
    refused("mode: eval\noutput: x\nmodel: {path: m}\ndata: {eval: ~}\n",
            "job.yaml:4: key 'data.eval': required: the rows to evaluate (mode eval)");
}

static void keys_that_contradict_each_other_are_refused(void **state) {
    (void)state;
    line_refused("ranks: {rollout: 0}", "job.yaml:5: key 'ranks.rollout': expected at least 1, since answers are generated");
    line_refused("ranks: {tool: 0}", "job.yaml:5: key 'ranks.tool': expected at least 1, since answers are scored there");
    line_refused("episode: {max_tokens: 100}", "job.yaml:5: key 'episode.max_tokens': expected more than episode.max_prompt_tokens (2048), found 100");
    line_refused("train: {micro_tokens: 64}", "job.yaml:5: key 'train.micro_tokens': expected at least episode.max_tokens (4096), found 64");
    line_refused("device: cpu\nisa: hopper", "job.yaml:6: key 'isa': hopper is not for device: cpu");
    line_refused("device: cuda\nisa: avx2", "job.yaml:6: key 'isa': avx2 is not for device: cuda");
    line_refused("isa: free",
                 "job.yaml:5: key 'isa': expected one of auto, hopper, ampere, avx512bf16, avx512, avx2, portable, found 'free'");
    line_refused("train: {keep_attention: true}",
                 "job.yaml:5: key 'train.keep_attention': expected train.recompute: true beside it, since all is kept without it");
    line_refused("rollout: {page_size: 24}", "job.yaml:5: key 'rollout.page_size': expected a multiple of 16, found 24");
    line_refused("rollout: {cache_tokens: 4111}",
                 "job.yaml:5: key 'rollout.cache_tokens': expected at least 4112, one episode of episode.max_tokens in whole pages and a page more, found 4111");
    line_refused("deadline: {collective_s: 1e7}", "job.yaml:5: key 'deadline.collective_s': expected an integer from 1 to 1000000, found '1e7'");
    line_refused("algorithm: {dual_clip: 0.5}", "job.yaml:5: key 'algorithm.dual_clip': expected 0 (off) or more than 1, found 0.5");
    override_refused("sampling.temperature=0",
                     "command line: key 'sampling.temperature': expected more than 0 in mode rl: greedy samples of a group are all the same");
    override_refused("eval_sampling.temperature=1e-39", "command line: key 'eval_sampling.temperature': expected 0, or at least 1e-06, found 1e-39");
    line_refused("train: {prompts: 8, updates: 9}",
                 "job.yaml:5: key 'train.updates': expected at most train.prompts (8), since each takes whole groups, found 9");
    line_refused("algorithm: {group: 1, drop_zero_variance: true}",
                 "job.yaml:5: key 'algorithm.drop_zero_variance': expected algorithm.group of at least 2: one reward has no variance");
    line_refused("tools: [{kind: calculator}]", "job.yaml:5: key 'tools.0.name': required: what the model calls");
    line_refused("tools: [{name: a b, kind: calculator}]", "job.yaml:5: key 'tools.0.name': expected at most 64 letters, digits, _ or -");
    line_refused("tools: [{name: a}]", "job.yaml:5: key 'tools.0.kind': required: one of index, calculator, retriever, http, python, process, plugin, mcp");
    line_refused("tools: [{name: a, kind: web}]", "job.yaml:5: key 'tools.0.kind': expected one of index, calculator, retriever, http, python, process, plugin, mcp, found 'web'");
    line_refused("tools: [{name: a, kind: process}]",
                 "job.yaml:5: key 'tools.0.command': required for kind process: the program and its arguments");
    line_refused("tools: [{name: a, kind: process, command: [ls], workers: 0}]",
                 "job.yaml:5: key 'tools.0.workers': expected at least 1 for kind process");
    line_refused("tools: [{name: a, kind: process, command: [ls], memory_mb: 63}]",
                 "job.yaml:5: key 'tools.0.memory_mb': expected 0, or at least 64");
    line_refused("tools: [{name: a, kind: index}]",
                 "job.yaml:5: key 'tools.0.path': required for kind index: the file made by `rlf index`");
    line_refused("tools:\n- {name: a, kind: calculator}\n- {name: a, kind: calculator}",
                 "job.yaml:7: key 'tools.1.name': another tool has the same name");
    line_refused("tools: [{name: a, kind: calculator, latency: {median_ms: 9, p99_ms: 8}}]",
                 "job.yaml:5: key 'tools.0.latency.p99_ms': expected at least latency.median_ms");
    line_refused("tools: [{name: a, kind: calculator, latency: {p99_ms: 8}}]",
                 "job.yaml:5: key 'tools.0.latency.median_ms': required where latency.p99_ms is set");
}

static void supervised_training_needs_no_other_ranks(void **state) {
    (void)state;
    char *overrides[] = {"mode=sft", "ranks.rollout=0", "ranks.tool=0"};
    rlf_config c;
    assert_ok(parse(&c, minimal, overrides, 3));
    rlf_config_clean_up(&c);
}

/* A value that is not the default, for the round trip: near a limit, and awkward to print. */
static const char *other_value(const rlf_key *key) {
    static char text[64];
    if (key->type == RLF_KEY_BOOL) return strcmp(key->fallback, "true") ? "true" : "false";
    if (key->type == RLF_KEY_TEXT && key->choices) {
        snprintf(text, sizeof text, "%.*s", (int)strcspn(key->choices, "|"), key->choices);
        return text;
    }
    if (key->type == RLF_KEY_TEXT) return "a.\"b\"\n\\ #: 'ü\t\x01 \xc2\x85\xe2\x80\xa8\xf0\x9f\x98\x80 ~";
    if (key->type == RLF_KEY_JSON) return "{\"a\":[1,true,null,2.5,\"'\xc3\xa4 \\u0001\\\"{ \xe2\x80\xa8\"],\"b\":{\"c\":\"\"}}";
    if (key->type == RLF_KEY_INT) snprintf(text, sizeof text, "%.0f", key->max);
    else snprintf(text, sizeof text, "%.17g", key->min + (key->max - key->min) / 3);
    return text;
}

static void set_all(const rlf_key *keys, size_t n, void *base) {
    for (size_t i = 0; i < n; i++) {
        const char *text = other_value(&keys[i]);
        assert_true(rlf_key_set(&keys[i], base, text, strlen(text), keys[i].type == RLF_KEY_TEXT));
    }
}

/* The dump of c, read again and dumped again, is the same text; and each value is the same. */
static void assert_round_trip(const rlf_config *c) {
    rlf_str first = {0}, second = {0}, a = {0}, b = {0};
    rlf_config again;
    rlf_config_dump(c, &first);
    rlf_status status = rlf_config_parse(&again, first.ptr, first.len, "dump", NULL, 0);
    if (status != RLF_OK) print_error("%s\n%s", rlf_error_message(), first.ptr);
    assert_ok(status);
    rlf_config_dump(&again, &second);
    assert_string_equal(first.ptr, second.ptr);
    for (size_t i = 0; i < rlf_config_key_count; i++) {
        rlf_key_print(&rlf_config_keys[i], c, &a);
        rlf_key_print(&rlf_config_keys[i], &again, &b);
    }
    assert_string_equal(a.ptr, b.ptr);
    assert_memory_equal(&c->optimizer.lr, &again.optimizer.lr, sizeof(double));
    assert_int_equal(c->n_tools, again.n_tools);
    if (c->n_tools) assert_string_equal(c->tools[0].description, again.tools[0].description);
    rlf_config_clean_up(&again);
    rlf_str_clean_up(&first);
    rlf_str_clean_up(&second);
    rlf_str_clean_up(&a);
    rlf_str_clean_up(&b);
}

static void the_dump_reads_back_to_the_same_values(void **state) {
    (void)state;
    char *overrides[] = {"tools=[{name: x, kind: calculator}, {name: y, kind: calculator}]"};
    rlf_config c;
    assert_ok(parse(&c, minimal, overrides, 1));
    assert_round_trip(&c);
    set_all(rlf_config_keys, rlf_config_key_count, &c);
    set_all(rlf_tool_keys, rlf_tool_key_count, &c.tools[0]);
    memcpy(c.tools[0].name, "z", 2); /* a name that the rules allow */
    *c.traffic.record = 0; /* not beside replay */
    c.episode.max_prompt_tokens = 100;
    c.train.prompts = 10000;
    c.rollout.page_size = 4096;
    assert_round_trip(&c);
    rlf_config_clean_up(&c);
}

static const char *schema_of(rlf_config *c, const char *value) {
    static char text[200];
    char override[300], *overrides[] = {"tools=[{name: x, kind: calculator}]", override};
    snprintf(override, sizeof override, "tools.0.schema=%s", value);
    if (parse(c, minimal, overrides, 2) != RLF_OK) return "refused";
    snprintf(text, sizeof text, "%s", c->tools[0].schema);
    rlf_config_clean_up(c);
    return text;
}

static void a_json_key_takes_any_value(void **state) {
    (void)state;
    rlf_config c;
    assert_string_equal(schema_of(&c, "{type: object, n: [1, 2.5, -3, true, null, yes, 'true', \"7\"]}"),
                        "{\"type\":\"object\",\"n\":[1,2.5,-3,true,null,\"yes\",\"true\",\"7\"]}");
    assert_string_equal(schema_of(&c, "plain text: no"), "{\"plain text\":\"no\"}");
    assert_string_equal(schema_of(&c, "http://host:1/x"), "\"http://host:1/x\"");
    assert_string_equal(schema_of(&c, "'{\"a\": 1}'"), "{\"a\":1}");
    assert_string_equal(schema_of(&c, "~"), "");
    assert_string_equal(schema_of(&c, "{a: '', b: '[1]', c: ['{}', '\"v1\"', '7', \"[a]\"], d: , e: ~}"),
                        "{\"a\":\"\",\"b\":\"[1]\",\"c\":[\"{}\",\"\\\"v1\\\"\",\"7\",\"[a]\"],\"d\":null,\"e\":null}");
    assert_string_equal(schema_of(&c, "{a: 1, a: 2}"), "refused");
    assert_string_equal(schema_of(&c, "&x [*x]"), "refused"); /* would go on for ever */
    assert_string_equal(schema_of(&c, "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"), "refused");
}

static void any_value_of_a_json_key_survives_the_dump(void **state) {
    (void)state;
    static const char *const values[] = {"5", "-2.5", "1e22", "true", "false", "~", "''", "'5'", "'true'", "text", "'~'", "' '", "\"\\\"v1\\\"\"",
                                         "[]", "{}", "{a: '', b: ['[1]', '{}', '\"v1\"', 5, '5', true, ~]}", "[\"\\u2028\\x85\"]"};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char override[120], *overrides[] = {"tools=[{name: x, kind: calculator}]", override};
        rlf_config c, again;
        rlf_str dump = {0};
        snprintf(override, sizeof override, "tools.0.options=%s", values[i]);
        assert_ok(parse(&c, minimal, overrides, 2));
        rlf_config_dump(&c, &dump);
        assert_ok(rlf_config_parse(&again, dump.ptr, dump.len, "dump", NULL, 0));
        assert_string_equal(again.tools[0].options, c.tools[0].options);
        assert_round_trip(&c);
        rlf_str_clean_up(&dump);
        rlf_config_clean_up(&c);
        rlf_config_clean_up(&again);
    }
}

static void every_default_is_inside_its_range(void **state) {
    (void)state;
    rlf_config c = {0};
    for (size_t i = 0; i < rlf_config_key_count; i++)
        assert_true(rlf_key_set(&rlf_config_keys[i], &c, rlf_config_keys[i].fallback, strlen(rlf_config_keys[i].fallback), false));
    rlf_config_clean_up(&c);
}

static void the_reference_names_every_key(void **state) {
    (void)state;
    rlf_str text = {0};
    rlf_config_reference(&text);
    for (size_t i = 0; i < rlf_config_key_count; i++) assert_non_null(strstr(text.ptr, rlf_config_keys[i].name));
    assert_non_null(strstr(text.ptr, "| `train.steps` | integer | steps | `100` | 1 to 1000000000 |"));
    assert_non_null(strstr(text.ptr, "tools.N.latency.p99_ms"));
    rlf_str_clean_up(&text);
}

static void the_committed_reference_is_what_rlf_config_prints(void **state) {
    (void)state;
    rlf_str text = {0}, committed = {0};
    rlf_config_reference(&text);
    assert_ok(rlf_str_read_file(&committed, RLF_GOLDEN "/../../common/config/README.md", 1 << 20));
    assert_string_equal(committed.ptr, text.ptr); /* else: rlf config > common/config/README.md */
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&committed);
}

static void several_signs_of_life_fit_into_the_silence_allowed(void **state) {
    (void)state;
    static const int64_t expected[][2] = {{1, 250}, {3, 750}, {5, 1000}, {10000000, 1000}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_int_equal(rlf_config_beat_ms(&(rlf_config){.deadline = {.message_s = expected[i][0]}}), expected[i][1]);
}

static void a_missing_file_is_named(void **state) {
    (void)state;
    rlf_config c;
    assert_int_equal(rlf_config_load(&c, "no/such.yaml", NULL, 0), RLF_IO);
    assert_string_equal(rlf_error_message(), "no/such.yaml: cannot open: No such file or directory");
}

static void what_differs_is_named_with_its_old_value(void **state) {
    static const char tools[] = "[{name: a, kind: calculator}]", other_tools[] = "[{name: a, kind: calculator, top_k: 5, description: new}]";
    char text[512], long_text[100];
    rlf_config was, now;
    rlf_str out = {0};
    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    snprintf(text, sizeof text, "%strain: {steps: 2}\nepisode: {system: %s}\ntools: %s\n", minimal, long_text, tools);
    assert_ok(parse(&was, text, NULL, 0));
    rlf_config_compare(&was, &was, &out);
    assert_int_equal(out.len, 0);
    snprintf(text, sizeof text, "%strain: {steps: 4}\ntools: %s\noptimizer: {lr: 0.5}\n", minimal, other_tools);
    assert_ok(parse(&now, text, NULL, 0));
    rlf_config_compare(&was, &now, &out);
    assert_string_equal(out.ptr, "train.steps (was 2), episode.system, optimizer.lr (was 1e-06), tools.0.description (was \"\"), tools.0.top_k (was 3)");
    rlf_config_clean_up(&now);
    assert_ok(parse(&now, minimal, NULL, 0));
    rlf_str_reset(&out);
    rlf_config_compare(&now, &was, &out);
    assert_string_equal(out.ptr, "train.steps (was 100), episode.system (was \"\"), tools (were 0)");
    rlf_config_clean_up(&was);
    rlf_config_clean_up(&now);
    rlf_str_clean_up(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_minimal_file_gets_the_defaults),
        cmocka_unit_test(values_are_read_into_their_fields),
        cmocka_unit_test(tools_are_a_list_of_maps),
        cmocka_unit_test(overrides_win_over_the_file_and_the_last_over_the_first),
        cmocka_unit_test(misspelt_keys_get_a_suggestion),
        cmocka_unit_test(wrong_values_say_what_was_expected),
        cmocka_unit_test(a_key_set_twice_is_an_error),
        cmocka_unit_test(what_is_not_one_yaml_map_is_refused),
        cmocka_unit_test(missing_keys_are_named),
        cmocka_unit_test(keys_that_contradict_each_other_are_refused),
        cmocka_unit_test(supervised_training_needs_no_other_ranks),
        cmocka_unit_test(the_dump_reads_back_to_the_same_values),
        cmocka_unit_test(what_differs_is_named_with_its_old_value),
        cmocka_unit_test(a_json_key_takes_any_value),
        cmocka_unit_test(any_value_of_a_json_key_survives_the_dump),
        cmocka_unit_test(every_default_is_inside_its_range),
        cmocka_unit_test(the_reference_names_every_key),
        cmocka_unit_test(the_committed_reference_is_what_rlf_config_prints),
        cmocka_unit_test(several_signs_of_life_fit_into_the_silence_allowed),
        cmocka_unit_test(a_missing_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
