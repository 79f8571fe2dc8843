#!/usr/bin/env bash
# The same job over 4, 6 and 9 ranks, with other numbers of rollout and tool ranks, a tool that answers at random moments, other instructions and
# activations computed twice, with and without attention, leaves the same bytes; and on every token of every step the learner's log-prob is the
# rollout's. Then the same for two updates a step with a reference model.
source "$(dirname "$0")/lib.sh"
fresh_work reproduce
steps=6 isa=portable
grep -qw avx2 /proc/cpuinfo && isa=avx2
compare() { # prefix, overrides of the job...
    local prefix=$1 late=(tools.0.latency.median_ms=15 tools.0.latency.p99_ms=120)
    shift
    rl "${prefix}_4" 4 ranks.rollout=1 ranks.tool=1 train.steps=$steps "$@"
    rl "${prefix}_6" 6 ranks.rollout=2 ranks.tool=2 train.steps=$steps train.recompute=true isa=$isa "${late[@]}" "$@"
    rl "${prefix}_9" 9 ranks.rollout=4 ranks.tool=3 train.steps=$steps train.recompute=true train.keep_attention=true "${late[@]}" \
        rollout.seats=3 rollout.prefill_chunk=8 rollout.batch=20 "$@"
    numbers "$work/${prefix}_9/metrics.jsonl" episode_tool_ms | awk '$1 < 15 {exit 1}' || fail "the tool was not late"
    for ranks in 4 6 9; do
        exact_log_probs "$work/${prefix}_$ranks" $steps
        same_checkpoint "$work/${prefix}_4/checkpoints/step_$steps" "$work/${prefix}_$ranks/checkpoints/step_$steps"
    done
}
compare plain
compare reference train.updates=2 algorithm.kl=0.05 algorithm.kl_estimator=k3 sampling.top_k=40
numbers "$work/reference_4/metrics.jsonl" kl | awk '$1 > 0 {found = 1} END {exit !found}' || fail "the divergence from the reference stayed 0"
cmp -s "$work/plain_4/checkpoints/step_$steps/model.safetensors" "$fixture/cold/final/model.safetensors" && fail "nothing was learnt"
echo "4, 6 and 9 ranks: the same bytes"
