#!/usr/bin/env bash
# rlf tools on a job, and rows that say which tools their episodes may use.
source "$(dirname "$0")/lib.sh"
fresh_work tools
job=("$RLF_SOURCE/tests/e2e/rl.yaml" tools.0.path="$fixture/data/corpus.idx")
"$rlf" tools "${job[@]}" >"$work/list" || fail "rlf tools"
grep -q '^search (index): ' "$work/list" || fail "rlf tools does not list the tool: $(cat "$work/list")"
"$rlf" tools "${job[@]}" call search '{"query": "capital of Peru"}' >"$work/answer" || fail "rlf tools call"
grep -q '^Doc 1(Title: Capital of Peru) The capital of Peru is Lima\.$' "$work/answer" || fail "rlf tools call: $(cat "$work/answer")"
"$rlf" tools "${job[@]}" call search '{"q": 1}' >"$work/answer" 2>"$work/error" && fail "a call without its argument was accepted"
grep -q 'search needs the argument "query" (a string); its parameters are {"type":"object"' "$work/answer" || fail "the model is not told: $(cat "$work/answer")"
"$rlf" tools "${job[@]}" tools.0.cache.entries=10 bench search '{"query": "capital {{i}}"}' 50 8 >"$work/bench" || fail "rlf tools bench"
grep -q '^{"done": 50, "ok": 50, .*"calls": 50, "runs": 50}$' "$work/bench" || fail "rlf tools bench: $(cat "$work/bench")"

# The same questions with the tool, without it, and with one that the job does not have.
head -n 8 "$fixture/data/test.jsonl" >"$work/all.jsonl"
sed 's/"extra_info":{/"extra_info":{"tools":[],/' "$work/all.jsonl" >"$work/none.jsonl"
sed 's/"extra_info":{/"extra_info":{"tools":["browse"],/' "$work/all.jsonl" >"$work/unknown.jsonl"
grep -q '"tools":\[\]' "$work/none.jsonl" || fail "the rows have no extra_info to put tools in: $(head -n 1 "$work/all.jsonl")"
for rows in all none; do
    train $rows 4 "${rl_job[@]}" mode=eval output="$work/$rows" ranks.rollout=1 ranks.tool=1 data.eval="$work/$rows.jsonl"
done
calls=$(numbers "$work/none/metrics.jsonl" calls | head -n 1) bad=$(numbers "$work/none/metrics.jsonl" bad_calls | head -n 1)
[ "$calls" -gt 0 ] && [ "$calls" -eq "$bad" ] || fail "rows without tools: $calls calls, $bad of them bad; all were expected to be"
[ "$(numbers "$work/all/metrics.jsonl" bad_calls | head -n 1)" -lt "$(numbers "$work/all/metrics.jsonl" calls | head -n 1)" ] || fail "rows with all tools: every call was bad"
launch 4 "${rl_job[@]}" mode=eval output="$work/unknown" data.eval="$work/unknown.jsonl" log.progress=false >"$work/unknown.log" 2>&1 && fail "an unknown tool was accepted"
grep -q 'unknown\.jsonl:1: .*extra_info.tools.*"browse"' "$work/unknown.log" || fail "the unknown tool is not named: $(own_lines "$work/unknown.log")"
# A program of one's own: the kind process.
own=("$RLF_SOURCE/tests/e2e/rl.yaml" tools.0.path= tools.0.name=mine tools.0.kind=process "tools.0.command=[\"$RLF_BUILD/tests/lines_tool\"]" tools.0.workers=2)
"$rlf" tools "${own[@]}" >"$work/list" || fail "rlf tools, kind process"
grep -q '^do (process): Does what it is told\.$' "$work/list" || fail "rlf tools does not list what the program offers: $(cat "$work/list")"
[ "$("$rlf" tools "${own[@]}" call do '{"what": "echo", "text": "h\u00e9"}')" = "hé" ] || fail "rlf tools call, kind process"
[ "$("$rlf" tools "${own[@]}" tools.0.state=episode call do_too '{"what": "add"}')" = '{"n":1,"extra":{}}' ] || fail "rlf tools call, kind process with state"
"$rlf" tools "${own[@]}" call do '{"what": "die"}' >"$work/answer" 2>"$work/error" && fail "a program that ended answered"
grep -q 'the program ended with status 3; its last words: no more' "$work/answer" || fail "its end is not told: $(cat "$work/answer")"
"$rlf" tools "${own[@]}" tools.0.batch=16 bench do '{"what": "echo", "text": "{{i}}"}' 2000 64 >"$work/bench" || fail "rlf tools bench, kind process"
grep -q '^{"done": 2000, "ok": 2000, .*"batches": ' "$work/bench" || fail "rlf tools bench, kind process: $(cat "$work/bench")"
timeout 60 "$rlf" tools "${own[@]}" tools.0.timeout_ms=200 tools.0.retries=0 bench do '{"what": "keep", "text": ""}' 8 4 >"$work/bench" && fail "calls that were never answered are ok"
grep -q '^{"done": 8, "ok": 0, ' "$work/bench" || fail "rlf tools bench, calls without an answer: $(cat "$work/bench")"
"$rlf" tools "${own[@]}" tools.0.command='["./nothing"]' >"$work/list" 2>"$work/error" && fail "a missing program was accepted"
grep -q 'tools\[0\] (mine): key "command": ./nothing: No such file or directory' "$work/error" || fail "the missing program is not named: $(cat "$work/error")"
if command -v python3 >"$work/which"; then
    notes=$("$rlf" tools "${own[@]}" tools.0.state=episode "tools.0.command=[\"python3\", \"$RLF_SOURCE/jobs/tools/notes.py\"]" call add_note '{"text": "Lima"}')
    [ "$notes" = "note 1 is kept" ] || fail "jobs/tools/notes.py: $notes"
fi

# A machine that forbids namespaces: the interpreter is not opened, unless told to go without.
own=("$RLF_SOURCE/tests/e2e/rl.yaml" tools.0.path= tools.0.name=python tools.0.kind=python)
without() { unshare --user --map-root-user sh -c 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"' sh "$@"; }
if command -v python3 >"$work/which" && without true 2>"$work/error"; then
    without "$rlf" tools "${own[@]}" call python '{"code": "print(6 * 7)"}' >"$work/answer" 2>"$work/error" && fail "an interpreter without a sandbox was opened"
    grep -q 'tools\[0\] (python): sandbox: no namespaces here .*set the tool.s key "sandbox" to none' "$work/error" || fail "the refusal: $(cat "$work/error")"
    without "$rlf" tools "${own[@]}" tools.0.sandbox=none call python '{"code": "print(6 * 7)"}' >"$work/answer" 2>"$work/error" || fail "sandbox: none: $(cat "$work/error")"
    grep -q '^42$' "$work/answer" || fail "sandbox: none: $(cat "$work/answer")"
    grep -q 'runs with your rights' "$work/error" || fail "sandbox: none is not warned of: $(cat "$work/error")"
fi

# A library of one's own: the kind plugin.
own=("$RLF_SOURCE/tests/e2e/rl.yaml" tools.0.name=mine tools.0.kind=plugin tools.0.path="$RLF_BUILD/tests/libplugin_stateless.so" tools.0.options='{"a": 1}')
"$rlf" tools "${own[@]}" >"$work/list" || fail "rlf tools, kind plugin"
grep -q '^do (plugin): Does it\.$' "$work/list" || fail "rlf tools does not list what the plugin offers: $(cat "$work/list")"
[ "$("$rlf" tools "${own[@]}" call do '{"what": "options"}')" = '{"a":1}' ] || fail "rlf tools call, kind plugin"
"$rlf" tools "${own[@]}" bench do '{"what": "echo", "text": "{{i}}"}' 2000 64 >"$work/bench" || fail "rlf tools bench, kind plugin"
grep -q '^{"done": 2000, "ok": 2000, ' "$work/bench" || fail "rlf tools bench, kind plugin: $(cat "$work/bench")"
[ "$("$rlf" tools "${own[@]}" tools.0.path="$RLF_BUILD/tests/libdice.so" tools.0.state=episode call throw_die '{}' | cut -c 1-9)" = "throw 1: " ] || fail "jobs/tools/dice.c"
"$rlf" tools "${own[@]}" tools.0.path="$RLF_BUILD/tests/libplugin_other_abi.so" tools.0.state=episode 2>"$work/error" && fail "a plugin of another version was accepted"
grep -q 'tools\[0\] (mine): key "path": .* is built for version 2 of toolsvc/plugin.h, and this program has version 1' "$work/error" ||
    fail "the version is not named: $(cat "$work/error")"

echo "rlf tools, and tools by row"
