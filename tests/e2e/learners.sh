#!/usr/bin/env bash
# 1, 2 and 4 learners share the gradient and the optimizer state: their losses agree to 1e-5 relative, supervised and by reinforcement.
# Where gradients travel as bfloat16, they agree to what that rounds; the bytes are the same whatever the other ranks, stopped or not.
source "$(dirname "$0")/lib.sh"
fresh_work learners
agree() { # run of one learner, of several, how far they may be apart
    paste <(numbers "$1/metrics.jsonl" loss) <(numbers "$2/metrics.jsonl" loss) |
        awk -v most="$3" 'function abs(x) {return x < 0 ? -x : x}
             {scale = abs($1) > 0.02 ? abs($1) : 0.02; off = abs($1 - $2) / scale; if (off > worst) worst = off; n++}
             END {printf "  largest difference in %d steps: %.2g\n", n, worst; exit !(n >= 4 && worst <= most)}' || fail "losses of $1 and $2 differ by more than $3"
}
sft() { # name, learners, overrides
    train "$1" $((1 + $2)) "$RLF_SOURCE/jobs/quickstart_cold.yaml" output="$work/$1" model.path="$fixture/cold/final" \
        data.train="$fixture/data/sft.jsonl" train.steps=6 train.prompts=16 train.micro_tokens=512 threads=1 "${@:3}"
}
for learners in 1 2 4; do
    sft "sft_$learners" "$learners"
    rl "rl_$learners" $((3 + learners)) train.steps=4 train.checkpoint_every=0 train.updates=2 algorithm.kl=0.05
    [ "$learners" -eq 1 ] && continue
    agree "$work/sft_1" "$work/sft_$learners" 1e-5
    agree "$work/rl_1" "$work/rl_$learners" 1e-5
    exact_log_probs "$work/rl_$learners" 4
    sft "sft_rounded_$learners" "$learners" train.reduce_dtype=bfloat16
    agree "$work/sft_1" "$work/sft_rounded_$learners" 1e-4
    cmp -s "$work/sft_$learners/checkpoints/step_6/model.safetensors" "$work/sft_rounded_$learners/checkpoints/step_6/model.safetensors" &&
        fail "$learners learners: nothing was rounded"
done

rounded=(train.reduce_dtype=bfloat16 train.steps=3)
sft sft_rounded_1 1 train.reduce_dtype=bfloat16 # sends nothing
same_checkpoint "$work/sft_1/checkpoints/step_6" "$work/sft_rounded_1/checkpoints/step_6"
rl rounded 5 "${rounded[@]}"
rl rounded_many 8 "${rounded[@]}" ranks.rollout=3 ranks.tool=2
rl rounded_again 5 "${rounded[@]}" train.steps=1
rl rounded_again 5 "${rounded[@]}"
grep -q "going on from" "$work/rounded_again.log" || fail "the last run began from nothing"
exact_log_probs "$work/rounded" 3
for name in rounded_many rounded_again; do same_checkpoint "$work/rounded/checkpoints/step_3" "$work/$name/checkpoints/step_3"; done
