"""What `rlf bench train` and `rlf bench decode` measure, in PyTorch and transformers, on a CPU or a card. Written for torch 2.15 and transformers 5.24.

    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=2 python3 torch_model.py train [options]
    python3 torch_model.py generate --device cuda --dtype bfloat16 --shape qwen3-4b --batch 1,16,64,256 --context 1024

train: forward, loss, backward, clipping, AdamW on sequences of one length: transformers' Qwen3ForCausalLM (sdpa attention), eager and under
torch.compile, and torch's own matrix rate. In bfloat16 the master weights and moments are float32 (autocast).
generate: transformers' generate with its cache, tokens sampled, prompts of --context tokens; the prompt's time is taken off.

Best of several short runs (--seconds 0: one), as other work on a machine only ever makes a run slower. --cpu-time: as that of rlf bench.
"""
import argparse
import json
import signal
import sys
import time

import torch
import transformers
from transformers import Qwen3Config, Qwen3ForCausalLM

# hidden, layers, heads, kv heads, head dim, ffn, vocabulary, tied: as common/model/model.c has them
SHAPES = {"tiny": (64, 2, 4, 2, 16, 128, 384, True), "bench-42m": (512, 8, 8, 4, 64, 1536, 32000, True),
          "qwen3-0.6b": (1024, 28, 16, 8, 128, 3072, 151936, True), "qwen3-1.7b": (2048, 28, 16, 8, 128, 6144, 151936, True),
          "qwen3-4b": (2560, 36, 32, 8, 128, 9728, 151936, True), "qwen3-8b": (4096, 36, 32, 8, 128, 12288, 151936, False)}
NEW = 64


class Clock:
    def __init__(self, args):
        self.args = args

    def now(self):
        if self.args.device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() / self.args.threads if self.args.cpu_time else time.perf_counter()

    def best(self, step):
        best, end, n = float("inf"), time.perf_counter() + self.args.seconds, 0
        while n < (3 if self.args.seconds else 1) or time.perf_counter() < end:
            start = self.now()
            step()
            best = min(best, self.now() - start)
            n += 1
        return best


def matrix_rate(args, clock):
    n = 2048 if args.device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=args.device, dtype=args.dtype) for _ in range(2))
    return 2 * n**3 / clock.best(lambda: torch.mm(a, b.t()))


def model_of(args, positions):
    hidden, layers, heads, kv_heads, dim, ffn, vocab, tied = SHAPES[args.shape]
    config = Qwen3Config(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=dim,
                         intermediate_size=ffn, vocab_size=vocab, max_position_embeddings=max(4096, positions), tie_word_embeddings=tied,
                         rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, attn_implementation="sdpa")
    torch.manual_seed(1)
    with torch.device(args.device):
        return Qwen3ForCausalLM(config), vocab


def training_step(args, compiled):
    model, vocab = model_of(args, args.length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    tokens = torch.randint(0, vocab, (args.sequences, args.length), device=args.device)

    def loss_of(x):
        logits = model(x, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, vocab), x[:, 1:].reshape(-1))

    loss_fn = torch.compile(loss_of) if compiled else loss_of

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == torch.bfloat16):
            loss = loss_fn(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def train(args, clock, out):
    for name, compiled in (("eager", False), ("compile", True)):
        try:
            step = training_step(args, compiled)
            step()  # warm-up, compilation
            out[name + "_tokens_per_s"] = args.sequences * args.length / clock.best(step)
        except Exception as error:  # torch.compile needs a C++ compiler and may not support a machine; a card may be full
            out[name + "_error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def generate(args, clock, out):
    model, vocab = model_of(args, args.context + NEW)
    model = model.to(args.dtype).eval()
    for batch in args.batch:
        prompts = torch.randint(0, vocab, (batch, args.context), device=args.device)

        def run(new):
            with torch.inference_mode():
                model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, max_new_tokens=new,
                               min_new_tokens=new, pad_token_id=0)

        try:
            run(2)
            seconds = clock.best(lambda: run(NEW)) - clock.best(lambda: run(1))
            out.setdefault("decode_tokens_per_s", {})[str(batch)] = batch * (NEW - 1) / seconds
        except torch.OutOfMemoryError as error:  # a card may be full
            out[f"error_{batch}"] = str(error).splitlines()[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "generate"])
    parser.add_argument("--shape", default="bench-42m", choices=list(SHAPES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=lambda text: [int(n) for n in text.split(",")], default=[1, 16])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.dtype = getattr(torch, args.dtype)
    clock = Clock(args)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {args.threads} threads"
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "device": device, "shape": args.shape, "dtype": str(args.dtype)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped, out of time"))
    try:
        out["matrix_gflops"] = matrix_rate(args, clock) * 1e-9
        {"train": train, "generate": generate}[args.what](args, clock, out)
    finally:  # what was measured so far, if stopped
        print(json.dumps(out, indent=2))


main()
