"""What `rlf bench tokenize` measures, with the `tokenizers` library (0.23): loading a tokenizer.json, encoding and decoding a text on one thread.

    RAYON_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false taskset -c 1 python3 tokenizers_encode.py MODEL TEXT [--document 4096] [--seconds 2] [--cpu-time]

The text is cut at line ends into documents of at least --document bytes (0: one document). Best of several runs: by the clock, or in CPU seconds of the process.
"""
import argparse
import os
import time

from tokenizers import Tokenizer, __version__


def documents(text, least):
    out, begin = [], 0
    while least and len(text) - begin > least:
        end = text.find(b"\n", begin + least - 1) + 1
        if end == 0:
            break
        out.append(text[begin:end].decode())
        begin = end
    return out + [text[begin:].decode()]


def best_time(step, seconds, clock):
    best, end, result = float("inf"), time.perf_counter() + seconds, None
    while best == float("inf") or time.perf_counter() < end:
        start = clock()
        result = step()
        best = min(best, clock() - start)
    return best, result


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--document", type=int, default=4096)
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("--cpu-time", action="store_true")
    a = p.parse_args()
    clock = time.process_time if a.cpu_time else time.perf_counter
    path = os.path.join(a.model, "tokenizer.json")
    with open(a.text, "rb") as f:
        text = f.read()
    parts = documents(text, a.document)
    load, tokenizer = best_time(lambda: Tokenizer.from_file(path), a.seconds, clock)
    encode, ids = best_time(lambda: [tokenizer.encode(d, add_special_tokens=False).ids for d in parts], a.seconds, clock)
    decode, _ = best_time(lambda: [tokenizer.decode(i, skip_special_tokens=False) for i in ids], a.seconds, clock)
    tokens = sum(map(len, ids))
    print("tokenizers %s, %d documents" % (__version__, len(parts)))
    print("load    %7.3f s" % load)
    print("encode  %7.2f MB/s  %10.0f tokens/s  (%.2f MB, %d tokens)" % (len(text) / encode * 1e-6, tokens / encode, len(text) * 1e-6, tokens))
    print("decode  %7.2f MB/s  %10.0f tokens/s" % (len(text) / decode * 1e-6, tokens / decode))


if __name__ == "__main__":
    main()
