#!/usr/bin/env bash
# A run whose calls are recorded, and the same run answered from the recording, over other ranks and with no index there: the same bytes.
source "$(dirname "$0")/lib.sh"
fresh_work replay
steps=4
# Slow enough for the counts of its tool, told once a second, to come before the last step.
rl recorded 6 ranks.rollout=2 ranks.tool=2 train.steps=$steps traffic.record="$work/traffic" data.eval="$fixture/data/test.jsonl" data.eval_limit=10 train.eval_every=2 \
    tools.0.latency.median_ms=400
[ "$(ls "$work/traffic" | wc -l)" -eq 2 ] || fail "expected one file of traffic for each of two tool ranks"
[ "$(cat "$work"/traffic/*.jsonl | grep -c '"status":"ok"')" -ge 20 ] || fail "expected at least 20 recorded calls"
grep -q '"tools":{"search.calls":[1-9][0-9]*,"search.runs":' "$work/recorded/metrics.jsonl" || fail "no counts of the tool in the metrics"
rl replayed 4 ranks.rollout=1 ranks.tool=1 train.steps=$steps tools.0.path=/nonexistent traffic.replay="$work/traffic" \
    data.eval="$fixture/data/test.jsonl" data.eval_limit=10 train.eval_every=2
exact_log_probs "$work/replayed" $steps
same_checkpoint "$work/recorded/checkpoints/step_$steps" "$work/replayed/checkpoints/step_$steps"
launch 4 "${rl_job[@]}" output="$work/refused" traffic.replay="$work/nothing" log.progress=false >"$work/refused.log" 2>&1 && fail "a folder without traffic was accepted"
grep -q "$work/nothing holds no recorded traffic" "$work/refused.log" || fail "the missing traffic is not named: $(own_lines "$work/refused.log")"
echo "recorded and replayed: the same bytes"
