#!/usr/bin/env python3
"""What rlf trains and saves opens in transformers and means the same there, for every family.

Written for torch 2.15, transformers 5.23.

  check_roundtrip.py BUILD [CASE...]   BUILD: the build folder; exit status 1 if a case fails

A case: `rlf init` of a small shape with the quickstart's tokenizer -> one supervised step of `rlf-train` (two processes, large learning rate) -> the
checkpoint, loaded by AutoModelForCausalLM in float32, against `rlf score` of the same folder on texts of up to 500 tokens: largest difference
of a log-prob at most 2e-5. Also: the weights did change, the files and dtypes are those asked for, every key of the source's config.json but its dtype
and every byte of its generation config and tokenizer came along, AutoTokenizer gives rlf's ids, and save_pretrained -> rlf score gives the
log-probs again.
"""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(sys.argv[1])
TOLERANCE = 2e-5
MPIRUN = ["mpirun", "-q", "--bind-to", "none", "--oversubscribe", "-np", "2"]
# name: options of rlf init, keys of the job, number of files of weights (None: several), dtype saved
CASES = {
    "qwen3": (["--shape", "tiny"], [], 1, "F32"),
    "qwen3-shards": (["--shape", "quickstart"], ["train.shard_mb=1"], None, "F32"),
    "qwen2": (["--shape", "tiny-qwen2"], [], 1, "F32"),
    "qwen2-shards": (["--shape", "quickstart-qwen2"], ["train.shard_mb=1"], None, "F32"),
    "llama": (["--shape", "tiny-llama"], [], 1, "F32"),
    "llama-shards": (["--shape", "quickstart-llama"], ["train.shard_mb=1"], None, "F32"),
    "mistral": (["--shape", "tiny-mistral"], [], 1, "F32"),
    "mistral-shards": (["--shape", "tiny-mistral", "--hidden", "256", "--layers", "4"], ["train.shard_mb=1"], None, "F32"),
    "qwen3-bf16": (["--shape", "tiny", "--dtype", "bfloat16"], ["model.dtype=bfloat16"], 1, "BF16"),
    "qwen2-bf16": (["--shape", "tiny-qwen2", "--dtype", "bfloat16"], ["model.dtype=bfloat16"], 1, "BF16"),
    "llama-bf16-shards": (["--shape", "quickstart-llama", "--dtype", "bfloat16"], ["model.dtype=bfloat16", "train.shard_mb=1"], None, "BF16"),
    "mistral-bf16": (["--shape", "tiny-mistral", "--dtype", "bfloat16"], ["model.dtype=bfloat16"], 1, "BF16"),
    "qwen2-bf16-to-f32": (["--shape", "quickstart-qwen2", "--dtype", "bfloat16"], ["train.shard_mb=1"], None, "F32"),
}


def run(*command, stdin=None):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def rlf(*arguments, stdin=None):
    return run(os.path.join(BUILD, "trainer", "rlf"), *arguments, stdin=stdin)


def tensors(folder):
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "model*.safetensors"))):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                assert name not in found, name
                found[name] = file.get_tensor(name)
    return found


def same_bytes(a, b, name):
    with open(os.path.join(a, name), "rb") as x, open(os.path.join(b, name), "rb") as y:
        assert x.read() == y.read(), f"{name} was not carried over"


def make_start(folder, options):
    """A folder as a user has it, with keys and files that rlf does not know the use of."""
    rlf("init", *options, "--vocab", "512", "--std", "0.08", "--seed", "3", "--tokenizer", os.path.join(SOURCE, "jobs", "quickstart", "tokenizer.json"),
        "-o", folder)
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    config.update(bos_token_id=1, eos_token_id=[2, 3], rms_norm_eps=3e-6, a_key_of_its_own={"x": [1.5, None, "\u00e9"]})
    with open(path, "w") as file:
        json.dump(config, file)
    with open(os.path.join(folder, "generation_config.json"), "w") as file:
        json.dump({"temperature": 0.7, "eos_token_id": [2, 3], "do_sample": True}, file)


def check_folder(start, saved, files, dtype):
    names = [os.path.basename(p) for p in glob.glob(os.path.join(saved, "model*.safetensors"))]
    assert len(names) == files if files else len(names) > 1, names
    assert os.path.exists(os.path.join(saved, "model.safetensors.index.json")) == (len(names) > 1)
    for name in ("generation_config.json", "tokenizer.json"):
        same_bytes(start, saved, name)
    with open(os.path.join(start, "config.json")) as a, open(os.path.join(saved, "config.json")) as b:
        before, after = json.load(a), json.load(b)
    before["torch_dtype"] = {"F32": "float32", "BF16": "bfloat16"}[dtype]
    assert before == after, (before, after)
    old, new = tensors(start), tensors(saved)
    assert old.keys() == new.keys()
    assert {t.dtype for t in new.values()} == {{"F32": torch.float32, "BF16": torch.bfloat16}[dtype]}
    assert all(not torch.equal(old[n].float(), new[n].float()) for n in new if n.endswith("proj.weight")), "a tensor was not trained"


def scores(folder, texts, dtype="float32"):
    lines = rlf("score", folder, "--threads", "1", "--dtype", dtype, stdin="\n".join(texts) + "\n")
    return [json.loads(line) for line in lines.splitlines()]


def largest_difference(folder, scored):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    worst, tokens = 0.0, 0
    for line in scored:
        ids, ours = torch.tensor(line["ids"]), torch.tensor(line["logprobs"], dtype=torch.float64)
        with torch.no_grad():
            logp = torch.log_softmax(model(ids[None]).logits[0].double(), -1)
        theirs = logp[:-1].gather(1, ids[1:, None])[:, 0]
        worst, tokens = max(worst, (theirs - ours[1:]).abs().max().item()), tokens + len(ids)
    return model, worst, tokens


def texts_of(rows):
    with open(rows) as file:
        all_text = [" ".join(m["content"].replace("\n", " ") for m in json.loads(line)["messages"]) for line in file]
    long = " ".join(all_text)
    return [all_text[0], all_text[1], long[:1900]]


def check(name, work, data):
    options, keys, files, dtype = CASES[name]
    start, output, again = (os.path.join(work, name, part) for part in ("start", "run", "again"))
    os.makedirs(os.path.dirname(start))
    make_start(start, options)
    run(*MPIRUN, os.path.join(BUILD, "trainer", "rlf-train"), os.path.join(SOURCE, "jobs", "quickstart_cold.yaml"), f"output={output}",
        f"model.path={start}", f"data.train={data}/sft.jsonl", "train.steps=1", "train.prompts=8", "optimizer.lr=1e-2", "optimizer.warmup_steps=0",
        "threads=1", "log.progress=false", *keys)
    saved = os.path.join(output, "checkpoints", "step_1")
    check_folder(start, saved, files, dtype)
    texts = texts_of(os.path.join(data, "sft.jsonl"))
    scored = scores(saved, texts)
    assert dtype == "F32" or scores(saved, texts, "bfloat16") == scored, "the dtype in memory changes log-probs of BF16 weights"
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts] == [line["ids"] for line in scored], "AutoTokenizer gives other ids"
    model, worst, tokens = largest_difference(saved, scored)
    model.save_pretrained(again, max_shard_size="1MB")
    shutil.copy(os.path.join(saved, "tokenizer.json"), again)
    back = scores(again, texts)
    drift = max(abs(a - b) for x, y in zip(scored, back) for a, b in zip(x["logprobs"], y["logprobs"]))
    longest = max(len(line["ids"]) for line in scored)
    print(f"{name}: {tokens} tokens, longest text {longest}: largest difference {worst:.2e}; saved by transformers, read by rlf: {drift:.2e}")
    assert worst <= TOLERANCE and drift <= TOLERANCE


def main():
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_btl_vader_single_copy_mechanism="none")
    logging.disable_progress_bar()
    failed = []
    with tempfile.TemporaryDirectory() as work:
        data = os.path.join(work, "data")
        os.mkdir(data)
        run(os.path.join(BUILD, "jobs", "quickstart-data"), "-c", os.path.join(SOURCE, "jobs", "quickstart", "countries.tsv"), "-o", data, "-s", "1", "-n", "50")
        for name in sys.argv[2:] or CASES:
            try:
                check(name, work, data)
            except AssertionError as error:
                print(f"{name}: FAILED: {error}")
                failed.append(name)
    sys.exit(1 if failed else 0)


main()
