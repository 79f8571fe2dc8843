#!/usr/bin/env bash
# What a CUDA card does with Qwen3's shapes in bfloat16, as one table: rlf bench beside PyTorch and transformers
# (tests/bench/torch_model.py, where python3 has both), and what is asked of it. Theirs come after all of ours, as long as there
# is time. A measurement that fails, or takes longer than it may, is a line of the table; what each printed stays in
# BUILD/gpu_bench/NAME (summary.json, error). No verdict: it asserts nothing.
#
#   tests/gpu_bench.sh BUILD
#
# From the environment, for other cards and for a try without one:
#   RLF (BUILD/trainer/rlf)   DEVICE (cuda)   SHAPES   BATCHES   CONTEXTS   TOKENS, of a training step   LENGTHS, of its sequences
#   REPEAT (1), seconds a measurement is repeated   LIMIT (90), seconds one may take   TOTAL (480), seconds all may take
# A try: DEVICE=cpu SHAPES=tiny BATCHES="1 4" CONTEXTS="64 128" TOKENS=512 LENGTHS="64 256" REPEAT=0 tests/gpu_bench.sh build
set -uo pipefail
export LC_ALL=C OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[ $# -eq 1 ] || { echo "gpu_bench.sh: expected BUILD" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd) work=$(realpath "$1")/gpu_bench
rlf=${RLF:-$(realpath "$1")/trainer/rlf} device=${DEVICE:-cuda} shapes=${SHAPES:-qwen3-0.6b qwen3-1.7b qwen3-4b qwen3-8b}
batches=${BATCHES:-1 16 64 256} contexts=${CONTEXTS:-1024 8192} tokens=${TOKENS:-32768} lengths=${LENGTHS:-1024 4096 16384}
repeat=${REPEAT:-1} limit=${LIMIT:-90} end=$((SECONDS + ${TOTAL:-480}))
one_shape=qwen3-4b # of the rows with one shape
case " $shapes " in *" $one_shape "*) ;; *) one_shape=${shapes%% *} ;; esac
longest=${lengths##* } kernel_length=8192
[ "$tokens" -ge $kernel_length ] || kernel_length=$longest

# ---- measuring

run() { # NAME, command...: what it prints is NAME's summary
    local name=$1 left=$((end - SECONDS)) status
    shift
    mkdir -p "$work/$name"
    [ $left -gt 0 ] || { echo "no time left" >"$work/$name/error"; return 1; }
    timeout -k 5 $((left < limit ? left : limit)) "$@" >"$work/$name/summary.json" 2>"$work/$name/error"
    status=$?
    [ $status -ne 124 ] || echo "stopped, out of time" >>"$work/$name/error"
    return $status
}
ours=(--device "$device" --dtype bfloat16 --seconds "$repeat" --json)
bench() { run "$1" "$rlf" bench "${@:2}" "${ours[@]}"; }
theirs() { # NAME, arguments of torch_model.py
    run "$1" python3 "$here/bench/torch_model.py" "${@:2}" --device "$device" --dtype bfloat16 --seconds "$repeat"
}

train() { # NAME, options: whatever fits: all at once, a quarter, recomputed but for attention, recomputed, a quarter and recomputed
    local quarter="--micro-tokens $((tokens / 4))" how
    for how in "" "$quarter" "--recompute --keep-attention" --recompute "--recompute $quarter"; do bench "$1" train "${@:2}" $how && return; done
}

# From the start of the process to the first token, of a checkpoint that was just written, and so is in the page cache.
measure_start() {
    local model=$work/model begin
    run init "$rlf" init --shape "$one_shape" --dtype bfloat16 --tokenizer "$here/../jobs/quickstart/tokenizer.json" -o "$model" || return
    begin=$EPOCHREALTIME
    run start "$rlf" generate "$model" --raw --prompt Who --max-tokens 1 --device "$device" &&
        awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }' >"$work/start/seconds"
    rm -rf "$model"
}

measure_ours() {
    local shape context length
    for shape in $shapes; do
        for context in $contexts; do
            bench "decode.$shape.$context" decode --shape "$shape" --batch "${batches// /,}" --context "$context"
        done
        for length in $lengths; do train "train.$shape.$length" --shape "$shape" --sequences $((tokens / length)) --length "$length"; done
    done
    if [ "$device" = cuda ]; then # products in whatever order is fastest
        context=${contexts%% *} length=${lengths%% *}
        bench "free.decode.$one_shape.$context" decode --isa free --shape "$one_shape" --batch "${batches// /,}" --context "$context"
        train "free.train.$one_shape.$length" --isa free --shape "$one_shape" --sequences $((tokens / length)) --length "$length"
    fi
    bench kernels kernels --shape "$one_shape" --sequences 1 --length "$kernel_length"
    measure_start
    run handover mpirun -q --bind-to none --oversubscribe -np 2 "$rlf" bench handover --shape "$one_shape" "${ours[@]}"
}

measure_theirs() { # at the first context and the first length
    local shape context=${contexts%% *} length=${lengths%% *}
    python3 -c 'import torch, transformers' 2>/dev/null || return
    for shape in $shapes; do
        theirs "torch.decode.$shape.$context" generate --shape "$shape" --batch "${batches// /,}" --context "$context"
        theirs "torch.train.$shape.$length" train --shape "$shape" --sequences $((tokens / length)) --length "$length"
    done
}

# ---- the table

value() { "$rlf" report "$work/$1" --get "$2" 2>/dev/null; } # NAME, KEY: nothing where it was not measured
any() { # what NAMEs begin with, KEY: of the first that has it
    local folder
    for folder in "$work/$1".*; do value "$(basename "$folder")" "$2" && return; done
}
why() { tail -n 1 "$work/$1/error" 2>/dev/null | cut -c 1-90; } # NAME: the last word of what failed
larger() { printf '%s\n' "$@" | sort -g | tail -n 1; }
line() { printf '%-36s | %-40s | %-16s | %7s | %s\n' "$@"; } # row, ours, theirs, ratio, asked

# Shares of the matrix rate that rlf measured, as shares of the larger of that and PyTorch's.
of_larger() { # SHARE
    local ours theirs
    ours=$(any decode matrix_gflops) theirs=$(any torch matrix_gflops)
    [ -z "$1" ] || awk -v x="$1" -v a="${ours:-0}" -v b="${theirs:-0}" 'BEGIN { print (b > a && a > 0 ? x * a / b : x) }'
}
rate() { # ROW, NAME, its tokens/s and share, what that is of, their tokens/s, ASKED; what was not measured is empty
    local text ratio=
    text="not measured: $(why "$2")"
    [ -z "$3" ] || text=$(printf '%.0f tokens/s' "$3")
    [ -z "$3" ] || [ -z "$4" ] || text+=$(awk -v s="$4" -v of="$5" 'BEGIN { printf ", %.1f %% of %s", 100 * s, of }')
    [ -z "$3" ] || [ -z "$6" ] || ratio=$(awk -v a="$3" -v b="$6" 'BEGIN { printf "%.1f x", a / b }')
    line "$1" "$text" "${6:+$(printf '%.0f tokens/s' "$6")}" "$ratio" "$7"
}

kernel_share() { # OP, ROWS, KEY
    awk -v op="\"$1\"," -v rows="$2," -v key="\"$3\"" -F': ' '
        { name = $1; gsub(/ /, "", name) }
        name == "\"op\"" { at = $2 }
        name == "\"rows\"" { n = $2 }
        name == key && at == op && n == rows { print $2 }' "$work/kernels/summary.json"
}
kernel() { # ROW, OP, ROWS, KEY, what it is a share of, ASKED
    local share
    share=$(kernel_share "$2" "$3" "$4")
    [ "$5" != matrix ] || share=$(of_larger "$share")
    [ -z "$share" ] || share=$(awk -v x="$share" 'BEGIN { printf "%.1f %%", 100 * x }')
    line "$1" "${share:-not measured: $(why kernels)}${share:+ of $5}" "" "" "$6"
}

decode_rows() { # SHAPE
    local context batch name i
    for context in $contexts; do
        name=decode.$1.$context i=0
        for batch in $batches; do
            rate "decode $1, $batch at $context" "$name" "$(value "$name" "decode.$i.tokens_per_s")" \
                "$(value "$name" "decode.$i.share_of_copy")" copy "$(value "torch.$name" "decode_tokens_per_s.$batch")" \
                "70 % of copy, 20 x generate"
            i=$((i + 1))
        done
    done
}

train_rows() { # SHAPE
    local length name asked="1.3 x torch.compile"
    case $1 in *-0.6b) asked="35 %, $asked" ;; *-4b | *-8b) asked="45 %, $asked" ;; esac
    for length in $lengths; do
        name=train.$1.$length
        rate "train $1, $((tokens / length)) x $length" "$name" "$(value "$name" train.tokens_per_s)" \
            "$(of_larger "$(value "$name" train.share_of_matrix)")" matrix \
            "$(larger "$(value "torch.$name" eager_tokens_per_s)" "$(value "torch.$name" compile_tokens_per_s)")" "$asked"
    done
}

exact_row() { # ROW, NAME, KEY: what exactness costs
    local ours theirs
    ours=$(value "$2" "$3") theirs=$(value "free.$2" "$3")
    rate "exactness: $1" "$2" "$ours" "" "" "$theirs" "0.9 x cuBLASLt's own choice"
}

exact_rows() {
    local batch i=0 context=${contexts%% *} length=${lengths%% *}
    [ "$device" = cuda ] || return 0
    for batch in $batches; do
        exact_row "decode $one_shape, $batch at $context" "decode.$one_shape.$context" "decode.$i.tokens_per_s"
        i=$((i + 1))
    done
    exact_row "train $one_shape, $((tokens / length)) x $length" "train.$one_shape.$length" train.tokens_per_s
}

table() {
    local shape ms start
    echo "on $(any decode device)"
    echo "GFLOP/s of a large product in bfloat16: $(any decode matrix_gflops), torch's $(any torch matrix_gflops)"
    echo "GB/s of a copy, read and written: $(any decode copy_gb_per_s)"
    line "" ours theirs ratio asked
    for shape in $shapes; do decode_rows "$shape"; train_rows "$shape"; done
    exact_rows
    kernel "attention forward, $one_shape, $kernel_length" attention "$kernel_length" share_of_matrix matrix "60 % of matrix"
    kernel "attention backward, $one_shape, $kernel_length" "attention grad" "$kernel_length" share_of_matrix matrix \
        "50 % of matrix"
    kernel "attention decode, $one_shape, 256 at 1024" attention_paged 256 share_of_copy copy "80 % of copy"
    start=$(cat "$work/start/seconds" 2>/dev/null) && start+=" s"
    line "start to first token, $one_shape" "${start:-not measured: $(why init) $(why start)}" "" "" "10 s"
    kernel "attention of a prompt, $one_shape, 1024" attention_prefill 1024 share_of_matrix matrix ""
    ms=$(value handover seconds)
    if [ -n "$ms" ]; then ms="$(awk -v s="$ms" 'BEGIN { printf "%.2f", 1000 * s }') ms, $(value handover way)"; fi
    line "hand-over $one_shape" "${ms:-not measured: $(why handover)}" "" "" "20 ms on one card"
}

rm -rf "$work"
trap table EXIT # what there is, when it is stopped too
measure_ours
measure_theirs
