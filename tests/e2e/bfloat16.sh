#!/usr/bin/env bash
# Weights stored and multiplied as bfloat16 by every rank: on every token the learners' log-prob is the rollout's, other numbers of rollout and tool ranks leave the
# same bytes, and so does a job that is stopped and goes on from its checkpoint, whose optimizer state holds the float32 master weights.
source "$(dirname "$0")/lib.sh"
fresh_work bfloat16
steps=4 job=(model.dtype=bfloat16 algorithm.kl=0.05 algorithm.kl_estimator=k3 optimizer.lr=1e-4)
rl two_rollouts 6 ranks.rollout=2 ranks.tool=1 train.steps=$steps "${job[@]}"
rl one_rollout 5 ranks.rollout=1 ranks.tool=1 train.steps=2 "${job[@]}"
rl one_rollout 5 ranks.rollout=1 ranks.tool=1 train.steps=$steps "${job[@]}"
grep -q "going on from" "$work/one_rollout.log" || fail "the second run began from nothing"
exact_log_probs "$work/two_rollouts" $steps
exact_log_probs "$work/one_rollout" $steps
same_checkpoint "$work/two_rollouts/checkpoints/step_$steps" "$work/one_rollout/checkpoints/step_$steps"
weights=$work/one_rollout/checkpoints/step_$steps/model.safetensors
[ "$(($(wc -c <"$weights") * 10))" -lt "$(($(wc -c <"$fixture/cold/final/model.safetensors") * 6))" ] || fail "$weights is not half as large as float32"
cmp -s "$weights" "$work/one_rollout/checkpoints/step_2/model.safetensors" && fail "nothing was learnt"
launch 5 "${rl_job[@]}" output="$work/one_rollout" ranks.rollout=1 ranks.tool=1 train.steps=5 "${job[@]}" model.dtype=float32 >"$work/changed.log" 2>&1 &&
    fail "a run that began with bfloat16 went on with float32"
grep -q "the run began with another" "$work/changed.log" || fail "expected a line about the dtype: $(tail -n 3 "$work/changed.log")"
rl exact_factors 5 ranks.rollout=1 ranks.tool=1 train.steps=1 "${job[@]}" model.compute_dtype=float32
exact_log_probs "$work/exact_factors" 1
echo "two learners, one or two rollout ranks, stopped or not: the same bytes"
