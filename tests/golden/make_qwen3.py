"""Golden values for tests/unit/kernels/test_transformer.c, from transformers' Qwen3ForCausalLM in float32.

Reference: torch 2.15.0, transformers 5.23.0 (CPU, eager attention).    python3 make_qwen3.py   writes beside itself, for each model,

  NAME.bin        int32  hidden layers heads kv_heads head_dim ffn vocab tied rows seqs stride samples
                  float32 temperature rope_theta
                  int32  tokens (rows), seq_begin (seqs+1), targets (rows; -1 at the last row of a sequence)
                  float32 logits (rows, vocab), logprob (rows), entropy (rows): of softmax(logits / temperature); 0 without a target
                  float32 grad_norm, then every stride-th parameter (samples) after two steps of AdamW
  NAME.grads.bin  float32 d loss / d parameter, every tensor in the order of common/model/model.c, no padding

Weights are not stored: both sides compute them from a hash of (tensor, element). The loss is
  sum_i a_i logprob_i + b_i entropy_i,   a_i = 0.1 * unit(1000, i),  b_i = 0.02 * unit(1001, i)   over rows i with a target.
AdamW: lr 1e-3, betas 0.9 0.95, eps 1e-8, weight decay 0.1; both steps with the same gradient, scaled by min(1, 1 / (norm + 1e-6)).
"""
import os
import struct

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

MODELS = {
    # heads * head_dim != hidden in both; the second has an odd group count, a head_dim and a vocabulary that are no multiple of 16
    "qwen3_tied": dict(hidden=32, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=40, vocab=96, tied=True, theta=1e4, temperature=1.0,
                       lengths=[1, 2, 17, 25]),
    "qwen3_untied": dict(hidden=24, layers=2, heads=6, kv_heads=2, head_dim=12, ffn=40, vocab=90, tied=False, theta=1e6, temperature=0.7,
                         lengths=[33, 9]),
}
STRIDE = 5


def mix(x):
    """SplitMix64 finaliser over a uint64 array."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def unit(stream, n):
    """n floats in [-0.5, 0.5), multiples of 2^-24: element i of a stream."""
    key = np.uint64(stream) * np.uint64(1 << 32) + np.arange(n, dtype=np.uint64) + np.uint64(1)
    return ((mix(key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)) - np.float32(0.5)


def layout_names(layers, tied):
    names = ["model.embed_tokens.weight"]
    for i in range(layers):
        for part in ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_norm", "self_attn.k_norm",
                     "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            names.append(f"model.layers.{i}.{part}.weight")
    return names + ["model.norm.weight"] + ([] if tied else ["lm_head.weight"])


def fill(params):
    for index, p in enumerate(params):
        u = torch.from_numpy(unit(index, p.numel())).reshape(p.shape)
        with torch.no_grad():
            p.copy_(1 + 0.25 * u if p.dim() == 1 else 0.5 * u)


def main(name, hidden, layers, heads, kv_heads, head_dim, ffn, vocab, tied, theta, temperature, lengths):
    config = Qwen3Config(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                         head_dim=head_dim, intermediate_size=ffn, vocab_size=vocab, tie_word_embeddings=tied, rms_norm_eps=1e-6,
                         max_position_embeddings=256, rope_parameters={"rope_type": "default", "rope_theta": theta},
                         attn_implementation="eager")
    model = Qwen3ForCausalLM(config).float()
    named = dict(model.named_parameters())
    params = [named[n] for n in layout_names(layers, tied)]
    assert len(params) == len(named)
    fill(params)

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

    norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
    optimizer.step()
    optimizer.step()
    after = np.concatenate([p.detach().numpy().ravel() for p in params])[::STRIDE]

    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, name + ".bin"), "wb") as f:
        f.write(struct.pack("<12i2f", hidden, layers, heads, kv_heads, head_dim, ffn, vocab, tied, rows, len(lengths), STRIDE, len(after),
                            temperature, theta))
        for array in (tokens, begin, targets):
            f.write(array.astype("<i4").tobytes())
        for array in (logits.detach().numpy(), logprob.detach().numpy(), entropy.detach().numpy(), np.float32(norm.item()), after):
            f.write(array.astype("<f4").tobytes())
    with open(os.path.join(here, name + ".grads.bin"), "wb") as f:
        f.write(grads.astype("<f4").tobytes())
    print(name, grads.size, "parameters, gradient norm", norm.item())


for model_name, args in MODELS.items():
    main(model_name, **args)
