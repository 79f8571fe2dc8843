"""The step of `rlf bench train` in PyTorch: bench-42m (Qwen3 architecture, float32), 8 sequences of 256 tokens, forward, loss, backward,
clipping, AdamW. Written for torch 2.15.0 and transformers 5.23.0.

    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=2 python3 torch_train.py [--seconds 20] [--threads 2] [--cpu-time]

Prints the best step of transformers' Qwen3ForCausalLM (sdpa attention), eager and under torch.compile, and torch's own sgemm rate. Best of
several short runs, as other work on a machine only ever makes a run slower. --cpu-time: as that of rlf bench.
"""
import argparse
import json
import time

import torch
import transformers
from transformers import Qwen3Config, Qwen3ForCausalLM

SEQS, LENGTH = 8, 256


clock = time.perf_counter


def best_time(step, seconds, least=3):
    best, end, n = float("inf"), time.perf_counter() + seconds, 0
    while n < least or time.perf_counter() < end:
        start = clock()
        step()
        best = min(best, clock() - start)
        n += 1
    return best


def sgemm_rate(seconds):
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / best_time(lambda: torch.mm(a, b.t()), seconds)


def training_step(compiled):
    torch.manual_seed(1)
    config = Qwen3Config(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=64,
                         intermediate_size=1536, vocab_size=32000, max_position_embeddings=4096, tie_word_embeddings=True,
                         rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, use_cache=False,
                         attn_implementation="sdpa")
    model = Qwen3ForCausalLM(config).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    tokens = torch.randint(0, 32000, (SEQS, LENGTH))

    def loss_of(x):
        logits = model(x, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 32000), x[:, 1:].reshape(-1))

    loss_fn = torch.compile(loss_of) if compiled else loss_of

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_fn(tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    if args.cpu_time:
        global clock
        clock = lambda: time.process_time() / args.threads
    torch.set_num_threads(args.threads)
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "threads": args.threads}
    out["sgemm_gflops"] = sgemm_rate(min(3, args.seconds)) * 1e-9
    for name, compiled in (("eager", False), ("compile", True)):
        try:
            step = training_step(compiled)
            step()  # warm-up, compilation
            out[name + "_tokens_per_s"] = SEQS * LENGTH / best_time(step, args.seconds)
        except Exception as error:  # torch.compile needs a C++ compiler and may not support a machine
            out[name + "_error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    print(json.dumps(out, indent=2))


main()
