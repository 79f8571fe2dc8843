# Shared by the scripts beside it: where things are, how a job is started, what a check prints. A script is given, by ctest:
#   RLF_SOURCE, RLF_BUILD   the tree and its build folder
#   RLF_E2E_WORK            a folder for what tests make; prepare.sh leaves a small trained model and its data there
#   RLF_SHARED              real data, not part of the tree; may not exist
# One check that fails ends the script, with a line that says what was expected.
set -uo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none LC_ALL=C
: "${RLF_SOURCE:?}" "${RLF_BUILD:?}" "${RLF_E2E_WORK:?}"
rlf=$RLF_BUILD/trainer/rlf
rlf_train=$RLF_BUILD/trainer/rlf-train
fixture=$RLF_E2E_WORK/fixture
SKIPPED=77

fail() { echo "FAILED: $*" >&2; exit 1; }
skip() { echo "skipped: $*"; exit $SKIPPED; }

# A folder of this script's own, empty.
fresh_work() {
    work=$RLF_E2E_WORK/$1
    rm -rf "$work"
    mkdir -p "$work"
}

# Ranks share the cores, hence oversubscribed and not bound. Its own words are left out (-q).
launch() { # ranks, arguments of rlf-train...
    local ranks=$1
    shift
    mpirun -q --bind-to none --oversubscribe -np "$ranks" "$rlf_train" "$@"
}

# A job that has to end well; its output is shown where it does not.
train() { # name, ranks, arguments...
    local name=$1 ranks=$2 started=$SECONDS
    shift 2
    launch "$ranks" "$@" log.progress=false >"$work/$name.log" 2>&1 || { tail -n 40 "$work/$name.log" >&2; fail "$name ended with an error"; }
    echo "  $name: $ranks ranks, $((SECONDS - started)) s"
}

# The errors of a run: standard error without what the launcher itself says (its blocks lie between lines of dashes, its signal
# reports begin with the host in brackets, its event loop's with [warn]) and without log lines.
own_lines() {
    awk '/^-{20,}/ {notice = !notice; next} notice {next} /^\[[^ ]*:[0-9]+\]/ {next} /^\[warn\] / {next} /^$/ {next} /^[0-9:.]+ rank [0-9]+ [a-z ]+(debug|info|warn) / {next} {print}' "$1"
}

same_file() { cmp "$1" "$2" || fail "$1 and $2 differ"; }

same_checkpoint() { # two checkpoint folders
    local file
    for file in model.safetensors optimizer.safetensors run_state.json; do same_file "$1/$file" "$2/$file"; done
}

# Every file below a folder with its checksum, to compare before and after.
checksums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0r cksum); }

# The numbers under a key of a JSONL file, one a line, in order: keys are unique within our lines unless nested under seconds and the like.
numbers() { # file, key
    grep -o "\"$2\": *-\{0,1\}[0-9][-+.0-9eE]*" "$1" | sed 's/^[^:]*: *//'
}

# Learner and rollout agree on every token of every step, to the bit.
exact_log_probs() { # run folder, steps
    local metrics=$1/metrics.jsonl key
    for key in logprob_diff_max logprob_mismatches; do
        [ "$(numbers "$metrics" $key | wc -l)" -eq "$2" ] || fail "$metrics: expected $key on $2 lines"
        numbers "$metrics" $key | awk '$1 != 0 {exit 1}' || fail "$metrics: $key is not 0: $(numbers "$metrics" $key | tr '\n' ' ')"
    done
}

# The job of rl.yaml with the model, data and index of prepare.sh. Arguments: name (its run folder is $work/NAME), ranks, overrides.
rl() {
    local name=$1 ranks=$2
    shift 2
    train "$name" "$ranks" "${rl_job[@]}" output="$work/$name" "$@"
}
rl_job=("$RLF_SOURCE/tests/e2e/rl.yaml" model.path="$fixture/cold/final" data.train="$fixture/data/train.jsonl" tools.0.path="$fixture/data/corpus.idx")

# ---- jobs that do not end by themselves ----

# Starts a job in the background: $job is the process to wait for. Only processes below it are ever signalled.
start_job() { # log file, ranks, arguments...
    local log=$1 ranks=$2
    shift 2
    mpirun -q --bind-to none --oversubscribe -np "$ranks" "$rlf_train" "$@" log.progress=false >"$log" 2>&1 &
    job=$!
}

# The processes of the job's ranks.
ranks_of_job() { pgrep -P "$job"; }

# The process of one rank.
process_of_rank() {
    local process
    for process in $(ranks_of_job); do
        grep -qzx "OMPI_COMM_WORLD_RANK=$1" "/proc/$process/environ" 2>/dev/null && echo "$process" && return
    done
}

steps_done() { if [ -f "$1/metrics.jsonl" ]; then grep -c '"step"' "$1/metrics.jsonl"; else echo 0; fi; }

# Waits until a run has done so many steps.
await_steps() { # run folder, steps
    local end=$((SECONDS + 60))
    while [ "$(steps_done "$1")" -lt "$2" ]; do
        kill -0 "$job" 2>/dev/null || fail "the job ended before step $2 of $1"
        [ $SECONDS -lt $end ] || fail "$1 did not reach step $2 within 60 s"
        sleep 0.02
    done
}
