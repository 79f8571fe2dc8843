"""Checkpoint folders as transformers saves them, for tests/unit/model/test_checkpoint.c (made with transformers 5.23, torch 2.15).

    python make_checkpoint.py

Element i of the t-th tensor, in the order of the slab (embedding, layers, norm, head), is ((7 i + 13 t) mod 63 - 31) / 32: exact in F16 and BF16.
checkpoint_tied: F32, one file. checkpoint_bf16: BF16, untied, sharded. checkpoint_f16: F16, one file, config in the spelling of transformers 4.
"""
import json
import os
import shutil

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPE = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=24,
             max_position_embeddings=64, rope_theta=5000.0)
LAYER = ["input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_norm", "self_attn.k_norm", "self_attn.o_proj",
         "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def names(tied):
    layers = [f"model.layers.{i}.{part}.weight" for i in range(2) for part in LAYER]
    return ["model.embed_tokens.weight", *layers, "model.norm.weight"] + ([] if tied else ["lm_head.weight"])


def save(folder, tied, dtype, **options):
    path = os.path.join(HERE, folder)
    shutil.rmtree(path, ignore_errors=True)
    model = Qwen3ForCausalLM(Qwen3Config(tie_word_embeddings=tied, **SHAPE))
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(names(tied)), set(parameters) ^ set(names(tied))
    with torch.no_grad():
        for t, name in enumerate(names(tied)):
            p = parameters[name]
            values = (torch.arange(p.numel()) * 7 + 13 * t) % 63 - 31
            p.copy_((values / 32).reshape(p.shape))
    model.to(dtype).save_pretrained(path, **options)
    return path


save("checkpoint_tied", True, torch.float32)
save("checkpoint_bf16", False, torch.bfloat16, max_shard_size="4KB")
path = os.path.join(save("checkpoint_f16", True, torch.float16), "config.json")
with open(path) as f:
    config = json.load(f)
config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
config["rope_scaling"] = None
config["torch_dtype"] = config.pop("dtype")
with open(path, "w") as f:
    json.dump(config, f, indent=2)
