#!/usr/bin/env bash
# jobs/nq.sh and jobs/nq.yaml as a user has them, with rows as FlashRAG publishes them, but for a small model, an index of words and one step: all 19 ranks
# come, cut nuclei keep log-probs exact, evaluations are there. And what the script asks of mpirun under Slurm on two nodes.
source "$(dirname "$0")/lib.sh"
fresh_work nq
mkdir -p "$work/data/nq" "$work/models" "$work/tools"
ln -s "$RLF_SOURCE/jobs" "$work/jobs"
ln -s "$RLF_BUILD" "$work/build"
ln -s "$fixture/cold/final" "$work/models/Qwen3-4B"
for country in Peru France Japan Chile Kenya Norway; do
    echo "{\"id\": \"train_$country\", \"question\": \"what is the capital of $country\", \"golden_answers\": [\"Lima\", \"$country City\"]}"
done >"$work/data/nq/train.jsonl"
head -n 2 "$work/data/nq/train.jsonl" >"$work/data/nq/test.jsonl"

export SLURM_SUBMIT_DIR=$work
small=(tools.0.kind=index tools.0.batch=1 tools.0.path="$fixture/data/corpus.idx" device=cpu threads=1 episode.chat=chatml train.steps=1 train.prompts=4 train.eval_every=0
       episode.max_tokens=512 episode.max_prompt_tokens=256 episode.max_turn_tokens=24 train.micro_tokens=512 rollout.cache_tokens=8192 rollout.batch=32 log.progress=false)
bash "$RLF_SOURCE/jobs/nq.sh" "${small[@]}" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "jobs/nq.sh"; }
exact_log_probs "$work/runs/nq" 1
"$rlf" report "$work/runs/nq" --get eval_end.exact_match >"$work/exact" || fail "no exact match at the end: $(tail -n 3 "$work/log")"
grep -q 'what is the capital of [A-Z][a-z]*?' "$work"/runs/nq/rollouts/step_000001.jsonl || fail "questions do not end with their mark"

SLURM_SUBMIT_DIR=$work/tools bash "$RLF_SOURCE/jobs/nq.sh" 2>"$work/err" && fail "jobs/nq.sh from another folder"
grep -q "^nq.sh: no build/trainer/rlf-train in $work/tools" "$work/err" || fail "jobs/nq.sh from another folder: $(cat "$work/err")"

cat >"$work/tools/mpirun" <<'END'
#!/usr/bin/env bash
echo "$*"
END
chmod +x "$work/tools/mpirun"
PATH=$work/tools:$PATH SLURM_JOB_NUM_NODES=2 bash "$RLF_SOURCE/jobs/nq.sh" train.steps=400 >"$work/asked" || fail "jobs/nq.sh with a stand-in for mpirun"
grep -q -- "--map-by node .*-np 35 $work/build/trainer/rlf-train jobs/nq.yaml ranks.rollout=16 train.steps=400$" "$work/asked" || fail "two nodes: $(cat "$work/asked")"
