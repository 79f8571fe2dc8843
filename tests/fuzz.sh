#!/usr/bin/env bash
# Fuzzes every decoder, two at a time, each for RLF_FUZZ_SECONDS (60): builds the libFuzzer programs with clang in build-fuzz and runs them by ctest.
# A finding is left in build-fuzz/tests/fuzz as crash-*, with what it was found by in ctest's output. Arguments go to ctest:  tests/fuzz.sh -R messages
set -euo pipefail
cd "$(dirname "$0")/.."
jobs/install.sh test
cmake -S . -B build-fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=clang -DRLF_FUZZ=ON "-DRLF_FUZZ_SECONDS=${RLF_FUZZ_SECONDS:-60}" >/dev/null
targets=()
for source in tests/fuzz/fuzz_*.c; do targets+=("$(basename "$source" .c)"); done
cmake --build build-fuzz --target "${targets[@]}"
ctest --test-dir build-fuzz -L fuzz --parallel 2 --output-on-failure "$@"
