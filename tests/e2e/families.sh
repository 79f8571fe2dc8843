#!/usr/bin/env bash
# The quickstart's job with models of the other families: a short cold start, then reinforcement. Log-probs stay equal to the bit, and what is
# left behind is a checkpoint of the same family.
source "$(dirname "$0")/lib.sh"
fresh_work families
identity() { grep -A 1 -E '"(model_type|architectures)"' "$1/config.json"; }
for family in qwen2 llama; do
    shape=quickstart-$family
    "$rlf" init --shape "$shape" --std 0.08 --tokenizer "$RLF_SOURCE/jobs/quickstart/tokenizer.json" --seed 1 -o "$work/$family" || fail "rlf init --shape $shape"
    train "cold_$family" 2 "$RLF_SOURCE/jobs/quickstart_cold.yaml" output="$work/cold_$family" model.path="$work/$family" \
        data.train="$fixture/data/sft.jsonl" train.steps=60 train.prompts=16 optimizer.lr=3e-3 threads=2
    rl "rl_$family" 5 model.path="$work/cold_$family/final" ranks.rollout=2 train.steps=4 train.checkpoint_every=0
    exact_log_probs "$work/rl_$family" 4
    calls=$(numbers "$work/rl_$family/metrics.jsonl" calls | awk '{n += $1} END {print n}')
    [ "$calls" -gt 0 ] || fail "rl_$family: no episode called the tool"
    same_file <(identity "$work/$family") <(identity "$work/rl_$family/final")
    echo "  $shape: $calls calls in 4 steps"
done
