#!/usr/bin/env bash
# What the other scripts need, once a run of ctest: the quickstart's data, and a model that has seen enough worked examples to call the tool.
# Made on the CPU, on a machine with cards too: a card's fault is for the others to find.
source "$(dirname "$0")/lib.sh"
fresh_work fixture
mkdir -p "$fixture/data"
"$RLF_BUILD/jobs/quickstart-data" -c "$RLF_SOURCE/jobs/quickstart/countries.tsv" -o "$fixture/data" -s 1 -n 2000 || fail "quickstart-data"
"$rlf" init --shape quickstart --std 0.08 --tokenizer "$RLF_SOURCE/jobs/quickstart/tokenizer.json" --seed 1 -o "$fixture/init" || fail "rlf init"
"$rlf" index "$fixture/data/corpus.jsonl" -o "$fixture/data/corpus.idx" || fail "rlf index"
train cold 2 "$RLF_SOURCE/jobs/quickstart_cold.yaml" output="$fixture/cold" model.path="$fixture/init" data.train="$fixture/data/sft.jsonl" \
    train.steps=80 train.prompts=16 optimizer.lr=3e-3 threads=2 device=cpu
train calls 4 "${rl_job[@]}" device=cpu mode=eval output="$work/calls" ranks.rollout=2 data.eval="$fixture/data/test.jsonl" data.eval_limit=40 eval_sampling.temperature=1
calls=$(numbers "$work/calls/metrics.jsonl" calls | head -n 1) bad=$(numbers "$work/calls/metrics.jsonl" bad_calls | head -n 1)
[ $((calls - bad)) -ge 20 ] || fail "40 questions led to $calls calls, $bad of them malformed: expected at least 20 good ones"
echo "  $calls calls in 40 episodes, $bad malformed"
