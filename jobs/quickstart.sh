#!/usr/bin/env bash
# The main job on one machine, from nothing: installs packages, builds, and teaches a small model from random weights to answer questions about the countries
# of the world with a search tool: a supervised cold start on made-up worlds, then GRPO. Ends in a table and the paths of what it left.
#
#   jobs/quickstart.sh [seed]      output: runs/quickstart (a finished stage is not run again; remove the folder to start over, or for another seed)
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${1:-1}
run=runs/quickstart
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # containers run as root

if [ -f "$run/seed" ] && [ "$(cat "$run/seed")" != "$seed" ]; then
    echo "$run is of seed $(cat "$run/seed"): remove it to start over with seed $seed" >&2
    exit 1
fi

jobs/install.sh build
started=$(date +%s)
echo "Building"
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=OFF >/dev/null
cmake --build build --target rlf rlf-train quickstart-data >/dev/null
rlf=build/trainer/rlf
train() { # ranks, job, overrides
    local ranks=$1
    shift
    mpirun -q --bind-to none --oversubscribe -np "$ranks" build/trainer/rlf-train "$@" "seed=$seed"
}
exact_match() { "$rlf" report "$1" --get "$2"; }

mkdir -p "$run/data"
if [ ! -f "$run/data/corpus.idx" ]; then
    echo "Facts, made-up worlds and the search index"
    rm -rf "$run/init" # of a start that was interrupted
    build/jobs/quickstart-data -c jobs/quickstart/countries.tsv -o "$run/data" -s "$seed" -n 45000
    "$rlf" init --shape quickstart --std 0.08 --tokenizer jobs/quickstart/tokenizer.json --seed "$seed" -o "$run/init"
    echo "$seed" >"$run/seed"
    "$rlf" index "$run/data/corpus.jsonl" -o "$run/data/corpus.idx"
fi

echo "Exact match before training"
train 4 jobs/quickstart.yaml mode=eval output="$run/start" model.path="$run/init"
echo "Cold start: worked examples from made-up worlds"
train 2 jobs/quickstart_cold.yaml
echo "Reinforcement learning with the search tool"
train 5 jobs/quickstart.yaml
echo "The same model with the tool switched off"
train 4 jobs/quickstart.yaml mode=eval output="$run/no_tool" model.path="$run/rl/final" episode.max_turns=0

start=$(exact_match "$run/start" eval_end.exact_match)
cold=$(exact_match "$run/rl" eval_start.exact_match)
one=$(exact_match "$run/rl" eval_end.one.exact_match)
two=$(exact_match "$run/rl" eval_end.two.exact_match)
no_tool=$(exact_match "$run/no_tool" eval_end.exact_match)
diff=$(exact_match "$run/rl" logprob_diff_max)
seconds=$(($(date +%s) - started))
cat >"$run/summary.json" <<JSON
{"exact_match": {"start": $start, "cold": $cold, "rl_one": $one, "rl_two": $two, "no_tool": $no_tool},
 "logprob_diff_max": $diff, "seconds": $seconds, "seed": $seed}
JSON
cat <<TABLE

  exact match on countries never seen in training
    random weights                        $start
    after the cold start                  $cold
    after RL, one search needed           $one
    after RL, two searches needed         $two
    after RL, tool switched off           $no_tool
  learner's log-probs minus rollout's     $diff   (largest difference over every token of every step)
  seconds                                 $seconds

  model         $run/rl/final
  curves        $run/rl/metrics.jsonl   (TensorBoard: $run/rl)
  trajectories  $run/rl/rollouts
  summary       $run/summary.json
TABLE
