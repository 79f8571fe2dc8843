#!/usr/bin/env bash
# The whole job killed at three random moments, and asked to stop once, leaves the bytes of the undisturbed run; so does one asked to stop
# before its last evaluation.
source "$(dirname "$0")/lib.sh"
fresh_work resume
steps=14
job_of() { echo train.steps=$steps ranks.rollout=2 tools.0.latency.median_ms=10 tools.0.latency.p99_ms=60; }
rl whole 5 $(job_of)

RANDOM=${RLF_E2E_SEED:-11}
run=$work/killed
start() { start_job "$work/killed_$1.log" 5 "${rl_job[@]}" output="$run" $(job_of); }
for round in 1 2 3; do
    target=$(($(steps_done "$run") + 1 + RANDOM % 3)) delay_ms=$((RANDOM % 400))
    start $round
    await_steps "$run" $target
    sleep "0.$(printf %03d $delay_ms)"
    processes="$job $(ranks_of_job)"
    kill -KILL $processes 2>/dev/null
    wait "$job" 2>/dev/null
    [ $? -ne 0 ] || fail "the job had ended before it was killed for the ${round}. time"
    echo "  killed $delay_ms ms after step $target; checkpoints: $(ls "$run/checkpoints" | tr '\n' ' ')"
done
start stopped
await_steps "$run" $(($(steps_done "$run") + 1))
kill -USR1 "$job"
wait "$job" || fail "a job that is asked to stop has to end well: $(tail -n 3 "$work/killed_stopped.log")"
grep -q "stopped by signal" "$work/killed_stopped.log" || fail "the job was not stopped: $(tail -n 3 "$work/killed_stopped.log")"
train last 5 "${rl_job[@]}" output="$run" $(job_of)
grep -q "going on from" "$work/last.log" || fail "the last run began from nothing"

same_checkpoint "$work/whole/checkpoints/step_$steps" "$run/checkpoints/step_$steps"
for key in step reward_mean loss; do
    cmp <(numbers "$work/whole/metrics.jsonl" $key) <(numbers "$run/metrics.jsonl" $key) || fail "the curves of $key differ"
done
ls "$run/checkpoints" | grep -q tmp && fail "an unfinished checkpoint was left behind"
echo "  killed three times and stopped once: the same bytes"

# Asked to stop in the last step, the run makes its evaluation when it goes on, once, and the checkpoint of that step takes it in. Without
# tools that are slow the signal would come too late.
evaluated=(train.steps=2 train.checkpoint_every=0 data.eval="$fixture/data/test.jsonl" data.eval_limit=8)
rl evaluated 4 "${evaluated[@]}"
run=$work/put_off
start_job "$work/put_off_stopped.log" 4 "${rl_job[@]}" output="$run" "${evaluated[@]}" tools.0.latency.median_ms=800
await_steps "$run" 1
sleep 0.1
kill -USR1 "$job"
wait "$job" || fail "a job that is asked to stop has to end well: $(tail -n 3 "$work/put_off_stopped.log")"
grep -q "stopped by signal 10 after step 2" "$work/put_off_stopped.log" || fail "not stopped in the last step: $(tail -n 3 "$work/put_off_stopped.log")"
grep -q '"eval"' "$run/metrics.jsonl" && fail "evaluated although asked to stop"
for again in 1 2; do
    [ $again -eq 1 ] || cp "$run/summary.json" "$work/summary.json"
    train put_off_$again 4 "${rl_job[@]}" output="$run" "${evaluated[@]}"
    same_checkpoint "$work/evaluated/checkpoints/step_2" "$run/checkpoints/step_2"
    [ "$(grep -c '"eval"' "$run/metrics.jsonl")" -eq 1 ] || fail "expected one evaluation in $run/metrics.jsonl after start $again"
done
same_file "$work/summary.json" "$run/summary.json"
echo "  stopped in the last step: evaluated when it went on, once"

# A run that is done and goes on is not done until its end. SIGTERM stops it too, where rank 0 gets it and not mpirun.
longer=("${evaluated[@]}" train.steps=4 train.checkpoint_every=1 train.keep=1)
start_job "$work/longer_stopped.log" 4 "${rl_job[@]}" output="$run" "${longer[@]}" tools.0.latency.median_ms=800
await_steps "$run" 4
kill -TERM "$(process_of_rank 0)"
wait "$job" || fail "a job that is asked to stop has to end well: $(tail -n 3 "$work/longer_stopped.log")"
grep -q "stopped by signal 15" "$work/longer_stopped.log" || fail "the job was not stopped: $(tail -n 3 "$work/longer_stopped.log")"
[ ! -L "$run/final" ] && [ ! -e "$run/summary.json" ] || fail "a run that is not done says that it is"
train longer 4 "${rl_job[@]}" output="$run" "${longer[@]}" model.path="$fixture/init"
grep -q "the weights are those of this run's checkpoint all the same: to start from $fixture/init choose another output" "$work/longer.log" ||
    fail "another model's weights, and no word of it: $(grep warn "$work/longer.log")"
[ -f "$run/final/model.safetensors" ] && [ -f "$run/summary.json" ] || fail "a run that is done does not say so"
echo "  longer than it was: done at its new end"
