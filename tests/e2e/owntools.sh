#!/usr/bin/env bash
# Training with tools of one's own that keep state per episode: a process (tests/peers/lines_tool.c) and a plugin (tests/peers/plugin.c). Other ranks and
# numbers of programs leave the same bytes, also where the programs keep ending; no program outlives its rank.
source "$(dirname "$0")/lib.sh"
fresh_work owntools
program=$RLF_BUILD/tests/lines_tool steps=4
process=(tools.0.kind=process "tools.0.command=[\"$program\"]" tools.0.path= tools.0.state=episode)
plugin=(tools.0.kind=plugin tools.0.path="$RLF_BUILD/tests/libplugin.so" tools.0.state=episode)
none_left() {
    local end=$((SECONDS + 10))
    while pgrep -f "^$program" >"$work/left"; do
        [ $SECONDS -lt $end ] || fail "a program outlived its rank: $(pgrep -af "^$program")"
        sleep 0.05
    done
}
own() { # name, ranks, overrides...
    rl "$@" train.steps=$steps
    exact_log_probs "$work/$1" $steps
}

# Episodes ask twice, the second question is the episode's second, and what is drawn differs from episode to episode.
keeps_state() { # run, what is drawn
    cat "$work/$1"/rollouts/step_*.jsonl >"$work/$1.jsonl"
    grep -q "Question 2, $2 [0-9]*\." "$work/$1.jsonl" || fail "$1: no second question of an episode"
    [ "$(grep -o "Question 1, $2 [0-9]*" "$work/$1.jsonl" | sort -u | wc -l)" -ge 20 ] || fail "$1: the seeds of its episodes are the same"
}

other=(ranks.rollout=3 ranks.tool=3 rollout.seats=5 rollout.batch=20 tools.0.workers=1 tools.0.latency.median_ms=10 tools.0.latency.p99_ms=60)
own process_4 4 ranks.rollout=1 ranks.tool=1 "${process[@]}"
keeps_state process_4 at
none_left
own process_8 8 "${process[@]}" "${other[@]}"
same_checkpoint "$work/process_4/checkpoints/step_$steps" "$work/process_8/checkpoints/step_$steps"

own plugin_4 4 ranks.rollout=1 ranks.tool=1 "${plugin[@]}"
keeps_state plugin_4 draw
own plugin_8 8 "${plugin[@]}" "${other[@]}"
same_checkpoint "$work/plugin_4/checkpoints/step_$steps" "$work/plugin_8/checkpoints/step_$steps"

# Programs that end after 12 calls each: what they kept is lost, those episodes are tried again from their beginning, and come to the
# same, but for the count of them in the state of the run.
own ending 6 ranks.rollout=2 ranks.tool=2 "${process[@]}" "tools.0.command=[\"$program\", \"describe\", \"12\"]" tools.0.workers=1 episode.retries=20
grep -q '"search.programs_ended":[1-9]' "$work/ending/metrics.jsonl" "$work/ending/summary.json" || fail "the ends of the programs are not counted"
for file in model.safetensors optimizer.safetensors; do
    same_file "$work/process_4/checkpoints/step_$steps/$file" "$work/ending/checkpoints/step_$steps/$file"
done
none_left
echo "tools of one's own with state: the same bytes"
