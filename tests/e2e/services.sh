#!/usr/bin/env bash
# Training with a service that refuses, resets, stalls, floods, redirects, garbles and fails: it completes; every fault is counted under its own name, exactly;
# what infrastructure lost has no part in loss and baseline. And a secret that the service tells back to everyone is nowhere in what the run leaves.
source "$(dirname "$0")/lib.sh"
fresh_work services
faulty=$RLF_BUILD/tests/e2e/faulty steps=8
export RLF_E2E_SECRET='s3cret/"of"+tests' RLF_E2E_KEY=k3y-of-the-url
"$faulty" serve >"$work/port" &
server=$!
trap 'kill $server 2>/dev/null' EXIT
for _ in $(seq 200); do [ -s "$work/port" ] && break; sleep 0.05; done
port=$(cat "$work/port")
[ -n "$port" ] || fail "the service does not start"

sed -E "s|\{name: search, .*\}|{name: search, kind: http, url: \"http://127.0.0.1:$port/?key=\${RLF_E2E_KEY}\", answer: /text, retries: 1, backoff_ms: 1, timeout_ms: 1500, max_bytes: 1000000,\\
    schema: {type: object, properties: {query: {type: string}}, required: [query]}, secrets: [RLF_E2E_SECRET, RLF_E2E_KEY],\\
    headers: {Authorization: 'Bearer \${RLF_E2E_SECRET}'}, body: {query: '{{query}}', api_key: '\${RLF_E2E_SECRET}'}, cache: {path: '$work/cache'}}|" \
    "$RLF_SOURCE/tests/e2e/rl.yaml" >"$work/job.yaml"
job=("$work/job.yaml" model.path="$fixture/cold/final" data.train="$fixture/data/train.jsonl" train.steps=$steps episode.retries=1 optimizer.lr=2e-5 log.level=debug)
train faulty 6 "${job[@]}" output="$work/faulty" ranks.rollout=2 ranks.tool=2 traffic.record="$work/traffic"
exact_log_probs "$work/faulty" $steps
"$faulty" check "$work/faulty" 2 2 || fail "what the run says is not what the service did"
train replayed 4 "${job[@]}" output="$work/replayed" traffic.replay="$work/traffic"
same_checkpoint "$work/faulty/checkpoints/step_$steps" "$work/replayed/checkpoints/step_$steps"

# The words of the secret, however they were escaped.
"$RLF_BUILD/trainer/rlf" tools "$work/job.yaml" call search '{"query": "capital of Peru"}' >"$work/called.log" 2>&1
"$RLF_BUILD/trainer/rlf" config "$work/job.yaml" "${job[@]:1}" >"$work/config.log" || fail "rlf config"
grep -q 'RLF_E2E_SECRET' "$work/faulty/config.yaml" || fail "the resolved configuration does not name the secret"
grep -q '\[secret\]' "$work"/faulty/rollouts/step_*.jsonl || fail "the service was expected to tell the secret"
grep -q '\[secret\]' "$work"/traffic/*.jsonl || fail "the service was expected to tell the secret to the recording"

# Nobody there at all: every call is lost, and with it its episode; the rest trains.
kill $server
train refused 5 "${job[@]}" output="$work/refused" ranks.rollout=2 train.steps=2 tools.0.cache.path=
[ "$(steps_done "$work/refused")" -eq 2 ] || fail "the run without a service did not complete"
count() { grep -o "\"$1\": *[0-9]*" "$work/refused/summary.json" | sed "s/.*: *//"; }
[ "$(count search.http_connect)" -gt 0 ] && [ "$(count search.http_connect)" -eq "$(count search.runs)" ] || fail "not every execution was counted as refused: $(cat "$work/refused/summary.json")"
grep -q '"status":"ok"' "$work"/refused/rollouts/step_*.jsonl && fail "a call was answered by nobody"
awk 'NR == 1' "$work/refused/metrics.jsonl" | grep -q '"infra":[1-9]' || fail "no episode was lost"
grep -m 1 'What is the capital of Niger?' "$fixture/data/train.jsonl" >"$work/one.jsonl" || fail "no question after the capital of Niger"
train lost 4 "${job[@]}" mode=eval output="$work/lost" data.eval="$work/one.jsonl" tools.0.cache.path=
grep -q "evaluation after step 0: every episode was lost to infrastructure" "$work/lost.log" || fail "nothing is left, which is not said: $(grep evaluation "$work/lost.log")"
found=$(grep -rlE 's3cret|k3y-of' "$work") && fail "a secret is in $found"
echo "$steps steps with a faulty service, 2 without any: what was lost is counted, and no secret was told"
