/* The table of keys (keys.h). To add one: a field in config.h and a line here. */
#include "common/config/keys.h"

#include "common/config/config.h"

#define AT(field) offsetof(rlf_config, field)
#define INT(name, unit, fallback, min, max, meaning) {#name, RLF_KEY_INT, AT(name), unit, fallback, min, max, NULL, meaning}
#define REAL(name, unit, fallback, min, max, meaning) {#name, RLF_KEY_REAL, AT(name), unit, fallback, min, max, NULL, meaning}
#define BOOL(name, fallback, meaning) {#name, RLF_KEY_BOOL, AT(name), "", fallback, 0, 0, NULL, meaning}
#define TEXT(name, fallback, choices, meaning) {#name, RLF_KEY_TEXT, AT(name), "", fallback, 0, 0, choices, meaning}

#define EXACT_INT 9007199254740991.0 /* 2^53 - 1: every reader of the dump keeps it exactly */
#define MANY 1e12
#define TOKENS 16777216 /* of one episode or row */

const rlf_key rlf_config_keys[] = {
    INT(seed, "", "1", 0, EXACT_INT, "Seed of everything drawn: data order, sampling, injected latency"),
    TEXT(output, "", NULL, "Run folder (required)"),
    TEXT(mode, "", "rl|sft|eval", "What to do: reinforcement learning, supervised training, or evaluation only (required)"),
    TEXT(device, "auto", "auto|cpu", "Where the arithmetic runs"),
    INT(threads, "", "0", 0, 1024, "Threads of a rank; 0: cores of the node divided by its ranks of the same role"),
    TEXT(model.path, "", NULL, "Hugging Face checkpoint folder to start from (required)"),
    TEXT(data.train, "", NULL, "Training rows, JSONL (required for rl and sft)"),
    TEXT(data.eval, "", NULL, "Evaluation rows, JSONL (required for eval)"),
    INT(data.eval_limit, "rows", "0", 0, MANY, "Rows of data.eval used; 0: all"),
    BOOL(data.shuffle, "true", "Training rows in a seeded order, new in each epoch"),
    INT(ranks.rollout, "ranks", "1", 0, 65536, "Ranks that generate"),
    INT(ranks.tool, "ranks", "1", 0, 65536, "Ranks that run tools and rewards; the rest, after the coordinator, are learners"),
    INT(train.steps, "steps", "100", 1, 1e9, "Steps: rollout and update (rl) or optimizer steps (sft)"),
    INT(train.prompts, "", "32", 1, 1e6, "Questions a step (rl), rows a step (sft)"),
    INT(train.updates, "", "1", 1, 1e4, "Optimizer updates a step, each on its share of the trajectories (rl)"),
    INT(train.micro_tokens, "tokens", "8192", 16, MANY, "Token budget of one micro-batch of a learner"),
    INT(train.eval_every, "steps", "0", 0, 1e9, "Steps between evaluations; 0: only at the end, where data.eval is set"),
    BOOL(train.eval_at_start, "false", "Evaluate before the first step"),
    INT(train.checkpoint_every, "steps", "0", 0, 1e9, "Steps between checkpoints; 0: only at the end"),
    INT(train.keep, "", "3", 0, 1e6, "Newest checkpoints kept; 0: all"),
    INT(train.shard_mb, "MB", "5000", 1, 1e9, "A checkpoint's weights go into several files where they are larger than this"),
    BOOL(train.resume, "true", "Continue from the newest complete checkpoint in the run folder"),
    REAL(reward.exact_match, "", "1.0", -1e6, 1e6, "Weight of exact match; a component of weight 0 is still measured"),
    REAL(reward.f1, "", "0.0", -1e6, 1e6, "Weight of token F1"),
    REAL(reward.format, "", "0.0", -1e6, 1e6, "Weight of the format component"),
    TEXT(algorithm.name, "grpo", "grpo", "Policy-gradient algorithm"),
    INT(algorithm.group, "samples", "4", 1, 4096, "Samples of a question"),
    REAL(algorithm.clip_low, "", "0.2", 0, 1, "The ratio is clipped below at 1 - clip_low"),
    REAL(algorithm.clip_high, "", "0.2", 0, 100, "The ratio is clipped above at 1 + clip_high"),
    REAL(algorithm.dual_clip, "", "0.0", 0, 1e6, "Bound of the ratio for negative advantages, above 1; 0: off"),
    REAL(algorithm.kl, "", "0.0", 0, 1e6, "Coefficient of the KL divergence from the reference model; 0: no reference is kept"),
    TEXT(algorithm.kl_estimator, "k3", "k1|k2|k3", "Estimator of that divergence"),
    REAL(algorithm.entropy, "", "0.0", -1e3, 1e3, "Coefficient of the entropy bonus"),
    BOOL(algorithm.normalize_std, "true", "Divide advantages by the standard deviation of the group"),
    TEXT(algorithm.aggregate, "token", "token|sequence", "Loss: mean over all tokens of the batch, or mean of the means of trajectories"),
    BOOL(algorithm.mask_truncated, "false", "Trajectories cut by a limit leave the loss"),
    BOOL(algorithm.drop_zero_variance, "false", "Groups whose rewards are all equal leave the batch"),
    TEXT(episode.system, "", NULL, "System prompt; empty: the default of the chat template"),
    TEXT(episode.chat, "auto", "auto|chatml|llama3.1|llama3.2|qwen2.5|qwen3", "Chat template; auto recognises the checkpoint's"),
    BOOL(episode.thinking, "false", "Thinking mode of Qwen3"),
    TEXT(episode.date, "26 Jul 2024", NULL, "\"Today Date\" in the prompt of the Llama 3 templates, which the clock never sets"),
    BOOL(episode.tools_in_prompt, "true", "List the tools in the prompt as the template does"),
    TEXT(episode.tool_format, "auto", "auto|hermes|llama", "How the model writes a tool call; auto: as its chat template shows it"),
    BOOL(episode.stop_at_answer, "true", "</answer> in the model's text ends the episode"),
    INT(episode.max_turns, "", "4", 0, 1e4, "Rounds of tool calls; 0: the model never calls a tool"),
    INT(episode.max_calls, "", "4", 1, 1024, "Tool calls in one turn; more are answered as bad calls"),
    INT(episode.max_prompt_tokens, "tokens", "2048", 1, TOKENS, "Longest prompt; a longer one is refused with its row"),
    INT(episode.max_turn_tokens, "tokens", "512", 1, TOKENS, "Most tokens generated in one turn"),
    INT(episode.max_observation_tokens, "tokens", "512", 1, TOKENS, "A tool's answer is cut to this"),
    INT(episode.max_tokens, "tokens", "4096", 2, TOKENS, "Longest episode, prompt and observations included; longest row of sft"),
    INT(episode.retries, "", "2", 0, 100, "Times an episode lost to infrastructure is tried again"),
    INT(episode.timeout_s, "s", "600", 1, 1e7, "Deadline of one episode"),
    REAL(sampling.temperature, "", "1.0", 0, 100, "Temperature of the rollout; in mode rl above 0"),
    REAL(sampling.top_p, "", "1.0", 1e-6, 1, "Nucleus; 1: off"),
    INT(sampling.top_k, "", "0", 0, TOKENS, "Most likely tokens kept; 0: all"),
    REAL(eval_sampling.temperature, "", "0.0", 0, 100, "The same for evaluation; 0: greedy"),
    REAL(eval_sampling.top_p, "", "1.0", 1e-6, 1, "Nucleus; 1: off"),
    INT(eval_sampling.top_k, "", "0", 0, TOKENS, "Most likely tokens kept; 0: all"),
    INT(eval_sampling.samples, "samples", "1", 1, 4096, "Samples of a question; the mean is reported"),
    INT(rollout.batch, "rows", "64", 1, 65536, "Rows of one engine step"),
    INT(rollout.prefill_chunk, "tokens", "128", 1, 65536, "Prompt or observation tokens of one episode in one engine step"),
    INT(rollout.page_size, "tokens", "16", 16, 65536, "Page of the KV cache; a multiple of 16"),
    INT(rollout.cache_tokens, "tokens", "65536", 16, MANY, "KV cache of one rollout rank"),
    INT(rollout.seats, "", "64", 1, 65536, "Episodes that generate at once on one rollout rank"),
    REAL(optimizer.lr, "", "1e-06", 0, 100, "Learning rate"),
    REAL(optimizer.beta1, "", "0.9", 0, 0.9999999, "AdamW: decay of the first moment"),
    REAL(optimizer.beta2, "", "0.999", 0, 0.9999999, "AdamW: decay of the second moment"),
    REAL(optimizer.eps, "", "1e-08", 1e-30, 1, "AdamW: added to the denominator"),
    REAL(optimizer.weight_decay, "", "0.01", 0, 100, "AdamW: decoupled weight decay"),
    REAL(optimizer.grad_clip, "", "1.0", 0, 1e9, "Largest global norm of the gradient; 0: off"),
    TEXT(optimizer.schedule, "constant", "constant|cosine", "Learning rate after the warm-up"),
    INT(optimizer.warmup_steps, "steps", "0", 0, 1e9, "Steps over which the learning rate rises linearly from 0"),
    REAL(optimizer.min_lr_ratio, "", "0.0", 0, 1, "Cosine ends at lr times this"),
    INT(deadline.message_s, "s", "300", 1, 1e7, "A rank that is silent for longer ends the job, with its name"),
    INT(deadline.collective_s, "s", "300", 1, 1e7, "Longest wait in a collective operation"),
    INT(deadline.startup_s, "s", "120", 1, 1e7, "Longest wait for all ranks to be ready"),
    TEXT(log.level, "info", "debug|info|warn|error", "Lowest level printed"),
    BOOL(log.trajectories, "true", "Write every trajectory under rollouts/"),
    BOOL(log.progress, "true", "Progress line on a terminal"),
};
const size_t rlf_config_key_count = sizeof rlf_config_keys / sizeof rlf_config_keys[0];

#define TOOL(type, name, field, unit, fallback, min, max, choices, meaning) \
    {name, RLF_KEY_##type, offsetof(rlf_tool_config, field), unit, fallback, min, max, choices, meaning}

const rlf_key rlf_tool_keys[] = {
    TOOL(TEXT, "name", name, "", "", 0, 0, NULL, "What the model calls (required, unique)"),
    TOOL(TEXT, "kind", kind, "", "", 0, 0, "index|calculator", "What answers (required)"),
    TOOL(TEXT, "path", path, "", "", 0, 0, NULL, "kind index: file made by `rlf index` (required there)"),
    TOOL(TEXT, "description", description, "", "", 0, 0, NULL, "Shown in the prompt; empty: the kind's own"),
    TOOL(JSON, "schema", schema, "", "", 0, 0, NULL, "JSON schema of the arguments; empty: the kind's own"),
    TOOL(INT, "top_k", top_k, "passages", "3", 1, 1000, NULL, "kind index: passages returned"),
    TOOL(INT, "timeout_ms", timeout_ms, "ms", "10000", 1, 1e9, NULL, "Deadline of one call, from its arrival"),
    TOOL(INT, "concurrency", concurrency, "calls", "64", 1, 65536, NULL, "Calls running at once on one tool rank"),
    TOOL(INT, "queue", queue, "calls", "65536", 0, 1e6, NULL, "Calls waiting at most on one tool rank; one more is an infra_error"),
    TOOL(REAL, "per_second", per_second, "1/s", "0.0", 0, 1e9, NULL, "Calls started per second on one tool rank; 0: any number"),
    TOOL(INT, "retries", retries, "", "2", 0, 100, NULL, "Times a call that ended in infra_error is tried again, within its deadline"),
    TOOL(INT, "backoff_ms", backoff_ms, "ms", "100", 0, 1e6, NULL, "Wait before the first retry, with seeded jitter; doubles each time"),
    TOOL(BOOL, "merge", merge, "", "false", 0, 0, NULL, "Identical calls in flight run once: for tools whose answers are pure"),
    TOOL(INT, "batch", batch, "calls", "1", 1, 1024, NULL, "Calls sent as one request, for kinds that can (retriever)"),
    TOOL(INT, "batch_ms", batch_ms, "ms", "2", 0, 1e6, NULL, "How long a call waits for others to go with it"),
    TOOL(INT, "breaker.failures", breaker_failures, "calls", "0", 0, 1e6, NULL,
         "Infra errors in a row that put the tool out of service; 0: never"),
    TOOL(INT, "breaker.reset_ms", breaker_reset_ms, "ms", "5000", 1, 1e9, NULL, "How long, until one call is let through as a probe"),
    TOOL(REAL, "latency.median_ms", latency_median_ms, "ms", "0.0", 0, 1e9, NULL,
         "Injected delay, log-normal and seeded, for trials: its median; 0: none"),
    TOOL(REAL, "latency.p99_ms", latency_p99_ms, "ms", "0.0", 0, 1e9, NULL, "Its 99th percentile; 0: the median, always"),
};
const size_t rlf_tool_key_count = sizeof rlf_tool_keys / sizeof rlf_tool_keys[0];
