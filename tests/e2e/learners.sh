#!/usr/bin/env bash
# 1, 2 and 4 learners share the gradient and the optimizer state: their losses agree to 1e-5 relative, supervised and by reinforcement.
source "$(dirname "$0")/lib.sh"
fresh_work learners
agree() { # metrics of one learner, of several
    paste <(numbers "$1/metrics.jsonl" loss) <(numbers "$2/metrics.jsonl" loss) |
        awk 'function abs(x) {return x < 0 ? -x : x}
             {scale = abs($1) > 0.02 ? abs($1) : 0.02; off = abs($1 - $2) / scale; if (off > worst) worst = off; n++}
             END {printf "  largest difference in %d steps: %.2g\n", n, worst; exit !(n >= 4 && worst <= 1e-5)}' || fail "losses of $1 and $2 differ by more than 1e-5"
}
for learners in 1 2 4; do
    train "sft_$learners" $((1 + learners)) "$RLF_SOURCE/jobs/quickstart_cold.yaml" output="$work/sft_$learners" model.path="$fixture/cold/final" \
        data.train="$fixture/data/sft.jsonl" train.steps=6 train.prompts=16 train.micro_tokens=512 threads=1
    rl "rl_$learners" $((3 + learners)) train.steps=4 train.checkpoint_every=0 train.updates=2 algorithm.kl=0.05
    [ "$learners" -eq 1 ] && continue
    agree "$work/sft_1" "$work/sft_$learners"
    agree "$work/rl_1" "$work/rl_$learners"
    exact_log_probs "$work/rl_$learners" 4
done
