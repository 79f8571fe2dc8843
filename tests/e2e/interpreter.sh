#!/usr/bin/env bash
# A run whose tool is a Python interpreter with state: other ranks, and a run killed, resumed and recorded all the while, leave the same bytes; so does
# the recording, replayed. And no interpreter outlives a rank that goes.
source "$(dirname "$0")/lib.sh"
fresh_work interpreter
steps=8
# The fixture's model is taught to call the interpreter in place of the search, twice for some questions: each call adds to a list that earlier ones began.
sed -E -e 's/\\"name\\": \\"search\\", \\"arguments\\": \{\\"query\\": \\"([^"\\]*)\\"\}/\\"name\\": \\"python\\", \\"arguments\\": {\\"code\\": \\"n = [*globals().get('"'n'"', []), '"'\1'"']; print(n)\\"}/g' \
    -e '/^\{"data_source":"two"/s/(\{"role":"assistant","content":"<tool_call>[^}]*\}\}[^}]*\},\{"role":"tool",[^}]*\},)/\1\1/' \
    "$fixture/data/sft.jsonl" | grep '\\"python\\"' >"$work/sft.jsonl"
train taught 2 "$RLF_SOURCE/jobs/quickstart_cold.yaml" output="$work/taught" model.path="$fixture/cold/final" data.train="$work/sft.jsonl" \
    train.steps=60 train.prompts=16 optimizer.lr=3e-3 episode.max_tokens=1024 threads=2
sed -E 's/\{name: search, .*\}/{name: python, kind: python, workers: 2, processes: 4}/' "$RLF_SOURCE/tests/e2e/rl.yaml" >"$work/job.yaml"
python_job=("$work/job.yaml" model.path="$work/taught/final" data.train="$fixture/data/train.jsonl" train.steps=$steps
    episode.max_turn_tokens=128 episode.max_tokens=640 rollout.cache_tokens=16384 optimizer.lr=5e-5 sampling.temperature=0.7)
"$rlf" tools "${python_job[@]}" call python '{"code": "1"}' >"$work/probe" 2>&1 || skip "no sandboxed interpreter here: $(tail -n 1 "$work/probe")"
python_run() { train "$1" "$2" "${python_job[@]}" output="$work/$1" "${@:3}"; }

python_run whole 5 ranks.rollout=2
[ "$(cat "$work"/whole/rollouts/step_*.jsonl | grep -o '"status":"ok"' | wc -l)" -ge 50 ] || fail "expected at least 50 calls that ran"
grep -q "\"answer\":\"\['[^']*', '" "$work"/whole/rollouts/step_*.jsonl || fail "no second call saw what the first left behind"
python_run layout 8 ranks.rollout=3 ranks.tool=3 rollout.seats=5 rollout.batch=20
same_checkpoint "$work/whole/checkpoints/step_$steps" "$work/layout/checkpoints/step_$steps"

# What interpreters there are, as processes below the tool rank.
interpreters_of() { pgrep -P "$1"; }
gone() { # processes: none may be left within 10 s
    local end=$((SECONDS + 10)) process
    for process in $1; do
        while kill -0 "$process" 2>/dev/null; do
            [ $SECONDS -lt $end ] || fail "an interpreter outlived the ranks: $(ps -o pid,ppid,stat,args -p "$process")"
            sleep 0.05
        done
    done
}
RANDOM=${RLF_E2E_SEED:-5}
run=$work/killed
start() { start_job "$work/killed_$1.log" 5 "${python_job[@]}" output="$run" ranks.rollout=2 traffic.record="$work/traffic"; }
for round in 1 2; do
    target=$(($(steps_done "$run") + 1 + RANDOM % 2)) delay_ms=$((RANDOM % 300))
    start $round
    await_steps "$run" $target
    sleep "0.$(printf %03d $delay_ms)"
    interpreters=$(interpreters_of "$(process_of_rank 1)") processes="$job $(ranks_of_job)"
    [ -n "$interpreters" ] || fail "the tool rank has no interpreter"
    kill -KILL $processes 2>/dev/null
    wait "$job" 2>/dev/null
    [ $? -ne 0 ] || fail "the job had ended before it was killed for the ${round}. time"
    gone "$interpreters"
    echo "  killed $delay_ms ms after step $target; $(cat "$work"/traffic/*.jsonl | wc -l) lines of traffic"
done
python_run killed 6 ranks.rollout=2 ranks.tool=2 traffic.record="$work/traffic"
same_checkpoint "$work/whole/checkpoints/step_$steps" "$run/checkpoints/step_$steps"
python_run replayed 4 traffic.replay="$work/traffic" tools.0.path=/nonexistent
same_checkpoint "$work/whole/checkpoints/step_$steps" "$work/replayed/checkpoints/step_$steps"

# A rollout rank that goes takes the state of its episodes along.
start_job "$work/gone.log" 5 "${python_job[@]}" output="$work/gone" ranks.rollout=2 train.steps=500
await_steps "$work/gone" 1
interpreters=$(interpreters_of "$(process_of_rank 1)")
[ -n "$interpreters" ] || fail "the tool rank has no interpreter"
kill -KILL "$(process_of_rank 3)"
wait "$job" && fail "a job without one of its rollout ranks ended with status 0"
gone "$interpreters"
echo "an interpreter over other ranks, killed and resumed, recorded and replayed: the same bytes"
