#!/usr/bin/env bash
# Calls as tags and blocks of code, one format after the other: a cold start whose rows write them, then reinforcement over 4 and 6
# ranks. The model calls its tools, answers stand in its own turn, log-probs are equal to the bit, and the ranks' number changes no byte.
source "$(dirname "$0")/lib.sh"
fresh_work formats
steps=4

# The quickstart's worked examples with their calls as <search>, behind Search-R1's own words for a quarter of them; and sums, as tags or as
# blocks of code.
told='Answer the given question. You must conduct reasoning inside <think> and </think> first every time you get new information. '
told+='Question: '
as_json='<tool_call>\\n{\\"name\\": \\"search\\", \\"arguments\\": {\\"query\\": \\"\([^"\\]*\)\\"}}\\n<\/tool_call>'
searches() { # rows: file, number
    head -n "$2" "$fixture/data/$1" | sed -e "s/$as_json/<search> \1 <\/search>/g"
}
with_words() { sed -e "1~4s|\"role\":\"user\",\"content\":\"|&$told|"; }
sums() { # open, close, number; questions alone where open is empty
    awk -v open="$1" -v shut="$2" -v n="$3" 'BEGIN {
        srand(1)
        truth = "\"reward_model\":{\"ground_truth\":{\"target\":[\"%d\"]}},\"extra_info\":{\"index\":%d}"
        for (i = 0; i < n; i++) {
            a = int(rand() * 90) + 10; b = int(rand() * 90) + 10
            asked = says("user", "What is " a " + " b "?")
            if (open == "") printf "{\"data_source\":\"sum\",\"prompt\":[%s]," truth "}\n", asked, a + b, i
            else print "{\"data_source\":\"sum\",\"messages\":[" asked "," says("assistant", open a " + " b shut) "," \
                says("tool", a + b) "," says("assistant", (shut ~ /`/ ? "\\n" : "") "<answer> " a + b " </answer>") "]}"
        }
    }
    function says(role, content) { return "{\"role\":\"" role "\",\"content\":\"" content "\"}" }'
}
mkdir "$work/data"
searches sft.jsonl 1600 | with_words >"$work/data/sft_search-r1.jsonl"
searches train.jsonl 200 | with_words >"$work/data/train_search-r1.jsonl"
{ searches sft.jsonl 800; sums '<python>' '</python>' 800; } >"$work/data/sft_tool-star.jsonl"
{ searches train.jsonl 100; sums '' '' 100; } >"$work/data/train_tool-star.jsonl"
sums '```python\\n' '\\n```' 1600 >"$work/data/sft_fenced.jsonl"
sums '' '' 200 >"$work/data/train_fenced.jsonl"
grep -q '<tool_call>' "$work"/data/*.jsonl && fail "a call was left as JSON"

job() { # format, name, ranks, overrides...
    local format=$1 name=$2 ranks=$3
    shift 3
    train "$name" "$ranks" "$RLF_SOURCE/tests/e2e/formats.yaml" output="$work/$name" model.path="$work/cold_$format/final" \
        data.train="$work/data/train_$format.jsonl" tools.0.path="$fixture/data/corpus.idx" episode.tool_format="$format" \
        train.steps=$steps "$@"
}
expect_text() { grep -qF -- "$2" "$1/rollouts/step_000001.jsonl" || fail "$1: no trajectory holds $2"; }

for format in search-r1 tool-star fenced; do
    train "cold_$format" 2 "$RLF_SOURCE/jobs/quickstart_cold.yaml" output="$work/cold_$format" model.path="$fixture/init" \
        episode.max_prompt_tokens=256 data.train="$work/data/sft_$format.jsonl" episode.tool_format="$format" \
        train.steps=80 train.prompts=16 optimizer.lr=3e-3 threads=2
    job $format "${format}_4" 4
    job $format "${format}_6" 6 ranks.rollout=2 ranks.tool=2 rollout.seats=3 rollout.prefill_chunk=8 rollout.batch=20
    for ranks in 4 6; do exact_log_probs "$work/${format}_$ranks" $steps; done
    same_checkpoint "$work/${format}_4/checkpoints/step_$steps" "$work/${format}_6/checkpoints/step_$steps"
    calls=$(numbers "$work/${format}_4/metrics.jsonl" calls | awk '{n += $1} END {print n}')
    bad=$(numbers "$work/${format}_4/metrics.jsonl" bad_calls | awk '{n += $1} END {print n}')
    [ $((calls - bad)) -ge 20 ] || fail "$format: $calls calls, $bad of them bad: expected at least 20 good ones"
    grep -q '# Tools' "$work/${format}_4/rollouts/step_000001.jsonl" && fail "$format: the prompt lists tools"
    echo "  $format: $calls calls in $steps steps, $bad bad"
done
expect_text "$work/search-r1_4" '\n\n<information>Doc 1(Title: '
expect_text "$work/tool-star_4" ' <result>\n'
expect_text "$work/fenced_4" '\nObservation:\n'

# What a tag calls has to be there, and is looked for before anything runs.
launch 4 "$RLF_SOURCE/tests/e2e/formats.yaml" output="$work/wrong" model.path="$work/cold_fenced/final" \
    data.train="$work/data/train_fenced.jsonl" tools.0.path="$fixture/data/corpus.idx" episode.tool_format=fenced \
    episode.python_call=python.code >"$work/wrong.log" 2>&1 && fail "a tag without a tool was taken"
own_lines "$work/wrong.log" | grep -q 'episode.python_call: no tool of the job is named "python"' ||
    { cat "$work/wrong.log" >&2; fail "the missing tool is not named"; }
[ ! -e "$work/wrong/metrics.jsonl" ] || fail "something ran"
