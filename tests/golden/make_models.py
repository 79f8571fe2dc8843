"""Golden values for tests/unit/kernels/test_transformer.c, from transformers' models of each family in float32.

Reference: torch 2.15.0, transformers 5.23.0 (CPU, eager attention).    python3 make_models.py   writes beside itself, for each model,

  NAME.bin        int32  n, then n bytes: config.json as transformers writes it, padded with spaces to a multiple of 4
                  int32  rows seqs every stride samples prompt greedy
                  float32 temperature
                  int32  tokens (rows), seq_begin (seqs+1), targets (rows; -1 at the last row of a sequence)
                  float32 logits (rows / every, vocab): of rows 0, every, 2 every ...
                  float32 logprob (rows), entropy (rows): of softmax(logits / temperature); 0 without a target
                  float32 grad_norm, then every stride-th parameter (samples) after two steps of AdamW
                  int32  the tokens (greedy) of greedy decoding behind the first `prompt` tokens of the first sequence that has them
  NAME.grads.bin  float32 d loss / d parameter, every tensor in the order of common/model/model.c, no padding

Weights are not stored: both sides compute them from a hash of (tensor, element). The loss is
  sum_i a_i logprob_i + b_i entropy_i,   a_i = 0.1 * unit(1000, i),  b_i = 0.02 * unit(1001, i)   over rows i with a target.
AdamW: lr 1e-3, betas 0.9 0.95, eps 1e-8, weight decay 0.1; both steps with the same gradient, scaled by min(1, 1 / (norm + 1e-6)).
"""
import os
import struct

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

ROPE = {"rope_type": "default", "rope_theta": 1e4}
# positions 0..511 lie far beyond the 32 and 48 that the frequencies are scaled from: some pairs are kept, some blended, some slowed
SCALED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
STEEP = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 3.5, "low_freq_factor": 1.5, "high_freq_factor": 6.0,
         "original_max_position_embeddings": 48}
# sizes: hidden layers heads kv_heads head_dim ffn vocab. Head counts, head_dim and vocabulary are mostly no multiples of 16, nor is
# heads * head_dim the width.
MODELS = {
    "qwen3_tied": (Qwen3Config, (32, 2, 4, 2, 16, 40, 64), dict(tie_word_embeddings=True, rope_parameters=ROPE), 1.0, [1, 2, 17, 512]),
    "qwen3_untied": (Qwen3Config, (24, 2, 6, 2, 12, 40, 90), dict(rope_parameters={**ROPE, "rope_theta": 1e6}), 0.7, [33, 512]),
    "qwen2_tied": (Qwen2Config, (24, 2, 6, 3, 10, 36, 50), dict(tie_word_embeddings=True, rope_parameters=ROPE), 1.0, [9, 512]),
    "qwen2_untied": (Qwen2Config, (28, 2, 7, 1, 8, 36, 41), dict(rope_parameters={**ROPE, "rope_theta": 1e6}), 1.3, [512]),
    "llama_tied": (LlamaConfig, (24, 2, 3, 1, 18, 36, 50), dict(tie_word_embeddings=True, rope_parameters=SCALED, rms_norm_eps=1e-5), 1.0,
                   [40, 512]),
    "llama_untied": (LlamaConfig, (24, 2, 6, 2, 16, 36, 53), dict(rope_parameters=STEEP, rms_norm_eps=1e-5), 1.0, [512, 3]),
    "llama_plain": (LlamaConfig, (24, 1, 6, 6, 8, 36, 50), dict(rope_parameters=ROPE), 1.0, [512]),
    "mistral_tied": (MistralConfig, (24, 2, 5, 1, 14, 36, 50), dict(tie_word_embeddings=True, rope_parameters=ROPE, sliding_window=None), 1.0,
                     [512]),
    "mistral_untied": (MistralConfig, (24, 2, 6, 3, 8, 36, 50), dict(rope_parameters=ROPE, sliding_window=None, rms_norm_eps=1e-5), 1.0,
                       [7, 512]),
}
STRIDE, EVERY, PROMPT, GREEDY = 5, 12, 24, 64


def mix(x):
    """SplitMix64 finaliser over a uint64 array."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def unit(stream, n):
    """n floats in [-0.5, 0.5), multiples of 2^-24: element i of a stream."""
    key = np.uint64(stream) * np.uint64(1 << 32) + np.arange(n, dtype=np.uint64) + np.uint64(1)
    return ((mix(key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)) - np.float32(0.5)


def layout_names(named, layers):
    """The order of common/model/model.c."""
    names = ["model.embed_tokens.weight"]
    for i in range(layers):
        for part in ("input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
                     "self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias", "self_attn.q_norm.weight",
                     "self_attn.k_norm.weight", "self_attn.o_proj.weight", "post_attention_layernorm.weight", "mlp.gate_proj.weight",
                     "mlp.up_proj.weight", "mlp.down_proj.weight"):
            names.append(f"model.layers.{i}.{part}")
    names = [name for name in names + ["model.norm.weight", "lm_head.weight"] if name in named]
    assert len(names) == len(named)
    return names


def fill(named, names):
    for index, name in enumerate(names):
        u = torch.from_numpy(unit(index, named[name].numel())).reshape(named[name].shape)
        with torch.no_grad():
            named[name].copy_(1 + 0.25 * u if "norm" in name else 0.5 * u)


def greedy_tokens(model, prompt):
    """Without a cache, so that nothing but the forward pass is asked; a near tie would make the comparison one of rounding."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(GREEDY):
            best = model(torch.tensor([tokens])).logits[0, -1].topk(2)
            assert best.values[0] - best.values[1] > 2e-4, best
            tokens.append(int(best.indices[0]))
    return np.array(tokens[len(prompt):], dtype=np.int32)


def main(name, kind, sizes, options, temperature, lengths):
    hidden, layers, heads, kv_heads, head_dim, ffn, vocab = sizes
    config = kind(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
                  intermediate_size=ffn, vocab_size=vocab, max_position_embeddings=1024, bos_token_id=None, eos_token_id=None, **options)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float()
    config.architectures = [type(model).__name__]
    named = dict(model.named_parameters())
    names = layout_names(named, layers)
    params = [named[n] for n in names]
    fill(named, names)

    rows = sum(lengths)
    tokens = ((unit(2000, rows) + np.float32(0.5)) * vocab).astype(np.int32)
    begin = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    targets = np.append(tokens[1:], -1).astype(np.int32)
    targets[begin[1:] - 1] = -1
    a, b = torch.from_numpy(0.1 * unit(1000, rows)).float(), torch.from_numpy(0.02 * unit(1001, rows)).float()

    logits = torch.cat([model(torch.from_numpy(tokens[s:e]).long()[None]).logits[0] for s, e in zip(begin[:-1], begin[1:])])
    logp = torch.log_softmax(logits / temperature, dim=-1)
    wanted = torch.from_numpy(targets >= 0)
    logprob = torch.where(wanted, logp.gather(1, torch.from_numpy(np.maximum(targets, 0)).long()[:, None])[:, 0], 0.0)
    entropy = torch.where(wanted, -(logp.exp() * logp).sum(-1), 0.0)
    (a * logprob + b * entropy).sum().backward()
    grads = np.concatenate([p.grad.numpy().ravel() for p in params])
    prompt = next(tokens[s:e] for s, e in zip(begin[:-1], begin[1:]) if e - s >= PROMPT)[:PROMPT]
    continued = greedy_tokens(model, prompt)

    norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
    optimizer.step()
    optimizer.step()
    after = np.concatenate([p.detach().numpy().ravel() for p in params])[::STRIDE]

    text = config.to_json_string().encode()
    text += b" " * (-len(text) % 4)
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, name + ".bin"), "wb") as f:
        f.write(struct.pack("<i", len(text)) + text)
        f.write(struct.pack("<7if", rows, len(lengths), EVERY, STRIDE, len(after), PROMPT, GREEDY, temperature))
        for array in (tokens, begin, targets):
            f.write(array.astype("<i4").tobytes())
        for array in (logits.detach().numpy()[::EVERY], logprob.detach().numpy(), entropy.detach().numpy(), np.float32(norm.item()), after):
            f.write(array.astype("<f4").tobytes())
        f.write(continued.astype("<i4").tobytes())
    with open(os.path.join(here, name + ".grads.bin"), "wb") as f:
        f.write(grads.astype("<f4").tobytes())
    print(name, grads.size, "parameters, gradient norm", norm.item())


for model_name, args in MODELS.items():
    main(model_name, *args)
