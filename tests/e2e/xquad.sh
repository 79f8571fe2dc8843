#!/usr/bin/env bash
# Real input: the index finds the right paragraph of real questions, and a small model with the real Qwen3 tokenizer runs five steps of GRPO over them.
source "$(dirname "$0")/lib.sh"
data=${RLF_SHARED:-}/data
for file in xquad_passages.jsonl xquad_train.jsonl xquad_test.jsonl qwen3_tokenizer/tokenizer.json; do
    [ -f "$data/$file" ] || skip "no $data/$file; this test needs the real data, which are not part of the tree"
done
fresh_work xquad
cp -r "$data" "$work/data"
data=$work/data

# ---- the index --------------------------------------------------------------------------------------------------------------------------
"$rlf" index "$data/xquad_passages.jsonl" -o "$work/xquad.idx" || fail "rlf index"
sed 's/.*"content": "\(\([^"\\]\|\\.\)*\)".*/\1/; s/\\\(["\\/]\)/\1/g' "$data/xquad_test.jsonl" >"$work/questions"
sed 's/.*"passage": "\([^"]*\)".*/\1/' "$data/xquad_test.jsonl" >"$work/passages"
"$rlf" search "$work/xquad.idx" -k 3 <"$work/questions" >"$work/found" || fail "rlf search"
[ "$(wc -l <"$work/found")" -eq 179 ] || fail "179 questions led to $(wc -l <"$work/found") answers"
paste -d '\t' "$work/passages" "$work/found" |
    awk -F '\t' '{hit += index($2, "\"id\": \"" $1 "\"") > 0} END {printf "  recall of the right paragraph in the first 3: %d of %d\n", hit, NR; exit !(hit >= 0.97 * NR)}' ||
    fail "recall in the first 3 is under .97"

# ---- the model: what a call looks like, then by reward ----------------------------------------------------------------------------------
awk -f "$RLF_SOURCE/tests/e2e/xquad_rows.awk" "$data/xquad_passages.jsonl" "$data/xquad_train.jsonl" >"$work/rows.jsonl"
[ "$(wc -l <"$work/rows.jsonl")" -ge 600 ] || fail "few worked examples: $(wc -l <"$work/rows.jsonl")"
"$rlf" init --shape tiny --hidden 32 --vocab 151936 --std 0.1 --tokenizer "$data/qwen3_tokenizer" --seed 5 -o "$work/init" || fail "rlf init"
job=("$RLF_SOURCE/tests/e2e/xquad.yaml" tools.0.path="$work/xquad.idx")
train cold 2 "${job[@]}" mode=sft output="$work/cold" model.path="$work/init" data.train="$work/rows.jsonl" ranks.rollout=0 ranks.tool=0 \
    train.steps=100 train.prompts=8 optimizer.lr=1e-2 optimizer.schedule=cosine
train rl 5 "${job[@]}" mode=rl output="$work/rl" model.path="$work/cold/final" data.train="$data/xquad_train.jsonl" ranks.rollout=2
exact_log_probs "$work/rl" 5
numbers "$work/rl/metrics.jsonl" loss | awk '{n++} END {exit n != 5}' || fail "expected 5 finite losses"

# ---- what the trajectories hold ---------------------------------------------------------------------------------------------------------
awk -F '\\\\n' '{print substr($2, 1, 60)}' "$data/xquad_passages.jsonl" | grep -v '[\\]' >"$work/beginnings"
cat "$work"/rl/rollouts/step_*.jsonl >"$work/trajectories"
[ "$(wc -l <"$work/trajectories")" -eq 80 ] || fail "expected 80 trajectories, found $(wc -l <"$work/trajectories")"
real=$(grep -cF -f "$work/beginnings" "$work/trajectories")
[ "$real" -ge 8 ] || fail "only $real of 80 trajectories hold a real paragraph"
echo "  $real of 80 trajectories hold a real paragraph"
