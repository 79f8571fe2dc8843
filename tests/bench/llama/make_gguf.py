"""Writes a checkpoint folder of the Qwen3 architecture as GGUF, for llama.cpp to be compared with.

    python3 make_gguf.py FOLDER OUT.gguf

Standard library only. Matrices keep the type they are stored in (F32, F16, BF16), bit for bit; vectors become F32, the only type that
llama.cpp takes for them. There is no vocabulary (tokenizer.ggml.model = "none"): the comparison works on token ids.
Format: GGUF version 3, little endian: header, key-values, tensor table, then data aligned to 32 bytes.
"""
import array
import json
import mmap
import os
import re
import struct
import sys

ALIGNMENT = 32
U32, F32, STRING = 4, 6, 8  # types of values
TENSOR_TYPES = {"F32": 0, "F16": 1, "BF16": 30}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
               "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
               "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def value(key, kind, v):
    packed = string(v) if kind == STRING else struct.pack("<I" if kind == U32 else "<f", v)
    return string(key) + struct.pack("<I", kind) + packed


def key_values(config):
    if config["model_type"] != "qwen3":
        sys.exit(f"make_gguf.py: model_type '{config['model_type']}': only qwen3 is known")
    sizes = {"block_count": "num_hidden_layers", "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
             "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
             "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim", "attention.value_length": "head_dim",
             "vocab_size": "vocab_size"}
    reals = {"attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta"}
    values = [value("general.architecture", STRING, "qwen3"), value("tokenizer.ggml.model", STRING, "none")]
    values += [value(f"qwen3.{key}", U32, config[name]) for key, name in sizes.items()]
    values += [value(f"qwen3.{key}", F32, config[name]) for key, name in reals.items()]
    return values


def gguf_name(name):
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if layer:
        return f"blk.{layer[1]}.{LAYER_NAMES[layer[2]]}.weight"
    return NAMES[name.removesuffix(".weight")] + ".weight"


def read_tensors(folder):
    """(name, type, shape, bytes) of every tensor of the folder's safetensors files, which stay mapped."""
    for file in sorted(f for f in os.listdir(folder) if f.endswith(".safetensors")):
        with open(os.path.join(folder, file), "rb") as f:
            data = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
        header = struct.unpack("<Q", data[:8])[0]
        for name, t in json.loads(bytes(data[8:8 + header])).items():
            if name != "__metadata__":
                begin, end = t["data_offsets"]
                yield name, t["dtype"], t["shape"], data[8 + header + begin:8 + header + end]


def vector_to_f32(kind, data):
    if kind == "F32":
        return data
    if kind == "F16":
        return array.array("f", struct.unpack(f"<{len(data) // 2}e", data)).tobytes()
    return b"".join(b"\0\0" + bytes(data[i:i + 2]) for i in range(0, len(data), 2))


def main(folder, out):
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    tensors = []
    for name, kind, shape, data in read_tensors(folder):
        if len(shape) == 1:
            kind, data = "F32", vector_to_f32(kind, data)
        tensors.append((gguf_name(name), kind, shape, data))
    values, table, offset = key_values(config), b"", 0
    for name, kind, shape, data in tensors:
        dims = struct.pack(f"<{len(shape)}Q", *reversed(shape))  # innermost first
        table += string(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", TENSOR_TYPES[kind], offset)
        offset += len(data) + -len(data) % ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values) + table
    with open(out, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGNMENT))
        for _, _, _, data in tensors:
            f.write(data)
            f.write(bytes(-len(data) % ALIGNMENT))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("make_gguf.py: expected FOLDER OUT.gguf")
    main(sys.argv[1], sys.argv[2])
