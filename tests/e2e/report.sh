#!/usr/bin/env bash
# rlf report on hand-written run folders: the table, single values, and one line for each kind of error.  Usage: report.sh RLF
set -euo pipefail
rlf=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir "$dir/rl" "$dir/eval"
cat >"$dir/rl/summary.json" <<'JSON'
{"mode": "rl", "steps": 2, "logprob_diff_max": 0.0, "seconds": 12.25, "episodes": 64, "checkpoint": "rl/checkpoints/step_2",
 "exact_match": {"before": 0.25, "after": 0.75}, "eval_start": null,
 "evals": [{"step": 0, "exact_match": 0.25, "by_source": {"one": {"exact_match": 0.5}}},
           {"step": 2, "exact_match": 0.75, "by_source": {"one": {"exact_match": 1.0}, "two": {"exact_match": 0.5}}}]}
JSON
cat >"$dir/rl/metrics.jsonl" <<'JSON'
{"step": 0, "eval": {"reward_mean": 9.0}}
{"step": 1, "reward_mean": 0.125, "loss": 0.5, "tokens": {"prompt": 7, "model": 100, "observation": 9}, "seconds": {"total": 2.0}}
{"step": 2, "reward_mean": 0.875, "loss": -0.25, "tokens": {"prompt": 7, "model": 300, "observation": 9}, "seconds": {"total": 2.0}}
JSON
cat >"$dir/eval/summary.json" <<'JSON'
{"mode": "eval", "steps": 0, "logprob_diff_max": 0.0, "seconds": 3.0, "evals": [{"step": 0, "exact_match": 0.5, "reward_mean": 0.625, "by_source": {"two": {"exact_match": 0.5}}}]}
JSON
echo '{"step": 0, "eval": {}}' >"$dir/eval/metrics.jsonl"

same() { # what, expected, found
    [ "$2" = "$3" ] || { printf '%s: expected\n%s\nfound\n%s\n' "$1" "$2" "$3"; exit 1; }
}
refused() { # part of the one line expected, arguments
    local part=$1 found
    shift
    if found=$("$rlf" report "$@" 2>&1); then echo "report $*: expected to fail"; exit 1; fi
    [[ $found == *"$part"* && $(wc -l <<<"$found") = 1 ]] || { echo "report $*: expected one line with '$part', found: $found"; exit 1; }
}

cd "$dir"
same table "run                              rl   eval
mode                             rl   eval
steps                             2      0
reward               0.125 -> 0.875  0.625
exact match          0.250 -> 0.750  0.500
  one                0.500 -> 1.000      -
  two                    - -> 0.500  0.500
loss              0.5000 -> -0.2500      -
logprob_diff_max                  0      -
tokens/s                        100      -
seconds                          12      3" "$("$rlf" report rl/ eval)"
same integer 64 "$("$rlf" report rl --get episodes)"
same number 0.75 "$("$rlf" report rl --get exact_match.after)"
same "zero" 0.0 "$("$rlf" report rl --get logprob_diff_max)"
same text rl/checkpoints/step_2 "$("$rlf" report --get checkpoint rl)"
same "list item" 0.5 "$("$rlf" report rl --get evals.1.by_source.two.exact_match)"
refused 'rl/summary.json has no exact_match.late' rl --get exact_match.late
refused 'eval_start is null' rl --get eval_start
refused 'exact_match is not a single value' rl --get exact_match
refused 'no finished run: none/summary.json' none
echo '{"step": 3, "rew' >>rl/metrics.jsonl
refused 'rl/metrics.jsonl:4: expected a JSON object' rl
echo 'a run' >eval/summary.json
refused 'eval/summary.json:1:' eval --get mode
