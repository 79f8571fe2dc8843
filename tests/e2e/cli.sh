#!/usr/bin/env bash
# The one-process commands: what they print has the promised form, exit status 0; what they refuse ends in one line on standard error.
source "$(dirname "$0")/lib.sh"
fresh_work cli
model=$fixture/cold/final
out=$work/out
err=$work/err

# Every line of a file has a form.
every_line() { # file, lines, pattern
    [ "$(wc -l <"$1")" -eq "$2" ] || { cat "$1" >&2; fail "expected $2 lines"; }
    if grep -Evq "$3" "$1"; then grep -Ev "$3" "$1" | head -n 3 >&2; fail "lines without the form $3"; fi
}
refused() { # exit status, pattern, arguments of rlf...
    local expected=$1 pattern=$2 status
    shift 2
    "$rlf" "$@" </dev/null >"$out" 2>"$err"
    status=$?
    [ $status -eq "$expected" ] || fail "rlf $*: status $status, expected $expected: $(cat "$err")"
    [ ! -s "$out" ] || fail "rlf $*: an error, and yet output"
    every_line "$err" 1 "$pattern"
}
number='-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?'

printf 'What is the capital of Peru?\n\n<|im_end|>\n\xc3\xa9\xff\n' >"$work/lines"
"$rlf" tokenize "$model" <"$work/lines" >"$out" || fail "rlf tokenize"
every_line "$out" 4 '^\[([0-9]+(,[0-9]+)*)?\]$'
[ "$(sed -n 2p "$out")" = "[]" ] || fail "an empty line has no tokens"
sed -n 3p "$out" | grep -Eq '^\[[0-9]+\]$' || fail "<|im_end|> is one token"
"$rlf" tokenize --decode "$model" <"$out" | cmp - "$work/lines" || fail "rlf tokenize --decode gives the lines back"
"$rlf" tokenize --plain "$model" <"$work/lines" | sed -n 3p | grep -q , || fail "--plain spells <|im_end|> out"

cat >"$work/talks" <<'END'
{"messages": [{"role": "user", "content": "Hé \u003c\""}, {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "search", "arguments": {"k": 1.0}}}]}, {"role": "tool", "content": "x"}]}

{"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}], "data_source": "any"}
END
echo '[{"type": "function", "function": {"name": "search"}}]' >"$work/tools.json"
"$rlf" render "$model" --chat chatml <"$work/talks" >"$out" || fail "rlf render"
cat >"$work/expected" <<'END'
"<|im_start|>user\nHé <\"<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{\"name\": \"search\", \"arguments\": {\"k\": 1.0}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nx\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
END
cmp "$work/expected" "$out" || fail "rlf render: $(cat "$out")"
"$rlf" render "$model" --chat qwen3 --thinking on --tools "$work/tools.json" --no-generation-prompt <"$work/talks" >"$out" || fail "rlf render --tools"
every_line "$out" 2 '^"<\|im_start\|>system\\n.*<tools>\\n\{\\"type\\": \\"function\\",.*<\|im_end\|>\\n"$'
echo '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "<search> q </search>"}, {"role": "tool", "content": "Doc 1(Title: T) x\n"}]}' |
    "$rlf" render "$model" --chat chatml --tool-format search-r1 --tools "$work/tools.json" >"$out" || fail "rlf render --tool-format"
echo '"<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<search> q </search>\n\n<information>Doc 1(Title: T) x</information>\n\n"' | cmp - "$out" || fail "rlf render --tool-format: $(cat "$out")"
"$rlf" render "$model" --chat qwen2.5 --ids <"$work/talks" >"$out" || fail "rlf render --ids"
printf '<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n' >"$work/text"
sed -n 2p "$out" >"$work/ids"
"$rlf" tokenize --null "$model" <"$work/text" | cmp - "$work/ids" || fail "rlf render --ids and rlf tokenize differ"
rendered() { # exit status, pattern, a line of input, arguments of rlf render...
    local expected=$1 pattern=$2 line=$3
    shift 3
    printf '%s\n' "$line" | "$rlf" render "$model" "$@" >"$out" 2>"$err"
    [ "${PIPESTATUS[1]}" -eq "$expected" ] || fail "rlf render $*: status, expected $expected"
    [ ! -s "$out" ] || fail "rlf render $*: an error, and yet output"
    every_line "$err" 1 "$pattern"
}
talk='{"messages": [{"role": "user", "content": "Q"}]}'
rendered 1 'no token <\|begin_of_text\|>' "$talk" --chat llama3.1
rendered 1 'chatml, llama3\.1, llama3\.2, qwen2\.5, qwen2\.5-base, qwen3' "$talk" --chat gpt
rendered 1 'tool format "json" is unknown' "$talk" --chat qwen3 --tool-format json
rendered 1 'nowhere' "$talk" --chat qwen3 --tools "$work/nowhere"
rendered 1 'standard input:1.*tools: expected a JSON array' "$talk" --chat qwen3 --tools <(echo '{}')
rendered 1 'standard input:1: .messages\[0\]\.role' '{"messages": [{"role": "bot", "content": "Q"}]}' --chat qwen3
rendered 1 'standard input:1: .messages\[0\]\.content' '{"messages": [{"role": "user"}]}' --chat qwen3
rendered 1 'standard input:1: byte' '{' --chat qwen3
rendered 2 'expected one MODEL folder' "$talk" --thinking maybe

printf 'The capital of Peru\nhello\n' >"$work/lines"
"$rlf" score "$model" --threads 1 <"$work/lines" >"$out" || fail "rlf score"
every_line "$out" 2 "^\{\"ids\":\[[0-9]+(,[0-9]+)*\],\"logprobs\":\[0(,$number)*\]\}$"
sed 's/{"ids":\(\[[^]]*\]\).*/\1/' "$out" >"$work/ids"
"$rlf" tokenize "$model" <"$work/lines" | cmp - "$work/ids" || fail "rlf score and rlf tokenize read a line differently"
awk '{ids = gsub(/,/, ",", $0)} ids % 2 != 1 {exit 1}' "$out" || fail "as many log-probs as ids"
"$rlf" score "$model" --threads 2 <"$work/lines" | cmp - "$out" || fail "log-probs depend on threads"
"$rlf" init --shape quickstart --dtype bfloat16 --tokenizer "$model" -o "$work/half" || fail "rlf init --dtype bfloat16"
"$rlf" score "$work/half" <"$work/lines" >"$out" || fail "rlf score of bfloat16 weights"
"$rlf" score "$work/half" --threads 2 <"$work/lines" | cmp - "$out" || fail "log-probs of bfloat16 weights depend on threads"
"$rlf" score "$work/half" --dtype float32 <"$work/lines" | cmp - "$out" || fail "log-probs of bfloat16 weights: not those of the same numbers in float32"
"$rlf" score "$work/half" --compute-dtype bfloat16 <"$work/lines" >"$work/wide" || fail "rlf score of bfloat16 factors"
paste -d, "$out" "$work/wide" | tr -c '0-9.,e\n-' ' ' | awk -F, '{
    for (i = 1; i <= NF / 2; i++) { d = $i - $(i + NF / 2); if (d < 0) d = -d; if (d > worst) worst = d }
} END { exit !(worst > 0 && worst < 0.02) }' || fail "log-probs of bfloat16 factors: not near those of float32 ones, or the same"
"$rlf" score "$model" --compute-dtype bfloat16 <"$work/lines" >"$work/log" 2>&1 && fail "bfloat16 factors of float32 weights"
grep -q "need parameters stored as bfloat16" "$work/log" || fail "bfloat16 factors of float32 weights: $(cat "$work/log")"

generate() { "$rlf" generate "$model" --template chatml --max-tokens 40 "$@" </dev/null || fail "rlf generate $*"; }
generate --prompt "What is the capital of Niger?" --temperature 0 >"$out"
grep -q "<tool_call>" "$out" || fail "the model did not call the tool: $(cat "$out")"
generate --prompt "What is the capital of Niger?" --temperature 0 --threads 2 | cmp - "$out" || fail "greedy answers differ"
generate --prompt x --raw --seed 5 >"$out"
generate --prompt x --raw --seed 5 | cmp - "$out" || fail "the same seed drew another text"
generate --prompt x --raw --seed 6 | cmp -s - "$out" && fail "another seed drew the same text"

printf 'What\0is this?\n' | "$rlf" generate "$model" --template chatml >"$out" 2>"$err" && fail "a NUL cuts a prompt"
every_line "$err" 1 'line 1.*a message holds a NUL|a message holds a NUL.*line 1'
refused 1 'a prompt of [0-9]+ tokens and --max-tokens 2048: the model in .* has 2048 positions' generate "$model" --raw --prompt x --max-tokens 2048
cp -rL "$model" "$work/stopped"
all=$(seq -s , 0 511)
echo "{\"eos_token_id\": [$all]}" >"$work/stopped/generation_config.json"
"$rlf" generate "$work/stopped" --raw --prompt x | cmp - <(echo) || fail "--raw goes on behind an eos_token_id of generation_config.json"
echo '{}' >"$work/stopped/generation_config.json"
sed -i "s/\"eos_token_id\": null/\"eos_token_id\": [$all]/" "$work/stopped/config.json"
"$rlf" generate "$work/stopped" --raw --prompt x | cmp - <(echo) || fail "--raw goes on behind an eos_token_id of config.json"

printf 'capital Niger\n"AND (\n' | "$rlf" search "$fixture/data/corpus.idx" -k 2 >"$out" || fail "rlf search"
every_line "$out" 2 '^\[(\{"id": ".*", "title": ".*", "text": ".*", "score": [0-9.e+-]+\}(, )?)*\]$'
sed -n 1p "$out" | grep -q '^\[{"id": "[^"]*", "title": "Capital of Niger"' || fail "the best passage is another: $(head -n 1 "$out")"

head -n 3 "$fixture/data/corpus.jsonl" >"$work/three.jsonl"
"$rlf" index "$work/three.jsonl" -o "$work/three.idx" >"$out" || fail "rlf index"
every_line "$out" 1 '3 passages'
echo '{"id": 1}' >>"$work/three.jsonl"
cksum <"$work/three.idx" >"$work/before"
refused 1 'three\.jsonl:4: ' index "$work/three.jsonl" -o "$work/three.idx"
cksum <"$work/three.idx" | cmp - "$work/before" || fail "an index was touched by a corpus that is refused"

for copy in a b; do "$rlf" init --shape tiny --seed 9 -o "$work/tiny_$copy" || fail "rlf init"; done
same_file "$work/tiny_a/model.safetensors" "$work/tiny_b/model.safetensors"
same_file "$work/tiny_a/config.json" "$work/tiny_b/config.json"
refused 1 'tiny_a/model\.safetensors.*exists' init --shape tiny --seed 10 -o "$work/tiny_a"
same_file "$work/tiny_a/model.safetensors" "$work/tiny_b/model.safetensors"
mkdir "$work/table" && cp "$RLF_SOURCE/tests/golden/text_llama_tokenizer.json" "$work/table/tokenizer.json" || fail "no table"
"$rlf" init --shape tiny --vocab 1200 --tokenizer "$work/table" -o "$work/llama" || fail "rlf init with a table of Llama"
tr -d ' \n' <"$work/llama/generation_config.json" | grep -q '"eos_token_id":\[1108,1107,1101\]' || fail "rlf init: <|eot_id|>, <|eom_id|> and <|end_of_text|> stop"
for file in model.safetensors.index.json config.json; do
    mkdir "$work/other_$file" && echo '{}' >"$work/other_$file/$file" || fail "no folder for $file"
    refused 1 "$file: exists" init --shape tiny -o "$work/other_$file"
    [ "$(ls "$work/other_$file")" = "$file" ] || fail "rlf init wrote beside a $file"
done
refused 1 'quickstart.*qwen3-0\.6b' init --shape huge -o "$work/huge"

"$rlf" config >"$out" || fail "rlf config"
grep -q '^| `algorithm.group` | integer' "$out" || fail "rlf config lists the keys"
"$rlf" config "${rl_job[@]}" output="$work/run" train.steps=77 >"$work/resolved.yaml" || fail "rlf config JOB"
"$rlf" config "$work/resolved.yaml" | cmp - "$work/resolved.yaml" || fail "the resolved configuration does not resolve to itself"
grep -Eq 'steps: 77$' "$work/resolved.yaml" || fail "the override is not in the resolved configuration"

refused 2 'no command "tokenise"' tokenise
refused 2 'rlf: no command given' ""
refused 2 'MODEL' tokenize
refused 2 'MODEL' render
refused 1 'nowhere/tokenizer\.json' render "$work/nowhere"
refused 1 'nowhere/tokenizer\.json' tokenize "$work/nowhere"
refused 1 'nowhere/config\.json' score "$work/nowhere"
refused 1 'nowhere/config\.json' generate "$work/nowhere"
refused 1 'nowhere' search "$work/nowhere"
refused 1 'three\.jsonl' search "$work/three.jsonl"
refused 2 'options within their ranges' generate "$model" --temperature hot
refused 1 'rl\.yaml|command line' config "${rl_job[@]}" output="$work/run" train.step=3
for command in tokenize render index search init config score generate bench; do
    "$rlf" $command --help >"$out" || fail "rlf $command --help"
    head -n 1 "$out" | grep -q "^usage: rlf $command" || fail "rlf $command --help begins with its usage"
done

# Standard input that cannot be read is no empty input.
for command in "tokenize $model" "score $model" "generate $model --template chatml" "search $fixture/data/corpus.idx"; do
    "$rlf" $command <"$work" >"$out" 2>"$err" && fail "rlf $command < a folder: status 0"
    every_line "$err" 1 'cannot read standard input'
done

# Each part of rlf bench, at once: one JSON object, from which `report --get` reads.
tiny=(--shape tiny --device cpu --seconds 0 --json)
measured() { # part, a key, the launcher and its arguments
    local part=$1 key=$2
    shift 2
    mkdir -p "$work/bench_$part"
    "$@" "$rlf" bench "$part" "${tiny[@]}" "${sizes[@]}" >"$work/bench_$part/summary.json" || fail "rlf bench $part"
    "$rlf" report "$work/bench_$part" --get "$key" >"$out" || fail "rlf bench $part --json: no $key"
    every_line "$out" 1 "^$number\$"
}
sizes=(--dtype bfloat16 --sequences 2 --length 32 --batch 1,3 --context 20)
measured sgemm copy_gb_per_s
measured kernels kernels.20.share_of_matrix
measured train train.tokens_per_s
measured decode decode.1.share_of_copy
measured prefill prefill.tokens_per_s
measured all decode.1.bytes_per_step
sizes+=(--rates "$work/bench_sgemm/summary.json")
measured decode matrix_gflops
[ "$(cat "$out")" = "$("$rlf" report "$work/bench_sgemm" --get matrix_gflops)" ] || fail "rlf bench --rates: another rate"
refused 1 'nowhere: cannot open' bench train --shape tiny --device cpu --rates "$work/nowhere"
echo '{"sgemm_gflops": 1}' >"$work/half_rates"
refused 1 'half_rates has no matrix_gflops' bench train --shape tiny --device cpu --rates "$work/half_rates"
sizes=()
measured handover bytes_per_s mpirun -q --bind-to none --oversubscribe -np 2
sizes=(--dtype bfloat16 --reduce-dtype bfloat16)
measured reduce mpi_seconds mpirun -q --bind-to none --oversubscribe -np 3
refused 1 'tiny has 2048 positions' bench train --shape tiny --length 4096 --device cpu
refused 2 'options within their ranges' bench decode --batch 1,0
refused 2 'all, handover, reduce, rollout, tokenize, then' bench speed
refused 1 'one rank has nobody' bench handover --shape tiny --device cpu
refused 1 'one rank has nobody' bench reduce --shape tiny --device cpu

# --check reads everything and starts nothing.
launch 4 --check "${rl_job[@]}" output="$work/run" >"$out" 2>"$err" || { cat "$err" >&2; fail "--check"; }
tail -n 1 "$out" | grep -qx ok || fail "--check ends in ok"
[ ! -e "$work/run" ] || fail "--check made the run folder"
env SLURM_JOBID=7 SLURM_NODELIST="$(uname -n)" SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1 "$rlf_train" --check "${rl_job[@]}" output="$work/run" >"$out" 2>"$err" ||
    fail "--check in a shell of Slurm's: $(head -n 5 "$err")"
"$rlf_train" --check "${rl_job[@]}" output="$work/run" episode.chat=auto >"$out" 2>"$err" && fail "a checkpoint without a chat template is recognised"
every_line "$err" 1 "key 'episode\.chat': .*no chat_template\.jinja .*chatml, llama3\.1"
for option in --help --version "config --help"; do
    "$rlf" $option >/dev/full 2>"$err" && fail "rlf $option on a full disk: status 0"
    grep -q "^rlf ${option% *}: cannot write to standard output" "$err" || fail "rlf $option on a full disk: $(cat "$err")"
done
for option in --help --version "--check ${rl_job[*]} output=$work/run"; do
    "$rlf_train" $option >/dev/full 2>"$err" && fail "rlf-train $option on a full disk: status 0"
    grep -q "^rlf-train: error: .*cannot write to standard output" "$err" || fail "rlf-train $option on a full disk: $(cat "$err")"
done
