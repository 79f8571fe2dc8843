#!/usr/bin/env bash
# What goes wrong ends in time, with one line that names it, and overwrites nothing.
source "$(dirname "$0")/lib.sh"
fresh_work faults
now_ms() { date +%s%3N; }

# Waits for the job to end, which it must within 10 s, not well, and with a line of ours. Sets $took_ms and $status.
ends_with() { # log, since (ms), pattern of the line
    local since=$2
    wait "$job"
    status=$?
    took_ms=$(($(now_ms) - since))
    [ $status -ne 0 ] || fail "$1: the job ended with status 0"
    [ $took_ms -le 10000 ] || fail "$1: the job went on for $took_ms ms"
    grep -Eq "^rlf-train: error: $3" "$1" || { cat "$1" >&2; fail "$1: no line says '$3'"; }
}

# ---- a killed rank of each role ends the job --------------------------------------------------------------------------------------------
killed() { # rank, role
    local log=$work/killed_$1.log process started
    start_job "$log" 5 "${rl_job[@]}" output="$work/killed_$1" ranks.rollout=2 train.steps=500
    await_steps "$work/killed_$1" 1
    process=$(process_of_rank "$1")
    [ -n "$process" ] || fail "rank $1 was not found below the launcher"
    started=$(now_ms)
    kill -KILL "$process"
    ends_with "$log" "$started" "rank $1 \($2\) was killed or crashed"
    [ "$(grep -c "was killed or crashed" "$log")" -eq 1 ] || { cat "$log" >&2; fail "more than one line says who was killed"; }
    echo "  rank $1 ($2) killed: status $status after $took_ms ms"
}
killed 0 coordinator
killed 1 tool
killed 3 rollout
killed 4 learner

# ---- the same job twice in one folder ---------------------------------------------------------------------------------------------------
start_job "$work/twice_first.log" 4 "${rl_job[@]}" output="$work/twice" train.steps=500
await_steps "$work/twice" 1
launch 4 "${rl_job[@]}" output="$work/twice" train.steps=500 log.progress=false >"$work/twice_second.log" 2>&1 && fail "two jobs in one folder"
grep -q "^rlf-train: error: .*another job is running in output $work/twice" "$work/twice_second.log" ||
    { cat "$work/twice_second.log" >&2; fail "two jobs in one folder: no line says so"; }
await_steps "$work/twice" $(($(steps_done "$work/twice") + 1))
started=$(now_ms)
kill -KILL "$(process_of_rank 0)"
ends_with "$work/twice_first.log" "$started" "rank 0 \(coordinator\) was killed or crashed"
numbers "$work/twice/metrics.jsonl" step | sort -n -c -u || fail "two jobs wrote $work/twice/metrics.jsonl"
rl twice 4 train.steps=1 # the lock has ended with the process
echo "  a second job in one folder: refused, and the first went on"

# ---- a rank that never comes ------------------------------------------------------------------------------------------------------------
missing() { # name, what mpirun starts...
    mpirun -q --bind-to none --oversubscribe "${@:2}" >"$work/$1.log" 2>&1 && fail "$1: the job ended with status 0"
    own_lines "$work/$1.log" >"$work/$1.lines"
    [ "$(wc -l <"$work/$1.lines")" -eq 1 ] &&
        grep -q "^rlf-train: error: rank [01]: deadline passed while waiting in MPI_Init for all ranks" "$work/$1.lines" ||
        { cat "$work/$1.log" >&2; fail "$1: expected one line that says so"; }
    echo "  a rank that never comes: $(cat "$work/$1.lines")"
}
waiting=("$rlf_train" "${rl_job[@]}" output="$work/missing" deadline.startup_s=3)
missing missing_last -np 3 "${waiting[@]}" : -np 1 sleep 600
missing missing_first -np 1 sleep 600 : -np 3 "${waiting[@]}"

# ---- a coordinator that is stopped, not dead: each other role ends the job by its own deadline --------------------------------------------
silent_coordinator() { # rank, role: the only rank left running
    local log=$work/silent_$1.log started rank stopped=()
    start_job "$log" 5 "${rl_job[@]}" output="$work/silent_$1" ranks.rollout=2 train.steps=500 deadline.message_s=2 deadline.collective_s=2
    await_steps "$work/silent_$1" 1
    for rank in 0 1 2 3 4; do
        [ $rank -eq "$1" ] || stopped+=("$(process_of_rank $rank)")
    done
    started=$(now_ms)
    kill -STOP "${stopped[@]}" || fail "not all ranks were found below the launcher: ${stopped[*]}"
    ends_with "$log" "$started" "rank $1 $2: deadline passed while .* rank [0-9]"
    echo "  all but rank $1 ($2) stopped: status $status after $took_ms ms: $(grep "^rlf-train: error" "$log")"
}
silent_coordinator 1 tool
silent_coordinator 3 rollout
silent_coordinator 4 learner

# ---- a tool rank that is stopped, which owes nothing to anybody ---------------------------------------------------------------------------
start_job "$work/tool.log" 5 "${rl_job[@]}" output="$work/tool" ranks.rollout=2 train.steps=500 deadline.message_s=2
await_steps "$work/tool" 1
started=$(now_ms)
kill -STOP "$(process_of_rank 1)" || fail "rank 1 was not found below the launcher"
ends_with "$work/tool.log" "$started" "rank 0 coordinator: rank 1 \(tool\) has been silent for [2-9] s"
echo "  rank 1 (tool) stopped: status $status after $took_ms ms: $(grep "^rlf-train: error" "$work/tool.log")"

# ---- a disk that is slow: nobody is taken for dead ---------------------------------------------------------------------------------------
slow_disk() ( # name, part of the paths, ms a sync
    export LD_PRELOAD=$RLF_BUILD/tests/e2e/libslow_disk.so SLOW_PATH=$2 SLOW_MS=$3
    rl "$1" 5 train.steps=1 deadline.message_s=2 deadline.collective_s=2
)
slow_disk slow_checkpoint /step_1.tmp 300 || exit 1 # learner 0 writes it, the other waits; 10 syncs and more
slow_disk slow_rollouts /rollouts 1200 || exit 1    # rank 0 writes them, all others wait; 2 syncs

# ---- a power failure: a checkpoint is never ahead of its curves --------------------------------------------------------------------------
(
    export LD_PRELOAD=$RLF_BUILD/tests/e2e/libslow_disk.so SYNCED=$work/synced.txt
    rl synced 4 train.steps=1
) || exit 1
[ "$(grep -Eo "(metrics\.jsonl|run_state\.json\.tmp)$" "$work/synced.txt" | tr '\n' ' ')" = "metrics.jsonl run_state.json.tmp " ] ||
    { cat "$work/synced.txt" >&2; fail "metrics.jsonl was not on disk before the checkpoint"; }

# ---- a learner that comes too late to one that has given it up: MPI still reads that one's gradients ---------------------------------------
start_job "$work/late.log" 5 "${rl_job[@]}" output="$work/late" train.steps=500 deadline.collective_s=2
await_steps "$work/late" 1
late=$(process_of_rank 4) coordinator=$(process_of_rank 0) started=$(now_ms)
kill -STOP "$late"
sleep 1.2 # the other one waits for its gradients, and nobody shall end the job before it is back
kill -STOP "$coordinator"
sleep 1.8
kill -CONT "$late"
sleep 0.5
kill -CONT "$coordinator"
ends_with "$work/late.log" "$started" "rank 3 learner: deadline passed while .* rank 4: "
[ "$(own_lines "$work/late.log" | wc -l)" -eq 1 ] && ! grep -q "Signal:" "$work/late.log" || { cat "$work/late.log" >&2; fail "a late learner: expected one line"; }
echo "  a learner that comes too late: status $status after $took_ms ms: $(grep "^rlf-train: error" "$work/late.log")"

# ---- a tool that never answers ----------------------------------------------------------------------------------------------------------
rl silent 5 ranks.rollout=2 train.steps=2 tools.0.timeout_ms=100 tools.0.latency.median_ms=100000000
calls=$(numbers "$work/silent/metrics.jsonl" calls | head -n 1) bad=$(numbers "$work/silent/metrics.jsonl" bad_calls | head -n 1)
timeouts=$(numbers "$work/silent/metrics.jsonl" tool_timeouts | head -n 1)
[ "$timeouts" -gt 0 ] && [ "$timeouts" -eq $((calls - bad)) ] || fail "$timeouts timeouts counted, expected all of $calls calls but $bad malformed ones"
[ "$(numbers "$work/silent/metrics.jsonl" infra | awk '{n += $1} END {print n}')" -eq 0 ] || fail "episodes were lost"
exact_log_probs "$work/silent" 2
echo "  a silent tool: $timeouts of $calls calls timed out, the episodes went on"

# ---- what is refused --------------------------------------------------------------------------------------------------------------------
rl run 4 train.steps=2
refused() { # name, folder that must not change, pattern of the line, arguments...
    local name=$1 folder=$2 pattern=$3 lines
    shift 3
    checksums "$folder" >"$work/before"
    launch 4 "$@" log.progress=false >"$work/$name.out" 2>"$work/$name.err" && fail "$name: the job ended with status 0"
    own_lines "$work/$name.err" >"$work/$name.lines"
    lines=$(wc -l <"$work/$name.lines")
    [ "$lines" -eq 1 ] || { cat "$work/$name.err" >&2; fail "$name: expected one line, found $lines"; }
    grep -Eq "$pattern" "$work/$name.lines" || { cat "$work/$name.lines" >&2; fail "$name: the line does not say '$pattern'"; }
    checksums "$folder" >"$work/after"
    cmp -s "$work/before" "$work/after" || { diff "$work/before" "$work/after" >&2; fail "$name: files in $folder were changed"; }
    echo "  $name: $(head -c 200 "$work/$name.lines")"
}
going_on=("${rl_job[@]}" output="$work/run" train.steps=4)
mkdir -p "$work/nothing"

refused bad_key "$work/run" "rollout\.batsh.*rollout\.batch" "${going_on[@]}" rollout.batsh=3
sed 's/max_turns:/max_turms:/' "$RLF_SOURCE/tests/e2e/rl.yaml" >"$work/bad.yaml"
refused bad_key_in_file "$work/run" "bad\.yaml:[0-9]+.*max_turms.*max_turns" "$work/bad.yaml" "${rl_job[@]:1}" output="$work/run"
refused bad_value "$work/run" "train\.steps" "${rl_job[@]}" output="$work/run" train.steps=many

head -n 5 "$fixture/data/train.jsonl" >"$work/bad.jsonl"
echo '{"prompt": [{"role": "user", "content": 3}], "reward_model": {"ground_truth": {"target": ["x"]}}}' >>"$work/bad.jsonl"
refused bad_row "$work/run" "bad\.jsonl:6: .*content" "${going_on[@]}" data.train="$work/bad.jsonl"
head -n 5 "$fixture/data/train.jsonl" | head -c -40 >"$work/cut.jsonl"
refused cut_row "$work/run" "cut\.jsonl:5: .*not JSON" "${going_on[@]}" data.train="$work/cut.jsonl"
{ head -n 2 "$fixture/data/test.jsonl"; printf '{"prompt": [{"role": "user", "content": "%s"}], "reward_model": {"ground_truth": "x"}, "extra_info": {"index": 7}}\n' "$(seq 300 | tr '\n' ' ')"
} >"$work/long.jsonl"
refused long_evaluation_row "$work/run" "long\.jsonl:3: the prompt has [0-9]+ tokens, episode\.max_prompt_tokens" "${going_on[@]}" data.eval="$work/long.jsonl"
refused long_training_row "$work/run" "long\.jsonl:3: the prompt has [0-9]+ tokens, episode\.max_prompt_tokens" "${going_on[@]}" data.train="$work/long.jsonl"
refused no_index "$work/run" "nowhere\.idx" "${going_on[@]}" tools.0.path="$work/nowhere.idx"

cp -rL "$fixture/cold/final" "$work/cut_model"
head -c 100000 "$fixture/cold/final/model.safetensors" >"$work/cut_model/model.safetensors"
refused cut_model "$work/nothing" "cut_model/model\.safetensors" "${rl_job[@]}" output="$work/nothing/run" model.path="$work/cut_model"
"$rlf" init --shape quickstart --hidden 64 --tokenizer "$fixture/init" -o "$work/narrow" || fail "rlf init"
cp "$fixture/cold/final/model.safetensors" "$work/narrow/model.safetensors"
refused other_shape "$work/nothing" "narrow/model\.safetensors.*(shape|\[)" "${rl_job[@]}" output="$work/nothing/run" model.path="$work/narrow"

rm -r "$work/narrow"
"$rlf" init --shape quickstart --hidden 64 --tokenizer "$fixture/init" -o "$work/narrow" || fail "rlf init"
refused resumed_with_other_shape "$work/run" "step_2/model\.safetensors.*(shape|\[)" "${going_on[@]}" model.path="$work/narrow"
refused resumed_in_other_mode "$work/run" "mode" "$RLF_SOURCE/jobs/quickstart_cold.yaml" output="$work/run" model.path="$fixture/cold/final" \
    data.train="$fixture/data/sft.jsonl"
train evaluated 3 "${rl_job[@]}" mode=eval output="$work/evaluated" data.eval="$fixture/data/test.jsonl" data.eval_limit=4
refused evaluation_of_another_model "$work/evaluated" "holds the evaluation of .*cold/final with .*test\.jsonl" "${rl_job[@]}" mode=eval \
    output="$work/evaluated" data.eval="$fixture/data/test.jsonl" model.path="$fixture/init"
refused trained_where_evaluated "$work/evaluated" "mode eval" "${rl_job[@]}" output="$work/evaluated"
cp -r "$work/run" "$work/cut_run"
truncate -s 100000 "$work/cut_run/checkpoints/step_2/optimizer.safetensors"
refused cut_optimizer "$work/cut_run" "step_2/optimizer\.safetensors" "${rl_job[@]}" output="$work/cut_run" train.steps=4

# ---- a run that is done -----------------------------------------------------------------------------------------------------------------
cp "$work/run/config.yaml" "$work/run/summary.json" "$work"
train done 4 "${rl_job[@]}" output="$work/run" train.steps=2 optimizer.lr=9e-9
same_file "$work/run/config.yaml" "$work/config.yaml"
same_file "$work/run/summary.json" "$work/summary.json"
grep -q "warn .*optimizer\.lr (was 0\.0005): the run is done" "$work/done.log" || { cat "$work/done.log" >&2; fail "a run that is done: no word of what changes nothing"; }
grep -q "the run in $work/run is done, after 2 steps" "$work/done.log" || { cat "$work/done.log" >&2; fail "a run that is done does not say so"; }

# ---- what --check refuses, since the job would -------------------------------------------------------------------------------------------
unchecked() { # pattern, arguments...
    local pattern=$1
    shift
    "$rlf_train" --check "${rl_job[@]}" output="$work/new" "$@" >"$work/check.out" 2>"$work/check.err" && fail "--check $*: status 0"
    grep -Eq "^rlf-train: error: .*$pattern" "$work/check.err" || { cat "$work/check.err" >&2; fail "--check $*: no line says '$pattern'"; }
}
checksums "$work/run" >"$work/before"
unchecked "key 'output': .*config\.yaml/" output="$work/config.yaml/run"
unchecked "key 'output': .*config\.yaml is not a folder" output="$work/config.yaml"
unchecked "key 'traffic\.record': .*summary\.json is not a folder" traffic.record="$work/summary.json"
unchecked "key 'traffic\.record': .*new/deep" traffic.record="$work/new/deep/traffic"
unchecked "train\.resume is false" output="$work/run" train.resume=false
unchecked "holds the results of a job of mode eval" output="$work/evaluated"
unchecked "is the folder of a training run" output="$work/run" mode=eval data.eval="$fixture/data/test.jsonl"
checksums "$work/run" | cmp - "$work/before" || fail "--check changed files"
"$rlf_train" --check "${rl_job[@]}" output="$work/run" | grep -q "^output .*/run, going on from .*/run/checkpoints/step_2$" || fail "--check does not say what it goes on from"
echo "  --check refuses folders that the job would refuse"
