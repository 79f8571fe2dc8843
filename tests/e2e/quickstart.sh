#!/usr/bin/env bash
# jobs/quickstart.sh up to its first training job: a start that was interrupted is started over, and a folder of one seed is not taken for another's.
# Stand-ins for what installs and builds, and for the launcher, which fails at once.
source "$(dirname "$0")/lib.sh"
fresh_work quickstart
tree=$work/tree tools=$work/tools
mkdir -p "$tree" "$tools"
ln -s "$RLF_SOURCE/jobs" "$tree/jobs"
ln -s "$RLF_BUILD" "$tree/build"
stand_in() { printf '#!/bin/sh\n%s\n' "$2" >"$tools/$1" && chmod +x "$tools/$1"; }
stand_in dpkg-query 'printf installed'
stand_in cmake 'exit 0'
stand_in mpirun 'echo "launched $*"; exit 3'

quickstart() { # log, expected status, arguments...
    local log=$work/$1 expected=$2 status
    shift 2
    PATH=$tools:$PATH bash "$tree/jobs/quickstart.sh" "$@" >"$log" 2>&1
    status=$?
    [ $status -eq "$expected" ] || { cat "$log" >&2; fail "quickstart.sh $*: status $status, expected $expected"; }
}

mkdir -p "$tree/runs/quickstart/data" "$tree/runs/quickstart/init"
echo "cut" >"$tree/runs/quickstart/init/model.safetensors"
quickstart first.log 3 2
grep -q "^launched .*mode=eval.* seed=2$" "$work/first.log" || { cat "$work/first.log" >&2; fail "after an interrupted start: no job was launched"; }
checksums "$tree/runs/quickstart" >"$work/before"
quickstart again.log 3 2
grep -q "Facts, made-up worlds" "$work/again.log" && fail "the data was made again"
quickstart other.log 1
grep -q "runs/quickstart is of seed 2: remove it to start over with seed 1" "$work/other.log" || fail "another seed: $(cat "$work/other.log")"
checksums "$tree/runs/quickstart" | cmp - "$work/before" || fail "another seed: files were changed"
echo "the quickstart starts over after an interrupted start, and refuses a folder of another seed"
