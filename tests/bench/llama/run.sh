#!/usr/bin/env bash
# rlf against llama.cpp on this processor: prefill and decode of the same random weights, in turns, in one run.
#
#   tests/bench/llama/run.sh BUILD LLAMA [SHAPE [DTYPE]]
#
# BUILD: rlf's build folder. LLAMA: where llama.cpp is installed (include/llama.h, lib/libllama, lib/libggml*); for a fair comparison it
# was built for this processor (GGML_NATIVE, GGML_LLAMAFILE, GGML_OPENMP). SHAPE: one that `rlf init` knows (bench-42m). DTYPE:
# float32 or bfloat16, how weights are stored.
# From the environment: THREADS (2), ROUNDS (5), WINDOW_S (4, seconds of a measurement), CPU_TIME=1 (count the process's CPU time, not the
# clock's), SAMPLE=1 (llama.cpp draws tokens as rlf does; by default it does not), SETTING=flash-f16-split (no search for the fastest: for a
# large model).
# Beside other work, take THREADS=1 CPU_TIME=1: llama.cpp's threads spin while they wait for each other, and one that has lost its core
# makes the figures of several threads meaningless.
#
# First the log-probs of both are compared and the largest difference is printed (with BF16 weights both round activations to BF16). Then
# each of llama.cpp's settings is tried for a moment and the fastest kept for each measure, and the rounds follow. Figures are tokens/s, the median of the rounds and the best.
set -euo pipefail
export LC_ALL=C
[ $# -ge 2 ] || { echo "run.sh: expected BUILD LLAMA [SHAPE [DTYPE]]" >&2; exit 2; }
rlf=$1/trainer/rlf llama=$2 shape=${3:-bench-42m} dtype=${4:-float32}
threads=${THREADS:-2} rounds=${ROUNDS:-5} window=${WINDOW_S:-4}
here=$(cd "$(dirname "$0")" && pwd)
source_dir=$here/../../..
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
clock=() sample=() typed=()
[ -z "${CPU_TIME:-}" ] || clock=(--cpu-time)
[ -z "${SAMPLE:-}" ] || sample=(--sample)
[ "$dtype" = float32 ] || typed=(--dtype "$dtype")

cc -std=gnu17 -O2 -Wall -Wextra -I"$llama/include" -c "$here/llama_bench.c" -o "$work/llama_bench.o"
c++ "$work/llama_bench.o" -o "$work/llama_bench" -L"$llama/lib" -Wl,-rpath,"$llama/lib" \
    -lllama -lggml -lggml-cpu -lggml-base -fopenmp -ldl
"$rlf" init --shape "$shape" --seed 1 "${typed[@]}" --tokenizer "$source_dir/jobs/quickstart" -o "$work/model" > /dev/null
python3 "$here/make_gguf.py" "$work/model" "$work/model.gguf"

of_llama() { "$work/llama_bench" "$work/model.gguf" --threads "$threads" "$@"; }
of_rlf() {
    "$rlf" bench "$1" --shape "$shape" "${typed[@]}" --threads "$threads" --seconds "$window" "${clock[@]}" |
        awk '$1 == "prefill" { print "prefill", $3 } $1 == "decode" { print $2, $7 }'
}

difference=$(head -n 60 "$source_dir/README.md" | "$rlf" score "$work/model" --compute-dtype "$dtype" --threads "$threads" | of_llama --compare | cut -f3)
echo "$shape, $dtype, $threads threads; largest difference of log-probs: $difference"
setting=${SETTING:+:$SETTING}
of_llama --steps 16 --seconds 0 "${clock[@]}" "prefill$setting" "1$setting" "16$setting" "32$setting" | sort -k1,1 -k3,3gr > "$work/settings"
awk '{ printf "  llama.cpp %-8s %-20s %10.1f\n", $1, $2, $3 }' "$work/settings"
mapfile -t fastest < <(awk '!seen[$1]++ { print $1 ":" $2 }' "$work/settings")

for ((i = 0; i < rounds; i++)); do
    for what in prefill decode; do of_rlf $what; done >> "$work/rlf"
    of_llama --seconds "$window" "${clock[@]}" "${sample[@]}" "${fastest[@]}" | awk '{ print $1, $3 }' >> "$work/llama"
done

middle_and_best() { # of rlf or llama, one measure
    awk -v m="$2" '$1 == m { print $2 }' "$work/$1" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)], v[NR] }'
}
row='%-9s %10s %10s %6s   %10s %10s %6s   %s\n'
# shellcheck disable=SC2059
printf "$row" measure rlf llama.cpp ratio 'rlf best' llama.cpp ratio setting
for m in "${fastest[@]}"; do
    echo "${m%%:*} $(middle_and_best rlf "${m%%:*}") $(middle_and_best llama "${m%%:*}") ${m#*:}"
done | awk -v row="$row" '{ printf row, $1, $2, $4, sprintf("%.2f", $2 / $4), $3, $5, sprintf("%.2f", $3 / $5), $6 }'
