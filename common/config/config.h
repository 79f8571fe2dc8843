/* The job file: one YAML file plus dotted overrides ("train.steps=10"), read into one struct.
 *
 * One table (keys.c) holds every key with its type, unit, default, range and meaning; reading, overrides, suggestions for
 * misspelt keys, the resolved dump and `rlf config` come from it. Errors name file, line and key. Relative paths in the file are
 * relative to the current directory.
 *
 * Strings are owned by the config; "" means not set. */
#ifndef RLF_COMMON_CONFIG_CONFIG_H
#define RLF_COMMON_CONFIG_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/mem.h"

#define RLF_LEAST_TEMPERATURE 1e-6 /* but for 0: below it the inverse leaves the range of a float, or nearly */

typedef struct rlf_tool_config {
    char *name;        /* what the model calls */
    char *kind;        /* "index" | "calculator" | "python" | "mcp" … */
    char *path;        /* index: file made by `rlf index`; python: the interpreter; plugin: the library */
    char *description; /* shown in the prompt; "": the kind's own */
    char *schema;      /* JSON schema of the arguments, as JSON text; "": the kind's own */
    int64_t top_k;           /* index: passages returned (3) */
    char *sandbox;           /* python: namespaces | none */
    int64_t memory_mb;       /* python: of one interpreter (0: 512); process, mcp: data of each process of the program (0: any amount) */
    int64_t processes, cpu_s, scratch_mb; /* python: limits of one interpreter (16, 60, 64) */
    int64_t output_bytes;    /* python: text of one answer (65536) */
    int64_t workers;         /* python: interpreters kept ready (4) */
    int64_t timeout_ms;      /* deadline of one call, from its arrival (10000) */
    int64_t concurrency;     /* calls running at once (64) */
    int64_t queue;           /* calls waiting at most (65536) */
    double per_second;       /* calls started per second; 0: any number */
    int64_t retries;         /* times a call that ended in infra_error is tried again (2) */
    int64_t backoff_ms;      /* before the first of them, then doubling (100) */
    int64_t breaker_failures, breaker_reset_ms; /* breaker: {failures, reset_ms}; 0 failures: none */
    char *url;               /* http, retriever: JSON: a text, or a list of replicas */
    char *method;            /* http: GET | POST | PUT | DELETE | PATCH */
    char *headers;           /* JSON object of texts */
    char *body;              /* http: JSON template; "": the arguments */
    char *answer;            /* http: JSON pointer into the answer; "": all of it */
    char *options;           /* plugin: JSON text for its open */
    char *command;           /* JSON list of texts: a program and its arguments */
    char *env;               /* JSON object of texts: what it sees of the environment beside a few */
    char *cwd;               /* the folder it runs in; "": ours */
    char *secrets;           /* JSON list of environment variables that url, headers, body and env may name as ${NAME} */
    char *ca;                /* PEM file of the authorities whose certificates are trusted; "": the system's */
    char *file, *server;     /* mcp: a file of servers (servers.h), and which of them; every one becomes a tool when the job is read */
    char *transport;         /* mcp: auto | http | sse */
    char *functions;         /* mcp: JSON list of names: the functions offered; "": all that the server has */
    char *prefix;            /* mcp: before the names of the functions */
    char *state;             /* mcp, process: shared | episode */
    int64_t start_ms;        /* mcp, process: deadline until what was started has said what it offers (30000) */
    bool allow_private;      /* host names may stand for private addresses */
    int64_t max_bytes;       /* of one answer of a service */
    char *cache_path;        /* cache: {path, entries, disk_entries, ttl_s, version}; "": not on disk */
    int64_t cache_entries, cache_disk_entries; /* kept in memory (0: none) and on disk */
    int64_t cache_ttl_s;     /* 0: for ever */
    char *cache_version;
    bool merge;              /* identical calls in flight run once (false) */
    int64_t batch, batch_ms; /* calls in one request, for kinds that can; how long the first may wait for more */
    double latency_median_ms, latency_p99_ms; /* latency: {median_ms, p99_ms}: injected delay, log-normal, seeded; 0: none */
} rlf_tool_config;

typedef struct rlf_config {
    int64_t seed;
    char *output;  /* run folder */
    char *mode;    /* rl | sft | eval */
    char *device;  /* auto | cpu | cuda */
    char *isa;     /* auto | hopper | ampere | avx512bf16 | avx512 | avx2 | portable */
    int64_t threads; /* per rank; 0: cores of the node / its ranks of the same role, at least 1 */
    struct {
        char *path;  /* Hugging Face folder to start from */
        char *dtype; /* float32 | bfloat16: how ranks and checkpoints store weights */
        char *compute_dtype; /* auto | float32 | bfloat16: what is multiplied */
    } model;
    struct {
        char *train, *eval; /* JSONL */
        int64_t eval_limit; /* rows of data.eval used; 0: all */
        bool shuffle;       /* train rows in a seeded order, new each epoch (true) */
    } data;
    struct { int64_t rollout, tool; } ranks; /* the rest, after the coordinator, are learners */
    struct {
        int64_t steps;               /* optimizer steps (sft) or rollout+update steps (rl) */
        int64_t prompts;             /* questions a step (rl), rows a step (sft) */
        int64_t updates;             /* optimizer updates a step (mini-batches; rl) */
        int64_t micro_tokens;        /* token budget of one micro-batch */
        char *reduce_dtype;          /* float32 | bfloat16: how gradients travel between learners */
        bool recompute;              /* learners keep the input of each layer alone and compute the rest again (false) */
        bool keep_attention;         /* with recompute: keep the output of attention too (false) */
        int64_t eval_every;          /* steps; 0: only at the end if data.eval is set */
        bool eval_at_start;
        int64_t checkpoint_every;    /* steps; 0: only at the end */
        int64_t keep;                /* newest checkpoints kept; 0: all */
        int64_t shard_mb;            /* limit of one file of weights, in units of 10^6 bytes */
        bool resume;                 /* continue from the newest complete checkpoint of `output` (true) */
    } train;
    rlf_tool_config *tools;
    size_t n_tools;
    struct { double exact_match, f1, format; } reward; /* weights of the rule components; a component of weight 0 is still measured */
    struct {
        char *name;            /* grpo */
        int64_t group;         /* samples a question */
        double clip_low, clip_high; /* ratio clipped to [1-low, 1+high] */
        double dual_clip;      /* lower bound factor for negative advantages; 0: off */
        double kl;             /* coefficient; 0: no reference model is kept */
        char *kl_estimator;    /* k1 | k2 | k3 */
        double entropy;        /* bonus coefficient */
        bool normalize_std;    /* divide by the group's standard deviation (true) */
        char *aggregate;       /* token (mean over all tokens of the batch) | sequence (mean of per-trajectory means) */
        bool mask_truncated;   /* trajectories cut by a limit leave the loss (false) */
        bool drop_zero_variance; /* groups whose rewards are all equal leave the batch (false) */
    } algorithm;
    struct {
        char *system;             /* system prompt; "": the template's own default */
        char *chat;               /* a template of common/text/chat.h; auto recognises the checkpoint's template */
        bool thinking;            /* Qwen3 thinking mode (false) */
        char *date;               /* "Today Date" of the Llama 3 templates (26 Jul 2024) */
        bool tools_in_prompt;     /* the template's tool block lists the tools (true) */
        char *tool_format;        /* auto (the chat template's) | hermes | llama | search-r1 | tool-star | fenced */
        char *search_call, *python_call; /* "function.argument" that a tag calls; "": the tag is text */
        bool stop_at_answer;      /* </answer> in the model's text ends the episode (true) */
        int64_t max_turns;        /* tool rounds */
        int64_t max_calls;        /* tool calls in one turn; more are answered as bad calls (4) */
        int64_t max_prompt_tokens;   /* longer prompts are refused with their row */
        int64_t max_turn_tokens;     /* generated in one turn */
        int64_t max_observation_tokens; /* a tool's answer is cut to this */
        int64_t max_tokens;       /* whole episode */
        int64_t retries;          /* times an episode lost to infrastructure is tried again (2) */
        int64_t timeout_s;        /* deadline of one episode */
    } episode;
    struct { double temperature, top_p; int64_t top_k; } sampling;
    struct { double temperature, top_p; int64_t top_k; int64_t samples; } eval_sampling; /* default: greedy, 1 sample */
    struct {
        int64_t batch;         /* rows in one engine step */
        int64_t prefill_chunk; /* prompt or observation tokens of one episode in one step */
        int64_t page_size;     /* tokens, a multiple of 16 */
        int64_t cache_tokens;  /* KV pool of one rollout rank */
        int64_t seats;         /* episodes that generate at once */
    } rollout;
    struct {
        double lr, beta1, beta2, eps, weight_decay, grad_clip; /* grad_clip 0: off */
        char *schedule;        /* constant | cosine */
        int64_t warmup_steps;
        double min_lr_ratio;   /* cosine falls towards lr * this */
    } optimizer;
    struct { int64_t message_s, collective_s, startup_s; } deadline; /* a rank silent for longer ends the job with its name */
    struct { char *record, *replay; } traffic; /* folders; "": none. Calls of tools written down, or answered from there */
    struct { char *level; bool trajectories; bool progress; } log; /* trajectories: write rollouts/ files (true) */
} rlf_config;

/* Reads `path`, applies `overrides` ("a.b=value"), checks ranges and cross-key rules. */
rlf_status rlf_config_load(rlf_config *config, const char *path, char **overrides, size_t n_overrides) RLF_MUST_USE;
/* The same from memory; `label` stands for the file name in messages. */
rlf_status rlf_config_parse(rlf_config *config, const char *text, size_t n, const char *label, char **overrides,
                            size_t n_overrides) RLF_MUST_USE;
void rlf_config_clean_up(rlf_config *config);
/* How often a rank shows that it is alive: several times within deadline.message_s, and every second where that is long. */
int64_t rlf_config_beat_ms(const rlf_config *config);
/* The resolved configuration, every key, as YAML that rlf_config_parse reads back to the same values. */
void rlf_config_dump(const rlf_config *config, rlf_str *out);
/* Appends the keys in which `now` differs, with the values they had, where these are short: "train.steps (was 2), tools.0.schema". */
void rlf_config_compare(const rlf_config *was, const rlf_config *now, rlf_str *out);
/* A field that holds any value, as its text says it; a new reference. NULL: it is not set. */
json_t *rlf_config_json(const char *text);
/* The reference: every key, type, unit, default and meaning, as a Markdown table. */
void rlf_config_reference(rlf_str *out);

#endif
