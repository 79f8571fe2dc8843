/* The table of keys, printed: the resolved configuration as YAML, what differs from another, and the reference as Markdown (config.h). */
#include <stdio.h>
#include <string.h>

#include "common/config/config.h"
#include "common/config/keys.h"

/* Prints keys in table order, opening a group where its name first appears. Each line starts with `indent`, the first with `first`. */
static void dump_keys(const rlf_key *keys, size_t count, const void *base, const char *first, const char *indent, rlf_str *out) {
    const char *group = "";
    size_t group_len = 0;
    for (size_t i = 0; i < count; i++) {
        const char *dot = strchr(keys[i].name, '.');
        size_t n = dot ? (size_t)(dot - keys[i].name) : 0;
        if (n && (n != group_len || memcmp(group, keys[i].name, n) != 0)) rlf_str_printf(out, "%s%.*s:\n", indent, (int)n, keys[i].name);
        group = keys[i].name;
        group_len = n;
        rlf_str_printf(out, "%s%s%s: ", i == 0 ? first : indent, dot ? "  " : "", dot ? dot + 1 : keys[i].name);
        rlf_key_print(&keys[i], base, out);
        rlf_str_putc(out, '\n');
    }
}

void rlf_config_dump(const rlf_config *config, rlf_str *out) {
    dump_keys(rlf_config_keys, rlf_config_key_count, config, "", "", out);
    rlf_str_puts(out, config->n_tools ? "tools:\n" : "tools: []\n");
    for (size_t i = 0; i < config->n_tools; i++) dump_keys(rlf_tool_keys, rlf_tool_key_count, &config->tools[i], "  - ", "    ", out);
}

static void compare_keys(const rlf_key *keys, size_t count, const void *was, const void *now, const char *prefix, rlf_str *out) {
    enum { SHORT = 60 };
    for (size_t i = 0; i < count; i++) {
        rlf_str a = {0}, b = {0};
        rlf_key_print(&keys[i], was, &a);
        rlf_key_print(&keys[i], now, &b);
        bool differ = strcmp(a.ptr, b.ptr) != 0;
        if (differ) rlf_str_printf(out, "%s%s%s", out->len ? ", " : "", prefix, keys[i].name);
        if (differ && a.len <= SHORT) rlf_str_printf(out, " (was %s)", a.ptr);
        rlf_str_clean_up(&a);
        rlf_str_clean_up(&b);
    }
}

void rlf_config_compare(const rlf_config *was, const rlf_config *now, rlf_str *out) {
    char prefix[32];
    compare_keys(rlf_config_keys, rlf_config_key_count, was, now, "", out);
    if (was->n_tools != now->n_tools) {
        rlf_str_printf(out, "%stools (were %zu)", out->len ? ", " : "", was->n_tools);
        return;
    }
    for (size_t i = 0; i < now->n_tools; i++) {
        snprintf(prefix, sizeof prefix, "tools.%zu.", i);
        compare_keys(rlf_tool_keys, rlf_tool_key_count, &was->tools[i], &now->tools[i], prefix, out);
    }
}

static void reference_rows(const rlf_key *keys, size_t count, const char *prefix, rlf_str *out) {
    static const char *const types[] = {"integer", "number", "true or false", "text", "any value"};
    for (size_t i = 0; i < count; i++) {
        const rlf_key *key = &keys[i];
        rlf_str_printf(out, "| `%s%s` | ", prefix, key->name);
        if (key->choices) rlf_key_expected(key, out);
        else rlf_str_puts(out, types[key->type]);
        rlf_str_printf(out, " | %s | ", key->unit);
        if (*key->fallback) rlf_str_printf(out, "`%s`", key->fallback);
        if (key->type == RLF_KEY_INT || key->type == RLF_KEY_REAL) {
            rlf_str_puts(out, " | ");
            rlf_real_print(key->min, out);
            rlf_str_puts(out, " to ");
            rlf_real_print(key->max, out);
        } else {
            rlf_str_puts(out, " | ");
        }
        rlf_str_printf(out, " | %s |\n", key->meaning);
    }
}

void rlf_config_reference(rlf_str *out) {
    rlf_str_puts(out, "# Keys of a job file\n\nWritten by `rlf config > common/config/README.md`; a test compares the two. "
                      "Groups nest: `train.steps` is `train: {steps: 5}` in\n"
                      "the file and `train.steps=5` on the command line. `tools` is a list of maps; `tools.0.timeout_ms` is a "
                      "key of its first.\nRelative paths are relative to the folder in which `mpirun` is started, not to the job file; `~` and `$NAME` in them are not\nexpanded.\n\n");
    rlf_str_puts(out, "| key | type | unit | default | range | meaning |\n|---|---|---|---|---|---|\n");
    reference_rows(rlf_config_keys, rlf_config_key_count, "", out);
    reference_rows(rlf_tool_keys, rlf_tool_key_count, "tools.N.", out);
}
