#!/usr/bin/env bash
# 16 ranks on whatever cores there are: every role more than once but the coordinator.
source "$(dirname "$0")/lib.sh"
fresh_work ranks16
rl run 16 ranks.rollout=9 ranks.tool=2 train.steps=3
exact_log_probs "$work/run" 3
[ -f "$work/run/final/model.safetensors" ] || fail "no checkpoint under $work/run/final"
