#!/usr/bin/env bash
# For a machine with a CUDA card: builds, runs the tests of tests/unit/kernels on the card (RLF_TEST_DEVICE=cuda: the cards are held against
# the CPU, and Hopper's instructions against Ampere's, bit for bit), exchanges between two ranks and five (NCCL where there are two cards,
# shared memory where ranks share one), a whole job held against the CPU's; then measures (tests/gpu_bench.sh), and runs under
# compute-sanitizer's memcheck and racecheck where it is installed. Prints a line a test, and a table of figures.
# Usage: tests/gpu.sh [BUILD_FOLDER [ops|job|bench|sanitizer|all]]      RLF_GPU_BUILT=1: BUILD_FOLDER is finished (tests/gpu_bundle.sh)
set -uo pipefail
cd "$(dirname "$0")/.."
build=${1:-build} what=${2:-all}
tests="simple norm linear tensor attention attention_tiles head exact transformer"

if [ -z "${RLF_GPU_BUILT:-}" ]; then
    jobs/install.sh test || exit
    cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=ON -DRLF_CUDA=ON >/dev/null || exit
    cmake --build "$build" --target $(printf 'test_%s ' $tests) test_comm rlf-train rlf quickstart-data || exit
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || exit

export RLF_TEST_DEVICE=cuda OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
line() { # what, command...: runs it, no longer than two minutes, prints seconds and verdict, and where it failed its last words
    local what=$1 log=$logs/${1//[ ,]/_} begin=$SECONDS
    shift
    if timeout -k 5 120 "$@" >"$log" 2>&1; then
        printf '%-36s %5ds  passed\n' "$what" $((SECONDS - begin))
    else
        printf '%-36s %5ds  FAILED\n' "$what" $((SECONDS - begin))
        tail -20 "$log"
        touch "$logs/failed"
    fi
}
wanted() { [ "$what" = all ] || [ "$what" = "$1" ]; }

if wanted ops; then # several at a time: they wait for the CPU that they are held against
    for test in $tests; do line "$test" "$build/tests/test_$test" & done
    wait
    for ranks in 2 5; do line "comm, $ranks ranks" mpirun -q --oversubscribe -np $ranks "$build/tests/mpi/test_comm"; done
fi
if wanted job; then
    export RLF_SOURCE=$PWD RLF_BUILD=$(realpath "$build") RLF_E2E_WORK=$(realpath "$build")/tests/e2e/work
    line "fixture of a job" bash tests/e2e/prepare.sh
    RLF_E2E_CARDS=$RLF_BUILD/trainer/rlf-train line "job" bash tests/e2e/card.sh
fi
if wanted bench; then tests/gpu_bench.sh "$build"; fi
if wanted sanitizer && command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        for test in simple norm tensor attention attention_tiles head; do
            line "$tool $test" compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/test_$test"
        done
    done
fi
[ ! -e "$logs/failed" ]
