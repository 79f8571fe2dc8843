#!/usr/bin/env bash
# For a machine with a CUDA card: builds, opens the card, runs the tests of tests/unit/kernels on it (RLF_TEST_DEVICE=cuda: the cards are held
# against the CPU, and Hopper's instructions against Ampere's, bit for bit), exchanges between two ranks and five (NCCL where there are two cards,
# shared memory where ranks share one), a whole job held against the CPU's; then measures (tests/gpu_bench.sh), and runs under
# compute-sanitizer's memcheck and racecheck where it is installed. Prints a line a test, and a table of figures.
# Usage: tests/gpu.sh [BUILD_FOLDER [ops|job|bench|sanitizer|all]...]    RLF_GPU_BUILT=1: BUILD_FOLDER is finished (tests/gpu_bundle.sh)
# Ten minutes should have room for "ops job", or for "bench", not for both; "sanitizer" takes longer. What each test printed stays in OUT/gpu, the
# figures in OUT/gpu_bench (OUT: BUILD_FOLDER).
set -uo pipefail
cd "$(dirname "$0")/.."
build=${1:-build} what=" ${*:2} "
[ $# -ge 2 ] || what=" all "
for part in $what; do
    case $part in ops | job | bench | sanitizer | all) ;; *) echo "gpu.sh: expected ops, job, bench, sanitizer or all, found $part" >&2; exit 2 ;; esac
done
tests="simple norm linear tensor attention attention_tiles head exact transformer"

if [ -z "${RLF_GPU_BUILT:-}" ]; then
    jobs/install.sh test || exit
    cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=ON -DRLF_CUDA=ON >/dev/null || exit
    cmake --build "$build" --target $(printf 'test_%s ' $tests) test_comm rlf-train rlf quickstart-data || exit
fi
timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null

export RLF_TEST_DEVICE=cuda OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
logs=$(realpath "${OUT:-$build}")/gpu
mkdir -p "$logs" && rm -f "$logs/failed" || exit
log_of() { echo "$logs/${1//[ ,]/_}"; }
line() { # what, seconds it may take, command...: prints how long it took, the verdict, and where it failed its last words
    local what=$1 log begin=$SECONDS status verdict=FAILED
    log=$(log_of "$what")
    timeout -k 5 "$2" "${@:3}" >"$log" 2>&1
    status=$?
    case $status in 0) verdict=passed ;; 124 | 137) verdict="out of time" ;; esac
    printf '%-36s %5ds  %s\n' "$what" $((SECONDS - begin)) "$verdict"
    [ $status -eq 0 ] || { tail -n 12 "$log"; touch "$logs/failed"; }
    return $status
}
op() { # a test; one that fails again with a wait after each launch, so that it is the launch to blame that fails
    line "$1" 120 "$build/tests/test_$1"
    case $? in 0 | 124 | 137) return ;; esac
    CUDA_LAUNCH_BLOCKING=1 line "$1, launch by launch" 60 "$build/tests/test_$1"
}
wanted() { case $what in *" all "* | *" $1 "*) ;; *) return 1 ;; esac }

# Its check of Hopper's kernels (kernels/cuda/check.c) and its name; without it the rest would only fail.
line "card" 60 "$build/trainer/rlf" bench sgemm --shape tiny --dtype bfloat16 --device cuda --seconds 0 || exit
cat "$(log_of card)"

if wanted ops; then # several at a time: they wait for the CPU that they are held against
    for test in $tests; do op "$test" & done
    wait
    for ranks in 2 5; do line "comm, $ranks ranks" 120 mpirun -q --oversubscribe -np $ranks "$build/tests/mpi/test_comm"; done
fi
if wanted job; then
    export RLF_SOURCE=$PWD RLF_BUILD=$(realpath "$build") RLF_E2E_WORK=$(realpath "$build")/tests/e2e/work
    line "fixture of a job" 120 bash tests/e2e/prepare.sh &&
        RLF_E2E_CARDS=$RLF_BUILD/trainer/rlf-train line "job" 300 bash tests/e2e/card.sh
fi
if wanted bench; then tests/gpu_bench.sh "$build"; fi
if wanted sanitizer && command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        for test in simple norm tensor attention attention_tiles head; do
            line "$tool $test" 120 compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/test_$test"
        done
    done
fi
[ ! -e "$logs/failed" ]
