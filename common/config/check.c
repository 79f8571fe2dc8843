/* The rules between keys (keys.h): each is one line that names a key, what it must be, and why. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/config/keys.h"

static void place(const char *label, int line, char *out, size_t size) {
    if (line > 0) snprintf(out, size, "%.300s:%d", label, line);
    else snprintf(out, size, "%.300s", line < 0 ? "command line" : label);
}

static rlf_status fail(const rlf_config_origin *origin, const char *name, const char *fmt, ...) RLF_PRINTF(3, 4) RLF_MUST_USE;
static rlf_status fail(const rlf_config_origin *origin, const char *name, const char *fmt, ...) {
    char where[320], text[400];
    const rlf_key *key = rlf_key_find(rlf_config_keys, rlf_config_key_count, name);
    place(origin->label, key ? origin->lines[key - rlf_config_keys] : 0, where, sizeof where);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return RLF_RAISE(INVALID, "%s: key '%s': %s", where, name, text);
}

static rlf_status require(const rlf_config_origin *origin, const char *value, const char *name, const char *why) {
    return *value ? RLF_OK : fail(origin, name, "required: %s", why);
}

static rlf_status check_required(const rlf_config *c, const rlf_config_origin *o) {
    rlf_status status = RLF_OK;
    RLF_TRY(require(o, c->mode, "mode", "one of rl, sft, eval"));
    RLF_TRY(require(o, c->output, "output", "the run folder"));
    RLF_TRY(require(o, c->model.path, "model.path", "the checkpoint folder to start from"));
    if (strcmp(c->mode, "eval") == 0) RLF_TRY(require(o, c->data.eval, "data.eval", "the rows to evaluate (mode eval)"));
    else RLF_TRY(require(o, c->data.train, "data.train", "the rows to train on (mode rl or sft)"));
out:
    return status;
}

static rlf_status check_ranks(const rlf_config *c, const rlf_config_origin *o) {
    bool generates = strcmp(c->mode, "sft") != 0 || *c->data.eval;
    if (generates && c->ranks.rollout < 1) return fail(o, "ranks.rollout", "expected at least 1, since answers are generated");
    if (generates && c->ranks.tool < 1) return fail(o, "ranks.tool", "expected at least 1, since answers are scored there");
    return RLF_OK;
}

/* With device: auto the machine says. */
static rlf_status check_isa(const rlf_config *c, const rlf_config_origin *o) {
    const bool of_cards = !strcmp(c->isa, "hopper") || !strcmp(c->isa, "ampere");
    if (strcmp(c->isa, "auto") && !strcmp(c->device, of_cards ? "cpu" : "cuda"))
        return fail(o, "isa", "%s is not for device: %s", c->isa, c->device);
    return RLF_OK;
}

static rlf_status check_dtypes(const rlf_config *c, const rlf_config_origin *o) {
    if (!strcmp(c->model.compute_dtype, "bfloat16") && strcmp(c->model.dtype, "bfloat16"))
        return fail(o, "model.compute_dtype", "bfloat16 is for model.dtype: bfloat16, found %s", c->model.dtype);
    return RLF_OK;
}

static rlf_status check_lengths(const rlf_config *c, const rlf_config_origin *o) {
    if (c->episode.max_tokens <= c->episode.max_prompt_tokens)
        return fail(o, "episode.max_tokens", "expected more than episode.max_prompt_tokens (%lld), found %lld",
                    (long long)c->episode.max_prompt_tokens, (long long)c->episode.max_tokens);
    if (c->train.micro_tokens < c->episode.max_tokens)
        return fail(o, "train.micro_tokens", "expected at least episode.max_tokens (%lld), found %lld", (long long)c->episode.max_tokens,
                    (long long)c->train.micro_tokens);
    int64_t page = c->rollout.page_size, pages = (c->episode.max_tokens + page - 1) / page;
    if (page % 16) return fail(o, "rollout.page_size", "expected a multiple of 16, found %lld", (long long)page);
    if (c->rollout.cache_tokens < (pages + 1) * page)
        return fail(o, "rollout.cache_tokens", "expected at least %lld, one episode of episode.max_tokens in whole pages and a page more, found %lld",
                    (long long)((pages + 1) * page), (long long)c->rollout.cache_tokens);
    return RLF_OK;
}

static rlf_status check_recompute(const rlf_config *c, const rlf_config_origin *o) {
    if (c->train.keep_attention && !c->train.recompute)
        return fail(o, "train.keep_attention", "expected train.recompute: true beside it, since all is kept without it");
    return RLF_OK;
}

static rlf_status check_traffic(const rlf_config *c, const rlf_config_origin *o) {
    if (*c->traffic.record && *c->traffic.replay) return fail(o, "traffic.replay", "expected no traffic.record beside it");
    return RLF_OK;
}

static rlf_status check_temperature(const rlf_config_origin *o, const char *key, double temperature) {
    if (temperature == 0 || temperature >= RLF_LEAST_TEMPERATURE) return RLF_OK;
    return fail(o, key, "expected 0, or at least %g, found %g", RLF_LEAST_TEMPERATURE, temperature);
}

static rlf_status check_algorithm(const rlf_config *c, const rlf_config_origin *o) {
    if (c->algorithm.dual_clip != 0 && c->algorithm.dual_clip <= 1)
        return fail(o, "algorithm.dual_clip", "expected 0 (off) or more than 1, found %g", c->algorithm.dual_clip);
    if (strcmp(c->mode, "rl") == 0 && c->sampling.temperature == 0)
        return fail(o, "sampling.temperature", "expected more than 0 in mode rl: greedy samples of a group are all the same");
    if (strcmp(c->mode, "rl") == 0 && c->train.updates > c->train.prompts)
        return fail(o, "train.updates", "expected at most train.prompts (%lld), since each takes whole groups, found %lld",
                    (long long)c->train.prompts, (long long)c->train.updates);
    if (strcmp(c->mode, "rl") == 0 && c->algorithm.drop_zero_variance && c->algorithm.group == 1)
        return fail(o, "algorithm.drop_zero_variance", "expected algorithm.group of at least 2: one reward has no variance");
    return RLF_OK;
}

static rlf_status check_tag(const rlf_config_origin *o, const char *key, const char *call) {
    const char *dot = strrchr(call, '.');
    if (*call && (!dot || dot == call || !dot[1])) return fail(o, key, "expected TOOL.ARGUMENT, found \"%.100s\"", call);
    return RLF_OK;
}

static rlf_status check_tags(const rlf_config *c, const rlf_config_origin *o) {
    rlf_status status = RLF_OK;
    RLF_TRY(check_tag(o, "episode.search_call", c->episode.search_call));
    RLF_TRY(check_tag(o, "episode.python_call", c->episode.python_call));
out:
    return status;
}

/* ---- tools ------------------------------------------------------------------------------------------------------------------------ */

enum { LEAST_MEMORY_MB = 64 }; /* less, and an interpreter does not even start */

static rlf_status tool_fail(const rlf_config_origin *o, size_t i, const char *key, const char *text) {
    char where[320];
    place(o->label, o->tool_lines[i], where, sizeof where);
    return RLF_RAISE(INVALID, "%s: key 'tools.%zu.%s': %s", where, i, key, text);
}

static bool is_tool_name(const char *name) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    size_t n = strlen(name);
    return n > 0 && n <= 64 && strspn(name, allowed) == n;
}

static rlf_status check_mcp(const rlf_config_origin *o, size_t i, const rlf_tool_config *t) {
    if (!*t->file && !*t->command && !*t->url) return tool_fail(o, i, "command", "required for kind mcp: the program, or else url, or file");
    if ((*t->file && (*t->command || *t->url)) || (*t->command && *t->url))
        return tool_fail(o, i, "command", "expected only one of command, url and file");
    if (*t->server && !*t->file) return tool_fail(o, i, "file", "required where server is set");
    return RLF_OK;
}

/* What each kind cannot do without. */
static rlf_status check_kind(const rlf_config_origin *o, size_t i, const rlf_tool_config *t) {
    const bool process = strcmp(t->kind, "process") == 0;
    if (!*t->kind) return tool_fail(o, i, "kind", "required: one of index, calculator, retriever, http, python, process, plugin, mcp");
    if (strcmp(t->kind, "index") == 0 && !*t->path) return tool_fail(o, i, "path", "required for kind index: the file made by `rlf index`");
    if ((strcmp(t->kind, "retriever") == 0 || strcmp(t->kind, "http") == 0) && !*t->url)
        return tool_fail(o, i, "url", "required for kinds http and retriever: where the service is");
    if (strcmp(t->kind, "mcp") == 0) return check_mcp(o, i, t);
    if (strcmp(t->kind, "plugin") == 0 && !*t->path)
        return tool_fail(o, i, "path", "required for kind plugin: the shared library (toolsvc/plugin.h)");
    if (process && !*t->command) return tool_fail(o, i, "command", "required for kind process: the program and its arguments");
    if (process && t->workers < 1) return tool_fail(o, i, "workers", "expected at least 1 for kind process");
    return RLF_OK;
}

static rlf_status check_tool(const rlf_config *c, const rlf_config_origin *o, size_t i) {
    const rlf_tool_config *t = &c->tools[i];
    if (!*t->name) return tool_fail(o, i, "name", "required: what the model calls");
    if (!is_tool_name(t->name)) return tool_fail(o, i, "name", "expected at most 64 letters, digits, _ or -");
    rlf_status status = check_kind(o, i, t);
    if (status != RLF_OK) return status;
    if (t->memory_mb > 0 && t->memory_mb < LEAST_MEMORY_MB) return tool_fail(o, i, "memory_mb", "expected 0, or at least 64");
    if (t->latency_p99_ms > 0 && t->latency_median_ms <= 0)
        return tool_fail(o, i, "latency.median_ms", "required where latency.p99_ms is set");
    if (t->latency_p99_ms > 0 && t->latency_p99_ms < t->latency_median_ms)
        return tool_fail(o, i, "latency.p99_ms", "expected at least latency.median_ms");
    for (size_t j = 0; j < i; j++)
        if (strcmp(c->tools[j].name, t->name) == 0) return tool_fail(o, i, "name", "another tool has the same name");
    return RLF_OK;
}

rlf_status rlf_config_check(const rlf_config *config, const rlf_config_origin *origin) {
    rlf_status status = RLF_OK;
    RLF_TRY(check_required(config, origin));
    RLF_TRY(check_ranks(config, origin));
    RLF_TRY(check_isa(config, origin));
    RLF_TRY(check_dtypes(config, origin));
    RLF_TRY(check_recompute(config, origin));
    RLF_TRY(check_lengths(config, origin));
    RLF_TRY(check_algorithm(config, origin));
    RLF_TRY(check_temperature(origin, "sampling.temperature", config->sampling.temperature));
    RLF_TRY(check_temperature(origin, "eval_sampling.temperature", config->eval_sampling.temperature));
    RLF_TRY(check_traffic(config, origin));
    RLF_TRY(check_tags(config, origin));
    for (size_t i = 0; i < config->n_tools; i++) RLF_TRY(check_tool(config, origin, i));
out:
    return status;
}
