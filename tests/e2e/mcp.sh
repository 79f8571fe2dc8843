#!/usr/bin/env bash
# MCP servers as tools (tests/peers/mcp_peer.c over standard input and output): listed and called; with a server for each episode, other ranks and a run
# killed and resumed leave the same bytes; a run whose server keeps crashing completes. No server outlives its rank, and no secret is told.
source "$(dirname "$0")/lib.sh"
fresh_work mcp
peer=$RLF_BUILD/tests/mcp_peer steps=6
export RLF_E2E_SECRET=very-secret-token
cat >"$work/servers.json" <<END
{"mcpServers": {"peer": {"command": "$peer", "args": [], "env": {"API_KEY": "\${RLF_E2E_SECRET}"}, "autoApprove": []}}} // as other programs write it
END
job_of() { sed -E "s|\{name: search, .*\}|$1|" "$RLF_SOURCE/tests/e2e/rl.yaml"; }
job_of "{kind: mcp, file: '$work/servers.json'}" >"$work/file.yaml"
job_of "{name: files, kind: mcp, command: ['$peer'], functions: [search], state: episode, workers: 2}" >"$work/job.yaml"
mcp_job=("$work/job.yaml" model.path="$fixture/cold/final" data.train="$fixture/data/train.jsonl" train.steps=$steps)
mcp() { train "$1" "$2" "${mcp_job[@]}" output="$work/$1" "${@:3}"; }
none_left() {
    local end=$((SECONDS + 10))
    while pgrep -f "^$peer" >/dev/null; do
        [ $SECONDS -lt $end ] || fail "$1: a server outlived its rank: $(pgrep -af "^$peer")"
        sleep 0.05
    done
}

"$rlf" tools "$work/file.yaml" >"$work/list" 2>"$work/list.log" || fail "rlf tools: $(cat "$work/list.log")"
grep -q '^search (mcp): Tells every query\.$' "$work/list" || fail "rlf tools does not list the functions of the server: $(cat "$work/list")"
grep -q 'server "peer": these have no meaning here: autoApprove' "$work/list.log" || fail "an unknown key of the file is not named: $(cat "$work/list.log")"
[ -z "$("$rlf" tools "$work/file.yaml" 'tools.0.functions=[]' 2>"$work/list.log")" ] || fail "functions that were not asked for"
grep -q 'peer: the MCP server offers no function$' "$work/list.log" || fail "a server without functions is passed over in silence: $(cat "$work/list.log")"
"$rlf" tools "$work/file.yaml" call search '{"query": "capital of Peru"}' >"$work/answer" 2>/dev/null || fail "rlf tools call"
[ "$(cat "$work/answer")" = "1. capital of Peru" ] || fail "rlf tools call: $(cat "$work/answer")"
[ "$("$rlf" tools "$work/file.yaml" call env '{"text": "API_KEY"}' 2>/dev/null)" = "[secret]" ] || fail "the server's secret is told"
"$rlf" config "$work/file.yaml" >"$work/config.yaml" || fail "rlf config"

mcp whole 5 ranks.rollout=2 traffic.record="$work/traffic"
exact_log_probs "$work/whole" $steps
[ "$(cat "$work"/whole/rollouts/step_*.jsonl | grep -o '"answer":"1\. ' | wc -l)" -ge 50 ] || fail "expected at least 50 first calls that were answered"
grep -q '"answer":"1\. [^";]*; 2\. ' "$work"/whole/rollouts/step_*.jsonl || fail "no second call saw what the first left behind"
mcp layout 8 ranks.rollout=3 ranks.tool=3 rollout.seats=5 rollout.batch=20 tools.0.workers=0 tools.0.latency.median_ms=10 tools.0.latency.p99_ms=60
same_checkpoint "$work/whole/checkpoints/step_$steps" "$work/layout/checkpoints/step_$steps"
none_left whole

RANDOM=${RLF_E2E_SEED:-7}
for round in 1 2; do
    target=$(($(steps_done "$work/killed") + 1 + RANDOM % 2)) delay_ms=$((RANDOM % 300))
    start_job "$work/killed_$round.log" 5 "${mcp_job[@]}" output="$work/killed" ranks.rollout=2
    await_steps "$work/killed" $target
    sleep "0.$(printf %03d $delay_ms)"
    pgrep -f "^$peer" >/dev/null || fail "no server is running"
    processes="$job $(ranks_of_job)"
    kill -KILL $processes 2>/dev/null
    wait "$job" 2>/dev/null
    [ $? -ne 0 ] || fail "the job had ended before it was killed for the ${round}. time"
    none_left killed
    echo "  killed $delay_ms ms after step $target"
done
mcp killed 6 ranks.rollout=2 ranks.tool=2
grep -q "going on from" "$work/killed.log" || fail "the last run began from nothing"
same_checkpoint "$work/whole/checkpoints/step_$steps" "$work/killed/checkpoints/step_$steps"
mcp replayed 4 traffic.replay="$work/traffic" tools.0.command='[/nonexistent]'
same_checkpoint "$work/whole/checkpoints/step_$steps" "$work/replayed/checkpoints/step_$steps"

# One server for all, which ends at every 20th call, whatever else it is about: those calls are lost, and with them their episodes; the rest trains.
mcp crashing 5 ranks.rollout=2 tools.0.state=shared tools.0.retries=0 episode.retries=0 tools.0.env='{PEER_CRASH: "20"}' train.steps=3
count() { grep -o "\"files.$1\": *[0-9]*" "$work/crashing/summary.json" | sed "s/.*: *//"; }
[ "$(count restarts)" -gt 0 ] && [ "$(count mcp_servers_lost)" -gt 0 ] || fail "no crash was counted: $(cat "$work/crashing/summary.json")"
[ "$(count mcp_servers_lost)" -eq "$(count infra_errors)" ] || fail "the crashes are not all that went wrong: $(cat "$work/crashing/summary.json")"
grep -q '"status":"infra_error"' "$work"/crashing/rollouts/step_*.jsonl || fail "no trajectory holds a call that was lost"
exact_log_probs "$work/crashing" 3
none_left crashing
found=$(grep -rl "$RLF_E2E_SECRET" "$work") && fail "the secret is in $found"
echo "MCP servers over other ranks, killed and resumed, replayed: the same bytes; $(count mcp_servers_lost) calls lost in $(count restarts) crashes"
