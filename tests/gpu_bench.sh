#!/usr/bin/env bash
# What a CUDA card does with Qwen3's shapes in bfloat16, as one table: rlf bench beside PyTorch and transformers
# (tests/bench/torch_model.py, where python3 has both), and what is asked of it. What is wanted most is measured first: operations by
# themselves, hand-over; of the first two shapes, at the first context and length, training and decoding, what exactness costs them,
# and PyTorch; then the rest, as long as there is time. A measurement that fails, or takes longer than it may, is a line of the
# table; what each printed stays in BUILD/gpu_bench/NAME (summary.json, error). No verdict: it asserts nothing.
#
#   tests/gpu_bench.sh BUILD
#
# From the environment, for other cards and for a try without one:
#   RLF (BUILD/trainer/rlf)   DEVICE (cuda)   SHAPES   BATCHES   CONTEXTS   TOKENS, of a training step   LENGTHS, of its sequences
#   REPEAT (1), seconds a measurement is repeated   LIMIT (90), seconds one may take   TOTAL (480), seconds all may take
#   OUT (BUILD), the folder of gpu_bench
# A try: DEVICE=cpu SHAPES=tiny BATCHES="1 4" CONTEXTS="64 128" TOKENS=512 LENGTHS="64 256" REPEAT=0 tests/gpu_bench.sh build
set -uo pipefail
export LC_ALL=C OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[ $# -eq 1 ] || { echo "gpu_bench.sh: expected BUILD" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd) work=$(realpath "${OUT:-$1}")/gpu_bench model=$(realpath "$1")/gpu_bench_model
rlf=${RLF:-$(realpath "$1")/trainer/rlf} device=${DEVICE:-cuda} shapes=${SHAPES:-qwen3-4b qwen3-0.6b qwen3-1.7b qwen3-8b}
batches=${BATCHES:-1 16 64 256} contexts=${CONTEXTS:-1024 8192} tokens=${TOKENS:-32768} lengths=${LENGTHS:-1024 4096 16384}
repeat=${REPEAT:-1} limit=${LIMIT:-90} end=$((SECONDS + ${TOTAL:-480}))
read -ra list <<<"$shapes"
compared=${list[*]:0:2} one_shape=${list[0]} first_context=${contexts%% *} first_length=${lengths%% *}
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
    case $status in 124 | 137) echo "stopped, out of time" >>"$work/$name/error" ;; esac
    return $status
}
done_before() { [ -e "$work/$1" ]; } # NAME
ours=(--device "$device" --dtype bfloat16 --seconds "$repeat" --json) rates=()
bench() { run "$1" "$rlf" bench "${@:2}" "${ours[@]}" "${rates[@]}"; }

decode() { # SHAPE, CONTEXT, what the name begins with, options
    local name=${3:-}decode.$1.$2
    done_before "$name" || bench "$name" decode --shape "$1" --batch "${batches// /,}" --context "$2" "${@:4}"
}

# Whatever fits: all at once, a quarter, recomputed but for attention, recomputed, a quarter and recomputed. A step has as many tokens at
# every length, so what had no room at one is not tried at the next.
quarter="--micro-tokens $((tokens / 4))"
ways=("" "$quarter" "--recompute --keep-attention" --recompute "--recompute $quarter")
declare -A way # of a shape: the first that may have room
train() { # SHAPE, LENGTH, what the name begins with, options
    local name=${3:-}train.$1.$2 i
    done_before "$name" && return
    for ((i = ${way[$1]:-0}; i < ${#ways[@]}; i++)); do
        way[$1]=$i
        bench "$name" train --shape "$1" --sequences $((tokens / $2)) --length "$2" "${@:4}" ${ways[i]} && return
        grep -q "cannot allocate" "$work/$name/error" || return
    done
    way[$1]=$i
    mkdir -p "$work/$name"
    [ -e "$work/$name/error" ] || echo "no room, as at another length" >"$work/$name/error"
}

twice() { # train or decode, SHAPE, LENGTH or CONTEXT: products in the one order, and in whatever is fastest
    "$@"
    [ "$device" != cuda ] || "$@" free. --isa free
}

theirs() { # SHAPE
    local how=(--shape "$1" --device "$device" --dtype bfloat16 --seconds "$repeat") torch=$here/bench/torch_model.py
    python3 -c 'from importlib.util import find_spec as found; exit(not (found("torch") and found("transformers")))' 2>/dev/null || return
    done_before "torch.train.$1.$first_length" && return
    run "torch.train.$1.$first_length" python3 "$torch" train "${how[@]}" --sequences $((tokens / first_length)) --length "$first_length"
    run "torch.decode.$1.$first_context" python3 "$torch" generate "${how[@]}" --batch "${batches// /,}" --context "$first_context"
}

# A checkpoint, of which start is measured: a minute of one core's work, while the card does something else.
write_model() {
    limit=200 run init "$rlf" init --shape "$one_shape" --dtype bfloat16 --tokenizer "$here/../jobs/quickstart/tokenizer.json" -o "$model"
}

# From the start of the process to the first token, of a checkpoint that was just written, and so is in the page cache.
measure_start() {
    local begin=$EPOCHREALTIME
    run start "$rlf" generate "$model" --raw --prompt Who --max-tokens 1 --device "$device" &&
        awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }' >"$work/start/seconds"
    rm -rf "$model"
}

measure() {
    local shape context length writing
    bench rates sgemm --shape tiny && rates=(--rates "$work/rates/summary.json")
    write_model &
    writing=$!
    bench kernels kernels --shape "$one_shape" --sequences 1 --length "$kernel_length"
    run handover mpirun -q --bind-to none --oversubscribe -np 2 "$rlf" bench handover --shape "$one_shape" "${ours[@]}"
    for shape in $compared; do twice train "$shape" "$first_length"; done
    wait $writing && measure_start
    for shape in $compared; do twice decode "$shape" "$first_context"; done
    for shape in $compared; do theirs "$shape"; done
    for shape in $shapes; do train "$shape" "$first_length"; decode "$shape" "$first_context"; done
    for context in $contexts; do for shape in $shapes; do decode "$shape" "$context"; done; done
    for length in $lengths; do for shape in $shapes; do train "$shape" "$length"; done; done
    for shape in $shapes; do theirs "$shape"; done
}

# ---- the table

value() { "$rlf" report "$work/$1" --get "$2" 2>/dev/null; } # NAME, KEY: nothing where it was not measured
torch_gflops() { # of the first measurement that has it
    local folder
    for folder in "$work"/torch.*; do value "$(basename "$folder")" matrix_gflops && return; done
}
why() { tail -n 1 "$work/$1/error" 2>/dev/null | cut -c 1-90; } # NAME: the last word of what failed
larger() { printf '%s\n' "$@" | sort -g | tail -n 1; }
line() { printf '%-36s | %-40s | %-16s | %7s | %s\n' "$@"; } # row, ours, theirs, ratio, asked

# Shares of the matrix rate that rlf measured, as shares of the larger of that and PyTorch's.
of_larger() { # SHARE
    local ours theirs
    ours=$(value rates matrix_gflops) theirs=$(torch_gflops)
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

exact_rows() { # SHAPE
    local batch i=0
    for batch in $batches; do
        exact_row "decode $1, $batch at $first_context" "decode.$1.$first_context" "decode.$i.tokens_per_s"
        i=$((i + 1))
    done
    exact_row "train $1, $((tokens / first_length)) x $first_length" "train.$1.$first_length" train.tokens_per_s
}

table() {
    local shape ms start
    echo "on $(value rates device || why rates)"
    echo "GFLOP/s of a large product in bfloat16: $(value rates matrix_gflops), torch's $(torch_gflops)"
    echo "GB/s of a copy, read and written: $(value rates copy_gb_per_s)"
    line "" ours theirs ratio asked
    for shape in $shapes; do decode_rows "$shape"; train_rows "$shape"; done
    if [ "$device" = cuda ]; then for shape in $compared; do exact_rows "$shape"; done; fi
    kernel "product of gate and up, $one_shape, $kernel_length" gate_up "$kernel_length" share_of_matrix matrix ""
    kernel "product of gate and up, $one_shape, 1" gate_up 1 share_of_copy copy ""
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

rm -rf "$work" "$model"
mkdir -p "$work"
trap 'rm -rf "$model"; table | tee "$work/table"' EXIT # what there is, when it is stopped too
measure
