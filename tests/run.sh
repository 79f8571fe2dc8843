#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test. Arguments go to ctest:  tests/run.sh -R kernels
set -euo pipefail
cd "$(dirname "$0")/.."
jobs/install.sh test
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBUILD_TESTING=ON >/dev/null
cmake --build build
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ctest --test-dir build --parallel 2 --output-on-failure "$@" # those that time or share something run alone all the same
